//! Which KVM this is and what it can do.

use std::path::Path;

use abi::Privilege;
use displaydoc::Display;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VmFd};
use thiserror::Error;

use super::memory::GuestRam;
use super::vcpu::Exit;

/// The KVM API version that every kernel since 2.6.22 has.
const API_VERSION: i32 = 12;

/// Why KVM cannot be used. The texts tell what to do.
#[derive(Debug, Display, Error)]
pub enum KvmError {
    /// /dev/kvm does not exist: load the kvm_intel or kvm_amd module (modprobe), enable virtualization in the firmware, or, in a virtual machine, nested virtualization; in a container pass the device through
    Missing,
    /// no permission to open /dev/kvm: join its group (usually "sudo usermod -aG kvm $USER", then log in again) or run as root
    Permission,
    /// /dev/kvm cannot be opened
    Open(#[source] kvm_ioctls::Error),
    /// /dev/kvm answers KVM_GET_API_VERSION with {0}, not 12: it is not KVM's device (see `ls -l /dev/kvm`; KVM's is character device 10, 232), or its KVM is older than Linux 2.6.22
    Version(i32),
}

/// Opens /dev/kvm.
///
/// # Errors
/// See [`KvmError`].
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Open(error),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(KvmError::Version(other)),
    }
}

/// The implementation behind /dev/kvm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvmKind {
    /// Intel VMX.
    Intel,
    /// AMD SVM.
    Amd,
    /// The paravirtual "pagetable VM": ring-0 code is interpreted.
    Paravirtual,
    /// Built into the kernel or hidden: only a probe can tell.
    Unknown,
}

impl KvmKind {
    /// Tells by the modules that the kernel lists.
    #[must_use]
    pub fn detect() -> Self {
        let has = |module: &str| Path::new("/sys/module").join(module).exists();
        if has("kvm_pvm") {
            Self::Paravirtual
        } else if has("kvm_intel") {
            Self::Intel
        } else if has("kvm_amd") {
            Self::Amd
        } else {
            Self::Unknown
        }
    }

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
            Self::Paravirtual => "kvm_pvm",
            Self::Unknown => "unknown",
        }
    }
}

/// What `--privilege auto` picks, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrivilegeChoice {
    /// The mode.
    pub privilege: Privilege,
    /// The reason, as a clause.
    pub reason: &'static str,
}

/// Chooses the privilege mode for this machine's KVM.
#[must_use]
pub fn choose_privilege(kvm: &Kvm) -> PrivilegeChoice {
    match KvmKind::detect() {
        KvmKind::Paravirtual => PrivilegeChoice {
            privilege: Privilege::Ring3,
            reason: "kvm_pvm interprets ring-0 code and has no SSE there",
        },
        KvmKind::Intel | KvmKind::Amd => PrivilegeChoice {
            privilege: Privilege::Ring0,
            reason: "hardware KVM runs ring-0 code on the processor",
        },
        KvmKind::Unknown if runs_sse_at_ring0(kvm) => PrivilegeChoice {
            privilege: Privilege::Ring0,
            reason: "a probe executed an SSE instruction at ring 0",
        },
        KvmKind::Unknown => PrivilegeChoice {
            privilege: Privilege::Ring3,
            reason: "a probe could not execute an SSE instruction at ring 0",
        },
    }
}

/// Whether ring-0 code can use SSE: runs two instructions in a real-mode guest of their own.
#[must_use]
pub fn runs_sse_at_ring0(kvm: &Kvm) -> bool {
    matches!(probe(kvm), Ok(Exit::Halt))
}

/// `mov eax, cr4` / `or ax, OSFXSR` / `mov cr4, eax` / `addps xmm0, xmm0` / `hlt`, in real mode.
const PROBE_CODE: [u8; 15] = [
    0x0F, 0x20, 0xE0, 0x0D, 0x00, 0x06, 0x0F, 0x22, 0xE0, 0x0F, 0x58, 0xC0, 0xF4, 0xF4, 0xF4,
];

fn probe(kvm: &Kvm) -> Result<Exit, Box<dyn std::error::Error>> {
    let vm = kvm.create_vm()?;
    let ram = GuestRam::new(abi::layout::PAGE_SIZE)?;
    ram.write(abi::layout::RAM_BASE, &PROBE_CODE)?;
    map_ram(&vm, 0, 0, &ram)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_bindings::kvm_regs {
        rip: 0,
        rflags: 2,
        ..Default::default()
    })?;
    Ok(match vcpu.run()? {
        kvm_ioctls::VcpuExit::Hlt => Exit::Halt,
        _ => Exit::Other(0),
    })
}

/// Makes guest RAM a memslot.
#[expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
)]
pub(super) fn map_ram(
    vm: &VmFd,
    slot: u32,
    guest_physical: u64,
    ram: &GuestRam,
) -> Result<(), Box<dyn std::error::Error>> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: guest_physical,
        memory_size: ram.bytes(),
        userspace_addr: ram.host_address()?,
    };
    // SAFETY: the host range is RAM's mapping, which its owner keeps for longer than the VM's descriptor.
    unsafe { vm.set_user_memory_region(region) }?;
    Ok(())
}
