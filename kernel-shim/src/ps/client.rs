//! The threads that clients' requests run on, in their processes: each request has one to itself until it is answered or
//! pending, and threads that have nothing to do wait for the process's next.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::process;
use super::thread::{self, Work};
use crate::ke::dispatcher;
use crate::ke::{apc, sched, wait};
use crate::nt::bugcheck::{APC_INDEX_MISMATCH, bugcheck_with_text};
use crate::nt::{KTHREAD, NtStatus};
use crate::raw::{Global, Ptr};
use abi::channel::Request;

/// Threads without a request that a process keeps.
const SPARE_THREADS: usize = 4;
/// KWAIT_REASON UserRequest.
const USER_REQUEST: u8 = 6;

#[derive(Debug)]
struct Clients {
    /// Threads without a request, by process; the last one is taken first.
    spare: BTreeMap<u32, Vec<u64>>,
    /// Requests that threads are to serve next, by thread.
    jobs: BTreeMap<u64, Request>,
}

static CLIENTS: Global<Clients> = Global::new(
    "request threads",
    Clients {
        spare: BTreeMap::new(),
        jobs: BTreeMap::new(),
    },
);

pub(super) fn initialize() {
    CLIENTS.with(|clients| {
        clients.spare.clear();
        clients.jobs.clear();
    });
}

/// Gives a request to a thread of its process, or of System if there is no such process.
///
/// # Errors
/// INSUFFICIENT_RESOURCES: no memory for one more thread.
pub(crate) fn serve(request: &Request) -> Result<(), NtStatus> {
    let (id, process) = match process::by_id(request.process) {
        Some(process) => (request.process, process),
        None => (super::SYSTEM_ID, process::system()),
    };
    let spare = CLIENTS.with(|clients| clients.spare.get_mut(&id).and_then(Vec::pop));
    let thread = match spare {
        Some(thread) => Ptr::new(thread),
        None => thread::create(process, id, Work::Requests, [0; 2])?,
    };
    CLIENTS.with(|clients| clients.jobs.insert(thread.addr(), *request));
    if spare.is_some() {
        dispatcher::end_wait(thread, NtStatus::SUCCESS, 0);
    } else {
        thread::start(thread);
    }
    Ok(())
}

fn next_job(thread: Ptr<KTHREAD>) -> Option<Request> {
    CLIENTS.with(|clients| clients.jobs.remove(&thread.addr()))
}

/// What such a thread does; returns when it is to end.
pub(super) fn serve_requests() {
    let thread = sched::current();
    thread.with(|thread| thread.PreviousMode = 1);
    let id = thread::process_id_of(thread);
    loop {
        if let Some(request) = next_job(thread) {
            crate::main_loop::answer_on_thread(&request);
            check_apcs(thread);
            apc::deliver_user();
            continue;
        }
        if thread::is_ending(thread) {
            return;
        }
        let is_kept = CLIENTS.with(|clients| {
            let spare = clients.spare.entry(id).or_default();
            let is_kept = spare.len() < SPARE_THREADS;
            if is_kept {
                spare.push(thread.addr());
            }
            is_kept
        });
        if !is_kept {
            return;
        }
        let how = wait::Wait {
            reason: USER_REQUEST,
            mode: 1,
            ..wait::Wait::FOREVER
        };
        while wait::park(&how) == NtStatus::KERNEL_APC {}
    }
}

/// A process ends: its threads end, now or when their requests are answered.
pub(super) fn end_threads(id: u32) {
    let spare = CLIENTS
        .with(|clients| clients.spare.remove(&id))
        .unwrap_or_default();
    for thread in process::threads_of(id) {
        sched::private(thread).with(|private| private.is_terminating = 1);
    }
    for thread in spare {
        dispatcher::end_wait(Ptr::new(thread), NtStatus::SUCCESS, 0);
    }
}

/// A system call may not leave with APCs disabled.
fn check_apcs(thread: Ptr<KTHREAD>) {
    let disable = apc::combined_disable(thread);
    if disable != 0 {
        bugcheck_with_text(
            APC_INDEX_MISMATCH,
            [0, 0, u64::from(disable), 0],
            format_args!(
                "a request returned to user mode with APCs disabled: a critical region was not left, or a mutex not released"
            ),
        );
    }
}
