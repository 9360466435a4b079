/* KMDF, bound by hand from a WDM driver: objects, memory, locks, timers, queues, requests.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"
#include "kmdf.h"

static WDFHANDLE device_handle, queue_handle, manual_handle;
static PDEVICE_OBJECT wdf_device, serial_device;
static PDRIVER_DISPATCH wdf_dispatch;
static WDFHANDLE kept_request;
static LONG counts[8]; /* cleanup, destroy, timer, dpc, work, control, cancel, unload */
static ULONG order[8], ordered;
static const struct wdf_context_type context_type = {sizeof(context_type), "CONTEXT", 24, &context_type, NULL};
static const struct wdf_context_type other_type = {sizeof(other_type), "OTHER", 8, &other_type, NULL};

static VOID NTAPI on_cleanup(WDFHANDLE object)
{
    (VOID)object;
    counts[0]++;
    order[ordered++ & 7] = (ULONG)(ULONG_PTR)object;
}
static VOID NTAPI on_destroy(WDFHANDLE object)
{
    (VOID)object;
    counts[1]++;
}
static VOID NTAPI on_timer(WDFHANDLE object)
{
    (VOID)object;
    counts[2]++;
}
static VOID NTAPI on_dpc(WDFHANDLE object)
{
    (VOID)object;
    counts[3] += KeGetCurrentIrql() == DISPATCH_LEVEL;
}
static VOID NTAPI on_work(WDFHANDLE object)
{
    (VOID)object;
    counts[4] += KeGetCurrentIrql() == PASSIVE_LEVEL;
}
static VOID NTAPI on_cancel(WDFHANDLE request)
{
    counts[6]++;
    W2(VOID, WdfRequestComplete, request, STATUS_CANCELLED);
}

#define ECHO CTL_CODE(FILE_DEVICE_UNKNOWN, 0x900, METHOD_BUFFERED, FILE_ANY_ACCESS)
#define KEEP CTL_CODE(FILE_DEVICE_UNKNOWN, 0x901, METHOD_BUFFERED, FILE_ANY_ACCESS)
#define FORWARD CTL_CODE(FILE_DEVICE_UNKNOWN, 0x902, METHOD_BUFFERED, FILE_ANY_ACCESS)

static VOID NTAPI on_control(WDFHANDLE queue, WDFHANDLE request, SIZE_T output, SIZE_T input, ULONG code)
{
    PVOID in = NULL, out = NULL;
    SIZE_T bytes = 0;
    WDFHANDLE memory = NULL, again = NULL;
    struct wdf_parameters parameters;
    counts[5]++;
    CHECK_PTR(queue, queue_handle);
    CHECK_PTR(W1(WDFHANDLE, WdfRequestGetIoQueue, request), queue);
    CHECK_EQ(W1(KPROCESSOR_MODE, WdfRequestGetRequestorMode, request), KernelMode);
    W2(VOID, WdfRequestGetParameters, request, &parameters);
    CHECK_EQ(parameters.type, IRP_MJ_DEVICE_CONTROL);
    CHECK_EQ(parameters.words[0], output);
    CHECK_EQ(parameters.words[1], input);
    CHECK_EQ((ULONG)parameters.words[2], code);
    if (code == KEEP) {
        kept_request = request;
        CHECK_STATUS(W2(NTSTATUS, WdfRequestMarkCancelableEx, request, on_cancel), STATUS_SUCCESS);
        return;
    }
    if (code == FORWARD) {
        CHECK_STATUS(W2(NTSTATUS, WdfRequestForwardToIoQueue, request, queue_handle), STATUS_INVALID_DEVICE_REQUEST);
        CHECK_STATUS(W2(NTSTATUS, WdfRequestForwardToIoQueue, request, manual_handle), STATUS_SUCCESS);
        return;
    }
    if (code != ECHO) {
        W2(VOID, WdfRequestComplete, request, STATUS_INVALID_DEVICE_REQUEST);
        return;
    }
    CHECK_STATUS(W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, input + 1, &in, &bytes), STATUS_BUFFER_TOO_SMALL);
    CHECK_PTR(in, NULL);
    CHECK_STATUS(W4(NTSTATUS, WdfRequestRetrieveInputBuffer, request, input, &in, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, input);
    CHECK_STATUS(W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, 4, &out, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, output);
    CHECK_PTR(in, out);
    CHECK_STATUS(W4(NTSTATUS, WdfRequestRetrieveOutputBuffer, request, output + 1, &out, &bytes), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(W4(NTSTATUS, WdfRequestRetrieveUnsafeUserInputBuffer, request, 1, &out, &bytes),
                 STATUS_INVALID_DEVICE_REQUEST);
    CHECK_STATUS(W2(NTSTATUS, WdfRequestRetrieveInputMemory, request, &memory), STATUS_SUCCESS);
    CHECK_STATUS(W2(NTSTATUS, WdfRequestRetrieveInputMemory, request, &again), STATUS_SUCCESS);
    CHECK_PTR(memory, again);
    CHECK_PTR(W2(PVOID, WdfMemoryGetBuffer, memory, &bytes), in);
    CHECK_EQ(bytes, input);
    CHECK_EQ(W1(BOOLEAN, WdfRequestIsCanceled, request), FALSE);
    CHECK_STATUS(W1(NTSTATUS, WdfRequestUnmarkCancelable, request), STATUS_INVALID_DEVICE_REQUEST);
    *(ULONG *)in += 1;
    W2(VOID, WdfRequestSetInformation, request, 4);
    CHECK_EQ(W1(ULONG_PTR, WdfRequestGetInformation, request), 4);
    W3(VOID, WdfRequestCompleteWithInformation, request, STATUS_SUCCESS, 4);
}

static NTSTATUS NTAPI route(PDEVICE_OBJECT device, PIRP irp)
{
    if (device == wdf_device || device == serial_device) {
        return wdf_dispatch(device, irp);
    }
    return IoGetCurrentIrpStackLocation(irp)->MajorFunction == IRP_MJ_DEVICE_CONTROL ? ktest_control(device, irp)
                                                                                     : ktest_dispatch(device, irp);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    WdfVersionUnbind(&ktest_registry_path, &wdf_info, wdf_globals);
    ktest_unload(driver);
}

/* Binds and makes driver, device and queues, once. */
static VOID bind(VOID)
{
    struct wdf_driver_config config = {sizeof(config), NULL, NULL, 1, 0};
    struct wdf_queue_config queue = {.size = sizeof(queue), .dispatch = 1, .is_default = TRUE, .control = on_control};
    UNICODE_STRING path, sddl, name;
    PVOID init;
    ULONG i;
    if (wdf_driver != NULL) {
        return;
    }
    RtlInitUnicodeString(&path, L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\kmdf");
    RtlInitUnicodeString(&sddl, L"D:P(A;;GA;;;SY)");
    RtlInitUnicodeString(&name, L"\\Device\\kmdftest");
    CHECK_STATUS(WdfVersionBind(ktest_driver, &path, &wdf_info, &wdf_globals), STATUS_SUCCESS);
    CHECK_STATUS(W5(NTSTATUS, WdfDriverCreate, ktest_driver, &path, NULL, &config, &wdf_driver), STATUS_SUCCESS);
    CHECK_PTR(*(PVOID *)wdf_globals, wdf_driver);
    wdf_dispatch = ktest_driver->MajorFunction[IRP_MJ_READ];
    for (i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        ktest_driver->MajorFunction[i] = route;
    }
    ktest_driver->DriverUnload = unload;
    init = W2(PVOID, WdfControlDeviceInitAllocate, wdf_driver, &sddl);
    CHECK(init != NULL);
    CHECK_STATUS(W2(NTSTATUS, WdfDeviceInitAssignName, init, &name), STATUS_SUCCESS);
    CHECK_STATUS(W3(NTSTATUS, WdfDeviceCreate, &init, NULL, &device_handle), STATUS_SUCCESS);
    CHECK_PTR(init, NULL);
    wdf_device = W1(PDEVICE_OBJECT, WdfDeviceWdmGetDeviceObject, device_handle);
    CHECK_PTR(wdf_device->DriverObject, ktest_driver);
    CHECK_PTR(W1(WDFHANDLE, WdfDeviceGetDefaultQueue, device_handle), NULL);
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, device_handle, &queue, NULL, &queue_handle), STATUS_SUCCESS);
    CHECK_PTR(W1(WDFHANDLE, WdfDeviceGetDefaultQueue, device_handle), queue_handle);
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, device_handle, &queue, NULL, &manual_handle), STATUS_UNSUCCESSFUL);
    queue.is_default = FALSE;
    queue.control = NULL;
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, device_handle, &queue, NULL, &manual_handle), 0xC020020B);
    queue.dispatch = 3;
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, device_handle, &queue, NULL, &manual_handle), STATUS_SUCCESS);
    W1(VOID, WdfControlFinishInitializing, device_handle);
    CHECK_EQ(wdf_device->Flags & DO_DEVICE_INITIALIZING, 0);
}

static struct sending {
    KEVENT event;
    IO_STATUS_BLOCK block;
    ULONG data[2];
} sent, sent_other;

static PIRP send_for(struct sending *sending, PFILE_OBJECT file, ULONG code, NTSTATUS *status)
{
    PIRP irp;
    KeInitializeEvent(&sending->event, NotificationEvent, FALSE);
    irp = IoBuildDeviceIoControlRequest(code, wdf_device, sending->data, 8, sending->data, 8, FALSE, &sending->event,
                                        &sending->block);
    IoGetNextIrpStackLocation(irp)->FileObject = file;
    *status = IoCallDriver(wdf_device, irp);
    return irp;
}

static PIRP send(ULONG code, NTSTATUS *status)
{
    return send_for(&sent, NULL, code, status);
}

KTEST(kmdf_bind)
{
    struct wdf_bind_info bad = wdf_info;
    PVOID globals;
    UNICODE_STRING path;
    struct {
        ULONG size, major, minor;
    } version = {12, 1, 15};
    bind();
    RtlInitUnicodeString(&path, L"x");
    bad.function_count = 400;
    CHECK_STATUS(WdfVersionBind(ktest_driver, &path, &bad, &globals), STATUS_REVISION_MISMATCH);
    bad = wdf_info;
    bad.major = 2;
    CHECK_STATUS(WdfVersionBind(ktest_driver, &path, &bad, &globals), STATUS_REVISION_MISMATCH);
    bad = wdf_info;
    bad.function_table = NULL;
    CHECK_STATUS(WdfVersionBind(ktest_driver, &path, &bad, &globals), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(WdfVersionBind(ktest_driver, &path, NULL, &globals), STATUS_INVALID_PARAMETER);
    CHECK_EQ(W2(BOOLEAN, WdfDriverIsVersionAvailable, wdf_driver, &version), TRUE);
    version.minor = 99;
    CHECK_EQ(W2(BOOLEAN, WdfDriverIsVersionAvailable, wdf_driver, &version), FALSE);
    CHECK_PTR(W1(PVOID, WdfDriverWdmGetDriverObject, wdf_driver), ktest_driver);
    CHECK_PTR(W1(PVOID, WdfDeviceGetDriver, device_handle), wdf_driver);
    CHECK_EQ(W1(PWSTR, WdfDriverGetRegistryPath, wdf_driver)[0], L'\\');
}

KTEST(kmdf_objects)
{
    WDFHANDLE parent, child;
    PVOID context, other = NULL;
    struct wdf_attributes attributes = wdf_attributes(NULL, &context_type);
    bind();
    attributes.cleanup = on_cleanup;
    attributes.destroy = on_destroy;
    counts[0] = counts[1] = 0;
    ordered = 0;
    CHECK_STATUS(W2(NTSTATUS, WdfObjectCreate, &attributes, &parent), STATUS_SUCCESS);
    attributes.parent = parent;
    CHECK_STATUS(W2(NTSTATUS, WdfObjectCreate, &attributes, &child), STATUS_SUCCESS);
    context = wdf_context(child, &context_type);
    CHECK(context != NULL);
    CHECK_EQ(((ULONG *)context)[5], 0);
    CHECK(context != wdf_context(parent, &context_type));
    CHECK_PTR(wdf_context(child, &other_type), NULL);
    CHECK_PTR(wdf_of_context(context), child);
    attributes = wdf_attributes(NULL, &other_type);
    CHECK_STATUS(W3(NTSTATUS, WdfObjectAllocateContext, child, &attributes, &other), STATUS_SUCCESS);
    CHECK_PTR(wdf_context(child, &other_type), other);
    CHECK_STATUS(W3(NTSTATUS, WdfObjectAllocateContext, child, &attributes, &context), STATUS_OBJECT_NAME_EXISTS);
    CHECK_PTR(context, other);
    attributes.type = NULL;
    CHECK_STATUS(W3(NTSTATUS, WdfObjectAllocateContext, child, &attributes, &context), STATUS_OBJECT_NAME_INVALID);
    attributes.size = 4;
    CHECK_STATUS(W2(NTSTATUS, WdfObjectCreate, &attributes, &context), STATUS_INFO_LENGTH_MISMATCH);
    attributes = wdf_attributes(NULL, NULL);
    attributes.context_size = 100;
    CHECK_STATUS(W2(NTSTATUS, WdfObjectCreate, &attributes, &context), 0xC0200209);
    W4(VOID, WdfObjectReferenceActual, child, NULL, 0, NULL);
    W1(VOID, WdfObjectDelete, parent);
    CHECK_EQ(counts[0], 2);
    CHECK_EQ(order[0], (ULONG)(ULONG_PTR)child);
    CHECK_EQ(order[1], (ULONG)(ULONG_PTR)parent);
    CHECK_EQ(counts[1], 1);
    CHECK_PTR(wdf_context(child, &other_type), other);
    W4(VOID, WdfObjectDereferenceActual, child, NULL, 0, NULL);
    CHECK_EQ(counts[1], 2);
}

KTEST(kmdf_memory)
{
    WDFHANDLE memory;
    UCHAR buffer[16] = "0123456789abcde", copy[16] = {0};
    PVOID data = NULL;
    SIZE_T bytes = 0;
    bind();
    CHECK_STATUS(W6(NTSTATUS, WdfMemoryCreate, NULL, NonPagedPool, 0x74736554, 0, &memory, &data), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(W6(NTSTATUS, WdfMemoryCreate, NULL, NonPagedPool, 0x74736554, 16, &memory, &data), STATUS_SUCCESS);
    CHECK_PTR(W2(PVOID, WdfMemoryGetBuffer, memory, &bytes), data);
    CHECK_EQ(bytes, 16);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyFromBuffer, memory, 0, buffer, 16), STATUS_SUCCESS);
    CHECK_MEM(data, buffer, 16);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyFromBuffer, memory, 1, buffer, 16), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyFromBuffer, memory, ~(ULONG_PTR)0, buffer, 16), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyToBuffer, memory, 12, copy, 4), STATUS_SUCCESS);
    CHECK_MEM(copy, buffer + 12, 4);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyToBuffer, memory, 12, copy, 5), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCopyToBuffer, memory, 0, copy, 0), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(W3(NTSTATUS, WdfMemoryAssignBuffer, memory, copy, 4), STATUS_INVALID_DEVICE_REQUEST);
    W1(VOID, WdfObjectDelete, memory);
    CHECK_STATUS(W4(NTSTATUS, WdfMemoryCreatePreallocated, NULL, buffer, 8, &memory), STATUS_SUCCESS);
    CHECK_PTR(W2(PVOID, WdfMemoryGetBuffer, memory, &bytes), buffer);
    CHECK_STATUS(W3(NTSTATUS, WdfMemoryAssignBuffer, memory, copy, 4), STATUS_SUCCESS);
    CHECK_PTR(W2(PVOID, WdfMemoryGetBuffer, memory, &bytes), copy);
    CHECK_EQ(bytes, 4);
    W1(VOID, WdfObjectDelete, memory);
}

KTEST(kmdf_deferred)
{
    WDFHANDLE timer, dpc, work;
    struct wdf_deferred_config config = {.size = sizeof(config), .callback = on_timer};
    struct wdf_attributes attributes = wdf_attributes(NULL, NULL);
    LARGE_INTEGER delay = {.QuadPart = -50000};
    KIRQL irql;
    bind();
    counts[2] = counts[3] = counts[4] = 0;
    CHECK_STATUS(W3(NTSTATUS, WdfTimerCreate, &config, &attributes, &timer), 0xC0200212);
    attributes.parent = device_handle;
    CHECK_STATUS(W3(NTSTATUS, WdfTimerCreate, &config, &attributes, &timer), STATUS_SUCCESS);
    CHECK_PTR(W1(PVOID, WdfTimerGetParentObject, timer), device_handle);
    CHECK_EQ(((BOOLEAN(NTAPI *)(PVOID, PVOID, LONGLONG))wdf_table[WdfTimerStart])(wdf_globals, timer, -1000), FALSE);
    KeDelayExecutionThread(KernelMode, FALSE, &delay);
    CHECK_EQ(counts[2], 1);
    ((BOOLEAN(NTAPI *)(PVOID, PVOID, LONGLONG))wdf_table[WdfTimerStart])(wdf_globals, timer, -100000000);
    CHECK_EQ(W2(BOOLEAN, WdfTimerStop, timer, TRUE), TRUE);
    CHECK_EQ(W2(BOOLEAN, WdfTimerStop, timer, FALSE), FALSE);
    config.callback = on_dpc;
    CHECK_STATUS(W3(NTSTATUS, WdfDpcCreate, &config, &attributes, &dpc), STATUS_SUCCESS);
    irql = KfRaiseIrql(DISPATCH_LEVEL);
    CHECK_EQ(W1(BOOLEAN, WdfDpcEnqueue, dpc), TRUE);
    CHECK_EQ(W1(BOOLEAN, WdfDpcEnqueue, dpc), FALSE);
    CHECK_EQ(W2(BOOLEAN, WdfDpcCancel, dpc, FALSE), TRUE);
    CHECK_EQ(W2(BOOLEAN, WdfDpcCancel, dpc, FALSE), FALSE);
    CHECK_EQ(W1(BOOLEAN, WdfDpcEnqueue, dpc), TRUE);
    KeLowerIrql(irql);
    CHECK_EQ(counts[3], 1);
    config.callback = on_work;
    CHECK_STATUS(W3(NTSTATUS, WdfWorkItemCreate, &config, &attributes, &work), STATUS_SUCCESS);
    W1(VOID, WdfWorkItemEnqueue, work);
    W1(VOID, WdfWorkItemFlush, work);
    CHECK_EQ(counts[4], 1);
    W1(VOID, WdfObjectDelete, timer);
    W1(VOID, WdfObjectDelete, dpc);
    W1(VOID, WdfObjectDelete, work);
}

KTEST(kmdf_sync)
{
    WDFHANDLE lock, spin, collection, string;
    LONGLONG none = 0;
    UNICODE_STRING text, got;
    bind();
    CHECK_STATUS(W2(NTSTATUS, WdfWaitLockCreate, NULL, &lock), STATUS_SUCCESS);
    CHECK_STATUS(W2(NTSTATUS, WdfWaitLockAcquire, lock, NULL), STATUS_SUCCESS);
    W1(VOID, WdfWaitLockRelease, lock);
    CHECK_STATUS(W2(NTSTATUS, WdfWaitLockAcquire, lock, &none), STATUS_SUCCESS);
    W1(VOID, WdfWaitLockRelease, lock);
    CHECK_STATUS(W2(NTSTATUS, WdfSpinLockCreate, NULL, &spin), STATUS_SUCCESS);
    W1(VOID, WdfSpinLockAcquire, spin);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    W1(VOID, WdfSpinLockRelease, spin);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_STATUS(W2(NTSTATUS, WdfCollectionCreate, NULL, &collection), STATUS_SUCCESS);
    CHECK_PTR(W1(PVOID, WdfCollectionGetFirstItem, collection), NULL);
    CHECK_STATUS(W2(NTSTATUS, WdfCollectionAdd, collection, lock), STATUS_SUCCESS);
    CHECK_STATUS(W2(NTSTATUS, WdfCollectionAdd, collection, spin), STATUS_SUCCESS);
    CHECK_EQ(W1(ULONG, WdfCollectionGetCount, collection), 2);
    CHECK_PTR(W1(PVOID, WdfCollectionGetFirstItem, collection), lock);
    CHECK_PTR(W1(PVOID, WdfCollectionGetLastItem, collection), spin);
    CHECK_PTR(W2(PVOID, WdfCollectionGetItem, collection, 2), NULL);
    W2(VOID, WdfCollectionRemove, collection, lock);
    CHECK_PTR(W2(PVOID, WdfCollectionGetItem, collection, 0), spin);
    W2(VOID, WdfCollectionRemoveItem, collection, 0);
    CHECK_EQ(W1(ULONG, WdfCollectionGetCount, collection), 0);
    RtlInitUnicodeString(&text, L"text");
    CHECK_STATUS(W3(NTSTATUS, WdfStringCreate, &text, NULL, &string), STATUS_SUCCESS);
    W2(VOID, WdfStringGetUnicodeString, string, &got);
    CHECK_EQ(got.Length, 8);
    CHECK_MEM(got.Buffer, text.Buffer, 8);
    W1(VOID, WdfObjectDelete, string);
    W1(VOID, WdfObjectDelete, collection);
    W1(VOID, WdfObjectDelete, spin);
    W1(VOID, WdfObjectDelete, lock);
}

KTEST(kmdf_requests)
{
    NTSTATUS status;
    PIRP irp;
    WDFHANDLE request = NULL;
    ULONG waiting = 9, owned = 9;
    bind();
    counts[5] = counts[6] = 0;
    sent.data[0] = 41;
    send(ECHO, &status);
    CHECK_STATUS(status, STATUS_PENDING);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_STATUS(sent.block.Status, STATUS_SUCCESS);
    CHECK_EQ(sent.block.Information, 4);
    CHECK_EQ(sent.data[0], 42);
    CHECK_EQ(counts[5], 1);
    irp = send(KEEP, &status);
    CHECK_STATUS(status, STATUS_PENDING);
    CHECK_EQ(W3(ULONG, WdfIoQueueGetState, queue_handle, &waiting, &owned), 7);
    CHECK_EQ(waiting, 0);
    CHECK_EQ(owned, 1);
    CHECK_EQ(IoCancelIrp(irp), TRUE);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_STATUS(sent.block.Status, STATUS_CANCELLED);
    CHECK_EQ(counts[6], 1);
    send(KEEP, &status);
    CHECK_STATUS(W1(NTSTATUS, WdfRequestUnmarkCancelable, kept_request), STATUS_SUCCESS);
    W2(VOID, WdfRequestComplete, kept_request, STATUS_NO_SUCH_DEVICE);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_EQ(W3(ULONG, WdfIoQueueGetState, queue_handle, NULL, NULL), 15);
    CHECK_STATUS(W2(NTSTATUS, WdfIoQueueRetrieveNextRequest, manual_handle, &request), STATUS_NO_MORE_ENTRIES);
    CHECK_PTR(request, NULL);
    send(FORWARD, &status);
    CHECK_EQ(W3(ULONG, WdfIoQueueGetState, manual_handle, &waiting, &owned), 11);
    CHECK_EQ(waiting, 1);
    CHECK_STATUS(W2(NTSTATUS, WdfIoQueueRetrieveNextRequest, manual_handle, &request), STATUS_SUCCESS);
    CHECK_STATUS(W1(NTSTATUS, WdfRequestRequeue, request), STATUS_SUCCESS);
    W1(VOID, WdfIoQueuePurgeSynchronously, manual_handle);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_STATUS(sent.block.Status, STATUS_CANCELLED);
    W1(VOID, WdfIoQueueStart, manual_handle);
    CHECK_EQ(W3(ULONG, WdfIoQueueGetState, manual_handle, NULL, NULL), 15);
}

/* Cleanup cancels what waits for the file, and nothing else. */
KTEST(kmdf_files)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    IO_STATUS_BLOCK block;
    HANDLE handle = NULL;
    PFILE_OBJECT file = NULL;
    WDFHANDLE wdf_file, request = NULL;
    NTSTATUS status;
    ULONG waiting = 9;
    bind();
    RtlInitUnicodeString(&name, L"\\Device\\kmdftest");
    InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE, NULL, NULL);
    CHECK_STATUS(ZwCreateFile(&handle, GENERIC_READ, &attributes, &block, NULL, 0, 0, FILE_OPEN, 0, NULL, 0),
                 STATUS_SUCCESS);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, 0, NULL, KernelMode, (PVOID *)&file, NULL), STATUS_SUCCESS);
    wdf_file = W2(WDFHANDLE, WdfDeviceGetFileObject, device_handle, file);
    CHECK(wdf_file != NULL);
    CHECK_PTR(W1(PVOID, WdfFileObjectWdmGetFileObject, wdf_file), file);
    CHECK_PTR(W1(PVOID, WdfFileObjectGetDevice, wdf_file), device_handle);
    send_for(&sent, file, FORWARD, &status);
    CHECK_STATUS(status, STATUS_PENDING);
    send_for(&sent_other, NULL, FORWARD, &status);
    CHECK_STATUS(status, STATUS_PENDING);
    W3(ULONG, WdfIoQueueGetState, manual_handle, &waiting, NULL);
    CHECK_EQ(waiting, 2);
    CHECK_EQ(KeReadStateEvent(&sent.event), 0);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    CHECK_STATUS(KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK_STATUS(sent.block.Status, STATUS_CANCELLED);
    W3(ULONG, WdfIoQueueGetState, manual_handle, &waiting, NULL);
    CHECK_EQ(waiting, 1);
    CHECK_EQ(KeReadStateEvent(&sent_other.event), 0);
    CHECK_STATUS(W3(NTSTATUS, WdfIoQueueRetrieveRequestByFileObject, manual_handle, wdf_file, &request),
                 STATUS_NO_MORE_ENTRIES);
    CHECK_STATUS(W2(NTSTATUS, WdfIoQueueRetrieveNextRequest, manual_handle, &request), STATUS_SUCCESS);
    CHECK_PTR(W1(WDFHANDLE, WdfRequestGetFileObject, request), NULL);
    W2(VOID, WdfRequestComplete, request, STATUS_SUCCESS);
    KeWaitForSingleObject(&sent_other.event, Executive, KernelMode, FALSE, NULL);
    CHECK_STATUS(sent_other.block.Status, STATUS_SUCCESS);
    CHECK_PTR(W2(WDFHANDLE, WdfDeviceGetFileObject, device_handle, file), wdf_file);
    ObDereferenceObject(file);
    CHECK_PTR(W2(WDFHANDLE, WdfDeviceGetFileObject, device_handle, file), NULL);
}

/* SynchronizationScope: callbacks of one lock never overlap, and a request that would makes the queue wait for them. */
#define NEST CTL_CODE(FILE_DEVICE_UNKNOWN, 0x910, METHOD_BUFFERED, FILE_ANY_ACCESS)
#define LEAF CTL_CODE(FILE_DEVICE_UNKNOWN, 0x911, METHOD_BUFFERED, FILE_ANY_ACCESS)

static struct serial {
    WDFHANDLE device, queue, other;
    PDEVICE_OBJECT object;
    LONG inside, overlaps, calls, forwarded;
    KIRQL irql, other_irql;
} serial;

static VOID NTAPI serial_other(WDFHANDLE queue, WDFHANDLE request, SIZE_T output, SIZE_T input, ULONG code)
{
    (VOID)queue, (VOID)output, (VOID)input, (VOID)code;
    serial.overlaps += serial.inside != 0;
    serial.other_irql = KeGetCurrentIrql();
    serial.forwarded++;
    W3(VOID, WdfRequestCompleteWithInformation, request, STATUS_SUCCESS, 0);
}

static VOID NTAPI serial_control(WDFHANDLE queue, WDFHANDLE request, SIZE_T output, SIZE_T input, ULONG code)
{
    (VOID)queue, (VOID)output, (VOID)input;
    serial.overlaps += serial.inside++ != 0;
    serial.calls++;
    serial.irql = KeGetCurrentIrql();
    if (code == NEST) {
        /* The other queue has the same lock: nothing of it is presented before this callback returns. */
        CHECK_STATUS(W2(NTSTATUS, WdfRequestForwardToIoQueue, request, serial.other), STATUS_SUCCESS);
        CHECK_EQ(serial.forwarded, 0);
    } else {
        W3(VOID, WdfRequestCompleteWithInformation, request, STATUS_SUCCESS, 0);
    }
    serial.inside--;
}

static VOID serial_make(ULONG level, ULONG scope, PCWSTR path)
{
    UNICODE_STRING sddl, name;
    struct wdf_attributes attributes = wdf_attributes(NULL, NULL);
    struct wdf_queue_config queue = {.size = sizeof(queue), .dispatch = 2, .presented = ~0u, .is_default = TRUE};
    PVOID init;
    bind();
    RtlZeroMemory(&serial, sizeof(serial));
    RtlInitUnicodeString(&sddl, L"D:P(A;;GA;;;SY)");
    RtlInitUnicodeString(&name, path);
    init = W2(PVOID, WdfControlDeviceInitAllocate, wdf_driver, &sddl);
    CHECK_STATUS(W2(NTSTATUS, WdfDeviceInitAssignName, init, &name), STATUS_SUCCESS);
    attributes.execution_level = level;
    attributes.synchronization_scope = scope;
    CHECK_STATUS(W3(NTSTATUS, WdfDeviceCreate, &init, &attributes, &serial.device), STATUS_SUCCESS);
    serial.object = W1(PDEVICE_OBJECT, WdfDeviceWdmGetDeviceObject, serial.device);
    serial_device = serial.object;
    queue.control = serial_control;
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, serial.device, &queue, NULL, &serial.queue), STATUS_SUCCESS);
    queue.control = serial_other;
    queue.is_default = FALSE;
    CHECK_STATUS(W4(NTSTATUS, WdfIoQueueCreate, serial.device, &queue, NULL, &serial.other), STATUS_SUCCESS);
    W1(VOID, WdfControlFinishInitializing, serial.device);
}

static NTSTATUS serial_start(struct sending *sending, ULONG code)
{
    PIRP irp;
    KeInitializeEvent(&sending->event, NotificationEvent, FALSE);
    irp = IoBuildDeviceIoControlRequest(code, serial.object, NULL, 0, NULL, 0, FALSE, &sending->event, &sending->block);
    return IoCallDriver(serial.object, irp);
}

static VOID serial_send(ULONG code)
{
    serial_start(&sent, code);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_STATUS(sent.block.Status, STATUS_SUCCESS);
}

/* Device scope: at DISPATCH_LEVEL unless the execution level is passive. */
KTEST(kmdf_scope_device)
{
    serial_make(1, 2, L"\\Device\\kmdfscope1");
    serial_send(LEAF);
    CHECK_EQ(serial.irql, DISPATCH_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    serial_send(NEST);
    CHECK_EQ(serial.calls, 2);
    CHECK_EQ(serial.forwarded, 1);
    CHECK_EQ(serial.other_irql, DISPATCH_LEVEL);
    CHECK_EQ(serial.overlaps, 0);
    W1(VOID, WdfObjectAcquireLock, serial.queue);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    W1(VOID, WdfObjectReleaseLock, serial.device);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    W1(VOID, WdfObjectDelete, serial.device);
}

KTEST(kmdf_scope_device_passive)
{
    serial_make(2, 2, L"\\Device\\kmdfscope2");
    serial_send(LEAF);
    CHECK_EQ(serial.irql, PASSIVE_LEVEL);
    serial_send(NEST);
    CHECK_EQ(serial.forwarded, 1);
    CHECK_EQ(serial.other_irql, PASSIVE_LEVEL);
    CHECK_EQ(serial.overlaps, 0);
    W1(VOID, WdfObjectAcquireLock, serial.device);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    /* The lock is this thread's: the request waits for it, and is presented later. */
    serial_start(&sent, LEAF);
    CHECK_EQ(serial.calls, 2);
    W1(VOID, WdfObjectReleaseLock, serial.device);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_EQ(serial.calls, 3);
    W1(VOID, WdfObjectDelete, serial.device);
}

/* Queue scope: another queue is presented while the callback of one runs. */
KTEST(kmdf_scope_queue)
{
    serial_make(2, 3, L"\\Device\\kmdfscope3");
    serial_send(LEAF);
    CHECK_EQ(serial.irql, PASSIVE_LEVEL);
    W1(VOID, WdfObjectAcquireLock, serial.other);
    serial_send(LEAF);
    CHECK_EQ(serial.calls, 2);
    W1(VOID, WdfObjectReleaseLock, serial.other);
    W1(VOID, WdfObjectDelete, serial.device);
}

KTEST(kmdf_scope_none)
{
    serial_make(1, 1, L"\\Device\\kmdfscope4");
    serial_send(LEAF);
    CHECK_EQ(serial.irql, PASSIVE_LEVEL);
    W1(VOID, WdfObjectDelete, serial.device);
}

/* A passive queue gets what comes at DISPATCH_LEVEL later. */
KTEST(kmdf_execution_level)
{
    KIRQL old;
    PIRP irp;
    serial_make(2, 4, L"\\Device\\kmdfscope5");
    KeInitializeEvent(&sent.event, NotificationEvent, FALSE);
    irp = IoBuildDeviceIoControlRequest(LEAF, serial.object, NULL, 0, NULL, 0, FALSE, &sent.event, &sent.block);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_STATUS(IoCallDriver(serial.object, irp), STATUS_PENDING);
    CHECK_EQ(serial.calls, 0);
    KeLowerIrql(old);
    KeWaitForSingleObject(&sent.event, Executive, KernelMode, FALSE, NULL);
    CHECK_EQ(serial.calls, 1);
    CHECK_EQ(serial.irql, PASSIVE_LEVEL);
    W1(VOID, WdfObjectDelete, serial.device);
}

/* AutomaticSerialization asks for callbacks at the parent's level. */
KTEST(kmdf_automatic_serialization)
{
    struct wdf_deferred_config timer = {.size = sizeof(timer), .callback = on_timer, .serialize = TRUE};
    struct {
        ULONG size;
        PVOID callback;
        BOOLEAN serialize;
    } config = {sizeof(config), on_dpc, TRUE};
    struct wdf_attributes attributes;
    WDFHANDLE object;
    serial_make(1, 2, L"\\Device\\kmdfscope6");
    attributes = wdf_attributes(serial.device, NULL);
    CHECK_STATUS(W3(NTSTATUS, WdfDpcCreate, &config, &attributes, &object), STATUS_SUCCESS);
    CHECK_STATUS(W3(NTSTATUS, WdfTimerCreate, &timer, &attributes, &object), STATUS_SUCCESS);
    config.callback = on_work;
    CHECK_STATUS(W3(NTSTATUS, WdfWorkItemCreate, &config, &attributes, &object), 0xC020020C);
    CHECK_PTR(object, NULL);
    config.serialize = FALSE;
    CHECK_STATUS(W3(NTSTATUS, WdfWorkItemCreate, &config, &attributes, &object), STATUS_SUCCESS);
    W1(VOID, WdfObjectDelete, serial.device);
    serial_make(2, 2, L"\\Device\\kmdfscope7");
    attributes = wdf_attributes(serial.device, NULL);
    config.serialize = TRUE;
    CHECK_STATUS(W3(NTSTATUS, WdfWorkItemCreate, &config, &attributes, &object), STATUS_SUCCESS);
    config.callback = on_dpc;
    CHECK_STATUS(W3(NTSTATUS, WdfDpcCreate, &config, &attributes, &object), 0xC020020C);
    CHECK_STATUS(W3(NTSTATUS, WdfTimerCreate, &timer, &attributes, &object), 0xC020020C);
    attributes.execution_level = 2;
    CHECK_STATUS(W3(NTSTATUS, WdfTimerCreate, &timer, &attributes, &object), STATUS_SUCCESS);
    W1(VOID, WdfObjectDelete, serial.device);
}

KTEST_BUGCHECK(kmdf_recursive_object_lock, 0x10D)
{
    serial_make(2, 2, L"\\Device\\kmdfscope8");
    W1(VOID, WdfObjectAcquireLock, serial.device);
    W1(VOID, WdfObjectAcquireLock, serial.queue);
}

KTEST(kmdf_registry)
{
    WDFHANDLE parameters, key, memory, string, from;
    UNICODE_STRING name, other, text, into;
    WCHAR buffer[8];
    USHORT bytes = 0;
    ULONG disposition = 0, type = 0, number = 0;
    SIZE_T size = 0;
    bind();
    RtlInitUnicodeString(&name, L"Sub");
    RtlInitUnicodeString(&text, L"value");
    RtlInitUnicodeString(&other, L"Other");
    CHECK_STATUS(W4(NTSTATUS, WdfDriverOpenParametersRegistryKey, wdf_driver, KEY_ALL_ACCESS, NULL, &parameters),
                 STATUS_SUCCESS);
    CHECK_STATUS(W5(NTSTATUS, WdfRegistryOpenKey, parameters, &name, KEY_READ, NULL, &key), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_PTR(key, NULL);
    CHECK_STATUS(((NTSTATUS(NTAPI *)(PVOID, WDFHANDLE, PVOID, ULONG, ULONG, PVOID, PVOID, PVOID))
                      wdf_table[WdfRegistryCreateKey])(wdf_globals, parameters, &name, KEY_ALL_ACCESS, 0, &disposition, NULL,
                                                       &key),
                 STATUS_SUCCESS);
    CHECK_EQ(disposition, 1);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryAssignUnicodeString, key, &name, &text), STATUS_SUCCESS);
    into.Buffer = buffer;
    into.Length = 0;
    into.MaximumLength = 10;
    CHECK_STATUS(W4(NTSTATUS, WdfRegistryQueryUnicodeString, key, &name, &bytes, &into), STATUS_BUFFER_OVERFLOW);
    CHECK_EQ(bytes, 12);
    CHECK_STATUS(W4(NTSTATUS, WdfRegistryQueryUnicodeString, key, &name, &bytes, NULL), STATUS_SUCCESS);
    into.MaximumLength = sizeof(buffer);
    CHECK_STATUS(W4(NTSTATUS, WdfRegistryQueryUnicodeString, key, &name, NULL, &into), STATUS_SUCCESS);
    CHECK_EQ(into.Length, 10);
    CHECK_MEM(buffer, L"value", 12);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryQueryULong, key, &name, &number), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(W3(NTSTATUS, WdfStringCreate, NULL, NULL, &string), STATUS_SUCCESS);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryQueryString, key, &other, string), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryQueryString, key, &name, string), STATUS_SUCCESS);
    W2(VOID, WdfStringGetUnicodeString, string, &into);
    CHECK_EQ(into.Length, 10);
    CHECK_STATUS(W3(NTSTATUS, WdfStringCreate, &other, NULL, &from), STATUS_SUCCESS);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryAssignString, key, &other, from), STATUS_SUCCESS);
    CHECK_STATUS(W6(NTSTATUS, WdfRegistryQueryMemory, key, &other, 0, NULL, &memory, &type), STATUS_SUCCESS);
    CHECK_EQ(type, REG_SZ);
    CHECK_MEM(W2(PVOID, WdfMemoryGetBuffer, memory, &size), L"Other", 12);
    CHECK_EQ(size, 12);
    CHECK_STATUS(W5(NTSTATUS, WdfRegistryAssignMemory, key, &name, REG_BINARY, memory, NULL), STATUS_SUCCESS);
    CHECK_STATUS(W3(NTSTATUS, WdfRegistryQueryString, key, &name, string), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(W2(NTSTATUS, WdfDeviceRetrieveDeviceName, device_handle, string), STATUS_SUCCESS);
    W2(VOID, WdfStringGetUnicodeString, string, &into);
    CHECK_EQ(into.Length, 2 * 16);
    CHECK_STATUS(W1(NTSTATUS, WdfRegistryRemoveKey, key), STATUS_SUCCESS);
    CHECK_STATUS(W5(NTSTATUS, WdfRegistryOpenKey, parameters, &name, KEY_READ, NULL, &key), STATUS_OBJECT_NAME_NOT_FOUND);
    W1(VOID, WdfObjectDelete, memory);
    W1(VOID, WdfObjectDelete, from);
    W1(VOID, WdfObjectDelete, string);
    W1(VOID, WdfRegistryClose, parameters);
}

KTEST_BUGCHECK(kmdf_wrong_type, 0x10D)
{
    bind();
    W1(VOID, WdfIoQueueStart, device_handle);
}

KTEST_BUGCHECK(kmdf_no_handle, 0x10D)
{
    bind();
    W1(VOID, WdfObjectDelete, 0x1234);
}

KTEST_BUGCHECK(kmdf_recursive_lock, 0x10D)
{
    WDFHANDLE lock;
    bind();
    W2(NTSTATUS, WdfWaitLockCreate, NULL, &lock);
    W2(NTSTATUS, WdfWaitLockAcquire, lock, NULL);
    W2(NTSTATUS, WdfWaitLockAcquire, lock, NULL);
}

KTEST_BUGCHECK(kmdf_null_parameter, 0x10D)
{
    bind();
    W2(NTSTATUS, WdfObjectCreate, NULL, NULL);
}

KTEST_FAMILY("kmdf", KTEST_ENTRY(kmdf_bind), KTEST_ENTRY(kmdf_objects), KTEST_ENTRY(kmdf_memory),
             KTEST_ENTRY(kmdf_deferred), KTEST_ENTRY(kmdf_sync), KTEST_ENTRY(kmdf_requests),
             KTEST_ENTRY(kmdf_files), KTEST_ENTRY(kmdf_scope_device), KTEST_ENTRY(kmdf_scope_device_passive),
             KTEST_ENTRY(kmdf_scope_queue), KTEST_ENTRY(kmdf_scope_none), KTEST_ENTRY(kmdf_execution_level),
             KTEST_ENTRY(kmdf_automatic_serialization), KTEST_ENTRY(kmdf_registry),
             KTEST_BUGCHECK_ENTRY(kmdf_recursive_object_lock), KTEST_BUGCHECK_ENTRY(kmdf_wrong_type), KTEST_BUGCHECK_ENTRY(kmdf_no_handle),
             KTEST_BUGCHECK_ENTRY(kmdf_recursive_lock), KTEST_BUGCHECK_ENTRY(kmdf_null_parameter));
