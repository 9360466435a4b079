//! Memory descriptor lists.
//!
//! Nothing is ever paged out, and client memory is mapped twice: at its user address and at a kernel alias. Mapping
//! a client's MDL into kernel space is therefore finding the alias.

use super::driver::owner_of;
use crate::api::nt_api;
use crate::ex::pool;
use crate::mm;
use crate::nt::{IRP, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL};
use crate::raw::{Ptr, Word, from_word, low16, low32, to_word};
use crate::shared;
use crate::value::{Boolean, PhysicalAddress, ProcessorMode, Size, ULong};
use abi::layout::PAGE_SIZE;

const TAG: u32 = u32::from_le_bytes(*b"Mdl ");

/// Bytes of an MDL for that buffer.
fn size(address: u64, bytes: u64) -> u64 {
    size_of::<MDL>() as u64 + mm::pages_spanned(address, bytes) * size_of::<Word>() as u64
}

/// An MDL for a buffer; null when the pool is exhausted.
#[must_use]
pub fn allocate(address: u64, bytes: u32, owner: u64) -> Ptr<MDL> {
    let size = size(address, u64::from(bytes));
    if size > 0x7FFF {
        return Ptr::null();
    }
    let mdl = pool::allocate(size, TAG, owner).cast::<MDL>();
    if !mdl.is_null() {
        mdl.cast::<u8>().fill(0, size);
        mdl.write(MDL {
            Next: Ptr::null(),
            Size: low16(size).cast_signed(),
            MdlFlags: 0,
            Process: 0,
            MappedSystemVa: 0,
            StartVa: to_word(address & !(PAGE_SIZE - 1)),
            ByteCount: bytes,
            ByteOffset: low32(address % PAGE_SIZE),
        });
    }
    mdl
}

/// Frees an MDL.
pub fn free(mdl: Ptr<MDL>) {
    pool::free(mdl.cast(), TAG);
}

/// The buffer's own address (MmGetMdlVirtualAddress).
fn buffer_of(mdl: &MDL) -> u64 {
    from_word(mdl.StartVa) + u64::from(mdl.ByteOffset)
}

/// Fills in the page frame numbers. False: there is no memory behind part of the buffer.
pub fn lock(mdl: Ptr<MDL>) -> bool {
    let header = mdl.read();
    let frames = mdl.offset(1).cast::<Word>();
    let pages = mm::pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount));
    for page in 0..pages {
        let Some(physical) = mm::physical_address(from_word(header.StartVa) + page * PAGE_SIZE)
        else {
            return false;
        };
        frames
            .add_bytes(page * size_of::<Word>() as u64)
            .write(to_word(physical / PAGE_SIZE));
    }
    mdl.with(|mdl| mdl.MdlFlags |= MDL_PAGES_LOCKED);
    true
}

/// The buffer's address in kernel space; null if it has none.
fn map(mdl: Ptr<MDL>) -> Ptr<u8> {
    let header = mdl.read();
    if header.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        return Ptr::new(from_word(header.MappedSystemVa));
    }
    let buffer = buffer_of(&header);
    let address = if buffer < shared::kernel_base() {
        mm::user_alias(buffer, u64::from(header.ByteCount))
    } else {
        Some(buffer)
    };
    let Some(address) = address else {
        return Ptr::null();
    };
    mdl.with(|mdl| {
        mdl.MappedSystemVa = to_word(address);
        mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    });
    Ptr::new(address)
}

nt_api! { module = io_mdl;
    /// Allocates an MDL, and hangs it into an IRP if there is one.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateMdl(address: Ptr<u8>, length: ULong, secondary: Boolean, charge_quota: Boolean, irp: Ptr<IRP>) -> Ptr<MDL> {
        let mdl = allocate(address.addr(), length, owner_of(shared::caller()));
        if !irp.is_null() && !mdl.is_null() {
            if secondary {
                let mut last = irp.read().MdlAddress;
                while let Some(next) = last.non_null().and_then(|last| last.read().Next.non_null()) {
                    last = next;
                }
                last.with(|last| last.Next = mdl);
            } else {
                irp.with(|irp| irp.MdlAddress = mdl);
            }
        }
        mdl
    }

    /// Frees an MDL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeMdl(mdl: Ptr<MDL>) {
        free(mdl);
    }

    /// Fills in the pages of an MDL for non-paged pool.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmBuildMdlForNonPagedPool(mdl: Ptr<MDL>) {
        lock(mdl);
        mdl.with(|mdl| {
            mdl.MappedSystemVa = to_word(buffer_of(mdl));
            mdl.MdlFlags = (mdl.MdlFlags & !MDL_PAGES_LOCKED) | MDL_SOURCE_IS_NONPAGED_POOL;
        });
    }

    /// Checks the buffer of an MDL and fills in its pages.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the exception for a bad buffer cannot be caught")
    fn MmProbeAndLockPages(mdl: Ptr<MDL>, mode: ProcessorMode, operation: ULong) {
        if !lock(mdl) {
            let status = u64::from(crate::nt::NtStatus::ACCESS_VIOLATION.0);
            crate::nt::bugcheck::bugcheck(
                crate::nt::bugcheck::KMODE_EXCEPTION_NOT_HANDLED,
                [status, shared::caller(), 0, buffer_of(&mdl.read())],
            );
        }
    }

    /// Lets the pages of an MDL go.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnlockPages(mdl: Ptr<MDL>) {
        mdl.with(|mdl| mdl.MdlFlags &= !(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA));
    }

    /// The kernel address of an MDL's buffer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("memory is not mapped to user space")
    fn MmMapLockedPagesSpecifyCache(
        mdl: Ptr<MDL>,
        mode: ProcessorMode,
        cache_type: ULong,
        requested_address: Ptr<u8>,
        bugcheck_on_failure: ULong,
        priority: ULong,
    ) -> Ptr<u8> {
        if mode.0 == 0 { map(mdl) } else { Ptr::null() }
    }

    /// The kernel address of an MDL's buffer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("memory is not mapped to user space")
    fn MmMapLockedPages(mdl: Ptr<MDL>, mode: ProcessorMode) -> Ptr<u8> {
        if mode.0 == 0 { map(mdl) } else { Ptr::null() }
    }

    /// Undoes MmMapLockedPages.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnmapLockedPages(base: Ptr<u8>, mdl: Ptr<MDL>) {
        mdl.with(|mdl| mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA);
    }

    /// Bytes of an MDL for a buffer.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmSizeOfMdl(base: Ptr<u8>, length: Size) -> Size {
        Size(size(base.addr(), length.0))
    }

    /// The guest-physical address behind an address; 0 when there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmGetPhysicalAddress(base_address: Ptr<u8>) -> PhysicalAddress {
        PhysicalAddress(mm::physical_address(base_address.addr()).unwrap_or(0))
    }

    /// Whether an access to an address would not fault.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmIsAddressValid(address: Ptr<u8>) -> Boolean {
        mm::physical_address(address.addr()).is_some()
    }
}
