/* Data structures of the run-time library: bitmaps, splay and AVL tables, prefix tables, one-time initialization; on i386
 * RtlLargeInteger and its family too.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
#include "ktest.h"

#define NONE 0xFFFFFFFF
#define TAG 0x656C6254

static ULONG words[4];
static RTL_BITMAP map;

static VOID make(ULONG first, ULONG second, ULONG bits)
{
    words[0] = first;
    words[1] = second;
    words[2] = words[3] = 0xDEADBEEF;
    RtlInitializeBitMap(&map, words, bits);
}

/* The structures under names of this file's own: not every header has them. */
typedef struct splay {
    struct splay *Parent, *LeftChild, *RightChild;
} SPLAY, *PSPLAY;

typedef struct generic {
    PSPLAY TableRoot;
    LIST_ENTRY InsertOrderList;
    PLIST_ENTRY OrderedPointer;
    ULONG WhichOrderedElement, NumberGenericTableElements;
    PVOID CompareRoutine, AllocateRoutine, FreeRoutine, TableContext;
} GENERIC;

typedef struct balanced {
    struct balanced *Parent, *LeftChild, *RightChild;
    CHAR Balance;
    UCHAR Reserved[3];
} BALANCED;

typedef struct avl {
    BALANCED BalancedRoot;
    PVOID OrderedPointer;
    ULONG WhichOrderedElement, NumberGenericTableElements, DepthOfTree;
    BALANCED *RestartKey;
    ULONG DeleteCount;
    PVOID CompareRoutine, AllocateRoutine, FreeRoutine, TableContext;
} AVL;

typedef struct {
    SHORT NodeTypeCode, NameLength;
    PVOID NextPrefixTree, CaseMatch;
    SPLAY Links;
    PUNICODE_STRING Prefix;
} UPREFIX_ENTRY;

typedef struct {
    SHORT NodeTypeCode, NameLength;
    PVOID NextPrefixTree, LastNextEntry;
} UPREFIX;

typedef struct {
    SHORT NodeTypeCode, NameLength;
    PVOID NextPrefixTree;
    SPLAY Links;
    PSTRING Prefix;
} NPREFIX_ENTRY;

typedef struct {
    SHORT NodeTypeCode, NameLength;
    PVOID NextPrefixTree;
} NPREFIX;

typedef struct {
    PVOID Ptr;
} ONCE;

#ifdef _WIN64
#define EXPORT(name, bytes) __asm__(#name)
#else
#define EXPORT(name, bytes) __asm__("_" #name "@" #bytes)
#endif

PSPLAY NTAPI my_RtlSplay(PSPLAY) EXPORT(RtlSplay, 4);
#define RtlSplay my_RtlSplay
PSPLAY NTAPI my_RtlDelete(PSPLAY) EXPORT(RtlDelete, 4);
#define RtlDelete my_RtlDelete
VOID NTAPI my_RtlDeleteNoSplay(PSPLAY, PSPLAY *) EXPORT(RtlDeleteNoSplay, 8);
#define RtlDeleteNoSplay my_RtlDeleteNoSplay
PSPLAY NTAPI my_RtlRealSuccessor(PSPLAY) EXPORT(RtlRealSuccessor, 4);
#define RtlRealSuccessor my_RtlRealSuccessor
PSPLAY NTAPI my_RtlRealPredecessor(PSPLAY) EXPORT(RtlRealPredecessor, 4);
#define RtlRealPredecessor my_RtlRealPredecessor
PSPLAY NTAPI my_RtlSubtreeSuccessor(PSPLAY) EXPORT(RtlSubtreeSuccessor, 4);
#define RtlSubtreeSuccessor my_RtlSubtreeSuccessor
PSPLAY NTAPI my_RtlSubtreePredecessor(PSPLAY) EXPORT(RtlSubtreePredecessor, 4);
#define RtlSubtreePredecessor my_RtlSubtreePredecessor
VOID NTAPI my_RtlInitializeGenericTable(GENERIC *, PVOID, PVOID, PVOID, PVOID) EXPORT(RtlInitializeGenericTable, 20);
#define RtlInitializeGenericTable my_RtlInitializeGenericTable
BOOLEAN NTAPI my_RtlIsGenericTableEmpty(GENERIC *) EXPORT(RtlIsGenericTableEmpty, 4);
#define RtlIsGenericTableEmpty my_RtlIsGenericTableEmpty
ULONG NTAPI my_RtlNumberGenericTableElements(GENERIC *) EXPORT(RtlNumberGenericTableElements, 4);
#define RtlNumberGenericTableElements my_RtlNumberGenericTableElements
PVOID NTAPI my_RtlEnumerateGenericTable(GENERIC *, BOOLEAN) EXPORT(RtlEnumerateGenericTable, 8);
#define RtlEnumerateGenericTable my_RtlEnumerateGenericTable
PVOID NTAPI my_RtlInsertElementGenericTable(GENERIC *, PVOID, ULONG, BOOLEAN *) EXPORT(RtlInsertElementGenericTable, 16);
#define RtlInsertElementGenericTable my_RtlInsertElementGenericTable
PVOID NTAPI my_RtlLookupElementGenericTable(GENERIC *, PVOID) EXPORT(RtlLookupElementGenericTable, 8);
#define RtlLookupElementGenericTable my_RtlLookupElementGenericTable
PVOID NTAPI my_RtlGetElementGenericTable(GENERIC *, ULONG) EXPORT(RtlGetElementGenericTable, 8);
#define RtlGetElementGenericTable my_RtlGetElementGenericTable
PVOID NTAPI my_RtlEnumerateGenericTableWithoutSplaying(GENERIC *, PVOID *) EXPORT(RtlEnumerateGenericTableWithoutSplaying, 8);
#define RtlEnumerateGenericTableWithoutSplaying my_RtlEnumerateGenericTableWithoutSplaying
PVOID NTAPI my_RtlLookupElementGenericTableFull(GENERIC *, PVOID, PVOID *, ULONG *) EXPORT(RtlLookupElementGenericTableFull, 16);
#define RtlLookupElementGenericTableFull my_RtlLookupElementGenericTableFull
PVOID NTAPI my_RtlInsertElementGenericTableFull(GENERIC *, PVOID, ULONG, BOOLEAN *, PVOID, ULONG) EXPORT(RtlInsertElementGenericTableFull, 24);
#define RtlInsertElementGenericTableFull my_RtlInsertElementGenericTableFull
BOOLEAN NTAPI my_RtlDeleteElementGenericTable(GENERIC *, PVOID) EXPORT(RtlDeleteElementGenericTable, 8);
#define RtlDeleteElementGenericTable my_RtlDeleteElementGenericTable
VOID NTAPI my_RtlInitializeGenericTableAvl(AVL *, PVOID, PVOID, PVOID, PVOID) EXPORT(RtlInitializeGenericTableAvl, 20);
#define RtlInitializeGenericTableAvl my_RtlInitializeGenericTableAvl
BOOLEAN NTAPI my_RtlIsGenericTableEmptyAvl(AVL *) EXPORT(RtlIsGenericTableEmptyAvl, 4);
#define RtlIsGenericTableEmptyAvl my_RtlIsGenericTableEmptyAvl
ULONG NTAPI my_RtlNumberGenericTableElementsAvl(AVL *) EXPORT(RtlNumberGenericTableElementsAvl, 4);
#define RtlNumberGenericTableElementsAvl my_RtlNumberGenericTableElementsAvl
PVOID NTAPI my_RtlEnumerateGenericTableAvl(AVL *, BOOLEAN) EXPORT(RtlEnumerateGenericTableAvl, 8);
#define RtlEnumerateGenericTableAvl my_RtlEnumerateGenericTableAvl
PVOID NTAPI my_RtlInsertElementGenericTableAvl(AVL *, PVOID, ULONG, BOOLEAN *) EXPORT(RtlInsertElementGenericTableAvl, 16);
#define RtlInsertElementGenericTableAvl my_RtlInsertElementGenericTableAvl
PVOID NTAPI my_RtlLookupElementGenericTableAvl(AVL *, PVOID) EXPORT(RtlLookupElementGenericTableAvl, 8);
#define RtlLookupElementGenericTableAvl my_RtlLookupElementGenericTableAvl
PVOID NTAPI my_RtlGetElementGenericTableAvl(AVL *, ULONG) EXPORT(RtlGetElementGenericTableAvl, 8);
#define RtlGetElementGenericTableAvl my_RtlGetElementGenericTableAvl
PVOID NTAPI my_RtlEnumerateGenericTableWithoutSplayingAvl(AVL *, PVOID *) EXPORT(RtlEnumerateGenericTableWithoutSplayingAvl, 8);
#define RtlEnumerateGenericTableWithoutSplayingAvl my_RtlEnumerateGenericTableWithoutSplayingAvl
PVOID NTAPI my_RtlLookupElementGenericTableFullAvl(AVL *, PVOID, PVOID *, ULONG *) EXPORT(RtlLookupElementGenericTableFullAvl, 16);
#define RtlLookupElementGenericTableFullAvl my_RtlLookupElementGenericTableFullAvl
PVOID NTAPI my_RtlInsertElementGenericTableFullAvl(AVL *, PVOID, ULONG, BOOLEAN *, PVOID, ULONG) EXPORT(RtlInsertElementGenericTableFullAvl, 24);
#define RtlInsertElementGenericTableFullAvl my_RtlInsertElementGenericTableFullAvl
BOOLEAN NTAPI my_RtlDeleteElementGenericTableAvl(AVL *, PVOID) EXPORT(RtlDeleteElementGenericTableAvl, 8);
#define RtlDeleteElementGenericTableAvl my_RtlDeleteElementGenericTableAvl
PVOID NTAPI my_RtlEnumerateGenericTableLikeADirectory(AVL *, PVOID, PVOID, ULONG, PVOID *, ULONG *, PVOID) EXPORT(RtlEnumerateGenericTableLikeADirectory, 28);
#define RtlEnumerateGenericTableLikeADirectory my_RtlEnumerateGenericTableLikeADirectory
VOID NTAPI my_RtlInitializeUnicodePrefix(UPREFIX *) EXPORT(RtlInitializeUnicodePrefix, 4);
#define RtlInitializeUnicodePrefix my_RtlInitializeUnicodePrefix
PVOID NTAPI my_RtlFindUnicodePrefix(UPREFIX *, PUNICODE_STRING, ULONG) EXPORT(RtlFindUnicodePrefix, 12);
#define RtlFindUnicodePrefix my_RtlFindUnicodePrefix
BOOLEAN NTAPI my_RtlInsertUnicodePrefix(UPREFIX *, PUNICODE_STRING, UPREFIX_ENTRY *) EXPORT(RtlInsertUnicodePrefix, 12);
#define RtlInsertUnicodePrefix my_RtlInsertUnicodePrefix
VOID NTAPI my_RtlRemoveUnicodePrefix(UPREFIX *, UPREFIX_ENTRY *) EXPORT(RtlRemoveUnicodePrefix, 8);
#define RtlRemoveUnicodePrefix my_RtlRemoveUnicodePrefix
PVOID NTAPI my_RtlNextUnicodePrefix(UPREFIX *, BOOLEAN) EXPORT(RtlNextUnicodePrefix, 8);
#define RtlNextUnicodePrefix my_RtlNextUnicodePrefix
VOID NTAPI my_PfxInitialize(NPREFIX *) EXPORT(PfxInitialize, 4);
#define PfxInitialize my_PfxInitialize
BOOLEAN NTAPI my_PfxInsertPrefix(NPREFIX *, PSTRING, NPREFIX_ENTRY *) EXPORT(PfxInsertPrefix, 12);
#define PfxInsertPrefix my_PfxInsertPrefix
VOID NTAPI my_PfxRemovePrefix(NPREFIX *, NPREFIX_ENTRY *) EXPORT(PfxRemovePrefix, 8);
#define PfxRemovePrefix my_PfxRemovePrefix
PVOID NTAPI my_PfxFindPrefix(NPREFIX *, PSTRING) EXPORT(PfxFindPrefix, 8);
#define PfxFindPrefix my_PfxFindPrefix
VOID NTAPI my_RtlRunOnceInitialize(ONCE *) EXPORT(RtlRunOnceInitialize, 4);
#define RtlRunOnceInitialize my_RtlRunOnceInitialize
NTSTATUS NTAPI my_RtlRunOnceExecuteOnce(ONCE *, PVOID, PVOID, PVOID *) EXPORT(RtlRunOnceExecuteOnce, 16);
#define RtlRunOnceExecuteOnce my_RtlRunOnceExecuteOnce
NTSTATUS NTAPI my_RtlRunOnceBeginInitialize(ONCE *, ULONG, PVOID *) EXPORT(RtlRunOnceBeginInitialize, 12);
#define RtlRunOnceBeginInitialize my_RtlRunOnceBeginInitialize
NTSTATUS NTAPI my_RtlRunOnceComplete(ONCE *, ULONG, PVOID) EXPORT(RtlRunOnceComplete, 12);
#define RtlRunOnceComplete my_RtlRunOnceComplete
VOID NTAPI my_RtlGetCallersAddress(PVOID *, PVOID *) EXPORT(RtlGetCallersAddress, 8);
#undef RtlGetCallersAddress
#define RtlGetCallersAddress my_RtlGetCallersAddress
USHORT NTAPI my_RtlCaptureStackBackTrace(ULONG, ULONG, PVOID *, ULONG *) EXPORT(RtlCaptureStackBackTrace, 16);
#define RtlCaptureStackBackTrace my_RtlCaptureStackBackTrace
VOID NTAPI my_RtlSetBit(PRTL_BITMAP, ULONG) EXPORT(RtlSetBit, 8);
#define RtlSetBit my_RtlSetBit
VOID NTAPI my_RtlClearBit(PRTL_BITMAP, ULONG) EXPORT(RtlClearBit, 8);
#define RtlClearBit my_RtlClearBit
BOOLEAN NTAPI my_RtlTestBit(PRTL_BITMAP, ULONG) EXPORT(RtlTestBit, 8);
#define RtlTestBit my_RtlTestBit
CCHAR NTAPI my_RtlFindMostSignificantBit(ULONGLONG) EXPORT(RtlFindMostSignificantBit, 8);
#define RtlFindMostSignificantBit my_RtlFindMostSignificantBit
CCHAR NTAPI my_RtlFindLeastSignificantBit(ULONGLONG) EXPORT(RtlFindLeastSignificantBit, 8);
#define RtlFindLeastSignificantBit my_RtlFindLeastSignificantBit
ULONG NTAPI my_RtlFindClearRuns(PRTL_BITMAP, PVOID, ULONG, BOOLEAN) EXPORT(RtlFindClearRuns, 16);
#define RtlFindClearRuns my_RtlFindClearRuns
ULONG NTAPI my_RtlFindLongestRunClear(PRTL_BITMAP, ULONG *) EXPORT(RtlFindLongestRunClear, 8);
#define RtlFindLongestRunClear my_RtlFindLongestRunClear
ULONG NTAPI my_RtlFindFirstRunClear(PRTL_BITMAP, ULONG *) EXPORT(RtlFindFirstRunClear, 8);
#define RtlFindFirstRunClear my_RtlFindFirstRunClear
ULONG NTAPI my_RtlFindNextForwardRunClear(PRTL_BITMAP, ULONG, ULONG *) EXPORT(RtlFindNextForwardRunClear, 12);
#define RtlFindNextForwardRunClear my_RtlFindNextForwardRunClear
ULONG NTAPI my_RtlFindLastBackwardRunClear(PRTL_BITMAP, ULONG, ULONG *) EXPORT(RtlFindLastBackwardRunClear, 12);
#define RtlFindLastBackwardRunClear my_RtlFindLastBackwardRunClear

#ifndef _WIN64
LONGLONG NTAPI my_RtlLargeIntegerAdd(LONGLONG, LONGLONG) EXPORT(RtlLargeIntegerAdd, 16);
#define RtlLargeIntegerAdd my_RtlLargeIntegerAdd
LONGLONG NTAPI my_RtlLargeIntegerSubtract(LONGLONG, LONGLONG) EXPORT(RtlLargeIntegerSubtract, 16);
#define RtlLargeIntegerSubtract my_RtlLargeIntegerSubtract
LONGLONG NTAPI my_RtlLargeIntegerNegate(LONGLONG) EXPORT(RtlLargeIntegerNegate, 8);
#define RtlLargeIntegerNegate my_RtlLargeIntegerNegate
LONGLONG NTAPI my_RtlLargeIntegerShiftLeft(LONGLONG, CCHAR) EXPORT(RtlLargeIntegerShiftLeft, 12);
#define RtlLargeIntegerShiftLeft my_RtlLargeIntegerShiftLeft
LONGLONG NTAPI my_RtlLargeIntegerShiftRight(LONGLONG, CCHAR) EXPORT(RtlLargeIntegerShiftRight, 12);
#define RtlLargeIntegerShiftRight my_RtlLargeIntegerShiftRight
LONGLONG NTAPI my_RtlLargeIntegerArithmeticShift(LONGLONG, CCHAR) EXPORT(RtlLargeIntegerArithmeticShift, 12);
#define RtlLargeIntegerArithmeticShift my_RtlLargeIntegerArithmeticShift
LONGLONG NTAPI my_RtlLargeIntegerDivide(LONGLONG, LONGLONG, PVOID) EXPORT(RtlLargeIntegerDivide, 20);
#define RtlLargeIntegerDivide my_RtlLargeIntegerDivide
LONGLONG NTAPI my_RtlExtendedLargeIntegerDivide(LONGLONG, ULONG, ULONG *) EXPORT(RtlExtendedLargeIntegerDivide, 16);
#define RtlExtendedLargeIntegerDivide my_RtlExtendedLargeIntegerDivide
ULONG NTAPI my_RtlEnlargedUnsignedDivide(ULONGLONG, ULONG, ULONG *) EXPORT(RtlEnlargedUnsignedDivide, 16);
#define RtlEnlargedUnsignedDivide my_RtlEnlargedUnsignedDivide
LONGLONG NTAPI my_RtlExtendedMagicDivide(LONGLONG, ULONGLONG, CCHAR) EXPORT(RtlExtendedMagicDivide, 20);
#define RtlExtendedMagicDivide my_RtlExtendedMagicDivide
LONGLONG NTAPI my_RtlExtendedIntegerMultiply(LONGLONG, LONG) EXPORT(RtlExtendedIntegerMultiply, 12);
#define RtlExtendedIntegerMultiply my_RtlExtendedIntegerMultiply
LONGLONG NTAPI my_RtlEnlargedIntegerMultiply(LONG, LONG) EXPORT(RtlEnlargedIntegerMultiply, 8);
#define RtlEnlargedIntegerMultiply my_RtlEnlargedIntegerMultiply
ULONGLONG NTAPI my_RtlEnlargedUnsignedMultiply(ULONG, ULONG) EXPORT(RtlEnlargedUnsignedMultiply, 8);
#define RtlEnlargedUnsignedMultiply my_RtlEnlargedUnsignedMultiply
LONGLONG NTAPI my_RtlConvertLongToLargeInteger(LONG) EXPORT(RtlConvertLongToLargeInteger, 4);
#define RtlConvertLongToLargeInteger my_RtlConvertLongToLargeInteger
ULONGLONG NTAPI my_RtlConvertUlongToLargeInteger(ULONG) EXPORT(RtlConvertUlongToLargeInteger, 4);
#define RtlConvertUlongToLargeInteger my_RtlConvertUlongToLargeInteger
#endif

KTEST(bitmap_ranges)
{
    make(0, 0, 64);
    CHECK_EQ(map.SizeOfBitMap, 64);
    CHECK_PTR(map.Buffer, words);
    RtlSetBits(&map, 30, 4);
    CHECK_EQ(words[0], 0xC0000000);
    CHECK_EQ(words[1], 3);
    CHECK(RtlAreBitsSet(&map, 30, 4));
    CHECK(!RtlAreBitsSet(&map, 30, 5));
    CHECK(!RtlAreBitsSet(&map, 30, 0));
    CHECK(RtlAreBitsClear(&map, 34, 30));
    CHECK(!RtlAreBitsClear(&map, 34, 31));
    CHECK(!RtlAreBitsClear(&map, 33, 2));
    RtlClearBits(&map, 31, 2);
    CHECK_EQ(words[0], 0x40000000);
    CHECK_EQ(words[1], 2);
    RtlSetBits(&map, 5, 0);
    CHECK_EQ(words[0], 0x40000000);
    RtlSetBit(&map, 0);
    CHECK(RtlTestBit(&map, 0));
    RtlClearBit(&map, 0);
    CHECK(!RtlTestBit(&map, 0));
    RtlSetAllBits(&map);
    CHECK_EQ(words[1], NONE);
    CHECK_EQ(words[2], 0xDEADBEEF);
    CHECK_EQ(RtlNumberOfSetBits(&map), 64);
    RtlClearAllBits(&map);
    CHECK_EQ(RtlNumberOfClearBits(&map), 64);
    RtlSetBits(&map, 0, 64);
    CHECK_EQ(words[0], NONE);
    CHECK_EQ(words[2], 0xDEADBEEF);
}

KTEST(bitmap_searches)
{
    make(0xFFFFFF0F, 0xFFFFFFFF, 60);
    CHECK_EQ(RtlFindClearBits(&map, 4, 0), 4);
    CHECK_EQ(RtlFindClearBits(&map, 4, 20), 4);
    CHECK_EQ(RtlFindClearBits(&map, 4, 99), 4);
    CHECK_EQ(RtlFindClearBits(&map, 5, 0), NONE);
    CHECK_EQ(RtlFindSetBits(&map, 4, 2), 8);
    CHECK_EQ(RtlFindSetBits(&map, 4, 0), 0);
    CHECK_EQ(RtlFindSetBits(&map, 52, 0), 8);
    CHECK_EQ(RtlFindSetBits(&map, 53, 0), NONE);
    CHECK_EQ(RtlFindClearBitsAndSet(&map, 2, 0), 4);
    CHECK_EQ(words[0], 0xFFFFFF3F);
    CHECK_EQ(RtlFindClearBitsAndSet(&map, 3, 0), NONE);
    CHECK_EQ(words[0], 0xFFFFFF3F);
    CHECK_EQ(RtlFindSetBitsAndClear(&map, 8, 16), 16);
    CHECK_EQ(words[0], 0xFF00FF3F);
    CHECK_EQ(RtlNumberOfClearBits(&map), 10);
    CHECK_EQ(RtlNumberOfSetBits(&map), 50);
}

KTEST(bitmap_runs)
{
    RTL_BITMAP_RUN runs[4];
    ULONG start = 77;
    make(0x18E1, 0, 16); /* clear: 1-4, 8-10, 13-15 */
    CHECK_EQ(RtlFindClearRuns(&map, runs, 2, FALSE), 2);
    CHECK_EQ(runs[0].StartingIndex, 1);
    CHECK_EQ(runs[0].NumberOfBits, 4);
    CHECK_EQ(runs[1].StartingIndex, 8);
    CHECK_EQ(RtlFindClearRuns(&map, runs, 4, TRUE), 3);
    CHECK_EQ(runs[0].NumberOfBits, 4);
    CHECK_EQ(runs[2].NumberOfBits, 3);
    CHECK_EQ(RtlFindLongestRunClear(&map, &start), 4);
    CHECK_EQ(start, 1);
    CHECK_EQ(RtlFindFirstRunClear(&map, &start), 4);
    CHECK_EQ(RtlFindNextForwardRunClear(&map, 9, &start), 2);
    CHECK_EQ(start, 9);
    CHECK_EQ(RtlFindNextForwardRunClear(&map, 16, &start), 0);
    CHECK_EQ(RtlFindLastBackwardRunClear(&map, 9, &start), 2);
    CHECK_EQ(start, 8);
    CHECK_EQ(RtlFindLastBackwardRunClear(&map, 7, &start), 4);
    CHECK_EQ(start, 1);
    CHECK_EQ(RtlFindLastBackwardRunClear(&map, 0, &start), 0);
    make(NONE, NONE, 64);
    CHECK_EQ(RtlFindLongestRunClear(&map, &start), 0);
    CHECK_EQ(RtlFindClearRuns(&map, runs, 4, FALSE), 0);
    CHECK_EQ((CCHAR)RtlFindMostSignificantBit(0x8000000000000000ULL), 63);
    CHECK_EQ((CCHAR)RtlFindMostSignificantBit(5), 2);
    CHECK_EQ((CCHAR)RtlFindMostSignificantBit(0), (CCHAR)-1);
    CHECK_EQ((CCHAR)RtlFindLeastSignificantBit(0x50), 4);
    CHECK_EQ((CCHAR)RtlFindLeastSignificantBit(0), (CCHAR)-1);
}

/* ---- Splay trees. ---- */

static SPLAY nodes[7];

static PSPLAY tree(VOID) /* 0..6 in order, as a chain of right children */
{
    for (int i = 0; i < 7; i++) {
        nodes[i].Parent = &nodes[i == 0 ? 0 : i - 1];
        nodes[i].LeftChild = NULL;
        nodes[i].RightChild = i == 6 ? NULL : &nodes[i + 1];
    }
    return &nodes[0];
}

static ULONG in_order(PSPLAY root) /* the nodes' numbers as hexadecimal digits */
{
    ULONG digits = 0;
    while (root != NULL && root->LeftChild != NULL) {
        root = root->LeftChild;
    }
    for (; root != NULL; root = RtlRealSuccessor(root)) {
        digits = digits << 4 | (ULONG)(root - nodes + 1);
    }
    return digits;
}

KTEST(splay_trees)
{
    PSPLAY root = tree();
    CHECK_EQ(in_order(root), 0x1234567);
    root = RtlSplay(&nodes[4]);
    CHECK_PTR(root, &nodes[4]);
    CHECK_PTR(root->Parent, root);
    CHECK_EQ(in_order(root), 0x1234567);
    CHECK_PTR(RtlRealPredecessor(&nodes[4]), &nodes[3]);
    CHECK_PTR(RtlRealSuccessor(&nodes[4]), &nodes[5]);
    CHECK_PTR(RtlRealPredecessor(&nodes[0]), NULL);
    CHECK_PTR(RtlRealSuccessor(&nodes[6]), NULL);
    CHECK_PTR(RtlSubtreeSuccessor(&nodes[6]), NULL);
    CHECK_PTR(RtlSubtreePredecessor(root), &nodes[3]);
    root = RtlDelete(&nodes[4]);
    CHECK_EQ(in_order(root), 0x123467);
    CHECK_PTR(root->Parent, root);
    RtlDeleteNoSplay(root, &root);
    CHECK_PTR(root->Parent, root);
    root = RtlDelete(&nodes[0]);
    root = RtlDelete(&nodes[6]);
    CHECK_EQ(in_order(root) & 0xF, 6);
    while (root != NULL) {
        root = RtlDelete(root);
    }
    CHECK_PTR(root, NULL);
}

/* ---- Tables. ---- */

static LONG allocations;
static PVOID context_seen;

static RTL_GENERIC_COMPARE_RESULTS NTAPI compare_splay(GENERIC *table, PVOID first, PVOID second)
{
    ULONG a = *(ULONG *)first, b = *(ULONG *)second;
    context_seen = table->TableContext;
    return a < b ? GenericLessThan : a > b ? GenericGreaterThan : GenericEqual;
}

static PVOID NTAPI allocate_splay(GENERIC *table, ULONG bytes)
{
    (VOID)table;
    allocations++;
    return ExAllocatePoolWithTag(PagedPool, bytes, TAG);
}

static VOID NTAPI free_splay(GENERIC *table, PVOID element)
{
    (VOID)table;
    allocations--;
    ExFreePoolWithTag(element, TAG);
}

KTEST(generic_table)
{
    static const ULONG keys[] = {50, 30, 90, 10, 70};
    GENERIC table;
    BOOLEAN is_new;
    PVOID restart = NULL, node;
    ULONG key, found;
    RtlInitializeGenericTable(&table, compare_splay, allocate_splay, free_splay, &table);
    CHECK(RtlIsGenericTableEmpty(&table));
    CHECK_PTR(RtlEnumerateGenericTable(&table, TRUE), NULL);
    for (int i = 0; i < 5; i++) {
        key = keys[i];
        ULONG *place = RtlInsertElementGenericTable(&table, &key, sizeof(key), &is_new);
        CHECK(is_new && place != &key && *place == key);
        CHECK_EQ((ULONG_PTR)place % 8, 0);
    }
    CHECK_PTR(context_seen, &table);
    CHECK_EQ(allocations, 5);
    key = 30;
    ULONG *thirty = RtlInsertElementGenericTable(&table, &key, sizeof(key), &is_new);
    CHECK_EQ(is_new, FALSE);
    CHECK_EQ(RtlNumberGenericTableElements(&table), 5);
    CHECK_PTR(RtlLookupElementGenericTable(&table, &key), thirty);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTable(&table, 0), 50);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTable(&table, 4), 70);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTable(&table, 2), 90);
    CHECK_PTR(RtlGetElementGenericTable(&table, 5), NULL);
    CHECK_PTR(RtlGetElementGenericTable(&table, NONE), NULL);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTable(&table, TRUE), 10);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTable(&table, FALSE), 30);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTable(&table, FALSE), 50);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableWithoutSplaying(&table, &restart), 10);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableWithoutSplaying(&table, &restart), 30);
    key = 60;
    CHECK_PTR(RtlLookupElementGenericTableFull(&table, &key, &node, &found), NULL);
    CHECK(found == 2 || found == 3);
    CHECK_EQ(*(ULONG *)RtlInsertElementGenericTableFull(&table, &key, sizeof(key), &is_new, node, found), 60);
    CHECK_PTR(RtlLookupElementGenericTableFull(&table, &key, &node, &found), RtlLookupElementGenericTable(&table, &key));
    CHECK_EQ(found, 1);
    key = 99;
    CHECK(!RtlDeleteElementGenericTable(&table, &key));
    key = 50;
    CHECK(RtlDeleteElementGenericTable(&table, &key));
    CHECK_PTR(RtlLookupElementGenericTable(&table, &key), NULL);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTable(&table, 0), 30);
    while (!RtlIsGenericTableEmpty(&table)) {
        key = *(ULONG *)RtlGetElementGenericTable(&table, 0);
        if (!RtlDeleteElementGenericTable(&table, &key)) {
            break;
        }
    }
    CHECK_EQ(allocations, 0);
    CHECK_EQ(RtlNumberGenericTableElements(&table), 0);
}

static LONG avl_allocations;
static BOOLEAN is_exhausted;

static RTL_GENERIC_COMPARE_RESULTS NTAPI compare_avl(AVL *table, PVOID first, PVOID second)
{
    ULONG a = *(ULONG *)first, b = *(ULONG *)second;
    (VOID)table;
    return a < b ? GenericLessThan : a > b ? GenericGreaterThan : GenericEqual;
}

static PVOID NTAPI allocate_avl(AVL *table, ULONG bytes)
{
    (VOID)table;
    if (is_exhausted) {
        return NULL;
    }
    avl_allocations++;
    return ExAllocatePoolWithTag(PagedPool, bytes, TAG);
}

static VOID NTAPI free_avl(AVL *table, PVOID element)
{
    (VOID)table;
    avl_allocations--;
    ExFreePoolWithTag(element, TAG);
}

static NTSTATUS NTAPI match_even(AVL *table, PVOID element, PVOID data)
{
    (VOID)table;
    if (*(ULONG *)element > *(ULONG *)data) {
        return 0xC0000273; /* STATUS_NO_MORE_MATCHES */
    }
    return *(ULONG *)element % 2 == 0 ? STATUS_SUCCESS : (NTSTATUS)0xC0000272;
}

static ULONG directory(AVL *table, ULONG next, ULONG from, ULONG limit, PVOID *restart, ULONG *deletions)
{
    ULONG *place = RtlEnumerateGenericTableLikeADirectory(table, match_even, &limit, next, restart, deletions, &from);
    return place == NULL ? 0 : *place;
}

KTEST(avl_table)
{
    AVL table;
    BOOLEAN is_new;
    PVOID restart = NULL, node;
    ULONG key, found, deletions = 0;
    RtlInitializeGenericTableAvl(&table, compare_avl, allocate_avl, free_avl, NULL);
    CHECK(RtlIsGenericTableEmptyAvl(&table));
    CHECK_PTR(table.BalancedRoot.Parent, &table.BalancedRoot);
    CHECK_PTR(RtlEnumerateGenericTableAvl(&table, TRUE), NULL);
    for (key = 1; key <= 15; key++) {
        RtlInsertElementGenericTableAvl(&table, &key, sizeof(key), &is_new);
    }
    CHECK_EQ(is_new, TRUE);
    CHECK_EQ(RtlNumberGenericTableElementsAvl(&table), 15);
    CHECK_EQ(table.DepthOfTree, 4);
    CHECK_EQ(avl_allocations, 15);
    key = 7;
    ULONG *seven = RtlLookupElementGenericTableAvl(&table, &key);
    CHECK(seven != NULL && *seven == 7);
    CHECK_PTR(RtlInsertElementGenericTableAvl(&table, &key, sizeof(key), &is_new), seven);
    CHECK_EQ(is_new, FALSE);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTableAvl(&table, 0), 1);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTableAvl(&table, 14), 15);
    CHECK_EQ(*(ULONG *)RtlGetElementGenericTableAvl(&table, 3), 4);
    CHECK_PTR(RtlGetElementGenericTableAvl(&table, 15), NULL);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableAvl(&table, TRUE), 1);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableAvl(&table, FALSE), 2);
    key = 2;
    CHECK(RtlDeleteElementGenericTableAvl(&table, &key));
    CHECK(!RtlDeleteElementGenericTableAvl(&table, &key));
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableAvl(&table, FALSE), 3);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableWithoutSplayingAvl(&table, &restart), 1);
    CHECK_EQ(*(ULONG *)RtlEnumerateGenericTableWithoutSplayingAvl(&table, &restart), 3);
    key = 100;
    CHECK_PTR(RtlLookupElementGenericTableFullAvl(&table, &key, &node, &found), NULL);
    CHECK_EQ(found, 3);
    CHECK_EQ(*(ULONG *)RtlInsertElementGenericTableFullAvl(&table, &key, sizeof(key), NULL, node, found), 100);
    is_exhausted = TRUE;
    key = 200;
    CHECK_PTR(RtlInsertElementGenericTableAvl(&table, &key, sizeof(key), &is_new), NULL);
    CHECK_EQ(is_new, FALSE);
    is_exhausted = FALSE;
    restart = NULL;
    CHECK_EQ(directory(&table, FALSE, 5, 12, &restart, &deletions), 6);
    CHECK_EQ(directory(&table, TRUE, 0, 12, &restart, &deletions), 8);
    CHECK_EQ(directory(&table, FALSE, 0, 12, &restart, &deletions), 8);
    key = 8;
    CHECK(RtlDeleteElementGenericTableAvl(&table, &key));
    CHECK_EQ(directory(&table, TRUE, 8, 12, &restart, &deletions), 10);
    CHECK_EQ(directory(&table, TRUE, 0, 12, &restart, &deletions), 12);
    CHECK_EQ(directory(&table, TRUE, 0, 12, &restart, &deletions), 0);
    while (!RtlIsGenericTableEmptyAvl(&table)) {
        key = *(ULONG *)RtlGetElementGenericTableAvl(&table, 0);
        if (!RtlDeleteElementGenericTableAvl(&table, &key)) {
            break;
        }
    }
    CHECK_EQ(avl_allocations, 0);
    CHECK_EQ(table.DepthOfTree, 0);
}

KTEST(prefixes)
{
    static UNICODE_STRING names[3], path;
    static UPREFIX_ENTRY entries[4];
    UPREFIX table;
    RtlInitializeUnicodePrefix(&table);
    RtlInitUnicodeString(&path, L"\\Device\\Lpt\\x");
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 0), NULL);
    RtlInitUnicodeString(&names[0], L"\\");
    RtlInitUnicodeString(&names[1], L"\\Device");
    RtlInitUnicodeString(&names[2], L"\\Device\\Lpt");
    CHECK(RtlInsertUnicodePrefix(&table, &names[0], &entries[0]));
    CHECK(RtlInsertUnicodePrefix(&table, &names[1], &entries[1]));
    CHECK(RtlInsertUnicodePrefix(&table, &names[2], &entries[2]));
    CHECK(!RtlInsertUnicodePrefix(&table, &names[2], &entries[3]));
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 99), &entries[2]);
    CHECK_PTR(entries[2].Prefix, &names[2]);
    RtlInitUnicodeString(&path, L"\\Device\\Lpt2");
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 99), &entries[1]);
    RtlInitUnicodeString(&path, L"\\DEVICE\\lpt");
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 99), &entries[0]);
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 0), &entries[2]);
    int count = 0;
    for (PVOID entry = RtlNextUnicodePrefix(&table, TRUE); entry != NULL; entry = RtlNextUnicodePrefix(&table, FALSE)) {
        count++;
    }
    CHECK_EQ(count, 3);
    RtlRemoveUnicodePrefix(&table, &entries[2]);
    CHECK_PTR(RtlFindUnicodePrefix(&table, &path, 0), &entries[1]);
    static STRING narrow, full;
    static NPREFIX_ENTRY entry;
    NPREFIX narrow_table;
    PfxInitialize(&narrow_table);
    RtlInitString(&narrow, "\\a\\b");
    RtlInitString(&full, "\\a\\b\\c");
    CHECK(PfxInsertPrefix(&narrow_table, &narrow, &entry));
    CHECK(!PfxInsertPrefix(&narrow_table, &narrow, &entry));
    CHECK_PTR(PfxFindPrefix(&narrow_table, &full), &entry);
    PfxRemovePrefix(&narrow_table, &entry);
    CHECK_PTR(PfxFindPrefix(&narrow_table, &full), NULL);
}

static ULONG once_calls;

static ULONG NTAPI initialize_once(ONCE *once, PVOID parameter, PVOID *context)
{
    (VOID)once;
    once_calls++;
    *context = parameter;
    return once_calls >= 2;
}

KTEST(run_once)
{
    ONCE once = {NULL};
    PVOID context = NULL;
    RtlRunOnceInitialize(&once);
    CHECK_STATUS(RtlRunOnceExecuteOnce(&once, initialize_once, (PVOID)0x40, &context), STATUS_UNSUCCESSFUL);
    CHECK_STATUS(RtlRunOnceExecuteOnce(&once, initialize_once, (PVOID)0x40, &context), STATUS_SUCCESS);
    CHECK_PTR(context, (PVOID)0x40);
    CHECK_EQ(once_calls, 2);
    context = NULL;
    CHECK_STATUS(RtlRunOnceExecuteOnce(&once, initialize_once, (PVOID)0x80, &context), STATUS_SUCCESS);
    CHECK_PTR(context, (PVOID)0x40);
    CHECK_EQ(once_calls, 2);
    RtlRunOnceInitialize(&once);
    CHECK_STATUS(RtlRunOnceBeginInitialize(&once, 1, &context), STATUS_UNSUCCESSFUL);
    CHECK_STATUS(RtlRunOnceComplete(&once, 0, NULL), STATUS_UNSUCCESSFUL);
    CHECK_STATUS(RtlRunOnceBeginInitialize(&once, 0, &context), STATUS_PENDING);
    CHECK_STATUS(RtlRunOnceComplete(&once, 4, NULL), STATUS_SUCCESS);
    CHECK_STATUS(RtlRunOnceBeginInitialize(&once, 2, &context), STATUS_PENDING);
    CHECK_STATUS(RtlRunOnceBeginInitialize(&once, 2, &context), STATUS_PENDING);
    CHECK_STATUS(RtlRunOnceComplete(&once, 2, (PVOID)0x100), STATUS_SUCCESS);
    CHECK_STATUS(RtlRunOnceComplete(&once, 2, (PVOID)0x200), STATUS_UNSUCCESSFUL);
    CHECK_STATUS(RtlRunOnceBeginInitialize(&once, 0, &context), STATUS_SUCCESS);
    CHECK_PTR(context, (PVOID)0x100);
}

static __attribute__((noinline)) VOID callers(PVOID *caller, PVOID *callers_caller, PVOID *trace, USHORT *count)
{
    RtlGetCallersAddress(caller, callers_caller);
    *count = RtlCaptureStackBackTrace(0, 2, trace, NULL);
    __asm__ volatile("");
}

KTEST(back_traces)
{
    PVOID caller, callers_caller, trace[4] = {0};
    USHORT count;
    callers(&caller, &callers_caller, trace, &count);
    CHECK(count >= 1);
    CHECK((ULONG_PTR)trace[0] > (ULONG_PTR)callers && (ULONG_PTR)trace[0] < (ULONG_PTR)callers + 256);
    CHECK_EQ(RtlCaptureStackBackTrace(0, 0, trace, NULL), 0);
#ifndef _WIN64
    CHECK_EQ(count, 2);
    CHECK_PTR(trace[1], caller);
    CHECK((ULONG_PTR)caller > (ULONG_PTR)ktest_run_back_traces);
#endif
}

#ifndef _WIN64
KTEST(large_integers)
{
    LARGE_INTEGER a = {.QuadPart = 0x100000007LL}, b = {.QuadPart = -3}, remainder;
    ULONG small;
    CHECK_EQ(RtlLargeIntegerAdd(a.QuadPart, b.QuadPart), 0x100000004LL);
    CHECK_EQ(RtlLargeIntegerSubtract(a.QuadPart, b.QuadPart), 0x10000000ALL);
    CHECK_EQ(RtlLargeIntegerNegate(b.QuadPart), 3);
    CHECK_EQ(RtlLargeIntegerShiftLeft(a.QuadPart, 4), 0x1000000070LL);
    CHECK_EQ(RtlLargeIntegerShiftRight(b.QuadPart, 60), 15);
    CHECK_EQ(RtlLargeIntegerArithmeticShift(b.QuadPart, 1), -2LL);
    CHECK_EQ(RtlLargeIntegerDivide(a.QuadPart, 10, &remainder), 429496730);
    CHECK_EQ(remainder.QuadPart, 3);
    CHECK_EQ(RtlExtendedLargeIntegerDivide(a.QuadPart, 10, &small), 429496730);
    CHECK_EQ(small, 3);
    CHECK_EQ(RtlEnlargedUnsignedDivide(a.QuadPart, 16, NULL), 0x10000000);
    CHECK_EQ(RtlExtendedMagicDivide(-20001, 0xD1B71758E219652CULL, 13), -2LL);
    CHECK_EQ(RtlExtendedIntegerMultiply(a.QuadPart, -2), -0x20000000ELL);
    CHECK_EQ(RtlEnlargedIntegerMultiply(-5, 0x40000000), -0x140000000LL);
    CHECK_EQ(RtlEnlargedUnsignedMultiply(0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE00000001ULL);
    CHECK_EQ(RtlConvertLongToLargeInteger(-1), ~0ULL);
    CHECK_EQ(RtlConvertUlongToLargeInteger(0xFFFFFFFF), 0xFFFFFFFFULL);
}
#define I386_TESTS , KTEST_ENTRY(large_integers)
#else
#define I386_TESTS
#endif

KTEST_FAMILY("rtl_tables", KTEST_ENTRY(bitmap_ranges), KTEST_ENTRY(bitmap_searches), KTEST_ENTRY(bitmap_runs),
             KTEST_ENTRY(splay_trees), KTEST_ENTRY(generic_table), KTEST_ENTRY(avl_table), KTEST_ENTRY(prefixes),
             KTEST_ENTRY(run_once), KTEST_ENTRY(back_traces) I386_TESTS);
