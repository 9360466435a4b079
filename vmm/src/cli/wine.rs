//! `ringfence wine`

mod configuration;
mod install;
mod intercept;
mod list;
mod lock;
mod options;
mod port_files;
mod prefix;
mod remove;
mod run;
mod service;
mod sockets;
mod state;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;

use super::output::Output;
use crate::session::exit_code::ExitCode;

/// Use drivers from Windows programs under Wine
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(install::Arguments),
    List(list::Arguments),
    Remove(remove::Arguments),
    Intercept(intercept::Arguments),
    Run(run::Arguments),
}

/// Which Wine is meant.
#[derive(Debug, clap::Args)]
struct Where {
    /// The Wine prefix [default: WINEPREFIX, or Wine's own]
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
    /// The program that is Wine
    #[arg(long, value_name = "PROGRAM", env = "WINE", default_value = "wine")]
    wine: OsString,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
struct Failure {
    code: ExitCode,
    message: String,
}

impl Failure {
    /// What was asked for cannot be right.
    fn usage(message: impl Into<String>) -> Self {
        Self {
            code: ExitCode::Usage,
            message: message.into(),
        }
    }

    /// It did not work.
    fn failed(message: impl Into<String>) -> Self {
        Self {
            code: ExitCode::CommandFailed,
            message: message.into(),
        }
    }

    /// A file of the prefix could not be read, written or removed.
    fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(format!("{}: {error}", path.display()))
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.command {
        Command::Install(arguments) => install::main(arguments),
        Command::List(arguments) => list::main(arguments),
        Command::Remove(arguments) => remove::main(arguments),
        Command::Intercept(arguments) => intercept::main(arguments),
        Command::Run(arguments) => run::main(arguments),
    };
    match done {
        Ok(()) => ExitCode::Success,
        Err(Failure { code, message }) => Output::new(false).error(code, &message),
    }
}

/// Prints a line; a closed standard output changes nothing.
fn say(text: &str) {
    let _ = Output::new(false).result(text, &()).is_ok();
}
