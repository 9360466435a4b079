//! The cache manager: pages of files, read and written by paging requests to the file system driver itself.
//!
//! Pages are blocks of pool. They are read when they are touched first, and written by a flush, by write-through, when
//! too many are dirty, and when the last user of a cache goes. NT's lazy writer would do the latter in its own time.

pub mod api;
mod copy;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::ex::pool::{self, Wanted};
use crate::io::build::paging_io;
use crate::nt::{FILE_OBJECT, IRP_MJ_READ, IRP_MJ_WRITE, NtStatus};
use crate::ob;
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
    is_dirty: bool,
    /// MDLs over it.
    pins: u32,
}

#[derive(Debug)]
struct Cache {
    /// The file that paging requests go to; referenced.
    file: Ptr<FILE_OBJECT>,
    sizes: CC_FILE_SIZES,
    callbacks: CACHE_MANAGER_CALLBACKS,
    context: u64,
    users: Vec<u64>,
    pages: BTreeMap<u64, Page>,
}

/// By the address of the file's SECTION_OBJECT_POINTERS.
static CACHES: Global<BTreeMap<u64, Cache>> = Global::new("file caches", BTreeMap::new());

/// Forgets every cache.
pub(crate) fn initialize() {
    CACHES.with(BTreeMap::clear);
    api::initialize();
}

fn with<R>(key: u64, change: impl FnOnce(&mut Cache) -> R) -> Option<R> {
    CACHES.with(|caches| caches.get_mut(&key).map(change))
}

fn key_of(file: Ptr<FILE_OBJECT>) -> u64 {
    from_word(file.read().SectionObjectPointer)
}

fn dirty_pages() -> u64 {
    CACHES.with(|caches| {
        let dirty = |cache: &Cache| cache.pages.values().filter(|page| page.is_dirty).count();
        caches.values().map(dirty).sum::<usize>() as u64
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
    let (file, valid) = with(key, |cache| (cache.file, cache.sizes.ValidDataLength))
        .ok_or(NtStatus::INVALID_PARAMETER)?;
    let address = pool::allocate_wanted(&Wanted {
        bytes: PAGE,
        tag: TAG,
        owner: pool::SHIM,
        is_paged: false,
        is_page_aligned: true,
    });
    let address = address.non_null().ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    address.fill(0, PAGE);
    if !is_overwritten && index * PAGE < valid {
        let bytes = low32(PAGE);
        match paging_io(file, IRP_MJ_READ, address, bytes, index * PAGE) {
            Ok(_) | Err(NtStatus::END_OF_FILE) => {}
            Err(status) => {
                pool::free(address, TAG);
                return Err(status);
            }
        }
        // What was never written reads as zeros.
        let known = (valid - index * PAGE).min(PAGE);
        address.add_bytes(known).fill(0, PAGE - known);
    }
    // Another thread may have brought it in meanwhile.
    let new = Page {
        address,
        is_dirty: false,
        pins: 0,
    };
    let used = with(key, |cache| cache.pages.entry(index).or_insert(new).address);
    if used != Some(address) {
        pool::free(address, TAG);
    }
    used.ok_or(NtStatus::INVALID_PARAMETER)
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
    with(key, |cache| {
        if let Some(page) = cache.pages.get_mut(&index) {
            page.is_dirty = true;
        }
    });
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
        (
            cache.file,
            dirty
                .map(|(&index, page)| (index, page.address))
                .collect::<Vec<_>>(),
        )
    });
    let Some((file, dirty)) = dirty else {
        return Ok(0);
    };
    let mut written = 0;
    for (index, address) in dirty {
        let change = |is_dirty: bool| {
            with(key, |cache| {
                if let Some(page) = cache.pages.get_mut(&index) {
                    page.is_dirty = is_dirty;
                }
            });
        };
        // What is written while the request is under way makes the page dirty again.
        change(false);
        if let Err(status) = paging_io(file, IRP_MJ_WRITE, address, low32(PAGE), index * PAGE) {
            change(true);
            return Err(status);
        }
        written += PAGE;
        with(key, |cache| {
            let end = ((index + 1) * PAGE).min(cache.sizes.FileSize);
            cache.sizes.ValidDataLength = cache.sizes.ValidDataLength.max(end);
        });
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

/// Throws pages of a range away, `None` for all; those that are in use stay: false.
fn purge(key: u64, range: Option<(u64, u64)>) -> bool {
    let (gone, is_complete) = with(key, |cache| {
        let (start, end) = range.map_or((0, u64::MAX), |(start, bytes)| {
            (start, start.saturating_add(bytes))
        });
        let is_meant = |index: u64| index * PAGE < end && (index + 1) * PAGE > start;
        let meant: Vec<_> = cache
            .pages
            .iter()
            .filter(|&(&index, _)| is_meant(index))
            .map(|(&index, page)| (index, page.pins, page.address))
            .collect();
        let mut gone = Vec::new();
        let mut is_complete = true;
        for (index, pins, address) in meant {
            if pins == 0 {
                cache.pages.remove(&index);
                gone.push(address);
            } else {
                is_complete = false;
            }
        }
        (gone, is_complete)
    })
    .unwrap_or((Vec::new(), true));
    for address in gone {
        pool::free(address, TAG);
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
            users: Vec::new(),
            pages: BTreeMap::new(),
        });
        if !cache.users.contains(&file.addr()) {
            cache.users.push(file.addr());
        }
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
        cache.users.retain(|&user| user != file.addr());
        cache.users.is_empty()
    });
    if is_last != Some(true) {
        return false;
    }
    if let Some(size) = truncate {
        truncate_to(key, size);
    }
    flush_lazily(key);
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
