//! Deferred procedure calls.

use alloc::collections::VecDeque;

use crate::api::nt_api;
use crate::nt::{DISPATCH_LEVEL, KDPC, LIST_ENTRY, dispatcher};
use crate::raw::{Global, Ptr, Word, from_word, low8};
use crate::shared;
use crate::value::{Boolean, Size, UChar, ULong};
use abi::trace::Entry;

static QUEUE: Global<VecDeque<u64>> = Global::new("DPC queue", VecDeque::new());

pub(crate) fn initialize() {
    QUEUE.with(VecDeque::clear);
}

/// Queues a DPC. False: it is queued already.
pub fn queue(dpc: Ptr<KDPC>, argument_1: Word, argument_2: Word) -> bool {
    let is_new = dpc.with(|dpc| {
        if dpc.DpcData != 0 {
            return false;
        }
        dpc.DpcData = 1;
        dpc.SystemArgument1 = argument_1;
        dpc.SystemArgument2 = argument_2;
        true
    });
    if is_new {
        crate::ke::irql::set_deferred(true);
        let is_urgent = dpc.read().Importance == 2;
        QUEUE.with(|queue| {
            if is_urgent {
                queue.push_front(dpc.addr());
            } else {
                queue.push_back(dpc.addr());
            }
        });
    }
    is_new
}

/// Takes a DPC out of the queue. False: it was not in it.
pub fn remove(dpc: Ptr<KDPC>) -> bool {
    let was_queued = QUEUE.with(|queue| {
        let position = queue.iter().position(|&queued| queued == dpc.addr());
        position
            .and_then(|position| queue.remove(position))
            .is_some()
    });
    if was_queued {
        dpc.with(|dpc| dpc.DpcData = 0);
    }
    was_queued
}

/// Runs what is queued, at DISPATCH_LEVEL.
pub(crate) fn run_all() {
    while let Some(address) = QUEUE.with(VecDeque::pop_front) {
        let dpc = Ptr::<KDPC>::new(address);
        let KDPC {
            DeferredRoutine,
            DeferredContext,
            SystemArgument1,
            SystemArgument2,
            ..
        } = dpc.read();
        dpc.with(|dpc| dpc.DpcData = 0);
        let irql = shared::irql();
        shared::set_irql(DISPATCH_LEVEL);
        let arguments = [
            address,
            from_word(DeferredContext),
            from_word(SystemArgument1),
            from_word(SystemArgument2),
        ];
        shared::call_driver(Entry::Dpc, from_word(DeferredRoutine), &arguments);
        shared::set_irql(irql);
    }
    crate::ke::irql::set_deferred(false);
}

nt_api! { module = ke_dpc;
    /// Makes a DPC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeDpc(dpc: Ptr<KDPC>, routine: Ptr<u8>, context: Ptr<u8>) {
        dpc.write(KDPC {
            Type: dispatcher::DPC,
            Importance: 1,
            Number: 0,
            DpcListEntry: LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() },
            DeferredRoutine: routine.word(),
            DeferredContext: context.word(),
            SystemArgument1: 0,
            SystemArgument2: 0,
            DpcData: 0,
        });
    }

    /// Queues a DPC; FALSE if it is queued already.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInsertQueueDpc(dpc: Ptr<KDPC>, argument_1: Size, argument_2: Size) -> Boolean {
        queue(dpc, crate::raw::to_word(argument_1.0), crate::raw::to_word(argument_2.0))
    }

    /// Takes a DPC out of the queue; FALSE if it was not in it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeRemoveQueueDpc(dpc: Ptr<KDPC>) -> Boolean {
        remove(dpc)
    }

    /// Sets a DPC's importance: 2 (high) goes to the front of the queue.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeSetImportanceDpc(dpc: Ptr<KDPC>, importance: ULong) {
        dpc.with(|dpc| dpc.Importance = low8(u64::from(importance)));
    }

    /// Sets the processor that a DPC runs on: there is one.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeSetTargetProcessorDpc(dpc: Ptr<KDPC>, number: UChar) {
        dpc.with(|dpc| dpc.Number = number.into());
    }

    /// Waits until all queued DPCs have run.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn KeFlushQueuedDpcs() {
        run_all();
    }
}
