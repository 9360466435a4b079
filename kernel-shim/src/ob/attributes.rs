//! OBJECT_ATTRIBUTES: which object a driver means, and what kind of handle it wants.

use alloc::format;
use alloc::string::String;

use super::{ObjectType, callbacks, handles, lookup, type_of};
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES};
use crate::raw::{Ptr, from_word, unicode_text};
use crate::shared;

/// OBJ_INHERIT.
pub const OBJ_INHERIT: u32 = 0x0002;
/// OBJ_PERMANENT.
pub const OBJ_PERMANENT: u32 = 0x0010;
/// OBJ_OPENIF: opening what is there is a success of a creation.
pub const OBJ_OPENIF: u32 = 0x0080;
/// OBJ_KERNEL_HANDLE.
pub const OBJ_KERNEL_HANDLE: u32 = 0x0200;
/// OBJ_VALID_ATTRIBUTES.
pub const OBJ_VALID: u32 = 0x1FF2;

/// What a driver's OBJECT_ATTRIBUTES say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The full name; empty for an object without one.
    pub name: String,
    /// OBJ_ flags.
    pub flags: u32,
}

impl Attributes {
    /// Reads the structure; NULL means no name and no flags.
    ///
    /// # Errors
    /// INVALID_PARAMETER: wrong length or flags. INVALID_HANDLE, OBJECT_TYPE_MISMATCH: the root directory is none.
    /// OBJECT_PATH_SYNTAX_BAD: not an absolute name without a root, or one with a root.
    pub fn read(attributes: Ptr<OBJECT_ATTRIBUTES>) -> Result<Self, NtStatus> {
        if attributes.is_null() {
            return Ok(Self::default());
        }
        let OBJECT_ATTRIBUTES {
            Length: length,
            RootDirectory: root,
            ObjectName: name,
            Attributes: flags,
            ..
        } = attributes.read();
        if length as usize != size_of::<OBJECT_ATTRIBUTES>() || flags & !OBJ_VALID != 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let name = unicode_text(name);
        let name = if root == 0 {
            if !name.is_empty() && !name.starts_with('\\') {
                return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
            }
            name
        } else {
            let directory = directory_name(from_word(root))?;
            if name.starts_with('\\') {
                return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
            }
            if name.is_empty() {
                directory
            } else {
                format!("{directory}\\{name}")
            }
        };
        Ok(Self { name, flags })
    }

    /// The table that a handle goes into: the kernel's for OBJ_KERNEL_HANDLE, else the current process's.
    #[must_use]
    pub fn process(&self) -> u32 {
        if self.flags & OBJ_KERNEL_HANDLE == 0 {
            shared::current_process()
        } else {
            handles::SYSTEM
        }
    }

    /// Makes a handle as asked; the object gains a reference.
    #[must_use]
    pub fn insert_handle(&self, body: u64, kind: ObjectType, desired: u32) -> u64 {
        let process = self.process();
        let told = callbacks::Making {
            operation: callbacks::CREATE,
            kind,
            body,
            access: super::types::map_access(kind, desired),
            is_kernel: self.flags & OBJ_KERNEL_HANDLE != 0,
            processes: [0; 2],
        }
        .ask();
        let handle = handles::insert(process, body, told.access);
        handles::set_attributes(process, handle, self.flags & OBJ_INHERIT);
        told.tell();
        handle
    }
}

/// The full name of the directory (or device) behind a handle.
fn directory_name(handle: u64) -> Result<String, NtStatus> {
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    match type_of(entry.body) {
        Some(ObjectType::Directory) => Ok(lookup(entry.body)
            .map(|object| object.name)
            .unwrap_or_default()),
        _ => Err(NtStatus::OBJECT_TYPE_MISMATCH),
    }
}
