//! Paged and non-paged pool: one region, all of it resident.
//!
//! Metadata lives in the shim's heap, out of an overrunning driver's reach. Behind every block lie guard bytes that
//! are checked when it is freed; freed memory is filled, so that a use after free shows.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::nt::bugcheck::{BAD_POOL_CALLER, BAD_POOL_HEADER, bugcheck_with_text};
use crate::raw::{Global, Ptr, low8, to_usize};
use crate::{mm, shared};
use abi::layout;

/// Unit of small blocks: their alignment on NT (twice the pointer size).
const GRANULE: u64 = if cfg!(nt_i386) { 8 } else { 16 };
const PAGE: u64 = layout::PAGE_SIZE;
/// Least guard bytes behind a block.
const GUARD: u64 = 8;
const GUARD_BYTE: u8 = 0xBD;
const FREED_BYTE: u8 = 0xDD;
/// How many freed addresses are remembered to tell a double free from a wild one.
const REMEMBERED: usize = 256;
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
    span: u64,
}

#[derive(Debug)]
struct Pool {
    blocks: BTreeMap<u64, Block>,
    /// Free ranges: address to bytes; never adjacent.
    free: BTreeMap<u64, u64>,
    freed: VecDeque<u64>,
}

static POOL: Global<Pool> = Global::new(
    "pool",
    Pool {
        blocks: BTreeMap::new(),
        free: BTreeMap::new(),
        freed: VecDeque::new(),
    },
);

/// Takes over the pool region that the VMM mapped.
pub fn initialize() {
    let start = shared::kernel_base() + layout::POOL;
    POOL.with(|pool| {
        *pool = Pool {
            blocks: BTreeMap::new(),
            free: BTreeMap::from([(start, shared::pool_bytes())]),
            freed: VecDeque::new(),
        };
    });
}

impl Pool {
    /// Where a span of `span` bytes would start in the free range, by NT's placement rules.
    fn place(range: u64, bytes: u64, span: u64) -> u64 {
        if bytes >= PAGE || (range % PAGE) + span > PAGE {
            range.next_multiple_of(PAGE)
        } else {
            range
        }
    }

    fn take(&mut self, bytes: u64, tag: u32, caller: u64, owner: u64) -> Option<Block> {
        let span = bytes
            .max(1)
            .checked_add(GUARD)?
            .checked_next_multiple_of(GRANULE)?;
        let (range, range_bytes, address) =
            self.free.iter().find_map(|(&range, &range_bytes)| {
                let address = Self::place(range, bytes, span);
                let fits = (address - range).checked_add(span)? <= range_bytes;
                fits.then_some((range, range_bytes, address))
            })?;
        self.free.remove(&range);
        if address > range {
            self.free.insert(range, address - range);
        }
        let end = address + span;
        if range + range_bytes > end {
            self.free.insert(end, range + range_bytes - end);
        }
        let block = Block {
            address,
            bytes,
            tag,
            caller,
            owner,
            span,
        };
        self.blocks.insert(address, block);
        self.freed.retain(|&freed| freed != address);
        Some(block)
    }

    fn give_back(&mut self, block: &Block) {
        self.blocks.remove(&block.address);
        let (mut start, mut end) = (block.address, block.address + block.span);
        if let Some((&before, &bytes)) = self.free.range(..start).next_back()
            && before + bytes == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(bytes) = self.free.remove(&end) {
            end += bytes;
        }
        self.free.insert(start, end - start);
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back(block.address);
    }
}

/// Allocates `bytes`; null when the pool is exhausted. `owner` is a DRIVER_OBJECT's address or [`SHIM`].
#[must_use]
pub fn allocate(bytes: u64, tag: u32, owner: u64) -> Ptr<u8> {
    let caller = shared::caller();
    let Some(block) = POOL.with(|pool| pool.take(bytes, tag, caller, owner)) else {
        return Ptr::null();
    };
    let address = Ptr::<u8>::new(block.address);
    address
        .add_bytes(bytes)
        .fill(GUARD_BYTE, block.span - bytes);
    address
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
    let at = address.addr();
    let (block, was_freed) =
        POOL.with(|pool| (pool.blocks.get(&at).copied(), pool.freed.contains(&at)));
    let Some(block) = block else {
        if was_freed {
            bugcheck_with_text(
                BAD_POOL_CALLER,
                [7, 0, u64::from(tag), at],
                format_args!("pool block {at:#x} was freed twice"),
            );
        }
        if at <= layout::HIGHEST_USER_ADDRESS {
            bugcheck_with_text(
                BAD_POOL_CALLER,
                [0x40, at, shared::kernel_base(), 0],
                format_args!("the user address {at:#x} was freed to the pool"),
            );
        }
        bugcheck_with_text(
            BAD_POOL_CALLER,
            [0x43, at, 0, 0],
            format_args!("{at:#x} was freed, which is no pool block"),
        );
    };
    if tag != 0 && tag != block.tag {
        bugcheck_with_text(
            BAD_POOL_CALLER,
            [0xA, at, u64::from(block.tag), u64::from(tag)],
            format_args!("pool block {at:#x} was freed with another tag than it has"),
        );
    }
    check_guard(&block);
    address.fill(FREED_BYTE, block.span);
    POOL.with(|pool| pool.give_back(&block));
}

fn check_guard(block: &Block) {
    let mut guard = [0; to_usize(GUARD + GRANULE)];
    let guard = &mut guard[..to_usize(block.span - block.bytes)];
    Ptr::<u8>::new(block.address + block.bytes).read_bytes(guard);
    if let Some(offset) = guard.iter().position(|&byte| byte != GUARD_BYTE) {
        let bad = block.address + block.bytes + offset as u64;
        bugcheck_with_text(
            BAD_POOL_HEADER,
            [0x20, block.address, bad, block.bytes],
            format_args!(
                "pool block {:#x} of {} bytes was overrun at {bad:#x}",
                block.address, block.bytes
            ),
        );
    }
}

/// The block that starts at `address`.
#[must_use]
pub fn block_at(address: u64) -> Option<Block> {
    POOL.with(|pool| pool.blocks.get(&address).copied())
}

/// Whether `address` lies inside the pool region.
#[must_use]
pub fn contains(address: u64) -> bool {
    address.wrapping_sub(shared::kernel_base() + layout::POOL) < shared::pool_bytes()
}

/// The blocks that a driver has not freed.
#[must_use]
pub fn blocks_of(owner: u64) -> Vec<Block> {
    POOL.with(|pool| {
        pool.blocks
            .values()
            .filter(|block| block.owner == owner)
            .copied()
            .collect()
    })
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

/// The guest-physical address of pool memory, 0 when the VMM did not describe it.
#[must_use]
pub fn physical(address: u64) -> u64 {
    mm::physical_address(address).unwrap_or(0)
}

/// The processor-independent low byte of a pool type: bit 0 is set for paged pool.
#[must_use]
pub const fn is_paged(pool_type: u32) -> bool {
    low8(pool_type as u64) & 1 != 0
}
