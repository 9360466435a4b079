//! Fast mutexes and guarded mutexes: one structure and protocol, which differ in how they keep APCs away.
//!
//! `Count` is 1 when free. An acquirer that finds it lower decrements it and waits for the event; who releases
//! increments it and, when somebody waits, sets the event, which passes the mutex on.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use super::region;
use crate::api::nt_api;
use core::mem::offset_of;

use crate::ke::irql::{lower, raise};
use crate::ke::{apc, event, sched, waiters};
use crate::nt::bugcheck::violation;
use crate::nt::{APC_LEVEL, FAST_MUTEX, KEVENT, KTHREAD, dispatcher};
use crate::raw::{Ptr, low8, volatile_read, volatile_write};
use crate::value::Boolean;
use crate::{ps, shared};

/// Driver Verifier's numbers.
mod verifier {
    pub(super) const RELEASED_AT_OTHER_IRQL: u64 = 0x34;
    pub(super) const SELF_DEADLOCK: u64 = 0x1000;
    pub(super) const OTHER_THREAD: u64 = 0x1004;
    pub(super) const NOT_ACQUIRED: u64 = 0x1007;
}

fn event_of(mutex: Ptr<FAST_MUTEX>) -> Ptr<KEVENT> {
    mutex
        .add_bytes(core::mem::offset_of!(FAST_MUTEX, Event) as u64)
        .cast()
}

fn initialize(mutex: Ptr<FAST_MUTEX>) {
    event::initialize(event_of(mutex), dispatcher::SYNCHRONIZATION_EVENT, false);
    mutex.with(|mutex| {
        mutex.Count = 1;
        mutex.Owner = Ptr::null();
        mutex.Contention = 0;
        mutex.OldIrql = 0;
    });
}

fn try_acquire(mutex: Ptr<FAST_MUTEX>) -> bool {
    let thread = ps::current_thread();
    mutex.with(|mutex| {
        let is_free = mutex.Count == 1;
        if is_free {
            mutex.Count = 0;
            mutex.Owner = thread;
        }
        is_free
    })
}

fn acquire(mutex: Ptr<FAST_MUTEX>) {
    if try_acquire(mutex) {
        return;
    }
    let thread = ps::current_thread();
    if mutex.read().Owner == thread {
        violation(
            verifier::SELF_DEADLOCK,
            [mutex.addr(), 0, 0],
            format_args!(
                "mutex {:#x} is acquired by the thread that holds it: it would wait for ever",
                mutex.addr()
            ),
        );
    }
    mutex.with(|mutex| {
        mutex.Count -= 1;
        mutex.Contention = mutex.Contention.wrapping_add(1);
    });
    waiters::wait_for(event_of(mutex).cast());
    mutex.with(|mutex| mutex.Owner = thread);
}

fn release(mutex: Ptr<FAST_MUTEX>) {
    let thread = ps::current_thread();
    let FAST_MUTEX { Count, Owner, .. } = mutex.read();
    if Count > 0 {
        violation(
            verifier::NOT_ACQUIRED,
            [mutex.addr(), thread.addr(), 0],
            format_args!("mutex {:#x} is released, but nobody holds it", mutex.addr()),
        );
    }
    if Owner != thread {
        violation(
            verifier::OTHER_THREAD,
            [mutex.addr(), Owner.addr(), thread.addr()],
            format_args!(
                "mutex {:#x} is released by a thread that does not hold it",
                mutex.addr()
            ),
        );
    }
    let is_wanted = mutex.with(|mutex| {
        mutex.Owner = Ptr::null();
        mutex.Count += 1;
        mutex.Count <= 0
    });
    if is_wanted {
        event::KeSetEvent(event_of(mutex), 0, false);
    }
}

/// The address of a mutex in kernel space, for the fast paths: of a mutex that nobody else wants.
#[derive(Clone, Copy)]
struct Fields(u64);

impl Fields {
    /// `None`: it lies elsewhere, or is not aligned.
    #[inline(always)]
    fn of(mutex: Ptr<FAST_MUTEX>) -> Option<Self> {
        let address = mutex.addr();
        (address.is_multiple_of(8) && shared::is_kernel(address)).then_some(Self(address))
    }

    #[inline(always)]
    fn get<T: Copy>(self, field: usize) -> T {
        volatile_read(self.0.wrapping_add(field as u64))
    }

    #[inline(always)]
    fn set<T: Copy>(self, field: usize, value: T) {
        volatile_write(self.0.wrapping_add(field as u64), value);
    }

    /// `None`: it is not free.
    #[inline(always)]
    fn take(self) -> Option<()> {
        if self.get::<i32>(offset_of!(FAST_MUTEX, Count)) != 1 {
            return None;
        }
        self.set(offset_of!(FAST_MUTEX, Count), 0_i32);
        self.set(offset_of!(FAST_MUTEX, Owner), sched::current());
        Some(())
    }

    /// Whether the current thread holds it and nobody waits for it.
    #[inline(always)]
    fn is_ours_alone(self) -> bool {
        let owner: Ptr<KTHREAD> = self.get(offset_of!(FAST_MUTEX, Owner));
        self.get::<i32>(offset_of!(FAST_MUTEX, Count)) == 0 && owner == sched::current()
    }

    #[inline(always)]
    fn give(self) {
        self.set(offset_of!(FAST_MUTEX, Owner), Ptr::<KTHREAD>::null());
        self.set(offset_of!(FAST_MUTEX, Count), 1_i32);
    }
}

/// What is not free is the ordinary path's to report.
#[inline(always)]
fn fast_try_to_acquire(mutex: Ptr<FAST_MUTEX>) -> Option<Boolean> {
    let fields = Fields::of(mutex)?;
    fields.take()?;
    fields.set(offset_of!(FAST_MUTEX, OldIrql), u32::from(shared::irql()));
    shared::set_irql(APC_LEVEL);
    Some(true)
}

#[inline(always)]
fn fast_acquire_unsafe(mutex: Ptr<FAST_MUTEX>) -> Option<()> {
    Fields::of(mutex)?.take()
}

#[inline(always)]
fn fast_release_unsafe(mutex: Ptr<FAST_MUTEX>) -> Option<()> {
    let fields = Fields::of(mutex)?;
    if !fields.is_ours_alone() {
        return None;
    }
    fields.give();
    Some(())
}

#[inline(always)]
fn fast_acquire_guarded(mutex: Ptr<FAST_MUTEX>) -> Option<()> {
    Fields::of(mutex)?.take()?;
    apc::fast_enter_guarded()
}

#[inline(always)]
fn fast_release_guarded(mutex: Ptr<FAST_MUTEX>) -> Option<()> {
    let fields = Fields::of(mutex)?;
    if !fields.is_ours_alone() {
        return None;
    }
    // Refuses while an APC waits for the region's end.
    apc::fast_leave_guarded()?;
    fields.give();
    Some(())
}

nt_api! { module = ex_fast_mutex;
    /// Raises IRQL to APC_LEVEL and acquires the mutex.
    either both fastcall irql(APC_LEVEL) implemented entry(acquire_fast_mutex)
    fn ExAcquireFastMutex(mutex: Ptr<FAST_MUTEX>) {
        let old = raise(APC_LEVEL);
        acquire(mutex);
        mutex.with(|mutex| mutex.OldIrql = old.into());
    }

    /// Raises IRQL to APC_LEVEL and acquires the mutex if it is free. FALSE: it is not, and IRQL is as before.
    either both fastcall irql(APC_LEVEL) implemented bare(fast_try_to_acquire)
    fn ExTryToAcquireFastMutex(mutex: Ptr<FAST_MUTEX>) -> Boolean {
        let is_acquired = try_acquire(mutex);
        if is_acquired {
            let old = raise(APC_LEVEL);
            mutex.with(|mutex| mutex.OldIrql = old.into());
        }
        is_acquired
    }

    /// Releases the mutex and restores IRQL.
    either both fastcall irql(APC_LEVEL) implemented entry(release_fast_mutex)
    fn ExReleaseFastMutex(mutex: Ptr<FAST_MUTEX>) {
        let irql = shared::irql();
        if irql != APC_LEVEL {
            violation(verifier::RELEASED_AT_OTHER_IRQL, [irql.into(), mutex.addr(), 0],
                format_args!("fast mutex {:#x} is released at IRQL {irql}, not APC_LEVEL", mutex.addr()));
        }
        let old = low8(mutex.read().OldIrql.into());
        release(mutex);
        lower(old);
    }

    /// Acquires the mutex; the caller keeps APCs away.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_acquire_unsafe)
    fn ExAcquireFastMutexUnsafe(mutex: Ptr<FAST_MUTEX>) {
        acquire(mutex);
    }

    /// Releases a mutex that ExAcquireFastMutexUnsafe acquired.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_release_unsafe)
    fn ExReleaseFastMutexUnsafe(mutex: Ptr<FAST_MUTEX>) {
        release(mutex);
    }

    /// Enters a critical region and acquires the mutex.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExEnterCriticalRegionAndAcquireFastMutexUnsafe(mutex: Ptr<FAST_MUTEX>) {
        region::enter_critical();
        acquire(mutex);
    }

    /// Releases the mutex and leaves the critical region.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExReleaseFastMutexUnsafeAndLeaveCriticalRegion(mutex: Ptr<FAST_MUTEX>) {
        release(mutex);
        region::leave_critical();
    }

    /// Makes a guarded mutex.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn KeInitializeGuardedMutex(mutex: Ptr<FAST_MUTEX>) {
        initialize(mutex);
    }

    /// Enters a guarded region and acquires the mutex.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_acquire_guarded)
    fn KeAcquireGuardedMutex(mutex: Ptr<FAST_MUTEX>) {
        region::enter_guarded();
        acquire(mutex);
    }

    /// Acquires the mutex if it is free, in a guarded region. FALSE: it is not, and there is no region.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn KeTryToAcquireGuardedMutex(mutex: Ptr<FAST_MUTEX>) -> Boolean {
        let is_acquired = try_acquire(mutex);
        if is_acquired {
            region::enter_guarded();
        }
        is_acquired
    }

    /// Releases the mutex and leaves the guarded region.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_release_guarded)
    fn KeReleaseGuardedMutex(mutex: Ptr<FAST_MUTEX>) {
        release(mutex);
        region::leave_guarded();
    }

    /// Acquires a guarded mutex; the caller keeps APCs away.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_acquire_unsafe)
    fn KeAcquireGuardedMutexUnsafe(mutex: Ptr<FAST_MUTEX>) {
        acquire(mutex);
    }

    /// Releases a mutex that KeAcquireGuardedMutexUnsafe acquired.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented bare(fast_release_unsafe)
    fn KeReleaseGuardedMutexUnsafe(mutex: Ptr<FAST_MUTEX>) {
        release(mutex);
    }
}
