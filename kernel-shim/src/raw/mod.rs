//! The only unsafe code of the crate: driver memory, the shared pages, and the API entry code.
//!
//! # Why reading through any address is a safe function here
//!
//! A driver hands the shim addresses, and NT believes them: a bad one faults, and the trap handler turns the
//! fault into NT's bugcheck. The shim does the same, so [`Ptr::read`] and its like take whatever address they
//! are given. What protects anyone from a driver is not this crate's memory safety but the virtual machine
//! around both: shim and driver share one guest, and nothing in that guest is trusted by the VMM. What the
//! types here do promise is that the *compiler* never sees a reference to memory that might be null, and that
//! a bad access is an access to exactly that address, so that CR2 and the bugcheck name it.
//!
//! The shim runs on one vCPU, and an interrupt never enters shim code (see [`crate::dispatch`]), so nothing
//! changes driver memory behind the short accesses made here, except devices and the VMM: the
//! pages they write are read with [`volatile_read`].

mod cell;
pub(crate) mod compiler;
mod entry;
pub mod fpu;
mod list;
#[cfg(not(nt_i386))]
mod mutex;
mod ptr;
mod strings;

#[cfg(not(nt_i386))]
pub(crate) use cell::Held;
pub use cell::{DataCell, Global};
pub(crate) use cell::{held, let_driver_run};
pub use entry::EntryPoint;
#[cfg(not(nt_i386))]
pub(crate) use entry::{FastPath, api_entry, fast_entry, leaf_entry, saved_xmm};
pub(crate) use entry::{fpu_state, saved_registers};
pub use list::ListHead;
#[cfg(not(nt_i386))]
pub(crate) use mutex::{acquire_fast_mutex, release_fast_mutex};
pub(crate) use ptr::prefetch;
pub use ptr::{Ptr, Word, fault_at, volatile_read, volatile_write};
pub use strings::{narrow_string, narrow_string_bytes, unicode_string, unicode_text, wide_string};

/// The low 8 bits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub const fn low8(value: u64) -> u8 {
    value as u8
}

/// The low 16 bits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub const fn low16(value: u64) -> u16 {
    value as u16
}

/// The low 32 bits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub const fn low32(value: u64) -> u32 {
    value as u32
}

/// A length as the shim's own `usize`: the shim is always 64-bit code, so nothing is lost.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits in every build"
)]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}
const _: () = assert!(size_of::<usize>() == 8, "the shim is 64-bit code");

/// A pointer-sized number of the driver ABI; on i386 the upper half is cut off.
#[must_use]
#[cfg(nt_i386)]
pub const fn to_word(value: u64) -> Word {
    low32(value)
}
/// A pointer-sized number of the driver ABI; on i386 the upper half is cut off.
#[must_use]
#[cfg(not(nt_i386))]
pub const fn to_word(value: u64) -> Word {
    value
}

/// A pointer-sized number of the driver ABI as u64.
#[must_use]
#[cfg(nt_i386)]
pub const fn from_word(value: Word) -> u64 {
    value as u64
}
/// A pointer-sized number of the driver ABI as u64.
#[must_use]
#[cfg(not(nt_i386))]
pub const fn from_word(value: Word) -> u64 {
    value
}

/// The longest prefix of `text` that ends at a character boundary and has at most `limit` bytes.
#[must_use]
pub fn prefix(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
