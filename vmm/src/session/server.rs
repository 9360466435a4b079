//! The socket of a running driver: text commands, and the way to a channel.

use super::access::Access;
use super::admission::{Admission, CLIENT_STACK};
use super::client::handshake::{self, Wanted};
use super::client::{Caller, status};
use super::command::Command;
use super::driver::{DriverError, RunningMachine};
use super::interpreter::{Interpreter, Outcome};
use super::protocol::{REQUEST_MAX, Request, read_line, reply};
use crate::launch::memory::{MemoryBudget, Share};
use crate::machine::processor_share;
use std::fs::Permissions;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Connections at a time; each is a process of the guest and a thread.
const CONNECTIONS_MAX: usize = 32;
/// How long a client that cannot be served may take to say what it wants.
const TURN_AWAY: std::time::Duration = std::time::Duration::from_millis(100);

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
        let prepared = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(TURN_AWAY)))
            .and_then(|()| stream.set_write_timeout(Some(TURN_AWAY)));
        if prepared.is_err() {
            return;
        }
        match handshake::wanted(&stream) {
            Wanted::Text => refuse(
                &stream,
                &Outcome::driver_error("connect", &DriverError::Gone(why.to_owned())),
            ),
            Wanted::Channel => handshake::refuse(&stream, status::DEVICE_NOT_READY),
            Wanted::Nothing => {}
        }
    }

    /// Serves connections until `stop` is written, then ends them all.
    ///
    /// # Errors
    /// The operating system's, from waiting for connections.
    pub fn serve(&self, machine: &Arc<dyn RunningMachine>, stop: &EventFd) -> io::Result<()> {
        let epoll = Epoll::new()?;
        for (fd, data) in [(self.listener.as_raw_fd(), 0), (stop.as_raw_fd(), 1)] {
            epoll.ctl(
                ControlOperation::Add,
                fd,
                EpollEvent::new(EventSet::IN, data),
            )?;
        }
        let connections = Connections {
            access: self.access.clone(),
            admission: self.admission.clone(),
            ..Connections::default()
        };
        let mut events = [EpollEvent::default(); 2];
        loop {
            let count = match epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if events.iter().take(count).any(|event| event.data() == 1) {
                connections.end();
                return Ok(());
            }
            if self.path.is_none() && machine.stopped().is_some() {
                // Whoever has passed the socket in starts the driver again: this client is the next process'.
                epoll.ctl(
                    ControlOperation::Delete,
                    self.listener.as_raw_fd(),
                    EpollEvent::default(),
                )?;
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => connections.begin(stream, machine),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!("a client could not be accepted: {error}");
                    // Out of descriptors: waiting lets clients go away, spinning does not.
                    thread::sleep(std::time::Duration::from_millis(50));
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

struct Connection {
    stream: UnixStream,
    thread: thread::JoinHandle<()>,
}

#[derive(Default)]
struct Connections {
    open: Mutex<Vec<Connection>>,
    is_ending: Arc<AtomicBool>,
    live: Arc<AtomicU64>,
    access: Access,
    admission: Admission,
}

/// What a client's thread works with.
struct Serving {
    machine: Arc<dyn RunningMachine>,
    is_ending: Arc<AtomicBool>,
    live: Live,
    access: Access,
    admission: Admission,
    /// Of memory, for itself.
    _share: Option<Share>,
}

/// A client that is connected, counted as long as it is.
struct Live(Arc<AtomicU64>);

impl Live {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }

    /// How many there are, this one among them.
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    fn begin(&self, stream: UnixStream, machine: &Arc<dyn RunningMachine>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.thread.is_finished());
        if open.len() >= CONNECTIONS_MAX {
            refuse(
                &stream,
                &Outcome::refused(&format!("{CONNECTIONS_MAX} clients are connected already")),
            );
            return;
        }
        let share = match self.admission.client() {
            Ok(share) => share,
            Err(refused) => return refuse(&stream, &refused.outcome()),
        };
        let serving = Serving {
            machine: Arc::clone(machine),
            is_ending: Arc::clone(&self.is_ending),
            live: Live::new(&self.live),
            access: self.access.clone(),
            admission: self.admission.clone(),
            _share: share,
        };
        let started = stream
            .set_nonblocking(false)
            .and_then(|()| stream.try_clone())
            .and_then(|theirs| {
                let client = thread::Builder::new()
                    .name("client".into())
                    .stack_size(CLIENT_STACK);
                client.spawn(move || {
                    let ours = theirs.try_clone();
                    serve_client(theirs, &serving);
                    // The list of connections still has a descriptor: without this the client would
                    // never see the end.
                    if let Ok(ours) = ours {
                        let _ = ours.shutdown(std::net::Shutdown::Both);
                    }
                })
            });
        match started {
            Ok(thread) => open.push(Connection { stream, thread }),
            Err(error) => {
                tracing::warn!("a client could not be served: {error}");
                refuse(
                    &stream,
                    &Outcome::refused(&format!("no room for one more client: {error}")),
                );
            }
        }
    }

    fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.drain(..) {
            // A reply that is on its way still arrives.
            let _ = connection.stream.shutdown(std::net::Shutdown::Read);
            if connection.thread.join().is_err() {
                tracing::error!("a client's thread panicked");
            }
        }
    }
}

fn refuse(mut stream: &UnixStream, outcome: &Outcome) {
    let _ = writeln!(stream, "{}", reply(outcome));
}

fn serve_client(stream: UnixStream, serving: &Serving) {
    let wanted = handshake::wanted(&stream);
    if wanted != Wanted::Nothing && !serving.access.allows(&stream) {
        match wanted {
            Wanted::Channel => handshake::refuse(&stream, status::ACCESS_DENIED),
            _ => refuse(
                &stream,
                &Outcome::refused("the driver is another user's: STATUS_ACCESS_DENIED"),
            ),
        }
        return;
    }
    match wanted {
        Wanted::Text => serve_commands(stream, serving),
        Wanted::Channel => serve_channel(stream, serving),
        Wanted::Nothing => {}
    }
}

/// Gives a client its channel, and waits until it is gone.
fn serve_channel(stream: UnixStream, serving: &Serving) {
    let hello = match handshake::receive(&stream) {
        Ok(hello) => hello,
        Err(error) => {
            tracing::debug!("a client's hello could not be read: {error}");
            handshake::refuse(&stream, status::INVALID_PARAMETER);
            return;
        }
    };
    let Ok(_share) = serving.admission.channel(&hello) else {
        return handshake::refuse(&stream, status::INSUFFICIENT_RESOURCES);
    };
    let caller = Caller {
        hello,
        socket: stream,
    };
    let attachment = match serving.machine.attach(&caller) {
        Ok(attachment) => attachment,
        Err(error) => {
            let status = match error {
                DriverError::Status(status) => status.0,
                DriverError::Crashed(_) => status::DRIVER_PROCESS_TERMINATED,
                DriverError::TimedOut(_) => status::IO_TIMEOUT,
                DriverError::Gone(_) => status::DEVICE_REMOVED,
            };
            handshake::refuse(&caller.socket, status);
            return;
        }
    };
    // The client has nothing more to say here: what ends this is its end, or the server's.
    let mut byte = [0];
    while let Ok(1) = (&caller.socket).read(&mut byte) {}
    drop(attachment);
}

fn serve_commands(stream: UnixStream, serving: &Serving) {
    // A client that does not read its replies must not keep this thread for ever.
    let _ = stream.set_write_timeout(Some(std::time::Duration::from_secs(10)));
    let _share = match serving.admission.text() {
        Ok(share) => share,
        Err(refused) => return refuse(&stream, &refused.outcome()),
    };
    let driver = match serving.machine.connect() {
        Ok(driver) => driver,
        Err(error) => {
            refuse(&stream, &Outcome::driver_error("connect", &error));
            return;
        }
    };
    let mut interpreter = Interpreter::new(driver);
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    while !serving.is_ending.load(Ordering::SeqCst) {
        processor_share::pay();
        // Held until the reply is on its way.
        let mut _share = None;
        let mut outcome = match read_line(&mut reader, REQUEST_MAX) {
            Ok(None) => return,
            Ok(Some(line)) => match serde_json::from_str::<Request>(&line) {
                Ok(request) => {
                    let (outcome, share) =
                        execute(&mut interpreter, &request.command, &serving.admission);
                    _share = share;
                    outcome
                }
                Err(error) => Outcome::refused(&format!(
                    "not a request ({error}); send one line such as {{\"command\": \"stats\"}}"
                )),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                refuse(&writer, &Outcome::refused(&error.to_string()));
                return;
            }
            Err(_) => return,
        };
        if outcome.fields.contains_key("stats") {
            // The guest knows of processes, which need not be clients.
            let clients = serving.live.count();
            outcome.fields.insert("clients".into(), clients.into());
            outcome
                .text
                .push_str(&format!("\n  {:<22}{clients}", "clients"));
        }
        if writeln!(writer, "{}", reply(&outcome)).is_err() || outcome.is_over {
            return;
        }
    }
}

fn execute(
    interpreter: &mut Interpreter,
    line: &str,
    admission: &Admission,
) -> (Outcome, Option<Share>) {
    let command = match line.parse::<Command>() {
        Ok(command) => command,
        Err(error) => return (Outcome::malformed(&error), None),
    };
    match admission.command(&command) {
        Ok(share) => (interpreter.execute(&command), share),
        Err(refused) => (refused.outcome(), None),
    }
}

#[cfg(test)]
mod tests;
