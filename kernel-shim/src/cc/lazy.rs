//! The lazy writer: writes dirty pages some time after they were written to, unless their file's write-behind is off.

use alloc::vec::Vec;

use super::{CACHES, Cache, dirty_pages, flush_lazily};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::timer::routine_address;
use crate::ex::work::{self, WorkItem};
use crate::ke::{dpc, timer};
use crate::nt::{KDPC, KTIMER, WORK_QUEUE_ITEM};
use crate::raw::{Global, Ptr, to_word};

/// After the first write to a clean system, and between passes: 100 ns.
const FIRST_DELAY: i64 = 30_000_000;
const DELAY: i64 = 10_000_000;
/// DelayedWorkQueue.
const DELAYED: u32 = 1;

/// What the lazy writer waits with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Writer {
    timer: KTIMER,
    dpc: KDPC,
    item: WORK_QUEUE_ITEM,
}

#[derive(Debug)]
struct State {
    /// A [`Writer`]; 0 before it is needed first.
    writer: u64,
    /// Its timer is set, or its pass has not ended.
    is_active: bool,
}

static STATE: Global<State> = Global::new(
    "lazy writer",
    State {
        writer: 0,
        is_active: false,
    },
);

pub(super) fn initialize() {
    STATE.with(|state| {
        state.writer = 0;
        state.is_active = false;
    });
}

fn writer() -> Option<Ptr<Writer>> {
    let known = STATE.with(|state| state.writer);
    if known != 0 {
        return Some(Ptr::new(known));
    }
    let block = pool::allocate_zeroed(size_of::<Writer>() as u64, *b"CcLw")?;
    let writer = block.cast::<Writer>();
    timer::KeInitializeTimerEx(writer.cast(), 0);
    let routine = Ptr::new(routine_address("CcpLazyWriteDpc"));
    dpc::KeInitializeDpc(dpc_of(writer), routine, block);
    writer.with(|writer| writer.item.WorkerRoutine = to_word(routine_address("CcpLazyWrite")));
    STATE.with(|state| state.writer = writer.addr());
    Some(writer)
}

fn dpc_of(writer: Ptr<Writer>) -> Ptr<KDPC> {
    let offset = core::mem::offset_of!(Writer, dpc) as u64;
    writer.add_bytes(offset).cast()
}

fn item_of(writer: Ptr<Writer>) -> Ptr<WORK_QUEUE_ITEM> {
    let offset = core::mem::offset_of!(Writer, item) as u64;
    writer.add_bytes(offset).cast()
}

/// Something is dirty: it will be written.
pub(super) fn arm() {
    if !STATE.with(|state| core::mem::replace(&mut state.is_active, true)) {
        start(FIRST_DELAY);
    }
}

fn start(delay: i64) {
    match writer() {
        Some(writer) => {
            timer::set(writer.cast(), -delay, 0, dpc_of(writer));
        }
        // The next write tries again.
        None => STATE.with(|state| state.is_active = false),
    }
}

/// Writes everything that is dirty and may be written behind.
pub(super) fn write_all() {
    let is_meant =
        |cache: &Cache| cache.is_written_behind && cache.pages.values().any(|page| page.is_dirty);
    let keys: Vec<u64> = CACHES.with(|caches| {
        let meant = caches.iter().filter(|(_, cache)| is_meant(cache));
        meant.map(|(&key, _)| key).collect()
    });
    for key in keys {
        flush_lazily(key);
    }
}

nt_api! { module = cc_lazy;
    /// The lazy writer's DPC routine. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn CcpLazyWriteDpc(dpc: Ptr<KDPC>, context: Ptr<u8>, argument_1: Ptr<u8>, argument_2: Ptr<u8>) {
        let item = item_of(context.cast());
        if !work::is_queued(item) {
            work::queue(WorkItem::Executive(item), DELAYED);
        }
    }

    /// The lazy writer's pass. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcpLazyWrite(context: Ptr<u8>) {
        write_all();
        if dirty_pages() > 0 {
            start(DELAY);
        } else {
            STATE.with(|state| state.is_active = false);
        }
    }
}
