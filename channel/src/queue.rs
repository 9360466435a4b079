//! Indices, heads, used elements, notifications.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

use abi::client::{QueueLayout, UsedElement, needs_event};
use abi::clients::QueueState;
use zerocopy::IntoBytes;

use crate::chain::{Chain, ChainError, Piece};

/// The shared memory, by offsets. `None`: outside of it.
pub trait Memory {
    /// Loads a little-endian number at an even offset, with what was written before it (acquire).
    fn load(&self, at: u64) -> Option<u16>;
    /// Stores one, behind what was written before it (release).
    fn store(&self, at: u64, value: u16) -> Option<()>;
    /// Copies bytes out; each is read once.
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()>;
    /// Copies bytes in.
    fn write(&self, at: u64, from: &[u8]) -> Option<()>;
}

/// What a client did that a queue's rules forbid. It is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The available index went so far ahead of what was taken, more than the queue holds.
    AvailableIndex(u16),
    /// The available ring names a descriptor that does not exist.
    Head(u16),
    /// A chain was made available again before it was used.
    Busy(u16),
    /// An offset is outside of the memory.
    Memory,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailableIndex(ahead) => write!(
                formatter,
                "the available index went {ahead} ahead of what was taken, more than the queue holds"
            ),
            Self::Head(head) => write!(
                formatter,
                "the available ring names descriptor {head}, which does not exist"
            ),
            Self::Busy(head) => write!(
                formatter,
                "chain {head} was made available again before it was used"
            ),
            Self::Memory => formatter.write_str("an offset is outside of the memory"),
        }
    }
}

impl core::error::Error for Violation {}

/// A queue with its memory.
#[derive(Debug)]
pub struct Queue<M> {
    memory: M,
    layout: QueueLayout,
    state: QueueState,
}

impl<M: Memory> Queue<M> {
    /// The queue in a memory of [`QueueLayout::bytes`].
    pub fn new(memory: M, layout: QueueLayout, state: QueueState) -> Self {
        Self {
            memory,
            layout,
            state,
        }
    }

    /// Where its parts lie.
    #[must_use]
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What this side knows.
    #[must_use]
    pub fn state(&self) -> &QueueState {
        &self.state
    }

    /// Goes on where another has left off.
    pub fn set_state(&mut self, state: QueueState) {
        self.state = state;
    }

    fn load(&self, at: u64) -> Result<u16, Violation> {
        // Offsets of the rings come from the layout: an error does not happen, and would end nobody but the client.
        self.memory.load(at).ok_or(Violation::Memory)
    }

    /// The word of the busy bits that has a head's, and the bit.
    const fn busy_bit(head: u16) -> (usize, u64) {
        (head as usize / 64, 1 << (head % 64))
    }

    /// Whether this side holds the chain at `head`.
    #[must_use]
    pub fn is_busy(&self, head: u16) -> bool {
        let (word, bit) = Self::busy_bit(head);
        self.state
            .busy
            .get(word)
            .is_some_and(|word| word & bit != 0)
    }

    /// The heads of all chains that this side holds.
    pub fn busy(&self) -> impl Iterator<Item = u16> + '_ {
        (0..self.layout.size).filter(|&head| self.is_busy(head))
    }

    /// How many chains this side holds.
    #[must_use]
    pub fn busy_count(&self) -> usize {
        let ones = self.state.busy.iter().map(|word| word.count_ones());
        usize::try_from(ones.sum::<u32>()).unwrap_or(usize::MAX)
    }

    /// How many chains the client has made available that were not taken.
    ///
    /// # Errors
    /// More than there can be.
    pub fn available(&self) -> Result<u16, Violation> {
        let index = self.load(self.layout.available_index())?;
        let count = index.wrapping_sub(self.state.next_available);
        if count > self.layout.size {
            return Err(Violation::AvailableIndex(count));
        }
        Ok(count)
    }

    /// The next chain's head, which stays where it is: the client may exchange it before it is taken.
    ///
    /// # Errors
    /// The client broke the rules.
    pub fn peek(&self) -> Result<Option<u16>, Violation> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let head = self.load(self.layout.available_entry(self.state.next_available))?;
        if head >= self.layout.size {
            return Err(Violation::Head(head));
        }
        if self.is_busy(head) {
            return Err(Violation::Busy(head));
        }
        Ok(Some(head))
    }

    /// Takes the chain that [`Self::peek`] has found.
    pub fn take_peeked(&mut self, head: u16) {
        let (word, bit) = Self::busy_bit(head);
        if let Some(word) = self.state.busy.get_mut(word) {
            *word |= bit;
        }
        self.state.next_available = self.state.next_available.wrapping_add(1);
    }

    /// Takes the next chain's head.
    ///
    /// # Errors
    /// The client broke the rules.
    pub fn take(&mut self) -> Result<Option<u16>, Violation> {
        let head = self.peek()?;
        if let Some(head) = head {
            self.take_peeked(head);
        }
        Ok(head)
    }

    /// Copies a chain's descriptors and checks them.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn chain(&self, head: u16) -> Result<Chain, ChainError> {
        Chain::read(self, head)
    }

    /// Reads from a chain's readable buffers, behind their first `skip` bytes; how many bytes there were.
    pub fn read(&self, chain: &Chain, skip: u64, buffer: &mut [u8]) -> usize {
        let bytes = buffer.len() as u64;
        self.read_pieces(chain.readable(skip, bytes), buffer)
    }

    /// As [`Self::read`], from the writable buffers: what the client left there.
    pub fn read_writable(&self, chain: &Chain, skip: u64, buffer: &mut [u8]) -> usize {
        let bytes = buffer.len() as u64;
        self.read_pieces(chain.writable(skip, bytes), buffer)
    }

    fn read_pieces(&self, pieces: impl Iterator<Item = Piece>, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        for part in pieces {
            let end = usize::try_from(part.bytes).map_or(usize::MAX, |bytes| done + bytes);
            let read = buffer
                .get_mut(done..end)
                .and_then(|target| self.memory.read(part.at, target));
            if read.is_none() {
                break;
            }
            done = end;
        }
        done
    }

    /// Writes to a chain's writable buffers, behind their first `skip` bytes; how many bytes there was room for.
    pub fn write(&self, chain: &Chain, skip: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        for part in chain.writable(skip, bytes.len() as u64) {
            let end = usize::try_from(part.bytes).map_or(usize::MAX, |bytes| done + bytes);
            let written = bytes
                .get(done..end)
                .and_then(|from| self.memory.write(part.at, from));
            if written.is_none() {
                break;
            }
            done = end;
        }
        done
    }

    /// All of a chain's readable buffers behind their first `skip` bytes, at most `bytes`, copied.
    #[must_use]
    pub fn copy(&self, chain: &Chain, skip: u64, bytes: u32) -> Vec<u8> {
        let mut copy = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let count = self.read(chain, skip, &mut copy);
        copy.truncate(count);
        copy
    }

    /// Gives a chain back.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn give_back(&mut self, head: u16, length: u32) -> Result<(), Violation> {
        let (word, bit) = Self::busy_bit(head);
        if let Some(word) = self.state.busy.get_mut(word) {
            *word &= !bit;
        }
        let element = UsedElement {
            id: u32::from(head).to_le(),
            length: length.to_le(),
        };
        self.memory
            .write(self.layout.used_entry(self.state.used), element.as_bytes())
            .ok_or(Violation::Memory)?;
        self.state.used = self.state.used.wrapping_add(1);
        self.memory
            .store(self.layout.used_index(), self.state.used)
            .ok_or(Violation::Memory)
    }

    /// Whether the client is to be notified of what was given back, without noting that it was.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn is_signal_wanted(&self) -> Result<bool, Violation> {
        if self.state.used == self.state.signalled {
            return Ok(false);
        }
        // The used index is stored before the event is read; the client does the reverse.
        fence(Ordering::SeqCst);
        let event = self.load(self.layout.used_event())?;
        Ok(needs_event(event, self.state.used, self.state.signalled))
    }

    /// Whether the client wants to be notified of what was given back since this was last asked.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn is_signal_due(&mut self) -> Result<bool, Violation> {
        let is_due = self.is_signal_wanted()?;
        self.state.signalled = self.state.used;
        Ok(is_due)
    }

    /// Asks the client to notify of the next chain. What became available meanwhile must be looked for afterwards.
    ///
    /// # Errors
    /// None that a client can cause.
    pub fn arm(&self) -> Result<(), Violation> {
        self.memory
            .store(self.layout.available_event(), self.state.next_available)
            .ok_or(Violation::Memory)?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}
