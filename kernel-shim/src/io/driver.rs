//! Drivers: DRIVER_OBJECT, DriverEntry, DriverUnload, and what a driver leaves behind.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{device, driver_extension};
use crate::ex::{lookaside, pool};
use crate::nt::{
    DRIVER_EXTENSION, DRIVER_OBJECT, IO_TYPE_DRIVER, MAJOR_FUNCTIONS, NtStatus, UNICODE_STRING,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Global, Ptr, from_word, low16, low32, to_word};
use crate::{ke, shared, table, view};
use abi::layout;
use abi::trace::{Entry, TraceKind};

/// DRVO_UNLOAD_INVOKED: the driver is being unloaded, or waits for that.
const DRVO_UNLOAD_INVOKED: u32 = 1;

/// A loaded driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// What the VMM calls it.
    pub id: u64,
    /// Its DRIVER_OBJECT.
    pub object: Ptr<DRIVER_OBJECT>,
    /// First address of its image.
    pub base: u64,
    /// Bytes of its image.
    pub bytes: u64,
    /// Its name, without path and ".sys".
    pub name: String,
    /// The registry path that DriverEntry gets.
    registry_path: Ptr<UNICODE_STRING>,
}

#[derive(Debug)]
struct Drivers {
    loaded: Vec<Driver>,
    next_id: u64,
}

static DRIVERS: Global<Drivers> = Global::new(
    "drivers",
    Drivers {
        loaded: Vec::new(),
        next_id: 1,
    },
);

pub(super) fn initialize() {
    DRIVERS.with(|drivers| {
        drivers.loaded.clear();
        drivers.next_id = 1;
    });
}

/// The DRIVER_OBJECT of the driver whose image contains `address`; [`pool::SHIM`] if none does.
#[must_use]
pub fn owner_of(address: u64) -> u64 {
    // Asked at every allocation: nothing is copied.
    DRIVERS.with(|drivers| {
        drivers
            .loaded
            .iter()
            .find(|driver| address.wrapping_sub(driver.base) < driver.bytes)
            .map_or(pool::SHIM, |driver| driver.object.addr())
    })
}

/// As [`owner_of`] for fast paths of exports; `None`: the list is in use.
#[expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]
#[inline(always)]
pub(crate) fn fast_owner_of(address: u64) -> Option<u64> {
    let drivers = DRIVERS.try_use()?;
    for driver in &drivers.loaded {
        if address.wrapping_sub(driver.base) < driver.bytes {
            return Some(driver.object.addr());
        }
    }
    Some(pool::SHIM)
}

/// The driver whose image contains `address`.
#[must_use]
pub fn by_address(address: u64) -> Option<Driver> {
    DRIVERS.with(|drivers| {
        drivers
            .loaded
            .iter()
            .find(|driver| address.wrapping_sub(driver.base) < driver.bytes)
            .cloned()
    })
}

/// A UNICODE_STRING with its buffer behind it, in pool memory. `None` when the pool is exhausted or the text too long.
pub(crate) fn counted_string(text: &str) -> Option<Ptr<UNICODE_STRING>> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = u16::try_from(units.len()).ok()?;
    let header = size_of::<UNICODE_STRING>() as u64;
    let string = pool::allocate_zeroed(header + u64::from(length) + 2, *b"IoNm")?;
    let buffer = string.add_bytes(header);
    buffer.write_bytes(&units);
    string.cast().write(UNICODE_STRING {
        Length: length,
        MaximumLength: length + 2,
        Buffer: buffer.cast(),
    });
    Some(string.cast())
}

/// Address of the default dispatch routine: the import stub of `IopInvalidDeviceRequest`, which a driver could call.
#[must_use]
pub fn invalid_device_request() -> u64 {
    let index = table::find("IopInvalidDeviceRequest").unwrap_or(0);
    layout::stub_address(shared::kernel_base(), u64::from(index))
}

fn create_object(base: u64, bytes: u64, entry: u64, name: &str, file: &str) -> Option<Driver> {
    let extension_at = size_of::<DRIVER_OBJECT>() as u64;
    let body = ob::create(
        ObjectType::Driver,
        extension_at + size_of::<DRIVER_EXTENSION>() as u64,
        None,
    )?;
    let object = Ptr::<DRIVER_OBJECT>::new(body);
    let extension = object.add_bytes(extension_at).cast::<DRIVER_EXTENSION>();
    let registry_path = counted_string(&format!(
        "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\{name}"
    ))?;
    let driver_name = counted_string(&format!("\\Driver\\{name}"))?.read();
    let service_name = counted_string(name)?.read();
    let hardware = counted_string("\\Registry\\Machine\\Hardware\\Description\\System")?;
    let default = to_word(invalid_device_request());
    let section = view::modules::insert(&view::modules::Module {
        base,
        bytes,
        entry,
        folder: "\\??\\C:\\Windows\\System32\\drivers\\",
        file: &format!("{file}.sys"),
    })?;
    object.write(DRIVER_OBJECT {
        Type: IO_TYPE_DRIVER,
        Size: low16(extension_at).cast_signed(),
        DeviceObject: Ptr::null(),
        Flags: 2, // DRVO_LEGACY_DRIVER
        DriverStart: to_word(base),
        DriverSize: low32(bytes),
        DriverSection: section.word(),
        DriverExtension: extension,
        DriverName: driver_name,
        HardwareDatabase: hardware,
        FastIoDispatch: 0,
        DriverInit: to_word(entry),
        DriverStartIo: 0,
        DriverUnload: 0,
        MajorFunction: [default; MAJOR_FUNCTIONS],
    });
    extension.write(DRIVER_EXTENSION {
        DriverObject: object,
        AddDevice: 0,
        Count: 0,
        ServiceKeyName: service_name,
    });
    let id = DRIVERS.with(|drivers| {
        drivers.next_id += 1;
        drivers.next_id - 1
    });
    Some(Driver {
        id,
        object,
        base,
        bytes,
        name: String::from(name),
        registry_path,
    })
}

/// The address of an export of a mapped image by name. What the image says of itself lies inside of it, or there is no
/// such export.
fn export_of(base: u64, bytes: u64, name: &str) -> Option<u64> {
    let word = |rva: u64| -> Option<u64> {
        (rva + 4 <= bytes).then(|| u64::from(Ptr::<u32>::new(base + rva).read()))
    };
    if base == 0 || bytes < layout::PAGE_SIZE || Ptr::<u16>::new(base).read() != 0x5A4D {
        return None;
    }
    let headers = word(0x3C)?;
    let magic = word(headers + 0x18)? & 0xFFFF;
    // The optional header's first data directory.
    let directory = headers + 0x18 + if magic == 0x20B { 0x70 } else { 0x60 };
    let exports = word(directory)?;
    if exports == 0 {
        return None;
    }
    let (count, functions) = (word(exports + 0x18)?, word(exports + 0x1C)?);
    let (names, ordinals) = (word(exports + 0x20)?, word(exports + 0x24)?);
    for index in 0..count {
        let at = word(names + 4 * index)?;
        let room = crate::raw::to_usize(bytes.saturating_sub(at)).min(name.len() + 1);
        if crate::raw::narrow_string(Ptr::new(base + at), room) == name {
            let ordinal = word(ordinals + 2 * index)? & 0xFFFF;
            return Some(base + word(functions + 4 * ordinal)?);
        }
    }
    None
}

/// Makes the DRIVER_OBJECT of the service `name`, whose image's file is `file`.sys, and calls DriverEntry. When that fails, the driver's objects are removed again.
///
/// # Errors
/// What DriverEntry returned; OBJECT_NAME_COLLISION: a driver of that name is loaded.
pub fn load(base: u64, bytes: u64, entry: u64, name: &str, file: &str) -> Result<u64, NtStatus> {
    let driver =
        create_object(base, bytes, entry, name, file).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    if let Err(status) = names::insert_object(&format!("\\Driver\\{name}"), driver.object.addr()) {
        view::modules::remove(base);
        ob::dereference(driver.object.addr());
        return Err(status);
    }
    crate::cm::ensure_service(name);
    DRIVERS.with(|drivers| drivers.loaded.push(driver.clone()));
    // NT tells of the image's path; the name of the driver's object is what there is.
    let named = driver
        .object
        .add_bytes(core::mem::offset_of!(DRIVER_OBJECT, DriverName) as u64)
        .cast();
    crate::ps::notify::image(named, base, bytes);
    if let Some(routine) = export_of(base, bytes, "DllInitialize") {
        let path = [driver.registry_path.addr()];
        let status = NtStatus(low32(shared::call_driver(Entry::Other, routine, &path)));
        if !status.is_success() {
            remove(&driver);
            return Err(status);
        }
    }
    let arguments = [driver.object.addr(), driver.registry_path.addr()];
    let status = NtStatus(low32(shared::call_driver(
        Entry::DriverEntry,
        entry,
        &arguments,
    )));
    if status.is_success() {
        for device in device::of_driver(driver.object) {
            device.with(|device| device.Flags &= !crate::nt::DO_DEVICE_INITIALIZING);
        }
        driver_extension::reinitialize();
        if let Err(status) = crate::pnp::driver_loaded(driver.object, name) {
            if driver.object.read().DriverUnload == 0 {
                remove(&driver);
            } else {
                finish_unload(&driver);
            }
            return Err(status);
        }
        return Ok(driver.id);
    }
    remove(&driver);
    Err(status)
}

/// Unloads a driver (NtUnloadDriver): calls DriverUnload and lists what is left; returns how many things that is.
///
/// While files are open on its devices or other devices are attached to them, DriverUnload waits for the last to go, and
/// the devices can no longer be opened.
///
/// # Errors
/// PENDING: DriverUnload waits. INVALID_PARAMETER: no such driver. INVALID_DEVICE_REQUEST: it has no DriverUnload, or is about to be unloaded.
pub fn unload(id: u64) -> Result<u64, NtStatus> {
    let driver = find(|driver| driver.id == id).ok_or(NtStatus::INVALID_PARAMETER)?;
    let DRIVER_OBJECT {
        DriverUnload: routine,
        Flags: flags,
        ..
    } = driver.object.read();
    if routine == 0 || flags & DRVO_UNLOAD_INVOKED != 0 {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    crate::pnp::driver_unloading(driver.object)?;
    driver
        .object
        .with(|object| object.Flags |= DRVO_UNLOAD_INVOKED);
    for device in device::of_driver(driver.object) {
        device::extension_of(device)
            .with(|extension| extension.ExtensionFlags |= crate::nt::DOE_UNLOAD_PENDING);
    }
    if is_held(driver.object) {
        return Err(NtStatus::PENDING);
    }
    Ok(finish_unload(&driver))
}

/// All loaded drivers, oldest first.
#[must_use]
pub fn loaded() -> Vec<Driver> {
    DRIVERS.with(|drivers| drivers.loaded.clone())
}

/// The first loaded driver that `is_wanted`.
#[must_use]
pub fn find(is_wanted: impl Fn(&Driver) -> bool) -> Option<Driver> {
    DRIVERS.with(|drivers| {
        drivers
            .loaded
            .iter()
            .find(|driver| is_wanted(driver))
            .cloned()
    })
}

/// Whether files are open on a driver's devices, or devices of others attached to them.
fn is_held(driver: Ptr<DRIVER_OBJECT>) -> bool {
    device::of_driver(driver).into_iter().any(|device| {
        let device = device.read();
        device.ReferenceCount > 0 || !device.AttachedDevice.is_null()
    })
}

fn finish_unload(driver: &Driver) -> u64 {
    let routine = from_word(driver.object.read().DriverUnload);
    // DriverUnload deletes the devices, which must not bring us here again.
    driver.object.with(|object| object.DriverUnload = 0);
    shared::call_driver(Entry::DriverUnload, routine, &[driver.object.addr()]);
    if let Some(routine) = export_of(driver.base, driver.bytes, "DllUnload") {
        shared::call_driver(Entry::Other, routine, &[]);
    }
    remove(driver)
}

/// Something that may have held a driver is gone: finishes a pending unload.
pub(super) fn check_unload(object: Ptr<DRIVER_OBJECT>) {
    let Some(driver) = find(|driver| driver.object == object) else {
        return;
    };
    let DRIVER_OBJECT {
        Flags: flags,
        DriverUnload: routine,
        ..
    } = object.read();
    if flags & DRVO_UNLOAD_INVOKED != 0 && routine != 0 && !is_held(object) {
        finish_unload(&driver);
    }
}

/// Lists and removes what a driver left behind, and the driver itself.
fn remove(driver: &Driver) -> u64 {
    let mut leaks = 0;
    pool::check_all();
    for list in lookaside::forget_of(driver.object.addr()) {
        leaks += 1;
        shared::trace(TraceKind::Leak, 0, 0, &[list, 0, 0, 0], "lookaside list");
    }
    for block in pool::blocks_of(driver.object.addr()) {
        leaks += 1;
        let tag: String = pool::tag_text(block.tag).into_iter().collect();
        let record = [
            block.address,
            block.bytes,
            u64::from(block.tag),
            block.caller,
        ];
        shared::trace(
            TraceKind::Leak,
            0,
            block.caller,
            &record,
            &format!("pool block, tag '{tag}'"),
        );
        pool::free(Ptr::new(block.address), 0);
    }
    for device in device::of_driver(driver.object) {
        leaks += 1;
        let name = ob::lookup(device.addr()).map_or_else(String::new, |object| object.name);
        let record = [device.addr(), u64::from(device.read().Size), 0, 0];
        shared::trace(TraceKind::Leak, 0, 0, &record, &format!("device {name}"));
        for (link, target) in names::links() {
            if !name.is_empty() && names::fold(&target) == names::fold(&name) {
                leaks += 1;
                shared::trace(
                    TraceKind::Leak,
                    0,
                    0,
                    &[0; 4],
                    &format!("symbolic link {link}"),
                );
                let _ = names::remove_link(&link);
            }
        }
        device::delete(device);
        // Files on it outlive it; nothing waits for them any more.
        if device::of_driver(driver.object).contains(&device) {
            device::unlink(device);
        }
    }
    driver_extension::forget(driver.object);
    ke::timer::forget_range(driver.base, driver.bytes);
    view::modules::remove(driver.base);
    ke::dpc::forget_range(driver.base, driver.bytes);
    crate::ps::notify::forget_range(driver.base, driver.bytes);
    names::remove_object(driver.object.addr());
    let object = driver.object.read();
    for buffer in [
        object.DriverName.Buffer,
        object.DriverExtension.read().ServiceKeyName.Buffer,
    ] {
        pool::free(
            buffer.sub_bytes(size_of::<UNICODE_STRING>() as u64).cast(),
            0,
        );
    }
    pool::free(object.HardwareDatabase.cast(), 0);
    pool::free(driver.registry_path.cast(), 0);
    ob::dereference(driver.object.addr());
    DRIVERS.with(|drivers| drivers.loaded.retain(|loaded| loaded.id != driver.id));
    leaks
}
