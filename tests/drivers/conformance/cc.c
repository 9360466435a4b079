/* The cache manager, over a file system of the test's own: one file in memory. */
#include "devices.h"

typedef struct {
    LARGE_INTEGER allocation, size, valid;
} file_sizes;
typedef struct {
    PVOID acquire_write, release_write, acquire_read, release_read;
} callbacks;

NTKERNELAPI VOID NTAPI CcInitializeCacheMap(PFILE_OBJECT, file_sizes *, BOOLEAN, callbacks *, PVOID);
NTKERNELAPI BOOLEAN NTAPI CcUninitializeCacheMap(PFILE_OBJECT, PLARGE_INTEGER, PVOID);
NTKERNELAPI BOOLEAN NTAPI CcCopyRead(PFILE_OBJECT, PLARGE_INTEGER, ULONG, BOOLEAN, PVOID, PIO_STATUS_BLOCK);
NTKERNELAPI BOOLEAN NTAPI CcCopyWrite(PFILE_OBJECT, PLARGE_INTEGER, ULONG, BOOLEAN, PVOID);
NTKERNELAPI VOID NTAPI CcFlushCache(PVOID, PLARGE_INTEGER, ULONG, PIO_STATUS_BLOCK);
NTKERNELAPI BOOLEAN NTAPI CcPurgeCacheSection(PVOID, PLARGE_INTEGER, ULONG, ULONG);
NTKERNELAPI VOID NTAPI CcSetFileSizes(PFILE_OBJECT, file_sizes *);
NTKERNELAPI BOOLEAN NTAPI CcZeroData(PFILE_OBJECT, PLARGE_INTEGER, PLARGE_INTEGER, BOOLEAN);
NTKERNELAPI VOID NTAPI CcMdlRead(PFILE_OBJECT, PLARGE_INTEGER, ULONG, PMDL *, PIO_STATUS_BLOCK);
NTKERNELAPI VOID NTAPI CcMdlReadComplete(PFILE_OBJECT, PMDL);
NTKERNELAPI VOID NTAPI CcPrepareMdlWrite(PFILE_OBJECT, PLARGE_INTEGER, ULONG, PMDL *, PIO_STATUS_BLOCK);
NTKERNELAPI VOID NTAPI CcMdlWriteComplete(PFILE_OBJECT, PLARGE_INTEGER, PMDL);
NTKERNELAPI BOOLEAN NTAPI CcCanIWrite(PFILE_OBJECT, ULONG, BOOLEAN, BOOLEAN);
NTKERNELAPI VOID NTAPI CcDeferWrite(PFILE_OBJECT, PVOID, PVOID, PVOID, ULONG, BOOLEAN);
NTKERNELAPI VOID NTAPI CcSetAdditionalCacheAttributes(PFILE_OBJECT, BOOLEAN, BOOLEAN);
NTKERNELAPI VOID NTAPI CcSetReadAheadGranularity(PFILE_OBJECT, ULONG);
NTKERNELAPI BOOLEAN NTAPI CcMapData(PFILE_OBJECT, PLARGE_INTEGER, ULONG, ULONG, PVOID *, PVOID *);
NTKERNELAPI BOOLEAN NTAPI CcPinMappedData(PFILE_OBJECT, PLARGE_INTEGER, ULONG, ULONG, PVOID *);
NTKERNELAPI BOOLEAN NTAPI CcPinRead(PFILE_OBJECT, PLARGE_INTEGER, ULONG, ULONG, PVOID *, PVOID *);
NTKERNELAPI BOOLEAN NTAPI CcPreparePinWrite(PFILE_OBJECT, PLARGE_INTEGER, ULONG, BOOLEAN, ULONG, PVOID *, PVOID *);
NTKERNELAPI VOID NTAPI CcSetDirtyPinnedData(PVOID, PLARGE_INTEGER);
NTKERNELAPI VOID NTAPI CcUnpinData(PVOID);
NTKERNELAPI VOID NTAPI CcUnpinDataForThread(PVOID, ULONG_PTR);
NTKERNELAPI VOID NTAPI CcSetBcbOwnerPointer(PVOID, PVOID);
NTKERNELAPI VOID NTAPI CcRepinBcb(PVOID);
NTKERNELAPI VOID NTAPI CcUnpinRepinnedBcb(PVOID, BOOLEAN, PIO_STATUS_BLOCK);
NTKERNELAPI PFILE_OBJECT NTAPI CcGetFileObjectFromBcb(PVOID);
NTKERNELAPI PFILE_OBJECT NTAPI IoCreateStreamFileObject(PFILE_OBJECT, PDEVICE_OBJECT);

#define BYTES 16384
static UCHAR disk[BYTES], buffer[8192];
static ULONG reads, writes, irp_flags;
static PVOID sections[3];
static PDEVICE_OBJECT device;
static PFILE_OBJECT file;
static file_sizes sizes;

static NTSTATUS serve(PDEVICE_OBJECT target, PIRP irp, PIO_STACK_LOCATION stack)
{
    (VOID)target;
    if (stack->MajorFunction != IRP_MJ_READ && stack->MajorFunction != IRP_MJ_WRITE) {
        return finish(irp, STATUS_SUCCESS, 0);
    }
    BOOLEAN is_write = stack->MajorFunction == IRP_MJ_WRITE;
    ULONG offset = (ULONG)stack->Parameters.Read.ByteOffset.QuadPart, length = stack->Parameters.Read.Length;
    PUCHAR data = MmGetSystemAddressForMdlSafe(irp->MdlAddress, NormalPagePriority);
    irp_flags = irp->Flags;
    is_write ? writes++ : reads++;
    if (offset >= BYTES) {
        return finish(irp, STATUS_END_OF_FILE, 0);
    }
    for (ULONG i = 0; i < length && offset + i < BYTES; i++) {
        if (is_write) {
            disk[offset + i] = data[i];
        } else {
            data[i] = disk[offset + i];
        }
    }
    return finish(irp, STATUS_SUCCESS, length);
}

/* What the worker threads call: [0] to write, [1] to read ahead. The event is set at the end. */
static ULONG acquired[2];
static KEVENT released[2];

static BOOLEAN NTAPI acquire_write(PVOID context, BOOLEAN wait)
{
    CHECK_PTR(context, &sizes);
    acquired[0] += wait;
    return TRUE;
}
static BOOLEAN NTAPI acquire_read(PVOID context, BOOLEAN wait)
{
    CHECK_PTR(context, &sizes);
    acquired[1] += wait;
    return TRUE;
}
static VOID NTAPI release_write(PVOID context)
{
    (VOID)context;
    KeSetEvent(&released[0], 0, FALSE);
}
static VOID NTAPI release_read(PVOID context)
{
    (VOID)context;
    KeSetEvent(&released[1], 0, FALSE);
}

static VOID await(ULONG which)
{
    CHECK_STATUS(KeWaitForSingleObject(&released[which], Executive, KernelMode, FALSE, NULL), STATUS_SUCCESS);
}

static BOOLEAN start(void)
{
    static callbacks routines = {acquire_write, release_write, acquire_read, release_read};
    device = new_device(NULL, serve);
    if (device == NULL) {
        return FALSE;
    }
    file = IoCreateStreamFileObject(NULL, device);
    if (!CHECK(file != NULL)) {
        return FALSE;
    }
    for (ULONG i = 0; i < BYTES; i++) {
        disk[i] = (UCHAR)(i * 7 + i / 256);
    }
    reads = writes = acquired[0] = acquired[1] = 0;
    KeInitializeEvent(&released[0], SynchronizationEvent, FALSE);
    KeInitializeEvent(&released[1], SynchronizationEvent, FALSE);
    sizes.allocation.QuadPart = sizes.size.QuadPart = sizes.valid.QuadPart = BYTES;
    file->SectionObjectPointer = (PVOID)sections;
    CcInitializeCacheMap(file, &sizes, TRUE, &routines, &sizes);
    /* Tests switch on what they are about; the others count requests. */
    CcSetAdditionalCacheAttributes(file, TRUE, TRUE);
    CHECK(sections[1] != NULL);
    CHECK(file->PrivateCacheMap != NULL);
    return TRUE;
}

static VOID stop(void)
{
    CHECK(CcUninitializeCacheMap(file, NULL, NULL));
    CHECK_PTR(sections[1], NULL);
    CHECK_PTR(file->PrivateCacheMap, NULL);
    CHECK(!CcUninitializeCacheMap(file, NULL, NULL));
    ObDereferenceObject(file);
    IoDeleteDevice(device);
}

static LARGE_INTEGER at(LONGLONG offset)
{
    LARGE_INTEGER value;
    value.QuadPart = offset;
    return value;
}

KTEST(reading)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER offset = at(4000);
    if (!start()) {
        return;
    }
    CHECK(!CcCopyRead(file, &offset, 200, FALSE, buffer, &block));
    CHECK_EQ(reads, 0);
    CHECK(CcCopyRead(file, &offset, 200, TRUE, buffer, &block));
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(block.Information, 200);
    CHECK_MEM(buffer, disk + 4000, 200);
    CHECK_EQ(reads, 2);
    CHECK_EQ(irp_flags & 3, 3);
    CHECK(CcCopyRead(file, &offset, 200, FALSE, buffer, &block));
    CHECK_EQ(reads, 2);
    disk[4000]++;
    CHECK(CcCopyRead(file, &offset, 1, TRUE, buffer, &block));
    CHECK_EQ(buffer[0], (UCHAR)(disk[4000] - 1));
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    CHECK(CcCopyRead(file, &offset, 1, TRUE, buffer, &block));
    CHECK_EQ(buffer[0], disk[4000]);
    CHECK_EQ(reads, 3);
    stop();
    CHECK_EQ(writes, 0);
}

KTEST(writing)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER offset = at(100), whole = at(4096), none = at(0);
    if (!start()) {
        return;
    }
    for (ULONG i = 0; i < sizeof(buffer); i++) {
        buffer[i] = 0x5A;
    }
    CHECK(!CcCopyWrite(file, &offset, 50, FALSE, buffer));
    CHECK(CcCopyWrite(file, &offset, 50, TRUE, buffer));
    CHECK_EQ(reads, 1);
    CHECK_EQ(writes, 0);
    CHECK(disk[100] != 0x5A);
    CHECK(CcCopyWrite(file, &whole, 4096, FALSE, buffer));
    CHECK_EQ(reads, 1);
    CcFlushCache(sections, &none, 4096, &block);
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(block.Information, 4096);
    CHECK_EQ(writes, 1);
    CHECK_EQ(disk[100], 0x5A);
    CHECK_EQ(disk[149], 0x5A);
    CHECK_EQ(disk[150], (UCHAR)(150 * 7));
    CcFlushCache(sections, NULL, 0, &block);
    CHECK_EQ(writes, 2);
    CHECK_EQ(disk[8191], 0x5A);
    CcFlushCache(sections, NULL, 0, &block);
    CHECK_EQ(writes, 2);
    CHECK_EQ(block.Information, 0);
    CHECK(CcZeroData(file, &offset, &whole, TRUE));
    CHECK_EQ(disk[100], 0x5A);
    CHECK(CcCanIWrite(file, 4096, FALSE, FALSE));
    stop();
    CHECK_EQ(writes, 3);
    CHECK_EQ(disk[100], 0);
    CHECK_EQ(disk[99], (UCHAR)(99 * 7));
}

KTEST(lists)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER offset = at(10);
    PMDL list = NULL;
    if (!start()) {
        return;
    }
    CcMdlRead(file, &offset, 20, &list, &block);
    CHECK(list != NULL);
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(block.Information, 20);
    CHECK_EQ(MmGetMdlByteCount(list), 20);
    CHECK_MEM(MmGetSystemAddressForMdlSafe(list, NormalPagePriority), disk + 10, 20);
    CHECK(!CcPurgeCacheSection(sections, NULL, 0, 0));
    CcMdlReadComplete(file, list);
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    CcPrepareMdlWrite(file, &offset, 20, &list, &block);
    CHECK_EQ(block.Information, 20);
    ((PUCHAR)MmGetSystemAddressForMdlSafe(list, NormalPagePriority))[0] = 0xA5;
    CcMdlWriteComplete(file, &offset, list);
    CcFlushCache(sections, NULL, 0, &block);
    CHECK_EQ(disk[10], 0xA5);
    stop();
}

KTEST(sizes_change)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER offset = at(4096), last = at(8000);
    if (!start()) {
        return;
    }
    CHECK(CcCopyRead(file, &offset, 4096, TRUE, buffer, &block));
    sizes.size.QuadPart = sizes.valid.QuadPart = 8000;
    CcSetFileSizes(file, &sizes);
    sizes.size.QuadPart = BYTES;
    CcSetFileSizes(file, &sizes);
    CHECK(CcCopyRead(file, &last, 10, TRUE, buffer, &block));
    CHECK_EQ(buffer[0], 0);
    offset = at(12288);
    CHECK(CcCopyRead(file, &offset, 10, TRUE, buffer, &block));
    CHECK_EQ(buffer[0], 0);
    CHECK_EQ(reads, 1);
    stop();
}

static ULONG_PTR deferred[2];
static VOID NTAPI deferred_write(PVOID first, PVOID second)
{
    deferred[0] = (ULONG_PTR)first, deferred[1] = (ULONG_PTR)second;
}

KTEST(deferring)
{
    if (!start()) {
        return;
    }
    CcDeferWrite(file, deferred_write, (PVOID)1, (PVOID)2, 4096, FALSE);
    CHECK_EQ(deferred[0], 1);
    CHECK_EQ(deferred[1], 2);
    stop();
}

static VOID read_at(LONGLONG offset, ULONG bytes)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER from = at(offset);
    CHECK(CcCopyRead(file, &from, bytes, TRUE, buffer, &block));
    CHECK_MEM(buffer, disk + offset, bytes);
}

KTEST(read_ahead)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER last = at(12288);
    if (!start()) {
        return;
    }
    CcSetAdditionalCacheAttributes(file, FALSE, TRUE);
    CcSetReadAheadGranularity(file, 8192);
    read_at(0, 1024);
    read_at(1024, 1024);
    CHECK_EQ(acquired[1], 0);
    CHECK_EQ(reads, 1);
    read_at(2048, 1024);
    await(1);
    CHECK_EQ(acquired[1], 1);
    CHECK_EQ(reads, 2);
    CHECK(CcCopyRead(file, &last, 4096, FALSE, buffer, &block));
    CHECK_MEM(buffer, disk + 12288, 4096);
    CHECK_EQ(reads, 2);
    /* Backwards, at equal distances. */
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    read_at(12288, 100);
    read_at(8192, 100);
    read_at(4096, 100);
    await(1);
    CHECK_EQ(reads, 6);
    /* Switched off. */
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    CcSetAdditionalCacheAttributes(file, TRUE, TRUE);
    read_at(0, 1024);
    read_at(1024, 1024);
    read_at(2048, 1024);
    CHECK_EQ(reads, 7);
    CHECK_EQ(acquired[1], 2);
    /* Sequential only: at the first read. */
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    CcSetAdditionalCacheAttributes(file, FALSE, TRUE);
    file->Flags |= FO_SEQUENTIAL_ONLY;
    read_at(0, 100);
    await(1);
    CHECK_EQ(reads, 9);
    stop();
}

KTEST(lazy_writes)
{
    LARGE_INTEGER offset = at(4096);
    if (!start()) {
        return;
    }
    RtlFillMemory(buffer, 4096, 0x77);
    CHECK(CcCopyWrite(file, &offset, 4096, TRUE, buffer));
    CHECK_EQ(writes, 0);
    CcSetAdditionalCacheAttributes(file, TRUE, FALSE);
    await(0);
    CHECK_EQ(acquired[0], 1);
    CHECK_EQ(writes, 1);
    CHECK_EQ(disk[4096], 0x77);
    CHECK(CcCopyWrite(file, &offset, 1, TRUE, disk));
    await(0);
    CHECK_EQ(writes, 2);
    CHECK_EQ(disk[4096], disk[0]);
    stop();
    CHECK_EQ(writes, 2);
}

KTEST(purging_users)
{
    LARGE_INTEGER offset = at(0);
    if (!start()) {
        return;
    }
    RtlFillMemory(buffer, 4096, 0x77);
    CHECK(CcCopyWrite(file, &offset, 4096, TRUE, buffer));
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 1));
    CHECK_PTR(sections[1], NULL);
    CHECK_PTR(file->PrivateCacheMap, NULL);
    CHECK_EQ(writes, 0);
    CHECK_EQ(disk[1], 7);
    CHECK(!CcUninitializeCacheMap(file, NULL, NULL));
    ObDereferenceObject(file);
    IoDeleteDevice(device);
}

KTEST(zeros_of_files_that_are_not_cached)
{
    LARGE_INTEGER from = at(512), to = at(1024);
    if (!start()) {
        return;
    }
    PFILE_OBJECT plain = IoCreateStreamFileObject(NULL, device);
    CHECK(!CcZeroData(plain, &from, &to, FALSE));
    CHECK_EQ(writes, 0);
    CHECK(CcZeroData(plain, &from, &to, TRUE));
    CHECK_EQ(writes, 1);
    CHECK_EQ(irp_flags & 1, 1);
    CHECK_EQ(disk[511], (UCHAR)(511 * 7 + 1));
    CHECK_EQ(disk[512] | disk[1023], 0);
    CHECK_EQ(disk[1024], (UCHAR)(1024 * 7 + 4));
    CHECK(CcZeroData(plain, &to, &to, TRUE));
    CHECK_EQ(writes, 1);
    ObDereferenceObject(plain);
    stop();
}

KTEST(pinning)
{
    IO_STATUS_BLOCK block;
    LARGE_INTEGER offset = at(4000), whole = at(8192), far = at(12288);
    PVOID bcb = NULL, again = NULL, data = NULL, same = NULL;
    struct { USHORT type, bytes; ULONG length; LARGE_INTEGER offset; } *seen;
    if (!start()) {
        return;
    }
    CHECK(!CcMapData(file, &offset, 200, 0, &bcb, &data));
    CHECK_PTR(bcb, NULL);
    CHECK_EQ(reads, 0);
    CHECK(CcMapData(file, &offset, 200, 1, &bcb, &data));
    CHECK(bcb != NULL);
    CHECK_EQ(reads, 1);
    CHECK_MEM(data, disk + 4000, 200);
    CHECK(!CcPurgeCacheSection(sections, NULL, 0, 0));
    CHECK(!CcPinRead(file, &offset, 200, 1 | 8, &again, &same));
    CHECK(CcPinMappedData(file, &offset, 200, 1, &bcb));
    CHECK(CcPinRead(file, &offset, 100, 1 | 8, &again, &same));
    CHECK_PTR(again, bcb);
    CHECK_PTR(same, data);
    seen = bcb;
    CHECK_EQ(seen->length, 200);
    CHECK_EQ(seen->offset.QuadPart, 4000);
    CHECK_PTR(CcGetFileObjectFromBcb(bcb), file);
    ((PUCHAR)data)[0] = 0xA5;
    CcSetDirtyPinnedData(bcb, NULL);
    CcRepinBcb(bcb);
    CcUnpinData(again);
    CcUnpinData(bcb);
    CHECK(!CcPurgeCacheSection(sections, NULL, 0, 0));
    CcUnpinRepinnedBcb(bcb, TRUE, &block);
    CHECK_STATUS(block.Status, STATUS_SUCCESS);
    CHECK_EQ(disk[4000], 0xA5);
    CHECK_EQ(writes, 2);
    CHECK(CcPurgeCacheSection(sections, NULL, 0, 0));
    reads = 0;
    /* Pages in whole are not read; two that are in the cache already are brought together. */
    CHECK(CcPreparePinWrite(file, &whole, 4096, TRUE, 0, &bcb, &data));
    CHECK_EQ(reads, 0);
    CcUnpinData(bcb);
    CHECK(CcPinRead(file, &far, 10, 1 | 2, &bcb, &data));
    CHECK_EQ(reads, 1);
    CcSetBcbOwnerPointer(bcb, (PVOID)((ULONG_PTR)buffer | 3));
    /* Another owner has it, and this thread does not want to wait. */
    CHECK(!CcPinRead(file, &far, 10, 0, &again, &same));
    CcUnpinDataForThread(bcb, (ULONG_PTR)buffer | 3);
    CHECK(CcPinRead(file, &whole, 8192, 1, &bcb, &data));
    CHECK_EQ(reads, 1);
    CHECK_EQ(((PUCHAR)data)[4095], 0);
    CHECK_EQ(((PUCHAR)data)[4096], disk[12288]);
    ((PUCHAR)data)[0] = 0x5A;
    CcSetDirtyPinnedData(bcb, NULL);
    CcUnpinData(bcb);
    stop();
    CHECK_EQ(disk[8192], 0x5A);
    CHECK_EQ(disk[8193], 0);
}

KTEST_FAMILY("cc", KTEST_ENTRY(reading), KTEST_ENTRY(writing), KTEST_ENTRY(lists), KTEST_ENTRY(sizes_change),
             KTEST_ENTRY(deferring), KTEST_ENTRY(read_ahead), KTEST_ENTRY(lazy_writes), KTEST_ENTRY(purging_users),
             KTEST_ENTRY(zeros_of_files_that_are_not_cached), KTEST_ENTRY(pinning));
