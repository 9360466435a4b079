/* Works: what IRPs come to. Some wait here before they are sent; each is cancelled wherever it is. */
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

/* IO_STATUS_BLOCK.Information. Wine copies so many bytes of the buffer to the program where the buffer is the system's,
 * whatever its size is. */
static ULONG_PTR information_of(const struct work *work)
{
    const struct rf_request *request = &work->request;
    if (request->opcode == RF_OP_SHARE) {
        return request->output_written == RF_TOKEN_BYTES ? work->answer_bytes : 0;
    }
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

/* Takes a work out of those that it waits among, if it does. */
static bool withdraw(struct work *work)
{
    rf_acquire(&rf.lock);
    struct waiting *waiting = work->waits_among;
    if (waiting != NULL) {
        struct work *before = NULL;
        for (struct work *at = waiting->first; at != work; at = at->next) {
            before = at;
        }
        *(before == NULL ? &waiting->first : &before->next) = work->next;
        if (waiting->last == work) {
            waiting->last = before;
        }
        work->waits_among = NULL;
    }
    rf_unlock(&rf.lock);
    return waiting != NULL;
}

static void cancel_work(struct work *work)
{
    if (withdraw(work)) {
        work->request.status = (uint32_t)STATUS_CANCELLED;
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

struct work *work_make(IRP *irp)
{
    struct work *work = heap_allocate(sizeof *work);
    if (work != NULL) {
        work->irp = irp;
        work->request.complete = completed;
        work->request.context = work;
    }
    return work;
}

struct work *work_for_token(IRP *irp, uint8_t token[RF_TOKEN_BYTES], uint32_t answer_bytes)
{
    struct work *work = work_make(irp);
    if (work != NULL) {
        work->request.opcode = RF_OP_SHARE;
        work->request.output = token;
        work->request.output_bytes = RF_TOKEN_BYTES;
        work->answer_bytes = answer_bytes;
    }
    return work;
}

void work_begin(struct work *work)
{
    work->irp->Tail.Overlay.DriverContext[0] = work;
    IoMarkIrpPending(work->irp);
    /* Wine cancels on the thread that we are on: not before the dispatch routine returns. */
    IoSetCancelRoutine(work->irp, cancel);
}

void work_wait(struct work *work, struct waiting *waiting)
{
    work->waits_among = waiting;
    work->next = NULL;
    *(waiting->first == NULL ? &waiting->first : &waiting->last->next) = work;
    waiting->last = work;
}

struct work *waiting_take(struct waiting *waiting)
{
    struct work *first = waiting->first;
    for (struct work *work = first; work != NULL; work = work->next) {
        work->waits_among = NULL;
    }
    waiting->first = waiting->last = NULL;
    return first;
}

void work_fail(struct work *work, NTSTATUS status)
{
    work->request.status = (uint32_t)status;
    work->request.complete(&work->request);
}

void work_send(struct work *work, uint32_t guest, uint64_t handle)
{
    work->request.process = guest;
    work->request.handle = handle;
    rf_submit(rf.channel, &work->request);
}

void work_resume(struct work *first, NTSTATUS status, uint32_t guest, uint64_t handle)
{
    while (first != NULL) {
        struct work *next = first->next;
        if (status == STATUS_SUCCESS) {
            work_send(first, guest, handle);
        } else {
            work_fail(first, status);
        }
        first = next;
    }
}
