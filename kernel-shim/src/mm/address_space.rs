//! User space as the guest manages it: which ranges are taken, what each page of them is, and its page-table entry.
//!
//! There is one address space for all processes, so an address belongs to one process only. A range is private memory, a
//! view of a section, an MDL mapped for user mode, or a view of physical memory. A page that is committed has a page of RAM
//! behind it; its entry follows from its protection: absent for PAGE_NOACCESS and PAGE_GUARD, read-only until the first
//! store for PAGE_WRITECOPY.

use alloc::collections::BTreeMap;

use super::protection::access_of;
use super::window;
use crate::ex::pool::{self, Wanted};
use crate::mm;
use crate::nt::NtStatus;
use crate::platform::PageAccess;
use crate::raw::{Global, Ptr, low32};
use crate::shared;
use abi::layout::{
    self, ALLOCATION_GRANULARITY, HIGHEST_USER_ADDRESS, LOWEST_USER_ADDRESS, PAGE_SIZE, entries,
};

/// Tag of the pages.
const TAG: u32 = u32::from_le_bytes(*b"MmVa");
const PAGE_NOACCESS: u32 = 0x01;
const PAGE_WRITECOPY: u32 = 0x08;
const PAGE_EXECUTE: u32 = 0x10;
const PAGE_EXECUTE_WRITECOPY: u32 = 0x80;
const PAGE_GUARD: u32 = 0x100;

/// What a range is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// ZwAllocateVirtualMemory.
    Private,
    /// A view of a section with pages.
    View,
    /// MmMapLockedPages.
    Mdl,
    /// Physical memory, which [`super::io_space`] maps: no page of it is known here.
    Physical,
}

/// A committed page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page {
    /// PAGE_ protection.
    pub(super) protection: u32,
    /// Page frame number.
    pub(super) frame: u32,
    /// Whether the page of RAM is this one's alone, and goes with it.
    pub(super) is_own: bool,
}

impl Page {
    /// What its entry allows; `None`: it is absent.
    fn access(&self) -> Option<PageAccess> {
        if self.protection & PAGE_EXECUTE != 0 {
            return (self.protection & PAGE_GUARD == 0).then_some(PageAccess {
                is_writable: false,
                is_executable: true,
            });
        }
        // PAGE_NOACCESS and PAGE_GUARD are no access.
        let access = access_of(self.protection)?;
        Some(PageAccess {
            is_writable: access.is_writable && (!access.is_copy || self.is_own),
            is_executable: access.is_executable,
        })
    }
}

/// A range of user space.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) process: u32,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    /// The protection it was made with.
    pub(super) protection: u32,
    /// The committed pages, by their number in the range.
    pub(super) pages: BTreeMap<u32, Page>,
}

impl Range {
    /// One without a committed page.
    pub(super) const fn new(process: u32, kind: Kind, bytes: u64, protection: u32) -> Self {
        Self {
            process,
            kind,
            bytes,
            protection,
            pages: BTreeMap::new(),
        }
    }
}

/// By address; they do not overlap.
static RANGES: Global<BTreeMap<u64, Range>> = Global::new("user space", BTreeMap::new());

/// Forgets everything.
pub(crate) fn initialize() {
    RANGES.with(BTreeMap::clear);
    window::initialize();
}

/// Where a range shall be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its address; 0: anywhere.
    pub(super) base: u64,
    /// The last address it may have, if it may be anywhere.
    pub(super) highest: u64,
    /// Whether it is the highest free place, not the lowest.
    pub(super) is_top_down: bool,
}

impl Place {
    /// Anywhere, or at `base`.
    pub(super) const fn at(base: u64) -> Self {
        Self {
            base,
            highest: HIGHEST_USER_ADDRESS,
            is_top_down: false,
        }
    }

    /// Anywhere with so many zero bits at the top of a 32-bit address, or below such a mask (amd64, above 32).
    pub(super) const fn with_zero_bits(self, zero_bits: u64) -> Self {
        let highest = match zero_bits {
            0 => HIGHEST_USER_ADDRESS,
            1..32 => (u32::MAX >> zero_bits) as u64,
            mask => u64::MAX >> mask.leading_zeros(),
        };
        Self {
            highest: if highest < HIGHEST_USER_ADDRESS {
                highest
            } else {
                HIGHEST_USER_ADDRESS
            },
            ..self
        }
    }
}

/// What is taken of `start..end`: the highest range that overlaps it, or what the VMM has mapped.
fn obstacle(ranges: &BTreeMap<u64, Range>, start: u64, end: u64) -> Option<(u64, u64)> {
    let stub = layout::USER_STUB / entries::TABLE_BYTES * entries::TABLE_BYTES;
    let clients = (layout::USER + shared::user_bytes()).next_multiple_of(entries::TABLE_BYTES);
    let fixed = [
        (layout::USER, clients),
        (stub, stub + entries::TABLE_BYTES),
        (
            layout::CLIENT_USER,
            layout::CLIENT_USER + layout::CLIENT_USER_SIZE,
        ),
    ];
    let last = ranges.range(..end).next_back();
    last.map(|(&base, range)| (base, base + range.bytes))
        .into_iter()
        .chain(fixed)
        .find(|&(from, to)| from < end && start < to)
}

fn find_place(ranges: &BTreeMap<u64, Range>, place: Place, bytes: u64) -> Result<u64, NtStatus> {
    if place.base != 0 {
        let end = place.base.checked_add(bytes);
        let end = end.filter(|&end| end <= HIGHEST_USER_ADDRESS + 1);
        return match end {
            Some(end)
                if place.base >= LOWEST_USER_ADDRESS
                    && obstacle(ranges, place.base, end).is_none() =>
            {
                Ok(place.base)
            }
            _ => Err(NtStatus::CONFLICTING_ADDRESSES),
        };
    }
    let limit = place.highest + 1;
    let down = |address: u64| address / ALLOCATION_GRANULARITY * ALLOCATION_GRANULARITY;
    let highest = limit
        .checked_sub(bytes)
        .filter(|&highest| highest >= LOWEST_USER_ADDRESS)
        .map(down)
        .ok_or(NtStatus::NO_MEMORY)?;
    let mut start = if place.is_top_down {
        highest
    } else {
        LOWEST_USER_ADDRESS
    };
    while let Some((from, to)) = obstacle(ranges, start, start + bytes) {
        start = if place.is_top_down {
            let below = from.checked_sub(bytes).map(down);
            below
                .filter(|&below| below >= LOWEST_USER_ADDRESS)
                .ok_or(NtStatus::NO_MEMORY)?
        } else {
            let above = to.next_multiple_of(ALLOCATION_GRANULARITY);
            Some(above)
                .filter(|&above| above <= highest)
                .ok_or(NtStatus::NO_MEMORY)?
        };
    }
    Ok(start)
}

/// Makes the entries of committed pages of a range what their protections say; contiguous pages at once.
fn apply(base: u64, range: &Range, first: u32, count: u32) {
    let mut run: Option<(u64, u64, u64, PageAccess)> = None;
    let put = |run: Option<(u64, u64, u64, PageAccess)>| {
        if let Some((at, physical, pages, access)) = run {
            window::map(at, physical, pages, access);
        }
    };
    for (&index, page) in range.pages.range(first..first.saturating_add(count)) {
        let at = base + u64::from(index) * PAGE_SIZE;
        let physical = u64::from(page.frame) * PAGE_SIZE;
        let Some(access) = page.access() else {
            window::unmap(at, 1);
            continue;
        };
        run = match run {
            Some((start, from, pages, same))
                if start + pages * PAGE_SIZE == at
                    && from + pages * PAGE_SIZE == physical
                    && same == access =>
            {
                Some((start, from, pages + 1, same))
            }
            other => {
                put(other);
                Some((at, physical, 1, access))
            }
        };
    }
    put(run);
}

/// Puts a range with its pages into user space; its address.
///
/// # Errors
/// CONFLICTING_ADDRESSES: what was asked for is taken. NO_MEMORY: there is no room.
pub(super) fn insert(place: Place, range: Range) -> Result<u64, NtStatus> {
    let base = RANGES.with(|ranges| find_place(ranges, place, range.bytes))?;
    if matches!(range.kind, Kind::Physical | Kind::Mdl) || !range.pages.is_empty() {
        window::prepare(base, range.bytes).map_err(|status| match place.base {
            0 => NtStatus::NO_MEMORY,
            _ => status,
        })?;
    }
    RANGES.with(|ranges| {
        apply(base, &range, 0, u32::MAX);
        ranges.insert(base, range);
    });
    Ok(base)
}

/// A page of RAM that belongs to nobody yet, zeroed: its frame number.
pub(super) fn take_frame() -> Option<u32> {
    let wanted = Wanted {
        bytes: PAGE_SIZE,
        tag: TAG,
        owner: pool::SHIM,
        is_paged: false,
        is_page_aligned: true,
    };
    let page = pool::allocate_contiguous(&wanted, 0, u64::MAX, 0).non_null()?;
    page.fill(0, PAGE_SIZE);
    mm::physical_address(page.addr()).map(|physical| low32(physical / PAGE_SIZE))
}

/// The kernel address of a page of RAM.
fn memory_of(frame: u32) -> Option<Ptr<u8>> {
    mm::virtual_for_physical(u64::from(frame) * PAGE_SIZE).map(Ptr::new)
}

/// Gives a page of RAM back.
pub(super) fn free_frame(frame: u32) {
    if let Some(memory) = memory_of(frame) {
        pool::free(memory, TAG);
    }
}

/// Takes committed pages out of a range: entries, and memory of their own unless an MDL has it locked.
fn drop_pages(base: u64, pages: &BTreeMap<u32, Page>) {
    for (&index, page) in pages {
        window::unmap(base + u64::from(index) * PAGE_SIZE, 1);
        if page.is_own && !super::locked::keep(page.frame) {
            free_frame(page.frame);
        }
    }
}

/// The range of a process that an address lies in, with its own address.
fn around(
    ranges: &mut BTreeMap<u64, Range>,
    process: u32,
    address: u64,
) -> Option<(u64, &mut Range)> {
    let (&base, range) = ranges.range_mut(..=address).next_back()?;
    let is_inside = address - base < range.bytes && range.process == process;
    is_inside.then_some((base, range))
}

/// Calls `with` with the range of a process that an address lies in, and its address.
pub(super) fn with<R>(
    process: u32,
    address: u64,
    with: impl FnOnce(u64, &mut Range) -> R,
) -> Option<R> {
    RANGES.with(|ranges| around(ranges, process, address).map(|(base, range)| with(base, range)))
}

/// The address of the first range of a process at or above an address.
pub(super) fn next(process: u32, address: u64) -> Option<u64> {
    RANGES.with(|ranges| {
        let mut above = ranges.range(address..);
        let found = above.find(|(_, range)| range.process == process);
        found.map(|(&base, _)| base)
    })
}

/// Changes committed pages of the range at `base`, which has tables for them, and their entries.
pub(super) fn change(base: u64, first: u32, count: u32, each: impl Fn(u32, &mut Page)) {
    RANGES.with(|ranges| {
        if let Some(range) = ranges.get_mut(&base) {
            for (&index, page) in range.pages.range_mut(first..first + count) {
                each(index, page);
            }
            apply(base, range, first, count);
        }
    });
}

/// Commits pages of the range at `base`: those that are not get what `make` makes for them, the others `protection`.
///
/// # Errors
/// NO_MEMORY: there is no room for their entries, or `make` has none left; then nothing is changed.
pub(super) fn commit(
    base: u64,
    first: u32,
    count: u32,
    protection: u32,
    make: impl Fn(u32) -> Option<Page>,
) -> Result<(), NtStatus> {
    let start = base + u64::from(first) * PAGE_SIZE;
    window::prepare(start, u64::from(count) * PAGE_SIZE).map_err(|_| NtStatus::NO_MEMORY)?;
    RANGES.with(|ranges| {
        let Some(range) = ranges.get_mut(&base) else {
            return Err(NtStatus::CONFLICTING_ADDRESSES);
        };
        let mut new = BTreeMap::new();
        for index in first..first + count {
            if range.pages.contains_key(&index) {
                continue;
            }
            let Some(page) = make(index) else {
                for page in new.values().filter(|page: &&Page| page.is_own) {
                    free_frame(page.frame);
                }
                return Err(NtStatus::NO_MEMORY);
            };
            new.insert(index, page);
        }
        range.pages.append(&mut new);
        for (_, page) in range.pages.range_mut(first..first + count) {
            page.protection = protection;
        }
        apply(base, range, first, count);
        Ok(())
    })
}

/// Takes committed pages away: they are reserved only.
pub(super) fn decommit(base: u64, first: u32, count: u32) {
    RANGES.with(|ranges| {
        if let Some(range) = ranges.get_mut(&base) {
            let mut gone = range.pages.split_off(&first);
            range.pages.append(&mut gone.split_off(&(first + count)));
            drop_pages(base, &gone);
        }
    });
}

/// Frees a part of the range at `base`, whole pages; what is left of it are one or two ranges.
pub(super) fn cut(base: u64, first: u32, count: u32) {
    decommit(base, first, count);
    RANGES.with(|ranges| {
        let Some(mut range) = ranges.remove(&base) else {
            return;
        };
        let behind = u64::from(first + count) * PAGE_SIZE;
        if behind < range.bytes {
            let pages = range.pages.split_off(&(first + count));
            let renumbered = pages
                .into_iter()
                .map(|(index, page)| (index - first - count, page));
            let rest = Range {
                bytes: range.bytes - behind,
                pages: renumbered.collect(),
                ..Range::new(range.process, range.kind, 0, range.protection)
            };
            ranges.insert(base + behind, rest);
        }
        if first != 0 {
            range.bytes = u64::from(first) * PAGE_SIZE;
            ranges.insert(base, range);
        }
    });
}

/// Takes the range at `base` out of user space.
pub(super) fn remove(base: u64) {
    if let Some(range) = RANGES.with(|ranges| ranges.remove(&base)) {
        drop_pages(base, &range.pages);
    }
}

/// A process ends: what is left of its ranges goes.
pub(crate) fn forget_process(process: u32) {
    while let Some(base) = next(process, 0) {
        if let Some(mapping) = super::io_space::mapping_at(base) {
            super::io_space::unmap(&mapping);
        }
        remove(base);
    }
}

/// Calls `with` for the committed page at an address and returns whether it has changed it, and so its entry.
fn touch(address: u64, with: impl FnOnce(&mut Page) -> bool) -> bool {
    if RANGES.is_busy() || address > HIGHEST_USER_ADDRESS {
        return false;
    }
    RANGES.with(|ranges| {
        let Some((&base, range)) = ranges.range_mut(..=address).next_back() else {
            return false;
        };
        let index = low32((address - base) / PAGE_SIZE);
        let is_changed = range.pages.get_mut(&index).is_some_and(with);
        if is_changed {
            apply(base, range, index, 1);
        }
        is_changed
    })
}

/// A page that is copied when it is first written to is written to: gives it a page of RAM of its own. False: it is no
/// such page, or there is no memory.
pub(crate) fn copy_on_write(address: u64) -> bool {
    touch(address, |page| {
        let after = match page.protection {
            PAGE_WRITECOPY => PAGE_WRITECOPY >> 1,
            PAGE_EXECUTE_WRITECOPY => PAGE_EXECUTE_WRITECOPY >> 1,
            _ => return false,
        };
        let Some((own, to)) = take_frame().and_then(|own| Some((own, memory_of(own)?))) else {
            return false;
        };
        if let Some(from) = memory_of(page.frame) {
            to.copy_from(from, PAGE_SIZE);
        }
        *page = Page {
            protection: after,
            frame: own,
            is_own: true,
        };
        true
    })
}

/// Whether a committed page has PAGE_GUARD: an access to it is an exception of its own.
pub(crate) fn is_guarded(address: u64) -> bool {
    if RANGES.is_busy() {
        return false;
    }
    RANGES.with(|ranges| {
        let Some((&base, range)) = ranges.range(..=address).next_back() else {
            return false;
        };
        let page = range.pages.get(&low32((address - base) / PAGE_SIZE));
        page.is_some_and(|page| page.protection & PAGE_GUARD != 0)
    })
}

/// That exception happens: the guard is gone.
pub(crate) fn take_guard(address: u64) {
    touch(address, |page| {
        page.protection &= !PAGE_GUARD;
        true
    });
}

/// Whether memory may be given a protection; copying is for views only.
pub(super) fn is_protection(protection: u32, is_view: bool) -> bool {
    let plain = protection & !PAGE_GUARD;
    if plain == PAGE_NOACCESS {
        return protection == plain;
    }
    plain == PAGE_EXECUTE || access_of(plain).is_some_and(|access| is_view || !access.is_copy)
}
