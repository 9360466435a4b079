//! WDFDRIVER.

use alloc::vec::Vec;

use super::object::{self, Body, Parent};
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader, serial};
use crate::api::nt_api;
use crate::nt::bugcheck::bugcheck_with_text;
use crate::nt::{DRIVER_OBJECT, NtStatus};
use crate::raw::{Ptr, Word, from_word};
use crate::shared;
use crate::value::{Boolean, NoReturn, Size, ULong, UnicodeStringPtr};
use abi::trace::Entry;

/// What a driver is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    pub(crate) object: Ptr<DRIVER_OBJECT>,
    unload: u64,
    path: Ptr<u16>,
}

/// WDF_DRIVER_CONFIG.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_DRIVER_CONFIG {
    /// Bytes.
    pub Size: u32,
    /// AddDevice; never called: devices are control devices.
    pub EvtDriverDeviceAdd: Word,
    /// Called when the driver is unloaded.
    pub EvtDriverUnload: Word,
    /// 1: non-PnP driver.
    pub DriverInitFlags: u32,
    /// Tag.
    pub DriverPoolTag: u32,
}

/// WDF_DRIVER_VERSION_AVAILABLE_PARAMS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_DRIVER_VERSION_AVAILABLE_PARAMS {
    /// Bytes.
    pub Size: u32,
    /// Major version.
    pub MajorVersion: u32,
    /// Minor version.
    pub MinorVersion: u32,
}

/// WdfDriverInitNonPnpDriver.
const NON_PNP: u32 = 1;
/// The framework's minor version.
const MINOR: u32 = 33;

fn create(
    globals: u64,
    object: Ptr<DRIVER_OBJECT>,
    path: UnicodeStringPtr,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    config: &WDF_DRIVER_CONFIG,
) -> Result<u64, NtStatus> {
    if u64::from(config.Size) < 4 + 2 * size_of::<Word>() as u64 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let units = crate::raw::unicode_string(path.0);
    let mut bytes: Vec<u8> = units.into_iter().flat_map(u16::to_le_bytes).collect();
    bytes.extend([0, 0]);
    let path =
        crate::ex::pool::allocate_copy(&bytes, *b"WdfP").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let driver = Driver {
        object,
        unload: from_word(config.EvtDriverUnload),
        path: path.cast(),
    };
    let wanted = object::attributes(attributes)?;
    let handle = object::create(attributes, Parent::Fixed(0), Body::Driver(driver))?;
    serial::insert(handle, serial::constraints(0, &wanted));
    if !loader::set_driver(globals, handle, config.DriverInitFlags) {
        object::bad_handle(globals, "driver that is bound");
    }
    object::associate(object.addr(), handle);
    // A legacy driver can be unloaded only if it has something to do then.
    if config.EvtDriverUnload != 0 || config.DriverInitFlags & NON_PNP == 0 {
        object.with(|object| object.DriverUnload = crate::io::routine::address_of("WdfpUnload"));
    }
    let dispatch = crate::io::routine::address_of("WdfpDispatch");
    object.with(|object| object.MajorFunction.fill(dispatch));
    Ok(handle)
}

nt_api! { module = wdf_driver;
    /// WdfDriverCreate: the driver's object; its dispatch routines are the framework's from now on.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("EvtDriverDeviceAdd is never called: devices are control devices")
    fn WdfDriverCreate(
        globals: Wdf,
        driver: Ptr<DRIVER_OBJECT>,
        registry_path: UnicodeStringPtr,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        config: Ptr<WDF_DRIVER_CONFIG>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(driver, "DriverObject");
        object::required(config, "DriverConfig");
        super::object_api::give(create(globals.0, driver, registry_path, attributes, &config.read()), result)
    }

    /// DriverUnload of every KMDF driver. Not a function of the table; it needs an address.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfpUnload(driver: Ptr<DRIVER_OBJECT>) {
        if let Some(handle) = object::by_address(driver.addr()) {
            let unload = object::driver(handle, |driver| driver.unload);
            if unload != 0 {
                shared::call_driver(Entry::Other, unload, &[handle]);
            }
            if object::exists(handle) {
                let path = object::driver(handle, |driver| driver.path);
                object::delete(handle);
                crate::ex::pool::free(path.cast(), 0);
            }
        }
    }

    /// WdfDriverGetRegistryPath: the path of the driver's key, NUL-terminated.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDriverGetRegistryPath(globals: Wdf, driver: Wdf) -> Ptr<u16> {
        object::driver(driver.0, |driver| driver.path)
    }

    /// WdfDriverWdmGetDriverObject: its DRIVER_OBJECT.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDriverWdmGetDriverObject(globals: Wdf, driver: Wdf) -> Ptr<DRIVER_OBJECT> {
        object::driver_object(driver.0)
    }

    /// WdfWdmDriverGetWdfDriverHandle: the WDFDRIVER of a DRIVER_OBJECT; NULL if it has none.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWdmDriverGetWdfDriverHandle(globals: Wdf, driver: Ptr<DRIVER_OBJECT>) -> Wdf {
        Size(object::by_address(driver.addr()).unwrap_or(0))
    }

    /// WdfDriverIsVersionAvailable: whether the framework is at least of that version.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDriverIsVersionAvailable(
        globals: Wdf,
        driver: Wdf,
        version: Ptr<WDF_DRIVER_VERSION_AVAILABLE_PARAMS>,
    ) -> Boolean {
        object::required(version, "VersionAvailableParams");
        object::driver(driver.0, |_| ());
        let WDF_DRIVER_VERSION_AVAILABLE_PARAMS { Size: bytes, MajorVersion, MinorVersion } = version.read();
        bytes == 12 && MajorVersion == 1 && MinorVersion <= MINOR
    }

    /// WdfVerifierDbgBreakPoint: as DbgBreakPoint.
    wdf both stdcall irql(ANY_LEVEL) implemented
    fn WdfVerifierDbgBreakPoint(globals: Wdf) {
        crate::rtl::dbg::DbgBreakPoint();
    }

    /// WdfVerifierKeBugCheck: as KeBugCheckEx.
    wdf both stdcall irql(ANY_LEVEL) implemented
    fn WdfVerifierKeBugCheck(globals: Wdf, code: ULong, first: Size, second: Size, third: Size, fourth: Size) -> NoReturn {
        bugcheck_with_text(code, [first.0, second.0, third.0, fourth.0], format_args!("WdfVerifierKeBugCheck"))
    }
}
