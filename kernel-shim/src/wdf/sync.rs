//! WDFWAITLOCK, WDFSPINLOCK.

use super::object::{self, Body, INVALID_LOCK_OPERATION, Parent, RECURSIVE_LOCK};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::wait::{self, Wait};
use crate::ke::{event, irql, sched};
use crate::nt::{DISPATCH_LEVEL, KEVENT, NtStatus, dispatcher};
use crate::raw::{Ptr, Word};

/// What a lock is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lock {
    /// KEVENT of a wait lock; null for a spin lock.
    event: Ptr<KEVENT>,
    /// The thread that has it; 0: none.
    owner: u64,
    /// IRQL before a spin lock was acquired.
    irql: u8,
}

impl Lock {
    /// Frees its event.
    pub(crate) fn release(self) {
        if !self.event.is_null() {
            pool::free(self.event.cast(), 0);
        }
    }
}

fn create(
    globals: u64,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    event: Ptr<KEVENT>,
) -> Result<u64, NtStatus> {
    let lock = Lock {
        event,
        owner: 0,
        irql: 0,
    };
    let made = object::create(
        attributes,
        Parent::Default(loader::driver_of(globals)),
        Body::Lock(lock),
    );
    if made.is_err() {
        lock.release();
    }
    made
}

fn get(handle: u64, is_wait: bool) -> Lock {
    let lock = object::lock(handle, |lock| *lock);
    if lock.event.is_null() == is_wait {
        object::bad_handle(
            handle,
            if is_wait {
                "WDFWAITLOCK"
            } else {
                "WDFSPINLOCK"
            },
        );
    }
    lock
}

fn check_owner(handle: u64, lock: &Lock) {
    if lock.owner != sched::current().addr() {
        object::violation(
            INVALID_LOCK_OPERATION,
            [handle, 0],
            format_args!("lock {handle:#x} is released by a thread that does not have it"),
        );
    }
}

fn check_recursion(handle: u64, lock: &Lock) {
    if lock.owner == sched::current().addr() {
        object::violation(
            RECURSIVE_LOCK,
            [handle, 0],
            format_args!("lock {handle:#x} is acquired by the thread that has it"),
        );
    }
}

nt_api! { module = wdf_sync;
    /// WdfWaitLockCreate: a lock for PASSIVE_LEVEL.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfWaitLockCreate(globals: Wdf, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>, result: Ptr<Word>) -> NtStatus {
        object::required(result, "Lock");
        let made = match pool::allocate_zeroed(size_of::<KEVENT>() as u64, *b"WdfL") {
            Some(memory) => {
                event::initialize(memory.cast(), dispatcher::SYNCHRONIZATION_EVENT, true);
                create(globals.0, attributes, memory.cast())
            }
            None => Err(NtStatus::INSUFFICIENT_RESOURCES),
        };
        give(made, result)
    }

    /// WdfWaitLockAcquire: STATUS_TIMEOUT if another thread has it for too long.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWaitLockAcquire(globals: Wdf, handle: Wdf, timeout: Ptr<i64>) -> NtStatus {
        let lock = get(handle.0, true);
        check_recursion(handle.0, &lock);
        let how = Wait { timeout: timeout.non_null().map(Ptr::read), ..Wait::FOREVER };
        let status = wait::single(lock.event.cast(), &how);
        if status == NtStatus::SUCCESS {
            object::lock(handle.0, |lock| lock.owner = sched::current().addr());
        }
        status
    }

    /// WdfWaitLockRelease: lets the next have it.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWaitLockRelease(globals: Wdf, handle: Wdf) {
        let lock = get(handle.0, true);
        check_owner(handle.0, &lock);
        object::lock(handle.0, |lock| lock.owner = 0);
        event::KeSetEvent(lock.event, 0, false);
    }

    /// WdfSpinLockCreate: a lock for DISPATCH_LEVEL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfSpinLockCreate(globals: Wdf, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>, result: Ptr<Word>) -> NtStatus {
        object::required(result, "SpinLock");
        give(create(globals.0, attributes, Ptr::null()), result)
    }

    /// WdfSpinLockAcquire: raises IRQL to DISPATCH_LEVEL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfSpinLockAcquire(globals: Wdf, handle: Wdf) {
        let lock = get(handle.0, false);
        check_recursion(handle.0, &lock);
        let old = irql::raise(DISPATCH_LEVEL);
        object::lock(handle.0, |lock| {
            lock.owner = sched::current().addr();
            lock.irql = old;
        });
    }

    /// WdfSpinLockRelease: back to the IRQL before.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfSpinLockRelease(globals: Wdf, handle: Wdf) {
        let lock = get(handle.0, false);
        check_owner(handle.0, &lock);
        object::lock(handle.0, |lock| lock.owner = 0);
        irql::lower(lock.irql);
    }
}
