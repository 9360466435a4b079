//! WdfObject...: what all objects have in common.

use super::object::{self, Body, Parent};
use super::{WDF_OBJECT_ATTRIBUTES, Wdf};
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, Word, to_word};
use crate::value::{Long, Size};

/// Stores a new object's handle where the driver wants it.
pub(crate) fn give(result: Result<u64, NtStatus>, at: Ptr<Word>) -> NtStatus {
    match result {
        Ok(handle) => {
            if !at.is_null() {
                at.write(to_word(handle));
            }
            NtStatus::SUCCESS
        }
        Err(status) => {
            if !at.is_null() {
                at.write(0);
            }
            status
        }
    }
}

nt_api! { module = wdf_object;
    /// WdfObjectCreate: an object with nothing but its context; a child of the driver unless the attributes name a parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectCreate(globals: Wdf, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>, result: Ptr<Word>) -> NtStatus {
        object::required(result, "Object");
        let parent = Parent::Default(super::loader::driver_of(globals.0));
        give(object::create(attributes, parent, Body::General), result)
    }

    /// WdfObjectDelete: deletes an object and its children.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectDelete(globals: Wdf, handle: Wdf) {
        object::delete(handle.0);
    }

    /// WdfObjectReferenceActual: a reference keeps the object's contexts after its deletion.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectReferenceActual(globals: Wdf, handle: Wdf, tag: Ptr<u8>, line: Long, file: Ptr<u8>) {
        object::reference(handle.0);
    }

    /// WdfObjectDereferenceActual: takes a reference away.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectDereferenceActual(globals: Wdf, handle: Wdf, tag: Ptr<u8>, line: Long, file: Ptr<u8>) {
        object::dereference(handle.0);
    }

    /// WdfObjectGetTypedContextWorker: the context of a type; NULL if the object has none.
    wdf both fastcall irql(ANY_LEVEL) implemented
    fn WdfObjectGetTypedContextWorker(globals: Wdf, handle: Wdf, unique_type: Size) -> Ptr<u8> {
        object::context_of(handle.0, unique_type.0)
    }

    /// WdfObjectContextGetObject: the object that a context belongs to.
    wdf both fastcall irql(ANY_LEVEL) implemented
    fn WdfObjectContextGetObject(globals: Wdf, context: Ptr<u8>) -> Wdf {
        match object::of_context(context.addr()) {
            0 => object::bad_handle(context.addr(), "context"),
            handle => Size(handle),
        }
    }

    /// WdfObjectAllocateContext: one more context; STATUS_OBJECT_NAME_EXISTS if there is one of that type.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfObjectAllocateContext(
        globals: Wdf,
        handle: Wdf,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        context: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        object::required(attributes, "ContextAttributes");
        let added = object::attributes(attributes).and_then(|wanted| object::add_context(handle.0, &wanted));
        let (memory, status) = match added {
            Ok((memory, true)) => (memory, NtStatus::SUCCESS),
            Ok((memory, false)) => (memory, NtStatus::OBJECT_NAME_EXISTS),
            Err(status) => (Ptr::null(), status),
        };
        if !context.is_null() {
            context.write(memory);
        }
        status
    }
}
