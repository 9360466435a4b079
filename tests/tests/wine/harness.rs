//! Wine prefixes to test in, and the programs that run there.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use integration_tests::program::Ended;
use integration_tests::{has_kvm, patience, program, skip_without_program};

/// The width of a prefix's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits32,
    Bits64,
}

/// Where Wine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// This machine's Debian.
    Own,
    /// Debian 13: Wine 10.
    Trixie,
    /// The same, with 32-bit programs in 64-bit processes ("new WoW64").
    TrixieWow64,
}

/// A Wine that the tests run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wine {
    pub(crate) release: Release,
    pub(crate) width: Width,
}

impl From<Width> for Wine {
    fn from(width: Width) -> Self {
        Self {
            release: Release::Own,
            width,
        }
    }
}

/// Makes tests of functions that take a [`Prefix`]: in a module for each Wine. Those behind `everywhere:` always run with the
/// newer one too, where it is set up; the others only with RINGFENCE_TEST_WINE_ALL set, for they take long.
macro_rules! prefix_tests {
    (
        $($name:ident),* $(,)?
        $(; everywhere: $($main:ident),* $(,)?)?
    ) => {
        prefix_tests!(@module bits64 Own Bits64 { $($name)* $($($main)*)? } {});
        prefix_tests!(@module bits32 Own Bits32 { $($name)* $($($main)*)? } {});
        prefix_tests!(@module trixie64 Trixie Bits64 { $($($main)*)? } { $($name)* });
        prefix_tests!(@module trixie32 Trixie Bits32 { $($($main)*)? } { $($name)* });
        prefix_tests!(@module trixie_wow64 TrixieWow64 Bits32 { $($($main)*)? } { $($name)* });
    };
    (@module $module:ident $release:ident $width:ident { $($name:ident)* } { $($long:ident)* }) => {
        mod $module {
            const WINE: $crate::harness::Wine = $crate::harness::Wine {
                release: $crate::harness::Release::$release,
                width: $crate::harness::Width::$width,
            };
            $(#[test]
            fn $name() {
                if let Some(prefix) = $crate::harness::Prefix::take(WINE) {
                    super::$name(&prefix);
                }
            })*
            $(#[test]
            fn $long() {
                if !$crate::harness::is_for_all() {
                    return;
                }
                if let Some(prefix) = $crate::harness::Prefix::take(WINE) {
                    super::$long(&prefix);
                }
            })*
        }
    };
}

/// Whether every test is to run with every Wine.
pub(crate) fn is_for_all() -> bool {
    let is_set = std::env::var_os("RINGFENCE_TEST_WINE_ALL").is_some();
    if !is_set {
        println!("not run with this Wine: RINGFENCE_TEST_WINE_ALL is not set");
    }
    is_set
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// How long Wine may take: it has to start a dozen processes first.
fn wine_patience() -> Duration {
    8 * patience()
}

fn has(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a process that must end; what it said. Not through pipes: Wine's services, which go on, would hold them open.
pub(crate) fn run_to_end(command: &mut Command, what: &str) -> Ended {
    let mut outputs = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command
        .stdout(outputs[0].try_clone().unwrap())
        .stderr(outputs[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > wine_patience() {
            let _ = child.kill().is_ok();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = outputs.each_mut().map(|file| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    });
    Output {
        status,
        stdout,
        stderr,
    }
    .into()
}

/// What is needed for tests with a Wine; made or looked for once.
#[derive(Debug)]
struct Shared {
    wine: Wine,
    /// The prefix.
    path: PathBuf,
    /// The test programs.
    programs: PathBuf,
    turn: Mutex<()>,
}

impl Width {
    const fn name(self) -> &'static str {
        match self {
            Self::Bits32 => "32",
            Self::Bits64 => "64",
        }
    }

    fn compiler(self) -> &'static str {
        match self {
            Self::Bits32 => "i686-w64-mingw32-gcc",
            Self::Bits64 => "x86_64-w64-mingw32-gcc",
        }
    }
}

impl Wine {
    /// What scripts/other-wine calls it; `None`: it is the one that is installed.
    const fn elsewhere(self) -> Option<&'static str> {
        match (self.release, self.width) {
            (Release::Own, Width::Bits64) => None,
            (Release::Own, Width::Bits32) => Some("i386"),
            (Release::Trixie, _) => Some("trixie"),
            (Release::TrixieWow64, _) => Some("trixie-wow64"),
        }
    }

    /// Its prefix's kind, as WINEARCH has it.
    const fn architecture(self) -> &'static str {
        match (self.release, self.width) {
            (Release::Own | Release::Trixie, Width::Bits32) => "win32",
            _ => "win64",
        }
    }

    /// The folder for its prefix and its test programs.
    fn folder(self) -> String {
        let release = match self.release {
            Release::Own => "",
            Release::Trixie => "trixie",
            Release::TrixieWow64 => "wow64-",
        };
        format!("wine{release}{}", self.width.name())
    }

    /// A command in which `wine` is this one.
    fn command(self, program: &str) -> Command {
        match self.elsewhere() {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new(root().join("scripts/other-wine"));
                command.args([name, program]);
                command
            }
        }
    }

    /// Why there can be no tests.
    fn missing(self) -> Option<String> {
        let what = format!("the tests with {self:?}");
        if !has_kvm() {
            return Some(format!("{what}: no KVM"));
        }
        // Only what is there is used: making it takes minutes.
        let is_set_up = self.elsewhere().is_none_or(|name| {
            let mut check = Command::new(root().join("scripts/other-wine"));
            has(check.args([name, "--check"]))
        });
        if !is_set_up || !has(self.command("wine").arg("--version")) {
            let how = self.elsewhere().map_or_else(
                || "scripts/setup installs it".to_owned(),
                |name| format!("`scripts/other-wine {name} --setup` makes it"),
            );
            return Some(format!("{what}: there is none; {how}"));
        }
        (!has(Command::new(self.width.compiler()).arg("--version")))
            .then(|| format!("{what}: no mingw-w64"))
    }

    fn shared(self) -> Option<&'static Shared> {
        type Made = OnceLock<Option<Shared>>;
        static SHARED: Mutex<Vec<(Wine, &'static Made)>> = Mutex::new(Vec::new());
        let cell = {
            let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            match all.iter().find(|(wine, _)| *wine == self) {
                Some((_, cell)) => *cell,
                None => {
                    let cell: &'static Made = Box::leak(Box::default());
                    all.push((self, cell));
                    cell
                }
            }
        };
        cell.get_or_init(|| Shared::make(self)).as_ref()
    }
}

impl Shared {
    fn make(wine: Wine) -> Option<Self> {
        if let Some(why) = wine.missing() {
            skip_without_program(&why);
            return None;
        }
        // The prefix is kept: making it takes longer than the tests.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(wine.folder());
        let shared = Self {
            wine,
            path: folder.join("prefix"),
            programs: folder.join("programs"),
            turn: Mutex::new(()),
        };
        std::fs::create_dir_all(&shared.programs).unwrap();
        shared.build_programs();
        let is_made = folder.join("made");
        if !is_made.exists() {
            let _ = std::fs::remove_dir_all(&shared.path).is_ok();
            let ended = shared.wine(&["wineboot", "--init"]);
            assert_eq!(ended.code, Some(0), "{ended:?}");
            shared.end_session();
            std::fs::write(&is_made, "").unwrap();
        }
        Some(shared)
    }

    fn build_programs(&self) {
        let sources = root().join("wine/tests");
        for name in [
            "direct", "echo", "faulty", "inpout", "ports", "service", "winio",
        ] {
            let mut command = Command::new(self.wine.width.compiler());
            command
                .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
                .arg(self.programs.join(format!("{name}.exe")))
                .arg(sources.join(format!("{name}.c")))
                .arg("-lntdll");
            let built = command.output().unwrap();
            let errors = String::from_utf8_lossy(&built.stderr);
            assert!(built.status.success(), "{name}: {errors}");
        }
    }

    /// A test program of the other width.
    fn build_other(&self, name: &str) -> PathBuf {
        let width = match self.wine.width {
            Width::Bits32 => Width::Bits64,
            Width::Bits64 => Width::Bits32,
        };
        let program = self
            .programs
            .join(format!("{name}-of-{}.exe", width.name()));
        let mut command = Command::new(width.compiler());
        command.args(["-std=gnu11", "-O2", "-o"]).arg(&program);
        let source = root().join(format!("wine/tests/{name}.c"));
        let built = command.arg(source).output().unwrap();
        assert!(built.status.success(), "{name}: {built:?}");
        program
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.wine.command(program);
        command
            .env("WINEPREFIX", &self.path)
            .env("WINEARCH", self.wine.architecture())
            .env("WINEDEBUG", "-all")
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("RINGFENCE_LOG")
            .env_remove("RINGFENCE_DIRECT")
            .stdin(Stdio::null());
        command
    }

    fn wine<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Ended {
        run_to_end(self.command("wine").args(arguments), "Wine")
    }

    /// Ends all of the prefix's processes and has its registry written.
    fn end_session(&self) {
        for option in ["-k", "-w"] {
            // There may be none.
            let _ = has(self.command("wineserver").arg(option));
        }
    }
}

/// A prefix that is this test's alone. What it has installed is removed, and Wine ended, with it.
#[derive(Debug)]
pub(crate) struct Prefix {
    shared: &'static Shared,
    _turn: MutexGuard<'static, ()>,
}

impl Prefix {
    /// `None`: the test is skipped.
    pub(crate) fn take(wine: impl Into<Wine>) -> Option<Self> {
        let shared = wine.into().shared()?;
        let turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = Self {
            shared,
            _turn: turn,
        };
        // A test that was killed has left something.
        prefix.clean();
        Some(prefix)
    }

    fn clean(&self) {
        self.shared.end_session();
        let folder = self.ringfence_folder();
        if folder.exists() {
            let listed = self.ringfence(&["wine", "list", "--json"]);
            for object in listed.objects() {
                if let Some(name) = object["name"].as_str() {
                    let removed = self.ringfence(&["wine", "remove", name]);
                    assert_eq!(removed.code, Some(0), "{removed:?}");
                }
            }
            let _ = self.ringfence(&["wine", "intercept", "off"]);
            self.shared.end_session();
            assert!(!folder.exists(), "{} is left", folder.display());
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The width of its programs.
    pub(crate) fn width(&self) -> Width {
        self.shared.wine.width
    }

    /// Where the Wine end keeps its files.
    pub(crate) fn ringfence_folder(&self) -> PathBuf {
        self.path().join("drive_c/windows/ringfence")
    }

    /// A sample driver; whichever its width is, it goes into any prefix.
    pub(crate) fn sample(&self, name: &str) -> PathBuf {
        let abi = match self.width() {
            Width::Bits32 => "i386",
            Width::Bits64 => "amd64",
        };
        root().join(format!("images/drivers/{abi}/{name}.sys"))
    }

    /// Runs `ringfence ARGUMENTS` for this prefix.
    pub(crate) fn ringfence<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Ended {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        run_to_end(command.args(arguments), "ringfence")
    }

    /// Installs a sample driver that is started on demand.
    pub(crate) fn install(&self, sample: &str, options: &[&str]) {
        let driver = self.sample(sample);
        let mut arguments = vec!["wine", "install", "--start", "demand"];
        arguments.extend_from_slice(options);
        arguments.push(driver.to_str().unwrap());
        let ended = self.ringfence(&arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Begins a session in which Wine's services stay up when no program runs.
    pub(crate) fn keep_session(&self) {
        // A server that runs cannot be made to stay.
        self.shared.end_session();
        assert!(has(self.shared.command("wineserver").arg("-p")));
        assert_eq!(self.shared.wine(&["cmd", "/c", "exit"]).code, Some(0));
    }

    pub(crate) fn end_session(&self) {
        self.shared.end_session();
    }

    fn program(&self, name: &str) -> PathBuf {
        self.shared.programs.join(format!("{name}.exe"))
    }

    /// Runs a test program to its end, in a folder of choice.
    pub(crate) fn run_in(&self, folder: &Path, name: &str, arguments: &[&str]) -> Ended {
        let mut command = self.shared.command("wine");
        command
            .arg(self.program(name))
            .args(arguments)
            .current_dir(folder);
        run_to_end(&mut command, name)
    }

    /// Runs a test program from a folder that it was copied to.
    pub(crate) fn run_placed(&self, folder: &Path, name: &str, arguments: &[&str]) -> Ended {
        let mut command = self.shared.command("wine");
        command
            .arg(self.place(folder, name))
            .args(arguments)
            .current_dir(folder);
        run_to_end(&mut command, name)
    }

    /// The same by `ringfence wine run`.
    pub(crate) fn ringfence_run_placed(
        &self,
        folder: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Ended {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        command.args(["wine", "run"]).arg(self.place(folder, name));
        run_to_end(command.args(arguments).current_dir(folder), name)
    }

    fn place(&self, folder: &Path, name: &str) -> PathBuf {
        let placed = folder.join(format!("{name}.exe"));
        std::fs::copy(self.program(name), &placed).unwrap();
        placed
    }

    /// Deletes a service that a program has installed, as an administrator does.
    pub(crate) fn delete_service(&self, name: &str) {
        // It may have been stopped, and even deleted, by its program.
        for what in ["stop", "delete"] {
            let _ = self.shared.wine(&["sc", what, name]);
        }
        let ended = self.shared.wine(&["sc", "query", name]);
        assert_ne!(ended.code, Some(0), "{name} is still there: {ended:?}");
    }

    /// Runs a test program to its end. It must be content.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> String {
        let ended = self.run_in(root(), name, arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}\n{}", self.log());
        ended.stdout.replace('\r', "")
    }

    /// `ringfence wine run` with a test program, not started.
    pub(crate) fn ringfence_run(&self, name: &str, arguments: &[&str]) -> Command {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        command.args(["wine", "run"]);
        command.arg(self.program(name)).args(arguments);
        command
    }

    /// A test program's path as Windows has it.
    pub(crate) fn windows_path(&self, name: &str) -> String {
        windows_path(&self.program(name))
    }

    /// The same, of one that is built for the other width. `None`: it does not run in this prefix.
    pub(crate) fn windows_path_of_other(&self, name: &str) -> Option<String> {
        let is_for_both = self.path().join("drive_c/windows/syswow64").exists()
            && self.shared.wine.release != Release::Own;
        is_for_both.then(|| windows_path(&self.shared.build_other(name)))
    }

    /// Starts a test program.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Program {
        let mut command = self.shared.command("wine");
        command.arg(self.program(name)).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Program {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// StartService or ControlService: what the program is told.
    pub(crate) fn service(&self, what: &str, name: &str) -> u32 {
        let text = self.run("service", &[what, name]);
        let error = text.trim().rsplit_once(' ').unwrap().1;
        error.parse().unwrap()
    }

    /// The log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.ringfence_folder().join("ringfence.log")).unwrap_or_default()
    }

    /// Not always in the prefix, whose path may be too long for it.
    pub(crate) fn socket(&self, service: &str) -> PathBuf {
        let file = self.ringfence_folder().join("prefix.conf");
        let text = std::fs::read_to_string(file).unwrap();
        let folder = text.lines().find_map(|line| line.strip_prefix("run="));
        Path::new(folder.unwrap()).join(format!("{service}.socket"))
    }

    /// Waits until so many processes of Wine are processes of a service's guest.
    pub(crate) fn wait_for_processes(&self, service: &str, wanted: u64) {
        let socket = self.socket(service);
        let began = Instant::now();
        loop {
            let ended = self.ringfence(&["ctl", "--json", socket.to_str().unwrap(), "stats"]);
            let stats = ended.objects();
            // The driver's own connection and this one.
            let count = stats[0]["stats"]["processes"].as_u64().unwrap() - 2;
            if count == wanted {
                return;
            }
            assert!(began.elapsed() < wine_patience(), "{count} processes");
        }
    }

    /// Waits until something is so.
    pub(crate) fn wait_for(&self, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < wine_patience(), "{}", self.log());
        }
    }

    /// The registry as text, without what changes by itself: times.
    pub(crate) fn registry(&self) -> String {
        let mut text = String::new();
        for file in ["system.reg", "user.reg", "userdef.reg"] {
            let bytes = std::fs::read(self.path().join(file)).unwrap();
            for line in String::from_utf8_lossy(&bytes).lines() {
                // The second is that of the display driver, which is none here: the time of its first look.
                if line.starts_with("#time=") || line.starts_with("\"DriverDateData\"=") {
                    continue;
                }
                let is_key = line.starts_with('[');
                let line = line
                    .rsplit_once("] ")
                    .filter(|_| is_key)
                    .map_or(line, |(key, _)| key);
                writeln!(text, "{line}").unwrap();
            }
        }
        text
    }

    /// All files of the prefix but the registry's, with their lengths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, u64)>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    found.push((path.clone(), 0));
                    walk(&path, found);
                } else if path.extension() != Some(OsStr::new("reg")) {
                    found.push((path, metadata.len()));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.path(), &mut found);
        found.sort();
        found
    }
}

/// A prefix that lies somewhere else meanwhile, with a link to there where it was.
#[derive(Debug)]
pub(crate) struct Moved<'a> {
    prefix: &'a Prefix,
    to: PathBuf,
}

impl<'a> Moved<'a> {
    pub(crate) fn new(prefix: &'a Prefix, name: &str) -> Self {
        let to = prefix.path().with_file_name(name);
        std::fs::rename(prefix.path(), &to).unwrap();
        std::os::unix::fs::symlink(&to, prefix.path()).unwrap();
        Self { prefix, to }
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        self.prefix.end_session();
        std::fs::remove_file(self.prefix.path()).unwrap();
        std::fs::rename(&self.to, self.prefix.path()).unwrap();
    }
}

fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.to_str().unwrap().replace('/', "\\"))
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.shared.end_session();
        if !std::thread::panicking() {
            self.clean();
        }
    }
}

/// A test program that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Waits for its next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; the rest of what it says.
    pub(crate) fn finish(mut self) -> String {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"\n").is_ok();
        }
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {text}");
        text.replace('\r', "")
    }
}
