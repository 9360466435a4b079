//! Structured exception handling: from a fault or a raise to the driver's handlers, and unwinding.
//!
//! | module | what |
//! |---|---|
//! | `link` | boundaries between driver and shim code on a stack |
//! | `amd64`, `unwind` | exceptions by the image's tables |
//! | `i386` | exceptions by the chain at fs:0 |
//! | `api` | the exports |
//!
//! A fault in the driver's code is dispatched on its own stack with its registers. A fault in shim code that works for
//! the driver (a bad pointer passed to a function) is raised at the driver's call instead: the shim's frames are
//! abandoned if a handler takes it, which is possible because nothing is left half-done when no
//! [`crate::raw::Global`] is in use; what those frames had on the shim's heap stays there for ever.

#[cfg(not(nt_i386))]
mod amd64;
pub mod api;
#[cfg(nt_i386)]
mod i386;
mod link;
#[cfg(not(nt_i386))]
mod unwind;

#[cfg(not(nt_i386))]
use amd64 as arch;
#[cfg(nt_i386)]
use i386 as arch;
pub(crate) use link::{LinkKind, across};

use alloc::vec::Vec;

use crate::nt::{CONTEXT, EXCEPTION_NONCONTINUABLE, EXCEPTION_RECORD, FxSave, NtStatus};
use crate::platform::Trap;
use crate::raw::{Ptr, low32, to_word};
use crate::shared::{self, CallSite};
use crate::trap;

/// Shim code is entered for an exception's dispatch; returns the depth it came at.
#[must_use]
pub fn begin_dispatch() -> u32 {
    let depth = shared::depth();
    shared::set_depth(depth + 1);
    depth
}

/// Dispatches an exception in the interrupted code, on its stack. Returns when a handler wants it to go on, with the
/// registers as they are then. `depth` is that of the interrupted code.
pub fn dispatch_trap(trap: &mut Trap, fpu: &mut FxSave, depth: u32) {
    let Some(exception) = trap::exception_of(trap) else {
        return;
    };
    let mut record = EXCEPTION_RECORD {
        ExceptionCode: exception.status.0,
        ExceptionAddress: to_word(trap.registers.rip),
        NumberParameters: low32(exception.information().len() as u64),
        ..EXCEPTION_RECORD::default()
    };
    for (word, value) in record
        .ExceptionInformation
        .iter_mut()
        .zip(exception.information())
    {
        *word = to_word(*value);
    }
    let site = CallSite::current();
    if depth == 0 {
        let mut context = arch::context_of(&trap.registers, fpu);
        let context_at = Ptr::of(&mut context);
        if dispatch(record, context_at) {
            let context = context_at.read();
            let mut registers = arch::registers_of(&context);
            registers.cr2 = trap.registers.cr2;
            registers.cs = trap.registers.cs;
            trap.registers = registers;
            #[cfg(not(nt_i386))]
            {
                *fpu = context.FltSave;
            }
            return;
        }
    } else if site.stack != 0 {
        // The context shown is the caller's. Going on means trying the shim's instruction again.
        let mut context = arch::context_at(&site);
        if dispatch(record, Ptr::of(&mut context)) {
            return;
        }
    }
    trap::unhandled_stop(trap, &exception)
}

/// How the search for a handler ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dispatched {
    /// The code goes on with the context.
    Continue,
    /// No handler wants it.
    Unhandled,
    /// A handler did what it may not: another exception, in the same code.
    Raise(NtStatus),
}

/// Dispatches an exception and those that its handlers make of it. True: the code goes on with the context.
fn dispatch(mut record: EXCEPTION_RECORD, context: Ptr<CONTEXT>) -> bool {
    match arch::dispatch(Ptr::of(&mut record), context) {
        Dispatched::Continue => true,
        Dispatched::Unhandled => false,
        Dispatched::Raise(status) => {
            let nested = EXCEPTION_RECORD {
                ExceptionCode: status.0,
                ExceptionFlags: EXCEPTION_NONCONTINUABLE,
                ExceptionRecord: Ptr::of(&mut record),
                ExceptionAddress: record.ExceptionAddress,
                ..EXCEPTION_RECORD::default()
            };
            dispatch(nested, context);
            trap::unhandled_raise(&nested)
        }
    }
}

/// Raises an exception at the driver's call that is being served. A handler that wants to continue goes on behind it,
/// if the exception allows that. `arguments` are the bytes that the call pops on i386.
pub(crate) fn raise(record: EXCEPTION_RECORD, arguments: u32) {
    let site = CallSite::current();
    if site.stack != 0 && crate::raw::held() == 0 {
        let mut context = arch::context_at(&site);
        #[cfg(nt_i386)]
        {
            context.Esp += arguments;
        }
        #[cfg(not(nt_i386))]
        let _ = arguments;
        let context_at = Ptr::of(&mut context);
        if dispatch(record, context_at) {
            arch::resume(&context_at.read());
        }
    }
    trap::unhandled_raise(&record)
}

/// A raise of `status` that cannot be continued, at the driver's call that is being served.
pub(crate) fn raise_status(status: NtStatus, information: &[u64]) -> ! {
    let mut record = EXCEPTION_RECORD {
        ExceptionCode: status.0,
        ExceptionFlags: EXCEPTION_NONCONTINUABLE,
        ExceptionAddress: to_word(shared::caller()),
        NumberParameters: low32(information.len() as u64),
        ..EXCEPTION_RECORD::default()
    };
    for (word, value) in record.ExceptionInformation.iter_mut().zip(information) {
        *word = to_word(*value);
    }
    raise(record, 0);
    // A handler that continues such an exception has itself raised another one.
    trap::unhandled_raise(&record)
}

/// A raise because of what a handler did with the exception `record`.
fn raise_nested(record: Ptr<EXCEPTION_RECORD>, status: NtStatus) -> ! {
    let nested = EXCEPTION_RECORD {
        ExceptionCode: status.0,
        ExceptionFlags: EXCEPTION_NONCONTINUABLE,
        ExceptionRecord: record,
        ExceptionAddress: record.read().ExceptionAddress,
        ..EXCEPTION_RECORD::default()
    };
    raise(nested, 0);
    trap::unhandled_raise(&nested)
}

/// Return addresses of the driver's frames, the caller of the current API call first.
pub(crate) fn back_trace(skip: usize, room: usize) -> Vec<u64> {
    arch::back_trace(&CallSite::current(), skip, room)
}
