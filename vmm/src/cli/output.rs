//! Standard output: lines for people, or one JSON object a line.

use crate::session::exit_code::ExitCode;
use crate::session::interpreter::Outcome;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Nobody reads standard output any more, or it cannot be written (a full disk).
#[derive(Debug)]
pub(super) struct Closed;

/// Where results go.
pub(super) struct Output {
    is_json: bool,
    writer: Box<dyn Write>,
}

impl Output {
    /// Standard output.
    pub(super) fn new(is_json: bool) -> Self {
        Self::to_writer(is_json, Box::new(io::stdout()))
    }

    pub(super) fn to_writer(is_json: bool, writer: Box<dyn Write>) -> Self {
        Self { is_json, writer }
    }

    /// Writes a result: its text, or its object.
    pub(super) fn result(&mut self, text: &str, object: &impl Serialize) -> Result<(), Closed> {
        if self.is_json {
            let line = serde_json::to_string(object).map_err(|_| Closed)?;
            self.line(&line)
        } else {
            self.line(text)
        }
    }

    /// Writes what came of a command.
    pub(super) fn outcome(&mut self, outcome: &Outcome) -> Result<(), Closed> {
        self.result(&outcome.text, &outcome.object())
    }

    /// Reports an error: to stderr for people, as an object on stdout with `--json`. Returns `code`.
    pub(super) fn error(&mut self, code: ExitCode, message: &str) -> ExitCode {
        if self.is_json {
            let object: Value = json!({"ok": false, "exit_code": code.number(), "error": message});
            // Nobody is there to be told: the exit code still says it.
            let _ = self.line(&object.to_string());
        } else {
            let text = format!("ringfence: {message}\n");
            let _ = crate::launch::to_standard_error(text.as_bytes()).is_ok();
        }
        code
    }

    fn line(&mut self, line: &str) -> Result<(), Closed> {
        let written = writeln!(self.writer, "{}", line.trim_end_matches('\n'))
            .and_then(|()| self.writer.flush());
        match written {
            Ok(()) => Ok(()),
            Err(error) => {
                if error.kind() != io::ErrorKind::BrokenPipe {
                    let _ = writeln!(io::stderr(), "ringfence: cannot write results: {error}");
                }
                Err(Closed)
            }
        }
    }
}
