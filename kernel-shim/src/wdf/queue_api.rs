//! WdfIoQueue...

use alloc::vec::Vec;

use super::object::{self, Body, Parent};
use super::queue::{self, MANUAL, PARALLEL, Queue, WDF_IO_QUEUE_CONFIG};
use super::request::WDF_REQUEST_PARAMETERS;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, deferred, serial};
use crate::api::nt_api;
use crate::ke::event;
use crate::nt::NtStatus;
use crate::raw::{Ptr, Word, low32, to_word};
use crate::value::{Size, ULong};

fn create(
    device: u64,
    config: &WDF_IO_QUEUE_CONFIG,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
) -> Result<u64, NtStatus> {
    if u64::from(config.Size) < core::mem::offset_of!(WDF_IO_QUEUE_CONFIG, Driver) as u64 - 4 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let has_callback = config.Callbacks[..5].iter().any(|&callback| callback != 0);
    if !(1..=MANUAL).contains(&config.DispatchType) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if config.DispatchType != MANUAL && !has_callback {
        return Err(super::NO_CALLBACK);
    }
    let is_default = config.DefaultQueue != 0;
    if is_default && object::device(device, |device| device.default_queue) != 0 {
        return Err(NtStatus::UNSUCCESSFUL);
    }
    let constraints = serial::constraints(device, &object::attributes(attributes)?);
    let body = Body::Queue(Queue::new(device, config));
    let handle = object::create(attributes, Parent::Default(device), body)?;
    serial::insert(handle, constraints);
    let presenter = match deferred::presenter(handle, constraints.is_passive) {
        Ok(presenter) => presenter,
        Err(status) => {
            object::delete(handle);
            return Err(status);
        }
    };
    let lock = serial::lock_of(handle);
    object::queue(handle, |queue| {
        queue.is_passive = constraints.is_passive;
        queue.lock = lock;
        queue.presenter = presenter;
    });
    if is_default {
        object::device(device, |device| device.default_queue = handle);
    }
    Ok(handle)
}

/// Calls back when the driver has no request of the queue (and none waits).
fn when_empty(handle: u64, callback: Ptr<u8>, context: Ptr<u8>, is_all: bool) {
    if !callback.is_null() {
        let entry = (callback.addr(), context.addr(), is_all);
        object::queue(handle, |queue| queue.completions.push(entry));
    }
    queue::settle(handle);
}

/// Waits for the same.
fn wait_empty(handle: u64, is_all: bool) {
    event::wait_until(u64::MAX, || {
        object::queue(handle, |queue| {
            queue.owned.is_empty() && (!is_all || queue.waiting.is_empty())
        })
    });
}

fn found(result: Option<u64>, at: Ptr<Word>) -> NtStatus {
    at.write(to_word(result.unwrap_or(0)));
    if result.is_some() {
        NtStatus::SUCCESS
    } else {
        NtStatus::NO_MORE_ENTRIES
    }
}

fn may_retrieve(handle: u64) -> Result<(), NtStatus> {
    object::queue(handle, |queue| {
        if queue.dispatch == PARALLEL {
            Err(NtStatus(0xC000_0184))
        } else if queue.dispatches {
            Ok(())
        } else {
            Err(super::PAUSED)
        }
    })
}

fn retrieve(handle: u64, is_wanted: impl Fn(u64) -> bool, at: Ptr<Word>) -> NtStatus {
    object::required(at, "OutRequest");
    match may_retrieve(handle) {
        Ok(()) => found(queue::take(handle, is_wanted), at),
        Err(status) => {
            at.write(0);
            status
        }
    }
}

fn stop_and_purge(handle: u64) {
    let accepted = object::queue(handle, |queue| {
        queue.dispatches = false;
        queue.accepts
    });
    queue::purge(handle);
    if object::exists(handle) {
        object::queue(handle, |queue| queue.accepts = accepted);
    }
}

nt_api! { module = wdf_queue;
    /// WdfIoQueueCreate: a queue of a device.
    wdf both stdcall irql(DISPATCH_LEVEL) partial("EvtIoStop and EvtIoResume belong to power management, which there is not")
    fn WdfIoQueueCreate(
        globals: Wdf,
        device: Wdf,
        config: Ptr<WDF_IO_QUEUE_CONFIG>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(config, "Config");
        object::device(device.0, |_| ());
        super::object_api::give(create(device.0, &config.read(), attributes), result)
    }

    /// WdfIoQueueGetState: accepts 1, dispatches 2, none waits 4, the driver has none 8.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueGetState(globals: Wdf, handle: Wdf, waiting: Ptr<u32>, owned: Ptr<u32>) -> ULong {
        let (state, waits, has) = object::queue(handle.0, |queue| {
            let state = u32::from(queue.accepts)
                | u32::from(queue.dispatches) << 1
                | u32::from(queue.waiting.is_empty()) << 2
                | u32::from(queue.owned.is_empty()) << 3;
            (state, queue.waiting.len(), queue.owned.len())
        });
        for (at, count) in [(waiting, waits), (owned, has)] {
            if !at.is_null() {
                at.write(low32(count as u64));
            }
        }
        state
    }

    /// WdfIoQueueStart: accepts and presents requests (again).
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueStart(globals: Wdf, handle: Wdf) {
        object::queue(handle.0, |queue| {
            queue.accepts = true;
            queue.dispatches = true;
        });
        queue::present(handle.0);
    }

    /// WdfIoQueueStop: presents no more; calls back when the driver has completed what it has.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueStop(globals: Wdf, handle: Wdf, callback: Ptr<u8>, context: Ptr<u8>) {
        object::queue(handle.0, |queue| queue.dispatches = false);
        when_empty(handle.0, callback, context, false);
    }

    /// WdfIoQueueStopSynchronously: as WdfIoQueueStop, and waits for it.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfIoQueueStopSynchronously(globals: Wdf, handle: Wdf) {
        object::queue(handle.0, |queue| queue.dispatches = false);
        wait_empty(handle.0, false);
    }

    /// WdfIoQueueDrain: accepts no more; calls back when all are completed.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueDrain(globals: Wdf, handle: Wdf, callback: Ptr<u8>, context: Ptr<u8>) {
        object::queue(handle.0, |queue| queue.accepts = false);
        when_empty(handle.0, callback, context, true);
    }

    /// WdfIoQueueDrainSynchronously: as WdfIoQueueDrain, and waits for it.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfIoQueueDrainSynchronously(globals: Wdf, handle: Wdf) {
        object::queue(handle.0, |queue| queue.accepts = false);
        wait_empty(handle.0, true);
    }

    /// WdfIoQueuePurge: accepts no more and cancels all; calls back when all are completed.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueuePurge(globals: Wdf, handle: Wdf, callback: Ptr<u8>, context: Ptr<u8>) {
        queue::purge(handle.0);
        when_empty(handle.0, callback, context, true);
    }

    /// WdfIoQueuePurgeSynchronously: as WdfIoQueuePurge, and waits for it.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfIoQueuePurgeSynchronously(globals: Wdf, handle: Wdf) {
        queue::purge(handle.0);
        wait_empty(handle.0, true);
    }

    /// WdfIoQueueStopAndPurge: presents no more and cancels all; requests that come later wait. Calls back when the driver
    /// has completed what it has.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueStopAndPurge(globals: Wdf, handle: Wdf, callback: Ptr<u8>, context: Ptr<u8>) {
        stop_and_purge(handle.0);
        when_empty(handle.0, callback, context, false);
    }

    /// WdfIoQueueStopAndPurgeSynchronously: as WdfIoQueueStopAndPurge, and waits for it.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfIoQueueStopAndPurgeSynchronously(globals: Wdf, handle: Wdf) {
        stop_and_purge(handle.0);
        wait_empty(handle.0, false);
    }

    /// WdfIoQueueGetDevice: its device.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueGetDevice(globals: Wdf, handle: Wdf) -> Wdf {
        Size(object::queue(handle.0, |queue| queue.device))
    }

    /// WdfIoQueueRetrieveNextRequest: the first that waits; STATUS_NO_MORE_ENTRIES.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueRetrieveNextRequest(globals: Wdf, handle: Wdf, result: Ptr<Word>) -> NtStatus {
        retrieve(handle.0, |_| true, result)
    }

    /// WdfIoQueueRetrieveRequestByFileObject: the first of a file that waits.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueRetrieveRequestByFileObject(globals: Wdf, handle: Wdf, file: Wdf, result: Ptr<Word>) -> NtStatus {
        retrieve(handle.0, |request| object::request(request, |request| request.file) == file.0, result)
    }

    /// WdfIoQueueFindRequest: the first that waits (behind another one, of a file), which stays and is referenced.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueFindRequest(
        globals: Wdf,
        handle: Wdf,
        after: Wdf,
        file: Wdf,
        parameters: Ptr<WDF_REQUEST_PARAMETERS>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "OutRequest");
        let waiting: Vec<u64> =
            object::queue(handle.0, |queue| queue.waiting.iter().copied().collect());
        let start = if after.0 == 0 {
            0
        } else {
            match waiting.iter().position(|&request| request == after.0) {
                Some(position) => position + 1,
                None => return NtStatus::NOT_FOUND,
            }
        };
        let request = waiting.into_iter().skip(start).find(|&request| {
            file.0 == 0 || object::request(request, |request| request.file) == file.0
        });
        if let Some(request) = request {
            object::reference(request);
            if !parameters.is_null() {
                super::request::parameters(request, parameters);
            }
        }
        found(request, result)
    }

    /// WdfIoQueueRetrieveFoundRequest: takes one that WdfIoQueueFindRequest found; STATUS_NOT_FOUND: it is gone.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueRetrieveFoundRequest(globals: Wdf, handle: Wdf, wanted: Wdf, result: Ptr<Word>) -> NtStatus {
        match retrieve(handle.0, |request| request == wanted.0, result) {
            NtStatus::NO_MORE_ENTRIES => NtStatus::NOT_FOUND,
            status => status,
        }
    }

    /// WdfIoQueueReadyNotify: calls back when a request arrives at an empty manual queue; NULL: no longer.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfIoQueueReadyNotify(globals: Wdf, handle: Wdf, callback: Ptr<u8>, context: Ptr<u8>) -> NtStatus {
        let (is_manual, has_ready, dispatches, is_empty) = object::queue(handle.0, |queue| {
            (queue.dispatch == MANUAL, queue.ready.0 != 0, queue.dispatches, queue.waiting.is_empty())
        });
        if !is_manual || (!callback.is_null() && has_ready) || (callback.is_null() && dispatches) {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        object::queue(handle.0, |queue| queue.ready = (callback.addr(), context.addr()));
        if !callback.is_null() && !is_empty {
            crate::shared::call_driver(abi::trace::Entry::Other, callback.addr(), &[handle.0, context.addr()]);
        }
        NtStatus::SUCCESS
    }
}
