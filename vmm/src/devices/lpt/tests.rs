use std::sync::{Arc, Mutex};

use super::*;
use crate::policy::LPT_STATUS_DEFAULT;

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
        Lpt::with_output(
            Box::new(self.clone()),
            "script".to_owned(),
            LPT_STATUS_DEFAULT,
        )
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
    let output = LptOutput::File("/dev/full".into());
    let mut lpt = Lpt::open(&output, LPT_STATUS_DEFAULT).unwrap();
    send(&mut lpt, &[b'x'; BUFFER_BYTES + 1]);
    let error = lpt.flush().unwrap_err();
    assert!(error.message.contains("4097 of 4097"), "{error}");
}

#[test]
fn output_is_created_at_start_and_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpt.out");
    std::fs::write(&path, "old").unwrap();
    let mut lpt = Lpt::open(&LptOutput::File(path.clone()), LPT_STATUS_DEFAULT).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    send(&mut lpt, b"new");
    lpt.flush().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");

    let nowhere = folder.path().join("missing/lpt.out");
    let error = Lpt::open(&LptOutput::File(nowhere), LPT_STATUS_DEFAULT).unwrap_err();
    assert!(error.to_string().contains("missing/lpt.out"), "{error}");
}

#[test]
fn closed_pipe_is_an_error_not_a_signal() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut lpt = Lpt::with_output(Box::new(writer), "pipe".to_owned(), LPT_STATUS_DEFAULT);
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
    let output = LptOutput::File(path.clone());
    std::thread::spawn(move || sender.send(Lpt::open(&output, LPT_STATUS_DEFAULT).err()));
    let error = opened.recv_timeout(Duration::from_secs(10)).unwrap();
    let source = std::error::Error::source(error.as_ref().unwrap()).unwrap();
    assert!(source.to_string().contains("nobody reads this FIFO"));

    let _reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    let mut lpt = Lpt::open(&LptOutput::File(path), LPT_STATUS_DEFAULT).unwrap();
    send(&mut lpt, b"x");
    lpt.flush().unwrap();
}
