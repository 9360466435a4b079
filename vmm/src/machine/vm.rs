//! A guest, from exit to exit. Its calls are answered in [`calls`], what interrupts it is in [`interrupts`].

mod calls;
mod interrupts;

use std::time::Instant;

use abi::Privilege;
use abi::header::ImageHeader;
use abi::layout;
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::backend::{
    Backend, GuestView, MemoryExit, MsrAnswer, MsrExit, PortAnswer, PortExit, Stop,
};
use super::builder::{CreateError, map_slot};
use super::bus::{BusMemory, Reach};
use super::client_window::ClientWindow;
use super::convert::to_usize;
use super::interrupt_lines::InterruptLines;
use super::kick::{Stopper, Watchdog};
use super::memory::MemoryError;
use super::plan::Plan;
use super::vcpu::{Exit, Vcpu, VcpuError};

fn stopped_at_msr(number: u32, write: Option<u64>) -> Stop {
    let what = if write.is_some() { "write" } else { "read" };
    Stop::PolicyStop(format!("{what} of MSR {number:#x}"))
}

/// Guest memory for devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaRange {
    /// Where the guest has it, page-aligned.
    pub guest_physical: u64,
    /// Host address of its first byte, mapped as long as the [`Vm`] lives.
    pub host_address: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: usize,
}

/// Where addresses that devices are behind begin in the I/O window: above all memory that is placed there. A physical
/// address is this far up in the window, so an exit tells the address that the driver used.
pub const DEVICE_WINDOW: u64 = 0x1_0000_0000;
/// The highest physical address that a device can have.
pub const DEVICE_ADDRESS_MAX: u64 = layout::IO_WINDOW_GPA_SIZE - DEVICE_WINDOW - 1;

/// The physical address behind a guest-physical one in the device window.
fn device_address(guest_physical: u64) -> Option<u64> {
    guest_physical
        .checked_sub(layout::IO_WINDOW_GPA + DEVICE_WINDOW)
        .filter(|address| *address <= DEVICE_ADDRESS_MAX)
}

/// A guest with its vCPU. Everything happens on the thread that created it.
#[derive(Debug)]
pub struct Vm {
    // Field order is drop order: the vCPU and VM descriptors go before the memory that they use.
    pub(super) vcpu: Vcpu,
    pub(super) watchdog: Watchdog,
    pub(super) vm: VmFd,
    /// The first memory slot that is free for [`super::WindowChange`]s.
    pub(super) next_slot: u32,
    pub(super) plan: Plan,
    pub(super) header: ImageHeader,
    pub(super) tsc_khz: u64,
    pub(super) tsc_offset: u64,
    pub(super) boot_tsc: u64,
    pub(super) boot_time: Instant,
    pub(super) privilege: Privilege,
    pub(super) is_busy: bool,
    pub(super) lines: InterruptLines,
    /// An interrupt is to be injected at the next occasion.
    pub(super) is_exit_wanted: bool,
    /// How often it was past its deadline, and let run on.
    pub(super) late_stops: u32,
    pub(super) clients: ClientWindow,
}

impl Vm {
    /// Guest memory and shared pages.
    #[must_use]
    pub fn view(&self) -> GuestView<'_> {
        GuestView { plan: &self.plan }
    }

    /// Writes guest-virtual memory.
    ///
    /// # Errors
    /// When part of it is not mapped.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        self.plan.write_virtual(address, from)
    }

    /// Bytes of client memory from [`layout::USER`].
    #[must_use]
    pub fn user_bytes(&self) -> u64 {
        self.plan.user_bytes
    }

    /// Bytes of the shim's own heap.
    #[must_use]
    pub fn heap_bytes(&self) -> u64 {
        layout::heap_size(self.plan.ram.bytes())
    }

    /// Frequency of the guest's time-stamp counter, kHz.
    #[must_use]
    pub fn tsc_khz(&self) -> u64 {
        self.tsc_khz
    }

    /// A handle by which other threads can stop the guest.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.watchdog.stopper()
    }

    /// The guest's interrupt lines.
    #[must_use]
    pub fn interrupt_lines(&self) -> &InterruptLines {
        &self.lines
    }

    /// Added to the host's time-stamp counter gives the guest's.
    #[must_use]
    pub fn time_stamp_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// The guest's time-stamp counter when it was made.
    #[must_use]
    pub fn boot_time_stamp(&self) -> u64 {
        self.boot_tsc
    }

    /// Address of an export as drivers see it.
    #[must_use]
    pub fn export_address(&self, index: usize) -> Option<u64> {
        self.plan.import_address(index, "")
    }

    /// General registers, for reports.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn registers(&self) -> Result<kvm_regs, VcpuError> {
        self.vcpu.registers()
    }

    /// CS selector, for reports.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn code_selector(&self) -> Result<u16, VcpuError> {
        Ok(self.vcpu.special_registers()?.cs.selector)
    }

    /// The guest's memory that drivers may have devices read and write by its guest-physical addresses, which are what they
    /// get from MmGetPhysicalAddress and DMA adapters.
    ///
    /// # Errors
    /// Never in practice: RAM exists.
    pub fn dma_memory(&self) -> Result<Vec<DmaRange>, MemoryError> {
        let host_base = self.plan.ram.host_address()?;
        Ok(self
            .plan
            .dma_memory()
            .into_iter()
            .map(|(guest_physical, bytes)| DmaRange {
                guest_physical,
                host_address: host_base + (guest_physical - layout::RAM_BASE),
                bytes: to_usize(bytes),
            })
            .collect())
    }

    /// Lets device models that are bus masters reach what [`Self::dma_memory`] has.
    pub fn attach(&self, memory: &BusMemory) {
        memory.attach(Reach {
            memory: self.plan.ram.memory().clone(),
            ranges: self.plan.dma_memory(),
        });
    }

    /// Runs the guest until it is idle or stops.
    pub fn run(&mut self, backend: &mut dyn Backend) -> Stop {
        if !self.is_busy {
            self.is_busy = true;
            self.watchdog.busy();
        }
        if let Err(error) = self.change_window(backend) {
            return Stop::Failure(crate::error_chain(&error));
        }
        let stop = loop {
            match self.run_once(backend) {
                Ok(None) => {}
                Ok(Some(stop)) => break stop,
                Err(error) => break Stop::Failure(crate::error_chain(&error)),
            }
        };
        self.is_busy = false;
        self.late_stops = 0;
        self.watchdog.idle();
        backend.drain_trace(&GuestView { plan: &self.plan });
        stop
    }

    fn run_once(&mut self, backend: &mut dyn Backend) -> Result<Option<Stop>, CreateError> {
        self.publish_lines()?;
        self.vcpu.set_immediate_exit(self.is_exit_wanted);
        let exit = self.vcpu.run();
        self.vcpu.set_immediate_exit(false);
        Ok(match exit? {
            Exit::Port {
                port,
                width,
                count,
                is_write,
            } => {
                let stop = self.port(backend, port, width, count, is_write)?;
                self.change_window(backend)?;
                stop
            }
            Exit::MmioWrite {
                address: layout::DOORBELL_GPA,
                data,
                bytes: 4,
            } => {
                let [a, b, c, d, ..] = data;
                self.doorbell(backend, u32::from_le_bytes([a, b, c, d]))?
            }
            Exit::MmioWrite {
                address,
                data,
                bytes,
            } if device_address(address).is_some() => {
                self.memory(backend, address, bytes, Some(u64::from_le_bytes(data)));
                None
            }
            Exit::MmioRead { address, bytes } if device_address(address).is_some() => {
                self.memory(backend, address, bytes, None);
                None
            }
            Exit::MmioWrite { address, bytes, .. } => Some(Stop::Failure(format!(
                "the guest stored {bytes} bytes to guest-physical address {address:#x}, where no memory is"
            ))),
            Exit::MmioRead { address, .. } => Some(Stop::Failure(format!(
                "the guest read guest-physical address {address:#x}, where no memory is"
            ))),
            Exit::MsrRead { number } => self.msr_exit(backend, number, None),
            Exit::MsrWrite { number, value } => self.msr_exit(backend, number, Some(value)),
            Exit::Interrupted => self.interrupted()?,
            Exit::Halt => Some(Stop::Failure(
                "the guest executed HLT outside the idle call".to_owned(),
            )),
            Exit::Shutdown => Some(Stop::Failure("triple fault".to_owned())),
            Exit::InternalError { suberror } => Some(Stop::Failure(format!(
                "KVM internal error {suberror}: it cannot execute the guest's next instruction"
            ))),
            Exit::FailEntry { reason } => Some(Stop::Failure(format!(
                "the processor refused the guest state ({reason:#x})"
            ))),
            Exit::Other(reason) => Some(Stop::Failure(format!(
                "unexpected KVM exit reason {reason}"
            ))),
        })
    }

    fn port(
        &mut self,
        backend: &mut dyn Backend,
        port: u16,
        width: u8,
        count: u32,
        is_write: bool,
    ) -> Result<Option<Stop>, CreateError> {
        for index in 0..count {
            let data = self.vcpu.port_data(index);
            let mut bytes = [0; 4];
            let width_bytes = usize::from(width).min(4);
            if let (true, Some(into), Some(from)) = (
                is_write,
                bytes.get_mut(..width_bytes),
                data.get(..width_bytes),
            ) {
                into.copy_from_slice(from);
            }
            let access = PortExit {
                port,
                width,
                write: is_write.then(|| u32::from_le_bytes(bytes)),
                rip: self.vcpu.exit_rip(),
                element: index,
            };
            match backend.port(&GuestView { plan: &self.plan }, access) {
                PortAnswer::Value(_) if is_write => {}
                PortAnswer::Value(value) => {
                    let data = self.vcpu.port_data(index);
                    for (into, from) in data.iter_mut().zip(value.to_le_bytes()) {
                        *into = from;
                    }
                }
                PortAnswer::Fault => {
                    let plan = &self.plan;
                    self.vcpu.fault_port_access(|address, into| {
                        plan.read_virtual(address, into).is_ok()
                    })?;
                    return Ok(None);
                }
                PortAnswer::Stop => {
                    return Ok(Some(Stop::PolicyStop(format!(
                        "{} of {width} bytes at port {port:#x}",
                        if is_write { "write" } else { "read" }
                    ))));
                }
            }
        }
        Ok(None)
    }

    /// An access to memory that a device is behind.
    fn memory(&mut self, backend: &mut dyn Backend, address: u64, bytes: u8, write: Option<u64>) {
        let Some(address) = device_address(address) else {
            return;
        };
        let access = MemoryExit {
            address,
            bytes,
            write,
            rip: self.vcpu.exit_rip(),
        };
        let value = backend.memory(&GuestView { plan: &self.plan }, access);
        if write.is_none() {
            self.vcpu.answer_mmio(value);
        }
    }

    /// Memory of devices that has come or gone.
    fn change_window(&mut self, backend: &mut dyn Backend) -> Result<(), CreateError> {
        for change in backend.window_changes() {
            let (slot, memory) = change.parts();
            let slot = self.next_slot + slot;
            let region = match memory {
                Some(memory) => memory.region(slot),
                None => kvm_userspace_memory_region {
                    slot,
                    ..Default::default()
                },
            };
            #[expect(
                unsafe_code,
                reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
            )]
            // SAFETY: whoever made the change has promised that the range lives long enough; a slot of no bytes has none.
            unsafe { map_slot(&self.vm, region) }?;
        }
        Ok(())
    }

    /// `rdmsr` or `wrmsr` at CPL 0.
    fn msr_exit(
        &mut self,
        backend: &mut dyn Backend,
        number: u32,
        write: Option<u64>,
    ) -> Option<Stop> {
        let access = MsrExit {
            number,
            write,
            rip: self.vcpu.exit_rip(),
        };
        match backend.msr(&GuestView { plan: &self.plan }, access) {
            MsrAnswer::Value(value) => self.vcpu.answer_msr(Some(value)),
            MsrAnswer::Fault => self.vcpu.answer_msr(None),
            MsrAnswer::Stop => return Some(stopped_at_msr(number, write)),
        }
        None
    }
}
