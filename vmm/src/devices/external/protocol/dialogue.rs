//! What comes from a model: bytes, messages, and whether they may come now.

use super::{FromModel, LONG_MESSAGE_BYTES, Malformed, Version};

/// Bytes as they come, cut into messages. It holds a few hundred at most.
#[derive(Clone, Debug)]
pub struct Inbox {
    bytes: [u8; 32 * LONG_MESSAGE_BYTES],
    start: usize,
    end: usize,
    version: Version,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: [0; 32 * LONG_MESSAGE_BYTES],
            start: 0,
            end: 0,
            // Hellos have its form.
            version: Version::One,
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

    /// The version of all messages that come after those that were taken.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The next message; `None` if not all of it is there.
    pub fn next_message(&mut self) -> Option<Result<FromModel, Malformed>> {
        let end = self.start + self.version.message_bytes();
        let message = self.bytes[..self.end].get(self.start..end)?;
        self.start = end;
        Some(FromModel::decode(message, self.version))
    }
}

/// What Ringfence waits for, hence what a model may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialogue {
    has_page: bool,
    has_dma: bool,
    is_open: bool,
    awaited: Option<u32>,
}

impl Dialogue {
    /// Before the model's hello.
    #[must_use]
    pub const fn new(has_page: bool) -> Self {
        Self {
            has_page,
            has_dma: false,
            is_open: false,
            awaited: None,
        }
    }

    /// As [`Self::new`], for a model that may be a bus master.
    #[must_use]
    pub const fn with_dma(self, has_dma: bool) -> Self {
        Self { has_dma, ..self }
    }

    /// Whether the model's hello has come.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open
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
            FromModel::Hello { takes_page, .. } => {
                if self.is_open {
                    return Err(Malformed::SecondHello);
                }
                if takes_page && !self.has_page {
                    return Err(Malformed::Memory);
                }
                self.is_open = true;
            }
            other if !self.is_open => {
                return Err(Malformed::BeforeHello(other.encode(Version::One)[0]));
            }
            FromModel::Done { number, .. } => {
                if self.awaited != Some(number) {
                    return Err(Malformed::Answer(number));
                }
                self.awaited = None;
            }
            FromModel::Dma(_) if !self.has_dma => return Err(Malformed::NoDma),
            FromModel::Dma(_) | FromModel::Signal(_) | FromModel::Doorbell | FromModel::Goodbye => {
            }
        }
        Ok(message)
    }
}
