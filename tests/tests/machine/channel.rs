//! The channel: programs that talk to a driver through shared memory.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use integration_tests::codes::{echo, faulty, ioperm, status};
use integration_tests::{Target, bytes, fields, machine_tests, patience};
use ringfence_client::{Completion, Connection, Error, Handle, Notify, Opcode, Request, Width};
use rustix::event::{PollFd, PollFlags};
use vmm::session::Machine;
use vmm::session::driver::{RunningDriver, RunningMachine};
use vmm::session::server::Server;
use vmm_sys_util::eventfd::EventFd;

machine_tests!(
    each_method_moves_exact_bytes,
    reads_return_what_was_written,
    large_transfers_arrive_whole,
    output_buffer_of_in_direct_is_seen,
    thousand_requests_complete_out_of_order,
    more_requests_than_the_quota_wait_for_their_turn,
    cancelled_request_completes_cancelled,
    client_that_goes_away_leaves_nothing,
    clients_are_isolated,
    ports_are_granted_to_one_process,
    processes_of_one_client_are_isolated,
    shared_process_is_used_by_two_connections,
    shared_process_ends_with_its_owner,
    joined_connection_leaves_nothing_when_it_goes,
    borrowed_handle_is_used_until_its_owner_closes_it,
    callbacks_run_and_descriptor_is_ready,
    crash_completes_what_is_pending,
    shutdown_completes_what_is_pending,
    hostile_client_is_disconnected_alone,
    names_of_devices_are_told_and_watched,
);

/// STATUS_DRIVER_PROCESS_TERMINATED.
const TERMINATED: u32 = 0xC000_0450;
/// STATUS_DEVICE_REMOVED.
const REMOVED: u32 = 0xC000_02B6;

/// A machine that serves a socket.
pub(super) struct Served {
    pub(super) machine: Arc<Machine>,
    pub(super) path: PathBuf,
    stop: EventFd,
    server: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    pub(super) fn start(target: Target, sample: &str, policy: &str) -> Self {
        let machine = Arc::new(target.start_sample(sample, policy));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let server = Server::bind(&path).unwrap();
        let stop = EventFd::new(0).unwrap();
        let for_server = stop.try_clone().unwrap();
        let running: Arc<dyn RunningMachine> = Arc::<Machine>::clone(&machine);
        let server = std::thread::spawn(move || server.serve(&running, &for_server).unwrap());
        Self {
            machine,
            path,
            stop,
            server: Some(server),
            _folder: folder,
        }
    }

    pub(super) fn connect(&self) -> Connection {
        Connection::connect(&self.path).unwrap()
    }

    /// Waits until so many processes are left besides those of text clients.
    pub(super) fn wait_for_processes(&self, count: u64) {
        let mut process = self.machine.process().unwrap();
        let began = Instant::now();
        while process.stats().unwrap().processes != count + 1 {
            assert!(began.elapsed() < patience(), "processes are left behind");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        if let Some(server) = self.server.take() {
            assert!(server.join().is_ok(), "the server panicked");
        }
    }
}

fn ends(completion: &Completion) -> (u32, u64, &[u8]) {
    (
        completion.status,
        completion.information,
        &completion.output,
    )
}

fn echo_wait(handle: Handle, tag: &[u8]) -> Request<'_> {
    Request::ioctl(handle.0, echo::WAIT, tag, 4)
}

fn each_method_moves_exact_bytes(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let input = bytes(300);
    for path in [r"\\.\echo", r"\\.\echo_direct", r"\Device\echo_neither"] {
        let handle = client.open(path).unwrap();
        for (code, key) in [
            (echo::BUFFERED, 0xA5),
            (echo::OUT_DIRECT, 0x5A),
            (echo::NEITHER, 0xC3),
        ] {
            let done = client.ioctl(handle, code, &input, 300).unwrap();
            let expected = echo::coded(&input, key);
            assert_eq!(
                ends(&done),
                (status::SUCCESS, 300, &expected[..]),
                "{path} {code:#x}"
            );
        }
        client.close(handle).unwrap();
        let closed = client.ioctl(handle, echo::BUFFERED, &input, 1).unwrap();
        assert_eq!(closed.status, status::INVALID_HANDLE);
    }
    let error = client.open(r"\\.\nothing").unwrap_err();
    assert_eq!(error.status(), status::OBJECT_NAME_NOT_FOUND);
}

fn reads_return_what_was_written(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let data = bytes(4096);
    let written = client.write(handle, &data, 0).unwrap();
    assert_eq!(ends(&written), (status::SUCCESS, 4096, &[][..]));
    let read = client.read(handle, 4096, 0).unwrap();
    assert_eq!(
        ends(&read),
        (status::SUCCESS, 4096, &echo::coded(&data, 0x11)[..])
    );
    // The driver has no routine for it: it is NT that answers.
    let flushed = client.flush(handle).unwrap_err();
    assert_eq!(flushed.status(), status::INVALID_DEVICE_REQUEST);
}

fn large_transfers_arrive_whole(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let input = bytes(200_011);
    let done = client
        .ioctl(handle, echo::BUFFERED, &input, 200_011)
        .unwrap();
    assert!(done.output == echo::coded(&input, 0xA5));
    // More than the guest has for all clients.
    let refused = client
        .ioctl(handle, echo::BUFFERED, &input, 8 << 20)
        .unwrap();
    assert_eq!(refused.status, 0xC000_0044, "STATUS_QUOTA_EXCEEDED");
    let error = client.read(handle, u32::MAX, 0).unwrap_err();
    assert!(matches!(error, Error::NoRoom(_)), "{error}");
}

fn output_buffer_of_in_direct_is_seen(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let (input, output) = (bytes(70), bytes(5000));
    let request = Request {
        output: &output,
        ..Request::ioctl(handle.0, echo::IN_DIRECT, &input, 5000)
    };
    let done = client.call(&request).unwrap();
    assert_eq!((done.status, done.information), (status::SUCCESS, 0));
    let hash = echo::hash(&[&input[..], &output[..]].concat());
    let seen = client.ioctl(handle, echo::QUERY_HASH, &[], 12).unwrap();
    assert_eq!(seen.output, fields!(hash, 70_u32, 5000_u32));
}

fn thousand_requests_complete_out_of_order(target: Target) {
    const COUNT: u32 = 1000;
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let tags: Vec<(u64, u32)> = (0..COUNT)
        .map(|number| {
            let input = number.to_le_bytes();
            let tag = client.submit(&echo_wait(handle, &input), Notify::Wait);
            (tag.unwrap(), number)
        })
        .collect();

    let later = client.ioctl(handle, echo::BUFFERED, &[1], 1).unwrap();
    let released = client.ioctl(handle, echo::RELEASE, &[], 4).unwrap();

    assert_eq!(later.status, status::SUCCESS);
    assert_eq!(released.output, COUNT.to_le_bytes());
    for (tag, number) in tags.into_iter().rev() {
        let done = client.wait(tag).unwrap();
        assert_eq!(
            ends(&done),
            (status::SUCCESS, 4, &(!number).to_le_bytes()[..])
        );
    }
}

fn more_requests_than_the_quota_wait_for_their_turn(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let (sender, done) = channel();
    for number in 0..3000_u32 {
        let sender = sender.clone();
        let input = number.to_le_bytes();
        let request = Request::ioctl(handle.0, echo::BUFFERED, &input, 4);
        let call = move |completion: Completion| sender.send((number, completion)).unwrap();
        client
            .submit(&request, Notify::Call(Box::new(call)))
            .unwrap();
    }
    drop(sender);
    client.start_thread().unwrap();
    let mut count = 0;
    for (number, completion) in done {
        let expected = echo::coded(&number.to_le_bytes(), 0xA5);
        assert_eq!(ends(&completion), (status::SUCCESS, 4, &expected[..]));
        count += 1;
    }
    assert_eq!(count, 3000);
}

fn cancelled_request_completes_cancelled(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let first = client.submit(&echo_wait(handle, &[1, 0, 0, 0]), Notify::Wait);
    let second = client.submit(&echo_wait(handle, &[2, 0, 0, 0]), Notify::Wait);
    let (first, second) = (first.unwrap(), second.unwrap());

    client.cancel(first).unwrap();

    assert_eq!(client.wait(first).unwrap().status, status::CANCELLED);
    let again = client.cancel(first).unwrap_err();
    assert_eq!(again.status(), 0xC000_0225, "STATUS_NOT_FOUND");
    client.ioctl(handle, echo::RELEASE, &[], 4).unwrap();
    assert_eq!(client.wait(second).unwrap().status, status::SUCCESS);
}

fn client_that_goes_away_leaves_nothing(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let other = client.attach().unwrap();
    for number in 0..50_u32 {
        let input = number.to_le_bytes();
        client
            .submit(&echo_wait(handle, &input), Notify::Queue)
            .unwrap();
    }
    assert_ne!(other, client.process());

    drop(client);

    served.wait_for_processes(0);
    let mut process = served.machine.process().unwrap();
    assert_eq!(process.unload().unwrap(), 0, "leaks");
}

fn clients_are_isolated(target: Target) {
    let served = Served::start(target, "echo", "");
    let (one, two) = (served.connect(), served.connect());
    let handle = one.open(r"\\.\echo").unwrap();
    let pending = one
        .submit(&echo_wait(handle, &[1, 0, 0, 0]), Notify::Wait)
        .unwrap();

    let foreign = two.ioctl(handle, echo::BUFFERED, &[1], 1).unwrap();
    let cancelled = two.cancel(pending).unwrap_err();
    let request = Request {
        process: one.process(),
        ..Request::new(Opcode::Attach)
    };
    let process = two.call(&request).unwrap();

    assert_eq!(foreign.status, status::INVALID_HANDLE);
    assert_eq!(cancelled.status(), 0xC000_0225, "STATUS_NOT_FOUND");
    assert_eq!(process.status, status::INVALID_CID);
    drop(two);
    one.cancel(pending).unwrap();
    assert_eq!(one.wait(pending).unwrap().status, status::CANCELLED);
}

fn ports_are_granted_to_one_process(target: Target) {
    let policy = "[[port]]\nrange = \"0x300-0x307\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    let served = Served::start(target, "ioperm", policy);
    let (granted, other) = (served.connect(), served.connect());
    let denied = granted.port_in(0x300, Width::Byte).unwrap_err();
    let handle = granted.open(r"\\.\ioperm").unwrap();
    let grant = granted.ioctl(handle, ioperm::GRANT_ALL, &[], 0).unwrap();

    granted.port_out(0x300, Width::Byte, 0x41).unwrap();
    granted.port_out(0x304, Width::Dword, 0x1234_5678).unwrap();

    assert_eq!(denied.status(), status::PRIVILEGED_INSTRUCTION);
    assert_eq!(grant.status, status::SUCCESS);
    assert_eq!(granted.port_in(0x300, Width::Byte).unwrap(), 0x41);
    assert_eq!(granted.port_in(0x304, Width::Word).unwrap(), 0x5678);
    let others = other.port_in(0x300, Width::Byte).unwrap_err();
    assert_eq!(others.status(), status::PRIVILEGED_INSTRUCTION);
    let request = Request {
        code: 0x1_0000,
        argument: 1,
        ..Request::new(Opcode::PortIn)
    };
    let outside = granted.call(&request).unwrap();
    assert_eq!(outside.status, status::INVALID_PARAMETER);
}

fn processes_of_one_client_are_isolated(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let process = client.attach().unwrap();
    let as_other = Request {
        process,
        ..Request::ioctl(handle.0, echo::BUFFERED, &[1], 1)
    };
    assert_eq!(
        client.call(&as_other).unwrap().status,
        status::INVALID_HANDLE
    );

    client.exit(process).unwrap();

    assert_eq!(client.call(&as_other).unwrap().status, status::INVALID_CID);
    let own = client.exit(client.process()).unwrap_err();
    assert_eq!(own.status(), status::INVALID_CID);
    // A cleanup leaves the number taken, so that a later open does not get it.
    let cleanup = Request {
        handle: handle.0,
        ..Request::new(Opcode::Cleanup)
    };
    assert_eq!(client.call(&cleanup).unwrap().status, status::SUCCESS);
    assert_ne!(client.open(r"\\.\echo").unwrap(), handle);
    client.close(handle).unwrap();
    assert_eq!(
        client.close(handle).unwrap_err().status(),
        status::INVALID_HANDLE
    );
}

/// `in` of a byte, by a process.
fn byte_in(client: &Connection, process: u32, port: u16) -> (u32, u64) {
    let request = Request {
        process,
        code: u32::from(port),
        argument: 1,
        ..Request::new(Opcode::PortIn)
    };
    let done = client.call(&request).unwrap();
    (done.status, done.value)
}

fn shared_process_is_used_by_two_connections(target: Target) {
    let policy = "[[port]]\nrange = \"0x300\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    let served = Served::start(target, "ioperm", policy);
    let (owner, other, stranger) = (served.connect(), served.connect(), served.connect());
    let process = owner.attach().unwrap();
    let token = owner.share(process).unwrap();
    let open = |path: &str| {
        let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let request = Request {
            process,
            input: &name,
            ..Request::new(Opcode::Open)
        };
        owner.call(&request).unwrap()
    };

    assert_eq!(other.join(&token).unwrap(), process);
    assert_eq!(owner.share(process).unwrap(), token);
    let before = byte_in(&other, process, 0x300);
    // ioperm.sys grants the process that opens it every port.
    assert_eq!(open(r"\\.\ioperm").status, status::SUCCESS);
    owner.port_out(0x300, Width::Byte, 0x41).unwrap_err();

    assert_eq!(before.0, status::PRIVILEGED_INSTRUCTION);
    assert_eq!(byte_in(&other, process, 0x300), (status::SUCCESS, 0));
    let own = byte_in(&other, 0, 0x300);
    assert_eq!(own.0, status::PRIVILEGED_INSTRUCTION);
    assert_eq!(byte_in(&stranger, process, 0x300).0, status::INVALID_CID);
    let mut wrong = token;
    wrong[15] ^= 1;
    assert_eq!(
        stranger.join(&wrong).unwrap_err().status(),
        status::INVALID_CID
    );
    // Who has joined may neither hand it on nor end it.
    assert_eq!(
        other.share(process).unwrap_err().status(),
        status::INVALID_CID
    );
    assert_eq!(
        other.exit(process).unwrap_err().status(),
        status::INVALID_CID
    );
    assert_eq!(byte_in(&owner, process, 0x300), (status::SUCCESS, 0));
}

fn shared_process_ends_with_its_owner(target: Target) {
    let served = Served::start(target, "ioperm", "");
    let (owner, other) = (served.connect(), served.connect());
    let process = owner.attach().unwrap();
    let token = owner.share(process).unwrap();
    let of_own = owner.share(0).unwrap();
    other.join(&token).unwrap();
    let owners = other.join(&of_own).unwrap();
    assert_eq!(owners, owner.process());
    assert_eq!(
        byte_in(&other, process, 0x300).0,
        status::PRIVILEGED_INSTRUCTION
    );

    owner.exit(process).unwrap();

    assert_eq!(byte_in(&other, process, 0x300).0, status::INVALID_CID);
    assert_eq!(
        other.join(&token).unwrap_err().status(),
        status::INVALID_CID
    );
    drop(owner);
    let began = Instant::now();
    while byte_in(&other, owners, 0x300).0 != status::INVALID_CID {
        assert!(
            began.elapsed() < patience(),
            "the process outlives its owner"
        );
    }
    assert_eq!(
        other.join(&of_own).unwrap_err().status(),
        status::INVALID_CID
    );
}

fn borrowed_handle_is_used_until_its_owner_closes_it(target: Target) {
    let served = Served::start(target, "echo", "");
    let (owner, other) = (served.connect(), served.connect());
    let handle = owner.open(r"\\.\echo").unwrap();
    let process = owner.process();
    let refused = other.borrow(process, handle).unwrap_err();
    other.join(&owner.share(0).unwrap()).unwrap();
    let none = other.borrow(process, Handle(handle.0 + 400)).unwrap_err();
    // It has numbers of its own: they are not the owner's.
    other.open(r"\\.\echo").unwrap();
    let borrowed = other.borrow(process, handle).unwrap();
    let echo = |connection: &Connection, handle: Handle| {
        let request = Request {
            process,
            ..Request::ioctl(handle.0, echo::BUFFERED, &[1, 2], 2)
        };
        connection.call(&request).unwrap().status
    };

    assert_eq!(refused.status(), status::INVALID_CID);
    assert_eq!(none.status(), status::INVALID_HANDLE);
    assert_ne!(borrowed, handle);
    assert_eq!(echo(&other, borrowed), status::SUCCESS);
    // It is the owner's to close.
    let close = Request {
        process,
        handle: borrowed.0,
        ..Request::new(Opcode::Close)
    };
    assert_eq!(other.call(&close).unwrap().status, status::INVALID_HANDLE);
    assert_eq!(echo(&other, borrowed), status::SUCCESS);
    let second = served.connect();
    second.join(&owner.share(0).unwrap()).unwrap();
    let seconds = second.borrow(process, handle).unwrap();
    drop(second);
    assert_eq!(echo(&owner, handle), status::SUCCESS);
    assert_eq!(echo(&other, seconds), status::INVALID_HANDLE);

    owner.close(handle).unwrap();
    // The guest gives its number to the next file.
    let next = owner.open(r"\\.\echo").unwrap();

    assert_eq!(echo(&other, borrowed), status::INVALID_HANDLE);
    let again = other.borrow(process, handle).unwrap_err();
    assert_eq!(again.status(), status::INVALID_HANDLE);
    let borrowed = other.borrow(process, next).unwrap();
    assert_eq!(echo(&other, borrowed), status::SUCCESS);
}

fn joined_connection_leaves_nothing_when_it_goes(target: Target) {
    let served = Served::start(target, "echo", "");
    let (owner, other) = (served.connect(), served.connect());
    let handle = owner.open(r"\\.\echo").unwrap();
    let process = other.join(&owner.share(0).unwrap()).unwrap();
    let name: Vec<u8> = r"\\.\echo"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let open = Request {
        process,
        input: &name,
        ..Request::new(Opcode::Open)
    };
    let others = other.call(&open).unwrap();
    assert_eq!(others.status, status::SUCCESS);
    let wait = Request {
        process,
        ..echo_wait(Handle(others.value), &[1, 0, 0, 0])
    };
    other.submit(&wait, Notify::Queue).unwrap();
    // It is under way by then.
    other.statistics().unwrap();
    let foreign = owner.ioctl(Handle(others.value + 4), echo::BUFFERED, &[1], 1);
    assert_eq!(foreign.unwrap().status, status::INVALID_HANDLE);

    drop(other);

    served.wait_for_processes(1);
    // The guest has cancelled it by then: it was asked to before the process ended.
    let released = owner.ioctl(handle, echo::RELEASE, &[], 4).unwrap();
    assert_eq!(released.output, 0_u32.to_le_bytes());
    let done = owner.ioctl(handle, echo::BUFFERED, &[1], 1).unwrap();
    assert_eq!(done.status, status::SUCCESS);
    drop(owner);
    served.wait_for_processes(0);
    let mut process = served.machine.process().unwrap();
    assert_eq!(process.unload().unwrap(), 0, "leaks");
}

fn callbacks_run_and_descriptor_is_ready(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let called = Arc::new(Mutex::new(Vec::new()));
    let for_call = Arc::clone(&called);
    let call = move |completion: Completion| for_call.lock().unwrap().push(completion.status);
    let pend = |delay: u32| fields!(delay, 7_u32);
    client
        .submit(
            &Request::ioctl(handle.0, echo::PEND, &pend(1), 4),
            Notify::Call(Box::new(call)),
        )
        .unwrap();
    let tag = client
        .submit(
            &Request::ioctl(handle.0, echo::PEND, &pend(60), 4),
            Notify::Queue,
        )
        .unwrap();

    let began = Instant::now();
    let done = loop {
        if let Some(completion) = client.next_completion().unwrap() {
            break completion;
        }
        assert!(began.elapsed() < patience());
        let mut polled = [PollFd::new(&client, PollFlags::IN)];
        rustix::event::poll(&mut polled, None).unwrap();
    };

    assert_eq!(done.tag, tag);
    assert_eq!(
        ends(&done),
        (status::SUCCESS, 4, &(!7_u32).to_le_bytes()[..])
    );
    assert_eq!(*called.lock().unwrap(), [status::SUCCESS]);
    assert!(client.as_fd().try_clone_to_owned().is_ok());
}

fn crash_completes_what_is_pending(target: Target) {
    let served = Served::start(target, "faulty", "");
    let (one, two) = (served.connect(), served.connect());
    let handle = one.open(r"\\.\faulty").unwrap();
    // Waits for the guest, like any other request that comes when it has died.
    let crash = one.ioctl(handle, faulty::NULL_WRITE, &[], 0);
    let status = crash.map_or_else(|error| error.status(), |completion| completion.status);
    assert_eq!(status, TERMINATED);
    for client in [&one, &two] {
        let after = client.open(r"\\.\faulty").unwrap_err();
        assert!(
            matches!(after.status(), TERMINATED | 0xC000_009D),
            "{after}"
        );
    }
    let refused = Connection::connect(&served.path).unwrap_err();
    assert_eq!(refused.status(), TERMINATED);
}

fn shutdown_completes_what_is_pending(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let tag = client
        .submit(&echo_wait(handle, &[1, 0, 0, 0]), Notify::Wait)
        .unwrap();
    // The request is under way by then.
    client.statistics().unwrap();

    served.machine.shutdown();

    let done = client.wait(tag).unwrap();
    assert_eq!(done.status, REMOVED);
}

fn hostile_client_is_disconnected_alone(target: Target) {
    use std::io::{Read, Write};
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    // Not a hello, a hello of another version, and half a hello.
    let hello = |version: u32| {
        let mut hello = b"\0RFchan\n".to_vec();
        for number in [version, version, 64, 0, 4096, 0] {
            hello.extend_from_slice(&number.to_le_bytes());
        }
        hello
    };
    for bad in [vec![0; 32], hello(9)] {
        let mut socket = std::os::unix::net::UnixStream::connect(&served.path).unwrap();
        socket.write_all(&bad).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 80);
        assert_ne!(answer[12..16], [0; 4], "it is refused");
    }
    let mut half = std::os::unix::net::UnixStream::connect(&served.path).unwrap();
    half.write_all(&hello(1)[..20]).unwrap();
    drop(half);

    let done = client.ioctl(handle, echo::BUFFERED, &[1], 1).unwrap();

    assert_eq!(done.status, status::SUCCESS);
}

fn names(version: Option<u64>) -> Request<'static> {
    Request {
        code: version.map_or(abi::client::QUERY_NAMES, |_| {
            abi::client::QUERY_NAMES_CHANGED
        }),
        argument: version.unwrap_or(0),
        output_bytes: if version.is_none() { 4096 } else { 0 },
        ..Request::new(Opcode::Query)
    }
}

fn lines(completion: &Completion) -> Vec<String> {
    let units: Vec<u16> = completion
        .output
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes(pair.try_into().unwrap()))
        .collect();
    let text = String::from_utf16(&units).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn names_of_devices_are_told_and_watched(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let told = client.call(&names(None)).unwrap();
    assert_eq!(told.status, status::SUCCESS);
    let told_lines = lines(&told);
    // FILE_DEVICE_UNKNOWN; DO_DEVICE_HAS_NAME and how it moves data.
    assert_eq!(
        told_lines,
        [
            "device\t22\t0\t40\t\\Device\\echo_neither",
            "device\t22\t0\t44\t\\Device\\echo",
            "device\t22\t0\t50\t\\Device\\echo_direct",
            "link\t\\??\\echo\t\\Device\\echo",
            "link\t\\??\\echo_direct\t\\Device\\echo_direct",
            "link\t\\??\\echo_neither\t\\Device\\echo_neither",
        ]
    );
    let mut small = names(None);
    small.output_bytes = 10;
    assert_eq!(client.call(&small).unwrap().status, 0xC000_0023);

    let watched = client
        .submit(&names(Some(told.value)), Notify::Wait)
        .unwrap();
    let given_up = client
        .submit(&names(Some(told.value)), Notify::Wait)
        .unwrap();
    client.cancel(given_up).unwrap();
    assert_eq!(client.wait(given_up).unwrap().status, status::CANCELLED);
    let mut process = served.machine.process().unwrap();
    process.unload().unwrap();

    let changed = client.wait(watched).unwrap();
    assert_eq!(changed.status, status::SUCCESS);
    assert!(changed.value > told.value);
    let told = client.call(&names(None)).unwrap();
    assert_eq!(lines(&told), [""; 0]);
    // What was missed is not waited for.
    let missed = client.call(&names(Some(changed.value - 1))).unwrap();
    assert_eq!((missed.status, missed.value), (status::SUCCESS, told.value));
}
