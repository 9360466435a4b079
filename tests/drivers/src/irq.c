/* irq.sys: see ../include/irq.h. */
#include "driver.h"
#include "../include/irq.h"

/* Not in mingw-w64's amd64 headers. */
NTHALAPI ULONG NTAPI HalGetInterruptVector(INTERFACE_TYPE type, ULONG bus, ULONG level, ULONG vector, PKIRQL irql,
                                           PKAFFINITY affinity);

/* Nor these. */
typedef VOID NTAPI report_routine(PIO_DISCONNECT_INTERRUPT_PARAMETERS parameters);

static PKINTERRUPT interrupt;
static BOOLEAN is_ex;
static KIRQL interrupt_irql;
static BOOLEAN disclaims;
static KEVENT served;
static volatile ULONG interrupts, dpcs, last_irql;

#ifdef _M_AMD64
__declspec(dllimport) KIRQL exported_current_irql(VOID) __asm__("KeGetCurrentIrql");
#define current_irql exported_current_irql
#else
#define current_irql KeGetCurrentIrql
#endif

static BOOLEAN NTAPI service(PKINTERRUPT object, PVOID context)
{
    (VOID)object;
    PDEVICE_OBJECT device = context;
    interrupts++;
    last_irql = current_irql();
    if (disclaims) {
        return FALSE;
    }
    IoRequestDpc(device, NULL, context);
    return TRUE;
}

static VOID NTAPI deferred(PKDPC dpc, PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    (VOID)dpc;
    (VOID)irp;
    if (context == device && current_irql() == DISPATCH_LEVEL) {
        dpcs++;
    }
    KeSetEvent(&served, IO_NO_INCREMENT, FALSE);
}

static NTSTATUS connect_ex(PDEVICE_OBJECT device, ULONG vector, KAFFINITY processors, BOOLEAN is_latched)
{
    IO_CONNECT_INTERRUPT_PARAMETERS parameters;
    RtlZeroMemory(&parameters, sizeof(parameters));
    parameters.Version = CONNECT_FULLY_SPECIFIED;
    parameters.FullySpecified.PhysicalDeviceObject = device;
    parameters.FullySpecified.InterruptObject = &interrupt;
    parameters.FullySpecified.ServiceRoutine = service;
    parameters.FullySpecified.ServiceContext = device;
    parameters.FullySpecified.SynchronizeIrql = interrupt_irql;
    parameters.FullySpecified.Vector = vector;
    parameters.FullySpecified.Irql = interrupt_irql;
    parameters.FullySpecified.InterruptMode = is_latched ? Latched : LevelSensitive;
    parameters.FullySpecified.ProcessorEnableMask = processors;
    return IoConnectInterruptEx(&parameters);
}

static NTSTATUS connect(PDEVICE_OBJECT device, const struct irq_connect *wanted, BOOLEAN by_ex)
{
    KAFFINITY processors;
    if (interrupt != NULL) {
        return STATUS_DEVICE_BUSY;
    }
    ULONG vector = HalGetInterruptVector(Isa, 0, wanted->line, wanted->line, &interrupt_irql, &processors);
    if (vector == 0) {
        return STATUS_INVALID_PARAMETER;
    }
    disclaims = wanted->disclaims != 0;
    interrupts = dpcs = last_irql = 0;
    KeClearEvent(&served);
    is_ex = by_ex;
    if (by_ex) {
        return connect_ex(device, vector, processors, wanted->mode != 0);
    }
    return IoConnectInterrupt(&interrupt, service, device, NULL, vector, interrupt_irql, interrupt_irql,
                              wanted->mode != 0 ? Latched : LevelSensitive, FALSE, processors, FALSE);
}

static VOID disconnect(VOID)
{
    if (interrupt != NULL && is_ex) {
        IO_DISCONNECT_INTERRUPT_PARAMETERS parameters = {CONNECT_FULLY_SPECIFIED, {interrupt}};
        IoDisconnectInterruptEx(&parameters);
    } else if (interrupt != NULL) {
        IoDisconnectInterrupt(interrupt);
    }
    interrupt = NULL;
}

static NTSTATUS report(BOOLEAN is_active)
{
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, is_active ? L"IoReportInterruptActive" : L"IoReportInterruptInactive");
    report_routine *routine = (report_routine *)(ULONG_PTR)MmGetSystemRoutineAddress(&name);
    if (routine == NULL || interrupt == NULL) {
        return STATUS_NOT_SUPPORTED;
    }
    IO_DISCONNECT_INTERRUPT_PARAMETERS parameters = {CONNECT_FULLY_SPECIFIED, {interrupt}};
    routine(&parameters);
    return STATUS_SUCCESS;
}

static VOID spin(KIRQL irql)
{
    ULONG before = interrupts;
    KIRQL old = raise_irql(irql);
    while (interrupts == before) {
        __asm__ volatile("pause");
    }
    lower_irql(old);
}

struct hold {
    ULONG loops;
    ULONG seen;
};

static BOOLEAN NTAPI hold(PVOID context)
{
    struct hold *hold = context;
    ULONG before = interrupts;
    for (volatile ULONG i = 0; i < hold->loops; i++) {
    }
    hold->seen = interrupts - before;
    return TRUE;
}

static ULONG counts(PVOID output, ULONG bytes)
{
    struct irq_counts now = {interrupts, dpcs, last_irql, interrupt_irql};
    if (bytes < sizeof(now)) {
        return 0;
    }
    *(struct irq_counts *)output = now;
    return sizeof(now);
}

static NTSTATUS NTAPI control(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG input = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output = stack->Parameters.DeviceIoControl.OutputBufferLength;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IRQ_CONNECT:
    case IRQ_CONNECT_EX: {
        if (input < sizeof(struct irq_connect)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        BOOLEAN by_ex = stack->Parameters.DeviceIoControl.IoControlCode == IRQ_CONNECT_EX;
        return complete(irp, connect(device, buffer, by_ex), 0);
    }
    case IRQ_ACTIVE:
        if (input < sizeof(ULONG)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        return complete(irp, report(*(ULONG *)buffer != 0), 0);
    case IRQ_DISCONNECT:
        disconnect();
        return complete(irp, STATUS_SUCCESS, 0);
    case IRQ_COUNTS:
        return complete(irp, STATUS_SUCCESS, counts(buffer, output));
    case IRQ_WAIT:
        KeWaitForSingleObject(&served, Executive, KernelMode, FALSE, NULL);
        return complete(irp, STATUS_SUCCESS, counts(buffer, output));
    case IRQ_SPIN:
        if (input < sizeof(ULONG)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        spin((KIRQL) * (ULONG *)buffer);
        return complete(irp, STATUS_SUCCESS, counts(buffer, output));
    case IRQ_HOLD: {
        if (input < sizeof(ULONG) || output < sizeof(ULONG) || interrupt == NULL) {
            return complete(irp, STATUS_INVALID_PARAMETER, 0);
        }
        struct hold held = {*(ULONG *)buffer, 0};
        KeSynchronizeExecution(interrupt, hold, &held);
        *(ULONG *)buffer = held.seen;
        return complete(irp, STATUS_SUCCESS, sizeof(ULONG));
    }
    default:
        return complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static NTSTATUS NTAPI create_close(PDEVICE_OBJECT device, PIRP irp)
{
    (VOID)device;
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    disconnect();
    delete_device(driver->DeviceObject, L"\\DosDevices\\irq");
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    PDEVICE_OBJECT device;
    (VOID)registry_path;
    NTSTATUS status = create_device(driver, 0, L"\\Device\\irq", L"\\DosDevices\\irq", &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    KeInitializeEvent(&served, SynchronizationEvent, FALSE);
    IoInitializeDpcRequest(device, deferred);
    driver->MajorFunction[IRP_MJ_CREATE] = create_close;
    driver->MajorFunction[IRP_MJ_CLOSE] = create_close;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = control;
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
