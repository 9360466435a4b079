//! Device models: what a policy's port rule may put behind its range.
//!
//! A model is a [`PortDevice`]; [`crate::ports::PortSpace`] calls it only for accesses that the policy allows.

mod adc12;
mod ecp;
pub mod external;
mod inputs;
mod lpt;
mod mapped;
mod output;
mod pit;
mod ram;
mod rtc;
mod small;
mod ticker;
mod uart;
mod uart_chip;

use std::fmt;
use std::sync::Arc;

pub use adc12::Adc12;
pub use external::External;
pub use inputs::{Input, InputError, Inputs, RunningModel};
pub use lpt::Lpt;
pub use mapped::Mapped;
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

    /// What drives it from outside, if that can be set while it runs.
    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        None
    }

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

/// A device behind a range of memory, where each access leaves the guest.
pub trait MemoryDevice: Send + fmt::Debug {
    /// Reads `bytes` bytes, 1 to 8, at `offset` from the range's first byte; the access lies inside the range.
    /// The result's bytes above them are ignored.
    fn load(&mut self, offset: u32, bytes: u8) -> u64;

    /// Writes the low `bytes` bytes, 1 to 8, of `value` at `offset`; the access lies inside the range.
    fn store(&mut self, offset: u32, bytes: u8, value: u64);

    /// As [`PortDevice::describe`].
    fn describe(&self) -> String;

    /// As [`PortDevice::inputs`].
    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        None
    }

    /// As [`PortDevice::flush`].
    ///
    /// # Errors
    /// As there.
    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Carries out an access of 1 to 4 bytes at `offset`, as the bus does it: as one if there is one of that size and the
/// device takes it, otherwise in aligned pieces as wide as the device, lowest first. `at` is the port or address of the
/// first byte, which decides what is aligned. What was read; 0 for a write.
pub(crate) fn access_in_pieces(
    device: &mut dyn PortDevice,
    width_max: Width,
    (at, offset): (u64, u16),
    bytes: u16,
    write: Option<u32>,
) -> u32 {
    let whole = u8::try_from(bytes)
        .ok()
        .and_then(Width::from_bytes)
        .filter(|width| *width <= width_max);
    let mut value = 0;
    let mut done = 0;
    while done < bytes {
        let width = whole.unwrap_or_else(|| {
            [Width::Dword, Width::Word]
                .into_iter()
                .find(|width| {
                    *width <= width_max
                        && width.bytes() <= bytes - done
                        && (at + u64::from(done)).is_multiple_of(width.bytes().into())
                })
                .unwrap_or(Width::Byte)
        });
        let shift = u32::from(done) * 8;
        match write {
            Some(value) => device.write(offset + done, width, (value >> shift) & width.mask()),
            None => value |= (device.read(offset + done, width) & width.mask()) << shift,
        }
        done += width.bytes();
    }
    value
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
