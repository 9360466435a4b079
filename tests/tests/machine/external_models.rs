//! Device models in other processes: the Python client drives drivers' ports and interrupts, and bad models harm nobody.

use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::codes::{edu, irq, portio};
use integration_tests::{Client, Target, fields, machine_tests, patience, skip_without_program};
use rustix::event::EventfdFlags;
use vmm::session::driver::RunningMachine;
use vmm::session::{Machine, start};

machine_tests!(
    python_model_has_ports_and_interrupts,
    model_that_is_killed_reads_ones,
    model_that_never_answers_reads_ones,
    model_that_sends_garbage_reads_ones,
    python_model_has_memory,
    model_of_memory_that_is_killed_reads_ones,
    python_model_interrupts_by_its_eventfd,
    model_of_version_1_works,
    eventfd_of_another_process_interrupts,
);

const LINE: u32 = 5;

/// The folder of the Python client; `None` without a Python that has what it needs.
pub(crate) fn python_models() -> Option<PathBuf> {
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

const ADDRESS: u64 = 0xFEB0_0000;

/// Memory of two pages whose model is `words`.
fn memory_policy(words: &[&str]) -> String {
    let millis = u32::try_from(patience().as_millis()).unwrap().min(10_000);
    format!(
        "[[memory]]\nrange = \"{ADDRESS:#x}-{:#x}\"\naccess = \"rw\"\nbackend = \"external\"\n\
         command = {words:?}\nirq = {LINE}\nanswer-ms = {millis}\n",
        ADDRESS + 0x1FFF
    )
}

/// The example of docs/external-models.md: registers of a PCI card in memory, with their interrupt.
fn python_model_has_memory(target: Target) {
    let Some(folder) = python_models() else {
        return;
    };
    let model = folder.join("edu.py");
    let policy = memory_policy(&["python3", "-B", "-u", model.to_str().unwrap()]);
    let machine = target.start_sample("edu", &policy);
    let mut device = Client::open(&machine, r"\\.\edu");
    device.control(edu::START, &fields!(ADDRESS, LINE, 0_u32), 0);
    let mut read = |offset: u32| device.control_u32(edu::READ, &fields!(offset, 1_u32));
    assert_eq!(read(0), 0x0100_00ED);
    device.control(edu::WRITE, &fields!(4_u32, 0x0F0F_0F0F_u32), 0);
    assert_eq!(
        device.control_u32(edu::READ, &fields!(4_u32, 1_u32)),
        0xF0F0_F0F0
    );
    // The end of a computation interrupts, if that is wanted.
    device.control(edu::WRITE, &fields!(0x20_u32, 0x80_u32), 0);
    device.control(edu::WRITE, &fields!(8_u32, 5_u32), 0);
    let counts = device.control(edu::WAIT, &[], 16);
    assert_eq!(counts[..8], [1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(device.control_u32(edu::READ, &fields!(8_u32, 1_u32)), 120);
    assert!(machine.stopped().is_none());
}

fn model_of_memory_that_is_killed_reads_ones(target: Target) {
    let Some(folder) = python_models() else {
        return;
    };
    let words = ["python3", "-B", "-c", BAD, folder.to_str().unwrap()];
    let machine = target.start_sample("portio", &memory_policy(&words));
    let mut client = Client::open(&machine, r"\\.\portio");
    let mut read = |offset: u64, bytes: u32, width: u32| {
        let input = fields!(ADDRESS + offset, bytes, width);
        client.control(portio::READ_MEMORY, &input, bytes)
    };
    // The model takes bytes; a byte at offset 1 kills it.
    assert_eq!(read(0x1FFF, 1, 1), [0x42]);
    assert_eq!(read(0, 4, 4), [0x42, 0xFF, 0xFF, 0xFF]);
    assert_eq!(read(0x1000, 4, 2), [0xFF; 4]);
    client.control(
        portio::WRITE_MEMORY,
        &[fields!(ADDRESS, 1_u32, 1_u32), vec![0]].concat(),
        0,
    );
    assert!(machine.stopped().is_none());
    let failed = machine.failed_devices();
    assert!(failed[0].contains("closed the connection"), "{failed:?}");
}

/// Interrupts for each write, by an eventfd of its own.
const EVENT: &str = "
import sys
sys.path.insert(0, sys.argv.pop(1))
from ringfence_model import Model, main

class Event(Model):
    irq_eventfd = True

    def read(self, offset, width):
        return int(self._link.event is not None)

    def write(self, offset, width, value):
        self.pulse_irq()

main(Event())
";

fn python_model_interrupts_by_its_eventfd(target: Target) {
    let Some(folder) = python_models() else {
        return;
    };
    let words = ["python3", "-B", "-c", EVENT, folder.to_str().unwrap()];
    let machine = start_with(target, &policy(&words, 10_000));
    let mut ports = Client::open(&machine, r"\\.\portio");
    let mut device = Client::open(&machine, r"\\.\irq");
    device.control(irq::CONNECT, &fields!(LINE, 1_u32, 0_u32), 0);
    if read(&mut ports, 0x300, 1) == 0 {
        skip_without_program("the test that needs Python 3.10 (os.eventfd)");
        return;
    }
    for round in 1..=3 {
        write(&mut ports, 0x300, 1);
        let end = Instant::now() + patience();
        while interrupts(&mut device) < round {
            assert!(Instant::now() < end, "no interrupt in round {round}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(interrupts(&mut device), round);
    }
}

/// A model as it was written for version 1, without the client: a latch of a byte in each port.
const FIRST: &str = "
import socket, struct
form = struct.Struct('<BBHIII')
link = socket.socket(fileno=0)
def receive():
    data = b''
    while len(data) < form.size:
        data += link.recv(form.size - len(data)) or exit()
    return form.unpack(data)
kind, _, version, magic, ports, extra = receive()
assert (kind, magic, ports, extra & 0xFFFF) == (1, 0x4D444652, 8, 0x300) and version >= 1
link.sendall(form.pack(0x81, 1, 1, magic, 0, 0))
latches = [0] * ports
while True:
    kind, width, offset, value, number, zero = receive()
    if kind == 3:
        latches[offset] = value
    if kind in (2, 3):
        link.sendall(form.pack(0x82, 0, 0, latches[offset], number, 0))
";

fn model_of_version_1_works(target: Target) {
    if python_models().is_none() {
        return;
    }
    let machine = start_with(target, &policy(&["python3", "-c", FIRST], 10_000));
    let mut ports = Client::open(&machine, r"\\.\portio");
    for (offset, value) in (0..4).zip([0x11, 0x22, 0x33, 0x44]) {
        write(&mut ports, 0x300 + offset, value);
    }
    assert_eq!(read(&mut ports, 0x300, 4), 0x4433_2211);
}

/// Without any model: an eventfd that Ringfence was started with, and a program that writes to it.
fn eventfd_of_another_process_interrupts(target: Target) {
    if python_models().is_none() {
        return;
    }
    let event = rustix::event::eventfd(0, EventfdFlags::empty()).unwrap();
    let write = || {
        let status = Command::new("python3")
            .args(["-c", "import os; os.write(0, (1).to_bytes(8, 'little'))"])
            .stdin(Stdio::from(event.try_clone().unwrap()))
            .status();
        assert!(status.unwrap().success());
    };
    // The machine takes this number for its own, as one that it was started with.
    let number = event.try_clone().unwrap().into_raw_fd();
    let policy = format!("[[interrupt]]\nline = {LINE}\nbackend = \"eventfd\"\nfd = {number}\n");
    let machine = target.start_sample("irq", &policy);
    let mut device = Client::open(&machine, r"\\.\irq");
    device.control(irq::CONNECT, &fields!(LINE, 1_u32, 0_u32), 0);
    for round in 1..=2 {
        write();
        let end = Instant::now() + patience();
        while interrupts(&mut device) < round {
            assert!(Instant::now() < end, "no interrupt in round {round}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(interrupts(&mut device), round);
    }
}
