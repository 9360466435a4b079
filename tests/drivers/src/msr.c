/* msr.sys: see ../include/msr.h. */
#include "driver.h"
#include "../include/msr.h"

static rf_u64 read_msr(ULONG number)
{
    ULONG low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (rf_u64)high << 32 | low;
}

static VOID write_msr(ULONG number, rf_u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(number), "a"((ULONG)value), "d"((ULONG)(value >> 32)) : "memory");
}

static NTSTATUS NTAPI control(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    const struct msr_access *access = buffer;
    (VOID)device;
    if (code != MSR_READ && code != MSR_WRITE) {
        return complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    if (stack->Parameters.DeviceIoControl.InputBufferLength < sizeof(*access) ||
        (code == MSR_READ && stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(rf_u64))) {
        return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    if (code == MSR_WRITE) {
        write_msr(access->number, access->value);
        return complete(irp, STATUS_SUCCESS, 0);
    }
    *(rf_u64 *)buffer = read_msr(access->number);
    return complete(irp, STATUS_SUCCESS, sizeof(rf_u64));
}

static NTSTATUS NTAPI create_close(PDEVICE_OBJECT device, PIRP irp)
{
    (VOID)device;
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    delete_device(driver->DeviceObject, L"\\DosDevices\\msr");
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    PDEVICE_OBJECT device;
    (VOID)registry_path;
    NTSTATUS status = create_device(driver, 0, L"\\Device\\msr", L"\\DosDevices\\msr", &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    driver->MajorFunction[IRP_MJ_CREATE] = create_close;
    driver->MajorFunction[IRP_MJ_CLOSE] = create_close;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = control;
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
