//! The words of a policy.

use crate::policy::{AccessMode, BarKind, CacheMode, EppPeer, OnDeny, OnRate};

pub(in crate::policy) const EPP: &[(&str, EppPeer); 2] =
    &[("peer", EppPeer::Present), ("no-peer", EppPeer::Absent)];

pub(in crate::policy) const ACCESS: &[(&str, AccessMode); 3] = &[
    ("r", AccessMode::Read),
    ("w", AccessMode::Write),
    ("rw", AccessMode::ReadWrite),
];

pub(in crate::policy) const ON_DENY: &[(&str, OnDeny); 3] = &[
    ("ignore", OnDeny::Ignore),
    ("fault", OnDeny::Fault),
    ("stop", OnDeny::Stop),
];

/// A mapping that is denied is a NULL pointer: there is no access that could fault.
pub(in crate::policy) const MEMORY_ON_DENY: &[(&str, OnDeny); 2] =
    &[("ignore", OnDeny::Ignore), ("stop", OnDeny::Stop)];

pub(in crate::policy) const ON_RATE: &[(&str, OnRate); 2] =
    &[("delay", OnRate::Delay), ("deny", OnRate::Deny)];

pub(in crate::policy) const CACHE: &[(&str, CacheMode); 3] = &[
    ("uncached", CacheMode::Uncached),
    ("write-combining", CacheMode::WriteCombining),
    ("write-back", CacheMode::WriteBack),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum PortKind {
    Passthrough,
    Ppdev,
    Lpt,
    Printer,
    Uart,
    Rtc,
    Pit,
    Gameport,
    Pio,
    Adc,
    External,
    Ram,
    Deny,
}

pub(in crate::policy) const PORT_BACKENDS: &[(&str, PortKind); 13] = &[
    ("passthrough", PortKind::Passthrough),
    ("ppdev", PortKind::Ppdev),
    ("lpt", PortKind::Lpt),
    ("printer", PortKind::Printer),
    ("uart16550", PortKind::Uart),
    ("rtc", PortKind::Rtc),
    ("pit", PortKind::Pit),
    ("gameport", PortKind::Gameport),
    ("pio8255", PortKind::Pio),
    ("adc12", PortKind::Adc),
    ("external", PortKind::External),
    ("ram", PortKind::Ram),
    ("deny", PortKind::Deny),
];

/// What may stand behind a base address register of a modelled PCI function.
pub(in crate::policy) const BAR_BACKENDS: &[(&str, PortKind); 10] = &[
    ("ram", PortKind::Ram),
    ("external", PortKind::External),
    ("lpt", PortKind::Lpt),
    ("printer", PortKind::Printer),
    ("uart16550", PortKind::Uart),
    ("rtc", PortKind::Rtc),
    ("pit", PortKind::Pit),
    ("gameport", PortKind::Gameport),
    ("pio8255", PortKind::Pio),
    ("adc12", PortKind::Adc),
];

pub(in crate::policy) const BAR_KINDS: &[(&str, BarKind); 3] = &[
    ("port", BarKind::Port),
    ("memory", BarKind::Memory),
    ("memory64", BarKind::Memory64),
];

/// Interrupt pins, by the numbers of the interrupt pin register.
pub(in crate::policy) const PIN_NAMES: &[(&str, u8); 4] = &[("A", 1), ("B", 2), ("C", 3), ("D", 4)];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum MemoryKind {
    Passthrough,
    Ram,
    External,
    Deny,
}

pub(in crate::policy) const MEMORY_BACKENDS: &[(&str, MemoryKind); 4] = &[
    ("passthrough", MemoryKind::Passthrough),
    ("ram", MemoryKind::Ram),
    ("external", MemoryKind::External),
    ("deny", MemoryKind::Deny),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum IndexPairKind {
    Passthrough,
    Ram,
}

pub(in crate::policy) const INDEX_PAIR_BACKENDS: &[(&str, IndexPairKind); 2] = &[
    ("passthrough", IndexPairKind::Passthrough),
    ("ram", IndexPairKind::Ram),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum InterruptKind {
    Uio,
    EventFd,
    Vfio,
}

pub(in crate::policy) const INTERRUPT_BACKENDS: &[(&str, InterruptKind); 3] = &[
    ("uio", InterruptKind::Uio),
    ("eventfd", InterruptKind::EventFd),
    ("vfio", InterruptKind::Vfio),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum PciKind {
    Passthrough,
    Model,
    Deny,
}

pub(in crate::policy) const PCI_BACKENDS: &[(&str, PciKind); 3] = &[
    ("passthrough", PciKind::Passthrough),
    ("model", PciKind::Model),
    ("deny", PciKind::Deny),
];

/// How a device's DMA is confined.
pub(in crate::policy) const DMA: &[(&str, ()); 1] = &[("vfio", ())];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum MsrKind {
    Passthrough,
    Value,
    Deny,
}

pub(in crate::policy) const MSR_BACKENDS: &[(&str, MsrKind); 3] = &[
    ("passthrough", MsrKind::Passthrough),
    ("value", MsrKind::Value),
    ("deny", MsrKind::Deny),
];
