//! The messages between Ringfence and a device model in another process, as docs/external-models.md lays them out.
//!
//! Nothing here does any I/O: bytes go in ([`Inbox`]), messages come out, and [`Dialogue`] says whether they may be sent
//! at that moment. What a model sends is hostile until it has passed both.

mod bytes;
mod dialogue;

pub use self::bytes::Encoded;
use self::bytes::{Fields, hello};
pub use self::dialogue::{Dialogue, Inbox};

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

const FLAG_LINE: u16 = 1 << 0;
const FLAG_PAGE: u16 = 1 << 1;
const FLAG_AGAIN: u16 = 1 << 2;
const FLAG_MEMORY: u16 = 1 << 3;
const FLAG_DMA: u16 = 1 << 4;
/// Of [`DMA`]: to the guest's memory.
const DMA_FLAG_WRITE: u16 = 1 << 0;
const MODEL_FLAG_PAGE: u32 = 1 << 0;
const MODEL_FLAG_EVENT: u32 = 1 << 1;

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

/// What Ringfence says at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Where the model is.
    pub range: ModelRange,
    /// Whether the rule has an interrupt line.
    pub has_line: bool,
    /// Whether the message comes with shared memory.
    pub has_page: bool,
    /// Whether the run had a connection before this one.
    pub is_again: bool,
    /// Whether the model may be a bus master; a buffer comes with the message, after the shared memory.
    pub has_dma: bool,
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

/// A message of Ringfence's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToModel {
    /// The first one.
    Hello(Hello),
    /// Version 2, after the hellos: where the model is, in full.
    Range(ModelRange),
    /// An access, which is to be answered.
    Access {
        /// Which one it is, for the answer.
        number: u32,
        /// What is accessed.
        access: Access,
    },
    /// The device is to be as after power on.
    Reset,
    /// There is an access in the shared memory.
    Doorbell,
    /// A transfer is over.
    DmaDone {
        /// The model's number for it.
        number: u32,
        /// What has become of it.
        end: TransferEnd,
    },
    /// The run ends.
    Goodbye,
}

impl ToModel {
    /// As it is sent.
    #[must_use]
    pub fn encode(self, version: Version) -> Encoded {
        let plain = |kind| Fields {
            kind,
            ..Fields::default()
        };
        let fields = match self {
            Self::Hello(said) => {
                let flags = [
                    (said.has_line, FLAG_LINE),
                    (said.has_page, FLAG_PAGE),
                    (said.is_again, FLAG_AGAIN),
                    (said.range.is_memory, FLAG_MEMORY),
                    (said.has_dma, FLAG_DMA),
                ];
                let flags = flags
                    .into_iter()
                    .filter(|(is_set, _)| *is_set)
                    .fold(0, |all, (_, flag)| all | flag);
                let [low, high, ..] = said.range.first.to_le_bytes();
                let extra = u32::from(u16::from_le_bytes([low, high])) | u32::from(flags) << 16;
                // What version 1 can say.
                let ports = u32::try_from(said.range.bytes.min(0x1_0000)).unwrap_or(0x1_0000);
                return hello(HELLO, 0, Version::HIGHEST, ports, extra);
            }
            Self::Range(range) => Fields {
                flags: u16::from(range.is_memory),
                offset: range.first,
                value: range.bytes,
                ..plain(RANGE)
            },
            Self::Access { number, access } => Fields {
                width: access.bytes,
                offset: access.offset.into(),
                value: access.write.unwrap_or(0),
                number,
                ..plain(access.kind())
            },
            Self::Reset => plain(RESET),
            Self::Doorbell => plain(DOORBELL),
            Self::DmaDone { number, end } => Fields {
                value: end.number(),
                number,
                ..plain(DMA_DONE)
            },
            Self::Goodbye => plain(GOODBYE),
        };
        fields.encode(version)
    }
}

/// What a model does to its interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Active until [`Signal::Deassert`].
    Assert,
    /// Inactive.
    Deassert,
    /// One edge.
    Pulse,
}

/// A message of the model's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromModel {
    /// The first one.
    Hello {
        /// The version that it will use.
        version: Version,
        /// The widest access that it takes as one, in bytes: 1, 2, 4, or in version 2 also 8.
        width: u8,
        /// Whether accesses are to come by the shared memory.
        takes_page: bool,
        /// Whether an eventfd comes with this message.
        has_event: bool,
    },
    /// An access was carried out.
    Done {
        /// The access's number.
        number: u32,
        /// What was read; of no meaning for a write.
        value: u64,
    },
    /// The interrupt line.
    Signal(Signal),
    /// There is an answer in the shared memory.
    Doorbell,
    /// Version 2: the guest's memory is to be read or written.
    Dma(Transfer),
    /// The model leaves.
    Goodbye,
}

/// Bytes that no model may send, or not now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// There is no such message.
    #[error("a message of kind {0:#04x}, which there is not")]
    Kind(u8),
    /// A field that the message does not have is not 0.
    #[error("a message of kind {0:#04x} with something in a field that has to be 0")]
    Field(u8),
    /// The hello is none.
    #[error("a hello without the protocol's mark")]
    Magic,
    /// The hello is of another version.
    #[error("a hello of version {0} of the protocol; this is version 1 or 2")]
    Version(u16),
    /// The hello has a width that there is not.
    #[error("a hello with {0} as its widest access; it is 1, 2 or 4, or 8 in version 2")]
    Width(u8),
    /// The hello's eventfd has not come, or is none.
    #[error("a hello that comes with no eventfd, although it says so")]
    Event,
    /// The hello asks for memory that it was not given.
    #[error("a hello that asks for shared memory, which there is not")]
    Memory,
    /// A transfer that is not in the buffer.
    #[error("a transfer that is empty, or does not lie in the buffer")]
    Buffer,
    /// A transfer that the rule does not allow.
    #[error("a transfer, although its rule has no `dma = true`")]
    NoDma,
    /// Not a hello, before it.
    #[error("a message of kind {0:#04x} before its hello")]
    BeforeHello(u8),
    /// A second hello.
    #[error("a second hello")]
    SecondHello,
    /// An answer that nothing was asked for.
    #[error("an answer with number {0}, which is not awaited")]
    Answer(u32),
}

impl FromModel {
    /// From what was received. Hellos have the same form in all versions; whether one may come now is for [`Dialogue`].
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: &[u8], version: Version) -> Result<Self, Malformed> {
        let kind = bytes.first().copied().unwrap_or(0);
        let number = |at: usize, length: usize| {
            let mut word = [0; 8];
            for (byte, from) in word[..length].iter_mut().zip(bytes.iter().skip(at)) {
                *byte = *from;
            }
            u64::from_le_bytes(word)
        };
        let is_empty = |range: std::ops::Range<usize>| {
            bytes
                .get(range)
                .is_some_and(|part| part.iter().all(|byte| *byte == 0))
        };
        let field = Malformed::Field(kind);
        let length = version.message_bytes();
        match (kind, version) {
            (MODEL_HELLO, _) => {
                if number(4, 4) != u64::from(MAGIC) {
                    return Err(Malformed::Magic);
                }
                let [low, high, ..] = number(2, 2).to_le_bytes();
                let said = u16::from_le_bytes([low, high]);
                let version = Version::from_number(said).ok_or(Malformed::Version(said))?;
                let [flags, ..] = number(8, 4).to_le_bytes();
                let known = match version {
                    Version::One => MODEL_FLAG_PAGE,
                    Version::Two => MODEL_FLAG_PAGE | MODEL_FLAG_EVENT,
                };
                let flags = u32::from(flags);
                if !is_empty(9..bytes.len()) || flags & !known != 0 {
                    return Err(field);
                }
                let width = bytes.get(1).copied().unwrap_or(0);
                if !width.is_power_of_two() || width > version.width_max() {
                    return Err(Malformed::Width(width));
                }
                Ok(Self::Hello {
                    version,
                    width,
                    takes_page: flags & MODEL_FLAG_PAGE != 0,
                    has_event: flags & MODEL_FLAG_EVENT != 0,
                })
            }
            (DONE, Version::One) if is_empty(1..4) && is_empty(12..length) => Ok(Self::Done {
                number: u32::try_from(number(8, 4)).unwrap_or(0),
                value: number(4, 4),
            }),
            (DONE, Version::Two) if is_empty(1..4) && is_empty(8..16) => Ok(Self::Done {
                number: u32::try_from(number(4, 4)).unwrap_or(0),
                value: number(16, 8),
            }),
            (DONE, _) => Err(field),
            (DMA, Version::Two) => {
                let [flags, rest] = [number(2, 1), number(3, 1)];
                if !is_empty(1..2) || flags & !u64::from(DMA_FLAG_WRITE) != 0 || rest != 0 {
                    return Err(field);
                }
                let word = |at| u32::try_from(number(at, 4)).unwrap_or(u32::MAX);
                let (bytes, buffer_offset) = (word(16), word(20));
                let end = number(16, 4) + number(20, 4);
                if bytes == 0 || end > DMA_BYTES as u64 {
                    return Err(Malformed::Buffer);
                }
                Ok(Self::Dma(Transfer {
                    number: word(4),
                    address: number(8, 8),
                    bytes,
                    buffer_offset,
                    is_write: flags != 0,
                }))
            }
            (ASSERT | DEASSERT | PULSE | MODEL_DOORBELL | MODEL_GOODBYE, _) => {
                if !is_empty(1..length) {
                    return Err(field);
                }
                Ok(match kind {
                    ASSERT => Self::Signal(Signal::Assert),
                    DEASSERT => Self::Signal(Signal::Deassert),
                    PULSE => Self::Signal(Signal::Pulse),
                    MODEL_DOORBELL => Self::Doorbell,
                    _ => Self::Goodbye,
                })
            }
            _ => Err(Malformed::Kind(kind)),
        }
    }

    /// As a model sends it.
    #[must_use]
    pub fn encode(self, version: Version) -> Encoded {
        let plain = |kind| Fields {
            kind,
            ..Fields::default()
        };
        let fields = match self {
            Self::Hello {
                version,
                width,
                takes_page,
                has_event,
            } => {
                let flags = u32::from(takes_page) | u32::from(has_event) << 1;
                return hello(MODEL_HELLO, width, version, flags, 0);
            }
            Self::Done { number, value } => Fields {
                value,
                number,
                ..plain(DONE)
            },
            Self::Signal(Signal::Assert) => plain(ASSERT),
            Self::Signal(Signal::Deassert) => plain(DEASSERT),
            Self::Signal(Signal::Pulse) => plain(PULSE),
            Self::Doorbell => plain(MODEL_DOORBELL),
            Self::Dma(transfer) => Fields {
                flags: if transfer.is_write { DMA_FLAG_WRITE } else { 0 },
                offset: transfer.address,
                value: u64::from(transfer.bytes) | u64::from(transfer.buffer_offset) << 32,
                number: transfer.number,
                ..plain(DMA)
            },
            Self::Goodbye => plain(MODEL_GOODBYE),
        };
        fields.encode(version)
    }
}

#[cfg(test)]
mod tests;
