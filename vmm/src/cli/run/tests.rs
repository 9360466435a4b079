use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::commands::commands;
use crate::cli::output::Output;
use crate::session::driver::RunningMachine;
use crate::session::exit_code::ExitCode;
use crate::session::fake::FakeMachine;
use crate::session::interrupt::Interrupt;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct BrokenPipe;

impl Write for BrokenPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs commands on a fake machine.
fn drive_to(lines: &[&str], output: &mut Output) -> ExitCode {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let commands = commands(&lines, None).unwrap();
    let machine: Arc<dyn RunningMachine> = Arc::new(FakeMachine::default());
    let interrupt = Interrupt::install().unwrap();
    super::drive(
        &machine,
        commands.as_deref(),
        None,
        interrupt,
        output,
        || (),
    )
}

fn drive(json: bool, lines: &[&str]) -> (ExitCode, Vec<String>) {
    let sink = Sink::default();
    let mut output = Output::to_writer(json, Box::new(sink.clone()));
    let code = drive_to(lines, &mut output);
    let bytes = sink.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    (code, text.lines().map(str::to_owned).collect())
}

#[test]
fn commands_stop_at_the_first_failure() {
    let (code, lines) = drive(false, &[r"open \\.\nothing", "stats"]);
    assert_eq!(code, ExitCode::CommandFailed);
    assert_eq!(
        lines,
        [r"open \\.\nothing: STATUS_OBJECT_NAME_NOT_FOUND (0xc0000034): no object has that name"]
    );
}

#[test]
fn crash_and_timeout_have_their_codes() {
    let (code, lines) = drive(true, &[r"open \\.\fake", "ioctl 0xdead", "stats"]);
    assert_eq!((code, lines.len()), (ExitCode::DriverCrashed, 2));
    let crash: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(crash["crash"]["cause"]["kind"], "bugcheck");
    let (code, _) = drive(false, &[r"open \\.\fake", "ioctl 0x510"]);
    assert_eq!(code, ExitCode::TimedOut);
}

#[test]
fn machine_that_stops_by_itself_ends_the_run() {
    let fake = Arc::new(FakeMachine::default());
    let machine: Arc<dyn RunningMachine> = Arc::<FakeMachine>::clone(&fake);
    let sink = Sink::default();
    let mut output = Output::to_writer(false, Box::new(sink.clone()));
    let crasher = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        fake.crash();
    });
    let interrupt = Interrupt::install().unwrap();
    let code = super::drive(&machine, None, None, interrupt, &mut output, || ());
    crasher.join().unwrap();
    assert_eq!(code, ExitCode::DriverCrashed);
    let bytes = sink.0.lock().unwrap().clone();
    assert!(
        String::from_utf8(bytes)
            .unwrap()
            .starts_with("run: fake.sys stopped")
    );
}

#[test]
fn closed_stdout_ends_quietly() {
    let mut output = Output::to_writer(false, Box::new(BrokenPipe));
    let code = drive_to(&["stats", "stats"], &mut output);
    assert_eq!(code, ExitCode::CommandFailed);
}

#[test]
fn crash_that_nobody_reads_keeps_its_code() {
    // `| head -1`: the reader has what it wanted before the driver crashes.
    struct OneLine(bool);
    impl Write for OneLine {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0 = data.ends_with(b"\n");
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut output = Output::to_writer(false, Box::new(OneLine(false)));
    let code = drive_to(&[r"open \\.\fake", "ioctl 0xdead"], &mut output);
    assert_eq!(code, ExitCode::DriverCrashed);
}

#[test]
fn empty_script_is_a_script() {
    assert_eq!(commands(&[], None), Ok(None));
    assert_eq!(
        commands(&[], Some(Path::new("/dev/null"))),
        Ok(Some(vec![]))
    );
    let mut output = Output::to_writer(false, Box::new(BrokenPipe));
    let machine: Arc<dyn RunningMachine> = Arc::new(FakeMachine::default());
    let interrupt = Interrupt::install().unwrap();
    let code = super::drive(&machine, Some(&[]), None, interrupt, &mut output, || ());
    assert_eq!(code, ExitCode::Success);
}

#[test]
fn script_encoding_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    std::fs::write(&path, "\u{feff}stats\r\nhelp\r\n").unwrap();
    assert_eq!(commands(&[], Some(&path)).unwrap().unwrap().len(), 2);
    std::fs::write(&path, b"stats\n\xff\n").unwrap();
    let error = commands(&[], Some(&path)).unwrap_err();
    assert!(error.ends_with("line 2 is not UTF-8 text"), "{error}");
}

#[test]
fn script_errors_name_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    std::fs::write(&path, "# comment\n\nstats\ninb x\n").unwrap();
    let error = commands(&[], Some(&path)).unwrap_err();
    assert_eq!(
        error,
        format!(
            "{}:4: column 5: `x`; expected a port from 0 to 0xffff",
            path.display()
        )
    );
    assert!(
        commands(&[], Some(Path::new("/nonexistent")))
            .unwrap_err()
            .contains("cannot read the script")
    );
}
