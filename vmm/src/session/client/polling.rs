//! How long the engine looks for requests before it sleeps.
//!
//! A wake-up costs tens of microseconds, a look a fraction of one. So the engine looks for a while when the last request
//! came soon after it had gone to sleep, and does not when it did not: an idle driver costs nothing. When the longest look
//! was in vain although requests come soon after it, looking is no use for a while: the client cannot run meanwhile, or
//! takes longer than that.

use std::time::{Duration, Instant};

/// Longest time that is spent looking, once.
const LONGEST: Duration = Duration::from_micros(100);
/// Shortest time that is worth it.
const SHORTEST: Duration = Duration::from_micros(10);

/// Sleeps without a look after looking was no use.
const REST: u32 = 32;

/// Whether there is a processor to look on while the client runs on another.
fn is_useful() -> bool {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) > 1
}

/// Longest time that the shim may spend looking, once, in its units of 100 ns.
pub(in crate::session) fn guest_max() -> u64 {
    if is_useful() {
        u64::try_from(LONGEST.as_nanos() / 100).unwrap_or(0)
    } else {
        0
    }
}

/// Between two looks, the first of which was so long ago. What was to come while others ran on other processors has come
/// by [`SHORTEST`]; from then on whoever shares this processor, perhaps the client, may run. False: somebody has used that
/// for so long that looking here is no use.
pub(super) fn pause(began: Instant, looked: Duration) -> bool {
    if looked < SHORTEST {
        std::hint::spin_loop();
        return true;
    }
    std::thread::yield_now();
    began.elapsed() < looked + LONGEST
}

/// The time to look, adapted.
#[derive(Debug)]
pub(super) struct Polling {
    window: Duration,
    rest: u32,
    is_useful: bool,
}

impl Polling {
    /// On one processor looking only keeps the client from running.
    pub(super) fn new() -> Self {
        Self::with(is_useful())
    }

    fn with(is_useful: bool) -> Self {
        Self {
            window: Duration::ZERO,
            rest: 0,
            is_useful,
        }
    }

    /// How long to look now.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Others want the processor.
    pub(super) fn gave_way(&mut self) {
        self.window = Duration::ZERO;
        self.rest = REST;
    }

    /// Looking was in vain, and the engine has slept for `slept` until a request came.
    pub(super) fn slept(&mut self, slept: Duration) {
        if !self.is_useful || self.rest > 0 {
            self.rest = self.rest.saturating_sub(1);
        } else if slept >= LONGEST {
            self.window = if self.window > SHORTEST {
                self.window / 2
            } else {
                Duration::ZERO
            };
        } else if self.window < LONGEST {
            self.window = (self.window * 2).clamp(SHORTEST, LONGEST);
        } else {
            self.gave_way();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_client_is_looked_for_and_idle_one_is_not() {
        let mut polling = Polling::with(true);
        assert_eq!(polling.window(), Duration::ZERO);
        for _ in 0..5 {
            polling.slept(Duration::from_micros(5));
        }
        assert_eq!(polling.window(), LONGEST);
        for _ in 0..10 {
            polling.slept(Duration::from_millis(5));
        }
        assert_eq!(polling.window(), Duration::ZERO);
    }

    #[test]
    fn looking_in_vain_ends_for_a_while() {
        let mut polling = Polling::with(true);
        for _ in 0..=5 + REST {
            polling.slept(Duration::from_micros(5));
            assert!(polling.window() <= LONGEST);
        }
        assert_eq!(polling.window(), Duration::ZERO);
        polling.slept(Duration::from_micros(5));
        assert_eq!(polling.window(), SHORTEST);
    }

    #[test]
    fn one_processor_never_polls() {
        let mut polling = Polling::with(false);
        polling.slept(Duration::ZERO);
        assert_eq!(polling.window(), Duration::ZERO);
    }
}
