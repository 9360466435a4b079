//! Waiting: KeWaitForSingleObject, KeWaitForMultipleObjects, KeDelayExecutionThread.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use core::mem::offset_of;

use crate::api::nt_api;
use crate::ke::dispatcher::{self, WAIT_ALL, WAIT_ANY};
use crate::ke::{apc, sched, time, timer};
use crate::nt::bugcheck::{
    IRQL_NOT_LESS_OR_EQUAL, MAXIMUM_WAIT_OBJECTS_EXCEEDED, bugcheck, bugcheck_with_text,
};
use crate::nt::dispatcher::{NOTIFICATION_EVENT, SEMAPHORE, SYNCHRONIZATION_EVENT};
use crate::nt::thread::{ThreadPrivate, field, field::state};
use crate::nt::{DISPATCH_LEVEL, DISPATCHER_HEADER, KTHREAD, KTIMER, KWAIT_BLOCK, NtStatus};
use crate::raw::{Ptr, Word, from_word, low8, low16};
use crate::shared;
use crate::value::{Boolean, ProcessorMode, ULong};

/// Most objects that a wait without wait blocks of its own may have.
const THREAD_WAIT_OBJECTS: u32 = 3;
/// Most objects that a wait may have.
const MAXIMUM_WAIT_OBJECTS: u32 = 64;
/// KWAIT_REASON DelayExecution.
const DELAY_EXECUTION: u8 = 4;
/// KPROCESSOR_MODE UserMode.
const USER_MODE: u8 = 1;

/// How a wait is made.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// WaitAny or WaitAll.
    pub is_any: bool,
    /// KWAIT_REASON.
    pub reason: u8,
    /// 0 kernel, 1 user.
    pub mode: u8,
    /// Whether alerts and user APCs end it.
    pub is_alertable: bool,
    /// As NT's: 100 ns, negative relative, 0 not at all; `None` for ever.
    pub timeout: Option<i64>,
}

impl Wait {
    /// An ordinary wait of the shim's own, for ever.
    pub const FOREVER: Self = Self {
        is_any: true,
        reason: 0,
        mode: 0,
        is_alertable: false,
        timeout: None,
    };
}

/// A thread's own timer.
pub(crate) fn timer_of(thread: Ptr<KTHREAD>) -> Ptr<KTIMER> {
    thread.add_bytes(offset_of!(KTHREAD, Timer) as u64).cast()
}

/// One of a thread's own four wait blocks; the last is the timer's.
fn own_block(thread: Ptr<KTHREAD>, index: u64) -> Ptr<KWAIT_BLOCK> {
    thread
        .add_bytes(offset_of!(KTHREAD, WaitBlock) as u64 + index * size_of::<KWAIT_BLOCK>() as u64)
        .cast()
}

/// Puts a wait block into its object's list; the spare word behind it stays as it is.
fn insert(
    block: Ptr<KWAIT_BLOCK>,
    thread: Ptr<KTHREAD>,
    object: Ptr<DISPATCHER_HEADER>,
    key: u16,
    kind: u8,
    next: Ptr<KWAIT_BLOCK>,
) {
    block.with(|block| {
        block.Thread = thread;
        block.Object = object;
        block.NextWaitBlock = next;
        block.WaitKey = key;
        block.WaitType = kind;
        block.BlockState = 4;
    });
    dispatcher::wait_list(object).list_insert_tail(block.cast());
}

/// Bugchecks where a wait is not allowed: at DISPATCH_LEVEL and above with a timeout other than 0.
pub(crate) fn check_irql(what: &str, object: u64) {
    let irql = shared::irql();
    if irql >= DISPATCH_LEVEL {
        bugcheck_with_text(
            IRQL_NOT_LESS_OR_EQUAL,
            [object, u64::from(irql), 0, shared::caller()],
            format_args!("{what} would block at IRQL {irql}"),
        );
    }
}

/// Alerts and user APCs that end an alertable wait, or a user-mode one.
fn alert(thread: Ptr<KTHREAD>, wait: &Wait) -> Option<NtStatus> {
    let mode = usize::from(wait.mode.min(1));
    if wait.is_alertable {
        let is_alerted = thread.with(|thread| {
            let own = thread.Alerted.get_mut(mode).map_or(0, core::mem::take);
            own != 0 || mode == 1 && core::mem::take(&mut thread.Alerted[0]) != 0
        });
        if is_alerted {
            return Some(NtStatus::ALERTED);
        }
        if wait.mode == USER_MODE && apc::has_user_apc(thread) {
            thread.with(|thread| thread.UserApcPending = 1);
            return Some(NtStatus::USER_APC);
        }
    }
    (wait.mode == USER_MODE && thread.with(|thread| thread.UserApcPending) != 0)
        .then_some(NtStatus::USER_APC)
}

/// The interrupt time at which a wait is over; `u64::MAX`: never.
fn deadline(timeout: Option<i64>) -> u64 {
    timeout.map_or(u64::MAX, timer::due_time)
}

/// Waits for objects. `blocks` has a wait block for each, or is null when the thread's own three are enough.
pub(crate) fn wait(
    objects: &(impl Iterator<Item = Ptr<DISPATCHER_HEADER>> + Clone),
    blocks: Ptr<KWAIT_BLOCK>,
    wait: &Wait,
) -> NtStatus {
    let thread = sched::current();
    sched::private(thread).with(|private| private.wait_next = 0);
    let until = deadline(wait.timeout);
    loop {
        let status = if wait.is_any {
            objects
                .clone()
                .zip(0..)
                .find(|&(object, _)| dispatcher::is_signalled(object, thread))
                .map(|(object, key)| {
                    let flag = if dispatcher::satisfy(object, thread) {
                        dispatcher::ABANDONED
                    } else {
                        0
                    };
                    NtStatus(key | flag)
                })
        } else {
            dispatcher::try_all(objects.clone(), thread)
        };
        if let Some(status) = status {
            return status;
        }
        if let Some(status) = alert(thread, wait) {
            return status;
        }
        if wait.timeout == Some(0) {
            return NtStatus::TIMEOUT;
        }
        // Also when the time is over already: whether a driver is right does not depend on the clock.
        check_irql(
            "a wait",
            objects.clone().next().map_or(0, |object| object.addr()),
        );
        if until != u64::MAX && until <= time::interrupt_time() {
            return NtStatus::TIMEOUT;
        }
        let kind = if wait.is_any { WAIT_ANY } else { WAIT_ALL };
        let first = blocks.non_null().unwrap_or_else(|| own_block(thread, 0));
        let mut last = Ptr::null();
        for ((object, key), index) in objects.clone().zip(0_u64..).zip(0_i64..) {
            let block = first.offset(index);
            insert(block, thread, object, low16(key), kind, first);
            if !last.is_null() {
                link(last, block);
            }
            last = block;
        }
        let status = block_current(thread, first, last, wait, until);
        if status != NtStatus::KERNEL_APC {
            return status;
        }
        apc::deliver();
    }
}

fn link(block: Ptr<KWAIT_BLOCK>, next: Ptr<KWAIT_BLOCK>) {
    block.with(|block| block.NextWaitBlock = next);
}

/// Sets the timeout behind a wait's blocks (`last` is null if there are none) and gives the processor away.
fn block_current(
    thread: Ptr<KTHREAD>,
    first: Ptr<KWAIT_BLOCK>,
    last: Ptr<KWAIT_BLOCK>,
    wait: &Wait,
    until: u64,
) -> NtStatus {
    let timer_block = own_block(thread, 3);
    let mut head = if last.is_null() { Ptr::null() } else { first };
    if until != u64::MAX {
        let timer = timer_of(thread);
        timer::initialize_timer(timer, false);
        if last.is_null() {
            head = timer_block;
        } else {
            link(last, timer_block);
        }
        let key = low16(u64::from(NtStatus::TIMEOUT.0));
        insert(timer_block, thread, timer.cast(), key, WAIT_ANY, head);
        timer::insert(timer, until);
    }
    let irql = shared::irql();
    dispatcher::set_wait(thread, irql, wait.mode);
    let queue = thread.with(|thread| {
        thread.WaitReason = wait.reason;
        thread.WaitBlockList = head;
        thread.Queue
    });
    set_alertable(thread, wait.is_alertable);
    thread
        .add_bytes(field::WAIT_TIME)
        .cast::<u32>()
        // As the last tick left it: NT's is no newer, and reading the counter takes longer than the switch.
        .write(super::data::KeTickCount.ptr().read().LowPart);
    sched::state_of(thread).write(state::WAITING);
    if !queue.is_null() {
        super::queue::thread_waits(queue);
    }
    if sched::is_idle() {
        crate::main_loop::wait_on_idle_thread(|| !dispatcher::is_waiting(thread));
    } else {
        sched::block();
    }
    dispatcher::wait_status(thread)
}

/// KTHREAD.MiscFlags bit 4, Alertable in Windows 7.
const ALERTABLE: u32 = 1 << 4;

fn set_alertable(thread: Ptr<KTHREAD>, is_alertable: bool) {
    thread.with(|thread| {
        if is_alertable {
            thread.MiscFlags |= ALERTABLE;
        } else {
            thread.MiscFlags &= !ALERTABLE;
        }
    });
}

/// Whether a waiting thread's wait can be ended by an alert or a user APC; and its mode.
pub(crate) fn alertable_wait(thread: Ptr<KTHREAD>) -> Option<u8> {
    let is_alertable = thread.with(|thread| thread.MiscFlags & ALERTABLE != 0);
    (is_alertable && dispatcher::is_waiting(thread))
        .then(|| thread.add_bytes(field::WAIT_MODE).cast::<u8>().read())
}

/// Waits until something ends it: an alert, an APC or [`dispatcher::end_wait`].
pub(crate) fn park(wait: &Wait) -> NtStatus {
    let thread = sched::current();
    let status = block_current(thread, Ptr::null(), Ptr::null(), wait, u64::MAX);
    if status == NtStatus::KERNEL_APC {
        apc::deliver();
    }
    status
}

/// Waits for one object.
pub(crate) fn single(object: Ptr<DISPATCHER_HEADER>, how: &Wait) -> NtStatus {
    wait(&core::iter::once(object), Ptr::null(), how)
}

/// Waits once for a queue; returns the entry, or a status in its place (KERNEL_APC: the caller begins again).
pub(super) fn for_queue(queue: Ptr<DISPATCHER_HEADER>, how: &Wait) -> Word {
    let thread = sched::current();
    if let Some(status) = alert(thread, how) {
        return crate::raw::to_word(u64::from(status.0));
    }
    check_irql("a wait for a queue", queue.addr());
    let block = own_block(thread, 0);
    insert(block, thread, queue, 0, WAIT_ANY, block);
    block_current(thread, block, block, how, deadline(how.timeout));
    thread.with(|thread| thread.WaitStatus)
}

/// Waits for nothing but the time to come.
pub(crate) fn delay(how: &Wait) -> NtStatus {
    wait(
        &core::iter::empty(),
        Ptr::null(),
        &Wait {
            is_any: true,
            ..*how
        },
    )
}

fn read_timeout(timeout: Ptr<i64>) -> Option<i64> {
    timeout.non_null().map(Ptr::read)
}

/// [`KeWaitForSingleObject`] on the fast path: for an event or a semaphore that is signalled, however long it would have
/// been waited for.
#[inline(always)]
fn fast_single(
    object: Ptr<DISPATCHER_HEADER>,
    _reason: ULong,
    _mode: ProcessorMode,
    _alertable: Boolean,
    timeout: Ptr<i64>,
) -> Option<NtStatus> {
    let at = |field: usize| object.add_bytes(field as u64);
    // A timeout at a bad address is the ordinary path's.
    if !shared::is_kernel(object.addr()) || !timeout.is_null() {
        return None;
    }
    let signal = at(offset_of!(DISPATCHER_HEADER, SignalState)).cast::<i32>();
    let state = signal.read();
    if state <= 0 {
        return None;
    }
    match at(offset_of!(DISPATCHER_HEADER, Type)).cast::<u8>().read() {
        NOTIFICATION_EVENT => {}
        SYNCHRONIZATION_EVENT => signal.write(0),
        SEMAPHORE => signal.write(state.wrapping_sub(1)),
        _ => return None,
    }
    sched::private(sched::current())
        .add_bytes(offset_of!(ThreadPrivate, wait_next) as u64)
        .cast::<u32>()
        .write(0);
    Some(NtStatus::SUCCESS)
}

nt_api! { module = ke_wait;
    /// Waits for an object, until the timeout (100 ns; negative is relative; null is for ever).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_single)
    fn KeWaitForSingleObject(
        object: Ptr<DISPATCHER_HEADER>,
        reason: ULong,
        mode: ProcessorMode,
        alertable: Boolean,
        timeout: Ptr<i64>,
    ) -> NtStatus {
        single(object, &Wait {
            is_any: true,
            reason: low8(u64::from(reason)),
            mode: mode.0,
            is_alertable: alertable,
            timeout: read_timeout(timeout),
        })
    }

    /// Waits for one of several objects (wait type 1) or for all of them at once (0).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeWaitForMultipleObjects(
        count: ULong,
        objects: Ptr<Word>,
        wait_type: ULong,
        reason: ULong,
        mode: ProcessorMode,
        alertable: Boolean,
        timeout: Ptr<i64>,
        wait_blocks: Ptr<KWAIT_BLOCK>,
    ) -> NtStatus {
        let limit = if wait_blocks.is_null() { THREAD_WAIT_OBJECTS } else { MAXIMUM_WAIT_OBJECTS };
        if count > limit {
            bugcheck(MAXIMUM_WAIT_OBJECTS_EXCEEDED, [u64::from(count), 0, 0, 0]);
        }
        let all = (0..i64::from(count)).map(|index| Ptr::new(from_word(objects.offset(index).read())));
        wait(&all, wait_blocks, &Wait {
            is_any: wait_type == u32::from(WAIT_ANY),
            reason: low8(u64::from(reason)),
            mode: mode.0,
            is_alertable: alertable,
            timeout: read_timeout(timeout),
        })
    }

    /// As KeWaitForSingleObject.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented fast(fast_single)
    fn KeWaitForMutexObject(
        object: Ptr<DISPATCHER_HEADER>,
        reason: ULong,
        mode: ProcessorMode,
        alertable: Boolean,
        timeout: Ptr<i64>,
    ) -> NtStatus {
        KeWaitForSingleObject(object, reason, mode, alertable, timeout)
    }

    /// Waits for a time (100 ns; negative is relative); 0 yields to other threads of the same priority.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeDelayExecutionThread(mode: ProcessorMode, alertable: Boolean, interval: Ptr<i64>) -> NtStatus {
        let time = interval.read();
        let how = Wait {
            is_any: true,
            reason: DELAY_EXECUTION,
            mode: mode.0,
            is_alertable: alertable,
            timeout: Some(time),
        };
        match delay(&how) {
            NtStatus::TIMEOUT => {
                if time == 0 {
                    sched::yield_current();
                }
                NtStatus::SUCCESS
            }
            status => status,
        }
    }
}
