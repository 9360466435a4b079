//! The dispatch routine of all KMDF drivers: IRPs become requests.

use super::object::{self, Body, Parent};
use super::request::{self, Request};
use super::{device, queue, serial};
use crate::io::irp;
use crate::nt::{
    DEVICE_OBJECT, IRP, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_READ, IRP_MJ_SHUTDOWN, IRP_MJ_WRITE, NtStatus,
    SL_PENDING_RETURNED,
};
use crate::raw::{Ptr, from_word, low32, to_word};
use crate::shared;
use abi::trace::Entry;

/// The lock for callbacks about files, which run at PASSIVE_LEVEL; 0: none.
fn file_lock(device: u64) -> u64 {
    match serial::of(device) {
        Some(constraints) if constraints.is_passive => serial::lock_of(device),
        _ => 0,
    }
}

/// Ends an IRP that became no request.
fn finish(packet: Ptr<IRP>, status: NtStatus) -> NtStatus {
    packet.with(|packet| {
        packet.IoStatus.Status = to_word(status.0.into());
        packet.IoStatus.Information = 0;
    });
    irp::complete(packet);
    status
}

/// An IRP arrived, or comes back from a preprocess callback.
pub(crate) fn irp(target: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>, is_new: bool) -> NtStatus {
    let Some(handle) = object::by_address(target.addr()) else {
        return finish(packet, NtStatus::INVALID_DEVICE_REQUEST);
    };
    let stack = packet.read().CurrentStackLocation.read();
    let major = stack.MajorFunction;
    let (preprocess, config, shutdown) = object::device(handle, |device| {
        let init = &device.init;
        let callback = init.preprocess.get(&major).copied().unwrap_or(0);
        (callback, init.file_config, init.shutdown.0)
    });
    if is_new && preprocess != 0 {
        let result = shared::call_driver(Entry::Other, preprocess, &[handle, packet.addr()]);
        return object::status(result);
    }
    let file = object::by_address(stack.FileObject.addr()).unwrap_or(0);
    let call_file = |routine: u64| {
        if routine != 0 && file != 0 {
            serial::call(file_lock(handle), Entry::Other, routine, &[file]);
        }
    };
    match major {
        IRP_MJ_CREATE => create(handle, packet),
        IRP_MJ_CLEANUP => {
            call_file(config.map_or(0, |config| from_word(config.EvtFileCleanup)));
            if file != 0 {
                queue::flush_file(handle, file);
            }
            finish(packet, NtStatus::SUCCESS)
        }
        IRP_MJ_CLOSE => {
            call_file(config.map_or(0, |config| from_word(config.EvtFileClose)));
            if file != 0 {
                object::delete(file);
            }
            finish(packet, NtStatus::SUCCESS)
        }
        IRP_MJ_SHUTDOWN => {
            if shutdown != 0 {
                shared::call_driver(Entry::Other, shutdown, &[handle]);
            }
            finish(packet, NtStatus::SUCCESS)
        }
        IRP_MJ_READ | IRP_MJ_WRITE | IRP_MJ_DEVICE_CONTROL | IRP_MJ_INTERNAL_DEVICE_CONTROL => {
            let request = match make(handle, packet, file) {
                Ok(request) => request,
                Err(status) => return finish(packet, status),
            };
            let callback = object::device(handle, |device| device.init.in_caller_context);
            if callback == 0 {
                let status = enqueue(handle, request);
                if !status.is_success() {
                    request::complete(request, status, None);
                }
            } else {
                shared::call_driver(Entry::Other, callback, &[handle, request]);
            }
            NtStatus::PENDING
        }
        _ => finish(packet, NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// Makes the request of an IRP, which is pending from now on.
fn make(device: u64, packet: Ptr<IRP>, file: u64) -> Result<u64, NtStatus> {
    let mut attributes = object::device(device, |device| device.init.request_attributes);
    let attributes = if attributes.Size == 0 {
        Ptr::null()
    } else {
        attributes.ParentObject = 0;
        Ptr::of(&mut attributes)
    };
    let body = Body::Request(Request::new(packet, device, file));
    let request = object::create(attributes, Parent::Fixed(device), body)?;
    object::associate(packet.addr(), request);
    let stack = packet.with(|packet| {
        packet.IoStatus.Information = 0;
        packet.CurrentStackLocation
    });
    stack.with(|stack| stack.Control |= SL_PENDING_RETURNED);
    Ok(request)
}

fn create(device: u64, packet: Ptr<IRP>) -> NtStatus {
    let file_object = packet.read().CurrentStackLocation.read().FileObject;
    let file = match device::create_file(device, file_object) {
        Ok(file) => file,
        Err(status) => return finish(packet, status),
    };
    let (routine, queue) = object::device(device, |device| {
        let config = device.init.file_config;
        let routine = config.map_or(0, |config| from_word(config.EvtDeviceFileCreate));
        (routine, device.queues[usize::from(IRP_MJ_CREATE)])
    });
    if routine == 0 && queue == 0 {
        return finish(packet, NtStatus::SUCCESS);
    }
    match make(device, packet, file) {
        Ok(request) if routine != 0 => {
            let arguments = [device, request, file];
            serial::call(file_lock(device), Entry::Other, routine, &arguments);
            NtStatus::PENDING
        }
        Ok(request) => {
            queue::insert(queue, request);
            NtStatus::PENDING
        }
        Err(status) => {
            object::delete(file);
            finish(packet, status)
        }
    }
}

/// Gives a request to the queue of its type (WdfDeviceEnqueueRequest).
pub(crate) fn enqueue(device: u64, request: u64) -> NtStatus {
    let packet = object::request(request, |request| request.irp);
    let stack = packet.read().CurrentStackLocation.read();
    let major = stack.MajorFunction;
    let queue = object::device(device, |device| {
        let own = device.queues.get(usize::from(major)).copied();
        own.filter(|&queue| queue != 0)
            .unwrap_or(device.default_queue)
    });
    if queue == 0 {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    let is_transfer = matches!(major, IRP_MJ_READ | IRP_MJ_WRITE);
    let is_empty = low32(from_word(stack.Parameters[0])) == 0;
    if is_transfer && is_empty && !object::queue(queue, |queue| queue.allows_empty) {
        request::complete(request, NtStatus::SUCCESS, Some(0));
        return NtStatus::SUCCESS;
    }
    queue::insert(queue, request);
    NtStatus::SUCCESS
}
