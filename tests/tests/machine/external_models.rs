//! Device models in other processes: the Python client drives drivers' ports and interrupts, and bad models harm nobody.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::codes::{irq, portio};
use integration_tests::{Client, Target, fields, machine_tests, patience, skip_without_program};
use vmm::session::driver::RunningMachine;
use vmm::session::{Machine, start};

machine_tests!(
    python_model_has_ports_and_interrupts,
    model_that_is_killed_reads_ones,
    model_that_never_answers_reads_ones,
    model_that_sends_garbage_reads_ones,
);

const LINE: u32 = 5;

/// The folder of the Python client; `None` without a Python that has what it needs.
fn python_models() -> Option<PathBuf> {
    let has = Command::new("python3")
        .args(["-c", "import socket; socket.recv_fds"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has {
        skip_without_program("the tests that need Python 3.9 (python3)");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Some(root.join("models/python"))
}

fn policy(words: &[&str], millis: u32) -> String {
    format!(
        "[[port]]\nrange = \"0x300-0x307\"\naccess = \"rw\"\nbackend = \"external\"\n\
         command = {words:?}\nirq = {LINE}\nanswer-ms = {millis}\n"
    )
}

/// Both drivers in one guest: one for the ports, one for the interrupt.
fn start_with(target: Target, policy: &str) -> Machine {
    let mut launch = target.launch(&target.sample("portio"), policy);
    launch.drivers.push(target.sample("irq"));
    start(launch).unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)))
}

fn read(client: &mut Client, port: u32, width: u32) -> u32 {
    client.control_u32(portio::READ_PORT, &fields!(port, width))
}

fn write(client: &mut Client, port: u32, value: u32) {
    client.control(portio::WRITE_PORT, &fields!(port, 1_u32, value), 0);
}

fn interrupts(client: &mut Client) -> u32 {
    let output = client.control(irq::COUNTS, &[], 16);
    u32::from_le_bytes(output[..4].try_into().unwrap())
}

fn python_model_has_ports_and_interrupts(target: Target) {
    let Some(folder) = python_models() else {
        return;
    };
    let counter = folder.join("counter.py");
    let millis = u32::try_from(patience().as_millis()).unwrap().min(10_000);
    let policy = policy(&["python3", "-B", "-u", counter.to_str().unwrap()], millis);
    let machine = start_with(target, &policy);
    let mut ports = Client::open(&machine, r"\\.\portio");
    let mut device = Client::open(&machine, r"\\.\irq");
    device.control(irq::CONNECT, &fields!(LINE, 1_u32, 0_u32), 0);

    for (offset, value) in [0x11, 0x22, 0x33, 0x44].into_iter().enumerate() {
        write(&mut ports, 0x300 + u32::try_from(offset).unwrap(), value);
    }
    // The model takes bytes: a wide read is one of each.
    assert_eq!(read(&mut ports, 0x300, 4), 0x4433_2211);
    assert_eq!(read(&mut ports, 0x304, 1), 4);
    assert_eq!(interrupts(&mut device), 0);

    // A write that interrupts: the interrupt is there before the write is over, or soon after.
    write(&mut ports, 0x305, 2);
    let end = Instant::now() + patience();
    while interrupts(&mut device) == 0 {
        assert!(Instant::now() < end, "no interrupt");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(interrupts(&mut device), 1);

    // A line that is asserted and ended by registers is one edge more.
    write(&mut ports, 0x305, 1);
    assert_eq!(read(&mut ports, 0x306, 1), 1);
    write(&mut ports, 0x305, 0);
    assert_eq!(read(&mut ports, 0x306, 1), 0);
    let end = Instant::now() + patience();
    while interrupts(&mut device) == 1 {
        assert!(Instant::now() < end, "no interrupt");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(interrupts(&mut device), 2);
}

/// Misbehaves as soon as one port is read.
const BAD: &str = "
import os, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
from ringfence_model import Model, main

class Bad(Model):
    memory = False

    def read(self, offset, width):
        if offset == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if offset == 2:
            time.sleep(3600)
        if offset == 3:
            self._link._connection.sendall(b'no message at all, but many bytes')
        return 0x42

main(Bad())
";

fn check_bad(target: Target, offset: u32, millis: u32) {
    let Some(folder) = python_models() else {
        return;
    };
    let words = ["python3", "-B", "-c", BAD, folder.to_str().unwrap()];
    let machine = start_with(target, &policy(&words, millis));
    let mut ports = Client::open(&machine, r"\\.\portio");
    assert_eq!(read(&mut ports, 0x300, 1), 0x42);

    assert_eq!(read(&mut ports, 0x300 + offset, 1), 0xFF);

    // The driver goes on; the card is gone.
    assert_eq!(read(&mut ports, 0x300, 1), 0xFF);
    write(&mut ports, 0x300, 1);
    assert_eq!(read(&mut ports, 0x300, 4), u32::MAX);
    assert!(machine.stopped().is_none());
}

fn model_that_is_killed_reads_ones(target: Target) {
    check_bad(target, 1, 10_000);
}

fn model_that_never_answers_reads_ones(target: Target) {
    check_bad(target, 2, 1500);
}

fn model_that_sends_garbage_reads_ones(target: Target) {
    check_bad(target, 3, 10_000);
}
