/* An export driver: \Device\lower, and functions that upper.sys imports by name and by ordinal. */
#include <ntddk.h>

#ifdef EXPORT_BY_DEFINITION
#define EXPORT
#else
#define EXPORT __declspec(dllexport)
#endif

static PDEVICE_OBJECT device;
static LONG initialized;

EXPORT NTSTATUS NTAPI DllInitialize(PUNICODE_STRING registry_path)
{
    initialized = registry_path->Length != 0;
    return STATUS_SUCCESS;
}

EXPORT NTSTATUS NTAPI DllUnload(VOID)
{
    DbgPrint("lower: DllUnload\n");
    return STATUS_SUCCESS;
}

/* 1 if DllInitialize came before DriverEntry, for `wanted` 2. */
EXPORT ULONG NTAPI LowerWasInitialized(ULONG wanted)
{
    return initialized == (LONG)wanted;
}

EXPORT ULONG NTAPI LowerAdd(ULONG a, ULONG b)
{
    return a + b;
}

EXPORT VOID NTAPI LowerCrash(ULONG code)
{
    KeBugCheckEx(code, 1, 2, 3, 4);
}

static NTSTATUS NTAPI dispatch(PDEVICE_OBJECT target, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    (VOID)target;
    irp->IoStatus.Information = 0;
    if (stack->MajorFunction == IRP_MJ_INTERNAL_DEVICE_CONTROL) {
        *(ULONG *)irp->AssociatedIrp.SystemBuffer *= 2;
        irp->IoStatus.Information = sizeof(ULONG);
    }
    irp->IoStatus.Status = STATUS_SUCCESS;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return STATUS_SUCCESS;
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    (VOID)driver;
    IoDeleteDevice(device);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    UNICODE_STRING name;
    (VOID)registry_path;
    initialized *= 2;
    RtlInitUnicodeString(&name, L"\\Device\\lower");
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        driver->MajorFunction[i] = dispatch;
    }
    driver->DriverUnload = unload;
    return IoCreateDevice(driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
}
