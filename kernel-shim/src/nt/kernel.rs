//! The kernel's own objects: dispatcher headers, events, DPCs, timers, device queues.

use super::LIST_ENTRY;
use crate::raw::{Ptr, Word};

/// What [`DISPATCHER_HEADER::Type`] says: the kind of a dispatcher object.
pub mod dispatcher {
    /// Notification event: stays signalled.
    pub const NOTIFICATION_EVENT: u8 = 0;
    /// Synchronization event: one wait resets it.
    pub const SYNCHRONIZATION_EVENT: u8 = 1;
    /// Mutex.
    pub const MUTANT: u8 = 2;
    /// Process.
    pub const PROCESS: u8 = 3;
    /// Queue.
    pub const QUEUE: u8 = 4;
    /// Semaphore.
    pub const SEMAPHORE: u8 = 5;
    /// Thread.
    pub const THREAD: u8 = 6;
    /// Notification timer.
    pub const NOTIFICATION_TIMER: u8 = 8;
    /// Synchronization timer.
    pub const SYNCHRONIZATION_TIMER: u8 = 9;
    /// [`super::super::KAPC::Type`] of an APC.
    pub const APC: u8 = 0x12;
    /// [`super::KDPC::Type`] of a DPC.
    pub const DPC: u8 = 0x13;
    /// [`super::KDPC::Type`] of a threaded DPC.
    pub const THREADED_DPC: u8 = 0x1A;
}

/// DISPATCHER_HEADER: the head of everything that can be waited for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DISPATCHER_HEADER {
    /// One of [`dispatcher`].
    pub Type: u8,
    /// Of a timer: whether its due time is absolute.
    pub Absolute: u8,
    /// Size of the object in 4-byte units.
    pub Size: u8,
    /// Of a timer: whether it is set.
    pub Inserted: u8,
    /// Signalled when positive.
    pub SignalState: i32,
    /// Waiting threads.
    pub WaitListHead: LIST_ENTRY,
}

/// KEVENT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KEVENT {
    /// All there is.
    pub Header: DISPATCHER_HEADER,
}

/// KDPC.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KDPC {
    /// [`dispatcher::DPC`].
    pub Type: u8,
    /// 0 low, 1 medium, 2 high.
    pub Importance: u8,
    /// Target processor.
    pub Number: u16,
    /// Links in the queue.
    pub DpcListEntry: LIST_ENTRY,
    /// Called as (Dpc, DeferredContext, SystemArgument1, SystemArgument2).
    pub DeferredRoutine: Word,
    /// Second argument.
    pub DeferredContext: Word,
    /// Third argument.
    pub SystemArgument1: Word,
    /// Fourth argument.
    pub SystemArgument2: Word,
    /// Nonzero while queued.
    pub DpcData: Word,
}

/// KTIMER.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KTIMER {
    /// Signalled when the timer has expired.
    pub Header: DISPATCHER_HEADER,
    /// Interrupt time at which it expires, in 100 ns.
    pub DueTime: u64,
    /// Links.
    pub TimerListEntry: LIST_ENTRY,
    /// Queued at expiry; may be null.
    pub Dpc: Ptr<KDPC>,
    /// Processor.
    #[cfg(not(nt_i386))]
    pub Processor: u32,
    /// Milliseconds between expiries; 0: once.
    pub Period: i32,
}

/// KDEVICE_QUEUE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KDEVICE_QUEUE {
    /// DeviceQueueObject (20).
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// Entries.
    pub DeviceListHead: LIST_ENTRY,
    /// Spin lock.
    pub Lock: Word,
    /// Nonzero in its low byte: the device is busy.
    pub Busy: Word,
}

const _: () = {
    assert!(size_of::<KEVENT>() == if cfg!(nt_i386) { 0x10 } else { 0x18 });
    assert!(size_of::<KDPC>() == if cfg!(nt_i386) { 0x20 } else { 0x40 });
    assert!(size_of::<KTIMER>() == if cfg!(nt_i386) { 0x28 } else { 0x40 });
    assert!(size_of::<KDEVICE_QUEUE>() == if cfg!(nt_i386) { 0x14 } else { 0x28 });
    assert!(core::mem::offset_of!(KDPC, DeferredRoutine) == if cfg!(nt_i386) { 0xC } else { 0x18 });
    assert!(core::mem::offset_of!(KTIMER, Period) == if cfg!(nt_i386) { 0x24 } else { 0x3C });
};
