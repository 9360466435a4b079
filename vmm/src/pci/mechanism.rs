//! PCI configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2).

use super::{PciRequest, PciSpace};
use crate::policy::PciAddress;
use crate::ports::{Decision, PortOutcome, Width};

const ENABLE: u32 = 1 << 31;

/// CONFIG_ADDRESS and CONFIG_DATA, ports 0xCF8 and 0xCFC.
///
/// CONFIG_ADDRESS is a register for 4-byte accesses alone; narrower ones belong to other devices of the same
/// ports and are none of this mechanism's.
#[derive(Debug)]
pub struct ConfigMechanism {
    address: u32,
    /// The functions behind it.
    pub space: PciSpace,
}

impl ConfigMechanism {
    /// With CONFIG_ADDRESS 0, as after a reset.
    #[must_use]
    pub const fn new(space: PciSpace) -> Self {
        Self { address: 0, space }
    }

    /// CONFIG_ADDRESS: 31 enable, 23-16 bus, 15-11 device, 10-8 function, 7-2 register.
    pub const fn access_address(&mut self, write: Option<u32>) -> u32 {
        match write {
            Some(value) => {
                // The reserved bits and the lowest two read as zeros.
                self.address = value & 0x80FF_FFFC;
                0
            }
            None => self.address,
        }
    }

    /// The access to configuration space that one to CONFIG_DATA is, `offset` bytes (0 to 3) above 0xCFC; `None` while
    /// CONFIG_ADDRESS does not enable it.
    #[must_use]
    pub fn request(&self, offset: u16, width: Width, write: Option<u32>) -> Option<PciRequest> {
        let [register, place, bus, _] = self.address.to_le_bytes();
        (self.address & ENABLE != 0).then(|| PciRequest {
            address: PciAddress {
                segment: 0,
                bus,
                device: place >> 3,
                function: place & 7,
            },
            register: u16::from(register & 0xFC) + offset,
            width,
            write,
        })
    }

    /// What CONFIG_ADDRESS selects, for people.
    #[must_use]
    pub fn selected(&self) -> String {
        self.request(0, Width::Byte, None).map_or_else(
            || "nothing".to_owned(),
            |request| {
                format!(
                    "PCI function {} register {:#x}",
                    request.address, request.register
                )
            },
        )
    }

    /// Decides an access to CONFIG_DATA; nothing is counted. `None`: nothing is selected, so it reads all ones.
    pub fn decide(&mut self, offset: u16, width: Width, write: Option<u32>) -> Option<Decision> {
        let request = self.request(offset, width, write)?;
        Some(self.space.decide(&request))
    }

    /// Decides and carries out an access to CONFIG_DATA. `None`: nothing is selected, so it reads all ones.
    pub fn access_data(
        &mut self,
        offset: u16,
        width: Width,
        write: Option<u32>,
    ) -> Option<PortOutcome> {
        let request = self.request(offset, width, write)?;
        Some(self.space.access(&request))
    }
}
