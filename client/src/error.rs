//! What can go wrong.

use displaydoc::Display;
use thiserror::Error;

/// Why a request, or a connection, failed.
#[expect(
    clippy::error_impl_error,
    reason = "the crate's one error, named as those of std are: ringfence_client::Error"
)]
#[derive(Debug, Display, Error)]
pub enum Error {
    /// NTSTATUS {0:#010x}
    Status(u32),
    /// the driver's socket cannot be used
    Socket(#[source] std::io::Error),
    /// the peer does not speak this library's protocol: {0}
    Protocol(&'static str),
    /// the data area has no room for {0} bytes
    NoRoom(u64),
}

impl Error {
    /// As an NTSTATUS: a connection that cannot be used is STATUS_DEVICE_NOT_CONNECTED.
    #[must_use]
    pub const fn status(&self) -> u32 {
        match self {
            Self::Status(status) => *status,
            Self::Socket(_) | Self::Protocol(_) => 0xC000_009D,
            Self::NoRoom(_) => 0xC000_009A,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Socket(error.into())
    }
}
