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

KTEST_FAMILY("files", KTEST_ENTRY(names), KTEST_ENTRY(dispositions), KTEST_ENTRY(data), KTEST_ENTRY(directories));
