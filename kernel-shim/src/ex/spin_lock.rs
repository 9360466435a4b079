//! Reader/writer spin locks (EX_SPIN_LOCK): bit 31 says that a writer has it, the rest counts readers.

use crate::api::nt_api;
use crate::ke::irql::{lower, raise};
use crate::ke::spin_lock::{
    already_owned, check_acquire, check_release, check_release_and_lower, not_owned,
};
use crate::nt::DISPATCH_LEVEL;
use crate::raw::Ptr;
use crate::value::{Irql, ULong};

const WRITER: u32 = 0x8000_0000;

fn try_acquire_shared(lock: Ptr<u32>) -> bool {
    lock.with(|value| {
        let is_granted = *value & WRITER == 0;
        if is_granted {
            *value += 1;
        }
        is_granted
    })
}

fn try_acquire_exclusive(lock: Ptr<u32>) -> bool {
    lock.with(|value| {
        let is_granted = *value == 0;
        if is_granted {
            *value = WRITER;
        }
        is_granted
    })
}

fn acquire_shared(lock: Ptr<u32>) {
    if !try_acquire_shared(lock) {
        already_owned(lock.addr());
    }
}

fn acquire_exclusive(lock: Ptr<u32>) {
    if !try_acquire_exclusive(lock) {
        already_owned(lock.addr());
    }
}

fn release_shared(lock: Ptr<u32>) {
    let value = lock.read();
    if value == 0 || value & WRITER != 0 {
        not_owned(lock.addr());
    }
    lock.write(value - 1);
}

fn release_exclusive(lock: Ptr<u32>) {
    if lock.read() & WRITER == 0 {
        not_owned(lock.addr());
    }
    lock.write(0);
}

nt_api! { module = ex_spin_lock;
    /// Raises IRQL to DISPATCH_LEVEL, takes the lock as a reader and returns the old IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAcquireSpinLockShared(lock: Ptr<u32>) -> Irql {
        let old = raise(DISPATCH_LEVEL);
        acquire_shared(lock);
        Irql(old)
    }

    /// Gives a reader's lock back and lowers IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseSpinLockShared(lock: Ptr<u32>, old_irql: Irql) {
        release_shared(lock);
        check_release_and_lower(lock.addr());
        lower(old_irql.0);
    }

    /// Raises IRQL to DISPATCH_LEVEL, takes the lock as the writer and returns the old IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAcquireSpinLockExclusive(lock: Ptr<u32>) -> Irql {
        let old = raise(DISPATCH_LEVEL);
        acquire_exclusive(lock);
        Irql(old)
    }

    /// Gives the writer's lock back and lowers IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseSpinLockExclusive(lock: Ptr<u32>, old_irql: Irql) {
        release_exclusive(lock);
        check_release_and_lower(lock.addr());
        lower(old_irql.0);
    }

    /// Takes the lock as a reader at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExAcquireSpinLockSharedAtDpcLevel(lock: Ptr<u32>) {
        check_acquire(lock.addr());
        acquire_shared(lock);
    }

    /// Gives a reader's lock back at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExReleaseSpinLockSharedFromDpcLevel(lock: Ptr<u32>) {
        release_shared(lock);
        check_release(lock.addr());
    }

    /// Takes the lock as the writer at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExAcquireSpinLockExclusiveAtDpcLevel(lock: Ptr<u32>) {
        check_acquire(lock.addr());
        acquire_exclusive(lock);
    }

    /// Gives the writer's lock back at DISPATCH_LEVEL or above.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExReleaseSpinLockExclusiveFromDpcLevel(lock: Ptr<u32>) {
        release_exclusive(lock);
        check_release(lock.addr());
    }

    /// Takes the lock as a reader at DISPATCH_LEVEL or above, unless a writer has it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExTryAcquireSpinLockSharedAtDpcLevel(lock: Ptr<u32>) -> ULong {
        check_acquire(lock.addr());
        try_acquire_shared(lock).into()
    }

    /// Takes the lock as the writer at DISPATCH_LEVEL or above, if it is free.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExTryAcquireSpinLockExclusiveAtDpcLevel(lock: Ptr<u32>) -> ULong {
        check_acquire(lock.addr());
        try_acquire_exclusive(lock).into()
    }

    /// Makes the only reader the writer. 0: there are other readers, and the caller is still one.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExTryConvertSharedSpinLockExclusive(lock: Ptr<u32>) -> ULong {
        check_acquire(lock.addr());
        lock.with(|value| match *value {
            0 => not_owned(lock.addr()),
            1 => {
                *value = WRITER;
                1
            }
            _ => 0,
        })
    }
}
