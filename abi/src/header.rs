//! The header at the start of a guest image, by which the VMM finds what it needs in it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `magic` of an [`ImageHeader`]: "RNGFENCE".
pub const MAGIC: u64 = u64::from_le_bytes(*b"RNGFENCE");

/// Lies at [`crate::layout::SHIM_BASE`]. All addresses are guest-virtual addresses inside the image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`] that the image was built with.
    pub version: u32,
    /// [`crate::DriverAbi`] as a number.
    pub abi: u32,
    /// Fingerprint of the export table (names and order): host and guest must agree on export numbers.
    pub table_fingerprint: u64,
    /// First instruction, at CPL 0.
    pub entry: u64,
    /// Gate code for vector `n` is at `vectors + n * VECTOR_STRIDE`.
    pub vectors: u64,
    /// Instructions from here to `trap_window_end` run on a gate's stack: no interrupt may be injected there.
    pub trap_window_start: u64,
    /// End (exclusive) of that window.
    pub trap_window_end: u64,
    /// Array of u64, one for each export of the table: the amd64 entry point, or the address of a data export.
    pub exports: u64,
    /// Number of exports.
    pub export_count: u64,
    /// Where an i386 import stub jumps (far, to 64-bit code) with the export's number in EAX.
    pub import_thunk: u64,
    /// Where a stub for an unbound import jumps with the unbound import's number in EAX (amd64; i386
    /// uses `import_thunk` with `export_count` + number).
    pub unbound_thunk: u64,
    /// Address of a u64 that the entry code reads: nonzero in ring3 mode. Stored by the VMM before the first run.
    pub is_ring3: u64,
    /// The page of ring-3 port stub code, also mapped at [`crate::layout::USER_STUB`].
    pub user_stub: u64,
}

/// Bytes between the gate code of two vectors.
pub const VECTOR_STRIDE: u64 = 16;
/// Number of vectors that have gate code: the 32 exceptions and the interrupt.
pub const VECTOR_COUNT: u64 = 33;
/// The vector of the interrupt by which the VMM has the guest look at what is due: a tick, a device's interrupt.
pub const INTERRUPT_VECTOR: u8 = 32;
