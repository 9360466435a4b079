//! Executes commands against a running driver and says what came of them.

mod device;
mod model;

use super::command::{Action, Command, CommandError, HELP};
use super::driver::{DriverError, Handle, IoResult, RunningDriver};
use super::exit_code::ExitCode;
use crate::observe::escape::escape;
use crate::observe::hex;
use crate::observe::ntstatus::NtStatus;
use serde_json::{Map, Value, json};

/// Output up to this many bytes is shown on the command's line, more as a dump below it.
const INLINE_BYTES: usize = 32;

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

#[cfg(test)]
mod tests {
    use super::super::driver::RunningMachine;
    use super::super::fake::{Fake, FakeMachine};
    use super::*;

    fn run(lines: &[&str]) -> Vec<Outcome> {
        let machine = FakeMachine::default();
        let mut interpreter = Interpreter::new(machine.connect().unwrap());
        lines
            .iter()
            .map(|line| interpreter.execute_line(line))
            .collect()
    }

    fn texts(lines: &[&str]) -> Vec<String> {
        run(lines).into_iter().map(|outcome| outcome.text).collect()
    }

    #[test]
    fn session_reads_as_a_transcript() {
        assert_eq!(
            texts(&[
                "! outb 0x378 0x41",
                r"open \\.\fake",
                "outb 0x378 0x41",
                "inb 0x378",
                "ioctl 0x222004 0102 8",
                "write \"abc\"",
                "read 3",
                "close",
                "read 3",
                "unload",
            ]),
            [
                "! outb 0x378 0x41: STATUS_PRIVILEGED_INSTRUCTION (0xc0000096): the process may not do this; for a port access, its I/O permission map denies the port; as expected",
                r"open \\.\fake: STATUS_SUCCESS, handle 0x4",
                "outb 0x378 0x41: STATUS_SUCCESS",
                "inb 0x378: 0x41",
                "ioctl 0x00222004: STATUS_SUCCESS, 2 bytes: 01 02",
                "write 616263: STATUS_SUCCESS, 3 bytes",
                "read 3: STATUS_SUCCESS, 3 bytes: 00 00 00",
                "close: STATUS_SUCCESS",
                "read 3: STATUS_INVALID_HANDLE (0xc0000008): the handle is not open",
                "unload: STATUS_SUCCESS, 2 leaks",
            ]
        );
    }

    #[test]
    fn failure_of_the_driver_fails_the_command() {
        let outcomes = run(&[r"open \\.\fake", "ioctl 0x9 - 4", "! ioctl 0x9", "! inb 1"]);
        assert_eq!(outcomes[1].exit, ExitCode::CommandFailed);
        assert!(
            outcomes[1]
                .text
                .starts_with("ioctl 0x00000009: STATUS_INVALID_DEVICE_REQUEST (0xc0000010): ")
        );
        assert!(outcomes[2].is_success());
        assert_eq!(outcomes[3].exit, ExitCode::CommandFailed);
        assert_eq!(outcomes[3].text, "! inb 0x1: 0x00; it was expected to fail");
    }

    #[test]
    fn devices_are_listed_stepped_and_powered() {
        let outcomes = run(&[
            "pnp list",
            "pnp stop",
            "pnp stop fake.sys",
            "power D3",
            "power S0",
            "pnp start nobody",
        ]);
        assert!(
            outcomes[0]
                .text
                .starts_with("pnp list: 1 device\n  ROOT\\FAKE\\0000 (driver fake): started, D0\n"),
            "{}",
            outcomes[0].text
        );
        assert_eq!(outcomes[0].object()["devices"][0]["service"], "fake");
        assert_eq!(
            outcomes[1].text,
            r"pnp stop: STATUS_SUCCESS, ROOT\FAKE\0000 is stopped"
        );
        assert_eq!(outcomes[1].object()["state"], "stopped");
        assert_eq!(outcomes[2].exit, ExitCode::CommandFailed);
        assert_eq!(
            outcomes[2].object()["status"],
            "STATUS_INVALID_DEVICE_STATE"
        );
        assert_eq!(outcomes[3].object()["power"], "D3");
        assert_eq!(outcomes[4].object()["power"], "S0");
        assert!(outcomes[5].text.ends_with(
            r"STATUS_NO_SUCH_DEVICE: no device is called nobody; there is ROOT\FAKE\0000"
        ));
    }

    #[test]
    fn device_models_are_listed_and_set() {
        let outcomes = run(&[
            "device joystick buttons=3 axis1=7",
            "device",
            "device 0x201 axis9=1",
            "device 513 buttons=99",
            "device 0x300 a=1",
            "device mouse",
            "! device joystick x=1",
        ]);
        assert_eq!(
            outcomes[0].text,
            "device joystick buttons=3 axis1=7: STATUS_SUCCESS"
        );
        assert_eq!(
            outcomes[1].text,
            "device: 2 device models\n  joystick (0x201): gameport\n    axis0=0  (a number from 0 to 255)\n    \
             axis1=7  (a number from 0 to 255)\n    axis2=0  (a number from 0 to 255)\n    \
             axis3=0  (a number from 0 to 255)\n    buttons=3  (a number from 0 to 15: a bit for each that is pressed)\n  \
             0x300: ram (8 registers)"
        );
        let models = &outcomes[1].object()["models"];
        assert_eq!(models[0]["inputs"][1]["value"], "7");
        assert_eq!(outcomes[2].exit, ExitCode::CommandFailed);
        assert!(outcomes[2].text.ends_with(
            "STATUS_INVALID_PARAMETER: axis9=1: joystick (0x201) has axis0, axis1, axis2, axis3, buttons"
        ), "{}", outcomes[2].text);
        assert!(outcomes[3].text.ends_with(
            "buttons=99: buttons is a number from 0 to 15: a bit for each that is pressed"
        ));
        assert!(
            outcomes[4]
                .text
                .ends_with("a=1: nothing of 0x300 can be set")
        );
        assert!(outcomes[5].text.ends_with(
            "STATUS_NO_SUCH_DEVICE: no device model is called mouse; there is joystick (0x201), 0x300"
        ));
        assert!(outcomes[6].is_success());
    }

    #[test]
    fn crash_is_never_expected() {
        let outcomes = run(&[r"open \\.\fake", "! ioctl 0xdead"]);
        assert_eq!(outcomes[1].exit, ExitCode::DriverCrashed);
        assert!(outcomes[1].is_over);
        assert!(
            outcomes[1]
                .text
                .contains("bugcheck 0xd1 DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
            "{}",
            outcomes[1].text
        );
        assert_eq!(outcomes[1].object()["crash"]["cause"]["code"], "0xd1");
    }

    #[test]
    fn objects_have_everything() {
        let outcomes = run(&[r"open \\.\fake", "ioctl 0x222004 7f 4", "frob"]);
        assert_eq!(
            Value::Object(outcomes[1].object()),
            json!({
                "ok": true, "exit_code": 0, "command": "ioctl", "line": "ioctl 0x00222004",
                "status": "STATUS_SUCCESS", "status_code": "0x00000000", "meaning": "success",
                "information": 1, "output": "7f", "elapsed_us": 3,
            })
        );
        assert_eq!(outcomes[2].object()["exit_code"], 2);
        assert_eq!(outcomes[2].object()["column"], 1);
    }

    #[test]
    fn information_beyond_the_buffer_and_long_output_are_shown() {
        let result = |information, output: &[u8]| IoResult {
            status: NtStatus::SUCCESS,
            information,
            output: output.to_vec(),
            elapsed: Fake::ELAPSED,
        };
        assert_eq!(
            transferred(&result(10, &[]), true).text,
            "STATUS_SUCCESS, 0 bytes (Information 10)"
        );
        assert!(
            transferred(&result(40, &[0x41; 40]), true)
                .text
                .starts_with("STATUS_SUCCESS, 40 bytes:\n  0000  41 41")
        );
    }
}
