//! Interrupts by MSI-X (QEMU's e1000e), and two functions in one IOMMU group whose BARs share a page (twice its sdhci-pci).
//!
//! They run one at a time with the tests of edu, too: those run programs to bind it, and until such a program is executed it has
//! the group's descriptor, with which nobody else can open the group.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use integration_tests::codes::{irq, portio};
use integration_tests::{Client, Target, fields, machine_tests, patience};
use vmm::session::Machine;
use vmm::session::driver::RunningDriver;

use super::super::edu_device::{DEVICE, bind_function};
use super::super::real_hardware::alone;
use super::has_iommu;

machine_tests!(
    both_functions_of_a_group_are_the_drivers,
    a_bar_that_shares_its_page_is_accessed_by_vfio,
    vectors_of_msix_are_lines_of_their_own,
    mask_bits_hold_vectors_back,
);

const NETWORK: &str = "0000:00:12.0";
/// In one group: functions of one device that does not keep them apart.
const STORAGE: [&str; 2] = ["0000:00:12.1", "0000:00:12.2"];
/// Where the driver believes their registers to be.
const NETWORK_REGISTERS: u64 = 0xD010_0000;
const NETWORK_MSIX: u64 = 0xD020_0000;
const STORAGE_REGISTERS: [u64; 2] = [0xD030_0000, 0xD040_0000];
/// The lines of vectors 1 and 2.
const LINES: [u32; 2] = [9, 10];
const LATCHED: u32 = 1;

/// SD Host Controller Simplified Specification 2.00, 2.1.2: argument, and the version of specification and host.
const SD_ARGUMENT: u32 = 0x08;
const SD_VERSION: u32 = 0xFE;

/// Intel 82574L datasheet, 10.2: interrupt cause read, cause set, mask set, auto clear, vector allocation.
const ICR: u32 = 0xC0;
const ICS: u32 = 0xC8;
const IMS: u32 = 0xD0;
const EIAC: u32 = 0xDC;
const IVAR: u32 = 0xE4;
/// Causes: receive queues 0 and 1.
const QUEUES: [u32; 2] = [1 << 20, 1 << 21];
/// Queue 0 by vector 1, queue 1 by vector 2, both valid.
const ALLOCATION: u32 = 0xA9;
/// In the BAR with the table: vector 1's control, and the pending bits.
const CONTROL_1: u32 = 16 + 12;
const PENDING: u32 = 0x2000;

struct Device {
    _machine: Machine,
    ports: Client,
    interrupt: Client,
    network: u32,
    msix: u32,
    storage: [u32; 2],
}

fn policy() -> String {
    let mut text = String::new();
    for address in [NETWORK, STORAGE[0], STORAGE[1]] {
        text += &format!(
            "[[pci]]\nbdf = \"{address}\"\nbackend = \"passthrough\"\naccess = \"r\"\ndma = \"vfio\"\n"
        );
    }
    for (first, bytes, address, bar) in [
        (NETWORK_REGISTERS, 0x2_0000, NETWORK, 0),
        (NETWORK_MSIX, 0x4000, NETWORK, 3),
        (STORAGE_REGISTERS[0], 0x1000, STORAGE[0], 0),
        (STORAGE_REGISTERS[1], 0x1000, STORAGE[1], 0),
    ] {
        let last = first + bytes - 1;
        text += &format!(
            "[[memory]]\nrange = \"{first:#x}-{last:#x}\"\naccess = \"rw\"\nbackend = \"passthrough\"\n\
             source = \"/sys/bus/pci/devices/{address}/resource{bar}\"\n"
        );
    }
    for (line, vector) in LINES.into_iter().zip(1..) {
        text += &format!(
            "[[interrupt]]\nline = {line}\nbackend = \"vfio\"\ndevice = \"{NETWORK}\"\nmsi-x = {vector}\n"
        );
    }
    text
}

impl Device {
    fn start(target: Target) -> Self {
        static BOUND: Once = Once::new();
        BOUND.call_once(|| {
            // The firmware gives each BAR a page. Linux puts them next to each other when it finds them itself.
            for address in STORAGE {
                std::fs::write(format!("/sys/bus/pci/devices/{address}/remove"), "1").unwrap();
            }
            std::fs::write("/sys/bus/pci/rescan", "1").unwrap();
            for address in [NETWORK, STORAGE[0], STORAGE[1]] {
                bind_function(address, "vfio-pci");
            }
        });
        let mut launch = target.launch(&target.sample("portio"), &policy());
        launch.drivers.push(target.sample("irq"));
        let machine = vmm::session::start(launch)
            .unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)));
        let mut ports = Client::open(&machine, r"\\.\portio");
        let mut map =
            |first: u64, bytes: u32| ports.control_u32(portio::MAP, &fields!(first, bytes, 0_u32));
        Self {
            network: map(NETWORK_REGISTERS, 0x2_0000),
            msix: map(NETWORK_MSIX, 0x4000),
            storage: STORAGE_REGISTERS.map(|first| map(first, 0x1000)),
            interrupt: Client::open(&machine, r"\\.\irq"),
            ports,
            _machine: machine,
        }
    }

    fn read(&mut self, mapping: u32, offset: u32, width: u32) -> u32 {
        let input = fields!(mapping, offset, width);
        self.ports.control_u32(portio::READ_MAPPED, &input)
    }

    fn write(&mut self, mapping: u32, offset: u32, width: u32, value: u32) {
        let input = fields!(mapping, offset, width, value);
        self.ports.control(portio::WRITE_MAPPED, &input, 0);
    }

    /// Has the device interrupt for a queue.
    fn raise(&mut self, queue: usize) {
        let network = self.network;
        for (register, value) in [
            (ICR, u32::MAX),
            (IVAR, ALLOCATION),
            (EIAC, QUEUES[0] | QUEUES[1]),
            (IMS, QUEUES[queue]),
            (ICS, QUEUES[queue]),
        ] {
            self.write(network, register, 4, value);
        }
    }

    fn connect(&mut self, line: u32) {
        let input = fields!(line, LATCHED, 0_u32);
        self.interrupt.control(irq::CONNECT, &input, 0);
    }

    /// Interrupts since the line was connected, after another has come if it `waits`.
    fn interrupts(&mut self, waits: bool) -> u32 {
        let code = if waits { irq::WAIT } else { irq::COUNTS };
        let output = self.interrupt.control(code, &[], 16);
        u32::from_le_bytes(output[..4].try_into().unwrap())
    }

    fn accesses(&mut self) -> u64 {
        self.ports.process.stats().unwrap().device_accesses
    }
}

/// A function's BAR 0: first and last address.
fn bar(address: &str) -> (u64, u64) {
    let path = Path::new("/sys/bus/pci/devices")
        .join(address)
        .join("resource");
    let lines = std::fs::read_to_string(path).unwrap();
    let mut words = lines.split_whitespace();
    let mut number =
        || u64::from_str_radix(words.next().unwrap().trim_start_matches("0x"), 16).unwrap();
    (number(), number())
}

fn both_functions_of_a_group_are_the_drivers(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let mut device = Device::start(target);
    let group = |address: &str| {
        let link = Path::new("/sys/bus/pci/devices")
            .join(address)
            .join("iommu_group");
        std::fs::canonicalize(link).unwrap()
    };
    assert_eq!(group(STORAGE[0]), group(STORAGE[1]));
    // Configuration space of all, and registers of each.
    for (function, identification) in [(0, 0x10D3_8086), (1, 0x0007_1B36), (2, 0x0007_1B36)] {
        let address = 0x8000_0000_u32 | (0x12 << 11) | (function << 8);
        let select = fields!(0xCF8_u32, 4_u32, address);
        device.ports.control(portio::WRITE_PORT, &select, 0);
        let data = fields!(0xCFC_u32, 4_u32);
        let read = device.ports.control_u32(portio::READ_PORT, &data);
        assert_eq!(read, identification);
    }
    let storage = device.storage;
    for (mapping, value) in storage.into_iter().zip([0x1111_2222, 0x3333_4444]) {
        device.write(mapping, SD_ARGUMENT, 4, value);
        assert_ne!(device.read(mapping, SD_VERSION, 2), 0xFFFF);
    }
    assert_eq!(
        storage.map(|mapping| device.read(mapping, SD_ARGUMENT, 4)),
        [0x1111_2222, 0x3333_4444]
    );
}

fn a_bar_that_shares_its_page_is_accessed_by_vfio(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let mut device = Device::start(target);
    let bars = STORAGE.map(bar);
    let pages = bars.map(|(first, _)| first & !0xFFF);
    assert_eq!(
        pages[0], pages[1],
        "the lane's kernel has put {bars:x?} apart"
    );
    let mappings = device.storage;
    for ((first, last), storage) in bars.into_iter().zip(mappings) {
        assert_eq!(last - first, 0xFF);
        let before = device.accesses();
        for (width, value) in [(4, 0xDEAD_BEEF), (2, 0x1234), (1, 0x56)] {
            device.write(storage, SD_ARGUMENT, width, value);
            assert_eq!(device.read(storage, SD_ARGUMENT, width), value);
        }
        assert_eq!(device.read(storage, SD_ARGUMENT, 4), 0xDEAD_1256);
        assert_eq!(device.accesses() - before, 7);
        // What is behind it in its page is another's.
        assert_eq!(device.read(storage, 0x100, 4), u32::MAX);
        assert_eq!(device.read(storage, 0x100 + SD_ARGUMENT, 4), u32::MAX);
        assert_eq!(device.read(storage, 0xFFC, 4), u32::MAX);
    }
    device.write(mappings[0], 0x100 + SD_ARGUMENT, 4, 0);
    assert_eq!(device.read(mappings[1], SD_ARGUMENT, 4), 0xDEAD_1256);
}

fn vectors_of_msix_are_lines_of_their_own(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let mut device = Device::start(target);
    for (queue, line) in LINES.into_iter().enumerate() {
        device.connect(line);
        let before = device.interrupts(false);
        device.raise(queue);
        assert_eq!(device.interrupts(true), before + 1);
        device.raise(queue);
        assert_eq!(device.interrupts(true), before + 2);
        // Nobody is connected to the other queue's line.
        device.raise(1 - queue);
        device.raise(queue);
        assert_eq!(device.interrupts(true), before + 3);
        device.interrupt.control(irq::DISCONNECT, &[], 0);
    }
}

fn mask_bits_hold_vectors_back(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let mut device = Device::start(target);
    let msix = device.msix;
    // The driver's own table, which the kernel's messages are not in.
    for word in 0..4 {
        assert_eq!(device.read(msix, 16 + 4 * word, 4), 0);
    }
    device.connect(LINES[0]);
    device.raise(0);
    let before = device.interrupts(true);

    device.write(msix, CONTROL_1, 4, 1);
    device.raise(0);
    let end = Instant::now() + patience();
    while device.read(msix, PENDING, 4) != 1 << 1 {
        assert!(Instant::now() < end, "no interrupt is pending");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(device.interrupts(false), before);
    device.write(msix, CONTROL_1, 4, 0);
    assert_eq!(device.interrupts(true), before + 1);
    assert_eq!(device.read(msix, PENDING, 4), 0);
    device.raise(0);
    assert_eq!(device.interrupts(true), before + 2);
}
