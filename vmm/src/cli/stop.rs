//! `ringfence stop`

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use serde::Serialize;

use super::launching::RunDirectoryArgument;
use super::output::Output;
use crate::error_chain;
use crate::launch::directory::{Registered, RunDirectory};
use crate::launch::process::send;
use crate::session::exit_code::ExitCode;

/// Stop running drivers
///
/// Sends SIGTERM and waits; what has not ended then is killed (exit code 6).
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Their names, as `ringfence ps` shows them
    #[arg(required = true)]
    name: Vec<String>,
    /// How long each may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::option_values::parse_timeout)]
    timeout: Duration,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: RunDirectoryArgument,
}

/// What has become of a driver.
#[derive(Debug, Serialize)]
struct Stopped {
    name: String,
    pid: u32,
    was_killed: bool,
    milliseconds: u64,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(arguments.json);
    let directory = match arguments.directory.locate() {
        Ok(directory) => directory,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    let mut code = ExitCode::Success;
    for name in &arguments.name {
        let run = match directory.find(name) {
            Ok(run) => run,
            Err(error) => {
                code = code.max(output.error(ExitCode::Usage, &error.to_string()));
                continue;
            }
        };
        match stop(&directory, &run, arguments.timeout) {
            Ok(stopped) => {
                if stopped.was_killed {
                    code = code.max(ExitCode::TimedOut);
                }
                if output.result(&stopped.to_string(), &stopped).is_err() {
                    code = code.max(ExitCode::CommandFailed);
                }
            }
            Err(error) => {
                let message = format!("{name} cannot be stopped: {error}");
                code = code.max(output.error(ExitCode::CommandFailed, &message));
            }
        }
    }
    code
}

fn stop(directory: &RunDirectory, run: &Registered, timeout: Duration) -> std::io::Result<Stopped> {
    let began = Instant::now();
    let registration = &run.registration;
    let mut was_killed = false;
    if let Some(process) = registration.process.open()? {
        send(&process, Signal::TERM)?;
        if !has_ended(&process, timeout)? {
            was_killed = true;
            // The process that the driver runs in ends with the one that watches it.
            send(&process, Signal::KILL)?;
            has_ended(&process, timeout)?;
        }
    }
    directory.remove_stale(&run.folder);
    Ok(Stopped {
        name: registration.name.clone(),
        pid: registration.process.pid,
        was_killed,
        milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Waits for a process's end for as long as that.
fn has_ended(process: &OwnedFd, patience: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(count) => return Ok(count != 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, pid) = (&self.name, self.pid);
        let seconds = Duration::from_millis(self.milliseconds).as_secs_f64();
        if self.was_killed {
            write!(
                f,
                "{name}: process {pid} did not end after SIGTERM and was killed, after {seconds:.1} s"
            )
        } else {
            write!(f, "{name}: stopped, after {seconds:.1} s")
        }
    }
}
