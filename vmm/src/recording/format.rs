//! The file: a header, then records of 40 bytes, all numbers little-endian.
//!
//! ```text
//! header   8 bytes  magic "RINGREC1"
//!          8 bytes  time-stamp counter at the guest's boot
//!          8 bytes  its frequency in kHz
//!          8 bytes  accesses that a bounded recording has dropped; all ones until the recording is finished
//! record   1 byte   kind: see `Kind`
//!          1 byte   log2 of the width in bytes (port), bytes (device memory); length of the name (definitions)
//!          1 byte   flags: 1 write, 2 allowed
//!          1 byte   number of the back end
//!          4 bytes  line of the policy's rule; 0: none
//!          8 bytes  time-stamp counter
//!          8 bytes  address of the instruction
//!          8 bytes  port, physical address, MSR, or a module's base
//!          8 bytes  value, bytes mapped, or a module's size
//! ```
//!
//! A definition gives a back end's number or a module its name: as many bytes as it says follow in records of their own,
//! filled up with zeros. It comes before the first access that needs it.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"RINGREC1";

/// [`Header::dropped`] of a recording that is not finished.
pub(super) const UNFINISHED: u64 = u64::MAX;

/// Written into [`Entry::flags`].
pub(super) const FLAG_WRITE: u8 = 1;
/// Written into [`Entry::flags`].
pub(super) const FLAG_ALLOWED: u8 = 2;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A port access.
    Port = 1,
    /// A mapping of physical memory.
    Memory = 2,
    /// An access to an MSR.
    Msr = 3,
    /// An access to a device's memory.
    DeviceMemory = 4,
    /// The name of a back end.
    Backend = 0x80,
    /// The name, base and size of an image in the guest.
    Module = 0x81,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [
            Self::Port,
            Self::Memory,
            Self::Msr,
            Self::DeviceMemory,
            Self::Backend,
            Self::Module,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// The file's first bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) boot_tsc: U64,
    pub(super) tsc_khz: U64,
    pub(super) dropped: U64,
}

/// A record.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) kind: u8,
    pub(super) width: u8,
    pub(super) flags: u8,
    pub(super) backend: u8,
    pub(super) rule_line: U32,
    pub(super) tsc: U64,
    pub(super) rip: U64,
    pub(super) address: U64,
    pub(super) value: U64,
}

/// Bytes of a record.
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();

const _: () = assert!(ENTRY_BYTES == 40 && size_of::<Header>() == 32);
