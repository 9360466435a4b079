//! Device timers: a routine for each device that is called once a second at DISPATCH_LEVEL.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::routine;
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::{dpc, timer};
use crate::nt::{DEVICE_OBJECT, KDPC, KTIMER, NtStatus};
use crate::raw::{Global, Ptr, to_word};
use crate::shared;
use abi::trace::Entry;

/// A second in milliseconds and (negative: from now) in 100 ns.
const PERIOD: i32 = 1000;
const DUE: i64 = -10_000_000;

#[derive(Clone, Copy, Debug)]
struct Timer {
    routine: u64,
    context: u64,
    is_started: bool,
}

#[derive(Debug)]
struct Timers {
    by_device: BTreeMap<u64, Timer>,
    /// The KTIMER, with its KDPC behind it; 0 before the first use.
    clock: u64,
}

static TIMERS: Global<Timers> = Global::new(
    "device timers",
    Timers {
        by_device: BTreeMap::new(),
        clock: 0,
    },
);

pub(super) fn initialize() {
    TIMERS.with(|timers| {
        timers.by_device.clear();
        timers.clock = 0;
    });
}

/// The device is deleted.
pub(super) fn forget(device: Ptr<DEVICE_OBJECT>) {
    let is_idle = TIMERS.with(|timers| {
        timers.by_device.remove(&device.addr());
        !timers.by_device.values().any(|timer| timer.is_started)
    });
    if is_idle {
        stop_clock();
    }
}

fn clock() -> Option<Ptr<KTIMER>> {
    let known = TIMERS.with(|timers| timers.clock);
    if known != 0 {
        return Some(Ptr::new(known));
    }
    let bytes = (size_of::<KTIMER>() + size_of::<KDPC>()) as u64;
    let clock = pool::allocate_zeroed(bytes, *b"IoTi")?.cast::<KTIMER>();
    timer::KeInitializeTimerEx(clock, 0);
    let routine = Ptr::new(routine::callable("IopTimerDispatch"));
    dpc::KeInitializeDpc(clock.offset(1).cast(), routine, Ptr::null());
    TIMERS.with(|timers| timers.clock = clock.addr());
    Some(clock)
}

fn stop_clock() {
    let clock = TIMERS.with(|timers| timers.clock);
    if clock != 0 {
        timer::KeCancelTimer(Ptr::new(clock));
    }
}

fn set_started(device: Ptr<DEVICE_OBJECT>, is_started: bool) {
    let change = TIMERS.with(|timers| {
        let was_running = timers.by_device.values().any(|timer| timer.is_started);
        if let Some(timer) = timers.by_device.get_mut(&device.addr()) {
            timer.is_started = is_started;
        }
        let is_running = timers.by_device.values().any(|timer| timer.is_started);
        (was_running, is_running)
    });
    match change {
        (false, true) => {
            if let Some(clock) = clock() {
                timer::KeSetTimerEx(clock, DUE, PERIOD, clock.offset(1).cast());
            }
        }
        (true, false) => stop_clock(),
        _ => {}
    }
}

fn tick() {
    let started: Vec<(u64, Timer)> = TIMERS.with(|timers| {
        let all = timers.by_device.iter();
        all.filter(|(_, timer)| timer.is_started)
            .map(|(&device, &timer)| (device, timer))
            .collect()
    });
    for (device, timer) in started {
        // An earlier routine may have stopped this one.
        let is_left = TIMERS.with(|timers| {
            timers
                .by_device
                .get(&device)
                .is_some_and(|timer| timer.is_started)
        });
        if is_left {
            shared::call_driver(Entry::Other, timer.routine, &[device, timer.context]);
        }
    }
}

nt_api! { module = io_timer;
    /// Gives a device a routine that is called once a second while its timer is started. Another call replaces it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoInitializeTimer(device: Ptr<DEVICE_OBJECT>, timer_routine: Ptr<u8>, context: Ptr<u8>) -> NtStatus {
        if clock().is_none() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        let timer =
            Timer { routine: timer_routine.addr(), context: context.addr(), is_started: false };
        TIMERS.with(|timers| timers.by_device.insert(device.addr(), timer));
        device.with(|device| device.Timer = to_word(TIMERS.with(|timers| timers.clock)));
        NtStatus::SUCCESS
    }

    /// Starts a device's timer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoStartTimer(device: Ptr<DEVICE_OBJECT>) {
        set_started(device, true);
    }

    /// Stops a device's timer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoStopTimer(device: Ptr<DEVICE_OBJECT>) {
        set_started(device, false);
    }

    /// The deferred procedure of all device timers. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IopTimerDispatch(dpc: Ptr<KDPC>, context: Ptr<u8>, argument_1: Ptr<u8>, argument_2: Ptr<u8>) {
        tick();
    }
}
