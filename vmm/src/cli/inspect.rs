//! `ringfence inspect`

use super::output::Output;
use crate::error_chain;
use crate::loader::Image;
use crate::loader::report::InspectReport;
use crate::observe::escape::{escape, escape_lines};
use crate::readiness::{Readiness, Verdict};
use crate::session::exit_code::ExitCode;
use crate::session::{import_status, read_driver};
use std::path::PathBuf;

/// Show what a driver is, what it needs, and whether Ringfence is ready for it
///
/// Every import is implemented, partial (with what is missing), missing (known, but a call stops the guest) or unknown.
/// A driver with missing imports still loads: only a call of one stops it.
///
/// From the code: dispatch routines, device names, I/O control codes, privileged instructions, what DriverEntry can
/// reach, and a verdict: ready, probably, will stop, or cannot load.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ringfence inspect giveio.sys\n  ringfence inspect --json giveio.sys | jq '.imports[] | select(.status != \"implemented\")'"
)]
pub(super) struct Arguments {
    /// The driver's file (.sys)
    driver: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What --json prints.
#[derive(serde::Serialize)]
struct Report {
    #[serde(flatten)]
    report: InspectReport,
    readiness: Readiness,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(arguments.json);
    let shown = escape(&arguments.driver.display().to_string());
    let bytes = match read_driver(&arguments.driver) {
        Ok(bytes) => bytes,
        Err(error) => return output.error(ExitCode::Usage, &escape(&error_chain(&error))),
    };
    let image = match Image::parse(&bytes) {
        Ok(image) => image,
        Err(error) => {
            let message = format!("{shown} is rejected: {}", escape(&error_chain(&error)));
            return output.error(ExitCode::ImageRejected, &message);
        }
    };
    let abi = image.abi;
    let report = InspectReport::new(&image, |dll, name, _ordinal| import_status(abi, dll, name));
    let readiness = Readiness::new(&image, |dll, name| import_status(abi, dll, name));
    let text = escape_lines(&format!("{report}{readiness}"));
    let code = match readiness.verdict {
        Verdict::CannotLoad { .. } => ExitCode::ImageRejected,
        _ => ExitCode::Success,
    };
    let report = Report { report, readiness };
    match output.result(&text, &report) {
        Ok(()) => code,
        Err(_) => ExitCode::CommandFailed,
    }
}
