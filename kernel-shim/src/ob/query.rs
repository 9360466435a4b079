//! What an object is called, and what is known about it.

use alloc::string::String;
use alloc::vec::Vec;

use super::{ObjectType, lookup};
use crate::api::nt_api;
use crate::nt::{DEVICE_OBJECT, FILE_OBJECT, NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low16, low32, unicode_text};
use crate::value::{Handle, ULong};

/// An object's full name; a file's is its device's with the rest of the name it was opened by.
#[must_use]
pub fn full_name(body: u64) -> String {
    let Some(object) = lookup(body) else {
        return String::new();
    };
    if object.kind != ObjectType::File {
        return object.name;
    }
    let file = Ptr::<FILE_OBJECT>::new(body);
    let device: Ptr<DEVICE_OBJECT> = file.read().DeviceObject;
    let mut name = lookup(device.addr())
        .map(|device| device.name)
        .unwrap_or_default();
    let rest = file
        .add_bytes(core::mem::offset_of!(FILE_OBJECT, FileName) as u64)
        .cast::<UNICODE_STRING>();
    name.push_str(&unicode_text(rest));
    name
}

/// Writes an OBJECT_NAME_INFORMATION: the string, and its units behind it.
fn write_name(name: &str, buffer: Ptr<u8>, room: u32, returned: Ptr<u32>) -> NtStatus {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let header = size_of::<UNICODE_STRING>() as u64;
    let bytes = units.len() as u64;
    let needed = if bytes == 0 {
        header
    } else {
        header + bytes + 2
    };
    if !returned.is_null() {
        returned.write(low32(needed));
    }
    if u64::from(room) < needed {
        return NtStatus::INFO_LENGTH_MISMATCH;
    }
    let text = buffer.add_bytes(header);
    if bytes == 0 {
        buffer.cast().write(UNICODE_STRING::default());
    } else {
        text.write_bytes(&units);
        text.add_bytes(bytes).fill(0, 2);
        buffer.cast().write(UNICODE_STRING {
            Length: low16(bytes),
            MaximumLength: low16(bytes + 2),
            Buffer: text.cast(),
        });
    }
    NtStatus::SUCCESS
}

/// Bytes of OBJECT_BASIC_INFORMATION.
const BASIC_BYTES: u32 = 0x38;
/// Bytes of OBJECT_TYPE_INFORMATION.
const TYPE_BYTES: u32 = if cfg!(nt_i386) { 0x60 } else { 0x68 };

fn query(handle: u64, class: u32, buffer: Ptr<u8>, room: u32, returned: Ptr<u32>) -> NtStatus {
    let Some(entry) = super::api::entry_of(handle) else {
        return NtStatus::INVALID_HANDLE;
    };
    let Some(object) = lookup(entry.body) else {
        return NtStatus::INVALID_HANDLE;
    };
    match class {
        0 => {
            if room != BASIC_BYTES {
                return NtStatus::INFO_LENGTH_MISMATCH;
            }
            buffer.fill(0, BASIC_BYTES.into());
            let words = [
                entry.attributes,
                entry.access,
                object.handles,
                object.references,
            ];
            for (word, at) in words.into_iter().zip(0..) {
                buffer.cast::<u32>().offset(at).write(word);
            }
            if !returned.is_null() {
                returned.write(BASIC_BYTES);
            }
            NtStatus::SUCCESS
        }
        1 => write_name(&full_name(entry.body), buffer, room, returned),
        2 => {
            let units: Vec<u8> = object
                .kind
                .name()
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect();
            let bytes = low32(units.len() as u64);
            let needed = TYPE_BYTES + bytes + 2;
            if !returned.is_null() {
                returned.write(needed);
            }
            if room < needed {
                return NtStatus::INFO_LENGTH_MISMATCH;
            }
            buffer.fill(0, needed.into());
            let text = buffer.add_bytes(TYPE_BYTES.into());
            text.write_bytes(&units);
            buffer.cast().write(UNICODE_STRING {
                Length: low16(bytes.into()),
                MaximumLength: low16(u64::from(bytes) + 2),
                Buffer: text.cast(),
            });
            NtStatus::SUCCESS
        }
        _ => NtStatus::INVALID_INFO_CLASS,
    }
}

nt_api! { module = ob_query;
    /// An object's full name; an empty string for an object without one. INFO_LENGTH_MISMATCH with the bytes needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObQueryNameString(
        object: Ptr<u8>,
        object_name_info: Ptr<u8>,
        length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        write_name(&full_name(object.addr()), object_name_info, length, return_length)
    }

    /// What is known about an object: class 0 counts and access, 1 its name, 2 its type's name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("of the type, only its name")
    fn ZwQueryObject(
        handle: Handle,
        object_information_class: ULong,
        object_information: Ptr<u8>,
        object_information_length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        query(handle.0, object_information_class, object_information, object_information_length, return_length)
    }
}
