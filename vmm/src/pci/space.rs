//! The PCI functions that the policy names, live.

mod bars;
mod decision;
mod error;
mod find;
mod open;

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::bars::{BarId, PciRam};
pub(crate) use self::decision::decide_by_rule;
pub use self::error::PciStartError;
use self::find::find;
use super::device::{Behind, PciDevice};
use super::model::Model;
use super::{PciBackend, PciRequest};
use crate::machine::Bus;
use crate::policy::gate::Gate;
use crate::policy::{LogLimiter, LogVerdict, PciAddress, PciId, PciRule, Policy};
use crate::ports::{Decision, DenialReason, Origin, PortOutcome};

/// What stands behind a function.
#[derive(Debug)]
enum Device {
    Nothing,
    Model(Model),
    Device(Box<PciDevice>),
    Host,
}

/// A function.
#[derive(Debug)]
struct Function {
    address: PciAddress,
    /// Its rule, by its place in the policy.
    rule: usize,
    device: Device,
    stats: PciFunctionStats,
}

/// One function's accesses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PciFunctionStats {
    /// Its rule's line in the policy.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it is.
    pub address: String,
    /// What stands behind it.
    pub backend: &'static str,
    /// Reads that reached the back end.
    pub reads: u64,
    /// Writes that reached the back end.
    pub writes: u64,
    /// Reads that were denied.
    pub denied_reads: u64,
    /// Writes that were denied.
    pub denied_writes: u64,
    /// Accesses to the ports and the memory of its BARs that left the guest.
    pub bar_accesses: u64,
}

/// Time since some fixed moment.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// Configuration space of all functions of a guest.
pub struct PciSpace {
    file: String,
    rules: Vec<PciRule>,
    /// One for each rule.
    gates: Vec<Gate>,
    /// By ascending address.
    functions: Vec<Function>,
    host: Option<Box<dyn PciBackend>>,
    /// Accesses to functions that no rule names.
    absent: u64,
    /// Mapped memory may be elsewhere than when it was last asked for.
    is_ram_moved: bool,
    limiter: LogLimiter,
    clock: Clock,
}

impl fmt::Debug for PciSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciSpace")
            .field("policy", &self.file)
            .field("functions", &self.functions)
            .finish_non_exhaustive()
    }
}

impl PciSpace {
    /// Finds the functions that the rules name. `host` is the way to the machine's, if there is one.
    ///
    /// # Errors
    /// [`PciStartError`] for the first rule that cannot be set up.
    pub fn new(policy: &Policy, host: Option<Box<dyn PciBackend>>) -> Result<Self, PciStartError> {
        Self::with_bus(policy, host, &Bus::default())
    }

    /// As [`PciSpace::new`], with the guest's lines and memory for modelled functions.
    ///
    /// # Errors
    /// As there.
    pub fn with_bus(
        policy: &Policy,
        host: Option<Box<dyn PciBackend>>,
        bus: &Bus,
    ) -> Result<Self, PciStartError> {
        let start = Instant::now();
        Self::with_clock(policy, host, bus, Box::new(move || start.elapsed()))
    }

    pub(crate) fn with_clock(
        policy: &Policy,
        mut host: Option<Box<dyn PciBackend>>,
        bus: &Bus,
        clock: Clock,
    ) -> Result<Self, PciStartError> {
        let mut functions: Vec<Function> = Vec::new();
        let mut present: Option<Vec<(PciAddress, PciId)>> = None;
        for (index, rule) in policy.pci_rules().iter().enumerate() {
            for (address, device) in find(policy, rule, &mut host, &mut present, bus)? {
                functions.push(Function {
                    address,
                    rule: index,
                    device,
                    stats: PciFunctionStats {
                        line: rule.place.line,
                        name: rule.name.clone(),
                        address: address.to_string(),
                        backend: rule.backend.name(),
                        reads: 0,
                        writes: 0,
                        denied_reads: 0,
                        denied_writes: 0,
                        bar_accesses: 0,
                    },
                });
            }
        }
        functions.sort_by_key(|function| (function.address, function.rule));
        for pair in functions.windows(2) {
            if let [one, other] = pair
                && one.address == other.address
            {
                return Err(PciStartError::Twice {
                    file: policy.file().to_owned(),
                    line: other.stats.line,
                    other: one.stats.line,
                    address: one.address,
                });
            }
        }
        Ok(Self {
            file: policy.file().to_owned(),
            gates: policy
                .pci_rules()
                .iter()
                .map(|rule| Gate::new(rule.limits))
                .collect(),
            rules: policy.pci_rules().to_vec(),
            functions,
            host,
            absent: 0,
            // The VMM has to place what is decoded at the start.
            is_ram_moved: true,
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock,
        })
    }

    /// The functions that the guest sees, by ascending address.
    pub fn functions(&self) -> impl Iterator<Item = PciAddress> + '_ {
        self.functions.iter().map(|function| function.address)
    }

    /// Counts since the start, by ascending address.
    pub fn stats(&self) -> impl Iterator<Item = &PciFunctionStats> {
        self.functions.iter().map(|function| &function.stats)
    }

    /// Accesses to functions that no rule names.
    #[must_use]
    pub const fn absent_accesses(&self) -> u64 {
        self.absent
    }

    /// What a rule says about denials.
    pub(crate) fn denial_of(&self, rule: usize) -> (crate::policy::OnDeny, u32) {
        (self.rules[rule].on_deny, self.rules[rule].denied_read)
    }

    /// Counts a denial that a caller of [`PciSpace::decide`] carried out.
    pub(crate) fn count_denied(&mut self, rule: usize, is_write: bool) {
        let function = self
            .functions
            .iter_mut()
            .find(|function| function.rule == rule);
        if let Some(function) = function {
            if is_write {
                function.stats.denied_writes += 1;
            } else {
                function.stats.denied_reads += 1;
            }
        }
    }

    fn function(&self, address: PciAddress) -> Option<usize> {
        self.functions
            .binary_search_by_key(&address, |function| function.address)
            .ok()
    }

    /// Decides an access as of now; nothing is counted.
    pub fn decide(&mut self, request: &PciRequest) -> Decision {
        let now = (self.clock)();
        match self.check(request, now) {
            Ok((decision, _)) | Err(decision) => decision,
        }
    }

    /// The decision and how long to wait, or the denial.
    fn check(&self, request: &PciRequest, now: Duration) -> Result<(Decision, Duration), Decision> {
        let Some(function) = self.function(request.address) else {
            return Err(Decision::absent());
        };
        let index = self.functions[function].rule;
        let rule = &self.rules[index];
        let origin = Origin::Pci {
            index,
            line: rule.place.line,
        };
        let deny = |reason| Decision::denied(origin, rule.on_deny, reason);
        decide_by_rule(rule, request).map_err(deny)?;
        let wait = self.gates[index].check(now).map_err(deny)?;
        Ok((Decision::allowed(origin), wait))
    }

    /// Decides an access and, when it is allowed, carries it out.
    pub fn access(&mut self, request: &PciRequest) -> PortOutcome {
        let now = (self.clock)();
        let is_write = request.write.is_some();
        let (decision, wait) = match self.check(request, now) {
            Ok(allowed) => allowed,
            Err(decision) => return self.deny(request, decision),
        };
        let Some(index) = self.function(request.address) else {
            return self.deny(request, Decision::absent());
        };
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        let rule = self.functions[index].rule;
        self.gates[rule].take(now + wait);
        let stats = &mut self.functions[index].stats;
        if is_write {
            stats.writes += 1;
        } else {
            stats.reads += 1;
        }
        let value = match request.write {
            Some(value) => {
                self.write(index, request, value);
                0
            }
            None => {
                let value = self.read_device(index, request);
                self.masked(index, request, |masks, byte| masks.seen(byte), value)
            }
        };
        PortOutcome { value, decision }
    }

    /// Applies the masks of each byte's register.
    fn masked(
        &self,
        function: usize,
        request: &PciRequest,
        apply: impl Fn(crate::policy::BitMasks, u64) -> u64,
        value: u32,
    ) -> u32 {
        let rule = &self.rules[self.functions[function].rule];
        let mut bytes = value.to_le_bytes();
        let width = usize::from(request.width.bytes());
        for (byte, offset) in bytes[..width].iter_mut().zip(request.register..) {
            if let Some(register) = rule.register(offset) {
                let masks = register.masks.byte(offset - register.first);
                [*byte, ..] = apply(masks, (*byte).into()).to_le_bytes();
            }
        }
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, function: usize, request: &PciRequest, value: u32) {
        let rule = &self.rules[self.functions[function].rule];
        let range = request.register..request.register + request.width.bytes();
        let keeps = range.clone().any(|offset| {
            rule.register(offset).is_some_and(|register| {
                let masks = register.masks.byte(offset - register.first);
                masks.keeps_bits() && masks.write & 0xFF != 0xFF
            })
        });
        let kept = if keeps {
            self.read_device(function, request)
        } else {
            0
        };
        let rule = &self.rules[self.functions[function].rule];
        let mut bytes = value.to_le_bytes();
        for ((byte, kept), offset) in bytes.iter_mut().zip(kept.to_le_bytes()).zip(range) {
            if let Some(register) = rule.register(offset) {
                let masks = register.masks.byte(offset - register.first);
                [*byte, ..] = masks.written((*byte).into(), kept.into()).to_le_bytes();
            }
        }
        let value = u32::from_le_bytes(bytes) & request.width.mask();
        let target = &mut self.functions[function];
        match (&mut target.device, &mut self.host) {
            (Device::Model(model), _) => model.write(request.register, request.width, value),
            (Device::Device(device), _) => {
                self.is_ram_moved |= device.write(request.register, request.width, value);
            }
            (Device::Host, Some(host)) => {
                host.write(target.address, request.register, request.width, value);
            }
            (Device::Nothing | Device::Host, _) => {}
        }
    }

    fn read_device(&mut self, function: usize, request: &PciRequest) -> u32 {
        let target = &self.functions[function];
        let value = match (&target.device, &mut self.host) {
            (Device::Model(model), _) => model.read(request.register, request.width),
            (Device::Device(device), _) => device.read(request.register, request.width),
            (Device::Host, Some(host)) => {
                host.read(target.address, request.register, request.width)
            }
            (Device::Nothing | Device::Host, _) => u32::MAX,
        };
        value & request.width.mask()
    }

    #[cold]
    fn deny(&mut self, request: &PciRequest, decision: Decision) -> PortOutcome {
        let is_write = request.write.is_some();
        let Some(function) = self.function(request.address) else {
            // Nobody is there: all ones, as on any machine. A scan of the bus is no news.
            self.absent += 1;
            return PortOutcome {
                value: if is_write { 0 } else { request.width.mask() },
                decision,
            };
        };
        let function = &mut self.functions[function];
        if is_write {
            function.stats.denied_writes += 1;
        } else {
            function.stats.denied_reads += 1;
        }
        let rule = &self.rules[function.rule];
        if let LogVerdict::Log { suppressed } = self.limiter.ask((self.clock)()) {
            if suppressed > 0 {
                tracing::warn!(
                    "… and {suppressed} more denied accesses to PCI configuration suppressed"
                );
            }
            tracing::warn!(
                "denied ({}): {} of {} byte(s) at register {:#x} of PCI function {}: rule at {}:{}: {}",
                rule.on_deny.name(),
                if is_write { "write" } else { "read" },
                request.width.bytes(),
                request.register,
                request.address,
                self.file,
                rule.place.line,
                decision.reason.map_or("", DenialReason::text),
            );
        }
        PortOutcome {
            value: if is_write {
                0
            } else {
                rule.denied_read & request.width.mask()
            },
            decision,
        }
    }
}
