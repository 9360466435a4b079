//! WDFKEY.

use alloc::string::String;
use alloc::vec::Vec;

use super::object::{self, Body, Parent};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader};
use crate::api::nt_api;
use crate::cm::{self, hive, object as keys};
use crate::nt::NtStatus;
use crate::raw::{Ptr, Word, low32, unicode_text};
use crate::shared;
use crate::value::{Handle, ULong, UnicodeStringPtr};

const REG_DWORD: u32 = 4;

fn id(handle: u64) -> Result<hive::KeyId, NtStatus> {
    let handle = object::key(handle, |handle| *handle);
    keys::by_handle(handle).map(|(_, id)| id)
}

fn value(handle: u64, name: UnicodeStringPtr) -> Result<hive::Value, NtStatus> {
    let (id, name) = (id(handle)?, unicode_text(name.0));
    cm::with(|hive| {
        let value = hive.key(id)?.value(&name).cloned();
        value.ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)
    })
}

fn set(handle: u64, name: UnicodeStringPtr, value_type: u32, data: Vec<u8>) -> NtStatus {
    let name = unicode_text(name.0);
    let result = id(handle).and_then(|id| {
        let value = hive::Value {
            name,
            value_type,
            data,
            is_built_in: false,
        };
        cm::with(|hive| hive.set_value(id, value))
    });
    result.err().unwrap_or(NtStatus::SUCCESS)
}

nt_api! { module = wdf_registry;
    /// WdfDriverOpenParametersRegistryKey: the key Parameters below the driver's, which is made if there is none.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfDriverOpenParametersRegistryKey(
        globals: Wdf,
        driver: Wdf,
        access: ULong,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "Key");
        let path = super::driver::WdfDriverGetRegistryPath(globals, driver);
        let units = crate::raw::wide_string(path, 1024);
        let path = String::from_utf16_lossy(&units) + "\\Parameters";
        let options = hive::Options { is_volatile: false, is_link: false, is_built_in: false };
        let made = cm::with(|hive| hive.create_all(&path, options))
            .and_then(|id| keys::handle_for(id, shared::current_process(), access))
            .and_then(|handle| {
                object::create(attributes, Parent::Default(loader::driver_of(globals.0)), Body::Key(handle))
            });
        give(made, result)
    }

    /// WdfRegistryClose: deletes the object.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryClose(globals: Wdf, key: Wdf) {
        object::key(key.0, |_| ());
        object::delete(key.0);
    }

    /// WdfRegistryWdmGetHandle: its handle.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryWdmGetHandle(globals: Wdf, key: Wdf) -> Handle {
        Handle(object::key(key.0, |handle| *handle))
    }

    /// WdfRegistryQueryULong: a REG_DWORD; STATUS_OBJECT_TYPE_MISMATCH for another type.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryQueryULong(globals: Wdf, key: Wdf, name: UnicodeStringPtr, result: Ptr<u32>) -> NtStatus {
        match value(key.0, name) {
            Ok(value) => match value.data.as_slice().try_into() {
                Ok(bytes) if value.value_type == REG_DWORD => {
                    result.write(u32::from_le_bytes(bytes));
                    NtStatus::SUCCESS
                }
                _ => NtStatus::OBJECT_TYPE_MISMATCH,
            },
            Err(status) => status,
        }
    }

    /// WdfRegistryQueryValue: STATUS_BUFFER_OVERFLOW: the value is longer, nothing is copied.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryQueryValue(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        length: ULong,
        buffer: Ptr<u8>,
        queried: Ptr<u32>,
        value_type: Ptr<u32>,
    ) -> NtStatus {
        let value = match value(key.0, name) {
            Ok(value) => value,
            Err(status) => return status,
        };
        for (at, number) in [(queried, low32(value.data.len() as u64)), (value_type, value.value_type)] {
            if !at.is_null() {
                at.write(number);
            }
        }
        if value.data.len() > length as usize || buffer.is_null() {
            return NtStatus::BUFFER_OVERFLOW;
        }
        buffer.write_bytes(&value.data);
        NtStatus::SUCCESS
    }

    /// WdfRegistryAssignULong: a REG_DWORD.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryAssignULong(globals: Wdf, key: Wdf, name: UnicodeStringPtr, number: ULong) -> NtStatus {
        set(key.0, name, REG_DWORD, number.to_le_bytes().to_vec())
    }

    /// WdfRegistryAssignValue: a value of any type.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryAssignValue(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        value_type: ULong,
        length: ULong,
        data: Ptr<u8>,
    ) -> NtStatus {
        set(key.0, name, value_type, data.read_slice(length as usize))
    }

    /// WdfRegistryRemoveValue: deletes a value.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryRemoveValue(globals: Wdf, key: Wdf, name: UnicodeStringPtr) -> NtStatus {
        let name = unicode_text(name.0);
        let result = id(key.0).and_then(|id| cm::with(|hive| hive.delete_value(id, &name)));
        result.err().unwrap_or(NtStatus::SUCCESS)
    }
}
