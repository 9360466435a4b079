//! Trace records: what the shim writes for every API call, IRP and log line.
//!
//! Records are raw: numbers and a little captured text. The VMM formats them with the export table that it
//! links natively. Port accesses are not here, since each is an exit: the VMM drains this ring first and then adds
//! its own record, which keeps the order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Records in the ring; a power of two.
pub const TRACE_ENTRIES: usize = 512;
/// Argument words in a record.
pub const TRACE_ARGUMENTS: usize = 12;
/// Bytes of captured text in a record.
pub const TRACE_TEXT: usize = 128;

/// What a [`TraceRecord`] tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum TraceKind {
    /// A driver called export `index` with `arguments` (one word each, as declared). Text: the string
    /// arguments as UTF-8, each closed by NUL, in the order of declaration.
    Call = 1,
    /// Export `index` returned `arguments[0]`.
    Return = 2,
    /// An IRP was sent to a driver: `index` = IRP_MJ code, arguments = IRP address, DEVICE_OBJECT
    /// address, control code or byte count, input bytes, output bytes. Text: the device's name.
    Irp = 3,
    /// An IRP was completed: arguments = IRP address, NTSTATUS, Information.
    IrpDone = 4,
    /// A piece of a DbgPrint line, in the text. `index` = component id.
    Log = 5,
    /// The shim called into a driver: `index` = [`Entry`] as a number, arguments = address, then the arguments.
    Enter = 6,
    /// The driver returned `arguments[0]` to the shim.
    Leave = 7,
    /// A leak found at unload: arguments = address, bytes, tag, caller. Text: what it is.
    Leak = 8,
    /// A finding that does not stop the guest. Text: what, arguments as the text says.
    Finding = 9,
    /// As [`TraceKind::Call`], of a call that has returned: `arguments[TRACE_ARGUMENTS - 1]` is its result. Only in
    /// overwriting mode. A time stamp of 0 means: that of the record before.
    Returned = 10,
}

impl TraceKind {
    /// Decodes a record's kind; `None` for an unknown number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Call,
            2 => Self::Return,
            3 => Self::Irp,
            4 => Self::IrpDone,
            5 => Self::Log,
            6 => Self::Enter,
            7 => Self::Leave,
            8 => Self::Leak,
            9 => Self::Finding,
            10 => Self::Returned,
            _ => return None,
        })
    }
}

/// Which routine of a driver was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Entry {
    /// DriverEntry.
    DriverEntry = 1,
    /// DriverUnload.
    DriverUnload = 2,
    /// A dispatch routine.
    Dispatch = 3,
    /// A deferred procedure call.
    Dpc = 4,
    /// A completion routine.
    Completion = 5,
    /// A cancel routine.
    Cancel = 6,
    /// Any other callback.
    Other = 7,
    /// An interrupt service routine.
    Interrupt = 8,
}

/// One record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceRecord {
    /// Time-stamp counter of the guest.
    pub tsc: u64,
    /// [`TraceKind`] as a number.
    pub kind: u16,
    /// IRQL at the time.
    pub irql: u8,
    /// How many of `arguments` are set.
    pub argument_count: u8,
    /// As the kind says.
    pub index: u32,
    /// Return address in the driver for a call; 0 otherwise.
    pub caller: u64,
    /// Bytes of `text` in use.
    pub text_bytes: u32,
    /// Client process on whose behalf it happened (0: none).
    pub process: u32,
    /// As the kind says.
    pub arguments: [u64; TRACE_ARGUMENTS],
    /// Captured text, UTF-8; cut at a character boundary when longer.
    pub text: [u8; TRACE_TEXT],
}

/// The ring of records. `produced` is written by the shim, `consumed` by the VMM.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceRing {
    /// Records ever written.
    pub produced: u64,
    /// Records ever taken. In overwriting mode the VMM may lag behind by more than the ring holds.
    pub consumed: u64,
    /// The entries.
    pub entries: [TraceRecord; TRACE_ENTRIES],
}

const _: () = assert!(
    size_of::<TraceRing>() <= 0x3_0000,
    "trace ring fits its pages"
);
