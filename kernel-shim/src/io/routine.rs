//! Routines that IRPs and timers name by address: the driver's, and the few that are the shim's own.
//!
//! The shim's own have addresses too (import stubs of exports that NT does not have), because a driver may look at
//! a completion or cancel routine; when the shim itself has to call one of them, it does so directly.

use alloc::collections::BTreeMap;

use crate::nt::IRP;
use crate::raw::{Global, Ptr, Word, to_word};
use crate::{ob, shared, table};
use abi::layout;
use abi::trace::Entry;

/// The device that is referenced until the completion routine of a stack location has run, by the location's address.
static OWNERS: Global<BTreeMap<u64, u64>> =
    Global::new("completion routines' devices", BTreeMap::new());

pub(super) fn initialize() {
    OWNERS.with(BTreeMap::clear);
}

/// The address of one of the shim's own routines, an export of that name.
#[must_use]
pub fn address_of(name: &str) -> Word {
    let index = table::find(name).unwrap_or(0);
    to_word(layout::stub_address(
        shared::kernel_base(),
        u64::from(index),
    ))
}

/// The address of one of the shim's own routines as a driver's routine is called by.
#[must_use]
pub fn callable(name: &str) -> u64 {
    if cfg!(nt_i386) {
        crate::raw::from_word(address_of(name))
    } else {
        let entry = table::find(name).and_then(|index| table::ENTRY_POINTS.get(index as usize));
        entry.map_or(0, |entry| entry.addr())
    }
}

/// Calls a routine: the shim's own directly, a driver's as one.
pub fn call(entry: Entry, routine: u64, arguments: &[u64]) -> u64 {
    let is = |name: &str| routine == crate::raw::from_word(address_of(name));
    match *arguments {
        [_, irp] if is("IopCsqCancelRoutine") => {
            super::csq::cancel(Ptr::<IRP>::new(irp));
            0
        }
        [_, irp] if is("FsRtlpCancelRoutine") => {
            crate::fsrtl::pending::cancel(Ptr::<IRP>::new(irp));
            0
        }
        [_, _, context] if is("IopForwardCompletion") => {
            super::build::forwarded(Ptr::new(context)).0.into()
        }
        _ => shared::call_driver(entry, routine, arguments),
    }
}

/// Keeps `device` alive until the completion routine of the stack location at `stack` has run.
pub(super) fn set_owner(stack: u64, device: u64) {
    ob::reference(device);
    if let Some(old) = OWNERS.with(|owners| owners.insert(stack, device)) {
        ob::dereference(old);
    }
}

/// Takes the device of [`set_owner`] back, with its reference.
pub(super) fn take_owner(stack: u64) -> Option<u64> {
    OWNERS.with(|owners| {
        if owners.is_empty() {
            None
        } else {
            owners.remove(&stack)
        }
    })
}

/// Lets go of the devices of an IRP that is freed.
pub(super) fn forget_range(address: u64, bytes: u64) {
    loop {
        let next = OWNERS.with(|owners| {
            owners
                .range(address..address.saturating_add(bytes))
                .next()
                .map(|(&stack, _)| stack)
        });
        let Some(device) = next.and_then(take_owner) else {
            return;
        };
        ob::dereference(device);
    }
}
