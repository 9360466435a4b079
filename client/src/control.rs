//! Text commands over the driver's socket: the protocol of `ringfence ctl`, one JSON object a line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Longest reply that is taken, in bytes: the output of the largest transfer as text and as digits, and more.
pub const REPLY_MAX: usize = 32 << 20;

/// A connection for text commands: a process of the guest, as a channel's is.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the socket of a `ringfence run --socket`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path)?))
    }

    /// Uses a connection that there is.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// Sends a line, and returns the line that answers it.
    ///
    /// # Errors
    /// The operating system's; [`io::ErrorKind::UnexpectedEof`] when the connection has ended,
    /// [`io::ErrorKind::InvalidData`] for what is too long or not UTF-8.
    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        // A server that is full answers before it is asked, and closes: its answer says more than the error.
        let written = writeln!(self.reader.get_mut(), "{line}");
        let mut reply = Vec::new();
        let limit = REPLY_MAX as u64 + 1;
        let count = self
            .reader
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut reply)?;
        if count == 0 {
            written?;
            let message = "the driver's process ended";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        if reply.last() == Some(&b'\n') {
            reply.pop();
        } else if count > REPLY_MAX {
            let message = format!("a line of more than {REPLY_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        String::from_utf8(reply)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line that is not UTF-8"))
    }
}
