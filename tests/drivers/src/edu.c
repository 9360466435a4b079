/* edu.sys: see ../include/edu.h. */
#include "driver.h"
#include "../include/edu.h"

/* Not in mingw-w64's amd64 headers. */
NTHALAPI ULONG NTAPI HalGetInterruptVector(INTERFACE_TYPE type, ULONG bus, ULONG level, ULONG vector, PKIRQL irql,
                                           PKAFFINITY affinity);
NTHALAPI ULONG NTAPI HalGetBusData(BUS_DATA_TYPE type, ULONG bus, ULONG slot, PVOID buffer, ULONG length);

#define EDU_VENDOR 0x1234u
#define EDU_DEVICE 0x11e8u
#define BAR_BYTES 4096u
#define INTERRUPT_STATUS 0x24u
#define INTERRUPT_ACKNOWLEDGE 0x64u
#define DMA_SOURCE 0x80u
#define DMA_DESTINATION 0x88u
#define DMA_COUNT 0x90u
#define DMA_COMMAND 0x98u
#define DMA_START 1u
#define DMA_TO_MEMORY 2u
#define DMA_INTERRUPT 4u
/* Where the device sees its own buffer. */
#define DEVICE_BUFFER 0x40000u

static volatile ULONG *registers;
static PKINTERRUPT interrupt;
static KEVENT served;
static volatile struct edu_counts counts;
static PDMA_ADAPTER adapter;
static PUCHAR common;
static PHYSICAL_ADDRESS common_logical;

static BOOLEAN NTAPI service(PKINTERRUPT object, PVOID context)
{
    (VOID)object;
    PDEVICE_OBJECT device = context;
    ULONG status = registers[INTERRUPT_STATUS / 4];
    if (status == 0) {
        counts.disclaimed++;
        return FALSE;
    }
    registers[INTERRUPT_ACKNOWLEDGE / 4] = status;
    counts.interrupts++;
    counts.status |= status;
    IoRequestDpc(device, NULL, NULL);
    return TRUE;
}

static VOID NTAPI deferred(PKDPC dpc, PDEVICE_OBJECT device, PIRP irp, PVOID context)
{
    (VOID)dpc;
    (VOID)device;
    (VOID)irp;
    (VOID)context;
    counts.dpcs++;
    KeSetEvent(&served, IO_NO_INCREMENT, FALSE);
}

static VOID stop(VOID)
{
    if (common != NULL) {
        adapter->DmaOperations->FreeCommonBuffer(adapter, 2 * EDU_BUFFER, common_logical, common, FALSE);
        common = NULL;
    }
    if (adapter != NULL) {
        adapter->DmaOperations->PutDmaAdapter(adapter);
        adapter = NULL;
    }
    if (interrupt != NULL) {
        IoDisconnectInterrupt(interrupt);
        interrupt = NULL;
    }
    if (registers != NULL) {
        MmUnmapIoSpace((PVOID)registers, BAR_BYTES);
        registers = NULL;
    }
}

static NTSTATUS start(PDEVICE_OBJECT device, const struct edu_start *wanted)
{
    PHYSICAL_ADDRESS address;
    KAFFINITY processors;
    KIRQL irql;
    if (registers != NULL) {
        return STATUS_DEVICE_BUSY;
    }
    address.QuadPart = (LONGLONG)wanted->address;
    registers = MmMapIoSpace(address, BAR_BYTES, MmNonCached);
    if (registers == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    ULONG vector = HalGetInterruptVector(Isa, 0, wanted->line, wanted->line, &irql, &processors);
    NTSTATUS status = vector == 0 ? STATUS_INVALID_PARAMETER
                                  : IoConnectInterrupt(&interrupt, service, device, NULL, vector, irql, irql,
                                                       LevelSensitive, TRUE, processors, FALSE);
    if (!NT_SUCCESS(status)) {
        interrupt = NULL;
        stop();
    }
    return status;
}

static NTSTATUS get_common_buffer(PDEVICE_OBJECT device)
{
    if (common != NULL) {
        return STATUS_SUCCESS;
    }
    if (adapter == NULL) {
        DEVICE_DESCRIPTION description = {
            .Version = DEVICE_DESCRIPTION_VERSION,
            .Master = TRUE,
            .Dma32BitAddresses = TRUE,
            .InterfaceType = PCIBus,
            .MaximumLength = EDU_BUFFER,
        };
        ULONG map_registers;
        adapter = IoGetDmaAdapter(device, &description, &map_registers);
    }
    if (adapter != NULL) {
        common = adapter->DmaOperations->AllocateCommonBuffer(adapter, 2 * EDU_BUFFER, &common_logical, FALSE);
    }
    return common == NULL ? STATUS_INSUFFICIENT_RESOURCES : STATUS_SUCCESS;
}

/* The device ends itself when a transfer leaves its buffer, so `count` has been checked. */
static VOID transfer(ULONG logical, ULONG count, BOOLEAN to_memory)
{
    registers[DMA_SOURCE / 4] = to_memory ? DEVICE_BUFFER : logical;
    registers[DMA_DESTINATION / 4] = to_memory ? logical : DEVICE_BUFFER;
    registers[DMA_COUNT / 4] = count;
    registers[DMA_COMMAND / 4] = DMA_START | DMA_INTERRUPT | (to_memory ? DMA_TO_MEMORY : 0);
    KeWaitForSingleObject(&served, Executive, KernelMode, FALSE, NULL);
}

static NTSTATUS copy(PDEVICE_OBJECT device, PUCHAR buffer, ULONG count)
{
    NTSTATUS status = get_common_buffer(device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    RtlCopyMemory(common, buffer, count);
    RtlZeroMemory(common + EDU_BUFFER, EDU_BUFFER);
    transfer(common_logical.LowPart, count, FALSE);
    transfer(common_logical.LowPart + EDU_BUFFER, count, TRUE);
    RtlCopyMemory(buffer, common + EDU_BUFFER, count);
    return STATUS_SUCCESS;
}

static NTSTATUS find(struct edu_function *function)
{
    for (ULONG slot = 0; slot < 256; slot++) {
        PCI_COMMON_CONFIG config;
        PCI_SLOT_NUMBER number;
        number.u.AsULONG = 0;
        number.u.bits.DeviceNumber = slot >> 3;
        number.u.bits.FunctionNumber = slot & 7;
        ULONG bytes = HalGetBusData(PCIConfiguration, 0, number.u.AsULONG, &config, PCI_COMMON_HDR_LENGTH);
        if (bytes == 0) {
            return STATUS_NO_SUCH_DEVICE;
        }
        if (bytes < PCI_COMMON_HDR_LENGTH || config.VendorID != EDU_VENDOR || config.DeviceID != EDU_DEVICE) {
            continue;
        }
        function->slot = number.u.AsULONG;
        function->bar = config.u.type0.BaseAddresses[0];
        function->line = config.u.type0.InterruptLine;
        function->pin = config.u.type0.InterruptPin;
        function->subsystem = (rf_u32)config.u.type0.SubSystemID << 16 | config.u.type0.SubVendorID;
        function->revision = (rf_u32)config.BaseClass << 24 | (rf_u32)config.SubClass << 16 | (rf_u32)config.ProgIf << 8 |
                             config.RevisionID;
        return STATUS_SUCCESS;
    }
    return STATUS_NO_SUCH_DEVICE;
}

static NTSTATUS NTAPI control(PDEVICE_OBJECT device, PIRP irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
    ULONG input = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG output = stack->Parameters.DeviceIoControl.OutputBufferLength;
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    PVOID buffer = irp->AssociatedIrp.SystemBuffer;
    switch (code) {
    case EDU_START:
        if (input < sizeof(struct edu_start)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        return complete(irp, start(device, buffer), 0);
    case EDU_READ:
    case EDU_WRITE: {
        struct edu_access *access = buffer;
        if (input < sizeof(*access) || (code == EDU_READ && output < sizeof(ULONG))) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        if (registers == NULL || access->offset >= BAR_BYTES || (access->offset & 3) != 0) {
            return complete(irp, STATUS_INVALID_PARAMETER, 0);
        }
        volatile ULONG *target = &registers[access->offset / 4];
        if (code == EDU_WRITE) {
            *target = access->value;
            return complete(irp, STATUS_SUCCESS, 0);
        }
        ULONG value = 0;
        for (ULONG i = 0; i < access->value; i++) {
            value = *target;
        }
        *(ULONG *)buffer = value;
        return complete(irp, STATUS_SUCCESS, sizeof(ULONG));
    }
    case EDU_WAIT:
        if (output < sizeof(struct edu_counts)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        KeWaitForSingleObject(&served, Executive, KernelMode, FALSE, NULL);
        *(struct edu_counts *)buffer = counts;
        return complete(irp, STATUS_SUCCESS, sizeof(struct edu_counts));
    case EDU_COPY: {
        if (registers == NULL || input == 0 || input > EDU_COUNT_MAX || output < input) {
            return complete(irp, STATUS_INVALID_PARAMETER, 0);
        }
        NTSTATUS status = copy(device, buffer, input);
        return complete(irp, status, NT_SUCCESS(status) ? input : 0);
    }
    case EDU_TRANSFER: {
        struct edu_transfer *wanted = buffer;
        if (input < sizeof(*wanted) || output < sizeof(rf_u64)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        if (registers == NULL || wanted->count == 0 || wanted->count > EDU_COUNT_MAX || wanted->address > 0xFFFFFFFFu) {
            return complete(irp, STATUS_INVALID_PARAMETER, 0);
        }
        NTSTATUS status = get_common_buffer(device);
        if (!NT_SUCCESS(status)) {
            return complete(irp, status, 0);
        }
        transfer((ULONG)wanted->address, wanted->count, wanted->to_memory != 0);
        ULONG rest = output - sizeof(rf_u64) < EDU_BUFFER ? output - sizeof(rf_u64) : EDU_BUFFER;
        *(rf_u64 *)buffer = (rf_u64)common_logical.QuadPart;
        RtlCopyMemory((PUCHAR)buffer + sizeof(rf_u64), common + EDU_BUFFER, rest);
        return complete(irp, STATUS_SUCCESS, sizeof(rf_u64) + rest);
    }
    case EDU_FIND: {
        struct edu_function function = {0};
        if (output < sizeof(function)) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        NTSTATUS status = find(&function);
        if (!NT_SUCCESS(status)) {
            return complete(irp, status, 0);
        }
        *(struct edu_function *)buffer = function;
        return complete(irp, STATUS_SUCCESS, sizeof(function));
    }
    case EDU_GET_CONFIG:
    case EDU_SET_CONFIG: {
        struct edu_config config;
        if (input < sizeof(config) || (code == EDU_GET_CONFIG && output < sizeof(ULONG))) {
            return complete(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        config = *(struct edu_config *)buffer;
        ULONG bytes = code == EDU_SET_CONFIG
                          ? HalSetBusDataByOffset(PCIConfiguration, 0, config.slot, &config.value, config.offset, 4)
                          : HalGetBusDataByOffset(PCIConfiguration, 0, config.slot, &config.value, config.offset, 4);
        if (bytes != 4) {
            return complete(irp, STATUS_UNSUCCESSFUL, 0);
        }
        if (code == EDU_SET_CONFIG) {
            return complete(irp, STATUS_SUCCESS, 0);
        }
        *(ULONG *)buffer = config.value;
        return complete(irp, STATUS_SUCCESS, sizeof(ULONG));
    }
    case EDU_STOP:
        stop();
        return complete(irp, STATUS_SUCCESS, 0);
    default:
        return complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static NTSTATUS NTAPI create_close(PDEVICE_OBJECT device, PIRP irp)
{
    (VOID)device;
    return complete(irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    stop();
    delete_device(driver->DeviceObject, L"\\DosDevices\\edu");
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    PDEVICE_OBJECT device;
    (VOID)registry_path;
    NTSTATUS status = create_device(driver, 0, L"\\Device\\edu", L"\\DosDevices\\edu", &device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    KeInitializeEvent(&served, SynchronizationEvent, FALSE);
    IoInitializeDpcRequest(device, deferred);
    driver->MajorFunction[IRP_MJ_CREATE] = create_close;
    driver->MajorFunction[IRP_MJ_CLOSE] = create_close;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = control;
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
