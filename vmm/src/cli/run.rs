//! `ringfence run`

mod commands;
mod drive;
mod failure;
mod prepare;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::drive::drive;
use self::failure::{has_run, start_failed};
use self::prepare::{Prepared, prepare};
use super::driver_options::Surroundings;
use super::launching::Launching;
use super::option_values::parse_timeout;
use super::output::Output;
use crate::error_chain;
use crate::launch::{Begun, LaunchError, Presence, begin, memory};
use crate::observe::escape::escape;
use crate::policy::device_help;
use crate::session::command::{Command, HELP};
use crate::session::driver::RunningMachine;
use crate::session::exit_code::ExitCode;
use crate::session::interrupt::Interrupt;
use crate::session::{Confinement, Machine, StartError, start_confined};

/// Run a driver in a guest of its own
///
/// With commands (-c, --script): runs them in order, stops at the first that fails, unloads nothing by itself and ends.
/// Without: stays in the foreground until SIGINT, SIGTERM, SIGHUP or `unload`. With --socket or --name it serves clients (after the
/// commands, if there are any), and `ringfence ps` shows it.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Arguments {
    /// The drivers' files (.sys), i386 or amd64, the lowest first; each may import from those before it
    #[arg(required_unless_present = "device", value_name = "DRIVER")]
    drivers: Vec<PathBuf>,
    /// A driver that is not started, but that ZwLoadDriver may start; may be given several times
    #[arg(long, value_name = "FILE")]
    available: Vec<PathBuf>,
    /// What the driver may touch (TOML); without it everything is denied
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Write the registry, as it is at the end, to a .toml or .reg file (it may be the one of --registry)
    #[arg(long, value_name = "FILE", visible_alias = "registry-save")]
    save_registry: Option<PathBuf>,
    /// Where shim and driver run inside the guest; auto picks what suits this KVM (see `ringfence doctor`)
    #[arg(long, value_enum, default_value = "auto")]
    privilege: PrivilegeArgument,
    /// How long the guest may take for an answer, such as 10 or 0.5
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_timeout)]
    timeout: Duration,
    /// Refuse a driver that imports what Ringfence does not have
    #[arg(long)]
    strict: bool,
    /// Check the driver's use of the pool as Driver Verifier's special pool does: overruns, underruns, uses after free,
    /// double frees and leaks stop the guest (slower, and a page for each block)
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,
    /// Do not check it: the default
    #[arg(long = "no-verify", overrides_with = "verify")]
    no_verify: bool,
    /// Give PnP drivers their device (AddDevice) but do not start it: `pnp start` does
    #[arg(long)]
    no_pnp_start: bool,
    /// Serve `ringfence ctl` at this path
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Write API calls, IRPs and port accesses to a file; - is stderr
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Record every access to hardware in a file; `ringfence trace FILE` shows it
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Keep only the last so many accesses, in memory until the end
    #[arg(long, value_name = "COUNT", requires = "record", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    record_last: Option<u32>,
    /// Print JSON, one object a line; traces are JSON too
    #[arg(long)]
    json: bool,
    /// A command; may be given several times
    #[arg(short, long, value_name = "COMMAND")]
    command: Vec<String>,
    /// A file of commands, one a line, run after those of -c
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    #[command(flatten)]
    launching: Launching,
}

fn after_help() -> String {
    format!(
        "{HELP}\n\nExamples:\n  \
         ringfence run giveio.sys --policy lpt.toml -c '! outb 0x378 0x41' -c 'open \\\\.\\giveio' -c 'outb 0x378 0x41'\n  \
         ringfence run driver.sys --trace - -c 'open \\Device\\x' -c 'ioctl 0x9c402004 u16:0x379 1'\n  \
         ringfence run driver.sys --socket /tmp/driver.sock\n  \
         ringfence run driver.sys --name adc --detach --restart on-crash; ringfence ps"
    )
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PrivilegeArgument {
    Auto,
    Ring0,
    Ring3,
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    pub(super) fn policy(&self) -> Option<&Path> {
        self.policy.as_deref()
    }

    /// The `--device` options.
    pub(super) fn devices(&self) -> &[String] {
        &self.surroundings.device
    }

    pub(super) fn record(&self) -> Option<&Path> {
        self.record.as_deref()
    }

    /// Whether the run may be another process's.
    pub(super) fn is_launched(&self) -> bool {
        self.launching.is_launched()
    }

    /// The drivers' names.
    pub(super) fn title(&self) -> String {
        let names: Vec<String> = self
            .drivers
            .iter()
            .map(|driver| escape(&driver.display().to_string()))
            .collect();
        names.join(", ")
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    run(arguments, arguments.record.as_deref(), None).code
}

/// As [`main`], with the accesses recorded in `record`, for a policy that is learned from them and written to `learned`.
pub(super) fn main_learning(arguments: &Arguments, record: &Path, learned: &Path) -> Ended {
    run(arguments, Some(record), Some(learned))
}

/// How a run has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) code: ExitCode,
    /// Whether a driver's code has been executed.
    pub(super) has_run: bool,
}

impl From<ExitCode> for Ended {
    /// Before anything has run.
    fn from(code: ExitCode) -> Self {
        Self {
            code,
            has_run: false,
        }
    }
}

fn run(arguments: &Arguments, record: Option<&Path>, learned: Option<&Path>) -> Ended {
    let mut output = Output::new(arguments.json);
    if arguments.surroundings.asks_for_help() {
        return match write!(io::stdout(), "{}", device_help()) {
            Ok(()) => ExitCode::Success.into(),
            Err(_) => ExitCode::CommandFailed.into(),
        };
    }
    let guest_memory = arguments.surroundings.memory;
    if let Err(message) = arguments.launching.limits().check(guest_memory) {
        return output.error(ExitCode::Usage, &message).into();
    }
    let wish = arguments.launching.wish(
        arguments.socket.as_deref(),
        &arguments.drivers,
        arguments.policy.as_deref(),
        guest_memory,
    );
    let presence = match begin(&wish) {
        Ok(Begun::Run(presence)) => *presence,
        Ok(Begun::Ended(code)) => return code.into(),
        Err(error) => {
            let code = match error {
                LaunchError::Process(_) | LaunchError::Log { .. } => ExitCode::CommandFailed,
                _ => ExitCode::Usage,
            };
            return output.error(code, &error_chain(&error)).into();
        }
    };
    let prepared = match prepare(arguments, record, learned) {
        Ok(prepared) => prepared,
        Err(message) => return output.error(ExitCode::Usage, &message).into(),
    };
    present(arguments, prepared, presence, &mut output)
}

/// Runs the driver, with the run's place among the others taken.
fn present(
    arguments: &Arguments,
    prepared: Prepared,
    mut presence: Presence,
    output: &mut Output,
) -> Ended {
    let interrupt = prepared.interrupt;
    if let Err(error) = presence.admit(prepared.access) {
        return output.error(ExitCode::Usage, &error_chain(&error)).into();
    }
    if let Some(max) = arguments.launching.limits().max_memory
        && let Err(error) = memory::begin(max, arguments.surroundings.memory)
    {
        return output.error(ExitCode::Usage, &error_chain(&error)).into();
    }
    // What is opened or removed later by a name that the user gave.
    let names_files = arguments.surroundings.files().is_some()
        || arguments.save_registry.is_some()
        || arguments.socket.is_some();
    let confinement = if names_files {
        Confinement::Files
    } else {
        Confinement::Nothing
    };
    let machine = match start_confined(prepared.launch, Some(interrupt), confinement) {
        Ok(machine) => machine,
        Err(error) => {
            if let StartError::Driver(error) = &error {
                presence.crashed(error);
            }
            return Ended {
                has_run: has_run(&error),
                code: start_failed(&error, output),
            };
        }
    };
    if let Some(path) = &arguments.save_registry {
        machine.save_registry_to(path);
    }
    Ended {
        code: running(
            arguments,
            machine,
            prepared.commands.as_deref(),
            interrupt,
            presence,
            output,
        ),
        has_run: true,
    }
}

/// What comes when DriverEntry has returned.
fn running(
    arguments: &Arguments,
    machine: Machine,
    commands: Option<&[Command]>,
    interrupt: Interrupt,
    mut presence: Presence,
    output: &mut Output,
) -> ExitCode {
    let machine = Arc::new(machine);
    let running: Arc<dyn RunningMachine> = Arc::<Machine>::clone(&machine);
    let driver = arguments.title();
    tracing::info!("{driver} is running");
    if arguments.json {
        let started = Started {
            event: "started",
            driver,
            name: presence.name(),
            socket: presence.socket(),
        };
        if output.result("", &started).is_err() {
            machine.shutdown();
            return ExitCode::Success;
        }
    }
    let mut server = presence.take_server();
    let max_memory = arguments.launching.limits().max_memory;
    match max_memory.map(memory::divide).transpose() {
        Ok(Some(budget)) => {
            if let Some(server) = &mut server {
                server.limit_memory(budget);
            }
        }
        Ok(None) => {}
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    }
    let code = drive(
        &running,
        commands,
        server.as_ref(),
        interrupt,
        output,
        || presence.ready(&machine, arguments.timeout),
    );
    presence.stopping();
    if let Some(error) = machine.stopped() {
        presence.crashed(&error);
    }
    machine.shutdown();
    if let (Some(message), ExitCode::Success) = (machine.registry_failure(), code) {
        return output.error(ExitCode::CommandFailed, &message);
    }
    match machine.failed_devices().as_slice() {
        [] => code,
        // The log has each; what they could not write is lost, so the run has not succeeded.
        failed if code == ExitCode::Success => {
            output.error(ExitCode::CommandFailed, &escape(&failed.join("; ")))
        }
        _ => code,
    }
}

/// With --json, the first line: DriverEntry has returned.
#[derive(serde::Serialize)]
struct Started {
    event: &'static str,
    driver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
}
