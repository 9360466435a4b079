//! The messages between Ringfence and a device model in another process, as docs/external-models.md lays them out.
//!
//! Nothing here does any I/O: bytes go in ([`Inbox`]), messages come out, and [`Dialogue`] says whether they may be sent
//! at that moment. What a model sends is hostile until it has passed both.

use crate::ports::Width;

/// Bytes of every message, in both directions.
pub const MESSAGE_BYTES: usize = 16;
/// The protocol's version.
pub const VERSION: u16 = 1;
/// What both hellos have in their value: "RFDM".
pub const MAGIC: u32 = u32::from_le_bytes(*b"RFDM");
/// Bytes of the shared memory.
pub const PAGE_BYTES: usize = 4096;

/// Offsets of the words in the shared memory.
pub mod page {
    /// The number of the last access, written after the two words that follow.
    pub const REQUEST_NUMBER: usize = 0x00;
    /// Kind (as in a message) in bits 0-7, width in 8-15, offset in 16-31.
    pub const REQUEST: usize = 0x04;
    /// The value to write.
    pub const REQUEST_VALUE: usize = 0x08;
    /// Not 0: Ringfence looks at the answer's number by itself and wants no doorbell.
    pub const RINGFENCE_POLLS: usize = 0x0C;
    /// The number of the last answer, written after its value.
    pub const ANSWER_NUMBER: usize = 0x40;
    /// What was read.
    pub const ANSWER_VALUE: usize = 0x44;
    /// Not 0: the model looks at the request's number by itself and wants no doorbell.
    pub const MODEL_POLLS: usize = 0x48;
}

const HELLO: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE: u8 = 0x03;
const RESET: u8 = 0x04;
const DOORBELL: u8 = 0x05;
const GOODBYE: u8 = 0x06;
/// What a message of the model's has in its kind besides.
const FROM_MODEL: u8 = 0x80;
const MODEL_HELLO: u8 = FROM_MODEL | HELLO;
const DONE: u8 = FROM_MODEL | 0x02;
const ASSERT: u8 = FROM_MODEL | 0x03;
const DEASSERT: u8 = FROM_MODEL | 0x04;
const MODEL_DOORBELL: u8 = FROM_MODEL | DOORBELL;
const MODEL_GOODBYE: u8 = FROM_MODEL | GOODBYE;
const PULSE: u8 = FROM_MODEL | 0x07;

const FLAG_LINE: u16 = 1 << 0;
const FLAG_MEMORY: u16 = 1 << 1;
const FLAG_AGAIN: u16 = 1 << 2;
const MODEL_FLAG_MEMORY: u32 = 1 << 0;

/// One access of the driver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// From the first port of the rule's range.
    pub offset: u16,
    /// Its width.
    pub width: Width,
    /// The value to write; `None` reads.
    pub write: Option<u32>,
}

impl Access {
    /// [`page::REQUEST`].
    #[must_use]
    pub fn word(self) -> u32 {
        let [first, last] = self.offset.to_le_bytes();
        u32::from_le_bytes([self.kind(), width_byte(self.width), first, last])
    }

    const fn kind(self) -> u8 {
        match self.write {
            Some(_) => WRITE,
            None => READ,
        }
    }
}

fn width_byte(width: Width) -> u8 {
    match width {
        Width::Byte => 1,
        Width::Word => 2,
        Width::Dword => 4,
    }
}

/// What Ringfence says at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The first port of the rule's range.
    pub first: u16,
    /// How many there are, 1 to 65536.
    pub ports: u32,
    /// Whether the rule has an interrupt line.
    pub has_line: bool,
    /// Whether the message comes with shared memory.
    pub has_memory: bool,
    /// Whether the run had a connection before this one.
    pub is_again: bool,
}

/// A message of Ringfence's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToModel {
    /// The first one.
    Hello(Hello),
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
    /// The run ends.
    Goodbye,
}

impl ToModel {
    /// As it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; MESSAGE_BYTES] {
        match self {
            Self::Hello(hello) => {
                let flags = [
                    (hello.has_line, FLAG_LINE),
                    (hello.has_memory, FLAG_MEMORY),
                    (hello.is_again, FLAG_AGAIN),
                ];
                let flags = flags
                    .into_iter()
                    .filter(|(is_set, _)| *is_set)
                    .fold(0, |all, (_, flag)| all | flag);
                let extra = u32::from(hello.first) | u32::from(flags) << 16;
                message(HELLO, 0, VERSION, MAGIC, hello.ports, extra)
            }
            Self::Access { number, access } => message(
                access.kind(),
                width_byte(access.width),
                access.offset,
                access.write.unwrap_or(0),
                number,
                0,
            ),
            Self::Reset => message(RESET, 0, 0, 0, 0, 0),
            Self::Doorbell => message(DOORBELL, 0, 0, 0, 0, 0),
            Self::Goodbye => message(GOODBYE, 0, 0, 0, 0, 0),
        }
    }
}

fn message(
    kind: u8,
    width: u8,
    offset: u16,
    value: u32,
    number: u32,
    extra: u32,
) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    bytes[0] = kind;
    bytes[1] = width;
    bytes[2..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..8].copy_from_slice(&value.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..].copy_from_slice(&extra.to_le_bytes());
    bytes
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
        /// The widest access that it takes as one.
        width: Width,
        /// Whether accesses are to come by the shared memory.
        takes_memory: bool,
    },
    /// An access was carried out.
    Done {
        /// The access's number.
        number: u32,
        /// What was read; of no meaning for a write.
        value: u32,
    },
    /// The interrupt line.
    Signal(Signal),
    /// There is an answer in the shared memory.
    Doorbell,
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
    #[error("a hello of version {0} of the protocol; this is version {VERSION}")]
    Version(u16),
    /// The hello has a width that there is not.
    #[error("a hello with {0} as its widest access; it is 1, 2 or 4")]
    Width(u8),
    /// The hello asks for memory that it was not given.
    #[error("a hello that asks for shared memory, which there is not")]
    Memory,
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
    /// From what was received.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: [u8; MESSAGE_BYTES]) -> Result<Self, Malformed> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let kind = bytes[0];
        let (width, offset) = (bytes[1], u16::from_le_bytes([bytes[2], bytes[3]]));
        let (value, number, extra) = (word(4), word(8), word(12));
        let empty = |message| {
            let is_empty = bytes[1..].iter().all(|byte| *byte == 0);
            if is_empty {
                Ok(message)
            } else {
                Err(Malformed::Field(kind))
            }
        };
        match kind {
            MODEL_HELLO => {
                if value != MAGIC {
                    return Err(Malformed::Magic);
                }
                if offset != VERSION {
                    return Err(Malformed::Version(offset));
                }
                if number & !MODEL_FLAG_MEMORY != 0 || extra != 0 {
                    return Err(Malformed::Field(kind));
                }
                Ok(Self::Hello {
                    width: Width::from_bytes(width).ok_or(Malformed::Width(width))?,
                    takes_memory: number & MODEL_FLAG_MEMORY != 0,
                })
            }
            DONE if width != 0 || offset != 0 || extra != 0 => Err(Malformed::Field(kind)),
            DONE => Ok(Self::Done { number, value }),
            ASSERT => empty(Self::Signal(Signal::Assert)),
            DEASSERT => empty(Self::Signal(Signal::Deassert)),
            PULSE => empty(Self::Signal(Signal::Pulse)),
            MODEL_DOORBELL => empty(Self::Doorbell),
            MODEL_GOODBYE => empty(Self::Goodbye),
            _ => Err(Malformed::Kind(kind)),
        }
    }

    /// As a model sends it.
    #[must_use]
    pub fn encode(self) -> [u8; MESSAGE_BYTES] {
        let empty = |kind| message(kind, 0, 0, 0, 0, 0);
        match self {
            Self::Hello {
                width,
                takes_memory,
            } => message(
                MODEL_HELLO,
                width_byte(width),
                VERSION,
                MAGIC,
                u32::from(takes_memory),
                0,
            ),
            Self::Done { number, value } => message(DONE, 0, 0, value, number, 0),
            Self::Signal(Signal::Assert) => empty(ASSERT),
            Self::Signal(Signal::Deassert) => empty(DEASSERT),
            Self::Signal(Signal::Pulse) => empty(PULSE),
            Self::Doorbell => empty(MODEL_DOORBELL),
            Self::Goodbye => empty(MODEL_GOODBYE),
        }
    }
}

/// Bytes as they come, cut into messages. It holds a few hundred at most.
#[derive(Clone, Debug)]
pub struct Inbox {
    bytes: [u8; 32 * MESSAGE_BYTES],
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: [0; 32 * MESSAGE_BYTES],
            start: 0,
            end: 0,
        }
    }
}

impl Inbox {
    /// Where the next bytes are to be put. It is not empty once [`Iterator::next`] has returned `None`.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were put into [`Self::room`].
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }

    /// The next message; `None` if not all of it is there.
    pub fn next_message(&mut self) -> Option<Result<FromModel, Malformed>> {
        let message = self.bytes[self.start..self.end].first_chunk()?;
        self.start += MESSAGE_BYTES;
        Some(FromModel::decode(*message))
    }
}

/// What Ringfence waits for, hence what a model may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialogue {
    has_memory: bool,
    is_open: bool,
    awaited: Option<u32>,
}

impl Dialogue {
    /// Before the model's hello.
    #[must_use]
    pub const fn new(has_memory: bool) -> Self {
        Self {
            has_memory,
            is_open: false,
            awaited: None,
        }
    }

    /// An access with this number was sent as a message.
    pub fn expect(&mut self, number: u32) {
        self.awaited = Some(number);
    }

    /// Whether a message may come now.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn judge(&mut self, message: FromModel) -> Result<FromModel, Malformed> {
        match message {
            FromModel::Hello { takes_memory, .. } => {
                if self.is_open {
                    return Err(Malformed::SecondHello);
                }
                if takes_memory && !self.has_memory {
                    return Err(Malformed::Memory);
                }
                self.is_open = true;
            }
            other if !self.is_open => return Err(Malformed::BeforeHello(other.encode()[0])),
            FromModel::Done { number, .. } => {
                if self.awaited != Some(number) {
                    return Err(Malformed::Answer(number));
                }
                self.awaited = None;
            }
            FromModel::Signal(_) | FromModel::Doorbell | FromModel::Goodbye => {}
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> Vec<FromModel> {
        vec![
            FromModel::Hello {
                width: Width::Word,
                takes_memory: true,
            },
            FromModel::Done {
                number: 0x0102_0304,
                value: 0xA0B0_C0D0,
            },
            FromModel::Signal(Signal::Assert),
            FromModel::Signal(Signal::Deassert),
            FromModel::Signal(Signal::Pulse),
            FromModel::Doorbell,
            FromModel::Goodbye,
        ]
    }

    #[test]
    fn messages_have_the_documented_bytes() {
        let hello = ToModel::Hello(Hello {
            first: 0x0300,
            ports: 8,
            has_line: true,
            has_memory: true,
            is_again: false,
        });
        assert_eq!(
            hello.encode(),
            *b"\x01\0\x01\0RFDM\x08\0\0\0\x00\x03\x03\x00"
        );
        let access = |write| Access {
            offset: 0x0201,
            width: Width::Dword,
            write,
        };
        let read = ToModel::Access {
            number: 7,
            access: access(None),
        };
        assert_eq!(
            read.encode(),
            *b"\x02\x04\x01\x02\0\0\0\0\x07\0\0\0\0\0\0\0"
        );
        let write = ToModel::Access {
            number: 7,
            access: access(Some(0x1234_5678)),
        };
        assert_eq!(
            write.encode(),
            *b"\x03\x04\x01\x02\x78\x56\x34\x12\x07\0\0\0\0\0\0\0"
        );
        assert_eq!(access(None).word(), 0x0201_0402);
        assert_eq!(
            messages()[0].encode(),
            *b"\x81\x02\x01\0RFDM\x01\0\0\0\0\0\0\0"
        );
        for message in messages() {
            assert_eq!(FromModel::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn fields_that_a_message_does_not_have_are_zero() {
        for message in messages() {
            let bytes = message.encode();
            for at in 1..MESSAGE_BYTES {
                let mut changed = bytes;
                changed[at] ^= 0x40;
                if let Ok(other) = FromModel::decode(changed) {
                    // Value and number of an answer are any.
                    assert!(matches!(other, FromModel::Done { .. }), "{changed:x?}");
                    assert_eq!(other.encode(), changed);
                }
            }
        }
    }

    #[test]
    fn dialogue_begins_with_a_hello_and_answers_what_was_asked() {
        let hello = |takes_memory| FromModel::Hello {
            width: Width::Byte,
            takes_memory,
        };
        let done = |number| FromModel::Done { number, value: 0 };
        let mut dialogue = Dialogue::new(false);
        assert_eq!(
            dialogue.judge(FromModel::Goodbye),
            Err(Malformed::BeforeHello(0x86))
        );
        assert_eq!(dialogue.judge(hello(true)), Err(Malformed::Memory));
        assert_eq!(dialogue.judge(hello(false)), Ok(hello(false)));
        assert_eq!(dialogue.judge(hello(false)), Err(Malformed::SecondHello));
        assert_eq!(dialogue.judge(done(0)), Err(Malformed::Answer(0)));
        dialogue.expect(5);
        assert_eq!(dialogue.judge(done(4)), Err(Malformed::Answer(4)));
        assert_eq!(dialogue.judge(done(5)), Ok(done(5)));
        assert_eq!(dialogue.judge(done(5)), Err(Malformed::Answer(5)));
    }

    proptest! {
        #[test]
        fn bytes_in_any_pieces_are_the_same_messages(
            choice in prop::collection::vec(0_usize..7, 0..100),
            pieces in prop::collection::vec(1_usize..600, 1..200),
        ) {
            let all = messages();
            let sent: Vec<FromModel> = choice.iter().map(|at| all[*at]).collect();
            let mut bytes: Vec<u8> = sent.iter().flat_map(|one| one.encode()).collect();
            let mut inbox = Inbox::default();
            let mut received = Vec::new();
            for piece in pieces.iter().cycle() {
                let room = inbox.room();
                let count = (*piece).min(room.len()).min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                bytes.drain(..count);
                inbox.filled(count);
                while let Some(message) = inbox.next_message() {
                    received.push(message.unwrap());
                }
                if bytes.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, sent);
        }
    }
}
