//! Byte-range locks.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{byte_offset, pending, stack_of};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::irp as io_irp;
use crate::io::misc::IoGetRequestorProcess;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, IRP, NtStatus};
use crate::raw::{Global, Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::trace::Entry;

/// FILE_LOCK_INFO.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FILE_LOCK_INFO {
    /// First byte.
    pub StartingByte: u64,
    /// Bytes.
    pub Length: u64,
    /// Nobody else may read.
    pub ExclusiveLock: u8,
    /// Key.
    pub Key: u32,
    /// File.
    pub FileObject: Ptr<FILE_OBJECT>,
    /// Process.
    pub ProcessId: Word,
    /// Last byte; before the first one if there are none.
    pub EndingByte: u64,
}

/// FILE_LOCK.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FILE_LOCK {
    /// (Context, Irp), instead of completing a lock's IRP.
    pub CompleteLockIrpRoutine: Word,
    /// (Context, FILE_LOCK_INFO), when a lock is released.
    pub UnlockRoutine: Word,
    /// There are locks (FsRtlAreThereCurrentFileLocks).
    pub FastIoIsQuestionable: u8,
    /// Opaque.
    pub LockInformation: Word,
    /// Of FsRtlGetNextFileLock.
    pub LastReturnedLockInfo: FILE_LOCK_INFO,
    /// Of FsRtlGetNextFileLock.
    pub LastReturnedLock: Word,
    /// Requests being made.
    pub LockRequestsInProgress: i32,
}

const _: () = {
    assert!(size_of::<FILE_LOCK_INFO>() == if cfg!(nt_i386) { 40 } else { 48 });
    assert!(size_of::<FILE_LOCK>() == if cfg!(nt_i386) { 64 } else { 96 });
};

/// Who holds a lock.
type Owner = (Ptr<FILE_OBJECT>, Word, u32);

impl FILE_LOCK_INFO {
    fn owner(&self) -> Owner {
        (self.FileObject, self.ProcessId, self.Key)
    }

    fn overlaps(&self, start: u64, length: u64) -> bool {
        // Locks without bytes have an end before their start.
        length != 0
            && self.Length != 0
            && self.StartingByte <= start.saturating_add(length - 1)
            && start <= self.EndingByte
    }

    /// Whether it keeps another lock from being granted.
    fn excludes(&self, wanted: &Self) -> bool {
        if !self.overlaps(wanted.StartingByte, wanted.Length) {
            return false;
        }
        if wanted.ExclusiveLock != 0 {
            return true;
        }
        self.ExclusiveLock != 0 && self.owner() != wanted.owner()
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    wanted: FILE_LOCK_INFO,
    irp: Ptr<IRP>,
    context: u64,
}

#[derive(Default, Debug)]
struct Locks {
    held: Vec<FILE_LOCK_INFO>,
    waiting: Vec<Waiter>,
}

/// By the address of the FILE_LOCK.
static LOCKS: Global<BTreeMap<u64, Locks>> = Global::new("file locks", BTreeMap::new());

pub(super) fn initialize() {
    LOCKS.with(BTreeMap::clear);
}

/// Keeps what the driver sees of a FILE_LOCK true.
fn refresh(lock: Ptr<FILE_LOCK>) {
    let (is_used, is_known) = LOCKS.with(|all| {
        let locks = all.get(&lock.addr());
        (
            locks.is_some_and(|locks| !locks.held.is_empty()),
            locks.is_some(),
        )
    });
    lock.with(|fields| {
        fields.FastIoIsQuestionable = u8::from(is_used);
        fields.LockInformation = if is_known { lock.word() } else { 0 };
    });
}

/// Completes a lock request's IRP as the driver wants it. The status the driver makes of it.
fn complete(lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>, context: u64, status: NtStatus) -> NtStatus {
    pending::set_status(irp, status, 0);
    let routine = from_word(lock.read().CompleteLockIrpRoutine);
    if routine == 0 {
        io_irp::complete(irp);
        return status;
    }
    NtStatus(low32(shared::call_driver(
        Entry::Other,
        routine,
        &[context, irp.addr()],
    )))
}

/// Grants a lock if nothing excludes it.
fn grant(lock: Ptr<FILE_LOCK>, wanted: &FILE_LOCK_INFO) -> bool {
    let is_granted = LOCKS.with(|all| {
        let locks = all.entry(lock.addr()).or_default();
        if locks.held.iter().any(|held| held.excludes(wanted)) {
            return false;
        }
        locks.held.push(*wanted);
        true
    });
    refresh(lock);
    is_granted
}

/// Takes the lock away that `matches` finds first; false: none.
fn remove(
    lock: Ptr<FILE_LOCK>,
    matches: impl Fn(&FILE_LOCK_INFO) -> bool,
) -> Option<FILE_LOCK_INFO> {
    let removed = LOCKS.with(|all| {
        let held = &mut all.get_mut(&lock.addr())?.held;
        let position = held.iter().position(matches)?;
        Some(held.remove(position))
    });
    refresh(lock);
    removed
}

/// Grants what waits and can be granted now, in order.
fn grant_waiting(lock: Ptr<FILE_LOCK>) {
    loop {
        let next = LOCKS.with(|all| {
            let locks = all.get_mut(&lock.addr())?;
            let position = locks
                .waiting
                .iter()
                .position(|waiter| !locks.held.iter().any(|held| held.excludes(&waiter.wanted)))?;
            Some(locks.waiting.remove(position))
        });
        let Some(Waiter {
            wanted,
            irp,
            context,
        }) = next
        else {
            return;
        };
        if !pending::take(irp) {
            continue;
        }
        grant(lock, &wanted);
        if complete(lock, irp, context, NtStatus::SUCCESS).is_error() {
            remove(lock, |held| is_same(held, &wanted));
        }
    }
}

fn is_same(left: &FILE_LOCK_INFO, right: &FILE_LOCK_INFO) -> bool {
    left.owner() == right.owner()
        && left.StartingByte == right.StartingByte
        && left.Length == right.Length
        && left.ExclusiveLock == right.ExclusiveLock
}

/// A waiting request was cancelled. False: it is none of ours.
pub(super) fn cancelled(irp: Ptr<IRP>) -> bool {
    let found = LOCKS.with(|all| {
        all.iter_mut().find_map(|(&lock, locks)| {
            let position = locks.waiting.iter().position(|waiter| waiter.irp == irp)?;
            Some((lock, locks.waiting.remove(position).context))
        })
    });
    let Some((lock, context)) = found else {
        return false;
    };
    complete(Ptr::new(lock), irp, context, NtStatus::CANCELLED);
    true
}

/// Asks for a lock. `None`: it would have to wait, and there is no IRP for that.
fn request(
    lock: Ptr<FILE_LOCK>,
    wanted: &FILE_LOCK_INFO,
    fail_immediately: bool,
    irp: Ptr<IRP>,
    context: u64,
) -> Option<NtStatus> {
    let end = |status: NtStatus| {
        if irp.is_null() {
            status
        } else {
            complete(lock, irp, context, status)
        }
    };
    if wanted.Length != 0 && wanted.StartingByte.checked_add(wanted.Length - 1).is_none() {
        return Some(end(NtStatus::INVALID_LOCK_RANGE));
    }
    if grant(lock, wanted) {
        let status = end(NtStatus::SUCCESS);
        if status.is_error() {
            remove(lock, |held| is_same(held, wanted));
            grant_waiting(lock);
        }
        return Some(status);
    }
    if fail_immediately {
        return Some(end(NtStatus::LOCK_NOT_GRANTED));
    }
    irp.non_null()?;
    LOCKS.with(|all| {
        let waiter = Waiter {
            wanted: *wanted,
            irp,
            context,
        };
        all.entry(lock.addr()).or_default().waiting.push(waiter);
    });
    if irp.read().Cancel != 0 {
        LOCKS.with(|all| {
            all.entry(lock.addr())
                .or_default()
                .waiting
                .retain(|waiter| waiter.irp != irp);
        });
        return Some(end(NtStatus::CANCELLED));
    }
    pending::set_status(irp, NtStatus::PENDING, 0);
    pending::pend(irp);
    Some(NtStatus::PENDING)
}

fn told_unlock(lock: Ptr<FILE_LOCK>, context: u64, mut info: FILE_LOCK_INFO) {
    let routine = from_word(lock.read().UnlockRoutine);
    if routine != 0 {
        shared::call_driver(Entry::Other, routine, &[context, Ptr::of(&mut info).addr()]);
    }
}

/// Releases a lock of exactly that range and owner.
fn unlock_single(lock: Ptr<FILE_LOCK>, owner: Owner, range: [u64; 2], context: u64) -> NtStatus {
    let [start, length] = range;
    let matches = |held: &FILE_LOCK_INFO| {
        held.owner() == owner && held.StartingByte == start && held.Length == length
    };
    // An exclusive lock is released before a shared one of the same range.
    let removed = remove(lock, |held| matches(held) && held.ExclusiveLock != 0)
        .or_else(|| remove(lock, matches));
    let Some(info) = removed else {
        return NtStatus::RANGE_NOT_LOCKED;
    };
    told_unlock(lock, context, info);
    grant_waiting(lock);
    NtStatus::SUCCESS
}

/// Releases a file's locks in a process, those with `key` if one is given; requests that wait are cancelled.
fn unlock_all(
    lock: Ptr<FILE_LOCK>,
    file: Ptr<FILE_OBJECT>,
    process: Word,
    key: Option<u32>,
    context: u64,
) -> NtStatus {
    let is_meant = |info: &FILE_LOCK_INFO| {
        info.FileObject == file
            && info.ProcessId == process
            && key.is_none_or(|key| info.Key == key)
    };
    if !LOCKS.with(|all| all.contains_key(&lock.addr())) {
        return NtStatus::RANGE_NOT_LOCKED;
    }
    while let Some(info) = remove(lock, is_meant) {
        told_unlock(lock, context, info);
    }
    let waiting = LOCKS.with(|all| {
        let waiting = all.get(&lock.addr()).map(|locks| locks.waiting.clone());
        waiting.unwrap_or_default()
    });
    for waiter in waiting.iter().filter(|waiter| is_meant(&waiter.wanted)) {
        LOCKS.with(|all| {
            if let Some(locks) = all.get_mut(&lock.addr()) {
                locks.waiting.retain(|other| other.irp != waiter.irp);
            }
        });
        if pending::take(waiter.irp) {
            complete(lock, waiter.irp, waiter.context, NtStatus::SUCCESS);
        }
    }
    grant_waiting(lock);
    NtStatus::SUCCESS
}

/// Whether a read (or write) of a range meets no lock of another.
fn is_free(lock: Ptr<FILE_LOCK>, owner: Owner, range: [u64; 2], is_write: bool) -> bool {
    let [start, length] = range;
    LOCKS.with(|all| {
        !all.get(&lock.addr()).is_some_and(|locks| {
            locks.held.iter().any(|held| {
                held.overlaps(start, length)
                    && if held.ExclusiveLock == 0 {
                        is_write
                    } else {
                        held.owner() != owner
                    }
            })
        })
    })
}

fn check_irp(lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>, is_write: bool) -> bool {
    let stack = stack_of(irp);
    let [length, key, ..] = stack.Parameters.map(|word| low32(from_word(word)));
    let owner = (stack.FileObject, IoGetRequestorProcess(irp).word(), key);
    is_free(
        lock,
        owner,
        [byte_offset(&stack), u64::from(length)],
        is_write,
    )
}

fn initialize_lock(lock: Ptr<FILE_LOCK>, complete: Word, unlock: Word) {
    lock.write(FILE_LOCK {
        CompleteLockIrpRoutine: complete,
        UnlockRoutine: unlock,
        ..FILE_LOCK::default()
    });
    LOCKS.with(|all| all.remove(&lock.addr()));
}

fn uninitialize_lock(lock: Ptr<FILE_LOCK>) {
    let Some(locks) = LOCKS.with(|all| all.remove(&lock.addr())) else {
        return;
    };
    for Waiter { irp, context, .. } in locks.waiting {
        if pending::take(irp) {
            complete(lock, irp, context, NtStatus::RANGE_NOT_LOCKED);
        }
    }
    refresh(lock);
}

/// A lock request's IRP.
fn process(lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>, context: u64) -> NtStatus {
    const FAIL_IMMEDIATELY: u8 = 1;
    const EXCLUSIVE: u8 = 2;
    let stack = stack_of(irp);
    let [length, key, ..] = stack.Parameters.map(from_word);
    let key = low32(key);
    let length = || Ptr::<u64>::new(length).read();
    let start = byte_offset(&stack);
    let file = stack.FileObject;
    let process = IoGetRequestorProcess(irp).word();
    let status = match stack.MinorFunction {
        1 => {
            let length = length();
            let wanted = FILE_LOCK_INFO {
                StartingByte: start,
                Length: length,
                ExclusiveLock: u8::from(stack.Flags & EXCLUSIVE != 0),
                Key: key,
                FileObject: file,
                ProcessId: process,
                EndingByte: start.wrapping_add(length).wrapping_sub(1),
            };
            let is_final = stack.Flags & FAIL_IMMEDIATELY != 0;
            return request(lock, &wanted, is_final, irp, context).unwrap_or(NtStatus::PENDING);
        }
        2 => unlock_single(lock, (file, process, key), [start, length()], context),
        3 => unlock_all(lock, file, process, None, context),
        4 => unlock_all(lock, file, process, Some(key), context),
        _ => NtStatus::INVALID_DEVICE_REQUEST,
    };
    complete(lock, irp, context, status)
}

nt_api! { module = fsrtl_lock;
    /// Prepares a FILE_LOCK.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlInitializeFileLock(
        file_lock: Ptr<FILE_LOCK>,
        complete_lock_irp_routine: Ptr<u8>,
        unlock_routine: Ptr<u8>,
    ) {
        initialize_lock(file_lock, complete_lock_irp_routine.word(), unlock_routine.word());
    }

    /// Forgets a FILE_LOCK's locks; requests that wait end with STATUS_RANGE_NOT_LOCKED.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlUninitializeFileLock(file_lock: Ptr<FILE_LOCK>) {
        uninitialize_lock(file_lock);
    }

    /// Allocates and prepares a FILE_LOCK; NULL: no memory.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAllocateFileLock(
        complete_lock_irp_routine: Ptr<u8>,
        unlock_routine: Ptr<u8>,
    ) -> Ptr<FILE_LOCK> {
        let Some(lock) = pool::allocate_zeroed(size_of::<FILE_LOCK>() as u64, *b"FSfl") else {
            return Ptr::null();
        };
        initialize_lock(lock.cast(), complete_lock_irp_routine.word(), unlock_routine.word());
        lock.cast()
    }

    /// Undoes FsRtlAllocateFileLock.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFreeFileLock(file_lock: Ptr<FILE_LOCK>) {
        uninitialize_lock(file_lock);
        pool::free(file_lock.cast(), u32::from_le_bytes(*b"FSfl"));
    }

    /// Serves an IRP_MJ_LOCK_CONTROL request and completes its IRP, or lets it wait: STATUS_PENDING.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlProcessFileLock(file_lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>, context: Ptr<u8>) -> NtStatus {
        process(file_lock, irp, context.addr())
    }

    /// Whether a read request meets no exclusive lock of another owner.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCheckLockForReadAccess(file_lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>) -> Boolean {
        check_irp(file_lock, irp, false)
    }

    /// Whether a write request meets no shared lock and no exclusive lock of another owner.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlCheckLockForWriteAccess(file_lock: Ptr<FILE_LOCK>, irp: Ptr<IRP>) -> Boolean {
        check_irp(file_lock, irp, true)
    }

    /// Whether a file may be read there by that owner.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFastCheckLockForRead(
        file_lock: Ptr<FILE_LOCK>,
        starting_byte: Ptr<u64>,
        length: Ptr<u64>,
        key: ULong,
        file_object: Ptr<FILE_OBJECT>,
        process_id: Ptr<u8>,
    ) -> Boolean {
        let owner = (file_object, process_id.word(), key);
        is_free(file_lock, owner, [starting_byte.read(), length.read()], false)
    }

    /// Whether a file may be written there by that owner.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFastCheckLockForWrite(
        file_lock: Ptr<FILE_LOCK>,
        starting_byte: Ptr<u64>,
        length: Ptr<u64>,
        key: ULong,
        file_object: Ptr<FILE_OBJECT>,
        process_id: Ptr<u8>,
    ) -> Boolean {
        let owner = (file_object, process_id.word(), key);
        is_free(file_lock, owner, [starting_byte.read(), length.read()], true)
    }

    /// Releases the lock of exactly that range: STATUS_RANGE_NOT_LOCKED if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFastUnlockSingle(
        file_lock: Ptr<FILE_LOCK>,
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: Ptr<u64>,
        process: Ptr<u8>,
        key: ULong,
        context: Ptr<u8>,
        already_synchronized: Boolean,
    ) -> NtStatus {
        let owner = (file_object, process.word(), key);
        unlock_single(file_lock, owner, [file_offset.read(), length.read()], context.addr())
    }

    /// Releases all locks of a file in a process: STATUS_RANGE_NOT_LOCKED if the FILE_LOCK was never used.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFastUnlockAll(
        file_lock: Ptr<FILE_LOCK>,
        file_object: Ptr<FILE_OBJECT>,
        process: Ptr<u8>,
        context: Ptr<u8>,
    ) -> NtStatus {
        unlock_all(file_lock, file_object, process.word(), None, context.addr())
    }

    /// As FsRtlFastUnlockAll, those with that key.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFastUnlockAllByKey(
        file_lock: Ptr<FILE_LOCK>,
        file_object: Ptr<FILE_OBJECT>,
        process: Ptr<u8>,
        key: ULong,
        context: Ptr<u8>,
    ) -> NtStatus {
        unlock_all(file_lock, file_object, process.word(), Some(key), context.addr())
    }

    /// The next lock, from the first on if `restart`; NULL at the end. It points into the FILE_LOCK.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlGetNextFileLock(file_lock: Ptr<FILE_LOCK>, restart: Boolean) -> Ptr<FILE_LOCK_INFO> {
        let index = if restart { 0 } else { from_word(file_lock.read().LastReturnedLock) };
        let info = LOCKS.with(|all| {
            all.get(&file_lock.addr())
                .and_then(|locks| locks.held.get(crate::raw::to_usize(index)).copied())
        });
        let Some(info) = info else { return Ptr::null() };
        file_lock.with(|lock| {
            lock.LastReturnedLockInfo = info;
            lock.LastReturnedLock = to_word(index + 1);
        });
        file_lock.add_bytes(core::mem::offset_of!(FILE_LOCK, LastReturnedLockInfo) as u64).cast()
    }

    /// Asks for a lock (FsRtlFastLock). FALSE: it would have to wait, and there is no IRP.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlPrivateLock(
        file_lock: Ptr<FILE_LOCK>,
        file_object: Ptr<FILE_OBJECT>,
        file_offset: Ptr<u64>,
        length: Ptr<u64>,
        process: Ptr<u8>,
        key: ULong,
        fail_immediately: Boolean,
        exclusive_lock: Boolean,
        status_block: Ptr<IO_STATUS_BLOCK>,
        irp: Ptr<IRP>,
        context: Ptr<u8>,
        already_synchronized: Boolean,
    ) -> Boolean {
        let (start, bytes) = (file_offset.read(), length.read());
        let wanted = FILE_LOCK_INFO {
            StartingByte: start,
            Length: bytes,
            ExclusiveLock: u8::from(exclusive_lock),
            Key: key,
            FileObject: file_object,
            ProcessId: process.word(),
            EndingByte: start.wrapping_add(bytes).wrapping_sub(1),
        };
        let Some(status) = request(file_lock, &wanted, fail_immediately, irp, context.addr()) else {
            return false;
        };
        status_block.write(IO_STATUS_BLOCK { Status: to_word(u64::from(status.0)), Information: 0 });
        true
    }

    /// Whether there are locks or requests for some.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAreThereCurrentOrInProgressFileLocks(file_lock: Ptr<FILE_LOCK>) -> Boolean {
        LOCKS.with(|all| {
            all.get(&file_lock.addr())
                .is_some_and(|locks| !locks.held.is_empty() || !locks.waiting.is_empty())
        })
    }
}
