/* Events: KeInitializeEvent, KeSetEvent, KeResetEvent, KeClearEvent, KeReadStateEvent, and waits for one event. */
#include "ktest.h"

#define MS(n) (-10000LL * (n)) /* a relative timeout of n milliseconds, in 100 ns */

static KEVENT event;

static NTSTATUS wait(LONGLONG timeout)
{
    LARGE_INTEGER time;
    time.QuadPart = timeout;
    return KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, &time);
}

KTEST(layout)
{
    CHECK_EQ(sizeof(DISPATCHER_HEADER), sizeof(PVOID) == 8 ? 0x18 : 0x10);
    CHECK_EQ(sizeof(KEVENT), sizeof(DISPATCHER_HEADER));
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    CHECK_EQ(event.Header.Type, 0);
    CHECK_EQ(event.Header.SignalState, 0);
    CHECK_EQ(event.Header.Size, sizeof(KEVENT) / 4);
    CHECK_PTR(event.Header.WaitListHead.Flink, &event.Header.WaitListHead);
    CHECK_PTR(event.Header.WaitListHead.Blink, &event.Header.WaitListHead);
    KeInitializeEvent(&event, SynchronizationEvent, TRUE);
    CHECK_EQ(event.Header.Type, 1);
    CHECK_EQ(event.Header.SignalState, 1);
    CHECK_EQ(event.Header.Size, sizeof(KEVENT) / 4);
    CHECK_PTR(event.Header.WaitListHead.Flink, &event.Header.WaitListHead);
    CHECK_PTR(event.Header.WaitListHead.Blink, &event.Header.WaitListHead);
}

KTEST(initial_state)
{
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeInitializeEvent(&event, SynchronizationEvent, TRUE);
    CHECK_EQ(KeReadStateEvent(&event), 1);
}

KTEST(set_returns_previous_state)
{
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    CHECK_EQ(KeSetEvent(&event, IO_NO_INCREMENT, FALSE), 0);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    CHECK_EQ(KeSetEvent(&event, IO_NO_INCREMENT, FALSE), 1);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    CHECK_EQ(KeSetEvent(&event, IO_NO_INCREMENT, FALSE), 0);
    CHECK_EQ(KeSetEvent(&event, IO_NO_INCREMENT, FALSE), 1);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    /* The increment is a boost, not a count. */
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    CHECK_EQ(KeSetEvent(&event, IO_SOUND_INCREMENT, FALSE), 0);
    CHECK_EQ(KeReadStateEvent(&event), 1);
}

KTEST(reset_returns_previous_state)
{
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    CHECK_EQ(KeResetEvent(&event), 1);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    CHECK_EQ(KeResetEvent(&event), 0);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeInitializeEvent(&event, SynchronizationEvent, TRUE);
    CHECK_EQ(KeResetEvent(&event), 1);
    CHECK_EQ(KeResetEvent(&event), 0);
}

KTEST(clear)
{
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    KeClearEvent(&event);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeClearEvent(&event);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    CHECK_EQ(KeSetEvent(&event, 0, FALSE), 0);
    KeClearEvent(&event);
    CHECK_EQ(KeSetEvent(&event, 0, FALSE), 0);
}

KTEST(wait_leaves_notification_event_signalled)
{
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    CHECK_STATUS(wait(0), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    CHECK_STATUS(wait(0), STATUS_SUCCESS);
    CHECK_STATUS(wait(MS(1)), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&event), 1);
}

KTEST(wait_resets_synchronization_event)
{
    KeInitializeEvent(&event, SynchronizationEvent, TRUE);
    CHECK_STATUS(wait(0), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    CHECK_STATUS(wait(0), STATUS_TIMEOUT);
    KeSetEvent(&event, 0, FALSE);
    CHECK_STATUS(KeWaitForSingleObject(&event, UserRequest, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    /* Set twice is set once. */
    KeSetEvent(&event, 0, FALSE);
    KeSetEvent(&event, 0, FALSE);
    CHECK_STATUS(wait(0), STATUS_SUCCESS);
    CHECK_STATUS(wait(0), STATUS_TIMEOUT);
}

KTEST(wait_reasons_and_modes_do_not_matter)
{
    LARGE_INTEGER zero;
    zero.QuadPart = 0;
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    CHECK_STATUS(KeWaitForSingleObject(&event, Suspended, KernelMode, FALSE, &zero), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&event, WrQueue, KernelMode, FALSE, &zero), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&event, UserRequest, UserMode, FALSE, &zero), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&event, Executive, KernelMode, TRUE, &zero), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&event, UserRequest, UserMode, TRUE, &zero), STATUS_SUCCESS);
    CHECK_EQ(zero.QuadPart, 0);
}

KTEST(wait_times_out)
{
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    CHECK_STATUS(wait(0), STATUS_TIMEOUT);
    LARGE_INTEGER before, after;
    KeQuerySystemTime(&before);
    CHECK_STATUS(wait(MS(20)), STATUS_TIMEOUT);
    KeQuerySystemTime(&after);
    /* A wait may last longer, never shorter (but for one clock tick). */
    CHECK(after.QuadPart - before.QuadPart >= -MS(4));
    CHECK_EQ(KeReadStateEvent(&event), 0);
    /* An absolute time that has passed. */
    CHECK_STATUS(wait(1), STATUS_TIMEOUT);
    CHECK_STATUS(wait(before.QuadPart), STATUS_TIMEOUT);
    /* An absolute time to come. */
    KeQuerySystemTime(&before);
    CHECK_STATUS(wait(before.QuadPart - MS(20)), STATUS_TIMEOUT);
    KeQuerySystemTime(&after);
    CHECK(after.QuadPart - before.QuadPart >= -MS(4));
}

static KDPC dpc;
static KTIMER timer;
static volatile LONG dpc_runs;

static VOID NTAPI set_event(PKDPC self, PVOID context, PVOID first, PVOID second)
{
    (VOID)self;
    (VOID)first;
    (VOID)second;
    dpc_runs++;
    KeSetEvent((PKEVENT)context, IO_NO_INCREMENT, FALSE);
}

KTEST(wait_ends_when_a_timer_dpc_sets)
{
    LARGE_INTEGER due;
    due.QuadPart = MS(5);
    dpc_runs = 0;
    KeInitializeDpc(&dpc, set_event, &event);
    KeInitializeTimer(&timer);
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    /* At DISPATCH_LEVEL: however slow the machine is, the DPC has not run when the event is read. */
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK(!KeSetTimer(&timer, due, &dpc));
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeLowerIrql(old);
    CHECK_STATUS(KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK_EQ(dpc_runs, 1);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    CHECK(!KeSetTimer(&timer, due, &dpc));
    CHECK_STATUS(wait(MS(2000)), STATUS_SUCCESS);
    CHECK_EQ(dpc_runs, 2);
    CHECK_EQ(KeReadStateEvent(&event), 1);
}

KTEST(dispatch_level)
{
    KIRQL old;
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_EQ(KeSetEvent(&event, 0, FALSE), 0);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    /* A wait that does not block is allowed. */
    CHECK_STATUS(wait(0), STATUS_SUCCESS);
    CHECK_STATUS(wait(0), STATUS_TIMEOUT);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_EQ(KeResetEvent(&event), 0);
    KeClearEvent(&event);
    KeLowerIrql(old);
    CHECK_EQ(KeReadStateEvent(&event), 0);
}

KTEST(apc_level)
{
    KIRQL old;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    KeRaiseIrql(APC_LEVEL, &old);
    CHECK_STATUS(wait(MS(1)), STATUS_TIMEOUT);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    CHECK_EQ(KeSetEvent(&event, 0, FALSE), 0);
    CHECK_STATUS(wait(MS(1)), STATUS_SUCCESS);
    CHECK_EQ(KeGetCurrentIrql(), APC_LEVEL);
    KeLowerIrql(old);
}

KTEST(initialize_at_high_level)
{
    KIRQL old;
    KeRaiseIrql(HIGH_LEVEL, &old);
    KeInitializeEvent(&event, SynchronizationEvent, TRUE);
    KeLowerIrql(old);
    CHECK_EQ(KeReadStateEvent(&event), 1);
}

KTEST_BUGCHECK(wait_blocking_at_dispatch_level, 0x0A)
{
    KIRQL old;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    wait(MS(1));
}

KTEST_BUGCHECK(set_above_dispatch_level, 0x0A)
{
    KIRQL old;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    KeRaiseIrql(DISPATCH_LEVEL + 1, &old);
    KeSetEvent(&event, 0, FALSE);
}

KTEST_BUGCHECK(reset_above_dispatch_level, 0x0A)
{
    KIRQL old;
    KeInitializeEvent(&event, NotificationEvent, TRUE);
    KeRaiseIrql(HIGH_LEVEL, &old);
    KeResetEvent(&event);
}

KTEST_FAMILY("event",
    KTEST_ENTRY(layout),
    KTEST_ENTRY(initial_state),
    KTEST_ENTRY(set_returns_previous_state),
    KTEST_ENTRY(reset_returns_previous_state),
    KTEST_ENTRY(clear),
    KTEST_ENTRY(wait_leaves_notification_event_signalled),
    KTEST_ENTRY(wait_resets_synchronization_event),
    KTEST_ENTRY(wait_reasons_and_modes_do_not_matter),
    KTEST_ENTRY(wait_times_out),
    KTEST_ENTRY(wait_ends_when_a_timer_dpc_sets),
    KTEST_ENTRY(dispatch_level),
    KTEST_ENTRY(apc_level),
    KTEST_ENTRY(initialize_at_high_level),
    KTEST_BUGCHECK_ENTRY(wait_blocking_at_dispatch_level),
    KTEST_BUGCHECK_ENTRY(set_above_dispatch_level),
    KTEST_BUGCHECK_ENTRY(reset_above_dispatch_level));
