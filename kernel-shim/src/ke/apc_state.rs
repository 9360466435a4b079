//! KAPC_STATE: a thread's APCs and the process that it is in. Attaching to another process puts the state aside, so that
//! APCs of the thread's own process wait until it is back.

use core::mem::offset_of;

use crate::ke::apc;
use crate::nt::bugcheck::{INVALID_PROCESS_DETACH_ATTEMPT, bugcheck_with_text};
use crate::nt::{APC_LEVEL, KAPC_STATE, KPROCESS, KTHREAD, LIST_ENTRY};
use crate::raw::{Ptr, from_word};
use crate::shared;

/// KAPC_STATE.Process of a KeStackAttachProcess that had nothing to do.
const NOT_ATTACHED: u64 = 1;

/// The state that counts.
fn current(thread: Ptr<KTHREAD>) -> Ptr<KAPC_STATE> {
    thread
        .add_bytes(offset_of!(KTHREAD, ApcListHead) as u64)
        .cast()
}

/// The thread's own state while it is attached.
pub(super) fn saved(thread: Ptr<KTHREAD>) -> Ptr<KAPC_STATE> {
    thread
        .add_bytes(offset_of!(KTHREAD, SavedApcListHead) as u64)
        .cast()
}

/// A new thread is in its own process.
pub(super) fn initialize(thread: Ptr<KTHREAD>) {
    for mode in 0..2 {
        heads(saved(thread), mode).list_initialize();
    }
    set_index(thread, 0);
}

/// ApcStateIndex, and the pointers that it is an index of: own process and attached.
fn set_index(thread: Ptr<KTHREAD>, index: u8) {
    let (now, aside) = (current(thread).word(), saved(thread).word());
    thread.with(|thread| {
        thread.ApcStateIndex = index;
        thread.ApcStatePointer = if index == 0 {
            [now, aside]
        } else {
            [aside, now]
        };
    });
}

fn heads(state: Ptr<KAPC_STATE>, mode: i64) -> Ptr<LIST_ENTRY> {
    state.cast::<LIST_ENTRY>().offset(mode)
}

/// A state without APCs. Only its fields are written: behind them lie others of the thread's.
fn reset(state: Ptr<KAPC_STATE>, process: u64) {
    for mode in 0..2 {
        heads(state, mode).list_initialize();
    }
    set_fields(state, process, [0; 3]);
}

fn set_fields(state: Ptr<KAPC_STATE>, process: u64, flags: [u8; 3]) {
    let at = |offset: usize| state.add_bytes(offset as u64);
    at(offset_of!(KAPC_STATE, Process))
        .cast()
        .write(crate::raw::to_word(process));
    at(offset_of!(KAPC_STATE, KernelApcInProgress))
        .cast::<[u8; 3]>()
        .write(flags);
}

/// Moves a state with its APCs.
fn relocate(from: Ptr<KAPC_STATE>, to: Ptr<KAPC_STATE>) {
    let fields = from.read();
    for mode in 0..2 {
        let (old, new) = (heads(from, mode), heads(to, mode));
        new.list_initialize();
        while let Some(entry) = old.list_pop() {
            new.list_insert_tail(entry);
        }
    }
    set_fields(
        to,
        from_word(fields.Process),
        [
            fields.KernelApcInProgress,
            fields.KernelApcPending,
            fields.UserApcPending,
        ],
    );
}

/// Whether a thread is attached to a process.
pub(crate) fn is_attached(thread: Ptr<KTHREAD>) -> bool {
    thread.with(|thread| thread.ApcStateIndex) != 0
}

/// Gives a thread an empty state for `process`. What it has is kept in `state`, or by the thread itself if it is in its
/// own process; a null `state` is for threads that are.
pub(crate) fn attach(thread: Ptr<KTHREAD>, process: Ptr<KPROCESS>, state: Option<Ptr<KAPC_STATE>>) {
    let was_attached = is_attached(thread);
    match state.filter(|_| was_attached) {
        Some(state) => relocate(current(thread), state),
        None => {
            relocate(current(thread), saved(thread));
            set_index(thread, 1);
            if let Some(state) = state {
                state
                    .add_bytes(offset_of!(KAPC_STATE, Process) as u64)
                    .cast()
                    .write(crate::raw::to_word(0));
            }
        }
    }
    reset(current(thread), process.addr());
}

/// Marks a caller's state: KeStackAttachProcess had nothing to do.
pub(crate) fn mark_unused(state: Ptr<KAPC_STATE>) {
    state
        .add_bytes(offset_of!(KAPC_STATE, Process) as u64)
        .cast()
        .write(crate::raw::to_word(NOT_ATTACHED));
}

/// Undoes [`attach`]: what `state` holds counts again, or (`None`, or a state that says so) the thread's own. The process
/// that the thread is in now; `None`: the state is of an attachment that was none.
pub(crate) fn detach(
    thread: Ptr<KTHREAD>,
    state: Option<Ptr<KAPC_STATE>>,
) -> Option<Ptr<KPROCESS>> {
    let outer = state.map_or(0, |state| from_word(state.read().Process));
    if outer == NOT_ATTACHED {
        return None;
    }
    // What can be delivered is: the process is still the one that it was queued for.
    if shared::irql() < APC_LEVEL {
        apc::deliver();
    }
    let now = current(thread);
    let is_busy =
        now.read().KernelApcInProgress != 0 || (0..2).any(|mode| !heads(now, mode).list_is_empty());
    if !is_attached(thread) || is_busy {
        let text = if is_busy {
            "APCs of the process that the thread leaves are queued or run"
        } else {
            "the thread is not attached"
        };
        bugcheck_with_text(
            INVALID_PROCESS_DETACH_ATTEMPT,
            [0; 4],
            format_args!("KeUnstackDetachProcess: {text}"),
        );
    }
    match state.filter(|_| outer != 0) {
        Some(state) => relocate(state, now),
        None => {
            relocate(saved(thread), now);
            reset(saved(thread), 0);
            set_index(thread, 0);
        }
    }
    apc::look_again(thread);
    Some(Ptr::new(from_word(now.read().Process)))
}
