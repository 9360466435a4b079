//! A client's request, decoded from its chain.

use alloc::vec;
use alloc::vec::Vec;

use abi::client::{NAME_MAX, Opcode, RequestHeader, ResultHeader, TRANSFER_MAX};
use zerocopy::FromBytes;

use crate::chain::{Chain, ChainError};
use crate::queue::{Memory, Queue};
use crate::status;

/// Bytes of the header of a request.
pub const HEADER: u64 = size_of::<RequestHeader>() as u64;
/// Bytes of the header of a result.
pub const RESULT: u64 = size_of::<ResultHeader>() as u64;

/// A request that may be carried out; its data is still in the client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// What is asked for.
    pub opcode: Opcode,
    /// The header: a copy, with lengths that the chain has.
    pub header: RequestHeader,
    /// The buffers.
    pub chain: Chain,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The chain has no room for a result, or cannot be followed.
    Unanswerable,
    /// With a status.
    Status(Chain, u32),
}

impl From<ChainError> for Refusal {
    fn from(_: ChainError) -> Self {
        Self::Unanswerable
    }
}

impl Incoming {
    /// Decodes the request whose chain begins at `head`.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn decode<M: Memory>(queue: &Queue<M>, head: u16) -> Result<Self, Refusal> {
        let chain = queue.chain(head)?;
        if chain.writable_bytes() < RESULT {
            return Err(Refusal::Unanswerable);
        }
        let mut bytes = [0; size_of::<RequestHeader>()];
        if queue.read(&chain, 0, &mut bytes) != bytes.len() {
            return Err(Refusal::Status(chain, status::INVALID_PARAMETER));
        }
        let Ok(header) = RequestHeader::read_from_bytes(&bytes) else {
            return Err(Refusal::Unanswerable);
        };
        let are_lengths_true = u64::from(header.input_bytes) == chain.readable_bytes() - HEADER
            && u64::from(header.output_bytes) == chain.writable_bytes() - RESULT;
        let is_reserved_zero =
            header.flags == 0 && header.reserved == 0 && header.reserved2 == [0; 2];
        if !are_lengths_true || !is_reserved_zero {
            return Err(Refusal::Status(chain, status::INVALID_PARAMETER));
        }
        if header.input_bytes > TRANSFER_MAX || header.output_bytes > TRANSFER_MAX {
            return Err(Refusal::Status(chain, status::INVALID_BUFFER_SIZE));
        }
        let Some(opcode) = Opcode::from_number(header.opcode) else {
            return Err(Refusal::Status(chain, status::NOT_SUPPORTED));
        };
        if opcode == Opcode::Open && header.input_bytes > NAME_MAX {
            return Err(Refusal::Status(chain, status::NAME_TOO_LONG));
        }
        Ok(Self {
            opcode,
            header,
            chain,
        })
    }

    /// Whether the shim carries it out by itself, on the client's own memory, if nothing is the matter with it.
    #[must_use]
    pub const fn is_for_shim(&self) -> bool {
        matches!(
            self.opcode,
            Opcode::DeviceControl | Opcode::Read | Opcode::Write | Opcode::Flush | Opcode::Cancel
        )
    }

    /// The input, copied.
    #[must_use]
    pub fn input<M: Memory>(&self, queue: &Queue<M>) -> Vec<u8> {
        queue.copy(&self.chain, HEADER, self.header.input_bytes)
    }

    /// What the client left in the output buffer, copied.
    #[must_use]
    pub fn output<M: Memory>(&self, queue: &Queue<M>) -> Vec<u8> {
        let mut output = vec![0; usize::try_from(self.header.output_bytes).unwrap_or(0)];
        // It was counted when the chain was read.
        let _ = queue.read_writable(&self.chain, RESULT, &mut output);
        output
    }

    /// Bytes of guest memory that it takes where they are copied.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.header.input_bytes) + u64::from(self.header.output_bytes)
    }
}
