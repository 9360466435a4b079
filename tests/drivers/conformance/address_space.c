/* compiler: clang */
/* User space and what is mapped there: MDLs of all kinds of memory for user mode, views at chosen addresses, protections
 * that hold, memory that is gone once it is freed; and the system addresses of MDLs. clang moves plain accesses out of a
 * __try, so whatever may fault is a call.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define NOINLINE __attribute__((noinline))
#define TAG ((ULONG)0x7361534B)
#define CURRENT ((HANDLE)(LONG_PTR)-1)
#define GRANULARITY 0x10000
#define SECTION_ALL 0xF001F
#define ALL_ADDRESSES (~0ULL >> 1)
/* A client's request buffers begin here. */
#define CLIENT_MEMORY ((PUCHAR)0x01000000)
#define FREE_ADDRESS ((PUCHAR)0x31230000)
#undef MEM_COMMIT
#undef MEM_RESERVE
#undef MEM_DECOMMIT
#undef MEM_RELEASE
#undef MEM_TOP_DOWN
#undef SEC_COMMIT
#undef SEC_RESERVE
#define MEM_COMMIT 0x1000
#define MEM_RESERVE 0x2000
#define MEM_DECOMMIT 0x4000
#define MEM_RELEASE 0x8000
#define MEM_TOP_DOWN 0x100000
#define SEC_RESERVE 0x04000000
#define SEC_COMMIT 0x08000000
#define NO_WRITE 0x80000000
#define ViewUnmapped 2

#define CONFLICTING ((NTSTATUS)0xC0000018)
#define NOT_MAPPED ((NTSTATUS)0xC0000019)
#define BAD_PROTECTION ((NTSTATUS)0xC0000045)
#define BAD_SECTION_PROTECTION ((NTSTATUS)0xC000004E)
#define GUARD_VIOLATION ((NTSTATUS)0x80000001)

NTSYSAPI NTSTATUS NTAPI ZwAllocateVirtualMemory(HANDLE, PVOID *, ULONG_PTR, PSIZE_T, ULONG, ULONG);
NTSYSAPI NTSTATUS NTAPI ZwFreeVirtualMemory(HANDLE, PVOID *, PSIZE_T, ULONG);
NTSYSAPI NTSTATUS NTAPI ZwProtectVirtualMemory(HANDLE, PVOID *, PSIZE_T, ULONG, PULONG);
NTKERNELAPI VOID NTAPI ProbeForWrite(PVOID address, SIZE_T bytes, ULONG alignment);
NTKERNELAPI HANDLE NTAPI MmSecureVirtualMemory(PVOID address, SIZE_T bytes, ULONG mode);
NTKERNELAPI VOID NTAPI MmUnsecureVirtualMemory(HANDLE handle);
NTKERNELAPI NTSTATUS NTAPI MmMapViewInSystemSpace(PVOID, PVOID *, PSIZE_T);
NTKERNELAPI NTSTATUS NTAPI MmUnmapViewInSystemSpace(PVOID);
NTKERNELAPI NTSTATUS NTAPI MmCreateSection(PVOID *, ACCESS_MASK, POBJECT_ATTRIBUTES, PLARGE_INTEGER, ULONG, ULONG, HANDLE,
                                           PFILE_OBJECT);

static PHYSICAL_ADDRESS physical(ULONGLONG value)
{
    PHYSICAL_ADDRESS address;
    address.QuadPart = (LONGLONG)value;
    return address;
}

static ULONGLONG physical_of(const volatile void *address)
{
    return (ULONGLONG)MmGetPhysicalAddress((PVOID)address).QuadPart;
}

/* ---- Things that may fault: STATUS_SUCCESS, or the exception. ---- */

static NOINLINE VOID load(volatile UCHAR *address, UCHAR *value)
{
    *value = *address;
}

static NOINLINE VOID store(volatile UCHAR *address, UCHAR value)
{
    *address = value;
}

static NTSTATUS read_status(PVOID address)
{
    NTSTATUS status = STATUS_SUCCESS;
    UCHAR value;
    __try {
        load(address, &value);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        status = GetExceptionCode();
    }
    return status;
}

static NTSTATUS write_status(PVOID address, UCHAR value)
{
    NTSTATUS status = STATUS_SUCCESS;
    __try {
        store(address, value);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        status = GetExceptionCode();
    }
    return status;
}

static NTSTATUS probe_status(PVOID address, SIZE_T bytes)
{
    NTSTATUS status = STATUS_SUCCESS;
    __try {
        ProbeForWrite(address, bytes, 1);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        status = GetExceptionCode();
    }
    return status;
}

static NTSTATUS lock_status(PMDL mdl, KPROCESSOR_MODE mode, LOCK_OPERATION operation)
{
    NTSTATUS status = STATUS_SUCCESS;
    __try {
        MmProbeAndLockPages(mdl, mode, operation);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        status = GetExceptionCode();
    }
    return status;
}

static NTSTATUS map_user(PMDL mdl, PVOID wanted, ULONG priority, PUCHAR *mapped)
{
    NTSTATUS status = STATUS_SUCCESS;
    __try {
        *mapped = MmMapLockedPagesSpecifyCache(mdl, UserMode, MmCached, wanted, FALSE, priority);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
        status = GetExceptionCode();
    }
    return status;
}

/* ---- MDLs for user mode. ---- */

/* An MDL whose memory the kernel has at `kernel`, mapped for user mode: both are the same memory. */
static VOID check_user_mapping(PMDL mdl, volatile UCHAR *kernel)
{
    PUCHAR mapped = NULL, again = NULL;
    CHECK_STATUS(map_user(mdl, NULL, NormalPagePriority, &mapped), STATUS_SUCCESS);
    if (!CHECK(mapped != NULL)) {
        return;
    }
    CHECK(mapped < (PUCHAR)MmHighestUserAddress);
    CHECK_EQ((ULONG_PTR)mapped % PAGE_SIZE, MmGetMdlByteOffset(mdl));
    CHECK(MmIsAddressValid(mapped));
    CHECK_EQ(physical_of(mapped), physical_of(kernel));
    ULONG last = MmGetMdlByteCount(mdl) - 1;
    CHECK_EQ(physical_of(mapped + last), physical_of(kernel + last));
    CHECK_STATUS(probe_status(mapped, last + 1), STATUS_SUCCESS);
    kernel[0] = 0x11;
    kernel[last] = 0x22;
    CHECK_EQ(mapped[0], 0x11);
    CHECK_EQ(mapped[last], 0x22);
    CHECK_STATUS(write_status(mapped, 0x33), STATUS_SUCCESS);
    CHECK_EQ(kernel[0], 0x33);
    /* A second mapping has an address of its own. */
    CHECK_STATUS(map_user(mdl, NULL, NormalPagePriority | NO_WRITE, &again), STATUS_SUCCESS);
    CHECK(again != mapped);
    CHECK_EQ(again[0], 0x33);
    CHECK_STATUS(write_status(again, 1), STATUS_ACCESS_VIOLATION);
    MmUnmapLockedPages(again, mdl);
    CHECK_EQ(mapped[0], 0x33);
    MmUnmapLockedPages(mapped, mdl);
    CHECK(!MmIsAddressValid(mapped));
    CHECK_STATUS(read_status(mapped), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(probe_status(mapped, 1), STATUS_ACCESS_VIOLATION);
}

KTEST(pool_for_user_mode)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 3 * PAGE_SIZE, TAG);
    PMDL mdl = IoAllocateMdl(block + 0x123, 2 * PAGE_SIZE, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    check_user_mapping(mdl, block + 0x123);
    IoFreeMdl(mdl);
    ExFreePoolWithTag(block, TAG);
    block = ExAllocatePoolWithTag(PagedPool, 3 * PAGE_SIZE, TAG);
    mdl = IoAllocateMdl(block + 0x20, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, KernelMode, IoWriteAccess), STATUS_SUCCESS);
    check_user_mapping(mdl, block + 0x20);
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(allocated_pages_for_user_mode)
{
    PMDL mdl = MmAllocatePagesForMdl(physical(0), physical(ALL_ADDRESSES), physical(0), 3 * PAGE_SIZE);
    PUCHAR system = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    check_user_mapping(mdl, system);
    MmUnmapLockedPages(system, mdl);
    MmFreePagesFromMdl(mdl);
    ExFreePool(mdl);
}

KTEST(contiguous_memory_for_user_mode)
{
    PUCHAR base = MmAllocateContiguousMemory(2 * PAGE_SIZE, physical(ALL_ADDRESSES));
    PMDL mdl = IoAllocateMdl(base, 2 * PAGE_SIZE, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    check_user_mapping(mdl, base);
    IoFreeMdl(mdl);
    MmFreeContiguousMemory(base);
}

KTEST(client_memory_for_user_mode)
{
    PMDL mdl = IoAllocateMdl(CLIENT_MEMORY + 0x810, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoModifyAccess), STATUS_SUCCESS);
    UCHAR saved = CLIENT_MEMORY[0x810], last = CLIENT_MEMORY[0x180F];
    check_user_mapping(mdl, MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority));
    CLIENT_MEMORY[0x810] = saved;
    CLIENT_MEMORY[0x180F] = last;
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
}

KTEST(user_mode_at_a_chosen_address)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, PAGE_SIZE, TAG), mapped = NULL, other = NULL;
    PMDL mdl = IoAllocateMdl(block, PAGE_SIZE, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    CHECK_STATUS(map_user(mdl, FREE_ADDRESS, NormalPagePriority, &mapped), STATUS_SUCCESS);
    CHECK_PTR(mapped, FREE_ADDRESS);
    block[7] = 0x5A;
    CHECK_EQ(mapped[7], 0x5A);
    /* Taken, by this mapping and by the clients' buffers; and no user address. */
    CHECK_STATUS(map_user(mdl, FREE_ADDRESS, NormalPagePriority, &other), CONFLICTING);
    CHECK_STATUS(map_user(mdl, CLIENT_MEMORY, NormalPagePriority, &other), CONFLICTING);
    CHECK(!NT_SUCCESS(map_user(mdl, MmSystemRangeStart, NormalPagePriority, &other)));
    CHECK_PTR(other, NULL);
    MmUnmapLockedPages(mapped, mdl);
    CHECK_STATUS(map_user(mdl, FREE_ADDRESS, NormalPagePriority, &mapped), STATUS_SUCCESS);
    MmUnmapLockedPages(mapped, mdl);
    IoFreeMdl(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST_BUGCHECK(user_mapping_unmapped_twice, 0xDA)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, PAGE_SIZE, TAG), mapped = NULL;
    PMDL mdl = IoAllocateMdl(block, PAGE_SIZE, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(mdl);
    map_user(mdl, NULL, NormalPagePriority, &mapped);
    MmUnmapLockedPages(mapped, mdl);
    MmUnmapLockedPages(mapped, mdl);
}

/* ---- System addresses of MDLs. ---- */

typedef ULONG(NTAPI *CODE)(VOID);

KTEST(system_addresses_are_their_own)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, 2 * PAGE_SIZE, TAG);
    PMDL mdl = IoAllocateMdl(block, PAGE_SIZE, FALSE, FALSE, NULL);
    MmProbeAndLockPages(mdl, KernelMode, IoWriteAccess);
    PUCHAR mapped = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority);
    CHECK(mapped != block);
    block[3] = 0x77;
    CHECK_EQ(mapped[3], 0x77);
    CHECK_EQ(physical_of(mapped), physical_of(block));
    /* Code that is written and then run, through the mapping. */
    static const UCHAR code[] = {0xB8, 0x2A, 0, 0, 0, 0xC3}; /* mov eax, 42; ret */
    RtlCopyMemory(mapped, code, sizeof code);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_EXECUTE_READ), STATUS_SUCCESS);
    CHECK_EQ(((CODE)(ULONG_PTR)mapped)(), 42);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READONLY), STATUS_SUCCESS);
    CHECK_EQ(mapped[1], 0x2A);
    block[1] = 0x2B;
    CHECK_EQ(mapped[1], 0x2B);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_NOACCESS), STATUS_SUCCESS);
    CHECK(!MmIsAddressValid(mapped));
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK(MmIsAddressValid(mapped));
    mapped[1] = 0x2C;
    CHECK_EQ(block[1], 0x2C);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_WRITECOPY), BAD_PROTECTION);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READWRITE | PAGE_GUARD), BAD_PROTECTION);
    MmUnlockPages(mdl);
    /* Unlocking has unmapped it. */
    CHECK_EQ(mdl->MdlFlags & MDL_MAPPED_TO_SYSTEM_VA, 0);
    CHECK(!MmIsAddressValid(mapped));
    IoFreeMdl(mdl);
    ExFreePoolWithTag(block, TAG);
}

/* What drivers do to patch read-only code. */
KTEST(read_only_code_is_written_through_an_mdl)
{
    PUCHAR code = (PUCHAR)(ULONG_PTR)physical_of;
    PMDL mdl = IoAllocateMdl(code, 16, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, KernelMode, IoReadAccess), STATUS_SUCCESS);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK(mapped != NULL && mapped != code);
    UCHAR first = code[0];
    mapped[0] = (UCHAR)~first;
    CHECK_EQ(((volatile UCHAR *)code)[0], (UCHAR)~first);
    mapped[0] = first;
    MmUnmapLockedPages(mapped, mdl);
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
}

KTEST(client_memory_is_protected_in_system_space)
{
    PMDL mdl = IoAllocateMdl(CLIENT_MEMORY, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoModifyAccess), STATUS_SUCCESS);
    PUCHAR mapped = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_NOACCESS), STATUS_SUCCESS);
    CHECK(!MmIsAddressValid(mapped));
    CHECK(MmIsAddressValid(CLIENT_MEMORY));
    MmUnmapLockedPages(mapped, mdl);
    CHECK(MmIsAddressValid(mapped));
    UCHAR saved = CLIENT_MEMORY[9];
    mapped[9] = 0x61;
    CHECK_EQ(((volatile UCHAR *)CLIENT_MEMORY)[9], 0x61);
    mapped[9] = saved;
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
}

KTEST_BUGCHECK(read_only_system_address_written, 0xBE)
{
    PMDL mdl = MmAllocatePagesForMdl(physical(0), physical(ALL_ADDRESSES), physical(0), PAGE_SIZE);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    MmProtectMdlSystemAddress(mdl, PAGE_READONLY);
    store(mapped, 1);
}

KTEST_BUGCHECK(read_only_alias_written, 0xBE)
{
    PMDL mdl = IoAllocateMdl(CLIENT_MEMORY, PAGE_SIZE, FALSE, FALSE, NULL);
    MmProbeAndLockPages(mdl, UserMode, IoModifyAccess);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority | NO_WRITE);
    store(mapped, 1);
}

KTEST_BUGCHECK(inaccessible_system_address_read, 0x50)
{
    UCHAR value;
    PMDL mdl = MmAllocatePagesForMdl(physical(0), physical(ALL_ADDRESSES), physical(0), PAGE_SIZE);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    MmProtectMdlSystemAddress(mdl, PAGE_NOACCESS);
    load(mapped, &value);
}

KTEST(mapping_addresses_are_used)
{
    PUCHAR address = MmAllocateMappingAddress(2 * PAGE_SIZE, TAG);
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 2 * PAGE_SIZE, TAG);
    PMDL mdl = IoAllocateMdl(block + 0x10, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK(!MmIsAddressValid(address));
    CHECK_STATUS(lock_status(mdl, KernelMode, IoWriteAccess), STATUS_SUCCESS);
    PUCHAR mapped = MmMapLockedPagesWithReservedMapping(address, TAG, mdl, MmCached);
    CHECK_PTR(mapped, address + 0x10);
    mapped[0] = 0x44;
    CHECK_EQ(block[0x10], 0x44);
    MmUnmapReservedMapping(address, TAG, mdl);
    CHECK(!MmIsAddressValid(address));
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
    ExFreePoolWithTag(block, TAG);
    MmFreeMappingAddress(address, TAG);
    CHECK(MmAllocateMappingAddress(0, TAG) == NULL);
}

/* ---- Memory of a process. ---- */

static NTSTATUS allocate(PVOID *base, SIZE_T bytes, ULONG kind, ULONG protection)
{
    return ZwAllocateVirtualMemory(CURRENT, base, 0, &bytes, kind, protection);
}

static NTSTATUS release(PVOID base, SIZE_T bytes, ULONG kind)
{
    return ZwFreeVirtualMemory(CURRENT, &base, &bytes, kind);
}

static NTSTATUS protect(PVOID base, SIZE_T bytes, ULONG protection, PULONG old)
{
    return ZwProtectVirtualMemory(CURRENT, &base, &bytes, protection, old);
}

KTEST(only_committed_memory_is_there)
{
    PVOID base = NULL, part;
    CHECK_STATUS(allocate(&base, 0x10000, MEM_RESERVE, PAGE_READWRITE), STATUS_SUCCESS);
    PUCHAR bytes = base;
    CHECK(!MmIsAddressValid(bytes));
    CHECK_EQ(physical_of(bytes), 0);
    CHECK_STATUS(read_status(bytes), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(probe_status(bytes, 1), STATUS_ACCESS_VIOLATION);
    part = bytes + PAGE_SIZE;
    CHECK_STATUS(allocate(&part, PAGE_SIZE, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(read_status(bytes + PAGE_SIZE), STATUS_SUCCESS);
    CHECK_STATUS(write_status(bytes + 2 * PAGE_SIZE - 1, 3), STATUS_SUCCESS);
    CHECK_STATUS(read_status(bytes + 2 * PAGE_SIZE), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(probe_status(bytes + PAGE_SIZE, PAGE_SIZE), STATUS_SUCCESS);
    CHECK_STATUS(probe_status(bytes + PAGE_SIZE, PAGE_SIZE + 1), STATUS_ACCESS_VIOLATION);
    PMDL mdl = IoAllocateMdl(bytes + PAGE_SIZE, 2 * PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoReadAccess), STATUS_ACCESS_VIOLATION);
    IoFreeMdl(mdl);
    CHECK_STATUS(release(part, PAGE_SIZE, MEM_DECOMMIT), STATUS_SUCCESS);
    CHECK_STATUS(read_status(part), STATUS_ACCESS_VIOLATION);
    CHECK(!MmIsAddressValid(part));
    CHECK_STATUS(allocate(&part, PAGE_SIZE, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_EQ(((volatile UCHAR *)part)[PAGE_SIZE - 1], 0);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
    CHECK_STATUS(read_status(part), STATUS_ACCESS_VIOLATION);
    CHECK(!MmIsAddressValid(part));
}

KTEST(memory_at_a_chosen_address)
{
    PVOID base = FREE_ADDRESS + 5, top = NULL;
    SIZE_T bytes = PAGE_SIZE;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 0, &bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE),
                 STATUS_SUCCESS);
    CHECK_PTR(base, FREE_ADDRESS);
    CHECK_EQ(bytes, 2 * PAGE_SIZE);
    CHECK_STATUS(write_status(base, 1), STATUS_SUCCESS);
    CHECK_STATUS(allocate(&top, PAGE_SIZE, MEM_RESERVE | MEM_COMMIT | MEM_TOP_DOWN, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK((PUCHAR)top > FREE_ADDRESS);
    CHECK_STATUS(write_status(top, 1), STATUS_SUCCESS);
    CHECK_STATUS(release(top, 0, MEM_RELEASE), STATUS_SUCCESS);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
    /* Address space is cheap. */
    base = NULL;
    CHECK_STATUS(allocate(&base, 0x10000000, MEM_RESERVE, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
    base = NULL;
    bytes = PAGE_SIZE;
    CHECK_STATUS(ZwAllocateVirtualMemory(CURRENT, &base, 4, &bytes, MEM_RESERVE, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK((ULONG_PTR)base < 0x10000000);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
}

KTEST(protections_hold)
{
    PVOID base = NULL;
    ULONG old = 0;
    CHECK_STATUS(allocate(&base, 2 * PAGE_SIZE, MEM_RESERVE | MEM_COMMIT, PAGE_READONLY), STATUS_SUCCESS);
    PUCHAR bytes = base;
    CHECK_STATUS(read_status(bytes), STATUS_SUCCESS);
    CHECK_STATUS(write_status(bytes, 1), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(probe_status(bytes, 1), STATUS_ACCESS_VIOLATION);
    PMDL mdl = IoAllocateMdl(bytes, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoWriteAccess), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(lock_status(mdl, UserMode, IoReadAccess), STATUS_SUCCESS);
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_READWRITE, &old), STATUS_SUCCESS);
    CHECK_EQ(old, PAGE_READONLY);
    CHECK_STATUS(write_status(bytes, 7), STATUS_SUCCESS);
    CHECK_STATUS(write_status(bytes + PAGE_SIZE, 7), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_NOACCESS, &old), STATUS_SUCCESS);
    CHECK_STATUS(read_status(bytes), STATUS_ACCESS_VIOLATION);
    CHECK(!MmIsAddressValid(bytes));
    CHECK_STATUS(protect(bytes, 2 * PAGE_SIZE, PAGE_READWRITE, &old), STATUS_SUCCESS);
    CHECK_EQ(old, PAGE_NOACCESS);
    CHECK_EQ(((volatile UCHAR *)bytes)[0], 7);
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_WRITECOPY, &old), BAD_PROTECTION);
    /* A guard page tells of the first access, and lets the next one through. */
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_READWRITE | PAGE_GUARD, &old), STATUS_SUCCESS);
    CHECK(!MmIsAddressValid(bytes));
    CHECK_STATUS(read_status(bytes), GUARD_VIOLATION);
    CHECK_STATUS(read_status(bytes), STATUS_SUCCESS);
    CHECK_EQ(((volatile UCHAR *)bytes)[0], 7);
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_READWRITE, &old), STATUS_SUCCESS);
    CHECK_EQ(old, PAGE_READWRITE);
    /* Code. */
    static const UCHAR code[] = {0xB8, 0x2A, 0, 0, 0, 0xC3};
    RtlCopyMemory(bytes, code, sizeof code);
    CHECK_STATUS(protect(bytes, PAGE_SIZE, PAGE_EXECUTE_READ, &old), STATUS_SUCCESS);
    CHECK_EQ(((CODE)(ULONG_PTR)bytes)(), 42);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
}

KTEST(secured_memory)
{
    PVOID base = NULL;
    ULONG old = 0;
    CHECK_STATUS(allocate(&base, 2 * PAGE_SIZE, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    HANDLE secure = MmSecureVirtualMemory(base, PAGE_SIZE, PAGE_READWRITE);
    CHECK(secure != NULL);
    CHECK_STATUS(protect(base, PAGE_SIZE, PAGE_READONLY, &old), BAD_PROTECTION);
    CHECK(!NT_SUCCESS(release(base, 0, MEM_RELEASE)));
    CHECK_STATUS(protect((PUCHAR)base + PAGE_SIZE, PAGE_SIZE, PAGE_READONLY, &old), STATUS_SUCCESS);
    CHECK(MmSecureVirtualMemory(base, 2 * PAGE_SIZE, PAGE_READWRITE) == NULL);
    MmUnsecureVirtualMemory(secure);
    CHECK_STATUS(protect(base, PAGE_SIZE, PAGE_READONLY, &old), STATUS_SUCCESS);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
    CHECK(MmSecureVirtualMemory(base, PAGE_SIZE, PAGE_READWRITE) == NULL);
}

KTEST(freed_memory_stays_while_it_is_locked)
{
    PVOID base = NULL;
    CHECK_STATUS(allocate(&base, PAGE_SIZE, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    PMDL mdl = IoAllocateMdl(base, PAGE_SIZE, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoWriteAccess), STATUS_SUCCESS);
    PUCHAR mapped = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority);
    ULONGLONG page = physical_of(base);
    store(base, 0x71);
    CHECK_STATUS(release(base, 0, MEM_RELEASE), STATUS_SUCCESS);
    CHECK(!MmIsAddressValid(base));
    CHECK_EQ(mapped[0], 0x71);
    CHECK_EQ(physical_of(mapped), page);
    MmUnlockPages(mdl);
    CHECK(!MmIsAddressValid(mapped));
    IoFreeMdl(mdl);
}

KTEST_BUGCHECK(freed_memory_read, sizeof(PVOID) == 8 ? 0x3B : 0x8E)
{
    PVOID base = NULL;
    UCHAR value;
    allocate(&base, PAGE_SIZE, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    release(base, 0, MEM_RELEASE);
    load(base, &value);
}

/* ---- Views. ---- */

static NTSTATUS create(SIZE_T bytes, ULONG protection, ULONG attributes, PHANDLE section)
{
    OBJECT_ATTRIBUTES unnamed;
    LARGE_INTEGER size;
    size.QuadPart = (LONGLONG)bytes;
    InitializeObjectAttributes(&unnamed, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwCreateSection(section, SECTION_ALL, &unnamed, &size, protection, attributes, NULL);
}

static NTSTATUS map(HANDLE section, PVOID *base, LONGLONG offset, SIZE_T bytes, ULONG protection)
{
    LARGE_INTEGER at;
    at.QuadPart = offset;
    return ZwMapViewOfSection(section, CURRENT, base, 0, 0, &at, &bytes, ViewUnmapped, 0, protection);
}

KTEST(views_at_several_addresses)
{
    HANDLE section;
    PVOID first = NULL, second = FREE_ADDRESS, third = FREE_ADDRESS;
    CHECK_STATUS(create(2 * GRANULARITY, PAGE_READWRITE, SEC_COMMIT, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &first, 0, 0, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &second, GRANULARITY, PAGE_SIZE, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_PTR(second, FREE_ADDRESS);
    CHECK_STATUS(map(section, &third, 0, 0, PAGE_READWRITE), CONFLICTING);
    third = CLIENT_MEMORY;
    CHECK_STATUS(map(section, &third, 0, 0, PAGE_READWRITE), CONFLICTING);
    third = NULL;
    CHECK_STATUS(map(section, &third, 0, 0, PAGE_READONLY), STATUS_SUCCESS);
    CHECK(third != first);
    CHECK_STATUS(write_status((PUCHAR)first + GRANULARITY, 0x21), STATUS_SUCCESS);
    CHECK_EQ(*(volatile UCHAR *)second, 0x21);
    CHECK_EQ(((volatile UCHAR *)third)[GRANULARITY], 0x21);
    CHECK_STATUS(write_status(third, 1), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(probe_status(third, 1), STATUS_ACCESS_VIOLATION);
    CHECK_EQ(physical_of(second), physical_of((PUCHAR)first + GRANULARITY));
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, first), STATUS_SUCCESS);
    CHECK_STATUS(read_status(first), STATUS_ACCESS_VIOLATION);
    CHECK(!MmIsAddressValid(first));
    CHECK_STATUS(write_status(second, 0x22), STATUS_SUCCESS);
    CHECK_EQ(((volatile UCHAR *)third)[GRANULARITY], 0x22);
    CHECK_STATUS(read_status((PUCHAR)second + PAGE_SIZE), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, second), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, third), STATUS_SUCCESS);
    ZwClose(section);
}

KTEST(views_are_protected)
{
    HANDLE section;
    PVOID base = NULL, other = NULL;
    ULONG old = 0;
    CHECK_STATUS(create(PAGE_SIZE, PAGE_READWRITE, SEC_COMMIT, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, 0, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &other, 0, 0, PAGE_READONLY), STATUS_SUCCESS);
    CHECK_STATUS(protect(base, PAGE_SIZE, PAGE_READONLY, &old), STATUS_SUCCESS);
    CHECK_EQ(old, PAGE_READWRITE);
    CHECK_STATUS(write_status(base, 1), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(protect(base, PAGE_SIZE, PAGE_READWRITE, &old), STATUS_SUCCESS);
    CHECK_STATUS(write_status(base, 1), STATUS_SUCCESS);
    CHECK_STATUS(protect(other, PAGE_SIZE, PAGE_READWRITE, &old), BAD_SECTION_PROTECTION);
    CHECK_STATUS(protect(base, PAGE_SIZE, PAGE_EXECUTE_READ, &old), BAD_SECTION_PROTECTION);
    CHECK_STATUS(protect(other, PAGE_SIZE, PAGE_WRITECOPY, &old), STATUS_SUCCESS);
    CHECK_STATUS(write_status(other, 9), STATUS_SUCCESS);
    CHECK_EQ(*(volatile UCHAR *)base, 1);
    CHECK_EQ(*(volatile UCHAR *)other, 9);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, other), STATUS_SUCCESS);
    ZwClose(section);
}

KTEST(pages_are_copied_when_they_are_written_to)
{
    HANDLE section;
    PVOID base = NULL, copy = NULL;
    CHECK_STATUS(create(2 * PAGE_SIZE, PAGE_READWRITE, SEC_COMMIT, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, 0, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &copy, 0, 0, PAGE_WRITECOPY), STATUS_SUCCESS);
    /* Until then the page is the section's. */
    store(base, 1);
    CHECK_EQ(*(volatile UCHAR *)copy, 1);
    CHECK_EQ(physical_of(copy), physical_of(base));
    store((PUCHAR)copy + 1, 2);
    CHECK_EQ(*(volatile UCHAR *)copy, 1);
    CHECK_EQ(((volatile UCHAR *)base)[1], 0);
    CHECK(physical_of(copy) != physical_of(base));
    store(base, 3);
    CHECK_EQ(*(volatile UCHAR *)copy, 1);
    CHECK_EQ(physical_of((PUCHAR)copy + PAGE_SIZE), physical_of((PUCHAR)base + PAGE_SIZE));
    /* So do probes for writing. */
    CHECK_STATUS(probe_status((PUCHAR)copy + PAGE_SIZE, 1), STATUS_SUCCESS);
    PMDL mdl = IoAllocateMdl((PUCHAR)copy + PAGE_SIZE, 1, FALSE, FALSE, NULL);
    CHECK_STATUS(lock_status(mdl, UserMode, IoWriteAccess), STATUS_SUCCESS);
    *(PUCHAR)MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority) = 5;
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
    CHECK_EQ(((volatile UCHAR *)copy)[PAGE_SIZE], 5);
    CHECK_EQ(((volatile UCHAR *)base)[PAGE_SIZE], 0);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    ZwClose(section);
}

KTEST(reserved_views_are_absent)
{
    HANDLE section;
    PVOID base = NULL, other = NULL, part;
    CHECK_STATUS(create(4 * PAGE_SIZE, PAGE_READWRITE, SEC_RESERVE, &section), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &base, 0, 0, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(map(section, &other, 0, 0, PAGE_READONLY), STATUS_SUCCESS);
    part = (PUCHAR)base + PAGE_SIZE;
    CHECK_STATUS(read_status(part), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(allocate(&part, 1, MEM_COMMIT, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(write_status(part, 4), STATUS_SUCCESS);
    CHECK_EQ(((volatile UCHAR *)other)[PAGE_SIZE], 4);
    CHECK_STATUS(write_status((PUCHAR)other + PAGE_SIZE, 1), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(read_status((PUCHAR)base + 2 * PAGE_SIZE), STATUS_ACCESS_VIOLATION);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, other), STATUS_SUCCESS);
    CHECK_STATUS(ZwUnmapViewOfSection(CURRENT, base), STATUS_SUCCESS);
    ZwClose(section);
}

KTEST(views_in_system_space)
{
    PVOID section = NULL, first = NULL, second = NULL;
    SIZE_T bytes = 0, more = 0;
    LARGE_INTEGER size = {{2 * PAGE_SIZE, 0}};
    CHECK_STATUS(MmCreateSection(&section, SECTION_ALL, NULL, &size, PAGE_READWRITE, SEC_COMMIT, NULL, NULL), STATUS_SUCCESS);
    CHECK_STATUS(MmMapViewInSystemSpace(section, &first, &bytes), STATUS_SUCCESS);
    CHECK_STATUS(MmMapViewInSystemSpace(section, &second, &more), STATUS_SUCCESS);
    CHECK(first != second);
    store(first, 8);
    CHECK_EQ(*(volatile UCHAR *)second, 8);
    CHECK_STATUS(MmUnmapViewInSystemSpace(first), STATUS_SUCCESS);
    CHECK(!MmIsAddressValid(first));
    CHECK_EQ(*(volatile UCHAR *)second, 8);
    CHECK_STATUS(MmUnmapViewInSystemSpace(second), STATUS_SUCCESS);
    ObDereferenceObject(section);
}

KTEST_BUGCHECK(read_only_view_in_system_space_written, 0xBE)
{
    PVOID section = NULL, base = NULL;
    SIZE_T bytes = 0;
    LARGE_INTEGER size = {{PAGE_SIZE, 0}};
    MmCreateSection(&section, SECTION_ALL, NULL, &size, PAGE_READONLY, SEC_COMMIT, NULL, NULL);
    MmMapViewInSystemSpace(section, &base, &bytes);
    store(base, 1);
}

KTEST_FAMILY("address_space", KTEST_ENTRY(pool_for_user_mode), KTEST_ENTRY(allocated_pages_for_user_mode),
             KTEST_ENTRY(contiguous_memory_for_user_mode), KTEST_ENTRY(client_memory_for_user_mode),
             KTEST_ENTRY(user_mode_at_a_chosen_address), KTEST_BUGCHECK_ENTRY(user_mapping_unmapped_twice),
             KTEST_ENTRY(system_addresses_are_their_own), KTEST_ENTRY(read_only_code_is_written_through_an_mdl),
             KTEST_ENTRY(client_memory_is_protected_in_system_space),
             KTEST_BUGCHECK_ENTRY(read_only_system_address_written), KTEST_BUGCHECK_ENTRY(read_only_alias_written),
             KTEST_BUGCHECK_ENTRY(inaccessible_system_address_read), KTEST_ENTRY(mapping_addresses_are_used),
             KTEST_ENTRY(only_committed_memory_is_there), KTEST_ENTRY(memory_at_a_chosen_address),
             KTEST_ENTRY(protections_hold), KTEST_ENTRY(secured_memory),
             KTEST_ENTRY(freed_memory_stays_while_it_is_locked), KTEST_BUGCHECK_ENTRY(freed_memory_read),
             KTEST_ENTRY(views_at_several_addresses), KTEST_ENTRY(views_are_protected),
             KTEST_ENTRY(pages_are_copied_when_they_are_written_to), KTEST_ENTRY(reserved_views_are_absent),
             KTEST_ENTRY(views_in_system_space), KTEST_BUGCHECK_ENTRY(read_only_view_in_system_space_written));
