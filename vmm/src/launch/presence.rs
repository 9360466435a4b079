//! A run as others see it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use thiserror::Error;

use super::activation::{self, ActivationError, Passed};
use super::again::Role;
use super::directory::{ClaimError, DirectoryError, RunDirectory};
use super::entry::{self, Entry};
use super::name::Name;
use super::registration::{Registration, State};
use super::restart::RestartPolicy;
use super::{detach, log_file, notify, supervisor, watchdog};
use crate::observe::escape::escape;
use crate::session::Machine;
use crate::session::access::Access;
use crate::session::driver::DriverError;
use crate::session::exit_code::ExitCode;
use crate::session::interpreter::Outcome;
use crate::session::server::{Server, SocketError};

/// What of a run's arguments is about how it is launched.
#[derive(Debug)]
pub struct Wish<'a> {
    /// `--name`
    pub name: Option<&'a Name>,
    /// `--run-dir`
    pub run_directory: Option<&'a Path>,
    /// `--socket`
    pub socket: Option<&'a Path>,
    /// `--detach`
    pub detach: bool,
    /// `--restart`
    pub restart: RestartPolicy,
    /// The drivers' files, the lowest first.
    pub drivers: &'a [PathBuf],
    /// The policy's file.
    pub policy: Option<&'a Path>,
    /// Guest memory in bytes.
    pub memory: u64,
}

/// Why a run is not launched.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// There is no run directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The name is not to be had.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What was passed in is no socket to serve.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The run's log cannot be opened.
    #[error("the log in {path} cannot be written")]
    Log {
        /// The run's folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something that only the operating system can refuse.
    #[error("the run's process cannot be started or watched")]
    Process(#[from] io::Error),
}

/// What [`begin`] came to.
#[derive(Debug)]
pub enum Begun {
    /// The driver is to run in this process.
    Run(Box<Presence>),
    /// It ran in another one, or does: this is the exit code.
    Ended(ExitCode),
}

/// A run's place among the others. Dropping it removes its socket and its entry in the run directory.
#[derive(Debug, Default)]
pub struct Presence {
    server: Option<Server>,
    entry: Option<Entry>,
    /// The run's folder, also when the entry is the supervisor's.
    folder: Option<PathBuf>,
    is_detached: bool,
    /// Another process watches this one, and has the entry.
    is_supervised: bool,
    /// The driver has answered.
    is_ready: bool,
    /// The socket's file, if this run has made it.
    socket_file: Option<PathBuf>,
}

/// Takes a run's place: its name, its socket, its log. With `--detach` and `--restart` the rest may be another process's.
///
/// # Errors
/// See [`LaunchError`].
pub fn begin(wish: &Wish<'_>) -> Result<Begun, LaunchError> {
    let (inherited, is_detached) = match Role::of_this_process() {
        Role::Supervised {
            folder,
            is_detached,
        } => {
            let presence = supervised(folder, is_detached)?;
            return Ok(Begun::Run(Box::new(presence)));
        }
        Role::Detached { is_own_socket } => {
            let handed_over = is_own_socket.map(activation::handed_over).transpose()?;
            (handed_over, true)
        }
        Role::Users => (activation::take(wish.socket)?, false),
    };
    if wish.detach && !is_detached {
        let directory = RunDirectory::open(wish.run_directory)?;
        return Ok(Begun::Ended(detach::launch(&directory, inherited)?));
    }
    if is_detached {
        detach::begin()?;
    }
    let is_supervisor = wish.restart != RestartPolicy::NEVER;
    let needs_entry = wish.name.is_some() || is_detached || is_supervisor;
    if !needs_entry && wish.socket.is_none() && inherited.is_none() {
        return Ok(Begun::Run(Box::default()));
    }
    let mut presence = match place(wish) {
        Ok((directory, entry)) => present(wish, inherited, Some((&directory, entry)))?,
        Err(error) if needs_entry => return Err(error),
        Err(error) => {
            let reason = crate::error_chain(&error);
            tracing::debug!("`ringfence ps` will not know of this run: {reason}");
            present(wish, inherited, None)?
        }
    };
    presence.is_detached = is_detached;
    match (is_supervisor, presence.entry.take(), &presence.server) {
        (true, Some(entry), Some(server)) => {
            let code = supervisor::supervise(entry, server, wish.restart, is_detached)?;
            Ok(Begun::Ended(code))
        }
        (_, entry, _) => {
            presence.entry = entry;
            Ok(Begun::Run(Box::new(presence)))
        }
    }
}

fn place(wish: &Wish<'_>) -> Result<(RunDirectory, Entry), LaunchError> {
    let directory = RunDirectory::open(wish.run_directory)?;
    let entry = match (wish.name, wish.drivers.last()) {
        (Some(name), _) => directory.claim(name)?,
        (None, top) => {
            let top = top.map_or_else(|| Path::new(""), PathBuf::as_path);
            directory.claim_numbered(&Name::of_driver(top))?
        }
    };
    log_file::begin(entry.folder()).map_err(|source| LaunchError::Log {
        path: entry.folder().display().to_string(),
        source,
    })?;
    Ok((directory, entry))
}

fn present(
    wish: &Wish<'_>,
    inherited: Option<Passed>,
    place: Option<(&RunDirectory, Entry)>,
) -> Result<Presence, LaunchError> {
    let default = place.as_ref().and_then(|(directory, entry)| {
        let name: Name = entry.name().parse().ok()?;
        Some(directory.socket(&name))
    });
    let server = match (inherited, wish.socket, default) {
        (Some(passed), _, _) if passed.is_own => Some(Server::adopted(passed.listener)?),
        (Some(passed), _, _) => Some(Server::inherited(passed.listener)?),
        (None, Some(path), _) => Some(Server::bind(path)?),
        (None, None, Some(path)) => Some(Server::bind(&path)?),
        (None, None, None) => None,
    };
    let mut entry = place.map(|(_, entry)| entry);
    if let Some(entry) = &mut entry {
        entry.update(|registration| register(registration, wish, server.as_ref()));
    }
    Ok(Presence {
        folder: entry.as_ref().map(|entry| entry.folder().to_path_buf()),
        socket_file: server
            .as_ref()
            .filter(|server| server.owns_path())
            .and_then(Server::path),
        server,
        entry,
        is_detached: false,
        is_supervised: false,
        is_ready: false,
    })
}

fn register(registration: &mut Registration, wish: &Wish<'_>, server: Option<&Server>) {
    let shown = |path: &PathBuf| escape(&path.display().to_string());
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    registration.drivers = wish
        .drivers
        .iter()
        .map(|path| shown(&whole(path)))
        .collect();
    registration.policy = wish.policy.map(|path| shown(&whole(path)));
    registration.memory = wish.memory;
    registration.socket = server.and_then(Server::path).map(|path| whole(&path));
    registration.owns_socket = server.is_some_and(Server::owns_path);
}

/// In the process that the driver runs in, while another one watches it: the socket is standard input.
fn supervised(folder: PathBuf, is_detached: bool) -> Result<Presence, LaunchError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(io::Error::from)?;
    let (registration, _) = Registration::read(&folder)?;
    if registration.process.pid != std::os::unix::process::parent_id() {
        return Err(io::Error::other("who started it has ended").into());
    }
    let listener = activation::from_standard_input()?;
    log_file::begin(&folder)?;
    Ok(Presence {
        server: Some(Server::inherited(listener)?),
        entry: None,
        folder: Some(folder),
        is_detached,
        is_supervised: true,
        is_ready: false,
        // The listener itself only knows the temporary name that it was bound to.
        socket_file: registration.socket.filter(|_| registration.owns_socket),
    })
}

impl Presence {
    /// Says who may use the socket, see [`Server::admit`].
    ///
    /// # Errors
    /// [`SocketError`]: the socket's file cannot be changed.
    pub fn admit(&mut self, access: Access) -> Result<(), SocketError> {
        match &mut self.server {
            Some(server) => server.admit(access, self.socket_file.as_deref()),
            None => Ok(()),
        }
    }

    /// Takes the socket, to serve it.
    pub fn take_server(&mut self) -> Option<Server> {
        self.server.take()
    }

    /// Where the socket is, until it is taken.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        self.server.as_ref().and_then(Server::path)
    }

    /// The run's name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let name = self.folder.as_ref()?.file_name()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The driver answers: whoever waits for that is told.
    pub fn ready(&mut self, machine: &Arc<Machine>, timeout: Duration) {
        if let Some(entry) = &mut self.entry {
            entry.update(|registration| registration.state = State::Running);
        }
        self.is_ready = true;
        let starter = if self.is_detached {
            detach::leave(self.is_supervised)
                .inspect_err(|error| tracing::error!("the log cannot take over: {error}"))
                .ok()
        } else {
            None
        };
        notify::ready();
        if let (Some(starter), false) = (starter, self.is_supervised) {
            starter.forget();
        }
        watchdog::start(machine, timeout);
    }

    /// The run is about to end.
    pub fn stopping(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.update(|registration| registration.state = State::Stopping);
        }
    }

    /// The driver has crashed or hung: its report is kept.
    pub fn crashed(&self, error: &DriverError) {
        let (Some(folder), DriverError::Crashed(_) | DriverError::TimedOut(_)) =
            (&self.folder, error)
        else {
            return;
        };
        let report = Outcome::driver_error("run", error).text;
        match entry::keep_crash(folder, &report) {
            Ok(()) => tracing::info!("the report is in {}", entry::crash(folder, 1).display()),
            Err(error) => tracing::warn!("the report is not kept: {error}"),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let (true, false, Some(entry)) = (self.is_detached, self.is_ready, &self.entry) {
            entry.tell_what_is_left();
        }
    }
}
