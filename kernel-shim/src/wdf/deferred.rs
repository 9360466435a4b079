//! WDFTIMER, WDFDPC and WDFWORKITEM.

use super::object::{self, Body, Parent};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, serial};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::io::routine::callable;
use crate::ke::{dpc, event, timer};
use crate::nt::{KDPC, KTIMER, LIST_ENTRY, NtStatus, WORK_QUEUE_ITEM, dispatcher};
use crate::raw::{Ptr, Word, from_word, to_word};
use crate::value::{Boolean, LargeInteger, Size};
use abi::trace::Entry;

/// Which of the three.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Timer,
    Dpc,
    WorkItem,
    /// Presents the requests of the queue that is its parent.
    Presenter,
}

/// What an object is whose callback runs later. In memory: KTIMER, KDPC, WORK_QUEUE_ITEM, 64 bytes and more for each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferred {
    kind: Kind,
    callback: u64,
    memory: Ptr<u8>,
    /// Milliseconds; 0: once.
    period: u32,
    /// The callback of a timer runs at PASSIVE_LEVEL.
    is_passive: bool,
    /// Whose lock serializes the callback; 0: none.
    lock: u64,
    is_running: bool,
}

const DPC_AT: u64 = 128;
const WORK_AT: u64 = 256;
const BYTES: u64 = 320;

/// WDF_TIMER_CONFIG, as far as all versions have it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_TIMER_CONFIG {
    /// Bytes.
    pub Size: u32,
    /// Called as (Timer).
    pub EvtTimerFunc: Word,
    /// Milliseconds; 0: once.
    pub Period: u32,
    /// Serialized with the callbacks of the parent.
    pub AutomaticSerialization: u8,
}

/// WDF_DPC_CONFIG and WDF_WORKITEM_CONFIG.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WDF_DEFERRED_CONFIG {
    /// Bytes.
    pub Size: u32,
    /// Called as (Dpc) or (WorkItem).
    pub EvtFunc: Word,
    /// Serialized with the callbacks of the parent.
    pub AutomaticSerialization: u8,
}

impl Deferred {
    fn timer(&self) -> Ptr<KTIMER> {
        self.memory.cast()
    }

    fn dpc(&self) -> Ptr<KDPC> {
        self.memory.add_bytes(DPC_AT).cast()
    }

    fn work(&self) -> Ptr<WORK_QUEUE_ITEM> {
        self.memory.add_bytes(WORK_AT).cast()
    }

    /// Takes it out of the queues that it can be taken out of. False: it was in none.
    pub(crate) fn stop(&self) -> bool {
        let was_set = self.kind == Kind::Timer && timer::cancel(self.timer());
        dpc::remove(self.dpc()) || was_set
    }

    /// Frees its memory. A work item that waits keeps it.
    pub(crate) fn release(self) {
        if !work::is_queued(self.work()) {
            pool::free(self.memory, 0);
        }
    }
}

fn create(
    kind: Kind,
    callback: Word,
    period: u32,
    is_serialized: bool,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
) -> Result<u64, NtStatus> {
    if callback == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let wanted = object::attributes(attributes)?;
    let is_passive = wanted.ExecutionLevel == serial::LEVEL_PASSIVE;
    let parent = from_word(wanted.ParentObject);
    let lock = if is_serialized && object::exists(parent) {
        serial::automatic(parent, is_passive || kind == Kind::WorkItem)?
    } else {
        0
    };
    let how = How {
        callback: from_word(callback),
        period,
        is_passive,
        lock,
    };
    make(kind, how, attributes, Parent::Required)
}

/// What differs between objects of a kind.
#[derive(Clone, Copy, Debug)]
struct How {
    callback: u64,
    period: u32,
    is_passive: bool,
    lock: u64,
}

fn make(
    kind: Kind,
    how: How,
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    parent: Parent,
) -> Result<u64, NtStatus> {
    let memory = pool::allocate_zeroed(BYTES, *b"WdfD").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let deferred = Deferred {
        kind,
        callback: how.callback,
        memory,
        period: how.period,
        is_passive: how.is_passive,
        lock: how.lock,
        is_running: false,
    };
    let made = object::create(attributes, parent, Body::Deferred(deferred));
    let Ok(handle) = made else {
        pool::free(memory, 0);
        return made;
    };
    timer::initialize_timer(deferred.timer(), false);
    dpc::initialize_dpc(
        deferred.dpc(),
        dispatcher::DPC,
        Ptr::new(callable("WdfpDeferred")),
        Ptr::new(handle),
    );
    deferred.work().write(WORK_QUEUE_ITEM {
        List: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
        WorkerRoutine: to_word(callable("WdfpWork")),
        Parameter: to_word(handle),
    });
    made
}

fn enqueue_work(deferred: &Deferred) {
    if !work::is_queued(deferred.work()) {
        work::queue(WorkItem::Executive(deferred.work()), 1);
    }
}

fn run(handle: u64) {
    if !object::exists(handle) {
        return;
    }
    let deferred = object::deferred(handle, |deferred| {
        deferred.is_running = true;
        *deferred
    });
    object::reference(handle);
    if deferred.kind == Kind::Presenter {
        super::queue::present(object::parent(handle));
    } else {
        serial::call(deferred.lock, Entry::Other, deferred.callback, &[handle]);
    }
    object::deferred(handle, |deferred| deferred.is_running = false);
    object::dereference(handle);
}

/// Makes the object that presents a queue's requests when the framework cannot do so at once.
pub(crate) fn presenter(queue: u64, is_passive: bool) -> Result<u64, NtStatus> {
    let how = How {
        callback: 0,
        period: 0,
        is_passive,
        lock: 0,
    };
    make(Kind::Presenter, how, Ptr::null(), Parent::Fixed(queue))
}

/// Has it do so soon.
pub(crate) fn schedule(presenter: u64) {
    let deferred = object::deferred(presenter, |deferred| *deferred);
    if deferred.is_passive {
        enqueue_work(&deferred);
    } else {
        dpc::queue(deferred.dpc(), 0, 0);
    }
}

fn get(handle: u64, kind: Kind, name: &str) -> Deferred {
    let deferred = object::deferred(handle, |deferred| *deferred);
    if deferred.kind != kind {
        object::bad_handle(handle, name);
    }
    deferred
}

fn wait_idle(handle: u64) {
    event::wait_until(u64::MAX, || {
        object::deferred(handle, |deferred| {
            !deferred.is_running && !work::is_queued(deferred.work())
        })
    });
}

nt_api! { module = wdf_deferred;
    /// WdfTimerCreate: a timer; the attributes name its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfTimerCreate(
        globals: Wdf,
        config: Ptr<WDF_TIMER_CONFIG>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(config, "Config");
        object::required(result, "Timer");
        let config = config.read();
        let is_serialized = config.AutomaticSerialization != 0;
        give(create(Kind::Timer, config.EvtTimerFunc, config.Period, is_serialized, attributes), result)
    }

    /// WdfTimerStart: due time in 100 ns, negative for relative. TRUE if it was started already.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfTimerStart(globals: Wdf, handle: Wdf, due: LargeInteger) -> Boolean {
        let deferred = get(handle.0, Kind::Timer, "WDFTIMER");
        timer::set(deferred.timer(), due, deferred.period.cast_signed(), deferred.dpc())
    }

    /// WdfTimerStop: TRUE if it was started; `wait` waits for the callback.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfTimerStop(globals: Wdf, handle: Wdf, wait: Boolean) -> Boolean {
        let was_set = get(handle.0, Kind::Timer, "WDFTIMER").stop();
        if wait {
            wait_idle(handle.0);
        }
        was_set
    }

    /// WdfTimerGetParentObject: its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfTimerGetParentObject(globals: Wdf, handle: Wdf) -> Wdf {
        get(handle.0, Kind::Timer, "WDFTIMER");
        Size(object::parent(handle.0))
    }

    /// WdfDpcCreate: a DPC; the attributes name its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDpcCreate(
        globals: Wdf,
        config: Ptr<WDF_DEFERRED_CONFIG>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(config, "Config");
        object::required(result, "Dpc");
        let config = config.read();
        let is_serialized = config.AutomaticSerialization != 0;
        give(create(Kind::Dpc, config.EvtFunc, 0, is_serialized, attributes), result)
    }

    /// WdfDpcEnqueue: FALSE if it is queued already.
    wdf both stdcall irql(ANY_LEVEL) implemented
    fn WdfDpcEnqueue(globals: Wdf, handle: Wdf) -> Boolean {
        dpc::queue(get(handle.0, Kind::Dpc, "WDFDPC").dpc(), 0, 0)
    }

    /// WdfDpcCancel: TRUE if it was queued.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDpcCancel(globals: Wdf, handle: Wdf, wait: Boolean) -> Boolean {
        get(handle.0, Kind::Dpc, "WDFDPC").stop()
    }

    /// WdfDpcGetParentObject: its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDpcGetParentObject(globals: Wdf, handle: Wdf) -> Wdf {
        get(handle.0, Kind::Dpc, "WDFDPC");
        Size(object::parent(handle.0))
    }

    /// WdfDpcWdmGetDpc: its KDPC.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfDpcWdmGetDpc(globals: Wdf, handle: Wdf) -> Ptr<KDPC> {
        get(handle.0, Kind::Dpc, "WDFDPC").dpc()
    }

    /// WdfWorkItemCreate: a work item; the attributes name its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWorkItemCreate(
        globals: Wdf,
        config: Ptr<WDF_DEFERRED_CONFIG>,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(config, "Config");
        object::required(result, "WorkItem");
        let config = config.read();
        let is_serialized = config.AutomaticSerialization != 0;
        give(create(Kind::WorkItem, config.EvtFunc, 0, is_serialized, attributes), result)
    }

    /// WdfWorkItemEnqueue: nothing happens if it is queued already.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWorkItemEnqueue(globals: Wdf, handle: Wdf) {
        enqueue_work(&get(handle.0, Kind::WorkItem, "WDFWORKITEM"));
    }

    /// WdfWorkItemGetParentObject: its parent.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfWorkItemGetParentObject(globals: Wdf, handle: Wdf) -> Wdf {
        get(handle.0, Kind::WorkItem, "WDFWORKITEM");
        Size(object::parent(handle.0))
    }

    /// WdfWorkItemFlush: waits until its callback has run.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfWorkItemFlush(globals: Wdf, handle: Wdf) {
        get(handle.0, Kind::WorkItem, "WDFWORKITEM");
        wait_idle(handle.0);
    }

    /// The DPC routine of timers and DPCs. Not a function of the table; it needs an address.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfpDeferred(dpc: Ptr<KDPC>, handle: Wdf, first: Size, second: Size) {
        if object::exists(handle.0) {
            let deferred = object::deferred(handle.0, |deferred| *deferred);
            if deferred.is_passive {
                enqueue_work(&deferred);
            } else {
                run(handle.0);
            }
        }
    }

    /// The worker routine of work items. Not a function of the table; it needs an address.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfpWork(handle: Wdf) {
        run(handle.0);
    }
}
