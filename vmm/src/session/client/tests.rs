//! What a hostile client can do to the host's end of its queue.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use abi::client::{
    DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, Hello, MAGIC, Opcode, QueueLayout,
    RequestHeader, ResultHeader, UsedElement,
};
use zerocopy::{FromBytes, IntoBytes};

use super::handshake;
use super::queue::{self, CHAIN_MAX, ChainError, Queue, Violation};
use super::request::{Incoming, Refusal};
use super::status;

/// A queue and the file by which a client reaches its memory.
struct Rig {
    queue: Queue,
    file: File,
    layout: QueueLayout,
    available: u16,
}

impl Rig {
    fn new() -> Self {
        let layout = QueueLayout::new(512, 1 << 20).unwrap();
        let (queue, file) = queue::create(layout).unwrap();
        Self {
            queue,
            file: file.into(),
            layout,
            available: 0,
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn descriptor(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let descriptor = Descriptor {
            address,
            length,
            flags,
            next,
        };
        self.write(self.layout.descriptor(index), descriptor.as_bytes());
    }

    fn publish(&mut self, head: u16) {
        self.write(
            self.layout.available_entry(self.available),
            &head.to_le_bytes(),
        );
        self.available = self.available.wrapping_add(1);
        self.write(self.layout.available_index(), &self.available.to_le_bytes());
    }

    /// A request of two descriptors, with a header.
    fn request(&mut self, header: &RequestHeader) {
        let data = self.layout.data;
        self.write(data, header.as_bytes());
        self.descriptor(0, data, 64, DESCRIPTOR_NEXT, 1);
        self.descriptor(1, data + 4096, 32, DESCRIPTOR_WRITE, 0);
        self.publish(0);
    }

    fn decoded(&mut self, header: &RequestHeader) -> Result<Incoming, Refusal> {
        self.request(header);
        let head = self.queue.take().unwrap().unwrap();
        Incoming::decode(&self.queue, head)
    }
}

fn refused_with(decoded: Result<Incoming, Refusal>) -> u32 {
    match decoded {
        Err(Refusal::Status(_, status)) => status,
        other => panic!("{other:?}"),
    }
}

fn flush() -> RequestHeader {
    RequestHeader {
        opcode: Opcode::Flush as u16,
        ..RequestHeader::default()
    }
}

#[test]
fn whole_request_is_understood_and_answered() {
    let mut rig = Rig::new();
    let incoming = rig.decoded(&flush()).unwrap();
    assert_eq!(incoming.opcode, Opcode::Flush);
    let result = ResultHeader {
        status: 7,
        ..ResultHeader::default()
    };
    assert_eq!(rig.queue.write(&incoming.chain, 0, result.as_bytes()), 32);
    rig.queue.give_back(0, 32).unwrap();
    let mut bytes = [0; 32];
    rig.file
        .read_exact_at(&mut bytes, rig.layout.data + 4096)
        .unwrap();
    assert_eq!(ResultHeader::read_from_bytes(&bytes).unwrap(), result);
    let mut used = [0; 8];
    rig.file
        .read_exact_at(&mut used, rig.layout.used_entry(0))
        .unwrap();
    let used = UsedElement::read_from_bytes(&used).unwrap();
    assert_eq!((used.id, used.length), (0, 32));
    assert_eq!(rig.queue.take(), Ok(None));
}

#[test]
fn memory_cannot_be_made_smaller() {
    let rig = Rig::new();
    assert!(rig.file.set_len(0).is_err());
    assert!(rig.file.set_len(1 << 30).is_err());
    assert!(rig.file.as_raw_fd() >= 0);
}

#[test]
fn available_index_that_runs_ahead_is_a_violation() {
    let mut rig = Rig::new();
    rig.write(rig.layout.available_index(), &513_u16.to_le_bytes());
    assert_eq!(rig.queue.take(), Err(Violation::AvailableIndex(513)));
    rig.write(rig.layout.available_index(), &0xFFFF_u16.to_le_bytes());
    assert_eq!(rig.queue.take(), Err(Violation::AvailableIndex(0xFFFF)));
}

#[test]
fn head_that_does_not_exist_is_a_violation() {
    let mut rig = Rig::new();
    rig.publish(512);
    assert_eq!(rig.queue.take(), Err(Violation::Head(512)));
}

#[test]
fn chain_that_the_vmm_has_cannot_come_again() {
    let mut rig = Rig::new();
    rig.publish(3);
    rig.publish(3);
    assert_eq!(rig.queue.take(), Ok(Some(3)));
    assert_eq!(rig.queue.take(), Err(Violation::Busy(3)));
}

#[test]
fn loops_end() {
    let mut rig = Rig::new();
    let data = rig.layout.data;
    rig.descriptor(0, data, 64, DESCRIPTOR_NEXT, 0);
    assert_eq!(rig.queue.chain(0), Err(ChainError::TooLong));
    rig.descriptor(0, data, 64, DESCRIPTOR_NEXT, 1);
    rig.descriptor(1, data, 64, DESCRIPTOR_NEXT, 0);
    assert_eq!(rig.queue.chain(0), Err(ChainError::TooLong));
    for index in 0..512 {
        rig.descriptor(index, data, 1, DESCRIPTOR_NEXT, index + 1);
    }
    assert_eq!(rig.queue.chain(0), Err(ChainError::TooLong));
    let last = u16::try_from(CHAIN_MAX - 1).unwrap();
    rig.descriptor(last, data, 1, 0, 0);
    assert_eq!(
        rig.queue.chain(0).map(|chain| chain.readable_bytes()),
        Ok(CHAIN_MAX as u64)
    );
    rig.publish(0);
}

#[test]
fn buffers_outside_of_the_memory_are_refused() {
    let rig = Rig::new();
    let end = rig.layout.bytes();
    for (address, length) in [
        (end, 1),
        (end - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, u32::MAX),
        (0, u32::MAX),
    ] {
        rig.descriptor(0, address, length, DESCRIPTOR_WRITE, 0);
        assert_eq!(
            rig.queue.chain(0),
            Err(ChainError::Range),
            "{address:#x} {length:#x}"
        );
    }
    rig.descriptor(0, end - 1, 1, DESCRIPTOR_WRITE, 0);
    assert!(rig.queue.chain(0).is_ok());
}

#[test]
fn unknown_flags_links_and_orders_are_refused() {
    let rig = Rig::new();
    let data = rig.layout.data;
    // Indirect descriptors.
    rig.descriptor(0, data, 64, 4, 0);
    assert_eq!(rig.queue.chain(0), Err(ChainError::Flags));
    rig.descriptor(0, data, 64, DESCRIPTOR_NEXT, 512);
    assert_eq!(rig.queue.chain(0), Err(ChainError::Next));
    rig.descriptor(0, data, 64, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 1);
    rig.descriptor(1, data, 64, 0, 0);
    assert_eq!(rig.queue.chain(0), Err(ChainError::Order));
}

#[test]
fn chain_without_room_for_a_result_is_not_answered() {
    let mut rig = Rig::new();
    let data = rig.layout.data;
    rig.descriptor(0, data, 64, DESCRIPTOR_NEXT, 1);
    rig.descriptor(1, data, 31, DESCRIPTOR_WRITE, 0);
    rig.publish(0);
    let head = rig.queue.take().unwrap().unwrap();
    assert_eq!(
        Incoming::decode(&rig.queue, head),
        Err(Refusal::Unanswerable)
    );
}

#[test]
fn headers_that_contradict_their_chains_are_refused() {
    for change in [
        |header: &mut RequestHeader| header.input_bytes = 1,
        |header: &mut RequestHeader| header.output_bytes = u32::MAX,
        |header: &mut RequestHeader| header.flags = 1,
        |header: &mut RequestHeader| header.reserved = 1,
        |header: &mut RequestHeader| header.reserved2 = [0, 1],
    ] {
        let mut header = flush();
        change(&mut header);
        let mut rig = Rig::new();
        assert_eq!(
            refused_with(rig.decoded(&header)),
            status::INVALID_PARAMETER
        );
    }
    let unknown = RequestHeader {
        opcode: 999,
        ..flush()
    };
    let mut rig = Rig::new();
    assert_eq!(refused_with(rig.decoded(&unknown)), status::NOT_SUPPORTED);
}

#[test]
fn header_in_pieces_is_read_whole_and_a_short_one_refused() {
    let mut rig = Rig::new();
    let data = rig.layout.data;
    rig.write(data, flush().as_bytes());
    for index in 0..63 {
        rig.descriptor(
            index,
            data + u64::from(index),
            1,
            DESCRIPTOR_NEXT,
            index + 1,
        );
    }
    rig.descriptor(63, data + 4096, 32, DESCRIPTOR_WRITE, 0);
    rig.publish(0);
    let head = rig.queue.take().unwrap().unwrap();
    let short = Incoming::decode(&rig.queue, head);
    assert_eq!(refused_with(short), status::INVALID_PARAMETER);
    rig.descriptor(63, data + 63, 1, DESCRIPTOR_NEXT, 64);
    rig.descriptor(64, data + 4096, 32, DESCRIPTOR_WRITE, 0);
    assert!(Incoming::decode(&rig.queue, head).is_ok());
}

#[test]
fn what_was_read_stays_when_the_memory_is_rewritten() {
    let mut rig = Rig::new();
    let incoming = rig.decoded(&flush()).unwrap();
    let data = rig.layout.data;
    rig.write(data, &[0xFF; 64]);
    rig.descriptor(1, 0, u32::MAX, DESCRIPTOR_WRITE | DESCRIPTOR_NEXT, 0);
    assert_eq!(incoming.opcode, Opcode::Flush);
    // The result goes where the chain pointed when it was checked.
    assert_eq!(rig.queue.write(&incoming.chain, 0, &[1; 100]), 32);
}

#[test]
fn client_is_signalled_only_when_its_event_is_passed() {
    let mut rig = Rig::new();
    rig.write(rig.layout.used_event(), &1_u16.to_le_bytes());
    rig.queue.give_back(0, 0).unwrap();
    assert_eq!(rig.queue.is_signal_due(), Ok(false));
    rig.queue.give_back(1, 0).unwrap();
    assert_eq!(rig.queue.is_signal_due(), Ok(true));
    assert_eq!(rig.queue.is_signal_due(), Ok(false));
}

#[test]
fn hellos_that_ask_for_the_impossible_are_refused() {
    let hello = Hello {
        magic: MAGIC,
        version_min: 1,
        version_max: 1,
        queue_size: 64,
        flags: 0,
        data_bytes: 4096,
    };
    assert!(handshake::layout(&hello).is_ok());
    let later = Hello {
        version_min: 2,
        version_max: 9,
        ..hello
    };
    assert_eq!(handshake::layout(&later), Err(status::NOT_SUPPORTED));
    for bad in [
        Hello {
            queue_size: 65,
            ..hello
        },
        Hello {
            data_bytes: u64::MAX,
            ..hello
        },
        Hello { flags: 1, ..hello },
    ] {
        assert_eq!(handshake::layout(&bad), Err(status::INVALID_PARAMETER));
    }
}
