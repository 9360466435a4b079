/* Memory of a process and sections: allocation in steps, sections of memory and of files, views in processes and in
 * system space that share their pages. The host's side gives every machine a directory with Windows\Known.txt. */
#include "ktest.h"

#define TAG ((ULONG)0x7365534B)
#define CURRENT ((HANDLE)(LONG_PTR)-1)
#define GRANULARITY 0x10000
#define SECTION_ALL 0xF001F
#ifndef MEM_RESERVE
#define MEM_COMMIT 0x1000
#define MEM_RESERVE 0x2000
#define MEM_DECOMMIT 0x4000
#define MEM_RELEASE 0x8000
#define MEM_FREE 0x10000
#define MEM_PRIVATE 0x20000
#endif
#undef MEM_MAPPED
#define MEM_MAPPED 0x40000
#undef SEC_COMMIT
#undef SEC_RESERVE
#undef SEC_IMAGE
#define SEC_FILE_FLAG 0x00800000
#define SEC_IMAGE 0x01000000
#define SEC_RESERVE 0x04000000
#define SEC_COMMIT 0x08000000
#define ViewShared 1
#define ViewUnmapped 2

#define CONFLICTING ((NTSTATUS)0xC0000018)
#define NOT_MAPPED ((NTSTATUS)0xC0000019)
#define BAD_VIEW_SIZE ((NTSTATUS)0xC000001F)
#define BAD_PROTECTION ((NTSTATUS)0xC0000045)
#define BAD_SECTION_PROTECTION ((NTSTATUS)0xC000004E)
#define MISALIGNED_VIEW ((NTSTATUS)0xC0000220)
#define INVALID_PARAMETER_NUMBER(n) ((NTSTATUS)(0xC00000EEu + (n)))

typedef struct {
    PVOID base_address;
    PVOID allocation_base;
    ULONG allocation_protect;
    SIZE_T region_size;
    ULONG state;
    ULONG protect;
    ULONG type;
} REGION;

typedef struct {
    PVOID base;
    ULONG attributes;
    LARGE_INTEGER size;
} SECTION_BASIC;

NTSYSAPI NTSTATUS NTAPI ZwAllocateVirtualMemory(HANDLE, PVOID *, ULONG_PTR, PSIZE_T, ULONG, ULONG);
NTSYSAPI NTSTATUS NTAPI ZwFreeVirtualMemory(HANDLE, PVOID *, PSIZE_T, ULONG);
NTKERNELAPI NTSTATUS NTAPI ObOpenObjectByPointer(PVOID, ULONG, PACCESS_STATE, ACCESS_MASK, POBJECT_TYPE, KPROCESSOR_MODE,
                                                 PHANDLE);
NTSYSAPI NTSTATUS NTAPI ZwQueryVirtualMemory(HANDLE, PVOID, ULONG, PVOID, SIZE_T, PSIZE_T);
NTSYSAPI NTSTATUS NTAPI ZwProtectVirtualMemory(HANDLE, PVOID *, PSIZE_T, ULONG, PULONG);
NTSYSAPI NTSTATUS NTAPI ZwFlushVirtualMemory(HANDLE, PVOID *, PSIZE_T, PIO_STATUS_BLOCK);
NTSYSAPI NTSTATUS NTAPI ZwQuerySection(HANDLE, ULONG, PVOID, SIZE_T, PSIZE_T);
NTKERNELAPI NTSTATUS NTAPI MmMapViewInSystemSpace(PVOID, PVOID *, PSIZE_T);
NTKERNELAPI NTSTATUS NTAPI MmUnmapViewInSystemSpace(PVOID);
NTKERNELAPI NTSTATUS NTAPI MmCreateSection(PVOID *, ACCESS_MASK, POBJECT_ATTRIBUTES, PLARGE_INTEGER, ULONG, ULONG, HANDLE,
                                           PFILE_OBJECT);
NTKERNELAPI VOID NTAPI ProbeForWrite(PVOID address, SIZE_T bytes, ULONG alignment);

static int is_filled(const volatile UCHAR *bytes, SIZE_T count, UCHAR value)
{
    while (count-- > 0) {
        if (*bytes++ != value) {
            return 0;
        }
    }
    return 1;
}

static void fill(volatile UCHAR *bytes, SIZE_T count, UCHAR value)
{
    while (count-- > 0) {
        *bytes++ = value;
    }
}

static NTSTATUS create(SIZE_T bytes, ULONG protection, ULONG attributes, HANDLE file, PHANDLE section)
{
    OBJECT_ATTRIBUTES unnamed;
    LARGE_INTEGER size;
    size.QuadPart = (LONGLONG)bytes;
    InitializeObjectAttributes(&unnamed, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwCreateSection(section, SECTION_ALL, &unnamed, &size, protection, attributes, file);
}

static NTSTATUS map(HANDLE section, PVOID *base, LONGLONG offset, SIZE_T *bytes, ULONG protection)
{
    LARGE_INTEGER at;
    at.QuadPart = offset;
    return ZwMapViewOfSection(section, CURRENT, base, 0, 0, &at, bytes, ViewUnmapped, 0, protection);
}

/* ---- Memory of a process. ---- */

KTEST(virtual_memory)
{
    PVOID base = NULL;
    SIZE_T bytes = 2 * PAGE_SIZE + 1;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE),
                 STATUS_SUCCESS);
    CHECK(base != NULL);
    CHECK(base < MmHighestUserAddress);
    CHECK_EQ((ULONG_PTR)base % 0x10000, 0);
    CHECK_EQ(bytes, 3 * PAGE_SIZE);
    CHECK(MmIsAddressValid(base));
    CHECK(is_filled(base, 3 * PAGE_SIZE, 0));
    fill(base, 3 * PAGE_SIZE, 5);
    ProbeForWrite(base, 3 * PAGE_SIZE, 8);
    PMDL mdl = MmCreateMdl(NULL, base, PAGE_SIZE);
    MmProbeAndLockPages(mdl, UserMode, IoReadAccess);
    CHECK_EQ(*(PUCHAR)MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), 5);
    MmUnlockPages(mdl);
    ExFreePool(mdl);
    PVOID taken = base;
    SIZE_T one = 1;
    CHECK(!NT_SUCCESS(ZwAllocateVirtualMemory(CURRENT, &taken, 0, &one, MEM_RESERVE, PAGE_READWRITE)));
    PVOID middle = (PUCHAR)base + PAGE_SIZE;
    SIZE_T none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &middle, &none, MEM_RELEASE), 0xC000009F);
    none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &none, MEM_RELEASE), STATUS_SUCCESS);
    CHECK_EQ(none, 3 * PAGE_SIZE);
    none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &none, MEM_RELEASE), 0xC00000A0);
}

KTEST(virtual_memory_in_two_steps)
{
    PVOID base = NULL;
    SIZE_T bytes = 0x10000;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_RESERVE, PAGE_NOACCESS), STATUS_SUCCESS);
    PVOID part = (PUCHAR)base + 0x1010;
    SIZE_T part_bytes = 0x10;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &part, 0, &part_bytes, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_PTR(part, (PUCHAR)base + 0x1000);
    CHECK_EQ(part_bytes, PAGE_SIZE);
    fill(part, PAGE_SIZE, 1);
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &part, &part_bytes, MEM_DECOMMIT), STATUS_SUCCESS);
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &part, 0, &part_bytes, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK(is_filled(part, PAGE_SIZE, 0));
    PVOID beyond = (PUCHAR)base + 0xF000;
    SIZE_T beyond_bytes = 2 * PAGE_SIZE;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &beyond, 0, &beyond_bytes, MEM_COMMIT, PAGE_READWRITE), 0xC0000018);
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &beyond_bytes, MEM_RELEASE | MEM_DECOMMIT), 0xC00000F2);
    SIZE_T none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &none, MEM_RELEASE), STATUS_SUCCESS);
    base = NULL;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, 0, PAGE_READWRITE), 0xC00000F3);
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 99, &bytes, MEM_COMMIT, PAGE_READWRITE), 0xC00000F1);
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_COMMIT, 0), 0xC0000045);
    none = 0;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &none, MEM_COMMIT, PAGE_READWRITE), 0xC00000F2);
    CHECK_STATUS(ZwAllocateVirtualMemory((HANDLE)(ULONG_PTR)0x7770, &base, 0, &bytes, MEM_COMMIT, PAGE_READWRITE),
                 STATUS_INVALID_HANDLE);
}

KTEST(virtual_memory_is_described_and_protected)
{
    PVOID base = NULL;
    SIZE_T bytes = 3 * PAGE_SIZE;
    REGION region;
    SIZE_T length = 0;
    ULONG old = 0;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_RESERVE, PAGE_READWRITE), STATUS_SUCCESS);
    PVOID first = base;
    SIZE_T page = PAGE_SIZE;
    CHECK_STATUS(ZwProtectVirtualMemory(CURRENT, &first, &page, PAGE_READONLY, &old), (NTSTATUS)0xC000002D);
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &first, 0, &page, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, (PUCHAR)base + 5, 0, &region, sizeof region, &length), STATUS_SUCCESS);
    CHECK_EQ(length, sizeof region);
    CHECK_PTR(region.base_address, base);
    CHECK_PTR(region.allocation_base, base);
    CHECK_EQ(region.region_size, PAGE_SIZE);
    CHECK_EQ(region.state, MEM_COMMIT);
    CHECK_EQ(region.protect, PAGE_READWRITE);
    CHECK_EQ(region.type, MEM_PRIVATE);
    first = (PUCHAR)base + 7;
    page = 1;
    CHECK_STATUS(ZwProtectVirtualMemory(CURRENT, &first, &page, PAGE_READONLY, &old), STATUS_SUCCESS);
    CHECK_EQ(old, PAGE_READWRITE);
    CHECK_PTR(first, base);
    CHECK_EQ(page, PAGE_SIZE);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, base, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_EQ(region.protect, PAGE_READONLY);
    CHECK_EQ(region.allocation_protect, PAGE_READWRITE);
    CHECK_STATUS(ZwProtectVirtualMemory(CURRENT, &first, &page, 0, &old), BAD_PROTECTION);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, (PUCHAR)base + PAGE_SIZE, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_EQ(region.state, MEM_RESERVE);
    CHECK_EQ(region.region_size, 2 * PAGE_SIZE);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, base, 0, &region, sizeof region - 1, NULL), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, base, 99, &region, sizeof region, NULL), STATUS_INVALID_INFO_CLASS);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, MmSystemRangeStart, 0, &region, sizeof region, NULL),
                 STATUS_INVALID_PARAMETER);
    SIZE_T none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &none, MEM_RELEASE), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, base, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_EQ(region.state, MEM_FREE);
    CHECK_STATUS(ZwProtectVirtualMemory(CURRENT, &first, &page, PAGE_READWRITE, &old), CONFLICTING);
}

/* ---- Sections of memory. ---- */

KTEST(section_arguments)
{
    HANDLE section;
    CHECK_STATUS(create(0, PAGE_READWRITE, SEC_COMMIT, NULL, &section), INVALID_PARAMETER_NUMBER(4));
    CHECK_STATUS(create(1, PAGE_READWRITE, 0, NULL, &section), INVALID_PARAMETER_NUMBER(6));
    CHECK_STATUS(create(1, PAGE_READWRITE, SEC_COMMIT | SEC_RESERVE, NULL, &section), INVALID_PARAMETER_NUMBER(6));
    CHECK_STATUS(create(1, PAGE_READWRITE, SEC_COMMIT | SEC_IMAGE, NULL, &section), INVALID_PARAMETER_NUMBER(6));
    CHECK_STATUS(create(1, PAGE_READWRITE, SEC_COMMIT | 1, NULL, &section), INVALID_PARAMETER_NUMBER(6));
    CHECK_STATUS(create(1, PAGE_READONLY, SEC_IMAGE, NULL, &section), STATUS_INVALID_FILE_FOR_SECTION);
    CHECK_STATUS(create(1, 0, SEC_COMMIT, NULL, &section), BAD_PROTECTION);
    CHECK_STATUS(create(1, PAGE_NOACCESS, SEC_COMMIT, NULL, &section), BAD_PROTECTION);
    CHECK_STATUS(create(1, PAGE_READWRITE | PAGE_GUARD, SEC_COMMIT, NULL, &section), BAD_PROTECTION);
    CHECK_STATUS(create(1, PAGE_READWRITE | PAGE_NOCACHE, SEC_COMMIT, NULL, &section), BAD_PROTECTION);
    CHECK_STATUS(create(1, PAGE_READWRITE, SEC_COMMIT, (HANDLE)(ULONG_PTR)0x7770, &section), STATUS_INVALID_HANDLE);
    CHECK(!NT_SUCCESS(create((SIZE_T)1 << 30, PAGE_READWRITE, SEC_COMMIT, NULL, &section)));
}

KTEST(views_share_pages)
{
    HANDLE section;
    PVOID object = NULL, base = NULL, again = NULL, system = NULL;
    SIZE_T bytes = 0, more = 0, all = 0;
    REGION region;
    CHECK_STATUS(create(2 * PAGE_SIZE + 1, PAGE_READWRITE, SEC_COMMIT, NULL, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_EQ(bytes, 3 * PAGE_SIZE);
    CHECK_EQ((ULONG_PTR)base % GRANULARITY, 0);
    CHECK(base < MmHighestUserAddress);
    CHECK(MmIsAddressValid(base));
    CHECK(is_filled(base, bytes, 0));
    ProbeForWrite(base, bytes, 8);
    fill(base, PAGE_SIZE, 0x41);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, (PUCHAR)base + PAGE_SIZE + 9, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_PTR(region.base_address, (PUCHAR)base + PAGE_SIZE);
    CHECK_PTR(region.allocation_base, base);
    CHECK_EQ(region.region_size, 2 * PAGE_SIZE);
    CHECK_EQ(region.state, MEM_COMMIT);
    CHECK_EQ(region.type, MEM_MAPPED);
    CHECK_STATUS(ObReferenceObjectByHandle(section, SECTION_ALL, NULL, KernelMode, &object, NULL), STATUS_SUCCESS);
    CHECK_STATUS(MmMapViewInSystemSpace(object, &system, &all), STATUS_SUCCESS);
    CHECK_EQ(all, 3 * PAGE_SIZE);
    CHECK(system >= MmSystemRangeStart);
    CHECK(is_filled(system, PAGE_SIZE, 0x41));
    fill((PUCHAR)system + PAGE_SIZE, 16, 0x42);
    CHECK(is_filled((PUCHAR)base + PAGE_SIZE, 16, 0x42));
    CHECK_EQ(MmGetPhysicalAddress(system).QuadPart, MmGetPhysicalAddress(base).QuadPart);
    CHECK_STATUS(map(section, &again, 0, &more, PAGE_READONLY), STATUS_SUCCESS);
    CHECK(is_filled(again, PAGE_SIZE, 0x41));
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, (PUCHAR)again + 5), STATUS_SUCCESS);
    /* The view keeps the section. */
    CHECK_STATUS(ZwClose(section), STATUS_SUCCESS);
    ObDereferenceObject(object);
    CHECK(is_filled(base, PAGE_SIZE, 0x41));
    SIZE_T none = 0;
    CHECK_STATUS(ZwFreeVirtualMemory(CURRENT, &base, &none, MEM_RELEASE), (NTSTATUS)0xC000001B);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), NOT_MAPPED);
    CHECK(is_filled(system, PAGE_SIZE, 0x41));
    CHECK_STATUS(MmUnmapViewInSystemSpace(system), STATUS_SUCCESS);
}

KTEST(view_arguments)
{
    HANDLE section, weak;
    PVOID base = NULL, object = NULL, system = NULL;
    SIZE_T bytes = 0;
    LARGE_INTEGER at = {{0, 0}};
    CHECK_STATUS(create(GRANULARITY + PAGE_SIZE, PAGE_READONLY, SEC_COMMIT, NULL, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), BAD_SECTION_PROTECTION);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_EXECUTE_READ), BAD_SECTION_PROTECTION);
    CHECK_STATUS(map(section, &base, 0, &bytes, 0), BAD_PROTECTION);
    CHECK_STATUS(map(section, &base, PAGE_SIZE, &bytes, PAGE_READONLY), MISALIGNED_VIEW);
    CHECK_STATUS(map(section, &base, 2 * GRANULARITY, &bytes, PAGE_READONLY), BAD_VIEW_SIZE);
    bytes = 2 * GRANULARITY;
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READONLY), BAD_VIEW_SIZE);
    bytes = 5;
    CHECK_STATUS(map(section, &base, GRANULARITY, &bytes, PAGE_READONLY), STATUS_SUCCESS);
    CHECK_EQ(bytes, PAGE_SIZE);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    base = (PVOID)(ULONG_PTR)0x1234;
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READONLY), MISALIGNED_VIEW);
    base = MmSystemRangeStart;
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READONLY), INVALID_PARAMETER_NUMBER(3));
    base = NULL;
    bytes = PAGE_SIZE;
    CHECK_STATUS(ZwMapViewOfSection(section, CURRENT, &base, 0, 2 * PAGE_SIZE, &at, &bytes, ViewUnmapped, 0, PAGE_READONLY),
                 INVALID_PARAMETER_NUMBER(5));
    CHECK_STATUS(ZwMapViewOfSection(section, CURRENT, &base, 0, 0, &at, &bytes, 3, 0, PAGE_READONLY),
                 INVALID_PARAMETER_NUMBER(8));
    CHECK_STATUS(ZwMapViewOfSection(section, CURRENT, &base, 0, 0, &at, &bytes, ViewShared, 1, PAGE_READONLY),
                 INVALID_PARAMETER_NUMBER(9));
    CHECK_STATUS(map((HANDLE)(ULONG_PTR)0x7770, &base, 0, &bytes, PAGE_READONLY), STATUS_INVALID_HANDLE);
    CHECK_STATUS(ObReferenceObjectByHandle(section, 0, NULL, KernelMode, &object, NULL), STATUS_SUCCESS);
    bytes = 2 * GRANULARITY;
    CHECK_STATUS(MmMapViewInSystemSpace(object, &system, &bytes), BAD_VIEW_SIZE);
    /* A handle that may only be read through. */
    CHECK_STATUS(ObOpenObjectByPointer(object, OBJ_KERNEL_HANDLE, NULL, 4 /* SECTION_MAP_READ */, NULL, KernelMode, &weak),
                 STATUS_SUCCESS);
    bytes = 0;
    CHECK_STATUS(map(weak, &base, 0, &bytes, PAGE_READWRITE), STATUS_ACCESS_DENIED);
    ZwClose(weak);
    ObDereferenceObject(object);
    ZwClose(section);
}

KTEST(copied_views)
{
    HANDLE section;
    PVOID shared = NULL, copy = NULL;
    SIZE_T bytes = 0, more = 0;
    CHECK_STATUS(create(PAGE_SIZE, PAGE_READWRITE, SEC_COMMIT, NULL, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &shared, 0, &bytes, PAGE_READWRITE), STATUS_SUCCESS);
    fill(shared, PAGE_SIZE, 1);
    CHECK_STATUS(map(section, &copy, 0, &more, PAGE_WRITECOPY), STATUS_SUCCESS);
    CHECK(copy != shared);
    CHECK(is_filled(copy, PAGE_SIZE, 1));
    fill(copy, PAGE_SIZE, 2);
    CHECK(is_filled(shared, PAGE_SIZE, 1));
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, shared), STATUS_SUCCESS);
    ZwClose(section);
}

KTEST(reserved_sections)
{
    HANDLE section;
    PVOID base = NULL, part;
    SIZE_T bytes = 0, one = 1;
    REGION region;
    CHECK_STATUS(create(4 * PAGE_SIZE, PAGE_READWRITE, SEC_RESERVE, NULL, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, base, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_EQ(region.state, MEM_RESERVE);
    CHECK_EQ(region.region_size, 4 * PAGE_SIZE);
    part = (PUCHAR)base + PAGE_SIZE + 3;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &part, 0, &one, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_PTR(part, (PUCHAR)base + PAGE_SIZE);
    CHECK_STATUS(ZwQueryVirtualMemory(CURRENT, part, 0, &region, sizeof region, NULL), STATUS_SUCCESS);
    CHECK_EQ(region.state, MEM_COMMIT);
    CHECK_EQ(region.region_size, PAGE_SIZE);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    ZwClose(section);
    /* Committed memory cannot be committed again. */
    base = NULL;
    bytes = 0;
    CHECK_STATUS(create(PAGE_SIZE, PAGE_READWRITE, SEC_COMMIT, NULL, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_COMMIT, PAGE_READWRITE), (NTSTATUS)0xC0000021);
    ZwUnmapViewOfSection(CURRENT, base);
    ZwClose(section);
}

KTEST(named_sections)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    HANDLE section, second, third;
    LARGE_INTEGER size = {{PAGE_SIZE, 0}};
    SECTION_BASIC basic;
    SIZE_T length = 0;
    RtlInitUnicodeString(&name, L"\\BaseNamedObjects\\KtestSection");
    InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE, NULL, NULL);
    CHECK_STATUS(ZwOpenSection(&section, SECTION_ALL, &attributes), STATUS_OBJECT_NAME_NOT_FOUND);
    CHECK_STATUS(ZwCreateSection(&section, SECTION_ALL, &attributes, &size, PAGE_READWRITE, SEC_COMMIT, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwCreateSection(&second, SECTION_ALL, &attributes, &size, PAGE_READWRITE, SEC_COMMIT, NULL),
                 STATUS_OBJECT_NAME_COLLISION);
    attributes.Attributes |= OBJ_OPENIF;
    CHECK_STATUS(ZwCreateSection(&second, SECTION_ALL, &attributes, &size, PAGE_READWRITE, SEC_COMMIT, NULL),
                 STATUS_OBJECT_NAME_EXISTS);
    CHECK_STATUS(ZwOpenSection(&third, 1 /* SECTION_QUERY */, &attributes), STATUS_SUCCESS);
    CHECK_STATUS(ZwQuerySection(third, 0, &basic, sizeof basic, &length), STATUS_SUCCESS);
    CHECK_EQ(length, sizeof basic);
    CHECK_EQ(basic.size.QuadPart, PAGE_SIZE);
    CHECK_EQ(basic.attributes, SEC_COMMIT);
    CHECK_STATUS(ZwQuerySection(third, 0, &basic, sizeof basic - 1, NULL), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySection(third, 1, &basic, sizeof basic, NULL), (NTSTATUS)0xC0000049);
    CHECK_STATUS(ZwQuerySection(third, 7, &basic, sizeof basic, NULL), STATUS_INVALID_INFO_CLASS);
    ZwClose(third);
    ZwClose(second);
    ZwClose(section);
    CHECK_STATUS(ZwOpenSection(&section, SECTION_ALL, &attributes), STATUS_OBJECT_NAME_NOT_FOUND);
    RtlInitUnicodeString(&name, L"\\BaseNamedObjects");
    CHECK_STATUS(ZwOpenSection(&section, SECTION_ALL, &attributes), STATUS_OBJECT_TYPE_MISMATCH);
}

KTEST(sections_for_the_kernel)
{
    PVOID section = NULL, base = NULL;
    SIZE_T bytes = 0;
    LARGE_INTEGER size = {{GRANULARITY * 10, 0}};
    /* More than there is room for in client memory. */
    CHECK_STATUS(MmCreateSection(&section, SECTION_ALL, NULL, &size, PAGE_READWRITE, SEC_COMMIT, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(MmMapViewInSystemSpace(section, &base, &bytes), STATUS_SUCCESS);
    CHECK_EQ(bytes, GRANULARITY * 10);
    CHECK(base >= MmSystemRangeStart);
    PUCHAR last = (PUCHAR)base + bytes - 16;
    CHECK(is_filled(base, 16, 0));
    CHECK(is_filled(last, 16, 0));
    fill(last, 16, 7);
    CHECK_STATUS(MmUnmapViewInSystemSpace(base), STATUS_SUCCESS);
    CHECK_STATUS(MmMapViewInSystemSpace(section, &base, &bytes), STATUS_SUCCESS);
    CHECK(is_filled((PUCHAR)base + bytes - 16, 16, 7));
    CHECK_STATUS(MmUnmapViewInSystemSpace(base), STATUS_SUCCESS);
    ObDereferenceObject(section);
}

/* ---- Sections of files. ---- */

static IO_STATUS_BLOCK block;

static NTSTATUS open_file(PCWSTR path, ACCESS_MASK access, ULONG disposition, ULONG options, PHANDLE file)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    RtlInitUnicodeString(&name, path);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwCreateFile(file, access | SYNCHRONIZE, &attributes, &block, NULL, FILE_ATTRIBUTE_NORMAL,
                        FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, disposition,
                        options | FILE_SYNCHRONOUS_IO_NONALERT, NULL, 0);
}

KTEST(sections_of_files)
{
    HANDLE file, section;
    PVOID base = NULL;
    SIZE_T bytes = 0;
    LARGE_INTEGER at = {{0, 0}};
    SECTION_BASIC basic;
    UCHAR content[16];
    CHECK_STATUS(open_file(L"\\??\\C:\\mapped", GENERIC_READ | GENERIC_WRITE | DELETE, FILE_CREATE, FILE_DELETE_ON_CLOSE, &file),
                 STATUS_SUCCESS);
    CHECK_STATUS(create(0, PAGE_READWRITE, SEC_COMMIT, file, &section), (NTSTATUS)0xC000011E);
    CHECK_STATUS(ZwWriteFile(file, NULL, NULL, NULL, &block, "0123456789", 10, &at, NULL), STATUS_SUCCESS);
    CHECK_STATUS(create(11, PAGE_READONLY, SEC_COMMIT, file, &section), (NTSTATUS)0xC0000040);
    CHECK_STATUS(create(0, PAGE_READWRITE, SEC_COMMIT, file, &section), STATUS_SUCCESS);
    CHECK_STATUS(ZwQuerySection(section, 0, &basic, sizeof basic, NULL), STATUS_SUCCESS);
    CHECK_EQ(basic.size.QuadPart, 10);
    CHECK_EQ(basic.attributes & SEC_FILE_FLAG, SEC_FILE_FLAG);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_EQ(bytes, PAGE_SIZE);
    CHECK_MEM(base, "0123456789", 10);
    CHECK(is_filled((PUCHAR)base + 10, PAGE_SIZE - 10, 0));
    RtlCopyMemory(base, "abc", 3);
    PVOID flushed = base;
    SIZE_T flushed_bytes = 0;
    CHECK_STATUS(ZwFlushVirtualMemory(CURRENT, &flushed, &flushed_bytes, &block), STATUS_SUCCESS);
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, content, sizeof content, &at, NULL), STATUS_SUCCESS);
    CHECK_EQ(block.Information, 10);
    CHECK_MEM(content, "abc3456789", 10);
    ((PUCHAR)base)[9] = '!';
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    CHECK_STATUS(ZwReadFile(file, NULL, NULL, NULL, &block, content, sizeof content, &at, NULL), STATUS_SUCCESS);
    CHECK_MEM(content, "abc345678!", 10);
    ZwClose(section);
    /* A larger section makes the file larger. */
    CHECK_STATUS(create(100, PAGE_READWRITE, SEC_COMMIT, file, &section), STATUS_SUCCESS);
    FILE_STANDARD_INFORMATION standard;
    CHECK_STATUS(ZwQueryInformationFile(file, &block, &standard, sizeof standard, FileStandardInformation), STATUS_SUCCESS);
    CHECK_EQ(standard.EndOfFile.QuadPart, 100);
    ZwClose(section);
    ZwClose(file);
}

KTEST(sections_need_the_files_access)
{
    HANDLE file, section;
    PVOID base = NULL;
    SIZE_T bytes = 0;
    CHECK_STATUS(open_file(L"\\SystemRoot\\Known.txt", GENERIC_READ, FILE_OPEN, 0, &file), STATUS_SUCCESS);
    CHECK_STATUS(create(0, PAGE_READWRITE, SEC_COMMIT, file, &section), STATUS_ACCESS_DENIED);
    CHECK_STATUS(create(0, PAGE_WRITECOPY, SEC_COMMIT, file, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_READWRITE), BAD_SECTION_PROTECTION);
    CHECK_STATUS(map(section, &base, 0, &bytes, PAGE_WRITECOPY), STATUS_SUCCESS);
    fill(base, 4, 0);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    ZwClose(section);
    ZwClose(file);
    CHECK_STATUS(open_file(L"\\SystemRoot", FILE_LIST_DIRECTORY, FILE_OPEN, FILE_DIRECTORY_FILE, &file), STATUS_SUCCESS);
    CHECK_STATUS(create(0, PAGE_READONLY, SEC_COMMIT, file, &section), STATUS_INVALID_FILE_FOR_SECTION);
    ZwClose(file);
}

KTEST_BUGCHECK(unmapped_from_system_space_twice, 0xD7)
{
    PVOID section = NULL, base = NULL;
    SIZE_T bytes = 0;
    LARGE_INTEGER size = {{1, 0}};
    MmCreateSection(&section, SECTION_ALL, NULL, &size, PAGE_READWRITE, SEC_COMMIT, NULL, NULL);
    MmMapViewInSystemSpace(section, &base, &bytes);
    MmUnmapViewInSystemSpace(base);
    MmUnmapViewInSystemSpace(base);
}

KTEST_FAMILY("sections", KTEST_ENTRY(virtual_memory), KTEST_ENTRY(virtual_memory_in_two_steps),
             KTEST_ENTRY(virtual_memory_is_described_and_protected), KTEST_ENTRY(section_arguments),
             KTEST_ENTRY(views_share_pages), KTEST_ENTRY(view_arguments), KTEST_ENTRY(copied_views),
             KTEST_ENTRY(reserved_sections), KTEST_ENTRY(named_sections), KTEST_ENTRY(sections_for_the_kernel),
             KTEST_ENTRY(sections_of_files), KTEST_ENTRY(sections_need_the_files_access),
             KTEST_BUGCHECK_ENTRY(unmapped_from_system_space_twice));
