//! A device with port registers, behind memory instead: a card's registers in a memory BAR.

use std::sync::Arc;

use super::{DeviceError, Inputs, MemoryDevice, PortDevice, access_in_pieces};
use crate::ports::Width;

/// The registers lie at the range's beginning, a byte each as they do in ports; what is above them reads all ones and
/// drops writes. An access that is wider than the device is cut as on the bus: into aligned pieces, lowest first.
#[derive(Debug)]
pub struct Mapped {
    device: Box<dyn PortDevice>,
    registers: u32,
    width_max: Width,
}

impl Mapped {
    /// `registers`: how many bytes of registers the device has, at most 65536.
    #[must_use]
    pub fn new(device: Box<dyn PortDevice>, registers: u32) -> Self {
        Self {
            width_max: device.width_max(),
            device,
            registers: registers.min(0x1_0000),
        }
    }

    /// One access after the other, of at most 4 bytes that no multiple of 4 divides.
    fn each(&mut self, offset: u32, bytes: u8, mut access: impl FnMut(&mut Self, u32, u8, u32)) {
        let end = offset + u32::from(bytes);
        let mut at = offset;
        while at < end {
            let next = (at / 4 + 1) * 4;
            let count = u8::try_from(next.min(end) - at).unwrap_or(4);
            access(self, at, count, (at - offset) * 8);
            at += u32::from(count);
        }
    }

    /// An access to registers, bytes above them cut off; `None`: it is above them all.
    fn part(&mut self, offset: u32, bytes: u8, write: Option<u32>) -> u32 {
        let there = self
            .registers
            .saturating_sub(offset)
            .min(u32::from(bytes))
            .to_le_bytes()[0];
        let absent = u32::MAX.checked_shl(u32::from(there) * 8).unwrap_or(0);
        let Some(offset) = u16::try_from(offset).ok().filter(|_| there != 0) else {
            return u32::MAX;
        };
        let place = (u64::from(offset), offset);
        let value = access_in_pieces(
            &mut *self.device,
            self.width_max,
            place,
            there.into(),
            write,
        );
        value | absent
    }
}

impl MemoryDevice for Mapped {
    fn load(&mut self, offset: u32, bytes: u8) -> u64 {
        let mut value = 0;
        self.each(offset, bytes, |device, at, count, shift| {
            let part = u64::from(device.part(at, count, None));
            let mask = u64::MAX >> (64 - 8 * u32::from(count));
            value |= (part & mask) << shift;
        });
        value
    }

    fn store(&mut self, offset: u32, bytes: u8, value: u64) {
        self.each(offset, bytes, |device, at, count, shift| {
            let [a, b, c, d, ..] = (value >> shift).to_le_bytes();
            device.part(at, count, Some(u32::from_le_bytes([a, b, c, d])));
        });
    }

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        self.device.inputs()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.device.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pio8255, Ram};
    use super::*;

    #[test]
    fn registers_are_bytes_of_memory_and_nothing_is_above_them() {
        let ram = Ram::new(10, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0);
        let mut mapped = Mapped::new(Box::new(ram), 10);
        assert_eq!(mapped.load(0, 8), 0x0706_0504_0302_0100);
        assert_eq!(mapped.load(3, 2), 0x0403);
        assert_eq!(mapped.load(6, 8), 0xFFFF_FFFF_0908_0706);
        assert_eq!(mapped.load(10, 1), 0xFF);
        assert_eq!(mapped.load(0xFFFF_FFF8, 4), 0xFFFF_FFFF);
        mapped.store(1, 8, 0x8877_6655_4433_2211);
        mapped.store(9, 4, 0x99AA);
        assert_eq!(mapped.load(0, 8), 0x7766_5544_3322_1100);
        assert_eq!(mapped.load(8, 2), 0xAA88);
    }

    #[test]
    fn a_device_of_bytes_gets_bytes() {
        let mut mapped = Mapped::new(Box::new(Pio8255::new([1, 2, 3], false)), 4);
        assert_eq!(mapped.load(0, 4), 0xFF03_0201);
    }
}
