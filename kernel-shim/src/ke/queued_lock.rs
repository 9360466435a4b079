//! Queued spin locks: in-stack ones, and the kernel's own, which have numbers.
//!
//! The lock's word holds the address of its holder's queue entry, as on NT, so a plain release of a queued lock, or
//! the release with another handle than the one that took it, is seen.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::api::nt_api;
use crate::ke::irql::{lower, raise};
use crate::ke::spin_lock::{
    already_owned, check_acquire, check_release, check_release_and_lower, not_owned,
};
use crate::nt::{DISPATCH_LEVEL, KLOCK_QUEUE_HANDLE, SYNCH_LEVEL};
use crate::raw::{Ptr, Word};
use crate::value::{Irql, ULong};

/// Number of the kernel's own queued locks (LockQueueMaximumLock).
const NUMBERED: u64 = 17;
/// Which of them are held.
static HELD: AtomicU32 = AtomicU32::new(0);

fn acquire(lock: Ptr<Word>, handle: Ptr<KLOCK_QUEUE_HANDLE>, old_irql: u8) {
    if lock.read() != 0 {
        already_owned(lock.addr());
    }
    handle.with(|handle| {
        handle.Next = 0;
        handle.Lock = lock;
        handle.OldIrql = old_irql;
    });
    lock.write(handle.word());
}

fn release(handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    let lock = handle.read().Lock;
    if lock.read() != handle.word() {
        not_owned(lock.addr());
    }
    lock.write(0);
}

fn release_and_lower(handle: Ptr<KLOCK_QUEUE_HANDLE>) {
    let KLOCK_QUEUE_HANDLE { Lock, OldIrql, .. } = handle.read();
    release(handle);
    check_release_and_lower(Lock.addr());
    lower(OldIrql);
}

fn bit(number: ULong) -> u32 {
    assert!(
        u64::from(number) < NUMBERED,
        "there is no queued spin lock {}",
        number
    );
    1 << number
}

fn acquire_numbered(number: ULong) {
    let bit = bit(number);
    if HELD.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        already_owned(number.into());
    }
}

nt_api! { module = ke_queued_lock;
    /// Raises IRQL to DISPATCH_LEVEL and takes the lock; the handle remembers the old IRQL.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireInStackQueuedSpinLock(lock: Ptr<Word>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        acquire(lock, handle, raise(DISPATCH_LEVEL));
    }

    /// Raises IRQL to SYNCH_LEVEL and takes the lock; the handle remembers the old IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KeAcquireInStackQueuedSpinLockRaiseToSynch(lock: Ptr<Word>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        acquire(lock, handle, raise(SYNCH_LEVEL));
    }

    /// Gives the lock back and restores IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KeReleaseInStackQueuedSpinLock(handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        release_and_lower(handle);
    }

    /// Takes the lock at DISPATCH_LEVEL or above.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn KeAcquireInStackQueuedSpinLockAtDpcLevel(lock: Ptr<Word>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        check_acquire(lock.addr());
        acquire(lock, handle, crate::shared::irql());
    }

    /// Gives the lock back at DISPATCH_LEVEL or above.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn KeReleaseInStackQueuedSpinLockFromDpcLevel(handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        release(handle);
        check_release(handle.read().Lock.addr());
    }

    /// Takes the lock in a DPC, threaded or not.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireInStackQueuedSpinLockForDpc(lock: Ptr<Word>, handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        acquire(lock, handle, raise(DISPATCH_LEVEL));
    }

    /// Gives back a lock that KeAcquireInStackQueuedSpinLockForDpc took.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeReleaseInStackQueuedSpinLockForDpc(handle: Ptr<KLOCK_QUEUE_HANDLE>) {
        release_and_lower(handle);
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes one of the kernel's own locks, 0 to 16, and returns the old IRQL.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeAcquireQueuedSpinLock(number: ULong) -> Irql {
        let old = raise(DISPATCH_LEVEL);
        acquire_numbered(number);
        Irql(old)
    }

    /// Raises IRQL to SYNCH_LEVEL, takes one of the kernel's own locks and returns the old IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KeAcquireQueuedSpinLockRaiseToSynch(number: ULong) -> Irql {
        let old = raise(SYNCH_LEVEL);
        acquire_numbered(number);
        Irql(old)
    }

    /// Gives one of the kernel's own locks back and lowers IRQL.
    either both fastcall irql(SYNCH_LEVEL) implemented
    fn KeReleaseQueuedSpinLock(number: ULong, old_irql: Irql) {
        let bit = bit(number);
        if HELD.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
            not_owned(number.into());
        }
        lower(old_irql.0);
    }

    /// Takes one of the kernel's own locks, at DISPATCH_LEVEL, if it is free. FALSE: it is not, and IRQL is as before.
    either both fastcall irql(DISPATCH_LEVEL) implemented
    fn KeTryToAcquireQueuedSpinLock(number: ULong, old_irql: Ptr<u8>) -> ULong {
        let bit = bit(number);
        if HELD.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return 0;
        }
        old_irql.write(raise(DISPATCH_LEVEL));
        1
    }
}

/// No lock is held.
pub(crate) fn initialize() {
    HELD.store(0, Ordering::Relaxed);
}
