//! Rtl functions of the registry that name a key by a well-known place and a path.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::hive::{KeyId, Options, Value};
use super::{CONTROL, SERVICES, WINDOWS_NT, notify, object, with};
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, to_usize, wide_string};
use crate::value::{ULong, WideStringPtr};

/// RTL_REGISTRY_HANDLE: the path is a handle.
const HANDLE: u32 = 0x4000_0000;
/// RTL_REGISTRY_OPTIONAL: it need not be there.
const OPTIONAL: u32 = 0x8000_0000;
/// Where RTL_REGISTRY_ABSOLUTE, SERVICES, CONTROL, WINDOWS_NT, DEVICEMAP and USER begin.
const PLACES: [&str; 6] = [
    "",
    SERVICES,
    CONTROL,
    WINDOWS_NT,
    "\\Registry\\Machine\\Hardware\\DeviceMap",
    "\\Registry\\User\\.Default",
];
/// The most characters of a path or name.
const MAX_TEXT: usize = 0x7FFF;

/// A NUL-terminated string of the driver's.
#[must_use]
pub fn text(string: Ptr<u16>) -> String {
    String::from_utf16_lossy(&wide_string(string, MAX_TEXT))
}

fn full_name(relative_to: u32, path: Ptr<u16>) -> Result<String, NtStatus> {
    let place = PLACES
        .get((relative_to & !OPTIONAL) as usize)
        .ok_or(NtStatus::INVALID_PARAMETER)?;
    let path = text(path);
    Ok(match (place.is_empty(), path.is_empty()) {
        (true, _) => path,
        (false, true) => String::from(*place),
        (false, false) => format!("{place}\\{path}"),
    })
}

/// The key that RelativeTo and Path name; made with those above it, if asked.
///
/// # Errors
/// INVALID_PARAMETER: there is no such place. As [`super::hive::Hive::find`] and its creating twin.
pub fn place(relative_to: u32, path: Ptr<u16>, is_made: bool) -> Result<KeyId, NtStatus> {
    if relative_to & HANDLE != 0 {
        return object::by_handle(path.addr()).map(|(_, id)| id);
    }
    let name = full_name(relative_to, path)?;
    with(|hive| match hive.resolve(&name, false) {
        Err(NtStatus::OBJECT_NAME_NOT_FOUND) if is_made => {
            hive.create_all(&name, Options::default())
        }
        other => other,
    })
}

fn set(id: KeyId, name: Ptr<u16>, value_type: u32, data: Vec<u8>) -> Result<(), NtStatus> {
    let name = text(name);
    with(|hive| {
        hive.set_value(
            id,
            Value {
                name,
                value_type,
                data,
                is_built_in: false,
            },
        )
    })?;
    notify::changed(id, notify::LAST_SET);
    Ok(())
}

fn status_of<T>(result: Result<T, NtStatus>) -> NtStatus {
    result.err().unwrap_or(NtStatus::SUCCESS)
}

nt_api! { module = cm_rtl;
    /// RtlWriteRegistryValue: sets a value; its key is made if it is not there.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlWriteRegistryValue(
        relative_to: ULong, path: WideStringPtr, value_name: WideStringPtr, value_type: ULong, value_data: Ptr<u8>,
        value_length: ULong,
    ) -> NtStatus {
        status_of(place(relative_to, path.0, true).and_then(|id| {
            if value_length as usize > super::hive::QUOTA {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            let mut data = alloc::vec![0; to_usize(u64::from(value_length))];
            value_data.read_bytes(&mut data);
            set(id, value_name.0, value_type, data)
        }))
    }

    /// RtlDeleteRegistryValue.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDeleteRegistryValue(relative_to: ULong, path: WideStringPtr, value_name: WideStringPtr) -> NtStatus {
        status_of(place(relative_to, path.0, false).and_then(|id| {
            with(|hive| hive.delete_value(id, &text(value_name.0)))?;
            notify::changed(id, notify::LAST_SET);
            Ok(())
        }))
    }

    /// RtlCreateRegistryKey: makes a key and those above it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCreateRegistryKey(relative_to: ULong, path: WideStringPtr) -> NtStatus {
        status_of(place(relative_to, path.0, true))
    }

    /// RtlCheckRegistryKey: whether a key is there.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCheckRegistryKey(relative_to: ULong, path: WideStringPtr) -> NtStatus {
        status_of(place(relative_to, path.0, false))
    }
}
