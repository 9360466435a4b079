//! Structures of queries, written field by field with NT's padding.

use alloc::vec::Vec;

use crate::nt::NtStatus;
use crate::raw::{Ptr, low32};

/// A structure under construction.
#[derive(Debug, Default)]
pub(super) struct Structure(pub(super) Vec<u8>);

impl Structure {
    pub(super) fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn half(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn dword(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn dwords(self, values: &[u32]) -> Self {
        values.iter().fold(self, |all, &value| all.dword(value))
    }

    pub(super) fn qword(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A pointer-sized number, aligned.
    pub(super) fn word(self, value: u64) -> Self {
        let aligned = self.aligned();
        if cfg!(nt_i386) {
            aligned.dword(low32(value))
        } else {
            aligned.qword(value)
        }
    }

    /// Padded for a pointer.
    pub(super) fn aligned(self) -> Self {
        self.aligned_to(size_of::<crate::raw::Word>())
    }

    /// Padded to a multiple of `bytes`.
    pub(super) fn aligned_to(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(bytes), 0);
        self
    }

    /// What it holds so far, zeros behind it up to `bytes`.
    pub(super) fn extended(mut self, bytes: usize) -> Self {
        if self.0.len() < bytes {
            self.0.resize(bytes, 0);
        }
        self
    }
}

/// How long the caller's buffer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accepts {
    /// Exactly the structure.
    Exactly,
    /// The structure or more.
    AtLeast,
    /// The structure or less, which is then filled as far as it goes.
    AtMost,
    /// So much or more, which is then filled as far as it goes: the structure has grown since.
    Prefix(u32),
}

/// Writes a structure to a caller's buffer; status and bytes for `ReturnLength`.
pub(super) fn fixed(
    structure: &Structure,
    accepts: Accepts,
    buffer: Ptr<u8>,
    length: u32,
) -> (NtStatus, u32) {
    let bytes = low32(structure.0.len() as u64);
    let is_accepted = match accepts {
        Accepts::Exactly => length == bytes,
        Accepts::AtLeast => length >= bytes,
        Accepts::AtMost => length <= bytes,
        Accepts::Prefix(least) => length >= least,
    };
    if !is_accepted {
        return (NtStatus::INFO_LENGTH_MISMATCH, bytes);
    }
    let count = bytes.min(length) as usize;
    buffer.write_bytes(&structure.0[..count]);
    (NtStatus::SUCCESS, low32(count as u64))
}
