/* The device by which a process gets to the ports that the driver has granted it; ../include/ringfence_wine.h. */
#include "driver.h"

static DEVICE_OBJECT *ports_device;
static WCHAR link_name[] = RF_PORTS_NT_LINK_W L"00";

/* The number in the device's name behind `prefix`. */
static void number(WCHAR *digits, ULONG value)
{
    size_t at = 0;
    if (value >= 10) {
        digits[at++] = (WCHAR)('0' + value / 10);
    }
    digits[at++] = (WCHAR)('0' + value % 10);
    digits[at] = 0;
}

void ports_create(DRIVER_OBJECT *driver)
{
    static WCHAR device_name[] = L"\\Device\\RingfencePorts00";
    UNICODE_STRING name;
    UNICODE_STRING link;
    NTSTATUS status = STATUS_OBJECT_NAME_COLLISION;
    for (ULONG i = 0; i < RF_PORTS_DEVICES && status == STATUS_OBJECT_NAME_COLLISION; i++) {
        number(device_name + sizeof device_name / sizeof(WCHAR) - 3, i);
        number(link_name + sizeof link_name / sizeof(WCHAR) - 3, i);
        RtlInitUnicodeString(&name, device_name);
        status = IoCreateDevice(driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &ports_device);
    }
    if (NT_SUCCESS(status)) {
        ports_device->Flags &= ~(ULONG)DO_DEVICE_INITIALIZING;
        RtlInitUnicodeString(&link, link_name);
        status = IoCreateSymbolicLink(&link, &name);
    }
    if (!NT_SUCCESS(status)) {
        log_line("programs cannot reach their ports: status %x for the device that tells them how", (uint32_t)status);
    }
}

void ports_remove_link(void)
{
    if (ports_device != NULL) {
        UNICODE_STRING link;
        RtlInitUnicodeString(&link, link_name);
        IoDeleteSymbolicLink(&link);
    }
}

void ports_remove(void)
{
    ports_remove_link();
    if (ports_device != NULL) {
        IoDeleteDevice(ports_device);
        ports_device = NULL;
    }
}

bool ports_is(const DEVICE_OBJECT *device)
{
    return device == ports_device;
}

NTSTATUS ports_dispatch(IRP *irp)
{
    const IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation(irp);
    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL ||
        stack->Parameters.DeviceIoControl.IoControlCode != RF_IOCTL_PORTS) {
        return irp_complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(struct rf_ports)) {
        return irp_complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    struct rf_ports *ports = irp->AssociatedIrp.SystemBuffer;
    struct work *work = work_for_token(irp, ports->token, sizeof *ports);
    if (work == NULL) {
        return irp_complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    rf_zero(ports, sizeof *ports);
    ports->version = RF_PORTS_VERSION;
    rf_copy(ports->socket, rf.config.socket, sizeof rf.config.socket);
    work_begin(work);
    process_send(work, false);
    return STATUS_PENDING;
}
