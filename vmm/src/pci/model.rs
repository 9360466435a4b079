//! A PCI function without hardware: a register file.

use super::CONFIG_BYTES;
use crate::policy::PciId;
use crate::ports::Width;

/// What is written reads back, but for the ids.
#[derive(Debug)]
pub(super) struct Model {
    bytes: Vec<u8>,
}

impl Model {
    pub(super) fn new(id: PciId, initial: &[u8]) -> Self {
        let mut bytes = initial.to_vec();
        bytes.resize(usize::from(CONFIG_BYTES), 0);
        bytes[0..2].copy_from_slice(&id.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&id.device.to_le_bytes());
        Self { bytes }
    }

    pub(super) fn read(&self, register: u16, width: Width) -> u32 {
        let mut value = [0xFF; 4];
        for (byte, at) in value.iter_mut().zip(usize::from(register)..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xFF);
        }
        u32::from_le_bytes(value) & width.mask()
    }

    pub(super) fn write(&mut self, register: u16, width: Width, value: u32) {
        let bytes = value.to_le_bytes();
        for (byte, at) in bytes[..usize::from(width.bytes())]
            .iter()
            .zip(usize::from(register)..)
        {
            // The ids are read-only.
            if at >= 4
                && let Some(register) = self.bytes.get_mut(at)
            {
                *register = *byte;
            }
        }
    }
}
