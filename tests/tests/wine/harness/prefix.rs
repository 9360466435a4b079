//! Prefixes, which are kept from one run to the next, and what is in them.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use integration_tests::program::Ended;
use integration_tests::{program, skip_without_program};

use super::wine::{Width, Wine};
use super::{has, root, run_to_end, wine_patience};

/// What is needed for tests with a Wine; made or looked for once.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wine: Wine,
    /// The prefix.
    path: PathBuf,
    /// The test programs.
    pub(super) programs: PathBuf,
    /// With whether the last test has left it as it was.
    turn: Mutex<bool>,
    /// Locked while this process has it: another one's tests would end its sessions.
    _own: File,
}

impl Shared {
    /// Of a Wine; `None`: there can be no tests with it.
    fn of(wine: Wine) -> Option<&'static Self> {
        type Made = OnceLock<Option<Shared>>;
        static SHARED: Mutex<Vec<(Wine, &'static Made)>> = Mutex::new(Vec::new());
        let cell = {
            let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            match all.iter().find(|(of, _)| *of == wine) {
                Some((_, cell)) => *cell,
                None => {
                    let cell: &'static Made = Box::leak(Box::default());
                    all.push((wine, cell));
                    cell
                }
            }
        };
        cell.get_or_init(|| Self::make(wine)).as_ref()
    }

    fn make(wine: Wine) -> Option<Self> {
        if let Some(why) = wine.missing() {
            skip_without_program(&why);
            return None;
        }
        // The prefix is kept: making it takes longer than the tests.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(wine.folder());
        std::fs::create_dir_all(&folder).unwrap();
        let own = File::create(folder.join("lock")).unwrap();
        rustix::fs::flock(&own, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let shared = Self {
            wine,
            path: folder.join("prefix"),
            programs: folder.join("programs"),
            turn: Mutex::new(false),
            _own: own,
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

    pub(super) fn command(&self, program: &str) -> Command {
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

    pub(super) fn wine<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Ended {
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
    pub(super) shared: &'static Shared,
    /// Whether its session stays when no program runs.
    is_kept: Cell<bool>,
    turn: MutexGuard<'static, bool>,
}

impl Prefix {
    /// `None`: the test is skipped.
    pub(crate) fn take(wine: impl Into<Wine>) -> Option<Self> {
        let shared = Shared::of(wine.into())?;
        let turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut prefix = Self {
            shared,
            is_kept: Cell::new(false),
            turn,
        };
        // A test that was killed has left something.
        if !std::mem::take(&mut *prefix.turn) {
            prefix.clean();
        }
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

    /// Whether nothing but `wine run` has changed it: its files are all that is there of ours.
    fn has_programs_alone(&self) -> bool {
        let folder = self.ringfence_folder();
        let is_used = folder.join("prefix.conf").exists() || folder.join("services").exists();
        !is_used && !self.is_kept.get()
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

    /// Runs a Windows program of Wine's.
    pub(crate) fn wine<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Ended {
        self.shared.wine(arguments)
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
        self.is_kept.set(true);
        assert!(has(self.shared.command("wineserver").arg("-p")));
        assert_eq!(self.shared.wine(&["cmd", "/c", "exit"]).code, Some(0));
    }

    pub(crate) fn end_session(&self) {
        self.shared.end_session();
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

    /// StartService or ControlService: what the program is told.
    pub(crate) fn service(&self, what: &str, name: &str) -> u32 {
        let text = self.run("service", &[what, name]);
        let error = text.trim().rsplit_once(' ').unwrap().1;
        error.parse().unwrap()
    }

    /// Installs the echo sample, and starts it in a session that stays.
    pub(crate) fn start_echo(&self) {
        self.install("echo", &[]);
        self.keep_session();
        assert_eq!(self.service("start", "echo"), 0, "{}", self.log());
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

impl Drop for Prefix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.end_session();
            return;
        }
        if self.has_programs_alone() {
            // The session may go on: beginning one takes longer than most tests.
            let folder = self.ringfence_folder();
            *self.turn = !folder.exists() || std::fs::remove_dir_all(&folder).is_ok();
            return;
        }
        self.shared.end_session();
        self.clean();
        *self.turn = true;
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
