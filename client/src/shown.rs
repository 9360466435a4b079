//! The descriptor that a program polls.
//!
//! The VMM notifies of a completion only if that was asked for, and whoever handles completions takes the notification. A
//! thread that waits for an answer of its own does both: it takes what another thread polls for, and asks for nothing when it
//! leaves. So there is a flag beside the notifications, which says that there is something to handle or to fetch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::Error;

/// The descriptor, with its flag. Changed under the connection's lock.
#[derive(Debug)]
pub(crate) struct Shown {
    descriptor: OwnedFd,
    flag: OwnedFd,
}

/// What is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Showing {
    /// The program has asked for it: before, nothing is done for it.
    pub(crate) is_asked_for: bool,
    is_flagged: bool,
}

impl Shown {
    pub(crate) fn new(call: &OwnedFd, socket: &UnixStream) -> Result<Self, Error> {
        let flag = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        let nothing = EventData::new_u64(0);
        epoll::add(&descriptor, call, nothing, EventFlags::IN)?;
        epoll::add(&descriptor, &flag, nothing, EventFlags::IN)?;
        let ended = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&descriptor, socket, nothing, ended)?;
        Ok(Self { descriptor, flag })
    }

    /// Makes it readable.
    pub(crate) fn set(&self, showing: &mut Showing) {
        if !showing.is_flagged {
            // It is empty, so there is room.
            showing.is_flagged = rustix::io::write(&self.flag, &1_u64.to_ne_bytes()).is_ok();
        }
    }

    /// The program looks: from now on only what comes later makes it readable.
    pub(crate) fn clear(&self, showing: &mut Showing) {
        if showing.is_flagged {
            let mut count = [0; 8];
            showing.is_flagged = rustix::io::read(&self.flag, &mut count).is_err();
        }
    }
}

impl AsFd for Shown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
