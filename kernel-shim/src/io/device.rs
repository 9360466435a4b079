//! Devices and their symbolic links.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::event;
use crate::nt::{
    DEVICE_OBJECT, DO_DEVICE_HAS_NAME, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE, DRIVER_OBJECT,
    IO_TYPE_DEVICE, KDEVICE_QUEUE, NtStatus, dispatcher,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Ptr, low16, to_word, unicode_text};
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

fn create(
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
    let body =
        ob::create(ObjectType::Device, bytes, None).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
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
        device.DeviceQueue.Type = 20; // DeviceQueueObject
        device.DeviceQueue.Size = low16(size_of::<KDEVICE_QUEUE>() as u64).cast_signed();
        device.SectorSize = 0;
    });
    let queue = device.add_bytes(core::mem::offset_of!(DEVICE_OBJECT, DeviceQueue) as u64);
    queue
        .add_bytes(core::mem::offset_of!(KDEVICE_QUEUE, DeviceListHead) as u64)
        .cast()
        .list_initialize();
    let lock = device
        .add_bytes(core::mem::offset_of!(DEVICE_OBJECT, DeviceLock) as u64)
        .cast();
    event::initialize(lock, dispatcher::SYNCHRONIZATION_EVENT, true);
    driver.with(|driver| driver.DeviceObject = device);
    Ok(device)
}

/// Removes a device. Files that are open on it keep the object itself alive.
pub fn delete(device: Ptr<DEVICE_OBJECT>) {
    let DEVICE_OBJECT {
        DriverObject: driver,
        NextDevice: next,
        ..
    } = device.read();
    if driver.read().DeviceObject == device {
        driver.with(|driver| driver.DeviceObject = next);
    } else {
        for other in of_driver(driver) {
            if other.read().NextDevice == device {
                other.with(|other| other.NextDevice = next);
            }
        }
    }
    names::remove_object(device.addr());
    ob::dereference(device.addr());
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

    /// Attaches a device on top of another's stack; returns the device below, or null.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAttachDeviceToDeviceStack(source: Ptr<DEVICE_OBJECT>, target: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        let below = top_of(target);
        let stack_size = below.read().StackSize;
        below.with(|below| below.AttachedDevice = source);
        source.with(|source| source.StackSize = stack_size + 1);
        below
    }

    /// Takes off what is attached to a device.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDetachDevice(target: Ptr<DEVICE_OBJECT>) {
        target.with(|target| target.AttachedDevice = Ptr::null());
    }

    /// Finds a device by name and opens it for the driver.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) missing
    fn IoGetDeviceObjectPointer(
        name: UnicodeStringPtr,
        access: ULong,
        file: Ptr<Ptr<u8>>,
        device: Ptr<Ptr<DEVICE_OBJECT>>,
    ) -> NtStatus {}
}
