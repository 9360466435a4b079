//! A guest, from exit to exit.

use std::time::{Duration, Instant};

use abi::Privilege;
use abi::channel::State;
use abi::crash::CrashRecord;
use abi::doorbell::{Call, CallPage};
use abi::header::{INTERRUPT_VECTOR, ImageHeader};
use abi::layout::{self, PAGE_SIZE, Shared};
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::backend::{
    Backend, GuestView, MemoryExit, MsrAnswer, MsrExit, PhysicalAnswer, PortAnswer, PortExit, Stop,
};
use super::builder::{CreateError, map_slot};
use super::client_window::ClientWindow;
use super::convert::to_usize;
use super::interrupt_lines::InterruptLines;
use super::kick::{Due, Stopper, Watchdog};
use super::memory::MemoryError;
use super::paging::Protection;
use super::plan::Plan;
use super::vcpu::{Exit, Vcpu, VcpuError};

/// IRQL from which no tick is injected.
const DISPATCH_LEVEL: u32 = 2;
const STATUS_SUCCESS: u64 = 0;
const STATUS_CONFLICTING_ADDRESSES: u64 = 0xC000_0018;
const STATUS_INSUFFICIENT_RESOURCES: u64 = 0xC000_009A;
const STATUS_INVALID_PARAMETER: u64 = 0xC000_000D;

/// Why a physical range was not mapped.
enum Unmapped {
    Status(u64),
    Stop,
}

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

    fn doorbell(
        &mut self,
        backend: &mut dyn Backend,
        number: u32,
    ) -> Result<Option<Stop>, CreateError> {
        let Some(call) = Call::from_number(number) else {
            return Ok(Some(Stop::Failure(format!(
                "{number:#x} was stored to the doorbell, which is no call"
            ))));
        };
        let mut page: CallPage = self.view().read_shared(Shared::CALL_PAGE)?;
        let [first, second, third, fourth, ..] = page.arguments;
        match call {
            Call::Idle => {
                // Interrupts that came while the guest was on its way here.
                self.publish_lines()?;
                let state: State = self.view().read_shared(Shared::STATE)?;
                if state.interrupt_due != 0 {
                    return Ok(None);
                }
                let delay = (first != u64::MAX).then(|| self.until(first));
                return Ok(Some(Stop::Idle(delay)));
            }
            Call::Clients => return Ok(Some(Stop::Clients)),
            Call::DrainTrace => backend.drain_trace(&self.view()),
            Call::MapPhysical => {
                page.results = match self.map_physical(backend, first, second, third, fourth != 0) {
                    Ok(guest_physical) => [STATUS_SUCCESS, guest_physical, 0, 0],
                    Err(Unmapped::Status(status)) => [status, 0, 0, 0],
                    Err(Unmapped::Stop) => {
                        return Ok(Some(Stop::PolicyStop(format!(
                            "mapping of {second} bytes at physical address {first:#x}"
                        ))));
                    }
                };
            }
            Call::UnmapPhysical => {}
            Call::MapStack => {
                page.results[0] = match self.plan.map_stack(first, second, third) {
                    Ok(true) => STATUS_SUCCESS,
                    Ok(false) => STATUS_INVALID_PARAMETER,
                    Err(_) => STATUS_INSUFFICIENT_RESOURCES,
                };
            }
            Call::MapUserTable => {
                page.results = match self.plan.map_user_table(first) {
                    Ok(Some(entry)) => [STATUS_SUCCESS, entry, 0, 0],
                    Ok(None) => [STATUS_CONFLICTING_ADDRESSES, 0, 0, 0],
                    Err(_) => [STATUS_INSUFFICIENT_RESOURCES, 0, 0, 0],
                };
            }
            Call::Crash => {
                let record: CrashRecord = self.view().read_shared(Shared::CRASH)?;
                return Ok(Some(Stop::Crash(Box::new(record))));
            }
            Call::Shutdown => return Ok(Some(Stop::Shutdown)),
            Call::SetIoAccessMap => {
                let mut map = [0; 8192];
                if self.view().read(second, &mut map).is_ok() {
                    backend.io_access_map(first, &map);
                }
            }
            Call::SetProcessIoAccessMap => backend.process_io_access_map(first, second),
            Call::File => page.results = self.file(backend, page.arguments),
            Call::SaveRegistry => page.results[0] = self.save_registry(backend, first, second),
            Call::Msr => {
                let write = (second != 0).then_some(third);
                // A number that no instruction can have is the shim's bug or the driver's lie.
                let answer = u32::try_from(first).map_or(MsrAnswer::Fault, |number| {
                    let access = MsrExit {
                        number,
                        write,
                        rip: fourth,
                    };
                    backend.msr(&GuestView { plan: &self.plan }, access)
                });
                page.results = match answer {
                    MsrAnswer::Value(value) => [0, value, 0, 0],
                    MsrAnswer::Fault => [1, 0, 0, 0],
                    MsrAnswer::Stop => {
                        let number = u32::try_from(first).unwrap_or(u32::MAX);
                        return Ok(Some(stopped_at_msr(number, write)));
                    }
                };
            }
            Call::ArmTimer => self.watchdog.arm(self.until(first)),
        }
        self.view().write_shared(Shared::CALL_PAGE, &page)?;
        Ok(None)
    }

    /// A call for the host's files: the buffer is copied in before and out afterwards, never longer than it was.
    fn file(&self, backend: &mut dyn Backend, arguments: [u64; 6]) -> [u64; 4] {
        let [_, _, address, bytes, ..] = arguments;
        if bytes > abi::file::MAX_TRANSFER {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        let mut buffer = vec![0; to_usize(bytes)];
        if bytes != 0 && self.view().read(address, &mut buffer).is_err() {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        let results = backend.file(arguments, &mut buffer);
        buffer.truncate(to_usize(bytes));
        if results[0] == STATUS_SUCCESS
            && !buffer.is_empty()
            && self.view().write_pool(address, &buffer).is_err()
        {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        results
    }

    /// A copy of the registry's contents is handed on; returns an NTSTATUS.
    fn save_registry(&self, backend: &mut dyn Backend, address: u64, bytes: u64) -> u64 {
        if bytes > abi::doorbell::REGISTRY_MAX {
            return STATUS_INVALID_PARAMETER;
        }
        let mut contents = vec![0; to_usize(bytes)];
        if self.view().read(address, &mut contents).is_err() {
            return STATUS_INVALID_PARAMETER;
        }
        backend.save_registry(&contents)
    }

    /// Time from now to an interrupt time (100 ns units since boot).
    fn until(&self, interrupt_time: u64) -> Duration {
        Duration::from_nanos(interrupt_time.saturating_mul(100))
            .saturating_sub(self.boot_time.elapsed())
    }

    /// Fills page-table entries for a physical range; `Err` is what the call answers, or stops with.
    fn map_physical(
        &mut self,
        backend: &mut dyn Backend,
        physical: u64,
        bytes: u64,
        address: u64,
        is_write: bool,
    ) -> Result<u64, Unmapped> {
        let window = self.plan.kernel_base + layout::IO_WINDOW;
        let is_whole = [address, physical, bytes]
            .iter()
            .all(|value| value % PAGE_SIZE == 0)
            && bytes != 0;
        let is_in_window = address
            .checked_sub(window)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= layout::IO_WINDOW_SIZE);
        let is_user = self.plan.has_user_tables(address, bytes);
        if !is_whole || !is_in_window && !is_user {
            return Err(Unmapped::Status(STATUS_INVALID_PARAMETER));
        }
        let pieces =
            match backend.physical(&GuestView { plan: &self.plan }, physical, bytes, is_write) {
                PhysicalAnswer::Mapped(pieces) => pieces,
                PhysicalAnswer::Denied(status) => return Err(Unmapped::Status(u64::from(status))),
                PhysicalAnswer::Stop => return Err(Unmapped::Stop),
            };
        let first = pieces
            .first()
            .map_or(0, |piece| layout::IO_WINDOW_GPA + piece.window_offset);
        let protection = Protection {
            write: is_write,
            user: is_user || self.privilege == Privilege::Ring3,
            ..Protection::default()
        };
        let mut next = address;
        for piece in pieces {
            if piece.bytes > address + bytes - next {
                return Err(Unmapped::Status(STATUS_INVALID_PARAMETER));
            }
            let guest_physical = layout::IO_WINDOW_GPA + piece.window_offset;
            self.plan
                .tables
                .map(
                    &self.plan.ram,
                    next,
                    guest_physical,
                    piece.bytes,
                    protection,
                )
                .map_err(|_| Unmapped::Status(STATUS_INSUFFICIENT_RESOURCES))?;
            next += piece.bytes;
        }
        Ok(first)
    }

    /// Shows the guest what its interrupt lines did. Only the vCPU thread does so, and the guest does not run meanwhile.
    fn publish_lines(&mut self) -> Result<(), CreateError> {
        let Some(new) = self.lines.take() else {
            return Ok(());
        };
        let mut lines: abi::interrupt::InterruptLines =
            self.view().read_shared(Shared::INTERRUPTS)?;
        lines.asserted = new.asserted;
        lines.raised ^= new.edges & !lines.edges();
        self.view().write_shared(Shared::INTERRUPTS, &lines)?;
        if new.edges != 0 {
            let mut state: State = self.view().read_shared(Shared::STATE)?;
            state.interrupt_due = 1;
            self.view().write_shared(Shared::STATE, &state)?;
            self.lines.set_offered(true);
            // Shim code looks by itself; driver code is interrupted.
            self.is_exit_wanted = state.shim_depth == 0;
        }
        Ok(())
    }

    /// A signal came: interrupt the guest if a tick or a device is due and it can take that.
    fn interrupted(&mut self) -> Result<Option<Stop>, CreateError> {
        self.is_exit_wanted = false;
        let is_tick = match self.watchdog.due() {
            Due::Nothing => false,
            Due::Deadline => return Ok(Some(Stop::Hung)),
            Due::Stop => return Ok(Some(Stop::Asked)),
            Due::Tick => true,
        };
        let mut state: State = self.view().read_shared(Shared::STATE)?;
        if state.interrupt_due == 0 {
            self.lines.set_offered(false);
        }
        // A tick handler that runs sees no other.
        let is_tick = is_tick && state.in_tick == 0;
        let is_device = self.lines.is_offered();
        if !is_tick && !is_device {
            return Ok(None);
        }
        if is_tick && state.tick_due == 0 {
            state.tick_due = 1;
            self.view().write_shared(Shared::STATE, &state)?;
        }
        let is_tick_deferred =
            state.shim_depth != 0 || state.irql >= DISPATCH_LEVEL || state.interrupts_masked != 0;
        if is_tick && is_tick_deferred {
            self.watchdog.ticked();
        }
        // A device's interrupt may come at DISPATCH_LEVEL: the guest decides.
        let takes_device = is_device && state.shim_depth == 0 && state.interrupts_masked == 0;
        if !takes_device && (!is_tick || is_tick_deferred) {
            return Ok(None);
        }
        let rip = self.vcpu.registers()?.rip;
        let is_in_trap_window =
            (self.header.trap_window_start..self.header.trap_window_end).contains(&rip);
        let is_in_gate = (self.header.vectors..self.header.trap_window_start).contains(&rip);
        if is_in_trap_window || is_in_gate || !self.vcpu.can_interrupt() {
            return Ok(None);
        }
        self.vcpu.interrupt(INTERRUPT_VECTOR)?;
        if is_tick {
            self.watchdog.ticked();
        }
        Ok(None)
    }
}
