//! Buses: translation of bus addresses, configuration data.
//!
//! The guest's machine is a PC with one of each bus; addresses are the same on all of them.

use crate::api::nt_api;
use crate::raw::Ptr;
use crate::value::{PhysicalAddress, ULong};

/// INTERFACE_TYPE: Internal.
const INTERNAL: u32 = 0;
/// INTERFACE_TYPE: Isa.
const ISA: u32 = 1;
/// INTERFACE_TYPE: Eisa.
const EISA: u32 = 2;
/// INTERFACE_TYPE: PCIBus.
const PCI_BUS: u32 = 5;
/// AddressSpace: memory.
const MEMORY: u32 = 0;
/// AddressSpace: I/O ports.
const PORTS: u32 = 1;
/// Port addresses end here.
const PORTS_END: u64 = 0x1_0000;

/// BUS_DATA_TYPE: PCIConfiguration.
const PCI_CONFIGURATION: u32 = 4;
/// PCI_INVALID_VENDOR_ID: what a slot without a device reads as.
const INVALID_VENDOR: [u8; 2] = [0xFF; 2];

/// Where a bus address is for the processor; `None` if there is no such bus, address space or port.
fn translate(interface_type: u32, bus_number: u32, address: u64, space: u32) -> Option<u64> {
    let is_known = matches!(interface_type, INTERNAL | ISA | EISA | PCI_BUS) && bus_number == 0;
    let is_there = match space {
        MEMORY => true,
        PORTS => address < PORTS_END,
        _ => false,
    };
    (is_known && is_there).then_some(address)
}

/// Writes what a slot without a device reads as; how many bytes that is.
fn no_device(bus_data_type: u32, buffer: Ptr<u8>, length: u32) -> u32 {
    if bus_data_type != PCI_CONFIGURATION || length < 2 {
        return 0;
    }
    buffer.write_bytes(&INVALID_VENDOR);
    2
}

nt_api! { module = hal_bus;
    /// Translates a bus address: 1:1, memory to memory and ports to ports (on bus 0 of Internal, Isa, Eisa, PCIBus).
    /// FALSE for any other bus, address space, or a port above 0xFFFF.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalTranslateBusAddress(
        interface_type: ULong, bus_number: ULong, bus_address: PhysicalAddress, address_space: Ptr<u32>,
        translated_address: Ptr<u64>,
    ) -> bool {
        match translate(interface_type, bus_number, bus_address.0, address_space.read()) {
            Some(address) => {
                translated_address.write(address);
                true
            }
            None => false,
        }
    }

    /// Reads configuration data. There is no device on any bus: 2 bytes of PCI_INVALID_VENDOR_ID for a PCI slot, 0 for
    /// any other bus.
    hal both stdcall irql(ANY_LEVEL) partial("a policy cannot show PCI devices yet")
    fn HalGetBusData(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, length: ULong,
    ) -> ULong {
        no_device(bus_data_type, buffer, length)
    }

    /// Reads configuration data from an offset. There is no device on any bus: 2 bytes of PCI_INVALID_VENDOR_ID for
    /// offset 0 of a PCI slot, 0 for anything else.
    hal both stdcall irql(ANY_LEVEL) partial("a policy cannot show PCI devices yet")
    fn HalGetBusDataByOffset(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, offset: ULong, length: ULong,
    ) -> ULong {
        if offset == 0 { no_device(bus_data_type, buffer, length) } else { 0 }
    }

    /// Writes configuration data: 0 bytes, there is no device.
    hal both stdcall irql(ANY_LEVEL) partial("a policy cannot show PCI devices yet")
    fn HalSetBusData(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, length: ULong,
    ) -> ULong {
        0
    }

    /// Writes configuration data to an offset: 0 bytes, there is no device.
    hal both stdcall irql(ANY_LEVEL) partial("a policy cannot show PCI devices yet")
    fn HalSetBusDataByOffset(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, offset: ULong,
        length: ULong,
    ) -> ULong {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(interface: u32, bus: u32, address: u64, space: u32) -> Option<(u64, u32)> {
        let (mut space, mut result) = (space, 0xDEAD_BEEF);
        let (space_at, result_at) = (Ptr::of(&mut space), Ptr::of(&mut result));
        let is_translated = HalTranslateBusAddress(
            interface,
            bus,
            PhysicalAddress(address),
            space_at,
            result_at,
        );
        assert_eq!(is_translated, result_at.read() != 0xDEAD_BEEF);
        is_translated.then(|| (result_at.read(), space_at.read()))
    }

    #[test]
    fn known_buses_translate_one_to_one() {
        assert_eq!(ask(ISA, 0, 0x378, PORTS), Some((0x378, PORTS)));
        assert_eq!(
            ask(INTERNAL, 0, 0xFEE0_0000, MEMORY),
            Some((0xFEE0_0000, MEMORY))
        );
        assert_eq!(ask(PCI_BUS, 0, 0xE050, PORTS), Some((0xE050, PORTS)));
        assert_eq!(ask(ISA, 1, 0x378, PORTS), None);
        assert_eq!(ask(99, 0, 0x378, PORTS), None);
        assert_eq!(ask(u32::MAX, 0, 0x378, MEMORY), None);
        assert_eq!(ask(ISA, 0, 0x1_0000, PORTS), None);
        assert_eq!(ask(ISA, 0, 0x378, 2), None);
    }

    #[test]
    fn an_empty_slot_reads_as_no_vendor() {
        let mut buffer = [0_u8; 4];
        let at = Ptr::of(&mut buffer[0]);
        assert_eq!(HalGetBusData(PCI_CONFIGURATION, 0, 3, at, 4), 2);
        assert_eq!(buffer, [0xFF, 0xFF, 0, 0]);
        assert_eq!(HalGetBusData(0, 0, 0, at, 4), 0);
        assert_eq!(HalGetBusDataByOffset(PCI_CONFIGURATION, 0, 3, at, 4, 4), 0);
    }
}
