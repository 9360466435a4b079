//! SIGINT, SIGTERM and SIGHUP as an event that threads can wait for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

/// What the signal handler writes to.
static EVENT: OnceLock<EventFd> = OnceLock::new();
/// The last signal that has come; 0: none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The process's wish to end.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(());

impl Interrupt {
    /// Takes SIGINT and SIGTERM over, and SIGHUP (the terminal is closed) unless whoever started this process has it
    /// ignored, as nohup(1) does.
    ///
    /// # Errors
    /// There is no eventfd to be had, or the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        if EVENT.get().is_none() {
            // Another thread may have been faster; its event is as good.
            let _ = EVENT.set(EventFd::new(libc::EFD_CLOEXEC)?);
        }
        let is_hangup_ignored =
            is_ignored(&std::fs::read_to_string("/proc/self/status")?, libc::SIGHUP);
        let hangup = (!is_hangup_ignored).then_some(libc::SIGHUP);
        for signal in [libc::SIGINT, libc::SIGTERM].into_iter().chain(hangup) {
            register_signal_handler(signal, on_signal)
                .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        }
        Ok(Self(()))
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn is_set(self) -> bool {
        SIGNAL.load(Ordering::SeqCst) != 0
    }

    /// The signal that has come, by its name.
    #[must_use]
    pub fn signal(self) -> Option<&'static str> {
        match SIGNAL.load(Ordering::SeqCst) {
            0 => None,
            libc::SIGINT => Some("SIGINT"),
            libc::SIGHUP => Some("SIGHUP"),
            _ => Some("SIGTERM"),
        }
    }

    /// A descriptor that can be read from when a signal has come, for polling only.
    #[must_use]
    pub fn descriptor(self) -> Option<RawFd> {
        EVENT.get().map(AsRawFd::as_raw_fd)
    }

    /// Waits for a signal.
    pub fn wait(self) {
        while !self.is_set() {
            let Some(event) = EVENT.get() else {
                return;
            };
            // Interrupted by the signal itself: look at the flag again.
            let _ = event.read();
        }
    }
}

/// By what /proc/PID/status says.
fn is_ignored(status: &str, signal: libc::c_int) -> bool {
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    // Bit 0 is signal 1.
    ignored.is_some_and(|set| set >> (signal - 1) & 1 != 0)
}

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // An atomic store and write(2) are async-signal-safe.
    SIGNAL.store(signal, Ordering::SeqCst);
    if let Some(event) = EVENT.get() {
        let _ = event.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_known() {
        let status =
            "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, libc::SIGHUP));
        assert!(!is_ignored(status, libc::SIGINT));
        assert!(is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored("", libc::SIGHUP));
    }
}
