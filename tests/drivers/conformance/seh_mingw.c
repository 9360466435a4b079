/* Structured exceptions as drivers built by gcc can have them: amd64 unwind information from assembler directives with
 * __C_specific_handler, i386 frames on the chain at fs:0 made by hand, and walks over what gcc itself writes. */
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

#endif

KTEST_BUGCHECK(nobody_takes_it, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    begin(1, decline, NULL);
    guarded(raise, (PVOID)(ULONG_PTR)(ULONG)STATUS_TEST);
}

/* On i386 a driver's own handler cannot leave its frame by a jump yet: the shim then still has the calls on its stack
 * that led to the handler. */
KTEST_FAMILY("seh_mingw", KTEST_ENTRY(no_exception), KTEST_ENTRY(execution_continues),
#ifdef __x86_64__
             KTEST_ENTRY(fault_is_handled), KTEST_ENTRY(innermost_frame_takes_it), KTEST_ENTRY(inner_frame_declines),
             KTEST_ENTRY(filters_then_cleanups), KTEST_ENTRY(collided_unwind),
             KTEST_ENTRY(exception_leaves_a_kernel_callback), KTEST_ENTRY(unwinder_reads_gcc_tables),
             KTEST_ENTRY(handler_of_a_function),
#endif
             KTEST_BUGCHECK_ENTRY(nobody_takes_it));
