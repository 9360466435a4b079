//! The one processor: number, group, affinity, and calls on "all" processors.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::irql;
use crate::nt::bugcheck::violation;
use crate::nt::{DISPATCH_LEVEL, IPI_LEVEL, KDPC, NtStatus};
use crate::raw::{Global, Ptr, Word, to_word};
use crate::shared;
use crate::value::{Boolean, Size, ULong, UShort};
use abi::trace::Entry;

/// The only member of the affinity of everything.
const PROCESSOR: u64 = 1;
const ALL_GROUPS: u16 = 0xFFFF;
/// KE_PROCESSOR_CHANGE_ADD_EXISTING.
const ADD_EXISTING: u32 = 1;

/// PROCESSOR_NUMBER.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PROCESSOR_NUMBER {
    /// Group.
    pub Group: u16,
    /// Number in the group.
    pub Number: u8,
    /// 0.
    pub Reserved: u8,
}

/// GROUP_AFFINITY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct GROUP_AFFINITY {
    /// Processors.
    pub Mask: Word,
    /// Group.
    pub Group: u16,
    /// 0.
    pub Reserved: [u16; 3],
}

/// KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct ChangeContext {
    state: u32,
    number: u32,
    status: NtStatus,
    processor: PROCESSOR_NUMBER,
}

/// KDPC_WATCHDOG_INFORMATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KDPC_WATCHDOG_INFORMATION {
    /// Longest time of a DPC, in ticks; 0: not limited.
    pub DpcTimeLimit: u32,
    /// Ticks left to the running DPC.
    pub DpcTimeCount: u32,
    /// Longest time at DISPATCH_LEVEL or above, in ticks; 0: not limited.
    pub DpcWatchdogLimit: u32,
    /// Ticks left.
    pub DpcWatchdogCount: u32,
    /// 0.
    pub Reserved: u32,
}

/// Registrations of callbacks that this machine never calls: handle, routine.
#[derive(Debug)]
struct Handles {
    open: Vec<u64>,
    next: u64,
}

static HANDLES: Global<Handles> = Global::new(
    "NMI and processor callbacks",
    Handles {
        open: Vec::new(),
        next: 1,
    },
);

fn register(name: [u8; 4]) -> Ptr<u8> {
    let Some(block) = crate::ex::pool::allocate_zeroed(8, name) else {
        return Ptr::null();
    };
    HANDLES.with(|handles| {
        handles.next += 1;
        handles.open.push(block.addr());
    });
    block
}

fn deregister(handle: Ptr<u8>) -> bool {
    let was_open = HANDLES.with(|handles| {
        let position = handles.open.iter().position(|&open| open == handle.addr());
        position
            .map(|position| handles.open.swap_remove(position))
            .is_some()
    });
    if was_open {
        crate::ex::pool::free(handle, 0);
    }
    was_open
}

pub(crate) fn initialize() {
    HANDLES.with(|handles| handles.open.clear());
}

fn group_affinity() -> GROUP_AFFINITY {
    GROUP_AFFINITY {
        Mask: to_word(PROCESSOR),
        Group: 0,
        Reserved: [0; 3],
    }
}

fn in_group(group: u16) -> u32 {
    u32::from(group == 0 || group == ALL_GROUPS)
}

/// Calls a routine for the one processor at `level`.
fn call_at(level: u8, function: u64, arguments: &[u64]) -> u64 {
    let old = irql::raise(level);
    let result = shared::call_driver(Entry::Other, function, arguments);
    irql::lower(old);
    result
}

/// An affinity without any processor that exists is a mistake.
fn check_affinity(affinity: Size) {
    if affinity.0 & PROCESSOR == 0 {
        violation(
            0,
            [affinity.0, 0, 0],
            format_args!(
                "the affinity {:#x} has no processor of this machine",
                affinity.0
            ),
        );
    }
}

nt_api! { module = ke_processor;
    /// The active processors: bit 0.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryActiveProcessors() -> Size {
        Size(PROCESSOR)
    }

    /// Number of active processors: 1; stores their affinity, if asked to.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryActiveProcessorCount(affinity: Ptr<Word>) -> ULong {
        if !affinity.is_null() {
            affinity.write(to_word(PROCESSOR));
        }
        1
    }

    /// Number of active processors of a group, or of all (0xFFFF).
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryActiveProcessorCountEx(group: UShort) -> ULong {
        in_group(group)
    }

    /// Most processors that there may be.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryMaximumProcessorCount() -> ULong {
        1
    }

    /// Most processors that there may be in a group, or in all (0xFFFF).
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryMaximumProcessorCountEx(group: UShort) -> ULong {
        in_group(group)
    }

    /// Number of active processor groups.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryActiveGroupCount() -> UShort {
        1
    }

    /// Most processor groups that there may be.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryMaximumGroupCount() -> UShort {
        1
    }

    /// The active processors of a group.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryGroupAffinity(group: UShort) -> Size {
        Size(if group == 0 { PROCESSOR } else { 0 })
    }

    /// Number of the highest NUMA node.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryHighestNodeNumber() -> UShort {
        0
    }

    /// NUMA node of the current processor.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeGetCurrentNodeNumber() -> UShort {
        0
    }

    /// The active processors of a NUMA node, and how many they are.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryNodeActiveAffinity(node: UShort, affinity: Ptr<GROUP_AFFINITY>, count: Ptr<u16>) {
        let is_there = node == 0;
        if !affinity.is_null() {
            affinity.write(GROUP_AFFINITY { Mask: Word::from(is_there), ..group_affinity() });
        }
        if !count.is_null() {
            count.write(is_there.into());
        }
    }

    /// Number of the current processor.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeGetCurrentProcessorNumber() -> ULong {
        0
    }

    /// Number of the current processor; stores its group and number, if asked to.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeGetCurrentProcessorNumberEx(number: Ptr<PROCESSOR_NUMBER>) -> ULong {
        if !number.is_null() {
            number.write(PROCESSOR_NUMBER::default());
        }
        0
    }

    /// Group and number of the processor with that index.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeGetProcessorNumberFromIndex(index: ULong, number: Ptr<PROCESSOR_NUMBER>) -> NtStatus {
        if index != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        number.write(PROCESSOR_NUMBER::default());
        NtStatus::SUCCESS
    }

    /// Index of a processor; 0xFFFFFFFF: there is no such processor.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeGetProcessorIndexFromNumber(number: Ptr<PROCESSOR_NUMBER>) -> ULong {
        if number.read() == PROCESSOR_NUMBER::default() { 0 } else { u32::MAX }
    }

    /// Lets the thread run on these processors: there is one, and it must be among them.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetSystemAffinityThread(affinity: Size) {
        check_affinity(affinity);
    }

    /// Lets the thread run on these processors; returns the system affinity before, 0 for none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the affinity before is always 0, that of a thread without one")
    fn KeSetSystemAffinityThreadEx(affinity: Size) -> Size {
        check_affinity(affinity);
        Size(0)
    }

    /// Gives the thread its affinity back.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRevertToUserAffinityThread() {}

    /// Gives the thread a system affinity back that KeSetSystemAffinityThreadEx returned.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRevertToUserAffinityThreadEx(affinity: Size) {}

    /// Lets the thread run on these processors of a group. Another group, or none of its processors, changes nothing.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetSystemGroupAffinityThread(affinity: Ptr<GROUP_AFFINITY>, previous: Ptr<GROUP_AFFINITY>) {
        if !previous.is_null() {
            previous.write(GROUP_AFFINITY { Mask: 0, ..group_affinity() });
        }
    }

    /// Gives the thread its affinity back.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRevertToUserGroupAffinityThread(previous: Ptr<GROUP_AFFINITY>) {}

    /// Calls a routine on every processor at IPI_LEVEL; returns what it returned on this one.
    ntoskrnl both stdcall irql(IPI_LEVEL) implemented
    fn KeIpiGenericCall(function: Ptr<u8>, argument: Size) -> Size {
        Size(call_at(IPI_LEVEL, function.addr(), &[argument.0]))
    }

    /// Calls a DPC routine on every processor at DISPATCH_LEVEL, as (DPC, context, count, barrier).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeGenericCallDpc(routine: Ptr<u8>, context: Ptr<u8>) {
        // A DPC for the routine to look at, the number of processors and the barrier.
        let Some(block) = crate::ex::pool::allocate_zeroed(size_of::<KDPC>() as u64 + 16, *b"GDpc") else { return };
        let (dpc, count) = (block.cast::<KDPC>(), block.add_bytes(size_of::<KDPC>() as u64));
        let barrier = count.add_bytes(8);
        crate::ke::dpc::KeInitializeDpc(dpc, routine, context);
        count.cast::<u32>().write(1);
        barrier.cast::<u32>().write(1);
        call_at(DISPATCH_LEVEL, routine.addr(), &[dpc.addr(), context.addr(), count.addr(), barrier.addr()]);
        crate::ex::pool::free(block, 0);
    }

    /// The routine of KeGenericCallDpc is done on this processor.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSignalCallDpcDone(count: Ptr<u8>) {
        count.cast::<u32>().with(|count| *count = count.saturating_sub(1));
    }

    /// Waits until the routine of KeGenericCallDpc has come so far everywhere; TRUE on one processor.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSignalCallDpcSynchronize(barrier: Ptr<u8>) -> Boolean {
        true
    }

    /// The limits of DPCs: there are none. STATUS_UNSUCCESSFUL below DISPATCH_LEVEL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeQueryDpcWatchdogInformation(information: Ptr<KDPC_WATCHDOG_INFORMATION>) -> NtStatus {
        if shared::irql() < DISPATCH_LEVEL {
            return NtStatus::UNSUCCESSFUL;
        }
        information.write(KDPC_WATCHDOG_INFORMATION {
            DpcTimeLimit: 0,
            DpcTimeCount: 0,
            DpcWatchdogLimit: 0,
            DpcWatchdogCount: 0,
            Reserved: 0,
        });
        NtStatus::SUCCESS
    }

    /// Whether a DPC or raised code should give the processor to others: a tick is due.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeShouldYieldProcessor() -> ULong {
        u32::from(shared::tick_due() != 0)
    }

    /// Registers a routine for non-maskable interrupts, which do not occur here; null when the pool is exhausted.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeRegisterNmiCallback(routine: Ptr<u8>, context: Ptr<u8>) -> Ptr<u8> {
        register(*b"NmiC")
    }

    /// Takes a routine for non-maskable interrupts back.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeDeregisterNmiCallback(handle: Ptr<u8>) -> NtStatus {
        if deregister(handle) { NtStatus::SUCCESS } else { NtStatus::INVALID_HANDLE }
    }

    /// Registers a routine for added processors; with flag 1 it is called for the one there is. Null: it refused.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn KeRegisterProcessorChangeCallback(routine: Ptr<u8>, context: Ptr<u8>, flags: ULong) -> Ptr<u8> {
        if flags & ADD_EXISTING != 0 {
            let mut change = ChangeContext {
                state: 0,
                number: 0,
                status: NtStatus::SUCCESS,
                processor: PROCESSOR_NUMBER::default(),
            };
            let mut status = NtStatus::SUCCESS;
            let (change, status) = (Ptr::of(&mut change), Ptr::of(&mut status));
            let arguments = [context.addr(), change.addr(), status.addr()];
            shared::call_driver(Entry::Other, routine.addr(), &arguments);
            let is_refused = !status.read().is_success();
            // KeProcessorAddCompleteNotify, or KeProcessorAddFailureNotify.
            change.with(|change| change.state = if is_refused { 2 } else { 1 });
            shared::call_driver(Entry::Other, routine.addr(), &arguments);
            if is_refused {
                return Ptr::null();
            }
        }
        register(*b"PrCb")
    }

    /// Takes a routine for added processors back.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn KeDeregisterProcessorChangeCallback(handle: Ptr<u8>) {
        deregister(handle);
    }
}
