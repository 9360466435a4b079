/* Creates as drivers see them: extended attributes, extra parameters, device hints, reparsing; volumes that file systems
 * mount; UNC names. */
#include "devices.h"

typedef struct {
    ULONG a;
    USHORT b, c;
    UCHAR d[8];
} guid;
typedef IO_DRIVER_CREATE_CONTEXT create_context;

NTKERNELAPI NTSTATUS NTAPI FsRtlAllocateExtraCreateParameterList(ULONG, PVOID *);
NTKERNELAPI VOID NTAPI FsRtlFreeExtraCreateParameterList(PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlAllocateExtraCreateParameter(const guid *, ULONG, ULONG, PVOID, ULONG, PVOID *);
NTKERNELAPI NTSTATUS NTAPI FsRtlInsertExtraCreateParameter(PVOID, PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlFindExtraCreateParameter(PVOID, const guid *, PVOID *, ULONG *);
NTKERNELAPI NTSTATUS NTAPI FsRtlGetEcpListFromIrp(PIRP, PVOID *);
NTKERNELAPI NTSTATUS NTAPI FsRtlSetEcpListIntoIrp(PIRP, PVOID);
NTKERNELAPI VOID NTAPI FsRtlAcknowledgeEcp(PVOID);
NTKERNELAPI BOOLEAN NTAPI FsRtlIsEcpAcknowledged(PVOID);
NTKERNELAPI VOID NTAPI IoRegisterFileSystem(PDEVICE_OBJECT);
NTKERNELAPI VOID NTAPI IoUnregisterFileSystem(PDEVICE_OBJECT);
NTKERNELAPI PDEVICE_OBJECT NTAPI IoGetBaseFileSystemDeviceObject(PFILE_OBJECT);
NTKERNELAPI NTSTATUS NTAPI FsRtlRegisterUncProvider(PHANDLE, PUNICODE_STRING, BOOLEAN);
NTKERNELAPI NTSTATUS NTAPI FsRtlRegisterUncProviderEx(PHANDLE, PUNICODE_STRING, PDEVICE_OBJECT, ULONG);
NTKERNELAPI VOID NTAPI FsRtlDeregisterUncProvider(HANDLE);
NTKERNELAPI NTSTATUS NTAPI FsRtlMupGetProviderInfoFromFileObject(PFILE_OBJECT, ULONG, PVOID, PULONG);

static IO_STATUS_BLOCK block;

static NTSTATUS open_with(PCWSTR path, ACCESS_MASK access, PVOID ea, ULONG ea_bytes, create_context *context, PHANDLE file)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    LARGE_INTEGER size;
    size.QuadPart = 0x123456789;
    RtlInitUnicodeString(&name, path);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    if (context == NULL) {
        return ZwCreateFile(file, access | SYNCHRONIZE, &attributes, &block, &size, FILE_ATTRIBUTE_HIDDEN, 0, FILE_OPEN_IF,
                            FILE_SYNCHRONOUS_IO_NONALERT, ea, ea_bytes);
    }
    return IoCreateFileEx(file, access | SYNCHRONIZE, &attributes, &block, &size, FILE_ATTRIBUTE_HIDDEN, 0, FILE_OPEN_IF,
                          FILE_SYNCHRONOUS_IO_NONALERT, ea, ea_bytes, CreateFileTypeNone, NULL, 0, context);
}

static NTSTATUS open(PCWSTR path, ACCESS_MASK access)
{
    HANDLE file;
    NTSTATUS status = open_with(path, access, NULL, 0, NULL, &file);
    if (NT_SUCCESS(status)) {
        ZwClose(file);
    }
    return status;
}

/* What the last create had. */
static ULONG ea_length, create_options, desired_access;
static USHORT file_attributes;
static LONGLONG allocation;
static PVOID ea_seen;
static UCHAR ea_data[64];
static WCHAR name_seen[64];

struct security_context { PVOID qos, state; ACCESS_MASK access; ULONG options; };

static NTSTATUS record(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device;
    if (stack->MajorFunction == IRP_MJ_CREATE) {
        struct security_context *security = (PVOID)stack->Parameters.Create.SecurityContext;
        PUNICODE_STRING name = &stack->FileObject->FileName;
        ea_length = stack->Parameters.Create.EaLength;
        ea_seen = irp->AssociatedIrp.SystemBuffer;
        create_options = stack->Parameters.Create.Options;
        file_attributes = stack->Parameters.Create.FileAttributes;
        allocation = irp->Overlay.AllocationSize.QuadPart;
        desired_access = security->access;
        CHECK(security->state != NULL);
        for (ULONG i = 0; i < ea_length && i < sizeof(ea_data); i++) {
            ea_data[i] = ((PUCHAR)ea_seen)[i];
        }
        for (ULONG i = 0; i < 63; i++) {
            name_seen[i] = i < name->Length / 2u ? name->Buffer[i] : 0;
        }
    }
    return finish(irp, STATUS_SUCCESS, 0);
}

KTEST(extended_attributes)
{
    /* NextEntryOffset, flags and name length, value length, name and NUL, value: "a" = "bc", then "d" = "". */
    static UCHAR good[] = {12, 0, 0, 0, 0, 1, 2, 0, 'a', 0, 'b', 'c', 0, 0, 0, 0, 0, 1, 0, 0, 'd', 0};
    UCHAR bad[sizeof(good)];
    HANDLE file;
    PDEVICE_OBJECT device = new_device(L"\\Device\\ktest_ea", record);
    if (device == NULL) {
        return;
    }
    CHECK_STATUS(open_with(L"\\Device\\ktest_ea\\x", GENERIC_READ, good, sizeof(good), NULL, &file), STATUS_SUCCESS);
    CHECK_EQ(ea_length, sizeof(good));
    CHECK(ea_seen != NULL && ea_seen != good);
    CHECK_MEM(ea_data, good, sizeof(good));
    CHECK_EQ(create_options >> 24, FILE_OPEN_IF);
    CHECK_EQ(file_attributes, FILE_ATTRIBUTE_HIDDEN);
    CHECK_EQ(allocation, 0x123456789);
    CHECK_EQ(desired_access, FILE_GENERIC_READ);
    CHECK_MEM(name_seen, L"\\x", 6);
    ZwClose(file);
    CHECK_STATUS(open_with(L"\\Device\\ktest_ea", GENERIC_READ, NULL, 0, NULL, &file), STATUS_SUCCESS);
    CHECK_EQ(ea_length, 0);
    CHECK_PTR(ea_seen, NULL);
    ZwClose(file);
    RtlCopyMemory(bad, good, sizeof(good));
    bad[21] = 1; /* no NUL behind the second name */
    CHECK_STATUS(open_with(L"\\Device\\ktest_ea", GENERIC_READ, bad, sizeof(bad), NULL, &file), 0x80000014);
    CHECK_EQ(block.Information, 12);
    CHECK_STATUS(open_with(L"\\Device\\ktest_ea", GENERIC_READ, good, 7, NULL, &file), 0x80000014);
    CHECK_STATUS(open_with(L"\\Device\\ktest_ea", GENERIC_READ, NULL, 8, NULL, &file), STATUS_INVALID_PARAMETER);
    CHECK_EQ(extension_of(device)->seen[IRP_MJ_CREATE], 2);
    CHECK_STATUS(open_with(L"\\??\\C:\\attributes", GENERIC_READ, good, sizeof(good), NULL, &file), 0xC000004F);
    IoDeleteDevice(device);
}

static const guid one = {1, 2, 3, {4}};
static ULONG cleanups;
static BOOLEAN gives_list;

static VOID NTAPI cleanup(PVOID context, const guid *type)
{
    (VOID)context, (VOID)type;
    cleanups++;
}

static PVOID new_list(PVOID *parameter)
{
    PVOID list = NULL;
    CHECK_STATUS(FsRtlAllocateExtraCreateParameterList(0, &list), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlAllocateExtraCreateParameter(&one, 8, 0, cleanup, 0x74736554, parameter), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlInsertExtraCreateParameter(list, *parameter), STATUS_SUCCESS);
    return list;
}

static NTSTATUS take_list(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    PVOID list = NULL, parameter = NULL;
    (VOID)device;
    if (stack->MajorFunction == IRP_MJ_CREATE) {
        CHECK_STATUS(FsRtlGetEcpListFromIrp(irp, &list), STATUS_SUCCESS);
        if (gives_list) {
            CHECK_PTR(list, NULL);
            CHECK_STATUS(FsRtlSetEcpListIntoIrp(irp, new_list(&parameter)), STATUS_SUCCESS);
        } else if (CHECK(list != NULL)) {
            CHECK_STATUS(FsRtlFindExtraCreateParameter(list, &one, &parameter, NULL), STATUS_SUCCESS);
            FsRtlAcknowledgeEcp(parameter);
        }
    }
    return finish(irp, STATUS_SUCCESS, 0);
}

KTEST(extra_create_parameters)
{
    create_context context = {sizeof(context), NULL, NULL, NULL};
    PVOID parameter = NULL;
    HANDLE file;
    PDEVICE_OBJECT device = new_device(L"\\Device\\ktest_ecp", take_list);
    if (device == NULL) {
        return;
    }
    cleanups = 0;
    gives_list = FALSE;
    context.ExtraCreateParameter = new_list(&parameter);
    CHECK_STATUS(open_with(L"\\Device\\ktest_ecp", GENERIC_READ, NULL, 0, &context, &file), STATUS_SUCCESS);
    ZwClose(file);
    CHECK(FsRtlIsEcpAcknowledged(parameter));
    CHECK_EQ(cleanups, 0);
    FsRtlFreeExtraCreateParameterList(context.ExtraCreateParameter);
    CHECK_EQ(cleanups, 1);
    /* A list that a driver puts into the request is freed with it. */
    gives_list = TRUE;
    CHECK_STATUS(open(L"\\Device\\ktest_ecp", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(cleanups, 2);
    context.Size = 2;
    CHECK_STATUS(open_with(L"\\Device\\ktest_ecp", GENERIC_READ, NULL, 0, &context, &file), STATUS_INVALID_PARAMETER);
    IoDeleteDevice(device);
}

static NTSTATUS pass(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)stack;
    IoSkipCurrentIrpStackLocation(irp);
    return IoCallDriver(extension_of(device)->lower, irp);
}

KTEST(device_hints)
{
    create_context context = {sizeof(context), NULL, NULL, NULL};
    PFILE_OBJECT object = NULL;
    HANDLE file;
    PDEVICE_OBJECT base = new_device(L"\\Device\\ktest_base", record), top = new_device(NULL, pass);
    if (base == NULL || top == NULL) {
        return;
    }
    extension_of(top)->lower = IoAttachDeviceToDeviceStack(top, base);
    CHECK_STATUS(open(L"\\Device\\ktest_base", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(extension_of(top)->seen[IRP_MJ_CREATE], 1);
    CHECK_EQ(extension_of(base)->seen[IRP_MJ_CREATE], 1);
    context.DeviceObjectHint = base;
    CHECK_STATUS(open_with(L"\\Device\\ktest_base", GENERIC_READ, NULL, 0, &context, &file), STATUS_SUCCESS);
    CHECK_EQ(extension_of(top)->seen[IRP_MJ_CREATE], 1);
    CHECK_EQ(extension_of(base)->seen[IRP_MJ_CREATE], 2);
    CHECK_STATUS(ObReferenceObjectByHandle(file, 0, NULL, KernelMode, (PVOID *)&object, NULL), STATUS_SUCCESS);
    CHECK_PTR(IoGetRelatedDeviceObject(object), base);
    ObDereferenceObject(object);
    ZwClose(file);
    CHECK_EQ(extension_of(top)->seen[IRP_MJ_CLEANUP], 1);
    CHECK_EQ(extension_of(base)->seen[IRP_MJ_CLEANUP], 2);
    CHECK_EQ(extension_of(base)->seen[IRP_MJ_CLOSE], 2);
    context.DeviceObjectHint = ktest_device;
    CHECK_STATUS(open_with(L"\\Device\\ktest_base", GENERIC_READ, NULL, 0, &context, &file), 0xC0000369);
    CHECK_STATUS(open_with(L"\\??\\C:\\hint", GENERIC_READ, NULL, 0, &context, &file), 0xC0000369);
    IoDetachDevice(base);
    IoDeleteDevice(top);
    IoDeleteDevice(base);
}

static ULONG_PTR reparse_kind;

static NTSTATUS reparse(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    static const WCHAR other[] = L"\\Device\\ktest_new\\file";
    PUNICODE_STRING name = &stack->FileObject->FileName;
    (VOID)device;
    if (stack->MajorFunction != IRP_MJ_CREATE) {
        return finish(irp, STATUS_SUCCESS, 0);
    }
    if (CHECK(name->MaximumLength >= sizeof(other) - 2)) {
        RtlCopyMemory(name->Buffer, other, sizeof(other) - 2);
        name->Length = sizeof(other) - 2;
    }
    return finish(irp, STATUS_REPARSE, reparse_kind);
}

KTEST(reparsing)
{
    static const WCHAR path[] = L"\\Device\\ktest_old\\0123456789012345678901234567890123456789";
    PDEVICE_OBJECT from = new_device(L"\\Device\\ktest_old", reparse), to = new_device(L"\\Device\\ktest_new", record);
    if (from == NULL || to == NULL) {
        return;
    }
    reparse_kind = 0;
    CHECK_STATUS(open(path, GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(extension_of(from)->seen[IRP_MJ_CREATE], 1);
    CHECK_EQ(extension_of(from)->seen[IRP_MJ_CLOSE], 0);
    CHECK_EQ(extension_of(to)->seen[IRP_MJ_CREATE], 1);
    CHECK_EQ(extension_of(to)->seen[IRP_MJ_CLOSE], 1);
    CHECK_MEM(name_seen, L"\\file", 12);
    reparse_kind = 0xA0000003;
    CHECK_STATUS(open(path, GENERIC_READ), 0xC0000279);
    IoDeleteDevice(from);
    IoDeleteDevice(to);
}

static PDEVICE_OBJECT typed_device(PCWSTR name, ULONG type, dispatch_routine dispatch)
{
    UNICODE_STRING string;
    PDEVICE_OBJECT device = NULL;
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        ktest_driver->MajorFunction[i] = devices_dispatch;
    }
    if (name != NULL) {
        RtlInitUnicodeString(&string, name);
    }
    CHECK_STATUS(IoCreateDevice(ktest_driver, sizeof(struct extension), name == NULL ? NULL : &string, type, 0, FALSE,
                                &device), STATUS_SUCCESS);
    if (device != NULL) {
        extension_of(device)->dispatch = dispatch;
        device->Flags &= ~DO_DEVICE_INITIALIZING;
    }
    return device;
}

static PDEVICE_OBJECT disk, volume;
static ULONG asked_first, asked_second;
static BOOLEAN mounts;

static NTSTATUS refuse_mount(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device;
    if (stack->MajorFunction == IRP_MJ_FILE_SYSTEM_CONTROL) {
        CHECK_EQ(stack->MinorFunction, IRP_MN_MOUNT_VOLUME);
        CHECK_EQ(asked_first, asked_second);
        asked_first++;
    }
    return finish(irp, (NTSTATUS)0xC000014F, 0);
}

static NTSTATUS do_mount(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)device;
    if (stack->MajorFunction != IRP_MJ_FILE_SYSTEM_CONTROL || stack->MinorFunction != IRP_MN_MOUNT_VOLUME) {
        return finish(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    asked_second++;
    CHECK_PTR(stack->Parameters.MountVolume.DeviceObject, disk);
    CHECK_PTR(stack->Parameters.MountVolume.Vpb, disk->Vpb);
    if (!mounts) {
        return finish(irp, (NTSTATUS)0xC000014F, 0);
    }
    stack->Parameters.MountVolume.Vpb->DeviceObject = volume;
    return finish(irp, STATUS_SUCCESS, 0);
}

KTEST(mounting)
{
    HANDLE file;
    PFILE_OBJECT object = NULL;
    UCHAR byte[4];
    LARGE_INTEGER at;
    at.QuadPart = 0;
    disk = typed_device(L"\\Device\\ktest_disk", FILE_DEVICE_DISK, record);
    volume = typed_device(NULL, FILE_DEVICE_DISK_FILE_SYSTEM, record);
    PDEVICE_OBJECT second = typed_device(NULL, FILE_DEVICE_DISK_FILE_SYSTEM, do_mount);
    PDEVICE_OBJECT first = typed_device(NULL, FILE_DEVICE_DISK_FILE_SYSTEM, refuse_mount);
    PDEVICE_OBJECT other = typed_device(NULL, FILE_DEVICE_CD_ROM_FILE_SYSTEM, refuse_mount);
    if (disk == NULL || volume == NULL || first == NULL || second == NULL || other == NULL) {
        return;
    }
    struct extension *on_disk = extension_of(disk), *on_volume = extension_of(volume);
    PVPB vpb = disk->Vpb;
    asked_first = asked_second = 0;
    mounts = TRUE;
    CHECK_PTR(volume->Vpb, NULL);
    CHECK_EQ(disk->SectorSize, 512);
    if (!CHECK(vpb != NULL)) {
        return;
    }
    CHECK_EQ(vpb->Type, 10);
    CHECK_EQ(vpb->Size, sizeof(VPB));
    CHECK_PTR(vpb->RealDevice, disk);
    CHECK_PTR(vpb->DeviceObject, NULL);
    /* Without file systems the disk serves itself. */
    CHECK_STATUS(open(L"\\Device\\ktest_disk", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(on_disk->seen[IRP_MJ_CREATE], 1);
    IoRegisterFileSystem(second);
    IoRegisterFileSystem(other);
    IoRegisterFileSystem(first);
    CHECK_STATUS(open(L"\\Device\\ktest_disk", FILE_READ_ATTRIBUTES), STATUS_SUCCESS);
    CHECK_EQ(on_disk->seen[IRP_MJ_CREATE], 2);
    CHECK_EQ(asked_first + asked_second, 0);
    CHECK_STATUS(open_with(L"\\Device\\ktest_disk\\file", GENERIC_READ, NULL, 0, NULL, &file), STATUS_SUCCESS);
    CHECK_EQ(asked_first, 1);
    CHECK_EQ(asked_second, 1);
    CHECK_EQ(vpb->Flags & VPB_MOUNTED, VPB_MOUNTED);
    CHECK_EQ(vpb->ReferenceCount, 1);
    CHECK_EQ(volume->StackSize, disk->StackSize + 1);
    CHECK_EQ(on_disk->seen[IRP_MJ_CREATE], 2);
    CHECK_EQ(on_volume->seen[IRP_MJ_CREATE], 1);
    CHECK_MEM(name_seen, L"\\file", 12);
    CHECK_STATUS(ObReferenceObjectByHandle(file, 0, NULL, KernelMode, (PVOID *)&object, NULL), STATUS_SUCCESS);
    CHECK_PTR(object->DeviceObject, disk);
    CHECK_PTR(object->Vpb, vpb);
    CHECK_PTR(IoGetRelatedDeviceObject(object), volume);
    CHECK_PTR(IoGetBaseFileSystemDeviceObject(object), volume);
    ObDereferenceObject(object);
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, byte, 4, &at, NULL), STATUS_SUCCESS);
    CHECK_EQ(on_volume->seen[IRP_MJ_READ], 1);
    ZwClose(file);
    CHECK_EQ(on_volume->seen[IRP_MJ_CLEANUP], 1);
    CHECK_EQ(on_volume->seen[IRP_MJ_CLOSE], 1);
    CHECK_EQ(vpb->ReferenceCount, 0);
    CHECK_STATUS(open(L"\\Device\\ktest_disk", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(on_volume->seen[IRP_MJ_CREATE], 2);
    CHECK_EQ(asked_second, 1);
    vpb->Flags |= VPB_LOCKED;
    CHECK_STATUS(open(L"\\Device\\ktest_disk\\file", GENERIC_READ), STATUS_ACCESS_DENIED);
    /* Dismounted, and nobody knows it any more. */
    vpb->Flags = 0;
    vpb->DeviceObject = NULL;
    mounts = FALSE;
    CHECK_STATUS(open(L"\\Device\\ktest_disk\\file", GENERIC_READ), 0xC000014F);
    CHECK_EQ(asked_first, 2);
    CHECK_STATUS(open(L"\\Device\\ktest_disk", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(on_disk->seen[IRP_MJ_CREATE], 3);
    IoUnregisterFileSystem(first);
    IoUnregisterFileSystem(second);
    IoUnregisterFileSystem(other);
    IoDeleteDevice(first), IoDeleteDevice(second), IoDeleteDevice(other), IoDeleteDevice(volume), IoDeleteDevice(disk);
}

static ULONG queries[2];

static NTSTATUS redirector(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    static const WCHAR share[] = L"\\one\\share";
    struct { ULONG bytes; struct security_context *security; WCHAR name[16]; } *query;
    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL) {
        return record(device, irp, stack);
    }
    query = stack->Parameters.DeviceIoControl.Type3InputBuffer;
    CHECK_EQ(stack->Parameters.DeviceIoControl.IoControlCode, 0x14018F);
    CHECK_EQ(query->security->access, FILE_GENERIC_READ);
    queries[0]++;
    if (query->bytes < sizeof(share) - 2 || RtlCompareMemory(query->name, share, sizeof(share) - 2) != sizeof(share) - 2) {
        return finish(irp, (NTSTATUS)0xC00000BE, 0);
    }
    *(ULONG *)irp->UserBuffer = sizeof(share) - 2;
    return finish(irp, STATUS_SUCCESS, 4);
}

static NTSTATUS redirector_ex(PDEVICE_OBJECT device, PIRP irp, PIO_STACK_LOCATION stack)
{
    static const WCHAR share[] = L"\\two\\share";
    struct { struct security_context *security; ULONG ea_bytes; PVOID ea; UNICODE_STRING name; } *query;
    if (stack->MajorFunction != IRP_MJ_DEVICE_CONTROL) {
        return record(device, irp, stack);
    }
    query = stack->Parameters.DeviceIoControl.Type3InputBuffer;
    CHECK_EQ(stack->Parameters.DeviceIoControl.IoControlCode, 0x140193);
    CHECK_EQ(query->security->access, FILE_GENERIC_READ);
    queries[1]++;
    if (query->name.Length < sizeof(share) - 2 ||
        RtlCompareMemory(query->name.Buffer, share, sizeof(share) - 2) != sizeof(share) - 2) {
        return finish(irp, (NTSTATUS)0xC00000BE, 0);
    }
    *(ULONG *)irp->UserBuffer = sizeof(share) - 2;
    return finish(irp, STATUS_SUCCESS, 4);
}

KTEST(unc_names)
{
    HANDLE providers[2], file;
    UNICODE_STRING names[2];
    PFILE_OBJECT object = NULL;
    struct { ULONG id; UNICODE_STRING name; WCHAR room[32]; } info;
    ULONG bytes = 2, id = 0;
    PDEVICE_OBJECT old = new_device(L"\\Device\\ktest_redirector", redirector), new = new_device(NULL, redirector_ex);
    if (old == NULL || new == NULL) {
        return;
    }
    RtlInitUnicodeString(&names[0], L"\\Device\\ktest_redirector");
    RtlInitUnicodeString(&names[1], L"\\Device\\ktest_network");
    CHECK_STATUS(FsRtlRegisterUncProvider(&providers[0], &names[0], FALSE), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlRegisterUncProviderEx(&providers[1], &names[1], new, 0), STATUS_SUCCESS);
    CHECK(providers[0] != providers[1]);
    CHECK_STATUS(open_with(L"\\??\\UNC\\one\\share\\file", GENERIC_READ, NULL, 0, NULL, &file), STATUS_SUCCESS);
    CHECK_EQ(queries[0], 1);
    CHECK_EQ(queries[1], 0);
    CHECK_MEM(name_seen, L"\\one\\share\\file", 32);
    CHECK_STATUS(ObReferenceObjectByHandle(file, 0, NULL, KernelMode, (PVOID *)&object, NULL), STATUS_SUCCESS);
    CHECK_PTR(object->DeviceObject, old);
    CHECK_STATUS(FsRtlMupGetProviderInfoFromFileObject(object, 1, &id, &bytes), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(bytes, 4);
    CHECK_STATUS(FsRtlMupGetProviderInfoFromFileObject(object, 1, &id, &bytes), STATUS_SUCCESS);
    CHECK(id != 0);
    bytes = sizeof(info);
    CHECK_STATUS(FsRtlMupGetProviderInfoFromFileObject(object, 2, &info, &bytes), STATUS_SUCCESS);
    CHECK_EQ(info.id, id);
    CHECK_EQ(info.name.Length, names[0].Length);
    CHECK_MEM(info.name.Buffer, names[0].Buffer, names[0].Length);
    CHECK_STATUS(FsRtlMupGetProviderInfoFromFileObject(object, 3, &info, &bytes), STATUS_INVALID_PARAMETER);
    ObDereferenceObject(object);
    ZwClose(file);
    /* What was accepted is not asked for again. */
    CHECK_STATUS(open(L"\\??\\UNC\\ONE\\share\\other", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(queries[0], 1);
    CHECK_STATUS(open(L"\\Device\\Mup\\two\\share\\file", GENERIC_READ), STATUS_SUCCESS);
    CHECK_EQ(queries[0], 2);
    CHECK_EQ(queries[1], 1);
    CHECK_EQ(extension_of(new)->seen[IRP_MJ_CREATE], 1);
    CHECK_MEM(name_seen, L"\\two\\share\\file", 32);
    CHECK_STATUS(open(L"\\??\\UNC\\three\\share", GENERIC_READ), 0xC00000BE);
    FsRtlDeregisterUncProvider(providers[0]);
    CHECK_STATUS(open(L"\\??\\UNC\\one\\share\\file", GENERIC_READ), 0xC00000BE);
    FsRtlDeregisterUncProvider(providers[1]);
    CHECK_STATUS(open(L"\\??\\UNC\\two\\share\\file", GENERIC_READ), 0xC00000BE);
    IoDeleteDevice(old);
    IoDeleteDevice(new);
}

KTEST_FAMILY("volumes", KTEST_ENTRY(extended_attributes), KTEST_ENTRY(extra_create_parameters), KTEST_ENTRY(device_hints),
             KTEST_ENTRY(reparsing), KTEST_ENTRY(mounting), KTEST_ENTRY(unc_names));
