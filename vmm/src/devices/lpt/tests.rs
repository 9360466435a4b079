use std::sync::{Arc, Mutex};

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use super::super::output::BUFFER_BYTES;
use super::*;
use crate::machine::InterruptLines;
use crate::policy::{DeviceOutput, LPT_STATUS_DEFAULT};

fn spec(output: DeviceOutput) -> LptSpec {
    LptSpec::new(output, LPT_STATUS_DEFAULT)
}

/// An output whose behaviour a test scripts, one result a write; after the script it takes all.
#[derive(Clone, Default)]
struct Script {
    taken: Arc<Mutex<Vec<u8>>>,
    results: Arc<Mutex<Vec<io::Result<usize>>>>,
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut results = self.results.lock().unwrap();
        let taken = if results.is_empty() {
            bytes.len()
        } else {
            results.remove(0)?
        };
        self.taken.lock().unwrap().extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Script {
    fn lpt(&self) -> Lpt {
        self.with(&spec(DeviceOutput::Stdout))
    }

    fn with(&self, spec: &LptSpec) -> Lpt {
        Lpt::with_output(Box::new(self.clone()), "script".to_owned(), spec, None)
    }

    fn bytes(&self) -> Vec<u8> {
        self.taken.lock().unwrap().clone()
    }
}

fn send(lpt: &mut Lpt, bytes: &[u8]) {
    for byte in bytes {
        lpt.write(0, Width::Byte, u32::from(*byte));
        lpt.write(2, Width::Byte, 0x0D);
        lpt.write(2, Width::Byte, 0x0C);
    }
}

#[test]
fn byte_is_taken_once_at_each_rise_of_strobe() {
    let script = Script::default();
    let mut lpt = script.lpt();
    lpt.write(0, Width::Byte, 0x41);
    lpt.flush().unwrap();
    assert!(script.bytes().is_empty(), "no strobe yet");
    lpt.write(2, Width::Byte, 0x01);
    lpt.write(0, Width::Byte, 0x42);
    lpt.write(2, Width::Byte, 0x0D);
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"A", "strobe stayed active");
    lpt.write(2, Width::Byte, 0x0C);
    lpt.write(2, Width::Byte, 0x0D);
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"AB");
}

#[test]
fn registers_read_as_the_hardware_does() {
    let mut lpt = Script::default().lpt();
    assert_eq!(lpt.read(0, Width::Dword), 0xFFCC_D800);
    lpt.write(0, Width::Byte, 0x5A);
    lpt.write(1, Width::Byte, 0x00);
    lpt.write(2, Width::Byte, 0xC2);
    assert_eq!(lpt.read(0, Width::Byte), 0x5A, "data reads back");
    assert_eq!(lpt.read(1, Width::Byte), 0xD8, "status is read only");
    assert_eq!(lpt.read(2, Width::Byte), 0xC2, "upper bits are ones");
    lpt.write(2, Width::Byte, 0x20);
    assert_eq!(lpt.read(0, Width::Byte), 0xFF, "input: lines are pulled up");
    assert_eq!(lpt.read(2, Width::Byte), 0xE0);
    lpt.write(7, Width::Byte, 0);
    assert_eq!(lpt.read(7, Width::Byte), 0xFF, "no EPP register");
}

#[test]
fn wide_write_strobes_the_data_it_carries() {
    let script = Script::default();
    let mut lpt = script.lpt();
    lpt.write(0, Width::Dword, 0x000D_0058);
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"X");
}

#[test]
fn partial_and_interrupted_writes_lose_nothing() {
    let script = Script::default();
    script.results.lock().unwrap().extend([
        Ok(1),
        Err(io::Error::from(io::ErrorKind::Interrupted)),
        Err(io::Error::from(io::ErrorKind::WouldBlock)),
        Ok(2),
    ]);
    let mut lpt = script.lpt();
    send(&mut lpt, b"parallel");
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"parallel");
}

#[test]
fn drop_flushes() {
    let script = Script::default();
    let mut lpt = script.lpt();
    send(&mut lpt, b"tail");
    drop(lpt);
    assert_eq!(script.bytes(), b"tail");
}

#[test]
fn full_disk_is_an_error_and_shows_in_the_status_register() {
    let script = Script::default();
    script
        .results
        .lock()
        .unwrap()
        .extend([Ok(3), Err(io::Error::from(io::ErrorKind::StorageFull))]);
    let mut lpt = script.lpt();
    send(&mut lpt, b"abcdefgh");
    let error = lpt.flush().unwrap_err();
    assert_eq!(error.device, "lpt to script");
    assert!(
        error.message.contains("5 of 8 bytes are lost"),
        "{}",
        error.message
    );
    let status = lpt.read(1, Width::Byte);
    assert_eq!(status & 0x98, 0, "busy, not selected, error");
    assert_ne!(status & 0x20, 0, "paper out");
    send(&mut lpt, b"i");
    let message = lpt.flush().unwrap_err().message;
    assert!(message.contains("6 of 9 bytes"), "{message}");
    assert_eq!(script.bytes(), b"abc");
}

#[test]
fn dev_full_is_an_error_not_a_panic() {
    let output = DeviceOutput::File("/dev/full".into());
    let mut lpt = Lpt::open(&spec(output), None).unwrap();
    send(&mut lpt, &[b'x'; BUFFER_BYTES + 1]);
    let error = lpt.flush().unwrap_err();
    assert!(error.message.contains("4097 of 4097"), "{error}");
}

#[test]
fn output_is_created_at_start_and_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpt.out");
    std::fs::write(&path, "old").unwrap();
    let mut lpt = Lpt::open(&spec(DeviceOutput::File(path.clone())), None).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    send(&mut lpt, b"new");
    lpt.flush().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");

    let nowhere = folder.path().join("missing/lpt.out");
    let error = Lpt::open(&spec(DeviceOutput::File(nowhere)), None).unwrap_err();
    assert!(error.to_string().contains("missing/lpt.out"), "{error}");
}

#[test]
fn closed_pipe_is_an_error_not_a_signal() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut lpt = Lpt::with_output(
        Box::new(writer),
        "pipe".to_owned(),
        &spec(DeviceOutput::Stdout),
        None,
    );
    send(&mut lpt, b"x");
    let error = lpt.flush().unwrap_err();
    assert!(error.message.contains("Broken pipe"), "{error}");
}

#[test]
fn fifo_without_a_reader_is_an_error_not_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    // On a thread, as an open that waits would never come back.
    let (sender, opened) = std::sync::mpsc::channel();
    let output = DeviceOutput::File(path.clone());
    std::thread::spawn(move || sender.send(Lpt::open(&spec(output), None).err()));
    let error = opened.recv_timeout(Duration::from_secs(10)).unwrap();
    let source = std::error::Error::source(error.as_ref().unwrap()).unwrap();
    assert!(source.to_string().contains("nobody reads this FIFO"));

    let _reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    let mut lpt = Lpt::open(&spec(DeviceOutput::File(path)), None).unwrap();
    send(&mut lpt, b"x");
    lpt.flush().unwrap();
}

fn read(device: &mut dyn PortDevice, offset: u16) -> u32 {
    device.read(offset, Width::Byte)
}

fn write(device: &mut dyn PortDevice, offset: u16, value: u32) {
    device.write(offset, Width::Byte, value);
}

#[test]
fn acknowledge_interrupts_while_the_driver_wants_it() {
    let lines = InterruptLines::default();
    let sink = Box::new(io::sink());
    let spec = spec(DeviceOutput::Stdout);
    let mut lpt = Lpt::with_output(sink, String::new(), &spec, lines.line(7));
    send(&mut lpt, b"a");
    assert!(!lines.is_wanted(), "control bit 4 is clear");
    write(&mut lpt, 2, 0x1C);
    assert!(!lines.is_wanted(), "no strobe yet");
    write(&mut lpt, 2, 0x1D);
    assert!(lines.is_wanted());
}

#[test]
fn input_is_read_byte_for_byte_and_the_last_one_stays() {
    let script = Script::default();
    let mut lpt = script.with(&LptSpec {
        input: vec![1, 2],
        ..spec(DeviceOutput::Stdout)
    });
    write(&mut lpt, 0, 0x55);
    assert_eq!(read(&mut lpt, 0), 0x55);
    write(&mut lpt, 2, 0x2C);
    assert_eq!([(); 3].map(|()| read(&mut lpt, 0)), [1, 2, 2]);
    write(&mut lpt, 2, 0x0C);
    assert_eq!(read(&mut lpt, 0), 0x55);
}

#[test]
fn epp_cycles_reach_a_peer() {
    let script = Script::default();
    let mut lpt = script.with(&LptSpec {
        epp: Some(EppPeer::Present),
        input: vec![0xA1, 0xA2],
        status: LPT_STATUS_DEFAULT | 1,
        ..spec(DeviceOutput::Stdout)
    });
    write(&mut lpt, 3, 0x42);
    lpt.write(4, Width::Dword, 0x6463_6261);
    write(&mut lpt, 4, 0x65);
    assert_eq!(read(&mut lpt, 3), 0x42);
    assert_eq!(lpt.read(4, Width::Word), 0xA2A1);
    assert_eq!(read(&mut lpt, 1) & 1, 0, "no time-out");
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"abcde");
}

#[test]
fn epp_cycles_without_a_peer_time_out_until_cleared() {
    let script = Script::default();
    let mut lpt = script.with(&LptSpec {
        epp: Some(EppPeer::Absent),
        ..spec(DeviceOutput::Stdout)
    });
    for cycle in [
        |lpt: &mut Lpt| write(lpt, 4, 1),
        |lpt: &mut Lpt| write(lpt, 3, 1),
        |lpt: &mut Lpt| assert_eq!(read(lpt, 7), 0xFF),
    ] {
        assert_eq!(read(&mut lpt, 1), u32::from(LPT_STATUS_DEFAULT));
        cycle(&mut lpt);
        assert_eq!(read(&mut lpt, 1), u32::from(LPT_STATUS_DEFAULT | 1));
        write(&mut lpt, 1, 0xFE);
        assert_eq!(read(&mut lpt, 1) & 1, 1, "cleared by a one alone");
        write(&mut lpt, 1, 1);
    }
    lpt.flush().unwrap();
    assert!(script.bytes().is_empty());
}

#[test]
fn ecp_modes_send_test_and_tell_their_configuration() {
    let script = Script::default();
    let lines = InterruptLines::default();
    let spec = LptSpec {
        is_ecp: true,
        irq: Some(7),
        input: vec![9, 8],
        ..spec(DeviceOutput::Stdout)
    };
    let output = Box::new(script.clone());
    let mut lpt = Lpt::with_output(output, String::new(), &spec, lines.line(7));
    let mut ecp = lpt.second().unwrap();
    let ecp = &mut *ecp;
    assert_eq!(read(ecp, 2), 0x15, "SPP, service interrupt off, empty");
    assert_eq!(read(ecp, 0), 0xFF);
    write(&mut lpt, 2, 0x2C);
    assert_eq!(read(&mut lpt, 2) & 0x20, 0, "SPP is an output");

    write(ecp, 2, 0xD4);
    for byte in 0..FIFO_DEPTH {
        assert_eq!(read(ecp, 2) & 2, 0);
        write(ecp, 0, byte);
    }
    assert_eq!(read(ecp, 2), 0xD6, "full");
    write(ecp, 0, 99);
    for byte in 0..FIFO_DEPTH {
        assert_eq!(read(ecp, 0), byte);
    }
    assert_eq!(read(ecp, 2), 0xD5, "empty");

    write(ecp, 2, 0xF4);
    assert_eq!((read(ecp, 0), read(ecp, 1)), (0x10, 0x08));

    assert!(!lines.is_wanted());
    write(ecp, 2, 0x50);
    assert!(lines.is_wanted(), "the FIFO has room");
    assert_eq!(read(ecp, 2), 0x55);
    write(ecp, 0, u32::from(b'f'));
    write(ecp, 2, 0x34);
    write(ecp, 2, 0x74);
    write(&mut lpt, 0, 0x80);
    write(ecp, 0, u32::from(b'e'));
    write(&mut lpt, 2, 0x2C);
    assert_eq!([(); 3].map(|()| read(ecp, 0)), [9, 8, 0xFF]);
    lpt.flush().unwrap();
    assert_eq!(script.bytes(), b"fe");
}

const FIFO_DEPTH: u32 = 16;

fn printer(script: &Script, line: Option<InterruptLine>) -> Lpt {
    let spec = LptSpec {
        is_printer: true,
        ..spec(DeviceOutput::Stdout)
    };
    Lpt::with_output(Box::new(script.clone()), "script".to_owned(), &spec, line)
}

#[test]
fn printer_is_busy_until_the_strobe_ends_and_then_acknowledges() {
    let script = Script::default();
    let lines = InterruptLines::default();
    let mut printer = printer(&script, lines.line(5));
    write(&mut printer, 2, 0x1C);
    write(&mut printer, 0, u32::from(b'p'));
    assert_eq!(read(&mut printer, 1), 0xD8);
    write(&mut printer, 2, 0x1D);
    assert_eq!([(); 2].map(|()| read(&mut printer, 1)), [0x58; 2], "busy");
    assert!(!lines.is_wanted());
    write(&mut printer, 2, 0x1C);
    assert!(lines.is_wanted());
    assert_eq!(read(&mut printer, 1), 0x98, "nAck");
    assert_eq!(read(&mut printer, 1), 0xD8, "ready again");
    printer.flush().unwrap();
    assert_eq!(script.bytes(), b"p");
}

#[test]
fn printer_that_is_not_selected_or_is_being_initialised_takes_nothing() {
    let script = Script::default();
    let mut printer = printer(&script, None);
    for control in [0x04, 0x08] {
        write(&mut printer, 2, control);
        write(&mut printer, 2, control | 1);
        write(&mut printer, 2, control);
        assert_eq!(read(&mut printer, 1) & 0x40, 0x40, "no nAck");
    }
    assert_eq!(read(&mut printer, 1) & 0x80, 0, "busy while nInit is low");
    write(&mut printer, 2, 0x0C);
    assert_eq!(read(&mut printer, 1), 0xD8);
    printer.flush().unwrap();
    assert!(script.bytes().is_empty());
}

#[test]
fn printer_whose_output_fails_is_out_of_paper() {
    let script = Script::default();
    let full = Err(io::Error::from(io::ErrorKind::StorageFull));
    script.results.lock().unwrap().push(full);
    let mut printer = printer(&script, None);
    send(&mut printer, b"x");
    printer.flush().unwrap_err();
    assert_eq!(read(&mut printer, 1) & 0xB8, 0x20);
    send(&mut printer, b"y");
    let message = printer.flush().unwrap_err().message;
    assert!(message.contains("1 of 1 bytes"), "not taken: {message}");
}

#[test]
fn status_lines_are_set_from_outside() {
    let lines = InterruptLines::default();
    let mut port = Lpt::with_output(
        Box::new(Script::default()),
        "script".to_owned(),
        &spec(DeviceOutput::Stdout),
        lines.line(7),
    );
    let inputs = port.inputs().unwrap();
    let values = |keys: &[&str]| -> Vec<String> {
        let list = inputs.list();
        let of = |key: &&str| list.iter().find(|input| input.key == **key).unwrap();
        keys.iter().map(|key| of(key).value.clone()).collect()
    };
    let all = ["busy", "ack", "paper-out", "select", "error", "status"];
    assert_eq!(values(&all), ["0", "0", "0", "1", "0", "0xd8"]);
    for (key, value, expected) in [
        ("busy", "1", 0x58),
        ("paper-out", "1", 0x78),
        ("select", "0", 0x68),
        ("error", "1", 0x60),
        ("busy", "0", 0xE0),
        ("status", "0xdf", 0xDF),
    ] {
        inputs.set(key, value).unwrap();
        assert_eq!(port.read(1, Width::Byte), expected, "{key}={value}");
    }
    assert_eq!(values(&all), ["0", "0", "0", "1", "0", "0xdf"]);
    // The end of nAck's pulse interrupts, if control bit 4 is set.
    inputs.set("ack", "1").unwrap();
    inputs.set("ack", "0").unwrap();
    assert!(!lines.is_wanted());
    port.write(2, Width::Byte, 0x1C);
    inputs.set("ack", "1").unwrap();
    assert!(!lines.is_wanted());
    inputs.set("ack", "0").unwrap();
    assert!(lines.is_wanted());
    assert_eq!(inputs.set("strobe", "1"), Err(InputError::Unknown));
    assert_eq!(inputs.set("busy", "2"), Err(InputError::Value("0 or 1")));
    assert!(inputs.set("status", "256").is_err());
}
