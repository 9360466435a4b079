//! Lists, strings and small things that everything uses.

use crate::raw::{Ptr, Word};

/// PASSIVE_LEVEL.
pub const PASSIVE_LEVEL: u8 = 0;
/// APC_LEVEL.
pub const APC_LEVEL: u8 = 1;
/// DISPATCH_LEVEL.
pub const DISPATCH_LEVEL: u8 = 2;
/// SYNCH_LEVEL: 27 on i386, 12 on amd64.
pub const SYNCH_LEVEL: u8 = if cfg!(nt_i386) { 27 } else { 12 };
/// IPI_LEVEL: 29 on i386, 14 on amd64.
pub const IPI_LEVEL: u8 = if cfg!(nt_i386) { 29 } else { 14 };
/// HIGH_LEVEL: 31 on i386, 15 on amd64.
pub const HIGH_LEVEL: u8 = if cfg!(nt_i386) { 31 } else { 15 };
/// "Any level" in a WDK page: nothing is checked.
pub const ANY_LEVEL: u8 = 31;

/// LIST_ENTRY.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LIST_ENTRY {
    /// Next entry, or the head.
    pub Flink: Ptr<LIST_ENTRY>,
    /// Previous entry, or the head.
    pub Blink: Ptr<LIST_ENTRY>,
}

/// SINGLE_LIST_ENTRY.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SINGLE_LIST_ENTRY {
    /// Next entry; null at the end.
    pub Next: Ptr<SINGLE_LIST_ENTRY>,
}

/// UNICODE_STRING: counted UTF-16; lengths in bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UNICODE_STRING {
    /// Bytes in use.
    pub Length: u16,
    /// Bytes of the buffer.
    pub MaximumLength: u16,
    /// The units.
    pub Buffer: Ptr<u16>,
}

/// STRING (ANSI_STRING): counted bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct STRING {
    /// Bytes in use.
    pub Length: u16,
    /// Bytes of the buffer.
    pub MaximumLength: u16,
    /// The bytes.
    pub Buffer: Ptr<u8>,
}

/// OBJECT_ATTRIBUTES.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OBJECT_ATTRIBUTES {
    /// Bytes of this structure.
    pub Length: u32,
    /// Directory that the name is relative to; 0 for an absolute one.
    pub RootDirectory: Word,
    /// The name.
    pub ObjectName: Ptr<UNICODE_STRING>,
    /// OBJ_ flags.
    pub Attributes: u32,
    /// Not looked at.
    pub SecurityDescriptor: Word,
    /// Not looked at.
    pub SecurityQualityOfService: Word,
}

/// KSYSTEM_TIME: a 64-bit time that can be read in 32-bit pieces without tearing.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct KSYSTEM_TIME {
    /// Bits 0 to 31.
    pub LowPart: u32,
    /// Bits 32 to 63.
    pub High1Time: i32,
    /// The same again: equal to `High1Time` unless the value is being written.
    pub High2Time: i32,
}

const _: () = assert!(size_of::<LIST_ENTRY>() == 2 * size_of::<Word>());
const _: () = assert!(size_of::<UNICODE_STRING>() == if cfg!(nt_i386) { 8 } else { 16 });
const _: () = assert!(size_of::<OBJECT_ATTRIBUTES>() == if cfg!(nt_i386) { 0x18 } else { 0x30 });
