//! Clients of the channel whose memory is mapped into the guest: what VMM and shim share about each.
//!
//! The guest's only virtual processor is run by the VMM's thread that also serves the clients, so one of the two works on
//! a queue at a time: the shim while the guest runs, the VMM while it does not. [`QueueState`] is handed over at each
//! entry and exit; neither needs a lock. The VMM believes nothing of it but numbers that are reduced to the queue's size.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::client::QUEUE_MAX;

/// Most clients whose memory is mapped at a time.
pub const SLOTS: usize = 32;
/// Words of [`QueueState::busy`].
pub const BUSY_WORDS: usize = QUEUE_MAX as usize / 64;

/// Where the device's side of a split queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueueState {
    /// The available index up to which chains were taken.
    pub next_available: u16,
    /// The used index.
    pub used: u16,
    /// The used index when the client was last notified, or need not be.
    pub signalled: u16,
    /// Zero.
    pub reserved: u16,
    /// A bit for each head whose chain was taken and not given back.
    pub busy: [u64; BUSY_WORDS],
}

impl Default for QueueState {
    fn default() -> Self {
        Self {
            next_available: 0,
            used: 0,
            signalled: 0,
            reserved: 0,
            busy: [0; BUSY_WORDS],
        }
    }
}

/// A mapped client, in [`crate::layout::Shared::CLIENTS`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// Requests that the shim has completed since the guest was entered; written by the shim, reset by the VMM.
    pub served: u64,
    /// Nonzero: the next chain is not for the shim, the VMM shall take it; written by the shim, reset by the VMM.
    pub is_declined: u32,
    /// Zero.
    pub reserved: u32,
    /// The queue.
    pub queue: QueueState,
}

/// Bytes of all slots.
pub const SLOTS_BYTES: u64 = (SLOTS * size_of::<Slot>()) as u64;

const _: () = assert!(size_of::<QueueState>() == 8 + 8 * BUSY_WORDS);
const _: () = assert!(SLOTS_BYTES <= 0x5000, "the slots fit their pages");

/// What an `AttachClient` request asks for, in its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Number of the slot.
    pub slot: u32,
    /// Offset of the client's memory in the client window ([`crate::layout::client_window`]); whole large pages.
    pub offset: u64,
    /// Descriptors.
    pub queue_size: u32,
    /// Bytes of the data area.
    pub data_bytes: u64,
    /// The client's own process.
    pub process: u32,
    /// The longest time that the shim may look for requests before it idles, in units of 100 ns; 0: it may not.
    pub poll_max: u64,
}

impl Attach {
    /// As the arguments of a request.
    #[must_use]
    pub const fn arguments(&self) -> [u64; 6] {
        [
            self.slot as u64,
            self.offset,
            self.queue_size as u64,
            self.data_bytes,
            self.process as u64,
            self.poll_max,
        ]
    }

    /// From the arguments of a request.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the VMM has put 32-bit numbers there"
    )]
    pub const fn from_arguments(arguments: [u64; 6]) -> Self {
        let [slot, offset, queue_size, data_bytes, process, poll_max] = arguments;
        Self {
            slot: slot as u32,
            offset,
            queue_size: queue_size as u32,
            data_bytes,
            process: process as u32,
            poll_max,
        }
    }
}
