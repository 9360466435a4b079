//! Waiting for a lock that has no dispatcher object of its own: push locks and resources.
//!
//! A waiter's event lies on its stack, which is driver-visible memory like any other; the queues are in the shim's
//! heap, by the lock's address. Who gives a lock back passes it on: it makes the woken thread an owner before it sets
//! that thread's event.

use alloc::collections::{BTreeMap, VecDeque};

use crate::ke::event;
use crate::nt::{DISPATCHER_HEADER, KEVENT, LIST_ENTRY, dispatcher};
use crate::ps;
use crate::raw::{Global, Ptr, Word};
use crate::value::ProcessorMode;

/// A thread that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    /// The thread.
    pub(crate) thread: Word,
    /// Whether it wants the lock for itself alone.
    pub(crate) is_exclusive: bool,
    event: Ptr<KEVENT>,
}

static WAITERS: Global<BTreeMap<u64, VecDeque<Waiter>>> =
    Global::new("lock waiters", BTreeMap::new());

/// Nobody waits.
pub(crate) fn initialize() {
    WAITERS.with(BTreeMap::clear);
}

/// Waits for an object of the shim's or the driver's until it is signalled; no APC ends it.
pub(crate) fn wait_for(object: Ptr<DISPATCHER_HEADER>) {
    // Executive, KernelMode, not alertable, no timeout: it ends with success only.
    let _ = event::KeWaitForSingleObject(object, 0, ProcessorMode(0), false, Ptr::null());
}

/// Queues the current thread at `lock` and blocks it until [`wake`].
pub(crate) fn block(lock: u64, is_exclusive: bool) {
    let mut memory = KEVENT {
        Header: DISPATCHER_HEADER {
            Type: dispatcher::SYNCHRONIZATION_EVENT,
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
    let event = Ptr::of(&mut memory);
    event::initialize(event, dispatcher::SYNCHRONIZATION_EVENT, false);
    let waiter = Waiter {
        thread: ps::current_thread().word(),
        is_exclusive,
        event,
    };
    WAITERS.with(|waiters| waiters.entry(lock).or_default().push_back(waiter));
    wait_for(event.cast());
}

/// Takes the first waiter that `choose` accepts out of a lock's queue.
pub(crate) fn take(lock: u64, choose: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
    WAITERS.with(|waiters| {
        let queue = waiters.get_mut(&lock)?;
        let position = queue.iter().position(choose)?;
        let waiter = queue.remove(position);
        if queue.is_empty() {
            waiters.remove(&lock);
        }
        waiter
    })
}

/// The waiter that came first.
pub(crate) fn first(lock: u64) -> Option<Waiter> {
    WAITERS.with(|waiters| waiters.get(&lock)?.front().copied())
}

/// Lets a waiter that was taken out of its queue go on: it owns the lock now.
pub(crate) fn wake(waiter: Waiter) {
    event::KeSetEvent(waiter.event, 0, false);
}
