/* The executive's small services: work items, callback objects, executive timers, processors, the debugger's absence,
 * floating-point state, bugcheck callbacks, and questions about the system. */
#include "ktest.h"

#define IS64 (sizeof(PVOID) == 8)

/* What mingw-w64's headers lack, or have as macros. */
ULONG NTAPI IoSizeofWorkItem(VOID);
VOID NTAPI IoInitializeWorkItem(PVOID object, PIO_WORKITEM item);
VOID NTAPI IoUninitializeWorkItem(PIO_WORKITEM item);
BOOLEAN NTAPI IoTryQueueWorkItem(PIO_WORKITEM item, PVOID routine, ULONG queue, PVOID context);
VOID NTAPI ExQueryTimerResolution(PULONG maximum, PULONG minimum, PULONG current);

static volatile LONG calls;
static volatile LONG last_irql;
static PVOID seen[4];

/* ---- Callback objects. ---- */

static VOID NTAPI on_notify(PVOID context, PVOID first, PVOID second)
{
    calls++;
    last_irql = KeGetCurrentIrql();
    seen[0] = context;
    seen[1] = first;
    seen[2] = second;
}

KTEST(callback_without_a_name)
{
    PCALLBACK_OBJECT object = NULL;
    PVOID first, second;
    KIRQL old;
    CHECK_STATUS(ExCreateCallback(&object, NULL, TRUE, FALSE), STATUS_SUCCESS);
    CHECK(object != NULL);
    calls = 0;
    ExNotifyCallback(object, (PVOID)1, (PVOID)2);
    CHECK_EQ(calls, 0);
    first = ExRegisterCallback(object, on_notify, (PVOID)7);
    CHECK(first != NULL);
    /* One registration is all that AllowMultipleCallbacks = FALSE allows. */
    CHECK_PTR(ExRegisterCallback(object, on_notify, (PVOID)8), NULL);
    ExNotifyCallback(object, (PVOID)1, (PVOID)2);
    CHECK_EQ(calls, 1);
    CHECK_PTR(seen[0], 7);
    CHECK_PTR(seen[1], 1);
    CHECK_PTR(seen[2], 2);
    CHECK_EQ(last_irql, PASSIVE_LEVEL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExNotifyCallback(object, NULL, NULL);
    KeLowerIrql(old);
    CHECK_EQ(calls, 2);
    CHECK_EQ(last_irql, DISPATCH_LEVEL);
    ExUnregisterCallback(first);
    ExNotifyCallback(object, NULL, NULL);
    CHECK_EQ(calls, 2);
    second = ExRegisterCallback(object, on_notify, NULL);
    CHECK(second != NULL);
    ExUnregisterCallback(second);
    ObDereferenceObject(object);
}

KTEST(callback_with_a_name)
{
    PCALLBACK_OBJECT object = NULL, again = NULL;
    PVOID first, second;
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    RtlInitUnicodeString(&name, L"\\Callback\\KtestCallback");
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE, NULL, NULL);
    CHECK_STATUS(ExCreateCallback(&object, &attributes, FALSE, TRUE), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_PTR(object, NULL);
    CHECK_STATUS(ExCreateCallback(&object, &attributes, TRUE, TRUE), STATUS_SUCCESS);
    CHECK_STATUS(ExCreateCallback(&again, &attributes, FALSE, TRUE), STATUS_SUCCESS);
    CHECK_PTR(again, object);
    first = ExRegisterCallback(object, on_notify, (PVOID)1);
    second = ExRegisterCallback(object, on_notify, (PVOID)2);
    CHECK(first != NULL);
    CHECK(second != NULL);
    CHECK(first != second);
    calls = 0;
    ExNotifyCallback(again, NULL, NULL);
    CHECK_EQ(calls, 2);
    CHECK_PTR(seen[0], 2);
    ExUnregisterCallback(second);
    ExNotifyCallback(again, NULL, NULL);
    CHECK_EQ(calls, 3);
    CHECK_PTR(seen[0], 1);
    ExUnregisterCallback(first);
    ObDereferenceObject(again);
    ObDereferenceObject(object);
    CHECK_STATUS(ExCreateCallback(&object, &attributes, FALSE, TRUE), STATUS_OBJECT_NAME_NOT_FOUND);
}

static VOID opens(PCWSTR text, NTSTATUS expected)
{
    PCALLBACK_OBJECT object = NULL;
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    RtlInitUnicodeString(&name, text);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE, NULL, NULL);
    CHECK_STATUS(ExCreateCallback(&object, &attributes, FALSE, TRUE), expected);
    if (object != NULL) {
        ObDereferenceObject(object);
    }
}

KTEST(system_callbacks)
{
    opens(L"\\Callback\\PowerState", STATUS_SUCCESS);
    opens(L"\\Callback\\SetSystemTime", STATUS_SUCCESS);
    opens(L"\\Callback\\ProcessorAdd", STATUS_SUCCESS);
    opens(L"\\callback\\powerstate", STATUS_SUCCESS);
    opens(L"\\Callback\\NoSuch", STATUS_OBJECT_NAME_NOT_FOUND);
    opens(L"\\Device", STATUS_OBJECT_TYPE_MISMATCH);
}

/* ---- Work items: only what needs no other thread. ---- */

static VOID NTAPI on_work(PDEVICE_OBJECT device, PVOID context)
{
    (VOID)device;
    (VOID)context;
}

KTEST(work_item_memory)
{
    PIO_WORKITEM item = IoAllocateWorkItem(ktest_device);
    UCHAR memory[256];
    CHECK(item != NULL);
    CHECK_EQ(sizeof(WORK_QUEUE_ITEM), IS64 ? 0x20 : 0x10);
    IoFreeWorkItem(item);
    CHECK(IoSizeofWorkItem() > sizeof(WORK_QUEUE_ITEM));
    CHECK(IoSizeofWorkItem() <= sizeof(memory));
    IoInitializeWorkItem(ktest_device, (PIO_WORKITEM)memory);
    IoUninitializeWorkItem((PIO_WORKITEM)memory);
}

KTEST_BUGCHECK(work_item_freed_while_queued, 0xE4)
{
    KIRQL old;
    PIO_WORKITEM item = IoAllocateWorkItem(ktest_device);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    IoQueueWorkItem(item, on_work, DelayedWorkQueue, NULL);
    IoFreeWorkItem(item);
}

KTEST_BUGCHECK(work_item_queued_twice, 0xE4)
{
    static WORK_QUEUE_ITEM item;
    KIRQL old;
    ExInitializeWorkItem(&item, (PWORKER_THREAD_ROUTINE)(PVOID)on_work, NULL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExQueueWorkItem(&item, DelayedWorkQueue);
    ExQueueWorkItem(&item, DelayedWorkQueue);
}

KTEST_BUGCHECK(work_item_at_high_irql, 0x0A)
{
    static WORK_QUEUE_ITEM item;
    KIRQL old;
    ExInitializeWorkItem(&item, (PWORKER_THREAD_ROUTINE)(PVOID)on_work, NULL);
    KeRaiseIrql(DISPATCH_LEVEL + 1, &old);
    ExQueueWorkItem(&item, DelayedWorkQueue);
}

KTEST_BUGCHECK(work_item_without_a_routine, 0xE4)
{
    static WORK_QUEUE_ITEM item;
    ExInitializeWorkItem(&item, NULL, NULL);
    ExQueueWorkItem(&item, CriticalWorkQueue);
}

/* ---- Executive timers. ---- */

static VOID NTAPI on_timer(PVOID timer, PVOID context)
{
    calls++;
    last_irql = KeGetCurrentIrql();
    seen[0] = timer;
    seen[1] = context;
}

static VOID sleep(LONG milliseconds)
{
    LARGE_INTEGER interval;
    interval.QuadPart = -10000LL * milliseconds;
    KeDelayExecutionThread(KernelMode, FALSE, &interval);
}

KTEST(timer)
{
    PEX_TIMER timer = ExAllocateTimer((PEXT_CALLBACK)(PVOID)on_timer, (PVOID)9, 0);
    CHECK(timer != NULL);
    calls = 0;
    CHECK(!ExSetTimer(timer, -10000, 0, NULL));
    sleep(20);
    CHECK_EQ(calls, 1);
    CHECK_PTR(seen[0], timer);
    CHECK_PTR(seen[1], 9);
    CHECK_EQ(last_irql, DISPATCH_LEVEL);
    CHECK(!ExCancelTimer(timer, NULL));
    CHECK(!ExSetTimer(timer, -100000000, 0, NULL));
    CHECK(ExSetTimer(timer, -100000000, 0, NULL));
    CHECK(ExCancelTimer(timer, NULL));
    CHECK(!ExCancelTimer(timer, NULL));
    CHECK(!ExSetTimer(timer, -10000, 20000, NULL));
    /* How many come in a time is the machine's business: late ones are left out. */
    for (ULONG i = 0; i < 300 && calls < 5; i++) {
        sleep(10);
    }
    CHECK(calls >= 5);
    CHECK(ExDeleteTimer(timer, TRUE, TRUE, NULL));
    calls = 0;
    sleep(10);
    CHECK_EQ(calls, 0);
}

KTEST(timer_to_wait_for)
{
    PEX_TIMER timer = ExAllocateTimer(NULL, NULL, 0);
    CHECK(timer != NULL);
    ExSetTimer(timer, -10000, 0, NULL);
    CHECK_STATUS(KeWaitForSingleObject(timer, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK(!ExDeleteTimer(timer, FALSE, FALSE, NULL));
}

KTEST(timer_resolution)
{
    ULONG maximum = 0, minimum = 0, current = 0;
    ExQueryTimerResolution(&maximum, &minimum, &current);
    CHECK_EQ(maximum, KeQueryTimeIncrement());
    CHECK(minimum <= 10000);
    CHECK(current >= minimum);
    CHECK(current <= maximum);
    CHECK_EQ(ExSetTimerResolution(10000, TRUE), 10000);
    ExQueryTimerResolution(&maximum, &minimum, &current);
    CHECK_EQ(current, 10000);
    CHECK_EQ(ExSetTimerResolution(0, FALSE), maximum);
}

/* ---- Processors. ---- */

ULONG NTAPI export_processor_count(PKAFFINITY active)
#ifdef __x86_64__
    __asm__("KeQueryActiveProcessorCount");
KAFFINITY NTAPI export_active(VOID) __asm__("KeQueryActiveProcessors");
ULONG_PTR NTAPI export_ipi(PVOID function, ULONG_PTR argument) __asm__("KeIpiGenericCall");
NTSTATUS NTAPI export_watchdog(PULONG information) __asm__("KeQueryDpcWatchdogInformation");
#else
    __asm__("_KeQueryActiveProcessorCount@4");
KAFFINITY NTAPI export_active(VOID) __asm__("_KeQueryActiveProcessors@0");
ULONG_PTR NTAPI export_ipi(PVOID function, ULONG_PTR argument) __asm__("_KeIpiGenericCall@8");
NTSTATUS NTAPI export_watchdog(PULONG information) __asm__("_KeQueryDpcWatchdogInformation@4");
#endif

static ULONG_PTR NTAPI on_ipi(ULONG_PTR argument)
{
    last_irql = KeGetCurrentIrql();
    return argument + 1;
}

KTEST(processors)
{
    KAFFINITY active = 0;
    PROCESSOR_NUMBER number = {9, 9, 9};
    CHECK_EQ(export_active(), 1);
    CHECK_EQ(export_processor_count(NULL), 1);
    CHECK_EQ(export_processor_count(&active), 1);
    CHECK_EQ(active, 1);
    CHECK_EQ(KeQueryActiveProcessorCountEx(0), 1);
    CHECK_EQ(KeQueryActiveProcessorCountEx(0xFFFF), 1);
    CHECK_EQ(KeQueryActiveProcessorCountEx(1), 0);
    CHECK_EQ(KeQueryMaximumProcessorCountEx(0), 1);
    CHECK_EQ(KeQueryMaximumProcessorCountEx(2), 0);
    CHECK_EQ(KeQueryActiveGroupCount(), 1);
    CHECK_EQ(KeQueryMaximumGroupCount(), 1);
    CHECK_EQ(KeQueryGroupAffinity(0), 1);
    CHECK_EQ(KeQueryGroupAffinity(1), 0);
    CHECK_EQ(KeGetCurrentProcessorNumberEx(NULL), 0);
    CHECK_EQ(KeGetCurrentProcessorNumberEx(&number), 0);
    CHECK_EQ(number.Group, 0);
    CHECK_EQ(number.Number, 0);
    CHECK_EQ(number.Reserved, 0);
    KeSetSystemAffinityThread(1);
    KeRevertToUserAffinityThread();
    CHECK_EQ(export_ipi(on_ipi, 41), 42);
    CHECK_EQ(last_irql, IS64 ? 14 : 29);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(dpc_watchdog)
{
    ULONG information[5] = {9, 9, 9, 9, 9};
    KIRQL old;
    CHECK_STATUS(export_watchdog(information), STATUS_UNSUCCESSFUL);
    CHECK_EQ(information[0], 9);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_STATUS(export_watchdog(information), STATUS_SUCCESS);
    KeLowerIrql(old);
    CHECK_EQ(information[0], 0);
    CHECK_EQ(information[2], 0);
}

/* ---- Debugger. ---- */

KTEST(no_debugger)
{
    char answer[4] = {1, 1, 1, 1};
    CHECK(KdRefreshDebuggerNotPresent());
    CHECK_STATUS(KdDisableDebugger(), STATUS_DEBUGGER_INACTIVE);
    CHECK_STATUS(KdEnableDebugger(), STATUS_DEBUGGER_INACTIVE);
    CHECK_EQ(DbgPrompt("?", answer, sizeof(answer)), 0);
    CHECK_EQ(answer[0], 0);
    CHECK_EQ(answer[1], 1);
}

/* ---- Bugcheck callbacks. ---- */

static KBUGCHECK_CALLBACK_RECORD record, *const at = &record;

static VOID NTAPI on_bugcheck(PVOID buffer, ULONG length)
{
    /* A second bugcheck, which must not replace the first. */
    if (KeGetCurrentIrql() == HIGH_LEVEL && length == 7) {
        KeBugCheck((ULONG)(ULONG_PTR)buffer);
    }
}

KTEST(bugcheck_callback_records)
{
    KeInitializeCallbackRecord(at);
    CHECK_EQ(sizeof(record), IS64 ? 0x40 : 0x20);
    CHECK(!KeDeregisterBugCheckCallback(&record));
    CHECK(KeRegisterBugCheckCallback(&record, on_bugcheck, NULL, 0, (PUCHAR)"ktest"));
    CHECK_EQ(record.State, 1);
    CHECK(!KeRegisterBugCheckCallback(&record, on_bugcheck, NULL, 0, (PUCHAR)"ktest"));
    CHECK(KeDeregisterBugCheckCallback(&record));
    CHECK_EQ(record.State, 0);
    CHECK(!KeDeregisterBugCheckCallback(&record));
}

KTEST_BUGCHECK(bugcheck_callback_keeps_the_code, 0xE2)
{
    KeInitializeCallbackRecord(at);
    KeRegisterBugCheckCallback(&record, on_bugcheck, (PVOID)0xBAD, 7, (PUCHAR)"ktest");
    KeBugCheck(0xE2);
}

/* ---- Others. ---- */


KTEST(floating_point_state)
{
    XSTATE_SAVE save;
    CHECK_STATUS(KeSaveExtendedProcessorState(3, &save), STATUS_SUCCESS);
    KeRestoreExtendedProcessorState(&save);
#ifndef __x86_64__
    {
        KFLOATING_SAVE area;
        CHECK_EQ(sizeof(area), 0x20);
        CHECK_STATUS(KeSaveFloatingPointState(&area), STATUS_SUCCESS);
        CHECK_STATUS(KeRestoreFloatingPointState(&area), STATUS_SUCCESS);
    }
#endif
}

KTEST_BUGCHECK(floating_point_state_never_saved, 0xE7)
{
    XSTATE_SAVE save;
    RtlZeroMemory(&save, sizeof(save));
    KeRestoreExtendedProcessorState(&save);
}

KTEST(unique_identifiers)
{
    UUID first, second;
    CHECK_STATUS(ExUuidCreate(&first), STATUS_SUCCESS);
    CHECK_STATUS(ExUuidCreate(&second), STATUS_SUCCESS);
    CHECK(RtlCompareMemory(&first, &second, sizeof(first)) != sizeof(first));
    CHECK_EQ(first.Data3 >> 12, 1);
    CHECK_EQ(first.Data4[0] >> 6, 2);
    CHECK_MEM(first.Data4, second.Data4, 8);
}

KTEST(questions)
{
    CHECK(ExIsProcessorFeaturePresent(PF_COMPARE_EXCHANGE_DOUBLE));
    CHECK(!ExIsProcessorFeaturePresent(64));
    CHECK(!ExIsProcessorFeaturePresent(0xFFFFFFFF));
    CHECK(!ExVerifySuite(DataCenter));
    CHECK(ExVerifySuite(SingleUserTS));
    /* In a request of a client process. */
    CHECK_EQ(ExGetPreviousMode(), UserMode);
}

KTEST_FAMILY("ex",
    KTEST_ENTRY(callback_without_a_name),
    KTEST_ENTRY(callback_with_a_name),
    KTEST_ENTRY(system_callbacks),
    KTEST_ENTRY(work_item_memory),
    KTEST_BUGCHECK_ENTRY(work_item_freed_while_queued),
    KTEST_BUGCHECK_ENTRY(work_item_queued_twice),
    KTEST_BUGCHECK_ENTRY(work_item_at_high_irql),
    KTEST_BUGCHECK_ENTRY(work_item_without_a_routine),
    KTEST_ENTRY(timer),
    KTEST_ENTRY(timer_to_wait_for),
    KTEST_ENTRY(timer_resolution),
    KTEST_ENTRY(processors),
    KTEST_ENTRY(dpc_watchdog),
    KTEST_ENTRY(no_debugger),
    KTEST_ENTRY(bugcheck_callback_records),
    KTEST_BUGCHECK_ENTRY(bugcheck_callback_keeps_the_code),
    KTEST_ENTRY(floating_point_state),
    KTEST_BUGCHECK_ENTRY(floating_point_state_never_saved),
    KTEST_ENTRY(unique_identifiers),
    KTEST_ENTRY(questions));
