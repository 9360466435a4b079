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

static NTSTATUS fill(const struct file *file, struct rf_direct *direct)
{
    NTSTATUS status;
    /* A handle that was inherited is a file of the process that has opened it; who asks has a share of his own, if he is
     * known. */
    struct process *owner = process_of_guest(file->guest);
    struct process *caller = process_current(false, &status);
    if (owner == NULL) {
        return STATUS_NOT_SUPPORTED;
    }
    uint32_t lanes = caller == NULL ? 1 : process_lanes(caller);
    if (lanes == 0 || process_share(owner) != STATUS_SUCCESS) {
        return STATUS_NOT_SUPPORTED;
    }
    rf_zero(direct, sizeof *direct);
    direct->version = RF_DIRECT_VERSION;
    direct->lanes = lanes;
    direct->handle = file->handle;
    rf_copy(direct->socket, rf.config.socket, sizeof rf.config.socket);
    rf_copy(direct->token, owner->token, sizeof direct->token);
    return STATUS_SUCCESS;
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
    rf_unlock(&rf.lock);
    if (state == STATE_OPENING) {
        return irp_complete(irp, STATUS_RETRY, 0);
    }
    NTSTATUS status = state == STATE_OPENED ? fill(file, irp->AssociatedIrp.SystemBuffer) : STATUS_NOT_SUPPORTED;
    return irp_complete(irp, status, NT_SUCCESS(status) ? sizeof(struct rf_direct) : 0);
}
