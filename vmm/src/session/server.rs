//! The socket of a running driver: text commands, and the way to a channel.

mod connections;
mod refusals;
mod serving;

use super::access::Access;
use super::admission::Admission;
use super::client::status;
use super::driver::{DriverError, RunningMachine};
use super::interpreter::Outcome;
use crate::launch::memory::MemoryBudget;
use connections::Connections;
use refusals::Refusal;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// How long a client that cannot be served may take to say what it wants, while nobody else is served either.
const TURN_AWAY: Duration = Duration::from_millis(100);
/// How long a client may take to say what it wants, which a program does at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the server waits for besides its clients.
const LISTENER: u64 = 0;
const STOP: u64 = 1;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum SocketError {
    /// {path} is in use by another ringfence: choose another --socket, or end that one
    InUse {
        /// The socket.
        path: String,
    },
    /// {path} exists and is no socket: choose another --socket, or remove it
    NotASocket {
        /// The file.
        path: String,
    },
    /// the socket {path} cannot be created; its directory must exist and be writable, and a path has at most 107 bytes
    Create {
        /// The socket.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// the socket that was passed in cannot be used
    Inherited(#[source] io::Error),
}

/// A bound socket; its file goes away with it, unless the socket was passed in.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    access: Access,
    /// The file that it has made.
    path: Option<PathBuf>,
    admission: Admission,
    patience: Duration,
}

impl Server {
    /// Binds `path`, for the owner only. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let shown = path.display().to_string();
        if let Ok(metadata) = path.symlink_metadata() {
            if !metadata.file_type().is_socket() {
                return Err(SocketError::NotASocket { path: shown });
            }
            if UnixStream::connect(path).is_ok() {
                return Err(SocketError::InUse { path: shown });
            }
        }
        let create = |source| SocketError::Create {
            path: shown.clone(),
            source,
        };
        // Made under another name, so that it never has the right name with the wrong permissions.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let listener = UnixListener::bind(&temporary).map_err(create)?;
        let placed = std::fs::set_permissions(&temporary, Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| std::fs::rename(&temporary, path));
        if let Err(error) = placed {
            let _ = std::fs::remove_file(&temporary);
            return Err(create(error));
        }
        Ok(Self {
            listener,
            access: Access::default(),
            path: Some(path.into()),
            admission: Admission::default(),
            patience: PATIENCE,
        })
    }

    /// Serves a socket that somebody else has bound, and whose file is theirs.
    ///
    /// # Errors
    /// [`SocketError::Inherited`]
    pub fn inherited(listener: UnixListener) -> Result<Self, SocketError> {
        listener
            .set_nonblocking(true)
            .map_err(SocketError::Inherited)?;
        Ok(Self {
            listener,
            access: Access::default(),
            path: None,
            admission: Admission::default(),
            patience: PATIENCE,
        })
    }

    /// Serves a socket that somebody else has bound, and whose file is this run's from now on.
    ///
    /// # Errors
    /// [`SocketError::Inherited`]
    pub fn adopted(listener: UnixListener) -> Result<Self, SocketError> {
        let address = listener.local_addr().map_err(SocketError::Inherited)?;
        let mut server = Self::inherited(listener)?;
        server.path = address.as_pathname().map(Path::to_path_buf);
        Ok(server)
    }

    /// Says who may connect besides root and the own user. The socket's `file` gets the group and the permissions for it;
    /// none is given for a socket that a service manager has made, whose file is its business.
    ///
    /// # Errors
    /// [`SocketError::Create`]: the file cannot be changed.
    pub fn admit(&mut self, access: Access, file: Option<&Path>) -> Result<(), SocketError> {
        if let Some(path) = file {
            std::os::unix::fs::chown(path, None, access.socket_group())
                .and_then(|()| {
                    std::fs::set_permissions(path, Permissions::from_mode(access.mode()))
                })
                .map_err(|source| SocketError::Create {
                    path: path.display().to_string(),
                    source,
                })?;
        }
        self.access = access;
        Ok(())
    }

    /// Limits what clients may take.
    pub fn limit_memory(&mut self, budget: MemoryBudget) {
        self.admission = Admission::new(budget);
    }

    /// Where clients connect, if that is a file.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match &self.path {
            Some(path) => Some(path.clone()),
            None => Some(self.listener.local_addr().ok()?.as_pathname()?.into()),
        }
    }

    /// Whether the socket's file goes away with it.
    #[must_use]
    pub fn owns_path(&self) -> bool {
        self.path.is_some()
    }

    /// The socket, for another process to serve.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }

    /// Accepts one client while there is no driver, and tells it why it is not served.
    pub fn turn_away(&self, why: &str) {
        let Ok((stream, _)) = self.listener.accept() else {
            // It is gone already.
            return;
        };
        // What it wants is its first byte, which clients send at once; who says nothing gets nothing.
        if refusals::limit(&stream, TURN_AWAY).is_ok() {
            let gone = DriverError::Gone(why.to_owned());
            let refusal = Refusal {
                outcome: Outcome::driver_error("connect", &gone),
                status: status::DEVICE_NOT_READY,
            };
            refusal.tell(&stream);
        }
    }

    /// Serves connections until `stop` is written, then ends them all.
    ///
    /// # Errors
    /// The operating system's, from waiting for connections.
    pub fn serve(&self, machine: &Arc<dyn RunningMachine>, stop: &EventFd) -> io::Result<()> {
        let (access, admission) = (self.access.clone(), self.admission.clone());
        let connections = Connections::new(access, admission, self.patience)?;
        connections.watch(self.listener.as_raw_fd(), LISTENER)?;
        connections.watch(stop.as_raw_fd(), STOP)?;
        loop {
            let events = connections.wait()?;
            if events.contains(&STOP) {
                connections.end();
                return Ok(());
            }
            if !events.contains(&LISTENER) {
                continue;
            }
            if self.path.is_none() && machine.stopped().is_some() {
                // Whoever has passed the socket in starts the driver again: this client is the next process'.
                connections.forget(self.listener.as_raw_fd())?;
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => connections.begin(stream, machine),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!("a client could not be accepted: {error}");
                    // Out of descriptors: waiting lets clients go away, spinning does not.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
