//! Buses: translation of bus addresses.
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
}
