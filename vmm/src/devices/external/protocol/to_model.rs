//! What Ringfence says to a model.

use super::bytes::{Encoded, Fields, hello};
use super::{
    Access, DMA_DONE, DOORBELL, GOODBYE, HELLO, ModelRange, RANGE, RESET, TransferEnd, Version,
};

const FLAG_LINE: u16 = 1 << 0;
const FLAG_PAGE: u16 = 1 << 1;
const FLAG_AGAIN: u16 = 1 << 2;
const FLAG_MEMORY: u16 = 1 << 3;
const FLAG_DMA: u16 = 1 << 4;

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
