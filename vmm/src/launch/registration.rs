//! What a run says of itself in the run directory.

use std::fs::File;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

/// Version of the file.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 64 << 10;
/// The file's name.
pub(super) const FILE: &str = "state.json";

/// Where a run has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// DriverEntry has not returned yet.
    Starting,
    /// The driver answers.
    Running,
    /// The driver has ended, and is started again soon.
    Restarting,
    /// It was asked to end.
    Stopping,
}

impl State {
    /// As people see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
        }
    }
}

/// A run, as its file in the run directory has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    version: u32,
    /// Its name.
    pub name: String,
    /// The process that `ringfence stop` ends.
    #[serde(flatten)]
    pub process: ProcessId,
    /// The boot that the process belongs to: times and numbers of another mean nothing.
    boot: String,
    /// With `--restart`, the process that the driver runs in now.
    pub worker: Option<ProcessId>,
    /// The drivers' files.
    pub drivers: Vec<String>,
    /// The policy's file.
    pub policy: Option<String>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// The run has made the socket's file, and removes it.
    pub owns_socket: bool,
    /// When the run began, in seconds since 1970.
    pub since: u64,
    /// Where it has got to.
    pub state: State,
    /// More about that, for people.
    pub status: String,
    /// How often the driver was started again.
    pub restarts: u64,
    /// Guest memory in bytes.
    pub memory: u64,
}

fn boot() -> String {
    // Without it, start times are all that tells processes apart.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

impl Registration {
    /// This process's, as far as it is known from the start.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn new(name: &str) -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            version: VERSION,
            name: name.to_owned(),
            process: ProcessId::own()?,
            boot: boot(),
            worker: None,
            drivers: Vec::new(),
            policy: None,
            socket: None,
            owns_socket: false,
            since: since.map_or(0, |since| since.as_secs()),
            state: State::Starting,
            status: String::new(),
            restarts: 0,
            memory: 0,
        })
    }

    /// Reads the one in `folder`, and whether this process's user has written it.
    ///
    /// # Errors
    /// There is none ([`ErrorKind::NotFound`]), or it is not one.
    pub(super) fn read(folder: &Path) -> io::Result<(Self, bool)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(folder.join(FILE), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        let invalid = |message: String| Error::new(ErrorKind::InvalidData, message);
        if !metadata.is_file() || metadata.len() > BYTES_MAX {
            return Err(invalid("no registration of a run".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        let registration: Self =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if registration.version != VERSION {
            let message = format!("of another ringfence (version {})", registration.version);
            return Err(invalid(message));
        }
        // Nobody can name another user's process.
        let is_owners = registration
            .process
            .user()
            .is_none_or(|user| user == metadata.uid());
        if !is_owners {
            return Err(invalid("it names another user's process".to_owned()));
        }
        let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
        Ok((registration, is_own))
    }

    /// Writes it to `folder`: whoever reads sees the old one or the new one.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join("state.json.new");
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        std::fs::rename(&new, folder.join(FILE))
    }

    /// Whether the run is there: its process has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.boot == boot() && self.process.is_alive()
    }

    /// How long ago the run began.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.since))
            .and_then(|since| since.elapsed().ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let written = Registration::new("lpt").unwrap();
        written.write(folder.path()).unwrap();
        let (read, is_own) = Registration::read(folder.path()).unwrap();
        assert_eq!(read, written);
        assert!(is_own && read.is_alive());
    }

    #[test]
    fn process_of_another_boot_or_start_has_ended() {
        let mut other = Registration::new("lpt").unwrap();
        other.boot = "another".to_owned();
        assert!(!other.is_alive());
        let mut other = Registration::new("lpt").unwrap();
        other.process.start_time += 1;
        assert!(!other.is_alive());
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let kind = |folder: &Path| Registration::read(folder).unwrap_err().kind();
        assert_eq!(kind(folder.path()), ErrorKind::NotFound);
        for content in ["", "{}", "[1]", "{\"version\": 2}"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(kind(folder.path()), ErrorKind::InvalidData, "{content}");
        }
        std::fs::write(&path, vec![b' '; 100 << 10]).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::InvalidData);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Registration::read(folder.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        // One with a process of another user: init is root's, and these tests may be root's too.
        let mut other = Registration::new("lpt").unwrap();
        other.process = ProcessId::of(1).unwrap();
        other.write(folder.path()).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(Registration::read(folder.path()).is_ok(), is_root);
    }
}
