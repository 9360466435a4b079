//! Push locks (EX_PUSH_LOCK): one word. Bit 0: held; bit 1: somebody waits; from bit 4: number of shared holders.
//!
//! Waiters are served in the order in which they came. A push lock knows no owner, so a thread that acquires one
//! exclusively twice waits for ever, as on NT.

use crate::api::nt_api;
use crate::ke::waiters::{self, Waiter};
use crate::nt::bugcheck::violation;
use crate::raw::{Ptr, Word};
use crate::value::{Boolean, ULong};

const LOCKED: Word = 1;
const WAITING: Word = 2;
const SHARED: Word = 16;
/// Driver Verifier's number: a lock is released that nobody has.
const NOT_ACQUIRED: u64 = 0x1007;

fn try_acquire(lock: Ptr<Word>, is_exclusive: bool) -> bool {
    lock.with(|value| {
        let is_shared = *value >= SHARED && *value & WAITING == 0;
        let is_granted = *value == 0 || (is_shared && !is_exclusive);
        if is_granted {
            *value = (*value | LOCKED) + if is_exclusive { 0 } else { SHARED };
        }
        is_granted
    })
}

fn acquire(lock: Ptr<Word>, is_exclusive: bool) {
    if !try_acquire(lock, is_exclusive) {
        lock.with(|value| *value |= WAITING);
        waiters::block(lock.addr(), is_exclusive);
    }
}

/// Passes a lock that has become free to who waits: one writer, or all readers in front of the next one.
fn pass_on(lock: Ptr<Word>) {
    let at = lock.addr();
    let mut next = waiters::take(at, |_| true);
    let mut value = 0;
    while let Some(waiter) = next {
        value = (value | LOCKED) + if waiter.is_exclusive { 0 } else { SHARED };
        let is_reader = |waiter: Waiter| !waiter.is_exclusive;
        next = if is_reader(waiter) && waiters::first(at).is_some_and(is_reader) {
            waiters::take(at, |_| true)
        } else {
            None
        };
        // The word must be right before the woken thread looks at it.
        let rest = if next.is_some() || waiters::first(at).is_some() {
            WAITING
        } else {
            0
        };
        lock.write(value | rest);
        waiters::wake(waiter);
    }
}

fn release(lock: Ptr<Word>) {
    let value = lock.read();
    if value & LOCKED == 0 {
        violation(
            NOT_ACQUIRED,
            [lock.addr(), 0, 0],
            format_args!(
                "push lock {:#x} is released, but nobody holds it",
                lock.addr()
            ),
        );
    }
    let readers = (value / SHARED).saturating_sub(1);
    if readers > 0 {
        lock.write((readers * SHARED) | (value & WAITING) | LOCKED);
        return;
    }
    lock.write(0);
    pass_on(lock);
}

nt_api! { module = ex_push_lock;
    /// Makes a push lock free.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInitializePushLock(lock: Ptr<Word>) {
        lock.write(0);
    }

    /// Acquires the lock exclusively.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfAcquirePushLockExclusive(lock: Ptr<Word>) {
        acquire(lock, true);
    }

    /// Acquires the lock shared.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfAcquirePushLockShared(lock: Ptr<Word>) {
        acquire(lock, false);
    }

    /// Acquires the lock shared if nobody has to be waited for.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfTryAcquirePushLockShared(lock: Ptr<Word>) -> Boolean {
        try_acquire(lock, false)
    }

    /// Releases the lock.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfReleasePushLock(lock: Ptr<Word>) {
        release(lock);
    }

    /// Releases the lock held exclusively.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfReleasePushLockExclusive(lock: Ptr<Word>) {
        release(lock);
    }

    /// Releases the lock held shared.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfReleasePushLockShared(lock: Ptr<Word>) {
        release(lock);
    }

    /// Wakes who waits for a lock that is free: inline code of drivers releases locks without it.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExfTryToWakePushLock(lock: Ptr<Word>) {
        if lock.read() & LOCKED == 0 {
            pass_on(lock);
        }
    }

    /// Acquires the lock exclusively.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExAcquirePushLockExclusiveEx(lock: Ptr<Word>, flags: ULong) {
        acquire(lock, true);
    }

    /// Acquires the lock shared.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExAcquirePushLockSharedEx(lock: Ptr<Word>, flags: ULong) {
        acquire(lock, false);
    }

    /// Acquires the lock exclusively if it is free.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExTryAcquirePushLockExclusiveEx(lock: Ptr<Word>, flags: ULong) -> Boolean {
        try_acquire(lock, true)
    }

    /// Acquires the lock shared if nobody has to be waited for.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExTryAcquirePushLockSharedEx(lock: Ptr<Word>, flags: ULong) -> Boolean {
        try_acquire(lock, false)
    }

    /// Releases the lock held exclusively.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExReleasePushLockExclusiveEx(lock: Ptr<Word>, flags: ULong) {
        release(lock);
    }

    /// Releases the lock held shared.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExReleasePushLockSharedEx(lock: Ptr<Word>, flags: ULong) {
        release(lock);
    }

    /// Releases the lock.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExReleasePushLockEx(lock: Ptr<Word>, flags: ULong) {
        release(lock);
    }
}
