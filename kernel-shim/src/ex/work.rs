//! Work items: routines that are called later, at PASSIVE_LEVEL in the System process.
//!
//! There are three queues, the most urgent first. [`take`] hands out the next item and [`run`] runs it, on worker threads,
//! which [`work_was_queued`] wakes.

use alloc::collections::VecDeque;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::bugcheck::{WORKER_INVALID, WORKER_THREAD_RETURNED_AT_BAD_IRQL, bugcheck_with_text};
use crate::nt::{IO_WORKITEM, LIST_ENTRY, PASSIVE_LEVEL, WORK_QUEUE_ITEM};
use crate::raw::{Global, Ptr, from_word, low32};
use crate::value::ULong;
use crate::{ob, ps, shared};
use abi::layout;
use abi::trace::Entry;

/// Work queues: CriticalWorkQueue 0, DelayedWorkQueue 1, HyperCriticalWorkQueue 2.
const QUEUES: usize = 3;
/// The order in which they are served.
const ORDER: [usize; QUEUES] = [2, 0, 1];
/// WORKER_INVALID: an item is queued that is queued already, or whose routine is no kernel address.
const ALREADY_QUEUED: u64 = 1;

/// A queued item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WorkItem {
    /// ExQueueWorkItem.
    Executive(Ptr<WORK_QUEUE_ITEM>),
    /// IoQueueWorkItem and its like.
    Device(Ptr<IO_WORKITEM>),
    /// A job of WMI's; a block of the pool that is freed.
    Wmi(Ptr<WORK_QUEUE_ITEM>),
}

impl WorkItem {
    fn header(self) -> Ptr<WORK_QUEUE_ITEM> {
        match self {
            Self::Executive(item) | Self::Wmi(item) => item,
            Self::Device(item) => item.cast(),
        }
    }
}

static WORK: Global<[VecDeque<WorkItem>; QUEUES]> =
    Global::new("work items", [const { VecDeque::new() }; QUEUES]);

/// Nothing is queued.
pub(crate) fn initialize() {
    WORK.with(|queues| queues.iter_mut().for_each(VecDeque::clear));
}

/// Called whenever an item was queued.
fn work_was_queued() {
    ps::worker::wake();
}

/// Whether nothing is queued.
pub(crate) fn is_empty() -> bool {
    WORK.with(|queues| queues.iter().all(VecDeque::is_empty))
}

/// Whether the item is in a queue.
pub(crate) fn is_queued(item: Ptr<WORK_QUEUE_ITEM>) -> bool {
    WORK.with(|queues| {
        queues
            .iter()
            .flatten()
            .any(|queued| queued.header() == item)
    })
}

/// Queues an item. An item that is queued already, or a queue that does not exist, is a bugcheck.
pub(crate) fn queue(item: WorkItem, number: u32) {
    let header = item.header();
    if is_queued(header) {
        bugcheck_with_text(
            WORKER_INVALID,
            [ALREADY_QUEUED, header.addr(), 0, 0],
            format_args!(
                "work item {:#x} is queued while it is queued already",
                header.addr()
            ),
        );
    }
    // The queue numbers above are priorities of Windows 8 (CustomPriorityWorkQueue): 32 + thread priority.
    let queue = match number {
        0..=2 => number as usize,
        32..=63 => 1,
        _ => bugcheck_with_text(
            WORKER_INVALID,
            [ALREADY_QUEUED, header.addr(), number.into(), 0],
            format_args!(
                "work item {:#x} is queued to queue {number}, which there is not",
                header.addr()
            ),
        ),
    };
    header.with(|header| {
        header.List = LIST_ENTRY {
            Flink: header_links(item),
            Blink: header_links(item),
        }
    });
    WORK.with(|queues| queues[queue].push_back(item));
    work_was_queued();
}

fn header_links(item: WorkItem) -> Ptr<LIST_ENTRY> {
    item.header().cast()
}

/// Takes the next item out of its queue.
pub(crate) fn take() -> Option<WorkItem> {
    let item = WORK.with(|queues| {
        ORDER
            .into_iter()
            .find_map(|queue| queues.get_mut(queue)?.pop_front())
    })?;
    item.header().with(|header| header.List.Flink = Ptr::null());
    Some(item)
}

/// Runs an item. Its memory may be gone when its routine returns.
pub(crate) fn run(item: WorkItem) {
    let process = shared::current_process();
    shared::set_current_process(ps::SYSTEM_ID);
    let routine = match item {
        WorkItem::Executive(item) => {
            let WORK_QUEUE_ITEM {
                WorkerRoutine,
                Parameter,
                ..
            } = item.read();
            let routine = from_word(WorkerRoutine);
            shared::call_driver(Entry::Other, routine, &[from_word(Parameter)]);
            routine
        }
        WorkItem::Device(item) => {
            let IO_WORKITEM {
                Routine,
                IoObject,
                Context,
                Type,
                ..
            } = item.read();
            let (routine, context) = (from_word(Routine), from_word(Context));
            let arguments = [IoObject.addr(), context, item.addr()];
            let count = if Type == 1 { 3 } else { 2 };
            shared::call_driver(Entry::Other, routine, &arguments[..count]);
            ob::dereference(IoObject.addr());
            routine
        }
        WorkItem::Wmi(block) => {
            pool::free(block.cast(), 0);
            crate::io::wmi::run_job();
            0
        }
    };
    let irql = shared::irql();
    if irql != PASSIVE_LEVEL {
        bugcheck_with_text(
            WORKER_THREAD_RETURNED_AT_BAD_IRQL,
            [routine, irql.into(), item.header().addr(), 0],
            format_args!("the worker routine {routine:#x} returned at IRQL {irql}"),
        );
    }
    shared::set_current_process(process);
}

/// Runs all that is queued, and what that queues.
#[cfg(test)]
pub(crate) fn run_all() {
    while let Some(item) = take() {
        run(item);
        crate::ke::deliver_deferred();
    }
}

nt_api! { module = ex_work;
    /// Queues a work item: CriticalWorkQueue 0, DelayedWorkQueue 1, HyperCriticalWorkQueue 2.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExQueueWorkItem(item: Ptr<WORK_QUEUE_ITEM>, queue_type: ULong) {
        let routine = from_word(item.read().WorkerRoutine);
        if routine <= layout::HIGHEST_USER_ADDRESS {
            bugcheck_with_text(WORKER_INVALID, [ALREADY_QUEUED, item.addr(), routine, 0],
                format_args!("work item {:#x} has the routine {routine:#x}, which is no kernel address", item.addr()));
        }
        queue(WorkItem::Executive(item), low32(queue_type.into()));
    }
}
