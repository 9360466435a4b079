/* WMI: a provider of this driver's own, what it is asked, and consumers of its data and events. */
#define KTEST_START wmi_start
#include "ktest.h"

#ifdef __x86_64__
#define EXPORT(name, bytes) __asm__(#name)
#else
#define EXPORT(name, bytes) __asm__("_" #name "@" #bytes)
#endif
NTSTATUS NTAPI control(PDEVICE_OBJECT device, ULONG action) EXPORT(IoWMIRegistrationControl, 8);
NTSTATUS NTAPI write_event(PVOID event) EXPORT(IoWMIWriteEvent, 4);
NTSTATUS NTAPI open_block(const GUID *guid, ULONG access, PVOID *object) EXPORT(IoWMIOpenBlock, 12);
NTSTATUS NTAPI query_all(PVOID object, PULONG size, PVOID buffer) EXPORT(IoWMIQueryAllData, 12);
NTSTATUS NTAPI query_one(PVOID object, PUNICODE_STRING name, PULONG size, PVOID buffer)
    EXPORT(IoWMIQuerySingleInstance, 16);
NTSTATUS NTAPI set_one(PVOID object, PUNICODE_STRING name, ULONG version, ULONG size, PVOID value)
    EXPORT(IoWMISetSingleInstance, 20);
NTSTATUS NTAPI set_item(PVOID object, PUNICODE_STRING name, ULONG item, ULONG version, ULONG size, PVOID value)
    EXPORT(IoWMISetSingleItem, 24);
NTSTATUS NTAPI execute(PVOID object, PUNICODE_STRING name, ULONG method, ULONG in, PULONG out, PVOID buffer)
    EXPORT(IoWMIExecuteMethod, 24);
NTSTATUS NTAPI set_callback(PVOID object, PVOID callback, PVOID context) EXPORT(IoWMISetNotificationCallback, 12);
NTSTATUS NTAPI instance_name(PVOID object, PDEVICE_OBJECT device, PUNICODE_STRING name)
    EXPORT(IoWMIDeviceObjectToInstanceName, 12);
NTSTATUS NTAPI allocate_ids(const GUID *guid, ULONG count, PULONG first) EXPORT(IoWMIAllocateInstanceIds, 12);
ULONG NTAPI provider_id(PDEVICE_OBJECT device) EXPORT(IoWMIDeviceObjectToProviderId, 4);

#define GUID_NOT_FOUND ((NTSTATUS)0xC0000295)
#define INSTANCE_NOT_FOUND ((NTSTATUS)0xC0000297)
#define REGISTER 1
#define DEREGISTER 2

static const GUID data_guid = {0x10101010, 0x2222, 0x3333, {1, 2, 3, 4, 5, 6, 7, 8}};
static const GUID event_guid = {0x20202020, 0x2222, 0x3333, {1, 2, 3, 4, 5, 6, 7, 8}};
static const GUID unknown_guid = {0x30303030, 0x2222, 0x3333, {1, 2, 3, 4, 5, 6, 7, 8}};

/* WNODE_HEADER and what follows in the kinds that are used here. */
typedef struct {
    ULONG BufferSize, ProviderId, Version, Linkage;
    LARGE_INTEGER TimeStamp;
    GUID Guid;
    ULONG ClientContext, Flags;
} WNODE;
typedef struct {
    WNODE Header;
    ULONG DataBlockOffset, InstanceCount, OffsetInstanceNameOffsets, FixedInstanceSize;
} ALL_DATA;
typedef struct {
    WNODE Header;
    ULONG OffsetInstanceName, InstanceIndex, DataBlockOffset, SizeDataBlock;
} SINGLE;
typedef struct {
    WNODE Header;
    ULONG OffsetInstanceName, InstanceIndex, Id, DataBlockOffset, SizeDataBlock;
} WITH_ID;
typedef struct {
    GUID Guid;
    ULONG Flags, InstanceCount;
    ULONG_PTR Value;
} INFO_GUID;
typedef struct {
    ULONG BufferSize, NextWmiRegInfo, RegistryPath, MofResourceName, GuidCount;
    INFO_GUID Guids[2];
} INFO;

static PDEVICE_OBJECT provider;
static ULONG values[2] = {11, 22};
static ULONG minors, asked_too_small, foreign;
static KEVENT registered, arrived, switched;
static PVOID event_seen, context_seen;
static ULONG event_value;

static ULONG reginfo(UCHAR *buffer, ULONG bytes)
{
    INFO *info = (INFO *)buffer;
    ULONG names_at = sizeof(INFO), needed = sizeof(INFO) + 2 + 8;
    if (asked_too_small == 0) { /* it asks again, with more */
        asked_too_small = 1;
        *(ULONG *)buffer = bytes + 100;
        return 4;
    }
    RtlZeroMemory(info, sizeof *info);
    info->BufferSize = needed;
    info->GuidCount = 2;
    info->Guids[0].Guid = data_guid;
    info->Guids[0].Flags = 8; /* WMIREG_FLAG_INSTANCE_BASENAME */
    info->Guids[0].InstanceCount = 2;
    info->Guids[0].Value = names_at;
    info->Guids[1].Guid = event_guid;
    info->Guids[1].Flags = 8;
    info->Guids[1].InstanceCount = 1;
    info->Guids[1].Value = names_at;
    *(USHORT *)(buffer + names_at) = 8;
    RtlCopyMemory(buffer + names_at + 2, L"Base", 8);
    return needed;
}

static NTSTATUS NTAPI on_system_control(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    UCHAR *buffer = stack->Parameters.WMI.Buffer;
    ULONG room = stack->Parameters.WMI.BufferSize, used = 0;
    NTSTATUS status = STATUS_SUCCESS;
    minors |= 1u << stack->MinorFunction;
    foreign += stack->Parameters.WMI.ProviderId != (ULONG_PTR)device;
    switch (stack->MinorFunction) {
    case 11: /* IRP_MN_REGINFO_EX, which this provider does not know */
        status = irp->IoStatus.Status;
        break;
    case 8: /* IRP_MN_REGINFO */
        used = reginfo(buffer, room);
        status = used == 4 ? STATUS_BUFFER_TOO_SMALL : STATUS_SUCCESS;
        if (used != 4) {
            KeSetEvent(&registered, 0, FALSE);
        }
        break;
    case 0: { /* IRP_MN_QUERY_ALL_DATA */
        ALL_DATA *all = (ALL_DATA *)buffer;
        all->Header.BufferSize = used = sizeof(ALL_DATA) + sizeof values;
        all->Header.Flags |= 0x10; /* WNODE_FLAG_FIXED_INSTANCE_SIZE */
        all->DataBlockOffset = sizeof(ALL_DATA);
        all->InstanceCount = 2;
        all->FixedInstanceSize = 4;
        RtlCopyMemory(buffer + sizeof(ALL_DATA), values, sizeof values);
        break;
    }
    case 1: { /* IRP_MN_QUERY_SINGLE_INSTANCE */
        SINGLE *single = (SINGLE *)buffer;
        *(ULONG *)(buffer + single->DataBlockOffset) = values[single->InstanceIndex & 1];
        single->SizeDataBlock = 4;
        single->Header.BufferSize = used = single->DataBlockOffset + 4;
        break;
    }
    case 2: { /* IRP_MN_CHANGE_SINGLE_INSTANCE */
        SINGLE *single = (SINGLE *)buffer;
        values[single->InstanceIndex & 1] = *(ULONG *)(buffer + single->DataBlockOffset);
        break;
    }
    case 3: { /* IRP_MN_CHANGE_SINGLE_ITEM */
        WITH_ID *item = (WITH_ID *)buffer;
        values[item->InstanceIndex & 1] = *(ULONG *)(buffer + item->DataBlockOffset) + item->Id;
        break;
    }
    case 9: { /* IRP_MN_EXECUTE_METHOD: its input twice */
        WITH_ID *method = (WITH_ID *)buffer;
        if (method->Id != 5) {
            status = (NTSTATUS)0xC0000298; /* STATUS_WMI_ITEMID_NOT_FOUND */
            break;
        }
        UCHAR *data = buffer + method->DataBlockOffset;
        RtlCopyMemory(data + method->SizeDataBlock, data, method->SizeDataBlock);
        method->SizeDataBlock *= 2;
        method->Header.BufferSize = used = method->DataBlockOffset + method->SizeDataBlock;
        break;
    }
    case 4: /* IRP_MN_ENABLE_EVENTS */
    case 5: /* IRP_MN_DISABLE_EVENTS */
        KeSetEvent(&switched, 0, FALSE);
        break;
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
    }
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = used;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static VOID wmi_start(PDRIVER_OBJECT driver)
{
    KeInitializeEvent(&registered, NotificationEvent, FALSE);
    KeInitializeEvent(&arrived, SynchronizationEvent, FALSE);
    KeInitializeEvent(&switched, SynchronizationEvent, FALSE);
    driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = on_system_control;
    if (NT_SUCCESS(IoCreateDevice(driver, 0, NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &provider))) {
        provider->Flags &= ~DO_DEVICE_INITIALIZING;
        control(provider, REGISTER);
    }
}

static NTSTATUS wait(PKEVENT event)
{
    LARGE_INTEGER timeout = {.QuadPart = -300000000LL};
    return KeWaitForSingleObject(event, Executive, KernelMode, FALSE, &timeout);
}

static UNICODE_STRING str(PCWSTR text)
{
    UNICODE_STRING string;
    RtlInitUnicodeString(&string, text);
    return string;
}

static VOID close_block(PVOID object)
{
    ObDereferenceObject(object);
}

/* The answer to IRP_MN_REGINFO is taken after the dispatch routine has returned. */
static BOOLEAN open_soon(const GUID *guid, ULONG access, PVOID *object)
{
    for (int i = 0; i < 1000; i++) {
        LARGE_INTEGER moment = {.QuadPart = -100000};
        if (NT_SUCCESS(open_block(guid, access, object))) {
            return TRUE;
        }
        KeDelayExecutionThread(KernelMode, FALSE, &moment);
    }
    return FALSE;
}

KTEST(a_provider_is_asked_what_it_has)
{
    PVOID block = NULL;
    CHECK_STATUS(wait(&registered), STATUS_SUCCESS);
    CHECK(minors & 1u << 11);
    CHECK(minors & 1u << 8);
    CHECK_EQ(asked_too_small, 1);
    CHECK_EQ(foreign, 0);
    CHECK_EQ(provider_id(provider), (ULONG)(ULONG_PTR)provider);
    CHECK_STATUS(open_block(&unknown_guid, 1, &block), GUID_NOT_FOUND);
    if (CHECK(open_soon(&data_guid, 1, &block))) {
        UNICODE_STRING name = {0, 0, NULL}, expected = str(L"Base0");
        CHECK_STATUS(instance_name(block, provider, &name), STATUS_SUCCESS);
        CHECK(RtlEqualUnicodeString(&name, &expected, FALSE));
        ExFreePool(name.Buffer);
        CHECK_STATUS(instance_name(block, ktest_device, &name), INSTANCE_NOT_FOUND);
        close_block(block);
    }
    CHECK_STATUS(control(ktest_device, 4), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(control(provider, 77), STATUS_INVALID_PARAMETER);
}

KTEST(data_is_queried_and_changed)
{
    PVOID block = NULL;
    static ULONGLONG space[64];
    ULONG size = 0, value = 33;
    UNICODE_STRING second = str(L"base1"), nobody = str(L"Base2");
    if (!CHECK(open_soon(&data_guid, 1, &block))) {
        return;
    }
    CHECK_STATUS(query_all(block, &size, NULL), STATUS_BUFFER_TOO_SMALL);
    CHECK(size >= sizeof(ALL_DATA) + 8 && size <= sizeof space);
    CHECK_STATUS(query_all(block, &size, space), STATUS_SUCCESS);
    ALL_DATA *all = (ALL_DATA *)space;
    UCHAR *bytes = (UCHAR *)space;
    CHECK_EQ(all->Header.BufferSize, size);
    CHECK_EQ(all->Header.Linkage, 0);
    CHECK_EQ(all->InstanceCount, 2);
    CHECK_EQ(((ULONG *)(bytes + all->DataBlockOffset))[1], 22);
    ULONG *offsets = (ULONG *)(bytes + all->OffsetInstanceNameOffsets);
    CHECK_EQ(*(USHORT *)(bytes + offsets[1]), 10);
    CHECK_MEM(bytes + offsets[1] + 2, L"Base1", 10);
    size = sizeof space;
    CHECK_STATUS(query_one(block, &second, &size, space), STATUS_SUCCESS);
    SINGLE *single = (SINGLE *)space;
    CHECK_EQ(single->InstanceIndex, 1);
    CHECK_EQ(*(ULONG *)(bytes + single->DataBlockOffset), 22);
    size = 8;
    CHECK_STATUS(query_one(block, &second, &size, space), STATUS_BUFFER_TOO_SMALL);
    CHECK(size > 8);
    CHECK_STATUS(query_one(block, &nobody, &size, space), INSTANCE_NOT_FOUND);
    CHECK_STATUS(set_one(block, &second, 1, 4, &value), STATUS_SUCCESS);
    CHECK_EQ(values[1], 33);
    CHECK_STATUS(set_item(block, &second, 7, 1, 4, &value), STATUS_SUCCESS);
    CHECK_EQ(values[1], 40);
    values[1] = 22;
    RtlCopyMemory(space, "abcd", 4);
    size = 4;
    CHECK_STATUS(execute(block, &second, 5, 4, &size, space), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(size, 8);
    CHECK_STATUS(execute(block, &second, 5, 4, &size, space), STATUS_SUCCESS);
    CHECK_MEM(space, "abcdabcd", 8);
    CHECK_STATUS(execute(block, &second, 6, 4, &size, space), (NTSTATUS)0xC0000298);
    close_block(block);
}

static VOID NTAPI on_event(PVOID wnode, PVOID context)
{
    event_seen = wnode;
    context_seen = context;
    event_value = *(ULONG *)((UCHAR *)wnode + sizeof(WNODE));
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    KeSetEvent(&arrived, 0, FALSE);
}

static PVOID make_event(const GUID *guid, ULONG value)
{
    WNODE *event = ExAllocatePoolWithTag(NonPagedPool, sizeof(WNODE) + 4, 0x696D5754);
    RtlZeroMemory(event, sizeof *event);
    event->BufferSize = sizeof(WNODE) + 4;
    event->Guid = *guid;
    event->Flags = 8; /* WNODE_FLAG_EVENT_ITEM */
    *(ULONG *)(event + 1) = value;
    return event;
}

KTEST(events_reach_their_consumers)
{
    PVOID block = NULL;
    KIRQL old;
    CHECK_STATUS(write_event(NULL), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(write_event(make_event(&event_guid, 1)), STATUS_SUCCESS); /* nobody wants it: it is freed */
    if (!CHECK(open_soon(&event_guid, 1 | 4, &block))) {
        return;
    }
    minors = 0;
    CHECK_STATUS(set_callback(block, on_event, &values), STATUS_SUCCESS);
    CHECK(minors & 1u << 4);
    CHECK_STATUS(wait(&switched), STATUS_SUCCESS);
    PVOID event = make_event(&event_guid, 77);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    NTSTATUS status = write_event(event);
    KeLowerIrql(old);
    CHECK_STATUS(status, STATUS_SUCCESS);
    CHECK_STATUS(wait(&arrived), STATUS_SUCCESS);
    CHECK_PTR(event_seen, event);
    CHECK_PTR(context_seen, values);
    CHECK_EQ(event_value, 77);
    CHECK_STATUS(write_event(make_event(&data_guid, 5)), STATUS_SUCCESS); /* another block's */
    close_block(block);
    CHECK_STATUS(wait(&switched), STATUS_SUCCESS);
    CHECK(minors & 1u << 5);
    CHECK_EQ(event_value, 77);
}

KTEST(instance_ids)
{
    ULONG first = 99, next = 99;
    CHECK_STATUS(allocate_ids(&unknown_guid, 3, &first), STATUS_SUCCESS);
    CHECK_STATUS(allocate_ids(&unknown_guid, 1, &next), STATUS_SUCCESS);
    CHECK_EQ(next, first + 3);
}

/* The last: the provider goes. */
KTEST(a_provider_that_is_gone_is_not_asked)
{
    PVOID block = NULL;
    if (!CHECK(open_soon(&data_guid, 1, &block))) {
        return;
    }
    CHECK_STATUS(control(provider, DEREGISTER), STATUS_SUCCESS);
    CHECK_STATUS(control(provider, DEREGISTER), STATUS_INVALID_PARAMETER);
    ULONG size = 0;
    CHECK_STATUS(query_all(block, &size, NULL), GUID_NOT_FOUND);
    close_block(block);
    CHECK_STATUS(open_block(&data_guid, 1, &block), GUID_NOT_FOUND);
    CHECK_EQ(provider_id(provider), 0);
    IoDeleteDevice(provider);
}

KTEST_FAMILY("wmi", KTEST_ENTRY(a_provider_is_asked_what_it_has), KTEST_ENTRY(data_is_queried_and_changed),
             KTEST_ENTRY(events_reach_their_consumers), KTEST_ENTRY(instance_ids),
             KTEST_ENTRY(a_provider_that_is_gone_is_not_asked));
