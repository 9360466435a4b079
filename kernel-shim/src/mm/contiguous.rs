//! Physically contiguous memory, and memory that is not cached: whole pages with guest-physical addresses of their own.
//!
//! The guest's memory is always cache-coherent: a caching type changes nothing that a driver could see.

use crate::api::nt_api;
use crate::ex::pool::{self, Wanted};
use crate::io::driver::owner_of;
use crate::nt::bugcheck::{MEMORY_MANAGEMENT, bugcheck_with_text};
use crate::raw::Ptr;
use crate::shared;
use crate::value::{PhysicalAddress, Size, ULong};
use abi::layout::PAGE_SIZE;

/// Tag of these pages.
pub(super) const TAG: u32 = u32::from_le_bytes(*b"MmCm");
/// MmMaximumCacheType: the first MEMORY_CACHING_TYPE that is none.
const CACHING_TYPES: u32 = 6;

/// Zeroed pages within limits; null when there are none.
pub(super) fn allocate(bytes: u64, lowest: u64, highest: u64, boundary: u64) -> Ptr<u8> {
    // A boundary is a power of two of at least a page.
    if bytes == 0 || (boundary != 0 && (!boundary.is_power_of_two() || boundary < PAGE_SIZE)) {
        return Ptr::null();
    }
    let wanted = Wanted {
        bytes,
        tag: TAG,
        owner: owner_of(shared::caller()),
        is_paged: false,
        is_page_aligned: true,
    };
    let address = pool::allocate_contiguous(&wanted, lowest, highest, boundary);
    if !address.is_null() {
        address.fill(0, bytes.next_multiple_of(PAGE_SIZE));
    }
    address
}

/// Frees what [`allocate`] returned; another address is a bugcheck.
fn free(address: Ptr<u8>, bytes: Option<u64>) {
    let block = pool::block_at(address.addr()).filter(|block| block.tag == TAG);
    let Some(block) = block else {
        bugcheck_with_text(
            MEMORY_MANAGEMENT,
            [0x1240, address.addr(), 0, 0],
            format_args!(
                "{address:?} was freed as contiguous or non-cached memory, which it is not"
            ),
        );
    };
    if let Some(bytes) = bytes
        && bytes.div_ceil(PAGE_SIZE) != block.bytes.div_ceil(PAGE_SIZE)
    {
        bugcheck_with_text(
            MEMORY_MANAGEMENT,
            [0x1241, address.addr(), block.bytes, bytes],
            format_args!(
                "{bytes} bytes were freed of an allocation of {} at {address:?}",
                block.bytes
            ),
        );
    }
    pool::free(address, TAG);
}

nt_api! { module = mm_contiguous;
    /// Allocates whole pages of memory that is not cached; null when there are none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmAllocateNonCachedMemory(number_of_bytes: Size) -> Ptr<u8> {
        allocate(number_of_bytes.0, 0, u64::MAX, 0)
    }

    /// Frees what MmAllocateNonCachedMemory returned; another address or size is a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmFreeNonCachedMemory(base_address: Ptr<u8>, number_of_bytes: Size) {
        free(base_address, Some(number_of_bytes.0));
    }

    /// Allocates physically contiguous pages up to a physical address; null when there are none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocateContiguousMemory(number_of_bytes: Size, highest_acceptable: PhysicalAddress) -> Ptr<u8> {
        allocate(number_of_bytes.0, 0, highest_acceptable.0, 0)
    }

    /// Frees what MmAllocateContiguousMemory returned; another address is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmFreeContiguousMemory(base_address: Ptr<u8>) {
        free(base_address, None);
    }

    /// Allocates physically contiguous pages in a range of physical addresses that do not cross a multiple of a boundary.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocateContiguousMemorySpecifyCache(
        number_of_bytes: Size, lowest_acceptable: PhysicalAddress, highest_acceptable: PhysicalAddress,
        boundary_multiple: PhysicalAddress, cache_type: ULong,
    ) -> Ptr<u8> {
        if cache_type >= CACHING_TYPES {
            return Ptr::null();
        }
        allocate(number_of_bytes.0, lowest_acceptable.0, highest_acceptable.0, boundary_multiple.0)
    }

    /// As MmAllocateContiguousMemorySpecifyCache, on a node: there is node 0 (0x80000000: any).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocateContiguousMemorySpecifyCacheNode(
        number_of_bytes: Size, lowest_acceptable: PhysicalAddress, highest_acceptable: PhysicalAddress,
        boundary_multiple: PhysicalAddress, cache_type: ULong, preferred_node: ULong,
    ) -> Ptr<u8> {
        if cache_type >= CACHING_TYPES || !is_node(preferred_node) {
            return Ptr::null();
        }
        allocate(number_of_bytes.0, lowest_acceptable.0, highest_acceptable.0, boundary_multiple.0)
    }

    /// As MmAllocateContiguousMemorySpecifyCacheNode, with a PAGE_ protection. Null for one that is not valid.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the memory can always be written to and never executed")
    fn MmAllocateContiguousNodeMemory(
        number_of_bytes: Size, lowest_acceptable: PhysicalAddress, highest_acceptable: PhysicalAddress,
        boundary_multiple: PhysicalAddress, protect: ULong, preferred_node: ULong,
    ) -> Ptr<u8> {
        if super::protection::access_of(protect).is_none() || !is_node(preferred_node) {
            return Ptr::null();
        }
        allocate(number_of_bytes.0, lowest_acceptable.0, highest_acceptable.0, boundary_multiple.0)
    }

    /// Frees what MmAllocateContiguousMemorySpecifyCache returned; another address or size is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmFreeContiguousMemorySpecifyCache(base_address: Ptr<u8>, number_of_bytes: Size, cache_type: ULong) {
        free(base_address, Some(number_of_bytes.0));
    }
}

/// Whether a NUMA node exists: 0, or MM_ANY_NODE_OK.
fn is_node(node: u32) -> bool {
    node == 0 || node == 0x8000_0000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{POOL_BYTES, POOL_PHYSICAL, api, crash_of, machine};

    #[test]
    fn limits_are_physical_addresses() {
        let _machine = machine();
        // Above what the shim itself has allocated at boot.
        let free = POOL_PHYSICAL + POOL_BYTES / 2;
        let low = free + 0x7FFF;
        let address = api("MmAllocateContiguousMemory", &[0x2000, low]);
        assert_eq!(api("MmGetPhysicalAddress", &[address]), free + 0x6000);
        assert_eq!(
            api("MmAllocateContiguousMemory", &[0x1000, POOL_PHYSICAL - 1]),
            0
        );
        assert_eq!(api("MmAllocateContiguousMemory", &[0, u64::MAX]), 0);
        assert_eq!(
            api("MmAllocateContiguousMemory", &[POOL_BYTES + 1, u64::MAX]),
            0
        );
        assert_eq!(
            api("MmGetVirtualForPhysical", &[free + 0x6123]),
            address + 0x123
        );
        let arguments = [0x3000, 0, u64::MAX, 0x4000, 1];
        let aligned = api("MmAllocateContiguousMemorySpecifyCache", &arguments);
        let physical = api("MmGetPhysicalAddress", &[aligned]);
        assert_eq!(physical / 0x4000, (physical + 0x2FFF) / 0x4000);
        let arguments = [0x3000, 0, u64::MAX, 0x2000, 1];
        assert_eq!(api("MmAllocateContiguousMemorySpecifyCache", &arguments), 0);
        api("MmFreeContiguousMemorySpecifyCache", &[aligned, 0x3000, 1]);
        api("MmFreeContiguousMemory", &[address]);
        let record = crash_of(|| MmFreeContiguousMemory(Ptr::new(address)));
        assert_eq!(record.code, MEMORY_MANAGEMENT);
    }
}
