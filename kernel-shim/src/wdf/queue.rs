//! Queues: holding requests and presenting them to the driver.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::object;
use super::{deferred, request, serial};
use crate::io::cancel;
use crate::ke::sched;
use crate::nt::{
    DISPATCH_LEVEL, IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_READ,
    IRP_MJ_WRITE, NtStatus,
};
use crate::raw::{Word, from_word, low32};
use crate::shared;
use abi::trace::Entry;

/// WdfIoQueueDispatchSequential.
pub(crate) const SEQUENTIAL: u32 = 1;
/// WdfIoQueueDispatchParallel.
pub(crate) const PARALLEL: u32 = 2;
/// WdfIoQueueDispatchManual.
pub(crate) const MANUAL: u32 = 3;

/// WDF_IO_QUEUE_CONFIG.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_IO_QUEUE_CONFIG {
    /// Bytes.
    pub Size: u32,
    /// 1 sequential, 2 parallel, 3 manual.
    pub DispatchType: u32,
    /// WDF_TRI_STATE.
    pub PowerManaged: u32,
    /// Reads and writes of no bytes are presented too.
    pub AllowZeroLengthRequests: u8,
    /// The device's default queue.
    pub DefaultQueue: u8,
    /// EvtIoDefault, Read, Write, DeviceControl, InternalDeviceControl, Stop, Resume, CanceledOnQueue.
    pub Callbacks: [Word; 8],
    /// Most requests that a parallel queue presents at a time.
    pub NumberOfPresentedRequests: u32,
    /// Driver, in class extensions.
    pub Driver: Word,
}

const DEFAULT: usize = 0;
const READ: usize = 1;
const WRITE: usize = 2;
const CONTROL: usize = 3;
const INTERNAL: usize = 4;
const CANCELED: usize = 7;

/// What a queue is.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) device: u64,
    pub(crate) dispatch: u32,
    pub(crate) allows_empty: bool,
    pub(crate) callbacks: [u64; 8],
    /// Most requests that the driver has at a time.
    pub(crate) limit: usize,
    /// Requests that wait.
    pub(crate) waiting: VecDeque<u64>,
    /// Requests that the driver has.
    pub(crate) owned: Vec<u64>,
    pub(crate) accepts: bool,
    pub(crate) dispatches: bool,
    /// Called as (Queue, Context) when a request arrives at an empty manual queue.
    pub(crate) ready: (u64, u64),
    /// Called once when the driver has no request any more; the flag: and none waits.
    pub(crate) completions: Vec<(u64, u64, bool)>,
    /// The thread that presents requests now; 0: none.
    presenting: u64,
    /// Callbacks run at PASSIVE_LEVEL only.
    pub(crate) is_passive: bool,
    /// Whose lock serializes the callbacks; 0: none.
    pub(crate) lock: u64,
    /// The object that presents requests when that cannot be done at once.
    pub(crate) presenter: u64,
}

impl Queue {
    pub(crate) fn new(device: u64, config: &WDF_IO_QUEUE_CONFIG) -> Self {
        let limit = match config.DispatchType {
            SEQUENTIAL => 1,
            // The union's memory is only the limit in versions that have it.
            _ if config.NumberOfPresentedRequests == 0 => usize::MAX,
            _ => config.NumberOfPresentedRequests as usize,
        };
        Self {
            device,
            dispatch: config.DispatchType,
            allows_empty: config.AllowZeroLengthRequests != 0,
            callbacks: config.Callbacks.map(from_word),
            limit,
            waiting: VecDeque::new(),
            owned: Vec::new(),
            accepts: true,
            dispatches: true,
            ready: (0, 0),
            completions: Vec::new(),
            presenting: 0,
            is_passive: false,
            lock: 0,
            presenter: 0,
        }
    }
}

/// Puts a new or forwarded request at a queue's end; a queue that accepts none completes it with
/// STATUS_INVALID_DEVICE_STATE.
pub(crate) fn insert(handle: u64, request: u64) {
    put(handle, request, false);
}

/// Puts a request back at the front.
pub(crate) fn put_back(handle: u64, request: u64) {
    put(handle, request, true);
}

fn put(handle: u64, request: u64, is_front: bool) {
    if !object::queue(handle, |queue| queue.accepts) {
        request::complete(request, NtStatus(0xC000_0184), None);
        return;
    }
    let packet = object::request(request, |request| {
        request.queue = handle;
        request.is_queued = true;
        request.irp
    });
    let was_empty = object::queue(handle, |queue| {
        let was_empty = queue.waiting.is_empty();
        if is_front {
            queue.waiting.push_front(request);
        } else {
            queue.waiting.push_back(request);
        }
        was_empty
    });
    let routine = crate::io::routine::address_of("WdfpCancelQueued");
    let is_cancelled = packet.with(|packet| {
        packet.CancelRoutine = routine;
        packet.Cancel != 0
    });
    if is_cancelled && cancel::take_routine(packet) != 0 {
        cancel_queued(request);
        return;
    }
    let ready = object::queue(handle, |queue| queue.ready);
    if was_empty && ready.0 != 0 {
        shared::call_driver(Entry::Other, ready.0, &[handle, ready.1]);
    }
    present(handle);
}

/// Takes a waiting request out of its queue for the driver; the first that `is_wanted`.
pub(crate) fn take(handle: u64, is_wanted: impl Fn(u64) -> bool) -> Option<u64> {
    let request = object::queue(handle, |queue| {
        queue.waiting.iter().copied().collect::<Vec<_>>()
    })
    .into_iter()
    .find(|&request| is_wanted(request))?;
    let packet = object::request(request, |request| {
        request.is_queued = false;
        request.irp
    });
    let _ = cancel::take_routine(packet);
    object::queue(handle, |queue| {
        queue.waiting.retain(|&other| other != request);
        queue.owned.push(request);
    });
    Some(request)
}

/// Presents waiting requests as far as the queue's type allows it.
pub(crate) fn present(handle: u64) {
    let thread = sched::current().addr();
    loop {
        let may = object::exists(handle)
            && object::queue(handle, |queue| {
                queue.dispatches
                    && queue.dispatch != MANUAL
                    && queue.owned.len() < queue.limit
                    && queue.presenting != thread
                    && !queue.waiting.is_empty()
            });
        if !may {
            return;
        }
        let (lock, is_passive, presenter) = object::queue(handle, |queue| {
            (queue.lock, queue.is_passive, queue.presenter)
        });
        // A thread that is in another callback of the lock, or at too high an IRQL, leaves it to a DPC or work item.
        if serial::is_owner(lock) || is_passive && shared::irql() >= DISPATCH_LEVEL {
            deferred::schedule(presenter);
            return;
        }
        let Some(request) = take(handle, |_| true) else {
            return;
        };
        let outer = object::queue(handle, |queue| {
            core::mem::replace(&mut queue.presenting, thread)
        });
        call(handle, request);
        if object::exists(handle) {
            object::queue(handle, |queue| queue.presenting = outer);
        }
    }
}

/// Calls the driver's callback for a request.
fn call(handle: u64, request: u64) {
    let packet = object::request(request, |request| request.irp);
    let stack = packet.read().CurrentStackLocation.read();
    let (callbacks, lock) = object::queue(handle, |queue| (queue.callbacks, queue.lock));
    let [first, second, third, _] = stack.Parameters.map(from_word);
    let first = u64::from(low32(first));
    let own = match stack.MajorFunction {
        IRP_MJ_READ => callbacks[READ],
        IRP_MJ_WRITE => callbacks[WRITE],
        IRP_MJ_DEVICE_CONTROL => callbacks[CONTROL],
        IRP_MJ_INTERNAL_DEVICE_CONTROL => callbacks[INTERNAL],
        _ => 0,
    };
    if own == 0 {
        if callbacks[DEFAULT] == 0 {
            request::complete(request, NtStatus::INVALID_DEVICE_REQUEST, None);
        } else {
            serial::call(lock, Entry::Other, callbacks[DEFAULT], &[handle, request]);
        }
    } else if matches!(stack.MajorFunction, IRP_MJ_READ | IRP_MJ_WRITE) {
        serial::call(lock, Entry::Other, own, &[handle, request, first]);
    } else {
        let arguments = [
            handle,
            request,
            first,
            u64::from(low32(second)),
            u64::from(low32(third)),
        ];
        serial::call(lock, Entry::Other, own, &arguments);
    }
}

/// A waiting request is cancelled: the driver is told, or the request completed.
pub(crate) fn cancel_queued(request: u64) {
    let handle = object::request(request, |request| {
        request.is_queued = false;
        request.queue
    });
    let (callback, lock) = object::queue(handle, |queue| {
        queue.waiting.retain(|&other| other != request);
        (queue.callbacks[CANCELED], queue.lock)
    });
    if callback == 0 {
        request::complete(request, NtStatus::CANCELLED, None);
    } else {
        object::queue(handle, |queue| queue.owned.push(request));
        serial::call(lock, Entry::Other, callback, &[handle, request]);
    }
    settle(handle);
}

/// The driver no longer has a request of this queue: what waited for that happens, and the next is presented.
pub(crate) fn release(handle: u64, request: u64) {
    if !object::exists(handle) {
        return;
    }
    object::queue(handle, |queue| {
        queue.owned.retain(|&other| other != request);
    });
    settle(handle);
    if object::exists(handle) {
        present(handle);
    }
}

/// Calls the completion callbacks of Stop, Drain and Purge whose time has come.
pub(crate) fn settle(handle: u64) {
    let due: Vec<(u64, u64, bool)> = object::queue(handle, |queue| {
        let (owned, waiting) = (queue.owned.len(), queue.waiting.len());
        let is_due = |&(_, _, is_all): &(u64, u64, bool)| owned == 0 && (!is_all || waiting == 0);
        let due = queue.completions.iter().copied().filter(is_due).collect();
        queue.completions.retain(|one| !is_due(one));
        due
    });
    for (routine, context, _) in due {
        shared::call_driver(Entry::Other, routine, &[handle, context]);
    }
}

/// Cancels what waits in a device's queues for a file whose last handle is closed. What the driver has it keeps.
pub(crate) fn flush_file(device: u64, file: u64) {
    for handle in object::queues_of(device) {
        // A cancel callback may have deleted this one.
        if !object::exists(handle) {
            continue;
        }
        let waiting: Vec<u64> =
            object::queue(handle, |queue| queue.waiting.iter().copied().collect());
        for request in waiting {
            let packet = object::body(request, |body| match body {
                object::Body::Request(request) if request.is_queued && request.file == file => {
                    Some(request.irp)
                }
                _ => None,
            });
            if let Some(packet) = packet {
                cancel::cancel(packet);
            }
        }
    }
}

/// Cancels all that waits, and what the driver has marked cancelable.
pub(crate) fn purge(handle: u64) {
    object::queue(handle, |queue| queue.accepts = false);
    let (waiting, owned) = object::queue(handle, |queue| {
        let waiting: Vec<u64> = queue.waiting.iter().copied().collect();
        (waiting, queue.owned.clone())
    });
    for request in waiting.into_iter().chain(owned) {
        if object::exists(request) {
            let packet = object::request(request, |request| request.irp);
            cancel::cancel(packet);
        }
    }
}
