/* DriverEntry, DriverUnload, and the keeper.
 *
 * Wine's services.exe has services of one load order group share a process, and ends it when the last of them has stopped.
 * The services of `ringfence wine install` are such a group, and have a copy of this image each, with its data. One service
 * more, the host, is started with the session and does nothing: while it runs, starting another one does not start a
 * process of Wine's. */
#include "driver.h"

struct driver rf;

static HANDLE keeper;
static HANDLE is_ready;
static NTSTATUS entry_status;

static VOID NTAPI pump(void *channel)
{
    rf_run(channel);
    event_set(rf.wake);
}

/* The question that is answered when the driver's names have changed. */
struct watch {
    struct rf_request request;
    bool is_answered;
};

static void watch_answered(struct rf_request *request)
{
    struct watch *watch = request->context;
    __atomic_store_n(&watch->is_answered, true, __ATOMIC_RELEASE);
    event_set(rf.wake);
}

static void watch_begin(struct watch *watch, uint64_t version)
{
    watch->is_answered = false;
    watch->request = (struct rf_request){
        .opcode = RF_OP_QUERY,
        .code = RF_QUERY_NAMES_CHANGED,
        .argument = version,
        .complete = watch_answered,
        .context = watch,
    };
    rf_submit(rf.channel, &watch->request);
}

/* Works until the service is stopped or the micro-VM is gone. */
static void keep(struct names *names)
{
    static struct watch watch;
    uint64_t version = 0;
    NTSTATUS not_made;
    NTSTATUS status = names_update(names, rf.object, rf.channel, &version, &not_made);
    if (NT_SUCCESS(status)) {
        /* A device's name that somebody else has: the driver's own DriverEntry would have failed with it. */
        status = not_made;
    }
    ports_create(rf.object);
    entry_status = status;
    event_set(is_ready);
    if (!NT_SUCCESS(status)) {
        return;
    }
    watch_begin(&watch, version);
    while (!rf.is_stopping && rf_end_status(rf.channel) == 0) {
        HANDLE handles[1 + PROCESSES_MAX];
        handles[0] = rf.wake;
        ULONG count = 1 + processes_handles(handles + 1);
        NTSTATUS which = ZwWaitForMultipleObjects(count, handles, WaitAny, FALSE, NULL);
        if (which > STATUS_WAIT_0 && (ULONG)which < count) {
            process_ended(handles[which]);
        }
        if (__atomic_load_n(&watch.is_answered, __ATOMIC_ACQUIRE) && watch.request.status == 0 && !rf.is_stopping) {
            if (NT_SUCCESS(names_update(names, rf.object, rf.channel, &version, &not_made))) {
                watch_begin(&watch, version);
            }
        }
    }
    /* The micro-VM is gone, or is about to be: from now on there is nothing to open. What is open is told why until the service is
     * stopped; Wine would say STATUS_FILE_DELETED for a device that is deleted. */
    names_remove_links(names);
    ports_remove_link();
}

static VOID NTAPI keeper_main(void *context)
{
    (void)context;
    static struct vm vm = {.pid = 0, .output = -1};
    static struct names names;
    NTSTATUS status = STATUS_UNSUCCESSFUL;
    vm.output = -1;
    rf.channel = vm_start(&vm, &rf.config, &status);
    HANDLE pump_thread = rf.channel == NULL ? NULL : thread_create(pump, rf.channel);
    if (pump_thread == NULL) {
        entry_status = rf.channel == NULL ? status : STATUS_INSUFFICIENT_RESOURCES;
        if (rf.channel != NULL) {
            rf_free(rf.channel);
            vm_stop(&vm, &rf.config);
        }
        event_set(is_ready);
        return;
    }
    keep(&names);
    if (rf_end_status(rf.channel) != 0) {
        vm_ended(&vm);
    }
    /* A micro-VM that is gone leaves its service running, until somebody stops it. */
    while (!rf.is_stopping && NT_SUCCESS(entry_status)) {
        wait_for(rf.wake);
    }
    rf_disconnect(rf.channel);
    wait_for(pump_thread);
    ZwClose(pump_thread);
    names_remove(&names);
    ports_remove();
    vm_stop(&vm, &rf.config);
    while (__atomic_load_n(&rf.users, __ATOMIC_SEQ_CST) != 0) {
        rf_syscall3(RF_NR_POLL, 0, 0, 1);
    }
    processes_forget();
    files_forget();
    rf_free(rf.channel);
    rf.channel = NULL;
}

static NTSTATUS NTAPI dispatch(DEVICE_OBJECT *device, IRP *irp)
{
    driver_enter();
    NTSTATUS status;
    switch (IoGetCurrentIrpStackLocation(irp)->MajorFunction) {
    case IRP_MJ_CREATE:
        status = dispatch_create(device, irp);
        break;
    case IRP_MJ_CLOSE:
        status = dispatch_close(device, irp);
        break;
    default:
        status = dispatch_transfer(device, irp);
        break;
    }
    driver_leave();
    return status;
}

static void close_handles(void)
{
    ZwClose(keeper);
    ZwClose(is_ready);
    ZwClose(rf.wake);
    /* The image may stay where it is, and be used again. */
    rf.object = NULL;
}

static VOID NTAPI unload(DRIVER_OBJECT *driver)
{
    (void)driver;
    rf.is_stopping = true;
    event_set(rf.wake);
    wait_for(keeper);
    close_handles();
    log_line("stopped");
}

static VOID NTAPI unload_host(DRIVER_OBJECT *driver)
{
    (void)driver;
}

NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    if (config_is_host(registry_path)) {
        driver->DriverUnload = unload_host;
        return STATUS_SUCCESS;
    }
    if (rf.object != NULL) {
        /* Intercepted drivers of one load order group share a process, and this image its data. */
        log_line("another service of the same load order group is in this process");
        return STATUS_IMAGE_ALREADY_LOADED;
    }
    rf_zero(&rf, sizeof rf);
    NTSTATUS status = config_read(&rf.config, registry_path);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    rf.object = driver;
    driver->DriverUnload = unload;
    static const UCHAR majors[] = {IRP_MJ_CREATE, IRP_MJ_CLOSE, IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_DEVICE_CONTROL,
                                   IRP_MJ_FLUSH_BUFFERS};
    for (size_t i = 0; i < sizeof majors; i++) {
        driver->MajorFunction[majors[i]] = dispatch;
    }
    rf.wake = event_create(SynchronizationEvent);
    is_ready = event_create(NotificationEvent);
    keeper = rf.wake == NULL || is_ready == NULL ? NULL : thread_create(keeper_main, NULL);
    if (keeper == NULL) {
        log_line("no event or thread can be made");
        rf.object = NULL;
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    wait_for(is_ready);
    if (!NT_SUCCESS(entry_status)) {
        wait_for(keeper);
        close_handles();
        return entry_status;
    }
    log_line("started");
    return STATUS_SUCCESS;
}
