//! Kernel queues: entries for a pool of threads, of which only so many run at a time.
//!
//! A thread belongs to the queue that it last removed an entry from. CurrentCount is how many of a queue's threads do
//! not wait, for whatever; one more may start when one begins to wait.

use core::mem::offset_of;

use crate::api::nt_api;
use crate::ke::dispatcher::{self as objects, end_wait, end_wait_with};
use crate::ke::{apc, sched, time, timer, wait};
use crate::nt::{KQUEUE, KTHREAD, KWAIT_BLOCK, LIST_ENTRY, NtStatus, dispatcher};
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::value::{Boolean, Long, ProcessorMode, ULong};

/// KWAIT_REASON WrQueue.
const WR_QUEUE: u8 = 15;

fn entries(queue: Ptr<KQUEUE>) -> Ptr<LIST_ENTRY> {
    queue
        .add_bytes(offset_of!(KQUEUE, EntryListHead) as u64)
        .cast()
}

fn threads(queue: Ptr<KQUEUE>) -> Ptr<LIST_ENTRY> {
    queue
        .add_bytes(offset_of!(KQUEUE, ThreadListHead) as u64)
        .cast()
}

fn thread_link(thread: Ptr<KTHREAD>) -> Ptr<LIST_ENTRY> {
    thread
        .add_bytes(offset_of!(KTHREAD, QueueListEntry) as u64)
        .cast()
}

/// The thread that waits for the queue since the shortest time: it gets the next entry.
fn last_waiter(queue: Ptr<KQUEUE>) -> Option<Ptr<KTHREAD>> {
    let head = objects::wait_list(queue.cast());
    let last = head.read().Blink;
    (last != head).then(|| last.cast::<KWAIT_BLOCK>().with(|block| block.Thread))
}

fn may_run_one_more(queue: Ptr<KQUEUE>) -> bool {
    queue.with(|queue| queue.CurrentCount < queue.MaximumCount)
}

fn pop(queue: Ptr<KQUEUE>) -> Option<Ptr<LIST_ENTRY>> {
    let entry = entries(queue).list_pop()?;
    queue.with(|queue| queue.Header.SignalState -= 1);
    entry.with(|entry| entry.Flink = Ptr::null());
    Some(entry)
}

/// Hands entries to waiting threads while more may run.
fn activate(queue: Ptr<KQUEUE>) {
    while may_run_one_more(queue) && !entries(queue).list_is_empty() {
        let Some(thread) = last_waiter(queue) else {
            return;
        };
        let Some(entry) = pop(queue) else { return };
        end_wait_with(thread, entry.word(), 0);
    }
}

/// A thread of the queue begins to wait.
pub(super) fn thread_waits(queue: Ptr<KQUEUE>) {
    queue.with(|queue| queue.CurrentCount = queue.CurrentCount.wrapping_sub(1));
    activate(queue);
}

/// A thread ends, or goes to another queue.
pub(crate) fn leave(thread: Ptr<KTHREAD>) {
    let queue = thread.with(|thread| core::mem::take(&mut thread.Queue));
    if !queue.is_null() {
        thread_link(thread).list_remove();
        thread_waits(queue);
    }
}

fn insert(queue: Ptr<KQUEUE>, entry: Ptr<LIST_ENTRY>, at_head: bool) -> i32 {
    let old = queue.with(|queue| {
        queue.Header.SignalState += 1;
        queue.Header.SignalState - 1
    });
    if at_head {
        entries(queue).list_insert_head(entry);
    } else {
        entries(queue).list_insert_tail(entry);
    }
    activate(queue);
    old
}

/// The next entry, or a status in its place.
fn remove(queue: Ptr<KQUEUE>, mode: u8, is_alertable: bool, timeout: Option<i64>) -> Word {
    let thread = sched::current();
    if thread.with(|thread| thread.Queue) == queue {
        queue.with(|queue| queue.CurrentCount = queue.CurrentCount.wrapping_sub(1));
    } else {
        leave(thread);
        thread.with(|thread| thread.Queue = queue);
        threads(queue).list_insert_tail(thread_link(thread));
    }
    let until = timeout.map_or(u64::MAX, timer::due_time);
    // CurrentCount is without this thread here.
    loop {
        if may_run_one_more(queue)
            && let Some(entry) = pop(queue)
        {
            queue.with(|queue| queue.CurrentCount += 1);
            return entry.word();
        }
        queue.with(|queue| queue.CurrentCount += 1);
        let left = if until == u64::MAX {
            None
        } else {
            Some(-(until.saturating_sub(time::interrupt_time()).cast_signed()))
        };
        if timeout == Some(0) || left == Some(0) {
            return to_word(u64::from(NtStatus::TIMEOUT.0));
        }
        let how = wait::Wait {
            is_any: true,
            reason: WR_QUEUE,
            mode,
            is_alertable,
            timeout: left,
        };
        let word = wait::for_queue(queue.cast(), &how);
        if word != to_word(u64::from(NtStatus::KERNEL_APC.0)) {
            return word;
        }
        apc::deliver();
        queue.with(|queue| queue.CurrentCount = queue.CurrentCount.wrapping_sub(1));
    }
}

nt_api! { module = ke_queue;
    /// Makes a queue for as many running threads as `count` says; 0: one for each processor.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInitializeQueue(queue: Ptr<KQUEUE>, count: ULong) {
        let none = LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() };
        queue.write(KQUEUE {
            Header: objects::header(queue.cast(), dispatcher::QUEUE, size_of::<KQUEUE>(), 0),
            EntryListHead: none,
            CurrentCount: 0,
            MaximumCount: count.max(1),
            ThreadListHead: none,
        });
        entries(queue).list_initialize();
        threads(queue).list_initialize();
    }

    /// Appends an entry; returns the number of entries before.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInsertQueue(queue: Ptr<KQUEUE>, entry: Ptr<LIST_ENTRY>) -> Long {
        insert(queue, entry, false)
    }

    /// Inserts an entry as the first; returns the number of entries before.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInsertHeadQueue(queue: Ptr<KQUEUE>, entry: Ptr<LIST_ENTRY>) -> Long {
        insert(queue, entry, true)
    }

    /// Takes the first entry, waiting for one; or STATUS_TIMEOUT, STATUS_USER_APC, STATUS_ABANDONED as its address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveQueue(queue: Ptr<KQUEUE>, mode: ProcessorMode, timeout: Ptr<i64>) -> Ptr<LIST_ENTRY> {
        Ptr::new(from_word(remove(queue, mode.0, false, timeout.non_null().map(Ptr::read))))
    }

    /// Takes up to `count` entries, waiting for the first; returns how many, or a status as KeRemoveQueue.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveQueueEx(
        queue: Ptr<KQUEUE>,
        mode: ProcessorMode,
        alertable: Boolean,
        timeout: Ptr<i64>,
        entry_array: Ptr<Word>,
        count: ULong,
    ) -> ULong {
        let first = remove(queue, mode.0, alertable, timeout.non_null().map(Ptr::read));
        let statuses = [NtStatus::TIMEOUT, NtStatus::USER_APC, NtStatus::ABANDONED, NtStatus::ALERTED];
        if statuses.iter().any(|status| to_word(u64::from(status.0)) == first) {
            return low32(from_word(first));
        }
        entry_array.write(first);
        let mut taken = 1;
        while taken < count
            && let Some(entry) = pop(queue)
        {
            entry_array.offset(i64::from(taken)).write(entry.word());
            taken += 1;
        }
        taken
    }

    /// Number of entries.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReadStateQueue(queue: Ptr<KQUEUE>) -> Long {
        queue.with(|queue| queue.Header.SignalState)
    }

    /// Ends a queue: its threads leave it, those that wait with STATUS_ABANDONED. Returns the first of the entries that
    /// were left, linked to the others, or null.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRundownQueue(queue: Ptr<KQUEUE>) -> Ptr<LIST_ENTRY> {
        let head = entries(queue);
        let first = head.read().Flink;
        let left = if first == head {
            Ptr::null()
        } else {
            head.list_remove();
            head.list_initialize();
            first
        };
        queue.with(|queue| queue.Header.SignalState = 0);
        while let Some(thread) = last_waiter(queue) {
            end_wait(thread, NtStatus::ABANDONED, 0);
        }
        while let Some(entry) = threads(queue).list_pop() {
            let thread = entry.sub_bytes(offset_of!(KTHREAD, QueueListEntry) as u64).cast::<KTHREAD>();
            thread.with(|thread| thread.Queue = Ptr::null());
        }
        queue.with(|queue| queue.CurrentCount = 0);
        left
    }
}
