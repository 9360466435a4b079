//! Pages of RAM that the guest maps itself: in the I/O window, in user space, and the clients' alias when its protection
//! is changed.
//!
//! The VMM owns the page tables; the tables of these windows are there before they are used, and guest-stub's CPL 0
//! service changes their entries ([`crate::platform::Platform::map_pages`]). What is written here down is what the
//! entries are, since code at CPL 3 cannot read them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::nt::NtStatus;
use crate::platform::PageAccess;
use crate::raw::{Global, low32, to_usize};
use crate::shared;
use abi::doorbell::Call;
use abi::layout::{self, PAGE_SIZE, entries};

/// Read and write.
pub(crate) const READ_WRITE: PageAccess = PageAccess {
    is_writable: true,
    is_executable: false,
};

/// Bits of a page's record below its page frame number: what is decided here, what is there, what may be done with it.
const MANAGED: u32 = 1;
const PRESENT: u32 = 2;
const WRITABLE: u32 = 4;
const EXECUTABLE: u32 = 8;
const FRAME_SHIFT: u32 = 4;
const _: () = assert!((layout::RAM_BASE + layout::RAM_MAX) / PAGE_SIZE < 1 << (32 - FRAME_SHIFT));

/// The pages of a page table.
#[derive(Debug)]
struct Table {
    first_entry: u64,
    pages: Vec<u32>,
}

/// By the first address.
static TABLES: Global<BTreeMap<u64, Table>> = Global::new("page tables", BTreeMap::new());

/// A page that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped {
    /// Guest-physical address of the page.
    pub(crate) physical: u64,
    /// What may be done with it.
    pub(crate) access: PageAccess,
}

/// Forgets everything.
pub(crate) fn initialize() {
    TABLES.with(BTreeMap::clear);
}

/// The first address of the table that an address lies in.
fn table_of(address: u64) -> u64 {
    let base = shared::kernel_base();
    match address.checked_sub(base) {
        Some(offset) => base + offset / entries::TABLE_BYTES * entries::TABLE_BYTES,
        None => address / entries::TABLE_BYTES * entries::TABLE_BYTES,
    }
}

/// Index of the entry of a kernel address in a table that is there from the start.
fn kernel_entry(address: u64) -> Option<u64> {
    let offset = address.checked_sub(shared::kernel_base())?;
    let window = |start: u64, bytes: u64, first: u64| {
        let inside = offset.checked_sub(start).filter(|&inside| inside < bytes)?;
        Some(first + inside / PAGE_SIZE)
    };
    window(
        layout::IO_WINDOW,
        layout::IO_WINDOW_SIZE,
        entries::IO_WINDOW,
    )
    .or_else(|| {
        window(
            layout::USER_ALIAS,
            shared::user_bytes(),
            entries::USER_ALIAS,
        )
    })
}

/// Index of the first entry of the table at `start`, which the VMM makes if it has to.
fn first_entry(start: u64) -> Result<u64, NtStatus> {
    if start >= shared::kernel_base() {
        return kernel_entry(start).ok_or(NtStatus::CONFLICTING_ADDRESSES);
    }
    let [status, entry, ..] =
        shared::platform().doorbell(Call::MapUserTable, [start, 0, 0, 0, 0, 0]);
    match NtStatus(low32(status)) {
        status if status.is_success() => Ok(entry),
        status => Err(status),
    }
}

/// Makes the tables of a range, so that its pages can be mapped.
///
/// # Errors
/// CONFLICTING_ADDRESSES: the VMM has mapped something there, or there are no more tables.
pub(crate) fn prepare(address: u64, bytes: u64) -> Result<(), NtStatus> {
    let mut start = table_of(address);
    while start < address + bytes {
        if !TABLES.with(|tables| tables.contains_key(&start)) {
            let table = Table {
                first_entry: first_entry(start)?,
                pages: alloc::vec![0; to_usize(entries::PER_TABLE)],
            };
            TABLES.with(|tables| tables.insert(start, table));
        }
        start += entries::TABLE_BYTES;
    }
    Ok(())
}

/// Calls `each` for the parts of a range that lie in one table: index of the first entry, address, pages. `record` makes
/// the pages' new records.
fn change(
    address: u64,
    pages: u64,
    record: impl Fn(u64) -> u32,
    mut each: impl FnMut(u64, u64, u64),
) {
    let mut done = 0;
    while done < pages {
        let at = address + done * PAGE_SIZE;
        let start = table_of(at);
        let index = (at - start) / PAGE_SIZE;
        let count = (entries::PER_TABLE - index).min(pages - done);
        let first = TABLES.with(|tables| {
            let table = tables.get_mut(&start)?;
            let slots = table.pages.iter_mut().skip(to_usize(index));
            for (slot, page) in slots.take(to_usize(count)).zip(done..) {
                *slot = record(page);
            }
            Some(table.first_entry + index)
        });
        if let Some(first) = first {
            each(first, at, count);
        }
        done += count;
    }
}

/// Maps contiguous pages of RAM at an address whose tables are there ([`prepare`]).
pub(crate) fn map(address: u64, physical: u64, pages: u64, access: PageAccess) {
    let mut bits = MANAGED | PRESENT;
    if access.is_writable {
        bits |= WRITABLE;
    }
    if access.is_executable {
        bits |= EXECUTABLE;
    }
    let frame = physical / PAGE_SIZE;
    change(
        address,
        pages,
        |page| low32(frame + page) << FRAME_SHIFT | bits,
        |entry, at, count| {
            let from = physical + (at - address);
            shared::platform().map_pages(entry, at, from, count, access);
        },
    );
}

/// Makes pages absent.
pub(crate) fn unmap(address: u64, pages: u64) {
    change(
        address,
        pages,
        |_| 0,
        |entry, at, count| shared::platform().unmap_pages(entry, at, count),
    );
}

/// Makes pages of the clients' alias absent, until they are restored.
pub(crate) fn hide(address: u64, pages: u64) {
    unmap(address, pages);
    change(address, pages, |_| MANAGED, |_, _, _| {});
}

/// Makes pages of the clients' alias what they were at first.
pub(crate) fn restore(address: u64, physical: u64, pages: u64) {
    map(address, physical, pages, READ_WRITE);
    change(address, pages, |_| 0, |_, _, _| {});
}

/// Index of the entry of an address, if its table is there.
pub(crate) fn entry_of(address: u64) -> Option<u64> {
    let start = table_of(address);
    let index = (address - start) / PAGE_SIZE;
    TABLES
        .with(|tables| tables.get(&start).map(|table| table.first_entry + index))
        .or_else(|| kernel_entry(address))
}

/// What is at an address: `None` if that is not decided here, `Some(None)` if nothing is.
pub(crate) fn lookup(address: u64) -> Option<Option<Mapped>> {
    let start = table_of(address);
    let record = TABLES.with(|tables| {
        let table = tables.get(&start)?;
        table
            .pages
            .get(to_usize((address - start) / PAGE_SIZE))
            .copied()
    })?;
    if record & MANAGED == 0 {
        return None;
    }
    let mapped = Mapped {
        physical: u64::from(record >> FRAME_SHIFT) * PAGE_SIZE,
        access: PageAccess {
            is_writable: record & WRITABLE != 0,
            is_executable: record & EXECUTABLE != 0,
        },
    };
    Some((record & PRESENT != 0).then_some(mapped))
}
