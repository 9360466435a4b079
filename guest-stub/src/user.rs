//! The ring-3 stub: executes `in` and `out` for a client process at CPL 3, under its I/O permission bitmap.
//!
//! Six entries in a page of their own: the instruction, then `ud2`. The stub is entered by `iretq` with EDX =
//! port and EAX = value; the trap that ends it is #UD (done) or #GP (the bitmap denied the port), and
//! [`finish`] sends either back to the shim.
#![expect(unsafe_code, reason = "ring change in assembly")]

use core::arch::{asm, global_asm};

use abi::layout::{self, selector};
use kernel_shim::platform::{PortAccess, PortDenied};
use kernel_shim::raw::{low8, low16, low32};

use crate::entry;
use crate::trap::TrapFrame;

/// Bytes between two entries of the stub.
const ENTRY_STRIDE: u64 = 16;
const VECTOR_INVALID_OPCODE: u64 = 6;
const VECTOR_GENERAL_PROTECTION: u64 = 13;

unsafe extern "C" {
    /// The stub's page.
    pub(crate) fn guest_user_stub();
    fn guest_user_call(entry: u64, port: u64, value: u64, stack: u64) -> UserResult;
    fn guest_user_resume();
    static guest_user_saved_rsp: u64;
    static guest_code64_selector: u64;
}

#[repr(C)]
struct UserResult {
    value: u64,
    is_denied: u64,
}

global_asm!(
    ".section .userstub, \"ax\"",
    ".balign 4096",
    ".global guest_user_stub",
    "guest_user_stub:",
    "   in al, dx",
    "   ud2",
    ".balign 16",
    "   in ax, dx",
    "   ud2",
    ".balign 16",
    "   in eax, dx",
    "   ud2",
    ".balign 16",
    "   out dx, al",
    "   ud2",
    ".balign 16",
    "   out dx, ax",
    "   ud2",
    ".balign 16",
    "   out dx, eax",
    "   ud2",
    ".section .text.user, \"ax\"",
    // RDI = entry, RSI = port, RDX = value, RCX = user stack.
    ".global guest_user_call",
    "guest_user_call:",
    "   push rbx",
    "   push rbp",
    "   push r12",
    "   push r13",
    "   push r14",
    "   push r15",
    "   mov [rip + guest_user_saved_rsp], rsp",
    "   mov rax, rdx",
    "   mov rdx, rsi",
    "   push {user_data}",
    "   push rcx",
    "   pushfq",
    "   push {user_code64}",
    "   push rdi",
    "   iretq",
    ".global guest_user_resume",
    "guest_user_resume:",
    "   pop r15",
    "   pop r14",
    "   pop r13",
    "   pop r12",
    "   pop rbp",
    "   pop rbx",
    "   ret",
    ".section .bss.user, \"aw\", @nobits",
    ".balign 8",
    ".global guest_user_saved_rsp",
    "guest_user_saved_rsp: .skip 8",
    ".text",
    user_data = const selector::USER_DATA,
    user_code64 = const selector::USER_CODE64,
);

/// Executes one port access at CPL 3.
pub(crate) fn port(access: PortAccess) -> Result<u32, PortDenied> {
    let width_index = match access.width {
        1 => 0,
        2 => 1,
        _ => 2,
    };
    let entry_index = width_index + if access.write.is_some() { 3 } else { 0 };
    let result =
        // SAFETY: the entry is one of the stub's six, the stack is the user stub's own page, and `finish`
        // returns here with the callee-saved registers as they were.
        unsafe {
            guest_user_call(
                layout::USER_STUB + entry_index * ENTRY_STRIDE,
                u64::from(access.port),
                u64::from(access.write.unwrap_or(0)),
                layout::USER_STACK + layout::PAGE_SIZE - 16,
            )
        };
    if result.is_denied != 0 {
        return Err(PortDenied);
    }
    let value = low32(result.value);
    Ok(match (access.write, access.width) {
        (Some(_), _) => 0,
        (None, 1) => value & 0xFF,
        (None, 2) => value & 0xFFFF,
        (None, _) => value,
    })
}

/// Whether `frame` ends the ring-3 stub; if so it is changed to resume the shim.
pub(crate) fn finish(frame: &mut TrapFrame) -> bool {
    let is_stub = (layout::USER_STUB..layout::USER_STUB + layout::PAGE_SIZE).contains(&frame.rip);
    if !is_stub
        || !matches!(
            frame.vector,
            VECTOR_INVALID_OPCODE | VECTOR_GENERAL_PROTECTION
        )
    {
        return false;
    }
    frame.general[2] = u64::from(frame.vector == VECTOR_GENERAL_PROTECTION);
    frame.rip = guest_user_resume as *const () as u64;
    // SAFETY: set by `guest_user_call`, on whose behalf the stub ran; one vCPU.
    frame.rsp = unsafe { (&raw const guest_user_saved_rsp).read_volatile() };
    // SAFETY: constant after the entry code.
    frame.cs = unsafe { (&raw const guest_code64_selector).read_volatile() };
    // SAFETY: constant after the entry code.
    frame.ss = unsafe { (&raw const entry::guest_data_selector).read_volatile() };
    true
}

/// Executes one port access at the shim's own privilege level.
pub(crate) fn kernel_port(access: PortAccess) -> u32 {
    let port = access.port;
    match (access.write, access.width) {
        (None, 1) => {
            let value: u8;
            // SAFETY: a port access of the guest: it exits to the VMM, which decides. No memory is touched.
            unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
            u32::from(value)
        }
        (None, 2) => {
            let value: u16;
            // SAFETY: as above.
            unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) };
            u32::from(value)
        }
        (None, _) => {
            let value: u32;
            // SAFETY: as above.
            unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
            value
        }
        (Some(value), 1) => {
            // SAFETY: as above.
            unsafe {
                asm!("out dx, al", in("dx") port, in("al") low8(value.into()), options(nomem, nostack));
            };
            0
        }
        (Some(value), 2) => {
            // SAFETY: as above.
            unsafe {
                asm!("out dx, ax", in("dx") port, in("ax") low16(value.into()), options(nomem, nostack));
            };
            0
        }
        (Some(value), _) => {
            // SAFETY: as above.
            unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
            0
        }
    }
}

/// Executes `rep ins` or `rep outs` at the shim's own privilege level.
pub(crate) fn kernel_port_string(port: u16, width: u8, buffer: u64, count: u32, is_write: bool) {
    /// RDI, RSI and RCX move; the direction flag is clear, as the ABI has it.
    macro_rules! string {
        ($instruction:literal, $index:tt) => {
            // SAFETY: a port access of the guest, which exits to the VMM; the memory is the driver's buffer, and a fault
            // there is the driver's, as with any other access to what a driver passes.
            unsafe {
                asm!($instruction, in("dx") port, inout("rcx") u64::from(count) => _, inout($index) buffer => _, options(nostack, preserves_flags));
            }
        };
    }
    match (is_write, width) {
        (false, 1) => string!("rep insb", "rdi"),
        (false, 2) => string!("rep insw", "rdi"),
        (false, _) => string!("rep insd", "rdi"),
        (true, 1) => string!("rep outsb", "rsi"),
        (true, 2) => string!("rep outsw", "rsi"),
        (true, _) => string!("rep outsd", "rsi"),
    }
}
