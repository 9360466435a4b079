/* System threads, priorities and scheduling, processes, notify routines.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define MS(n) (-10000LL * (n)) /* a relative timeout of n milliseconds, in 100 ns */

#ifdef __x86_64__
#define EXPORT(name, bytes) __asm__(#name)
#else
#define EXPORT(name, bytes) __asm__("_" #name "@" #bytes)
#endif
HANDLE NTAPI thread_id_of(PVOID thread) EXPORT(PsGetThreadId, 4);
PVOID NTAPI thread_process(PVOID thread) EXPORT(PsGetThreadProcess, 4);
HANDLE NTAPI thread_process_id(PVOID thread) EXPORT(PsGetThreadProcessId, 4);
BOOLEAN NTAPI thread_is_terminating(PVOID thread) EXPORT(PsIsThreadTerminating, 4);
BOOLEAN NTAPI thread_is_system(PVOID thread) EXPORT(PsIsSystemThread, 4);
NTSTATUS NTAPI thread_lookup(HANDLE id, PVOID *thread) EXPORT(PsLookupThreadByThreadId, 8);
NTSTATUS NTAPI process_lookup(HANDLE id, PVOID *process) EXPORT(PsLookupProcessByProcessId, 8);
HANDLE NTAPI process_id_of(PVOID process) EXPORT(PsGetProcessId, 4);
PUCHAR NTAPI process_name(PVOID process) EXPORT(PsGetProcessImageFileName, 4);
LONGLONG NTAPI process_create_time(PVOID process) EXPORT(PsGetProcessCreateTimeQuadPart, 4);
NTSTATUS NTAPI process_exit_status(PVOID process) EXPORT(PsGetProcessExitStatus, 4);
NTSTATUS NTAPI thread_exit_status(PVOID thread) EXPORT(PsGetThreadExitStatus, 4);
VOID NTAPI attach(PVOID process, PVOID state) EXPORT(KeStackAttachProcess, 8);
VOID NTAPI detach(PVOID state) EXPORT(KeUnstackDetachProcess, 4);
VOID NTAPI attach_process(PVOID process) EXPORT(KeAttachProcess, 4);
VOID NTAPI detach_process(VOID) EXPORT(KeDetachProcess, 0);
BOOLEAN NTAPI is_attached(VOID) EXPORT(KeIsAttachedProcess, 0);
NTSTATUS NTAPI yield_execution(VOID) EXPORT(ZwYieldExecution, 0);
NTSTATUS NTAPI wait_for_handle(HANDLE handle, BOOLEAN alertable, PLARGE_INTEGER timeout)
    EXPORT(ZwWaitForSingleObject, 12);
PVOID NTAPI current_process(VOID) EXPORT(PsGetCurrentProcess, 0);
HANDLE NTAPI current_process_id(VOID) EXPORT(PsGetCurrentProcessId, 0);
HANDLE NTAPI current_thread_id(VOID) EXPORT(PsGetCurrentThreadId, 0);
PVOID NTAPI io_current_process(VOID) EXPORT(IoGetCurrentProcess, 0);
LONG NTAPI query_priority(PVOID thread) EXPORT(KeQueryPriorityThread, 4);
LONG NTAPI set_base_priority(PVOID thread, LONG increment) EXPORT(KeSetBasePriorityThread, 8);
NTSTATUS NTAPI set_thread_notify(PVOID routine) EXPORT(PsSetCreateThreadNotifyRoutine, 4);
NTSTATUS NTAPI remove_thread_notify(PVOID routine) EXPORT(PsRemoveCreateThreadNotifyRoutine, 4);
NTSTATUS NTAPI set_process_notify(PVOID routine, BOOLEAN remove) EXPORT(PsSetCreateProcessNotifyRoutine, 8);
NTSTATUS NTAPI set_image_notify(PVOID routine) EXPORT(PsSetLoadImageNotifyRoutine, 4);
NTSTATUS NTAPI remove_image_notify(PVOID routine) EXPORT(PsRemoveLoadImageNotifyRoutine, 4);
#ifdef PsInitialSystemProcess
#undef PsInitialSystemProcess
#endif
extern PVOID *system_process_variable __asm__(
#ifdef __x86_64__
    "__imp_PsInitialSystemProcess"
#else
    "__imp__PsInitialSystemProcess"
#endif
);

static volatile LONG count;
static volatile ULONG order[64];
static volatile LONG order_count;
static KEVENT go;

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

static VOID note(ULONG what)
{
    LONG at = InterlockedIncrement(&order_count) - 1;
    if (at < 64) {
        order[at] = what;
    }
}

/* ---- Life ---- */

static volatile ULONG_PTR seen[8];

static VOID NTAPI looks_around(PVOID context)
{
    seen[0] = (ULONG_PTR)context;
    seen[1] = (ULONG_PTR)current_thread_id();
    seen[2] = (ULONG_PTR)current_process_id();
    seen[3] = KeGetCurrentIrql();
    seen[4] = (ULONG_PTR)KeGetCurrentThread();
    seen[5] = thread_is_system(KeGetCurrentThread());
    seen[6] = (ULONG_PTR)io_current_process();
    seen[7] = ExGetPreviousMode();
    InterlockedIncrement(&count);
}

KTEST(a_thread_runs_and_ends)
{
    HANDLE handle;
    CLIENT_ID id;
    PVOID thread, found;
    LARGE_INTEGER second;
    second.QuadPart = MS(1000);
    count = 0;
    CHECK_STATUS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, &id, looks_around, (PVOID)0x1234), STATUS_SUCCESS);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, NULL, KernelMode, &thread, NULL), STATUS_SUCCESS);
    CHECK_STATUS(wait_for_handle(handle, FALSE, &second), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    CHECK_EQ(count, 1);
    CHECK_EQ(seen[0], 0x1234);
    CHECK_EQ(seen[1], (ULONG_PTR)id.UniqueThread);
    CHECK_EQ(seen[2], 4);
    CHECK_EQ((ULONG_PTR)id.UniqueProcess, 4);
    CHECK_EQ(seen[3], PASSIVE_LEVEL);
    CHECK_EQ(seen[4], (ULONG_PTR)thread);
    CHECK_EQ(seen[5], TRUE);
    CHECK_EQ(seen[6], (ULONG_PTR)*system_process_variable);
    CHECK_EQ(seen[7], KernelMode);
    CHECK_STATUS(thread_exit_status(thread), STATUS_SUCCESS);
    CHECK(thread_is_terminating(thread));
    CHECK_STATUS(wait(thread, 0), STATUS_SUCCESS); /* stays signalled */
    CHECK_STATUS(thread_lookup(id.UniqueThread, &found), STATUS_INVALID_PARAMETER);
    CHECK_EQ((ULONG_PTR)thread_id_of(thread), (ULONG_PTR)id.UniqueThread);
    ObDereferenceObject(thread);
}

static VOID NTAPI ends_with(PVOID context)
{
    PsTerminateSystemThread((NTSTATUS)(ULONG_PTR)context);
    InterlockedIncrement(&count); /* never */
}

KTEST(exit_status)
{
    count = 0;
    PVOID thread = spawn(ends_with, (PVOID)(ULONG_PTR)0x12345);
    CHECK_STATUS(wait(thread, MS(30000)), STATUS_SUCCESS);
    CHECK_STATUS(thread_exit_status(thread), 0x12345);
    CHECK_EQ(count, 0);
    ObDereferenceObject(thread);
}

static VOID NTAPI waits_for_go(PVOID context)
{
    (VOID)context;
    KeWaitForSingleObject(&go, Executive, KernelMode, FALSE, NULL);
    InterlockedIncrement(&count);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(ids_and_look_up)
{
    PVOID found = NULL;
    HANDLE handle, handle2;
    CLIENT_ID id, id2;
    OBJECT_ATTRIBUTES attributes;
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    InitializeObjectAttributes(&attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    CHECK_STATUS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, &attributes, NULL, &id, waits_for_go, NULL), STATUS_SUCCESS);
    CHECK_STATUS(PsCreateSystemThread(&handle2, THREAD_ALL_ACCESS, &attributes, NULL, &id2, waits_for_go, NULL), STATUS_SUCCESS);
    CHECK((LONG)(ULONG_PTR)handle < 0); /* kernel handles have the highest bit */
    CHECK(id.UniqueThread != id2.UniqueThread);
    CHECK_EQ((ULONG_PTR)id.UniqueThread % 4, 0);
    CHECK_EQ((ULONG_PTR)id2.UniqueThread % 4, 0);
    CHECK_STATUS(process_lookup(id.UniqueThread, &found), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(thread_lookup(current_process_id(), &found), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(thread_lookup(id.UniqueThread, &found), STATUS_SUCCESS);
    CHECK_PTR(thread_process(found), *system_process_variable);
    CHECK_EQ((ULONG_PTR)thread_process_id(found), 4);
    CHECK_EQ((ULONG_PTR)thread_id_of(found), (ULONG_PTR)id.UniqueThread);
    CHECK(!thread_is_terminating(found));
    CHECK_STATUS(thread_exit_status(found), STATUS_PENDING);
    CHECK_STATUS(wait(found, 0), STATUS_TIMEOUT);
    KeSetEvent(&go, 0, FALSE);
    CHECK_STATUS(wait(found, MS(30000)), STATUS_SUCCESS);
    ObDereferenceObject(found);
    CHECK_STATUS(wait_for_handle(handle2, FALSE, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(handle2), STATUS_SUCCESS);
    CHECK_STATUS(wait_for_handle(handle2, FALSE, NULL), STATUS_INVALID_HANDLE);
}

KTEST(only_system_threads_end_themselves)
{
    CHECK_STATUS(PsTerminateSystemThread(STATUS_SUCCESS), STATUS_INVALID_PARAMETER);
    CHECK(!thread_is_system(KeGetCurrentThread()));
    CHECK_EQ(ExGetPreviousMode(), UserMode);
}

static VOID NTAPI returns_raised(PVOID context)
{
    (VOID)context;
    KeRaiseIrqlToDpcLevel();
}

KTEST_BUGCHECK(returning_at_dispatch_level, 0x0A)
{
    join(spawn(returns_raised, NULL));
}

static volatile LONG stay_in = 1;

static VOID NTAPI recurses(PVOID context)
{
    volatile char room[1024];
    room[0] = (char)(ULONG_PTR)context;
    if (stay_in) {
        recurses((PVOID)(room + 1));
    }
    room[1] = room[0];
}

KTEST_BUGCHECK(a_used_up_stack, 0x7F)
{
    join(spawn(recurses, NULL));
}

KTEST(many_threads)
{
    static PVOID threads[100];
    count = 0;
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    int made = 0;
    for (; made < 100; made++) {
        HANDLE handle;
        if (PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, waits_for_go, NULL) != STATUS_SUCCESS) {
            break;
        }
        ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, NULL, KernelMode, &threads[made], NULL);
        ZwClose(handle);
    }
    CHECK_EQ(made, 100);
    sleep_ms(2);
    CHECK_EQ(count, 0);
    KeSetEvent(&go, 0, FALSE);
    for (int i = 0; i < made; i++) {
        wait(threads[i], MS(30000));
        ObDereferenceObject(threads[i]);
    }
    CHECK_EQ(count, 100);
    /* Their stacks serve the next. */
    count = 0;
    for (int i = 0; i < 300; i++) {
        HANDLE handle;
        if (PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, waits_for_go, NULL) == STATUS_SUCCESS) {
            wait_for_handle(handle, FALSE, NULL);
            ZwClose(handle);
        }
    }
    CHECK_EQ(count, 300);
}

/* ---- Scheduling ---- */

static VOID NTAPI notes_itself(PVOID context)
{
    note((ULONG)(ULONG_PTR)context);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static VOID NTAPI waits_then_notes(PVOID context)
{
    KeSetPriorityThread(KeGetCurrentThread(), (LONG)(ULONG_PTR)context);
    KeWaitForSingleObject(&go, Executive, KernelMode, FALSE, NULL);
    note((ULONG)(ULONG_PTR)context);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(priorities)
{
    PKTHREAD me = KeGetCurrentThread();
    CHECK_EQ(KeQueryPriorityThread(me), 8);
    CHECK_EQ(KeSetPriorityThread(me, 12), 8);
    CHECK_EQ(query_priority(me), 12);
    CHECK_EQ(KeSetPriorityThread(me, LOW_REALTIME_PRIORITY), 12);
    CHECK_EQ(query_priority(me), 16);
    CHECK_EQ(KeSetPriorityThread(me, 31), 16);
    CHECK_EQ(KeSetPriorityThread(me, 8), 31);
    CHECK_EQ(set_base_priority(me, 2), 0);
    CHECK_EQ(query_priority(me), 10);
    CHECK_EQ(set_base_priority(me, 0), 2);
    CHECK_EQ(query_priority(me), 8);
}

KTEST(the_best_runs_first)
{
    PVOID threads[4];
    static const ULONG priorities[4] = {9, 20, 12, 16};
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    order_count = 0;
    for (int i = 0; i < 4; i++) {
        threads[i] = spawn(waits_then_notes, (PVOID)(ULONG_PTR)priorities[i]);
    }
    sleep_ms(2);
    CHECK_EQ(order_count, 0);
    KeSetEvent(&go, 0, FALSE);
    for (int i = 0; i < 4; i++) {
        join(threads[i]);
    }
    CHECK_EQ(order_count, 4);
    CHECK_EQ(order[0], 20);
    CHECK_EQ(order[1], 16);
    CHECK_EQ(order[2], 12);
    CHECK_EQ(order[3], 9);
}

KTEST(equals_run_in_turn)
{
    PVOID threads[3];
    KIRQL old;
    order_count = 0;
    KeRaiseIrql(APC_LEVEL, &old);
    KeLowerIrql(old);
    KeSetPriorityThread(KeGetCurrentThread(), 16);
    for (int i = 0; i < 3; i++) {
        threads[i] = spawn(notes_itself, (PVOID)(ULONG_PTR)(i + 1));
    }
    CHECK_EQ(order_count, 0); /* they have priority 8 */
    KeSetPriorityThread(KeGetCurrentThread(), 8);
    for (int i = 0; i < 3; i++) {
        join(threads[i]);
    }
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 2);
    CHECK_EQ(order[2], 3);
}

KTEST(a_better_thread_preempts_at_once)
{
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    order_count = 0;
    PVOID thread = spawn(waits_then_notes, (PVOID)20);
    sleep_ms(1);
    note(1);
    KeSetEvent(&go, 0, FALSE); /* it runs before this returns */
    note(2);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 20);
    CHECK_EQ(order[2], 2);
    join(thread);
    thread = spawn(waits_then_notes, (PVOID)20);
    sleep_ms(1);
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    order_count = 0;
    KeSetEvent(&go, 0, FALSE);
    note(1); /* not above APC_LEVEL */
    KeLowerIrql(old);
    note(2);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 20);
    CHECK_EQ(order[2], 2);
    join(thread);
    thread = spawn(waits_then_notes, (PVOID)4);
    sleep_ms(1);
    order_count = 0;
    KeSetEvent(&go, 0, FALSE);
    note(1);
    CHECK_EQ(order[0], 1); /* a worse one waits */
    join(thread);
    CHECK_EQ(order[1], 4);
}

KTEST(increments_boost)
{
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    order_count = 0;
    count = 0;
    PVOID thread = spawn(waits_for_go, NULL);
    sleep_ms(1);
    KeSetEvent(&go, 2, FALSE); /* 8 + 2 is better than 8 */
    CHECK_EQ(count, 1);
    join(thread);
    KeInitializeEvent(&go, SynchronizationEvent, FALSE);
    thread = spawn(waits_for_go, NULL);
    sleep_ms(1);
    KeSetEvent(&go, 0, FALSE);
    CHECK_EQ(count, 1);
    join(thread);
    CHECK_EQ(count, 2);
}

static volatile LONG stop_spinning, spins[2];

static VOID NTAPI spins_for_ever(PVOID context)
{
    volatile LONG *mine = &spins[(ULONG_PTR)context];
    while (!stop_spinning) {
        ++*mine;
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

KTEST(quanta_end)
{
    PVOID threads[2];
    spins[0] = spins[1] = stop_spinning = 0;
    KeSetPriorityThread(KeGetCurrentThread(), 16);
    threads[0] = spawn(spins_for_ever, (PVOID)0);
    threads[1] = spawn(spins_for_ever, (PVOID)1);
    CHECK_EQ(spins[0], 0);
    sleep_ms(200); /* both never call anything */
    CHECK(spins[0] > 0);
    CHECK(spins[1] > 0);
    LONG before[2] = {spins[0], spins[1]};
    sleep_ms(200);
    CHECK(spins[0] > before[0]);
    CHECK(spins[1] > before[1]);
    stop_spinning = 1;
    join(threads[0]);
    join(threads[1]);
    KeSetPriorityThread(KeGetCurrentThread(), 8);
}

KTEST(a_loop_does_not_stop_others)
{
    /* This thread spins without a call until another, of the same priority, has stopped it. */
    count = 0;
    KeInitializeEvent(&go, NotificationEvent, TRUE);
    PVOID thread = spawn(waits_for_go, NULL);
    while (count == 0) {
    }
    CHECK_EQ(count, 1);
    join(thread);
}

KTEST(yielding)
{
    count = 0;
    KeInitializeEvent(&go, NotificationEvent, TRUE);
    CHECK_STATUS(yield_execution(), 0x40000024);
    PVOID thread = spawn(waits_for_go, NULL);
    CHECK_STATUS(yield_execution(), STATUS_SUCCESS);
    CHECK_EQ(count, 1);
    join(thread);
    CHECK_STATUS(yield_execution(), 0x40000024);
    thread = spawn(waits_for_go, NULL);
    LARGE_INTEGER none;
    none.QuadPart = 0;
    CHECK_STATUS(KeDelayExecutionThread(KernelMode, FALSE, &none), STATUS_SUCCESS);
    CHECK_EQ(count, 2);
    join(thread);
}

/* ---- Processes ---- */

KTEST(the_client_is_a_process)
{
    PVOID me = current_process(), found;
    HANDLE id = current_process_id();
    CHECK(me != *system_process_variable);
    CHECK_PTR(io_current_process(), me);
    CHECK_EQ((ULONG_PTR)process_id_of(me), (ULONG_PTR)id);
    CHECK((ULONG_PTR)id != 4);
    CHECK_EQ((ULONG_PTR)id % 4, 0);
    CHECK_STATUS(process_lookup(id, &found), STATUS_SUCCESS);
    CHECK_PTR(found, me);
    ObDereferenceObject(found);
    CHECK_STATUS(process_lookup((HANDLE)4, &found), STATUS_SUCCESS);
    CHECK_PTR(found, *system_process_variable);
    ObDereferenceObject(found);
    CHECK_STATUS(process_lookup((HANDLE)2, &found), STATUS_INVALID_PARAMETER);
    CHECK_PTR(thread_process(KeGetCurrentThread()), me);
    CHECK_EQ((ULONG_PTR)thread_process_id(KeGetCurrentThread()), (ULONG_PTR)id);
    CHECK_EQ((ULONG_PTR)thread_id_of(KeGetCurrentThread()), (ULONG_PTR)current_thread_id());
    CHECK_MEM(process_name(*system_process_variable), "System", 7);
    CHECK_STATUS(process_exit_status(me), STATUS_PENDING);
    LARGE_INTEGER now;
    KeQuerySystemTime(&now);
    CHECK(process_create_time(me) >= process_create_time(*system_process_variable));
    CHECK(process_create_time(me) <= now.QuadPart);
    CHECK_STATUS(wait(me, 0), STATUS_TIMEOUT);
}

KTEST(attaching)
{
    union {
        char bytes[0x30];
        ULONG_PTR words[6];
    } state, inner;
    PVOID me = current_process(), system = *system_process_variable;
    HANDLE id = current_process_id();
    CHECK(!is_attached());
    attach(system, &state);
    CHECK(is_attached());
    CHECK_PTR(current_process(), system);
    CHECK_PTR(io_current_process(), system);
    CHECK_EQ((ULONG_PTR)current_process_id(), (ULONG_PTR)id); /* the thread's own */
    CHECK_PTR(thread_process(KeGetCurrentThread()), me);
    attach(me, &inner);
    CHECK_PTR(current_process(), me);
    detach(&inner);
    CHECK_PTR(current_process(), system);
    detach(&state);
    CHECK_PTR(current_process(), me);
    CHECK(!is_attached());
    attach(me, &state); /* already there */
    CHECK_PTR(current_process(), me);
    CHECK(!is_attached());
    detach(&state);
    CHECK_PTR(current_process(), me);
    attach_process(system);
    CHECK_PTR(current_process(), system);
    sleep_ms(1); /* a switch keeps it */
    CHECK_PTR(current_process(), system);
    detach_process();
    CHECK_PTR(current_process(), me);
    detach_process();
    CHECK_PTR(current_process(), me);
}

KTEST_BUGCHECK(attaching_twice, 0x05)
{
    attach_process(*system_process_variable);
    PVOID other = (PVOID)((ULONG_PTR)*system_process_variable + 0x1000);
    attach_process(other);
}

VOID NTAPI init_apc(PVOID apc, PVOID thread, ULONG environment, PVOID kernel, PVOID rundown, PVOID normal,
                    KPROCESSOR_MODE mode, PVOID context) EXPORT(KeInitializeApc, 32);
BOOLEAN NTAPI insert_apc(PVOID apc, PVOID first, PVOID second, LONG increment) EXPORT(KeInsertQueueApc, 16);
BOOLEAN NTAPI remove_apc(PVOID apc) EXPORT(KeRemoveQueueApc, 4);

static struct {
    ULONG_PTR words[11];
} own_apc, attached_apc;
static PVOID process_seen;

static VOID NTAPI sees_process(PVOID apc, PVOID *routine, PVOID *context, PVOID *first, PVOID *second)
{
    (VOID)apc;
    (VOID)routine;
    (VOID)context;
    (VOID)first;
    (VOID)second;
    process_seen = current_process();
    InterlockedIncrement(&count);
}

KTEST(apcs_of_the_own_process_wait_while_attached)
{
    ULONG_PTR state[6], inner[6];
    PVOID me = current_process(), system = *system_process_variable;
    count = 0;
    init_apc(&own_apc, KeGetCurrentThread(), 0, sees_process, NULL, NULL, KernelMode, NULL);
    attach(system, state);
    CHECK(insert_apc(&own_apc, NULL, NULL, 0));
    CHECK_EQ(count, 0);
    sleep_ms(1); /* nor while it waits */
    CHECK_EQ(count, 0);
    init_apc(&attached_apc, KeGetCurrentThread(), 1, sees_process, NULL, NULL, KernelMode, NULL);
    CHECK(insert_apc(&attached_apc, NULL, NULL, 0));
    CHECK_EQ(count, 1);
    CHECK_PTR(process_seen, system);
    init_apc(&attached_apc, KeGetCurrentThread(), 2, sees_process, NULL, NULL, KernelMode, NULL); /* the current one */
    CHECK(insert_apc(&attached_apc, NULL, NULL, 0));
    CHECK_EQ(count, 2);
    attach(me, inner); /* back, and yet attached */
    CHECK_EQ(count, 2);
    detach(inner);
    CHECK_EQ(count, 2);
    CHECK(!insert_apc(&own_apc, NULL, NULL, 0)); /* it is queued still */
    detach(state);
    CHECK_EQ(count, 3);
    CHECK_PTR(process_seen, me);
    attach(system, state);
    CHECK(insert_apc(&own_apc, NULL, NULL, 0));
    CHECK(remove_apc(&own_apc));
    detach(state);
    CHECK_EQ(count, 3);
}

static VOID NTAPI runs_normally(PVOID context, PVOID first, PVOID second)
{
    (VOID)context;
    (VOID)first;
    (VOID)second;
}

KTEST_BUGCHECK(detaching_with_apcs, 0x06)
{
    ULONG_PTR state[6];
    attach(*system_process_variable, state);
    KeEnterCriticalRegion();
    init_apc(&attached_apc, KeGetCurrentThread(), 1, sees_process, NULL, runs_normally, KernelMode, NULL);
    insert_apc(&attached_apc, NULL, NULL, 0);
    detach(state);
}

KTEST_BUGCHECK(detaching_without_attaching, 0x06)
{
    ULONG_PTR state[6] = {0};
    detach(state);
}

/* ---- Notify routines ---- */

static volatile ULONG_PTR notified[3];

static VOID NTAPI on_thread(HANDLE process, HANDLE thread, BOOLEAN create)
{
    notified[0] = (ULONG_PTR)process;
    notified[1] = (ULONG_PTR)thread;
    notified[2] = create;
    InterlockedExchangeAdd(&count, create ? 1 : 0x100);
}

KTEST(thread_notify_routines)
{
    count = 0;
    CHECK_STATUS(remove_thread_notify(on_thread), 0xC000007A);
    CHECK_STATUS(set_thread_notify(on_thread), STATUS_SUCCESS);
    KeInitializeEvent(&go, NotificationEvent, FALSE);
    PVOID thread = spawn(waits_for_go, NULL);
    CHECK_EQ(count, 1);
    CHECK_EQ(notified[0], 4);
    CHECK_EQ(notified[1], (ULONG_PTR)thread_id_of(thread));
    CHECK_EQ(notified[2], TRUE);
    sleep_ms(1);
    count = 0;
    KeSetEvent(&go, 0, FALSE);
    CHECK_STATUS(wait(thread, MS(30000)), STATUS_SUCCESS);
    CHECK_EQ(count, 0x101);
    CHECK_EQ(notified[1], (ULONG_PTR)thread_id_of(thread));
    CHECK_EQ(notified[2], FALSE);
    ObDereferenceObject(thread);
    CHECK_STATUS(remove_thread_notify(on_thread), STATUS_SUCCESS);
    CHECK_STATUS(remove_thread_notify(on_thread), 0xC000007A);
    join(spawn(notes_itself, NULL));
    CHECK_EQ(count, 0x101);
}

static VOID NTAPI on_process(HANDLE parent, HANDLE process, BOOLEAN create)
{
    (VOID)parent;
    (VOID)process;
    (VOID)create;
}

static VOID NTAPI on_image(PUNICODE_STRING name, HANDLE process, PVOID info)
{
    (VOID)name;
    (VOID)process;
    (VOID)info;
}

KTEST(registering_notify_routines)
{
    CHECK_STATUS(set_process_notify(on_process, TRUE), 0xC000007A);
    CHECK_STATUS(set_process_notify(on_process, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(set_process_notify(on_process, FALSE), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(set_process_notify(on_process, TRUE), STATUS_SUCCESS);
    CHECK_STATUS(set_process_notify(on_process, TRUE), 0xC000007A);
    CHECK_STATUS(remove_image_notify(on_image), 0xC000007A);
    CHECK_STATUS(set_image_notify(on_image), STATUS_SUCCESS);
    CHECK_STATUS(remove_image_notify(on_image), STATUS_SUCCESS);
    CHECK_STATUS(remove_image_notify(on_image), 0xC000007A);
}

KTEST_FAMILY("thread", KTEST_ENTRY(a_thread_runs_and_ends), KTEST_ENTRY(exit_status), KTEST_ENTRY(ids_and_look_up),
             KTEST_ENTRY(only_system_threads_end_themselves), KTEST_BUGCHECK_ENTRY(returning_at_dispatch_level),
             KTEST_BUGCHECK_ENTRY(a_used_up_stack), KTEST_ENTRY(many_threads), KTEST_ENTRY(priorities),
             KTEST_ENTRY(the_best_runs_first), KTEST_ENTRY(equals_run_in_turn),
             KTEST_ENTRY(a_better_thread_preempts_at_once), KTEST_ENTRY(increments_boost), KTEST_ENTRY(quanta_end),
             KTEST_ENTRY(a_loop_does_not_stop_others), KTEST_ENTRY(yielding), KTEST_ENTRY(the_client_is_a_process),
             KTEST_ENTRY(attaching), KTEST_BUGCHECK_ENTRY(attaching_twice),
             KTEST_ENTRY(apcs_of_the_own_process_wait_while_attached), KTEST_BUGCHECK_ENTRY(detaching_with_apcs),
             KTEST_BUGCHECK_ENTRY(detaching_without_attaching), KTEST_ENTRY(thread_notify_routines),
             KTEST_ENTRY(registering_notify_routines));
