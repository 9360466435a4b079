/* Opening and closing. Wine does not wait for a driver's answer to IRP_MJ_CREATE: the program has its handle at once, and
 * what it sends before the driver has answered waits here. If the driver refuses, everything on that handle fails with its
 * status; CreateFile has succeeded. */
#include "driver.h"

static struct file *files;

/* An open on its way. Wine has no way to cancel it. */
struct open {
    struct work work;
    struct file *file;
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

/* The driver has answered, or nobody will. */
static void opened(struct rf_request *request)
{
    struct open *open = request->context;
    struct file *file = open->file;
    NTSTATUS status = status_for_programs(request->status);
    bool is_open = NT_SUCCESS(status);
    if (!is_open) {
        log_line("%w is not opened: status %x", open->name, (uint32_t)status);
    }
    bool is_gone, is_over;
    do {
        rf_acquire(&rf.lock);
        struct work *waiting = waiting_take(&file->waiting);
        is_gone = file->state == STATE_GONE;
        is_over = waiting == NULL;
        file->guest = request->process;
        file->handle = request->value;
        file->status = status;
        if (is_over && is_gone) {
            forget(file);
        } else if (is_over) {
            file->state = is_open ? STATE_OPENED : STATE_FAILED;
        }
        rf_unlock(&rf.lock);
        /* What waited on a handle that is closed meanwhile ends as the driver's cleanup would have ended it. */
        work_resume(waiting, !is_open ? status : is_gone ? STATUS_CANCELLED : STATUS_SUCCESS, request->process,
                    request->value);
    } while (!is_over);
    if (is_gone && is_open) {
        send_close(request->process, request->value);
    }
    IRP *irp = open->work.irp;
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
    open->work.request.input = open->name;
    open->work.request.input_bytes = (uint32_t)(length * sizeof(WCHAR));
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
    file->state = STATE_OPENING;
    file->is_synchronous = (stack->Parameters.Create.Options & FILE_SYNCHRONOUS_IO_NONALERT) != 0;
    stack->FileObject->FsContext = file;
    rf_acquire(&rf.lock);
    file->next = files;
    files = file;
    rf_unlock(&rf.lock);
    set_name(open, name_of_device(device));
    open->file = file;
    open->work.irp = irp;
    open->work.request.opcode = RF_OP_OPEN;
    open->work.request.complete = opened;
    open->work.request.context = open;
    IoMarkIrpPending(irp);
    process_send(&open->work, true);
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
