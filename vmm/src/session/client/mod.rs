//! The host end of the channel that programs talk to a driver by ([`abi::client`], docs/channel.md).
//!
//! | module | what |
//! |---|---|
//! | `handshake` | from a connection to shared memory |
//! | `queue` | a client's split queue: everything in it is hostile |
//! | `request` | a request, decoded and checked |
//! | `connection` | one client: its queue, what it has under way, its processes |
//! | `set` | all clients of a driver, and how the engine waits for them |
//! | `polling` | how long the engine looks before it sleeps |
//! | `waker` | how other threads wake the engine |
//! | `sharing` | guest processes that several connections use |
//! | `status` | the statuses that the channel answers with itself |

pub(super) mod connection;
pub(super) mod handshake;
pub(super) mod polling;
pub mod queue;
pub mod request;
pub(super) mod set;
pub(super) mod sharing;
pub mod status;
#[cfg(test)]
mod tests;
pub(super) mod waker;

use std::os::unix::net::UnixStream;

/// A client of the channel that is connected. Dropping it ends the client: what it has under way is cancelled, its
/// handles are closed, its processes end.
pub trait Attachment: Send {}

/// A connection over which a client has said that it wants a channel.
#[derive(Debug)]
pub struct Caller {
    /// What it said.
    pub hello: abi::client::Hello,
    /// The connection.
    pub socket: UnixStream,
}
