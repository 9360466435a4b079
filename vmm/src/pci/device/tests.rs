use super::*;
use crate::devices::{Mapped, Ram};
use crate::machine::InterruptLines;
use crate::policy::{Place, PortBackend};

const ID: PciId = PciId {
    vendor: 0x1234,
    device: 0x11E8,
};

fn bar(index: u8, kind: BarKind, size: u64, base: Option<u64>) -> PciBar {
    PciBar {
        index,
        kind,
        size,
        base,
        is_prefetchable: kind == BarKind::Memory64,
        backend: PortBackend::Ram {
            initial: Vec::new(),
            fill: 0,
        },
        name: None,
        place: Place::default(),
    }
}

/// Ports in BAR 0, memory in BAR 1, 64-bit memory in BARs 2 and 3; all decoded.
fn device(pin: Option<InterruptPin>) -> PciDevice {
    let model = PciModel {
        initial: vec![0, 0, 0, 0, 3],
        bars: vec![
            bar(0, BarKind::Port, 32, Some(0xE000)),
            bar(1, BarKind::Memory, 0x1000, Some(0xFEB0_0000)),
            bar(2, BarKind::Memory64, 0x10_0000, None),
        ],
        interrupt: Some(PciInterrupt { line: 11, pin: 2 }),
    };
    let ports = Behind::Ports(Box::new(Ram::new(32, &[1, 2, 3, 4, 5], 0)), 6);
    let registers = Mapped::new(Box::new(Ram::new(16, &[0x11, 0x22], 0)), 16);
    let memory = Behind::Memory(Box::new(registers));
    let ram = Behind::Ram(MmapRegion::new(0x10_0000).unwrap());
    PciDevice::new(ID, &model, vec![ports, memory, ram], pin, Arc::default())
}

fn read(device: &PciDevice, register: u16) -> u32 {
    device.read(register, Width::Dword)
}

fn write(device: &mut PciDevice, register: u16, value: u32) {
    device.write(register, Width::Dword, value);
}

#[test]
fn header_has_what_the_policy_says_and_no_more_can_be_written() {
    let mut device = device(None);
    let before: Vec<u32> = (0..16).map(|index| read(&device, 4 * index)).collect();
    assert_eq!(before[0], 0x11E8_1234);
    assert_eq!(before[1], 3);
    assert_eq!(before[15], 0x0000_020B);
    for index in 0..16 {
        write(&mut device, 4 * index, u32::MAX);
    }
    let after: Vec<u32> = (0..16).map(|index| read(&device, 4 * index)).collect();
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], 0x0547, "status has no bits, command its own");
    assert_eq!(after[2], before[2], "class and revision");
    assert_eq!(after[3], 0x0000_FFFF, "cache line size and latency");
    for index in [9, 10, 11, 12, 13, 14] {
        assert_eq!(after[index], before[index], "{index}");
    }
    assert_eq!(after[15], 0x0000_02FF);
    write(&mut device, 0x40, 0x1234_5678);
    assert_eq!(device.read(0x41, Width::Word), 0x3456);
    assert_eq!(
        device.read(0xFE, Width::Dword) >> 16,
        0xFFFF,
        "past the end"
    );
}

#[test]
fn all_ones_tell_the_size_and_the_kind() {
    let mut device = device(None);
    for (register, expected) in [
        (0x10, 0xFFFF_FFE1),
        (0x14, 0xFFFF_F000),
        (0x18, 0xFFF0_000C),
        (0x1C, 0xFFFF_FFFF),
        (0x20, 0),
        (0x24, 0),
        (0x30, 0),
    ] {
        let before = read(&device, register);
        write(&mut device, register, u32::MAX);
        assert_eq!(read(&device, register), expected, "{register:#x}");
        write(&mut device, register, before);
        assert_eq!(read(&device, register), before);
    }
    // A byte at a time is the same.
    device.write(0x15, Width::Byte, 0xFF);
    assert_eq!(read(&device, 0x14), 0xFEB0_F000);
}

#[test]
fn bars_are_decoded_where_they_are_while_the_command_register_says_so() {
    let mut device = device(None);
    let ports = |device: &mut PciDevice, port: u16| {
        let (bar, offset) = device.bar_at(true, port.into())?;
        Some(device.access_port(bar, (port, offset), 4, None))
    };
    let memory = |device: &mut PciDevice, address: u64| {
        let (bar, offset) = device.bar_at(false, address)?;
        Some(device.access_memory(bar, offset, 2, None) & 0xFFFF)
    };
    assert_eq!(ports(&mut device, 0xE000), Some(0x0403_0201));
    assert_eq!(ports(&mut device, 0xE004), Some(0xFFFF_0005), "6 registers");
    assert_eq!(ports(&mut device, 0xE020), None);
    assert_eq!(memory(&mut device, 0xFEB0_0000), Some(0x2211));
    assert_eq!(memory(&mut device, 0xFEB0_0010), Some(0xFFFF));
    assert_eq!(device.bar_at(true, 0xFEB0_0000), None);

    assert!(device.write(4, Width::Word, 1));
    assert_eq!(memory(&mut device, 0xFEB0_0000), Some(0xFFFF));
    assert_eq!(ports(&mut device, 0xE000), Some(0x0403_0201));
    device.write(4, Width::Word, 2);
    assert_eq!(ports(&mut device, 0xE000), Some(u32::MAX));

    // Moved.
    assert!(device.write(0x14, Width::Dword, 0xD000_0FFF));
    assert_eq!(memory(&mut device, 0xFEB0_0000), None);
    assert_eq!(memory(&mut device, 0xD000_0000), Some(0x2211));
    device.write(0x10, Width::Dword, 0x1_0000);
    assert_eq!(device.bar_at(true, 0x1_0000), None, "there is no such port");
    assert!(!device.write(0x3C, Width::Byte, 5));
}

#[test]
fn memory_is_mapped_where_it_is_decoded() {
    let mut device = device(None);
    let place = |device: &PciDevice| device.ram().map(|(base, _)| base).collect::<Vec<_>>();
    assert_eq!(place(&device), [None], "it has no place yet");
    write(&mut device, 0x18, 0xD000_0000);
    write(&mut device, 0x1C, 1);
    assert_eq!(place(&device), [Some(0x1_D000_0000)]);
    let (bar, offset) = device.bar_at(false, 0x1_D000_0004).unwrap();
    device.access_memory(bar, offset, 4, Some(0xCAFE_F00D));
    assert_eq!(device.access_memory(bar, offset, 8, None), 0xCAFE_F00D);
    device.write(4, Width::Word, 1);
    assert_eq!(place(&device), [None]);
}

#[test]
fn interrupt_disable_masks_the_pin_and_status_tells_it() {
    let lines = InterruptLines::default();
    let pin = InterruptPin::new(lines.line(11).unwrap());
    let part = pin.part(0);
    let mut device = device(Some(pin));
    part.assert();
    assert!(lines.is_wanted());
    assert_eq!(device.read(6, Width::Word), 0x0008);
    device.write(4, Width::Word, 0x0403);
    assert_eq!(device.read(6, Width::Byte), 0x08, "masked, but pending");
    part.deassert();
    assert_eq!(device.read(6, Width::Byte), 0);
}
