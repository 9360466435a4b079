//! The cache manager: pages of files, read and written by paging requests to the file system driver itself.
//!
//! Pages are in blocks of pool, one or several in a block. They are read when they are touched first, or ahead of a reader
//! that goes through the file ([`read_ahead`]), and written by a flush, by write-through, by the lazy writer ([`lazy`]),
//! when too many are dirty, and when the last user of a cache goes.

pub mod api;
mod copy;
pub mod lazy;
pub mod pin;
pub mod read_ahead;

use alloc::collections::BTreeMap;
use alloc::collections::btree_map;
use alloc::vec::Vec;

use crate::ex::pool::{self, Wanted};
use crate::io::build::paging_io;
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IRP_MJ_READ, IRP_MJ_WRITE, NtStatus};
use crate::ob::{self, ObjectType};
use crate::ps;
use crate::raw::{Global, Ptr, Word, from_word, low32};
use crate::shared;
use abi::trace::Entry;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Dirty pages above which writers are held up: 4 MiB.
const DIRTY_LIMIT: u64 = 1024;
const TAG: u32 = u32::from_le_bytes(*b"CcPg");

/// SECTION_OBJECT_POINTERS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SECTION_OBJECT_POINTERS {
    /// Mapped as data.
    pub DataSectionObject: Word,
    /// Cached.
    pub SharedCacheMap: Word,
    /// Mapped as an image.
    pub ImageSectionObject: Word,
}

/// CC_FILE_SIZES.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct CC_FILE_SIZES {
    /// Bytes allocated.
    pub AllocationSize: u64,
    /// Bytes of the file.
    pub FileSize: u64,
    /// Bytes that were ever written.
    pub ValidDataLength: u64,
}

/// CACHE_MANAGER_CALLBACKS.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct CACHE_MANAGER_CALLBACKS {
    /// (Context, Wait)
    pub AcquireForLazyWrite: Word,
    /// (Context)
    pub ReleaseFromLazyWrite: Word,
    /// (Context, Wait)
    pub AcquireForReadAhead: Word,
    /// (Context)
    pub ReleaseFromReadAhead: Word,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    address: Ptr<u8>,
    /// The block of pool that it is in.
    block: Ptr<u8>,
    is_dirty: bool,
    /// MDLs and pinned or mapped ranges over it.
    pins: u32,
    /// Requests that write it now, and the thread of the last.
    writes: u32,
    writer: u64,
}

#[derive(Debug)]
struct Cache {
    /// The file that paging requests go to; referenced.
    file: Ptr<FILE_OBJECT>,
    sizes: CC_FILE_SIZES,
    callbacks: CACHE_MANAGER_CALLBACKS,
    context: u64,
    /// By FILE_OBJECT, with what each has read.
    users: BTreeMap<u64, read_ahead::Reader>,
    pages: BTreeMap<u64, Page>,
    /// Blocks of several pages: how many of them are in use.
    blocks: BTreeMap<u64, u64>,
    is_read_ahead: bool,
    is_written_behind: bool,
}

impl Cache {
    /// Takes a page out; its block, if nothing else is in there, is to be freed.
    fn take(&mut self, index: u64) -> Option<Ptr<u8>> {
        let page = self.pages.remove(&index)?;
        self.leave(page.block)
    }

    /// A page of a block is no longer in it; the block, if it was the last one.
    fn leave(&mut self, block: Ptr<u8>) -> Option<Ptr<u8>> {
        let Some(left) = self.blocks.get_mut(&block.addr()) else {
            return Some(block);
        };
        *left -= 1;
        if *left > 0 {
            return None;
        }
        self.blocks.remove(&block.addr());
        Some(block)
    }
}

/// By the address of the file's SECTION_OBJECT_POINTERS.
static CACHES: Global<BTreeMap<u64, Cache>> = Global::new("file caches", BTreeMap::new());

/// Forgets every cache.
pub(crate) fn initialize() {
    CACHES.with(BTreeMap::clear);
    api::initialize();
    read_ahead::initialize();
    lazy::initialize();
    pin::initialize();
}

fn with<R>(key: u64, change: impl FnOnce(&mut Cache) -> R) -> Option<R> {
    CACHES.with(|caches| caches.get_mut(&key).map(change))
}

fn key_of(file: Ptr<FILE_OBJECT>) -> u64 {
    from_word(file.read().SectionObjectPointer)
}

/// Dirty pages that the lazy writer may write.
fn dirty_pages() -> u64 {
    CACHES.with(|caches| {
        let dirty = |cache: &Cache| cache.pages.values().filter(|page| page.is_dirty).count();
        let caches = caches.values().filter(|cache| cache.is_written_behind);
        caches.map(dirty).sum::<usize>() as u64
    })
}

fn resident(key: u64, index: u64) -> Option<Ptr<u8>> {
    with(key, |cache| {
        cache.pages.get(&index).map(|page| page.address)
    })
    .flatten()
}

/// The page number `index` of a file. One that is to be overwritten completely is not read.
fn page(key: u64, index: u64, is_overwritten: bool) -> Result<Ptr<u8>, NtStatus> {
    if let Some(address) = resident(key, index) {
        return Ok(address);
    }
    let block = fetch(key, index, 1, is_overwritten)?;
    adopt(key, index, 1, block);
    resident(key, index).ok_or(NtStatus::INVALID_PARAMETER)
}

/// A new block for pages of a file.
fn new_block(pages: u64) -> Result<Ptr<u8>, NtStatus> {
    let bytes = pages * PAGE;
    let block = pool::allocate_wanted(&Wanted {
        bytes,
        tag: TAG,
        owner: pool::SHIM,
        is_paged: false,
        is_page_aligned: true,
    });
    let block = block.non_null().ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    block.fill(0, bytes);
    Ok(block)
}

/// Reads pages into a new block, by one request, unless they are to be overwritten completely.
fn fetch(key: u64, first: u64, count: u64, is_overwritten: bool) -> Result<Ptr<u8>, NtStatus> {
    let (file, valid) = with(key, |cache| (cache.file, cache.sizes.ValidDataLength))
        .ok_or(NtStatus::INVALID_PARAMETER)?;
    let start = first * PAGE;
    let block = new_block(count)?;
    // What was never written reads as zeros.
    let known = valid.saturating_sub(start).min(count * PAGE);
    if is_overwritten || known == 0 {
        return Ok(block);
    }
    let bytes = low32(known.next_multiple_of(PAGE));
    match paging_io(file, IRP_MJ_READ, block, bytes, start) {
        Ok(_) | Err(NtStatus::END_OF_FILE) => {}
        Err(status) => {
            pool::free(block, TAG);
            return Err(status);
        }
    }
    block.add_bytes(known).fill(0, count * PAGE - known);
    Ok(block)
}

/// Makes the pages in a block the file's, but for those that another thread has brought in meanwhile.
fn adopt(key: u64, first: u64, count: u64, block: Ptr<u8>) {
    let used = with(key, |cache| {
        let mut used = 0;
        for number in 0..count {
            if let btree_map::Entry::Vacant(place) = cache.pages.entry(first + number) {
                place.insert(Page {
                    address: block.add_bytes(number * PAGE),
                    block,
                    is_dirty: false,
                    pins: 0,
                    writes: 0,
                    writer: 0,
                });
                used += 1;
            }
        }
        if count > 1 && used > 0 {
            cache.blocks.insert(block.addr(), used);
        }
        used
    });
    if used.unwrap_or(0) == 0 {
        pool::free(block, TAG);
    }
}

/// The pages of a range with what of each is in it: number, offset in the page, bytes.
fn parts(offset: u64, bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset.saturating_add(bytes);
    let mut at = offset;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let inside = at % PAGE;
        let length = (PAGE - inside).min(end - at);
        let part = (at / PAGE, inside, length);
        at += length;
        Some(part)
    })
}

fn set_dirty(key: u64, index: u64) {
    let is_written_behind = with(key, |cache| {
        if let Some(page) = cache.pages.get_mut(&index) {
            page.is_dirty = true;
        }
        cache.is_written_behind
    });
    if is_written_behind == Some(true) {
        lazy::arm();
    }
}

/// A dirty page is about to be written: where it is. What is written to it meanwhile makes it dirty again.
fn begin_write(key: u64, index: u64) -> Option<Ptr<u8>> {
    let thread = ps::current_thread().addr();
    with(key, |cache| {
        let page = cache.pages.get_mut(&index).filter(|page| page.is_dirty)?;
        page.is_dirty = false;
        page.writes += 1;
        page.writer = thread;
        Some(page.address)
    })
    .flatten()
}

fn end_write(key: u64, index: u64, is_written: bool) {
    with(key, |cache| {
        if let Some(page) = cache.pages.get_mut(&index) {
            page.writes = page.writes.saturating_sub(1);
            page.is_dirty |= !is_written;
        }
        if is_written {
            let end = ((index + 1) * PAGE).min(cache.sizes.FileSize);
            cache.sizes.ValidDataLength = cache.sizes.ValidDataLength.max(end);
        }
    });
    event::progress();
}

/// Writes the dirty pages of a range, `None` for all; the bytes that were written.
fn flush(key: u64, range: Option<(u64, u64)>) -> Result<u64, NtStatus> {
    let dirty = with(key, |cache| {
        let is_meant = |index: u64| {
            range.is_none_or(|(start, bytes)| {
                (index + 1) * PAGE > start && index * PAGE < start.saturating_add(bytes)
            })
        };
        let pages = cache.pages.iter();
        let dirty = pages.filter(|&(&index, page)| page.is_dirty && is_meant(index));
        let dirty: Vec<u64> = dirty.map(|(&index, _)| index).collect();
        (cache.file, dirty)
    });
    let Some((file, dirty)) = dirty else {
        return Ok(0);
    };
    let mut written = 0;
    for index in dirty {
        // Another thread may have written it meanwhile.
        let Some(address) = begin_write(key, index) else {
            continue;
        };
        let result = paging_io(file, IRP_MJ_WRITE, address, low32(PAGE), index * PAGE);
        end_write(key, index, result.is_ok());
        result?;
        written += PAGE;
    }
    Ok(written)
}

/// As the lazy writer: flushes between the file system's callbacks.
fn flush_lazily(key: u64) {
    let Some((callbacks, context)) = with(key, |cache| (cache.callbacks, cache.context)) else {
        return;
    };
    let call = |routine: Word, arguments: &[u64]| {
        routine == 0 || shared::call_driver(Entry::Other, from_word(routine), arguments) & 0xFF != 0
    };
    if call(callbacks.AcquireForLazyWrite, &[context, 1]) {
        // NT loses what cannot be written, too, and logs it.
        let _ = flush(key, None);
        call(callbacks.ReleaseFromLazyWrite, &[context]);
    }
}

/// Throws pages of a range away, `None` for all; those that are in use stay: false. Waits for writes that are under way.
fn purge(key: u64, range: Option<(u64, u64)>) -> bool {
    let (start, end) = range.map_or((0, u64::MAX), |(start, bytes)| {
        (start, start.saturating_add(bytes))
    });
    let is_meant = move |index: u64| index * PAGE < end && (index + 1) * PAGE > start;
    let thread = ps::current_thread().addr();
    let is_written = || {
        with(key, |cache| {
            let mut pages = cache.pages.iter();
            // A file system that purges what it is being asked to write would wait for itself.
            pages.any(|(&index, page)| is_meant(index) && page.writes > 0 && page.writer != thread)
        }) == Some(true)
    };
    if is_written() {
        event::wait_until(u64::MAX, || !is_written());
    }
    let (gone, is_complete) = with(key, |cache| {
        let pages = cache.pages.iter().filter(|&(&index, _)| is_meant(index));
        let meant: Vec<(u64, bool)> = pages
            .map(|(&index, page)| (index, page.pins > 0 || page.writes > 0))
            .collect();
        let is_complete = meant.iter().all(|&(_, is_used)| !is_used);
        let unused = meant.into_iter().filter(|&(_, is_used)| !is_used);
        let gone: Vec<Ptr<u8>> = unused.filter_map(|(index, _)| cache.take(index)).collect();
        (gone, is_complete)
    })
    .unwrap_or((Vec::new(), true));
    for block in gone {
        pool::free(block, TAG);
    }
    is_complete
}

/// Starts to cache a file, or adds a user.
fn open(
    file: Ptr<FILE_OBJECT>,
    sizes: CC_FILE_SIZES,
    callbacks: CACHE_MANAGER_CALLBACKS,
    context: u64,
) {
    let key = key_of(file);
    let is_new = CACHES.with(|caches| {
        let is_new = !caches.contains_key(&key);
        let cache = caches.entry(key).or_insert(Cache {
            file,
            sizes,
            callbacks,
            context,
            users: BTreeMap::new(),
            pages: BTreeMap::new(),
            blocks: BTreeMap::new(),
            is_read_ahead: true,
            is_written_behind: true,
        });
        cache.users.entry(file.addr()).or_default();
        is_new
    });
    if is_new {
        ob::reference(file.addr());
    }
    Ptr::<SECTION_OBJECT_POINTERS>::new(key).with(|pointers| {
        pointers.SharedCacheMap = crate::raw::to_word(key);
    });
    file.with(|fields| fields.PrivateCacheMap = fields.SectionObjectPointer);
}

/// A user goes; with the last one the cache. Whether it was the last one.
fn close(file: Ptr<FILE_OBJECT>, truncate: Option<u64>) -> bool {
    let key = key_of(file);
    file.with(|file| file.PrivateCacheMap = 0);
    let is_last = with(key, |cache| {
        cache.users.remove(&file.addr());
        cache.users.is_empty()
    });
    if is_last != Some(true) {
        return false;
    }
    if let Some(size) = truncate {
        truncate_to(key, size);
    }
    tear_down(key)
}

/// All users go (UninitializeCacheMaps).
fn leave_all(key: u64) {
    let users = with(key, |cache| core::mem::take(&mut cache.users)).unwrap_or_default();
    for &user in users.keys() {
        if ob::type_of(user) == Some(ObjectType::File) {
            Ptr::<FILE_OBJECT>::new(user).with(|file| file.PrivateCacheMap = 0);
        }
    }
}

/// Writes what is dirty and forgets a cache, if it has no users.
fn tear_down(key: u64) -> bool {
    let is_unused = || with(key, |cache| cache.users.is_empty()) == Some(true);
    if !is_unused() {
        return false;
    }
    flush_lazily(key);
    // The file may have been opened again meanwhile.
    if !is_unused() {
        return false;
    }
    purge(key, None);
    let Some(cache) = CACHES.with(|caches| caches.remove(&key)) else {
        return false;
    };
    Ptr::<SECTION_OBJECT_POINTERS>::new(key).with(|pointers| pointers.SharedCacheMap = 0);
    ob::dereference(cache.file.addr());
    true
}

/// Forgets what is beyond a new end.
fn truncate_to(key: u64, size: u64) {
    purge(key, Some((size.next_multiple_of(PAGE), u64::MAX)));
    if let Some(address) = resident(key, size / PAGE) {
        address.add_bytes(size % PAGE).fill(0, PAGE - size % PAGE);
    }
}
