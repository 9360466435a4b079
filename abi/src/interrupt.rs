//! Interrupt lines of devices: what the VMM raises and the shim delivers to drivers' service routines.
//!
//! There are [`LINES`] lines; bit `n` of each word is line `n`. Every word has one writer, so neither side needs an
//! atomic instruction: an edge is pending while its bits in [`InterruptLines::raised`] and [`InterruptLines::taken`]
//! differ. The VMM stores to its words between two runs of the vCPU only, then sets
//! [`crate::channel::State::interrupt_due`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Interrupt lines of a guest.
pub const LINES: u32 = 64;

/// The lines' state, in the shared pages at [`crate::layout::Shared::INTERRUPTS`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InterruptLines {
    /// Lines that a device holds active; written by the VMM. A level-sensitive interrupt is delivered again and again
    /// while its line is.
    pub asserted: u64,
    /// Toggled for each edge (a line that becomes active, or a pulse); written by the VMM, and only if the edge before
    /// was taken: edges that come too fast are one, as in an I/O APIC.
    pub raised: u64,
    /// Made equal to `raised` for the edges that were delivered or dropped; written by the shim.
    pub taken: u64,
    /// Lines that are not delivered, because nobody claimed their interrupts for too long; written by the shim.
    pub masked: u64,
}

impl InterruptLines {
    /// Lines with an edge that was not taken yet.
    #[must_use]
    pub const fn edges(&self) -> u64 {
        self.raised ^ self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_pending_until_it_is_taken() {
        let mut lines = InterruptLines::default();
        for _ in 0..2 {
            lines.raised ^= 1 << 5;
            assert_eq!(lines.edges(), 1 << 5);
            lines.taken ^= 1 << 5;
            assert_eq!(lines.edges(), 0);
        }
    }
}
