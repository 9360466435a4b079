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
        /// Which of its interrupts.
        signal: Signal,
    },
}

/// How a PCI function interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// By its interrupt pin.
    Pin,
    /// By its one message.
    Msi,
    /// By a vector of its MSI-X table.
    MsiX(u16),
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

    /// Whether both cannot be: they are one interrupt, or a function's by different means. It has its pin, MSI or MSI-X.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Vfio { address, signal },
                Self::Vfio {
                    address: other,
                    signal: others,
                },
            ) => {
                let are_vectors = matches!(
                    (signal, others),
                    (Signal::MsiX(vector), Signal::MsiX(other)) if vector != other
                );
                address == other && !are_vectors
            }
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
