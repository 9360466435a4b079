//! Paged and non-paged pool: one region, all of it resident.
//!
//! Blocks of less than a page are slots of pages cut into one size ([`slab`]); larger ones are runs of whole pages
//! ([`pages`]). Guard bytes lie behind every block that leaves room for them and are checked when it is freed. While
//! drivers are verified ([`crate::shared::verify`]), a driver's blocks of up to a page come from the special pool
//! ([`special`]), where the processor itself notices an overrun or a use after free; where that has no room left, freed
//! memory is filled and kept back for a while to see whether somebody still writes to it.

mod checks;
pub(crate) mod fast;
mod pages;
mod report;
mod slab;
mod special;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::raw::{Global, Ptr, low16, low32};
use crate::{mm, shared};
use abi::layout;
use checks::{check_freed, check_guard, check_tag, first_changed, freed_slot, guard_bytes};
use pages::Limits;
use report::{Damage, Site};
use slab::{Slabs, Slot, Use};
pub(crate) use special::Fault as SpecialFault;
use special::Special;

const PAGE: u64 = layout::PAGE_SIZE;
/// Least guard bytes behind a slot's block.
const GUARD: u64 = 8;
/// What guard bytes hold.
const GUARD_BYTE: u8 = 0xBD;
/// What freed memory is filled with while drivers are verified.
const FREED_BYTE: u8 = 0xDD;
/// How many freed runs are remembered to tell a double free from a wild one.
const REMEMBERED: usize = 64;
/// How many freed slots are kept back while drivers are verified.
const KEPT_BACK: usize = 256;
/// [`Block::owner`] of the shim's own blocks.
pub const SHIM: u64 = 0;

/// An allocated block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Its address.
    pub address: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Pool tag.
    pub tag: u32,
    /// Return address of the allocating call.
    pub caller: u64,
    /// Address of the driver's DRIVER_OBJECT, or [`SHIM`].
    pub owner: u64,
    /// Whether it is paged pool.
    pub is_paged: bool,
}

/// A freed block, as far as it is remembered.
#[derive(Clone, Copy, Debug)]
struct Freed {
    address: u64,
    bytes: u64,
    tag: u32,
    allocated_by: u64,
    freed_by: u64,
}

/// A block of whole pages.
#[derive(Clone, Copy, Debug)]
struct Run {
    pages: u32,
    block: Block,
}

#[derive(Debug)]
struct Pool {
    slabs: Slabs,
    runs: BTreeMap<u32, Run>,
    /// Runs and special blocks that were freed lately.
    freed: VecDeque<Freed>,
    /// Header addresses of slots that are kept back.
    kept_back: VecDeque<u64>,
    special: Special,
}

static POOL: Global<Pool> = Global::new(
    "pool",
    Pool {
        slabs: Slabs::empty(),
        runs: BTreeMap::new(),
        freed: VecDeque::new(),
        kept_back: VecDeque::new(),
        special: Special::empty(),
    },
);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes.
    pub bytes: u64,
    /// Pool tag.
    pub tag: u32,
    /// A DRIVER_OBJECT's address or [`SHIM`].
    pub owner: u64,
    /// Paged pool: to be freed below DISPATCH_LEVEL.
    pub is_paged: bool,
    /// At the start of a page, whatever its size: of a cache-aligned pool type.
    pub is_page_aligned: bool,
}

/// A kernel address as 32 bits from the kernel's base; 0 stays 0.
#[inline]
fn near(address: u64) -> u32 {
    if address == 0 {
        0
    } else {
        low32(address.wrapping_sub(shared::kernel_base()))
    }
}

/// Undoes [`near`].
fn far(offset: u32) -> u64 {
    if offset == 0 {
        0
    } else {
        shared::kernel_base() + u64::from(offset)
    }
}

/// Takes over the pool region that the VMM mapped.
pub fn initialize() {
    let start = shared::kernel_base() + layout::POOL;
    let pages = low32(shared::pool_bytes() / PAGE);
    let is_verifying = shared::verify() != 0;
    POOL.with(|pool| {
        *pool = Pool {
            slabs: Slabs::new(start, pages),
            runs: BTreeMap::new(),
            freed: VecDeque::with_capacity(REMEMBERED),
            kept_back: VecDeque::new(),
            special: if is_verifying {
                Special::new(shared::kernel_base() + layout::SPECIAL_POOL, pages)
            } else {
                Special::empty()
            },
        };
    });
}

impl Pool {
    fn slot(
        &mut self,
        wanted: &Wanted,
        caller: u64,
        verify: bool,
    ) -> Result<Option<Ptr<u8>>, Damage> {
        let taken = self.slabs.take(wanted.bytes).map_err(Damage::Header)?;
        let Some(slot) = taken else {
            return Ok(None);
        };
        if verify {
            check_freed(slot)?;
        }
        slot.header.with(|header| {
            header.caller = near(caller);
            header.owner = near(wanted.owner);
            header.tag = wanted.tag;
            header.bytes = low16(wanted.bytes);
            header.state = if wanted.is_paged {
                slab::PAGED
            } else {
                slab::NONPAGED
            };
        });
        let room = slot.bytes - slab::HEADER - wanted.bytes;
        let block = slot.block();
        if verify {
            block.add_bytes(wanted.bytes).fill(GUARD_BYTE, room);
        } else {
            block
                .add_bytes(wanted.bytes)
                .cast::<u64>()
                .write(u64::from_ne_bytes([GUARD_BYTE; 8]));
        }
        Ok(Some(block))
    }

    fn run(
        &mut self,
        wanted: &Wanted,
        caller: u64,
        verify: bool,
        limits: Option<Limits>,
    ) -> Option<Ptr<u8>> {
        // While drivers are verified a page of guard bytes lies behind a block that ends with its page.
        let bytes = wanted.bytes.max(1).checked_add(u64::from(verify))?;
        let pages = u32::try_from(bytes.div_ceil(PAGE)).ok()?;
        let first = match limits {
            None => self.slabs.take_run(pages)?,
            Some(limits) => {
                let base = mm::physical_address(self.slabs.address(0))? / PAGE;
                let first = self.slabs.runs.take_within(pages, base, limits)?;
                self.slabs.mark(first, pages, Use::Run);
                first
            }
        };
        let address = self.slabs.address(first);
        let block = Block {
            address,
            bytes: wanted.bytes,
            tag: wanted.tag,
            caller,
            owner: wanted.owner,
            is_paged: wanted.is_paged,
        };
        self.runs.insert(first, Run { pages, block });
        let room = u64::from(pages) * PAGE - wanted.bytes;
        Ptr::<u8>::new(address + wanted.bytes).fill(GUARD_BYTE, guard_bytes(room, verify));
        Some(Ptr::new(address))
    }

    fn take(&mut self, wanted: &Wanted, caller: u64) -> Result<Option<Ptr<u8>>, Damage> {
        let verify = shared::verify() != 0;
        let is_small = wanted.bytes <= slab::LARGEST && !wanted.is_page_aligned;
        if verify && wanted.owner != SHIM && wanted.bytes <= PAGE && !wanted.is_page_aligned {
            let (slabs, special) = (&mut self.slabs, &mut self.special);
            if let Some(address) = special.take(slabs, wanted, caller) {
                return Ok(Some(address));
            }
        }
        loop {
            let taken = if is_small {
                self.slot(wanted, caller, verify)?
            } else {
                self.run(wanted, caller, verify, None)
            };
            if taken.is_some() || !self.let_go()? {
                return Ok(taken);
            }
        }
    }

    /// Frees all slots that are kept back; false: there were none.
    fn let_go(&mut self) -> Result<bool, Damage> {
        let had_some = !self.kept_back.is_empty();
        while let Some(oldest) = self.kept_back.pop_front() {
            self.release(oldest)?;
        }
        Ok(had_some)
    }

    /// A slot that was kept back becomes free, if nobody has written to it.
    fn release(&mut self, header: u64) -> Result<(), Damage> {
        if let Some(slot) = self.slabs.slot_at(header + slab::HEADER) {
            check_freed(slot)?;
            self.slabs.give(slot);
        }
        Ok(())
    }

    fn remember(&mut self, block: &Block, freed_by: u64) {
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back(Freed {
            address: block.address,
            bytes: block.bytes,
            tag: block.tag,
            allocated_by: block.caller,
            freed_by,
        });
    }

    fn block_of_slot(slot: Slot) -> Option<Block> {
        let header = slot.header.read();
        let is_paged = match header.state {
            slab::PAGED => true,
            slab::NONPAGED => false,
            _ => return None,
        };
        Some(Block {
            address: slot.block().addr(),
            bytes: u64::from(header.bytes),
            tag: header.tag,
            caller: far(header.caller),
            owner: far(header.owner),
            is_paged,
        })
    }

    fn give(&mut self, address: u64, tag: u32, caller: u64) -> Result<(), Damage> {
        let verify = shared::verify() != 0;
        let (slabs, special) = (&mut self.slabs, &mut self.special);
        if let Some(result) = special.give(slabs, address, tag, caller) {
            let block = result?;
            self.remember(&block, caller);
            return Ok(());
        }
        if let Some(slot) = self.slabs.slot_at(address) {
            return self.give_slot(slot, tag, caller, verify);
        }
        let run = self
            .slabs
            .page_of(address)
            .filter(|_| address.is_multiple_of(PAGE))
            .and_then(|page| Some((page, *self.runs.get(&page)?)));
        let Some((page, run)) = run else {
            return Err(self.no_block(address));
        };
        check_tag(&run.block, tag)?;
        let room = u64::from(run.pages) * PAGE - run.block.bytes;
        check_guard(&run.block, guard_bytes(room, verify))?;
        if verify {
            Ptr::<u8>::new(address).fill(FREED_BYTE, run.block.bytes);
        }
        self.runs.remove(&page);
        self.slabs.give_run(page, run.pages);
        self.remember(&run.block, caller);
        Ok(())
    }

    fn give_slot(&mut self, slot: Slot, tag: u32, caller: u64, verify: bool) -> Result<(), Damage> {
        let Some(block) = Self::block_of_slot(slot) else {
            return Err(freed_slot(slot).map_or(Damage::Header(slot), Damage::FreedTwice));
        };
        let Some(room) = (slot.bytes - slab::HEADER).checked_sub(block.bytes) else {
            return Err(Damage::Header(slot));
        };
        check_tag(&block, tag)?;
        check_guard(&block, guard_bytes(room, verify))?;
        slot.header.with(|header| {
            header.owner = header.caller;
            header.caller = near(caller);
            header.state = slab::QUARANTINED;
        });
        if !verify {
            self.slabs.give(slot);
            return Ok(());
        }
        slot.block().fill(FREED_BYTE, slot.bytes - slab::HEADER);
        self.kept_back.push_back(slot.header.addr());
        if self.kept_back.len() > KEPT_BACK
            && let Some(oldest) = self.kept_back.pop_front()
        {
            self.release(oldest)?;
        }
        Ok(())
    }

    /// What is wrong about an address that no block starts at.
    fn no_block(&self, address: u64) -> Damage {
        let freed = self
            .freed
            .iter()
            .rev()
            .find(|freed| freed.address == address);
        if let Some(freed) = freed {
            return Damage::FreedTwice(*freed);
        }
        let block = self.block_over(address);
        match (block, self.slabs.page_of(address)) {
            (Some(block), _) => Damage::Inside(block, address),
            (None, Some(page)) => {
                // A page of slots that is free again still has its headers.
                let slot = Slot {
                    header: Ptr::new(address - slab::HEADER),
                    bytes: PAGE,
                };
                let has_header =
                    self.slabs.use_of(page) == Use::Free && !address.is_multiple_of(PAGE);
                let freed = if has_header { freed_slot(slot) } else { None };
                freed.map_or(Damage::NoBlock(address), Damage::FreedTwice)
            }
            (None, None) => Damage::NoBlock(address),
        }
    }

    /// The block that an address lies in.
    fn block_over(&self, address: u64) -> Option<Block> {
        let inside =
            |block: Block| (address.wrapping_sub(block.address) < block.bytes).then_some(block);
        if let Some(block) = self.special.block_over(address) {
            return inside(block);
        }
        if let Some(slot) = self.slabs.slot_over(address) {
            return Self::block_of_slot(slot).and_then(inside);
        }
        let page = self.slabs.page_of(address)?;
        let (_, run) = self.runs.range(..=page).next_back()?;
        inside(run.block)
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let slots = self.slabs.slots().filter_map(Self::block_of_slot);
        let runs = self.runs.values().map(|run| run.block);
        slots.chain(runs).chain(self.special.blocks())
    }

    /// Looks at the guard bytes of every block and at all freed memory.
    fn check(&self) -> Result<(), Damage> {
        for slot in self.slabs.slots() {
            match Self::block_of_slot(slot) {
                Some(block) => {
                    let room = (slot.bytes - slab::HEADER).checked_sub(block.bytes);
                    check_guard(&block, room.ok_or(Damage::Header(slot))?)?;
                }
                None => check_freed(slot)?,
            }
        }
        for run in self.runs.values() {
            check_guard(&run.block, u64::from(run.pages) * PAGE - run.block.bytes)?;
        }
        self.special.check()
    }
}

/// Allocates a block; null when the pool is exhausted.
#[must_use]
pub fn allocate_wanted(wanted: &Wanted) -> Ptr<u8> {
    let caller = shared::caller();
    match POOL.with(|pool| pool.take(wanted, caller)) {
        Ok(address) => address.unwrap_or_default(),
        Err(damage) => damage.bugcheck(),
    }
}

/// Allocates `bytes` of non-paged pool; null when the pool is exhausted. `owner` is a DRIVER_OBJECT's address or
/// [`SHIM`].
#[must_use]
pub fn allocate(bytes: u64, tag: u32, owner: u64) -> Ptr<u8> {
    allocate_wanted(&Wanted {
        bytes,
        tag,
        owner,
        is_paged: false,
        is_page_aligned: false,
    })
}

/// Allocates physically contiguous whole pages whose physical addresses are from `lowest` to `highest` and which do not
/// cross a multiple of `boundary` bytes (0: they may). Null when there are none. Not zeroed.
#[must_use]
pub fn allocate_contiguous(wanted: &Wanted, lowest: u64, highest: u64, boundary: u64) -> Ptr<u8> {
    let caller = shared::caller();
    let limits = Limits {
        lowest: lowest.div_ceil(PAGE),
        // The last page must lie below the limit as a whole.
        highest: match highest.saturating_add(1) / PAGE {
            0 => return Ptr::null(),
            pages => pages - 1,
        },
        boundary: boundary / PAGE,
    };
    POOL.with(|pool| {
        let bytes = wanted.bytes.checked_next_multiple_of(PAGE)?;
        let whole = Wanted { bytes, ..*wanted };
        pool.run(&whole, caller, false, Some(limits))
    })
    .unwrap_or_default()
}

/// Allocates zeroed memory for an object of the shim's own.
#[must_use]
pub fn allocate_zeroed(bytes: u64, tag: [u8; 4]) -> Option<Ptr<u8>> {
    let address = allocate(bytes, u32::from_le_bytes(tag), SHIM).non_null()?;
    address.fill(0, bytes);
    Some(address)
}

/// Copies `bytes` to a new block of the shim's own.
#[must_use]
pub fn allocate_copy(bytes: &[u8], tag: [u8; 4]) -> Option<Ptr<u8>> {
    let address = allocate_zeroed(bytes.len() as u64, tag)?;
    address.write_bytes(bytes);
    Some(address)
}

/// Frees a block. `tag` 0 fits every block. A bad address, a double free, another tag or an overrun is a bugcheck.
pub fn free(address: Ptr<u8>, tag: u32) {
    let caller = shared::caller();
    if let Err(damage) = POOL.with(|pool| pool.give(address.addr(), tag, caller)) {
        damage.bugcheck();
    }
}

/// Looks at all guard bytes and all freed memory while drivers are verified; damage is a bugcheck.
pub fn check_all() {
    if shared::verify() == 0 {
        return;
    }
    if let Err(damage) = POOL.with(|pool| pool.check()) {
        damage.bugcheck();
    }
}

/// The block that starts at `address`.
#[must_use]
pub fn block_at(address: u64) -> Option<Block> {
    block_over(address).filter(|block| block.address == address)
}

/// The block that `address` lies in. A block of no bytes has its address alone.
#[must_use]
pub fn block_over(address: u64) -> Option<Block> {
    POOL.with(|pool| {
        let slot = pool.slabs.slot_at(address).and_then(Pool::block_of_slot);
        slot.or_else(|| pool.block_over(address))
    })
}

/// Whether `address` lies inside the pool region or the special pool.
#[must_use]
pub fn contains(address: u64) -> bool {
    let offset = address.wrapping_sub(shared::kernel_base());
    offset.wrapping_sub(layout::POOL) < shared::pool_bytes()
        || offset.wrapping_sub(layout::SPECIAL_POOL) < layout::SPECIAL_POOL_SIZE
}

/// The guest-physical address behind an address in the special pool; `None` where nothing is mapped.
#[must_use]
pub fn special_physical(address: u64) -> Option<u64> {
    let pool_address = POOL.with(|pool| pool.special.pool_address(&pool.slabs, address))?;
    mm::physical_address(pool_address)
}

/// What a page fault at `address` means; `None` for an address outside of the special pool.
pub(crate) fn special_fault(address: u64) -> Option<SpecialFault> {
    if POOL.is_busy() {
        return None;
    }
    POOL.with(|pool| pool.special.fault(address))
}

/// The blocks that a driver has not freed.
#[must_use]
pub fn blocks_of(owner: u64) -> Vec<Block> {
    let offset = near(owner);
    POOL.with(|pool| {
        pool.blocks()
            .filter(|block| near(block.owner) == offset)
            .collect()
    })
}

/// Free bytes, in whole pages.
#[must_use]
pub fn free_bytes() -> u64 {
    POOL.with(|pool| u64::from(pool.slabs.runs.free()) * PAGE)
}

/// The tag's four characters, for people.
#[must_use]
pub fn tag_text(tag: u32) -> [char; 4] {
    tag.to_le_bytes().map(|byte| {
        if byte.is_ascii_graphic() || byte == b' ' {
            char::from(byte)
        } else {
            '.'
        }
    })
}

/// Where a call came from, for people: `driver.sys+0x123`.
pub(crate) fn site(address: u64) -> impl core::fmt::Display {
    Site(address)
}
