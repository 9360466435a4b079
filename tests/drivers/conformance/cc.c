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

static BOOLEAN NTAPI acquire(PVOID context, BOOLEAN wait)
{
    (VOID)context, (VOID)wait;
    return TRUE;
}
static VOID NTAPI release(PVOID context)
{
    (VOID)context;
}

static BOOLEAN start(void)
{
    static callbacks routines = {acquire, release, acquire, release};
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
    reads = writes = 0;
    sizes.allocation.QuadPart = sizes.size.QuadPart = sizes.valid.QuadPart = BYTES;
    file->SectionObjectPointer = (PVOID)sections;
    CcInitializeCacheMap(file, &sizes, FALSE, &routines, NULL);
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

KTEST_FAMILY("cc", KTEST_ENTRY(reading), KTEST_ENTRY(writing), KTEST_ENTRY(lists), KTEST_ENTRY(sizes_change),
             KTEST_ENTRY(deferring));
