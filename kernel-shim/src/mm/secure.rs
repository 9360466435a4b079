//! MmSecureVirtualMemory: ranges of user space that their process may not free, nor protect in another way.

use alloc::collections::BTreeMap;

use super::protection::access_of;
use super::validity::probe;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::ps;
use crate::raw::{Global, Ptr};
use crate::value::{Size, ULong};

const READ_ONLY: u32 = 2;
const READ_WRITE: u32 = 4;

/// A range that is secured.
#[derive(Clone, Copy, Debug)]
struct Secured {
    process: u32,
    address: u64,
    bytes: u64,
    is_write: bool,
}

#[derive(Debug)]
struct All {
    /// By handle.
    ranges: BTreeMap<u64, Secured>,
    next: u64,
}

static SECURED: Global<All> = Global::new(
    "secured memory",
    All {
        ranges: BTreeMap::new(),
        next: FIRST,
    },
);
const FIRST: u64 = 0x100;

/// Forgets everything.
pub(crate) fn initialize() {
    SECURED.with(|all| all.ranges.clear());
}

/// Forgets what is secured in a process that ends.
pub(crate) fn forget_process(process: u32) {
    SECURED.with(|all| all.ranges.retain(|_, range| range.process != process));
}

/// Whether a range may get a protection (freed memory has PAGE_NOACCESS).
///
/// # Errors
/// INVALID_PAGE_PROTECTION: some of it is secured against that.
pub(super) fn check(process: u32, start: u64, bytes: u64, protection: u32) -> Result<(), NtStatus> {
    let access = access_of(protection);
    let is_refused = SECURED.with(|all| {
        all.ranges.values().any(|range| {
            range.process == process
                && range.address < start + bytes
                && start < range.address + range.bytes
                && !access.is_some_and(|access| access.is_writable || !range.is_write)
        })
    });
    if is_refused {
        Err(NtStatus::INVALID_PAGE_PROTECTION)
    } else {
        Ok(())
    }
}

nt_api! { module = mm_secure;
    /// Keeps a range of the process's memory from being freed or protected otherwise; a handle, null if the range is not
    /// there, or not like that.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn MmSecureVirtualMemory(address: Ptr<u8>, size: Size, probe_mode: ULong) -> Ptr<u8> {
        let is_write = probe_mode == READ_WRITE;
        let is_valid = matches!(probe_mode, READ_ONLY | READ_WRITE)
            && size.0 != 0
            && probe(address.addr(), size.0, 1, is_write).is_ok()
            && super::validity::is_present(address.addr(), size.0, is_write);
        if !is_valid {
            return Ptr::null();
        }
        let range = Secured {
            process: ps::current_process_id(),
            address: address.addr(),
            bytes: size.0,
            is_write,
        };
        SECURED.with(|all| {
            let handle = all.next;
            all.next += 1;
            all.ranges.insert(handle, range);
            Ptr::new(handle)
        })
    }

    /// Ends what MmSecureVirtualMemory began.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn MmUnsecureVirtualMemory(secure_handle: Ptr<u8>) {
        SECURED.with(|all| all.ranges.remove(&secure_handle.addr()));
    }
}
