//! Drivers that run without a service, and programs that run step by step.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::program::{Running, command};
use integration_tests::{patience, sample};
use ringfence_client::{Connection, Opcode, Request};

/// A driver that runs: `ringfence run --socket`.
#[derive(Debug)]
pub(crate) struct Driver {
    running: Running,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Driver {
    /// Starts the sample driver ioperm.sys under a policy.
    pub(crate) fn start(policy: &str) -> Self {
        // Short: a socket's path has 108 bytes.
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let policy_file = folder.path().join("policy.toml");
        std::fs::write(&policy_file, policy).unwrap();
        let driver = sample("ioperm", abi::DriverAbi::Amd64);
        let mut command = command(&["run"]);
        command
            .arg(driver)
            .arg("--policy")
            .arg(policy_file)
            .arg("--socket")
            .arg(&socket)
            .current_dir(folder.path());
        let mut running = Running::start(&mut command);
        running.wait_for_socket(&socket);
        Self {
            running,
            socket,
            folder,
        }
    }

    /// Its folder, which relative paths of the policy are in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A guest process, for one program.
    pub(crate) fn access(&self) -> Access {
        let connection = Connection::connect(&self.socket).unwrap();
        let process = connection.attach().unwrap();
        let token = connection.share(process).unwrap();
        Access {
            connection,
            process,
            token,
            socket: self.socket.clone(),
        }
    }

    /// Ends it.
    pub(crate) fn stop(self) {
        self.running.signal("TERM");
        self.running.wait().assert_code(0);
    }
}

/// A guest process that a program may use.
#[derive(Debug)]
pub(crate) struct Access {
    connection: Connection,
    process: u32,
    token: [u8; 16],
    socket: PathBuf,
}

impl Access {
    /// As RINGFENCE_PORTS has it.
    pub(crate) fn variable(&self) -> String {
        let token: String = self
            .token
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}={token}", self.socket.display())
    }

    /// The process opens ioperm.sys's device, which grants it every port.
    pub(crate) fn open(&self) {
        let opened = self.opened(r"\\.\ioperm");
        self.control(opened, integration_tests::codes::ioperm::GRANT_ALL, &[]);
    }

    /// Grants the process these ports and no others.
    pub(crate) fn grant(&self, first: u16, last: u16) {
        let opened = self.opened(r"\\.\ioperm\none");
        let range = [first.to_le_bytes(), last.to_le_bytes()].concat();
        self.control(
            opened,
            integration_tests::codes::ioperm::GRANT_RANGE,
            &range,
        );
    }

    /// Takes all ports away from the process.
    pub(crate) fn revoke(&self) {
        let opened = self.opened(r"\\.\ioperm\none");
        self.control(opened, integration_tests::codes::ioperm::REVOKE, &[]);
    }

    /// A handle of the device.
    fn opened(&self, name: &str) -> u64 {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.request(Request {
            input: &name,
            ..Request::new(Opcode::Open)
        })
    }

    fn control(&self, handle: u64, code: u32, input: &[u8]) {
        let _ = self.request(Request::ioctl(handle, code, input, 0));
    }

    fn request(&self, request: Request<'_>) -> u64 {
        let request = Request {
            process: self.process,
            ..request
        };
        let done = self.connection.call(&request).unwrap();
        assert_eq!(done.status, 0, "{request:?}");
        done.value
    }
}

/// A program that runs step by step: what it prints is read line by line, and an empty line lets it go on.
#[derive(Debug)]
pub(crate) struct Steps {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
    /// Standard error: not a pipe, which services of Wine's would hold open.
    stderr: tempfile::NamedTempFile,
}

impl Steps {
    pub(crate) fn start(mut command: Command) -> Self {
        use std::io::BufRead;
        use std::process::Stdio;
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.reopen().unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
            {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            stderr,
        }
    }

    /// The next line.
    pub(crate) fn line(&self) -> String {
        let Ok(line) = self.lines.recv_timeout(4 * patience()) else {
            let stderr = std::fs::read_to_string(self.stderr.path());
            panic!("the program says no line; {stderr:?}");
        };
        line.trim().to_owned()
    }

    /// Sends its first process a signal.
    pub(crate) fn signal(&mut self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).unwrap();
    }

    /// Waits for that process' end; `false`: it does not end.
    pub(crate) fn ends(&mut self) -> bool {
        let began = std::time::Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if began.elapsed() > 4 * patience() {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        true
    }

    /// Lets it go on from its question.
    pub(crate) fn go_on(&mut self) {
        use std::io::Write;
        assert_eq!(self.line(), "?");
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        stdin.flush().unwrap();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill().is_ok();
        let _ = self.child.wait().is_ok();
    }
}
