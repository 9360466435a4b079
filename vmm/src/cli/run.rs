//! `ringfence run`

use super::launching::Launching;
use super::option_values::{parse_memory, parse_timeout, parse_windows};
use super::output::Output;
use crate::error_chain;
use crate::files::FilesOption;
use crate::launch::{Begun, LaunchError, Presence, begin, memory};
use crate::observe::escape::escape;
use crate::observe::output::TraceOutput;
use crate::policy::{Policy, device_help};
use crate::recording::{Keep, Recorder};
use crate::session::access::Access;
use crate::session::command::{Command, HELP, parse_script_line};
use crate::session::driver::{DriverError, RunningMachine};
use crate::session::exit_code::ExitCode;
use crate::session::interpreter::{Interpreter, Outcome};
use crate::session::interrupt::Interrupt;
use crate::session::server::Server;
use crate::session::{Confinement, Launch, Machine, StartError, start_confined};
use abi::Privilege;
use abi::windows::Windows;
use std::fs::File;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// Largest script, in bytes.
const SCRIPT_MAX: u64 = 16 << 20;

/// Run a driver in a guest of its own
///
/// With commands (-c, --script): runs them in order, stops at the first that fails, unloads nothing by itself and ends.
/// Without: stays in the foreground until SIGINT or SIGTERM. With --socket or --name it serves clients (after the
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
    /// A device model that the driver finds, such as lpt:base=0x378,irq=7,out=bytes.bin; may be given several times.
    /// `--device help` lists the models and their keys
    #[arg(long, value_name = "MODEL:KEY=VALUE,...")]
    device: Vec<String>,
    /// Registry contents for the driver, a .toml or .reg file; keys without a hive are below its service key
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,
    /// Write the registry, as it is at the end, to a .toml or .reg file (it may be the one of --registry)
    #[arg(long, value_name = "FILE", visible_alias = "registry-save")]
    save_registry: Option<PathBuf>,
    /// The directory that the driver's file functions see as C:\; with :ro only to read
    #[arg(long, value_name = "DIR[:ro]")]
    files: Option<String>,
    /// Where shim and driver run inside the guest; auto picks what suits this KVM (see `ringfence doctor`)
    #[arg(long, value_enum, default_value = "auto")]
    privilege: PrivilegeArgument,
    /// Which Windows the guest is: xp (SP3), 7 (SP1), 10 (22H2) or 11 (23H2); 7 for i386 drivers and 10 for amd64
    /// ones unless set
    #[arg(long, value_name = "VERSION", value_parser = parse_windows)]
    windows: Option<Windows>,
    /// Guest memory, such as 16M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_memory)]
    memory: u64,
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

/// All commands, parsed before anything starts; `None` if none were asked for (an empty script is a script).
pub(super) fn commands(
    lines: &[String],
    script: Option<&Path>,
) -> Result<Option<Vec<Command>>, String> {
    if lines.is_empty() && script.is_none() {
        return Ok(None);
    }
    let mut commands = Vec::new();
    for line in lines {
        let command = line.parse();
        commands.push(command.map_err(|error| format!("in -c `{}`: {error}", escape(line)))?);
    }
    if let Some(path) = script {
        let name = escape(&path.display().to_string());
        let text =
            read_script(path).map_err(|error| format!("cannot read the script {name}: {error}"))?;
        for (number, line) in (1..).zip(text.lines()) {
            let command = parse_script_line(line);
            commands.extend(command.map_err(|error| format!("{name}:{number}: {error}"))?);
        }
    }
    Ok(Some(commands))
}

fn read_script(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(SCRIPT_MAX + 1)
        .read_to_end(&mut bytes)?;
    let invalid = |message| Error::new(ErrorKind::InvalidData, message);
    if bytes.len() as u64 > SCRIPT_MAX {
        return Err(invalid(format!("more than {SCRIPT_MAX} bytes")));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let before = error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to());
        let line = before.filter(|&&byte| byte == b'\n').count() + 1;
        invalid(format!("line {line} is not UTF-8 text"))
    })?;
    // Editors on Windows begin a file with a byte order mark.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// Everything that can be wrong before a machine exists.
struct Prepared {
    commands: Option<Vec<Command>>,
    launch: Launch,
    access: Access,
    interrupt: Interrupt,
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
        &self.device
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
    run(arguments, arguments.record.as_deref(), false)
}

/// As [`main`], with the accesses recorded in `record`, for a policy that is learned from them.
pub(super) fn main_learning(arguments: &Arguments, record: &Path) -> ExitCode {
    run(arguments, Some(record), true)
}

fn run(arguments: &Arguments, record: Option<&Path>, is_learning: bool) -> ExitCode {
    let mut output = Output::new(arguments.json);
    if arguments.device.iter().any(|device| device == "help") {
        return match write!(io::stdout(), "{}", device_help()) {
            Ok(()) => ExitCode::Success,
            Err(_) => ExitCode::CommandFailed,
        };
    }
    let wish = arguments.launching.wish(
        arguments.socket.as_deref(),
        &arguments.drivers,
        arguments.policy.as_deref(),
        arguments.memory,
    );
    let presence = match begin(&wish) {
        Ok(Begun::Run(presence)) => *presence,
        Ok(Begun::Ended(code)) => return code,
        Err(error) => {
            let code = match error {
                LaunchError::Process(_) | LaunchError::Log { .. } => ExitCode::CommandFailed,
                _ => ExitCode::Usage,
            };
            return output.error(code, &error_chain(&error));
        }
    };
    let prepared = match prepare(arguments, record, is_learning) {
        Ok(prepared) => prepared,
        Err(message) => return output.error(ExitCode::Usage, &message),
    };
    present(arguments, prepared, presence, &mut output)
}

/// Runs the driver, with the run's place among the others taken.
fn present(
    arguments: &Arguments,
    prepared: Prepared,
    mut presence: Presence,
    output: &mut Output,
) -> ExitCode {
    let interrupt = prepared.interrupt;
    if let Err(error) = presence.admit(prepared.access) {
        return output.error(ExitCode::Usage, &error_chain(&error));
    }
    let max_memory = arguments.launching.max_memory();
    if let Err(error) = max_memory.map_or(Ok(()), memory::begin) {
        return output.error(
            ExitCode::CommandFailed,
            &format!("no --max-memory: {error}"),
        );
    }
    // What is opened or removed later by a name that the user gave.
    let names_files = arguments.files.is_some()
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
            return start_failed(&error, output);
        }
    };
    if let Some(path) = &arguments.save_registry {
        machine.save_registry_to(path);
    }
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
    let (commands, mut server) = (prepared.commands, presence.take_server());
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
        commands.as_deref(),
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

fn prepare(
    arguments: &Arguments,
    record: Option<&Path>,
    is_learning: bool,
) -> Result<Prepared, String> {
    let commands = commands(&arguments.command, arguments.script.as_deref())?;
    let policy = match &arguments.policy {
        None => Policy::deny_all(),
        Some(path) => Policy::from_path(path).map_err(|error| error_chain(&error))?,
    };
    let mut policy = policy
        .with_devices(&arguments.device)
        .map_err(|error| error_chain(&error))?;
    if is_learning {
        policy = policy.for_learning();
    }
    policy
        .check_guest_memory(arguments.memory)
        .map_err(|error| error_chain(&error))?;
    for warning in policy.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &arguments.save_registry {
        crate::registry::check_name(path).map_err(|error| error_chain(&error))?;
    }
    let registry = match &arguments.registry {
        None => None,
        Some(path) => {
            // What a file says of no service in particular is for the driver on top.
            let top = arguments.drivers.last().map(PathBuf::as_path);
            let service = crate::session::service_name(top.unwrap_or_else(|| Path::new("")));
            Some(crate::registry::read(path, &service).map_err(|error| error_chain(&error))?)
        }
    };
    let trace = match &arguments.trace {
        None => None,
        Some(path) => Some((
            TraceOutput::open(path).map_err(|error| error.to_string())?,
            arguments.json,
        )),
    };
    let recorder = match record {
        None => None,
        Some(path) => {
            let keep = arguments.record_last.map_or(Keep::All, |count| {
                Keep::Last(usize::try_from(count).unwrap_or(usize::MAX))
            });
            Some(Recorder::create(path, keep).map_err(|error| error.to_string())?)
        }
    };
    let interrupt =
        Interrupt::install().map_err(|error| format!("cannot take signals over: {error}"))?;
    let access = Access::new(policy.clients()).map_err(|error| error_chain(&error))?;
    Ok(Prepared {
        commands,
        access,
        launch: Launch {
            drivers: arguments.drivers.clone(),
            available: arguments.available.clone(),
            policy,
            privilege: match arguments.privilege {
                PrivilegeArgument::Auto => None,
                PrivilegeArgument::Ring0 => Some(Privilege::Ring0),
                PrivilegeArgument::Ring3 => Some(Privilege::Ring3),
            },
            memory_bytes: arguments.memory,
            timeout: arguments.timeout,
            processor_share: arguments.launching.processor_share(),
            trace,
            recorder,
            save_registry: arguments.save_registry.clone(),
            registry,
            files: arguments.files.as_deref().map(FilesOption::parse),
            is_strict: arguments.strict,
            windows: arguments.windows,
            is_verifying: arguments.verify && !arguments.no_verify,
            is_pnp_held: arguments.no_pnp_start,
        },
        interrupt,
    })
}

fn start_failed(error: &StartError, output: &mut Output) -> ExitCode {
    let code = match error {
        StartError::Driver(error) => return lost("start", error, output),
        StartError::DriverEntry { status, .. } => {
            return lost("DriverEntry", &DriverError::Status(*status), output);
        }
        StartError::Image { .. }
        | StartError::Map { .. }
        | StartError::Unbound { .. }
        | StartError::MixedAbi { .. } => ExitCode::ImageRejected,
        StartError::Kvm(_) => ExitCode::KvmUnavailable,
        StartError::File { .. }
        | StartError::Files { .. }
        | StartError::NoFile(_)
        | StartError::NoDriver
        | StartError::NoDeviceDriver(_)
        | StartError::Windows(_)
        | StartError::Ring0Unavailable => ExitCode::Usage,
        StartError::Create(_)
        | StartError::Ports(_)
        | StartError::Memory(_)
        | StartError::Msrs(_)
        | StartError::Interrupts(_)
        | StartError::Vfio(_)
        | StartError::Dma(_)
        | StartError::Registry(_)
        | StartError::Device(_)
        | StartError::Privileges(_)
        | StartError::ProcessorShare(_)
        | StartError::Thread(_) => ExitCode::CommandFailed,
    };
    output.error(code, &escape(&error_chain(error)))
}

fn lost(what: &str, error: &DriverError, output: &mut Output) -> ExitCode {
    let outcome = Outcome::driver_error(what, error);
    let _ = output.outcome(&outcome);
    outcome.exit
}

/// Runs the commands, calls `ready`, then serves or waits; see [`Arguments`].
pub(super) fn drive(
    machine: &Arc<dyn RunningMachine>,
    commands: Option<&[Command]>,
    server: Option<&Server>,
    interrupt: Interrupt,
    output: &mut Output,
    ready: impl FnOnce(),
) -> ExitCode {
    let stop = match EventFd::new(libc::EFD_CLOEXEC)
        .and_then(|stop| Ok((stop.try_clone()?, stop.try_clone()?, stop)))
    {
        Ok((for_machine, for_signal, stop)) => {
            machine.notify_stop(for_machine);
            let machine = Arc::clone(machine);
            let watcher = std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || {
                    interrupt.wait();
                    crate::launch::stopping();
                    // What waits for the guest returns now.
                    machine.shutdown();
                    let _ = for_signal.write(1);
                });
            if let Err(error) = watcher {
                return output.error(
                    ExitCode::CommandFailed,
                    &format!("cannot start a thread: {error}"),
                );
            }
            stop
        }
        Err(error) => {
            return output.error(
                ExitCode::CommandFailed,
                &format!("cannot make an event: {error}"),
            );
        }
    };
    if let Some(commands) = commands {
        let code = run_commands(&**machine, commands, output);
        if code != ExitCode::Success || server.is_none() {
            return code;
        }
    }
    ready();
    let waited = match server {
        Some(server) => server.serve(machine, &stop),
        None => stop.read().map(|_| ()),
    };
    if let Err(error) = waited {
        return output.error(ExitCode::CommandFailed, &format!("cannot wait: {error}"));
    }
    match machine.stopped() {
        // Asked for by a signal.
        _ if interrupt.is_set() => ExitCode::Success,
        Some(error) => lost("run", &error, output),
        None => ExitCode::Success,
    }
}

fn run_commands(
    machine: &dyn RunningMachine,
    commands: &[Command],
    output: &mut Output,
) -> ExitCode {
    let driver = match machine.connect() {
        Ok(driver) => driver,
        Err(error) => return lost("connect", &error, output),
    };
    let mut interpreter = Interpreter::new(driver);
    for command in commands {
        let outcome = interpreter.execute(command);
        let is_closed = output.outcome(&outcome).is_err();
        if is_closed && outcome.is_success() {
            return ExitCode::CommandFailed;
        }
        if !outcome.is_success() {
            return outcome.exit;
        }
    }
    // A driver may crash after it has answered.
    match machine.stopped() {
        Some(error) => lost("run", &error, output),
        None => ExitCode::Success,
    }
}
