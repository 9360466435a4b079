//! Answers a guest's exits: policy and devices decide, the observer is told.

use abi::layout::Shared;
use abi::trace::{TRACE_ENTRIES, TraceRecord, TraceRing};

use crate::machine::{Backend, GuestView, PhysicalAnswer, PhysicalPiece, PortAnswer, PortExit};
use crate::observe::ports::{Decision as SeenDecision, Direction, PortRecord};
use crate::observe::trace::Observer;

use crate::policy::{MemoryDecision, MemoryRequest, MemorySpace, Policy};
use crate::ports::iopm::Mirror;
use crate::ports::{Action, Decision, Origin, PortOutcome, PortRequest, PortSpace, Width};

/// STATUS_ACCESS_DENIED.
const STATUS_ACCESS_DENIED: u32 = 0xC000_0022;

/// Everything outside the guest that its exits can reach.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) policy: Policy,
    pub(super) ports: PortSpace,
    pub(super) memory: MemorySpace,
    pub(super) mirror: Mirror,
    pub(super) observer: Observer,
    pub(super) exits: u64,
    /// Added to the host's time-stamp counter gives the guest's.
    pub(super) tsc_offset: u64,
    trace_consumed: u64,
}

impl Responder {
    pub(super) fn new(policy: Policy, ports: PortSpace, memory: MemorySpace, observer: Observer) -> Self {
        Self {
            policy,
            ports,
            memory,
            mirror: Mirror::new(),
            observer,
            exits: 0,
            tsc_offset: 0,
            trace_consumed: 0,
        }
    }

    /// Carries out a port access that is allowed as far as the guest goes; the policy still decides.
    pub(super) fn access(&mut self, access: PortExit) -> PortOutcome {
        // KVM reports 1, 2 and 4 only.
        let width = Width::from_bytes(access.width).unwrap_or(Width::Byte);
        let outcome = self.ports.access(PortRequest { port: access.port, width, write: access.write });
        let record = PortRecord {
            tsc: host_time_stamp().wrapping_add(self.tsc_offset),
            rip: access.rip,
            port: access.port,
            width: access.width,
            direction: if access.write.is_some() { Direction::Write } else { Direction::Read },
            value: access.write.unwrap_or(outcome.value),
            decision: self.seen(outcome.decision),
        };
        self.observer.port(&record);
        outcome
    }

    fn seen(&self, decision: Decision) -> SeenDecision {
        let allowed = decision.is_allowed();
        match decision.origin {
            Origin::Rule { index, line } => SeenDecision {
                allowed,
                backend: self.policy.port_rules().get(index).map_or("deny", |rule| rule.backend.name()),
                rule_line: u32::try_from(line).ok(),
            },
            Origin::Default | Origin::PastLastPort => {
                SeenDecision { allowed, backend: "deny", rule_line: None }
            }
        }
    }
}

#[expect(unsafe_code, reason = "RDTSC is an intrinsic")]
pub(super) fn host_time_stamp() -> u64 {
    // SAFETY: RDTSC reads a counter and nothing else.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl Backend for Responder {
    fn port(&mut self, guest: &GuestView<'_>, access: PortExit) -> PortAnswer {
        self.exits += 1;
        if self.observer.is_tracing() {
            // What the shim recorded before the access comes first.
            self.drain_trace(guest);
        }
        let outcome = self.access(access);
        match outcome.decision.action {
            Action::Allowed | Action::Ignored => PortAnswer::Value(outcome.value),
            Action::Fault => PortAnswer::Fault,
            Action::Stop => PortAnswer::Stop,
        }
    }

    fn physical(&mut self, address: u64, bytes: u64, is_write: bool) -> PhysicalAnswer {
        self.exits += 1;
        match self.memory.map(&MemoryRequest { address, bytes, is_write }) {
            MemoryDecision::Allowed(pieces) => {
                let backings = self.memory.backings();
                PhysicalAnswer::Mapped(
                    pieces
                        .iter()
                        .filter_map(|piece| {
                            let backing = backings.get(piece.backing)?;
                            Some(PhysicalPiece {
                                window_offset: backing.window_offset + piece.offset,
                                bytes: piece.bytes,
                            })
                        })
                        .collect(),
                )
            }
            MemoryDecision::Denied { action: Action::Stop, .. } => PhysicalAnswer::Stop,
            MemoryDecision::Denied { .. } => PhysicalAnswer::Denied(STATUS_ACCESS_DENIED),
        }
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

    fn drain_trace(&mut self, guest: &GuestView<'_>) {
        self.exits += 1;
        let offset = |field: usize| Shared::TRACE + field as u64;
        let Ok(produced) = guest.read_shared::<u64>(offset(std::mem::offset_of!(TraceRing, produced))) else {
            return;
        };
        // The guest may have lapped us, or lie: a ring full is the most there can be.
        let available = produced.wrapping_sub(self.trace_consumed).min(TRACE_ENTRIES as u64);
        let mut next = produced.wrapping_sub(available);
        while next != produced {
            let slot = (next % TRACE_ENTRIES as u64) as usize * size_of::<TraceRecord>();
            let entry = offset(std::mem::offset_of!(TraceRing, entries) + slot);
            if let Ok(record) = guest.read_shared::<TraceRecord>(entry) {
                self.observer.record(&record);
            }
            next = next.wrapping_add(1);
        }
        self.trace_consumed = produced;
        let consumed = offset(std::mem::offset_of!(TraceRing, consumed));
        // The shared pages are mapped for the guest's whole life, so this cannot fail.
        let _ = guest.write_shared(consumed, &produced).is_ok();
    }
}
