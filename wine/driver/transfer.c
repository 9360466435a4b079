/* IRPs that move data: reads, writes, device controls, flushes; and the cancelling of any. */
#include "driver.h"

NTSTATUS irp_complete(IRP *irp, NTSTATUS status, ULONG_PTR information)
{
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = information;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

NTSTATUS status_for_programs(uint32_t status)
{
    /* The VMM is gone, with or without a farewell. */
    bool is_lost = status == RF_STATUS_NOT_CONNECTED || status == (uint32_t)STATUS_DEVICE_REMOVED;
    return is_lost ? STATUS_DEVICE_REMOVED : (NTSTATUS)status;
}

static bool is_read(const IRP *irp)
{
    return IoGetCurrentIrpStackLocation((IRP *)irp)->MajorFunction == IRP_MJ_READ;
}

static ULONG control_code(const IRP *irp)
{
    return IoGetCurrentIrpStackLocation((IRP *)irp)->Parameters.DeviceIoControl.IoControlCode;
}

/* IO_STATUS_BLOCK.Information. Wine copies so many bytes of the buffer to the program where the buffer is the system's,
 * whatever its size is. */
static ULONG_PTR information_of(const struct work *work)
{
    const struct rf_request *request = &work->request;
    bool is_buffered = is_read(work->irp) || (request->opcode == RF_OP_IOCTL && (request->code & 3) == METHOD_BUFFERED);
    if (is_buffered && request->information > request->output_written) {
        return request->output_written;
    }
    return (ULONG_PTR)request->information;
}

static void finish(struct work *work)
{
    IRP *irp = work->irp;
    NTSTATUS status = status_for_programs(work->request.status);
    ULONG_PTR information = information_of(work);
    heap_free(work);
    irp_complete(irp, status, information);
}

/* One of the two that meet has come; whether it is the second. */
static bool is_second(struct work *work)
{
    return __atomic_exchange_n(&work->met, 1, __ATOMIC_ACQ_REL) != 0;
}

/* The micro-VM has answered. On the pump, or on whatever thread found the channel ended. */
static void completed(struct rf_request *request)
{
    struct work *work = request->context;
    /* If the cancel routine was taken, it runs or has run, and uses the work. */
    if (IoSetCancelRoutine(work->irp, NULL) != NULL || is_second(work)) {
        finish(work);
    }
}

static void cancel_answered(struct rf_request *request)
{
    heap_free(request);
}

/* Takes a work out of those that wait for their file. */
static bool withdraw(struct work *work)
{
    rf_acquire(&rf.lock);
    bool is_waiting = work->is_waiting;
    if (is_waiting) {
        struct file *file = work->file;
        struct work *before = NULL;
        for (struct work *at = file->first; at != work; at = at->next) {
            before = at;
        }
        *(before == NULL ? &file->first : &before->next) = work->next;
        if (file->last == work) {
            file->last = before;
        }
        work->is_waiting = false;
    }
    rf_unlock(&rf.lock);
    return is_waiting;
}

static void cancel_work(struct work *work)
{
    if (withdraw(work)) {
        work->request.status = (uint32_t)STATUS_CANCELLED;
        work->request.information = 0;
        finish(work);
        return;
    }
    struct rf_request *question = heap_allocate(sizeof *question);
    if (question != NULL) {
        question->complete = cancel_answered;
        rf_cancel(rf.channel, &work->request, question);
    }
    if (is_second(work)) {
        finish(work);
    }
}

static VOID NTAPI cancel(DEVICE_OBJECT *device, IRP *irp)
{
    (void)device;
    struct work *work = irp->Tail.Overlay.DriverContext[0];
    IoReleaseCancelSpinLock(irp->CancelIrql);
    driver_enter();
    cancel_work(work);
    driver_leave();
}

static void send(struct work *work)
{
    work->request.handle = work->file->handle;
    work->request.process = work->file->guest;
    rf_submit(rf.channel, &work->request);
}

NTSTATUS work_send(struct work *work)
{
    struct file *file = work->file;
    work->request.complete = completed;
    work->request.context = work;
    work->irp->Tail.Overlay.DriverContext[0] = work;
    IoMarkIrpPending(work->irp);
    /* Before anybody can complete it. Wine cancels on the thread that we are on: not before this returns. */
    IoSetCancelRoutine(work->irp, cancel);
    rf_acquire(&rf.lock);
    uint32_t state = file->state;
    if (state == STATE_OPENING) {
        work->is_waiting = true;
        if (file->first == NULL) {
            file->first = work;
        } else {
            file->last->next = work;
        }
        file->last = work;
    }
    rf_unlock(&rf.lock);
    if (state == STATE_OPENED) {
        send(work);
    } else if (state != STATE_OPENING) {
        work->request.status = (uint32_t)file->status;
        completed(&work->request);
    }
    return STATUS_PENDING;
}

void work_resume(struct work *first, NTSTATUS status)
{
    while (first != NULL) {
        struct work *next = first->next;
        if (status == STATUS_SUCCESS) {
            send(first);
        } else {
            first->request.status = (uint32_t)status;
            completed(&first->request);
        }
        first = next;
    }
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
    struct work *work = heap_allocate(sizeof *work);
    if (work == NULL) {
        return irp_complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    work->irp = irp;
    work->file = file;
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
    return work_send(work);
}
