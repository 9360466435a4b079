/* DMA adapters: what a description gets, common buffers, channels and map registers, transfers with and without
 * scatter/gather, scatter/gather lists, the old exports, and what Driver Verifier says of mistakes.
 *
 * Long because a family is one driver and a driver one file: a list of independent tests. */
/* Other prototypes for some old exports, which the headers make inline functions of. */
#define HalGetAdapter header_HalGetAdapter
#define IoMapTransfer header_IoMapTransfer
#define IoFlushAdapterBuffers header_IoFlushAdapterBuffers
#define IoFreeAdapterChannel header_IoFreeAdapterChannel
#define IoFreeMapRegisters header_IoFreeMapRegisters
#define IoAllocateAdapterChannel header_IoAllocateAdapterChannel
#define HalAllocateCommonBuffer header_HalAllocateCommonBuffer
#define HalFreeCommonBuffer header_HalFreeCommonBuffer
#define HalReadDmaCounter header_HalReadDmaCounter
#define HalPutDmaAdapter header_HalPutDmaAdapter
#include "ktest.h"
#undef HalGetAdapter
#undef IoMapTransfer
#undef IoFlushAdapterBuffers
#undef IoFreeAdapterChannel
#undef IoFreeMapRegisters
#undef IoAllocateAdapterChannel
#undef HalAllocateCommonBuffer
#undef HalFreeCommonBuffer
#undef HalReadDmaCounter
#undef HalPutDmaAdapter
NTSYSAPI PDMA_ADAPTER NTAPI HalGetAdapter(PDEVICE_DESCRIPTION description, PULONG registers);
NTSYSAPI VOID NTAPI HalPutDmaAdapter(PDMA_ADAPTER adapter);
NTSYSAPI PHYSICAL_ADDRESS NTAPI IoMapTransfer(PDMA_ADAPTER adapter, PMDL mdl, PVOID base, PVOID va, PULONG length,
                                              BOOLEAN write);
NTSYSAPI BOOLEAN NTAPI IoFlushAdapterBuffers(PDMA_ADAPTER adapter, PMDL mdl, PVOID base, PVOID va, ULONG length,
                                             BOOLEAN write);
NTSYSAPI VOID NTAPI IoFreeAdapterChannel(PDMA_ADAPTER adapter);
NTSYSAPI VOID NTAPI IoFreeMapRegisters(PDMA_ADAPTER adapter, PVOID base, ULONG count);
NTSYSAPI NTSTATUS NTAPI IoAllocateAdapterChannel(PDMA_ADAPTER adapter, PDEVICE_OBJECT device, ULONG count,
                                                 PDRIVER_CONTROL routine, PVOID context);
NTSYSAPI PVOID NTAPI HalAllocateCommonBuffer(PDMA_ADAPTER adapter, ULONG length, PPHYSICAL_ADDRESS address,
                                             BOOLEAN cached);
NTSYSAPI VOID NTAPI HalFreeCommonBuffer(PDMA_ADAPTER adapter, ULONG length, PHYSICAL_ADDRESS address, PVOID memory,
                                        BOOLEAN cached);
NTSYSAPI ULONG NTAPI HalReadDmaCounter(PDMA_ADAPTER adapter);

#define PAGE 0x1000u

static struct {
    ULONG calls;
    PDEVICE_OBJECT device;
    PIRP irp;
    PVOID base; /* or the list */
    PVOID context;
    KIRQL irql;
    ULONG order[8];
} seen;

static VOID note(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    if (seen.calls < RTL_NUMBER_OF(seen.order)) {
        seen.order[seen.calls] = (ULONG)(ULONG_PTR)context;
    }
    seen.calls++;
    seen.device = device;
    seen.irp = irp;
    seen.base = base;
    seen.context = context;
    seen.irql = KeGetCurrentIrql();
}

static IO_ALLOCATION_ACTION NTAPI keep(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    note(device, irp, base, context);
    return KeepObject;
}

static IO_ALLOCATION_ACTION NTAPI drop(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    note(device, irp, base, context);
    return DeallocateObject;
}

static IO_ALLOCATION_ACTION NTAPI keep_registers(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    note(device, irp, base, context);
    return DeallocateObjectKeepRegisters;
}

static VOID NTAPI listed(PDEVICE_OBJECT device, PIRP irp, PSCATTER_GATHER_LIST list, PVOID context)
{
    note(device, irp, list, context);
}

static VOID describe(PDEVICE_DESCRIPTION description, BOOLEAN scatters, ULONG longest)
{
    RtlZeroMemory(description, sizeof(*description));
    description->Version = 2;
    description->Master = TRUE;
    description->ScatterGather = scatters;
    description->Dma32BitAddresses = TRUE;
    description->InterfaceType = PCIBus;
    description->MaximumLength = longest;
}

static PDMA_ADAPTER adapter_for(BOOLEAN scatters, ULONG longest, PULONG registers)
{
    DEVICE_DESCRIPTION description;
    describe(&description, scatters, longest);
    RtlZeroMemory(&seen, sizeof(seen));
    return IoGetDmaAdapter(NULL, &description, registers);
}

static NTSTATUS allocate(PDMA_ADAPTER adapter, ULONG count, PDRIVER_CONTROL routine, ULONG context)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    NTSTATUS status = adapter->DmaOperations->AllocateAdapterChannel(adapter, ktest_device, count, routine,
                                                                     (PVOID)(ULONG_PTR)context);
    KeLowerIrql(old);
    return status;
}

static VOID free_channel(PDMA_ADAPTER adapter)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    adapter->DmaOperations->FreeAdapterChannel(adapter);
    KeLowerIrql(old);
}

static VOID free_registers(PDMA_ADAPTER adapter, PVOID base, ULONG count)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    adapter->DmaOperations->FreeMapRegisters(adapter, base, count);
    KeLowerIrql(old);
}

static ULONGLONG physical(PVOID address)
{
    return (ULONGLONG)MmGetPhysicalAddress(address).QuadPart;
}

static PUCHAR device_view(PHYSICAL_ADDRESS address)
{
    return MmGetVirtualForPhysical(address);
}

/* A buffer whose MDL has its pages the other way round, so that none follows the one before. */
struct buffer {
    PUCHAR memory;
    PMDL mdl;
    PUCHAR va;
    ULONG pages;
};

static BOOLEAN make(struct buffer *buffer, ULONG pages, ULONG offset, BOOLEAN turn)
{
    PHYSICAL_ADDRESS highest;
    highest.QuadPart = -1;
    buffer->pages = pages;
    buffer->memory = MmAllocateContiguousMemory(pages * PAGE, highest);
    if (buffer->memory == NULL) {
        return FALSE;
    }
    buffer->va = buffer->memory + offset;
    buffer->mdl = IoAllocateMdl(buffer->va, pages * PAGE - offset, FALSE, FALSE, NULL);
    MmBuildMdlForNonPagedPool(buffer->mdl);
    PPFN_NUMBER frames = (PPFN_NUMBER)(buffer->mdl + 1);
    for (ULONG i = 0; turn && i < pages / 2; i++) {
        PFN_NUMBER first = frames[i];
        frames[i] = frames[pages - 1 - i];
        frames[pages - 1 - i] = first;
    }
    return TRUE;
}

/* The memory behind a page as the MDL has it. */
static PUCHAR page_of(const struct buffer *buffer, ULONG page)
{
    PHYSICAL_ADDRESS address;
    address.QuadPart = (LONGLONG)((PPFN_NUMBER)(buffer->mdl + 1))[page] * PAGE;
    return device_view(address);
}

static VOID release(struct buffer *buffer)
{
    IoFreeMdl(buffer->mdl);
    MmFreeContiguousMemory(buffer->memory);
}

/* ---- Adapters. ---- */

KTEST(adapter_structures)
{
    ULONG registers = 0;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 0x10000, &registers);
    if (!CHECK(adapter != NULL)) {
        return;
    }
    CHECK_EQ(registers, 17);
    CHECK_EQ(adapter->Version, 2);
    CHECK_EQ(adapter->Size, sizeof(DMA_ADAPTER));
    PDMA_OPERATIONS table = adapter->DmaOperations;
    CHECK_EQ(table->Size, sizeof(DMA_OPERATIONS));
    CHECK(table->PutDmaAdapter != NULL);
    CHECK(table->GetScatterGatherList != NULL);
    CHECK(table->BuildMdlFromScatterGatherList != NULL);
    CHECK_EQ(table->GetDmaAlignment(adapter), 1);
    CHECK_EQ(table->ReadDmaCounter(adapter), 0);
    table->PutDmaAdapter(adapter);
}

KTEST(adapter_versions)
{
    DEVICE_DESCRIPTION description;
    ULONG registers = 0;
    for (ULONG version = 0; version < 2; version++) {
        describe(&description, TRUE, PAGE);
        description.Version = version;
        PDMA_ADAPTER adapter = IoGetDmaAdapter(NULL, &description, &registers);
        if (CHECK(adapter != NULL)) {
            CHECK_EQ(adapter->Version, 1);
            CHECK_EQ(registers, 2);
            adapter->DmaOperations->PutDmaAdapter(adapter);
        }
    }
    describe(&description, TRUE, PAGE);
    description.Version = 3;
    CHECK(IoGetDmaAdapter(NULL, &description, &registers) == NULL);
}

KTEST(map_register_counts)
{
    static const struct {
        ULONG longest, registers;
    } cases[] = {{1, 2}, {PAGE, 2}, {PAGE + 1, 3}, {0x10000, 17}, {0, 1}};
    for (ULONG i = 0; i < RTL_NUMBER_OF(cases); i++) {
        ULONG registers = 0;
        PDMA_ADAPTER adapter = adapter_for(TRUE, cases[i].longest, &registers);
        CHECK_EQ(registers, cases[i].registers);
        adapter->DmaOperations->PutDmaAdapter(adapter);
    }
    /* A device that needs the registers gets as many as there are. */
    ULONG registers = 0;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 0xFFFFFFFF, &registers);
    if (CHECK(adapter != NULL)) {
        CHECK(registers > 0 && registers <= 64);
        adapter->DmaOperations->PutDmaAdapter(adapter);
    }
}

KTEST(isa_devices_cannot_reach_memory)
{
    DEVICE_DESCRIPTION description;
    ULONG registers = 99;
    describe(&description, FALSE, PAGE);
    description.InterfaceType = Isa;
    description.Dma32BitAddresses = FALSE;
    CHECK(IoGetDmaAdapter(NULL, &description, &registers) == NULL);
    CHECK(HalGetAdapter(&description, &registers) == NULL);
    description.Master = FALSE;
    description.DmaChannel = 2;
    description.DmaWidth = Width8Bits;
    CHECK(HalGetAdapter(&description, &registers) == NULL);
    CHECK_EQ(registers, 99);
    /* More address bits on the same bus. */
    description.Master = TRUE;
    description.Dma32BitAddresses = TRUE;
    PDMA_ADAPTER adapter = HalGetAdapter(&description, &registers);
    if (CHECK(adapter != NULL)) {
        CHECK_EQ(registers, 2);
        HalPutDmaAdapter(adapter);
    }
}

/* ---- Common buffers. ---- */

KTEST(common_buffers)
{
    ULONG registers;
    PHYSICAL_ADDRESS address;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    PUCHAR memory = adapter->DmaOperations->AllocateCommonBuffer(adapter, 3 * PAGE + 1, &address, TRUE);
    if (!CHECK(memory != NULL)) {
        return;
    }
    CHECK_EQ((ULONG_PTR)memory % PAGE, 0);
    CHECK_EQ(address.QuadPart % PAGE, 0);
    CHECK_EQ(address.QuadPart, physical(memory));
    CHECK_EQ(physical(memory + 3 * PAGE), address.QuadPart + 3 * PAGE);
    CHECK_EQ(address.HighPart, 0);
    memory[3 * PAGE] = 0x5A;
    PHYSICAL_ADDRESS end;
    end.QuadPart = address.QuadPart + 3 * PAGE;
    CHECK_EQ(*device_view(end), 0x5A);
    PHYSICAL_ADDRESS other;
    PVOID second = HalAllocateCommonBuffer(adapter, 16, &other, FALSE);
    CHECK(second != NULL);
    CHECK(other.QuadPart != address.QuadPart);
    CHECK_EQ(other.QuadPart % PAGE, 0);
    HalFreeCommonBuffer(adapter, 16, other, second, FALSE);
    adapter->DmaOperations->FreeCommonBuffer(adapter, 3 * PAGE + 1, address, memory, TRUE);
    CHECK(HalAllocateCommonBuffer(adapter, 0, &other, TRUE) == NULL);
    CHECK(HalAllocateCommonBuffer(adapter, 0x7FFFFFFF, &other, TRUE) == NULL);
    HalPutDmaAdapter(adapter);
}

/* ---- Channels. ---- */

KTEST(channel_routine)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 0x10000, &registers);
    PIRP before = ktest_device->CurrentIrp;
    ktest_device->CurrentIrp = ktest_irp;
    CHECK_STATUS(allocate(adapter, registers + 1, drop, 1), STATUS_INSUFFICIENT_RESOURCES);
    CHECK_EQ(seen.calls, 0);
    CHECK_STATUS(allocate(adapter, registers, drop, 2), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1);
    CHECK_EQ(seen.irql, DISPATCH_LEVEL);
    CHECK_PTR(seen.device, ktest_device);
    CHECK_PTR(seen.irp, ktest_irp);
    CHECK_PTR(seen.context, 2);
    CHECK(seen.base != NULL);
    ktest_device->CurrentIrp = before;
    CHECK_STATUS(allocate(adapter, 0, drop, 3), STATUS_SUCCESS);
    CHECK_PTR(seen.context, 3);
    CHECK_PTR(seen.irp, before);
    CHECK_EQ(KeGetCurrentIrql(), PASSIVE_LEVEL);
    HalPutDmaAdapter(adapter);
}

KTEST(channel_is_one)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 0x10000, &registers);
    CHECK_STATUS(allocate(adapter, 1, keep, 1), STATUS_SUCCESS);
    CHECK_STATUS(allocate(adapter, 1, keep_registers, 2), STATUS_SUCCESS);
    CHECK_STATUS(allocate(adapter, 1, drop, 3), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1);
    free_channel(adapter);
    CHECK_EQ(seen.calls, 3);
    CHECK_EQ(seen.order[1], 2);
    CHECK_EQ(seen.order[2], 3);
    /* The channel is free again. */
    CHECK_STATUS(allocate(adapter, 1, drop, 4), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 4);
    PDMA_ADAPTER other = adapter_for(TRUE, 0x10000, &registers);
    CHECK_STATUS(allocate(other, 1, keep, 5), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1);
    free_channel(other);
    HalPutDmaAdapter(other);
}

KTEST(map_registers_run_out)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 3 * PAGE, &registers);
    CHECK_EQ(registers, 4);
    CHECK_STATUS(allocate(adapter, 3, keep_registers, 1), STATUS_SUCCESS);
    PVOID first = seen.base;
    CHECK_STATUS(allocate(adapter, 1, keep_registers, 2), STATUS_SUCCESS);
    PVOID second = seen.base;
    CHECK_EQ(seen.calls, 2);
    CHECK(first != second);
    CHECK_STATUS(allocate(adapter, 2, keep_registers, 3), STATUS_SUCCESS);
    CHECK_STATUS(allocate(adapter, 1, drop, 4), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 2);
    free_registers(adapter, second, 1);
    CHECK_EQ(seen.calls, 2); /* the third wants two, and the fourth is behind it */
    free_registers(adapter, first, 3);
    CHECK_EQ(seen.calls, 4);
    CHECK_EQ(seen.order[2], 3);
    CHECK_EQ(seen.order[3], 4);
    HalPutDmaAdapter(adapter_for(FALSE, PAGE, &registers));
}

static PDMA_ADAPTER nested;

static IO_ALLOCATION_ACTION NTAPI ask_again(PDEVICE_OBJECT device, PIRP irp, PVOID base, PVOID context)
{
    note(device, irp, base, context);
    NTSTATUS status = nested->DmaOperations->AllocateAdapterChannel(nested, device, 1, drop, (PVOID)9);
    CHECK_STATUS(status, STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1); /* not before this one has returned */
    return DeallocateObject;
}

KTEST(channel_asked_for_in_a_routine)
{
    ULONG registers;
    nested = adapter_for(TRUE, PAGE, &registers);
    CHECK_STATUS(allocate(nested, 1, ask_again, 8), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 2);
    CHECK_EQ(seen.order[1], 9);
    HalPutDmaAdapter(nested);
}

/* ---- Transfers. ---- */

KTEST(transfer_of_a_device_that_scatters)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 3 * PAGE, &registers);
    if (!CHECK(make(&buffer, 3, 0x10, TRUE))) {
        return;
    }
    allocate(adapter, 3, keep, 1);
    PVOID base = seen.base;
    PDMA_OPERATIONS table = adapter->DmaOperations;
    ULONG length = 3 * PAGE - 0x10;
    PHYSICAL_ADDRESS at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va, &length, TRUE);
    CHECK_EQ(length, PAGE - 0x10);
    CHECK_EQ(at.QuadPart, physical(page_of(&buffer, 0)) + 0x10);
    length = 2 * PAGE;
    at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va + PAGE - 0x10, &length, TRUE);
    CHECK_EQ(length, PAGE);
    CHECK_EQ(at.QuadPart, physical(page_of(&buffer, 1)));
    length = 5;
    at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va + 2 * PAGE, &length, TRUE);
    CHECK_EQ(length, 5);
    CHECK_EQ(at.QuadPart, physical(page_of(&buffer, 2)) + 0x10);
    CHECK(table->FlushAdapterBuffers(adapter, buffer.mdl, base, buffer.va, 3 * PAGE - 0x10, TRUE));
    free_channel(adapter);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(contiguous_pages_are_one_transfer)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 4 * PAGE, &registers);
    if (!CHECK(make(&buffer, 4, 0x123, FALSE))) {
        return;
    }
    allocate(adapter, 4, keep, 1);
    ULONG length = 4 * PAGE - 0x123;
    PHYSICAL_ADDRESS at = IoMapTransfer(adapter, buffer.mdl, seen.base, buffer.va, &length, FALSE);
    CHECK_EQ(length, 4 * PAGE - 0x123);
    CHECK_EQ(at.QuadPart, physical(buffer.va));
    CHECK(IoFlushAdapterBuffers(adapter, buffer.mdl, seen.base, buffer.va, length, FALSE));
    free_channel(adapter);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(transfer_through_map_registers)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 3 * PAGE, &registers);
    if (!CHECK(make(&buffer, 3, 0x100, TRUE))) {
        return;
    }
    for (ULONG page = 0; page < 3; page++) {
        RtlFillMemory(page_of(&buffer, page), PAGE, page + 1);
    }
    allocate(adapter, registers, keep, 1);
    PVOID base = seen.base;
    PDMA_OPERATIONS table = adapter->DmaOperations;
    /* To the device: what is in the buffer, in the order of its pages, when it is mapped. */
    ULONG whole = 3 * PAGE - 0x100, length = whole;
    PHYSICAL_ADDRESS at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va, &length, TRUE);
    CHECK_EQ(length, whole);
    CHECK_EQ(at.QuadPart % PAGE, 0x100);
    PUCHAR device = device_view(at);
    CHECK(device != page_of(&buffer, 0) + 0x100);
    CHECK_EQ(device[0], 1);
    CHECK_EQ(device[PAGE - 0x101], 1);
    CHECK_EQ(device[PAGE - 0x100], 2);
    CHECK_EQ(device[2 * PAGE - 0x100], 3);
    CHECK_EQ(device[whole - 1], 3);
    RtlFillMemory(device, whole, 0xEE);
    CHECK(table->FlushAdapterBuffers(adapter, buffer.mdl, base, buffer.va, whole, TRUE));
    CHECK_EQ(page_of(&buffer, 1)[0], 2); /* nothing comes back */
    /* From the device: when it is flushed, and not before. */
    length = whole;
    at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va, &length, FALSE);
    device = device_view(at);
    RtlFillMemory(device, whole, 0x77);
    CHECK_EQ(page_of(&buffer, 2)[0], 3);
    CHECK(table->FlushAdapterBuffers(adapter, buffer.mdl, base, buffer.va, PAGE, FALSE));
    CHECK_EQ(page_of(&buffer, 0)[0xFF], 1); /* in front of the buffer */
    CHECK_EQ(page_of(&buffer, 0)[0x100], 0x77);
    CHECK_EQ(page_of(&buffer, 1)[0xFF], 0x77);
    CHECK_EQ(page_of(&buffer, 1)[0x100], 2); /* behind what was flushed */
    /* One page is contiguous: it is not copied. */
    length = PAGE;
    at = table->MapTransfer(adapter, buffer.mdl, base, buffer.va + PAGE - 0x100, &length, TRUE);
    CHECK_EQ(at.QuadPart, physical(page_of(&buffer, 1)));
    CHECK_EQ(length, PAGE);
    CHECK(table->FlushAdapterBuffers(adapter, buffer.mdl, base, buffer.va + PAGE - 0x100, PAGE, TRUE));
    free_channel(adapter);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(transfer_in_parts_when_registers_are_few)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(FALSE, PAGE, &registers);
    CHECK_EQ(registers, 2);
    if (!CHECK(make(&buffer, 4, 0, TRUE))) {
        return;
    }
    for (ULONG page = 0; page < 4; page++) {
        page_of(&buffer, page)[7] = (UCHAR)(0x40 + page);
    }
    allocate(adapter, 2, keep, 1);
    ULONG done = 0;
    for (ULONG part = 0; part < 2; part++) {
        ULONG length = 4 * PAGE - done;
        PHYSICAL_ADDRESS at = IoMapTransfer(adapter, buffer.mdl, seen.base, buffer.va + done, &length, TRUE);
        CHECK_EQ(length, 2 * PAGE);
        CHECK_EQ(device_view(at)[7], 0x40 + 2 * part);
        CHECK_EQ(device_view(at)[PAGE + 7], 0x41 + 2 * part);
        IoFlushAdapterBuffers(adapter, buffer.mdl, seen.base, buffer.va + done, length, TRUE);
        done += length;
    }
    CHECK_EQ(done, 4 * PAGE);
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    IoFreeAdapterChannel(adapter);
    KeLowerIrql(old);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(registers_kept_are_used_later)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 2 * PAGE, &registers);
    if (!CHECK(make(&buffer, 2, 0, TRUE))) {
        return;
    }
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_STATUS(IoAllocateAdapterChannel(adapter, ktest_device, 2, keep_registers, NULL), STATUS_SUCCESS);
    KeLowerIrql(old);
    PVOID base = seen.base;
    ULONG length = 2 * PAGE;
    PHYSICAL_ADDRESS at = IoMapTransfer(adapter, buffer.mdl, base, buffer.va, &length, FALSE);
    CHECK_EQ(length, 2 * PAGE);
    device_view(at)[PAGE] = 0x99;
    CHECK(IoFlushAdapterBuffers(adapter, buffer.mdl, base, buffer.va, 2 * PAGE, FALSE));
    CHECK_EQ(page_of(&buffer, 1)[0], 0x99);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    IoFreeMapRegisters(adapter, base, 2);
    KeLowerIrql(old);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

/* ---- Scatter/gather lists. ---- */

static NTSTATUS get_list(PDMA_ADAPTER adapter, PMDL mdl, PVOID va, ULONG length, BOOLEAN write)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    NTSTATUS status = adapter->DmaOperations->GetScatterGatherList(adapter, ktest_device, mdl, va, length, listed,
                                                                   (PVOID)0x55, write);
    KeLowerIrql(old);
    return status;
}

static VOID put_list(PDMA_ADAPTER adapter, PVOID list, BOOLEAN write)
{
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    adapter->DmaOperations->PutScatterGatherList(adapter, list, write);
    KeLowerIrql(old);
}

KTEST(list_elements)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 3 * PAGE, &registers);
    if (!CHECK(make(&buffer, 3, 0x800, TRUE))) {
        return;
    }
    CHECK_STATUS(get_list(adapter, buffer.mdl, buffer.va, 3 * PAGE, TRUE), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(seen.calls, 0);
    CHECK_STATUS(get_list(adapter, buffer.mdl, buffer.va, 2 * PAGE, TRUE), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1);
    CHECK_EQ(seen.irql, DISPATCH_LEVEL);
    CHECK_PTR(seen.device, ktest_device);
    CHECK_PTR(seen.context, 0x55);
    PSCATTER_GATHER_LIST list = seen.base;
    CHECK_EQ(list->NumberOfElements, 3);
    CHECK_EQ(list->Elements[0].Address.QuadPart, physical(page_of(&buffer, 0)) + 0x800);
    CHECK_EQ(list->Elements[0].Length, 0x800);
    CHECK_EQ(list->Elements[1].Address.QuadPart, physical(page_of(&buffer, 1)));
    CHECK_EQ(list->Elements[1].Length, PAGE);
    CHECK_EQ(list->Elements[2].Length, 0x800);
    PMDL target = NULL;
    CHECK_STATUS(adapter->DmaOperations->BuildMdlFromScatterGatherList(adapter, list, buffer.mdl, &target),
                 STATUS_SUCCESS);
    CHECK_PTR(target, buffer.mdl);
    put_list(adapter, list, TRUE);
    /* From the middle. */
    CHECK_STATUS(get_list(adapter, buffer.mdl, buffer.va + PAGE, 0x10, FALSE), STATUS_SUCCESS);
    list = seen.base;
    CHECK_EQ(list->NumberOfElements, 1);
    CHECK_EQ(list->Elements[0].Address.QuadPart, physical(page_of(&buffer, 1)) + 0x800);
    CHECK_EQ(list->Elements[0].Length, 0x10);
    put_list(adapter, list, FALSE);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(list_of_a_chain)
{
    ULONG registers;
    struct buffer first, second;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 8 * PAGE, &registers);
    if (!CHECK(make(&first, 2, 0x400, FALSE)) || !CHECK(make(&second, 1, 0xC00, FALSE))) {
        return;
    }
    first.mdl->Next = second.mdl;
    ULONG length = 2 * PAGE - 0x400 + 0x400;
    CHECK_STATUS(get_list(adapter, first.mdl, first.va, length + 1, TRUE), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(get_list(adapter, first.mdl, first.va, length, TRUE), STATUS_SUCCESS);
    PSCATTER_GATHER_LIST list = seen.base;
    CHECK_EQ(list->NumberOfElements, 2);
    CHECK_EQ(list->Elements[0].Length, 2 * PAGE - 0x400); /* contiguous pages are one */
    CHECK_EQ(list->Elements[1].Address.QuadPart, physical(second.va));
    CHECK_EQ(list->Elements[1].Length, 0x400);
    put_list(adapter, list, TRUE);
    release(&first);
    release(&second);
    HalPutDmaAdapter(adapter);
}

KTEST(list_in_the_drivers_memory)
{
    ULONG registers, bytes = 0, count = 0;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 3 * PAGE, &registers);
    PDMA_OPERATIONS table = adapter->DmaOperations;
    if (!CHECK(make(&buffer, 2, 0x800, TRUE))) {
        return;
    }
    ULONG length = PAGE + 0x800;
    CHECK_STATUS(table->CalculateScatterGatherList(adapter, buffer.mdl, buffer.va, length + 1, &bytes, &count),
                 STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(table->CalculateScatterGatherList(adapter, buffer.mdl, buffer.va, length, &bytes, &count),
                 STATUS_SUCCESS);
    CHECK_EQ(count, 2);
    CHECK(bytes >= FIELD_OFFSET(SCATTER_GATHER_LIST, Elements[1]));
    ULONG pages_bytes = 0;
    CHECK_STATUS(table->CalculateScatterGatherList(adapter, NULL, (PVOID)0x800, length, &pages_bytes, NULL),
                 STATUS_SUCCESS);
    CHECK(pages_bytes >= FIELD_OFFSET(SCATTER_GATHER_LIST, Elements[2]));
    CHECK_STATUS(table->CalculateScatterGatherList(adapter, NULL, NULL, 0x100000, &pages_bytes, NULL),
                 STATUS_INSUFFICIENT_RESOURCES);
    PSCATTER_GATHER_LIST list = ExAllocatePool(NonPagedPool, bytes);
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    CHECK_STATUS(table->BuildScatterGatherList(adapter, ktest_device, buffer.mdl, buffer.va, length, listed,
                                               (PVOID)5, FALSE, list, sizeof(SCATTER_GATHER_LIST)),
                 STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(table->BuildScatterGatherList(adapter, ktest_device, buffer.mdl, buffer.va, length, listed,
                                               (PVOID)5, FALSE, list, bytes),
                 STATUS_SUCCESS);
    KeLowerIrql(old);
    CHECK_PTR(seen.base, list);
    CHECK_EQ(list->NumberOfElements, 1); /* the device does not scatter */
    CHECK_EQ(list->Elements[0].Length, length);
    PUCHAR device = device_view(list->Elements[0].Address);
    RtlFillMemory(device, length, 0x3C);
    PMDL target = NULL;
    CHECK_STATUS(table->BuildMdlFromScatterGatherList(adapter, list, buffer.mdl, &target), STATUS_SUCCESS);
    CHECK(target != buffer.mdl);
    CHECK_EQ(MmGetMdlByteCount(target), length);
    CHECK_EQ((ULONGLONG)((PPFN_NUMBER)(target + 1))[0] * PAGE,
             (ULONGLONG)list->Elements[0].Address.QuadPart & ~(ULONGLONG)(PAGE - 1));
    put_list(adapter, list, FALSE);
    CHECK_EQ(page_of(&buffer, 0)[0x800], 0x3C);
    CHECK_EQ(page_of(&buffer, 1)[PAGE - 1], 0x3C);
    CHECK_STATUS(table->BuildMdlFromScatterGatherList(adapter, list, buffer.mdl, &target),
                 STATUS_INVALID_PARAMETER);
    ExFreePool(list);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

KTEST(lists_wait_for_registers)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(FALSE, 2 * PAGE, &registers);
    CHECK_EQ(registers, 3);
    if (!CHECK(make(&buffer, 2, 0, TRUE))) {
        return;
    }
    CHECK_STATUS(get_list(adapter, buffer.mdl, buffer.va, 2 * PAGE, FALSE), STATUS_SUCCESS);
    PVOID first = seen.base;
    CHECK_STATUS(get_list(adapter, buffer.mdl, buffer.va, 2 * PAGE, FALSE), STATUS_SUCCESS);
    CHECK_EQ(seen.calls, 1);
    put_list(adapter, first, FALSE);
    CHECK_EQ(seen.calls, 2);
    put_list(adapter, seen.base, FALSE);
    release(&buffer);
    HalPutDmaAdapter(adapter);
}

/* ---- Mistakes. ---- */

KTEST_BUGCHECK(adapter_used_after_release, 0xE6)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    HalPutDmaAdapter(adapter);
    HalReadDmaCounter(adapter);
}

KTEST_BUGCHECK(no_adapter, 0xE6)
{
    HalReadDmaCounter((PDMA_ADAPTER)ktest_device);
}

KTEST_BUGCHECK(common_buffer_of_another_length, 0xE6)
{
    ULONG registers;
    PHYSICAL_ADDRESS address;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    PVOID memory = HalAllocateCommonBuffer(adapter, PAGE, &address, TRUE);
    HalFreeCommonBuffer(adapter, PAGE / 2, address, memory, TRUE);
}

KTEST_BUGCHECK(released_with_common_buffer, 0xE6)
{
    ULONG registers;
    PHYSICAL_ADDRESS address;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    HalAllocateCommonBuffer(adapter, PAGE, &address, TRUE);
    HalPutDmaAdapter(adapter);
}

KTEST_BUGCHECK(channel_freed_twice, 0xE6)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    allocate(adapter, 1, keep, 0);
    free_channel(adapter);
    free_channel(adapter);
}

KTEST_BUGCHECK(channel_asked_for_at_passive_level, 0xE6)
{
    ULONG registers;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    IoAllocateAdapterChannel(adapter, ktest_device, 1, drop, NULL);
}

KTEST_BUGCHECK(registers_freed_while_mapped, 0xE6)
{
    ULONG registers, length = 16;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    make(&buffer, 1, 0, FALSE);
    allocate(adapter, 1, keep_registers, 0);
    IoMapTransfer(adapter, buffer.mdl, seen.base, buffer.va, &length, TRUE);
    free_registers(adapter, seen.base, 1);
}

KTEST_BUGCHECK(flushed_unmapped, 0xE6)
{
    ULONG registers;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, PAGE, &registers);
    make(&buffer, 1, 0, FALSE);
    allocate(adapter, 1, keep_registers, 0);
    IoFlushAdapterBuffers(adapter, buffer.mdl, seen.base, buffer.va, 16, TRUE);
}

KTEST_BUGCHECK(mapped_outside_of_the_mdl, 0xE6)
{
    ULONG registers, length = 2 * PAGE;
    struct buffer buffer;
    PDMA_ADAPTER adapter = adapter_for(TRUE, 4 * PAGE, &registers);
    make(&buffer, 1, 0, FALSE);
    allocate(adapter, 2, keep_registers, 0);
    IoMapTransfer(adapter, buffer.mdl, seen.base, buffer.va, &length, TRUE);
}

KTEST_BUGCHECK(adapter_asked_for_at_dispatch_level, 0x0A)
{
    ULONG registers;
    KIRQL old;
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    adapter_for(TRUE, PAGE, &registers);
}

KTEST_FAMILY("dma", KTEST_ENTRY(adapter_structures), KTEST_ENTRY(adapter_versions), KTEST_ENTRY(map_register_counts),
             KTEST_ENTRY(isa_devices_cannot_reach_memory), KTEST_ENTRY(common_buffers), KTEST_ENTRY(channel_routine),
             KTEST_ENTRY(channel_is_one), KTEST_ENTRY(map_registers_run_out),
             KTEST_ENTRY(channel_asked_for_in_a_routine), KTEST_ENTRY(transfer_of_a_device_that_scatters),
             KTEST_ENTRY(contiguous_pages_are_one_transfer), KTEST_ENTRY(transfer_through_map_registers),
             KTEST_ENTRY(transfer_in_parts_when_registers_are_few), KTEST_ENTRY(registers_kept_are_used_later),
             KTEST_ENTRY(list_elements), KTEST_ENTRY(list_of_a_chain), KTEST_ENTRY(list_in_the_drivers_memory),
             KTEST_ENTRY(lists_wait_for_registers), KTEST_BUGCHECK_ENTRY(adapter_used_after_release),
             KTEST_BUGCHECK_ENTRY(no_adapter), KTEST_BUGCHECK_ENTRY(common_buffer_of_another_length),
             KTEST_BUGCHECK_ENTRY(released_with_common_buffer), KTEST_BUGCHECK_ENTRY(channel_freed_twice),
             KTEST_BUGCHECK_ENTRY(channel_asked_for_at_passive_level),
             KTEST_BUGCHECK_ENTRY(registers_freed_while_mapped), KTEST_BUGCHECK_ENTRY(flushed_unmapped),
             KTEST_BUGCHECK_ENTRY(mapped_outside_of_the_mdl),
             KTEST_BUGCHECK_ENTRY(adapter_asked_for_at_dispatch_level));
