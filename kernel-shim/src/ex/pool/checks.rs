//! What is looked at when a block is freed or its memory used again.

use super::report::Damage;
use super::slab::{self, Slot};
use super::{Block, FREED_BYTE, Freed, GUARD, GUARD_BYTE, far};
use crate::raw::{Ptr, to_usize};

/// Guard bytes that are written and checked behind a block with `room` bytes of slack.
pub(super) fn guard_bytes(room: u64, is_verifying: bool) -> u64 {
    if is_verifying { room } else { room.min(GUARD) }
}

/// The first byte of a filled range that holds something else.
pub(super) fn first_changed(address: u64, bytes: u64, expected: u8) -> Option<u64> {
    let mut chunk = [0; 64];
    let mut done = 0;
    while done < bytes {
        let part = &mut chunk[..to_usize((bytes - done).min(64))];
        Ptr::<u8>::new(address + done).read_bytes(part);
        if let Some(offset) = part.iter().position(|&byte| byte != expected) {
            return Some(address + done + offset as u64);
        }
        done += part.len() as u64;
    }
    None
}

/// What is remembered in the header of a free slot; `None` if it does not look like one.
pub(super) fn freed_slot(slot: Slot) -> Option<Freed> {
    let header = slot.header.read();
    let was_used = header.tag != 0 && matches!(header.state, slab::FREE | slab::QUARANTINED);
    was_used.then(|| Freed {
        address: slot.block().addr(),
        bytes: u64::from(header.bytes),
        tag: header.tag,
        allocated_by: far(header.owner),
        freed_by: far(header.caller),
    })
}

/// Whether a free slot still holds what it was filled with.
pub(super) fn check_freed(slot: Slot) -> Result<(), Damage> {
    let Some(freed) = freed_slot(slot) else {
        return if matches!(slot.header.read().state, slab::FREE) {
            Ok(())
        } else {
            Err(Damage::Header(slot))
        };
    };
    match first_changed(freed.address, slot.bytes - slab::HEADER, FREED_BYTE) {
        None => Ok(()),
        Some(at) => Err(Damage::WrittenAfterFree(freed, at)),
    }
}

pub(super) fn check_tag(block: &Block, tag: u32) -> Result<(), Damage> {
    // Bit 31 is PROTECTED_POOL: the tag must be given. Without it, tag 0 (ExFreePool) fits.
    if tag == 0 || tag == block.tag {
        Ok(())
    } else {
        Err(Damage::OtherTag(*block, tag))
    }
}

pub(super) fn check_guard(block: &Block, bytes: u64) -> Result<(), Damage> {
    match first_changed(block.address + block.bytes, bytes, GUARD_BYTE) {
        None => Ok(()),
        Some(at) => Err(Damage::Overrun(*block, at)),
    }
}
