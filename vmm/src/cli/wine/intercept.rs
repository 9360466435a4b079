//! `ringfence wine intercept`

use std::path::{Path, PathBuf};

use super::configuration::{self, Configuration};
use super::lock::Lock;
use super::options::whole;
use super::prefix::Prefix;
use super::{Failure, Where, say};
use crate::cli::driver_options::NO_STANDARD_OUTPUT;
use crate::error_chain;
use crate::observe::escape::escape;
use crate::policy::Policy;

/// Where Wine keeps whether it or the prefix provides a program.
const OVERRIDES: &str = r"HKCU\Software\Wine\DllOverrides";
const PROGRAM: &str = "winedevice.exe";

/// Run drivers that programs install themselves in micro-VMs
///
/// Programs such as those with inpout32.dll or WinIo take a driver out of themselves, install it as a service and start it.
/// With `on`, such a driver gets a micro-VM, whichever program brought it; Wine's own drivers are loaded as ever. Drivers
/// that run already are not affected before they are started again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringfence wine intercept on --policy lpt.toml
  ringfence wine intercept off")]
pub(super) struct Arguments {
    /// On or off
    #[arg(value_enum)]
    state: State,
    /// What these drivers may touch, all alike; read at each start [default: nothing]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    On,
    Off,
}

/// A policy's absolute path, if it can be read and understood now.
fn checked_policy(path: &Path) -> Result<PathBuf, Failure> {
    let policy = Policy::from_path(path).map_err(|error| Failure::usage(error_chain(&error)))?;
    if let Some(line) = policy.standard_output_line() {
        return Err(Failure::usage(format!(
            "{} (line {line}): {NO_STANDARD_OUTPUT}",
            escape(&path.display().to_string())
        )));
    }
    whole(path)
}

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let configuration = Configuration::of(&prefix);
    let _lock = Lock::of(&prefix)?;
    match arguments.state {
        State::On => {
            let policy = arguments
                .policy
                .as_deref()
                .map(checked_policy)
                .transpose()?;
            let turned_on = turn_on(&prefix, &configuration, policy.as_deref());
            if turned_on.is_err() {
                // The first error is the one to tell.
                let _ = turn_off(&prefix, &configuration).is_ok();
            }
            turned_on?;
            let policy =
                policy.map_or_else(|| "nothing".to_owned(), |path| path.display().to_string());
            say(&format!(
                "intercept: on in {}; allowed: {policy}; log: {}",
                prefix.path().display(),
                configuration.log().display()
            ));
        }
        State::Off if arguments.policy.is_some() => {
            return Err(Failure::usage("--policy goes with `on`"));
        }
        State::Off => {
            turn_off(&prefix, &configuration)?;
            say(&format!("intercept: off in {}", prefix.path().display()));
        }
    }
    Ok(())
}

/// A winedevice.exe of the prefix: one for each width.
struct WineDevice {
    file: PathBuf,
    /// Where Wine's own is kept meanwhile.
    kept: PathBuf,
    ours: &'static [u8],
}

fn wine_devices(prefix: &Prefix, configuration: &Configuration) -> Vec<WineDevice> {
    let widths = [
        ("system32", configuration.winedevice(), Some(prefix.files())),
        ("syswow64", configuration.winedevice_32(), prefix.files_32()),
    ];
    let existing = widths.into_iter().filter_map(|(folder, kept, files)| {
        Some(WineDevice {
            file: prefix.windows().join(folder).join(PROGRAM),
            kept,
            ours: files?.winedevice,
        })
    });
    existing.collect()
}

fn turn_on(
    prefix: &Prefix,
    configuration: &Configuration,
    policy: Option<&Path>,
) -> Result<(), Failure> {
    configuration.write_common(prefix, Some(policy))?;
    for device in wine_devices(prefix, configuration) {
        if !device.kept.exists() {
            let own =
                std::fs::read(&device.file).map_err(|error| Failure::file(&device.file, &error))?;
            configuration::write(&device.kept, &own)?;
        }
        configuration::write(&device.file, device.ours)?;
    }
    let add = ["reg", "add", OVERRIDES, "/v", PROGRAM, "/d", "native", "/f"];
    prefix.run(&add)?;
    Ok(())
}

fn turn_off(prefix: &Prefix, configuration: &Configuration) -> Result<(), Failure> {
    if !configuration.is_intercepting() {
        return configuration.tidy();
    }
    let query = ["reg", "query", OVERRIDES, "/v", PROGRAM];
    if prefix.run(&query).is_ok() {
        prefix.run(&["reg", "delete", OVERRIDES, "/v", PROGRAM, "/f"])?;
    }
    // The first's is what tells that the prefix intercepts, so it is the last to go.
    for device in wine_devices(prefix, configuration).iter().rev() {
        // A prefix that was set by an older version has kept one alone.
        if !device.kept.exists() {
            continue;
        }
        let own =
            std::fs::read(&device.kept).map_err(|error| Failure::file(&device.kept, &error))?;
        configuration::write(&device.file, &own)?;
        configuration::remove(&device.kept)?;
    }
    configuration.tidy()
}
