//! Models on threads, honest and not.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tempfile::TempDir;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::protocol::{FromModel, MESSAGE_BYTES, PAGE_BYTES, Signal, page};
use super::*;
use crate::machine::InterruptLines;

const HELLO: FromModel = FromModel::Hello {
    width: Width::Dword,
    takes_memory: false,
};

fn spec(socket: PathBuf, millis: u64) -> ExternalSpec {
    ExternalSpec {
        socket: Some(socket),
        command: None,
        answer_limit: Duration::from_millis(millis),
        irq: None,
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
    let _ = stream.write_all(&message.encode()).is_ok();
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
    FromModel::Done { number, value }
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
    let mut device = External::open(&spec(path, 5000), 0x300, 8, lines.line(5)).unwrap();
    assert_eq!(device.width_max(), Width::Dword);
    assert!(!lines.is_wanted());
    device.write(1, Width::Byte, 0x55);
    assert!(lines.is_wanted());
    assert_eq!(device.read(2, Width::Dword), 0x1234_5678);
    assert_eq!(device.flush(), Ok(()));
    drop(device);
    let ended = thread.join().unwrap();
    let (hello, kinds) = &ended[0];
    assert_eq!(*hello, *b"\x01\0\x01\0RFDM\x08\0\0\0\x00\x03\x03\x00");
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
    let device = External::open(&spec(path, 5000), 0x300, 8, lines.line(5)).unwrap();
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
    let mut device = External::open(&spec(path, millis), 0x300, 8, None).unwrap();
    let start = Instant::now();
    assert_eq!(device.read(0, Width::Dword), u32::MAX);
    device.write(0, Width::Byte, 1);
    assert_eq!(device.read(0, Width::Dword), u32::MAX);
    assert!(start.elapsed() < Duration::from_secs(10), "it hangs");
    let message = device.flush().unwrap_err().message;
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
        (&HELLO.encode()[..], "a second hello"),
        (
            &FromModel::Done {
                number: 0xFFFF,
                value: 0,
            }
            .encode()[..],
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
        let flood = FromModel::Signal(Signal::Pulse).encode().repeat(1000);
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
    let error = External::open(&missing, 0, 8, None).unwrap_err();
    assert!(matches!(error, ExternalError::Socket { .. }), "{error}");

    let program = ExternalSpec {
        socket: None,
        command: Some(vec!["/nonexistent/model".to_owned()]),
        ..spec(PathBuf::new(), 100)
    };
    let error = External::open(&program, 0, 8, None).unwrap_err();
    assert!(matches!(error, ExternalError::Program { .. }), "{error}");

    for (answer, expected) in [
        (FromModel::Goodbye.encode(), "before its hello"),
        (*b"\x81\x04\x02\0RFDM\0\0\0\0\0\0\0\0", "version 2"),
        (*b"\x81\x03\x01\0RFDM\0\0\0\0\0\0\0\0", "widest access"),
        (*b"HTTP/1.1 400 Bad", "a message of kind 0x48"),
    ] {
        let (_folder, path, thread) = model(1, move |stream| {
            receive(stream);
            stream.write_all(&answer).unwrap();
        });
        let error = External::open(&spec(path, 100), 0, 8, None).unwrap_err();
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
    let mut device = External::open(&spec(path, 5000), 0x300, 8, lines.line(1)).unwrap();
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

/// The model's side of the shared memory.
struct TheirPage(MmapRegion);

impl TheirPage {
    /// Takes the hello with its descriptor, asks for accesses by memory, takes the reset.
    fn greet(stream: &mut UnixStream) -> Self {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&*stream, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let file = File::from(descriptor.unwrap());
        let region = MmapRegion::from_file(FileOffset::new(file, 0), PAGE_BYTES).unwrap();
        send(
            stream,
            FromModel::Hello {
                width: Width::Word,
                takes_memory: true,
            },
        );
        assert_eq!(receive(stream).unwrap()[0], 4);
        Self(region)
    }

    fn load(&self, offset: usize) -> u32 {
        let words = self.0.as_volatile_slice();
        words.load(offset, Ordering::SeqCst).unwrap()
    }

    fn store(&self, offset: usize, value: u32) {
        let words = self.0.as_volatile_slice();
        words.store(value, offset, Ordering::SeqCst).unwrap();
    }

    /// Answers an access with its own words, and rings if that is wanted.
    fn answer(&self, stream: &mut UnixStream) {
        let number = self.load(page::REQUEST_NUMBER);
        if number == self.load(page::ANSWER_NUMBER) {
            return;
        }
        let value = self.load(page::REQUEST) ^ self.load(page::REQUEST_VALUE);
        send(stream, FromModel::Signal(Signal::Assert));
        self.store(page::ANSWER_VALUE, value);
        self.store(page::ANSWER_NUMBER, number);
        if self.load(page::RINGFENCE_POLLS) == 0 {
            send(stream, FromModel::Doorbell);
        }
    }
}

#[test]
fn accesses_go_by_memory_with_doorbells_for_who_sleeps() {
    for is_polling in [false, true] {
        let (_folder, path, thread) = model(1, move |stream| {
            let page = TheirPage::greet(stream);
            page.store(page::MODEL_POLLS, u32::from(is_polling));
            let mut bells = 0;
            loop {
                page.answer(stream);
                stream.set_nonblocking(is_polling).unwrap();
                let message = receive(stream);
                stream.set_nonblocking(false).unwrap();
                match message {
                    Some(message) if message[0] == 5 => bells += 1,
                    // Goodbye.
                    Some(_) => return bells,
                    None if is_polling => std::thread::yield_now(),
                    None => return bells,
                }
            }
        });
        let lines = InterruptLines::default();
        let mut device = External::open(&spec(path, 10_000), 0x300, 8, lines.line(5)).unwrap();
        assert_eq!(device.width_max(), Width::Word);
        // The first accesses of a model that polls may come before it has said so.
        assert_eq!(device.read(6, Width::Word), 0x0006_0202);
        assert!(lines.is_wanted(), "the line before the answer");
        for offset in 0..20 {
            device.write(offset % 8, Width::Byte, 0xFF);
            assert_eq!(device.read(7, Width::Byte), 0x0007_0102);
        }
        drop(device);
        let bells = thread.join().unwrap()[0];
        assert!(if is_polling { bells <= 1 } else { bells == 41 }, "{bells}");
    }
}

#[test]
fn memory_without_an_answer_is_waited_for_once() {
    let (_folder, path, thread) = model(1, |stream| {
        let page = TheirPage::greet(stream);
        page.store(page::MODEL_POLLS, 1);
        // Answers with wrong numbers, and bells, are none.
        for number in 5..50 {
            page.store(page::ANSWER_NUMBER, number);
            send(stream, FromModel::Doorbell);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let mut device = External::open(&spec(path, 30), 0x300, 8, None).unwrap();
    assert_eq!(device.read(0, Width::Byte), u32::MAX);
    let message = device.flush().unwrap_err().message;
    assert!(message.contains("within 30 ms"), "{message}");
    drop(device);
    thread.join().unwrap();
}
