/* Opening and closing. Wine does not wait for a driver's answer to IRP_MJ_CREATE: the program has its handle at once, and
 * what it sends before the driver has answered waits here. If the driver refuses, everything on that handle fails with its
 * status; CreateFile has succeeded. */
#include "driver.h"

static struct file *files;

/* An open or a close on its way: it has no IRP of its own that could be cancelled. */
struct open {
    struct rf_request request;
    struct file *file;
    IRP *irp;
    WCHAR name[300];
};

static void closed(struct rf_request *request)
{
    heap_free(request);
}

static void send_close(uint32_t guest, uint64_t handle)
{
    struct rf_request *request = heap_allocate(sizeof *request);
    if (request == NULL) {
        return; /* the handle goes with its process */
    }
    request->opcode = RF_OP_CLOSE;
    request->process = guest;
    request->handle = handle;
    request->complete = closed;
    rf_submit(rf.channel, request);
}

/* Takes a file out of the list and gives it back. The lock is held. */
static void forget(struct file *file)
{
    for (struct file **at = &files; *at != NULL; at = &(*at)->next) {
        if (*at == file) {
            *at = file->next;
            break;
        }
    }
    heap_free(file);
}

static void opened(struct rf_request *request)
{
    struct open *open = request->context;
    struct file *file = open->file;
    NTSTATUS status = status_for_programs(request->status);
    bool is_open = NT_SUCCESS(status);
    if (!is_open) {
        log_line("%w is not opened: status %x", open->name, (uint32_t)status);
    }
    rf_acquire(&rf.lock);
    bool is_gone = file->state == STATE_GONE;
    uint32_t guest = file->guest;
    struct work *waiting = file->first;
    for (struct work *work = waiting; work != NULL; work = work->next) {
        work->is_waiting = false;
    }
    file->first = file->last = NULL;
    file->handle = request->value;
    file->status = status;
    if (is_gone) {
        forget(file);
    } else {
        file->state = is_open ? STATE_OPENED : STATE_FAILED;
    }
    rf_unlock(&rf.lock);
    if (is_gone && is_open) {
        send_close(guest, request->value);
    }
    /* What waited on a handle that is closed meanwhile ends as the driver's cleanup would have ended it. */
    work_resume(waiting, !is_open ? status : is_gone ? STATUS_CANCELLED : STATUS_SUCCESS);
    IRP *irp = open->irp;
    ULONG_PTR information = (ULONG_PTR)request->information;
    heap_free(open);
    irp_complete(irp, status, information);
}

static void set_name(struct open *open, const WCHAR *name)
{
    size_t length = 0;
    while (name[length] != 0 && length < sizeof open->name / sizeof(WCHAR) - 1) {
        open->name[length] = name[length];
        length++;
    }
    open->request.input = open->name;
    open->request.input_bytes = (uint32_t)(length * sizeof(WCHAR));
}

NTSTATUS dispatch_create(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation(irp);
    if (ports_is(device)) {
        return irp_complete(irp, STATUS_SUCCESS, 0);
    }
    struct file *file = heap_allocate(sizeof *file);
    struct open *open = heap_allocate(sizeof *open);
    if (file == NULL || open == NULL || stack->FileObject == NULL) {
        heap_free(file);
        heap_free(open);
        return irp_complete(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    NTSTATUS status;
    const struct process *process = process_current(true, &status);
    stack->FileObject->FsContext = file;
    rf_acquire(&rf.lock);
    file->next = files;
    files = file;
    file->state = process == NULL ? STATE_FAILED : STATE_OPENING;
    file->status = status;
    file->guest = process == NULL ? 0 : process->guest;
    file->is_synchronous = (stack->Parameters.Create.Options & FILE_SYNCHRONOUS_IO_NONALERT) != 0;
    rf_unlock(&rf.lock);
    if (process == NULL) {
        heap_free(open);
        return irp_complete(irp, status, 0);
    }
    set_name(open, name_of_device(device));
    open->file = file;
    open->irp = irp;
    open->request.opcode = RF_OP_OPEN;
    open->request.process = file->guest;
    open->request.complete = opened;
    open->request.context = open;
    IoMarkIrpPending(irp);
    rf_submit(rf.channel, &open->request);
    return STATUS_PENDING;
}

NTSTATUS dispatch_close(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = IoGetCurrentIrpStackLocation(irp);
    struct file *file = stack->FileObject == NULL ? NULL : stack->FileObject->FsContext;
    if (ports_is(device) || file == NULL) {
        return irp_complete(irp, STATUS_SUCCESS, 0);
    }
    stack->FileObject->FsContext = NULL;
    rf_acquire(&rf.lock);
    uint32_t state = file->state;
    uint32_t guest = file->guest;
    uint64_t handle = file->handle;
    if (state == STATE_OPENING) {
        /* Closed when it is open. */
        file->state = STATE_GONE;
    } else {
        forget(file);
    }
    rf_unlock(&rf.lock);
    if (state == STATE_OPENED) {
        send_close(guest, handle);
    }
    return irp_complete(irp, STATUS_SUCCESS, 0);
}

void files_forget(void)
{
    while (files != NULL) {
        struct file *next = files->next;
        heap_free(files);
        files = next;
    }
}
