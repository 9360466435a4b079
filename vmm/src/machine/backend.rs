//! The seam between a guest and whoever answers its exits.

use std::time::Duration;

use abi::crash::CrashRecord;
use abi::layout;
use zerocopy::IntoBytes;

use super::builder::WindowMemory;
use super::memory::MemoryError;
use super::plan::Plan;

/// A port access by the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortExit {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// The value written; `None` reads.
    pub write: Option<u32>,
    /// Guest-virtual address of the instruction (or just past it, as KVM has it).
    pub rip: u64,
    /// Which element of its exit it is: KVM hands over several of a string instruction at once. 0 for the first, and for
    /// what is no string.
    pub element: u32,
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

/// A driver's `rdmsr` or `wrmsr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrExit {
    /// The MSR.
    pub number: u32,
    /// The value written; `None` reads.
    pub write: Option<u64>,
    /// Guest-virtual address of the instruction.
    pub rip: u64,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAnswer {
    /// It is done; the value read (ignored for a write).
    Value(u64),
    /// The instruction raises #GP.
    Fault,
    /// The guest is stopped.
    Stop,
}

/// An access to memory that has a device behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryExit {
    /// Physical address as the driver knows it.
    pub address: u64,
    /// Bytes, 1 to 8; they do not cross a page.
    pub bytes: u8,
    /// The value written; `None` reads.
    pub write: Option<u64>,
    /// Guest-virtual address of the instruction.
    pub rip: u64,
}

/// A change of the guest-physical I/O window: memory that appears there, moves or disappears while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowChange {
    slot: u32,
    memory: Option<WindowMemory>,
}

impl WindowChange {
    /// Slot `slot`, counted from 0, has this memory from now on.
    ///
    /// # Safety
    /// The host range must be a mapping that lives, and is not moved or unmapped, until another change of the slot has
    /// been carried out or the [`super::Vm`] is dropped.
    #[expect(unsafe_code, reason = "KVM is handed a host address")]
    #[must_use]
    pub const unsafe fn appears(slot: u32, memory: WindowMemory) -> Self {
        Self {
            slot,
            memory: Some(memory),
        }
    }

    /// Slot `slot` has no memory any more: accesses leave the guest.
    #[must_use]
    pub const fn disappears(slot: u32) -> Self {
        Self { slot, memory: None }
    }

    pub(super) const fn parts(self) -> (u32, Option<WindowMemory>) {
        (self.slot, self.memory)
    }
}

/// A piece of a mapped physical range: pages of the guest-physical I/O window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysicalPiece {
    /// Where, in bytes from [`abi::layout::IO_WINDOW_GPA`]; a multiple of the page size.
    pub window_offset: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
}

/// What becomes of a wish to map physical memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PhysicalAnswer {
    /// These pieces, one after the other.
    Mapped(Vec<PhysicalPiece>),
    /// Nothing; the driver's request fails with this NTSTATUS.
    Denied(u32),
    /// The guest is stopped.
    Stop,
}

/// The parts of a guest that its backend may look at during an exit.
#[derive(Debug)]
pub struct GuestView<'a> {
    pub(super) plan: &'a Plan,
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

    /// Writes to the guest's pool: where the guest may ask for answers to be put.
    ///
    /// # Errors
    /// When the range is not inside the pool.
    pub fn write_pool(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        self.plan.write_pool(address, from)
    }

    /// First address of kernel space.
    #[must_use]
    pub fn kernel_base(&self) -> u64 {
        self.plan.kernel_base
    }
}

/// STATUS_OBJECT_PATH_NOT_FOUND: there are no files.
const STATUS_OBJECT_PATH_NOT_FOUND: u64 = 0xC000_003A;

/// Who answers a guest's exits: policy, devices, trace.
pub trait Backend {
    /// A port access by driver or client.
    fn port(&mut self, guest: &GuestView<'_>, access: PortExit) -> PortAnswer;
    /// An access to an MSR by the driver. None reaches the guest's own: those are the VMM's.
    fn msr(&mut self, _guest: &GuestView<'_>, _access: MsrExit) -> MsrAnswer {
        MsrAnswer::Fault
    }
    /// What lies behind a physical range.
    fn physical(
        &mut self,
        guest: &GuestView<'_>,
        address: u64,
        bytes: u64,
        is_write: bool,
    ) -> PhysicalAnswer;
    /// An access to memory that a device is behind; what was read (of no meaning for a write).
    fn memory(&mut self, _guest: &GuestView<'_>, _access: MemoryExit) -> u64 {
        u64::MAX
    }
    /// What has changed in the I/O window since the last call. Asked for before each run and after each port access.
    fn window_changes(&mut self) -> Vec<WindowChange> {
        Vec::new()
    }
    /// An IOPM changed.
    fn io_access_map(&mut self, map: u64, bytes: &[u8; 8192]);
    /// A process was pointed at an IOPM.
    fn process_io_access_map(&mut self, process: u64, map: u64);
    /// Files of the host ([`abi::file`]): the call's arguments and a copy of its buffer; the results.
    fn file(&mut self, _arguments: [u64; 6], _buffer: &mut Vec<u8>) -> [u64; 4] {
        [STATUS_OBJECT_PATH_NOT_FOUND, 0, 0, 0]
    }
    /// A driver has flushed a key: the registry's contents ([`crate::registry::save`] takes them); returns an NTSTATUS.
    fn save_registry(&mut self, _contents: &[u8]) -> u64 {
        0
    }
    /// Take the trace ring's records.
    fn drain_trace(&mut self, guest: &GuestView<'_>);
}

/// Why [`super::Vm::run`] returned.
#[derive(Debug)]
pub enum Stop {
    /// The guest has nothing to do; until then, if a timer is set.
    Idle(Option<Duration>),
    /// Clients are to be looked after ([`abi::doorbell::Call::Clients`]); the guest has more to do.
    Clients,
    /// A crash record was left.
    Crash(Box<CrashRecord>),
    /// The guest is done.
    Shutdown,
    /// It ran for longer than allowed.
    Hung,
    /// [`super::Stopper::stop`].
    Asked,
    /// The policy said to stop.
    PolicyStop(String),
    /// KVM could not go on.
    Failure(String),
}
