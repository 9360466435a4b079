//! This program once more, with the same arguments, in another role. Roles are told by the environment, because arguments
//! are the user's.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::activation::Passed;
use super::notify;

/// Set: this process is the one that `--detach` has started. One of these words says what its standard input is.
const DETACHED: &str = "RINGFENCE_DETACHED";
const NO_SOCKET: &str = "no-socket";
const SOCKET: &str = "socket";
const OWN_SOCKET: &str = "own-socket";
/// This process is the one that `--restart` has started, for the run with that folder.
const SUPERVISED: &str = "RINGFENCE_SUPERVISED";

/// What this process is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that the user has started.
    Users,
    /// The one that stays behind when that has returned.
    Detached {
        /// A socket that was passed in is its standard input; whether its file is the run's.
        is_own_socket: Option<bool>,
    },
    /// The one that the driver runs in, while another one watches it.
    Supervised {
        /// The run's folder.
        folder: PathBuf,
        is_detached: bool,
    },
}

impl Role {
    pub(super) fn of_this_process() -> Self {
        let detached = std::env::var_os(DETACHED);
        match (std::env::var_os(SUPERVISED), detached) {
            (Some(folder), detached) => Self::Supervised {
                folder: folder.into(),
                is_detached: detached.is_some(),
            },
            (None, Some(word)) => Self::Detached {
                is_own_socket: match word.to_str() {
                    Some(SOCKET) => Some(false),
                    Some(OWN_SOCKET) => Some(true),
                    _ => None,
                },
            },
            (None, None) => Self::Users,
        }
    }
}

/// The command that starts it again.
#[derive(Debug, Clone)]
pub(super) struct Again {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Again {
    /// # Errors
    /// The program's file is not known.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: std::env::args_os().collect(),
        })
    }

    /// As the process that stays behind, which notifies `ready`, and later the service manager of this one. A socket
    /// that was passed in is handed over to it.
    pub(super) fn detached(&self, ready: &Path, passed: Option<Passed>) -> Command {
        let mut command = self.command(ready);
        match notify::target() {
            Some(manager) => command.env(notify::MANAGER, manager),
            None => command.env_remove(notify::MANAGER),
        };
        if notify::target().is_none() || notify::keep_alive().is_none() {
            // Nobody hears pings.
            command.env_remove(notify::INTERVAL);
        }
        match passed {
            Some(passed) => {
                let word = if passed.is_own { OWN_SOCKET } else { SOCKET };
                let listener = OwnedFd::from(passed.listener);
                command.env(DETACHED, word).stdin(Stdio::from(listener))
            }
            None => command.env(DETACHED, NO_SOCKET).stdin(Stdio::null()),
        };
        command
    }

    /// As the process that the driver runs in, which notifies `ready`.
    pub(super) fn supervised(&self, folder: &Path, ready: &Path) -> Command {
        let mut command = self.command(ready);
        command.env(SUPERVISED, folder).env_remove(notify::MANAGER);
        command
    }

    fn command(&self, ready: &Path) -> Command {
        let mut command = Command::new(&self.program);
        let mut arguments = self.arguments.iter();
        if let Some(own_name) = arguments.next() {
            command.arg0(own_name);
        }
        command
            .args(arguments)
            .env(notify::ENVIRONMENT, ready)
            // Said of this process, and now meant for that one.
            .env_remove("WATCHDOG_PID")
            // What was passed in is this process's.
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES");
        command
    }
}
