/* Locks above the dispatcher: spin locks (plain, queued in-stack, reader/writer), fast and guarded mutexes, push locks,
 * resources, rundown protection, remove locks.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define IS64 (sizeof(PVOID) == 8)

/* What mingw-w64's headers lack, or have as macros. */
#undef KeTestSpinLock
#undef KeTryToAcquireSpinLockAtDpcLevel
NTKERNELAPI BOOLEAN FASTCALL KeTestSpinLock(PKSPIN_LOCK lock);
NTKERNELAPI BOOLEAN FASTCALL KeTryToAcquireSpinLockAtDpcLevel(PKSPIN_LOCK lock);
NTKERNELAPI KIRQL NTAPI ExAcquireSpinLockShared(volatile LONG *lock);
NTKERNELAPI VOID NTAPI ExReleaseSpinLockShared(volatile LONG *lock, KIRQL irql);
NTKERNELAPI KIRQL NTAPI ExAcquireSpinLockExclusive(volatile LONG *lock);
NTKERNELAPI VOID NTAPI ExReleaseSpinLockExclusive(volatile LONG *lock, KIRQL irql);
NTKERNELAPI VOID NTAPI ExAcquireSpinLockSharedAtDpcLevel(volatile LONG *lock);
NTKERNELAPI VOID NTAPI ExReleaseSpinLockSharedFromDpcLevel(volatile LONG *lock);
NTKERNELAPI VOID NTAPI ExAcquireSpinLockExclusiveAtDpcLevel(volatile LONG *lock);
NTKERNELAPI VOID NTAPI ExReleaseSpinLockExclusiveFromDpcLevel(volatile LONG *lock);
NTKERNELAPI ULONG NTAPI ExTryConvertSharedSpinLockExclusive(volatile LONG *lock);
NTKERNELAPI VOID FASTCALL ExfAcquirePushLockExclusive(PULONG_PTR lock);
NTKERNELAPI VOID FASTCALL ExfAcquirePushLockShared(PULONG_PTR lock);
NTKERNELAPI BOOLEAN FASTCALL ExfTryAcquirePushLockShared(PULONG_PTR lock);
NTKERNELAPI VOID FASTCALL ExfReleasePushLock(PULONG_PTR lock);
NTKERNELAPI VOID FASTCALL ExfReleasePushLockExclusive(PULONG_PTR lock);
NTKERNELAPI VOID FASTCALL ExfReleasePushLockShared(PULONG_PTR lock);
NTKERNELAPI VOID NTAPI ExInitializePushLock(PULONG_PTR lock);
NTKERNELAPI BOOLEAN NTAPI ExTryToAcquireResourceExclusiveLite(PERESOURCE resource);
NTKERNELAPI VOID NTAPI ExSetResourceOwnerPointer(PERESOURCE resource, PVOID owner);

static KSPIN_LOCK spin;
static KLOCK_QUEUE_HANDLE handle, other;
static volatile LONG rw;
static FAST_MUTEX fast;
static KGUARDED_MUTEX guarded;
static ULONG_PTR push;
static ERESOURCE resource;
static KIRQL before; /* raised to APC_LEVEL: no APCs while a resource or push lock is held */
static EX_RUNDOWN_REF rundown;
static struct {
    IO_REMOVE_LOCK lock;
    UCHAR checked[128];
} removal;

#define LOCK_TAG 0x6B636F4C /* "Lock" */
#define FREE_SIZE sizeof(IO_REMOVE_LOCK)
#define CHECKED_SIZE (IS64 ? 0x78 : 0x58)

/* ---- Spin locks. ---- */

KTEST(spin_lock_raises_and_restores)
{
    KIRQL old = 77, raised;
    KeInitializeSpinLock(&spin);
    CHECK_EQ(spin, 0);
    CHECK(KeTestSpinLock(&spin));
    KeAcquireSpinLock(&spin, &old);
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK(spin != 0);
    CHECK(!KeTestSpinLock(&spin));
    KeReleaseSpinLock(&spin, old);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_EQ(spin, 0);
    KeRaiseIrql(APC_LEVEL, &raised);
    KeAcquireSpinLock(&spin, &old);
    CHECK_EQ(old, APC_LEVEL);
    KeReleaseSpinLock(&spin, old);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(raised);
}

KTEST(spin_lock_at_dpc_level)
{
    KIRQL old;
    KeInitializeSpinLock(&spin);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    KeAcquireSpinLockAtDpcLevel(&spin);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK(!KeTryToAcquireSpinLockAtDpcLevel(&spin));
    KeReleaseSpinLockFromDpcLevel(&spin);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK(KeTryToAcquireSpinLockAtDpcLevel(&spin));
    CHECK(!KeTestSpinLock(&spin));
    KeReleaseSpinLockFromDpcLevel(&spin);
    CHECK(KeTestSpinLock(&spin));
    KeLowerIrql(old);
}

KTEST(spin_locks_nest)
{
    KSPIN_LOCK inner;
    KIRQL old, nested;
    KeInitializeSpinLock(&spin);
    KeInitializeSpinLock(&inner);
    KeAcquireSpinLock(&spin, &old);
    KeAcquireSpinLock(&inner, &nested);
    CHECK_EQ(nested, DISPATCH_LEVEL);
    KeReleaseSpinLock(&inner, nested);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeReleaseSpinLock(&spin, old);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(queued_in_stack)
{
    KIRQL old;
    CHECK_EQ(sizeof(KLOCK_QUEUE_HANDLE), IS64 ? 0x18 : 0xC);
    KeInitializeSpinLock(&spin);
    KeAcquireInStackQueuedSpinLock(&spin, &handle);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_EQ(handle.OldIrql, PASSIVE_LEVEL);
    CHECK(!KeTestSpinLock(&spin));
    KeReleaseInStackQueuedSpinLock(&handle);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK(KeTestSpinLock(&spin));
    KeRaiseIrql(APC_LEVEL, &old);
    KeAcquireInStackQueuedSpinLock(&spin, &handle);
    CHECK_EQ(handle.OldIrql, APC_LEVEL);
    KeReleaseInStackQueuedSpinLock(&handle);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(old);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    KeAcquireInStackQueuedSpinLockAtDpcLevel(&spin, &handle);
    CHECK(!KeTestSpinLock(&spin));
    KeReleaseInStackQueuedSpinLockFromDpcLevel(&handle);
    CHECK(KeTestSpinLock(&spin));
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeLowerIrql(old);
}

KTEST(reader_writer)
{
    KIRQL old;
    rw = 0;
    old = ExAcquireSpinLockShared(&rw);
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_EQ(rw, 1);
    ExAcquireSpinLockSharedAtDpcLevel(&rw);
    CHECK_EQ(rw, 2);
    CHECK_EQ(ExTryConvertSharedSpinLockExclusive(&rw), 0);
    CHECK_EQ(rw, 2);
    ExReleaseSpinLockSharedFromDpcLevel(&rw);
    CHECK_EQ(ExTryConvertSharedSpinLockExclusive(&rw), 1);
    CHECK(rw < 0);
    ExReleaseSpinLockExclusive(&rw, old);
    CHECK_EQ(rw, 0);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    old = ExAcquireSpinLockExclusive(&rw);
    CHECK_EQ(old, PASSIVE_LEVEL);
    CHECK(rw < 0);
    ExReleaseSpinLockExclusiveFromDpcLevel(&rw);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    ExAcquireSpinLockExclusiveAtDpcLevel(&rw);
    ExReleaseSpinLockExclusive(&rw, old);
    old = ExAcquireSpinLockShared(&rw);
    ExReleaseSpinLockShared(&rw, old);
    CHECK_EQ(rw, 0);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST_BUGCHECK(spin_at_dpc_below_dispatch, 0xC4)
{
    KeInitializeSpinLock(&spin);
    KeAcquireSpinLockAtDpcLevel(&spin);
}

KTEST_BUGCHECK(spin_above_dispatch, 0x0A)
{
    KIRQL old;
    KeInitializeSpinLock(&spin);
    KeRaiseIrql(DISPATCH_LEVEL + 1, &old);
    KeAcquireSpinLock(&spin, &old);
}

KTEST_BUGCHECK(queued_twice, 0x0F)
{
    KeInitializeSpinLock(&spin);
    KeAcquireInStackQueuedSpinLock(&spin, &handle);
    KeAcquireInStackQueuedSpinLock(&spin, &other);
}

KTEST_BUGCHECK(queued_released_twice, 0x10)
{
    KeInitializeSpinLock(&spin);
    KeAcquireInStackQueuedSpinLock(&spin, &handle);
    KeReleaseInStackQueuedSpinLock(&handle);
    KeReleaseInStackQueuedSpinLock(&handle);
}

KTEST_BUGCHECK(queued_released_by_another_handle, 0x10)
{
    KeInitializeSpinLock(&spin);
    KeAcquireInStackQueuedSpinLock(&spin, &handle);
    other = handle;
    KeReleaseInStackQueuedSpinLock(&other);
}

KTEST_BUGCHECK(writer_while_readers, 0x0F)
{
    rw = 0;
    ExAcquireSpinLockShared(&rw);
    ExAcquireSpinLockExclusiveAtDpcLevel(&rw);
}

KTEST_BUGCHECK(reader_released_unowned, 0x10)
{
    KIRQL old;
    rw = 0;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExReleaseSpinLockSharedFromDpcLevel(&rw);
}

/* ---- Fast and guarded mutexes. ---- */

KTEST(fast_mutex_layout)
{
    CHECK_EQ(sizeof(FAST_MUTEX), IS64 ? 0x38 : 0x20);
    CHECK_EQ(FIELD_OFFSET(FAST_MUTEX, Owner), IS64 ? 8 : 4);
    CHECK_EQ(FIELD_OFFSET(FAST_MUTEX, Event), IS64 ? 0x18 : 0xC);
    CHECK_EQ(FIELD_OFFSET(FAST_MUTEX, OldIrql), IS64 ? 0x30 : 0x1C);
    ExInitializeFastMutex(&fast);
    CHECK_EQ(fast.Count, 1);
    CHECK_PTR(fast.Owner, NULL);
    CHECK_EQ(fast.Contention, 0);
}

KTEST(fast_mutex)
{
    KIRQL old;
    ExInitializeFastMutex(&fast);
    ExAcquireFastMutex(&fast);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    CHECK_PTR(fast.Owner, KeGetCurrentThread());
    CHECK(fast.Count != 1);
    CHECK_EQ(fast.OldIrql, PASSIVE_LEVEL);
    CHECK(!ExTryToAcquireFastMutex(&fast));
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    ExReleaseFastMutex(&fast);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_EQ(fast.Count, 1);
    CHECK_PTR(fast.Owner, NULL);
    CHECK_EQ(fast.Contention, 0);
    CHECK(ExTryToAcquireFastMutex(&fast));
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    ExReleaseFastMutex(&fast);
    KeRaiseIrql(APC_LEVEL, &old);
    ExAcquireFastMutex(&fast);
    CHECK_EQ(fast.OldIrql, APC_LEVEL);
    ExReleaseFastMutex(&fast);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(old);
}

KTEST(fast_mutex_unsafe)
{
    KIRQL old;
    ExInitializeFastMutex(&fast);
    KeRaiseIrql(APC_LEVEL, &old);
    ExAcquireFastMutexUnsafe(&fast);
    CHECK_PTR(fast.Owner, KeGetCurrentThread());
    CHECK(!ExTryToAcquireFastMutex(&fast));
    ExReleaseFastMutexUnsafe(&fast);
    CHECK_EQ(fast.Count, 1);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(old);
}

KTEST(guarded_mutex)
{
    CHECK_EQ(sizeof(KGUARDED_MUTEX), IS64 ? 0x38 : 0x20);
    KeInitializeGuardedMutex(&guarded);
    CHECK_EQ(guarded.Count, 1);
    KeAcquireGuardedMutex(&guarded);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_PTR(guarded.Owner, KeGetCurrentThread());
    CHECK(!KeTryToAcquireGuardedMutex(&guarded));
    KeReleaseGuardedMutex(&guarded);
    CHECK_EQ(guarded.Count, 1);
    CHECK_PTR(guarded.Owner, NULL);
    CHECK(KeTryToAcquireGuardedMutex(&guarded));
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    KeReleaseGuardedMutex(&guarded);
    KeAcquireGuardedMutex(&guarded);
    KeReleaseGuardedMutex(&guarded);
    CHECK_EQ(guarded.Contention, 0);
}

KTEST_BUGCHECK(fast_mutex_twice, 0xC4)
{
    ExInitializeFastMutex(&fast);
    ExAcquireFastMutex(&fast);
    ExAcquireFastMutex(&fast);
}

KTEST_BUGCHECK(fast_mutex_at_dispatch, 0x0A)
{
    KIRQL old;
    ExInitializeFastMutex(&fast);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExAcquireFastMutex(&fast);
}

KTEST_BUGCHECK(fast_mutex_released_unowned, 0xC4)
{
    KIRQL old;
    ExInitializeFastMutex(&fast);
    KeRaiseIrql(APC_LEVEL, &old);
    ExReleaseFastMutex(&fast);
}

KTEST_BUGCHECK(fast_mutex_released_at_passive, 0xC4)
{
    ExInitializeFastMutex(&fast);
    ExAcquireFastMutex(&fast);
    KeLowerIrql(PASSIVE_LEVEL);
    ExReleaseFastMutex(&fast);
}

KTEST_BUGCHECK(guarded_mutex_at_dispatch, 0x0A)
{
    KIRQL old;
    KeInitializeGuardedMutex(&guarded);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    KeAcquireGuardedMutex(&guarded);
}

/* ---- Push locks. ---- */

KTEST(push_lock)
{
    push = 77;
    ExInitializePushLock(&push);
    CHECK_EQ(push, 0);
    KeRaiseIrql(APC_LEVEL, &before);
    ExfAcquirePushLockExclusive(&push);
    CHECK_EQ(push & 1, 1);
    CHECK(!ExfTryAcquirePushLockShared(&push));
    ExfReleasePushLockExclusive(&push);
    CHECK_EQ(push, 0);
    ExfAcquirePushLockShared(&push);
    CHECK_EQ(push, 0x11);
    CHECK(ExfTryAcquirePushLockShared(&push));
    CHECK_EQ(push, 0x21);
    ExfReleasePushLockShared(&push);
    ExfReleasePushLock(&push);
    CHECK_EQ(push, 0);
    KeLowerIrql(before);
}

/* ---- Resources. ---- */

KTEST(resource_layout)
{
    CHECK_EQ(sizeof(ERESOURCE), IS64 ? 0x68 : 0x38);
    CHECK_EQ(FIELD_OFFSET(ERESOURCE, ActiveCount), IS64 ? 0x18 : 0xC);
    CHECK_EQ(FIELD_OFFSET(ERESOURCE, Flag), IS64 ? 0x1A : 0xE);
    RtlFillMemory(&resource, sizeof(resource), 0xCC);
    CHECK_STATUS(ExInitializeResourceLite(&resource), STATUS_SUCCESS);
    CHECK_EQ(resource.ActiveCount, 0);
    CHECK_EQ(resource.Flag, 0);
    CHECK_EQ(ExGetSharedWaiterCount(&resource), 0);
    CHECK_EQ(ExGetExclusiveWaiterCount(&resource), 0);
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 0);
    CHECK_STATUS(ExDeleteResourceLite(&resource), STATUS_SUCCESS);
}

KTEST(resource_exclusive)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    CHECK(ExAcquireResourceExclusiveLite(&resource, FALSE));
    CHECK(ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    CHECK_EQ(resource.ActiveCount, 1);
    CHECK_EQ(resource.Flag & 0x80, 0x80);
    CHECK(ExAcquireResourceExclusiveLite(&resource, TRUE));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 2);
    CHECK(ExAcquireResourceSharedLite(&resource, TRUE));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 3);
    CHECK(ExAcquireSharedStarveExclusive(&resource, FALSE));
    CHECK(ExAcquireSharedWaitForExclusive(&resource, FALSE));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 5);
    ExReleaseResourceLite(&resource);
    ExReleaseResourceLite(&resource);
    ExReleaseResourceLite(&resource);
    ExReleaseResourceLite(&resource);
    CHECK(ExIsResourceAcquiredExclusiveLite(&resource));
    ExReleaseResourceLite(&resource);
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(resource.ActiveCount, 0);
    CHECK_EQ(resource.Flag & 0x80, 0);
    KeLowerIrql(before);
    ExDeleteResourceLite(&resource);
}

KTEST(resource_shared)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    CHECK(ExAcquireResourceSharedLite(&resource, FALSE));
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    CHECK_EQ(resource.Flag & 0x80, 0);
    CHECK(!ExAcquireResourceExclusiveLite(&resource, FALSE));
    CHECK(!ExTryToAcquireResourceExclusiveLite(&resource));
    CHECK(ExAcquireResourceSharedLite(&resource, TRUE));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 2);
    CHECK_EQ(resource.ActiveCount, 1);
    ExReleaseResourceLite(&resource);
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    ExReleaseResourceForThreadLite(&resource, ExGetCurrentResourceThread());
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 0);
    CHECK(ExTryToAcquireResourceExclusiveLite(&resource));
    ExReleaseResourceLite(&resource);
    KeLowerIrql(before);
    ExDeleteResourceLite(&resource);
}

KTEST(resource_convert)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExConvertExclusiveToSharedLite(&resource);
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    CHECK(!ExTryToAcquireResourceExclusiveLite(&resource));
    CHECK(ExAcquireResourceSharedLite(&resource, FALSE));
    ExReleaseResourceLite(&resource);
    ExReleaseResourceLite(&resource);
    CHECK_EQ(resource.ActiveCount, 0);
    KeLowerIrql(before);
    ExDeleteResourceLite(&resource);
}

KTEST(resource_owner_pointer)
{
    static ULONG_PTR owner[2];
    ERESOURCE_THREAD as_thread = (ERESOURCE_THREAD)&owner[0] | 3;
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, (PVOID)as_thread);
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 0);
    CHECK(!ExAcquireResourceSharedLite(&resource, FALSE));
    ExReleaseResourceForThreadLite(&resource, as_thread);
    CHECK_EQ(resource.ActiveCount, 0);
    ExAcquireResourceSharedLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, (PVOID)as_thread);
    CHECK(ExAcquireResourceSharedLite(&resource, FALSE));
    CHECK_EQ(resource.ActiveCount, 2);
    ExReleaseResourceForThreadLite(&resource, as_thread);
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    ExReleaseResourceLite(&resource);
    KeLowerIrql(before);
    CHECK_STATUS(ExReinitializeResourceLite(&resource), STATUS_SUCCESS);
    CHECK_EQ(resource.ActiveCount, 0);
    ExDeleteResourceLite(&resource);
}

KTEST_BUGCHECK(resource_released_unowned, 0xE3)
{
    ExInitializeResourceLite(&resource);
    ExReleaseResourceLite(&resource);
}

KTEST_BUGCHECK(resource_released_for_another, 0xE3)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExReleaseResourceForThreadLite(&resource, ExGetCurrentResourceThread() + 8);
}

KTEST_BUGCHECK(resource_converted_unowned, 0xE3)
{
    ExInitializeResourceLite(&resource);
    ExConvertExclusiveToSharedLite(&resource);
}

KTEST_BUGCHECK(resource_upgrade_deadlocks, 0xC4)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceSharedLite(&resource, TRUE);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
}

KTEST_BUGCHECK(resource_at_dispatch, 0x0A)
{
    KIRQL old;
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExAcquireResourceExclusiveLite(&resource, FALSE);
}

KTEST_BUGCHECK(resource_bad_owner_pointer, 0x132)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, &resource);
}

/* ---- Rundown protection. ---- */

KTEST(rundown_protection)
{
    CHECK_EQ(sizeof(EX_RUNDOWN_REF), sizeof(PVOID));
    ExInitializeRundownProtection(&rundown);
    CHECK_EQ(rundown.Count, 0);
    CHECK(ExAcquireRundownProtection(&rundown));
    CHECK_EQ(rundown.Count, 2);
    CHECK(ExAcquireRundownProtectionEx(&rundown, 3));
    CHECK_EQ(rundown.Count, 8);
    ExReleaseRundownProtectionEx(&rundown, 3);
    CHECK_EQ(rundown.Count, 2);
    ExReleaseRundownProtection(&rundown);
    CHECK_EQ(rundown.Count, 0);
    ExWaitForRundownProtectionRelease(&rundown);
    CHECK_EQ(rundown.Count, 1);
    CHECK(!ExAcquireRundownProtection(&rundown));
    CHECK(!ExAcquireRundownProtectionEx(&rundown, 2));
    CHECK_EQ(rundown.Count, 1);
    ExWaitForRundownProtectionRelease(&rundown);
    ExReInitializeRundownProtection(&rundown);
    CHECK(ExAcquireRundownProtection(&rundown));
    ExReleaseRundownProtection(&rundown);
    ExRundownCompleted(&rundown);
    CHECK(!ExAcquireRundownProtection(&rundown));
}

KTEST_BUGCHECK(rundown_released_too_often, 0x139)
{
    ExInitializeRundownProtection(&rundown);
    ExReleaseRundownProtection(&rundown);
}

/* ---- Remove locks. ---- */

KTEST(remove_lock)
{
    IO_REMOVE_LOCK *lock = &removal.lock;
    CHECK_EQ(FREE_SIZE, IS64 ? 0x20 : 0x18);
    IoInitializeRemoveLockEx(lock, LOCK_TAG, 0, 0, FREE_SIZE);
    CHECK_EQ(lock->Common.IoCount, 1);
    CHECK(!lock->Common.Removed);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, NULL, __FILE__, __LINE__, FREE_SIZE), STATUS_SUCCESS);
    CHECK_EQ(lock->Common.IoCount, 2);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, lock, __FILE__, __LINE__, FREE_SIZE), STATUS_SUCCESS);
    CHECK_EQ(lock->Common.IoCount, 3);
    IoReleaseRemoveLockEx(lock, lock, FREE_SIZE);
    CHECK_EQ(lock->Common.IoCount, 2);
    IoReleaseRemoveLockAndWaitEx(lock, NULL, FREE_SIZE);
    CHECK_EQ(lock->Common.IoCount, 0);
    CHECK(lock->Common.Removed);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, NULL, __FILE__, __LINE__, FREE_SIZE), STATUS_DELETE_PENDING);
    CHECK_EQ(lock->Common.IoCount, 0);
}

KTEST(remove_lock_checked)
{
    IO_REMOVE_LOCK *lock = &removal.lock;
    IoInitializeRemoveLockEx(lock, LOCK_TAG, 1, 2, CHECKED_SIZE);
    CHECK_MEM(removal.checked, "COIR", 4);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, (PVOID)1, __FILE__, __LINE__, CHECKED_SIZE), STATUS_SUCCESS);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, (PVOID)2, __FILE__, __LINE__, CHECKED_SIZE), STATUS_SUCCESS);
    IoReleaseRemoveLockEx(lock, (PVOID)1, CHECKED_SIZE);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, (PVOID)1, __FILE__, __LINE__, CHECKED_SIZE), STATUS_SUCCESS);
    IoReleaseRemoveLockEx(lock, (PVOID)2, CHECKED_SIZE);
    IoReleaseRemoveLockAndWaitEx(lock, (PVOID)1, CHECKED_SIZE);
    CHECK_EQ(lock->Common.IoCount, 0);
}

KTEST_BUGCHECK(remove_lock_unknown_tag, 0x1E)
{
    IoInitializeRemoveLockEx(&removal.lock, LOCK_TAG, 0, 0, CHECKED_SIZE);
    IoAcquireRemoveLockEx(&removal.lock, (PVOID)1, __FILE__, __LINE__, CHECKED_SIZE);
    IoReleaseRemoveLockEx(&removal.lock, (PVOID)2, CHECKED_SIZE);
}

KTEST_BUGCHECK(remove_lock_watermark, 0x1E)
{
    IoInitializeRemoveLockEx(&removal.lock, LOCK_TAG, 0, 1, CHECKED_SIZE);
    IoAcquireRemoveLockEx(&removal.lock, (PVOID)1, __FILE__, __LINE__, CHECKED_SIZE);
    IoAcquireRemoveLockEx(&removal.lock, (PVOID)2, __FILE__, __LINE__, CHECKED_SIZE);
}

KTEST_BUGCHECK(remove_lock_held_too_long, 0x1E)
{
    LARGE_INTEGER delay = {.QuadPart = -1000000}; /* more than six ticks */
    IoInitializeRemoveLockEx(&removal.lock, LOCK_TAG, 1, 0, CHECKED_SIZE);
    CHECK_EQ(*(LONGLONG *)(removal.checked + 8), 600000000LL / KeQueryTimeIncrement());
    *(LONGLONG *)(removal.checked + 8) = 1;
    IoAcquireRemoveLockEx(&removal.lock, (PVOID)1, __FILE__, __LINE__, CHECKED_SIZE);
    KeDelayExecutionThread(KernelMode, FALSE, &delay);
    IoReleaseRemoveLockEx(&removal.lock, (PVOID)1, CHECKED_SIZE);
}

/* ---- Waiting: a timer's DPC gives the lock back, which all of these may do at DISPATCH_LEVEL. ---- */

enum later { RELEASE_RESOURCE, RELEASE_RUNDOWN, RELEASE_REMOVE_LOCK };

static KTIMER timer;
static KDPC dpc;
static volatile LONG released;
static LONG early;
static ULONG_PTR somebody[2];
#define SOMEBODY ((ERESOURCE_THREAD)&somebody[0] | 3)
/* 5 ms. */
static const LARGE_INTEGER due = {.QuadPart = -50000};
#define EARLY_MAX 1000

static VOID NTAPI on_dpc(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    (VOID)object;
    (VOID)first;
    (VOID)second;
    if ((enum later)(ULONG_PTR)context == RELEASE_RESOURCE && early < EARLY_MAX &&
        ExGetExclusiveWaiterCount(&resource) + ExGetSharedWaiterCount(&resource) == 0) {
        /* On a slow machine the timer may be due before anybody waits. */
        early++;
        KeSetTimer(&timer, due, &dpc);
        return;
    }
    released++;
    switch ((enum later)(ULONG_PTR)context) {
    case RELEASE_RESOURCE:
        ExReleaseResourceForThreadLite(&resource, SOMEBODY);
        break;
    case RELEASE_RUNDOWN:
        ExReleaseRundownProtection(&rundown);
        break;
    case RELEASE_REMOVE_LOCK:
        IoReleaseRemoveLockEx(&removal.lock, NULL, FREE_SIZE);
        break;
    }
}

static VOID later(enum later what)
{
    released = 0;
    early = 0;
    KeInitializeDpc(&dpc, on_dpc, (PVOID)(ULONG_PTR)what);
    KeInitializeTimer(&timer);
    KeSetTimer(&timer, due, &dpc);
}

KTEST(resource_waits)
{
    ExInitializeResourceLite(&resource);
    KeRaiseIrql(APC_LEVEL, &before);
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, (PVOID)SOMEBODY);
    later(RELEASE_RESOURCE);
    CHECK(ExAcquireResourceExclusiveLite(&resource, TRUE));
    CHECK_EQ(released, 1);
    CHECK(ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(resource.ContentionCount, 1);
    CHECK_EQ(ExGetExclusiveWaiterCount(&resource), 0);
    ExReleaseResourceLite(&resource);
    CHECK_EQ(resource.ActiveCount, 0);
    /* For shared access behind an exclusive owner. */
    ExAcquireResourceExclusiveLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, (PVOID)SOMEBODY);
    later(RELEASE_RESOURCE);
    CHECK(ExAcquireResourceSharedLite(&resource, TRUE));
    CHECK_EQ(released, 1);
    CHECK(!ExIsResourceAcquiredExclusiveLite(&resource));
    CHECK_EQ(ExIsResourceAcquiredSharedLite(&resource), 1);
    CHECK_EQ(ExGetSharedWaiterCount(&resource), 0);
    CHECK_EQ(resource.ContentionCount, 2);
    ExReleaseResourceLite(&resource);
    /* For exclusive access behind a shared owner. */
    ExAcquireResourceSharedLite(&resource, TRUE);
    ExSetResourceOwnerPointer(&resource, (PVOID)SOMEBODY);
    later(RELEASE_RESOURCE);
    CHECK(ExAcquireResourceExclusiveLite(&resource, TRUE));
    CHECK_EQ(released, 1);
    CHECK(ExIsResourceAcquiredExclusiveLite(&resource));
    ExReleaseResourceLite(&resource);
    KeLowerIrql(before);
    ExDeleteResourceLite(&resource);
}

KTEST(rundown_waits)
{
    ExInitializeRundownProtection(&rundown);
    CHECK(ExAcquireRundownProtection(&rundown));
    later(RELEASE_RUNDOWN);
    ExWaitForRundownProtectionRelease(&rundown);
    CHECK_EQ(released, 1);
    CHECK_EQ(rundown.Count, 1);
    CHECK(!ExAcquireRundownProtection(&rundown));
}

KTEST(remove_lock_waits)
{
    IO_REMOVE_LOCK *lock = &removal.lock;
    IoInitializeRemoveLockEx(lock, LOCK_TAG, 0, 0, FREE_SIZE);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, NULL, __FILE__, __LINE__, FREE_SIZE), STATUS_SUCCESS);
    CHECK_STATUS(IoAcquireRemoveLockEx(lock, NULL, __FILE__, __LINE__, FREE_SIZE), STATUS_SUCCESS);
    later(RELEASE_REMOVE_LOCK);
    IoReleaseRemoveLockAndWaitEx(lock, NULL, FREE_SIZE);
    CHECK_EQ(released, 1);
    CHECK_EQ(lock->Common.IoCount, 0);
    CHECK(lock->Common.Removed);
}

KTEST_FAMILY("locks",
    KTEST_ENTRY(spin_lock_raises_and_restores),
    KTEST_ENTRY(spin_lock_at_dpc_level),
    KTEST_ENTRY(spin_locks_nest),
    KTEST_ENTRY(queued_in_stack),
    KTEST_ENTRY(reader_writer),
    KTEST_BUGCHECK_ENTRY(spin_at_dpc_below_dispatch),
    KTEST_BUGCHECK_ENTRY(spin_above_dispatch),
    KTEST_BUGCHECK_ENTRY(queued_twice),
    KTEST_BUGCHECK_ENTRY(queued_released_twice),
    KTEST_BUGCHECK_ENTRY(queued_released_by_another_handle),
    KTEST_BUGCHECK_ENTRY(writer_while_readers),
    KTEST_BUGCHECK_ENTRY(reader_released_unowned),
    KTEST_ENTRY(fast_mutex_layout),
    KTEST_ENTRY(fast_mutex),
    KTEST_ENTRY(fast_mutex_unsafe),
    KTEST_ENTRY(guarded_mutex),
    KTEST_BUGCHECK_ENTRY(fast_mutex_twice),
    KTEST_BUGCHECK_ENTRY(fast_mutex_at_dispatch),
    KTEST_BUGCHECK_ENTRY(fast_mutex_released_unowned),
    KTEST_BUGCHECK_ENTRY(fast_mutex_released_at_passive),
    KTEST_BUGCHECK_ENTRY(guarded_mutex_at_dispatch),
    KTEST_ENTRY(push_lock),
    KTEST_ENTRY(resource_layout),
    KTEST_ENTRY(resource_exclusive),
    KTEST_ENTRY(resource_shared),
    KTEST_ENTRY(resource_convert),
    KTEST_ENTRY(resource_owner_pointer),
    KTEST_BUGCHECK_ENTRY(resource_released_unowned),
    KTEST_BUGCHECK_ENTRY(resource_released_for_another),
    KTEST_BUGCHECK_ENTRY(resource_converted_unowned),
    KTEST_BUGCHECK_ENTRY(resource_upgrade_deadlocks),
    KTEST_BUGCHECK_ENTRY(resource_at_dispatch),
    KTEST_BUGCHECK_ENTRY(resource_bad_owner_pointer),
    KTEST_ENTRY(rundown_protection),
    KTEST_BUGCHECK_ENTRY(rundown_released_too_often),
    KTEST_ENTRY(remove_lock),
    KTEST_ENTRY(remove_lock_checked),
    KTEST_BUGCHECK_ENTRY(remove_lock_unknown_tag),
    KTEST_BUGCHECK_ENTRY(remove_lock_watermark),
    KTEST_BUGCHECK_ENTRY(remove_lock_held_too_long),
    KTEST_ENTRY(resource_waits),
    KTEST_ENTRY(rundown_waits),
    KTEST_ENTRY(remove_lock_waits));
