//! What a model says, and the bytes that are no message of its.

use super::bytes::{Encoded, Fields, hello};
use super::{
    ASSERT, DEASSERT, DMA, DMA_BYTES, DONE, MAGIC, MODEL_DOORBELL, MODEL_GOODBYE, MODEL_HELLO,
    PULSE, Transfer, Version,
};

/// Of [`DMA`]: to the guest's memory.
const DMA_FLAG_WRITE: u16 = 1 << 0;
const MODEL_FLAG_PAGE: u32 = 1 << 0;
const MODEL_FLAG_EVENT: u32 = 1 << 1;

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
    /// From what was received. Hellos have the same form in all versions; whether one may come now is for
    /// [`super::Dialogue`].
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
