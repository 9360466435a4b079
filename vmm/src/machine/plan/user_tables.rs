//! Page tables of user space for what drivers map there: one for each 2 MiB in which a driver wants an address.
//!
//! They lie in RAM and are shown to the guest's CPL 0 service from the start; putting one in fills an absent entry of the
//! level above, which is all that the VMM does to page tables once the guest runs.

use abi::layout::{self, entries};

use super::{Plan, PlanError};

/// The tables, and what they are used for.
#[derive(Debug, Default)]
pub(super) struct UserTables {
    /// Guest-physical address of the first; they are contiguous.
    first: u64,
    count: u64,
    /// First addresses of the user space of those in use, in order.
    used: Vec<u64>,
}

impl Plan {
    /// Takes `count` tables for user space and shows them to CPL 0.
    pub(super) fn user_tables(&mut self, count: u64) -> Result<(), PlanError> {
        let first = self.tables.reserve(&self.ram, count)?;
        for index in 0..count {
            let table = first + index * layout::PAGE_SIZE;
            self.show_table(table, entries::USER + index * entries::PER_TABLE)?;
        }
        self.user_tables = UserTables {
            first,
            count,
            used: Vec::new(),
        };
        Ok(())
    }

    /// Puts in the table of 2 MiB of user space; the index of its first entry. `None`: no such address, the VMM has
    /// mapped something there, or there are no more tables.
    pub(in crate::machine) fn map_user_table(
        &mut self,
        address: u64,
    ) -> Result<Option<u64>, PlanError> {
        let index = self.user_tables.used.len() as u64;
        let is_free = address.is_multiple_of(entries::TABLE_BYTES)
            && address <= layout::HIGHEST_USER_ADDRESS
            && index < self.user_tables.count;
        let table = self.user_tables.first + index * layout::PAGE_SIZE;
        if !is_free || !self.tables.insert_table(&self.ram, address, table)? {
            return Ok(None);
        }
        self.user_tables.used.push(address);
        Ok(Some(entries::USER + index * entries::PER_TABLE))
    }

    /// Whether a range of user space has tables that [`Self::map_user_table`] has put in.
    pub(in crate::machine) fn has_user_tables(&self, address: u64, bytes: u64) -> bool {
        let Some(last) = bytes
            .checked_sub(1)
            .and_then(|last| address.checked_add(last))
        else {
            return false;
        };
        last <= layout::HIGHEST_USER_ADDRESS
            && (address / entries::TABLE_BYTES..=last / entries::TABLE_BYTES).all(|table| {
                let start = table * entries::TABLE_BYTES;
                self.user_tables.used.contains(&start)
            })
    }
}
