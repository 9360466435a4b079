//! How long to look for what the other side does before sleeping, for client, VMM and shim alike.
//!
//! A wake-up costs tens of microseconds on either side, a look a fraction of one. So a side looks for a while when the last
//! news came soon after it had gone to sleep, and does not when they did not: who has nothing to do costs nothing. When the
//! longest look was in vain although news come soon after it, looking is no use for the next sleep, then for the next two,
//! four and so on: the other side cannot run meanwhile, or takes longer than that. One look that finds something ends that,
//! so a side that has lost the processor once goes on looking.

use core::time::Duration;

/// Longest time that is spent looking, once.
pub const LONGEST: Duration = Duration::from_micros(100);
/// Shortest time that is worth it. What was to come while others ran on other processors has come by then.
const SHORTEST: Duration = Duration::from_micros(10);
/// Most sleeps without a look after looking was no use.
const REST: u32 = 32;
/// When a look begins to yield the processor. An answer takes a little longer even when nobody has to be waited for, and
/// one of many clients that looks for longer keeps the others from asking meanwhile.
const ALONE: Duration = Duration::from_micros(1);
/// What a yield of the processor takes when nobody else wants it, and more.
const YIELD: Duration = Duration::from_micros(1);

/// The time to look, adapted.
#[derive(Clone, Copy, Debug)]
pub struct Polling {
    longest: Duration,
    soon: Duration,
    window: Duration,
    /// Sleeps without a look that are left.
    rest: u32,
    /// How many it will be next time.
    next_rest: u32,
}

impl Polling {
    /// Looks for `longest` at most, zero is never; for longer and longer while news come within `soon` of falling asleep.
    #[must_use]
    pub const fn new(longest: Duration, soon: Duration) -> Self {
        Self {
            longest,
            soon,
            window: Duration::ZERO,
            rest: 0,
            next_rest: 1,
        }
    }

    /// Changes the longest time.
    pub fn set_longest(&mut self, longest: Duration) {
        self.longest = longest;
        self.window = self.window.min(longest);
    }

    /// How long to look now.
    #[must_use]
    pub fn window(&self) -> Duration {
        if self.rest > 0 {
            Duration::ZERO
        } else {
            self.window
        }
    }

    /// A look has found something.
    pub fn found(&mut self) {
        self.next_rest = 1;
    }

    /// A look was no use: others want the processor, or the news come later than that.
    pub fn in_vain(&mut self) {
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(REST);
    }

    /// If there was a look, it was in vain, and the side has slept for `slept` until something came.
    pub fn slept(&mut self, slept: Duration) {
        if self.longest.is_zero() {
            return;
        }
        if self.rest > 0 {
            self.rest -= 1;
        } else if slept >= self.soon {
            self.window = if self.window > SHORTEST {
                self.window / 2
            } else {
                Duration::ZERO
            };
        } else if self.window < self.longest {
            self.window = (self.window * 4).max(SHORTEST).min(self.longest);
        } else {
            self.in_vain();
        }
    }
}

/// What to do between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again at once.
    Spin,
    /// Let others have the processor: the other side may be waiting for it.
    Yield,
    /// That was long enough.
    Over,
    /// Somebody else has used the processor for so long that looking is no use.
    Lost,
}

/// One look. Only its own time counts: what others use of the processor between two yields takes nothing from anybody.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    window: Duration,
    /// When the last step was, since the look began.
    last: Duration,
    looked: Duration,
    has_yielded: bool,
}

impl Look {
    /// Begins a look of so long.
    #[must_use]
    pub const fn new(window: Duration) -> Self {
        Self {
            window,
            last: Duration::ZERO,
            looked: Duration::ZERO,
            has_yielded: false,
        }
    }

    /// There was nothing, `now` after the look began.
    pub fn step(&mut self, now: Duration) -> Step {
        let took = now.saturating_sub(self.last);
        self.last = now;
        if self.has_yielded && took >= LONGEST {
            return Step::Lost;
        }
        self.looked += if self.has_yielded {
            took.min(YIELD)
        } else {
            took
        };
        if self.looked >= self.window {
            return Step::Over;
        }
        self.has_yielded = self.looked >= ALONE;
        if self.has_yielded {
            Step::Yield
        } else {
            Step::Spin
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(300);

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    fn sleep(polling: &mut Polling, times: u32, slept: Duration) {
        for _ in 0..times {
            polling.slept(slept);
        }
    }

    #[test]
    fn quick_news_are_looked_for_and_slow_ones_are_not() {
        let mut polling = Polling::new(LONGEST, SOON);
        assert_eq!(polling.window(), Duration::ZERO);
        sleep(&mut polling, 3, micros(200));
        assert_eq!(polling.window(), LONGEST);
        sleep(&mut polling, 5, micros(1000));
        assert_eq!(polling.window(), Duration::ZERO);
    }

    #[test]
    fn one_look_in_vain_costs_one_sleep_and_many_cost_more() {
        let mut polling = Polling::new(LONGEST, SOON);
        sleep(&mut polling, 3, micros(200));
        for rest in [1, 2, 4, 8, 16, 32, 32] {
            assert_eq!(polling.window(), LONGEST);
            // The sleep after the look in vain.
            polling.slept(micros(200));
            for _ in 0..rest {
                assert_eq!(polling.window(), Duration::ZERO);
                polling.slept(micros(200));
            }
        }
        polling.found();
        sleep(&mut polling, 2, micros(200));
        assert_eq!(polling.window(), LONGEST);
    }

    #[test]
    fn one_processor_never_looks() {
        let mut polling = Polling::new(Duration::ZERO, SOON);
        sleep(&mut polling, 3, Duration::ZERO);
        assert_eq!(polling.window(), Duration::ZERO);
    }

    #[test]
    fn look_yields_after_a_while_and_ends() {
        let mut look = Look::new(micros(4));
        assert_eq!(look.step(ALONE / 2), Step::Spin);
        assert_eq!(look.step(micros(2)), Step::Yield);
        // Others had the processor for 50 us of these.
        assert_eq!(look.step(micros(52)), Step::Yield);
        assert_eq!(look.step(micros(53)), Step::Over);
    }

    #[test]
    fn look_that_loses_the_processor_is_given_up() {
        let mut look = Look::new(LONGEST);
        assert_eq!(look.step(micros(10)), Step::Yield);
        assert_eq!(look.step(micros(110)), Step::Lost);
        // Not so before it has yielded: whoever was preempted was not asked.
        let mut look = Look::new(LONGEST);
        assert_eq!(look.step(micros(5000)), Step::Over);
    }
}
