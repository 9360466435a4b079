//! Events.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use core::mem::offset_of;

use crate::api::nt_api;
use crate::ke::dispatcher::{self as objects};
use crate::ke::wait::{self, Wait};
use crate::ke::{sched, time};
use crate::nt::{DISPATCHER_HEADER, KEVENT, LIST_ENTRY, dispatcher};
use crate::raw::{DataCell, Ptr, low8};
use crate::shared;
use crate::value::{Boolean, Long, ULong};

pub use crate::ke::wait::{KeDelayExecutionThread, KeWaitForSingleObject};

/// The shim's own event before [`initialize`].
pub(crate) const EMPTY: KEVENT = KEVENT {
    Header: DISPATCHER_HEADER {
        Type: dispatcher::NOTIFICATION_EVENT,
        Absolute: 0,
        Size: 0,
        Inserted: 0,
        SignalState: 0,
        WaitListHead: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
    },
};

/// Signalled whenever something of the I/O manager's moves on; see [`wait_until`].
static PROGRESS: DataCell<KEVENT> = DataCell::new(EMPTY);

pub(super) fn initialize_progress() {
    initialize(PROGRESS.ptr(), dispatcher::NOTIFICATION_EVENT, false);
}

/// Makes an event.
pub fn initialize(event: Ptr<KEVENT>, kind: u8, is_signalled: bool) {
    let Header = objects::header(
        event.cast(),
        kind,
        size_of::<KEVENT>(),
        i32::from(is_signalled),
    );
    event.write(KEVENT { Header });
}

/// Changes an event's state and wakes who waits for it; returns the old one.
pub fn set_state(event: Ptr<KEVENT>, state: i32) -> i32 {
    set_with_increment(event, state, 0)
}

fn set_with_increment(event: Ptr<KEVENT>, state: i32, increment: i32) -> i32 {
    let old = event.with(|event| core::mem::replace(&mut event.Header.SignalState, state));
    if state > 0 {
        objects::wake(event.cast(), increment);
    }
    old
}

/// Waits until `is_done` or the interrupt time `deadline`. False: the time was over. `is_done` is asked again after
/// every [`progress`], and at least every few milliseconds.
pub(crate) fn wait_until(deadline: u64, mut is_done: impl FnMut() -> bool) -> bool {
    /// Longest time between two looks, in 100 ns.
    const LOOK: u64 = 50_000;
    loop {
        crate::ke::deliver_deferred();
        if is_done() {
            return true;
        }
        let now = time::interrupt_time();
        if now >= deadline {
            return false;
        }
        set_state(PROGRESS.ptr(), 0);
        let how = Wait {
            timeout: Some(-((deadline - now).min(LOOK).cast_signed())),
            ..Wait::FOREVER
        };
        wait::single(PROGRESS.ptr().cast(), &how);
    }
}

/// Lets every [`wait_until`] look again.
pub(crate) fn progress() {
    set_state(PROGRESS.ptr(), 1);
}

/// KeSetEvent and its like with Wait = TRUE: nothing preempts before the wait that follows.
pub(super) fn remember_wait(wait: bool) {
    if wait {
        sched::private(sched::current()).with(|private| private.wait_next = 1);
    }
}

/// The address of an event's state, on the fast path: the event is in kernel space.
#[inline(always)]
fn fast_state(event: Ptr<KEVENT>) -> Option<Ptr<i32>> {
    let state = offset_of!(DISPATCHER_HEADER, SignalState) as u64;
    shared::is_kernel(event.addr()).then(|| event.add_bytes(state).cast())
}

/// [`KeSetEvent`] on the fast path: an event that nobody waits for.
#[inline(always)]
fn fast_set(event: Ptr<KEVENT>, _: Long, wait: Boolean) -> Option<Long> {
    let state = fast_state(event)?;
    let waiters = objects::wait_list(event.cast());
    if wait || waiters.cast::<Ptr<LIST_ENTRY>>().read() != waiters {
        return None;
    }
    let old = state.read();
    state.write(1);
    Some(old)
}

#[inline(always)]
fn fast_reset(event: Ptr<KEVENT>) -> Option<Long> {
    let state = fast_state(event)?;
    let old = state.read();
    state.write(0);
    Some(old)
}

#[inline(always)]
fn fast_clear(event: Ptr<KEVENT>) -> Option<()> {
    fast_state(event)?.write(0);
    Some(())
}

#[inline(always)]
fn fast_read(event: Ptr<KEVENT>) -> Option<Long> {
    Some(fast_state(event)?.read())
}

nt_api! { module = ke_event;
    /// Makes an event: type 0 is a notification event, 1 a synchronization event.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeEvent(event: Ptr<KEVENT>, event_type: ULong, state: Boolean) {
        initialize(event, low8(u64::from(event_type)), state);
    }

    /// Signals an event; returns its old state. The woken thread's priority gains the increment.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_set)
    fn KeSetEvent(event: Ptr<KEVENT>, increment: Long, wait: Boolean) -> Long {
        let old = set_with_increment(event, 1, increment);
        remember_wait(wait);
        old
    }

    /// Signals an event for those who wait at this moment, and resets it; returns its old state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KePulseEvent(event: Ptr<KEVENT>, increment: Long, wait: Boolean) -> Long {
        let old = set_with_increment(event, 1, increment);
        event.with(|event| event.Header.SignalState = 0);
        remember_wait(wait);
        old
    }

    /// Resets an event; returns its old state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_reset)
    fn KeResetEvent(event: Ptr<KEVENT>) -> Long {
        set_state(event, 0)
    }

    /// Resets an event.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_clear)
    fn KeClearEvent(event: Ptr<KEVENT>) {
        set_state(event, 0);
    }

    /// An event's state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_read)
    fn KeReadStateEvent(event: Ptr<KEVENT>) -> Long {
        event.with(|event| event.Header.SignalState)
    }
}
