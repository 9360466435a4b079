/* Grants I/O permission through the Ke386 calls, as GIVEIO.SYS does. See ../include/ioperm.h. */
#include "driver.h"
#include "../include/ioperm.h"

#define DEVICE_PATH L"\\Device\\ioperm"
#define LINK_PATH L"\\DosDevices\\ioperm"
#define ALLOW_ALL 0x00
#define DENY_ALL 0xFF

/* The map that Ke386SetIoAccessMap copies from. Requests come one at a time, so one is enough. */
static PUCHAR scratch_map;

static NTSTATUS grant_scratch_map(VOID)
{
    if (!Ke386SetIoAccessMap(1, scratch_map) || !Ke386IoSetAccessProcess(IoGetCurrentProcess(), 1)) {
        return STATUS_UNSUCCESSFUL;
    }
    return STATUS_SUCCESS;
}

static NTSTATUS grant_all(VOID)
{
    RtlFillMemory(scratch_map, IOPERM_MAP_BYTES, ALLOW_ALL);
    return grant_scratch_map();
}

static NTSTATUS grant_range(const struct ioperm_range *range)
{
    if (range->last < range->first) {
        return STATUS_INVALID_PARAMETER;
    }
    RtlFillMemory(scratch_map, IOPERM_MAP_BYTES, DENY_ALL);
    for (ULONG port = range->first; port <= range->last; port++) {
        scratch_map[port / 8] &= (UCHAR)~(1u << (port % 8));
    }
    return grant_scratch_map();
}

static NTSTATUS set_process(const struct ioperm_process *request)
{
    HANDLE process_id = request->process_id != 0 ? (HANDLE)(ULONG_PTR)request->process_id : PsGetCurrentProcessId();
    PEPROCESS process;
    NTSTATUS status = PsLookupProcessByProcessId(process_id, &process);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    BOOLEAN is_set = Ke386IoSetAccessProcess(process, request->number);
    ObDereferenceObject(process);
    return is_set ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
}

static NTSTATUS query_map(PVOID buffer, ULONG input_bytes, ULONG output_bytes, ULONG_PTR *information)
{
    ULONG number = input_bytes >= sizeof(rf_u32) ? *(rf_u32 *)buffer : 1;
    if (output_bytes < IOPERM_MAP_BYTES) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    if (!Ke386QueryIoAccessMap(number, buffer)) {
        return STATUS_UNSUCCESSFUL;
    }
    *information = IOPERM_MAP_BYTES;
    return STATUS_SUCCESS;
}

static BOOLEAN name_is_none(const UNICODE_STRING *name)
{
    static const WCHAR none[] = L"\\none";
    return name->Length == sizeof(none) - sizeof(WCHAR) &&
           RtlCompareMemory(name->Buffer, none, name->Length) == name->Length;
}

static NTSTATUS NTAPI dispatch_create(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    const UNICODE_STRING *name = &IoGetCurrentIrpStackLocation(irp)->FileObject->FileName;
    if (name->Length == 0) {
        return complete(irp, grant_all(), 0);
    }
    return complete(irp, name_is_none(name) ? STATUS_SUCCESS : STATUS_OBJECT_NAME_NOT_FOUND, 0);
}

static NTSTATUS NTAPI dispatch_nothing(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    return complete(irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI dispatch_control(PDEVICE_OBJECT device, PIRP irp)
{
    UNREFERENCED_PARAMETER(device);
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    ULONG_PTR information = 0;
    NTSTATUS status;

    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOPERM_GRANT_ALL:
        status = grant_all();
        break;
    case IOPERM_GRANT_RANGE:
        status = input_bytes < sizeof(struct ioperm_range) ? STATUS_BUFFER_TOO_SMALL : grant_range(buffer);
        break;
    case IOPERM_QUERY_MAP:
        status = query_map(buffer, input_bytes, output_bytes, &information);
        break;
    case IOPERM_REVOKE:
        status = Ke386IoSetAccessProcess(IoGetCurrentProcess(), 0) ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
        break;
    case IOPERM_SET_MAP: {
        struct ioperm_map *map = buffer;
        if (input_bytes < sizeof(*map)) {
            status = STATUS_BUFFER_TOO_SMALL;
        } else {
            status = Ke386SetIoAccessMap(map->number, map->bits) ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
        }
        break;
    }
    case IOPERM_SET_PROCESS:
        status = input_bytes < sizeof(struct ioperm_process) ? STATUS_BUFFER_TOO_SMALL : set_process(buffer);
        break;
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
        break;
    }
    return complete(irp, status, information);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    delete_device(driver->DeviceObject, LINK_PATH);
    MmFreeNonCachedMemory(scratch_map, IOPERM_MAP_BYTES);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNREFERENCED_PARAMETER(registry_path);
    PDEVICE_OBJECT device;

    /* GIVEIO asks for non-cached memory too. */
    scratch_map = MmAllocateNonCachedMemory(IOPERM_MAP_BYTES);
    if (scratch_map == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    NTSTATUS status = create_device(driver, 0, DEVICE_PATH, LINK_PATH, &device);
    if (!NT_SUCCESS(status)) {
        MmFreeNonCachedMemory(scratch_map, IOPERM_MAP_BYTES);
        return status;
    }
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch_create;
    driver->MajorFunction[IRP_MJ_CLEANUP] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch_nothing;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch_control;
    driver->DriverUnload = unload;
    DbgPrint("ioperm: loaded\n");
    return STATUS_SUCCESS;
}
