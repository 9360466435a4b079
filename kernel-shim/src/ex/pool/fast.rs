//! Allocating and freeing on the fast path of the exports: a slot of a page that has others in use and others free, of a
//! driver that is not verified. All else, and all that is wrong, is the ordinary path's.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use super::slab::{self, FastSlot};
use super::{GUARD_BYTE, POOL, near};
use crate::io::driver::fast_owner_of;
use crate::nt::{APC_LEVEL, DISPATCH_LEVEL};
use crate::raw::{Ptr, low16};
use crate::shared;

/// What lies behind a block.
const GUARD_WORD: u64 = u64::from_ne_bytes([GUARD_BYTE; 8]);
/// The largest block that is zeroed here.
const LARGEST_ZEROED: u64 = 256;

/// Whether the IRQL limit of that pool is kept.
#[inline(always)]
fn is_irql_right(is_paged: bool) -> bool {
    shared::irql() <= if is_paged { APC_LEVEL } else { DISPATCH_LEVEL }
}

/// Allocates a block of at least one byte, with guard bytes behind it.
#[inline(always)]
pub(crate) fn allocate(is_paged: bool, is_zeroed: bool, bytes: u64, tag: u32) -> Option<Ptr<u8>> {
    let is_large = bytes.wrapping_sub(1) >= slab::LARGEST || is_zeroed && bytes > LARGEST_ZEROED;
    if is_large || tag == 0 || shared::verify() != 0 || !is_irql_right(is_paged) {
        return None;
    }
    let caller = shared::fast_caller();
    let owner = fast_owner_of(caller)?;
    let slot = POOL.try_use()?.slabs.fast_take(bytes)?;
    slot.caller().write(near(caller));
    slot.owner().write(near(owner));
    slot.tag().write(tag);
    slot.bytes().write(low16(bytes));
    slot.state().write(if is_paged {
        slab::PAGED
    } else {
        slab::NONPAGED
    });
    let block = slot.block();
    if is_zeroed {
        let mut done = 0_u64;
        while done < bytes {
            // Volatile, or the compiler makes a call of it. What is too much is the guard's or the slack.
            crate::raw::volatile_write(block.addr().wrapping_add(done), 0_u64);
            done = done.wrapping_add(8);
        }
    }
    block.add_bytes(bytes).cast::<u64>().write(GUARD_WORD);
    Some(block)
}

/// Frees a block; `tag` 0 fits every one.
#[inline(always)]
pub(crate) fn free(address: Ptr<u8>, tag: u32) -> Option<()> {
    if shared::verify() != 0 {
        return None;
    }
    let mut pool = POOL.try_use()?;
    let found = pool.slabs.fast_find(address.addr())?;
    let slot = found.slot;
    let is_paged = match slot.state().read() {
        slab::PAGED => true,
        slab::NONPAGED => false,
        _ => return None,
    };
    let is_right = is_irql_right(is_paged)
        && (tag == 0 || slot.tag().read() == tag)
        && is_guard_whole(slot, found.room);
    if !is_right {
        return None;
    }
    slot.owner().write(slot.caller().read());
    slot.caller().write(near(shared::fast_caller()));
    pool.slabs.fast_give(&found)
}

/// Whether the guard behind a block is as it was written; `room` is the slot's without its header.
#[inline(always)]
fn is_guard_whole(slot: FastSlot, room: u64) -> bool {
    let bytes = u64::from(slot.bytes().read());
    bytes.wrapping_add(slab::GUARD_BYTES) <= room
        && slot.block().add_bytes(bytes).cast::<u64>().read() == GUARD_WORD
}
