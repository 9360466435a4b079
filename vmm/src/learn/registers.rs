//! Registers that ports select: PCI configuration space behind 0xCF8 and 0xCFC, CMOS memory behind 0x70 and 0x71.
//!
//! A rule for the ports would give a driver all registers, and is refused for what these can do. What a driver asked for
//! is seen by following what it wrote to the selecting port.

use std::collections::BTreeMap;

use super::touched::{Counts, Use, count_at, describe_at};
use crate::observe::ports::Direction;
use crate::policy::PciAddress;
use crate::recording::{Access, Recording, Space};

pub(super) const CMOS_INDEX: u64 = 0x70;
const CMOS_DATA: u64 = 0x71;
/// Bit 7 of the index port masks NMIs.
const CMOS_INDEX_MASK: u64 = 0x7F;
const CONFIG_ADDRESS: u64 = 0xCF8;
const CONFIG_DATA: u64 = 0xCFC;
const CONFIG_END: u64 = 0xD00;
const CONFIG_ENABLE: u64 = 1 << 31;

/// Registers of one device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct RegisterUse {
    by_register: BTreeMap<u64, Use>,
    counts: Counts,
}

impl RegisterUse {
    fn add(&mut self, recording: &Recording, access: &Access, register: u64) {
        for at in register..register + access.bytes {
            self.by_register.entry(at).or_default().add(access);
        }
        count_at(&mut self.counts, recording, access, register);
    }

    /// First, last and use of neighbours that were used alike. Widths do not matter: rules for registers have none.
    pub(super) fn ranges(&self) -> Vec<(u64, u64, Use)> {
        let mut ranges: Vec<(u64, u64, Use)> = Vec::new();
        for (register, uses) in &self.by_register {
            match ranges.last_mut() {
                Some((_, last, before))
                    if *last + 1 == *register
                        && (before.is_read, before.is_written)
                            == (uses.is_read, uses.is_written) =>
                {
                    *last = *register;
                }
                _ => ranges.push((*register, *register, *uses)),
            }
        }
        ranges
    }

    pub(super) fn users(&self) -> Vec<String> {
        describe_at(&self.counts, "register ")
    }
}

/// What was touched behind selecting ports that no rule names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Registers {
    /// By function.
    pub(super) pci: BTreeMap<PciAddress, RegisterUse>,
    /// Whether anything was asked of the PCI ports.
    pub(super) has_pci: bool,
    /// `None`: the ports are no index and data, or were not used.
    pub(super) cmos: Option<RegisterUse>,
}

impl Registers {
    pub(super) fn of(recording: &Recording) -> Self {
        let mut found = Self::default();
        found.follow_pci(recording);
        found.cmos = follow_cmos(recording);
        found
    }

    /// Whether an access that no rule decided is one of these.
    pub(super) fn has(&self, access: &Access) -> bool {
        is_config(access) || (self.cmos.is_some() && is_cmos(access))
    }

    fn follow_pci(&mut self, recording: &Recording) {
        let mut selected = 0;
        for access in recording.accesses.iter().filter(|access| is_config(access)) {
            if access.address == CONFIG_ADDRESS {
                self.has_pci |= access.rule_line == 0;
                if access.direction == Direction::Write {
                    selected = access.value;
                }
                continue;
            }
            // With a rule's line the rule is kept.
            if access.rule_line == 0 && selected & CONFIG_ENABLE != 0 {
                let [low, place, bus, _] = (selected & 0x00FF_FFFC)
                    .to_le_bytes()
                    .first_chunk()
                    .copied()
                    .unwrap_or([0; 4]);
                let address = PciAddress {
                    segment: 0,
                    bus,
                    device: place >> 3,
                    function: place & 7,
                };
                let register = u64::from(low) + (access.address - CONFIG_DATA);
                let function = self.pci.entry(address).or_default();
                function.add(recording, access, register);
            }
        }
    }
}

/// An access to CONFIG_ADDRESS, which is for 4 bytes alone, or to CONFIG_DATA.
fn is_config(access: &Access) -> bool {
    let is_address = access.address == CONFIG_ADDRESS && access.bytes == 4;
    let is_data = access.address >= CONFIG_DATA && access.address + access.bytes <= CONFIG_END;
    access.space == Space::Port && (is_address || is_data)
}

fn is_cmos(access: &Access) -> bool {
    access.space == Space::Port
        && access.address <= CMOS_DATA
        && access.address + access.bytes > CMOS_INDEX
}

fn follow_cmos(recording: &Recording) -> Option<RegisterUse> {
    let mut found = RegisterUse::default();
    let mut index = None;
    let accesses = recording.accesses.iter().filter(|access| is_cmos(access));
    for access in accesses.filter(|access| access.rule_line == 0) {
        match (access.address, access.bytes, access.direction) {
            (CMOS_INDEX, 1, Direction::Write) => index = Some(access.value & CMOS_INDEX_MASK),
            (CMOS_INDEX, 1, Direction::Read) => {}
            // Before any index, or by accesses that are not bytes: something else is meant.
            (CMOS_DATA, 1, _) => found.add(recording, access, index?),
            _ => return None,
        }
    }
    (!found.by_register.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::export::tests_support::denied_ports;

    #[test]
    fn registers_of_pci_functions_are_told_from_what_was_selected() {
        let recording = denied_ports(&[
            (0xCFC, 4, None),
            (0xCF8, 4, Some(0x8000_1804)),
            (0xCFC, 2, Some(7)),
            (0xCFE, 2, None),
            (0xCF8, 4, Some(0x8000_8910)),
            (0xCFD, 1, None),
            (0xCF8, 4, Some(0x0000_1804)),
            (0xCFC, 4, None),
            (0xCF9, 1, Some(6)),
        ]);
        let registers = Registers::of(&recording);
        let ranges = |bus, device, function| {
            let address = PciAddress {
                segment: 0,
                bus,
                device,
                function,
            };
            let ranges = registers.pci[&address].ranges();
            let plain =
                |(first, last, uses): (u64, u64, Use)| (first, last, uses.is_read, uses.is_written);
            ranges.into_iter().map(plain).collect::<Vec<_>>()
        };
        assert_eq!(registers.pci.len(), 2);
        assert_eq!(ranges(0, 3, 0), [(4, 5, false, true), (6, 7, true, false)]);
        assert_eq!(ranges(0, 17, 1), [(0x11, 0x11, true, false)]);
        // The reset register is none of the mechanism's.
        let others = recording
            .accesses
            .iter()
            .filter(|access| !registers.has(access));
        assert_eq!(
            others.map(|access| access.address).collect::<Vec<_>>(),
            [0xCF9]
        );
    }

    #[test]
    fn cmos_registers_are_told_from_their_index() {
        let recording = denied_ports(&[
            (0x70, 1, Some(0x8A)),
            (0x71, 1, None),
            (0x70, 1, Some(0x0B)),
            (0x71, 1, None),
            (0x71, 1, Some(2)),
        ]);
        let cmos = Registers::of(&recording).cmos.unwrap();
        let ranges = cmos.ranges();
        assert_eq!(ranges.len(), 2);
        assert_eq!((ranges[0].0, ranges[0].2.is_written), (0x0A, false));
        assert_eq!((ranges[1].0, ranges[1].2.is_written), (0x0B, true));
        for other in [
            &[(0x71, 1, None)][..],
            &[(0x70, 1, Some(1)), (0x70, 2, None)],
            &[(0x70, 1, Some(1))],
        ] {
            assert_eq!(Registers::of(&denied_ports(other)).cmos, None, "{other:?}");
        }
    }
}
