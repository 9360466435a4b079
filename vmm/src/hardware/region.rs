//! BARs, or pages of them, that are not mapped into the guest: each access leaves the guest and is made by VFIO's read and
//! write of the BAR's region.
//!
//! That is so for a BAR that shares its page with another one, which the kernel does not let be mapped, and for the pages
//! with a function's MSI-X table and its pending bits. The table is the kernel's, which has programmed it for the machine's
//! interrupt controllers; the driver sees one of its own (`msix`) whose mask bits hold its interrupts back.

use std::ops::Range;
use std::sync::Arc;

use super::vfio::{Bar, VfioFunction};
use crate::devices::MemoryDevice;

const PAGE_SIZE: u64 = abi::layout::PAGE_SIZE;

/// A part of a BAR that accesses leave the guest for.
#[derive(Debug)]
pub(crate) struct Region {
    function: Arc<VfioFunction>,
    number: u32,
    bar: Bar,
    /// Where in the BAR the part begins.
    first: u64,
}

/// Pages of a BAR, as offsets in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BarPiece {
    pub(crate) pages: Range<u64>,
    /// Whether accesses are to leave the guest.
    pub(crate) is_trapped: bool,
}

/// Neighbouring pages of `range` together, as `is_trapped` has them.
pub(super) fn pieces(range: Range<u64>, is_trapped: impl Fn(&Range<u64>) -> bool) -> Vec<BarPiece> {
    let mut pieces: Vec<BarPiece> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let pages = at..at.saturating_add(PAGE_SIZE).min(range.end);
        at = pages.end;
        let is_trapped = is_trapped(&pages);
        match pieces.last_mut() {
            Some(last) if last.is_trapped == is_trapped => last.pages.end = at,
            _ => pieces.push(BarPiece { pages, is_trapped }),
        }
    }
    pieces
}

impl Region {
    pub(super) fn new(function: Arc<VfioFunction>, number: u32, bar: Bar, first: u64) -> Self {
        Self {
            function,
            number,
            bar,
            first,
        }
    }

    /// How many of `bytes` from `at` on are in the BAR.
    fn there(&self, at: u64, bytes: u8) -> usize {
        let there = self.bar.bytes.saturating_sub(at).min(bytes.into());
        usize::try_from(there).unwrap_or(0)
    }
}

impl MemoryDevice for Region {
    fn load(&mut self, offset: u32, bytes: u8) -> u64 {
        let at = self.first + u64::from(offset);
        let mut data = [0xFF; 8];
        if let Some(value) = self
            .function
            .msix()
            .and_then(|table| table.load(self.number, at, bytes))
        {
            return value;
        }
        if let Some(data @ [_, ..]) = data.get_mut(..self.there(at, bytes)) {
            self.function.read_bar(self.number, data, at);
        }
        u64::from_le_bytes(data)
    }

    fn store(&mut self, offset: u32, bytes: u8, value: u64) {
        let at = self.first + u64::from(offset);
        let table = self.function.msix();
        if table.is_some_and(|table| table.store(self.number, at, bytes, value)) {
            return;
        }
        if let Some(data @ [_, ..]) = value.to_le_bytes().get(..self.there(at, bytes)) {
            self.function.write_bar(self.number, data, at);
        }
    }

    fn describe(&self) -> String {
        format!("BAR {} by VFIO", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::msix::MsixTable;
    use super::*;

    #[test]
    fn pages_with_the_table_or_its_pending_bits_are_trapped() {
        let table = MsixTable::at(3, 0x1000, 300, 3, 0x4000);
        let split = |number, range| {
            pieces(range, |page| table.is_in(number, page))
                .into_iter()
                .map(|piece| (piece.pages.start, piece.pages.end, piece.is_trapped))
                .collect::<Vec<_>>()
        };
        // 300 vectors have 4800 bytes: two pages.
        assert_eq!(
            split(3, 0..0x5000),
            [
                (0, 0x1000, false),
                (0x1000, 0x3000, true),
                (0x3000, 0x4000, false),
                (0x4000, 0x5000, true),
            ]
        );
        assert_eq!(split(3, 0x3000..0x4000), [(0x3000, 0x4000, false)]);
        assert_eq!(split(0, 0..0x5000), [(0, 0x5000, false)]);
    }
}
