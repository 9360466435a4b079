//! Talks to a driver that `ringfence run DRIVER --socket PATH` serves.
//!
//! A [`Connection`] is a process in the driver's guest: it has handles and an I/O permission map of its own, and they
//! end with it. Requests go through memory that it shares with the VMM (docs/channel.md). There are three styles, and a
//! program may mix them:
//!
//! - blocking: [`Connection::open`], [`Connection::ioctl`] and the others return when the driver has answered;
//! - callbacks: [`Connection::submit`] with [`Notify::Call`]; they run in whichever thread of the program handles
//!   completions (in a blocking call too), in one that [`Connection::start_thread`] starts, or in
//!   [`Connection::disconnect`];
//! - file descriptor: [`Connection::submit`] with [`Notify::Queue`], then epoll on [`AsFd::as_fd`](std::os::fd::AsFd::as_fd) and
//!   [`Connection::next_completion`].
//!
//! ```no_run
//! use ringfence_client::Connection;
//! let driver = Connection::connect("/run/echo.sock")?;
//! let handle = driver.open(r"\\.\echo")?;
//! let answer = driver.ioctl(handle, 0x0022_2000, b"hello", 5)?;
//! println!("{:02x?}", answer.output);
//! # Ok::<(), ringfence_client::Error>(())
//! ```
//!
//! | module | what |
//! |---|---|
//! | `connection` | a connection, as a program has it |
//! | `shared` | submitting, waiting, callbacks, the end, for all threads |
//! | `state` | what is under way and what has come of it |
//! | `handshake` | how a connection begins |
//! | `looking` | looking for answers before sleeping |
//! | `calls` | the blocking calls |
//! | `control` | text commands over the same socket |
//! | `queue` | the client's end of the split queue |
//! | `buffers` | what of the data area is free |
//! | `pinned` | buffers that driver and program share |
//!
//! client/c has the same for C.

mod buffers;
mod calls;
mod connection;
pub mod control;
mod error;
mod handshake;
mod looking;
mod pinned;
mod queue;
mod request;
mod shared;
mod shown;
mod state;

pub use abi::client::{Opcode, Statistics};
pub use calls::{Handle, Width};
pub use connection::Connection;
pub use error::Error;
pub use pinned::{Buffer, Part};
pub use request::{Completion, Notify, Request};
