//! A guest, from exit to exit.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use abi::boot::BootInfo;
use abi::channel::State;
use abi::crash::CrashRecord;
use abi::doorbell::{Call, CallPage};
use abi::header::{ImageHeader, TICK_VECTOR};
use abi::layout::{self, PAGE_SIZE, Shared};
use abi::{DriverAbi, Privilege};
use displaydoc::Display;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use thiserror::Error;
use zerocopy::IntoBytes;

use super::image::{GuestImage, ImageError};
use super::kick::{Due, Watchdog};
use super::memory::MemoryError;
use super::paging::Protection;
use super::plan::{DriverSlot, Plan, PlanError};
use super::vcpu::{BootState, Exit, Vcpu, VcpuError};

/// IRQL from which no tick is injected.
const DISPATCH_LEVEL: u32 = 2;
/// Offset of NT's epoch (1601) from Unix's, in 100 ns units.
const NT_EPOCH_OFFSET: u64 = 116_444_736_000_000_000;
const RAM_SLOT: u32 = 0;
const FIRST_IO_SLOT: u32 = 1;
const STATUS_SUCCESS: u64 = 0;
const STATUS_INSUFFICIENT_RESOURCES: u64 = 0xC000_009A;
const STATUS_INVALID_PARAMETER: u64 = 0xC000_000D;

/// Why a guest could not be made.
#[derive(Debug, Display, Error)]
pub enum CreateError {
    /// guest image
    Image(#[from] ImageError),
    /// guest layout
    Plan(#[from] PlanError),
    /// guest memory
    Memory(#[from] MemoryError),
    /// vCPU
    Vcpu(#[from] VcpuError),
    /// KVM refused {call}
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// Its error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// cannot start the watchdog thread
    Watchdog(#[source] std::io::Error),
    /// guest memory of {0} bytes: it must be a multiple of 4096 between 8 MiB and 1 GiB
    RamSize(u64),
}

/// What a guest is made of.
#[derive(Debug, Clone, Copy)]
pub struct VmConfig {
    /// Driver ABI.
    pub abi: DriverAbi,
    /// Privilege mode.
    pub privilege: Privilege,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// How long the guest may run without being idle.
    pub timeout: Duration,
    /// Whether every trace record must reach the VMM.
    pub is_trace_lossless: bool,
}

/// A port access by the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortExit {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// The value written; `None` reads.
    pub write: Option<u32>,
}

/// What becomes of a port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortAnswer {
    /// It is done; the value read (ignored for a write).
    Value(u32),
    /// The instruction raises #GP.
    Fault,
    /// The guest is stopped.
    Stop,
}

/// Memory behind a mapped physical range.
#[derive(Debug, Clone, Copy)]
pub struct PhysicalBacking {
    /// Host address of the first byte, page-aligned, valid for the VM's life.
    pub host_address: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
}

/// The parts of a guest that its backend may look at during an exit.
#[derive(Debug)]
pub struct GuestView<'a> {
    plan: &'a Plan,
}

impl GuestView<'_> {
    /// Reads guest-virtual memory.
    ///
    /// # Errors
    /// When part of it is not mapped.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.plan.read_virtual(address, into)
    }

    /// Reads a value at an offset in the shared pages.
    ///
    /// # Errors
    /// Never for an offset inside them.
    pub fn read_shared<T: zerocopy::FromBytes + IntoBytes>(
        &self,
        offset: u64,
    ) -> Result<T, MemoryError> {
        let mut value = T::new_zeroed();
        self.read(
            self.plan.kernel_base + layout::SHARED + offset,
            value.as_mut_bytes(),
        )?;
        Ok(value)
    }

    /// Writes a value at an offset in the shared pages.
    ///
    /// # Errors
    /// Never for an offset inside them.
    pub fn write_shared<T: IntoBytes + zerocopy::Immutable>(
        &self,
        offset: u64,
        value: &T,
    ) -> Result<(), MemoryError> {
        self.plan.write_virtual(
            self.plan.kernel_base + layout::SHARED + offset,
            value.as_bytes(),
        )
    }

    /// First address of kernel space.
    #[must_use]
    pub fn kernel_base(&self) -> u64 {
        self.plan.kernel_base
    }
}

/// Who answers a guest's exits: policy, devices, trace.
pub trait Backend {
    /// A port access by driver or client.
    fn port(&mut self, guest: &GuestView<'_>, access: PortExit) -> PortAnswer;
    /// Memory behind a physical range, or an NTSTATUS.
    ///
    /// # Errors
    /// The NTSTATUS that the driver's request fails with.
    fn physical(
        &mut self,
        address: u64,
        bytes: u64,
        is_write: bool,
    ) -> Result<PhysicalBacking, u32>;
    /// An IOPM changed.
    fn io_access_map(&mut self, map: u64, bytes: &[u8; 8192]);
    /// A process was pointed at an IOPM.
    fn process_io_access_map(&mut self, process: u64, map: u64);
    /// Take the trace ring's records.
    fn drain_trace(&mut self, guest: &GuestView<'_>);
}

/// Why [`Vm::run`] returned.
#[derive(Debug)]
pub enum Stop {
    /// The guest has nothing to do; until then, if a timer is set.
    Idle(Option<Duration>),
    /// A crash record was left.
    Crash(Box<CrashRecord>),
    /// The guest is done.
    Shutdown,
    /// It ran for longer than allowed.
    Hung,
    /// The policy said to stop.
    PolicyStop(PortExit),
    /// KVM could not go on.
    Failure(String),
}

/// A guest with its vCPU. Everything happens on the thread that created it.
#[derive(Debug)]
pub struct Vm {
    // Field order is drop order: the vCPU and VM descriptors go before the memory that they use.
    vcpu: Vcpu,
    watchdog: Watchdog,
    vm: VmFd,
    plan: Plan,
    header: ImageHeader,
    tsc_khz: u64,
    boot_time: Instant,
    next_io_slot: u32,
    next_io_gpa: u64,
    is_busy: bool,
}

/// A guest that is being put together: drivers are placed before the first run.
#[derive(Debug)]
pub struct VmBuilder {
    config: VmConfig,
    vm: VmFd,
    vcpu: VcpuFd,
    plan: Plan,
    header: ImageHeader,
}

impl VmBuilder {
    /// Makes VM, vCPU and address space.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn new(kvm: &Kvm, config: VmConfig) -> Result<Self, CreateError> {
        let is_size_valid = config.ram_bytes % PAGE_SIZE == 0
            && (layout::RAM_MIN..=layout::RAM_MAX).contains(&config.ram_bytes);
        if !is_size_valid {
            return Err(CreateError::RamSize(config.ram_bytes));
        }
        let kvm_error = |call| move |source| CreateError::Kvm { call, source };
        let vm = kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))?;
        let image = GuestImage::parse(images::guest(config.abi), config.abi)?;
        let plan = Plan::new(&image, config.abi, config.privilege, config.ram_bytes)?;
        let vcpu = vm.create_vcpu(0).map_err(kvm_error("KVM_CREATE_VCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(kvm_error("KVM_SET_CPUID2"))?;
        Ok(Self {
            config,
            vm,
            vcpu,
            plan,
            header: image.header,
        })
    }

    /// Takes address space for a driver's image.
    ///
    /// # Errors
    /// When there is no room.
    pub fn reserve_driver(&mut self, bytes: u64) -> Result<DriverSlot, CreateError> {
        Ok(self.plan.reserve_driver(bytes)?)
    }

    /// Address for an import of export `index`; `None` when this ABI does not have it.
    #[must_use]
    pub fn export_address(&self, index: usize) -> Option<u64> {
        self.plan.export_address(index)
    }

    /// Address for an import that is not in the table, and its number.
    ///
    /// # Errors
    /// When there are too many.
    pub fn bind_unbound(&mut self) -> Result<(u64, usize), CreateError> {
        Ok(self.plan.bind_unbound()?)
    }

    /// Puts a driver's image into its slot.
    ///
    /// # Errors
    /// When RAM is used up.
    pub fn place_driver(
        &mut self,
        slot: DriverSlot,
        memory: &[u8],
        protection: impl Fn(usize) -> (bool, bool),
    ) -> Result<(), CreateError> {
        Ok(self.plan.place_driver(slot, memory, protection)?)
    }

    /// Makes the guest ready to run. It belongs to the calling thread from here on.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn build(mut self) -> Result<Vm, CreateError> {
        let vcpu = Vcpu::new(
            self.vcpu,
            BootState {
                page_tables: self.plan.tables.root(),
                entry: self.header.entry,
                kernel_base: self.plan.kernel_base,
                abi: self.config.abi,
                privilege: self.config.privilege,
            },
        )?;
        let tsc_khz = vcpu.tsc_khz().unwrap_or(1_000_000);
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let system_time = u64::try_from(since_1970.as_nanos() / 100).unwrap_or(0) + NT_EPOCH_OFFSET;
        self.plan.finish(BootInfo {
            tsc_khz,
            system_time,
            trace_lossless: u32::from(self.config.is_trace_lossless),
            ..Plan::empty_boot_info()
        })?;
        map_slot(
            &self.vm,
            RAM_SLOT,
            layout::RAM_BASE,
            self.plan.ram.host_address()?,
            self.plan.ram.bytes(),
        )?;
        let watchdog = Watchdog::start(self.config.timeout).map_err(CreateError::Watchdog)?;
        Ok(Vm {
            vcpu,
            watchdog,
            vm: self.vm,
            plan: self.plan,
            header: self.header,
            tsc_khz,
            boot_time: Instant::now(),
            next_io_slot: FIRST_IO_SLOT,
            next_io_gpa: layout::IO_WINDOW_GPA,
            is_busy: false,
        })
    }
}

#[expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
)]
fn map_slot(
    vm: &VmFd,
    slot: u32,
    guest_physical: u64,
    host_address: u64,
    bytes: u64,
) -> Result<(), CreateError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: guest_physical,
        memory_size: bytes,
        userspace_addr: host_address,
    };
    // SAFETY: the host range is guest RAM, which `Vm` drops after the VM's descriptor, or a backing that its owner
    // keeps for the VM's life (`PhysicalBacking`).
    unsafe { vm.set_user_memory_region(region) }.map_err(|source| CreateError::Kvm {
        call: "KVM_SET_USER_MEMORY_REGION",
        source,
    })
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

    /// Address of an export as drivers see it.
    #[must_use]
    pub fn export_address(&self, index: usize) -> Option<u64> {
        self.plan.export_address(index)
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

    /// Runs the guest until it is idle or stops.
    pub fn run(&mut self, backend: &mut dyn Backend) -> Stop {
        if !self.is_busy {
            self.is_busy = true;
            self.watchdog.busy();
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
        Ok(match self.vcpu.run()? {
            Exit::Port {
                port,
                width,
                count,
                is_write,
            } => self.port(backend, port, width, count, is_write)?,
            Exit::MmioWrite {
                address: layout::DOORBELL_GPA,
                data,
                bytes: 4,
            } => {
                let [a, b, c, d, ..] = data;
                self.doorbell(backend, u32::from_le_bytes([a, b, c, d]))?
            }
            Exit::MmioWrite { address, bytes, .. } => Some(Stop::Failure(format!(
                "the guest stored {bytes} bytes to guest-physical address {address:#x}, where no memory is"
            ))),
            Exit::MmioRead { address } => Some(Stop::Failure(format!(
                "the guest read guest-physical address {address:#x}, where no memory is"
            ))),
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
                PortAnswer::Stop => return Ok(Some(Stop::PolicyStop(access))),
            }
        }
        Ok(None)
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
                let delay = (first != u64::MAX).then(|| self.until(first));
                return Ok(Some(Stop::Idle(delay)));
            }
            Call::DrainTrace => backend.drain_trace(&self.view()),
            Call::MapPhysical => {
                page.results = match self.map_physical(backend, first, second, third, fourth != 0) {
                    Ok(guest_physical) => [STATUS_SUCCESS, guest_physical, 0, 0],
                    Err(status) => [status, 0, 0, 0],
                };
            }
            Call::UnmapPhysical => {}
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
            Call::ArmTimer => self.watchdog.arm(self.until(first)),
        }
        self.view().write_shared(Shared::CALL_PAGE, &page)?;
        Ok(None)
    }

    /// Time from now to an interrupt time (100 ns units since boot).
    fn until(&self, interrupt_time: u64) -> Duration {
        Duration::from_nanos(interrupt_time.saturating_mul(100))
            .saturating_sub(self.boot_time.elapsed())
    }

    fn map_physical(
        &mut self,
        backend: &mut dyn Backend,
        physical: u64,
        bytes: u64,
        address: u64,
        is_write: bool,
    ) -> Result<u64, u64> {
        let window = self.plan.kernel_base + layout::IO_WINDOW;
        let is_in_window = address % PAGE_SIZE == 0
            && physical % PAGE_SIZE == 0
            && bytes % PAGE_SIZE == 0
            && bytes != 0
            && address
                .checked_sub(window)
                .and_then(|offset| offset.checked_add(bytes))
                .is_some_and(|end| end <= layout::IO_WINDOW_SIZE);
        if !is_in_window {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let backing = backend
            .physical(physical, bytes, is_write)
            .map_err(u64::from)?;
        if backing.bytes < bytes {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let guest_physical = self.next_io_gpa;
        if guest_physical + bytes > layout::IO_WINDOW_GPA + layout::IO_WINDOW_GPA_SIZE {
            return Err(STATUS_INSUFFICIENT_RESOURCES);
        }
        map_slot(
            &self.vm,
            self.next_io_slot,
            guest_physical,
            backing.host_address,
            bytes,
        )
        .map_err(|_| STATUS_INSUFFICIENT_RESOURCES)?;
        self.next_io_slot += 1;
        self.next_io_gpa += bytes;
        let protection = Protection {
            write: is_write,
            user: self.plan.kernel_base < 0xFFFF_0000_0000_0000 && self.is_ring3(),
            uncached: false,
            execute: false,
        };
        self.plan
            .tables
            .map(&self.plan.ram, address, guest_physical, bytes, protection)
            .map_err(|_| STATUS_INSUFFICIENT_RESOURCES)?;
        Ok(guest_physical)
    }

    fn is_ring3(&self) -> bool {
        let mut word = [0; 8];
        self.plan
            .read_virtual(self.header.is_ring3, &mut word)
            .is_ok()
            && word != [0; 8]
    }

    /// A signal came: deliver the tick if it is due and the guest can take it.
    fn interrupted(&mut self) -> Result<Option<Stop>, CreateError> {
        match self.watchdog.due() {
            Due::Nothing => return Ok(None),
            Due::Deadline => return Ok(Some(Stop::Hung)),
            Due::Tick => {}
        }
        let mut state: State = self.view().read_shared(Shared::STATE)?;
        if state.in_tick != 0 {
            return Ok(None);
        }
        if state.shim_depth != 0 || state.irql >= DISPATCH_LEVEL {
            state.tick_due = 1;
            self.view().write_shared(Shared::STATE, &state)?;
            self.watchdog.ticked();
            return Ok(None);
        }
        let rip = self.vcpu.registers()?.rip;
        let is_in_trap_window =
            (self.header.trap_window_start..self.header.trap_window_end).contains(&rip);
        let is_in_gate = (self.header.vectors..self.header.trap_window_start).contains(&rip);
        if is_in_trap_window || is_in_gate || !self.vcpu.can_interrupt() {
            return Ok(None);
        }
        self.vcpu.interrupt(TICK_VECTOR)?;
        self.watchdog.ticked();
        Ok(None)
    }
}
