//! `ringfence ctl`

use super::launching::RunDirectoryArgument;
use super::output::Output;
use crate::error_chain;
use crate::observe::escape::escape_lines;
use crate::session::command::Command;
use crate::session::exit_code::ExitCode;
use crate::session::protocol::Request;
use ringfence_client::control::Control;
use serde_json::Value;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Send commands to a running driver
///
/// The commands of one call run in one process of the guest, which ends with the call: handles and granted
/// ports do not outlive it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each COMMAND is one argument, so quote it. `ringfence run --help` lists the commands.

Examples:
  ringfence ctl /run/giveio.sock 'open \\\\.\\giveio' 'outb 0x378 0x41' 'inb 0x379'
  ringfence ctl giveio stats")]
pub(super) struct Arguments {
    /// The driver's name, as `ringfence ps` shows it, or the path of its socket
    #[arg(value_name = "NAME|SOCKET")]
    target: String,
    /// Commands, in order; the first that fails ends the call
    #[arg(required = true)]
    command: Vec<String>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: RunDirectoryArgument,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    send(
        &arguments.target,
        &arguments.directory,
        &arguments.command,
        arguments.json,
    )
}

/// The socket of a run, by its name or by its path. Without a slash it is a run's name first: the current folder may have a
/// file of that name, such as the driver's.
fn socket(target: &str, directory: &RunDirectoryArgument) -> Result<PathBuf, String> {
    let path = Path::new(target);
    let is_socket = || {
        path.metadata()
            .is_ok_and(|metadata| metadata.file_type().is_socket())
    };
    if target.contains('/') {
        return Ok(path.to_path_buf());
    }
    let directory = match directory.locate() {
        Ok(directory) => directory,
        Err(_) if is_socket() => return Ok(path.to_path_buf()),
        Err(error) => return Err(error_chain(&error)),
    };
    match directory.find(target) {
        Ok(run) => run
            .registration
            .socket
            .ok_or_else(|| format!("{target} has no socket")),
        Err(_) if is_socket() => Ok(path.to_path_buf()),
        Err(unknown) => {
            // One that is not running, but is started when somebody connects: socket activation.
            let waiting = target.parse().ok().map(|name| directory.socket(&name));
            waiting
                .filter(|socket| socket.exists())
                .ok_or_else(|| unknown.to_string())
        }
    }
}

/// Sends commands to a run.
pub(super) fn send(
    target: &str,
    directory: &RunDirectoryArgument,
    commands: &[String],
    is_json: bool,
) -> ExitCode {
    let mut output = Output::new(is_json);
    // All are looked at before any is sent.
    for line in commands {
        if let Err(error) = line.parse::<Command>() {
            let hint = if commands.len() > 1 {
                " (each argument is one whole command: quote it)"
            } else {
                ""
            };
            return output.error(
                ExitCode::Usage,
                &format!("in `{}`: {error}{hint}", escape_lines(line)),
            );
        }
    }
    let socket = match socket(target, directory) {
        Ok(socket) => socket,
        Err(message) => return output.error(ExitCode::Usage, &message),
    };
    let control = match Control::connect(&socket) {
        Ok(control) => control,
        Err(error) => {
            let message = format!(
                "cannot connect to {}: {error}; is `ringfence run --socket` running?",
                socket.display()
            );
            return output.error(ExitCode::CommandFailed, &message);
        }
    };
    match converse(control, commands, &mut output) {
        Ok(code) => code,
        Err(error) => {
            let message = format!("the connection broke: {error}");
            output.error(ExitCode::CommandFailed, &message)
        }
    }
}

fn converse(
    mut control: Control,
    commands: &[String],
    output: &mut Output,
) -> io::Result<ExitCode> {
    for command in commands {
        let request = serde_json::to_string(&Request {
            command: command.clone(),
        })?;
        let line = control.ask(&request)?;
        let (text, code, reply) = read_reply(&line).ok_or_else(|| {
            let message = "what came is no reply; is this the socket of a `ringfence run`?";
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        if output.result(&text, &reply).is_err() {
            return Ok(ExitCode::CommandFailed);
        }
        if code != ExitCode::Success {
            return Ok(code);
        }
    }
    Ok(ExitCode::Success)
}

/// A reply's text, exit code and other fields; `None` if it is none.
fn read_reply(line: &str) -> Option<(String, ExitCode, Value)> {
    let mut reply: Value = serde_json::from_str(line).ok()?;
    let code = reply.get("exit_code")?.as_u64()?;
    let text = reply.as_object_mut()?.remove("text")?;
    let text = escape_lines(text.as_str()?);
    Some((text, ExitCode::from_number(code), reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_no_reply_is_said_so() {
        for answer in ["{}", "[1]", "HTTP/1.1 400 Bad Request", r#"{"text": "x"}"#] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            writeln!(theirs, "{answer}").unwrap();
            let mut output = Output::to_writer(false, Box::new(io::sink()));
            let error =
                converse(Control::new(ours), &["stats".to_owned()], &mut output).unwrap_err();
            assert!(error.to_string().contains("no reply"), "{answer}: {error}");
            let mut request = String::new();
            theirs.read_to_string(&mut request).unwrap();
            assert_eq!(request, "{\"command\":\"stats\"}\n");
        }
        let (text, code, rest) =
            read_reply(r#"{"exit_code": 4, "text": "crashed", "ok": false}"#).unwrap();
        assert_eq!((text.as_str(), code), ("crashed", ExitCode::DriverCrashed));
        assert!(rest.get("text").is_none());
    }
}
