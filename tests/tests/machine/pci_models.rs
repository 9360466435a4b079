//! PCI functions without hardware: a driver finds them by their configuration space, sizes and moves their BARs, and
//! reaches the device models behind them and their interrupt.

use std::time::{Duration, Instant};

use integration_tests::codes::{edu, irq, pnp, portio, status};
use integration_tests::{Client, Target, bytes, fields, machine_tests, patience};
use vmm::session::driver::{RunningDriver, RunningMachine};
use vmm::session::{Machine, start};

use super::external_models::python_models;

machine_tests!(
    driver_finds_its_function_and_is_interrupted,
    a_model_is_a_bus_master_within_what_drivers_have_for_devices,
    ports_follow_their_register,
    mapped_memory_follows_its_register_without_exits,
    registers_in_memory_interrupt,
    pnp_driver_gets_its_functions_resources,
);

const LINE: u32 = 11;
const BASE: u64 = 0xFEB0_0000;
const COMMAND: u32 = 0x04;
const BAR: u32 = 0x10;
/// Bits of the command register.
const BUS_MASTER: u32 = 1 << 2;
const MEMORY_SPACE: u32 = 2;
const INTERRUPT_DISABLE: u32 = 1 << 10;

/// A function on device 4 with these [[pci.bar]]s.
fn function(bars: &str) -> String {
    format!(
        r#"
        [[pci]]
        device = "1234:11e8"
        bdf = "0000:00:04.0"
        backend = "model"
        access = "rw"
        class = 0x00ff00
        revision = 0x10
        subsystem = "1af4:1100"
        interrupt-line = {LINE}
        {bars}
        "#
    )
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap())
}

/// The edu sample and its function.
struct Edu {
    client: Client,
    slot: u32,
}

impl Edu {
    fn config(&mut self, offset: u32) -> u32 {
        let input = fields!(self.slot, offset, 0_u32);
        self.client.control_u32(edu::GET_CONFIG, &input)
    }

    fn set_config(&mut self, offset: u32, value: u32) {
        let input = fields!(self.slot, offset, value);
        self.client.control(edu::SET_CONFIG, &input, 0);
    }

    fn start(&mut self, address: u64) -> u32 {
        let input = fields!(address, LINE, 0_u32);
        self.client.ioctl(edu::START, &input, 0).status.0
    }

    fn read(&mut self, offset: u32) -> u32 {
        self.client.control_u32(edu::READ, &fields!(offset, 1_u32))
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.client.control(edu::WRITE, &fields!(offset, value), 0);
    }
}

/// The driver with a device that is a Python program, and what it has found; `None` where there is no Python. `keys` are
/// further ones of its BAR.
fn python_edu(target: Target, keys: &str) -> Option<(Machine, Edu, Vec<u8>)> {
    let folder = python_models()?;
    let millis = u32::try_from(patience().as_millis()).unwrap().min(10_000);
    let model = folder.join("edu.py");
    let policy = function(&format!(
        "[[pci.bar]]\nindex = 0\ntype = \"memory\"\nsize = 0x1000\nbase = {BASE:#x}\nbackend = \"external\"\n\
         command = [\"python3\", \"-B\", \"-u\", {model:?}]\nanswer-ms = {millis}\n{keys}\n"
    ));
    let machine = target.start_sample("edu", &policy);
    let mut client = Client::open(&machine, r"\\.\edu");
    let found = client.control(edu::FIND, &[], 24);
    let slot = word(&found, 0);
    Some((machine, Edu { client, slot }, found))
}

/// A driver's DMA with a device that is a Python program.
fn a_model_is_a_bus_master_within_what_drivers_have_for_devices(target: Target) {
    let Some((_machine, mut edu, _)) = python_edu(target, "dma = true") else {
        return;
    };
    assert_eq!(edu.config(COMMAND) & 7, MEMORY_SPACE | BUS_MASTER);
    assert_eq!(edu.start(BASE), 0);
    for count in [1_u32, 1000, 4095] {
        let sent = bytes(count as usize);
        assert_eq!(edu.client.control(edu::COPY, &sent, count), sent);
    }

    // The device's buffer has what it read at `address`: stored in the common buffer's second half, it is seen.
    let transfer = |edu: &mut Edu, address: u64, to_memory: bool| {
        let input = fields!(address, 64_u32, u32::from(to_memory));
        let mut output = edu.client.control(edu::TRANSFER, &input, 8 + 4096);
        let half = output.split_off(8);
        (u64::from_le_bytes(output.try_into().unwrap()), half)
    };
    let (common, _) = transfer(&mut edu, 0, true);
    let half = common + 4096;
    assert_eq!(edu.client.control(edu::COPY, &bytes(64), 64), bytes(64));
    transfer(&mut edu, common, false);
    assert_eq!(transfer(&mut edu, half, true).1[..64], bytes(64));
    // Page tables, the kernel's image, beyond all memory, and where there never was any.
    let outside = [
        abi::layout::RAM_BASE,
        abi::layout::RAM_BASE + 0x0010_0000,
        target.launch(&target.sample("edu"), "").memory_bytes + abi::layout::RAM_BASE,
        0,
        u64::from(u32::MAX) - 32,
    ];
    for address in outside {
        transfer(&mut edu, address, false);
        assert_eq!(
            transfer(&mut edu, half, true).1[..64],
            [0xFF; 64],
            "{address:#x}"
        );
        transfer(&mut edu, address, true);
    }
    assert_eq!(edu.client.control(edu::COPY, &bytes(64), 64), bytes(64));

    // Bit 2 of the command register off: it reads ones and stores nothing.
    transfer(&mut edu, common, false);
    edu.set_config(COMMAND, MEMORY_SPACE);
    let before = transfer(&mut edu, common, false).1;
    assert_eq!(transfer(&mut edu, half, true).1, before);
    edu.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER);
    assert_eq!(transfer(&mut edu, half, true).1[..64], [0xFF; 64]);
    assert_eq!(edu.client.control(edu::COPY, &bytes(64), 64), bytes(64));
}

/// The whole life of a PCI driver, with a device that is a Python program.
fn driver_finds_its_function_and_is_interrupted(target: Target) {
    let Some((machine, mut edu, found)) = python_edu(target, "") else {
        return;
    };
    assert_eq!(edu.slot, 4, "device 4, function 0");
    assert_eq!(u64::from(word(&found, 1)), BASE);
    assert_eq!((word(&found, 2), word(&found, 3)), (LINE, 1));
    assert_eq!(word(&found, 4), 0x1100_1AF4);
    assert_eq!(word(&found, 5), 0x00FF_0010);

    // How large it is.
    edu.set_config(BAR, u32::MAX);
    assert_eq!(edu.config(BAR), 0xFFFF_F000);
    edu.set_config(BAR, u32::try_from(BASE).unwrap());
    assert_eq!(edu.config(COMMAND) & 7, MEMORY_SPACE);

    assert_eq!(edu.start(BASE), 0);
    assert_eq!(edu.read(0), 0x0100_00ED);
    edu.write(4, 0x1234_5678);
    assert_eq!(edu.read(4), !0x1234_5678);
    edu.write(8, 10);
    assert_eq!(edu.read(8), 3_628_800);

    // Each interrupt reaches the service routine and the DPC, and is acknowledged in the device.
    for (round, bits) in [(1, 0x1_u32), (2, 0x100), (3, 0x8000_0000)] {
        edu.write(0x60, bits);
        let counts = edu.client.control(edu::WAIT, &[], 16);
        assert_eq!((word(&counts, 0), word(&counts, 1)), (round, round));
        assert_eq!(word(&counts, 2) & bits, bits);
        assert_eq!(edu.read(0x24), 0);
    }
    // With the pin turned off the device waits; status tells that it does.
    edu.set_config(COMMAND, MEMORY_SPACE | INTERRUPT_DISABLE);
    edu.write(0x60, 2);
    assert_eq!(edu.config(COMMAND) >> 16 & 8, 8);
    assert_eq!(edu.read(0x24), 2, "nobody has acknowledged it");
    edu.set_config(COMMAND, MEMORY_SPACE);
    let counts = edu.client.control(edu::WAIT, &[], 16);
    assert_eq!(word(&counts, 0), 4);

    // Without memory decoding nobody answers, where the driver has it mapped already.
    edu.set_config(COMMAND, 0);
    assert_eq!(edu.read(0), u32::MAX);
    edu.set_config(COMMAND, MEMORY_SPACE);
    assert_eq!(edu.read(0), 0x0100_00ED);
    // Moved: the old place is empty, and the device is the same at the new one.
    edu.set_config(BAR, 0xD000_0000);
    assert_eq!(edu.read(0), u32::MAX);
    edu.client.control(edu::STOP, &[], 0);
    assert_eq!(edu.start(BASE), status::INSUFFICIENT_RESOURCES);
    assert_eq!(edu.start(0xD000_0000), 0);
    assert_eq!(edu.read(4), !0x1234_5678);
    assert!(machine.stopped().is_none());
}

/// The portio sample, with configuration space by ports.
struct Ports {
    machine: Machine,
    client: Client,
}

impl Ports {
    fn start(target: Target, policy: &str) -> Self {
        let mut launch = target.launch(&target.sample("portio"), policy);
        launch.drivers.push(target.sample("irq"));
        let machine = start(launch).unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)));
        Self {
            client: Client::open(&machine, r"\\.\portio"),
            machine,
        }
    }

    fn read(&mut self, port: u32, width: u32) -> u32 {
        self.client
            .control_u32(portio::READ_PORT, &fields!(port, width))
    }

    fn write(&mut self, port: u32, width: u32, value: u32) {
        let input = fields!(port, width, value);
        self.client.control(portio::WRITE_PORT, &input, 0);
    }

    fn config(&mut self, register: u32) -> u32 {
        self.write(0xCF8, 4, 0x8000_2000 | register);
        self.read(0xCFC, 4)
    }

    fn set_config(&mut self, register: u32, value: u32) {
        self.write(0xCF8, 4, 0x8000_2000 | register);
        self.write(0xCFC, 4, value);
    }

    /// Maps physical memory; `None`: NULL.
    fn map(&mut self, address: u64, bytes: u32) -> Option<u32> {
        let input = fields!(address, bytes, 0_u32);
        let result = self.client.ioctl(portio::MAP, &input, 4);
        (result.status.0 == 0).then(|| word(&result.output, 0))
    }

    fn load(&mut self, mapping: u32, offset: u32, width: u32) -> u32 {
        let input = fields!(mapping, offset, width);
        let output = self.client.control(portio::READ_MAPPED, &input, 4);
        let mut bytes = [0; 4];
        bytes[..output.len().min(4)].copy_from_slice(&output[..output.len().min(4)]);
        u32::from_le_bytes(bytes)
    }

    fn store(&mut self, mapping: u32, offset: u32, width: u32, value: u32) {
        let input = fields!(mapping, offset, width, value);
        self.client.control(portio::WRITE_MAPPED, &input, 0);
    }

    fn exits(&mut self) -> u64 {
        self.client.process.stats().unwrap().exits
    }
}

fn ports_follow_their_register(target: Target) {
    let mut ports = Ports::start(
        target,
        &function(
            "[[pci.bar]]\nindex = 1\ntype = \"port\"\nsize = 16\nbase = 0xe000\nbackend = \"pio8255\"\n\
             inputs = [1, 2, 0xa5]\nloop = true\n",
        ),
    );
    assert_eq!(ports.config(0), 0x11E8_1234);
    assert_eq!(ports.config(BAR), 0, "there is no BAR 0");
    assert_eq!(ports.config(BAR + 4), 0xE001);
    assert_eq!(ports.config(COMMAND) & 7, 1);
    ports.set_config(BAR + 4, u32::MAX);
    assert_eq!(ports.config(BAR + 4), 0xFFFF_FFF1);
    ports.set_config(BAR + 4, 0xE000);

    assert_eq!(ports.read(0xE000, 1), 1);
    ports.write(0xE003, 1, 0x83);
    ports.write(0xE000, 1, 0x77);
    // Ports A to C, and the control word, which reads ones.
    assert_eq!(ports.read(0xE000, 4), 0xFF05_7777);
    assert_eq!(ports.read(0xE004, 4), u32::MAX, "above the registers");

    // Moved: where it was there is nothing, which is denied as any other port.
    ports.set_config(BAR + 4, 0xC400);
    assert_eq!(ports.read(0xC400, 2), 0x7777);
    let denied = |ports: &mut Ports| ports.client.process.stats().unwrap().port_denied;
    assert_eq!(denied(&mut ports), 0);
    assert_eq!(ports.read(0xE000, 1), 0xFF);
    assert_eq!(denied(&mut ports), 1);
    // Not decoded: nobody answers, and the policy has nothing to do with it.
    ports.set_config(COMMAND, 0);
    assert_eq!(ports.read(0xC400, 1), 0xFF);
    ports.set_config(COMMAND, 1);
    assert_eq!(ports.read(0xC400, 1), 0x77);
    assert_eq!(denied(&mut ports), 1);
}

fn mapped_memory_follows_its_register_without_exits(target: Target) {
    let mut ports = Ports::start(
        target,
        &function(&format!(
            "[[pci.bar]]\nindex = 0\ntype = \"memory\"\nsize = 0x10000\nbase = {BASE:#x}\nbackend = \"ram\"\n\
             initial = [0x11, 0x22, 0x33, 0x44]\nprefetchable = true\n"
        )),
    );
    assert_eq!(u64::from(ports.config(BAR)), BASE | 8);
    assert_eq!(ports.map(BASE - 0x1000, 0x1000), None);
    assert_eq!(ports.map(BASE, 0x1_1000), None, "one page too many");
    let first = ports.map(BASE, 0x1_0000).unwrap();
    assert_eq!(ports.load(first, 0, 4), 0x4433_2211);
    ports.store(first, 0xFFFC, 4, 0xCAFE_F00D);

    // As many exits, whether or not memory is accessed: those of the request.
    let exits = |ports: &mut Ports, count: u32| {
        let before = ports.exits();
        let input = fields!(BASE, 4 * count, 4_u32);
        let output = ports.client.control(portio::READ_MEMORY, &input, 4 * count);
        assert_eq!(word(&output, 0), 0x4433_2211);
        ports.exits() - before
    };
    let one = exits(&mut ports, 1);
    let many = exits(&mut ports, 1000);
    assert!(
        many < one + 500,
        "{one} exits for one access, {many} for 1000"
    );

    // A second mapping is the same memory.
    let second = ports.map(BASE + 0xF000, 0x1000).unwrap();
    assert_eq!(ports.load(second, 0xFFC, 4), 0xCAFE_F00D);
    // Moved.
    ports.set_config(BAR, 0xD000_0000);
    assert_eq!(ports.load(first, 0, 4), u32::MAX);
    ports.store(first, 0, 4, 0);
    let moved = ports.map(0xD000_0000, 0x1_0000).unwrap();
    assert_eq!(ports.load(moved, 0, 4), 0x4433_2211);
    assert_eq!(ports.load(moved, 0xFFFC, 2), 0xF00D);
    // And back.
    ports.set_config(BAR, u32::try_from(BASE).unwrap());
    assert_eq!(ports.load(moved, 0, 4), u32::MAX);
    assert_eq!(ports.load(first, 0, 4), 0x4433_2211);
    ports.set_config(COMMAND, 0);
    assert_eq!(ports.load(second, 0xFFC, 4), u32::MAX);
    ports.set_config(COMMAND, MEMORY_SPACE);
    assert_eq!(ports.load(second, 0xFFC, 4), 0xCAFE_F00D);
    assert!(ports.machine.stopped().is_none());
}

fn registers_in_memory_interrupt(target: Target) {
    let mut ports = Ports::start(
        target,
        &function(&format!(
            "[[pci.bar]]\nindex = 2\ntype = \"memory64\"\nsize = 0x100\nbase = {BASE:#x}\nbackend = \"adc12\"\n\
             conversion-us = 1\ndigital-inputs = 0x3c\n"
        )),
    );
    let mut device = Client::open(&ports.machine, r"\\.\irq");
    device.control(irq::CONNECT, &fields!(LINE, 1_u32, 0_u32), 0);
    assert_eq!(u64::from(ports.config(BAR + 8)), BASE | 4);
    let card = ports.map(BASE, 0x100).unwrap();
    assert_eq!(ports.load(card, 3, 1), 0x3C);
    assert_eq!(ports.load(card, 0x10, 4), u32::MAX, "above the registers");
    // DAC 0 is wired to channel 14; a wide store is one of each byte.
    ports.store(card, 4, 2, 0x0A55);
    ports.store(card, 2, 1, 1);
    ports.store(card, 0, 2, 14);
    let end = Instant::now() + patience();
    loop {
        let counts = device.control(irq::COUNTS, &[], 16);
        if word(&counts, 1) == 1 {
            break;
        }
        assert!(Instant::now() < end, "no interrupt");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(ports.load(card, 0, 2), 0xEA55);
}

fn pnp_driver_gets_its_functions_resources(target: Target) {
    let bars = format!(
        "[[pci.bar]]\nindex = 0\ntype = \"memory\"\nsize = 0x1000\nbase = {BASE:#x}\nbackend = \"ram\"\n\
         [[pci.bar]]\nindex = 1\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"ram\"\ninitial = [7, 8]\n\
         [[pci.bar]]\nindex = 2\ntype = \"memory\"\nsize = 0x100\nbackend = \"ram\"\n\
         [device]\npci = \"00:04.0\"\n"
    );
    let machine = target.start_sample("pnp", &function(&bars));
    let link = r"\\?\ROOT#PNP#0000#{4d1e55b2-f16f-11cf-88cb-0011a0000031}";
    let mut client = Client::open(&machine, link);
    let devices = client.process.devices().unwrap();
    assert_eq!(
        devices[0].resources,
        [
            "memory 0xfeb00000-0xfeb00fff",
            "ports 0xe000-0xe007",
            "interrupt 11, level-triggered, shared"
        ]
    );
    assert_eq!(
        devices[0].hardware_ids[0],
        r"PCI\VEN_1234&DEV_11E8&SUBSYS_11001AF4&REV_10"
    );
    assert!(
        devices[0]
            .compatible_ids
            .iter()
            .any(|id| id == r"PCI\CC_00FF")
    );
    let report = client.control(pnp::REPORT, &[], pnp::REPORT_BYTES);
    assert_ne!(word(&report, 7), 0, "the interrupt is connected");
    assert_eq!(word(&report, 8), LINE);
    assert_eq!((word(&report, 9), word(&report, 10)), (0xE000, 8));
    assert_eq!(client.control_u32(pnp::READ_PORT, &fields!(1_u32)), 8);
    client.control(pnp::WRITE_MEMORY, &fields!(12_u32, 0xCAFE_F00D_u32), 0);
    let read = client.control_u32(pnp::READ_MEMORY, &fields!(12_u32));
    assert_eq!(read, 0xCAFE_F00D);
}
