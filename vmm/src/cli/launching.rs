//! How a run is launched, and which run is meant: options that several subcommands share.

use std::path::{Path, PathBuf};

use super::driver_options::Limits;
use crate::launch::Wish;
use crate::launch::directory::{DirectoryError, RunDirectory};
use crate::launch::name::Name;
use crate::launch::restart::RestartPolicy;

/// Options of `ringfence run`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Launching")]
pub(super) struct Launching {
    /// The run's name for `ringfence ps`, `stop`, `logs`, `stats` and `ctl`; its driver's file name unless given.
    /// Without --socket it serves RUN_DIR/NAME.sock
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    #[command(flatten)]
    directory: RunDirectoryArgument,
    /// Return when the driver is ready (its DriverEntry has returned, commands are done, the socket is served); the run
    /// goes on, and logs to its file in the run directory
    #[arg(long)]
    detach: bool,
    /// Start the driver again when it has crashed, hung or been killed (on-crash), or whatever has ended it (always):
    /// after 0.1 s, then twice as long each time up to 30 s, anew after a minute's run; at most MAX times in a row
    #[arg(
        long,
        value_name = "never|on-crash[:MAX]|always[:MAX]",
        default_value = "never",
        hide_default_value = true
    )]
    restart: RestartPolicy,
    #[command(flatten)]
    limits: Limits,
}

/// Where running drivers are known.
#[derive(Debug, clap::Args)]
pub(super) struct RunDirectoryArgument {
    /// Where running drivers are known; otherwise RINGFENCE_RUN_DIR, $XDG_RUNTIME_DIR/ringfence, or root's
    /// /run/ringfence
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl RunDirectoryArgument {
    /// It need not exist.
    pub(super) fn locate(&self) -> Result<RunDirectory, DirectoryError> {
        RunDirectory::locate(self.run_dir.as_deref())
    }
}

impl Launching {
    /// Whether the run may be another process's.
    pub(super) fn is_launched(&self) -> bool {
        self.detach || self.restart != RestartPolicy::NEVER
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn wish<'a>(
        &'a self,
        socket: Option<&'a Path>,
        drivers: &'a [PathBuf],
        policy: Option<&'a Path>,
        memory: u64,
    ) -> Wish<'a> {
        Wish {
            name: self.name.as_ref(),
            run_directory: self.directory.run_dir.as_deref(),
            socket,
            detach: self.detach,
            restart: self.restart,
            drivers,
            policy,
            memory,
        }
    }
}
