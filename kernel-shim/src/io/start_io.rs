//! StartIo: one IRP at a time for a device, the others in its device queue.

use core::mem::offset_of;

use super::{cancel, device};
use crate::api::nt_api;
use crate::ke::{device_queue, irql};
use crate::nt::{DEVICE_OBJECT, DISPATCH_LEVEL, IRP, KDEVICE_QUEUE, KDEVICE_QUEUE_ENTRY};
use crate::raw::{Ptr, from_word};
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::trace::Entry;

/// DOE_SIO_NO_KEY: the next packet is the first.
const NO_KEY: u32 = 0x20;
/// DOE_SIO_WITH_KEY: the next packet is chosen by key.
const WITH_KEY: u32 = 0x40;
/// DOE_SIO_CANCELABLE.
const CANCELABLE: u32 = 0x80;
/// DOE_SIO_DEFERRED: StartIo is never called inside of StartIo.
const DEFERRED: u32 = 0x100;
/// DOE_SIO_NO_CANCEL: StartIo gets IRPs without a cancel routine.
const NO_CANCEL: u32 = 0x200;

type Device = Ptr<DEVICE_OBJECT>;

fn queue_of(device: Device) -> Ptr<KDEVICE_QUEUE> {
    device
        .add_bytes(offset_of!(DEVICE_OBJECT, DeviceQueue) as u64)
        .cast()
}

/// Tail.Overlay.DeviceQueueEntry.
fn entry_of(irp: Ptr<IRP>) -> Ptr<KDEVICE_QUEUE_ENTRY> {
    irp.add_bytes(offset_of!(IRP, DriverContext) as u64).cast()
}

fn flags(device: Device) -> u32 {
    device::extension_of(device).read().StartIoFlags
}

/// Calls the driver's StartIo, which may ask for the next packet.
fn start(device: Device, irp: Ptr<IRP>) {
    let routine = from_word(device.read().DriverObject.read().DriverStartIo);
    shared::call_driver(Entry::Other, routine, &[device.addr(), irp.addr()]);
}

/// Takes the next packet out of the queue and starts it. The cancel spin lock guards the choice if packets are cancelable.
fn next(device: Device, key: Option<u32>, is_cancelable: bool) {
    let old = is_cancelable.then(cancel::acquire);
    device.with(|device| device.CurrentIrp = Ptr::null());
    let entry = device_queue::remove(queue_of(device), key);
    let irp = entry.non_null().map(|entry| {
        entry
            .sub_bytes(offset_of!(IRP, DriverContext) as u64)
            .cast::<IRP>()
    });
    if let Some(irp) = irp {
        device.with(|device| device.CurrentIrp = irp);
        if is_cancelable && flags(device) & NO_CANCEL != 0 {
            irp.with(|irp| irp.CancelRoutine = 0);
        }
    }
    if let Some(old) = old {
        cancel::release(old);
    }
    if let Some(irp) = irp {
        start_or_defer(device, irp);
    }
}

/// Starts a packet. With deferred StartIo, requests for the next packet that come meanwhile are served afterwards.
fn start_or_defer(device: Device, irp: Ptr<IRP>) {
    let extension = device::extension_of(device);
    if flags(device) & DEFERRED == 0 {
        return start(device, irp);
    }
    extension.with(|extension| extension.StartIoCount += 1);
    start(device, irp);
    extension.with(|extension| extension.StartIoCount -= 1);
    serve_deferred(device);
}

fn serve_deferred(device: Device) {
    let extension = device::extension_of(device);
    loop {
        let found = extension.with(|extension| {
            let asked = extension.StartIoFlags & (NO_KEY | WITH_KEY);
            let is_next = extension.StartIoCount == 0 && asked != 0;
            let key = (asked & WITH_KEY != 0).then_some(extension.StartIoKey.cast_unsigned());
            let is_cancelable = extension.StartIoFlags & CANCELABLE != 0;
            if is_next {
                extension.StartIoFlags &= !(NO_KEY | WITH_KEY | CANCELABLE);
            }
            is_next.then_some((key, is_cancelable))
        });
        let Some((key, is_cancelable)) = found else {
            return;
        };
        next(device, key, is_cancelable);
    }
}

fn ask_next(device: Device, key: Option<u32>, is_cancelable: bool) {
    let extension = device::extension_of(device);
    let state = extension.read();
    if state.StartIoFlags & DEFERRED == 0 || state.StartIoCount == 0 {
        return next(device, key, is_cancelable);
    }
    extension.with(|extension| {
        extension.StartIoKey = key.unwrap_or(0).cast_signed();
        extension.StartIoFlags |= if key.is_some() { WITH_KEY } else { NO_KEY };
        if is_cancelable {
            extension.StartIoFlags |= CANCELABLE;
        }
    });
}

/// Starts a packet or queues it.
fn start_packet(device: Device, irp: Ptr<IRP>, key: Option<u32>, cancel_routine: Ptr<u8>) {
    let old = irql::raise(DISPATCH_LEVEL);
    let lock = (!cancel_routine.is_null()).then(|| {
        let before = cancel::acquire();
        irp.with(|irp| irp.CancelRoutine = cancel_routine.word());
        before
    });
    let is_queued = device_queue::insert(queue_of(device), entry_of(irp), key);
    if is_queued {
        if let Some(before) = lock {
            if irp.read().Cancel == 0 || cancel::take_routine(irp) == 0 {
                cancel::release(before);
            } else {
                // It was cancelled before it got here: its routine gives the lock back.
                irp.with(|irp| irp.CancelIrql = before);
                let arguments = [device.addr(), irp.addr()];
                shared::call_driver(Entry::Cancel, cancel_routine.addr(), &arguments);
            }
        }
    } else {
        device.with(|device| device.CurrentIrp = irp);
        if let Some(before) = lock {
            if flags(device) & NO_CANCEL != 0 {
                irp.with(|irp| irp.CancelRoutine = 0);
            }
            cancel::release(before);
        }
        start_or_defer(device, irp);
    }
    irql::lower(old);
}

nt_api! { module = io_start_io;
    /// Starts an IRP, or queues it if the device is busy.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoStartPacket(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>, key: Ptr<u32>, cancel_function: Ptr<u8>) {
        start_packet(device, irp, key.non_null().map(Ptr::read), cancel_function);
    }

    /// Starts the next IRP of a device's queue; the device is no longer busy if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoStartNextPacket(device: Ptr<DEVICE_OBJECT>, cancelable: Boolean) {
        ask_next(device, None, cancelable);
    }

    /// Starts the next IRP of a device's queue by key.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoStartNextPacketByKey(device: Ptr<DEVICE_OBJECT>, cancelable: Boolean, key: ULong) {
        ask_next(device, Some(key), cancelable);
    }

    /// Says whether StartIo may be called inside of itself, and whether it gets cancelable IRPs.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetStartIoAttributes(device: Ptr<DEVICE_OBJECT>, deferred_start_io: Boolean, non_cancelable: Boolean) {
        device::extension_of(device).with(|extension| {
            extension.StartIoFlags &= !(DEFERRED | NO_CANCEL);
            if deferred_start_io {
                extension.StartIoFlags |= DEFERRED;
            }
            if non_cancelable {
                extension.StartIoFlags |= NO_CANCEL;
            }
        });
    }
}
