//! Configuration data of buses: PCI and CMOS.
//!
//! Read and written by port accesses as a PC's HAL makes them, which exit to the VMM: the policy decides. PCI registers
//! are reached by configuration mechanism #1 (an address to 0xCF8, data at 0xCFC).

use crate::api::nt_api;
use crate::platform::PortAccess;
use crate::raw::{Ptr, low8, low16};
use crate::shared::platform;
use crate::value::ULong;

/// BUS_DATA_TYPE: Cmos.
const CMOS: u32 = 0;
/// BUS_DATA_TYPE: PCIConfiguration.
const PCI_CONFIGURATION: u32 = 4;
/// Ports of configuration mechanism #1.
const PCI_ADDRESS: u16 = 0xCF8;
const PCI_DATA: u16 = 0xCFC;
/// The address's enable bit.
const PCI_ENABLE: u32 = 0x8000_0000;
/// Bytes of a function's configuration space that mechanism #1 reaches.
const PCI_BYTES: u32 = 256;
/// PCI_INVALID_VENDOR_ID: what a slot without a device reads as.
const INVALID_VENDOR: u16 = 0xFFFF;
/// Bytes of a vendor id.
const VENDOR_BYTES: u32 = 2;
/// Ports of the CMOS: index, data.
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
/// Bytes of CMOS; the index's uppermost bit is not part of it.
const CMOS_BYTES: u32 = 128;

fn port(port: u16, width: u8, write: Option<u32>) -> u32 {
    platform().kernel_port(PortAccess { port, width, write })
}

/// A PCI function.
#[derive(Clone, Copy, Debug)]
struct Function {
    /// What goes to 0xCF8 for its first register.
    address: u32,
}

impl Function {
    /// Bus and PCI_SLOT_NUMBER: the device in bits 0-4, the function in bits 5-7. `None`: there cannot be one.
    fn new(bus: u32, slot: u32) -> Option<Self> {
        if bus > 0xFF || slot > 0xFF {
            return None;
        }
        let (device, function) = (slot & 0x1F, slot >> 5);
        Some(Self {
            address: PCI_ENABLE | bus << 16 | device << 11 | function << 8,
        })
    }

    /// One access of 1, 2 or 4 bytes, inside of an aligned group of 4.
    fn access(self, offset: u32, width: u8, write: Option<u32>) -> u32 {
        port(PCI_ADDRESS, 4, Some(self.address | offset & 0xFC));
        port(PCI_DATA + low16(u64::from(offset & 3)), width, write)
    }

    fn is_there(self) -> bool {
        low16(u64::from(self.access(0, 2, None))) != INVALID_VENDOR
    }
}

/// The widest access at an offset that is aligned and not longer than the rest.
fn width_at(offset: u32, rest: u32) -> u8 {
    if offset.is_multiple_of(4) && rest >= 4 {
        4
    } else if offset.is_multiple_of(2) && rest >= 2 {
        2
    } else {
        1
    }
}

/// Whether the machine has configuration mechanism #1: the address can be read back.
fn has_mechanism() -> bool {
    port(PCI_ADDRESS, 4, Some(PCI_ENABLE));
    port(PCI_ADDRESS, 4, None) == PCI_ENABLE
}

/// Whether there is such a bus: number 0 always, others if a device is there.
fn has_bus(bus: u32) -> bool {
    let slots = 0..32;
    bus == 0
        || slots
            .filter_map(|slot| Function::new(bus, slot))
            .any(Function::is_there)
}

/// Calls `work` with offset and width for each access of a range.
fn each_access(offset: u32, length: u32, mut work: impl FnMut(u32, u8)) {
    let (mut at, mut rest) = (offset, length);
    while rest > 0 {
        let width = width_at(at, rest);
        work(at, width);
        at += u32::from(width);
        rest -= u32::from(width);
    }
}

/// Reads a function's registers; bytes that were read.
fn read_pci(bus: u32, slot: u32, buffer: Ptr<u8>, offset: u32, length: u32) -> u32 {
    if bus > 0xFF || !has_mechanism() {
        return 0;
    }
    let function = Function::new(bus, slot).filter(|function| function.is_there());
    let Some(function) = function else {
        // Only the vendor id of what is not there can be read.
        if !has_bus(bus) {
            return 0;
        }
        let bytes = VENDOR_BYTES.saturating_sub(offset).min(length);
        buffer.fill(0xFF, bytes.into());
        return bytes;
    };
    let length = PCI_BYTES.saturating_sub(offset).min(length);
    each_access(offset, length, |at, width| {
        let value = function.access(at, width, None).to_le_bytes();
        let into = buffer.add_bytes(u64::from(at - offset));
        into.write_bytes(value.get(..width.into()).unwrap_or_default());
    });
    length
}

/// Writes a function's registers; bytes that were written.
fn write_pci(bus: u32, slot: u32, buffer: Ptr<u8>, offset: u32, length: u32) -> u32 {
    let function = Function::new(bus, slot)
        .filter(|_| has_mechanism())
        .filter(|function| function.is_there());
    let Some(function) = function else {
        return 0;
    };
    let length = PCI_BYTES.saturating_sub(offset).min(length);
    each_access(offset, length, |at, width| {
        let mut value = [0; 4];
        let from = buffer.add_bytes(u64::from(at - offset));
        if let Some(bytes) = value.get_mut(..width.into()) {
            from.read_bytes(bytes);
        }
        function.access(at, width, Some(u32::from_le_bytes(value)));
    });
    length
}

/// Reads or writes CMOS from index `first` on; how many bytes there were.
fn cmos(bus: u32, first: u32, buffer: Ptr<u8>, length: u32, is_write: bool) -> u32 {
    if bus != 0 {
        return 0;
    }
    let length = CMOS_BYTES.saturating_sub(first).min(length);
    for at in 0..length {
        port(CMOS_INDEX, 1, Some(first + at));
        let byte = buffer.add_bytes(at.into());
        if is_write {
            port(CMOS_DATA, 1, Some(byte.read().into()));
        } else {
            byte.write(low8(port(CMOS_DATA, 1, None).into()));
        }
    }
    length
}

nt_api! { module = hal_bus_data;
    /// Reads configuration data of a PCI slot or CMOS (from index `slot_number` on); how many bytes. 0: there is no such
    /// bus, or the machine has none of that type. A PCI slot without a device: 2 bytes of PCI_INVALID_VENDOR_ID.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalGetBusData(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, length: ULong,
    ) -> ULong {
        HalGetBusDataByOffset(bus_data_type, bus_number, slot_number, buffer, 0, length)
    }

    /// As HalGetBusData, from an offset, which CMOS has not.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalGetBusDataByOffset(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, offset: ULong, length: ULong,
    ) -> ULong {
        match bus_data_type {
            CMOS => cmos(bus_number, slot_number, buffer, length, false),
            PCI_CONFIGURATION => read_pci(bus_number, slot_number, buffer, offset, length),
            _ => 0,
        }
    }

    /// Writes configuration data; how many bytes: 0 if there is no such bus or device.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalSetBusData(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, length: ULong,
    ) -> ULong {
        HalSetBusDataByOffset(bus_data_type, bus_number, slot_number, buffer, 0, length)
    }

    /// As HalSetBusData, from an offset, which CMOS has not.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalSetBusDataByOffset(
        bus_data_type: ULong, bus_number: ULong, slot_number: ULong, buffer: Ptr<u8>, offset: ULong,
        length: ULong,
    ) -> ULong {
        match bus_data_type {
            CMOS => cmos(bus_number, slot_number, buffer, length, true),
            PCI_CONFIGURATION => write_pci(bus_number, slot_number, buffer, offset, length),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use crate::test_platform::machine;
    use std::collections::BTreeMap;

    /// Bus 2, device 3, function 1, and bus 0, device 1.
    const FUNCTION: u32 = 0x8002_1900;
    const SLOT: u32 = 3 | 1 << 5;

    fn registers() -> (u32, BTreeMap<u32, u32>) {
        let registers = [
            (FUNCTION, 0x1234_8086),
            (FUNCTION | 4, 0xA0B0_C0D0),
            (FUNCTION | 0xFC, 0x4433_2211),
            (0x8000_0800, 0x0001_10EC),
        ];
        (0, BTreeMap::from(registers))
    }

    #[test]
    fn pci_registers_are_read_with_aligned_accesses() {
        let machine = machine();
        *machine.fake.pci.lock().unwrap() = Some(registers());
        let mut buffer = [0_u8; 8];
        let into = at(&mut buffer);
        let get = |bus, slot, offset, length| {
            HalGetBusDataByOffset(PCI_CONFIGURATION, bus, slot, into, offset, length)
        };
        assert_eq!(HalGetBusData(PCI_CONFIGURATION, 2, SLOT, into, 6), 6);
        assert_eq!(into.read_slice(6), [0x86, 0x80, 0x34, 0x12, 0xD0, 0xC0]);
        machine.fake.ports.lock().unwrap().clear();
        assert_eq!(get(2, SLOT, 1, 4), 4);
        assert_eq!(into.read_slice(4), [0x80, 0x34, 0x12, 0xD0]);
        let data: Vec<(u16, u8)> = machine
            .fake
            .ports
            .lock()
            .unwrap()
            .iter()
            .filter(|access| access.port >= PCI_DATA)
            .map(|access| (access.port, access.width))
            .collect();
        // The vendor id first.
        assert_eq!(data, [(0xCFC, 2), (0xCFD, 1), (0xCFE, 2), (0xCFC, 1)]);
        assert_eq!(get(2, SLOT, 0xFE, 8), 2, "as far as there are registers");
        assert_eq!(into.read_slice(2), [0x33, 0x44]);
        assert_eq!(get(2, SLOT, 0x100, 8), 0);
    }

    #[test]
    fn what_is_not_there_has_no_vendor() {
        let machine = machine();
        let mut buffer = [0_u8; 4];
        let into = at(&mut buffer);
        let get = |bus, slot, offset, length| {
            into.fill(0, 4);
            let bytes = HalGetBusDataByOffset(PCI_CONFIGURATION, bus, slot, into, offset, length);
            (bytes, into.cast::<u32>().read())
        };
        assert_eq!(get(0, 1, 0, 4), (0, 0), "no mechanism #1, no bus");
        *machine.fake.pci.lock().unwrap() = Some(registers());
        assert_eq!(get(0, 1, 0, 4), (4, 0x0001_10EC));
        assert_eq!(get(0, 7, 0, 4), (2, 0xFFFF));
        assert_eq!(get(0, 7, 0, 1), (1, 0xFF));
        assert_eq!(get(0, 7, 1, 4), (1, 0xFF));
        assert_eq!(get(0, 7, 2, 4), (0, 0));
        assert_eq!(get(0, 0x100, 0, 4), (2, 0xFFFF), "bits that are reserved");
        assert_eq!(get(1, 0, 0, 4), (0, 0), "no such bus");
        assert_eq!(get(256, 0, 0, 4), (0, 0));
        assert_eq!(HalSetBusData(PCI_CONFIGURATION, 0, 7, into, 4), 0);
        assert_eq!(HalSetBusData(PCI_CONFIGURATION, 256, 0, into, 4), 0);
        assert_eq!(HalGetBusData(1, 0, 0, into, 4), 0);
        assert_eq!(HalSetBusData(5, 0, 0, into, 4), 0);
    }

    #[test]
    fn pci_registers_are_written() {
        let machine = machine();
        *machine.fake.pci.lock().unwrap() = Some(registers());
        let mut buffer = [1_u8, 2, 3];
        let from = at(&mut buffer);
        let written = HalSetBusDataByOffset(PCI_CONFIGURATION, 2, SLOT, from, 5, 3);
        let pci = machine.fake.pci.lock().unwrap();
        let (_, registers) = pci.as_ref().unwrap();
        assert_eq!((written, registers[&(FUNCTION | 4)]), (3, 0x0302_01D0));
    }

    #[test]
    fn cmos_is_read_byte_by_byte() {
        let machine = machine();
        let mut buffer = [9_u8; 4];
        let into = at(&mut buffer);
        assert_eq!(HalGetBusData(CMOS, 0, 126, into, 4), 2);
        assert_eq!(into.read_slice(4), [0x71, 0x71, 9, 9]);
        assert_eq!(HalSetBusDataByOffset(CMOS, 0, 0x7F, into, 55, 1), 1);
        assert_eq!(HalGetBusData(CMOS, 1, 0, into, 1), 0);
        assert_eq!(HalGetBusData(CMOS, 0, 128, into, 1), 0);
        let accesses: Vec<_> = machine.fake.ports.lock().unwrap().clone();
        let access = |port, write| PortAccess {
            port,
            width: 1,
            write,
        };
        let expected = [
            access(0x70, Some(126)),
            access(0x71, None),
            access(0x70, Some(127)),
            access(0x71, None),
            access(0x70, Some(127)),
            access(0x71, Some(0x71)),
        ];
        assert_eq!(accesses, expected);
    }
}
