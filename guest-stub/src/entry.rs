//! The first instructions.
//!
//! The VMM starts the vCPU in long mode at CPL 0, with descriptor tables and page tables in place, RDI =
//! kernel base, RSI = the processor region's TSS address, RSP = top of the boot stack. TR is loaded
//! here, with `ltr`, since emulated SVM takes a TSS set from outside for a busy one.
#![expect(unsafe_code, reason = "boot entry in assembly")]

use core::arch::global_asm;

use abi::layout::selector;

unsafe extern "C" {
    /// First instruction, at CPL 0.
    pub(crate) fn guest_entry();
    /// Nonzero in ring3 mode; stored by the VMM before the first instruction.
    pub(crate) static guest_is_ring3: u64;
    /// `out` bitmaps and descriptors are the same in both modes; these differ: SS of shim and driver.
    pub(crate) static guest_data_selector: u64;
}

global_asm!(
    ".section .text.entry, \"ax\"",
    ".global guest_entry",
    "guest_entry:",
    "   mov ax, {tss}",
    "   ltr ax",
    "   cmp qword ptr [rip + guest_is_ring3], 0",
    "   je 2f",
    "   mov rax, rsp",
    "   mov qword ptr [rip + guest_code64_selector], {user_code64}",
    "   mov qword ptr [rip + guest_code32_selector], {user_code32}",
    "   mov qword ptr [rip + guest_data_selector], {user_data}",
    "   push {user_data}",
    "   push rax",
    "   push 0x202",
    "   push {user_code64}",
    "   push qword ptr [rip + guest_start_pointer]",
    "   iretq",
    "2: jmp guest_start",
    ".section .data.rel.ro.entry, \"aw\"",
    ".balign 8",
    "guest_start_pointer: .quad guest_start",
    ".section .data.entry, \"aw\"",
    ".balign 8",
    ".global guest_is_ring3",
    "guest_is_ring3: .quad 0",
    ".global guest_code64_selector",
    "guest_code64_selector: .quad {kernel_code64}",
    ".global guest_code32_selector",
    "guest_code32_selector: .quad {kernel_code32}",
    ".global guest_data_selector",
    "guest_data_selector: .quad {kernel_data}",
    ".text",
    tss = const selector::TSS,
    user_code64 = const selector::USER_CODE64,
    user_code32 = const selector::USER_CODE32,
    user_data = const selector::USER_DATA,
    kernel_code64 = const selector::KERNEL_CODE64,
    kernel_code32 = const selector::KERNEL_CODE32,
    kernel_data = const selector::KERNEL_DATA,
);

/// Whether shim and driver run at CPL 3.
pub(crate) fn is_ring3() -> bool {
    // SAFETY: written by the VMM before the first instruction and never again.
    unsafe { core::ptr::read_volatile(&raw const guest_is_ring3) != 0 }
}
