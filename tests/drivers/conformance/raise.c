/* compiler: clang */
/* Exceptions that the kernel's own functions raise in their caller, each caught with its code. */
#include "ktest.h"

#define NOINLINE __attribute__((noinline))
#define TAG 'RsiK'
#define MISALIGNED ((ULONG)STATUS_DATATYPE_MISALIGNMENT)
#define VIOLATION ((ULONG)STATUS_ACCESS_VIOLATION)
/* No exception. */
#define QUIET 0
/* The code of a raise, whatever its constant's sign. */
#define CHECK_RAISES(code, expected) CHECK_EQ((ULONG)(code), (ULONG)(expected))

NTKERNELAPI VOID NTAPI ProbeForRead(CONST VOID *address, SIZE_T bytes, ULONG alignment);
NTKERNELAPI VOID NTAPI ProbeForWrite(PVOID address, SIZE_T bytes, ULONG alignment);

typedef VOID (*ACTION)(ULONG_PTR a, ULONG_PTR b, ULONG_PTR c);

/* The code of the exception that an action raises. */
static NOINLINE ULONG raised_by(ACTION action, ULONG_PTR a, ULONG_PTR b, ULONG_PTR c)
{
    volatile ULONG code = QUIET;
    __try {
        action(a, b, c);
    } __except (code = (ULONG)GetExceptionCode(), EXCEPTION_EXECUTE_HANDLER) {
    }
    return code;
}

static NOINLINE VOID probe_read(ULONG_PTR address, ULONG_PTR bytes, ULONG_PTR alignment)
{
    ProbeForRead((PVOID)address, bytes, (ULONG)alignment);
}

static NOINLINE VOID probe_write(ULONG_PTR address, ULONG_PTR bytes, ULONG_PTR alignment)
{
    ProbeForWrite((PVOID)address, bytes, (ULONG)alignment);
}

static NOINLINE VOID raise_status(ULONG_PTR status, ULONG_PTR b, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(b);
    UNREFERENCED_PARAMETER(c);
    ExRaiseStatus((NTSTATUS)status);
}

static NOINLINE VOID raise_violation(ULONG_PTR a, ULONG_PTR b, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    UNREFERENCED_PARAMETER(c);
    ExRaiseAccessViolation();
}

static NOINLINE VOID raise_misalignment(ULONG_PTR a, ULONG_PTR b, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(a);
    UNREFERENCED_PARAMETER(b);
    UNREFERENCED_PARAMETER(c);
    ExRaiseDatatypeMisalignment();
}

static NOINLINE VOID quota(ULONG_PTR type, ULONG_PTR bytes, ULONG_PTR out)
{
    *(PVOID *)out = ExAllocatePoolWithQuotaTag((POOL_TYPE)type, bytes, TAG);
}

static NOINLINE VOID pool(ULONG_PTR type, ULONG_PTR bytes, ULONG_PTR out)
{
    *(PVOID *)out = ExAllocatePoolWithTag((POOL_TYPE)type, bytes, TAG);
}

static NOINLINE VOID lock_pages(ULONG_PTR mdl, ULONG_PTR mode, ULONG_PTR operation)
{
    MmProbeAndLockPages((PMDL)mdl, (KPROCESSOR_MODE)mode, (LOCK_OPERATION)operation);
}

static ULONG raised_by_lock(PVOID address, ULONG bytes, KPROCESSOR_MODE mode, LOCK_OPERATION operation)
{
    PMDL mdl = IoAllocateMdl(address, bytes, FALSE, FALSE, NULL);
    if (mdl == NULL) {
        return 1;
    }
    ULONG code = raised_by(lock_pages, (ULONG_PTR)mdl, mode, operation);
    if (code == QUIET) {
        MmUnlockPages(mdl);
    }
    IoFreeMdl(mdl);
    return code;
}

KTEST(probes_raise)
{
    ULONG_PTR end = (ULONG_PTR)MmUserProbeAddress;
    ULONG_PTR kernel = (ULONG_PTR)MmSystemRangeStart;
    CHECK_RAISES(raised_by(probe_read, 0x10001, 4, 2), MISALIGNED);
    CHECK_RAISES(raised_by(probe_read, 0x10002, 4, 4), MISALIGNED);
    CHECK_RAISES(raised_by(probe_read, 0x10004, 4, 8), MISALIGNED);
    CHECK_RAISES(raised_by(probe_write, 0x10001, 4, 2), MISALIGNED);
    CHECK_RAISES(raised_by(probe_write, 0x10002, 4, 4), MISALIGNED);
    CHECK_RAISES(raised_by(probe_write, 0x10004, 4, 8), MISALIGNED);
    /* No bytes: nothing is checked. */
    CHECK_RAISES(raised_by(probe_read, 0x10001, 0, 8), QUIET);
    CHECK_RAISES(raised_by(probe_write, 0x10001, 0, 8), QUIET);
    CHECK_RAISES(raised_by(probe_read, kernel, 0, 1), QUIET);
    CHECK_RAISES(raised_by(probe_write, kernel, 0, 1), QUIET);
    /* Kernel addresses, ranges that reach them or wrap around. */
    CHECK_RAISES(raised_by(probe_read, kernel, 1, 1), VIOLATION);
    CHECK_RAISES(raised_by(probe_write, kernel, 1, 1), VIOLATION);
    CHECK_RAISES(raised_by(probe_read, end, 1, 1), VIOLATION);
    CHECK_RAISES(raised_by(probe_write, end, 1, 1), VIOLATION);
    CHECK_RAISES(raised_by(probe_read, end - 4, 8, 4), VIOLATION);
    CHECK_RAISES(raised_by(probe_write, end - 4, 8, 4), VIOLATION);
    CHECK_RAISES(raised_by(probe_read, 0x10000, (SIZE_T)-1, 1), VIOLATION);
    CHECK_RAISES(raised_by(probe_write, 0x10000, (SIZE_T)-1, 1), VIOLATION);
    /* ProbeForRead looks at the range only, ProbeForWrite touches the pages. */
    CHECK_RAISES(raised_by(probe_read, end - 4, 4, 4), QUIET);
    CHECK_RAISES(raised_by(probe_write, 8, 4, 4), VIOLATION);
}

KTEST(raises_of_ex)
{
    CHECK_RAISES(raised_by(raise_status, STATUS_INVALID_PARAMETER, 0, 0), STATUS_INVALID_PARAMETER);
    CHECK_RAISES(raised_by(raise_status, STATUS_NO_MEMORY, 0, 0), STATUS_NO_MEMORY);
    CHECK_RAISES(raised_by(raise_status, 0xE0000001, 0, 0), 0xE0000001);
    CHECK_RAISES(raised_by(raise_status, STATUS_ACCESS_VIOLATION, 0, 0), VIOLATION);
    CHECK_RAISES(raised_by(raise_violation, 0, 0, 0), VIOLATION);
    CHECK_RAISES(raised_by(raise_misalignment, 0, 0, 0), MISALIGNED);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
}

KTEST(pool_raises)
{
    PVOID block = (PVOID)1;
    CHECK_RAISES(raised_by(quota, NonPagedPool, 0x7000000, (ULONG_PTR)&block), STATUS_INSUFFICIENT_RESOURCES);
    CHECK_PTR(block, (PVOID)1);
    CHECK_RAISES(raised_by(quota, PagedPool, 0x7000000, (ULONG_PTR)&block), STATUS_INSUFFICIENT_RESOURCES);
    CHECK_PTR(block, (PVOID)1);
    /* POOL_QUOTA_FAIL_INSTEAD_OF_RAISE */
    CHECK_RAISES(raised_by(quota, NonPagedPool | 8, 0x7000000, (ULONG_PTR)&block), QUIET);
    CHECK(block == NULL);
    CHECK_RAISES(raised_by(quota, NonPagedPool, 64, (ULONG_PTR)&block), QUIET);
    CHECK(block != NULL);
    ExFreePoolWithTag(block, TAG);
    block = (PVOID)1;
    /* POOL_RAISE_IF_ALLOCATION_FAILURE */
    CHECK_RAISES(raised_by(pool, NonPagedPool | 16, 0x7000000, (ULONG_PTR)&block), STATUS_INSUFFICIENT_RESOURCES);
    CHECK_PTR(block, (PVOID)1);
    CHECK_RAISES(raised_by(pool, NonPagedPool, 0x7000000, (ULONG_PTR)&block), QUIET);
    CHECK(block == NULL);
}

KTEST(locking_raises)
{
    PVOID block = ExAllocatePoolWithTag(NonPagedPool, 64, TAG);
    CHECK(block != NULL);
    CHECK_EQ(raised_by_lock(block, 64, KernelMode, IoReadAccess), QUIET);
    CHECK_EQ(raised_by_lock(block, 64, KernelMode, IoModifyAccess), QUIET);
    /* A kernel address for user mode, and client memory that is not there. */
    CHECK_EQ(raised_by_lock(block, 64, UserMode, IoReadAccess), VIOLATION);
    CHECK_EQ(raised_by_lock(block, 64, UserMode, IoWriteAccess), VIOLATION);
    CHECK_EQ(raised_by_lock((PVOID)8, 64, UserMode, IoReadAccess), VIOLATION);
    CHECK_EQ(raised_by_lock((PVOID)8, 64, UserMode, IoWriteAccess), VIOLATION);
    CHECK_EQ(raised_by_lock((PUCHAR)MmUserProbeAddress - 8, 64, UserMode, IoReadAccess), VIOLATION);
    ExFreePoolWithTag(block, TAG);
}

#ifdef _M_AMD64
typedef struct __attribute__((aligned(16))) {
    ULONGLONG words[2];
} LIST;
NTKERNELAPI PVOID NTAPI export_push(LIST *list, PVOID entry) __asm__("ExpInterlockedPushEntrySList");
NTKERNELAPI VOID NTAPI export_initialize(LIST *list) __asm__("InitializeSListHead");

static NOINLINE VOID push(ULONG_PTR list, ULONG_PTR entry, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(c);
    export_push((LIST *)list, (PVOID)entry);
}

static NOINLINE VOID make_list(ULONG_PTR list, ULONG_PTR b, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(b);
    UNREFERENCED_PARAMETER(c);
    export_initialize((LIST *)list);
}

KTEST(lists_raise)
{
    LIST list[3];
    CHECK_RAISES(raised_by(make_list, (ULONG_PTR)list + 8, 0, 0), MISALIGNED);
    CHECK_RAISES(raised_by(make_list, (ULONG_PTR)list, 0, 0), QUIET);
    CHECK_RAISES(raised_by(push, (ULONG_PTR)list, (ULONG_PTR)&list[1] + 8, 0), MISALIGNED);
    CHECK_EQ(list[0].words[0], 0);
    CHECK_RAISES(raised_by(push, (ULONG_PTR)list, (ULONG_PTR)&list[1], 0), QUIET);
    CHECK(list[0].words[0] != 0);
}
#define FOR_MACHINE KTEST_ENTRY(lists_raise)
#else
/* mingw-w64's headers have inline functions of these names. */
ULONGLONG NTAPI export_divide(ULONGLONG dividend, ULONGLONG divisor, PULONGLONG remainder)
    __asm__("_RtlLargeIntegerDivide@20");
ULONGLONG NTAPI export_extended(ULONGLONG dividend, ULONG divisor, PULONG remainder)
    __asm__("_RtlExtendedLargeIntegerDivide@16");
ULONG NTAPI export_enlarged(ULONGLONG dividend, ULONG divisor, PULONG remainder)
    __asm__("_RtlEnlargedUnsignedDivide@16");

static NOINLINE VOID divide_large(ULONG_PTR divisor, ULONG_PTR out, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(c);
    *(PULONGLONG)out = export_divide(7, divisor, NULL);
}

static NOINLINE VOID divide_extended(ULONG_PTR divisor, ULONG_PTR out, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(c);
    *(PULONGLONG)out = export_extended(7, divisor, NULL);
}

static NOINLINE VOID divide_enlarged(ULONG_PTR divisor, ULONG_PTR out, ULONG_PTR c)
{
    UNREFERENCED_PARAMETER(c);
    *(PULONGLONG)out = export_enlarged(7, divisor, NULL);
}

KTEST(divisions_raise)
{
    ULONGLONG quotient = 99;
    CHECK_RAISES(raised_by(divide_large, 0, (ULONG_PTR)&quotient, 0), STATUS_INTEGER_DIVIDE_BY_ZERO);
    CHECK_RAISES(raised_by(divide_extended, 0, (ULONG_PTR)&quotient, 0), STATUS_INTEGER_DIVIDE_BY_ZERO);
    CHECK_RAISES(raised_by(divide_enlarged, 0, (ULONG_PTR)&quotient, 0), STATUS_INTEGER_DIVIDE_BY_ZERO);
    CHECK_EQ(quotient, 99);
    CHECK_RAISES(raised_by(divide_large, 2, (ULONG_PTR)&quotient, 0), QUIET);
    CHECK_EQ(quotient, 3);
}
#define FOR_MACHINE KTEST_ENTRY(divisions_raise)
#endif

/* With no handler it stops the system. */
#ifdef _M_AMD64
#define UNHANDLED 0x3B
#else
#define UNHANDLED 0x8E
#endif

KTEST_BUGCHECK(unhandled_raise, UNHANDLED)
{
    ExRaiseStatus(STATUS_INVALID_PARAMETER);
}

KTEST_BUGCHECK(unhandled_probe, UNHANDLED)
{
    ProbeForRead(MmSystemRangeStart, 1, 1);
}

KTEST_FAMILY("raise", KTEST_ENTRY(probes_raise), KTEST_ENTRY(raises_of_ex), KTEST_ENTRY(pool_raises),
             KTEST_ENTRY(locking_raises), FOR_MACHINE, KTEST_BUGCHECK_ENTRY(unhandled_raise),
             KTEST_BUGCHECK_ENTRY(unhandled_probe));
