//! Cancel-safe IRP queues.
//!
//! The driver's callbacks hold and guard the queue; what is done here is the race between taking an IRP out and its
//! cancellation: whoever takes the cancel routine away owns the IRP.

use super::{cancel, routine};
use crate::api::nt_api;
use crate::nt::{
    IO_CSQ, IO_CSQ_IRP_CONTEXT, IO_TYPE_CSQ, IO_TYPE_CSQ_EX, IO_TYPE_CSQ_IRP_CONTEXT, IRP,
    NtStatus, SL_PENDING_RETURNED,
};
use crate::raw::{Ptr, Word, from_word, low32};
use crate::shared;
use abi::trace::Entry;

/// Index in DriverContext of what the cancel routine finds the queue by.
const SLOT: usize = 3;

fn call(routine: Word, arguments: &[u64]) -> u64 {
    shared::call_driver(Entry::Other, from_word(routine), arguments)
}

/// Takes the queue's lock; returns the IRQL to give it back with.
fn lock(csq: Ptr<IO_CSQ>) -> u64 {
    let mut irql = 0_u8;
    let at = Ptr::of(&mut irql);
    call(csq.read().CsqAcquireLock, &[csq.addr(), at.addr()]);
    u64::from(at.read())
}

fn unlock(csq: Ptr<IO_CSQ>, irql: u64) {
    call(csq.read().CsqReleaseLock, &[csq.addr(), irql]);
}

fn remove(csq: Ptr<IO_CSQ>, irp: Ptr<IRP>) {
    call(csq.read().CsqRemoveIrp, &[csq.addr(), irp.addr()]);
}

fn complete_cancelled(csq: Ptr<IO_CSQ>, irp: Ptr<IRP>) {
    call(csq.read().CsqCompleteCanceledIrp, &[csq.addr(), irp.addr()]);
}

/// What an IRP's driver context points to: its context, if the driver gave one, and the queue.
fn find(irp: Ptr<IRP>) -> (Ptr<IO_CSQ_IRP_CONTEXT>, Ptr<IO_CSQ>) {
    let at = Ptr::<IO_CSQ_IRP_CONTEXT>::new(from_word(irp.read().DriverContext[SLOT]));
    // Both kinds start with their type.
    if at.cast::<u32>().read() == IO_TYPE_CSQ_IRP_CONTEXT {
        (at, at.read().Csq)
    } else {
        (Ptr::null(), at.cast())
    }
}

/// The IRP is no longer in its queue.
fn forget(irp: Ptr<IRP>, context: Ptr<IO_CSQ_IRP_CONTEXT>) {
    if !context.is_null() {
        context.with(|context| context.Irp = Ptr::null());
    }
    irp.with(|irp| irp.DriverContext[SLOT] = 0);
}

/// The cancel routine of queued IRPs; the cancel spin lock is held.
pub(super) fn cancel(irp: Ptr<IRP>) {
    cancel::release(irp.read().CancelIrql);
    let (context, csq) = find(irp);
    csq.with(|csq| csq.ReservePointer = 0);
    let irql = lock(csq);
    remove(csq, irp);
    forget(irp, context);
    unlock(csq, irql);
    complete_cancelled(csq, irp);
}

fn insert(
    csq: Ptr<IO_CSQ>,
    irp: Ptr<IRP>,
    context: Ptr<IO_CSQ_IRP_CONTEXT>,
    insert_context: u64,
) -> NtStatus {
    csq.with(|csq| csq.ReservePointer = 0);
    if context.is_null() {
        irp.with(|irp| irp.DriverContext[SLOT] = csq.word());
    } else {
        context.write(IO_CSQ_IRP_CONTEXT {
            Type: IO_TYPE_CSQ_IRP_CONTEXT,
            Irp: irp,
            Csq: csq,
        });
        irp.with(|irp| irp.DriverContext[SLOT] = context.word());
    }
    let irql = lock(csq);
    let IO_CSQ {
        Type: kind,
        CsqInsertIrp: routine,
        ..
    } = csq.read();
    if kind == IO_TYPE_CSQ_EX {
        let status = NtStatus(low32(call(
            routine,
            &[csq.addr(), irp.addr(), insert_context],
        )));
        if !status.is_success() {
            forget(irp, context);
            unlock(csq, irql);
            return status;
        }
    } else {
        call(routine, &[csq.addr(), irp.addr()]);
    }
    irp.read()
        .CurrentStackLocation
        .with(|stack| stack.Control |= SL_PENDING_RETURNED);
    irp.with(|irp| irp.CancelRoutine = routine::address_of("IopCsqCancelRoutine"));
    if irp.read().Cancel != 0 && cancel::take_routine(irp) != 0 {
        // Cancelled before it was queued.
        remove(csq, irp);
        forget(irp, context);
        unlock(csq, irql);
        complete_cancelled(csq, irp);
        return NtStatus::SUCCESS;
    }
    unlock(csq, irql);
    NtStatus::SUCCESS
}

fn remove_next(csq: Ptr<IO_CSQ>, peek_context: u64) -> Ptr<IRP> {
    csq.with(|csq| csq.ReservePointer = 0);
    let irql = lock(csq);
    let mut irp = Ptr::<IRP>::null();
    loop {
        let peek = csq.read().CsqPeekNextIrp;
        irp = Ptr::new(call(peek, &[csq.addr(), irp.addr(), peek_context]));
        if irp.is_null() || cancel::take_routine(irp) != 0 {
            break;
        }
        // Its cancel routine waits for the lock: it takes the IRP out.
    }
    if !irp.is_null() {
        remove(csq, irp);
        forget(irp, find(irp).0);
    }
    unlock(csq, irql);
    irp
}

fn remove_one(csq: Ptr<IO_CSQ>, context: Ptr<IO_CSQ_IRP_CONTEXT>) -> Ptr<IRP> {
    csq.with(|csq| csq.ReservePointer = 0);
    let irql = lock(csq);
    let mut irp = context.read().Irp;
    if !irp.is_null() {
        if cancel::take_routine(irp) == 0 {
            irp = Ptr::null();
        } else {
            remove(csq, irp);
            forget(irp, context);
        }
    }
    unlock(csq, irql);
    irp
}

/// Six routines, in the order of the structure.
fn initialize(csq: Ptr<IO_CSQ>, kind: u32, routines: [Ptr<u8>; 6]) {
    let [insert, remove, peek, acquire, release, complete] = routines.map(Ptr::word);
    csq.write(IO_CSQ {
        Type: kind,
        CsqInsertIrp: insert,
        CsqRemoveIrp: remove,
        CsqPeekNextIrp: peek,
        CsqAcquireLock: acquire,
        CsqReleaseLock: release,
        CsqCompleteCanceledIrp: complete,
        ReservePointer: 0,
    });
}

nt_api! { module = io_csq;
    /// Makes a cancel-safe queue of the driver's callbacks.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn IoCsqInitialize(
        csq: Ptr<IO_CSQ>,
        insert_irp: Ptr<u8>,
        remove_irp: Ptr<u8>,
        peek_next_irp: Ptr<u8>,
        acquire_lock: Ptr<u8>,
        release_lock: Ptr<u8>,
        complete_canceled_irp: Ptr<u8>,
    ) -> NtStatus {
        let routines =
            [insert_irp, remove_irp, peek_next_irp, acquire_lock, release_lock, complete_canceled_irp];
        initialize(csq, IO_TYPE_CSQ, routines);
        NtStatus::SUCCESS
    }

    /// As IoCsqInitialize; the insert callback gets a context and may refuse an IRP.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn IoCsqInitializeEx(
        csq: Ptr<IO_CSQ>,
        insert_irp: Ptr<u8>,
        remove_irp: Ptr<u8>,
        peek_next_irp: Ptr<u8>,
        acquire_lock: Ptr<u8>,
        release_lock: Ptr<u8>,
        complete_canceled_irp: Ptr<u8>,
    ) -> NtStatus {
        let routines =
            [insert_irp, remove_irp, peek_next_irp, acquire_lock, release_lock, complete_canceled_irp];
        initialize(csq, IO_TYPE_CSQ_EX, routines);
        NtStatus::SUCCESS
    }

    /// Marks an IRP pending and queues it; completes it instead if it is cancelled already.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCsqInsertIrp(csq: Ptr<IO_CSQ>, irp: Ptr<IRP>, context: Ptr<IO_CSQ_IRP_CONTEXT>) {
        insert(csq, irp, context, 0);
    }

    /// As IoCsqInsertIrp; what the insert callback returns. An IRP that it refuses is neither queued nor marked.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCsqInsertIrpEx(
        csq: Ptr<IO_CSQ>,
        irp: Ptr<IRP>,
        context: Ptr<IO_CSQ_IRP_CONTEXT>,
        insert_context: Ptr<u8>,
    ) -> NtStatus {
        insert(csq, irp, context, insert_context.addr())
    }

    /// Takes the IRP that a context stands for out of its queue; NULL: it is cancelled or was taken out.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCsqRemoveIrp(csq: Ptr<IO_CSQ>, context: Ptr<IO_CSQ_IRP_CONTEXT>) -> Ptr<IRP> {
        remove_one(csq, context)
    }

    /// Takes the next matching IRP that is not being cancelled out of a queue; NULL: there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCsqRemoveNextIrp(csq: Ptr<IO_CSQ>, peek_context: Ptr<u8>) -> Ptr<IRP> {
        remove_next(csq, peek_context.addr())
    }

    /// The cancel routine of IRPs in cancel-safe queues. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IopCsqCancelRoutine(device: Ptr<u8>, irp: Ptr<IRP>) {
        cancel(irp);
    }
}
