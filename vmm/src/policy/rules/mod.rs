//! The rules of a policy, as data: what its owner wrote, checked and with every default filled in.

mod checks;
mod device;
mod index_pair;
mod interrupt;
mod memory;
mod msr;
mod pci;
mod port;

pub use checks::{BitMasks, ByteMask, Bytes, Limits, OnRate, Rate, ValueSet, Widths};
pub use device::{
    AdcSpec, DeviceOutput, DeviceSpec, EppPeer, ExternalSpec, LptSpec, RtcSpec, Shape, UartLink,
    UartSpec, Wave,
};
pub use index_pair::{IndexPair, IndexPairBackend, IndexRegister};
pub use interrupt::{InterruptRule, InterruptSource, Signal, UioDevice};
pub use memory::{CacheMode, MemoryBackend, MemoryRule, MemorySource};
pub use msr::{MsrBackendKind, MsrRule};
pub use pci::{
    BAR_BYTES_MAX, BARS, BarKind, PciAddress, PciBackendKind, PciBar, PciId, PciInterrupt,
    PciModel, PciRegister, PciRule, PciTarget,
};
pub use port::{PortBackend, PortRule};

/// Which directions a rule allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// `"r"`: reads only.
    Read,
    /// `"w"`: writes only.
    Write,
    /// `"rw"`: both.
    ReadWrite,
}

impl AccessMode {
    /// Whether reads are allowed.
    #[must_use]
    pub const fn allows_read(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether writes are allowed.
    #[must_use]
    pub const fn allows_write(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// Whether the direction is allowed.
    #[must_use]
    pub const fn allows(self, is_write: bool) -> bool {
        if is_write {
            self.allows_write()
        } else {
            self.allows_read()
        }
    }

    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Write => "w",
            Self::ReadWrite => "rw",
        }
    }
}

/// What a denied access does besides being counted and logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDeny {
    /// A write is dropped, a read returns the denied-read value.
    Ignore,
    /// A general-protection fault in the guest.
    Fault,
    /// The guest is stopped.
    Stop,
}

impl OnDeny {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Fault => "fault",
            Self::Stop => "stop",
        }
    }
}

/// Where a rule stands in its file, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// The `[default]` table: what happens to accesses that no rule names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// What a denied port access does.
    pub on_deny: OnDeny,
    /// What a denied mapping of physical memory does; never [`OnDeny::Fault`].
    pub memory_on_deny: OnDeny,
    /// What a denied access to PCI configuration space does.
    pub pci_on_deny: OnDeny,
    /// What a denied `rdmsr` or `wrmsr` does.
    pub msr_on_deny: OnDeny,
    /// What a denied read returns, of ports and of PCI configuration space.
    pub denied_read: u32,
    /// Denied accesses logged in any one second, at most, of each kind.
    pub max_log_rate: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            on_deny: OnDeny::Ignore,
            memory_on_deny: OnDeny::Ignore,
            pci_on_deny: OnDeny::Ignore,
            msr_on_deny: OnDeny::Fault,
            denied_read: super::DENIED_READ_DEFAULT,
            max_log_rate: super::LOG_RATE_DEFAULT,
        }
    }
}
