//! Objects: handles, parents and children, references, contexts.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{
    OBJECT_ATTRIBUTES_INVALID, PARENT_ASSIGNMENT_NOT_ALLOWED, PARENT_NOT_SPECIFIED,
    WDF_OBJECT_ATTRIBUTES, WDF_OBJECT_CONTEXT_TYPE_INFO,
};
use crate::ex::pool;
use crate::nt::bugcheck::{WDF_VIOLATION, bugcheck_with_text};
use crate::nt::{DRIVER_OBJECT, NtStatus};
use crate::raw::{Global, Ptr, from_word, low32};
use crate::shared::{self, CallSite};
use crate::table;
use abi::trace::Entry;

/// WDF_VIOLATION: a required parameter is NULL.
pub const PARAMETER_IS_NULL: u64 = 4;
/// WDF_VIOLATION: a handle is none, or of another type.
pub const INVALID_HANDLE: u64 = 5;
/// WDF_VIOLATION: a lock's rules were broken.
pub const INVALID_LOCK_OPERATION: u64 = 0xB;
/// WDF_VIOLATION: a wait lock is acquired by its owner.
pub const RECURSIVE_LOCK: u64 = 2;

/// Driver memory that belongs to an object.
#[derive(Clone, Copy, Debug)]
struct Context {
    unique_type: u64,
    memory: Ptr<u8>,
    cleanup: u64,
    destroy: u64,
}

/// What an object is.
#[derive(Debug)]
pub(crate) enum Body {
    General,
    Driver(super::driver::Driver),
    Device(Box<super::device::Device>),
    Queue(super::queue::Queue),
    Request(super::request::Request),
    File(super::device::File),
    Memory(super::memory::Memory),
    Lookaside(super::memory::Lookaside),
    Deferred(super::deferred::Deferred),
    Lock(super::sync::Lock),
    Collection(Vec<u64>),
    Text(String, Ptr<u8>),
    Key(u64),
}

#[derive(Debug)]
struct Object {
    parent: u64,
    children: Vec<u64>,
    references: u32,
    is_deleted: bool,
    contexts: Vec<Context>,
    body: Body,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<u64, Object>,
    /// Handles of what the kernel knows by an address: IRPs, devices, files.
    by_address: BTreeMap<u64, u64>,
    next: u64,
}

static STATE: Global<State> = Global::new(
    "KMDF objects",
    State {
        objects: BTreeMap::new(),
        by_address: BTreeMap::new(),
        next: 0,
    },
);

/// The first handle; they look like no address that a driver has.
const FIRST: u64 = 0x5744_0010;

pub(super) fn initialize() {
    STATE.with(|state| {
        state.objects.clear();
        state.by_address.clear();
        state.next = FIRST;
    });
}

/// The name of the function that the driver called.
fn function() -> &'static str {
    let number = CallSite::current().export;
    table::EXPORTS
        .get(number as usize)
        .map_or("KMDF", |export| export.name)
}

/// Stops the guest with WDF_VIOLATION.
pub fn violation(code: u64, parameters: [u64; 2], text: fmt::Arguments<'_>) -> ! {
    let [first, second] = parameters;
    bugcheck_with_text(
        WDF_VIOLATION,
        [code, first, second, 0],
        format_args!("{}: {text}", function()),
    )
}

/// Stops the guest: `handle` is no object of the type that the function wants.
pub fn bad_handle(handle: u64, wanted: &str) -> ! {
    violation(
        INVALID_HANDLE,
        [handle, 0],
        format_args!("{handle:#x} is no handle of a {wanted}"),
    )
}

/// Stops the guest if a required pointer is NULL.
pub fn required<T>(pointer: Ptr<T>, name: &str) {
    if pointer.is_null() {
        violation(
            PARAMETER_IS_NULL,
            [0, shared::caller()],
            format_args!("{name} is NULL"),
        );
    }
}

/// Works on an object's body; `None`: there is no such object.
pub(crate) fn body<R>(handle: u64, work: impl FnOnce(&mut Body) -> Option<R>) -> Option<R> {
    STATE.with(|state| work(&mut state.objects.get_mut(&handle)?.body))
}

macro_rules! bodies {
    ($($name:ident: $variant:ident($type:ty) = $wanted:literal;)*) => {$(
        /// Works on the body of an object of this type; another handle stops the guest.
        pub(crate) fn $name<R>(handle: u64, work: impl FnOnce(&mut $type) -> R) -> R {
            let result = body(handle, |body| match body {
                Body::$variant(inner) => Some(work(inner)),
                _ => None,
            });
            result.unwrap_or_else(|| bad_handle(handle, $wanted))
        }
    )*};
}

bodies! {
    driver: Driver(super::driver::Driver) = "WDFDRIVER";
    device: Device(super::device::Device) = "WDFDEVICE";
    queue: Queue(super::queue::Queue) = "WDFQUEUE";
    request: Request(super::request::Request) = "WDFREQUEST";
    file: File(super::device::File) = "WDFFILEOBJECT";
    memory: Memory(super::memory::Memory) = "WDFMEMORY";
    lookaside: Lookaside(super::memory::Lookaside) = "WDFLOOKASIDE";
    deferred: Deferred(super::deferred::Deferred) = "timer, DPC or work item";
    lock: Lock(super::sync::Lock) = "lock";
    collection: Collection(Vec<u64>) = "WDFCOLLECTION";
    key: Key(u64) = "WDFKEY";
}

/// Whether there is an object of that handle.
pub(crate) fn exists(handle: u64) -> bool {
    STATE.with(|state| state.objects.contains_key(&handle))
}

/// Stops the guest if there is none.
pub(crate) fn check(handle: u64) {
    if !exists(handle) {
        bad_handle(handle, "WDFOBJECT");
    }
}

/// The queues of a device, in the order of their creation.
pub(crate) fn queues_of(device: u64) -> Vec<u64> {
    STATE.with(|state| {
        let objects = state.objects.iter();
        let queues = objects.filter(
            |(_, object)| matches!(&object.body, Body::Queue(queue) if queue.device == device),
        );
        queues.map(|(&handle, _)| handle).collect()
    })
}

/// The parent of an object; 0: none.
pub(crate) fn parent(handle: u64) -> u64 {
    STATE.with(|state| state.objects.get(&handle).map_or(0, |object| object.parent))
}

/// Remembers by which handle the kernel's object at `address` is known.
pub(crate) fn associate(address: u64, handle: u64) {
    STATE.with(|state| state.by_address.insert(address, handle));
}

/// The handle of a kernel's object.
pub(crate) fn by_address(address: u64) -> Option<u64> {
    STATE.with(|state| state.by_address.get(&address).copied())
}

/// Who the parent of a new object is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parent {
    /// This one, unless the attributes name another.
    Default(u64),
    /// This one; the attributes may name none.
    Fixed(u64),
    /// The attributes have to name it.
    Required,
}

/// Reads and checks attributes; NULL is allowed.
pub(crate) fn attributes(
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
) -> Result<WDF_OBJECT_ATTRIBUTES, NtStatus> {
    let Some(attributes) = attributes.non_null() else {
        return Ok(WDF_OBJECT_ATTRIBUTES::default());
    };
    let read = attributes.read();
    if u64::from(read.Size) != size_of::<WDF_OBJECT_ATTRIBUTES>() as u64 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let least = Ptr::<WDF_OBJECT_CONTEXT_TYPE_INFO>::new(from_word(read.ContextTypeInfo))
        .non_null()
        .map(|info| info.read().ContextSize);
    let is_bad_size =
        read.ContextSizeOverride != 0 && least.is_none_or(|least| read.ContextSizeOverride < least);
    if is_bad_size || read.ExecutionLevel > 3 || read.SynchronizationScope > 4 {
        return Err(OBJECT_ATTRIBUTES_INVALID);
    }
    Ok(read)
}

/// Makes the context that attributes describe; `None`: they describe no context and no callback.
fn context(attributes: &WDF_OBJECT_ATTRIBUTES) -> Result<Option<Context>, NtStatus> {
    let info = Ptr::<WDF_OBJECT_CONTEXT_TYPE_INFO>::new(from_word(attributes.ContextTypeInfo));
    let (cleanup, destroy) = (
        from_word(attributes.EvtCleanupCallback),
        from_word(attributes.EvtDestroyCallback),
    );
    let Some(info) = info.non_null() else {
        let is_wanted = cleanup != 0 || destroy != 0;
        return Ok(is_wanted.then_some(Context {
            unique_type: 0,
            memory: Ptr::null(),
            cleanup,
            destroy,
        }));
    };
    let read = info.read();
    let unique_type = if read.EvtDriverGetUniqueContextType != 0 {
        let routine = from_word(read.EvtDriverGetUniqueContextType);
        shared::call_driver(Entry::Other, routine, &[])
    } else if read.UniqueType != 0 {
        from_word(read.UniqueType)
    } else {
        info.addr()
    };
    let bytes = from_word(read.ContextSize.max(attributes.ContextSizeOverride));
    let memory =
        pool::allocate_zeroed(bytes.max(1), *b"WdfC").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    Ok(Some(Context {
        unique_type: Ptr::<u8>::new(unique_type).addr(),
        memory,
        cleanup,
        destroy,
    }))
}

/// Makes an object; its handle. The body is lost when that fails.
pub(crate) fn create(
    wanted: Ptr<WDF_OBJECT_ATTRIBUTES>,
    parent: Parent,
    body: Body,
) -> Result<u64, NtStatus> {
    let wanted = attributes(wanted)?;
    let named = from_word(wanted.ParentObject);
    let parent = match parent {
        Parent::Default(parent) if named == 0 => parent,
        Parent::Fixed(parent) if named == 0 => parent,
        Parent::Fixed(_) => return Err(PARENT_ASSIGNMENT_NOT_ALLOWED),
        Parent::Required if named == 0 => return Err(PARENT_NOT_SPECIFIED),
        Parent::Default(_) | Parent::Required => {
            check(named);
            named
        }
    };
    let context = context(&wanted)?;
    Ok(STATE.with(|state| {
        let handle = state.next;
        state.next += 0x10;
        if let Some(parent) = state.objects.get_mut(&parent) {
            parent.children.push(handle);
        }
        let object = Object {
            parent,
            children: Vec::new(),
            references: 1,
            is_deleted: false,
            contexts: context.into_iter().collect(),
            body,
        };
        state.objects.insert(handle, object);
        handle
    }))
}

/// The context of a type; NULL: the object has none.
pub(crate) fn context_of(handle: u64, unique_type: u64) -> Ptr<u8> {
    check(handle);
    STATE.with(|state| {
        let contexts = state.objects.get(&handle).map(|object| &object.contexts);
        contexts
            .into_iter()
            .flatten()
            .find(|context| !context.memory.is_null() && context.unique_type == unique_type)
            .map_or_else(Ptr::null, |context| context.memory)
    })
}

/// The object that a context belongs to; 0: none.
pub(crate) fn of_context(memory: u64) -> u64 {
    STATE.with(|state| {
        let mut objects = state.objects.iter();
        objects
            .find(|(_, object)| {
                let mut contexts = object.contexts.iter();
                contexts.any(|context| context.memory.addr() == memory)
            })
            .map_or(0, |(&handle, _)| handle)
    })
}

/// Adds a context; its memory, and whether it is new.
pub(crate) fn add_context(
    handle: u64,
    wanted: &WDF_OBJECT_ATTRIBUTES,
) -> Result<(Ptr<u8>, bool), NtStatus> {
    check(handle);
    let added = context(wanted)?
        .filter(|context| !context.memory.is_null())
        .ok_or(NtStatus::OBJECT_NAME_INVALID)?;
    let old = context_of(handle, added.unique_type);
    if !old.is_null() {
        pool::free(added.memory, 0);
        return Ok((old, false));
    }
    STATE.with(|state| {
        if let Some(object) = state.objects.get_mut(&handle) {
            object.contexts.push(added);
        }
    });
    Ok((added.memory, true))
}

/// Adds a reference.
pub(crate) fn reference(handle: u64) {
    check(handle);
    STATE.with(|state| {
        if let Some(object) = state.objects.get_mut(&handle) {
            object.references += 1;
        }
    });
}

/// Takes a reference away; the last one ends the object.
pub(crate) fn dereference(handle: u64) {
    check(handle);
    let is_last = STATE.with(|state| {
        let object = state.objects.get_mut(&handle);
        object.is_some_and(|object| {
            object.references -= 1;
            object.references == 0
        })
    });
    if !is_last {
        return;
    }
    let destroy = callbacks(handle, |context| context.destroy);
    for routine in destroy {
        shared::call_driver(Entry::Other, routine, &[handle]);
    }
    let gone = STATE.with(|state| {
        let object = state.objects.remove(&handle)?;
        if let Some(parent) = state.objects.get_mut(&object.parent) {
            parent.children.retain(|&child| child != handle);
        }
        state.by_address.retain(|_, &mut known| known != handle);
        Some(object)
    });
    let Some(gone) = gone else { return };
    super::serial::forget(handle);
    for context in gone.contexts {
        if !context.memory.is_null() {
            pool::free(context.memory, 0);
        }
    }
    match gone.body {
        Body::Memory(memory) => memory.release(),
        Body::Deferred(deferred) => deferred.release(),
        Body::Lock(lock) => lock.release(),
        Body::Text(_, buffer) => pool::free(buffer, 0),
        Body::Key(handle) => {
            let _ = crate::ob::api::ZwClose(crate::value::Handle(handle));
        }
        _ => {}
    }
}

fn callbacks(handle: u64, which: impl Fn(&Context) -> u64) -> Vec<u64> {
    STATE.with(|state| {
        let contexts = state.objects.get(&handle).map(|object| &object.contexts);
        let all = contexts.into_iter().flatten().map(which);
        all.filter(|&routine| routine != 0).collect()
    })
}

/// An object and all below it, children before parents.
fn tree(handle: u64) -> Vec<u64> {
    let children = STATE.with(|state| {
        let object = state.objects.get(&handle);
        object.map_or(Vec::new(), |object| object.children.clone())
    });
    let mut all: Vec<u64> = children.into_iter().rev().flat_map(tree).collect();
    all.push(handle);
    all
}

/// Deletes an object and its children: cleanup callbacks, children first; then the references that kept them.
pub(crate) fn delete(handle: u64) {
    check(handle);
    let all: Vec<u64> = tree(handle)
        .into_iter()
        .filter(|&one| {
            STATE.with(|state| {
                let object = state.objects.get_mut(&one);
                object.is_some_and(|object| !core::mem::replace(&mut object.is_deleted, true))
            })
        })
        .collect();
    if !all.contains(&handle) {
        violation(
            7,
            [handle, 0],
            format_args!("{handle:#x} is deleted a second time"),
        );
    }
    for &one in &all {
        dispose(one);
        for routine in callbacks(one, |context| context.cleanup) {
            shared::call_driver(Entry::Other, routine, &[one]);
        }
    }
    for one in all {
        dereference(one);
    }
}

/// Stops what an object does.
fn dispose(handle: u64) {
    let stop = body(handle, |body| match body {
        Body::Deferred(deferred) => Some(deferred.stop()),
        _ => None,
    });
    let device = body(handle, |body| match body {
        Body::Device(device) => Some((device.object, core::mem::take(&mut device.links))),
        _ => None,
    });
    let _ = stop;
    if let Some((object, links)) = device {
        for link in links {
            let _ = crate::ob::names::remove_link(&link);
        }
        crate::io::device::delete(object);
    }
}

/// The driver of an object, as its DRIVER_OBJECT.
pub(crate) fn driver_object(handle: u64) -> Ptr<DRIVER_OBJECT> {
    driver(handle, |driver| driver.object)
}

/// An NTSTATUS that a callback returned.
pub(crate) fn status(word: u64) -> NtStatus {
    NtStatus(low32(word))
}
