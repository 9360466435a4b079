//! Where a driver's call of an export arrives.
#![expect(
    unsafe_code,
    reason = "entry code in assembly, and a table of its addresses"
)]

#[cfg(not(nt_i386))]
use core::arch::naked_asm;

/// What an import of an export is bound to: 8 bytes, the address of its amd64 entry code, the address of a data
/// export, or null (not in this ABI, or an i386 function, which the VMM's import stubs reach by number).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct EntryPoint(*const ());

// SAFETY: an address in the image, never written through.
unsafe impl Sync for EntryPoint {}
// SAFETY: as above.
unsafe impl Send for EntryPoint {}

const _: () = assert!(
    size_of::<EntryPoint>() == 8,
    "the VMM reads an array of u64"
);

impl EntryPoint {
    /// Nothing for this ABI.
    pub const NULL: Self = Self(core::ptr::null());

    /// Code or data in the image.
    #[must_use]
    pub const fn new(address: *const ()) -> Self {
        Self(address)
    }

    /// Its address; 0 for [`Self::NULL`].
    #[must_use]
    pub fn addr(self) -> u64 {
        self.0.expose_provenance() as u64
    }
}

/// The amd64 entry of export `INDEX`.
///
/// Microsoft's x64 convention gives every function 32 bytes above its return address for its register
/// arguments. The common code spills them there, which makes all arguments, variable ones too, an array of
/// 8-byte slots behind the return address: the same shape as on i386.
#[cfg(not(nt_i386))]
#[unsafe(naked)]
pub(crate) extern "win64" fn api_entry<const INDEX: u32>() {
    naked_asm!("mov eax, {index}", "jmp {common}", index = const INDEX, common = sym amd64_common)
}

/// The fast path of an export, as its declaration has it.
#[cfg(not(nt_i386))]
pub(crate) trait FastPath {
    /// Takes the first three arguments and where the return address lies; see [`crate::dispatch::run_fast`].
    extern "win64" fn run(first: u64, second: u64, third: u64, stack: u64) -> u64;
}

/// The amd64 entry of export `INDEX`, which has a fast path. What that one does not do starts over on the ordinary
/// path, with its `COUNT` arguments as they were.
#[cfg(not(nt_i386))]
#[unsafe(naked)]
pub(crate) extern "win64" fn fast_entry<const INDEX: u32, const COUNT: usize, Path: FastPath>() {
    naked_asm!(
        "cmp dword ptr [rip + {is_fast}], 0",
        "je 2f",
        // Only the arguments that there are: stores are what calls of this kind consist of.
        ".if {count} > 0",
        "mov [rsp + 8], rcx",
        ".endif",
        ".if {count} > 1",
        "mov [rsp + 16], rdx",
        ".endif",
        ".if {count} > 2",
        "mov [rsp + 24], r8",
        ".endif",
        ".if {count} > 3",
        "mov [rsp + 32], r9",
        ".endif",
        "mov r9, rsp",
        "sub rsp, 40",
        "call {run}",
        "add rsp, 40",
        "mov rcx, {not_fast}",
        "cmp rax, rcx",
        "je 3f",
        "ret",
        "3:",
        "mov rcx, [rsp + 8]",
        "mov rdx, [rsp + 16]",
        "mov r8, [rsp + 24]",
        "mov r9, [rsp + 32]",
        "2:",
        "mov eax, {index}",
        "jmp {common}",
        is_fast = sym crate::shared::IS_FAST,
        run = sym Path::run,
        not_fast = const crate::dispatch::NOT_FAST,
        count = const COUNT,
        index = const INDEX,
        common = sym amd64_common,
    )
}

/// The amd64 entry of export `INDEX`, which only reads a variable and returns it: unless there is a complete trace, its
/// calls leave no record and are no shim code to be interrupted or not.
#[cfg(not(nt_i386))]
#[unsafe(naked)]
pub(crate) extern "win64" fn leaf_entry<const INDEX: u32, Path: FastPath>() {
    naked_asm!(
        "cmp dword ptr [rip + {is_fast}], 0",
        "jne {run}",
        "mov eax, {index}",
        "jmp {common}",
        is_fast = sym crate::shared::IS_FAST,
        run = sym Path::run,
        index = const INDEX,
        common = sym amd64_common,
    )
}

#[cfg(not(nt_i386))]
#[unsafe(naked)]
pub(super) extern "win64" fn amd64_common() {
    naked_asm!(
        "mov [rsp + 8], rcx",
        "mov [rsp + 16], rdx",
        "mov [rsp + 24], r8",
        "mov [rsp + 32], r9",
        // What the callee preserves, for a crash report's stack trace; see `saved_registers`.
        "push rbp",
        "push rbx",
        "push rsi",
        "push rdi",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // The callee also preserves xmm6-15, which the common code, System V's, does not.
        "sub rsp, 168",
        "movaps [rsp], xmm6",
        "movaps [rsp + 16], xmm7",
        "movaps [rsp + 32], xmm8",
        "movaps [rsp + 48], xmm9",
        "movaps [rsp + 64], xmm10",
        "movaps [rsp + 80], xmm11",
        "movaps [rsp + 96], xmm12",
        "movaps [rsp + 112], xmm13",
        "movaps [rsp + 128], xmm14",
        "movaps [rsp + 144], xmm15",
        "mov edi, eax",
        "lea rsi, [rsp + {saved}]",
        "call {dispatch}",
        "movaps xmm6, [rsp]",
        "movaps xmm7, [rsp + 16]",
        "movaps xmm8, [rsp + 32]",
        "movaps xmm9, [rsp + 48]",
        "movaps xmm10, [rsp + 64]",
        "movaps xmm11, [rsp + 80]",
        "movaps xmm12, [rsp + 96]",
        "movaps xmm13, [rsp + 112]",
        "movaps xmm14, [rsp + 128]",
        "movaps xmm15, [rsp + 144]",
        "add rsp, 168 + 32",
        "pop rdi",
        "pop rsi",
        "add rsp, 8",
        "pop rbp",
        "ret",
        saved = const SAVED_BYTES,
        dispatch = sym crate::dispatch::dispatch_amd64,
    )
}

/// Bytes that the entry code saves below the return address: ten XMM registers, padding, eight general ones.
#[cfg(not(nt_i386))]
const SAVED_BYTES: u64 = 168 + 64;

/// XMM6 to XMM15 of the driver when it called the export whose return address lies at `stack`.
#[cfg(not(nt_i386))]
pub(crate) fn saved_xmm(stack: u64) -> [u128; 10] {
    super::volatile_read(stack - SAVED_BYTES)
}

/// The driver's registers when it called the export whose return address lies at `stack`: those that the entry
/// code saved below it, and RCX, RDX, R8, R9 from their home slots.
#[cfg(not(nt_i386))]
pub(crate) fn saved_registers(stack: u64) -> abi::crash::Registers {
    let mut registers = abi::crash::Registers {
        rip: super::volatile_read(stack),
        ..Default::default()
    };
    // Numbers in the processor's order: rbp rbx rsi rdi r12..r15 downwards, rcx rdx r8 r9 upwards.
    for (register, below) in [5, 3, 6, 7, 12, 13, 14, 15].into_iter().zip(1..) {
        registers.general[register] = super::volatile_read(stack - 8 * below);
    }
    for (register, above) in [1, 2, 8, 9].into_iter().zip(1..) {
        registers.general[register] = super::volatile_read(stack + 8 * above);
    }
    registers.general[4] = stack + 8;
    registers
}

/// The driver's registers when it called the export whose return address lies at `stack`, as far as guest-stub's import
/// thunk saved them below it: EBX, ESI, EDI.
#[cfg(nt_i386)]
pub(crate) fn saved_registers(stack: u64) -> abi::crash::Registers {
    let saved = (stack & !15) - 32;
    let mut registers = abi::crash::Registers::default();
    // Numbers in the processor's order: rsi rdi rbx upwards from the second word.
    for (register, word) in [6, 7, 3].into_iter().zip(1..) {
        registers.general[register] = super::volatile_read::<u64>(saved + 8 * word) & 0xFFFF_FFFF;
    }
    registers
}

/// The state of FPU and SSE registers, an FXSAVE image.
pub(crate) fn fpu_state() -> crate::nt::FxSave {
    let mut image = crate::nt::FxSave([0; 512]);
    // SAFETY: 512 bytes, 16-byte aligned by its type.
    unsafe { core::arch::x86_64::_fxsave64(image.0.as_mut_ptr()) };
    image
}
