//! Device models: what a policy's port rule may put behind its range.
//!
//! A model is a [`PortDevice`]; [`crate::ports::PortSpace`] calls it only for accesses that the policy allows.

mod adc12;
mod ecp;
pub mod external;
mod lpt;
mod output;
mod pit;
mod ram;
mod rtc;
mod small;
mod ticker;
mod uart;
mod uart_chip;

use std::fmt;

pub use adc12::Adc12;
pub use external::External;
pub use lpt::Lpt;
pub use output::OutputError;
pub use pit::Pit;
pub use ram::Ram;
pub use rtc::Rtc;
pub use small::{Gameport, Pio8255};
pub use uart::Uart;

use crate::ports::Width;

/// A device behind a range of ports.
pub trait PortDevice: Send + fmt::Debug {
    /// Reads `width` bytes at `offset` from the range's first port; the access lies inside the range.
    /// The result's bytes above the width are ignored.
    fn read(&mut self, offset: u16, width: Width) -> u32;

    /// Writes the low `width` bytes of `value` at `offset` from the range's first port; the access lies inside
    /// the range. A port write cannot fail as far as the guest can see: what goes wrong is told by
    /// [`PortDevice::flush`] and, where the device has one, by its status register.
    fn write(&mut self, offset: u16, width: Width, value: u32);

    /// The widest access that the device takes as one. A wider one is cut as the bus does it: into aligned pieces of
    /// this width, lowest port first.
    fn width_max(&self) -> Width {
        Width::Dword
    }

    /// What it is and where its data goes, for logs and statistics.
    fn describe(&self) -> String;

    /// The device's second range of registers, which shares its state, if it has one.
    fn second(&self) -> Option<Box<dyn PortDevice>> {
        None
    }

    /// Hands over everything that is still buffered. To be called when the guest goes idle, and at the end.
    ///
    /// # Errors
    /// What has gone wrong since the start; it stays wrong.
    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// A device's failure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{device}: {message}")]
pub struct DeviceError {
    /// [`PortDevice::describe`].
    pub device: String,
    /// What happened, what was lost, what to do.
    pub message: String,
}
