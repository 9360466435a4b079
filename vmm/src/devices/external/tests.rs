//! Models on threads, honest and not.

mod shared_page;
mod version_two;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::protocol::{FromModel, MESSAGE_BYTES, Signal, Version};
use super::*;
use crate::machine::InterruptLines;

const HELLO: FromModel = FromModel::Hello {
    version: Version::One,
    width: 4,
    takes_page: false,
    has_event: false,
};
/// The range of most tests' models.
const PORTS: ModelRange = ModelRange::ports(0x300, 8);

fn spec(socket: PathBuf, millis: u64) -> ExternalSpec {
    ExternalSpec {
        socket: Some(socket),
        command: None,
        answer_limit: Duration::from_millis(millis),
        irq: None,
        has_dma: false,
    }
}

/// A model that does `body` with each connection in turn.
fn model<T: Send + 'static>(
    connections: usize,
    mut body: impl FnMut(&mut UnixStream) -> T + Send + 'static,
) -> (TempDir, PathBuf, JoinHandle<Vec<T>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        (0..connections)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                body(&mut stream)
            })
            .collect()
    });
    (folder, path, thread)
}

fn receive(stream: &mut UnixStream) -> Option<[u8; MESSAGE_BYTES]> {
    let mut bytes = [0; MESSAGE_BYTES];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn send(stream: &mut UnixStream, message: FromModel) {
    // Whoever is cut off is told so by an error.
    let _ = stream.write_all(&message.encode(Version::One)).is_ok();
}

/// Takes Ringfence's hello, answers, takes the reset.
fn greet(stream: &mut UnixStream) -> [u8; MESSAGE_BYTES] {
    let hello = receive(stream).unwrap();
    send(stream, HELLO);
    assert_eq!(receive(stream).unwrap()[0], 4);
    hello
}

fn done(message: &[u8; MESSAGE_BYTES], value: u32) -> FromModel {
    let number = u32::from_le_bytes(message[8..12].try_into().unwrap());
    FromModel::Done {
        number,
        value: value.into(),
    }
}

#[test]
fn accesses_are_carried_out_and_interrupts_come_before_their_answer() {
    let (_folder, path, thread) = model(1, |stream| {
        let hello = greet(stream);
        let mut kinds = Vec::new();
        while let Some(message) = receive(stream) {
            kinds.push(message[0]);
            let signal = match message[0] {
                2 => Signal::Deassert,
                3 => Signal::Assert,
                _ => break,
            };
            send(stream, FromModel::Signal(signal));
            send(stream, done(&message, 0x1234_5678));
        }
        (hello, kinds)
    });
    let lines = InterruptLines::default();
    let mut device = External::open(&spec(path, 5000), PORTS, lines.line(5)).unwrap();
    assert_eq!(device.width_max(), Width::Dword);
    assert!(!lines.is_wanted());
    device.write(1, Width::Byte, 0x55);
    assert!(lines.is_wanted());
    assert_eq!(device.read(2, Width::Dword), 0x1234_5678);
    assert_eq!(PortDevice::flush(&mut device), Ok(()));
    drop(device);
    let ended = thread.join().unwrap();
    let (hello, kinds) = &ended[0];
    assert_eq!(*hello, *b"\x01\0\x02\0RFDM\x08\0\0\0\x00\x03\x03\x00");
    assert_eq!(*kinds, [3, 2, 6], "a write, a read, goodbye");
}

#[test]
fn interrupts_come_while_nothing_is_asked() {
    let (_folder, path, thread) = model(1, |stream| {
        greet(stream);
        send(stream, FromModel::Signal(Signal::Pulse));
        // Until the end.
        receive(stream)
    });
    let lines = InterruptLines::default();
    let device = External::open(&spec(path, 5000), PORTS, lines.line(5)).unwrap();
    let start = Instant::now();
    while !lines.is_wanted() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(device);
    assert_eq!(thread.join().unwrap()[0].unwrap()[0], 6);
}

/// A device whose model does `body` after its hello, once it is asked something.
fn reads_ones_after(millis: u64, body: impl Fn(&mut UnixStream) + Send + 'static) -> String {
    let (_folder, path, thread) = model(1, move |stream| {
        greet(stream);
        receive(stream);
        body(stream);
    });
    let mut device = External::open(&spec(path, millis), PORTS, None).unwrap();
    let start = Instant::now();
    assert_eq!(device.read(0, Width::Dword), u32::MAX);
    device.write(0, Width::Byte, 1);
    assert_eq!(device.read(0, Width::Dword), u32::MAX);
    assert!(start.elapsed() < Duration::from_secs(10), "it hangs");
    let message = PortDevice::flush(&mut device).unwrap_err().message;
    drop(device);
    thread.join().unwrap();
    message
}

#[test]
fn model_that_ends_in_an_access_reads_ones() {
    let message = reads_ones_after(5000, |_| ());
    assert!(
        message.starts_with("it has closed the connection"),
        "{message}"
    );
}

#[test]
fn model_that_never_answers_is_waited_for_once() {
    let message = reads_ones_after(50, |stream| {
        // Interrupts are no answer.
        for _ in 0..100 {
            send(stream, FromModel::Signal(Signal::Pulse));
            std::thread::sleep(Duration::from_millis(2));
        }
        receive(stream);
    });
    assert!(
        message.starts_with("it has not answered a read of offset 0x0 within 50 ms"),
        "{message}"
    );
}

#[test]
fn garbage_ends_the_connection() {
    for (bytes, expected) in [
        (&[0xEE; 16][..], "a message of kind 0xee"),
        (&HELLO.encode(Version::One)[..], "a second hello"),
        (
            &FromModel::Done {
                number: 0xFFFF,
                value: 0,
            }
            .encode(Version::One)[..],
            "an answer with number 65535",
        ),
        (
            b"\x83\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
            "a field that has to be 0",
        ),
    ] {
        let sent = bytes.to_vec();
        let message = reads_ones_after(5000, move |stream| {
            let _ = stream.write_all(&sent).is_ok();
            receive(stream);
        });
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn flood_of_interrupts_ends_the_connection() {
    let message = reads_ones_after(5000, |stream| {
        let flood = FromModel::Signal(Signal::Pulse)
            .encode(Version::One)
            .repeat(1000);
        while stream.write_all(&flood).is_ok() {}
    });
    assert!(
        message.contains("messages in a second") || message.contains("has not answered"),
        "{message}"
    );
}

#[test]
fn model_that_does_not_read_is_late() {
    // What is written fills the socket at some time; here nothing is ever answered either.
    let message = reads_ones_after(50, |_| std::thread::sleep(Duration::from_millis(300)));
    assert!(message.contains("within 50 ms"), "{message}");
}

#[test]
fn what_is_no_model_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ExternalSpec {
        command: Some(vec!["true".to_owned()]),
        ..spec(folder.path().join("none"), 100)
    };
    let error = External::open(&missing, PORTS, None).unwrap_err();
    assert!(matches!(error, ExternalError::Socket { .. }), "{error}");

    let program = ExternalSpec {
        socket: None,
        command: Some(vec!["/nonexistent/model".to_owned()]),
        ..spec(PathBuf::new(), 100)
    };
    let error = External::open(&program, PORTS, None).unwrap_err();
    assert!(matches!(error, ExternalError::Program { .. }), "{error}");

    for (answer, expected) in [
        (
            &FromModel::Goodbye.encode(Version::One)[..],
            "before its hello",
        ),
        (b"\x81\x04\x03\0RFDM\0\0\0\0\0\0\0\0", "version 3"),
        (b"\x81\x04\x02\0RFDM\x02\0\0\0\0\0\0\0", "no eventfd"),
        (b"\x81\x03\x01\0RFDM\0\0\0\0\0\0\0\0", "widest access"),
        (b"HTTP/1.1 400 Bad", "a message of kind 0x48"),
    ] {
        let answer = answer.to_vec();
        let (_folder, path, thread) = model(1, move |stream| {
            receive(stream);
            stream.write_all(&answer).unwrap();
        });
        let error = External::open(&spec(path, 100), PORTS, None).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        thread.join().unwrap();
    }
}

#[test]
fn model_may_come_back_after_a_pause() {
    let (_folder, path, thread) = model(2, |stream| {
        let hello = greet(stream);
        // One answer, then it is gone.
        if let Some(message) = receive(stream) {
            send(stream, done(&message, 7));
        }
        hello
    });
    let lines = InterruptLines::default();
    let mut device = External::open(&spec(path, 5000), PORTS, lines.line(1)).unwrap();
    assert_eq!(device.read(0, Width::Byte), 7);
    assert_eq!(device.read(0, Width::Byte), u32::MAX);
    let start = Instant::now();
    while device.read(0, Width::Byte) != 7 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(device);
    let hellos = thread.join().unwrap();
    let flags: Vec<u8> = hellos.iter().map(|hello| hello[14]).collect();
    assert_eq!(flags, [0b011, 0b111]);
}
