//! How a program ends its connection, and what it may have under way until then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};

use integration_tests::codes::{echo, status};
use integration_tests::{Target, machine_tests, patience};
use ringfence_client::{Completion, Connection, Error, Handle, Notify};

use super::channel::{Served, echo_wait};

machine_tests!(
    callbacks_of_pending_requests_are_called_at_the_end,
    connection_ends_in_its_own_callback,
    calls_of_other_threads_end_with_the_connection,
    full_queue_is_said_and_can_be_cancelled,
);

/// STATUS_QUOTA_EXCEEDED.
const QUOTA_EXCEEDED: u32 = 0xC000_0044;
/// STATUS_DEVICE_NOT_CONNECTED.
const NOT_CONNECTED: u32 = 0xC000_009D;

fn connect(served: &Served) -> (Connection, Handle) {
    let client = served.connect();
    let handle = client.open(r"\\.\echo").unwrap();
    (client, handle)
}

fn callbacks_of_pending_requests_are_called_at_the_end(target: Target) {
    let served = Served::start(target, "echo", "");
    for has_thread in [false, true] {
        let (client, handle) = connect(&served);
        let statuses = Arc::new(Mutex::new(Vec::new()));
        for number in 0..20_u32 {
            let statuses = Arc::clone(&statuses);
            let call = move |done: Completion| statuses.lock().unwrap().push(done.status);
            let input = number.to_le_bytes();
            let request = echo_wait(handle, &input);
            let notify = Notify::Call(Box::new(call));
            let _tag = client.submit(&request, notify).unwrap();
        }
        if has_thread {
            client.start_thread().unwrap();
        }

        drop(client);

        // Nobody else has the list any more: each callback is called and gone, and so is the thread.
        let statuses = Arc::into_inner(statuses).unwrap().into_inner().unwrap();
        assert_eq!(statuses, [status::CANCELLED; 20], "{has_thread}");
    }
    served.wait_for_processes(0);
}

fn connection_ends_in_its_own_callback(target: Target) {
    let served = Served::start(target, "echo", "");
    for has_thread in [false, true] {
        let (client, handle) = connect(&served);
        let client = Arc::new(client);
        let (sender, ended) = channel();
        let pending = Arc::new(AtomicU32::new(0));
        for number in 0..5_u32 {
            let pending = Arc::clone(&pending);
            let call = move |done: Completion| {
                assert_eq!(done.status, status::CANCELLED);
                pending.fetch_add(1, Ordering::Relaxed);
            };
            let input = number.to_le_bytes();
            let request = echo_wait(handle, &input);
            let notify = Notify::Call(Box::new(call));
            let _tag = client.submit(&request, notify).unwrap();
        }
        let for_call = Arc::clone(&client);
        let call = move |_: Completion| {
            for_call.disconnect();
            // The last one, if the thread is the library's.
            drop(for_call);
            sender.send(pending.load(Ordering::Relaxed)).unwrap();
        };
        let request = ringfence_client::Request::ioctl(handle.0, echo::BUFFERED, &[1], 1);
        let notify = Notify::Call(Box::new(call));
        let _tag = client.submit(&request, notify).unwrap();
        if has_thread {
            client.start_thread().unwrap();
            drop(client);
        } else {
            while client.next_completion().is_ok() {}
        }

        assert_eq!(ended.recv_timeout(patience()), Ok(5), "{has_thread}");

        // The callback is gone with its thread.
        let gone = ended.recv_timeout(patience());
        assert_eq!(gone, Err(RecvTimeoutError::Disconnected));
    }
    served.wait_for_processes(0);
}

fn calls_of_other_threads_end_with_the_connection(target: Target) {
    let served = Served::start(target, "echo", "");
    let (client, handle) = connect(&served);
    std::thread::scope(|scope| {
        let wait = |number: u32| client.call(&echo_wait(handle, &number.to_le_bytes()));
        let waiting: Vec<_> = (0..3)
            .map(|number| scope.spawn(move || wait(number)))
            .collect();
        // They are under way, most likely: what comes later ends likewise.
        client.statistics().unwrap();

        client.disconnect();

        for thread in waiting {
            let ended = thread.join().unwrap();
            let status = ended.map_or_else(|error| error.status(), |done| done.status);
            assert!(
                matches!(status, status::CANCELLED | NOT_CONNECTED),
                "{status:#x}"
            );
        }
    });
    assert_eq!(client.statistics().unwrap_err().status(), NOT_CONNECTED);
}

fn full_queue_is_said_and_can_be_cancelled(target: Target) {
    let served = Served::start(target, "echo", "");
    // As many as can be under way, and as much data as there is room for.
    for taken in [0, (16 << 20) - (64 << 10)] {
        let (client, handle) = connect(&served);
        let _buffer = client.buffer(taken).ok();
        let request = echo_wait(handle, &[7, 0, 0, 0]);
        let mut tags = Vec::new();
        let full = loop {
            match client.try_submit(&request, Notify::Wait) {
                Ok(tag) => tags.push(tag),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::Status(QUOTA_EXCEEDED)), "{full}");
        assert_eq!(tags.len() == 1023, taken == 0, "{}", tags.len());

        let tag = tags.pop().unwrap();
        client.cancel(tag).unwrap();

        assert_eq!(client.wait(tag).unwrap().status, status::CANCELLED);
        assert!(client.try_submit(&request, Notify::Wait).is_ok());
    }
}
