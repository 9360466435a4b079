//! Asking for an oplock, and acknowledging that one is broken.

use super::breaking::{break_one, wait_break};
use super::codes::{
    ALL_KEYS_MATCH, FSCTL_ACK_CLOSE_PENDING, FSCTL_ACK_NO_2, FSCTL_ACKNOWLEDGE, FSCTL_BREAK_NOTIFY,
    FSCTL_REQUEST_BATCH, FSCTL_REQUEST_FILTER, FSCTL_REQUEST_LEVEL_1, FSCTL_REQUEST_LEVEL_2,
    FSCTL_REQUEST_OPLOCK, HANDLE, READ, WRITE,
};
use super::state::{
    Holder, OPLOCKS, Owner, change, drop_holder, holders, reserve, reserved, unreserve, wake,
};
use crate::fsrtl::{oplock_key, pending, stack_of};
use crate::nt::{FILE_OBJECT, IRP, IRP_MJ_CREATE, NtStatus};
use crate::raw::{Ptr, from_word, low32};

pub(super) fn end(irp: Ptr<IRP>, status: NtStatus) -> NtStatus {
    pending::complete(irp, status, 0);
    status
}

/// Asks for an oplock; the IRP waits if it is granted.
pub(super) fn grant(
    oplock: u64,
    irp: Ptr<IRP>,
    level: u32,
    [open_count, flags]: [u32; 2],
    is_new: bool,
) -> NtStatus {
    let owner = Owner::of(irp, 0);
    let was_reserved = reserved(oplock) == Some(owner.file);
    unreserve(oplock, owner.file);
    let status = grant_to(oplock, irp, level, [open_count, flags], is_new, &owner);
    if was_reserved {
        wake(oplock);
    }
    status
}

pub(super) fn grant_to(
    oplock: u64,
    irp: Ptr<IRP>,
    level: u32,
    [open_count, flags]: [u32; 2],
    is_new: bool,
    owner: &Owner,
) -> NtStatus {
    let is_shared = level & WRITE == 0 && (is_new || level & HANDLE == 0);
    let others = holders(oplock);
    // A holder with the same key may ask for more by another handle.
    let is_replaced = |holder: &Holder| {
        let is_less = if is_new {
            holder.level & !level == 0
        } else {
            holder.level == READ
        };
        owner.holds(holder) && holder.breaking_to.is_none() && is_less
    };
    let is_free = if is_shared {
        // The count says whether there are byte-range locks.
        let is_beside = |holder: &Holder| holder.level & WRITE == 0 && holder.breaking_to.is_none();
        open_count == 0
            && others
                .iter()
                .all(|holder| is_beside(holder) || is_new && is_replaced(holder))
    } else {
        (open_count <= 1 || flags & ALL_KEYS_MATCH != 0) && others.iter().all(is_replaced)
    };
    if !is_free || crate::io::build::IoIsOperationSynchronous(irp) && is_synchronous(owner.file) {
        return end(irp, NtStatus::OPLOCK_NOT_GRANTED);
    }
    for holder in others.iter().filter(|holder| owner.holds(holder)) {
        if is_new && holder.is_new {
            if !holder.irp.is_null() && pending::take(holder.irp) {
                pending::complete(holder.irp, NtStatus::OPLOCK_SWITCHED_TO_NEW_HANDLE, 0);
            }
        } else {
            break_one(oplock, holder, 0);
        }
        drop_holder(oplock, holder.file);
    }
    OPLOCKS.with(|all| {
        all.entry(oplock).or_default().holders.push(Holder {
            file: owner.file,
            key: owner.key,
            irp,
            level,
            is_new,
            is_filter: !is_new && level == READ | HANDLE,
            breaking_to: None,
        });
    });
    pending::set_status(irp, NtStatus::PENDING, 0);
    if !pending::pend(irp) {
        drop_holder(oplock, owner.file);
        return NtStatus::CANCELLED;
    }
    NtStatus::PENDING
}

pub(super) fn is_synchronous(file: Ptr<FILE_OBJECT>) -> bool {
    file.non_null()
        .is_some_and(|file| file.read().Flags & crate::nt::FO_SYNCHRONOUS_IO != 0)
}

/// A holder has done what a break wants. `keeps` is the most it wants to keep.
pub(super) fn acknowledge(oplock: u64, irp: Ptr<IRP>, keeps: u32) -> NtStatus {
    let file = stack_of(irp).FileObject;
    let Some(Some(to)) = change(oplock, file, |holder| holder.breaking_to.take()) else {
        return end(irp, NtStatus::INVALID_OPLOCK_PROTOCOL);
    };
    let level = to & keeps;
    let status = if level == 0 {
        drop_holder(oplock, file);
        end(irp, NtStatus::SUCCESS)
    } else {
        change(oplock, file, |holder| {
            holder.level = level;
            holder.irp = irp;
            holder.is_filter = false;
        });
        pending::set_status(irp, NtStatus::PENDING, 0);
        if pending::pend(irp) {
            NtStatus::PENDING
        } else {
            drop_holder(oplock, file);
            NtStatus::CANCELLED
        }
    };
    wake(oplock);
    status
}

/// The level and flags of FSCTL_REQUEST_OPLOCK; `None`: a bad buffer.
pub(super) fn requested(irp: Ptr<IRP>) -> Option<(u32, u32)> {
    let stack = stack_of(irp);
    let [output, input, ..] = stack.Parameters.map(|word| low32(from_word(word)));
    let buffer = Ptr::<[u32; 3]>::new(from_word(irp.read().SystemBuffer)).non_null()?;
    if input < 12 || output < 24 {
        return None;
    }
    let [version, level, flags] = buffer.read();
    (version & 0xFFFF == 1 && level & !(READ | HANDLE | WRITE) == 0).then_some((level, flags))
}

pub(super) fn control(oplock: u64, irp: Ptr<IRP>, count: [u32; 2]) -> NtStatus {
    let stack = stack_of(irp);
    oplock_key::note(irp);
    if stack.MajorFunction == IRP_MJ_CREATE {
        return reserve(oplock, irp);
    }
    let code = low32(from_word(stack.Parameters[2]));
    match code {
        FSCTL_REQUEST_LEVEL_1 => grant(oplock, irp, READ | WRITE, count, false),
        FSCTL_REQUEST_BATCH => grant(oplock, irp, READ | WRITE | HANDLE, count, false),
        FSCTL_REQUEST_FILTER => grant(oplock, irp, READ | HANDLE, count, false),
        FSCTL_REQUEST_LEVEL_2 => grant(oplock, irp, READ, count, false),
        FSCTL_ACKNOWLEDGE => acknowledge(oplock, irp, READ),
        FSCTL_ACK_NO_2 | FSCTL_ACK_CLOSE_PENDING => acknowledge(oplock, irp, 0),
        FSCTL_BREAK_NOTIFY => {
            if holders(oplock)
                .iter()
                .all(|holder| holder.breaking_to.is_none())
            {
                return end(irp, NtStatus::SUCCESS);
            }
            wait_break(oplock, irp, 0, [0, 0]);
            end(irp, NtStatus::SUCCESS)
        }
        FSCTL_REQUEST_OPLOCK => match requested(irp) {
            Some((level, 1)) if level & READ != 0 => grant(oplock, irp, level, count, true),
            Some((level, 2)) => acknowledge(oplock, irp, level),
            _ => end(irp, NtStatus::INVALID_PARAMETER),
        },
        _ => end(irp, NtStatus::INVALID_PARAMETER),
    }
}
