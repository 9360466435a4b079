//! Zw functions of the registry.

use alloc::string::String;
use alloc::vec::Vec;

use super::hive::{Options, Value};
use super::object::{by_handle, create, open};
use super::{callback, info, notify, with};
use crate::api::nt_api;
use crate::nt::{IO_STATUS_BLOCK, NtStatus, UNICODE_STRING};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Ptr, Word, to_usize, to_word, unicode_string, unicode_text};
use crate::shared;
use crate::value::{Boolean, Handle, ObjectAttributesPtr, ULong, UnicodeStringPtr};

/// REG_OPTION_VOLATILE, REG_OPTION_CREATE_LINK.
const VOLATILE: u32 = 1;
const CREATE_LINK: u32 = 2;
/// REG_LEGAL_OPTION.
const LEGAL_OPTIONS: u32 = 0x1F;
/// KeyNameInformation: not for enumeration.
const KEY_NAME: u32 = 3;

fn status_of(result: Result<(), NtStatus>) -> NtStatus {
    result.err().unwrap_or(NtStatus::SUCCESS)
}

fn query_key(handle: u64, class: u32, buffer: Ptr<u8>, length: u32, result: Ptr<u32>) -> NtStatus {
    match by_handle(handle).and_then(|(_, id)| with(|hive| info::key(hive, id, class))) {
        Ok(answer) => answer.write(buffer, length, result),
        Err(status) => status,
    }
}

fn enumerate_key(handle: u64, index: u32, class: u32) -> Result<info::Answer, NtStatus> {
    let (_, id) = by_handle(handle)?;
    if class >= KEY_NAME {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    with(|hive| {
        let child = hive.key(id)?.children.values().nth(index as usize).copied();
        info::key(hive, child.ok_or(NtStatus::NO_MORE_ENTRIES)?, class)
    })
}

fn enumerate_value(handle: u64, index: u32, class: u32) -> Result<info::Answer, NtStatus> {
    let (_, id) = by_handle(handle)?;
    with(|hive| {
        let value = hive.key(id)?.values.get(index as usize);
        info::value(value.ok_or(NtStatus::NO_MORE_ENTRIES)?, class)
    })
}

fn query_value(
    handle: u64,
    name: Ptr<UNICODE_STRING>,
    class: u32,
    buffer: Ptr<u8>,
    length: u32,
    result: Ptr<u32>,
) -> NtStatus {
    let (body, id) = match by_handle(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    let name_text = unicode_text(name);
    let members = [
        to_word(body),
        name.word(),
        to_word(u64::from(class)),
        buffer.word(),
        to_word(u64::from(length)),
        result.word(),
    ];
    callback::around(callback::QUERY_VALUE, &members, || {
        let answer = with(|hive| {
            let value = hive.key(id)?.value(&name_text);
            info::value(value.ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?, class)
        });
        match answer {
            Ok(answer) => answer.write(buffer, length, result),
            Err(status) => status,
        }
    })
}

/// REG_SET_VALUE_KEY_INFORMATION's members as words; its two ULONGs in a row share one on amd64.
fn set_value_members(body: u64, name: Word, value_type: u32, data: Word, bytes: u32) -> Vec<Word> {
    let (value_type, bytes) = (u64::from(value_type), to_word(u64::from(bytes)));
    if cfg!(nt_i386) {
        alloc::vec![to_word(body), name, 0, to_word(value_type), data, bytes]
    } else {
        alloc::vec![to_word(body), name, to_word(value_type << 32), data, bytes]
    }
}

fn set_value(
    handle: u64,
    name: Ptr<UNICODE_STRING>,
    value_type: u32,
    data: Ptr<u8>,
    bytes: u32,
) -> NtStatus {
    let (body, id) = match by_handle(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    let members = set_value_members(body, name.word(), value_type, data.word(), bytes);
    callback::around(callback::SET_VALUE, &members, || {
        if bytes as usize > super::hive::QUOTA {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        let mut content = alloc::vec![0; to_usize(u64::from(bytes))];
        data.read_bytes(&mut content);
        let value = Value {
            name: unicode_text(name),
            value_type,
            data: content,
            is_built_in: false,
        };
        let status = status_of(with(|hive| hive.set_value(id, value)));
        if status.is_success() {
            notify::changed(id, notify::LAST_SET);
        }
        status
    })
}

fn delete_key(handle: u64) -> NtStatus {
    let (body, id) = match by_handle(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    callback::around(callback::DELETE_KEY, &[to_word(body)], || {
        let parent = with(|hive| hive.key(id).map(|key| key.parent));
        let status = status_of(with(|hive| hive.delete(id)));
        if let (true, Ok(parent)) = (status.is_success(), parent) {
            notify::changed(parent, notify::NAME);
        }
        status
    })
}

fn delete_value(handle: u64, name: Ptr<UNICODE_STRING>) -> NtStatus {
    let (body, id) = match by_handle(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    callback::around(
        callback::DELETE_VALUE,
        &[to_word(body), name.word()],
        || {
            let status = status_of(with(|hive| hive.delete_value(id, &unicode_text(name))));
            if status.is_success() {
                notify::changed(id, notify::LAST_SET);
            }
            status
        },
    )
}

fn notify_change(
    handle: u64,
    event: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    filter: u32,
    is_tree: bool,
    is_asynchronous: bool,
) -> Result<(), NtStatus> {
    let (object, key) = by_handle(handle)?;
    if filter & !notify::LEGAL != 0 || filter == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if !is_asynchronous {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    let mut target = Ptr::null();
    if event != 0 {
        let body = handles::lookup(shared::current_process(), event)
            .ok_or(NtStatus::INVALID_HANDLE)?
            .body;
        if ob::type_of(body) != Some(ObjectType::Event) {
            return Err(NtStatus::OBJECT_TYPE_MISMATCH);
        }
        ob::reference(body);
        target = Ptr::new(body);
        crate::ke::event::set_state(target, 0);
    }
    notify::add(notify::Watch {
        object,
        key,
        filter,
        is_tree,
        event: target,
        block,
    });
    Ok(())
}

nt_api! { module = cm_api;
    /// ZwCreateKey: opens a key, or makes it if only the last part of its name is missing.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwCreateKey(
        key_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr, title_index: ULong,
        class: Ptr<UNICODE_STRING>, create_options: ULong, disposition: Ptr<u32>,
    ) -> NtStatus {
        if create_options & !LEGAL_OPTIONS != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let options = Options {
            is_volatile: create_options & VOLATILE != 0,
            is_link: create_options & CREATE_LINK != 0,
            is_built_in: false,
        };
        let class = class.non_null().map(unicode_string);
        match create(object_attributes.0, desired_access, options, class) {
            Ok((handle, is_new)) => {
                key_handle.write(to_word(handle));
                if !disposition.is_null() {
                    disposition.write(if is_new { 1 } else { 2 });
                }
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// ZwOpenKey.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenKey(key_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr) -> NtStatus {
        status_of(open(object_attributes.0, desired_access, 0).map(|handle| key_handle.write(to_word(handle))))
    }

    /// ZwOpenKeyEx: with options (REG_OPTION_OPEN_LINK).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenKeyEx(
        key_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr, open_options: ULong,
    ) -> NtStatus {
        if open_options & !(4 | 8) != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let opened = open(object_attributes.0, desired_access, open_options);
        status_of(opened.map(|handle| key_handle.write(to_word(handle))))
    }

    /// ZwDeleteKey. CANNOT_DELETE: it has subkeys. Open handles are good for nothing but closing afterwards.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwDeleteKey(key_handle: Handle) -> NtStatus {
        delete_key(key_handle.0)
    }

    /// ZwDeleteValueKey.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwDeleteValueKey(key_handle: Handle, value_name: UnicodeStringPtr) -> NtStatus {
        delete_value(key_handle.0, value_name.0)
    }

    /// ZwEnumerateKey: the subkeys in the order of their names. NO_MORE_ENTRIES behind the last.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwEnumerateKey(
        key_handle: Handle, index: ULong, key_information_class: ULong, key_information: Ptr<u8>, length: ULong,
        result_length: Ptr<u32>,
    ) -> NtStatus {
        match enumerate_key(key_handle.0, index, key_information_class) {
            Ok(answer) => answer.write(key_information, length, result_length),
            Err(status) => status,
        }
    }

    /// ZwEnumerateValueKey: the values in the order of their making. NO_MORE_ENTRIES behind the last.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwEnumerateValueKey(
        key_handle: Handle, index: ULong, key_value_information_class: ULong, key_value_information: Ptr<u8>,
        length: ULong, result_length: Ptr<u32>,
    ) -> NtStatus {
        match enumerate_value(key_handle.0, index, key_value_information_class) {
            Ok(answer) => answer.write(key_value_information, length, result_length),
            Err(status) => status,
        }
    }

    /// ZwFlushKey: the host writes the registry, as a whole, where its owner keeps it, if anywhere. REGISTRY_IO_FAILED: it
    /// cannot.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwFlushKey(key_handle: Handle) -> NtStatus {
        status_of(by_handle(key_handle.0).and_then(|_| super::flush()))
    }

    /// ZwNotifyChangeKey: an event and a status block for the next change.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("synchronous calls, APC routines")
    fn ZwNotifyChangeKey(
        key_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, completion_filter: ULong, watch_tree: Boolean, buffer: Ptr<u8>,
        buffer_size: ULong, asynchronous: Boolean,
    ) -> NtStatus {
        let watch = notify_change(key_handle.0, event.0, io_status_block, completion_filter, watch_tree, asynchronous);
        match watch {
            Ok(()) => NtStatus::PENDING,
            Err(status) => status,
        }
    }

    /// ZwQueryKey.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("the classes for flags, trust and layers")
    fn ZwQueryKey(
        key_handle: Handle, key_information_class: ULong, key_information: Ptr<u8>, length: ULong,
        result_length: Ptr<u32>,
    ) -> NtStatus {
        query_key(key_handle.0, key_information_class, key_information, length, result_length)
    }

    /// ZwQueryValueKey. BUFFER_TOO_SMALL: not even the fixed part fits; BUFFER_OVERFLOW: what fits was written.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQueryValueKey(
        key_handle: Handle, value_name: UnicodeStringPtr, key_value_information_class: ULong,
        key_value_information: Ptr<u8>, length: ULong, result_length: Ptr<u32>,
    ) -> NtStatus {
        query_value(
            key_handle.0, value_name.0, key_value_information_class, key_value_information, length, result_length,
        )
    }

    /// ZwSetValueKey.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwSetValueKey(
        key_handle: Handle, value_name: UnicodeStringPtr, title_index: ULong, value_type: ULong, data: Ptr<u8>,
        data_size: ULong,
    ) -> NtStatus {
        set_value(key_handle.0, value_name.0, value_type, data, data_size)
    }
}

/// The name of a key object, for reports.
#[must_use]
pub fn name_of(body: u64) -> Option<String> {
    super::object::of_object(body).map(|id| with(|hive| hive.path(id)))
}
