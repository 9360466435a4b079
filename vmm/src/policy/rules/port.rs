//! `[[port]]`

use super::{
    AccessMode, ByteMask, DeviceOutput, DeviceSpec, Limits, LptSpec, OnDeny, Place, UartLink,
    ValueSet, Widths,
};

/// What stands behind a port range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortBackend {
    /// Nothing: every access is denied.
    Deny,
    /// The machine's real ports.
    Passthrough,
    /// The parallel port model, or the printer.
    Lpt(Box<LptSpec>),
    /// Another model.
    Device(Box<DeviceSpec>),
    /// The second range of the model of the rule before this one: its name.
    Second(&'static str),
    /// The register file for tests.
    Ram {
        /// Initial bytes from the range's first port on.
        initial: Vec<u8>,
        /// Initial value of the ports that `initial` does not reach.
        fill: u8,
    },
}

impl PortBackend {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Passthrough => "passthrough",
            Self::Lpt(spec) if spec.is_printer => "printer",
            Self::Lpt(_) => "lpt",
            Self::Device(spec) => spec.name(),
            Self::Second(name) => name,
            Self::Ram { .. } => "ram",
        }
    }

    /// Whether it may be a bus master.
    pub(crate) fn has_dma(&self) -> bool {
        match self {
            Self::Device(spec) => matches!(&**spec, DeviceSpec::External(spec) if spec.has_dma),
            _ => false,
        }
    }

    /// How many registers of a byte a model has, and which they are: the least that a range for it has.
    #[must_use]
    pub(crate) fn registers(&self) -> (u64, &'static str) {
        match self {
            Self::Lpt(spec) if spec.epp.is_some() => (8, "data, status, control and five of EPP"),
            Self::Lpt(_) => (3, "data, status and control"),
            Self::Device(spec) => match **spec {
                DeviceSpec::Uart(_) | DeviceSpec::Adc(_) => (8, "eight bytes"),
                DeviceSpec::Rtc(_) => (2, "an index and its data"),
                DeviceSpec::Pit { .. } => (4, "three counters and control"),
                DeviceSpec::Pio { .. } => (4, "A, B, C and control"),
                DeviceSpec::Ppdev { .. } => (3, "data, status and control"),
                DeviceSpec::External(_) | DeviceSpec::Gameport { .. } => (1, "one byte"),
            },
            Self::Deny | Self::Passthrough | Self::Second(_) | Self::Ram { .. } => (1, "one byte"),
        }
    }

    /// Where its bytes go, if that is a place that no other device may use.
    pub(in crate::policy) const fn exclusive_output(&self) -> Option<&DeviceOutput> {
        let output = match self {
            Self::Lpt(spec) => &spec.output,
            Self::Device(spec) => match &**spec {
                DeviceSpec::Uart(spec) => match &spec.link {
                    UartLink::Output(output) => output,
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        match output {
            DeviceOutput::Stdout | DeviceOutput::File(_) => Some(output),
            DeviceOutput::Pty | DeviceOutput::Command(_) => None,
        }
    }
}

/// A `[[port]]` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRule {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Allowed directions; `None` for `deny`.
    pub access: Option<AccessMode>,
    /// What stands behind it.
    pub backend: PortBackend,
    /// Widths of accesses that are allowed, as the driver made them.
    pub widths: Widths,
    /// Bits of writes that pass.
    pub write_mask: Option<ByteMask>,
    /// Bits of reads that pass.
    pub read_mask: Option<ByteMask>,
    /// Values that may be written: the part of an access that lies in the rule, as one number, before masks.
    pub values: Option<ValueSet>,
    /// How often and how many times.
    pub limits: Limits,
    /// For `passthrough`: the port of the machine that `first` stands for.
    pub host_first: u16,
    /// `i-know-what-this-does`.
    pub is_danger_accepted: bool,
    /// What a denied access does.
    pub on_deny: OnDeny,
    /// What a denied read returns; its low bytes for a narrow one.
    pub denied_read: u32,
    /// The owner's name for it.
    pub name: Option<String>,
    /// For readers.
    pub comment: Option<String>,
    /// Where it stands in the policy: line, from 1.
    pub line: usize,
    /// Where it stands in the policy: column, from 1.
    pub column: usize,
}

impl PortRule {
    /// A rule that says no more than this; everything else has its default, and no place in a file.
    #[must_use]
    pub fn new(first: u16, last: u16, access: Option<AccessMode>, backend: PortBackend) -> Self {
        Self {
            first,
            last,
            access,
            backend,
            widths: Widths::ALL,
            write_mask: None,
            read_mask: None,
            values: None,
            limits: Limits::default(),
            host_first: first,
            is_danger_accepted: false,
            on_deny: OnDeny::Ignore,
            denied_read: crate::policy::DENIED_READ_DEFAULT,
            name: None,
            comment: None,
            line: 0,
            column: 0,
        }
    }

    /// Ports in the range, 1 to 65536.
    #[must_use]
    pub fn port_count(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether the rule lets an access of this direction through.
    #[must_use]
    pub fn allows(&self, is_write: bool) -> bool {
        self.access.is_some_and(|access| access.allows(is_write))
    }

    /// Whether nothing but place and direction decides, and values pass as they are.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.widths == Widths::ALL
            && self.write_mask.is_none()
            && self.read_mask.is_none()
            && self.values.is_none()
            && self.limits.is_none()
    }

    /// The last of the machine's ports that a `passthrough` rule reaches.
    #[must_use]
    pub const fn host_last(&self) -> u16 {
        self.host_first.saturating_add(self.last - self.first)
    }

    /// Where it stands in the policy.
    #[must_use]
    pub const fn place(&self) -> Place {
        Place {
            line: self.line,
            column: self.column,
        }
    }
}
