//! How long to look for clients' requests before the guest idles, and when to leave for the VMM meanwhile.
//!
//! An exit costs microseconds, and a client's wake-up tens of them; a look costs nanoseconds. So the shim looks for a
//! while when the last request came soon after it had become idle, and does not when it did not: an idle guest costs
//! nothing, and one whose clients are slow idles at once. When the longest look was in vain although a request comes as soon
//! as the guest idles, looking is no use for a while: the client may be waiting for this very processor.

use core::sync::atomic::{AtomicU64, Ordering};

use super::queue::Found;
use super::table::CLIENTS;
use crate::ke::{time, timer};
use crate::shared;
use abi::doorbell::Call;

/// Shortest time that is worth it: 10 us, in units of 100 ns.
const SHORTEST: u64 = 100;
/// The guest does not stay away from the VMM for longer: 2 ms.
const LONGEST_ABSENCE: u64 = 20_000;
/// Idles without a look after looking was no use.
const REST: u64 = 32;
/// Clients that wait to be notified while there is more to do.
const NOTIFICATIONS: usize = 16;

/// How long to look at most, how long now, and when the guest last came from the VMM, in units of 100 ns.
static MAX: AtomicU64 = AtomicU64::new(0);
static WINDOW: AtomicU64 = AtomicU64::new(0);
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// Idles that are left of [`REST`].
static RESTS: AtomicU64 = AtomicU64::new(0);

pub(super) fn initialize() {
    for word in [&MAX, &WINDOW, &ENTERED, &RESTS] {
        word.store(0, Ordering::Relaxed);
    }
}

/// The VMM says how long to look at most; 0: not at all.
pub(super) fn set_max(max: u64) {
    MAX.store(max, Ordering::Relaxed);
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

/// Serves the next request of a client, or has the VMM do what is its. False: there was neither.
pub(crate) fn attend(serve: impl FnOnce(&abi::channel::Request)) -> bool {
    if !is_any() {
        return false;
    }
    let now = time::interrupt_time();
    let is_long = now >= ENTERED.load(Ordering::Relaxed) + LONGEST_ABSENCE;
    // A guest that always finds a request does not idle, and is entered too often for a tick to become due.
    if timer::next_due() <= now {
        timer::expire();
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
    let window = WINDOW.load(Ordering::Relaxed);
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
            if has_available() || shared::interrupt_due() != 0 || shared::tick_due() != 0 {
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
        adapt(window, time::interrupt_time().saturating_sub(since));
    }
}

/// A request came after the guest has idled for `slept`.
fn adapt(window: u64, slept: u64) {
    let max = MAX.load(Ordering::Relaxed);
    let rests = RESTS.load(Ordering::Relaxed);
    if max == 0 || rests > 0 {
        RESTS.store(rests.saturating_sub(1), Ordering::Relaxed);
        WINDOW.store(0, Ordering::Relaxed);
        return;
    }
    let window = if slept >= max {
        if window > SHORTEST { window / 2 } else { 0 }
    } else if window < max {
        (window * 2).clamp(SHORTEST.min(max), max)
    } else {
        RESTS.store(REST, Ordering::Relaxed);
        0
    };
    WINDOW.store(window, Ordering::Relaxed);
}
