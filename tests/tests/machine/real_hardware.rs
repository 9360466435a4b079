//! Real hardware, in the SVM lane only: devices of its QEMU (scripts/svm-lane), passed through by a policy. What the
//! serial port sends lands in a file, in which scripts/test-svm-lane looks for the lines that these tests print.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use integration_tests::codes::{edu, portio};
use integration_tests::{Client, Target, fields, is_lane, machine_tests, skip};
use vmm::session::Machine;
use vmm::session::driver::RunningDriver;

use super::edu_device::{
    self, DEVICE, EDU, EDU_FUNCTION, IDENTIFICATION, LINE, REGISTERS, bar, read, write,
};

machine_tests!(
    serial_port_loops_and_prints,
    clock_is_read_through_its_index,
    timer_counts,
    configuration_space_is_read,
    registers_are_mapped_without_exits,
    device_memory_is_mapped_by_its_address,
    interrupt_reaches_service_routine_and_dpc,
    bus_master_without_iommu_is_refused,
    kernels_parallel_port_prints,
    epp_cycles_go_through_the_kernels_driver,
);

/// Each device is driven by one test at a time.
static SERIAL: Mutex<()> = Mutex::new(());

pub(crate) fn alone(device: &'static Mutex<()>) -> MutexGuard<'static, ()> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The portio sample under a policy.
pub(crate) struct Ports {
    _machine: Machine,
    pub(crate) client: Client,
}

impl Ports {
    pub(crate) fn start(target: Target, policy: &str) -> Self {
        let machine = target.start_sample("portio", policy);
        Self {
            client: Client::open(&machine, r"\\.\portio"),
            _machine: machine,
        }
    }

    pub(crate) fn read(&mut self, port: u32, width: u32) -> u32 {
        self.client
            .control_u32(portio::READ_PORT, &fields!(port, width))
    }

    pub(crate) fn write(&mut self, port: u32, width: u32, value: u32) {
        self.client
            .control(portio::WRITE_PORT, &fields!(port, width, value), 0);
    }
}

fn serial_port_loops_and_prints(target: Target) {
    if !is_lane() {
        return;
    }
    // The driver's COM2 is the machine's 0x3e8.
    let mut ports = Ports::start(
        target,
        r#"
        [[port]]
        range = "0x2f8-0x2ff"
        access = "rw"
        backend = "passthrough"
        remap = 0x3e8
        "#,
    );
    let _alone = alone(&SERIAL);
    let wait = |ports: &mut Ports, bit: u32| {
        for _ in 0..1000 {
            if ports.read(0x2FD, 1) & bit != 0 {
                return;
            }
        }
        panic!("the line status never showed {bit:#x}");
    };
    // 8 bits, no interrupts; loop.
    ports.write(0x2FB, 1, 3);
    ports.write(0x2F9, 1, 0);
    ports.write(0x2FC, 1, 0x10);
    for byte in [0x55, 0xAA, 0x00, 0xFF] {
        ports.write(0x2F8, 1, byte);
        wait(&mut ports, 1);
        assert_eq!(ports.read(0x2F8, 1), byte);
    }
    // Modem control's outputs are modem status's inputs: RTS is CTS, DTR is DSR.
    ports.write(0x2FC, 1, 0x12);
    assert_eq!(ports.read(0x2FE, 1) & 0xF0, 0x10);
    ports.write(0x2FC, 1, 0x11);
    assert_eq!(ports.read(0x2FE, 1) & 0xF0, 0x20);
    ports.write(0x2FC, 1, 0);
    let line = format!("serial {} {}\n", target.privilege.name(), target.abi.name());
    for byte in line.bytes() {
        wait(&mut ports, 0x20);
        ports.write(0x2F8, 1, byte.into());
    }
    // The last one has left.
    wait(&mut ports, 0x40);
    assert_eq!(ports.client.process.stats().unwrap().port_denied, 0);
}

fn clock_is_read_through_its_index(target: Target) {
    if !is_lane() {
        return;
    }
    let mut ports = Ports::start(
        target,
        r#"
        [[index-pair]]
        index = 0x70
        data = 0x71
        backend = "passthrough"
        index-mask = 0x7f
        denied-read = 0xee

        [[index-pair.register]]
        range = "0x00-0x0d"
        access = "r"
        "#,
    );
    let mut register = |index: u32| {
        ports.write(0x70, 1, index);
        ports.read(0x71, 1)
    };
    // Valid RAM and time.
    assert_eq!(register(0x0D), 0x80);
    // Seconds, in BCD as the machine's firmware has it.
    let seconds = register(0);
    assert!(seconds & 0xF < 10 && seconds >> 4 < 6, "{seconds:#x}");
    let month = register(8);
    assert!((1..=0x12).contains(&month), "{month:#x}");
    // CMOS memory beyond the rule, and every write.
    assert_eq!(register(0x10), 0xEE);
    ports.write(0x70, 1, 8);
    ports.write(0x71, 1, 0x99);
    assert_eq!(ports.read(0x71, 1), month);
}

fn timer_counts(target: Target) {
    if !is_lane() {
        return;
    }
    // Counter 0 may be latched and read, and nothing else.
    let mut ports = Ports::start(
        target,
        r#"
        [[port]]
        range = 0x40
        access = "r"
        backend = "passthrough"
        i-know-what-this-does = true

        [[port]]
        range = 0x43
        access = "w"
        values = [0]
        backend = "passthrough"
        i-know-what-this-does = true
        "#,
    );
    let mut count = || {
        ports.write(0x43, 1, 0);
        ports.read(0x40, 1) | (ports.read(0x40, 1) << 8)
    };
    let first = count();
    assert!((0..1000).any(|_| count() != first), "{first:#x} for ever");
    assert_eq!(ports.client.process.stats().unwrap().port_denied, 0);
    // A mode is not a latch.
    ports.write(0x43, 1, 0x34);
    assert_eq!(ports.client.process.stats().unwrap().port_denied, 1);
}

fn configuration_space_is_read(target: Target) {
    if !is_lane() {
        return;
    }
    let mut ports = Ports::start(
        target,
        r#"
        [[pci]]
        device = "1234:11e8"
        backend = "passthrough"
        access = "r"
        "#,
    );
    let mut register = |function: u32, register: u32| {
        ports.write(0xCF8, 4, 0x8000_0000 | (function << 8) | register);
        ports.read(0xCFC, 4)
    };
    assert_eq!(register(EDU_FUNCTION, 0), 0x11E8_1234);
    assert_eq!(u64::from(register(EDU_FUNCTION, 0x10) & !0xF), bar());
    // pci-testdev is there, but not for this driver.
    assert_eq!(register(0x11 << 3, 0), u32::MAX);
    ports.write(0xCF8, 4, 0x8000_0010 | (EDU_FUNCTION << 8));
    ports.write(0xCFC, 4, u32::MAX);
    assert_eq!(u64::from(ports.read(0xCFC, 4) & !0xF), bar());
}

/// The edu sample, whose registers the policy's `source` has.
fn start_edu(target: Target, source: &str) -> (Machine, Client) {
    edu_device::bind("uio_pci_generic");
    let machine = target.start_sample(
        "edu",
        &format!(
            r#"
            [[memory]]
            range = "{REGISTERS:#x}-{:#x}"
            access = "rw"
            backend = "passthrough"
            {source}

            [[interrupt]]
            line = {LINE}
            backend = "uio"
            device = "0000:00:10.0"
            "#,
            REGISTERS + 0xFFF
        ),
    );
    let mut client = Client::open(&machine, r"\\.\edu");
    client.control(edu::START, &fields!(REGISTERS, LINE, 0_u32), 0);
    (machine, client)
}

fn by_resource_file() -> String {
    format!("source = \"{EDU}/resource0\"")
}

fn registers_are_mapped_without_exits(target: Target) {
    if !is_lane() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, mut client) = start_edu(target, &by_resource_file());
    assert_eq!(read(&mut client, 0, 1), IDENTIFICATION);
    // The liveness register is the complement of what is written.
    write(&mut client, 4, 0x1234_5678);
    assert_eq!(read(&mut client, 4, 1), !0x1234_5678);
    // The factorial register: busy (status bit 0) while it computes.
    write(&mut client, 8, 10);
    for _ in 0..10_000 {
        if read(&mut client, 0x20, 1) & 1 == 0 {
            break;
        }
    }
    assert_eq!(read(&mut client, 8, 1), 3_628_800);

    edu_device::check_accesses_cost_no_exits(&mut client);
}

fn device_memory_is_mapped_by_its_address(target: Target) {
    if !is_lane() {
        return;
    }
    let _alone = alone(&DEVICE);
    let source = format!("source = \"dev-mem\"\nremap = {:#x}", bar());
    let (_machine, mut client) = start_edu(target, &source);
    assert_eq!(read(&mut client, 0, 1), IDENTIFICATION);
}

fn interrupt_reaches_service_routine_and_dpc(target: Target) {
    if !is_lane() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, mut client) = start_edu(target, &by_resource_file());
    for (round, status) in [(1_u32, 0x1_u32), (2, 0x100), (3, 0x8000_0000)] {
        write(&mut client, 0x60, status);
        let counts: Vec<u32> = client
            .control(edu::WAIT, &[], 16)
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        let [interrupts, dpcs, statuses, _disclaimed] = counts[..] else {
            panic!("{counts:?}");
        };
        assert_eq!((interrupts, dpcs), (round, round));
        assert_eq!(statuses & status, status);
        // Acknowledged.
        assert_eq!(read(&mut client, 0x24, 1), 0);
    }
}

fn bus_master_without_iommu_is_refused(target: Target) {
    if !is_lane() {
        return;
    }
    let start = |mask: &str| {
        let policy = format!(
            r#"
            [[pci]]
            bdf = "0000:00:10.0"
            backend = "passthrough"
            access = "r"
            i-know-what-this-does = true

            [[pci.register]]
            range = "0x04-0x05"
            access = "rw"
            {mask}
            "#
        );
        vmm::session::start(target.launch(&target.sample("portio"), &policy)).map(drop)
    };
    let text = vmm::error_chain(&start("").unwrap_err());
    assert!(
        text.contains("bus master") && text.contains("no IOMMU"),
        "{text}"
    );
    start("write-mask = 0x0003").unwrap();
    let asking = "[[pci]]\nbdf = \"0000:00:10.0\"\nbackend = \"passthrough\"\naccess = \"r\"\ndma = \"vfio\"\n";
    let error = vmm::session::start(target.launch(&target.sample("portio"), asking)).unwrap_err();
    let text = vmm::error_chain(&error);
    assert!(
        text.contains("policy:1: `dma = \"vfio\"` cannot start for 1234:11e8 at 0000:00:10.0")
            && text.contains("no IOMMU that is on"),
        "{text}"
    );
}

fn kernels_parallel_port_prints(target: Target) {
    if !is_lane() {
        return;
    }
    // One at a time: the module tries the port when it is loaded, and a machine has it as long as it lives.
    let _alone = alone(&super::real_port::PORT);
    for module in ["parport_pc", "ppdev"] {
        let status = Command::new("load-module").arg(module).status().unwrap();
        assert!(status.success());
    }
    let mut ports = Ports::start(
        target,
        r#"
        [[port]]
        range = "0x278-0x27a"
        access = "rw"
        backend = "ppdev"
        device = "/dev/parport0"
        exclusive = true
        "#,
    );
    ports.write(0x278, 1, 0xA5);
    assert_eq!(ports.read(0x278, 1), 0xA5);
    // Selected, and no error; busy and acknowledge change with each byte and each look.
    assert_eq!(ports.read(0x279, 1) & 0x18, 0x18);
    let line = format!(
        "\nppdev {} {}\n",
        target.privilege.name(),
        target.abi.name()
    );
    for byte in line.bytes() {
        ports.write(0x278, 1, byte.into());
        ports.write(0x27A, 1, 0x0D);
        ports.write(0x27A, 1, 0x0C);
    }
    assert_eq!(ports.read(0x27A, 1), 0xCC);
    assert_eq!(ports.client.process.stats().unwrap().port_denied, 0);
}

/// A parallel port of the kernel's with EPP, which no emulator has: a module (images/svm-lane/epp-recorder) that records
/// what parport's core and ppdev make of each access.
fn epp_cycles_go_through_the_kernels_driver(target: Target) {
    if !is_lane() {
        return;
    }
    let _alone = alone(&super::real_port::PORT);
    // First the other port, so that it is parport0 for the test above.
    for module in ["parport_pc", "ppdev"] {
        let status = Command::new("load-module").arg(module).status().unwrap();
        assert!(status.success());
    }
    let status = Command::new("load-module").arg("epp_recorder").status();
    if !status.unwrap().success() {
        skip("EPP by ppdev: the lane has no module epp_recorder (scripts/svm-lane says why)");
        return;
    }
    let record = || {
        let text = std::fs::read_to_string("/dev/epp_recorder").unwrap();
        let (port, cycles) = text.split_once('\n').unwrap();
        (port.to_owned(), cycles.to_owned())
    };
    let (port, _) = record();
    let mut ports = Ports::start(
        target,
        &format!(
            r#"
            [[port]]
            range = "0x278-0x27f"
            access = "rw"
            backend = "ppdev"
            device = "/dev/{port}"
            exclusive = true
            "#
        ),
    );
    std::fs::write("/dev/epp_recorder", "answer").unwrap();
    ports.write(0x27A, 1, 0x04);
    // An address cycle, then data cycles of each width, lowest byte first.
    ports.write(0x27B, 1, 0x55);
    ports.write(0x27C, 1, 0xA1);
    ports.write(0x27C, 2, 0xB2B1);
    ports.write(0x27C, 4, 0xC4C3_C2C1);
    // The same to be read, with the data lines turned.
    ports.write(0x27A, 1, 0x24);
    assert_eq!(ports.read(0x27B, 1), 0xAA);
    assert_eq!(ports.read(0x27C, 1), 0x80);
    assert_eq!(ports.read(0x27E, 2), 0x8281);
    assert_eq!(ports.read(0x27C, 4), 0x8685_8483);
    // Standard cycles in between are no EPP cycles.
    ports.write(0x27A, 1, 0x04);
    ports.write(0x278, 1, 0x5A);
    assert_eq!(ports.read(0x278, 1), 0x5A);
    assert_eq!(ports.read(0x279, 1), 0xD8);
    ports.write(0x27D, 1, 0xD1);
    let cycles = "\
        control 04\n\
        epp 40 address w 55\n\
        epp 40 data w a1\n\
        epp 40 data w b1\n\
        epp 40 data w b2\n\
        epp 40 data w c1\n\
        epp 40 data w c2\n\
        epp 40 data w c3\n\
        epp 40 data w c4\n\
        reverse\n\
        control 04\n\
        epp 40 address r aa\n\
        epp 40 data r 80\n\
        epp 40 data r 81\n\
        epp 40 data r 82\n\
        epp 40 data r 83\n\
        epp 40 data r 84\n\
        epp 40 data r 85\n\
        epp 40 data r 86\n\
        forward\n\
        control 04\n\
        data 5a\n\
        epp 40 data w d1\n";
    assert_eq!(record().1, cycles);
    // Nobody answers: all ones, and nothing hangs.
    std::fs::write("/dev/epp_recorder", "nobody").unwrap();
    assert_eq!(ports.read(0x27B, 1), 0xFF);
    assert_eq!(ports.read(0x27C, 4), 0xFFFF_FFFF);
    ports.write(0x27C, 1, 0x11);
    assert_eq!(record().1, "timeout\n".repeat(6));
    assert_eq!(ports.client.process.stats().unwrap().port_denied, 0);
    // The end of the run touches no line: whoever is at the port keeps its state.
    std::fs::write("/dev/epp_recorder", "answer").unwrap();
    drop(ports);
    assert_eq!(record().1, "");
}
