/* How a program sends the requests of a handle to the micro-VM itself; ../include/ringfence_wine.h. */
#include "driver.h"

bool direct_is(const IRP *irp)
{
    static const uint8_t magic[RF_DIRECT_MAGIC_BYTES] = RF_DIRECT_MAGIC;
    const IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation((IRP *)irp);
    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL ||
        stack->Parameters.DeviceIoControl.IoControlCode != RF_IOCTL_DIRECT ||
        stack->Parameters.DeviceIoControl.InputBufferLength != sizeof magic ||
        stack->Parameters.DeviceIoControl.OutputBufferLength != sizeof(struct rf_direct)) {
        return false;
    }
    const uint8_t *input = irp->AssociatedIrp.SystemBuffer;
    unsigned different = 0;
    for (size_t i = 0; i < sizeof magic; i++) {
        different |= input[i] ^ magic[i];
    }
    return different == 0;
}

NTSTATUS direct_dispatch(IRP *irp)
{
    const FILE_OBJECT *object = IoGetCurrentIrpStackLocation(irp)->FileObject;
    const struct file *file = object == NULL ? NULL : object->FsContext;
    if (file == NULL || !file->is_synchronous) {
        return irp_complete(irp, STATUS_NOT_SUPPORTED, 0);
    }
    rf_acquire(&rf.lock);
    uint32_t state = file->state;
    uint32_t guest = file->guest;
    uint64_t handle = file->handle;
    rf_unlock(&rf.lock);
    if (state == STATE_OPENING) {
        return irp_complete(irp, STATUS_RETRY, 0);
    }
    uint32_t lanes = state == STATE_OPENED ? process_lanes() : 0;
    struct rf_direct *direct = irp->AssociatedIrp.SystemBuffer;
    struct work *work = lanes == 0 ? NULL : work_for_token(irp, direct->token, sizeof *direct);
    if (work == NULL) {
        return irp_complete(irp, STATUS_NOT_SUPPORTED, 0);
    }
    rf_zero(direct, sizeof *direct);
    direct->version = RF_DIRECT_VERSION;
    direct->lanes = lanes;
    direct->handle = handle;
    rf_copy(direct->socket, rf.config.socket, sizeof rf.config.socket);
    work_begin(work);
    /* A handle that was inherited is a file of the process that has opened it. */
    work_send(work, guest, 0);
    return STATUS_PENDING;
}
