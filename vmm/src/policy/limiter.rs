//! How many log lines a driver may cause.

use std::collections::VecDeque;
use std::time::Duration;

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogVerdict {
    /// Log it, and say that this many were left out since the last one.
    Log {
        /// Lines left out.
        suppressed: u64,
    },
    /// Leave it out.
    Suppress,
}

/// Lets at most a fixed number of lines through in any one second.
///
/// A bucket of `rate` tokens, where a token that was taken comes back exactly one second later; a bucket that
/// is refilled continuously would let up to twice the rate through in its first second.
#[derive(Debug)]
pub struct LogLimiter {
    rate: usize,
    taken_at: VecDeque<Duration>,
    suppressed: u64,
}

impl LogLimiter {
    /// A limiter for `rate` lines a second; 0 suppresses all.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self {
            rate: usize::try_from(rate).unwrap_or(usize::MAX),
            taken_at: VecDeque::new(),
            suppressed: 0,
        }
    }

    /// Asks for a line at time `now`, on any clock that does not run backwards.
    pub fn ask(&mut self, now: Duration) -> LogVerdict {
        while let Some(oldest) = self.taken_at.front() {
            if now.saturating_sub(*oldest) < Duration::from_secs(1) {
                break;
            }
            self.taken_at.pop_front();
        }
        if self.taken_at.len() < self.rate {
            self.taken_at.push_back(now);
            LogVerdict::Log {
                suppressed: self.take_suppressed(),
            }
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
            LogVerdict::Suppress
        }
    }

    /// Lines left out since the last one that was let through; for the last word at the end of a run.
    pub fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_gets_rate_lines_in_any_second_and_a_count() {
        let mut limiter = LogLimiter::new(3);
        let mut logged_at = Vec::new();
        let mut reported = 0;
        for millisecond in 0..5000 {
            let now = Duration::from_millis(millisecond);
            if let LogVerdict::Log { suppressed } = limiter.ask(now) {
                logged_at.push(millisecond);
                reported += suppressed;
            }
        }
        for window_start in 0..4000 {
            let lines = logged_at
                .iter()
                .filter(|at| (window_start..window_start + 1000).contains(*at))
                .count();
            assert_eq!(lines, 3, "second from {window_start} ms");
        }
        reported += limiter.take_suppressed();
        assert_eq!(reported, 5000 - 15);
        assert_eq!(limiter.take_suppressed(), 0);
    }

    #[test]
    fn zero_rate_suppresses_all() {
        let mut limiter = LogLimiter::new(0);
        assert_eq!(limiter.ask(Duration::from_secs(9)), LogVerdict::Suppress);
        assert_eq!(limiter.take_suppressed(), 1);
    }

    #[test]
    fn clock_running_backwards_does_not_panic() {
        let mut limiter = LogLimiter::new(1);
        assert_eq!(
            limiter.ask(Duration::from_secs(5)),
            LogVerdict::Log { suppressed: 0 }
        );
        assert_eq!(limiter.ask(Duration::from_secs(1)), LogVerdict::Suppress);
    }
}
