//! Locks, lists and work items: what drivers hold inside their own structures.

use super::{KEVENT, LIST_ENTRY};
use crate::raw::{Ptr, Word};

/// KLOCK_QUEUE_HANDLE: a queued spin lock's place on its holder's stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KLOCK_QUEUE_HANDLE {
    /// The next in the queue: nobody, on one processor.
    pub Next: Word,
    /// The spin lock.
    pub Lock: Ptr<Word>,
    /// IRQL before the lock was taken.
    pub OldIrql: u8,
}

/// FAST_MUTEX, and KGUARDED_MUTEX, whose gate has the event's size.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FAST_MUTEX {
    /// 1: free. Below: held, and 0 minus it is the number of waiters.
    pub Count: i32,
    /// The thread that holds it.
    pub Owner: Ptr<u8>,
    /// How often somebody had to wait.
    pub Contention: u32,
    /// Synchronization event: the mutex was passed to a waiter.
    pub Event: KEVENT,
    /// IRQL before a fast mutex was acquired; unused in a guarded mutex.
    pub OldIrql: u32,
}

/// OWNER_ENTRY of an ERESOURCE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct OWNER_ENTRY {
    /// The thread, or an owner pointer with its two low bits set; 0: the entry is free.
    pub OwnerThread: Word,
    /// How often it acquired the resource; in the owner table's first entry, the table's number of entries.
    pub OwnerCount: u32,
}

/// ERESOURCE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ERESOURCE {
    /// All resources of the system.
    pub SystemResourcesList: LIST_ENTRY,
    /// Further owners; null while `OwnerEntry` is enough.
    pub OwnerTable: Ptr<OWNER_ENTRY>,
    /// 0: free. 1: owned exclusively. Else the number of shared owners.
    pub ActiveCount: i16,
    /// ResourceXxx flags.
    pub Flag: u16,
    /// Not used: waiters are queued by the shim.
    pub SharedWaiters: Word,
    /// Not used: waiters are queued by the shim.
    pub ExclusiveWaiters: Word,
    /// The exclusive owner, or one of the shared ones.
    pub OwnerEntry: OWNER_ENTRY,
    /// Number of owners.
    pub ActiveEntries: u32,
    /// How often somebody had to wait.
    pub ContentionCount: u32,
    /// Threads that wait for shared access.
    pub NumberOfSharedWaiters: u32,
    /// Threads that wait for exclusive access.
    pub NumberOfExclusiveWaiters: u32,
    /// Reserved.
    #[cfg(not(nt_i386))]
    pub Reserved2: Word,
    /// The initializing call's return address.
    pub Address: Word,
    /// Not taken: shim code is not preempted.
    pub SpinLock: Word,
}

/// IO_REMOVE_LOCK of a free build.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_REMOVE_LOCK {
    /// IoReleaseRemoveLockAndWait was called.
    pub Removed: u8,
    /// Padding.
    pub Reserved: [u8; 3],
    /// Holders, and one until the removal.
    pub IoCount: i32,
    /// Set when the last holder is gone.
    pub RemoveEvent: KEVENT,
}

/// IO_REMOVE_LOCK_DBG_BLOCK: what follows in a checked build.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_REMOVE_LOCK_DBG_BLOCK {
    /// "COIR".
    pub Signature: u32,
    /// Most holders allowed; 0: any number.
    pub HighWatermark: u32,
    /// Longest time that the lock may be held, in ticks; 0: for ever.
    pub MaxLockedTicks: i64,
    /// Pool tag of the records.
    pub AllocateTag: u32,
    /// Not used: the shim's heap has the records.
    pub LockList: LIST_ENTRY,
    /// Not taken.
    pub Spin: Word,
    /// Acquisitions without a record.
    pub LowMemoryCount: i32,
    /// Reserved.
    pub Reserved1: [u32; 4],
    /// Reserved.
    pub Reserved2: Word,
    /// Not used.
    pub Blocks: Word,
}

/// WORK_QUEUE_ITEM.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WORK_QUEUE_ITEM {
    /// Links; `Flink` is null while the item is not queued.
    pub List: LIST_ENTRY,
    /// Called as (Parameter).
    pub WorkerRoutine: Word,
    /// Its argument.
    pub Parameter: Word,
}

/// IO_WORKITEM: opaque to drivers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_WORKITEM {
    /// What is queued.
    pub WorkItem: WORK_QUEUE_ITEM,
    /// Called as (IoObject, Context), or with the item too.
    pub Routine: Word,
    /// DEVICE_OBJECT or DRIVER_OBJECT, referenced while the item is queued.
    pub IoObject: Ptr<u8>,
    /// Second argument.
    pub Context: Word,
    /// 1: the routine gets the item as a third argument (IoQueueWorkItemEx).
    pub Type: u32,
}

/// KBUGCHECK_CALLBACK_RECORD.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KBUGCHECK_CALLBACK_RECORD {
    /// Links.
    pub Entry: LIST_ENTRY,
    /// Called as (Buffer, Length).
    pub CallbackRoutine: Word,
    /// First argument.
    pub Buffer: Word,
    /// Second argument.
    pub Length: u32,
    /// A name.
    pub Component: Word,
    /// Sum of the four before.
    pub Checksum: Word,
    /// 0 empty, 1 inserted, 2 started, 3 finished.
    pub State: u8,
}

/// KBUGCHECK_REASON_CALLBACK_RECORD.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KBUGCHECK_REASON_CALLBACK_RECORD {
    /// Links.
    pub Entry: LIST_ENTRY,
    /// Called as (Reason, Record, ReasonSpecificData, ReasonSpecificDataLength).
    pub CallbackRoutine: Word,
    /// A name.
    pub Component: Word,
    /// Sum of routine, reason and component.
    pub Checksum: Word,
    /// KbCallbackXxx.
    pub Reason: u32,
    /// 0 empty, 1 inserted, 2 started, 3 finished.
    pub State: u8,
}

const fn both(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<KLOCK_QUEUE_HANDLE>() == both(0xC, 0x18));
    assert!(size_of::<FAST_MUTEX>() == both(0x20, 0x38));
    assert!(offset_of!(FAST_MUTEX, Event) == both(0xC, 0x18));
    assert!(offset_of!(FAST_MUTEX, OldIrql) == both(0x1C, 0x30));
    assert!(size_of::<OWNER_ENTRY>() == both(8, 0x10));
    assert!(size_of::<ERESOURCE>() == both(0x38, 0x68));
    assert!(offset_of!(ERESOURCE, ActiveCount) == both(0xC, 0x18));
    assert!(offset_of!(ERESOURCE, OwnerEntry) == both(0x18, 0x30));
    assert!(offset_of!(ERESOURCE, NumberOfSharedWaiters) == both(0x28, 0x48));
    assert!(size_of::<IO_REMOVE_LOCK>() == both(0x18, 0x20));
    assert!(size_of::<IO_REMOVE_LOCK_DBG_BLOCK>() == both(0x40, 0x58));
    assert!(size_of::<WORK_QUEUE_ITEM>() == both(0x10, 0x20));
    assert!(size_of::<KBUGCHECK_CALLBACK_RECORD>() == both(0x20, 0x40));
    assert!(size_of::<KBUGCHECK_REASON_CALLBACK_RECORD>() == both(0x1C, 0x30));
};
