//! Doorbell calls: how the guest asks the VMM for something it cannot do itself.
//!
//! The guest fills the [`CallPage`], then stores the call's number as a u32 to the doorbell page. The store
//! exits to the VMM, which answers in the call page before the guest's next instruction. A number that is
//! not in [`Call`] stops the guest: it is a bug of the shim or a driver writing where it should not.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The calls. Arguments and results are words of the [`CallPage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Call {
    /// Nothing to do until a request arrives or `arguments[0]` (interrupt time, 100 ns units since boot;
    /// `u64::MAX`: no timer is set) has come. Returns when either is the case.
    Idle = 1,
    /// The trace ring is full: take what is in it.
    DrainTrace = 2,
    /// Map physical memory: `arguments` = physical address, bytes, guest-virtual address (page-aligned,
    /// inside the I/O window, or in user space that [`Self::MapUserTable`] made tables for), nonzero to write, memory caching type. `results[0]` = NTSTATUS,
    /// `results[1]` = guest-physical address behind the first page.
    MapPhysical = 3,
    /// The [`crate::crash::CrashRecord`] is filled; the guest does not run again.
    Crash = 4,
    /// The guest is done and does not run again.
    Shutdown = 5,
    /// An IOPM changed: `arguments[0]` = map number, `arguments[1]` = guest-virtual address of its 8192 bytes.
    SetIoAccessMap = 6,
    /// A process was pointed at a map: `arguments` = process id, map number (0: none).
    SetProcessIoAccessMap = 7,
    /// The earliest timer is now at `arguments[0]` (interrupt time, 100 ns units since boot).
    ArmTimer = 8,
    /// A mapped physical range was unmapped by the guest: `arguments` = guest-virtual address, bytes.
    UnmapPhysical = 9,
    /// Map a thread's kernel stack: `arguments` = guest-virtual address inside the stack window, guest-physical address
    /// inside the pool, bytes; all multiples of the page size. `results[0]` = NTSTATUS.
    MapStack = 10,
    /// Make the page table of 2 MiB of user space: `arguments[0]` = their first address. `results[0]` = NTSTATUS,
    /// `results[1]` = index of its first entry in [`crate::layout::entries`].
    MapUserTable = 16,
    /// Files of the host; see [`crate::file`].
    File = 32,
    /// Writes the registry to where the machine's owner keeps it. Arguments: address and bytes of its contents, encoded as
    /// for `Operation::SaveRegistry`, at most [`REGISTRY_MAX`] of them. Result: an NTSTATUS; success if it is kept
    /// nowhere.
    SaveRegistry = 33,
    /// A driver's `rdmsr` or `wrmsr` where the processor does not exit for it: `arguments` = the MSR's number, nonzero to
    /// write, the value, the instruction's address. `results` = 0 and the value read, or 1: the instruction faults.
    Msr = 40,
    /// Clients of the channel are to be looked after: notifications that are due, requests that the shim does not serve
    /// itself. The guest has more to do and is to run again at once.
    Clients = 48,
}

/// The most bytes of registry contents that are taken from a guest.
pub const REGISTRY_MAX: u64 = 1 << 20;

impl Call {
    /// Decodes what the guest stored; `None` for a number that is no call.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Idle,
            2 => Self::DrainTrace,
            3 => Self::MapPhysical,
            4 => Self::Crash,
            5 => Self::Shutdown,
            6 => Self::SetIoAccessMap,
            7 => Self::SetProcessIoAccessMap,
            8 => Self::ArmTimer,
            9 => Self::UnmapPhysical,
            10 => Self::MapStack,
            16 => Self::MapUserTable,
            32 => Self::File,
            33 => Self::SaveRegistry,
            40 => Self::Msr,
            48 => Self::Clients,
            _ => return None,
        })
    }
}

/// Arguments and results of a doorbell call.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallPage {
    /// From the guest.
    pub arguments: [u64; 6],
    /// From the VMM.
    pub results: [u64; 4],
}
