//! Questions about the system, and unique identifiers.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::api::nt_api;
use crate::ke::time::{self, TICK};
use crate::nt::NtStatus;
use crate::raw::{Ptr, low8, low16, low32};
use crate::value::{Boolean, ProcessorMode, ULong};
use crate::{ps, shared};
use abi::layout;

/// Offset of ProcessorFeatures in KUSER_SHARED_DATA, and how many there are.
const PROCESSOR_FEATURES: u64 = 0x274;
const FEATURES: u32 = 64;
/// Suites of a workstation: TerminalServer (4) and SingleUserTS (8).
const SUITES: u32 = 1 << 4 | 1 << 8;
/// Finest timer resolution in 100 ns: 1 ms.
const FINEST: u64 = 10_000;
/// 100 ns from the UUIDs' epoch, 1582-10-15, to NT's, 1601-01-01.
const UUID_EPOCH: u64 = 5_748_192_000_000_000;

/// The resolution that ExSetTimerResolution set; 0: none.
static RESOLUTION: AtomicU32 = AtomicU32::new(0);
/// Time of the last UUID, so that no two have the same.
static LAST_UUID: AtomicU64 = AtomicU64::new(0);

/// Puts everything into its first state.
pub(crate) fn initialize() {
    RESOLUTION.store(0, Ordering::Relaxed);
}

fn resolution() -> u32 {
    match RESOLUTION.load(Ordering::Relaxed) {
        0 => low32(TICK),
        set => set,
    }
}

/// A UUID of version 1: time, and a node that is random and therefore has the multicast bit (RFC 4122, 4.5).
fn new_uuid() -> [u8; 16] {
    let now = time::system_time() + UUID_EPOCH;
    let next = LAST_UUID.load(Ordering::Relaxed).max(now) + 1;
    LAST_UUID.store(next, Ordering::Relaxed);
    // The node must be the same for all UUIDs of this machine's life and another one's for others.
    let seed = shared::boot_tsc() ^ shared::system_time().rotate_left(23);
    let node = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ seed;
    let mut uuid = [0; 16];
    uuid[0..4].copy_from_slice(&low32(next).to_le_bytes());
    uuid[4..6].copy_from_slice(&low16(next >> 32).to_le_bytes());
    uuid[6..8].copy_from_slice(&(low16(next >> 48) & 0x0FFF | 0x1000).to_le_bytes());
    uuid[8] = low8(node >> 48) & 0x3F | 0x80;
    uuid[9] = low8(node >> 56);
    uuid[10..16].copy_from_slice(&node.to_le_bytes()[..6]);
    uuid[10] |= 1;
    uuid
}

nt_api! { module = ex_misc;
    /// Makes a UUID (version 1, with a random node).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ExUuidCreate(uuid: Ptr<u8>) -> NtStatus {
        uuid.write_bytes(&new_uuid());
        NtStatus::SUCCESS
    }

    /// UserMode (1) in a request of a client process, KernelMode (0) otherwise.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExGetPreviousMode() -> ProcessorMode {
        ps::previous_mode()
    }

    /// Whether the processor has a feature (PF_ number).
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExIsProcessorFeaturePresent(feature: ULong) -> Boolean {
        let page = shared::kernel_base() + layout::KUSER + PROCESSOR_FEATURES;
        feature < FEATURES && Ptr::<u8>::new(page + u64::from(feature)).read() != 0
    }

    /// Whether a product suite is installed: the two of every workstation are.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExVerifySuite(suite: ULong) -> Boolean {
        suite < 32 && SUITES & 1 << suite != 0
    }

    /// Sets the timer resolution, 1 ms to 15.625 ms in 100 ns, or gives it back; returns what is in force. Timers expire
    /// on time whatever it is.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExSetTimerResolution(desired: ULong, set: Boolean) -> ULong {
        let chosen = if set { desired.clamp(low32(FINEST), low32(TICK)).min(resolution()) } else { 0 };
        RESOLUTION.store(chosen, Ordering::Relaxed);
        resolution()
    }

    /// The coarsest, finest and current timer resolution, in 100 ns.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExQueryTimerResolution(maximum: Ptr<u32>, minimum: Ptr<u32>, current: Ptr<u32>) {
        maximum.write(low32(TICK));
        minimum.write(low32(FINEST));
        current.write(resolution());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    #[test]
    fn uuids_are_of_version_1_and_differ() {
        let _machine = machine();
        let (first, second) = (new_uuid(), new_uuid());
        assert_ne!(first, second);
        for uuid in [first, second] {
            assert_eq!((uuid[7] >> 4, uuid[8] >> 6, uuid[10] & 1), (1, 2, 1));
        }
        assert_eq!(first[8..], second[8..], "the node is the machine's");
    }

    #[test]
    fn the_resolution_is_kept_in_its_limits() {
        let _machine = machine();
        assert_eq!(ExSetTimerResolution(1, true), 10_000);
        assert_eq!(ExSetTimerResolution(0, false), 156_250);
        assert!(ExIsProcessorFeaturePresent(2) && !ExIsProcessorFeaturePresent(64));
        assert!(ExVerifySuite(8) && !ExVerifySuite(7) && !ExVerifySuite(100));
    }
}
