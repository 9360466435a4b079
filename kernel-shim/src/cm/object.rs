//! Key objects and their handles.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::hive::{KeyId, Options};
use super::{notify, with};
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Global, Ptr, from_word, unicode_text};
use crate::shared;

/// Bytes of a key object's body: opaque.
const BODY_BYTES: u64 = 0x40;
/// OBJ_KERNEL_HANDLE.
const KERNEL_HANDLE: u32 = 0x200;
/// OBJ_OPENLINK.
const OPEN_LINK: u32 = 0x100;
/// OBJ_ flags that there are.
const VALID_ATTRIBUTES: u32 = 0x1FF2;

/// The keys that key objects stand for, by body.
static KEYS: Global<BTreeMap<u64, KeyId>> = Global::new("key objects", BTreeMap::new());

pub(super) fn initialize() {
    KEYS.with(BTreeMap::clear);
}

fn delete(body: u64) {
    KEYS.with(|keys| keys.remove(&body));
    notify::forget(body);
}

/// Where a name begins, and what follows there.
struct Start {
    /// The key that it is relative to; `None`: it is absolute.
    from: Option<KeyId>,
    name: String,
    open_link: bool,
    process: u32,
}

fn start(attributes: Ptr<OBJECT_ATTRIBUTES>) -> Result<Start, NtStatus> {
    let attributes = attributes.read();
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>()
        || attributes.Attributes & !VALID_ATTRIBUTES != 0
    {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if !attributes.ObjectName.is_null() && !attributes.ObjectName.read().Length.is_multiple_of(2) {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    let name = unicode_text(attributes.ObjectName);
    let root = from_word(attributes.RootDirectory);
    let from = if root == 0 {
        None
    } else {
        Some(by_handle(root)?.1)
    };
    let is_absolute = name.starts_with('\\');
    if from.is_some() == is_absolute {
        return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
    }
    Ok(Start {
        from,
        name,
        open_link: attributes.Attributes & OPEN_LINK != 0,
        process: if attributes.Attributes & KERNEL_HANDLE == 0 {
            shared::current_process()
        } else {
            handles::SYSTEM
        },
    })
}

/// Makes a handle for a key.
///
/// # Errors
/// INSUFFICIENT_RESOURCES.
pub fn handle_for(id: KeyId, process: u32, access: u32) -> Result<u64, NtStatus> {
    let body = ob::create(ObjectType::Key, BODY_BYTES, Some(delete))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    KEYS.with(|keys| keys.insert(body, id));
    let handle = handles::insert(process, body, access);
    // The handle holds the reference now.
    ob::dereference(body);
    Ok(handle)
}

/// Opens a key; a handle.
///
/// # Errors
/// As [`super::hive::Hive::find`]; OBJECT_PATH_SYNTAX_BAD: neither absolute nor relative to a handle.
pub fn open(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    access: u32,
    options: u32,
) -> Result<u64, NtStatus> {
    let start = start(attributes)?;
    let open_link = start.open_link || options & 8 != 0;
    let id = with(|hive| match start.from {
        Some(from) => hive.find(from, &start.name, open_link),
        None => hive.resolve(&start.name, open_link),
    })?;
    handle_for(id, start.process, access)
}

/// Opens or makes a key; a handle, and whether it is new.
///
/// # Errors
/// As [`super::hive::Hive::create`].
pub fn create(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    access: u32,
    options: Options,
    class: Option<Vec<u16>>,
) -> Result<(u64, bool), NtStatus> {
    let start = start(attributes)?;
    let (id, is_new) = with(|hive| {
        let (id, is_new) = match start.from {
            Some(from) => hive.create(from, &start.name, options),
            None => {
                // Says what is wrong with a name that is not in the registry.
                match hive.resolve(&start.name, options.is_link) {
                    Ok(id) => Ok((id, false)),
                    Err(NtStatus::OBJECT_NAME_NOT_FOUND) if is_registry(&start.name) => hive
                        .create(
                            super::ROOT,
                            start.name.get("\\Registry\\".len()..).unwrap_or(""),
                            options,
                        ),
                    Err(status) => Err(status),
                }
            }
        }?;
        if let (true, Some(class)) = (is_new, class) {
            hive.set_class(id, class);
        }
        Ok::<_, NtStatus>((id, is_new))
    })?;
    if is_new {
        notify::changed_parent_of(id, notify::NAME);
    }
    Ok((handle_for(id, start.process, access)?, is_new))
}

fn is_registry(name: &str) -> bool {
    const PREFIX: &str = "\\Registry\\";
    name.get(..PREFIX.len())
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// The body of a handle's key object, and the key.
///
/// # Errors
/// INVALID_HANDLE; OBJECT_TYPE_MISMATCH: it is no key's; KEY_DELETED.
pub fn by_handle(handle: u64) -> Result<(u64, KeyId), NtStatus> {
    let body = handles::lookup(shared::current_process(), handle)
        .ok_or(NtStatus::INVALID_HANDLE)?
        .body;
    let id = of_object(body).ok_or(NtStatus::OBJECT_TYPE_MISMATCH)?;
    with(|hive| hive.key(id).map(|_| (body, id)))
}

/// The key of a key object.
#[must_use]
pub fn of_object(body: u64) -> Option<KeyId> {
    KEYS.with(|keys| keys.get(&body).copied())
}
