/* Files of the host's directory. The host's side gives every machine one with Windows\Known.txt (10 bytes) and a link
 * "outside" that leads out of it. */
#include "ktest.h"

#define NOT_FOUND ((NTSTATUS)0xC0000034)
#define PATH_NOT_FOUND ((NTSTATUS)0xC000003A)
#define NAME_INVALID ((NTSTATUS)0xC0000033)
#define SYNC (FILE_SYNCHRONOUS_IO_NONALERT)

NTSYSAPI NTSTATUS NTAPI ZwDeleteFile(POBJECT_ATTRIBUTES);
NTSYSAPI NTSTATUS NTAPI ZwQueryDirectoryFile(HANDLE, HANDLE, PVOID, PVOID, PIO_STATUS_BLOCK, PVOID, ULONG, ULONG, BOOLEAN,
                                             PUNICODE_STRING, BOOLEAN);
static IO_STATUS_BLOCK block;

static NTSTATUS create(PCWSTR path, ACCESS_MASK access, ULONG disposition, ULONG options, PHANDLE file)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    RtlInitUnicodeString(&name, path);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwCreateFile(file, access | SYNCHRONIZE, &attributes, &block, NULL, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_READ,
                        disposition, options, NULL, 0);
}

static NTSTATUS open(PCWSTR path)
{
    HANDLE file;
    NTSTATUS status = create(path, GENERIC_READ, FILE_OPEN, SYNC, &file);
    if (NT_SUCCESS(status))
        ZwClose(file);
    return status;
}

KTEST(names)
{
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\Known.txt"), STATUS_SUCCESS);
    CHECK_STATUS(open(L"\\DosDevices\\C:\\WINDOWS\\KNOWN.TXT"), STATUS_SUCCESS);
    CHECK_STATUS(open(L"\\SystemRoot\\known.txt"), STATUS_SUCCESS);
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\Nothing"), NOT_FOUND);
    CHECK_STATUS(open(L"\\??\\C:\\Nothing\\Known.txt"), PATH_NOT_FOUND);
    CHECK_STATUS(open(L"\\??\\D:\\Known.txt"), PATH_NOT_FOUND);
    CHECK_STATUS(open(L"C:\\Windows\\Known.txt"), STATUS_OBJECT_PATH_SYNTAX_BAD);
    CHECK_STATUS(open(L"\\??\\C:\\..\\etc\\passwd"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\..\\..\\etc\\passwd"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\Windows/Known.txt"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\outside\\passwd"), STATUS_ACCESS_DENIED);
    CHECK_STATUS(open(L"\\??\\C:\\outside"), STATUS_ACCESS_DENIED);
    CHECK_STATUS(open(L"\\??\\C:\\CON"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\nul.txt"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\Known.txt:stream"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\C:\\Windows\\*"), NAME_INVALID);
    CHECK_STATUS(open(L"\\??\\NUL"), NOT_FOUND);
}

KTEST(dispositions)
{
    HANDLE file;
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_WRITE, FILE_OPEN, SYNC, &file), NOT_FOUND);
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_WRITE, FILE_OVERWRITE, SYNC, &file), NOT_FOUND);
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_WRITE, 6, SYNC, &file), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_WRITE, FILE_CREATE, SYNC, &file), STATUS_SUCCESS);
    CHECK_EQ(block.Information, FILE_CREATED);
    CHECK_STATUS(ZwClose(file), STATUS_SUCCESS);
    CHECK_STATUS(create(L"\\??\\C:\\NEW", GENERIC_WRITE, FILE_CREATE, SYNC, &file), STATUS_OBJECT_NAME_COLLISION);
    CHECK_STATUS(create(L"\\??\\C:\\NEW", GENERIC_WRITE, FILE_OPEN_IF, SYNC, &file), STATUS_SUCCESS);
    CHECK_EQ(block.Information, FILE_OPENED);
    ZwClose(file);
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_WRITE, FILE_OVERWRITE_IF, SYNC, &file), STATUS_SUCCESS);
    CHECK_EQ(block.Information, FILE_OVERWRITTEN);
    ZwClose(file);
    CHECK_STATUS(create(L"\\??\\C:\\new", GENERIC_READ, FILE_OPEN, SYNC | FILE_DIRECTORY_FILE, &file), (NTSTATUS)0xC0000103);
    CHECK_STATUS(create(L"\\??\\C:\\Windows", GENERIC_READ, FILE_OPEN, SYNC | FILE_NON_DIRECTORY_FILE, &file),
                 STATUS_FILE_IS_A_DIRECTORY);
    CHECK_STATUS(create(L"\\??\\C:\\new", DELETE, FILE_OPEN, SYNC | FILE_DELETE_ON_CLOSE, &file), STATUS_SUCCESS);
    ZwClose(file);
    CHECK_STATUS(open(L"\\??\\C:\\new"), NOT_FOUND);
}

KTEST(data)
{
    HANDLE file;
    UCHAR buffer[32];
    LARGE_INTEGER offset = {{0, 0}};
    FILE_STANDARD_INFORMATION standard;
    FILE_POSITION_INFORMATION position;
    FILE_END_OF_FILE_INFORMATION end;
    FILE_DISPOSITION_INFORMATION disposition = {TRUE};
    CHECK_STATUS(create(L"\\??\\C:\\data", GENERIC_READ | GENERIC_WRITE | DELETE, FILE_CREATE, SYNC, &file), STATUS_SUCCESS);
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, buffer, 4, &offset, NULL), STATUS_END_OF_FILE);
    CHECK_STATUS(ZwWriteFile(file, NULL, NULL, NULL, &block, "hello", 5, NULL, NULL), STATUS_SUCCESS);
    CHECK_EQ(block.Information, 5);
    CHECK_STATUS(ZwQueryInformationFile(file, &block, &position, sizeof position, FilePositionInformation), STATUS_SUCCESS);
    CHECK_EQ(position.CurrentByteOffset.QuadPart, 5);
    offset.QuadPart = 1;
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, buffer, 32, &offset, NULL), STATUS_SUCCESS);
    CHECK_EQ(block.Information, 4);
    CHECK_MEM(buffer, "ello", 4);
    offset.QuadPart = -5;
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, buffer, 4, &offset, NULL), STATUS_INVALID_PARAMETER);
    offset.QuadPart = -1; /* at the end */
    CHECK_STATUS(ZwWriteFile(file, NULL, NULL, NULL, &block, "!", 1, &offset, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryInformationFile(file, &block, &standard, sizeof standard, FileStandardInformation), STATUS_SUCCESS);
    CHECK_EQ(standard.EndOfFile.QuadPart, 6);
    CHECK_EQ(standard.Directory, 0);
    CHECK_EQ(standard.DeletePending, 0);
    CHECK_STATUS(ZwQueryInformationFile(file, &block, &standard, sizeof standard - 1, FileStandardInformation),
                 STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQueryInformationFile(file, &block, buffer, sizeof buffer, (FILE_INFORMATION_CLASS)999),
                 STATUS_INVALID_INFO_CLASS);
    end.EndOfFile.QuadPart = 3;
    CHECK_STATUS(ZwSetInformationFile(file, &block, &end, sizeof end, FileEndOfFileInformation), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryInformationFile(file, &block, &standard, sizeof standard, FileStandardInformation), STATUS_SUCCESS);
    CHECK_EQ(standard.EndOfFile.QuadPart, 3);
    end.EndOfFile.QuadPart = -1;
    CHECK_STATUS(ZwSetInformationFile(file, &block, &end, sizeof end, FileEndOfFileInformation), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(ZwSetInformationFile(file, &block, &disposition, 1, FileDispositionInformation), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(file), STATUS_SUCCESS);
    CHECK_STATUS(open(L"\\??\\C:\\data"), NOT_FOUND);
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, buffer, 4, NULL, NULL), STATUS_INVALID_HANDLE);
}

KTEST(directories)
{
    HANDLE folder;
    ULONG buffer[64];
    UNICODE_STRING pattern;
    CHECK_STATUS(create(L"\\??\\C:\\Windows", FILE_LIST_DIRECTORY, FILE_OPEN, SYNC | FILE_DIRECTORY_FILE, &folder), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, 8, 12, TRUE, NULL, TRUE),
                 STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, sizeof buffer, 99, TRUE, NULL, TRUE),
                 STATUS_INVALID_INFO_CLASS);
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, sizeof buffer, 12, TRUE, NULL, TRUE), STATUS_SUCCESS);
    CHECK_EQ(buffer[0], 0);
    CHECK_EQ(buffer[2], 2);
    CHECK(*(PWCHAR)&buffer[3] == '.');
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, sizeof buffer, 12, FALSE, NULL, FALSE), STATUS_SUCCESS);
    CHECK_EQ(buffer[0], 16); /* "..", and behind it the file */
    CHECK_EQ(buffer[2], 4);
    CHECK_EQ(buffer[4], 0);
    CHECK_MEM(&buffer[7], L"Known.txt", 18);
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, sizeof buffer, 12, FALSE, NULL, FALSE), STATUS_NO_MORE_FILES);
    ZwClose(folder);
    RtlInitUnicodeString(&pattern, L"*.none");
    CHECK_STATUS(create(L"\\SystemRoot", FILE_LIST_DIRECTORY, FILE_OPEN, SYNC | FILE_DIRECTORY_FILE, &folder), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryDirectoryFile(folder, NULL, NULL, NULL, &block, buffer, sizeof buffer, 12, FALSE, &pattern, TRUE), STATUS_NO_SUCH_FILE);
    ZwClose(folder);
}

static NTSTATUS open_shared(PCWSTR path, ACCESS_MASK access, ULONG share, ULONG options, PHANDLE file)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    RtlInitUnicodeString(&name, path);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwCreateFile(file, access | SYNCHRONIZE, &attributes, &block, NULL, FILE_ATTRIBUTE_NORMAL, share, FILE_OPEN_IF,
                        options | SYNC, NULL, 0);
}

#define SHARED_PATH L"\\??\\C:\\shared"
#define ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
#define DELETE_PENDING_STATUS ((NTSTATUS)0xC0000056)

KTEST(share_modes)
{
    HANDLE first, second;
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, FILE_SHARE_READ, 0, &first), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &second), STATUS_SUCCESS);
    ZwClose(second);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_WRITE, ALL, 0, &second), STATUS_SHARING_VIOLATION);
    CHECK_STATUS(open_shared(SHARED_PATH, DELETE, ALL, 0, &second), STATUS_SHARING_VIOLATION);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, FILE_SHARE_WRITE, 0, &second), STATUS_SHARING_VIOLATION);
    CHECK_STATUS(open_shared(L"\\??\\C:\\SHARED", GENERIC_WRITE, ALL, 0, &second), STATUS_SHARING_VIOLATION);
    /* Attributes alone are nobody's loss. */
    CHECK_STATUS(open_shared(SHARED_PATH, FILE_READ_ATTRIBUTES, 0, 0, &second), STATUS_SUCCESS);
    ZwClose(second);
    CHECK_STATUS(create(SHARED_PATH, FILE_READ_ATTRIBUTES, FILE_OVERWRITE, SYNC, &second), STATUS_SHARING_VIOLATION);
    ZwClose(first);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_WRITE, 0, 0, &first), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &second), STATUS_SHARING_VIOLATION);
    /* What a handle was opened for goes with it, though the file object stays. */
    PVOID object = NULL;
    CHECK_STATUS(ObReferenceObjectByHandle(first, 0, NULL, KernelMode, &object, NULL), STATUS_SUCCESS);
    ZwClose(first);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ | DELETE, 0, FILE_DELETE_ON_CLOSE, &second), STATUS_SUCCESS);
    ObDereferenceObject(object);
    ZwClose(second);
    CHECK_STATUS(open(SHARED_PATH), NOT_FOUND);
}

KTEST(deletion)
{
    HANDLE first, second, third;
    FILE_DISPOSITION_INFORMATION disposition = {TRUE};
    FILE_STANDARD_INFORMATION standard;
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ | DELETE, ALL, 0, &first), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &second), STATUS_SUCCESS);
    CHECK_STATUS(ZwSetInformationFile(second, &block, &disposition, 1, FileDispositionInformation), STATUS_ACCESS_DENIED);
    CHECK_STATUS(ZwSetInformationFile(first, &block, &disposition, 1, FileDispositionInformation), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryInformationFile(second, &block, &standard, sizeof standard, FileStandardInformation), STATUS_SUCCESS);
    CHECK_EQ(standard.DeletePending, 1);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &third), DELETE_PENDING_STATUS);
    disposition.DeleteFile = FALSE;
    CHECK_STATUS(ZwSetInformationFile(first, &block, &disposition, 1, FileDispositionInformation), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &third), STATUS_SUCCESS);
    ZwClose(third);
    disposition.DeleteFile = TRUE;
    CHECK_STATUS(ZwSetInformationFile(first, &block, &disposition, 1, FileDispositionInformation), STATUS_SUCCESS);
    ZwClose(first);
    CHECK_STATUS(open(SHARED_PATH), DELETE_PENDING_STATUS);
    ZwClose(second);
    CHECK_STATUS(open(SHARED_PATH), NOT_FOUND);
    /* FILE_DELETE_ON_CLOSE dooms the file when that handle is closed, not before. */
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ | DELETE, ALL, FILE_DELETE_ON_CLOSE, &first), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ, ALL, 0, &second), STATUS_SUCCESS);
    ZwClose(first);
    CHECK_STATUS(open(SHARED_PATH), DELETE_PENDING_STATUS);
    ZwClose(second);
    CHECK_STATUS(open(SHARED_PATH), NOT_FOUND);
}

NTSYSAPI NTSTATUS NTAPI ZwCreateEvent(PHANDLE, ACCESS_MASK, POBJECT_ATTRIBUTES, EVENT_TYPE, BOOLEAN);
NTSYSAPI NTSTATUS NTAPI ZwWaitForSingleObject(HANDLE, BOOLEAN, PLARGE_INTEGER);
NTSYSAPI NTSTATUS NTAPI ZwLockFile(HANDLE, HANDLE, PVOID, PVOID, PIO_STATUS_BLOCK, PLARGE_INTEGER, PLARGE_INTEGER, ULONG,
                                   BOOLEAN, BOOLEAN);
NTSYSAPI NTSTATUS NTAPI ZwUnlockFile(HANDLE, PIO_STATUS_BLOCK, PLARGE_INTEGER, PLARGE_INTEGER, ULONG);

static NTSTATUS lock(HANDLE file, LONGLONG start, LONGLONG bytes, BOOLEAN exclusive)
{
    LARGE_INTEGER from, length;
    from.QuadPart = start;
    length.QuadPart = bytes;
    return ZwLockFile(file, NULL, NULL, NULL, &block, &from, &length, 0, TRUE, exclusive);
}

static NTSTATUS unlock(HANDLE file, LONGLONG start, LONGLONG bytes, ULONG key)
{
    LARGE_INTEGER from, length;
    from.QuadPart = start;
    length.QuadPart = bytes;
    return ZwUnlockFile(file, &block, &from, &length, key);
}

#define LOCK_CONFLICT ((NTSTATUS)0xC0000054)
#define NOT_GRANTED ((NTSTATUS)0xC0000055)
#define NOT_LOCKED ((NTSTATUS)0xC000007E)

KTEST(byte_range_locks)
{
    HANDLE first, second, third;
    LARGE_INTEGER at = {{0, 0}};
    UCHAR byte[4];
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ | GENERIC_WRITE | DELETE, ALL, FILE_DELETE_ON_CLOSE, &first), STATUS_SUCCESS);
    CHECK_STATUS(open_shared(SHARED_PATH, GENERIC_READ | GENERIC_WRITE, ALL, 0, &second), STATUS_SUCCESS);
    CHECK_STATUS(ZwWriteFile(first, NULL, NULL, NULL, &block, "0123456789", 10, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(lock(first, 0, 4, TRUE), STATUS_SUCCESS);
    CHECK_STATUS(lock(second, 3, 4, TRUE), NOT_GRANTED);
    CHECK_STATUS(lock(second, 3, 4, FALSE), NOT_GRANTED);
    CHECK_STATUS(lock(first, 0, 1, FALSE), NOT_GRANTED);
    CHECK_STATUS(lock(second, 4, 4, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(lock(first, 7, 2, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(ZwReadFile(second, NULL, NULL, NULL, &block, byte, 1, &at, NULL), LOCK_CONFLICT);
    CHECK_STATUS(ZwWriteFile(second, NULL, NULL, NULL, &block, "x", 1, &at, NULL), LOCK_CONFLICT);
    CHECK_STATUS(ZwReadFile(first, NULL, NULL, NULL, &block, byte, 1, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwWriteFile(first, NULL, NULL, NULL, &block, "y", 1, &at, NULL), STATUS_SUCCESS);
    ULONG key = 9;
    CHECK_STATUS(ZwReadFile(first, NULL, NULL, NULL, &block, byte, 1, &at, &key), LOCK_CONFLICT);
    at.QuadPart = 4;
    CHECK_STATUS(ZwReadFile(first, NULL, NULL, NULL, &block, byte, 4, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwWriteFile(second, NULL, NULL, NULL, &block, "x", 1, &at, NULL), LOCK_CONFLICT);
    CHECK_STATUS(unlock(first, 0, 3, 0), NOT_LOCKED);
    CHECK_STATUS(unlock(first, 0, 4, 1), NOT_LOCKED);
    CHECK_STATUS(unlock(second, 0, 4, 0), NOT_LOCKED);
    CHECK_STATUS(unlock(first, 0, 4, 0), STATUS_SUCCESS);
    at.QuadPart = 0;
    CHECK_STATUS(ZwReadFile(second, NULL, NULL, NULL, &block, byte, 1, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(lock(first, -1, 2, TRUE), (NTSTATUS)0xC00001A1);
    CHECK_STATUS(open_shared(SHARED_PATH, FILE_READ_ATTRIBUTES, ALL, 0, &third), STATUS_SUCCESS);
    CHECK_STATUS(lock(third, 0, 1, TRUE), STATUS_ACCESS_DENIED);
    ZwClose(third);
    /* A handle's locks go with it. */
    ZwClose(second);
    CHECK_STATUS(lock(first, 4, 3, TRUE), STATUS_SUCCESS);
    ZwClose(first);
}

static ULONG apc_calls;
static PVOID apc_context, apc_block;
static KIRQL apc_irql;

static VOID NTAPI apc(PVOID context, PIO_STATUS_BLOCK status, ULONG reserved)
{
    apc_calls++;
    apc_context = context;
    apc_block = status;
    apc_irql = (KIRQL)(KeGetCurrentIrql() + reserved);
}

KTEST(apc_routines)
{
    HANDLE file, event;
    OBJECT_ATTRIBUTES attributes;
    LARGE_INTEGER at = {{0, 0}}, soon;
    UCHAR bytes[4];
    soon.QuadPart = -10;
    InitializeObjectAttributes(&attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    CHECK_STATUS(ZwCreateEvent(&event, EVENT_ALL_ACCESS, &attributes, NotificationEvent, FALSE), STATUS_SUCCESS);
    CHECK_STATUS(create(L"\\SystemRoot\\Known.txt", GENERIC_READ, FILE_OPEN, SYNC, &file), STATUS_SUCCESS);
    apc_calls = 0;
    KeEnterCriticalRegion();
    CHECK_STATUS(ZwReadFile(file, event, (PIO_APC_ROUTINE)apc, &apc_calls, &block, bytes, 4, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwWaitForSingleObject(event, FALSE, &soon), STATUS_SUCCESS);
    CHECK_EQ(apc_calls, 0);
    KeLeaveCriticalRegion();
    KeDelayExecutionThread(KernelMode, TRUE, &soon);
    CHECK_EQ(apc_calls, 1);
    CHECK_PTR(apc_context, &apc_calls);
    CHECK_PTR(apc_block, &block);
    CHECK_EQ(apc_irql, PASSIVE_LEVEL);
    /* What fails calls nobody. */
    at.QuadPart = -7;
    CHECK_STATUS(ZwReadFile(file, NULL, (PIO_APC_ROUTINE)apc, NULL, &block, bytes, 4, &at, NULL), STATUS_INVALID_PARAMETER);
    KeDelayExecutionThread(KernelMode, TRUE, &soon);
    CHECK_EQ(apc_calls, 1);
    ZwClose(file);
    ZwClose(event);
}

KTEST_FAMILY("files", KTEST_ENTRY(names), KTEST_ENTRY(dispositions), KTEST_ENTRY(data), KTEST_ENTRY(directories),
             KTEST_ENTRY(share_modes), KTEST_ENTRY(deletion), KTEST_ENTRY(byte_range_locks), KTEST_ENTRY(apc_routines));
