//! The scheduler: 32 priorities, one ready queue each, one processor.
//!
//! Every switch is a call of [`Platform::switch_stack`](crate::platform::Platform::switch_stack) inside shim code, which
//! is never preempted, so nothing here needs a lock. A driver's code is preempted when the tick, the end of an API call
//! or the end of a DPC finds a better thread ready, or the quantum used up.
//!
//! The boot thread is the idle thread: it runs when no queue has a thread, and serves the VMM's requests.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::ke::pcr;
use crate::nt::thread::{ThreadPrivate, field, field::state};
use crate::nt::{ETHREAD, KTHREAD, LIST_ENTRY};
use crate::raw::{DataCell, Ptr, low8, low32, volatile_read};
use crate::shared::{self, CallSite};

/// Ticks that a thread may run while others of its priority wait (NT's short quantum).
pub const QUANTUM: i32 = 2;
/// First real-time priority: from here on nothing is boosted and nothing decays.
pub const LOW_REALTIME: i8 = 16;
/// Number of priorities.
const PRIORITIES: usize = 32;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Scheduler {
    ready: [LIST_ENTRY; PRIORITIES],
    /// A bit for each queue that is not empty.
    summary: u32,
    current: Ptr<KTHREAD>,
    idle: Ptr<KTHREAD>,
    /// A thread that has ended; whoever runs next drops the reference that its running held.
    dead: Ptr<KTHREAD>,
    switches: u64,
}

/// Where [`SCHEDULER`] has the thread that runs, for entry code in assembly.
#[cfg(not(nt_i386))]
pub(crate) const CURRENT: usize = offset_of!(Scheduler, current);

const NO_ENTRY: LIST_ENTRY = LIST_ENTRY {
    Flink: Ptr::null(),
    Blink: Ptr::null(),
};

pub(crate) static SCHEDULER: DataCell<Scheduler> = DataCell::new(Scheduler {
    ready: [NO_ENTRY; PRIORITIES],
    summary: 0,
    current: Ptr::null(),
    idle: Ptr::null(),
    dead: Ptr::null(),
    switches: 0,
});

/// Something may have to happen before the driver's code continues below DISPATCH_LEVEL: a DPC, an APC, a switch.
/// Fast paths of exports look at it too.
pub(crate) static ATTENTION: AtomicBool = AtomicBool::new(false);

/// Asks for [`super::deliver_deferred`] to look.
pub(crate) fn request_attention() {
    ATTENTION.store(true, Ordering::Relaxed);
}

/// Whether somebody asked, since the last time.
pub(crate) fn take_attention() -> bool {
    ATTENTION.load(Ordering::Relaxed) && ATTENTION.swap(false, Ordering::Relaxed)
}

/// Empties the queues; `boot` is the thread that runs, and becomes the idle thread.
pub(crate) fn initialize(boot: Ptr<KTHREAD>) {
    SCHEDULER.ptr().with(|scheduler| {
        scheduler.summary = 0;
        scheduler.current = boot;
        scheduler.idle = boot;
        scheduler.dead = Ptr::null();
        scheduler.switches = 0;
    });
    for priority in 0..PRIORITIES {
        queue(priority).list_initialize();
    }
    state_of(boot).write(state::RUNNING);
    ATTENTION.store(false, Ordering::Relaxed);
}

fn queue(priority: usize) -> Ptr<LIST_ENTRY> {
    SCHEDULER
        .ptr()
        .add_bytes((offset_of!(Scheduler, ready) + priority * size_of::<LIST_ENTRY>()) as u64)
        .cast()
}

/// The thread that runs.
#[must_use]
#[inline]
pub fn current() -> Ptr<KTHREAD> {
    volatile_read(
        SCHEDULER
            .ptr()
            .add_bytes(offset_of!(Scheduler, current) as u64)
            .addr(),
    )
}

/// Whether the idle thread runs, which may not block.
#[must_use]
pub fn is_idle() -> bool {
    SCHEDULER
        .ptr()
        .with(|scheduler| scheduler.current == scheduler.idle)
}

/// Switches made since boot.
#[must_use]
pub fn switches() -> u64 {
    SCHEDULER.ptr().with(|scheduler| scheduler.switches)
}

/// The thread that runs when no other does.
#[must_use]
pub fn idle() -> Ptr<KTHREAD> {
    SCHEDULER.ptr().with(|scheduler| scheduler.idle)
}

/// The shim's own part of a thread.
#[must_use]
#[inline]
pub fn private(thread: Ptr<KTHREAD>) -> Ptr<ThreadPrivate> {
    thread.add_bytes(offset_of!(ETHREAD, Private) as u64).cast()
}

/// KTHREAD.State.
#[must_use]
pub fn state_of(thread: Ptr<KTHREAD>) -> Ptr<u8> {
    thread.add_bytes(field::STATE).cast()
}

fn link(thread: Ptr<KTHREAD>) -> Ptr<LIST_ENTRY> {
    thread
        .add_bytes(offset_of!(KTHREAD, WaitListEntry) as u64)
        .cast()
}

fn priority_index(thread: Ptr<KTHREAD>) -> usize {
    usize::from(thread.with(|thread| thread.Priority).unsigned_abs()).min(PRIORITIES - 1)
}

fn enqueue(thread: Ptr<KTHREAD>, at_head: bool) {
    let priority = priority_index(thread);
    state_of(thread).write(state::READY);
    if at_head {
        queue(priority).list_insert_head(link(thread));
    } else {
        queue(priority).list_insert_tail(link(thread));
    }
    SCHEDULER
        .ptr()
        .with(|scheduler| scheduler.summary |= 1 << priority);
}

fn dequeue(thread: Ptr<KTHREAD>, priority: usize) {
    link(thread).list_remove();
    if queue(priority).list_is_empty() {
        SCHEDULER
            .ptr()
            .with(|scheduler| scheduler.summary &= !(1 << priority));
    }
}

/// The highest priority that a ready thread has; `None`: none is ready.
fn best_priority() -> Option<usize> {
    let summary = SCHEDULER.ptr().with(|scheduler| scheduler.summary);
    (summary != 0).then(|| 31 - summary.leading_zeros() as usize)
}

/// Takes the first thread of the highest queue.
fn take_best() -> Option<Ptr<KTHREAD>> {
    let priority = best_priority()?;
    let entry = queue(priority).read().Flink;
    let thread = entry
        .sub_bytes(offset_of!(KTHREAD, WaitListEntry) as u64)
        .cast::<KTHREAD>();
    dequeue(thread, priority);
    Some(thread)
}

/// Lets a thread run when its turn comes.
pub(crate) fn make_ready(thread: Ptr<KTHREAD>) {
    if SCHEDULER.ptr().with(|scheduler| scheduler.idle) == thread {
        state_of(thread).write(state::RUNNING);
    } else {
        enqueue(thread, false);
    }
    request_attention();
}

/// Changes a thread's current priority, and its place in the ready queues.
pub(crate) fn set_current_priority(thread: Ptr<KTHREAD>, priority: i8) {
    let old = priority_index(thread);
    if state_of(thread).read() == state::READY {
        dequeue(thread, old);
        thread.with(|thread| thread.Priority = priority);
        enqueue(thread, false);
    } else {
        thread.with(|thread| thread.Priority = priority);
    }
    request_attention();
}

/// Changes a thread's base priority, and its current one to the same.
pub(crate) fn set_base_priority(thread: Ptr<KTHREAD>, priority: i8) {
    thread.with(|thread| thread.BasePriority = priority);
    set_run_priority(thread, priority);
}

/// Changes a thread's current priority for a new quantum.
pub(crate) fn set_run_priority(thread: Ptr<KTHREAD>, priority: i8) {
    thread.with(|thread| thread.PriorityDecrement = 0);
    private(thread).with(|private| private.quantum = QUANTUM);
    set_current_priority(thread, priority);
}

/// What the end of a wait gives a thread: `increment` above its base priority, below the real-time ones.
pub(crate) fn boost(thread: Ptr<KTHREAD>, increment: i32) {
    let (priority, base) = thread.with(|thread| (thread.Priority, thread.BasePriority));
    private(thread).with(|private| private.quantum = QUANTUM);
    if priority >= LOW_REALTIME || increment <= 0 {
        return;
    }
    let wanted = i32::from(base)
        .saturating_add(increment)
        .min(i32::from(LOW_REALTIME) - 1);
    if wanted > i32::from(priority) {
        let wanted = low8(u64::from(wanted.unsigned_abs())).cast_signed();
        thread.with(|thread| {
            thread.PriorityDecrement = wanted - base;
            thread.Priority = wanted;
        });
    }
}

/// A tick of the clock belongs to the running thread.
pub(crate) fn on_tick() {
    private(current()).with(|private| {
        private.quantum -= 1;
        private.ticks = private.ticks.wrapping_add(1);
    });
    request_attention();
}

/// The quantum is over: a boosted priority decays by one.
fn end_quantum(thread: Ptr<KTHREAD>) {
    private(thread).with(|private| private.quantum = QUANTUM);
    thread.with(|thread| {
        if thread.Priority < LOW_REALTIME && thread.Priority > thread.BasePriority {
            thread.Priority -= 1;
            thread.PriorityDecrement = thread.PriorityDecrement.saturating_sub(1).max(0);
        }
    });
}

/// Gives the processor to a better thread, or to an equal one when the quantum is over. Whether that happened; then
/// this thread has run again since. Call at IRQL below DISPATCH_LEVEL only.
pub(crate) fn dispatch() -> bool {
    let Some(best) = best_priority() else {
        return false;
    };
    if is_idle() {
        return false;
    }
    let current = current();
    let (is_over, is_bound_to_wait) =
        private(current).with(|private| (private.quantum <= 0, private.wait_next != 0));
    if is_bound_to_wait {
        request_attention();
        return false;
    }
    if best > priority_index(current) {
        current.with(|thread| thread.Preempted = 1);
        enqueue(current, true);
        switch_to_best();
        return true;
    }
    if is_over {
        end_quantum(current);
        if best >= priority_index(current) {
            enqueue(current, false);
            switch_to_best();
            return true;
        }
    }
    false
}

/// Gives the processor to the next ready thread of at least this priority; false: there is none.
pub(crate) fn yield_current() -> bool {
    let current = current();
    let is_any = best_priority().is_some_and(|best| best >= priority_index(current));
    if !is_any || is_idle() {
        return false;
    }
    end_quantum(current);
    enqueue(current, false);
    switch_to_best();
    true
}

fn switch_to_best() {
    let next = take_best().unwrap_or_else(|| SCHEDULER.ptr().with(|scheduler| scheduler.idle));
    switch_to(next);
}

/// Gives the processor away; the caller has said in the thread's state why. Returns when something has made the thread
/// ready and its turn came. The idle thread may not call this.
pub(crate) fn block() {
    switch_to_best();
}

/// As [`block`], for a thread that never runs again: the next one drops a reference to it.
pub(crate) fn end() -> ! {
    let thread = current();
    state_of(thread).write(state::TERMINATED);
    SCHEDULER.ptr().with(|scheduler| scheduler.dead = thread);
    switch_to_best();
    unreachable!("a thread that has ended runs no more")
}

/// Runs all ready threads until none is left; on the idle thread.
pub(crate) fn run_ready() {
    loop {
        super::deliver_deferred();
        let Some(next) = take_best() else { return };
        switch_to(next);
    }
}

/// Whether the switch that is being made leaves the idle thread.
#[cfg(test)]
pub(crate) fn left_idle() -> bool {
    LEFT_IDLE.load(Ordering::Relaxed)
}
#[cfg(test)]
static LEFT_IDLE: AtomicBool = AtomicBool::new(false);

fn switch_to(next: Ptr<KTHREAD>) {
    let previous = current();
    if next == previous {
        state_of(next).write(state::RUNNING);
        return;
    }
    let site = CallSite::default().swap();
    let exception_list = pcr::exception_list();
    let old = private(previous);
    old.with(|old| {
        old.site = [
            site.address,
            site.stack,
            u64::from(site.ebp) | u64::from(site.export) << 32,
            site.links,
        ];
        old.depth = shared::depth();
        old.interrupts_masked = shared::interrupts_masked();
        old.exception_list = exception_list;
        old.irql = shared::irql().into();
    });
    previous.with(|thread| thread.Running = 0);
    let idle = SCHEDULER.ptr().with(|scheduler| {
        scheduler.current = next;
        scheduler.switches += 1;
        scheduler.idle
    });
    let new = private(next).read();
    if next != idle {
        state_of(next).write(state::RUNNING);
        crate::client::user::switch_to(new.view);
    }
    let [address, stack, ebp, links] = new.site;
    let _ = CallSite {
        address,
        stack,
        ebp: low32(ebp),
        export: low32(ebp >> 32),
        links,
    }
    .swap();
    shared::set_depth(new.depth);
    shared::set_interrupts_masked(new.interrupts_masked);
    shared::set_current_process(new.process_id);
    shared::set_irql(low8(u64::from(new.irql)));
    let (top, limit) = next.with(|thread| {
        thread.Running = 1;
        thread.Preempted = 0;
        (thread.InitialStack, thread.StackLimit)
    });
    pcr::set_thread(next, top, limit, new.exception_list);
    next.add_bytes(field::CONTEXT_SWITCHES)
        .cast::<u32>()
        .with(|count| *count = count.wrapping_add(1));
    #[cfg(test)]
    LEFT_IDLE.store(previous == idle, Ordering::Relaxed);
    let save_at = old
        .add_bytes(offset_of!(ThreadPrivate, stack_pointer) as u64)
        .addr();
    shared::platform().switch_stack(save_at, new.stack_pointer);
    after_switch();
}

/// First thing on a stack that was switched to.
pub(crate) fn after_switch() {
    let dead = SCHEDULER
        .ptr()
        .with(|scheduler| core::mem::take(&mut scheduler.dead));
    if !dead.is_null() {
        crate::ob::dereference(dead.addr());
    }
}
