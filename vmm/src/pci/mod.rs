//! PCI configuration space under the policy's `[[pci]]` rules.
//!
//! Drivers reach it by ports 0xCF8 and 0xCFC, as HalGetBusData does: [`crate::ports::PortSpace`] has a
//! [`ConfigMechanism`] there when the policy has `[[pci]]` rules. A pass-through of real functions is a
//! [`PciBackend`].

mod device;
mod mechanism;
mod model;
mod space;

use std::fmt;
use std::io;

pub use mechanism::ConfigMechanism;
pub use space::{BarId, PciFunctionStats, PciRam, PciSpace, PciStartError};

use crate::policy::{PciAddress, PciId};
use crate::ports::Width;

/// Bytes of a function's configuration space that mechanism #1 reaches.
pub const CONFIG_BYTES: u16 = 256;
/// Bytes of a PCI Express function's configuration space.
pub const EXTENDED_CONFIG_BYTES: u16 = 4096;

/// The machine's PCI functions.
///
/// The policy has decided when a method is called; masks are applied by the caller.
pub trait PciBackend: Send + fmt::Debug {
    /// Every function there is.
    ///
    /// # Errors
    /// They cannot be listed.
    fn functions(&mut self) -> io::Result<Vec<(PciAddress, PciId)>>;

    /// Makes sure that a function can be read, and written if `is_writing`; called once for each function that a
    /// rule passes through, before privileges are dropped.
    ///
    /// # Errors
    /// It cannot be.
    fn attach(&mut self, address: PciAddress, is_writing: bool) -> io::Result<()>;

    /// Whether a function may become a bus master: what it reads and writes then is confined to the guest's memory.
    ///
    /// # Errors
    /// It may not; why.
    fn check_bus_mastering(&mut self, _address: PciAddress) -> io::Result<()> {
        Err(io::Error::other("nothing here confines its DMA"))
    }

    /// Reads `width` bytes at `register`, 0 to 4095, of an attached function, as one access where the access is
    /// aligned; all ones when it fails. Bytes above the width are ignored.
    fn read(&mut self, address: PciAddress, register: u16, width: Width) -> u32;

    /// Writes the low `width` bytes of `value` at `register` of an attached function.
    fn write(&mut self, address: PciAddress, register: u16, width: Width, value: u32);
}

/// An access to configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciRequest {
    /// The function.
    pub address: PciAddress,
    /// The first byte, 0 to 4095.
    pub register: u16,
    /// Bytes.
    pub width: Width,
    /// The value to write; `None` reads.
    pub write: Option<u32>,
}
