//! IRPs that wait here: they are marked pending and can be cancelled.

use alloc::collections::BTreeSet;

use crate::api::nt_api;
use crate::io::{cancel as io_cancel, irp as io_irp, routine};
use crate::nt::{IRP, NtStatus, SL_PENDING_RETURNED};
use crate::raw::{Global, Ptr, to_word};

/// IRPs with our cancel routine.
static WAITING: Global<BTreeSet<u64>> =
    Global::new("waiting file system requests", BTreeSet::new());

pub(super) fn initialize() {
    WAITING.with(BTreeSet::clear);
}

/// Marks an IRP pending and makes it cancellable. False: it is cancelled already, and is now completed.
pub(super) fn pend(irp: Ptr<IRP>) -> bool {
    irp.read()
        .CurrentStackLocation
        .with(|stack| stack.Control |= SL_PENDING_RETURNED);
    WAITING.with(|waiting| waiting.insert(irp.addr()));
    irp.with(|irp| irp.CancelRoutine = routine::address_of("FsRtlpCancelRoutine"));
    if irp.read().Cancel != 0 && take(irp) {
        complete(irp, NtStatus::CANCELLED, 0);
        return false;
    }
    true
}

/// Takes an IRP back to complete it. False: it is being cancelled.
pub(super) fn take(irp: Ptr<IRP>) -> bool {
    if !WAITING.with(|waiting| waiting.remove(&irp.addr())) {
        return false;
    }
    io_cancel::take_routine(irp) != 0
}

/// Completes an IRP.
pub(super) fn complete(irp: Ptr<IRP>, status: NtStatus, information: u64) {
    set_status(irp, status, information);
    io_irp::complete(irp);
}

/// Sets what an IRP's request came to.
pub(super) fn set_status(irp: Ptr<IRP>, status: NtStatus, information: u64) {
    irp.with(|irp| {
        irp.IoStatus.Status = to_word(u64::from(status.0));
        irp.IoStatus.Information = to_word(information);
    });
}

/// The cancel routine; the cancel spin lock is held.
pub(crate) fn cancel(irp: Ptr<IRP>) {
    io_cancel::release(irp.read().CancelIrql);
    WAITING.with(|waiting| waiting.remove(&irp.addr()));
    super::notify::forget_irp(irp);
    if super::lock::cancelled(irp) || super::oplock::cancelled(irp) {
        return;
    }
    complete(irp, NtStatus::CANCELLED, 0);
}

nt_api! { module = fsrtl_pending;
    /// The cancel routine of IRPs that wait for locks, oplocks and changes. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn FsRtlpCancelRoutine(device: Ptr<u8>, irp: Ptr<IRP>) {
        cancel(irp);
    }
}
