//! Requests: what an IRP is to a KMDF driver.

use super::object;
use super::queue;
use crate::io::{cancel, irp, mdl};
use crate::nt::{IRP, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, MDL, NtStatus};
use crate::raw::{Ptr, Word, from_word, low16, low32, to_word};

/// What a request is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) irp: Ptr<IRP>,
    pub(crate) device: u64,
    pub(crate) file: u64,
    /// The queue that it is in or that presented it; 0: none yet.
    pub(crate) queue: u64,
    /// It waits in the queue.
    pub(crate) is_queued: bool,
    /// EvtRequestCancel while it is marked cancelable.
    pub(crate) cancel: u64,
    /// EvtRequestCancel was called.
    pub(crate) is_cancelling: bool,
    /// WDFMEMORY of input and output; 0: not made yet.
    pub(crate) memory: [u64; 2],
    /// MDLs that were made for buffered requests.
    pub(crate) mdls: [Ptr<MDL>; 2],
    /// How it was completed.
    pub(crate) status: NtStatus,
}

/// WDF_REQUEST_PARAMETERS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_REQUEST_PARAMETERS {
    /// Bytes.
    pub Size: u16,
    /// IRP_MN_...
    pub MinorFunction: u8,
    /// WDF_REQUEST_TYPE: IRP_MJ_...
    pub Type: u32,
    /// As the stack location's; on i386 reads and writes have an 8-byte offset behind two words.
    pub Parameters: [Word; 4],
}

const _: () = assert!(size_of::<WDF_REQUEST_PARAMETERS>() == if cfg!(nt_i386) { 24 } else { 40 });

impl Request {
    pub(crate) fn new(irp: Ptr<IRP>, device: u64, file: u64) -> Self {
        Self {
            irp,
            device,
            file,
            queue: 0,
            is_queued: false,
            cancel: 0,
            is_cancelling: false,
            memory: [0; 2],
            mdls: [Ptr::null(); 2],
            status: NtStatus::PENDING,
        }
    }
}

/// Completes a request: its IRP, and the object goes.
pub(crate) fn complete(handle: u64, status: NtStatus, information: Option<u64>) {
    let request = object::request(handle, |request| *request);
    if request.is_queued || request.status != NtStatus::PENDING {
        object::violation(
            6,
            [5, handle],
            format_args!("request {handle:#x} is completed, which the driver does not have"),
        );
    }
    if request.cancel != 0 && !request.is_cancelling {
        object::violation(
            6,
            [5, handle],
            format_args!("request {handle:#x} is completed while it is marked cancelable"),
        );
    }
    object::request(handle, |request| request.status = status);
    let packet = request.irp;
    let major = packet.with(|packet| {
        packet.IoStatus.Status = to_word(status.0.into());
        if let Some(information) = information {
            packet.IoStatus.Information = to_word(information);
        }
        packet.CurrentStackLocation.read().MajorFunction
    });
    // Cleanup callbacks see a request whose IRP is still there.
    object::delete(handle);
    for mdl in request.mdls {
        if !mdl.is_null() {
            mdl::free(mdl);
        }
    }
    if major == IRP_MJ_CREATE && !status.is_success() && object::exists(request.file) {
        object::delete(request.file);
    }
    irp::complete(packet);
    if request.queue != 0 {
        queue::release(request.queue, handle);
    }
}

/// Fills in WDF_REQUEST_PARAMETERS.
pub(crate) fn parameters(handle: u64, at: Ptr<WDF_REQUEST_PARAMETERS>) {
    let packet = object::request(handle, |request| request.irp);
    let stack = packet.read().CurrentStackLocation.read();
    at.with(|at| {
        at.Size = low16(size_of::<WDF_REQUEST_PARAMETERS>() as u64);
        at.MinorFunction = stack.MinorFunction;
        at.Type = stack.MajorFunction.into();
        at.Parameters = stack.Parameters;
        if stack.MajorFunction >= 3 {
            // Lengths are size_t here, and the stack location's ULONGs may have anything behind them.
            at.Parameters[0] = to_word(low32(from_word(stack.Parameters[0])).into());
        }
        if stack.MajorFunction == IRP_MJ_DEVICE_CONTROL {
            at.Parameters[1] = to_word(low32(from_word(stack.Parameters[1])).into());
        }
    });
}

/// Takes a request from the driver, to another queue or back to its own.
pub(crate) fn forward(handle: u64, to: u64, is_front: bool) -> NtStatus {
    let request = object::request(handle, |request| *request);
    let device = object::queue(to, |queue| queue.device);
    if device != request.device {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    if request.is_queued || request.cancel != 0 {
        return super::REQUEST_INVALID_STATE;
    }
    if !object::queue(to, |queue| queue.accepts) {
        return super::BUSY;
    }
    if request.queue != 0 {
        object::queue(request.queue, |queue| {
            queue.owned.retain(|&other| other != handle);
        });
    }
    if is_front {
        queue::put_back(to, handle);
    } else {
        queue::insert(to, handle);
    }
    if request.queue != 0 && request.queue != to {
        queue::settle(request.queue);
        queue::present(request.queue);
    }
    NtStatus::SUCCESS
}

/// Marks a request cancelable. CANCELLED: it is cancelled already.
pub(crate) fn mark(handle: u64, callback: u64) -> Result<(), NtStatus> {
    let packet = object::request(handle, |request| request.irp);
    let is_marked = object::request(handle, |request| {
        core::mem::replace(&mut request.cancel, callback) != 0
    });
    if is_marked {
        return Err(super::REQUEST_INVALID_STATE);
    }
    let routine = crate::io::routine::address_of("WdfpCancelOwned");
    let is_cancelled = packet.with(|packet| {
        let is_cancelled = packet.Cancel != 0;
        packet.CancelRoutine = if is_cancelled { 0 } else { routine };
        is_cancelled
    });
    if is_cancelled {
        object::request(handle, |request| request.cancel = 0);
        return Err(NtStatus::CANCELLED);
    }
    Ok(())
}

/// Takes that back.
pub(crate) fn unmark(handle: u64) -> NtStatus {
    let request = object::request(handle, |request| *request);
    if request.is_cancelling {
        return NtStatus::CANCELLED;
    }
    if request.cancel == 0 {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    if cancel::take_routine(request.irp) == 0 {
        return NtStatus::CANCELLED;
    }
    object::request(handle, |request| request.cancel = 0);
    NtStatus::SUCCESS
}
