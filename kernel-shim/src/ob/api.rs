//! References and handles as drivers use them.

use super::attributes::Attributes;
use super::{ObjectType, callbacks, handles, names, types};
use crate::api::nt_api;
use crate::nt::{DISPATCHER_HEADER, FILE_OBJECT, NtStatus, OBJECT_HANDLE_INFORMATION};
use crate::raw::{Ptr, Word, to_word, unicode_text};
use crate::shared;
use crate::value::{Handle, ProcessorMode, Size, Tag, ULong, UnicodeStringPtr};

nt_api! { module = ob_api;
    /// Adds a reference to an object.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ObfReferenceObject(object: Ptr<u8>) -> Size {
        Size(super::reference(object.addr()).into())
    }

    /// Takes a reference to an object away.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ObfDereferenceObject(object: Ptr<u8>) -> Size {
        Size(super::dereference(object.addr()).into())
    }

    /// Takes a reference to an object away.
    ntoskrnl i386 stdcall irql(DISPATCH_LEVEL) implemented
    fn ObDereferenceObject(object: Ptr<u8>) -> Size {
        Size(super::dereference(object.addr()).into())
    }

    /// Adds a reference to an object. A user-mode request is refused for another type.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ObReferenceObjectByPointer(object: Ptr<u8>, access: ULong, object_type: Ptr<u8>, mode: ProcessorMode) -> NtStatus {
        by_pointer(object, object_type, mode)
    }

    /// As ObReferenceObjectByPointer, with a tag for debuggers.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ObReferenceObjectByPointerWithTag(
        object: Ptr<u8>,
        access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        tag: Tag,
    ) -> NtStatus {
        by_pointer(object, object_type, mode)
    }

    /// Adds a reference to an object, with a tag for debuggers.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ObfReferenceObjectWithTag(object: Ptr<u8>, tag: Tag) -> Size {
        Size(super::reference(object.addr()).into())
    }

    /// Takes a reference to an object away, with a tag for debuggers.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ObfDereferenceObjectWithTag(object: Ptr<u8>, tag: Tag) -> Size {
        Size(super::dereference(object.addr()).into())
    }

    /// Takes a reference to an object away; the object is deleted later, in a worker thread's stead at once.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ObDereferenceObjectDeferDelete(object: Ptr<u8>) {
        super::dereference(object.addr());
    }

    /// Finds the object that a handle stands for and adds a reference to it. The type is always checked; the access, and
    /// that it is no kernel handle, only for user mode.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObReferenceObjectByHandle(
        handle: Handle,
        access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        object: Ptr<Word>,
        information: Ptr<OBJECT_HANDLE_INFORMATION>,
    ) -> NtStatus {
        by_handle(handle.0, access, object_type, mode, object, information)
    }

    /// As ObReferenceObjectByHandle, with a tag for debuggers.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObReferenceObjectByHandleWithTag(
        handle: Handle,
        access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        tag: Tag,
        object: Ptr<Word>,
        information: Ptr<OBJECT_HANDLE_INFORMATION>,
    ) -> NtStatus {
        by_handle(handle.0, access, object_type, mode, object, information)
    }

    /// Finds the object of a name and adds a reference to it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObReferenceObjectByName(
        object_name: UnicodeStringPtr,
        attributes: ULong,
        access_state: Ptr<u8>,
        desired_access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        parse_context: Ptr<u8>,
        object: Ptr<Word>,
    ) -> NtStatus {
        let name = unicode_text(object_name.0);
        if name.is_empty() {
            return NtStatus::OBJECT_NAME_INVALID;
        }
        match names::resolve(&name) {
            Ok(found) if !found.rest.is_empty() => NtStatus::OBJECT_NAME_NOT_FOUND,
            Ok(found) if !is_of(found.body, object_type) => NtStatus::OBJECT_TYPE_MISMATCH,
            Ok(found) => {
                super::reference(found.body);
                object.write(to_word(found.body));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Makes a handle to an object.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObOpenObjectByPointer(
        object: Ptr<u8>,
        handle_attributes: ULong,
        passed_access_state: Ptr<u8>,
        desired_access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        handle: Ptr<Word>,
    ) -> NtStatus {
        let status = by_pointer(object, object_type, mode);
        if !status.is_success() {
            return status;
        }
        let attributes = Attributes { flags: handle_attributes, ..Attributes::default() };
        if let Some(kind) = super::type_of(object.addr()) {
            handle.write(to_word(attributes.insert_handle(object.addr(), kind, desired_access)));
        }
        super::dereference(object.addr());
        NtStatus::SUCCESS
    }

    /// The type of an object.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ObGetObjectType(object: Ptr<u8>) -> Ptr<u8> {
        super::type_of(object.addr()).map_or_else(Ptr::null, types::object)
    }

    /// Lets an object's name go with its last handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObMakeTemporaryObject(object: Ptr<u8>) {
        super::make_temporary(object.addr());
    }

    /// Closes a handle. A user-mode request cannot close a kernel handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObCloseHandle(handle: Handle, previous_mode: ProcessorMode) -> NtStatus {
        if previous_mode.0 != 0 && handles::is_kernel(handle.0) {
            return NtStatus::INVALID_HANDLE;
        }
        ZwClose(handle)
    }

    /// Closes a handle of the driver.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtClose(handle: Handle) -> NtStatus {
        ZwClose(handle)
    }

    /// Lets an object's name go with its last handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwMakeTemporaryObject(handle: Handle) -> NtStatus {
        match entry_of(handle.0) {
            None => NtStatus::INVALID_HANDLE,
            Some(entry) if entry.access & DELETE == 0 => NtStatus::ACCESS_DENIED,
            Some(entry) => {
                super::make_temporary(entry.body);
                super::directory::make_temporary(entry.body);
                NtStatus::SUCCESS
            }
        }
    }

    /// Makes another handle to an object, in this or another process; DUPLICATE_CLOSE_SOURCE (1) closes the first,
    /// DUPLICATE_SAME_ACCESS (2) keeps its access.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwDuplicateObject(
        source_process_handle: Handle,
        source_handle: Handle,
        target_process_handle: Handle,
        target_handle: Ptr<Word>,
        desired_access: ULong,
        handle_attributes: ULong,
        options: ULong,
    ) -> NtStatus {
        let wanted = Duplicate { access: desired_access, attributes: handle_attributes, options };
        duplicate(source_process_handle.0, source_handle.0, target_process_handle.0, target_handle, &wanted)
            .err()
            .unwrap_or(NtStatus::SUCCESS)
    }

    /// As ZwDuplicateObject.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtDuplicateObject(
        source_process_handle: Handle,
        source_handle: Handle,
        target_process_handle: Handle,
        target_handle: Ptr<Word>,
        desired_access: ULong,
        handle_attributes: ULong,
        options: ULong,
    ) -> NtStatus {
        ZwDuplicateObject(
            source_process_handle, source_handle, target_process_handle, target_handle, desired_access,
            handle_attributes, options,
        )
    }

    /// Closes a handle of the driver.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwClose(handle: Handle) -> NtStatus {
        // NtCurrentProcess and NtCurrentThread need not be closed, but may be.
        if crate::raw::low32(handle.0) >= 0xFFFF_FFFE {
            return NtStatus::SUCCESS;
        }
        close(shared::current_process(), handle.0)
    }
}

/// The dispatcher object of an object that can be waited for.
pub(crate) fn waitable(body: u64) -> Option<Ptr<DISPATCHER_HEADER>> {
    match super::type_of(body)? {
        ObjectType::File => Some(Ptr::new(
            body + core::mem::offset_of!(FILE_OBJECT, Event) as u64,
        )),
        ObjectType::Process
        | ObjectType::Thread
        | ObjectType::Event
        | ObjectType::Mutant
        | ObjectType::Semaphore
        | ObjectType::Timer => Some(Ptr::new(body)),
        _ => None,
    }
}

/// The body behind a handle, NtCurrentProcess and NtCurrentThread included.
pub(crate) fn body_of(handle: u64) -> Option<u64> {
    entry_of(handle).map(|entry| entry.body)
}

/// DELETE.
const DELETE: u32 = 0x0001_0000;
/// Every right that there is.
const ALL_ACCESS: u32 = 0x001F_FFFF;

/// What a handle stands for, NtCurrentProcess and NtCurrentThread included.
pub(crate) fn entry_of(handle: u64) -> Option<handles::Handle> {
    let pseudo = |body| {
        Some(handles::Handle {
            body,
            access: ALL_ACCESS,
            attributes: 0,
        })
    };
    match crate::raw::low32(handle).cast_signed() {
        -1 => pseudo(crate::ps::current_process().addr()),
        -2 => pseudo(crate::ps::current_thread().addr()),
        _ => handles::lookup(shared::current_process(), handle),
    }
}

/// Whether an object is of a type; NULL is any type.
fn is_of(body: u64, object_type: Ptr<u8>) -> bool {
    object_type.is_null()
        || super::type_of(body).is_some_and(|kind| types::object(kind) == object_type)
}

fn by_pointer(object: Ptr<u8>, object_type: Ptr<u8>, mode: ProcessorMode) -> NtStatus {
    if mode.0 != 0 && (object_type.is_null() || !is_of(object.addr(), object_type)) {
        return NtStatus::OBJECT_TYPE_MISMATCH;
    }
    super::reference(object.addr());
    NtStatus::SUCCESS
}

fn by_handle(
    handle: u64,
    access: u32,
    object_type: Ptr<u8>,
    mode: ProcessorMode,
    object: Ptr<Word>,
    information: Ptr<OBJECT_HANDLE_INFORMATION>,
) -> NtStatus {
    object.write(0);
    let is_user = mode.0 != 0;
    let is_pseudo = crate::raw::low32(handle) >= 0xFFFF_FFFE;
    let found = entry_of(handle).filter(|_| is_pseudo || !is_user || !handles::is_kernel(handle));
    let Some(entry) = found else {
        return NtStatus::INVALID_HANDLE;
    };
    if !is_of(entry.body, object_type) {
        return NtStatus::OBJECT_TYPE_MISMATCH;
    }
    if is_user && entry.access & access != access {
        return NtStatus::ACCESS_DENIED;
    }
    super::reference(entry.body);
    object.write(to_word(entry.body));
    if !information.is_null() {
        information.write(OBJECT_HANDLE_INFORMATION {
            HandleAttributes: entry.attributes,
            GrantedAccess: entry.access,
        });
    }
    NtStatus::SUCCESS
}

/// How a handle is to be duplicated.
struct Duplicate {
    access: u32,
    attributes: u32,
    options: u32,
}

/// A process's object, for object callbacks.
fn process_body(process: u32) -> u64 {
    crate::ps::process::by_id(process).map_or(0, Ptr::addr)
}

/// The process behind a handle.
fn process_of(handle: u64) -> Result<u32, NtStatus> {
    let entry = entry_of(handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if super::type_of(entry.body) != Some(ObjectType::Process) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    crate::ps::id_of(Ptr::new(entry.body)).ok_or(NtStatus::PROCESS_IS_TERMINATING)
}

fn duplicate(
    source_process: u64,
    source: u64,
    target_process: u64,
    target: Ptr<Word>,
    wanted: &Duplicate,
) -> Result<(), NtStatus> {
    const CLOSE_SOURCE: u32 = 1;
    const SAME_ACCESS: u32 = 2;
    if !target.is_null() {
        target.write(0);
    }
    let source_id = process_of(source_process)?;
    let entry = handles::lookup(source_id, source).ok_or(NtStatus::INVALID_HANDLE)?;
    if !target.is_null() {
        let target_id = process_of(target_process)?;
        let kind = super::type_of(entry.body).ok_or(NtStatus::INVALID_HANDLE)?;
        let access = if wanted.options & SAME_ACCESS == 0 {
            types::map_access(kind, wanted.access)
        } else {
            entry.access
        };
        let table = if wanted.attributes & super::attributes::OBJ_KERNEL_HANDLE == 0 {
            target_id
        } else {
            handles::SYSTEM
        };
        let told = callbacks::Making {
            operation: callbacks::DUPLICATE,
            kind,
            body: entry.body,
            access,
            is_kernel: table == handles::SYSTEM,
            processes: [source_id, target_id].map(process_body),
        }
        .ask();
        let number = handles::insert(table, entry.body, told.access);
        handles::set_attributes(
            table,
            number,
            wanted.attributes & super::attributes::OBJ_INHERIT,
        );
        told.tell();
        target.write(to_word(number));
    }
    if wanted.options & CLOSE_SOURCE != 0 {
        let _ = close(source_id, source);
    }
    Ok(())
}

/// Closes a handle of a process.
fn close(process: u32, handle: u64) -> NtStatus {
    let is_file = handles::lookup(process, handle)
        .and_then(|entry| super::type_of(entry.body))
        .is_some_and(|kind| kind == ObjectType::File);
    if is_file {
        return crate::io::file::close_handle(process, handle);
    }
    if handles::close(process, handle) {
        NtStatus::SUCCESS
    } else {
        NtStatus::INVALID_HANDLE
    }
}
