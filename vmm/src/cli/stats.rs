//! `ringfence stats`

use super::ctl;
use super::launching::RunDirectoryArgument;
use crate::session::exit_code::ExitCode;

/// Show a running driver's counters
///
/// What `ringfence ctl NAME stats` does.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The driver's name, as `ringfence ps` shows it, or its socket
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: RunDirectoryArgument,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let commands = ["stats".to_owned()];
    ctl::send(
        &arguments.name,
        &arguments.directory,
        &commands,
        arguments.json,
    )
}
