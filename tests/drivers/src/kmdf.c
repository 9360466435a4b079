/* A KMDF driver of a control device. See ../include/kmdf.h. */
#include "driver.h"
#include "../include/kmdf.h"
#include "../conformance/kmdf.h"

#define STORE_BYTES 4096u
#define TAG 0x66646D6Bu /* "kmdf" */

/* The device's context. */
struct device {
    WDFHANDLE transfers, controls, waiting, timer, lock;
    WDFHANDLE timed; /* request that the timer completes; guarded by the lock */
    struct kmdf_state state;
    ULONG stored_bytes, inside;
    UCHAR store[STORE_BYTES];
};
/* A file's. */
struct file {
    ULONG requests;
};
/* A request's: the locked buffers of METHOD_NEITHER. */
struct request {
    WDFHANDLE input, output;
};
/* A work item's. */
struct work {
    WDFHANDLE request;
};

#define TYPE(name) \
    static const struct wdf_context_type name##_type = {sizeof(name##_type), #name, sizeof(struct name), &name##_type, NULL}
TYPE(device);
TYPE(file);
TYPE(request);
TYPE(work);

static WDFHANDLE control_device;

static struct device *device_of(WDFHANDLE device)
{
    return wdf_context(device, &device_type);
}

static VOID code_bytes(PUCHAR to, const UCHAR *from, SIZE_T length, ULONG key)
{
    for (SIZE_T i = 0; i < length; i++) {
        to[i] = (UCHAR)((from[i] ^ key) + i);
    }
}

static VOID end(WDFHANDLE request, NTSTATUS status, SIZE_T information)
{
    W3(VOID, WdfRequestCompleteWithInformation, request, status, information);
}

/* Completes a request that got a number with its complement. */
static VOID answer(WDFHANDLE request)
{
    ULONG *in, *out, number;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, sizeof(ULONG), &in, NULL);
    if (NT_SUCCESS(status)) {
        number = *in;
        status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, sizeof(ULONG), &out, NULL);
        if (NT_SUCCESS(status)) {
            *out = ~number;
        }
    }
    end(request, status, NT_SUCCESS(status) ? sizeof(ULONG) : 0);
}

static VOID enter(struct device *device)
{
    if (InterlockedIncrement((LONG *)&device->inside) != 1) {
        device->state.overlaps++;
    }
}

static VOID leave(struct device *device)
{
    InterlockedDecrement((LONG *)&device->inside);
}

static VOID NTAPI on_write(WDFHANDLE queue, WDFHANDLE request, SIZE_T length)
{
    struct device *device = device_of(W1(WDFHANDLE, WdfIoQueueGetDevice, queue));
    WDFHANDLE memory;
    NTSTATUS status = STATUS_INVALID_BUFFER_SIZE;
    enter(device);
    if (length <= STORE_BYTES) {
        status = W2(NTSTATUS, WdfRequestRetrieveInputMemory, request, &memory);
    }
    if (NT_SUCCESS(status)) {
        status = W4(NTSTATUS, WdfMemoryCopyToBuffer, memory, 0, device->store, length);
        device->stored_bytes = (ULONG)length;
    }
    leave(device);
    end(request, status, NT_SUCCESS(status) ? length : 0);
}

static VOID NTAPI on_read(WDFHANDLE queue, WDFHANDLE request, SIZE_T length)
{
    struct device *device = device_of(W1(WDFHANDLE, WdfIoQueueGetDevice, queue));
    UCHAR *out;
    SIZE_T bytes = length < device->stored_bytes ? length : device->stored_bytes;
    NTSTATUS status = STATUS_END_OF_FILE;
    enter(device);
    if (bytes != 0) {
        status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, bytes, &out, NULL);
    }
    if (NT_SUCCESS(status)) {
        code_bytes(out, device->store, bytes, KMDF_READ_KEY);
    }
    leave(device);
    end(request, status, NT_SUCCESS(status) ? bytes : 0);
}

/* KMDF_BUFFERED and KMDF_OUT_DIRECT. */
static VOID transfer(WDFHANDLE request, SIZE_T output, SIZE_T input, ULONG key)
{
    UCHAR *in, *out;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, 1, &in, NULL);
    SIZE_T bytes = output < input ? output : input;
    if (NT_SUCCESS(status)) {
        status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, 1, &out, NULL);
    }
    if (NT_SUCCESS(status)) {
        code_bytes(out, in, bytes, key);
    }
    end(request, status, NT_SUCCESS(status) ? bytes : 0);
}

static VOID transfer_in_direct(struct device *device, WDFHANDLE request)
{
    UCHAR *in, *second;
    SIZE_T bytes, second_bytes, i;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, 1, &in, &bytes);
    if (NT_SUCCESS(status)) {
        status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, 1, &second, &second_bytes);
    }
    if (NT_SUCCESS(status)) {
        device->state.sum = 0;
        for (i = 0; i < bytes; i++) {
            device->state.sum += in[i];
        }
        for (i = 0; i < second_bytes; i++) {
            device->state.sum += second[i];
        }
    }
    end(request, status, 0);
}

static VOID transfer_neither(WDFHANDLE request)
{
    struct request *locked = wdf_context(request, &request_type);
    SIZE_T input, output, bytes;
    UCHAR *in = W2(PVOID, WdfMemoryGetBuffer, locked->input, &input);
    UCHAR *out = W2(PVOID, WdfMemoryGetBuffer, locked->output, &output);
    bytes = output < input ? output : input;
    code_bytes(out, in, bytes, KMDF_KEY_NEITHER);
    end(request, STATUS_SUCCESS, bytes);
}

/* In the client's context: METHOD_NEITHER's addresses mean something only here. */
static VOID NTAPI in_caller_context(WDFHANDLE device, WDFHANDLE request)
{
    struct wdf_parameters parameters;
    struct request *locked = wdf_context(request, &request_type);
    PVOID user;
    SIZE_T bytes;
    NTSTATUS status = STATUS_SUCCESS;
    parameters.size = sizeof(parameters);
    W2(VOID, WdfRequestGetParameters, request, &parameters);
    if (parameters.type == IRP_MJ_DEVICE_CONTROL && (ULONG)parameters.words[2] == KMDF_NEITHER) {
        status = W4(NTSTATUS, WdfRequestRetrieveUnsafeUserInputBuffer, request, 1, &user, &bytes);
        if (NT_SUCCESS(status)) {
            status = W4(NTSTATUS, WdfRequestProbeAndLockUserBufferForRead, request, user, bytes, &locked->input);
        }
        if (NT_SUCCESS(status)) {
            status = W4(NTSTATUS, WdfRequestRetrieveUnsafeUserOutputBuffer, request, 1, &user, &bytes);
        }
        if (NT_SUCCESS(status)) {
            status = W4(NTSTATUS, WdfRequestProbeAndLockUserBufferForWrite, request, user, bytes, &locked->output);
        }
    }
    if (NT_SUCCESS(status)) {
        status = W2(NTSTATUS, WdfDeviceEnqueueRequest, device, request);
    }
    if (!NT_SUCCESS(status)) {
        end(request, status, 0);
    }
}

/* Takes the request that the timer is to complete, if it is this one (NULL: any). */
static WDFHANDLE take_timed(struct device *device, WDFHANDLE wanted)
{
    WDFHANDLE request;
    W1(VOID, WdfSpinLockAcquire, device->lock);
    request = device->timed;
    if (wanted == NULL || request == wanted) {
        device->timed = NULL;
    } else {
        request = NULL;
    }
    W1(VOID, WdfSpinLockRelease, device->lock);
    return request;
}

static VOID NTAPI on_cancel(WDFHANDLE request)
{
    struct device *device = device_of(control_device);
    if (take_timed(device, request) != NULL) {
        W2(BOOLEAN, WdfTimerStop, device->timer, FALSE);
        end(request, STATUS_CANCELLED, 0);
    }
}

static VOID NTAPI on_timer(WDFHANDLE timer)
{
    struct device *device = device_of(W1(WDFHANDLE, WdfTimerGetParentObject, timer));
    WDFHANDLE request;
    device->state.timers++;
    W1(VOID, WdfSpinLockAcquire, device->lock);
    request = device->timed;
    if (request != NULL && !NT_SUCCESS(W1(NTSTATUS, WdfRequestUnmarkCancelable, request))) {
        request = NULL; /* on_cancel's */
    } else {
        device->timed = NULL;
    }
    W1(VOID, WdfSpinLockRelease, device->lock);
    if (request != NULL) {
        answer(request);
    }
}

static VOID start_timer(struct device *device, WDFHANDLE request)
{
    ULONG *milliseconds;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, sizeof(ULONG), &milliseconds, NULL);
    if (NT_SUCCESS(status)) {
        LONGLONG due = -10000 * (LONGLONG)*milliseconds;
        W1(VOID, WdfSpinLockAcquire, device->lock);
        if (device->timed != NULL) {
            status = STATUS_DEVICE_BUSY;
        } else {
            status = W2(NTSTATUS, WdfRequestMarkCancelableEx, request, on_cancel);
        }
        if (NT_SUCCESS(status)) {
            device->timed = request;
        }
        W1(VOID, WdfSpinLockRelease, device->lock);
        if (NT_SUCCESS(status)) {
            ((BOOLEAN(NTAPI *)(PVOID, WDFHANDLE, LONGLONG))wdf_table[WdfTimerStart])(wdf_globals, device->timer, due);
            return;
        }
    }
    end(request, status, 0);
}

static VOID NTAPI on_work(WDFHANDLE item)
{
    struct work *work = wdf_context(item, &work_type);
    device_of(W1(WDFHANDLE, WdfWorkItemGetParentObject, item))->state.work_items++;
    answer(work->request);
    W1(VOID, WdfObjectDelete, item);
}

static VOID start_work(WDFHANDLE device, WDFHANDLE request)
{
    struct wdf_deferred_config config = {.size = 3 * sizeof(PVOID), .callback = on_work};
    struct wdf_attributes attributes = wdf_attributes(device, &work_type);
    WDFHANDLE item;
    NTSTATUS status = W3(NTSTATUS, WdfWorkItemCreate, &config, &attributes, &item);
    if (!NT_SUCCESS(status)) {
        end(request, status, 0);
        return;
    }
    ((struct work *)wdf_context(item, &work_type))->request = request;
    W1(VOID, WdfWorkItemEnqueue, item);
}

static VOID release_waiting(struct device *device, WDFHANDLE request)
{
    WDFHANDLE waiting;
    ULONG *out, count = 0;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, sizeof(ULONG), &out, NULL);
    if (NT_SUCCESS(status)) {
        while (NT_SUCCESS(W2(NTSTATUS, WdfIoQueueRetrieveNextRequest, device->waiting, &waiting))) {
            answer(waiting);
            count++;
        }
        *out = count;
    }
    end(request, status, NT_SUCCESS(status) ? sizeof(ULONG) : 0);
}

static NTSTATUS open_parameters(WDFHANDLE *key)
{
    return W4(NTSTATUS, WdfDriverOpenParametersRegistryKey, wdf_driver, KEY_READ, NULL, key);
}

static VOID query(struct device *device, WDFHANDLE request)
{
    struct kmdf_state *out;
    WDFHANDLE key, file = W1(WDFHANDLE, WdfRequestGetFileObject, request);
    UNICODE_STRING name;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, sizeof(*out), &out, NULL);
    if (NT_SUCCESS(status)) {
        *out = device->state;
        W3(ULONG, WdfIoQueueGetState, device->waiting, &out->waiting, NULL);
        out->own_requests = ((struct file *)wdf_context(file, &file_type))->requests;
        RtlInitUnicodeString(&name, L"Value");
        if (NT_SUCCESS(open_parameters(&key))) {
            W3(NTSTATUS, WdfRegistryQueryULong, key, &name, &out->parameter);
            W1(VOID, WdfRegistryClose, key);
        }
    }
    end(request, status, NT_SUCCESS(status) ? sizeof(*out) : 0);
}

static VOID query_string(WDFHANDLE request, SIZE_T output, SIZE_T input)
{
    PVOID in, out;
    WDFHANDLE key, string;
    UNICODE_STRING name, text = {0, 0, NULL};
    struct wdf_attributes attributes;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, 2, &in, NULL);
    if (NT_SUCCESS(status)) {
        status = W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, 1, &out, NULL);
    }
    if (NT_SUCCESS(status)) {
        status = open_parameters(&key);
    }
    if (NT_SUCCESS(status)) {
        name.Buffer = in;
        name.Length = name.MaximumLength = (USHORT)(input & 0x3FE);
        attributes = wdf_attributes(key, NULL);
        status = W3(NTSTATUS, WdfStringCreate, NULL, &attributes, &string);
        if (NT_SUCCESS(status)) {
            status = W3(NTSTATUS, WdfRegistryQueryString, key, &name, string);
        }
        if (NT_SUCCESS(status)) {
            W2(VOID, WdfStringGetUnicodeString, string, &text);
            status = text.Length <= output ? STATUS_SUCCESS : STATUS_BUFFER_TOO_SMALL;
        }
        if (NT_SUCCESS(status)) {
            RtlCopyMemory(out, text.Buffer, text.Length);
        }
        W1(VOID, WdfRegistryClose, key); /* and the string below it */
    }
    end(request, status, NT_SUCCESS(status) ? text.Length : 0);
}

static VOID set_queue(struct device *device, WDFHANDLE request)
{
    ULONG *in;
    NTSTATUS status = W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, sizeof(ULONG), &in, NULL);
    if (NT_SUCCESS(status) && *in == 0) {
        W3(VOID, WdfIoQueuePurge, device->waiting, NULL, NULL);
    } else if (NT_SUCCESS(status)) {
        W1(VOID, WdfIoQueueStart, device->waiting);
    }
    end(request, status, 0);
}

static VOID NTAPI on_control(WDFHANDLE queue, WDFHANDLE request, SIZE_T output, SIZE_T input, ULONG code)
{
    WDFHANDLE handle = W1(WDFHANDLE, WdfIoQueueGetDevice, queue);
    struct device *device = device_of(handle);
    NTSTATUS status;
    ((struct file *)wdf_context(W1(WDFHANDLE, WdfRequestGetFileObject, request), &file_type))->requests++;
    switch (code) {
    case KMDF_BUFFERED:
        transfer(request, output, input, KMDF_KEY_BUFFERED);
        break;
    case KMDF_IN_DIRECT:
        transfer_in_direct(device, request);
        break;
    case KMDF_OUT_DIRECT:
        transfer(request, output, input, KMDF_KEY_OUT_DIRECT);
        break;
    case KMDF_NEITHER:
        transfer_neither(request);
        break;
    case KMDF_QUERY:
        query(device, request);
        break;
    case KMDF_TIMER:
        start_timer(device, request);
        break;
    case KMDF_WORK:
        start_work(handle, request);
        break;
    case KMDF_WAIT:
        status = W2(NTSTATUS, WdfRequestForwardToIoQueue, request, device->waiting);
        if (!NT_SUCCESS(status)) {
            end(request, status, 0);
        }
        break;
    case KMDF_RELEASE:
        release_waiting(device, request);
        break;
    case KMDF_STRING:
        query_string(request, output, input);
        break;
    case KMDF_QUEUE:
        set_queue(device, request);
        break;
    default:
        end(request, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static VOID NTAPI on_create(WDFHANDLE device, WDFHANDLE request, WDFHANDLE file)
{
    PUNICODE_STRING name = W1(PUNICODE_STRING, WdfFileObjectGetFileName, file);
    BOOLEAN is_refused = name != NULL && name->Length != 0;
    if (!is_refused) {
        device_of(device)->state.opened++;
    }
    end(request, is_refused ? STATUS_OBJECT_NAME_NOT_FOUND : STATUS_SUCCESS, 0);
}

static VOID NTAPI on_file_cleanup(WDFHANDLE file)
{
    device_of(W1(WDFHANDLE, WdfFileObjectGetDevice, file))->state.cleaned++;
}

static VOID NTAPI on_file_close(WDFHANDLE file)
{
    device_of(W1(WDFHANDLE, WdfFileObjectGetDevice, file))->state.closed++;
}

/* The device's EvtCleanupCallback: its context is still there. */
static VOID NTAPI on_device_cleanup(WDFHANDLE device)
{
    DbgPrint("kmdf: %u timers, %u work items\n", device_of(device)->state.timers, device_of(device)->state.work_items);
}

static VOID NTAPI on_unload(WDFHANDLE driver)
{
    DbgPrint("kmdf: unloaded\n");
    (VOID)driver;
}

static NTSTATUS make_queues(WDFHANDLE handle, struct device *device)
{
    struct wdf_queue_config config = {.size = sizeof(config), .dispatch = 1, .read = on_read, .write = on_write};
    struct wdf_attributes attributes = wdf_attributes(NULL, NULL);
    NTSTATUS status;
    attributes.synchronization_scope = 3; /* queue */
    status = W4(NTSTATUS, WdfIoQueueCreate, handle, &config, &attributes, &device->transfers);
    if (NT_SUCCESS(status)) {
        status = W3(NTSTATUS, WdfDeviceConfigureRequestDispatching, handle, device->transfers, IRP_MJ_READ);
    }
    if (NT_SUCCESS(status)) {
        status = W3(NTSTATUS, WdfDeviceConfigureRequestDispatching, handle, device->transfers, IRP_MJ_WRITE);
    }
    if (NT_SUCCESS(status)) {
        struct wdf_queue_config controls = {
            .size = sizeof(controls), .dispatch = 2, .is_default = TRUE, .control = on_control, .presented = ~0u};
        status = W4(NTSTATUS, WdfIoQueueCreate, handle, &controls, NULL, &device->controls);
    }
    if (NT_SUCCESS(status)) {
        struct wdf_queue_config manual = {.size = sizeof(manual), .dispatch = 3};
        status = W4(NTSTATUS, WdfIoQueueCreate, handle, &manual, NULL, &device->waiting);
    }
    return status;
}

static NTSTATUS make_device(VOID)
{
    UNICODE_STRING sddl, name, link;
    struct wdf_file_config files = {
        .size = sizeof(files), .create = on_create, .close = on_file_close, .cleanup = on_file_cleanup, .file_class = 3};
    struct wdf_attributes attributes = wdf_attributes(NULL, &file_type);
    struct wdf_attributes of_requests = wdf_attributes(NULL, &request_type);
    struct wdf_deferred_config timer = {.size = sizeof(timer), .callback = on_timer, .serialize = TRUE};
    struct device *device;
    PVOID init;
    NTSTATUS status;
    RtlInitUnicodeString(&sddl, L"D:P(A;;GA;;;SY)(A;;GA;;;BA)");
    RtlInitUnicodeString(&name, L"\\Device\\kmdf");
    RtlInitUnicodeString(&link, L"\\DosDevices\\kmdf");
    init = W2(PVOID, WdfControlDeviceInitAllocate, wdf_driver, &sddl);
    if (init == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    W2(VOID, WdfDeviceInitSetIoType, init, 2);
    W3(VOID, WdfDeviceInitSetFileObjectConfig, init, &files, &attributes);
    W2(VOID, WdfDeviceInitSetRequestAttributes, init, &of_requests);
    W2(VOID, WdfDeviceInitSetIoInCallerContextCallback, init, in_caller_context);
    status = W2(NTSTATUS, WdfDeviceInitAssignName, init, &name);
    if (!NT_SUCCESS(status)) {
        W1(VOID, WdfDeviceInitFree, init);
        return status;
    }
    attributes = wdf_attributes(NULL, &device_type);
    attributes.cleanup = on_device_cleanup;
    status = W3(NTSTATUS, WdfDeviceCreate, &init, &attributes, &control_device);
    if (!NT_SUCCESS(status)) {
        W1(VOID, WdfDeviceInitFree, init);
        return status;
    }
    device = device_of(control_device);
    status = W2(NTSTATUS, WdfDeviceCreateSymbolicLink, control_device, &link);
    if (NT_SUCCESS(status)) {
        status = make_queues(control_device, device);
    }
    attributes = wdf_attributes(control_device, NULL);
    if (NT_SUCCESS(status)) {
        status = W3(NTSTATUS, WdfTimerCreate, &timer, &attributes, &device->timer);
    }
    if (NT_SUCCESS(status)) {
        status = W2(NTSTATUS, WdfSpinLockCreate, &attributes, &device->lock);
    }
    if (NT_SUCCESS(status) && wdf_of_context(device) != control_device) {
        status = STATUS_INTERNAL_ERROR;
    }
    if (NT_SUCCESS(status)) {
        W1(VOID, WdfControlFinishInitializing, control_device);
    } else {
        W1(VOID, WdfObjectDelete, control_device);
    }
    return status;
}

/* What follows is what Microsoft's WdfDriverEntry.lib does around a driver's own DriverEntry: FxDriverEntry binds, and
 * the driver's DriverUnload is called from one that unbinds. */
static PDRIVER_UNLOAD framework_unload;
static UNICODE_STRING registry_path;

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    if (framework_unload != NULL) {
        framework_unload(driver);
    }
    WdfVersionUnbind(&registry_path, &wdf_info, wdf_globals);
    ExFreePoolWithTag(registry_path.Buffer, TAG);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path)
{
    struct wdf_driver_config config = {sizeof(config), NULL, on_unload, 1, TAG};
    NTSTATUS status;
    registry_path.MaximumLength = path->Length;
    registry_path.Buffer = ExAllocatePoolWithTag(NonPagedPool, path->Length, TAG);
    if (registry_path.Buffer == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlCopyUnicodeString(&registry_path, path);
    status = WdfVersionBind(driver, &registry_path, &wdf_info, &wdf_globals);
    if (!NT_SUCCESS(status)) {
        ExFreePoolWithTag(registry_path.Buffer, TAG);
        return status;
    }
    status = W5(NTSTATUS, WdfDriverCreate, driver, path, NULL, &config, &wdf_driver);
    if (NT_SUCCESS(status)) {
        status = make_device();
    }
    if (!NT_SUCCESS(status)) {
        WdfVersionUnbind(&registry_path, &wdf_info, wdf_globals);
        ExFreePoolWithTag(registry_path.Buffer, TAG);
        return status;
    }
    framework_unload = driver->DriverUnload;
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
