//! ExAllocatePool and its family.

use super::pool::{self, Wanted};
use crate::api::nt_api;
use crate::io::driver::owner_of;
use crate::main_loop::finding;
use crate::nt::bugcheck::{
    BAD_POOL_CALLER, DRIVER_VERIFIER_DETECTED_VIOLATION, MUST_SUCCEED_POOL_EMPTY, bugcheck,
    bugcheck_with_text,
};
use crate::nt::{APC_LEVEL, DISPATCH_LEVEL, NtStatus};
use crate::raw::{Ptr, volatile_read};
use crate::rtl::raise_status;
use crate::shared;
use crate::value::{Boolean, Size, Tag, ULong, ULongLong};

/// What ExAllocatePool uses as tag.
const NONE: u32 = u32::from_le_bytes(*b"None");

/// Bits of a POOL_TYPE.
mod pool_type {
    /// PagedPool.
    pub(super) const PAGED: u32 = 1;
    /// NonPagedPoolMustSucceed.
    pub(super) const MUST_SUCCEED: u32 = 2;
    /// NonPagedPoolCacheAligned.
    pub(super) const CACHE_ALIGNED: u32 = 4;
    /// POOL_QUOTA_FAIL_INSTEAD_OF_RAISE.
    pub(super) const FAIL_INSTEAD_OF_RAISE: u32 = 8;
    /// POOL_RAISE_IF_ALLOCATION_FAILURE.
    pub(super) const RAISE: u32 = 16;
    /// POOL_ZERO_ALLOCATION.
    pub(super) const ZERO: u32 = 1024;
}

/// POOL_FLAGS.
mod flag {
    pub(super) const USE_QUOTA: u64 = 0x1;
    pub(super) const UNINITIALIZED: u64 = 0x2;
    pub(super) const SESSION: u64 = 0x4;
    pub(super) const CACHE_ALIGNED: u64 = 0x8;
    pub(super) const RAISE: u64 = 0x20;
    pub(super) const NON_PAGED: u64 = 0x40;
    pub(super) const NON_PAGED_EXECUTE: u64 = 0x80;
    pub(super) const PAGED: u64 = 0x100;
    pub(super) const POOLS: u64 = NON_PAGED | NON_PAGED_EXECUTE | PAGED;
    pub(super) const KNOWN: u64 =
        POOLS | USE_QUOTA | UNINITIALIZED | SESSION | CACHE_ALIGNED | RAISE | 0x10;
    /// From here up, bits that are not known are ignored (POOL_FLAG_OPTIONAL_START).
    pub(super) const OPTIONAL: u64 = 0x1_0000_0000;
}

/// Stops a driver that allocates or frees at an IRQL where it may not.
fn check_irql(is_paged: bool, verified: [u64; 2], plain: u64, rest: [u64; 2], verb: &str) {
    let irql = shared::irql();
    let limit = if is_paged { APC_LEVEL } else { DISPATCH_LEVEL };
    if irql <= limit {
        return;
    }
    let [paged_code, nonpaged_code] = verified;
    let (code, first) = match (shared::verify() != 0, is_paged) {
        (true, true) => (DRIVER_VERIFIER_DETECTED_VIOLATION, paged_code),
        (true, false) => (DRIVER_VERIFIER_DETECTED_VIOLATION, nonpaged_code),
        (false, _) => (BAD_POOL_CALLER, plain),
    };
    let kind = if is_paged { "paged" } else { "non-paged" };
    bugcheck_with_text(
        code,
        [first, u64::from(irql), rest[0], rest[1]],
        format_args!(
            "{kind} pool was {verb} at IRQL {irql} by {}",
            pool::site(shared::caller())
        ),
    );
}

/// Allocates for the driver; null when there is no room, whatever the type says about raising.
fn try_allocate(kind: u32, bytes: u64, tag: u32) -> Ptr<u8> {
    let is_paged = kind & pool_type::PAGED != 0;
    check_irql(is_paged, [1, 2], 8, [u64::from(kind), bytes], "allocated");
    if bytes == 0 && shared::verify() != 0 {
        finding(
            &[u64::from(kind), 0, u64::from(tag)],
            "pool of no bytes was allocated",
        );
    }
    let wanted = Wanted {
        bytes,
        tag,
        owner: owner_of(shared::caller()),
        is_paged,
        is_page_aligned: kind & pool_type::CACHE_ALIGNED != 0,
    };
    let address = pool::allocate_wanted(&wanted);
    if kind & pool_type::ZERO != 0 && !address.is_null() {
        address.fill(0, bytes);
    }
    address
}

/// As [`try_allocate`]; raises STATUS_INSUFFICIENT_RESOURCES if the type says so.
pub(super) fn allocate(kind: u32, bytes: u64, tag: u32) -> Ptr<u8> {
    let address = try_allocate(kind, bytes, tag);
    if address.is_null() {
        if kind & pool_type::MUST_SUCCEED != 0 {
            bugcheck(MUST_SUCCEED_POOL_EMPTY, [bytes, 0, pool::free_bytes(), 0]);
        }
        if kind & pool_type::RAISE != 0 {
            raise_status(NtStatus::INSUFFICIENT_RESOURCES);
        }
    }
    address
}

/// Allocates on quota: raises unless the type says not to.
fn allocate_with_quota(kind: u32, bytes: u64, tag: u32) -> Ptr<u8> {
    let address = try_allocate(kind, bytes, tag);
    if address.is_null() && kind & pool_type::FAIL_INSTEAD_OF_RAISE == 0 {
        raise_status(NtStatus::INSUFFICIENT_RESOURCES);
    }
    address
}

fn check_tag(kind: u32, bytes: u64, tag: u32) {
    if tag == 0 {
        bugcheck(
            BAD_POOL_CALLER,
            [0x9B, u64::from(kind), bytes, shared::caller()],
        );
    }
}

/// Frees for the driver.
pub(super) fn free(address: Ptr<u8>, tag: u32) {
    if address.is_null() {
        bugcheck_with_text(
            BAD_POOL_CALLER,
            [0x46, 0, 0, 0],
            format_args!(
                "the null pointer was freed to the pool by {}",
                pool::site(shared::caller())
            ),
        );
    }
    if shared::irql() > APC_LEVEL
        && let Some(block) = pool::block_at(address.addr())
    {
        let kind = u64::from(block.is_paged);
        check_irql(
            block.is_paged,
            [0x11, 0x12],
            9,
            [kind, address.addr()],
            "freed",
        );
    }
    pool::free(address, tag);
}

/// POOL_FLAGS as the POOL_TYPE of the same meaning; `None` for flags that are not valid together.
fn type_of_flags(flags: u64) -> Option<u32> {
    let known = flags & (flag::OPTIONAL - 1);
    if known & !flag::KNOWN != 0 || (flags & flag::POOLS).count_ones() != 1 {
        return None;
    }
    let bits = [
        (flags & flag::PAGED != 0, pool_type::PAGED),
        (flags & flag::CACHE_ALIGNED != 0, pool_type::CACHE_ALIGNED),
        (flags & flag::RAISE != 0, pool_type::RAISE),
        (flags & flag::UNINITIALIZED == 0, pool_type::ZERO),
    ];
    Some(bits.iter().filter(|bit| bit.0).map(|bit| bit.1).sum())
}

fn allocate_by_flags(flags: u64, bytes: u64, tag: u32) -> Ptr<u8> {
    match type_of_flags(flags) {
        Some(kind) if tag != 0 && bytes != 0 => allocate(kind, bytes, tag),
        _ => {
            if flags & flag::RAISE != 0 {
                raise_status(NtStatus::INVALID_PARAMETER);
            }
            Ptr::null()
        }
    }
}

/// Whether everything that the extended parameters (16 bytes each) insist on can be had.
fn accepts(parameters: Ptr<u8>, count: u32) -> bool {
    /// PoolExtendedParameterPriority.
    const PRIORITY: u64 = 1;
    /// PoolExtendedParameterNumaNode.
    const NUMA_NODE: u64 = 3;
    /// Bit of the first word: may be ignored.
    const OPTIONAL: u64 = 0x100;
    (0..u64::from(count)).all(|index| {
        let word: u64 = volatile_read(parameters.add_bytes(16 * index).addr());
        matches!(word & 0xFF, PRIORITY | NUMA_NODE) || word & OPTIONAL != 0
    })
}

/// Allocating on the fast path.
mod fast {
    #![expect(
        clippy::inline_always,
        reason = "fast paths of exports are fast only if nothing is called; see crate::api"
    )]

    use super::{flag, pool, pool_type};
    use crate::raw::Ptr;
    use crate::value::{Size, Tag, ULong, ULongLong};

    /// NonPagedPoolNx, beside PagedPool and NonPagedPool.
    const NX: u32 = 512;

    #[inline(always)]
    pub(super) fn allocate_untagged(kind: ULong, bytes: Size) -> Option<Ptr<u8>> {
        allocate(kind, bytes, Tag(super::NONE))
    }

    #[inline(always)]
    pub(super) fn allocate(kind: ULong, bytes: Size, tag: Tag) -> Option<Ptr<u8>> {
        if kind & !(pool_type::PAGED | NX) != 0 {
            return None;
        }
        pool::fast::allocate(kind & pool_type::PAGED != 0, false, bytes.0, tag.0)
    }

    #[inline(always)]
    pub(super) fn allocate_by_flags(flags: ULongLong, bytes: Size, tag: Tag) -> Option<Ptr<u8>> {
        let is_paged = match flags & !flag::UNINITIALIZED {
            flag::NON_PAGED | flag::NON_PAGED_EXECUTE => false,
            flag::PAGED => true,
            _ => return None,
        };
        pool::fast::allocate(is_paged, flags & flag::UNINITIALIZED == 0, bytes.0, tag.0)
    }

    #[inline(always)]
    pub(super) fn free(address: Ptr<u8>) -> Option<()> {
        pool::fast::free(address, 0)
    }

    #[inline(always)]
    pub(super) fn free_with_tag(address: Ptr<u8>, tag: Tag) -> Option<()> {
        pool::fast::free(address, tag.0)
    }
}

nt_api! { module = ex_pool;
    /// Allocates pool without a tag of its own.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast::allocate_untagged)
    fn ExAllocatePool(pool_type: ULong, number_of_bytes: Size) -> Ptr<u8> {
        allocate(pool_type, number_of_bytes.0, NONE)
    }

    /// Allocates pool with a tag; null when the pool is exhausted. Blocks of a page or more are page-aligned.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast::allocate)
    fn ExAllocatePoolWithTag(pool_type: ULong, number_of_bytes: Size, tag: Tag) -> Ptr<u8> {
        check_tag(pool_type, number_of_bytes.0, tag.0);
        allocate(pool_type, number_of_bytes.0, tag.0)
    }

    /// As ExAllocatePoolWithTag; a low priority fails while less than an eighth of the pool is free.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExAllocatePoolWithTagPriority(pool_type: ULong, number_of_bytes: Size, tag: Tag, priority: ULong) -> Ptr<u8> {
        const NORMAL: u32 = 16;
        check_tag(pool_type, number_of_bytes.0, tag.0);
        let left = pool::free_bytes().saturating_sub(number_of_bytes.0);
        if priority < NORMAL && left < shared::pool_bytes() / 8 {
            return Ptr::null();
        }
        allocate(pool_type, number_of_bytes.0, tag.0)
    }

    /// Allocates pool on the process's quota; raises STATUS_INSUFFICIENT_RESOURCES unless the type says not to.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("processes have no limits, so no quota is exceeded before the pool is used up")
    fn ExAllocatePoolWithQuotaTag(pool_type: ULong, number_of_bytes: Size, tag: Tag) -> Ptr<u8> {
        check_tag(pool_type, number_of_bytes.0, tag.0);
        allocate_with_quota(pool_type, number_of_bytes.0, tag.0)
    }

    /// As ExAllocatePoolWithQuotaTag, without a tag.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("processes have no limits, so no quota is exceeded before the pool is used up")
    fn ExAllocatePoolWithQuota(pool_type: ULong, number_of_bytes: Size) -> Ptr<u8> {
        allocate_with_quota(pool_type, number_of_bytes.0, NONE)
    }

    /// Allocates pool by POOL_FLAGS, zeroed unless they say not to. Null for flags that are not valid, no bytes or no tag.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast::allocate_by_flags)
    fn ExAllocatePool2(flags: ULongLong, number_of_bytes: Size, tag: Tag) -> Ptr<u8> {
        allocate_by_flags(flags, number_of_bytes.0, tag.0)
    }

    /// As ExAllocatePool2, with extended parameters. Null if they insist on a secure pool.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("there are no secure pools")
    fn ExAllocatePool3(
        flags: ULongLong, number_of_bytes: Size, tag: Tag, extended_parameters: Ptr<u8>, count: ULong,
    ) -> Ptr<u8> {
        if !accepts(extended_parameters, count) {
            return Ptr::null();
        }
        allocate_by_flags(flags, number_of_bytes.0, tag.0)
    }

    /// Frees pool.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast::free)
    fn ExFreePool(address: Ptr<u8>) {
        free(address, 0);
    }

    /// Frees pool; another tag than the block's is a bugcheck.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast::free_with_tag)
    fn ExFreePoolWithTag(address: Ptr<u8>, tag: Tag) {
        free(address, tag.0);
    }

    /// Frees pool; the extended parameters are for secure pools, of which there are none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExFreePool2(address: Ptr<u8>, tag: Tag, extended_parameters: Ptr<u8>, count: ULong) {
        free(address, tag.0);
    }

    /// Bytes of the block that a pool address is that of; the block is not charged to any quota.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExQueryPoolBlockSize(pool_block: Ptr<u8>, quota_charged: Ptr<Boolean>) -> Size {
        quota_charged.write(false);
        Size(pool::block_at(pool_block.addr()).map_or(0, |block| block.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, crash_of, machine, verifying_machine};

    const TAG: u64 = 0x7473_6554;

    #[test]
    fn flags_mean_what_types_do() {
        assert_eq!(type_of_flags(flag::NON_PAGED), Some(pool_type::ZERO));
        assert_eq!(
            type_of_flags(flag::PAGED | flag::UNINITIALIZED),
            Some(pool_type::PAGED)
        );
        assert_eq!(type_of_flags(flag::PAGED | flag::NON_PAGED), None);
        assert_eq!(type_of_flags(0), None);
        assert_eq!(type_of_flags(flag::NON_PAGED | 0x200), None);
        assert_eq!(
            type_of_flags(flag::NON_PAGED | flag::OPTIONAL),
            Some(pool_type::ZERO)
        );
    }

    #[test]
    fn pool2_is_zeroed_and_refuses() {
        let _machine = machine();
        let dirty = api("ExAllocatePoolWithTag", &[0, 100, TAG]);
        Ptr::<u8>::new(dirty).fill(0xFF, 100);
        api("ExFreePoolWithTag", &[dirty, TAG]);
        let zeroed = api("ExAllocatePool2", &[flag::NON_PAGED, 100, TAG]);
        assert_eq!(zeroed, dirty, "the slot is used again");
        assert_eq!(Ptr::<u8>::new(zeroed).read_slice(100), [0; 100]);
        assert_eq!(api("ExAllocatePool2", &[0, 100, TAG]), 0);
        assert_eq!(api("ExAllocatePool2", &[flag::NON_PAGED, 0, TAG]), 0);
        assert_eq!(api("ExAllocatePool2", &[flag::NON_PAGED, 100, 0]), 0);
        api("ExFreePool2", &[zeroed, TAG, 0, 0]);
    }

    #[test]
    fn cache_aligned_blocks_are_aligned() {
        let _machine = machine();
        let block = api("ExAllocatePoolWithTag", &[516, 100, TAG]);
        assert_eq!(block % 64, 0);
        api("ExFreePool", &[block]);
    }

    #[test]
    fn irql_violations_have_their_codes() {
        let check = |verify: bool, first: u64, code: u32| {
            let _machine = if verify {
                verifying_machine()
            } else {
                machine()
            };
            shared::set_irql(DISPATCH_LEVEL);
            let record = crash_of(|| {
                let _ = ExAllocatePoolWithTag(1, Size(10), Tag(1));
            });
            assert_eq!((record.code, record.parameters[0]), (code, first));
        };
        check(false, 8, BAD_POOL_CALLER);
        check(true, 1, DRIVER_VERIFIER_DETECTED_VIOLATION);
        let _machine = machine();
        let block = ExAllocatePoolWithTag(1, Size(10), Tag(1));
        shared::set_irql(DISPATCH_LEVEL);
        let record = crash_of(|| ExFreePool(block));
        assert_eq!((record.code, record.parameters[0]), (BAD_POOL_CALLER, 9));
        shared::set_irql(0);
        ExFreePool(block);
        let record = crash_of(|| ExFreePool(Ptr::null()));
        assert_eq!((record.code, record.parameters[0]), (BAD_POOL_CALLER, 0x46));
    }

    #[test]
    fn a_failure_is_raised_only_if_wanted() {
        let _machine = machine();
        assert_eq!(api("ExAllocatePoolWithTag", &[0, 1 << 40, TAG]), 0);
        assert_eq!(api("ExAllocatePoolWithQuotaTag", &[8, 1 << 40, TAG]), 0);
        for call in [
            || ExAllocatePoolWithTag(16, Size(1 << 40), Tag(1)),
            || ExAllocatePoolWithQuotaTag(0, Size(1 << 40), Tag(1)),
        ] {
            let record = crash_of(|| {
                let _ = call();
            });
            assert_eq!(
                record.parameters[0],
                u64::from(NtStatus::INSUFFICIENT_RESOURCES.0)
            );
        }
    }
}
