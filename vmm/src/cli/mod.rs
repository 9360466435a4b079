//! The command line. One file for each subcommand; results go to stdout, everything else to stderr.

use crate::session::exit_code::ExitCode;
use clap::{Parser, Subcommand};

mod ctl;
mod doctor;
mod driver_options;
mod inspect;
mod launching;
mod learn;
mod logs;
mod named_files;
mod option_values;
mod output;
mod policy;
mod ps;
mod run;
mod stats;
mod stop;
#[cfg(test)]
mod tests;
mod trace;
mod wine;

use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  a command failed; its NTSTATUS was printed. Or something that the run needs cannot be
     had (a back end of the policy, a device model, memory), or a device has failed
  2  usage: arguments, script or policy are not well formed
  3  the driver's image was rejected
  4  the driver crashed; a crash report was printed
  5  KVM is unavailable
  6  timed out

Logs go to stderr; RINGFENCE_LOG=debug (or -v) shows more, RINGFENCE_LOG=error less.

First steps:
  ringfence doctor                          what this machine can do
  ringfence inspect giveio.sys              what a driver needs
  ringfence run giveio.sys -c 'open \\\\.\\giveio' -c 'inb 0x379'";

/// Runs Windows kernel drivers on Linux, each in a tiny KVM guest of its own.
///
/// A small NT kernel inside the guest stands in for ntoskrnl.exe and hal.dll; outside, every port access of the driver
/// is checked against a policy that you write. By default everything is denied.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, after_help = EXIT_CODES)]
struct Cli {
    /// Show more logs: -v for debug, -vv for trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Inspect(inspect::Arguments),
    // Boxed: by far the largest.
    Run(Box<run::Arguments>),
    Ctl(ctl::Arguments),
    Ps(ps::Arguments),
    Stop(stop::Arguments),
    Logs(logs::Arguments),
    Stats(stats::Arguments),
    Policy(policy::Arguments),
    Trace(trace::Arguments),
    Doctor(doctor::Arguments),
    Wine(wine::Arguments),
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let is_json = arguments.iter().any(|argument| argument == "--json");
            return usage(&error, is_json);
        }
    };
    start_logging(cli.verbose);
    match cli.command {
        Subcommands::Inspect(arguments) => inspect::main(&arguments),
        Subcommands::Run(arguments) => run::main(&arguments),
        Subcommands::Ctl(arguments) => ctl::main(&arguments),
        Subcommands::Ps(arguments) => ps::main(&arguments),
        Subcommands::Stop(arguments) => stop::main(&arguments),
        Subcommands::Logs(arguments) => logs::main(&arguments),
        Subcommands::Stats(arguments) => stats::main(&arguments),
        Subcommands::Policy(arguments) => policy::main(&arguments),
        Subcommands::Trace(arguments) => trace::main(&arguments),
        Subcommands::Doctor(arguments) => doctor::main(&arguments),
        Subcommands::Wine(arguments) => wine::main(&arguments),
    }
}

/// `--help` and `--version` are no errors.
fn usage(error: &clap::Error, is_json: bool) -> ExitCode {
    if is_json && error.use_stderr() {
        let mut output = Output::new(true);
        let text = error.to_string();
        let text = text.trim_end().trim_start_matches("error: ");
        return output.error(ExitCode::Usage, text);
    }
    // A closed stdout or stderr: there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::Usage
    } else {
        ExitCode::Success
    }
}

fn start_logging(verbose: u8) {
    let default = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGFENCE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(crate::launch::LogWriter::default)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        // It would write to stderr about a closed stderr.
        .log_internal_errors(false);
    // Already started: a test's subscriber stays.
    let _ = logging.try_init();
}
