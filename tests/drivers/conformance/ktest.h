/* A conformance driver: one family of NT functions, tested by named tests in C.
 *
 *     #include "ktest.h"
 *     KTEST(event_basic) { CHECK_EQ(KeReadStateEvent(&event), 0); }
 *     KTEST_BUGCHECK(release_not_owned, 0x10) { ... }             must end in that bugcheck
 *     KTEST_FAMILY("event", KTEST_ENTRY(event_basic), KTEST_BUGCHECK_ENTRY(release_not_owned));
 *
 * Each test runs in a device control request of its own: at PASSIVE_LEVEL, in the context of a client process. Every
 * evaluated CHECK counts. A failed one is reported with its expression, values and line, and the test goes on. The
 * host's side is tests/tests/conformance; ../README.md says how to run one family.
 */
#ifndef RINGFENCE_KTEST_H
#define RINGFENCE_KTEST_H

/* mingw-w64's amd64 headers replace some exports by inline accesses of CR8, which is not a guest's IRQL. Those get
 * other names, and the exports are declared. */
#ifdef __x86_64__
#define KeGetCurrentIrql ktest_inline_KeGetCurrentIrql
#define KfRaiseIrql ktest_inline_KfRaiseIrql
#define KeLowerIrql ktest_inline_KeLowerIrql
#define KeRaiseIrqlToDpcLevel ktest_inline_KeRaiseIrqlToDpcLevel
#endif
#include <ntddk.h>
#ifdef __x86_64__
#undef KeGetCurrentIrql
#undef KfRaiseIrql
#undef KeLowerIrql
#undef KeRaiseIrqlToDpcLevel
KIRQL NTAPI KeGetCurrentIrql(VOID);
KIRQL NTAPI KfRaiseIrql(KIRQL irql);
VOID NTAPI KeLowerIrql(KIRQL irql);
KIRQL NTAPI KeRaiseIrqlToDpcLevel(VOID);
#undef KeRaiseIrql
#define KeRaiseIrql(irql, old) (*(old) = KfRaiseIrql(irql))
#undef KfLowerIrql
#define KfLowerIrql KeLowerIrql
#endif

/* clang's MSVC mode wants it where floating point is used. */
#ifdef _MSC_VER
int _fltused = 0x9875;
#endif

#define KTEST_UNUSED __attribute__((unused))

/* ---- Tests. ---- */

struct ktest {
    const char *name;
    VOID (*run)(VOID);
    ULONG bugcheck; /* the code, if it must end in one */
    ULONG is_bugcheck;
};

#define KTEST(name) static VOID ktest_run_##name(VOID)
#define KTEST_BUGCHECK(name, code) \
    enum { ktest_code_##name = (int)(code) }; \
    static VOID ktest_run_##name(VOID)
#define KTEST_ENTRY(name) {#name, ktest_run_##name, 0, 0}
#define KTEST_BUGCHECK_ENTRY(name) {#name, ktest_run_##name, (ULONG)ktest_code_##name, 1}
#define KTEST_FAMILY(family, ...) \
    static const struct ktest ktest_tests[] = {__VA_ARGS__}; \
    NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path) \
    { \
        return ktest_start(driver, registry_path, family, ktest_tests, RTL_NUMBER_OF(ktest_tests)); \
    } \
    struct ktest /* for the semicolon */

/* A family that defines KTEST_START, a function of the DRIVER_OBJECT, has it called at the end of DriverEntry. */
#ifdef KTEST_START
static VOID KTEST_START(PDRIVER_OBJECT driver);
#endif

/* What a test may use: the driver's own objects. */
static PDRIVER_OBJECT ktest_driver KTEST_UNUSED;
static PDEVICE_OBJECT ktest_device KTEST_UNUSED;
static PIRP ktest_irp KTEST_UNUSED;                       /* the request that runs the test */
static UNICODE_STRING ktest_registry_path KTEST_UNUSED;   /* only while DriverEntry runs */

/* ---- Checks. ---- */

/* True. */
#define CHECK(condition) ktest_check((condition) ? 1 : 0, __LINE__, #condition)
/* Equal numbers (or pointers, cast to ULONG_PTR by the caller). */
#define CHECK_EQ(actual, expected) \
    ktest_check_equal((ULONGLONG)(actual), (ULONGLONG)(expected), __LINE__, #actual, #expected)
#define CHECK_STATUS(actual, expected) \
    ktest_check_equal((ULONG)(actual), (ULONG)(expected), __LINE__, #actual, #expected)
/* Equal pointers. */
#define CHECK_PTR(actual, expected) \
    ktest_check_equal((ULONG_PTR)(actual), (ULONG_PTR)(expected), __LINE__, #actual, #expected)
/* Equal bytes. */
#define CHECK_MEM(actual, expected, bytes) \
    ktest_check_memory((actual), (expected), (bytes), __LINE__, #actual, #expected)
/* For what cannot happen: counts as a failed check. */
#define FAIL(text) ktest_check(0, __LINE__, text)

/* ---- The inside. ---- */

#define KTEST_TEXT_BYTES 3072
#define KTEST_NAME_BYTES 96

/* Outputs of the two requests, as tests/tests/conformance/driver.rs reads them. */
struct ktest_description {
    ULONG count; /* of tests in the family */
    ULONG is_bugcheck;
    ULONG bugcheck;
    char name[KTEST_NAME_BYTES];
    char family[KTEST_NAME_BYTES];
};
struct ktest_result {
    ULONG checks;
    ULONG failures;
    ULONG irql; /* at the end of the test */
    ULONG text_bytes;
    char text[KTEST_TEXT_BYTES]; /* of failed checks, lines */
};
#define KTEST_DESCRIBE CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800, METHOD_BUFFERED, FILE_ANY_ACCESS)
#define KTEST_RUN CTL_CODE(FILE_DEVICE_UNKNOWN, 0x801, METHOD_BUFFERED, FILE_ANY_ACCESS)

static struct {
    const char *family;
    const struct ktest *tests;
    ULONG count;
    /* Checks may be evaluated at any IRQL and in several threads. */
    volatile LONG checks;
    volatile LONG failures;
    volatile LONG text_bytes;
    char text[KTEST_TEXT_BYTES];
} ktest_state;

struct ktest_line {
    ULONG length;
    char text[400];
};

static VOID ktest_put(struct ktest_line *line, const char *text)
{
    while (*text != 0 && line->length < sizeof(line->text) - 2) {
        line->text[line->length++] = *text++;
    }
}

static VOID ktest_put_number(struct ktest_line *line, ULONGLONG value, ULONG base)
{
    char digits[24];
    ULONG i = sizeof(digits) - 1;
    digits[i] = 0;
    /* 32 bits at a time: no 64-bit division, which i386 code would need a library for. */
    if (base == 16) {
        do {
            digits[--i] = "0123456789abcdef"[value & 15];
            value >>= 4;
        } while (value != 0);
        ktest_put(line, "0x");
    } else {
        ULONG small = (ULONG)value;
        do {
            digits[--i] = (char)('0' + small % 10);
            small /= 10;
        } while (small != 0);
    }
    ktest_put(line, &digits[i]);
}

static VOID ktest_end_line(struct ktest_line *line)
{
    line->text[line->length] = 0;
    DbgPrint("ktest: %s\n", line->text);
    line->text[line->length++] = '\n';
    LONG start = __sync_fetch_and_add(&ktest_state.text_bytes, (LONG)line->length);
    for (ULONG i = 0; i < line->length && (ULONG)start + i < KTEST_TEXT_BYTES; i++) {
        ktest_state.text[(ULONG)start + i] = line->text[i];
    }
}

static VOID ktest_begin_line(struct ktest_line *line, int number)
{
    line->length = 0;
    ktest_put(line, "line ");
    ktest_put_number(line, (ULONGLONG)number, 10);
    ktest_put(line, ": ");
}

static BOOLEAN KTEST_UNUSED ktest_check(int is_true, int number, const char *expression)
{
    __sync_fetch_and_add(&ktest_state.checks, 1);
    if (is_true) {
        return TRUE;
    }
    struct ktest_line line;
    __sync_fetch_and_add(&ktest_state.failures, 1);
    ktest_begin_line(&line, number);
    ktest_put(&line, expression);
    ktest_end_line(&line);
    return FALSE;
}

static BOOLEAN KTEST_UNUSED ktest_check_equal(ULONGLONG actual, ULONGLONG expected, int number,
                                              const char *actual_text, const char *expected_text)
{
    __sync_fetch_and_add(&ktest_state.checks, 1);
    if (actual == expected) {
        return TRUE;
    }
    struct ktest_line line;
    __sync_fetch_and_add(&ktest_state.failures, 1);
    ktest_begin_line(&line, number);
    ktest_put(&line, actual_text);
    ktest_put(&line, " is ");
    ktest_put_number(&line, actual, 16);
    ktest_put(&line, ", expected ");
    ktest_put_number(&line, expected, 16);
    ktest_put(&line, " (");
    ktest_put(&line, expected_text);
    ktest_put(&line, ")");
    ktest_end_line(&line);
    return FALSE;
}

static BOOLEAN KTEST_UNUSED ktest_check_memory(const VOID *actual, const VOID *expected, SIZE_T bytes, int number,
                                               const char *actual_text, const char *expected_text)
{
    const UCHAR *left = actual, *right = expected;
    __sync_fetch_and_add(&ktest_state.checks, 1);
    for (SIZE_T i = 0; i < bytes; i++) {
        if (left[i] != right[i]) {
            struct ktest_line line;
            __sync_fetch_and_add(&ktest_state.failures, 1);
            ktest_begin_line(&line, number);
            ktest_put(&line, actual_text);
            ktest_put(&line, " differs from ");
            ktest_put(&line, expected_text);
            ktest_put(&line, " at byte ");
            ktest_put_number(&line, i, 10);
            ktest_put(&line, ": ");
            ktest_put_number(&line, left[i], 16);
            ktest_put(&line, ", expected ");
            ktest_put_number(&line, right[i], 16);
            ktest_end_line(&line);
            return FALSE;
        }
    }
    return TRUE;
}

static VOID ktest_copy_name(char *to, const char *from)
{
    ULONG i = 0;
    for (; from[i] != 0 && i < KTEST_NAME_BYTES - 1; i++) {
        to[i] = from[i];
    }
    for (; i < KTEST_NAME_BYTES; i++) {
        to[i] = 0;
    }
}

static NTSTATUS ktest_complete(PIRP irp, NTSTATUS status, ULONG_PTR information)
{
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = information;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static NTSTATUS NTAPI ktest_dispatch(PDEVICE_OBJECT device, PIRP irp)
{
    (VOID)device;
    return ktest_complete(irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI ktest_control(PDEVICE_OBJECT device, PIRP irp)
{
    (VOID)device;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    ULONG output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    if (stack->Parameters.DeviceIoControl.InputBufferLength < sizeof(ULONG) ||
        *(ULONG *)buffer >= ktest_state.count) {
        return ktest_complete(irp, STATUS_INVALID_PARAMETER, 0);
    }
    const struct ktest *test = &ktest_state.tests[*(ULONG *)buffer];
    if (code == KTEST_DESCRIBE && output_bytes >= sizeof(struct ktest_description)) {
        struct ktest_description *description = buffer;
        description->count = ktest_state.count;
        description->is_bugcheck = test->is_bugcheck;
        description->bugcheck = test->bugcheck;
        ktest_copy_name(description->name, test->name);
        ktest_copy_name(description->family, ktest_state.family);
        return ktest_complete(irp, STATUS_SUCCESS, sizeof(*description));
    }
    if (code == KTEST_RUN && output_bytes >= sizeof(struct ktest_result)) {
        ktest_state.checks = ktest_state.failures = ktest_state.text_bytes = 0;
        ktest_irp = irp;
        test->run();
        ktest_irp = NULL;
        struct ktest_result *result = buffer;
        result->irql = KeGetCurrentIrql();
        if (result->irql > PASSIVE_LEVEL) {
            KeLowerIrql(PASSIVE_LEVEL);
        }
        result->checks = (ULONG)ktest_state.checks;
        result->failures = (ULONG)ktest_state.failures;
        result->text_bytes = (ULONG)ktest_state.text_bytes;
        if (result->text_bytes > KTEST_TEXT_BYTES) {
            result->text_bytes = KTEST_TEXT_BYTES;
        }
        for (ULONG i = 0; i < result->text_bytes; i++) {
            result->text[i] = ktest_state.text[i];
        }
        return ktest_complete(irp, STATUS_SUCCESS, sizeof(*result));
    }
    return ktest_complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
}

static VOID ktest_names(PUNICODE_STRING device, PUNICODE_STRING link)
{
    RtlInitUnicodeString(device, L"\\Device\\ktest");
    RtlInitUnicodeString(link, L"\\DosDevices\\ktest");
}

static VOID NTAPI ktest_unload(PDRIVER_OBJECT driver)
{
    UNICODE_STRING device, link;
    (VOID)driver;
    ktest_names(&device, &link);
    IoDeleteSymbolicLink(&link);
    IoDeleteDevice(ktest_device);
}

static NTSTATUS ktest_start(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path, const char *family,
                            const struct ktest *tests, ULONG count)
{
    UNICODE_STRING device, link;
    ktest_driver = driver;
    ktest_registry_path = *registry_path;
    ktest_state.family = family;
    ktest_state.tests = tests;
    ktest_state.count = count;
    ktest_names(&device, &link);
    NTSTATUS status = IoCreateDevice(driver, 0, &device, FILE_DEVICE_UNKNOWN, 0, FALSE, &ktest_device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateSymbolicLink(&link, &device);
    if (!NT_SUCCESS(status)) {
        IoDeleteDevice(ktest_device);
        return status;
    }
    driver->MajorFunction[IRP_MJ_CREATE] = ktest_dispatch;
    driver->MajorFunction[IRP_MJ_CLEANUP] = ktest_dispatch;
    driver->MajorFunction[IRP_MJ_CLOSE] = ktest_dispatch;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = ktest_control;
    driver->DriverUnload = ktest_unload;
#ifdef KTEST_START
    KTEST_START(driver);
#endif
    return STATUS_SUCCESS;
}

#endif
