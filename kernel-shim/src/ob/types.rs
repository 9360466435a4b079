//! Object types: the OBJECT_TYPE of each, the variables that drivers import them by, and how generic rights map.

use alloc::collections::BTreeMap;
use alloc::format;

use super::{ObjectType, create, names};
use crate::api::nt_data;
use crate::nt::{LIST_ENTRY, UNICODE_STRING};
use crate::raw::{DataCell, Global, Ptr, Word, low16};

/// OBJECT_TYPE as far as it is filled in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct OBJECT_TYPE {
    TypeList: LIST_ENTRY,
    Name: UNICODE_STRING,
    DefaultObject: Word,
    Index: u8,
}

/// Bytes of an OBJECT_TYPE's body with its name.
const BODY_BYTES: u64 = 0x100;
/// Where in it the name's units are.
const NAME_AT: u64 = 0xC0;

static TYPES: Global<BTreeMap<&'static str, u64>> = Global::new("object types", BTreeMap::new());

/// All types, in NT's order as far as it has one.
const ALL: [ObjectType; 23] = [
    ObjectType::Type,
    ObjectType::Directory,
    ObjectType::SymbolicLink,
    ObjectType::Token,
    ObjectType::Job,
    ObjectType::Process,
    ObjectType::Thread,
    ObjectType::Event,
    ObjectType::Mutant,
    ObjectType::Callback,
    ObjectType::Semaphore,
    ObjectType::Timer,
    ObjectType::WindowStation,
    ObjectType::Desktop,
    ObjectType::Section,
    ObjectType::Key,
    ObjectType::Adapter,
    ObjectType::Controller,
    ObjectType::Device,
    ObjectType::Driver,
    ObjectType::IoCompletion,
    ObjectType::File,
    ObjectType::WmiGuid,
];

/// The variables that drivers import, with the type each points to.
fn exported() -> [(&'static DataCell<Word>, ObjectType); 16] {
    [
        (&IoFileObjectType, ObjectType::File),
        (&IoDeviceObjectType, ObjectType::Device),
        (&IoDriverObjectType, ObjectType::Driver),
        (&IoAdapterObjectType, ObjectType::Adapter),
        (&IoCompletionObjectType, ObjectType::IoCompletion),
        (&ExEventObjectType, ObjectType::Event),
        (&ExSemaphoreObjectType, ObjectType::Semaphore),
        (&ExTimerObjectType, ObjectType::Timer),
        (&ExDesktopObjectType, ObjectType::Desktop),
        (&ExWindowStationObjectType, ObjectType::WindowStation),
        (&MmSectionObjectType, ObjectType::Section),
        (&PsProcessType, ObjectType::Process),
        (&PsThreadType, ObjectType::Thread),
        (&PsJobType, ObjectType::Job),
        (&SeTokenObjectType, ObjectType::Token),
        (&CmKeyObjectType, ObjectType::Key),
    ]
}

/// Makes the OBJECT_TYPEs and puts them into \ObjectTypes.
///
/// # Panics
/// When a new pool has no room for them.
pub fn initialize() {
    TYPES.with(BTreeMap::clear);
    for (index, kind) in ALL.into_iter().enumerate() {
        let body = create(ObjectType::Type, BODY_BYTES, None)
            .expect("a new pool has room for the object types");
        let name = Ptr::<u8>::new(body + NAME_AT);
        let mut bytes = 0;
        for (unit, at) in kind.name().encode_utf16().zip(0..) {
            name.cast::<u16>().offset(at).write(unit);
            bytes += 2;
        }
        Ptr::<OBJECT_TYPE>::new(body).with(|object_type| {
            object_type.Name = UNICODE_STRING {
                Length: low16(bytes),
                MaximumLength: low16(bytes + 2),
                Buffer: name.cast(),
            };
            object_type.Index = crate::raw::low8(index as u64 + 1);
        });
        let list: Ptr<LIST_ENTRY> = Ptr::new(body);
        list.list_initialize();
        TYPES.with(|types| types.insert(kind.name(), body));
        names::insert_object(&format!("\\ObjectTypes\\{}", kind.name()), body)
            .expect("the directory of the types is there and empty");
    }
    for (variable, kind) in exported() {
        variable.ptr().write(object(kind).word());
    }
}

/// The OBJECT_TYPE of a type.
#[must_use]
pub fn object(kind: ObjectType) -> Ptr<u8> {
    Ptr::new(TYPES.with(|types| types.get(kind.name()).copied().unwrap_or(0)))
}

/// OBJECT_TYPE.Index of a type.
#[must_use]
pub fn index(kind: ObjectType) -> u8 {
    object(kind).cast::<OBJECT_TYPE>().with(|found| found.Index)
}

/// The type that an OBJECT_TYPE is of; `None`: it is none.
#[must_use]
pub fn kind_of(object_type: Ptr<u8>) -> Option<ObjectType> {
    ALL.into_iter().find(|&kind| object(kind) == object_type)
}

/// GENERIC_MAPPING: read, write, execute, all.
#[must_use]
pub const fn generic_mapping(kind: ObjectType) -> [u32; 4] {
    match kind {
        ObjectType::File | ObjectType::Device => {
            [0x0012_0089, 0x0012_0116, 0x0012_00A0, 0x001F_01FF]
        }
        ObjectType::Event | ObjectType::Semaphore | ObjectType::Timer => {
            [0x0002_0001, 0x0002_0002, 0x0012_0000, 0x001F_0003]
        }
        ObjectType::Mutant => [0x0002_0001, 0x0002_0000, 0x0012_0000, 0x001F_0001],
        ObjectType::Directory => [0x0002_0003, 0x0002_000C, 0x0002_0003, 0x000F_000F],
        ObjectType::SymbolicLink => [0x0002_0001, 0x0002_0000, 0x0002_0001, 0x000F_0001],
        ObjectType::Section => [0x0002_0005, 0x0002_0002, 0x0002_0008, 0x000F_001F],
        ObjectType::Process => [0x0002_0410, 0x0002_0BEA, 0x0012_1001, 0x001F_FFFF],
        ObjectType::Thread => [0x0002_0048, 0x0002_0437, 0x0012_0800, 0x001F_FFFF],
        ObjectType::Token => [0x0002_001A, 0x0002_01E0, 0x0002_0005, 0x000F_01FF],
        ObjectType::Key => [0x0002_0019, 0x0002_0006, 0x0002_0039, 0x000F_003F],
        _ => [0x0002_0000, 0x0002_0000, 0x0002_0000, 0x000F_0001],
    }
}

/// Access with its generic rights, and MAXIMUM_ALLOWED, mapped to the type's own.
#[must_use]
pub fn map_access(kind: ObjectType, desired: u32) -> u32 {
    const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
    let [read, write, execute, all] = generic_mapping(kind);
    [
        (0x8000_0000, read),
        (0x4000_0000, write),
        (0x2000_0000, execute),
        (0x1000_0000, all),
        (MAXIMUM_ALLOWED, all),
    ]
    .iter()
    .fold(desired & 0x01FF_FFFF, |access, &(generic, specific)| {
        if desired & generic == 0 {
            access
        } else {
            access | specific
        }
    })
}

nt_data! { module = ob_types;
    /// Points to the type of files.
    ntoskrnl both data(4, 8) implemented
    IoFileObjectType: Word = 0;

    /// Points to the type of devices.
    ntoskrnl both data(4, 8) implemented
    IoDeviceObjectType: Word = 0;

    /// Points to the type of drivers.
    ntoskrnl both data(4, 8) implemented
    IoDriverObjectType: Word = 0;

    /// Points to the type of adapters.
    ntoskrnl both data(4, 8) implemented
    IoAdapterObjectType: Word = 0;

    /// Points to the type of I/O completion ports, of which there are none.
    ntoskrnl both data(4, 8) implemented
    IoCompletionObjectType: Word = 0;

    /// Points to the type of events.
    ntoskrnl both data(4, 8) implemented
    ExEventObjectType: Word = 0;

    /// Points to the type of semaphores.
    ntoskrnl both data(4, 8) implemented
    ExSemaphoreObjectType: Word = 0;

    /// Points to the type of timers.
    ntoskrnl both data(4, 8) implemented
    ExTimerObjectType: Word = 0;

    /// Points to the type of desktops, of which there are none.
    ntoskrnl both data(4, 8) implemented
    ExDesktopObjectType: Word = 0;

    /// Points to the type of window stations, of which there are none.
    ntoskrnl both data(4, 8) implemented
    ExWindowStationObjectType: Word = 0;

    /// Points to the type of sections.
    ntoskrnl both data(4, 8) implemented
    MmSectionObjectType: Word = 0;

    /// Points to the type of processes.
    ntoskrnl both data(4, 8) implemented
    PsProcessType: Word = 0;

    /// Points to the type of threads.
    ntoskrnl both data(4, 8) implemented
    PsThreadType: Word = 0;

    /// Points to the type of jobs, of which there are none.
    ntoskrnl both data(4, 8) implemented
    PsJobType: Word = 0;

    /// Points to the type of tokens.
    ntoskrnl both data(4, 8) implemented
    SeTokenObjectType: Word = 0;

    /// Points to the type of registry keys.
    ntoskrnl both data(4, 8) implemented
    CmKeyObjectType: Word = 0;
}
