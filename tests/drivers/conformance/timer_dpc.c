/* Timers, DPCs, delays, time. */
#include "ktest.h"

#define MS(n) (-10000LL * (n)) /* a relative due time of n milliseconds, in 100 ns */
/* Long enough for a slow machine to do something before. */
#define LATER_MS 60000

#ifdef __x86_64__
#define EXPORT(name, bytes) __asm__(#name)
#else
#define EXPORT(name, bytes) __asm__("_" #name "@" #bytes)
#endif
VOID NTAPI init_threaded_dpc(PVOID dpc, PVOID routine, PVOID context) EXPORT(KeInitializeThreadedDpc, 12);
BOOLEAN NTAPI set_coalescable(PVOID timer, LARGE_INTEGER due, ULONG period, ULONG delay, PVOID dpc)
    EXPORT(KeSetCoalescableTimer, 24);
VOID NTAPI flush_dpcs(VOID) EXPORT(KeFlushQueuedDpcs, 0);
VOID NTAPI get_time(PLARGE_INTEGER time) EXPORT(KeQuerySystemTime, 4);
ULONGLONG NTAPI interrupt_time(VOID) EXPORT(KeQueryInterruptTime, 0);

static KTIMER timer, timers[8];
static KDPC dpc, dpcs[8];
static volatile LONG count;
static volatile ULONG order[16];
static volatile LONG order_count;
static volatile ULONG_PTR seen[5];
static KEVENT event;

static LARGE_INTEGER due(LONGLONG time)
{
    LARGE_INTEGER value;
    value.QuadPart = time;
    return value;
}

static VOID sleep_ms(LONG ms)
{
    LARGE_INTEGER time;
    time.QuadPart = MS(ms);
    KeDelayExecutionThread(KernelMode, FALSE, &time);
}

static NTSTATUS wait(PVOID object, LONGLONG timeout)
{
    LARGE_INTEGER time;
    time.QuadPart = timeout;
    return KeWaitForSingleObject(object, Executive, KernelMode, FALSE, &time);
}

static VOID NTAPI on_dpc(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    seen[0] = (ULONG_PTR)object;
    seen[1] = (ULONG_PTR)context;
    seen[2] = (ULONG_PTR)first;
    seen[3] = (ULONG_PTR)second;
    seen[4] = KeGetCurrentIrql();
    InterlockedIncrement(&count);
}

static VOID NTAPI notes_order(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    (VOID)object;
    (VOID)first;
    (VOID)second;
    LONG at = InterlockedIncrement(&order_count) - 1;
    if (at < 16) {
        order[at] = (ULONG)(ULONG_PTR)context;
    }
}

static VOID NTAPI sets_event(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    (VOID)object;
    (VOID)first;
    (VOID)second;
    KeSetEvent(context, 0, FALSE);
}

/* ---- DPCs ---- */

KTEST(dpc_basic)
{
    CHECK_EQ(sizeof(KDPC), sizeof(PVOID) == 8 ? 0x40 : 0x20);
    KeInitializeDpc(&dpc, on_dpc, (PVOID)7);
    CHECK_EQ(dpc.Type, 19);
    CHECK_EQ(dpc.Importance, 1);
    CHECK_PTR(dpc.DeferredContext, 7);
    CHECK_PTR(dpc.DpcData, NULL);
    count = 0;
    CHECK(KeInsertQueueDpc(&dpc, (PVOID)1, (PVOID)2));
    CHECK_EQ(count, 1); /* before the call returned: the processor was below DISPATCH_LEVEL */
    CHECK_PTR(seen[0], &dpc);
    CHECK_EQ(seen[1], 7);
    CHECK_EQ(seen[2], 1);
    CHECK_EQ(seen[3], 2);
    CHECK_EQ(seen[4], DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK(!KeRemoveQueueDpc(&dpc));
}

KTEST(dpcs_wait_for_irql)
{
    KIRQL old;
    KeInitializeDpc(&dpc, on_dpc, NULL);
    count = 0;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK(KeInsertQueueDpc(&dpc, (PVOID)1, NULL));
    CHECK(!KeInsertQueueDpc(&dpc, (PVOID)2, NULL)); /* queued already */
    CHECK_EQ(count, 0);
    KeLowerIrql(APC_LEVEL);
    CHECK_EQ(count, 1);
    CHECK_EQ(seen[2], 1);
    KeLowerIrql(old);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK(KeInsertQueueDpc(&dpc, NULL, NULL));
    CHECK(KeRemoveQueueDpc(&dpc));
    CHECK(!KeRemoveQueueDpc(&dpc));
    KeLowerIrql(old);
    CHECK_EQ(count, 1);
}

KTEST(dpc_order)
{
    KIRQL old;
    for (ULONG i = 0; i < 4; i++) {
        KeInitializeDpc(&dpcs[i], notes_order, (PVOID)(ULONG_PTR)i);
    }
    order_count = 0;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    for (int i = 0; i < 3; i++) {
        KeInsertQueueDpc(&dpcs[i], NULL, NULL);
    }
    KeSetImportanceDpc(&dpcs[3], HighImportance);
    KeInsertQueueDpc(&dpcs[3], NULL, NULL);
    KeLowerIrql(old);
    CHECK_EQ(order_count, 4);
    CHECK_EQ(order[0], 3); /* to the front */
    CHECK_EQ(order[1], 0);
    CHECK_EQ(order[2], 1);
    CHECK_EQ(order[3], 2);
    CHECK_EQ(dpcs[3].Importance, HighImportance);
    KeSetImportanceDpc(&dpcs[3], LowImportance);
    CHECK_EQ(dpcs[3].Importance, LowImportance);
}

static VOID NTAPI queues_again(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    (VOID)context;
    (VOID)second;
    if (InterlockedIncrement(&count) < 3) {
        KeInsertQueueDpc(object, first, NULL);
    }
}

KTEST(a_dpc_may_queue_itself)
{
    count = 0;
    KeInitializeDpc(&dpc, queues_again, NULL);
    KeInsertQueueDpc(&dpc, NULL, NULL);
    CHECK_EQ(count, 3);
    flush_dpcs();
    CHECK_EQ(count, 3);
}

KTEST(threaded_dpcs)
{
    count = 0;
    init_threaded_dpc(&dpc, on_dpc, (PVOID)9);
    CHECK_EQ(dpc.Type, 26);
    CHECK(KeInsertQueueDpc(&dpc, (PVOID)3, (PVOID)4));
    flush_dpcs();
    CHECK_EQ(count, 1);
    CHECK_EQ(seen[1], 9);
    CHECK_EQ(seen[2], 3);
    CHECK_EQ(seen[3], 4);
    CHECK_EQ(seen[4], PASSIVE_LEVEL);
}

static VOID NTAPI waits(PKDPC object, PVOID context, PVOID first, PVOID second)
{
    (VOID)object;
    (VOID)context;
    (VOID)first;
    (VOID)second;
    wait(&event, MS(1));
}

KTEST_BUGCHECK(waiting_in_a_dpc, 0x0A)
{
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    KeInitializeDpc(&dpc, waits, NULL);
    KeInsertQueueDpc(&dpc, NULL, NULL);
}

/* ---- Timers ---- */

KTEST(timer_layout)
{
    CHECK_EQ(sizeof(KTIMER), sizeof(PVOID) == 8 ? 0x40 : 0x28);
    KeInitializeTimer(&timer);
    CHECK_EQ(timer.Header.Type, 8);
    CHECK_EQ(timer.Header.SignalState, 0);
    CHECK_EQ(timer.Period, 0);
    CHECK(!KeReadStateTimer(&timer));
    KeInitializeTimerEx(&timer, SynchronizationTimer);
    CHECK_EQ(timer.Header.Type, 9);
    KeInitializeTimerEx(&timer, NotificationTimer);
    CHECK_EQ(timer.Header.Type, 8);
}

KTEST(notification_timer)
{
    KeInitializeTimer(&timer);
    CHECK(!KeSetTimer(&timer, due(MS(LATER_MS)), NULL));
    CHECK(!KeReadStateTimer(&timer));
    CHECK_STATUS(wait(&timer, 0), STATUS_TIMEOUT);
    CHECK(KeSetTimer(&timer, due(MS(3)), NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK(KeReadStateTimer(&timer));
    CHECK_STATUS(wait(&timer, 0), STATUS_SUCCESS); /* stays signalled */
    CHECK(!KeCancelTimer(&timer));
    CHECK(!KeSetTimer(&timer, due(MS(LATER_MS)), NULL));
    CHECK(!KeReadStateTimer(&timer)); /* setting resets */
    CHECK(KeSetTimer(&timer, due(MS(LATER_MS)), NULL));
    CHECK(KeCancelTimer(&timer));
    CHECK(!KeCancelTimer(&timer));
    CHECK(!KeReadStateTimer(&timer));
}

KTEST(synchronization_timer)
{
    KeInitializeTimerEx(&timer, SynchronizationTimer);
    CHECK(!KeSetTimer(&timer, due(MS(2)), NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK(!KeReadStateTimer(&timer));
    CHECK_STATUS(wait(&timer, MS(1)), STATUS_TIMEOUT);
}

KTEST(due_times)
{
    LARGE_INTEGER now;
    ULONGLONG start;
    KeInitializeTimer(&timer);
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    /* Past and now: at once. */
    CHECK(!KeSetTimer(&timer, due(0), NULL));
    CHECK(KeReadStateTimer(&timer));
    get_time(&now);
    CHECK(!KeSetTimer(&timer, due(now.QuadPart - 10000000), NULL));
    CHECK(KeReadStateTimer(&timer));
    /* Absolute. The start is taken first: the two may be apart. */
    get_time(&now);
    CHECK(!KeSetTimer(&timer, due(now.QuadPart - MS(LATER_MS)), NULL));
    CHECK(!KeReadStateTimer(&timer));
    CHECK(KeCancelTimer(&timer));
    start = interrupt_time();
    get_time(&now);
    CHECK(!KeSetTimer(&timer, due(now.QuadPart + 50000), NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK(interrupt_time() - start >= 49000);
    /* Relative. */
    start = interrupt_time();
    CHECK(!KeSetTimer(&timer, due(MS(5)), NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK(interrupt_time() - start >= 50000);
    start = interrupt_time();
    sleep_ms(5);
    CHECK(interrupt_time() - start >= 50000);
    start = interrupt_time();
    CHECK_STATUS(wait(&event, MS(5)), STATUS_TIMEOUT);
    CHECK(interrupt_time() - start >= 50000);
    get_time(&now);
    CHECK_STATUS(wait(&event, now.QuadPart + 30000), STATUS_TIMEOUT); /* absolute */
    LARGE_INTEGER later;
    get_time(&later);
    CHECK(later.QuadPart - now.QuadPart >= 29000);
    CHECK_STATUS(wait(&event, now.QuadPart), STATUS_TIMEOUT);
}

KTEST(timer_with_dpc)
{
    count = 0;
    KeInitializeTimer(&timer);
    KeInitializeDpc(&dpc, on_dpc, (PVOID)5);
    CHECK(!KeSetTimer(&timer, due(MS(LATER_MS)), &dpc));
    CHECK_EQ(count, 0);
    CHECK(KeSetTimer(&timer, due(MS(2)), &dpc));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK_EQ(count, 1);
    CHECK_EQ(seen[1], 5);
    CHECK_EQ(seen[4], DISPATCH_LEVEL);
    CHECK_PTR(seen[0], &dpc);
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    KeInitializeDpc(&dpc, sets_event, &event);
    KeSetTimer(&timer, due(MS(2)), &dpc);
    CHECK_STATUS(wait(&event, MS(30000)), STATUS_SUCCESS);
    KeInitializeDpc(&dpc, on_dpc, NULL);
    BOOLEAN is_cancelled = FALSE;
    for (int turn = 0; !is_cancelled && turn < 1000; turn++) {
        count = 0;
        KeSetTimer(&timer, due(MS(2)), &dpc);
        is_cancelled = KeCancelTimer(&timer); /* unless the machine was slower */
    }
    CHECK(is_cancelled);
    sleep_ms(5);
    CHECK_EQ(count, 0);
}

KTEST(periodic_timer)
{
    count = 0;
    KeInitializeTimerEx(&timer, SynchronizationTimer);
    KeInitializeDpc(&dpc, on_dpc, NULL);
    CHECK(!KeSetTimerEx(&timer, due(MS(2)), 3, &dpc));
    CHECK_EQ(timer.Period, 3);
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    /* On a slow machine two expirations may find the DPC queued once. */
    for (int turn = 0; count < 3 && turn < 1000; turn++) {
        wait(&timer, MS(30000));
    }
    CHECK(count >= 3);
    CHECK(KeCancelTimer(&timer)); /* it is always set */
    LONG after = count;
    sleep_ms(10);
    CHECK_EQ(count, after);
    /* Set again without a period, it is one-shot. */
    KeSetTimerEx(&timer, due(MS(1)), 2, NULL);
    CHECK(KeSetTimerEx(&timer, due(MS(1)), 0, NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK_STATUS(wait(&timer, MS(6)), STATUS_TIMEOUT);
    CHECK(!KeCancelTimer(&timer));
}

KTEST(coalescable_timer)
{
    KeInitializeTimerEx(&timer, SynchronizationTimer);
    CHECK(!set_coalescable(&timer, due(MS(LATER_MS)), 0, 10, NULL));
    CHECK(set_coalescable(&timer, due(MS(2)), 2, 10, NULL));
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK_STATUS(wait(&timer, MS(30000)), STATUS_SUCCESS);
    CHECK(KeCancelTimer(&timer));
}

KTEST(timer_order)
{
    LARGE_INTEGER now;
    order_count = 0;
    static const LONG delays[4] = {390, 330, 360, 340}; /* none is due before all are set */
    get_time(&now);
    for (ULONG i = 0; i < 4; i++) {
        KeInitializeTimer(&timers[i]);
        KeInitializeDpc(&dpcs[i], notes_order, (PVOID)(ULONG_PTR)i);
        LARGE_INTEGER at;
        at.QuadPart = now.QuadPart - MS(delays[i]);
        KeSetTimer(&timers[i], at, &dpcs[i]);
    }
    CHECK_STATUS(wait(&timers[0], MS(30000)), STATUS_SUCCESS);
    CHECK_EQ(order_count, 4);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 3);
    CHECK_EQ(order[2], 2);
    CHECK_EQ(order[3], 0);
    /* Timers that are due together expire in the order in which they were set. */
    order_count = 0;
    get_time(&now);
    for (ULONG i = 0; i < 8; i++) {
        ULONG at = (i * 5) % 8;
        KeInitializeTimer(&timers[at]);
        KeInitializeDpc(&dpcs[at], notes_order, (PVOID)(ULONG_PTR)i);
        KeSetTimer(&timers[at], due(now.QuadPart - MS(300)), &dpcs[at]);
    }
    sleep_ms(305);
    CHECK_EQ(order_count, 8);
    for (ULONG i = 0; i < 8; i++) {
        CHECK_EQ(order[i], i);
    }
}

KTEST(many_timers)
{
    static KTIMER many[1000];
    for (ULONG i = 0; i < 1000; i++) {
        KeInitializeTimer(&many[i]);
        KeSetTimer(&many[i], due(MS(LATER_MS + (LONG)(i * 7919) % 1000)), NULL);
    }
    ULONG set = 0;
    for (ULONG i = 0; i < 1000; i++) {
        set += KeCancelTimer(&many[(i * 31) % 1000]);
    }
    CHECK_EQ(set, 1000);
    for (ULONG i = 0; i < 1000; i++) {
        KeSetTimer(&many[i], due(-10LL * (LONG)(i % 100)), NULL);
    }
    sleep_ms(3);
    ULONG expired = 0;
    for (ULONG i = 0; i < 1000; i++) {
        expired += KeReadStateTimer(&many[i]);
    }
    CHECK_EQ(expired, 1000);
}

static VOID NTAPI wakes_waiter(PVOID context)
{
    (VOID)context;
    CHECK_STATUS(KeWaitForSingleObject(&timer, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    InterlockedIncrement(&count);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(threads_wait_for_timers)
{
    HANDLE handles[3];
    PVOID threads[3];
    count = 0;
    KeInitializeTimer(&timer);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(PsCreateSystemThread(&handles[i], THREAD_ALL_ACCESS, NULL, NULL, NULL, wakes_waiter, NULL), STATUS_SUCCESS);
        ObReferenceObjectByHandle(handles[i], THREAD_ALL_ACCESS, NULL, KernelMode, &threads[i], NULL);
        ZwClose(handles[i]);
    }
    sleep_ms(1);
    CHECK_EQ(count, 0);
    KeSetTimer(&timer, due(MS(2)), NULL);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(wait(threads[i], MS(30000)), STATUS_SUCCESS);
        ObDereferenceObject(threads[i]);
    }
    CHECK_EQ(count, 3);
}

KTEST(dpcs_run_while_a_thread_loops)
{
    /* The tick interrupts the loop. */
    count = 0;
    KeInitializeTimer(&timer);
    KeInitializeDpc(&dpc, on_dpc, NULL);
    KeSetTimer(&timer, due(MS(5)), &dpc);
    while (count == 0) {
    }
    CHECK_EQ(count, 1);
    CHECK_EQ(seen[4], DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST_FAMILY("timer_dpc", KTEST_ENTRY(dpc_basic), KTEST_ENTRY(dpcs_wait_for_irql), KTEST_ENTRY(dpc_order),
             KTEST_ENTRY(a_dpc_may_queue_itself), KTEST_ENTRY(threaded_dpcs), KTEST_BUGCHECK_ENTRY(waiting_in_a_dpc),
             KTEST_ENTRY(timer_layout), KTEST_ENTRY(notification_timer), KTEST_ENTRY(synchronization_timer),
             KTEST_ENTRY(due_times), KTEST_ENTRY(timer_with_dpc), KTEST_ENTRY(periodic_timer),
             KTEST_ENTRY(coalescable_timer), KTEST_ENTRY(timer_order), KTEST_ENTRY(many_timers),
             KTEST_ENTRY(threads_wait_for_timers), KTEST_ENTRY(dpcs_run_while_a_thread_loops));
