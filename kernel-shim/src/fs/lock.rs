//! Byte-range locks of the host's files: between the FILE_OBJECTs of this guest, not with the host's own programs.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::api::{finish, host_file};
use super::metadata;
use crate::api::nt_api;
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, NtStatus};
use crate::raw::{Global, Ptr, to_word};
use crate::shared;
use crate::value::{Boolean, Handle, ULong};

/// FILE_READ_DATA and FILE_WRITE_DATA: either allows locks.
const DATA_ACCESS: u32 = 3;

/// Whose a lock is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    file: u64,
    process: u32,
    key: u32,
}

impl Owner {
    /// The current process's, by a file and a key.
    pub(super) fn new(file: Ptr<FILE_OBJECT>, key: u32) -> Self {
        Self {
            file: file.addr(),
            process: shared::current_process(),
            key,
        }
    }
}

/// A range that is locked, or is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lock {
    owner: Owner,
    start: u64,
    bytes: u64,
    is_exclusive: bool,
}

/// A transfer that locks may forbid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) is_write: bool,
    pub(super) owner: Owner,
}

/// Whether two ranges have a byte in common.
const fn overlap(start: u64, bytes: u64, other: u64, other_bytes: u64) -> bool {
    bytes != 0
        && other_bytes != 0
        && start <= other.saturating_add(other_bytes - 1)
        && other <= start.saturating_add(bytes - 1)
}

impl Lock {
    /// Whether it can be had beside another: NT looks at whose they are for transfers only.
    const fn is_compatible(&self, other: &Self) -> bool {
        !self.is_exclusive && !other.is_exclusive
            || !overlap(self.start, self.bytes, other.start, other.bytes)
    }

    /// Whether it lets a transfer pass: a shared lock forbids all stores, an exclusive one is its owner's.
    fn allows(&self, wanted: &Wanted) -> bool {
        let is_free = if self.is_exclusive {
            self.owner == wanted.owner
        } else {
            !wanted.is_write
        };
        is_free || !overlap(self.start, self.bytes, wanted.start, wanted.bytes)
    }
}

/// By the file's index on its volume.
static LOCKS: Global<BTreeMap<u64, Vec<Lock>>> = Global::new("file locks", BTreeMap::new());

/// Forgets everything.
pub(super) fn initialize() {
    LOCKS.with(BTreeMap::clear);
}

/// A FILE_OBJECT's last handle is closed: its locks go.
pub(super) fn forget(file: u64) {
    let had_any = LOCKS.with(|all| {
        let had_any = !all.is_empty();
        all.retain(|_, locks| {
            locks.retain(|lock| lock.owner.file != file);
            !locks.is_empty()
        });
        had_any
    });
    if had_any {
        event::progress();
    }
}

/// Whether a transfer to the file with that number of the VMM's may be.
///
/// # Errors
/// FILE_LOCK_CONFLICT.
pub(super) fn check_transfer(id: u64, wanted: &Wanted) -> Result<(), NtStatus> {
    // Only a file with locks is worth a question to the VMM.
    if LOCKS.with(|all| all.is_empty()) {
        return Ok(());
    }
    let metadata = metadata(id)?;
    let wanted = &Wanted {
        // A store behind the end.
        start: if wanted.start == u64::MAX {
            metadata.bytes
        } else {
            wanted.start
        },
        ..*wanted
    };
    let is_allowed = LOCKS.with(|all| {
        let mut locks = all.get(&metadata.index).into_iter().flatten();
        locks.all(|lock| lock.allows(wanted))
    });
    if is_allowed {
        Ok(())
    } else {
        Err(NtStatus::FILE_LOCK_CONFLICT)
    }
}

/// Locks a range if nobody else's lock is in the way.
fn try_lock(index: u64, wanted: Lock) -> bool {
    LOCKS.with(|all| {
        let locks = all.entry(index).or_default();
        let is_free = locks.iter().all(|lock| wanted.is_compatible(lock));
        if is_free {
            locks.push(wanted);
        }
        is_free
    })
}

/// Unlocks the range that was locked exactly like this.
fn unlock(index: u64, owner: Owner, start: u64, bytes: u64) -> Result<(), NtStatus> {
    LOCKS.with(|all| {
        let locks = all.get_mut(&index).ok_or(NtStatus::RANGE_NOT_LOCKED)?;
        let at = locks
            .iter()
            .position(|lock| lock.owner == owner && lock.start == start && lock.bytes == bytes);
        locks.remove(at.ok_or(NtStatus::RANGE_NOT_LOCKED)?);
        if locks.is_empty() {
            all.remove(&index);
        }
        Ok(())
    })
}

/// The file behind a handle that may lock, and its index.
fn lockable(handle: u64) -> Result<(Ptr<FILE_OBJECT>, u64), NtStatus> {
    let (file, known, access) = host_file(handle)?;
    if access & DATA_ACCESS == 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if known.is_directory {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    Ok((file, metadata(known.id)?.index))
}

fn check_range(start: i64, bytes: i64) -> Result<(u64, u64), NtStatus> {
    let (start, bytes) = (start.cast_unsigned(), bytes.cast_unsigned());
    match bytes {
        0 => Ok((start, bytes)),
        _ if start.checked_add(bytes - 1).is_some() => Ok((start, bytes)),
        _ => Err(NtStatus::INVALID_LOCK_RANGE),
    }
}

macro_rules! lock_functions {
    ($module:ident; lock $($lock:ident)*; unlock $($unlock:ident)*) => {
        nt_api! { module = $module;
            $(
                /// Locks a range of bytes of a file, exclusively or with others that do not write. LOCK_NOT_GRANTED:
                /// another has locked some of it, and the caller does not wait.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("handles of devices; a caller that waits does so on an asynchronous file, too")
                fn $lock(
                    file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
                    io_status_block: Ptr<IO_STATUS_BLOCK>, byte_offset: Ptr<i64>, length: Ptr<i64>, key: ULong,
                    fail_immediately: Boolean, exclusive_lock: Boolean,
                ) -> NtStatus {
                    let found = check_range(byte_offset.read(), length.read())
                        .and_then(|range| Ok((range, lockable(file_handle.0)?)));
                    let ((start, bytes), (file, index)) = match found {
                        Ok(found) => found,
                        Err(status) => return status,
                    };
                    let wanted = Lock { owner: Owner::new(file, key), start, bytes, is_exclusive: exclusive_lock };
                    let mut is_locked = try_lock(index, wanted);
                    if !is_locked && !fail_immediately {
                        is_locked = event::wait_until(u64::MAX, || try_lock(index, wanted));
                    }
                    let status = if is_locked { NtStatus::SUCCESS } else { NtStatus::LOCK_NOT_GRANTED };
                    finish(file, event.0, io_status_block, [apc_routine, apc_context], status, 0)
                }
            )*
            $(
                /// Unlocks a range that was locked exactly like this. RANGE_NOT_LOCKED: it was not.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices")
                fn $unlock(
                    file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, byte_offset: Ptr<i64>,
                    length: Ptr<i64>, key: ULong,
                ) -> NtStatus {
                    let unlocked = lockable(file_handle.0).and_then(|(file, index)| {
                        let (start, bytes) = check_range(byte_offset.read(), length.read())?;
                        unlock(index, Owner::new(file, key), start, bytes)
                    });
                    event::progress();
                    let status = unlocked.err().unwrap_or(NtStatus::SUCCESS);
                    io_status_block.write(IO_STATUS_BLOCK {
                        Status: to_word(u64::from(status.0)),
                        Information: 0,
                    });
                    status
                }
            )*
        }
    };
}

lock_functions! { fs_lock; lock ZwLockFile NtLockFile; unlock ZwUnlockFile NtUnlockFile }

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner {
        file: 1,
        process: 4,
        key: 0,
    };
    const B: Owner = Owner { file: 2, ..A };

    fn lock(owner: Owner, start: u64, bytes: u64, is_exclusive: bool) -> Lock {
        Lock {
            owner,
            start,
            bytes,
            is_exclusive,
        }
    }

    #[test]
    fn ranges_meet_at_bytes_they_share() {
        assert!(overlap(0, 10, 9, 1) && overlap(9, 1, 0, 10));
        assert!(!overlap(0, 10, 10, 1) && !overlap(10, 1, 0, 10));
        assert!(!overlap(5, 0, 0, 10) && !overlap(0, 10, 5, 0));
        assert!(overlap(u64::MAX - 1, 2, u64::MAX, 1));
    }

    #[test]
    fn locks_keep_others_out_and_go_with_their_file() {
        let _machine = crate::test_platform::machine();
        initialize();
        assert!(try_lock(7, lock(A, 0, 10, false)));
        assert!(try_lock(7, lock(B, 5, 10, false)));
        assert!(!try_lock(7, lock(A, 9, 1, true)));
        assert!(try_lock(8, lock(A, 9, 1, true)));
        assert!(try_lock(7, lock(A, 15, 1, true)));
        assert_eq!(unlock(7, A, 0, 9), Err(NtStatus::RANGE_NOT_LOCKED));
        assert_eq!(unlock(7, B, 0, 10), Err(NtStatus::RANGE_NOT_LOCKED));
        assert_eq!(unlock(7, A, 0, 10), Ok(()));
        forget(B.file);
        assert!(try_lock(7, lock(B, 0, 15, true)));
        assert!(!try_lock(7, lock(B, 15, 1, true)));
    }

    #[test]
    fn transfers_pass_their_owners_locks() {
        let wanted = |owner, is_write| Wanted {
            start: 0,
            bytes: 10,
            is_write,
            owner,
        };
        let exclusive = lock(A, 5, 1, true);
        assert!(exclusive.allows(&wanted(A, true)) && !exclusive.allows(&wanted(B, false)));
        let other_key = Owner { key: 1, ..A };
        assert!(!exclusive.allows(&wanted(other_key, false)));
        let shared = lock(A, 5, 1, false);
        assert!(shared.allows(&wanted(B, false)) && !shared.allows(&wanted(A, true)));
        assert!(lock(A, 10, 1, true).allows(&wanted(B, true)));
    }
}
