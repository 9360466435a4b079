//! Cancelling IRPs.

use crate::api::nt_api;
use crate::ke::{irql, spin_lock};
use crate::nt::{DISPATCH_LEVEL, IRP};
use crate::raw::{DataCell, Ptr, Word, from_word};
use crate::shared;
use crate::value::{Boolean, Irql};
use abi::trace::Entry;

/// The cancel spin lock.
static CANCEL_LOCK: DataCell<Word> = DataCell::new(0);

pub(super) fn initialize() {
    CANCEL_LOCK.ptr().write(0);
}

fn acquire() -> u8 {
    let old = irql::raise(DISPATCH_LEVEL);
    spin_lock::acquire(CANCEL_LOCK.ptr());
    old
}

fn release(irql: u8) {
    spin_lock::release(CANCEL_LOCK.ptr());
    irql::lower(irql);
}

/// Cancels an IRP: calls its cancel routine, which gives the cancel spin lock back. False: it has none.
pub fn cancel(irp: Ptr<IRP>) -> bool {
    let old = acquire();
    let routine = irp.with(|irp| {
        irp.Cancel = 1;
        irp.CancelIrql = old;
        core::mem::replace(&mut irp.CancelRoutine, 0)
    });
    if routine == 0 {
        release(old);
        return false;
    }
    let device = irp.read().CurrentStackLocation.read().DeviceObject;
    shared::call_driver(
        Entry::Cancel,
        from_word(routine),
        &[device.addr(), irp.addr()],
    );
    true
}

nt_api! { module = io_cancel;
    /// Cancels an IRP; FALSE if it has no cancel routine.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCancelIrp(irp: Ptr<IRP>) -> Boolean {
        cancel(irp)
    }

    /// Takes the cancel spin lock.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAcquireCancelSpinLock(irql: Ptr<u8>) {
        irql.write(acquire());
    }

    /// Gives the cancel spin lock back.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReleaseCancelSpinLock(irql: Irql) {
        release(irql.0);
    }
}
