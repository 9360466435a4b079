//! PE images of Windows kernel drivers: validation, relocation, import binding, inspection.
//!
//! An image is hostile input. [`Image::parse`] checks every field that anything here or in the guest relies
//! on, and rejects with the field's name, file offset and value; [`Image::map`] then lays the image out for an
//! address. Both are pure functions of their arguments: no files, no guest memory, no `unsafe`. The crate
//! stands alone so that a fuzzer can build it without the rest of the VMM.
//!
//! What the Microsoft PE/COFF specification ("PE Format") says is the reference; where Windows' kernel loader
//! is known to be stricter or laxer, the check says so.
//!
//! # What is accepted
//! PE32 for i386 and PE32+ for amd64 with subsystem native, at most [`MAX_IMAGE_BYTES`] in the file and in
//! memory. Import descriptors may name any DLL: binding decides which exist.
//!
//! # Write xor execute
//! Pages are R, RW or RX from the flags of the sections in them, with two exceptions that
//! [`Image::protection`] documents: images linked with a section alignment below the page size, and sections
//! that ask for both and are not discardable.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

#[cfg(any(test, feature = "builder"))]
pub mod builder;
mod checksum;
mod cookie;
mod error;
mod exports;
mod field;
mod function_table;
mod headers;
mod image;
mod imports;
mod layout;
mod map;
mod protection;
mod relocations;
pub mod report;
mod sections;

#[cfg(test)]
mod tests;

pub use checksum::Checksum;
pub use cookie::{CookieSource, SecurityCookie};
pub use error::{ImageError, MapError};
pub use exports::{Export, ExportTarget};
pub use image::Image;
pub use imports::{Import, ImportName};
pub use map::Mapped;
pub use protection::PageProtection;
pub use relocations::{Relocation, RelocationKind};
pub use sections::{Section, SectionFlags};

/// Bytes in a page of the guest.
pub const PAGE_BYTES: u32 = 4096;

/// Largest file and largest SizeOfImage that are accepted, in bytes. The address space for driver images
/// ([`abi::layout::DRIVERS_SIZE`]) has room for it.
pub const MAX_IMAGE_BYTES: u32 = 64 << 20;

const _: () = assert!(
    (MAX_IMAGE_BYTES as u64) < abi::layout::DRIVERS_SIZE,
    "the largest image and its guard pages fit the address space for drivers"
);
