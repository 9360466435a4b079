//! Addresses: which memory is behind them, physically and as a kernel alias.

pub(crate) mod address_space;
pub mod api;
pub mod contiguous;
pub mod data;
pub mod io_space;
pub(crate) mod locked;
pub mod mdl;
pub(crate) mod mdl_mapping;
pub mod mdl_pages;
pub mod paging;
pub mod protection;
pub mod reserved_mapping;
pub mod section;
pub mod section_view;
pub mod secure;
pub mod validity;
pub mod virtual_memory;
pub(crate) mod window;

use crate::client::memory;
use crate::ex::pool;
use crate::export::{Coverage, ExportKind, Module};
use crate::raw::{low32, volatile_read};
use crate::{shared, table, view};
use abi::DriverAbi;
use abi::boot::{BootInfo, MAX_REGIONS, Region, RegionFlags, RegionKind};
use abi::layout;

/// The region that `address` lies in, as the VMM described it.
#[must_use]
pub fn region_of(address: u64) -> Option<Region> {
    (0..shared::region_count())
        .filter_map(region)
        .find(|region| address.wrapping_sub(region.virtual_address) < region.bytes)
        .or_else(|| crate::ps::stack::region_of(address))
}

/// Whether `address` lies in a region of that kind.
#[must_use]
pub fn is_in(address: u64, kind: RegionKind) -> bool {
    region_of(address).is_some_and(|region| region.kind == kind as u32)
}

/// The physical address behind `address`: guest-physical for the guest's own memory, the host's for a mapped physical
/// range. `None` when nothing is there.
#[must_use]
pub fn physical_address(address: u64) -> Option<u64> {
    if let Some(of_client) = memory::usable(address) {
        return of_client;
    }
    if let Some(decided) = window::lookup(address) {
        return decided.map(|mapped| mapped.physical + address % layout::PAGE_SIZE);
    }
    region_of(address)
        .map(|region| region.physical_address + (address - region.virtual_address))
        .or_else(|| pool::special_physical(address))
        .or_else(|| io_space::physical_address_of(address))
}

/// Whether stores to an address are allowed, if anything is there. A page that is copied when it is first written to is
/// copied here.
#[must_use]
pub(crate) fn is_writable(address: u64) -> bool {
    match window::lookup(address) {
        Some(Some(mapped)) => mapped.access.is_writable || address_space::copy_on_write(address),
        Some(None) => false,
        None => {
            region_of(address).is_none_or(|region| region.flags & RegionFlags::WRITE.bits() != 0)
        }
    }
}

/// The kernel address of guest-physical memory; of the lowest region that has it. `None` when it is mapped nowhere.
#[must_use]
pub fn virtual_for_physical(physical: u64) -> Option<u64> {
    if let Some(of_client) = memory::virtual_for(physical) {
        return Some(of_client);
    }
    let count = shared::region_count();
    (0..count).filter_map(region).find_map(|region| {
        let offset = physical.wrapping_sub(region.physical_address);
        let is_kernel = region.virtual_address >= shared::kernel_base();
        (is_kernel && offset < region.bytes).then(|| region.virtual_address + offset)
    })
}

/// Region `index` of the boot information.
fn region(index: u32) -> Option<Region> {
    let at = shared::boot_address(core::mem::offset_of!(BootInfo, regions));
    (index < low32(MAX_REGIONS as u64))
        .then(|| volatile_read::<Region>(at + u64::from(index) * size_of::<Region>() as u64))
}

/// The address of export `number` in the image of ntoskrnl.exe, or hal.dll if only that has it: what imports are bound
/// to. `None` if drivers of that ABI do not have it.
#[must_use]
pub fn export_address(number: u32, abi: DriverAbi) -> Option<u64> {
    let slot = number as usize;
    let export = table::EXPORTS
        .get(slot)
        .filter(|export| export.machines.has(abi) && export.coverage != Coverage::Missing)
        .filter(|export| !matches!(export.module, Module::Wdfldr | Module::Wdf))?;
    let is_hal = export.module == Module::Hal;
    Some(match export.kind {
        ExportKind::Function { .. } if is_hal => {
            layout::hal_stub_address(shared::kernel_base(), u64::from(number))
        }
        ExportKind::Function { .. } => {
            layout::stub_address(shared::kernel_base(), u64::from(number))
        }
        ExportKind::Data { .. } => {
            view::image_address(table::ENTRY_POINTS.get(slot)?.addr(), is_hal)
        }
    })
}

/// Where a range of client memory is in kernel space; `None` unless the whole range is client memory, or the running
/// thread's client's own.
#[must_use]
pub fn user_alias(address: u64, bytes: u64) -> Option<u64> {
    if memory::is_user(address) {
        return memory::alias(address, bytes);
    }
    let offset = address.checked_sub(layout::USER)?;
    let end = offset.checked_add(bytes)?;
    (end <= shared::user_bytes()).then(|| shared::kernel_base() + layout::USER_ALIAS + offset)
}

/// Pages that a range touches (ADDRESS_AND_SIZE_TO_SPAN_PAGES).
#[must_use]
pub const fn pages_spanned(address: u64, bytes: u64) -> u64 {
    ((address % layout::PAGE_SIZE) + bytes).div_ceil(layout::PAGE_SIZE)
}

/// A byte count as the ULONG that NT's structures hold.
#[must_use]
pub const fn ulong(bytes: u64) -> u32 {
    low32(bytes)
}
