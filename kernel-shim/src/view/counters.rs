//! What is counted and measured: performance, times of the processor, interrupts.

use super::structure::Structure;
use crate::ex::pool;
use crate::ke::{dpc, sched, time};
use crate::raw::low32;
use crate::shared;
use abi::layout;

/// Bytes of SYSTEM_PERFORMANCE_INFORMATION before Windows 7.
pub(super) const PERFORMANCE_BYTES: u32 = 0x138;
/// Where in it NonPagedPoolPages is.
const NON_PAGED_POOL_PAGES: usize = 0x74;
/// Where in it ContextSwitches is.
const CONTEXT_SWITCHES: usize = 0x128;

fn pages(bytes: u64) -> u32 {
    low32(bytes / layout::PAGE_SIZE)
}

/// SYSTEM_PERFORMANCE_INFORMATION: idle time, memory, context switches. There is no paging, and no cache of files that
/// would be counted.
pub(super) fn performance() -> Structure {
    let free = pages(pool::free_bytes());
    let pool = pages(shared::pool_bytes());
    let used = pool.saturating_sub(free);
    Structure::default()
        .qword(time::idle_time())
        .extended(0x2C) // what was transferred
        .dword(free) // AvailablePages
        .dword(pages(shared::ram_bytes()).saturating_sub(free)) // CommittedPages
        .dword(pages(shared::ram_bytes())) // CommitLimit
        .dword(pages(shared::ram_bytes()).saturating_sub(free)) // PeakCommitment
        .extended(NON_PAGED_POOL_PAGES)
        .dword(used)
        .extended(CONTEXT_SWITCHES)
        .dword(low32(sched::switches()))
        .extended(PERFORMANCE_BYTES as usize)
        .qword(0) // CcTotalDirtyPages
        .qword(0) // CcDirtyPageThreshold
        .qword(u64::from(free)) // ResidentAvailablePages
        .qword(0) // SharedCommittedPages
}

/// SYSTEM_PROCESSOR_PERFORMANCE_INFORMATION of the one processor. Kernel time is all time, that of the idle thread
/// included, as in NT: nothing of user mode runs here.
pub(super) fn processor_performance() -> Structure {
    Structure::default()
        .qword(time::idle_time())
        .qword(time::interrupt_time())
        .qword(0) // UserTime
        .qword(0) // DpcTime
        .qword(0) // InterruptTime
        .dword(low32(time::tick_count())) // InterruptCount
        .aligned_to(8)
}

/// SYSTEM_INTERRUPT_INFORMATION of the one processor.
pub(super) fn interrupts() -> Structure {
    Structure::default()
        .dword(low32(sched::switches()))
        .dword(dpc::count())
        .dword(0) // DpcRate
        .dword(low32(time::TICK))
        .dwords(&[0, 0]) // DpcBypassCount, ApcBypassCount
}

/// SYSTEM_DPC_BEHAVIOR_INFORMATION: NT's defaults; DPCs are never put off here.
pub(super) fn dpc_behavior() -> Structure {
    const QUEUE_DEPTH: u32 = 4;
    const MINIMUM_RATE: u32 = 3;
    const ADJUST_THRESHOLD: u32 = 20;
    const IDEAL_RATE: u32 = 20;
    Structure::default().dwords(&[0, QUEUE_DEPTH, MINIMUM_RATE, ADJUST_THRESHOLD, IDEAL_RATE])
}

/// SYSTEM_LOGICAL_PROCESSOR_INFORMATIONs: one core in one package in one NUMA node.
pub(super) fn logical_processors() -> Structure {
    const CORE: u32 = 0;
    const NUMA_NODE: u32 = 1;
    const PACKAGE: u32 = 3;
    [CORE, NUMA_NODE, PACKAGE]
        .into_iter()
        .fold(Structure::default(), |list, relationship| {
            list.word(1) // ProcessorMask
                .dword(relationship)
                .aligned_to(8)
                .qword(0) // no shared functional units; node 0
                .qword(0)
        })
}
