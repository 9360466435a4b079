//! Devices and their symbolic links.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::{device_queue, event};
use crate::nt::{
    DEVICE_OBJECT, DEVOBJ_EXTENSION, DO_DEVICE_HAS_NAME, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE,
    DO_SHUTDOWN_REGISTERED, DOE_DELETE_PENDING, DOE_UNLOAD_PENDING, DRIVER_OBJECT, IO_TYPE_DEVICE,
    IO_TYPE_DEVICE_OBJECT_EXTENSION, NtStatus, dispatcher,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Ptr, from_word, low16, to_word, unicode_text};
use crate::value::{Boolean, ULong, UnicodeStringPtr};

/// The devices of a driver, in its chain's order.
#[must_use]
pub fn of_driver(driver: Ptr<DRIVER_OBJECT>) -> Vec<Ptr<DEVICE_OBJECT>> {
    let mut next = driver.read().DeviceObject;
    let mut devices = Vec::new();
    while !next.is_null() {
        devices.push(next);
        next = next.read().NextDevice;
    }
    devices
}

/// The device on top of everything that is attached to `device`.
#[must_use]
pub fn top_of(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    let mut top = device;
    while let Some(above) = top.read().AttachedDevice.non_null() {
        top = above;
    }
    top
}

pub(crate) fn create(
    driver: Ptr<DRIVER_OBJECT>,
    extension_bytes: u32,
    name: &str,
    device_type: u32,
    characteristics: u32,
    is_exclusive: bool,
) -> Result<Ptr<DEVICE_OBJECT>, NtStatus> {
    let fixed = size_of::<DEVICE_OBJECT>() as u64;
    let bytes = fixed + u64::from(extension_bytes);
    if bytes > u64::from(u16::MAX) {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let own_at = bytes.next_multiple_of(16);
    let body = ob::create(
        ObjectType::Device,
        own_at + (size_of::<DEVOBJ_EXTENSION>() + size_of::<Ptr<DEVICE_OBJECT>>()) as u64,
        None,
    )
    .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    if !name.is_empty()
        && let Err(status) = names::insert_object(name, body)
    {
        ob::dereference(body);
        return Err(status);
    }
    let device = Ptr::<DEVICE_OBJECT>::new(body);
    let next = driver.read().DeviceObject;
    device.with(|device| {
        device.Type = IO_TYPE_DEVICE;
        device.Size = low16(bytes);
        device.DriverObject = driver;
        device.NextDevice = next;
        device.Flags = DO_DEVICE_INITIALIZING
            | if is_exclusive { DO_EXCLUSIVE } else { 0 }
            | if name.is_empty() {
                0
            } else {
                DO_DEVICE_HAS_NAME
            };
        device.Characteristics = characteristics;
        device.DeviceType = device_type;
        device.DeviceExtension = if extension_bytes == 0 {
            0
        } else {
            to_word(body + fixed)
        };
        device.StackSize = 1;
        device.DeviceObjectExtension = to_word(body + own_at);
    });
    if !super::volume::give_vpb(device, device_type) {
        names::remove_object(body);
        ob::dereference(body);
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    extension_of(device).with(|extension| {
        extension.Type = IO_TYPE_DEVICE_OBJECT_EXTENSION;
        extension.DeviceObject = device;
    });
    device_queue::initialize(
        device
            .add_bytes(core::mem::offset_of!(DEVICE_OBJECT, DeviceQueue) as u64)
            .cast(),
    );
    let lock = device
        .add_bytes(core::mem::offset_of!(DEVICE_OBJECT, DeviceLock) as u64)
        .cast();
    event::initialize(lock, dispatcher::SYNCHRONIZATION_EVENT, true);
    driver.with(|driver| driver.DeviceObject = device);
    if !next.is_null() {
        previous_of(next).write(device);
    }
    Ok(device)
}

/// The I/O manager's own part of a device.
#[must_use]
pub fn extension_of(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVOBJ_EXTENSION> {
    Ptr::new(from_word(device.read().DeviceObjectExtension))
}

/// Where the device is kept that is in front of `device` in the chain: behind everything that drivers see.
fn previous_of(device: Ptr<DEVICE_OBJECT>) -> Ptr<Ptr<DEVICE_OBJECT>> {
    extension_of(device).offset(1).cast()
}

/// DOE_ flags of a device that is about to go.
const GOING: u32 = DOE_DELETE_PENDING | DOE_UNLOAD_PENDING | crate::nt::DOE_REMOVE_PENDING;

/// Whether a device is about to go: it must not be opened or attached to any more.
#[must_use]
pub fn is_going(device: Ptr<DEVICE_OBJECT>) -> bool {
    extension_of(device).read().ExtensionFlags & GOING != 0
}

/// Removes a device, now or when its last file is closed and nothing is attached to it (IoDeleteDevice).
pub fn delete(device: Ptr<DEVICE_OBJECT>) {
    if device.read().Flags & DO_SHUTDOWN_REGISTERED != 0 {
        super::shutdown::unregister(device);
    }
    super::timer::forget(device);
    names::remove_object(device.addr());
    extension_of(device).with(|extension| extension.ExtensionFlags |= DOE_DELETE_PENDING);
    complete_delete(device);
}

/// Finishes a pending deletion if nothing is in its way. True: the device is gone.
fn complete_delete(device: Ptr<DEVICE_OBJECT>) -> bool {
    let DEVICE_OBJECT {
        ReferenceCount: open,
        AttachedDevice: above,
        ..
    } = device.read();
    let is_pending = extension_of(device).read().ExtensionFlags & DOE_DELETE_PENDING != 0;
    if !is_pending || open > 0 || !above.is_null() {
        return false;
    }
    unlink(device);
    true
}

/// Takes a device out of its driver's chain and lets it go; references keep the object itself alive.
pub(super) fn unlink(device: Ptr<DEVICE_OBJECT>) {
    let DEVICE_OBJECT {
        DriverObject: driver,
        NextDevice: next,
        ..
    } = device.read();
    let previous = previous_of(device).read();
    if !next.is_null() {
        previous_of(next).write(previous);
    }
    if driver.read().DeviceObject == device {
        driver.with(|driver| driver.DeviceObject = next);
    } else if !previous.is_null() && previous.read().NextDevice == device {
        previous.with(|previous| previous.NextDevice = next);
    } else {
        // The chain is in driver memory, and a driver has changed it.
        for other in of_driver(driver) {
            if other.read().NextDevice == device {
                other.with(|other| other.NextDevice = next);
            }
        }
    }
    names::remove_object(device.addr());
    super::volume::take_vpb(device);
    ob::dereference(device.addr());
}

/// A file on the device was closed, or a device on top of it detached: what waited for that happens.
pub(super) fn released(device: Ptr<DEVICE_OBJECT>) {
    let driver = device.read().DriverObject;
    complete_delete(device);
    super::driver::check_unload(driver);
}

/// Puts `source` on top of the stack that `target` is in; the device that it is now directly above. Null: that one is
/// about to go.
pub(crate) fn attach(source: Ptr<DEVICE_OBJECT>, target: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    let below = top_of(target);
    if is_going(below) {
        return Ptr::null();
    }
    let lower = below.read();
    below.with(|below| below.AttachedDevice = source);
    source.with(|source| {
        source.StackSize = lower.StackSize + 1;
        source.AlignmentRequirement = lower.AlignmentRequirement;
        source.SectorSize = lower.SectorSize;
    });
    extension_of(source).with(|extension| extension.AttachedTo = below);
    below
}

/// Takes off what is attached to `target`.
pub(crate) fn detach(target: Ptr<DEVICE_OBJECT>) {
    let above = target.with(|target| core::mem::take(&mut target.AttachedDevice));
    if !above.is_null() {
        extension_of(above).with(|extension| extension.AttachedTo = Ptr::null());
    }
    released(target);
}

/// The lowest device of the stack that `device` is in.
pub(crate) fn base_of(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    let mut base = device;
    while let Some(below) = extension_of(base).read().AttachedTo.non_null() {
        base = below;
    }
    base
}

fn status_of(result: Result<(), NtStatus>) -> NtStatus {
    result.err().unwrap_or(NtStatus::SUCCESS)
}

nt_api! { module = io_device;
    /// Creates a device with a zeroed extension, and names it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoCreateDevice(
        driver: Ptr<DRIVER_OBJECT>,
        extension_bytes: ULong,
        name: UnicodeStringPtr,
        device_type: ULong,
        characteristics: ULong,
        exclusive: Boolean,
        device: Ptr<Ptr<DEVICE_OBJECT>>,
    ) -> NtStatus {
        let name = unicode_text(name.0);
        match create(driver, extension_bytes, &name, device_type, characteristics, exclusive) {
            Ok(created) => {
                device.write(created);
                NtStatus::SUCCESS
            }
            Err(status) => {
                device.write(Ptr::null());
                status
            }
        }
    }

    /// Removes a device from its driver and the namespace.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoDeleteDevice(device: Ptr<DEVICE_OBJECT>) {
        delete(device);
    }

    /// Makes a symbolic link to a device's name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateSymbolicLink(link: UnicodeStringPtr, device: UnicodeStringPtr) -> NtStatus {
        status_of(names::insert_link(&unicode_text(link.0), &unicode_text(device.0)))
    }

    /// Makes a symbolic link to a device's name; security does not differ here.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateUnprotectedSymbolicLink(link: UnicodeStringPtr, device: UnicodeStringPtr) -> NtStatus {
        status_of(names::insert_link(&unicode_text(link.0), &unicode_text(device.0)))
    }

    /// Removes a symbolic link.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDeleteSymbolicLink(link: UnicodeStringPtr) -> NtStatus {
        status_of(names::remove_link(&unicode_text(link.0)))
    }
}
