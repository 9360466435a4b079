//! Client memory, the port stub, and the windows that are filled later: device memory and threads' stacks.

use abi::boot::{RegionFlags, RegionKind};
use abi::layout::{self, PAGE_SIZE, entries};

use super::super::image::GuestImage;
use super::super::paging::Protection;
use super::{Plan, PlanError};

impl Plan {
    pub(super) fn user(&mut self) -> Result<(), PlanError> {
        let stack = self.ram.allocate(PAGE_SIZE)?;
        let user_flags = RegionFlags::USER | RegionFlags::WRITE;
        self.map_at(
            layout::USER_STACK,
            stack,
            PAGE_SIZE,
            RegionKind::UserStub,
            user_flags,
        )?;
        let client = self.map(
            layout::USER_ALIAS,
            self.user_bytes,
            RegionKind::UserAlias,
            RegionFlags::WRITE,
        )?;
        self.map_at(
            layout::USER,
            client,
            self.user_bytes,
            RegionKind::User,
            user_flags,
        )
    }

    /// Makes the tables of the I/O window and the special pool, so that later only entries need filling, and shows them and
    /// those of the clients' alias to CPL 0.
    pub(super) fn io_window(&mut self) -> Result<(), PlanError> {
        self.show_tables(
            layout::IO_WINDOW,
            layout::IO_WINDOW_SIZE,
            entries::IO_WINDOW,
        )?;
        if self.is_verifying {
            self.show_tables(
                layout::SPECIAL_POOL,
                layout::SPECIAL_POOL_SIZE,
                entries::SPECIAL_POOL,
            )?;
        }
        self.show_tables(layout::USER_ALIAS, self.user_bytes, entries::USER_ALIAS)
    }

    /// Maps the tables of `bytes` at an offset in kernel space for CPL 0; `first` is the index of their first entry.
    fn show_tables(&mut self, offset: u64, bytes: u64, first: u64) -> Result<(), PlanError> {
        for index in 0..bytes.div_ceil(entries::TABLE_BYTES) {
            let address = self.kernel_base + offset + index * entries::TABLE_BYTES;
            let table = self.tables.table_for(&self.ram, address)?;
            self.show_table(table, first + index * entries::PER_TABLE)?;
        }
        Ok(())
    }

    /// Maps a page table for CPL 0 where its entries have their index.
    pub(super) fn show_table(&mut self, table: u64, first_entry: u64) -> Result<(), PlanError> {
        let address = self.kernel_base + layout::IO_TABLES + first_entry * 8;
        let supervisor = Protection {
            write: true,
            ..Protection::default()
        };
        self.tables
            .map(&self.ram, address, table, PAGE_SIZE, supervisor)?;
        Ok(())
    }

    /// Makes the tables of the window of threads' kernel stacks, so that later only entries need filling.
    pub(super) fn stack_window(&mut self) -> Result<(), PlanError> {
        for index in 0..layout::THREAD_STACKS_SIZE / entries::TABLE_BYTES {
            let address = self.kernel_base + layout::THREAD_STACKS + index * entries::TABLE_BYTES;
            self.tables.table_for(&self.ram, address)?;
        }
        Ok(())
    }

    /// Maps a thread's kernel stack that the guest has made from pool pages. False: not in the stack window, not in the
    /// pool, or some of it is mapped already.
    pub(in crate::machine) fn map_stack(
        &mut self,
        address: u64,
        physical: u64,
        bytes: u64,
    ) -> Result<bool, PlanError> {
        let is_inside = |start: u64, size: u64, from: u64| {
            from.checked_sub(start)
                .and_then(|offset| offset.checked_add(bytes))
                .is_some_and(|end| end <= size)
        };
        let window = self.kernel_base + layout::THREAD_STACKS;
        let pool = self
            .regions
            .iter()
            .find(|region| region.kind == RegionKind::Pool as u32)
            .map_or((0, 0), |region| (region.physical_address, region.bytes));
        let is_allowed = bytes != 0
            && [address, physical, bytes]
                .iter()
                .all(|value| value % PAGE_SIZE == 0)
            && is_inside(window, layout::THREAD_STACKS_SIZE, address)
            && is_inside(pool.0, pool.1, physical)
            && !self.regions.iter().any(|region| {
                region.virtual_address < address + bytes
                    && address < region.virtual_address + region.bytes
            });
        if is_allowed {
            self.map_at(
                address,
                physical,
                bytes,
                RegionKind::Stack,
                RegionFlags::WRITE,
            )?;
        }
        Ok(is_allowed)
    }

    /// Maps the ring-3 port stub for CPL 3.
    pub(super) fn user_stub(&mut self, image: &GuestImage<'_>) -> Result<(), PlanError> {
        let header = &image.header;
        let stub_page = self.translate(header.user_stub);
        if let Some((physical, _)) = stub_page {
            let flags = RegionFlags::USER | RegionFlags::EXECUTE;
            self.map_at(
                layout::USER_STUB,
                physical,
                PAGE_SIZE,
                RegionKind::UserStub,
                flags,
            )?;
        }
        Ok(())
    }
}
