//! Kernel stacks: slots of a window in the address space, an absent page below each.
//!
//! The VMM fills a slot's page-table entries the first time it is used, with pages that the pool gives; they are never
//! given back, and a slot serves the next thread when its thread has ended.

use alloc::vec::Vec;

use crate::ex::pool;
use crate::raw::Global;
use crate::{mm, shared};
use abi::boot::{Region, RegionFlags, RegionKind};
use abi::doorbell::Call;
use abi::layout::{self, PAGE_SIZE};

/// Index of the driver ABI in arrays of the layout.
const ABI: usize = if cfg!(nt_i386) { 0 } else { 1 };
/// Bytes of a kernel stack: NT's 12 KiB (i386) or 24 KiB (amd64), and 16 or 36 KiB for the shim's own calls.
pub const BYTES: u64 = if cfg!(test) {
    // Unoptimised tests and their panics need more.
    0x1_F000
} else {
    layout::THREAD_STACK_NT_BYTES[ABI] + layout::THREAD_STACK_SHIM_BYTES[ABI]
};
/// Distance of two slots.
const STRIDE: u64 = BYTES + PAGE_SIZE;
/// Number of slots.
const SLOTS: u64 = if cfg!(test) {
    1100
} else {
    layout::THREAD_STACKS_SIZE / STRIDE
};

#[derive(Debug)]
struct Stacks {
    /// Guest-physical address behind each slot that was ever used.
    slots: Vec<u64>,
    free: Vec<u32>,
}

static STACKS: Global<Stacks> = Global::new(
    "kernel stacks",
    Stacks {
        slots: Vec::new(),
        free: Vec::new(),
    },
);

/// Forgets all stacks.
pub(super) fn initialize() {
    STACKS.with(|stacks| {
        stacks.slots.clear();
        stacks.free.clear();
    });
}

/// Lowest address of a slot's stack.
fn base(slot: u64) -> u64 {
    shared::kernel_base() + layout::THREAD_STACKS + slot * STRIDE + PAGE_SIZE
}

/// Takes a stack: slot and lowest address. `None`: no memory, or no slot.
pub(super) fn allocate() -> Option<(u32, u64)> {
    if let Some(slot) = STACKS.with(|stacks| stacks.free.pop()) {
        return Some((slot, base(u64::from(slot))));
    }
    let slot = STACKS.with(|stacks| stacks.slots.len() as u64);
    if slot >= SLOTS {
        return None;
    }
    let address = base(slot);
    let physical = if cfg!(test) {
        0
    } else {
        let memory = pool::allocate(BYTES, u32::from_le_bytes(*b"KStk"), pool::SHIM).non_null()?;
        let physical = mm::physical_address(memory.addr())?;
        let [status, ..] =
            shared::platform().doorbell(Call::MapStack, [address, physical, BYTES, 0, 0, 0]);
        if status != 0 {
            pool::free(memory, 0);
            return None;
        }
        physical
    };
    STACKS.with(|stacks| stacks.slots.push(physical));
    Some((crate::raw::low32(slot), address))
}

/// Gives a stack back. It may still be the running one, until the switch away from it.
pub(super) fn free(slot: u32) {
    STACKS.with(|stacks| stacks.free.push(slot));
}

/// The stack that `address` lies in, as a region.
#[must_use]
pub fn region_of(address: u64) -> Option<Region> {
    let offset = address.checked_sub(shared::kernel_base() + layout::THREAD_STACKS)?;
    let slot = offset / STRIDE;
    if slot >= SLOTS || offset % STRIDE < PAGE_SIZE || STACKS.is_busy() {
        return None;
    }
    let physical_address =
        STACKS.with(|stacks| stacks.slots.get(crate::raw::to_usize(slot)).copied())?;
    Some(Region {
        virtual_address: base(slot),
        physical_address,
        bytes: BYTES,
        kind: RegionKind::Stack as u32,
        flags: RegionFlags::WRITE.bits(),
    })
}
