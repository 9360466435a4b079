/* Devices of a test's own beside the framework's: each has a dispatch routine that the test sets. */
#ifndef RINGFENCE_DEVICES_H
#define RINGFENCE_DEVICES_H

#include "ktest.h"

typedef NTSTATUS (*dispatch_routine)(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack);

struct extension {
    dispatch_routine dispatch;
    PDEVICE_OBJECT lower;
    ULONG seen[IRP_MJ_MAXIMUM_FUNCTION + 1]; /* IRPs by major function */
};

static struct extension *extension_of(PDEVICE_OBJECT device)
{
    return device->DeviceExtension;
}

static NTSTATUS finish(PIRP irp, NTSTATUS status, ULONG_PTR information)
{
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = information;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static NTSTATUS NTAPI devices_dispatch(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    if (device == ktest_device) {
        return stack->MajorFunction == IRP_MJ_DEVICE_CONTROL ? ktest_control(device, irp)
                                                              : ktest_dispatch(device, irp);
    }
    struct extension *extension = extension_of(device);
    extension->seen[stack->MajorFunction]++;
    if (extension->dispatch == NULL) {
        return finish(irp, STATUS_SUCCESS, 0);
    }
    return extension->dispatch(device, irp, stack);
}

/* A device without a name, or with one; NULL if it cannot be made. */
static PDEVICE_OBJECT new_device(PCWSTR name, dispatch_routine dispatch)
{
    UNICODE_STRING string;
    PDEVICE_OBJECT device;
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        ktest_driver->MajorFunction[i] = devices_dispatch;
    }
    if (name != NULL) {
        RtlInitUnicodeString(&string, name);
    }
    if (!NT_SUCCESS(IoCreateDevice(ktest_driver, sizeof(struct extension), name == NULL ? NULL : &string,
                                   FILE_DEVICE_UNKNOWN, 0, FALSE, &device))) {
        FAIL("IoCreateDevice");
        return NULL;
    }
    extension_of(device)->dispatch = dispatch;
    device->Flags &= ~DO_DEVICE_INITIALIZING;
    return device;
}

#endif
