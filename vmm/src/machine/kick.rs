//! The watchdog: interrupts a running guest with a signal, for ticks and deadlines.
//!
//! While the guest runs, the watchdog wakes every millisecond and signals the vCPU thread when a tick or an interrupt is due
//! or the deadline has passed; a signal that comes between two KVM_RUNs is lost, but the next millisecond brings another.
//! It goes to sleep when the guest has not run for one of them: a guest that is entered more often than that for short
//! requests does not wake it each time, which would be a change of threads more for each.
#![expect(unsafe_code, reason = "a signal to one thread")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::interrupt_lines::InterruptLines;
use super::processor_share::held_back;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

const POLL: Duration = Duration::from_millis(1);
/// NT's clock interval, 15.625 ms.
pub(super) const TICK: Duration = Duration::from_micros(15_625);
/// "No time": the guest is idle, or no timer is set.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// When the guest began to run without being idle, µs since `epoch`; NEVER when idle.
    busy_since: AtomicU64,
    /// How often it began to run.
    runs: AtomicU64,
    /// The watchdog sleeps until it is woken.
    is_asleep: AtomicBool,
    /// How long threads had been held back ([`held_back`]) by then, µs.
    held_before: AtomicU64,
    /// When the next tick is due, µs since `epoch`.
    tick_at: AtomicU64,
    /// How long it may run, µs.
    timeout: AtomicU64,
    is_stopping: AtomicBool,
    /// Somebody wants the guest to stop.
    is_stop_wanted: AtomicBool,
    lines: InterruptLines,
}

impl Shared {
    fn new(timeout: Duration, lines: InterruptLines) -> Self {
        Self {
            epoch: Instant::now(),
            busy_since: AtomicU64::new(NEVER),
            runs: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            held_before: AtomicU64::new(0),
            tick_at: AtomicU64::new(NEVER),
            timeout: AtomicU64::new(u64::try_from(timeout.as_micros()).unwrap_or(NEVER)),
            is_stopping: AtomicBool::new(false),
            is_stop_wanted: AtomicBool::new(false),
            lines,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(NEVER)
    }

    /// Whether a guest that began to run at `since` has run for longer than it may; time that it was held back is none.
    fn is_late(&self, since: u64, now: u64) -> bool {
        let held = micros(held_back()).saturating_sub(self.held_before.load(Ordering::Relaxed));
        now.saturating_sub(since).saturating_sub(held) >= self.timeout.load(Ordering::Relaxed)
    }
}

/// What the vCPU thread finds after a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Nothing: a stray signal.
    Nothing,
    /// The timer tick.
    Tick,
    /// The guest has run for longer than allowed.
    Deadline,
    /// Somebody wants the guest to stop.
    Stop,
}

/// Stops a running guest, from any thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Stopper {
    /// The guest returns from its run within a few milliseconds; an idle one at its next run.
    pub fn stop(&self) {
        self.shared.is_stop_wanted.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The vCPU thread's handle on its watchdog. Dropping it stops the watchdog.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

extern "C" fn ignore_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Watchdog {
    /// Starts a watchdog over the calling thread.
    ///
    /// # Errors
    /// When the signal handler or the thread cannot be made.
    pub(super) fn start(timeout: Duration, lines: InterruptLines) -> std::io::Result<Self> {
        register_signal_handler(SIGRTMIN(), ignore_signal)
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))?;
        let shared = Arc::new(Shared::new(timeout, lines));
        // SAFETY: pthread_self cannot fail. The id stays valid while the watchdog runs: the vCPU thread owns the
        // Watchdog and joins it before it ends.
        let target = unsafe { libc::pthread_self() };
        let watched = Arc::clone(&shared);
        let handle = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .stack_size(64 << 10)
            .spawn(move || watch(&watched, target))?;
        shared.lines.set_watchdog(handle.thread().clone());
        Ok(Self {
            shared,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })
    }

    /// A handle by which other threads can stop the guest.
    pub(super) fn stopper(&self) -> Stopper {
        Stopper {
            shared: Arc::clone(&self.shared),
            thread: self.thread.clone(),
        }
    }

    /// The guest starts to run after it was idle.
    pub(super) fn busy(&self) {
        let now = self.shared.now();
        self.shared
            .tick_at
            .store(now + micros(TICK), Ordering::Relaxed);
        self.shared
            .held_before
            .store(micros(held_back()), Ordering::Relaxed);
        // Only this thread counts.
        let runs = self.shared.runs.load(Ordering::Relaxed);
        self.shared
            .runs
            .store(runs.wrapping_add(1), Ordering::Relaxed);
        // Stored before the other is read, on either side: one of the two sees the other's.
        self.shared.busy_since.store(now, Ordering::SeqCst);
        if self.shared.is_asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// The guest is idle.
    pub(super) fn idle(&self) {
        self.shared.busy_since.store(NEVER, Ordering::Release);
    }

    /// A timer of the guest is due in `delay`.
    pub(super) fn arm(&self, delay: Duration) {
        let at = self.shared.now().saturating_add(micros(delay));
        self.shared.tick_at.fetch_min(at, Ordering::Relaxed);
    }

    /// What is due now.
    pub(super) fn due(&self) -> Due {
        let now = self.shared.now();
        let since = self.shared.busy_since.load(Ordering::Acquire);
        if self.shared.is_stop_wanted.load(Ordering::Acquire) {
            Due::Stop
        } else if since != NEVER && self.shared.is_late(since, now) {
            Due::Deadline
        } else if now >= self.shared.tick_at.load(Ordering::Relaxed) {
            Due::Tick
        } else {
            Due::Nothing
        }
    }

    /// The tick was delivered; the next one comes an interval later.
    pub(super) fn ticked(&self) {
        self.shared
            .tick_at
            .store(self.shared.now() + micros(TICK), Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // A watchdog that panicked has nothing more to say.
            let _ = handle.join().is_ok();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}

impl Shared {
    /// Sleeps until the guest runs, or has run since there were `seen` runs: where this thread gets a processor only after the
    /// guest is idle again, each entry would wake it in vain.
    fn sleep(&self, seen: u64) {
        self.is_asleep.store(true, Ordering::SeqCst);
        while self.busy_since.load(Ordering::SeqCst) == NEVER
            && self.runs.load(Ordering::Relaxed) == seen
            && !self.is_stopping.load(Ordering::Acquire)
        {
            std::thread::park();
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }
}

fn watch(shared: &Shared, target: libc::pthread_t) {
    let mut seen = 0;
    while !shared.is_stopping.load(Ordering::Acquire) {
        let is_idle = shared.busy_since.load(Ordering::Acquire) == NEVER;
        let runs = shared.runs.load(Ordering::Relaxed);
        if is_idle && runs == seen {
            shared.sleep(seen);
            continue;
        }
        seen = runs;
        std::thread::park_timeout(POLL);
        let since = shared.busy_since.load(Ordering::Acquire);
        if since == NEVER {
            continue;
        }
        let now = shared.now();
        let is_late = shared.is_late(since, now);
        let is_wanted = shared.is_stop_wanted.load(Ordering::Acquire);
        let is_interrupted = shared.lines.wants_exit();
        if is_late || is_wanted || is_interrupted || now >= shared.tick_at.load(Ordering::Relaxed) {
            // SAFETY: `target` is a live thread: it joins this one before it ends.
            unsafe { libc::pthread_kill(target, SIGRTMIN()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_over_ends_the_sleep_too() {
        let shared = Arc::new(Shared::new(
            Duration::from_secs(1),
            InterruptLines::default(),
        ));
        // The watchdog had not seen the run when it went to sleep, and the guest is idle again.
        shared.runs.store(1, Ordering::Relaxed);
        let (sender, receiver) = std::sync::mpsc::channel();
        let sleeper = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            sleeper.sleep(0);
            // The test may have given up.
            let _ = sender.send(()).is_ok();
        });
        let woken = receiver.recv_timeout(Duration::from_secs(30));
        shared.is_stopping.store(true, Ordering::Release);
        thread.thread().unpark();
        thread.join().expect("the sleeper panicked");
        assert!(woken.is_ok());
    }
}
