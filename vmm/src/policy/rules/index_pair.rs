//! `[[index-pair]]`

use super::{AccessMode, BitMasks, OnDeny, Place, ValueSet};

/// What stands behind an index/data pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexPairBackend {
    /// The machine's ports.
    Passthrough {
        /// The machine's index port.
        index: u16,
        /// The machine's data port.
        data: u16,
    },
    /// A register file of 256 bytes.
    Ram {
        /// Its first bytes; the rest is 0.
        initial: Vec<u8>,
    },
}

impl IndexPairBackend {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Passthrough { .. } => "passthrough",
            Self::Ram { .. } => "ram",
        }
    }
}

/// An `[[index-pair.register]]`: some of the registers that the index port selects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexRegister {
    /// First index.
    pub first: u8,
    /// Last index.
    pub last: u8,
    /// Allowed directions; `None`: denied.
    pub access: Option<AccessMode>,
    /// Bits that pass.
    pub masks: BitMasks,
    /// Values that may be written, before masks.
    pub values: Option<ValueSet>,
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}

/// An `[[index-pair]]` rule: a port that selects a register, and a port that is the selected register.
///
/// Both ports are 8 bits wide. The index that the driver writes is kept here and goes to the device together with
/// each allowed data access, so that no index that the policy does not name ever reaches the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexPair {
    /// The port that selects.
    pub index: u16,
    /// The port of the selected register.
    pub data: u16,
    /// Bits of the index port that select; the device gets `index_fixed` for the others.
    pub index_mask: u8,
    /// What the device gets for the bits outside `index_mask`.
    pub index_fixed: u8,
    /// What stands behind it.
    pub backend: IndexPairBackend,
    /// The registers that have rules, in ascending order, none overlapping. The others are denied.
    pub registers: Vec<IndexRegister>,
    /// `i-know-what-this-does`.
    pub is_danger_accepted: bool,
    /// What a denied access to the data port does.
    pub on_deny: OnDeny,
    /// What a denied read of the data port returns, in its low byte.
    pub denied_read: u32,
    /// The owner's name for it.
    pub name: Option<String>,
    /// For readers.
    pub comment: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}

impl IndexPair {
    /// The register rule for what was written to the index port.
    #[must_use]
    pub fn register(&self, written: u8) -> Option<&IndexRegister> {
        let index = written & self.index_mask;
        let after = self
            .registers
            .partition_point(|register| register.first <= index);
        let register = self.registers.get(after.checked_sub(1)?)?;
        (index <= register.last).then_some(register)
    }

    /// What the device's index port gets for what the driver wrote.
    #[must_use]
    pub const fn index_for_device(&self, written: u8) -> u8 {
        (written & self.index_mask) | (self.index_fixed & !self.index_mask)
    }
}
