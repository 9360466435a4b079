//! PCI functions by VFIO: an IOMMU confines their DMA to a part of the guest's memory.
//!
//! The kernel's vfio-pci has the function; here its group is put into a container, which is a translation of the
//! addresses that the device uses. What the container does not map, the device does not reach: the IOMMU refuses the
//! access and the kernel logs it. A function that is open here is reached by its regions alone: configuration space,
//! of which the kernel keeps what moves the device about (command, BARs, MSI) to itself, and BARs.
//!
//! Linux, Documentation/driver-api/vfio.rst and include/uapi/linux/vfio.h.
#![expect(
    unsafe_code,
    reason = "VFIO_IOMMU_MAP_DMA takes a host address that the device may write to"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::dma;
use super::msix::MsixTable;
use super::sysfs_pci::{PCI_DEVICES, SysfsPci};
use crate::machine::DmaRange;
use crate::pci::PciBackend as _;
use crate::policy::{PciAddress, PciTarget, Policy};

/// The command register, and the bit in it that makes a function a bus master (PCI Local Bus Specification 3.0, 6.2.2).
const COMMAND: u16 = 4;
const BUS_MASTER: u16 = 1 << 2;
/// The first base address register.
const BAR0: u16 = 0x10;

/// A `[[pci]]` rule with `dma = "vfio"` that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: `dma = \"vfio\"` cannot start for {target}")]
pub struct VfioStartError {
    /// The policy.
    pub file: String,
    /// The rule's line.
    pub line: usize,
    /// The function.
    pub target: PciTarget,
    /// Why.
    pub source: io::Error,
}

/// A function that is open by VFIO.
pub(super) struct VfioFunction {
    device: VfioDevice,
    path: PathBuf,
    /// If it has MSI-X.
    msix: Option<MsixTable>,
}

impl fmt::Debug for VfioFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioFunction")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bar {
    /// The function's descriptor, open as long as the [`VfioFunction`].
    pub(super) descriptor: RawFd,
    /// Where the BAR begins in it.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Whether the kernel lets it be mapped: not a BAR of ports, and none that shares its page with another device's.
    pub(super) is_mappable: bool,
    /// Whether it decodes ports.
    pub(super) is_ports: bool,
}

impl VfioFunction {
    /// Reads configuration space, with one access if it is aligned. What is not there reads as ones.
    pub(super) fn read_config(&self, register: u16, bytes: &mut [u8]) {
        bytes.fill(0xFF);
        self.device
            .region_read(VFIO_PCI_CONFIG_REGION_INDEX, bytes, register.into());
    }

    /// Writes configuration space; what is not there is dropped.
    pub(super) fn write_config(&self, register: u16, bytes: &[u8]) {
        self.device
            .region_write(VFIO_PCI_CONFIG_REGION_INDEX, bytes, register.into());
    }

    fn set_bus_master(&self, is_on: bool) {
        let mut command = [0; 2];
        self.read_config(COMMAND, &mut command);
        let before = u16::from_le_bytes(command);
        let after = if is_on {
            before | BUS_MASTER
        } else {
            before & !BUS_MASTER
        };
        self.write_config(COMMAND, &after.to_le_bytes());
    }

    /// BAR 0 to 5.
    pub(super) fn bar(&self, number: u32) -> Option<Bar> {
        let index = VFIO_PCI_BAR0_REGION_INDEX + number;
        if index > VFIO_PCI_BAR5_REGION_INDEX {
            return None;
        }
        let mut register = [0; 4];
        self.read_config(BAR0 + u16::try_from(4 * number).ok()?, &mut register);
        Some(Bar {
            descriptor: self.device.as_raw_fd(),
            offset: self.device.get_region_offset(index),
            bytes: self.device.get_region_size(index),
            is_mappable: self.device.get_region_flags(index) & VFIO_REGION_INFO_FLAG_MMAP != 0,
            is_ports: register[0] & 1 != 0,
        })
    }

    /// Reads a BAR, which has these bytes. What is not answered, as while memory space is off, stays as it is.
    pub(super) fn read_bar(&self, number: u32, bytes: &mut [u8], offset: u64) {
        self.device
            .region_read(VFIO_PCI_BAR0_REGION_INDEX + number, bytes, offset);
    }

    /// Writes a BAR, which has these bytes.
    pub(super) fn write_bar(&self, number: u32, bytes: &[u8], offset: u64) {
        self.device
            .region_write(VFIO_PCI_BAR0_REGION_INDEX + number, bytes, offset);
    }

    /// Its MSI-X table, if it has one.
    pub(super) fn msix(&self) -> Option<&MsixTable> {
        self.msix.as_ref()
    }

    /// Turns the interrupt on; each adds to the eventfd, which does not block. INTx is masked by each and comes again after
    /// [`Self::unmask`]; MSI (`is_message`) is not.
    pub(super) fn interrupt(&self, is_message: bool) -> io::Result<EventFd> {
        let (index, what) = if is_message {
            (VFIO_PCI_MSI_IRQ_INDEX, "message-signaled interrupts")
        } else {
            (VFIO_PCI_INTX_IRQ_INDEX, "interrupt pin")
        };
        let event = EventFd::new(EFD_NONBLOCK)?;
        self.enable(index, what, &[&event])?;
        Ok(event)
    }

    /// Turns on MSI-X, all vectors up to `last`; each adds to its eventfd.
    pub(super) fn msix_interrupts(&self, last: u16) -> io::Result<Vec<EventFd>> {
        let has = self.msix.as_ref().map_or(0, MsixTable::len);
        let Some(table) = self.msix.as_ref().filter(|_| usize::from(last) < has) else {
            return Err(io::Error::other(match has {
                0 => format!("{} has no MSI-X", self.path.display()),
                _ => format!(
                    "{} has no vector {last}: its MSI-X table has {has}, from 0 on",
                    self.path.display()
                ),
            }));
        };
        let mut events = Vec::new();
        for vector in 0..=usize::from(last) {
            let event = EventFd::new(EFD_NONBLOCK)?;
            table.set_event(vector, &event)?;
            events.push(event);
        }
        let all: Vec<&EventFd> = events.iter().collect();
        self.enable(VFIO_PCI_MSIX_IRQ_INDEX, "MSI-X", &all)?;
        Ok(events)
    }

    fn enable(&self, index: u32, what: &str, events: &[&EventFd]) -> io::Result<()> {
        let is_there = self
            .device
            .get_irq_info(index)
            .is_some_and(|info| info.count > 0);
        if !is_there {
            return Err(io::Error::other(format!(
                "{} has no {what}",
                self.path.display()
            )));
        }
        self.device
            .enable_irq(index, events.to_vec())
            .map_err(|error| {
                io::Error::other(format!(
                    "{}: the kernel does not turn its {what} on: {error}",
                    self.path.display()
                ))
            })
    }

    /// Lets INTx come again.
    pub(super) fn unmask(&self) -> io::Result<()> {
        self.device
            .unmask_irq(VFIO_PCI_INTX_IRQ_INDEX)
            .map_err(io::Error::other)
    }
}

/// The functions that the policy's `dma = "vfio"` names, open; clones are the same.
#[derive(Clone, Default)]
pub struct VfioFunctions {
    // Declared before the container: each takes its group out of it when it is closed.
    functions: BTreeMap<PciAddress, Arc<VfioFunction>>,
    container: Option<Arc<VfioContainer>>,
}

impl fmt::Debug for VfioFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioFunctions")
            .field("functions", &self.functions)
            .finish_non_exhaustive()
    }
}

impl VfioFunctions {
    /// Opens every function that a rule with `dma = "vfio"` names. They reach no memory yet, and are no bus masters.
    ///
    /// # Errors
    /// [`VfioStartError`] for the first rule that cannot be set up. One that names no function of this machine is not one of
    /// them: [`crate::pci::PciSpace::new`] tells of it.
    pub fn open(policy: &Policy) -> Result<Self, VfioStartError> {
        let mut open = Self::default();
        for rule in policy.pci_rules().iter().filter(|rule| rule.asks_for_dma) {
            let failed = |target, source| VfioStartError {
                file: policy.file().to_owned(),
                line: rule.place.line,
                target,
                source,
            };
            let present = SysfsPci::default()
                .functions()
                .map_err(|source| failed(rule.target, source))?;
            for (address, id) in present {
                if rule.target.is_about(address, id) && !open.functions.contains_key(&address) {
                    let target = PciTarget {
                        address: Some(address),
                        id: Some(id),
                    };
                    open.add(address)
                        .map_err(|reason| failed(target, io::Error::other(reason)))?;
                }
            }
        }
        Ok(open)
    }

    fn add(&mut self, address: PciAddress) -> Result<(), String> {
        let path = Path::new(PCI_DEVICES).join(address.to_string());
        if let Some(obstacle) = dma::obstacle(&path) {
            return Err(obstacle);
        }
        let container = match &self.container {
            Some(container) => container,
            None => {
                let container = VfioContainer::new(None).map_err(|error| explain(&error))?;
                self.container.insert(Arc::new(container))
            }
        };
        let device = VfioDevice::new(&path, Arc::clone(container) as _, false)
            .map_err(|error| explain(&error))?;
        let mut function = VfioFunction {
            device,
            path,
            msix: None,
        };
        let mut config = [0; 256];
        for (register, bytes) in (0..).step_by(4).zip(config.chunks_mut(4)) {
            function.read_config(register, bytes);
        }
        function.msix = MsixTable::find(&config);
        self.functions.insert(address, Arc::new(function));
        Ok(())
    }

    pub(super) fn get(&self, address: PciAddress) -> Option<&Arc<VfioFunction>> {
        self.functions.get(&address)
    }

    /// The function whose folder in sysfs a BAR's file is in.
    pub(super) fn of_resource(&self, file: &Path) -> Option<&Arc<VfioFunction>> {
        if self.functions.is_empty() {
            return None;
        }
        let folder = std::fs::canonicalize(file.parent()?).ok()?;
        self.get(PciAddress::parse(folder.file_name()?.to_str()?)?)
    }

    /// Lets the functions reach these parts of the guest's memory and nothing else, and makes them bus masters, as NT's PCI
    /// bus driver does when it starts a device. `None`: there are none.
    ///
    /// # Safety
    /// The ranges' memory stays mapped until the [`DmaWindow`] is dropped, and nothing makes references to it: the device
    /// reads and writes it at any time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) unsafe fn reach(&self, ranges: &[DmaRange]) -> io::Result<Option<DmaWindow>> {
        let Some(container) = &self.container else {
            return Ok(None);
        };
        let mut window = DmaWindow {
            functions: self.functions.values().cloned().collect(),
            container: Arc::clone(container),
            mapped: Vec::new(),
        };
        for range in ranges {
            let host = usize::try_from(range.host_address).map_err(io::Error::other)?;
            // SAFETY: the caller's promise.
            unsafe {
                container.vfio_dma_map(
                    range.guest_physical,
                    range.bytes,
                    ptr::with_exposed_provenance_mut(host),
                )
            }
            .map_err(|error| io::Error::other(explain(&error)))?;
            window.mapped.push(*range);
        }
        for function in &window.functions {
            function.set_bus_master(true);
        }
        Ok(Some(window))
    }
}

/// As long as this lives, devices reach the guest's memory.
pub(crate) struct DmaWindow {
    functions: Vec<Arc<VfioFunction>>,
    container: Arc<VfioContainer>,
    mapped: Vec<DmaRange>,
}

impl fmt::Debug for DmaWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaWindow")
            .field("functions", &self.functions)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl Drop for DmaWindow {
    fn drop(&mut self) {
        for function in &self.functions {
            function.set_bus_master(false);
        }
        for range in &self.mapped {
            if let Err(error) = self
                .container
                .vfio_dma_unmap(range.guest_physical, range.bytes)
            {
                // The kernel keeps the pages until the container is closed.
                tracing::warn!("guest memory is not taken from the device: {error}");
            }
        }
    }
}

/// What to do about an error, in one text: the crate's texts contain their sources'.
fn explain(error: &VfioError) -> String {
    let hint = match error {
        VfioError::OpenContainer(source) if source.kind() == io::ErrorKind::NotFound => {
            ": load the kernel's module, as root: modprobe vfio-pci"
        }
        VfioError::OpenGroup(source, _) if source.kind() == io::ErrorKind::ResourceBusy => {
            ": another program has it"
        }
        VfioError::OpenGroup(source, _) if source.kind() == io::ErrorKind::PermissionDenied => {
            ": the file is root's; its owner may use the device"
        }
        VfioError::ContainerSetIOMMU(source) if source.errno() == libc::EPERM => {
            ": the IOMMU does not remap interrupts, so that the device could raise any of the machine's (the parameter \
             allow_unsafe_interrupts of the module vfio_iommu_type1 accepts that)"
        }
        VfioError::IommuDmaMap(source) if source.errno() == libc::ENOMEM => {
            ": the guest's memory is locked in RAM for the device, and there may not be so much of it: raise the limit \
             (ulimit -l), or give the guest less with --memory"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_dma_opens_nothing() {
        let policy = Policy::from_str(
            "p.toml",
            "[[pci]]\nbdf = \"0000:00:10.0\"\nbackend = \"passthrough\"\naccess = \"r\"\n",
        )
        .unwrap();
        let open = VfioFunctions::open(&policy).unwrap();
        assert!(open.functions.is_empty() && open.container.is_none());
        // SAFETY: no memory is named.
        let reached = unsafe { open.reach(&[]) };
        assert!(reached.unwrap().is_none());
    }

    #[test]
    fn what_to_do_is_told() {
        let missing = VfioError::OpenContainer(io::ErrorKind::NotFound.into());
        assert!(explain(&missing).contains("modprobe vfio-pci"));
        let locked = VfioError::IommuDmaMap(vmm_sys_util::errno::Error::new(libc::ENOMEM));
        assert!(explain(&locked).contains("ulimit -l"));
        let busy = VfioError::OpenGroup(io::ErrorKind::ResourceBusy.into(), "3".to_owned());
        assert!(explain(&busy).contains("/dev/vfio/3") && explain(&busy).contains("another"));
    }
}
