//! Sections: memory that is mapped at several places, with the contents of a file or without.
//!
//! The pages of a section are contiguous pages of the pool. A view in a process maps them in user space, a view in system
//! space in the I/O window ([`super::section_view`]).
//!
//! A section of a file holds a copy of its contents, read when it is made. What a view has changed goes to the file when
//! the view is unmapped or flushed; what ZwWriteFile writes meanwhile is not seen.
//!
//! \Device\PhysicalMemory is a section without pages of its own: [`super::section_view`] maps the ranges that the policy has.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::protection::{Access, access_of};
use crate::api::nt_api;
use crate::ex::pool::{self, Wanted};
use crate::fs;
use crate::io::file::{FILE_READ_DATA, FILE_WRITE_DATA, by_handle};
use crate::nt::{FILE_OBJECT, NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::attributes::{Attributes, OBJ_OPENIF, OBJ_PERMANENT};
use crate::ob::{self, ObjectType, handles, names};
use crate::raw::{Global, Ptr, Word, to_usize, to_word};
use crate::value::{Handle, ObjectAttributesPtr, Size, ULong};
use crate::{mm, ps, shared};
use abi::file::FileCall;
use abi::layout::PAGE_SIZE;

/// The name of the section of physical memory.
pub const PHYSICAL_MEMORY: &str = "\\Device\\PhysicalMemory";
/// Bytes of a section's body: opaque.
const BODY_BYTES: u64 = 0x40;
/// Tag of the pages of sections that lie in the pool.
const TAG: u32 = u32::from_le_bytes(*b"MmSt");
/// SECTION_QUERY.
const SECTION_QUERY: u32 = 1;
/// SEC_FILE.
const SEC_FILE: u32 = 0x0080_0000;
/// SEC_IMAGE.
const SEC_IMAGE: u32 = 0x0100_0000;
/// SEC_RESERVE.
const SEC_RESERVE: u32 = 0x0400_0000;
/// SEC_COMMIT.
const SEC_COMMIT: u32 = 0x0800_0000;
/// SEC_BASED, SEC_NO_CHANGE, SEC_NOCACHE, SEC_WRITECOMBINE, SEC_LARGE_PAGES.
const SEC_OTHERS: u32 = 0x0020_0000 | 0x0040_0000 | 0x1000_0000 | 0x4000_0000 | 0x8000_0000;

/// The file of a section; the section has a reference to it.
#[derive(Clone, Copy, Debug)]
struct Backing {
    object: u64,
    /// The VMM's number.
    id: u64,
    is_writable: bool,
}

/// What is known of a section other than physical memory.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Its size: whole pages unless a file gave it.
    pub(super) bytes: u64,
    /// What its views may do.
    pub(super) access: Access,
    /// SEC_ flags.
    attributes: u32,
    /// Kernel address of its pages.
    pub(super) kernel: u64,
    /// Which of its pages are committed.
    pub(super) committed: Vec<bool>,
    file: Option<Backing>,
}

/// By body.
static SECTIONS: Global<BTreeMap<u64, Section>> = Global::new("sections", BTreeMap::new());

/// Forgets everything.
pub(crate) fn initialize() {
    SECTIONS.with(BTreeMap::clear);
}

/// What is known of the section with that body; `None`: it is physical memory.
pub(super) fn find(body: u64) -> Option<Section> {
    SECTIONS.with(|sections| sections.get(&body).cloned())
}

/// Commits pages of a section that was only reserved.
pub(super) fn commit(body: u64, first_page: u64, pages: u64) {
    SECTIONS.with(|sections| {
        let all = sections
            .get_mut(&body)
            .map_or(&mut [][..], |section| &mut section.committed);
        let wanted = all.iter_mut().skip(to_usize(first_page));
        wanted.take(to_usize(pages)).for_each(|page| *page = true);
    });
}

/// Whether a section was made with SEC_RESERVE.
pub(super) fn is_reserved(body: u64) -> bool {
    find(body).is_some_and(|section| section.attributes & SEC_RESERVE != 0)
}

impl Section {
    /// Whether it is a file's.
    pub(super) const fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Guest-physical address of a byte of it.
    pub(super) fn physical(&self, offset: u64) -> u64 {
        mm::physical_address(self.kernel + offset).unwrap_or(0)
    }

    /// Writes a range of its pages to its file, as far as the section goes.
    ///
    /// # Errors
    /// What the VMM says.
    pub(super) fn flush(&self, offset: u64, bytes: u64) -> Result<(), NtStatus> {
        let Some(file) = self.file.filter(|file| file.is_writable) else {
            return Ok(());
        };
        let bytes = bytes.min(self.bytes.saturating_sub(offset));
        if bytes == 0 {
            return Ok(());
        }
        let from = Ptr::new(self.kernel + offset);
        fs::transfer(file.id, from, bytes, offset, true).map(|_| ())
    }

    fn free(&self) {
        pool::free(Ptr::new(self.kernel), TAG);
        if let Some(file) = self.file {
            ob::dereference(file.object);
        }
    }
}

/// The last reference to a section is gone: it has no views.
fn delete(body: u64) {
    if let Some(section) = SECTIONS.with(|sections| sections.remove(&body)) {
        section.free();
    }
}

/// Zeroed pages for a section: their kernel address.
fn allocate(bytes: u64) -> Option<u64> {
    let wanted = Wanted {
        bytes,
        tag: TAG,
        owner: pool::SHIM,
        is_paged: false,
        is_page_aligned: true,
    };
    let address = pool::allocate_contiguous(&wanted, 0, u64::MAX, 0).non_null()?;
    address.fill(0, bytes);
    Some(address.addr())
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    bytes: u64,
    protection: u32,
    attributes: u32,
    /// The file, and what its handle grants.
    file: Option<(Ptr<FILE_OBJECT>, u32)>,
}

/// Checks the flags; what views may do.
fn check(wish: &Wish) -> Result<Access, NtStatus> {
    let flags = wish.attributes;
    let kinds = flags & (SEC_COMMIT | SEC_RESERVE | SEC_IMAGE);
    if flags & !(SEC_OTHERS | SEC_COMMIT | SEC_RESERVE | SEC_IMAGE) != 0 || kinds.count_ones() != 1
    {
        return Err(NtStatus::INVALID_PARAMETER_6);
    }
    let access = access_of(wish.protection)
        .filter(|access| access.has_default_caching())
        .ok_or(NtStatus::INVALID_PAGE_PROTECTION)?;
    if wish.file.is_none() && kinds == SEC_IMAGE {
        return Err(NtStatus::INVALID_FILE_FOR_SECTION);
    }
    Ok(access)
}

/// The file of a section, and the section's bytes.
fn back(wish: &Wish, access: Access) -> Result<(Option<Backing>, u64), NtStatus> {
    let Some((object, granted)) = wish.file else {
        let bytes = wish.bytes.checked_next_multiple_of(PAGE_SIZE);
        return match bytes {
            Some(0) => Err(NtStatus::INVALID_PARAMETER_4),
            Some(bytes) => Ok((None, bytes)),
            None => Err(NtStatus::SECTION_TOO_BIG),
        };
    };
    let is_writable = access.is_shared_write();
    let needed = FILE_READ_DATA | if is_writable { FILE_WRITE_DATA } else { 0 };
    if granted & needed != needed {
        return Err(NtStatus::ACCESS_DENIED);
    }
    let opened = fs::opened(object.addr())
        .filter(|opened| !opened.is_directory)
        .ok_or(NtStatus::INVALID_FILE_FOR_SECTION)?;
    if wish.attributes & SEC_IMAGE != 0 {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    let there = fs::metadata(opened.id)?.bytes;
    let bytes = if wish.bytes == 0 { there } else { wish.bytes };
    if bytes == 0 {
        return Err(NtStatus::MAPPED_FILE_SIZE_ZERO);
    }
    if bytes > there {
        if !is_writable {
            return Err(NtStatus::SECTION_TOO_BIG);
        }
        fs::call(FileCall::SetSize, opened.id, Ptr::null(), 0, bytes, 0)?;
    }
    let backing = Backing {
        object: object.addr(),
        id: opened.id,
        is_writable,
    };
    Ok((Some(backing), bytes))
}

/// Makes a section without a name, with one reference.
fn make(wish: &Wish) -> Result<u64, NtStatus> {
    let access = check(wish)?;
    let (file, bytes) = back(wish, access)?;
    let room = bytes
        .checked_next_multiple_of(PAGE_SIZE)
        .filter(|&room| room <= shared::ram_bytes())
        .ok_or(NtStatus::SECTION_TOO_BIG)?;
    let kernel = allocate(room).ok_or(NtStatus::COMMITMENT_LIMIT)?;
    if let Some(file) = file {
        ob::reference(file.object);
    }
    let is_committed = file.is_some() || wish.attributes & SEC_COMMIT != 0;
    let section = Section {
        bytes,
        access,
        attributes: wish.attributes | if file.is_some() { SEC_FILE } else { 0 },
        kernel,
        committed: alloc::vec![is_committed; to_usize(room / PAGE_SIZE)],
        file,
    };
    let read = match file {
        Some(file) => match fs::transfer(file.id, Ptr::new(kernel), bytes, 0, false) {
            Err(NtStatus::END_OF_FILE) | Ok(_) => Ok(()),
            Err(status) => Err(status),
        },
        None => Ok(()),
    };
    let body = read.and_then(|()| {
        ob::create(ObjectType::Section, BODY_BYTES, Some(delete))
            .ok_or(NtStatus::INSUFFICIENT_RESOURCES)
    });
    let body = body.inspect_err(|_| section.free())?;
    SECTIONS.with(|sections| sections.insert(body, section));
    Ok(body)
}

/// ZwCreateSection: SUCCESS or OBJECT_NAME_EXISTS, and the handle.
fn create(attributes: &Attributes, access: u32, wish: &Wish) -> Result<(NtStatus, u64), NtStatus> {
    let body = make(wish)?;
    let named = if attributes.name.is_empty() {
        Ok(())
    } else {
        names::insert_object(&attributes.name, body)
    };
    match named {
        Ok(()) => {
            let handle = attributes.insert_handle(body, ObjectType::Section, access);
            if attributes.flags & OBJ_PERMANENT == 0 {
                ob::make_temporary(body);
            }
            ob::dereference(body);
            Ok((NtStatus::SUCCESS, handle))
        }
        Err(status) => {
            ob::dereference(body);
            if status == NtStatus::OBJECT_NAME_COLLISION && attributes.flags & OBJ_OPENIF != 0 {
                return Ok((NtStatus::OBJECT_NAME_EXISTS, open(attributes, access)?));
            }
            Err(status)
        }
    }
}

/// Makes the section of physical memory and names it, if that has not been done.
fn ensure() -> Result<(), NtStatus> {
    if names::resolve(PHYSICAL_MEMORY).is_ok() {
        return Ok(());
    }
    let body = ob::create(ObjectType::Section, BODY_BYTES, None)
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    names::insert_object(PHYSICAL_MEMORY, body)
}

fn open(attributes: &Attributes, access: u32) -> Result<u64, NtStatus> {
    ensure()?;
    if attributes.name.is_empty() {
        return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
    }
    let found = names::resolve(&attributes.name)?;
    if !found.rest.is_empty() {
        return Err(NtStatus::OBJECT_PATH_NOT_FOUND);
    }
    if ob::type_of(found.body) != Some(ObjectType::Section) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    Ok(attributes.insert_handle(found.body, ObjectType::Section, access))
}

/// The body of an object of that type that a handle stands for, and the access that it grants; what NT says if it is none.
/// -1 is the current process.
pub(super) fn check_handle(handle: u64, kind: ObjectType) -> Result<(u64, u32), NtStatus> {
    let (body, access) = if kind == ObjectType::Process && to_word(handle) == Word::MAX {
        (ps::current_process().addr(), u32::MAX)
    } else {
        let found = handles::lookup(shared::current_process(), handle);
        let found = found.ok_or(NtStatus::INVALID_HANDLE)?;
        (found.body, found.access)
    };
    if ob::type_of(body) == Some(kind) {
        Ok((body, access))
    } else {
        Err(NtStatus::OBJECT_TYPE_MISMATCH)
    }
}

/// SECTION_BASIC_INFORMATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct SECTION_BASIC_INFORMATION {
    BaseAddress: Word,
    AllocationAttributes: u32,
    #[cfg(not(nt_i386))]
    padding: u32,
    MaximumSize: u64,
}
const _: () =
    assert!(size_of::<SECTION_BASIC_INFORMATION>() == if cfg!(nt_i386) { 0x10 } else { 0x18 });

fn query(handle: u64, class: u32, length: u64) -> Result<SECTION_BASIC_INFORMATION, NtStatus> {
    const BASIC: u32 = 0;
    const IMAGE: u32 = 1;
    if class > IMAGE {
        return Err(NtStatus::INVALID_INFO_CLASS);
    }
    if class == BASIC && length < size_of::<SECTION_BASIC_INFORMATION>() as u64 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let (body, access) = check_handle(handle, ObjectType::Section)?;
    if access & SECTION_QUERY == 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if class == IMAGE {
        return Err(NtStatus::SECTION_NOT_IMAGE);
    }
    let section = find(body);
    Ok(SECTION_BASIC_INFORMATION {
        BaseAddress: 0,
        AllocationAttributes: section
            .as_ref()
            .map_or(SEC_COMMIT, |section| section.attributes),
        #[cfg(not(nt_i386))]
        padding: 0,
        MaximumSize: section.map_or(u64::MAX >> 12 << 12, |section| section.bytes),
    })
}

/// ZwCreateSection and its twin.
fn create_by_handle(
    result: Ptr<Word>,
    access: u32,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    bytes: Ptr<u64>,
    file: u64,
    wish: Wish,
) -> NtStatus {
    let made = (|| {
        let attributes = Attributes::read(attributes)?;
        let file = match file {
            0 => None,
            file => Some(by_handle(shared::current_process(), file)?),
        };
        let bytes = bytes.non_null().map_or(0, Ptr::read);
        create(
            &attributes,
            access,
            &Wish {
                bytes,
                file,
                ..wish
            },
        )
    })();
    match made {
        Ok((status, handle)) => {
            result.write(to_word(handle));
            status
        }
        Err(status) => status,
    }
}

macro_rules! section_functions {
    ($module:ident; $($name:ident)*; $($rest:tt)*) => {
        nt_api! { module = $module;
            $(
                /// Makes a section of memory, or of a file of the host. OBJECT_NAME_EXISTS: OBJ_OPENIF has opened it.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("image sections; a file's section is a copy, written back when a view is unmapped or flushed")
                fn $name(
                    section_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
                    maximum_size: Ptr<u64>, section_page_protection: ULong, allocation_attributes: ULong,
                    file_handle: Handle,
                ) -> NtStatus {
                    let wish = Wish {
                        bytes: 0, protection: section_page_protection, attributes: allocation_attributes, file: None,
                    };
                    create_by_handle(
                        section_handle, desired_access, object_attributes.0, maximum_size, file_handle.0, wish,
                    )
                }
            )*
            $($rest)*
        }
    };
}

section_functions! { mm_section; ZwCreateSection NtCreateSection;
    /// As ZwCreateSection, for a pointer to the section; the file may be given by its FILE_OBJECT.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL)
    partial("names; image sections; a file's section is a copy, written back when a view is unmapped or flushed")
    fn MmCreateSection(
        section_object: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        maximum_size: Ptr<u64>, section_page_protection: ULong, allocation_attributes: ULong, file_handle: Handle,
        file_object: Ptr<FILE_OBJECT>,
    ) -> NtStatus {
        let file = if file_object.is_null() && file_handle.0 != 0 {
            by_handle(shared::current_process(), file_handle.0).map(Some)
        } else {
            Ok(file_object.non_null().map(|file| (file, u32::MAX)))
        };
        let made = file.and_then(|file| make(&Wish {
            bytes: maximum_size.non_null().map_or(0, Ptr::read),
            protection: section_page_protection,
            attributes: allocation_attributes,
            file,
        }));
        match made {
            Ok(body) => {
                section_object.write(to_word(body));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Opens a section by name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenSection(
        section_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
    ) -> NtStatus {
        match Attributes::read(object_attributes.0).and_then(|attributes| open(&attributes, desired_access)) {
            Ok(handle) => {
                section_handle.write(to_word(handle));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Tells about a section: SectionBasicInformation. SECTION_NOT_IMAGE for SectionImageInformation.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQuerySection(
        section_handle: Handle, information_class: ULong, information: Ptr<u8>, length: Size, return_length: Ptr<Word>,
    ) -> NtStatus {
        match query(section_handle.0, information_class, length.0) {
            Ok(found) => {
                information.cast().write(found);
                if let Some(return_length) = return_length.non_null() {
                    return_length.write(to_word(size_of::<SECTION_BASIC_INFORMATION>() as u64));
                }
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }
}
