//! Security: ACLs, security descriptors, contexts. SIDs and ACEs have no fixed size; offsets in them are constants.

use crate::raw::{Ptr, Word};

/// LUID.
pub type LUID = u64;

/// ACL: the head; ACEs follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ACL {
    /// 2 or 4.
    pub AclRevision: u8,
    /// 0.
    pub Sbz1: u8,
    /// Bytes, with the free space behind the ACEs.
    pub AclSize: u16,
    /// Number of ACEs.
    pub AceCount: u16,
    /// 0.
    pub Sbz2: u16,
}

/// ACE_HEADER. An access ACE goes on with its 4-byte mask and its SID.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ACE_HEADER {
    /// ACCESS_ALLOWED_ACE_TYPE (0), ACCESS_DENIED_ACE_TYPE (1), ...
    pub AceType: u8,
    /// Inheritance.
    pub AceFlags: u8,
    /// Bytes.
    pub AceSize: u16,
}

/// SECURITY_DESCRIPTOR in its absolute form.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SECURITY_DESCRIPTOR {
    /// 1.
    pub Revision: u8,
    /// 0.
    pub Sbz1: u8,
    /// SE_ flags.
    pub Control: u16,
    /// SID.
    pub Owner: Ptr<u8>,
    /// SID.
    pub Group: Ptr<u8>,
    /// System ACL.
    pub Sacl: Ptr<u8>,
    /// Discretionary ACL.
    pub Dacl: Ptr<u8>,
}

/// SECURITY_DESCRIPTOR_RELATIVE: offsets from its own beginning, 0 for what is absent.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SECURITY_DESCRIPTOR_RELATIVE {
    /// 1.
    pub Revision: u8,
    /// 0.
    pub Sbz1: u8,
    /// SE_ flags, SE_SELF_RELATIVE among them.
    pub Control: u16,
    /// SID.
    pub Owner: u32,
    /// SID.
    pub Group: u32,
    /// System ACL.
    pub Sacl: u32,
    /// Discretionary ACL.
    pub Dacl: u32,
}

/// SECURITY_SUBJECT_CONTEXT.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SECURITY_SUBJECT_CONTEXT {
    /// Token that the thread impersonates; null if none.
    pub ClientToken: Ptr<u8>,
    /// SECURITY_IMPERSONATION_LEVEL of it.
    pub ImpersonationLevel: u32,
    /// The process's token.
    pub PrimaryToken: Ptr<u8>,
    /// The process's id.
    pub ProcessAuditId: Word,
}

/// SECURITY_QUALITY_OF_SERVICE.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SECURITY_QUALITY_OF_SERVICE {
    /// Bytes.
    pub Length: u32,
    /// SECURITY_IMPERSONATION_LEVEL.
    pub ImpersonationLevel: u32,
    /// Static or dynamic.
    pub ContextTrackingMode: u8,
    /// Only what is enabled.
    pub EffectiveOnly: u8,
}

/// GENERIC_MAPPING.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GENERIC_MAPPING {
    /// What GENERIC_READ means.
    pub GenericRead: u32,
    /// What GENERIC_WRITE means.
    pub GenericWrite: u32,
    /// What GENERIC_EXECUTE means.
    pub GenericExecute: u32,
    /// What GENERIC_ALL means.
    pub GenericAll: u32,
}

/// SHARE_ACCESS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SHARE_ACCESS {
    /// Open with any of the three accesses.
    pub OpenCount: u32,
    /// Open for reading.
    pub Readers: u32,
    /// Open for writing.
    pub Writers: u32,
    /// Open for deleting.
    pub Deleters: u32,
    /// Of those, sharing for reading.
    pub SharedRead: u32,
    /// Sharing for writing.
    pub SharedWrite: u32,
    /// Sharing for deleting.
    pub SharedDelete: u32,
}

const _: () = {
    let is_i386 = cfg!(nt_i386);
    assert!(size_of::<ACL>() == 8);
    assert!(size_of::<ACE_HEADER>() == 4);
    assert!(size_of::<SECURITY_DESCRIPTOR>() == if is_i386 { 20 } else { 40 });
    assert!(size_of::<SECURITY_DESCRIPTOR_RELATIVE>() == 20);
    assert!(size_of::<SECURITY_SUBJECT_CONTEXT>() == if is_i386 { 16 } else { 32 });
    assert!(size_of::<SECURITY_QUALITY_OF_SERVICE>() == 12);
    assert!(size_of::<GENERIC_MAPPING>() == 16);
    assert!(size_of::<SHARE_ACCESS>() == 28);
};
