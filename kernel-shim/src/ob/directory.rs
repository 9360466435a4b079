//! Directories and symbolic links of the namespace by handle.
//!
//! The namespace keeps names, not objects, for the two. A handle to one holds a small object that knows the name; there
//! is one for each name, for as long as somebody has it open.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::attributes::{Attributes, OBJ_OPENIF, OBJ_PERMANENT};
use super::names::{self, Kind};
use super::{ObjectType, create, dereference, handles, lookup, reference, set_name, type_of};
use crate::api::nt_api;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Global, Ptr, Word, low16, low32, to_word, unicode_text};
use crate::shared;
use crate::value::{Boolean, Handle, ObjectAttributesPtr, ULong, UnicodeStringPtr};

/// Objects that stand for names, by folded full name: body, and whether the name goes with it.
static OPEN: Global<BTreeMap<String, (u64, bool)>> =
    Global::new("open directories and links", BTreeMap::new());

pub(super) fn initialize() {
    OPEN.with(BTreeMap::clear);
}

/// The object that stands for a name, with a reference for the caller.
fn object_of(path: &str, kind: ObjectType, is_temporary: bool) -> Result<u64, NtStatus> {
    if let Some((body, _)) = OPEN.with(|open| open.get(path).copied()) {
        reference(body);
        return Ok(body);
    }
    let body = create(kind, 16, Some(delete)).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    set_name(body, path);
    OPEN.with(|open| open.insert(String::from(path), (body, is_temporary)));
    Ok(body)
}

/// Nobody has the name open any more.
fn delete(body: u64) {
    let Some(object) = lookup(body) else {
        return;
    };
    let removed = OPEN.with(|open| open.remove(&object.name));
    if removed.is_some_and(|(_, is_temporary)| is_temporary) {
        names::remove_entry(&object.name);
    }
}

/// The name that an object of this file stands for goes when it is closed.
pub(super) fn make_temporary(body: u64) {
    OPEN.with(|open| {
        for (known, is_temporary) in open.values_mut() {
            *is_temporary |= *known == body;
        }
    });
}

fn open(attributes: &Attributes, wanted: ObjectType, access: u32) -> Result<u64, NtStatus> {
    if attributes.name.is_empty() {
        return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
    }
    let (path, kind) = names::entry(&attributes.name)?;
    let (found, path) = match kind {
        Kind::Directory => (ObjectType::Directory, path),
        Kind::Link(_) if wanted == ObjectType::SymbolicLink => (ObjectType::SymbolicLink, path),
        // A link on the way to a directory is followed.
        Kind::Link(target) => match names::entry(&target)? {
            (path, Kind::Directory) => (ObjectType::Directory, path),
            _ => return Err(NtStatus::OBJECT_TYPE_MISMATCH),
        },
        Kind::Object(_) => return Err(NtStatus::OBJECT_TYPE_MISMATCH),
    };
    if found != wanted {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    let body = object_of(&path, wanted, false)?;
    let handle = attributes.insert_handle(body, wanted, access);
    dereference(body);
    Ok(handle)
}

/// Makes a directory, or a link if there is a target.
fn make(
    attributes: &Attributes,
    target: Option<&str>,
    access: u32,
) -> Result<(u64, NtStatus), NtStatus> {
    let kind = if target.is_some() {
        ObjectType::SymbolicLink
    } else {
        ObjectType::Directory
    };
    if attributes.name.is_empty() {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    let made = match target {
        Some(target) => names::insert_link(&attributes.name, target),
        None => names::insert_directory(&attributes.name),
    };
    match made {
        Ok(()) => {
            let (path, _) = names::entry(&attributes.name)?;
            let is_temporary = attributes.flags & OBJ_PERMANENT == 0;
            let body = object_of(&path, kind, is_temporary)?;
            let handle = attributes.insert_handle(body, kind, access);
            dereference(body);
            Ok((handle, NtStatus::SUCCESS))
        }
        Err(NtStatus::OBJECT_NAME_COLLISION) if attributes.flags & OBJ_OPENIF != 0 => {
            open(attributes, kind, access).map(|handle| (handle, NtStatus::OBJECT_NAME_EXISTS))
        }
        Err(status) => Err(status),
    }
}

/// The name behind a handle of this file's objects.
fn path_of(handle: u64, wanted: ObjectType, access: u32) -> Result<String, NtStatus> {
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if type_of(entry.body) != Some(wanted) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    if entry.access & access != access {
        return Err(NtStatus::ACCESS_DENIED);
    }
    Ok(lookup(entry.body)
        .map(|object| object.name)
        .unwrap_or_default())
}

fn store(result: Result<(u64, NtStatus), NtStatus>, handle: Ptr<Word>) -> NtStatus {
    match result {
        Ok((number, status)) => {
            handle.write(to_word(number));
            status
        }
        Err(status) => status,
    }
}

fn query_link(
    handle: u64,
    target: Ptr<UNICODE_STRING>,
    returned: Ptr<u32>,
) -> Result<(), NtStatus> {
    const SYMBOLIC_LINK_QUERY: u32 = 1;
    let path = path_of(handle, ObjectType::SymbolicLink, SYMBOLIC_LINK_QUERY)?;
    let Ok((_, Kind::Link(text))) = names::entry(&path) else {
        return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
    };
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let UNICODE_STRING {
        MaximumLength: room,
        Buffer: buffer,
        ..
    } = target.read();
    if !returned.is_null() {
        returned.write(low32(units.len() as u64));
    }
    if usize::from(room) < units.len() {
        return Err(NtStatus::BUFFER_TOO_SMALL);
    }
    buffer.cast::<u8>().write_bytes(&units);
    target.with(|target| target.Length = low16(units.len() as u64));
    Ok(())
}

/// An entry's name and the name of its type, as UTF-16.
fn texts(name: &str, kind: &Kind) -> [Vec<u8>; 2] {
    let type_name = match kind {
        Kind::Directory => ObjectType::Directory.name(),
        Kind::Link(_) => ObjectType::SymbolicLink.name(),
        Kind::Object(body) => type_of(*body).map_or("", ObjectType::name),
    };
    [name, type_name].map(|text| text.encode_utf16().flat_map(u16::to_le_bytes).collect())
}

/// Writes as many entries as fit from number `first` on; how many that are, the bytes used or needed, and the status.
fn write_entries(
    entries: &[(String, Kind)],
    first: usize,
    buffer: Ptr<u8>,
    room: u64,
    is_single: bool,
) -> (usize, u64, NtStatus) {
    let header = 2 * size_of::<UNICODE_STRING>() as u64;
    let mut chosen = Vec::new();
    // A closing empty entry.
    let mut used = header;
    for (name, kind) in &entries[first..] {
        let texts = texts(name, kind);
        let bytes = header + texts.iter().map(|text| text.len() as u64 + 2).sum::<u64>();
        if used + bytes > room {
            if chosen.is_empty() {
                return (0, used + bytes, NtStatus::BUFFER_TOO_SMALL);
            }
            break;
        }
        used += bytes;
        chosen.push(texts);
        if is_single {
            break;
        }
    }
    let mut text_at = buffer.add_bytes(header * (chosen.len() as u64 + 1));
    for (index, texts) in chosen.iter().enumerate() {
        let mut slot = buffer
            .add_bytes(header * index as u64)
            .cast::<UNICODE_STRING>();
        for text in texts {
            let bytes = text.len() as u64;
            text_at.write_bytes(text);
            text_at.add_bytes(bytes).fill(0, 2);
            slot.write(UNICODE_STRING {
                Length: low16(bytes),
                MaximumLength: low16(bytes + 2),
                Buffer: text_at.cast(),
            });
            slot = slot.offset(1);
            text_at = text_at.add_bytes(bytes + 2);
        }
    }
    buffer
        .add_bytes(header * chosen.len() as u64)
        .fill(0, header);
    let is_more = !is_single && first + chosen.len() < entries.len();
    let status = if is_more {
        NtStatus::MORE_ENTRIES
    } else {
        NtStatus::SUCCESS
    };
    (chosen.len(), used, status)
}

nt_api! { module = ob_directory;
    /// Opens a directory of the namespace.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenDirectoryObject(directory: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr) -> NtStatus {
        let opened = Attributes::read(object_attributes.0)
            .and_then(|attributes| open(&attributes, ObjectType::Directory, desired_access));
        store(opened.map(|handle| (handle, NtStatus::SUCCESS)), directory)
    }

    /// Makes a directory of the namespace; it goes with its last handle unless it is permanent.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwCreateDirectoryObject(directory: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr) -> NtStatus {
        let made = Attributes::read(object_attributes.0)
            .and_then(|attributes| make(&attributes, None, desired_access));
        store(made, directory)
    }

    /// Lists a directory of the namespace: OBJECT_DIRECTORY_INFORMATION entries with an empty one behind them.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQueryDirectoryObject(
        directory_handle: Handle,
        buffer: Ptr<u8>,
        length: ULong,
        return_single_entry: Boolean,
        restart_scan: Boolean,
        context: Ptr<u32>,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        let path = match path_of(directory_handle.0, ObjectType::Directory, 1) {
            Ok(path) => path,
            Err(status) => return status,
        };
        let entries = names::list(&path);
        let first = if restart_scan { 0 } else { context.read() as usize };
        if first >= entries.len() {
            if !return_length.is_null() {
                return_length.write(0);
            }
            return NtStatus::NO_MORE_ENTRIES;
        }
        let (count, bytes, status) =
            write_entries(&entries, first, buffer, length.into(), return_single_entry);
        context.write(low32((first + count) as u64));
        if !return_length.is_null() {
            return_length.write(low32(bytes));
        }
        status
    }

    /// Opens a symbolic link itself.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenSymbolicLinkObject(link: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr) -> NtStatus {
        let opened = Attributes::read(object_attributes.0)
            .and_then(|attributes| open(&attributes, ObjectType::SymbolicLink, desired_access));
        store(opened.map(|handle| (handle, NtStatus::SUCCESS)), link)
    }

    /// Makes a symbolic link; it goes with its last handle unless it is permanent.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwCreateSymbolicLinkObject(
        link: Ptr<Word>,
        desired_access: ULong,
        object_attributes: ObjectAttributesPtr,
        target: UnicodeStringPtr,
    ) -> NtStatus {
        let target = unicode_text(target.0);
        if target.is_empty() {
            return NtStatus::INVALID_PARAMETER;
        }
        let made = Attributes::read(object_attributes.0)
            .and_then(|attributes| make(&attributes, Some(&target), desired_access));
        store(made, link)
    }

    /// A symbolic link's target; BUFFER_TOO_SMALL with the bytes needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQuerySymbolicLinkObject(link: Handle, target: Ptr<UNICODE_STRING>, returned_length: Ptr<u32>) -> NtStatus {
        query_link(link.0, target, returned_length).err().unwrap_or(NtStatus::SUCCESS)
    }
}
