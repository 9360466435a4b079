/* The memory manager: contiguous memory, MDLs, address checks, probing, careful copies, and what ends in a bugcheck.
 * The machine verifies drivers. */
#include "ktest.h"

#define TAG ((ULONG)0x6D6D654B)
#define ALL_ADDRESSES (~0ULL >> 1)

static PHYSICAL_ADDRESS physical(ULONGLONG value)
{
    PHYSICAL_ADDRESS address;
    address.QuadPart = (LONGLONG)value;
    return address;
}

static int is_filled(const UCHAR *bytes, SIZE_T count, UCHAR value)
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

static ULONGLONG physical_of(const volatile void *address)
{
    return (ULONGLONG)MmGetPhysicalAddress((PVOID)address).QuadPart;
}

/* ---- Contiguous and non-cached memory. ---- */

static int is_contiguous(PUCHAR base, SIZE_T bytes)
{
    for (SIZE_T at = 0; at < bytes; at += PAGE_SIZE) {
        if (physical_of(base + at) != physical_of(base) + at) {
            return 0;
        }
    }
    return 1;
}

KTEST(contiguous_memory)
{
    static const SIZE_T sizes[] = {1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 0x10000};
    for (ULONG i = 0; i < RTL_NUMBER_OF(sizes); i++) {
        PUCHAR base = MmAllocateContiguousMemory(sizes[i], physical(ALL_ADDRESSES));
        if (!CHECK(base != NULL)) {
            continue;
        }
        CHECK_EQ((ULONG_PTR)base % PAGE_SIZE, 0);
        CHECK_EQ(physical_of(base) % PAGE_SIZE, 0);
        CHECK(is_contiguous(base, sizes[i]));
        CHECK(base >= (PUCHAR)MmSystemRangeStart);
        fill(base, sizes[i], 0x77);
        CHECK(is_filled(base, sizes[i], 0x77));
        MmFreeContiguousMemory(base);
    }
}

KTEST(contiguous_memory_keeps_its_limit)
{
    PUCHAR probe = MmAllocateContiguousMemory(PAGE_SIZE, physical(ALL_ADDRESSES));
    ULONGLONG somewhere = physical_of(probe);
    MmFreeContiguousMemory(probe);
    PUCHAR base = MmAllocateContiguousMemory(PAGE_SIZE, physical(somewhere - 1));
    CHECK(base != NULL);
    CHECK(physical_of(base) + PAGE_SIZE <= somewhere);
    MmFreeContiguousMemory(base);
    CHECK(MmAllocateContiguousMemory(PAGE_SIZE, physical(0)) == NULL);
    CHECK(MmAllocateContiguousMemory(PAGE_SIZE, physical(PAGE_SIZE - 2)) == NULL);
    /* No RAM lies below 16 MiB, where the legacy devices are. */
    CHECK(MmAllocateContiguousMemory(PAGE_SIZE, physical(0xFFFFFF)) == NULL);
    CHECK(MmAllocateContiguousMemory(0x70000000, physical(ALL_ADDRESSES)) == NULL);
    CHECK(MmAllocateContiguousMemory(0, physical(ALL_ADDRESSES)) == NULL);
}

KTEST(contiguous_memory_keeps_its_range_and_boundary)
{
    for (ULONG i = 0; i < 4; i++) {
        PUCHAR base = MmAllocateContiguousMemorySpecifyCache(3 * PAGE_SIZE, physical(0), physical(ALL_ADDRESSES),
                                                             physical(0x4000), MmCached);
        CHECK(base != NULL);
        CHECK_EQ(physical_of(base) / 0x4000, (physical_of(base) + 3 * PAGE_SIZE - 1) / 0x4000);
        MmFreeContiguousMemorySpecifyCache(base, 3 * PAGE_SIZE, MmCached);
    }
    CHECK(MmAllocateContiguousMemorySpecifyCache(3 * PAGE_SIZE, physical(0), physical(ALL_ADDRESSES),
                                                 physical(0x2000), MmCached) == NULL);
    CHECK(MmAllocateContiguousMemorySpecifyCache(PAGE_SIZE, physical(1ULL << 40), physical(ALL_ADDRESSES), physical(0),
                                                 MmCached) == NULL);
    CHECK(MmAllocateContiguousMemorySpecifyCache(PAGE_SIZE, physical(0), physical(ALL_ADDRESSES), physical(0),
                                                 (MEMORY_CACHING_TYPE)6) == NULL);
    PUCHAR low = MmAllocateContiguousMemory(PAGE_SIZE, physical(ALL_ADDRESSES));
    ULONGLONG start = physical_of(low) - 0x10000;
    PUCHAR base = MmAllocateContiguousMemorySpecifyCache(PAGE_SIZE, physical(start), physical(start + 0xFFFF),
                                                         physical(0), MmNonCached);
    CHECK(base != NULL);
    CHECK(physical_of(base) >= start);
    CHECK(physical_of(base) <= start + 0xF000);
    MmFreeContiguousMemorySpecifyCache(base, PAGE_SIZE, MmNonCached);
    MmFreeContiguousMemory(low);
}

KTEST(caching_types)
{
    static const ULONG types[] = {MmNonCached, MmCached, MmWriteCombined};
    for (ULONG i = 0; i < RTL_NUMBER_OF(types); i++) {
        PUCHAR base = MmAllocateContiguousMemorySpecifyCache(PAGE_SIZE, physical(0), physical(ALL_ADDRESSES),
                                                             physical(0), (MEMORY_CACHING_TYPE)types[i]);
        CHECK(base != NULL);
        MmFreeContiguousMemorySpecifyCache(base, PAGE_SIZE, (MEMORY_CACHING_TYPE)types[i]);
    }
}

KTEST(noncached_memory)
{
    PUCHAR base = MmAllocateNonCachedMemory(100);
    CHECK(base != NULL);
    CHECK_EQ((ULONG_PTR)base % PAGE_SIZE, 0);
    fill(base, PAGE_SIZE, 1);
    MmFreeNonCachedMemory(base, 100);
    base = MmAllocateNonCachedMemory(3 * PAGE_SIZE);
    CHECK(base != NULL);
    MmFreeNonCachedMemory(base, 3 * PAGE_SIZE);
    CHECK(MmAllocateNonCachedMemory(0x70000000) == NULL);
}

KTEST(physical_addresses_lead_back)
{
    PUCHAR base = MmAllocateContiguousMemory(2 * PAGE_SIZE, physical(ALL_ADDRESSES));
    CHECK_PTR(MmGetVirtualForPhysical(MmGetPhysicalAddress(base)), base);
    CHECK_PTR(MmGetVirtualForPhysical(MmGetPhysicalAddress(base + PAGE_SIZE + 5)), base + PAGE_SIZE + 5);
    CHECK_EQ(physical_of(base + 5), physical_of(base) + 5);
    CHECK(physical_of((PVOID)(ULONG_PTR)ktest_driver->DriverStart) != 0);
    MmFreeContiguousMemory(base);
    CHECK_EQ(physical_of((PVOID)16), 0);
}

/* ---- Addresses. ---- */

KTEST(address_validity)
{
    ULONG local = 0;
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 100, TAG);
    CHECK(MmIsAddressValid(&local));
    CHECK(MmIsAddressValid(block));
    CHECK(MmIsAddressValid(ktest_driver));
    CHECK(MmIsAddressValid(ktest_driver->DriverStart));
    CHECK(!MmIsAddressValid(NULL));
    CHECK(!MmIsAddressValid((PVOID)0xFFF));
    CHECK(!MmIsAddressValid((PUCHAR)ktest_driver->DriverStart - 1));
    CHECK(MmIsNonPagedSystemAddressValid(block));
    CHECK(!MmIsNonPagedSystemAddressValid(NULL));
    /* The page behind a block of the special pool is absent. */
    CHECK(!MmIsAddressValid((PVOID)(((ULONG_PTR)block | (PAGE_SIZE - 1)) + 1)));
    ExFreePoolWithTag(block, TAG);
    CHECK(!MmIsAddressValid(block));
    PUCHAR paged = ExAllocatePoolWithTag(PagedPool, 100, TAG);
    CHECK(MmIsAddressValid(paged));
    CHECK(!MmIsNonPagedSystemAddressValid(paged));
    ExFreePoolWithTag(paged, TAG);
}

KTEST(address_space)
{
    CHECK((ULONG_PTR)MmHighestUserAddress < (ULONG_PTR)MmSystemRangeStart);
    CHECK_EQ((ULONG_PTR)MmHighestUserAddress, 0x7FFEFFFF);
    CHECK_EQ((ULONG_PTR)MmUserProbeAddress, 0x7FFF0000);
    CHECK((ULONG_PTR)ktest_driver >= (ULONG_PTR)MmSystemRangeStart);
    CHECK((ULONG_PTR)ktest_driver->DriverStart >= (ULONG_PTR)MmSystemRangeStart);
    CHECK(MmQuerySystemSize() <= MmLargeSystem);
    CHECK_EQ(MmIsThisAnNtAsSystem(), FALSE);
    CHECK_EQ(MmIsDriverVerifying(ktest_driver), TRUE);
    CHECK_EQ(MmIsDriverVerifying((PDRIVER_OBJECT)ktest_driver->DriverExtension), FALSE);
    CHECK_EQ(MmIsDriverVerifyingByAddress((PVOID)(ULONG_PTR)is_contiguous), TRUE);
    CHECK_EQ(MmIsDriverVerifyingByAddress(NULL), FALSE);
}

/* A range that probing accepts without touching it. */
#define USER_ADDRESS ((PVOID)0x01000000)

KTEST(probing)
{
    ProbeForRead(USER_ADDRESS, 16, 1);
    ProbeForRead(USER_ADDRESS, 16, 8);
    ProbeForWrite(USER_ADDRESS, 16, 4);
    ProbeForWrite(USER_ADDRESS, 2 * PAGE_SIZE, 1);
    ProbeForRead((PVOID)((ULONG_PTR)MmUserProbeAddress - 4), 4, 4);
    /* No bytes: whatever the address. */
    ProbeForRead((PVOID)ktest_driver, 0, 1);
    ProbeForWrite((PVOID)3, 0, 4);
    ProbeForRead((PVOID)~(ULONG_PTR)0, 0, 1);
    CHECK(TRUE);
}

/* MM_COPY_ADDRESS by value is 8 bytes. */
NTSTATUS NTAPI MmCopyMemory(PVOID target, ULONGLONG source, SIZE_T bytes, ULONG flags, PSIZE_T transferred);

KTEST(careful_copies)
{
    UCHAR target[64];
    SIZE_T done = 99;
    PUCHAR source = MmAllocateContiguousMemory(PAGE_SIZE, physical(ALL_ADDRESSES));
    fill(source, PAGE_SIZE, 0x42);
    fill(target, sizeof(target), 0);
    CHECK_STATUS(MmCopyMemory(target, (ULONG_PTR)source, 32, 2, &done), STATUS_SUCCESS);
    CHECK_EQ(done, 32);
    CHECK(is_filled(target, 32, 0x42));
    CHECK(is_filled(target + 32, 32, 0));
    CHECK_STATUS(MmCopyMemory(target, physical_of(source), 64, 1, &done), STATUS_SUCCESS);
    CHECK_EQ(done, 64);
    CHECK(is_filled(target, 64, 0x42));
    CHECK_STATUS(MmCopyMemory(target, (ULONG_PTR)source, 0, 2, &done), STATUS_SUCCESS);
    CHECK_EQ(done, 0);
    CHECK(!NT_SUCCESS(MmCopyMemory(target, 0, 8, 2, &done)));
    CHECK_EQ(done, 0);
    CHECK(!NT_SUCCESS(MmCopyMemory(target, 1ULL << 45, 8, 1, &done)));
    CHECK_EQ(done, 0);
    CHECK_STATUS(MmCopyMemory(target, (ULONG_PTR)source, 8, 0, &done), 0xC00000F2);
    CHECK_STATUS(MmCopyMemory(target, (ULONG_PTR)source, 8, 3, &done), 0xC00000F2);
    MmFreeContiguousMemory(source);
    /* Up to the absent page behind a block. */
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 32, TAG);
    CHECK(!NT_SUCCESS(MmCopyMemory(target, (ULONG_PTR)block, 64, 2, &done)));
    CHECK_EQ(done, 32);
    ExFreePoolWithTag(block, TAG);
}

/* ---- MDLs. ---- */

KTEST(mdl_sizes)
{
    CHECK_EQ(MmSizeOfMdl(NULL, 0), sizeof(MDL));
    CHECK_EQ(MmSizeOfMdl(NULL, 1), sizeof(MDL) + sizeof(PFN_NUMBER));
    CHECK_EQ(MmSizeOfMdl(NULL, PAGE_SIZE), sizeof(MDL) + sizeof(PFN_NUMBER));
    CHECK_EQ(MmSizeOfMdl(NULL, PAGE_SIZE + 1), sizeof(MDL) + 2 * sizeof(PFN_NUMBER));
    CHECK_EQ(MmSizeOfMdl((PVOID)0xFFF, 2), sizeof(MDL) + 2 * sizeof(PFN_NUMBER));
    CHECK_EQ(MmSizeOfMdl((PVOID)0xFFF, 1), sizeof(MDL) + sizeof(PFN_NUMBER));
    CHECK_EQ(MmSizeOfMdl((PVOID)0x800, PAGE_SIZE), sizeof(MDL) + 2 * sizeof(PFN_NUMBER));
}

KTEST(mdl_created)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 3 * PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block + 0x123, 0x1000);
    CHECK(mdl != NULL);
    CHECK_PTR(mdl->Next, NULL);
    CHECK_PTR(MmGetMdlVirtualAddress(mdl), block + 0x123);
    CHECK_EQ(MmGetMdlByteCount(mdl), 0x1000);
    CHECK_EQ(MmGetMdlByteOffset(mdl), 0x123);
    CHECK_EQ(mdl->Size, sizeof(MDL) + 2 * sizeof(PFN_NUMBER));
    CHECK_EQ(mdl->MdlFlags & (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA), 0);
    MmBuildMdlForNonPagedPool(mdl);
    CHECK_EQ(mdl->MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL, MDL_SOURCE_IS_NONPAGED_POOL);
    CHECK_EQ(mdl->MdlFlags & MDL_PAGES_LOCKED, 0);
    CHECK_PTR(mdl->MappedSystemVa, block + 0x123);
    CHECK_PTR(MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), block + 0x123);
    CHECK_EQ((ULONGLONG)MmGetMdlPfnArray(mdl)[0] * PAGE_SIZE, physical_of(block));
    CHECK_EQ((ULONGLONG)MmGetMdlPfnArray(mdl)[1] * PAGE_SIZE, physical_of(block + PAGE_SIZE));
    ExFreePool(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(mdl_of_the_special_pool)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 100, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, 100);
    MmBuildMdlForNonPagedPool(mdl);
    CHECK_EQ((ULONGLONG)MmGetMdlPfnArray(mdl)[0] * PAGE_SIZE + ((ULONG_PTR)block & (PAGE_SIZE - 1)),
             physical_of(block));
    CHECK_PTR(MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), block);
    ExFreePool(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(mdl_locked)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, 2 * PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block + 16, PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoWriteAccess);
    CHECK_EQ(mdl->MdlFlags & MDL_PAGES_LOCKED, MDL_PAGES_LOCKED);
    CHECK_EQ(mdl->MdlFlags & MDL_WRITE_OPERATION, MDL_WRITE_OPERATION);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK(mapped != NULL);
    CHECK_EQ(mdl->MdlFlags & MDL_MAPPED_TO_SYSTEM_VA, MDL_MAPPED_TO_SYSTEM_VA);
    CHECK_PTR(MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), mapped);
    fill(mapped, PAGE_SIZE, 0x66);
    CHECK(is_filled(block + 16, PAGE_SIZE, 0x66));
    MmUnmapLockedPages(mapped, mdl);
    CHECK_EQ(mdl->MdlFlags & MDL_MAPPED_TO_SYSTEM_VA, 0);
    CHECK_EQ(mdl->MdlFlags & MDL_PAGES_LOCKED, MDL_PAGES_LOCKED);
    MmUnlockPages(mdl);
    CHECK_EQ(mdl->MdlFlags & MDL_PAGES_LOCKED, 0);
    MmProbeAndLockPages(mdl, KernelMode, IoReadAccess);
    CHECK_EQ(mdl->MdlFlags & MDL_WRITE_OPERATION, 0);
    MmUnlockPages(mdl);
    ExFreePool(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(mdl_of_client_memory)
{
    PMDL mdl = MmCreateMdl(NULL, (PUCHAR)USER_ADDRESS + 0x800, PAGE_SIZE);
    MmProbeAndLockPages(mdl, UserMode, IoModifyAccess);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK(mapped >= (PUCHAR)MmSystemRangeStart);
    UCHAR before = mapped[0];
    mapped[0] = (UCHAR)(before + 1);
    CHECK_EQ(*((volatile UCHAR *)USER_ADDRESS + 0x800), (UCHAR)(before + 1));
    mapped[0] = before;
    MmUnmapLockedPages(mapped, mdl);
    mapped = MmMapLockedPagesSpecifyCache(mdl, UserMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK(mapped != (PUCHAR)USER_ADDRESS + 0x800 && mapped < (PUCHAR)MmHighestUserAddress);
    CHECK_EQ(physical_of(mapped), physical_of((PUCHAR)USER_ADDRESS + 0x800));
    MmUnmapLockedPages(mapped, mdl);
    CHECK(!MmIsAddressValid(mapped));
    MmUnlockPages(mdl);
    ExFreePool(mdl);
}


KTEST(mdl_advanced)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 3 * PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block + 0x10, 2 * PAGE_SIZE);
    MmBuildMdlForNonPagedPool(mdl);
    PFN_NUMBER second = MmGetMdlPfnArray(mdl)[1];
    CHECK_STATUS(MmAdvanceMdl(mdl, 0x20), STATUS_SUCCESS);
    CHECK_PTR(MmGetMdlVirtualAddress(mdl), block + 0x30);
    CHECK_EQ(MmGetMdlByteCount(mdl), 2 * PAGE_SIZE - 0x20);
    CHECK_PTR(MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority), block + 0x30);
    CHECK_STATUS(MmAdvanceMdl(mdl, PAGE_SIZE), STATUS_SUCCESS);
    CHECK_EQ(MmGetMdlPfnArray(mdl)[0], second);
    CHECK_EQ(MmGetMdlByteOffset(mdl), 0x30);
    CHECK_EQ(MmGetMdlByteCount(mdl), PAGE_SIZE - 0x20);
    CHECK(!NT_SUCCESS(MmAdvanceMdl(mdl, 2 * PAGE_SIZE)));
    CHECK_EQ(MmGetMdlByteCount(mdl), PAGE_SIZE - 0x20);
    ExFreePool(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(mdl_protection)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoReadAccess);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READONLY), 0xC0000019 /* STATUS_NOT_MAPPED_VIEW */);
    PVOID mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READWRITE), STATUS_SUCCESS);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, 0), 0xC0000045 /* STATUS_INVALID_PAGE_PROTECTION */);
    CHECK_STATUS(MmProtectMdlSystemAddress(mdl, PAGE_READONLY | PAGE_READWRITE), 0xC0000045);
    MmUnmapLockedPages(mapped, mdl);
    MmUnlockPages(mdl);
    ExFreePool(mdl);
    ExFreePoolWithTag(block, TAG);
}

KTEST(pages_for_an_mdl)
{
    PMDL mdl = MmAllocatePagesForMdl(physical(0), physical(ALL_ADDRESSES), physical(0), 3 * PAGE_SIZE + 1);
    CHECK(mdl != NULL);
    CHECK_EQ(MmGetMdlByteCount(mdl), 4 * PAGE_SIZE);
    CHECK_EQ(MmGetMdlByteOffset(mdl), 0);
    CHECK_EQ(mdl->MdlFlags & MDL_PAGES_LOCKED, MDL_PAGES_LOCKED);
    PUCHAR mapped = MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    CHECK(mapped != NULL);
    CHECK(is_filled(mapped, 4 * PAGE_SIZE, 0));
    CHECK_EQ((ULONGLONG)MmGetMdlPfnArray(mdl)[3] * PAGE_SIZE, physical_of(mapped + 3 * PAGE_SIZE));
    fill(mapped, 4 * PAGE_SIZE, 9);
    MmUnmapLockedPages(mapped, mdl);
    MmFreePagesFromMdl(mdl);
    ExFreePool(mdl);
    CHECK(MmAllocatePagesForMdl(physical(0), physical(0xFFFFFF), physical(0), PAGE_SIZE) == NULL);
    mdl = MmAllocatePagesForMdlEx(physical(0), physical(ALL_ADDRESSES), physical(0), 0x1000000, MmCached,
                                  4 /* MM_ALLOCATE_FULLY_REQUIRED */);
    CHECK(mdl == NULL);
    mdl = MmAllocatePagesForMdlEx(physical(0), physical(ALL_ADDRESSES), physical(0), PAGE_SIZE, MmNonCached, 0);
    CHECK(mdl != NULL);
    CHECK_EQ(MmGetMdlByteCount(mdl), PAGE_SIZE);
    MmFreePagesFromMdl(mdl);
    ExFreePool(mdl);
}

KTEST(reserved_mappings)
{
    PVOID address = MmAllocateMappingAddress(2 * PAGE_SIZE, TAG);
    CHECK(address != NULL);
    CHECK_EQ((ULONG_PTR)address % PAGE_SIZE, 0);
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, 3 * PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoWriteAccess);
    PUCHAR mapped = MmMapLockedPagesWithReservedMapping(address, TAG, mdl, MmCached);
    CHECK(mapped != NULL);
    mapped[5] = 0x33;
    CHECK_EQ(block[5], 0x33);
    MmUnmapReservedMapping(address, TAG, mdl);
    MmUnlockPages(mdl);
    ExFreePool(mdl);
    /* More pages than were set aside. */
    mdl = MmCreateMdl(NULL, block, 3 * PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoWriteAccess);
    CHECK(MmMapLockedPagesWithReservedMapping(address, TAG, mdl, MmCached) == NULL);
    MmUnlockPages(mdl);
    ExFreePool(mdl);
    MmFreeMappingAddress(address, TAG);
    ExFreePoolWithTag(block, TAG);
}

KTEST(paging_of_drivers)
{
    PVOID handle = MmLockPagableDataSection((PVOID)(ULONG_PTR)is_contiguous);
    CHECK(handle != NULL);
    CHECK_PTR(MmLockPagableDataSection((PVOID)(ULONG_PTR)fill), handle);
    MmLockPagableSectionByHandle(handle);
    MmUnlockPagableImageSection(handle);
    MmUnlockPagableImageSection(handle);
    MmUnlockPagableImageSection(handle);
    CHECK(MmPageEntireDriver((PVOID)(ULONG_PTR)is_contiguous) != NULL);
    MmResetDriverPaging((PVOID)(ULONG_PTR)is_contiguous);
    CHECK(MmIsAddressValid((PVOID)(ULONG_PTR)is_contiguous));
}

KTEST(routine_addresses)
{
    UNICODE_STRING name = RTL_CONSTANT_STRING(L"MmGetPhysicalAddress");
    UNICODE_STRING absent = RTL_CONSTANT_STRING(L"MmNoSuchRoutine");
    UNICODE_STRING folded = RTL_CONSTANT_STRING(L"mmgetphysicaladdress");
    PHYSICAL_ADDRESS(NTAPI * routine)(PVOID) = (PVOID)MmGetSystemRoutineAddress(&name);
    CHECK(routine != NULL);
    CHECK_EQ(routine(ktest_driver).QuadPart, MmGetPhysicalAddress(ktest_driver).QuadPart);
    CHECK(MmGetSystemRoutineAddress(&absent) == NULL);
    CHECK(MmGetSystemRoutineAddress(&folded) == NULL);
}

/* ---- What must end in a bugcheck. ---- */

/* The family's policy has no rules for ports: what is read is ones, and there is no PCI bus. */
KTEST(bus_data)
{
    UCHAR bytes[4] = {1, 2, 3, 4};
    CHECK_EQ(HalGetBusDataByOffset(PCIConfiguration, 0, 0, bytes, 0, 4), 0);
    CHECK_EQ(HalGetBusDataByOffset(PCIConfiguration, 300, 0, bytes, 0, 4), 0);
    CHECK_EQ(HalSetBusDataByOffset(PCIConfiguration, 0, 0, bytes, 0, 4), 0);
    CHECK_EQ(HalGetBusDataByOffset(EisaConfiguration, 0, 0, bytes, 0, 4), 0);
    CHECK_EQ(HalGetBusDataByOffset(Cmos, 1, 0, bytes, 0, 4), 0);
    CHECK_EQ(HalGetBusDataByOffset(Cmos, 0, 128, bytes, 0, 4), 0);
    CHECK_EQ(bytes[0], 1);
    CHECK_EQ(HalGetBusDataByOffset(Cmos, 0, 125, bytes, 0, 4), 3);
    CHECK_EQ(bytes[2], 0xFF);
    CHECK_EQ(bytes[3], 4);
    CHECK_EQ(HalSetBusDataByOffset(Cmos, 0, 16, bytes, 0, 2), 2);
}

KTEST_BUGCHECK(contiguous_memory_freed_twice, 0x1A)
{
    PVOID base = MmAllocateContiguousMemory(PAGE_SIZE, physical(ALL_ADDRESSES));
    MmFreeContiguousMemory(base);
    MmFreeContiguousMemory(base);
}

KTEST_BUGCHECK(pool_freed_as_contiguous, 0x1A)
{
    MmFreeContiguousMemory(ExAllocatePoolWithTag(NonPagedPool, PAGE_SIZE, TAG));
}

KTEST_BUGCHECK(noncached_memory_freed_in_part, 0x1A)
{
    MmFreeNonCachedMemory(MmAllocateNonCachedMemory(2 * PAGE_SIZE), PAGE_SIZE);
}

KTEST_BUGCHECK(unlocked_twice, 0xC4)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoReadAccess);
    MmUnlockPages(mdl);
    MmUnlockPages(mdl);
}

KTEST_BUGCHECK(nonpaged_pool_unlocked, 0xC4)
{
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmBuildMdlForNonPagedPool(mdl);
    MmUnlockPages(mdl);
}

KTEST_BUGCHECK(mapped_without_lock, 0xC4)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
}

KTEST_BUGCHECK(unmapped_elsewhere, 0xDA)
{
    PUCHAR block = ExAllocatePoolWithTag(PagedPool, PAGE_SIZE, TAG);
    PMDL mdl = MmCreateMdl(NULL, block, PAGE_SIZE);
    MmProbeAndLockPages(mdl, KernelMode, IoReadAccess);
    MmMapLockedPagesSpecifyCache(mdl, KernelMode, MmCached, NULL, FALSE, NormalPagePriority);
    MmUnmapLockedPages(block + PAGE_SIZE, mdl);
}

KTEST_BUGCHECK(mapping_address_of_another_tag, 0xDA)
{
    MmFreeMappingAddress(MmAllocateMappingAddress(PAGE_SIZE, TAG), TAG + 1);
}

KTEST_BUGCHECK(unlocked_section_of_nobody, 0x1A)
{
    MmUnlockPagableImageSection((PVOID)0x1234);
}

KTEST_BUGCHECK(noncached_memory_at_dispatch, 0x0A)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    MmAllocateNonCachedMemory(PAGE_SIZE);
}

KTEST_FAMILY("memory", KTEST_ENTRY(contiguous_memory), KTEST_ENTRY(contiguous_memory_keeps_its_limit),
             KTEST_ENTRY(contiguous_memory_keeps_its_range_and_boundary), KTEST_ENTRY(caching_types),
             KTEST_ENTRY(noncached_memory), KTEST_ENTRY(physical_addresses_lead_back), KTEST_ENTRY(address_validity),
             KTEST_ENTRY(address_space), KTEST_ENTRY(probing), KTEST_ENTRY(careful_copies), KTEST_ENTRY(mdl_sizes),
             KTEST_ENTRY(mdl_created), KTEST_ENTRY(mdl_of_the_special_pool), KTEST_ENTRY(mdl_locked),
             KTEST_ENTRY(mdl_of_client_memory), KTEST_ENTRY(mdl_advanced), KTEST_ENTRY(mdl_protection),
             KTEST_ENTRY(pages_for_an_mdl), KTEST_ENTRY(reserved_mappings), KTEST_ENTRY(paging_of_drivers),
             KTEST_ENTRY(routine_addresses), KTEST_ENTRY(bus_data), KTEST_BUGCHECK_ENTRY(contiguous_memory_freed_twice),
             KTEST_BUGCHECK_ENTRY(pool_freed_as_contiguous), KTEST_BUGCHECK_ENTRY(noncached_memory_freed_in_part),
             KTEST_BUGCHECK_ENTRY(unlocked_twice), KTEST_BUGCHECK_ENTRY(nonpaged_pool_unlocked),
             KTEST_BUGCHECK_ENTRY(mapped_without_lock), KTEST_BUGCHECK_ENTRY(unmapped_elsewhere),
             KTEST_BUGCHECK_ENTRY(mapping_address_of_another_tag), KTEST_BUGCHECK_ENTRY(unlocked_section_of_nobody),
             KTEST_BUGCHECK_ENTRY(noncached_memory_at_dispatch));
