//! Automatic serialization: ExecutionLevel and SynchronizationScope, and the locks behind them.
//!
//! Every driver, device and queue has an execution level and a scope, its own or its parent's. With the scope "device"
//! all callbacks of the device and its queues share the device's lock, with "queue" those of a queue share the
//! queue's. A lock is an event at PASSIVE_LEVEL; otherwise its holder runs at DISPATCH_LEVEL.

use alloc::collections::BTreeMap;

use super::object::{self, Body};
use super::{WDF_OBJECT_ATTRIBUTES, Wdf};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::wait::{self, Wait};
use crate::ke::{event, irql, sched};
use crate::nt::{DISPATCH_LEVEL, KEVENT, NtStatus, dispatcher};
use crate::raw::{Global, Ptr};
use crate::shared;
use abi::trace::Entry;

/// WdfExecutionLevelPassive.
pub(crate) const LEVEL_PASSIVE: u32 = 2;
/// WdfExecutionLevelDispatch.
const LEVEL_DISPATCH: u32 = 3;
/// WdfSynchronizationScopeDevice.
const SCOPE_DEVICE: u32 = 2;
/// WdfSynchronizationScopeQueue.
const SCOPE_QUEUE: u32 = 3;
/// WdfSynchronizationScopeNone.
const SCOPE_NONE: u32 = 4;

/// How an object's callbacks are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constraints {
    /// At PASSIVE_LEVEL only.
    pub(crate) is_passive: bool,
    scope: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lock {
    constraints: Constraints,
    /// Null until the lock is wanted at PASSIVE_LEVEL.
    event: Ptr<KEVENT>,
    /// The thread that has it; 0: none.
    owner: u64,
    /// IRQL before WdfObjectAcquireLock.
    irql: u8,
}

static LOCKS: Global<BTreeMap<u64, Lock>> = Global::new("KMDF callback locks", BTreeMap::new());

pub(super) fn initialize() {
    LOCKS.with(BTreeMap::clear);
}

/// What attributes say for a child of `parent` (0: a driver, which has no parent).
pub(crate) fn constraints(parent: u64, wanted: &WDF_OBJECT_ATTRIBUTES) -> Constraints {
    let inherited = of(parent).unwrap_or(Constraints {
        is_passive: false,
        scope: SCOPE_NONE,
    });
    Constraints {
        is_passive: match wanted.ExecutionLevel {
            LEVEL_PASSIVE => true,
            LEVEL_DISPATCH => false,
            _ => inherited.is_passive,
        },
        scope: match wanted.SynchronizationScope {
            scope @ SCOPE_DEVICE..=SCOPE_NONE => scope,
            _ => inherited.scope,
        },
    }
}

/// Gives a new driver, device or queue its constraints.
pub(crate) fn insert(handle: u64, constraints: Constraints) {
    let lock = Lock {
        constraints,
        event: Ptr::null(),
        owner: 0,
        irql: 0,
    };
    LOCKS.with(|locks| locks.insert(handle, lock));
}

/// An object is gone.
pub(crate) fn forget(handle: u64) {
    let lock = LOCKS.with(|locks| locks.remove(&handle));
    if let Some(lock) = lock.filter(|lock| !lock.event.is_null()) {
        pool::free(lock.event.cast(), 0);
    }
}

/// The nearest driver, device or queue: the object or one above it; 0: none.
fn nearest(mut handle: u64) -> u64 {
    while handle != 0 && !LOCKS.with(|locks| locks.contains_key(&handle)) {
        handle = object::parent(handle);
    }
    handle
}

/// The constraints of an object or of the nearest above it that has some.
pub(crate) fn of(handle: u64) -> Option<Constraints> {
    let nearest = nearest(handle);
    LOCKS.with(|locks| locks.get(&nearest).map(|lock| lock.constraints))
}

/// The lock that serializes an object's callbacks, by the object that it belongs to; 0: none.
pub(crate) fn lock_of(handle: u64) -> u64 {
    let nearest = nearest(handle);
    let Some(constraints) = of(nearest) else {
        return 0;
    };
    let device_of_queue = object::body(nearest, |body| match body {
        Body::Queue(queue) => Some(queue.device),
        _ => None,
    });
    match (constraints.scope, device_of_queue) {
        (SCOPE_DEVICE, Some(device)) => device,
        (SCOPE_DEVICE, None) if is_device(nearest) => nearest,
        (SCOPE_QUEUE, Some(_)) => nearest,
        _ => 0,
    }
}

fn is_device(handle: u64) -> bool {
    let known = object::body(handle, |body| matches!(body, Body::Device(_)).then_some(()));
    known.is_some()
}

/// The lock for an object with AutomaticSerialization below `parent`, whose callback runs at PASSIVE_LEVEL or not.
///
/// STATUS_WDF_INCOMPATIBLE_EXECUTION_LEVEL: the parent's callbacks run at the other level.
pub(crate) fn automatic(parent: u64, is_passive: bool) -> Result<u64, NtStatus> {
    match of(parent) {
        Some(constraints) if constraints.is_passive != is_passive => {
            Err(super::INCOMPATIBLE_EXECUTION_LEVEL)
        }
        _ => Ok(lock_of(parent)),
    }
}

/// Whether the current thread has the lock.
pub(crate) fn is_owner(lock: u64) -> bool {
    let thread = sched::current().addr();
    LOCKS.with(|locks| locks.get(&lock).is_some_and(|lock| lock.owner == thread))
}

/// Whether the lock is one for PASSIVE_LEVEL.
fn is_passive(lock: u64) -> bool {
    of(lock).is_some_and(|constraints| constraints.is_passive)
}

/// The event of a lock; made when it is wanted for the first time.
fn event_of(lock: u64) -> Ptr<KEVENT> {
    let known = LOCKS.with(|locks| locks.get(&lock).map(|lock| lock.event));
    let Some(known) = known else {
        return Ptr::null();
    };
    if !known.is_null() {
        return known;
    }
    let Some(memory) = pool::allocate_zeroed(size_of::<KEVENT>() as u64, *b"WdfL") else {
        return Ptr::null();
    };
    event::initialize(memory.cast(), dispatcher::SYNCHRONIZATION_EVENT, true);
    LOCKS.with(|locks| {
        if let Some(lock) = locks.get_mut(&lock) {
            lock.event = memory.cast();
        }
    });
    memory.cast()
}

/// Acquires a lock that the thread does not have; the IRQL before.
fn acquire(lock: u64) -> u8 {
    let old = if is_passive(lock) {
        let event = event_of(lock);
        if !event.is_null() {
            wait::single(event.cast(), &Wait::FOREVER);
        }
        0
    } else {
        irql::raise(DISPATCH_LEVEL)
    };
    let thread = sched::current().addr();
    LOCKS.with(|locks| {
        if let Some(lock) = locks.get_mut(&lock) {
            lock.owner = thread;
        }
    });
    old
}

/// Lets a lock go. Its object may be gone.
fn release(lock: u64, was_passive: bool, old: u8) {
    let event = LOCKS.with(|locks| {
        let lock = locks.get_mut(&lock)?;
        lock.owner = 0;
        Some(lock.event)
    });
    if !was_passive {
        irql::lower(old);
    } else if let Some(event) = event.filter(|event| !event.is_null()) {
        event::KeSetEvent(event, 0, false);
    }
}

/// Calls a routine of the driver with the lock (0: none). A thread that has it already keeps it.
///
/// A lock for PASSIVE_LEVEL is not waited for at DISPATCH_LEVEL: callers see to it that this does not happen.
pub(crate) fn call(lock: u64, entry: Entry, routine: u64, arguments: &[u64]) -> u64 {
    let is_passive = is_passive(lock);
    let is_too_high = is_passive && shared::irql() >= DISPATCH_LEVEL;
    if lock == 0 || is_owner(lock) || is_too_high {
        return shared::call_driver(entry, routine, arguments);
    }
    let old = acquire(lock);
    let result = shared::call_driver(entry, routine, arguments);
    release(lock, is_passive, old);
    result
}

/// The lock of a device or queue itself, whatever its scope.
fn lock_for(handle: u64) -> u64 {
    let is_lockable = object::body(handle, |body| {
        matches!(body, Body::Device(_) | Body::Queue(_)).then_some(())
    });
    if is_lockable.is_none() {
        object::bad_handle(handle, "WDFDEVICE or WDFQUEUE");
    }
    match lock_of(handle) {
        0 => handle,
        lock => lock,
    }
}

nt_api! { module = wdf_serial;
    /// WdfObjectAcquireLock: the lock that serializes the callbacks of a device or queue.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectAcquireLock(globals: Wdf, handle: Wdf) {
        let lock = lock_for(handle.0);
        if is_owner(lock) {
            object::violation(
                object::RECURSIVE_LOCK,
                [handle.0, 0],
                format_args!("the lock of {:#x} is acquired by the thread that has it", handle.0),
            );
        }
        let old = acquire(lock);
        LOCKS.with(|locks| {
            if let Some(lock) = locks.get_mut(&lock) {
                lock.irql = old;
            }
        });
    }

    /// WdfObjectReleaseLock: lets the next callback run.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectReleaseLock(globals: Wdf, handle: Wdf) {
        let lock = lock_for(handle.0);
        if !is_owner(lock) {
            object::violation(
                object::INVALID_LOCK_OPERATION,
                [handle.0, 0],
                format_args!("the lock of {:#x} is released by a thread that does not have it", handle.0),
            );
        }
        let old = LOCKS.with(|locks| locks.get(&lock).map_or(0, |lock| lock.irql));
        release(lock, is_passive(lock), old);
    }
}
