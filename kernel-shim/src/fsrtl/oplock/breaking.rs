//! What an operation breaks, and waiting until that is acknowledged.

use alloc::vec::Vec;

use super::codes::{
    BACK_OUT_ATOMIC_OPLOCK, BROKEN_TO_LEVEL_2, BROKEN_TO_NONE, COMPLETE_IF_OPLOCKED,
    CREATE_COMPLETE_IF_OPLOCKED, CREATE_REQUIRING_OPLOCK, HANDLE, KEY_CHECK_ONLY, READ, WRITE,
};
use super::state::{
    Holder, OPLOCKS, Owner, Waiter, change, drop_holder, holders, reserved, unreserve, wake,
};
use crate::fsrtl::{oplock_key, pending, stack_of};
use crate::io::build::{KEVENT_UNSET, wait_for};
use crate::ke::event;
use crate::nt::{
    FILE_OBJECT, IRP, IRP_MJ_CREATE, IRP_PAGING_IO, NtStatus, SL_PENDING_RETURNED, dispatcher,
};
use crate::raw::{Ptr, from_word, low16, low32};
use crate::shared;
use abi::trace::Entry;

/// Writes a REQUEST_OPLOCK_OUTPUT_BUFFER.
pub(super) fn describe(irp: Ptr<IRP>, from: u32, to: u32, needs_acknowledgement: bool) -> u64 {
    const BYTES: u64 = 24;
    let buffer = Ptr::<u8>::new(from_word(irp.read().SystemBuffer));
    let room = low32(from_word(stack_of(irp).Parameters[0]));
    if buffer.is_null() || u64::from(room) < BYTES {
        return 0;
    }
    buffer.fill(0, BYTES);
    buffer.cast::<[u16; 2]>().write([1, low16(BYTES)]);
    let words = [from, to, u32::from(needs_acknowledgement)];
    buffer.add_bytes(4).cast::<[u32; 3]>().write(words);
    BYTES
}

/// Breaks one holder's oplock: its request is completed.
pub(super) fn break_one(oplock: u64, holder: &Holder, to: u32) {
    let needs_acknowledgement = holder.level & (WRITE | HANDLE) != 0;
    if needs_acknowledgement {
        change(oplock, holder.file, |holder| {
            holder.breaking_to = Some(to);
            holder.irp = Ptr::null();
        });
    } else {
        drop_holder(oplock, holder.file);
    }
    if holder.irp.is_null() || !pending::take(holder.irp) {
        return;
    }
    let information = if holder.is_new {
        describe(holder.irp, holder.level, to, needs_acknowledgement)
    } else if to == READ {
        BROKEN_TO_LEVEL_2
    } else {
        BROKEN_TO_NONE
    };
    pending::complete(holder.irp, NtStatus::SUCCESS, information);
}

/// Waits for breaks: in this thread, or (with a completion routine) by posting the IRP.
pub(super) fn wait_break(oplock: u64, irp: Ptr<IRP>, context: u64, routines: [u64; 2]) -> NtStatus {
    let [completion, post] = routines;
    let add = |waiter: Waiter| {
        OPLOCKS.with(|all| all.entry(oplock).or_default().waiters.push(waiter));
    };
    if completion == 0 {
        let mut event = KEVENT_UNSET;
        let event = Ptr::of(&mut event);
        event::initialize(event, dispatcher::SYNCHRONIZATION_EVENT, false);
        add(Waiter::Blocked(event));
        wait_for(event);
        return NtStatus::SUCCESS;
    }
    if post != 0 {
        shared::call_driver(Entry::Other, post, &[context, irp.addr()]);
    }
    irp.read()
        .CurrentStackLocation
        .with(|stack| stack.Control |= SL_PENDING_RETURNED);
    add(Waiter::Posted(irp, completion, context));
    pending::pend(irp);
    NtStatus::PENDING
}

/// What an operation leaves of the oplocks of others, and of level 2 ones; `None`: it breaks nothing.
pub(super) fn effect_of(irp: Ptr<IRP>) -> Option<u32> {
    const SUPERSEDE: u32 = 0;
    const OVERWRITE: u32 = 4;
    const OVERWRITE_IF: u32 = 5;
    /// FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | SYNCHRONIZE.
    const HARMLESS: u32 = 0x0010_0180;
    let stack = stack_of(irp);
    let is_paging = irp.read().Flags & IRP_PAGING_IO != 0;
    match stack.MajorFunction {
        // IRP_MJ_CREATE
        0 => {
            let security = Ptr::<u8>::new(from_word(stack.Parameters[0]));
            // IO_SECURITY_CONTEXT: two pointers, then the access.
            let access = security.non_null().map_or(u32::MAX, |security| {
                let offset = 2 * size_of::<crate::raw::Word>() as u64;
                security.add_bytes(offset).cast::<u32>().read()
            });
            let disposition = low32(from_word(stack.Parameters[1])) >> 24;
            if matches!(disposition, SUPERSEDE | OVERWRITE | OVERWRITE_IF) {
                Some(0)
            } else {
                (access & !HARMLESS != 0).then_some(READ)
            }
        }
        // Reads and flushes leave level 2.
        3 | 9 if !is_paging => Some(READ | HANDLE),
        // Writes, locks, set information of the file's size.
        4 | 17 if !is_paging => Some(0),
        6 => {
            // FileAllocationInformation 19, FileEndOfFileInformation 20, FileRename 10, FileLink 11.
            let class = low32(from_word(stack.Parameters[1]));
            matches!(class, 10 | 11 | 19 | 20).then_some(0)
        }
        // FSCTL_SET_ZERO_DATA
        13 => (low32(from_word(stack.Parameters[2])) == 0x9_80C8).then_some(0),
        _ => None,
    }
}

/// What a request breaks: the holders, and what each is left with.
pub(super) fn broken_by(
    oplock: u64,
    irp: Ptr<IRP>,
    owner: &Owner,
    left: u32,
) -> Vec<(Holder, u32)> {
    let is_create = stack_of(irp).MajorFunction == IRP_MJ_CREATE;
    let mut broken = Vec::new();
    for holder in holders(oplock) {
        let is_exclusive = holder.level & (WRITE | HANDLE) != 0;
        let to = if is_exclusive && !holder.is_new {
            left & READ
        } else {
            holder.level & left
        };
        // A create leaves handle caching of the new kinds alone: FsRtlOplockBreakH is for sharing violations.
        let to = if holder.is_new && is_create && left == READ {
            holder.level & (READ | HANDLE)
        } else {
            to
        };
        // A filter oplock is broken by writers only; only level 2 is broken by its own holder.
        let is_spared = holder.is_filter && left & READ != 0
            || owner.holds(&holder) && (is_exclusive || holder.is_new);
        if to != holder.level && !is_spared && holder.breaking_to.is_none() {
            broken.push((holder, to));
        }
    }
    broken
}

/// Whether a request is a create that shall fail rather than break an oplock.
pub(super) fn requires_oplock(irp: Ptr<IRP>) -> bool {
    let stack = stack_of(irp);
    stack.MajorFunction == IRP_MJ_CREATE
        && low32(from_word(stack.Parameters[1])) & CREATE_REQUIRING_OPLOCK != 0
}

/// A handle is closed: its oplock ends, and its promise of one.
pub(super) fn clean_up(oplock: u64, file: Ptr<FILE_OBJECT>) -> NtStatus {
    for holder in holders(oplock).iter().filter(|holder| holder.file == file) {
        drop_holder(oplock, file);
        if !holder.irp.is_null() && pending::take(holder.irp) {
            let information = if holder.is_new { 0 } else { BROKEN_TO_NONE };
            pending::complete(holder.irp, NtStatus::SUCCESS, information);
        }
    }
    unreserve(oplock, file);
    wake(oplock);
    NtStatus::SUCCESS
}

pub(super) fn check(
    oplock: u64,
    irp: Ptr<IRP>,
    flags: u32,
    context: u64,
    routines: [u64; 2],
) -> NtStatus {
    const CLEANUP: u8 = 18;
    oplock_key::note(irp);
    if flags & KEY_CHECK_ONLY != 0 {
        return NtStatus::SUCCESS;
    }
    let stack = stack_of(irp);
    if flags & BACK_OUT_ATOMIC_OPLOCK != 0 {
        unreserve(oplock, stack.FileObject);
        wake(oplock);
        return NtStatus::SUCCESS;
    }
    if stack.MajorFunction == CLEANUP {
        return clean_up(oplock, stack.FileObject);
    }
    let Some(left) = effect_of(irp) else {
        return NtStatus::SUCCESS;
    };
    let owner = Owner::of(irp, flags);
    let broken = move || broken_by(oplock, irp, &owner, left);
    break_and_wait(
        oplock,
        irp,
        &owner,
        broken,
        [flags.into(), context],
        routines,
    )
}

/// Breaks oplocks, and waits for those that have to be acknowledged.
pub(super) fn break_and_wait(
    oplock: u64,
    irp: Ptr<IRP>,
    owner: &Owner,
    broken: impl Fn() -> Vec<(Holder, u32)>,
    [flags, context]: [u64; 2],
    routines: [u64; 2],
) -> NtStatus {
    loop {
        // Nobody gets ahead of one who has been promised an oplock.
        let is_promised =
            reserved(oplock).is_some_and(|file| !owner.has(file, oplock_key::of(file, false)));
        let broken = if is_promised { Vec::new() } else { broken() };
        if requires_oplock(irp) && (is_promised || !broken.is_empty()) {
            return NtStatus::CANNOT_BREAK_OPLOCK;
        }
        for (holder, to) in broken {
            break_one(oplock, &holder, to);
        }
        let is_breaking = holders(oplock)
            .iter()
            .any(|holder| holder.breaking_to.is_some() && !owner.holds(holder));
        if !is_breaking && !is_promised {
            return NtStatus::SUCCESS;
        }
        let stack = stack_of(irp);
        let wants_no_wait = flags & u64::from(COMPLETE_IF_OPLOCKED) != 0
            || stack.MajorFunction == IRP_MJ_CREATE
                && low32(from_word(stack.Parameters[1])) & CREATE_COMPLETE_IF_OPLOCKED != 0;
        if wants_no_wait {
            return NtStatus::OPLOCK_BREAK_IN_PROGRESS;
        }
        let status = wait_break(oplock, irp, context, routines);
        if status == NtStatus::PENDING {
            return status;
        }
        // There may be new ones.
    }
}
