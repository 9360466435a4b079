//! IRP_MJ_SHUTDOWN for the devices that asked for it.

use alloc::vec::Vec;

use super::device::top_of;
use super::request;
use crate::api::nt_api;
use crate::nt::{DEVICE_OBJECT, DO_SHUTDOWN_REGISTERED, IRP_MJ_SHUTDOWN, NtStatus};
use crate::ob;
use crate::raw::{Global, Ptr};

/// Addresses of registered devices, in the order of their registration, and whether it is for the last chance.
static DEVICES: Global<Vec<(u64, bool)>> = Global::new("shutdown notifications", Vec::new());

pub(super) fn initialize() {
    DEVICES.with(Vec::clear);
}

fn register(device: Ptr<DEVICE_OBJECT>, is_last_chance: bool) -> NtStatus {
    ob::reference(device.addr());
    DEVICES.with(|devices| devices.push((device.addr(), is_last_chance)));
    device.with(|device| device.Flags |= DO_SHUTDOWN_REGISTERED);
    NtStatus::SUCCESS
}

/// Forgets all registrations of a device.
pub(super) fn unregister(device: Ptr<DEVICE_OBJECT>) {
    let count = DEVICES.with(|devices| {
        let before = devices.len();
        devices.retain(|&(registered, _)| registered != device.addr());
        before - devices.len()
    });
    device.with(|device| device.Flags &= !DO_SHUTDOWN_REGISTERED);
    for _ in 0..count {
        ob::dereference(device.addr());
    }
}

/// The system goes down in order: each registered device gets its IRP, the last to register first; those for the last
/// chance come after all others.
pub(crate) fn notify() {
    for is_last_chance in [false, true] {
        loop {
            let next = DEVICES.with(|devices| {
                let position = devices
                    .iter()
                    .rposition(|&(_, is_last)| is_last == is_last_chance)?;
                Some(devices.remove(position).0)
            });
            let Some(address) = next else {
                break;
            };
            let device = Ptr::<DEVICE_OBJECT>::new(address);
            let _ = request::send_and_wait(top_of(device), Ptr::null(), IRP_MJ_SHUTDOWN);
            ob::dereference(address);
        }
    }
}

nt_api! { module = io_shutdown;
    /// The device gets IRP_MJ_SHUTDOWN when the system goes down in order.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterShutdownNotification(device: Ptr<DEVICE_OBJECT>) -> NtStatus {
        register(device, false)
    }

    /// The device gets IRP_MJ_SHUTDOWN at the very end, after the file systems.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterLastChanceShutdownNotification(device: Ptr<DEVICE_OBJECT>) -> NtStatus {
        register(device, true)
    }

    /// The device gets no IRP_MJ_SHUTDOWN.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUnregisterShutdownNotification(device: Ptr<DEVICE_OBJECT>) {
        unregister(device);
    }
}
