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
// fast on every processor in reach once they run, but take tens of cycles to start: the shim's small structures are
// copied without them. Copies go upwards and fault where a byte-wise one would, to 16 bytes.
#[cfg(guest)]
core::arch::global_asm!(
    ".section .text.runtime, \"ax\"",
    ".global memcpy",
    "memcpy:",
    "   mov rax, rdi",
    "   cmp rdx, 16",
    "   jb 90f",
    "   cmp rdx, 256",
    "   ja 9f",
    "   jmp 3f",
    "2: movups xmm0, [rsi]",
    "   movups [rdi], xmm0",
    "   add rsi, 16",
    "   add rdi, 16",
    "   sub rdx, 16",
    "3: cmp rdx, 16",
    "   ja 2b",
    "   movups xmm0, [rsi + rdx - 16]",
    "   movups [rdi + rdx - 16], xmm0",
    "   ret",
    "9: mov rcx, rdx",
    "   rep movsb",
    "   ret",
    // Fewer than 16 bytes, which may overlap: all of them are read before any is written.
    "90:",
    "   cmp edx, 8",
    "   jae 4f",
    "   cmp edx, 4",
    "   jae 5f",
    "   test edx, edx",
    "   jz 7f",
    "   movzx ecx, byte ptr [rsi]",
    "   cmp edx, 2",
    "   jb 6f",
    "   movzx r8d, word ptr [rsi + rdx - 2]",
    "   mov [rdi], cl",
    "   mov [rdi + rdx - 2], r8w",
    "   ret",
    "6: mov [rdi], cl",
    "7: ret",
    "5: mov ecx, [rsi]",
    "   mov r8d, [rsi + rdx - 4]",
    "   mov [rdi], ecx",
    "   mov [rdi + rdx - 4], r8d",
    "   ret",
    "4: mov rcx, [rsi]",
    "   mov r8, [rsi + rdx - 8]",
    "   mov [rdi], rcx",
    "   mov [rdi + rdx - 8], r8",
    "   ret",
    ".global memmove",
    "memmove:",
    "   mov rax, rdi",
    "   cmp rdx, 16",
    "   jb 90b",
    "   cmp rdx, 32",
    "   ja 8f",
    "   movups xmm0, [rsi]",
    "   movups xmm1, [rsi + rdx - 16]",
    "   movups [rdi], xmm0",
    "   movups [rdi + rdx - 16], xmm1",
    "   ret",
    "8: mov rcx, rdx",
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
    "   mov rcx, rdx",
    "   cmp rdx, 128",
    "   ja 9f",
    "   movzx eax, sil",
    "   mov rsi, 0x0101010101010101",
    "   imul rax, rsi",
    "   cmp rdx, 8",
    "   jb 4f",
    "   jmp 3f",
    "2: mov [rdi], rax",
    "   add rdi, 8",
    "   sub rdx, 8",
    "3: cmp rdx, 8",
    "   ja 2b",
    "   mov [rdi + rdx - 8], rax",
    "   mov rax, r8",
    "   ret",
    "4: test edx, edx",
    "   jz 6f",
    "5: mov [rdi], al",
    "   inc rdi",
    "   dec edx",
    "   jnz 5b",
    "6: mov rax, r8",
    "   ret",
    "9: mov eax, esi",
    "   rep stosb",
    "   mov rax, r8",
    "   ret",
    ".global memcmp",
    ".global bcmp",
    "memcmp:",
    "bcmp:",
    "2: cmp rdx, 8",
    "   jb 4f",
    "   mov rax, [rdi]",
    "   mov rcx, [rsi]",
    "   cmp rax, rcx",
    "   jne 3f",
    "   add rdi, 8",
    "   add rsi, 8",
    "   sub rdx, 8",
    "   jmp 2b",
    "3: bswap rax",
    "   bswap rcx",
    "   cmp rax, rcx",
    "   sbb eax, eax",
    "   or eax, 1",
    "   ret",
    "4: test edx, edx",
    "   jz 6f",
    "5: movzx eax, byte ptr [rdi]",
    "   movzx ecx, byte ptr [rsi]",
    "   sub eax, ecx",
    "   jne 7f",
    "   inc rdi",
    "   inc rsi",
    "   dec edx",
    "   jnz 5b",
    "6: xor eax, eax",
    "7: ret",
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
