//! The host end of a client's split queue.
//!
//! The client may write all of the memory at any time. So each word is read once, everything that is decided on is
//! decided on a copy, and what the VMM owns (its indices, which chains it holds) is kept outside of the memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use abi::client::{
    DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, QueueLayout, UsedElement, needs_event,
};
use displaydoc::Display;
use rustix::fs::{MemfdFlags, SealFlags};
use thiserror::Error;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileMemoryError};
use zerocopy::{FromBytes, IntoBytes};

/// Most descriptors of a chain: enough for the largest transfer in pieces of 64 KiB, and few enough that a client cannot
/// keep the VMM busy with one.
pub const CHAIN_MAX: usize = 256;

/// Why the memory cannot be made.
#[derive(Debug, Display, Error)]
pub enum MemoryError {
    /// cannot make a memory file
    File(#[from] rustix::io::Errno),
    /// cannot map it
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

/// What a client did that a queue's rules forbid. It is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, Error)]
pub enum Violation {
    /// the available index went {0} ahead of what was taken, more than the queue holds
    AvailableIndex(u16),
    /// the available ring names descriptor {0}, which does not exist
    Head(u16),
    /// chain {0} was made available again before it was used
    Busy(u16),
    /// an offset is outside of the memory
    Memory,
}

impl From<VolatileMemoryError> for Violation {
    fn from(_: VolatileMemoryError) -> Self {
        // Offsets of the rings come from the layout: this does not happen, and ends nobody but the client if it does.
        Self::Memory
    }
}

/// What is wrong with a chain. Its used element has length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, Error)]
pub enum ChainError {
    /// it is longer than a chain may be, or a loop
    TooLong,
    /// a descriptor names one that does not exist
    Next,
    /// it has a flag that does not exist here
    Flags,
    /// a buffer lies outside of the memory
    Range,
    /// a readable buffer follows a writable one
    Order,
}

/// A buffer in the memory: checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    at: usize,
    bytes: usize,
}

/// The buffers of a request, copied out of the descriptor table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    readable: Vec<Piece>,
    writable: Vec<Piece>,
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.bytes as u64).sum()
}

impl Chain {
    /// Bytes that the client wrote.
    #[must_use]
    pub fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the VMM may write.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }
}

/// The parts of `pieces` behind their first `skip` bytes, at most `bytes` of them.
fn parts(pieces: &[Piece], skip: u64, bytes: usize) -> impl Iterator<Item = Piece> + '_ {
    let (mut skip, mut left) = (skip, bytes);
    pieces.iter().filter_map(move |piece| {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.bytes);
        skip -= skipped as u64;
        let taken = (piece.bytes - skipped).min(left);
        left -= taken;
        (taken != 0).then_some(Piece {
            at: piece.at + skipped,
            bytes: taken,
        })
    })
}

/// The queue with its memory.
#[derive(Debug)]
pub struct Queue {
    memory: MmapRegion,
    layout: QueueLayout,
    next_available: u16,
    used: u16,
    /// The used index when the client was last notified, or need not be.
    signalled: u16,
    /// Chains that the VMM holds, by head.
    is_busy: Vec<bool>,
}

impl Queue {
    /// Makes the memory: a memfd that nobody can shrink or grow, so that no access faults. Also returns the file.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn create(layout: QueueLayout) -> Result<(Self, OwnedFd), MemoryError> {
        let file = rustix::fs::memfd_create(
            "ringfence-channel",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&file, layout.bytes())?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let ours = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3)?;
        let bytes = usize::try_from(layout.bytes()).map_err(|_| rustix::io::Errno::NOMEM)?;
        let memory = MmapRegion::from_file(FileOffset::new(ours.into(), 0), bytes)?;
        let queue = Self {
            memory,
            layout,
            next_available: 0,
            used: 0,
            signalled: 0,
            is_busy: vec![false; usize::from(layout.size)],
        };
        Ok((queue, file))
    }

    /// Where its parts lie.
    #[must_use]
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    fn load(&self, at: u64) -> Result<u16, Violation> {
        let at = usize::try_from(at).map_err(|_| Violation::Memory)?;
        // Acquire: what the client wrote before the index is seen after it.
        Ok(u16::from_le(
            self.memory
                .as_volatile_slice()
                .load(at, Ordering::Acquire)?,
        ))
    }

    fn store(&self, at: u64, value: u16) -> Result<(), Violation> {
        let at = usize::try_from(at).map_err(|_| Violation::Memory)?;
        let memory = self.memory.as_volatile_slice();
        // Release: what was written before it is seen by whoever sees it.
        memory.store(value.to_le(), at, Ordering::Release)?;
        Ok(())
    }

    /// How many chains the client has made available that were not taken.
    ///
    /// # Errors
    /// More than there can be.
    pub fn available(&self) -> Result<u16, Violation> {
        let index = self.load(self.layout.available_index())?;
        let count = index.wrapping_sub(self.next_available);
        if count > self.layout.size {
            return Err(Violation::AvailableIndex(count));
        }
        Ok(count)
    }

    /// Takes the next chain's head.
    ///
    /// # Errors
    /// The client broke the rules.
    pub fn take(&mut self) -> Result<Option<u16>, Violation> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let head = self.load(self.layout.available_entry(self.next_available))?;
        let is_busy = self
            .is_busy
            .get_mut(usize::from(head))
            .ok_or(Violation::Head(head))?;
        if std::mem::replace(is_busy, true) {
            return Err(Violation::Busy(head));
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Copies a chain's descriptors and checks them.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn chain(&self, head: u16) -> Result<Chain, ChainError> {
        let memory = self.memory.as_volatile_slice();
        let mut chain = Chain::default();
        let mut index = head;
        for _ in 0..CHAIN_MAX {
            if index >= self.layout.size {
                return Err(ChainError::Next);
            }
            let mut bytes = [0; size_of::<Descriptor>()];
            let at =
                usize::try_from(self.layout.descriptor(index)).map_err(|_| ChainError::Next)?;
            memory
                .read_slice(&mut bytes, at)
                .map_err(|_| ChainError::Range)?;
            let descriptor = Descriptor::read_from_bytes(&bytes).map_err(|_| ChainError::Range)?;
            if descriptor.flags & !(DESCRIPTOR_NEXT | DESCRIPTOR_WRITE) != 0 {
                return Err(ChainError::Flags);
            }
            let end = descriptor
                .address
                .checked_add(u64::from(descriptor.length))
                .filter(|&end| end <= self.layout.bytes());
            let (Some(_), Ok(at), Ok(bytes)) = (
                end,
                usize::try_from(descriptor.address),
                usize::try_from(descriptor.length),
            ) else {
                return Err(ChainError::Range);
            };
            let piece = Piece { at, bytes };
            if descriptor.flags & DESCRIPTOR_WRITE != 0 {
                chain.writable.push(piece);
            } else if chain.writable.is_empty() {
                chain.readable.push(piece);
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

    /// Reads from a chain's readable buffers, behind their first `skip` bytes; how many bytes there were.
    pub fn read(&self, chain: &Chain, skip: u64, buffer: &mut [u8]) -> usize {
        self.read_pieces(&chain.readable, skip, buffer)
    }

    /// As [`Self::read`], from the writable buffers: what the client left there.
    pub fn read_writable(&self, chain: &Chain, skip: u64, buffer: &mut [u8]) -> usize {
        self.read_pieces(&chain.writable, skip, buffer)
    }

    fn read_pieces(&self, pieces: &[Piece], skip: u64, buffer: &mut [u8]) -> usize {
        let memory = self.memory.as_volatile_slice();
        let mut done = 0;
        for part in parts(pieces, skip, buffer.len()) {
            let Some(target) = buffer.get_mut(done..done + part.bytes) else {
                break;
            };
            if memory.read_slice(target, part.at).is_err() {
                break;
            }
            done += part.bytes;
        }
        done
    }

    /// Writes to a chain's writable buffers, behind their first `skip` bytes; how many bytes there was room for.
    pub fn write(&self, chain: &Chain, skip: u64, bytes: &[u8]) -> usize {
        let memory = self.memory.as_volatile_slice();
        let mut done = 0;
        for part in parts(&chain.writable, skip, bytes.len()) {
            let Some(from) = bytes.get(done..done + part.bytes) else {
                break;
            };
            if memory.write_slice(from, part.at).is_err() {
                break;
            }
            done += part.bytes;
        }
        done
    }

    /// Gives a chain back.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn give_back(&mut self, head: u16, length: u32) -> Result<(), Violation> {
        if let Some(is_busy) = self.is_busy.get_mut(usize::from(head)) {
            *is_busy = false;
        }
        let element = UsedElement {
            id: u32::from(head).to_le(),
            length: length.to_le(),
        };
        let at =
            usize::try_from(self.layout.used_entry(self.used)).map_err(|_| Violation::Memory)?;
        self.memory
            .as_volatile_slice()
            .write_slice(element.as_bytes(), at)?;
        self.used = self.used.wrapping_add(1);
        self.store(self.layout.used_index(), self.used)
    }

    /// Whether the client wants to be notified of what was given back since this was last asked.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn is_signal_due(&mut self) -> Result<bool, Violation> {
        if self.used == self.signalled {
            return Ok(false);
        }
        // The used index is stored before the event is read; the client does the reverse.
        fence(Ordering::SeqCst);
        let event = self.load(self.layout.used_event())?;
        let is_due = needs_event(event, self.used, self.signalled);
        self.signalled = self.used;
        Ok(is_due)
    }

    /// Asks the client to notify the VMM of the next chain. What became available meanwhile must be looked for afterwards.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn arm(&self) -> Result<(), Violation> {
        self.store(self.layout.available_event(), self.next_available)?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}
