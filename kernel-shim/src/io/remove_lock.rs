//! Remove locks. A checked build's lock (its size says so) has a record of every acquisition: tag, file, line and time.
//! Under `--verify` a free build's lock has them too if the driver said how long it is held at most.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::{event, time, waiters};
use crate::nt::bugcheck::{KMODE_EXCEPTION_NOT_HANDLED, bugcheck_with_text};
use crate::nt::{
    DISPATCHER_HEADER, IO_REMOVE_LOCK, IO_REMOVE_LOCK_DBG_BLOCK, KEVENT, LIST_ENTRY, NtStatus,
    dispatcher,
};
use crate::raw::{Global, Ptr, narrow_string};
use crate::shared;
use crate::value::{NarrowStringPtr, ULong};

const FREE_BYTES: u64 = size_of::<IO_REMOVE_LOCK>() as u64;
const CHECKED_BYTES: u64 = FREE_BYTES + size_of::<IO_REMOVE_LOCK_DBG_BLOCK>() as u64;
const SIGNATURE: u32 = u32::from_le_bytes(*b"COIR");
/// Most characters of a file's name in a bugcheck's text.
const FILE_TEXT: usize = 128;
/// 100 ns in a minute.
const MINUTE: i64 = 600_000_000;

/// One acquisition.
#[derive(Clone, Copy, Debug)]
struct Record {
    tag: u64,
    file: Ptr<u8>,
    line: u32,
    /// Tick count when the lock was acquired.
    since: u64,
}

static RECORDS: Global<BTreeMap<u64, Vec<Record>>> = Global::new("remove locks", BTreeMap::new());
/// The most ticks that free builds' locks may be held, under `--verify`.
static VERIFIED: Global<BTreeMap<u64, u64>> = Global::new("verified remove locks", BTreeMap::new());

pub(super) fn initialize() {
    RECORDS.with(BTreeMap::clear);
    VERIFIED.with(BTreeMap::clear);
}

/// Takes away the record of an acquisition with that tag.
fn forget(lock: Ptr<IO_REMOVE_LOCK>, tag: u64) -> Option<Record> {
    RECORDS.with(|records| {
        let records = records.get_mut(&lock.addr())?;
        let position = records.iter().position(|record| record.tag == tag)?;
        Some(records.swap_remove(position))
    })
}

/// Remembers an acquisition.
fn remember(lock: Ptr<IO_REMOVE_LOCK>, tag: u64, file: Ptr<u8>, line: u32) {
    let record = Record {
        tag,
        file,
        line,
        since: time::tick_count(),
    };
    RECORDS.with(|records| records.entry(lock.addr()).or_default().push(record));
}

fn max_ticks(minutes: u32) -> i64 {
    i64::from(minutes) * MINUTE / time::TICK.cast_signed()
}

impl Record {
    /// Whether the lock has been held for longer than that; 0: there is no limit.
    fn is_overdue(&self, max_ticks: u64) -> bool {
        max_ticks != 0 && time::tick_count().saturating_sub(self.since) > max_ticks
    }

    fn place(&self) -> impl core::fmt::Display {
        let file = narrow_string(self.file, FILE_TEXT);
        alloc::format!("tag {:#x} ({file}, line {})", self.tag, self.line)
    }
}

/// A free build's lock under `--verify`: an acquisition that has lasted too long is a finding.
fn report_overdue(lock: Ptr<IO_REMOVE_LOCK>, record: &Record) {
    let limit = VERIFIED.with(|limits| limits.get(&lock.addr()).copied().unwrap_or(0));
    if record.is_overdue(limit) {
        crate::main_loop::finding(
            &[lock.addr(), record.tag],
            &alloc::format!(
                "remove lock {:#x} was held for longer than MaxLockedMinutes with {}",
                lock.addr(),
                record.place()
            ),
        );
    }
}

fn is_checked(lock_bytes: u32) -> bool {
    u64::from(lock_bytes) >= CHECKED_BYTES
}

fn debug_block(lock: Ptr<IO_REMOVE_LOCK>) -> Ptr<IO_REMOVE_LOCK_DBG_BLOCK> {
    lock.add_bytes(FREE_BYTES).cast()
}

fn event_of(lock: Ptr<IO_REMOVE_LOCK>) -> Ptr<KEVENT> {
    lock.add_bytes(core::mem::offset_of!(IO_REMOVE_LOCK, RemoveEvent) as u64)
        .cast()
}

/// NT's assertion in these functions failed: without a debugger, the breakpoint stops the system.
fn assertion(lock: Ptr<IO_REMOVE_LOCK>, text: core::fmt::Arguments<'_>) -> ! {
    bugcheck_with_text(
        KMODE_EXCEPTION_NOT_HANDLED,
        [
            NtStatus::BREAKPOINT.0.into(),
            shared::caller(),
            lock.addr(),
            0,
        ],
        format_args!("remove lock {:#x} {text}", lock.addr()),
    )
}

fn change(lock: Ptr<IO_REMOVE_LOCK>, difference: i32) -> i32 {
    lock.with(|lock| {
        lock.IoCount += difference;
        lock.IoCount
    })
}

fn release(lock: Ptr<IO_REMOVE_LOCK>, tag: u64, lock_bytes: u32) -> i32 {
    if is_checked(lock_bytes) {
        let Some(record) = forget(lock, tag) else {
            assertion(
                lock,
                format_args!("is released with tag {tag:#x}, which nobody acquired it with"),
            );
        };
        let limit = debug_block(lock).read().MaxLockedTicks;
        if record.is_overdue(u64::try_from(limit).unwrap_or(0)) {
            assertion(
                lock,
                format_args!(
                    "was held for longer than {limit} ticks with {}",
                    record.place()
                ),
            );
        }
    } else if let Some(record) = forget(lock, tag) {
        report_overdue(lock, &record);
    }
    let left = change(lock, -1);
    if left < 0 {
        assertion(
            lock,
            format_args!("is released more often than it was acquired"),
        );
    }
    if left == 0 {
        event::KeSetEvent(event_of(lock), 0, false);
    }
    left
}

nt_api! { module = io_remove_lock;
    /// Makes a remove lock. Its size says whether the driver is a checked build, and then the watermark counts.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoInitializeRemoveLockEx(
        lock: Ptr<IO_REMOVE_LOCK>, allocate_tag: ULong, max_locked_minutes: ULong, high_watermark: ULong, lock_bytes: ULong,
    ) {
        RECORDS.with(|records| records.remove(&lock.addr()));
        let limit = u64::try_from(max_ticks(max_locked_minutes)).unwrap_or(0);
        VERIFIED.with(|limits| {
            limits.remove(&lock.addr());
            if shared::verify() != 0 && limit != 0 && !is_checked(lock_bytes) {
                limits.insert(lock.addr(), limit);
            }
        });
        lock.write(IO_REMOVE_LOCK {
            Removed: 0,
            Reserved: [0; 3],
            IoCount: 1,
            RemoveEvent: KEVENT {
                Header: DISPATCHER_HEADER {
                    Type: dispatcher::SYNCHRONIZATION_EVENT,
                    Absolute: 0,
                    Size: 0,
                    Inserted: 0,
                    SignalState: 0,
                    WaitListHead: LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() },
                },
            },
        });
        event::initialize(event_of(lock), dispatcher::SYNCHRONIZATION_EVENT, false);
        if is_checked(lock_bytes) {
            debug_block(lock).write(IO_REMOVE_LOCK_DBG_BLOCK {
                Signature: SIGNATURE,
                HighWatermark: high_watermark,
                MaxLockedTicks: max_ticks(max_locked_minutes),
                AllocateTag: allocate_tag,
                LockList: LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() },
                Spin: 0,
                LowMemoryCount: 0,
                Reserved1: [0; 4],
                Reserved2: 0,
                Blocks: 0,
            });
        }
    }

    /// Holds the lock. STATUS_DELETE_PENDING: the device is being removed, and the lock is not held. A checked build's
    /// lock that is given back after more than MaxLockedMinutes is an assertion, a free build's under --verify a finding.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAcquireRemoveLockEx(
        lock: Ptr<IO_REMOVE_LOCK>, tag: Ptr<u8>, file: NarrowStringPtr, line: ULong, lock_bytes: ULong,
    ) -> NtStatus {
        if lock.read().Removed != 0 {
            return NtStatus::DELETE_PENDING;
        }
        let holders = change(lock, 1) - 1;
        if is_checked(lock_bytes) {
            let highest = debug_block(lock).read().HighWatermark;
            if highest != 0 && holders.unsigned_abs() > highest {
                assertion(lock, format_args!("has {holders} holders, and its high watermark is {highest}"));
            }
            remember(lock, tag.addr(), file.0, line);
        } else if VERIFIED.with(|limits| limits.contains_key(&lock.addr())) {
            remember(lock, tag.addr(), file.0, line);
        }
        NtStatus::SUCCESS
    }

    /// Gives back what IoAcquireRemoveLockEx acquired, with the same tag.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReleaseRemoveLockEx(lock: Ptr<IO_REMOVE_LOCK>, tag: Ptr<u8>, lock_bytes: ULong) {
        release(lock, tag.addr(), lock_bytes);
    }

    /// Refuses new holders, gives back the caller's hold and waits until the last holder is gone.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoReleaseRemoveLockAndWaitEx(lock: Ptr<IO_REMOVE_LOCK>, tag: Ptr<u8>, lock_bytes: ULong) {
        lock.with(|lock| lock.Removed = 1);
        let left = release(lock, tag.addr(), lock_bytes);
        if left == 0 {
            assertion(lock, format_args!("is waited for by who does not hold it"));
        }
        if change(lock, -1) > 0 {
            waiters::wait_for(event_of(lock).cast());
        }
        VERIFIED.with(|limits| limits.remove(&lock.addr()));
        let forgotten = RECORDS.with(|records| records.remove(&lock.addr()));
        // Only a checked build has to give a lock back with the tag that it took it with.
        if let Some(record) = forgotten.and_then(|records| records.first().copied())
            && is_checked(lock_bytes)
        {
            assertion(lock, format_args!("is still held with {}", record.place()));
        }
    }
}
