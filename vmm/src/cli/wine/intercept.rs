//! `ringfence wine intercept`

use std::path::{Path, PathBuf};

use super::configuration::{self, Configuration};
use super::install::checked_policy;
use super::prefix::Prefix;
use super::{Failure, Where, say};

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

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let configuration = Configuration::of(&prefix);
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

fn system_file(prefix: &Prefix) -> PathBuf {
    prefix.windows().join("system32").join(PROGRAM)
}

fn turn_on(
    prefix: &Prefix,
    configuration: &Configuration,
    policy: Option<&Path>,
) -> Result<(), Failure> {
    configuration.write_common(prefix, Some(policy))?;
    let file = system_file(prefix);
    if !configuration.is_intercepting() {
        let own = std::fs::read(&file).map_err(|error| Failure::file(&file, &error))?;
        configuration::write(&configuration.winedevice(), &own)?;
    }
    configuration::write(&file, prefix.files().winedevice)?;
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
    let kept = configuration.winedevice();
    let own = std::fs::read(&kept).map_err(|error| Failure::file(&kept, &error))?;
    configuration::write(&system_file(prefix), &own)?;
    configuration::remove(&kept)?;
    configuration.tidy()
}
