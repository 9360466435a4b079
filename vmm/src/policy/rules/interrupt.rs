//! `[[interrupt]]`

use std::path::PathBuf;

use super::{PciAddress, Place};

/// A device that a UIO driver of the machine has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum UioDevice {
    /// The UIO device of a PCI function.
    Function(PciAddress),
    /// /dev/uioN.
    File(PathBuf),
}

/// Where an interrupt comes from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum InterruptSource {
    /// A device of the machine.
    Uio(UioDevice),
    /// Another program: the number of an eventfd that this process was started with.
    EventFd(i32),
    /// A PCI function that a rule with `dma = "vfio"` names.
    Vfio {
        /// The function.
        address: PciAddress,
        /// By MSI instead of its interrupt pin.
        is_message: bool,
    },
}

impl InterruptSource {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Uio(_) => "uio",
            Self::EventFd(_) => "eventfd",
            Self::Vfio { .. } => "vfio",
        }
    }

    /// Whether both are one interrupt: a function has its pin or messages, not both.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vfio { address, .. }, Self::Vfio { address: other, .. }) => address == other,
            _ => self == other,
        }
    }
}

/// An `[[interrupt]]` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterruptRule {
    /// The guest's line, 0 to 63.
    pub line: u32,
    /// Where it comes from.
    pub source: InterruptSource,
    /// The owner's name for it.
    pub name: Option<String>,
    /// For readers.
    pub comment: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}
