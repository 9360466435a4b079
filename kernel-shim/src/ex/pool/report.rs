//! What is wrong with the pool, as NT's bugchecks.

use core::fmt;

use super::slab::{self, Slot};
use super::{Block, Freed, far, freed_slot, tag_text};
use crate::io::driver;
use crate::nt::bugcheck::{
    BAD_POOL_CALLER, BAD_POOL_HEADER, SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION, bugcheck_with_text,
};
use crate::shared;
use abi::layout;

/// Something wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    /// The header of a slot was overwritten.
    Header(Slot),
    /// Guard bytes behind a block were overwritten at that address.
    Overrun(Block, u64),
    /// Freed memory was written to at that address.
    WrittenAfterFree(Freed, u64),
    /// A freed block was freed.
    FreedTwice(Freed),
    /// A block was freed with that tag, which is not its own.
    OtherTag(Block, u32),
    /// An address inside a block was freed.
    Inside(Block, u64),
    /// An address was freed that belongs to no block.
    NoBlock(u64),
    /// As [`Damage::Overrun`], in the special pool.
    SpecialOverrun(Block, u64),
    /// Memory before a block of the special pool was overwritten at that address.
    SpecialUnderrun(Block, u64),
    /// As [`Damage::FreedTwice`], in the special pool.
    SpecialFreedTwice(Freed),
    /// As [`Damage::Inside`], in the special pool.
    SpecialInside(Block, u64),
}

/// A call site, for people.
pub(super) struct Site(pub(super) u64);

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match driver::by_address(self.0) {
            Some(driver) => write!(f, "{}.sys+{:#x}", driver.name, self.0 - driver.base),
            None if self.0 == 0 => f.write_str("the kernel"),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

struct Tag(u32);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("'")?;
        for character in tag_text(self.0) {
            write!(f, "{character}")?;
        }
        f.write_str("'")
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, by) = (Tag(self.tag), Site(self.caller));
        let (at, bytes) = (self.address, self.bytes);
        write!(
            f,
            "pool block {at:#x} of {bytes} bytes, tag {tag}, allocated by {by}"
        )
    }
}

impl fmt::Display for Freed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, by, freed_by) = (Tag(self.tag), Site(self.allocated_by), Site(self.freed_by));
        let (at, bytes) = (self.address, self.bytes);
        write!(
            f,
            "pool block {at:#x} of {bytes} bytes, tag {tag}, allocated by {by}, freed by {freed_by}"
        )
    }
}

impl Damage {
    /// Stops the guest.
    pub(super) fn bugcheck(self) -> ! {
        let now = Site(shared::caller());
        match self {
            Self::Header(slot) => bad_header(slot),
            Self::Overrun(block, at) => bugcheck_with_text(
                BAD_POOL_HEADER,
                [0x20, block.address, at, block.bytes],
                format_args!("{block}, was overrun at {at:#x} (noticed by {now})"),
            ),
            Self::WrittenAfterFree(freed, at) => bugcheck_with_text(
                SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION,
                [freed.address, at, 0, 0x23],
                format_args!("{freed}, was written to after that at {at:#x}"),
            ),
            Self::FreedTwice(freed) => bugcheck_with_text(
                BAD_POOL_CALLER,
                [7, 0, u64::from(freed.tag), freed.address],
                format_args!("{freed}, was freed again by {now}"),
            ),
            Self::OtherTag(block, tag) => bugcheck_with_text(
                BAD_POOL_CALLER,
                [0xA, block.address, u64::from(block.tag), u64::from(tag)],
                format_args!("{block}, was freed with tag {} by {now}", Tag(tag)),
            ),
            Self::Inside(block, at) => bugcheck_with_text(
                BAD_POOL_CALLER,
                [0x99, at, 0, 0],
                format_args!("{at:#x} was freed by {now}, which lies inside {block}"),
            ),
            Self::NoBlock(at) => no_block(at),
            Self::SpecialOverrun(block, at) => bugcheck_with_text(
                SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION,
                [block.address, at, 0, 0x24],
                format_args!("{block}, was overrun at {at:#x} (noticed by {now})"),
            ),
            Self::SpecialUnderrun(block, at) => bugcheck_with_text(
                SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION,
                [block.address, at, 0, 0x23],
                format_args!("{block}, was underrun at {at:#x} (noticed by {now})"),
            ),
            Self::SpecialFreedTwice(freed) => bugcheck_with_text(
                SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION,
                [freed.address, 0, 0, 0x20],
                format_args!("{freed}, was freed again by {now}"),
            ),
            Self::SpecialInside(block, at) => bugcheck_with_text(
                SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION,
                [at, block.bytes, block.address, 0x21],
                format_args!("{at:#x} was freed by {now}, which lies inside {block}"),
            ),
        }
    }
}

fn bad_header(slot: Slot) -> ! {
    let at = slot.block().addr();
    let header = slot.header.read();
    let freed = freed_slot(slot);
    let text = [0x20, at - slab::HEADER, at - slab::HEADER + slot.bytes, 0];
    match freed {
        Some(freed) => bugcheck_with_text(
            BAD_POOL_HEADER,
            text,
            format_args!(
                "the header of {freed}, was overwritten: an underrun, or an overrun of the block before it"
            ),
        ),
        None => bugcheck_with_text(
            BAD_POOL_HEADER,
            text,
            format_args!(
                "the header of pool block {at:#x} was overwritten (tag {}, allocated by {}): an underrun, or an \
                 overrun of the block before it",
                Tag(header.tag),
                Site(far(header.caller)),
            ),
        ),
    }
}

fn no_block(at: u64) -> ! {
    if at <= layout::HIGHEST_USER_ADDRESS {
        bugcheck_with_text(
            BAD_POOL_CALLER,
            [0x40, at, shared::kernel_base(), 0],
            format_args!("the user address {at:#x} was freed to the pool"),
        );
    }
    let reason = if super::contains(at) { 0x99 } else { 0x43 };
    bugcheck_with_text(
        BAD_POOL_CALLER,
        [reason, at, 0, 0],
        format_args!("{at:#x} was freed, which is no pool block"),
    )
}
