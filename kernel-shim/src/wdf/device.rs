//! WDFDEVICE and WDFFILEOBJECT.

use alloc::string::String;
use alloc::vec::Vec;

use super::device_init::{self, Init};
use super::object::{self, Body, Parent};
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, serial};
use crate::api::nt_api;
use crate::nt::{
    DEVICE_OBJECT, DO_BUFFERED_IO, DO_DEVICE_INITIALIZING, DO_DIRECT_IO, FILE_OBJECT, NtStatus,
    UNICODE_STRING,
};
use crate::ob::names;
use crate::raw::{Ptr, Word, unicode_text};
use crate::value::{Size, ULong, UnicodeStringPtr};

/// What a device is.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) object: Ptr<DEVICE_OBJECT>,
    pub(crate) init: Init,
    pub(crate) links: Vec<String>,
    pub(crate) default_queue: u64,
    /// Queues by major function.
    pub(crate) queues: [u64; 28],
}

/// What an open file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) object: Ptr<FILE_OBJECT>,
    pub(crate) device: u64,
}

/// WDF_FILEOBJECT_CONFIG.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_FILEOBJECT_CONFIG {
    /// Bytes.
    pub Size: u32,
    /// Called as (Device, Request, FileObject).
    pub EvtDeviceFileCreate: Word,
    /// Called as (FileObject).
    pub EvtFileClose: Word,
    /// Called as (FileObject).
    pub EvtFileCleanup: Word,
    /// WDF_TRI_STATE.
    pub AutoForwardCleanupClose: u32,
    /// WDF_FILEOBJECT_CLASS.
    pub FileObjectClass: u32,
}

fn create(init: u64, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>) -> Result<u64, NtStatus> {
    let wanted = device_init::get(init);
    let constraints = serial::constraints(wanted.driver, &object::attributes(attributes)?);
    let object = crate::io::device::create(
        wanted.object,
        0,
        &wanted.name,
        wanted.device_type,
        wanted.characteristics,
        wanted.is_exclusive,
    )?;
    let io = match wanted.io_type {
        2 => DO_BUFFERED_IO,
        3 => DO_DIRECT_IO,
        _ => 0,
    };
    let has_preprocess = !wanted.preprocess.is_empty();
    object.with(|object| {
        object.Flags |= io;
        object.StackSize += i8::from(has_preprocess);
    });
    let (driver, shutdown) = (wanted.driver, wanted.shutdown);
    let device = Device {
        object,
        init: wanted,
        links: Vec::new(),
        default_queue: 0,
        queues: [0; 28],
    };
    let made = object::create(
        attributes,
        Parent::Default(driver),
        Body::Device(device.into()),
    );
    match made {
        Ok(handle) => {
            serial::insert(handle, constraints);
            object::associate(object.addr(), handle);
            device_init::take(init);
            if shutdown.1 & 1 != 0 {
                let _ = crate::io::shutdown::IoRegisterShutdownNotification(object);
            }
            if shutdown.1 & 2 != 0 {
                let _ = crate::io::shutdown::IoRegisterLastChanceShutdownNotification(object);
            }
        }
        Err(_) => crate::io::device::delete(object),
    }
    made
}

fn object_of(device: u64) -> Ptr<DEVICE_OBJECT> {
    object::device(device, |device| device.object)
}

fn file_of(file: u64) -> Ptr<FILE_OBJECT> {
    object::file(file, |file| file.object)
}

nt_api! { module = wdf_device;
    /// WdfDeviceCreate: makes the device; the WDFDEVICE_INIT is used up.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("control devices only")
    fn WdfDeviceCreate(
        globals: Wdf,
        init: Ptr<Word>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        device: Ptr<Word>,
    ) -> NtStatus {
        object::required(init, "DeviceInit");
        object::required(device, "Device");
        let result = create(crate::raw::from_word(init.read()), attributes);
        if result.is_ok() {
            init.write(0);
        }
        super::object_api::give(result, device)
    }

    /// WdfControlFinishInitializing: from now on the device can be opened.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfControlFinishInitializing(globals: Wdf, device: Wdf) {
        object_of(device.0).with(|object| object.Flags &= !DO_DEVICE_INITIALIZING);
    }

    /// WdfDeviceCreateSymbolicLink: a link that is removed with the device.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDeviceCreateSymbolicLink(globals: Wdf, device: Wdf, link: UnicodeStringPtr) -> NtStatus {
        object::required(link.0, "SymbolicLinkName");
        let name = object::device(device.0, |device| device.init.name.clone());
        let link = unicode_text(link.0);
        if name.is_empty() {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        match names::insert_link(&link, &name) {
            Ok(()) => {
                object::device(device.0, |device| device.links.push(link));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// WdfDeviceRetrieveDeviceName: its name, into a WDFSTRING.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDeviceRetrieveDeviceName(globals: Wdf, device: Wdf, string: Wdf) -> NtStatus {
        let name = object::device(device.0, |device| device.init.name.clone());
        if name.is_empty() {
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        super::collection::assign(string.0, &name)
    }

    /// WdfDeviceGetDriver: its driver.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceGetDriver(globals: Wdf, device: Wdf) -> Wdf {
        Size(object::device(device.0, |device| device.init.driver))
    }

    /// WdfDeviceWdmGetDeviceObject: its DEVICE_OBJECT.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceWdmGetDeviceObject(globals: Wdf, device: Wdf) -> Ptr<DEVICE_OBJECT> {
        object_of(device.0)
    }

    /// WdfWdmDeviceGetWdfDeviceHandle: the WDFDEVICE of a DEVICE_OBJECT; NULL if it has none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWdmDeviceGetWdfDeviceHandle(globals: Wdf, device: Ptr<DEVICE_OBJECT>) -> Wdf {
        Size(object::by_address(device.addr()).unwrap_or(0))
    }

    /// WdfDeviceWdmGetAttachedDevice: the device below; a control device has none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceWdmGetAttachedDevice(globals: Wdf, device: Wdf) -> Ptr<DEVICE_OBJECT> {
        crate::io::device::extension_of(object_of(device.0)).read().AttachedTo
    }

    /// WdfDeviceWdmGetPhysicalDevice: a control device has none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceWdmGetPhysicalDevice(globals: Wdf, device: Wdf) -> Ptr<DEVICE_OBJECT> {
        object_of(device.0);
        Ptr::null()
    }

    /// WdfDeviceGetDefaultQueue: the default queue; NULL if there is none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceGetDefaultQueue(globals: Wdf, device: Wdf) -> Wdf {
        Size(object::device(device.0, |device| device.default_queue))
    }

    /// WdfDeviceConfigureRequestDispatching: the queue for requests of a type.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceConfigureRequestDispatching(globals: Wdf, device: Wdf, queue: Wdf, request_type: ULong) -> NtStatus {
        let owner = object::queue(queue.0, |queue| queue.device);
        // Create, read, write, device control, internal device control.
        if owner != device.0 || !matches!(request_type, 0 | 3 | 4 | 14 | 15) {
            return NtStatus::INVALID_PARAMETER;
        }
        object::device(device.0, |device| match device.queues.get_mut(request_type as usize) {
            Some(slot) if *slot == 0 => {
                *slot = queue.0;
                NtStatus::SUCCESS
            }
            _ => super::BUSY,
        })
    }

    /// WdfDeviceGetCharacteristics: FILE_... characteristics.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceGetCharacteristics(globals: Wdf, device: Wdf) -> ULong {
        object_of(device.0).read().Characteristics
    }

    /// WdfDeviceSetCharacteristics: sets them.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceSetCharacteristics(globals: Wdf, device: Wdf, characteristics: ULong) {
        object_of(device.0).with(|object| object.Characteristics = characteristics);
    }

    /// WdfDeviceGetAlignmentRequirement: of buffers.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceGetAlignmentRequirement(globals: Wdf, device: Wdf) -> ULong {
        object_of(device.0).read().AlignmentRequirement
    }

    /// WdfDeviceSetAlignmentRequirement: sets it.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceSetAlignmentRequirement(globals: Wdf, device: Wdf, alignment: ULong) {
        object_of(device.0).with(|object| object.AlignmentRequirement = alignment);
    }

    /// WdfDeviceGetFileObject: the WDFFILEOBJECT of a FILE_OBJECT.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceGetFileObject(globals: Wdf, device: Wdf, file: Ptr<FILE_OBJECT>) -> Wdf {
        object_of(device.0);
        Size(object::by_address(file.addr()).unwrap_or(0))
    }

    /// WdfFileObjectGetFileName: the name behind the device's; NULL if there is none.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfFileObjectGetFileName(globals: Wdf, file: Wdf) -> Ptr<UNICODE_STRING> {
        let object = file_of(file.0);
        if object.is_null() {
            return Ptr::null();
        }
        object.add_bytes(core::mem::offset_of!(FILE_OBJECT, FileName) as u64).cast()
    }

    /// WdfFileObjectGetFlags: FO_... flags.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfFileObjectGetFlags(globals: Wdf, file: Wdf) -> ULong {
        file_of(file.0).read().Flags
    }

    /// WdfFileObjectGetDevice: its device.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfFileObjectGetDevice(globals: Wdf, file: Wdf) -> Wdf {
        Size(object::file(file.0, |file| file.device))
    }

    /// WdfFileObjectWdmGetFileObject: its FILE_OBJECT.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfFileObjectWdmGetFileObject(globals: Wdf, file: Wdf) -> Ptr<FILE_OBJECT> {
        file_of(file.0)
    }
}

/// Makes the WDFFILEOBJECT of a file.
pub(crate) fn create_file(device: u64, file: Ptr<FILE_OBJECT>) -> Result<u64, NtStatus> {
    let mut attributes = object::device(device, |device| device.init.file_attributes);
    let attributes = if attributes.Size == 0 {
        Ptr::null()
    } else {
        Ptr::of(&mut attributes)
    };
    let body = Body::File(File {
        object: file,
        device,
    });
    let handle = object::create(attributes, Parent::Fixed(device), body)?;
    if !file.is_null() {
        object::associate(file.addr(), handle);
    }
    Ok(handle)
}
