/* compiler: clang */
/* Structured exception handling as the MSVC ABI has it: faults, raises, filters, __finally, unwinding across the
 * kernel's own frames. clang moves plain accesses out of a __try, so whatever may fault is a call.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define NOINLINE __attribute__((noinline))
#define STATUS_TEST ((NTSTATUS)0xE0421234)

NTKERNELAPI VOID NTAPI RtlRaiseException(PEXCEPTION_RECORD record);
NTKERNELAPI VOID NTAPI ProbeForRead(CONST VOID *address, SIZE_T bytes, ULONG alignment);
NTKERNELAPI VOID NTAPI ProbeForWrite(PVOID address, SIZE_T bytes, ULONG alignment);

/* ---- What happened, in order. ---- */

static char order[64];
static ULONG order_length;

static NOINLINE VOID note(char what)
{
    if (order_length < sizeof(order) - 1) {
        order[order_length++] = what;
        order[order_length] = 0;
    }
}

static VOID forget(VOID)
{
    order_length = 0;
    order[0] = 0;
}

static BOOLEAN happened(const char *expected)
{
    ULONG i = 0;
    while (expected[i] != 0 && expected[i] == order[i]) {
        i++;
    }
    return expected[i] == order[i];
}

/* ---- Things that fault. ---- */

static NOINLINE LONG read_at(volatile LONG *address)
{
    return *address;
}

static NOINLINE VOID write_at(volatile LONG *address, LONG value)
{
    *address = value;
}

static NOINLINE LONG divide(volatile LONG a, volatile LONG b)
{
    return a / b;
}

static NOINLINE VOID illegal(VOID)
{
    __asm__ volatile("ud2");
}

static NOINLINE VOID break_here(VOID)
{
    __asm__ volatile("int3");
}

static NOINLINE VOID raise(NTSTATUS status)
{
    ExRaiseStatus(status);
}

static NOINLINE VOID nothing(VOID)
{
    __asm__ volatile("");
}

/* ---- The last exception seen by a filter. ---- */

static EXCEPTION_RECORD seen;
static CONTEXT seen_context;
static ULONG filters;

static NOINLINE LONG look(EXCEPTION_POINTERS *pointers, LONG verdict)
{
    filters++;
    seen = *pointers->ExceptionRecord;
    seen_context = *pointers->ContextRecord;
    return verdict;
}

/* ---- Faults become exceptions. ---- */

KTEST(access_violation_read)
{
    LONG caught = 0;
    filters = 0;
    __try {
        read_at((volatile LONG *)0x10);
        FAIL("a read of address 0x10 returned");
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(filters, 1);
    CHECK_STATUS(seen.ExceptionCode, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(seen.ExceptionFlags, 0);
    CHECK_EQ(seen.NumberParameters, 2);
    CHECK_EQ(seen.ExceptionInformation[0], 0);
    CHECK_EQ(seen.ExceptionInformation[1], 0x10);
    CHECK_PTR(seen.ExceptionRecord, NULL);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)read_at < 64);
#ifdef _M_IX86
    CHECK_EQ(seen_context.Eip, (ULONG_PTR)seen.ExceptionAddress);
#else
    CHECK_EQ(seen_context.Rip, (ULONG_PTR)seen.ExceptionAddress);
#endif
}

KTEST(access_violation_write)
{
    LONG caught = 0;
    __try {
        write_at((volatile LONG *)0x7FFE0000, 1);
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(seen.ExceptionInformation[0], 1);
    CHECK_EQ(seen.ExceptionInformation[1], 0x7FFE0000);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)write_at < 64);
}

KTEST(access_violation_execute)
{
    LONG caught = 0;
    VOID (*volatile nowhere)(VOID) = (VOID(*)(VOID))0x2000;
    __try {
        nowhere();
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_ACCESS_VIOLATION);
    CHECK_PTR(seen.ExceptionAddress, 0x2000);
    CHECK_EQ(seen.ExceptionInformation[1], 0x2000);
}

KTEST(divide_by_zero)
{
    LONG caught = 0;
    __try {
        divide(7, 0);
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_INTEGER_DIVIDE_BY_ZERO);
    CHECK_EQ(seen.NumberParameters, 0);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)divide < 64);
}

KTEST(illegal_instruction)
{
    LONG caught = 0;
    __try {
        illegal();
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_ILLEGAL_INSTRUCTION);
    CHECK_EQ(seen.NumberParameters, 0);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)illegal < 16);
}

KTEST(breakpoint)
{
    LONG caught = 0;
    __try {
        break_here();
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_BREAKPOINT);
    CHECK_EQ(*(UCHAR *)seen.ExceptionAddress, 0xCC);
}

static LONG step_over_breakpoint(EXCEPTION_POINTERS *pointers)
{
    filters++;
#ifdef _M_IX86
    pointers->ContextRecord->Eip++;
#else
    pointers->ContextRecord->Rip++;
#endif
    return EXCEPTION_CONTINUE_EXECUTION;
}

KTEST(breakpoint_continued)
{
    ULONG after = 0;
    filters = 0;
    __try {
        break_here();
        after = 1;
    } __except (step_over_breakpoint(GetExceptionInformation())) {
        FAIL("the exception was continued, yet the block was entered");
    }
    CHECK_EQ(after, 1);
    CHECK_EQ(filters, 1);
}

static LONG step_over_ud2(EXCEPTION_POINTERS *pointers)
{
#ifdef _M_IX86
    pointers->ContextRecord->Eip += 2;
#else
    pointers->ContextRecord->Rip += 2;
#endif
    return EXCEPTION_CONTINUE_EXECUTION;
}

static NOINLINE VOID keep_registers(ULONG_PTR *first, ULONG_PTR *second)
{
    ULONG_PTR a = 0;
    ULONG_PTR b = 0;
#ifdef _M_IX86
        __asm__ volatile("movl $0x1111, %%esi\n movl $0x2222, %%edi\n ud2\n movl %%esi, %0\n movl %%edi, %1"
                         : "=m"(a), "=m"(b) : : "esi", "edi", "memory");
#else
        __asm__ volatile("movq $0x1111, %%rsi\n movq $0x2222, %%r15\n ud2\n movq %%rsi, %0\n movq %%r15, %1"
                         : "=m"(a), "=m"(b) : : "rsi", "r15", "memory");
#endif
    *first = a;
    *second = b;
}

KTEST(registers_survive_a_continued_exception)
{
    ULONG_PTR a = 0;
    ULONG_PTR b = 0;
    __try {
        keep_registers(&a, &b);
    } __except (step_over_ud2(GetExceptionInformation())) {
    }
    CHECK_EQ(a, 0x1111);
    CHECK_EQ(b, 0x2222);
}

static LONG point_to(EXCEPTION_POINTERS *pointers, LONG *good)
{
    filters++;
    if (filters > 3) {
        return EXCEPTION_EXECUTE_HANDLER;
    }
#ifdef _M_IX86
    pointers->ContextRecord->Ecx = (ULONG_PTR)good;
#else
    pointers->ContextRecord->Rcx = (ULONG_PTR)good;
#endif
    return EXCEPTION_CONTINUE_EXECUTION;
}

static NOINLINE LONG load_by_cx(VOID)
{
    LONG value;
    __asm__ volatile("xor %%ecx, %%ecx\n"
#ifdef _M_IX86
                     "movl (%%ecx), %0"
#else
                     "movl (%%rcx), %0"
#endif
                     : "=a"(value) : : "ecx", "memory");
    return value;
}

KTEST(context_changed_by_a_filter_is_used)
{
    LONG good = 4711;
    LONG value = 0;
    filters = 0;
    __try {
        value = load_by_cx();
    } __except (point_to(GetExceptionInformation(), &good)) {
        FAIL("not continued");
    }
    CHECK_EQ(value, 4711);
    CHECK_EQ(filters, 1);
}

/* ---- Raised exceptions. ---- */

KTEST(raised_status)
{
    LONG caught = 0;
    __try {
        raise(STATUS_TEST);
        FAIL("ExRaiseStatus returned");
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        caught = GetExceptionCode();
    }
    CHECK_STATUS(caught, STATUS_TEST);
    CHECK_EQ(seen.ExceptionFlags & EXCEPTION_NONCONTINUABLE, EXCEPTION_NONCONTINUABLE);
    CHECK_EQ(seen.NumberParameters, 0);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)raise < 64);
}

KTEST(raised_access_violation_and_misalignment)
{
    LONG first = 0;
    LONG second = 0;
    __try {
        ExRaiseAccessViolation();
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        first = GetExceptionCode();
    }
    __try {
        ExRaiseDatatypeMisalignment();
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        second = GetExceptionCode();
    }
    CHECK_STATUS(first, STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(second, STATUS_DATATYPE_MISALIGNMENT);
}

KTEST(raised_record)
{
    EXCEPTION_RECORD record = {0};
    ULONG after = 0;
    record.ExceptionCode = STATUS_TEST;
    record.NumberParameters = 3;
    record.ExceptionInformation[0] = 11;
    record.ExceptionInformation[1] = 22;
    record.ExceptionInformation[2] = 33;
    __try {
        RtlRaiseException(&record);
        FAIL("RtlRaiseException returned");
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        after = 1;
    }
    CHECK_EQ(after, 1);
    CHECK_STATUS(seen.ExceptionCode, STATUS_TEST);
    CHECK_EQ(seen.NumberParameters, 3);
    CHECK_EQ(seen.ExceptionInformation[0], 11);
    CHECK_EQ(seen.ExceptionInformation[1], 22);
    CHECK_EQ(seen.ExceptionInformation[2], 33);
    after = 0;
    __try {
        RtlRaiseException(&record);
        after = 1;
    } __except (look(GetExceptionInformation(), EXCEPTION_CONTINUE_EXECUTION)) {
        FAIL("not continued");
    }
    CHECK_EQ(after, 1);
}

static NOINLINE LONG continue_anyway(VOID)
{
    LONG code = 0;
    __try {
        __try {
            raise(STATUS_TEST);
        } __except (GetExceptionCode() == STATUS_TEST ? EXCEPTION_CONTINUE_EXECUTION : EXCEPTION_CONTINUE_SEARCH) {
            FAIL("entered");
        }
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        code = GetExceptionCode();
    }
    return code;
}

KTEST(continuing_what_cannot_be_continued)
{
    CHECK_STATUS(continue_anyway(), STATUS_NONCONTINUABLE_EXCEPTION);
    CHECK(seen.ExceptionRecord != NULL);
}

/* ---- Filters and blocks. ---- */

KTEST(no_exception_runs_no_block)
{
    ULONG value = 1;
    forget();
    __try {
        nothing();
        note('t');
    } __except (note('f'), EXCEPTION_EXECUTE_HANDLER) {
        note('e');
        value = 2;
    }
    CHECK_EQ(value, 1);
    CHECK(happened("t"));
}

KTEST(inner_filter_declines)
{
    forget();
    __try {
        __try {
            raise(STATUS_TEST);
        } __except (note('i'), EXCEPTION_CONTINUE_SEARCH) {
            note('I');
        }
    } __except (note('o'), EXCEPTION_EXECUTE_HANDLER) {
        note('O');
    }
    CHECK(happened("ioO"));
}

KTEST(filters_first_then_finally_then_block)
{
    forget();
    __try {
        __try {
            __try {
                raise(STATUS_TEST);
            } __finally {
                note('1');
                if (AbnormalTermination()) {
                    note('a');
                }
            }
        } __finally {
            note('2');
        }
    } __except (note('f'), EXCEPTION_EXECUTE_HANDLER) {
        note('b');
    }
    CHECK(happened("f1a2b"));
}

KTEST(finally_without_exception)
{
    forget();
    __try {
        nothing();
        note('t');
    } __finally {
        note('f');
        if (AbnormalTermination()) {
            note('a');
        }
    }
    CHECK(happened("tf"));
}

static NOINLINE ULONG leaves(ULONG early)
{
    ULONG value = 0;
    __try {
        nothing();
        if (early) {
            __leave;
        }
        value = 1;
    } __finally {
        value += 10;
    }
    return value;
}

KTEST(leave)
{
    CHECK_EQ(leaves(0), 11);
    CHECK_EQ(leaves(1), 10);
}

static NOINLINE VOID level3(VOID)
{
    __try {
        raise(STATUS_TEST);
    } __finally {
        note('3');
    }
}

static NOINLINE VOID level2(VOID)
{
    __try {
        level3();
        note('x');
    } __finally {
        note('2');
    }
}

static NOINLINE VOID level1(VOID)
{
    __try {
        level2();
        note('x');
    } __except (note('n'), EXCEPTION_CONTINUE_SEARCH) {
        note('x');
    }
}

KTEST(several_frames)
{
    LONG code = 0;
    forget();
    __try {
        level1();
        note('x');
    } __except (note('y'), EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
        note('b');
    }
    CHECK(happened("ny32b"));
    CHECK_STATUS(code, STATUS_TEST);
    /* Once more: nothing of the first is left. */
    forget();
    __try {
        level1();
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        note('b');
    }
    CHECK(happened("n32b"));
}

KTEST(exception_in_a_block)
{
    LONG inner = 0;
    LONG outer = 0;
    __try {
        __try {
            raise(STATUS_TEST);
        } __except (EXCEPTION_EXECUTE_HANDLER) {
            inner = GetExceptionCode();
            raise(STATUS_UNSUCCESSFUL);
        }
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        outer = GetExceptionCode();
    }
    CHECK_STATUS(inner, STATUS_TEST);
    CHECK_STATUS(outer, STATUS_UNSUCCESSFUL);
}

static NOINLINE LONG filter_that_handles_its_own(VOID)
{
    LONG code = 0;
    __try {
        raise(STATUS_UNSUCCESSFUL);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
        note('h');
    }
    return code == STATUS_UNSUCCESSFUL ? EXCEPTION_EXECUTE_HANDLER : EXCEPTION_CONTINUE_SEARCH;
}

KTEST(exception_handled_inside_a_filter)
{
    LONG code = 0;
    forget();
    __try {
        raise(STATUS_TEST);
    } __except (filter_that_handles_its_own()) {
        code = GetExceptionCode();
        note('b');
    }
    CHECK_STATUS(code, STATUS_TEST);
    CHECK(happened("hb"));
}

/* The second exception asks the same filter again. */
static NOINLINE LONG filter_that_raises(LONG code)
{
    note('r');
    if (code == STATUS_TEST) {
        raise(STATUS_UNSUCCESSFUL);
    }
    return EXCEPTION_CONTINUE_SEARCH;
}

KTEST(exception_that_leaves_a_filter)
{
    LONG code = 0;
    forget();
    __try {
        __try {
            raise(STATUS_TEST);
        } __except (filter_that_raises(GetExceptionCode())) {
            note('x');
        }
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
        note('b');
    }
    CHECK_STATUS(code, STATUS_UNSUCCESSFUL);
    CHECK(happened("rrb"));
}

static NOINLINE VOID finally_that_raises(VOID)
{
    __try {
        __try {
            raise(STATUS_TEST);
            /* clang's ranges of two scopes would touch, and a return address where they do is in both. */
            __asm__ volatile("nop");
        } __finally {
            note('1');
            raise(STATUS_UNSUCCESSFUL);
        }
    } __finally {
        note('2');
    }
}

KTEST(collided_unwind)
{
    LONG code = 0;
    forget();
    __try {
        __try {
            finally_that_raises();
        } __except (GetExceptionCode() == STATUS_UNSUCCESSFUL ? EXCEPTION_EXECUTE_HANDLER
                                                              : EXCEPTION_CONTINUE_SEARCH) {
            code = GetExceptionCode();
            note('b');
        }
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        note('B');
        FAIL("the second exception has taken the place of the first");
    }
    CHECK_STATUS(code, STATUS_UNSUCCESSFUL);
    CHECK(happened("12b"));
}

static NOINLINE VOID finally_that_handles(VOID)
{
    __try {
        raise(STATUS_TEST);
    } __finally {
        note('1');
        __try {
            raise(STATUS_UNSUCCESSFUL);
        } __except (EXCEPTION_EXECUTE_HANDLER) {
            note('h');
        }
        note('2');
    }
}

KTEST(exception_handled_inside_a_finally)
{
    LONG code = 0;
    forget();
    __try {
        finally_that_handles();
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
        note('b');
    }
    CHECK_STATUS(code, STATUS_TEST);
    CHECK(happened("1h2b"));
}

static NOINLINE ULONG recurse(ULONG depth)
{
    ULONG value = 0;
    __try {
        if (depth == 0) {
            raise(STATUS_TEST);
        }
        value = recurse(depth - 1);
    } __finally {
        filters++;
    }
    return value + 1;
}

KTEST(deep_recursion)
{
    LONG code = 0;
    filters = 0;
    __try {
        recurse(30);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
    }
    CHECK_STATUS(code, STATUS_TEST);
    CHECK_EQ(filters, 31);
}

KTEST(many_exceptions)
{
    ULONG caught = 0;
    for (ULONG i = 0; i < 200; i++) {
        __try {
            if (i & 1) {
                raise(STATUS_TEST);
            } else {
                read_at((volatile LONG *)(ULONG_PTR)(i * 8));
            }
        } __except (EXCEPTION_EXECUTE_HANDLER) {
            caught++;
        }
    }
    CHECK_EQ(caught, 200);
}

/* ---- Faults in the kernel's functions, at the driver's call. ---- */

KTEST(fault_in_a_kernel_function)
{
    LONG code = 0;
    UCHAR bytes[16];
    __try {
        RtlCopyMemory(bytes, (PVOID)0x1000, 0);
        RtlCompareMemory(bytes, (PVOID)0x1000, 16);
        FAIL("RtlCompareMemory read address 0x1000");
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        code = GetExceptionCode();
    }
    CHECK_STATUS(code, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(seen.ExceptionInformation[0], 0);
    CHECK_EQ(seen.ExceptionInformation[1], 0x1000);
    code = 0;
    __try {
        RtlInitUnicodeString(NULL, L"x");
        FAIL("RtlInitUnicodeString wrote to address 0");
    } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
        code = GetExceptionCode();
    }
    CHECK_STATUS(code, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(seen.ExceptionInformation[0], 1);
    CHECK(seen.ExceptionInformation[1] < 16);
    /* The kernel is as usable as before. */
    for (ULONG i = 0; i < 50; i++) {
        code = 0;
        __try {
            KeSetEvent((PRKEVENT)(ULONG_PTR)0x3000, 0, FALSE);
        } __except (EXCEPTION_EXECUTE_HANDLER) {
            code = GetExceptionCode();
        }
        if (code != STATUS_ACCESS_VIOLATION) {
            break;
        }
    }
    CHECK_STATUS(code, STATUS_ACCESS_VIOLATION);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

/* ---- Across the kernel's frames. ---- */

static NTSTATUS NTAPI raising_dispatch(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    UNREFERENCED_PARAMETER(irp);
    __try {
        raise(STATUS_TEST);
    } __finally {
        note('d');
    }
    return STATUS_SUCCESS;
}

KTEST(exception_out_of_a_dispatch_routine)
{
    LONG code = 0;
    PIRP irp = IoAllocateIrp(2, FALSE);
    PDRIVER_DISPATCH saved = ktest_driver->MajorFunction[IRP_MJ_FLUSH_BUFFERS];
    ktest_driver->MajorFunction[IRP_MJ_FLUSH_BUFFERS] = raising_dispatch;
    forget();
    for (ULONG i = 0; i < 20; i++) {
        code = 0;
        irp->CurrentLocation = (CHAR)(irp->StackCount + 1);
        irp->Tail.Overlay.CurrentStackLocation = (PIO_STACK_LOCATION)(irp + 1) + irp->StackCount;
        IoGetNextIrpStackLocation(irp)->MajorFunction = IRP_MJ_FLUSH_BUFFERS;
        __try {
            IofCallDriver(ktest_device, irp);
            FAIL("IofCallDriver returned");
        } __except (look(GetExceptionInformation(), EXCEPTION_EXECUTE_HANDLER)) {
            code = GetExceptionCode();
        }
        if (code != STATUS_TEST) {
            break;
        }
    }
    CHECK_STATUS(code, STATUS_TEST);
    CHECK(order[0] == 'd' && order[19] == 'd' && order[20] == 0);
    CHECK((ULONG_PTR)seen.ExceptionAddress - (ULONG_PTR)raise < 64);
    ktest_driver->MajorFunction[IRP_MJ_FLUSH_BUFFERS] = saved;
    IoFreeIrp(irp);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

/* ---- IRQL. ---- */

KTEST(raised_irql_stays)
{
    LONG code = 0;
    KIRQL old;
    KIRQL inside = 0;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    __try {
        raise(STATUS_TEST);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
        inside = KeGetCurrentIrql();
    }
    KeLowerIrql(old);
    CHECK_STATUS(code, STATUS_TEST);
    CHECK_EQ(inside, DISPATCH_LEVEL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    code = 0;
    __try {
        divide(1, 0);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        code = GetExceptionCode();
    }
    KeLowerIrql(old);
    CHECK_STATUS(code, STATUS_INTEGER_DIVIDE_BY_ZERO);
}

/* ---- Preserved registers. ---- */

static NOINLINE LONG with_locals(LONG a, LONG b, LONG c)
{
    volatile LONG sum = a;
    LONG x = a * 3 + b;
    LONG y = b * 5 + c;
    LONG z = c * 7 + a;
    __try {
        sum += x;
        raise(STATUS_TEST);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        sum += y + z;
    }
    return sum + x - y;
}

static NOINLINE LONG without_exception(LONG a, LONG b, LONG c)
{
    LONG x = a * 3 + b;
    LONG y = b * 5 + c;
    LONG z = c * 7 + a;
    return a + x + y + z + x - y;
}

KTEST(locals_after_an_exception)
{
    CHECK_EQ(with_locals(1, 2, 3), without_exception(1, 2, 3));
    CHECK_EQ(with_locals(-5, 77, 1000), without_exception(-5, 77, 1000));
    CHECK_EQ(with_locals(0, 0, 0), 0);
}

#ifndef _M_IX86
static NOINLINE VOID clobber_and_raise(VOID)
{
    __asm__ volatile("pushq %%rbx\n xorl %%ebx, %%ebx\n popq %%rbx" : : : "memory");
    raise(STATUS_TEST);
}

KTEST(nonvolatile_registers)
{
    ULONG64 rsi_after = 0;
    ULONG64 r14_after = 0;
    register ULONG64 a __asm__("rsi") = 0x1234567887654321;
    register ULONG64 b __asm__("r14") = 0x1122334455667788;
    __asm__ volatile("" : "+r"(a), "+r"(b));
    ULONG64 keep_a = a;
    ULONG64 keep_b = b;
    __try {
        clobber_and_raise();
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
    rsi_after = keep_a;
    r14_after = keep_b;
    CHECK_EQ(rsi_after, 0x1234567887654321);
    CHECK_EQ(r14_after, 0x1122334455667788);
}

/* ---- The unwinder as a library. ---- */

typedef struct {
    ULONG BeginAddress;
    ULONG EndAddress;
    ULONG UnwindData;
} FUNCTION_ENTRY, *PFUNCTION_ENTRY;

NTKERNELAPI PFUNCTION_ENTRY NTAPI RtlLookupFunctionEntry(ULONG64 pc, PULONG64 image, PVOID history);
NTKERNELAPI VOID NTAPI RtlCaptureContext(PCONTEXT context);
NTKERNELAPI PVOID NTAPI RtlVirtualUnwind(ULONG type, ULONG64 image, ULONG64 pc, PFUNCTION_ENTRY function,
                                         PCONTEXT context, PVOID *data, PULONG64 frame, PVOID pointers);

static NOINLINE ULONG64 caller_by_unwinding(CONTEXT *context)
{
    ULONG64 image = 0;
    PVOID data = NULL;
    ULONG64 frame = 0;
    RtlCaptureContext(context);
    PFUNCTION_ENTRY function = RtlLookupFunctionEntry(context->Rip, &image, NULL);
    if (function == NULL) {
        return 0;
    }
    RtlVirtualUnwind(0, image, context->Rip, function, context, &data, &frame, NULL);
    return context->Rip;
}

KTEST(unwinder)
{
    static CONTEXT context;
    ULONG64 image = 0;
    CHECK((ULONG_PTR)caller_by_unwinding(&context) == (ULONG_PTR)context.Rip);
    PFUNCTION_ENTRY mine = RtlLookupFunctionEntry(context.Rip, &image, NULL);
    CHECK(mine != NULL);
    CHECK(image == (ULONG64)ktest_driver->DriverStart);
    CHECK(context.Rip - image >= mine->BeginAddress && context.Rip - image < mine->EndAddress);
    PFUNCTION_ENTRY other = RtlLookupFunctionEntry((ULONG64)(ULONG_PTR)level1, &image, NULL);
    CHECK(other != NULL && image + other->BeginAddress == (ULONG64)(ULONG_PTR)level1);
    CHECK(RtlLookupFunctionEntry(0x1000, &image, NULL) == NULL);
    CHECK(RtlLookupFunctionEntry((ULONG64)ktest_driver->DriverStart, &image, NULL) == NULL);
}
#endif

/* ---- Stack traces. ---- */

NTKERNELAPI USHORT NTAPI RtlCaptureStackBackTrace(ULONG skip, ULONG count, PVOID *trace, PULONG hash);

static NOINLINE USHORT trace_here(ULONG skip, ULONG count, PVOID *trace, PULONG hash)
{
    USHORT found = RtlCaptureStackBackTrace(skip, count, trace, hash);
    __asm__ volatile("nop" : "+m"(found));
    return found;
}

/* The compiler would see through a direct call. */
static USHORT (*volatile trace_by_pointer)(ULONG, ULONG, PVOID *, PULONG) = trace_here;

KTEST(back_trace)
{
    PVOID trace[8] = {0};
    PVOID skipped[8] = {0};
    ULONG hash = 0;
    USHORT count = trace_by_pointer(0, 8, trace, &hash);
    CHECK(count >= 3);
    CHECK((ULONG_PTR)trace[0] - (ULONG_PTR)trace_here < 128);
    CHECK((ULONG_PTR)trace[1] >= (ULONG_PTR)ktest_driver->DriverStart);
    ULONG sum = 0;
    for (ULONG i = 0; i < count; i++) {
        sum += (ULONG)(ULONG_PTR)trace[i];
    }
    CHECK_EQ(hash, sum);
    CHECK_EQ(trace_by_pointer(0, 1, skipped, NULL), 1);
    CHECK_EQ(trace_by_pointer(0, 0, skipped, NULL), 0);
    USHORT less = trace_by_pointer(1, 8, skipped, NULL);
    CHECK_EQ(less, count - 1);
    CHECK_PTR(skipped[1], trace[2]);
    CHECK_EQ(trace_by_pointer(1000, 8, skipped, NULL), 0);
}

/* ---- What nothing handles. ---- */

KTEST_BUGCHECK(unhandled_raise, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    raise(STATUS_TEST);
}

KTEST_BUGCHECK(unhandled_fault, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    write_at((volatile LONG *)0x10, 1);
}

KTEST_BUGCHECK(unhandled_after_a_filter, sizeof(PVOID) == 4 ? 0x8E : 0x3B)
{
    __try {
        divide(1, 0);
    } __except (EXCEPTION_CONTINUE_SEARCH) {
    }
}

KTEST_BUGCHECK(kernel_address_is_not_caught, 0x50)
{
    __try {
        /* Between two areas of kernel space. */
        read_at((volatile LONG *)(((ULONG_PTR)ktest_driver->DriverStart & ~(ULONG_PTR)0xFFFFFF) | 0xFFF000));
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
}

KTEST_BUGCHECK(fault_at_dispatch_level, 0xD1)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    __try {
        read_at((volatile LONG *)0x10);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
    KeLowerIrql(old);
}

static NOINLINE ULONG overflow(volatile ULONG depth)
{
    volatile UCHAR room[512];
    room[0] = (UCHAR)depth;
    return depth == MAXULONG ? 0 : overflow(depth + 1) + room[0];
}

KTEST_BUGCHECK(stack_overflow, 0x7F)
{
    __try {
        overflow(0);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
}

KTEST_BUGCHECK(own_code_written, 0xBE)
{
    __try {
        write_at((volatile LONG *)(ULONG_PTR)level1, 1);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
}

static VOID NTAPI raising_dpc(PKDPC dpc, PVOID context, PVOID a, PVOID b)
{
    UNREFERENCED_PARAMETER(dpc);
    UNREFERENCED_PARAMETER(context);
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    raise(STATUS_TEST);
}

KTEST_BUGCHECK(dpc_does_not_reach_the_interrupted_handler, sizeof(PVOID) == 4 ? 0x8E : 0x1E)
{
    static KDPC dpc;
    KeInitializeDpc(&dpc, raising_dpc, NULL);
    __try {
        KeInsertQueueDpc(&dpc, NULL, NULL);
        for (volatile ULONG i = 0; i < 100000; i++) {
        }
    } __except (EXCEPTION_EXECUTE_HANDLER) {
    }
}

KTEST_FAMILY("seh",
    KTEST_ENTRY(access_violation_read), KTEST_ENTRY(access_violation_write), KTEST_ENTRY(access_violation_execute),
    KTEST_ENTRY(divide_by_zero), KTEST_ENTRY(illegal_instruction), KTEST_ENTRY(breakpoint),
    KTEST_ENTRY(breakpoint_continued), KTEST_ENTRY(registers_survive_a_continued_exception),
    KTEST_ENTRY(context_changed_by_a_filter_is_used), KTEST_ENTRY(raised_status),
    KTEST_ENTRY(raised_access_violation_and_misalignment), KTEST_ENTRY(raised_record),
    KTEST_ENTRY(continuing_what_cannot_be_continued), KTEST_ENTRY(no_exception_runs_no_block),
    KTEST_ENTRY(inner_filter_declines), KTEST_ENTRY(filters_first_then_finally_then_block),
    KTEST_ENTRY(finally_without_exception), KTEST_ENTRY(leave), KTEST_ENTRY(several_frames),
    KTEST_ENTRY(exception_in_a_block), KTEST_ENTRY(exception_handled_inside_a_filter),
    KTEST_ENTRY(exception_that_leaves_a_filter), KTEST_ENTRY(collided_unwind),
    KTEST_ENTRY(exception_handled_inside_a_finally), KTEST_ENTRY(deep_recursion), KTEST_ENTRY(many_exceptions),
    KTEST_ENTRY(fault_in_a_kernel_function), KTEST_ENTRY(exception_out_of_a_dispatch_routine),
    KTEST_ENTRY(raised_irql_stays), KTEST_ENTRY(locals_after_an_exception),
#ifndef _M_IX86
    KTEST_ENTRY(nonvolatile_registers), KTEST_ENTRY(unwinder),
#endif
    KTEST_ENTRY(back_trace), KTEST_BUGCHECK_ENTRY(unhandled_raise), KTEST_BUGCHECK_ENTRY(unhandled_fault),
    KTEST_BUGCHECK_ENTRY(unhandled_after_a_filter), KTEST_BUGCHECK_ENTRY(kernel_address_is_not_caught),
    KTEST_BUGCHECK_ENTRY(fault_at_dispatch_level), KTEST_BUGCHECK_ENTRY(stack_overflow),
    KTEST_BUGCHECK_ENTRY(own_code_written), KTEST_BUGCHECK_ENTRY(dpc_does_not_reach_the_interrupted_handler));
