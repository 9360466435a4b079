//! Whether a service runs, as ringfence.sys says in its state file (wine/driver/state.c), and as its socket shows.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::configuration::value_of;
use crate::observe::escape::escape_bytes;

/// Largest state file that is read, in bytes.
const FILE_MAX: u64 = 8192;
/// Looks at what may be changing: between two states, a file is empty, and a micro-VM that has ended is not noticed yet.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// What a service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// DriverEntry has not returned yet.
    Starting,
    /// Its micro-VM takes requests.
    Running,
    /// It was asked to stop.
    Stopping,
    Stopped,
    /// Wine thinks that it runs, but its micro-VM has ended.
    Crashed,
}

impl State {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        }
    }
}

/// A service's state, and what ringfence.sys says beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) state: State,
    /// Why its micro-VM has ended.
    pub(super) reason: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) policy: Option<String>,
}

impl Status {
    fn new(state: State) -> Self {
        Self {
            state,
            reason: None,
            driver: None,
            policy: None,
        }
    }

    /// Of the service with that state file and that socket.
    pub(super) fn of(file: &Path, socket: &Path) -> Self {
        let mut status = Self::now(file, socket);
        for _ in 0..LOOKS {
            if status.is_some() {
                break;
            }
            std::thread::sleep(PAUSE);
            status = Self::now(file, socket);
        }
        status.unwrap_or_else(|| Self {
            reason: Some("its micro-VM takes no connections any more".to_owned()),
            ..Self::new(State::Crashed)
        })
    }

    /// `None`: the file does not say, or it says what is not so, and is about to be changed.
    fn now(file: &Path, socket: &Path) -> Option<Self> {
        let has_server = || UnixStream::connect(socket).is_ok();
        let text = match said(file) {
            Said::Nothing if has_server() => return Some(Self::new(State::Running)),
            Said::Nothing | Said::Left => return Some(Self::new(State::Stopped)),
            Said::Text(text) => text,
        };
        let state = match value_of(&text, "state")? {
            b"starting" => State::Starting,
            b"running" if has_server() => State::Running,
            b"stopping" => State::Stopping,
            b"crashed" => State::Crashed,
            _ => return None,
        };
        let value = |key| value_of(&text, key).map(escape_bytes);
        Some(Self {
            state,
            reason: value("reason"),
            driver: value("driver"),
            policy: value("policy"),
        })
    }
}

/// What a state file says.
enum Said {
    /// There is none, or nothing in it.
    Nothing,
    /// Whoever has written it has ended.
    Left,
    Text(Vec<u8>),
}

fn said(path: &Path) -> Said {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else {
        return Said::Nothing;
    };
    let mut text = Vec::new();
    let is_locked =
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file || file.take(FILE_MAX).read_to_end(&mut text).is_err() {
        return Said::Nothing;
    }
    match (is_locked, text.is_empty()) {
        (true, _) => Said::Text(text),
        (false, true) => Said::Nothing,
        (false, false) => Said::Left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn state_is_what_a_live_process_says() {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (
            folder.path().join("a.state"),
            folder.path().join("a.socket"),
        );
        let state = || Status::of(&path, &socket).state;
        assert_eq!(state(), State::Stopped);
        std::fs::write(&path, "driver=/a\nreason=it \x1b hangs\nstate=crashed\n").unwrap();
        assert_eq!(
            state(),
            State::Stopped,
            "what a process that has ended said"
        );
        let file = File::open(&path).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        let status = Status::of(&path, &socket);
        assert_eq!(status.state, State::Crashed);
        assert_eq!(status.reason.as_deref(), Some("it \\x1b hangs"));
        assert_eq!(status.driver.as_deref(), Some("/a"));
        assert_eq!(status.policy, None);
        for (said, wanted) in [("starting", State::Starting), ("stopping", State::Stopping)] {
            std::fs::write(&path, format!("state={said}\n")).unwrap();
            assert_eq!(state(), wanted);
        }
        // Nobody serves, whatever is said.
        std::fs::write(&path, "state=running\n").unwrap();
        assert_eq!(state(), State::Crashed);
        let listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(state(), State::Running);
        drop(listener);
        assert_eq!(state(), State::Crashed);
        drop(file);
        assert_eq!(state(), State::Stopped);
    }

    #[test]
    fn micro_vm_without_a_state_file_is_seen_by_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (
            folder.path().join("a.state"),
            folder.path().join("a.socket"),
        );
        let listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(Status::of(&path, &socket).state, State::Running);
        drop(listener);
        assert_eq!(Status::of(&path, &socket).state, State::Stopped);
    }
}
