//! Event objects by name and handle.

use super::attributes::{Attributes, OBJ_OPENIF, OBJ_PERMANENT};
use super::{ObjectType, create, dereference, handles, make_temporary, names, reference, type_of};
use crate::api::nt_api;
use crate::ke::event as ke_event;
use crate::nt::{KEVENT, NtStatus};
use crate::raw::{Ptr, Word, low8, to_word};
use crate::shared;
use crate::value::{Boolean, Handle, ObjectAttributesPtr, ProcessorMode, ULong};

const EVENT_QUERY_STATE: u32 = 1;
const EVENT_MODIFY_STATE: u32 = 2;

/// The event of that name, made if there is none; with a reference for the caller.
///
/// # Errors
/// OBJECT_TYPE_MISMATCH: the name is another object's. As [`names::insert_object`].
pub fn open_or_create(name: &str, kind: u8, is_signalled: bool) -> Result<u64, NtStatus> {
    match names::resolve(name) {
        Ok(found) if type_of(found.body) == Some(ObjectType::Event) && found.rest.is_empty() => {
            reference(found.body);
            Ok(found.body)
        }
        Ok(_) => Err(NtStatus::OBJECT_TYPE_MISMATCH),
        Err(_) => new(name, kind, is_signalled),
    }
}

fn new(name: &str, kind: u8, is_signalled: bool) -> Result<u64, NtStatus> {
    let body = create(ObjectType::Event, size_of::<KEVENT>() as u64, None)
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    ke_event::initialize(Ptr::new(body), kind, is_signalled);
    if !name.is_empty()
        && let Err(status) = names::insert_object(name, body)
    {
        dereference(body);
        return Err(status);
    }
    Ok(body)
}

fn create_event(
    handle: Ptr<Word>,
    access: u32,
    attributes: &Attributes,
    kind: u32,
    state: bool,
) -> Result<NtStatus, NtStatus> {
    if kind > 1 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let mut status = NtStatus::SUCCESS;
    let body = match new(&attributes.name, low8(u64::from(kind)), state) {
        Err(NtStatus::OBJECT_NAME_COLLISION) if attributes.flags & OBJ_OPENIF != 0 => {
            status = NtStatus::OBJECT_NAME_EXISTS;
            open_or_create(&attributes.name, 0, false)?
        }
        other => other?,
    };
    let number = attributes.insert_handle(body, ObjectType::Event, access);
    if status == NtStatus::SUCCESS && attributes.flags & OBJ_PERMANENT == 0 {
        make_temporary(body);
    }
    dereference(body);
    handle.write(to_word(number));
    Ok(status)
}

/// The event behind a handle that grants `access`, with a reference for the caller.
fn by_handle(handle: u64, access: u32) -> Result<Ptr<KEVENT>, NtStatus> {
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if type_of(entry.body) != Some(ObjectType::Event) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    if entry.access & access != access {
        return Err(NtStatus::ACCESS_DENIED);
    }
    reference(entry.body);
    Ok(Ptr::new(entry.body))
}

fn change(handle: u64, previous: Ptr<i32>, is_set: bool) -> NtStatus {
    match by_handle(handle, EVENT_MODIFY_STATE) {
        Ok(event) => {
            let old = if is_set {
                ke_event::KeSetEvent(event, 0, false)
            } else {
                ke_event::KeResetEvent(event)
            };
            dereference(event.addr());
            if !previous.is_null() {
                previous.write(old);
            }
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

nt_api! { module = ob_event;
    /// Makes an event, or with OBJ_OPENIF opens the one of that name (OBJECT_NAME_EXISTS).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwCreateEvent(
        event_handle: Ptr<Word>,
        desired_access: ULong,
        object_attributes: ObjectAttributesPtr,
        event_type: ULong,
        initial_state: Boolean,
    ) -> NtStatus {
        Attributes::read(object_attributes.0)
            .and_then(|attributes| {
                create_event(event_handle, desired_access, &attributes, event_type, initial_state)
            })
            .unwrap_or_else(|status| status)
    }

    /// Makes an event, or with OBJ_OPENIF opens the one of that name (OBJECT_NAME_EXISTS).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtCreateEvent(
        event_handle: Ptr<Word>,
        desired_access: ULong,
        object_attributes: ObjectAttributesPtr,
        event_type: ULong,
        initial_state: Boolean,
    ) -> NtStatus {
        ZwCreateEvent(event_handle, desired_access, object_attributes, event_type, initial_state)
    }

    /// Opens the event of a name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenEvent(event_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr) -> NtStatus {
        let opened = Attributes::read(object_attributes.0).and_then(|attributes| {
            if attributes.name.is_empty() {
                return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD);
            }
            let found = names::resolve(&attributes.name)?;
            if type_of(found.body) != Some(ObjectType::Event) {
                return Err(NtStatus::OBJECT_TYPE_MISMATCH);
            }
            Ok(attributes.insert_handle(found.body, ObjectType::Event, desired_access))
        });
        match opened {
            Ok(handle) => {
                event_handle.write(to_word(handle));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Signals an event.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwSetEvent(event_handle: Handle, previous_state: Ptr<i32>) -> NtStatus {
        change(event_handle.0, previous_state, true)
    }

    /// Signals an event.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtSetEvent(event_handle: Handle, previous_state: Ptr<i32>) -> NtStatus {
        change(event_handle.0, previous_state, true)
    }

    /// Resets an event and returns its old state.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwResetEvent(event_handle: Handle, previous_state: Ptr<i32>) -> NtStatus {
        change(event_handle.0, previous_state, false)
    }

    /// Resets an event.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwClearEvent(event_handle: Handle) -> NtStatus {
        change(event_handle.0, Ptr::null(), false)
    }

    /// An event's type and state (EVENT_BASIC_INFORMATION, class 0).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQueryEvent(
        event_handle: Handle,
        information_class: ULong,
        information: Ptr<u32>,
        information_length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        if information_class != 0 {
            return NtStatus::INVALID_INFO_CLASS;
        }
        if information_length != 8 {
            return NtStatus::INFO_LENGTH_MISMATCH;
        }
        match by_handle(event_handle.0, EVENT_QUERY_STATE) {
            Ok(event) => {
                let header = event.read().Header;
                information.write(u32::from(header.Type));
                information.offset(1).write(header.SignalState.cast_unsigned());
                if !return_length.is_null() {
                    return_length.write(8);
                }
                dereference(event.addr());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Waits for the object behind a handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("files are waited for by their event; a wait is not ended by an alert")
    fn NtWaitForSingleObject(handle: Handle, alertable: Boolean, timeout: Ptr<i64>) -> NtStatus {
        wait(handle.0, alertable, timeout)
    }
}

fn wait(handle: u64, alertable: bool, timeout: Ptr<i64>) -> NtStatus {
    const SYNCHRONIZE: u32 = 0x0010_0000;
    let entry = match super::api::entry_of(handle) {
        Some(entry) => entry,
        None => return NtStatus::INVALID_HANDLE,
    };
    let object = match type_of(entry.body) {
        Some(ObjectType::File) => crate::io::file::event_of(Ptr::new(entry.body)).addr(),
        Some(
            ObjectType::Event
            | ObjectType::Mutant
            | ObjectType::Semaphore
            | ObjectType::Timer
            | ObjectType::Thread
            | ObjectType::Process,
        ) => entry.body,
        _ => return NtStatus::OBJECT_TYPE_MISMATCH,
    };
    if entry.access & SYNCHRONIZE == 0 {
        return NtStatus::ACCESS_DENIED;
    }
    reference(entry.body);
    let status =
        ke_event::KeWaitForSingleObject(Ptr::new(object), 0, ProcessorMode(0), alertable, timeout);
    dereference(entry.body);
    status
}
