//! Deferred procedure calls.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::api::nt_api;
use crate::ke::{event, sched};
use crate::nt::{DISPATCH_LEVEL, KDPC, LIST_ENTRY, dispatcher};
use crate::raw::{DataCell, Ptr, Word, from_word, low8};
use crate::shared;
use crate::value::{Boolean, Size, UChar, ULong};
use abi::trace::Entry;

/// Ordinary DPCs and threaded ones.
static QUEUES: DataCell<[LIST_ENTRY; 2]> = DataCell::new(
    [LIST_ENTRY {
        Flink: Ptr::null(),
        Blink: Ptr::null(),
    }; 2],
);

/// DPCs are being run.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Routines that were called since boot.
static RUN: AtomicU32 = AtomicU32::new(0);

/// How many DPCs have run since boot.
#[must_use]
pub fn count() -> u32 {
    RUN.load(Ordering::Relaxed)
}

/// Whether a DPC runs.
#[must_use]
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// Importance that goes to the front of the queue.
const HIGH: u8 = 2;

fn head(is_threaded: bool) -> Ptr<LIST_ENTRY> {
    QUEUES
        .ptr()
        .cast::<LIST_ENTRY>()
        .offset(i64::from(is_threaded))
}

fn link(dpc: Ptr<KDPC>) -> Ptr<LIST_ENTRY> {
    dpc.add_bytes(offset_of!(KDPC, DpcListEntry) as u64).cast()
}

fn of_link(entry: Ptr<LIST_ENTRY>) -> Ptr<KDPC> {
    entry
        .sub_bytes(offset_of!(KDPC, DpcListEntry) as u64)
        .cast()
}

pub(crate) fn initialize() {
    head(false).list_initialize();
    head(true).list_initialize();
    threaded::initialize();
    ACTIVE.store(false, Ordering::Relaxed);
    RUN.store(0, Ordering::Relaxed);
}

/// Queues a DPC. False: it is queued already.
pub fn queue(dpc: Ptr<KDPC>, argument_1: Word, argument_2: Word) -> bool {
    let is_new = dpc.with(|dpc| {
        if dpc.DpcData != 0 {
            return None;
        }
        dpc.DpcData = 1;
        dpc.SystemArgument1 = argument_1;
        dpc.SystemArgument2 = argument_2;
        Some((dpc.Importance, dpc.Type))
    });
    let Some((importance, kind)) = is_new else {
        return false;
    };
    let is_threaded = kind == dispatcher::THREADED_DPC && threaded::is_enabled();
    if importance == HIGH {
        head(is_threaded).list_insert_head(link(dpc));
    } else {
        head(is_threaded).list_insert_tail(link(dpc));
    }
    if is_threaded {
        threaded::wake();
    }
    sched::request_attention();
    true
}

/// Takes a DPC out of the queue. False: it was not in it.
pub fn remove(dpc: Ptr<KDPC>) -> bool {
    let was_queued = dpc.with(|dpc| core::mem::take(&mut dpc.DpcData)) != 0;
    if was_queued {
        link(dpc).list_remove();
    }
    was_queued
}

/// Calls the first routine of a queue, at the present IRQL. False: the queue is empty.
fn run_first(is_threaded: bool) -> bool {
    let Some(entry) = head(is_threaded).list_pop() else {
        return false;
    };
    let dpc = of_link(entry);
    RUN.fetch_add(1, Ordering::Relaxed);
    let (routine, arguments) = dpc.with(|dpc| {
        dpc.DpcData = 0;
        let words = [
            dpc.DeferredContext,
            dpc.SystemArgument1,
            dpc.SystemArgument2,
        ];
        (from_word(dpc.DeferredRoutine), words.map(from_word))
    });
    let [context, first, second] = arguments;
    shared::call_driver(Entry::Dpc, routine, &[dpc.addr(), context, first, second]);
    true
}

/// Runs what is queued, at DISPATCH_LEVEL.
pub(crate) fn run_all() {
    if head(false).list_is_empty() {
        return;
    }
    let irql = shared::irql();
    shared::set_irql(DISPATCH_LEVEL);
    ACTIVE.store(true, Ordering::Relaxed);
    while run_first(false) {
        // What a routine forgot to lower is the interrupted thread's no more.
        shared::set_irql(DISPATCH_LEVEL);
    }
    ACTIVE.store(false, Ordering::Relaxed);
    shared::set_irql(irql);
}

/// Forgets the DPCs in a range of memory that is going away (a driver's image).
pub(crate) fn forget_range(start: u64, bytes: u64) {
    for is_threaded in [false, true] {
        let mut entry = head(is_threaded).read().Flink;
        while entry != head(is_threaded) {
            let next = entry.read().Flink;
            if entry.addr().wrapping_sub(start) < bytes {
                remove(of_link(entry));
            }
            entry = next;
        }
    }
}

/// Threaded DPCs: run by a thread of the highest priority, at PASSIVE_LEVEL.
pub(crate) mod threaded {
    use super::{event, head, run_first};
    use crate::ke::{sched, wait};
    use crate::nt::{KEVENT, KTHREAD, dispatcher};
    use crate::ps::thread;
    use crate::raw::{DataCell, Ptr};

    static THREAD: DataCell<Ptr<KTHREAD>> = DataCell::new(Ptr::null());
    static WORK: DataCell<KEVENT> = DataCell::new(event::EMPTY);
    static RUNNING: DataCell<u32> = DataCell::new(0);

    pub(super) fn initialize() {
        THREAD.ptr().write(Ptr::null());
        RUNNING.ptr().write(0);
        event::initialize(WORK.ptr(), dispatcher::SYNCHRONIZATION_EVENT, false);
    }

    /// Starts the thread, once.
    pub(super) fn enable() {
        if is_enabled() {
            return;
        }
        if let Ok(made) = thread::create_system(thread::Work::ThreadedDpcs, [0; 2]) {
            THREAD.ptr().write(made);
            sched::set_base_priority(made, 31);
            thread::start(made);
        }
    }

    pub(super) fn is_enabled() -> bool {
        !THREAD.ptr().read().is_null()
    }

    pub(super) fn wake() {
        event::set_state(WORK.ptr(), 1);
    }

    /// Whether all have run.
    pub(super) fn is_done() -> bool {
        head(true).list_is_empty() && RUNNING.ptr().read() == 0
    }

    /// The thread.
    pub(crate) fn run() -> ! {
        loop {
            RUNNING.ptr().write(1);
            while run_first(true) {}
            RUNNING.ptr().write(0);
            event::progress();
            wait::single(WORK.ptr().cast(), &wait::Wait::FOREVER);
        }
    }
}

pub(crate) fn initialize_dpc(dpc: Ptr<KDPC>, kind: u8, routine: Ptr<u8>, context: Ptr<u8>) {
    dpc.write(KDPC {
        Type: kind,
        Importance: 1,
        Number: 0,
        DpcListEntry: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
        DeferredRoutine: routine.word(),
        DeferredContext: context.word(),
        SystemArgument1: 0,
        SystemArgument2: 0,
        DpcData: 0,
    });
}

nt_api! { module = ke_dpc;
    /// Makes a DPC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeDpc(dpc: Ptr<KDPC>, routine: Ptr<u8>, context: Ptr<u8>) {
        initialize_dpc(dpc, dispatcher::DPC, routine, context);
    }

    /// Makes a threaded DPC: its routine runs at PASSIVE_LEVEL in a thread of priority 31.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeThreadedDpc(dpc: Ptr<KDPC>, routine: Ptr<u8>, context: Ptr<u8>) {
        threaded::enable();
        initialize_dpc(dpc, dispatcher::THREADED_DPC, routine, context);
    }

    /// Queues a DPC; FALSE if it is queued already.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInsertQueueDpc(dpc: Ptr<KDPC>, argument_1: Size, argument_2: Size) -> Boolean {
        queue(dpc, crate::raw::to_word(argument_1.0), crate::raw::to_word(argument_2.0))
    }

    /// Takes a DPC out of the queue; FALSE if it was not in it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeRemoveQueueDpc(dpc: Ptr<KDPC>) -> Boolean {
        remove(dpc)
    }

    /// Sets a DPC's importance: 2 (high) goes to the front of the queue.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeSetImportanceDpc(dpc: Ptr<KDPC>, importance: ULong) {
        dpc.with(|dpc| dpc.Importance = low8(u64::from(importance)));
    }

    /// Sets the processor that a DPC runs on: there is one.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeSetTargetProcessorDpc(dpc: Ptr<KDPC>, number: UChar) {
        dpc.with(|dpc| dpc.Number = number.into());
    }

    /// Waits until all queued DPCs have run.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn KeFlushQueuedDpcs() {
        run_all();
        event::wait_until(u64::MAX, threaded::is_done);
    }
}
