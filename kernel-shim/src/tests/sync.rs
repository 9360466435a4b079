//! Locks, rundown, work items, callback objects.

use crate::ex::{
    callback, fast_mutex, push_lock, resource_api as resource, rundown, spin_lock, timer, work,
};
use crate::io::remove_lock::{
    IoAcquireRemoveLockEx, IoInitializeRemoveLockEx, IoReleaseRemoveLockAndWaitEx,
    IoReleaseRemoveLockEx,
};
use crate::ke::{bugcheck_callback, fpu, processor, queued_lock, spin_lock as plain};
use crate::nt::{
    ERESOURCE, FAST_MUTEX, IO_REMOVE_LOCK, KLOCK_QUEUE_HANDLE, NtStatus, WORK_QUEUE_ITEM, bugcheck,
};
use crate::raw::{Ptr, Word};
use crate::test_platform::{api, crash_of, machine};
use crate::value::{Irql, NarrowStringPtr, ObjectAttributesPtr, Size, Tag};
use crate::{ob, ps, shared};
use std::sync::atomic::{AtomicU64, Ordering};

fn memory<T>() -> Ptr<T> {
    let block = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(1024), Tag(1));
    block.fill(0, 1024);
    block.cast()
}

/// The code and first parameter of the bugcheck that `run` makes.
fn stop(run: impl FnOnce()) -> (u32, u64) {
    let crash = crash_of(run);
    (crash.code, crash.parameters[0])
}

const VIOLATION: u32 = bugcheck::DRIVER_VERIFIER_DETECTED_VIOLATION;

#[test]
fn spin_locks_below_dispatch_level_are_violations() {
    let _machine = machine();
    let lock = memory::<Word>();
    assert_eq!(
        stop(|| plain::KeAcquireSpinLockAtDpcLevel(lock)),
        (VIOLATION, 0x40)
    );
    assert_eq!(
        stop(|| plain::KeReleaseSpinLock(lock, Irql(0))).0,
        bugcheck::SPIN_LOCK_NOT_OWNED
    );
    lock.write(1);
    assert_eq!(
        stop(|| plain::KeReleaseSpinLockFromDpcLevel(lock)),
        (VIOLATION, 0x41)
    );
    lock.write(1);
    assert_eq!(
        stop(|| plain::KeReleaseSpinLock(lock, Irql(0))),
        (VIOLATION, 0x32)
    );
    lock.write(0);
    shared::set_irql(2);
    assert!(plain::KeTestSpinLock(lock));
    assert!(plain::KeTryToAcquireSpinLockAtDpcLevel(lock));
    assert!(!plain::KeTryToAcquireSpinLockAtDpcLevel(lock));
    assert!(!plain::KeTestSpinLock(lock));
    plain::KeReleaseSpinLockFromDpcLevel(lock);
    assert_eq!(plain::KeAcquireSpinLockRaiseToSynch(lock).0, 2);
    assert_eq!(shared::irql(), 12);
    plain::KeReleaseSpinLock(lock, Irql(2));
    assert_eq!(shared::irql(), 2);
}

#[test]
fn in_stack_locks_know_their_handle() {
    let _machine = machine();
    let lock = memory::<Word>();
    let (handle, other) = (
        memory::<KLOCK_QUEUE_HANDLE>(),
        memory::<KLOCK_QUEUE_HANDLE>(),
    );
    shared::set_irql(1);
    queued_lock::KeAcquireInStackQueuedSpinLock(lock, handle);
    assert_eq!(
        (shared::irql(), handle.read().OldIrql, lock.read()),
        (2, 1, handle.word())
    );
    other.write(handle.read());
    assert_eq!(
        stop(|| queued_lock::KeReleaseInStackQueuedSpinLock(other)).0,
        bugcheck::SPIN_LOCK_NOT_OWNED
    );
    assert_eq!(
        stop(|| queued_lock::KeAcquireInStackQueuedSpinLockAtDpcLevel(lock, other)).0,
        bugcheck::SPIN_LOCK_ALREADY_OWNED
    );
    queued_lock::KeReleaseInStackQueuedSpinLock(handle);
    assert_eq!((shared::irql(), lock.read()), (1, 0));
    let old = queued_lock::KeAcquireQueuedSpinLock(7);
    let mut irql = 0;
    assert_eq!(
        queued_lock::KeTryToAcquireQueuedSpinLock(7, Ptr::of(&mut irql)),
        0
    );
    queued_lock::KeReleaseQueuedSpinLock(7, old);
    assert_eq!(shared::irql(), 1);
}

#[test]
fn reader_writer_locks_exclude_writers() {
    let _machine = machine();
    let lock = memory::<u32>();
    let old = spin_lock::ExAcquireSpinLockShared(lock);
    assert_eq!(spin_lock::ExTryAcquireSpinLockSharedAtDpcLevel(lock), 1);
    assert_eq!(spin_lock::ExTryConvertSharedSpinLockExclusive(lock), 0);
    assert_eq!(spin_lock::ExTryAcquireSpinLockExclusiveAtDpcLevel(lock), 0);
    spin_lock::ExReleaseSpinLockSharedFromDpcLevel(lock);
    assert_eq!(spin_lock::ExTryConvertSharedSpinLockExclusive(lock), 1);
    assert_eq!(
        stop(|| spin_lock::ExAcquireSpinLockSharedAtDpcLevel(lock)).0,
        bugcheck::SPIN_LOCK_ALREADY_OWNED
    );
    assert_eq!(
        stop(|| spin_lock::ExReleaseSpinLockSharedFromDpcLevel(lock)).0,
        bugcheck::SPIN_LOCK_NOT_OWNED
    );
    spin_lock::ExReleaseSpinLockExclusive(lock, old);
    assert_eq!((shared::irql(), lock.read()), (0, 0));
}

#[test]
fn fast_mutexes_raise_irql_and_know_their_owner() {
    let _machine = machine();
    let mutex = memory::<FAST_MUTEX>();
    fast_mutex::KeInitializeGuardedMutex(mutex);
    fast_mutex::ExAcquireFastMutex(mutex);
    assert_eq!((shared::irql(), mutex.read().Count), (1, 0));
    assert_eq!(mutex.read().Owner, ps::current_thread());
    assert!(!fast_mutex::ExTryToAcquireFastMutex(mutex));
    assert_eq!(
        stop(|| fast_mutex::ExAcquireFastMutex(mutex)),
        (VIOLATION, 0x1000)
    );
    fast_mutex::ExReleaseFastMutex(mutex);
    assert_eq!((shared::irql(), mutex.read().Count), (0, 1));
    assert_eq!(
        stop(|| fast_mutex::ExReleaseFastMutex(mutex)),
        (VIOLATION, 0x34)
    );
    assert_eq!(
        stop(|| fast_mutex::ExReleaseFastMutexUnsafe(mutex)),
        (VIOLATION, 0x1007)
    );
    assert!(fast_mutex::KeTryToAcquireGuardedMutex(mutex));
    assert_eq!(shared::irql(), 0);
    mutex.with(|mutex| mutex.Owner = Ptr::new(0x1000));
    assert_eq!(
        stop(|| fast_mutex::KeReleaseGuardedMutex(mutex)),
        (VIOLATION, 0x1004)
    );
}

#[test]
fn push_locks_count_readers() {
    let _machine = machine();
    let lock = memory::<Word>();
    push_lock::ExfAcquirePushLockShared(lock);
    assert!(push_lock::ExfTryAcquirePushLockShared(lock));
    assert_eq!(lock.read(), 0x21);
    assert!(!push_lock::ExTryAcquirePushLockExclusiveEx(lock, 0));
    push_lock::ExfReleasePushLock(lock);
    push_lock::ExfReleasePushLockShared(lock);
    assert_eq!(lock.read(), 0);
    push_lock::ExfAcquirePushLockExclusive(lock);
    assert!(!push_lock::ExfTryAcquirePushLockShared(lock));
    push_lock::ExfReleasePushLockExclusive(lock);
    assert_eq!(
        stop(|| push_lock::ExfReleasePushLock(lock)),
        (VIOLATION, 0x1007)
    );
}

#[test]
fn resources_recurse_convert_and_change_owners() {
    let _machine = machine();
    let lock = memory::<ERESOURCE>();
    assert_eq!(resource::ExInitializeResourceLite(lock), NtStatus::SUCCESS);
    assert!(resource::ExAcquireResourceExclusiveLite(lock, true));
    assert!(
        resource::ExAcquireResourceSharedLite(lock, true),
        "an owner may recurse"
    );
    assert!(resource::ExIsResourceAcquiredExclusiveLite(lock));
    assert_eq!(resource::ExIsResourceAcquiredSharedLite(lock), 2);
    resource::ExReleaseResourceLite(lock);
    resource::ExConvertExclusiveToSharedLite(lock);
    assert!(!resource::ExIsResourceAcquiredExclusiveLite(lock));
    assert!(!resource::ExTryToAcquireResourceExclusiveLite(lock));
    assert_eq!(
        stop(|| {
            resource::ExAcquireResourceExclusiveLite(lock, true);
        }),
        (VIOLATION, 0x1000)
    );
    let owner = memory::<u8>().addr() | 3;
    assert_eq!(
        stop(|| resource::ExSetResourceOwnerPointer(lock, Size(owner & !3))).0,
        bugcheck::RESOURCE_OWNER_POINTER_INVALID
    );
    resource::ExSetResourceOwnerPointer(lock, Size(owner));
    assert_eq!(resource::ExIsResourceAcquiredSharedLite(lock), 0);
    assert_eq!(
        stop(|| resource::ExReleaseResourceLite(lock)).0,
        bugcheck::RESOURCE_NOT_OWNED
    );
    assert!(
        resource::ExAcquireSharedStarveExclusive(lock, false),
        "another owner of the same"
    );
    assert_eq!(lock.read().ActiveEntries, 2);
    resource::ExReleaseResourceForThreadLite(lock, Size(owner));
    resource::ExReleaseResourceLite(lock);
    assert_eq!((lock.read().ActiveCount, lock.read().Flag), (0, 0));
    assert_eq!(resource::ExDeleteResourceLite(lock), NtStatus::SUCCESS);
}

#[test]
fn a_resource_has_room_for_many_owners() {
    let _machine = machine();
    let lock = memory::<ERESOURCE>();
    let _ = resource::ExInitializeResourceLite(lock);
    let owners: Vec<u64> = (1..=20).map(|number| (number << 8) | 3).collect();
    for &owner in &owners {
        assert!(resource::ExAcquireResourceSharedLite(lock, true));
        resource::ExSetResourceOwnerPointer(lock, Size(owner));
    }
    assert_eq!(lock.read().ActiveCount, 20);
    for &owner in owners.iter().rev() {
        resource::ExReleaseResourceForThreadLite(lock, Size(owner));
    }
    assert!(resource::ExTryToAcquireResourceExclusiveLite(lock));
    resource::ExReleaseResourceLite(lock);
    let _ = resource::ExDeleteResourceLite(lock);
}

#[test]
fn rundown_protection_refuses_and_counts() {
    let _machine = machine();
    let reference = memory::<Word>();
    rundown::ExInitializeRundownProtection(reference);
    assert!(rundown::ExAcquireRundownProtectionEx(reference, 2));
    assert_eq!(reference.read(), 4);
    rundown::ExReleaseRundownProtection(reference);
    rundown::ExReleaseRundownProtection(reference);
    assert_eq!(
        stop(|| rundown::ExReleaseRundownProtection(reference)),
        (bugcheck::KERNEL_SECURITY_CHECK_FAILURE, 14)
    );
    rundown::ExWaitForRundownProtectionRelease(reference);
    assert!(!rundown::ExAcquireRundownProtection(reference));
    rundown::ExReInitializeRundownProtection(reference);
    assert!(rundown::ExAcquireRundownProtection(reference));
    let aware = rundown::ExAllocateCacheAwareRundownProtection(0, Tag(7));
    assert!(rundown::ExAcquireRundownProtectionCacheAware(aware));
    rundown::ExReleaseRundownProtectionCacheAware(aware);
    rundown::ExWaitForRundownProtectionReleaseCacheAware(aware);
    rundown::ExFreeCacheAwareRundownProtection(aware);
}

#[test]
fn remove_locks_refuse_after_removal_and_check_tags() {
    let _machine = machine();
    let lock = memory::<IO_REMOVE_LOCK>();
    let (checked, free) = (0x78, 0x20);
    let tag = Ptr::<u8>::new(0x1234);
    let file = NarrowStringPtr(Ptr::null());
    IoInitializeRemoveLockEx(lock, 1, 0, 2, checked);
    assert_eq!(lock.read().IoCount, 1);
    for _ in 0..2 {
        assert_eq!(
            IoAcquireRemoveLockEx(lock, tag, file, 1, checked),
            NtStatus::SUCCESS
        );
    }
    assert_eq!(
        stop(|| {
            let _ = IoAcquireRemoveLockEx(lock, tag, file, 1, checked);
        }),
        (bugcheck::KMODE_EXCEPTION_NOT_HANDLED, 0x8000_0003),
        "the watermark is 2"
    );
    assert_eq!(
        stop(|| IoReleaseRemoveLockEx(lock, Ptr::null(), checked)).0,
        bugcheck::KMODE_EXCEPTION_NOT_HANDLED
    );
    IoInitializeRemoveLockEx(lock, 1, 0, 0, free);
    assert_eq!(
        IoAcquireRemoveLockEx(lock, tag, file, 1, free),
        NtStatus::SUCCESS
    );
    IoReleaseRemoveLockAndWaitEx(lock, tag, free);
    assert_eq!((lock.read().IoCount, lock.read().Removed), (0, 1));
    assert_eq!(
        IoAcquireRemoveLockEx(lock, tag, file, 1, free),
        NtStatus::DELETE_PENDING
    );
}

static CALLED: AtomicU64 = AtomicU64::new(0);

extern "win64-unwind" fn worker(parameter: u64) -> u64 {
    assert_eq!(
        (shared::irql(), shared::current_process()),
        (0, ps::SYSTEM_ID)
    );
    CALLED.fetch_add(parameter, Ordering::Relaxed)
}

extern "win64-unwind" fn bad_worker(_: u64) -> u64 {
    shared::set_irql(1);
    0
}

/// The test's code is no kernel address as far as ExQueueWorkItem can tell: an address of the pool with a jump would be.
fn item_with(routine: extern "win64-unwind" fn(u64) -> u64) -> Ptr<WORK_QUEUE_ITEM> {
    let item = memory::<WORK_QUEUE_ITEM>();
    item.with(|item| {
        item.WorkerRoutine = routine as *const () as u64;
        item.Parameter = 5;
    });
    item
}

#[test]
fn work_items_run_once_at_passive_level_in_the_system_process() {
    let _machine = machine();
    CALLED.store(0, Ordering::Relaxed);
    let (item, urgent) = (item_with(worker), item_with(worker));
    shared::set_current_process(77);
    work::queue(work::WorkItem::Executive(item), 1);
    work::queue(work::WorkItem::Executive(urgent), 0);
    assert_eq!(
        stop(|| work::queue(work::WorkItem::Executive(item), 1)),
        (bugcheck::WORKER_INVALID, 1)
    );
    assert_eq!(
        work::take(),
        Some(work::WorkItem::Executive(urgent)),
        "critical work goes first"
    );
    work::run_all();
    assert_eq!(
        (CALLED.load(Ordering::Relaxed), shared::current_process()),
        (5, 77)
    );
    assert!(item.read().List.Flink.is_null());
    work::queue(work::WorkItem::Executive(item_with(bad_worker)), 1);
    assert_eq!(
        stop(work::run_all).0,
        bugcheck::WORKER_THREAD_RETURNED_AT_BAD_IRQL
    );
}

extern "win64-unwind" fn on_device_work(device: u64, context: u64, item: u64) -> u64 {
    CALLED.fetch_add(context, Ordering::Relaxed);
    assert_eq!(ob::lookup(device).unwrap().references, 2);
    api("IoFreeWorkItem", &[item])
}

#[test]
fn a_queued_work_item_keeps_its_device() {
    let _machine = machine();
    CALLED.store(0, Ordering::Relaxed);
    let device = ob::create(ob::ObjectType::Device, 64, None).unwrap();
    let item = api("IoAllocateWorkItem", &[device]);
    let routine = on_device_work as *const () as u64;
    api("IoQueueWorkItemEx", &[item, routine, 1, 3]);
    assert_eq!(api("IoTryQueueWorkItem", &[item, routine, 1, 3]), 0);
    assert_eq!(
        stop(|| crate::io::work_item::IoFreeWorkItem(Ptr::new(item))),
        (bugcheck::WORKER_INVALID, 2)
    );
    work::run_all();
    assert_eq!(CALLED.load(Ordering::Relaxed), 3);
    assert_eq!(ob::lookup(device).unwrap().references, 1);
}

extern "win64-unwind" fn on_notify(context: u64, first: u64, second: u64) -> u64 {
    CALLED.fetch_add(context * 100 + first * 10 + second, Ordering::Relaxed)
}

#[test]
fn callbacks_are_called_with_their_context_until_they_are_taken_back() {
    let _machine = machine();
    CALLED.store(0, Ordering::Relaxed);
    let mut object = 0_u64;
    let at = Ptr::of(&mut object).cast();
    let nobody = ObjectAttributesPtr(Ptr::null());
    assert_eq!(
        callback::ExCreateCallback(at, nobody, false, true),
        NtStatus::UNSUCCESSFUL
    );
    assert_eq!(
        callback::ExCreateCallback(at, nobody, true, false),
        NtStatus::SUCCESS
    );
    let object = Ptr::<u8>::new(at.read());
    let function = Ptr::new(on_notify as *const () as u64);
    let registration = callback::ExRegisterCallback(object, function, Ptr::new(3));
    assert!(!registration.is_null());
    assert!(callback::ExRegisterCallback(object, function, Ptr::new(4)).is_null());
    callback::ExNotifyCallback(object, Ptr::new(2), Ptr::new(1));
    assert_eq!(CALLED.load(Ordering::Relaxed), 321);
    callback::ExUnregisterCallback(registration);
    callback::ExNotifyCallback(object, Ptr::new(2), Ptr::new(1));
    assert_eq!(CALLED.load(Ordering::Relaxed), 321);
    assert_eq!(ob::lookup(object.addr()).unwrap().references, 1);
    assert!(ob::names::resolve("\\Callback\\PowerState").is_ok());
}

extern "win64-unwind" fn on_bugcheck(buffer: u64, bytes: u64) -> u64 {
    assert_eq!(shared::irql(), 15);
    Ptr::<u64>::new(buffer).write(bytes);
    bugcheck::bugcheck(0x77, [0; 4])
}

#[test]
fn bugcheck_callbacks_run_and_cannot_change_the_report() {
    let _machine = machine();
    let (record, buffer) = (memory(), memory::<u64>());
    let routine = Ptr::new(on_bugcheck as *const () as u64);
    let register = || {
        bugcheck_callback::KeRegisterBugCheckCallback(
            record,
            routine,
            buffer.cast(),
            9,
            Ptr::null(),
        )
    };
    assert!(register() && !register());
    assert!(bugcheck_callback::KeDeregisterBugCheckCallback(record));
    assert!(!bugcheck_callback::KeDeregisterBugCheckCallback(record));
    assert!(register());
    let crash = crash_of(|| bugcheck::bugcheck(0xE2, [1, 2, 3, 4]));
    assert_eq!(
        (crash.code, crash.parameters, crash.irql),
        (0xE2, [1, 2, 3, 4], 0)
    );
    assert_eq!(buffer.read(), 9);
    assert_eq!(record.read().State, 2, "it did not come to its end");
}

extern "win64-unwind" fn on_timer(timer: u64, context: u64) -> u64 {
    assert_eq!(shared::irql(), 2);
    if CALLED.fetch_add(context, Ordering::Relaxed) >= 2 * context {
        api("ExDeleteTimer", &[timer, 1, 0, 0]);
    }
    0
}

#[test]
fn executive_timers_call_back_and_may_delete_themselves() {
    let _machine = machine();
    CALLED.store(0, Ordering::Relaxed);
    let timer = Ptr::new(api(
        "ExAllocateTimer",
        &[on_timer as *const () as u64, 7, 8],
    ));
    assert!(!timer::ExSetTimer(timer, -10_000, 10_000, Ptr::null()));
    assert!(timer::ExCancelTimer(timer, Ptr::null()));
    assert!(!timer::ExSetTimer(timer, -10_000, 10_000, Ptr::null()));
    let mut interval = -100_000_i64;
    crate::ke::event::KeDelayExecutionThread(
        crate::value::ProcessorMode(0),
        false,
        Ptr::of(&mut interval),
    );
    assert_eq!(
        CALLED.load(Ordering::Relaxed),
        21,
        "three times in 10 ms, then it was deleted"
    );
    assert!(crate::ex::pool::block_at(timer.addr()).is_none());
}

#[test]
fn floating_point_state_is_restored_where_it_was_saved() {
    let _machine = machine();
    let area = memory::<u8>();
    assert_eq!(fpu::KeSaveFloatingPointState(area), NtStatus::SUCCESS);
    shared::set_irql(1);
    assert_eq!(
        stop(|| {
            let _ = fpu::KeRestoreFloatingPointState(area);
        }),
        (bugcheck::INVALID_FLOATING_POINT_STATE, 1)
    );
    shared::set_irql(0);
    assert_eq!(fpu::KeRestoreFloatingPointState(area), NtStatus::SUCCESS);
    assert_eq!(
        stop(|| {
            let _ = fpu::KeRestoreFloatingPointState(area);
        }),
        (bugcheck::INVALID_FLOATING_POINT_STATE, 0)
    );
}

extern "win64-unwind" fn at_ipi_level(argument: u64) -> u64 {
    u64::from(shared::irql()) * 1000 + argument
}

#[test]
fn there_is_one_processor() {
    let _machine = machine();
    let routine = Ptr::new(at_ipi_level as *const () as u64);
    assert_eq!(processor::KeIpiGenericCall(routine, Size(5)).0, 14_005);
    assert_eq!(shared::irql(), 0);
    assert_eq!(processor::KeQueryActiveProcessorCountEx(0xFFFF), 1);
    assert_eq!(processor::KeQueryActiveProcessorCountEx(1), 0);
    assert_eq!(
        stop(|| processor::KeSetSystemAffinityThread(Size(2))).0,
        VIOLATION
    );
    let handle = processor::KeRegisterNmiCallback(routine, Ptr::null());
    assert_eq!(
        processor::KeDeregisterNmiCallback(handle),
        NtStatus::SUCCESS
    );
    assert_eq!(
        processor::KeDeregisterNmiCallback(handle),
        NtStatus::INVALID_HANDLE
    );
}

extern "win64-unwind" fn release_push_lock(_dpc: u64, lock: u64, _first: u64, _second: u64) -> u64 {
    push_lock::ExfReleasePushLock(Ptr::new(lock));
    0
}

#[test]
fn a_push_lock_is_passed_to_who_waits() {
    let _machine = machine();
    let lock = memory::<Word>();
    let (timer, dpc) = (memory(), memory());
    crate::ke::timer::KeInitializeTimer(timer);
    let routine = Ptr::new(release_push_lock as *const () as u64);
    crate::ke::dpc::KeInitializeDpc(dpc, routine, lock.cast());
    push_lock::ExfAcquirePushLockExclusive(lock);
    crate::ke::timer::set(timer, -10_000, 0, dpc);
    push_lock::ExfAcquirePushLockShared(lock);
    assert_eq!(lock.read(), 0x11, "one reader, and nobody waits");
    crate::ke::timer::set(timer, -10_000, 0, dpc);
    push_lock::ExfAcquirePushLockExclusive(lock);
    assert_eq!(lock.read(), 1);
    push_lock::ExfReleasePushLock(lock);
    assert_eq!(lock.read(), 0);
}
