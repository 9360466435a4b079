//! What the VMM tells the shim before its first instruction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of [`Region`]s that [`BootInfo`] can hold.
pub const MAX_REGIONS: usize = 48;

/// A mapped range of guest-virtual addresses with guest-physically contiguous memory behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Region {
    /// First guest-virtual address, page-aligned.
    pub virtual_address: u64,
    /// Guest-physical address behind it, page-aligned.
    pub physical_address: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
    /// [`RegionKind`] as a number.
    pub kind: u32,
    /// [`RegionFlags`].
    pub flags: u32,
}

bitflags::bitflags! {
    /// Protection of a [`Region`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegionFlags: u32 {
        /// Stores are allowed.
        const WRITE = 1;
        /// Instructions can be fetched.
        const EXECUTE = 2;
        /// Belongs to a client process (an address below MmUserProbeAddress).
        const USER = 4;
    }
}

/// What a [`Region`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RegionKind {
    /// The shim's own image.
    Shim = 1,
    /// Import stubs.
    Exports = 2,
    /// A driver's image.
    Driver = 3,
    /// Kernel or trap stack.
    Stack = 4,
    /// Shared pages.
    Shared = 5,
    /// The shim's heap.
    Heap = 6,
    /// KPCR.
    Pcr = 7,
    /// KUSER_SHARED_DATA.
    UserSharedData = 8,
    /// The doorbell.
    Doorbell = 9,
    /// Descriptor tables, TSS, gate stacks.
    Processor = 10,
    /// Pool.
    Pool = 11,
    /// Client memory at its user address.
    User = 12,
    /// Client memory at its kernel alias.
    UserAlias = 13,
    /// The ring-3 port stub (code and stack).
    UserStub = 14,
}

/// Boot information, one page at most. Written by the VMM before the first instruction, then constant.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`crate::VERSION`] of the VMM.
    pub version: u32,
    /// [`crate::Privilege`] as a number.
    pub privilege: u32,
    /// First address of kernel space ([`crate::layout::kernel_base`]).
    pub kernel_base: u64,
    /// Bytes of RAM from [`crate::layout::RAM_BASE`].
    pub ram_bytes: u64,
    /// Frequency of the time-stamp counter, in kHz.
    pub tsc_khz: u64,
    /// The guest's time-stamp counter when `system_time` was taken.
    pub boot_tsc: u64,
    /// NT system time at boot: 100 ns units since 1601-01-01 UTC.
    pub system_time: u64,
    /// Bytes of pool from `kernel_base + layout::POOL`.
    pub pool_bytes: u64,
    /// Bytes of client memory from `layout::USER` (and at `kernel_base + layout::USER_ALIAS`).
    pub user_bytes: u64,
    /// Nonzero: the VMM drains the trace ring and loses nothing; the shim rings
    /// [`crate::doorbell::Call::DrainTrace`] when the ring is full. Zero: the oldest record is overwritten.
    pub trace_lossless: u32,
    /// Nonzero: drivers' use of the pool is verified (special pool, filled freed memory).
    pub verify: u32,
    /// Zero.
    pub reserved: u32,
    /// How many of `regions` are in use.
    pub region_count: u32,
    /// What is mapped where.
    pub regions: [Region; MAX_REGIONS],
}

const _: () = assert!(
    size_of::<BootInfo>() <= 4096,
    "boot information fits its page"
);
