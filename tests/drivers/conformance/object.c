/* The object manager: types, references, handles, names, directories, links, events by handle, device I/O by handle. */
#include "devices.h"

NTKERNELAPI NTSTATUS NTAPI ObQueryNameString(PVOID object, PVOID information, ULONG length, PULONG needed);
NTKERNELAPI NTSTATUS NTAPI ObOpenObjectByPointer(PVOID object, ULONG attributes, PVOID state, ACCESS_MASK access,
                                                 POBJECT_TYPE type, KPROCESSOR_MODE mode, PHANDLE handle);
NTKERNELAPI NTSTATUS NTAPI ObReferenceObjectByName(PUNICODE_STRING name, ULONG attributes, PVOID state, ACCESS_MASK access,
                                                   POBJECT_TYPE type, KPROCESSOR_MODE mode, PVOID context, PVOID *object);
NTKERNELAPI POBJECT_TYPE NTAPI ObGetObjectType(PVOID object);
NTKERNELAPI NTSTATUS NTAPI ObCloseHandle(HANDLE handle, KPROCESSOR_MODE mode);
NTSYSAPI NTSTATUS NTAPI ZwQueryDirectoryObject(HANDLE directory, PVOID buffer, ULONG length, BOOLEAN single, BOOLEAN restart,
                                               PULONG context, PULONG returned);
NTSYSAPI NTSTATUS NTAPI ZwOpenDirectoryObject(PHANDLE handle, ACCESS_MASK access, POBJECT_ATTRIBUTES attributes);
NTSYSAPI NTSTATUS NTAPI ZwCreateSymbolicLinkObject(PHANDLE handle, ACCESS_MASK access, POBJECT_ATTRIBUTES attributes,
                                                   PUNICODE_STRING target);
NTSYSAPI NTSTATUS NTAPI ZwDuplicateObject(HANDLE from, HANDLE handle, HANDLE to, PHANDLE copy, ACCESS_MASK access,
                                          ULONG attributes, ULONG options);
NTSYSAPI NTSTATUS NTAPI ZwQueryObject(HANDLE handle, ULONG class, PVOID buffer, ULONG length, PULONG returned);
NTSYSAPI NTSTATUS NTAPI ZwResetEvent(HANDLE handle, PLONG previous);
NTSYSAPI NTSTATUS NTAPI ZwClearEvent(HANDLE handle);
NTSYSAPI NTSTATUS NTAPI ZwWaitForSingleObject(HANDLE handle, BOOLEAN alertable, PLARGE_INTEGER timeout);
NTSYSAPI NTSTATUS NTAPI ZwCreateEvent(PHANDLE handle, ACCESS_MASK access, POBJECT_ATTRIBUTES attributes, EVENT_TYPE type,
                                      BOOLEAN state);
NTSYSAPI NTSTATUS NTAPI ZwOpenEvent(PHANDLE handle, ACCESS_MASK access, POBJECT_ATTRIBUTES attributes);
NTSYSAPI NTSTATUS NTAPI ZwSetEvent(HANDLE handle, PLONG previous);
NTSYSAPI NTSTATUS NTAPI ZwFsControlFile(HANDLE file, HANDLE event, PVOID apc, PVOID context, PIO_STATUS_BLOCK block, ULONG code,
                                        PVOID input, ULONG input_bytes, PVOID output, ULONG output_bytes);
#define TYPE(name) (*name)

static OBJECT_ATTRIBUTES attributes;
static UNICODE_STRING text;

static POBJECT_ATTRIBUTES named(PCWSTR name, ULONG flags, HANDLE root)
{
    RtlInitUnicodeString(&text, name);
    InitializeObjectAttributes(&attributes, name == NULL ? NULL : &text, flags, root, NULL);
    return &attributes;
}

KTEST(types)
{
    CHECK(TYPE(IoFileObjectType) != NULL);
    CHECK(TYPE(ExEventObjectType) != NULL);
    CHECK(TYPE(PsThreadType) != NULL);
    CHECK(TYPE(IoFileObjectType) != TYPE(ExEventObjectType));
    CHECK_PTR(ObGetObjectType(ktest_device), ObGetObjectType(ktest_device));
    CHECK_PTR(ObGetObjectType(PsGetCurrentThread()), TYPE(PsThreadType));
    CHECK(ObGetObjectType(ktest_driver) != ObGetObjectType(ktest_device));
}

KTEST(reference_by_pointer)
{
    PVOID thread = PsGetCurrentThread();
    CHECK_STATUS(ObReferenceObjectByPointer(thread, 0, TYPE(PsThreadType), KernelMode), STATUS_SUCCESS);
    ObDereferenceObject(thread);
    CHECK_STATUS(ObReferenceObjectByPointer(thread, 0, NULL, KernelMode), STATUS_SUCCESS);
    ObDereferenceObject(thread);
    CHECK_STATUS(ObReferenceObjectByPointer(thread, 0, TYPE(ExEventObjectType), UserMode), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ObReferenceObjectByPointer(thread, 0, TYPE(PsThreadType), UserMode), STATUS_SUCCESS);
    ObDereferenceObject(thread);
}

KTEST(event_handles)
{
    HANDLE handle = NULL, other = NULL;
    PKEVENT event = NULL;
    OBJECT_HANDLE_INFORMATION information;
    LONG previous = 77;
    LARGE_INTEGER now = {.QuadPart = 0};
    CHECK_STATUS(ZwCreateEvent(&handle, EVENT_ALL_ACCESS, named(NULL, OBJ_KERNEL_HANDLE, NULL), NotificationEvent, FALSE),
                 STATUS_SUCCESS);
    CHECK((ULONG)(ULONG_PTR)handle & 0x80000000);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, EVENT_MODIFY_STATE, TYPE(ExEventObjectType), KernelMode, (PVOID *)&event,
                                           &information), STATUS_SUCCESS);
    CHECK_EQ(information.GrantedAccess, EVENT_ALL_ACCESS);
    CHECK_EQ(information.HandleAttributes, 0);
    CHECK_EQ(KeReadStateEvent(event), 0);
    CHECK_STATUS(ZwWaitForSingleObject(handle, FALSE, &now), STATUS_TIMEOUT);
    CHECK_STATUS(ZwSetEvent(handle, &previous), STATUS_SUCCESS);
    CHECK_EQ(previous, 0);
    CHECK_EQ(KeReadStateEvent(event), 1);
    CHECK_STATUS(ZwWaitForSingleObject(handle, FALSE, &now), STATUS_SUCCESS);
    CHECK_STATUS(ZwSetEvent(handle, &previous), STATUS_SUCCESS);
    CHECK_EQ(previous, 1);
    CHECK_STATUS(ZwResetEvent(handle, &previous), STATUS_SUCCESS);
    CHECK_EQ(previous, 1);
    CHECK_EQ(KeReadStateEvent(event), 0);
    KeSetEvent(event, 0, FALSE);
    CHECK_STATUS(ZwClearEvent(handle), STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(event), 0);
    ObDereferenceObject(event);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, 0, TYPE(IoFileObjectType), KernelMode, (PVOID *)&event, NULL),
                 STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_PTR(event, NULL);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, 0, TYPE(ExEventObjectType), UserMode, (PVOID *)&event, NULL),
                 STATUS_INVALID_HANDLE);
    CHECK_STATUS(ObCloseHandle(handle, UserMode), STATUS_INVALID_HANDLE);
    CHECK_STATUS(ObCloseHandle(handle, KernelMode), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(handle), STATUS_INVALID_HANDLE);
    CHECK_STATUS(ZwSetEvent(handle, NULL), STATUS_INVALID_HANDLE);
    /* A handle of the client's process. */
    CHECK_STATUS(ZwCreateEvent(&handle, EVENT_QUERY_STATE, NULL, SynchronizationEvent, TRUE), STATUS_SUCCESS);
    CHECK_EQ((ULONG)(ULONG_PTR)handle & 0x80000000, 0);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, EVENT_MODIFY_STATE, TYPE(ExEventObjectType), UserMode, (PVOID *)&event, NULL),
                 STATUS_ACCESS_DENIED);
    CHECK_STATUS(ObReferenceObjectByHandle(handle, EVENT_MODIFY_STATE, TYPE(ExEventObjectType), KernelMode, (PVOID *)&event, NULL),
                 STATUS_SUCCESS);
    CHECK_EQ(KeReadStateEvent(event), 1);
    CHECK_STATUS(ZwSetEvent(handle, NULL), STATUS_ACCESS_DENIED);
    CHECK_STATUS(ObOpenObjectByPointer(event, OBJ_KERNEL_HANDLE, NULL, GENERIC_ALL, TYPE(ExEventObjectType), KernelMode, &other),
                 STATUS_SUCCESS);
    CHECK_STATUS(ZwSetEvent(other, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(other), STATUS_SUCCESS);
    ObDereferenceObject(event);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    CHECK_STATUS(ZwCreateEvent(&handle, EVENT_ALL_ACCESS, NULL, 2, FALSE), STATUS_INVALID_PARAMETER);
}

KTEST(pseudo_handles)
{
    PVOID object = NULL;
    CHECK_STATUS(ObReferenceObjectByHandle((HANDLE)-1, 0, NULL, KernelMode, &object, NULL), STATUS_SUCCESS);
    CHECK_PTR(object, PsGetCurrentProcess());
    ObDereferenceObject(object);
    CHECK_STATUS(ObReferenceObjectByHandle((HANDLE)-2, 0, TYPE(PsThreadType), KernelMode, &object, NULL), STATUS_SUCCESS);
    CHECK_PTR(object, PsGetCurrentThread());
    ObDereferenceObject(object);
    CHECK_STATUS(ObReferenceObjectByHandle((HANDLE)-1, 0, TYPE(PsThreadType), KernelMode, &object, NULL),
                 STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ObReferenceObjectByHandle(NULL, 0, NULL, KernelMode, &object, NULL), STATUS_INVALID_HANDLE);
}

KTEST(event_names)
{
    HANDLE first, second;
    PKEVENT event, same;
    UNICODE_STRING name;
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\KtEvent", 0, NULL)),
                 STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(ZwCreateEvent(&first, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\KtEvent", 0, NULL), 0, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(ZwCreateEvent(&second, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\KtEvent", 0, NULL), 0, FALSE),
                 STATUS_OBJECT_NAME_COLLISION);
    CHECK_STATUS(ZwCreateEvent(&second, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\ktevent", OBJ_OPENIF | OBJ_CASE_INSENSITIVE, NULL),
                               0, FALSE), STATUS_OBJECT_NAME_EXISTS);
    CHECK_STATUS(ZwClose(second), STATUS_SUCCESS);
    CHECK_STATUS(ZwOpenEvent(&second, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\KtEvent", 0, NULL)), STATUS_SUCCESS);
    CHECK(first != second);
    CHECK_STATUS(ZwClose(first), STATUS_SUCCESS);
    CHECK_STATUS(ZwSetEvent(second, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(second), STATUS_SUCCESS);
    /* The name went with the last handle. */
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, named(L"\\BaseNamedObjects\\KtEvent", 0, NULL)),
                 STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, named(L"\\Device\\ktest", 0, NULL)), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, named(L"KtEvent", 0, NULL)), STATUS_OBJECT_PATH_SYNTAX_BAD);
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, named(L"\\Nowhere\\KtEvent", 0, NULL)), STATUS_OBJECT_PATH_NOT_FOUND);
    named(L"\\BaseNamedObjects\\KtEvent", 0, NULL)->Length = 4;
    CHECK_STATUS(ZwOpenEvent(&first, EVENT_ALL_ACCESS, &attributes), STATUS_INVALID_PARAMETER);
    RtlInitUnicodeString(&name, L"\\BaseNamedObjects\\KtIo");
    event = IoCreateNotificationEvent(&name, &first);
    CHECK(event != NULL);
    CHECK_EQ(KeReadStateEvent(event), 1);
    same = IoCreateSynchronizationEvent(&name, &second);
    CHECK_PTR(same, event);
    CHECK_STATUS(ZwClose(first), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(second), STATUS_SUCCESS);
}

KTEST(reference_by_name)
{
    PVOID object = NULL;
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, L"\\Device\\KTEST");
    CHECK_STATUS(ObReferenceObjectByName(&name, OBJ_CASE_INSENSITIVE, NULL, 0, ObGetObjectType(ktest_device), KernelMode, NULL,
                                         &object), STATUS_SUCCESS);
    CHECK_PTR(object, ktest_device);
    ObDereferenceObject(object);
    CHECK_STATUS(ObReferenceObjectByName(&name, 0, NULL, 0, TYPE(ExEventObjectType), KernelMode, NULL, &object),
                 STATUS_OBJECT_TYPE_MISMATCH);
    RtlInitUnicodeString(&name, L"\\Driver\\object");
    CHECK_STATUS(ObReferenceObjectByName(&name, 0, NULL, 0, NULL, KernelMode, NULL, &object), STATUS_SUCCESS);
    CHECK_PTR(object, ktest_driver);
    ObDereferenceObject(object);
    RtlInitUnicodeString(&name, L"\\Device\\KtNothing");
    CHECK_STATUS(ObReferenceObjectByName(&name, 0, NULL, 0, NULL, KernelMode, NULL, &object), STATUS_OBJECT_NAME_NOT_FOUND);
}

KTEST(query_name)
{
    struct { UNICODE_STRING name; WCHAR buffer[40]; } information;
    ULONG needed = 0;
    CHECK_STATUS(ObQueryNameString(ktest_device, &information, sizeof(information), &needed), STATUS_SUCCESS);
    CHECK_EQ(information.name.Length, 26);
    CHECK_EQ(information.name.MaximumLength, 28);
    CHECK_EQ(needed, sizeof(UNICODE_STRING) + 28);
    CHECK_PTR(information.name.Buffer, information.buffer);
    CHECK_MEM(information.name.Buffer, L"\\Device\\ktest", 28);
    CHECK_STATUS(ObQueryNameString(ktest_device, &information, 8, &needed), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(needed, sizeof(UNICODE_STRING) + 28);
    CHECK_STATUS(ObQueryNameString(PsGetCurrentThread(), &information, sizeof(information), &needed), STATUS_SUCCESS);
    CHECK_EQ(information.name.Length, 0);
    CHECK_PTR(information.name.Buffer, NULL);
    CHECK_EQ(needed, sizeof(UNICODE_STRING));
}

KTEST(directories_and_links)
{
    HANDLE directory, link, event, again;
    UNICODE_STRING target, result;
    WCHAR buffer[20];
    ULONG returned = 0, context = 0;
    union { struct { UNICODE_STRING name, type; } entries[4]; UCHAR bytes[512]; } list;
    CHECK_STATUS(ZwOpenDirectoryObject(&directory, DIRECTORY_QUERY, named(L"\\NoDirectory", 0, NULL)), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(ZwCreateDirectoryObject(&directory, DIRECTORY_ALL_ACCESS, named(L"\\KtDirectory", 0, NULL)), STATUS_SUCCESS);
    CHECK_STATUS(ZwCreateDirectoryObject(&again, DIRECTORY_ALL_ACCESS, named(L"\\KtDirectory", 0, NULL)), STATUS_OBJECT_NAME_COLLISION);
    CHECK_STATUS(ZwQueryDirectoryObject(directory, &list, sizeof(list), TRUE, TRUE, &context, &returned), STATUS_NO_MORE_ENTRIES);
    CHECK_STATUS(ZwCreateEvent(&event, EVENT_ALL_ACCESS, named(L"AnEvent", 0, directory), 0, FALSE), STATUS_SUCCESS);
    RtlInitUnicodeString(&target, L"\\Device\\ktest");
    CHECK_STATUS(ZwCreateSymbolicLinkObject(&link, SYMBOLIC_LINK_ALL_ACCESS, named(L"Link", 0, directory), &target), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryDirectoryObject(directory, &list, sizeof(list), FALSE, TRUE, &context, &returned), STATUS_SUCCESS);
    CHECK_EQ(context, 2);
    CHECK_EQ(list.entries[0].name.Length, 14);
    CHECK_MEM(list.entries[0].name.Buffer, L"AnEvent", 14);
    CHECK_MEM(list.entries[0].type.Buffer, L"Event", 10);
    CHECK_MEM(list.entries[1].name.Buffer, L"Link", 8);
    CHECK_MEM(list.entries[1].type.Buffer, L"SymbolicLink", 24);
    CHECK_PTR(list.entries[2].name.Buffer, NULL);
    CHECK_STATUS(ZwQueryDirectoryObject(directory, &list, sizeof(list), FALSE, FALSE, &context, &returned), STATUS_NO_MORE_ENTRIES);
    CHECK_STATUS(ZwQueryDirectoryObject(directory, &list, 8, TRUE, TRUE, &context, &returned), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(ZwQueryDirectoryObject(directory, &list, sizeof(list), TRUE, TRUE, &context, &returned), STATUS_SUCCESS);
    CHECK_EQ(context, 1);
    result.Length = 0, result.MaximumLength = sizeof(buffer), result.Buffer = buffer;
    CHECK_STATUS(ZwQuerySymbolicLinkObject(link, &result, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 26);
    CHECK_EQ(result.Length, 26);
    CHECK_MEM(buffer, L"\\Device\\ktest", 26);
    result.MaximumLength = 10;
    CHECK_STATUS(ZwQuerySymbolicLinkObject(link, &result, NULL), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(ZwQuerySymbolicLinkObject(directory, &result, NULL), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ZwOpenSymbolicLinkObject(&again, SYMBOLIC_LINK_QUERY, named(L"\\KtDirectory\\LINK", 0, NULL)), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(again), STATUS_SUCCESS);
    CHECK_STATUS(ZwOpenSymbolicLinkObject(&again, SYMBOLIC_LINK_QUERY, named(L"\\Device\\ktest", 0, NULL)), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ZwOpenDirectoryObject(&again, DIRECTORY_QUERY, named(L"\\", 0, NULL)), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(again), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(link), STATUS_SUCCESS);
    CHECK_STATUS(ZwOpenSymbolicLinkObject(&again, SYMBOLIC_LINK_QUERY, named(L"\\KtDirectory\\Link", 0, NULL)),
                 STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(ZwClose(event), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(directory), STATUS_SUCCESS);
    CHECK_STATUS(ZwOpenDirectoryObject(&directory, DIRECTORY_QUERY, named(L"\\KtDirectory", 0, NULL)), STATUS_OBJECT_NAME_NOT_FOUND);
}

KTEST(duplicate_and_query)
{
    HANDLE event, copy = NULL;
    ULONG basic[14], returned;
    struct { UNICODE_STRING name; UCHAR rest[200]; } type;
    CHECK_STATUS(ZwCreateEvent(&event, EVENT_ALL_ACCESS, named(NULL, 0, NULL), 0, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryObject(event, 0, basic, sizeof(basic), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 56);
    CHECK_EQ(basic[1], EVENT_ALL_ACCESS);
    CHECK_EQ(basic[2], 1); /* handles */
    CHECK_STATUS(ZwDuplicateObject((HANDLE)-1, event, (HANDLE)-1, &copy, EVENT_QUERY_STATE, 0, 0), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryObject(copy, 0, basic, sizeof(basic), NULL), STATUS_SUCCESS);
    CHECK_EQ(basic[1], EVENT_QUERY_STATE);
    CHECK_EQ(basic[2], 2);
    CHECK_STATUS(ZwSetEvent(copy, NULL), STATUS_ACCESS_DENIED);
    CHECK_STATUS(ZwClose(copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwDuplicateObject((HANDLE)-1, event, (HANDLE)-1, &copy, 0, 0, DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE),
                 STATUS_SUCCESS);
    CHECK_STATUS(ZwSetEvent(copy, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(event), event == copy ? STATUS_SUCCESS : STATUS_INVALID_HANDLE);
    CHECK_STATUS(ZwQueryObject(copy, 2, &type, sizeof(type), NULL), STATUS_SUCCESS);
    CHECK_MEM(type.name.Buffer, L"Event", 12);
    CHECK_STATUS(ZwQueryObject(copy, 0, basic, 8, NULL), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQueryObject(copy, 99, basic, sizeof(basic), NULL), STATUS_INVALID_INFO_CLASS);
    CHECK_STATUS(ZwClose(copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwDuplicateObject((HANDLE)-1, copy, (HANDLE)-1, &copy, 0, 0, 2), STATUS_INVALID_HANDLE);
}

KTEST(device_io_by_handle)
{
    PFILE_OBJECT file;
    PDEVICE_OBJECT found, device = new_device(L"\\Device\\KtIo", NULL);
    HANDLE handle, event;
    UNICODE_STRING name;
    IO_STATUS_BLOCK block = {0};
    RtlInitUnicodeString(&name, L"\\Device\\KtIo");
    CHECK_STATUS(IoGetDeviceObjectPointer(&name, FILE_ALL_ACCESS, &file, &found), STATUS_SUCCESS);
    CHECK_STATUS(ObOpenObjectByPointer(file, OBJ_KERNEL_HANDLE, NULL, FILE_ALL_ACCESS, TYPE(IoFileObjectType), KernelMode, &handle),
                 STATUS_SUCCESS);
    CHECK_STATUS(ZwCreateEvent(&event, EVENT_ALL_ACCESS, NULL, NotificationEvent, TRUE), STATUS_SUCCESS);
    block.Status = 0x77;
    CHECK_STATUS(ZwDeviceIoControlFile(handle, event, NULL, NULL, &block, CTL_CODE(0x22, 0x900, 0, 0), NULL, 0, NULL, 0),
                 STATUS_SUCCESS);
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_DEVICE_CONTROL], 1);
    CHECK_STATUS(ZwFsControlFile(handle, NULL, NULL, NULL, &block, CTL_CODE(9, 0x900, 0, 0), NULL, 0, NULL, 0), STATUS_SUCCESS);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_FILE_SYSTEM_CONTROL], 1);
    CHECK_STATUS(ZwDeviceIoControlFile(event, NULL, NULL, NULL, &block, 0, NULL, 0, NULL, 0), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(ZwDeviceIoControlFile(handle, (HANDLE)0x7770, NULL, NULL, &block, 0, NULL, 0, NULL, 0), STATUS_INVALID_HANDLE);
    CHECK_STATUS(ZwClose(event), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    ObDereferenceObject(file);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_CLOSE], 1);
    IoDeleteDevice(device);
}

static PIRP pended;
static ULONG apc_calls;
static PVOID apc_block;

static NTSTATUS pend_control(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (void)device;
    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL) {
        return finish(irp, STATUS_SUCCESS, 0);
    }
    if (stack->Parameters.DeviceIoControl.IoControlCode == CTL_CODE(0x22, 0x901, 0, 0)) {
        return finish(irp, STATUS_UNSUCCESSFUL, 0);
    }
    IoMarkIrpPending(irp);
    pended = irp;
    return STATUS_PENDING;
}

static VOID NTAPI count_apc(PVOID context, PIO_STATUS_BLOCK status, ULONG reserved)
{
    *(PULONG)context += 1 + reserved;
    apc_block = status;
}

KTEST(apc_routines_of_device_io)
{
    PDEVICE_OBJECT device = new_device(L"\\Device\\KtApc", pend_control);
    HANDLE handle;
    IO_STATUS_BLOCK block = {0};
    LARGE_INTEGER soon;
    PIO_APC_ROUTINE routine = (PIO_APC_ROUTINE)count_apc;
    soon.QuadPart = -10;
    apc_calls = 0;
    CHECK_STATUS(ZwOpenFile(&handle, GENERIC_READ, named(L"\\Device\\KtApc", OBJ_KERNEL_HANDLE, NULL), &block, 0, 0),
                 STATUS_SUCCESS);
    block.Status = 0x77;
    CHECK_STATUS(ZwDeviceIoControlFile(handle, NULL, routine, &apc_calls, &block, CTL_CODE(0x22, 0x900, 0, 0), NULL, 0, NULL, 0),
                 STATUS_PENDING);
    CHECK_STATUS(KeDelayExecutionThread(KernelMode, TRUE, &soon), STATUS_SUCCESS);
    CHECK_EQ(apc_calls, 0);
    CHECK_EQ(block.Status, 0x77);
    KeEnterCriticalRegion();
    finish(pended, STATUS_SUCCESS, 5);
    CHECK_EQ(block.Information, 5);
    CHECK_EQ(apc_calls, 0);
    KeLeaveCriticalRegion();
    KeDelayExecutionThread(KernelMode, TRUE, &soon);
    CHECK_EQ(apc_calls, 1);
    CHECK_PTR(apc_block, &block);
    /* A request that fails at once calls nobody; one that fails later does. */
    CHECK_STATUS(ZwDeviceIoControlFile(handle, NULL, routine, &apc_calls, &block, CTL_CODE(0x22, 0x901, 0, 0), NULL, 0, NULL, 0),
                 STATUS_UNSUCCESSFUL);
    KeDelayExecutionThread(KernelMode, TRUE, &soon);
    CHECK_EQ(apc_calls, 1);
    CHECK_STATUS(ZwDeviceIoControlFile(handle, NULL, routine, &apc_calls, &block, CTL_CODE(0x22, 0x900, 0, 0), NULL, 0, NULL, 0),
                 STATUS_PENDING);
    finish(pended, STATUS_UNSUCCESSFUL, 0);
    KeDelayExecutionThread(KernelMode, TRUE, &soon);
    CHECK_EQ(apc_calls, 2);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    IoDeleteDevice(device);
}

KTEST_BUGCHECK(dereference_of_nothing, 0x18)
{
    static ULONG nothing[64];
    ObDereferenceObject(&nothing[32]);
}

KTEST_BUGCHECK(handle_at_dispatch_level, 0x0A)
{
    KIRQL irql;
    KeRaiseIrql(DISPATCH_LEVEL, &irql);
    ZwClose((HANDLE)4);
}

KTEST_FAMILY("object", KTEST_ENTRY(types), KTEST_ENTRY(reference_by_pointer), KTEST_ENTRY(event_handles),
             KTEST_ENTRY(pseudo_handles), KTEST_ENTRY(event_names), KTEST_ENTRY(reference_by_name), KTEST_ENTRY(query_name),
             KTEST_ENTRY(directories_and_links), KTEST_ENTRY(duplicate_and_query), KTEST_ENTRY(device_io_by_handle), KTEST_ENTRY(apc_routines_of_device_io),
             KTEST_BUGCHECK_ENTRY(dereference_of_nothing), KTEST_BUGCHECK_ENTRY(handle_at_dispatch_level));
