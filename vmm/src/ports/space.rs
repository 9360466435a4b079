//! The guest's port space: each access is decided by the policy and carried out by its back end.

mod denial;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::denial::Denial;
use super::host::HostPorts;
use super::index_pair::{PairSlot, decide_data};
use super::open::{Backends, StartError, open_devices, open_host, open_mechanism, open_pairs};
use super::slot::Slot;
use super::stats::{DeniedCounts, PortRuleStats, PortStats};
use super::table::{CONFIG_PORTS, DecisionTable, Owner};
use super::{Decision, DenialReason, Origin, PortOutcome, PortRequest, Width};
use crate::devices::{DeviceError, RunningModel};
use crate::machine::Bus;
use crate::pci::{ConfigMechanism, PciSpace};
use crate::policy::{Defaults, LogLimiter, Policy, PortBackend};

/// First port of CONFIG_DATA.
const CONFIG_DATA: u16 = 0xCFC;

/// Time since some fixed moment, for limits.
type Clock = Box<dyn FnMut() -> Duration + Send>;
/// Lets time pass.
type Sleep = Box<dyn FnMut(Duration) + Send>;

/// All ports of a guest.
pub struct PortSpace {
    file: String,
    defaults: Defaults,
    table: DecisionTable,
    slots: Vec<Slot>,
    pairs: Vec<PairSlot>,
    mechanism: Option<ConfigMechanism>,
    host: Option<Arc<HostPorts>>,
    denied: DeniedCounts,
    past_last_port: u64,
    limiter: LogLimiter,
    clock: Clock,
    sleep: Sleep,
}

impl fmt::Debug for PortSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSpace")
            .field("policy", &self.file)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// Neighbouring bytes of an access that go to one back end.
#[derive(Clone, Copy, Debug)]
struct Part {
    owner: Owner,
    /// The first one's offset in the access.
    byte: u16,
    bytes: u16,
}

impl Part {
    /// The part's bits of a value.
    fn of(&self, value: u32) -> u32 {
        let mask = u32::MAX >> (32 - 8 * u32::from(self.bytes));
        (value >> (8 * u32::from(self.byte))) & mask
    }
}

/// The parts of an access, lowest port first.
#[derive(Debug)]
struct Parts {
    parts: [Part; 4],
    count: usize,
}

impl Parts {
    fn as_slice(&self) -> &[Part] {
        &self.parts[..self.count]
    }
}

impl PortSpace {
    /// Sets up every back end that the policy names: creates output files, opens the machine's ports.
    ///
    /// # Errors
    /// [`StartError`] for the first that cannot be set up.
    pub fn new(policy: &Policy) -> Result<Self, StartError> {
        Self::with_backends(policy, Backends::default())
    }

    /// As [`PortSpace::new`], with ways to the machine.
    ///
    /// # Errors
    /// [`StartError`] for the first back end that cannot be set up.
    pub fn with_backends(policy: &Policy, backends: Backends) -> Result<Self, StartError> {
        let start = Instant::now();
        let clock = Box::new(move || start.elapsed());
        let mut space = Self::with_bus(policy, clock, &backends.bus)?;
        space.mechanism = open_mechanism(policy, backends.pci, &backends.bus)?;
        Ok(space)
    }

    /// Without PCI functions and interrupts, and with a clock that waiting does not move.
    #[cfg(test)]
    pub(super) fn with_clock(policy: &Policy, clock: Clock) -> Result<Self, StartError> {
        Self::with_bus(policy, clock, &Bus::default())
    }

    fn with_bus(policy: &Policy, clock: Clock, bus: &Bus) -> Result<Self, StartError> {
        let host = open_host(policy)?;
        let devices = open_devices(policy, host.as_ref(), bus)?;
        let slots = policy
            .port_rules()
            .iter()
            .zip(devices)
            .map(|(rule, device)| Slot::new(rule.clone(), device))
            .collect();
        Ok(Self {
            file: policy.file().to_owned(),
            defaults: *policy.defaults(),
            table: DecisionTable::compile(policy),
            slots,
            pairs: open_pairs(policy, host.as_ref()),
            mechanism: None,
            host,
            denied: DeniedCounts::new(),
            past_last_port: 0,
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock,
            sleep: Box::new(std::thread::sleep),
        })
    }

    /// Makes sure that the calling thread can use the machine's ports (ioperm(2) is a thread's permission). An
    /// access does so by itself, so this is for a thread that will soon be forbidden the system call.
    ///
    /// # Errors
    /// The system call's.
    pub fn attach_thread(&self) -> io::Result<()> {
        self.host
            .as_ref()
            .map_or(Ok(()), |host| host.attach_thread())
    }

    /// Decides an access and, when it is allowed, carries it out.
    ///
    /// A wide access over several rules is allowed when each of its bytes is; each back end then gets its part,
    /// lowest port first. A denied access reaches no back end at all.
    #[inline]
    pub fn access(&mut self, request: PortRequest) -> PortOutcome {
        let is_write = request.write.is_some();
        // The usual case: one rule has all of it, and nothing but place and direction decides.
        if let Some(index) = self.table.plain(request.port, request.width, is_write) {
            let slot = &mut self.slots[index];
            let value = slot.perform(request.port, request.width, request.write);
            let line = slot.rule.line;
            return PortOutcome {
                value,
                decision: Decision::allowed(Origin::Rule { index, line }),
            };
        }
        self.access_in_parts(&request)
    }

    fn access_in_parts(&mut self, request: &PortRequest) -> PortOutcome {
        let checked = self
            .parts(request)
            .and_then(|parts| self.check(request, &parts).map(|wait| (parts, wait)));
        let (parts, wait) = match checked {
            Ok(checked) => checked,
            Err(denial) => return self.deny(request, &denial),
        };
        if let Some((now, wait)) = wait {
            if !wait.is_zero() {
                (self.sleep)(wait);
            }
            for part in parts.as_slice() {
                if let Owner::Rule(index) = part.owner {
                    self.slots[index].take(now + wait);
                }
            }
        }
        let mut value = 0;
        let mut origin = None;
        for part in parts.as_slice() {
            let (part_value, part_origin) = self.perform(request, part);
            value |= part_value << (8 * u32::from(part.byte));
            origin.get_or_insert(part_origin);
        }
        PortOutcome {
            value: if request.write.is_some() {
                0
            } else {
                value & request.width.mask()
            },
            decision: Decision::allowed(origin.unwrap_or(Origin::Default)),
        }
    }

    /// The BAR of a modelled PCI function that a port belongs to.
    fn bar_at(&self, port: u16) -> Owner {
        self.pci()
            .and_then(|space| space.port_bar(port))
            .map_or(Owner::Nobody, Owner::Bar)
    }

    /// The PCI functions, if the policy has rules for any.
    #[must_use]
    pub fn pci(&self) -> Option<&PciSpace> {
        self.mechanism.as_ref().map(|mechanism| &mechanism.space)
    }

    /// As [`Self::pci`].
    pub fn pci_mut(&mut self) -> Option<&mut PciSpace> {
        self.mechanism
            .as_mut()
            .map(|mechanism| &mut mechanism.space)
    }

    /// Cuts an access up by who decides about its ports; or the first port that is denied whatever the access is.
    fn parts(&self, request: &PortRequest) -> Result<Parts, Denial> {
        let is_write = request.write.is_some();
        let mut found = Parts {
            parts: [Part {
                owner: Owner::Nobody,
                byte: 0,
                bytes: 0,
            }; 4],
            count: 0,
        };
        for byte in 0..request.width.bytes() {
            let Some(port) = request.port.checked_add(byte) else {
                return Err(self.denial(
                    u16::MAX,
                    Origin::PastLastPort,
                    DenialReason::PastLastPort,
                ));
            };
            let owner = match self.table.owner(port) {
                // What a rule names is the rule's, wherever a driver moves a BAR to.
                Owner::Nobody => self.bar_at(port),
                owner => owner,
            };
            match owner {
                Owner::Nobody => {
                    return Err(self.denial(port, Origin::Default, DenialReason::Unnamed));
                }
                Owner::Mechanism
                    if port < CONFIG_DATA
                        && (request.port, request.width)
                            != (*CONFIG_PORTS.start(), Width::Dword) =>
                {
                    // CONFIG_ADDRESS exists for 4-byte accesses alone.
                    return Err(self.denial(port, Origin::Default, DenialReason::Unnamed));
                }
                Owner::Rule(index) if !self.table.allows(port, is_write) => {
                    let line = self.slots[index].rule.line;
                    let origin = Origin::Rule { index, line };
                    return Err(self.denial(port, origin, DenialReason::Direction));
                }
                Owner::Rule(_) | Owner::Pair { .. } | Owner::Mechanism | Owner::Bar(_) => {}
            }
            match found.parts[..found.count].last_mut() {
                // The two ports of a pair are two registers of 8 bits.
                Some(part) if part.owner == owner && !matches!(owner, Owner::Pair { .. }) => {
                    part.bytes += 1;
                }
                _ => {
                    found.parts[found.count] = Part {
                        owner,
                        byte,
                        bytes: 1,
                    };
                    found.count += 1;
                }
            }
        }
        Ok(found)
    }

    /// Asks every part's rule. The time of the check and how long to wait, if there are limits.
    fn check(
        &mut self,
        request: &PortRequest,
        parts: &Parts,
    ) -> Result<Option<(Duration, Duration)>, Denial> {
        let mut times: Option<(Duration, Duration)> = None;
        // A word over both ports writes the index first, so the data access meets that index.
        let mut index_written: Option<(usize, u8)> = None;
        for part in parts.as_slice() {
            let port = request.port + part.byte;
            let value = request.write.map(|value| part.of(value));
            match part.owner {
                Owner::Rule(index) => {
                    let now = if self.slots[index].is_limited() {
                        times
                            .get_or_insert_with(|| ((self.clock)(), Duration::ZERO))
                            .0
                    } else {
                        Duration::ZERO
                    };
                    let slot = &self.slots[index];
                    match slot.check(request.width, value, now) {
                        Ok(wait) => {
                            if let Some((_, longest)) = &mut times {
                                *longest = wait.max(*longest);
                            }
                        }
                        Err(reason) => {
                            let line = slot.rule.line;
                            return Err(self.denial(port, Origin::Rule { index, line }, reason));
                        }
                    }
                }
                Owner::Pair {
                    pair,
                    is_data: false,
                } => {
                    index_written = value.map(|value| (pair, value.to_le_bytes()[0]));
                }
                Owner::Pair {
                    pair,
                    is_data: true,
                } => {
                    let slot = &self.pairs[pair];
                    let written = index_written
                        .filter(|(written_pair, _)| *written_pair == pair)
                        .map_or_else(|| slot.written(), |(_, index)| index);
                    let value = value.map(|value| value.to_le_bytes()[0]);
                    if let Err(reason) = decide_data(&slot.rule, written, value) {
                        let origin = Origin::IndexPair {
                            index: pair,
                            line: slot.rule.place.line,
                        };
                        return Err(self.denial(port, origin, reason));
                    }
                }
                Owner::Mechanism if port >= CONFIG_DATA => {
                    self.check_config_data(port, part, value)?;
                }
                Owner::Mechanism | Owner::Nobody | Owner::Bar(_) => {}
            }
        }
        Ok(times)
    }

    /// What the rule of the selected function says. A function that is not there is no denial: it reads all ones.
    fn check_config_data(
        &mut self,
        port: u16,
        part: &Part,
        value: Option<u32>,
    ) -> Result<(), Denial> {
        let Some(mechanism) = &mut self.mechanism else {
            return Ok(());
        };
        let mut denied = None;
        for (at, width) in pieces(port, part.bytes) {
            let value = value.map(|value| value >> (8 * u32::from(at - port)));
            let decision = mechanism.decide(at - CONFIG_DATA, width, value);
            if let Some(
                decision @ Decision {
                    reason: Some(reason),
                    ..
                },
            ) = decision
                && decision.origin != Origin::AbsentFunction
            {
                denied.get_or_insert((decision.origin, reason));
            }
        }
        denied.map_or(Ok(()), |(origin, reason)| {
            Err(self.denial(port, origin, reason))
        })
    }

    /// Carries out a part of an access that is allowed.
    fn perform(&mut self, request: &PortRequest, part: &Part) -> (u32, Origin) {
        let port = request.port + part.byte;
        let write = request.write.map(|value| part.of(value));
        match part.owner {
            Owner::Rule(index) => {
                let slot = &mut self.slots[index];
                let value = slot.perform_part(port, part.bytes, write);
                let line = slot.rule.line;
                (value, Origin::Rule { index, line })
            }
            Owner::Pair { pair, is_data } => {
                let slot = &mut self.pairs[pair];
                let write = write.map(|value| value.to_le_bytes()[0]);
                let value = if is_data {
                    slot.access_data(write)
                } else {
                    slot.access_index(write)
                };
                let origin = Origin::IndexPair {
                    index: pair,
                    line: slot.rule.place.line,
                };
                (value.into(), origin)
            }
            Owner::Mechanism => self.perform_config(port, part.bytes, write),
            Owner::Bar(bar) => match &mut self.mechanism {
                Some(mechanism) => mechanism.space.access_port(bar, port, part.bytes, write),
                None => (u32::MAX, Origin::Default),
            },
            Owner::Nobody => (u32::MAX, Origin::Default),
        }
    }

    fn perform_config(&mut self, port: u16, bytes: u16, write: Option<u32>) -> (u32, Origin) {
        let Some(mechanism) = &mut self.mechanism else {
            return (u32::MAX, Origin::ConfigMechanism);
        };
        if port < CONFIG_DATA {
            return (mechanism.access_address(write), Origin::ConfigMechanism);
        }
        let mut value = 0;
        let mut origin = Origin::ConfigMechanism;
        for (at, width) in pieces(port, bytes) {
            let shift = 8 * u32::from(at - port);
            let write = write.map(|value| (value >> shift) & width.mask());
            let piece = match mechanism.access_data(at - CONFIG_DATA, width, write) {
                Some(outcome) => {
                    origin = outcome.decision.origin;
                    outcome.value
                }
                None => width.mask(),
            };
            value |= piece << shift;
        }
        (value, origin)
    }

    /// A decision in the form that traces and crash reports keep.
    #[must_use]
    pub fn record(&self, decision: Decision) -> crate::observe::ports::Decision {
        let (backend, line) = match decision.origin {
            Origin::Rule { index, line } => {
                let slot = self.slots.get(index);
                let backend = slot.map_or("deny", |slot| slot.rule.backend.name());
                (backend, Some(line))
            }
            Origin::IndexPair { line, .. } => ("index-pair", Some(line)),
            Origin::Pci { line, .. } => ("pci", Some(line)),
            Origin::Msr { line, .. } => ("msr", Some(line)),
            Origin::ConfigMechanism | Origin::AbsentFunction => ("pci", None),
            Origin::Default | Origin::PastLastPort => ("deny", None),
        };
        crate::observe::ports::Decision {
            allowed: decision.is_allowed(),
            backend,
            rule_line: line.and_then(|line| u32::try_from(line).ok()),
        }
    }

    /// Hands over what back ends have buffered. To be called whenever the guest goes idle.
    /// Returns what has gone wrong since the start, one entry for each back end that failed.
    pub fn flush(&mut self) -> Vec<DeviceError> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.device.as_mut())
            .filter_map(|device| device.flush().err())
            .chain(self.pairs.iter().filter_map(PairSlot::failure))
            .chain(
                self.mechanism
                    .iter_mut()
                    .flat_map(|mechanism| mechanism.space.flush()),
            )
            .collect()
    }

    /// The last words: flushes, and says how many denials were not logged.
    pub fn finish(&mut self) -> Vec<DeviceError> {
        let suppressed = self.limiter.take_suppressed();
        if suppressed > 0 {
            tracing::warn!("… and {suppressed} more denied port accesses suppressed");
        }
        self.flush()
    }

    /// The device models behind ports, those of PCI functions included.
    #[must_use]
    pub fn models(&self) -> Vec<RunningModel> {
        let models = self.slots.iter().filter_map(|slot| {
            let is_model = !matches!(
                slot.rule.backend,
                PortBackend::Deny | PortBackend::Passthrough | PortBackend::Second(_)
            );
            let device = slot.device.as_ref().filter(|_| is_model)?;
            Some(RunningModel {
                name: slot.rule.name.clone(),
                place: format!("{:#x}", slot.rule.first),
                description: device.describe(),
                inputs: device.inputs(),
            })
        });
        models
            .chain(self.pci().into_iter().flat_map(PciSpace::models))
            .collect()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let (denied, denied_elsewhere) = self.denied.ranges();
        PortStats {
            rules: self
                .slots
                .iter()
                .map(|slot| PortRuleStats {
                    line: slot.rule.line,
                    name: slot.rule.name.clone(),
                    first: slot.rule.first,
                    last: slot.rule.last,
                    backend: slot.device.as_ref().map_or_else(
                        || slot.rule.backend.name().to_owned(),
                        |device| device.describe(),
                    ),
                    reads: slot.reads,
                    writes: slot.writes,
                    denied_reads: slot.denied_reads,
                    denied_writes: slot.denied_writes,
                })
                .collect(),
            pairs: self.pairs.iter().map(PairSlot::stats).collect(),
            denied,
            denied_elsewhere,
            past_last_port: self.past_last_port,
        }
    }
}

/// The accesses that 1 to 4 neighbouring ports are cut into: one if there is one of that size, else aligned ones.
fn pieces(port: u16, bytes: u16) -> impl Iterator<Item = (u16, Width)> {
    let whole = u8::try_from(bytes).ok().and_then(Width::from_bytes);
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = bytes.checked_sub(done).filter(|left| *left > 0)?;
        let at = port + done;
        let width = whole.unwrap_or_else(|| {
            if left >= 2 && at.is_multiple_of(2) {
                Width::Word
            } else {
                Width::Byte
            }
        });
        done += width.bytes();
        Some((at, width))
    })
}
