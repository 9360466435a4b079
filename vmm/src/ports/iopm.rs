//! The VMM's mirror of the guest's I/O permission maps.
//!
//! It answers a client process's port request without entering the guest, so it must say what the processor
//! would say of the bitmap in the guest's TSS. The shim reports each change
//! ([`abi::doorbell::Call::SetIoAccessMap`], [`abi::doorbell::Call::SetProcessIoAccessMap`]).

use std::collections::HashMap;

use super::Width;

/// Bytes of a map, one bit for each port; a set bit denies.
pub const MAP_BYTES: usize = 8192;
/// The byte after a map, which the processor reads for an access near the last port.
const CLOSING_BYTE: u8 = 0xFF;

/// Maps, and which process uses which.
#[derive(Debug)]
pub struct Mirror {
    /// Map 1, the only one NT has beside map 0, which denies every port.
    map: Box<[u8; MAP_BYTES]>,
    /// Processes that are not on map 0.
    processes: HashMap<u32, u32>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// As NT starts: map 1 denies every port, every process is on map 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            map: Box::new([0xFF; MAP_BYTES]),
            processes: HashMap::new(),
        }
    }

    /// Replaces a map (Ke386SetIoAccessMap). False for a number that is not 1: there is nothing to replace.
    pub fn set_map(&mut self, number: u32, map: &[u8; MAP_BYTES]) -> bool {
        if number != 1 {
            return false;
        }
        self.map.copy_from_slice(map);
        true
    }

    /// Points a process at map 1, or at none with 0 (Ke386IoSetAccessProcess). False for another number.
    pub fn set_process(&mut self, process: u32, number: u32) -> bool {
        match number {
            0 => {
                self.processes.remove(&process);
                true
            }
            1 => {
                self.processes.insert(process, number);
                true
            }
            _ => false,
        }
    }

    /// Forgets a process that ended; its id may be used again and must not inherit the map.
    pub fn remove_process(&mut self, process: u32) {
        self.processes.remove(&process);
    }

    /// Whether the processor would let `process` access `width` ports from `port` at CPL 3.
    ///
    /// Intel SDM vol. 1, 19.5.2, and AMD64 APM vol. 2, 12.2.5: the processor reads the two bytes of the bitmap
    /// that hold the bit of `port` and those after it, and every bit of the access must be clear. An access that
    /// reaches past port 0xFFFF meets the byte after the map, which is all ones.
    #[must_use]
    pub fn allows(&self, process: u32, port: u16, width: Width) -> bool {
        if !self.processes.contains_key(&process) {
            return false;
        }
        let index = usize::from(port / 8);
        let byte_at = |index: usize| self.map.get(index).copied().unwrap_or(CLOSING_BYTE);
        let bits = u16::from_le_bytes([byte_at(index), byte_at(index + 1)]) >> (port % 8);
        let access = (1 << width.bytes()) - 1;
        bits & access == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule bit by bit: every port of the access exists and its bit is clear.
    fn allows_bit_by_bit(map: &[u8; MAP_BYTES], port: u16, width: Width) -> bool {
        (0..u32::from(width.bytes())).all(|byte| {
            let port = u32::from(port) + byte;
            let index = usize::try_from(port / 8).unwrap();
            index < MAP_BYTES && map[index] & (1 << (port % 8)) == 0
        })
    }

    fn mirror_with(map: &[u8; MAP_BYTES]) -> Mirror {
        let mut mirror = Mirror::new();
        assert!(mirror.set_map(1, map));
        assert!(mirror.set_process(7, 1));
        mirror
    }

    #[test]
    fn start_denies_every_port() {
        let mut mirror = Mirror::new();
        assert!(!mirror.allows(7, 0x378, Width::Byte), "map 0");
        mirror.set_process(7, 1);
        assert!(!mirror.allows(7, 0x378, Width::Byte), "map 1, all ones");
    }

    #[test]
    fn only_numbers_nt_knows() {
        let mut mirror = Mirror::new();
        for number in [0, 2, u32::MAX] {
            assert!(!mirror.set_map(number, &[0; MAP_BYTES]), "{number}");
        }
        assert!(mirror.set_map(1, &[0; MAP_BYTES]));
        assert!(mirror.set_process(7, 1));
        assert!(!mirror.set_process(7, 2));
        assert!(mirror.allows(7, 0, Width::Byte), "stays on map 1");
        assert!(mirror.set_process(7, 0));
        assert!(!mirror.allows(7, 0, Width::Byte));
    }

    #[test]
    fn removed_process_does_not_leave_its_map_to_the_next_of_its_id() {
        let mut mirror = mirror_with(&[0; MAP_BYTES]);
        assert!(mirror.allows(7, 0x378, Width::Dword));
        assert!(!mirror.allows(8, 0x378, Width::Dword));
        mirror.remove_process(7);
        assert!(!mirror.allows(7, 0x378, Width::Dword));
    }

    #[test]
    fn accesses_past_the_last_port_meet_the_closing_byte() {
        let mirror = mirror_with(&[0; MAP_BYTES]);
        assert!(mirror.allows(7, 0xFFFF, Width::Byte));
        assert!(!mirror.allows(7, 0xFFFF, Width::Word));
        assert!(mirror.allows(7, 0xFFFE, Width::Word));
        assert!(mirror.allows(7, 0xFFFC, Width::Dword));
        for port in 0xFFFD..=0xFFFF {
            assert!(!mirror.allows(7, port, Width::Dword), "{port:#x}");
        }
    }

    proptest! {
        /// Maps that are all open or all closed but for some ports, tried around those ports, where it matters.
        #[test]
        fn agrees_with_the_rule_bit_by_bit(
            fill in prop_oneof![Just(0_u8), Just(0xFF_u8), any::<u8>()],
            flipped in proptest::collection::vec(prop_oneof![4 => any::<u16>(), 1 => 0xFFF0..=0xFFFF_u16], 1..32),
        ) {
            let mut map = [fill; MAP_BYTES];
            for port in &flipped {
                map[usize::from(port / 8)] ^= 1 << (port % 8);
            }
            let mirror = mirror_with(&map);
            for near in flipped {
                for port in near.saturating_sub(5)..=near.saturating_add(5) {
                    for width in Width::ALL {
                        prop_assert_eq!(
                            mirror.allows(7, port, width),
                            allows_bit_by_bit(&map, port, width),
                            "port {:#x}, {:?}", port, width
                        );
                    }
                }
            }
        }
    }
}
