//! Cancelling IRPs.

use super::routine;
use crate::api::nt_api;
use crate::ke::{irql, spin_lock};
use crate::nt::{DEVICE_OBJECT, DISPATCH_LEVEL, IRP};
use crate::raw::{DataCell, Ptr, Word, from_word};
use crate::value::{Boolean, Irql};
use abi::trace::Entry;

/// The cancel spin lock.
static CANCEL_LOCK: DataCell<Word> = DataCell::new(0);

pub(super) fn initialize() {
    CANCEL_LOCK.ptr().write(0);
}

pub(crate) fn acquire() -> u8 {
    let old = irql::raise(DISPATCH_LEVEL);
    spin_lock::acquire(CANCEL_LOCK.ptr());
    old
}

pub(crate) fn release(irql: u8) {
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
    let packet = irp.read();
    // An IRP that is at no driver has no current location.
    let device: Ptr<DEVICE_OBJECT> = if packet.CurrentLocation > packet.StackCount {
        Ptr::null()
    } else {
        packet.CurrentStackLocation.read().DeviceObject
    };
    routine::call(
        Entry::Cancel,
        from_word(routine),
        &[device.addr(), irp.addr()],
    );
    true
}

/// Takes an IRP's cancel routine away (IoSetCancelRoutine with NULL); 0: it had none, or the routine is being called.
#[must_use]
pub fn take_routine(irp: Ptr<IRP>) -> Word {
    irp.with(|irp| core::mem::replace(&mut irp.CancelRoutine, 0))
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
