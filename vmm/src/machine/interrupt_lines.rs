//! Interrupt lines: how device models and pass-through devices interrupt the guest, from any thread.
//!
//! What a line does is kept here until the vCPU thread publishes it to the guest ([`abi::interrupt`]) between two runs;
//! the watchdog ends a run that is under way, and the waker wakes whoever waits for an idle guest.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use abi::interrupt::LINES;

/// Called when the guest is to run although nobody asks anything of it.
pub type Waker = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    asserted: AtomicU64,
    /// Edges since the last publication.
    edges: AtomicU64,
    /// Something is to be published.
    is_changed: AtomicBool,
    /// Something of it interrupts; reset when the guest is entered.
    is_wanted: AtomicBool,
    /// Something was published that the guest has not looked at.
    is_offered: AtomicBool,
    watchdog: OnceLock<Thread>,
    waker: OnceLock<Waker>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InterruptLines")
            .field("asserted", &self.asserted)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

/// A guest's interrupt lines, 0 to [`LINES`] - 1.
#[derive(Clone, Debug, Default)]
pub struct InterruptLines {
    shared: Arc<Shared>,
}

/// What is new, for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Published {
    pub(super) asserted: u64,
    pub(super) edges: u64,
}

impl InterruptLines {
    /// A line; `None` if there is none of that number.
    #[must_use]
    pub fn line(&self, number: u32) -> Option<InterruptLine> {
        (number < LINES).then(|| InterruptLine {
            shared: Arc::clone(&self.shared),
            number,
        })
    }

    /// What is called when a line interrupts; the first one stays. It must not block.
    pub fn set_waker(&self, waker: Waker) {
        // A second one is a second engine of the same guest, which there is not.
        let _ = self.shared.waker.set(waker).is_ok();
    }

    /// Whether the guest has to run because of an interrupt.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.shared.is_wanted.load(Ordering::Acquire)
    }

    /// The watchdog's thread, which is to end a run.
    pub(super) fn set_watchdog(&self, thread: Thread) {
        // As above.
        let _ = self.shared.watchdog.set(thread).is_ok();
    }

    /// Whether a run under way has to end for a moment.
    pub(super) fn wants_exit(&self) -> bool {
        self.shared.is_changed.load(Ordering::Acquire)
            || self.shared.is_offered.load(Ordering::Acquire)
    }

    /// What has changed since the last call; `None`: nothing.
    pub(super) fn take(&self) -> Option<Published> {
        if !self.shared.is_changed.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.shared.is_wanted.store(false, Ordering::Release);
        Some(Published {
            edges: self.shared.edges.swap(0, Ordering::AcqRel),
            asserted: self.shared.asserted.load(Ordering::Acquire),
        })
    }

    /// Whether the guest has yet to look at what was published.
    pub(super) fn is_offered(&self) -> bool {
        self.shared.is_offered.load(Ordering::Acquire)
    }

    pub(super) fn set_offered(&self, is_offered: bool) {
        self.shared.is_offered.store(is_offered, Ordering::Release);
    }
}

/// One interrupt line. Clones are the same line: whoever asserts it last, or deasserts it, decides.
#[derive(Clone, Debug)]
pub struct InterruptLine {
    shared: Arc<Shared>,
    number: u32,
}

impl InterruptLine {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Makes the line active, until [`Self::deassert`]. A level-sensitive interrupt is delivered as long as it is; a
    /// latched one when it becomes so.
    pub fn assert(&self) {
        let before = self.shared.asserted.fetch_or(self.bit(), Ordering::AcqRel);
        if before & self.bit() == 0 {
            self.interrupt();
        }
    }

    /// Makes the line inactive.
    pub fn deassert(&self) {
        let before = self
            .shared
            .asserted
            .fetch_and(!self.bit(), Ordering::AcqRel);
        if before & self.bit() != 0 {
            // Not worth waking an idle guest; one that serves the line at this moment is to see it.
            self.shared.is_changed.store(true, Ordering::Release);
            self.unpark_watchdog();
        }
    }

    /// One interrupt: an edge for a latched interrupt, one delivery for a level-sensitive one.
    pub fn pulse(&self) {
        self.interrupt();
    }

    /// Whether the guest has looked since the line last interrupted. It may have put the interrupt off until its IRQL
    /// drops.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.shared.edges.load(Ordering::Acquire) & self.bit() == 0
            && !self.shared.is_changed.load(Ordering::Acquire)
            && !self.shared.is_offered.load(Ordering::Acquire)
    }

    fn bit(&self) -> u64 {
        1 << self.number
    }

    fn unpark_watchdog(&self) {
        if let Some(watchdog) = self.shared.watchdog.get() {
            watchdog.unpark();
        }
    }

    fn interrupt(&self) {
        self.shared.edges.fetch_or(self.bit(), Ordering::AcqRel);
        let was_wanted = self.shared.is_wanted.swap(true, Ordering::AcqRel);
        self.shared.is_changed.store(true, Ordering::Release);
        self.unpark_watchdog();
        if let (false, Some(waker)) = (was_wanted, self.shared.waker.get()) {
            waker();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn published(lines: &InterruptLines) -> Option<(u64, u64)> {
        lines.take().map(|new| (new.asserted, new.edges))
    }

    #[test]
    fn a_level_is_one_edge_and_stays() {
        let lines = InterruptLines::default();
        let line = lines.line(3).unwrap();
        assert_eq!(published(&lines), None);
        line.assert();
        line.clone().assert();
        assert_eq!(published(&lines), Some((8, 8)));
        assert_eq!(published(&lines), None);
        line.deassert();
        line.deassert();
        assert!(!lines.is_wanted());
        assert_eq!(published(&lines), Some((0, 0)));
        lines.line(63).unwrap().pulse();
        assert!(lines.is_wanted());
        assert_eq!(published(&lines), Some((0, 1 << 63)));
        assert!(lines.line(64).is_none());
    }

    #[test]
    fn whoever_waits_is_woken_once_for_what_is_published_at_once() {
        static WOKEN: AtomicU32 = AtomicU32::new(0);
        let lines = InterruptLines::default();
        lines.set_waker(Box::new(|| {
            WOKEN.fetch_add(1, Ordering::Relaxed);
        }));
        let line = lines.line(0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..5 {
                    line.pulse();
                }
            });
        });
        assert_eq!(WOKEN.load(Ordering::Relaxed), 1);
        assert_eq!(published(&lines), Some((0, 1)));
        line.pulse();
        assert_eq!(WOKEN.load(Ordering::Relaxed), 2);
    }
}
