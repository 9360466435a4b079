//! The channel: requests are carried out on the clients' own memory, and on nobody else's.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use integration_tests::codes::{echo, status};
use integration_tests::{Target, bytes, fields, machine_tests, patience};
use ringfence_client::{Notify, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vmm::session::driver::{RunningDriver, RunningMachine};

use super::channel::Served;

machine_tests!(
    driver_writes_to_the_clients_own_pages,
    transfers_larger_than_guest_memory_need_no_copy,
    user_addresses_lead_to_the_callers_own_memory,
    what_a_driver_reaches_by_user_addresses_is_not_copied,
    memory_that_is_rewritten_meanwhile_harms_nobody,
    chains_in_many_pieces_are_carried_out,
    memory_of_a_killed_client_stays_until_its_request_is_done,
    clients_come_and_go,
    more_clients_than_places_are_served,
);

fn driver_writes_to_the_clients_own_pages(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let buffer = client.buffer(20_000).unwrap();
    buffer.write(0, &[0x77; 20_000]).unwrap();
    let input = bytes(9000);
    // It begins and ends inside of pages.
    let part = buffer.part(4000, 9000).unwrap();
    let request = Request::ioctl_to(handle.0, echo::OUT_DIRECT, &input, part);

    let done = client.call(&request).unwrap();

    assert_eq!((done.status, done.information), (status::SUCCESS, 9000));
    assert!(done.output.is_empty(), "it is in the buffer");
    let mut seen = vec![0; 20_000];
    buffer.read(0, &mut seen).unwrap();
    assert!(seen[..4000].iter().all(|&byte| byte == 0x77));
    assert!(seen[4000..13_000] == echo::coded(&input, 0x5A));
    assert!(seen[13_000..].iter().all(|&byte| byte == 0x77));

    // A device of DO_DIRECT_IO, both ways.
    let direct = client.open(r"\\.\echo_direct").unwrap();
    let data = bytes(4096);
    buffer.write(100, &data).unwrap();
    let from = buffer.part(100, 4096).unwrap();
    let written = client
        .call(&Request::write_from(direct.0, from, 0))
        .unwrap();
    assert_eq!((written.status, written.information), (0, 4096));
    let to = buffer.part(8192, 4096).unwrap();
    let read = client.call(&Request::read_to(direct.0, to, 0)).unwrap();
    assert_eq!((read.status, read.information), (0, 4096));
    buffer.read(8192, &mut seen[..4096]).unwrap();
    assert!(seen[..4096] == echo::coded(&data, 0x22));
}

fn transfers_larger_than_guest_memory_need_no_copy(target: Target) {
    const BYTES: u32 = 12 << 20;
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    // The guest has 16 MiB in all, 1.5 of them for buffers.
    let buffer = client.buffer(BYTES).unwrap();
    for fill in [0x5A_u32, 0x17] {
        let part = buffer.part(0, BYTES).unwrap();
        let input = fill.to_le_bytes();
        let request = Request::ioctl_to(handle.0, echo::FILL, &input, part);
        let done = client.call(&request).unwrap();
        assert_eq!(
            (done.status, done.information),
            (status::SUCCESS, u64::from(BYTES))
        );
        let mut seen = vec![0; BYTES as usize];
        buffer.read(0, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == fill.to_le_bytes()[0]));
    }
}

fn user_addresses_lead_to_the_callers_own_memory(target: Target) {
    let served = Served::start(target, "echo", "");
    let clients = [served.connect(), served.connect(), served.connect()];
    let handles = clients
        .each_ref()
        .map(|client| client.open(r"\Device\echo_neither").unwrap());
    for round in 0..12_usize {
        let which = round * 2 % 3;
        let input: Vec<u8> = bytes(3000 + round * 700)
            .iter()
            .map(|byte| byte ^ u8::try_from(which).unwrap())
            .collect();
        let count = u32::try_from(input.len()).unwrap();
        let done = clients[which]
            .ioctl(handles[which], echo::NEITHER, &input, count)
            .unwrap();
        assert_eq!(done.status, status::SUCCESS);
        assert!(done.output == echo::coded(&input, 0xC3), "round {round}");
        // A read without DO_ flags writes to the address itself.
        if input.len() <= 4096 {
            let written = clients[which].write(handles[which], &input, 0).unwrap();
            assert_eq!(written.status, status::SUCCESS);
            let read = clients[which].read(handles[which], count, 0).unwrap();
            assert!(read.output == echo::coded(&input, 0x33), "round {round}");
        }
    }
}

fn what_a_driver_reaches_by_user_addresses_is_not_copied(target: Target) {
    // More than the VMM would copy for one client: two thirds of 1.5 MiB.
    const BYTES: u32 = 1_200_000;
    let served = Served::start(target, "echo", "");
    let clients = [served.connect(), served.connect()];
    for round in 0..6_u8 {
        let client = &clients[usize::from(round % 2)];
        let handle = client.open(r"\\.\echo").unwrap();
        let input = vec![round; 5000];
        let done = client.ioctl(handle, echo::NEITHER, &input, BYTES).unwrap();
        assert_eq!((done.status, done.information), (status::SUCCESS, 5000));
        assert!(
            done.output[..5000] == echo::coded(&input, 0xC3),
            "round {round}"
        );
    }
}

/// A client that writes its own chains.
struct Raw {
    memory: MmapRegion,
    _socket: UnixStream,
    kick: OwnedFd,
    _call: OwnedFd,
    available: u16,
    used: u16,
}

const SIZE: u16 = 64;
/// Offsets for 64 descriptors (docs/channel.md).
const AVAILABLE: usize = 64 * 16;
const USED: usize = (AVAILABLE + 4 + 2 * 64 + 2).next_multiple_of(64);
const DATA: usize = 4096;

impl Raw {
    fn connect(served: &Served) -> Self {
        let mut socket = UnixStream::connect(&served.path).unwrap();
        let mut hello = b"\0RFchan\n".to_vec();
        for number in [1, 1, u32::from(SIZE), 0] {
            hello.extend_from_slice(&number.to_le_bytes());
        }
        hello.extend_from_slice(&(1_u64 << 20).to_le_bytes());
        socket.write_all(&hello).unwrap();
        let mut welcome = [0; 80];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut welcome)],
            &mut ancillary,
            RecvFlags::WAITALL,
        )
        .unwrap();
        assert_eq!(welcome[12..16], [0; 4], "it is welcome");
        assert_eq!(welcome[48..56], (USED as u64).to_le_bytes());
        assert_eq!(welcome[56..64], (DATA as u64).to_le_bytes());
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let [memory, kick, call]: [OwnedFd; 3] = descriptors.try_into().unwrap();
        let memory =
            MmapRegion::from_file(FileOffset::new(memory.into(), 0), DATA + (1 << 20)).unwrap();
        Self {
            memory,
            _socket: socket,
            kick,
            _call: call,
            available: 0,
            used: 0,
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        let memory = self.memory.as_volatile_slice();
        memory.write_slice(from, at).unwrap();
    }

    fn read(&self, at: usize, count: usize) -> Vec<u8> {
        let mut into = vec![0; count];
        let memory = self.memory.as_volatile_slice();
        memory.read_slice(&mut into, at).unwrap();
        into
    }

    fn descriptor(&self, index: u16, address: usize, length: usize, flags: u16, next: u16) {
        let mut bytes = (address as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        self.write(usize::from(index) * 16, &bytes);
    }

    fn header(opcode: u16, handle: u64, code: u32, input: usize, output: usize) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[0..2].copy_from_slice(&opcode.to_le_bytes());
        header[8..16].copy_from_slice(&u64::from(code).to_le_bytes());
        header[16..24].copy_from_slice(&handle.to_le_bytes());
        header[24..28].copy_from_slice(&code.to_le_bytes());
        header[28..32].copy_from_slice(&u32::try_from(input).unwrap().to_le_bytes());
        header[32..36].copy_from_slice(&u32::try_from(output).unwrap().to_le_bytes());
        header
    }

    fn publish(&mut self, head: u16) {
        let entry = AVAILABLE + 4 + usize::from(self.available % SIZE) * 2;
        self.write(entry, &head.to_le_bytes());
        self.available += 1;
        self.write(AVAILABLE + 2, &self.available.to_le_bytes());
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits for the next chain that is given back: its head and bytes.
    fn wait(&mut self) -> (u32, u32) {
        let began = Instant::now();
        while self.read(USED + 2, 2) == self.used.to_le_bytes() {
            assert!(began.elapsed() < patience(), "nothing is given back");
            std::thread::yield_now();
        }
        let element = self.read(USED + 4 + usize::from(self.used % SIZE) * 8, 8);
        self.used += 1;
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    fn status(&self, result: usize) -> u32 {
        u32::from_le_bytes(self.read(result, 4).try_into().unwrap())
    }

    /// A request in two descriptors from `head` on, its buffers at `at`; result and output lie 0x1000 behind.
    fn request(&mut self, head: u16, at: usize, header: &[u8], input: &[u8], output: usize) {
        self.write(at, header);
        self.write(at + 64, input);
        self.descriptor(head, at, 64 + input.len(), 1, head + 1);
        self.descriptor(head + 1, at + 0x1000, 32 + output, 2, 0);
        self.publish(head);
    }

    fn open(&mut self, path: &str) -> u64 {
        let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let header = Self::header(1, 0, 0, name.len(), 0);
        self.request(0, DATA, &header, &name, 0);
        assert_eq!(self.wait().0, 0);
        assert_eq!(self.status(DATA + 0x1000), 0);
        u64::from_le_bytes(self.read(DATA + 0x1000 + 16, 8).try_into().unwrap())
    }
}

fn memory_that_is_rewritten_meanwhile_harms_nobody(target: Target) {
    let served = Served::start(target, "echo", "");
    let other = served.connect();
    let theirs = other.open(r"\\.\echo").unwrap();
    let mut raw = Raw::connect(&served);
    let handle = raw.open(r"\\.\echo");
    let at = DATA + 0x4000;
    let header = Raw::header(4, handle, echo::WAIT, 4, 4);
    raw.request(2, at, &header, &[1, 2, 3, 4], 4);
    // A queue's requests are taken in order: when this one is answered, the one before has been taken.
    let header = Raw::header(4, handle, echo::BUFFERED, 1, 1);
    raw.request(4, DATA + 0x8000, &header, &[1], 1);
    assert_eq!(raw.wait(), (4, 33));

    raw.write(at, &[0xFF; 0x800]);
    for index in 2..SIZE {
        raw.descriptor(index, usize::MAX >> 1, 0xFFFF_FFF0, 0xFFFF, 0xFFFF);
    }
    let released = loop {
        let released = other.ioctl(theirs, echo::RELEASE, &[], 4).unwrap().output;
        if released != 0_u32.to_le_bytes() {
            break released;
        }
    };

    assert_eq!(released, 1_u32.to_le_bytes());
    // The answer goes where the chain pointed when it was taken.
    assert_eq!(raw.wait(), (2, 36));
    assert_eq!(raw.status(at + 0x1000), status::SUCCESS);
    assert_eq!(raw.read(at + 0x1000 + 32, 4), [!1, !2, !3, !4]);
    let again = other.ioctl(theirs, echo::BUFFERED, &[1], 1).unwrap();
    assert_eq!(again.status, status::SUCCESS);
}

fn chains_in_many_pieces_are_carried_out(target: Target) {
    let served = Served::start(target, "echo", "");
    let mut raw = Raw::connect(&served);
    let handle = raw.open(r"\\.\echo");
    let input = bytes(2000);
    // METHOD_BUFFERED and METHOD_OUT_DIRECT; output that is in one piece of memory, and output that is not.
    for (code, key, gap) in [
        (echo::BUFFERED, 0xA5, 0),
        (echo::OUT_DIRECT, 0x5A, 0),
        (echo::BUFFERED, 0xA5, 0x800),
        (echo::OUT_DIRECT, 0x5A, 0x800),
    ] {
        let at = DATA + 0x8000;
        raw.write(at, &Raw::header(4, handle, code, 2000, 2000));
        raw.write(at + 0x1000, &input[..700]);
        raw.write(at + 0x3000, &input[700..]);
        raw.descriptor(10, at, 30, 1, 11);
        raw.descriptor(11, at + 30, 34, 1, 12);
        raw.descriptor(12, at + 0x1000, 700, 1, 13);
        raw.descriptor(13, at + 0x3000, 1300, 1, 14);
        raw.descriptor(14, at + 0x5000, 32, 3, 15);
        raw.descriptor(15, at + 0x5000 + 32, 999, 3, 16);
        raw.descriptor(16, at + 0x5000 + 32 + 999 + gap, 1001, 2, 0);
        raw.publish(10);
        assert_eq!(raw.wait(), (10, 2032));
        assert_eq!(raw.status(at + 0x5000), status::SUCCESS);
        let mut output = raw.read(at + 0x5000 + 32, 999);
        output.extend(raw.read(at + 0x5000 + 32 + 999 + gap, 1001));
        assert!(output == echo::coded(&input, key), "{code:#x} {gap:#x}");
    }
}

fn memory_of_a_killed_client_stays_until_its_request_is_done(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let buffer = client.buffer(1 << 20).unwrap();
    for tag in 0..8_u32 {
        let part = buffer.part(u64::from(tag) << 17, 1 << 17).unwrap();
        let input = fields!(150 + 20 * tag, tag);
        let request = Request::ioctl_to(handle.0, echo::PEND_FILL, &input, part);
        client.submit(&request, Notify::Queue).unwrap();
    }
    // The driver has them: their timers run.
    client.ioctl(handle, echo::BUFFERED, &[1], 1).unwrap();

    drop(buffer);
    drop(client);

    // Another one comes, and must not get the first one's place before the driver is done with it.
    let other = served.connect();
    let theirs = other.open(r"\\.\echo").unwrap();
    let own = other.buffer(4 << 20).unwrap();
    own.write(0, &vec![0xEE; 4 << 20]).unwrap();
    let began = Instant::now();
    while began.elapsed().as_millis() < 500 {
        other.ioctl(theirs, echo::BUFFERED, &[1], 1).unwrap();
    }
    let mut seen = vec![0; 4 << 20];
    own.read(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0xEE));
    other.close(theirs).unwrap();
    drop(own);
    drop(other);
    served.wait_for_processes(0);
    let mut process = served.machine.process().unwrap();
    assert_eq!(process.unload().unwrap(), 0, "leaks");
    assert!(served.machine.stopped().is_none());
}

fn clients_come_and_go(target: Target) {
    let served = Served::start(target, "echo", "");
    for round in 0..40_u32 {
        let client = served.connect();
        let handle = client.open(r"\\.\echo").unwrap();
        let buffer = client.buffer(8192).unwrap();
        let input = round.to_le_bytes();
        let part = buffer.part(0, 8192).unwrap();
        let request = Request::ioctl_to(handle.0, echo::FILL, &input, part);
        assert_eq!(client.call(&request).unwrap().status, status::SUCCESS);
        let mut seen = vec![0xFF; 8192];
        buffer.read(0, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == input[0]), "round {round}");
    }
    served.wait_for_processes(0);
}

fn more_clients_than_places_are_served(target: Target) {
    let served = Served::start(target, "echo", "");
    // An i386 guest has room for the memory of three of them; the data of the others is copied.
    let clients: Vec<_> = (0..6)
        .map(|_| ringfence_client::Connection::connect_with(&served.path, 40 << 20).unwrap())
        .collect();
    for (number, client) in (0_u8..).zip(&clients) {
        let handle = client.open(r"\\.\echo").unwrap();
        for (code, key) in [(echo::BUFFERED, 0xA5), (echo::OUT_DIRECT, 0x5A)] {
            let input = vec![number; 500];
            let done = client.ioctl(handle, code, &input, 500).unwrap();
            assert_eq!(done.output, echo::coded(&input, key));
        }
    }
}
