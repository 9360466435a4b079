//! The cache manager's exports.

use alloc::vec::Vec;

use super::{
    CACHE_MANAGER_CALLBACKS, CC_FILE_SIZES, DIRTY_LIMIT, PAGE, SECTION_OBJECT_POINTERS, close,
    copy, dirty_pages, flush, key_of, lazy, leave_all, open, purge, read_ahead, tear_down,
    truncate_to, with,
};
use crate::api::nt_api;
use crate::ex::pool;
use crate::fsrtl::status::normalize;
use crate::io::build::paging_io;
use crate::ke::event::KeSetEvent;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, IRP_MJ_WRITE, KEVENT, MDL, NtStatus};
use crate::raw::{Global, Ptr, Word, low32, to_word};
use crate::rtl::raise_status;
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::trace::Entry;

/// FO_WRITE_THROUGH.
const WRITE_THROUGH: u32 = 0x10;
/// Longest write that never makes the cache flush first.
const WONT_FLUSH: u32 = 0x1_0000;

/// Writes that CcDeferWrite holds back: routine and its two contexts.
static DEFERRED: Global<Vec<[u64; 3]>> = Global::new("deferred writes", Vec::new());

pub(super) fn initialize() {
    DEFERRED.with(Vec::clear);
}

/// Raises what a file system driver's paging request came to.
pub(super) fn raised<T>(result: Result<T, NtStatus>) -> T {
    match result {
        Ok(value) => value,
        Err(status) => raise_status(normalize(status, NtStatus::UNEXPECTED_IO_ERROR)),
    }
}

pub(super) fn put(block: Ptr<IO_STATUS_BLOCK>, result: Result<u64, NtStatus>) {
    if !block.is_null() {
        let (status, information) = match result {
            Ok(bytes) => (NtStatus::SUCCESS, bytes),
            Err(status) => (status, 0),
        };
        block.write(IO_STATUS_BLOCK {
            Status: to_word(u64::from(status.0)),
            Information: to_word(information),
        });
    }
}

/// Whether so much more may be made dirty.
fn has_room(bytes: u32) -> bool {
    dirty_pages() + u64::from(bytes).div_ceil(PAGE) <= DIRTY_LIMIT
}

/// Writes everything that is dirty, and lets the writes begin that waited for that.
fn make_room() {
    lazy::write_all();
    for [routine, first, second] in DEFERRED.with(core::mem::take) {
        shared::call_driver(Entry::Other, routine, &[first, second]);
    }
}

fn write(file: Ptr<FILE_OBJECT>, offset: u64, bytes: u32, buffer: Option<Ptr<u8>>) {
    let key = key_of(file);
    raised(copy::write(key, offset, u64::from(bytes), buffer));
    if file.read().Flags & WRITE_THROUGH != 0 {
        raised(flush(key, Some((offset, u64::from(bytes)))));
    }
}

/// Most bytes of zeros in one request.
const ZEROS: u64 = 0x1_0000;

/// Writes zeros to a file that is not cached: non-cached requests, each waited for.
fn write_zeros(file: Ptr<FILE_OBJECT>, start: u64, end: u64) -> Result<(), NtStatus> {
    let room = end.saturating_sub(start).min(ZEROS);
    if room == 0 {
        return Ok(());
    }
    let zeros = pool::allocate_zeroed(room, *b"CcZr").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let mut at = start;
    let mut result = Ok(());
    while at < end && result.is_ok() {
        let bytes = (end - at).min(room);
        result = paging_io(file, IRP_MJ_WRITE, zeros, low32(bytes), at).map(drop);
        at += bytes;
    }
    pool::free(zeros, 0);
    result
}

nt_api! { module = cc;
    /// Starts to cache a file, whose SectionObjectPointer the driver has set; raises if it has none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcInitializeCacheMap(
        file_object: Ptr<FILE_OBJECT>,
        file_sizes: Ptr<CC_FILE_SIZES>,
        pin_access: Boolean,
        callbacks: Ptr<CACHE_MANAGER_CALLBACKS>,
        lazy_write_context: Ptr<u8>,
    ) {
        let (sizes, callbacks) = (file_sizes.read(), callbacks.read());
        if file_object.read().SectionObjectPointer == 0 {
            raise_status(NtStatus::INVALID_PARAMETER);
        }
        open(file_object, sizes, callbacks, lazy_write_context.addr());
    }

    /// A file is no longer cached; TRUE if it was the last one of its stream: what is dirty was written.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcUninitializeCacheMap(
        file_object: Ptr<FILE_OBJECT>,
        truncate_size: Ptr<u64>,
        uninitialize_event: Ptr<u8>,
    ) -> Boolean {
        let truncate = truncate_size.non_null().map(Ptr::read);
        let is_last = file_object.read().SectionObjectPointer != 0 && close(file_object, truncate);
        if !uninitialize_event.is_null() {
            // CACHE_UNINITIALIZE_EVENT: a link, then the event.
            let event = uninitialize_event.add_bytes(size_of::<Word>() as u64).cast::<KEVENT>();
            KeSetEvent(event, 0, false);
        }
        is_last
    }

    /// Copies from the cache. FALSE: it would have to wait and may not. Raises what the file system failed with.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcCopyRead(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        wait: Boolean,
        buffer: Ptr<u8>,
        io_status: Ptr<IO_STATUS_BLOCK>,
    ) -> Boolean {
        let (key, offset, bytes) = (key_of(file_object), file_offset.read(), u64::from(length));
        if !wait && !copy::is_resident(key, offset, bytes) {
            return false;
        }
        raised(copy::read(key, offset, bytes, buffer));
        read_ahead::note(file_object, offset, bytes);
        put(io_status, Ok(bytes));
        true
    }

    /// As CcCopyRead, waiting, with a 32-bit offset.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcFastCopyRead(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: ULong,
        length: ULong,
        page_count: ULong,
        buffer: Ptr<u8>,
        io_status: Ptr<IO_STATUS_BLOCK>,
    ) {
        raised(copy::read(key_of(file_object), u64::from(file_offset), u64::from(length), buffer));
        read_ahead::note(file_object, u64::from(file_offset), u64::from(length));
        put(io_status, Ok(u64::from(length)));
    }

    /// Copies to the cache. FALSE: it would have to wait and may not.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcCopyWrite(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        wait: Boolean,
        buffer: Ptr<u8>,
    ) -> Boolean {
        let offset = file_offset.read();
        let must_wait = file_object.read().Flags & WRITE_THROUGH != 0
            || !copy::is_writable_now(key_of(file_object), offset, u64::from(length));
        if !wait && must_wait {
            return false;
        }
        write(file_object, offset, length, Some(buffer));
        true
    }

    /// As CcCopyWrite, waiting, with a 32-bit offset.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcFastCopyWrite(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: ULong,
        length: ULong,
        buffer: Ptr<u8>,
    ) {
        write(file_object, u64::from(file_offset), length, Some(buffer));
    }

    /// Whether a write of that length needs no flush first.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcCopyWriteWontFlush(file_object: Ptr<FILE_OBJECT>, file_offset: Ptr<u64>, length: ULong) -> Boolean {
        length <= WONT_FLUSH
    }

    /// Writes zeros from one offset up to another; to a file that is not cached by non-cached requests. FALSE: it would
    /// have to wait and may not.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcZeroData(
        file_object: Ptr<FILE_OBJECT>,
        start_offset: Ptr<u64>,
        end_offset: Ptr<u64>,
        wait: Boolean,
    ) -> Boolean {
        let (start, end) = (start_offset.read(), end_offset.read());
        if file_object.read().PrivateCacheMap == 0 {
            if wait {
                raised(write_zeros(file_object, start, end));
            }
            return wait;
        }
        let bytes = end.saturating_sub(start);
        if !wait && !copy::is_writable_now(key_of(file_object), start, bytes) {
            return false;
        }
        let key = key_of(file_object);
        raised(copy::write(key, start, bytes, None));
        if file_object.read().Flags & WRITE_THROUGH != 0 {
            raised(flush(key, Some((start, bytes))));
        }
        true
    }

    /// MDLs over cached data, a chain; CcMdlReadComplete frees it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcMdlRead(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        mdl_chain: Ptr<Ptr<MDL>>,
        io_status: Ptr<IO_STATUS_BLOCK>,
    ) {
        let bytes = u64::from(length);
        let offset = file_offset.read();
        mdl_chain.write(raised(copy::map(key_of(file_object), offset, bytes, false)));
        read_ahead::note(file_object, offset, bytes);
        put(io_status, Ok(bytes));
    }

    /// Frees the MDLs of CcMdlRead.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcMdlReadComplete(file_object: Ptr<FILE_OBJECT>, mdl_chain: Ptr<MDL>) {
        copy::unmap(key_of(file_object), mdl_chain, false);
    }

    /// MDLs over cached data that is to be written.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcPrepareMdlWrite(
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: ULong,
        mdl_chain: Ptr<Ptr<MDL>>,
        io_status: Ptr<IO_STATUS_BLOCK>,
    ) {
        let bytes = u64::from(length);
        mdl_chain.write(raised(copy::map(key_of(file_object), file_offset.read(), bytes, true)));
        put(io_status, Ok(bytes));
    }

    /// The data behind the MDLs of CcPrepareMdlWrite is written; frees them.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcMdlWriteComplete(file_object: Ptr<FILE_OBJECT>, file_offset: Ptr<u64>, mdl_chain: Ptr<MDL>) {
        let key = key_of(file_object);
        copy::unmap(key, mdl_chain, true);
        if file_object.read().Flags & WRITE_THROUGH != 0 {
            raised(flush(key, None));
        }
    }

    /// Frees the MDLs of CcPrepareMdlWrite; nothing is written.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcMdlWriteAbort(file_object: Ptr<FILE_OBJECT>, mdl_chain: Ptr<MDL>) {
        copy::unmap(key_of(file_object), mdl_chain, false);
    }

    /// Writes what is dirty, in a range or (offset NULL) everywhere; the status and bytes written.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcFlushCache(
        section_object_pointer: Ptr<SECTION_OBJECT_POINTERS>,
        file_offset: Ptr<u64>,
        length: ULong,
        io_status: Ptr<IO_STATUS_BLOCK>,
    ) {
        let start = file_offset.non_null().map(Ptr::read);
        // No length: to the end.
        let bytes = if length == 0 { u64::MAX } else { u64::from(length) };
        put(io_status, flush(section_object_pointer.addr(), start.map(|start| (start, bytes))));
    }

    /// Throws cached data away, in a range or everywhere. FALSE: some is in use. With UninitializeCacheMaps (1) the files
    /// are no longer cached either.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcPurgeCacheSection(
        section_object_pointer: Ptr<SECTION_OBJECT_POINTERS>,
        file_offset: Ptr<u64>,
        length: ULong,
        flags: ULong,
    ) -> Boolean {
        let key = section_object_pointer.addr();
        let start = file_offset.non_null().map(Ptr::read);
        let bytes = if length == 0 { u64::MAX } else { u64::from(length) };
        let uninitialize = flags & 1 != 0;
        if uninitialize {
            leave_all(key);
        }
        let is_complete = purge(key, start.map(|start| (start, bytes)));
        if uninitialize && is_complete {
            tear_down(key);
        }
        is_complete
    }

    /// A file's sizes have changed; what is beyond a shorter file's end is forgotten.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcSetFileSizes(file_object: Ptr<FILE_OBJECT>, file_sizes: Ptr<CC_FILE_SIZES>) {
        let (key, sizes) = (key_of(file_object), file_sizes.read());
        let old = with(key, |cache| {
            let old = cache.sizes.FileSize;
            let valid = cache.sizes.ValidDataLength.min(sizes.FileSize);
            cache.sizes = CC_FILE_SIZES { ValidDataLength: valid, ..sizes };
            old
        });
        if old.is_some_and(|old| sizes.FileSize < old) {
            truncate_to(key, sizes.FileSize);
        }
    }

    /// Whether so much may be written now; waits for that, if it may, by writing what is dirty.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcCanIWrite(
        file_object: Ptr<FILE_OBJECT>,
        bytes_to_write: ULong,
        wait: Boolean,
        retrying: Boolean,
    ) -> Boolean {
        if has_room(bytes_to_write) {
            return true;
        }
        if wait {
            make_room();
        }
        wait
    }

    /// Calls a routine with two contexts when so much may be written: at once, or after the next flush for room.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcDeferWrite(
        file_object: Ptr<FILE_OBJECT>,
        post_routine: Ptr<u8>,
        context1: Ptr<u8>,
        context2: Ptr<u8>,
        bytes_to_write: ULong,
        retrying: Boolean,
    ) {
        DEFERRED.with(|all| all.push([post_routine.addr(), context1.addr(), context2.addr()]));
        if has_room(bytes_to_write) {
            for [routine, first, second] in DEFERRED.with(core::mem::take) {
                shared::call_driver(Entry::Other, routine, &[first, second]);
            }
        } else {
            make_room();
        }
    }

    /// Switches read-ahead and write-behind on or off for a file.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcSetAdditionalCacheAttributes(
        file_object: Ptr<FILE_OBJECT>,
        disable_read_ahead: Boolean,
        disable_write_behind: Boolean,
    ) {
        let has_dirty = with(key_of(file_object), |cache| {
            cache.is_read_ahead = !disable_read_ahead;
            cache.is_written_behind = !disable_write_behind;
            cache.pages.values().any(|page| page.is_dirty)
        });
        if has_dirty == Some(true) && !disable_write_behind {
            lazy::arm();
        }
    }

    /// How much is read ahead at least: a power of two, a page or more.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcSetReadAheadGranularity(file_object: Ptr<FILE_OBJECT>, granularity: ULong) {
        read_ahead::set_granularity(file_object, granularity);
    }

    /// Reads ahead of a reader whose reads form a pattern: this is one of them.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcScheduleReadAhead(file_object: Ptr<FILE_OBJECT>, file_offset: Ptr<u64>, length: ULong) {
        read_ahead::note(file_object, file_offset.read(), u64::from(length));
    }

    /// The file that a cache's paging requests go to; NULL: not cached.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcGetFileObjectFromSectionPtrs(
        section_object_pointer: Ptr<SECTION_OBJECT_POINTERS>,
    ) -> Ptr<FILE_OBJECT> {
        with(section_object_pointer.addr(), |cache| cache.file).unwrap_or_default()
    }
}
