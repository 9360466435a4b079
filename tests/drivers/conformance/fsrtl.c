/* The file system runtime library: names, statuses, byte-range locks, extra create parameters, notification, oplocks. */
#include "devices.h"

typedef struct {
    LARGE_INTEGER start, length;
    BOOLEAN exclusive;
    ULONG key;
    PFILE_OBJECT file;
    PVOID process;
    LARGE_INTEGER end;
} lock_info;
typedef struct {
    PVOID complete, unlock;
    BOOLEAN questionable;
    PVOID information;
    lock_info last;
    PVOID last_lock;
    LONG in_progress;
} file_lock;
typedef struct {
    ULONG a;
    USHORT b, c;
    UCHAR d[8];
} guid;

NTKERNELAPI BOOLEAN NTAPI FsRtlDoesNameContainWildCards(PUNICODE_STRING name);
NTKERNELAPI BOOLEAN NTAPI FsRtlIsNameInExpression(PUNICODE_STRING, PUNICODE_STRING, BOOLEAN, PWCH);
NTKERNELAPI BOOLEAN NTAPI FsRtlIsNtstatusExpected(NTSTATUS status);
NTKERNELAPI NTSTATUS NTAPI FsRtlNormalizeNtstatus(NTSTATUS status, NTSTATUS generic);
NTKERNELAPI VOID NTAPI FsRtlInitializeFileLock(file_lock *, PVOID, PVOID);
NTKERNELAPI VOID NTAPI FsRtlUninitializeFileLock(file_lock *);
NTKERNELAPI BOOLEAN NTAPI FsRtlPrivateLock(file_lock *, PFILE_OBJECT, PLARGE_INTEGER, PLARGE_INTEGER, PVOID, ULONG,
                                           BOOLEAN, BOOLEAN, PIO_STATUS_BLOCK, PIRP, PVOID, BOOLEAN);
NTKERNELAPI BOOLEAN NTAPI FsRtlFastCheckLockForRead(file_lock *, PLARGE_INTEGER, PLARGE_INTEGER, ULONG, PFILE_OBJECT, PVOID);
NTKERNELAPI BOOLEAN NTAPI FsRtlFastCheckLockForWrite(file_lock *, PLARGE_INTEGER, PLARGE_INTEGER, ULONG, PFILE_OBJECT, PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlFastUnlockSingle(file_lock *, PFILE_OBJECT, PLARGE_INTEGER, PLARGE_INTEGER, PVOID, ULONG,
                                                 PVOID, BOOLEAN);
NTKERNELAPI NTSTATUS NTAPI FsRtlFastUnlockAll(file_lock *, PFILE_OBJECT, PVOID, PVOID);
NTKERNELAPI BOOLEAN NTAPI FsRtlAreThereCurrentOrInProgressFileLocks(file_lock *);
NTKERNELAPI NTSTATUS NTAPI FsRtlAllocateExtraCreateParameterList(ULONG, PVOID *);
NTKERNELAPI VOID NTAPI FsRtlFreeExtraCreateParameterList(PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlAllocateExtraCreateParameter(const guid *, ULONG, ULONG, PVOID, ULONG, PVOID *);
NTKERNELAPI NTSTATUS NTAPI FsRtlInsertExtraCreateParameter(PVOID, PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlFindExtraCreateParameter(PVOID, const guid *, PVOID *, ULONG *);
NTKERNELAPI BOOLEAN NTAPI FsRtlIsEcpFromUserMode(PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlValidateReparsePointBuffer(ULONG, PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlProcessFileLock(file_lock *, PIRP, PVOID);
NTKERNELAPI VOID NTAPI FsRtlNotifyInitializeSync(PVOID *);
NTKERNELAPI VOID NTAPI FsRtlNotifyUninitializeSync(PVOID *);
NTKERNELAPI VOID NTAPI FsRtlNotifyFullChangeDirectory(PVOID, PLIST_ENTRY, PVOID, PUNICODE_STRING, BOOLEAN, BOOLEAN, ULONG,
                                                      PIRP, PVOID, PVOID);
NTKERNELAPI VOID NTAPI FsRtlNotifyFullReportChange(PVOID, PLIST_ENTRY, PUNICODE_STRING, USHORT, PVOID, PVOID, ULONG, ULONG,
                                                   PVOID);
NTKERNELAPI VOID NTAPI FsRtlNotifyCleanup(PVOID, PLIST_ENTRY, PVOID);
NTKERNELAPI VOID NTAPI FsRtlInitializeOplock(PVOID *);
NTKERNELAPI VOID NTAPI FsRtlUninitializeOplock(PVOID *);
NTKERNELAPI NTSTATUS NTAPI FsRtlOplockFsctrl(PVOID *, PIRP, ULONG);
NTKERNELAPI NTSTATUS NTAPI FsRtlCheckOplock(PVOID *, PIRP, PVOID, PVOID, PVOID);
NTKERNELAPI NTSTATUS NTAPI FsRtlOplockFsctrlEx(PVOID *, PIRP, ULONG, ULONG);
NTKERNELAPI NTSTATUS NTAPI FsRtlCheckOplockEx(PVOID *, PIRP, ULONG, PVOID, PVOID, PVOID);
NTKERNELAPI BOOLEAN NTAPI FsRtlOplockKeysEqual(PFILE_OBJECT, PFILE_OBJECT);
NTKERNELAPI NTSTATUS NTAPI FsRtlSetEcpListIntoIrp(PIRP, PVOID);
NTKERNELAPI BOOLEAN NTAPI FsRtlCurrentBatchOplock(PVOID *);
NTKERNELAPI BOOLEAN NTAPI FsRtlOplockIsFastIoPossible(PVOID *);
NTKERNELAPI VOID NTAPI FsRtlPostStackOverflow(PVOID, PKEVENT, PVOID);

#define NOT_LOCKED ((NTSTATUS)0xC000007EL)
#define NOT_GRANTED ((NTSTATUS)0xC0000055L)
#define NOT_GRANTED_OPLOCK ((NTSTATUS)0xC00000E2L)

static BOOLEAN matches(PCWSTR expression, PCWSTR name, BOOLEAN ignore_case)
{
    UNICODE_STRING first, second;
    RtlInitUnicodeString(&first, expression);
    RtlInitUnicodeString(&second, name);
    return FsRtlIsNameInExpression(&first, &second, ignore_case, NULL);
}

KTEST(names)
{
    UNICODE_STRING name;
    RtlInitUnicodeString(&name, L"plain.txt");
    CHECK(!FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"a*");
    CHECK(FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"a?b");
    CHECK(FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"a<");
    CHECK(FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"a>");
    CHECK(FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"a\"");
    CHECK(FsRtlDoesNameContainWildCards(&name));
    RtlInitUnicodeString(&name, L"");
    CHECK(!FsRtlDoesNameContainWildCards(&name));
    CHECK(matches(L"*", L"x", FALSE));
    CHECK(!matches(L"*", L"", FALSE));
    CHECK(matches(L"", L"", FALSE));
    CHECK(matches(L"A?C", L"abc", TRUE));
    CHECK(!matches(L"A?C", L"abc", FALSE));
    CHECK(!matches(L"*.*", L"abc", FALSE));
    CHECK(matches(L"*.TXT", L"a.b.txt", TRUE));
    CHECK(matches(L"<.TXT", L"a.b.txt", TRUE));
    CHECK(!matches(L"<", L"a.b", FALSE));
    CHECK(matches(L">>>", L"ab", FALSE));
    CHECK(matches(L"abc\"", L"abc", FALSE));
}

KTEST(statuses)
{
    CHECK(FsRtlIsNtstatusExpected(STATUS_DISK_FULL));
    CHECK(!FsRtlIsNtstatusExpected(STATUS_ACCESS_VIOLATION));
    CHECK(!FsRtlIsNtstatusExpected(STATUS_DATATYPE_MISALIGNMENT));
    CHECK(!FsRtlIsNtstatusExpected(STATUS_ILLEGAL_INSTRUCTION));
    CHECK(!FsRtlIsNtstatusExpected((NTSTATUS)0xC00000AAL));
    CHECK_STATUS(FsRtlNormalizeNtstatus(STATUS_DISK_FULL, STATUS_UNSUCCESSFUL), STATUS_DISK_FULL);
    CHECK_STATUS(FsRtlNormalizeNtstatus(STATUS_ACCESS_VIOLATION, STATUS_UNSUCCESSFUL), STATUS_UNSUCCESSFUL);
}

static file_lock lock;
static FILE_OBJECT files[3];
static IO_STATUS_BLOCK block;

static BOOLEAN take(int file, LONGLONG start, LONGLONG length, BOOLEAN exclusive, BOOLEAN fail)
{
    LARGE_INTEGER at, bytes;
    at.QuadPart = start, bytes.QuadPart = length;
    return FsRtlPrivateLock(&lock, &files[file], &at, &bytes, &files, 7, fail, exclusive, &block, NULL, NULL, FALSE);
}

static BOOLEAN may(int file, LONGLONG start, LONGLONG length, BOOLEAN write)
{
    LARGE_INTEGER at, bytes;
    at.QuadPart = start, bytes.QuadPart = length;
    return write ? FsRtlFastCheckLockForWrite(&lock, &at, &bytes, 7, &files[file], &files)
                 : FsRtlFastCheckLockForRead(&lock, &at, &bytes, 7, &files[file], &files);
}

static NTSTATUS drop(int file, LONGLONG start, LONGLONG length)
{
    LARGE_INTEGER at, bytes;
    at.QuadPart = start, bytes.QuadPart = length;
    return FsRtlFastUnlockSingle(&lock, &files[file], &at, &bytes, &files, 7, NULL, FALSE);
}

KTEST(locks)
{
    CHECK_EQ(sizeof(file_lock), sizeof(PVOID) == 8 ? 96 : 64);
    FsRtlInitializeFileLock(&lock, NULL, NULL);
    CHECK(!FsRtlAreThereCurrentOrInProgressFileLocks(&lock));
    CHECK_STATUS(FsRtlFastUnlockAll(&lock, &files[0], &files, NULL), NOT_LOCKED);
    CHECK(take(0, 100, 100, TRUE, TRUE));
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK(lock.questionable);
    CHECK(FsRtlAreThereCurrentOrInProgressFileLocks(&lock));
    CHECK(may(0, 100, 100, TRUE));
    CHECK(!may(1, 150, 1, FALSE));
    CHECK(!may(1, 199, 1, TRUE));
    CHECK(may(1, 200, 1, TRUE));
    CHECK(may(1, 0, 100, TRUE));
    CHECK(!may(1, 0, 101, TRUE));
    CHECK(may(1, 150, 0, TRUE));
    CHECK(take(1, 150, 10, FALSE, TRUE));
    CHECK_STATUS(block.Status, NOT_GRANTED);
    CHECK(!take(1, 150, 10, FALSE, FALSE));
    CHECK(take(0, 150, 10, FALSE, TRUE));
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK(!may(0, 150, 1, TRUE));
    CHECK(may(0, 150, 1, FALSE));
    CHECK(take(0, 150, 10, TRUE, TRUE));
    CHECK_STATUS(block.Status, NOT_GRANTED);
    CHECK_STATUS(drop(0, 100, 99), NOT_LOCKED);
    CHECK_STATUS(drop(1, 100, 100), NOT_LOCKED);
    CHECK_STATUS(drop(0, 100, 100), STATUS_SUCCESS);
    CHECK_STATUS(drop(0, 100, 100), NOT_LOCKED);
    CHECK(may(1, 150, 10, FALSE));
    CHECK(!may(1, 150, 10, TRUE));
    CHECK(take(1, 155, 10, FALSE, TRUE));
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_STATUS(FsRtlFastUnlockAll(&lock, &files[0], &files, NULL), STATUS_SUCCESS);
    CHECK(lock.questionable);
    CHECK_STATUS(FsRtlFastUnlockAll(&lock, &files[1], &files, NULL), STATUS_SUCCESS);
    CHECK(!lock.questionable);
    CHECK(take(0, -1, 2, TRUE, TRUE));
    CHECK_STATUS(block.Status, 0xC00001A1);
    FsRtlUninitializeFileLock(&lock);
    CHECK(!FsRtlAreThereCurrentOrInProgressFileLocks(&lock));
}

static ULONG completions;
static NTSTATUS seen;
static ULONG_PTR seen_information;

static NTSTATUS NTAPI completed(PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    (VOID)device, (VOID)context;
    completions++;
    seen = irp->IoStatus.Status;
    seen_information = irp->IoStatus.Information;
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* An IRP as its driver has it: the upper location completes into completed, the lower is current. */
static PIRP request(PFILE_OBJECT file, UCHAR major, UCHAR minor)
{
    PIRP irp = IoAllocateIrp(2, FALSE);
    IoSetNextIrpStackLocation(irp);
    IoGetNextIrpStackLocation(irp)->MajorFunction = major;
    IoSetCompletionRoutine(irp, completed, NULL, TRUE, TRUE, TRUE);
    IoSetNextIrpStackLocation(irp);
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    stack->MajorFunction = major;
    stack->MinorFunction = minor;
    stack->FileObject = file;
    irp->Tail.Overlay.Thread = PsGetCurrentThread();
    return irp;
}

static PIRP lock_request(int file, UCHAR minor, PLARGE_INTEGER length, UCHAR flags)
{
    PIRP irp = request(&files[file], IRP_MJ_LOCK_CONTROL, minor);
    struct { PLARGE_INTEGER length; ULONG_PTR key; } *part = (PVOID)&IoGetCurrentIrpStackLocation(irp)->Parameters;
    part->length = length;
    IoGetCurrentIrpStackLocation(irp)->Flags = flags;
    return irp;
}

KTEST(lock_requests)
{
    LARGE_INTEGER length;
    length.QuadPart = 10;
    FsRtlInitializeFileLock(&lock, NULL, NULL);
    completions = 0;
    PIRP first = lock_request(0, 1, &length, 3), second = lock_request(1, 1, &length, 3);
    CHECK_STATUS(FsRtlProcessFileLock(&lock, first, NULL), STATUS_SUCCESS);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(FsRtlProcessFileLock(&lock, second, NULL), NOT_GRANTED);
    CHECK_STATUS(seen, NOT_GRANTED);
    PIRP waiting = lock_request(1, 1, &length, 2), other = lock_request(1, 1, &length, 2);
    CHECK_STATUS(FsRtlProcessFileLock(&lock, waiting, NULL), STATUS_PENDING);
    CHECK_STATUS(FsRtlProcessFileLock(&lock, other, NULL), STATUS_PENDING);
    CHECK_EQ(completions, 2);
    CHECK(waiting->CancelRoutine != NULL);
    CHECK(IoCancelIrp(other));
    CHECK_EQ(completions, 3);
    CHECK_STATUS(seen, STATUS_CANCELLED);
    PIRP unlock = lock_request(0, 2, &length, 0);
    CHECK_STATUS(FsRtlProcessFileLock(&lock, unlock, NULL), STATUS_SUCCESS);
    CHECK_EQ(completions, 5);
    CHECK_STATUS(waiting->IoStatus.Status, STATUS_SUCCESS);
    FsRtlUninitializeFileLock(&lock);
    IoFreeIrp(first), IoFreeIrp(second), IoFreeIrp(waiting), IoFreeIrp(other), IoFreeIrp(unlock);
}

static ULONG cleanups;
static VOID NTAPI cleanup(PVOID context, const guid *type)
{
    (VOID)context, (VOID)type;
    cleanups++;
}

KTEST(extra_create_parameters)
{
    static const guid one = {1, 2, 3, {4}}, two = {2, 2, 3, {4}};
    PVOID list = NULL, first = NULL, second = NULL, found = &first;
    ULONG size = 1;
    cleanups = 0;
    CHECK_STATUS(FsRtlAllocateExtraCreateParameterList(0, &list), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlAllocateExtraCreateParameter(&one, 40, 0, cleanup, 0x74736554, &first), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlAllocateExtraCreateParameter(&one, 40, 0, cleanup, 0x74736554, &second), STATUS_SUCCESS);
    CHECK(first != NULL && first != second);
    CHECK_EQ(*(ULONG *)first, 0);
    CHECK(!FsRtlIsEcpFromUserMode(first));
    CHECK_STATUS(FsRtlFindExtraCreateParameter(list, &one, &found, &size), STATUS_NOT_FOUND);
    CHECK_PTR(found, NULL);
    CHECK_EQ(size, 0);
    CHECK_STATUS(FsRtlInsertExtraCreateParameter(list, first), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlInsertExtraCreateParameter(list, second), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(FsRtlFindExtraCreateParameter(list, &one, &found, &size), STATUS_SUCCESS);
    CHECK_PTR(found, first);
    CHECK_EQ(size, 40);
    CHECK_STATUS(FsRtlFindExtraCreateParameter(list, &two, NULL, NULL), STATUS_NOT_FOUND);
    CHECK_EQ(cleanups, 0);
    FsRtlFreeExtraCreateParameterList(list);
    CHECK_EQ(cleanups, 1);
}

KTEST(reparse_points)
{
    union { ULONG tag; USHORT half[64]; } buffer = {0};
    buffer.tag = 0x80000123;
    buffer.half[2] = 8;
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(16, &buffer), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(17, &buffer), 0xC0000278);
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(7, &buffer), 0xC0000278);
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(0x4001, &buffer), 0xC0000278);
    buffer.tag = 0;
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(16, &buffer), 0xC0000276);
    buffer.tag = 0x00000123;
    CHECK_STATUS(FsRtlValidateReparsePointBuffer(16, &buffer), 0xC0000278);
}

KTEST(notification)
{
    static UCHAR buffer[128];
    LIST_ENTRY list;
    PVOID sync = NULL;
    UNICODE_STRING directory, target;
    InitializeListHead(&list);
    RtlInitUnicodeString(&directory, L"\\dir");
    RtlInitUnicodeString(&target, L"\\dir\\new");
    FsRtlNotifyInitializeSync(&sync);
    CHECK(sync != NULL);
    completions = 0;
    PIRP irp = request(&files[0], IRP_MJ_DIRECTORY_CONTROL, 2);
    IoGetCurrentIrpStackLocation(irp)->Parameters.Read.Length = sizeof(buffer);
    irp->UserBuffer = buffer;
    FsRtlNotifyFullChangeDirectory(sync, &list, &files[0], &directory, FALSE, FALSE, 1, irp, NULL, NULL);
    CHECK_EQ(completions, 0);
    /* Drivers look at the list to know whether there is anything to report to. */
    CHECK(list.Flink != &list && list.Flink == list.Blink);
    FsRtlNotifyFullReportChange(sync, &list, &target, 10, NULL, NULL, 2, 1, NULL);
    CHECK_EQ(completions, 0);
    FsRtlNotifyFullReportChange(sync, &list, &target, 10, NULL, NULL, 1, 1, NULL);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(seen, STATUS_SUCCESS);
    CHECK_EQ(seen_information, 18);
    CHECK_EQ(((ULONG *)buffer)[0], 0);
    CHECK_EQ(((ULONG *)buffer)[1], 1);
    CHECK_EQ(((ULONG *)buffer)[2], 6);
    CHECK_MEM(buffer + 12, L"new", 6);
    PIRP next = request(&files[0], IRP_MJ_DIRECTORY_CONTROL, 2);
    IoGetCurrentIrpStackLocation(next)->Parameters.Read.Length = sizeof(buffer);
    FsRtlNotifyFullChangeDirectory(sync, &list, &files[0], &directory, FALSE, FALSE, 1, next, NULL, NULL);
    FsRtlNotifyCleanup(sync, &list, &files[0]);
    CHECK_EQ(completions, 2);
    CHECK_STATUS(seen, 0x10B);
    CHECK(IsListEmpty(&list));
    FsRtlNotifyUninitializeSync(&sync);
    CHECK_PTR(sync, NULL);
    IoFreeIrp(irp), IoFreeIrp(next);
}

static PIRP oplock_request(int file, ULONG code)
{
    PIRP irp = request(&files[file], IRP_MJ_FILE_SYSTEM_CONTROL, 0);
    IoGetCurrentIrpStackLocation(irp)->Parameters.DeviceIoControl.IoControlCode = code;
    return irp;
}

static ULONG posted, resumed;
static VOID NTAPI post(PVOID context, PIRP irp)
{
    (VOID)context, (VOID)irp;
    posted++;
}
static VOID NTAPI resume(PVOID context, PIRP irp)
{
    (VOID)context;
    resumed++;
    seen = irp->IoStatus.Status;
}

KTEST(oplocks)
{
    PVOID oplock = &oplock;
    completions = posted = resumed = 0;
    FsRtlInitializeOplock(&oplock);
    CHECK_PTR(oplock, NULL);
    CHECK(FsRtlOplockIsFastIoPossible(&oplock));
    CHECK(!FsRtlCurrentBatchOplock(&oplock));
    PIRP refused = oplock_request(0, 0x90008), batch = oplock_request(0, 0x90008);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, refused, 2), 0xC00000E2);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, batch, 1), STATUS_PENDING);
    CHECK(FsRtlCurrentBatchOplock(&oplock));
    CHECK(FsRtlOplockIsFastIoPossible(&oplock));
    PIRP own = request(&files[0], IRP_MJ_WRITE, 0), other = request(&files[1], IRP_MJ_WRITE, 0);
    IoGetCurrentIrpStackLocation(own)->MajorFunction = IRP_MJ_WRITE;
    IoGetCurrentIrpStackLocation(other)->MajorFunction = IRP_MJ_WRITE;
    CHECK_STATUS(FsRtlCheckOplock(&oplock, own, NULL, resume, post), STATUS_SUCCESS);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(FsRtlCheckOplock(&oplock, other, NULL, resume, post), STATUS_PENDING);
    CHECK_EQ(completions, 2);
    CHECK_EQ(seen_information, 8);
    CHECK_EQ(posted, 1);
    CHECK_EQ(resumed, 0);
    CHECK(!FsRtlOplockIsFastIoPossible(&oplock));
    PIRP acknowledged = oplock_request(0, 0x9000C), again = oplock_request(0, 0x9000C);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, acknowledged, 0), STATUS_SUCCESS);
    CHECK_EQ(resumed, 1);
    CHECK_STATUS(seen, STATUS_SUCCESS);
    CHECK(!FsRtlCurrentBatchOplock(&oplock));
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, again, 0), 0xC00000E3);
    PIRP level2 = oplock_request(1, 0x90004);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, level2, 0), STATUS_PENDING);
    CHECK(!FsRtlOplockIsFastIoPossible(&oplock));
    CHECK_STATUS(FsRtlCheckOplock(&oplock, own, NULL, resume, post), STATUS_SUCCESS);
    CHECK_STATUS(level2->IoStatus.Status, STATUS_SUCCESS);
    CHECK_EQ(level2->IoStatus.Information, 8);
    FsRtlUninitializeOplock(&oplock);
    IoFreeIrp(refused), IoFreeIrp(batch), IoFreeIrp(own), IoFreeIrp(other);
    IoFreeIrp(acknowledged), IoFreeIrp(again), IoFreeIrp(level2);
}

/* A create request of a file, with an oplock key of its own, which is freed with it. */
static PIRP keyed_create(int file, UCHAR key, ULONG options)
{
    static const guid type = {0x48850596, 0x3050, 0x4BE7, {0x98, 0x63, 0xFE, 0xC3, 0x50, 0xCE, 0x8D, 0x7F}};
    PVOID list = NULL, context = NULL;
    PIRP irp = request(&files[file], IRP_MJ_CREATE, 0);
    IoGetCurrentIrpStackLocation(irp)->Parameters.Create.Options = FILE_OPEN << 24 | options;
    CHECK_STATUS(FsRtlAllocateExtraCreateParameterList(0, &list), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlAllocateExtraCreateParameter(&type, 20, 0, cleanup, 0x74736554, &context), STATUS_SUCCESS);
    RtlFillMemory(context, 16, key);
    CHECK_STATUS(FsRtlInsertExtraCreateParameter(list, context), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlSetEcpListIntoIrp(irp, list), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlSetEcpListIntoIrp(irp, list), STATUS_INVALID_PARAMETER);
    return irp;
}

struct oplock_input { USHORT version, bytes; ULONG level, flags, room[3]; };

static PIRP new_oplock_request(int file, struct oplock_input *input, ULONG level, ULONG flags)
{
    PIRP irp = oplock_request(file, 0x90240);
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    input->version = 1, input->bytes = 12, input->level = level, input->flags = flags;
    stack->Parameters.DeviceIoControl.InputBufferLength = 12;
    stack->Parameters.DeviceIoControl.OutputBufferLength = 24;
    irp->AssociatedIrp.SystemBuffer = input;
    return irp;
}

KTEST(oplock_keys)
{
    static struct oplock_input inputs[4];
    PVOID oplock = NULL;
    const ULONG requiring_oplock = 0x10000;
    completions = posted = resumed = cleanups = 0;
    FsRtlInitializeOplock(&oplock);
    PIRP first = keyed_create(0, 1, 0), second = keyed_create(1, 1, 0), third = keyed_create(2, 2, requiring_oplock);
    CHECK(!FsRtlOplockKeysEqual(&files[0], &files[1]));
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, first, 2, NULL, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, second, 2, NULL, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, third, 2, NULL, NULL, NULL), STATUS_SUCCESS);
    CHECK(FsRtlOplockKeysEqual(&files[0], &files[1]));
    CHECK(FsRtlOplockKeysEqual(&files[2], &files[2]));
    CHECK(!FsRtlOplockKeysEqual(&files[0], &files[2]));
    IoFreeIrp(first);
    CHECK_EQ(cleanups, 1);
    /* Read, handle and write caching; the other handle with the key takes it over. */
    PIRP all = new_oplock_request(0, &inputs[0], 7, 1), more = new_oplock_request(1, &inputs[1], 7, 1);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, all, 1), STATUS_PENDING);
    PIRP friendly = request(&files[1], IRP_MJ_WRITE, 0), hostile = request(&files[2], IRP_MJ_WRITE, 0);
    CHECK_STATUS(FsRtlCheckOplock(&oplock, friendly, NULL, resume, post), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, second, 0, NULL, resume, post), STATUS_SUCCESS);
    CHECK_EQ(completions, 0);
    CHECK_STATUS(FsRtlOplockFsctrlEx(&oplock, more, 2, 1), STATUS_PENDING);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(seen, 0x215);
    /* Rather no open than a break. */
    CHECK_STATUS(FsRtlCheckOplock(&oplock, third, NULL, resume, post), 0xC0000909);
    CHECK_EQ(completions, 1);
    CHECK_STATUS(FsRtlCheckOplock(&oplock, hostile, NULL, resume, post), STATUS_PENDING);
    CHECK_EQ(completions, 2);
    CHECK_EQ(resumed, 0);
    PIRP acknowledged = new_oplock_request(1, &inputs[2], 0, 2);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, acknowledged, 0), STATUS_SUCCESS);
    CHECK_EQ(resumed, 1);
    /* A create on condition of an oplock: others wait until its file has asked for one. */
    PIRP atomic = keyed_create(1, 1, requiring_oplock), wanted = new_oplock_request(1, &inputs[3], 7, 1);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, second, 1), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, atomic, 1), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, third, 1), NOT_GRANTED_OPLOCK);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, hostile, 1, NULL, NULL, NULL), 0x108);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, atomic, 4, NULL, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, hostile, 1, NULL, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, atomic, 1), STATUS_SUCCESS);
    completions = 0;
    CHECK_STATUS(FsRtlOplockFsctrl(&oplock, wanted, 1), STATUS_PENDING);
    CHECK_EQ(completions, 0);
    CHECK_STATUS(FsRtlCheckOplockEx(&oplock, hostile, 1, NULL, NULL, NULL), 0x108);
    CHECK_EQ(completions, 1);
    FsRtlUninitializeOplock(&oplock);
    IoFreeIrp(second), IoFreeIrp(third), IoFreeIrp(atomic), IoFreeIrp(all), IoFreeIrp(more), IoFreeIrp(friendly);
    IoFreeIrp(hostile), IoFreeIrp(acknowledged), IoFreeIrp(wanted);
    CHECK_EQ(cleanups, 4);
}

static PVOID overflow_thread, overflow_context;
static VOID NTAPI overflow(PVOID context, PKEVENT event)
{
    overflow_context = context;
    overflow_thread = PsGetCurrentThread();
    KeSetEvent(event, 0, FALSE);
}

KTEST(stack_overflow)
{
    KEVENT event;
    KeInitializeEvent(&event, NotificationEvent, FALSE);
    FsRtlPostStackOverflow(&lock, &event, overflow);
    CHECK_STATUS(KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
    CHECK_PTR(overflow_context, &lock);
    CHECK(overflow_thread != (PVOID)PsGetCurrentThread());
}

KTEST_FAMILY("fsrtl", KTEST_ENTRY(names), KTEST_ENTRY(statuses), KTEST_ENTRY(locks), KTEST_ENTRY(lock_requests),
             KTEST_ENTRY(extra_create_parameters), KTEST_ENTRY(reparse_points), KTEST_ENTRY(notification),
             KTEST_ENTRY(oplocks), KTEST_ENTRY(oplock_keys), KTEST_ENTRY(stack_overflow));
