//! Threads: making them, what they run, ending them.

use alloc::collections::BTreeMap;
use core::mem::offset_of;

use super::{SYSTEM_ID, client, notify, process, stack};
use crate::ke::{apc, dispatcher as objects, mutex, queue, sched, time, timer};
use crate::nt::bugcheck::{THREAD_TERMINATE_HELD_MUTEX, bugcheck_with_text};
use crate::nt::thread::{ThreadPrivate, field::state, process as fields};
use crate::nt::{
    CLIENT_ID, ETHREAD, KPROCESS, KTHREAD, LIST_ENTRY, NtStatus, PASSIVE_LEVEL, dispatcher,
};
use crate::ob::{self, ObjectType};
use crate::raw::{Global, Ptr, from_word, low32, to_word};
use crate::shared;
use abi::layout;
use abi::trace::Entry;

/// Id of the idle thread, which the guest boots on.
pub const BOOT_ID: u32 = 8;
/// Thread ids are the multiples of 4 that are none of 8; processes have the others.
const FIRST_ID: u32 = 12;
const ID_STEP: u32 = 8;
/// Priority of new threads.
const NORMAL_PRIORITY: i8 = 8;

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Work {
    /// Idles.
    Boot = 0,
    /// A driver's routine with its context.
    Routine = 1,
    /// Clients' requests.
    Requests = 2,
    /// Work items.
    WorkItems = 3,
    /// Threaded DPCs.
    ThreadedDpcs = 4,
}

#[derive(Debug)]
struct Threads {
    by_id: BTreeMap<u32, u64>,
    next_id: u32,
}

static THREADS: Global<Threads> = Global::new(
    "threads",
    Threads {
        by_id: BTreeMap::new(),
        next_id: FIRST_ID,
    },
);

fn at<T>(thread: Ptr<KTHREAD>, offset: usize) -> Ptr<T> {
    thread.add_bytes(offset as u64).cast()
}

/// The thread that runs.
#[must_use]
pub fn current() -> Ptr<KTHREAD> {
    sched::current()
}

/// A thread's id.
#[must_use]
pub fn id_of(thread: Ptr<KTHREAD>) -> u32 {
    at::<CLIENT_ID>(thread, offset_of!(ETHREAD, Cid)).with(|id| low32(from_word(id.UniqueThread)))
}

/// The id of the process that a thread was made for.
#[must_use]
pub fn process_id_of(thread: Ptr<KTHREAD>) -> u32 {
    at::<CLIENT_ID>(thread, offset_of!(ETHREAD, Cid)).with(|id| low32(from_word(id.UniqueProcess)))
}

/// The thread with that id.
#[must_use]
pub fn by_id(id: u32) -> Option<Ptr<KTHREAD>> {
    THREADS.with(|threads| threads.by_id.get(&id).map(|&thread| Ptr::new(thread)))
}

/// ETHREAD.ExitStatus; STATUS_PENDING while it has not ended.
pub(super) fn exit_status(thread: Ptr<KTHREAD>) -> Ptr<u32> {
    at(thread, offset_of!(ETHREAD, ExitStatus))
}

/// ETHREAD.CreateTime and ExitTime.
#[must_use]
pub fn times(thread: Ptr<KTHREAD>) -> (u64, u64) {
    (
        at::<u64>(thread, offset_of!(ETHREAD, CreateTime)).read(),
        at::<u64>(thread, offset_of!(ETHREAD, ExitTime)).read(),
    )
}

/// ETHREAD.StartAddress.
#[must_use]
pub fn start_address(thread: Ptr<KTHREAD>) -> u64 {
    from_word(at(thread, offset_of!(ETHREAD, StartAddress)).read())
}

/// Whether a thread is about to end, or has ended.
#[must_use]
pub fn is_ending(thread: Ptr<KTHREAD>) -> bool {
    sched::private(thread).with(|private| private.is_terminating) != 0
}

/// Makes the thread that the guest has booted on: the System process's, and the idle thread.
pub(super) fn initialize() {
    THREADS.with(|threads| {
        threads.by_id.clear();
        threads.next_id = FIRST_ID;
    });
    stack::initialize();
}

/// The boot thread.
pub(super) fn create_boot(system: Ptr<KPROCESS>) -> Option<Ptr<KTHREAD>> {
    let bottom = shared::kernel_base() + layout::STACK;
    let bounds = (u32::MAX, bottom, layout::STACK_SIZE);
    create_object(system, SYSTEM_ID, BOOT_ID, Work::Boot, [0; 2], bounds)
}

fn create_object(
    process: Ptr<KPROCESS>,
    process_id: u32,
    id: u32,
    work: Work,
    start: [u64; 2],
    (stack_slot, bottom, stack_bytes): (u32, u64, u64),
) -> Option<Ptr<KTHREAD>> {
    let bytes = size_of::<ETHREAD>() as u64;
    let thread = Ptr::<KTHREAD>::new(ob::create(ObjectType::Thread, bytes, Some(delete))?);
    let top = bottom + stack_bytes;
    let header = objects::header(thread.cast(), dispatcher::THREAD, size_of::<KTHREAD>(), 0);
    thread.with(|thread| {
        thread.Header = header;
        thread.InitialStack = to_word(top);
        thread.StackBase = to_word(top);
        thread.StackLimit = to_word(bottom);
        thread.Priority = NORMAL_PRIORITY;
        thread.BasePriority = NORMAL_PRIORITY;
        thread.Process = process.word();
        thread.ApcProcess = process.word();
        thread.PreviousMode = 0;
    });
    apc::initialize(thread);
    at::<LIST_ENTRY>(thread, offset_of!(KTHREAD, MutantListHead)).list_initialize();
    timer::initialize_timer(at(thread, offset_of!(KTHREAD, Timer)), false);
    sched::state_of(thread).write(state::INITIALIZED);
    exit_status(thread).write(NtStatus::PENDING.0);
    at::<u64>(thread, offset_of!(ETHREAD, CreateTime)).write(time::system_time());
    at::<crate::raw::Word>(thread, offset_of!(ETHREAD, StartAddress)).write(to_word(start[0]));
    at::<CLIENT_ID>(thread, offset_of!(ETHREAD, Cid)).write(CLIENT_ID {
        UniqueProcess: to_word(u64::from(process_id)),
        UniqueThread: to_word(u64::from(id)),
    });
    process::thread_list(process, true)
        .list_insert_tail(at(thread, offset_of!(KTHREAD, ThreadListEntry)));
    process::thread_list(process, false)
        .list_insert_tail(at(thread, offset_of!(ETHREAD, ThreadListEntry)));
    process
        .add_bytes(fields::ACTIVE_THREADS)
        .cast::<u32>()
        .with(|count| *count += 1);
    ob::reference(process.addr());
    sched::private(thread).write(ThreadPrivate {
        stack_pointer: 0,
        site: [0; 4],
        depth: 1,
        interrupts_masked: 0,
        process_id,
        work: work as u32,
        start,
        stack_slot,
        quantum: sched::QUANTUM,
        exception_list: u32::MAX,
        irql: PASSIVE_LEVEL.into(),
        wait_next: 0,
        is_terminating: 0,
        ticks: 0,
        view: 0,
    });
    THREADS.with(|threads| threads.by_id.insert(id, thread.addr()));
    Some(thread)
}

/// Whether a thread runs a driver's routine that PsCreateSystemThread was given.
pub(super) fn is_drivers(thread: Ptr<KTHREAD>) -> bool {
    sched::private(thread).with(|private| private.work) == Work::Routine as u32
}

fn next_id() -> u32 {
    THREADS.with(|threads| {
        loop {
            let id = threads.next_id;
            threads.next_id = id.checked_add(ID_STEP).unwrap_or(FIRST_ID);
            if !threads.by_id.contains_key(&id) {
                return id;
            }
        }
    })
}

/// Makes a thread of the System process; see [`create`].
///
/// # Errors
/// As [`create`].
pub fn create_system(work: Work, start: [u64; 2]) -> Result<Ptr<KTHREAD>, NtStatus> {
    create(process::system(), SYSTEM_ID, work, start)
}

/// Makes a thread that [`start`] lets run. Running holds a reference to it.
///
/// # Errors
/// INSUFFICIENT_RESOURCES: no memory for its stack or its object.
pub fn create(
    process: Ptr<KPROCESS>,
    process_id: u32,
    work: Work,
    start: [u64; 2],
) -> Result<Ptr<KTHREAD>, NtStatus> {
    let (slot, bottom) = stack::allocate().ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let bounds = (slot, bottom, stack::BYTES);
    let Some(thread) = create_object(process, process_id, next_id(), work, start, bounds) else {
        stack::free(slot);
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    };
    let pointer = shared::platform().prepare_stack(bottom + stack::BYTES, first, thread.addr());
    sched::private(thread).with(|private| private.stack_pointer = pointer);
    Ok(thread)
}

/// Lets a new thread run.
pub fn start(thread: Ptr<KTHREAD>) {
    sched::make_ready(thread);
}

/// The first code of a thread on its stack.
extern "C" fn first(thread: u64) -> ! {
    #[cfg(test)]
    {
        crate::test_platform::run_on_thread_stack(|| run(Ptr::new(thread)))
    }
    #[cfg(not(test))]
    {
        run(Ptr::new(thread))
    }
}

fn run(thread: Ptr<KTHREAD>) -> ! {
    sched::after_switch();
    let (work, [routine, context]) =
        sched::private(thread).with(|private| (private.work, private.start));
    if work != Work::Routine as u32 {
        // Of a driver's thread its creator has told.
        notify::thread(thread, true);
    }
    crate::ke::deliver_deferred();
    if work == Work::Requests as u32 {
        client::serve_requests();
    } else if work == Work::WorkItems as u32 {
        super::worker::run();
    } else if work == Work::ThreadedDpcs as u32 {
        crate::ke::dpc::threaded::run();
    } else {
        shared::call_driver(Entry::Other, routine, &[context]);
        check_return_irql(routine);
    }
    exit(NtStatus::SUCCESS)
}

fn check_return_irql(routine: u64) {
    let irql = shared::irql();
    if irql != PASSIVE_LEVEL {
        bugcheck_with_text(
            crate::nt::bugcheck::IRQL_NOT_LESS_OR_EQUAL,
            [routine, u64::from(irql), 0, routine],
            format_args!("a system thread's routine returned at IRQL {irql}"),
        );
    }
}

/// Ends the current thread.
pub fn exit(status: NtStatus) -> ! {
    let thread = current();
    sched::private(thread).with(|private| private.is_terminating = 1);
    notify::thread(thread, false);
    if let Err(mutex) = mutex::abandon_all(thread) {
        bugcheck_with_text(
            THREAD_TERMINATE_HELD_MUTEX,
            [thread.addr(), mutex.addr(), 0, 0],
            format_args!("a thread ends while it owns the mutex at {mutex:?}"),
        );
    }
    apc::run_down(thread);
    queue::leave(thread);
    exit_status(thread).write(status.0);
    at::<u64>(thread, offset_of!(ETHREAD, ExitTime)).write(time::system_time());
    let id = id_of(thread);
    THREADS.with(|threads| threads.by_id.remove(&id));
    let process = Ptr::<KPROCESS>::new(from_word(thread.with(|thread| thread.Process)));
    at::<LIST_ENTRY>(thread, offset_of!(KTHREAD, ThreadListEntry)).list_remove();
    at::<LIST_ENTRY>(thread, offset_of!(ETHREAD, ThreadListEntry)).list_remove();
    let left = process
        .add_bytes(fields::ACTIVE_THREADS)
        .cast::<u32>()
        .with(|count| {
            *count -= 1;
            *count
        });
    process::add_ticks(
        process,
        sched::private(thread).with(|private| private.ticks),
    );
    if left == 0 {
        process::last_thread_ended(process, status);
    }
    thread.with(|thread| thread.Header.SignalState = 1);
    objects::wake(thread.cast(), 0);
    let slot = sched::private(thread).with(|private| private.stack_slot);
    // Nothing makes a thread, which might take the stack, before the switch.
    stack::free(slot);
    sched::end()
}

/// The last reference to a thread is gone.
fn delete(body: u64) {
    let process = Ptr::<KTHREAD>::new(body).with(|thread| thread.Process);
    ob::dereference(from_word(process));
}
