/* Measures what calls of the shim cost, in guest time by rdtsc: tests/benches/guest asks for each measurement.
 * Functions that a shim may lack are looked up when the driver loads; what needs them answers STATUS_NOT_IMPLEMENTED. */
#include "../conformance/ktest.h"
#include "bench.h"

#define TAG 0x68636E42u /* "Bnch" */
#define TIMER_DUE (-36000000000LL) /* in an hour: none of them expires */

static ULONGLONG now(VOID)
{
    return __builtin_ia32_rdtsc();
}

/* ---- What may be missing. ---- */

typedef VOID(FASTCALL *fast_mutex_routine)(PFAST_MUTEX mutex);
typedef NTSTATUS(NTAPI *create_thread_routine)(PHANDLE thread, ULONG access, PVOID attributes, HANDLE process,
                                               PVOID client, PVOID start, PVOID context);
typedef NTSTATUS(NTAPI *terminate_thread_routine)(NTSTATUS status);
typedef NTSTATUS(NTAPI *close_routine)(HANDLE handle);

static fast_mutex_routine acquire_mutex, release_mutex;
static create_thread_routine create_thread;
static terminate_thread_routine terminate_thread;
static close_routine close_handle;

static PVOID find(PCWSTR name)
{
    UNICODE_STRING string;
    RtlInitUnicodeString(&string, name);
    return MmGetSystemRoutineAddress(&string);
}

/* ---- Calls. ---- */

static volatile KIRQL level;

static KIRQL NTAPI __attribute__((noinline)) trivial(VOID)
{
    return level;
}
typedef KIRQL(NTAPI *level_routine)(VOID);
static level_routine volatile plain = trivial;
static level_routine volatile exported = KeGetCurrentIrql;

static NTSTATUS measure_calls(level_routine volatile *routine, ULONG count)
{
    for (ULONG i = 0; i < count; i++) {
        (*routine)();
    }
    return STATUS_SUCCESS;
}

static NTSTATUS measure_mutex(ULONG count)
{
    FAST_MUTEX mutex;
    if (acquire_mutex == NULL || release_mutex == NULL) {
        return STATUS_NOT_IMPLEMENTED;
    }
    ExInitializeFastMutex(&mutex);
    for (ULONG i = 0; i < count; i++) {
        acquire_mutex(&mutex);
        release_mutex(&mutex);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS measure_spin_lock(ULONG count)
{
    KSPIN_LOCK lock;
    KIRQL old;
    KeInitializeSpinLock(&lock);
    for (ULONG i = 0; i < count; i++) {
        KeAcquireSpinLock(&lock, &old);
        KeReleaseSpinLock(&lock, old);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS measure_event(ULONG count)
{
    KEVENT event;
    KeInitializeEvent(&event, SynchronizationEvent, FALSE);
    for (ULONG i = 0; i < count; i++) {
        KeSetEvent(&event, IO_NO_INCREMENT, FALSE);
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS measure_pool(ULONG count)
{
    for (ULONG i = 0; i < count; i++) {
        PVOID block = ExAllocatePoolWithTag(NonPagedPool, 64, TAG);
        if (block == NULL) {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        ExFreePoolWithTag(block, TAG);
    }
    return STATUS_SUCCESS;
}

static volatile ULONG dpc_runs;

static VOID NTAPI count_dpc(PKDPC dpc, PVOID context, PVOID first, PVOID second)
{
    (VOID)dpc;
    (VOID)context;
    (VOID)first;
    (VOID)second;
    dpc_runs++;
}

static NTSTATUS measure_dpc(ULONG count)
{
    KDPC dpc;
    dpc_runs = 0;
    KeInitializeDpc(&dpc, count_dpc, NULL);
    for (ULONG i = 0; i < count; i++) {
        KeInsertQueueDpc(&dpc, NULL, NULL);
    }
    return dpc_runs == count ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
}

/* ---- Threads. ---- */

static KEVENT ping, pong, done;
static ULONG rounds;
static volatile LONG threads_left;

static NTSTATUS start_thread(PVOID start, PVOID context)
{
    HANDLE thread;
    NTSTATUS status = create_thread(&thread, 0x1FFFFF, NULL, NULL, NULL, start, context);
    if (NT_SUCCESS(status)) {
        close_handle(thread);
    }
    return status;
}

static VOID wait_for(PKEVENT event)
{
    KeWaitForSingleObject(event, Executive, KernelMode, FALSE, NULL);
}

static VOID NTAPI ponger(PVOID context)
{
    (VOID)context;
    for (ULONG i = 0; i < rounds; i++) {
        wait_for(&ping);
        KeSetEvent(&pong, IO_NO_INCREMENT, FALSE);
    }
    KeSetEvent(&done, IO_NO_INCREMENT, FALSE);
    terminate_thread(STATUS_SUCCESS);
}

/* Each round is two switches: there and back. */
static NTSTATUS measure_switches(ULONG count)
{
    if (create_thread == NULL || terminate_thread == NULL || close_handle == NULL) {
        return STATUS_NOT_IMPLEMENTED;
    }
    KeInitializeEvent(&ping, SynchronizationEvent, FALSE);
    KeInitializeEvent(&pong, SynchronizationEvent, FALSE);
    KeInitializeEvent(&done, SynchronizationEvent, FALSE);
    rounds = count / 2;
    NTSTATUS status = start_thread(ponger, NULL);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    for (ULONG i = 0; i < rounds; i++) {
        KeSetEvent(&ping, IO_NO_INCREMENT, FALSE);
        wait_for(&pong);
    }
    wait_for(&done);
    return STATUS_SUCCESS;
}

static VOID NTAPI waiter(PVOID context)
{
    (VOID)context;
    wait_for(&ping);
    if (__sync_sub_and_fetch(&threads_left, 1) == 0) {
        KeSetEvent(&done, IO_NO_INCREMENT, FALSE);
    }
    terminate_thread(STATUS_SUCCESS);
}

/* All of them wait for one event at the same time. */
static NTSTATUS scale_threads(ULONG count)
{
    if (create_thread == NULL || terminate_thread == NULL || close_handle == NULL) {
        return STATUS_NOT_IMPLEMENTED;
    }
    KeInitializeEvent(&ping, NotificationEvent, FALSE);
    KeInitializeEvent(&done, SynchronizationEvent, FALSE);
    threads_left = (LONG)count;
    for (ULONG i = 0; i < count; i++) {
        NTSTATUS status = start_thread(waiter, NULL);
        if (!NT_SUCCESS(status)) {
            return status;
        }
    }
    KeSetEvent(&ping, IO_NO_INCREMENT, FALSE);
    wait_for(&done);
    return STATUS_SUCCESS;
}

/* ---- Many of a kind: made, then undone in another order. ---- */

/* A permutation of 0..count for a count that 7919 (a prime) does not divide. */
static ULONG shuffled(ULONG i, ULONG count)
{
    ULONG stride = 7919 % count;
    /* Without 64-bit division: i and stride are below 2^17. */
    ULONG result = 0;
    if (stride == 0) {
        return i;
    }
    for (ULONG bit = 17; bit-- != 0;) {
        result = (result * 2) % count;
        if (i & (1u << bit)) {
            result = (result + stride) % count;
        }
    }
    return result;
}

static PVOID *table;

static NTSTATUS scale_devices(ULONG count)
{
    ULONG made = 0;
    NTSTATUS status = STATUS_SUCCESS;
    for (; made < count && NT_SUCCESS(status); made++) {
        /* A name of its own: \Device\bench00000000 */
        WCHAR text[32];
        UNICODE_STRING name;
        RtlInitUnicodeString(&name, L"\\Device\\bench");
        for (ULONG i = 0; i < 13; i++) {
            text[i] = name.Buffer[i];
        }
        for (ULONG i = 0; i < 8; i++) {
            text[13 + i] = (WCHAR)(L'a' + ((made >> (4 * i)) & 15));
        }
        text[21] = 0;
        RtlInitUnicodeString(&name, text);
        status = IoCreateDevice(ktest_driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, (PDEVICE_OBJECT *)&table[made]);
    }
    if (!NT_SUCCESS(status)) {
        made--;
    }
    for (ULONG i = 0; i < made; i++) {
        IoDeleteDevice(table[NT_SUCCESS(status) ? shuffled(i, made) : i]);
    }
    return status;
}

/* Different sizes. */
static ULONG block_bytes(ULONG i)
{
    return 16 + (i % 8) * 16;
}

static NTSTATUS make_blocks(ULONG count)
{
    for (ULONG i = 0; i < count; i++) {
        table[i] = ExAllocatePoolWithTag(NonPagedPool, block_bytes(i), TAG);
        if (table[i] == NULL) {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
    }
    return STATUS_SUCCESS;
}

static VOID free_blocks(ULONG count)
{
    for (ULONG i = 0; i < count; i++) {
        ExFreePoolWithTag(table[i], TAG);
    }
}

static NTSTATUS scale_pool(ULONG count)
{
    NTSTATUS status = make_blocks(count);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    for (ULONG i = 0; i < count; i++) {
        ExFreePoolWithTag(table[shuffled(i, count)], TAG);
    }
    return STATUS_SUCCESS;
}

/* What the memory alone costs: the first and last byte of the same blocks in the same order, and no pool. */
static NTSTATUS scale_touched(ULONG count)
{
    for (ULONG i = 0; i < count; i++) {
        volatile UCHAR *block = table[i];
        block[0] = 1;
        block[block_bytes(i) - 1] = 1;
    }
    for (ULONG i = 0; i < count; i++) {
        ULONG which = shuffled(i, count);
        volatile UCHAR *block = table[which];
        if (block[0] != 1 || block[block_bytes(which) - 1] != 1) {
            return STATUS_UNSUCCESSFUL;
        }
        block[0] = 2;
    }
    return STATUS_SUCCESS;
}

static NTSTATUS scale_timers(ULONG count)
{
    PKTIMER timers = (PKTIMER)table;
    for (ULONG i = 0; i < count; i++) {
        LARGE_INTEGER due;
        due.QuadPart = TIMER_DUE - (LONGLONG)shuffled(i, count) * 1000;
        KeInitializeTimer(&timers[i]);
        KeSetTimer(&timers[i], due, NULL);
    }
    for (ULONG i = 0; i < count; i++) {
        if (!KeCancelTimer(&timers[shuffled(i, count)])) {
            return STATUS_UNSUCCESSFUL;
        }
    }
    return STATUS_SUCCESS;
}

/* ---- Requests. ---- */

static NTSTATUS measure(ULONG what, ULONG count)
{
    switch (what) {
    case BENCH_NOTHING:
        return STATUS_SUCCESS;
    case BENCH_PLAIN_CALL:
        return measure_calls(&plain, count);
    case BENCH_GET_IRQL:
        return measure_calls(&exported, count);
    case BENCH_FAST_MUTEX:
        return measure_mutex(count);
    case BENCH_SPIN_LOCK:
        return measure_spin_lock(count);
    case BENCH_EVENT:
        return measure_event(count);
    case BENCH_POOL:
        return measure_pool(count);
    case BENCH_DPC:
        return measure_dpc(count);
    case BENCH_THREAD_SWITCH:
        return measure_switches(count);
    case BENCH_DEVICES:
        return scale_devices(count);
    case BENCH_POOL_BLOCKS:
        return scale_pool(count);
    case BENCH_TIMERS:
        return scale_timers(count);
    case BENCH_THREADS:
        return scale_threads(count);
    case BENCH_TOUCHED:
        return scale_touched(count);
    default:
        return STATUS_INVALID_PARAMETER;
    }
}

static NTSTATUS NTAPI bench_control(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    struct bench_request request;
    struct bench_result *result = irp->AssociatedIrp.SystemBuffer;
    SIZE_T bytes;
    (VOID)device;
    if (stack->Parameters.DeviceIoControl.InputBufferLength < sizeof(request) ||
        stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(*result)) {
        return ktest_complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    request = *(struct bench_request *)irp->AssociatedIrp.SystemBuffer;
    bytes = sizeof(PVOID) * ((SIZE_T)request.count + 1);
    if (request.what == BENCH_TIMERS) {
        bytes = sizeof(KTIMER) * ((SIZE_T)request.count + 1);
    }
    if (request.what >= BENCH_DEVICES) {
        table = ExAllocatePoolWithTag(NonPagedPool, bytes, TAG);
        if (table == NULL) {
            return ktest_complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
        }
    }
    NTSTATUS status = STATUS_SUCCESS;
    if (request.what == BENCH_TOUCHED) {
        status = make_blocks(request.count);
        if (!NT_SUCCESS(status)) {
            return ktest_complete(irp, status, 0);
        }
    }
    result->start = now();
    status = measure(request.what, request.count);
    result->end = now();
    if (request.what == BENCH_TOUCHED) {
        free_blocks(request.count);
    }
    if (request.what >= BENCH_DEVICES) {
        ExFreePoolWithTag(table, TAG);
    }
    return ktest_complete(irp, status, sizeof(*result));
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    acquire_mutex = (fast_mutex_routine)find(L"ExAcquireFastMutex");
    release_mutex = (fast_mutex_routine)find(L"ExReleaseFastMutex");
    create_thread = (create_thread_routine)find(L"PsCreateSystemThread");
    terminate_thread = (terminate_thread_routine)find(L"PsTerminateSystemThread");
    close_handle = (close_routine)find(L"ZwClose");
    NTSTATUS status = ktest_start(driver, registry_path, "bench", NULL, 0);
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = bench_control;
    return status;
}
