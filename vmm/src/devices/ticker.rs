//! A thread that does what falls due in a device model while the driver asks it nothing: interrupts of timers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The shortest sleep. What falls due more often comes together, as edges do that nobody has taken.
const PAUSE_MIN: Duration = Duration::from_micros(50);

/// The thread; it ends with this.
pub(super) struct Ticker {
    thread: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker").finish_non_exhaustive()
    }
}

impl Ticker {
    /// Calls `tick` now and whenever it is due: it does what is, and says when it wants to be called again; `None`: not
    /// before [`Ticker::nudge`].
    pub(super) fn start(
        name: &str,
        mut tick: impl FnMut() -> Option<Duration> + Send + 'static,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&is_over);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while !for_thread.load(Ordering::Acquire) {
                    crate::machine::processor_share::pay();
                    match tick() {
                        Some(pause) => std::thread::park_timeout(pause.max(PAUSE_MIN)),
                        None => std::thread::park(),
                    }
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            is_over,
        })
    }

    /// The device has changed.
    pub(super) fn nudge(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.nudge();
        if let Some(thread) = self.thread.take() {
            // A panic was printed.
            let _ = thread.join().is_ok();
        }
    }
}
