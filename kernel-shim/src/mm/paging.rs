//! Paging of drivers, and what the memory manager says about the system. Everything is resident, so locking is counting.

use alloc::collections::BTreeMap;

use super::validity::is_in_image;
use crate::api::nt_api;
use crate::io::driver;
use crate::nt::bugcheck::{MEMORY_MANAGEMENT, bugcheck_with_text};
use crate::raw::{Global, Ptr};
use crate::shared;
use crate::value::{Boolean, ULong};

/// How often each image (by its base) is locked.
static LOCKED: Global<BTreeMap<u64, u32>> = Global::new("locked sections", BTreeMap::new());

/// Locks the image around an address; the handle is its base. Null: no image is there.
fn lock(address: u64) -> Ptr<u8> {
    let Some(driver) = driver::by_address(address) else {
        return Ptr::null();
    };
    LOCKED.with(|locked| *locked.entry(driver.base).or_insert(0) += 1);
    Ptr::new(driver.base)
}

/// A handle that is none is a bugcheck.
fn change(handle: u64, change: impl FnOnce(&mut u32) -> bool) {
    let is_known = LOCKED.with(|locked| locked.get_mut(&handle).is_some_and(change));
    if !is_known {
        bugcheck_with_text(
            MEMORY_MANAGEMENT,
            [0x1010, handle, 0, 0],
            format_args!("{handle:#x} is no handle of a section that is locked"),
        );
    }
}

nt_api! { module = mm_paging;
    /// Locks the pageable code that an address lies in; a handle.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmLockPagableDataSection(address_within_section: Ptr<u8>) -> Ptr<u8> {
        lock(address_within_section.addr())
    }

    /// Locks a section again by its handle; another handle is a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmLockPagableSectionByHandle(image_section_handle: Ptr<u8>) {
        change(image_section_handle.addr(), |count| {
            *count += 1;
            true
        });
    }

    /// Unlocks a section; one that is not locked is a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmUnlockPagableImageSection(image_section_handle: Ptr<u8>) {
        change(image_section_handle.addr(), |count| {
            let was_locked = *count > 0;
            *count = count.saturating_sub(1);
            was_locked
        });
    }

    /// Makes a driver pageable as a whole; the base of its image. Nothing is paged out.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmPageEntireDriver(address_within_section: Ptr<u8>) -> Ptr<u8> {
        driver::by_address(address_within_section.addr()).map_or_else(Ptr::null, |driver| Ptr::new(driver.base))
    }

    /// Undoes MmPageEntireDriver.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmResetDriverPaging(address_within_section: Ptr<u8>) {}

    /// MmSmallSystem (0), MmMediumSystem (1) or MmLargeSystem (2), by the guest's memory.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmQuerySystemSize() -> ULong {
        match shared::ram_bytes() >> 20 {
            0..=31 => 0,
            32..=255 => 1,
            _ => 2,
        }
    }

    /// Whether the system is a server: it is not.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmIsThisAnNtAsSystem() -> Boolean {
        false
    }

    /// Whether the verifier watches a driver; FALSE for what is no loaded driver's object.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmIsDriverVerifying(driver_object: Ptr<u8>) -> ULong {
        let is_loaded = driver::find(|driver| driver.object.addr() == driver_object.addr()).is_some();
        u32::from(shared::verify() != 0 && is_loaded)
    }

    /// Whether the verifier watches the driver whose image an address lies in.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmIsDriverVerifyingByAddress(address_within_section: Ptr<u8>) -> ULong {
        u32::from(shared::verify() != 0 && is_in_image(address_within_section.addr()))
    }

    /// Whether a driver is suspected of crashing the system: no.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmIsDriverSuspectForVerifier(driver_object: Ptr<u8>) -> ULong {
        0
    }

    /// Whether a file can be cut to a size in spite of the sections on it: a file of a driver has no sections.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmCanFileBeTruncated(section_object_pointer: Ptr<u8>, new_file_size: Ptr<u64>) -> Boolean {
        true
    }

    /// Flushes the image section of a file; whether it can be deleted or written to: it has none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmFlushImageSection(section_object_pointer: Ptr<u8>, flush_type: ULong) -> Boolean {
        true
    }

    /// Closes the sections of a file when their last view goes; whether there are none left.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmForceSectionClosed(section_object_pointer: Ptr<u8>, delay_close: Boolean) -> Boolean {
        true
    }

    /// How many views of a file can be written to from user mode: none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmDoesFileHaveUserWritableReferences(section_object_pointer: Ptr<u8>) -> ULong {
        0
    }
}
