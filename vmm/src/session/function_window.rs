//! Memory behind modelled PCI functions' BARs, as memory slots of the guest that follow the BARs about.
//!
//! An access to such memory costs no exit while its BAR is decoded. When the driver moves the BAR or turns the function's
//! memory off, the slot goes with it, and what was mapped before leaves the guest and reads ones.
#![expect(unsafe_code, reason = "host memory is handed to KVM by address")]

use crate::machine::{
    DEVICE_ADDRESS_MAX, DEVICE_WINDOW, PhysicalPiece, WindowChange, WindowMemory,
};
use crate::pci::PciRam;

/// What is in each slot.
#[derive(Debug, Default)]
pub(super) struct FunctionWindow {
    /// Where each slot is now, by the memory's number.
    slots: Vec<Option<u64>>,
}

impl FunctionWindow {
    /// What has to change for the memory to be where it is decoded. `ram` has always the same memory in the same order.
    /// Of memory that overlaps, the first is there; as for two cards at one address, the rest is up to nobody.
    pub(super) fn changes(&mut self, ram: &[PciRam]) -> Vec<WindowChange> {
        self.slots.resize(ram.len(), None);
        let mut wanted: Vec<Option<u64>> = Vec::new();
        for (index, one) in ram.iter().enumerate() {
            let place = one.base.filter(|base| {
                let end = base.saturating_add(one.bytes - 1);
                let others = ram.iter().zip(&wanted).take(index);
                let mut placed = others.filter_map(|(other, at)| at.map(|at| (at, other.bytes)));
                end <= DEVICE_ADDRESS_MAX
                    && base.is_multiple_of(abi::layout::PAGE_SIZE)
                    && placed.all(|(at, bytes)| end < at || *base > at + (bytes - 1))
            });
            wanted.push(place);
        }
        let mut gone = Vec::new();
        let mut come = Vec::new();
        for ((slot, one), (is, wanted)) in (0_u32..).zip(ram).zip(self.slots.iter_mut().zip(wanted))
        {
            if *is == wanted {
                continue;
            }
            if is.is_some() {
                gone.push(WindowChange::disappears(slot));
            }
            if let Some(base) = wanted {
                let memory = WindowMemory {
                    host_address: one.host_address,
                    piece: PhysicalPiece {
                        window_offset: DEVICE_WINDOW + base,
                        bytes: one.bytes,
                    },
                    is_writable: true,
                };
                // SAFETY: the memory lives as long as the `PciSpace`, which the responder owns; `Engine` drops its VM
                // before its responder.
                come.push(unsafe { WindowChange::appears(slot, memory) });
            }
            *is = wanted;
        }
        // First what goes: one may come to where another was.
        gone.extend(come);
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(base: Option<u64>) -> PciRam {
        PciRam {
            base,
            host_address: 0x1000,
            bytes: 0x2000,
        }
    }

    #[test]
    fn memory_follows_its_bar_and_what_goes_goes_first() {
        let mut window = FunctionWindow::default();
        let first = window.changes(&[ram(Some(0xD000_0000)), ram(None)]);
        assert_eq!(first.len(), 1);
        assert_eq!(window.changes(&[ram(Some(0xD000_0000)), ram(None)]), []);
        // They change places.
        let swapped = window.changes(&[ram(None), ram(Some(0xD000_0000))]);
        assert_eq!(swapped.len(), 2);
        assert_eq!(swapped[0], WindowChange::disappears(0));
    }

    #[test]
    fn memory_that_overlaps_or_is_too_high_up_is_not_there() {
        let mut window = FunctionWindow::default();
        let at = |base| ram(Some(base));
        assert_eq!(window.changes(&[at(0xD000_0000), at(0xD000_1000)]).len(), 1);
        assert_eq!(window.changes(&[at(0xD000_0000), at(0xD000_2000)]).len(), 1);
        let high = DEVICE_ADDRESS_MAX - 0xFFF;
        assert_eq!(
            window.changes(&[at(high), at(0xD000_2000)]),
            [WindowChange::disappears(0)]
        );
    }
}
