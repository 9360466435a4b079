//! ExAllocatePool and its family; Mm's page-granular allocations.

use super::pool;
use crate::api::nt_api;
use crate::io::driver::owner_of;
use crate::nt::NtStatus;
use crate::nt::bugcheck::{
    BAD_POOL_CALLER, KMODE_EXCEPTION_NOT_HANDLED, bugcheck, bugcheck_with_text,
};
use crate::raw::Ptr;
use crate::shared;
use crate::value::{PhysicalAddress, Size, Tag, ULong};
use abi::layout::PAGE_SIZE;

/// What ExAllocatePool uses as tag.
const NONE: u32 = u32::from_le_bytes(*b"None");
/// POOL_QUOTA_FAIL_INSTEAD_OF_RAISE.
const FAIL_INSTEAD_OF_RAISE: u32 = 8;
const MM_TAG: u32 = u32::from_le_bytes(*b"Mm  ");

fn allocate(pool_type: u32, bytes: u64, tag: u32) -> Ptr<u8> {
    if pool::is_paged(pool_type) && shared::irql() >= crate::nt::DISPATCH_LEVEL {
        bugcheck_with_text(
            BAD_POOL_CALLER,
            [8, u64::from(shared::irql()), u64::from(pool_type), bytes],
            format_args!("paged pool was allocated at IRQL {}", shared::irql()),
        );
    }
    pool::allocate(bytes, tag, owner_of(shared::caller()))
}

/// Whole pages, zeroed.
fn pages(bytes: u64) -> Ptr<u8> {
    let Some(bytes) = bytes.max(1).checked_next_multiple_of(PAGE_SIZE) else {
        return Ptr::null();
    };
    let address = pool::allocate(bytes, MM_TAG, owner_of(shared::caller()));
    if !address.is_null() {
        address.fill(0, bytes);
    }
    address
}

nt_api! { module = ex_pool;
    /// Allocates pool without a tag of its own.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAllocatePool(pool_type: ULong, number_of_bytes: Size) -> Ptr<u8> {
        allocate(pool_type, number_of_bytes.0, NONE)
    }

    /// Allocates pool with a tag; null when the pool is exhausted. Blocks of a page or more are page-aligned.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAllocatePoolWithTag(pool_type: ULong, number_of_bytes: Size, tag: Tag) -> Ptr<u8> {
        if tag.0 == 0 {
            bugcheck(BAD_POOL_CALLER, [0x9B, u64::from(pool_type), number_of_bytes.0, shared::caller()]);
        }
        allocate(pool_type, number_of_bytes.0, tag.0)
    }

    /// Allocates pool on the process's quota; raises STATUS_INSUFFICIENT_RESOURCES unless the type says not to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("no quota is kept; the exception it raises cannot be caught")
    fn ExAllocatePoolWithQuotaTag(pool_type: ULong, number_of_bytes: Size, tag: Tag) -> Ptr<u8> {
        let address = allocate(pool_type & !FAIL_INSTEAD_OF_RAISE, number_of_bytes.0, tag.0);
        if address.is_null() && pool_type & FAIL_INSTEAD_OF_RAISE == 0 {
            let status = u64::from(NtStatus::INSUFFICIENT_RESOURCES.0);
            bugcheck(KMODE_EXCEPTION_NOT_HANDLED, [status, shared::caller(), 0, 0]);
        }
        address
    }

    /// Frees pool.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExFreePool(address: Ptr<u8>) {
        pool::free(address, 0);
    }

    /// Frees pool; another tag than the block's is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExFreePoolWithTag(address: Ptr<u8>, tag: Tag) {
        pool::free(address, tag.0);
    }

    /// Allocates whole pages of zeroed memory; the guest's memory is always cache-coherent.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmAllocateNonCachedMemory(number_of_bytes: Size) -> Ptr<u8> {
        pages(number_of_bytes.0)
    }

    /// Frees what MmAllocateNonCachedMemory returned.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmFreeNonCachedMemory(base_address: Ptr<u8>, number_of_bytes: Size) {
        pool::free(base_address, MM_TAG);
    }

    /// Allocates physically contiguous pages below a physical address; null when there are none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAllocateContiguousMemory(number_of_bytes: Size, highest_acceptable: PhysicalAddress) -> Ptr<u8> {
        contiguous(number_of_bytes.0, highest_acceptable.0)
    }

    /// Frees what MmAllocateContiguousMemory returned.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmFreeContiguousMemory(base_address: Ptr<u8>) {
        pool::free(base_address, MM_TAG);
    }

    /// Allocates physically contiguous pages in a range of physical addresses.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the boundary and the caching type are not looked at")
    fn MmAllocateContiguousMemorySpecifyCache(
        number_of_bytes: Size,
        lowest_acceptable: PhysicalAddress,
        highest_acceptable: PhysicalAddress,
        boundary_multiple: PhysicalAddress,
        cache_type: ULong,
    ) -> Ptr<u8> {
        let address = contiguous(number_of_bytes.0, highest_acceptable.0);
        if !address.is_null() && pool::physical(address.addr()) < lowest_acceptable.0 {
            pool::free(address, MM_TAG);
            return Ptr::null();
        }
        address
    }

    /// Frees what MmAllocateContiguousMemorySpecifyCache returned.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmFreeContiguousMemorySpecifyCache(base_address: Ptr<u8>, number_of_bytes: Size, cache_type: ULong) {
        pool::free(base_address, MM_TAG);
    }
}

/// The pool is one physically contiguous region, so any block of it is contiguous.
fn contiguous(bytes: u64, highest: u64) -> Ptr<u8> {
    let address = pages(bytes);
    if !address.is_null()
        && pool::physical(address.addr()).saturating_add(bytes) > highest.saturating_add(1)
    {
        pool::free(address, MM_TAG);
        return Ptr::null();
    }
    address
}
