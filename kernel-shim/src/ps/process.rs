//! Processes: a client of the VMM is one; System (id 4) is the drivers' own world.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem::offset_of;

use super::{SYSTEM_ID, client, notify, thread};
use crate::ke::{dispatcher as objects, sched, time};
use crate::nt::thread::process as fields;
use crate::nt::{ETHREAD, KPROCESS, KTHREAD, LIST_ENTRY, NtStatus, dispatcher};
use crate::ob::{self, ObjectType};
use crate::raw::{DataCell, Global, Ptr, Word, to_word};
use crate::shared;

#[derive(Debug)]
struct Process {
    body: u64,
    /// Number of its IOPM; 0: none.
    iopm: u32,
    /// Ticks of the clock that found threads running that have ended since.
    ticks: u32,
}

static PROCESSES: Global<BTreeMap<u32, Process>> = Global::new("processes", BTreeMap::new());

/// PsActiveProcessHead, which is not exported.
static ACTIVE: DataCell<LIST_ENTRY> = DataCell::new(LIST_ENTRY {
    Flink: Ptr::null(),
    Blink: Ptr::null(),
});

/// Makes the System process and the thread that the guest has booted on.
///
/// # Panics
/// When the pool has no room for them.
pub(super) fn initialize() {
    PROCESSES.with(BTreeMap::clear);
    ACTIVE.ptr().list_initialize();
    thread::initialize();
    let system = create_object(SYSTEM_ID, "System").expect("a new pool has room for System");
    super::data::PsInitialSystemProcess
        .ptr()
        .write(system.word());
    let boot = thread::create_boot(system).expect("a new pool has room for the boot thread");
    sched::initialize(boot);
    crate::ke::pcr::initialize();
    let (top, limit) = boot.with(|boot| (boot.InitialStack, boot.StackLimit));
    crate::ke::pcr::set_thread(boot, top, limit, u32::MAX);
    shared::set_current_process(SYSTEM_ID);
}

/// PsActiveProcessHead: the list of all EPROCESSes.
#[must_use]
pub fn active_head() -> Ptr<LIST_ENTRY> {
    ACTIVE.ptr()
}

/// The ids of all processes, in ascending order.
#[must_use]
pub fn ids() -> Vec<u32> {
    PROCESSES.with(|processes| processes.keys().copied().collect())
}

/// The System process.
#[must_use]
pub fn system() -> Ptr<KPROCESS> {
    by_id(SYSTEM_ID).unwrap_or_default()
}

/// The heads of a process's thread lists: of KTHREADs or of ETHREADs.
pub(super) fn thread_list(process: Ptr<KPROCESS>, is_kernel: bool) -> Ptr<LIST_ENTRY> {
    let offset = if is_kernel {
        fields::KERNEL_THREAD_LIST_HEAD
    } else {
        fields::THREAD_LIST_HEAD
    };
    process.add_bytes(offset).cast()
}

fn create_object(id: u32, name: &str) -> Option<Ptr<KPROCESS>> {
    let body = ob::create(ObjectType::Process, fields::BYTES, None)?;
    let process = Ptr::<KPROCESS>::new(body);
    let header = objects::header(
        process.cast(),
        dispatcher::PROCESS,
        size_of::<KPROCESS>(),
        0,
    );
    process.write(KPROCESS { Header: header });
    let word = |offset: u64, value: u64| {
        process
            .add_bytes(offset)
            .cast::<Word>()
            .write(to_word(value));
    };
    thread_list(process, true).list_initialize();
    thread_list(process, false).list_initialize();
    process
        .add_bytes(fields::CREATE_TIME)
        .cast::<u64>()
        .write(time::system_time());
    word(fields::UNIQUE_PROCESS_ID, u64::from(id));
    if id != SYSTEM_ID {
        word(fields::INHERITED_FROM, u64::from(SYSTEM_ID));
    }
    process
        .add_bytes(fields::EXIT_STATUS)
        .cast::<u32>()
        .write(NtStatus::PENDING.0);
    let name = name.as_bytes();
    process
        .add_bytes(fields::IMAGE_FILE_NAME)
        .cast::<u8>()
        .write_bytes(name.get(..15).unwrap_or(name));
    ACTIVE
        .ptr()
        .list_insert_tail(process.add_bytes(fields::ACTIVE_PROCESS_LINKS).cast());
    PROCESSES.with(|processes| {
        processes.insert(
            id,
            Process {
                body,
                iopm: 0,
                ticks: 0,
            },
        )
    });
    Some(process)
}

/// Makes an EPROCESS for a client, and tells the notify routines.
#[must_use]
pub fn create(id: u32) -> NtStatus {
    if by_id(id).is_some() {
        return NtStatus::OBJECT_NAME_COLLISION;
    }
    let Some(process) = create_object(id, "client.exe") else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    let status = notify::process_created(process, id);
    if !status.is_success() {
        // A routine of PsSetCreateProcessNotifyRoutineEx forbids it.
        let _ = remove(id);
    }
    status
}

/// Ends a process: its threads end, now or when their requests are answered. Its EPROCESS lives on while a driver has
/// references to it.
#[must_use]
pub fn remove(id: u32) -> NtStatus {
    let Some(process) = by_id(id) else {
        return NtStatus::INVALID_CID;
    };
    client::end_threads(id);
    PROCESSES.with(|processes| processes.remove(&id));
    if process
        .add_bytes(fields::ACTIVE_THREADS)
        .cast::<u32>()
        .read()
        == 0
    {
        last_thread_ended(process, NtStatus::SUCCESS);
    }
    NtStatus::SUCCESS
}

/// The last thread of a process has ended: so has the process.
pub(super) fn last_thread_ended(process: Ptr<KPROCESS>, status: NtStatus) {
    let id = id_of(process.cast()).unwrap_or_default();
    if id == SYSTEM_ID || by_id(id).is_some() {
        // A client without a request has no threads, and is alive.
        return;
    }
    notify::process_ended(process, id);
    process
        .add_bytes(fields::EXIT_TIME)
        .cast::<u64>()
        .write(time::system_time());
    process
        .add_bytes(fields::EXIT_STATUS)
        .cast::<u32>()
        .write(status.0);
    process
        .add_bytes(fields::ACTIVE_PROCESS_LINKS)
        .cast::<LIST_ENTRY>()
        .list_remove();
    process.with(|process| process.Header.SignalState = 1);
    objects::wake(process.cast(), 0);
    ob::dereference(process.addr());
}

/// A thread of a process has ended, which the clock found running so often.
pub(super) fn add_ticks(process: Ptr<KPROCESS>, ticks: u32) {
    PROCESSES.with(|processes| {
        let mut all = processes.values_mut();
        if let Some(found) = all.find(|found| found.body == process.addr()) {
            found.ticks = found.ticks.wrapping_add(ticks);
        }
    });
}

/// How many ticks of the clock found threads of a process running that have ended.
#[must_use]
pub fn ended_ticks(id: u32) -> u32 {
    PROCESSES.with(|processes| processes.get(&id).map_or(0, |process| process.ticks))
}

/// The EPROCESS with that id.
#[must_use]
pub fn by_id(id: u32) -> Option<Ptr<KPROCESS>> {
    PROCESSES.with(|processes| processes.get(&id).map(|process| Ptr::new(process.body)))
}

/// The id of an EPROCESS.
#[must_use]
pub fn id_of(process: Ptr<u8>) -> Option<u32> {
    (ob::type_of(process.addr()) == Some(ObjectType::Process)).then(|| {
        process
            .add_bytes(fields::UNIQUE_PROCESS_ID)
            .cast::<u32>()
            .read()
    })
}

/// The threads of a process.
#[must_use]
pub fn threads_of(id: u32) -> Vec<Ptr<KTHREAD>> {
    let Some(process) = by_id(id) else {
        return Vec::new();
    };
    let head = thread_list(process, false);
    let mut all = Vec::new();
    let mut entry = head.read().Flink;
    while entry != head {
        all.push(
            entry
                .sub_bytes(offset_of!(ETHREAD, ThreadListEntry) as u64)
                .cast(),
        );
        entry = entry.read().Flink;
    }
    all
}

/// Number of a process's IOPM; 0: none, or no such process.
#[must_use]
pub fn iopm_of(id: u32) -> u32 {
    PROCESSES.with(|processes| processes.get(&id).map_or(0, |process| process.iopm))
}

/// Points a process at an IOPM. False: there is no such process.
#[must_use]
pub fn set_iopm(id: u32, number: u32) -> bool {
    PROCESSES.with(|processes| match processes.get_mut(&id) {
        Some(process) => {
            process.iopm = number;
            true
        }
        None => false,
    })
}
