//! MDLs that describe pages of their own (MmAllocatePagesForMdl), not a buffer.

use super::mdl::{CACHING_TYPES, frame};
use super::{contiguous, mdl_mapping};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver::owner_of;
use crate::io::mdl;
use crate::mm;
use crate::nt::bugcheck::{PFN_LIST_CORRUPT, bugcheck_with_text};
use crate::nt::{MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED};
use crate::raw::{Ptr, Word, from_word, low32};
use crate::shared;
use crate::value::{PhysicalAddress, Size, ULong};
use abi::layout::PAGE_SIZE;

/// MM_DONT_ZERO_ALLOCATION.
const DONT_ZERO: u32 = 1;
/// MM_ALLOCATE_FULLY_REQUIRED.
const FULLY_REQUIRED: u32 = 4;
/// The most pages that one MDL describes: its size is a 16-bit number.
const MOST_PAGES: u64 = (0x7FFF - size_of::<MDL>() as u64) / size_of::<Word>() as u64;

/// An MDL for pages from a range of physical addresses, as many of `bytes` as there are contiguously.
fn allocate_pages(low: u64, high: u64, skip: u64, bytes: u64, flags: u32) -> Ptr<MDL> {
    let wanted = bytes.div_ceil(PAGE_SIZE).min(MOST_PAGES);
    let ranges = |attempt: u64| {
        Some((
            low.checked_add(skip * attempt)?,
            high.checked_add(skip * attempt)?,
        ))
    };
    let attempts = if skip == 0 { 1 } else { 64 };
    let mut pages = wanted;
    let mut address = Ptr::null();
    while pages > 0 && address.is_null() {
        address = (0..attempts)
            .filter_map(ranges)
            .map(|(low, high)| contiguous::allocate(pages * PAGE_SIZE, low, high, 0))
            .find(|address| !address.is_null())
            .unwrap_or_default();
        if address.is_null() {
            if flags & FULLY_REQUIRED != 0 {
                break;
            }
            pages /= 2;
        }
    }
    if address.is_null() {
        return Ptr::null();
    }
    let described = low32(pages * PAGE_SIZE);
    let mdl = mdl::allocate(address.addr(), described, owner_of(shared::caller()));
    if mdl.is_null() {
        pool::free(address, contiguous::TAG);
        return mdl;
    }
    mdl::lock(mdl);
    // Such an MDL describes pages, not a buffer: it has no address until it is mapped.
    mdl.with(|mdl| mdl.StartVa = 0);
    if flags & DONT_ZERO != 0 {
        // What is not asked for is not relied on: the pages hold anything.
        address.fill(0xCD, pages * PAGE_SIZE);
    }
    mdl
}

fn free_pages(mdl: Ptr<MDL>) {
    let first = from_word(frame(mdl, 0).read()).checked_mul(PAGE_SIZE);
    let address = first.and_then(mm::virtual_for_physical);
    let address = address.and_then(pool::block_at);
    let Some(block) = address else {
        bugcheck_with_text(
            PFN_LIST_CORRUPT,
            [0x8F, from_word(frame(mdl, 0).read()), mdl.addr(), 0],
            format_args!("pages were freed from an MDL that are not allocated"),
        );
    };
    mdl_mapping::release(mdl);
    pool::free(Ptr::new(block.address), contiguous::TAG);
    mdl.with(|mdl| mdl.MdlFlags &= !(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA));
}

nt_api! { module = mm_mdl_pages;
    /// Allocates zeroed pages from a range of physical addresses; null when there are none. There may be fewer than asked
    /// for: the MDL says how many.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocatePagesForMdl(
        low_address: PhysicalAddress, high_address: PhysicalAddress, skip_bytes: PhysicalAddress, total_bytes: Size,
    ) -> Ptr<MDL> {
        allocate_pages(low_address.0, high_address.0, skip_bytes.0, total_bytes.0, 0)
    }

    /// As MmAllocatePagesForMdl, with a caching type and MM_ALLOCATE_ flags.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocatePagesForMdlEx(
        low_address: PhysicalAddress, high_address: PhysicalAddress, skip_bytes: PhysicalAddress, total_bytes: Size,
        cache_type: ULong, flags: ULong,
    ) -> Ptr<MDL> {
        if cache_type >= CACHING_TYPES {
            return Ptr::null();
        }
        allocate_pages(low_address.0, high_address.0, skip_bytes.0, total_bytes.0, flags)
    }

    /// Frees the pages of such an MDL, not the MDL itself (ExFreePool).
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmFreePagesFromMdl(mdl: Ptr<MDL>) {
        free_pages(mdl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{POOL_PHYSICAL, api, machine};

    #[test]
    fn pages_for_an_mdl_have_frames_and_an_address() {
        let _machine = machine();
        let mdl = Ptr::<MDL>::new(api("MmAllocatePagesForMdl", &[0, u64::MAX, 0, 0x2001]));
        let header = mdl.read();
        assert_eq!(
            (header.ByteCount, header.StartVa, header.ByteOffset),
            (0x3000, 0, 0)
        );
        let address = api(
            "MmMapLockedPagesSpecifyCache",
            &[mdl.addr(), 0, 1, 0, 0, 16],
        );
        assert_eq!(
            api("MmGetPhysicalAddress", &[address]) / 0x1000,
            from_word(frame(mdl, 0).read())
        );
        assert_eq!(Ptr::<u8>::new(address).read_slice(0x3000), vec![0; 0x3000]);
        api("MmUnmapLockedPages", &[address, mdl.addr()]);
        api("MmFreePagesFromMdl", &[mdl.addr()]);
        api("ExFreePool", &[mdl.addr()]);
        let high = POOL_PHYSICAL - 1;
        assert_eq!(api("MmAllocatePagesForMdl", &[0, high, 0, 0x1000]), 0);
        assert_eq!(
            api("MmAllocatePagesForMdlEx", &[0, u64::MAX, 0, 1 << 24, 1, 4]),
            0
        );
    }
}
