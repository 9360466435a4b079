//! Calls between 32-bit driver code and the 64-bit shim, on the same stack.
//!
//! i386 drivers run in a compatibility-mode code segment. An import stub loads the export's number into EAX
//! and jumps far to `guest_import_thunk`; the way back, and every call of a driver's routine, is an `iretq`,
//! which a paravirtual KVM executes natively from CPL 3 where a far return would be interpreted.
#![expect(unsafe_code, reason = "mode changes in assembly")]

use core::arch::global_asm;

use abi::layout::selector;

unsafe extern "C" {
    /// Where i386 import stubs arrive: EAX = export number, ESP at the return address.
    pub(crate) fn guest_import_thunk();
    /// Where amd64 stubs of unbound imports arrive: EAX = number, RSP at the return address.
    pub(crate) fn guest_unbound_thunk();
    #[cfg_attr(
        not(nt_i386),
        expect(dead_code, reason = "only i386 guests call 32-bit code")
    )]
    fn guest_call32(function: u64, arguments: *const u64, count: u64, ebp: u64) -> u64;
    static mut guest_nest_rsp: u64;
}

global_asm!(
    ".section .text.thunk32, \"ax\"",
    ".global guest_import_thunk",
    "guest_import_thunk:",
    "   mov esp, esp",
    "   mov r8, rsp",
    "   and rsp, -16",
    "   sub rsp, 32",
    "   mov [rsp], r8",
    "   mov [rsp + 8], rsi",
    "   mov [rsp + 16], rdi",
    // Only for an exception that is raised in the caller: the call itself preserves it.
    "   mov [rsp + 24], rbx",
    "   xchg ecx, edx",
    "   mov edi, eax",
    "   mov rsi, r8",
    "   mov r8d, ebp",
    "   cld",
    "   call guest_dispatch32",
    "   mov r8, [rsp]",
    "   mov rsi, [rsp + 8]",
    "   mov rdi, [rsp + 16]",
    "   mov ecx, [r8]",
    "   lea r9, [r8 + rdx + 4]",
    "   mov rdx, rax",
    "   shr rdx, 32",
    "   mov eax, eax",
    "   push qword ptr [rip + guest_data_selector]",
    "   push r9",
    "   pushfq",
    "   push qword ptr [rip + guest_code32_selector]",
    "   push rcx",
    "   iretq",
    ".global guest_unbound_thunk",
    "guest_unbound_thunk:",
    "   mov edi, eax",
    "   mov rsi, [rsp]",
    "   and rsp, -16",
    "   call guest_unbound",
    "   ud2",
    // RDI = function, RSI = arguments (one u64 each), RDX = count, RCX = EBP. Result EDX:EAX in RAX.
    // Calls nest (a driver's routine calls the shim, which calls the driver), and a driver's exception handler leaves
    // any number of them by a jump to its own frame. So a return finds its call by the stack pointer it comes with:
    // `guest_nest_rsp`, where the innermost call that has not returned saved its registers, is right if it lies a
    // call's arguments above that. Otherwise it is of a call that was left, and the mark above the arguments is looked
    // for: no older mark can lie in between, for the arguments have overwritten it and the padding has no room for one.
    ".global guest_call32",
    "guest_call32:",
    "   push rbx",
    "   push rbp",
    "   push r12",
    "   push r13",
    "   push r14",
    "   push r15",
    "   push qword ptr [rip + guest_nest_rsp]",
    "   mov [rip + guest_nest_rsp], rsp",
    "   lea rax, [rsp - 16]",
    "   push rax",
    "   mov rax, {mark}",
    "   push rax",
    "   mov ebp, ecx",
    "   lea rax, [rdx * 4]",
    "   mov r8, rsp",
    "   sub r8, rax",
    "   and r8, -16",
    "   sub r8, 4",
    "   mov rax, [rip + guest_return32_pointer]",
    "   cmp qword ptr [rip + guest_is_ring3], 0",
    "   jne 2f",
    "   mov rax, [rip + guest_return32_ring0_pointer]",
    "2: mov [r8], eax",
    "   xor ecx, ecx",
    "3: cmp rcx, rdx",
    "   jae 4f",
    "   mov rax, [rsi + rcx * 8]",
    "   mov [r8 + rcx * 4 + 4], eax",
    "   inc rcx",
    "   jmp 3b",
    // The iretq frame lies below the 32-bit frame; interrupts come in on stacks of their own.
    "4: lea rsp, [r8 - 12]",
    "   and rsp, -16",
    "   push qword ptr [rip + guest_data_selector]",
    "   push r8",
    "   pushfq",
    "   push qword ptr [rip + guest_code32_selector]",
    "   mov edi, edi",
    "   push rdi",
    "   iretq",
    // 32-bit code: back to 64-bit code by a far jump (opcode EA, offset, selector).
    "guest_return32:",
    "   .byte 0xEA",
    "   .long guest_resume64",
    "   .short {user_code64}",
    "guest_return32_ring0:",
    "   .byte 0xEA",
    "   .long guest_resume64",
    "   .short {kernel_code64}",
    "guest_resume64:",
    "   mov esp, esp",
    "   mov rcx, [rip + guest_nest_rsp]",
    "   mov r8, rcx",
    "   sub r8, rsp",
    "   cmp r8, {reach}",
    "   jbe 7f",
    "   lea r10, [rsp + 15]",
    "   and r10, -16",
    "   lea r8, [r10 + {reach}]",
    "   mov r9, {mark}",
    "5: cmp [r10], r9",
    "   jne 6f",
    "   cmp [r10 + 8], r10",
    "   jne 6f",
    "   lea rcx, [r10 + 16]",
    "   jmp 7f",
    "6: add r10, 16",
    "   cmp r10, r8",
    "   jb 5b",
    // None: the routine has popped what is not its own. What is known is tried.
    "7: mov rsp, rcx",
    "   pop qword ptr [rip + guest_nest_rsp]",
    "   shl rdx, 32",
    "   mov eax, eax",
    "   or rax, rdx",
    "   cld",
    "   pop r15",
    "   pop r14",
    "   pop r13",
    "   pop r12",
    "   pop rbp",
    "   pop rbx",
    "   ret",
    ".section .data.rel.ro.thunk32, \"aw\"",
    ".balign 8",
    "guest_return32_pointer: .quad guest_return32",
    "guest_return32_ring0_pointer: .quad guest_return32_ring0",
    ".section .bss.thunk32, \"aw\", @nobits",
    ".balign 8",
    ".global guest_nest_rsp",
    "guest_nest_rsp: .skip 8",
    ".text",
    user_code64 = const selector::USER_CODE64,
    kernel_code64 = const selector::KERNEL_CODE64,
    mark = const 0x3233_4C4C_4143_5852_u64,
    // More than any call's arguments and mark.
    reach = const 256,
);

/// Calls a 32-bit stdcall or cdecl routine with that EBP.
#[cfg(nt_i386)]
pub(crate) fn call(function: u64, arguments: &[u64], ebp: u64) -> u64 {
    // SAFETY: `arguments` is valid for its length; a routine that is not code faults in the driver's context,
    // which ends in a bugcheck.
    unsafe { guest_call32(function, arguments.as_ptr(), arguments.len() as u64, ebp) }
}

/// Forgets the innermost call of 32-bit code if its stack lies below `esp`: control has left it for good.
pub(crate) fn unwind_to(esp: u64) {
    let nest = &raw mut guest_nest_rsp;
    // SAFETY: a u64 of the assembly above; one vCPU, and no call is being made or ended now.
    let innermost = unsafe { nest.read() };
    if innermost < esp {
        // SAFETY: as for reading it. Without it a return looks for its call.
        unsafe { nest.write(0) };
    }
}

/// Result of an export for the thunk: RAX, RDX.
#[repr(C)]
#[derive(Debug)]
struct ThunkResult {
    value: u64,
    pop: u64,
}

/// Called by `guest_import_thunk`.
#[unsafe(no_mangle)]
extern "C" fn guest_dispatch32(
    index: u32,
    stack: u64,
    ecx: u32,
    edx: u32,
    ebp: u32,
) -> ThunkResult {
    #[cfg(nt_i386)]
    {
        let result = kernel_shim::dispatch::dispatch_i386(
            index,
            kernel_shim::raw::Ptr::new(stack),
            ecx,
            edx,
            ebp,
        );
        ThunkResult {
            value: result.value,
            pop: u64::from(result.pop),
        }
    }
    #[cfg(not(nt_i386))]
    {
        let _ = (index, ecx, edx, ebp);
        kernel_shim::shim_panic(format_args!(
            "32-bit import thunk in an amd64 guest, stack {stack:#x}"
        ))
    }
}

/// Called by `guest_unbound_thunk`.
#[unsafe(no_mangle)]
extern "C" fn guest_unbound(number: u32, caller: u64) -> ! {
    kernel_shim::dispatch::unbound_import(number, caller)
}
