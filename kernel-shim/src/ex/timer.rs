//! Executive timers (EX_TIMER): a KTIMER that drivers get by address, with a callback at DISPATCH_LEVEL.
//!
//! The timer's DPC runs [`ExpTimerDpcRoutine`], an export that no driver imports: that gives it an address in the
//! driver's world in both ABIs.

use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver::owner_of;
use crate::ke::{dpc, timer};
use crate::nt::{KDPC, KTIMER};
use crate::raw::{Ptr, Word, from_word, low32};
use crate::value::{Boolean, LargeInteger, ULong};
use crate::{shared, table};
use abi::layout;
use abi::trace::Entry;

const TAG: u32 = u32::from_le_bytes(*b"ExTm");
/// EX_TIMER_NOTIFICATION: the timer stays signalled.
const NOTIFICATION: u32 = 1 << 31;
/// 100 ns in a millisecond.
const MILLISECOND: i64 = 10_000;

/// EX_TIMER: opaque to drivers, who may wait for it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EX_TIMER {
    timer: KTIMER,
    dpc: KDPC,
    callback: Word,
    context: Word,
    /// It was deleted while its callback ran.
    is_deleted: u32,
    /// Its callback is running.
    is_running: u32,
}

fn dpc_of(timer: Ptr<EX_TIMER>) -> Ptr<KDPC> {
    timer
        .add_bytes(core::mem::offset_of!(EX_TIMER, dpc) as u64)
        .cast()
}

/// Where an export of ours can be called from the driver's world.
pub(crate) fn routine_address(name: &str) -> u64 {
    let index = table::find(name).unwrap_or(0);
    if cfg!(nt_i386) {
        layout::stub_address(shared::kernel_base(), u64::from(index))
    } else {
        table::ENTRY_POINTS
            .get(index as usize)
            .map_or(0, |entry| entry.addr())
    }
}

/// Stops it; true: it was set.
fn cancel(timer: Ptr<EX_TIMER>) -> bool {
    let was_set = timer::cancel(timer.cast());
    dpc::remove(dpc_of(timer)) || was_set
}

nt_api! { module = ex_timer;
    /// Allocates a timer; null when the pool is exhausted. The callback is called as (timer, context).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAllocateTimer(callback: Ptr<u8>, context: Ptr<u8>, attributes: ULong) -> Ptr<EX_TIMER> {
        let bytes = size_of::<EX_TIMER>() as u64;
        let block = pool::allocate(bytes, TAG, owner_of(shared::caller()));
        if block.is_null() {
            return Ptr::null();
        }
        block.fill(0, bytes);
        let timer = block.cast::<EX_TIMER>();
        timer::KeInitializeTimerEx(timer.cast(), u32::from(attributes & NOTIFICATION == 0));
        dpc::KeInitializeDpc(dpc_of(timer), Ptr::new(routine_address("ExpTimerDpcRoutine")), block);
        timer.with(|timer| {
            timer.callback = callback.word();
            timer.context = context.word();
        });
        timer
    }

    /// Sets a timer: due time in 100 ns, negative for relative; period in 100 ns, 0 for once. TRUE: it was set already.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExSetTimer(timer: Ptr<EX_TIMER>, due: LargeInteger, period: LargeInteger, parameters: Ptr<u8>) -> Boolean {
        // A KTIMER's period is in milliseconds; a shorter one is not possible.
        let milliseconds = if period > 0 { (period / MILLISECOND).max(1) } else { 0 };
        let milliseconds = low32(milliseconds.cast_unsigned().min(0x7FFF_FFFF)).cast_signed();
        let was_queued = dpc::remove(dpc_of(timer));
        let dpc = if timer.read().callback == 0 { Ptr::null() } else { dpc_of(timer) };
        timer::set(timer.cast(), due, milliseconds, dpc) || was_queued
    }

    /// Cancels a timer; TRUE: it was set.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExCancelTimer(timer: Ptr<EX_TIMER>, parameters: Ptr<u8>) -> Boolean {
        cancel(timer)
    }

    /// Deletes a timer, cancelling it if asked to; TRUE: it was set and is cancelled. A running callback ends first.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExDeleteTimer(timer: Ptr<EX_TIMER>, do_cancel: Boolean, wait: Boolean, parameters: Ptr<u8>) -> Boolean {
        // A timer whose memory goes away must be stopped, whatever the driver asks for.
        let was_set = cancel(timer);
        if timer.read().is_running != 0 {
            timer.with(|timer| timer.is_deleted = 1);
        } else {
            pool::free(timer.cast(), TAG);
        }
        was_set && do_cancel
    }

    /// The DPC routine of executive timers; not for drivers.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExpTimerDpcRoutine(dpc: Ptr<KDPC>, context: Ptr<u8>, argument_1: Ptr<u8>, argument_2: Ptr<u8>) {
        let timer = context.cast::<EX_TIMER>();
        let EX_TIMER { callback, context, .. } = timer.read();
        timer.with(|timer| timer.is_running = 1);
        shared::call_driver(Entry::Other, from_word(callback), &[timer.addr(), from_word(context)]);
        timer.with(|timer| timer.is_running = 0);
        if timer.read().is_deleted != 0 {
            pool::free(timer.cast(), TAG);
        }
    }
}
