/* IRPs: allocation, stack locations, completion, built and associated IRPs, cancellation, cancel-safe queues, MDLs.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "devices.h"

#define TAG 0x74736554 /* Test */

NTKERNELAPI BOOLEAN NTAPI IoIsOperationSynchronous(PIRP irp);
NTKERNELAPI PEPROCESS NTAPI IoGetRequestorProcess(PIRP irp);
NTKERNELAPI ULONG NTAPI IoGetRequestorProcessId(PIRP irp);
NTKERNELAPI NTSTATUS NTAPI IoGetRequestorSessionId(PIRP irp, PULONG session);
NTKERNELAPI PIRP NTAPI IoGetTopLevelIrp(VOID);
NTKERNELAPI VOID NTAPI IoSetTopLevelIrp(PIRP irp);

static ULONG order[8], calls;
static PIRP kept;
static PDEVICE_OBJECT seen_device;
static UCHAR seen_pending;
static NTSTATUS seen_status;

static NTSTATUS complete_now(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device, (VOID)stack;
    return finish(irp, STATUS_SUCCESS, 7);
}

static NTSTATUS fail_now(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device, (VOID)stack;
    return finish(irp, STATUS_DEVICE_NOT_READY, 0);
}

static NTSTATUS keep(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device, (VOID)stack;
    IoMarkIrpPending(irp);
    kept = irp;
    return STATUS_PENDING;
}

static NTSTATUS NTAPI completed(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    if (calls < 8) {
        order[calls] = (ULONG)(ULONG_PTR)context;
    }
    calls++;
    seen_device = device;
    seen_pending = irp->PendingReturned;
    seen_status = irp->IoStatus.Status;
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS NTAPI passes_on(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    completed(device, irp, context);
    if (irp->PendingReturned) {
        IoMarkIrpPending(irp);
    }
    return STATUS_CONTINUE_COMPLETION;
}

static NTSTATUS forward(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)stack;
    IoCopyCurrentIrpStackLocationToNext(irp);
    IoSetCompletionRoutine(irp, passes_on, (PVOID)1, TRUE, TRUE, TRUE);
    return IoCallDriver(extension_of(device)->lower, irp);
}

static NTSTATUS skip_down(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)stack;
    IoSkipCurrentIrpStackLocation(irp);
    return IoCallDriver(extension_of(device)->lower, irp);
}

/* A driver's own IRP on its way to `device`; its completion routine keeps it. */
static PIRP own_irp(PDEVICE_OBJECT device, UCHAR major)
{
    PIRP irp = IoAllocateIrp(device->StackSize, FALSE);
    calls = 0, seen_pending = 0xEE, seen_status = 0xEEEE, seen_device = (PVOID)1;
    IoGetNextIrpStackLocation(irp)->MajorFunction = major;
    IoSetCompletionRoutine(irp, completed, (PVOID)9, TRUE, TRUE, TRUE);
    return irp;
}

KTEST(allocation)
{
    PIRP irp = IoAllocateIrp(3, FALSE);
    if (!CHECK(irp != NULL)) {
        return;
    }
    CHECK_EQ(sizeof(IRP), sizeof(PVOID) == 8 ? 0xD0 : 0x70);
    CHECK_EQ(irp->Type, IO_TYPE_IRP);
    CHECK_EQ(irp->Size, IoSizeOfIrp(3));
    CHECK_EQ(irp->StackCount, 3);
    CHECK_EQ(irp->CurrentLocation, 4);
    CHECK_PTR(irp->Tail.Overlay.CurrentStackLocation, (PIO_STACK_LOCATION)(irp + 1) + 3);
    CHECK_PTR(irp->MdlAddress, NULL);
    CHECK_EQ(irp->Flags, 0);
    CHECK_EQ(irp->Cancel, 0);
    CHECK_PTR(irp->CancelRoutine, NULL);
    CHECK_PTR(irp->UserIosb, NULL);
    CHECK_PTR(irp->UserEvent, NULL);
    CHECK_EQ(irp->PendingReturned, 0);
    CHECK_EQ(irp->RequestorMode, KernelMode);
    CHECK_PTR(irp->ThreadListEntry.Flink, &irp->ThreadListEntry);
    CHECK_PTR(irp->Tail.Overlay.Thread, NULL);
    IoFreeIrp(irp);
}

KTEST(initialize_and_reuse)
{
    USHORT bytes = IoSizeOfIrp(2);
    PIRP irp = ExAllocatePoolWithTag(NonPagedPool, bytes, TAG);
    RtlFillMemory(irp, bytes, 0xAA);
    IoInitializeIrp(irp, bytes, 2);
    CHECK_EQ(irp->Type, IO_TYPE_IRP);
    CHECK_EQ(irp->Size, bytes);
    CHECK_EQ(irp->StackCount, 2);
    CHECK_EQ(irp->CurrentLocation, 3);
    CHECK_EQ(irp->Cancel, 0);
    CHECK_EQ(IoGetNextIrpStackLocation(irp)->Control, 0);
    irp->Cancel = TRUE;
    irp->PendingReturned = 1;
    irp->CurrentLocation = 1;
    irp->AllocationFlags = 0x10;
    IoReuseIrp(irp, STATUS_NOT_SUPPORTED);
    CHECK_STATUS(irp->IoStatus.Status, STATUS_NOT_SUPPORTED);
    CHECK_EQ(irp->Cancel, 0);
    CHECK_EQ(irp->PendingReturned, 0);
    CHECK_EQ(irp->CurrentLocation, 3);
    CHECK_EQ(irp->AllocationFlags, 0x10);
    CHECK_EQ(irp->Size, bytes);
    ExFreePool(irp);
}

KTEST(completion_routine_rules)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    static const struct { BOOLEAN success, error, cancel, cancelled; NTSTATUS status; ULONG expected; } cases[] = {
        {TRUE, FALSE, FALSE, FALSE, STATUS_SUCCESS, 1}, {FALSE, TRUE, TRUE, FALSE, STATUS_SUCCESS, 0},
        {FALSE, TRUE, FALSE, FALSE, STATUS_UNSUCCESSFUL, 1}, {TRUE, FALSE, FALSE, FALSE, STATUS_UNSUCCESSFUL, 0},
        {TRUE, FALSE, FALSE, FALSE, STATUS_BUFFER_OVERFLOW, 0}, {FALSE, TRUE, FALSE, FALSE, STATUS_BUFFER_OVERFLOW, 1},
        {FALSE, FALSE, TRUE, TRUE, STATUS_SUCCESS, 1}, {FALSE, FALSE, TRUE, FALSE, STATUS_CANCELLED, 0},
        {TRUE, TRUE, TRUE, TRUE, STATUS_CANCELLED, 1}, {TRUE, FALSE, FALSE, FALSE, 0x40000000, 1},
    };
    for (ULONG i = 0; i < RTL_NUMBER_OF(cases); i++) {
        IO_STATUS_BLOCK block = {.Information = 99};
        KEVENT event;
        KeInitializeEvent(&event, NotificationEvent, FALSE);
        PIRP irp = IoAllocateIrp(2, FALSE);
        irp->UserIosb = &block;
        irp->UserEvent = &event;
        calls = 0;
        /* A location for this driver, so that there is somebody above. */
        IoSetNextIrpStackLocation(irp);
        IoGetCurrentIrpStackLocation(irp)->DeviceObject = ktest_device;
        IoSetCompletionRoutine(irp, completed, (PVOID)5, cases[i].success, cases[i].error, cases[i].cancel);
        IoSetNextIrpStackLocation(irp);
        irp->Cancel = cases[i].cancelled;
        irp->IoStatus.Status = cases[i].status;
        IoCompleteRequest(irp, IO_NO_INCREMENT);
        CHECK_EQ(calls, cases[i].expected);
        if (calls != 0) {
            CHECK_PTR(seen_device, ktest_device);
            CHECK_EQ(KeReadStateEvent(&event), 0);
            CHECK_EQ(irp->CurrentLocation, 2);
        } else {
            /* It went up to the top. */
            CHECK_EQ(KeReadStateEvent(&event), 1);
            CHECK_STATUS(block.Status, cases[i].status);
        }
        IoFreeIrp(irp);
    }
    IoDeleteDevice(device);
}

KTEST(call_driver)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    PIRP irp = own_irp(device, IRP_MJ_FLUSH_BUFFERS);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_FLUSH_BUFFERS], 1);
    CHECK_EQ(calls, 1);
    CHECK_EQ(order[0], 9);
    CHECK_PTR(seen_device, NULL); /* nobody above */
    CHECK_EQ(seen_pending, 0);
    CHECK_STATUS(seen_status, STATUS_SUCCESS);
    CHECK_EQ(irp->IoStatus.Information, 7);
    CHECK_EQ(irp->CurrentLocation, 2);
    IoReuseIrp(irp, STATUS_SUCCESS);
    IoGetNextIrpStackLocation(irp)->MajorFunction = IRP_MJ_READ;
    IoSetCompletionRoutine(irp, completed, (PVOID)9, TRUE, TRUE, TRUE);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_READ], 1);
    IoFreeIrp(irp);
    extension_of(device)->dispatch = keep;
    irp = own_irp(device, IRP_MJ_WRITE);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_PENDING);
    CHECK_EQ(calls, 0);
    CHECK_PTR(kept, irp);
    CHECK(IoGetCurrentIrpStackLocation(irp)->Control & SL_PENDING_RETURNED);
    finish(irp, STATUS_CANCELLED, 3);
    CHECK_EQ(calls, 1);
    CHECK_EQ(seen_pending, SL_PENDING_RETURNED);
    CHECK_STATUS(seen_status, STATUS_CANCELLED);
    IoFreeIrp(irp);
    IoDeleteDevice(device);
}

KTEST(attached_stack)
{
    PDEVICE_OBJECT bottom = new_device(NULL, keep), filter = new_device(NULL, forward), top = new_device(NULL, skip_down);
    extension_of(filter)->lower = IoAttachDeviceToDeviceStack(filter, bottom);
    CHECK_PTR(extension_of(filter)->lower, bottom);
    CHECK_EQ(filter->StackSize, 2);
    extension_of(top)->lower = IoAttachDeviceToDeviceStack(top, bottom);
    CHECK_PTR(extension_of(top)->lower, filter);
    CHECK_EQ(top->StackSize, 3);
    PIRP irp = own_irp(top, IRP_MJ_READ);
    CHECK_STATUS(IoCallDriver(top, irp), STATUS_PENDING);
    CHECK_EQ(extension_of(top)->seen[IRP_MJ_READ], 1);
    CHECK_EQ(extension_of(filter)->seen[IRP_MJ_READ], 1);
    CHECK_EQ(extension_of(bottom)->seen[IRP_MJ_READ], 1);
    CHECK_PTR(IoGetCurrentIrpStackLocation(irp)->DeviceObject, bottom);
    CHECK_EQ(irp->CurrentLocation, 2); /* one was skipped */
    finish(kept, STATUS_SUCCESS, 0);
    CHECK_EQ(calls, 2);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 9);
    CHECK_EQ(seen_pending, SL_PENDING_RETURNED);
    IoFreeIrp(irp);
    /* Without a completion routine the I/O manager passes the pending mark on. */
    extension_of(filter)->dispatch = skip_down;
    irp = own_irp(top, IRP_MJ_READ);
    CHECK_STATUS(IoCallDriver(top, irp), STATUS_PENDING);
    finish(kept, STATUS_SUCCESS, 0);
    CHECK_EQ(calls, 1);
    CHECK_EQ(seen_pending, SL_PENDING_RETURNED);
    IoFreeIrp(irp);
    IoDetachDevice(filter);
    IoDetachDevice(bottom);
    IoDeleteDevice(top);
    IoDeleteDevice(filter);
    IoDeleteDevice(bottom);
}

static NTSTATUS forward_synchronously(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)stack;
    BOOLEAN forwarded = IoForwardIrpSynchronously(extension_of(device)->lower, irp);
    CHECK_EQ(forwarded, TRUE);
    CHECK_EQ(irp->IoStatus.Information, 7);
    return finish(irp, irp->IoStatus.Status, 8);
}

KTEST(forward_synchronously_and_no_room)
{
    PDEVICE_OBJECT bottom = new_device(NULL, complete_now), top = new_device(NULL, forward_synchronously);
    extension_of(top)->lower = IoAttachDeviceToDeviceStack(top, bottom);
    PIRP irp = own_irp(top, IRP_MJ_READ);
    CHECK_STATUS(IoCallDriver(top, irp), STATUS_SUCCESS);
    CHECK_EQ(irp->IoStatus.Information, 8);
    CHECK_EQ(calls, 1);
    IoFreeIrp(irp);
    irp = IoAllocateIrp(1, FALSE);
    IoSetNextIrpStackLocation(irp);
    CHECK_EQ(IoForwardIrpSynchronously(bottom, irp), FALSE);
    IoFreeIrp(irp);
    IoDetachDevice(bottom);
    IoDeleteDevice(top);
    IoDeleteDevice(bottom);
}

KTEST(completion_routine_ex)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    PIRP irp = own_irp(device, IRP_MJ_READ);
    CHECK_STATUS(IoSetCompletionRoutineEx(device, irp, completed, (PVOID)4, TRUE, TRUE, TRUE), STATUS_SUCCESS);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(calls, 1);
    CHECK_EQ(order[0], 4);
    IoFreeIrp(irp);
    irp = own_irp(device, IRP_MJ_READ);
    CHECK_STATUS(IoSetCompletionRoutineEx(device, irp, completed, (PVOID)4, FALSE, TRUE, FALSE), STATUS_SUCCESS);
    CHECK_EQ(IoGetNextIrpStackLocation(irp)->Control, SL_INVOKE_ON_ERROR);
    IoFreeIrp(irp);
    IoDeleteDevice(device);
}

static ULONG control_code, input_bytes, output_bytes;
static PVOID seen_system, seen_user, seen_type3;
static PMDL seen_mdl;
static UCHAR seen_major;

static NTSTATUS answer(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device;
    control_code = stack->Parameters.DeviceIoControl.IoControlCode;
    input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    output_bytes = stack->Parameters.DeviceIoControl.OutputBufferLength;
    seen_type3 = stack->Parameters.DeviceIoControl.Type3InputBuffer;
    seen_system = irp->AssociatedIrp.SystemBuffer;
    seen_user = irp->UserBuffer;
    seen_mdl = irp->MdlAddress;
    seen_major = stack->MajorFunction;
    if ((control_code & 3) == METHOD_BUFFERED && output_bytes >= 4) {
        *(ULONG *)seen_system += 1;
        return finish(irp, STATUS_SUCCESS, 4);
    }
    return finish(irp, STATUS_SUCCESS, 0);
}

#define CODE(method) CTL_CODE(FILE_DEVICE_UNKNOWN, 0x900, (method), FILE_ANY_ACCESS)

KTEST(build_device_control)
{
    PDEVICE_OBJECT device = new_device(NULL, answer);
    IO_STATUS_BLOCK block = {.Status = 0x77, .Information = 0x77};
    ULONG input = 41, output[2] = {5, 6};
    KEVENT event;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    PIRP irp = IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, &input, 4, output, 8, FALSE, &event, &block);
    if (!CHECK(irp != NULL)) {
        return;
    }
    CHECK_EQ(irp->StackCount, 1);
    CHECK(irp->AssociatedIrp.SystemBuffer != NULL);
    CHECK_PTR(irp->UserBuffer, output);
    CHECK_PTR(irp->UserIosb, &block);
    CHECK_PTR(irp->UserEvent, &event);
    CHECK_EQ(irp->RequestorMode, KernelMode);
    CHECK_PTR(irp->Tail.Overlay.Thread, PsGetCurrentThread());
    CHECK_EQ(irp->Flags & (IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER | IRP_INPUT_OPERATION),
             IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER | IRP_INPUT_OPERATION);
    CHECK(IoIsOperationSynchronous(irp));
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(seen_major, IRP_MJ_DEVICE_CONTROL);
    CHECK_EQ(control_code, CODE(METHOD_BUFFERED));
    CHECK_EQ(input_bytes, 4);
    CHECK_EQ(output_bytes, 8);
    CHECK_EQ(output[0], 42);
    CHECK_EQ(output[1], 6); /* only Information bytes are copied */
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(block.Information, 4);
    CHECK_EQ(KeReadStateEvent(&event), 1);

    irp = IoBuildDeviceIoControlRequest(CODE(METHOD_NEITHER), device, &input, 4, output, 8, TRUE, &event, &block);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(seen_major, IRP_MJ_INTERNAL_DEVICE_CONTROL);
    CHECK_PTR(seen_type3, &input);
    CHECK_PTR(seen_user, output);
    CHECK_PTR(seen_system, NULL);

    irp = IoBuildDeviceIoControlRequest(CODE(METHOD_OUT_DIRECT), device, &input, 4, output, 8, FALSE, &event, &block);
    CHECK(irp->MdlAddress != NULL);
    CHECK_EQ(MmGetMdlByteCount(irp->MdlAddress), 8);
    CHECK_PTR(MmGetMdlVirtualAddress(irp->MdlAddress), output);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK(seen_system != NULL);
    CHECK(seen_mdl != NULL);

    irp = IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, NULL, 0, NULL, 0, FALSE, &event, &block);
    CHECK_PTR(irp->AssociatedIrp.SystemBuffer, NULL);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(input_bytes, 0);
    CHECK_EQ(output_bytes, 0);

    /* NT writes the status block of an error only if the request was pending. */
    extension_of(device)->dispatch = fail_now;
    KeClearEvent(&event);
    block.Status = 0x77;
    irp = IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, NULL, 0, NULL, 0, FALSE, &event, &block);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_DEVICE_NOT_READY);
    CHECK_STATUS(block.Status, 0x77);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    extension_of(device)->dispatch = keep;
    irp = IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, NULL, 0, NULL, 0, FALSE, &event, &block);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_PENDING);
    CHECK_EQ(KeReadStateEvent(&event), 0);
    finish(kept, STATUS_DEVICE_NOT_READY, 0);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    CHECK_STATUS(block.Status, STATUS_DEVICE_NOT_READY);
    IoDeleteDevice(device);
}

KTEST(build_fsd_requests)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    char buffer[16] = "abc";
    LARGE_INTEGER offset = {.QuadPart = 0x123456789LL};
    IO_STATUS_BLOCK block = {.Status = 0x77};
    KEVENT event;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    PIRP irp = IoBuildSynchronousFsdRequest(IRP_MJ_READ, device, buffer, 16, &offset, &event, &block);
    PIO_STACK_LOCATION next = IoGetNextIrpStackLocation(irp);
    CHECK_EQ(next->MajorFunction, IRP_MJ_READ);
    CHECK_EQ(next->Parameters.Read.Length, 16);
    CHECK_EQ(next->Parameters.Read.ByteOffset.QuadPart, 0x123456789LL);
    CHECK_PTR(irp->UserBuffer, buffer);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(&event), 1);
    CHECK_EQ(block.Information, 7);

    device->Flags |= DO_BUFFERED_IO;
    irp = IoBuildAsynchronousFsdRequest(IRP_MJ_WRITE, device, buffer, 3, NULL, &block);
    next = IoGetNextIrpStackLocation(irp);
    CHECK_EQ(next->MajorFunction, IRP_MJ_WRITE);
    CHECK_EQ(next->Parameters.Write.Length, 3);
    CHECK_EQ(next->Parameters.Write.ByteOffset.QuadPart, 0);
    CHECK_MEM(irp->AssociatedIrp.SystemBuffer, "abc", 3);
    CHECK(irp->AssociatedIrp.SystemBuffer != buffer);
    calls = 0;
    IoSetCompletionRoutine(irp, completed, (PVOID)3, TRUE, TRUE, TRUE);
    CHECK_STATUS(IoCallDriver(device, irp), STATUS_SUCCESS);
    CHECK_EQ(calls, 1);
    ExFreePool(irp->AssociatedIrp.SystemBuffer);
    IoFreeIrp(irp);

    device->Flags = (device->Flags & ~DO_BUFFERED_IO) | DO_DIRECT_IO;
    irp = IoBuildAsynchronousFsdRequest(IRP_MJ_READ, device, buffer, 16, NULL, &block);
    CHECK(irp->MdlAddress != NULL);
    CHECK_PTR(irp->AssociatedIrp.SystemBuffer, NULL);
    CHECK_EQ(MmGetMdlByteCount(irp->MdlAddress), 16);
    IoFreeMdl(irp->MdlAddress);
    IoFreeIrp(irp);
    irp = IoBuildAsynchronousFsdRequest(IRP_MJ_FLUSH_BUFFERS, device, NULL, 0, NULL, &block);
    CHECK_EQ(IoGetNextIrpStackLocation(irp)->MajorFunction, IRP_MJ_FLUSH_BUFFERS);
    CHECK_PTR(irp->MdlAddress, NULL);
    IoFreeIrp(irp);
    IoDeleteDevice(device);
}

KTEST(associated_irps)
{
    PDEVICE_OBJECT device = new_device(NULL, keep);
    PIRP master = own_irp(device, IRP_MJ_READ), parts[2];
    IoCallDriver(device, master);
    master->AssociatedIrp.IrpCount = 2;
    master->IoStatus.Status = STATUS_SUCCESS;
    extension_of(device)->dispatch = complete_now;
    for (ULONG i = 0; i < 2; i++) {
        parts[i] = IoMakeAssociatedIrp(master, 1);
        if (!CHECK(parts[i] != NULL)) {
            return;
        }
        CHECK_EQ(parts[i]->Flags & IRP_ASSOCIATED_IRP, IRP_ASSOCIATED_IRP);
        CHECK_PTR(parts[i]->AssociatedIrp.MasterIrp, master);
        CHECK_PTR(parts[i]->Tail.Overlay.Thread, master->Tail.Overlay.Thread);
        IoGetNextIrpStackLocation(parts[i])->MajorFunction = IRP_MJ_READ;
    }
    CHECK_STATUS(IoCallDriver(device, parts[0]), STATUS_SUCCESS);
    CHECK_EQ(calls, 0);
    CHECK_EQ(master->AssociatedIrp.IrpCount, 1);
    CHECK_STATUS(IoCallDriver(device, parts[1]), STATUS_SUCCESS);
    CHECK_EQ(calls, 1); /* the master is completed with its last part */
    IoFreeIrp(master);
    IoDeleteDevice(device);
}

static VOID NTAPI on_cancel(PDEVICE_OBJECT device, PIRP irp)
{
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_EQ(irp->CancelIrql, PASSIVE_LEVEL);
    CHECK_PTR(irp->CancelRoutine, NULL);
    CHECK_EQ(irp->Cancel, TRUE);
    seen_device = device;
    IoReleaseCancelSpinLock(irp->CancelIrql);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    finish(irp, STATUS_CANCELLED, 0);
}

KTEST(cancel)
{
    KIRQL irql = 99;
    PDEVICE_OBJECT device = new_device(NULL, keep);
    PIRP irp = own_irp(device, IRP_MJ_READ);
    CHECK_EQ(IoCancelIrp(irp), FALSE);
    CHECK_EQ(irp->Cancel, TRUE);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    irp->Cancel = FALSE;
    IoCallDriver(device, irp);
    CHECK_PTR(IoSetCancelRoutine(irp, on_cancel), NULL);
    CHECK_EQ(IoCancelIrp(irp), TRUE);
    CHECK_EQ(calls, 1);
    CHECK_STATUS(seen_status, STATUS_CANCELLED);
    IoFreeIrp(irp);
    IoAcquireCancelSpinLock(&irql);
    CHECK_EQ(irql, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    IoReleaseCancelSpinLock(irql);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    IoDeleteDevice(device);
}

/* ---- Cancel-safe queues. ---- */

static struct {
    IO_CSQ csq;
    LIST_ENTRY list;
    KSPIN_LOCK lock;
    ULONG cancelled, inserted;
    PVOID peek_context, insert_context;
    NTSTATUS insert_status;
} queue;

static VOID NTAPI csq_insert(PIO_CSQ csq, PIRP irp)
{
    CHECK_PTR(csq, &queue.csq);
    InsertTailList(&queue.list, &irp->Tail.Overlay.ListEntry);
    queue.inserted++;
}

static NTSTATUS NTAPI csq_insert_ex(PIO_CSQ csq, PIRP irp, PVOID context)
{
    queue.insert_context = context;
    if (NT_SUCCESS(queue.insert_status)) {
        csq_insert(csq, irp);
    }
    return queue.insert_status;
}

static VOID NTAPI csq_remove(PIO_CSQ csq, PIRP irp)
{
    (VOID)csq;
    RemoveEntryList(&irp->Tail.Overlay.ListEntry);
}

static PIRP NTAPI csq_peek(PIO_CSQ csq, PIRP irp, PVOID context)
{
    (VOID)csq;
    queue.peek_context = context;
    PLIST_ENTRY next = irp == NULL ? queue.list.Flink : irp->Tail.Overlay.ListEntry.Flink;
    return next == &queue.list ? NULL : CONTAINING_RECORD(next, IRP, Tail.Overlay.ListEntry);
}

static VOID NTAPI csq_acquire(PIO_CSQ csq, PKIRQL irql)
{
    (VOID)csq;
    KeAcquireSpinLock(&queue.lock, irql);
}

static VOID NTAPI csq_release(PIO_CSQ csq, KIRQL irql)
{
    (VOID)csq;
    KeReleaseSpinLock(&queue.lock, irql);
}

static VOID NTAPI csq_cancelled(PIO_CSQ csq, PIRP irp)
{
    (VOID)csq;
    queue.cancelled++;
    finish(irp, STATUS_CANCELLED, 0);
}

static PIRP queued_irp(PDEVICE_OBJECT device)
{
    PIRP irp = own_irp(device, IRP_MJ_READ);
    IoCallDriver(device, irp);
    IoGetCurrentIrpStackLocation(irp)->Control &= (UCHAR)~SL_PENDING_RETURNED;
    return irp;
}

static VOID csq_reset(VOID)
{
    RtlZeroMemory(&queue, sizeof(queue));
    InitializeListHead(&queue.list);
    KeInitializeSpinLock(&queue.lock);
}

KTEST(csq)
{
    PDEVICE_OBJECT device = new_device(NULL, keep);
    IO_CSQ_IRP_CONTEXT context;
    csq_reset();
    CHECK_STATUS(IoCsqInitialize(&queue.csq, csq_insert, csq_remove, csq_peek, csq_acquire, csq_release, csq_cancelled),
                 STATUS_SUCCESS);
    CHECK_PTR(IoCsqRemoveNextIrp(&queue.csq, NULL), NULL);
    PIRP first = queued_irp(device), second = queued_irp(device);
    IoCsqInsertIrp(&queue.csq, first, NULL);
    CHECK_EQ(queue.inserted, 1);
    CHECK(first->CancelRoutine != NULL);
    CHECK_EQ(IoGetCurrentIrpStackLocation(first)->Control & SL_PENDING_RETURNED, SL_PENDING_RETURNED);
    IoCsqInsertIrp(&queue.csq, second, &context);
    CHECK_PTR(context.Irp, second);
    CHECK_PTR(context.Csq, &queue.csq);
    CHECK_PTR(IoCsqRemoveNextIrp(&queue.csq, (PVOID)0x55), first);
    CHECK_PTR(queue.peek_context, (PVOID)0x55);
    CHECK_PTR(first->CancelRoutine, NULL);
    CHECK_PTR(IoCsqRemoveIrp(&queue.csq, &context), second);
    CHECK_PTR(context.Irp, NULL);
    CHECK_PTR(IoCsqRemoveIrp(&queue.csq, &context), NULL);
    CHECK(IsListEmpty(&queue.list));
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    /* Cancelled while it is queued. */
    calls = 0;
    IoCsqInsertIrp(&queue.csq, second, &context);
    CHECK_EQ(IoCancelIrp(second), TRUE);
    CHECK_EQ(queue.cancelled, 1);
    CHECK_EQ(calls, 1);
    CHECK_PTR(context.Irp, NULL);
    CHECK(IsListEmpty(&queue.list));
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    /* Cancelled before it is queued. */
    first->Cancel = TRUE;
    calls = 0;
    IoCsqInsertIrp(&queue.csq, first, NULL);
    CHECK_EQ(queue.cancelled, 2);
    CHECK_EQ(calls, 1);
    CHECK(IsListEmpty(&queue.list));
    IoFreeIrp(first);
    IoFreeIrp(second);
    IoDeleteDevice(device);
}

KTEST(csq_ex)
{
    PDEVICE_OBJECT device = new_device(NULL, keep);
    csq_reset();
    CHECK_STATUS(IoCsqInitializeEx(&queue.csq, csq_insert_ex, csq_remove, csq_peek, csq_acquire, csq_release, csq_cancelled),
                 STATUS_SUCCESS);
    PIRP irp = queued_irp(device);
    queue.insert_status = STATUS_DEVICE_BUSY;
    CHECK_STATUS(IoCsqInsertIrpEx(&queue.csq, irp, NULL, (PVOID)0x66), STATUS_DEVICE_BUSY);
    CHECK_PTR(queue.insert_context, (PVOID)0x66);
    CHECK_PTR(irp->CancelRoutine, NULL);
    CHECK_EQ(IoGetCurrentIrpStackLocation(irp)->Control & SL_PENDING_RETURNED, 0);
    queue.insert_status = STATUS_SUCCESS;
    CHECK_STATUS(IoCsqInsertIrpEx(&queue.csq, irp, NULL, NULL), STATUS_SUCCESS);
    CHECK_PTR(IoCsqRemoveNextIrp(&queue.csq, NULL), irp);
    finish(irp, STATUS_SUCCESS, 0);
    IoFreeIrp(irp);
    IoDeleteDevice(device);
}

KTEST(partial_mdl)
{
    char *buffer = ExAllocatePoolWithTag(NonPagedPool, 0x3000, TAG);
    PMDL mdl = IoAllocateMdl(buffer, 0x3000, FALSE, FALSE, NULL);
    PMDL part = IoAllocateMdl(buffer, 0x3000, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    IoBuildPartialMdl(mdl, part, buffer + 0x1010, 0x20);
    CHECK_EQ(MmGetMdlByteCount(part), 0x20);
    CHECK_PTR(MmGetMdlVirtualAddress(part), buffer + 0x1010);
    CHECK_EQ(MmGetMdlByteOffset(part), 0x10);
    CHECK_EQ(MmGetMdlPfnArray(part)[0], MmGetMdlPfnArray(mdl)[1]);
    IoBuildPartialMdl(mdl, part, buffer + 0x2F00, 0);
    CHECK_EQ(MmGetMdlByteCount(part), 0x100);
    CHECK_EQ(MmGetMdlPfnArray(part)[0], MmGetMdlPfnArray(mdl)[2]);
    PIRP irp = IoAllocateIrp(1, FALSE);
    PMDL first = IoAllocateMdl(buffer, 8, FALSE, FALSE, irp), second = IoAllocateMdl(buffer, 8, TRUE, FALSE, irp);
    CHECK_PTR(irp->MdlAddress, first);
    CHECK_PTR(first->Next, second);
    CHECK_PTR(second->Next, NULL);
    IoFreeMdl(first);
    IoFreeMdl(second);
    IoFreeIrp(irp);
    IoFreeMdl(part);
    IoFreeMdl(mdl);
    ExFreePool(buffer);
}

KTEST(requestor)
{
    ULONG session = 77;
    CHECK_PTR(IoGetRequestorProcess(ktest_irp), PsGetCurrentProcess());
    CHECK_EQ(IoGetRequestorProcessId(ktest_irp), (ULONG)(ULONG_PTR)PsGetCurrentProcessId());
    CHECK_STATUS(IoGetRequestorSessionId(ktest_irp, &session), STATUS_SUCCESS);
    CHECK_EQ(session, 0);
    CHECK_EQ(ktest_irp->RequestorMode, UserMode);
    CHECK(IoIsOperationSynchronous(ktest_irp));
    CHECK_PTR(IoGetTopLevelIrp(), NULL);
    IoSetTopLevelIrp(ktest_irp);
    CHECK_PTR(IoGetTopLevelIrp(), ktest_irp);
    IoSetTopLevelIrp(NULL);
    CHECK_PTR(IoGetTopLevelIrp(), NULL);
}

KTEST_BUGCHECK(complete_twice, 0x44)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    PIRP irp = IoAllocateIrp(1, FALSE);
    IoGetNextIrpStackLocation(irp)->MajorFunction = IRP_MJ_READ;
    IoCallDriver(device, irp);
    IoCompleteRequest(irp, IO_NO_INCREMENT);
}

/* With the pool verified, as in these machines, the freed IRP's page is gone before its type is looked at. */
KTEST_BUGCHECK(free_twice, 0xCC)
{
    PIRP irp = IoAllocateIrp(1, FALSE);
    IoFreeIrp(irp);
    IoFreeIrp(irp);
}

KTEST_BUGCHECK(no_stack_location, 0x35)
{
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    PIRP irp = IoAllocateIrp(1, FALSE);
    IoSetNextIrpStackLocation(irp);
    IoCallDriver(device, irp);
}

KTEST_BUGCHECK(complete_pending, 0xC9)
{
    PDEVICE_OBJECT device = new_device(NULL, keep);
    PIRP irp = own_irp(device, IRP_MJ_READ);
    IoCallDriver(device, irp);
    finish(irp, STATUS_PENDING, 0);
}

KTEST_BUGCHECK(complete_with_cancel_routine, 0x48)
{
    PDEVICE_OBJECT device = new_device(NULL, keep);
    PIRP irp = own_irp(device, IRP_MJ_READ);
    IoCallDriver(device, irp);
    IoSetCancelRoutine(irp, on_cancel);
    finish(irp, STATUS_SUCCESS, 0);
}

KTEST_BUGCHECK(call_with_no_irp, 0xC9)
{
    static IRP nothing;
    IoCallDriver(new_device(NULL, complete_now), &nothing);
}

KTEST_BUGCHECK(free_threaded_irp, 0xC9)
{
    IO_STATUS_BLOCK block;
    KEVENT event;
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    IoFreeIrp(IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, NULL, 0, NULL, 0, FALSE, &event, &block));
}

KTEST_BUGCHECK(partial_mdl_too_small, 0x40)
{
    char *buffer = ExAllocatePoolWithTag(NonPagedPool, 0x3000, TAG);
    PMDL mdl = IoAllocateMdl(buffer, 0x3000, FALSE, FALSE, NULL), part = IoAllocateMdl(buffer, 8, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    IoBuildPartialMdl(mdl, part, buffer, 0x2000);
}

KTEST_BUGCHECK(build_request_at_dispatch_level, 0x0A)
{
    KIRQL irql;
    IO_STATUS_BLOCK block;
    PDEVICE_OBJECT device = new_device(NULL, complete_now);
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    IoBuildDeviceIoControlRequest(CODE(METHOD_BUFFERED), device, NULL, 0, NULL, 0, FALSE, NULL, &block);
}

KTEST_FAMILY("irp", KTEST_ENTRY(allocation), KTEST_ENTRY(initialize_and_reuse), KTEST_ENTRY(completion_routine_rules),
             KTEST_ENTRY(call_driver), KTEST_ENTRY(attached_stack), KTEST_ENTRY(forward_synchronously_and_no_room),
             KTEST_ENTRY(completion_routine_ex), KTEST_ENTRY(build_device_control), KTEST_ENTRY(build_fsd_requests),
             KTEST_ENTRY(associated_irps), KTEST_ENTRY(cancel), KTEST_ENTRY(csq), KTEST_ENTRY(csq_ex),
             KTEST_ENTRY(partial_mdl), KTEST_ENTRY(requestor), KTEST_BUGCHECK_ENTRY(complete_twice),
             KTEST_BUGCHECK_ENTRY(free_twice), KTEST_BUGCHECK_ENTRY(no_stack_location),
             KTEST_BUGCHECK_ENTRY(complete_pending), KTEST_BUGCHECK_ENTRY(complete_with_cancel_routine),
             KTEST_BUGCHECK_ENTRY(call_with_no_irp), KTEST_BUGCHECK_ENTRY(free_threaded_irp),
             KTEST_BUGCHECK_ENTRY(partial_mdl_too_small), KTEST_BUGCHECK_ENTRY(build_request_at_dispatch_level));
