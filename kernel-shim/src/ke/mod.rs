//! The kernel proper: IRQL, spin locks, DPCs, timers, events, bugchecks, IOPMs.

pub mod apc;
pub mod bugcheck;
pub mod data;
pub mod dispatcher;
pub mod dpc;
pub mod event;
pub mod iopm;
pub mod irql;
pub mod mutex;
pub mod pcr;
pub mod priority;
pub mod queue;
pub mod sched;
pub mod spin_lock;
pub mod time;
pub mod timer;
pub mod wait;

use crate::nt::bugcheck::{
    KERNEL_MODE_EXCEPTION_NOT_HANDLED, KMODE_EXCEPTION_NOT_HANDLED,
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED, bugcheck_with_text,
};
use crate::nt::{APC_LEVEL, DISPATCH_LEVEL, NtStatus};
use crate::{ps, shared};

/// Delivers what was deferred while shim code ran or IRQL was high: a due tick, DPCs, APCs; then lets a better thread
/// run. Does nothing at DISPATCH_LEVEL or inside a tick.
pub(crate) fn deliver_deferred() {
    while (sched::take_attention() || shared::tick_due() != 0) && deliver_once() {}
}

/// False: it has to wait.
fn deliver_once() -> bool {
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
    sched::dispatch()
}

/// Raises a status that nothing in the guest handles.
pub(crate) fn raise(status: NtStatus) -> ! {
    let code = if shared::current_process() == ps::SYSTEM_ID {
        SYSTEM_THREAD_EXCEPTION_NOT_HANDLED
    } else if cfg!(nt_i386) {
        KERNEL_MODE_EXCEPTION_NOT_HANDLED
    } else {
        KMODE_EXCEPTION_NOT_HANDLED
    };
    bugcheck_with_text(
        code,
        [u64::from(status.0), shared::caller(), 0, 0],
        format_args!(
            "{} was raised and not handled",
            status.name().unwrap_or("a status")
        ),
    )
}

/// Forgets everything that is queued.
pub(crate) fn initialize() {
    event::initialize_progress();
    dpc::initialize();
    timer::initialize();
    iopm::initialize();
    time::initialize();
}
