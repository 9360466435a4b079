//! `ringfence policy learn`

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::output::Output;
use super::run;
use crate::error_chain;
use crate::hardware::PCI_DEVICES;
use crate::learn::{Learned, Options, learn};
use crate::policy::Policy;
use crate::recording::Recording;
use crate::session::exit_code::ExitCode;

/// Run a driver, and write the narrowest policy that covers what it touched
///
/// Runs it as `ringfence run` does, with the same options, until its commands are done or SIGINT. What no rule names is
/// not there meanwhile: ports and physical memory read as ones, MSRs as zeros (see --policy and --device for models to run
/// it with). The policy is written even if the driver crashes. Rules of --policy that allowed something are kept as they are.
#[derive(Debug, clap::Args)]
#[group(id = "learn")]
pub(super) struct Arguments {
    #[command(flatten)]
    run: run::Arguments,
    /// Where the policy is written; an existing file is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What stands behind the new rules
    #[arg(long, value_enum, default_value = "passthrough")]
    backend: Backend,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Backend {
    /// The machine's hardware
    Passthrough,
    /// Registers that read back what was written
    Ram,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Ram => "ram",
        }
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(arguments.run.json());
    if arguments.run.is_launched() {
        let message =
            "the policy is written when the driver ends: use neither --detach nor --restart";
        return output.error(ExitCode::Usage, message);
    }
    // The recording is needed here alone.
    let memory = rustix::fs::memfd_create("recording", rustix::fs::MemfdFlags::CLOEXEC);
    let (memory, recorded) = match (memory, arguments.run.record()) {
        (_, Some(path)) => (None, path.to_path_buf()),
        (Ok(memory), None) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
            (Some(memory), path)
        }
        (Err(error), None) => {
            let message = format!("no memory for the recording: {error}");
            return output.error(ExitCode::CommandFailed, &message);
        }
    };
    let code = run::main_learning(&arguments.run, &recorded);
    if code == ExitCode::Usage {
        // Nothing has run.
        return code;
    }
    let written = write(arguments, &recorded);
    drop(memory);
    match written {
        Ok(learned) => {
            tracing::info!(
                "{}: {} rules{}",
                arguments.output.display(),
                learned.rules,
                match learned.refused {
                    0 => String::new(),
                    count => format!(", and {count} that need a look (NOT ALLOWED in the file)"),
                }
            );
            code
        }
        Err(message) if code == ExitCode::Success => {
            output.error(ExitCode::CommandFailed, &message)
        }
        Err(message) => {
            tracing::error!("{message}");
            code
        }
    }
}

fn write(arguments: &Arguments, recorded: &Path) -> Result<Learned, String> {
    let recording = Recording::from_path(recorded).map_err(|error| error_chain(&error))?;
    let base = match arguments.run.policy() {
        None => Policy::deny_all(),
        Some(path) => Policy::from_path(path).map_err(|error| error_chain(&error))?,
    };
    let base = base
        .with_devices(arguments.run.devices())
        .map_err(|error| error_chain(&error))?;
    let options = Options {
        backend: arguments.backend.name().to_owned(),
        title: arguments.run.title(),
        pci_devices: PCI_DEVICES.into(),
    };
    let learned = learn(&recording, &base, &options);
    std::fs::write(&arguments.output, &learned.text)
        .map_err(|error| format!("cannot write {}: {error}", arguments.output.display()))?;
    Ok(learned)
}
