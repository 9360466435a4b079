//! What compilers call without a calling convention that a dispatcher could follow: 64-bit arithmetic and stack probes.
//!
//! These take their arguments in EDX:EAX and CL, return two results, or move the stack pointer. They are code that a
//! driver's import leads to directly: 32-bit code in i386 guests. Nothing of the shim runs, so they may be used at any
//! IRQL and on any stack, leave no trace record, and a division by zero is the driver's own exception.

#[cfg(nt_i386)]
pub(crate) use i386::*;

#[cfg(nt_i386)]
mod i386 {
    use core::arch::naked_asm;

    /// A naked function of 32-bit code.
    macro_rules! code32 {
        ($($(#[$doc:meta])* $name:ident: $($line:literal),+ $(; $operand:ident = sym $target:ident)*;;)*) => {
            $(
                $(#[$doc])*
                #[unsafe(naked)]
                pub(crate) extern "C" fn $name() {
                    naked_asm!(".code32", $($line,)+ ".code64" $(, $operand = sym $target)*)
                }
            )*
        };
    }

    code32! {
        /// EDX:EAX = the product of two 64-bit numbers on the stack.
        allmul:
            "push ebx",
            "mov eax, [esp + 8]",
            "mov ecx, [esp + 16]",
            "mov ebx, [esp + 12]",
            "imul ebx, ecx",
            "mov edx, [esp + 20]",
            "imul edx, eax",
            "add ebx, edx",
            "mul ecx",
            "add edx, ebx",
            "pop ebx",
            "ret 16";;

        /// EDX:EAX <<= CL; 64 and more give 0.
        allshl:
            "cmp cl, 64",
            "jae 3f",
            "cmp cl, 32",
            "jae 2f",
            "shld edx, eax, cl",
            "shl eax, cl",
            "ret",
            "2: mov edx, eax",
            "xor eax, eax",
            "shl edx, cl",
            "ret",
            "3: xor eax, eax",
            "xor edx, edx",
            "ret";;

        /// EDX:EAX >>= CL, with the sign; 64 and more give 0 or -1.
        allshr:
            "cmp cl, 64",
            "jae 3f",
            "cmp cl, 32",
            "jae 2f",
            "shrd eax, edx, cl",
            "sar edx, cl",
            "ret",
            "2: mov eax, edx",
            "sar edx, 31",
            "sar eax, cl",
            "ret",
            "3: sar edx, 31",
            "mov eax, edx",
            "ret";;

        /// EDX:EAX >>= CL, unsigned; 64 and more give 0.
        aullshr:
            "cmp cl, 64",
            "jae 3f",
            "cmp cl, 32",
            "jae 2f",
            "shrd eax, edx, cl",
            "shr edx, cl",
            "ret",
            "2: mov eax, edx",
            "xor edx, edx",
            "shr eax, cl",
            "ret",
            "3: xor eax, eax",
            "xor edx, edx",
            "ret";;

        /// Divides EDX:EAX by EDI:ESI, unsigned: quotient in EDX:EAX, remainder in EBX:ECX. Uses ESI, EDI, EBP too.
        ///
        /// A divisor of 32 bits takes two divisions. Otherwise the quotient has 32 bits: both numbers are shifted
        /// until the divisor has 32 bits, which gives a quotient that is right or 1 too large, as the product tells.
        divide:
            "test edi, edi",
            "jnz 2f",
            "mov ebx, eax",
            "mov eax, edx",
            "xor edx, edx",
            "div esi",
            "mov ecx, eax",
            "mov eax, ebx",
            "div esi",
            "mov ebx, ecx",
            "mov ecx, edx",
            "mov edx, ebx",
            "xor ebx, ebx",
            "ret",
            "2: push eax",
            "push edx",
            "bsr ecx, edi",
            "mov ebx, edi",
            "mov ebp, esi",
            "shrd ebp, ebx, 1",
            "shr ebx, 1",
            "shrd ebp, ebx, cl",
            "shrd eax, edx, 1",
            "shr edx, 1",
            "shrd eax, edx, cl",
            "shr edx, cl",
            "div ebp",
            "mov ebp, eax",
            "mul esi",
            "mov ecx, eax",
            "mov ebx, edx",
            "mov eax, ebp",
            "mul edi",
            "add eax, ebx",
            "adc edx, 0",
            "mov ebx, eax",
            "jnz 3f",
            "cmp ebx, [esp]",
            "ja 3f",
            "jb 4f",
            "cmp ecx, [esp + 4]",
            "jbe 4f",
            "3: dec ebp",
            "sub ecx, esi",
            "sbb ebx, edi",
            "4: mov eax, [esp + 4]",
            "sub eax, ecx",
            "mov ecx, eax",
            "mov eax, [esp]",
            "sbb eax, ebx",
            "mov ebx, eax",
            "add esp, 8",
            "mov eax, ebp",
            "xor edx, edx",
            "ret";;

        /// As `divide`, signed: the quotient is rounded towards 0, the remainder has the dividend's sign.
        divide_signed:
            "push edx",
            "mov ebx, edx",
            "xor ebx, edi",
            "push ebx",
            "test edx, edx",
            "jns 2f",
            "neg edx",
            "neg eax",
            "sbb edx, 0",
            "2: test edi, edi",
            "jns 3f",
            "neg edi",
            "neg esi",
            "sbb edi, 0",
            "3: call {divide}",
            "cmp dword ptr [esp], 0",
            "jge 4f",
            "neg edx",
            "neg eax",
            "sbb edx, 0",
            "4: cmp dword ptr [esp + 4], 0",
            "jge 5f",
            "neg ebx",
            "neg ecx",
            "sbb ebx, 0",
            "5: add esp, 8",
            "ret";
            divide = sym divide;;

        /// Does the division `{divide}` of the caller's caller's two arguments; keeps no register but ESP.
        unsigned_arguments:
            "mov eax, [esp + 24]",
            "mov edx, [esp + 28]",
            "mov esi, [esp + 32]",
            "mov edi, [esp + 36]",
            "jmp {divide}";
            divide = sym divide;;

        /// As `unsigned_arguments`, signed.
        signed_arguments:
            "mov eax, [esp + 24]",
            "mov edx, [esp + 28]",
            "mov esi, [esp + 32]",
            "mov edi, [esp + 36]",
            "jmp {divide}";
            divide = sym divide_signed;;

        /// EDX:EAX = quotient, unsigned.
        aulldiv:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "pop edi", "pop esi", "pop ebp", "pop ebx",
            "ret 16";
            divide = sym unsigned_arguments;;

        /// EDX:EAX = quotient, signed.
        alldiv:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "pop edi", "pop esi", "pop ebp", "pop ebx",
            "ret 16";
            divide = sym signed_arguments;;

        /// EDX:EAX = remainder, unsigned.
        aullrem:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "mov eax, ecx",
            "mov edx, ebx",
            "pop edi", "pop esi", "pop ebp", "pop ebx",
            "ret 16";
            divide = sym unsigned_arguments;;

        /// EDX:EAX = remainder, signed.
        allrem:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "mov eax, ecx",
            "mov edx, ebx",
            "pop edi", "pop esi", "pop ebp", "pop ebx",
            "ret 16";
            divide = sym signed_arguments;;

        /// EDX:EAX = quotient, EBX:ECX = remainder, unsigned.
        aulldvrm:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "pop edi", "pop esi", "pop ebp",
            "add esp, 4",
            "ret 16";
            divide = sym unsigned_arguments;;

        /// EDX:EAX = quotient, EBX:ECX = remainder, signed.
        alldvrm:
            "push ebx", "push ebp", "push esi", "push edi",
            "call {divide}",
            "pop edi", "pop esi", "pop ebp",
            "add esp, 4",
            "ret 16";
            divide = sym signed_arguments;;

        /// Lowers ESP by EAX bytes, after touching every page in between. Nothing below ESP is needed at any time.
        chkstk:
            "push ecx",
            "lea ecx, [esp + 4]",
            "2: cmp eax, 0x1000",
            "jb 3f",
            "sub ecx, 0x1000",
            "test [ecx], eax",
            "sub eax, 0x1000",
            "jmp 2b",
            "3: sub ecx, eax",
            "test [ecx], eax",
            "mov eax, ecx",
            "pop ecx",
            "xchg eax, esp",
            "mov eax, [eax]",
            "mov [esp], eax",
            "ret";;

        /// As `chkstk`; then ESP is a multiple of 8.
        alloca_probe_8:
            "push ecx",
            "lea ecx, [esp + 8]",
            "sub ecx, eax",
            "and ecx, 7",
            "add eax, ecx",
            "pop ecx",
            "jmp {probe}";
            probe = sym chkstk;;

        /// As `chkstk`; then ESP is a multiple of 16.
        alloca_probe_16:
            "push ecx",
            "lea ecx, [esp + 8]",
            "sub ecx, eax",
            "and ecx, 15",
            "add eax, ecx",
            "pop ecx",
            "jmp {probe}";
            probe = sym chkstk;;
    }
}

/// Touches every page of the RAX bytes below the caller's stack pointer, which stays; changes R10, R11 and flags only.
#[cfg(not(nt_i386))]
#[unsafe(naked)]
pub(crate) extern "win64" fn chkstk64() {
    core::arch::naked_asm!(
        "lea r10, [rsp + 8]",
        "mov r11, rax",
        "2: cmp r11, 0x1000",
        "jb 3f",
        "sub r10, 0x1000",
        "test [r10], r10b",
        "sub r11, 0x1000",
        "jmp 2b",
        "3: sub r10, r11",
        "test [r10], r10b",
        "ret",
    )
}
