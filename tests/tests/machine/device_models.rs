//! Every device model under every driver that hands ports to programs: our portio sample, inpout and WinIo.
//!
//! One table says what is written and what must be read; each driver runs all of it, in one machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::DriverAbi;
use integration_tests::codes::portio;
use integration_tests::{Client, Target, fields, machine_tests, patience, third_party};
use vmm::session::driver::{PortWidth, RunningDriver};

use super::real_drivers::{inpout, winio};

machine_tests!(portio_sample, inpout_driver, winio3_driver, winio2_process);

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

/// Each model's steps.
const TABLE: &[(&str, &[Step])] = &[
    (
        "uart16550",
        &[
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
    ),
    (
        "rtc",
        &[
            // Memory, and the register that says that the time is valid.
            Out(0x70, 0x20),
            Out(0x71, 0x77),
            Out(0x70, 0x0D),
            In(0x71, 0x80, 0x80),
            Out(0x70, 0x20),
            In(0x71, 0xFF, 0x77),
        ],
    ),
    (
        "pit",
        &[
            // Counter 2, low byte then high byte, mode 0: the status that read-back latches says so.
            Out(0x43, 0xB0),
            Out(0x42, 0x34),
            Out(0x42, 0x12),
            Out(0x43, 0xE8),
            In(0x42, 0x3F, 0x30),
        ],
    ),
    (
        "gameport",
        &[
            In(0x201, 0xF0, 0xA0),
            // The one-shots run, and are over some time later.
            Out(0x201, 0x00),
            Until(0x201, 0x0F, 0x00),
            In(0x201, 0xFF, 0xA0),
        ],
    ),
    (
        "pio8255",
        &[
            In(0x300, 0xFF, 0x01),
            In(0x302, 0xFF, 0xA5),
            Out(0x303, 0x83),
            Out(0x300, 0x77),
            In(0x301, 0xFF, 0x77),
            Out(0x303, 0x0F),
            In(0x302, 0xFF, 0x85),
        ],
    ),
    (
        "adc12",
        &[
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
    ),
    (
        "printer",
        &[
            Out(0x27A, 0x0C),
            Out(0x278, b'P'),
            Out(0x27A, 0x0D),
            In(0x279, 0x80, 0x00),
            Out(0x27A, 0x0C),
            In(0x279, 0x40, 0x00),
            In(0x279, 0xFF, 0xD8),
        ],
    ),
    (
        "lpt",
        &[
            Out(0x378, b'L'),
            Out(0x37A, 0x0D),
            In(0x379, 0xFF, 0xD8),
            Out(0x37A, 0x0C),
            In(0x378, 0xFF, b'L'),
            In(0x37A, 0xFF, 0xCC),
        ],
    ),
];

/// All models at once, and the files that three of them write.
fn policy(folder: &Path) -> (String, [(PathBuf, &'static [u8]); 3]) {
    let files = ["U", "P", "L"].map(|name| folder.join(name));
    let [uart, printer, lpt] = &files;
    let rule = |range: &str, backend: &str, keys: &str| {
        format!("[[port]]\nrange = \"{range}\"\naccess = \"rw\"\nbackend = \"{backend}\"\n{keys}\n")
    };
    let text = [
        rule("0x3f8-0x3ff", "uart16550", &format!("output = {uart:?}")),
        rule("0x70-0x71", "rtc", ""),
        rule("0x40-0x43", "pit", ""),
        rule("0x201", "gameport", "axes = [1, 2, 3, 4]\nbuttons = 5"),
        rule(
            "0x300-0x303",
            "pio8255",
            "inputs = [1, 2, 0xa5]\nloop = true",
        ),
        rule(
            "0x310-0x317",
            "adc12",
            "conversion-us = 1\ndigital-inputs = 0x3c",
        ),
        rule("0x278-0x27a", "printer", &format!("output = {printer:?}")),
        rule("0x378-0x37a", "lpt", &format!("output = {lpt:?}")),
    ]
    .concat();
    let [uart, printer, lpt] = files;
    (text, [(uart, b"U"), (printer, b"P"), (lpt, b"L")])
}

/// How a driver does its program's port accesses.
struct Ports {
    read: fn(&mut Client, u16) -> u8,
    write: fn(&mut Client, u16, u8),
}

fn check(target: Target, driver: &Path, device: &str, prepare: fn(&mut Client), ports: &Ports) {
    let folder = tempfile::tempdir().unwrap();
    let (policy, files) = policy(folder.path());
    let machine = target.start(driver, &policy);
    let mut client = Client::open(&machine, device);
    prepare(&mut client);
    for (model, steps) in TABLE {
        for (number, step) in steps.iter().enumerate() {
            let place = format!("{model}, step {number}: {step:?} by {}", driver.display());
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
    for (file, bytes) in files {
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{}", file.display());
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
