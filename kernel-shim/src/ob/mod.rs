//! The object manager: objects with reference counts, the namespace, handles.
//!
//! Every object has a body in pool memory, which drivers see, behind a header that only its counts of are real. The rest
//! of what the object manager knows is kept in the shim's heap by the body's address.

pub mod api;
pub mod attributes;
pub mod callbacks;
pub mod directory;
pub mod event;
pub mod handles;
pub mod names;
pub mod query;
pub mod types;

use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::ex::pool;
use crate::nt::bugcheck::{REFERENCE_BY_POINTER, bugcheck_with_text};
use crate::raw::{Global, Ptr, to_word};

/// Bytes of NT's OBJECT_HEADER, in front of every body: PointerCount, HandleCount, ...
pub const HEADER_BYTES: u64 = if cfg!(nt_i386) { 0x18 } else { 0x30 };

/// What kind of object it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectType {
    /// DEVICE_OBJECT.
    Device,
    /// DRIVER_OBJECT.
    Driver,
    /// FILE_OBJECT.
    File,
    /// Section.
    Section,
    /// EPROCESS.
    Process,
    /// ETHREAD.
    Thread,
    /// KEVENT.
    Event,
    /// KMUTANT.
    Mutant,
    /// KSEMAPHORE.
    Semaphore,
    /// KTIMER.
    Timer,
    /// A directory of the namespace.
    Directory,
    /// A symbolic link of the namespace.
    SymbolicLink,
    /// OBJECT_TYPE.
    Type,
    /// ADAPTER_OBJECT.
    Adapter,
    /// CONTROLLER_OBJECT.
    Controller,
    /// CALLBACK_OBJECT.
    Callback,
    /// Access token.
    Token,
    /// Registry key.
    Key,
    /// Job.
    Job,
    /// I/O completion port.
    IoCompletion,
    /// Desktop.
    Desktop,
    /// Window station.
    WindowStation,
    /// An open WMI block.
    WmiGuid,
}

impl ObjectType {
    /// NT's name of the type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "Device",
            Self::Driver => "Driver",
            Self::File => "File",
            Self::Section => "Section",
            Self::Process => "Process",
            Self::Thread => "Thread",
            Self::Event => "Event",
            Self::Mutant => "Mutant",
            Self::Semaphore => "Semaphore",
            Self::Timer => "Timer",
            Self::Directory => "Directory",
            Self::SymbolicLink => "SymbolicLink",
            Self::Type => "Type",
            Self::Adapter => "Adapter",
            Self::Controller => "Controller",
            Self::Callback => "Callback",
            Self::Token => "Token",
            Self::Key => "Key",
            Self::Job => "Job",
            Self::IoCompletion => "IoCompletion",
            Self::Desktop => "Desktop",
            Self::WindowStation => "WindowStation",
            Self::WmiGuid => "WmiGuid",
        }
    }
}

/// Called when the last reference is gone, before the body is freed; it may call the driver.
pub type Delete = fn(body: u64);

/// What is known about an object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its type.
    pub kind: ObjectType,
    /// Its full name, as it was given; empty for an object without one.
    pub name: String,
    /// References, handles included.
    pub references: u32,
    /// Handles.
    pub handles: u32,
    /// Cleanup.
    pub delete: Option<Delete>,
    /// Its name goes with its last handle.
    pub is_temporary: bool,
}

static OBJECTS: Global<BTreeMap<u64, Object>> = Global::new("objects", BTreeMap::new());

/// Forgets everything.
pub fn initialize() {
    OBJECTS.with(BTreeMap::clear);
    handles::initialize();
    names::initialize();
    directory::initialize();
    types::initialize();
    callbacks::initialize();
}

/// Makes an object with a zeroed body of `bytes` and one reference. `None` when the pool is exhausted.
#[must_use]
pub fn create(kind: ObjectType, bytes: u64, delete: Option<Delete>) -> Option<u64> {
    // The body is page-aligned or not as the pool sees fit; its alignment is that of the header's size.
    let header = pool::allocate_zeroed(HEADER_BYTES + bytes, *b"Obj ")?;
    let body = header.addr() + HEADER_BYTES;
    let object = Object {
        kind,
        name: String::new(),
        references: 1,
        handles: 0,
        delete,
        is_temporary: false,
    };
    OBJECTS.with(|objects| objects.insert(body, object));
    show_counts(body, 1, 0);
    Some(body)
}

/// Writes the counts where a debugger, or a driver that knows too much, looks for them.
fn show_counts(body: u64, references: u32, handles: u32) {
    let header = Ptr::<crate::raw::Word>::new(body - HEADER_BYTES);
    header.write(to_word(u64::from(references)));
    header.offset(1).write(to_word(u64::from(handles)));
}

/// What is known about the object with that body.
#[must_use]
pub fn lookup(body: u64) -> Option<Object> {
    OBJECTS.with(|objects| objects.get(&body).cloned())
}

/// The type of the object with that body.
#[must_use]
pub fn type_of(body: u64) -> Option<ObjectType> {
    OBJECTS.with(|objects| objects.get(&body).map(|object| object.kind))
}

fn change<R>(body: u64, change: impl FnOnce(&mut Object) -> R) -> R {
    let result = OBJECTS.with(|objects| {
        objects.get_mut(&body).map(|object| {
            let result = change(object);
            (result, object.references, object.handles)
        })
    });
    let Some((result, references, handles)) = result else {
        bugcheck_with_text(
            REFERENCE_BY_POINTER,
            [0, body, 0, 0],
            format_args!("{body:#x} is no object"),
        );
    };
    show_counts(body, references, handles);
    result
}

/// Adds a reference. An address that is no object's is a bugcheck.
pub fn reference(body: u64) -> u32 {
    change(body, |object| {
        object.references += 1;
        object.references
    })
}

/// Whether an object has one reference only.
pub(crate) fn is_last_reference(body: u64) -> bool {
    OBJECTS.with(|objects| {
        objects
            .get(&body)
            .is_some_and(|object| object.references == 1)
    })
}

/// Takes a reference away, and deletes the object with the last one.
pub fn dereference(body: u64) -> u32 {
    let left = change(body, |object| {
        object.references = object.references.saturating_sub(1);
        object.references
    });
    if left == 0 {
        let delete = OBJECTS.with(|objects| objects.get(&body).and_then(|object| object.delete));
        if let Some(delete) = delete {
            delete(body);
        }
        OBJECTS.with(|objects| objects.remove(&body));
        crate::se::object::forget(body);
        pool::free(Ptr::new(body - HEADER_BYTES), 0);
    }
    left
}

/// Lets an object's name go with its last handle, or at once if it has none (ZwMakeTemporaryObject).
pub fn make_temporary(body: u64) {
    let handles = change(body, |object| {
        object.is_temporary = true;
        object.handles
    });
    if handles == 0 {
        unname(body);
    }
}

/// Takes an object's name away; what NT keeps for a name (a reference) is not kept here.
fn unname(body: u64) {
    names::remove_object(body);
    change(body, |object| object.name.clear());
}

/// The last handle of an object is closed.
pub(crate) fn last_handle_closed(body: u64) {
    if lookup(body).is_some_and(|object| object.is_temporary) {
        unname(body);
    }
}

/// Gives an object its name.
pub(crate) fn set_name(body: u64, name: &str) {
    change(body, |object| object.name = String::from(name));
}

pub(crate) fn change_handles(body: u64, difference: i32) -> u32 {
    change(body, |object| {
        object.handles = object.handles.saturating_add_signed(difference);
        object.handles
    })
}
