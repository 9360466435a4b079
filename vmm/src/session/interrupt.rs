//! SIGINT and SIGTERM as an event that threads can wait for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

/// What the signal handler writes to.
static EVENT: OnceLock<EventFd> = OnceLock::new();
static IS_SET: AtomicBool = AtomicBool::new(false);

/// The process's wish to end.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(());

impl Interrupt {
    /// Takes SIGINT and SIGTERM over.
    ///
    /// # Errors
    /// There is no eventfd to be had, or the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        if EVENT.get().is_none() {
            // Another thread may have been faster; its event is as good.
            let _ = EVENT.set(EventFd::new(libc::EFD_CLOEXEC)?);
        }
        for signal in [libc::SIGINT, libc::SIGTERM] {
            register_signal_handler(signal, on_signal)
                .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        }
        Ok(Self(()))
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn is_set(self) -> bool {
        IS_SET.load(Ordering::SeqCst)
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

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // An atomic store and write(2) are async-signal-safe.
    IS_SET.store(true, Ordering::SeqCst);
    if let Some(event) = EVENT.get() {
        let _ = event.write(1);
    }
}
