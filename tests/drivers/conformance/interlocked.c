/* Interlocked arithmetic and lists: ExInterlocked... with a spin lock, i386's own exports, and sequenced lists. */
#include "ktest.h"

#define IS64 (sizeof(PVOID) == 8)

#undef ExInterlockedAddLargeInteger
#undef ExInterlockedAddUlong
#undef ExInterlockedInsertHeadList
#undef ExInterlockedInsertTailList
#undef ExInterlockedRemoveHeadList
#undef ExInterlockedPushEntryList
#undef ExInterlockedPopEntryList
NTKERNELAPI LARGE_INTEGER NTAPI ExInterlockedAddLargeInteger(PLARGE_INTEGER addend, LARGE_INTEGER increment, PKSPIN_LOCK lock);
NTKERNELAPI ULONG NTAPI ExInterlockedAddUlong(PULONG addend, ULONG increment, PKSPIN_LOCK lock);
NTKERNELAPI PLIST_ENTRY NTAPI ExInterlockedInsertHeadList(PLIST_ENTRY head, PLIST_ENTRY entry, PKSPIN_LOCK lock);
NTKERNELAPI PLIST_ENTRY NTAPI ExInterlockedInsertTailList(PLIST_ENTRY head, PLIST_ENTRY entry, PKSPIN_LOCK lock);
NTKERNELAPI PLIST_ENTRY NTAPI ExInterlockedRemoveHeadList(PLIST_ENTRY head, PKSPIN_LOCK lock);
NTKERNELAPI PSINGLE_LIST_ENTRY NTAPI ExInterlockedPushEntryList(PSINGLE_LIST_ENTRY head, PSINGLE_LIST_ENTRY entry, PKSPIN_LOCK lock);
NTKERNELAPI PSINGLE_LIST_ENTRY NTAPI ExInterlockedPopEntryList(PSINGLE_LIST_ENTRY head, PKSPIN_LOCK lock);

/* The exports for sequenced lists, under names of this driver's own, so that no macro of the headers is in the way. */
#ifdef __x86_64__
PSINGLE_LIST_ENTRY NTAPI export_push(PVOID list, PVOID entry) __asm__("ExpInterlockedPushEntrySList");
PSINGLE_LIST_ENTRY NTAPI export_pop(PVOID list) __asm__("ExpInterlockedPopEntrySList");
PSINGLE_LIST_ENTRY NTAPI export_flush(PVOID list) __asm__("ExpInterlockedFlushSList");
VOID NTAPI export_initialize(PSLIST_HEADER list) __asm__("InitializeSListHead");
#else
PSINGLE_LIST_ENTRY FASTCALL export_push(PVOID list, PVOID entry) __asm__("@InterlockedPushEntrySList@8");
PSINGLE_LIST_ENTRY FASTCALL export_pop(PVOID list) __asm__("@InterlockedPopEntrySList@4");
PSINGLE_LIST_ENTRY FASTCALL export_flush(PVOID list) __asm__("@ExInterlockedFlushSList@4");
VOID NTAPI export_initialize(PSLIST_HEADER list) __asm__("_InitializeSListHead@4");
#endif
#undef ExQueryDepthSList
NTKERNELAPI USHORT NTAPI ExQueryDepthSList(PSLIST_HEADER list);
NTKERNELAPI PSINGLE_LIST_ENTRY NTAPI RtlFirstEntrySList(PVOID list);

static KSPIN_LOCK lock;
static LIST_ENTRY head, entries[3];
static SINGLE_LIST_ENTRY stack;
static struct {
    SINGLE_LIST_ENTRY links;
    ULONG_PTR value;
} __attribute__((aligned(16))) nodes[4];
static SLIST_HEADER list __attribute__((aligned(16)));

static void start(void)
{
    KeInitializeSpinLock(&lock);
    InitializeListHead(&head);
    stack.Next = NULL;
}

KTEST(add_large_integer)
{
    LARGE_INTEGER value, increment, old;
    start();
    value.QuadPart = 0xFFFFFFFF;
    increment.QuadPart = 1;
    old = ExInterlockedAddLargeInteger(&value, increment, &lock);
    CHECK_EQ(old.QuadPart, 0xFFFFFFFF);
    CHECK_EQ(value.QuadPart, 0x100000000);
    increment.QuadPart = -0x100000001LL;
    old = ExInterlockedAddLargeInteger(&value, increment, &lock);
    CHECK_EQ(old.QuadPart, 0x100000000);
    CHECK_EQ(value.QuadPart, -1LL);
    increment.QuadPart = 0x7FFFFFFFFFFFFFFFLL;
    old = ExInterlockedAddLargeInteger(&value, increment, &lock);
    CHECK_EQ(old.QuadPart, -1LL);
    CHECK_EQ(value.QuadPart, 0x7FFFFFFFFFFFFFFELL);
    CHECK_EQ(lock, 0);
}

KTEST(add_ulong)
{
    ULONG value = 5;
    start();
    CHECK_EQ(ExInterlockedAddUlong(&value, 3, &lock), 5);
    CHECK_EQ(value, 8);
    CHECK_EQ(ExInterlockedAddUlong(&value, 0xFFFFFFFF, &lock), 8);
    CHECK_EQ(value, 7);
    CHECK_EQ(ExInterlockedAddUlong(&value, 0, &lock), 7);
    CHECK_EQ(value, 7);
    CHECK_EQ(lock, 0);
}

KTEST(doubly_linked)
{
    start();
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), NULL);
    CHECK_PTR(ExInterlockedInsertTailList(&head, &entries[1], &lock), NULL);
    CHECK_PTR(head.Flink, &entries[1]);
    CHECK_PTR(head.Blink, &entries[1]);
    CHECK_PTR(entries[1].Flink, &head);
    CHECK_PTR(entries[1].Blink, &head);
    CHECK_PTR(ExInterlockedInsertTailList(&head, &entries[2], &lock), &entries[1]);
    CHECK_PTR(head.Blink, &entries[2]);
    CHECK_PTR(ExInterlockedInsertHeadList(&head, &entries[0], &lock), &entries[1]);
    CHECK_PTR(head.Flink, &entries[0]);
    CHECK_PTR(entries[0].Flink, &entries[1]);
    CHECK_PTR(entries[1].Blink, &entries[0]);
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), &entries[0]);
    CHECK_PTR(head.Flink, &entries[1]);
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), &entries[1]);
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), &entries[2]);
    CHECK(IsListEmpty(&head));
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), NULL);
    CHECK_PTR(ExInterlockedInsertHeadList(&head, &entries[2], &lock), NULL);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    CHECK_EQ(lock, 0);
}

KTEST(singly_linked)
{
    start();
    CHECK_PTR(ExInterlockedPopEntryList(&stack, &lock), NULL);
    CHECK_PTR(ExInterlockedPushEntryList(&stack, &nodes[0].links, &lock), NULL);
    CHECK_PTR(stack.Next, &nodes[0].links);
    CHECK_PTR(ExInterlockedPushEntryList(&stack, &nodes[1].links, &lock), &nodes[0].links);
    CHECK_PTR(nodes[1].links.Next, &nodes[0].links);
    CHECK_PTR(ExInterlockedPopEntryList(&stack, &lock), &nodes[1].links);
    CHECK_PTR(ExInterlockedPopEntryList(&stack, &lock), &nodes[0].links);
    CHECK_PTR(ExInterlockedPopEntryList(&stack, &lock), NULL);
    CHECK_EQ(lock, 0);
}

KTEST(lists_at_high_irql)
{
    KIRQL old;
    start();
    KeRaiseIrql(HIGH_LEVEL, &old);
    CHECK_PTR(ExInterlockedInsertTailList(&head, &entries[0], &lock), NULL);
    CHECK_PTR(ExInterlockedRemoveHeadList(&head, &lock), &entries[0]);
    CHECK_EQ(KeGetCurrentIrql(), HIGH_LEVEL);
    KeLowerIrql(old);
}

KTEST(sequenced_layout)
{
    CHECK_EQ(sizeof(SLIST_HEADER), IS64 ? 16 : 8);
    CHECK_EQ((ULONG_PTR)&list % (IS64 ? 16 : 4), 0);
    RtlFillMemory(&list, sizeof(list), 0xFF);
    export_initialize(&list);
    CHECK_EQ(ExQueryDepthSList(&list), 0);
    CHECK_PTR(RtlFirstEntrySList(&list), NULL);
    CHECK_EQ(*(USHORT *)((UCHAR *)&list + (IS64 ? 0 : 4)), 0);
}

KTEST(sequenced)
{
    export_initialize(&list);
    CHECK_PTR(export_pop(&list), NULL);
    CHECK_PTR(export_flush(&list), NULL);
    CHECK_PTR(export_push(&list, &nodes[0].links), NULL);
    CHECK_EQ(ExQueryDepthSList(&list), 1);
    CHECK_PTR(RtlFirstEntrySList(&list), &nodes[0].links);
    CHECK_PTR(export_push(&list, &nodes[1].links), &nodes[0].links);
    CHECK_PTR(export_push(&list, &nodes[2].links), &nodes[1].links);
    CHECK_EQ(ExQueryDepthSList(&list), 3);
    /* The depth's place is public. */
    CHECK_EQ(*(USHORT *)((UCHAR *)&list + (IS64 ? 0 : 4)), 3);
    CHECK_PTR(nodes[2].links.Next, &nodes[1].links);
    CHECK_PTR(export_pop(&list), &nodes[2].links);
    CHECK_EQ(ExQueryDepthSList(&list), 2);
    CHECK_PTR(export_push(&list, &nodes[3].links), &nodes[1].links);
    CHECK_PTR(export_flush(&list), &nodes[3].links);
    CHECK_EQ(ExQueryDepthSList(&list), 0);
    CHECK_PTR(RtlFirstEntrySList(&list), NULL);
    CHECK_PTR(nodes[3].links.Next, &nodes[1].links);
    CHECK_PTR(nodes[1].links.Next, &nodes[0].links);
    CHECK_PTR(nodes[0].links.Next, NULL);
    CHECK_PTR(export_pop(&list), NULL);
}

KTEST(sequenced_number_changes)
{
    SLIST_HEADER before;
    export_initialize(&list);
    export_push(&list, &nodes[0].links);
    before = list;
    export_push(&list, &nodes[1].links);
    export_pop(&list);
    CHECK_PTR(RtlFirstEntrySList(&list), &nodes[0].links);
    CHECK_EQ(ExQueryDepthSList(&list), 1);
    /* The same first entry and depth, but not the same header: what compare and exchange relies on. */
    CHECK(RtlCompareMemory(&before, &list, sizeof(list)) != sizeof(list));
    CHECK_PTR(export_pop(&list), &nodes[0].links);
}

#ifdef __x86_64__
KTEST_BUGCHECK(misaligned, 0x3B)
{
    export_initialize(&list);
    export_push(&list, (PUCHAR)&nodes[0].links + 8);
}
#else
#undef InterlockedIncrement
#undef InterlockedDecrement
#undef InterlockedExchange
#undef InterlockedExchangeAdd
#undef InterlockedCompareExchange
/* The exports, not the compiler's instructions of these names. */
LONG FASTCALL export_increment(LONG volatile *) __asm__("@InterlockedIncrement@4");
LONG FASTCALL export_decrement(LONG volatile *) __asm__("@InterlockedDecrement@4");
LONG FASTCALL export_exchange(LONG volatile *, LONG) __asm__("@InterlockedExchange@8");
LONG FASTCALL export_exchange_add(LONG volatile *, LONG) __asm__("@InterlockedExchangeAdd@8");
LONG FASTCALL export_compare_exchange(LONG volatile *, LONG, LONG) __asm__("@InterlockedCompareExchange@12");
LONGLONG FASTCALL export_compare_exchange_64(LONGLONG volatile *, PLONGLONG, PLONGLONG)
    __asm__("@ExfInterlockedCompareExchange64@12");
LONGLONG FASTCALL export_ex_compare_exchange_64(LONGLONG volatile *, PLONGLONG, PLONGLONG, PKSPIN_LOCK)
    __asm__("@ExInterlockedCompareExchange64@16");
VOID FASTCALL export_add_statistic(PLARGE_INTEGER, ULONG) __asm__("@ExInterlockedAddLargeStatistic@8");
ULONG FASTCALL export_exf_add(PULONG, ULONG, PKSPIN_LOCK) __asm__("@ExfInterlockedAddUlong@12");
ULONG FASTCALL export_exfi_increment(PLONG) __asm__("@Exfi386InterlockedIncrementLong@4");
ULONG FASTCALL export_exfi_decrement(PLONG) __asm__("@Exfi386InterlockedDecrementLong@4");
ULONG FASTCALL export_exfi_exchange(PULONG, ULONG) __asm__("@Exfi386InterlockedExchangeUlong@8");
ULONG NTAPI export_exi_increment(PLONG) __asm__("_Exi386InterlockedIncrementLong@4");
ULONG NTAPI export_ex_decrement(PLONG, PKSPIN_LOCK) __asm__("_ExInterlockedDecrementLong@8");
PLIST_ENTRY FASTCALL export_exf_insert_head(PLIST_ENTRY, PLIST_ENTRY, PKSPIN_LOCK) __asm__("@ExfInterlockedInsertHeadList@12");
PLIST_ENTRY FASTCALL export_exf_insert_tail(PLIST_ENTRY, PLIST_ENTRY, PKSPIN_LOCK) __asm__("@ExfInterlockedInsertTailList@12");
PLIST_ENTRY FASTCALL export_exf_remove_head(PLIST_ENTRY, PKSPIN_LOCK) __asm__("@ExfInterlockedRemoveHeadList@8");
PSINGLE_LIST_ENTRY FASTCALL export_exf_push(PSINGLE_LIST_ENTRY, PSINGLE_LIST_ENTRY, PKSPIN_LOCK)
    __asm__("@ExfInterlockedPushEntryList@12");
PSINGLE_LIST_ENTRY FASTCALL export_exf_pop(PSINGLE_LIST_ENTRY, PKSPIN_LOCK) __asm__("@ExfInterlockedPopEntryList@8");

KTEST(i386_exports)
{
    LONG value = 0x7FFFFFFF;
    CHECK_EQ((ULONG)export_increment(&value), 0x80000000);
    CHECK_EQ(export_decrement(&value), 0x7FFFFFFF);
    CHECK_EQ(export_exchange(&value, 5), 0x7FFFFFFF);
    CHECK_EQ(export_exchange_add(&value, -7), 5);
    CHECK_EQ((ULONG)value, (ULONG)-2);
    CHECK_EQ((ULONG)export_compare_exchange(&value, 9, 3), (ULONG)-2);
    CHECK_EQ((ULONG)value, (ULONG)-2);
    CHECK_EQ((ULONG)export_compare_exchange(&value, 9, -2), (ULONG)-2);
    CHECK_EQ(value, 9);
}

KTEST(i386_64_bits)
{
    LONGLONG value = 0x100000002LL, exchange = 0x300000004LL, comparand = 2;
    LARGE_INTEGER statistic;
    CHECK_EQ(export_compare_exchange_64(&value, &exchange, &comparand), 0x100000002LL);
    CHECK_EQ(value, 0x100000002LL);
    comparand = value;
    CHECK_EQ(export_compare_exchange_64(&value, &exchange, &comparand), 0x100000002LL);
    CHECK_EQ(value, 0x300000004LL);
    comparand = value;
    exchange = -1;
    start();
    CHECK_EQ(export_ex_compare_exchange_64(&value, &exchange, &comparand, &lock), 0x300000004LL);
    CHECK_EQ(value, -1LL);
    statistic.QuadPart = 0xFFFFFFFFLL;
    export_add_statistic(&statistic, 2);
    CHECK_EQ(statistic.QuadPart, 0x100000001LL);
}

KTEST(i386_flags)
{
    LONG value = -2;
    ULONG number = 7;
    start();
    CHECK_EQ(export_exfi_increment(&value), ResultNegative);
    CHECK_EQ(export_exfi_increment(&value), ResultZero);
    CHECK_EQ(export_exi_increment(&value), ResultPositive);
    CHECK_EQ(export_exfi_decrement(&value), ResultZero);
    CHECK_EQ(export_ex_decrement(&value, &lock), ResultNegative);
    CHECK_EQ((ULONG)value, (ULONG)-1);
    CHECK_EQ(export_exfi_exchange(&number, 8), 7);
    CHECK_EQ(export_exf_add(&number, 2, &lock), 8);
    CHECK_EQ(number, 10);
}

KTEST(i386_lists)
{
    start();
    CHECK_PTR(export_exf_insert_tail(&head, &entries[1], &lock), NULL);
    CHECK_PTR(export_exf_insert_head(&head, &entries[0], &lock), &entries[1]);
    CHECK_PTR(export_exf_remove_head(&head, &lock), &entries[0]);
    CHECK_PTR(export_exf_remove_head(&head, &lock), &entries[1]);
    CHECK_PTR(export_exf_remove_head(&head, &lock), NULL);
    CHECK_PTR(export_exf_push(&stack, &nodes[0].links, &lock), NULL);
    CHECK_PTR(export_exf_pop(&stack, &lock), &nodes[0].links);
    CHECK_PTR(export_exf_pop(&stack, &lock), NULL);
}
#endif

KTEST_BUGCHECK(lock_is_held, 0x0F)
{
    ULONG value = 0;
    KIRQL old;
    start();
    KeAcquireSpinLock(&lock, &old);
    ExInterlockedAddUlong(&value, 1, &lock);
}

KTEST_BUGCHECK(list_lock_is_held, 0x0F)
{
    KIRQL old;
    start();
    KeAcquireSpinLock(&lock, &old);
    ExInterlockedInsertHeadList(&head, &entries[0], &lock);
}

KTEST_FAMILY("interlocked",
    KTEST_ENTRY(add_large_integer),
    KTEST_ENTRY(add_ulong),
    KTEST_ENTRY(doubly_linked),
    KTEST_ENTRY(singly_linked),
    KTEST_ENTRY(lists_at_high_irql),
    KTEST_ENTRY(sequenced_layout),
    KTEST_ENTRY(sequenced),
    KTEST_ENTRY(sequenced_number_changes),
#ifdef __x86_64__
    KTEST_BUGCHECK_ENTRY(misaligned),
#else
    KTEST_ENTRY(i386_exports),
    KTEST_ENTRY(i386_64_bits),
    KTEST_ENTRY(i386_flags),
    KTEST_ENTRY(i386_lists),
#endif
    KTEST_BUGCHECK_ENTRY(lock_is_held),
    KTEST_BUGCHECK_ENTRY(list_lock_is_held));
