//! What the tests need of Wine: prefixes, built programs, drivers that run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use integration_tests::program::{Ended, Running, command};
use integration_tests::{has_kvm, patience, sample, skip};
use ringfence_client::{Connection, Opcode, Request};

/// Programs of 64 or of 32 bits, and the Wine that runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    /// amd64.
    B64,
    /// i386.
    B32,
}

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where this test target builds things; it outlives a run.
fn built() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wine")
}

impl Bits {
    const fn name(self) -> &'static str {
        match self {
            Self::B64 => "64",
            Self::B32 => "32",
        }
    }

    const fn compiler(self) -> &'static str {
        match self {
            Self::B64 => "x86_64-w64-mingw32-gcc",
            Self::B32 => "i686-w64-mingw32-gcc",
        }
    }

    /// The Wine that runs such programs, if there is one.
    fn wine(self) -> Option<PathBuf> {
        match self {
            Self::B64 => ["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"]
                .iter()
                .map(PathBuf::from)
                .find(|path| path.exists()),
            Self::B32 => std::env::var_os("RINGFENCE_WINE32")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from("/usr/lib/wine/wine")))
                .filter(|path| path.exists()),
        }
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A Wine with a prefix and the test programs.
#[derive(Debug)]
pub(crate) struct Wine {
    bits: Bits,
    wine: PathBuf,
    prefix: PathBuf,
    folder: PathBuf,
}

impl Wine {
    /// The Wine for programs of `bits`, its prefix made; `None` after a message if something is missing.
    pub(crate) fn find(bits: Bits) -> Option<&'static Self> {
        static B64: OnceLock<Option<Wine>> = OnceLock::new();
        static B32: OnceLock<Option<Wine>> = OnceLock::new();
        let found = match bits {
            Bits::B64 => B64.get_or_init(|| Self::make(bits)),
            Bits::B32 => B32.get_or_init(|| Self::make(bits)),
        };
        found.as_ref()
    }

    fn make(bits: Bits) -> Option<Self> {
        if !has_kvm() {
            return None;
        }
        let Some(wine) = bits.wine() else {
            skip(&format!(
                "the tests with {}-bit programs: there is no Wine for them; see tests/tests/wine/main.rs",
                bits.name()
            ));
            return None;
        };
        let folder = built();
        std::fs::create_dir_all(&folder).unwrap();
        let made = Self {
            bits,
            wine,
            prefix: folder.join(format!("prefix{}", bits.name())),
            folder,
        };
        // Nothing if it is there already; without a display and the parts that ask to be downloaded.
        run(made
            .environment(Command::new(&made.wine))
            .args(["wineboot", "-u"]));
        Some(made)
    }

    fn environment(&self, mut command: Command) -> Command {
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .env_remove("DISPLAY")
            .env_remove("RINGFENCE_PORTS");
        command
    }

    /// A test program's path, built from wine/tests.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let to = self.folder.join(format!(
            "{name}{}-{}.exe",
            self.bits.name(),
            std::process::id()
        ));
        let own = self.folder.join(format!("{name}{}.exe", self.bits.name()));
        let from = root().join(format!("wine/tests/{name}.c"));
        let mut compiler = Command::new(self.bits.compiler());
        compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        run(compiler.arg(&to).arg(from));
        // At once: another test may be using it.
        std::fs::rename(to, &own).unwrap();
        own
    }

    /// `ringfence wine run` with a program, not started.
    pub(crate) fn ringfence(&self, arguments: &[&str], access: Option<&Access>) -> Command {
        let program = self.program("ports");
        let mut words = vec![
            "wine".into(),
            "run".into(),
            "--wine".into(),
            self.wine.clone().into_os_string(),
            "--prefix".into(),
            self.prefix.clone().into_os_string(),
            program.into_os_string(),
        ];
        words.extend(arguments.iter().map(Into::into));
        let mut command = self.environment(command(&words));
        if let Some(access) = access {
            command.env("RINGFENCE_PORTS", access.variable());
        }
        command
    }

    /// Runs the test program under `ringfence wine run`.
    pub(crate) fn run(&self, arguments: &[&str], access: Option<&Access>) -> Ended {
        Running::start(&mut self.ringfence(arguments, access)).wait()
    }
}

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
        let name: Vec<u8> = r"\\.\ioperm"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let opened = self.request(Request {
            input: &name,
            ..Request::new(Opcode::Open)
        });
        self.control(opened, integration_tests::codes::ioperm::GRANT_ALL, &[]);
    }

    /// Grants the process these ports and no others.
    pub(crate) fn grant(&self, first: u16, last: u16) {
        let name: Vec<u8> = r"\\.\ioperm\none"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let opened = self.request(Request {
            input: &name,
            ..Request::new(Opcode::Open)
        });
        let range = [first.to_le_bytes(), last.to_le_bytes()].concat();
        self.control(
            opened,
            integration_tests::codes::ioperm::GRANT_RANGE,
            &range,
        );
    }

    /// Takes all ports away from the process.
    pub(crate) fn revoke(&self) {
        let name: Vec<u8> = r"\\.\ioperm\none"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let opened = self.request(Request {
            input: &name,
            ..Request::new(Opcode::Open)
        });
        self.control(opened, integration_tests::codes::ioperm::REVOKE, &[]);
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
}

impl Steps {
    pub(crate) fn start(mut command: Command) -> Self {
        use std::io::BufRead;
        use std::process::Stdio;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
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
        Self { child, lines }
    }

    /// The next line.
    pub(crate) fn line(&self) -> String {
        let line = self.lines.recv_timeout(4 * patience());
        line.expect("a line of the program").trim().to_owned()
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
