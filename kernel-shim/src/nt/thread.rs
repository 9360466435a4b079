//! Threads and processes, wait blocks, APCs, and the dispatcher objects beside events and timers.
//!
//! KTHREAD, ETHREAD and EPROCESS are opaque by contract; drivers read fields of them all the same, so what is here lies
//! where Windows 7 has it.

use super::{DISPATCHER_HEADER, KTIMER, LIST_ENTRY};
use crate::raw::{Ptr, Word};

/// KWAIT_BLOCK: one object that one thread waits for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KWAIT_BLOCK {
    /// Links in the object's wait list.
    pub WaitListEntry: LIST_ENTRY,
    /// Who waits.
    pub Thread: Ptr<KTHREAD>,
    /// For what.
    pub Object: Ptr<DISPATCHER_HEADER>,
    /// The same wait's next block; the last leads to the first.
    pub NextWaitBlock: Ptr<KWAIT_BLOCK>,
    /// The wait's status when this object satisfies it.
    pub WaitKey: u16,
    /// 0 WaitAll, 1 WaitAny.
    pub WaitType: u8,
    /// 4: in the object's list.
    pub BlockState: u8,
    /// In a KTHREAD's own blocks used for other fields.
    #[cfg(not(nt_i386))]
    pub SpareLong: u32,
}

/// KAPC_STATE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KAPC_STATE {
    /// Kernel and user APCs.
    pub ApcListHead: [LIST_ENTRY; 2],
    /// KPROCESS that the thread is in.
    pub Process: Word,
    /// A normal kernel APC runs.
    pub KernelApcInProgress: u8,
    /// Kernel APCs are queued.
    pub KernelApcPending: u8,
    /// A user APC is to be delivered.
    pub UserApcPending: u8,
}

/// KAPC.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KAPC {
    /// ApcObject (18).
    pub Type: u8,
    /// Unused.
    pub SpareByte0: u8,
    /// Bytes.
    pub Size: u8,
    /// Unused.
    pub SpareByte1: u8,
    /// Unused.
    pub SpareLong0: u32,
    /// Thread that it is for.
    pub Thread: Ptr<KTHREAD>,
    /// Links in the thread's list.
    pub ApcListEntry: LIST_ENTRY,
    /// Called at APC_LEVEL as (Apc, &NormalRoutine, &NormalContext, &SystemArgument1, &SystemArgument2).
    pub KernelRoutine: Word,
    /// Called as (Apc) when the thread ends first.
    pub RundownRoutine: Word,
    /// Called at PASSIVE_LEVEL as (NormalContext, SystemArgument1, SystemArgument2).
    pub NormalRoutine: Word,
    /// First argument.
    pub NormalContext: Word,
    /// Second argument.
    pub SystemArgument1: Word,
    /// Third argument.
    pub SystemArgument2: Word,
    /// KAPC_ENVIRONMENT.
    pub ApcStateIndex: u8,
    /// 0 kernel, 1 user.
    pub ApcMode: u8,
    /// Whether it is queued.
    pub Inserted: u8,
}

/// KMUTANT, which drivers know as KMUTEX.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KMUTANT {
    /// Signalled (1) when nobody owns it; 0 and less count its owner's acquisitions.
    pub Header: DISPATCHER_HEADER,
    /// Links in the owner's list.
    pub MutantListEntry: LIST_ENTRY,
    /// Owner.
    pub OwnerThread: Ptr<KTHREAD>,
    /// The last owner ended without releasing it.
    pub Abandoned: u8,
    /// 1: its owner takes no normal kernel APCs.
    pub ApcDisable: u8,
}

/// KSEMAPHORE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KSEMAPHORE {
    /// SignalState is the count.
    pub Header: DISPATCHER_HEADER,
    /// Most that the count may be.
    pub Limit: i32,
}

/// KQUEUE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KQUEUE {
    /// SignalState is the number of entries.
    pub Header: DISPATCHER_HEADER,
    /// Entries.
    pub EntryListHead: LIST_ENTRY,
    /// Threads of the queue that run.
    pub CurrentCount: u32,
    /// Most that shall.
    pub MaximumCount: u32,
    /// Threads of the queue.
    pub ThreadListHead: LIST_ENTRY,
}

/// CLIENT_ID.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CLIENT_ID {
    /// Process id.
    pub UniqueProcess: Word,
    /// Thread id.
    pub UniqueThread: Word,
}

/// What the shim keeps of a thread beside NT's fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ThreadPrivate {
    /// Stack pointer while it does not run.
    pub stack_pointer: u64,
    /// Call site while it does not run: return address, its place, EBP, links.
    pub site: [u64; 4],
    /// Depth of shim code while it does not run.
    pub depth: u32,
    /// `cli` without `sti` while it does not run.
    pub interrupts_masked: u32,
    /// Id of the process that it is in (attached to).
    pub process_id: u32,
    /// What it does: a [`crate::ps::thread::Work`] as a number.
    pub work: u32,
    /// First routine and its argument.
    pub start: [u64; 2],
    /// Slot of its kernel stack; `u32::MAX`: it is not one of the stack window's.
    pub stack_slot: u32,
    /// Ticks left of its quantum.
    pub quantum: i32,
    /// fs:0 of an i386 thread while it does not run.
    pub exception_list: u32,
    /// IRQL while it does not run.
    pub irql: u32,
    /// KeSetEvent and the like with Wait = TRUE: the next call is a wait, and nothing preempts until then.
    pub wait_next: u32,
    /// PsTerminateSystemThread was called or its process ended.
    pub is_terminating: u32,
    /// Ticks of the clock that found it running.
    pub ticks: u32,
    /// Which client's memory it sees; see [`crate::client`].
    pub view: u32,
}

/// KTHREAD (Windows 7).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "NT's own names")]
pub struct KTHREAD {
    pub Header: DISPATCHER_HEADER,
    pub CycleTime: u64,
    #[cfg(nt_i386)]
    pub HighCycleTime: u64,
    pub QuantumTarget: u64,
    pub InitialStack: Word,
    pub StackLimit: Word,
    pub KernelStack: Word,
    pub ThreadLock: Word,
    pub WaitRegister: u8,
    pub Running: u8,
    pub Alerted: [u8; 2],
    pub MiscFlags: u32,
    pub ApcListHead: [LIST_ENTRY; 2],
    pub ApcProcess: Word,
    pub KernelApcInProgress: u8,
    pub KernelApcPending: u8,
    pub UserApcPending: u8,
    pub Priority: i8,
    pub NextProcessor: u32,
    pub DeferredProcessor: u32,
    pub ApcQueueLock: Word,
    #[cfg(nt_i386)]
    pub ContextSwitches: u32,
    #[cfg(nt_i386)]
    pub State: u8,
    #[cfg(nt_i386)]
    pub NpxState: u8,
    #[cfg(nt_i386)]
    pub WaitIrql: u8,
    #[cfg(nt_i386)]
    pub WaitMode: u8,
    pub WaitStatus: Word,
    pub WaitBlockList: Ptr<KWAIT_BLOCK>,
    /// Also links a ready thread in its ready queue.
    pub WaitListEntry: LIST_ENTRY,
    pub Queue: Ptr<KQUEUE>,
    #[cfg(nt_i386)]
    pub WaitTime: u32,
    #[cfg(nt_i386)]
    pub KernelApcDisable: i16,
    #[cfg(nt_i386)]
    pub SpecialApcDisable: i16,
    pub Teb: Word,
    pub Timer: KTIMER,
    pub ThreadFlags: u64,
    pub WaitBlock: [KWAIT_BLOCK; 4],
    pub QueueListEntry: LIST_ENTRY,
    pub TrapFrame: Word,
    pub FirstArgument: Word,
    pub CallbackStack: Word,
    pub ApcStateIndex: u8,
    pub BasePriority: i8,
    pub PriorityDecrement: i8,
    pub Preempted: u8,
    pub AdjustReason: u8,
    pub AdjustIncrement: i8,
    pub PreviousMode: i8,
    pub Saturation: i8,
    pub SystemCallNumber: u32,
    pub FreezeCount: u32,
    pub UserAffinity: [u32; if cfg!(nt_i386) { 3 } else { 4 }],
    pub Process: Word,
    pub Affinity: [u32; if cfg!(nt_i386) { 3 } else { 4 }],
    pub IdealProcessor: u32,
    pub UserIdealProcessor: u32,
    pub ApcStatePointer: [Word; 2],
    pub SavedApcListHead: [LIST_ENTRY; 2],
    pub SavedApcProcess: Word,
    pub SavedKernelApcInProgress: u8,
    pub SavedKernelApcPending: u8,
    pub SavedUserApcPending: u8,
    pub WaitReason: u8,
    pub SuspendCount: u8,
    pub Spare1: [u8; 3],
    pub Win32Thread: Word,
    pub StackBase: Word,
    pub SuspendApc: [u8; size_of::<KAPC>()],
    pub Spare2: [u8; if cfg!(nt_i386) { 0x1C } else { 0x20 }],
    pub ThreadListEntry: LIST_ENTRY,
    pub MutantListHead: LIST_ENTRY,
    pub Spare3: [u8; if cfg!(nt_i386) { 0x10 } else { 0x48 }],
}

/// ETHREAD (Windows 7) with the shim's own part behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "NT's own names")]
pub struct ETHREAD {
    pub Tcb: KTHREAD,
    pub CreateTime: u64,
    pub ExitTime: u64,
    pub Spare1: [u8; if cfg!(nt_i386) { 0 } else { 0x10 }],
    pub ExitStatus: u32,
    pub Spare2: [u8; 4],
    pub StartAddress: Word,
    pub Spare3: [u8; if cfg!(nt_i386) { 0x10 } else { 0x20 }],
    pub Cid: CLIENT_ID,
    pub Spare4: [u8; if cfg!(nt_i386) { 0x34 } else { 0x60 }],
    pub ThreadListEntry: LIST_ENTRY,
    pub Spare5: [u8; if cfg!(nt_i386) { 0x50 } else { 0x70 }],
    pub Private: ThreadPrivate,
}

/// KPROCESS, the head of an EPROCESS; what else is filled in is in [`process`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KPROCESS {
    /// Signalled when the process has ended.
    pub Header: DISPATCHER_HEADER,
}

/// Offsets of EPROCESS fields that are filled in (Windows 7).
pub mod process {
    const fn either(i386: u64, amd64: u64) -> u64 {
        if cfg!(nt_i386) { i386 } else { amd64 }
    }
    /// KPROCESS.DirectoryTableBase.
    pub const DIRECTORY_TABLE_BASE: u64 = either(0x18, 0x28);
    /// KPROCESS.ThreadListHead, of KTHREAD.ThreadListEntry.
    pub const KERNEL_THREAD_LIST_HEAD: u64 = either(0x2C, 0x30);
    /// EPROCESS.CreateTime.
    pub const CREATE_TIME: u64 = either(0xA0, 0x168);
    /// EPROCESS.ExitTime.
    pub const EXIT_TIME: u64 = either(0xA8, 0x170);
    /// EPROCESS.UniqueProcessId.
    pub const UNIQUE_PROCESS_ID: u64 = either(0xB4, 0x180);
    /// EPROCESS.ActiveProcessLinks.
    pub const ACTIVE_PROCESS_LINKS: u64 = either(0xB8, 0x188);
    /// EPROCESS.InheritedFromUniqueProcessId.
    pub const INHERITED_FROM: u64 = either(0x140, 0x290);
    /// EPROCESS.ImageFileName: 15 characters and a NUL.
    pub const IMAGE_FILE_NAME: u64 = either(0x16C, 0x2E0);
    /// EPROCESS.ThreadListHead, of ETHREAD.ThreadListEntry.
    pub const THREAD_LIST_HEAD: u64 = either(0x188, 0x308);
    /// EPROCESS.ActiveThreads.
    pub const ACTIVE_THREADS: u64 = either(0x198, 0x328);
    /// EPROCESS.ExitStatus.
    pub const EXIT_STATUS: u64 = either(0x274, 0x444);
    /// Bytes of EPROCESS, with room for the shim's.
    pub const BYTES: u64 = either(0x2E0, 0x500);
}

/// Of a KTHREAD, where the two ABIs differ: in wait blocks' spare words on amd64.
pub mod field {
    const fn either(i386: u64, amd64: u64) -> u64 {
        if cfg!(nt_i386) { i386 } else { amd64 }
    }
    /// KTHREAD.ContextSwitches.
    pub const CONTEXT_SWITCHES: u64 = either(0x64, 0x134);
    /// KTHREAD.State, one of [`state`].
    pub const STATE: u64 = either(0x68, 0x164);
    /// KTHREAD.WaitIrql.
    pub const WAIT_IRQL: u64 = either(0x6A, 0x166);
    /// KTHREAD.WaitMode.
    pub const WAIT_MODE: u64 = either(0x6B, 0x167);
    /// KTHREAD.WaitTime.
    pub const WAIT_TIME: u64 = either(0x80, 0x194);
    /// KTHREAD.KernelApcDisable.
    pub const KERNEL_APC_DISABLE: u64 = either(0x84, 0x1C4);
    /// KTHREAD.SpecialApcDisable.
    pub const SPECIAL_APC_DISABLE: u64 = either(0x86, 0x1C6);

    /// KTHREAD_STATE.
    pub mod state {
        /// Being made.
        pub const INITIALIZED: u8 = 0;
        /// In a ready queue.
        pub const READY: u8 = 1;
        /// On the processor.
        pub const RUNNING: u8 = 2;
        /// At its end.
        pub const TERMINATED: u8 = 4;
        /// Waits.
        pub const WAITING: u8 = 5;
    }
}

const _: () = {
    use core::mem::offset_of;
    const fn is(actual: usize, i386: usize, amd64: usize) {
        assert!(actual == if cfg!(nt_i386) { i386 } else { amd64 });
    }
    is(size_of::<KWAIT_BLOCK>(), 0x18, 0x30);
    is(offset_of!(KWAIT_BLOCK, WaitKey), 0x14, 0x28);
    is(size_of::<KAPC_STATE>(), 0x18, 0x30);
    is(size_of::<KAPC>(), 0x30, 0x58);
    is(offset_of!(KAPC, ApcMode), 0x2D, 0x51);
    is(size_of::<KMUTANT>(), 0x20, 0x38);
    is(size_of::<KSEMAPHORE>(), 0x14, 0x20);
    is(size_of::<KQUEUE>(), 0x28, 0x40);
    is(offset_of!(KTHREAD, InitialStack), 0x28, 0x28);
    is(offset_of!(KTHREAD, ApcListHead), 0x40, 0x50);
    is(offset_of!(KTHREAD, Priority), 0x57, 0x7B);
    is(offset_of!(KTHREAD, WaitStatus), 0x6C, 0x90);
    is(offset_of!(KTHREAD, Queue), 0x7C, 0xB0);
    is(offset_of!(KTHREAD, Teb), 0x88, 0xB8);
    is(offset_of!(KTHREAD, Timer), 0x90, 0xC0);
    is(offset_of!(KTHREAD, WaitBlock), 0xC0, 0x108);
    is(offset_of!(KTHREAD, ApcStateIndex), 0x134, 0x1F0);
    is(offset_of!(KTHREAD, PreviousMode), 0x13A, 0x1F6);
    is(offset_of!(KTHREAD, Process), 0x150, 0x210);
    is(offset_of!(KTHREAD, ApcStatePointer), 0x168, 0x230);
    is(offset_of!(KTHREAD, WaitReason), 0x187, 0x26B);
    is(offset_of!(KTHREAD, StackBase), 0x190, 0x278);
    is(offset_of!(KTHREAD, ThreadListEntry), 0x1E0, 0x2F8);
    is(offset_of!(KTHREAD, MutantListHead), 0x1E8, 0x308);
    is(size_of::<KTHREAD>(), 0x200, 0x360);
    is(offset_of!(ETHREAD, ExitStatus), 0x210, 0x380);
    is(offset_of!(ETHREAD, StartAddress), 0x218, 0x388);
    is(offset_of!(ETHREAD, Cid), 0x22C, 0x3B0);
    is(offset_of!(ETHREAD, ThreadListEntry), 0x268, 0x420);
    is(offset_of!(ETHREAD, Private), 0x2C0, 0x4A0);
    #[cfg(not(nt_i386))]
    assert!(
        field::KERNEL_APC_DISABLE == (offset_of!(KTHREAD, WaitBlock) + 3 * 0x30 + 0x2C) as u64,
        "in the last wait block's spare word"
    );
};
