/* Does each thing that a driver must not do, on request. See ../include/faulty.h. */
#include "driver.h"
#include "../include/faulty.h"

#define DEVICE_PATH L"\\Device\\faulty"
#define LINK_PATH L"\\DosDevices\\faulty"
#define TAG 0x746C7546u      /* "Fult" */
#define LEAK_TAG 0x6B61654Cu /* "Leak" */

static PDRIVER_OBJECT this_driver;

/* A `ret` instruction, in memory that must not be executable. */
static volatile UCHAR return_instruction[16] = {0xC3};

static VOID null_write(VOID)
{
    ULONG *volatile nowhere = NULL;
    *(volatile ULONG *)nowhere = 0xDEAD;
}

/* Both volatile: knowing either, a compiler needs no division. */
static ULONG divide(volatile ULONG *dividend, volatile ULONG *divisor)
{
    return *dividend / *divisor;
}

static VOID passive_at_dispatch(VOID)
{
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, L"\\DosDevices\\faulty_absent");
    KIRQL old = raise_irql(DISPATCH_LEVEL);
    IoDeleteSymbolicLink(&name);
    lower_irql(old);
}

static VOID loop_for_ever(VOID)
{
    for (;;) {
        __asm__ volatile("pause");
    }
}

static VOID call_for_ever(VOID)
{
    for (;;) {
        PVOID pool = ExAllocatePoolWithTag(NonPagedPool, 64, TAG);
        if (pool != NULL) {
            ExFreePoolWithTag(pool, TAG);
        }
        for (int i = 0; i < 2000; i++) {
            __asm__ volatile("pause");
        }
    }
}

/* Each level keeps 256 bytes that the compiler may neither drop nor turn into a loop. */
static __attribute__((noinline)) ULONG recurse(ULONG depth)
{
    volatile UCHAR frame[256];
    if (depth == 0xFFFFFFFF) {
        return 0; /* more levels than any stack has */
    }
    frame[depth % sizeof(frame)] = (UCHAR)depth;
    return recurse(depth + 1) + frame[(depth * 7) % sizeof(frame)];
}

static NTSTATUS pool_overrun(VOID)
{
    volatile UCHAR *block = ExAllocatePoolWithTag(NonPagedPool, 64, TAG);
    if (block == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    for (ULONG i = 0; i < 64 + 16; i++) {
        block[i] = 0xCC;
    }
    ExFreePoolWithTag((PVOID)block, TAG);
    return STATUS_SUCCESS;
}

static NTSTATUS double_free(VOID)
{
    PVOID block = ExAllocatePoolWithTag(NonPagedPool, 64, TAG);
    if (block == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    ExFreePoolWithTag(block, TAG);
    ExFreePoolWithTag(block, TAG);
    return STATUS_SUCCESS;
}

static VOID write_code(VOID)
{
    PVOID volatile code = (PVOID)(ULONG_PTR)loop_for_ever;
    *(volatile UCHAR *)code = 0xC3;
}

static VOID execute_data(VOID)
{
    VOID (*volatile function)(VOID) = (VOID(*)(VOID))(ULONG_PTR)return_instruction;
    function();
}

static VOID call_null(VOID)
{
    VOID (*volatile function)(VOID) = NULL;
    function();
}

static VOID bugcheck(const struct faulty_bugcheck *request)
{
    KeBugCheckEx(request->code, (ULONG_PTR)request->parameters[0], (ULONG_PTR)request->parameters[1],
                 (ULONG_PTR)request->parameters[2], (ULONG_PTR)request->parameters[3]);
}

static VOID port_flood(const struct faulty_flood *flood)
{
    for (ULONG i = 0; flood->count == 0 || i < flood->count; i++) {
        WRITE_PORT_UCHAR((PUCHAR)(ULONG_PTR)(USHORT)flood->port, (UCHAR)i);
    }
}

static VOID print_flood(const struct faulty_flood *flood)
{
    for (ULONG i = 0; flood->count == 0 || i < flood->count; i++) {
        DbgPrint("faulty: line %u of a flood\n", i);
    }
}

static NTSTATUS leak(VOID)
{
    PDEVICE_OBJECT device;
    if (ExAllocatePoolWithTag(NonPagedPool, 160, LEAK_TAG) == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    return create_device(this_driver, 0, L"\\Device\\faulty_leak", L"\\DosDevices\\faulty_leak", &device);
}

static NTSTATUS leave_locked(PVOID buffer, ULONG length)
{
    PMDL mdl = IoAllocateMdl(buffer, length, FALSE, FALSE, NULL);
    if (mdl == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    MmProbeAndLockPages(mdl, UserMode, IoReadAccess);
    return STATUS_SUCCESS;
}

/* The faults that leave the request to be completed as usual, if they come back at all. */
static NTSTATUS fault(ULONG code, PVOID input)
{
    volatile ULONG zero = 0, dividend = 1;
    switch (code) {
    case FAULTY_NULL_WRITE:
        null_write();
        break;
    case FAULTY_DIVIDE_BY_ZERO:
        zero = divide(&dividend, &zero);
        break;
    case FAULTY_PASSIVE_AT_DISPATCH:
        passive_at_dispatch();
        break;
    case FAULTY_INFINITE_LOOP:
        loop_for_ever();
        break;
    case FAULTY_STACK_OVERFLOW:
        zero = recurse(0);
        break;
    case FAULTY_POOL_OVERRUN:
        return pool_overrun();
    case FAULTY_DOUBLE_FREE:
        return double_free();
    case FAULTY_WRITE_CODE:
        write_code();
        break;
    case FAULTY_EXECUTE_DATA:
        execute_data();
        break;
    case FAULTY_BUGCHECK:
        bugcheck(input);
        break;
    case FAULTY_MISSING_IMPORT:
        return LpcRequestPort(NULL, NULL);
    case FAULTY_PORT_FLOOD:
        port_flood(input);
        break;
    case FAULTY_PRINT_FLOOD:
        print_flood(input);
        break;
    case FAULTY_LEAK:
        return leak();
    case FAULTY_SPIN_RAISED:
        raise_irql(HIGH_LEVEL);
        loop_for_ever();
        break;
    case FAULTY_CALL_NULL:
        call_null();
        break;
    case FAULTY_FAST_FAIL:
        __asm__ volatile("int $0x29" : : "c"(2));
        break;
    case FAULTY_ILLEGAL_INSTRUCTION:
        __asm__ volatile("ud2");
        break;
    case FAULTY_SPIN_CLI:
        __asm__ volatile("cli");
        loop_for_ever();
        break;
    case FAULTY_LOOP_OF_CALLS:
        call_for_ever();
        break;
    case FAULTY_NOTHING:
        break;
    default:
        return STATUS_INVALID_DEVICE_REQUEST;
    }
    return STATUS_SUCCESS;
}

static ULONG input_bytes_needed(ULONG code)
{
    switch (code) {
    case FAULTY_BUGCHECK:
        return sizeof(struct faulty_bugcheck);
    case FAULTY_PORT_FLOOD:
    case FAULTY_PRINT_FLOOD:
        return sizeof(struct faulty_flood);
    default:
        return 0;
    }
}

static NTSTATUS NTAPI dispatch_control(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;

    if (stack->Parameters.DeviceIoControl.InputBufferLength < input_bytes_needed(code)) {
        return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    switch (code) {
    case FAULTY_RETURN_RAISED:
        complete(irp, STATUS_SUCCESS, 0);
        raise_irql(DISPATCH_LEVEL);
        return STATUS_SUCCESS;
    case FAULTY_DOUBLE_COMPLETION:
        complete(irp, STATUS_SUCCESS, 0);
        return complete(irp, STATUS_SUCCESS, 0);
    case FAULTY_LOST_REQUEST:
        IoMarkIrpPending(irp);
        return STATUS_PENDING;
    case FAULTY_LEAVE_LOCKED:
        return complete(irp, leave_locked(stack->Parameters.DeviceIoControl.Type3InputBuffer,
                                          stack->Parameters.DeviceIoControl.InputBufferLength), 0);
    default:
        return complete(irp, fault(code, irp->AssociatedIrp.SystemBuffer), 0);
    }
}

static NTSTATUS NTAPI dispatch_nothing(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    /* Devices are listed newest first; a leaked one stays. */
    PDEVICE_OBJECT first = driver->DeviceObject;
    while (first->NextDevice != NULL) {
        first = first->NextDevice;
    }
    delete_device(first, LINK_PATH);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNREFERENCED_PARAMETER(registry_path);
    PDEVICE_OBJECT device;
    NTSTATUS status = create_device(driver, 0, DEVICE_PATH, LINK_PATH, &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    this_driver = driver;
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch_control;
    driver->DriverUnload = unload;
    DbgPrint("faulty: loaded\n");
    return STATUS_SUCCESS;
}
