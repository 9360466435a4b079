//! How long a thread looks for answers before it sleeps.
//!
//! A wake-up costs tens of microseconds on either side, a look a fraction of one. So a thread looks for a while when the
//! last answer came soon after it had gone to sleep, and not when it did not. When even the longest look was in vain
//! although answers come soon, looking is no use for a while: they take longer than that.

use std::time::Duration;

/// Longest time that is spent looking, once.
const LONGEST: Duration = Duration::from_micros(100);
/// Shortest time that is worth it.
const SHORTEST: Duration = Duration::from_micros(10);
/// What comes within this time of falling asleep would have come within [`LONGEST`] without the wake-ups of both sides.
const SOON: Duration = Duration::from_micros(300);
/// Sleeps without a look after looking was no use.
const REST: u32 = 32;

/// The time to look, adapted.
#[derive(Debug)]
pub(crate) struct Spin {
    window: Duration,
    rest: u32,
    is_useful: bool,
}

impl Spin {
    /// On one processor looking only keeps the driver from running.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with(processors > 1)
    }

    fn with(is_useful: bool) -> Self {
        Self {
            window: Duration::ZERO,
            rest: 0,
            is_useful,
        }
    }

    /// How long to look now.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// It was in vain, and the thread has slept for `slept`.
    pub(crate) fn slept(&mut self, slept: Duration) {
        if !self.is_useful || self.rest > 0 {
            self.rest = self.rest.saturating_sub(1);
        } else if slept >= SOON {
            self.window = if self.window > SHORTEST {
                self.window / 2
            } else {
                Duration::ZERO
            };
        } else if self.window < LONGEST {
            self.window = (self.window * 2).clamp(SHORTEST, LONGEST);
        } else {
            self.window = Duration::ZERO;
            self.rest = REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(spin: &mut Spin, times: u32, slept: Duration) {
        for _ in 0..times {
            spin.slept(slept);
        }
    }

    #[test]
    fn quick_answers_are_looked_for_and_slow_ones_are_not() {
        let mut spin = Spin::with(true);
        assert_eq!(spin.window(), Duration::ZERO);
        sleep(&mut spin, 5, Duration::from_micros(200));
        assert_eq!(spin.window(), LONGEST);
        sleep(&mut spin, 5, Duration::from_millis(1));
        assert_eq!(spin.window(), Duration::ZERO);
    }

    #[test]
    fn looking_in_vain_ends_for_a_while() {
        let mut spin = Spin::with(true);
        sleep(&mut spin, 6, Duration::from_micros(200));
        assert_eq!(spin.window(), Duration::ZERO);
        sleep(&mut spin, REST, Duration::from_micros(200));
        assert_eq!(spin.window(), Duration::ZERO);
        sleep(&mut spin, 1, Duration::from_micros(200));
        assert_eq!(spin.window(), SHORTEST);
    }

    #[test]
    fn one_processor_never_looks() {
        let mut spin = Spin::with(false);
        sleep(&mut spin, 3, Duration::ZERO);
        assert_eq!(spin.window(), Duration::ZERO);
    }
}
