/* Pool: allocation types, alignment, contents, freeing, lookaside lists, and what ends in a bugcheck. The machine
 * verifies drivers, so the codes are those of Driver Verifier's special pool.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define TAG ((ULONG)0x7473654B) /* 'Kest' in memory order */
#define OTHER_TAG ((ULONG)0x7268744F)

#define NPNX 512
#define CACHE_ALIGNED 4
#define QUOTA_FAIL 8
#define ZERO 1024
#define FLAG_QUOTA 0x1ULL
#define FLAG_UNINITIALIZED 0x2ULL
#define FLAG_CACHE_ALIGNED 0x8ULL
#define FLAG_NON_PAGED 0x40ULL
#define FLAG_NON_PAGED_EXECUTE 0x80ULL
#define FLAG_PAGED 0x100ULL

#ifdef __x86_64__
#define ALIGNMENT 16
#else
#define ALIGNMENT 8
#endif
#define HUGE_BYTES ((SIZE_T)0x70000000)

PVOID NTAPI ExAllocatePool2(ULONGLONG flags, SIZE_T bytes, ULONG tag);
struct extended { ULONGLONG type; ULONGLONG value; };
PVOID NTAPI ExAllocatePool3(ULONGLONG flags, SIZE_T bytes, ULONG tag, const struct extended *parameters, ULONG count);
VOID NTAPI ExFreePool2(PVOID block, ULONG tag, const struct extended *parameters, ULONG count);
#undef ExAllocatePool
#undef ExFreePool
SIZE_T NTAPI ExQueryPoolBlockSize(PVOID block, PBOOLEAN quota);

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

static PUCHAR allocate(ULONG type, SIZE_T bytes)
{
    return ExAllocatePoolWithTag((POOL_TYPE)type, bytes, TAG);
}

static const SIZE_T sizes[] = {1, 7, 8, 9, 15, 16, 17, 64, 100, 1000, 2048, 4000, 4080, 4095, 4096, 4097, 8192, 20000};

KTEST(blocks_are_aligned)
{
    for (ULONG i = 0; i < RTL_NUMBER_OF(sizes); i++) {
        PUCHAR block = allocate(NonPagedPool, sizes[i]);
        if (!CHECK(block != NULL)) {
            continue;
        }
        CHECK_EQ((ULONG_PTR)block % ALIGNMENT, 0);
        if (sizes[i] >= PAGE_SIZE) {
            CHECK_EQ((ULONG_PTR)block % PAGE_SIZE, 0);
        } else {
            /* Smaller ones do not cross a page. */
            CHECK_EQ((ULONG_PTR)block / PAGE_SIZE, ((ULONG_PTR)block + sizes[i] - 1) / PAGE_SIZE);
        }
        fill(block, sizes[i], 0x5A);
        CHECK(is_filled(block, sizes[i], 0x5A));
        ExFreePoolWithTag(block, TAG);
    }
}

KTEST(blocks_are_in_system_space)
{
    PUCHAR block = allocate(NonPagedPool, 32);
    CHECK(block > (PUCHAR)MmHighestUserAddress);
    CHECK(block >= (PUCHAR)MmSystemRangeStart);
    CHECK(MmIsAddressValid(block));
    CHECK(MmIsAddressValid(block + 31));
    CHECK(MmGetPhysicalAddress(block).QuadPart != 0);
    CHECK_EQ(MmGetPhysicalAddress(block).QuadPart % PAGE_SIZE, (ULONG_PTR)block % PAGE_SIZE);
    ExFreePoolWithTag(block, TAG);
}

KTEST(blocks_do_not_overlap)
{
    enum { COUNT = 40 };
    static PUCHAR blocks[COUNT];
    ULONG intact = 0;
    for (ULONG i = 0; i < COUNT; i++) {
        blocks[i] = allocate(i & 1, 10 + i * 13);
        fill(blocks[i], 10 + i * 13, (UCHAR)(i + 1));
    }
    for (ULONG i = 0; i < COUNT; i++) {
        intact += is_filled(blocks[i], 10 + i * 13, (UCHAR)(i + 1));
    }
    CHECK_EQ(intact, COUNT);
    for (ULONG i = 0; i < COUNT; i += 2) {
        ExFreePoolWithTag(blocks[i], TAG);
    }
    intact = 0;
    for (ULONG i = 1; i < COUNT; i += 2) {
        intact += is_filled(blocks[i], 10 + i * 13, (UCHAR)(i + 1));
        ExFreePoolWithTag(blocks[i], TAG);
    }
    CHECK_EQ(intact, COUNT / 2);
}

KTEST(every_type_gives_memory)
{
    static const ULONG types[] = {0, 1, 4, 5, 32, 33, 36, 37, 512, 516, 544, 0x100, 0x101};
    for (ULONG i = 0; i < RTL_NUMBER_OF(types); i++) {
        PUCHAR block = allocate(types[i], 200);
        if (CHECK(block != NULL)) {
            fill(block, 200, 1);
            ExFreePoolWithTag(block, TAG);
        }
    }
}

KTEST(cache_aligned_types_are_aligned)
{
    static const ULONG types[] = {4, 5, 516, 36};
    for (ULONG i = 0; i < RTL_NUMBER_OF(types); i++) {
        PUCHAR block = allocate(types[i], 70);
        CHECK(block != NULL);
        CHECK_EQ((ULONG_PTR)block % 64, 0);
        ExFreePoolWithTag(block, TAG);
    }
}

KTEST(zero_allocation_is_zeroed)
{
    static const SIZE_T counts[] = {1, 16, 100, 4095, 4096, 10000};
    for (ULONG i = 0; i < RTL_NUMBER_OF(counts); i++) {
        PUCHAR dirty = allocate(NonPagedPool, counts[i]);
        fill(dirty, counts[i], 0xFF);
        ExFreePoolWithTag(dirty, TAG);
        PUCHAR block = allocate(NonPagedPool | ZERO, counts[i]);
        CHECK(is_filled(block, counts[i], 0));
        ExFreePoolWithTag(block, TAG);
    }
}

KTEST(a_block_of_nothing_has_an_address)
{
    PUCHAR first = allocate(NonPagedPool, 0);
    PUCHAR second = allocate(PagedPool, 0);
    CHECK(first != NULL);
    CHECK(second != NULL);
    CHECK(first != second);
    CHECK_EQ((ULONG_PTR)first % ALIGNMENT, 0);
    ExFreePoolWithTag(first, TAG);
    ExFreePoolWithTag(second, TAG);
}

KTEST(too_much_is_null)
{
    CHECK(allocate(NonPagedPool, HUGE_BYTES) == NULL);
    CHECK(allocate(PagedPool, HUGE_BYTES) == NULL);
    CHECK(allocate(NonPagedPool, ~(SIZE_T)0) == NULL);
    CHECK(allocate(NonPagedPool, ~(SIZE_T)0 - 15) == NULL);
    CHECK(ExAllocatePool(NonPagedPool, HUGE_BYTES) == NULL);
    CHECK(ExAllocatePoolWithTagPriority(NonPagedPool, HUGE_BYTES, TAG, 32) == NULL);
    CHECK(ExAllocatePoolWithQuotaTag(NonPagedPool | QUOTA_FAIL, HUGE_BYTES, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED, HUGE_BYTES, TAG) == NULL);
}

KTEST(exhaustion_ends_with_the_frees)
{
    enum { PIECE = 0x10000 };
    PVOID first = NULL;
    ULONG count = 0, again = 0;
    for (int round = 0; round < 2; round++) {
        ULONG taken = 0;
        PVOID *piece;
        while ((piece = (PVOID *)allocate(NonPagedPool, PIECE)) != NULL) {
            *piece = first;
            first = piece;
            taken++;
        }
        while (first != NULL) {
            PVOID next = *(PVOID *)first;
            ExFreePoolWithTag(first, TAG);
            first = next;
        }
        if (round == 0) {
            count = taken;
        } else {
            again = taken;
        }
    }
    CHECK(count > 10);
    CHECK_EQ(again, count);
}

KTEST(untagged_pool)
{
    PUCHAR block = ExAllocatePool(NonPagedPool, 24);
    CHECK(block != NULL);
    fill(block, 24, 3);
    ExFreePool(block);
    block = ExAllocatePool(PagedPool, 5000);
    CHECK(block != NULL);
    CHECK_EQ((ULONG_PTR)block % PAGE_SIZE, 0);
    ExFreePool(block);
    /* Either way of freeing fits a tagged block, if the tag is right or none is given. */
    block = allocate(NonPagedPool, 24);
    ExFreePool(block);
    block = allocate(NonPagedPool, 24);
    ExFreePoolWithTag(block, 0);
    CHECK(TRUE);
}

KTEST(priorities)
{
    static const ULONG priorities[] = {0, 8, 9, 16, 24, 25, 32, 40, 41};
    for (ULONG i = 0; i < RTL_NUMBER_OF(priorities); i++) {
        PUCHAR block = ExAllocatePoolWithTagPriority(PagedPool, 48, TAG, priorities[i]);
        if (CHECK(block != NULL)) {
            ExFreePoolWithTag(block, TAG);
        }
    }
}

KTEST(quota)
{
    PUCHAR block = ExAllocatePoolWithQuotaTag(PagedPool, 48, TAG);
    CHECK(block != NULL);
    ExFreePoolWithTag(block, TAG);
    block = ExAllocatePoolWithQuotaTag(NonPagedPool | QUOTA_FAIL, 48, TAG);
    CHECK(block != NULL);
    ExFreePoolWithTag(block, TAG);
    block = ExAllocatePoolWithQuota(NonPagedPool, 48);
    CHECK(block != NULL);
    ExFreePool(block);
}

KTEST(block_size_is_told)
{
    BOOLEAN quota = 7;
    PUCHAR block = allocate(NonPagedPool, 100);
    SIZE_T bytes = ExQueryPoolBlockSize(block, &quota);
    CHECK(bytes >= 100);
    CHECK(bytes < 100 + 2 * PAGE_SIZE);
    CHECK_EQ(quota, FALSE);
    ExFreePoolWithTag(block, TAG);
}

KTEST(pool2_zeroes_unless_told_not_to)
{
    static const ULONGLONG flags[] = {FLAG_NON_PAGED, FLAG_NON_PAGED_EXECUTE, FLAG_PAGED,
                                      FLAG_NON_PAGED | FLAG_CACHE_ALIGNED, FLAG_PAGED | FLAG_QUOTA};
    for (ULONG i = 0; i < RTL_NUMBER_OF(flags); i++) {
        PUCHAR dirty = allocate(NonPagedPool, 128);
        fill(dirty, 128, 0xFF);
        ExFreePoolWithTag(dirty, TAG);
        PUCHAR block = ExAllocatePool2(flags[i], 128, TAG);
        if (CHECK(block != NULL)) {
            CHECK(is_filled(block, 128, 0));
            CHECK_EQ((ULONG_PTR)block % ALIGNMENT, 0);
            ExFreePoolWithTag(block, TAG);
        }
    }
    PUCHAR block = ExAllocatePool2(FLAG_NON_PAGED | FLAG_CACHE_ALIGNED | FLAG_UNINITIALIZED, 128, TAG);
    CHECK(block != NULL);
    CHECK_EQ((ULONG_PTR)block % 64, 0);
    ExFreePool2(block, TAG, NULL, 0);
}

KTEST(pool2_refuses_bad_arguments)
{
    CHECK(ExAllocatePool2(0, 16, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_UNINITIALIZED, 16, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED | FLAG_PAGED, 16, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED | FLAG_NON_PAGED_EXECUTE, 16, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED | 0x80000000ULL, 16, TAG) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED, 16, 0) == NULL);
    CHECK(ExAllocatePool2(FLAG_NON_PAGED, 0, TAG) == NULL);
    /* Bits from 32 up are optional: unknown ones are ignored. */
    PVOID block = ExAllocatePool2(FLAG_NON_PAGED | 0x8000000000ULL, 16, TAG);
    CHECK(block != NULL);
    ExFreePoolWithTag(block, TAG);
}

KTEST(pool3_parameters)
{
    struct extended priority = {1, 32}, node = {3, 0}, secure = {2, 0}, optional = {2 | 0x100, 0};
    PVOID block = ExAllocatePool3(FLAG_NON_PAGED, 40, TAG, NULL, 0);
    CHECK(block != NULL);
    CHECK(is_filled(block, 40, 0));
    ExFreePool2(block, TAG, NULL, 0);
    block = ExAllocatePool3(FLAG_PAGED, 40, TAG, &priority, 1);
    CHECK(block != NULL);
    ExFreePool2(block, TAG, NULL, 0);
    block = ExAllocatePool3(FLAG_PAGED, 40, TAG, &node, 1);
    CHECK(block != NULL);
    ExFreePool2(block, TAG, NULL, 0);
    CHECK(ExAllocatePool3(FLAG_PAGED, 40, TAG, &secure, 1) == NULL);
    block = ExAllocatePool3(FLAG_PAGED, 40, TAG, &optional, 1);
    CHECK(block != NULL);
    ExFreePool2(block, TAG, NULL, 0);
}

KTEST(nonpaged_pool_at_dispatch)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    PUCHAR block = allocate(NonPagedPool, 64);
    PUCHAR nx = allocate(NPNX, 5000);
    CHECK(block != NULL);
    CHECK(nx != NULL);
    ExFreePoolWithTag(block, TAG);
    ExFreePoolWithTag(nx, TAG);
    KeLowerIrql(old);
    KeRaiseIrql(APC_LEVEL, &old);
    PUCHAR paged = allocate(PagedPool, 64);
    CHECK(paged != NULL);
    ExFreePoolWithTag(paged, TAG);
    KeLowerIrql(old);
}

/* ---- Lookaside lists. ---- */

static ULONG custom_allocations, custom_frees, custom_bytes, custom_tag;
static PVOID custom_list;

static PVOID NTAPI custom_allocate(POOL_TYPE type, SIZE_T bytes, ULONG tag)
{
    custom_allocations++;
    custom_bytes = (ULONG)bytes;
    custom_tag = tag;
    return ExAllocatePoolWithTag(type, bytes, tag);
}

static VOID NTAPI custom_free(PVOID block)
{
    custom_frees++;
    ExFreePool(block);
}

KTEST(lookaside_structure)
{
    static NPAGED_LOOKASIDE_LIST list;
    fill((volatile UCHAR *)&list, sizeof(list), 0xEE);
    ExInitializeNPagedLookasideList(&list, NULL, NULL, 0, 72, TAG, 0);
    CHECK_EQ(list.L.Size, 72);
    CHECK_EQ(list.L.Tag, TAG);
    CHECK_EQ(list.L.Type, NonPagedPool);
    CHECK_EQ(list.L.TotalAllocates, 0);
    CHECK_EQ(list.L.AllocateMisses, 0);
    CHECK_EQ(list.L.TotalFrees, 0);
    CHECK_EQ(list.L.FreeMisses, 0);
    CHECK(list.L.Depth > 0);
    CHECK(list.L.Depth <= list.L.MaximumDepth);
    CHECK(list.L.Allocate != NULL);
    CHECK(list.L.Free != NULL);
    /* What the inline functions do when the list is empty or full. */
    PUCHAR entry = list.L.Allocate(list.L.Type, list.L.Size, list.L.Tag);
    CHECK(entry != NULL);
    fill(entry, 72, 1);
    list.L.Free(entry);
    ExDeleteNPagedLookasideList(&list);
}

KTEST(lookaside_paged)
{
    static PAGED_LOOKASIDE_LIST list;
    ExInitializePagedLookasideList(&list, NULL, NULL, 0, 32, OTHER_TAG, 0);
    CHECK_EQ(list.L.Type, PagedPool);
    CHECK_EQ(list.L.Size, 32);
    CHECK_EQ(list.L.Tag, OTHER_TAG);
    PVOID entry = list.L.Allocate(list.L.Type, list.L.Size, list.L.Tag);
    CHECK(entry != NULL);
    list.L.Free(entry);
    ExDeletePagedLookasideList(&list);
}

KTEST(lookaside_routines)
{
    static NPAGED_LOOKASIDE_LIST list;
    ExInitializeNPagedLookasideList(&list, custom_allocate, custom_free, 0, 40, TAG, 9);
    CHECK_PTR(list.L.Allocate, custom_allocate);
    CHECK_PTR(list.L.Free, custom_free);
    CHECK_EQ(custom_allocations, 0);
    ExDeleteNPagedLookasideList(&list);
    CHECK_EQ(custom_frees, 0);
}

/* LOOKASIDE_LIST_EX: the same head. */
typedef PVOID(NTAPI *allocate_ex)(ULONG type, SIZE_T bytes, ULONG tag, PVOID list);
typedef VOID(NTAPI *free_ex)(PVOID block, PVOID list);

static PVOID NTAPI custom_allocate_ex(ULONG type, SIZE_T bytes, ULONG tag, PVOID list)
{
    custom_list = list;
    return ExAllocatePoolWithTag((POOL_TYPE)type, bytes, tag);
}

static VOID NTAPI custom_free_ex(PVOID block, PVOID list)
{
    custom_list = list;
    ExFreePool(block);
}

KTEST(lookaside_ex)
{
    static NPAGED_LOOKASIDE_LIST list;
    PLOOKASIDE_LIST_EX extended = (PLOOKASIDE_LIST_EX)&list;
    CHECK_STATUS(ExInitializeLookasideListEx(extended, NULL, NULL, (POOL_TYPE)NonPagedPool, 3, 64, TAG, 0),
                 0xC00000F3 /* STATUS_INVALID_PARAMETER_5 */);
    CHECK_STATUS(ExInitializeLookasideListEx(extended, NULL, NULL, (POOL_TYPE)0x80, 0, 64, TAG, 0),
                 0xC00000F2 /* STATUS_INVALID_PARAMETER_4 */);
    CHECK_STATUS(ExInitializeLookasideListEx(extended, NULL, NULL, (POOL_TYPE)NPNX, 0, 64, TAG, 0), STATUS_SUCCESS);
    CHECK_EQ(list.L.Size, 64);
    PVOID entry = ((allocate_ex)(PVOID)list.L.Allocate)(list.L.Type, list.L.Size, list.L.Tag, &list);
    CHECK(entry != NULL);
    ((free_ex)(PVOID)list.L.Free)(entry, &list);
    ExFlushLookasideListEx(extended);
    ExDeleteLookasideListEx(extended);
    CHECK_STATUS(ExInitializeLookasideListEx(extended, (PVOID)custom_allocate_ex, (PVOID)custom_free_ex, PagedPool, 1, 64, TAG, 0),
                 STATUS_SUCCESS);
    CHECK_EQ(list.L.Type & 1, 1);
    CHECK_EQ(list.L.Type & 0x10, 0x10);
    CHECK_PTR(list.L.Allocate, custom_allocate_ex);
    CHECK_PTR(list.L.Free, custom_free_ex);
    ExDeleteLookasideListEx(extended);
    CHECK_STATUS(ExInitializeLookasideListEx(extended, NULL, NULL, (POOL_TYPE)NonPagedPool, 2, 64, TAG, 0), STATUS_SUCCESS);
    CHECK_EQ(list.L.Type & 0x8, 0x8);
    ExDeleteLookasideListEx(extended);
}

/* ---- What must end in a bugcheck. ---- */

static volatile UCHAR sink;

KTEST_BUGCHECK(double_free, 0xC1)
{
    PUCHAR block = allocate(NonPagedPool, 64);
    ExFreePoolWithTag(block, TAG);
    ExFreePoolWithTag(block, TAG);
}

KTEST_BUGCHECK(double_free_of_pages, 0xC2)
{
    PUCHAR block = allocate(NonPagedPool, 20000);
    ExFreePoolWithTag(block, TAG);
    ExFreePoolWithTag(block, TAG);
}

KTEST_BUGCHECK(wrong_tag, 0xC2)
{
    ExFreePoolWithTag(allocate(NonPagedPool, 64), OTHER_TAG);
}

KTEST_BUGCHECK(wrong_tag_of_pages, 0xC2)
{
    ExFreePoolWithTag(allocate(PagedPool, 20000), OTHER_TAG);
}

KTEST_BUGCHECK(no_tag, 0xC2)
{
    ExAllocatePoolWithTag(NonPagedPool, 64, 0);
}

KTEST_BUGCHECK(overrun_write, 0xD6)
{
    volatile UCHAR *block = allocate(NonPagedPool, 64);
    block[64] = 1;
}

KTEST_BUGCHECK(overrun_read, 0xD6)
{
    volatile UCHAR *block = allocate(PagedPool, 128);
    sink = block[128];
}

KTEST_BUGCHECK(overrun_at_dispatch, 0xD6)
{
    KIRQL old;
    volatile UCHAR *block = allocate(NonPagedPool, 64);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    block[64] = 1;
}

KTEST_BUGCHECK(overrun_by_the_kernel, 0xCD)
{
    PUCHAR block = allocate(NonPagedPool, 64);
    UNICODE_STRING target, source = RTL_CONSTANT_STRING(L"too long for its buffer");
    target.Length = 0;
    target.MaximumLength = 200;
    target.Buffer = (PWSTR)(block + 48);
    RtlCopyUnicodeString(&target, &source);
}

KTEST_BUGCHECK(overrun_into_slop, 0xC1)
{
    volatile UCHAR *block = allocate(NonPagedPool, 61);
    block[61] = 1;
    ExFreePoolWithTag((PVOID)block, TAG);
}

KTEST_BUGCHECK(overrun_of_pages, 0x19)
{
    volatile UCHAR *block = allocate(NonPagedPool, 8192);
    block[8192] = 1;
    ExFreePoolWithTag((PVOID)block, TAG);
}

KTEST_BUGCHECK(underrun, 0xC1)
{
    volatile UCHAR *block = allocate(NonPagedPool, 64);
    block[-1] = 1;
    ExFreePoolWithTag((PVOID)block, TAG);
}

KTEST_BUGCHECK(use_after_free_write, 0xD5)
{
    volatile UCHAR *block = allocate(NonPagedPool, 64);
    ExFreePoolWithTag((PVOID)block, TAG);
    block[8] = 1;
}

KTEST_BUGCHECK(use_after_free_read, 0xD5)
{
    volatile UCHAR *block = allocate(PagedPool, 64);
    ExFreePoolWithTag((PVOID)block, TAG);
    sink = block[0];
}

KTEST_BUGCHECK(free_of_the_middle, 0xC1)
{
    ExFreePoolWithTag(allocate(NonPagedPool, 64) + 16, TAG);
}

KTEST_BUGCHECK(free_of_the_middle_of_pages, 0xC2)
{
    ExFreePoolWithTag(allocate(NonPagedPool, 20000) + PAGE_SIZE, TAG);
}

KTEST_BUGCHECK(free_of_null, 0xC2)
{
    ExFreePool(NULL);
}

KTEST_BUGCHECK(free_of_a_user_address, 0xC2)
{
    ExFreePool((PVOID)0x10000);
}

KTEST_BUGCHECK(free_of_a_variable, 0xC2)
{
    ExFreePool((PVOID)&sink);
}

KTEST_BUGCHECK(paged_pool_at_dispatch, 0xC4)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    allocate(PagedPool, 64);
}

KTEST_BUGCHECK(nonpaged_pool_above_dispatch, 0xC4)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL + 1, &old);
    allocate(NonPagedPool, 64);
}

KTEST_BUGCHECK(free_of_paged_pool_at_dispatch, 0xC4)
{
    KIRQL old;
    PUCHAR block = allocate(PagedPool, 64);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    ExFreePoolWithTag(block, TAG);
}

KTEST_BUGCHECK(free_of_nonpaged_pool_above_dispatch, 0xC4)
{
    KIRQL old;
    PUCHAR block = allocate(NonPagedPool, 64);
    KeRaiseIrql(DISPATCH_LEVEL + 1, &old);
    ExFreePoolWithTag(block, TAG);
}

KTEST_BUGCHECK(must_succeed_that_cannot, 0x41)
{
    allocate(2 /* NonPagedPoolMustSucceed */, HUGE_BYTES);
}

KTEST_FAMILY("pool", KTEST_ENTRY(blocks_are_aligned), KTEST_ENTRY(blocks_are_in_system_space),
             KTEST_ENTRY(blocks_do_not_overlap), KTEST_ENTRY(every_type_gives_memory),
             KTEST_ENTRY(cache_aligned_types_are_aligned), KTEST_ENTRY(zero_allocation_is_zeroed),
             KTEST_ENTRY(a_block_of_nothing_has_an_address), KTEST_ENTRY(too_much_is_null),
             KTEST_ENTRY(exhaustion_ends_with_the_frees), KTEST_ENTRY(untagged_pool), KTEST_ENTRY(priorities),
             KTEST_ENTRY(quota), KTEST_ENTRY(block_size_is_told), KTEST_ENTRY(pool2_zeroes_unless_told_not_to),
             KTEST_ENTRY(pool2_refuses_bad_arguments), KTEST_ENTRY(pool3_parameters),
             KTEST_ENTRY(nonpaged_pool_at_dispatch), KTEST_ENTRY(lookaside_structure), KTEST_ENTRY(lookaside_paged),
             KTEST_ENTRY(lookaside_routines), KTEST_ENTRY(lookaside_ex), KTEST_BUGCHECK_ENTRY(double_free),
             KTEST_BUGCHECK_ENTRY(double_free_of_pages), KTEST_BUGCHECK_ENTRY(wrong_tag),
             KTEST_BUGCHECK_ENTRY(wrong_tag_of_pages), KTEST_BUGCHECK_ENTRY(no_tag),
             KTEST_BUGCHECK_ENTRY(overrun_write), KTEST_BUGCHECK_ENTRY(overrun_read),
             KTEST_BUGCHECK_ENTRY(overrun_at_dispatch), KTEST_BUGCHECK_ENTRY(overrun_by_the_kernel),
             KTEST_BUGCHECK_ENTRY(overrun_into_slop), KTEST_BUGCHECK_ENTRY(overrun_of_pages),
             KTEST_BUGCHECK_ENTRY(underrun), KTEST_BUGCHECK_ENTRY(use_after_free_write),
             KTEST_BUGCHECK_ENTRY(use_after_free_read), KTEST_BUGCHECK_ENTRY(free_of_the_middle),
             KTEST_BUGCHECK_ENTRY(free_of_the_middle_of_pages), KTEST_BUGCHECK_ENTRY(free_of_null),
             KTEST_BUGCHECK_ENTRY(free_of_a_user_address), KTEST_BUGCHECK_ENTRY(free_of_a_variable),
             KTEST_BUGCHECK_ENTRY(paged_pool_at_dispatch), KTEST_BUGCHECK_ENTRY(nonpaged_pool_above_dispatch),
             KTEST_BUGCHECK_ENTRY(free_of_paged_pool_at_dispatch),
             KTEST_BUGCHECK_ENTRY(free_of_nonpaged_pool_above_dispatch),
             KTEST_BUGCHECK_ENTRY(must_succeed_that_cannot));
