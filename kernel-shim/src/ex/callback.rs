//! Callback objects: named lists of routines, \Callback\PowerState, SetSystemTime and ProcessorAdd among them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Global, Ptr, Word, unicode_text};
use crate::shared;
use abi::trace::Entry;

use crate::value::{Boolean, ObjectAttributesPtr};

/// Bytes of a callback object: opaque to drivers.
const BODY_BYTES: u64 = 0x38;
/// What NT makes at boot.
const SYSTEM: [&str; 3] = [
    "\\Callback\\SetSystemTime",
    "\\Callback\\PowerState",
    "\\Callback\\ProcessorAdd",
];
/// OBJ_PERMANENT.
const PERMANENT: u32 = 0x10;

#[derive(Clone, Copy, Debug)]
struct Registration {
    handle: u64,
    function: u64,
    context: u64,
}

#[derive(Debug, Default)]
struct Callback {
    allows_multiple: bool,
    registrations: Vec<Registration>,
}

#[derive(Debug)]
struct Callbacks {
    objects: BTreeMap<u64, Callback>,
    /// Registrations so far: a handle is an address that nothing lies at.
    count: u64,
}

static CALLBACKS: Global<Callbacks> = Global::new(
    "callback objects",
    Callbacks {
        objects: BTreeMap::new(),
        count: 0,
    },
);

/// Makes NT's own callback objects.
pub(crate) fn initialize() {
    CALLBACKS.with(|callbacks| {
        callbacks.objects.clear();
        callbacks.count = 0;
    });
    for name in SYSTEM {
        // A new pool has room, and nobody else has these names.
        let _ = create(name, true);
    }
}

fn create(name: &str, allows_multiple: bool) -> Result<u64, NtStatus> {
    let body = ob::create(ObjectType::Callback, BODY_BYTES, Some(delete))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    Ptr::<u8>::new(body).write_bytes(b"Call");
    if !name.is_empty()
        && let Err(status) = names::insert_object(name, body)
    {
        ob::dereference(body);
        return Err(status);
    }
    let callback = Callback {
        allows_multiple,
        registrations: Vec::new(),
    };
    CALLBACKS.with(|callbacks| callbacks.objects.insert(body, callback));
    Ok(body)
}

fn delete(body: u64) {
    names::remove_object(body);
    CALLBACKS.with(|callbacks| callbacks.objects.remove(&body));
}

/// Opens the callback of that name, or makes it.
fn open_or_create(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    may_create: bool,
    multiple: bool,
) -> Result<u64, NtStatus> {
    let given = attributes.non_null().map(Ptr::read);
    let name = given.map_or_else(Default::default, |given| {
        given
            .ObjectName
            .non_null()
            .map_or_else(Default::default, unicode_text)
    });
    if !name.is_empty() {
        match names::resolve(&name) {
            Ok(found)
                if ob::type_of(found.body) == Some(ObjectType::Callback)
                    && found.rest.is_empty() =>
            {
                ob::reference(found.body);
                return Ok(found.body);
            }
            Ok(_) => return Err(NtStatus::OBJECT_TYPE_MISMATCH),
            Err(status) if !may_create => return Err(status),
            Err(_) => {}
        }
    } else if !may_create {
        return Err(NtStatus::UNSUCCESSFUL);
    }
    let body = create(&name, multiple)?;
    if given.is_some_and(|given| given.Attributes & PERMANENT != 0) {
        ob::reference(body);
    }
    Ok(body)
}

nt_api! { module = ex_callback;
    /// Opens the callback object of that name, or makes one, with or without a name; adds a reference to it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExCreateCallback(
        callback: Ptr<Word>, attributes: ObjectAttributesPtr, create: Boolean, allow_multiple: Boolean,
    ) -> NtStatus {
        match open_or_create(attributes.0, create, allow_multiple) {
            Ok(body) => {
                callback.write(crate::raw::to_word(body));
                NtStatus::SUCCESS
            }
            Err(status) => {
                callback.write(0);
                status
            }
        }
    }

    /// Registers a routine, called as (context, argument 1, argument 2). Null: the object allows one, and has it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExRegisterCallback(callback: Ptr<u8>, function: Ptr<u8>, context: Ptr<u8>) -> Ptr<u8> {
        let handle = CALLBACKS.with(|callbacks| {
            let object = callbacks.objects.get_mut(&callback.addr())?;
            if !object.allows_multiple && !object.registrations.is_empty() {
                return None;
            }
            callbacks.count += 1;
            // Odd, so that it is no block's address.
            let handle = Ptr::<u8>::new(callback.addr() + 2 * callbacks.count + 1).addr();
            object.registrations.push(Registration {
                handle,
                function: function.addr(),
                context: context.addr(),
            });
            Some(handle)
        });
        let Some(handle) = handle else { return Ptr::null() };
        ob::reference(callback.addr());
        Ptr::new(handle)
    }

    /// Takes a routine back.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExUnregisterCallback(registration: Ptr<u8>) {
        let body = CALLBACKS.with(|callbacks| {
            callbacks.objects.iter_mut().find_map(|(body, object)| {
                let position = object
                    .registrations
                    .iter()
                    .position(|known| known.handle == registration.addr())?;
                object.registrations.remove(position);
                Some(*body)
            })
        });
        if let Some(body) = body {
            ob::dereference(body);
        }
    }

    /// Calls all registered routines, in the order of registration, at the caller's IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExNotifyCallback(callback: Ptr<u8>, argument_1: Ptr<u8>, argument_2: Ptr<u8>) {
        let registrations = CALLBACKS.with(|callbacks| {
            callbacks.objects.get(&callback.addr()).map(|object| object.registrations.clone())
        });
        for registration in registrations.unwrap_or_default() {
            let is_still_there = CALLBACKS.with(|callbacks| {
                callbacks.objects.get(&callback.addr()).is_some_and(|object| {
                    object.registrations.iter().any(|known| known.handle == registration.handle)
                })
            });
            if is_still_there {
                let arguments = [registration.context, argument_1.addr(), argument_2.addr()];
                shared::call_driver(Entry::Other, registration.function, &arguments);
            }
        }
    }
}
