//! Events, and waiting. There is one thread: a wait runs DPCs and idles until the object is signalled.

use crate::api::nt_api;
use crate::ke::{deliver_deferred, time, timer};
use crate::nt::bugcheck::{IRQL_NOT_LESS_OR_EQUAL, bugcheck_with_text};
use crate::nt::{DISPATCH_LEVEL, DISPATCHER_HEADER, KEVENT, LIST_ENTRY, NtStatus, dispatcher};
use crate::raw::{Ptr, low8};
use crate::shared;
use crate::value::{Boolean, Long, ProcessorMode, ULong};
use abi::doorbell::Call;

/// Makes an event.
pub fn initialize(event: Ptr<KEVENT>, kind: u8, is_signalled: bool) {
    let list = event
        .add_bytes(core::mem::offset_of!(DISPATCHER_HEADER, WaitListHead) as u64)
        .cast();
    event.write(KEVENT {
        Header: DISPATCHER_HEADER {
            Type: kind,
            Absolute: 0,
            Size: low8(size_of::<KEVENT>() as u64 / 4),
            Inserted: 0,
            SignalState: i32::from(is_signalled),
            WaitListHead: LIST_ENTRY {
                Flink: list,
                Blink: list,
            },
        },
    });
}

/// Changes an event's state; returns the old one.
pub fn set_state(event: Ptr<KEVENT>, state: i32) -> i32 {
    event.with(|event| core::mem::replace(&mut event.Header.SignalState, state))
}

/// Whether a wait for the object would be satisfied now; if so, takes what the wait takes.
fn try_acquire(object: Ptr<DISPATCHER_HEADER>) -> bool {
    object.with(|header| {
        if header.SignalState <= 0 {
            return false;
        }
        match header.Type {
            dispatcher::SYNCHRONIZATION_EVENT | dispatcher::SYNCHRONIZATION_TIMER => {
                header.SignalState = 0;
            }
            dispatcher::SEMAPHORE | dispatcher::MUTANT => header.SignalState -= 1,
            _ => {}
        }
        true
    })
}

/// Runs what is deferred and idles until `is_done` or the interrupt time `deadline`. False: the time was over.
pub(crate) fn wait_until(deadline: u64, mut is_done: impl FnMut() -> bool) -> bool {
    loop {
        deliver_deferred();
        if is_done() {
            return true;
        }
        if time::interrupt_time() >= deadline {
            return false;
        }
        let until = deadline.min(timer::next_due());
        shared::platform().doorbell(Call::Idle, [until, 0, 0, 0, 0, 0]);
        time::update();
        timer::expire();
    }
}

fn deadline(timeout: Ptr<i64>) -> u64 {
    if timeout.is_null() {
        u64::MAX
    } else {
        timer::due_time(timeout.read())
    }
}

nt_api! { module = ke_event;
    /// Makes an event: type 0 is a notification event, 1 a synchronization event.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeEvent(event: Ptr<KEVENT>, event_type: ULong, state: Boolean) {
        initialize(event, low8(u64::from(event_type)), state);
    }

    /// Signals an event; returns its old state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetEvent(event: Ptr<KEVENT>, increment: Long, wait: Boolean) -> Long {
        set_state(event, 1)
    }

    /// Resets an event; returns its old state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeResetEvent(event: Ptr<KEVENT>) -> Long {
        set_state(event, 0)
    }

    /// Resets an event.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeClearEvent(event: Ptr<KEVENT>) {
        set_state(event, 0);
    }

    /// An event's state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReadStateEvent(event: Ptr<KEVENT>) -> Long {
        event.read().Header.SignalState
    }

    /// Waits for an object, until the timeout (100 ns; negative is relative; null is for ever).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("there is one thread; the wait is never ended by an APC")
    fn KeWaitForSingleObject(
        object: Ptr<DISPATCHER_HEADER>,
        reason: ULong,
        mode: ProcessorMode,
        alertable: Boolean,
        timeout: Ptr<i64>,
    ) -> NtStatus {
        if try_acquire(object) {
            return NtStatus::SUCCESS;
        }
        if !timeout.is_null() && timeout.read() == 0 {
            return NtStatus::TIMEOUT;
        }
        if shared::irql() >= DISPATCH_LEVEL {
            bugcheck_with_text(IRQL_NOT_LESS_OR_EQUAL, [object.addr(), u64::from(shared::irql()), 0, shared::caller()],
                format_args!("KeWaitForSingleObject would block at IRQL {}", shared::irql()));
        }
        if wait_until(deadline(timeout), || try_acquire(object)) { NtStatus::SUCCESS } else { NtStatus::TIMEOUT }
    }

    /// Waits for a time (100 ns; negative is relative).
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeDelayExecutionThread(mode: ProcessorMode, alertable: Boolean, interval: Ptr<i64>) -> NtStatus {
        wait_until(deadline(interval), || false);
        NtStatus::SUCCESS
    }
}
