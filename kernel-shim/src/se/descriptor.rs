//! Security descriptors: absolute ones with pointers, self-relative ones with offsets.

use alloc::vec::Vec;

use super::acl;
use super::sid::{self, RtlValidSid};
use crate::api::nt_api;
use crate::nt::{NtStatus, SECURITY_DESCRIPTOR, SECURITY_DESCRIPTOR_RELATIVE};
use crate::raw::{Ptr, Word, low32, to_usize};
use crate::value::{Boolean, UChar, ULong};

/// SE_OWNER_DEFAULTED.
pub const OWNER_DEFAULTED: u16 = 1;
/// SE_GROUP_DEFAULTED.
pub const GROUP_DEFAULTED: u16 = 2;
/// SE_DACL_PRESENT.
pub const DACL_PRESENT: u16 = 4;
/// SE_DACL_DEFAULTED.
pub const DACL_DEFAULTED: u16 = 8;
/// SE_SACL_PRESENT.
pub const SACL_PRESENT: u16 = 0x10;
/// SE_SACL_DEFAULTED.
pub const SACL_DEFAULTED: u16 = 0x20;
/// SE_SELF_RELATIVE.
pub const SELF_RELATIVE: u16 = 0x8000;
/// Bytes of the head of a self-relative descriptor.
pub const RELATIVE_BYTES: u64 = size_of::<SECURITY_DESCRIPTOR_RELATIVE>() as u64;

/// Where the four parts of a descriptor are, whatever its form; null: absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// SE_ flags.
    pub control: u16,
    /// SID.
    pub owner: Ptr<u8>,
    /// SID.
    pub group: Ptr<u8>,
    /// ACL; null with [`SACL_PRESENT`]: an empty pointer.
    pub sacl: Ptr<u8>,
    /// ACL; null with [`DACL_PRESENT`]: everything is allowed.
    pub dacl: Ptr<u8>,
}

fn control_of(descriptor: Ptr<u8>) -> u16 {
    descriptor.add_bytes(2).cast::<u16>().read()
}

impl Parts {
    /// Reads a descriptor.
    #[must_use]
    pub fn read(descriptor: Ptr<u8>) -> Self {
        let control = control_of(descriptor);
        let present = |flag: u16, part: Ptr<u8>| {
            if control & flag == 0 {
                Ptr::null()
            } else {
                part
            }
        };
        if control & SELF_RELATIVE != 0 {
            let head = descriptor.cast::<SECURITY_DESCRIPTOR_RELATIVE>().read();
            let part = |offset: u32| {
                if offset == 0 {
                    Ptr::null()
                } else {
                    descriptor.add_bytes(u64::from(offset))
                }
            };
            Self {
                control,
                owner: part(head.Owner),
                group: part(head.Group),
                sacl: present(SACL_PRESENT, part(head.Sacl)),
                dacl: present(DACL_PRESENT, part(head.Dacl)),
            }
        } else {
            let head = descriptor.cast::<SECURITY_DESCRIPTOR>().read();
            Self {
                control,
                owner: head.Owner,
                group: head.Group,
                sacl: present(SACL_PRESENT, head.Sacl),
                dacl: present(DACL_PRESENT, head.Dacl),
            }
        }
    }

    /// The bytes of each part: owner, group, SACL, DACL.
    fn lengths(&self) -> [u64; 4] {
        let sid = |at: Ptr<u8>| if at.is_null() { 0 } else { sid::length(at) };
        let acl = |at: Ptr<u8>| if at.is_null() { 0 } else { acl::size(at) };
        [
            sid(self.owner),
            sid(self.group),
            acl(self.sacl),
            acl(self.dacl),
        ]
    }

    /// As a self-relative descriptor: head, SACL, DACL, owner, group, as NT orders them.
    #[must_use]
    pub fn to_relative(self) -> Vec<u8> {
        let [owner, group, sacl, dacl] = self.lengths();
        let mut bytes = alloc::vec![0; to_usize(RELATIVE_BYTES)];
        let mut append = |at: Ptr<u8>, length: u64| {
            if length == 0 {
                return 0;
            }
            let offset = low32(bytes.len() as u64);
            bytes.extend(at.read_slice(to_usize(length)));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            offset
        };
        let sacl = append(self.sacl, sacl);
        let dacl = append(self.dacl, dacl);
        let owner = append(self.owner, owner);
        let group = append(self.group, group);
        let control = self.control | SELF_RELATIVE;
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&control.to_le_bytes());
        for (index, offset) in [owner, group, sacl, dacl].into_iter().enumerate() {
            bytes[4 + 4 * index..8 + 4 * index].copy_from_slice(&offset.to_le_bytes());
        }
        bytes
    }
}

/// Whether a descriptor is well-formed, in either form.
#[must_use]
pub fn is_valid(descriptor: Ptr<u8>) -> bool {
    if descriptor.is_null() || descriptor.read() != 1 {
        return false;
    }
    let parts = Parts::read(descriptor);
    (parts.owner.is_null() || RtlValidSid(parts.owner))
        && (parts.group.is_null() || RtlValidSid(parts.group))
        && (parts.sacl.is_null() || acl::is_valid(parts.sacl))
        && (parts.dacl.is_null() || acl::is_valid(parts.dacl))
}

/// Whether `bytes` at an address are a well-formed self-relative descriptor that has the parts asked for
/// (SECURITY_INFORMATION bits). Nothing behind `bytes` is looked at.
#[must_use]
pub fn is_valid_relative(descriptor: Ptr<u8>, bytes: u64, required: u32) -> bool {
    if descriptor.is_null() || bytes < RELATIVE_BYTES || descriptor.read() != 1 {
        return false;
    }
    let head = descriptor.cast::<SECURITY_DESCRIPTOR_RELATIVE>().read();
    if head.Control & SELF_RELATIVE == 0 {
        return false;
    }
    let fits = |offset: u32, minimum: u64| {
        let offset = u64::from(offset);
        offset.is_multiple_of(4) && offset >= RELATIVE_BYTES && offset + minimum <= bytes
    };
    let is_sid = |offset: u32, is_required: bool| {
        if offset == 0 {
            return !is_required;
        }
        let at = descriptor.add_bytes(u64::from(offset));
        fits(offset, 8) && RtlValidSid(at) && fits(offset, sid::length(at))
    };
    let is_acl = |offset: u32, flag: u16, is_required: bool| {
        if head.Control & flag == 0 {
            return !is_required;
        }
        if offset == 0 {
            return true;
        }
        let at = descriptor.add_bytes(u64::from(offset));
        fits(offset, acl::ACL_BYTES) && fits(offset, acl::size(at)) && acl::is_valid(at)
    };
    is_sid(head.Owner, required & 1 != 0)
        && is_sid(head.Group, required & 2 != 0)
        && is_acl(head.Dacl, DACL_PRESENT, required & 4 != 0)
        && is_acl(head.Sacl, SACL_PRESENT, required & 8 != 0)
}

fn length(descriptor: Ptr<u8>) -> u64 {
    let head = if control_of(descriptor) & SELF_RELATIVE == 0 {
        size_of::<SECURITY_DESCRIPTOR>() as u64
    } else {
        RELATIVE_BYTES
    };
    Parts::read(descriptor)
        .lengths()
        .iter()
        .fold(head, |sum, length| sum + length.next_multiple_of(4))
}

/// Changes an absolute descriptor of the known revision.
fn set(
    descriptor: Ptr<SECURITY_DESCRIPTOR>,
    change: impl FnOnce(&mut SECURITY_DESCRIPTOR),
) -> NtStatus {
    let head: Ptr<u8> = descriptor.cast();
    if head.read() != 1 {
        return NtStatus::UNKNOWN_REVISION;
    }
    if control_of(head) & SELF_RELATIVE != 0 {
        return NtStatus::INVALID_SECURITY_DESCR;
    }
    descriptor.with(change);
    NtStatus::SUCCESS
}

fn flag(control: &mut u16, flag: u16, is_set: bool) {
    *control = if is_set {
        *control | flag
    } else {
        *control & !flag
    };
}

/// What RtlGetDaclSecurityDescriptor and its twin answer.
fn get_acl(
    descriptor: Ptr<u8>,
    (present_flag, defaulted_flag): (u16, u16),
    present: Ptr<u8>,
    acl: Ptr<Word>,
    defaulted: Ptr<u8>,
) -> NtStatus {
    if descriptor.read() != 1 {
        return NtStatus::UNKNOWN_REVISION;
    }
    let parts = Parts::read(descriptor);
    let is_present = parts.control & present_flag != 0;
    present.write(u8::from(is_present));
    if is_present {
        let part = if present_flag == DACL_PRESENT {
            parts.dacl
        } else {
            parts.sacl
        };
        acl.write(part.word());
        defaulted.write(u8::from(parts.control & defaulted_flag != 0));
    }
    NtStatus::SUCCESS
}

fn get_sid(descriptor: Ptr<u8>, is_owner: bool, sid: Ptr<Word>, defaulted: Ptr<u8>) -> NtStatus {
    if descriptor.read() != 1 {
        return NtStatus::UNKNOWN_REVISION;
    }
    let parts = Parts::read(descriptor);
    let (part, flag) = if is_owner {
        (parts.owner, OWNER_DEFAULTED)
    } else {
        (parts.group, GROUP_DEFAULTED)
    };
    sid.write(part.word());
    defaulted.write(u8::from(parts.control & flag != 0));
    NtStatus::SUCCESS
}

nt_api! { module = se_descriptor;
    /// RtlCreateSecurityDescriptor: an empty absolute descriptor. UNKNOWN_REVISION: not revision 1.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlCreateSecurityDescriptor(security_descriptor: Ptr<SECURITY_DESCRIPTOR>, revision: ULong) -> NtStatus {
        if revision != 1 {
            return NtStatus::UNKNOWN_REVISION;
        }
        security_descriptor.write(SECURITY_DESCRIPTOR { Revision: 1, ..SECURITY_DESCRIPTOR::default() });
        NtStatus::SUCCESS
    }

    /// RtlValidSecurityDescriptor.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlValidSecurityDescriptor(security_descriptor: Ptr<u8>) -> Boolean {
        is_valid(security_descriptor)
    }

    /// RtlValidRelativeSecurityDescriptor.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlValidRelativeSecurityDescriptor(
        security_descriptor: Ptr<u8>, security_descriptor_length: ULong, required_information: ULong,
    ) -> Boolean {
        is_valid_relative(security_descriptor, u64::from(security_descriptor_length), required_information)
    }

    /// RtlLengthSecurityDescriptor: bytes of a descriptor with its parts, each rounded up to 4.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlLengthSecurityDescriptor(security_descriptor: Ptr<u8>) -> ULong {
        low32(length(security_descriptor))
    }

    /// RtlSetDaclSecurityDescriptor. INVALID_SECURITY_DESCR: it is self-relative.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSetDaclSecurityDescriptor(
        security_descriptor: Ptr<SECURITY_DESCRIPTOR>, dacl_present: Boolean, dacl: Ptr<u8>, dacl_defaulted: Boolean,
    ) -> NtStatus {
        set(security_descriptor, |descriptor| {
            flag(&mut descriptor.Control, DACL_PRESENT, dacl_present);
            if dacl_present {
                descriptor.Dacl = dacl;
                flag(&mut descriptor.Control, DACL_DEFAULTED, dacl_defaulted);
            }
        })
    }

    /// RtlSetSaclSecurityDescriptor. INVALID_SECURITY_DESCR: it is self-relative.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSetSaclSecurityDescriptor(
        security_descriptor: Ptr<SECURITY_DESCRIPTOR>, sacl_present: Boolean, sacl: Ptr<u8>, sacl_defaulted: Boolean,
    ) -> NtStatus {
        set(security_descriptor, |descriptor| {
            flag(&mut descriptor.Control, SACL_PRESENT, sacl_present);
            if sacl_present {
                descriptor.Sacl = sacl;
                flag(&mut descriptor.Control, SACL_DEFAULTED, sacl_defaulted);
            }
        })
    }

    /// RtlSetOwnerSecurityDescriptor. INVALID_SECURITY_DESCR: it is self-relative.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSetOwnerSecurityDescriptor(
        security_descriptor: Ptr<SECURITY_DESCRIPTOR>, owner: Ptr<u8>, owner_defaulted: Boolean,
    ) -> NtStatus {
        set(security_descriptor, |descriptor| {
            descriptor.Owner = owner;
            flag(&mut descriptor.Control, OWNER_DEFAULTED, owner_defaulted);
        })
    }

    /// RtlSetGroupSecurityDescriptor. INVALID_SECURITY_DESCR: it is self-relative.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSetGroupSecurityDescriptor(
        security_descriptor: Ptr<SECURITY_DESCRIPTOR>, group: Ptr<u8>, group_defaulted: Boolean,
    ) -> NtStatus {
        set(security_descriptor, |descriptor| {
            descriptor.Group = group;
            flag(&mut descriptor.Control, GROUP_DEFAULTED, group_defaulted);
        })
    }

    /// RtlGetDaclSecurityDescriptor: pointer and defaulted flag are written only when there is a DACL.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlGetDaclSecurityDescriptor(
        security_descriptor: Ptr<u8>, dacl_present: Ptr<UChar>, dacl: Ptr<Word>, dacl_defaulted: Ptr<UChar>,
    ) -> NtStatus {
        get_acl(security_descriptor, (DACL_PRESENT, DACL_DEFAULTED), dacl_present, dacl, dacl_defaulted)
    }

    /// RtlGetSaclSecurityDescriptor: pointer and defaulted flag are written only when there is a SACL.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlGetSaclSecurityDescriptor(
        security_descriptor: Ptr<u8>, sacl_present: Ptr<UChar>, sacl: Ptr<Word>, sacl_defaulted: Ptr<UChar>,
    ) -> NtStatus {
        get_acl(security_descriptor, (SACL_PRESENT, SACL_DEFAULTED), sacl_present, sacl, sacl_defaulted)
    }

    /// RtlGetOwnerSecurityDescriptor: null when there is no owner.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlGetOwnerSecurityDescriptor(
        security_descriptor: Ptr<u8>, owner: Ptr<Word>, owner_defaulted: Ptr<UChar>,
    ) -> NtStatus {
        get_sid(security_descriptor, true, owner, owner_defaulted)
    }

    /// RtlGetGroupSecurityDescriptor: null when there is no group.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlGetGroupSecurityDescriptor(
        security_descriptor: Ptr<u8>, group: Ptr<Word>, group_defaulted: Ptr<UChar>,
    ) -> NtStatus {
        get_sid(security_descriptor, false, group, group_defaulted)
    }

    /// RtlAbsoluteToSelfRelativeSD. BAD_DESCRIPTOR_FORMAT: it is self-relative already; BUFFER_TOO_SMALL: the length
    /// says what is needed.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAbsoluteToSelfRelativeSD(absolute: Ptr<u8>, self_relative: Ptr<u8>, buffer_length: Ptr<u32>) -> NtStatus {
        if control_of(absolute) & SELF_RELATIVE != 0 {
            return NtStatus::BAD_DESCRIPTOR_FORMAT;
        }
        let bytes = Parts::read(absolute).to_relative();
        let available = buffer_length.read();
        buffer_length.write(low32(bytes.len() as u64));
        if (available as usize) < bytes.len() {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        self_relative.write_bytes(&bytes);
        NtStatus::SUCCESS
    }

    /// RtlSelfRelativeToAbsoluteSD. BAD_DESCRIPTOR_FORMAT: it is absolute already; BUFFER_TOO_SMALL: the lengths say
    /// what is needed.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSelfRelativeToAbsoluteSD(
        self_relative: Ptr<u8>, absolute: Ptr<SECURITY_DESCRIPTOR>, absolute_size: Ptr<u32>,
        dacl: Ptr<u8>, dacl_size: Ptr<u32>, sacl: Ptr<u8>, sacl_size: Ptr<u32>,
        owner: Ptr<u8>, owner_size: Ptr<u32>, primary_group: Ptr<u8>, primary_group_size: Ptr<u32>,
    ) -> NtStatus {
        if control_of(self_relative) & SELF_RELATIVE == 0 {
            return NtStatus::BAD_DESCRIPTOR_FORMAT;
        }
        let parts = Parts::read(self_relative);
        let [owner_bytes, group_bytes, sacl_bytes, dacl_bytes] = parts.lengths();
        let sizes = [
            (absolute_size, size_of::<SECURITY_DESCRIPTOR>() as u64),
            (dacl_size, dacl_bytes),
            (sacl_size, sacl_bytes),
            (owner_size, owner_bytes),
            (primary_group_size, group_bytes),
        ];
        let is_small = sizes.iter().any(|(available, needed)| u64::from(available.read()) < *needed);
        for (size, needed) in sizes {
            size.write(low32(needed));
        }
        if is_small {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        let copy = |to: Ptr<u8>, from: Ptr<u8>, bytes: u64| {
            if bytes == 0 {
                return Ptr::null();
            }
            to.copy_from(from, bytes);
            to
        };
        absolute.write(SECURITY_DESCRIPTOR {
            Revision: 1,
            Sbz1: 0,
            Control: parts.control & !SELF_RELATIVE,
            Owner: copy(owner, parts.owner, owner_bytes),
            Group: copy(primary_group, parts.group, group_bytes),
            Sacl: copy(sacl, parts.sacl, sacl_bytes),
            Dacl: copy(dacl, parts.dacl, dacl_bytes),
        });
        NtStatus::SUCCESS
    }
}
