//! WDFKEY.

use alloc::string::String;
use alloc::vec::Vec;

use super::object::{self, Body, Parent};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader};
use crate::api::nt_api;
use crate::cm::{self, hive, object as keys};
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, Word, low16, low32, unicode_text};
use crate::shared;
use crate::value::{Handle, Size, ULong, UnicodeStringPtr};

const REG_SZ: u32 = 1;
const REG_EXPAND_SZ: u32 = 2;
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

/// The text of a REG_SZ or REG_EXPAND_SZ value.
fn string(handle: u64, name: UnicodeStringPtr) -> Result<String, NtStatus> {
    let value = value(handle, name)?;
    if !matches!(value.value_type, REG_SZ | REG_EXPAND_SZ) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    Ok(hive::text(&value.data))
}

/// Opens the key `name` below `parent` (0: the name is a whole path), or makes it.
fn key(parent: u64, name: &str, access: u32, is_made: bool) -> Result<(u64, bool), NtStatus> {
    let above = (parent != 0).then(|| id(parent)).transpose()?;
    let path = match above {
        Some(above) => cm::with(|hive| hive.path(above)) + "\\" + name,
        None => name.into(),
    };
    let known = cm::with(|hive| hive.resolve(&path, false));
    let options = hive::Options {
        is_volatile: false,
        is_link: false,
        is_built_in: false,
    };
    let id = match known {
        Err(NtStatus::OBJECT_NAME_NOT_FOUND) if is_made => {
            cm::with(|hive| hive.create_all(&path, options))?
        }
        known => known?,
    };
    let handle = keys::handle_for(id, shared::current_process(), access)?;
    Ok((handle, known.is_err()))
}

fn make(
    globals: u64,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    handle: u64,
) -> Result<u64, NtStatus> {
    let parent = Parent::Default(loader::driver_of(globals));
    let made = object::create(attributes, parent, Body::Key(handle));
    if made.is_err() {
        let _ = crate::ob::api::ZwClose(Handle(handle));
    }
    made
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

    /// WdfRegistryOpenKey: a key below another one, or by its whole path.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryOpenKey(
        globals: Wdf,
        parent: Wdf,
        name: UnicodeStringPtr,
        access: ULong,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "Key");
        let opened = key(parent.0, &unicode_text(name.0), access, false);
        give(opened.and_then(|(handle, _)| make(globals.0, attributes, handle)), result)
    }

    /// WdfRegistryCreateKey: as WdfRegistryOpenKey, and makes what is not there. Disposition: 1 made, 2 opened.
    wdf both stdcall irql(PASSIVE_LEVEL) partial("keys above that are not there are made too; CreateOptions have no effect")
    fn WdfRegistryCreateKey(
        globals: Wdf,
        parent: Wdf,
        name: UnicodeStringPtr,
        access: ULong,
        options: ULong,
        disposition: Ptr<u32>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "Key");
        let made = key(parent.0, &unicode_text(name.0), access, true).and_then(|(handle, is_new)| {
            if !disposition.is_null() {
                disposition.write(if is_new { 1 } else { 2 });
            }
            make(globals.0, attributes, handle)
        });
        give(made, result)
    }

    /// WdfRegistryRemoveKey: deletes the key and the object.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryRemoveKey(globals: Wdf, key: Wdf) -> NtStatus {
        match id(key.0).and_then(|id| cm::with(|hive| hive.delete(id))) {
            Ok(()) => {
                object::delete(key.0);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// WdfRegistryQueryString: the text of a REG_SZ, into a WDFSTRING.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryQueryString(globals: Wdf, key: Wdf, name: UnicodeStringPtr, result: Wdf) -> NtStatus {
        match string(key.0, name) {
            Ok(text) => super::collection::assign(result.0, &text),
            Err(status) => status,
        }
    }

    /// WdfRegistryQueryUnicodeString: the text of a REG_SZ. STATUS_BUFFER_OVERFLOW: it does not fit; its bytes with the
    /// NUL are stored anyway.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryQueryUnicodeString(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        bytes: Ptr<u16>,
        result: Ptr<UNICODE_STRING>,
    ) -> NtStatus {
        let text = match string(key.0, name) {
            Ok(text) => text,
            Err(status) => return status,
        };
        let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let whole = low16(units.len() as u64);
        if !bytes.is_null() {
            bytes.write(whole);
        }
        let Some(result) = result.non_null() else {
            return NtStatus::SUCCESS;
        };
        let into = result.read();
        if into.MaximumLength < whole {
            return NtStatus::BUFFER_OVERFLOW;
        }
        into.Buffer.cast::<u8>().write_bytes(&units);
        result.with(|result| result.Length = whole - 2);
        NtStatus::SUCCESS
    }

    /// WdfRegistryQueryMemory: the data of a value, as a new WDFMEMORY.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryQueryMemory(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        pool_type: ULong,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
        value_type: Ptr<u32>,
    ) -> NtStatus {
        object::required(result, "Memory");
        let made = value(key.0, name).and_then(|value| {
            let bytes = value.data.len() as u64;
            let driver = loader::driver_of(globals.0);
            let made = super::memory::create(attributes, driver, pool_type, 0, bytes)?;
            let buffer = super::memory::WdfMemoryGetBuffer(globals, Size(made), Ptr::null());
            buffer.write_bytes(&value.data);
            if !value_type.is_null() {
                value_type.write(value.value_type);
            }
            Ok(made)
        });
        give(made, result)
    }

    /// WdfRegistryAssignString: a REG_SZ of a WDFSTRING's text.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryAssignString(globals: Wdf, key: Wdf, name: UnicodeStringPtr, from: Wdf) -> NtStatus {
        let text = super::collection::text_of(from.0);
        set(key.0, name, REG_SZ, hive::string_data(&text))
    }

    /// WdfRegistryAssignUnicodeString: a REG_SZ.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryAssignUnicodeString(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        from: UnicodeStringPtr,
    ) -> NtStatus {
        set(key.0, name, REG_SZ, hive::string_data(&unicode_text(from.0)))
    }

    /// WdfRegistryAssignMemory: a value of any type from a WDFMEMORY, or from a part of it.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRegistryAssignMemory(
        globals: Wdf,
        key: Wdf,
        name: UnicodeStringPtr,
        value_type: ULong,
        memory: Wdf,
        part: Ptr<[Word; 2]>,
    ) -> NtStatus {
        match super::memory::part(memory.0, part) {
            Ok((from, bytes)) => set(key.0, name, value_type, from.read_slice(bytes)),
            Err(status) => status,
        }
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
