//! Priorities and yielding, as drivers use them.

use crate::api::nt_api;
use crate::ke::sched::{self, LOW_REALTIME};
use crate::nt::KTHREAD;
use crate::nt::NtStatus;
use crate::raw::{Ptr, low8};
use crate::value::Long;

/// A priority as KTHREAD has it.
fn to_priority(priority: i32) -> i8 {
    low8(u64::from(priority.clamp(0, 31).unsigned_abs())).cast_signed()
}

/// Base priority of the process class that all processes have (normal).
const PROCESS_BASE: i32 = 8;

nt_api! { module = ke_priority;
    /// A thread's current priority.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeQueryPriorityThread(thread: Ptr<KTHREAD>) -> Long {
        i32::from(thread.with(|thread| thread.Priority))
    }

    /// Sets a thread's current priority (1 to 31); returns the old one. Below 16 it decays to the base priority again.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetPriorityThread(thread: Ptr<KTHREAD>, priority: Long) -> Long {
        let old = i32::from(thread.with(|thread| thread.Priority));
        sched::set_run_priority(thread, to_priority(priority.max(1)));
        old
    }

    /// Sets a thread's base priority relative to its process's; returns the old difference.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetBasePriorityThread(thread: Ptr<KTHREAD>, increment: Long) -> Long {
        let old = i32::from(thread.with(|thread| thread.BasePriority)) - PROCESS_BASE;
        let wanted = (PROCESS_BASE.saturating_add(increment)).clamp(1, i32::from(LOW_REALTIME) - 1);
        sched::set_base_priority(thread, to_priority(wanted));
        old
    }

    /// A thread's base priority relative to its process's.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeQueryBasePriorityThread(thread: Ptr<KTHREAD>) -> Long {
        i32::from(thread.with(|thread| thread.BasePriority)) - PROCESS_BASE
    }

    /// Lets another ready thread of the same priority run, if there is one; otherwise STATUS_NO_YIELD_PERFORMED.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ZwYieldExecution() -> NtStatus {
        if sched::yield_current() { NtStatus::SUCCESS } else { NtStatus::NO_YIELD_PERFORMED }
    }
}
