//! Spin locks. With one processor, a lock that is held already would spin for ever: that is a bugcheck.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use crate::api::nt_api;
use crate::ke::irql::{fast_lower, fast_raise, lower, raise};
use crate::nt::DISPATCH_LEVEL;
use crate::nt::bugcheck::{SPIN_LOCK_ALREADY_OWNED, SPIN_LOCK_NOT_OWNED, bugcheck_with_text};
use crate::raw::{Ptr, Word};
use crate::value::Irql;

/// Takes the lock without touching IRQL.
pub fn acquire(lock: Ptr<Word>) {
    if lock.read() != 0 {
        bugcheck_with_text(
            SPIN_LOCK_ALREADY_OWNED,
            [lock.addr(), 0, 0, 0],
            format_args!(
                "spin lock {:#x} is acquired while it is held: it would spin for ever",
                lock.addr()
            ),
        );
    }
    lock.write(1);
}

/// Gives the lock back without touching IRQL.
pub fn release(lock: Ptr<Word>) {
    if lock.read() == 0 {
        bugcheck_with_text(
            SPIN_LOCK_NOT_OWNED,
            [lock.addr(), 0, 0, 0],
            format_args!(
                "spin lock {:#x} is released, but nobody holds it",
                lock.addr()
            ),
        );
    }
    lock.write(0);
}

fn acquire_raising(lock: Ptr<Word>) -> u8 {
    let old = raise(DISPATCH_LEVEL);
    acquire(lock);
    old
}

/// [`KeAcquireSpinLockRaiseToDpc`] on the fast path: a free lock.
#[inline(always)]
fn fast_acquire_raising(lock: Ptr<Word>) -> Option<Irql> {
    if lock.read() != 0 {
        return None;
    }
    let old = fast_raise(Irql(DISPATCH_LEVEL))?;
    lock.write(1);
    Some(old)
}

/// [`KeReleaseSpinLock`] on the fast path: a lock that is held.
#[inline(always)]
fn fast_release_lowering(lock: Ptr<Word>, new_irql: Irql) -> Option<()> {
    if lock.read() == 0 {
        return None;
    }
    fast_lower(new_irql)?;
    lock.write(0);
    Some(())
}

#[inline(always)]
fn fast_acquire(lock: Ptr<Word>) -> Option<()> {
    if lock.read() != 0 {
        return None;
    }
    lock.write(1);
    Some(())
}

#[inline(always)]
fn fast_release(lock: Ptr<Word>) -> Option<()> {
    if lock.read() == 0 {
        return None;
    }
    lock.write(0);
    Some(())
}

nt_api! { module = ke_spin_lock;
    /// Makes a spin lock free.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeSpinLock(lock: Ptr<Word>) {
        lock.write(0);
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock and stores the old IRQL.
    either both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireSpinLock(lock: Ptr<Word>, old_irql: Ptr<u8>) {
        old_irql.write(acquire_raising(lock));
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock and returns the old IRQL.
    either both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_acquire_raising)
    fn KeAcquireSpinLockRaiseToDpc(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock))
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock and returns the old IRQL.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KfAcquireSpinLock(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock))
    }

    /// Gives the lock back and lowers IRQL.
    either both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_release_lowering)
    fn KeReleaseSpinLock(lock: Ptr<Word>, new_irql: Irql) {
        release(lock);
        lower(new_irql.0);
    }

    /// Gives the lock back and lowers IRQL.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KfReleaseSpinLock(lock: Ptr<Word>, new_irql: Irql) {
        release(lock);
        lower(new_irql.0);
    }

    /// Takes the lock at DISPATCH_LEVEL.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast_acquire)
    fn KeAcquireSpinLockAtDpcLevel(lock: Ptr<Word>) {
        acquire(lock);
    }

    /// Gives the lock back at DISPATCH_LEVEL.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented fast(fast_release)
    fn KeReleaseSpinLockFromDpcLevel(lock: Ptr<Word>) {
        release(lock);
    }

    /// Takes the lock at DISPATCH_LEVEL.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn KefAcquireSpinLockAtDpcLevel(lock: Ptr<Word>) {
        acquire(lock);
    }

    /// Gives the lock back at DISPATCH_LEVEL.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn KefReleaseSpinLockFromDpcLevel(lock: Ptr<Word>) {
        release(lock);
    }
}
