//! The way to the machine's PCI functions: by VFIO those whose DMA it confines, by sysfs the others.

use std::io;

use super::dma;
use super::sysfs_pci::SysfsPci;
use super::vfio::VfioFunctions;
use crate::pci::PciBackend;
use crate::policy::{PciAddress, PciId};
use crate::ports::Width;

/// Configuration space of the machine's functions.
#[derive(Debug, Default)]
pub struct HostPci {
    sysfs: SysfsPci,
    vfio: VfioFunctions,
}

impl HostPci {
    /// With the functions that are open by VFIO.
    #[must_use]
    pub fn new(vfio: VfioFunctions) -> Self {
        Self {
            sysfs: SysfsPci::default(),
            vfio,
        }
    }
}

impl PciBackend for HostPci {
    fn functions(&mut self) -> io::Result<Vec<(PciAddress, PciId)>> {
        self.sysfs.functions()
    }

    fn attach(&mut self, address: PciAddress, is_writing: bool) -> io::Result<()> {
        match self.vfio.get(address) {
            Some(_) => Ok(()),
            None => self.sysfs.attach(address, is_writing),
        }
    }

    fn check_bus_mastering(&mut self, address: PciAddress) -> io::Result<()> {
        if self.vfio.get(address).is_some() {
            return Ok(());
        }
        let obstacle = dma::obstacle(&self.sysfs.folder(address)).unwrap_or_else(|| {
            "VFIO can confine its DMA to the guest: write `dma = \"vfio\"` into its rule".to_owned()
        });
        Err(io::Error::other(obstacle))
    }

    fn read(&mut self, address: PciAddress, register: u16, width: Width) -> u32 {
        match self.vfio.get(address) {
            Some(function) => {
                let mut value = [0xFF; 4];
                function.read_config(register, &mut value[..usize::from(width.bytes())]);
                u32::from_le_bytes(value)
            }
            None => self.sysfs.read(address, register, width),
        }
    }

    fn write(&mut self, address: PciAddress, register: u16, width: Width, value: u32) {
        match self.vfio.get(address) {
            Some(function) => {
                let bytes = value.to_le_bytes();
                function.write_config(register, &bytes[..usize::from(width.bytes())]);
            }
            None => self.sysfs.write(address, register, width, value),
        }
    }
}
