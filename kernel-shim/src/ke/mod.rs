//! The kernel proper: IRQL, spin locks, DPCs, timers, events, bugchecks, IOPMs.

pub mod bugcheck;
pub mod bugcheck_callback;
pub mod data;
pub mod debugger;
pub mod dpc;
pub mod dump;
pub mod event;
pub mod fpu;
pub mod iopm;
pub mod irql;
pub mod pcr;
pub mod processor;
pub mod queued_lock;
pub mod spin_lock;
pub mod time;
pub mod timer;
pub(crate) mod waiters;

use crate::nt::DISPATCH_LEVEL;
use crate::shared;

/// Delivers what was deferred while shim code ran or IRQL was high: a due tick, then DPCs. Does nothing at
/// DISPATCH_LEVEL or inside a tick.
pub(crate) fn deliver_deferred() {
    if shared::irql() >= DISPATCH_LEVEL || shared::in_tick() != 0 {
        return;
    }
    if shared::tick_due() != 0 {
        shared::set_tick_due(0);
        time::update();
        timer::expire();
    }
    dpc::run_all();
}

/// Forgets everything that is queued.
pub(crate) fn initialize() {
    dpc::initialize();
    timer::initialize();
    iopm::initialize();
    queued_lock::initialize();
    processor::initialize();
    bugcheck_callback::initialize();
    waiters::initialize();
    pcr::initialize();
    time::initialize();
}
