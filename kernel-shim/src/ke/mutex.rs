//! Mutexes (NT's mutants) and semaphores.

use core::mem::offset_of;

use crate::api::nt_api;
use crate::ke::dispatcher::{self as objects};
use crate::ke::{apc, event, sched};
use crate::nt::{KMUTANT, KSEMAPHORE, KTHREAD, LIST_ENTRY, NtStatus, dispatcher};
use crate::raw::Ptr;
use crate::rtl::raise::raise_status as raise;
use crate::value::{Boolean, Long, ULong};

fn owner_link(mutex: Ptr<KMUTANT>) -> Ptr<LIST_ENTRY> {
    mutex
        .add_bytes(offset_of!(KMUTANT, MutantListEntry) as u64)
        .cast()
}

fn owned_list(thread: Ptr<KTHREAD>) -> Ptr<LIST_ENTRY> {
    thread
        .add_bytes(offset_of!(KTHREAD, MutantListHead) as u64)
        .cast()
}

/// Makes a mutex. One with APC disable (a KMUTEX, not a mutant) keeps its owner from normal kernel APCs.
pub fn initialize(mutex: Ptr<KMUTANT>, disables_apcs: bool) {
    mutex.write(KMUTANT {
        Header: objects::header(mutex.cast(), dispatcher::MUTANT, size_of::<KMUTANT>(), 1),
        MutantListEntry: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
        OwnerThread: Ptr::null(),
        Abandoned: 0,
        ApcDisable: u8::from(disables_apcs),
    });
}

/// A wait of `thread` for the mutex is satisfied. True: it was abandoned.
pub(super) fn acquire(mutex: Ptr<KMUTANT>, thread: Ptr<KTHREAD>) -> bool {
    let (count, apc_disable, is_abandoned) = mutex.with(|mutex| {
        if mutex.Header.SignalState == i32::MIN {
            return (i32::MIN, 0, false);
        }
        mutex.Header.SignalState -= 1;
        let is_abandoned = core::mem::take(&mut mutex.Abandoned) != 0;
        (mutex.Header.SignalState, mutex.ApcDisable, is_abandoned)
    });
    if count == i32::MIN {
        raise(NtStatus::MUTANT_LIMIT_EXCEEDED);
    }
    if count == 0 {
        mutex.with(|mutex| mutex.OwnerThread = thread);
        owned_list(thread).list_insert_tail(owner_link(mutex));
        apc::disable(thread, i16::from(apc_disable));
    }
    is_abandoned
}

/// Gives a mutex back once; returns its old state. With `is_abandoned`, wholly, and the next owner is told.
fn release(mutex: Ptr<KMUTANT>, is_abandoned: bool, increment: i32) -> i32 {
    let (old, new, apc_disable, owner) = mutex.with(|mutex| {
        let old = mutex.Header.SignalState;
        mutex.Header.SignalState = if is_abandoned { 1 } else { old + 1 };
        if is_abandoned {
            mutex.Abandoned = 1;
        }
        let owner = mutex.OwnerThread;
        (old, mutex.Header.SignalState, mutex.ApcDisable, owner)
    });
    if new == 1 {
        owner_link(mutex).list_remove();
        mutex.with(|mutex| mutex.OwnerThread = Ptr::null());
        apc::enable(owner, i16::from(apc_disable));
        objects::wake(mutex.cast(), increment);
    }
    old
}

/// A thread ends: mutants that it owns are abandoned. A mutex with APC disable: that is the caller's bugcheck; `Err` says
/// which.
pub(crate) fn abandon_all(thread: Ptr<KTHREAD>) -> Result<(), Ptr<KMUTANT>> {
    loop {
        let entry = owned_list(thread).read().Flink;
        if entry == owned_list(thread) {
            return Ok(());
        }
        let mutex = entry
            .sub_bytes(offset_of!(KMUTANT, MutantListEntry) as u64)
            .cast::<KMUTANT>();
        if mutex.with(|mutex| mutex.ApcDisable) != 0 {
            return Err(mutex);
        }
        release(mutex, true, 0);
    }
}

nt_api! { module = ke_mutex;
    /// Makes a mutex, signalled. The level has no meaning any more.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeMutex(mutex: Ptr<KMUTANT>, level: ULong) {
        initialize(mutex, true);
    }

    /// Makes a mutant, which does not keep its owner from APCs and may be abandoned.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeMutant(mutant: Ptr<KMUTANT>, initial_owner: Boolean) {
        initialize(mutant, false);
        if initial_owner {
            acquire(mutant, sched::current());
        }
    }

    /// Gives a mutex back; returns its old state. Raises STATUS_MUTANT_NOT_OWNED, or STATUS_ABANDONED.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReleaseMutex(mutex: Ptr<KMUTANT>, wait: Boolean) -> Long {
        KeReleaseMutant(mutex, 1, false, wait)
    }

    /// Gives a mutant back, or abandons it; returns its old state. Raises as KeReleaseMutex does.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReleaseMutant(mutant: Ptr<KMUTANT>, increment: Long, abandoned: Boolean, wait: Boolean) -> Long {
        let (owner, is_abandoned) = mutant.with(|mutant| (mutant.OwnerThread, mutant.Abandoned != 0));
        if !abandoned && owner != sched::current() {
            raise(if is_abandoned { NtStatus::ABANDONED } else { NtStatus::MUTANT_NOT_OWNED });
        }
        let old = release(mutant, abandoned, increment);
        event::remember_wait(wait);
        old
    }

    /// A mutex's state: 1 when free, 0 and less when owned.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReadStateMutex(mutex: Ptr<KMUTANT>) -> Long {
        mutex.with(|mutex| mutex.Header.SignalState)
    }

    /// Makes a semaphore.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeSemaphore(semaphore: Ptr<KSEMAPHORE>, count: Long, limit: Long) {
        let Header = objects::header(semaphore.cast(), dispatcher::SEMAPHORE, size_of::<KSEMAPHORE>(), count);
        semaphore.write(KSEMAPHORE { Header, Limit: limit });
    }

    /// Adds to a semaphore's count; returns the old one. Raises STATUS_SEMAPHORE_LIMIT_EXCEEDED.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReleaseSemaphore(semaphore: Ptr<KSEMAPHORE>, increment: Long, adjustment: Long, wait: Boolean) -> Long {
        let (old, limit) = semaphore.with(|semaphore| (semaphore.Header.SignalState, semaphore.Limit));
        let new = old.wrapping_add(adjustment);
        if new > limit || new < old {
            raise(NtStatus::SEMAPHORE_LIMIT_EXCEEDED);
        }
        semaphore.with(|semaphore| semaphore.Header.SignalState = new);
        if new > 0 {
            objects::wake(semaphore.cast(), increment);
        }
        event::remember_wait(wait);
        old
    }

    /// A semaphore's count.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeReadStateSemaphore(semaphore: Ptr<KSEMAPHORE>) -> Long {
        semaphore.with(|semaphore| semaphore.Header.SignalState)
    }
}
