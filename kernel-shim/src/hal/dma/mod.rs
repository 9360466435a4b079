//! DMA adapters: bus masters' access to the guest's memory, through map registers where it has to be.
//!
//! Physical addresses are guest-physical. A device that scatters and gathers, and can address all RAM, uses memory as it
//! is; then map registers are numbers that nothing stands behind. Any other device gets pages of its own, physically
//! contiguous and below its limit: a transfer that is not contiguous, or not below the limit, is copied through them.
//!
//! RAM begins at 16 MiB. Pages that an ISA device with 24 address bits, or the system's DMA controller, could reach do
//! not exist, so such a device gets no adapter.
//!
//! What would damage memory in NT (an adapter that is none, a buffer outside of its MDL, what was never allocated) stops
//! the guest with what Driver Verifier says of it, DRIVER_VERIFIER_DMA_VIOLATION; mistakes that NT survives do so only
//! while drivers are verified.

pub mod api;
mod channel;
mod common;
mod list;
mod map;
#[cfg(test)]
mod tests;
mod transfer;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::ex::pool;
use crate::io::driver::owner_of;
use crate::io::routine;
use crate::nt::bugcheck::{DRIVER_VERIFIER_DMA_VIOLATION, bugcheck_with_text};
use crate::nt::{DEVICE_DESCRIPTION, DISPATCH_LEVEL, DMA_ADAPTER, DMA_OPERATIONS, MDL};
use crate::raw::{Global, Ptr, Word, from_word, low16, low32, to_word};
use crate::shared;
use abi::layout::{self, PAGE_SIZE};
use channel::Request;
use common::Common;

/// Tag of adapters and of lists.
const TAG: [u8; 4] = *b"HalD";
/// Most map registers of an adapter that copies.
const REGISTERS_MAX: u32 = 64;
/// INTERFACE_TYPE: Isa.
const ISA: u32 = 1;
/// The last DEVICE_DESCRIPTION version that Windows 7 knows.
const VERSION_LAST: u32 = 2;

/// What Driver Verifier's first parameter is.
mod number {
    pub(super) const COMMON_BUFFER_FREED_TWICE: u64 = 0x03;
    pub(super) const CHANNEL_FREED_TWICE: u64 = 0x04;
    pub(super) const REGISTERS_FREED_TWICE: u64 = 0x05;
    pub(super) const LIST_FREED_TWICE: u64 = 0x06;
    pub(super) const COMMON_BUFFERS_LEFT: u64 = 0x07;
    pub(super) const CHANNEL_LEFT: u64 = 0x08;
    pub(super) const REGISTERS_LEFT: u64 = 0x09;
    pub(super) const LISTS_LEFT: u64 = 0x0A;
    pub(super) const TOO_MANY_REGISTERS: u64 = 0x0C;
    pub(super) const NOT_FLUSHED: u64 = 0x0D;
    pub(super) const STILL_MAPPED: u64 = 0x10;
    pub(super) const IRQL: u64 = 0x13;
    pub(super) const NOT_MAPPED: u64 = 0x16;
    pub(super) const RELEASED: u64 = 0x17;
    pub(super) const NO_ADAPTER: u64 = 0x18;
    pub(super) const BAD_BUFFER: u64 = 0x19;
}

/// Pages behind map registers.
#[derive(Debug)]
struct Pages {
    address: u64,
    physical: u64,
    used: Vec<bool>,
}

impl Pages {
    /// Takes `count` registers in a row; the first one's number.
    fn take(&mut self, count: u32) -> Option<u32> {
        let count = count as usize;
        let last = self.used.len().checked_sub(count)?;
        let first = (0..=last).find(|&first| {
            let run = self.used.get(first..first + count);
            run.is_some_and(|run| run.iter().all(|used| !used))
        })?;
        self.mark(first, count, true);
        Some(low32(first as u64))
    }

    fn give(&mut self, first: u32, count: u32) {
        self.mark(first as usize, count as usize, false);
    }

    fn mark(&mut self, first: usize, count: usize, is_used: bool) {
        for used in self.used.iter_mut().skip(first).take(count) {
            *used = is_used;
        }
    }
}

/// Bytes that are copied between memory and a map register's page.
#[derive(Clone, Copy, Debug)]
struct Copied {
    /// Physical address of the memory.
    physical: u64,
    /// Kernel address in the register's page.
    at: u64,
    bytes: u64,
}

/// A part of a buffer that a device may use now.
#[derive(Debug)]
struct Mapping {
    mdl: Ptr<MDL>,
    /// The buffer's address as its MDL has it.
    buffer: u64,
    bytes: u64,
    copies: Vec<Copied>,
}

/// Map registers that were allocated in one call, and what is mapped by them.
#[derive(Debug, Default)]
struct Grant {
    /// As many as were asked for.
    count: u32,
    /// Number of the first register, if there are pages behind them.
    first: Option<u32>,
    /// Registers that are in use.
    next: u32,
    mappings: Vec<Mapping>,
    /// The scatter/gather list that they were allocated for.
    list: Option<list::Made>,
}

/// An adapter's state; drivers see a DMA_ADAPTER and a DMA_OPERATIONS behind it.
#[derive(Debug)]
struct Adapter {
    /// The highest physical address that the device can use.
    limit: u64,
    is_scatter: bool,
    registers_max: u32,
    pages: Option<Pages>,
    /// Who has the channel.
    channel: Option<u64>,
    waiting: VecDeque<Request>,
    grants: BTreeMap<u64, Grant>,
    tokens: u64,
    common: Vec<Common>,
}

/// Adapters by address; `None` was one.
static ADAPTERS: Global<BTreeMap<u64, Option<Adapter>>> =
    Global::new("DMA adapters", BTreeMap::new());

pub(crate) fn initialize() {
    ADAPTERS.with(BTreeMap::clear);
}

fn violation(number: u64, parameters: [u64; 3], text: fmt::Arguments<'_>) -> ! {
    let [first, second, third] = parameters;
    bugcheck_with_text(
        DRIVER_VERIFIER_DMA_VIOLATION,
        [number, first, second, third],
        text,
    )
}

/// For mistakes that NT survives: stops the guest while drivers are verified.
fn complain(number: u64, adapter: Ptr<DMA_ADAPTER>, text: fmt::Arguments<'_>) {
    if shared::verify() != 0 {
        violation(number, [adapter.addr(), 0, 0], text);
    }
}

/// Works with an adapter; anything else at that address stops the guest.
fn with<R>(adapter: Ptr<DMA_ADAPTER>, work: impl FnOnce(&mut Adapter) -> R) -> R {
    let address = adapter.addr();
    let result = ADAPTERS.with(|all| match all.get_mut(&address) {
        Some(Some(adapter)) => Ok(work(adapter)),
        Some(None) => Err(number::RELEASED),
        None => Err(number::NO_ADAPTER),
    });
    match result {
        Ok(result) => result,
        Err(number) => violation(
            number,
            [address, 0, 0],
            format_args!("{adapter:?} is no DMA adapter, or was released"),
        ),
    }
}

/// Whether the adapter still exists: a driver's routine may have released it.
fn exists(adapter: Ptr<DMA_ADAPTER>) -> bool {
    ADAPTERS.with(|all| matches!(all.get(&adapter.addr()), Some(Some(_))))
}

/// Routines that NT allows at DISPATCH_LEVEL only.
fn check_dispatch_level(name: &str) {
    let irql = shared::irql();
    if irql != DISPATCH_LEVEL && shared::verify() != 0 {
        violation(
            number::IRQL,
            [u64::from(irql), u64::from(DISPATCH_LEVEL), 0],
            format_args!(
                "{name} was called at IRQL {irql}; it may be called at DISPATCH_LEVEL only"
            ),
        );
    }
}

/// The highest physical address that a device can use.
fn limit_of(description: &DEVICE_DESCRIPTION) -> u64 {
    let is_master = description.Master != 0;
    if is_master && description.Version >= 1 && description.Dma64BitAddresses != 0 {
        u64::MAX
    } else if is_master && (description.Dma32BitAddresses != 0 || description.InterfaceType != ISA)
    {
        u64::from(u32::MAX)
    } else {
        0xFF_FFFF
    }
}

/// Contiguous pages up to `limit`: as many as there are of those wanted.
fn pages_below(limit: u64, wanted: u32) -> Option<Pages> {
    let mut count = wanted;
    while count > 0 {
        let bytes = u64::from(count) * PAGE_SIZE;
        let address = pool::allocate_contiguous(
            &pool::Wanted {
                bytes,
                tag: u32::from_le_bytes(TAG),
                owner: pool::SHIM,
                is_paged: false,
                is_page_aligned: true,
            },
            0,
            limit,
            0,
        );
        if let Some(physical) = address
            .non_null()
            .and_then(|address| crate::mm::physical_address(address.addr()))
        {
            address.fill(0, bytes);
            return Some(Pages {
                address: address.addr(),
                physical,
                used: vec![false; count as usize],
            });
        }
        count /= 2;
    }
    None
}

/// Map registers for the longest transfer, at any offset in its first page.
fn registers_of(longest: u32) -> u32 {
    low32(u64::from(longest).div_ceil(PAGE_SIZE)).saturating_add(1)
}

/// Makes an adapter; its address and how many map registers it has. `None`: the description is of an unknown version, or
/// there is no memory that the device could reach.
fn create(description: &DEVICE_DESCRIPTION) -> Option<(Ptr<DMA_ADAPTER>, u32)> {
    if description.Version > VERSION_LAST {
        return None;
    }
    let is_scatter = description.Master != 0 && description.ScatterGather != 0;
    let limit = limit_of(description);
    let version = if description.Version < VERSION_LAST {
        1
    } else {
        2
    };
    create_within(limit, is_scatter, description.MaximumLength, version)
}

fn create_within(
    limit: u64,
    is_scatter: bool,
    longest: u32,
    version: u16,
) -> Option<(Ptr<DMA_ADAPTER>, u32)> {
    let ram_end = layout::RAM_BASE + shared::ram_bytes();
    let mut registers_max = registers_of(longest);
    let pages = if is_scatter && limit >= ram_end - 1 {
        None
    } else {
        let pages = pages_below(limit, registers_max.min(REGISTERS_MAX))?;
        registers_max = low32(pages.used.len() as u64);
        Some(pages)
    };
    let head = size_of::<DMA_ADAPTER>() as u64;
    let bytes = size_of::<DMA_OPERATIONS>() as u64;
    let Some(memory) = pool::allocate_zeroed(head + bytes, TAG) else {
        if let Some(pages) = pages {
            pool::free(Ptr::new(pages.address), u32::from_le_bytes(TAG));
        }
        return None;
    };
    let operations = memory.add_bytes(head);
    operations.cast::<DMA_OPERATIONS>().write(DMA_OPERATIONS {
        Size: low32(bytes),
        Routines: api::TABLE.map(address_of),
    });
    let adapter = memory.cast::<DMA_ADAPTER>();
    adapter.write(DMA_ADAPTER {
        Version: version,
        Size: low16(head),
        DmaOperations: operations.word(),
    });
    let state = Adapter {
        limit,
        is_scatter,
        registers_max,
        pages,
        channel: None,
        waiting: VecDeque::new(),
        grants: BTreeMap::new(),
        tokens: 0,
        common: Vec::new(),
    };
    ADAPTERS.with(|all| all.insert(adapter.addr(), Some(state)));
    Some((adapter, registers_max))
}

/// Where drivers find a routine of the table.
fn address_of(name: &str) -> Word {
    if cfg!(test) {
        to_word(routine::callable(name))
    } else {
        routine::address_of(name)
    }
}

/// Releases an adapter. What was not freed before stays allocated.
fn release(adapter: Ptr<DMA_ADAPTER>) {
    let left = with(adapter, |adapter| {
        let has_lists = adapter.grants.values().any(|grant| grant.list.is_some());
        [
            (
                number::COMMON_BUFFERS_LEFT,
                !adapter.common.is_empty(),
                "common buffers",
            ),
            (
                number::CHANNEL_LEFT,
                adapter.channel.is_some(),
                "the adapter channel",
            ),
            (number::LISTS_LEFT, has_lists, "scatter/gather lists"),
            (
                number::REGISTERS_LEFT,
                !adapter.grants.is_empty(),
                "map registers",
            ),
        ]
    });
    for (number, is_left, what) in left {
        if is_left {
            complain(
                number,
                adapter,
                format_args!("an adapter was released before {what}"),
            );
        }
    }
    let state = ADAPTERS.with(|all| all.insert(adapter.addr(), None).flatten());
    if let Some(state) = state
        && state.grants.is_empty()
        && let Some(pages) = state.pages
    {
        pool::free(Ptr::new(pages.address), u32::from_le_bytes(TAG));
    }
    pool::free(adapter.cast(), u32::from_le_bytes(TAG));
}

/// The address of an MDL's buffer (MmGetMdlVirtualAddress).
fn buffer_of(mdl: &MDL) -> u64 {
    from_word(mdl.StartVa) + u64::from(mdl.ByteOffset)
}

/// The driver whose call is being served, as the pool wants to know it.
fn owner() -> u64 {
    owner_of(shared::caller())
}
