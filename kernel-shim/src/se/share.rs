//! Sharing of files, and what access a request needs.

use crate::api::nt_api;
use crate::nt::{FILE_OBJECT, GENERIC_MAPPING, NtStatus, SHARE_ACCESS};
use crate::raw::{DataCell, Ptr};
use crate::value::{Boolean, UChar, ULong};

/// FILE_EXECUTE | FILE_READ_DATA.
const READ: u32 = 0x21;
/// FILE_WRITE_DATA | FILE_APPEND_DATA.
const WRITE: u32 = 6;
/// DELETE.
const DELETE: u32 = 0x0001_0000;

/// The rights of files.
pub const FILE_MAPPING: GENERIC_MAPPING = GENERIC_MAPPING {
    GenericRead: 0x0012_0089,
    GenericWrite: 0x0012_0116,
    GenericExecute: 0x0012_00A0,
    GenericAll: 0x001F_01FF,
};

/// What drivers get a pointer to.
static MAPPING: DataCell<GENERIC_MAPPING> = DataCell::new(FILE_MAPPING);

/// Read, write and delete of an opening, and what it shares.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    access: [bool; 3],
    shared: [bool; 3],
}

impl Sharing {
    /// Of a wish: an access mask and FILE_SHARE_ bits.
    #[must_use]
    pub const fn new(access: u32, share: u32) -> Self {
        Self {
            access: [
                access & READ != 0,
                access & WRITE != 0,
                access & DELETE != 0,
            ],
            shared: [share & 1 != 0, share & 2 != 0, share & 4 != 0],
        }
    }

    fn of_file(file: &FILE_OBJECT) -> Self {
        Self {
            access: [
                file.ReadAccess != 0,
                file.WriteAccess != 0,
                file.DeleteAccess != 0,
            ],
            shared: [
                file.SharedRead != 0,
                file.SharedWrite != 0,
                file.SharedDelete != 0,
            ],
        }
    }

    /// Nothing is shared or counted for an opening that neither reads, writes nor deletes.
    fn is_any(&self) -> bool {
        self.access.contains(&true)
    }

    /// Writes it to a file object.
    pub fn mark(&self, file: Ptr<FILE_OBJECT>) {
        let [read, write, delete] = self.access.map(u8::from);
        let shared = if self.is_any() {
            self.shared
        } else {
            [false; 3]
        };
        let [share_read, share_write, share_delete] = shared.map(u8::from);
        file.with(|file| {
            (file.ReadAccess, file.WriteAccess, file.DeleteAccess) = (read, write, delete);
            (file.SharedRead, file.SharedWrite, file.SharedDelete) =
                (share_read, share_write, share_delete);
        });
    }

    /// Whether the openings counted so far allow it, and it them.
    #[must_use]
    pub fn fits(&self, counted: &SHARE_ACCESS) -> bool {
        let others = [counted.Readers, counted.Writers, counted.Deleters];
        let sharing = [
            counted.SharedRead,
            counted.SharedWrite,
            counted.SharedDelete,
        ];
        !self.is_any()
            || (0..3).all(|kind| {
                (!self.access[kind] || sharing[kind] >= counted.OpenCount)
                    && (others[kind] == 0 || self.shared[kind])
            })
    }

    /// Counts it.
    #[must_use]
    pub fn added(&self, counted: SHARE_ACCESS) -> SHARE_ACCESS {
        self.count(counted, |count, by| count.wrapping_add(by))
    }

    /// Does not count it any more.
    #[must_use]
    pub fn removed(&self, counted: SHARE_ACCESS) -> SHARE_ACCESS {
        self.count(counted, |count, by| count.wrapping_sub(by))
    }

    fn count(&self, mut counted: SHARE_ACCESS, change: impl Fn(u32, u32) -> u32) -> SHARE_ACCESS {
        if !self.is_any() {
            return counted;
        }
        counted.OpenCount = change(counted.OpenCount, 1);
        let flags = self.access.into_iter().chain(self.shared);
        let counts = [
            &mut counted.Readers,
            &mut counted.Writers,
            &mut counted.Deleters,
            &mut counted.SharedRead,
            &mut counted.SharedWrite,
            &mut counted.SharedDelete,
        ];
        for (count, is_set) in counts.into_iter().zip(flags) {
            *count = change(*count, u32::from(is_set));
        }
        counted
    }
}

/// The access that a major function needs on a handle; `None`: it has no rule.
fn needed(major: u8, control_code: u32) -> Option<u32> {
    Some(match major {
        3 => 1,                            // IRP_MJ_READ: FILE_READ_DATA
        4 => 6,                            // IRP_MJ_WRITE: FILE_WRITE_DATA or FILE_APPEND_DATA
        7 => 8,                            // IRP_MJ_QUERY_EA: FILE_READ_EA
        8 => 0x10,                         // IRP_MJ_SET_EA: FILE_WRITE_EA
        12 => 1,                           // IRP_MJ_DIRECTORY_CONTROL: FILE_LIST_DIRECTORY
        13 | 14 => control_code >> 14 & 3, // FILE_READ_ACCESS and FILE_WRITE_ACCESS are the data rights
        _ => return None,
    })
}

nt_api! { module = se_share;
    /// IoGetFileObjectGenericMapping.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoGetFileObjectGenericMapping() -> Ptr<GENERIC_MAPPING> {
        MAPPING.ptr()
    }

    /// IoSetShareAccess: the first opening of a file.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoSetShareAccess(
        desired_access: ULong, desired_share_access: ULong, file_object: Ptr<FILE_OBJECT>,
        share_access: Ptr<SHARE_ACCESS>,
    ) {
        let sharing = Sharing::new(desired_access, desired_share_access);
        sharing.mark(file_object);
        share_access.write(sharing.added(SHARE_ACCESS::default()));
    }

    /// IoCheckShareAccess: another opening. SHARING_VIOLATION: it and those before it exclude each other.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCheckShareAccess(
        desired_access: ULong, desired_share_access: ULong, file_object: Ptr<FILE_OBJECT>,
        share_access: Ptr<SHARE_ACCESS>, update: Boolean,
    ) -> NtStatus {
        let sharing = Sharing::new(desired_access, desired_share_access);
        let counted = share_access.read();
        sharing.mark(file_object);
        if !sharing.fits(&counted) {
            return NtStatus::SHARING_VIOLATION;
        }
        if update {
            share_access.write(sharing.added(counted));
        }
        NtStatus::SUCCESS
    }

    /// IoUpdateShareAccess: counts a file object as it is marked.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUpdateShareAccess(file_object: Ptr<FILE_OBJECT>, share_access: Ptr<SHARE_ACCESS>) {
        let sharing = Sharing::of_file(&file_object.read());
        share_access.write(sharing.added(share_access.read()));
    }

    /// IoRemoveShareAccess: a file object is being closed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRemoveShareAccess(file_object: Ptr<FILE_OBJECT>, share_access: Ptr<SHARE_ACCESS>) {
        let sharing = Sharing::of_file(&file_object.read());
        share_access.write(sharing.removed(share_access.read()));
    }

    /// IoCheckFunctionAccess: whether the access of a handle suffices for a request.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("requests for file, volume and security information are all allowed")
    fn IoCheckFunctionAccess(
        granted_access: ULong, major_function: UChar, minor_function: UChar, io_control_code: ULong,
        file_information_class: Ptr<u32>, fs_information_class: Ptr<u32>,
    ) -> NtStatus {
        let is_allowed = match needed(major_function, io_control_code) {
            // A write needs one of its two rights, a control code all of its.
            Some(rights) if major_function == 4 => granted_access & rights != 0,
            Some(rights) => granted_access & rights == rights,
            None => true,
        };
        if is_allowed { NtStatus::SUCCESS } else { NtStatus::ACCESS_DENIED }
    }

    /// IoCheckQuotaBufferValidity's and IoCheckEaBufferValidity's common rule, for extended attributes: entries linked
    /// by offsets, each with its name closed by NUL. EA_LIST_INCONSISTENT: the error offset says where.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoCheckEaBufferValidity(ea_buffer: Ptr<u8>, ea_length: ULong, error_offset: Ptr<u32>) -> NtStatus {
        let length = u64::from(ea_length);
        let mut at = 0;
        loop {
            let entry = ea_buffer.add_bytes(at);
            let is_whole = |bytes: u64| at + bytes <= length;
            if !is_whole(8) {
                break;
            }
            let next = u64::from(entry.cast::<u32>().read());
            let name = u64::from(entry.add_bytes(5).read());
            let value = u64::from(entry.add_bytes(6).cast::<u16>().read());
            let bytes = 8 + name + 1 + value;
            if !is_whole(bytes) || entry.add_bytes(8 + name).read() != 0 {
                break;
            }
            if next == 0 {
                return NtStatus::SUCCESS;
            }
            if next < bytes || next % 4 != 0 || at + next > length {
                break;
            }
            at += next;
        }
        error_offset.write(crate::raw::low32(at));
        NtStatus::EA_LIST_INCONSISTENT
    }
}
