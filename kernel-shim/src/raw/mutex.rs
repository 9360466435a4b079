//! Acquiring and releasing a fast mutex that nobody else wants: an export's whole code on amd64, without a call.
//!
//! Each starts the export over as an ordinary call when anything is out of the ordinary, with the driver's registers as
//! they were but for RAX, R10 and R11, which no argument is in. Nothing marks shim code as running, for that is what most
//! of a call of this kind would consist of, so interrupts and other threads may come between any two instructions:
//!
//! - Acquiring raises IRQL first, as NT does: an APC of this thread cannot come between. What takes the mutex is one
//!   instruction.
//! - Releasing is at DISPATCH_LEVEL from the look at what waits until IRQL is the old one: no other thread comes between.
//!   A DPC that a device's interrupt queues in these few instructions waits for the next look, as it does when the
//!   interrupt comes during any fast path.
//!
//! A mutex that is not in kernel space is for the ordinary path: a fault there may be a handler's.

use core::arch::naked_asm;
use core::mem::offset_of;

use abi::channel::State;
use abi::layout::Shared;

use super::entry::amd64_common;
use crate::ke::sched;
use crate::nt::{APC_LEVEL, DISPATCH_LEVEL, FAST_MUTEX};
use crate::shared;

/// The offset of a field of [`State`] in the shared pages.
macro_rules! state {
    ($field:ident) => {
        Shared::STATE + offset_of!(State, $field) as u64
    };
}

/// ExAcquireFastMutex, export `INDEX`.
#[unsafe(naked)]
pub(crate) extern "win64" fn acquire_fast_mutex<const INDEX: u32>() {
    naked_asm!(
        "cmp dword ptr [rip + {is_fast}], 0",
        "je 3f",
        "mov r10, [rip + {shared}]",
        "mov rax, rcx",
        "sub rax, r10",
        "add rax, {below}",
        "cmp rax, {kernel_bytes}",
        "jae 3f",
        "cmp dword ptr [r10 + {depth}], 0",
        "jne 3f",
        // tick_due and interrupt_due.
        "cmp qword ptr [r10 + {due}], 0",
        "jne 3f",
        "mov r11d, [r10 + {irql}]",
        "cmp r11d, {apc_level}",
        "ja 3f",
        "mov dword ptr [r10 + {irql}], {apc_level}",
        "mov eax, 1",
        "xor r10d, r10d",
        "cmpxchg [rcx + {count}], r10d",
        "jne 2f",
        "mov rax, [rip + {scheduler} + {current}]",
        "mov [rcx + {owner}], rax",
        "mov [rcx + {old_irql}], r11d",
        "ret",
        "2:",
        "mov r10, [rip + {shared}]",
        "mov [r10 + {irql}], r11d",
        "3:",
        "mov eax, {index}",
        "jmp {common}",
        is_fast = sym shared::IS_FAST,
        shared = sym shared::SHARED,
        below = const shared::PAGES_IN_KERNEL,
        kernel_bytes = const shared::KERNEL_BYTES,
        depth = const state!(shim_depth),
        due = const state!(tick_due),
        irql = const state!(irql),
        apc_level = const APC_LEVEL,
        count = const offset_of!(FAST_MUTEX, Count),
        owner = const offset_of!(FAST_MUTEX, Owner),
        old_irql = const offset_of!(FAST_MUTEX, OldIrql),
        scheduler = sym sched::SCHEDULER,
        current = const sched::CURRENT,
        index = const INDEX,
        common = sym amd64_common,
    )
}

/// ExReleaseFastMutex, export `INDEX`.
#[unsafe(naked)]
pub(crate) extern "win64" fn release_fast_mutex<const INDEX: u32>() {
    naked_asm!(
        "cmp dword ptr [rip + {is_fast}], 0",
        "je 3f",
        "mov r10, [rip + {shared}]",
        "mov rax, rcx",
        "sub rax, r10",
        "add rax, {below}",
        "cmp rax, {kernel_bytes}",
        "jae 3f",
        "mov rax, [rip + {scheduler} + {current}]",
        "cmp [rcx + {owner}], rax",
        "jne 3f",
        "cmp dword ptr [r10 + {depth}], 0",
        "jne 3f",
        "cmp dword ptr [r10 + {irql}], {apc_level}",
        "jne 3f",
        "mov r11d, [rcx + {old_irql}]",
        "cmp r11d, {apc_level}",
        "ja 3f",
        "mov dword ptr [r10 + {irql}], {dispatch_level}",
        "cmp dword ptr [rcx + {count}], 0",
        "jne 2f",
        "cmp byte ptr [rip + {attention}], 0",
        "jne 2f",
        "cmp qword ptr [r10 + {due}], 0",
        "jne 2f",
        "mov qword ptr [rcx + {owner}], 0",
        "mov dword ptr [rcx + {count}], 1",
        "mov [r10 + {irql}], r11d",
        "ret",
        "2:",
        "mov dword ptr [r10 + {irql}], {apc_level}",
        "3:",
        "mov eax, {index}",
        "jmp {common}",
        is_fast = sym shared::IS_FAST,
        shared = sym shared::SHARED,
        below = const shared::PAGES_IN_KERNEL,
        kernel_bytes = const shared::KERNEL_BYTES,
        depth = const state!(shim_depth),
        due = const state!(tick_due),
        irql = const state!(irql),
        apc_level = const APC_LEVEL,
        dispatch_level = const DISPATCH_LEVEL,
        count = const offset_of!(FAST_MUTEX, Count),
        owner = const offset_of!(FAST_MUTEX, Owner),
        old_irql = const offset_of!(FAST_MUTEX, OldIrql),
        scheduler = sym sched::SCHEDULER,
        current = const sched::CURRENT,
        attention = sym sched::ATTENTION,
        index = const INDEX,
        common = sym amd64_common,
    )
}
