//! Requests and their data: every transfer method, pending and cancelled requests, several clients.

use std::time::{Duration, Instant};

use integration_tests::codes::{echo, status};
use integration_tests::{Client, Target, bytes, fields, is_lane, machine_tests};
use vmm::session::Machine;
use vmm::session::driver::{IoResult, RunningDriver};

machine_tests!(
    each_method_moves_exact_bytes,
    each_method_takes_zero_lengths,
    in_direct_gives_driver_both_buffers,
    output_ends_at_the_shorter_buffer,
    large_buffers_arrive_whole,
    reads_return_what_was_written,
    read_of_nothing_is_end_of_file,
    write_beyond_the_store_is_refused,
    information_beyond_the_output_is_reported_and_cut,
    warning_has_data_and_error_has_none,
    pending_request_completes_after_its_delay,
    pending_requests_complete_in_order_of_time,
    waiting_request_completes_when_another_client_releases_it,
    waiting_request_is_cancelled_when_time_is_up,
    buffers_of_clients_do_not_leak,
    open_devices_stay_apart,
    unload_leaves_nothing,
);

const DEVICES: [(&str, u8); 3] = [
    (r"\\.\echo", 0x11),
    (r"\\.\echo_direct", 0x22),
    (r"\\.\echo_neither", 0x33),
];
const METHODS: [(u32, u8); 3] = [
    (echo::BUFFERED, 0xA5),
    (echo::OUT_DIRECT, 0x5A),
    (echo::NEITHER, 0xC3),
];

fn start_echo(target: Target) -> Machine {
    target.start_sample("echo", "")
}

fn ends(result: &IoResult) -> (u32, u64, &[u8]) {
    (result.status.0, result.information, &result.output)
}

fn each_method_moves_exact_bytes(target: Target) {
    let machine = start_echo(target);
    let input = bytes(300);

    for (path, _) in DEVICES {
        let mut client = Client::open(&machine, path);
        for (code, key) in METHODS {
            let result = client.ioctl(code, &input, 300);
            assert_eq!(
                ends(&result),
                (status::SUCCESS, 300, &echo::coded(&input, key)[..]),
                "{path} {code:#x}"
            );
        }
    }
}

fn each_method_takes_zero_lengths(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");

    for code in [
        echo::BUFFERED,
        echo::IN_DIRECT,
        echo::OUT_DIRECT,
        echo::NEITHER,
    ] {
        for (input, output) in [(0_u32, 0_u32), (0, 8), (8, 0)] {
            let result = client.ioctl(code, &bytes(input as usize), output);
            assert_eq!(
                ends(&result),
                (status::SUCCESS, 0, &[][..]),
                "{code:#x}, {input} bytes in, {output} out"
            );
            let lengths = client.control(echo::QUERY_HASH, &[], 12);
            assert_eq!(lengths[4..], fields!(input, output), "{code:#x}");
        }
    }
}

fn in_direct_gives_driver_both_buffers(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");
    let input = bytes(70);

    let result = client.ioctl(echo::IN_DIRECT, &input, 5000);

    assert_eq!(ends(&result), (status::SUCCESS, 0, &[][..]));
    // The second buffer is the client's own: zeroes.
    let hash = echo::hash(&[&input[..], &[0; 5000]].concat());
    assert_eq!(
        client.control(echo::QUERY_HASH, &[], 12),
        fields!(hash, 70_u32, 5000_u32)
    );
}

fn output_ends_at_the_shorter_buffer(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");
    let input = bytes(64);

    for (code, key) in METHODS {
        let short = client.ioctl(code, &input, 7);
        let long = client.ioctl(code, &input[..7], 64);
        let expected = echo::coded(&input[..7], key);
        assert_eq!(
            ends(&short),
            (status::SUCCESS, 7, &expected[..]),
            "{code:#x}"
        );
        assert_eq!(
            ends(&long),
            (status::SUCCESS, 7, &expected[..]),
            "{code:#x}"
        );
    }
}

fn large_buffers_arrive_whole(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");
    // More than a page, and not a multiple of one.
    let input = bytes(20_011);

    for (code, key) in METHODS {
        let result = client.ioctl(code, &input, 20_011);
        assert!(
            result.output == echo::coded(&input, key),
            "{code:#x}: {} of {} bytes",
            result.output.len(),
            input.len()
        );
    }
}

fn reads_return_what_was_written(target: Target) {
    let machine = start_echo(target);
    let data = bytes(4096);

    for (path, key) in DEVICES {
        let Client {
            mut process,
            handle,
        } = Client::open(&machine, path);
        let written = process.write(handle, &data, None).unwrap();
        let whole = process.read(handle, 5000, None).unwrap();
        let part = process.read(handle, 9, Some(1000)).unwrap();
        let none = process.read(handle, 0, None).unwrap();

        assert_eq!(ends(&written), (status::SUCCESS, 4096, &[][..]), "{path}");
        let coded = echo::coded(&data, key);
        assert_eq!(ends(&whole), (status::SUCCESS, 4096, &coded[..]), "{path}");
        assert_eq!(ends(&part), (status::SUCCESS, 9, &coded[..9]), "{path}");
        assert_eq!(ends(&none), (status::SUCCESS, 0, &[][..]), "{path}");
    }
}

fn read_of_nothing_is_end_of_file(target: Target) {
    let machine = start_echo(target);

    for (path, _) in DEVICES {
        let Client {
            mut process,
            handle,
        } = Client::open(&machine, path);
        let read = process.read(handle, 16, None).unwrap();
        assert_eq!(ends(&read), (status::END_OF_FILE, 0, &[][..]), "{path}");
        let written = process.write(handle, &[], None).unwrap();
        assert_eq!(ends(&written), (status::SUCCESS, 0, &[][..]), "{path}");
    }
}

fn write_beyond_the_store_is_refused(target: Target) {
    let machine = start_echo(target);
    let Client {
        mut process,
        handle,
    } = Client::open(&machine, r"\\.\echo_direct");

    let written = process.write(handle, &bytes(4097), None).unwrap();

    assert_eq!(written.status.0, status::INVALID_BUFFER_SIZE);
}

fn information_beyond_the_output_is_reported_and_cut(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");
    let complete = fields!(status::SUCCESS, 1000_u32, 0x77_u32);

    let result = client.ioctl(echo::COMPLETE, &complete, 16);
    let nothing = client.ioctl(echo::COMPLETE, &complete, 0);

    assert_eq!(ends(&result), (status::SUCCESS, 1000, &[0x77; 16][..]));
    assert_eq!(ends(&nothing), (status::SUCCESS, 1000, &[][..]));
}

fn warning_has_data_and_error_has_none(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");
    let mut complete = |status: u32| {
        let result = client.ioctl(echo::COMPLETE, &fields!(status, 4_u32, 0x77_u32), 8);
        (result.status.0, result.information, result.output)
    };

    // Success, informational, warning: all bring data.
    for status in [0x0000_0102, 0x4000_0005, status::BUFFER_OVERFLOW] {
        assert_eq!(complete(status), (status, 4, vec![0x77; 4]), "{status:#x}");
    }
    for status in [status::UNSUCCESSFUL, status::INVALID_PARAMETER, 0xE000_0001] {
        let (ended, _, output) = complete(status);
        assert_eq!((ended, output), (status, Vec::new()), "{status:#x}");
    }
}

fn pending_request_completes_after_its_delay(target: Target) {
    let machine = start_echo(target);
    let mut client = Client::open(&machine, r"\\.\echo");

    let result = client.ioctl(echo::PEND, &fields!(60_u32, 0x1234_u32), 4);

    assert_eq!(
        ends(&result),
        (status::SUCCESS, 4, &fields!(!0x1234_u32)[..])
    );
    assert!(
        result.elapsed >= Duration::from_millis(60),
        "{:?}",
        result.elapsed
    );
}

fn pending_requests_complete_in_order_of_time(target: Target) {
    let machine = start_echo(target);

    let clients = [if is_lane() { 3000_u32 } else { 300 }, 20]
        .map(|delay| (delay, Client::open(&machine, r"\\.\echo")));

    let ended: Vec<Instant> = clients
        .map(|(delay, mut client)| {
            std::thread::spawn(move || {
                let result = client.ioctl(echo::PEND, &fields!(delay, delay), 4);
                assert_eq!(result.output, fields!(!delay));
                Instant::now()
            })
        })
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();

    // The second asked later and was answered earlier.
    assert!(ended[1] < ended[0]);
}

fn waiting_request_completes_when_another_client_releases_it(target: Target) {
    let machine = start_echo(target);
    let mut waiting = Client::open(&machine, r"\\.\echo");
    let mut releasing = Client::open(&machine, r"\\.\echo");

    let waiter = std::thread::spawn(move || waiting.ioctl(echo::WAIT, &fields!(0xABC_u32), 4));
    // Until the other's request has got there.
    while releasing.control_u32(echo::RELEASE, &[]) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }

    let result = waiter.join().unwrap();
    assert_eq!(
        ends(&result),
        (status::SUCCESS, 4, &fields!(!0xABC_u32)[..])
    );
}

fn waiting_request_is_cancelled_when_time_is_up(target: Target) {
    let (machine, _) = target.start_impatient("echo");
    let mut client = Client::open(&machine, r"\\.\echo");

    let result = client.ioctl(echo::WAIT, &fields!(1_u32), 4);

    assert_eq!(ends(&result), (status::CANCELLED, 0, &[][..]));
    // The driver has forgotten it, and lives.
    assert_eq!(client.control_u32(echo::RELEASE, &[]), 0);
}

fn buffers_of_clients_do_not_leak(target: Target) {
    let machine = start_echo(target);
    let mut first = Client::open(&machine, r"\\.\echo");
    let mut second = Client::open(&machine, r"\\.\echo");
    first.control(echo::NEITHER, &[0x55; 2000], 2000);

    // Says that it wrote 2000 bytes, and did not.
    let result = second.ioctl(echo::IN_DIRECT, &bytes(1), 2000);

    assert_eq!(ends(&result), (status::SUCCESS, 0, &[][..]));
    let hash = echo::hash(&[&bytes(1)[..], &[0; 2000]].concat());
    let seen = second.control(echo::QUERY_HASH, &[], 12);
    assert_eq!(seen[..4], hash.to_le_bytes());
}

fn open_devices_stay_apart(target: Target) {
    let machine = start_echo(target);
    let mut process = machine.process().unwrap();
    let handles = DEVICES.map(|(path, _)| process.open(path).unwrap());
    for (handle, length) in handles.into_iter().zip(1..) {
        process.write(handle, &bytes(length), None).unwrap();
    }

    process.close(handles[1]).unwrap();

    for (index, length) in [(0, 1), (2, 3)] {
        let read = process.read(handles[index], 10, None).unwrap();
        assert_eq!(read.output, echo::coded(&bytes(length), DEVICES[index].1));
    }
    let closed = process.read(handles[1], 10, None).map_or_else(
        |error| integration_tests::status_of::<()>(Err(error)),
        |read| read.status,
    );
    assert_eq!(closed.0, status::INVALID_HANDLE);
}

fn unload_leaves_nothing(target: Target) {
    let machine = start_echo(target);
    let Client {
        mut process,
        handle,
    } = Client::open(&machine, r"\\.\echo");
    process
        .ioctl(handle, echo::PEND, &fields!(1_u32, 1_u32), 4)
        .unwrap();
    process.close(handle).unwrap();

    assert_eq!(process.unload().unwrap(), 0);
    assert!(process.open(r"\\.\echo").is_err());
}
