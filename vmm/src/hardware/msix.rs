//! A function's MSI-X table as the driver sees it (PCI Local Bus Specification 3.0, 6.8.2).
//!
//! Messages are the kernel's: it writes where they go into the table that the device has, and VFIO keeps it to itself. What
//! a driver does to this one has two effects: it reads back, and the mask bit of a vector holds its interrupts back, which
//! its pending bit tells of meanwhile. As NT leaves the table when a driver has connected its interrupt, no vector is masked
//! at first.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

const CAPABILITY_MSIX: u8 = 0x11;
const ENTRY_BYTES: u64 = 16;
const VECTOR_CONTROL: usize = 12;
const MASKED: u8 = 1;

/// Where a table is in a function's BARs, and what it has.
#[derive(Debug)]
pub(super) struct MsixTable {
    table: Place,
    pending: Place,
    vectors: Mutex<Vec<Vector>>,
}

#[derive(Debug)]
struct Place {
    bar: u32,
    bytes: Range<u64>,
}

impl Place {
    /// Whether any of its bytes is in `range` of a BAR.
    fn meets(&self, bar: u32, range: &Range<u64>) -> bool {
        self.bar == bar && range.start < self.bytes.end && self.bytes.start < range.end
    }
}

#[derive(Debug, Default)]
struct Vector {
    entry: [u8; 16],
    is_pending: bool,
    /// What each of its interrupts adds to.
    event: Option<EventFd>,
}

impl Vector {
    fn is_masked(&self) -> bool {
        self.entry[VECTOR_CONTROL] & MASKED != 0
    }
}

impl MsixTable {
    /// Reads the capability of a function with `config` as the first 256 bytes of its configuration space. `None`: it has
    /// none.
    pub(super) fn find(config: &[u8; 256]) -> Option<Self> {
        const STATUS_CAPABILITIES: u8 = 1 << 4;
        let byte = |at: usize| config.get(at).copied();
        let dword = |at: usize| {
            let bytes = config.get(at..at.checked_add(4)?)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        if byte(6)? & STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = usize::from(byte(0x34)? & !3);
        // There is room for so many; a list may be a ring.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            if byte(at)? == CAPABILITY_MSIX {
                let [low, high, ..] = dword(at + 2)?.to_le_bytes();
                let vectors = (u16::from_le_bytes([low, high]) & 0x7FF) + 1;
                let place = |register: u32| (register & 7, u64::from(register & !7));
                let (table_bar, table) = place(dword(at + 4)?);
                let (pending_bar, pending) = place(dword(at + 8)?);
                return Some(Self::at(table_bar, table, vectors, pending_bar, pending));
            }
            at = usize::from(byte(at + 1)? & !3);
        }
        None
    }

    pub(super) fn at(
        table_bar: u32,
        table: u64,
        vectors: u16,
        pending_bar: u32,
        pending: u64,
    ) -> Self {
        let count = u64::from(vectors);
        Self {
            table: Place {
                bar: table_bar,
                bytes: table..table + count * ENTRY_BYTES,
            },
            pending: Place {
                bar: pending_bar,
                bytes: pending..pending + count.div_ceil(64) * 8,
            },
            vectors: Mutex::new((0..vectors).map(|_| Vector::default()).collect()),
        }
    }

    fn vectors(&self) -> MutexGuard<'_, Vec<Vector>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many vectors it has.
    pub(super) fn len(&self) -> usize {
        self.vectors().len()
    }

    /// Whether a page of a BAR has some of the table, or of the pending bits.
    pub(super) fn is_in(&self, bar: u32, page: &Range<u64>) -> bool {
        self.table.meets(bar, page) || self.pending.meets(bar, page)
    }

    /// What interrupts of a vector that are not masked any more are to add to.
    pub(super) fn set_event(&self, vector: usize, event: &EventFd) -> io::Result<()> {
        let event = event.try_clone()?;
        if let Some(vector) = self.vectors().get_mut(vector) {
            vector.event = Some(event);
        }
        Ok(())
    }

    /// Takes an interrupt of a vector that is masked: it comes when the mask bit goes. `false`: it is not masked.
    pub(super) fn defer(&self, vector: usize) -> bool {
        let mut vectors = self.vectors();
        let Some(vector) = vectors.get_mut(vector) else {
            return false;
        };
        vector.is_pending = vector.is_masked();
        vector.is_pending
    }

    /// Reads 1 to 8 bytes of a BAR. `None`: the first of them is neither in the table nor in the pending bits.
    pub(super) fn load(&self, bar: u32, at: u64, bytes: u8) -> Option<u64> {
        let access = at..at + 1;
        let is_table = self.table.meets(bar, &access);
        if !is_table && !self.pending.meets(bar, &access) {
            return None;
        }
        let vectors = self.vectors();
        let mut value = [0xFF; 8];
        for (byte, at) in value.iter_mut().zip(at..at + u64::from(bytes)) {
            *byte = if is_table {
                let offset = at - self.table.bytes.start;
                let entry = index(offset / ENTRY_BYTES);
                vectors
                    .get(entry)
                    .map_or(0xFF, |vector| vector.entry[index(offset % ENTRY_BYTES)])
            } else {
                let first = index((at - self.pending.bytes.start) * 8);
                (0..8).fold(0, |bits, bit| {
                    let is_pending = vectors
                        .get(first + bit)
                        .is_some_and(|vector| vector.is_pending);
                    bits | u8::from(is_pending) << bit
                })
            };
        }
        Some(u64::from_le_bytes(value))
    }

    /// Writes 1 to 8 bytes of a BAR. `false`: the first of them is neither in the table nor in the pending bits, which
    /// cannot be written.
    pub(super) fn store(&self, bar: u32, at: u64, bytes: u8, value: u64) -> bool {
        let access = at..at + 1;
        if !self.table.meets(bar, &access) {
            return self.pending.meets(bar, &access);
        }
        let mut vectors = self.vectors();
        for (byte, at) in value
            .to_le_bytes()
            .into_iter()
            .zip(at..at + u64::from(bytes))
        {
            let offset = at - self.table.bytes.start;
            let Some(vector) = vectors.get_mut(index(offset / ENTRY_BYTES)) else {
                break;
            };
            vector.entry[index(offset % ENTRY_BYTES)] = byte;
            if vector.is_pending && !vector.is_masked() {
                vector.is_pending = false;
                if let Some(event) = &vector.event {
                    // It fails when the counter is full, which says the same.
                    let _ = event.write(1).is_ok();
                }
            }
        }
        true
    }
}

/// An offset in a BAR's table, which has at most 32 KiB.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    fn config(capabilities: &[(usize, &[u8])]) -> [u8; 256] {
        let mut config = [0; 256];
        config[6] = 0x10;
        config[0x34] = capabilities
            .first()
            .map_or(0, |first| first.0.to_le_bytes()[0]);
        for (at, bytes) in capabilities {
            config[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        config
    }

    #[test]
    fn the_capability_is_found_behind_others() {
        // As QEMU's e1000e has it: 5 vectors, the table in BAR 3, the pending bits at 0x2000 of it.
        let msix = [0x11, 0x00, 0x04, 0x00, 0x03, 0, 0, 0, 0x03, 0x20, 0, 0];
        let table = MsixTable::find(&config(&[(0xC8, &[1, 0xA0]), (0xA0, &msix)])).unwrap();
        assert_eq!(table.len(), 5);
        assert_eq!((table.table.bar, &table.table.bytes), (3, &(0..80)));
        assert_eq!(
            (table.pending.bar, &table.pending.bytes),
            (3, &(0x2000..0x2008))
        );

        assert!(MsixTable::find(&[0; 256]).is_none());
        assert!(MsixTable::find(&[0xFF; 256]).is_none());
        // A ring, and a list that leads out.
        assert!(MsixTable::find(&config(&[(0x40, &[1, 0x44]), (0x44, &[1, 0x40])])).is_none());
        assert!(MsixTable::find(&config(&[(0xFC, &[0x11, 0])])).is_none());
    }

    #[test]
    fn masked_vectors_wait_for_their_mask_bit() {
        let table = MsixTable::at(1, 0x100, 70, 1, 0x800);
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        table.set_event(65, &event).unwrap();
        let control = 0x100 + 65 * 16 + 12;
        assert!(!table.defer(65));
        assert!(table.store(1, control, 4, 1));
        assert!(table.defer(65) && table.defer(65) && !table.defer(64));
        assert_eq!(table.load(1, 0x808, 8), Some(0b10));
        assert_eq!(
            table.load(1, control, 4).map(|value| value & 0xFFFF_FFFF),
            Some(1)
        );
        assert!(event.read().is_err());
        assert!(table.store(1, control, 4, 0));
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!(table.load(1, 0x808, 8), Some(0));
        assert!(!table.defer(65));
        // Pending bits are read-only; the rest of the BAR is the device's.
        assert!(table.store(1, 0x800, 8, u64::MAX));
        assert_eq!(table.load(1, 0x800, 8), Some(0));
        assert_eq!(table.load(0, 0x100, 4), None);
        assert!(!table.store(1, 0xFC, 4, 0) && !table.store(0, 0x100, 4, 0));
        // Across the table's end.
        assert!(table.store(1, 0x100 + 70 * 16 - 1, 8, u64::MAX));
        assert_eq!(table.load(1, 0x100 + 70 * 16 - 1, 8), Some(u64::MAX));
    }
}
