//! The vCPU: boot state, run, registers, interrupt injection.
#![expect(
    unsafe_code,
    reason = "KVM's shared run page and one ioctl that kvm-ioctls lacks"
)]

use abi::DriverAbi;
use abi::layout::{self, selector};
use displaydoc::Display;
use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVMIO,
    Msrs, kvm_interrupt, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use thiserror::Error;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::convert::{to_u16, to_usize};

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_RESERVED: u64 = 2;
const RFLAGS_IF: u64 = 1 << 9;
const MSR_TSC: u32 = 0x10;

/// Why the vCPU could not be set up or run.
#[derive(Debug, Display, Error)]
pub enum VcpuError {
    /// KVM refused {call}
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// Its error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// the guest touched memory that the machine has taken away: a mapped BAR of a PCI function whose memory space is off (bit 1 of its command register), or that sleeps
    Unbacked(#[source] kvm_ioctls::Error),
}

fn kvm_error(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> VcpuError {
    move |source| VcpuError::Kvm { call, source }
}

/// Why KVM_RUN returned, decoded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// `in`/`out`, possibly a string of `count`; the data is in the run page.
    Port {
        /// First port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        width: u8,
        /// How many (rep ins/outs).
        count: u32,
        /// Guest writes.
        is_write: bool,
    },
    /// A store to an address with no memory; at most 8 bytes.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        data: [u8; 8],
        /// How many.
        bytes: u8,
    },
    /// A load from an address with no memory; [`Vcpu::answer_mmio`] says what it gives. All ones until then.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// How many bytes, 1 to 8.
        bytes: u8,
    },
    /// `rdmsr`; [`Vcpu::answer_msr`] says what it returns.
    MsrRead {
        /// The MSR.
        number: u32,
    },
    /// `wrmsr`; [`Vcpu::answer_msr`] says whether it is done.
    MsrWrite {
        /// The MSR.
        number: u32,
        /// The value.
        value: u64,
    },
    /// A signal came.
    Interrupted,
    /// `hlt`.
    Halt,
    /// Triple fault.
    Shutdown,
    /// KVM's emulator gave up, or another internal error.
    InternalError {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
    },
    /// The processor refused the guest state.
    FailEntry {
        /// Hardware's reason.
        reason: u64,
    },
    /// Any other exit reason.
    Other(u32),
}

/// Where the vCPU starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct BootState {
    /// Guest-physical address of the page tables' root.
    pub page_tables: u64,
    /// First instruction.
    pub entry: u64,
    /// First address of kernel space.
    pub kernel_base: u64,
    /// The driver ABI, for the KPCR's segment.
    pub abi: DriverAbi,
    /// Bytes of the shim's heap.
    pub(super) heap_bytes: u64,
}

/// The one vCPU of a guest.
#[derive(Debug)]
pub(super) struct Vcpu {
    fd: VcpuFd,
}

fn code_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector: selector::KERNEL_CODE64,
        type_: 0xB,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data_segment(selector: u16, base: u64, dpl: u8) -> kvm_segment {
    kvm_segment {
        base,
        limit: 0xFFFF_FFFF,
        selector,
        type_: 3,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}

impl Vcpu {
    /// Puts a fresh vCPU into long mode at the guest's entry, at CPL 0.
    ///
    /// # Errors
    /// When KVM refuses the state.
    pub(super) fn new(mut fd: VcpuFd, boot: BootState) -> Result<Self, VcpuError> {
        let mut sregs = fd.get_sregs().map_err(kvm_error("KVM_GET_SREGS"))?;
        Self::set_long_mode(&mut sregs, boot);
        fd.set_sregs(&sregs).map_err(kvm_error("KVM_SET_SREGS"))?;
        fd.set_regs(&kvm_regs {
            rip: boot.entry,
            // As at a function's first instruction: 16-byte alignment less the return address.
            rsp: boot.kernel_base + layout::STACK + layout::STACK_SIZE - 8,
            rdi: boot.kernel_base,
            rsi: boot.heap_bytes,
            rflags: RFLAGS_RESERVED | RFLAGS_IF,
            ..Default::default()
        })
        .map_err(kvm_error("KVM_SET_REGS"))?;
        fd.set_sync_valid_reg(SyncReg::Register);
        Ok(Self { fd })
    }

    /// RIP at the last exit (KVM_CAP_SYNC_REGS), without a system call.
    #[must_use]
    pub(super) fn exit_rip(&self) -> u64 {
        self.fd.sync_regs().regs.rip
    }

    fn set_long_mode(sregs: &mut kvm_sregs, boot: BootState) {
        let pcr = boot.kernel_base + layout::PCR;
        sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
        sregs.cr3 = boot.page_tables;
        sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        sregs.efer = EFER_LME | EFER_LMA | EFER_NXE;
        sregs.cs = code_segment();
        sregs.ss = data_segment(selector::KERNEL_DATA, 0, 0);
        // DPL 3 data segments serve both privilege modes: a change of ring does not null them.
        sregs.ds = data_segment(selector::USER_DATA, 0, 3);
        sregs.es = data_segment(selector::USER_DATA, 0, 3);
        match boot.abi {
            DriverAbi::I386 => {
                sregs.fs = data_segment(selector::USER_PCR, pcr, 3);
                sregs.gs = data_segment(selector::USER_DATA, 0, 3);
            }
            DriverAbi::Amd64 => {
                sregs.fs = data_segment(selector::USER_DATA, 0, 3);
                sregs.gs = data_segment(selector::USER_DATA, pcr, 3);
            }
        }
        sregs.gdt.base = boot.kernel_base + layout::DESCRIPTORS;
        sregs.gdt.limit = selector::GDT_SIZE - 1;
        sregs.idt.base = boot.kernel_base + layout::DESCRIPTORS + layout::PAGE_SIZE;
        sregs.idt.limit = const { to_u16(abi::header::VECTOR_COUNT * 16 - 1) };
    }

    /// Whether the next [`Self::run`] is to return as soon as what the last exit began is complete.
    pub(super) fn set_immediate_exit(&mut self, is_wanted: bool) {
        self.fd.set_kvm_immediate_exit(u8::from(is_wanted));
    }

    /// Runs the guest until it exits.
    ///
    /// # Errors
    /// When KVM_RUN fails for another reason than a signal.
    pub(super) fn run(&mut self) -> Result<Exit, VcpuError> {
        let exit = match self.fd.run() {
            Ok(VcpuExit::MmioWrite(address, from)) => {
                let mut data = [0; 8];
                let mut bytes = 0;
                for (into, &from) in data.iter_mut().zip(from) {
                    *into = from;
                    bytes += 1;
                }
                return Ok(Exit::MmioWrite {
                    address,
                    data,
                    bytes,
                });
            }
            Ok(VcpuExit::MmioRead(address, into)) => {
                into.fill(0xFF);
                let bytes = u8::try_from(into.len()).unwrap_or(8);
                return Ok(Exit::MmioRead { address, bytes });
            }
            Ok(VcpuExit::X86Rdmsr(exit)) => Exit::MsrRead { number: exit.index },
            Ok(VcpuExit::X86Wrmsr(exit)) => Exit::MsrWrite {
                number: exit.index,
                value: exit.data,
            },
            Ok(VcpuExit::Hlt) => Exit::Halt,
            Ok(VcpuExit::Shutdown) => Exit::Shutdown,
            Ok(VcpuExit::FailEntry(reason, _)) => Exit::FailEntry { reason },
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => return Ok(self.decode_port()),
            Ok(VcpuExit::InternalError) => {
                // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this is the union's live variant.
                let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
                Exit::InternalError { suberror }
            }
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(_) => Exit::Other(self.fd.get_kvm_run().exit_reason),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Exit::Interrupted,
            Err(error) if error.errno() == libc::EFAULT => return Err(VcpuError::Unbacked(error)),
            Err(error) => {
                return Err(VcpuError::Kvm {
                    call: "KVM_RUN",
                    source: error,
                });
            }
        };
        Ok(exit)
    }

    fn decode_port(&mut self) -> Exit {
        let run = self.fd.get_kvm_run();
        debug_assert_eq!(run.exit_reason, KVM_EXIT_IO);
        // SAFETY: the exit reason is KVM_EXIT_IO, so this is the union's live variant.
        let io = unsafe { run.__bindgen_anon_1.io };
        Exit::Port {
            port: io.port,
            width: io.size,
            count: io.count,
            is_write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
        }
    }

    /// The data of the `index`-th access of the port exit that [`Self::run`] just returned.
    pub(super) fn port_data(&mut self, index: u32) -> &mut [u8] {
        let run = self.fd.get_kvm_run();
        // SAFETY: callers call this after a port exit only, when this is the union's live variant.
        let io = unsafe { run.__bindgen_anon_1.io };
        let offset = to_usize(io.data_offset) + index as usize * usize::from(io.size);
        debug_assert!(index < io.count);
        let base = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: KVM places count * size bytes at data_offset inside the run mapping (KVM API, KVM_EXIT_IO), and
        // `index < count`.
        let data = unsafe { base.add(offset) };
        // SAFETY: as above; the mapping lives as long as `self`, which is borrowed, and KVM does not touch it
        // until the next run.
        unsafe { std::slice::from_raw_parts_mut(data, usize::from(io.size)) }
    }

    /// Answers the MSR exit that [`Self::run`] just returned: what is read (of no meaning for a write), or `None` for #GP.
    pub(super) fn answer_msr(&mut self, value: Option<u64>) {
        let run = self.fd.get_kvm_run();
        debug_assert!(matches!(
            run.exit_reason,
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR
        ));
        // SAFETY: callers call this after an MSR exit only, when this is the union's live variant; all of its bytes are
        // plain numbers.
        let msr = unsafe { &mut run.__bindgen_anon_1.msr };
        msr.error = u8::from(value.is_none());
        msr.data = value.unwrap_or(0);
    }

    /// Answers the load that [`Self::run`] just returned: little-endian, as many bytes of it as were asked for.
    pub(super) fn answer_mmio(&mut self, value: u64) {
        let run = self.fd.get_kvm_run();
        debug_assert_eq!(run.exit_reason, KVM_EXIT_MMIO);
        // SAFETY: callers call this after an MMIO exit only, when this is the union's live variant; all of its bytes are
        // plain numbers.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        mmio.data = value.to_le_bytes();
    }

    /// General registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn registers(&self) -> Result<kvm_regs, VcpuError> {
        self.fd.get_regs().map_err(kvm_error("KVM_GET_REGS"))
    }

    /// Segment and control registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn special_registers(&self) -> Result<kvm_sregs, VcpuError> {
        self.fd.get_sregs().map_err(kvm_error("KVM_GET_SREGS"))
    }

    /// Completes a port access that exited, without running on: KVM finishes it at the next KVM_RUN.
    fn complete_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        // EINTR is the expected result.
        let _ = self.fd.run().is_ok();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Makes the port instruction that just exited raise #GP(0), as for a port that the IOPM denies.
    ///
    /// # Errors
    /// When KVM refuses, or the instruction is not found.
    pub(super) fn fault_port_access(
        &mut self,
        read_code: impl Fn(u64, &mut [u8]) -> bool,
    ) -> Result<(), VcpuError> {
        self.complete_exit();
        let mut registers = self.registers()?;
        // KVM has moved RIP past the instruction; it is one or two bytes, perhaps after prefixes. (In the middle of a
        // string access it has not, and RIP stays.)
        let mut code = [0; 4];
        let start = registers.rip.wrapping_sub(4);
        if read_code(start, &mut code) {
            let length = match code {
                [_, _, 0x66, 0xE4..=0xE7] => 2,
                [_, 0x66, 0xE4..=0xE7, _] => 3,
                [.., 0xE4..=0xE7, _] => 2,
                [_, 0x66, 0xF2 | 0xF3, 0x6C..=0x6F] | [_, 0xF2 | 0xF3, 0x66, 0x6C..=0x6F] => 3,
                [.., 0xF2 | 0xF3, 0x6C..=0x6F] => 2,
                [.., 0x66, 0xEC..=0xEF | 0x6C..=0x6F] => 2,
                [.., 0xEC..=0xEF | 0x6C..=0x6F] => 1,
                _ => 0,
            };
            registers.rip -= length;
            self.fd
                .set_regs(&registers)
                .map_err(kvm_error("KVM_SET_REGS"))?;
        }
        let mut events = self
            .fd
            .get_vcpu_events()
            .map_err(kvm_error("KVM_GET_VCPU_EVENTS"))?;
        events.exception.injected = 1;
        events.exception.nr = 13;
        events.exception.has_error_code = 1;
        events.exception.error_code = 0;
        self.fd
            .set_vcpu_events(&events)
            .map_err(kvm_error("KVM_SET_VCPU_EVENTS"))
    }

    /// Whether an interrupt could be injected now.
    pub(super) fn can_interrupt(&mut self) -> bool {
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection != 0 && run.if_flag != 0
    }

    /// Injects an interrupt (KVM_INTERRUPT; there is no in-kernel interrupt controller).
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn interrupt(&self, vector: u8) -> Result<(), VcpuError> {
        let interrupt = kvm_interrupt {
            irq: u32::from(vector),
        };
        // SAFETY: the descriptor is a vCPU's and the argument is the struct that KVM_INTERRUPT reads.
        let result = unsafe { ioctl_with_ref(&self.fd, KVM_INTERRUPT(), &interrupt) };
        if result < 0 {
            return Err(VcpuError::Kvm {
                call: "KVM_INTERRUPT",
                source: kvm_ioctls::Error::last(),
            });
        }
        Ok(())
    }

    /// The guest's time-stamp counter less the host's, and the guest's now. Where KVM does not tell the guest's,
    /// it is taken for the host's.
    #[must_use]
    pub(super) fn time_stamp(&self) -> (u64, u64) {
        let entry = kvm_msr_entry {
            index: MSR_TSC,
            ..Default::default()
        };
        let guest = Msrs::from_entries(&[entry]).ok().and_then(|mut msrs| {
            let count = self.fd.get_msrs(&mut msrs).ok()?;
            (count == 1).then(|| msrs.as_slice().first().map(|entry| entry.data))?
        });
        // Taken after the guest's: the difference is then at most too small, so that what the host stamps is never
        // later than what the guest stamps next.
        // SAFETY: RDTSC reads a counter and nothing else.
        let host = unsafe { core::arch::x86_64::_rdtsc() };
        let guest = guest.unwrap_or(host);
        (guest.wrapping_sub(host), guest)
    }

    /// Frequency of the guest's time-stamp counter in kHz, if KVM tells.
    #[must_use]
    pub(super) fn tsc_khz(&self) -> Option<u64> {
        self.fd
            .get_tsc_khz()
            .ok()
            .map(u64::from)
            .filter(|&khz| khz != 0)
    }
}
