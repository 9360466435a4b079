//! The virtual machine: KVM, guest memory, page tables, the vCPU and its exits.
//!
//! | module | what |
//! |---|---|
//! | `memory` | guest RAM and the pages handed out from it |
//! | `own_file` | guest memory that shows pages of the program's own file |
//! | `paging` | page tables in guest memory |
//! | `image` | the guest image (ELF) and its header |
//! | `kernel_image`, `version_resource` | ntoskrnl.exe and hal.dll as PE images |
//! | `plan` | what is mapped where: one pass over [`abi::layout`] |
//! | `stubs` | the code that a driver's imports are bound to |
//! | `convert` | widths |
//! | `descriptors` | GDT, IDT, TSS as bytes |
//! | `vcpu` | boot state, registers, run, interrupt injection |
//! | `host` | which KVM this is, what it can do |
//! | `interrupt_lines` | interrupt lines, raised from any thread |
//! | `bus` | what device models reach: lines, and memory as bus masters |
//! | `kick` | the watchdog that interrupts a running guest for ticks and deadlines |
//! | `processor_share` | how much of a processor a guest's thread gets |
//! | `builder` | all of it put together, drivers placed |
//! | `backend` | the seam to whoever answers exits |
//! | `vm` | a [`Vm`] that runs from exit to exit |

mod backend;
mod builder;
mod bus;
mod client_window;
pub(crate) mod convert;
mod descriptors;
pub mod host;
mod image;
mod interrupt_lines;
mod kernel_image;
mod kick;
mod memory;
mod own_file;
mod paging;
mod plan;
pub mod processor_share;
mod stubs;
mod vcpu;
mod version_resource;
mod vm;

pub use backend::{
    Backend, GuestView, MemoryExit, MsrAnswer, MsrExit, PhysicalAnswer, PhysicalPiece, PortAnswer,
    PortExit, Stop, WindowChange,
};
pub use builder::{CreateError, VmBuilder, VmConfig, WindowMemory};
pub use bus::{Bus, BusError, BusMemory};
pub use image::{GuestImage, ImageError};
pub use interrupt_lines::{InterruptLine, InterruptLines, InterruptPin, Waker};
pub use kick::Stopper;
pub use memory::{GuestRam, MemoryError};
pub use plan::{DriverSlot, PlanError};
pub use vcpu::{Exit, VcpuError};
pub use vm::{DEVICE_ADDRESS_MAX, DEVICE_WINDOW, DmaRange, Vm};
