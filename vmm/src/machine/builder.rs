//! Putting a guest together.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use abi::boot::BootInfo;
use abi::header::ImageHeader;
use abi::layout::{self, PAGE_SIZE};
use abi::windows::Windows;
use abi::{DriverAbi, Privilege};
use displaydoc::Display;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
    kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use thiserror::Error;

use super::backend::PhysicalPiece;
use super::client_window::ClientWindow;
use super::image::{GuestImage, ImageError};
use super::interrupt_lines::InterruptLines;
use super::kick::Watchdog;
use super::memory::MemoryError;
use super::plan::{DriverSlot, Plan, PlanError};
use super::vcpu::{BootState, Vcpu, VcpuError};
use super::vm::Vm;

/// Offset of NT's epoch (1601) from Unix's, in 100 ns units.
const NT_EPOCH_OFFSET: u64 = 116_444_736_000_000_000;
const RAM_SLOT: u32 = 0;
const FIRST_WINDOW_SLOT: u32 = 1;

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
    /// this machine's KVM does not hand the driver's rdmsr and wrmsr over (KVM_X86_SET_MSR_FILTER, Linux 5.10): use a newer kernel, or --privilege ring3
    Msrs(#[source] kvm_ioctls::Error),
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
    /// Which Windows it is.
    pub windows: Windows,
    /// Whether drivers' use of the pool is verified.
    pub is_verifying: bool,
}

/// Host memory that is placed in the guest-physical I/O window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowMemory {
    /// Host address of the first byte, page-aligned.
    pub host_address: u64,
    /// Where it goes.
    pub piece: PhysicalPiece,
    /// Whether the guest may ever store to it.
    pub is_writable: bool,
}

impl WindowMemory {
    pub(super) fn region(self, slot: u32) -> kvm_userspace_memory_region {
        kvm_userspace_memory_region {
            slot,
            flags: if self.is_writable {
                0
            } else {
                KVM_MEM_READONLY
            },
            guest_phys_addr: layout::IO_WINDOW_GPA + self.piece.window_offset,
            memory_size: self.piece.bytes,
            userspace_addr: self.host_address,
        }
    }
}

/// A guest that is being put together: drivers are placed before the first run.
#[derive(Debug)]
pub struct VmBuilder {
    config: VmConfig,
    vm: VmFd,
    vcpu: VcpuFd,
    plan: Plan,
    header: ImageHeader,
    next_slot: u32,
    lines: InterruptLines,
}

impl VmBuilder {
    /// Makes VM, vCPU and address space.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn new(kvm: &Kvm, config: VmConfig) -> Result<Self, CreateError> {
        let is_size_valid = config.ram_bytes.is_multiple_of(PAGE_SIZE)
            && (layout::RAM_MIN..=layout::RAM_MAX).contains(&config.ram_bytes);
        if !is_size_valid {
            return Err(CreateError::RamSize(config.ram_bytes));
        }
        let kvm_error = |call| move |source| CreateError::Kvm { call, source };
        let vm = kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))?;
        if config.privilege == Privilege::Ring0 {
            take_msrs(&vm)?;
        }
        let image = GuestImage::parse(images::guest(config.abi), config.abi)?;
        let plan = Plan::new(
            &image,
            config.abi,
            config.privilege,
            config.ram_bytes,
            config.windows,
            config.is_verifying,
        )?;
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
            next_slot: FIRST_WINDOW_SLOT,
            lines: InterruptLines::default(),
        })
    }

    /// The guest's interrupt lines.
    #[must_use]
    pub fn interrupt_lines(&self) -> InterruptLines {
        self.lines.clone()
    }

    /// Gives the guest interrupt lines that exist already, those of devices that were made before it.
    pub fn set_interrupt_lines(&mut self, lines: InterruptLines) {
        self.lines = lines;
    }

    /// Takes address space for a driver's image.
    ///
    /// # Errors
    /// When there is no room.
    pub fn reserve_driver(&mut self, bytes: u64) -> Result<DriverSlot, CreateError> {
        Ok(self.plan.reserve_driver(bytes)?)
    }

    /// Address for an import of export `index` from `dll`; `None` when this ABI does not have it.
    #[must_use]
    pub fn import_address(&self, index: usize, dll: &str) -> Option<u64> {
        self.plan.import_address(index, dll)
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

    /// Places host memory in the guest-physical I/O window, for [`super::Backend::physical`] to hand out.
    ///
    /// # Safety
    /// The host range must be a mapping that lives, and is not moved or unmapped, until the [`Vm`] is dropped.
    ///
    /// # Errors
    /// When KVM refuses.
    #[expect(
        unsafe_code,
        reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
    )]
    pub unsafe fn add_window_memory(&mut self, memory: WindowMemory) -> Result<(), CreateError> {
        let slot = self.next_slot;
        self.next_slot += 1;
        // SAFETY: the caller's promise.
        unsafe { map_slot(&self.vm, memory.region(slot)) }
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
                heap_bytes: layout::heap_size(self.config.ram_bytes),
            },
        )?;
        let tsc_khz = vcpu.tsc_khz().unwrap_or(1_000_000);
        let (tsc_offset, boot_tsc) = vcpu.time_stamp();
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let system_time = u64::try_from(since_1970.as_nanos() / 100).unwrap_or(0) + NT_EPOCH_OFFSET;
        self.plan.finish(BootInfo {
            tsc_khz,
            boot_tsc,
            system_time,
            trace_lossless: u32::from(self.config.is_trace_lossless),
            ..Plan::empty_boot_info()
        })?;
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            flags: 0,
            guest_phys_addr: layout::RAM_BASE,
            memory_size: self.plan.ram.bytes(),
            userspace_addr: self.plan.ram.host_address()?,
        };
        #[expect(
            unsafe_code,
            reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
        )]
        // SAFETY: guest RAM belongs to the plan, which `Vm` drops after the VM's descriptor.
        unsafe { map_slot(&self.vm, region) }?;
        let watchdog = Watchdog::start(self.config.timeout, self.lines.clone())
            .map_err(CreateError::Watchdog)?;
        Ok(Vm {
            vcpu,
            watchdog,
            vm: self.vm,
            next_slot: self.next_slot,
            plan: self.plan,
            header: self.header,
            tsc_khz,
            tsc_offset,
            boot_tsc,
            boot_time: Instant::now(),
            privilege: self.config.privilege,
            is_busy: false,
            lines: self.lines,
            is_exit_wanted: false,
            late_stops: 0,
            clients: ClientWindow::new(layout::client_window(self.config.abi).1),
        })
    }
}

/// Has every `rdmsr` and `wrmsr` of the guest exit: it has no use for one itself, and the driver's are for the policy to
/// decide. What the VMM sets up by KVM_SET_SREGS is not concerned.
fn take_msrs(vm: &VmFd) -> Result<(), CreateError> {
    let mut exits = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    exits.args[0] = u64::from(
        KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER,
    );
    vm.enable_cap(&exits).map_err(CreateError::Msrs)?;
    // A filter that denies everything has to name something that it denies.
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: 0,
        msr_count: 8,
        bitmap: &[0],
    };
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &[range])
        .map_err(CreateError::Msrs)
}

/// Makes a host range a memslot.
///
/// # Safety
/// The range must be mapped for as long as `vm` can run a vCPU.
#[expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
)]
pub(super) unsafe fn map_slot(
    vm: &VmFd,
    region: kvm_userspace_memory_region,
) -> Result<(), CreateError> {
    // SAFETY: the caller's promise.
    unsafe { vm.set_user_memory_region(region) }.map_err(|source| CreateError::Kvm {
        call: "KVM_SET_USER_MEMORY_REGION",
        source,
    })
}
