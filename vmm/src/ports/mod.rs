//! Port accesses: decision, mirror of the IOPMs, back ends.
//!
//! Every `in` and `out` of a driver or of a guest process ends here, as a [`PortRequest`] to the guest's one
//! [`PortSpace`], which decides by the policy and calls the back end. A process's access is first subject to its
//! IOPM: in the guest by the processor, outside by [`iopm::Mirror`].

mod host;
mod index_pair;
mod instructions;
pub mod iopm;
mod open;
mod slot;
mod space;
mod stats;
mod table;

pub use host::HostPortsError;
pub(crate) use index_pair::decide_data;
pub use open::{Backends, StartError};
pub(crate) use open::{ModelPlace, open_external, open_model};
pub use space::PortSpace;
pub use stats::{DeniedPorts, PairStats, PortRuleStats, PortStats};
pub use table::DecisionTable;

use crate::machine::{PortAnswer, PortExit};
use crate::policy::OnDeny;

/// How many ports an access covers, which is also its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    /// `inb`, `outb`.
    Byte,
    /// `inw`, `outw`.
    Word,
    /// `inl`, `outl`.
    Dword,
}

impl Width {
    /// All widths there are.
    pub const ALL: [Self; 3] = [Self::Byte, Self::Word, Self::Dword];

    /// From a number of bytes; `None` unless it is 1, 2 or 4.
    #[must_use]
    pub const fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }

    /// Bytes: 1, 2 or 4.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// The bits of a value that the width carries.
    #[must_use]
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Dword => 0xFFFF_FFFF,
        }
    }
}

/// Whether ioperm(2) would give this process a port: asks for the diagnostic port 0x80, on a thread of its own so
/// that nothing is left of it.
///
/// # Errors
/// The system call's.
pub fn probe_ioperm() -> std::io::Result<()> {
    std::thread::spawn(|| instructions::PortGrant::new(&[(0x80, 0x80)]).map(drop))
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the probe's thread ended")))
}

/// One port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRequest {
    /// First port.
    pub port: u16,
    /// Ports covered.
    pub width: Width,
    /// The value to write; `None` reads.
    pub write: Option<u32>,
}

impl PortRequest {
    /// From a guest's exit; `None` for a width that no port instruction has.
    #[must_use]
    pub const fn from_exit(exit: PortExit) -> Option<Self> {
        match Width::from_bytes(exit.width) {
            Some(width) => Some(Self {
                port: exit.port,
                width,
                write: exit.write,
            }),
            None => None,
        }
    }
}

/// What an access came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortOutcome {
    /// What a read returns, in its low bytes, the others 0; for a write 0.
    pub value: u32,
    /// Who decided, and what.
    pub decision: Decision,
}

impl From<PortOutcome> for PortAnswer {
    fn from(outcome: PortOutcome) -> Self {
        match outcome.decision.action {
            Action::Allowed | Action::Ignored => Self::Value(outcome.value),
            Action::Fault => Self::Fault,
            Action::Stop => Self::Stop,
        }
    }
}

/// A policy's word on an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Who decided: for an allowed access the first byte's rule, for a denied one the first that denies.
    pub origin: Origin,
    /// What happens.
    pub action: Action,
    /// Why it is denied; `None` when it is allowed.
    pub reason: Option<DenialReason>,
}

impl Decision {
    pub(crate) const fn allowed(origin: Origin) -> Self {
        Self {
            origin,
            action: Action::Allowed,
            reason: None,
        }
    }

    pub(crate) const fn denied(origin: Origin, on_deny: OnDeny, reason: DenialReason) -> Self {
        let action = match on_deny {
            OnDeny::Ignore => Action::Ignored,
            OnDeny::Fault => Action::Fault,
            OnDeny::Stop => Action::Stop,
        };
        Self {
            origin,
            action,
            reason: Some(reason),
        }
    }

    /// Whether a back end saw the access.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self.action, Action::Allowed)
    }
}

/// Why an access is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenialReason {
    /// No rule names it.
    Unnamed,
    /// Its rule does not allow the direction, or denies everything.
    Direction,
    /// Its rule has `widths` without this one.
    Width,
    /// Its rule has `values` without this one.
    Value,
    /// The rule's `rate` is exceeded.
    Rate,
    /// The rule's `quota` is used up.
    Quota,
    /// The index or the register is not one that the rule names.
    Register,
    /// It runs past port 0xFFFF.
    PastLastPort,
    /// It runs past the end of configuration space.
    PastEnd,
}

impl DenialReason {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unnamed => "no rule names it",
            Self::Direction => "the direction is not allowed",
            Self::Width => "the width is not in `widths`",
            Self::Value => "the value is not in `values`",
            Self::Rate => "above `rate`",
            Self::Quota => "`quota` is used up",
            Self::Register => "the register is not named",
            Self::PastLastPort => "it runs past port 0xffff",
            Self::PastEnd => "it runs past the end of configuration space",
        }
    }
}

/// Where a decision comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A rule of the policy.
    Rule {
        /// Its place among [`crate::policy::Policy::port_rules`], from 0.
        index: usize,
        /// Its line in the policy, from 1.
        line: usize,
    },
    /// An index/data pair.
    IndexPair {
        /// Its place among [`crate::policy::Policy::index_pairs`], from 0.
        index: usize,
        /// Its line in the policy, from 1.
        line: usize,
    },
    /// A rule for a PCI function.
    Pci {
        /// Its place among [`crate::policy::Policy::pci_rules`], from 0.
        index: usize,
        /// Its line in the policy, from 1.
        line: usize,
    },
    /// A rule for MSRs.
    Msr {
        /// Its place among [`crate::policy::Policy::msr_rules`], from 0.
        index: usize,
        /// Its line in the policy, from 1.
        line: usize,
    },
    /// The PCI configuration mechanism itself: CONFIG_ADDRESS, or CONFIG_DATA with nothing selected.
    ConfigMechanism,
    /// A PCI function that no rule names: as if it were not there.
    AbsentFunction,
    /// No rule names the port or the MSR.
    Default,
    /// The access runs past port 0xFFFF; there is nothing it could wrap to.
    PastLastPort,
}

impl Origin {
    /// The line of the policy that decides.
    #[must_use]
    pub const fn line(self) -> Option<usize> {
        match self {
            Self::Rule { line, .. }
            | Self::IndexPair { line, .. }
            | Self::Pci { line, .. }
            | Self::Msr { line, .. } => Some(line),
            Self::ConfigMechanism | Self::AbsentFunction | Self::Default | Self::PastLastPort => {
                None
            }
        }
    }
}

/// What the machine has to do about an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Done. The outcome has a read's value.
    Allowed,
    /// Denied: go on with the outcome's value.
    Ignored,
    /// Denied: raise a general-protection fault in the guest, error code 0.
    Fault,
    /// Denied: stop the guest.
    Stop,
}
