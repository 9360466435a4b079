//! `ringfence policy learn`

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::output::Output;
use super::run::{self, Ended};
use crate::error_chain;
use crate::hardware::PCI_DEVICES;
use crate::learn::{Learned, Options, learn};
use crate::observe::escape::escape;
use crate::policy::Policy;
use crate::recording::{End, Recording};
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
    /// Where the policy is written; an existing file is replaced; - is standard output
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
    let mut destination = match Destination::open(&arguments.output) {
        Ok(destination) => destination,
        Err(error) => {
            let message = format!(
                "--output {} cannot be written: {error}",
                escape(&arguments.output.display().to_string())
            );
            return output.error(ExitCode::Usage, &message);
        }
    };
    let Ended { code, has_run } = run::main_learning(&arguments.run, &recorded, &arguments.output);
    if !has_run {
        destination.leave();
        return code;
    }
    let written = write(arguments, &recorded, &mut destination);
    drop(memory);
    if written.is_err() {
        destination.leave();
    }
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

fn write(
    arguments: &Arguments,
    recorded: &Path,
    destination: &mut Destination<'_>,
) -> Result<Learned, String> {
    let recording = Recording::from_path(recorded).map_err(|error| error_chain(&error))?;
    if recording.end != End::Finished {
        return Err(
            "the recording of this run could not be finished: no policy is written, for it would lack what came last"
                .to_owned(),
        );
    }
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
    destination
        .write(&learned.text)
        .map_err(|error| format!("cannot write {}: {error}", arguments.output.display()))?;
    Ok(learned)
}

/// Where the policy goes. A file is opened before the run, so that its result is not lost, and because the process may give
/// up the privilege for it; what is in it stays until the new policy is there.
struct Destination<'a> {
    path: &'a Path,
    /// `None`: something else than a file, or standard output.
    file: Option<File>,
    is_new: bool,
}

impl<'a> Destination<'a> {
    fn open(path: &'a Path) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true);
        let (file, is_new) = match path.metadata() {
            _ if path == Path::new("-") => (None, false),
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if metadata.is_file() => (Some(options.open(path)?), false),
            Ok(_) => (None, false),
            Err(_) => (Some(options.create(true).open(path)?), true),
        };
        Ok(Self { path, file, is_new })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match &mut self.file {
            Some(file) => {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(text.as_bytes())
            }
            None if self.path == Path::new("-") => io::stdout().write_all(text.as_bytes()),
            None => std::fs::write(self.path, text),
        }
    }

    /// Nothing is to be written: the file is as it was.
    fn leave(self) {
        if self.is_new {
            // An empty file that cannot be removed harms nobody.
            let _ = std::fs::remove_file(self.path).is_ok();
        }
    }
}
