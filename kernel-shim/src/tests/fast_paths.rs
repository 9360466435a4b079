//! Fast paths of exports: what they do is what the ordinary path does, and they leave everything unusual to it.

use crate::ex::pool::{self, fast};
use crate::nt::{FAST_MUTEX, KAPC, KEVENT, KTHREAD};
use crate::raw::{Ptr, volatile_read};
use crate::test_platform::{Machine, POOL_BYTES, api, machine, verifying_machine};
use crate::{ke::sched, ps, shared};
use abi::layout::Shared;
use std::sync::atomic::{AtomicU64, Ordering};

const TAG: u64 = 0x7473_6554;

/// A booted machine whose driver code runs: no shim code below it.
fn driver_runs() -> Machine {
    let machine = machine();
    shared::set_depth(0);
    machine
}

/// Calls an export; whether that left a record, and its result.
fn recorded(name: &str, arguments: &[u64]) -> (bool, u64) {
    let produced = || -> u64 { volatile_read(shared::platform().shared() + Shared::TRACE) };
    let before = produced();
    let result = api(name, arguments);
    (produced() != before, result)
}

/// Calls an export that may have no bare path just now, or must have one.
fn call(name: &str, arguments: &[u64], is_bare: bool) -> u64 {
    let (is_recorded, result) = recorded(name, arguments);
    assert_eq!(is_recorded, !is_bare, "{name}");
    result
}

fn block(bytes: u64) -> u64 {
    let block = api("ExAllocatePoolWithTag", &[0, bytes, TAG]);
    Ptr::<u8>::new(block).fill(0, bytes);
    block
}

fn mutex() -> Ptr<FAST_MUTEX> {
    let mutex = Ptr::new(block(size_of::<FAST_MUTEX>() as u64));
    api("KeInitializeGuardedMutex", &[mutex.addr()]);
    mutex
}

#[test]
fn free_mutexes_are_taken_without_a_record() {
    let _machine = driver_runs();
    let mutex = mutex();
    let at = [mutex.addr()];
    call("ExAcquireFastMutex", &at, true);
    let fields = mutex.read();
    assert_eq!((fields.Count, fields.OldIrql, shared::irql()), (0, 0, 1));
    assert_eq!(fields.Owner, ps::current_thread());
    assert_eq!(call("ExTryToAcquireFastMutex", &at, false), 0, "it is held");
    call("ExReleaseFastMutex", &at, true);
    let fields = mutex.read();
    assert_eq!((fields.Count, shared::irql()), (1, 0));
    assert!(fields.Owner.is_null());
    assert_eq!(call("ExTryToAcquireFastMutex", &at, true), 1);
    call("ExReleaseFastMutex", &at, true);
    call("ExAcquireFastMutexUnsafe", &at, true);
    assert_eq!(shared::irql(), 0);
    call("ExReleaseFastMutexUnsafe", &at, true);
    call("KeAcquireGuardedMutex", &at, true);
    assert_eq!(api("KeAreAllApcsDisabled", &[]), 1);
    call("KeReleaseGuardedMutex", &at, true);
    assert_eq!(api("KeAreAllApcsDisabled", &[]), 0);
    assert_eq!(mutex.read().Count, 1);
    assert_eq!(shared::depth(), 0);
}

#[test]
fn a_mutex_at_apc_level_keeps_the_level() {
    let _machine = driver_runs();
    let mutex = mutex();
    api("KfRaiseIrql", &[1]);
    call("ExAcquireFastMutex", &[mutex.addr()], true);
    assert_eq!(mutex.read().OldIrql, 1);
    call("ExReleaseFastMutex", &[mutex.addr()], true);
    assert_eq!(shared::irql(), 1);
}

#[test]
fn a_mutex_outside_of_kernel_space_takes_the_ordinary_path() {
    let machine = driver_runs();
    let mut memory = [0_u8; size_of::<FAST_MUTEX>()];
    let at = Ptr::of(&mut memory).addr();
    // The test's stack and heap lie anywhere; only what lies below kernel space is told apart.
    if at < machine.kernel_base() {
        api("KeInitializeGuardedMutex", &[at]);
        call("ExAcquireFastMutex", &[at], false);
        call("ExReleaseFastMutex", &[at], false);
    }
    assert!(shared::is_kernel(machine.kernel_base()));
    assert!(!shared::is_kernel(machine.kernel_base() - 1));
}

#[test]
fn a_waited_for_mutex_is_passed_on_by_the_ordinary_path() {
    let _machine = driver_runs();
    let mutex = mutex();
    let at = [mutex.addr()];
    call("ExAcquireFastMutex", &at, true);
    // As if another thread waited.
    mutex.with(|mutex| mutex.Count = -1);
    call("ExReleaseFastMutex", &at, false);
    let fields = mutex.read();
    assert_eq!((fields.Count, fields.Event.Header.SignalState), (0, 1));
}

#[test]
fn a_due_tick_is_served_before_a_fast_path() {
    let _machine = driver_runs();
    let mutex = mutex();
    shared::set_tick_due(1);
    call("ExAcquireFastMutex", &[mutex.addr()], false);
    assert_eq!((shared::tick_due(), mutex.read().Count), (0, 0));
    api("ExReleaseFastMutex", &[mutex.addr()]);
    assert_eq!((shared::irql(), mutex.read().Count), (0, 1));
}

static DELIVERED: AtomicU64 = AtomicU64::new(0);

extern "win64-unwind" fn on_apc(_apc: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    DELIVERED.fetch_add(1, Ordering::Relaxed)
}

/// Queues a special kernel APC to the current thread.
fn queue_apc() {
    let apc = block(size_of::<KAPC>() as u64);
    let thread: Ptr<KTHREAD> = sched::current();
    let routine = on_apc as *const () as u64;
    api(
        "KeInitializeApc",
        &[apc, thread.addr(), 0, routine, 0, 0, 0, 0],
    );
    assert_eq!(api("KeInsertQueueApc", &[apc, 0, 0, 0]), 1);
}

#[test]
fn releasing_delivers_the_apc_that_waited() {
    for (acquire, release) in [
        ("ExAcquireFastMutex", "ExReleaseFastMutex"),
        ("KeAcquireGuardedMutex", "KeReleaseGuardedMutex"),
    ] {
        let _machine = driver_runs();
        DELIVERED.store(0, Ordering::Relaxed);
        let mutex = mutex();
        call(acquire, &[mutex.addr()], true);
        queue_apc();
        // Whatever else is called meanwhile does not make it forgotten.
        api("KeReadStateEvent", &[block(size_of::<KEVENT>() as u64)]);
        assert_eq!(DELIVERED.load(Ordering::Relaxed), 0, "{acquire}");
        call(release, &[mutex.addr()], false);
        assert_eq!(DELIVERED.load(Ordering::Relaxed), 1, "{release}");
        assert_eq!((mutex.read().Count, shared::irql()), (1, 0));
    }
}

#[test]
fn leaving_a_region_delivers_the_apc_that_waited() {
    let _machine = driver_runs();
    DELIVERED.store(0, Ordering::Relaxed);
    call("KeEnterCriticalRegion", &[], true);
    call("KeEnterGuardedRegion", &[], true);
    queue_apc();
    assert_eq!(DELIVERED.load(Ordering::Relaxed), 0);
    call("KeLeaveGuardedRegion", &[], false);
    assert_eq!(DELIVERED.load(Ordering::Relaxed), 1, "a special one");
    assert_eq!(api("KeAreApcsDisabled", &[]), 1);
    call("KeLeaveCriticalRegion", &[], true);
    assert_eq!(api("KeAreApcsDisabled", &[]), 0);
}

#[test]
fn events_change_state() {
    let _machine = driver_runs();
    let event = block(size_of::<KEVENT>() as u64);
    api("KeInitializeEvent", &[event, 0, 0]);
    assert_eq!(api("KeSetEvent", &[event, 0, 0]), 0);
    assert_eq!(api("KeReadStateEvent", &[event]), 1);
    assert_eq!(api("KeResetEvent", &[event]), 1);
    // Bits above a BOOLEAN are no part of it.
    assert_eq!(api("KeSetEvent", &[event, 0, 0xFFFF_FF00]), 0);
    api("KeClearEvent", &[event]);
    assert_eq!(api("KeReadStateEvent", &[event]), 0);
}

/// The newest record's time stamp, which a fast path does not take.
fn was_fast() -> bool {
    let ring = shared::platform().shared() + Shared::TRACE;
    let number: u64 = volatile_read::<u64>(ring) - 1;
    let slot = number % abi::trace::TRACE_ENTRIES as u64;
    let entries = ring + core::mem::offset_of!(abi::trace::TraceRing, entries) as u64;
    volatile_read::<u64>(entries + slot * size_of::<abi::trace::TraceRecord>() as u64) == 0
}

#[test]
fn blocks_of_every_size_are_what_the_ordinary_path_makes() {
    let _machine = driver_runs();
    let mut fast_ones = 0;
    for bytes in (1..4090).step_by(7) {
        // The first of a page takes the ordinary path.
        let blocks = [0; 3].map(|_| {
            let block = api("ExAllocatePoolWithTag", &[bytes % 2, bytes, TAG]);
            fast_ones += u32::from(was_fast());
            let found = pool::block_at(block).unwrap();
            assert_eq!((found.bytes, u64::from(found.tag)), (bytes, TAG));
            assert_eq!(found.is_paged, bytes % 2 == 1);
            Ptr::<u8>::new(block).fill(0x77, bytes);
            block
        });
        for index in [1, 0, 2] {
            api("ExFreePoolWithTag", &[blocks[index], TAG]);
            fast_ones += u32::from(was_fast());
            assert!(pool::block_at(blocks[index]).is_none(), "{bytes}");
        }
    }
    // Large ones have their page to themselves, or share it with one other.
    assert!(fast_ones > 900, "{fast_ones}");
    assert!(pool::free_bytes() > POOL_BYTES * 9 / 10);
}

#[test]
fn zeroed_blocks_are_zero_and_guarded() {
    const NON_PAGED: u64 = 0x40;
    let _machine = driver_runs();
    for bytes in [1, 7, 8, 9, 64, 100, 255, 256, 257, 1000] {
        let _page = api("ExAllocatePool2", &[NON_PAGED, bytes, TAG]);
        let dirty = api("ExAllocatePool2", &[NON_PAGED, bytes, TAG]);
        Ptr::<u8>::new(dirty).fill(0xFF, bytes);
        api("ExFreePool", &[dirty]);
        let clean = api("ExAllocatePool2", &[NON_PAGED, bytes, TAG]);
        assert_eq!(clean, dirty);
        assert!(
            Ptr::<u8>::new(clean)
                .read_slice(usize::try_from(bytes).unwrap())
                .iter()
                .all(|&byte| byte == 0)
        );
        // The guard is checked.
        api("ExFreePoolWithTag", &[clean, TAG]);
    }
}

#[test]
fn what_is_wrong_about_a_free_is_not_for_the_fast_path() {
    let _machine = driver_runs();
    let tag = u32::try_from(TAG).unwrap();
    let _other = block(40);
    let block = Ptr::<u8>::new(block(40));
    assert!(fast::free(block, tag + 1).is_none(), "another tag");
    assert!(fast::free(block.add_bytes(16), tag).is_none(), "inside");
    assert!(fast::free(Ptr::null(), tag).is_none());
    assert!(fast::free(Ptr::new(0x1234_5678), tag).is_none());
    assert!(fast::free(Ptr::new(u64::MAX), tag).is_none());
    let guard = block.add_bytes(40);
    let byte = guard.read();
    guard.write(0);
    assert!(fast::free(block, tag).is_none(), "an overrun");
    guard.write(byte);
    shared::set_irql(3);
    assert!(fast::free(block, tag).is_none(), "above DISPATCH_LEVEL");
    assert!(fast::allocate(false, false, 40, tag).is_none());
    shared::set_irql(2);
    assert!(fast::allocate(true, false, 40, tag).is_none(), "paged");
    assert!(pool::block_at(block.addr()).is_some());
    assert!(fast::free(block, tag).is_some());
    assert!(fast::free(block, tag).is_none(), "twice");
    assert!(fast::allocate(false, false, 40, 0).is_none(), "no tag");
    assert!(fast::allocate(false, false, 0, tag).is_none(), "no bytes");
    assert!(fast::allocate(false, false, u64::MAX, tag).is_none());
    assert_eq!(fast::allocate(false, false, 40, tag), Some(block));
}

#[test]
fn verified_drivers_get_no_fast_blocks() {
    let _machine = verifying_machine();
    let tag = u32::try_from(TAG).unwrap();
    let _other = block(40);
    assert!(fast::allocate(false, false, 40, tag).is_none());
    assert!(fast::free(Ptr::new(block(40)), tag).is_none());
}

#[test]
fn a_signalled_object_ends_a_wait_at_once() {
    let _machine = driver_runs();
    let object = block(64);
    let wait = |timeout| {
        let result = api("KeWaitForSingleObject", &[object, 0, 0, 0, timeout]);
        (result, was_fast())
    };
    api("KeInitializeEvent", &[object, 1, 1]);
    assert_eq!(wait(0), (0, true));
    assert_eq!(api("KeReadStateEvent", &[object]), 0);
    // With a timeout of nothing, for an object that is not signalled.
    let now = block(8);
    assert_eq!(wait(now), (0x102, false));
    api("KeInitializeEvent", &[object, 0, 1]);
    assert_eq!(wait(0), (0, true));
    assert_eq!(api("KeReadStateEvent", &[object]), 1);
    api("KeInitializeSemaphore", &[object, 2, 3]);
    assert_eq!(wait(0), (0, true));
    assert_eq!(wait(0), (0, true));
    assert_eq!(wait(now), (0x102, false));
    api("KeInitializeMutex", &[object, 0]);
    assert_eq!(wait(0), (0, false), "a mutex has an owner");
}
