//! Answers a guest's exits: policy and devices decide, the observer is told.

use std::path::PathBuf;

use abi::channel::State;
use abi::layout::{PAGE_SIZE, Shared};
use abi::trace::{TRACE_ENTRIES, TraceKind, TraceRecord, TraceRing};

use super::function_window::FunctionWindow;
use crate::devices::RunningModel;
use crate::machine::convert::to_usize;
use crate::machine::{
    Backend, DEVICE_ADDRESS_MAX, DEVICE_WINDOW, GuestView, MemoryExit, MsrAnswer, MsrExit,
    PhysicalAnswer, PhysicalPiece, PortAnswer, PortExit, WindowChange,
};
use crate::msr::MsrSpace;
use crate::observe::memory::MemoryRecord;
use crate::observe::msr::MsrRecord;
use crate::observe::ports::{Decision, Direction, PortRecord};
use crate::observe::symbols::{Module, ModuleKind};
use crate::observe::trace::Observer;

use crate::pci::PciSpace;
use crate::policy::{MemoryDecision, MemoryMapping, MemoryRequest, MemorySpace};
use crate::ports::iopm::Mirror;
use crate::ports::{Action, Origin, PortOutcome, PortRequest, PortSpace, Width};

const STATUS_SUCCESS: u64 = 0;
const STATUS_REGISTRY_IO_FAILED: u64 = 0xC000_014D;
/// STATUS_ACCESS_DENIED.
const STATUS_ACCESS_DENIED: u32 = 0xC000_0022;

/// Everything outside the guest that its exits can reach.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) ports: PortSpace,
    pub(super) memory: MemorySpace,
    pub(super) msrs: MsrSpace,
    pub(super) mirror: Mirror,
    pub(super) observer: Observer,
    /// The guest's files, if it has any.
    pub(super) files: Option<crate::files::Files>,
    /// Where the registry is kept, if it is.
    pub(super) registry: Option<PathBuf>,
    pub(super) exits: u64,
    /// Where modelled PCI functions' memory is in the guest.
    window: FunctionWindow,
    /// Added to the host's time-stamp counter gives the guest's.
    pub(super) tsc_offset: u64,
    /// Time stamp of the last record from the ring.
    last_tsc: u64,
    trace_consumed: u64,
}

impl Responder {
    pub(super) fn new(
        ports: PortSpace,
        memory: MemorySpace,
        msrs: MsrSpace,
        observer: Observer,
    ) -> Self {
        Self {
            ports,
            memory,
            msrs,
            mirror: Mirror::new(),
            observer,
            files: None,
            registry: None,
            exits: 0,
            window: FunctionWindow::default(),
            tsc_offset: 0,
            last_tsc: 0,
            trace_consumed: 0,
        }
    }

    /// The device models of the policy.
    pub(super) fn models(&self) -> Vec<RunningModel> {
        let mut models = self.ports.models();
        models.extend(self.memory.models());
        models
    }

    /// The guest's time-stamp counter now; never before the records that were drained.
    fn time_stamp(&self) -> u64 {
        host_time_stamp()
            .wrapping_add(self.tsc_offset)
            .max(self.last_tsc)
    }

    /// Carries out a port access that is allowed as far as the guest goes; the policy still decides.
    pub(super) fn access(&mut self, access: PortExit) -> PortOutcome {
        let rip = access.rip;
        self.access_for(access, rip)
    }

    /// As [`Self::access`], made by the instruction at `rip`.
    fn access_for(&mut self, access: PortExit, rip: u64) -> PortOutcome {
        // KVM reports 1, 2 and 4 only; anything else would be decided as its first byte.
        let request = PortRequest::from_exit(access).unwrap_or(PortRequest {
            port: access.port,
            width: Width::Byte,
            write: access.write,
        });
        let outcome = self.ports.access(request);
        let record = PortRecord {
            tsc: self.time_stamp(),
            rip,
            port: access.port,
            width: access.width,
            direction: if access.write.is_some() {
                Direction::Write
            } else {
                Direction::Read
            },
            value: access.write.unwrap_or(outcome.value),
            decision: self.ports.record(outcome.decision),
        };
        self.observer.port(&record);
        outcome
    }
}

impl Responder {
    /// A mapping of memory that modelled PCI functions have. `None`: they have not all of it, or a rule has the first
    /// page, and rules win.
    fn map_function(
        &mut self,
        request: &MemoryRequest,
        tsc: u64,
        rip: u64,
    ) -> Option<PhysicalAnswer> {
        let last = request.address.checked_add(request.bytes.checked_sub(1)?)?;
        if self.memory.has_rule_at(request.address) || last > DEVICE_ADDRESS_MAX {
            return None;
        }
        let line = self.ports.pci()?.memory_rule(request.address, last)?;
        if let Some(recorder) = self.observer.recorder() {
            let direction = if request.is_write {
                Direction::Write
            } else {
                Direction::Read
            };
            let verdict = function_decision(Some(line));
            recorder.mapping(tsc, rip, request.address, request.bytes, direction, verdict);
        }
        let first = request.address & !(PAGE_SIZE - 1);
        let end = (last | (PAGE_SIZE - 1)) + 1;
        Some(PhysicalAnswer::Mapped(vec![PhysicalPiece {
            window_offset: DEVICE_WINDOW + first,
            bytes: end - first,
        }]))
    }
}

/// What is recorded of an access to a modelled PCI function.
fn function_decision(line: Option<usize>) -> Decision {
    Decision {
        allowed: true,
        backend: "pci",
        rule_line: line.and_then(|line| u32::try_from(line).ok()),
    }
}

/// The return address of the API call that the driver is in.
fn caller(guest: &GuestView<'_>) -> Option<u64> {
    let caller_at = Shared::STATE + std::mem::offset_of!(State, caller_at) as u64;
    let address = guest.read_shared::<u64>(caller_at).ok()?;
    let mut caller = [0; 8];
    // The guest may have put any address there: one that cannot be read says nothing.
    guest.read(address, &mut caller).ok()?;
    Some(u64::from_le_bytes(caller)).filter(|caller| *caller != 0)
}

/// Who made an access: the instruction's address if it lies in a driver's image, else the driver's call that the shim
/// serves with it, if there is one.
fn driver_address(guest: &GuestView<'_>, observer: &Observer, rip: u64) -> u64 {
    let is_shim = |module: &Module| module.kind != ModuleKind::Driver;
    if !observer.context().symbols.module(rip).is_some_and(is_shim) {
        return rip;
    }
    caller(guest).unwrap_or(rip)
}

#[expect(unsafe_code, reason = "RDTSC is an intrinsic")]
pub(super) fn host_time_stamp() -> u64 {
    // SAFETY: RDTSC reads a counter and nothing else.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Where each backing lies in the guest-physical I/O window: one after the other, an absent page between them.
pub(super) fn window_offsets(memory: &MemorySpace) -> impl Iterator<Item = u64> + '_ {
    memory.backings().iter().scan(0, |next, backing| {
        let offset = *next;
        *next += backing.bytes() + PAGE_SIZE;
        Some(offset)
    })
}

impl Backend for Responder {
    fn port(&mut self, guest: &GuestView<'_>, access: PortExit) -> PortAnswer {
        if access.element == 0 {
            self.exits += 1;
        }
        if self.observer.is_tracing() {
            // What the shim recorded before the access comes first.
            self.drain_trace(guest);
        }
        let rip = driver_address(guest, &self.observer, access.rip);
        self.access_for(access, rip).into()
    }

    fn msr(&mut self, guest: &GuestView<'_>, access: MsrExit) -> MsrAnswer {
        self.exits += 1;
        if self.observer.is_tracing() {
            self.drain_trace(guest);
        }
        let outcome = self.msrs.access(access.number, access.write);
        let record = MsrRecord {
            tsc: self.time_stamp(),
            rip: access.rip,
            number: access.number,
            direction: if access.write.is_some() {
                Direction::Write
            } else {
                Direction::Read
            },
            value: access.write.unwrap_or(outcome.value),
            decision: self.msrs.record(outcome.decision),
        };
        self.observer.msr(&record);
        outcome.into()
    }

    fn physical(
        &mut self,
        guest: &GuestView<'_>,
        address: u64,
        bytes: u64,
        is_write: bool,
    ) -> PhysicalAnswer {
        self.exits += 1;
        let request = MemoryRequest {
            address,
            bytes,
            is_write,
        };
        let tsc = self.time_stamp();
        // The doorbell that asked is the shim's: the driver's call is who did.
        let rip = caller(guest).unwrap_or(0);
        if let Some(answer) = self.map_function(&request, tsc, rip) {
            return answer;
        }
        let decision = self.memory.map(&request);
        if let Some(recorder) = self.observer.recorder() {
            let direction = if is_write {
                Direction::Write
            } else {
                Direction::Read
            };
            let verdict = self.memory.record(&request, &decision);
            recorder.mapping(tsc, rip, address, bytes, direction, verdict);
        }
        match decision {
            MemoryDecision::Allowed(mappings) => {
                let offsets: Vec<u64> = window_offsets(&self.memory).collect();
                let piece = |mapping: &MemoryMapping| PhysicalPiece {
                    window_offset: mapping
                        .backing
                        .map_or(DEVICE_WINDOW, |backing| offsets[backing])
                        + mapping.offset,
                    bytes: mapping.bytes,
                };
                PhysicalAnswer::Mapped(mappings.iter().map(piece).collect())
            }
            MemoryDecision::Denied {
                action: Action::Stop,
                ..
            } => PhysicalAnswer::Stop,
            MemoryDecision::Denied { .. } => PhysicalAnswer::Denied(STATUS_ACCESS_DENIED),
        }
    }

    fn memory(&mut self, guest: &GuestView<'_>, access: MemoryExit) -> u64 {
        self.exits += 1;
        if self.observer.is_tracing() {
            self.drain_trace(guest);
        }
        let MemoryExit {
            address,
            bytes,
            write,
            rip,
        } = access;
        let (value, decision) = match self.memory.access(address, bytes, write) {
            Some(done) => done,
            None => match self.ports.pci_mut() {
                Some(space) => {
                    let (value, origin) = space.access_memory(address, bytes, write);
                    (value, function_decision(origin.and_then(Origin::line)))
                }
                None => (u64::MAX, function_decision(None)),
            },
        };
        let mask = u64::MAX >> (64 - 8 * u32::from(bytes.clamp(1, 8)));
        let record = MemoryRecord {
            tsc: self.time_stamp(),
            rip: driver_address(guest, &self.observer, rip),
            address,
            bytes,
            direction: if write.is_some() {
                Direction::Write
            } else {
                Direction::Read
            },
            value: write.unwrap_or(value) & mask,
            decision,
        };
        self.observer.memory(&record);
        value
    }

    fn window_changes(&mut self) -> Vec<WindowChange> {
        let ram = self.ports.pci_mut().and_then(PciSpace::take_moved_ram);
        ram.map_or_else(Vec::new, |ram| self.window.changes(&ram))
    }

    fn io_access_map(&mut self, map: u64, bytes: &[u8; 8192]) {
        self.exits += 1;
        if let Ok(number) = u32::try_from(map) {
            self.mirror.set_map(number, bytes);
        }
    }

    fn process_io_access_map(&mut self, process: u64, map: u64) {
        self.exits += 1;
        if let (Ok(process), Ok(map)) = (u32::try_from(process), u32::try_from(map)) {
            self.mirror.set_process(process, map);
        }
    }

    fn file(&mut self, arguments: [u64; 6], buffer: &mut Vec<u8>) -> [u64; 4] {
        self.exits += 1;
        match &mut self.files {
            Some(files) => files.call(arguments, buffer),
            // Of these calls only "is there a directory" is made then, and this answers it.
            None => [0; 4],
        }
    }

    fn save_registry(&mut self, contents: &[u8]) -> u64 {
        self.exits += 1;
        let Some(path) = &self.registry else {
            return STATUS_SUCCESS;
        };
        match crate::registry::save(path, contents) {
            Ok(()) => STATUS_SUCCESS,
            Err(error) => {
                tracing::error!("a flushed key is not saved: {}", crate::error_chain(&error));
                STATUS_REGISTRY_IO_FAILED
            }
        }
    }

    fn drain_trace(&mut self, guest: &GuestView<'_>) {
        self.exits += 1;
        let offset = |field: usize| Shared::TRACE + field as u64;
        let Ok(produced) =
            guest.read_shared::<u64>(offset(std::mem::offset_of!(TraceRing, produced)))
        else {
            return;
        };
        // The guest may have lapped us, or lie: a ring full is the most there can be.
        let available = produced
            .wrapping_sub(self.trace_consumed)
            .min(TRACE_ENTRIES as u64);
        let overwritten = produced
            .wrapping_sub(self.trace_consumed)
            .wrapping_sub(available);
        let mut has_log = false;
        let mut next = produced.wrapping_sub(available);
        while next != produced {
            let slot = to_usize(next % TRACE_ENTRIES as u64) * size_of::<TraceRecord>();
            let entry = offset(std::mem::offset_of!(TraceRing, entries) + slot);
            if let Ok(mut record) = guest.read_shared::<TraceRecord>(entry) {
                if record.tsc == 0 {
                    record.tsc = self.last_tsc;
                }
                has_log |= record.kind == TraceKind::Log as u16;
                self.last_tsc = record.tsc;
                self.observer.record(&record);
            }
            next = next.wrapping_add(1);
        }
        self.trace_consumed = produced;
        if overwritten != 0 && has_log {
            tracing::warn!(
                "{overwritten} records before these were overwritten, lines of the driver's log perhaps among them; \
                 --trace keeps all"
            );
        }
        let consumed = offset(std::mem::offset_of!(TraceRing, consumed));
        // The shared pages are mapped for the guest's whole life, so this cannot fail.
        let _ = guest.write_shared(consumed, &produced).is_ok();
    }
}
