//! The client's end of the split queue ([`abi::client`]).
//!
//! The VMM is trusted with the program's data, but not with its memory: what it writes is checked before it is used as an
//! index.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use abi::client::{
    DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, QueueLayout, UsedElement, needs_event,
};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Error;

const OUTSIDE: Error = Error::Protocol("an offset is outside of the shared memory");

/// The most descriptors that a request takes here: header and input, a part to write; result and output, a part to read.
const CHAIN_MAX: usize = 4;

/// The queue with its memory.
#[derive(Debug)]
pub(crate) struct Queue {
    memory: Arc<MmapRegion>,
    layout: QueueLayout,
    free: Vec<u16>,
    /// The descriptors of each chain that the VMM has, by the first.
    chains: Vec<Vec<u16>>,
    available: u16,
    /// The available index when the VMM was last notified, or need not be.
    kicked: u16,
    next_used: u16,
}

fn usize_of(offset: u64) -> Result<usize, Error> {
    usize::try_from(offset).map_err(|_| OUTSIDE)
}

impl Queue {
    /// Maps the memory that the VMM has sent.
    pub(crate) fn map(file: std::fs::File, layout: QueueLayout) -> Result<Self, Error> {
        let bytes = usize_of(layout.bytes())?;
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), bytes)
            .map_err(|_| Error::Protocol("the shared memory cannot be mapped"))?;
        Ok(Self {
            memory: Arc::new(memory),
            layout,
            free: (0..layout.size).rev().collect(),
            chains: vec![Vec::new(); usize::from(layout.size)],
            available: 0,
            kicked: 0,
            next_used: 0,
        })
    }

    fn load(&self, at: u64) -> Result<u16, Error> {
        let memory = self.memory.as_volatile_slice();
        let value = memory
            .load(usize_of(at)?, Ordering::Acquire)
            .map_err(|_| OUTSIDE)?;
        Ok(u16::from_le(value))
    }

    fn store(&self, at: u64, value: u16) -> Result<(), Error> {
        let memory = self.memory.as_volatile_slice();
        memory
            .store(value.to_le(), usize_of(at)?, Ordering::Release)
            .map_err(|_| OUTSIDE)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let memory = self.memory.as_volatile_slice();
        memory
            .write_slice(bytes, usize_of(at)?)
            .map_err(|_| OUTSIDE)
    }

    pub(crate) fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let memory = self.memory.as_volatile_slice();
        memory.read_slice(bytes, usize_of(at)?).map_err(|_| OUTSIDE)
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<MmapRegion> {
        &self.memory
    }

    /// Whether so many requests find descriptors.
    pub(crate) fn has_room(&self, requests: usize) -> bool {
        self.free.len() >= CHAIN_MAX * requests
    }

    /// Makes a request available: pieces that the VMM reads, then those that it writes, each an offset and bytes. Returns
    /// its head.
    pub(crate) fn add(
        &mut self,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> Result<u16, Error> {
        let count = readable.len() + writable.len();
        if count == 0 || count > self.free.len() {
            return Err(Error::NoRoom(0));
        }
        let chain = self.free.split_off(self.free.len() - count);
        let pieces = readable
            .iter()
            .map(|piece| (piece, 0))
            .chain(writable.iter().map(|piece| (piece, DESCRIPTOR_WRITE)));
        let nexts = chain.iter().skip(1).map(Some).chain([None]);
        for ((&index, next), (&(address, length), flags)) in chain.iter().zip(nexts).zip(pieces) {
            let descriptor = Descriptor {
                address,
                length,
                flags: flags | next.map_or(0, |_| DESCRIPTOR_NEXT),
                next: next.copied().unwrap_or(0),
            };
            self.write(self.layout.descriptor(index), descriptor.as_bytes())?;
        }
        let head = chain.first().copied().unwrap_or(0);
        if let Some(slot) = self.chains.get_mut(usize::from(head)) {
            *slot = chain;
        }
        self.store(self.layout.available_entry(self.available), head)?;
        self.available = self.available.wrapping_add(1);
        self.store(self.layout.available_index(), self.available)?;
        Ok(head)
    }

    /// Whether the VMM wants to be notified of what was made available since this was last asked.
    pub(crate) fn is_kick_due(&mut self) -> Result<bool, Error> {
        if self.available == self.kicked {
            return Ok(false);
        }
        fence(Ordering::SeqCst);
        let event = self.load(self.layout.available_event())?;
        let is_due = needs_event(event, self.available, self.kicked);
        self.kicked = self.available;
        Ok(is_due)
    }

    /// Whether something was used.
    pub(crate) fn has_used(&self) -> Result<bool, Error> {
        Ok(self.load(self.layout.used_index())? != self.next_used)
    }

    /// Takes a chain that the VMM has given back: its head, and how many bytes were written.
    pub(crate) fn take_used(&mut self) -> Result<Option<(u16, u32)>, Error> {
        if !self.has_used()? {
            return Ok(None);
        }
        let mut bytes = [0; size_of::<UsedElement>()];
        self.read(self.layout.used_entry(self.next_used), &mut bytes)?;
        let element =
            UsedElement::read_from_bytes(&bytes).map_err(|_| Error::Protocol("a used element"))?;
        let unknown = Error::Protocol("a chain was given back that the VMM does not have");
        let Ok(head) = u16::try_from(u32::from_le(element.id)) else {
            return Err(unknown);
        };
        let chain = self.chains.get_mut(usize::from(head)).map(std::mem::take);
        let Some(chain) = chain.filter(|chain| !chain.is_empty()) else {
            return Err(unknown);
        };
        self.free.extend(chain);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some((head, u32::from_le(element.length))))
    }

    /// Asks the VMM to notify of the next chain that it gives back; what it gave back meanwhile must be looked for
    /// afterwards.
    pub(crate) fn arm(&self) -> Result<(), Error> {
        self.store(self.layout.used_event(), self.next_used)?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}
