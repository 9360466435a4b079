//! The channel: programs that talk to a driver through shared memory.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
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
    busy_client_does_not_starve_another,
    ports_are_granted_to_one_process,
    callbacks_run_and_descriptor_is_ready,
    descriptor_is_ready_whoever_handles_completions,
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

pub(super) fn echo_wait(handle: Handle, tag: &[u8]) -> Request<'_> {
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

fn busy_client_does_not_starve_another(target: Target) {
    const UNDER_WAY: usize = 256;
    let served = Served::start(target, "echo", "");
    let (busy, other) = (served.connect(), served.connect());
    let handles = [&busy, &other].map(|client| client.open(r"\\.\echo").unwrap());
    let is_over = AtomicBool::new(false);
    let (is_full, began) = channel();

    let (of_busy, of_other) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let request = Request::ioctl(handles[0].0, echo::BUFFERED, &[1; 16], 16);
            let mut tags: VecDeque<u64> = (0..UNDER_WAY)
                .map(|_| busy.submit(&request, Notify::Wait).unwrap())
                .collect();
            is_full.send(()).unwrap();
            let mut done = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                tags.push_back(busy.submit(&request, Notify::Wait).unwrap());
                let tag = tags.pop_front().unwrap();
                assert_eq!(busy.wait(tag).unwrap().status, status::SUCCESS);
                done += 1;
            }
            for tag in tags {
                busy.wait(tag).unwrap();
            }
            done
        });
        began.recv().unwrap();
        let mut done = 0_u32;
        let start = Instant::now();
        while done < 50 {
            let answer = other.ioctl(handles[1], echo::BUFFERED, &[2], 1).unwrap();
            assert_eq!(answer.status, status::SUCCESS);
            assert!(start.elapsed() < patience(), "{done} requests were done");
            done += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), done)
    });

    assert_eq!(of_other, 50);
    assert!(of_busy > 0, "the busy one goes on meanwhile");
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

/// Calls that wait take notifications and ask for none when they are over: a program that polls must not miss what comes then.
fn descriptor_is_ready_whoever_handles_completions(target: Target) {
    let served = Served::start(target, "echo", "");
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    let submit = |delay: u32| {
        let pend = fields!(delay, 7_u32);
        let request = Request::ioctl(handle.0, echo::PEND, &pend, 4);
        client.submit(&request, Notify::Queue).unwrap()
    };
    let is_ready = |milliseconds: i64| {
        let timeout = rustix::event::Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        };
        let mut polled = [PollFd::new(&client, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&timeout)).unwrap() == 1
    };
    let enough = i64::try_from(patience().as_millis()).unwrap();
    let fetched = || client.next_completion().unwrap().map(|done| done.tag);

    // Nothing has been fetched yet, and what was called for before has taken the notification that there was.
    let first = submit(30);
    assert!(is_ready(enough), "after a call");
    assert_eq!(fetched(), Some(first));
    assert_eq!(fetched(), None);
    assert!(!is_ready(0));

    // A call comes and goes meanwhile.
    let second = submit(60);
    assert_eq!(fetched(), None);
    client.statistics().unwrap();
    assert!(is_ready(enough), "after a call of the same thread");
    assert_eq!(fetched(), Some(second));
    assert_eq!(fetched(), None);

    // A call of another thread takes it.
    std::thread::scope(|scope| {
        let third = submit(30);
        let waiting = scope.spawn(|| {
            let pend = fields!(1500_u32, 7_u32);
            client.ioctl(handle, echo::PEND, &pend, 4).unwrap()
        });
        let began = Instant::now();
        loop {
            assert!(is_ready(enough), "during a call of another thread");
            match fetched() {
                Some(tag) => break assert_eq!(tag, third),
                // That thread has only been notified.
                None => assert!(began.elapsed() < patience()),
            }
        }
        assert!(!waiting.is_finished(), "the call is over too soon");
        assert_eq!(waiting.join().unwrap().status, status::SUCCESS);
    });
    assert_eq!(fetched(), None);
    assert!(!is_ready(0));
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
