//! A register file: what is written can be read back. For tests of drivers.

use super::PortDevice;
use crate::ports::Width;

/// One byte for each port of its range.
#[derive(Debug)]
pub struct Ram {
    bytes: Vec<u8>,
}

impl Ram {
    /// Registers for `ports` ports: `initial`, then `fill` for the rest.
    #[must_use]
    pub fn new(ports: usize, initial: &[u8], fill: u8) -> Self {
        let mut bytes = initial.to_vec();
        bytes.resize(ports, fill);
        Self { bytes }
    }

    fn register(&mut self, offset: u16, byte: u16) -> Option<&mut u8> {
        self.bytes.get_mut(usize::from(offset) + usize::from(byte))
    }
}

impl PortDevice for Ram {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = self.register(offset, byte).map_or(0xFF, |byte| *byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            if let Some(register) = self.register(offset, byte) {
                *register = source;
            }
        }
    }

    fn describe(&self) -> String {
        format!("ram ({} registers)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_in_any_width() {
        let mut ram = Ram::new(8, &[0x11], 0xEE);
        assert_eq!(ram.read(0, Width::Word), 0xEE11);
        ram.write(1, Width::Dword, 0x4433_2211);
        assert_eq!(ram.read(0, Width::Dword), 0x3322_1111);
        assert_eq!(ram.read(4, Width::Byte), 0x44);
        ram.write(4, Width::Word, 0xFFFF_0201);
        assert_eq!(ram.read(4, Width::Dword), 0xEEEE_0201);
    }

    #[test]
    fn initial_longer_than_the_range_is_cut() {
        let mut ram = Ram::new(1, &[1, 2, 3], 0);
        assert_eq!(ram.read(0, Width::Word), 0xFF01);
    }
}
