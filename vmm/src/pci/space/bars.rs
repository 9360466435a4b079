//! The devices behind modelled functions' BARs, as the guest reaches them.

use super::{Device, PciDevice, PciSpace};
use crate::devices::{DeviceError, RunningModel};
use crate::ports::Origin;

/// A base address register of a modelled function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BarId {
    function: u16,
    bar: u16,
}

/// Memory behind a BAR of a modelled function that is mapped into the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciRam {
    /// The physical address of its first byte; `None`: it is not decoded now.
    pub base: Option<u64>,
    /// Host-virtual address of its first byte, page-aligned; valid as long as the [`PciSpace`] lives.
    pub host_address: u64,
    /// Bytes; a multiple of 4096.
    pub bytes: u64,
}

impl PciSpace {
    /// The devices without hardware, by ascending address, with their places.
    fn devices(&self) -> impl Iterator<Item = (u16, &PciDevice)> {
        (0..)
            .zip(&self.functions)
            .filter_map(|(index, function)| match &function.device {
                Device::Device(device) => Some((index, &**device)),
                _ => None,
            })
    }

    fn bar_at(&self, is_port: bool, address: u64) -> Option<(BarId, u64)> {
        self.devices().find_map(|(function, device)| {
            let (bar, offset) = device.bar_at(is_port, address)?;
            let bar = u16::try_from(bar).ok()?;
            Some((BarId { function, bar }, offset))
        })
    }

    /// A BAR's device, and its rule, for an access that is counted.
    fn device_of(&mut self, bar: BarId) -> Option<(&mut PciDevice, Origin)> {
        let function = self.functions.get_mut(usize::from(bar.function))?;
        function.stats.bar_accesses += 1;
        let origin = Origin::Pci {
            index: function.rule,
            line: function.stats.line,
        };
        match &mut function.device {
            Device::Device(device) => Some((device, origin)),
            _ => None,
        }
    }

    /// The BAR of a modelled function that has a port, whether or not the function decodes it now.
    #[must_use]
    pub fn port_bar(&self, port: u16) -> Option<BarId> {
        self.bar_at(true, port.into()).map(|(bar, _)| bar)
    }

    /// An access to neighbouring ports, 1 to 4, that a BAR has. What was read, and whose rule it is.
    pub(crate) fn access_port(
        &mut self,
        bar: BarId,
        port: u16,
        bytes: u16,
        write: Option<u32>,
    ) -> (u32, Origin) {
        let offset = match self.bar_at(true, port.into()) {
            Some((found, offset)) if found == bar => offset,
            _ => return (u32::MAX, Origin::Default),
        };
        match self.device_of(bar) {
            Some((device, origin)) => {
                let value = device.access_port(bar.bar.into(), (port, offset), bytes, write);
                (value, origin)
            }
            None => (u32::MAX, Origin::Default),
        }
    }

    /// The rule of the first function that has memory in each of the pages from `first` to `last`, decoded or not, as the
    /// line in the policy. `None`: a page has none.
    #[must_use]
    pub fn memory_rule(&self, first: u64, last: u64) -> Option<usize> {
        let mut line = None;
        let mut page = first & !(abi::layout::PAGE_SIZE - 1);
        while page <= last {
            let end = page + (abi::layout::PAGE_SIZE - 1);
            let (function, reach) = self
                .devices()
                .find_map(|(function, device)| Some((function, device.memory_reach(page, end)?)))?;
            let found = self.functions.get(usize::from(function))?;
            line.get_or_insert(found.stats.line);
            page = (reach & !(abi::layout::PAGE_SIZE - 1)).checked_add(abi::layout::PAGE_SIZE)?;
        }
        line
    }

    /// An access of 1 to 8 bytes to physical memory. What was read (bytes that nobody has are ones), and whose rule the
    /// first byte's is.
    pub fn access_memory(
        &mut self,
        address: u64,
        bytes: u8,
        write: Option<u64>,
    ) -> (u64, Option<Origin>) {
        let Some((bar, offset)) = self.bar_at(false, address) else {
            return self.access_memory_behind(address, bytes, write, None);
        };
        let last = address.saturating_add(u64::from(bytes) - 1);
        let is_whole = self.bar_at(false, last).is_some_and(|(end, _)| end == bar);
        let count = if is_whole { bytes } else { 1 };
        let Some((device, origin)) = self.device_of(bar) else {
            return (u64::MAX, None);
        };
        let value = device.access_memory(bar.bar.into(), offset, count, write);
        if is_whole {
            return (value, Some(origin));
        }
        // It crosses the end of the BAR.
        let (rest, _) = self.access_memory_behind(address, bytes, write, Some(value));
        (rest, Some(origin))
    }

    /// The bytes after the first, whose value is `first`, or ones where there is nothing.
    fn access_memory_behind(
        &mut self,
        address: u64,
        bytes: u8,
        write: Option<u64>,
        first: Option<u64>,
    ) -> (u64, Option<Origin>) {
        let first = first.unwrap_or(u64::MAX) & 0xFF;
        let (Some(left @ 1..), Some(next)) = (bytes.checked_sub(1), address.checked_add(1)) else {
            return (first | !0xFF, None);
        };
        let (rest, origin) = self.access_memory(next, left, write.map(|value| value >> 8));
        (first | rest << 8, origin)
    }

    /// Memory that is to be mapped into the guest, in an order that does not change; `None`: as it was when this was last
    /// asked.
    pub fn take_moved_ram(&mut self) -> Option<Vec<PciRam>> {
        if !std::mem::take(&mut self.is_ram_moved) {
            return None;
        }
        let ram = self.devices().flat_map(|(_, device)| device.ram());
        let ram = ram.map(|(base, region)| PciRam {
            base,
            host_address: region.as_ptr().addr() as u64,
            bytes: region.size() as u64,
        });
        Some(ram.collect())
    }

    /// The device models behind BARs.
    #[must_use]
    pub fn models(&self) -> Vec<RunningModel> {
        let of = |(index, device): (u16, _)| {
            let function = self.functions.get(usize::from(index))?;
            let model = self.rules.get(function.rule)?.model()?;
            Some((function.address, model, device))
        };
        let functions = self.devices().filter_map(of);
        functions
            .flat_map(|(address, model, device): (_, _, &PciDevice)| {
                let bars = model.bars.iter().zip(device.models());
                bars.map(move |(bar, (description, inputs))| RunningModel {
                    name: bar.name.clone(),
                    place: format!("{address}/bar{}", bar.index),
                    description,
                    inputs,
                })
            })
            .collect()
    }

    /// Hands over what devices behind BARs have buffered, as [`crate::ports::PortSpace::flush`].
    pub fn flush(&mut self) -> Vec<DeviceError> {
        self.functions
            .iter_mut()
            .filter_map(|function| match &mut function.device {
                Device::Device(device) => Some(device.flush()),
                _ => None,
            })
            .flatten()
            .collect()
    }
}
