//! Loading and unloading drivers by the name of their service key, from inside.

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::driver;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::ob::names;
use crate::raw::{Global, unicode_text};
use crate::value::UnicodeStringPtr;

/// Images that the VMM placed without starting them, by folded service name: base, bytes, entry point, name.
static WAITING: Global<BTreeMap<String, (u64, u64, u64, String)>> =
    Global::new("drivers to load", BTreeMap::new());

pub(super) fn initialize() {
    WAITING.with(BTreeMap::clear);
}

/// Remembers an image that ZwLoadDriver may start under `name`.
pub(crate) fn offer(base: u64, bytes: u64, entry: u64, name: &str) {
    WAITING.with(|waiting| {
        waiting.insert(names::fold(name), (base, bytes, entry, String::from(name)))
    });
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

fn load(path: &str) -> Result<u64, NtStatus> {
    let name = service_of(path)?;
    if loaded(name).is_some() {
        return Err(NtStatus::IMAGE_ALREADY_LOADED);
    }
    let (base, bytes, entry, name) = WAITING
        .with(|waiting| waiting.remove(&names::fold(name)))
        .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
    driver::load(base, bytes, entry, &name)
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
    /// Starts a driver of a service key: one whose image the guest has, and that does not run yet.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("the image is named on the command line, not by ImagePath, and starts once")
    fn ZwLoadDriver(driver_service_name: UnicodeStringPtr) -> NtStatus {
        load(&unicode_text(driver_service_name.0)).err().unwrap_or(NtStatus::SUCCESS)
    }

    /// Unloads the driver of a service key, now or when its last file is closed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwUnloadDriver(driver_service_name: UnicodeStringPtr) -> NtStatus {
        unload(&unicode_text(driver_service_name.0))
    }
}
