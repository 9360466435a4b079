//! A KMDF driver from load to unload: every transfer method, queues, timer, work item, cancellation, registry, clients.

use std::time::Duration;

use integration_tests::codes::{echo::coded, kmdf, status};
use integration_tests::{Client, Target, bytes, fields, machine_tests};
use vmm::session::Machine;
use vmm::session::driver::{IoResult, RunningDriver};
use vmm::session::start;

machine_tests!(
    each_method_moves_exact_bytes,
    empty_buffers_are_refused,
    neither_locks_buffers_of_many_pages,
    reads_return_what_was_written,
    timer_completes_its_request,
    timed_request_is_cancelled_when_time_is_up,
    work_item_completes_its_request,
    waiting_requests_complete_when_another_client_releases_them,
    purge_cancels_and_start_accepts_again,
    waiting_request_is_cancelled_when_time_is_up,
    files_are_counted_and_names_refused,
    parameters_come_from_the_registry,
    unload_leaves_nothing,
);

const DEVICE: &str = r"\\.\kmdf";
/// STATUS_WDF_BUSY.
const WDF_BUSY: u32 = 0xC020_0204;
/// STATUS_OBJECT_TYPE_MISMATCH.
const OBJECT_TYPE_MISMATCH: u32 = 0xC000_0024;
/// Fields of KMDF_QUERY's output.
const OPENED: usize = 0;
const CLEANED: usize = 1;
const CLOSED: usize = 2;
const SUM: usize = 3;
const TIMERS: usize = 4;
const WORK_ITEMS: usize = 5;
const WAITING: usize = 6;
const OWN_REQUESTS: usize = 7;
const PARAMETER: usize = 8;
const OVERLAPS: usize = 9;

fn start_kmdf(target: Target) -> Machine {
    target.start_sample("kmdf", "")
}

fn ends(result: &IoResult) -> (u32, u64, &[u8]) {
    (result.status.0, result.information, &result.output)
}

fn state(client: &mut Client) -> Vec<u32> {
    let output = client.control(kmdf::QUERY, &[], 40);
    let words = output.chunks_exact(4);
    words
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// Until so many requests wait.
fn wait_for_waiting(client: &mut Client, count: u32) {
    while state(client)[WAITING] != count {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn each_method_moves_exact_bytes(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);
    let input = bytes(300);

    for (code, key) in [
        (kmdf::BUFFERED, 0xA5),
        (kmdf::OUT_DIRECT, 0x5A),
        (kmdf::NEITHER, 0xC3),
    ] {
        for (from, to) in [(300, 300), (7, 300), (300, 7)] {
            let result = client.ioctl(code, &input[..from], u32::try_from(to).unwrap());
            let expected = coded(&input[..from.min(to)], key);
            let count = expected.len() as u64;
            assert_eq!(
                ends(&result),
                (status::SUCCESS, count, &expected[..]),
                "{code:#x}: {from} bytes in, {to} out"
            );
        }
    }
    let result = client.ioctl(kmdf::IN_DIRECT, &input, 100);
    assert_eq!(ends(&result), (status::SUCCESS, 0, &[][..]));
    // The second buffer is the client's own: zeroes.
    let sum: u32 = input.iter().map(|&byte| u32::from(byte)).sum();
    assert_eq!(state(&mut client)[SUM], sum);
}

fn empty_buffers_are_refused(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);

    for code in [
        kmdf::BUFFERED,
        kmdf::IN_DIRECT,
        kmdf::OUT_DIRECT,
        kmdf::NEITHER,
    ] {
        for (input, output) in [(0, 8), (8, 0), (0, 0)] {
            let result = client.ioctl(code, &bytes(input), output);
            assert_eq!(
                ends(&result),
                (status::BUFFER_TOO_SMALL, 0, &[][..]),
                "{code:#x}, {input} bytes in, {output} out"
            );
        }
    }
    let unknown = client.ioctl(0x0022_2FFC, &[1; 4], 4);
    assert_eq!(unknown.status.0, status::INVALID_DEVICE_REQUEST);
}

fn neither_locks_buffers_of_many_pages(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);

    let input = bytes(20_011);
    let result = client.ioctl(kmdf::NEITHER, &input, 20_011);

    assert_eq!(
        ends(&result),
        (status::SUCCESS, 20_011, &coded(&input, 0xC3)[..])
    );
}

fn reads_return_what_was_written(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);
    let Client { process, handle } = &mut client;

    let early = process.read(*handle, 10, None).unwrap();
    let written = process.write(*handle, &bytes(4096), None).unwrap();
    let read = process.read(*handle, 5000, None).unwrap();
    let part = process.read(*handle, 9, None).unwrap();
    let large = process.write(*handle, &bytes(4097), None).unwrap();
    // Requests of no bytes end before the queue.
    let nothing = process.read(*handle, 0, None).unwrap();

    assert_eq!(early.status.0, status::END_OF_FILE);
    assert_eq!((written.status.0, written.information), (0, 4096));
    assert_eq!(read.output, coded(&bytes(4096), kmdf::READ_KEY));
    assert_eq!(part.output, coded(&bytes(9), kmdf::READ_KEY));
    assert_eq!(large.status.0, status::INVALID_BUFFER_SIZE);
    assert_eq!((nothing.status.0, nothing.information), (0, 0));
    assert_eq!(state(&mut client)[OVERLAPS], 0);
}

fn timer_completes_its_request(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);

    let result = client.ioctl(kmdf::TIMER, &fields!(40_u32), 4);

    assert_eq!(ends(&result), (status::SUCCESS, 4, &fields!(!40_u32)[..]));
    assert!(result.elapsed >= Duration::from_millis(40));
    assert_eq!(state(&mut client)[TIMERS], 1);
}

fn timed_request_is_cancelled_when_time_is_up(target: Target) {
    let (machine, _) = target.start_impatient("kmdf");
    let mut client = Client::open(&machine, DEVICE);

    let result = client.ioctl(kmdf::TIMER, &fields!(3_600_000_u32), 4);

    assert_eq!(ends(&result), (status::CANCELLED, 0, &[][..]));
    // The timer is stopped and free again.
    let again = client.ioctl(kmdf::TIMER, &fields!(1_u32), 4);
    assert_eq!(ends(&again), (status::SUCCESS, 4, &fields!(!1_u32)[..]));
    assert_eq!(state(&mut client)[TIMERS], 1);
}

fn work_item_completes_its_request(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);

    for number in [1_u32, 0xFFFF_0000] {
        let result = client.ioctl(kmdf::WORK, &fields!(number), 4);
        assert_eq!(ends(&result), (status::SUCCESS, 4, &fields!(!number)[..]));
    }
    assert_eq!(state(&mut client)[WORK_ITEMS], 2);
}

fn waiting_requests_complete_when_another_client_releases_them(target: Target) {
    let machine = start_kmdf(target);
    let mut releasing = Client::open(&machine, DEVICE);
    let waiters = [0xABC_u32, 0xDEF].map(|number| {
        let mut client = Client::open(&machine, DEVICE);
        std::thread::spawn(move || {
            let result = client.ioctl(kmdf::WAIT, &fields!(number), 4);
            assert_eq!(ends(&result), (status::SUCCESS, 4, &fields!(!number)[..]));
        })
    });
    wait_for_waiting(&mut releasing, 2);

    assert_eq!(releasing.control_u32(kmdf::RELEASE, &[]), 2);

    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_eq!(state(&mut releasing)[WAITING], 0);
}

fn purge_cancels_and_start_accepts_again(target: Target) {
    let machine = start_kmdf(target);
    let mut client = Client::open(&machine, DEVICE);
    let mut waiting = Client::open(&machine, DEVICE);
    let waiter = std::thread::spawn(move || {
        let result = waiting.ioctl(kmdf::WAIT, &fields!(1_u32), 4);
        (waiting, result)
    });
    wait_for_waiting(&mut client, 1);

    client.control(kmdf::QUEUE, &fields!(0_u32), 0);
    let (mut waiting, cancelled) = waiter.join().unwrap();
    let refused = waiting.ioctl(kmdf::WAIT, &fields!(2_u32), 4);
    client.control(kmdf::QUEUE, &fields!(1_u32), 0);
    let waiter = std::thread::spawn(move || waiting.ioctl(kmdf::WAIT, &fields!(3_u32), 4));
    wait_for_waiting(&mut client, 1);
    client.control_u32(kmdf::RELEASE, &[]);

    assert_eq!(ends(&cancelled), (status::CANCELLED, 0, &[][..]));
    assert_eq!(ends(&refused), (WDF_BUSY, 0, &[][..]));
    assert_eq!(waiter.join().unwrap().output, fields!(!3_u32));
}

fn waiting_request_is_cancelled_when_time_is_up(target: Target) {
    let (machine, _) = target.start_impatient("kmdf");
    let mut client = Client::open(&machine, DEVICE);

    let result = client.ioctl(kmdf::WAIT, &fields!(1_u32), 4);

    assert_eq!(ends(&result), (status::CANCELLED, 0, &[][..]));
    assert_eq!(state(&mut client)[WAITING], 0);
    assert_eq!(client.control_u32(kmdf::RELEASE, &[]), 0);
}

fn files_are_counted_and_names_refused(target: Target) {
    let machine = start_kmdf(target);
    let mut first = Client::open(&machine, DEVICE);
    first.control(kmdf::BUFFERED, &[1], 1);
    let mut second = Client::open(&machine, DEVICE);

    let refused = first.process.open(r"\\.\kmdf\name");
    let handle = first.process.open(DEVICE).unwrap();
    first.process.close(handle).unwrap();
    let seen_by_first = state(&mut first);
    let seen_by_second = state(&mut second);

    let refused = integration_tests::status_of(refused).0;
    assert_eq!(refused, status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(seen_by_first[OPENED], 3);
    assert_eq!(seen_by_first[CLEANED], 1);
    assert_eq!(seen_by_first[CLOSED], 1);
    assert_eq!(seen_by_first[OWN_REQUESTS], 2);
    assert_eq!(seen_by_second[OWN_REQUESTS], 1);
}

fn parameters_come_from_the_registry(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("parameters.toml");
    let text = "[\"Parameters\"]\nValue = 0x12345678\nText = \"some text\"\n";
    std::fs::write(&file, text).unwrap();
    let mut launch = target.launch(&target.sample("kmdf"), "");
    launch.registry = Some(vmm::registry::read(&file, "kmdf").unwrap());
    let machine = start(launch).unwrap();
    let mut client = Client::open(&machine, DEVICE);
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };

    let found = client.ioctl(kmdf::STRING, &wide("Text"), 64);
    let short = client.ioctl(kmdf::STRING, &wide("Text"), 17);
    let missing = client.ioctl(kmdf::STRING, &wide("None"), 64);
    let number = client.ioctl(kmdf::STRING, &wide("Value"), 64);

    assert_eq!(ends(&found), (status::SUCCESS, 18, &wide("some text")[..]));
    assert_eq!(ends(&short), (status::BUFFER_TOO_SMALL, 0, &[][..]));
    assert_eq!(ends(&missing), (status::OBJECT_NAME_NOT_FOUND, 0, &[][..]));
    assert_eq!(ends(&number), (OBJECT_TYPE_MISMATCH, 0, &[][..]));
    assert_eq!(state(&mut client)[PARAMETER], 0x1234_5678);
}

fn unload_leaves_nothing(target: Target) {
    let machine = start_kmdf(target);
    let Client {
        mut process,
        handle,
    } = Client::open(&machine, DEVICE);
    for (code, input, output) in [
        (kmdf::NEITHER, bytes(5000), 5000),
        (kmdf::TIMER, fields!(1_u32).to_vec(), 4),
        (kmdf::WORK, fields!(1_u32).to_vec(), 4),
        (kmdf::QUERY, Vec::new(), 40),
    ] {
        let result = process.ioctl(handle, code, &input, output).unwrap();
        assert_eq!(result.status.0, status::SUCCESS, "{code:#x}");
    }
    process.close(handle).unwrap();

    assert_eq!(process.unload().unwrap(), 0);
    assert!(process.open(DEVICE).is_err());
}
