//! Messages as bytes.

use super::{LONG_MESSAGE_BYTES, MAGIC, MESSAGE_BYTES, Version};

/// A message's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoded {
    bytes: [u8; LONG_MESSAGE_BYTES],
    length: usize,
}

impl std::ops::Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The fields of messages; what a version has no room for is cut off.
#[derive(Clone, Copy, Default)]
pub(super) struct Fields {
    pub(super) kind: u8,
    pub(super) width: u8,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) value: u64,
    pub(super) number: u32,
}

impl Fields {
    /// Version 1: kind, width, offset, value, number, a word of zeros.
    fn short(self) -> Encoded {
        let mut bytes = [0; LONG_MESSAGE_BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.width;
        bytes[2..4].copy_from_slice(&self.offset.to_le_bytes()[..2]);
        bytes[4..8].copy_from_slice(&self.value.to_le_bytes()[..4]);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        Encoded {
            bytes,
            length: MESSAGE_BYTES,
        }
    }

    /// Version 2: kind, width, flags, number, offset, value.
    fn long(self) -> Encoded {
        let mut bytes = [0; LONG_MESSAGE_BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.width;
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.value.to_le_bytes());
        Encoded {
            bytes,
            length: LONG_MESSAGE_BYTES,
        }
    }

    pub(super) fn encode(self, version: Version) -> Encoded {
        match version {
            Version::One => self.short(),
            Version::Two => self.long(),
        }
    }
}

/// A hello of either side: 16 bytes in every version.
pub(super) fn hello(kind: u8, width: u8, version: Version, number: u32, extra: u32) -> Encoded {
    let mut message = Fields {
        kind,
        width,
        offset: version.number().into(),
        value: MAGIC.into(),
        number,
        ..Fields::default()
    }
    .short();
    message.bytes[12..16].copy_from_slice(&extra.to_le_bytes());
    message
}
