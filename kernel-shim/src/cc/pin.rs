//! Mapped and pinned ranges of cached files: file systems work on their own structures in the cache itself.
//!
//! A range of several pages has to be in one block. Pages that are not in use are moved together; a page in use cannot
//! move, so a range that would need it elsewhere is refused with STATUS_INSUFFICIENT_RESOURCES.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::api::{put, raised};
use super::{PAGE, Page, TAG, adopt, fetch, flush, key_of, new_block, page, parts, resident};
use super::{set_dirty, with};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, NtStatus};
use crate::ps;
use crate::raw::{Global, Ptr, Word, from_word, low16};
use crate::value::{Boolean, ULong};

/// PIN_WAIT and MAP_WAIT.
const WAIT: u32 = 1;
/// PIN_EXCLUSIVE.
const EXCLUSIVE: u32 = 2;
/// PIN_NO_READ.
const PIN_NO_READ: u32 = 4;
/// PIN_IF_BCB.
const IF_BCB: u32 = 8;
/// MAP_NO_READ.
const MAP_NO_READ: u32 = 16;
/// CACHE_NTC_BCB.
const NODE_TYPE: i16 = 0x2FD;
const BCB_TAG: [u8; 4] = *b"CcBc";

/// PUBLIC_BCB: what drivers see of a buffer control block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PUBLIC_BCB {
    /// CACHE_NTC_BCB.
    pub NodeTypeCode: i16,
    /// Bytes.
    pub NodeByteSize: i16,
    /// Bytes of the range.
    pub MappedLength: u32,
    /// Where in the file it begins.
    pub MappedFileOffset: u64,
}

/// A thread, or what CcSetBcbOwnerPointer has put in its place, that has a range pinned.
#[derive(Clone, Copy, Debug)]
struct Hold {
    owner: u64,
    is_exclusive: bool,
}

#[derive(Clone, Debug)]
struct Bcb {
    key: u64,
    file: Ptr<FILE_OBJECT>,
    offset: u64,
    bytes: u64,
    address: Ptr<u8>,
    is_pinned: bool,
    /// Unpins that are to come.
    references: u32,
    holds: Vec<Hold>,
}

impl Bcb {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    fn covers(&self, key: u64, offset: u64, bytes: u64) -> bool {
        self.key == key && self.offset <= offset && offset.saturating_add(bytes) <= self.end()
    }

    /// Whether a pin by `owner` has to wait for this one.
    fn excludes(&self, wanted: &Range, owner: u64, is_exclusive: bool) -> bool {
        self.key == wanted.key
            && self.offset < wanted.offset.saturating_add(wanted.bytes)
            && wanted.offset < self.end()
            && self
                .holds
                .iter()
                .any(|hold| hold.owner != owner && (is_exclusive || hold.is_exclusive))
    }
}

/// By the address of the PUBLIC_BCB.
static BCBS: Global<BTreeMap<u64, Bcb>> = Global::new("pinned ranges", BTreeMap::new());

pub(super) fn initialize() {
    BCBS.with(BTreeMap::clear);
}

/// A range of a cached file.
#[derive(Clone, Copy, Debug)]
struct Range {
    file: Ptr<FILE_OBJECT>,
    key: u64,
    offset: u64,
    bytes: u64,
}

impl Range {
    fn new(file: Ptr<FILE_OBJECT>, offset: Ptr<u64>, length: u32) -> Self {
        Self {
            file,
            key: key_of(file),
            offset: offset.read(),
            bytes: u64::from(length).max(1),
        }
    }

    fn is_resident(&self) -> bool {
        parts(self.offset, self.bytes).all(|(index, ..)| resident(self.key, index).is_some())
    }

    fn change_pages(&self, change: impl Fn(&mut Page)) {
        with(self.key, |cache| {
            for (index, ..) in parts(self.offset, self.bytes) {
                if let Some(page) = cache.pages.get_mut(&index) {
                    change(page);
                }
            }
        });
    }
}

/// Where pages are, if they are all there and one behind the other.
fn in_place(key: u64, first: u64, count: u64) -> Option<Ptr<u8>> {
    let start = resident(key, first)?;
    let mut others = (1..count).map(|number| (number, resident(key, first + number)));
    let is_run = others.all(|(number, at)| at == Some(start.add_bytes(number * PAGE)));
    is_run.then_some(start)
}

/// The address of a range, whose pages are brought in and together. With `is_overwritten`, whole pages are not read.
fn gather(range: &Range, is_overwritten: bool) -> Result<Ptr<u8>, NtStatus> {
    let Range {
        key, offset, bytes, ..
    } = *range;
    let all: Vec<(u64, u64, u64)> = parts(offset, bytes).collect();
    let (first, inside) = (offset / PAGE, offset % PAGE);
    let count = all.len() as u64;
    if count > 1
        && !is_overwritten
        && all
            .iter()
            .all(|&(index, ..)| resident(key, index).is_none())
    {
        let block = fetch(key, first, count, false)?;
        adopt(key, first, count, block);
    }
    for &(index, _, length) in &all {
        page(key, index, is_overwritten && length == PAGE)?;
    }
    if let Some(start) = in_place(key, first, count) {
        return Ok(start.add_bytes(inside));
    }
    let block = new_block(count)?;
    let left = with(key, |cache| {
        let pages = (first..first + count).map(|index| cache.pages.get(&index));
        let is_movable =
            |page: Option<&Page>| page.is_some_and(|page| page.pins == 0 && page.writes == 0);
        if !pages.into_iter().all(is_movable) {
            return None;
        }
        let mut left = Vec::new();
        for number in 0..count {
            if let Some(page) = cache.pages.get_mut(&(first + number)) {
                let place = block.add_bytes(number * PAGE);
                place.copy_from(page.address, PAGE);
                page.address = place;
                left.push(core::mem::replace(&mut page.block, block));
            }
        }
        cache.blocks.insert(block.addr(), count);
        Some(
            left.into_iter()
                .filter_map(|old| cache.leave(old))
                .collect::<Vec<_>>(),
        )
    });
    let Some(left) = left.flatten() else {
        pool::free(block, TAG);
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    };
    for old in left {
        pool::free(old, TAG);
    }
    Ok(block.add_bytes(inside))
}

/// A new BCB over a range whose pages are in place; the pages stay as long as it does.
fn make(range: &Range, address: Ptr<u8>, is_pinned: bool) -> Result<Ptr<PUBLIC_BCB>, NtStatus> {
    let block = pool::allocate_zeroed(size_of::<PUBLIC_BCB>() as u64, BCB_TAG)
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let bcb = block.cast::<PUBLIC_BCB>();
    bcb.write(PUBLIC_BCB {
        NodeTypeCode: NODE_TYPE,
        NodeByteSize: low16(size_of::<PUBLIC_BCB>() as u64).cast_signed(),
        MappedLength: crate::raw::low32(range.bytes),
        MappedFileOffset: range.offset,
    });
    range.change_pages(|page| page.pins += 1);
    let new = Bcb {
        key: range.key,
        file: range.file,
        offset: range.offset,
        bytes: range.bytes,
        address,
        is_pinned,
        references: 1,
        holds: Vec::new(),
    };
    BCBS.with(|all| all.insert(bcb.addr(), new));
    Ok(bcb)
}

fn owner() -> u64 {
    ps::current_thread().addr()
}

/// Waits until `owner` may have a range. False: it may not wait.
fn acquire(range: &Range, flags: u32) -> bool {
    let is_exclusive = flags & EXCLUSIVE != 0;
    let owner = owner();
    let is_free = || {
        BCBS.with(|all| {
            !all.values()
                .any(|bcb| bcb.excludes(range, owner, is_exclusive))
        })
    };
    if is_free() {
        return true;
    }
    flags & WAIT != 0 && event::wait_until(u64::MAX, is_free)
}

/// The pinned BCB over a range, if there is one: its address and the address of the range.
fn known(range: &Range) -> Option<(u64, Ptr<u8>)> {
    BCBS.with(|all| {
        let mut all = all.iter();
        let (&at, bcb) =
            all.find(|(_, bcb)| bcb.is_pinned && bcb.covers(range.key, range.offset, range.bytes))?;
        Some((at, bcb.address.add_bytes(range.offset - bcb.offset)))
    })
}

/// Pins a range: the BCB and the address; `None`: that would have to wait, or there is no BCB and only one was wanted.
fn pin(
    range: &Range,
    flags: u32,
    is_overwritten: bool,
) -> Result<Option<(u64, Ptr<u8>)>, NtStatus> {
    if known(range).is_none() {
        let may_read = flags & (PIN_NO_READ | WAIT) == WAIT;
        if flags & IF_BCB != 0 || !may_read && !is_overwritten && !range.is_resident() {
            return Ok(None);
        }
    }
    if !acquire(range, flags) {
        return Ok(None);
    }
    let (bcb, address) = match known(range) {
        Some((bcb, address)) => {
            BCBS.with(|all| all.get_mut(&bcb).map(|bcb| bcb.references += 1));
            (bcb, address)
        }
        None => {
            let address = gather(range, is_overwritten)?;
            (make(range, address, true)?.addr(), address)
        }
    };
    let hold = Hold {
        owner: owner(),
        is_exclusive: flags & EXCLUSIVE != 0,
    };
    BCBS.with(|all| all.get_mut(&bcb).map(|bcb| bcb.holds.push(hold)));
    Ok(Some((bcb, address)))
}

/// Gives a pin back; `None`: one that belongs to nobody (CcRepinBcb).
fn unpin(bcb: u64, owner: Option<u64>) {
    let gone = BCBS.with(|all| {
        let state = all.get_mut(&bcb)?;
        if let Some(owner) = owner {
            let of_owner = state.holds.iter().position(|hold| hold.owner == owner);
            if let Some(position) = of_owner.or_else(|| state.holds.len().checked_sub(1)) {
                state.holds.remove(position);
            }
        }
        state.references -= 1;
        if state.references == 0 {
            all.remove(&bcb)
        } else {
            None
        }
    });
    if let Some(Bcb {
        key,
        file,
        offset,
        bytes,
        ..
    }) = gone
    {
        let range = Range {
            file,
            key,
            offset,
            bytes,
        };
        range.change_pages(|page| page.pins = page.pins.saturating_sub(1));
        pool::free(Ptr::new(bcb), u32::from_le_bytes(BCB_TAG));
    }
    event::progress();
}

fn state_of(bcb: Ptr<u8>) -> Option<Bcb> {
    BCBS.with(|all| all.get(&bcb.addr()).cloned())
}

fn set_dirty_all(bcb: u64) {
    if let Some(Bcb {
        key, offset, bytes, ..
    }) = state_of(Ptr::new(bcb))
    {
        for (index, ..) in parts(offset, bytes) {
            set_dirty(key, index);
        }
    }
}

/// Hands out what was mapped or pinned.
fn give(found: Option<(u64, Ptr<u8>)>, bcb: Ptr<Word>, buffer: Ptr<Ptr<u8>>) -> bool {
    let (at, address) = found.unwrap_or((0, Ptr::null()));
    bcb.write(crate::raw::to_word(at));
    if !buffer.is_null() {
        buffer.write(address);
    }
    found.is_some()
}

nt_api! { module = cc_pin;
    /// Maps a range of a cached file for reading. FALSE: it would have to be read, and may not. Raises what the file system
    /// failed with.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("a range of several pages, of which one is in use elsewhere, is refused")
    fn CcMapData(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        flags: ULong,
        bcb: Ptr<Word>,
        buffer: Ptr<Ptr<u8>>,
    ) -> Boolean {
        let range = Range::new(file_object, file_offset, length);
        let may_read = flags & WAIT != 0 && flags & MAP_NO_READ == 0;
        if !may_read && !range.is_resident() {
            return give(None, bcb, buffer);
        }
        let address = raised(gather(&range, false));
        let made = raised(make(&range, address, false));
        give(Some((made.addr(), address)), bcb, buffer)
    }

    /// Pins what CcMapData has mapped: the BCB becomes that of the pinned range.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcPinMappedData(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        flags: ULong,
        bcb: Ptr<Word>,
    ) -> Boolean {
        let mapped = from_word(bcb.read());
        if state_of(Ptr::new(mapped)).is_some_and(|state| state.is_pinned) {
            return true;
        }
        let range = Range::new(file_object, file_offset, length);
        let Some((pinned, _)) = raised(pin(&range, flags, false)) else { return false };
        bcb.write(crate::raw::to_word(pinned));
        if mapped != 0 {
            unpin(mapped, None);
        }
        true
    }

    /// Maps and pins a range of a cached file. FALSE: it would have to wait and may not, or (PIN_IF_BCB) is not pinned yet.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("a range of several pages, of which one is in use elsewhere, is refused")
    fn CcPinRead(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        flags: ULong,
        bcb: Ptr<Word>,
        buffer: Ptr<Ptr<u8>>,
    ) -> Boolean {
        let range = Range::new(file_object, file_offset, length);
        give(raised(pin(&range, flags, false)), bcb, buffer)
    }

    /// Pins a range that is about to be written, and makes it dirty; pages in whole are not read. Zeroed if `zero`.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("a range of several pages, of which one is in use elsewhere, is refused")
    fn CcPreparePinWrite(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        zero: Boolean,
        flags: ULong,
        bcb: Ptr<Word>,
        buffer: Ptr<Ptr<u8>>,
    ) -> Boolean {
        let range = Range::new(file_object, file_offset, length);
        let is_page = |&(_, _, bytes): &(u64, u64, u64)| bytes == PAGE;
        let is_whole = parts(range.offset, range.bytes).all(|part| is_page(&part));
        if flags & WAIT == 0 && !is_whole && !range.is_resident() {
            return give(None, bcb, buffer);
        }
        let found = raised(pin(&range, flags, true));
        if let Some((pinned, address)) = found {
            if zero {
                address.fill(0, range.bytes);
            }
            set_dirty_all(pinned);
        }
        give(found, bcb, buffer)
    }

    /// What is pinned was written to.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcSetDirtyPinnedData(bcb: Ptr<u8>, lsn: Ptr<u64>) {
        set_dirty_all(bcb.addr());
    }

    /// Gives a mapped or pinned range back.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcUnpinData(bcb: Ptr<u8>) {
        unpin(bcb.addr(), Some(owner()));
    }

    /// As CcUnpinData, of a range that another thread (or owner) has pinned.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcUnpinDataForThread(bcb: Ptr<u8>, resource_thread_id: Ptr<u8>) {
        unpin(bcb.addr(), Some(resource_thread_id.addr()));
    }

    /// Who has a range pinned is no longer this thread, but what the driver says.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcSetBcbOwnerPointer(bcb: Ptr<u8>, owner_pointer: Ptr<u8>) {
        let thread = owner();
        BCBS.with(|all| {
            let mut holds = all.get_mut(&bcb.addr())?.holds.iter_mut();
            let hold = holds.find(|hold| hold.owner == thread)?;
            hold.owner = owner_pointer.addr();
            Some(())
        });
    }

    /// Keeps a pinned range once more, until CcUnpinRepinnedBcb.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcRepinBcb(bcb: Ptr<u8>) {
        BCBS.with(|all| all.get_mut(&bcb.addr()).map(|bcb| bcb.references += 1));
    }

    /// Undoes CcRepinBcb; writes the range first if `write_through`. The status of that.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcUnpinRepinnedBcb(bcb: Ptr<u8>, write_through: Boolean, io_status: Ptr<IO_STATUS_BLOCK>) {
        let result = match state_of(bcb) {
            Some(state) if write_through => flush(state.key, Some((state.offset, state.bytes))),
            _ => Ok(0),
        };
        unpin(bcb.addr(), None);
        put(io_status, result);
    }

    /// A second BCB for a mapped range, with an unpin of its own.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcRemapBcb(bcb: Ptr<u8>) -> Ptr<u8> {
        let Some(Bcb { key, file, offset, bytes, address, .. }) = state_of(bcb) else {
            return Ptr::null();
        };
        raised(make(&Range { file, key, offset, bytes }, address, false)).cast()
    }

    /// The file of a pinned range.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcGetFileObjectFromBcb(bcb: Ptr<u8>) -> Ptr<FILE_OBJECT> {
        state_of(bcb).map(|state| state.file).unwrap_or_default()
    }
}
