//! KMDF: what WDFLDR.SYS and the framework behind it give to a driver, as far as drivers of control devices need it.
//!
//! A driver binds to it with WdfVersionBind and gets a table of functions ([`functions`]), whose entries are stubs as
//! imports have them; each is declared here as an export of no DLL. Handles are numbers that are never used twice, so
//! that a wrong one is a WDF_VIOLATION and nothing else.

pub mod buffers;
pub mod collection;
pub mod deferred;
pub mod device;
pub mod device_init;
pub mod dispatch;
pub mod driver;
pub mod functions;
pub mod loader;
pub mod memory;
pub mod missing;
pub mod object;
pub mod object_api;
pub mod queue;
pub mod queue_api;
pub mod registry;
pub mod request;
pub mod request_api;
pub mod serial;
pub mod sync;

use crate::nt::NtStatus;
use crate::raw::Word;

/// An object of the framework, as drivers name it.
pub type Wdf = crate::value::Size;

/// STATUS_WDF_OBJECT_ATTRIBUTES_INVALID.
pub const OBJECT_ATTRIBUTES_INVALID: NtStatus = NtStatus(0xC020_0209);
/// STATUS_WDF_PARENT_ASSIGNMENT_NOT_ALLOWED.
pub const PARENT_ASSIGNMENT_NOT_ALLOWED: NtStatus = NtStatus(0xC020_020F);
/// STATUS_WDF_PARENT_NOT_SPECIFIED.
pub const PARENT_NOT_SPECIFIED: NtStatus = NtStatus(0xC020_0212);
/// STATUS_WDF_NO_CALLBACK.
pub const NO_CALLBACK: NtStatus = NtStatus(0xC020_020B);
/// STATUS_WDF_INCOMPATIBLE_EXECUTION_LEVEL.
pub const INCOMPATIBLE_EXECUTION_LEVEL: NtStatus = NtStatus(0xC020_020C);
/// STATUS_WDF_BUSY.
pub const BUSY: NtStatus = NtStatus(0xC020_0204);
/// STATUS_WDF_PAUSED.
pub const PAUSED: NtStatus = NtStatus(0xC020_0203);
/// STATUS_WDF_REQUEST_INVALID_STATE.
pub const REQUEST_INVALID_STATE: NtStatus = NtStatus(0xC020_0208);

/// WDF_OBJECT_ATTRIBUTES.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WDF_OBJECT_ATTRIBUTES {
    /// Bytes.
    pub Size: u32,
    /// Called when the object is deleted.
    pub EvtCleanupCallback: Word,
    /// Called when its last reference goes.
    pub EvtDestroyCallback: Word,
    /// 1 inherit, 2 passive, 3 dispatch.
    pub ExecutionLevel: u32,
    /// 1 inherit, 2 device, 3 queue, 4 none.
    pub SynchronizationScope: u32,
    /// Parent, or 0.
    pub ParentObject: Word,
    /// Bytes of the context, if more than its type's.
    pub ContextSizeOverride: Word,
    /// WDF_OBJECT_CONTEXT_TYPE_INFO, or 0.
    pub ContextTypeInfo: Word,
}

/// WDF_OBJECT_CONTEXT_TYPE_INFO.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_OBJECT_CONTEXT_TYPE_INFO {
    /// Bytes.
    pub Size: u32,
    /// Name.
    pub ContextName: Word,
    /// Bytes of a context.
    pub ContextSize: Word,
    /// What all declarations of the type agree on.
    pub UniqueType: Word,
    /// Returns that, if it is not known at compile time.
    pub EvtDriverGetUniqueContextType: Word,
}

const _: () = {
    assert!(size_of::<WDF_OBJECT_ATTRIBUTES>() == if cfg!(nt_i386) { 32 } else { 56 });
    assert!(size_of::<WDF_OBJECT_CONTEXT_TYPE_INFO>() == if cfg!(nt_i386) { 20 } else { 40 });
};

/// Forgets everything.
pub(crate) fn initialize() {
    object::initialize();
    device_init::initialize();
    loader::initialize();
    serial::initialize();
}
