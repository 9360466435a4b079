//! The kernel proper: IRQL, spin locks, DPCs, timers, events, bugchecks, IOPMs.

pub mod apc;
pub(crate) mod apc_state;
pub mod bugcheck;
pub mod bugcheck_callback;
pub mod data;
pub mod debugger;
pub mod device_queue;
pub mod dispatcher;
pub mod dpc;
pub mod dump;
pub mod event;
pub mod fpu;
pub mod iopm;
pub mod irql;
pub mod mutex;
pub mod pcr;
pub mod priority;
pub mod processor;
pub mod queue;
pub mod queued_lock;
pub mod sched;
pub mod spin_lock;
pub mod time;
pub mod timer;
pub mod wait;
pub(crate) mod waiters;

use crate::nt::{APC_LEVEL, DISPATCH_LEVEL};
use crate::{io, shared};

/// Delivers what was deferred while shim code ran or IRQL was high: device interrupts, a due tick, DPCs, APCs; then lets
/// a better thread run. At DISPATCH_LEVEL or inside a tick only interrupts above the current IRQL.
pub(crate) fn deliver_deferred() {
    while is_anything_due() && deliver_once() {}
}

fn is_anything_due() -> bool {
    sched::take_attention() || shared::tick_due() != 0 || shared::interrupt_due() != 0
}

/// False: it has to wait.
fn deliver_once() -> bool {
    io::interrupt_lines::deliver();
    if shared::irql() >= DISPATCH_LEVEL || shared::in_tick() != 0 {
        sched::request_attention();
        return false;
    }
    if shared::tick_due() != 0 {
        shared::set_tick_due(0);
        time::update();
        timer::expire();
        sched::on_tick();
    }
    dpc::run_all();
    if shared::irql() < APC_LEVEL {
        apc::deliver();
    }
    // What made this thread run again may have left something for it.
    let has_switched = sched::dispatch();
    if shared::irql() >= APC_LEVEL {
        // Fast paths that lower IRQL look for this alone.
        apc::look_after_lowering();
    }
    has_switched
}

/// Forgets everything that is queued.
pub(crate) fn initialize() {
    event::initialize_progress();
    dpc::initialize();
    timer::initialize();
    iopm::initialize();
    queued_lock::initialize();
    processor::initialize();
    bugcheck_callback::initialize();
    waiters::initialize();
    time::initialize();
}
