//! Opportunistic locks.
//!
//! What a holder may cache is READ, HANDLE, WRITE in all kinds: a level 1 oplock is READ and WRITE, a batch oplock all
//! three, a filter oplock READ and HANDLE, level 2 READ. A break takes some of it away; unless only READ was held, those
//! who need it wait until the holder has acknowledged.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::oplock_key::{self, Key};
use super::{pending, stack_of};
use crate::api::nt_api;
use crate::io::build::{KEVENT_UNSET, wait_for};
use crate::ke::event;
use crate::nt::{
    FILE_OBJECT, IRP, IRP_MJ_CREATE, IRP_PAGING_IO, KEVENT, NtStatus, SL_PENDING_RETURNED,
    dispatcher,
};
use crate::raw::{Global, Ptr, from_word, low16, low32};
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::trace::Entry;

const READ: u32 = 1;
const HANDLE: u32 = 2;
const WRITE: u32 = 4;
/// OPLOCK_FLAG_COMPLETE_IF_OPLOCKED.
const COMPLETE_IF_OPLOCKED: u32 = 1;
/// OPLOCK_FLAG_OPLOCK_KEY_CHECK_ONLY.
const KEY_CHECK_ONLY: u32 = 2;
/// OPLOCK_FLAG_BACK_OUT_ATOMIC_OPLOCK.
const BACK_OUT_ATOMIC_OPLOCK: u32 = 4;
/// OPLOCK_FLAG_IGNORE_OPLOCK_KEYS.
const IGNORE_OPLOCK_KEYS: u32 = 8;
/// OPLOCK_FLAG_PARENT_OBJECT.
const PARENT_OBJECT: u32 = 0x10;
/// OPLOCK_FSCTRL_FLAG_ALL_KEYS_MATCH.
const ALL_KEYS_MATCH: u32 = 1;
/// FILE_OPEN_REQUIRING_OPLOCK, of a create's options.
const CREATE_REQUIRING_OPLOCK: u32 = 0x1_0000;
/// FILE_COMPLETE_IF_OPLOCKED, of a create's options.
const CREATE_COMPLETE_IF_OPLOCKED: u32 = 0x100;
/// What a broken oplock of the old kinds becomes (IoStatus.Information).
const BROKEN_TO_LEVEL_2: u64 = 7;
const BROKEN_TO_NONE: u64 = 8;

const FSCTL_REQUEST_LEVEL_1: u32 = 0x9_0000;
const FSCTL_REQUEST_LEVEL_2: u32 = 0x9_0004;
const FSCTL_REQUEST_BATCH: u32 = 0x9_0008;
const FSCTL_ACKNOWLEDGE: u32 = 0x9_000C;
const FSCTL_ACK_CLOSE_PENDING: u32 = 0x9_0010;
const FSCTL_BREAK_NOTIFY: u32 = 0x9_0014;
const FSCTL_ACK_NO_2: u32 = 0x9_0050;
const FSCTL_REQUEST_FILTER: u32 = 0x9_005C;
const FSCTL_REQUEST_OPLOCK: u32 = 0x9_0240;

#[derive(Clone, Copy, Debug)]
struct Holder {
    file: Ptr<FILE_OBJECT>,
    key: Option<Key>,
    /// The request that is completed when the oplock is broken; null while a break is to be acknowledged.
    irp: Ptr<IRP>,
    level: u32,
    /// FSCTL_REQUEST_OPLOCK, not one of the old kinds.
    is_new: bool,
    is_filter: bool,
    /// What it is being broken to.
    breaking_to: Option<u32>,
}

/// Who makes a request: a file, and all that have its key.
#[derive(Clone, Copy, Debug)]
struct Owner {
    file: Ptr<FILE_OBJECT>,
    key: Option<Key>,
}

impl Owner {
    fn of(irp: Ptr<IRP>, flags: u32) -> Self {
        let file = stack_of(irp).FileObject;
        let key = oplock_key::of(file, flags & PARENT_OBJECT != 0);
        Self {
            file,
            key: key.filter(|_| flags & IGNORE_OPLOCK_KEYS == 0),
        }
    }

    fn has(&self, file: Ptr<FILE_OBJECT>, key: Option<Key>) -> bool {
        self.file == file || self.key.is_some() && self.key == key
    }

    fn holds(&self, holder: &Holder) -> bool {
        self.has(holder.file, holder.key)
    }
}

#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// Irp, completion routine, context.
    Posted(Ptr<IRP>, u64, u64),
    Blocked(Ptr<KEVENT>),
}

#[derive(Default, Debug)]
struct Oplock {
    holders: Vec<Holder>,
    waiters: Vec<Waiter>,
    /// The file that was opened on condition of an oplock (FILE_OPEN_REQUIRING_OPLOCK), until it asks for one.
    reserved: Option<Ptr<FILE_OBJECT>>,
}

/// By the address of the OPLOCK.
static OPLOCKS: Global<BTreeMap<u64, Oplock>> = Global::new("oplocks", BTreeMap::new());

pub(super) fn initialize() {
    OPLOCKS.with(BTreeMap::clear);
}

fn holders(oplock: u64) -> Vec<Holder> {
    OPLOCKS.with(|all| {
        all.get(&oplock)
            .map(|state| state.holders.clone())
            .unwrap_or_default()
    })
}

fn change<R>(
    oplock: u64,
    file: Ptr<FILE_OBJECT>,
    change: impl FnOnce(&mut Holder) -> R,
) -> Option<R> {
    OPLOCKS.with(|all| {
        let mut holders = all.get_mut(&oplock)?.holders.iter_mut();
        holders.find(|holder| holder.file == file).map(change)
    })
}

fn drop_holder(oplock: u64, file: Ptr<FILE_OBJECT>) {
    OPLOCKS.with(|all| {
        if let Some(state) = all.get_mut(&oplock) {
            state.holders.retain(|holder| holder.file != file);
        }
    });
}

/// The file that others wait for, for it has been promised an oplock.
fn reserved(oplock: u64) -> Option<Ptr<FILE_OBJECT>> {
    OPLOCKS.with(|all| all.get(&oplock)?.reserved)
}

/// A file has made use of its promise, or gives it up.
fn unreserve(oplock: u64, file: Ptr<FILE_OBJECT>) {
    OPLOCKS.with(|all| {
        if let Some(state) = all.get_mut(&oplock) {
            state.reserved.take_if(|reserved| *reserved == file);
        }
    });
}

/// The second half of a create with FILE_OPEN_REQUIRING_OPLOCK: nobody gets ahead of its request for an oplock.
fn reserve(oplock: u64, irp: Ptr<IRP>) -> NtStatus {
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
fn wake(oplock: u64) {
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
pub(super) fn cancelled(irp: Ptr<IRP>) -> bool {
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

fn end(irp: Ptr<IRP>, status: NtStatus) -> NtStatus {
    pending::complete(irp, status, 0);
    status
}

/// Writes a REQUEST_OPLOCK_OUTPUT_BUFFER.
fn describe(irp: Ptr<IRP>, from: u32, to: u32, needs_acknowledgement: bool) -> u64 {
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
fn break_one(oplock: u64, holder: &Holder, to: u32) {
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

/// Asks for an oplock; the IRP waits if it is granted.
fn grant(
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

fn grant_to(
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

fn is_synchronous(file: Ptr<FILE_OBJECT>) -> bool {
    file.non_null()
        .is_some_and(|file| file.read().Flags & crate::nt::FO_SYNCHRONOUS_IO != 0)
}

/// A holder has done what a break wants. `keeps` is the most it wants to keep.
fn acknowledge(oplock: u64, irp: Ptr<IRP>, keeps: u32) -> NtStatus {
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
fn requested(irp: Ptr<IRP>) -> Option<(u32, u32)> {
    let stack = stack_of(irp);
    let [output, input, ..] = stack.Parameters.map(|word| low32(from_word(word)));
    let buffer = Ptr::<[u32; 3]>::new(from_word(irp.read().SystemBuffer)).non_null()?;
    if input < 12 || output < 24 {
        return None;
    }
    let [version, level, flags] = buffer.read();
    (version & 0xFFFF == 1 && level & !(READ | HANDLE | WRITE) == 0).then_some((level, flags))
}

fn control(oplock: u64, irp: Ptr<IRP>, count: [u32; 2]) -> NtStatus {
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

/// Waits for breaks: in this thread, or (with a completion routine) by posting the IRP.
fn wait_break(oplock: u64, irp: Ptr<IRP>, context: u64, routines: [u64; 2]) -> NtStatus {
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
fn effect_of(irp: Ptr<IRP>) -> Option<u32> {
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
fn broken_by(oplock: u64, irp: Ptr<IRP>, owner: &Owner, left: u32) -> Vec<(Holder, u32)> {
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
fn requires_oplock(irp: Ptr<IRP>) -> bool {
    let stack = stack_of(irp);
    stack.MajorFunction == IRP_MJ_CREATE
        && low32(from_word(stack.Parameters[1])) & CREATE_REQUIRING_OPLOCK != 0
}

/// A handle is closed: its oplock ends, and its promise of one.
fn clean_up(oplock: u64, file: Ptr<FILE_OBJECT>) -> NtStatus {
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

fn check(oplock: u64, irp: Ptr<IRP>, flags: u32, context: u64, routines: [u64; 2]) -> NtStatus {
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
fn break_and_wait(
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
