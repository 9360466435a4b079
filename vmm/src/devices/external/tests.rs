//! Models on threads, honest and not.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tempfile::TempDir;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::protocol::{
    Encoded, FromModel, LONG_MESSAGE_BYTES, MESSAGE_BYTES, PAGE_BYTES, Signal, Version, page,
};
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
                version: Version::One,
                width: 2,
                takes_page: true,
                has_event: false,
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
        let mut device = External::open(&spec(path, 10_000), PORTS, lines.line(5)).unwrap();
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
    let mut device = External::open(&spec(path, 30), PORTS, None).unwrap();
    assert_eq!(device.read(0, Width::Byte), u32::MAX);
    let message = PortDevice::flush(&mut device).unwrap_err().message;
    assert!(message.contains("within 30 ms"), "{message}");
    drop(device);
    thread.join().unwrap();
}

/// A model of version 2 that does `body` with each message after the reset, until it is false; an eventfd goes with its hello
/// if there is one.
fn second(
    event: Option<OwnedFd>,
    mut body: impl FnMut(&mut UnixStream, [u8; LONG_MESSAGE_BYTES]) -> bool + Send + 'static,
) -> (TempDir, PathBuf, JoinHandle<Vec<[u8; LONG_MESSAGE_BYTES]>>) {
    model(1, move |stream| {
        receive(stream).unwrap();
        let hello = FromModel::Hello {
            version: Version::Two,
            width: 8,
            takes_page: false,
            has_event: event.is_some(),
        };
        let hello: Encoded = hello.encode(Version::Two);
        let descriptors: Vec<_> = event.iter().map(|event| event.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let slices = [IoSlice::new(&hello)];
        rustix::net::sendmsg(&*stream, &slices, &mut ancillary, SendFlags::empty()).unwrap();
        let mut message = [0; LONG_MESSAGE_BYTES];
        stream.read_exact(&mut message).unwrap();
        let range = message;
        stream.read_exact(&mut message).unwrap();
        assert_eq!(message[0], 4, "the reset");
        while stream.read_exact(&mut message).is_ok() && body(stream, message) {}
        range
    })
}

const MEMORY: ModelRange = ModelRange {
    first: 0xFEB0_0000,
    bytes: 1 << 20,
    is_memory: true,
};

#[test]
fn memory_of_a_model_is_accessed_in_aligned_pieces_of_up_to_8_bytes() {
    let mut bytes = vec![0_u8; 1 << 20];
    let (_folder, path, thread) = second(None, move |stream, message| {
        let width = usize::from(message[1]);
        let number = u32::from_le_bytes(message[4..8].try_into().unwrap());
        let at = u64::from_le_bytes(message[8..16].try_into().unwrap());
        let at = usize::try_from(at).unwrap();
        let mut value = [0; 8];
        match message[0] {
            2 => value[..width].copy_from_slice(&bytes[at..at + width]),
            3 => bytes[at..at + width].copy_from_slice(&message[16..16 + width]),
            _ => return false,
        }
        assert!(at.is_multiple_of(width));
        let value = u64::from_le_bytes(value);
        let done = FromModel::Done { number, value }.encode(Version::Two);
        stream.write_all(&done).is_ok()
    });
    let mut device = External::open(&spec(path, 5000), MEMORY, None).unwrap();
    device.store(0xF_FFF8, 8, 0x1122_3344_5566_7788);
    assert_eq!(device.load(0xF_FFF8, 8), 0x1122_3344_5566_7788);
    assert_eq!(device.load(0xF_FFFD, 3), 0x0011_2233);
    device.store(0xF_FFFB, 4, 0xAABB_CCDD);
    assert_eq!(device.load(0xF_FFF8, 8), 0x11AA_BBCC_DD66_7788);
    assert_eq!(MemoryDevice::flush(&mut device), Ok(()));
    drop(device);
    let range = thread.join().unwrap()[0];
    assert_eq!(
        range,
        *b"\x07\0\x01\0\0\0\0\0\0\0\xb0\xfe\0\0\0\0\0\0\x10\0\0\0\0\0"
    );
}

#[test]
fn memory_of_a_model_that_is_gone_reads_ones() {
    let (_folder, path, thread) = second(None, |_, _| false);
    let mut device = External::open(&spec(path, 5000), MEMORY, None).unwrap();
    assert_eq!(device.load(4, 8), u64::MAX);
    device.store(0, 4, 1);
    assert_eq!(device.load(0, 2), 0xFFFF);
    let message = MemoryDevice::flush(&mut device).unwrap_err().message;
    assert!(message.contains("closed the connection"), "{message}");
    thread.join().unwrap();
}

#[test]
fn model_of_version_1_has_memory_up_to_64_kib() {
    let (_folder, path, thread) = model(1, |stream| {
        let hello = greet(stream);
        while let Some(message) = receive(stream) {
            if message[0] == 6 {
                break;
            }
            send(stream, done(&message, 0xABCD_EF01));
        }
        hello
    });
    let mut device = External::open(&spec(path, 5000), MEMORY, None).unwrap();
    assert_eq!(device.load(0xFFFC, 4), 0xABCD_EF01);
    assert_eq!(device.load(0xFFFC, 8), 0xFFFF_FFFF_ABCD_EF01);
    drop(device);
    let hello = thread.join().unwrap()[0];
    assert_eq!(hello[8..], *b"\0\0\x01\0\0\0\x0a\0");
}

#[test]
fn eventfd_of_a_model_interrupts_with_each_write() {
    let event = rustix::event::eventfd(0, EventfdFlags::empty()).unwrap();
    let (_folder, path, thread) = second(Some(event.try_clone().unwrap()), |_, _| false);
    let lines = InterruptLines::default();
    let device = External::open(&spec(path, 5000), PORTS, lines.line(5)).unwrap();
    for round in 0..3 {
        rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
        let start = Instant::now();
        while !lines.is_wanted() {
            assert!(start.elapsed() < Duration::from_secs(10), "round {round}");
            std::thread::sleep(Duration::from_millis(1));
        }
        lines.forget();
    }
    drop(device);
    thread.join().unwrap();
}

#[test]
fn what_is_no_eventfd_is_not_waited_for() {
    let (_folder, path, thread) = model(1, |stream| {
        receive(stream).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        let descriptors = [pipe.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let slices = [IoSlice::new(b"\x81\x04\x02\0RFDM\x02\0\0\0\0\0\0\0")];
        rustix::net::sendmsg(&*stream, &slices, &mut ancillary, SendFlags::empty()).unwrap();
    });
    let error = External::open(&spec(path, 100), PORTS, None).unwrap_err();
    assert!(error.to_string().contains("no eventfd"), "{error}");
    thread.join().unwrap();
}
