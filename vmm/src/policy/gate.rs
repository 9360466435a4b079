//! A rule's `rate` and `quota`, live.

use std::time::Duration;

use super::{Limits, OnRate};
use crate::ports::DenialReason;

/// Counts the uses of a rule.
///
/// The rate is a bucket of `burst` tokens that fills with `rate` tokens a second, kept as the time at which the next
/// token falls due (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    used: u64,
    due: Duration,
}

impl Gate {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: 0,
            due: Duration::ZERO,
        }
    }

    /// Whether it never says no.
    pub(crate) const fn is_open(&self) -> bool {
        self.limits.is_none()
    }

    /// How long an access at time `now` has to wait, or why it is denied. Nothing is counted.
    pub(crate) fn check(&self, now: Duration) -> Result<Duration, DenialReason> {
        if self.limits.quota.is_some_and(|quota| self.used >= quota) {
            return Err(DenialReason::Quota);
        }
        let Some(rate) = self.limits.rate else {
            return Ok(Duration::ZERO);
        };
        let interval = interval(rate.per_second);
        let tolerance = interval.saturating_mul(rate.burst.saturating_sub(1));
        let wait = self.due.saturating_sub(tolerance).saturating_sub(now);
        match rate.on_rate {
            OnRate::Deny if !wait.is_zero() => Err(DenialReason::Rate),
            OnRate::Deny | OnRate::Delay => Ok(wait),
        }
    }

    /// Counts an access that takes place at time `now`.
    pub(crate) fn take(&mut self, now: Duration) {
        self.used = self.used.saturating_add(1);
        if let Some(rate) = self.limits.rate {
            self.due = self.due.max(now).saturating_add(interval(rate.per_second));
        }
    }
}

fn interval(per_second: u32) -> Duration {
    Duration::from_nanos(1_000_000_000 / u64::from(per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rate;

    fn gate(per_second: u32, burst: u32, on_rate: OnRate, quota: Option<u64>) -> Gate {
        Gate::new(Limits {
            rate: Some(Rate {
                per_second,
                burst,
                on_rate,
            }),
            quota,
        })
    }

    #[test]
    fn burst_passes_and_then_the_rate() {
        let mut gate = gate(10, 3, OnRate::Deny, None);
        let mut passed = Vec::new();
        for millisecond in 0..1000 {
            let now = Duration::from_millis(millisecond);
            if gate.check(now).is_ok() {
                gate.take(now);
                passed.push(millisecond);
            }
        }
        assert_eq!(
            passed,
            [0, 1, 2, 100, 200, 300, 400, 500, 600, 700, 800, 900]
        );
        // After a pause there is a burst again, and no more than that.
        let later = Duration::from_secs(60);
        for _ in 0..3 {
            assert!(gate.check(later).is_ok());
            gate.take(later);
        }
        assert_eq!(gate.check(later), Err(DenialReason::Rate));
    }

    #[test]
    fn delay_says_how_long() {
        let mut gate = gate(4, 1, OnRate::Delay, None);
        assert_eq!(gate.check(Duration::ZERO), Ok(Duration::ZERO));
        gate.take(Duration::ZERO);
        let now = Duration::from_millis(50);
        assert_eq!(gate.check(now), Ok(Duration::from_millis(200)));
    }

    #[test]
    fn quota_is_used_up_once() {
        let mut gate = gate(1000, 1000, OnRate::Deny, Some(2));
        for second in 0..2 {
            assert!(gate.check(Duration::from_secs(second)).is_ok());
            gate.take(Duration::from_secs(second));
        }
        assert_eq!(gate.check(Duration::from_secs(9)), Err(DenialReason::Quota));
    }
}
