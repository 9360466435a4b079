//! WDFDEVICE_INIT: what a device is going to be.

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::device::WDF_FILEOBJECT_CONFIG;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, object};
use crate::api::nt_api;
use crate::nt::{DRIVER_OBJECT, NtStatus};
use crate::raw::{Global, Ptr, unicode_text};
use crate::value::{Boolean, Size, UChar, ULong, UnicodeStringPtr};

/// What a device is going to be.
#[derive(Clone, Debug)]
pub(crate) struct Init {
    pub(crate) driver: u64,
    pub(crate) object: Ptr<DRIVER_OBJECT>,
    pub(crate) name: String,
    pub(crate) is_exclusive: bool,
    /// WDF_DEVICE_IO_TYPE of reads and writes.
    pub(crate) io_type: u32,
    pub(crate) device_type: u32,
    pub(crate) characteristics: u32,
    pub(crate) file_config: Option<WDF_FILEOBJECT_CONFIG>,
    pub(crate) file_attributes: WDF_OBJECT_ATTRIBUTES,
    pub(crate) request_attributes: WDF_OBJECT_ATTRIBUTES,
    pub(crate) in_caller_context: u64,
    /// Preprocess callbacks by major function.
    pub(crate) preprocess: BTreeMap<u8, u64>,
    /// Shutdown callback and its flags.
    pub(crate) shutdown: (u64, u8),
}

#[derive(Debug)]
struct Inits {
    open: BTreeMap<u64, Init>,
    next: u64,
}

static INITS: Global<Inits> = Global::new(
    "KMDF device inits",
    Inits {
        open: BTreeMap::new(),
        next: 0,
    },
);
const FIRST: u64 = 0x5749_0000;

pub(super) fn initialize() {
    INITS.with(|inits| {
        inits.open.clear();
        inits.next = 0;
    });
}

fn with<R>(handle: u64, work: impl FnOnce(&mut Init) -> R) -> R {
    INITS
        .with(|inits| inits.open.get_mut(&handle).map(work))
        .unwrap_or_else(|| object::bad_handle(handle, "WDFDEVICE_INIT"))
}

/// Ends the use of a WDFDEVICE_INIT.
pub(crate) fn take(handle: u64) -> Init {
    INITS
        .with(|inits| inits.open.remove(&handle))
        .unwrap_or_else(|| object::bad_handle(handle, "WDFDEVICE_INIT"))
}

/// A copy, for a device that may not come to be.
pub(crate) fn get(handle: u64) -> Init {
    with(handle, |init| init.clone())
}

fn attributes(from: Ptr<WDF_OBJECT_ATTRIBUTES>) -> WDF_OBJECT_ATTRIBUTES {
    from.non_null().map_or_else(Default::default, Ptr::read)
}

nt_api! { module = wdf_device_init;
    /// WdfControlDeviceInitAllocate: begins a control device. Security descriptions are accepted as they are.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("the SDDL string has no effect")
    fn WdfControlDeviceInitAllocate(globals: Wdf, driver: Wdf, sddl: UnicodeStringPtr) -> Wdf {
        object::required(sddl.0, "SDDLString");
        let object = object::driver_object(driver.0);
        let init = Init {
            driver: driver.0,
            object,
            name: String::new(),
            is_exclusive: false,
            io_type: 2,
            device_type: 0x22,
            characteristics: 0x100, // FILE_DEVICE_SECURE_OPEN
            file_config: None,
            file_attributes: WDF_OBJECT_ATTRIBUTES::default(),
            request_attributes: WDF_OBJECT_ATTRIBUTES::default(),
            in_caller_context: 0,
            preprocess: BTreeMap::new(),
            shutdown: (0, 0),
        };
        Size(INITS.with(|inits| {
            inits.next += 0x10;
            inits.open.insert(FIRST + inits.next, init);
            FIRST + inits.next
        }))
    }

    /// WdfControlDeviceInitSetShutdownNotification: 1 for IRP_MJ_SHUTDOWN in order, 2 for the last chance.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfControlDeviceInitSetShutdownNotification(globals: Wdf, init: Wdf, notification: Ptr<u8>, flags: UChar) {
        with(init.0, |init| init.shutdown = (notification.addr(), flags));
    }

    /// WdfDeviceInitFree: ends the use of one that became no device.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitFree(globals: Wdf, init: Wdf) {
        take(init.0);
    }

    /// WdfDeviceInitSetExclusive: only one handle at a time.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetExclusive(globals: Wdf, init: Wdf, is_exclusive: Boolean) {
        with(init.0, |init| init.is_exclusive = is_exclusive);
    }

    /// WdfDeviceInitSetIoType: how reads and writes bring their buffers: 1 neither, 2 buffered, 3 direct.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetIoType(globals: Wdf, init: Wdf, io_type: ULong) {
        with(init.0, |init| init.io_type = io_type);
    }

    /// WdfDeviceInitSetIoTypeEx: as WdfDeviceInitSetIoType, with the type second in a WDF_IO_TYPE_CONFIG.
    wdf both stdcall irql(DISPATCH_LEVEL) partial("for device controls the control code decides")
    fn WdfDeviceInitSetIoTypeEx(globals: Wdf, init: Wdf, config: Ptr<[u32; 4]>) {
        let [_, io_type, _, _] = config.read();
        with(init.0, |init| init.io_type = io_type);
    }

    /// WdfDeviceInitSetDeviceType: FILE_DEVICE_...
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetDeviceType(globals: Wdf, init: Wdf, device_type: ULong) {
        with(init.0, |init| init.device_type = device_type);
    }

    /// WdfDeviceInitAssignName: the device's name; NULL for none.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDeviceInitAssignName(globals: Wdf, init: Wdf, name: UnicodeStringPtr) -> NtStatus {
        let name = unicode_text(name.0);
        with(init.0, |init| init.name = name);
        NtStatus::SUCCESS
    }

    /// WdfDeviceInitAssignSDDLString: accepted as it is.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("the SDDL string has no effect")
    fn WdfDeviceInitAssignSDDLString(globals: Wdf, init: Wdf, sddl: UnicodeStringPtr) -> NtStatus {
        with(init.0, |_| NtStatus::SUCCESS)
    }

    /// WdfDeviceInitSetCharacteristics: FILE_... characteristics, in place of the others or with them.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetCharacteristics(globals: Wdf, init: Wdf, characteristics: ULong, or_in: Boolean) {
        with(init.0, |init| init.characteristics = characteristics | if or_in { init.characteristics } else { 0 });
    }

    /// WdfDeviceInitSetFileObjectConfig: what is called when files are opened and closed, and the files' contexts.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetFileObjectConfig(
        globals: Wdf,
        init: Wdf,
        config: Ptr<WDF_FILEOBJECT_CONFIG>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    ) {
        object::required(config, "FileObjectConfig");
        let (config, attributes) = (config.read(), self::attributes(attributes));
        with(init.0, |init| {
            init.file_config = Some(config);
            init.file_attributes = attributes;
        });
    }

    /// WdfDeviceInitSetRequestAttributes: the contexts of requests.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDeviceInitSetRequestAttributes(globals: Wdf, init: Wdf, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>) {
        object::required(attributes, "RequestAttributes");
        let attributes = self::attributes(attributes);
        with(init.0, |init| init.request_attributes = attributes);
    }

    /// WdfDeviceInitSetIoInCallerContextCallback: sees each request before it is queued.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDeviceInitSetIoInCallerContextCallback(globals: Wdf, init: Wdf, callback: Ptr<u8>) {
        with(init.0, |init| init.in_caller_context = callback.addr());
    }

    /// WdfDeviceInitAssignWdmIrpPreprocessCallback: sees IRPs of a major function before the framework does.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("it sees all minor functions")
    fn WdfDeviceInitAssignWdmIrpPreprocessCallback(
        globals: Wdf,
        init: Wdf,
        callback: Ptr<u8>,
        major: UChar,
        minors: Ptr<u8>,
        count: ULong,
    ) -> NtStatus {
        if major > 0x1B {
            return NtStatus::INVALID_PARAMETER;
        }
        with(init.0, |init| init.preprocess.insert(major, callback.addr()));
        NtStatus::SUCCESS
    }
}
