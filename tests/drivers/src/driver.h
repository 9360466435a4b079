/* What the sample drivers share: the DDK's headers, the few declarations that mingw-w64's lack, two helpers. */
#ifndef RINGFENCE_DRIVER_H
#define RINGFENCE_DRIVER_H

/* Functions are imported through their __imp_ pointers, as MSVC's drivers do. */
#include <ntddk.h>

/* Not in mingw-w64's headers. NT has the first three on i386 only; Ringfence exports them for both ABIs. */
NTKERNELAPI BOOLEAN NTAPI Ke386SetIoAccessMap(ULONG number, PVOID map);
NTKERNELAPI BOOLEAN NTAPI Ke386QueryIoAccessMap(ULONG number, PVOID map);
NTKERNELAPI BOOLEAN NTAPI Ke386IoSetAccessProcess(PEPROCESS process, ULONG number);
NTKERNELAPI NTSTATUS NTAPI PsLookupProcessByProcessId(HANDLE process_id, PEPROCESS *process);
NTKERNELAPI NTSTATUS NTAPI LpcRequestPort(PVOID port, PVOID message);

/* mingw-w64's amd64 headers write CR8 inline; since Windows 8 the WDK calls these exports instead, and a guest
 * whose IRQL is software cannot see a CR8 write. Other names avoid the header's inline functions. */
#ifdef _M_AMD64
__declspec(dllimport) KIRQL exported_raise_irql(KIRQL irql) __asm__("KfRaiseIrql");
__declspec(dllimport) VOID exported_lower_irql(KIRQL irql) __asm__("KeLowerIrql");
#define raise_irql exported_raise_irql
#define lower_irql exported_lower_irql
#else
#define raise_irql KfRaiseIrql
#define lower_irql KfLowerIrql
#endif

/* The layouts that the sample drivers rely on, as the WDK's own headers have them. */
#ifdef _M_AMD64
#define LAYOUT(type, field, i386_offset, amd64_offset) \
    _Static_assert(FIELD_OFFSET(type, field) == (amd64_offset), #type "." #field)
#else
#define LAYOUT(type, field, i386_offset, amd64_offset) \
    _Static_assert(FIELD_OFFSET(type, field) == (i386_offset), #type "." #field)
#endif
LAYOUT(DRIVER_OBJECT, DeviceObject, 0x04, 0x08);
LAYOUT(DRIVER_OBJECT, DriverUnload, 0x34, 0x68);
LAYOUT(DRIVER_OBJECT, MajorFunction, 0x38, 0x70);
LAYOUT(DEVICE_OBJECT, NextDevice, 0x0C, 0x10);
LAYOUT(DEVICE_OBJECT, Flags, 0x1C, 0x30);
LAYOUT(DEVICE_OBJECT, DeviceExtension, 0x28, 0x40);
LAYOUT(FILE_OBJECT, FileName, 0x30, 0x58);
LAYOUT(IRP, MdlAddress, 0x04, 0x08);
LAYOUT(IRP, AssociatedIrp, 0x0C, 0x18);
LAYOUT(IRP, IoStatus, 0x18, 0x30);
LAYOUT(IRP, Cancel, 0x24, 0x44);
LAYOUT(IRP, CancelIrql, 0x25, 0x45);
LAYOUT(IRP, CancelRoutine, 0x38, 0x68);
LAYOUT(IRP, UserBuffer, 0x3C, 0x70);
LAYOUT(IRP, Tail.Overlay.ListEntry, 0x58, 0xA8);
LAYOUT(IRP, Tail.Overlay.CurrentStackLocation, 0x60, 0xB8);
LAYOUT(IO_STACK_LOCATION, Control, 0x03, 0x03);
LAYOUT(IO_STACK_LOCATION, Parameters.Read.Length, 0x04, 0x08);
LAYOUT(IO_STACK_LOCATION, Parameters.Write.Length, 0x04, 0x08);
LAYOUT(IO_STACK_LOCATION, Parameters.DeviceIoControl.OutputBufferLength, 0x04, 0x08);
LAYOUT(IO_STACK_LOCATION, Parameters.DeviceIoControl.InputBufferLength, 0x08, 0x10);
LAYOUT(IO_STACK_LOCATION, Parameters.DeviceIoControl.IoControlCode, 0x0C, 0x18);
LAYOUT(IO_STACK_LOCATION, Parameters.DeviceIoControl.Type3InputBuffer, 0x10, 0x20);
LAYOUT(IO_STACK_LOCATION, FileObject, 0x18, 0x30);
LAYOUT(MDL, MdlFlags, 0x06, 0x0A);
LAYOUT(MDL, MappedSystemVa, 0x0C, 0x18);
_Static_assert(sizeof(KTIMER) == (sizeof(PVOID) == 8 ? 0x40 : 0x28), "KTIMER");
_Static_assert(sizeof(KDPC) == (sizeof(PVOID) == 8 ? 0x40 : 0x20), "KDPC");

/* Completes a request without a priority boost and returns its status, for `return complete(...)`. */
static inline NTSTATUS complete(PIRP irp, NTSTATUS status, ULONG_PTR information)
{
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = information;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

/* Creates a device and its link in \DosDevices; undoes the first if the second fails. */
static inline NTSTATUS create_device(PDRIVER_OBJECT driver, ULONG extension_bytes, PCWSTR device_path,
                                     PCWSTR link_path, PDEVICE_OBJECT *device)
{
    UNICODE_STRING device_name;
    UNICODE_STRING link_name;
    RtlInitUnicodeString(&device_name, device_path);
    RtlInitUnicodeString(&link_name, link_path);
    NTSTATUS status =
        IoCreateDevice(driver, extension_bytes, &device_name, FILE_DEVICE_UNKNOWN, 0, FALSE, device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateSymbolicLink(&link_name, &device_name);
    if (!NT_SUCCESS(status)) {
        IoDeleteDevice(*device);
    }
    return status;
}

/* Deletes what create_device made. */
static inline VOID delete_device(PDEVICE_OBJECT device, PCWSTR link_path)
{
    UNICODE_STRING link_name;
    RtlInitUnicodeString(&link_name, link_path);
    IoDeleteSymbolicLink(&link_name);
    IoDeleteDevice(device);
}

#endif
