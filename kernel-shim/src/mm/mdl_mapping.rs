//! Addresses that an MDL's pages get by being mapped: in the I/O window for the kernel, in user space for user mode, and
//! their protection.

use alloc::collections::BTreeMap;

use super::address_space::{self, Kind, Page, Place, Range};
use super::io_space::{self, Wanted};
use super::mdl::frame;
use super::protection::access_of;
use super::{pages_spanned, window};
use crate::nt::{MDL, NtStatus};
use crate::platform::PageAccess;
use crate::raw::{Global, Ptr, from_word, low32};
use crate::{ps, shared};
use abi::layout::{self, PAGE_SIZE};

/// Where the pages of an MDL are mapped in system space.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    /// Address of the first page.
    base: u64,
    pages: u64,
    /// The clients' alias: nothing was mapped, its protection was changed.
    is_alias: bool,
}

/// By MDL.
static IN_SYSTEM: Global<BTreeMap<u64, Mapped>> = Global::new("mapped MDLs", BTreeMap::new());

/// Forgets everything.
pub(crate) fn initialize() {
    IN_SYSTEM.with(BTreeMap::clear);
}

fn pages_of(header: &MDL) -> u64 {
    pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount))
}

/// Guest-physical address of a page of an MDL; `None`: it is none of the guest's RAM.
fn physical(mdl: Ptr<MDL>, page: u64) -> Option<u64> {
    let physical = from_word(frame(mdl, page).read()).checked_mul(PAGE_SIZE)?;
    let offset = physical.checked_sub(layout::RAM_BASE)?;
    (offset < shared::ram_bytes()).then_some(physical)
}

/// Maps the pages from `first` on at `base`, contiguous ones at once.
fn put(mdl: Ptr<MDL>, base: u64, pages: u64, access: PageAccess) {
    let mut done = 0;
    while done < pages {
        let Some(start) = physical(mdl, done) else {
            return;
        };
        let run = (done + 1..pages)
            .take_while(|&page| physical(mdl, page) == Some(start + (page - done) * PAGE_SIZE))
            .count() as u64;
        window::map(base + done * PAGE_SIZE, start, run + 1, access);
        done += run + 1;
    }
}

/// Maps the pages of an MDL at an address of the I/O window that has been set aside. False: some are not RAM.
pub(super) fn map_frames(mdl: Ptr<MDL>, base: u64) -> bool {
    let pages = pages_of(&mdl.read());
    let is_ram = (0..pages).all(|page| physical(mdl, page).is_some());
    if is_ram {
        put(mdl, base, pages, window::READ_WRITE);
    }
    is_ram
}

/// Gives the pages of an MDL an address in system space: that of its first byte. `None`: there is no room, or they are
/// not RAM.
pub(super) fn map_in_system(mdl: Ptr<MDL>) -> Option<u64> {
    let header = mdl.read();
    let pages = pages_of(&header);
    let base = io_space::reserve(pages * PAGE_SIZE)?;
    if !map_frames(mdl, base) {
        io_space::give_back(base);
        return None;
    }
    let mapped = Mapped {
        base,
        pages,
        is_alias: false,
    };
    IN_SYSTEM.with(|all| all.insert(mdl.addr(), mapped));
    Some(base + u64::from(header.ByteOffset))
}

/// Undoes what was done for an MDL in system space: it is unmapped, or unlocked, or freed.
pub(crate) fn release(mdl: Ptr<MDL>) {
    let Some(mapped) = IN_SYSTEM.with(|all| all.remove(&mdl.addr())) else {
        return;
    };
    if !mapped.is_alias {
        io_space::give_back(mapped.base);
        return;
    }
    for page in 0..mapped.pages {
        let at = mapped.base + page * PAGE_SIZE;
        if let Some(region) = super::region_of(at) {
            window::restore(
                at,
                region.physical_address + (at - region.virtual_address),
                1,
            );
        }
    }
}

/// MmProtectMdlSystemAddress, for an MDL that is mapped.
pub(super) fn protect(mdl: Ptr<MDL>, protection: u32) -> NtStatus {
    const NO_ACCESS: u32 = 1;
    const EXECUTE: u32 = 0x10;
    let access = match (protection, access_of(protection)) {
        (NO_ACCESS, _) => None,
        (EXECUTE, _) => Some(PageAccess {
            is_writable: false,
            is_executable: true,
        }),
        (_, Some(access)) if !access.is_copy => Some(PageAccess {
            is_writable: access.is_writable,
            is_executable: access.is_executable,
        }),
        _ => return NtStatus::INVALID_PAGE_PROTECTION,
    };
    let header = mdl.read();
    let pages = pages_of(&header);
    let base = from_word(header.MappedSystemVa) / PAGE_SIZE * PAGE_SIZE;
    let alias = shared::kernel_base() + layout::USER_ALIAS;
    let is_alias = base.wrapping_sub(alias) < shared::user_bytes();
    // A page of the window without access is in the window all the same.
    let is_in_window =
        io_space::mapping_at(base).is_some_and(|mapping| mapping.kind == io_space::Kind::Memory);
    if !is_alias && !is_in_window {
        return NtStatus::NOT_MAPPED_VIEW;
    }
    if window::prepare(base, pages * PAGE_SIZE).is_err() {
        return NtStatus::INSUFFICIENT_RESOURCES;
    }
    if is_alias {
        let mapped = Mapped {
            base,
            pages,
            is_alias,
        };
        IN_SYSTEM.with(|all| all.insert(mdl.addr(), mapped));
    }
    match access {
        Some(access) => put(mdl, base, pages, access),
        None if is_alias => window::hide(base, pages),
        None => window::unmap(base, pages),
    }
    NtStatus::SUCCESS
}

/// Maps the pages of an MDL in the current process: the address of its first byte.
///
/// # Errors
/// CONFLICTING_ADDRESSES: the requested address is taken. NO_MEMORY: there is no room. INVALID_ADDRESS: the pages are
/// neither RAM nor of one mapping of physical memory. What the VMM says, if they are physical memory.
pub(super) fn map_in_user(
    mdl: Ptr<MDL>,
    requested: u64,
    is_read_only: bool,
) -> Result<u64, NtStatus> {
    const READ_ONLY: u32 = 2;
    const READ_WRITE: u32 = 4;
    if requested > layout::HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_ADDRESS);
    }
    let header = mdl.read();
    let pages = pages_of(&header);
    if pages == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let start = from_word(header.StartVa);
    let device = io_space::physical_address_of(start).filter(|_| header.StartVa != 0);
    let protection = if is_read_only { READ_ONLY } else { READ_WRITE };
    let mut range = Range::new(
        ps::current_process_id(),
        Kind::Mdl,
        pages * PAGE_SIZE,
        protection,
    );
    if device.is_none() {
        for page in 0..pages {
            let physical = physical(mdl, page).ok_or(NtStatus::INVALID_ADDRESS)?;
            let page_of_mdl = Page {
                protection,
                frame: low32(physical / PAGE_SIZE),
                is_own: false,
            };
            range.pages.insert(low32(page), page_of_mdl);
        }
    }
    let place = Place::at(requested / PAGE_SIZE * PAGE_SIZE);
    let base = address_space::insert(place, range)?;
    if let Some(physical) = device {
        let wanted = Wanted {
            physical,
            bytes: pages * PAGE_SIZE,
            is_writable: !is_read_only,
            caching: 0,
            kind: io_space::Kind::User,
        };
        io_space::map_at(&wanted, base).inspect_err(|_| address_space::remove(base))?;
    }
    Ok(base + u64::from(header.ByteOffset))
}

/// Undoes [`map_in_user`]. False: the MDL is not mapped there in the current process.
pub(super) fn unmap_from_user(mdl: Ptr<MDL>, address: u64) -> bool {
    let header = mdl.read();
    let base = address / PAGE_SIZE * PAGE_SIZE;
    let is_mapped = address % PAGE_SIZE == u64::from(header.ByteOffset)
        && address_space::with(ps::current_process_id(), base, |start, range| {
            start == base && range.kind == Kind::Mdl && range.bytes == pages_of(&header) * PAGE_SIZE
        }) == Some(true);
    if is_mapped {
        if let Some(mapping) = io_space::mapping_at(base) {
            io_space::unmap(&mapping);
        }
        address_space::remove(base);
    }
    is_mapped
}
