/* upper.sys: imports from lower.sys, asks its device, and attaches a device of its own to it.
 *
 * \\.\upper:
 *     0x222000  out u32: LowerState
 *     0x222004  in u32 a, u32 b, out u32: LowerAdd, which is imported by ordinal
 *     0x222008  in u32, out u32: an internal request to the top of \Device\lower's stack
 *     0x22200C  LowerCrash(0xE2)
 *     0x222010  out u32: status of ZwUnloadDriver of the service "lower"
 *     0x222014  in UTF-16 text, out u32: status of ZwLoadDriver of that service
 *     0x222018  LowerWrite(null)
 *     0x22201C  out u32: attaches to \Device\lower; the status
 *     0x222020  detaches
 *
 * Attached, it forwards what \\.\lower gets, and adds 1 to the u32 that a control request returns.
 */
#include "driver.h"

#define IMPORT __declspec(dllimport)
IMPORT ULONG NTAPI LowerState(VOID);
IMPORT ULONG NTAPI LowerAdd(ULONG a, ULONG b);
IMPORT VOID NTAPI LowerCrash(ULONG code);
IMPORT VOID NTAPI LowerWrite(volatile ULONG *address);
NTSYSAPI NTSTATUS NTAPI ZwLoadDriver(PUNICODE_STRING service);
NTSYSAPI NTSTATUS NTAPI ZwUnloadDriver(PUNICODE_STRING service);

static PDRIVER_OBJECT self;
static PDEVICE_OBJECT device, filter, below, lower;
static PFILE_OBJECT lower_file;

static NTSTATUS ask_lower(ULONG *number)
{
    KEVENT event;
    IO_STATUS_BLOCK block;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    PIRP irp = IoBuildDeviceIoControlRequest(0x222000, lower, number, sizeof(*number), number, sizeof(*number), TRUE, &event,
                                             &block);
    NTSTATUS status = irp == NULL ? STATUS_INSUFFICIENT_RESOURCES : IoCallDriver(lower, irp);
    if (status == STATUS_PENDING) {
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
        status = block.Status;
    }
    return status;
}

static NTSTATUS service_call(NTSTATUS (NTAPI *call)(PUNICODE_STRING), const WCHAR *name, ULONG bytes)
{
    static const WCHAR services[] = L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\";
    WCHAR path[128];
    UNICODE_STRING text = {0, sizeof(path), path};
    UNICODE_STRING tail = {(USHORT)bytes, (USHORT)bytes, (WCHAR *)name};
    if (bytes > 64) {
        return STATUS_INVALID_PARAMETER;
    }
    RtlAppendUnicodeToString(&text, services);
    RtlAppendUnicodeStringToString(&text, &tail);
    return call(&text);
}

static NTSTATUS attach(VOID)
{
    UNICODE_STRING name;
    if (filter != NULL) {
        return STATUS_INVALID_DEVICE_STATE;
    }
    NTSTATUS status = IoCreateDevice(self, 0, NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &filter);
    if (NT_SUCCESS(status)) {
        RtlInitUnicodeString(&name, L"\\Device\\lower");
        status = IoAttachDevice(filter, &name, &below);
        if (!NT_SUCCESS(status)) {
            IoDeleteDevice(filter);
            filter = NULL;
        } else {
            filter->Flags &= ~DO_DEVICE_INITIALIZING;
        }
    }
    return status;
}

static VOID detach(VOID)
{
    if (filter != NULL) {
        IoDetachDevice(below);
        IoDeleteDevice(filter);
        filter = NULL;
    }
}

static NTSTATUS NTAPI forwarded(PDEVICE_OBJECT target, PIRP irp, PVOID context)
{
    UNREFERENCED_PARAMETER(target);
    UNREFERENCED_PARAMETER(context);
    if (irp->PendingReturned) {
        IoMarkIrpPending(irp);
    }
    if (NT_SUCCESS(irp->IoStatus.Status) && irp->IoStatus.Information == sizeof(ULONG)) {
        *(ULONG *)irp->AssociatedIrp.SystemBuffer += 1;
    }
    return STATUS_SUCCESS;
}

static NTSTATUS control(PIRP irp, PIO_STACK_LOCATION stack)
{
    ULONG *buffer = irp->AssociatedIrp.SystemBuffer;
    ULONG input = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output = stack->Parameters.DeviceIoControl.OutputBufferLength;
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    NTSTATUS status = STATUS_SUCCESS;
    switch (code) {
    case 0x22200C: LowerCrash(0xE2); return status;
    case 0x222018: LowerWrite(NULL); return status;
    case 0x222020: detach(); return status;
    default: break;
    }
    if (output < sizeof(ULONG) || (code == 0x222004 && input < 2 * sizeof(ULONG)) || (code == 0x222008 && input < sizeof(ULONG))) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    switch (code) {
    case 0x222000: *buffer = LowerState(); break;
    case 0x222004: *buffer = LowerAdd(buffer[0], buffer[1]); break;
    case 0x222008: status = ask_lower(buffer); break;
    case 0x222010: *buffer = (ULONG)service_call(ZwUnloadDriver, L"lower", 10); break;
    case 0x222014: *buffer = (ULONG)service_call(ZwLoadDriver, (const WCHAR *)buffer, input); break;
    case 0x22201C: *buffer = (ULONG)attach(); break;
    default: return STATUS_INVALID_DEVICE_REQUEST;
    }
    irp->IoStatus.Information = sizeof(ULONG);
    return status;
}

static NTSTATUS NTAPI dispatch(PDEVICE_OBJECT target, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    if (target != device) {
        IoCopyCurrentIrpStackLocationToNext(irp);
        IoSetCompletionRoutine(irp, forwarded, NULL, TRUE, TRUE, TRUE);
        return IoCallDriver(below, irp);
    }
    irp->IoStatus.Information = 0;
    NTSTATUS status = stack->MajorFunction == IRP_MJ_DEVICE_CONTROL ? control(irp, stack) : STATUS_SUCCESS;
    irp->IoStatus.Status = status;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    UNICODE_STRING link;
    UNREFERENCED_PARAMETER(driver);
    DbgPrint("upper: DriverUnload\n");
    RtlInitUnicodeString(&link, L"\\??\\upper");
    IoDeleteSymbolicLink(&link);
    detach();
    ObDereferenceObject(lower_file);
    IoDeleteDevice(device);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNICODE_STRING name, link;
    UNREFERENCED_PARAMETER(registry_path);
    self = driver;
    RtlInitUnicodeString(&name, L"\\Device\\lower");
    NTSTATUS status = IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &lower_file, &lower);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    RtlInitUnicodeString(&name, L"\\Device\\upper");
    RtlInitUnicodeString(&link, L"\\??\\upper");
    status = IoCreateDevice(driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
    if (!NT_SUCCESS(status)) {
        ObDereferenceObject(lower_file);
        return status;
    }
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        driver->MajorFunction[i] = dispatch;
    }
    driver->DriverUnload = unload;
    return IoCreateSymbolicLink(&link, &name);
}
