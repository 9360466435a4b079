//! Notify routines: told of processes, threads and images that come and go.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::{KPROCESS, KTHREAD, NtStatus, UNICODE_STRING};
use crate::raw::{Global, Ptr, Word, to_word};
use crate::shared;
use crate::value::Boolean;
use abi::trace::Entry;

/// Most routines of a kind, as NT since Vista.
const LIMIT: usize = 64;

#[derive(Debug)]
struct Routines {
    /// Address, and whether it is of the Ex kind.
    process: Vec<(u64, bool)>,
    thread: Vec<u64>,
    image: Vec<u64>,
}

static ROUTINES: Global<Routines> = Global::new(
    "notify routines",
    Routines {
        process: Vec::new(),
        thread: Vec::new(),
        image: Vec::new(),
    },
);

pub(super) fn initialize() {
    ROUTINES.with(|routines| {
        routines.process.clear();
        routines.thread.clear();
        routines.image.clear();
    });
}

/// PS_CREATE_NOTIFY_INFO.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PS_CREATE_NOTIFY_INFO {
    Size: Word,
    Flags: Word,
    ParentProcessId: Word,
    CreatingProcess: Word,
    CreatingThread: Word,
    FileObject: Word,
    ImageFileName: Ptr<UNICODE_STRING>,
    CommandLine: Ptr<UNICODE_STRING>,
    CreationStatus: u32,
}

const _: () =
    assert!(size_of::<PS_CREATE_NOTIFY_INFO>() == if cfg!(nt_i386) { 0x24 } else { 0x48 });

/// Tells of a new process. An error: a routine forbids it.
pub(super) fn process_created(process: Ptr<KPROCESS>, id: u32) -> NtStatus {
    let system = u64::from(super::SYSTEM_ID);
    for (routine, is_ex) in ROUTINES.with(|routines| routines.process.clone()) {
        if !is_ex {
            shared::call_driver(Entry::Other, routine, &[system, u64::from(id), 1]);
            continue;
        }
        let mut info = PS_CREATE_NOTIFY_INFO {
            Size: to_word(size_of::<PS_CREATE_NOTIFY_INFO>() as u64),
            Flags: 0,
            ParentProcessId: to_word(system),
            CreatingProcess: to_word(system),
            CreatingThread: to_word(u64::from(super::thread::id_of(super::thread::current()))),
            FileObject: 0,
            ImageFileName: Ptr::null(),
            CommandLine: Ptr::null(),
            CreationStatus: 0,
        };
        let info = Ptr::of(&mut info);
        shared::call_driver(
            Entry::Other,
            routine,
            &[process.addr(), u64::from(id), info.addr()],
        );
        let status = NtStatus(info.read().CreationStatus);
        if status.is_error() {
            return status;
        }
    }
    NtStatus::SUCCESS
}

/// Tells of a process's end.
pub(super) fn process_ended(process: Ptr<KPROCESS>, id: u32) {
    for (routine, is_ex) in ROUTINES.with(|routines| routines.process.clone()) {
        let arguments = if is_ex {
            [process.addr(), u64::from(id), 0]
        } else {
            [u64::from(super::SYSTEM_ID), u64::from(id), 0]
        };
        shared::call_driver(Entry::Other, routine, &arguments);
    }
}

/// Tells of a thread's beginning or end.
pub(super) fn thread(thread: Ptr<KTHREAD>, is_created: bool) {
    let process = u64::from(super::thread::process_id_of(thread));
    let id = u64::from(super::thread::id_of(thread));
    for routine in ROUTINES.with(|routines| routines.thread.clone()) {
        shared::call_driver(Entry::Other, routine, &[process, id, u64::from(is_created)]);
    }
}

/// IMAGE_INFO.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct IMAGE_INFO {
    Properties: u32,
    ImageBase: Word,
    ImageSelector: u32,
    ImageSize: Word,
    ImageSectionNumber: u32,
}

const _: () = assert!(size_of::<IMAGE_INFO>() == if cfg!(nt_i386) { 0x14 } else { 0x28 });

/// Tells of a driver's image that was loaded; `name` is its full path.
pub(crate) fn image(name: Ptr<UNICODE_STRING>, base: u64, bytes: u64) {
    /// IMAGE_ADDRESSING_MODE_32BIT, and SystemModeImage.
    const PROPERTIES: u32 = 3 | 1 << 8;
    for routine in ROUTINES.with(|routines| routines.image.clone()) {
        let mut info = IMAGE_INFO {
            Properties: PROPERTIES,
            ImageBase: to_word(base),
            ImageSelector: 0,
            ImageSize: to_word(bytes),
            ImageSectionNumber: 0,
        };
        let info = Ptr::of(&mut info);
        shared::call_driver(Entry::Other, routine, &[name.addr(), 0, info.addr()]);
    }
}

/// Forgets the routines in a range of memory that is going away (a driver's image).
pub(crate) fn forget_range(start: u64, bytes: u64) {
    let is_left = |routine: u64| routine.wrapping_sub(start) >= bytes;
    ROUTINES.with(|routines| {
        routines.process.retain(|&(routine, _)| is_left(routine));
        routines.thread.retain(|&routine| is_left(routine));
        routines.image.retain(|&routine| is_left(routine));
    });
}

fn set_process(routine: u64, is_ex: bool, remove: bool) -> NtStatus {
    ROUTINES.with(|routines| {
        let position = routines
            .process
            .iter()
            .position(|&entry| entry == (routine, is_ex));
        match (remove, position) {
            (true, Some(position)) => {
                routines.process.remove(position);
                NtStatus::SUCCESS
            }
            (true, None) => NtStatus::PROCEDURE_NOT_FOUND,
            (false, None) if routines.process.len() < LIMIT => {
                routines.process.push((routine, is_ex));
                NtStatus::SUCCESS
            }
            (false, _) => NtStatus::INVALID_PARAMETER,
        }
    })
}

fn add(routines: &mut Vec<u64>, routine: u64) -> NtStatus {
    if routines.len() >= LIMIT {
        return NtStatus::INSUFFICIENT_RESOURCES;
    }
    routines.push(routine);
    NtStatus::SUCCESS
}

fn remove_one(routines: &mut Vec<u64>, routine: u64) -> NtStatus {
    match routines.iter().position(|&entry| entry == routine) {
        Some(position) => {
            routines.remove(position);
            NtStatus::SUCCESS
        }
        None => NtStatus::PROCEDURE_NOT_FOUND,
    }
}

nt_api! { module = ps_notify;
    /// Adds or removes a routine that is told of processes: (parent's id, id, whether it was created).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsSetCreateProcessNotifyRoutine(routine: Ptr<u8>, remove: Boolean) -> NtStatus {
        set_process(routine.addr(), false, remove)
    }

    /// Adds or removes a routine that is told of processes: (EPROCESS, id, PS_CREATE_NOTIFY_INFO or null).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("images need not have been linked with /INTEGRITYCHECK; no file object and names")
    fn PsSetCreateProcessNotifyRoutineEx(routine: Ptr<u8>, remove: Boolean) -> NtStatus {
        set_process(routine.addr(), true, remove)
    }

    /// Adds a routine that is told of threads: (process id, thread id, whether it was created).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsSetCreateThreadNotifyRoutine(routine: Ptr<u8>) -> NtStatus {
        ROUTINES.with(|routines| add(&mut routines.thread, routine.addr()))
    }

    /// Removes such a routine.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsRemoveCreateThreadNotifyRoutine(routine: Ptr<u8>) -> NtStatus {
        ROUTINES.with(|routines| remove_one(&mut routines.thread, routine.addr()))
    }

    /// Adds a routine that is told of images: (full name, process id, IMAGE_INFO). Drivers' images are all there are.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsSetLoadImageNotifyRoutine(routine: Ptr<u8>) -> NtStatus {
        ROUTINES.with(|routines| add(&mut routines.image, routine.addr()))
    }

    /// Removes such a routine.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsRemoveLoadImageNotifyRoutine(routine: Ptr<u8>) -> NtStatus {
        ROUTINES.with(|routines| remove_one(&mut routines.image, routine.addr()))
    }
}
