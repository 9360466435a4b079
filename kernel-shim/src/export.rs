//! What an entry of the export table says about itself.
//!
//! Every export of ntoskrnl.exe and hal.dll that the shim has is declared once, next to its implementation.
//! From the declaration come its name, its entry points for both driver ABIs, the API trace's formatting, the
//! coverage table in docs/, and what `ringfence inspect` says. The VMM links this crate natively and
//! reads the same table, so that the two sides cannot disagree on an export's number.

/// The DLL that exports a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Module {
    /// ntoskrnl.exe
    Ntoskrnl,
    /// hal.dll
    Hal,
    /// Both: where it lives depends on Windows' version or machine.
    Either,
    /// WDFLDR.SYS
    Wdfldr,
    /// No DLL: an entry of KMDF's function table, or a routine of KMDF's own that the kernel calls.
    Wdf,
}

impl Module {
    /// Whether a driver may import the name from `dll` (ASCII case does not matter).
    #[must_use]
    pub fn accepts(self, dll: &str) -> bool {
        let is_ntoskrnl = dll.eq_ignore_ascii_case("ntoskrnl.exe");
        let is_hal = dll.eq_ignore_ascii_case("hal.dll");
        match self {
            Self::Ntoskrnl => is_ntoskrnl,
            Self::Hal => is_hal,
            Self::Either => is_ntoskrnl || is_hal,
            Self::Wdfldr => dll.eq_ignore_ascii_case("wdfldr.sys"),
            Self::Wdf => false,
        }
    }
}

/// Which driver ABIs have an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machines {
    /// Both.
    Both,
    /// i386 only.
    I386,
    /// amd64 only.
    Amd64,
}

impl Machines {
    /// Whether a driver of `abi` can import it.
    #[must_use]
    pub const fn has(self, abi: abi::DriverAbi) -> bool {
        match self {
            Self::Both => true,
            Self::I386 => matches!(abi, abi::DriverAbi::I386),
            Self::Amd64 => matches!(abi, abi::DriverAbi::Amd64),
        }
    }
}

/// Calling convention on i386. On amd64 there is only Microsoft's x64 convention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Convention {
    /// Arguments on the stack, popped by the callee.
    Stdcall,
    /// The first two arguments of at most 4 bytes in ECX and EDX, the rest as in stdcall.
    Fastcall,
    /// Arguments on the stack, popped by the caller; the only one with variable arguments.
    Cdecl,
}

/// The type of a parameter or result, as far as its width and its printed form go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// No value.
    Void,
    /// BOOLEAN, 1 byte: TRUE or FALSE.
    Boolean,
    /// UCHAR and CHAR, 1 byte.
    UChar,
    /// USHORT, 2 bytes.
    UShort,
    /// ULONG, 4 bytes, printed as a number.
    ULong,
    /// LONG, 4 bytes, printed signed.
    Long,
    /// ULONGLONG, 8 bytes (two stack slots on i386).
    ULongLong,
    /// LARGE_INTEGER by value, 8 bytes, printed signed.
    LargeInteger,
    /// PHYSICAL_ADDRESS by value, 8 bytes.
    PhysicalAddress,
    /// SIZE_T / ULONG_PTR: a pointer-sized number.
    Size,
    /// A pointer, printed as an address.
    Pointer,
    /// HANDLE, pointer-sized.
    Handle,
    /// NTSTATUS, 4 bytes, printed by name.
    NtStatus,
    /// KIRQL, 1 byte, printed by name.
    Irql,
    /// KPROCESSOR_MODE, 1 byte.
    ProcessorMode,
    /// A pool tag, 4 bytes, printed as four characters.
    Tag,
    /// Pointer to UNICODE_STRING; the trace captures its text.
    UnicodeString,
    /// Pointer to ANSI_STRING; the trace captures its text.
    AnsiString,
    /// Pointer to a NUL-terminated byte string; the trace captures its text.
    NarrowString,
    /// Pointer to a NUL-terminated UTF-16 string; the trace captures its text.
    WideString,
    /// Pointer to OBJECT_ATTRIBUTES; the trace captures the object name.
    ObjectAttributes,
}

impl ValueKind {
    /// Bytes of a value for a driver ABI.
    #[must_use]
    pub const fn bytes(self, abi: abi::DriverAbi) -> usize {
        match self {
            Self::Void => 0,
            Self::Boolean | Self::UChar | Self::Irql | Self::ProcessorMode => 1,
            Self::UShort => 2,
            Self::ULong | Self::Long | Self::NtStatus | Self::Tag => 4,
            Self::ULongLong | Self::LargeInteger | Self::PhysicalAddress => 8,
            Self::Size
            | Self::Pointer
            | Self::Handle
            | Self::UnicodeString
            | Self::AnsiString
            | Self::NarrowString
            | Self::WideString
            | Self::ObjectAttributes => abi.pointer_bytes(),
        }
    }

    /// Whether the trace captures text for an argument of this kind.
    #[must_use]
    pub const fn captures_text(self) -> bool {
        matches!(
            self,
            Self::UnicodeString
                | Self::AnsiString
                | Self::NarrowString
                | Self::WideString
                | Self::ObjectAttributes
        )
    }
}

/// A declared parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name, in snake_case.
    pub name: &'static str,
    /// Its type.
    pub kind: ValueKind,
}

/// How much of an export's documented behaviour there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coverage {
    /// All of it that a driver in this guest can observe.
    Implemented,
    /// Some; the text says what is missing.
    Partial(&'static str),
    /// Declared, but a call stops the guest with a report.
    Missing,
}

/// Function or data.
#[derive(Clone, Copy, Debug)]
pub enum ExportKind {
    /// A function.
    Function {
        /// Convention on i386.
        convention: Convention,
        /// Parameters in order; variable arguments are not among them.
        parameters: &'static [Parameter],
        /// Result.
        result: ValueKind,
        /// Highest IRQL at which it may be called (WDK page, "IRQL").
        irql_max: u8,
        /// Whether variable arguments follow the parameters.
        is_variadic: bool,
        /// Whether it never returns.
        is_noreturn: bool,
    },
    /// A variable that drivers read (or, rarely, write) through its address.
    Data {
        /// Bytes for an i386 driver.
        bytes_i386: usize,
        /// Bytes for an amd64 driver.
        bytes_amd64: usize,
    },
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Exact NT spelling.
    pub name: &'static str,
    /// DLL.
    pub module: Module,
    /// ABIs.
    pub machines: Machines,
    /// Function or data.
    pub kind: ExportKind,
    /// Coverage.
    pub coverage: Coverage,
    /// First sentence(s) of its documentation; empty in the guest image.
    pub documentation: &'static str,
}
