/* Waits for several objects, mutexes, semaphores, queues, APCs.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define MS(n) (-10000LL * (n)) /* a relative timeout of n milliseconds, in 100 ns */
#ifndef STATUS_KERNEL_APC
#define STATUS_KERNEL_APC ((NTSTATUS)0x100)
#endif

typedef struct {
    DISPATCHER_HEADER Header;
    LIST_ENTRY EntryListHead;
    ULONG CurrentCount, MaximumCount;
    LIST_ENTRY ThreadListHead;
} QUEUE;
/* As in ntifs.h. */
VOID NTAPI wait_init_queue(PVOID queue, ULONG count) __asm__(
#ifdef __x86_64__
    "KeInitializeQueue"
#else
    "_KeInitializeQueue@8"
#endif
);
LONG NTAPI wait_insert_queue(PVOID queue, PLIST_ENTRY entry) __asm__(
#ifdef __x86_64__
    "KeInsertQueue"
#else
    "_KeInsertQueue@8"
#endif
);
LONG NTAPI wait_insert_head(PVOID queue, PLIST_ENTRY entry) __asm__(
#ifdef __x86_64__
    "KeInsertHeadQueue"
#else
    "_KeInsertHeadQueue@8"
#endif
);
PLIST_ENTRY NTAPI wait_remove_queue(PVOID queue, KPROCESSOR_MODE mode, PLARGE_INTEGER timeout) __asm__(
#ifdef __x86_64__
    "KeRemoveQueue"
#else
    "_KeRemoveQueue@12"
#endif
);
LONG NTAPI wait_read_queue(PVOID queue) __asm__(
#ifdef __x86_64__
    "KeReadStateQueue"
#else
    "_KeReadStateQueue@4"
#endif
);
PLIST_ENTRY NTAPI wait_rundown_queue(PVOID queue) __asm__(
#ifdef __x86_64__
    "KeRundownQueue"
#else
    "_KeRundownQueue@4"
#endif
);
VOID NTAPI wait_init_apc(PVOID apc, PVOID thread, ULONG environment, PVOID kernel, PVOID rundown, PVOID normal,
                         KPROCESSOR_MODE mode, PVOID context) __asm__(
#ifdef __x86_64__
    "KeInitializeApc"
#else
    "_KeInitializeApc@32"
#endif
);
BOOLEAN NTAPI wait_insert_apc(PVOID apc, PVOID first, PVOID second, LONG increment) __asm__(
#ifdef __x86_64__
    "KeInsertQueueApc"
#else
    "_KeInsertQueueApc@16"
#endif
);
BOOLEAN NTAPI wait_remove_apc(PVOID apc) __asm__(
#ifdef __x86_64__
    "KeRemoveQueueApc"
#else
    "_KeRemoveQueueApc@4"
#endif
);
BOOLEAN NTAPI wait_alert(PVOID thread, KPROCESSOR_MODE mode) __asm__(
#ifdef __x86_64__
    "KeAlertThread"
#else
    "_KeAlertThread@8"
#endif
);
BOOLEAN NTAPI wait_test_alert(KPROCESSOR_MODE mode) __asm__(
#ifdef __x86_64__
    "KeTestAlertThread"
#else
    "_KeTestAlertThread@4"
#endif
);
BOOLEAN NTAPI wait_all_apcs_disabled(VOID) __asm__(
#ifdef __x86_64__
    "KeAreAllApcsDisabled"
#else
    "_KeAreAllApcsDisabled@0"
#endif
);
VOID NTAPI wait_enter_guarded(VOID) __asm__(
#ifdef __x86_64__
    "KeEnterGuardedRegion"
#else
    "_KeEnterGuardedRegion@0"
#endif
);
VOID NTAPI wait_leave_guarded(VOID) __asm__(
#ifdef __x86_64__
    "KeLeaveGuardedRegion"
#else
    "_KeLeaveGuardedRegion@0"
#endif
);
VOID NTAPI wait_init_mutant(PVOID mutant, BOOLEAN owner) __asm__(
#ifdef __x86_64__
    "KeInitializeMutant"
#else
    "_KeInitializeMutant@8"
#endif
);

static KEVENT events[4];
static KEVENT go, done;
static KMUTEX mutex;
static KSEMAPHORE semaphore;
static KWAIT_BLOCK blocks[MAXIMUM_WAIT_OBJECTS];
static QUEUE queue;
static volatile LONG count;
static volatile NTSTATUS status_seen;
static LARGE_INTEGER time_value;

static PLARGE_INTEGER after(LONGLONG time)
{
    time_value.QuadPart = time;
    return &time_value;
}

static NTSTATUS wait(PVOID object, LONGLONG timeout)
{
    LARGE_INTEGER time;
    time.QuadPart = timeout;
    return KeWaitForSingleObject(object, Executive, KernelMode, FALSE, &time);
}

static VOID sleep_ms(LONG ms)
{
    LARGE_INTEGER time;
    time.QuadPart = MS(ms);
    KeDelayExecutionThread(KernelMode, FALSE, &time);
}

static PVOID spawn(PKSTART_ROUTINE routine, PVOID context)
{
    HANDLE handle;
    PVOID thread = NULL;
    CHECK_STATUS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, routine, context), STATUS_SUCCESS);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, NULL, KernelMode, &thread, NULL), STATUS_SUCCESS);
    ZwClose(handle);
    return thread;
}

static VOID join(PVOID thread)
{
    CHECK_STATUS(wait(thread, MS(30000)), STATUS_SUCCESS);
    ObDereferenceObject(thread);
}

static VOID make_events(EVENT_TYPE type)
{
    for (int i = 0; i < 4; i++) {
        KeInitializeEvent(&events[i], type, FALSE);
    }
}

/* ---- KeWaitForMultipleObjects ---- */

KTEST(any_takes_the_first_signalled)
{
    PVOID objects[3] = {&events[0], &events[1], &events[2]};
    make_events(SynchronizationEvent);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAny, Executive, KernelMode, FALSE, after(0), NULL), STATUS_TIMEOUT);
    KeSetEvent(&events[2], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAny, Executive, KernelMode, FALSE, after(0), NULL), STATUS_WAIT_2);
    CHECK_EQ(KeReadStateEvent(&events[2]), 0);
    KeSetEvent(&events[1], 0, FALSE);
    KeSetEvent(&events[2], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAny, Executive, KernelMode, FALSE, NULL, NULL), STATUS_WAIT_1);
    CHECK_EQ(KeReadStateEvent(&events[1]), 0);
    CHECK_EQ(KeReadStateEvent(&events[2]), 1);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAny, Executive, KernelMode, FALSE, NULL, NULL), STATUS_WAIT_2);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAny, Executive, KernelMode, FALSE, after(MS(3)), NULL), STATUS_TIMEOUT);
}

KTEST(all_takes_all_or_nothing)
{
    PVOID objects[3] = {&events[0], &events[1], &events[2]};
    make_events(SynchronizationEvent);
    KeSetEvent(&events[0], 0, FALSE);
    KeSetEvent(&events[2], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAll, Executive, KernelMode, FALSE, after(0), NULL), STATUS_TIMEOUT);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAll, Executive, KernelMode, FALSE, after(MS(3)), NULL), STATUS_TIMEOUT);
    CHECK_EQ(KeReadStateEvent(&events[0]), 1);
    CHECK_EQ(KeReadStateEvent(&events[2]), 1);
    KeSetEvent(&events[1], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(3, objects, WaitAll, Executive, KernelMode, FALSE, NULL, NULL), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&events[0]), 0);
    CHECK_EQ(KeReadStateEvent(&events[1]), 0);
    CHECK_EQ(KeReadStateEvent(&events[2]), 0);
}

KTEST(many_objects_with_blocks)
{
    static KEVENT many[MAXIMUM_WAIT_OBJECTS];
    static PVOID objects[MAXIMUM_WAIT_OBJECTS];
    for (int i = 0; i < MAXIMUM_WAIT_OBJECTS; i++) {
        KeInitializeEvent(&many[i], NotificationEvent, FALSE);
        objects[i] = &many[i];
    }
    CHECK_STATUS(KeWaitForMultipleObjects(MAXIMUM_WAIT_OBJECTS, objects, WaitAny, Executive, KernelMode, FALSE, after(MS(2)), blocks), STATUS_TIMEOUT);
    CHECK(IsListEmpty(&many[0].Header.WaitListHead));
    CHECK(IsListEmpty(&many[63].Header.WaitListHead));
    KeSetEvent(&many[63], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(MAXIMUM_WAIT_OBJECTS, objects, WaitAny, Executive, KernelMode, FALSE, NULL, blocks), STATUS_WAIT_63);
    CHECK_EQ(KeReadStateEvent(&many[63]), 1);
    CHECK_EQ(MAXIMUM_WAIT_OBJECTS, 64);
    CHECK_EQ(THREAD_WAIT_OBJECTS, 3);
    CHECK_EQ(sizeof(KWAIT_BLOCK), sizeof(PVOID) == 8 ? 0x30 : 0x18);
}

static VOID NTAPI waits_for_all(PVOID context)
{
    PVOID objects[2] = {&events[0], &events[1]};
    (VOID)context;
    status_seen = KeWaitForMultipleObjects(2, objects, WaitAll, Executive, KernelMode, FALSE, NULL, NULL);
    InterlockedIncrement(&count);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static VOID NTAPI waits_for_first(PVOID context)
{
    (VOID)context;
    KeWaitForSingleObject(&events[0], Executive, KernelMode, FALSE, NULL);
    InterlockedExchangeAdd(&count, 0x100);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(wait_all_does_not_hold_what_it_has)
{
    make_events(SynchronizationEvent);
    count = 0;
    PVOID all = spawn(waits_for_all, NULL);
    sleep_ms(1);
    PVOID one = spawn(waits_for_first, NULL);
    sleep_ms(1);
    KeSetEvent(&events[0], 0, FALSE);
    sleep_ms(1);
    CHECK_EQ(count, 0x100); /* the one that needs only this */
    CHECK_EQ(KeReadStateEvent(&events[0]), 0);
    join(one);
    KeSetEvent(&events[1], 0, FALSE);
    sleep_ms(1);
    CHECK_EQ(count, 0x100);
    CHECK_EQ(KeReadStateEvent(&events[1]), 1);
    KeSetEvent(&events[0], 0, FALSE);
    join(all);
    CHECK_EQ(count, 0x101);
    CHECK_STATUS(status_seen, STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&events[0]), 0);
    CHECK_EQ(KeReadStateEvent(&events[1]), 0);
}

static VOID NTAPI waits_for_any(PVOID context)
{
    PVOID objects[2] = {&events[0], &events[1]};
    (VOID)context;
    status_seen = KeWaitForMultipleObjects(2, objects, WaitAny, Executive, KernelMode, FALSE, NULL, NULL);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(any_is_woken_with_its_index)
{
    make_events(SynchronizationEvent);
    PVOID thread = spawn(waits_for_any, NULL);
    sleep_ms(1);
    CHECK(!IsListEmpty(&events[0].Header.WaitListHead));
    CHECK(!IsListEmpty(&events[1].Header.WaitListHead));
    KeSetEvent(&events[1], 0, FALSE);
    join(thread);
    CHECK_STATUS(status_seen, STATUS_WAIT_1);
    CHECK(IsListEmpty(&events[0].Header.WaitListHead));
    CHECK(IsListEmpty(&events[1].Header.WaitListHead));
    CHECK_EQ(KeReadStateEvent(&events[1]), 0);
}

KTEST_BUGCHECK(more_than_three_without_blocks, 0x0C)
{
    PVOID objects[4] = {&events[0], &events[1], &events[2], &events[3]};
    make_events(NotificationEvent);
    KeWaitForMultipleObjects(4, objects, WaitAny, Executive, KernelMode, FALSE, after(0), NULL);
}

KTEST_BUGCHECK(more_than_sixty_four, 0x0C)
{
    static PVOID objects[65];
    static KWAIT_BLOCK too_many[65];
    make_events(NotificationEvent);
    for (int i = 0; i < 65; i++) {
        objects[i] = &events[0];
    }
    KeWaitForMultipleObjects(65, objects, WaitAny, Executive, KernelMode, FALSE, after(0), too_many);
}

KTEST_BUGCHECK(blocking_at_dispatch_level, 0x0A)
{
    make_events(NotificationEvent);
    KeRaiseIrqlToDpcLevel();
    wait(&events[0], MS(10000));
}

KTEST_BUGCHECK(blocking_at_dispatch_level_until_the_past, 0x0A)
{
    make_events(NotificationEvent);
    KeRaiseIrqlToDpcLevel();
    wait(&events[0], 1); /* a moment in 1601 */
}

KTEST_BUGCHECK(delay_at_dispatch_level, 0x0A)
{
    KeRaiseIrqlToDpcLevel();
    sleep_ms(10000);
}

KTEST(polling_at_dispatch_level)
{
    KIRQL old;
    make_events(SynchronizationEvent);
    KeSetEvent(&events[0], 0, FALSE);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    NTSTATUS first = wait(&events[0], 0), second = wait(&events[0], 0);
    KeLowerIrql(old);
    CHECK_STATUS(first, STATUS_SUCCESS);
    CHECK_STATUS(second, STATUS_TIMEOUT);
    CHECK_EQ(old, PASSIVE_LEVEL);
}

/* ---- Events between threads ---- */

static VOID NTAPI waits_for_go(PVOID context)
{
    NTSTATUS status = KeWaitForSingleObject(&go, Executive, KernelMode, FALSE, context);
    if (status == STATUS_SUCCESS) {
        InterlockedIncrement(&count);
    }
    PsTerminateSystemThread(status);
}

KTEST(notification_wakes_all)
{
    PVOID threads[3];
    count = 0;
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    for (int i = 0; i < 3; i++) {
        threads[i] = spawn(waits_for_go, NULL);
    }
    sleep_ms(1);
    CHECK_EQ(count, 0);
    CHECK_EQ(KeSetEvent(&go, 0, FALSE), 0);
    for (int i = 0; i < 3; i++) {
        join(threads[i]);
    }
    CHECK_EQ(count, 3);
    CHECK_EQ(KeReadStateEvent(&go), 1);
}

KTEST(synchronization_wakes_one)
{
    PVOID threads[2];
    count = 0;
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    threads[0] = spawn(waits_for_go, NULL);
    threads[1] = spawn(waits_for_go, NULL);
    sleep_ms(1);
    KeSetEvent(&go, 0, FALSE);
    sleep_ms(1);
    CHECK_EQ(count, 1);
    CHECK_EQ(KeReadStateEvent(&go), 0);
    CHECK_STATUS(wait(threads[0], MS(30000)), STATUS_SUCCESS); /* the first that waited */
    CHECK_STATUS(wait(threads[1], 0), STATUS_TIMEOUT);
    KeSetEvent(&go, 0, FALSE);
    join(threads[0]);
    join(threads[1]);
    CHECK_EQ(count, 2);
}

KTEST(pulse_releases_the_waiting_only)
{
    PVOID threads[2];
    count = 0;
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    CHECK_EQ(KePulseEvent(&go, 0, FALSE), 0);
    CHECK_EQ(KeReadStateEvent(&go), 0);
    CHECK_STATUS(wait(&go, 0), STATUS_TIMEOUT);
    threads[0] = spawn(waits_for_go, NULL);
    threads[1] = spawn(waits_for_go, NULL);
    sleep_ms(1);
    CHECK_EQ(KePulseEvent(&go, 0, FALSE), 0);
    join(threads[0]);
    join(threads[1]);
    CHECK_EQ(count, 2);
    CHECK_EQ(KeReadStateEvent(&go), 0);
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    threads[0] = spawn(waits_for_go, NULL);
    threads[1] = spawn(waits_for_go, NULL);
    sleep_ms(1);
    KePulseEvent(&go, 0, FALSE);
    sleep_ms(1);
    CHECK_EQ(count, 3);
    KePulseEvent(&go, 0, FALSE);
    join(threads[0]);
    join(threads[1]);
    CHECK_EQ(count, 4);
}

KTEST(set_and_wait)
{
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    KeInitializeEvent(&done, SynchronizationEvent, TRUE);
    count = 0;
    PVOID thread = spawn(waits_for_go, NULL);
    sleep_ms(1);
    KeSetEvent(&go, EVENT_INCREMENT, TRUE);
    CHECK_STATUS(wait(&done, MS(30000)), STATUS_SUCCESS);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    join(thread);
    CHECK_EQ(count, 1);
}

/* ---- Mutexes ---- */

KTEST(mutex_basic)
{
    KeInitializeMutex(&mutex, 0);
    CHECK_EQ(KeReadStateMutex(&mutex), 1);
    CHECK_EQ(mutex.Header.Type, 2);
    CHECK_EQ(sizeof(KMUTEX), sizeof(PVOID) == 8 ? 0x38 : 0x20);
    CHECK_EQ(mutex.Header.Size, sizeof(KMUTEX) / 4);
    CHECK_PTR(mutex.OwnerThread, NULL);
    CHECK_EQ(mutex.ApcDisable, 1);
    CHECK_EQ(mutex.Abandoned, 0);
    CHECK(!KeAreApcsDisabled());
    CHECK_STATUS(wait(&mutex, 0), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateMutex(&mutex), 0);
    CHECK_PTR(mutex.OwnerThread, KeGetCurrentThread());
    CHECK(KeAreApcsDisabled());
    CHECK(!wait_all_apcs_disabled());
    CHECK_STATUS(wait(&mutex, 0), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateMutex(&mutex), (ULONGLONG)(LONGLONG)-1);
    CHECK_EQ(KeReleaseMutex(&mutex, FALSE), (ULONGLONG)(LONGLONG)-1);
    CHECK(KeAreApcsDisabled());
    CHECK_EQ(KeReleaseMutex(&mutex, FALSE), 0);
    CHECK_EQ(KeReadStateMutex(&mutex), 1);
    CHECK_PTR(mutex.OwnerThread, NULL);
    CHECK(!KeAreApcsDisabled());
}

static VOID NTAPI takes_mutex(PVOID context)
{
    (VOID)context;
    status_seen = wait(&mutex, MS(30000));
    InterlockedIncrement(&count);
    if (status_seen == STATUS_SUCCESS) {
        KeReleaseMutex(&mutex, FALSE);
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(mutex_excludes)
{
    count = 0;
    KeInitializeMutex(&mutex, 0);
    CHECK_STATUS(wait(&mutex, 0), STATUS_SUCCESS);
    PVOID thread = spawn(takes_mutex, NULL);
    for (ULONG i = 0; i < 1000 && IsListEmpty(&mutex.Header.WaitListHead); i++) {
        sleep_ms(2);
    }
    CHECK_EQ(count, 0);
    CHECK(!IsListEmpty(&mutex.Header.WaitListHead));
    KeReleaseMutex(&mutex, FALSE);
    join(thread);
    CHECK_EQ(count, 1);
    CHECK_STATUS(status_seen, STATUS_SUCCESS);
    CHECK_EQ(KeReadStateMutex(&mutex), 1);
}

static VOID NTAPI abandons(PVOID context)
{
    wait(context, 0);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(mutant_is_abandoned)
{
    wait_init_mutant(&mutex, FALSE);
    CHECK_EQ(KeReadStateMutex(&mutex), 1);
    CHECK_EQ(mutex.ApcDisable, 0);
    join(spawn(abandons, &mutex));
    CHECK_EQ(mutex.Abandoned, 1);
    CHECK_EQ(KeReadStateMutex(&mutex), 1);
    CHECK_STATUS(wait(&mutex, 0), STATUS_ABANDONED);
    CHECK_EQ(mutex.Abandoned, 0);
    CHECK_EQ(KeReleaseMutex(&mutex, FALSE), 0);
    CHECK_STATUS(wait(&mutex, 0), STATUS_SUCCESS);
    KeReleaseMutex(&mutex, FALSE);
    wait_init_mutant(&mutex, TRUE);
    CHECK_EQ(KeReadStateMutex(&mutex), 0);
    CHECK_PTR(mutex.OwnerThread, KeGetCurrentThread());
    CHECK(!KeAreApcsDisabled());
    CHECK_EQ(KeReleaseMutex(&mutex, FALSE), 0);
}

KTEST(abandoned_in_a_wait_for_several)
{
    PVOID objects[2] = {&events[0], &mutex};
    make_events(SynchronizationEvent);
    wait_init_mutant(&mutex, FALSE);
    join(spawn(abandons, &mutex));
    CHECK_STATUS(KeWaitForMultipleObjects(2, objects, WaitAny, Executive, KernelMode, FALSE, after(0), NULL), STATUS_ABANDONED_WAIT_0 + 1);
    KeReleaseMutex(&mutex, FALSE);
    join(spawn(abandons, &mutex));
    KeSetEvent(&events[0], 0, FALSE);
    CHECK_STATUS(KeWaitForMultipleObjects(2, objects, WaitAll, Executive, KernelMode, FALSE, after(0), NULL), STATUS_ABANDONED);
    KeReleaseMutex(&mutex, FALSE);
}

KTEST_BUGCHECK(ending_with_a_mutex, 0x4000008A)
{
    KeInitializeMutex(&mutex, 0);
    join(spawn(abandons, &mutex));
}

KTEST_BUGCHECK(returning_with_a_mutex, 0x01)
{
    KeInitializeMutex(&mutex, 0);
    wait(&mutex, 0);
}

KTEST_BUGCHECK(returning_in_a_critical_region, 0x01)
{
    KeEnterCriticalRegion();
}

/* ---- Semaphores ---- */

KTEST(semaphore_basic)
{
    KeInitializeSemaphore(&semaphore, 2, 5);
    CHECK_EQ(semaphore.Header.Type, 5);
    CHECK_EQ(sizeof(KSEMAPHORE), sizeof(PVOID) == 8 ? 0x20 : 0x14);
    CHECK_EQ(semaphore.Limit, 5);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 2);
    CHECK_STATUS(wait(&semaphore, 0), STATUS_SUCCESS);
    CHECK_STATUS(wait(&semaphore, 0), STATUS_SUCCESS);
    CHECK_STATUS(wait(&semaphore, 0), STATUS_TIMEOUT);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 0);
    CHECK_EQ(KeReleaseSemaphore(&semaphore, 0, 3, FALSE), 0);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 3);
    CHECK_EQ(KeReleaseSemaphore(&semaphore, 0, 2, FALSE), 3);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 5);
}

static VOID NTAPI takes_semaphore(PVOID context)
{
    (VOID)context;
    KeWaitForSingleObject(&semaphore, Executive, KernelMode, FALSE, NULL);
    InterlockedIncrement(&count);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(semaphore_lets_as_many_pass)
{
    PVOID threads[3];
    count = 0;
    KeInitializeSemaphore(&semaphore, 0, 10);
    for (int i = 0; i < 3; i++) {
        threads[i] = spawn(takes_semaphore, NULL);
    }
    sleep_ms(2);
    CHECK_EQ(count, 0);
    CHECK_EQ(KeReleaseSemaphore(&semaphore, 0, 2, FALSE), 0);
    sleep_ms(2);
    CHECK_EQ(count, 2);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 0);
    CHECK_EQ(KeReleaseSemaphore(&semaphore, 0, 4, FALSE), 0);
    for (int i = 0; i < 3; i++) {
        join(threads[i]);
    }
    CHECK_EQ(count, 3);
    CHECK_EQ(KeReadStateSemaphore(&semaphore), 3);
}

/* ---- Queues ---- */

static LIST_ENTRY entries[4];

KTEST(queue_basic)
{
    wait_init_queue(&queue, 2);
    CHECK_EQ(queue.Header.Type, 4);
    CHECK_EQ(queue.MaximumCount, 2);
    CHECK_EQ(queue.CurrentCount, 0);
    CHECK_EQ(wait_read_queue(&queue), 0);
    CHECK_PTR(wait_remove_queue(&queue, KernelMode, after(0)), (ULONG_PTR)STATUS_TIMEOUT);
    CHECK_EQ(wait_insert_queue(&queue, &entries[0]), 0);
    CHECK_EQ(wait_insert_queue(&queue, &entries[1]), 1);
    CHECK_EQ(wait_insert_head(&queue, &entries[2]), 2);
    CHECK_EQ(wait_read_queue(&queue), 3);
    CHECK_PTR(wait_remove_queue(&queue, KernelMode, NULL), &entries[2]);
    CHECK_EQ(queue.CurrentCount, 1);
    CHECK_PTR(wait_remove_queue(&queue, KernelMode, NULL), &entries[0]);
    CHECK_EQ(queue.CurrentCount, 1);
    CHECK_EQ(wait_read_queue(&queue), 1);
    CHECK_PTR(wait_rundown_queue(&queue), &entries[1]);
    CHECK_PTR(wait_rundown_queue(&queue), NULL);
    wait_init_queue(&queue, 0);
    CHECK_EQ(queue.MaximumCount, 1); /* processors */
}

static VOID NTAPI serves_queue(PVOID context)
{
    PLIST_ENTRY entry;
    (VOID)context;
    for (;;) {
        entry = wait_remove_queue(&queue, KernelMode, NULL);
        if ((ULONG_PTR)entry == STATUS_ABANDONED) {
            break;
        }
        InterlockedIncrement(&count);
        if (entry == &entries[0]) {
            KeWaitForSingleObject(&go, Executive, KernelMode, FALSE, NULL);
        }
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(queue_keeps_its_threads_busy)
{
    PVOID threads[2];
    count = 0;
    wait_init_queue(&queue, 1);
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    threads[0] = spawn(serves_queue, NULL);
    threads[1] = spawn(serves_queue, NULL);
    sleep_ms(2);
    CHECK_EQ(queue.CurrentCount, 0);
    wait_insert_queue(&queue, &entries[0]);
    sleep_ms(2);
    CHECK_EQ(count, 1);
    CHECK_EQ(queue.CurrentCount, 0); /* it waits for `go`, so the other may run */
    wait_insert_queue(&queue, &entries[1]);
    sleep_ms(2);
    CHECK_EQ(count, 2);
    CHECK_EQ(wait_read_queue(&queue), 0);
    KeSetEvent(&go, 0, FALSE);
    sleep_ms(2);
    CHECK_PTR(wait_rundown_queue(&queue), NULL);
    join(threads[0]);
    join(threads[1]);
}

/* ---- APCs, alerts, regions ---- */

static struct {
    char bytes[0x58];
} apc, apc2;
static volatile KIRQL kernel_irql, normal_irql;
static volatile ULONG_PTR seen[3];

static VOID NTAPI kernel_routine(PVOID object, PVOID *routine, PVOID *context, PVOID *first, PVOID *second)
{
    (VOID)object;
    kernel_irql = KeGetCurrentIrql();
    seen[0] = (ULONG_PTR)*routine;
    seen[1] = (ULONG_PTR)*first;
    seen[2] = (ULONG_PTR)*second;
    (VOID)context;
    InterlockedIncrement(&count);
}

static VOID NTAPI normal_routine(PVOID context, PVOID first, PVOID second)
{
    normal_irql = KeGetCurrentIrql();
    seen[0] = (ULONG_PTR)context;
    seen[1] = (ULONG_PTR)first;
    seen[2] = (ULONG_PTR)second;
    InterlockedExchangeAdd(&count, 0x100);
}

KTEST(kernel_apcs)
{
    count = 0;
    wait_init_apc(&apc, KeGetCurrentThread(), 0, kernel_routine, NULL, NULL, KernelMode, NULL);
    CHECK(wait_insert_apc(&apc, (PVOID)1, (PVOID)2, 0));
    CHECK_EQ(count, 1); /* at once: the thread is at PASSIVE_LEVEL */
    CHECK_EQ(kernel_irql, APC_LEVEL);
    CHECK_EQ(seen[0], 0);
    CHECK_EQ(seen[1], 1);
    CHECK_EQ(seen[2], 2);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    wait_init_apc(&apc, KeGetCurrentThread(), 0, kernel_routine, NULL, normal_routine, KernelMode, (PVOID)7);
    CHECK(wait_insert_apc(&apc, (PVOID)3, (PVOID)4, 0));
    CHECK_EQ(count, 0x102);
    CHECK_EQ(normal_irql, PASSIVE_LEVEL);
    CHECK_EQ(seen[0], 7);
    CHECK_EQ(seen[1], 3);
    CHECK_EQ(seen[2], 4);
}

KTEST(regions_keep_apcs_away)
{
    count = 0;
    wait_init_apc(&apc, KeGetCurrentThread(), 0, kernel_routine, NULL, normal_routine, KernelMode, NULL);
    wait_init_apc(&apc2, KeGetCurrentThread(), 0, kernel_routine, NULL, NULL, KernelMode, NULL);
    CHECK(!KeAreApcsDisabled());
    KeEnterCriticalRegion();
    CHECK(KeAreApcsDisabled());
    CHECK(!wait_all_apcs_disabled());
    CHECK(wait_insert_apc(&apc, NULL, NULL, 0));
    CHECK(!wait_insert_apc(&apc, NULL, NULL, 0)); /* queued already */
    CHECK_EQ(count, 0);
    CHECK(wait_insert_apc(&apc2, NULL, NULL, 0));
    CHECK_EQ(count, 1); /* special ones are delivered */
    KeEnterCriticalRegion();
    KeLeaveCriticalRegion();
    CHECK_EQ(count, 1);
    KeLeaveCriticalRegion();
    CHECK_EQ(count, 0x102);
    CHECK(!KeAreApcsDisabled());
    wait_enter_guarded();
    CHECK(KeAreApcsDisabled());
    CHECK(wait_all_apcs_disabled());
    CHECK(wait_insert_apc(&apc2, NULL, NULL, 0));
    CHECK_EQ(count, 0x102);
    wait_leave_guarded();
    CHECK_EQ(count, 0x103);
    CHECK(!wait_all_apcs_disabled());
    KIRQL old;
    KeRaiseIrql(APC_LEVEL, &old);
    CHECK(wait_all_apcs_disabled());
    CHECK(wait_insert_apc(&apc2, NULL, NULL, 0));
    CHECK_EQ(count, 0x103);
    KeLowerIrql(old);
    CHECK_EQ(count, 0x104);
    KeEnterCriticalRegion();
    CHECK(wait_insert_apc(&apc, NULL, NULL, 0));
    CHECK(wait_remove_apc(&apc));
    CHECK(!wait_remove_apc(&apc));
    KeLeaveCriticalRegion();
    CHECK_EQ(count, 0x104);
}

static VOID NTAPI waits_alertably(PVOID context)
{
    status_seen = KeWaitForSingleObject(&go, UserRequest, context ? UserMode : KernelMode, TRUE, NULL);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(apcs_interrupt_waits_and_do_not_end_them)
{
    count = 0;
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    PVOID thread = spawn(waits_for_go, NULL);
    sleep_ms(1);
    wait_init_apc(&apc, thread, 0, kernel_routine, NULL, normal_routine, KernelMode, NULL);
    CHECK(wait_insert_apc(&apc, NULL, NULL, 0));
    sleep_ms(1);
    CHECK_EQ(count, 0x101);
    CHECK_STATUS(wait(thread, 0), STATUS_TIMEOUT);
    CHECK(!IsListEmpty(&go.Header.WaitListHead));
    KeSetEvent(&go, 0, FALSE);
    join(thread);
    CHECK_EQ(count, 0x102);
}

KTEST(user_apcs_end_alertable_user_waits)
{
    count = 0;
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    PVOID thread = spawn(waits_alertably, (PVOID)1);
    sleep_ms(1);
    wait_init_apc(&apc, thread, 0, kernel_routine, NULL, normal_routine, UserMode, NULL);
    CHECK(wait_insert_apc(&apc, NULL, NULL, 0));
    join(thread);
    CHECK_STATUS(status_seen, STATUS_USER_APC);
}

KTEST(alerts)
{
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    CHECK(!wait_test_alert(KernelMode));
    CHECK(!wait_alert(KeGetCurrentThread(), KernelMode));
    CHECK(wait_alert(KeGetCurrentThread(), KernelMode));
    CHECK(wait_test_alert(KernelMode));
    CHECK(!wait_test_alert(KernelMode));
    wait_alert(KeGetCurrentThread(), KernelMode);
    CHECK_STATUS(KeWaitForSingleObject(&go, Executive, KernelMode, TRUE, after(MS(50))), STATUS_ALERTED);
    CHECK_STATUS(KeWaitForSingleObject(&go, Executive, KernelMode, TRUE, after(MS(1))), STATUS_TIMEOUT);
    wait_alert(KeGetCurrentThread(), KernelMode);
    CHECK_STATUS(KeWaitForSingleObject(&go, Executive, KernelMode, FALSE, after(MS(1))), STATUS_TIMEOUT);
    CHECK_STATUS(KeDelayExecutionThread(KernelMode, TRUE, after(MS(1))), STATUS_ALERTED);
    CHECK_STATUS(KeDelayExecutionThread(KernelMode, TRUE, after(MS(1))), STATUS_SUCCESS);
    PVOID thread = spawn(waits_alertably, NULL);
    sleep_ms(1);
    CHECK(!wait_alert(thread, KernelMode));
    join(thread);
    CHECK_STATUS(status_seen, STATUS_ALERTED);
}

KTEST_FAMILY("wait", KTEST_ENTRY(any_takes_the_first_signalled), KTEST_ENTRY(all_takes_all_or_nothing),
             KTEST_ENTRY(many_objects_with_blocks), KTEST_ENTRY(wait_all_does_not_hold_what_it_has),
             KTEST_ENTRY(any_is_woken_with_its_index), KTEST_BUGCHECK_ENTRY(more_than_three_without_blocks),
             KTEST_BUGCHECK_ENTRY(more_than_sixty_four), KTEST_BUGCHECK_ENTRY(blocking_at_dispatch_level),
             KTEST_BUGCHECK_ENTRY(blocking_at_dispatch_level_until_the_past),
             KTEST_BUGCHECK_ENTRY(delay_at_dispatch_level), KTEST_ENTRY(polling_at_dispatch_level),
             KTEST_ENTRY(notification_wakes_all), KTEST_ENTRY(synchronization_wakes_one),
             KTEST_ENTRY(pulse_releases_the_waiting_only), KTEST_ENTRY(set_and_wait), KTEST_ENTRY(mutex_basic),
             KTEST_ENTRY(mutex_excludes), KTEST_ENTRY(mutant_is_abandoned),
             KTEST_ENTRY(abandoned_in_a_wait_for_several), KTEST_BUGCHECK_ENTRY(ending_with_a_mutex),
             KTEST_BUGCHECK_ENTRY(returning_with_a_mutex), KTEST_BUGCHECK_ENTRY(returning_in_a_critical_region),
             KTEST_ENTRY(semaphore_basic), KTEST_ENTRY(semaphore_lets_as_many_pass), KTEST_ENTRY(queue_basic),
             KTEST_ENTRY(queue_keeps_its_threads_busy), KTEST_ENTRY(kernel_apcs), KTEST_ENTRY(regions_keep_apcs_away),
             KTEST_ENTRY(apcs_interrupt_waits_and_do_not_end_them), KTEST_ENTRY(user_apcs_end_alertable_user_waits),
             KTEST_ENTRY(alerts));
