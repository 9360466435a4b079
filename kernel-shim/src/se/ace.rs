//! ACEs as an access check reads them: those that allow or deny, with what object types and conditions they have, and
//! mandatory labels.

use alloc::vec::Vec;

use super::acl::{self, INHERIT_ONLY};
use super::sid::{self, Sid};
use crate::nt::ACE_HEADER;
use crate::raw::{Ptr, to_usize};

/// SYSTEM_MANDATORY_LABEL_ACE_TYPE.
pub const MANDATORY_LABEL: u8 = 0x11;
/// SYSTEM_RESOURCE_ATTRIBUTE_ACE_TYPE.
pub const RESOURCE_ATTRIBUTE: u8 = 0x12;
/// ACE_OBJECT_TYPE_PRESENT.
const OBJECT_TYPE_PRESENT: u32 = 1;
/// ACE_INHERITED_OBJECT_TYPE_PRESENT.
const INHERITED_TYPE_PRESENT: u32 = 2;
/// Bytes of a GUID.
const GUID_BYTES: u64 = 16;
/// Bytes of an ACE's head and mask.
const HEAD: u64 = 8;

/// An ACE that allows or denies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessAce {
    /// Whether it denies.
    pub is_denial: bool,
    /// Access.
    pub mask: u32,
    /// Whose.
    pub sid: Sid,
    /// Whether it is for one type of object only, such as a property.
    pub has_object_type: bool,
    /// Of a callback ACE what follows its SID: a condition, or what only its maker knows.
    pub condition: Option<Vec<u8>>,
}

/// A mandatory label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Integrity level.
    pub level: u32,
    /// SYSTEM_MANDATORY_LABEL_NO_WRITE_UP and its like.
    pub policy: u32,
}

/// What an ACE's type says: whether it denies, has object types, is a callback ACE. `None`: it does neither allow nor
/// deny.
const fn kind_of(ace_type: u8) -> Option<(bool, bool, bool)> {
    Some(match ace_type {
        0 => (false, false, false),
        1 => (true, false, false),
        5 => (false, true, false),
        6 => (true, true, false),
        9 => (false, false, true),
        10 => (true, false, true),
        11 => (false, true, true),
        12 => (true, true, true),
        _ => return None,
    })
}

/// The SID at `offset` in an ACE, and what follows it, as far as the ACE goes.
fn sid_at(ace: Ptr<u8>, offset: u64) -> Option<(Sid, Vec<u8>)> {
    let bytes = u64::from(ace.cast::<ACE_HEADER>().read().AceSize);
    let at = ace.add_bytes(offset);
    if offset + 8 > bytes {
        return None;
    }
    let end = offset + sid::length(at);
    let rest = bytes.checked_sub(end)?;
    Some((
        Sid::read(at)?,
        ace.add_bytes(end).read_slice(to_usize(rest)),
    ))
}

fn read(ace: Ptr<u8>) -> Option<AccessAce> {
    let head = ace.cast::<ACE_HEADER>().read();
    let (is_denial, has_types, is_callback) = kind_of(head.AceType)?;
    if head.AceFlags & INHERIT_ONLY != 0 || u64::from(head.AceSize) < HEAD + 8 {
        return None;
    }
    let flags = if has_types {
        ace.add_bytes(HEAD).cast::<u32>().read()
    } else {
        0
    };
    let guid = |flag: u32| if flags & flag == 0 { 0 } else { GUID_BYTES };
    let types = guid(OBJECT_TYPE_PRESENT) + guid(INHERITED_TYPE_PRESENT);
    let (sid, rest) = sid_at(ace, HEAD + if has_types { 4 } else { 0 } + types)?;
    Some(AccessAce {
        is_denial,
        mask: ace.add_bytes(4).cast::<u32>().read(),
        sid,
        has_object_type: flags & OBJECT_TYPE_PRESENT != 0,
        condition: is_callback.then_some(rest),
    })
}

/// The ACEs of an ACL that allow or deny access to the object itself, in order.
#[must_use]
pub fn access(list: Ptr<u8>) -> Vec<AccessAce> {
    acl::aces(list).into_iter().filter_map(read).collect()
}

/// The mandatory label in a system ACL: the first one. `None`: there is none.
#[must_use]
pub fn label(list: Ptr<u8>) -> Option<Label> {
    let of_type = |ace: &Ptr<u8>| {
        let head = ace.cast::<ACE_HEADER>().read();
        head.AceType == MANDATORY_LABEL
            && head.AceFlags & INHERIT_ONLY == 0
            && u64::from(head.AceSize) >= HEAD + 8
    };
    let ace = acl::aces(list).into_iter().find(of_type)?;
    Some(Label {
        level: sid_at(ace, HEAD)?.0.last()?,
        policy: ace.add_bytes(4).cast::<u32>().read(),
    })
}

/// The claims in a system ACL: what follows the SID of each resource attribute.
#[must_use]
pub fn resource_attributes(list: Ptr<u8>) -> Vec<Vec<u8>> {
    let of_type = |ace: &Ptr<u8>| ace.cast::<ACE_HEADER>().read().AceType == RESOURCE_ATTRIBUTE;
    let all = acl::aces(list).into_iter().filter(of_type);
    all.filter_map(|ace| Some(sid_at(ace, HEAD)?.1)).collect()
}
