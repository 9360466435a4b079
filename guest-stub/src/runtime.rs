//! What a freestanding Rust program needs: a heap, a panic handler, and the symbols that precompiled `core` uses.
#![cfg_attr(
    guest,
    expect(
        unsafe_code,
        reason = "heap over a fixed range, memory routines in assembly"
    )
)]

#[cfg(guest)]
use kernel_shim::raw::to_usize;
#[cfg(guest)]
use talc::{TalcLock, source::Manual};

/// The shim's heap. Not the pool: what drivers can overrun lies elsewhere.
#[cfg(guest)]
#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the allocator its memory.
pub(crate) fn claim_heap(address: u64, bytes: u64) {
    #[cfg(guest)]
    {
        // SAFETY: the VMM maps `bytes` of zeroed memory there for the heap alone, and this runs once at boot.
        let heap = unsafe { HEAP.lock().claim(address as *mut u8, to_usize(bytes)) };
        assert!(
            heap.is_some(),
            "the heap is large enough for the allocator's own tables"
        );
    }
    #[cfg(not(guest))]
    let _ = (address, bytes);
}

#[cfg(guest)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel_shim::shim_panic(format_args!("{info}"))
}

// Precompiled `core` and `compiler_builtins` for the Linux target refer to these. String instructions are
// fast on every processor in reach and one instruction for an interpreting KVM.
#[cfg(guest)]
core::arch::global_asm!(
    ".section .text.runtime, \"ax\"",
    ".global memcpy",
    "memcpy:",
    "   mov rax, rdi",
    "   mov rcx, rdx",
    "   rep movsb",
    "   ret",
    ".global memmove",
    "memmove:",
    "   mov rax, rdi",
    "   mov rcx, rdx",
    "   mov r8, rdi",
    "   sub r8, rsi",
    "   cmp r8, rdx",
    "   jb 2f",
    "   rep movsb",
    "   ret",
    "2: std",
    "   lea rdi, [rdi + rdx - 1]",
    "   lea rsi, [rsi + rdx - 1]",
    "   rep movsb",
    "   cld",
    "   ret",
    ".global memset",
    "memset:",
    "   mov r8, rdi",
    "   mov eax, esi",
    "   mov rcx, rdx",
    "   rep stosb",
    "   mov rax, r8",
    "   ret",
    ".global memcmp",
    ".global bcmp",
    "memcmp:",
    "bcmp:",
    "   xor eax, eax",
    "   mov rcx, rdx",
    "   cmp rcx, rcx",
    "   repe cmpsb",
    "   je 3f",
    "   movzx eax, byte ptr [rdi - 1]",
    "   movzx ecx, byte ptr [rsi - 1]",
    "   sub eax, ecx",
    "3: ret",
    ".global strlen",
    "strlen:",
    "   mov rdx, rdi",
    "   xor eax, eax",
    "   mov rcx, -1",
    "   repne scasb",
    "   mov rax, rdi",
    "   sub rax, rdx",
    "   dec rax",
    "   ret",
    ".global rust_eh_personality",
    ".global _Unwind_Resume",
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "   ud2",
    ".text",
);
