//! Spin locks. With one processor, a lock that is held already would spin for ever: that is a bugcheck.

use crate::api::nt_api;
use crate::ke::irql::{lower, raise};
use crate::nt::bugcheck::{
    SPIN_LOCK_ALREADY_OWNED, SPIN_LOCK_NOT_OWNED, bugcheck_with_text, violation,
};
use crate::nt::{DISPATCH_LEVEL, SYNCH_LEVEL};
use crate::raw::{Ptr, Word};
use crate::shared;
use crate::value::{Boolean, Irql};

/// Driver Verifier's numbers.
const RELEASED_BELOW_DISPATCH: u64 = 0x32;
const ACQUIRED_BELOW_DISPATCH: u64 = 0x40;
const RELEASED_AT_DPC_BELOW_DISPATCH: u64 = 0x41;

/// Stops the guest: the lock would spin for ever.
pub fn already_owned(lock: u64) -> ! {
    bugcheck_with_text(
        SPIN_LOCK_ALREADY_OWNED,
        [lock, 0, 0, 0],
        format_args!("spin lock {lock:#x} is acquired while it is held: it would spin for ever"),
    )
}

/// Stops the guest: the lock is not held.
pub fn not_owned(lock: u64) -> ! {
    bugcheck_with_text(
        SPIN_LOCK_NOT_OWNED,
        [lock, 0, 0, 0],
        format_args!("spin lock {lock:#x} is released, but nobody holds it"),
    )
}

/// Takes the lock without touching IRQL.
pub fn acquire(lock: Ptr<Word>) {
    if lock.read() != 0 {
        already_owned(lock.addr());
    }
    lock.write(1);
}

/// Takes the lock if it is free.
pub fn try_acquire(lock: Ptr<Word>) -> bool {
    let is_free = lock.read() == 0;
    if is_free {
        lock.write(1);
    }
    is_free
}

/// Gives the lock back without touching IRQL.
pub fn release(lock: Ptr<Word>) {
    if lock.read() == 0 {
        not_owned(lock.addr());
    }
    lock.write(0);
}

/// Stops the guest when IRQL is below DISPATCH_LEVEL: the holder could be preempted by who then spins.
fn check(number: u64, lock: u64, what: &str) {
    let irql = shared::irql();
    if irql < DISPATCH_LEVEL {
        violation(
            number,
            [irql.into(), lock, 0],
            format_args!("spin lock {lock:#x} is {what} at IRQL {irql}, below DISPATCH_LEVEL"),
        );
    }
}

/// Before a lock is taken by who must be at DISPATCH_LEVEL already.
pub fn check_acquire(lock: u64) {
    check(ACQUIRED_BELOW_DISPATCH, lock, "acquired");
}

/// After a lock was given back by who stays at DISPATCH_LEVEL.
pub fn check_release(lock: u64) {
    check(RELEASED_AT_DPC_BELOW_DISPATCH, lock, "released");
}

/// After a lock was given back, before IRQL is lowered.
pub fn check_release_and_lower(lock: u64) {
    check(RELEASED_BELOW_DISPATCH, lock, "released");
}

fn acquire_raising(lock: Ptr<Word>, level: u8) -> u8 {
    let old = raise(level);
    acquire(lock);
    old
}

fn release_lowering(lock: Ptr<Word>, new: u8) {
    release(lock);
    check_release_and_lower(lock.addr());
    lower(new);
}

fn acquire_at_dpc(lock: Ptr<Word>) {
    check_acquire(lock.addr());
    acquire(lock);
}

fn release_from_dpc(lock: Ptr<Word>) {
    release(lock);
    check_release(lock.addr());
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
        old_irql.write(acquire_raising(lock, DISPATCH_LEVEL));
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock and returns the old IRQL.
    either both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireSpinLockRaiseToDpc(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock, DISPATCH_LEVEL))
    }

    /// Raises IRQL to SYNCH_LEVEL, takes the lock and returns the old IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KeAcquireSpinLockRaiseToSynch(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock, SYNCH_LEVEL))
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock and returns the old IRQL.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KfAcquireSpinLock(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock, DISPATCH_LEVEL))
    }

    /// Gives the lock back and lowers IRQL.
    either both stdcall irql(SYNCH_LEVEL) implemented
    fn KeReleaseSpinLock(lock: Ptr<Word>, new_irql: Irql) {
        release_lowering(lock, new_irql.0);
    }

    /// Gives the lock back and lowers IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KfReleaseSpinLock(lock: Ptr<Word>, new_irql: Irql) {
        release_lowering(lock, new_irql.0);
    }

    /// Takes the lock at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeAcquireSpinLockAtDpcLevel(lock: Ptr<Word>) {
        acquire_at_dpc(lock);
    }

    /// Gives the lock back at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeReleaseSpinLockFromDpcLevel(lock: Ptr<Word>) {
        release_from_dpc(lock);
    }

    /// Takes the lock at DISPATCH_LEVEL or above.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn KefAcquireSpinLockAtDpcLevel(lock: Ptr<Word>) {
        acquire_at_dpc(lock);
    }

    /// Gives the lock back at DISPATCH_LEVEL or above.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn KefReleaseSpinLockFromDpcLevel(lock: Ptr<Word>) {
        release_from_dpc(lock);
    }

    /// Takes the lock at DISPATCH_LEVEL or above if it is free; FALSE if it is not.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn KeTryToAcquireSpinLockAtDpcLevel(lock: Ptr<Word>) -> Boolean {
        check_acquire(lock.addr());
        try_acquire(lock)
    }

    /// Whether the lock is free.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn KeTestSpinLock(lock: Ptr<Word>) -> Boolean {
        lock.read() == 0
    }

    /// Takes the lock in a DPC, threaded or not, and returns the old IRQL.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireSpinLockForDpc(lock: Ptr<Word>) -> Irql {
        Irql(acquire_raising(lock, DISPATCH_LEVEL))
    }

    /// Gives back a lock that KeAcquireSpinLockForDpc took.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeReleaseSpinLockForDpc(lock: Ptr<Word>, old_irql: Irql) {
        release_lowering(lock, old_irql.0);
    }
}
