//! The machine's own hardware, as far as the policy passes it through: PCI configuration by sysfs, memory by
//! /dev/mem and PCI resource files, MSRs by /dev/cpu/*/msr, interrupts by UIO and eventfds, bus masters by VFIO. Ports are [`crate::ports`]'s.
//!
//! Everything is opened when a guest starts, for exactly what the policy names.

mod dev_cpu_msr;
mod dma;
mod host_pci;
mod interrupts;
mod mapping;
mod msix;
mod ppdev;
mod region;
mod sysfs_bars;
mod sysfs_pci;
mod uio;
mod vfio;

pub use dev_cpu_msr::DevCpuMsr;
pub(crate) use dma::obstacle as dma_obstacle;
pub use host_pci::HostPci;
pub use interrupts::{HostInterrupts, InterruptStartError, OpenInterrupts};
pub use mapping::MappingError;
pub(crate) use mapping::{HostMapping, HostPages, Wish, open_host_pages};
pub use ppdev::Ppdev;
pub(crate) use sysfs_bars::{HostBar, bars_of, memory_bar_at};
pub(crate) use sysfs_pci::PCI_DEVICES;
pub(crate) use vfio::DmaWindow;
pub use vfio::{VfioFunctions, VfioStartError};
