//! The channel: clients with several processes of the guest, and processes that several connections use.

use std::time::Instant;

use integration_tests::codes::{echo, status};
use integration_tests::{Target, machine_tests, patience};
use ringfence_client::{Connection, Handle, Notify, Opcode, Request, Width};
use vmm::session::driver::RunningDriver;

use super::channel::{Served, echo_wait};

machine_tests!(
    processes_of_one_client_are_isolated,
    shared_process_is_used_by_two_connections,
    shared_process_ends_with_its_owner,
    joined_connection_leaves_nothing_when_it_goes,
    borrowed_handle_is_used_until_its_owner_closes_it,
    handle_that_is_borrowed_again_keeps_its_number,
);

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

/// As a program does after each request that was cancelled.
fn handle_that_is_borrowed_again_keeps_its_number(target: Target) {
    let served = Served::start(target, "echo", "");
    let (owner, other) = (served.connect(), served.connect());
    let handles = [(); 2].map(|()| owner.open(r"\\.\echo").unwrap());
    let process = other.join(&owner.share(0).unwrap()).unwrap();
    let borrowed = handles.map(|handle| other.borrow(process, handle).unwrap());
    assert_ne!(borrowed[0], borrowed[1]);

    // More often than a client may have handles.
    for _ in 0..5000 {
        assert_eq!(other.borrow(process, handles[0]).unwrap(), borrowed[0]);
    }

    assert_eq!(other.borrow(process, handles[1]).unwrap(), borrowed[1]);
    owner.close(handles[0]).unwrap();
    let gone = other.borrow(process, handles[0]).unwrap_err();
    assert_eq!(gone.status(), status::INVALID_HANDLE);
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
