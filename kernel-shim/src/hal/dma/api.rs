//! The exports, and the routines of DMA_OPERATIONS.

use super::channel::{self, Request};
use super::list::{self, Wanted};
use super::transfer::{self, Part};
use super::{check_dispatch_level, common, create, release, with};
use crate::api::nt_api;
use crate::nt::{
    DEVICE_DESCRIPTION, DEVICE_OBJECT, DMA_ADAPTER, MDL, NtStatus, SCATTER_GATHER_LIST,
    WAIT_CONTEXT_BLOCK,
};
use crate::raw::{Ptr, from_word, low32};
use crate::value::{Boolean, PhysicalAddress, Size, ULong};

/// What DMA_OPERATIONS consists of.
pub(super) const TABLE: [&str; 15] = [
    "HalPutDmaAdapter",
    "HalAllocateCommonBuffer",
    "HalFreeCommonBuffer",
    "IoAllocateAdapterChannel",
    "IoFlushAdapterBuffers",
    "IoFreeAdapterChannel",
    "IoFreeMapRegisters",
    "IoMapTransfer",
    "HalpGetDmaAlignment",
    "HalReadDmaCounter",
    "HalpGetScatterGatherList",
    "HalpPutScatterGatherList",
    "HalpCalculateScatterGatherListSize",
    "HalpBuildScatterGatherList",
    "HalpBuildMdlFromScatterGatherList",
];

fn get_adapter(description: Ptr<DEVICE_DESCRIPTION>, registers: Ptr<u32>) -> Ptr<DMA_ADAPTER> {
    let Some((adapter, count)) = create(&description.read()) else {
        return Ptr::null();
    };
    registers.write(count);
    adapter
}

fn from_status(result: Result<(), NtStatus>) -> NtStatus {
    match result {
        Ok(()) => NtStatus::SUCCESS,
        Err(status) => status,
    }
}

nt_api! { module = hal_dma;
    /// Makes an adapter for a device, and says how many map registers it has. Null: the description's version is above 2,
    /// or there is no memory that the device could reach, as for ISA devices and those of the system's DMA controller.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetDmaAdapter(
        physical_device_object: Ptr<DEVICE_OBJECT>, device_description: Ptr<DEVICE_DESCRIPTION>,
        number_of_map_registers: Ptr<u32>,
    ) -> Ptr<DMA_ADAPTER> {
        get_adapter(device_description, number_of_map_registers)
    }

    /// As IoGetDmaAdapter, without a device.
    hal both stdcall irql(PASSIVE_LEVEL) implemented
    fn HalGetAdapter(
        device_description: Ptr<DEVICE_DESCRIPTION>, number_of_map_registers: Ptr<u32>,
    ) -> Ptr<DMA_ADAPTER> {
        get_adapter(device_description, number_of_map_registers)
    }

    /// Releases an adapter.
    hal both stdcall irql(PASSIVE_LEVEL) implemented
    fn HalPutDmaAdapter(adapter: Ptr<DMA_ADAPTER>) {
        release(adapter);
    }

    /// Allocates contiguous pages that driver and device share; null when there are none that the device can address.
    hal both stdcall irql(PASSIVE_LEVEL) implemented
    fn HalAllocateCommonBuffer(
        adapter: Ptr<DMA_ADAPTER>, length: ULong, logical_address: Ptr<u64>, cache_enabled: Boolean,
    ) -> Ptr<u8> {
        common::allocate(adapter, length.into(), logical_address)
    }

    /// Frees a common buffer; what is none, or has another length or address, is a bugcheck.
    hal both stdcall irql(PASSIVE_LEVEL) implemented
    fn HalFreeCommonBuffer(
        adapter: Ptr<DMA_ADAPTER>, length: ULong, logical_address: PhysicalAddress, virtual_address: Ptr<u8>,
        cache_enabled: Boolean,
    ) {
        common::free(adapter, length.into(), logical_address.0, virtual_address);
    }

    /// Calls the routine at DISPATCH_LEVEL when the adapter's channel is free and there are map registers enough.
    /// INSUFFICIENT_RESOURCES: the adapter has not so many. A routine that returns KeepObject keeps both, and with
    /// DeallocateObjectKeepRegisters the map registers.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateAdapterChannel(
        adapter: Ptr<DMA_ADAPTER>, device: Ptr<DEVICE_OBJECT>, number_of_map_registers: ULong,
        execution_routine: Ptr<u8>, context: Ptr<u8>,
    ) -> NtStatus {
        check_dispatch_level("AllocateAdapterChannel");
        channel::request(adapter, Request {
            device,
            irp: device.non_null().map_or(0, |device| device.read().CurrentIrp.addr()),
            registers: number_of_map_registers,
            is_copied: true,
            routine: execution_routine.addr(),
            context: context.addr(),
            list: None,
        })
    }

    /// As IoAllocateAdapterChannel, with device, IRP and context in a WAIT_CONTEXT_BLOCK.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalAllocateAdapterChannel(
        adapter: Ptr<DMA_ADAPTER>, wait_context: Ptr<WAIT_CONTEXT_BLOCK>, number_of_map_registers: ULong,
        execution_routine: Ptr<u8>,
    ) -> NtStatus {
        check_dispatch_level("HalAllocateAdapterChannel");
        let wait = wait_context.read();
        channel::request(adapter, Request {
            device: Ptr::new(from_word(wait.DeviceObject)),
            irp: from_word(wait.CurrentIrp),
            registers: number_of_map_registers,
            is_copied: true,
            routine: execution_routine.addr(),
            context: from_word(wait.DeviceContext),
            list: None,
        })
    }

    /// Ends a transfer: copies what the device has written from map registers to the buffer. Always TRUE.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFlushAdapterBuffers(
        adapter: Ptr<DMA_ADAPTER>, mdl: Ptr<MDL>, map_register_base: Size, current_va: Ptr<u8>, length: ULong,
        write_to_device: Boolean,
    ) -> Boolean {
        let part = Part { mdl, buffer: current_va.addr(), bytes: length.into() };
        transfer::flush(adapter, map_register_base.0, &part, write_to_device);
        true
    }

    /// Frees the adapter's channel and its map registers; whoever waits for it is next.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeAdapterChannel(adapter: Ptr<DMA_ADAPTER>) {
        check_dispatch_level("FreeAdapterChannel");
        channel::free(adapter);
    }

    /// Frees map registers that were kept; whoever waits for them is next.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeMapRegisters(adapter: Ptr<DMA_ADAPTER>, map_register_base: Size, number_of_map_registers: ULong) {
        check_dispatch_level("FreeMapRegisters");
        channel::free_registers(adapter, map_register_base.0, number_of_map_registers);
    }

    /// The address for the device of a part of a buffer; its length becomes what is contiguous there.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoMapTransfer(
        adapter: Ptr<DMA_ADAPTER>, mdl: Ptr<MDL>, map_register_base: Size, current_va: Ptr<u8>, length: Ptr<u32>,
        write_to_device: Boolean,
    ) -> PhysicalAddress {
        let part = Part { mdl, buffer: current_va.addr(), bytes: length.read().into() };
        let (physical, bytes) = transfer::map(adapter, map_register_base.0, &part, write_to_device);
        length.write(low32(bytes));
        PhysicalAddress(physical)
    }

    /// GetDmaAlignment: 1, a PC's memory has none. NT does not export it; it needs an address.
    hal both stdcall irql(PASSIVE_LEVEL) implemented
    fn HalpGetDmaAlignment(adapter: Ptr<DMA_ADAPTER>) -> ULong {
        with(adapter, |_| 1)
    }

    /// What the system's DMA controller has not transferred yet: nothing, no adapter is one of its channels.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalReadDmaCounter(adapter: Ptr<DMA_ADAPTER>) -> ULong {
        with(adapter, |_| 0)
    }

    /// GetScatterGatherList: calls the routine at DISPATCH_LEVEL with a list. BUFFER_TOO_SMALL: the MDLs' buffers end
    /// before. INSUFFICIENT_RESOURCES: the adapter has not so many map registers.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalpGetScatterGatherList(
        adapter: Ptr<DMA_ADAPTER>, device: Ptr<DEVICE_OBJECT>, mdl: Ptr<MDL>, current_va: Ptr<u8>, length: ULong,
        execution_routine: Ptr<u8>, context: Ptr<u8>, write_to_device: Boolean,
    ) -> NtStatus {
        check_dispatch_level("GetScatterGatherList");
        let wanted = Wanted {
            mdl,
            buffer: current_va.addr(),
            bytes: length.into(),
            is_write: write_to_device,
            list: Ptr::null(),
            is_drivers: false,
        };
        list::request(adapter, device, [execution_routine.addr(), context.addr()], &wanted, 0)
    }

    /// PutScatterGatherList: copies what the device has written, frees the list and its map registers.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalpPutScatterGatherList(
        adapter: Ptr<DMA_ADAPTER>, scatter_gather: Ptr<SCATTER_GATHER_LIST>, write_to_device: Boolean,
    ) {
        check_dispatch_level("PutScatterGatherList");
        list::put(adapter, scatter_gather, write_to_device);
    }

    /// CalculateScatterGatherListSize: bytes for BuildScatterGatherList, and map registers. BUFFER_TOO_SMALL,
    /// INSUFFICIENT_RESOURCES: as for GetScatterGatherList.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalpCalculateScatterGatherListSize(
        adapter: Ptr<DMA_ADAPTER>, mdl: Ptr<MDL>, current_va: Ptr<u8>, length: ULong, size: Ptr<u32>,
        number_of_map_registers: Ptr<u32>,
    ) -> NtStatus {
        from_status(list::needs(adapter, mdl, current_va.addr(), length.into()).map(|needs| {
            size.write(low32(needs.bytes));
            if let Some(number) = number_of_map_registers.non_null() {
                number.write(needs.registers);
            }
        }))
    }

    /// BuildScatterGatherList: as GetScatterGatherList, with a list in the driver's memory, which BUFFER_TOO_SMALL may
    /// be about, too.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalpBuildScatterGatherList(
        adapter: Ptr<DMA_ADAPTER>, device: Ptr<DEVICE_OBJECT>, mdl: Ptr<MDL>, current_va: Ptr<u8>, length: ULong,
        execution_routine: Ptr<u8>, context: Ptr<u8>, write_to_device: Boolean,
        scatter_gather_buffer: Ptr<SCATTER_GATHER_LIST>, scatter_gather_length: ULong,
    ) -> NtStatus {
        check_dispatch_level("BuildScatterGatherList");
        let wanted = Wanted {
            mdl,
            buffer: current_va.addr(),
            bytes: length.into(),
            is_write: write_to_device,
            list: scatter_gather_buffer,
            is_drivers: true,
        };
        let routine = [execution_routine.addr(), context.addr()];
        list::request(adapter, device, routine, &wanted, scatter_gather_length.into())
    }

    /// BuildMdlFromScatterGatherList: an MDL for the list's pages, which PutScatterGatherList frees; the original one if
    /// there are no map registers in it. INVALID_PARAMETER: it is no list, or one that an MDL cannot describe.
    hal both stdcall irql(DISPATCH_LEVEL) implemented
    fn HalpBuildMdlFromScatterGatherList(
        adapter: Ptr<DMA_ADAPTER>, scatter_gather: Ptr<SCATTER_GATHER_LIST>, original_mdl: Ptr<MDL>,
        target_mdl: Ptr<Ptr<MDL>>,
    ) -> NtStatus {
        from_status(list::build_mdl(adapter, scatter_gather, original_mdl).map(|mdl| target_mdl.write(mdl)))
    }
}
