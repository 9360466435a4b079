//! Accesses by shared memory, and doorbells for who sleeps.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::protocol::{PAGE_BYTES, page};
use super::*;

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
