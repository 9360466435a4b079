//! What the two sides of the guest boundary agree on, and nothing else.
//!
//! The VMM writes these types into guest memory and the guest's shim reads them, or the other way
//! round. Every struct is `repr(C)` without padding, so both images of the guest (i386 and amd64
//! drivers; the shim itself is always 64-bit code) and the host see the same bytes. A change to any of
//! them is a change of [`VERSION`]: host and guest are built together, and the VMM refuses a guest image
//! of another version.
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod channel;
pub mod client;
pub mod clients;
pub mod crash;
pub mod doorbell;
pub mod file;
pub mod header;
pub mod interrupt;
pub mod layout;
pub mod registry;
pub mod trace;
pub mod windows;

/// Version of everything in this crate. Raised with every change that the other side can see.
pub const VERSION: u32 = 5;

/// The driver ABI of a guest: which machine its drivers were built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum DriverAbi {
    /// PE32 drivers for IMAGE_FILE_MACHINE_I386; pointers are 4 bytes.
    I386 = 0,
    /// PE32+ drivers for IMAGE_FILE_MACHINE_AMD64; pointers are 8 bytes.
    Amd64 = 1,
}

impl DriverAbi {
    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::I386 => "i386",
            Self::Amd64 => "amd64",
        }
    }

    /// Size of a driver's pointer, in bytes.
    #[must_use]
    pub const fn pointer_bytes(self) -> usize {
        match self {
            Self::I386 => 4,
            Self::Amd64 => 8,
        }
    }
}

/// The privilege level at which shim and driver run inside the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Privilege {
    /// CPL 0, as on Windows. Needs a KVM that runs ring-0 code on the processor.
    Ring0 = 0,
    /// CPL 3 with a trap veneer at CPL 0, for KVMs that interpret ring-0 code (kvm_pvm).
    Ring3 = 3,
}

impl Privilege {
    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring0 => "ring0",
            Self::Ring3 => "ring3",
        }
    }
}
