/* The registry: keys, values, information classes, the Rtl functions, callbacks. */
#include "ktest.h"

NTSYSAPI NTSTATUS NTAPI ZwLoadDriver(PUNICODE_STRING);
NTSYSAPI NTSTATUS NTAPI ZwUnloadDriver(PUNICODE_STRING);
#ifndef STATUS_IMAGE_ALREADY_LOADED
#define STATUS_IMAGE_ALREADY_LOADED ((NTSTATUS)0xC000010E)
#endif
NTSYSAPI NTSTATUS NTAPI ZwDeleteValueKey(HANDLE, PUNICODE_STRING);
#define NOT_FOUND ((NTSTATUS)0xC0000034)
#define SERVICES L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\"
#define BASE L"\\Registry\\Machine\\Software\\KTest"

static UNICODE_STRING str(PCWSTR text)
{
    UNICODE_STRING string;
    RtlInitUnicodeString(&string, text);
    return string;
}

static NTSTATUS open_key(HANDLE root, PCWSTR path, PHANDLE key)
{
    UNICODE_STRING name = str(path);
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, root, NULL);
    return ZwOpenKey(key, KEY_ALL_ACCESS, &attributes);
}

static NTSTATUS create_key(HANDLE root, PCWSTR path, ULONG options, PHANDLE key, PULONG disposition)
{
    UNICODE_STRING name = str(path);
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, root, NULL);
    return ZwCreateKey(key, KEY_ALL_ACCESS, &attributes, 0, NULL, options, disposition);
}

static NTSTATUS set(HANDLE key, PCWSTR value, ULONG type, PVOID data, ULONG bytes)
{
    UNICODE_STRING name = str(value);
    return ZwSetValueKey(key, &name, 0, type, data, bytes);
}

static NTSTATUS query(HANDLE key, PCWSTR value, ULONG class, PVOID buffer, ULONG bytes, PULONG result)
{
    UNICODE_STRING name = str(value);
    return ZwQueryValueKey(key, &name, class, buffer, bytes, result);
}

KTEST(service_key)
{
    HANDLE key, parameters;
    ULONG buffer[64], length = 0, disposition = 0;
    CHECK_STATUS(open_key(NULL, SERVICES L"registry", &key), STATUS_SUCCESS);
    CHECK_STATUS(query(key, L"Type", 2, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 16);
    CHECK_EQ(buffer[1], REG_DWORD);
    CHECK_EQ(buffer[3], 1);
    CHECK_STATUS(query(key, L"START", 2, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(buffer[3], 3);
    CHECK_STATUS(query(key, L"ImagePath", 2, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(buffer[1], REG_EXPAND_SZ);
    CHECK_STATUS(query(key, L"Nothing", 2, buffer, sizeof buffer, &length), NOT_FOUND);
    CHECK_STATUS(create_key(key, L"Parameters", 0, &parameters, &disposition), STATUS_SUCCESS);
    CHECK_EQ(disposition, REG_CREATED_NEW_KEY);
    CHECK_STATUS(ZwClose(parameters), STATUS_SUCCESS);
    CHECK_STATUS(create_key(key, L"parameters", 0, &parameters, &disposition), STATUS_SUCCESS);
    CHECK_EQ(disposition, REG_OPENED_EXISTING_KEY);
    CHECK_STATUS(ZwDeleteKey(parameters), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(parameters), STATUS_SUCCESS);
    CHECK_STATUS(ZwFlushKey(key), STATUS_SUCCESS);
    CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
    CHECK_STATUS(ZwFlushKey(key), STATUS_INVALID_HANDLE);
}

KTEST(names)
{
    HANDLE key, machine;
    CHECK_STATUS(open_key(NULL, L"\\Registry\\Machine\\Nothing", &key), NOT_FOUND);
    CHECK_STATUS(open_key(NULL, L"\\Registry\\Machine\\Nothing\\Below", &key), NOT_FOUND);
    CHECK_STATUS(open_key(NULL, L"Registry\\Machine", &key), STATUS_OBJECT_PATH_SYNTAX_BAD);
    CHECK_STATUS(open_key(NULL, L"\\Device", &key), STATUS_OBJECT_TYPE_MISMATCH);
    CHECK_STATUS(open_key(NULL, L"\\REGISTRY\\MACHINE", &machine), STATUS_SUCCESS);
    CHECK_STATUS(open_key(machine, L"\\System", &key), STATUS_OBJECT_PATH_SYNTAX_BAD);
    CHECK_STATUS(open_key(machine, L"system\\currentcontrolset\\control", &key), STATUS_SUCCESS);
    ZwClose(key);
    CHECK_STATUS(open_key(machine, L"Hardware\\Description\\System", &key), STATUS_SUCCESS);
    ZwClose(key);
    CHECK_STATUS(create_key(machine, L"Mine", 0, &key, NULL), STATUS_ACCESS_DENIED);
    CHECK_STATUS(create_key(machine, L"Software\\a\\b", 0, &key, NULL), NOT_FOUND);
    CHECK_STATUS(create_key(machine, L"Hardware\\Mine", 0, &key, NULL), (NTSTATUS)0xC0000181);
    CHECK_STATUS(create_key(machine, L"Software\\a", 0x4000, &key, NULL), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(open_key((HANDLE)0x7770, L"x", &key), STATUS_INVALID_HANDLE);
    ZwClose(machine);
}

KTEST(value_classes)
{
    HANDLE key;
    ULONG buffer[32], length = 0;
    PKEY_VALUE_FULL_INFORMATION full = (PVOID)buffer;
    PKEY_VALUE_BASIC_INFORMATION basic = (PVOID)buffer;
    CHECK_STATUS(create_key(NULL, BASE, REG_OPTION_VOLATILE, &key, NULL), STATUS_SUCCESS);
    CHECK_STATUS(set(key, L"Abc", REG_BINARY, "12345", 5), STATUS_SUCCESS);
    CHECK_STATUS(query(key, L"abc", 2, buffer, 0, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(length, 17);
    CHECK_STATUS(query(key, L"abc", 2, buffer, 11, &length), STATUS_BUFFER_TOO_SMALL);
    RtlFillMemory(buffer, sizeof buffer, 0xEE);
    CHECK_STATUS(query(key, L"abc", 2, buffer, 14, &length), STATUS_BUFFER_OVERFLOW);
    CHECK_EQ(length, 17);
    CHECK_EQ(buffer[2], 5);
    CHECK_MEM((PUCHAR)buffer + 12, "12\xEE", 3);
    CHECK_STATUS(query(key, L"abc", 2, buffer, 17, &length), STATUS_SUCCESS);
    CHECK_MEM((PUCHAR)buffer + 12, "12345", 5);
    CHECK_STATUS(query(key, L"abc", 0, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 18);
    CHECK_EQ(basic->Type, REG_BINARY);
    CHECK_EQ(basic->NameLength, 6);
    CHECK(basic->Name[0] == 'A'); /* as it was first written */
    CHECK_STATUS(query(key, L"abc", 1, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(full->DataOffset, 28);
    CHECK_EQ(full->DataLength, 5);
    CHECK_EQ(full->NameLength, 6);
    CHECK_EQ(length, 33);
    CHECK_MEM((PUCHAR)buffer + 28, "12345", 5);
    CHECK_STATUS(query(key, L"abc", 99, buffer, sizeof buffer, &length), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(set(key, L"", REG_SZ, L"d", 4), STATUS_SUCCESS);
    CHECK_STATUS(query(key, L"", 2, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 16);
    CHECK_STATUS(set(key, L"ABC", REG_NONE, NULL, 0), STATUS_SUCCESS);
    CHECK_STATUS(query(key, L"abc", 2, buffer, 12, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 12);
    CHECK_STATUS(ZwEnumerateValueKey(key, 0, 0, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(basic->NameLength, 6);
    CHECK_STATUS(ZwEnumerateValueKey(key, 1, 0, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(basic->NameLength, 0);
    CHECK_STATUS(ZwEnumerateValueKey(key, 2, 0, buffer, sizeof buffer, &length), STATUS_NO_MORE_ENTRIES);
    {
        UNICODE_STRING name = str(L"ABC");
        CHECK_STATUS(ZwDeleteValueKey(key, &name), STATUS_SUCCESS);
        CHECK_STATUS(ZwDeleteValueKey(key, &name), NOT_FOUND);
    }
    CHECK_STATUS(ZwDeleteKey(key), STATUS_SUCCESS);
    CHECK_STATUS(query(key, L"", 2, buffer, sizeof buffer, &length), STATUS_KEY_DELETED);
    CHECK_STATUS(ZwClose(key), STATUS_SUCCESS);
}

KTEST(key_classes)
{
    HANDLE key, first, second;
    ULONG buffer[64], length = 0;
    PKEY_BASIC_INFORMATION basic = (PVOID)buffer;
    PKEY_FULL_INFORMATION full = (PVOID)buffer;
    CHECK_STATUS(create_key(NULL, BASE, REG_OPTION_VOLATILE, &key, NULL), STATUS_SUCCESS);
    CHECK_STATUS(create_key(key, L"Second", 1, &second, NULL), STATUS_SUCCESS);
    CHECK_STATUS(create_key(key, L"First", 1, &first, NULL), STATUS_SUCCESS);
    CHECK_STATUS(set(key, L"Value", REG_DWORD, buffer, 4), STATUS_SUCCESS);
    CHECK_STATUS(ZwEnumerateKey(key, 0, 0, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 16 + 10);
    CHECK_EQ(basic->NameLength, 10);
    CHECK_MEM(basic->Name, L"First", 10); /* by name, not by age */
    CHECK(basic->LastWriteTime.QuadPart != 0);
    CHECK_STATUS(ZwEnumerateKey(key, 1, 0, buffer, 15, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(length, 16 + 12);
    CHECK_STATUS(ZwEnumerateKey(key, 1, 0, buffer, 18, &length), STATUS_BUFFER_OVERFLOW);
    CHECK_STATUS(ZwEnumerateKey(key, 2, 0, buffer, sizeof buffer, &length), STATUS_NO_MORE_ENTRIES);
    CHECK_STATUS(ZwQueryKey(key, 2, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(length, 44);
    CHECK_EQ(full->SubKeys, 2);
    CHECK_EQ(full->MaxNameLen, 12);
    CHECK_EQ(full->Values, 1);
    CHECK_EQ(full->MaxValueNameLen, 10);
    CHECK_EQ(full->MaxValueDataLen, 4);
    CHECK_EQ(full->ClassLength, 0);
    CHECK_STATUS(ZwQueryKey(first, 3, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    CHECK_EQ(buffer[0], sizeof BASE - 2 + 12);
    CHECK_STATUS(ZwDeleteKey(key), STATUS_CANNOT_DELETE);
    CHECK_STATUS(ZwDeleteKey(first), STATUS_SUCCESS);
    CHECK_STATUS(ZwDeleteKey(first), STATUS_KEY_DELETED);
    CHECK_STATUS(ZwDeleteKey(second), STATUS_SUCCESS);
    CHECK_STATUS(ZwDeleteKey(key), STATUS_SUCCESS);
    ZwClose(first);
    ZwClose(second);
    ZwClose(key);
}

static ULONG calls, last_type, last_length;
static NTSTATUS NTAPI on_value(PWSTR name, ULONG type, PVOID data, ULONG length, PVOID context, PVOID entry)
{
    calls++;
    last_type = type;
    last_length = length;
    CHECK(context == (PVOID)&calls);
    CHECK(entry == (PVOID)&last_type);
    return name == NULL && data != NULL ? STATUS_UNSUCCESSFUL : STATUS_SUCCESS;
}

static PVOID environment;
static NTSTATUS query_table(PRTL_QUERY_REGISTRY_TABLE entry)
{
    RTL_QUERY_REGISTRY_TABLE table[2];
    RtlZeroMemory(table, sizeof table);
    table[0] = *entry;
    calls = 0;
    return RtlQueryRegistryValues(RTL_REGISTRY_ABSOLUTE, BASE, table, &calls, environment);
}

KTEST(rtl_values)
{
    RTL_QUERY_REGISTRY_TABLE entry;
    ULONG number = 7, fallback = 42, read = 0;
    UNICODE_STRING text;
    HANDLE key;
    CHECK_STATUS(RtlCheckRegistryKey(RTL_REGISTRY_ABSOLUTE, BASE), NOT_FOUND);
    CHECK_STATUS(RtlCheckRegistryKey(77, BASE), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlWriteRegistryValue(0, BASE, L"Number", REG_DWORD, &number, 4), STATUS_SUCCESS);
    CHECK_STATUS(RtlCheckRegistryKey(RTL_REGISTRY_ABSOLUTE, BASE), STATUS_SUCCESS);
    CHECK_STATUS(RtlWriteRegistryValue(0, BASE, L"Multi", REG_MULTI_SZ, L"a\0bc\0", 12), STATUS_SUCCESS);
    CHECK_STATUS(RtlWriteRegistryValue(0, BASE, L"Path", REG_EXPAND_SZ, L"%SystemRoot%\\x", 30), STATUS_SUCCESS);
    RtlZeroMemory(&entry, sizeof entry);
    entry.Flags = RTL_QUERY_REGISTRY_DIRECT;
    entry.Name = L"number";
    entry.EntryContext = &read;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(read, 7);
    entry.Name = L"missing";
    entry.DefaultType = REG_DWORD;
    entry.DefaultData = &fallback;
    entry.DefaultLength = 4;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(read, 42);
    entry.Flags |= RTL_QUERY_REGISTRY_REQUIRED;
    CHECK_STATUS(query_table(&entry), NOT_FOUND);
    entry.Flags = RTL_QUERY_REGISTRY_DIRECT;
    entry.Name = NULL;
    CHECK_STATUS(query_table(&entry), STATUS_INVALID_PARAMETER);
    entry.Name = L"Path";
    entry.DefaultType = 0;
    RtlZeroMemory(&text, sizeof text);
    entry.EntryContext = &text;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(text.Length, 24);
    CHECK_MEM(text.Buffer, L"C:\\Windows\\x", 24);
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    environment = L"=C:=C:\\\0systemROOT=D:\\Own\0"; /* and nothing else */
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(text.Length, 16);
    CHECK_MEM(text.Buffer, L"D:\\Own\\x", 18);
    environment = L"Other=1\0";
    text.MaximumLength = 0;
    CHECK_STATUS(query_table(&entry), STATUS_BUFFER_TOO_SMALL);
    text.MaximumLength = 26;
    environment = NULL;
    text.MaximumLength = 4;
    CHECK_STATUS(query_table(&entry), STATUS_BUFFER_TOO_SMALL);
    ExFreePool(text.Buffer);
    entry.Flags = 0x100 | RTL_QUERY_REGISTRY_DIRECT;
    entry.Name = L"Number";
    entry.DefaultType = (ULONG)REG_SZ << 24;
    entry.EntryContext = &read;
    CHECK_STATUS(query_table(&entry), STATUS_OBJECT_TYPE_MISMATCH);
    entry.DefaultType = (ULONG)REG_DWORD << 24;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(read, 7);
    entry.QueryRoutine = on_value;
    entry.Flags = 0;
    entry.DefaultType = 0;
    entry.Name = L"Multi";
    entry.EntryContext = &last_type;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(calls, 2);
    CHECK_EQ(last_type, REG_SZ);
    CHECK_EQ(last_length, 6);
    entry.Flags = RTL_QUERY_REGISTRY_NOEXPAND;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(calls, 1);
    CHECK_EQ(last_type, REG_MULTI_SZ);
    CHECK_EQ(last_length, 12);
    entry.Name = NULL;
    entry.Flags = RTL_QUERY_REGISTRY_NOVALUE;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(calls, 1);
    CHECK_EQ(last_type, REG_NONE);
    entry.Flags = RTL_QUERY_REGISTRY_NOEXPAND;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_EQ(calls, 3);
    entry.Name = L"Number";
    entry.Flags = RTL_QUERY_REGISTRY_DELETE;
    CHECK_STATUS(query_table(&entry), STATUS_SUCCESS);
    CHECK_STATUS(RtlDeleteRegistryValue(0, BASE, L"Number"), NOT_FOUND);
    CHECK_STATUS(RtlDeleteRegistryValue(0, BASE, L"Multi"), STATUS_SUCCESS);
    CHECK_STATUS(open_key(NULL, BASE, &key), STATUS_SUCCESS);
    CHECK_STATUS(ZwDeleteKey(key), STATUS_SUCCESS);
    ZwClose(key);
}

static ULONG announced[32];
static NTSTATUS NTAPI on_change(PVOID context, PVOID class, PVOID information)
{
    (void)information;
    if (context == (PVOID)announced && (ULONG_PTR)class < 32)
        announced[(ULONG_PTR)class]++;
    return (ULONG_PTR)class == 2 ? STATUS_ACCESS_DENIED : STATUS_SUCCESS;
}

KTEST(callbacks)
{
    LARGE_INTEGER cookie = {{0, 0}};
    HANDLE key;
    ULONG number = 1;
    UNICODE_STRING name = str(L"Number");
    CHECK_STATUS(create_key(NULL, BASE, 1, &key, NULL), STATUS_SUCCESS);
    CHECK_STATUS(CmRegisterCallback(on_change, announced, &cookie), STATUS_SUCCESS);
    CHECK_STATUS(set(key, L"Number", REG_DWORD, &number, 4), STATUS_SUCCESS);
    CHECK_EQ(announced[1], 1);
    CHECK_EQ(announced[16], 1);
    CHECK_STATUS(ZwDeleteValueKey(key, &name), STATUS_ACCESS_DENIED);
    CHECK_EQ(announced[2], 1);
    CHECK_EQ(announced[17], 0);
    CHECK_STATUS(CmUnRegisterCallback(cookie), STATUS_SUCCESS);
    CHECK_STATUS(CmUnRegisterCallback(cookie), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(ZwDeleteValueKey(key, &name), STATUS_SUCCESS);
    CHECK_STATUS(ZwDeleteKey(key), STATUS_SUCCESS);
    ZwClose(key);
}

static NTSTATUS load(PCWSTR path)
{
    UNICODE_STRING name = str(path);
    return ZwLoadDriver(&name);
}

static NTSTATUS unload(PCWSTR path)
{
    UNICODE_STRING name = str(path);
    return ZwUnloadDriver(&name);
}

/* The machine has echo.sys, not started. */
KTEST(image_path_chooses_the_image)
{
    HANDLE key;
    ULONG type = 1;
    UNICODE_STRING device = str(L"\\DosDevices\\echo");
    PFILE_OBJECT file;
    PDEVICE_OBJECT object;
    WCHAR wrong[] = L"\\SystemRoot\\System32\\drivers\\nobody.sys", right[] = L"\\??\\C:\\Drivers\\ECHO.SYS";
    CHECK_STATUS(load(SERVICES L"KTestAlias"), NOT_FOUND);
    CHECK_STATUS(create_key(NULL, SERVICES L"KTestAlias", 1, &key, NULL), STATUS_SUCCESS);
    CHECK_STATUS(set(key, L"Type", REG_DWORD, &type, 4), STATUS_SUCCESS);
    CHECK_STATUS(set(key, L"ImagePath", REG_EXPAND_SZ, wrong, sizeof wrong), STATUS_SUCCESS);
    CHECK_STATUS(load(SERVICES L"KTestAlias"), NOT_FOUND);
    CHECK_STATUS(set(key, L"ImagePath", REG_EXPAND_SZ, right, sizeof right), STATUS_SUCCESS);
    for (int i = 0; i < 3; i++) { /* again and again */
        CHECK_STATUS(load(SERVICES L"KTestAlias"), STATUS_SUCCESS);
        CHECK_STATUS(load(SERVICES L"KTestAlias"), STATUS_IMAGE_ALREADY_LOADED);
        CHECK_STATUS(load(SERVICES L"echo"), STATUS_IMAGE_ALREADY_LOADED);
        if (CHECK(NT_SUCCESS(IoGetDeviceObjectPointer(&device, FILE_READ_DATA, &file, &object)))) {
            UNICODE_STRING name = str(L"\\Driver\\KTestAlias");
            CHECK(RtlEqualUnicodeString(&object->DriverObject->DriverName, &name, TRUE));
            ObDereferenceObject(file);
        }
        CHECK_STATUS(unload(SERVICES L"KTestAlias"), STATUS_SUCCESS);
        CHECK_STATUS(unload(SERVICES L"KTestAlias"), NOT_FOUND);
    }
    CHECK_STATUS(load(SERVICES L"echo"), STATUS_SUCCESS); /* by its own name */
    CHECK_STATUS(unload(SERVICES L"echo"), STATUS_SUCCESS);
    type = 0x10; /* a program */
    CHECK_STATUS(set(key, L"Type", REG_DWORD, &type, 4), STATUS_SUCCESS);
    CHECK_STATUS(load(SERVICES L"KTestAlias"), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(load(L"KTestAlias"), STATUS_INVALID_PARAMETER);
    ZwDeleteKey(key);
    ZwClose(key);
}

KTEST_FAMILY("registry", KTEST_ENTRY(service_key), KTEST_ENTRY(names), KTEST_ENTRY(value_classes),
             KTEST_ENTRY(key_classes), KTEST_ENTRY(rtl_values), KTEST_ENTRY(callbacks),
             KTEST_ENTRY(image_path_chooses_the_image));
