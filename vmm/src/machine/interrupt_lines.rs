//! Interrupt lines: how device models and pass-through devices interrupt the guest, from any thread.
//!
//! What a line does is kept here until the vCPU thread publishes it to the guest ([`abi::interrupt`]) between two runs;
//! the watchdog ends a run that is under way, and the waker wakes whoever waits for an idle guest.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
            pin: None,
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

    /// As a guest that takes what there is.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        let _ = self.take();
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
    /// The pin that it is one part of, and which.
    pin: Option<(Arc<PinState>, u32)>,
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
        match &self.pin {
            None => self.assert_line(),
            Some((pin, part)) => pin.set_part(*part, true, self),
        }
    }

    fn assert_line(&self) {
        let before = self.shared.asserted.fetch_or(self.bit(), Ordering::AcqRel);
        if before & self.bit() == 0 {
            self.interrupt();
        }
    }

    /// Makes the line inactive.
    pub fn deassert(&self) {
        match &self.pin {
            None => self.deassert_line(),
            Some((pin, part)) => pin.set_part(*part, false, self),
        }
    }

    fn deassert_line(&self) {
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
        if self.pin.as_ref().is_none_or(|(pin, _)| !pin.is_masked()) {
            self.interrupt();
        }
    }

    /// The line with a pin's part before it.
    fn part_of(&self, pin: &Arc<PinState>, part: u32) -> Self {
        Self {
            pin: Some((Arc::clone(pin), part)),
            ..self.clone()
        }
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

/// What the parts of a pin do.
#[derive(Debug, Default)]
struct PinState {
    /// The parts that assert it, and whether it is masked.
    state: Mutex<(u32, bool)>,
}

impl PinState {
    fn lock(&self) -> MutexGuard<'_, (u32, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_masked(&self) -> bool {
        self.lock().1
    }

    /// Notes what a part does, and has the line follow. Under the lock, so that nobody who changes the pin at this moment
    /// is overtaken.
    fn set_part(&self, part: u32, is_asserting: bool, line: &InterruptLine) {
        let mut state = self.lock();
        let bit = 1_u32.checked_shl(part).unwrap_or(0);
        if is_asserting {
            state.0 |= bit;
        } else {
            state.0 &= !bit;
        }
        if state.1 {
            return;
        }
        if is_asserting {
            line.assert_line();
        } else if state.0 == 0 {
            line.deassert_line();
        }
    }
}

/// The interrupt pin of a device of several parts: its line is active while any of them asserts it, and the pin is not
/// masked.
#[derive(Debug)]
pub struct InterruptPin {
    line: InterruptLine,
    state: Arc<PinState>,
}

impl InterruptPin {
    /// A pin that is wired to `line`, and not masked.
    #[must_use]
    pub fn new(line: InterruptLine) -> Self {
        Self {
            line,
            state: Arc::default(),
        }
    }

    /// The line as one of the parts, 0 to 31, sees it.
    #[must_use]
    pub fn part(&self, part: u32) -> InterruptLine {
        self.line.part_of(&self.state, part)
    }

    /// Whether a part asserts it, masked or not.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        self.state.lock().0 != 0
    }

    /// Masks it, or lets it through again. A pulse that comes while it is masked is lost.
    pub fn set_masked(&self, is_masked: bool) {
        let mut state = self.state.lock();
        let was_masked = std::mem::replace(&mut state.1, is_masked);
        // Under the lock, as above.
        if state.0 != 0 && was_masked != is_masked {
            if is_masked {
                self.line.deassert_line();
            } else {
                self.line.assert_line();
            }
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

    #[test]
    fn a_pin_is_active_while_a_part_asserts_it_and_it_is_not_masked() {
        let lines = InterruptLines::default();
        let pin = InterruptPin::new(lines.line(2).unwrap());
        let (one, other) = (pin.part(0), pin.part(1));
        one.assert();
        other.assert();
        assert_eq!(published(&lines), Some((4, 4)));
        one.deassert();
        assert_eq!(published(&lines), None, "the other part holds it");
        pin.set_masked(true);
        assert_eq!(published(&lines), Some((0, 0)));
        assert!(pin.is_asserted());
        one.pulse();
        one.assert();
        assert_eq!(published(&lines), None);
        pin.set_masked(false);
        assert_eq!(published(&lines), Some((4, 4)));
        one.deassert();
        other.deassert();
        assert!(!pin.is_asserted());
        assert_eq!(published(&lines), Some((0, 0)));
        other.pulse();
        assert_eq!(published(&lines), Some((0, 4)));
    }
}
