//! System worker threads: they run what is in the work queues. One more starts when all of them are busy.

use super::thread::{self, Work};
use crate::ex::work;
use crate::ke::{event, sched, wait};
use crate::nt::{KEVENT, dispatcher};
use crate::raw::{DataCell, Global};

/// Most worker threads.
const LIMIT: u32 = 16;
/// Their priority: a critical worker's on NT.
const PRIORITY: i8 = 13;

#[derive(Debug)]
struct Workers {
    all: u32,
    idle: u32,
}

static WORKERS: Global<Workers> = Global::new("worker threads", Workers { all: 0, idle: 0 });
static WORK: DataCell<KEVENT> = DataCell::new(event::EMPTY);

pub(super) fn initialize() {
    WORKERS.with(|workers| *workers = Workers { all: 0, idle: 0 });
    event::initialize(WORK.ptr(), dispatcher::SYNCHRONIZATION_EVENT, false);
}

/// There is work: an idle worker is to look, or a new one. When neither can be had, the busy ones look when they are done.
pub(crate) fn wake() {
    let is_new_wanted = WORKERS.with(|workers| {
        let is_wanted = workers.idle == 0 && workers.all < LIMIT;
        if is_wanted {
            workers.all += 1;
        }
        is_wanted
    });
    if !is_new_wanted {
        event::set_state(WORK.ptr(), 1);
        return;
    }
    match thread::create_system(Work::WorkItems, [0; 2]) {
        Ok(made) => {
            sched::set_base_priority(made, PRIORITY);
            thread::start(made);
        }
        Err(_) => WORKERS.with(|workers| workers.all -= 1),
    }
}

/// A worker.
pub(super) fn run() -> ! {
    loop {
        while let Some(item) = work::take() {
            if !work::is_empty() {
                // This item may block; the next needs another thread.
                wake();
            }
            work::run(item);
            crate::ke::deliver_deferred();
        }
        WORKERS.with(|workers| workers.idle += 1);
        wait::single(WORK.ptr().cast(), &wait::Wait::FOREVER);
        WORKERS.with(|workers| workers.idle -= 1);
    }
}
