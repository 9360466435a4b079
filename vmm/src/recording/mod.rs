//! Recordings: every access of a driver to hardware, kept in a file and shown in other forms.
//!
//! `ringfence run --record FILE` writes one ([`Recorder`]), `ringfence trace FILE` reads it ([`Recording`]), picks
//! accesses ([`Filter`]) and writes them as text, JSON lines, VCD, Chrome trace events or a page for a browser
//! ([`export`]). `ringfence policy learn` makes a policy of one ([`crate::learn`]).
//!
//! The file's form is in [`mod@format`]; it is read as hostile input, for it may come from anywhere.

pub mod export;
mod filter;
mod format;
mod reader;
mod recorder;
#[cfg(test)]
pub(crate) mod tests_support;
mod writer;

pub use export::{Form, Signal, SignalError};
pub use filter::{Filter, FilterError, PortRange, parse_time};
pub use reader::{End, ReadError, Recording};
pub use recorder::{Keep, Recorder, RecorderError};

use crate::observe::ports::Direction;

/// What was accessed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Space {
    /// An I/O port.
    Port,
    /// A range of physical memory, when it was mapped; the accesses to the mapping itself cost no exit and leave no
    /// record.
    Memory,
    /// A model-specific register of the processor.
    Msr,
    /// Physical memory that a device is behind: a load or a store.
    DeviceMemory,
}

impl Space {
    /// As written in every form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Memory => "memory",
            Self::Msr => "msr",
            Self::DeviceMemory => "device-memory",
        }
    }
}

/// One access.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Nanoseconds since the guest's boot.
    pub time_ns: u64,
    /// What was accessed.
    pub space: Space,
    /// Read or write; of a mapping whether it was asked for writing.
    pub direction: Direction,
    /// Bytes: 1, 2 or 4 for a port, 1 to 8 for device memory, 8 for an MSR; of a mapping its length.
    pub bytes: u64,
    /// First port, physical address, or the MSR's number.
    pub address: u64,
    /// The value read or written; 0 for a mapping.
    pub value: u64,
    /// Guest-virtual address of the instruction, or of the driver's call that led to it.
    pub rip: u64,
    /// Whether a back end got it.
    pub is_allowed: bool,
    /// The back end's name, an index into [`Recording::backends`].
    pub backend: u8,
    /// Line of the policy's rule; 0: none.
    pub rule_line: u32,
}

impl Access {
    /// The byte of the value that belongs to a port; `None` if the access does not cover it.
    #[must_use]
    pub fn byte_at(&self, port: u16) -> Option<u8> {
        let lane = u64::from(port).checked_sub(self.address)?;
        if self.space != Space::Port || lane >= self.bytes {
            return None;
        }
        let lane = usize::try_from(lane).ok()?;
        self.value.to_le_bytes().get(lane).copied()
    }

    /// How many addresses it covers, at least 1.
    #[must_use]
    pub fn extent(&self) -> u64 {
        match self.space {
            Space::Msr => 1,
            Space::Port | Space::Memory | Space::DeviceMemory => self.bytes.max(1),
        }
    }

    /// Whether it covers any of these ports or addresses, both ends included.
    #[must_use]
    pub fn touches(&self, first: u64, last: u64) -> bool {
        let end = self.address.saturating_add(self.extent() - 1);
        self.address <= last && end >= first
    }
}
