//! The messages between Ringfence and a device model in another process, as docs/external-models.md lays them out.
//!
//! Nothing here does any I/O: bytes go in ([`Inbox`]), messages come out, and [`Dialogue`] says whether they may be sent
//! at that moment. What a model sends is hostile until it has passed both.

mod bytes;
mod dialogue;
mod from_model;
#[cfg(test)]
mod tests;
mod to_model;

pub use self::bytes::Encoded;
pub use self::dialogue::{Dialogue, Inbox};
pub use self::from_model::{FromModel, Malformed, Signal};
pub use self::to_model::{Hello, ToModel};

/// Bytes of the hellos, and of every message of version 1.
pub const MESSAGE_BYTES: usize = 16;
/// Bytes of every other message of version 2.
pub const LONG_MESSAGE_BYTES: usize = 24;
/// What both hellos have in their value: "RFDM".
pub const MAGIC: u32 = u32::from_le_bytes(*b"RFDM");
/// Bytes of the shared memory.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of the buffer between a bus master and the guest's memory.
pub const DMA_BYTES: usize = 65536;

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// Ports: accesses of at most 4 bytes, offsets of 16 bits.
    One,
    /// Memory too: accesses of at most 8 bytes, offsets of 32 bits; an eventfd for interrupts.
    Two,
}

impl Version {
    /// The highest that Ringfence speaks.
    pub const HIGHEST: Self = Self::Two;

    /// As hellos have it.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// Bytes of a message after the hellos.
    #[must_use]
    pub const fn message_bytes(self) -> usize {
        match self {
            Self::One => MESSAGE_BYTES,
            Self::Two => LONG_MESSAGE_BYTES,
        }
    }

    /// The widest access there is, in bytes.
    #[must_use]
    pub const fn width_max(self) -> u8 {
        match self {
            Self::One => 4,
            Self::Two => 8,
        }
    }

    /// The highest offset that an access can have.
    #[must_use]
    pub const fn offset_max(self) -> u32 {
        match self {
            Self::One => 0xFFFF,
            Self::Two => u32::MAX,
        }
    }
}

/// Offsets of the words in the shared memory.
pub mod page {
    /// The number of the last access, written after the words that follow.
    pub const REQUEST_NUMBER: usize = 0x00;
    /// Kind (as in a message) in bits 0-7, width in 8-15; in version 1, offset in 16-31.
    pub const REQUEST: usize = 0x04;
    /// The value to write; in version 2 its low half.
    pub const REQUEST_VALUE: usize = 0x08;
    /// Not 0: Ringfence looks at the answer's number by itself and wants no doorbell.
    pub const RINGFENCE_POLLS: usize = 0x0C;
    /// Version 2: the offset.
    pub const REQUEST_OFFSET: usize = 0x10;
    /// Version 2: the value's high half.
    pub const REQUEST_VALUE_HIGH: usize = 0x14;
    /// The number of the last answer, written after its value.
    pub const ANSWER_NUMBER: usize = 0x40;
    /// What was read; in version 2 its low half.
    pub const ANSWER_VALUE: usize = 0x44;
    /// Not 0: the model looks at the request's number by itself and wants no doorbell.
    pub const MODEL_POLLS: usize = 0x48;
    /// Version 2: the high half of what was read.
    pub const ANSWER_VALUE_HIGH: usize = 0x4C;
}

const HELLO: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE: u8 = 0x03;
const RESET: u8 = 0x04;
const DOORBELL: u8 = 0x05;
const GOODBYE: u8 = 0x06;
const RANGE: u8 = 0x07;
const DMA_DONE: u8 = 0x08;
/// What a message of the model's has in its kind besides.
const FROM_MODEL: u8 = 0x80;
const MODEL_HELLO: u8 = FROM_MODEL | HELLO;
const DONE: u8 = FROM_MODEL | 0x02;
const ASSERT: u8 = FROM_MODEL | 0x03;
const DEASSERT: u8 = FROM_MODEL | 0x04;
const MODEL_DOORBELL: u8 = FROM_MODEL | DOORBELL;
const MODEL_GOODBYE: u8 = FROM_MODEL | GOODBYE;
const PULSE: u8 = FROM_MODEL | 0x07;
const DMA: u8 = FROM_MODEL | 0x08;

/// Where a model is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelRange {
    /// The first port or physical address. Of a PCI function's BAR: where it is at the start, 0 for nowhere.
    pub first: u64,
    /// How many ports or bytes, at least 1.
    pub bytes: u64,
    /// Whether it is memory.
    pub is_memory: bool,
}

impl ModelRange {
    /// Ports.
    #[must_use]
    pub const fn ports(first: u16, count: u32) -> Self {
        Self {
            first: first as u64,
            bytes: count as u64,
            is_memory: false,
        }
    }
}

/// One access of the driver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// From the first port or byte of the model's range.
    pub offset: u32,
    /// Bytes: 1, 2, 4 or 8.
    pub bytes: u8,
    /// The value to write; `None` reads.
    pub write: Option<u64>,
}

impl Access {
    /// [`page::REQUEST`].
    #[must_use]
    pub fn word(self, version: Version) -> u32 {
        let [first, last, ..] = match version {
            Version::One => self.offset.to_le_bytes(),
            Version::Two => [0; 4],
        };
        u32::from_le_bytes([self.kind(), self.bytes, first, last])
    }

    const fn kind(self) -> u8 {
        match self.write {
            Some(_) => WRITE,
            None => READ,
        }
    }
}

/// A transfer between the buffer and the guest's memory, as a bus master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Whatever the model calls it by.
    pub number: u32,
    /// The guest-physical address.
    pub address: u64,
    /// Bytes, 1 to [`DMA_BYTES`].
    pub bytes: u32,
    /// Where they are in the buffer, all of them.
    pub buffer_offset: u32,
    /// Whether they go to the guest's memory.
    pub is_write: bool,
}

/// What has become of a [`Transfer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferEnd {
    /// It is done.
    Done,
    /// Not all of it is memory for devices; nothing was moved.
    NoMemory,
    /// The PCI function's bus master bit is not set; nothing was moved.
    NoMaster,
}

impl TransferEnd {
    const fn number(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::NoMemory => 1,
            Self::NoMaster => 2,
        }
    }
}
