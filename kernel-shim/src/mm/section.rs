//! \Device\PhysicalMemory: the one section that there is.
//!
//! A view of it is in system space, in the I/O window, whatever process it is asked for: shim and driver share one
//! address space, which has no room for views in a client's half. The driver can use the address; a client's own code
//! cannot touch it.

use super::io_space::{Kind, Wanted, map, mapping_at, unmap};
use super::protection::access_of;
use crate::api::nt_api;
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, handles, names};
use crate::raw::{Ptr, Word, from_word, to_word, unicode_text};
use crate::value::{Handle, ObjectAttributesPtr, Size, ULong};
use crate::{ps, shared};
use abi::layout::PAGE_SIZE;

/// The section's name.
pub const PHYSICAL_MEMORY: &str = "\\Device\\PhysicalMemory";
/// Bytes of a section's body: opaque.
const BODY_BYTES: u64 = 0x40;
/// OBJ_KERNEL_HANDLE.
const KERNEL_HANDLE: u32 = 0x200;
/// Views begin at multiples of this when the caller chooses their address (MM_ALLOCATION_GRANULARITY).
const GRANULARITY: u64 = 0x1_0000;
/// SECTION_INHERIT: ViewShare and ViewUnmap.
const INHERIT: core::ops::RangeInclusive<u32> = 1..=2;
/// AllocationType bits that ZwMapViewOfSection knows: MEM_RESERVE, MEM_TOP_DOWN, MEM_LARGE_PAGES, MEM_DOS_LIM.
const ALLOCATION_TYPES: u32 = 0x2000 | 0x10_0000 | 0x2000_0000 | 0x4000_0000;
/// The most that ZeroBits may be.
const ZERO_BITS: u64 = if cfg!(nt_i386) { 21 } else { 53 };

/// Makes the section and names it, if that has not been done.
fn ensure() -> Result<(), NtStatus> {
    if names::resolve(PHYSICAL_MEMORY).is_ok() {
        return Ok(());
    }
    let body = ob::create(ObjectType::Section, BODY_BYTES, None)
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    names::insert_object(PHYSICAL_MEMORY, body)
}

fn open(attributes: &OBJECT_ATTRIBUTES, access: u32) -> Result<u64, NtStatus> {
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if attributes.RootDirectory != 0 {
        return Err(NtStatus::INVALID_HANDLE);
    }
    ensure()?;
    let found = names::resolve(&unicode_text(attributes.ObjectName))?;
    if !found.rest.is_empty() {
        return Err(NtStatus::OBJECT_PATH_NOT_FOUND);
    }
    if ob::type_of(found.body) != Some(ObjectType::Section) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    let is_kernel = attributes.Attributes & KERNEL_HANDLE != 0;
    let process = if is_kernel {
        handles::SYSTEM
    } else {
        shared::current_process()
    };
    Ok(handles::insert(process, found.body, access))
}

/// The body of an object of that type that a handle stands for; what NT says if it is none. -1 is the current process.
pub(super) fn check_handle(handle: u64, kind: ObjectType) -> Result<u64, NtStatus> {
    let body = if kind == ObjectType::Process && to_word(handle) == Word::MAX {
        ps::current_process().addr()
    } else {
        handles::lookup(shared::current_process(), handle)
            .ok_or(NtStatus::INVALID_HANDLE)?
            .body
    };
    if ob::type_of(body) == Some(kind) {
        Ok(body)
    } else {
        Err(NtStatus::OBJECT_TYPE_MISMATCH)
    }
}

/// A view of physical memory: NT rounds the offset down and the size up to whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct View {
    offset: u64,
    bytes: u64,
}

fn view(offset: u64, bytes: u64) -> Result<View, NtStatus> {
    let first = offset - offset % PAGE_SIZE;
    let end = offset
        .checked_add(bytes)
        .and_then(|end| end.checked_next_multiple_of(PAGE_SIZE))
        .filter(|_| bytes != 0)
        .ok_or(NtStatus::INVALID_PARAMETER_3)?;
    Ok(View {
        offset: first,
        bytes: end - first,
    })
}

struct Request {
    section: u64,
    process: u64,
    base: u64,
    zero_bits: u64,
    offset: u64,
    bytes: u64,
    inherit: u32,
    allocation_type: u32,
    protection: u32,
}

/// Maps the view; its address, and what part of the section it is.
fn map_view(request: &Request) -> Result<(u64, View), NtStatus> {
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
    check_handle(request.process, ObjectType::Process)?;
    check_handle(request.section, ObjectType::Section)?;
    if !request.base.is_multiple_of(GRANULARITY) {
        return Err(NtStatus::MAPPED_ALIGNMENT);
    }
    if request.base != 0 {
        return Err(NtStatus::CONFLICTING_ADDRESSES);
    }
    let view = view(request.offset, request.bytes)?;
    let address = map(&Wanted {
        physical: view.offset,
        bytes: view.bytes,
        is_writable: access.is_writable,
        caching: access.caching,
        kind: Kind::View,
    })?;
    Ok((address, view))
}

fn status_of<T>(result: Result<T, NtStatus>) -> NtStatus {
    result.err().unwrap_or(NtStatus::SUCCESS)
}

nt_api! { module = mm_section;
    /// Opens a section by name. There is \Device\PhysicalMemory; OBJECT_NAME_NOT_FOUND for any other.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("names relative to a directory handle")
    fn ZwOpenSection(
        section_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
    ) -> NtStatus {
        status_of(open(&object_attributes.0.read(), desired_access).map(|handle| {
            section_handle.write(to_word(handle));
        }))
    }

    /// Maps a view of \Device\PhysicalMemory: the offset is rounded down and the size up to whole pages, and both are
    /// written back. The view is in system space; the policy says which physical ranges there are.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("the caller cannot choose the address; client code cannot use the view")
    fn ZwMapViewOfSection(
        section_handle: Handle, process_handle: Handle, base_address: Ptr<Word>, zero_bits: Size, commit_size: Size,
        section_offset: Ptr<u64>, view_size: Ptr<Word>, inherit_disposition: ULong, allocation_type: ULong,
        protection: ULong,
    ) -> NtStatus {
        let request = Request {
            section: section_handle.0,
            process: process_handle.0,
            base: from_word(base_address.read()),
            zero_bits: zero_bits.0,
            offset: section_offset.non_null().map_or(0, Ptr::read),
            bytes: from_word(view_size.read()),
            inherit: inherit_disposition,
            allocation_type,
            protection,
        };
        status_of(map_view(&request).map(|(address, view)| {
            base_address.write(to_word(address));
            view_size.write(to_word(view.bytes));
            if let Some(section_offset) = section_offset.non_null() {
                section_offset.write(view.offset);
            }
        }))
    }

    /// Unmaps the view that an address lies in; NOT_MAPPED_VIEW if there is none.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwUnmapViewOfSection(process_handle: Handle, base_address: Ptr<u8>) -> NtStatus {
        let unmapped = check_handle(process_handle.0, ObjectType::Process).and_then(|_| {
            let mapping = mapping_at(base_address.addr()).filter(|mapping| mapping.kind == Kind::View);
            mapping.ok_or(NtStatus::NOT_MAPPED_VIEW)
        });
        status_of(unmapped.map(|mapping| unmap(&mapping)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::low32;
    use crate::rtl::test_strings::wide;
    use crate::test_platform::{api, machine};
    use abi::doorbell::Call;

    #[test]
    fn views_are_whole_pages() {
        let expected = |offset, bytes| Ok(View { offset, bytes });
        assert_eq!(view(0xA_0010, 0x10), expected(0xA_0000, 0x1000));
        assert_eq!(view(0xA_0FF0, 0x20), expected(0xA_0000, 0x2000));
        assert_eq!(view(0, 0x1000), expected(0, 0x1000));
        assert_eq!(view(0, 0), Err(NtStatus::INVALID_PARAMETER_3));
        assert_eq!(view(u64::MAX, 2), Err(NtStatus::INVALID_PARAMETER_3));
    }

    fn open_section(name: &str) -> (NtStatus, u64) {
        let mut name = wide(name, 40);
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: 0x30,
            RootDirectory: 0,
            ObjectName: name.ptr(),
            Attributes: 0x40,
            SecurityDescriptor: 0,
            SecurityQualityOfService: 0,
        };
        let mut handle = 0_u64;
        let pointers = [
            Ptr::of(&mut handle).addr(),
            0xF001F,
            Ptr::of(&mut attributes).addr(),
        ];
        let status = api("ZwOpenSection", &pointers);
        (NtStatus(low32(status)), handle)
    }

    /// What WinIo and inpout do, from the handle on: (status, base, size, offset).
    fn map_as_drivers_do(handle: u64, offset: u64, bytes: u64) -> (NtStatus, u64, u64, u64) {
        let (mut base, mut size, mut at) = (0_u64, bytes, offset);
        let status = ZwMapViewOfSection(
            Handle(handle),
            Handle(u64::MAX),
            Ptr::of(&mut base),
            Size(0),
            Size(bytes),
            Ptr::of(&mut at),
            Ptr::of(&mut size),
            1,
            0,
            0x204,
        );
        (status, base, size, at)
    }

    #[test]
    fn physical_memory_is_opened_mapped_and_unmapped() {
        let machine = machine();
        let (status, handle) = open_section("\\device\\PHYSICALMEMORY");
        assert_eq!(status, NtStatus::SUCCESS);
        let mut object = 0_u64;
        let arguments = [handle, 0xF001F, 0, 0, Ptr::of(&mut object).addr(), 0];
        assert_eq!(api("ObReferenceObjectByHandle", &arguments), 0);
        let (status, base, size, offset) = map_as_drivers_do(handle, 0xF_FFF0, 0x20);
        assert_eq!(
            (status, size, offset),
            (NtStatus::SUCCESS, 0x2000, 0xF_F000)
        );
        assert_eq!(api("MmGetPhysicalAddress", &[base + 0xFF0]), 0xF_FFF0);
        assert_eq!(api("ZwUnmapViewOfSection", &[u64::MAX, base + 0x1000]), 0);
        let again = NtStatus(low32(api("ZwUnmapViewOfSection", &[u64::MAX, base])));
        assert_eq!(again, NtStatus::NOT_MAPPED_VIEW);
        let calls: Vec<Call> = machine
            .fake
            .calls
            .lock()
            .unwrap()
            .iter()
            .map(|(call, _)| *call)
            .collect();
        assert_eq!(calls, [Call::MapPhysical, Call::UnmapPhysical]);
        api("ObfDereferenceObject", &[object]);
        assert_eq!(api("ZwClose", &[handle]), 0);
        assert_eq!(
            map_as_drivers_do(handle, 0, 0x1000).0,
            NtStatus::INVALID_HANDLE
        );
    }

    #[test]
    fn other_names_and_bad_arguments_have_their_statuses() {
        let _machine = machine();
        assert_eq!(
            open_section("\\Device\\Nothing").0,
            NtStatus::OBJECT_NAME_NOT_FOUND
        );
        assert_eq!(open_section("\\Device").0, NtStatus::OBJECT_TYPE_MISMATCH);
        let (_, handle) = open_section(PHYSICAL_MEMORY);
        assert_eq!(
            map_as_drivers_do(handle, 0, 0).0,
            NtStatus::INVALID_PARAMETER_3
        );
        let good = Request {
            section: handle,
            process: u64::MAX,
            base: 0,
            zero_bits: 0,
            offset: 0,
            bytes: 1,
            inherit: 2,
            allocation_type: 0,
            protection: 4,
        };
        let status = |request: Request| map_view(&request).err();
        let with = |change: fn(&mut Request)| {
            let mut request = Request { ..good };
            change(&mut request);
            status(request)
        };
        assert_eq!(
            with(|request| request.inherit = 3),
            Some(NtStatus::INVALID_PARAMETER_8)
        );
        assert_eq!(
            with(|request| request.zero_bits = 99),
            Some(NtStatus::INVALID_PARAMETER_4)
        );
        assert_eq!(
            with(|request| request.allocation_type = 1),
            Some(NtStatus::INVALID_PARAMETER_9)
        );
        assert_eq!(
            with(|request| request.protection = 0),
            Some(NtStatus::INVALID_PAGE_PROTECTION)
        );
        assert_eq!(
            with(|request| request.base = 0x1000),
            Some(NtStatus::MAPPED_ALIGNMENT)
        );
        assert_eq!(
            with(|request| request.base = 0x1_0000),
            Some(NtStatus::CONFLICTING_ADDRESSES)
        );
        assert_eq!(
            with(|request| request.process = 0x44),
            Some(NtStatus::INVALID_HANDLE)
        );
    }
}
