//! ACLs and their ACEs.

use alloc::vec::Vec;

use super::sid::{self, RtlValidSid, Sid};
use crate::api::nt_api;
use crate::nt::{ACE_HEADER, ACL, NtStatus};
use crate::raw::{Ptr, Word, low8, low16, to_usize};
use crate::value::{Boolean, ULong};

/// Bytes of [`ACL`].
pub const ACL_BYTES: u64 = size_of::<ACL>() as u64;
/// ACCESS_ALLOWED_ACE_TYPE.
pub const ALLOWED: u8 = 0;
/// ACCESS_DENIED_ACE_TYPE.
pub const DENIED: u8 = 1;
/// INHERIT_ONLY_ACE.
pub const INHERIT_ONLY: u8 = 8;
/// OBJECT_INHERIT_ACE.
pub const OBJECT_INHERIT: u8 = 1;
/// CONTAINER_INHERIT_ACE.
pub const CONTAINER_INHERIT: u8 = 2;
/// NO_PROPAGATE_INHERIT_ACE.
pub const NO_PROPAGATE: u8 = 4;
/// VALID_INHERIT_FLAGS.
const INHERIT_FLAGS: u32 = 0x1F;
/// Bytes of an access ACE before its SID.
const ACE_SID: u64 = 8;
const MIN_REVISION: u8 = 2;
const MAX_REVISION: u8 = 4;
const END: u32 = u32::MAX;

/// An ACE that allows or denies, as a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ace {
    /// [`ALLOWED`] or [`DENIED`].
    pub kind: u8,
    /// Inheritance flags.
    pub flags: u8,
    /// Access.
    pub mask: u32,
    /// Whose.
    pub sid: Sid,
}

impl Ace {
    /// As it is in memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let sid = self.sid.bytes();
        let mut bytes = alloc::vec![self.kind, self.flags];
        bytes.extend(low16(ACE_SID + sid.len() as u64).to_le_bytes());
        bytes.extend(self.mask.to_le_bytes());
        bytes.extend(sid);
        bytes
    }
}

/// An ACL of these ACEs, as it is in memory.
#[must_use]
pub fn build(aces: &[Ace]) -> Vec<u8> {
    let body: Vec<u8> = aces.iter().flat_map(Ace::bytes).collect();
    let mut bytes = alloc::vec![MIN_REVISION, 0];
    bytes.extend(low16(ACL_BYTES + body.len() as u64).to_le_bytes());
    bytes.extend(low16(aces.len() as u64).to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(body);
    bytes
}

/// Where the ACEs of an ACL are; `None` if they do not fit in it. The last address is that of the free space.
fn walk(acl: Ptr<u8>) -> Option<Vec<Ptr<u8>>> {
    let head = acl.cast::<ACL>().read();
    let end = acl.addr() + u64::from(head.AclSize);
    let mut at = acl.addr() + ACL_BYTES;
    let mut all = Vec::new();
    for _ in 0..head.AceCount {
        if at + size_of::<ACE_HEADER>() as u64 > end {
            return None;
        }
        all.push(Ptr::new(at));
        let bytes = u64::from(Ptr::<ACE_HEADER>::new(at).read().AceSize);
        if bytes < size_of::<ACE_HEADER>() as u64 || at + bytes > end {
            return None;
        }
        at += bytes;
    }
    all.push(Ptr::new(at));
    Some(all)
}

/// Whether an ACL is well-formed (RtlValidAcl).
#[must_use]
pub fn is_valid(acl: Ptr<u8>) -> bool {
    if acl.is_null() {
        return false;
    }
    let head = acl.cast::<ACL>().read();
    if !(MIN_REVISION..=MAX_REVISION).contains(&head.AclRevision)
        || u64::from(head.AclSize) < ACL_BYTES
    {
        return false;
    }
    let Some(aces) = walk(acl) else { return false };
    aces.iter()
        .take(aces.len() - 1)
        .all(|&ace| match ace.read() {
            ALLOWED | DENIED | 2 => {
                let bytes = u64::from(ace.cast::<ACE_HEADER>().read().AceSize);
                bytes >= ACE_SID + 8
                    && RtlValidSid(ace.add_bytes(ACE_SID))
                    && bytes >= ACE_SID + sid::length(ace.add_bytes(ACE_SID))
            }
            _ => true,
        })
}

/// Where an ACL's ACEs are; none if it is malformed.
#[must_use]
pub fn aces(acl: Ptr<u8>) -> Vec<Ptr<u8>> {
    let mut all = walk(acl).unwrap_or_default();
    all.pop();
    all
}

/// An ACL of ACEs that are in memory already.
#[must_use]
pub fn build_raw(aces: &[Vec<u8>]) -> Vec<u8> {
    let body = aces.concat();
    let mut bytes = alloc::vec![MAX_REVISION, 0];
    bytes.extend(low16(ACL_BYTES + body.len() as u64).to_le_bytes());
    bytes.extend(low16(aces.len() as u64).to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(body);
    bytes
}

/// The ACEs that allow or deny, in order; ones of other kinds are left out.
#[must_use]
pub fn access_aces(acl: Ptr<u8>) -> Vec<Ace> {
    aces(acl)
        .into_iter()
        .filter_map(|at| {
            let head = at.cast::<ACE_HEADER>().read();
            if head.AceType > DENIED {
                return None;
            }
            Some(Ace {
                kind: head.AceType,
                flags: head.AceFlags,
                mask: at.add_bytes(4).cast::<u32>().read(),
                sid: Sid::read(at.add_bytes(ACE_SID))?,
            })
        })
        .collect()
}

/// Bytes of an ACL.
#[must_use]
pub fn size(acl: Ptr<u8>) -> u64 {
    u64::from(acl.cast::<ACL>().read().AclSize)
}

fn add_access(
    acl: Ptr<u8>,
    revision: u32,
    kind: u8,
    flags: u32,
    mask: u32,
    sid: Ptr<u8>,
) -> NtStatus {
    if !RtlValidSid(sid) {
        return NtStatus::INVALID_SID;
    }
    let head = acl.cast::<ACL>().read();
    if head.AclRevision > MAX_REVISION || revision > u32::from(MAX_REVISION) {
        return NtStatus::REVISION_MISMATCH;
    }
    if flags & !INHERIT_FLAGS != 0 {
        return NtStatus::INVALID_PARAMETER;
    }
    let aces = match walk(acl) {
        Some(aces) if is_valid(acl) => aces,
        _ => return NtStatus::INVALID_ACL,
    };
    let free = aces[aces.len() - 1];
    let bytes = ACE_SID + sid::length(sid);
    if free.addr() + bytes > acl.addr() + u64::from(head.AclSize) {
        return NtStatus::ALLOTTED_SPACE_EXCEEDED;
    }
    free.cast().write(ACE_HEADER {
        AceType: kind,
        AceFlags: low8(u64::from(flags)),
        AceSize: low16(bytes),
    });
    free.add_bytes(4).cast::<u32>().write(mask);
    free.add_bytes(ACE_SID).copy_from(sid, bytes - ACE_SID);
    acl.cast::<ACL>().with(|acl| {
        acl.AceCount += 1;
        acl.AclRevision = acl.AclRevision.max(low8(u64::from(revision)));
    });
    NtStatus::SUCCESS
}

/// Number of ACEs in a list without a head; `None` unless they fill it exactly.
fn count_list(list: Ptr<u8>, bytes: u64) -> Option<u16> {
    let (mut at, mut count) = (0, 0_u16);
    while at < bytes {
        if bytes - at < size_of::<ACE_HEADER>() as u64 {
            return None;
        }
        let size = u64::from(list.add_bytes(at).cast::<ACE_HEADER>().read().AceSize);
        if size < size_of::<ACE_HEADER>() as u64 || size > bytes - at {
            return None;
        }
        at += size;
        count = count.checked_add(1)?;
    }
    Some(count)
}

nt_api! { module = se_acl;
    /// RtlCreateAcl. BUFFER_TOO_SMALL: no room for the head; INVALID_PARAMETER: larger than an ACL can be, or another
    /// revision than 2 to 4.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlCreateAcl(acl: Ptr<ACL>, acl_length: ULong, acl_revision: ULong) -> NtStatus {
        if u64::from(acl_length) < ACL_BYTES {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        if !(u32::from(MIN_REVISION)..=u32::from(MAX_REVISION)).contains(&acl_revision) || acl_length > 0xFFFF {
            return NtStatus::INVALID_PARAMETER;
        }
        acl.write(ACL {
            AclRevision: low8(u64::from(acl_revision)),
            Sbz1: 0,
            AclSize: low16(u64::from(acl_length & !3)),
            AceCount: 0,
            Sbz2: 0,
        });
        NtStatus::SUCCESS
    }

    /// RtlValidAcl.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlValidAcl(acl: Ptr<u8>) -> Boolean {
        is_valid(acl)
    }

    /// RtlAddAccessAllowedAce.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAddAccessAllowedAce(acl: Ptr<u8>, ace_revision: ULong, access_mask: ULong, sid: Ptr<u8>) -> NtStatus {
        add_access(acl, ace_revision, ALLOWED, 0, access_mask, sid)
    }

    /// RtlAddAccessAllowedAceEx: with inheritance flags.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAddAccessAllowedAceEx(
        acl: Ptr<u8>, ace_revision: ULong, ace_flags: ULong, access_mask: ULong, sid: Ptr<u8>,
    ) -> NtStatus {
        add_access(acl, ace_revision, ALLOWED, ace_flags, access_mask, sid)
    }

    /// RtlAddAccessDeniedAce.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAddAccessDeniedAce(acl: Ptr<u8>, ace_revision: ULong, access_mask: ULong, sid: Ptr<u8>) -> NtStatus {
        add_access(acl, ace_revision, DENIED, 0, access_mask, sid)
    }

    /// RtlAddAccessDeniedAceEx: with inheritance flags.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAddAccessDeniedAceEx(
        acl: Ptr<u8>, ace_revision: ULong, ace_flags: ULong, access_mask: ULong, sid: Ptr<u8>,
    ) -> NtStatus {
        add_access(acl, ace_revision, DENIED, ace_flags, access_mask, sid)
    }

    /// RtlAddAce: inserts ACEs, before the one of that number or (MAXULONG) at the end.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlAddAce(
        acl: Ptr<u8>, ace_revision: ULong, starting_ace_index: ULong, ace_list: Ptr<u8>, ace_list_length: ULong,
    ) -> NtStatus {
        let aces = match if acl.is_null() { None } else { walk(acl) } {
            Some(aces) if is_valid(acl) => aces,
            _ => return NtStatus::INVALID_PARAMETER,
        };
        let bytes = u64::from(ace_list_length);
        let Some(count) = count_list(ace_list, bytes) else { return NtStatus::INVALID_PARAMETER };
        let free = aces[aces.len() - 1];
        let head = acl.cast::<ACL>().read();
        if free.addr() + bytes > acl.addr() + u64::from(head.AclSize) {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        let at = if starting_ace_index == END {
            free
        } else {
            aces.get(starting_ace_index as usize).copied().unwrap_or(free)
        };
        at.add_bytes(bytes).copy_from(at, free.addr() - at.addr());
        at.copy_from(ace_list, bytes);
        acl.cast::<ACL>().with(|acl| {
            acl.AceCount += count;
            acl.AclRevision = acl.AclRevision.max(low8(u64::from(ace_revision)));
        });
        NtStatus::SUCCESS
    }

    /// RtlGetAce. INVALID_PARAMETER: there is none of that number.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlGetAce(acl: Ptr<u8>, ace_index: ULong, ace: Ptr<Word>) -> NtStatus {
        let head = acl.cast::<ACL>().read();
        if !(MIN_REVISION..=MAX_REVISION).contains(&head.AclRevision) || ace_index >= u32::from(head.AceCount) {
            return NtStatus::INVALID_PARAMETER;
        }
        match walk(acl).and_then(|aces| aces.get(ace_index as usize).copied()) {
            Some(found) => {
                ace.write(found.word());
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// RtlDeleteAce. INVALID_PARAMETER: there is none of that number.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlDeleteAce(acl: Ptr<u8>, ace_index: ULong) -> NtStatus {
        let index = to_usize(u64::from(ace_index));
        let aces = match walk(acl) {
            Some(aces) if is_valid(acl) && index + 1 < aces.len() => aces,
            _ => return NtStatus::INVALID_PARAMETER,
        };
        let (at, next, free) = (aces[index], aces[index + 1], aces[aces.len() - 1]);
        let rest = free.addr() - next.addr();
        at.copy_from(next, rest);
        at.add_bytes(rest).fill(0, next.addr() - at.addr());
        acl.cast::<ACL>().with(|acl| acl.AceCount -= 1);
        NtStatus::SUCCESS
    }

    /// RtlFirstFreeAce: where the next ACE goes; null when there is no room at all. FALSE: the ACL is malformed.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlFirstFreeAce(acl: Ptr<u8>, first_free: Ptr<Word>) -> Boolean {
        first_free.write(0);
        let Some(aces) = walk(acl) else { return false };
        let free = aces[aces.len() - 1];
        if free.addr() < acl.addr() + size(acl) {
            first_free.write(free.word());
        }
        true
    }
}
