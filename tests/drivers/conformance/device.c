/* Devices: creation and deletion, names and links, stacks, device queues and StartIo, timers, controllers, interrupts,
 * error log, extensions, and what the I/O manager tells about itself. */
#include "devices.h"

#define TAG 0x74736554 /* Test */

NTKERNELAPI NTSTATUS NTAPI IoEnumerateDeviceObjectList(PDRIVER_OBJECT driver, PDEVICE_OBJECT *list, ULONG bytes, PULONG count);
NTKERNELAPI PDEVICE_OBJECT NTAPI IoGetLowerDeviceObject(PDEVICE_OBJECT device);
NTKERNELAPI PDEVICE_OBJECT NTAPI IoGetDeviceAttachmentBaseRef(PDEVICE_OBJECT device);
NTKERNELAPI NTSTATUS NTAPI IoCheckEaBufferValidity(PVOID buffer, ULONG length, PULONG offset);
NTKERNELAPI NTSTATUS NTAPI IoAttachDeviceToDeviceStackSafe(PDEVICE_OBJECT source, PDEVICE_OBJECT target, PDEVICE_OBJECT *below);
NTKERNELAPI VOID NTAPI IoSetStartIoAttributes(PDEVICE_OBJECT device, BOOLEAN deferred, BOOLEAN non_cancelable);
NTKERNELAPI NTSTATUS NTAPI IoWMIRegistrationControl(PDEVICE_OBJECT device, ULONG action);
NTKERNELAPI PKDEVICE_QUEUE_ENTRY NTAPI KeRemoveByKeyDeviceQueueIfBusy(PKDEVICE_QUEUE queue, ULONG key);

NTHALAPI ULONG NTAPI HalGetInterruptVector(INTERFACE_TYPE type, ULONG bus, ULONG level, ULONG vector, PKIRQL irql,
                                            PKAFFINITY affinity);

KTEST(create)
{
    UNICODE_STRING name;
    PDEVICE_OBJECT device, other = (PVOID)1;
    RtlInitUnicodeString(&name, L"\\Device\\KtCreate");
    CHECK_STATUS(IoCreateDevice(ktest_driver, 40, &name, 0x8123, FILE_DEVICE_SECURE_OPEN, TRUE, &device), STATUS_SUCCESS);
    /* mingw-w64 does not align the structure to 16 bytes as the WDK does. */
    const ULONG fixed = sizeof(PVOID) == 8 ? 0x150 : 0xB8;
    CHECK_EQ((sizeof(DEVICE_OBJECT) + 15) / 16 * 16, (fixed + 15) / 16 * 16);
    CHECK_EQ(device->Type, IO_TYPE_DEVICE);
    CHECK_EQ(device->Size, fixed + 40);
    CHECK_EQ(device->ReferenceCount, 0);
    CHECK_PTR(device->DriverObject, ktest_driver);
    CHECK_PTR(ktest_driver->DeviceObject, device);
    CHECK_PTR(device->NextDevice, ktest_device);
    CHECK_PTR(device->AttachedDevice, NULL);
    CHECK_PTR(device->CurrentIrp, NULL);
    CHECK_EQ(device->Flags, DO_DEVICE_INITIALIZING | DO_DEVICE_HAS_NAME | DO_EXCLUSIVE);
    CHECK_EQ(device->Characteristics, FILE_DEVICE_SECURE_OPEN);
    CHECK_EQ(device->DeviceType, 0x8123);
    CHECK_EQ(device->StackSize, 1);
    CHECK_EQ(device->AlignmentRequirement, 0);
    CHECK_PTR(device->DeviceExtension, (char *)device + fixed);
    CHECK_EQ(*(ULONG *)device->DeviceExtension, 0);
    CHECK_EQ(((ULONG *)device->DeviceExtension)[9], 0);
    CHECK(device->DeviceObjectExtension != NULL);
    CHECK_PTR(device->DeviceObjectExtension->DeviceObject, device);
    CHECK_EQ(device->DeviceQueue.Type, 20);
    CHECK_EQ(device->DeviceQueue.Busy, FALSE);
    CHECK_STATUS(IoCreateDevice(ktest_driver, 0, &name, 1, 0, FALSE, &other), STATUS_OBJECT_NAME_COLLISION);
    CHECK_PTR(other, NULL);
    RtlInitUnicodeString(&name, L"\\NoSuchDirectory\\x");
    CHECK_STATUS(IoCreateDevice(ktest_driver, 0, &name, 1, 0, FALSE, &other), STATUS_OBJECT_PATH_NOT_FOUND);
    RtlInitUnicodeString(&name, L"Relative");
    CHECK_STATUS(IoCreateDevice(ktest_driver, 0, &name, 1, 0, FALSE, &other), STATUS_OBJECT_PATH_SYNTAX_BAD);
    CHECK_STATUS(IoCreateDevice(ktest_driver, 0, NULL, 1, 0, FALSE, &other), STATUS_SUCCESS);
    CHECK_PTR(other->DeviceExtension, NULL);
    CHECK_EQ(other->Flags, DO_DEVICE_INITIALIZING);
    CHECK_PTR(other->NextDevice, device);
    IoDeleteDevice(device);
    CHECK_PTR(other->NextDevice, ktest_device);
    IoDeleteDevice(other);
    CHECK_PTR(ktest_driver->DeviceObject, ktest_device);
}

KTEST(links)
{
    UNICODE_STRING link, target, same;
    RtlInitUnicodeString(&link, L"\\DosDevices\\KtLink");
    RtlInitUnicodeString(&same, L"\\??\\KTLINK");
    RtlInitUnicodeString(&target, L"\\Device\\ktest");
    CHECK_STATUS(IoCreateSymbolicLink(&link, &target), STATUS_SUCCESS);
    CHECK_STATUS(IoCreateSymbolicLink(&link, &target), STATUS_OBJECT_NAME_COLLISION);
    CHECK_STATUS(IoCreateUnprotectedSymbolicLink(&same, &target), STATUS_OBJECT_NAME_COLLISION);
    CHECK_STATUS(IoDeleteSymbolicLink(&same), STATUS_SUCCESS);
    CHECK_STATUS(IoDeleteSymbolicLink(&link), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(IoDeleteSymbolicLink(&target), STATUS_OBJECT_TYPE_MISMATCH);
    RtlInitUnicodeString(&link, L"\\ArcName\\scsi(0)disk(0)");
    CHECK_STATUS(IoAssignArcName(&link, &target), STATUS_SUCCESS);
    CHECK_STATUS(IoDeassignArcName(&link), STATUS_SUCCESS);
}

KTEST(stack)
{
    UNICODE_STRING name;
    PDEVICE_OBJECT below = (PVOID)1, found;
    PDEVICE_OBJECT bottom = new_device(L"\\Device\\KtBottom", NULL), middle = new_device(NULL, NULL), top = new_device(NULL, NULL);
    bottom->AlignmentRequirement = FILE_LONG_ALIGNMENT;
    bottom->SectorSize = 512;
    CHECK_PTR(IoGetAttachedDevice(bottom), bottom);
    RtlInitUnicodeString(&name, L"\\Device\\KtBottom");
    CHECK_STATUS(IoAttachDevice(middle, &name, &below), STATUS_SUCCESS);
    CHECK_PTR(below, bottom);
    CHECK_PTR(bottom->AttachedDevice, middle);
    CHECK_EQ(middle->StackSize, 2);
    CHECK_EQ(middle->AlignmentRequirement, FILE_LONG_ALIGNMENT);
    CHECK_EQ(middle->SectorSize, 512);
    below = (PVOID)1;
    CHECK_STATUS(IoAttachDeviceToDeviceStackSafe(top, bottom, &below), STATUS_SUCCESS);
    CHECK_PTR(below, middle);
    CHECK_EQ(top->StackSize, 3);
    CHECK_PTR(IoGetAttachedDevice(bottom), top);
    found = IoGetAttachedDeviceReference(middle);
    CHECK_PTR(found, top);
    ObDereferenceObject(found);
    found = IoGetLowerDeviceObject(top);
    CHECK_PTR(found, middle);
    ObDereferenceObject(found);
    CHECK_PTR(IoGetLowerDeviceObject(bottom), NULL);
    found = IoGetDeviceAttachmentBaseRef(top);
    CHECK_PTR(found, bottom);
    ObDereferenceObject(found);
    RtlInitUnicodeString(&name, L"\\Device\\KtNothing");
    CHECK_STATUS(IoAttachDevice(top, &name, &below), STATUS_OBJECT_NAME_NOT_FOUND);
    /* A device with another on top is deleted when that is detached. */
    IoDetachDevice(middle);
    CHECK_PTR(middle->AttachedDevice, NULL);
    IoDeleteDevice(top);
    ObReferenceObject(bottom);
    IoDeleteDevice(bottom);
    CHECK_PTR(bottom->AttachedDevice, middle);
    IoDetachDevice(bottom);
    CHECK_PTR(bottom->AttachedDevice, NULL);
    CHECK_PTR(IoAttachDeviceToDeviceStack(middle, bottom), NULL); /* but this one is */
    ObDereferenceObject(bottom);
    IoDeleteDevice(middle);
}

KTEST(enumerate)
{
    PDEVICE_OBJECT list[4] = {0}, device = new_device(NULL, NULL);
    ULONG count = 0;
    CHECK_STATUS(IoEnumerateDeviceObjectList(ktest_driver, NULL, 0, &count), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(count, 2);
    CHECK_STATUS(IoEnumerateDeviceObjectList(ktest_driver, list, sizeof(list), &count), STATUS_SUCCESS);
    CHECK_EQ(count, 2);
    CHECK_PTR(list[0], device);
    CHECK_PTR(list[1], ktest_device);
    CHECK_PTR(list[2], NULL);
    ObDereferenceObject(list[0]);
    ObDereferenceObject(list[1]);
    IoDeleteDevice(device);
}

KTEST(object_pointer)
{
    UNICODE_STRING name;
    PFILE_OBJECT file;
    PDEVICE_OBJECT found, bottom = new_device(L"\\Device\\KtOpen", NULL), top = new_device(NULL, NULL);
    struct extension *seen = extension_of(top);
    IoAttachDeviceToDeviceStack(top, bottom);
    RtlInitUnicodeString(&name, L"\\Device\\KtOpen\\rest");
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_SUCCESS);
    CHECK_PTR(found, top);
    CHECK_PTR(file->DeviceObject, bottom);
    CHECK_EQ(file->Type, IO_TYPE_FILE);
    CHECK_EQ(file->ReadAccess, TRUE);
    CHECK_EQ(file->WriteAccess, FALSE);
    CHECK_EQ(file->FileName.Length, 10);
    CHECK_MEM(file->FileName.Buffer, L"\\rest", 10);
    CHECK_PTR(IoGetRelatedDeviceObject(file), top);
    CHECK_EQ(bottom->ReferenceCount, 1);
    CHECK_EQ(seen->seen[IRP_MJ_CREATE], 1);
    CHECK_EQ(seen->seen[IRP_MJ_CLEANUP], 1); /* NT closes its handle at once */
    CHECK_EQ(seen->seen[IRP_MJ_CLOSE], 0);
    ObDereferenceObject(file);
    CHECK_EQ(seen->seen[IRP_MJ_CLOSE], 1);
    CHECK_EQ(bottom->ReferenceCount, 0);
    RtlInitUnicodeString(&name, L"\\Device\\KtNothing");
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_OBJECT_NAME_NOT_FOUND);
    /* A device with an open file goes when that is closed. */
    RtlInitUnicodeString(&name, L"\\Device\\KtOpen");
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_SUCCESS);
    IoDetachDevice(bottom);
    IoDeleteDevice(bottom);
    CHECK_PTR(top->NextDevice, bottom);
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_READ_DATA, &file, &found), STATUS_OBJECT_NAME_NOT_FOUND);
    ObDereferenceObject(file);
    CHECK_PTR(top->NextDevice, ktest_device);
    IoDeleteDevice(top);
}

KTEST(queue)
{
    KDEVICE_QUEUE queue;
    KDEVICE_QUEUE_ENTRY a, b, c, d;
    KIRQL irql;
    KeInitializeDeviceQueue(&queue);
    CHECK_EQ(queue.Type, 20);
    CHECK_EQ(queue.Size, sizeof(KDEVICE_QUEUE));
    CHECK_EQ(queue.Busy, FALSE);
    CHECK(IsListEmpty(&queue.DeviceListHead));
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    CHECK_PTR(KeRemoveByKeyDeviceQueueIfBusy(&queue, 1), NULL);
    CHECK_EQ(KeInsertDeviceQueue(&queue, &a), FALSE);
    CHECK_EQ(a.Inserted, FALSE);
    CHECK_EQ(queue.Busy, TRUE);
    CHECK_EQ(KeInsertDeviceQueue(&queue, &b), TRUE);
    CHECK_EQ(b.Inserted, TRUE);
    CHECK_EQ(KeInsertDeviceQueue(&queue, &c), TRUE);
    CHECK_EQ(KeRemoveEntryDeviceQueue(&queue, &b), TRUE);
    CHECK_EQ(b.Inserted, FALSE);
    CHECK_EQ(KeRemoveEntryDeviceQueue(&queue, &b), FALSE);
    CHECK_PTR(KeRemoveDeviceQueue(&queue), &c);
    CHECK_EQ(queue.Busy, TRUE);
    CHECK_PTR(KeRemoveDeviceQueue(&queue), NULL);
    CHECK_EQ(queue.Busy, FALSE);
    CHECK_EQ(KeInsertByKeyDeviceQueue(&queue, &a, 9), FALSE);
    CHECK_EQ(KeInsertByKeyDeviceQueue(&queue, &b, 5), TRUE);
    CHECK_EQ(KeInsertByKeyDeviceQueue(&queue, &c, 3), TRUE);
    CHECK_EQ(KeInsertByKeyDeviceQueue(&queue, &d, 5), TRUE);
    CHECK_EQ(b.SortKey, 5);
    CHECK_PTR(queue.DeviceListHead.Flink, &c.DeviceListEntry);
    CHECK_PTR(c.DeviceListEntry.Flink, &b.DeviceListEntry); /* equal keys stay in order */
    CHECK_PTR(b.DeviceListEntry.Flink, &d.DeviceListEntry);
    CHECK_PTR(KeRemoveByKeyDeviceQueue(&queue, 4), &b);
    CHECK_PTR(KeRemoveByKeyDeviceQueue(&queue, 6), &c); /* none is as great: the first */
    CHECK_PTR(KeRemoveByKeyDeviceQueueIfBusy(&queue, 5), &d);
    CHECK_PTR(KeRemoveByKeyDeviceQueue(&queue, 5), NULL);
    CHECK_EQ(queue.Busy, FALSE);
    KeLowerIrql(irql);
}

static PIRP started[8];
static ULONG start_count, depth, deepest;
static BOOLEAN start_next;

static VOID NTAPI start_io(PDEVICE_OBJECT device, PIRP irp)
{
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_PTR(device->CurrentIrp, irp);
    started[start_count++ % 8] = irp;
    if (++depth > deepest) {
        deepest = depth;
    }
    if (start_next) {
        IoStartNextPacket(device, FALSE);
    }
    depth--;
}

KTEST(start_io)
{
    KIRQL irql;
    PDEVICE_OBJECT device = new_device(NULL, NULL);
    PIRP irps[4];
    ULONG keys[4] = {0, 30, 10, 20};
    ktest_driver->DriverStartIo = start_io;
    for (ULONG i = 0; i < 4; i++) {
        irps[i] = IoAllocateIrp(1, FALSE);
        IoStartPacket(device, irps[i], &keys[i], NULL);
    }
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_EQ(start_count, 1);
    CHECK_PTR(started[0], irps[0]);
    CHECK_PTR(device->CurrentIrp, irps[0]);
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    IoStartNextPacketByKey(device, FALSE, 15);
    CHECK_PTR(started[1], irps[3]);
    IoStartNextPacket(device, FALSE);
    CHECK_PTR(started[2], irps[2]);
    IoStartNextPacket(device, TRUE);
    CHECK_PTR(started[3], irps[1]);
    CHECK_EQ(device->DeviceQueue.Busy, TRUE);
    IoStartNextPacket(device, FALSE);
    CHECK_EQ(start_count, 4);
    CHECK_PTR(device->CurrentIrp, NULL);
    CHECK_EQ(device->DeviceQueue.Busy, FALSE);
    /* StartIo that asks for the next packet is called inside of itself, unless it is deferred. */
    for (ULONG deferred = 0; deferred < 2; deferred++) {
        IoSetStartIoAttributes(device, (BOOLEAN)deferred, FALSE);
        start_count = depth = deepest = 0, start_next = FALSE;
        for (ULONG i = 0; i < 4; i++) {
            IoStartPacket(device, irps[i], NULL, NULL);
        }
        start_next = TRUE;
        IoStartNextPacket(device, FALSE);
        CHECK_EQ(start_count, 4);
        CHECK_EQ(deepest, deferred ? 1 : 3);
        CHECK_EQ(device->DeviceQueue.Busy, FALSE);
    }
    KeLowerIrql(irql);
    for (ULONG i = 0; i < 4; i++) {
        IoFreeIrp(irps[i]);
    }
    IoDeleteDevice(device);
}

static ULONG ticks;
static VOID NTAPI on_timer(PDEVICE_OBJECT device, PVOID context)
{
    CHECK_EQ(KeGetCurrentIrql(), DISPATCH_LEVEL);
    CHECK_PTR(context, (PVOID)5);
    if (++ticks == 2) {
        IoStopTimer(device);
    }
}

KTEST(timer)
{
    LARGE_INTEGER time = {.QuadPart = -35000000LL};
    PDEVICE_OBJECT device = new_device(NULL, NULL);
    CHECK_STATUS(IoInitializeTimer(device, on_timer, (PVOID)5), STATUS_SUCCESS);
    CHECK(device->Timer != NULL);
    IoStartTimer(device);
    KeDelayExecutionThread(KernelMode, FALSE, &time);
    CHECK_EQ(ticks, 2);
    IoDeleteDevice(device);
}

static ULONG allocations;
static IO_ALLOCATION_ACTION NTAPI on_controller(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    (VOID)device, (VOID)irp;
    CHECK_PTR(base, NULL);
    allocations = allocations * 10 + (ULONG)(ULONG_PTR)context;
    return context == (PVOID)2 ? DeallocateObject : KeepObject;
}

KTEST(controller)
{
    KIRQL irql;
    PCONTROLLER_OBJECT controller = IoCreateController(16);
    PDEVICE_OBJECT devices[3] = {new_device(NULL, NULL), new_device(NULL, NULL), new_device(NULL, NULL)};
    CHECK(controller != NULL);
    CHECK_EQ(controller->Type, IO_TYPE_CONTROLLER);
    CHECK_EQ(*(ULONG *)controller->ControllerExtension, 0);
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    IoAllocateController(controller, devices[0], on_controller, (PVOID)1);
    CHECK_EQ(allocations, 1);
    IoAllocateController(controller, devices[1], on_controller, (PVOID)2);
    IoAllocateController(controller, devices[2], on_controller, (PVOID)3);
    CHECK_EQ(allocations, 1);
    IoFreeController(controller);
    CHECK_EQ(allocations, 123); /* the second gave it back at once */
    IoFreeController(controller);
    CHECK_EQ(controller->DeviceWaitQueue.Busy, FALSE);
    KeLowerIrql(irql);
    IoDeleteController(controller);
    for (ULONG i = 0; i < 3; i++) {
        IoDeleteDevice(devices[i]);
    }
}

static BOOLEAN NTAPI on_interrupt(PKINTERRUPT interrupt, PVOID context)
{
    (VOID)interrupt, (VOID)context;
    return TRUE;
}

static KIRQL device_irql;
static BOOLEAN NTAPI critical(PVOID context)
{
    CHECK_EQ(KeGetCurrentIrql(), device_irql);
    return context != NULL;
}

KTEST(interrupt)
{
    KIRQL irql = 0;
    KAFFINITY affinity = 0;
    PKINTERRUPT interrupt = (PVOID)1, second = (PVOID)1;
    ULONG vector = HalGetInterruptVector(Isa, 0, 7, 7, &irql, &affinity);
    CHECK(vector != 0);
    CHECK(irql > DISPATCH_LEVEL);
    CHECK_EQ(affinity, 1);
    device_irql = irql;
    CHECK_STATUS(IoConnectInterrupt(&interrupt, on_interrupt, NULL, NULL, vector, irql, irql - 1, Latched, FALSE, affinity, FALSE),
                 STATUS_INVALID_PARAMETER);
    CHECK_PTR(interrupt, NULL);
    CHECK_STATUS(IoConnectInterrupt(&interrupt, on_interrupt, NULL, NULL, vector, irql, irql, Latched, FALSE, affinity, FALSE),
                 STATUS_SUCCESS);
    CHECK_STATUS(IoConnectInterrupt(&second, on_interrupt, NULL, NULL, vector, irql, irql, Latched, TRUE, affinity, FALSE),
                 STATUS_INVALID_PARAMETER);
    CHECK_EQ(KeSynchronizeExecution(interrupt, critical, (PVOID)1), TRUE);
    CHECK_EQ(KeSynchronizeExecution(interrupt, critical, NULL), FALSE);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    irql = KeAcquireInterruptSpinLock(interrupt);
    CHECK_EQ(irql, PASSIVE_LEVEL);
    CHECK_EQ(KeGetCurrentIrql(), device_irql);
    KeReleaseInterruptSpinLock(interrupt, irql);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    IoDisconnectInterrupt(interrupt);
}

KTEST(error_log)
{
    PIO_ERROR_LOG_PACKET packet = IoAllocateErrorLogEntry(ktest_device, sizeof(IO_ERROR_LOG_PACKET));
    CHECK(packet != NULL);
    CHECK_PTR(IoAllocateErrorLogEntry(ktest_device, 4), NULL);
    CHECK_PTR(IoAllocateErrorLogEntry(ktest_device, 0xFF), NULL);
    CHECK_PTR(IoAllocateErrorLogEntry(NULL, sizeof(IO_ERROR_LOG_PACKET)), NULL);
    CHECK_EQ(packet->ErrorCode, 0);
    packet->ErrorCode = 0xC0040001;
    packet->UniqueErrorValue = 5;
    IoWriteErrorLogEntry(packet);
    packet = IoAllocateErrorLogEntry(ktest_driver, sizeof(IO_ERROR_LOG_PACKET) + 8);
    CHECK(packet != NULL);
    IoFreeErrorLogEntry(packet);
}

static const char identity[] = "identity";

KTEST(driver_extension)
{
    PVOID extension = (PVOID)1, again = (PVOID)1;
    CHECK_STATUS(IoAllocateDriverObjectExtension(ktest_driver, (PVOID)identity, 24, &extension), STATUS_SUCCESS);
    CHECK_EQ(((UCHAR *)extension)[23], 0);
    CHECK_PTR(IoGetDriverObjectExtension(ktest_driver, (PVOID)identity), extension);
    CHECK_PTR(IoGetDriverObjectExtension(ktest_driver, &again), NULL);
    CHECK_STATUS(IoAllocateDriverObjectExtension(ktest_driver, (PVOID)identity, 24, &again), STATUS_OBJECT_NAME_COLLISION);
    CHECK_PTR(again, NULL);
    CHECK_STATUS(IoAllocateDriverObjectExtension(ktest_driver, &again, 24, &again), STATUS_SUCCESS);
}

KTEST(questions)
{
    ULONG_PTR low, high, here = (ULONG_PTR)&low;
    ULONG offset = 99;
    IoGetStackLimits(&low, &high);
    CHECK(low < here && here < high);
    CHECK(IoGetRemainingStackSize() <= here - low);
    CHECK(IoGetRemainingStackSize() > 0x400);
    CHECK(IoIsWdmVersionAvailable(1, 0x10));
    CHECK(IoIsWdmVersionAvailable(6, 0));
    CHECK(!IoIsWdmVersionAvailable(7, 0));
    PCONFIGURATION_INFORMATION configuration = IoGetConfigurationInformation();
    CHECK_EQ(configuration->ParallelCount, 0);
    configuration->ParallelCount++;
    CHECK_EQ(IoGetConfigurationInformation()->ParallelCount, 1);
    static struct { ULONG next; UCHAR flags, name_bytes; USHORT value_bytes; char text[8]; } ea[2] = {
        {16, 0, 2, 1, "AB\0v"}, {0, 0, 1, 0, "C"}};
    CHECK_STATUS(IoCheckEaBufferValidity(ea, sizeof(ea), &offset), STATUS_SUCCESS);
    ea[1].text[1] = 'x';
    CHECK_STATUS(IoCheckEaBufferValidity(ea, sizeof(ea), &offset), STATUS_EA_LIST_INCONSISTENT);
    CHECK_EQ(offset, 16);
    ea[0].next = 13;
    CHECK_STATUS(IoCheckEaBufferValidity(ea, sizeof(ea), &offset), STATUS_EA_LIST_INCONSISTENT);
    CHECK_EQ(offset, 0);
    CHECK_STATUS(IoWMIRegistrationControl(ktest_device, 2), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(IoWMIRegistrationControl(ktest_device, 1), STATUS_SUCCESS);
    CHECK_STATUS(IoWMIRegistrationControl(ktest_device, 2), STATUS_SUCCESS);
    CHECK_STATUS(IoWMIRegistrationControl(ktest_device, 77), STATUS_INVALID_PARAMETER);
}

KTEST(shutdown)
{
    PDEVICE_OBJECT device = new_device(NULL, NULL);
    CHECK_STATUS(IoRegisterShutdownNotification(device), STATUS_SUCCESS);
    CHECK_EQ(device->Flags & DO_SHUTDOWN_REGISTERED, DO_SHUTDOWN_REGISTERED);
    IoUnregisterShutdownNotification(device);
    CHECK_EQ(device->Flags & DO_SHUTDOWN_REGISTERED, 0);
    CHECK_STATUS(IoRegisterShutdownNotification(device), STATUS_SUCCESS);
    IoDeleteDevice(device);
}

KTEST_BUGCHECK(create_device_at_dispatch_level, 0x0A)
{
    KIRQL irql;
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    new_device(NULL, NULL);
}

KTEST_BUGCHECK(queue_above_dispatch_level, 0x0A)
{
    KIRQL irql;
    KDEVICE_QUEUE queue;
    KDEVICE_QUEUE_ENTRY entry;
    KeInitializeDeviceQueue(&queue);
    KeRaiseIrql(DISPATCH_LEVEL + 1, &irql);
    KeInsertDeviceQueue(&queue, &entry);
}

KTEST_FAMILY("device", KTEST_ENTRY(create), KTEST_ENTRY(links), KTEST_ENTRY(stack), KTEST_ENTRY(enumerate),
             KTEST_ENTRY(object_pointer), KTEST_ENTRY(queue), KTEST_ENTRY(start_io), KTEST_ENTRY(timer),
             KTEST_ENTRY(controller), KTEST_ENTRY(interrupt), KTEST_ENTRY(error_log), KTEST_ENTRY(driver_extension),
             KTEST_ENTRY(questions), KTEST_ENTRY(shutdown), KTEST_BUGCHECK_ENTRY(create_device_at_dispatch_level),
             KTEST_BUGCHECK_ENTRY(queue_above_dispatch_level));
