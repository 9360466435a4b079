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
/// In an entry of the second level: it is a page of 2 MiB.
const LARGE: u64 = 1 << 7;
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

    /// Maps a page of 2 MiB, unless its entry is there.
    ///
    /// # Errors
    /// When the pages for tables are used up.
    pub(super) fn map_large(
        &mut self,
        ram: &GuestRam,
        virtual_address: u64,
        physical_address: u64,
        protection: Protection,
    ) -> Result<(), MemoryError> {
        let slot = self.slot(ram, virtual_address)?;
        if ram.read_value::<u64>(slot)? & PRESENT == 0 {
            ram.write_value(slot, &(physical_address | protection.bits() | LARGE))?;
        }
        Ok(())
    }

    /// Takes `count` of the pages for tables, contiguous ones, for [`Self::insert_table`].
    ///
    /// # Errors
    /// When they are used up.
    pub(super) fn reserve(&mut self, ram: &GuestRam, count: u64) -> Result<u64, MemoryError> {
        let first = self.next_table;
        let end = first + count * PAGE_SIZE;
        if end > self.tables_end {
            return Err(MemoryError::Exhausted {
                needed: count * PAGE_SIZE,
                total: ram.bytes(),
            });
        }
        self.next_table = end;
        Ok(first)
    }

    /// Makes `table` the last-level table for `virtual_address`. False: it has one already.
    ///
    /// # Errors
    /// When the pages for tables are used up.
    pub(super) fn insert_table(
        &mut self,
        ram: &GuestRam,
        virtual_address: u64,
        table: u64,
    ) -> Result<bool, MemoryError> {
        let slot = self.slot(ram, virtual_address)?;
        let is_absent = ram.read_value::<u64>(slot)? & PRESENT == 0;
        if is_absent {
            ram.write_value(slot, &(table | PRESENT | WRITABLE | USER))?;
        }
        Ok(is_absent)
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
        let slot = self.slot(ram, virtual_address)?;
        self.next_level(ram, slot)
    }

    /// Where the entry of the last-level table for `virtual_address` is; makes the levels above.
    fn slot(&mut self, ram: &GuestRam, virtual_address: u64) -> Result<u64, MemoryError> {
        let index = |level: u64| (virtual_address >> (12 + 9 * level)) % ENTRIES;
        let upper = self.next_level(ram, self.root + index(3) * 8)?;
        let directory = self.next_level(ram, upper + index(2) * 8)?;
        Ok(directory + index(1) * 8)
    }

    /// The table that the entry at `slot` leads to, which is made if it is not there.
    fn next_level(&mut self, ram: &GuestRam, slot: u64) -> Result<u64, MemoryError> {
        let entry: u64 = ram.read_value(slot)?;
        if entry & PRESENT != 0 {
            return Ok(entry & ADDRESS_MASK);
        }
        let new = self.reserve(ram, 1)?;
        // Upper levels allow everything; the last level decides.
        ram.write_value(slot, &(new | PRESENT | WRITABLE | USER))?;
        Ok(new)
    }
}
