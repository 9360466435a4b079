//! Views of sections, in processes and in system space.
//!
//! A view in a process is a range of user space ([`super::address_space`]), one in system space a range of the I/O window;
//! both map the section's pages, so all views share them. A page of a view that is copied when it is written to is mapped
//! read-only until then. Views of physical memory are in user space as well: the VMM puts in what the policy has.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::address_space::{self, Kind, Page, Place, Range as Mapped};
use super::io_space::{self, Wanted, mapping_at};
use super::protection::{Access, access_of};
use super::section::{self, Section, check_handle};
use super::window;
use crate::api::nt_api;
use crate::nt::bugcheck::{DRIVER_UNMAPPING_INVALID_VIEW, bugcheck_with_text};
use crate::nt::{IO_STATUS_BLOCK, NtStatus};
use crate::ob::{self, ObjectType};
use crate::platform::PageAccess;
use crate::ps;
use crate::raw::{Global, Ptr, Word, from_word, low32, to_usize, to_word};
use crate::value::{Handle, Size, ULong};
use abi::layout::{ALLOCATION_GRANULARITY, HIGHEST_USER_ADDRESS, PAGE_SIZE};

/// SECTION_MAP_WRITE, SECTION_MAP_READ, SECTION_MAP_EXECUTE.
const MAP_WRITE: u32 = 2;
const MAP_READ: u32 = 4;
const MAP_EXECUTE: u32 = 8;
/// SECTION_INHERIT: ViewShare and ViewUnmap.
const INHERIT: core::ops::RangeInclusive<u32> = 1..=2;
/// AllocationType bits that ZwMapViewOfSection knows: MEM_RESERVE, MEM_TOP_DOWN, MEM_LARGE_PAGES, MEM_DOS_LIM.
const ALLOCATION_TYPES: u32 = 0x2000 | 0x10_0000 | 0x2000_0000 | 0x4000_0000;
/// The most that ZeroBits may be.
const ZERO_BITS: u64 = if cfg!(nt_i386) { 21 } else { 53 };

/// A view of a section with pages of its own; it has a reference to the section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct View {
    section: u64,
    /// `None`: in system space.
    process: Option<u32>,
    /// Its first address.
    pub(super) base: u64,
    /// Whole pages.
    pub(super) bytes: u64,
    /// Of the section.
    offset: u64,
    /// PAGE_ protection.
    pub(super) protection: u32,
    access: Access,
}

impl View {
    fn has(&self, process: Option<u32>, address: u64) -> bool {
        self.process == process && address.wrapping_sub(self.base) < self.bytes
    }
}

/// In the order in which they were mapped.
static VIEWS: Global<Vec<View>> = Global::new("views", Vec::new());

/// Forgets everything.
pub(crate) fn initialize() {
    VIEWS.with(Vec::clear);
}

/// The view of a process that an address lies in.
fn find(process: u32, address: u64) -> Option<View> {
    VIEWS.with(|views| {
        let mut all = views.iter();
        all.find(|view| view.has(Some(process), address)).copied()
    })
}

/// The committed pages of a part of a section for a view at its beginning, by their number in the view.
fn pages_of(section: &Section, range: Range, protection: u32) -> BTreeMap<u32, Page> {
    let first = range.offset / PAGE_SIZE;
    let frame = section.physical(range.offset) / PAGE_SIZE;
    let committed = section.committed.iter().skip(to_usize(first));
    let pages = committed.take(to_usize(range.bytes / PAGE_SIZE)).zip(0..);
    pages
        .filter(|&(&is_committed, _)| is_committed)
        .map(|(_, index)| {
            let page = Page {
                protection,
                frame: low32(frame + index),
                is_own: false,
            };
            (low32(index), page)
        })
        .collect()
}

/// Commits pages of a view of a section that was reserved: in all its views.
///
/// # Errors
/// ALREADY_COMMITTED: the section was not reserved only. NO_MEMORY: there is no room for the pages' entries.
pub(super) fn commit(process: u32, start: u64, bytes: u64) -> Result<(), NtStatus> {
    let view = find(process, start).ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
    if !section::is_reserved(view.section) {
        return Err(NtStatus::ALREADY_COMMITTED);
    }
    let from = view.offset + (start - view.base);
    section::commit(view.section, from / PAGE_SIZE, bytes / PAGE_SIZE);
    let Some(section) = section::find(view.section) else {
        return Ok(());
    };
    let all: Vec<View> = VIEWS.with(|views| {
        let of_section = views.iter().filter(|other| other.section == view.section);
        of_section.copied().collect()
    });
    for view in all {
        let part = Range {
            offset: from.max(view.offset),
            bytes: 0,
        };
        let end = (from + bytes).min(view.offset + view.bytes);
        if part.offset >= end {
            continue;
        }
        let count = (end - part.offset) / PAGE_SIZE;
        let first = (part.offset - view.offset) / PAGE_SIZE;
        let frame = section.physical(part.offset) / PAGE_SIZE;
        if view.process.is_none() {
            let at = view.base + first * PAGE_SIZE;
            window::map(at, frame * PAGE_SIZE, count, page_access(view.access));
            continue;
        }
        let page = |index: u32| {
            Some(Page {
                protection: view.protection,
                frame: low32(frame + (u64::from(index) - first)),
                is_own: false,
            })
        };
        address_space::commit(view.base, low32(first), low32(count), view.protection, page)?;
    }
    Ok(())
}

/// What the entries of a view in system space allow.
fn page_access(access: Access) -> PageAccess {
    PageAccess {
        is_writable: access.is_shared_write(),
        is_executable: access.is_executable,
    }
}

/// Whether a page of a view that was made with one protection may have another: no store to what others see, and no code,
/// unless it could do that from the start.
pub(super) fn is_compatible(made: u32, wanted: u32) -> bool {
    const PAGE_EXECUTE: u32 = 0x10;
    let (Some(made), access) = (access_of(made & 0xFF), access_of(wanted & 0xFF)) else {
        return false;
    };
    let is_code = access.is_some_and(|access| access.is_executable) || wanted & PAGE_EXECUTE != 0;
    let is_store = access.is_some_and(Access::is_shared_write);
    (made.is_shared_write() || !is_store) && (made.is_executable || !is_code)
}

/// The protection of a page that has been copied.
pub(super) const fn without_copy(protection: u32) -> u32 {
    const COPIES: u32 = 0x88;
    (protection & !COPIES) | (protection & COPIES) >> 1
}

/// A process ends: its views go.
pub(crate) fn forget_process(process: u32) {
    while let Some(view) = VIEWS.with(|views| {
        let at = views.iter().position(|view| view.process == Some(process));
        at.map(|at| views.remove(at))
    }) {
        // There is nobody to tell what the host could not write.
        let _ = end(&view);
    }
}

/// What becomes of a view that is no longer in the list.
fn end(view: &View) -> Result<(), NtStatus> {
    let mut result = Ok(());
    match view.process {
        Some(_) => address_space::remove(view.base),
        None => io_space::give_back(view.base),
    }
    if view.access.is_shared_write()
        && let Some(section) = section::find(view.section)
    {
        result = section.flush(view.offset, view.bytes);
    }
    ob::dereference(view.section);
    result
}

/// Takes the newest view at an address away; whether there is one.
fn remove(process: Option<u32>, address: u64) -> bool {
    let removed = VIEWS.with(|views| {
        let at = views.iter().rposition(|view| view.has(process, address));
        at.map(|at| views.remove(at))
    });
    if let Some(view) = &removed {
        // NT writes later, too, and nobody learns of an error.
        let _ = end(view);
    }
    removed.is_some()
}

/// A range of a section as it was asked for: NT rounds an offset of physical memory down and sizes up to whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    offset: u64,
    bytes: u64,
}

fn physical_range(offset: u64, bytes: u64) -> Result<Range, NtStatus> {
    let first = offset - offset % PAGE_SIZE;
    let end = offset
        .checked_add(bytes)
        .and_then(|end| end.checked_next_multiple_of(PAGE_SIZE))
        .filter(|_| bytes != 0)
        .ok_or(NtStatus::INVALID_PARAMETER_3)?;
    Ok(Range {
        offset: first,
        bytes: end - first,
    })
}

/// A range of a section with pages; 0 bytes are all that follow.
fn range_of(section: &Section, offset: u64, bytes: u64) -> Result<Range, NtStatus> {
    if !offset.is_multiple_of(ALLOCATION_GRANULARITY) {
        return Err(NtStatus::MAPPED_ALIGNMENT);
    }
    let left = section
        .bytes
        .checked_sub(offset)
        .filter(|&left| left > 0 && bytes <= left)
        .ok_or(NtStatus::INVALID_VIEW_SIZE)?;
    let bytes = if bytes == 0 { left } else { bytes };
    Ok(Range {
        offset,
        bytes: bytes.next_multiple_of(PAGE_SIZE),
    })
}

#[derive(Clone, Copy)]
struct Request {
    section: u64,
    process: u64,
    base: u64,
    zero_bits: u64,
    commit: u64,
    offset: u64,
    bytes: u64,
    inherit: u32,
    allocation_type: u32,
    protection: u32,
}

/// Maps a view for a process; its address, and what part of the section it is.
fn map_view(request: &Request) -> Result<(u64, Range), NtStatus> {
    if request.zero_bits > ZERO_BITS {
        return Err(NtStatus::INVALID_PARAMETER_4);
    }
    if !INHERIT.contains(&request.inherit) {
        return Err(NtStatus::INVALID_PARAMETER_8);
    }
    if request.allocation_type & !ALLOCATION_TYPES != 0 {
        return Err(NtStatus::INVALID_PARAMETER_9);
    }
    let access = access_of(request.protection).ok_or(NtStatus::INVALID_PAGE_PROTECTION)?;
    if request.base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_3);
    }
    if request.bytes != 0 && request.commit > request.bytes {
        return Err(NtStatus::INVALID_PARAMETER_5);
    }
    let (process, _) = check_handle(request.process, ObjectType::Process)?;
    let (body, granted) = check_handle(request.section, ObjectType::Section)?;
    let needed = if access.is_shared_write() {
        MAP_WRITE
    } else {
        MAP_READ
    } | if access.is_executable { MAP_EXECUTE } else { 0 };
    if granted & needed != needed {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if !request.base.is_multiple_of(ALLOCATION_GRANULARITY) {
        return Err(NtStatus::MAPPED_ALIGNMENT);
    }
    let process = ps::id_of(Ptr::new(process)).ok_or(NtStatus::PROCESS_IS_TERMINATING)?;
    let Some(section) = section::find(body) else {
        return map_physical(request, process, access);
    };
    map_pages(&section, body, process, access, request)
}

/// Where the view goes: its address must be a multiple of the granularity, or is anything.
fn place_of(request: &Request) -> Place {
    const TOP_DOWN: u32 = 0x10_0000;
    Place {
        is_top_down: request.allocation_type & TOP_DOWN != 0,
        ..Place::at(request.base)
    }
    .with_zero_bits(request.zero_bits)
}

fn map_physical(request: &Request, process: u32, access: Access) -> Result<(u64, Range), NtStatus> {
    let range = physical_range(request.offset, request.bytes)?;
    let mapped = Mapped::new(process, Kind::Physical, range.bytes, request.protection);
    let base = address_space::insert(place_of(request), mapped)?;
    let wanted = Wanted {
        physical: range.offset,
        bytes: range.bytes,
        is_writable: access.is_writable,
        caching: access.caching,
        kind: io_space::Kind::User,
    };
    match io_space::map_at(&wanted, base) {
        Ok(address) => Ok((address, range)),
        Err(status) => {
            address_space::remove(base);
            Err(status)
        }
    }
}

/// Changes the protection of a view of physical memory, all of it: what it was.
///
/// # Errors
/// INVALID_PAGE_PROTECTION: a part of it, or none that the VMM could map. What the VMM says otherwise.
pub(super) fn protect_physical(
    process: u32,
    base: u64,
    start: u64,
    bytes: u64,
    protection: u32,
) -> Result<u32, NtStatus> {
    let mapping = mapping_at(base).filter(|mapping| (start, bytes) == (base, mapping.bytes));
    let (Some(mapping), Some(access)) = (mapping, access_of(protection)) else {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    };
    let wanted = Wanted {
        physical: mapping.physical,
        bytes,
        is_writable: access.is_writable,
        caching: access.caching,
        kind: mapping.kind,
    };
    io_space::unmap(&mapping);
    io_space::map_at(&wanted, base)?;
    let old = address_space::with(process, base, |_, range| {
        core::mem::replace(&mut range.protection, protection)
    });
    Ok(old.unwrap_or(protection))
}

fn map_pages(
    section: &Section,
    body: u64,
    process: u32,
    access: Access,
    request: &Request,
) -> Result<(u64, Range), NtStatus> {
    let allowed = section.access;
    if access.is_shared_write() && !allowed.is_shared_write()
        || access.is_executable && !allowed.is_executable
    {
        return Err(NtStatus::SECTION_PROTECTION);
    }
    let range = range_of(section, request.offset, request.bytes)?;
    let mapped = Mapped {
        pages: pages_of(section, range, request.protection),
        ..Mapped::new(process, Kind::View, range.bytes, request.protection)
    };
    let base = address_space::insert(place_of(request), mapped)?;
    insert(View {
        section: body,
        process: Some(process),
        base,
        bytes: range.bytes,
        offset: range.offset,
        protection: request.protection,
        access,
    });
    Ok((base, range))
}

fn insert(view: View) {
    ob::reference(view.section);
    VIEWS.with(|views| views.push(view));
}

/// Maps a view in system space: its address and bytes.
fn map_in_system(body: u64, offset: u64, bytes: u64) -> Result<(u64, u64), NtStatus> {
    const READ_WRITE: u32 = 4;
    if ob::type_of(body) != Some(ObjectType::Section) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    // Physical memory is mapped by ZwMapViewOfSection or MmMapIoSpace.
    let section = section::find(body).ok_or(NtStatus::INVALID_VIEW_SIZE)?;
    let range = range_of(&section, offset, bytes)?;
    let base = io_space::reserve(range.bytes).ok_or(NtStatus::NO_MEMORY)?;
    let access = page_access(section.access);
    for &index in pages_of(&section, range, READ_WRITE).keys() {
        let offset = u64::from(index) * PAGE_SIZE;
        window::map(
            base + offset,
            section.physical(range.offset + offset),
            1,
            access,
        );
    }
    insert(View {
        section: body,
        process: None,
        base,
        bytes: range.bytes,
        offset: range.offset,
        protection: READ_WRITE,
        access: section.access,
    });
    Ok((base, range.bytes))
}

fn map_for_system(body: u64, base: Ptr<Word>, size: Ptr<Word>, offset: Ptr<u64>) -> NtStatus {
    let from = offset.non_null().map_or(0, Ptr::read);
    match map_in_system(body, from, from_word(size.read())) {
        Ok((address, bytes)) => {
            base.write(to_word(address));
            size.write(to_word(bytes));
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn unmap_from_system(address: u64) -> NtStatus {
    if !remove(None, address) {
        bugcheck_with_text(
            DRIVER_UNMAPPING_INVALID_VIEW,
            [address, 1, 0, 0],
            format_args!("{address:#x} lies in no view in system space"),
        );
    }
    NtStatus::SUCCESS
}

/// ZwUnmapViewOfSection.
fn unmap_view(process: u64, address: u64) -> NtStatus {
    let process = match check_handle(process, ObjectType::Process) {
        Ok((process, _)) => ps::id_of(Ptr::new(process)),
        Err(status) => return status,
    };
    if process.is_some_and(|process| remove(Some(process), address)) {
        return NtStatus::SUCCESS;
    }
    let physical = process.and_then(|process| {
        address_space::with(process, address, |base, range| (base, range.kind))
    });
    match (physical, mapping_at(address)) {
        (Some((base, Kind::Physical)), Some(mapping)) => {
            io_space::unmap(&mapping);
            address_space::remove(base);
            NtStatus::SUCCESS
        }
        _ => NtStatus::NOT_MAPPED_VIEW,
    }
}

/// ZwFlushVirtualMemory: what was flushed.
fn flush(process: u64, address: u64, bytes: u64) -> Result<(u64, u64), NtStatus> {
    let (process, _) = check_handle(process, ObjectType::Process)?;
    let view = ps::id_of(Ptr::new(process)).and_then(|process| find(process, address));
    let view = view.ok_or(NtStatus::NOT_MAPPED_VIEW)?;
    let section = section::find(view.section)
        .filter(Section::is_file)
        .ok_or(NtStatus::NOT_MAPPED_DATA)?;
    let start = address / PAGE_SIZE * PAGE_SIZE;
    let left = view.base + view.bytes - start;
    let wanted = if bytes == 0 {
        left
    } else {
        (address % PAGE_SIZE)
            .checked_add(bytes)
            .and_then(|bytes| bytes.checked_next_multiple_of(PAGE_SIZE))
            .filter(|&bytes| bytes <= left)
            .ok_or(NtStatus::NOT_MAPPED_VIEW)?
    };
    if view.access.is_shared_write() {
        section.flush(view.offset + (start - view.base), wanted)?;
    }
    Ok((start, wanted))
}

fn map_for_process(
    request: Request,
    base_address: Ptr<Word>,
    section_offset: Ptr<u64>,
    view_size: Ptr<Word>,
) -> NtStatus {
    let request = Request {
        base: from_word(base_address.read()),
        offset: section_offset.non_null().map_or(0, Ptr::read),
        bytes: from_word(view_size.read()),
        ..request
    };
    match map_view(&request) {
        Ok((address, range)) => {
            base_address.write(to_word(address));
            view_size.write(to_word(range.bytes));
            if let Some(section_offset) = section_offset.non_null() {
                section_offset.write(range.offset);
            }
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

macro_rules! view_functions {
    ($module:ident; map $($map:ident)*; unmap $($unmap:ident)*; map_system $($map_system:ident)*;
     unmap_system $($unmap_system:ident)*; $($rest:tt)*) => {
        nt_api! { module = $module;
            $(
                /// Maps a view of a section in a process. The size is rounded up to whole pages and written back. A view of
                /// \Device\PhysicalMemory begins at any offset; the policy says which ranges there are.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $map(
                    section_handle: Handle, process_handle: Handle, base_address: Ptr<Word>, zero_bits: Size,
                    commit_size: Size, section_offset: Ptr<u64>, view_size: Ptr<Word>, inherit_disposition: ULong,
                    allocation_type: ULong, protection: ULong,
                ) -> NtStatus {
                    let request = Request {
                        section: section_handle.0, process: process_handle.0, zero_bits: zero_bits.0,
                        commit: commit_size.0, inherit: inherit_disposition, allocation_type, protection,
                        base: 0, offset: 0, bytes: 0,
                    };
                    map_for_process(request, base_address, section_offset, view_size)
                }
            )*
            $(
                /// Unmaps the view that an address lies in; NOT_MAPPED_VIEW if there is none.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $unmap(process_handle: Handle, base_address: Ptr<u8>) -> NtStatus {
                    unmap_view(process_handle.0, base_address.addr())
                }
            )*
            $(
                /// Maps a section in system space from its beginning; a size of 0 is all of it. The size is rounded up to
                /// whole pages and written back.
                ntoskrnl both stdcall irql(APC_LEVEL) partial("not physical memory")
                fn $map_system(section: Ptr<u8>, mapped_base: Ptr<Word>, view_size: Ptr<Word>) -> NtStatus {
                    map_for_system(section.addr(), mapped_base, view_size, Ptr::null())
                }
            )*
            $(
                /// Unmaps such a view; a bugcheck if there is none.
                ntoskrnl both stdcall irql(APC_LEVEL) implemented
                fn $unmap_system(mapped_base: Ptr<u8>) -> NtStatus {
                    unmap_from_system(mapped_base.addr())
                }
            )*
            $($rest)*
        }
    };
}

view_functions! { mm_view;
    map ZwMapViewOfSection NtMapViewOfSection;
    unmap ZwUnmapViewOfSection NtUnmapViewOfSection;
    map_system MmMapViewInSystemSpace MmMapViewInSessionSpace;
    unmap_system MmUnmapViewInSystemSpace MmUnmapViewInSessionSpace;
    /// Writes what a view of a file has changed to the file. NOT_MAPPED_DATA: the section has no file.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwFlushVirtualMemory(
        process_handle: Handle, base_address: Ptr<Word>, region_size: Ptr<Word>, io_status: Ptr<IO_STATUS_BLOCK>,
    ) -> NtStatus {
        let flushed = flush(process_handle.0, from_word(base_address.read()), from_word(region_size.read()));
        let status = flushed.err().unwrap_or(NtStatus::SUCCESS);
        if let Ok((start, bytes)) = flushed {
            base_address.write(to_word(start));
            region_size.write(to_word(bytes));
        }
        io_status.write(IO_STATUS_BLOCK { Status: to_word(u64::from(status.0)), Information: 0 });
        status
    }
}

#[cfg(test)]
mod tests;
