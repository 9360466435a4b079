//! Every device model under every driver that hands ports to programs: our portio sample, inpout and WinIo.
//!
//! One table says what is written and what must be read; each driver runs all of it, in one machine. And the interrupts
//! of the timers, and inputs that change while a driver waits for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::DriverAbi;
use integration_tests::codes::{irq, portio};
use integration_tests::{Client, Target, fields, machine_tests, patience, third_party};
use vmm::session::driver::{PortWidth, RunningDriver};
use vmm::session::interpreter::Interpreter;
use vmm::session::{Machine, start};

use super::real_drivers::{inpout, winio};

machine_tests!(
    portio_sample,
    inpout_driver,
    winio3_driver,
    winio2_process,
    periodic_interrupts_of_the_clock_reach_a_driver,
    interrupts_of_the_timer_reach_a_driver,
    status_lines_change_while_a_driver_polls,
);

/// One step of a table.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes a byte.
    Out(u16, u8),
    /// Reads a byte whose bits in the mask must have this value.
    In(u16, u8, u8),
    /// Reads until the bits in the mask have this value.
    Until(u16, u8, u8),
}

use Step::{In, Out, Until};

/// A model: its rule, and what it has to do.
struct Model {
    backend: &'static str,
    range: &'static str,
    keys: &'static str,
    /// What it prints, if it has an output.
    printed: Option<&'static str>,
    steps: &'static [Step],
}

const MODELS: &[Model] = &[
    Model {
        backend: "uart16550",
        range: "0x3f8-0x3ff",
        keys: "",
        printed: Some("U"),
        steps: &[
            // The divisor's latch, line control, scratch.
            Out(0x3FB, 0x83),
            Out(0x3F8, 0x0C),
            Out(0x3F9, 0x00),
            In(0x3F8, 0xFF, 0x0C),
            Out(0x3FB, 0x03),
            In(0x3FB, 0xFF, 0x03),
            Out(0x3FF, 0x5A),
            In(0x3FF, 0xFF, 0x5A),
            // In loop what is sent is received; outside it reaches the file.
            Out(0x3FC, 0x10),
            Out(0x3F8, 0xA5),
            Until(0x3FD, 0x01, 0x01),
            In(0x3F8, 0xFF, 0xA5),
            Out(0x3FC, 0x00),
            Out(0x3F8, b'U'),
            Until(0x3FD, 0x60, 0x60),
        ],
    },
    Model {
        backend: "rtc",
        range: "0x70-0x71",
        keys: "",
        printed: None,
        steps: &[
            // Memory, and the register that says that the time is valid.
            Out(0x70, 0x20),
            Out(0x71, 0x77),
            Out(0x70, 0x0D),
            In(0x71, 0x80, 0x80),
            Out(0x70, 0x20),
            In(0x71, 0xFF, 0x77),
        ],
    },
    Model {
        backend: "pit",
        range: "0x40-0x43",
        keys: "",
        printed: None,
        steps: &[
            // Counter 2, low byte then high byte, mode 0: the status that read-back latches says so.
            Out(0x43, 0xB0),
            Out(0x42, 0x34),
            Out(0x42, 0x12),
            Out(0x43, 0xE8),
            In(0x42, 0x3F, 0x30),
        ],
    },
    Model {
        backend: "gameport",
        range: "0x201",
        keys: "axes = [1, 2, 3, 4]\nbuttons = 5",
        printed: None,
        steps: &[
            In(0x201, 0xF0, 0xA0),
            // The one-shots run, and are over some time later.
            Out(0x201, 0x00),
            Until(0x201, 0x0F, 0x00),
            In(0x201, 0xFF, 0xA0),
        ],
    },
    Model {
        backend: "pio8255",
        range: "0x300-0x303",
        keys: "inputs = [1, 2, 0xa5]\nloop = true",
        printed: None,
        steps: &[
            In(0x300, 0xFF, 0x01),
            In(0x302, 0xFF, 0xA5),
            Out(0x303, 0x83),
            Out(0x300, 0x77),
            In(0x301, 0xFF, 0x77),
            Out(0x303, 0x0F),
            In(0x302, 0xFF, 0x85),
        ],
    },
    Model {
        backend: "adc12",
        range: "0x310-0x317",
        keys: "conversion-us = 1\ndigital-inputs = 0x3c",
        printed: None,
        steps: &[
            // DAC 0 is wired to channel 14.
            Out(0x314, 0x55),
            Out(0x315, 0x0A),
            Out(0x310, 14),
            Out(0x311, 0),
            Until(0x312, 0xC0, 0x40),
            In(0x310, 0xFF, 0x55),
            In(0x311, 0xFF, 0xEA),
            In(0x313, 0xFF, 0x3C),
        ],
    },
    Model {
        backend: "printer",
        range: "0x278-0x27a",
        keys: "",
        printed: Some("P"),
        steps: &[
            Out(0x27A, 0x0C),
            Out(0x278, b'P'),
            Out(0x27A, 0x0D),
            In(0x279, 0x80, 0x00),
            Out(0x27A, 0x0C),
            In(0x279, 0x40, 0x00),
            In(0x279, 0xFF, 0xD8),
        ],
    },
    Model {
        backend: "lpt",
        range: "0x378-0x37a",
        keys: "",
        printed: Some("L"),
        steps: &[
            Out(0x378, b'L'),
            Out(0x37A, 0x0D),
            In(0x379, 0xFF, 0xD8),
            Out(0x37A, 0x0C),
            In(0x378, 0xFF, b'L'),
            In(0x37A, 0xFF, 0xCC),
        ],
    },
];

impl Model {
    /// Where it prints to.
    fn output(&self, folder: &Path) -> Option<PathBuf> {
        self.printed.map(|_| folder.join(self.backend))
    }

    fn rule(&self, folder: &Path) -> String {
        let Self {
            backend,
            range,
            keys,
            ..
        } = self;
        let output = self
            .output(folder)
            .map_or(String::new(), |path| format!("output = {path:?}\n"));
        format!(
            "[[port]]\nrange = \"{range}\"\naccess = \"rw\"\nbackend = \"{backend}\"\n{keys}\n{output}"
        )
    }
}

/// How a driver does its program's port accesses.
struct Ports {
    read: fn(&mut Client, u16) -> u8,
    write: fn(&mut Client, u16, u8),
}

fn check(target: Target, driver: &Path, device: &str, prepare: fn(&mut Client), ports: &Ports) {
    let folder = tempfile::tempdir().unwrap();
    let rules: Vec<String> = MODELS
        .iter()
        .map(|model| model.rule(folder.path()))
        .collect();
    let machine = target.start(driver, &rules.concat());
    let mut client = Client::open(&machine, device);
    prepare(&mut client);
    for model in MODELS {
        for (number, step) in model.steps.iter().enumerate() {
            let backend = model.backend;
            let place = format!("{backend}, step {number}: {step:?} by {}", driver.display());
            match *step {
                Out(port, value) => (ports.write)(&mut client, port, value),
                In(port, mask, expected) => {
                    let value = (ports.read)(&mut client, port);
                    assert_eq!(value & mask, expected, "{place}: {value:#04x}");
                }
                Until(port, mask, expected) => {
                    let end = Instant::now() + patience();
                    loop {
                        let value = (ports.read)(&mut client, port);
                        if value & mask == expected {
                            break;
                        }
                        assert!(Instant::now() < end, "{place}: {value:#04x}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        }
    }
    assert_eq!(client.process.stats().unwrap().port_denied, 0);
    drop(client);
    drop(machine);
    for model in MODELS {
        let Some(path) = model.output(folder.path()) else {
            continue;
        };
        let printed = std::fs::read_to_string(path).unwrap();
        assert_eq!(Some(&*printed), model.printed, "{}", model.backend);
    }
}

fn low_byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

fn portio_sample(target: Target) {
    let ports = Ports {
        read: |client, port| {
            low_byte(client.control_u32(portio::READ_PORT, &fields!(u32::from(port), 1_u32)))
        },
        write: |client, port, value| {
            let input = fields!(u32::from(port), 1_u32, u32::from(value));
            client.control(portio::WRITE_PORT, &input, 0);
        },
    };
    check(
        target,
        &target.sample("portio"),
        r"\\.\portio",
        |_| (),
        &ports,
    );
}

fn inpout_driver(target: Target) {
    let (file, device) = match target.abi {
        DriverAbi::I386 => ("inpout-i386.sys", r"\\.\inpout32"),
        DriverAbi::Amd64 => ("inpout-amd64.sys", r"\\.\inpoutx64"),
    };
    let Some(path) = third_party(file) else {
        return;
    };
    let ports = Ports {
        read: inpout::read_byte,
        write: inpout::write_byte,
    };
    check(target, &path, device, |_| (), &ports);
}

fn winio3_driver(target: Target) {
    let file = match target.abi {
        DriverAbi::I386 => "winio3-i386.sys",
        DriverAbi::Amd64 => "winio3-amd64.sys",
    };
    let Some(path) = third_party(file) else {
        return;
    };
    let ports = Ports {
        read: |client, port| low_byte(winio::read(client, port, 1)),
        write: |client, port, value| winio::write(client, port, value.into(), 1),
    };
    check(target, &path, r"\\.\WinIo", |_| (), &ports);
}

/// WinIo 2 has no port requests: it lets the process execute in and out itself.
fn winio2_process(target: Target) {
    if target.abi != DriverAbi::I386 {
        return;
    }
    let Some(path) = third_party("winio2-i386.sys") else {
        return;
    };
    let ports = Ports {
        read: |client, port| low_byte(client.process.port_in(port, PortWidth::Byte).unwrap()),
        write: |client, port, value| {
            client
                .process
                .port_out(port, PortWidth::Byte, value.into())
                .unwrap();
        },
    };
    let prepare = |client: &mut Client| {
        client.control(winio::ENABLE_DIRECT, &[], 0);
    };
    check(target, &path, r"\\.\WinIo", prepare, &ports);
}

/// The portio sample for a model's ports, and the irq sample, which connects to its line as latched.
struct Timer {
    _machine: Machine,
    ports: Client,
    device: Client,
}

impl Timer {
    fn start(target: Target, policy: &str, line: u32) -> Self {
        let mut launch = target.launch(&target.sample("portio"), policy);
        launch.drivers.push(target.sample("irq"));
        let machine = start(launch).unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)));
        let mut device = Client::open(&machine, r"\\.\irq");
        device.control(irq::CONNECT, &fields!(line, 1_u32, 0_u32), 0);
        Self {
            ports: Client::open(&machine, r"\\.\portio"),
            device,
            _machine: machine,
        }
    }

    fn write(&mut self, port: u32, value: u32) {
        let input = fields!(port, 1_u32, value);
        self.ports.control(portio::WRITE_PORT, &input, 0);
    }

    fn read(&mut self, port: u32) -> u32 {
        self.ports
            .control_u32(portio::READ_PORT, &fields!(port, 1_u32))
    }

    /// Waits until the service routine and the DPC have run so often.
    fn wait_for(&mut self, count: u32) {
        let end = Instant::now() + patience();
        loop {
            let counts = self.device.control(irq::COUNTS, &[], 16);
            let word = |at: usize| u32::from_le_bytes(counts[at..at + 4].try_into().unwrap());
            let (interrupts, dpcs) = (word(0), word(4));
            if interrupts >= count && dpcs > 0 {
                assert_eq!(word(8), word(12), "IRQL of the service routine");
                return;
            }
            assert!(Instant::now() < end, "{interrupts} interrupts, {dpcs} DPCs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn periodic_interrupts_of_the_clock_reach_a_driver(target: Target) {
    let policy = "[[port]]\nrange = \"0x70-0x71\"\naccess = \"rw\"\nbackend = \"rtc\"\nirq = 8\n";
    let mut clock = Timer::start(target, policy, 8);
    let register = |clock: &mut Timer, index| clock.write(0x70, index);
    // 1024 Hz, 24 hours, periodic interrupts.
    register(&mut clock, 0x0A);
    clock.write(0x71, 0x26);
    register(&mut clock, 0x0B);
    clock.write(0x71, 0x42);
    register(&mut clock, 0x0C);
    for round in 1..=3 {
        clock.wait_for(round);
        // Interrupt request and periodic flag; the read is what lets the next one come.
        assert_eq!(clock.read(0x71) & 0xC0, 0xC0);
    }
    // Turned off, no more come.
    register(&mut clock, 0x0B);
    clock.write(0x71, 0x02);
    register(&mut clock, 0x0C);
    clock.read(0x71);
    assert_eq!(clock.read(0x71) & 0x80, 0);
}

fn interrupts_of_the_timer_reach_a_driver(target: Target) {
    let policy = "[[port]]\nrange = \"0x40-0x43\"\naccess = \"rw\"\nbackend = \"pit\"\nirq = 0\n";
    let mut timer = Timer::start(target, policy, 0);
    // Counter 0, low byte then high byte, mode 2, every 10 ms (11932 of 1.193182 MHz).
    timer.write(0x43, 0x34);
    timer.write(0x40, 0x9C);
    timer.write(0x40, 0x2E);
    timer.wait_for(3);
    // Mode 0 without a count stops it.
    timer.write(0x43, 0x30);
}

/// What another program changes reaches a driver that polls, as the printer that becomes ready.
fn status_lines_change_while_a_driver_polls(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("printed");
    let policy = format!(
        "[[port]]\nname = \"LPT1\"\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\n\
         output = {output:?}\nstatus = 0x58\n"
    );
    let machine = target.start_sample("portio", &policy);
    let mut client = Client::open(&machine, r"\\.\portio");
    let mut other = Interpreter::new(Box::new(machine.process().unwrap()));
    let status =
        |client: &mut Client| client.control_u32(portio::READ_PORT, &fields!(0x379_u32, 1_u32));
    assert_eq!(status(&mut client), 0x58, "busy");
    let listed = other.execute_line("device").text;
    assert!(listed.contains("LPT1 (0x378): lpt to "), "{listed}");
    assert!(listed.contains("busy=1  (0 or 1)"), "{listed}");
    // The driver may be in the middle of a request of many reads; setting does not wait for it.
    let polling = std::thread::spawn(move || {
        let input = fields!(0x379_u32, 1_u32);
        let bytes = client.control(portio::READ_PORT_BUFFER, &input, 1 << 15);
        (client, bytes)
    });
    let set = other.execute_line("device LPT1 busy=0 paper-out=1");
    assert!(set.is_success(), "{}", set.text);
    let (mut client, bytes) = polling.join().unwrap();
    assert!(bytes.iter().all(|byte| [0x58, 0xD8, 0xF8].contains(byte)));
    assert_eq!(status(&mut client), 0xF8);
    let wrong = other.execute_line("device LPT2 busy=0");
    assert!(wrong.text.contains("no device model is called LPT2"));
}
