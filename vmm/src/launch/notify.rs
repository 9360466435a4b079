//! Readiness by systemd's protocol (sd_notify(3)): told to whoever started this process, and heard from processes that
//! this one starts.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// The environment variable that names the socket to notify.
pub(super) const ENVIRONMENT: &str = "NOTIFY_SOCKET";
/// Longest notification that is taken, in bytes.
const BYTES_MAX: usize = 4096;

/// The starter is gone.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// From now on nobody is told anything.
pub(super) fn end() {
    IS_OVER.store(true, Ordering::Relaxed);
}

/// Tells the starter, if it asked to be told.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if IS_OVER.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the process that started this one cannot be notified: {error}");
    }
}

/// The driver answers.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The driver is being stopped.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
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
