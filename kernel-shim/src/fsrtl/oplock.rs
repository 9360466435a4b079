//! Opportunistic locks.
//!
//! What a holder may cache is READ, HANDLE, WRITE in all kinds: a level 1 oplock is READ and WRITE, a batch oplock all
//! three, a filter oplock READ and HANDLE, level 2 READ. A break takes some of it away; unless only READ was held, those
//! who need it wait until the holder has acknowledged.

mod breaking;
mod codes;
mod request;
mod state;

use self::breaking::{break_and_wait, check};
use self::codes::{BROKEN_TO_NONE, FSCTL_REQUEST_LEVEL_2, FSCTL_REQUEST_OPLOCK, HANDLE, WRITE};
use self::request::{control, requested};
use self::state::{Holder, OPLOCKS, Owner, drop_holder, holders, wake};
pub(super) use self::state::{cancelled, initialize};
use super::{oplock_key, pending, stack_of};
use crate::api::nt_api;
use crate::nt::{IRP, NtStatus};
use crate::raw::{Ptr, from_word, low32};
use crate::value::{Boolean, ULong};

nt_api! { module = fsrtl_oplock;
    /// Prepares an OPLOCK.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlInitializeOplock(oplock: Ptr<crate::raw::Word>) {
        oplock.write(0);
        OPLOCKS.with(|all| all.remove(&oplock.addr()));
    }

    /// Forgets an OPLOCK; nobody waits for it any more.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlUninitializeOplock(oplock: Ptr<crate::raw::Word>) {
        for holder in holders(oplock.addr()) {
            if !holder.irp.is_null() && pending::take(holder.irp) {
                pending::complete(holder.irp, NtStatus::SUCCESS, BROKEN_TO_NONE);
            }
            drop_holder(oplock.addr(), holder.file);
        }
        OPLOCKS.with(|all| {
            if let Some(state) = all.get_mut(&oplock.addr()) {
                state.reserved = None;
            }
        });
        wake(oplock.addr());
        OPLOCKS.with(|all| all.remove(&oplock.addr()));
    }

    /// Serves the oplock control codes: STATUS_PENDING if an oplock is granted, and the IRP is completed at its break. For
    /// a create with FILE_OPEN_REQUIRING_OPLOCK: nobody else's request goes on until its file has asked for an oplock.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockFsctrl(oplock: Ptr<u8>, irp: Ptr<IRP>, open_count: ULong) -> NtStatus {
        control(oplock.addr(), irp, [open_count, 0])
    }

    /// As FsRtlOplockFsctrl; with OPLOCK_FSCTRL_FLAG_ALL_KEYS_MATCH all who have the file open have one key.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockFsctrlEx(oplock: Ptr<u8>, irp: Ptr<IRP>, open_count: ULong, flags: ULong) -> NtStatus {
        control(oplock.addr(), irp, [open_count, flags])
    }

    /// Breaks the oplocks that a request is in conflict with, unless they are of its own oplock key, and waits or posts it
    /// until that is acknowledged. CANNOT_BREAK_OPLOCK: a create with FILE_OPEN_REQUIRING_OPLOCK.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCheckOplock(
        oplock: Ptr<u8>,
        irp: Ptr<IRP>,
        context: Ptr<u8>,
        completion_routine: Ptr<u8>,
        post_irp_routine: Ptr<u8>,
    ) -> NtStatus {
        let routines = [completion_routine.addr(), post_irp_routine.addr()];
        check(oplock.addr(), irp, 0, context.addr(), routines)
    }

    /// As FsRtlCheckOplock, with OPLOCK_FLAG_ flags.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCheckOplockEx(
        oplock: Ptr<u8>,
        irp: Ptr<IRP>,
        flags: ULong,
        context: Ptr<u8>,
        completion_routine: Ptr<u8>,
        post_irp_routine: Ptr<u8>,
    ) -> NtStatus {
        let routines = [completion_routine.addr(), post_irp_routine.addr()];
        check(oplock.addr(), irp, flags, context.addr(), routines)
    }

    /// Whether there is a batch or filter oplock.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCurrentBatchOplock(oplock: Ptr<u8>) -> Boolean {
        holders(oplock.addr()).iter().any(|holder| !holder.is_new && holder.level & HANDLE != 0)
    }

    /// Whether a holder caches handles.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCurrentOplockH(oplock: Ptr<u8>) -> Boolean {
        holders(oplock.addr()).iter().any(|holder| holder.level & HANDLE != 0)
    }

    /// Breaks the handle caching of others, for a create that met a sharing violation.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockBreakH(
        oplock: Ptr<u8>,
        irp: Ptr<IRP>,
        flags: ULong,
        context: Ptr<u8>,
        completion_routine: Ptr<u8>,
        post_irp_routine: Ptr<u8>,
    ) -> NtStatus {
        oplock_key::note(irp);
        let owner = Owner::of(irp, flags);
        let at = oplock.addr();
        let is_broken = |holder: &Holder| {
            holder.is_new
                && holder.level & HANDLE != 0
                && holder.breaking_to.is_none()
                && !owner.holds(holder)
        };
        let broken = || {
            let all = holders(at).into_iter().filter(is_broken);
            all.map(|holder| (holder, holder.level & !HANDLE)).collect()
        };
        let routines = [completion_routine.addr(), post_irp_routine.addr()];
        break_and_wait(at, irp, &owner, broken, [flags.into(), context.addr()], routines)
    }

    /// Whether fast I/O needs no look at the oplock: there is none, or an exclusive one that is not being broken.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockIsFastIoPossible(oplock: Ptr<u8>) -> Boolean {
        holders(oplock.addr())
            .iter()
            .all(|holder| holder.breaking_to.is_none() && holder.level & (WRITE | HANDLE) != 0)
    }

    /// Whether a request asks for an oplock that several may hold: level 2, or one without WRITE of the new kinds.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlOplockIsSharedRequest(irp: Ptr<IRP>) -> Boolean {
        let code = low32(from_word(stack_of(irp).Parameters[2]));
        code == FSCTL_REQUEST_LEVEL_2
            || code == FSCTL_REQUEST_OPLOCK
                && requested(irp).is_some_and(|(level, flags)| flags & 1 != 0 && level & WRITE == 0)
    }
}
