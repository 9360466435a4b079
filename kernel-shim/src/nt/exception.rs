//! Exceptions: records, contexts, and what compilers put into images for unwinding.

use crate::raw::{Ptr, Word};

/// The exception cannot be continued ([`EXCEPTION_RECORD::ExceptionFlags`]).
pub const EXCEPTION_NONCONTINUABLE: u32 = 0x01;
/// Handlers are called to clean up.
pub const EXCEPTION_UNWINDING: u32 = 0x02;
/// All frames are left.
pub const EXCEPTION_EXIT_UNWIND: u32 = 0x04;
/// The i386 chain of registrations is damaged.
pub const EXCEPTION_STACK_INVALID: u32 = 0x08;
/// A handler raised an exception of its own.
pub const EXCEPTION_NESTED_CALL: u32 = 0x10;
/// The frame is the one that unwinding ends in.
pub const EXCEPTION_TARGET_UNWIND: u32 = 0x20;
/// The frame was being unwound already.
pub const EXCEPTION_COLLIDED_UNWIND: u32 = 0x40;

/// Most [`EXCEPTION_RECORD::ExceptionInformation`] words.
pub const EXCEPTION_MAXIMUM_PARAMETERS: usize = 15;

/// What a handler says.
pub mod disposition {
    /// Go on where the exception was, with the context as it is now.
    pub const CONTINUE_EXECUTION: u32 = 0;
    /// Ask the next handler.
    pub const CONTINUE_SEARCH: u32 = 1;
    /// (i386) The exception came while a handler ran.
    pub const NESTED_EXCEPTION: u32 = 2;
    /// An unwind met another one.
    pub const COLLIDED_UNWIND: u32 = 3;
}

/// EXCEPTION_RECORD.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct EXCEPTION_RECORD {
    /// NTSTATUS.
    pub ExceptionCode: u32,
    /// EXCEPTION_NONCONTINUABLE ...
    pub ExceptionFlags: u32,
    /// The exception during whose handling this one came.
    pub ExceptionRecord: Ptr<EXCEPTION_RECORD>,
    /// Where.
    pub ExceptionAddress: Word,
    /// How many words of information follow.
    pub NumberParameters: u32,
    /// An access violation's: 0 read, 1 write, 8 execute; the address.
    pub ExceptionInformation: [Word; EXCEPTION_MAXIMUM_PARAMETERS],
}

/// EXCEPTION_POINTERS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EXCEPTION_POINTERS {
    /// What.
    pub ExceptionRecord: Ptr<EXCEPTION_RECORD>,
    /// With which registers.
    pub ContextRecord: Ptr<CONTEXT>,
}

/// An FXSAVE image.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct FxSave(pub [u8; 512]);

/// CONTEXT_i386 with control, integer, segment and extended registers.
#[cfg(nt_i386)]
pub const CONTEXT_FULL: u32 = 0x0001_0027;
/// CONTEXT_AMD64 with control, integer, segment and floating-point registers.
#[cfg(not(nt_i386))]
pub const CONTEXT_FULL: u32 = 0x0010_000F;

/// CONTEXT.
#[cfg(not(nt_i386))]
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct CONTEXT {
    /// Room for register arguments.
    pub Home: [u64; 6],
    /// What is valid.
    pub ContextFlags: u32,
    /// SSE control and status.
    pub MxCsr: u32,
    /// Cs, Ds, Es, Fs, Gs, Ss.
    pub Segments: [u16; 6],
    /// RFLAGS, low half.
    pub EFlags: u32,
    /// Debug registers 0-3, 6, 7.
    pub Debug: [u64; 6],
    /// Rax Rcx Rdx Rbx Rsp Rbp Rsi Rdi R8 .. R15.
    pub General: [u64; 16],
    /// Instruction pointer.
    pub Rip: u64,
    /// FXSAVE image; XMM register n at 160 + 16 n.
    pub FltSave: FxSave,
    /// Not used.
    pub Vector: [u128; 26],
    /// VectorControl, DebugControl, LastBranchToRip and so on.
    pub Rest: [u64; 6],
}

/// CONTEXT.
#[cfg(nt_i386)]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CONTEXT {
    /// What is valid.
    pub ContextFlags: u32,
    /// Debug registers 0-3, 6, 7.
    pub Debug: [u32; 6],
    /// x87 state in the FSAVE form.
    pub FloatSave: [u32; 28],
    /// Gs, Fs, Es, Ds.
    pub Segments: [u32; 4],
    /// Integer register.
    pub Edi: u32,
    /// Integer register.
    pub Esi: u32,
    /// Integer register.
    pub Ebx: u32,
    /// Integer register.
    pub Edx: u32,
    /// Integer register.
    pub Ecx: u32,
    /// Integer register.
    pub Eax: u32,
    /// Frame pointer.
    pub Ebp: u32,
    /// Instruction pointer.
    pub Eip: u32,
    /// Code segment.
    pub SegCs: u32,
    /// Flags.
    pub EFlags: u32,
    /// Stack pointer.
    pub Esp: u32,
    /// Stack segment.
    pub SegSs: u32,
    /// FXSAVE image.
    pub ExtendedRegisters: [u8; 512],
}

/// RUNTIME_FUNCTION: an entry of an amd64 image's exception directory; addresses are relative to the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RUNTIME_FUNCTION {
    /// First byte of the function.
    pub BeginAddress: u32,
    /// Behind its last byte.
    pub EndAddress: u32,
    /// Its UNWIND_INFO.
    pub UnwindData: u32,
}

/// DISPATCHER_CONTEXT of amd64: what a language handler is told.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DISPATCHER_CONTEXT {
    /// Where control left the function.
    pub ControlPc: u64,
    /// Its image.
    pub ImageBase: u64,
    /// Its RUNTIME_FUNCTION.
    pub FunctionEntry: u64,
    /// Its frame.
    pub EstablisherFrame: u64,
    /// Where an unwind ends.
    pub TargetIp: u64,
    /// CONTEXT of the frame.
    pub ContextRecord: u64,
    /// The function's language handler.
    pub LanguageHandler: u64,
    /// The handler's data in the image.
    pub HandlerData: u64,
    /// UNWIND_HISTORY_TABLE.
    pub HistoryTable: u64,
    /// Where a C scope table's walk goes on.
    pub ScopeIndex: u32,
    /// Padding.
    pub Fill0: u32,
}

/// EXCEPTION_REGISTRATION_RECORD of i386, a frame of the chain at fs:0; with what MSVC's `__try` has behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registration {
    /// Next outer one; all ones: the end.
    pub Next: u32,
    /// Called as (record, this, context, dispatcher context), cdecl.
    pub Handler: u32,
    /// Scope table.
    pub ScopeTable: u32,
    /// Index of the innermost active scope.
    pub TryLevel: i32,
}

#[cfg(not(nt_i386))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<EXCEPTION_RECORD>() == 0x98);
    assert!(size_of::<CONTEXT>() == 0x4D0);
    assert!(offset_of!(CONTEXT, General) == 0x78 && offset_of!(CONTEXT, Rip) == 0xF8);
    assert!(offset_of!(CONTEXT, FltSave) == 0x100 && offset_of!(CONTEXT, Vector) == 0x300);
    assert!(size_of::<DISPATCHER_CONTEXT>() == 0x50);
};
#[cfg(nt_i386)]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<EXCEPTION_RECORD>() == 0x50);
    assert!(size_of::<CONTEXT>() == 0x2CC);
    assert!(offset_of!(CONTEXT, Edi) == 0x9C && offset_of!(CONTEXT, Eip) == 0xB8);
    assert!(offset_of!(CONTEXT, ExtendedRegisters) == 0xCC);
};
