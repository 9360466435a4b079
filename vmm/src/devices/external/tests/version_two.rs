//! Version 2 of the protocol: memory, which version 1 has a little of, and eventfds for interrupts.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::event::EventfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::protocol::{Encoded, LONG_MESSAGE_BYTES};
use super::*;

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
