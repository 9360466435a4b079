//! Executes commands against a running driver and says what came of them.

mod device;
mod model;
mod outcome;
#[cfg(test)]
mod tests;

use super::command::{Action, Command, HELP};
use super::driver::{DriverError, Handle, IoResult, RunningDriver};
use super::exit_code::ExitCode;
use crate::observe::hex;
use crate::observe::ntstatus::NtStatus;
use serde_json::{Map, Value, json};

pub use outcome::Outcome;

/// Output up to this many bytes is shown on the command's line, more as a dump below it.
const INLINE_BYTES: usize = 32;

/// One client: a process of the guest with its open handles.
pub struct Interpreter {
    driver: Box<dyn RunningDriver>,
    /// The last one is current.
    handles: Vec<Handle>,
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpreter")
            .field("handles", &self.handles)
            .finish_non_exhaustive()
    }
}

/// What an action came to, before `!` is looked at.
struct Done {
    status: NtStatus,
    text: String,
    fields: Map<String, Value>,
}

impl Interpreter {
    /// Commands for this process.
    #[must_use]
    pub fn new(driver: Box<dyn RunningDriver>) -> Self {
        Self {
            driver,
            handles: Vec::new(),
        }
    }

    /// Parses and executes a line.
    pub fn execute_line(&mut self, line: &str) -> Outcome {
        match line.parse::<Command>() {
            Ok(command) => self.execute(&command),
            Err(error) => Outcome::malformed(&error),
        }
    }

    /// Executes a command.
    pub fn execute(&mut self, command: &Command) -> Outcome {
        let shown = command.action.to_string();
        let mut outcome = match self.act(&command.action) {
            Ok(done) => Outcome {
                exit: if done.status.is_success() {
                    ExitCode::Success
                } else {
                    ExitCode::CommandFailed
                },
                text: match command.action {
                    Action::Help => done.text,
                    // Counters and inputs begin on a line of their own.
                    _ if done.text.starts_with('\n') => format!("{shown}:{}", done.text),
                    _ => format!("{shown}: {}", done.text),
                },
                fields: done.fields,
                is_over: false,
            },
            Err(error) => Outcome::driver_error(&shown, &error),
        };
        if command.is_failure_expected && !outcome.is_over {
            if outcome.is_success() {
                outcome.exit = ExitCode::CommandFailed;
                outcome.text = format!("! {}; it was expected to fail", outcome.text);
            } else {
                outcome.exit = ExitCode::Success;
                outcome.text = format!("! {}; as expected", outcome.text);
            }
            outcome
                .fields
                .insert("expected_failure".into(), true.into());
        }
        outcome
            .fields
            .insert("command".into(), command.action.name().into());
        outcome.fields.insert("line".into(), shown.into());
        outcome
    }

    fn act(&mut self, action: &Action) -> Result<Done, DriverError> {
        match action {
            Action::Open(path) => {
                let handle = self.driver.open(path)?;
                self.handles.push(handle);
                let mut more = status_fields(NtStatus::SUCCESS);
                more.insert("handle".into(), format!("{:#x}", handle.0).into());
                Ok(Done {
                    status: NtStatus::SUCCESS,
                    text: format!("STATUS_SUCCESS, handle {:#x}", handle.0),
                    fields: more,
                })
            }
            Action::Close => {
                let handle = self.current()?;
                // Whatever the driver says, the handle is closed.
                self.handles.pop();
                self.driver.close(handle)?;
                Ok(succeeded())
            }
            Action::Ioctl {
                code,
                input,
                output_bytes,
            } => {
                let handle = self.current()?;
                let result = self.driver.ioctl(handle, *code, input, *output_bytes)?;
                Ok(transferred(&result, true))
            }
            Action::Read { bytes, offset } => {
                let handle = self.current()?;
                Ok(transferred(
                    &self.driver.read(handle, *bytes, *offset)?,
                    true,
                ))
            }
            Action::Write { data, offset } => {
                let handle = self.current()?;
                Ok(transferred(
                    &self.driver.write(handle, data, *offset)?,
                    false,
                ))
            }
            Action::PortIn { port, width } => {
                let value = self.driver.port_in(*port, *width)?;
                let digits = usize::from(width.bytes()) * 2 + 2;
                let value = format!("{value:#0digits$x}");
                let mut more = status_fields(NtStatus::SUCCESS);
                more.insert("value".into(), value.clone().into());
                Ok(Done {
                    status: NtStatus::SUCCESS,
                    text: value,
                    fields: more,
                })
            }
            Action::PortOut { port, width, value } => {
                self.driver.port_out(*port, *width, *value)?;
                Ok(succeeded())
            }
            Action::Stats => {
                let stats = self.driver.stats()?;
                let rows = stats.rows();
                let rows = rows
                    .iter()
                    .map(|(name, count)| format!("\n  {name:<22}{count}"));
                let lines = stats.lines().into_iter().map(|line| format!("\n  {line}"));
                let text: String = rows.chain(lines).collect();
                Ok(Done {
                    status: NtStatus::SUCCESS,
                    text,
                    fields: fields(json!({"stats": stats})),
                })
            }
            Action::Devices => device::list(&mut *self.driver),
            Action::Pnp { step, device } => {
                device::step(&mut *self.driver, *step, device.as_deref())
            }
            Action::Power { state, device } => {
                device::power(&mut *self.driver, *state, device.as_deref())
            }
            Action::Model { name, settings } => {
                model::execute(&mut *self.driver, name.as_deref(), settings)
            }
            Action::Unload => {
                let leaks = self.driver.unload()?;
                let mut more = status_fields(NtStatus::SUCCESS);
                more.insert("leaks".into(), leaks.into());
                let text = match leaks {
                    0 => "STATUS_SUCCESS".to_owned(),
                    1 => "STATUS_SUCCESS, 1 leak".to_owned(),
                    count => format!("STATUS_SUCCESS, {count} leaks"),
                };
                Ok(Done {
                    status: NtStatus::SUCCESS,
                    text,
                    fields: more,
                })
            }
            Action::Help => Ok(Done {
                status: NtStatus::SUCCESS,
                text: HELP.into(),
                fields: fields(json!({"help": HELP})),
            }),
        }
    }

    fn current(&self) -> Result<Handle, DriverError> {
        // Nothing is open: what NT says of a handle that is not.
        self.handles
            .last()
            .copied()
            .ok_or(DriverError::Status(NtStatus::INVALID_HANDLE))
    }
}

fn succeeded() -> Done {
    Done {
        status: NtStatus::SUCCESS,
        text: "STATUS_SUCCESS".into(),
        fields: status_fields(NtStatus::SUCCESS),
    }
}

fn transferred(result: &IoResult, has_output: bool) -> Done {
    let status = result.status;
    let mut text = if status.is_success() {
        status.to_string()
    } else {
        status.explained()
    };
    let mut more = status_fields(status);
    more.insert("information".into(), result.information.into());
    let elapsed = u64::try_from(result.elapsed.as_micros()).unwrap_or(u64::MAX);
    more.insert("elapsed_us".into(), elapsed.into());
    let plural = |count: u64| if count == 1 { "byte" } else { "bytes" };
    if has_output {
        let output = &result.output;
        let count = output.len() as u64;
        more.insert("output".into(), hex::bytes(output).into());
        if status.is_success() || count != 0 {
            text.push_str(&format!(", {count} {}", plural(count)));
        }
        if result.information != count {
            text.push_str(&format!(" (Information {})", result.information));
        }
        if !output.is_empty() && output.len() <= INLINE_BYTES {
            text.push_str(&format!(": {}", hex::spaced(output)));
        } else if !output.is_empty() {
            text.push_str(&format!(":\n{}", hex::dump(output, "  ")));
        }
    } else if status.is_success() {
        let count = result.information;
        text.push_str(&format!(", {count} {}", plural(count)));
    }
    Done {
        status,
        text,
        fields: more,
    }
}

fn status_fields(status: NtStatus) -> Map<String, Value> {
    fields(json!({
        "status": status.to_string(),
        "status_code": format!("0x{:08x}", status.0),
        "meaning": status.meaning(),
    }))
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|field| !field.1.is_null())
            .collect(),
        _ => Map::new(),
    }
}
