//! Why the functions of a policy cannot be set up.

use std::io;

use crate::policy::{PciAddress, PciTarget};

/// A `[[pci]]` rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PciStartError {
    /// This version or this run has no way to the machine's functions.
    #[error(
        "{file}:{line}: backend \"passthrough\" cannot start: nothing here reaches the machine's PCI functions"
    )]
    NoBackend {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
    },
    /// The machine's functions cannot be listed, or this one cannot be used.
    #[error("{file}:{line}: backend \"passthrough\" cannot start for {target}")]
    Backend {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// The function.
        target: PciTarget,
        /// Why.
        source: io::Error,
    },
    /// The rule lets the driver turn bus mastering on, or asks for DMA, and nothing would confine it.
    #[error(
        "{file}:{line}: the PCI function {address} cannot be passed through as a bus master (bit 2 of the command register) \
         without `dma = \"vfio\"`; leave the bit out: `write-mask = 0x0003` for the range \"0x04-0x05\""
    )]
    BusMaster {
        /// The policy.
        file: String,
        /// The line of the rule, or of the register's.
        line: usize,
        /// The function.
        address: PciAddress,
        /// Why.
        source: io::Error,
    },
    /// The machine has no such function.
    #[error(
        "{file}:{line}: this machine has no PCI function {target}: lspci -Dn lists those it has"
    )]
    NotFound {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// What was looked for.
        target: PciTarget,
    },
    /// What is behind a BAR of a modelled function.
    #[error(transparent)]
    Device(Box<crate::ports::StartError>),
    /// There is no memory for a BAR.
    #[error("{file}:{line}: no host memory for a BAR of {bytes} bytes: {reason}")]
    NoMemory {
        /// The policy.
        file: String,
        /// The BAR's line.
        line: usize,
        /// Bytes.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// Two rules are about one function.
    #[error("{file}:{line}: the rule of line {other} is about {address} as well")]
    Twice {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// The other rule's line.
        other: usize,
        /// The function.
        address: PciAddress,
    },
}
