//! How other threads wake the engine: an eventfd, written only while it sleeps.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{SendError, Sender};

use vmm_sys_util::eventfd::EventFd;

/// The engine's bell.
#[derive(Debug)]
pub(in crate::session) struct Waker {
    event: EventFd,
    is_sleeping: AtomicBool,
}

impl Waker {
    pub(in crate::session) fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?,
            is_sleeping: AtomicBool::new(false),
        })
    }

    /// The engine is about to sleep; it looks for messages once more after this.
    pub(super) fn begin_sleep(&self) {
        self.is_sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn end_sleep(&self) {
        self.is_sleeping.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            // Only an overflow can fail, and then it is awake.
            let _ = self.event.write(1).is_ok();
        }
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Where messages to the engine are posted.
#[derive(Debug)]
pub(in crate::session) struct Postbox<T> {
    sender: Sender<T>,
    waker: Arc<Waker>,
}

impl<T> Clone for Postbox<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            waker: Arc::clone(&self.waker),
        }
    }
}

impl<T> Postbox<T> {
    pub(in crate::session) fn new(sender: Sender<T>, waker: Arc<Waker>) -> Self {
        Self { sender, waker }
    }

    /// Posts a message, and wakes the engine if it sleeps.
    pub(in crate::session) fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.sender.send(message)?;
        self.waker.wake();
        Ok(())
    }
}
