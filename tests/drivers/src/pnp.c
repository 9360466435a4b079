/* A WDM function driver of one root-enumerated device. See ../include/pnp.h. */
#include "driver.h"
#include "../include/pnp.h"

#define TAG 0x20706e50u /* "Pnp " */
#define RANGES 8u

static const GUID interface_class = {0x4d1e55b2, 0xf16f, 0x11cf, {0x88, 0xcb, 0x00, 0x11, 0xa0, 0x00, 0x00, 0x31}};

struct ports {
    PUCHAR first;
    ULONG count;
};

struct memory {
    PHYSICAL_ADDRESS first;
    ULONG bytes;
    PUCHAR mapped; /* NULL: it could not be mapped */
};

struct extension {
    PDEVICE_OBJECT self, physical, lower;
    IO_REMOVE_LOCK remove_lock;
    UNICODE_STRING link;
    BOOLEAN is_failed;
    LONG open_files;
    enum pnp_state state, state_before;
    DEVICE_POWER_STATE device_power;
    SYSTEM_POWER_STATE system_power;
    ULONG starts, stops, raw_line, dma_channel, port_ranges, memory_ranges;
    struct ports ports[RANGES];
    struct memory memory[RANGES];
    PKINTERRUPT interrupt;
    ULONG interrupt_vector;
};

static BOOLEAN NTAPI service(PKINTERRUPT interrupt, PVOID context)
{
    UNREFERENCED_PARAMETER(interrupt);
    UNREFERENCED_PARAMETER(context);
    return FALSE;
}

/* Gives back what START_DEVICE has taken. */
static VOID release_hardware(struct extension *extension)
{
    if (extension->interrupt != NULL) {
        IoDisconnectInterrupt(extension->interrupt);
        extension->interrupt = NULL;
        extension->interrupt_vector = 0;
    }
    for (ULONG i = 0; i < extension->memory_ranges; i++) {
        if (extension->memory[i].mapped != NULL) {
            MmUnmapIoSpace(extension->memory[i].mapped, extension->memory[i].bytes);
        }
    }
    extension->memory_ranges = extension->port_ranges = 0;
}

static NTSTATUS take_interrupt(struct extension *extension, PCM_PARTIAL_RESOURCE_DESCRIPTOR resource)
{
    NTSTATUS status = IoConnectInterrupt(
        &extension->interrupt, service, extension, NULL, resource->u.Interrupt.Vector,
        (KIRQL)resource->u.Interrupt.Level, (KIRQL)resource->u.Interrupt.Level,
        resource->Flags & CM_RESOURCE_INTERRUPT_LATCHED ? Latched : LevelSensitive,
        resource->ShareDisposition == CmResourceShareShared, resource->u.Interrupt.Affinity, FALSE);
    if (NT_SUCCESS(status)) {
        extension->interrupt_vector = resource->u.Interrupt.Vector;
    }
    return status;
}

static NTSTATUS take_hardware(struct extension *extension, PCM_RESOURCE_LIST raw, PCM_RESOURCE_LIST translated)
{
    extension->dma_channel = ~0u;
    extension->raw_line = ~0u;
    if (raw == NULL || translated == NULL) {
        return STATUS_SUCCESS;
    }
    PCM_PARTIAL_RESOURCE_LIST list = &translated->List[0].PartialResourceList;
    PCM_PARTIAL_RESOURCE_LIST raw_list = &raw->List[0].PartialResourceList;
    if (translated->Count != 1 || list->Count != raw_list->Count) {
        return STATUS_DEVICE_CONFIGURATION_ERROR;
    }
    for (ULONG i = 0; i < list->Count; i++) {
        PCM_PARTIAL_RESOURCE_DESCRIPTOR resource = &list->PartialDescriptors[i];
        NTSTATUS status = STATUS_SUCCESS;
        switch (resource->Type) {
        case CmResourceTypePort:
            if (extension->port_ranges < RANGES) {
                struct ports *ports = &extension->ports[extension->port_ranges++];
                ports->first = (PUCHAR)(ULONG_PTR)resource->u.Port.Start.LowPart;
                ports->count = resource->u.Port.Length;
            }
            break;
        case CmResourceTypeMemory:
            if (extension->memory_ranges < RANGES) {
                struct memory *memory = &extension->memory[extension->memory_ranges++];
                memory->first = resource->u.Memory.Start;
                memory->bytes = resource->u.Memory.Length;
                memory->mapped = MmMapIoSpace(memory->first, memory->bytes, MmNonCached);
            }
            break;
        case CmResourceTypeInterrupt:
            extension->raw_line = raw_list->PartialDescriptors[i].u.Interrupt.Level;
            if (extension->interrupt == NULL) {
                status = take_interrupt(extension, resource);
            }
            break;
        case CmResourceTypeDma:
            extension->dma_channel = resource->u.Dma.Channel;
            break;
        default:
            break;
        }
        if (!NT_SUCCESS(status)) {
            release_hardware(extension);
            return status;
        }
    }
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI signal_event(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    UNREFERENCED_PARAMETER(device);
    UNREFERENCED_PARAMETER(irp);
    KeSetEvent(context, IO_NO_INCREMENT, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Has the drivers below handle an IRP first. */
static NTSTATUS send_down_and_wait(struct extension *extension, PIRP irp)
{
    KEVENT event;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    IoCopyCurrentIrpStackLocationToNext(irp);
    IoSetCompletionRoutine(irp, signal_event, &event, TRUE, TRUE, TRUE);
    NTSTATUS status = IoCallDriver(extension->lower, irp);
    if (status == STATUS_PENDING) {
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
        status = irp->IoStatus.Status;
    }
    return status;
}

static NTSTATUS start(struct extension *extension, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    NTSTATUS status = send_down_and_wait(extension, irp);
    if (NT_SUCCESS(status)) {
        status = take_hardware(extension, stack->Parameters.StartDevice.AllocatedResources,
                               stack->Parameters.StartDevice.AllocatedResourcesTranslated);
    }
    if (NT_SUCCESS(status)) {
        extension->state = PNP_STARTED;
        extension->starts++;
        POWER_STATE power = {.DeviceState = PowerDeviceD0};
        PoSetPowerState(extension->self, DevicePowerState, power);
        extension->device_power = PowerDeviceD0;
        IoSetDeviceInterfaceState(&extension->link, TRUE);
    }
    return status;
}

static NTSTATUS remove(struct extension *extension, PIRP irp)
{
    PDEVICE_OBJECT lower = extension->lower;
    PDEVICE_OBJECT self = extension->self;
    IoReleaseRemoveLockAndWait(&extension->remove_lock, irp);
    IoSetDeviceInterfaceState(&extension->link, FALSE);
    RtlFreeUnicodeString(&extension->link);
    release_hardware(extension);
    irp->IoStatus.Status = STATUS_SUCCESS;
    IoSkipCurrentIrpStackLocation(irp);
    NTSTATUS status = IoCallDriver(lower, irp);
    IoDetachDevice(lower);
    IoDeleteDevice(self);
    DbgPrint("pnp: removed\n");
    return status;
}

static NTSTATUS NTAPI dispatch_pnp(PDEVICE_OBJECT device, PIRP irp)
{
    struct extension *extension = device->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    NTSTATUS status = IoAcquireRemoveLock(&extension->remove_lock, irp);
    if (!NT_SUCCESS(status)) {
        return complete(irp, status, 0);
    }
    switch (stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
        status = complete(irp, start(extension, irp), 0);
        IoReleaseRemoveLock(&extension->remove_lock, irp);
        return status;
    case IRP_MN_REMOVE_DEVICE:
        return remove(extension, irp);
    case IRP_MN_QUERY_STOP_DEVICE:
        extension->state_before = extension->state;
        extension->state = PNP_STOP_PENDING;
        irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    case IRP_MN_QUERY_REMOVE_DEVICE:
        extension->state_before = extension->state;
        extension->state = PNP_REMOVE_PENDING;
        irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    case IRP_MN_CANCEL_STOP_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE:
        status = send_down_and_wait(extension, irp);
        if (extension->state == PNP_STOP_PENDING || extension->state == PNP_REMOVE_PENDING) {
            extension->state = extension->state_before;
        }
        status = complete(irp, status, 0);
        IoReleaseRemoveLock(&extension->remove_lock, irp);
        return status;
    case IRP_MN_STOP_DEVICE:
        release_hardware(extension);
        extension->state = PNP_STOPPED;
        extension->stops++;
        irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    case IRP_MN_SURPRISE_REMOVAL:
        extension->state = PNP_SURPRISE_REMOVED;
        IoSetDeviceInterfaceState(&extension->link, FALSE);
        release_hardware(extension);
        irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    case IRP_MN_QUERY_PNP_DEVICE_STATE:
        if (extension->is_failed) {
            irp->IoStatus.Information |= PNP_DEVICE_FAILED;
            irp->IoStatus.Status = STATUS_SUCCESS;
        }
        break;
    default:
        break;
    }
    IoSkipCurrentIrpStackLocation(irp);
    status = IoCallDriver(extension->lower, irp);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
    return status;
}

/* The device's IRP for a system state is done: so is the system's. */
static VOID NTAPI device_power_done(PDEVICE_OBJECT device, UCHAR minor, POWER_STATE state, PVOID context,
                                    PIO_STATUS_BLOCK result)
{
    struct extension *extension = device->DeviceExtension;
    PIRP irp = context;
    UNREFERENCED_PARAMETER(minor);
    UNREFERENCED_PARAMETER(state);
    PoStartNextPowerIrp(irp);
    irp->IoStatus.Status = result->Status;
    IoSkipCurrentIrpStackLocation(irp);
    PoCallDriver(extension->lower, irp);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
}

static NTSTATUS NTAPI powered_up(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    struct extension *extension = context;
    UNREFERENCED_PARAMETER(device);
    if (irp->PendingReturned) {
        IoMarkIrpPending(irp);
    }
    if (NT_SUCCESS(irp->IoStatus.Status)) {
        POWER_STATE power = {.DeviceState = PowerDeviceD0};
        PoSetPowerState(extension->self, DevicePowerState, power);
        extension->device_power = PowerDeviceD0;
    }
    PoStartNextPowerIrp(irp);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
    return STATUS_SUCCESS;
}

static NTSTATUS set_device_power(struct extension *extension, PIRP irp, DEVICE_POWER_STATE state)
{
    if (state == PowerDeviceD0) {
        IoCopyCurrentIrpStackLocationToNext(irp);
        IoSetCompletionRoutine(irp, powered_up, extension, TRUE, TRUE, TRUE);
        return PoCallDriver(extension->lower, irp);
    }
    POWER_STATE power = {.DeviceState = state};
    PoSetPowerState(extension->self, DevicePowerState, power);
    extension->device_power = state;
    PoStartNextPowerIrp(irp);
    IoSkipCurrentIrpStackLocation(irp);
    NTSTATUS status = PoCallDriver(extension->lower, irp);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
    return status;
}

static NTSTATUS NTAPI dispatch_power(PDEVICE_OBJECT device, PIRP irp)
{
    struct extension *extension = device->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    NTSTATUS status = IoAcquireRemoveLock(&extension->remove_lock, irp);
    if (!NT_SUCCESS(status)) {
        PoStartNextPowerIrp(irp);
        return complete(irp, status, 0);
    }
    POWER_STATE state = stack->Parameters.Power.State;
    if (stack->MinorFunction == IRP_MN_SET_POWER) {
        if (stack->Parameters.Power.Type == DevicePowerState) {
            return set_device_power(extension, irp, state.DeviceState);
        }
        /* The power policy owner asks for the device's state, and goes on when that is done. */
        extension->system_power = state.SystemState;
        POWER_STATE wanted = {.DeviceState = state.SystemState == PowerSystemWorking ? PowerDeviceD0 : PowerDeviceD3};
        IoMarkIrpPending(irp);
        status = PoRequestPowerIrp(device, IRP_MN_SET_POWER, wanted, device_power_done, irp, NULL);
        if (NT_SUCCESS(status)) {
            return STATUS_PENDING;
        }
        PoStartNextPowerIrp(irp);
        complete(irp, status, 0);
        IoReleaseRemoveLock(&extension->remove_lock, irp);
        return STATUS_PENDING;
    }
    PoStartNextPowerIrp(irp);
    IoSkipCurrentIrpStackLocation(irp);
    status = PoCallDriver(extension->lower, irp);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
    return status;
}

static NTSTATUS NTAPI dispatch_system_control(PDEVICE_OBJECT device, PIRP irp)
{
    struct extension *extension = device->DeviceExtension;
    IoSkipCurrentIrpStackLocation(irp);
    return IoCallDriver(extension->lower, irp);
}

static NTSTATUS NTAPI dispatch_open_or_close(PDEVICE_OBJECT device, PIRP irp)
{
    struct extension *extension = device->DeviceExtension;
    if (IoGetCurrentIrpStackLocation(irp)->MajorFunction == IRP_MJ_CLOSE) {
        InterlockedDecrement(&extension->open_files);
    } else if (extension->state == PNP_SURPRISE_REMOVED) {
        return complete(irp, STATUS_NO_SUCH_DEVICE, 0);
    } else {
        InterlockedIncrement(&extension->open_files);
    }
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID report(struct extension *extension, struct pnp_report *out)
{
    out->state = extension->state;
    out->device_power = extension->device_power;
    out->system_power = extension->system_power;
    out->starts = extension->starts;
    out->stops = extension->stops;
    out->port_ranges = extension->port_ranges;
    out->memory_ranges = extension->memory_ranges;
    out->interrupt_vector = extension->interrupt_vector;
    out->raw_line = extension->raw_line;
    out->dma_channel = extension->dma_channel;
    out->first_port = extension->port_ranges ? (ULONG)(ULONG_PTR)extension->ports[0].first : 0;
    out->first_port_count = extension->port_ranges ? extension->ports[0].count : 0;
    out->first_address = extension->memory_ranges ? (ULONGLONG)extension->memory[0].first.QuadPart : 0;
    out->first_bytes = extension->memory_ranges ? extension->memory[0].bytes : 0;
    out->open_files = (ULONG)extension->open_files;
}

/* Whether the hardware can be used now. */
static NTSTATUS check_hardware(struct extension *extension)
{
    if (extension->state == PNP_SURPRISE_REMOVED) {
        return STATUS_NO_SUCH_DEVICE;
    }
    if (extension->state == PNP_STOPPED || extension->state == PNP_ADDED) {
        return STATUS_DEVICE_NOT_READY;
    }
    return extension->device_power == PowerDeviceD0 ? STATUS_SUCCESS : STATUS_DEVICE_POWERED_OFF;
}

static NTSTATUS access_ports(struct extension *extension, rf_u32 *buffer, BOOLEAN is_write)
{
    if (extension->port_ranges == 0) {
        return STATUS_NO_SUCH_DEVICE;
    }
    if (buffer[0] >= extension->ports[0].count) {
        return STATUS_INVALID_PARAMETER;
    }
    PUCHAR port = extension->ports[0].first + buffer[0];
    if (is_write) {
        WRITE_PORT_UCHAR(port, (UCHAR)buffer[1]);
    } else {
        buffer[0] = READ_PORT_UCHAR(port);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS access_memory(struct extension *extension, rf_u32 *buffer, BOOLEAN is_write)
{
    struct memory *memory = &extension->memory[0];
    if (extension->memory_ranges == 0) {
        return STATUS_NO_SUCH_DEVICE;
    }
    if ((buffer[0] & 3) != 0 || buffer[0] >= memory->bytes || memory->bytes - buffer[0] < 4) {
        return STATUS_INVALID_PARAMETER;
    }
    if (memory->mapped == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    PULONG address = (PULONG)(memory->mapped + buffer[0]);
    if (is_write) {
        WRITE_REGISTER_ULONG(address, buffer[1]);
    } else {
        buffer[0] = READ_REGISTER_ULONG(address);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS control(struct extension *extension, PIO_STACK_LOCATION stack, PVOID buffer, ULONG_PTR *information)
{
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    ULONG in = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG out = stack->Parameters.DeviceIoControl.OutputBufferLength;
    BOOLEAN is_write = code == PNP_WRITE_PORT || code == PNP_WRITE_MEMORY;
    NTSTATUS status;
    ULONG bytes = 0;
    switch (code) {
    case PNP_REPORT:
        if (out < sizeof(struct pnp_report)) {
            return STATUS_BUFFER_TOO_SMALL;
        }
        report(extension, buffer);
        *information = sizeof(struct pnp_report);
        return STATUS_SUCCESS;
    case PNP_READ_PORT:
    case PNP_WRITE_PORT:
    case PNP_READ_MEMORY:
    case PNP_WRITE_MEMORY:
        if (in < (is_write ? 8u : 4u) || (!is_write && out < 4)) {
            return STATUS_BUFFER_TOO_SMALL;
        }
        status = check_hardware(extension);
        if (NT_SUCCESS(status)) {
            BOOLEAN is_port = code == PNP_READ_PORT || code == PNP_WRITE_PORT;
            status = is_port ? access_ports(extension, buffer, is_write) : access_memory(extension, buffer, is_write);
        }
        *information = NT_SUCCESS(status) && !is_write ? 4 : 0;
        return status;
    case PNP_PROPERTY:
        if (in < 4) {
            return STATUS_BUFFER_TOO_SMALL;
        }
        status = IoGetDeviceProperty(extension->physical, (DEVICE_REGISTRY_PROPERTY) * (rf_u32 *)buffer, out, buffer, &bytes);
        *information = NT_SUCCESS(status) ? bytes : 0;
        return status;
    case PNP_FAIL:
        extension->is_failed = TRUE;
        IoInvalidateDeviceState(extension->physical);
        return STATUS_SUCCESS;
    default:
        return STATUS_INVALID_DEVICE_REQUEST;
    }
}

static NTSTATUS NTAPI dispatch_control(PDEVICE_OBJECT device, PIRP irp)
{
    struct extension *extension = device->DeviceExtension;
    ULONG_PTR information = 0;
    NTSTATUS status = IoAcquireRemoveLock(&extension->remove_lock, irp);
    if (!NT_SUCCESS(status)) {
        return complete(irp, STATUS_NO_SUCH_DEVICE, 0);
    }
    status = control(extension, IoGetCurrentIrpStackLocation(irp), irp->AssociatedIrp.SystemBuffer, &information);
    complete(irp, status, information);
    IoReleaseRemoveLock(&extension->remove_lock, irp);
    return status;
}

static NTSTATUS NTAPI add_device(PDRIVER_OBJECT driver, PDEVICE_OBJECT physical)
{
    PDEVICE_OBJECT device;
    NTSTATUS status = IoCreateDevice(driver, sizeof(struct extension), NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    struct extension *extension = device->DeviceExtension;
    RtlZeroMemory(extension, sizeof(*extension));
    extension->self = device;
    extension->physical = physical;
    extension->dma_channel = extension->raw_line = ~0u;
    extension->system_power = PowerSystemWorking;
    extension->device_power = PowerDeviceD3;
    IoInitializeRemoveLock(&extension->remove_lock, TAG, 0, 0);
    status = IoRegisterDeviceInterface(physical, &interface_class, NULL, &extension->link);
    if (!NT_SUCCESS(status)) {
        IoDeleteDevice(device);
        return status;
    }
    extension->lower = IoAttachDeviceToDeviceStack(device, physical);
    if (extension->lower == NULL) {
        RtlFreeUnicodeString(&extension->link);
        IoDeleteDevice(device);
        return STATUS_NO_SUCH_DEVICE;
    }
    device->Flags |= DO_BUFFERED_IO | DO_POWER_PAGABLE;
    device->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    UNREFERENCED_PARAMETER(driver);
    DbgPrint("pnp: unloaded\n");
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNREFERENCED_PARAMETER(registry_path);
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch_open_or_close;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch_open_or_close;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch_control;
    driver->MajorFunction[IRP_MJ_PNP] = dispatch_pnp;
    driver->MajorFunction[IRP_MJ_POWER] = dispatch_power;
    driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = dispatch_system_control;
    driver->DriverExtension->AddDevice = add_device;
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
