//! WDFLDR.SYS: binding a driver to the framework.

use alloc::collections::BTreeMap;

use super::{Wdf, functions, object};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{DRIVER_OBJECT, NtStatus};
use crate::raw::{Global, Ptr, Word, low32, to_word, unicode_text};
use crate::value::UnicodeStringPtr;

/// WDF_DRIVER_GLOBALS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_DRIVER_GLOBALS {
    /// The driver's handle.
    pub Driver: Word,
    /// DriverInitFlags.
    pub DriverFlags: u32,
    /// Tag of the framework's allocations for it.
    pub DriverTag: u32,
    /// Its service's name.
    pub DriverName: [u8; 32],
    /// The stub in the driver replaces DriverUnload.
    pub DisplaceDriverUnload: u8,
}

/// WDF_BIND_INFO.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_BIND_INFO {
    /// Bytes.
    pub Size: u32,
    /// `KmdfLibrary`.
    pub Component: Ptr<u16>,
    /// Major version.
    pub Major: u32,
    /// Minor version.
    pub Minor: u32,
    /// Build.
    pub Build: u32,
    /// Functions that the driver knows.
    pub FuncCount: u32,
    /// Its variable for the table's address; until version 1.13 the table itself.
    pub FuncTable: Ptr<Word>,
    /// The library's.
    pub Module: Word,
}

const _: () = {
    assert!(size_of::<WDF_BIND_INFO>() == if cfg!(nt_i386) { 32 } else { 48 });
    assert!(size_of::<WDF_DRIVER_GLOBALS>() == if cfg!(nt_i386) { 48 } else { 56 });
};

/// Functions of the last version that wants a copy of the table.
const LAST_COPIED: u32 = 438;
/// How many functions the versions have: 1.0, 1.1, 1.5, 1.9, 1.11, 1.13, 1.15, 1.19 to 1.25, 1.29, 1.31.
const COUNTS: [u32; 13] = [
    383, 386, 387, 396, 432, 438, 444, 446, 448, 451, 453, 454, 458,
];

#[derive(Debug, Default)]
struct Bound {
    /// Driver handle (0: not made yet) by the address of WDF_DRIVER_GLOBALS.
    clients: BTreeMap<u64, u64>,
    table: u64,
}

static BOUND: Global<Bound> = Global::new(
    "KMDF clients",
    Bound {
        clients: BTreeMap::new(),
        table: 0,
    },
);

pub(super) fn initialize() {
    BOUND.with(|bound| *bound = Bound::default());
}

/// The WDFDRIVER of a bound driver.
pub(crate) fn driver_of(globals: u64) -> u64 {
    match BOUND.with(|bound| bound.clients.get(&globals).copied()) {
        Some(driver) if driver != 0 => driver,
        _ => object::bad_handle(globals, "driver that has called WdfDriverCreate"),
    }
}

/// Remembers the WDFDRIVER of a bound driver. False: it is not bound.
pub(crate) fn set_driver(globals: u64, driver: u64, flags: u32) -> bool {
    let is_bound = BOUND.with(|bound| {
        bound
            .clients
            .get_mut(&globals)
            .map(|client| *client = driver)
            .is_some()
    });
    if is_bound {
        Ptr::<WDF_DRIVER_GLOBALS>::new(globals).with(|globals| {
            globals.Driver = to_word(driver);
            globals.DriverFlags = flags;
            globals.DisplaceDriverUnload = 1;
        });
    }
    is_bound
}

/// The function table; made when it is wanted for the first time.
fn table() -> Option<u64> {
    let known = BOUND.with(|bound| bound.table);
    if known != 0 {
        return Some(known);
    }
    let bytes = functions::NAMES.len() * size_of::<Word>();
    let made = pool::allocate_zeroed(bytes as u64, *b"WdfT")?;
    for (name, index) in functions::NAMES.iter().zip(0..) {
        let stub = crate::io::routine::address_of(name);
        made.cast::<Word>().offset(index).write(stub);
    }
    BOUND.with(|bound| bound.table = made.addr());
    Some(made.addr())
}

fn bind(registry_path: UnicodeStringPtr, info: &WDF_BIND_INFO) -> Result<u64, NtStatus> {
    if info.Major != 1 || !COUNTS.contains(&info.FuncCount) {
        return Err(NtStatus::REVISION_MISMATCH);
    }
    let table = table().ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let globals = pool::allocate_zeroed(size_of::<WDF_DRIVER_GLOBALS>() as u64, *b"WdfG")
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let path = unicode_text(registry_path.0);
    let name = path.rsplit('\\').next().unwrap_or("");
    globals.cast::<WDF_DRIVER_GLOBALS>().with(|globals| {
        globals.DriverTag = u32::from_le_bytes(*b"FxDr");
        let bytes = globals.DriverName.iter_mut().take(31);
        for (to, from) in bytes.zip(name.bytes()) {
            *to = from;
        }
    });
    if info.FuncCount <= LAST_COPIED {
        let bytes = u64::from(info.FuncCount) * size_of::<Word>() as u64;
        info.FuncTable
            .cast::<u8>()
            .copy_from(Ptr::new(table), bytes);
    } else {
        info.FuncTable.write(to_word(table));
    }
    BOUND.with(|bound| bound.clients.insert(globals.addr(), 0));
    Ok(globals.addr())
}

nt_api! { module = wdf_loader;
    /// WdfVersionBind: gives a driver its globals and the function table of KMDF 1.33.
    wdfldr both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfVersionBind(
        driver: Ptr<DRIVER_OBJECT>,
        registry_path: UnicodeStringPtr,
        info: Ptr<WDF_BIND_INFO>,
        globals: Ptr<Word>,
    ) -> NtStatus {
        if driver.is_null() || info.is_null() || globals.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        let read = info.read();
        let least = low32(size_of::<WDF_BIND_INFO>() as u64);
        if read.Size < least || read.FuncTable.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        match bind(registry_path, &read) {
            Ok(made) => {
                globals.write(to_word(made));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// WdfVersionUnbind: ends what WdfVersionBind began; what the driver has left is deleted.
    wdfldr both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfVersionUnbind(registry_path: UnicodeStringPtr, info: Ptr<WDF_BIND_INFO>, globals: Wdf) -> NtStatus {
        let Some(driver) = BOUND.with(|bound| bound.clients.get(&globals.0).copied()) else {
            return NtStatus::INVALID_PARAMETER;
        };
        if object::exists(driver) {
            object::delete(driver);
        }
        BOUND.with(|bound| bound.clients.remove(&globals.0));
        pool::free(Ptr::new(globals.0), 0);
        NtStatus::SUCCESS
    }

    /// WdfVersionBindClass: there are no class extensions; STATUS_NOT_SUPPORTED.
    wdfldr both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfVersionBindClass(info: Ptr<WDF_BIND_INFO>, globals: Wdf, class: Ptr<u8>) -> NtStatus {
        NtStatus::NOT_SUPPORTED
    }

    /// WdfVersionUnbindClass: nothing is ever bound.
    wdfldr both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfVersionUnbindClass(info: Ptr<WDF_BIND_INFO>, globals: Wdf, class: Ptr<u8>) {}
}
