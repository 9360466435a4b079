//! A chain's descriptors, copied out of the table and checked.

use alloc::vec::Vec;
use core::fmt;

use abi::client::{DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor};
use zerocopy::FromBytes;

use crate::queue::{Memory, Queue};

/// Most descriptors of a chain: enough for the largest transfer in pieces of 64 KiB, and few enough that a client cannot
/// keep anybody busy with one.
pub const CHAIN_MAX: usize = 256;

/// What is wrong with a chain. Its used element has length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// It is longer than a chain may be, or a loop.
    TooLong,
    /// A descriptor names one that does not exist.
    Next,
    /// It has a flag that does not exist here.
    Flags,
    /// A buffer lies outside of the memory.
    Range,
    /// A readable buffer follows a writable one.
    Order,
}

impl fmt::Display for ChainError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLong => "it is longer than a chain may be, or a loop",
            Self::Next => "a descriptor names one that does not exist",
            Self::Flags => "it has a flag that does not exist here",
            Self::Range => "a buffer lies outside of the memory",
            Self::Order => "a readable buffer follows a writable one",
        })
    }
}

impl core::error::Error for ChainError {}

/// A buffer in the memory: checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of its first byte.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The buffers of a request. Buffers that follow each other in the memory are one piece here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    readable: Vec<Piece>,
    writable: Vec<Piece>,
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.bytes).sum()
}

/// The parts of `pieces` behind their first `skip` bytes, at most `bytes` of them.
fn parts(pieces: &[Piece], skip: u64, bytes: u64) -> impl Iterator<Item = Piece> + '_ {
    let (mut skip, mut left) = (skip, bytes);
    pieces.iter().filter_map(move |piece| {
        let skipped = skip.min(piece.bytes);
        skip -= skipped;
        let taken = (piece.bytes - skipped).min(left);
        left -= taken;
        (taken != 0).then_some(Piece {
            at: piece.at + skipped,
            bytes: taken,
        })
    })
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.at + last.bytes == piece.at => last.bytes += piece.bytes,
        _ => pieces.push(piece),
    }
}

/// The one piece that all of `parts` are; `None`: they are several. Nothing at all is a piece without bytes.
fn single(mut parts: impl Iterator<Item = Piece>) -> Option<Piece> {
    let first = parts.next().unwrap_or(Piece { at: 0, bytes: 0 });
    parts.next().is_none().then_some(first)
}

impl Chain {
    /// Copies and checks the chain that begins at `head`.
    pub(crate) fn read<M: Memory>(queue: &Queue<M>, head: u16) -> Result<Self, ChainError> {
        let layout = queue.layout();
        let mut chain = Self::default();
        let mut index = head;
        for _ in 0..CHAIN_MAX {
            if index >= layout.size {
                return Err(ChainError::Next);
            }
            let mut bytes = [0; size_of::<Descriptor>()];
            queue
                .memory()
                .read(layout.descriptor(index), &mut bytes)
                .ok_or(ChainError::Range)?;
            let descriptor = Descriptor::read_from_bytes(&bytes).map_err(|_| ChainError::Range)?;
            if descriptor.flags & !(DESCRIPTOR_NEXT | DESCRIPTOR_WRITE) != 0 {
                return Err(ChainError::Flags);
            }
            let piece = Piece {
                at: descriptor.address,
                bytes: u64::from(descriptor.length),
            };
            piece
                .at
                .checked_add(piece.bytes)
                .filter(|&end| end <= layout.bytes())
                .ok_or(ChainError::Range)?;
            if descriptor.flags & DESCRIPTOR_WRITE != 0 {
                push(&mut chain.writable, piece);
            } else if chain.writable.is_empty() {
                push(&mut chain.readable, piece);
            } else {
                return Err(ChainError::Order);
            }
            if descriptor.flags & DESCRIPTOR_NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
        Err(ChainError::TooLong)
    }

    /// Bytes that the client wrote.
    #[must_use]
    pub fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that may be written for the client.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }

    /// The parts of the readable buffers behind their first `skip` bytes, at most `bytes` of them.
    pub fn readable(&self, skip: u64, bytes: u64) -> impl Iterator<Item = Piece> + '_ {
        parts(&self.readable, skip, bytes)
    }

    /// The parts of the writable buffers behind their first `skip` bytes, at most `bytes` of them.
    pub fn writable(&self, skip: u64, bytes: u64) -> impl Iterator<Item = Piece> + '_ {
        parts(&self.writable, skip, bytes)
    }

    /// Everything that is readable behind the first `skip` bytes, if it is in one piece.
    #[must_use]
    pub fn single_readable(&self, skip: u64) -> Option<Piece> {
        single(self.readable(skip, u64::MAX))
    }

    /// Everything that is writable behind the first `skip` bytes, if it is in one piece.
    #[must_use]
    pub fn single_writable(&self, skip: u64) -> Option<Piece> {
        single(self.writable(skip, u64::MAX))
    }
}
