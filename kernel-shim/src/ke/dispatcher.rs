//! What dispatcher objects have in common: when a wait for one is satisfied, what that changes, and who is woken.

use core::mem::offset_of;

use crate::ke::sched;
use crate::nt::thread::{field, field::state};
use crate::nt::{
    DISPATCHER_HEADER, KMUTANT, KTHREAD, KWAIT_BLOCK, LIST_ENTRY, NtStatus, dispatcher,
};
use crate::raw::{Ptr, Word, low32, to_word};

/// KWAIT_BLOCK.WaitType: all objects at once.
pub(crate) const WAIT_ALL: u8 = 0;
/// KWAIT_BLOCK.WaitType: any of the objects.
pub(crate) const WAIT_ANY: u8 = 1;
/// Added to a wait's status when a mutex was abandoned.
pub(crate) const ABANDONED: u32 = 0x80;

/// A new header; `bytes` is the whole object's size.
#[must_use]
pub fn header(
    object: Ptr<DISPATCHER_HEADER>,
    kind: u8,
    bytes: usize,
    state: i32,
) -> DISPATCHER_HEADER {
    let list = wait_list(object);
    DISPATCHER_HEADER {
        Type: kind,
        Absolute: 0,
        Size: crate::raw::low8(bytes as u64 / 4),
        Inserted: 0,
        SignalState: state,
        WaitListHead: LIST_ENTRY {
            Flink: list,
            Blink: list,
        },
    }
}

/// The head of an object's list of waiters.
#[must_use]
#[inline]
pub fn wait_list(object: Ptr<DISPATCHER_HEADER>) -> Ptr<LIST_ENTRY> {
    object
        .add_bytes(offset_of!(DISPATCHER_HEADER, WaitListHead) as u64)
        .cast()
}

/// Whether a wait of `thread` for `object` would be satisfied now.
#[must_use]
pub(crate) fn is_signalled(object: Ptr<DISPATCHER_HEADER>, thread: Ptr<KTHREAD>) -> bool {
    let (kind, signal) = object.with(|header| (header.Type, header.SignalState));
    signal > 0
        || kind == dispatcher::MUTANT
            && object.cast::<KMUTANT>().with(|mutant| mutant.OwnerThread) == thread
}

/// Takes what a satisfied wait takes. True: it was an abandoned mutex.
pub(crate) fn satisfy(object: Ptr<DISPATCHER_HEADER>, thread: Ptr<KTHREAD>) -> bool {
    match object.with(|header| header.Type) {
        dispatcher::SYNCHRONIZATION_EVENT | dispatcher::SYNCHRONIZATION_TIMER => {
            object.with(|header| header.SignalState = 0);
            false
        }
        dispatcher::SEMAPHORE => {
            object.with(|header| header.SignalState -= 1);
            false
        }
        dispatcher::MUTANT => super::mutex::acquire(object.cast(), thread),
        _ => false,
    }
}

fn block_of(entry: Ptr<LIST_ENTRY>) -> Ptr<KWAIT_BLOCK> {
    // WaitListEntry is the first field.
    entry.cast()
}

/// The blocks of a thread's wait, the timer's among them.
fn blocks_of(thread: Ptr<KTHREAD>) -> impl Iterator<Item = Ptr<KWAIT_BLOCK>> + Clone {
    let first = thread.with(|thread| thread.WaitBlockList);
    let mut next = first;
    core::iter::from_fn(move || {
        let block = next.non_null()?;
        let after = block.with(|block| block.NextWaitBlock);
        next = if after == first { Ptr::null() } else { after };
        Some(block)
    })
}

/// Satisfies all objects of a WaitAll at once, if all are signalled. The wait's status.
pub(crate) fn try_all(
    objects: impl Iterator<Item = Ptr<DISPATCHER_HEADER>> + Clone,
    thread: Ptr<KTHREAD>,
) -> Option<NtStatus> {
    if !objects.clone().all(|object| is_signalled(object, thread)) {
        return None;
    }
    let mut is_abandoned = false;
    for object in objects {
        is_abandoned |= satisfy(object, thread);
    }
    Some(if is_abandoned {
        NtStatus(ABANDONED)
    } else {
        NtStatus::SUCCESS
    })
}

/// Wakes whoever waits for `object` and may go on now that it is signalled.
pub(crate) fn wake(object: Ptr<DISPATCHER_HEADER>, increment: i32) {
    let head = wait_list(object);
    let mut entry = head.read().Flink;
    while entry != head && object.with(|header| header.SignalState) > 0 {
        let block = block_of(entry).read();
        let thread = block.Thread;
        let status = if block.WaitType == WAIT_ANY {
            let flag = if satisfy(object, thread) {
                ABANDONED
            } else {
                0
            };
            Some(NtStatus(u32::from(block.WaitKey) | flag))
        } else {
            let objects = blocks_of(thread)
                .map(|block| block.with(|block| (block.WaitType, block.Object)))
                .filter(|(kind, _)| *kind == WAIT_ALL)
                .map(|(_, object)| object);
            try_all(objects, thread)
        };
        match status {
            Some(status) => {
                end_wait(thread, status, increment);
                entry = head.read().Flink;
            }
            None => entry = entry.read().Flink,
        }
    }
}

/// Ends a thread's wait with that status.
pub(crate) fn end_wait(thread: Ptr<KTHREAD>, status: NtStatus, increment: i32) {
    end_wait_with(thread, to_word(u64::from(status.0)), increment);
}

/// Ends a thread's wait with that status, or the entry of a queue.
pub(super) fn end_wait_with(thread: Ptr<KTHREAD>, status: Word, increment: i32) {
    for block in blocks_of(thread) {
        if block.with(|block| block.BlockState) != 0 {
            block.cast::<LIST_ENTRY>().list_remove();
            block.with(|block| block.BlockState = 0);
        }
    }
    let (timer_is_set, queue) = thread.with(|thread| {
        thread.WaitBlockList = Ptr::null();
        thread.WaitStatus = status;
        (thread.Timer.Header.Inserted != 0, thread.Queue)
    });
    if timer_is_set {
        super::timer::cancel(super::wait::timer_of(thread));
    }
    if !queue.is_null() {
        queue.with(|queue| queue.CurrentCount += 1);
    }
    sched::boost(thread, increment);
    sched::make_ready(thread);
}

/// Whether a thread waits.
#[must_use]
pub(crate) fn is_waiting(thread: Ptr<KTHREAD>) -> bool {
    sched::state_of(thread).read() == state::WAITING
}

/// The status that ended the current thread's wait.
pub(crate) fn wait_status(thread: Ptr<KTHREAD>) -> NtStatus {
    NtStatus(low32(crate::raw::from_word(
        thread.with(|thread| thread.WaitStatus),
    )))
}

/// KTHREAD.WaitIrql and .WaitMode.
pub(crate) fn set_wait(thread: Ptr<KTHREAD>, irql: u8, mode: u8) {
    thread.add_bytes(field::WAIT_IRQL).cast::<u8>().write(irql);
    thread.add_bytes(field::WAIT_MODE).cast::<u8>().write(mode);
}
