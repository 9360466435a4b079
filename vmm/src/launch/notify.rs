//! Readiness by systemd's protocol (sd_notify(3)): told to whoever started this process, and heard from processes that
//! this one starts. Not by the crate sd-notify: it (0.5) knows no sockets in the abstract namespace.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The environment variable that names the socket to notify.
pub(super) const ENVIRONMENT: &str = "NOTIFY_SOCKET";
/// The environment variable that names the socket of the service manager that has started the starter of a process that
/// stays behind.
pub(super) const MANAGER: &str = "RINGFENCE_NOTIFY_SOCKET";
/// The environment variable that says how often pings are wanted.
pub(super) const INTERVAL: &str = "WATCHDOG_USEC";
/// Longest notification that is taken, in bytes.
const BYTES_MAX: usize = 4096;

/// The starter is gone.
static IS_STARTER_GONE: AtomicBool = AtomicBool::new(false);

/// From now on the starter's service manager is told, if it has one.
pub(super) fn leave_starter() {
    IS_STARTER_GONE.store(true, Ordering::Relaxed);
}

/// Whether somebody is told when the starter is gone.
pub(super) fn has_manager() -> bool {
    named(MANAGER).is_some()
}

fn named(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|target| !target.is_empty())
}

/// The socket of whoever is told.
pub(super) fn target() -> Option<OsString> {
    if IS_STARTER_GONE.load(Ordering::Relaxed) {
        named(MANAGER)
    } else {
        named(ENVIRONMENT)
    }
}

/// Tells the starter, if it asked to be told: assignments such as `READY=1`, one a line.
pub(super) fn tell(assignments: &str) {
    let Some(target) = target() else {
        return;
    };
    let sent = address(&target).and_then(|address| {
        UnixDatagram::unbound()?.send_to_addr(assignments.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!("the process that started this one cannot be notified: {error}");
    }
}

/// The address of a socket: a path, or `@` and a name in the abstract namespace (unix(7)).
fn address(target: &OsStr) -> io::Result<SocketAddr> {
    match target.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(target),
    }
}

/// The driver answers.
pub(super) fn ready() {
    tell("READY=1\nSTATUS=running\n");
}

/// The driver answers, in another process, which is the service's from now on.
pub(super) fn ready_as(pid: u32) {
    tell(&format!("READY=1\nMAINPID={pid}\nSTATUS=running\n"));
}

/// The driver is being stopped.
pub(super) fn stopping() {
    tell("STOPPING=1\nSTATUS=stopping\n");
}

/// How things are, for people.
pub(super) fn status(text: &str) {
    tell(&format!("STATUS={text}\n"));
}

/// The driver's process is alive.
pub(super) fn alive() {
    tell("WATCHDOG=1\n");
}

/// How often pings are wanted at least, if they are (sd_watchdog_enabled(3)).
pub(super) fn keep_alive() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_another = std::env::var_os("WATCHDOG_PID").is_some()
        && number("WATCHDOG_PID") != Some(std::process::id().into());
    let microseconds = number(INTERVAL).filter(|count| *count > 0)?;
    (!is_for_another).then_some(Duration::from_micros(microseconds))
}

/// What a process that was started says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) is_ready: bool,
    pub(super) is_alive: bool,
}

/// A socket on which processes that this one starts tell it how far they are. Its file goes away with it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Listener {
    /// Binds `path`, in a folder that is the user's alone.
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        // One of an earlier run that was killed.
        let _ = std::fs::remove_file(&path).is_ok();
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All that has been said since the last call.
    pub(super) fn heard(&self) -> io::Result<Said> {
        let mut said = Said::default();
        let mut bytes = [0; BYTES_MAX];
        loop {
            match self.socket.recv(&mut bytes) {
                Ok(count) => {
                    let text = bytes.get(..count).unwrap_or_default();
                    for line in text.split(|&byte| byte == b'\n') {
                        said.is_ready |= line == b"READY=1";
                        said.is_alive |= line == b"WATCHDOG=1";
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(said),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let of = |text: &str| address(OsStr::new(text)).unwrap();
        assert_eq!(of("/run/x").as_pathname(), Some(Path::new("/run/x")));
        assert_eq!(of("@x/y").as_abstract_name(), Some(&b"x/y"[..]));
        assert!(address(OsStr::new(&"x".repeat(200))).is_err());
    }

    #[test]
    fn notifications_are_heard_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(folder.path().join("n")).unwrap();
        assert_eq!(listener.heard().unwrap(), Said::default());
        let sender = UnixDatagram::unbound().unwrap();
        let say = |text: &[u8]| sender.send_to(text, listener.path()).unwrap();
        say(b"STATUS=READY=1\nXREADY=1\nREADY=0");
        say(b"");
        say(&[0xFF; 8192]);
        assert_eq!(listener.heard().unwrap(), Said::default());
        say(b"STATUS=x\nREADY=1\n");
        say(b"WATCHDOG=1");
        let said = listener.heard().unwrap();
        assert!(said.is_ready && said.is_alive);
        let path = listener.path().to_path_buf();
        drop(listener);
        assert!(!path.exists());
    }
}
