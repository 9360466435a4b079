//! The command-line program, run as its users run it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::patience;

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code and that nothing panicked.
    ///
    /// # Panics
    /// It is another one, or something did.
    #[track_caller]
    pub fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }

    /// Standard output as JSON objects, one a line.
    ///
    /// # Panics
    /// A line is none.
    #[track_caller]
    #[must_use]
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// The program with `arguments`, not started.
#[must_use]
pub fn command<Text: AsRef<std::ffi::OsStr>>(arguments: &[Text]) -> Command {
    let mut command = Command::new(crate::program());
    command
        .args(arguments)
        .env_remove("RINGFENCE_LOG")
        // The machine's own shows what its users run.
        .env("RINGFENCE_RUN_DIR", run_directory())
        .stdin(Stdio::null());
    command
}

/// The run directory of the tests' runs: one for all, so that none is left behind by each.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn run_directory() -> PathBuf {
    let user =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc"));
    std::env::temp_dir().join(format!("ringfence-tests-{user}"))
}

/// Runs the program with `arguments` to its end.
///
/// # Panics
/// It cannot be started, or takes too long.
#[must_use]
pub fn run<Text: AsRef<std::ffi::OsStr>>(arguments: &[Text]) -> Ended {
    Running::start(&mut command(arguments)).wait()
}

/// Whether a request on the socket is answered: it exists before the driver has started.
fn is_served(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let mut answer = String::new();
    let answered = stream
        .set_read_timeout(Some(patience()))
        .and_then(|()| stream.write_all(b"{\"command\": \"stats\"}\n"))
        .and_then(|()| BufReader::new(stream).read_line(&mut answer));
    answered.is_ok_and(|bytes| bytes != 0)
}

/// The program while it runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        Self {
            stdout: child.stdout.take().map(drain),
            stderr: child.stderr.take().map(drain),
            child,
        }
    }

    /// Waits until the program serves `socket`.
    ///
    /// # Panics
    /// It ends, or takes too long.
    pub fn wait_for_socket(&mut self, socket: &Path) {
        let started = Instant::now();
        while !is_served(socket) {
            assert!(self.child.try_wait().expect("a child").is_none(), "ended");
            assert!(started.elapsed() < patience(), "no socket");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Sends a signal by its name, such as `TERM`.
    ///
    /// # Panics
    /// It cannot be sent.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()))
            .status();
        assert!(status.expect("a shell").success());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It takes too long.
    #[must_use]
    pub fn wait(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(started.elapsed() < 2 * patience(), "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let collect = |stream: Option<JoinHandle<Vec<u8>>>| {
            stream.map_or_else(Vec::new, |thread| thread.join().expect("a thread"))
        };
        Output {
            status,
            stdout: collect(self.stdout.take()),
            stderr: collect(self.stderr.take()),
        }
        .into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill().is_ok();
        let _ = self.child.wait().is_ok();
    }
}
