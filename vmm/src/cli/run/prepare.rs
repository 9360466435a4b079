//! What a run needs before its machine starts: everything that its options name is read, opened and checked.

use std::path::{Path, PathBuf};

use super::commands::commands;
use super::{Arguments, PrivilegeArgument};
use crate::cli::driver_options::Rules;
use crate::cli::named_files::NamedFiles;
use crate::error_chain;
use crate::observe::output::TraceOutput;
use crate::recording::{Keep, Recorder};
use crate::session::Launch;
use crate::session::access::Access;
use crate::session::command::Command;
use crate::session::interrupt::Interrupt;
use abi::Privilege;

/// Everything that can be wrong before a machine exists.
pub(super) struct Prepared {
    pub(super) commands: Option<Vec<Command>>,
    pub(super) launch: Launch,
    pub(super) access: Access,
    pub(super) interrupt: Interrupt,
}

pub(super) fn prepare(
    arguments: &Arguments,
    record: Option<&Path>,
    learned: Option<&Path>,
) -> Result<Prepared, String> {
    let commands = commands(&arguments.command, arguments.script.as_deref())?;
    let surroundings = &arguments.surroundings;
    let rules = surroundings.rules(arguments.policy.as_deref())?;
    named_files(arguments, &rules, learned).check()?;
    let mut policy = rules.policy;
    if learned.is_some() {
        policy = policy.for_learning();
    }
    policy
        .check_guest_memory(surroundings.memory)
        .map_err(|error| error_chain(&error))?;
    for warning in policy.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &arguments.save_registry {
        crate::registry::check_output(path).map_err(|error| error_chain(&error))?;
    }
    // What a file says of no service in particular is for the driver on top.
    let top = arguments.drivers.last().map(PathBuf::as_path);
    let service = crate::session::service_name(top.unwrap_or_else(|| Path::new("")));
    let registry = surroundings.registry(&service)?;
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
    // Only now: a FIFO among the outputs may have been waited for, which a signal is to end.
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
            memory_bytes: surroundings.memory,
            timeout: arguments.timeout,
            processor_share: arguments.launching.limits().cpu,
            trace,
            recorder,
            save_registry: arguments.save_registry.clone(),
            registry,
            files: surroundings.files(),
            is_strict: arguments.strict,
            windows: surroundings.windows,
            is_verifying: arguments.verify && !arguments.no_verify,
            is_pnp_held: arguments.no_pnp_start,
        },
        interrupt,
    })
}

/// What the options name, and the rules.
fn named_files(arguments: &Arguments, rules: &Rules, learned: Option<&Path>) -> NamedFiles {
    let mut files = NamedFiles::default();
    for driver in &arguments.drivers {
        files.reads("DRIVER", driver);
    }
    for driver in &arguments.available {
        files.reads("--available", driver);
    }
    for (option, path) in [
        ("--policy", &arguments.policy),
        ("--script", &arguments.script),
        ("--registry", &arguments.surroundings.registry),
    ] {
        if let Some(path) = path {
            files.reads(option, path);
        }
    }
    rules.add_files(&mut files);
    for (option, path) in [
        ("--trace", arguments.trace.as_deref()),
        ("--record", arguments.record.as_deref()),
        ("--save-registry", arguments.save_registry.as_deref()),
        ("--output", learned),
    ] {
        if let Some(path) = path {
            files.writes(option, path);
        }
    }
    files
}
