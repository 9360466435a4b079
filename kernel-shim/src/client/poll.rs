//! How long to look for clients' requests before the guest idles, and when to leave for the VMM meanwhile.
//!
//! An exit costs microseconds, and a client's wake-up tens of them; a look costs nanoseconds. So the shim looks for a
//! while when the last request came soon after it had become idle, and does not when it did not ([`Polling`]).

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::queue::Found;
use super::table::CLIENTS;
use crate::ke::{time, timer};
use crate::raw::Global;
use crate::shared;
use abi::doorbell::Call;
use channel::polling::{LONGEST, Polling};

/// The guest does not stay away from the VMM for longer: 2 ms.
const LONGEST_ABSENCE: u64 = 20_000;
/// Clients that wait to be notified while there is more to do.
const NOTIFICATIONS: usize = 16;

/// A guest does not look before the VMM has said how long to look at most.
const FIRST: Polling = Polling::new(Duration::ZERO, LONGEST);
/// How long to look.
static POLLING: Global<Polling> = Global::new("polling", FIRST);
/// When the guest last came from the VMM, in units of 100 ns.
static ENTERED: AtomicU64 = AtomicU64::new(0);

pub(super) fn initialize() {
    ENTERED.store(0, Ordering::Relaxed);
    POLLING.with(|polling| *polling = FIRST);
}

/// The VMM says how long to look at most; 0: not at all.
pub(super) fn set_max(max: u64) {
    POLLING.with(|polling| polling.set_longest(duration(max)));
}

/// A time in 100 ns.
const fn duration(time: u64) -> Duration {
    Duration::from_nanos(time.saturating_mul(100))
}

fn is_any() -> bool {
    CLIENTS.with(|clients| clients.present != 0)
}

fn has_available() -> bool {
    CLIENTS.with(|clients| clients.has_available())
}

/// Clients that want to be notified. The VMM does that when the guest exits.
fn notifications() -> usize {
    CLIENTS.with(|clients| clients.waiting)
}

/// The guest was with the VMM: goes on with the queues where that has left off.
fn entered() {
    ENTERED.store(time::interrupt_time(), Ordering::Relaxed);
    CLIENTS.with(super::table::Clients::take_over);
}

/// Has the VMM look after the clients.
fn leave() {
    shared::platform().doorbell(Call::Clients, [0; 6]);
    entered();
}

/// Serves the next request of a client, has the VMM do what is its, or expires timers, whose DPCs are the caller's to run
/// before the guest idles. False: there was nothing of these.
pub(crate) fn attend(serve: impl FnOnce(&abi::channel::Request)) -> bool {
    if !is_any() {
        return false;
    }
    let now = time::interrupt_time();
    let is_long = now >= ENTERED.load(Ordering::Relaxed) + LONGEST_ABSENCE;
    // A guest that always finds a request does not idle, and is entered too often for a tick to become due.
    if timer::next_due() <= now {
        timer::expire();
        return true;
    }
    match CLIENTS.with(super::table::Clients::take) {
        Found::Request(request) => {
            if is_long || notifications() >= NOTIFICATIONS {
                leave();
            }
            serve(&request);
            true
        }
        Found::Declined => {
            leave();
            true
        }
        Found::Nothing => false,
    }
}

/// There is nothing to do: looks for a while; then `idle` idles, unless something has come.
pub(crate) fn look(idle: impl FnOnce()) {
    if !is_any() {
        idle();
        return;
    }
    let window = POLLING.with(|polling| polling.window());
    let window = u64::try_from(window.as_nanos() / 100).unwrap_or(0);
    if window != 0 {
        // Idling would tell them too.
        if notifications() != 0 {
            leave();
            // The VMM may have made requests of its own meanwhile: they are looked for before the guest idles.
            return;
        }
        let now = time::interrupt_time();
        // Nothing runs meanwhile that could set a timer.
        let until = window.min(timer::next_due().saturating_sub(now));
        let began = shared::platform().time_stamp();
        let ticks = time::ticks_of(until);
        while shared::platform().time_stamp().wrapping_sub(began) < ticks {
            if has_available() {
                POLLING.with(Polling::found);
                return;
            }
            if shared::interrupt_due() != 0 || shared::tick_due() != 0 {
                return;
            }
            core::hint::spin_loop();
        }
        if until < window {
            return;
        }
    }
    let since = time::interrupt_time();
    idle();
    entered();
    if has_available() {
        let slept = duration(time::interrupt_time().saturating_sub(since));
        POLLING.with(|polling| polling.slept(slept));
    }
}
