//! Loading and unloading drivers by the name of their service key, from inside.
//!
//! The guest has the images that the VMM placed. A service key's ImagePath names one of them by its file's name. An image
//! that is started again is what it was before its first start: what it may write was kept then.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::driver;
use crate::api::nt_api;
use crate::cm::{self, SERVICES};
use crate::ex::pool;
use crate::nt::NtStatus;
use crate::ob::names;
use crate::raw::{Global, Ptr, to_usize, unicode_text};
use crate::value::UnicodeStringPtr;
use crate::view::modules;

/// SERVICE_KERNEL_DRIVER, SERVICE_FILE_SYSTEM_DRIVER, SERVICE_RECOGNIZER_DRIVER.
const DRIVER_TYPES: [u32; 3] = [1, 2, 8];

/// What an image held at `address` before it was started first: a block of the pool, and zeros behind it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    address: u64,
    bytes: u64,
    block: Ptr<u8>,
    block_bytes: u64,
}

/// An image that the VMM placed.
#[derive(Clone, Debug)]
struct Image {
    base: u64,
    bytes: u64,
    entry: u64,
    /// Its file's name without ".sys".
    name: String,
    /// `None`: the pool had no room; it starts once.
    initial: Option<Vec<Kept>>,
    was_started: bool,
}

/// By the folded name.
static IMAGES: Global<BTreeMap<String, Image>> = Global::new("drivers' images", BTreeMap::new());

pub(super) fn initialize() {
    IMAGES.with(BTreeMap::clear);
}

/// Copies a part of an image, without the zeros at its end.
fn keep(address: u64, bytes: u64) -> Option<Kept> {
    /// How much is looked at in one go.
    const PIECE: u64 = 4096;
    let at = Ptr::<u8>::new(address);
    let mut used = bytes;
    while used > 0 {
        let piece = (used - 1) % PIECE + 1;
        let content = at.add_bytes(used - piece).read_slice(to_usize(piece));
        if let Some(last) = content.iter().rposition(|&byte| byte != 0) {
            used -= piece - (last as u64 + 1);
            break;
        }
        used -= piece;
    }
    let mut kept = Kept {
        address,
        bytes,
        block: Ptr::null(),
        block_bytes: used,
    };
    if used > 0 {
        kept.block = pool::allocate_zeroed(used, *b"MmIm")?;
        kept.block.copy_from(at, used);
    }
    Some(kept)
}

/// Remembers an image that was placed and not started yet.
pub(crate) fn offer(base: u64, bytes: u64, entry: u64, name: &str) {
    let writable =
        modules::headers_of(base).map_or_else(Vec::new, |headers| headers.writable(base));
    let inside = writable.into_iter().filter(|&(address, length)| {
        address >= base && length <= bytes && address - base <= bytes - length
    });
    let initial = inside
        .map(|(address, length)| keep(address, length))
        .collect();
    let image = Image {
        base,
        bytes,
        entry,
        name: String::from(name),
        initial,
        was_started: false,
    };
    IMAGES.with(|images| images.insert(names::fold(name), image));
}

/// Starts an image that the VMM has placed, as the service of its own name.
///
/// # Errors
/// As [`driver::load`].
pub(crate) fn start(base: u64, bytes: u64, entry: u64, name: &str) -> Result<u64, NtStatus> {
    offer(base, bytes, entry, name);
    begin(name);
    driver::load(base, bytes, entry, name, name)
}

/// An image is about to be started; whether it was before.
fn begin(name: &str) -> bool {
    IMAGES.with(|images| {
        let image = images.get_mut(&names::fold(name));
        image.is_some_and(|image| core::mem::replace(&mut image.was_started, true))
    })
}

/// The service's name at the end of its registry path.
fn service_of(path: &str) -> Result<&str, NtStatus> {
    match path.rsplit_once('\\') {
        Some((_, name)) if !name.is_empty() => Ok(name),
        _ => Err(NtStatus::INVALID_PARAMETER),
    }
}

fn loaded(name: &str) -> Option<driver::Driver> {
    let folded = names::fold(name);
    driver::find(|driver| names::fold(&driver.name) == folded)
}

/// The file's name at the end of a path, without ".sys".
fn stem(path: &str) -> &str {
    let file = path.rsplit(['\\', '/']).next().unwrap_or(path);
    match file.split_at_checked(file.len().saturating_sub(4)) {
        Some((stem, extension)) if extension.eq_ignore_ascii_case(".sys") => stem,
        _ => file,
    }
}

/// What a service key says: the name of the image. A key without ImagePath, or no key, means an image of the service's
/// own name, which is where the service control manager would have put it.
fn image_of(service: &str) -> Result<String, NtStatus> {
    cm::with(|hive| {
        let Ok(id) = hive.resolve(&alloc::format!("{SERVICES}\\{service}"), false) else {
            return Ok(String::from(service));
        };
        let key = hive.key(id)?;
        let service_type = key.value("Type").and_then(|value| {
            let bytes = value.data.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        });
        if service_type.is_some_and(|kind| !DRIVER_TYPES.contains(&kind)) {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let path = key.value("ImagePath");
        let path = path.map(|value| cm::hive::text(&value.data));
        Ok(match path {
            Some(path) if !path.is_empty() => String::from(stem(&path)),
            _ => String::from(service),
        })
    })
}

fn load(path: &str) -> Result<u64, NtStatus> {
    let service = service_of(path)?;
    if loaded(service).is_some() {
        return Err(NtStatus::IMAGE_ALREADY_LOADED);
    }
    let name = image_of(service)?;
    let image = IMAGES
        .with(|images| images.get(&names::fold(&name)).cloned())
        .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
    // It is in memory once, whatever the service.
    if driver::find(|driver| driver.base == image.base).is_some() {
        return Err(NtStatus::IMAGE_ALREADY_LOADED);
    }
    if begin(&image.name) {
        for kept in image.initial.ok_or(NtStatus::INSUFFICIENT_RESOURCES)? {
            let at = Ptr::<u8>::new(kept.address);
            at.copy_from(kept.block, kept.block_bytes);
            at.add_bytes(kept.block_bytes)
                .fill(0, kept.bytes - kept.block_bytes);
        }
    }
    driver::load(image.base, image.bytes, image.entry, service, &image.name)
}

fn unload(path: &str) -> NtStatus {
    let found = service_of(path)
        .and_then(|name| loaded(name).ok_or(NtStatus::OBJECT_NAME_NOT_FOUND))
        .and_then(|driver| driver::unload(driver.id));
    match found {
        // It is unloaded when its last file is closed.
        Ok(_) | Err(NtStatus::PENDING) => NtStatus::SUCCESS,
        Err(status) => status,
    }
}

nt_api! { module = io_load;
    /// Starts a driver of a service key, from the image that ImagePath names by its file: one that the VMM has placed.
    /// OBJECT_NAME_NOT_FOUND: there is no such image; IMAGE_ALREADY_LOADED: it runs.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwLoadDriver(driver_service_name: UnicodeStringPtr) -> NtStatus {
        load(&unicode_text(driver_service_name.0)).err().unwrap_or(NtStatus::SUCCESS)
    }

    /// Unloads the driver of a service key, now or when its last file is closed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwUnloadDriver(driver_service_name: UnicodeStringPtr) -> NtStatus {
        unload(&unicode_text(driver_service_name.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    #[test]
    fn an_image_path_names_a_file() {
        for path in [
            "echo",
            "ECHO.SYS",
            "system32\\drivers\\Echo.sys",
            "\\SystemRoot\\System32\\drivers\\echo.sys",
            "\\??\\C:\\echo.sys",
        ] {
            assert_eq!(stem(path).to_lowercase(), "echo", "{path}");
        }
        assert_eq!(stem("ä.sys"), "ä");
        assert_eq!(stem("sys"), "sys");
        assert_eq!(stem(""), "");
    }

    #[test]
    fn what_is_kept_ends_with_its_last_byte_that_is_not_zero() {
        let _machine = machine();
        let block = pool::allocate_zeroed(10_000, *b"Test").unwrap();
        let whole = keep(block.addr(), 10_000).unwrap();
        assert_eq!((whole.bytes, whole.block_bytes), (10_000, 0));
        block.add_bytes(5000).write(7_u8);
        let whole = keep(block.addr(), 10_000).unwrap();
        assert_eq!(whole.block_bytes, 5001);
        assert_eq!(whole.block.add_bytes(5000).read(), 7);
    }
}
