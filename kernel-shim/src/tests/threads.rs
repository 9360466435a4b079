//! Threads: switches, many of them, and what a request that blocks does to others.

use super::{CLIENT, opened};
use crate::ke::{event, sched};
use crate::nt::{KEVENT, KTHREAD};
use crate::ps::thread;
use crate::raw::Ptr;
use crate::test_platform::{api, machine};
use abi::channel::Operation;
use std::sync::atomic::{AtomicU64, Ordering};

static RAN: AtomicU64 = AtomicU64::new(0);

fn spawn(routine: extern "win64-unwind" fn(u64) -> u64, context: u64) -> Ptr<KTHREAD> {
    let start = [routine as *const () as u64, context];
    let made = thread::create_system(thread::Work::Routine, start).unwrap();
    thread::start(made);
    made
}

fn new_event() -> Ptr<KEVENT> {
    let memory = crate::ex::pool::allocate(64, 1, 0).cast();
    event::initialize(memory, 1, false);
    memory
}

extern "win64-unwind" fn waits_for(event: u64) -> u64 {
    assert_eq!(api("KeWaitForSingleObject", &[event, 0, 0, 0, 0]), 0);
    RAN.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn a_thousand_threads_wait_and_end() {
    let _machine = machine();
    RAN.store(0, Ordering::Relaxed);
    let event = new_event();
    for _ in 0..1000 {
        spawn(waits_for, event.addr());
    }
    sched::run_ready();
    assert_eq!(RAN.load(Ordering::Relaxed), 0);
    for done in 1..=1000 {
        event::set_state(event, 1);
        sched::run_ready();
        assert_eq!(RAN.load(Ordering::Relaxed), done);
    }
    assert!(thread::by_id(12).is_none(), "they have ended");
    spawn(waits_for, event.addr());
    sched::run_ready();
    event::set_state(event, 1);
    sched::run_ready();
    assert_eq!(
        RAN.load(Ordering::Relaxed),
        1001,
        "a stack serves the next thread"
    );
}

extern "win64-unwind" fn yields(count: u64) -> u64 {
    for _ in 0..count {
        sched::yield_current();
    }
    0
}

#[test]
fn switches_alternate_between_equals() {
    let _machine = machine();
    let before = sched::switches();
    spawn(yields, 1000);
    spawn(yields, 1000);
    sched::run_ready();
    let switches = sched::switches() - before;
    assert!((2000..2010).contains(&switches), "{switches}");
}

static HELD: AtomicU64 = AtomicU64::new(0);

extern "win64-unwind" fn blocking_dispatch(_device: u64, irp: u64) -> u64 {
    waits_for(HELD.load(Ordering::Relaxed));
    super::finish(Ptr::new(irp), crate::nt::NtStatus::SUCCESS, 0)
}

#[test]
fn a_request_that_blocks_does_not_stop_others() {
    let (mut machine, _, handle) = opened();
    let event = new_event();
    HELD.store(event.addr(), Ordering::Relaxed);
    let device = crate::ob::names::resolve("\\Device\\Echo").unwrap().body;
    let driver = Ptr::<crate::nt::DEVICE_OBJECT>::new(device)
        .read()
        .DriverObject;
    let normal = driver.read().MajorFunction[14];
    driver.with(|driver| driver.MajorFunction[14] = blocking_dispatch as *const () as u64);
    let arguments = [handle, super::ECHO, 0, 0, 0, 0];
    let first = machine.send(CLIENT, Operation::DeviceControl, &arguments);
    let second = machine.send(CLIENT, Operation::DeviceControl, &arguments);
    assert!(machine.completion(first).is_none());
    driver.with(|driver| driver.MajorFunction[14] = normal);
    let done = machine.request(CLIENT, Operation::DeviceControl, &arguments);
    assert_eq!(done.status, 0, "another thread of the process serves it");
    event::set_state(event, 1);
    sched::run_ready();
    assert_eq!(machine.completion(first).unwrap().status, 0);
    assert!(machine.completion(second).is_none());
    event::set_state(event, 1);
    sched::run_ready();
    assert_eq!(machine.completion(second).unwrap().status, 0);
}
