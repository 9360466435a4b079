//! Software IRQL: a word in the shared pages, no interrupt flag.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use core::sync::atomic::Ordering;

use crate::api::nt_api;
use crate::ke::sched;
use crate::nt::bugcheck::{IRQL_NOT_GREATER_OR_EQUAL, IRQL_NOT_LESS_OR_EQUAL, bugcheck_with_text};
use crate::nt::{APC_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL, SYNCH_LEVEL};
use crate::raw::Ptr;
use crate::shared;
use crate::value::Irql;

/// Raises IRQL; returns the old one. Raising to a lower one, or above HIGH_LEVEL, is a bugcheck.
#[must_use]
pub fn raise(new: u8) -> u8 {
    let old = shared::irql();
    if new < old || new > HIGH_LEVEL {
        bugcheck_with_text(
            IRQL_NOT_GREATER_OR_EQUAL,
            [u64::from(old), u64::from(new), 0, shared::caller()],
            format_args!("IRQL was to be raised from {old} to {new}; HIGH_LEVEL is {HIGH_LEVEL}"),
        );
    }
    shared::set_irql(new);
    old
}

/// Lowers IRQL. What that lets in is delivered when the API call returns. Lowering to a higher one is a bugcheck.
pub fn lower(new: u8) {
    let old = shared::irql();
    if new > old {
        bugcheck_with_text(
            IRQL_NOT_LESS_OR_EQUAL,
            [u64::from(new), u64::from(old), 0, shared::caller()],
            format_args!("IRQL was to be lowered from {old} to {new}"),
        );
    }
    shared::set_irql(new);
    if new < APC_LEVEL && old >= APC_LEVEL {
        super::apc::look_after_lowering();
    }
}

/// The current IRQL.
#[inline(always)]
fn current() -> Irql {
    Irql(shared::irql())
}

/// Raises IRQL on the fast path.
#[inline(always)]
pub(crate) fn fast_raise(new: Irql) -> Option<Irql> {
    let old = shared::irql();
    if new.0 < old || new.0 > HIGH_LEVEL {
        return None;
    }
    shared::set_irql(new.0);
    Some(Irql(old))
}

#[inline(always)]
fn fast_raise_to_dpc() -> Option<Irql> {
    fast_raise(Irql(DISPATCH_LEVEL))
}

/// Lowers IRQL on the fast path.
#[inline(always)]
pub(crate) fn fast_lower(new: Irql) -> Option<()> {
    if new.0 > shared::irql() || sched::ATTENTION.load(Ordering::Relaxed) {
        return None;
    }
    shared::set_irql(new.0);
    Some(())
}

nt_api! { module = ke_irql;
    /// The current IRQL.
    either both stdcall irql(ANY_LEVEL) implemented leaf(current)
    fn KeGetCurrentIrql() -> Irql {
        current()
    }

    /// Raises IRQL and returns the old one.
    either both fastcall irql(ANY_LEVEL) implemented fast(fast_raise)
    fn KfRaiseIrql(new_irql: Irql) -> Irql {
        Irql(raise(new_irql.0))
    }

    /// Lowers IRQL.
    either both fastcall irql(ANY_LEVEL) implemented fast(fast_lower)
    fn KfLowerIrql(new_irql: Irql) {
        lower(new_irql.0);
    }

    /// Raises IRQL and stores the old one.
    either both stdcall irql(ANY_LEVEL) implemented
    fn KeRaiseIrql(new_irql: Irql, old_irql: Ptr<u8>) {
        old_irql.write(raise(new_irql.0));
    }

    /// Lowers IRQL.
    either both stdcall irql(ANY_LEVEL) implemented fast(fast_lower)
    fn KeLowerIrql(new_irql: Irql) {
        lower(new_irql.0);
    }

    /// Raises IRQL to DISPATCH_LEVEL and returns the old one.
    either both stdcall irql(ANY_LEVEL) implemented fast(fast_raise_to_dpc)
    fn KeRaiseIrqlToDpcLevel() -> Irql {
        Irql(raise(DISPATCH_LEVEL))
    }

    /// Raises IRQL to SYNCH_LEVEL and returns the old one.
    either both stdcall irql(ANY_LEVEL) implemented
    fn KeRaiseIrqlToSynchLevel() -> Irql {
        Irql(raise(SYNCH_LEVEL))
    }
}
