//! References and handles as drivers use them.

use super::{ObjectType, handles};
use crate::api::nt_api;
use crate::nt::{DISPATCHER_HEADER, FILE_OBJECT, NtStatus};
use crate::raw::{Ptr, Word, to_word};
use crate::shared;
use crate::value::{Handle, ProcessorMode, Size, ULong};

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

    /// Adds a reference to an object.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the type and the access are not checked")
    fn ObReferenceObjectByPointer(object: Ptr<u8>, access: ULong, object_type: Ptr<u8>, mode: ProcessorMode) -> NtStatus {
        super::reference(object.addr());
        NtStatus::SUCCESS
    }

    /// Finds the object that a handle stands for and adds a reference to it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("the type and the access are not checked")
    fn ObReferenceObjectByHandle(
        handle: Handle,
        access: ULong,
        object_type: Ptr<u8>,
        mode: ProcessorMode,
        object: Ptr<Word>,
        information: Ptr<u8>,
    ) -> NtStatus {
        let Some(body) = body_of(handle.0) else { return NtStatus::INVALID_HANDLE };
        super::reference(body);
        object.write(to_word(body));
        NtStatus::SUCCESS
    }

    /// Closes a handle of the driver.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwClose(handle: Handle) -> NtStatus {
        let process = shared::current_process();
        let is_file = handles::lookup(process, handle.0)
            .and_then(|entry| super::type_of(entry.body))
            .is_some_and(|kind| kind == ObjectType::File);
        if is_file {
            return crate::io::file::close_handle(process, handle.0);
        }
        if handles::close(process, handle.0) { NtStatus::SUCCESS } else { NtStatus::INVALID_HANDLE }
    }
}

/// The dispatcher object of an object that can be waited for.
pub(crate) fn waitable(body: u64) -> Option<Ptr<DISPATCHER_HEADER>> {
    match super::type_of(body)? {
        ObjectType::File => Some(Ptr::new(
            body + core::mem::offset_of!(FILE_OBJECT, Event) as u64,
        )),
        ObjectType::Process | ObjectType::Thread | ObjectType::Event => Some(Ptr::new(body)),
        _ => None,
    }
}

/// The body behind a handle, NtCurrentProcess and NtCurrentThread included.
pub(crate) fn body_of(handle: u64) -> Option<u64> {
    match crate::raw::low32(handle).cast_signed() {
        -1 => Some(crate::ps::current_process().addr()),
        -2 => Some(crate::ps::current_thread().addr()),
        _ => handles::lookup(shared::current_process(), handle).map(|entry| entry.body),
    }
}
