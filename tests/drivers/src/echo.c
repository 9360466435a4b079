/* Moves data through every kind of request. See ../include/echo.h. */
#include "driver.h"
#include "../include/echo.h"

#define TAG 0x6F686345u /* "Echo" */
#define STORE_BYTES 4096u
#define UNITS_PER_MS 10000 /* KeSetTimer counts in 100 ns */

/* One device's state. */
struct device {
    PCWSTR link_path;
    UCHAR read_key;
    ULONG stored_bytes;
    struct echo_hash last;
    LIST_ENTRY waiting; /* pending ECHO_WAIT IRPs by Tail.Overlay.ListEntry; guarded by the cancel spin lock */
    UCHAR store[STORE_BYTES];
};

/* What a pending ECHO_PEND needs until its DPC has run. */
struct pending {
    KTIMER timer;
    KDPC dpc;
    PIRP irp;
};

static VOID code_bytes(PUCHAR to, const UCHAR *from, ULONG length, ULONG key)
{
    for (ULONG i = 0; i < length; i++) {
        to[i] = (UCHAR)((from[i] ^ key) + i);
    }
}

static ULONG hash_bytes(ULONG hash, const UCHAR *bytes, ULONG length)
{
    for (ULONG i = 0; i < length; i++) {
        hash = (hash ^ bytes[i]) * 16777619u;
    }
    return hash;
}

static ULONG smaller(ULONG left, ULONG right)
{
    return left < right ? left : right;
}

static PUCHAR mdl_bytes(PIRP irp)
{
    return irp->MdlAddress == NULL ? NULL : MmGetSystemAddressForMdlSafe(irp->MdlAddress, NormalPagePriority);
}

static BOOLEAN is_user_range(const VOID *address, ULONG length)
{
    ULONG_PTR start = (ULONG_PTR)address;
    return length == 0 || (start < MmUserProbeAddress && length <= MmUserProbeAddress - start);
}

/* The client's buffer of a read or write, wherever this device's flags have the I/O manager put it. */
static NTSTATUS transfer_buffer(PDEVICE_OBJECT device, PIRP irp, ULONG length, PUCHAR *buffer)
{
    if (device->Flags & DO_BUFFERED_IO) {
        *buffer = irp->AssociatedIrp.SystemBuffer;
    } else if (device->Flags & DO_DIRECT_IO) {
        *buffer = mdl_bytes(irp);
        if (*buffer == NULL && length != 0) {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
    } else {
        *buffer = irp->UserBuffer;
        if (!is_user_range(*buffer, length)) {
            return STATUS_ACCESS_VIOLATION;
        }
    }
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI dispatch_write(PDEVICE_OBJECT device_object, PIRP irp)
{
    struct device *device = device_object->DeviceExtension;
    ULONG length = IoGetCurrentIrpStackLocation(irp)->Parameters.Write.Length;
    PUCHAR buffer;
    if (length > STORE_BYTES) {
        return complete(irp, STATUS_INVALID_BUFFER_SIZE, 0);
    }
    NTSTATUS status = transfer_buffer(device_object, irp, length, &buffer);
    if (!NT_SUCCESS(status)) {
        return complete(irp, status, 0);
    }
    RtlCopyMemory(device->store, buffer, length);
    device->stored_bytes = length;
    return complete(irp, STATUS_SUCCESS, length);
}

static NTSTATUS NTAPI dispatch_read(PDEVICE_OBJECT device_object, PIRP irp)
{
    struct device *device = device_object->DeviceExtension;
    ULONG length = IoGetCurrentIrpStackLocation(irp)->Parameters.Read.Length;
    PUCHAR buffer;
    if (device->stored_bytes == 0) {
        return complete(irp, STATUS_END_OF_FILE, 0);
    }
    NTSTATUS status = transfer_buffer(device_object, irp, length, &buffer);
    if (!NT_SUCCESS(status)) {
        return complete(irp, status, 0);
    }
    length = smaller(length, device->stored_bytes);
    code_bytes(buffer, device->store, length, device->read_key);
    return complete(irp, STATUS_SUCCESS, length);
}

/* The four transfer methods. */
static NTSTATUS transfer(struct device *device, PIRP irp, ULONG_PTR *information)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    PUCHAR input = irp->AssociatedIrp.SystemBuffer;
    PUCHAR output = irp->AssociatedIrp.SystemBuffer;
    ULONG key = ECHO_KEY_BUFFERED;

    if (code == ECHO_NEITHER) {
        input = stack->Parameters.DeviceIoControl.Type3InputBuffer;
        output = irp->UserBuffer;
        key = ECHO_KEY_NEITHER;
        if (!is_user_range(input, input_bytes) || !is_user_range(output, output_bytes)) {
            return STATUS_ACCESS_VIOLATION;
        }
    } else if (code != ECHO_BUFFERED) {
        output = mdl_bytes(irp);
        key = ECHO_KEY_OUT_DIRECT;
        if (output == NULL && output_bytes != 0) {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
    }
    /* Before the output is written: it may be the same memory. */
    device->last.hash = hash_bytes(2166136261u, input, input_bytes);
    device->last.input_length = input_bytes;
    device->last.output_length = output_bytes;
    if (code == ECHO_IN_DIRECT) {
        device->last.hash = hash_bytes(device->last.hash, output, output_bytes);
        return STATUS_SUCCESS;
    }
    ULONG length = smaller(input_bytes, output_bytes);
    code_bytes(output, input, length, key);
    *information = length;
    return STATUS_SUCCESS;
}

/* Completes an ECHO_PEND or ECHO_WAIT with its answer: its input's tag, inverted. */
static VOID complete_with_tag(PIRP irp, ULONG tag)
{
    *(rf_u32 *)irp->AssociatedIrp.SystemBuffer = ~tag;
    complete(irp, STATUS_SUCCESS, sizeof(rf_u32));
}

/* Completes an ECHO_FILL or ECHO_PEND_FILL. */
static NTSTATUS fill_mdl(PIRP irp, ULONG fill)
{
    ULONG length = irp->MdlAddress == NULL ? 0 : MmGetMdlByteCount(irp->MdlAddress);
    PUCHAR bytes = mdl_bytes(irp);
    if (bytes == NULL && length != 0) {
        return complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    if (length != 0) {
        RtlFillMemory(bytes, length, (UCHAR)fill);
    }
    return complete(irp, STATUS_SUCCESS, length);
}

static VOID NTAPI pending_expired(PKDPC dpc, PVOID context, PVOID argument1, PVOID argument2)
{
    UNREFERENCED_PARAMETER(dpc);
    UNREFERENCED_PARAMETER(argument1);
    UNREFERENCED_PARAMETER(argument2);
    struct pending *pending = context;
    PIRP irp = pending->irp;
    ExFreePoolWithTag(pending, TAG);
    ULONG tag = ((struct echo_pend *)irp->AssociatedIrp.SystemBuffer)->tag;
    if (irp->MdlAddress != NULL) {
        fill_mdl(irp, tag);
    } else {
        complete_with_tag(irp, tag);
    }
}

static NTSTATUS start_pending(PIRP irp)
{
    const struct echo_pend *request = irp->AssociatedIrp.SystemBuffer;
    struct pending *pending = ExAllocatePoolWithTag(NonPagedPool, sizeof(*pending), TAG);
    if (pending == NULL) {
        return complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    LARGE_INTEGER due;
    due.QuadPart = -(LONGLONG)((ULONGLONG)request->delay_ms * UNITS_PER_MS); /* negative: from now */
    pending->irp = irp;
    KeInitializeTimer(&pending->timer);
    KeInitializeDpc(&pending->dpc, pending_expired, pending);
    IoMarkIrpPending(irp);
    KeSetTimer(&pending->timer, due, &pending->dpc);
    return STATUS_PENDING;
}

/* Called with the cancel spin lock held, which it releases. */
static VOID NTAPI cancel_waiting(PDEVICE_OBJECT device_object, PIRP irp)
{
    UNREFERENCED_PARAMETER(device_object);
    RemoveEntryList(&irp->Tail.Overlay.ListEntry);
    IoReleaseCancelSpinLock(irp->CancelIrql);
    complete(irp, STATUS_CANCELLED, 0);
}

static NTSTATUS start_waiting(struct device *device, PIRP irp)
{
    KIRQL old;
    IoAcquireCancelSpinLock(&old);
    if (irp->Cancel) {
        IoReleaseCancelSpinLock(old);
        return complete(irp, STATUS_CANCELLED, 0);
    }
    IoMarkIrpPending(irp);
    InsertTailList(&device->waiting, &irp->Tail.Overlay.ListEntry);
    IoSetCancelRoutine(irp, cancel_waiting);
    IoReleaseCancelSpinLock(old);
    return STATUS_PENDING;
}

/* Takes the oldest waiting IRP, of one file if that is not NULL; NULL if there is none. */
static PIRP take_waiting(struct device *device, PFILE_OBJECT file)
{
    PIRP taken = NULL;
    KIRQL old;
    IoAcquireCancelSpinLock(&old);
    for (PLIST_ENTRY entry = device->waiting.Flink; entry != &device->waiting; entry = entry->Flink) {
        PIRP irp = CONTAINING_RECORD(entry, IRP, Tail.Overlay.ListEntry);
        if (file == NULL || IoGetCurrentIrpStackLocation(irp)->FileObject == file) {
            RemoveEntryList(entry);
            IoSetCancelRoutine(irp, NULL);
            taken = irp;
            break;
        }
    }
    IoReleaseCancelSpinLock(old);
    return taken;
}

static ULONG release_waiting(struct device *device)
{
    ULONG released = 0;
    PIRP irp;
    while ((irp = take_waiting(device, NULL)) != NULL) {
        complete_with_tag(irp, *(rf_u32 *)irp->AssociatedIrp.SystemBuffer);
        released++;
    }
    return released;
}

static NTSTATUS complete_as_asked(PIRP irp, ULONG output_bytes)
{
    struct echo_complete request = *(struct echo_complete *)irp->AssociatedIrp.SystemBuffer;
    RtlFillMemory(irp->AssociatedIrp.SystemBuffer, output_bytes, (UCHAR)request.fill);
    return complete(irp, (NTSTATUS)request.status, request.information);
}

static NTSTATUS NTAPI dispatch_control(PDEVICE_OBJECT device_object, PIRP irp)
{
    struct device *device = device_object->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    ULONG_PTR information = 0;

    switch (code) {
    case ECHO_BUFFERED:
    case ECHO_IN_DIRECT:
    case ECHO_OUT_DIRECT:
    case ECHO_NEITHER: {
        NTSTATUS status = transfer(device, irp, &information);
        return complete(irp, status, information);
    }
    case ECHO_QUERY_HASH:
        if (output_bytes < sizeof(struct echo_hash)) {
            break;
        }
        *(struct echo_hash *)buffer = device->last;
        return complete(irp, STATUS_SUCCESS, sizeof(struct echo_hash));
    case ECHO_PEND:
        if (input_bytes < sizeof(struct echo_pend) || output_bytes < sizeof(rf_u32)) {
            break;
        }
        return start_pending(irp);
    case ECHO_WAIT:
        if (input_bytes < sizeof(rf_u32) || output_bytes < sizeof(rf_u32)) {
            break;
        }
        return start_waiting(device, irp);
    case ECHO_RELEASE:
        if (output_bytes < sizeof(rf_u32)) {
            break;
        }
        *(rf_u32 *)buffer = release_waiting(device);
        return complete(irp, STATUS_SUCCESS, sizeof(rf_u32));
    case ECHO_COMPLETE:
        if (input_bytes < sizeof(struct echo_complete)) {
            break;
        }
        return complete_as_asked(irp, output_bytes);
    case ECHO_FILL:
        if (input_bytes < sizeof(rf_u32)) {
            break;
        }
        return fill_mdl(irp, *(rf_u32 *)buffer);
    case ECHO_PEND_FILL:
        if (input_bytes < sizeof(struct echo_pend) || output_bytes == 0) {
            break;
        }
        return start_pending(irp);
    default:
        return complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
}

static NTSTATUS NTAPI dispatch_cleanup(PDEVICE_OBJECT device_object, PIRP irp)
{
    PFILE_OBJECT file = IoGetCurrentIrpStackLocation(irp)->FileObject;
    PIRP waiting;
    while ((waiting = take_waiting(device_object->DeviceExtension, file)) != NULL) {
        complete(waiting, STATUS_CANCELLED, 0);
    }
    return complete(irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI dispatch_nothing(PDEVICE_OBJECT device_object, PIRP irp)
{
    UNREFERENCED_PARAMETER(device_object);
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    while (driver->DeviceObject != NULL) {
        struct device *device = driver->DeviceObject->DeviceExtension;
        delete_device(driver->DeviceObject, device->link_path);
    }
}

/* The three devices. A table of pointers, so that images of both ABIs have relocations. */
struct device_kind {
    PCWSTR device_path;
    PCWSTR link_path;
    ULONG flags;
    UCHAR read_key;
};
static const struct device_kind kinds[] = {
    {L"\\Device\\echo", L"\\DosDevices\\echo", DO_BUFFERED_IO, ECHO_READ_KEY_BUFFERED},
    {L"\\Device\\echo_direct", L"\\DosDevices\\echo_direct", DO_DIRECT_IO, ECHO_READ_KEY_DIRECT},
    {L"\\Device\\echo_neither", L"\\DosDevices\\echo_neither", 0, ECHO_READ_KEY_NEITHER},
};

static NTSTATUS add_device(PDRIVER_OBJECT driver, const struct device_kind *kind)
{
    PDEVICE_OBJECT device_object;
    NTSTATUS status =
        create_device(driver, sizeof(struct device), kind->device_path, kind->link_path, &device_object);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    struct device *device = device_object->DeviceExtension;
    device->link_path = kind->link_path;
    device->read_key = kind->read_key;
    InitializeListHead(&device->waiting);
    device_object->Flags |= kind->flags;
    device_object->Flags &= ~(ULONG)DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNREFERENCED_PARAMETER(registry_path);
    for (ULONG i = 0; i < RTL_NUMBER_OF(kinds); i++) {
        NTSTATUS status = add_device(driver, &kinds[i]);
        if (!NT_SUCCESS(status)) {
            unload(driver);
            return status;
        }
    }
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_CLEANUP] = dispatch_cleanup;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_READ] = dispatch_read;
    driver->MajorFunction[IRP_MJ_WRITE] = dispatch_write;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch_control;
    driver->DriverUnload = unload;
    DbgPrint("echo: loaded\n");
    return STATUS_SUCCESS;
}
