/* Structured exceptions as drivers built by gcc can have them: amd64 unwind information from assembler directives with
 * __C_specific_handler, i386 frames on the chain at fs:0 made by hand, and walks over what gcc itself writes.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define NOINLINE __attribute__((noinline))
#define STATUS_TEST ((NTSTATUS)0xE0421234)
#define STATUS_SECOND ((NTSTATUS)0xE0425678)
#define TAG 0x74736554u
#define EXECUTE 1
#define SEARCH 0
#define CONTINUE (-1)

typedef LONG (*FILTER)(PEXCEPTION_POINTERS pointers);
typedef VOID (*BODY)(PVOID argument);

/* Calls a routine; 0, or the code of the exception that the innermost filter took. Cleanup: calls a routine and then,
 * however it ends, on_cleanup. */
ULONG guarded(BODY body, PVOID argument) __asm__("ktest_guarded");
ULONG with_cleanup(BODY body, PVOID argument) __asm__("ktest_with_cleanup");
/* Reads through a pointer that is in cx at that time. */
LONG load_through_cx(PVOID address) __asm__("ktest_load");

static char order[64];
static ULONG order_length;
static BODY after_unwind; /* i386: what the handler does between RtlUnwind and its jump */
static FILTER filters[4]; /* innermost last */
static ULONG filter_count, filter_position;
static BODY cleanup_body;
static EXCEPTION_RECORD seen;

static NOINLINE VOID note(char what)
{
    if (order_length < sizeof(order) - 1) {
        order[order_length++] = what;
        order[order_length] = 0;
    }
}

static VOID begin(ULONG count, FILTER outer, FILTER inner)
{
    order_length = 0;
    order[0] = 0;
    filters[0] = outer;
    filters[1] = inner;
    filter_count = count;
    filter_position = count;
    cleanup_body = NULL;
}

static BOOLEAN happened(const char *expected)
{
    ULONG i = 0;
    while (expected[i] != 0 && expected[i] == order[i]) {
        i++;
    }
    return expected[i] == order[i];
}

/* The filters are asked from the innermost frame on. */
static LONG ask(PEXCEPTION_POINTERS pointers)
{
    seen = *pointers->ExceptionRecord;
    if (filter_position == 0) {
        filter_position = filter_count;
    }
    filter_position--;
    return filters[filter_position](pointers);
}

VOID ktest_on_cleanup(VOID) __asm__("ktest_on_cleanup");
VOID ktest_on_cleanup(VOID)
{
    note('c');
    if (cleanup_body != NULL) {
        BODY body = cleanup_body;
        cleanup_body = NULL;
        body(NULL);
    }
}

#ifdef __x86_64__

LONG ktest_filter(PEXCEPTION_POINTERS pointers, PVOID frame) __asm__("ktest_filter");
LONG ktest_filter(PEXCEPTION_POINTERS pointers, PVOID frame)
{
    UNREFERENCED_PARAMETER(frame);
    return ask(pointers);
}

/* __C_specific_handler's scope table: count; then begin, end, filter or cleanup, target (0: a cleanup) as RVAs. */
__asm__(".text\n"
        ".globl ktest_guarded\n"
        ".def ktest_guarded; .scl 2; .type 32; .endef\n"
        ".seh_proc ktest_guarded\n"
        "ktest_guarded:\n"
        "    pushq %rbp\n"
        "    .seh_pushreg %rbp\n"
        "    pushq %rbx\n"
        "    .seh_pushreg %rbx\n"
        "    subq $40, %rsp\n"
        "    .seh_stackalloc 40\n"
        "    .seh_endprologue\n"
        "    movq %rcx, %rax\n"
        "    movq %rdx, %rcx\n"
        ".Lguarded_begin:\n"
        "    call *%rax\n"
        "    nop\n"
        ".Lguarded_end:\n"
        "    xorl %eax, %eax\n"
        ".Lguarded_target:\n"
        "    addq $40, %rsp\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        "    .seh_handler __C_specific_handler, @except, @unwind\n"
        "    .seh_handlerdata\n"
        "    .long 1\n"
        "    .rva .Lguarded_begin, .Lguarded_end, ktest_filter, .Lguarded_target\n"
        "    .text\n"
        "    .seh_endproc\n"
        ".globl ktest_with_cleanup\n"
        ".def ktest_with_cleanup; .scl 2; .type 32; .endef\n"
        ".seh_proc ktest_with_cleanup\n"
        "ktest_with_cleanup:\n"
        "    subq $40, %rsp\n"
        "    .seh_stackalloc 40\n"
        "    .seh_endprologue\n"
        "    movq %rcx, %rax\n"
        "    movq %rdx, %rcx\n"
        ".Lcleanup_begin:\n"
        "    call *%rax\n"
        "    nop\n"
        ".Lcleanup_end:\n"
        "    call ktest_on_cleanup\n"
        "    xorl %eax, %eax\n"
        "    addq $40, %rsp\n"
        "    ret\n"
        "    .seh_handler __C_specific_handler, @except, @unwind\n"
        "    .seh_handlerdata\n"
        "    .long 1\n"
        "    .rva .Lcleanup_begin, .Lcleanup_end, ktest_on_cleanup\n"
        "    .long 0\n"
        "    .text\n"
        "    .seh_endproc\n"
        /* A leaf: no unwind information. */
        ".globl ktest_load\n"
        "ktest_load:\n"
        "    movl (%rcx), %eax\n"
        "    ret\n");
#define CX Rcx
#define PC Rip

#else

/* EXCEPTION_REGISTRATION_RECORD; behind it what ktest_guarded saved. */
struct frame {
    struct frame *next;
    PVOID handler;
};

VOID ktest_unwind(PVOID frame, PEXCEPTION_RECORD record) __asm__("ktest_unwind");

__asm__(".text\n"
        ".globl ktest_guarded\n"
        "ktest_guarded:\n"
        "    pushl %ebp\n"
        "    movl %esp, %ebp\n"
        "    pushl %ebx\n"
        "    pushl %esi\n"
        "    pushl %edi\n"
        "    pushl $ktest_guarded_handler\n"
        "    pushl %fs:0\n"
        "    movl %esp, %fs:0\n"
        "    pushl 12(%ebp)\n"
        "    call *8(%ebp)\n"
        "    addl $4, %esp\n"
        "    xorl %eax, %eax\n"
        ".Lguarded_out:\n"
        "    popl %fs:0\n"
        "    addl $4, %esp\n"
        "    popl %edi\n"
        "    popl %esi\n"
        "    popl %ebx\n"
        "    popl %ebp\n"
        "    ret\n"
        /* (frame, code): back to the frame's function. */
        ".globl ktest_resume\n"
        "ktest_resume:\n"
        "    movl 8(%esp), %eax\n"
        "    movl 4(%esp), %esp\n"
        "    leal 20(%esp), %ebp\n"
        "    jmp .Lguarded_out\n"
        ".globl ktest_with_cleanup\n"
        "ktest_with_cleanup:\n"
        "    pushl %ebp\n"
        "    movl %esp, %ebp\n"
        "    pushl $ktest_cleanup_handler\n"
        "    pushl %fs:0\n"
        "    movl %esp, %fs:0\n"
        "    pushl 12(%ebp)\n"
        "    call *8(%ebp)\n"
        "    addl $4, %esp\n"
        "    popl %fs:0\n"
        "    addl $4, %esp\n"
        "    call ktest_on_cleanup\n"
        "    xorl %eax, %eax\n"
        "    popl %ebp\n"
        "    ret\n"
        /* RtlUnwind to a frame. It keeps no register, which MSVC's own callers know as well. */
        ".globl ktest_unwind\n"
        "ktest_unwind:\n"
        "    pushl %ebp\n"
        "    movl %esp, %ebp\n"
        "    pushl %ebx\n"
        "    pushl %esi\n"
        "    pushl %edi\n"
        "    pushl $0\n"
        "    pushl 12(%ebp)\n"
        "    pushl $.Lunwound\n"
        "    pushl 8(%ebp)\n"
        "    call _RtlUnwind@16\n"
        ".Lunwound:\n"
        "    popl %edi\n"
        "    popl %esi\n"
        "    popl %ebx\n"
        "    popl %ebp\n"
        "    ret\n"
        ".globl ktest_load\n"
        "ktest_load:\n"
        "    movl 4(%esp), %ecx\n"
        "    movl (%ecx), %eax\n"
        "    ret\n");
#define CX Ecx
#define PC Eip
#define UNWINDING 6 /* EXCEPTION_UNWINDING, EXCEPTION_EXIT_UNWIND */

VOID ktest_resume(PVOID frame, ULONG code) __asm__("ktest_resume") __attribute__((noreturn));

int ktest_guarded_handler(PEXCEPTION_RECORD record, PVOID frame, PCONTEXT context, PVOID dispatcher)
    __asm__("ktest_guarded_handler");
int ktest_guarded_handler(PEXCEPTION_RECORD record, PVOID frame, PCONTEXT context, PVOID dispatcher)
{
    EXCEPTION_POINTERS pointers = {record, context};
    ULONG code = record->ExceptionCode;
    LONG answer;
    UNREFERENCED_PARAMETER(dispatcher);
    if (record->ExceptionFlags & UNWINDING) {
        return 1; /* ExceptionContinueSearch */
    }
    answer = ask(&pointers);
    if (answer == EXECUTE) {
        ktest_unwind(frame, record);
        if (after_unwind != NULL) {
            after_unwind(NULL);
        }
        ktest_resume(frame, code);
    }
    return answer == CONTINUE ? 0 : 1;
}

int ktest_cleanup_handler(PEXCEPTION_RECORD record, PVOID frame, PCONTEXT context, PVOID dispatcher)
    __asm__("ktest_cleanup_handler");
int ktest_cleanup_handler(PEXCEPTION_RECORD record, PVOID frame, PCONTEXT context, PVOID dispatcher)
{
    UNREFERENCED_PARAMETER(frame);
    UNREFERENCED_PARAMETER(context);
    UNREFERENCED_PARAMETER(dispatcher);
    if (record->ExceptionFlags & UNWINDING) {
        ktest_on_cleanup();
    }
    return 1;
}

#endif

static LONG take(PEXCEPTION_POINTERS pointers)
{
    UNREFERENCED_PARAMETER(pointers);
    note('t');
    return EXECUTE;
}

static LONG decline(PEXCEPTION_POINTERS pointers)
{
    UNREFERENCED_PARAMETER(pointers);
    note('d');
    return SEARCH;
}

static VOID load(PVOID argument)
{
    note('l');
    load_through_cx(argument);
    note('L');
}

static VOID raise(PVOID argument)
{
    note('r');
    ExRaiseStatus(argument == NULL ? STATUS_SECOND : (NTSTATUS)(ULONG_PTR)argument);
}

static VOID nothing(PVOID argument)
{
    UNREFERENCED_PARAMETER(argument);
    note('n');
}

KTEST(no_exception)
{
    begin(1, take, NULL);
    CHECK_EQ(guarded(nothing, NULL), 0);
    CHECK(happened("n"));
    CHECK_EQ(with_cleanup(nothing, NULL), 0);
    CHECK(happened("nnc"));
}

KTEST(fault_is_handled)
{
    ULONG i;
    begin(1, take, NULL);
    CHECK_STATUS(guarded(load, (PVOID)16), STATUS_ACCESS_VIOLATION);
    CHECK(happened("lt"));
    CHECK_EQ(seen.ExceptionCode, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(seen.NumberParameters, 2);
    CHECK_EQ(seen.ExceptionInformation[0], 0);
    CHECK_EQ(seen.ExceptionInformation[1], 16);
    /* The chain and the stack are as before: it works again and again. */
    for (i = 0; i < 100; i++) {
        if (guarded(load, (PVOID)16) != (ULONG)STATUS_ACCESS_VIOLATION) {
            break;
        }
    }
    CHECK_EQ(i, 100);
    CHECK_STATUS(guarded(raise, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
}

static LONG loaded_value;

static LONG mend(PEXCEPTION_POINTERS pointers)
{
    note('m');
    pointers->ContextRecord->CX = (ULONG_PTR)&loaded_value;
    return CONTINUE;
}

static VOID load_mended(PVOID argument)
{
    loaded_value = 0x1234;
    CHECK_EQ(load_through_cx(argument), 0x1234);
    note('L');
}

/* The instruction is executed again, with the register as the filter left it. */
KTEST(execution_continues)
{
    begin(1, mend, NULL);
    CHECK_EQ(guarded(load_mended, (PVOID)16), 0);
    CHECK(happened("mL"));
}

static VOID load_guarded(PVOID argument)
{
    ULONG code = guarded(load, argument);
    note(code == (ULONG)STATUS_ACCESS_VIOLATION ? 'i' : 'x');
}

KTEST(innermost_frame_takes_it)
{
    begin(2, take, take);
    CHECK_EQ(guarded(load_guarded, (PVOID)16), 0);
    CHECK(happened("lti"));
}

KTEST(inner_frame_declines)
{
    begin(2, take, decline);
    CHECK_STATUS(guarded(load_guarded, (PVOID)16), STATUS_ACCESS_VIOLATION);
    CHECK(happened("ldt"));
}

static VOID raise_with_cleanup(PVOID argument)
{
    with_cleanup(raise, argument);
    note('x');
}

static VOID raise_with_cleanups(PVOID argument)
{
    with_cleanup(raise_with_cleanup, argument);
    note('x');
}

/* All filters first, then the cleanups from the inside, then the code behind the frame that took it. */
KTEST(filters_then_cleanups)
{
    begin(1, take, NULL);
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    CHECK(happened("rtcc"));
}

/* A cleanup raises: the second exception takes the first one's place, and no cleanup runs twice. */
KTEST(collided_unwind)
{
    begin(1, take, NULL);
    cleanup_body = raise;
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_SECOND);
    CHECK(happened("rtcrtc"));
}

/* An exception leaves a callback of the kernel's: its frames are unwound as the driver's are. */
static RTL_GENERIC_COMPARE_RESULTS NTAPI raising_compare(PRTL_GENERIC_TABLE table, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(table);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    note('k');
    ExRaiseStatus(STATUS_TEST);
    return GenericEqual;
}

static PVOID NTAPI table_allocate(PRTL_GENERIC_TABLE table, CLONG bytes)
{
    UNREFERENCED_PARAMETER(table);
    return ExAllocatePoolWithTag(NonPagedPool, bytes, TAG);
}

static VOID NTAPI table_free(PRTL_GENERIC_TABLE table, PVOID buffer)
{
    UNREFERENCED_PARAMETER(table);
    ExFreePoolWithTag(buffer, TAG);
}

static RTL_GENERIC_TABLE table;

static VOID look_up(PVOID key)
{
    with_cleanup((BODY)nothing, NULL);
    RtlLookupElementGenericTable(&table, key);
    note('x');
}

static RTL_GENERIC_COMPARE_RESULTS NTAPI equal_compare(PRTL_GENERIC_TABLE compared, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(compared);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    return GenericEqual;
}

KTEST(exception_leaves_a_kernel_callback)
{
    ULONG key = 1;
    KIRQL irql = KeGetCurrentIrql();
    RtlInitializeGenericTable(&table, raising_compare, table_allocate, table_free, NULL);
    CHECK(RtlInsertElementGenericTable(&table, &key, sizeof(key), NULL) != NULL);
    begin(1, take, NULL);
    CHECK_STATUS(guarded(look_up, &key), STATUS_TEST);
    CHECK(happened("nckt"));
    CHECK_EQ(KeGetCurrentIrql(), irql);
    table.CompareRoutine = equal_compare;
    CHECK_EQ(RtlDeleteElementGenericTable(&table, &key), TRUE);
    CHECK_EQ(RtlNumberGenericTableElements(&table), 0);
}

/* ---- Handlers leave, and what comes afterwards works. ---- */

static VOID pause(PVOID argument)
{
    LARGE_INTEGER interval;
    UNREFERENCED_PARAMETER(argument);
    interval.QuadPart = -10000; /* 1 ms */
    CHECK_STATUS(KeDelayExecutionThread(KernelMode, FALSE, &interval), STATUS_SUCCESS);
}

static LONG take_silently(PEXCEPTION_POINTERS pointers)
{
    UNREFERENCED_PARAMETER(pointers);
    return EXECUTE;
}

static LONG take_after_wait(PEXCEPTION_POINTERS pointers)
{
    UNREFERENCED_PARAMETER(pointers);
    pause(NULL);
    return EXECUTE;
}

static VOID raise_silently(PVOID argument)
{
    ExRaiseStatus((NTSTATUS)(ULONG_PTR)argument);
}

static RTL_GENERIC_COMPARE_RESULTS NTAPI raising_compare_silently(PRTL_GENERIC_TABLE compared, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(compared);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    ExRaiseStatus(STATUS_TEST);
    return GenericEqual;
}

static VOID look_up_silently(PVOID key)
{
    RtlLookupElementGenericTable(&table, key);
}

/* Each time two calls of the kernel's and their callbacks are left behind; no stack and no IRQL goes with them. */
KTEST(handler_leaves_in_a_loop)
{
    ULONG key = 1, i, wrong = 0;
    ULONG_PTR room, first_room = 0;
    RtlInitializeGenericTable(&table, raising_compare_silently, table_allocate, table_free, NULL);
    CHECK(RtlInsertElementGenericTable(&table, &key, sizeof(key), NULL) != NULL);
    begin(1, take_silently, NULL);
    for (i = 0; i < 100; i++) {
        wrong += guarded(look_up_silently, &key) != (ULONG)STATUS_TEST;
        wrong += guarded(raise_silently, (PVOID)(ULONG_PTR)(ULONG)STATUS_SECOND) != (ULONG)STATUS_SECOND;
        room = IoGetRemainingStackSize();
        if (i == 0) {
            first_room = room;
        }
        wrong += room != first_room;
        wrong += KeGetCurrentIrql() != PASSIVE_LEVEL;
    }
    CHECK_EQ(wrong, 0);
    CHECK(first_room > 0x1000);
    table.CompareRoutine = equal_compare;
    CHECK_EQ(RtlDeleteElementGenericTable(&table, &key), TRUE);
}

static KEVENT timer_event;

static VOID NTAPI set_event(PKDPC dpc, PVOID context, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(dpc);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    KeSetEvent(context, IO_NO_INCREMENT, FALSE);
}

/* Filter, handler and the code behind may wait: the thread is switched away from and comes back. */
KTEST(waits_in_and_behind_a_handler)
{
    KTIMER timer;
    KDPC dpc;
    LARGE_INTEGER due;
    begin(1, take_after_wait, NULL);
    after_unwind = pause;
    CHECK_STATUS(guarded(raise, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    after_unwind = NULL;
    KeInitializeEvent(&timer_event, SynchronizationEvent, FALSE);
    KeInitializeTimer(&timer);
    KeInitializeDpc(&dpc, set_event, &timer_event);
    due.QuadPart = -10000;
    KeSetTimer(&timer, due, &dpc);
    CHECK_STATUS(KeWaitForSingleObject(&timer_event, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    pause(NULL);
    CHECK_STATUS(guarded(load, (PVOID)16), STATUS_ACCESS_VIOLATION);
}

static volatile LONG threads_right;

static VOID NTAPI raises_in_a_thread(PVOID context)
{
    ULONG i;
    ULONG_PTR room = IoGetRemainingStackSize();
    for (i = 0; i < 10; i++) {
        ULONG code = (ULONG)(ULONG_PTR)context + i;
        if (guarded(raise_silently, (PVOID)(ULONG_PTR)code) == code) {
            InterlockedIncrement(&threads_right);
        }
        pause(NULL);
    }
    CHECK_EQ(IoGetRemainingStackSize(), room);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

/* Two threads are in their filters by turns, and each leaves its own frames. */
KTEST(handlers_in_two_threads)
{
    PVOID threads[2];
    HANDLE handle;
    ULONG i;
    begin(1, take_after_wait, NULL);
    threads_right = 0;
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, raises_in_a_thread,
                                          (PVOID)(ULONG_PTR)(0xE0000000u + i * 0x100)),
                     STATUS_SUCCESS);
        CHECK_STATUS(ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, NULL, KernelMode, &threads[i], NULL),
                     STATUS_SUCCESS);
        ZwClose(handle);
    }
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(KeWaitForSingleObject(threads[i], Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
        ObDereferenceObject(threads[i]);
    }
    CHECK_EQ(threads_right, 20);
}

static BOOLEAN is_nested;

static LONG guards_itself(PEXCEPTION_POINTERS pointers)
{
    UNREFERENCED_PARAMETER(pointers);
    if (is_nested) {
        note('n');
        return EXECUTE;
    }
    is_nested = TRUE;
    note('f');
    CHECK_STATUS(guarded(raise, NULL), STATUS_SECOND);
    note('g');
    return EXECUTE;
}

KTEST(exception_handled_in_a_filter)
{
    is_nested = FALSE;
    begin(1, guards_itself, NULL);
    CHECK_STATUS(guarded(raise, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    CHECK(happened("rfrng"));
}

static VOID raise_in_a_guarded_cleanup(PVOID argument)
{
    UNREFERENCED_PARAMETER(argument);
    CHECK_STATUS(guarded(raise, NULL), STATUS_SECOND);
    note('g');
}

/* An exception that a cleanup handles itself does not disturb the unwind that runs it. */
KTEST(exception_handled_in_a_cleanup)
{
    begin(1, take, NULL);
    cleanup_body = raise_in_a_guarded_cleanup;
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    CHECK(happened("rtcrtgc"));
}

/* The IRQL is not the handlers' business. */
KTEST(irql_stays)
{
    KIRQL old;
    begin(1, take, NULL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    KeLowerIrql(old);
    CHECK_EQ(KeGetCurrentIrql(), old);
    CHECK(happened("rtcc"));
}

static ULONG dpc_code, dpc_irql;

static VOID NTAPI raises_in_a_dpc(PKDPC dpc, PVOID context, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(dpc);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    dpc_code = guarded(raise, context);
    dpc_irql = KeGetCurrentIrql();
}

static VOID queue_dpc(PVOID argument)
{
    KDPC dpc;
    KeInitializeDpc(&dpc, raises_in_a_dpc, argument);
    CHECK(KeInsertQueueDpc(&dpc, NULL, NULL)); /* it runs before this returns */
    note('q');
}

/* A DPC's frames are its own: the interrupted thread's are not asked. */
KTEST(exception_in_a_dpc)
{
    KIRQL old;
    begin(1, take, NULL);
    dpc_code = dpc_irql = 0;
    CHECK_EQ(guarded(queue_dpc, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), 0);
    CHECK_STATUS(dpc_code, STATUS_TEST);
    CHECK_EQ(dpc_irql, DISPATCH_LEVEL);
    CHECK(happened("rtq"));
    old = KeGetCurrentIrql();
    CHECK_EQ(old, PASSIVE_LEVEL);
}

/* ---- Requests. ---- */

static ULONG dispatch_code, completion_code;
static BOOLEAN completion_raises;
static BODY dispatch_body;

static NTSTATUS NTAPI raises_in_dispatch(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    dispatch_code = guarded(dispatch_body, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST);
    note('D');
    irp->IoStatus.Status = STATUS_DEVICE_DATA_ERROR;
    irp->IoStatus.Information = 0;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return STATUS_DEVICE_DATA_ERROR;
}

static NTSTATUS NTAPI raises_without_a_frame(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    UNREFERENCED_PARAMETER(irp);
    raise(NULL);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI raises_in_completion(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    UNREFERENCED_PARAMETER(device);
    UNREFERENCED_PARAMETER(irp);
    UNREFERENCED_PARAMETER(context);
    if (completion_raises) {
        completion_code = guarded(raise, NULL);
    }
    note('C');
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS send_status;

static VOID send(PVOID argument)
{
    PIRP irp = argument;
    PIO_STACK_LOCATION next = IoGetNextIrpStackLocation(irp);
    next->MajorFunction = IRP_MJ_INTERNAL_DEVICE_CONTROL;
    IoSetCompletionRoutine(irp, raises_in_completion, NULL, TRUE, TRUE, TRUE);
    send_status = IoCallDriver(ktest_device, irp);
    note('S');
}

/* The driver calls the kernel, that its dispatch routine, that the kernel, and that the completion routine: handled
 * in both of the driver's, and nothing is seen of it further out. */
KTEST(exceptions_in_dispatch_and_completion_routines)
{
    PDRIVER_DISPATCH old = ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL];
    PIRP irp = IoAllocateIrp(ktest_device->StackSize, FALSE);
    ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = raises_in_dispatch;
    begin(1, take, NULL);
    dispatch_body = raise;
    completion_raises = TRUE;
    dispatch_code = completion_code = 0;
    CHECK_EQ(guarded(send, irp), 0);
    CHECK(happened("rtDrtCS"));
    CHECK_STATUS(dispatch_code, STATUS_TEST);
    CHECK_STATUS(completion_code, STATUS_SECOND);
    CHECK_STATUS(send_status, STATUS_DEVICE_DATA_ERROR);
    CHECK_STATUS(irp->IoStatus.Status, STATUS_DEVICE_DATA_ERROR);
    IoFreeIrp(irp);
    ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = old;
}

/* An exception leaves the dispatch routine and IoCallDriver; the sender still owns the request. */
KTEST(exception_out_of_a_dispatch_routine)
{
    PDRIVER_DISPATCH old = ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL];
    PIRP irp = IoAllocateIrp(ktest_device->StackSize, FALSE);
    ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = raises_without_a_frame;
    begin(1, take, NULL);
    CHECK_STATUS(guarded(send, irp), STATUS_SECOND);
    CHECK(happened("rt"));
    /* The same request again, and this time it is completed. */
    IoReuseIrp(irp, STATUS_SUCCESS);
    ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = raises_in_dispatch;
    dispatch_body = nothing;
    completion_raises = FALSE;
    begin(1, take, NULL);
    CHECK_EQ(guarded(send, irp), 0);
    CHECK(happened("nDCS"));
    CHECK_STATUS(send_status, STATUS_DEVICE_DATA_ERROR);
    IoFreeIrp(irp);
    ktest_driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = old;
}

#ifdef __x86_64__

/* Not in mingw-w64's headers for drivers. */
struct runtime_function {
    ULONG BeginAddress, EndAddress, UnwindData;
};
NTSYSAPI VOID NTAPI RtlCaptureContext(PCONTEXT context);
NTSYSAPI struct runtime_function *NTAPI RtlLookupFunctionEntry(ULONG64 pc, PULONG64 image, PVOID history);
NTSYSAPI PVOID NTAPI RtlVirtualUnwind(ULONG type, ULONG64 image, ULONG64 pc, struct runtime_function *function,
                                      PCONTEXT context, PVOID *data, PULONG64 frame, PVOID pointers);

/* Steps out of this function by gcc's own .pdata: the caller's return address and stack. */
static NOINLINE VOID walk(PVOID expected, ULONG64 stack)
{
    CONTEXT context;
    PVOID data;
    ULONG64 image = 0, frame = 0, start;
    struct runtime_function *function;
    RtlCaptureContext(&context);
    function = RtlLookupFunctionEntry(context.Rip, &image, NULL);
    CHECK(function != NULL);
    CHECK_EQ(image, (ULONG_PTR)ktest_driver->DriverStart);
    start = context.Rip - image;
    CHECK(function->BeginAddress <= start && start < function->EndAddress);
    RtlVirtualUnwind(0, image, context.Rip, function, &context, &data, &frame, NULL);
    CHECK_EQ(context.Rip, (ULONG_PTR)__builtin_return_address(0));
    CHECK(frame != 0);
    function = RtlLookupFunctionEntry(context.Rip, &image, NULL);
    CHECK(function != NULL);
    RtlVirtualUnwind(0, image, context.Rip, function, &context, &data, &frame, NULL);
    CHECK_EQ(context.Rip, (ULONG_PTR)expected);
    CHECK(context.Rsp > stack);
}

static NOINLINE VOID walk_from(VOID)
{
    volatile ULONG64 here = 0;
    walk(__builtin_return_address(0), (ULONG_PTR)&here);
    here = 1;
}

KTEST(unwinder_reads_gcc_tables)
{
    volatile ULONG after = 0;
    walk_from();
    after++;
    CHECK_EQ(after, 1);
}

NTSYSAPI VOID NTAPI RtlRestoreContext(PCONTEXT context, PVOID record);

static CONTEXT jump_context;

static RTL_GENERIC_COMPARE_RESULTS NTAPI jumping_compare(PRTL_GENERIC_TABLE compared, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(compared);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    RtlRestoreContext(&jump_context, NULL);
    return GenericEqual;
}

/* A callback of the kernel's is left by going on with an older context, again and again. */
KTEST(callback_is_left_without_an_exception)
{
    static volatile ULONG jumps;
    ULONG key = 1;
    RtlInitializeGenericTable(&table, jumping_compare, table_allocate, table_free, NULL);
    CHECK(RtlInsertElementGenericTable(&table, &key, sizeof(key), NULL) != NULL);
    jumps = 0;
    RtlCaptureContext(&jump_context);
    if (jumps < 100) {
        jumps++;
        look_up_silently(&key);
        FAIL("the callback returned");
    }
    CHECK_EQ(jumps, 100);
    begin(1, take, NULL);
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST), STATUS_TEST);
    CHECK(happened("rtcc"));
    table.CompareRoutine = equal_compare;
    CHECK_EQ(RtlDeleteElementGenericTable(&table, &key), TRUE);
}

/* The handler and its data are found by RtlVirtualUnwind; a leaf has neither. */
KTEST(handler_of_a_function)
{
    CONTEXT context;
    PVOID data = NULL;
    ULONG64 image = 0, frame = 0, pc = (ULONG_PTR)guarded + 20;
    struct runtime_function *function = RtlLookupFunctionEntry(pc, &image, NULL);
    PVOID handler;
    CHECK(function != NULL);
    CHECK_PTR(RtlLookupFunctionEntry((ULONG_PTR)load_through_cx, &image, NULL), NULL);
    RtlCaptureContext(&context);
    handler = RtlVirtualUnwind(1 /* UNW_FLAG_EHANDLER */, image, pc, function, &context, &data, &frame, NULL);
    CHECK(handler != NULL);
    CHECK(data != NULL && *(ULONG *)data == 1);
}

#else

/* A frame that RtlUnwind is to reach, with the chain as it has to be afterwards. */
KTEST(chain_is_restored)
{
    PVOID before, after;
    __asm__ volatile("movl %%fs:0, %0" : "=r"(before));
    begin(1, take, NULL);
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)STATUS_TEST), STATUS_TEST);
    __asm__ volatile("movl %%fs:0, %0" : "=r"(after));
    CHECK_PTR(after, before);
}

static PVOID jump_frame;

static RTL_GENERIC_COMPARE_RESULTS NTAPI jumping_compare(PRTL_GENERIC_TABLE compared, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(compared);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    ktest_unwind(jump_frame, NULL);
    ktest_resume(jump_frame, STATUS_SECOND);
    return GenericEqual;
}

static VOID look_up_and_jump(PVOID key)
{
    __asm__ volatile("movl %%fs:0, %0" : "=r"(jump_frame));
    look_up_silently(key);
    FAIL("the callback returned");
}

/* A callback of the kernel's is left by RtlUnwind and a jump, as longjmp does it, again and again. */
KTEST(callback_is_left_without_an_exception)
{
    ULONG key = 1, i, wrong = 0;
    RtlInitializeGenericTable(&table, jumping_compare, table_allocate, table_free, NULL);
    CHECK(RtlInsertElementGenericTable(&table, &key, sizeof(key), NULL) != NULL);
    begin(1, take, NULL);
    for (i = 0; i < 100; i++) {
        wrong += guarded(look_up_and_jump, &key) != (ULONG)STATUS_SECOND;
    }
    CHECK_EQ(wrong, 0);
    CHECK(happened(""));
    CHECK_STATUS(guarded(raise_with_cleanups, (PVOID)STATUS_TEST), STATUS_TEST);
    CHECK(happened("rtcc"));
    table.CompareRoutine = equal_compare;
    CHECK_EQ(RtlDeleteElementGenericTable(&table, &key), TRUE);
}

/* No such frame: the unwind raises, and the frame that is there takes that. */
static VOID unwind_nowhere(PVOID argument)
{
    PCHAR frame;
    UNREFERENCED_PARAMETER(argument);
    __asm__ volatile("movl %%fs:0, %0" : "=r"(frame));
    ktest_unwind(frame - 4, NULL);
    FAIL("RtlUnwind returned");
}

KTEST(unwind_to_no_frame)
{
    begin(1, take, NULL);
    CHECK_STATUS(guarded(unwind_nowhere, NULL), 0xC0000029 /* STATUS_INVALID_UNWIND_TARGET */);
    CHECK(happened("t"));
}

#endif

KTEST_BUGCHECK(nobody_takes_it, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    begin(1, decline, NULL);
    guarded(raise, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST);
}

/* Handled exceptions leave nothing that one without a handler could find. */
KTEST_BUGCHECK(unhandled_after_handled, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    ULONG i;
    begin(1, take_silently, NULL);
    for (i = 0; i < 10; i++) {
        guarded(raise_silently, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST);
    }
    raise_silently((PVOID)(ULONG_PTR)(ULONG)STATUS_SECOND);
}

static VOID NTAPI raises_in_a_dpc_without_a_frame(PKDPC dpc, PVOID context, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(dpc);
    UNREFERENCED_PARAMETER(context);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    raise(NULL);
}

static VOID queue_bad_dpc(PVOID argument)
{
    KDPC dpc;
    KeInitializeDpc(&dpc, raises_in_a_dpc_without_a_frame, argument);
    KeInsertQueueDpc(&dpc, NULL, NULL);
}

/* The frames below a DPC are not its own. */
KTEST_BUGCHECK(unhandled_in_a_dpc, sizeof(PVOID) == 4 ? 0x8E : 0x1E)
{
    begin(1, take, NULL);
    guarded(queue_bad_dpc, NULL);
}

KTEST_FAMILY("seh_mingw", KTEST_ENTRY(no_exception), KTEST_ENTRY(execution_continues), KTEST_ENTRY(fault_is_handled),
             KTEST_ENTRY(innermost_frame_takes_it), KTEST_ENTRY(inner_frame_declines),
             KTEST_ENTRY(filters_then_cleanups), KTEST_ENTRY(collided_unwind),
             KTEST_ENTRY(exception_leaves_a_kernel_callback), KTEST_ENTRY(handler_leaves_in_a_loop),
             KTEST_ENTRY(waits_in_and_behind_a_handler), KTEST_ENTRY(handlers_in_two_threads),
             KTEST_ENTRY(exception_handled_in_a_filter), KTEST_ENTRY(exception_handled_in_a_cleanup),
             KTEST_ENTRY(irql_stays), KTEST_ENTRY(exception_in_a_dpc),
             KTEST_ENTRY(exceptions_in_dispatch_and_completion_routines),
             KTEST_ENTRY(exception_out_of_a_dispatch_routine), KTEST_ENTRY(callback_is_left_without_an_exception),
#ifdef __x86_64__
             KTEST_ENTRY(unwinder_reads_gcc_tables), KTEST_ENTRY(handler_of_a_function),
#else
             KTEST_ENTRY(chain_is_restored), KTEST_ENTRY(unwind_to_no_frame),
#endif
             KTEST_BUGCHECK_ENTRY(nobody_takes_it), KTEST_BUGCHECK_ENTRY(unhandled_after_handled),
             KTEST_BUGCHECK_ENTRY(unhandled_in_a_dpc));
