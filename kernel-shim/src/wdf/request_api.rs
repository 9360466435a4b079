//! WdfRequest...

use super::object;
use super::request::{self, WDF_REQUEST_PARAMETERS};
use super::{Wdf, dispatch, serial};
use crate::api::nt_api;
use crate::io::cancel;
use crate::nt::{DEVICE_OBJECT, IRP, NtStatus};
use crate::raw::{Ptr, from_word, low8, to_word};
use crate::shared;
use crate::value::{Boolean, ProcessorMode, Size, UChar, ULong};
use abi::trace::Entry;

fn irp_of(handle: u64) -> Ptr<IRP> {
    object::request(handle, |request| request.irp)
}

fn call_cancel(handle: u64, callback: u64) {
    object::request(handle, |request| {
        request.cancel = callback;
        request.is_cancelling = true;
    });
    let queue = object::request(handle, |request| request.queue);
    serial::call(serial::lock_of(queue), Entry::Cancel, callback, &[handle]);
}

nt_api! { module = wdf_request;
    /// WdfRequestComplete: completes a request with the information that was set before.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestComplete(globals: Wdf, handle: Wdf, status: NtStatus) {
        request::complete(handle.0, status, None);
    }

    /// WdfRequestCompleteWithInformation: usually with bytes transferred.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestCompleteWithInformation(globals: Wdf, handle: Wdf, status: NtStatus, information: Size) {
        request::complete(handle.0, status, Some(information.0));
    }

    /// WdfRequestCompleteWithPriorityBoost: the boost has no effect.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestCompleteWithPriorityBoost(globals: Wdf, handle: Wdf, status: NtStatus, boost: UChar) {
        request::complete(handle.0, status, None);
    }

    /// WdfRequestGetParameters: what is asked for.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetParameters(globals: Wdf, handle: Wdf, parameters: Ptr<WDF_REQUEST_PARAMETERS>) {
        object::required(parameters, "Parameters");
        request::parameters(handle.0, parameters);
    }

    /// WdfRequestMarkCancelable: EvtRequestCancel may be called from now on, at once if the request is cancelled already.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestMarkCancelable(globals: Wdf, handle: Wdf, callback: Ptr<u8>) {
        object::required(callback, "EvtRequestCancel");
        if request::mark(handle.0, callback.addr()) == Err(NtStatus::CANCELLED) {
            call_cancel(handle.0, callback.addr());
        }
    }

    /// WdfRequestMarkCancelableEx: STATUS_CANCELLED if the request is cancelled already; nothing is called then.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestMarkCancelableEx(globals: Wdf, handle: Wdf, callback: Ptr<u8>) -> NtStatus {
        object::required(callback, "EvtRequestCancel");
        request::mark(handle.0, callback.addr()).err().unwrap_or(NtStatus::SUCCESS)
    }

    /// WdfRequestUnmarkCancelable: STATUS_CANCELLED: EvtRequestCancel is or will be called.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestUnmarkCancelable(globals: Wdf, handle: Wdf) -> NtStatus {
        request::unmark(handle.0)
    }

    /// WdfRequestIsCanceled: whether it was cancelled.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestIsCanceled(globals: Wdf, handle: Wdf) -> Boolean {
        irp_of(handle.0).read().Cancel != 0
    }

    /// WdfRequestIsFrom32BitProcess: whether the client's pointers are 32 bits wide.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestIsFrom32BitProcess(globals: Wdf, handle: Wdf) -> Boolean {
        irp_of(handle.0);
        cfg!(nt_i386)
    }

    /// WdfRequestIsReserved: no request is reserved for forward progress.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestIsReserved(globals: Wdf, handle: Wdf) -> Boolean {
        irp_of(handle.0);
        false
    }

    /// WdfRequestGetStatus: STATUS_PENDING until it is completed.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetStatus(globals: Wdf, handle: Wdf) -> NtStatus {
        object::request(handle.0, |request| request.status)
    }

    /// WdfRequestSetInformation: usually bytes transferred.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestSetInformation(globals: Wdf, handle: Wdf, information: Size) {
        irp_of(handle.0).with(|irp| irp.IoStatus.Information = to_word(information.0));
    }

    /// WdfRequestGetInformation: what was set.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetInformation(globals: Wdf, handle: Wdf) -> Size {
        Size(from_word(irp_of(handle.0).read().IoStatus.Information))
    }

    /// WdfRequestGetFileObject: the file that it is for; NULL if there is none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetFileObject(globals: Wdf, handle: Wdf) -> Wdf {
        Size(object::request(handle.0, |request| request.file))
    }

    /// WdfRequestGetIoQueue: the queue that it is in or came from.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetIoQueue(globals: Wdf, handle: Wdf) -> Wdf {
        Size(object::request(handle.0, |request| request.queue))
    }

    /// WdfRequestGetRequestorMode: kernel 0, user 1.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestGetRequestorMode(globals: Wdf, handle: Wdf) -> ProcessorMode {
        ProcessorMode(low8(u64::from(irp_of(handle.0).read().RequestorMode.unsigned_abs())))
    }

    /// WdfRequestGetRequestorProcessId: the process that sent it.
    wdf both stdcall irql(DISPATCH_LEVEL) partial("the process that runs now, which in EvtIoInCallerContext and queues at PASSIVE_LEVEL is the sender")
    fn WdfRequestGetRequestorProcessId(globals: Wdf, handle: Wdf) -> ULong {
        irp_of(handle.0);
        shared::current_process()
    }

    /// WdfRequestWdmGetIrp: its IRP.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestWdmGetIrp(globals: Wdf, handle: Wdf) -> Ptr<IRP> {
        irp_of(handle.0)
    }

    /// WdfRequestForwardToIoQueue: to the end of another queue of the device.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestForwardToIoQueue(globals: Wdf, handle: Wdf, queue: Wdf) -> NtStatus {
        if object::request(handle.0, |request| request.queue) == queue.0 {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        request::forward(handle.0, queue.0, false)
    }

    /// WdfRequestRequeue: back to the front of its queue, which must be a manual one.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRequeue(globals: Wdf, handle: Wdf) -> NtStatus {
        let queue = object::request(handle.0, |request| request.queue);
        if queue == 0 || object::queue(queue, |queue| queue.dispatch) != super::queue::MANUAL {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        request::forward(handle.0, queue, true)
    }

    /// WdfRequestStopAcknowledge: the answer to EvtIoStop; `requeue` puts the request back.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestStopAcknowledge(globals: Wdf, handle: Wdf, requeue: Boolean) {
        let queue = object::request(handle.0, |request| request.queue);
        if requeue && queue != 0 {
            request::forward(handle.0, queue, true);
        }
    }

    /// WdfDeviceEnqueueRequest: from EvtIoInCallerContext to the queue of the request's type.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceEnqueueRequest(globals: Wdf, device: Wdf, handle: Wdf) -> NtStatus {
        object::request(handle.0, |_| ());
        dispatch::enqueue(device.0, handle.0)
    }

    /// WdfDeviceWdmDispatchPreprocessedIrp: an IRP comes back from a preprocess callback, which has prepared the next
    /// stack location (or skipped its own).
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceWdmDispatchPreprocessedIrp(globals: Wdf, device: Wdf, irp: Ptr<IRP>) -> NtStatus {
        let object = object::device(device.0, |device| device.object);
        irp.with(|irp| {
            irp.CurrentLocation -= 1;
            irp.CurrentStackLocation = irp.CurrentStackLocation.offset(-1);
        });
        irp.read().CurrentStackLocation.with(|stack| stack.DeviceObject = object);
        dispatch::irp(object, irp, false)
    }

    /// The dispatch routine of KMDF drivers. Not a function of the table; it needs an address.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfpDispatch(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        dispatch::irp(device, irp, true)
    }

    /// The cancel routine of requests that wait. Not a function of the table; it needs an address.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfpCancelQueued(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) {
        cancel::release(irp.read().CancelIrql);
        if let Some(handle) = object::by_address(irp.addr()) {
            super::queue::cancel_queued(handle);
        }
    }

    /// The cancel routine of requests that the driver marked. Not a function of the table; it needs an address.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfpCancelOwned(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) {
        cancel::release(irp.read().CancelIrql);
        if let Some(handle) = object::by_address(irp.addr()) {
            let callback = object::request(handle, |request| request.cancel);
            call_cancel(handle, callback);
        }
    }
}
