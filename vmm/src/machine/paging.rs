//! Page tables in guest memory (4-level, 4 KiB pages; Intel SDM vol. 3A ch. 4.5, AMD APM vol. 2 ch. 5.3).
//!
//! The VMM builds them before the first run. Afterwards it only ever fills *absent* entries: a paravirtual KVM
//! shadows the tables and does not see the host's stores to present ones.

use abi::layout::PAGE_SIZE;

use super::memory::{GuestRam, MemoryError};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS_MASK: u64 = 0x000F_FFFF_FFFF_F000;
const ENTRIES: u64 = 512;

/// Protection of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Protection {
    /// Stores are allowed.
    pub(super) write: bool,
    /// Instructions can be fetched.
    pub(super) execute: bool,
    /// CPL 3 has access.
    pub(super) user: bool,
    /// Not cached (device memory).
    pub(super) uncached: bool,
}

impl Protection {
    fn bits(self) -> u64 {
        let mut bits = PRESENT;
        for (is_set, bit) in [
            (self.write, WRITABLE),
            (self.user, USER),
            (!self.execute, NO_EXECUTE),
            (self.uncached, CACHE_DISABLE | WRITE_THROUGH),
        ] {
            if is_set {
                bits |= bit;
            }
        }
        bits
    }
}

/// The page tables of a guest.
#[derive(Debug)]
pub(super) struct PageTables {
    root: u64,
    next_table: u64,
    tables_end: u64,
}

impl PageTables {
    /// Takes `table_pages` pages of RAM for tables.
    ///
    /// # Errors
    /// When RAM is used up.
    pub(super) fn new(ram: &mut GuestRam, table_pages: u64) -> Result<Self, MemoryError> {
        let root = ram.allocate(table_pages * PAGE_SIZE)?;
        Ok(Self {
            root,
            next_table: root + PAGE_SIZE,
            tables_end: root + table_pages * PAGE_SIZE,
        })
    }

    /// Guest-physical address for CR3.
    #[must_use]
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// Maps `bytes` from `virtual_address` to contiguous `physical_address`.
    ///
    /// # Errors
    /// When the pages for tables are used up.
    pub(super) fn map(
        &mut self,
        ram: &GuestRam,
        virtual_address: u64,
        physical_address: u64,
        bytes: u64,
        protection: Protection,
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < bytes {
            let address = virtual_address + done;
            let table = self.table_for(ram, address)?;
            // Fill the rest of this table in one store.
            let first = (address / PAGE_SIZE) % ENTRIES;
            let count = (ENTRIES - first).min((bytes - done).div_ceil(PAGE_SIZE));
            let entries: Vec<u64> = (0..count)
                .map(|page| (physical_address + done + page * PAGE_SIZE) | protection.bits())
                .collect();
            let encoded: Vec<u8> = entries
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect();
            ram.write(table + first * 8, &encoded)?;
            done += count * PAGE_SIZE;
        }
        Ok(())
    }

    /// Makes the last-level table for `virtual_address` if it is not there; returns its guest-physical address.
    ///
    /// # Errors
    /// When the pages for tables are used up.
    pub(super) fn table_for(
        &mut self,
        ram: &GuestRam,
        virtual_address: u64,
    ) -> Result<u64, MemoryError> {
        let mut table = self.root;
        for level in [3, 2, 1] {
            let index = (virtual_address >> (12 + 9 * level)) % ENTRIES;
            let slot = table + index * 8;
            let entry: u64 = ram.read_value(slot)?;
            table = if entry & PRESENT != 0 {
                entry & ADDRESS_MASK
            } else {
                let new = self.next_table;
                if new >= self.tables_end {
                    return Err(MemoryError::Exhausted {
                        needed: PAGE_SIZE,
                        total: ram.bytes(),
                    });
                }
                self.next_table += PAGE_SIZE;
                // Upper levels allow everything; the last level decides.
                ram.write_value(slot, &(new | PRESENT | WRITABLE | USER))?;
                new
            };
        }
        Ok(table)
    }
}
