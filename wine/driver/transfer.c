/* IRPs that move data: reads, writes, device controls, flushes. */
#include "driver.h"

static ULONG control_code(const IRP *irp)
{
    return IoGetCurrentIrpStackLocation((IRP *)irp)->Parameters.DeviceIoControl.IoControlCode;
}

static void fill_control(struct rf_request *request, const IRP *irp)
{
    const IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation((IRP *)irp);
    request->opcode = RF_OP_IOCTL;
    request->code = control_code(irp);
    request->input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    request->output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    request->input = (request->code & 3) == METHOD_NEITHER ? stack->Parameters.DeviceIoControl.Type3InputBuffer
                                                           : irp->AssociatedIrp.SystemBuffer;
    /* Wine keeps the buffer that it copies back here, for every method. */
    request->output = irp->UserBuffer;
    request->is_output_sent = (request->code & 3) != METHOD_BUFFERED && request->output_bytes != 0;
}

/* Sends it, now or when its file is open. */
static void send(struct work *work, struct file *file)
{
    rf_acquire(&rf.lock);
    uint32_t state = file->state;
    uint32_t guest = file->guest;
    uint64_t handle = file->handle;
    NTSTATUS status = file->status;
    if (state == STATE_OPENING) {
        work_wait(work, &file->waiting);
    }
    rf_unlock(&rf.lock);
    if (state == STATE_OPENED) {
        work_send(work, guest, handle);
    } else if (state != STATE_OPENING) {
        work_fail(work, status);
    }
}

NTSTATUS dispatch_transfer(DEVICE_OBJECT *device, IRP *irp)
{
    const IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation(irp);
    if (ports_is(device)) {
        return ports_dispatch(irp);
    }
    if (direct_is(irp)) {
        return direct_dispatch(irp);
    }
    struct file *file = stack->FileObject == NULL ? NULL : stack->FileObject->FsContext;
    if (file == NULL) {
        return irp_complete(irp, STATUS_INVALID_HANDLE, 0);
    }
    struct work *work = work_make(irp);
    if (work == NULL) {
        return irp_complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    struct rf_request *request = &work->request;
    switch (stack->MajorFunction) {
    case IRP_MJ_DEVICE_CONTROL:
        fill_control(request, irp);
        break;
    case IRP_MJ_READ:
        request->opcode = RF_OP_READ;
        request->output = irp->UserBuffer;
        request->output_bytes = stack->Parameters.Read.Length;
        request->argument = (uint64_t)stack->Parameters.Read.ByteOffset.QuadPart;
        break;
    case IRP_MJ_WRITE:
        request->opcode = RF_OP_WRITE;
        request->input = irp->UserBuffer;
        request->input_bytes = stack->Parameters.Write.Length;
        request->argument = (uint64_t)stack->Parameters.Write.ByteOffset.QuadPart;
        break;
    default:
        request->opcode = RF_OP_FLUSH;
        break;
    }
    work_begin(work);
    send(work, file);
    return STATUS_PENDING;
}
