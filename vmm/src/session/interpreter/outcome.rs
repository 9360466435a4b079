//! What came of a command.

use super::{fields, status_fields};
use crate::observe::escape::escape;
use crate::session::command::CommandError;
use crate::session::driver::DriverError;
use crate::session::exit_code::ExitCode;
use serde_json::{Map, Value, json};

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub exit: ExitCode,
    /// For people: one line or more, safe to show on a terminal.
    pub text: String,
    /// For programs: the same as fields.
    pub fields: Map<String, Value>,
    /// Whether the driver is gone, so that no further command makes sense.
    pub is_over: bool,
}

impl Outcome {
    /// Whether it succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exit == ExitCode::Success
    }

    /// As one JSON object: `ok`, `exit_code` and the fields.
    #[must_use]
    pub fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("ok".into(), self.is_success().into());
        object.insert("exit_code".into(), self.exit.number().into());
        object.extend(self.fields.clone());
        object
    }

    /// A command that cannot be parsed.
    #[must_use]
    pub fn malformed(error: &CommandError) -> Self {
        Self {
            exit: ExitCode::Usage,
            text: error.to_string(),
            fields: fields(json!({
                "error": error.to_string(), "column": error.column,
                "found": error.found, "expected": error.expected,
            })),
            is_over: false,
        }
    }

    /// A request that is no command at all.
    #[must_use]
    pub fn refused(message: &str) -> Self {
        Self {
            exit: ExitCode::Usage,
            text: message.into(),
            fields: fields(json!({"error": message})),
            is_over: false,
        }
    }

    /// A driver that is not there any more, or a request that failed with an NTSTATUS.
    #[must_use]
    pub fn driver_error(what: &str, error: &DriverError) -> Self {
        let (exit, text, more) = match error {
            DriverError::Status(status) => (
                ExitCode::CommandFailed,
                format!("{what}: {}", status.explained()),
                status_fields(*status),
            ),
            DriverError::Crashed(report) => (
                ExitCode::DriverCrashed,
                format!("{what}: {report}"),
                fields(json!({"crash": report})),
            ),
            DriverError::TimedOut(report) => (
                ExitCode::TimedOut,
                format!("{what}: {report}"),
                fields(json!({"crash": report})),
            ),
            DriverError::Gone(why) => (
                ExitCode::CommandFailed,
                format!("{what}: {}", escape(&error.to_string())),
                fields(json!({"error": escape(why)})),
            ),
        };
        Self {
            exit,
            text,
            fields: more,
            is_over: !matches!(error, DriverError::Status(_)),
        }
    }
}
