//! What the shim leaves behind when the guest stops for good.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CrashKind {
    /// A bugcheck: `code` and `parameters` are NT's.
    Bugcheck = 1,
    /// The driver called an import that is not bound: `code` = its number among the unbound imports.
    UnboundImport = 2,
    /// The shim itself failed (a bug of Ringfence); the text says how.
    ShimPanic = 3,
}

/// General registers at the time of the crash.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Registers {
    /// In the processor's encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8..r15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Faulting address for a page fault.
    pub cr2: u64,
    /// Code segment selector.
    pub cs: u64,
}

/// The crash record, one page at most.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CrashRecord {
    /// [`CrashKind`] as a number; 0: no crash.
    pub kind: u32,
    /// As the kind says.
    pub code: u32,
    /// Bugcheck parameters.
    pub parameters: [u64; 4],
    /// Registers of the code at fault (of the caller, for KeBugCheckEx).
    pub registers: Registers,
    /// Exception vector and error code, when a processor exception was the cause; vector 0xFFFF_FFFF otherwise.
    pub vector: u32,
    /// Hardware error code of the exception.
    pub error_code: u32,
    /// IRQL at the time.
    pub irql: u32,
    /// Bytes of `text` in use.
    pub text_bytes: u32,
    /// A sentence for people.
    pub text: [u8; 512],
}

/// [`CrashRecord::vector`] when no processor exception was involved.
pub const NO_VECTOR: u32 = 0xFFFF_FFFF;

const _: () = assert!(
    size_of::<CrashRecord>() <= 4096,
    "crash record fits its page"
);
