//! This program once more, with the same arguments, in another role. Roles are told by the environment, because arguments
//! are the user's.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::notify;

/// Set: this process is the one that `--detach` has started.
const DETACHED: &str = "RINGFENCE_DETACHED";
/// This process is the one that `--restart` has started, for the run with that folder.
const SUPERVISED: &str = "RINGFENCE_SUPERVISED";

/// What this process is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that the user has started.
    Users,
    /// The one that stays behind when that has returned.
    Detached,
    /// The one that the driver runs in, while another one watches it.
    Supervised {
        /// The run's folder.
        folder: PathBuf,
        is_detached: bool,
    },
}

impl Role {
    pub(super) fn of_this_process() -> Self {
        let is_detached = std::env::var_os(DETACHED).is_some();
        match (std::env::var_os(SUPERVISED), is_detached) {
            (Some(folder), is_detached) => Self::Supervised {
                folder: folder.into(),
                is_detached,
            },
            (None, true) => Self::Detached,
            (None, false) => Self::Users,
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

    /// As the process that stays behind, which notifies `ready`.
    pub(super) fn detached(&self, ready: &Path) -> Command {
        let mut command = self.command(ready);
        // Its starter does not stay to hear pings.
        command.env(DETACHED, "1").env_remove("WATCHDOG_USEC");
        command
    }

    /// As the process that the driver runs in, which notifies `ready`.
    pub(super) fn supervised(&self, folder: &Path, ready: &Path) -> Command {
        let mut command = self.command(ready);
        command.env(SUPERVISED, folder);
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
