//! Processes and the one thread. A client of the VMM is a process; System (id 4) is the driver's own world.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::ob::{self, ObjectType};
use crate::raw::{Global, Ptr, Word, low32};
use crate::shared;
use crate::value::Handle;

/// Id of the System process.
pub const SYSTEM_ID: u32 = 4;
/// Id of the thread that everything runs on.
pub const THREAD_ID: u32 = 8;
/// Bytes of EPROCESS and ETHREAD: opaque, but drivers look around in them.
const BODY_BYTES: u64 = 0x400;

#[derive(Debug)]
struct Process {
    body: u64,
    /// Number of its IOPM; 0: none.
    iopm: u32,
}

#[derive(Debug)]
struct Processes {
    by_id: BTreeMap<u32, Process>,
    thread: u64,
}

static PROCESSES: Global<Processes> = Global::new(
    "processes",
    Processes {
        by_id: BTreeMap::new(),
        thread: 0,
    },
);

/// Makes the System process and the thread.
///
/// # Panics
/// When the pool has no room for them.
pub fn initialize() {
    let thread = ob::create(ObjectType::Thread, BODY_BYTES, None)
        .expect("a new pool has room for the thread");
    PROCESSES.with(|processes| {
        processes.by_id.clear();
        processes.thread = thread;
    });
    assert!(
        create(SYSTEM_ID).is_success(),
        "a new pool has room for the System process"
    );
    shared::set_current_process(SYSTEM_ID);
}

/// Makes an EPROCESS.
#[must_use]
pub fn create(id: u32) -> NtStatus {
    if PROCESSES.with(|processes| processes.by_id.contains_key(&id)) {
        return NtStatus::OBJECT_NAME_COLLISION;
    }
    let Some(body) = ob::create(ObjectType::Process, BODY_BYTES, None) else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    PROCESSES.with(|processes| processes.by_id.insert(id, Process { body, iopm: 0 }));
    NtStatus::SUCCESS
}

/// Removes a process; its EPROCESS lives on while a driver has references to it.
#[must_use]
pub fn remove(id: u32) -> NtStatus {
    let Some(process) = PROCESSES.with(|processes| processes.by_id.remove(&id)) else {
        return NtStatus::INVALID_CID;
    };
    ob::dereference(process.body);
    NtStatus::SUCCESS
}

/// The EPROCESS with that id.
#[must_use]
pub fn by_id(id: u32) -> Option<Ptr<u8>> {
    PROCESSES.with(|processes| {
        processes
            .by_id
            .get(&id)
            .map(|process| Ptr::new(process.body))
    })
}

/// The ids of all processes, in ascending order.
#[must_use]
pub fn ids() -> Vec<u32> {
    PROCESSES.with(|processes| processes.by_id.keys().copied().collect())
}

/// The id of an EPROCESS.
#[must_use]
pub fn id_of(process: Ptr<u8>) -> Option<u32> {
    PROCESSES.with(|processes| {
        processes
            .by_id
            .iter()
            .find(|(_, entry)| entry.body == process.addr())
            .map(|(&id, _)| id)
    })
}

/// The process that the current request belongs to.
#[must_use]
pub fn current_process() -> Ptr<u8> {
    by_id(shared::current_process())
        .or_else(|| by_id(SYSTEM_ID))
        .unwrap_or_default()
}

/// The thread.
#[must_use]
pub fn current_thread() -> Ptr<u8> {
    PROCESSES.with(|processes| Ptr::new(processes.thread))
}

/// Number of a process's IOPM; 0: none, or no such process.
#[must_use]
pub fn iopm_of(id: u32) -> u32 {
    PROCESSES.with(|processes| processes.by_id.get(&id).map_or(0, |process| process.iopm))
}

/// Points a process at an IOPM. False: there is no such process.
#[must_use]
pub fn set_iopm(id: u32, number: u32) -> bool {
    PROCESSES.with(|processes| match processes.by_id.get_mut(&id) {
        Some(process) => {
            process.iopm = number;
            true
        }
        None => false,
    })
}

nt_api! { module = ps;
    /// The process on whose behalf the driver runs.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetCurrentProcess() -> Ptr<u8> {
        current_process()
    }

    /// The process on whose behalf the driver runs.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentProcess() -> Ptr<u8> {
        current_process()
    }

    /// Id of the process on whose behalf the driver runs.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentProcessId() -> Handle {
        Handle(u64::from(shared::current_process()))
    }

    /// Finds the process with an id, and adds a reference to it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsLookupProcessByProcessId(process_id: Handle, process: Ptr<Word>) -> NtStatus {
        let Some(found) = by_id(low32(process_id.0)) else { return NtStatus::INVALID_PARAMETER };
        ob::reference(found.addr());
        process.write(found.word());
        NtStatus::SUCCESS
    }

    /// The id of a process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessId(process: Ptr<u8>) -> Handle {
        Handle(id_of(process).map_or(0, u64::from))
    }

    /// The current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThread() -> Ptr<u8> {
        current_thread()
    }

    /// The current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeGetCurrentThread() -> Ptr<u8> {
        current_thread()
    }

    /// Id of the current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadId() -> Handle {
        Handle(u64::from(THREAD_ID))
    }
}
