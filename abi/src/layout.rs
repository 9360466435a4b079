//! Where things are in a guest: guest-physical and guest-virtual addresses.
//!
//! Kernel-space virtual addresses are given as offsets from [`kernel_base`], because an amd64 guest in
//! ring0 mode has its kernel in NT's upper half, while in ring3 mode the upper half cannot be reached
//! (kvm_pvm delivers a page fault), and an i386 driver has 32-bit pointers.

use crate::{DriverAbi, Privilege};

/// Bytes in a page, in every address space.
pub const PAGE_SIZE: u64 = 4096;

/// Guest-physical address of the first byte of RAM.
///
/// Not 0: everything below 16 MiB stays free for the legacy ranges (video memory, option ROMs, the ISA
/// hole) that a policy may name, so that a physical address in a driver's request means the host's.
pub const RAM_BASE: u64 = 0x0100_0000;
/// Smallest guest, in bytes.
pub const RAM_MIN: u64 = 8 << 20;
/// Default size of guest RAM, in bytes.
pub const RAM_DEFAULT: u64 = 16 << 20;
/// Largest guest, in bytes: the pool window and the legacy devices below 4 GiB set it.
pub const RAM_MAX: u64 = 1 << 30;
/// Guest-physical address of the doorbell page. No memory is ever behind it, so a store exits.
/// Below 2^36, which every x86-64 processor can address.
pub const DOORBELL_GPA: u64 = 0xF_FFFF_F000;
/// Guest-physical addresses from here are the VMM's to hand out for mapped physical ranges.
pub const IO_WINDOW_GPA: u64 = 0x8_0000_0000;
/// Size of the guest-physical window for mapped physical ranges, in bytes.
pub const IO_WINDOW_GPA_SIZE: u64 = 0x4_0000_0000;

/// Address at which the shim's image is linked and mapped, in every mode.
pub const SHIM_BASE: u64 = 0x8010_0000;
/// Bytes of address space that the shim's image may take.
pub const SHIM_MAX: u64 = 0x00F0_0000;

/// First address of kernel space for a driver ABI and privilege mode.
#[must_use]
pub const fn kernel_base(abi: DriverAbi, privilege: Privilege) -> u64 {
    match (abi, privilege) {
        (DriverAbi::Amd64, Privilege::Ring0) => 0xFFFF_F800_0000_0000,
        _ => 0x8000_0000,
    }
}

/// Bytes of an import stub.
pub const STUB_BYTES: u64 = 16;
/// The image of ntoskrnl.exe: headers, `.text` with the import stubs, `.data` with the variables of the shim's image
/// (the same memory a second time), `.rdata` with the export directory, `.rsrc`.
pub const NTOSKRNL: u64 = 0x0100_0000;
/// The image of hal.dll, made in the same way.
pub const HAL: u64 = 0x0180_0000;
/// RVA of `.text` in both images.
pub const KERNEL_TEXT_RVA: u64 = PAGE_SIZE;
/// Import stubs: one for each export of the table, in its order, then unbound ones. Read, execute.
pub const EXPORTS: u64 = NTOSKRNL + KERNEL_TEXT_RVA;
/// hal.dll's import stubs, in the same order; only those of its own exports are exported.
pub const HAL_EXPORTS: u64 = HAL + KERNEL_TEXT_RVA;
/// Driver images, each with an unmapped page before and after it.
pub const DRIVERS: u64 = 0x0200_0000;
/// Bytes of address space for driver images.
pub const DRIVERS_SIZE: u64 = 0x0600_0000;
/// The boot thread's kernel stack (its lowest address; an unmapped page lies below).
pub const STACK: u64 = 0x0801_0000;
/// Bytes of the kernel stack. Larger than NT's (12/24 KiB) since the shim runs on it too.
pub const STACK_SIZE: u64 = 0x1_0000;
/// The stacks that trap handlers run on ([`TRAP_LEVELS`] of them and one to report that they are used up),
/// each above an unmapped page.
pub const TRAP_STACKS: u64 = 0x0811_0000;
/// Address distance between two trap stacks, in bytes; the lowest page of each is absent.
pub const TRAP_STACK_STRIDE: u64 = 0x1_0000;
/// How deep traps may nest before the guest is stopped.
pub const TRAP_LEVELS: u64 = 4;
/// Pages shared with the VMM; see [`Shared`].
pub const SHARED: u64 = 0x0900_0000;
/// The shim's own heap.
pub const HEAP: u64 = 0x0A00_0000;
/// Least bytes of the shim's own heap.
pub const HEAP_MIN: u64 = 0x0010_0000;
/// Most bytes of the shim's own heap: its address space ends where the KPCR begins.
pub const HEAP_MAX: u64 = 0x00F0_0000;

/// Bytes of the shim's own heap in a guest with `ram_bytes` of RAM: a sixteenth of it.
#[must_use]
pub const fn heap_size(ram_bytes: u64) -> u64 {
    let share = ram_bytes / 16 / PAGE_SIZE * PAGE_SIZE;
    if share < HEAP_MIN {
        HEAP_MIN
    } else if share > HEAP_MAX {
        HEAP_MAX
    } else {
        share
    }
}

/// The processor control region (KPCR), one page; fs:0 (i386) or gs:0 (amd64).
pub const PCR: u64 = 0x0B00_0000;
/// KUSER_SHARED_DATA where the shim writes it; drivers also see it at [`KUSER_I386`] / [`KUSER_AMD64`].
pub const KUSER: u64 = 0x0B10_0000;
/// The doorbell page.
pub const DOORBELL: u64 = 0x0C00_0000;
/// Descriptor tables: GDT page, IDT page. Written by the VMM alone; supervisor, read-only.
pub const DESCRIPTORS: u64 = 0x0D00_0000;
/// The task-state segment with its two I/O bitmaps; see [`tss`].
pub const TSS: u64 = 0x0D10_0000;
/// The stacks of the trap gates (IST 1 exceptions, 2 interrupts, 3 double faults), one page each.
pub const IST_STACKS: u64 = 0x0D20_0000;
/// The page-table entries that the guest may change: supervisor, read and write; see [`entries`]. guest-stub's CPL 0
/// service stores to them; nothing else in the guest can reach a page table.
pub const IO_TABLES: u64 = 0x0E00_0000;
/// Paged and non-paged pool.
pub const POOL: u64 = 0x1000_0000;
/// Bytes of a large page: what the clients' memory is mapped with.
pub const LARGE_PAGE: u64 = 2 << 20;
/// Where the memory of a client of the channel is for its own process, an absolute user address: every process sees its own
/// there.
pub const CLIENT_USER: u64 = 0x4000_0000;
/// Bytes of address space there: the largest memory of one client.
pub const CLIENT_USER_SIZE: u64 = 66 << 20;
/// Guest-physical address of the first client window's byte.
pub const CLIENT_WINDOW_GPA: u64 = 0x5000_0000;

/// Where in kernel space the memory of all clients of the channel is, as an offset, and how many bytes there are for it.
/// i386 has the address space that is left; amd64 has enough for each client's largest.
#[must_use]
pub const fn client_window(abi: DriverAbi) -> (u64, u64) {
    match abi {
        DriverAbi::I386 => (0x6800_0000, 0x0800_0000),
        DriverAbi::Amd64 => (
            0x10_0000_0000,
            crate::clients::SLOTS as u64 * CLIENT_USER_SIZE,
        ),
    }
}

/// Kernel-space alias of the client processes' memory ([`USER`]).
pub const USER_ALIAS: u64 = 0x6000_0000;
/// Where MmMapIoSpace and section views are mapped.
pub const IO_WINDOW: u64 = 0x7000_0000;
/// Bytes of address space for mapped physical ranges.
pub const IO_WINDOW_SIZE: u64 = 0x0400_0000;
/// The special pool: pages of the pool, each mapped a second time with an absent page behind it. Directly behind the
/// I/O window, so that the tables of both are one range; there only while drivers are verified.
pub const SPECIAL_POOL: u64 = IO_WINDOW + IO_WINDOW_SIZE;
/// Bytes of address space for the special pool.
pub const SPECIAL_POOL_SIZE: u64 = 0x0200_0000;

/// Threads' kernel stacks, each above an unmapped page; their entries are filled by [`crate::doorbell::Call::MapStack`].
pub const THREAD_STACKS: u64 = 0x7800_0000;
/// Bytes of address space for threads' kernel stacks.
pub const THREAD_STACKS_SIZE: u64 = 0x0400_0000;
/// Bytes of a thread's kernel stack on NT: i386, amd64.
pub const THREAD_STACK_NT_BYTES: [u64; 2] = [0x3000, 0x6000];
/// Bytes that a thread's kernel stack has beside them, for the shim's calls on it: i386, amd64, where an exception's
/// dispatch takes 20 KiB.
pub const THREAD_STACK_SHIM_BYTES: [u64; 2] = [0x4000, 0x9000];

/// KUSER_SHARED_DATA as i386 drivers know it.
pub const KUSER_I386: u64 = 0xFFDF_0000;
/// KUSER_SHARED_DATA as amd64 drivers know it. Unreachable in ring3 mode, where the shim serves the fault.
pub const KUSER_AMD64: u64 = 0xFFFF_F780_0000_0000;

/// The code of the ring-3 port stub, one page, an absolute user address.
pub const USER_STUB: u64 = 0x0040_0000;
/// The ring-3 port stub's stack page, an absolute user address.
pub const USER_STACK: u64 = 0x0041_0000;
/// Memory of the client processes (request buffers), an absolute user address.
pub const USER: u64 = 0x0100_0000;
/// The least address that drivers can have mapped in user space.
pub const LOWEST_USER_ADDRESS: u64 = 0x1_0000;
/// Multiples of this many bytes are where user-mode allocations begin (MM_ALLOCATION_GRANULARITY).
pub const ALLOCATION_GRANULARITY: u64 = 0x1_0000;

/// Highest user-mode address (MmHighestUserAddress), in every mode.
pub const HIGHEST_USER_ADDRESS: u64 = 0x7FFE_FFFF;
/// First address that probing rejects (MmUserProbeAddress).
pub const USER_PROBE_ADDRESS: u64 = 0x7FFF_0000;

/// Guest-virtual address of import stub `index` in a kernel space at `kernel_base`.
#[must_use]
pub const fn stub_address(kernel_base: u64, index: u64) -> u64 {
    kernel_base + EXPORTS + index * STUB_BYTES
}

/// Guest-virtual address of hal.dll's import stub `index` in a kernel space at `kernel_base`.
#[must_use]
pub const fn hal_stub_address(kernel_base: u64, index: u64) -> u64 {
    kernel_base + HAL_EXPORTS + index * STUB_BYTES
}

/// What lies where in the shared pages, as offsets from [`SHARED`].
#[derive(Debug)]
pub struct Shared;

impl Shared {
    /// [`crate::boot::BootInfo`].
    pub const BOOT_INFO: u64 = 0;
    /// [`crate::doorbell::CallPage`].
    pub const CALL_PAGE: u64 = 0x1000;
    /// [`crate::channel::State`].
    pub const STATE: u64 = 0x2000;
    /// [`crate::interrupt::InterruptLines`].
    pub const INTERRUPTS: u64 = 0x2800;
    /// [`crate::crash::CrashRecord`].
    pub const CRASH: u64 = 0x3000;
    /// [`crate::channel::RequestRing`].
    pub const REQUESTS: u64 = 0x4_0000;
    /// [`crate::channel::CompletionRing`].
    pub const COMPLETIONS: u64 = 0x6_2000;
    /// [`crate::trace::TraceRing`].
    pub const TRACE: u64 = 0x1_0000;
    /// [`crate::clients::Slot`]s.
    pub const CLIENTS: u64 = 0x7_4000;
    /// Bytes of the shared pages.
    pub const SIZE: u64 = 0x7_9000;
}

/// The page-table entries at [`IO_TABLES`], by their index there.
///
/// Tables of the I/O window, the special pool (only while drivers are verified) and the clients' alias are there from the
/// start. Those of user space are made for 2 MiB at a time, at [`crate::doorbell::Call::MapUserTable`], wherever a driver
/// wants an address; what lies in tables with the VMM's own entries (client memory, the port stub) is none of them.
pub mod entries {
    use super::{IO_WINDOW_SIZE, PAGE_SIZE, RAM_MAX, SPECIAL_POOL_SIZE};

    /// Entries of a page table.
    pub const PER_TABLE: u64 = 512;
    /// Bytes of address space of a page table.
    pub const TABLE_BYTES: u64 = PER_TABLE * PAGE_SIZE;
    /// The I/O window's first.
    pub const IO_WINDOW: u64 = 0;
    /// The special pool's first.
    pub const SPECIAL_POOL: u64 = IO_WINDOW + IO_WINDOW_SIZE / PAGE_SIZE;
    /// The first of the clients' alias.
    pub const USER_ALIAS: u64 = SPECIAL_POOL + SPECIAL_POOL_SIZE / PAGE_SIZE;
    /// The first of user space.
    pub const USER: u64 = USER_ALIAS + RAM_MAX / super::CLIENT_SHARE / PAGE_SIZE;
    /// Behind the last, in the largest guest.
    pub const END: u64 = USER + user_tables(RAM_MAX) * PER_TABLE;

    /// How many tables there are for user space in a guest with `ram_bytes` of RAM: for all of it once, and eight.
    #[must_use]
    pub const fn user_tables(ram_bytes: u64) -> u64 {
        ram_bytes / TABLE_BYTES + 8
    }
}

/// One part in so many of RAM is client memory, at most.
pub const CLIENT_SHARE: u64 = 8;

/// Bytes of client memory in a guest with `ram_bytes` of RAM: three quarters of the share.
#[must_use]
pub const fn client_bytes(ram_bytes: u64) -> u64 {
    ram_bytes / CLIENT_SHARE / 4 * 3 / ALLOCATION_GRANULARITY * ALLOCATION_GRANULARITY
}

/// Segment selectors. The CPL 3 ones are Linux's, which kvm_pvm requires.
pub mod selector {
    /// 64-bit code, CPL 0.
    pub const KERNEL_CODE64: u16 = 0x10;
    /// Data, CPL 0.
    pub const KERNEL_DATA: u16 = 0x18;
    /// 32-bit code, CPL 3.
    pub const USER_CODE32: u16 = 0x23;
    /// Data, CPL 3.
    pub const USER_DATA: u16 = 0x2B;
    /// 64-bit code, CPL 3.
    pub const USER_CODE64: u16 = 0x33;
    /// 32-bit code, CPL 0 (i386 drivers in ring0 mode).
    pub const KERNEL_CODE32: u16 = 0x38;
    /// Task state segment (16 bytes of descriptor).
    pub const TSS: u16 = 0x40;
    /// KPCR of an i386 guest: data with the PCR's base, CPL 0.
    pub const KERNEL_PCR: u16 = 0x50;
    /// KPCR of an i386 guest: data with the PCR's base, CPL 3.
    pub const USER_PCR: u16 = 0x5B;
    /// Bytes of the GDT.
    pub const GDT_SIZE: u16 = 0x60;
}

/// The task-state segment: 104 bytes, then two I/O bitmaps.
///
/// The processor reads the bitmap that `iomap_base` points at for every CPL 3 port access. One holds the
/// IOPM of the process that the ring-3 stub runs for; the other allows everything and is in force while
/// shim and driver run at CPL 3 (NT's kernel-mode code is not subject to the IOPM).
pub mod tss {
    /// Offset of the 16-bit I/O map base field.
    pub const IOMAP_BASE_FIELD: u64 = 0x66;
    /// Offset of IST entry `n` (1-based) is `IST + 8 * (n - 1)`.
    pub const IST: u64 = 0x24;
    /// Offset of RSP0.
    pub const RSP0: u64 = 4;
    /// Bytes of an I/O permission bitmap without its closing byte.
    pub const IOPM_BYTES: u64 = 8192;
    /// Offset of the process's bitmap: 8192 bytes and a closing 0xFF.
    pub const PROCESS_IOPM: u64 = 0x68;
    /// Offset of the all-allow bitmap: 8192 zero bytes and a closing 0xFF.
    pub const KERNEL_IOPM: u64 = PROCESS_IOPM + IOPM_BYTES + 8;
    /// Bytes of the whole segment.
    pub const SIZE: u64 = KERNEL_IOPM + IOPM_BYTES + 8;
    /// An I/O map base beyond the segment's limit: every CPL 3 port access is denied.
    pub const NO_IOPM: u16 = 0xFFFF;
}
