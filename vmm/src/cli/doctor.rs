//! `ringfence doctor`

mod hardware;

use super::output::Output;
use crate::machine::host::{self, KvmKind};
use crate::policy::PciAddress;
use crate::session::exit_code::ExitCode;
use hardware::Hardware;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Say what this machine's KVM, hardware access and Wine allow
///
/// Each line is ok, warn (something optional is not there) or missing (drivers cannot run), with what to do.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: drivers can run here; 5: KVM is unavailable. With --pci 1: there is no such function."
)]
pub(super) struct Arguments {
    /// Say instead what can be passed through of this PCI function, such as 0000:00:03.0 (`lspci -D` lists them): BARs,
    /// interrupt, DMA
    #[arg(long, value_name = "FUNCTION", value_parser = parse_function)]
    pci: Option<PciAddress>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Warn,
    Missing,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) state: State,
    pub(super) subject: String,
    pub(super) finding: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) advice: String,
}

impl Check {
    fn new(state: State, subject: &str, finding: String, advice: &str) -> Self {
        Self {
            state,
            subject: subject.to_owned(),
            finding,
            advice: advice.to_owned(),
        }
    }
}

/// What was found out about this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The implementation, or why /dev/kvm cannot be used.
    pub(super) kvm: Option<Result<&'static str, String>>,
    /// Whether an SSE instruction at ring 0 worked.
    pub(super) ring0_works: bool,
    /// The mode that auto picks, and why.
    pub(super) automatic: Option<(&'static str, &'static str)>,
    /// Whether ioperm(2) gives this process a port.
    pub(super) has_ioperm: bool,
    /// Whether /dev/port exists and can be opened for reading and writing.
    pub(super) dev_port: Option<bool>,
    /// Where wine is.
    pub(super) wine: Option<String>,
}

impl Facts {
    fn gather() -> Self {
        let mut facts = Self {
            has_ioperm: crate::ports::probe_ioperm().is_ok(),
            dev_port: dev_port(),
            wine: find_wine(),
            ..Self::default()
        };
        match host::open() {
            Ok(kvm) => {
                let choice = host::choose_privilege(&kvm);
                facts.kvm = Some(Ok(KvmKind::detect().name()));
                facts.ring0_works = host::runs_sse_at_ring0(&kvm);
                facts.automatic = Some((choice.privilege.name(), choice.reason));
            }
            Err(error) => facts.kvm = Some(Err(crate::error_chain(&error))),
        }
        facts
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let check = Check::new;
        let mut checks = Vec::new();
        match &self.kvm {
            Some(Ok(kind)) => {
                checks.push(check(
                    State::Ok,
                    "/dev/kvm",
                    format!("{kind}, API version 12"),
                    "",
                ));
                checks.push(if self.ring0_works {
                    check(
                        State::Ok,
                        "ring0",
                        "a probe executed SSE at ring 0".into(),
                        "",
                    )
                } else {
                    check(
                        State::Warn,
                        "ring0",
                        "a probe could not execute SSE at ring 0".into(),
                        "drivers run at ring 3 here, which Ringfence does by itself",
                    )
                });
            }
            Some(Err(error)) => checks.push(check(State::Missing, "/dev/kvm", error.clone(), "")),
            None => {}
        }
        if let Some((mode, reason)) = self.automatic {
            checks.push(check(
                State::Ok,
                "--privilege auto",
                format!("{mode}: {reason}"),
                "",
            ));
        }
        checks.push(if self.has_ioperm {
            check(State::Ok, "ioperm", "allowed".into(), "")
        } else {
            check(
                State::Warn,
                "ioperm",
                "not allowed here".into(),
                "for the policy's passthrough of real ports run as root or grant CAP_SYS_RAWIO; \
                 some cloud machines have no ports at all",
            )
        });
        checks.push(match self.dev_port {
            Some(true) => check(State::Ok, "/dev/port", "can be opened".into(), ""),
            Some(false) => check(
                State::Warn,
                "/dev/port",
                "no permission".into(),
                "for the policy's passthrough of real ports run as root",
            ),
            None => check(
                State::Warn,
                "/dev/port",
                "does not exist".into(),
                "only device models can answer ports here",
            ),
        });
        checks.push(match &self.wine {
            Some(path) => check(State::Ok, "wine", path.clone(), ""),
            None => check(
                State::Warn,
                "wine",
                "not found in PATH".into(),
                "only needed for Windows programs that use a driver",
            ),
        });
        checks
    }
}

struct Report<'a>(&'a [Check]);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, check) in self.0.iter().enumerate() {
            let state = match check.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Missing => "missing",
            };
            if index != 0 {
                writeln!(f)?;
            }
            write!(f, "{state:<8} {:<17} {}", check.subject, check.finding)?;
            if !check.advice.is_empty() {
                write!(f, "\n{:26} {}", "", check.advice)?;
            }
        }
        Ok(())
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(arguments.json);
    let hardware = Hardware {
        root: Path::new("/"),
    };
    if let Some(address) = arguments.pci {
        let Some(checks) = hardware.function(address) else {
            let message =
                format!("this machine has no PCI function {address}: `lspci -D` lists them");
            return output.error(ExitCode::CommandFailed, &message);
        };
        let object = serde_json::json!({"function": address.to_string(), "checks": checks});
        return match output.result(&render(&checks), &object) {
            Ok(()) => ExitCode::Success,
            Err(_) => ExitCode::CommandFailed,
        };
    }
    let mut checks = Facts::gather().checks();
    // Before what has nothing to do with hardware.
    let wine = checks.pop();
    checks.extend(hardware.checks());
    checks.extend(wine);
    let can_run = checks.iter().all(|check| check.state != State::Missing);
    let object = serde_json::json!({"can_run": can_run, "checks": checks});
    if output.result(&render(&checks), &object).is_err() {
        return ExitCode::CommandFailed;
    }
    if can_run {
        ExitCode::Success
    } else {
        ExitCode::KvmUnavailable
    }
}

pub(super) fn render(checks: &[Check]) -> String {
    Report(checks).to_string()
}

fn parse_function(text: &str) -> Result<PciAddress, String> {
    PciAddress::parse(text)
        .ok_or_else(|| format!("{text:?} is no PCI function; write 0000:00:03.0"))
}

fn dev_port() -> Option<bool> {
    let path = Path::new("/dev/port");
    if !path.exists() {
        return None;
    }
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    Some(opened.is_ok())
}

fn find_wine() -> Option<String> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|folder| [folder.join("wine"), folder.join("wine64")])
        .find(|file| file.is_file())
        .map(|file| file.display().to_string())
}
