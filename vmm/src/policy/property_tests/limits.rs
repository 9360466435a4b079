//! How often and how many times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::machine::Bus;
use crate::pci::{PciRequest, PciSpace};
use crate::policy::gate::Gate;

/// A bucket as docs/policy.md words it: `burst` accesses at once after a pause, `rate` a second after that, `quota` in all.
/// It keeps tokens, in billionths, where the real one keeps a time.
#[derive(Debug)]
struct NaiveLimits {
    rate: Option<(u64, u64)>,
    delays: bool,
    quota: Option<u64>,
    tokens: i128,
    /// When the tokens were last counted, in nanoseconds.
    counted_at: u64,
    used: u64,
}

const TOKEN: i128 = 1_000_000_000;

impl NaiveLimits {
    fn new(rate: Option<(u64, u64)>, delays: bool, quota: Option<u64>) -> Self {
        Self {
            rate,
            delays,
            quota,
            tokens: rate.map_or(0, |(_, burst)| TOKEN * i128::from(burst)),
            counted_at: 0,
            used: 0,
        }
    }

    fn fill(&mut self, now: u64) {
        if let Some((rate, burst)) = self.rate {
            let new = i128::from(now - self.counted_at) * i128::from(rate);
            self.tokens = (self.tokens + new).min(TOKEN * i128::from(burst));
        }
        self.counted_at = now;
    }

    /// How many nanoseconds an access at `now` has to wait, or why it is denied.
    fn access(&mut self, now: u64) -> Result<u64, DenialReason> {
        if self.quota.is_some_and(|quota| self.used >= quota) {
            return Err(DenialReason::Quota);
        }
        self.fill(now);
        let mut wait = 0;
        if let Some((rate, _)) = self.rate {
            let lacking = TOKEN - self.tokens;
            if lacking > 0 {
                if !self.delays {
                    return Err(DenialReason::Rate);
                }
                wait = u64::try_from(lacking).unwrap().div_ceil(rate);
                self.fill(now + wait);
            }
            self.tokens -= TOKEN;
        }
        self.used += 1;
        Ok(wait)
    }
}

/// Rates whose interval is a whole number of nanoseconds, with bursts.
fn rates() -> impl Strategy<Value = Option<(u64, u64)>> {
    let rate = prop::sample::select(vec![1_u64, 2, 8, 50, 1000, 12_500, 1_000_000]);
    prop::option::weighted(0.8, (rate, 1..6_u64))
}

/// Pauses between accesses, in nanoseconds: none, near the intervals, and long ones.
fn pauses() -> impl Strategy<Value = Vec<u64>> {
    let pause = prop_oneof![
        Just(0_u64),
        0..3000_u64,
        79_990..80_010_u64,
        0..30_000_000_u64,
        499_999_990..500_000_010_u64,
        0..5_000_000_000_u64,
    ];
    prop::collection::vec(pause, 60)
}

proptest! {
    #[test]
    fn rates_and_quotas_are_those_of_the_naive_reference(
        rate in rates(),
        delays in any::<bool>(),
        quota in prop::option::of(0..50_u64),
        pauses in pauses(),
    ) {
        let on_rate = if delays { OnRate::Delay } else { OnRate::Deny };
        let mut gate = Gate::new(Limits {
            rate: rate.map(|(per_second, burst)| Rate {
                per_second: u32::try_from(per_second).unwrap(),
                burst: u32::try_from(burst).unwrap(),
                on_rate,
            }),
            quota,
        });
        let mut naive = NaiveLimits::new(rate, delays, quota);
        let mut now = 0;
        for pause in pauses {
            now += pause;
            let expected = naive.access(now);
            let found = gate.check(Duration::from_nanos(now));
            prop_assert_eq!(found, expected.map(Duration::from_nanos), "at {} ns", now);
            if let Ok(wait) = expected {
                // The guest stands still meanwhile.
                now += wait;
                gate.take(Duration::from_nanos(now));
            }
        }
    }

    #[test]
    fn limits_of_a_policy_are_kept_on_a_virtual_clock(
        rate in rates(),
        quota in prop::option::of(0..50_u64),
        pauses in pauses(),
    ) {
        let mut text = "[[pci]]\ndevice = \"8086:100e\"\nbdf = \"00:03.0\"\nbackend = \"model\"\naccess = \"rw\"\n".to_owned();
        if let Some((per_second, burst)) = rate {
            let _ = writeln!(text, "rate = {per_second}\nburst = {burst}");
        }
        if let Some(quota) = quota {
            let _ = writeln!(text, "quota = {quota}");
        }
        let policy = parsed(&text);
        let time = Arc::new(AtomicU64::new(0));
        let for_space = Arc::clone(&time);
        let clock = Box::new(move || Duration::from_nanos(for_space.load(Ordering::Relaxed)));
        let bus = Bus::default();
        let mut space = PciSpace::with_clock(&policy, None, &bus, clock).unwrap();
        let mut naive = NaiveLimits::new(rate, false, quota);
        let address = PciAddress { segment: 0, bus: 0, device: 3, function: 0 };
        for (number, pause) in (0..).zip(pauses) {
            let now = time.fetch_add(pause, Ordering::Relaxed) + pause;
            let write = (number % 2 == 0).then_some(number);
            let request = PciRequest { address, register: 0x40, width: Width::Dword, write };
            // Asking costs nothing.
            let decided = space.decide(&request).reason;
            let outcome = space.access(&request);
            let expected = naive.access(now).err();
            prop_assert_eq!(outcome.decision.reason, expected, "at {} ns under\n{}", now, text);
            prop_assert_eq!(decided, expected);
        }
    }
}
