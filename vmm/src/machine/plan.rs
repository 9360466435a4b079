//! What is mapped where: one pass over [`abi::layout`] that fills RAM, page tables and the region list.

use abi::boot::{BootInfo, MAX_REGIONS, Region, RegionFlags, RegionKind};
use abi::channel::State;
use abi::layout::{self, PAGE_SIZE, Shared, entries};
use abi::windows::Windows;
use abi::{DriverAbi, Privilege};
use displaydoc::Display;
use thiserror::Error;
use zerocopy::FromZeros;

use super::convert::to_usize;
use super::descriptors;
use super::image::GuestImage;
use super::memory::{GuestRam, MemoryError};
use super::paging::{PageTables, Protection};
use super::stubs::{self, MAX_UNBOUND};

mod access;
mod kernel;
#[cfg(test)]
mod tests;
mod user_tables;
mod windows;

use kernel::KernelData;
use user_tables::UserTables;

/// Pages of page tables beside those that map RAM and the I/O window.
const SPARE_TABLES: u64 = 44;

/// Why a guest could not be laid out.
#[derive(Debug, Display, Error)]
pub enum PlanError {
    /// guest memory
    Memory(#[from] MemoryError),
    /// the drivers' images need more than {0} bytes of address space
    DriversTooLarge(u64),
    /// the drivers import more than {0} functions that Ringfence does not have
    TooManyUnbound(usize),
    /// the guest image has no entry points for its exports
    NoExports,
    /// guest image: an import thunk is at {0:#x}, it must be below 4 GiB
    ThunkAddress(u64),
}

/// Where a driver's image was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverSlot {
    /// Guest-virtual address of its first byte.
    pub base: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
}

/// A guest's address space while it is laid out, and afterwards the record of it.
#[derive(Debug)]
pub(super) struct Plan {
    /// RAM.
    pub ram: GuestRam,
    /// Page tables.
    pub tables: PageTables,
    /// What is mapped where.
    pub regions: Vec<Region>,
    /// First address of kernel space.
    pub kernel_base: u64,
    /// Bytes of client memory at [`layout::USER`].
    pub user_bytes: u64,
    abi: DriverAbi,
    privilege: Privilege,
    is_verifying: bool,
    pool_bytes: u64,
    next_driver: u64,
    /// Pages of drivers' images that drivers may write: guest-physical addresses and bytes.
    driver_data: Vec<(u64, u64)>,
    export_addresses: Vec<u64>,
    unbound_count: usize,
    windows: Windows,
    user_tables: UserTables,
    kernel_data: KernelData,
}

impl Plan {
    /// Lays out everything but drivers and pool.
    ///
    /// # Errors
    /// When RAM is too small.
    pub(super) fn new(
        image: &GuestImage<'_>,
        abi: DriverAbi,
        privilege: Privilege,
        ram_bytes: u64,
        windows: Windows,
        is_verifying: bool,
    ) -> Result<Self, PlanError> {
        let mut ram = GuestRam::new(ram_bytes)?;
        let user_bytes = layout::client_bytes(ram_bytes);
        // The clients' memory is mapped twice.
        let mut mapped_bytes =
            ram_bytes + user_bytes + layout::IO_WINDOW_SIZE + layout::THREAD_STACKS_SIZE;
        if is_verifying {
            mapped_bytes += layout::SPECIAL_POOL_SIZE;
        }
        let user_tables = entries::user_tables(ram_bytes);
        let table_pages = mapped_bytes / entries::TABLE_BYTES + user_tables + SPARE_TABLES;
        let tables = PageTables::new(&mut ram, table_pages)?;
        let kernel_base = layout::kernel_base(abi, privilege);
        let export_addresses = image.export_addresses().ok_or(PlanError::NoExports)?;
        let mut plan = Self {
            ram,
            tables,
            regions: Vec::with_capacity(MAX_REGIONS),
            kernel_base,
            user_bytes,
            abi,
            privilege,
            is_verifying,
            pool_bytes: 0,
            next_driver: kernel_base + layout::DRIVERS + PAGE_SIZE,
            driver_data: Vec::new(),
            export_addresses,
            unbound_count: 0,
            windows,
            user_tables: UserTables::default(),
            kernel_data: KernelData::default(),
        };
        plan.shim(image)?;
        plan.processor(image)?;
        plan.kernel_data()?;
        plan.user()?;
        plan.io_window()?;
        plan.user_tables(user_tables)?;
        plan.stack_window()?;
        plan.kernel_images(image, windows)?;
        plan.user_stub(image)?;
        Ok(plan)
    }

    /// Takes RAM and address space for a driver's image of `bytes`; [`Self::place_driver`] fills it.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn reserve_driver(&mut self, bytes: u64) -> Result<DriverSlot, PlanError> {
        let bytes = bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        let base = self.next_driver;
        let end = self.kernel_base + layout::DRIVERS + layout::DRIVERS_SIZE;
        if bytes > end - base {
            return Err(PlanError::DriversTooLarge(layout::DRIVERS_SIZE));
        }
        // A page stays unmapped between two images.
        self.next_driver = base + bytes + PAGE_SIZE;
        Ok(DriverSlot { base, bytes })
    }

    /// Copies a driver's image to its slot and maps each page with its protection (write, execute).
    ///
    /// # Errors
    /// When RAM is used up.
    pub(super) fn place_driver(
        &mut self,
        slot: DriverSlot,
        memory: &[u8],
        protection: impl Fn(usize) -> (bool, bool),
    ) -> Result<(), PlanError> {
        let physical = self.ram.allocate(slot.bytes)?;
        self.ram.write(physical, memory)?;
        for page in 0..slot.bytes / PAGE_SIZE {
            let (write, execute) = protection(to_usize(page));
            if write {
                self.driver_data
                    .push((physical + page * PAGE_SIZE, PAGE_SIZE));
            }
            let protection = Protection {
                write,
                execute,
                ..self.protection()
            };
            self.tables.map(
                &self.ram,
                slot.base + page * PAGE_SIZE,
                physical + page * PAGE_SIZE,
                PAGE_SIZE,
                protection,
            )?;
        }
        let flags = RegionFlags::WRITE | RegionFlags::EXECUTE;
        self.record(slot.base, physical, slot.bytes, RegionKind::Driver, flags);
        Ok(())
    }

    /// Address for the next import that is not in the table, and its number.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn bind_unbound(&mut self) -> Result<(u64, usize), PlanError> {
        let number = self.unbound_count;
        if number >= MAX_UNBOUND {
            return Err(PlanError::TooManyUnbound(MAX_UNBOUND));
        }
        self.unbound_count += 1;
        let address = stubs::address(self.kernel_base, kernel_shim::table::COUNT + number);
        Ok((address, number))
    }

    /// Gives the rest of RAM to the pool and writes the boot information.
    ///
    /// # Errors
    /// When RAM is too small.
    pub(super) fn finish(&mut self, boot: BootInfo) -> Result<(), PlanError> {
        let bytes = self.ram.remaining() / PAGE_SIZE * PAGE_SIZE;
        self.pool_bytes = bytes;
        self.map(layout::POOL, bytes, RegionKind::Pool, RegionFlags::WRITE)?;
        let mut info = BootInfo {
            version: abi::VERSION,
            privilege: self.privilege as u32,
            kernel_base: self.kernel_base,
            ram_bytes: self.ram.bytes(),
            pool_bytes: self.pool_bytes,
            user_bytes: self.user_bytes,
            verify: u32::from(self.is_verifying),
            region_count: 0,
            windows: self.windows as u32,
            kernel_data_rva: self.kernel_data.rva,
            shim_data: self.kernel_data.address,
            shim_data_bytes: self.kernel_data.bytes,
            ..boot
        };
        for (slot, region) in info.regions.iter_mut().zip(&self.regions) {
            *slot = *region;
            info.region_count += 1;
        }
        // Boot is shim code: no tick before the shim can take one.
        let state = State {
            shim_depth: 1,
            ..State::new_zeroed()
        };
        self.write_virtual(
            self.kernel_base + layout::SHARED + Shared::STATE,
            zerocopy::IntoBytes::as_bytes(&state),
        )?;
        self.write_virtual(
            self.kernel_base + layout::SHARED + Shared::BOOT_INFO,
            zerocopy::IntoBytes::as_bytes(&info),
        )?;
        Ok(())
    }

    /// Memory that drivers may have devices read and write, as guest-physical addresses and bytes: the pool, with threads'
    /// stacks in it, client memory, and the drivers' own data. No code, no page table, nothing of the processor's.
    pub(super) fn dma_memory(&self) -> Vec<(u64, u64)> {
        let is_meant = |region: &&Region| {
            [RegionKind::Pool, RegionKind::User]
                .iter()
                .any(|kind| region.kind == *kind as u32)
        };
        let mut ranges: Vec<(u64, u64)> = self
            .regions
            .iter()
            .filter(is_meant)
            .map(|region| (region.physical_address, region.bytes))
            .chain(self.driver_data.iter().copied())
            .collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, bytes) in ranges {
            match merged.last_mut() {
                Some((last, size)) if *last + *size == first => *size += bytes,
                _ => merged.push((first, bytes)),
            }
        }
        merged
    }

    /// An empty [`BootInfo`] to fill in.
    #[must_use]
    pub(super) fn empty_boot_info() -> BootInfo {
        BootInfo::new_zeroed()
    }

    fn protection(&self) -> Protection {
        Protection {
            user: self.privilege == Privilege::Ring3,
            ..Protection::default()
        }
    }

    fn record(
        &mut self,
        virtual_address: u64,
        physical_address: u64,
        bytes: u64,
        kind: RegionKind,
        flags: RegionFlags,
    ) {
        self.regions.push(Region {
            virtual_address,
            physical_address,
            bytes,
            kind: kind as u32,
            flags: flags.bits(),
        });
    }

    /// Allocates and maps `bytes` at an offset in kernel space; returns the guest-physical address.
    fn map(
        &mut self,
        offset: u64,
        bytes: u64,
        kind: RegionKind,
        flags: RegionFlags,
    ) -> Result<u64, PlanError> {
        let bytes = bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        let physical = self.ram.allocate(bytes)?;
        self.map_at(self.kernel_base + offset, physical, bytes, kind, flags)?;
        Ok(physical)
    }

    fn map_at(
        &mut self,
        address: u64,
        physical: u64,
        bytes: u64,
        kind: RegionKind,
        flags: RegionFlags,
    ) -> Result<(), PlanError> {
        let protection = Protection {
            write: flags.contains(RegionFlags::WRITE),
            execute: flags.contains(RegionFlags::EXECUTE),
            user: flags.contains(RegionFlags::USER) || self.privilege == Privilege::Ring3,
            uncached: false,
        };
        self.tables
            .map(&self.ram, address, physical, bytes, protection)?;
        self.record(address, physical, bytes, kind, flags);
        Ok(())
    }

    fn shim(&mut self, image: &GuestImage<'_>) -> Result<(), PlanError> {
        for segment in &image.segments {
            let physical = self.ram.allocate(segment.memory_bytes)?;
            if segment.write {
                self.ram.write(physical, segment.data)?;
            } else {
                self.ram.place(physical, segment.data)?;
            }
            let mut flags = RegionFlags::empty();
            flags.set(RegionFlags::WRITE, segment.write);
            flags.set(RegionFlags::EXECUTE, segment.execute);
            self.map_at(
                segment.address,
                physical,
                segment.memory_bytes,
                RegionKind::Shim,
                flags,
            )?;
        }
        let is_ring3 = u64::from(self.privilege == Privilege::Ring3);
        self.write_virtual(image.header.is_ring3, &is_ring3.to_le_bytes())?;
        Ok(())
    }

    fn processor(&mut self, image: &GuestImage<'_>) -> Result<(), PlanError> {
        // Descriptor tables are out of reach at CPL 3, and read-only.
        let descriptors = self.ram.allocate(2 * PAGE_SIZE)?;
        self.ram
            .write(descriptors, &descriptors::gdt(self.kernel_base))?;
        self.ram.write(
            descriptors + PAGE_SIZE,
            &descriptors::idt(image.header.vectors),
        )?;
        // `ltr` sets the busy bit, so the GDT's page is writable for CPL 0.
        let supervisor = Protection {
            write: true,
            ..Protection::default()
        };
        self.tables.map(
            &self.ram,
            self.kernel_base + layout::DESCRIPTORS,
            descriptors,
            2 * PAGE_SIZE,
            supervisor,
        )?;
        let tss = self.map(
            layout::TSS,
            layout::tss::SIZE,
            RegionKind::Processor,
            RegionFlags::WRITE,
        )?;
        let allows_all_ports = self.privilege == Privilege::Ring3;
        self.ram.write(
            tss,
            &descriptors::tss_image(self.kernel_base, allows_all_ports),
        )?;
        self.map(
            layout::IST_STACKS,
            3 * PAGE_SIZE,
            RegionKind::Processor,
            RegionFlags::WRITE,
        )?;
        Ok(())
    }

    /// Has a part of the client window lead to the guest-physical addresses of the same offset; whole large pages. It may
    /// have done so before.
    ///
    /// # Errors
    /// When the pages for tables are used up.
    pub(super) fn map_client_window(&mut self, offset: u64, bytes: u64) -> Result<(), PlanError> {
        let (window, _) = layout::client_window(self.abi);
        let protection = Protection {
            write: true,
            ..self.protection()
        };
        for page in (offset..offset + bytes).step_by(to_usize(layout::LARGE_PAGE)) {
            let address = self.kernel_base + window + page;
            let physical = layout::CLIENT_WINDOW_GPA + page;
            self.tables
                .map_large(&self.ram, address, physical, protection)?;
        }
        Ok(())
    }

    fn kernel_data(&mut self) -> Result<(), PlanError> {
        self.map(
            layout::STACK,
            layout::STACK_SIZE,
            RegionKind::Stack,
            RegionFlags::WRITE,
        )?;
        // One more than the levels that may nest: the last reports that they are used up.
        for level in 0..=layout::TRAP_LEVELS {
            let guard = layout::TRAP_STACKS + level * layout::TRAP_STACK_STRIDE;
            self.map(
                guard + PAGE_SIZE,
                layout::TRAP_STACK_STRIDE - PAGE_SIZE,
                RegionKind::Stack,
                RegionFlags::WRITE,
            )?;
        }
        self.map(
            layout::SHARED,
            Shared::SIZE,
            RegionKind::Shared,
            RegionFlags::WRITE,
        )?;
        self.map(
            layout::HEAP,
            layout::heap_size(self.ram.bytes()),
            RegionKind::Heap,
            RegionFlags::WRITE,
        )?;
        self.map(layout::PCR, PAGE_SIZE, RegionKind::Pcr, RegionFlags::WRITE)?;
        let shared_data = self.map(
            layout::KUSER,
            PAGE_SIZE,
            RegionKind::UserSharedData,
            RegionFlags::WRITE,
        )?;
        let fixed_address = match (self.abi, self.privilege) {
            (DriverAbi::I386, _) => Some(layout::KUSER_I386),
            (DriverAbi::Amd64, Privilege::Ring0) => Some(layout::KUSER_AMD64),
            (DriverAbi::Amd64, Privilege::Ring3) => None,
        };
        if let Some(address) = fixed_address {
            self.map_at(
                address,
                shared_data,
                PAGE_SIZE,
                RegionKind::UserSharedData,
                RegionFlags::empty(),
            )?;
        }
        let doorbell = Protection {
            write: true,
            uncached: true,
            ..self.protection()
        };
        self.tables.map(
            &self.ram,
            self.kernel_base + layout::DOORBELL,
            layout::DOORBELL_GPA,
            PAGE_SIZE,
            doorbell,
        )?;
        Ok(())
    }
}
