//! Handle tables: one for each process, and the kernel's.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{change_handles, dereference, reference};
use crate::raw::Global;

/// The System process, whose table holds kernel handles.
pub const SYSTEM: u32 = 4;
/// Kernel handles have this bit set.
pub const KERNEL_BIT: u64 = 0x8000_0000;

/// What a handle stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// The object's body.
    pub body: u64,
    /// Granted access.
    pub access: u32,
    /// OBJ_ flags of the handle: OBJ_INHERIT (2), OBJ_PROTECT_CLOSE (1).
    pub attributes: u32,
}

#[derive(Debug)]
struct Tables {
    handles: BTreeMap<(u32, u64), Handle>,
}

static TABLES: Global<Tables> = Global::new(
    "handle tables",
    Tables {
        handles: BTreeMap::new(),
    },
);

/// Forgets every handle.
pub fn initialize() {
    TABLES.with(|tables| tables.handles.clear());
}

/// The table and number that a handle value means to a process.
fn key(process: u32, handle: u64) -> (u32, u64) {
    // A driver's (HANDLE)0x80000004 may arrive sign-extended.
    let low = handle & 0xFFFF_FFFF;
    if low & KERNEL_BIT != 0 {
        (SYSTEM, low & !KERNEL_BIT & !3)
    } else {
        (process, low & !3)
    }
}

/// Makes a handle; the object gains a reference. Handles of [`SYSTEM`] are kernel handles.
#[must_use]
pub fn insert(process: u32, body: u64, access: u32) -> u64 {
    reference(body);
    change_handles(body, 1);
    TABLES.with(|tables| {
        let mut number = 4;
        while tables.handles.contains_key(&(process, number)) {
            number += 4;
        }
        tables.handles.insert(
            (process, number),
            Handle {
                body,
                access,
                attributes: 0,
            },
        );
        if process == SYSTEM {
            number | KERNEL_BIT
        } else {
            number
        }
    })
}

/// Sets a handle's OBJ_ flags.
pub fn set_attributes(process: u32, handle: u64, attributes: u32) {
    TABLES.with(|tables| {
        if let Some(entry) = tables.handles.get_mut(&key(process, handle)) {
            entry.attributes = attributes;
        }
    });
}

/// Whether a handle value is one of the kernel's table.
#[must_use]
pub const fn is_kernel(handle: u64) -> bool {
    handle & KERNEL_BIT != 0
}

/// What a handle stands for.
#[must_use]
pub fn lookup(process: u32, handle: u64) -> Option<Handle> {
    TABLES.with(|tables| tables.handles.get(&key(process, handle)).copied())
}

/// Removes a handle without dereferencing its object: the caller does that, after what must come before (IRP_MJ_CLEANUP).
/// Also returns how many handles the object has left.
#[must_use]
pub fn remove(process: u32, handle: u64) -> Option<(Handle, u32)> {
    let removed = TABLES.with(|tables| tables.handles.remove(&key(process, handle)))?;
    let left = change_handles(removed.body, -1);
    if left == 0 {
        super::last_handle_closed(removed.body);
    }
    Some((removed, left))
}

/// Closes a handle of an object that needs no more than a dereference.
#[must_use]
pub fn close(process: u32, handle: u64) -> bool {
    let Some((handle, _)) = remove(process, handle) else {
        return false;
    };
    dereference(handle.body);
    true
}

/// Every handle: its process, its number and what it stands for.
#[must_use]
pub fn all() -> Vec<(u32, u64, Handle)> {
    TABLES.with(|tables| {
        let handles = tables.handles.iter();
        handles
            .map(|(&(process, number), &handle)| (process, number, handle))
            .collect()
    })
}

/// The handles of a process.
#[must_use]
pub fn of_process(process: u32) -> Vec<u64> {
    TABLES.with(|tables| {
        tables
            .handles
            .range((process, 0)..=(process, u64::MAX))
            .map(|(&(_, handle), _)| handle)
            .collect()
    })
}
