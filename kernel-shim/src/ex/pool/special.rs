//! The special pool: a page for each block, which ends where the page does, with an absent page behind it.
//!
//! An overrun faults at the instruction that makes it. A freed block's page is taken out, so a use after free faults as
//! well, until the block's place is used again: the oldest first. What lies before the block in its page is
//! filled and looked at when it is freed, which finds underruns, and so are the few bytes behind a block
//! whose size is no multiple of the alignment.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::report::Damage;
use super::slab::Slabs;
use super::{Block, Freed, GUARD_BYTE, PAGE, Wanted, first_changed};
use crate::platform::PageAccess;
use crate::raw::{Ptr, low32, to_usize};
use crate::shared;
use abi::layout::{self, entries};

/// Alignment of blocks (twice the pointer size).
const ALIGNMENT: u64 = if cfg!(nt_i386) { 8 } else { 16 };
/// What part of the pool's pages is kept for blocks outside of the special pool.
const RESERVE: u32 = 4;

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The pool page that is mapped here.
    page: u32,
    is_free: bool,
    freed_by: u64,
    block: Block,
}

/// The special pool's places, in order: each is a page and the absent page behind it.
#[derive(Debug)]
pub(super) struct Special {
    base: u64,
    limit: usize,
    reserve: u32,
    places: Vec<Place>,
    /// Free places, the one that was freed first in front.
    free: VecDeque<u32>,
}

/// A page fault in the special pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Whether the memory was freed; otherwise the access was beyond the end of a block.
    pub(crate) is_freed: bool,
    /// The block that the address belongs or belonged to.
    pub(crate) block: Block,
    /// Return address of the freeing call; 0 if it is not free.
    pub(crate) freed_by: u64,
}

impl Special {
    pub(super) const fn empty() -> Self {
        Self {
            base: 0,
            limit: 0,
            reserve: 0,
            places: Vec::new(),
            free: VecDeque::new(),
        }
    }

    pub(super) fn new(base: u64, pages: u32) -> Self {
        let window = to_usize(layout::SPECIAL_POOL_SIZE / PAGE / 2);
        Self {
            base,
            // No more places than pages could fill: their records are on the shim's heap.
            limit: window.min(pages as usize / 2),
            reserve: pages / RESERVE,
            places: Vec::new(),
            free: VecDeque::new(),
        }
    }

    fn address(&self, place: usize) -> u64 {
        self.base + 2 * PAGE * place as u64
    }

    /// Index of a place's page-table entry.
    const fn entry(place: usize) -> u64 {
        entries::SPECIAL_POOL + 2 * place as u64
    }

    /// A block of at most a page; `None` when there is no room.
    pub(super) fn take(
        &mut self,
        slabs: &mut Slabs,
        wanted: &Wanted,
        caller: u64,
    ) -> Option<Ptr<u8>> {
        if slabs.runs.free() <= self.reserve {
            return None;
        }
        let place = if self.places.len() < self.limit {
            self.places.len()
        } else {
            self.free.pop_front()? as usize
        };
        let page = slabs.take_run(1)?;
        let mapped = self.address(place);
        // A block of nothing still has an address.
        let offset = (PAGE - wanted.bytes.max(1)) / ALIGNMENT * ALIGNMENT;
        let block = Block {
            address: mapped + offset,
            bytes: wanted.bytes,
            tag: wanted.tag,
            caller,
            owner: wanted.owner,
            is_paged: wanted.is_paged,
        };
        let under_pool = slabs.address(page);
        let physical = crate::mm::physical_address(under_pool);
        let Some(physical) = physical else {
            slabs.give_run(page, 1);
            self.limit = 0;
            return None;
        };
        let access = PageAccess {
            is_writable: true,
            is_executable: false,
        };
        shared::platform().map_pages(Self::entry(place), mapped, physical, 1, access);
        Ptr::<u8>::new(mapped).fill(GUARD_BYTE, PAGE);
        let record = Place {
            page,
            is_free: false,
            freed_by: 0,
            block,
        };
        match self.places.get_mut(place) {
            Some(old) => *old = record,
            None => self.places.push(record),
        }
        Some(Ptr::new(block.address))
    }

    fn place_of(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.base)?;
        let place = to_usize(offset / (2 * PAGE));
        (place < self.places.len()).then_some(place)
    }

    fn damage(block: &Block) -> Result<(), Damage> {
        let start = block.address - block.address % PAGE;
        if let Some(at) = first_changed(start, block.address - start, GUARD_BYTE) {
            return Err(Damage::SpecialUnderrun(*block, at));
        }
        let end = block.address + block.bytes;
        match first_changed(end, start + PAGE - end, GUARD_BYTE) {
            Some(at) => Err(Damage::SpecialOverrun(*block, at)),
            None => Ok(()),
        }
    }

    /// Frees the block at `address`; `None`: it is not in the special pool.
    pub(super) fn give(
        &mut self,
        slabs: &mut Slabs,
        address: u64,
        tag: u32,
        caller: u64,
    ) -> Option<Result<Block, Damage>> {
        let place = self.place_of(address)?;
        let Place {
            page,
            is_free,
            freed_by,
            block,
        } = self.places[place];
        if is_free {
            return Some(Err(Damage::SpecialFreedTwice(Freed {
                address,
                bytes: block.bytes,
                tag: block.tag,
                allocated_by: block.caller,
                freed_by,
            })));
        }
        if address != block.address {
            return Some(Err(Damage::SpecialInside(block, address)));
        }
        if let Err(damage) = super::check_tag(&block, tag).and_then(|()| Self::damage(&block)) {
            return Some(Err(damage));
        }
        shared::platform().unmap_pages(Self::entry(place), self.address(place), 1);
        slabs.give_run(page, 1);
        self.places[place].is_free = true;
        self.places[place].freed_by = caller;
        self.free.push_back(low32(place as u64));
        Some(Ok(block))
    }

    /// The pool address of the same memory.
    pub(super) fn pool_address(&self, slabs: &Slabs, address: u64) -> Option<u64> {
        let place = self.place_of(address)?;
        let offset = address - self.address(place);
        let record = &self.places[place];
        (offset < PAGE && !record.is_free).then(|| slabs.address(record.page) + offset)
    }

    /// The block of the page that an address lies in.
    pub(super) fn block_over(&self, address: u64) -> Option<Block> {
        let record = &self.places[self.place_of(address)?];
        (!record.is_free).then_some(record.block)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let used = self.places.iter().filter(|place| !place.is_free);
        used.map(|place| place.block)
    }

    pub(super) fn check(&self) -> Result<(), Damage> {
        self.blocks().try_for_each(|block| Self::damage(&block))
    }

    /// What a page fault at `address` means.
    pub(super) fn fault(&self, address: u64) -> Option<Fault> {
        let record = &self.places[self.place_of(address)?];
        Some(Fault {
            is_freed: record.is_free,
            block: record.block,
            freed_by: if record.is_free { record.freed_by } else { 0 },
        })
    }
}
