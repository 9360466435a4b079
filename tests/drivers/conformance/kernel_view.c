/* The kernel as a driver sees it that looks around: images, loaded modules, version, shared data, system information.
 * Which Windows it is may be configured, so versions are compared with each other.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define IS_AMD64 (sizeof(PVOID) == 8)
#define MACHINE (IS_AMD64 ? 0x8664 : 0x14C)

/* ---- What mingw-w64's headers lack. ---- */

NTSYSAPI NTSTATUS NTAPI ZwOpenDirectoryObject(PHANDLE handle, ACCESS_MASK access, POBJECT_ATTRIBUTES attributes);

typedef struct {
    LIST_ENTRY InLoadOrderLinks;
    PVOID ExceptionTable;
    ULONG ExceptionTableSize;
    PVOID GpValue;
    PVOID NonPagedDebugInfo;
    PVOID DllBase;
    PVOID EntryPoint;
    ULONG SizeOfImage;
    UNICODE_STRING FullDllName;
    UNICODE_STRING BaseDllName;
    ULONG Flags;
    USHORT LoadCount;
    USHORT Reserved;
    PVOID SectionPointer;
    ULONG CheckSum;
} MODULE_ENTRY;

typedef struct {
    PVOID Section, MappedBase, ImageBase;
    ULONG ImageSize, Flags;
    USHORT LoadOrderIndex, InitOrderIndex, LoadCount, OffsetToFileName;
    CHAR FullPathName[256];
} MODULE_INFORMATION;

typedef struct {
    ULONG NumberOfModules;
    MODULE_INFORMATION Modules[1];
} MODULES;

typedef struct {
    ULONG dwOSVersionInfoSize, dwMajorVersion, dwMinorVersion, dwBuildNumber, dwPlatformId;
    WCHAR szCSDVersion[128];
    USHORT wServicePackMajor, wServicePackMinor, wSuiteMask;
    UCHAR wProductType, wReserved;
} VERSION_INFORMATION;

typedef struct {
    ULONG Reserved, TimerResolution, PageSize, NumberOfPhysicalPages, LowestPhysicalPageNumber,
        HighestPhysicalPageNumber, AllocationGranularity;
    ULONG_PTR MinimumUserModeAddress, MaximumUserModeAddress, ActiveProcessorsAffinityMask;
    CHAR NumberOfProcessors;
} BASIC_INFORMATION;

typedef struct {
    USHORT e_magic;
    USHORT fields[29];
    ULONG e_lfanew;
} DOS_HEADER;

/* Variables: the headers have other declarations for some, so each is reached by its import. */
__declspec(dllimport) extern ULONG NtGlobalFlag;
__declspec(dllimport) extern ULONG InitSafeBootMode;
__declspec(dllimport) extern CHAR NtBuildLab[];
__declspec(dllimport) extern LIST_ENTRY PsLoadedModuleList;
__declspec(dllimport) extern ULONG PsLoadedModuleResource[];

NTSYSAPI NTSTATUS NTAPI ZwQuerySystemInformation(ULONG class, PVOID buffer, ULONG length, PULONG returned);
NTSYSAPI NTSTATUS NTAPI NtQuerySystemInformation(ULONG class, PVOID buffer, ULONG length, PULONG returned);
NTSYSAPI NTSTATUS NTAPI RtlQueryModuleInformation(PULONG size, ULONG unit, PVOID buffer);
NTSYSAPI PVOID NTAPI RtlPcToFileHeader(PVOID address, PVOID *base);
NTSYSAPI PVOID NTAPI RtlImageNtHeader(PVOID base);
NTSYSAPI NTSTATUS NTAPI RtlImageNtHeaderEx(ULONG flags, PVOID base, ULONGLONG size, PVOID *headers);
NTSYSAPI PVOID NTAPI RtlImageDirectoryEntryToData(PVOID base, BOOLEAN image, USHORT entry, PULONG size);
NTSYSAPI PVOID NTAPI RtlFindExportedRoutineByName(PVOID base, PCSTR name);

#define OFFSET(type, field, i386, amd64) \
    _Static_assert(FIELD_OFFSET(type, field) == (sizeof(PVOID) == 8 ? (amd64) : (i386)), #type "." #field)
OFFSET(MODULE_ENTRY, DllBase, 0x18, 0x30);
OFFSET(MODULE_ENTRY, BaseDllName, 0x2C, 0x58);
OFFSET(MODULE_ENTRY, CheckSum, 0x40, 0x78);
_Static_assert(sizeof(MODULE_INFORMATION) == (sizeof(PVOID) == 8 ? 296 : 284), "MODULE_INFORMATION");
_Static_assert(sizeof(BASIC_INFORMATION) == (sizeof(PVOID) == 8 ? 0x40 : 0x2C), "BASIC_INFORMATION");

#define MODULES_MAX 8
#define MODULES_BYTES (FIELD_OFFSET(MODULES, Modules) + MODULES_MAX * sizeof(MODULE_INFORMATION))

/* ---- Helpers. ---- */

static USHORT get16(const UCHAR *at) { return *(const volatile USHORT *)at; }
static ULONG get32(const UCHAR *at) { return *(const volatile ULONG *)at; }

static BOOLEAN text_is(PCSTR left, PCSTR right)
{
    while (*left != 0 && *left == *right) {
        left++, right++;
    }
    return *left == *right;
}

static BOOLEAN wide_is(const UNICODE_STRING *left, PCWSTR right)
{
    UNICODE_STRING other;
    RtlInitUnicodeString(&other, right);
    return RtlEqualUnicodeString(left, &other, FALSE);
}

static MODULE_ENTRY *module(PCWSTR name)
{
    for (PLIST_ENTRY link = PsLoadedModuleList.Flink; link != &PsLoadedModuleList; link = link->Flink) {
        MODULE_ENTRY *entry = CONTAINING_RECORD(link, MODULE_ENTRY, InLoadOrderLinks);
        if (wide_is(&entry->BaseDllName, name)) {
            return entry;
        }
    }
    return NULL;
}

static UCHAR *base_of(PCWSTR name)
{
    MODULE_ENTRY *entry = module(name);
    return entry == NULL ? NULL : entry->DllBase;
}

static UCHAR *nt_headers(UCHAR *base) { return base + get32(base + 0x3C); }
static UCHAR *optional(UCHAR *base) { return nt_headers(base) + 24; }
static UCHAR *directories(UCHAR *base) { return optional(base) + (IS_AMD64 ? 112 : 96); }

/* GetProcAddress, the simple way. */
static PVOID find_export(UCHAR *base, PCSTR name)
{
    UCHAR *exports = base + get32(directories(base));
    ULONG count = get32(exports + 24);
    UCHAR *functions = base + get32(exports + 28), *names = base + get32(exports + 32),
          *ordinals = base + get32(exports + 36);
    for (ULONG i = 0; i < count; i++) {
        if (text_is((PCSTR)base + get32(names + 4 * i), name)) {
            return base + get32(functions + 4 * get16(ordinals + 2 * i));
        }
    }
    return NULL;
}

static PVOID routine(PCWSTR name)
{
    UNICODE_STRING string;
    RtlInitUnicodeString(&string, name);
    return MmGetSystemRoutineAddress(&string);
}

static const UCHAR *shared_data(VOID)
{
    return (const UCHAR *)(ULONG_PTR)(IS_AMD64 ? 0xFFFFF78000000000ull : 0xFFDF0000ull);
}

/* Loads of constant width, which a fault handler that emulates them understands. */
static ULONG shared32(ULONG offset) { return *(const volatile ULONG *)(shared_data() + offset); }
static ULONG shared16(ULONG offset) { return *(const volatile USHORT *)(shared_data() + offset); }
static ULONG shared8(ULONG offset) { return *(const volatile UCHAR *)(shared_data() + offset); }

static VOID version(VERSION_INFORMATION *information)
{
    information->dwOSVersionInfoSize = sizeof(*information);
    CHECK_STATUS(RtlGetVersion((PRTL_OSVERSIONINFOW)information), STATUS_SUCCESS);
}

/* ---- Images. ---- */

static VOID check_headers(UCHAR *base, BOOLEAN is_dll)
{
    CHECK_EQ((ULONG_PTR)base % 0x1000, 0);
    CHECK_EQ(get16(base), 0x5A4D);
    CHECK(get32(base + 0x3C) >= 0x40);
    CHECK(get32(base + 0x3C) % 8 == 0);
    UCHAR *headers = nt_headers(base);
    CHECK_EQ(get32(headers), 0x4550);
    CHECK_EQ(get16(headers + 4), MACHINE);
    CHECK_EQ(get16(headers + 20), IS_AMD64 ? 0xF0 : 0xE0);
    USHORT characteristics = get16(headers + 22);
    CHECK((characteristics & 2) != 0);
    CHECK_EQ((characteristics & 0x2000) != 0, is_dll);
    CHECK_EQ((characteristics & 0x100) != 0, !IS_AMD64);
    UCHAR *header = optional(base);
    CHECK_EQ(get16(header), IS_AMD64 ? 0x20B : 0x10B);
    ULONG image_bytes = get32(header + 56);
    CHECK(image_bytes % 0x1000 == 0 && image_bytes > 0x4000);
    CHECK_EQ(get32(header + 32), 0x1000);
    CHECK_EQ(get16(header + 68), 1);
    CHECK(get32(header + 64) != 0);
    CHECK(get32(header + 16) < image_bytes);
    ULONG_PTR image_base = IS_AMD64 ? *(ULONG_PTR *)(header + 24) : get32(header + 28);
    CHECK_EQ(image_base, (ULONG_PTR)base);
    CHECK_EQ(get32(directories(base) - 4), 16);
    VERSION_INFORMATION information;
    version(&information);
    CHECK_EQ(get16(header + 40), information.dwMajorVersion);
    CHECK_EQ(get16(header + 42), information.dwMinorVersion);
    CHECK_EQ(get16(header + 48), information.dwMajorVersion);
    CHECK_EQ(get16(header + 50), information.dwMinorVersion);
}

KTEST(ntoskrnl_has_pe_headers)
{
    UCHAR *base = base_of(L"ntoskrnl.exe");
    if (CHECK(base != NULL)) {
        check_headers(base, FALSE);
    }
}

KTEST(hal_has_pe_headers)
{
    UCHAR *base = base_of(L"hal.dll");
    if (CHECK(base != NULL)) {
        check_headers(base, TRUE);
    }
}

static VOID check_sections(UCHAR *base)
{
    UCHAR *section = optional(base) + get16(nt_headers(base) + 20);
    ULONG count = get16(nt_headers(base) + 6), image_bytes = get32(optional(base) + 56);
    ULONG end = 0x1000, code = 0, data = 0;
    BOOLEAN in_order = TRUE, in_image = TRUE, readable = TRUE, exclusive = TRUE;
    CHECK(count >= 3);
    for (ULONG i = 0; i < count; i++, section += 40) {
        ULONG rva = get32(section + 12), bytes = get32(section + 8), flags = get32(section + 36);
        in_order = in_order && rva >= end && rva % 0x1000 == 0;
        in_image = in_image && rva + bytes <= image_bytes;
        readable = readable && MmIsAddressValid(base + rva) && MmIsAddressValid(base + rva + bytes - 1);
        exclusive = exclusive && (flags & 0xA0000000) != 0xA0000000;
        code += (flags & 0x20000000) != 0;
        data += (flags & 0x80000000) != 0;
        end = rva + bytes;
    }
    CHECK(in_order);
    CHECK(in_image);
    CHECK(readable);
    CHECK(exclusive);
    CHECK_EQ(code, 1);
    CHECK_EQ(data, 1);
    CHECK(MmIsAddressValid(base));
    CHECK(!MmIsAddressValid(base - 1));
    CHECK(!MmIsAddressValid(base + image_bytes));
}

KTEST(sections_of_ntoskrnl)
{
    check_sections(base_of(L"ntoskrnl.exe"));
}

KTEST(sections_of_hal)
{
    check_sections(base_of(L"hal.dll"));
}

static VOID check_exports(UCHAR *base, PCSTR dll, ULONG at_least)
{
    ULONG rva = get32(directories(base)), bytes = get32(directories(base) + 4), image_bytes = get32(optional(base) + 56);
    CHECK(rva != 0 && bytes > 40 && rva + bytes <= image_bytes);
    UCHAR *exports = base + rva;
    ULONG functions = get32(exports + 20), names = get32(exports + 24);
    CHECK(text_is((PCSTR)base + get32(exports + 12), dll));
    CHECK_EQ(get32(exports), 0);
    CHECK_EQ(get32(exports + 16), 1);
    CHECK(names >= at_least);
    CHECK(functions >= names);
    BOOLEAN sorted = TRUE, inside = TRUE, valid = TRUE;
    PCSTR last = "";
    for (ULONG i = 0; i < names; i++) {
        PCSTR name = (PCSTR)base + get32(base + get32(exports + 32) + 4 * i);
        ULONG ordinal = get16(base + get32(exports + 36) + 2 * i);
        ULONG target = get32(base + get32(exports + 28) + 4 * ordinal);
        ULONG j = 0;
        while (last[j] != 0 && last[j] == name[j]) {
            j++;
        }
        sorted = sorted && (UCHAR)last[j] < (UCHAR)name[j];
        inside = inside && ordinal < functions && target >= 0x1000 && target < image_bytes;
        valid = valid && MmIsAddressValid(base + target);
        last = name;
    }
    CHECK(sorted);
    CHECK(inside);
    CHECK(valid);
}

KTEST(export_directory_of_ntoskrnl)
{
    check_exports(base_of(L"ntoskrnl.exe"), "ntoskrnl.exe", 200);
}

KTEST(export_directory_of_hal)
{
    check_exports(base_of(L"hal.dll"), "hal.dll", 10);
}

KTEST(exports_are_what_imports_are_bound_to)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    CHECK_PTR(find_export(kernel, "IoCreateDevice"), &IoCreateDevice);
    CHECK_PTR(find_export(kernel, "RtlInitUnicodeString"), &RtlInitUnicodeString);
    CHECK_PTR(find_export(kernel, "ExAllocatePoolWithTag"), &ExAllocatePoolWithTag);
    CHECK_PTR(find_export(kernel, "ZwQuerySystemInformation"), &ZwQuerySystemInformation);
    CHECK_PTR(find_export(kernel, "NtGlobalFlag"), &NtGlobalFlag);
    CHECK_PTR(find_export(kernel, "PsLoadedModuleList"), &PsLoadedModuleList);
    CHECK_PTR(find_export(kernel, "NtBuildLab"), &NtBuildLab);
    CHECK_PTR(find_export(kernel, "NoSuchExport"), NULL);
}

KTEST(system_routine_addresses_are_exports)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe"), *hal = base_of(L"hal.dll");
    CHECK_PTR(routine(L"IoCreateDevice"), find_export(kernel, "IoCreateDevice"));
    CHECK_PTR(routine(L"PsGetVersion"), find_export(kernel, "PsGetVersion"));
    CHECK_PTR(routine(L"KeTickCount"), find_export(kernel, "KeTickCount"));
    CHECK_PTR(routine(L"PsLoadedModuleList"), &PsLoadedModuleList);
    CHECK_PTR(routine(L"HalTranslateBusAddress"), find_export(hal, "HalTranslateBusAddress"));
    CHECK_PTR(routine(L"NoSuchExport"), NULL);
    CHECK_PTR(routine(L""), NULL);
    CHECK_PTR(routine(L"iocreatedevice"), NULL);
}

KTEST(hal_exports_only_its_own)
{
    UCHAR *hal = base_of(L"hal.dll");
    CHECK(find_export(hal, "HalTranslateBusAddress") != NULL);
    CHECK(find_export(hal, "KeQueryPerformanceCounter") != NULL);
    CHECK_PTR(find_export(hal, "IoCreateDevice"), NULL);
    CHECK_PTR(find_export(base_of(L"ntoskrnl.exe"), "HalTranslateBusAddress"), NULL);
}

KTEST(an_exported_function_can_be_called)
{
    ULONG (NTAPI *increment)(VOID) = find_export(base_of(L"ntoskrnl.exe"), "KeQueryTimeIncrement");
    if (CHECK(increment != NULL)) {
        CHECK_EQ(increment(), KeQueryTimeIncrement());
    }
    LARGE_INTEGER (NTAPI *counter)(PLARGE_INTEGER) = find_export(base_of(L"hal.dll"), "KeQueryPerformanceCounter");
    LARGE_INTEGER frequency = {.QuadPart = 0};
    LARGE_INTEGER first = counter(NULL), second = counter(&frequency);
    CHECK(second.QuadPart > first.QuadPart);
    CHECK(frequency.QuadPart != 0);
}

KTEST(find_exported_routine_by_name)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    CHECK_PTR(RtlFindExportedRoutineByName(kernel, "IoCreateDevice"), &IoCreateDevice);
    CHECK_PTR(RtlFindExportedRoutineByName(kernel, "IoCreateDevic"), NULL);
    CHECK_PTR(RtlFindExportedRoutineByName(kernel, "IoCreateDevicf"), NULL);
    CHECK_PTR(RtlFindExportedRoutineByName(kernel, ""), NULL);
    CHECK_PTR(RtlFindExportedRoutineByName(kernel, "zzzz"), NULL);
    CHECK_PTR(RtlFindExportedRoutineByName(base_of(L"hal.dll"), "HalTranslateBusAddress"),
              routine(L"HalTranslateBusAddress"));
}

KTEST(image_nt_header)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    CHECK_PTR(RtlImageNtHeader(kernel), nt_headers(kernel));
    CHECK_PTR(RtlImageNtHeader(ktest_driver->DriverStart), nt_headers(ktest_driver->DriverStart));
    CHECK_PTR(RtlImageNtHeader(NULL), NULL);
    CHECK_PTR(RtlImageNtHeader((PVOID)(LONG_PTR)-1), NULL);
    CHECK_PTR(RtlImageNtHeader(kernel + 0x1000), NULL);
    UCHAR page[0x80] = {'M', 'Z'};
    CHECK_PTR(RtlImageNtHeader(page), NULL);
}

KTEST(image_nt_header_ex)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    PVOID headers = (PVOID)1;
    CHECK_STATUS(RtlImageNtHeaderEx(0, kernel, 0x1000, &headers), STATUS_SUCCESS);
    CHECK_PTR(headers, nt_headers(kernel));
    CHECK_STATUS(RtlImageNtHeaderEx(1, kernel, 0, &headers), STATUS_SUCCESS);
    CHECK_STATUS(RtlImageNtHeaderEx(0, kernel, 0x20, &headers), STATUS_INVALID_IMAGE_FORMAT);
    CHECK_PTR(headers, NULL);
    CHECK_STATUS(RtlImageNtHeaderEx(0, kernel, 0x90, &headers), STATUS_INVALID_IMAGE_FORMAT);
    CHECK_STATUS(RtlImageNtHeaderEx(2, kernel, 0x1000, &headers), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlImageNtHeaderEx(0, NULL, 0x1000, &headers), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlImageNtHeaderEx(0, kernel, 0x1000, NULL), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlImageNtHeaderEx(0, kernel + 0x1000, 0x1000, &headers), STATUS_INVALID_IMAGE_FORMAT);
}

KTEST(image_directories)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    ULONG size = 0;
    CHECK_PTR(RtlImageDirectoryEntryToData(kernel, TRUE, 0, &size), kernel + get32(directories(kernel)));
    CHECK_EQ(size, get32(directories(kernel) + 4));
    CHECK_PTR(RtlImageDirectoryEntryToData(kernel, TRUE, 2, &size), kernel + get32(directories(kernel) + 16));
    CHECK_PTR(RtlImageDirectoryEntryToData(kernel, TRUE, 1, &size), NULL);
    CHECK_PTR(RtlImageDirectoryEntryToData(kernel, TRUE, 16, &size), NULL);
    CHECK_PTR(RtlImageDirectoryEntryToData(NULL, TRUE, 0, &size), NULL);
    UCHAR *own = ktest_driver->DriverStart;
    CHECK_PTR(RtlImageDirectoryEntryToData(own, TRUE, 1, &size), own + get32(directories(own) + 8));
    CHECK(size != 0);
}

KTEST(version_resource)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    ULONG size = 0;
    UCHAR *root = RtlImageDirectoryEntryToData(kernel, TRUE, 2, &size);
    if (!CHECK(root != NULL)) {
        return;
    }
    CHECK_EQ(get16(root + 14), 1);
    CHECK_EQ(get32(root + 16), 16);
    UCHAR *names = root + (get32(root + 20) & 0x7FFFFFFF);
    CHECK_EQ(get32(names + 16), 1);
    UCHAR *languages = root + (get32(names + 20) & 0x7FFFFFFF);
    CHECK_EQ(get32(languages + 16), 0x409);
    UCHAR *data = root + get32(languages + 20);
    UCHAR *block = kernel + get32(data);
    CHECK_EQ(get16(block), get32(data + 4));
    CHECK_EQ(get16(block + 2), 52);
    CHECK_MEM(block + 6, L"VS_VERSION_INFO", 32);
    CHECK_EQ(get32(block + 40), 0xFEEF04BD);
    VERSION_INFORMATION information;
    version(&information);
    CHECK_EQ(get32(block + 48), information.dwMajorVersion << 16 | information.dwMinorVersion);
    CHECK_EQ(get16(block + 54), information.dwBuildNumber);
}

KTEST(variables_live_in_the_image)
{
    UCHAR *kernel = base_of(L"ntoskrnl.exe");
    ULONG image_bytes = get32(optional(kernel) + 56);
    CHECK((ULONG_PTR)&NtGlobalFlag - (ULONG_PTR)kernel < image_bytes);
    CHECK((ULONG_PTR)&PsLoadedModuleList - (ULONG_PTR)kernel < image_bytes);
    CHECK((ULONG_PTR)routine(L"KeTickCount") - (ULONG_PTR)kernel < image_bytes);
    CHECK((ULONG_PTR)routine(L"MmSystemRangeStart") - (ULONG_PTR)kernel < image_bytes);
    PHYSICAL_ADDRESS physical = MmGetPhysicalAddress(&NtGlobalFlag);
    CHECK(physical.QuadPart != 0);
    ULONG before = NtGlobalFlag, asked = 0;
    NtGlobalFlag = before | 0x400;
    CHECK_STATUS(ZwQuerySystemInformation(9, &asked, 4, NULL), STATUS_SUCCESS);
    CHECK_EQ(asked, before | 0x400);
    NtGlobalFlag = before;
}

/* ---- Loaded modules. ---- */

KTEST(the_kernel_is_the_first_module)
{
    MODULE_ENTRY *first = CONTAINING_RECORD(PsLoadedModuleList.Flink, MODULE_ENTRY, InLoadOrderLinks);
    MODULE_ENTRY *second = CONTAINING_RECORD(first->InLoadOrderLinks.Flink, MODULE_ENTRY, InLoadOrderLinks);
    MODULE_ENTRY *third = CONTAINING_RECORD(second->InLoadOrderLinks.Flink, MODULE_ENTRY, InLoadOrderLinks);
    CHECK(wide_is(&first->BaseDllName, L"ntoskrnl.exe"));
    CHECK(wide_is(&first->FullDllName, L"\\SystemRoot\\system32\\ntoskrnl.exe"));
    CHECK(wide_is(&second->BaseDllName, L"hal.dll"));
    CHECK(wide_is(&second->FullDllName, L"\\SystemRoot\\system32\\hal.dll"));
    CHECK_PTR(third, ktest_driver->DriverSection);
    CHECK_PTR(third->InLoadOrderLinks.Flink, &PsLoadedModuleList);
    CHECK_PTR(PsLoadedModuleList.Blink, &third->InLoadOrderLinks);
    CHECK_PTR(first->InLoadOrderLinks.Blink, &PsLoadedModuleList);
    CHECK_PTR(second->InLoadOrderLinks.Blink, &first->InLoadOrderLinks);
}

static VOID check_entry(MODULE_ENTRY *entry)
{
    UCHAR *base = entry->DllBase;
    CHECK_EQ(entry->SizeOfImage, get32(optional(base) + 56));
    CHECK_PTR(entry->EntryPoint, base + get32(optional(base) + 16));
    CHECK_EQ(entry->CheckSum, get32(optional(base) + 64));
    CHECK_EQ(entry->LoadCount, 1);
    CHECK((entry->Flags & 0x4000) != 0);
    CHECK(entry->BaseDllName.MaximumLength >= entry->BaseDllName.Length);
    CHECK((ULONG_PTR)entry->BaseDllName.Buffer - (ULONG_PTR)entry->FullDllName.Buffer < entry->FullDllName.Length);
}

KTEST(entry_of_ntoskrnl)
{
    check_entry(module(L"ntoskrnl.exe"));
}

KTEST(entry_of_hal)
{
    check_entry(module(L"hal.dll"));
}

KTEST(entry_of_the_driver)
{
    MODULE_ENTRY *entry = ktest_driver->DriverSection;
    if (!CHECK(entry != NULL)) {
        return;
    }
    check_entry(entry);
    CHECK_PTR(entry->DllBase, ktest_driver->DriverStart);
    CHECK_EQ(entry->SizeOfImage, ktest_driver->DriverSize);
    CHECK_PTR(entry->EntryPoint, ktest_driver->DriverInit);
    if (IS_AMD64) {
        UCHAR *own = ktest_driver->DriverStart;
        CHECK_PTR(entry->ExceptionTable, own + get32(directories(own) + 24));
        CHECK_EQ(entry->ExceptionTableSize, get32(directories(own) + 28));
    } else {
        CHECK_PTR(entry->ExceptionTable, NULL);
    }
}

KTEST(pc_to_file_header)
{
    PVOID base = (PVOID)1;
    MODULE_ENTRY *kernel = module(L"ntoskrnl.exe");
    CHECK_PTR(RtlPcToFileHeader((PVOID)(ULONG_PTR)&check_entry, &base), ktest_driver->DriverStart);
    CHECK_PTR(base, ktest_driver->DriverStart);
    CHECK_PTR(RtlPcToFileHeader(routine(L"IoCreateDevice"), &base), kernel->DllBase);
    CHECK_PTR(RtlPcToFileHeader(routine(L"HalTranslateBusAddress"), &base), base_of(L"hal.dll"));
    CHECK_PTR(RtlPcToFileHeader(kernel->DllBase, &base), kernel->DllBase);
    CHECK_PTR(RtlPcToFileHeader((UCHAR *)kernel->DllBase + kernel->SizeOfImage, &base), NULL);
    CHECK_PTR(base, NULL);
    CHECK_PTR(RtlPcToFileHeader(&base, &base), NULL);
    CHECK_PTR(RtlPcToFileHeader(NULL, &base), NULL);
}

KTEST(the_module_resource_is_free)
{
    /* An ERESOURCE begins with its links; ActiveEntries is behind OwnerTable or in its place. */
    PLIST_ENTRY links = (PLIST_ENTRY)PsLoadedModuleResource;
    CHECK(links->Flink != NULL);
    CHECK(links->Blink != NULL);
    CHECK_PTR(links->Flink->Blink, links);
}

/* ---- System information. ---- */

static UCHAR buffer[MODULES_BYTES + 16];

static VOID fill(VOID)
{
    for (ULONG i = 0; i < sizeof(buffer); i++) {
        buffer[i] = 0xEE;
    }
}

KTEST(module_information_sizes)
{
    ULONG needed = 0, again = 0;
    ULONG expected = FIELD_OFFSET(MODULES, Modules) + 3 * sizeof(MODULE_INFORMATION);
    fill();
    CHECK_STATUS(ZwQuerySystemInformation(11, NULL, 0, &needed), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(needed, expected);
    CHECK_STATUS(ZwQuerySystemInformation(11, buffer, 3, &needed), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(11, buffer, needed - 1, &again), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(again, needed);
    CHECK_STATUS(ZwQuerySystemInformation(11, buffer, needed, &again), STATUS_SUCCESS);
    CHECK_EQ(again, needed);
    CHECK_EQ(buffer[needed], 0xEE);
    CHECK_STATUS(ZwQuerySystemInformation(11, buffer, sizeof(buffer), NULL), STATUS_SUCCESS);
    CHECK_STATUS(NtQuerySystemInformation(11, buffer, sizeof(buffer), &again), STATUS_SUCCESS);
    CHECK_EQ(again, needed);
}

KTEST(module_information)
{
    MODULES *modules = (MODULES *)buffer;
    CHECK_STATUS(ZwQuerySystemInformation(11, buffer, sizeof(buffer), NULL), STATUS_SUCCESS);
    CHECK_EQ(modules->NumberOfModules, 3);
    MODULE_INFORMATION *kernel = &modules->Modules[0], *hal = &modules->Modules[1], *own = &modules->Modules[2];
    CHECK_PTR(kernel->ImageBase, base_of(L"ntoskrnl.exe"));
    CHECK_EQ(kernel->ImageSize, module(L"ntoskrnl.exe")->SizeOfImage);
    CHECK(text_is(kernel->FullPathName, "\\SystemRoot\\system32\\ntoskrnl.exe"));
    CHECK(text_is(kernel->FullPathName + kernel->OffsetToFileName, "ntoskrnl.exe"));
    CHECK_EQ(kernel->LoadOrderIndex, 0);
    CHECK_PTR(hal->ImageBase, base_of(L"hal.dll"));
    CHECK_EQ(hal->LoadOrderIndex, 1);
    CHECK(text_is(hal->FullPathName + hal->OffsetToFileName, "hal.dll"));
    CHECK_PTR(own->ImageBase, ktest_driver->DriverStart);
    CHECK_EQ(own->ImageSize, ktest_driver->DriverSize);
    CHECK_EQ(own->LoadOrderIndex, 2);
    CHECK_EQ(own->LoadCount, 1);
    CHECK(own->FullPathName[0] == '\\');
}

KTEST(aux_klib_module_query)
{
    ULONG size = 0, unit = IS_AMD64 ? 272 : 268;
    CHECK_STATUS(RtlQueryModuleInformation(&size, unit, NULL), STATUS_SUCCESS);
    CHECK_EQ(size, 3 * unit);
    size -= 1;
    CHECK_STATUS(RtlQueryModuleInformation(&size, unit, buffer), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(size, 3 * unit);
    CHECK_STATUS(RtlQueryModuleInformation(&size, unit, buffer), STATUS_SUCCESS);
    CHECK_PTR(*(PVOID *)buffer, base_of(L"ntoskrnl.exe"));
    CHECK_EQ(get32(buffer + unit + sizeof(PVOID)), module(L"hal.dll")->SizeOfImage);
    CHECK(text_is((PCSTR)buffer + unit + sizeof(PVOID) + 6, "\\SystemRoot\\system32\\hal.dll"));
    size = 0;
    CHECK_STATUS(RtlQueryModuleInformation(&size, sizeof(PVOID), NULL), STATUS_SUCCESS);
    CHECK_EQ(size, 3 * sizeof(PVOID));
    CHECK_STATUS(RtlQueryModuleInformation(&size, sizeof(PVOID), buffer), STATUS_SUCCESS);
    CHECK_PTR(((PVOID *)buffer)[2], ktest_driver->DriverStart);
    CHECK_STATUS(RtlQueryModuleInformation(&size, 7, buffer), STATUS_INVALID_PARAMETER_2);
}

KTEST(basic_information)
{
    BASIC_INFORMATION basic;
    ULONG returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(0, &basic, sizeof(basic), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, sizeof(basic));
    CHECK_EQ(basic.PageSize, 4096);
    CHECK_EQ(basic.AllocationGranularity, 0x10000);
    CHECK_EQ(basic.NumberOfProcessors, 1);
    CHECK_EQ(basic.ActiveProcessorsAffinityMask, 1);
    CHECK_EQ(basic.MinimumUserModeAddress, 0x10000);
    CHECK_EQ(basic.MaximumUserModeAddress, (ULONG_PTR)MmHighestUserAddress);
    CHECK_EQ(basic.TimerResolution, KeQueryTimeIncrement());
    CHECK(basic.HighestPhysicalPageNumber > basic.LowestPhysicalPageNumber);
    CHECK_EQ(basic.NumberOfPhysicalPages, shared32(0x2E8));
    CHECK_STATUS(ZwQuerySystemInformation(0, &basic, sizeof(basic) - 1, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(returned, sizeof(basic));
    CHECK_STATUS(ZwQuerySystemInformation(0, &basic, sizeof(basic) + 1, NULL), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(0, &basic, 0, NULL), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(62, &basic, sizeof(basic), NULL), STATUS_SUCCESS);
}

KTEST(processor_information)
{
    USHORT processor[8] = {0};
    ULONG returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(1, processor, 12, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 12);
    CHECK_EQ(processor[0], IS_AMD64 ? 9 : 0);
    CHECK(processor[1] != 0);
    CHECK_STATUS(ZwQuerySystemInformation(1, processor, 11, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(1, processor, 16, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 12);
}

KTEST(time_of_day_information)
{
    ULONGLONG times[7] = {0};
    LARGE_INTEGER now;
    ULONG returned = 0;
    KeQuerySystemTime(&now);
    CHECK_STATUS(ZwQuerySystemInformation(3, times, 48, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 48);
    CHECK(times[1] >= (ULONGLONG)now.QuadPart);
    CHECK(times[1] - (ULONGLONG)now.QuadPart < 100000000);
    CHECK(times[0] < times[1]);
    CHECK_EQ(times[2], 0);
    times[1] = 5;
    CHECK_STATUS(ZwQuerySystemInformation(3, times, 8, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 8);
    CHECK_EQ(times[1], 5);
    CHECK_STATUS(ZwQuerySystemInformation(3, times, 0, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 0);
    CHECK_STATUS(ZwQuerySystemInformation(3, times, 49, &returned), STATUS_INFO_LENGTH_MISMATCH);
}

KTEST(process_information)
{
    ULONG needed = 0, count = 0;
    BOOLEAN has_system = FALSE, has_current = FALSE;
    CHECK_STATUS(ZwQuerySystemInformation(5, NULL, 0, &needed), STATUS_INFO_LENGTH_MISMATCH);
    if (!CHECK(needed >= 3 * 0xB8 && needed <= sizeof(buffer))) {
        return;
    }
    CHECK_STATUS(ZwQuerySystemInformation(5, buffer, needed - 1, &needed), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(5, buffer, needed, &needed), STATUS_SUCCESS);
    UCHAR *process = buffer;
    CHECK_EQ(*(ULONG_PTR *)(process + (IS_AMD64 ? 0x50 : 0x44)), 0);
    for (;;) {
        ULONG_PTR id = *(ULONG_PTR *)(process + (IS_AMD64 ? 0x50 : 0x44));
        PUNICODE_STRING name = (PUNICODE_STRING)(process + 0x38);
        count++;
        has_system = has_system || (id == 4 && wide_is(name, L"System"));
        has_current = has_current || id == (ULONG_PTR)PsGetCurrentProcessId();
        if (get32(process) == 0) {
            break;
        }
        process += get32(process);
    }
    CHECK(count >= 3);
    CHECK(has_system);
    CHECK(has_current);
}

/* The threads of a process are behind it. */
KTEST(thread_information)
{
    ULONG needed = 0, length_57 = 0, threads = 0, bytes = IS_AMD64 ? 0x50 : 0x40, id_at = IS_AMD64 ? 0x28 : 0x20;
    BOOLEAN has_current = FALSE;
    LARGE_INTEGER now;
    KeQuerySystemTime(&now);
    CHECK_STATUS(ZwQuerySystemInformation(5, NULL, 0, &needed), STATUS_INFO_LENGTH_MISMATCH);
    if (!CHECK(needed <= sizeof(buffer))) {
        return;
    }
    CHECK_STATUS(ZwQuerySystemInformation(5, buffer, needed, &needed), STATUS_SUCCESS);
    UCHAR *process = buffer;
    CHECK_EQ(get32(process + 4), 1); /* the idle thread */
    for (;;) {
        ULONG_PTR id = *(ULONG_PTR *)(process + (IS_AMD64 ? 0x50 : 0x44));
        UCHAR *thread = process + (IS_AMD64 ? 0x100 : 0xB8);
        for (ULONG i = 0; i < get32(process + 4); i++, thread += bytes) {
            CHECK_EQ(*(ULONG_PTR *)(thread + id_at), id);
            ULONG state = get32(thread + id_at + 2 * sizeof(PVOID) + 12);
            CHECK(state <= 5);
            if (*(ULONG_PTR *)(thread + id_at + sizeof(PVOID)) == (ULONG_PTR)PsGetCurrentThreadId()) {
                has_current = TRUE;
                CHECK_EQ(state, 2);
                CHECK_EQ(get32(thread + id_at + 2 * sizeof(PVOID)), KeQueryPriorityThread(KeGetCurrentThread()));
                CHECK(*(LONGLONG *)(thread + 16) <= now.QuadPart && *(LONGLONG *)(thread + 16) != 0);
            }
            threads++;
        }
        if (get32(process) == 0) {
            break;
        }
        process += get32(process);
    }
    CHECK(threads >= 2);
    CHECK(has_current);
    CHECK_STATUS(ZwQuerySystemInformation(57, NULL, 0, &length_57), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(length_57 - needed, threads * (IS_AMD64 ? 0x38 : 0x20));
}

KTEST(handle_information)
{
    ULONG needed = 0, entry = IS_AMD64 ? 24 : 16, found = 0;
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    HANDLE handle = NULL;
    PVOID object = NULL;
    RtlInitUnicodeString(&name, L"\\");
    InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE, NULL, NULL);
    if (!CHECK(NT_SUCCESS(ZwOpenDirectoryObject(&handle, 3, &attributes)))) {
        return;
    }
    CHECK_STATUS(ObReferenceObjectByHandle(handle, 0, NULL, KernelMode, &object, NULL), STATUS_SUCCESS);
    CHECK_STATUS(ZwQuerySystemInformation(16, NULL, 0, &needed), STATUS_INFO_LENGTH_MISMATCH);
    if (!CHECK(needed <= sizeof(buffer))) {
        return;
    }
    CHECK_STATUS(ZwQuerySystemInformation(16, buffer, needed, &needed), STATUS_SUCCESS);
    CHECK_EQ(needed, sizeof(PVOID) + get32(buffer) * entry);
    for (ULONG i = 0; i < get32(buffer); i++) {
        UCHAR *at = buffer + sizeof(PVOID) + i * entry;
        if (*(PVOID *)(at + 8) == object && *(USHORT *)at == 4) {
            CHECK_EQ(*(USHORT *)(at + 6), (USHORT)((ULONG_PTR)handle & 0xFFFC));
            CHECK_EQ(get32(at + 8 + sizeof(PVOID)), 3);
            found++;
        }
    }
    CHECK_EQ(found, 1);
    CHECK_STATUS(ZwQuerySystemInformation(64, buffer, 0, &needed), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(64, buffer, sizeof(buffer), &needed), STATUS_SUCCESS);
    entry = IS_AMD64 ? 40 : 28;
    CHECK_EQ(needed, 2 * sizeof(PVOID) + *(ULONG_PTR *)buffer * entry);
    for (ULONG i = 0; i < *(ULONG_PTR *)buffer; i++) {
        UCHAR *at = buffer + 2 * sizeof(PVOID) + i * entry;
        if (*(PVOID *)at == object) {
            CHECK_EQ(*(ULONG_PTR *)(at + sizeof(PVOID)), 4);
            found++;
        }
    }
    CHECK_EQ(found, 2);
    ObDereferenceObject(object);
    ZwClose(handle);
}

KTEST(counters_information)
{
    ULONGLONG times[6] = {0};
    ULONG counters[6] = {0}, returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(2, buffer, 0x138, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 0x138);
    CHECK(get32(buffer + 0x2C) != 0); /* AvailablePages */
    CHECK(get32(buffer + 0x74) != 0); /* NonPagedPoolPages */
    CHECK_STATUS(ZwQuerySystemInformation(2, buffer, 0x137, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(8, times, sizeof(times), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 48);
    CHECK(times[0] <= times[1]); /* kernel time has the idle time in it */
    CHECK(times[1] != 0);
    CHECK_STATUS(ZwQuerySystemInformation(8, times, 47, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(23, counters, sizeof(counters), &returned), STATUS_SUCCESS);
    CHECK(counters[0] != 0);
    CHECK_EQ(counters[3], KeQueryTimeIncrement());
    CHECK_STATUS(ZwQuerySystemInformation(18, buffer, sizeof(buffer), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 0); /* no page files */
    CHECK_STATUS(ZwQuerySystemInformation(44, buffer, sizeof(buffer), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 172);
    CHECK_EQ(get32(buffer), 0); /* UTC */
}

KTEST(module_information_ex)
{
    ULONG needed = 0, count = 0, bytes = IS_AMD64 ? 320 : 300;
    NTSTATUS status = ZwQuerySystemInformation(77, NULL, 0, &needed);
    if (status == STATUS_INVALID_INFO_CLASS) { /* Windows XP */
        CHECK_EQ(needed, 0);
        return;
    }
    CHECK_STATUS(status, STATUS_INFO_LENGTH_MISMATCH);
    if (!CHECK(needed <= sizeof(buffer))) {
        return;
    }
    CHECK_STATUS(ZwQuerySystemInformation(77, buffer, needed, &needed), STATUS_SUCCESS);
    UCHAR *at = buffer;
    for (; *(USHORT *)at != 0; at += *(USHORT *)at, count++) {
        MODULE_INFORMATION *module = (MODULE_INFORMATION *)(at + sizeof(PVOID));
        CHECK_EQ(*(USHORT *)at, bytes);
        CHECK_EQ(module->LoadOrderIndex, count);
        CHECK(module->ImageBase != NULL);
    }
    CHECK(count >= 3);
    CHECK_EQ(needed, count * bytes + 2);
}

KTEST(kernel_debugger_information)
{
    UCHAR debugger[4] = {0xEE, 0xEE, 0xEE, 0xEE};
    ULONG returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(35, debugger, 2, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 2);
    CHECK_EQ(debugger[0], 0);
    CHECK_EQ(debugger[1], 1);
    CHECK_EQ(debugger[2], 0xEE);
    CHECK_STATUS(ZwQuerySystemInformation(35, debugger, 1, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_EQ(shared8(0x2D4), 0);
}

KTEST(code_integrity_information)
{
    ULONG integrity[3] = {8, 0xEEEEEEEE, 0};
    ULONG returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(103, integrity, 8, &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 8);
    CHECK_EQ(integrity[0], 8);
    CHECK_EQ(integrity[1], 0);
    integrity[0] = 4;
    CHECK_STATUS(ZwQuerySystemInformation(103, integrity, 8, &returned), STATUS_INFO_LENGTH_MISMATCH);
    integrity[0] = 8;
    CHECK_STATUS(ZwQuerySystemInformation(103, integrity, 12, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(103, integrity, 4, &returned), STATUS_INFO_LENGTH_MISMATCH);
}

KTEST(other_information)
{
    ULONG_PTR values[4] = {0};
    ULONG flags = 1, returned = 0;
    CHECK_STATUS(ZwQuerySystemInformation(9, &flags, 4, &returned), STATUS_SUCCESS);
    CHECK_EQ(flags, NtGlobalFlag);
    CHECK_STATUS(ZwQuerySystemInformation(9, &flags, 3, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(50, values, sizeof(PVOID), &returned), STATUS_SUCCESS);
    CHECK_EQ(values[0], *(ULONG_PTR *)routine(L"MmSystemRangeStart"));
    CHECK_STATUS(ZwQuerySystemInformation(28, values, 12, &returned), STATUS_SUCCESS);
    CHECK_EQ(((ULONG *)values)[1], KeQueryTimeIncrement());
    CHECK_STATUS(ZwQuerySystemInformation(37, values, 8 + sizeof(PVOID), &returned), STATUS_SUCCESS);
    CHECK_EQ(returned, 8 + sizeof(PVOID));
    CHECK_STATUS(ZwQuerySystemInformation(37, values, 8, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(76, values, 15, &returned), STATUS_INFO_LENGTH_MISMATCH);
    CHECK_STATUS(ZwQuerySystemInformation(0x7FFF, values, 8, &returned), STATUS_INVALID_INFO_CLASS);
    CHECK_STATUS(ZwQuerySystemInformation(0xFFFFFFFF, values, 8, NULL), STATUS_INVALID_INFO_CLASS);
}

ULONG NTAPI capture_state(PVOID context, PVOID thread, ULONG code, ULONG_PTR first, ULONG_PTR second, ULONG_PTR third,
                          ULONG_PTR fourth, PVOID dump) __asm__(
#ifdef __x86_64__
    "KeCapturePersistentThreadState"
#else
    "_KeCapturePersistentThreadState@32"
#endif
);

/* A triage dump: what it says lies inside of it. */
KTEST(persistent_thread_state)
{
    ULONG room = IS_AMD64 ? 0x40000 : 0x10000, head = IS_AMD64 ? 0x2000 : 0x1000;
    UCHAR *dump = ExAllocatePoolWithTag(NonPagedPool, room, 0x706D7544);
    if (!CHECK(dump != NULL)) {
        return;
    }
    volatile ULONG marker = 0x4B524D54; /* on the stack when it is captured */
    ULONG bytes = capture_state(NULL, NULL, 0xE2, 1, 2, 3, 4, dump);
    CHECK(bytes > head && bytes <= room);
    CHECK_MEM(dump, IS_AMD64 ? "PAGEDU64" : "PAGEDUMP", 8);
    CHECK_EQ(get32(dump + (IS_AMD64 ? 0x38 : 0x28)), 0xE2);
    CHECK_PTR(*(PVOID *)(dump + (IS_AMD64 ? 0x20 : 0x18)), routine(L"PsLoadedModuleList"));
    ULONG *triage = (ULONG *)(dump + head);
    CHECK_EQ(triage[1], bytes);
    CHECK_MEM(dump + triage[2], "TRGD", 4);
    CHECK_EQ(triage[2] + 4, bytes);
    CHECK_MEM(dump + triage[9], KeGetCurrentThread(), 4); /* ThreadOffset: a KTHREAD */
    CHECK(triage[10] != 0 && triage[11] != 0 && triage[10] + triage[11] <= bytes); /* the stack */
    ULONG_PTR top = *(ULONG_PTR *)(triage + 18), here = (ULONG_PTR)&marker;
    if (CHECK(here >= top && here - top < triage[11])) {
        CHECK_EQ(get32(dump + triage[10] + (here - top)), marker);
    }
    CHECK(triage[13] >= 3); /* modules: the kernel first */
    ULONG name = get32(dump + triage[12]);
    CHECK(name >= triage[14] && name < triage[14] + triage[15]);
    CHECK_EQ(get32(dump + name), 33);
    CHECK_MEM(dump + name + 4, L"\\SystemRoot\\system32\\ntoskrnl.exe", 66);
    CHECK_EQ(capture_state(NULL, NULL, 0, 0, 0, 0, 0, NULL), 0);
    ExFreePool(dump);
}

/* ---- The version. ---- */

KTEST(versions_agree)
{
    VERSION_INFORMATION information;
    version(&information);
    ULONG major = 0, minor = 0, build = 0;
    UNICODE_STRING service_pack;
    CHECK_EQ(PsGetVersion(&major, &minor, &build, &service_pack), FALSE);
    CHECK_EQ(major, information.dwMajorVersion);
    CHECK_EQ(minor, information.dwMinorVersion);
    CHECK_EQ(build, information.dwBuildNumber);
    CHECK(wide_is(&service_pack, information.szCSDVersion));
    CHECK_EQ(shared32(0x26C), major);
    CHECK_EQ(shared32(0x270), minor);
    ULONG *build_number = routine(L"NtBuildNumber");
    CHECK_EQ(*build_number, 0xF0000000 | build);
    if (major >= 10) {
        CHECK_EQ(shared32(0x260), build);
    } else {
        CHECK(information.wServicePackMajor != 0);
    }
    CHECK_EQ(information.dwPlatformId, 2);
    CHECK_EQ(information.wProductType, shared32(0x264));
    CHECK_EQ(information.wSuiteMask, shared32(0x2D0) & 0xFFFF);
    CHECK_EQ(InitSafeBootMode, 0);
    CHECK(NtBuildLab[0] >= '1' && NtBuildLab[0] <= '9');
    CHECK_EQ(PsGetVersion(NULL, NULL, NULL, NULL), FALSE);
}

KTEST(get_version_writes_what_was_asked_for)
{
    VERSION_INFORMATION information;
    RtlFillMemory(&information, sizeof(information), 0xEE);
    information.dwOSVersionInfoSize = 276;
    CHECK_STATUS(RtlGetVersion((PRTL_OSVERSIONINFOW)&information), STATUS_SUCCESS);
    CHECK_EQ(information.dwOSVersionInfoSize, 276);
    CHECK_EQ(information.wServicePackMajor, 0xEEEE);
    CHECK_EQ(information.wProductType, 0xEE);
    version(&information);
    CHECK(information.wProductType == 1);
    CHECK_EQ(information.wReserved, 0);
}

#define GREATER_EQUAL 3
static NTSTATUS verify(VERSION_INFORMATION *wanted, ULONG types, ULONG condition)
{
    ULONGLONG mask = 0;
    for (ULONG bit = 1; bit <= 0x80; bit <<= 1) {
        if (types & bit) {
            mask = VerSetConditionMask(mask, bit, (UCHAR)condition);
        }
    }
    return RtlVerifyVersionInfo((PVOID)wanted, types, mask);
}

KTEST(verify_version_info)
{
    VERSION_INFORMATION wanted, actual;
    version(&actual);
    wanted = actual;
    CHECK_STATUS(verify(&wanted, 3, GREATER_EQUAL), STATUS_SUCCESS);
    CHECK_STATUS(verify(&wanted, 3, 1), STATUS_SUCCESS);
    CHECK_STATUS(verify(&wanted, 3, 2), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 3, 4), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 3, 5), STATUS_SUCCESS);
    wanted.dwMajorVersion--;
    wanted.dwMinorVersion = 99;
    CHECK_STATUS(verify(&wanted, 3, GREATER_EQUAL), STATUS_SUCCESS);
    CHECK_STATUS(verify(&wanted, 3, 1), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 3, 5), STATUS_REVISION_MISMATCH);
    wanted = actual;
    wanted.dwMajorVersion++;
    wanted.dwMinorVersion = 0;
    CHECK_STATUS(verify(&wanted, 3, GREATER_EQUAL), STATUS_REVISION_MISMATCH);
    wanted = actual;
    wanted.dwBuildNumber++;
    CHECK_STATUS(verify(&wanted, 4, GREATER_EQUAL), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 4, 4), STATUS_SUCCESS);
    wanted = actual;
    CHECK_STATUS(verify(&wanted, 8, 1), STATUS_SUCCESS);
    CHECK_STATUS(verify(&wanted, 0x80, 1), STATUS_SUCCESS);
    CHECK_STATUS(verify(&wanted, 0x40, 6), STATUS_SUCCESS);
    wanted.wSuiteMask = 2;
    CHECK_STATUS(verify(&wanted, 0x40, 6), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 0x40, 7), STATUS_REVISION_MISMATCH);
    CHECK_STATUS(verify(&wanted, 0, 1), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlVerifyVersionInfo((PVOID)&actual, 3, 0), STATUS_INVALID_PARAMETER);
}

KTEST(condition_masks)
{
    CHECK_EQ(VerSetConditionMask(0, 1, 3), 3);
    CHECK_EQ(VerSetConditionMask(0, 2, 3), 3 << 3);
    CHECK_EQ(VerSetConditionMask(0, 4, 1), 1 << 6);
    CHECK_EQ(VerSetConditionMask(0, 0x80, 7), 7 << 21);
    CHECK_EQ(VerSetConditionMask(3, 2, 3), 3 | 3 << 3);
    CHECK_EQ(VerSetConditionMask(5, 0, 3), 5);
    CHECK_EQ(VerSetConditionMask(5, 2, 0), 5);
}

/* ---- KUSER_SHARED_DATA and the KPCR. ---- */

KTEST(shared_data_constants)
{
    CHECK_EQ(shared32(4), 0x0FA00000);
    CHECK_EQ(shared16(0x2C), MACHINE);
    CHECK_EQ(shared16(0x2E), MACHINE);
    CHECK_EQ(shared16(0x30), 'C');
    CHECK_EQ(shared16(0x32), ':');
    CHECK_EQ(shared16(0x34), '\\');
    CHECK_EQ(shared16(0x36), 'W');
    CHECK_EQ(shared16(0x42), 's');
    CHECK_EQ(shared16(0x44), 0);
    CHECK_EQ(shared8(0x268), 1);
    CHECK_EQ(shared8(0x274 + 2), 1);
    CHECK_EQ(shared8(0x274 + 8), 1);
    CHECK_EQ(shared8(0x274 + 10), 1);
    CHECK_EQ(shared8(0x274 + 7), 0);
    CHECK_EQ(shared32(0x2EC), 0);
    CHECK(shared32(0x330) != 0);
}

KTEST(shared_data_times)
{
    LARGE_INTEGER time, ticks;
    KeQuerySystemTime(&time);
    ULONG low = shared32(0x14), high = shared32(0x18), high_again = shared32(0x1C);
    CHECK_EQ(high, high_again);
    LONGLONG shown = (LONGLONG)((ULONGLONG)high << 32 | low);
    CHECK(shown - time.QuadPart < 10000000 && time.QuadPart - shown < 10000000);
    ULONGLONG interrupt_time = KeQueryInterruptTime();
    ULONGLONG interrupt_shown = (ULONGLONG)shared32(0xC) << 32 | shared32(8);
    CHECK(interrupt_time - interrupt_shown < 10000000 || interrupt_shown - interrupt_time < 10000000);
    KeQueryTickCount(&ticks);
    ULONG tick_shown = shared32(0x320);
    CHECK(tick_shown - (ULONG)ticks.QuadPart < 64);
    CHECK(shared32(0) - tick_shown < 64);
    volatile ULONG *tick_count = routine(L"KeTickCount");
    CHECK(*tick_count - tick_shown < 64);
    CHECK_EQ(tick_count[1], 0);
    CHECK_EQ(tick_count[2], 0);
}

static ULONG_PTR pcr_word(ULONG offset)
{
    ULONG_PTR value;
#ifdef __x86_64__
    __asm__ volatile("movq %%gs:(%1), %0" : "=r"(value) : "r"((ULONG_PTR)offset));
#else
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(value) : "r"(offset));
#endif
    return value;
}

KTEST(processor_control_region)
{
    UCHAR *pcr = (UCHAR *)pcr_word(IS_AMD64 ? 0x18 : 0x1C);
    CHECK_EQ(pcr_word(0x20), (ULONG_PTR)pcr + (IS_AMD64 ? 0x180 : 0x120));
    CHECK_EQ(get16(pcr + (IS_AMD64 ? 0x60 : 0x44)), 1);
    CHECK_EQ(get16(pcr + (IS_AMD64 ? 0x62 : 0x46)), 1);
    CHECK(get32(pcr + (IS_AMD64 ? 0x64 : 0x4C)) != 0);
    CHECK_EQ(pcr[IS_AMD64 ? 0x184 : 0x130], 0);
    CHECK_PTR(pcr_word(IS_AMD64 ? 0x188 : 0x124), (ULONG_PTR)KeGetCurrentThread());
    UCHAR *block = (UCHAR *)pcr_word(IS_AMD64 ? 0x108 : 0x34);
    if (!CHECK(block != NULL)) {
        return;
    }
    VERSION_INFORMATION information;
    version(&information);
    CHECK_EQ(get16(block), 0xF);
    CHECK_EQ(get16(block + 2), information.dwBuildNumber);
    CHECK_EQ(get16(block + 8), MACHINE);
    CHECK_EQ(*(ULONG_PTR *)(block + 16), (ULONG_PTR)base_of(L"ntoskrnl.exe"));
    CHECK_EQ(*(ULONG_PTR *)(block + 24), (ULONG_PTR)&PsLoadedModuleList);
    if (!IS_AMD64) {
        CHECK_EQ(get32(block + 20), 0xFFFFFFFF);
    }
}

KTEST_BUGCHECK(query_at_dispatch_level, 0xA)
{
    KIRQL old;
    ULONG flags;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ZwQuerySystemInformation(9, &flags, 4, NULL);
}

KTEST_FAMILY("kernel_view", KTEST_ENTRY(ntoskrnl_has_pe_headers), KTEST_ENTRY(hal_has_pe_headers),
             KTEST_ENTRY(sections_of_ntoskrnl), KTEST_ENTRY(sections_of_hal),
             KTEST_ENTRY(export_directory_of_ntoskrnl), KTEST_ENTRY(export_directory_of_hal),
             KTEST_ENTRY(exports_are_what_imports_are_bound_to), KTEST_ENTRY(system_routine_addresses_are_exports),
             KTEST_ENTRY(hal_exports_only_its_own), KTEST_ENTRY(an_exported_function_can_be_called),
             KTEST_ENTRY(find_exported_routine_by_name), KTEST_ENTRY(image_nt_header),
             KTEST_ENTRY(image_nt_header_ex), KTEST_ENTRY(image_directories), KTEST_ENTRY(version_resource),
             KTEST_ENTRY(variables_live_in_the_image), KTEST_ENTRY(the_kernel_is_the_first_module),
             KTEST_ENTRY(entry_of_ntoskrnl), KTEST_ENTRY(entry_of_hal), KTEST_ENTRY(entry_of_the_driver),
             KTEST_ENTRY(pc_to_file_header), KTEST_ENTRY(the_module_resource_is_free),
             KTEST_ENTRY(module_information_sizes), KTEST_ENTRY(module_information),
             KTEST_ENTRY(aux_klib_module_query), KTEST_ENTRY(basic_information), KTEST_ENTRY(processor_information),
             KTEST_ENTRY(time_of_day_information), KTEST_ENTRY(process_information),
             KTEST_ENTRY(thread_information), KTEST_ENTRY(handle_information), KTEST_ENTRY(counters_information),
             KTEST_ENTRY(module_information_ex),
             KTEST_ENTRY(kernel_debugger_information), KTEST_ENTRY(code_integrity_information),
             KTEST_ENTRY(other_information), KTEST_ENTRY(persistent_thread_state), KTEST_ENTRY(versions_agree),
             KTEST_ENTRY(get_version_writes_what_was_asked_for), KTEST_ENTRY(verify_version_info),
             KTEST_ENTRY(condition_masks), KTEST_ENTRY(shared_data_constants), KTEST_ENTRY(shared_data_times),
             KTEST_ENTRY(processor_control_region), KTEST_BUGCHECK_ENTRY(query_at_dispatch_level));
