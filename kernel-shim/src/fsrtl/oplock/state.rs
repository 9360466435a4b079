//! Who holds an oplock, and who waits for one to be broken.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::codes::{CREATE_REQUIRING_OPLOCK, IGNORE_OPLOCK_KEYS, PARENT_OBJECT};
use crate::fsrtl::oplock_key::{self, Key};
use crate::fsrtl::{pending, stack_of};
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IRP, KEVENT, NtStatus};
use crate::raw::{Global, Ptr, from_word, low32};
use crate::shared;
use abi::trace::Entry;

#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) file: Ptr<FILE_OBJECT>,
    pub(super) key: Option<Key>,
    /// The request that is completed when the oplock is broken; null while a break is to be acknowledged.
    pub(super) irp: Ptr<IRP>,
    pub(super) level: u32,
    /// FSCTL_REQUEST_OPLOCK, not one of the old kinds.
    pub(super) is_new: bool,
    pub(super) is_filter: bool,
    /// What it is being broken to.
    pub(super) breaking_to: Option<u32>,
}

/// Who makes a request: a file, and all that have its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) file: Ptr<FILE_OBJECT>,
    pub(super) key: Option<Key>,
}

impl Owner {
    pub(super) fn of(irp: Ptr<IRP>, flags: u32) -> Self {
        let file = stack_of(irp).FileObject;
        let key = oplock_key::of(file, flags & PARENT_OBJECT != 0);
        Self {
            file,
            key: key.filter(|_| flags & IGNORE_OPLOCK_KEYS == 0),
        }
    }

    pub(super) fn has(&self, file: Ptr<FILE_OBJECT>, key: Option<Key>) -> bool {
        self.file == file || self.key.is_some() && self.key == key
    }

    pub(super) fn holds(&self, holder: &Holder) -> bool {
        self.has(holder.file, holder.key)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// Irp, completion routine, context.
    Posted(Ptr<IRP>, u64, u64),
    Blocked(Ptr<KEVENT>),
}

#[derive(Default, Debug)]
pub(super) struct Oplock {
    pub(super) holders: Vec<Holder>,
    pub(super) waiters: Vec<Waiter>,
    /// The file that was opened on condition of an oplock (FILE_OPEN_REQUIRING_OPLOCK), until it asks for one.
    pub(super) reserved: Option<Ptr<FILE_OBJECT>>,
}

/// By the address of the OPLOCK.
pub(super) static OPLOCKS: Global<BTreeMap<u64, Oplock>> = Global::new("oplocks", BTreeMap::new());

pub(in crate::fsrtl) fn initialize() {
    OPLOCKS.with(BTreeMap::clear);
}

pub(super) fn holders(oplock: u64) -> Vec<Holder> {
    OPLOCKS.with(|all| {
        all.get(&oplock)
            .map(|state| state.holders.clone())
            .unwrap_or_default()
    })
}

pub(super) fn change<R>(
    oplock: u64,
    file: Ptr<FILE_OBJECT>,
    change: impl FnOnce(&mut Holder) -> R,
) -> Option<R> {
    OPLOCKS.with(|all| {
        let mut holders = all.get_mut(&oplock)?.holders.iter_mut();
        holders.find(|holder| holder.file == file).map(change)
    })
}

pub(super) fn drop_holder(oplock: u64, file: Ptr<FILE_OBJECT>) {
    OPLOCKS.with(|all| {
        if let Some(state) = all.get_mut(&oplock) {
            state.holders.retain(|holder| holder.file != file);
        }
    });
}

/// The file that others wait for, for it has been promised an oplock.
pub(super) fn reserved(oplock: u64) -> Option<Ptr<FILE_OBJECT>> {
    OPLOCKS.with(|all| all.get(&oplock)?.reserved)
}

/// A file has made use of its promise, or gives it up.
pub(super) fn unreserve(oplock: u64, file: Ptr<FILE_OBJECT>) {
    OPLOCKS.with(|all| {
        if let Some(state) = all.get_mut(&oplock) {
            state.reserved.take_if(|reserved| *reserved == file);
        }
    });
}

/// The second half of a create with FILE_OPEN_REQUIRING_OPLOCK: nobody gets ahead of its request for an oplock.
pub(super) fn reserve(oplock: u64, irp: Ptr<IRP>) -> NtStatus {
    let stack = stack_of(irp);
    if low32(from_word(stack.Parameters[1])) & CREATE_REQUIRING_OPLOCK == 0 {
        return NtStatus::INVALID_PARAMETER;
    }
    let owner = Owner::of(irp, 0);
    let is_breaking = holders(oplock)
        .iter()
        .any(|holder| holder.breaking_to.is_some() && !owner.holds(holder));
    if is_breaking || reserved(oplock).is_some_and(|file| file != owner.file) {
        return NtStatus::OPLOCK_NOT_GRANTED;
    }
    OPLOCKS.with(|all| all.entry(oplock).or_default().reserved = Some(owner.file));
    NtStatus::SUCCESS
}

/// Lets go on who waited for breaks, if no break is under way any more.
pub(super) fn wake(oplock: u64) {
    let waiters = OPLOCKS.with(|all| {
        let Some(state) = all.get_mut(&oplock) else {
            return Vec::new();
        };
        if state
            .holders
            .iter()
            .any(|holder| holder.breaking_to.is_some())
            || state.reserved.is_some()
        {
            return Vec::new();
        }
        core::mem::take(&mut state.waiters)
    });
    for waiter in waiters {
        match waiter {
            Waiter::Blocked(event) => {
                event::KeSetEvent(event, 0, false);
            }
            Waiter::Posted(irp, routine, context) => {
                if pending::take(irp) {
                    pending::set_status(irp, NtStatus::SUCCESS, 0);
                    shared::call_driver(Entry::Other, routine, &[context, irp.addr()]);
                }
            }
        }
    }
}

/// A waiting IRP is cancelled. False: it is none of ours.
pub(in crate::fsrtl) fn cancelled(irp: Ptr<IRP>) -> bool {
    let posted = OPLOCKS.with(|all| {
        for (&oplock, state) in all.iter_mut() {
            // The holder's own: the oplock is given up.
            if let Some(position) = state.holders.iter().position(|holder| holder.irp == irp) {
                state.holders.remove(position);
                return Some((oplock, None));
            }
            let position = state
                .waiters
                .iter()
                .position(|waiter| matches!(waiter, Waiter::Posted(other, ..) if *other == irp));
            if let Some(position) = position {
                return Some((oplock, Some(state.waiters.remove(position))));
            }
        }
        None
    });
    match posted {
        Some((_, Some(Waiter::Posted(irp, routine, context)))) => {
            pending::set_status(irp, NtStatus::CANCELLED, 0);
            shared::call_driver(Entry::Other, routine, &[context, irp.addr()]);
            true
        }
        Some((oplock, _)) => {
            pending::complete(irp, NtStatus::CANCELLED, 0);
            wake(oplock);
            true
        }
        None => false,
    }
}
