//! `[[msr]]`

use super::{AccessMode, BitMasks, Limits, OnDeny, Place, ValueSet};

/// What stands behind a range of MSRs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrBackendKind {
    /// Nothing: every access is denied.
    Deny,
    /// The machine's MSRs, of the processor that the guest runs on.
    Passthrough,
    /// A number that reads return; writes that are allowed are dropped.
    Value(u64),
}

impl MsrBackendKind {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Passthrough => "passthrough",
            Self::Value(_) => "value",
        }
    }
}

/// An `[[msr]]` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsrRule {
    /// First MSR number.
    pub first: u32,
    /// Last MSR number.
    pub last: u32,
    /// Allowed directions; `None` for `deny`.
    pub access: Option<AccessMode>,
    /// What stands behind it.
    pub backend: MsrBackendKind,
    /// Bits that pass.
    pub masks: BitMasks,
    /// Values that may be written, before masks.
    pub values: Option<ValueSet>,
    /// How often and how many times.
    pub limits: Limits,
    /// `i-know-what-this-does`.
    pub is_danger_accepted: bool,
    /// What a denied access does.
    pub on_deny: OnDeny,
    /// What a denied read returns.
    pub denied_read: u64,
    /// The owner's name for it.
    pub name: Option<String>,
    /// For readers.
    pub comment: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}

impl MsrRule {
    /// Whether the rule lets an access of this direction through.
    #[must_use]
    pub fn allows(&self, is_write: bool) -> bool {
        self.access.is_some_and(|access| access.allows(is_write))
    }
}
