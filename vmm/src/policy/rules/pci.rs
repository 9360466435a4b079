//! `[[pci]]`

use std::fmt;

use super::{AccessMode, BitMasks, Limits, OnDeny, Place, PortBackend, Widths};

/// A PCI function's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    /// Segment (domain).
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Reads `SSSS:BB:DD.F` or `BB:DD.F`, hexadecimal as lspci and sysfs write it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str, length: usize| {
            (digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .then(|| u16::from_str_radix(digits, 16).ok())
                .flatten()
        };
        let (place, function) = text.split_once('.')?;
        let parts: Vec<&str> = place.split(':').collect();
        let (segment, bus, device) = match parts[..] {
            [segment, bus, device] => (number(segment, 4)?, bus, device),
            [bus, device] => (0, bus, device),
            _ => return None,
        };
        let address = Self {
            segment,
            bus: u8::try_from(number(bus, 2)?).ok()?,
            device: u8::try_from(number(device, 2)?).ok()?,
            function: u8::try_from(number(function, 1)?).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.segment, self.bus, self.device, self.function
        )
    }
}

/// What a PCI function is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciId {
    /// Vendor id, register 0.
    pub vendor: u16,
    /// Device id, register 2.
    pub device: u16,
}

impl PciId {
    /// Reads `VVVV:DDDD`, hexadecimal as lspci writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            (digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .then(|| u16::from_str_radix(digits, 16).ok())
                .flatten()
        };
        let (vendor, device) = text.split_once(':')?;
        Some(Self {
            vendor: number(vendor)?,
            device: number(device)?,
        })
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// Which function a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PciTarget {
    /// `bdf`; `None`: wherever the device is.
    pub address: Option<PciAddress>,
    /// `device`; `None`: whatever is there.
    pub id: Option<PciId>,
}

impl PciTarget {
    /// Whether a function is meant.
    #[must_use]
    pub fn is_about(&self, address: PciAddress, id: PciId) -> bool {
        self.address.is_none_or(|wanted| wanted == address)
            && self.id.is_none_or(|wanted| wanted == id)
    }
}

impl fmt::Display for PciTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.id) {
            (Some(address), Some(id)) => write!(f, "{id} at {address}"),
            (Some(address), None) => write!(f, "{address}"),
            (None, Some(id)) => write!(f, "{id}"),
            (None, None) => write!(f, "nothing"),
        }
    }
}

/// What stands behind a function's configuration space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PciBackendKind {
    /// Nothing: the function is there, and every access is denied.
    Deny,
    /// The machine's function.
    Passthrough,
    /// A function without hardware.
    Model(Box<PciModel>),
}

/// Most bytes that a base address register of a model may decode.
pub const BAR_BYTES_MAX: u64 = 64 << 20;
/// Base address registers of a type 0 header.
pub const BARS: u8 = 6;

/// A function without hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciModel {
    /// Configuration space at start, from register 0 on; the ids come from the rule's `device`.
    pub initial: Vec<u8>,
    /// Base address registers, by ascending index.
    pub bars: Vec<PciBar>,
    /// How it interrupts, if it does.
    pub interrupt: Option<PciInterrupt>,
}

impl PciModel {
    /// Whether it has a header that works. Otherwise it is a register file: what is written reads back.
    #[must_use]
    pub fn is_device(&self) -> bool {
        !self.bars.is_empty() || self.interrupt.is_some()
    }
}

/// What a base address register decodes (PCI Local Bus Specification 3.0, 6.2.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Port,
    /// Memory with addresses of 32 bits.
    Memory,
    /// Memory with addresses of 64 bits: the register after it has the upper half.
    Memory64,
}

impl BarKind {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Memory => "memory",
            Self::Memory64 => "memory64",
        }
    }

    /// How many registers it takes.
    #[must_use]
    pub const fn registers(self) -> u8 {
        match self {
            Self::Port | Self::Memory => 1,
            Self::Memory64 => 2,
        }
    }

    /// The fewest and the most bytes that one may decode. Ports: at most 256 (6.2.5.1).
    #[must_use]
    pub const fn sizes(self) -> (u64, u64) {
        match self {
            Self::Port => (4, 256),
            Self::Memory | Self::Memory64 => (16, BAR_BYTES_MAX),
        }
    }

    /// The highest address that it can decode.
    #[must_use]
    pub const fn address_max(self) -> u64 {
        match self {
            Self::Port => 0xFFFF,
            Self::Memory => 0xFFFF_FFFF,
            Self::Memory64 => crate::policy::ADDRESS_MAX,
        }
    }
}

/// A `[[pci.bar]]`: a base address register and the device behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciBar {
    /// Which one, 0 to 5.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Ports or bytes; a power of two.
    pub size: u64,
    /// Where it is at start; `None`: nowhere, until the driver says.
    pub base: Option<u64>,
    /// Whether it says that reads have no side effects.
    pub is_prefetchable: bool,
    /// The device.
    pub backend: PortBackend,
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}

impl PciBar {
    /// First and last port or address at start.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        self.base.map(|base| (base, base + (self.size - 1)))
    }
}

/// How a modelled function interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciInterrupt {
    /// The guest's line.
    pub line: u32,
    /// 1 to 4: INTA# to INTD#.
    pub pin: u8,
}

impl PciBackendKind {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Passthrough => "passthrough",
            Self::Model(_) => "model",
        }
    }
}

/// A `[[pci.register]]`: some bytes of configuration space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciRegister {
    /// First byte.
    pub first: u16,
    /// Last byte.
    pub last: u16,
    /// Allowed directions; `None`: it is denied.
    pub access: Option<AccessMode>,
    /// Bits that pass, little-endian from `first` on.
    pub masks: BitMasks,
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it stands in the policy.
    pub place: Place,
}

/// A `[[pci]]` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciRule {
    /// Which function.
    pub target: PciTarget,
    /// What stands behind it.
    pub backend: PciBackendKind,
    /// Allowed directions for every register that `registers` does not name; `None`: these are denied.
    pub access: Option<AccessMode>,
    /// Widths of accesses that are allowed.
    pub widths: Widths,
    /// How often and how many times.
    pub limits: Limits,
    /// Registers with rules of their own, in ascending order, none overlapping.
    pub registers: Vec<PciRegister>,
    /// `dma = "vfio"`: the driver is to have the device's DMA, behind an IOMMU.
    pub asks_for_dma: bool,
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
    /// Where it stands in the policy.
    pub place: Place,
}

impl PciRule {
    /// What there is instead of hardware, if that is so.
    #[must_use]
    pub fn model(&self) -> Option<&PciModel> {
        match &self.backend {
            PciBackendKind::Model(model) => Some(model),
            _ => None,
        }
    }

    /// The register rule that covers a byte of configuration space.
    #[must_use]
    pub fn register(&self, offset: u16) -> Option<&PciRegister> {
        let after = self
            .registers
            .partition_point(|register| register.first <= offset);
        let register = self.registers.get(after.checked_sub(1)?)?;
        (offset <= register.last).then_some(register)
    }

    /// Allowed directions for a byte of configuration space.
    #[must_use]
    pub fn access_at(&self, offset: u16) -> Option<AccessMode> {
        self.register(offset)
            .map_or(self.access, |register| register.access)
    }

    /// Whether the driver can have the function become a bus master: it may set bit 2 of the command register (PCI Local Bus
    /// Specification 3.0, 6.2.2), or the rule says so.
    #[must_use]
    pub fn may_master_the_bus(&self) -> bool {
        let Some(access) = self.access_at(COMMAND) else {
            return self.asks_for_dma;
        };
        let can_be_set = self.register(COMMAND).is_none_or(|register| {
            // Masks have 64 bits; what lies beyond passes.
            let bit = u32::from(COMMAND - register.first) * 8 + BUS_MASTER;
            let is_in = |mask: u64| mask.checked_shr(bit).is_none_or(|mask| mask & 1 != 0);
            is_in(register.masks.write) || register.masks.write_fixed.is_some_and(is_in)
        });
        self.asks_for_dma || (access.allows_write() && can_be_set)
    }

    /// The line that lets it.
    #[must_use]
    pub fn bus_master_line(&self) -> usize {
        match self.register(COMMAND) {
            Some(register) if !self.asks_for_dma => register.place.line,
            _ => self.place.line,
        }
    }
}

/// Register of the command register's low byte, and the bit in it that makes a function a bus master.
const COMMAND: u16 = 4;
const BUS_MASTER: u32 = 2;
