//! Thread switches: from one kernel stack to another, inside shim code.
//!
//! A switch is a function call that returns on another stack, so it saves what System V's convention has a callee
//! preserve, and on i386 the chain of calls into 32-bit code (`guest_nest_rsp`), which belongs to its stack. A thread
//! that is preempted switches in the handler of a redirected tick, whose frame has everything else.
#![expect(unsafe_code, reason = "stack switch in assembly")]

use core::arch::global_asm;

unsafe extern "C" {
    fn guest_switch(save_at: u64, stack_pointer: u64);
    fn guest_thread_start();
}

global_asm!(
    ".section .text.switch, \"ax\"",
    // RDI = where the stack pointer is saved, RSI = the one to go on with.
    ".global guest_switch",
    "guest_switch:",
    "   push rbx",
    "   push rbp",
    "   push r12",
    "   push r13",
    "   push r14",
    "   push r15",
    "   push qword ptr [rip + guest_nest_rsp]",
    "   mov [rdi], rsp",
    "   mov rsp, rsi",
    "   pop qword ptr [rip + guest_nest_rsp]",
    "   pop r15",
    "   pop r14",
    "   pop r13",
    "   pop r12",
    "   pop rbp",
    "   pop rbx",
    "   ret",
    // A new stack's first return address: R12 = argument, R13 = function, which does not return.
    ".global guest_thread_start",
    "guest_thread_start:",
    "   mov rdi, r12",
    "   call r13",
    "   ud2",
    ".text",
);

/// The order in which [`guest_switch`] pops: nest, r15, r14, r13, r12, rbp, rbx, return address; then a null
/// return address, where a walk of the stack ends.
const FRAME: u64 = 9;

/// Lays out a new stack so that the first switch to it calls `entry(argument)`. `top` is its end, 16-byte aligned.
/// Returns the stack pointer for [`switch`].
pub(crate) fn prepare(top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> u64 {
    // `guest_thread_start` begins with RSP a multiple of 16, as after no call at all.
    let stack_pointer = top - 8 * (FRAME + 1);
    let words = [
        0,
        0,
        0,
        entry as *const () as u64,
        argument,
        0,
        0,
        guest_thread_start as *const () as u64,
        0,
        0,
    ];
    // SAFETY: the caller owns the new stack, and nothing runs on it yet; `words` ends exactly at its top.
    unsafe { (stack_pointer as *mut [u64; 10]).write(words) };
    stack_pointer
}

/// Saves this stack's pointer at `save_at` and goes on with the other one; returns when something switches back.
pub(crate) fn switch(save_at: u64, stack_pointer: u64) {
    // SAFETY: the scheduler gives a stack pointer that `prepare` or an earlier switch made, of a stack that nothing
    // runs on, and the address of its own word to save to.
    unsafe { guest_switch(save_at, stack_pointer) };
}
