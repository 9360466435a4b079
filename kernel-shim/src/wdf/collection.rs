//! WDFCOLLECTION and WDFSTRING.

use super::object::{self, Body, Parent};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, Word, low16, unicode_string};
use crate::value::{Size, ULong, UnicodeStringPtr};
use alloc::string::String;
use alloc::vec::Vec;

/// The item at a position; 0: there is none.
fn item(handle: u64, which: impl Fn(&[u64]) -> Option<u64>) -> Wdf {
    Size(object::collection(handle, |items| which(items)).unwrap_or(0))
}

fn remove(handle: u64, index: usize) {
    let removed = object::collection(handle, |items| {
        (index < items.len()).then(|| items.remove(index))
    });
    if let Some(removed) = removed {
        object::dereference(removed);
    }
}

fn text(source: UnicodeStringPtr) -> Option<(String, Ptr<u8>)> {
    let units = unicode_string(source.0);
    let mut bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    bytes.extend([0, 0]);
    let buffer = pool::allocate_copy(&bytes, *b"WdfS")?;
    Some((String::from_utf16_lossy(&units), buffer))
}

/// Gives a WDFSTRING another text.
pub(crate) fn assign(handle: u64, text: &str) -> NtStatus {
    let bytes: Vec<u8> = text
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let Some(buffer) = pool::allocate_copy(&bytes, *b"WdfS") else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    let old = object::body(handle, |body| match body {
        Body::Text(known, at) => {
            *known = text.into();
            Some(core::mem::replace(at, buffer))
        }
        _ => None,
    });
    let Some(old) = old else {
        pool::free(buffer, 0);
        object::bad_handle(handle, "WDFSTRING")
    };
    pool::free(old, 0);
    NtStatus::SUCCESS
}

/// The text of a WDFSTRING.
pub(crate) fn text_of(handle: u64) -> String {
    let known = object::body(handle, |body| match body {
        Body::Text(text, _) => Some(text.clone()),
        _ => None,
    });
    known.unwrap_or_else(|| object::bad_handle(handle, "WDFSTRING"))
}

nt_api! { module = wdf_collection;
    /// WdfCollectionCreate: an empty collection.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionCreate(globals: Wdf, attributes: Ptr<WDF_OBJECT_ATTRIBUTES>, result: Ptr<Word>) -> NtStatus {
        object::required(result, "Collection");
        let parent = Parent::Default(loader::driver_of(globals.0));
        give(object::create(attributes, parent, Body::Collection(Vec::new())), result)
    }

    /// WdfCollectionGetCount: its objects.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionGetCount(globals: Wdf, handle: Wdf) -> ULong {
        object::collection(handle.0, |items| crate::raw::low32(items.len() as u64))
    }

    /// WdfCollectionAdd: at the end, with a reference.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionAdd(globals: Wdf, handle: Wdf, added: Wdf) -> NtStatus {
        object::collection(handle.0, |_| ());
        object::reference(added.0);
        object::collection(handle.0, |items| items.push(added.0));
        NtStatus::SUCCESS
    }

    /// WdfCollectionRemove: the first that is this object; nothing if none is.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionRemove(globals: Wdf, handle: Wdf, removed: Wdf) {
        let index = object::collection(handle.0, |items| items.iter().position(|&one| one == removed.0));
        if let Some(index) = index {
            remove(handle.0, index);
        }
    }

    /// WdfCollectionRemoveItem: the one at an index.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionRemoveItem(globals: Wdf, handle: Wdf, index: ULong) {
        remove(handle.0, index as usize);
    }

    /// WdfCollectionGetItem: the one at an index; NULL behind the end.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionGetItem(globals: Wdf, handle: Wdf, index: ULong) -> Wdf {
        item(handle.0, |items| items.get(index as usize).copied())
    }

    /// WdfCollectionGetFirstItem: NULL if it is empty.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionGetFirstItem(globals: Wdf, handle: Wdf) -> Wdf {
        item(handle.0, |items| items.first().copied())
    }

    /// WdfCollectionGetLastItem: NULL if it is empty.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfCollectionGetLastItem(globals: Wdf, handle: Wdf) -> Wdf {
        item(handle.0, |items| items.last().copied())
    }

    /// WdfStringCreate: a copy of a string; NULL for an empty one.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfStringCreate(
        globals: Wdf,
        source: UnicodeStringPtr,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "String");
        let Some((copy, buffer)) = text(source) else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        let parent = Parent::Default(loader::driver_of(globals.0));
        let made = object::create(attributes, parent, Body::Text(copy, buffer));
        if made.is_err() {
            pool::free(buffer, 0);
        }
        give(made, result)
    }

    /// WdfStringGetUnicodeString: its text, which stays the object's.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfStringGetUnicodeString(globals: Wdf, handle: Wdf, result: Ptr<UNICODE_STRING>) {
        let known = object::body(handle.0, |body| match body {
            Body::Text(text, buffer) => Some((2 * text.encode_utf16().count() as u64, *buffer)),
            _ => None,
        });
        let Some((bytes, buffer)) = known else { object::bad_handle(handle.0, "WDFSTRING") };
        result.write(UNICODE_STRING {
            Length: low16(bytes),
            MaximumLength: low16(bytes + 2),
            Buffer: buffer.cast(),
        });
    }
}
