/* lower.sys: an export driver. \Device\lower (\\.\lower), and functions that upper.sys imports by name and by ordinal.
 *
 *     0x222000  in u32, out u32: twice the number; also as an internal request
 *
 * What is exported as what: tests/drivers/build.
 */
#include "driver.h"

static PDEVICE_OBJECT device;
static ULONG initialized;

/* Called before DriverEntry, with the service's registry path. */
NTSTATUS NTAPI DllInitialize(PUNICODE_STRING registry_path)
{
    initialized = registry_path->Length != 0;
    return STATUS_SUCCESS;
}

NTSTATUS NTAPI DllUnload(VOID)
{
    DbgPrint("lower: DllUnload\n");
    return STATUS_SUCCESS;
}

/* 2: DllInitialize was called, with a path, and then DriverEntry. */
ULONG NTAPI LowerState(VOID)
{
    return initialized;
}

ULONG NTAPI LowerAdd(ULONG a, ULONG b)
{
    return a + b;
}

VOID NTAPI LowerCrash(ULONG code)
{
    KeBugCheckEx(code, 1, 2, 3, 4);
}

VOID NTAPI LowerWrite(volatile ULONG *address)
{
    *address = 1;
}

static NTSTATUS NTAPI dispatch(PDEVICE_OBJECT target, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    NTSTATUS status = STATUS_SUCCESS;
    UNREFERENCED_PARAMETER(target);
    irp->IoStatus.Information = 0;
    if (stack->MajorFunction == IRP_MJ_DEVICE_CONTROL || stack->MajorFunction == IRP_MJ_INTERNAL_DEVICE_CONTROL) {
        if (stack->Parameters.DeviceIoControl.IoControlCode != 0x222000) {
            status = STATUS_INVALID_DEVICE_REQUEST;
        } else if (stack->Parameters.DeviceIoControl.InputBufferLength < sizeof(ULONG) ||
                   stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(ULONG)) {
            status = STATUS_BUFFER_TOO_SMALL;
        } else {
            *(ULONG *)irp->AssociatedIrp.SystemBuffer *= 2;
            irp->IoStatus.Information = sizeof(ULONG);
        }
    }
    irp->IoStatus.Status = status;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    UNICODE_STRING link;
    UNREFERENCED_PARAMETER(driver);
    DbgPrint("lower: DriverUnload\n");
    RtlInitUnicodeString(&link, L"\\??\\lower");
    IoDeleteSymbolicLink(&link);
    IoDeleteDevice(device);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNICODE_STRING name, link;
    UNREFERENCED_PARAMETER(registry_path);
    initialized *= 2;
    RtlInitUnicodeString(&name, L"\\Device\\lower");
    RtlInitUnicodeString(&link, L"\\??\\lower");
    driver->MajorFunction[IRP_MJ_CREATE] = dispatch;
    driver->MajorFunction[IRP_MJ_CLEANUP] = dispatch;
    driver->MajorFunction[IRP_MJ_CLOSE] = dispatch;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = dispatch;
    driver->MajorFunction[IRP_MJ_INTERNAL_DEVICE_CONTROL] = dispatch;
    driver->DriverUnload = unload;
    NTSTATUS status = IoCreateDevice(driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
    return NT_SUCCESS(status) ? IoCreateSymbolicLink(&link, &name) : status;
}
