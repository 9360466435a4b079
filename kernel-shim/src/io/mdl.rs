//! Memory descriptor lists.
//!
//! Nothing is ever paged out; how one is mapped is [`crate::mm::mdl`]'s.

use super::driver::owner_of;
use crate::api::nt_api;
use crate::client::memory;
use crate::ex::pool;
use crate::mm;
use crate::nt::{IRP, MDL, MDL_PAGES_LOCKED};
use crate::raw::{Ptr, Word, from_word, low16, low32, to_word};
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::layout::PAGE_SIZE;

const TAG: u32 = u32::from_le_bytes(*b"Mdl ");

/// Bytes of an MDL for that buffer.
#[must_use]
pub fn size(address: u64, bytes: u64) -> u64 {
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
    mm::mdl_mapping::release(mdl);
    pool::free(mdl.cast(), TAG);
}

/// Fills in the page frame numbers. False: there is no memory behind part of the buffer.
pub fn lock(mdl: Ptr<MDL>) -> bool {
    let header = mdl.read();
    let frames = mdl.offset(1).cast::<Word>();
    let pages = mm::pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount));
    for page in 0..pages {
        let at = from_word(header.StartVa) + page * PAGE_SIZE;
        // All of a client's memory can be locked, also what a driver cannot use at its user address.
        let physical = match memory::physical(at) {
            Some(of_client) => of_client,
            None => mm::physical_address(at),
        };
        let Some(physical) = physical else {
            return false;
        };
        frames
            .add_bytes(page * size_of::<Word>() as u64)
            .write(to_word(physical / PAGE_SIZE));
    }
    mdl.with(|mdl| mdl.MdlFlags |= MDL_PAGES_LOCKED);
    true
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
}
