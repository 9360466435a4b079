//! A connection, as a program has it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::pinned::Buffer;
use crate::request::{Completion, Notify, Request};
use crate::shared::Shared;
use crate::state::INVALID_PARAMETER;

/// Bytes of data area that [`Connection::connect`] asks for; memory that is not used costs nothing.
const DATA_BYTES: u64 = 16 << 20;

/// A connection to a driver: a process of its guest. May be used by many threads at once.
///
/// Dropping it ends the process, as [`Self::disconnect`] does.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

impl Connection {
    /// Connects to the socket of a `ringfence run --socket`.
    ///
    /// # Errors
    /// The socket's; the status with which the driver refuses a client.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::connect_with(path, DATA_BYTES)
    }

    /// As [`Self::connect`], with a data area of so many bytes: what all requests under way have room in.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_with(path: impl AsRef<Path>, data_bytes: u64) -> Result<Self, Error> {
        let shared = Shared::new(UnixStream::connect(path)?, data_bytes)?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Id of this process in the guest.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.shared.process
    }

    /// Memory that requests use in place ([`Request::read_to`] and its like): `bytes` of it, rounded up to whole pages.
    ///
    /// # Errors
    /// The data area has no room for it.
    pub fn buffer(&self, bytes: u32) -> Result<Buffer, Error> {
        Buffer::allocate(&self.shared.area, bytes)
    }

    /// Makes a request; returns its tag.
    ///
    /// When as many are under way as can be (1023 with today's VMM, fewer if their data fills the data area) it waits until
    /// one is completed, and handles completions meanwhile: callbacks may be called before it returns. It waits for ever if
    /// the driver completes none of them; [`Self::try_submit`] does not. A request to cancel another always finds a place.
    ///
    /// # Errors
    /// The connection's end; more data than a request, or the data area, has room for.
    pub fn submit(&self, request: &Request<'_>, notify: Notify) -> Result<u64, Error> {
        self.shared.submit(request, notify, true)
    }

    /// As [`Self::submit`], but does not wait.
    ///
    /// # Errors
    /// As for [`Self::submit`]; STATUS_QUOTA_EXCEEDED if there is no room before a request that is under way is completed and
    /// its completion handled.
    pub fn try_submit(&self, request: &Request<'_>, notify: Notify) -> Result<u64, Error> {
        self.shared.submit(request, notify, false)
    }

    /// Waits for a request that was submitted with [`Notify::Wait`].
    ///
    /// # Errors
    /// The connection's end; there is no such request.
    pub fn wait(&self, tag: u64) -> Result<Completion, Error> {
        self.shared.run(|state| {
            if let Some(completion) = state.done.remove(&tag) {
                return Some(Ok(completion));
            }
            let is_known = state.pending.values().any(|pending| pending.tag == tag);
            (!is_known).then_some(Err(Error::Status(state.end.unwrap_or(INVALID_PARAMETER))))
        })?
    }

    /// The next completion of a request that was submitted with [`Notify::Queue`]; runs callbacks that are due. Does not
    /// wait: `None` means that [`Self::as_fd`] will be readable when there is something.
    ///
    /// # Errors
    /// The connection's end, after all completions.
    pub fn next_completion(&self) -> Result<Option<Completion>, Error> {
        self.shared.next_completion()
    }

    /// Starts a thread that handles completions, so that callbacks run without anybody waiting. It ends with the
    /// connection, and [`Self::disconnect`] waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start_thread(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            // It ends with the connection; there is nobody to tell.
            let _ = shared.run(|_| None::<()>).is_ok();
        };
        let thread = std::thread::Builder::new()
            .name("ringfence".to_owned())
            .spawn(run)?;
        self.shared.lock().threads.push(thread);
        Ok(())
    }

    /// Ends the process in the guest: requests under way are cancelled, handles closed.
    ///
    /// On return each callback has been called once and has returned: those of completed requests with what came of them,
    /// those of requests under way with STATUS_CANCELLED, here. Threads of [`Self::start_thread`] have ended. What other
    /// threads wait for in calls ends with an error at once, and so do later calls.
    ///
    /// It may be called (and the connection dropped) in a callback: it does not wait for callbacks that its own thread is in,
    /// and a thread of [`Self::start_thread`] then ends when that callback has returned. It waits for callbacks that are under
    /// way in other threads, so no lock may be held that those want.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }
}

impl AsFd for Connection {
    /// Readable when [`Connection::next_completion`] may have something, for poll and epoll. Other threads may wait in calls
    /// meanwhile.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.show()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Once is enough: a C program's last call may return only after its disconnect has.
        let is_disconnected = self.shared.lock().is_disconnected;
        if !is_disconnected {
            self.disconnect();
        }
    }
}
