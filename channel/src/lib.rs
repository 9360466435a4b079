//! The device's side of a client's split queue ([`abi::client`], docs/channel.md), for VMM and shim alike.
//!
//! The client may write all of the memory at any time. So each word is read once, everything that is decided on is
//! decided on a copy, and what this side owns (its indices, which chains it holds) is kept outside of the memory, in an
//! [`abi::clients::QueueState`] that VMM and shim hand to each other.
//!
//! | module | what |
//! |---|---|
//! | `queue` | indices, heads, used elements, notifications |
//! | `chain` | a chain's descriptors, copied and checked |
//! | `request` | the header of a request, checked against its chain |
//! | `polling` | how long a side looks before it sleeps; the client's too |

#![no_std]

extern crate alloc;

mod chain;
pub mod polling;
mod queue;
mod request;

pub use chain::{CHAIN_MAX, Chain, ChainError, Piece};
pub use queue::{Memory, Queue, Violation};
pub use request::{HEADER, Incoming, RESULT, Refusal};

/// NTSTATUS values that a request is refused with when it is decoded.
pub mod status {
    /// STATUS_INVALID_PARAMETER: the request contradicts itself.
    pub const INVALID_PARAMETER: u32 = 0xC000_000D;
    /// STATUS_NOT_SUPPORTED: unknown opcode.
    pub const NOT_SUPPORTED: u32 = 0xC000_00BB;
    /// STATUS_NAME_TOO_LONG.
    pub const NAME_TOO_LONG: u32 = 0xC000_0106;
    /// STATUS_INVALID_BUFFER_SIZE: a transfer longer than a request may have.
    pub const INVALID_BUFFER_SIZE: u32 = 0xC000_0206;
}
