//! Whether engine and shim look for requests before they sleep.

use std::time::Duration;

use channel::polling::LONGEST;

/// Longest time that the engine spends looking, once. On one processor that only keeps the client from running.
pub(super) fn longest() -> Duration {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors > 1 {
        LONGEST
    } else {
        Duration::ZERO
    }
}

/// The same for the shim, in its units of 100 ns.
pub(in crate::session) fn guest_max() -> u64 {
    u64::try_from(longest().as_nanos() / 100).unwrap_or(0)
}
