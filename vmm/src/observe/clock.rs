//! Time stamps: from the guest's time-stamp counter to time since its boot.

use std::fmt;

/// Converts a guest's time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The counter at boot ([`abi::boot::BootInfo::boot_tsc`]).
    pub boot_tsc: u64,
    /// Its frequency in kHz ([`abi::boot::BootInfo::tsc_khz`]).
    pub tsc_khz: u64,
}

impl Clock {
    /// Time since boot; 0 for a counter before boot, which only a broken guest writes.
    #[must_use]
    pub fn since_boot(self, tsc: u64) -> Timestamp {
        let ticks = u128::from(tsc.saturating_sub(self.boot_tsc));
        let microseconds = ticks * 1000 / u128::from(self.tsc_khz.max(1));
        Timestamp(u64::try_from(microseconds).unwrap_or(u64::MAX))
    }
}

/// Microseconds since boot. Shown as seconds with six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_is_scaled_by_its_frequency() {
        let clock = Clock {
            boot_tsc: 1000,
            tsc_khz: 2_000_000,
        };
        assert_eq!(
            clock.since_boot(1000 + 2_469_134_000).to_string(),
            "1.234567"
        );
    }

    #[test]
    fn hostile_counters_do_not_overflow() {
        let clock = Clock {
            boot_tsc: 5,
            tsc_khz: 0,
        };
        assert_eq!(clock.since_boot(0).to_string(), "0.000000");
        assert_eq!(clock.since_boot(u64::MAX), Timestamp(u64::MAX));
    }
}
