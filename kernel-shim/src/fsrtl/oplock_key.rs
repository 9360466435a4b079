//! Oplock keys: files that were opened with the same key do not break each other's oplocks.
//!
//! The key comes with the create request, as the extra create parameter GUID_ECP_OPLOCK_KEY or GUID_ECP_DUAL_OPLOCK_KEY, and
//! stays with the file. A file without one is its own only friend.

use alloc::collections::BTreeMap;

use super::{ecp, stack_of};
use crate::api::nt_api;
use crate::nt::{FILE_OBJECT, GUID, IRP, IRP_MJ_CREATE};
use crate::raw::{Global, Ptr};
use crate::value::Boolean;

/// GUID_ECP_OPLOCK_KEY.
const OPLOCK_KEY: GUID = GUID {
    Data1: 0x4885_0596,
    Data2: 0x3050,
    Data3: 0x4BE7,
    Data4: [0x98, 0x63, 0xFE, 0xC3, 0x50, 0xCE, 0x8D, 0x7F],
};
/// GUID_ECP_DUAL_OPLOCK_KEY.
const DUAL_OPLOCK_KEY: GUID = GUID {
    Data1: 0x4162_1A14,
    Data2: 0xB08B,
    Data3: 0x4DF1,
    Data4: [0xB6, 0x76, 0xA0, 0x5F, 0xFD, 0xF0, 0x1B, 0xEA],
};

/// A key: a GUID's words.
pub(super) type Key = [u32; 4];

/// OPLOCK_KEY_ECP_CONTEXT, as far as all versions have it.
const CONTEXT_BYTES: u32 = 16;
/// DUAL_OPLOCK_KEY_ECP_CONTEXT: two GUIDs, and for each whether it is set.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct DUAL_OPLOCK_KEY_ECP_CONTEXT {
    ParentOplockKey: Key,
    TargetOplockKey: Key,
    ParentOplockKeySet: u8,
    TargetOplockKeySet: u8,
}

/// The keys of one file.
#[derive(Clone, Copy, Default, Debug)]
struct Keys {
    target: Option<Key>,
    parent: Option<Key>,
}

/// By FILE_OBJECT.
static KEYS: Global<BTreeMap<u64, Keys>> = Global::new("oplock keys", BTreeMap::new());

pub(super) fn initialize() {
    KEYS.with(BTreeMap::clear);
}

/// What extra create parameters a create request has.
fn given(irp: Ptr<IRP>) -> Option<Keys> {
    if let Some((context, bytes)) = ecp::of_irp(irp, OPLOCK_KEY)
        && bytes >= CONTEXT_BYTES
    {
        let target = Some(context.cast::<Key>().read());
        return Some(Keys {
            target,
            parent: None,
        });
    }
    let (context, bytes) = ecp::of_irp(irp, DUAL_OPLOCK_KEY)?;
    if (bytes as usize) < size_of::<DUAL_OPLOCK_KEY_ECP_CONTEXT>() {
        return None;
    }
    let dual = context.cast::<DUAL_OPLOCK_KEY_ECP_CONTEXT>().read();
    Some(Keys {
        target: (dual.TargetOplockKeySet != 0).then_some(dual.TargetOplockKey),
        parent: (dual.ParentOplockKeySet != 0).then_some(dual.ParentOplockKey),
    })
}

/// Keeps the key of a create request for its file.
pub(super) fn note(irp: Ptr<IRP>) {
    let stack = stack_of(irp);
    if stack.MajorFunction != IRP_MJ_CREATE || stack.FileObject.is_null() {
        return;
    }
    if let Some(keys) = given(irp) {
        KEYS.with(|all| all.insert(stack.FileObject.addr(), keys));
    }
}

/// A file's key, or that for its directory.
pub(super) fn of(file: Ptr<FILE_OBJECT>, is_parent: bool) -> Option<Key> {
    let keys = KEYS.with(|all| all.get(&file.addr()).copied())?;
    if is_parent { keys.parent } else { keys.target }
}

/// A file is gone.
pub(crate) fn forget_file(file: Ptr<FILE_OBJECT>) {
    KEYS.with(|all| all.remove(&file.addr()));
}

nt_api! { module = fsrtl_oplock_key;
    /// Whether two files have the same oplock key: they are one, or were opened with equal keys.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockKeysEqual(fo1: Ptr<FILE_OBJECT>, fo2: Ptr<FILE_OBJECT>) -> Boolean {
        let key = of(fo1, false);
        fo1 == fo2 || key.is_some() && key == of(fo2, false)
    }
}
