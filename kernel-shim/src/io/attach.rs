//! Device stacks: attaching, and finding one's way up and down.

use alloc::vec::Vec;

use super::device::{attach, base_of, detach, extension_of, is_going, of_driver, top_of};
use super::open;
use super::volume::{self, related_device};
use crate::api::nt_api;
use crate::nt::{DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DRIVER_OBJECT, FILE_OBJECT, NtStatus};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Ptr, low32, unicode_text};
use crate::value::{ULong, UnicodeStringPtr};

type Device = Ptr<DEVICE_OBJECT>;

fn referenced(device: Device) -> Device {
    if !device.is_null() {
        ob::reference(device.addr());
    }
    device
}

fn attach_safe(source: Device, target: Device, attached: Ptr<Device>) -> NtStatus {
    let below = attach(source, target);
    attached.write(below);
    if below.is_null() {
        NtStatus::NO_SUCH_DEVICE
    } else {
        NtStatus::SUCCESS
    }
}

nt_api! { module = io_attach;
    /// Attaches a device on top of another's stack; returns the device below, or NULL if that is about to go.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAttachDeviceToDeviceStack(source: Ptr<DEVICE_OBJECT>, target: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        attach(source, target)
    }

    /// Attaches a device on top of another's stack, and stores the device below before requests can arrive.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAttachDeviceToDeviceStackSafe(
        source: Ptr<DEVICE_OBJECT>,
        target: Ptr<DEVICE_OBJECT>,
        attached_to: Ptr<Ptr<DEVICE_OBJECT>>,
    ) -> NtStatus {
        attach_safe(source, target, attached_to)
    }

    /// Attaches a device on top of the stack of a device with a name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoAttachDevice(
        source: Ptr<DEVICE_OBJECT>,
        target_device: UnicodeStringPtr,
        attached_device: Ptr<Ptr<DEVICE_OBJECT>>,
    ) -> NtStatus {
        let found = match names::resolve(&unicode_text(target_device.0)) {
            Ok(found) => found,
            Err(status) => return status,
        };
        if ob::type_of(found.body) != Some(ObjectType::Device) {
            return NtStatus::OBJECT_TYPE_MISMATCH;
        }
        let target = Ptr::<DEVICE_OBJECT>::new(found.body);
        if target.read().Flags & DO_DEVICE_INITIALIZING != 0 {
            return NtStatus::NO_SUCH_DEVICE;
        }
        attach_safe(source, target, attached_device)
    }

    /// Takes off what is attached to a device.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoDetachDevice(target: Ptr<DEVICE_OBJECT>) {
        detach(target);
    }

    /// The device on top of a device's stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetAttachedDevice(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        top_of(device)
    }

    /// The device on top of a device's stack, with a reference.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetAttachedDeviceReference(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        referenced(top_of(device))
    }

    /// The device below, with a reference; NULL: there is none, or it is about to go.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetLowerDeviceObject(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        if is_going(device) {
            return Ptr::null();
        }
        referenced(extension_of(device).read().AttachedTo)
    }

    /// The lowest device of a stack, with a reference.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetDeviceAttachmentBaseRef(device: Ptr<DEVICE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        referenced(base_of(device))
    }

    /// The device that requests for a file go to: the top of the stack of the mounted volume's device, or of its own.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetRelatedDeviceObject(file: Ptr<FILE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        related_device(file)
    }

    /// The mounted volume's device that serves a file, below all filters; its own, if no file system is mounted.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetBaseFileSystemDeviceObject(file: Ptr<FILE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
        volume::base_of(file)
    }

    /// The devices of a driver, each with a reference. BUFFER_TOO_SMALL: the array takes only the first of them.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoEnumerateDeviceObjectList(
        driver: Ptr<DRIVER_OBJECT>,
        device_object_list: Ptr<Ptr<DEVICE_OBJECT>>,
        device_object_list_size: ULong,
        actual_number_device_objects: Ptr<u32>,
    ) -> NtStatus {
        let devices: Vec<Device> = of_driver(driver);
        actual_number_device_objects.write(low32(devices.len() as u64));
        let room = device_object_list_size as usize / size_of::<crate::raw::Word>();
        for (index, &device) in devices.iter().take(room).enumerate() {
            device_object_list.offset(index.cast_signed() as i64).write(referenced(device));
        }
        if devices.len() > room { NtStatus::BUFFER_TOO_SMALL } else { NtStatus::SUCCESS }
    }

    /// Opens the device of a name; its file, with a reference, and the device on top of its stack.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetDeviceObjectPointer(
        name: UnicodeStringPtr,
        access: ULong,
        file: Ptr<Ptr<FILE_OBJECT>>,
        device: Ptr<Ptr<DEVICE_OBJECT>>,
    ) -> NtStatus {
        let open = open::Open { access, ..open::Open::new(unicode_text(name.0)) };
        match open::open_referenced(&open) {
            Ok(opened) => {
                file.write(opened);
                device.write(related_device(opened));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }
}
