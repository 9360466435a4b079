//! Blocks of less than a page: pages cut into slots of one size, each with a header in front of the block.
//!
//! The header is in driver memory, as NT's is: what overruns or underruns a block damages it, and that is noticed when
//! the block is freed. Everything that the allocator itself trusts is in the shim's heap.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use alloc::vec::Vec;

use super::{GUARD, PAGE, pages::Pages};
use crate::raw::{Ptr, low8, low32, prefetch, to_usize};

/// Sizes of slots, header and guard bytes included; multiples of 16.
const SIZES: [u16; 22] = [
    32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 368, 448, 512, 576, 672, 816, 1360,
    2048, 4096,
];
const CLASSES: usize = SIZES.len();
/// Bytes of a header.
pub(super) const HEADER: u64 = size_of::<Header>() as u64;
/// The largest block that fits a slot.
pub(super) const LARGEST: u64 = PAGE - HEADER - GUARD;
/// Bytes of guard that every slot has room for.
pub(super) const GUARD_BYTES: u64 = GUARD;
/// No page, no slot.
const NO_PAGE: u32 = u32::MAX;
const NO_SLOT: u8 = u8::MAX;

/// [`Header::state`]: in use, non-paged.
pub(super) const NONPAGED: u8 = 0xA4;
/// [`Header::state`]: in use, paged.
pub(super) const PAGED: u8 = 0xA5;
/// [`Header::state`]: free.
pub(super) const FREE: u8 = 0x5C;
/// [`Header::state`]: freed, and kept back to see whether somebody still writes to it.
pub(super) const QUARANTINED: u8 = 0x5D;

/// What lies in front of a block. The state comes last, where an underrun hits it first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Header {
    /// Return address of the allocating call, from the kernel's base; of the freeing call once it is free. 0: none.
    pub(super) caller: u32,
    /// DRIVER_OBJECT of the owner, from the kernel's base; 0: the shim. Of a free slot: the allocating call.
    pub(super) owner: u32,
    /// Pool tag.
    pub(super) tag: u32,
    /// Bytes asked for.
    pub(super) bytes: u16,
    /// Of a free slot: the next one of its page.
    next: u8,
    /// What the slot is.
    pub(super) state: u8,
}

/// What a page of the pool is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Free, or not known.
    Free,
    /// Part of a run of whole pages.
    Run,
    /// Cut into slots of that class.
    Slots(u8),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    what: Use,
    used: u8,
    first_free: u8,
    /// Neighbours in the list of the class's pages with free slots.
    next: u32,
    previous: u32,
}

const UNUSED: Page = Page {
    what: Use::Free,
    used: 0,
    first_free: NO_SLOT,
    next: NO_PAGE,
    previous: NO_PAGE,
};

/// The pool's pages and slots.
#[derive(Debug)]
pub(super) struct Slabs {
    base: u64,
    pages: Vec<Page>,
    /// Free runs.
    pub(super) runs: Pages,
    with_room: [u32; CLASSES],
}

/// A slot: its header's address and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) header: Ptr<Header>,
    pub(super) bytes: u64,
}

impl Slot {
    /// The block's address.
    pub(super) fn block(&self) -> Ptr<u8> {
        self.header.cast::<u8>().add_bytes(HEADER)
    }
}

fn size_of_class(class: u8) -> u64 {
    SIZES
        .get(usize::from(class))
        .map_or(PAGE, |&size| u64::from(size))
}

/// The class of every size, by 16 bytes.
static CLASS_OF: [u8; to_usize(PAGE / 16) + 1] = {
    let mut table = [0; to_usize(PAGE / 16) + 1];
    let (mut unit, mut class) = (0, 0);
    while unit < table.len() {
        if unit * 16 > SIZES[class as usize] as usize {
            class += 1;
        }
        table[unit] = class;
        unit += 1;
    }
    table
};

fn class_of(bytes: u64) -> u8 {
    let needed = (bytes + HEADER + GUARD).div_ceil(16);
    CLASS_OF
        .get(to_usize(needed))
        .copied()
        .unwrap_or(low8(CLASSES as u64 - 1))
}

/// Of each class, for the fast path: bytes of a slot, slots of a page, and the reciprocal of the bytes, with which
/// `offset * reciprocal >> 32` is `offset / bytes` for every offset in a page.
#[derive(Clone, Copy)]
struct Shape {
    bytes: u64,
    slots: u8,
    reciprocal: u64,
}

static SHAPES: [Shape; CLASSES] = {
    let mut shapes = [Shape {
        bytes: 0,
        slots: 0,
        reciprocal: 0,
    }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let bytes = SIZES[class] as u64;
        shapes[class] = Shape {
            bytes,
            slots: low8(PAGE / bytes),
            reciprocal: (1_u64 << 32).div_ceil(bytes),
        };
        class += 1;
    }
    shapes
};

/// The header of a slot, field by field.
#[derive(Clone, Copy)]
pub(super) struct FastSlot(u64);

/// A slot that [`Slabs::fast_find`] found.
pub(super) struct FastFound {
    pub(super) slot: FastSlot,
    /// Bytes behind the header.
    pub(super) room: u64,
    page: usize,
    index: u8,
}

macro_rules! header_fields {
    ($($field:ident: $type:ty;)*) => {
        impl FastSlot {
            $(
                #[inline(always)]
                pub(super) fn $field(self) -> Ptr<$type> {
                    Ptr::new(self.0.wrapping_add(core::mem::offset_of!(Header, $field) as u64))
                }
            )*

            #[inline(always)]
            pub(super) fn block(self) -> Ptr<u8> {
                Ptr::new(self.0.wrapping_add(HEADER))
            }
        }
    };
}

header_fields! {
    caller: u32;
    owner: u32;
    tag: u32;
    bytes: u16;
    next: u8;
    state: u8;
}

/// What the fast paths of allocating and freeing do; `None` and nothing done: the ordinary path has to.
impl Slabs {
    /// [`Self::take`] of a slot that is not the last one free in its page, for 1 to [`LARGEST`] bytes.
    #[inline(always)]
    pub(super) fn fast_take(&mut self, bytes: u64) -> Option<FastSlot> {
        let units = bytes.wrapping_add(HEADER + GUARD + 15) / 16;
        let class = usize::from(*CLASS_OF.get(to_usize(units))?);
        let shape = SHAPES.get(class)?;
        let number = *self.with_room.get(class)?;
        let page = self.pages.get_mut(number as usize)?;
        let in_page = u64::from(page.first_free).wrapping_mul(shape.bytes);
        let at = u64::from(number).wrapping_mul(PAGE).wrapping_add(in_page);
        let slot = FastSlot(self.base.wrapping_add(at));
        let next = slot.next().read();
        if slot.state().read() != FREE || next >= shape.slots {
            return None;
        }
        page.first_free = next;
        page.used = page.used.wrapping_add(1);
        Some(slot)
    }

    /// The slot whose block starts at `address`, if its page stays in its class's list without it.
    #[inline(always)]
    pub(super) fn fast_find(&self, address: u64) -> Option<FastFound> {
        let offset = address.wrapping_sub(self.base);
        let number = to_usize(offset / PAGE);
        let page = self.pages.get(number)?;
        let Use::Slots(class) = page.what else {
            return None;
        };
        let shape = SHAPES.get(usize::from(class))?;
        let in_page = (offset % PAGE).wrapping_sub(HEADER);
        let index = in_page.wrapping_mul(shape.reciprocal) >> 32;
        let is_slot = index < u64::from(shape.slots) && index.wrapping_mul(shape.bytes) == in_page;
        let is_alone = page.next == NO_PAGE && page.previous == NO_PAGE;
        let was_full = page.first_free == NO_SLOT;
        if !is_slot || was_full || page.used <= 1 && !is_alone {
            return None;
        }
        // Where the guard is depends on the header. A block that was last touched long ago has both outside of the
        // caches: they are fetched together, not one after the other.
        prefetch(
            address
                .wrapping_add(shape.bytes)
                .wrapping_sub(HEADER + 2 * GUARD),
        );
        Some(FastFound {
            slot: FastSlot(address.wrapping_sub(HEADER)),
            room: shape.bytes.wrapping_sub(HEADER),
            page: number,
            index: low8(index),
        })
    }

    /// [`Self::give`] of a slot that was just found.
    #[inline(always)]
    pub(super) fn fast_give(&mut self, found: &FastFound) -> Option<()> {
        let page = self.pages.get_mut(found.page)?;
        found.slot.next().write(page.first_free);
        found.slot.state().write(FREE);
        page.first_free = found.index;
        page.used = page.used.wrapping_sub(1);
        Some(())
    }
}

impl Slabs {
    pub(super) const fn empty() -> Self {
        Self {
            base: 0,
            pages: Vec::new(),
            runs: Pages::empty(),
            with_room: [NO_PAGE; CLASSES],
        }
    }

    pub(super) fn new(base: u64, count: u32) -> Self {
        Self {
            base,
            pages: alloc::vec![UNUSED; count as usize],
            runs: Pages::new(count),
            with_room: [NO_PAGE; CLASSES],
        }
    }

    /// Number of pages.
    pub(super) fn count(&self) -> u32 {
        low32(self.pages.len() as u64)
    }

    /// Address of a page.
    pub(super) fn address(&self, page: u32) -> u64 {
        self.base + u64::from(page) * PAGE
    }

    /// The page that an address lies in.
    pub(super) fn page_of(&self, address: u64) -> Option<u32> {
        let page = address.checked_sub(self.base)? / PAGE;
        (page < self.pages.len() as u64).then(|| low32(page))
    }

    /// What a page is used for.
    pub(super) fn use_of(&self, page: u32) -> Use {
        self.pages
            .get(page as usize)
            .map_or(Use::Free, |page| page.what)
    }

    fn page(&mut self, page: u32) -> &mut Page {
        &mut self.pages[page as usize]
    }

    /// Takes whole pages.
    pub(super) fn take_run(&mut self, count: u32) -> Option<u32> {
        let first = self.runs.take(count)?;
        self.mark(first, count, Use::Run);
        Some(first)
    }

    /// Marks pages that were taken from or go back to the free runs.
    pub(super) fn mark(&mut self, first: u32, count: u32, what: Use) {
        for page in first..first + count {
            *self.page(page) = Page { what, ..UNUSED };
        }
    }

    /// Gives whole pages back.
    pub(super) fn give_run(&mut self, first: u32, count: u32) {
        self.mark(first, count, Use::Free);
        self.runs.give(first, count);
    }

    fn link(&mut self, class: u8, page: u32) {
        let head = self.with_room[usize::from(class)];
        *self.page(page) = Page {
            next: head,
            previous: NO_PAGE,
            ..*self.page(page)
        };
        if head != NO_PAGE {
            self.page(head).previous = page;
        }
        self.with_room[usize::from(class)] = page;
    }

    fn unlink(&mut self, class: u8, page: u32) {
        let Page { next, previous, .. } = *self.page(page);
        if previous == NO_PAGE {
            self.with_room[usize::from(class)] = next;
        } else {
            self.page(previous).next = next;
        }
        if next != NO_PAGE {
            self.page(next).previous = previous;
        }
    }

    fn slot(&self, page: u32, class: u8, index: u8) -> Slot {
        let bytes = size_of_class(class);
        Slot {
            header: Ptr::new(self.address(page) + u64::from(index) * bytes),
            bytes,
        }
    }

    /// Makes a page of free slots.
    fn new_page(&mut self, class: u8) -> Option<u32> {
        let page = self.runs.take(1)?;
        let slots = low8(PAGE / size_of_class(class));
        for index in 0..slots {
            let next = if index + 1 == slots {
                NO_SLOT
            } else {
                index + 1
            };
            self.slot(page, class, index).header.write(Header {
                caller: 0,
                owner: 0,
                tag: 0,
                bytes: 0,
                next,
                state: FREE,
            });
        }
        *self.page(page) = Page {
            what: Use::Slots(class),
            used: 0,
            first_free: 0,
            ..UNUSED
        };
        self.link(class, page);
        Some(page)
    }

    /// Takes a slot for a block of `bytes`; its header is the caller's to fill. The error is a free slot whose header
    /// was overwritten.
    pub(super) fn take(&mut self, bytes: u64) -> Result<Option<Slot>, Slot> {
        let class = class_of(bytes);
        let mut page = self.with_room[usize::from(class)];
        if page == NO_PAGE {
            match self.new_page(class) {
                Some(new) => page = new,
                None => return Ok(None),
            }
        }
        let index = self.page(page).first_free;
        let slot = self.slot(page, class, index);
        let Header { state, next, .. } = slot.header.read();
        let slots = low8(PAGE / slot.bytes);
        if state != FREE || (next != NO_SLOT && next >= slots) {
            return Err(slot);
        }
        let info = self.page(page);
        info.first_free = next;
        info.used += 1;
        if next == NO_SLOT {
            self.unlink(class, page);
        }
        Ok(Some(slot))
    }

    /// The slot whose block starts at `address`; `None` when none can start there.
    pub(super) fn slot_at(&self, address: u64) -> Option<Slot> {
        let page = self.page_of(address)?;
        let Use::Slots(class) = self.use_of(page) else {
            return None;
        };
        let slot = self.slot_around(page, class, address)?;
        (slot.block().addr() == address).then_some(slot)
    }

    fn slot_around(&self, page: u32, class: u8, address: u64) -> Option<Slot> {
        let size = size_of_class(class);
        let index = (address - self.address(page)) / size;
        (index < PAGE / size).then(|| self.slot(page, class, low8(index)))
    }

    /// The slot that an address lies in.
    pub(super) fn slot_over(&self, address: u64) -> Option<Slot> {
        let page = self.page_of(address)?;
        let Use::Slots(class) = self.use_of(page) else {
            return None;
        };
        self.slot_around(page, class, address)
    }

    /// Makes a slot free; what its header says beside the link stays.
    pub(super) fn give(&mut self, slot: Slot) {
        let Some(page) = self.page_of(slot.header.addr()) else {
            return;
        };
        let Use::Slots(class) = self.use_of(page) else {
            return;
        };
        let index = low8((slot.header.addr() - self.address(page)) / slot.bytes);
        let info = self.page(page);
        let next = info.first_free;
        info.first_free = index;
        info.used -= 1;
        let is_empty = info.used == 0;
        slot.header.with(|header| {
            header.next = next;
            header.state = FREE;
        });
        if next == NO_SLOT {
            self.link(class, page);
        }
        // One empty page of a class stays, so that a block that comes and goes costs no pages.
        let Page { next, previous, .. } = *self.page(page);
        if is_empty && (next != NO_PAGE || previous != NO_PAGE) {
            self.unlink(class, page);
            *self.page(page) = UNUSED;
            self.runs.give(page, 1);
        }
    }

    /// Every slot that is in use or free in a page of slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.count()).flat_map(move |page| {
            let (class, count) = match self.use_of(page) {
                Use::Slots(class) => (class, low8(PAGE / size_of_class(class))),
                Use::Free | Use::Run => (0, 0),
            };
            (0..count).map(move |index| self.slot(page, class, index))
        })
    }
}
