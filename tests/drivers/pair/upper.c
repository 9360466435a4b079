/* Uses lower.sys: its exports, and its device through IoGetDeviceObjectPointer.
 *
 *     0x222000  out u32: LowerWasInitialized
 *     0x222004  in u32 a, u32 b, out u32: LowerAdd
 *     0x222008  in u32, out u32: an internal request to \Device\lower (it doubles the number)
 *     0x22200C  LowerCrash
 *     0x222010  out u32: status of ZwUnloadDriver of the service "lower" while its device is open
 */
#include <ntddk.h>

#define IMPORT __declspec(dllimport)
IMPORT ULONG NTAPI LowerWasInitialized(ULONG wanted);
IMPORT ULONG NTAPI LowerAdd(ULONG a, ULONG b);
IMPORT VOID NTAPI LowerCrash(ULONG code);
NTSYSAPI NTSTATUS NTAPI ZwUnloadDriver(PUNICODE_STRING service);

static PDEVICE_OBJECT device, lower;
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

static NTSTATUS NTAPI dispatch(PDEVICE_OBJECT target, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG *buffer = irp->AssociatedIrp.SystemBuffer;
    NTSTATUS status = STATUS_SUCCESS;
    UNICODE_STRING service;
    (VOID)target;
    irp->IoStatus.Information = 0;
    if (stack->MajorFunction == IRP_MJ_DEVICE_CONTROL) {
        switch (stack->Parameters.DeviceIoControl.IoControlCode) {
        case 0x222000: *buffer = LowerWasInitialized(2); break;
        case 0x222004: *buffer = LowerAdd(buffer[0], buffer[1]); break;
        case 0x222008: status = ask_lower(buffer); break;
        case 0x22200C: LowerCrash(0xE2); break;
        case 0x222010:
            RtlInitUnicodeString(&service, L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\lower");
            *buffer = (ULONG)ZwUnloadDriver(&service);
            break;
        default: status = STATUS_INVALID_DEVICE_REQUEST;
        }
        irp->IoStatus.Information = sizeof(ULONG);
    }
    irp->IoStatus.Status = status;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    UNICODE_STRING link;
    (VOID)driver;
    RtlInitUnicodeString(&link, L"\\??\\upper");
    IoDeleteSymbolicLink(&link);
    ObDereferenceObject(lower_file);
    IoDeleteDevice(device);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNICODE_STRING name, link;
    (VOID)registry_path;
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
