//! Whether there is memory for a client and for what it asks (`--max-memory`).

use super::command::{Action, Command};
use super::interpreter::Outcome;
use super::protocol::REQUEST_MAX;
use crate::launch::memory::{Budget, MemoryBudget, Share};
use abi::client::Hello;

/// A client's thread: its stack, and what it allocates for itself.
const THREAD_BYTES: u64 = CLIENT_STACK as u64 + (512 << 10);
/// Stack of a client's thread.
pub(super) const CLIENT_STACK: usize = 512 << 10;
/// A client's line, as bytes and as a request.
const TEXT_BYTES: u64 = 2 * REQUEST_MAX as u64;
/// What a byte of a transfer takes, as data, as digits, as a dump, and as a reply that has both.
const BYTES_EACH: u64 = 24;
/// Descriptors and rings, for each descriptor.
const DESCRIPTOR_BYTES: u64 = 64;

/// Admits clients and what they ask; everything without a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Option<MemoryBudget>);

/// There is no room.
#[derive(Debug)]
pub(super) struct Refused(u64);

impl Refused {
    pub(super) fn outcome(&self) -> Outcome {
        let kibibytes = self.0.div_ceil(1 << 10);
        Outcome::refused(&format!(
            "the driver's process has no {kibibytes} KiB left for this (--max-memory): try again when other clients have gone"
        ))
    }
}

fn take(budget: Option<&Budget>, bytes: u64) -> Result<Option<Share>, Refused> {
    match budget {
        None => Ok(None),
        Some(budget) => budget.take(bytes).map(Some).ok_or_else(|| {
            tracing::warn!("a client is refused {bytes} bytes: --max-memory");
            Refused(bytes)
        }),
    }
}

impl Admission {
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self(Some(budget))
    }

    fn private(&self, bytes: u64) -> Result<Option<Share>, Refused> {
        take(self.0.as_ref().map(|budget| &budget.private), bytes)
    }

    /// One more client, whatever it wants.
    pub(super) fn client(&self) -> Result<Option<Share>, Refused> {
        self.private(THREAD_BYTES)
    }

    /// It wants to send commands.
    pub(super) fn text(&self) -> Result<Option<Share>, Refused> {
        self.private(TEXT_BYTES)
    }

    /// It wants a channel.
    pub(super) fn channel(&self, hello: &Hello) -> Result<Option<Share>, Refused> {
        let rings = u64::from(hello.queue_size) * DESCRIPTOR_BYTES;
        let bytes = hello.data_bytes.saturating_add(rings);
        take(self.0.as_ref().map(|budget| &budget.shared), bytes)
    }

    /// It wants this done.
    pub(super) fn command(&self, command: &Command) -> Result<Option<Share>, Refused> {
        let bytes = match &command.action {
            Action::Ioctl {
                input,
                output_bytes,
                ..
            } => input.len() as u64 + u64::from(*output_bytes),
            Action::Read { bytes, .. } => u64::from(*bytes),
            Action::Write { data, .. } => data.len() as u64,
            // Bounded, and small.
            _ => 0,
        };
        self.private(bytes * BYTES_EACH)
    }
}
