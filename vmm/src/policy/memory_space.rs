//! Physical ranges that a driver may map, and the memory behind them.
//!
//! Everything is in whole pages. A rule's range is (the policy says so or is refused), and a driver's request is
//! rounded outwards to pages, as MmMapIoSpace maps whole pages: all of them must be covered.

mod backing;

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use backing::{DeviceRange, allocate, open_models};
pub use backing::{MemoryBacking, MemoryStartError};
pub(super) use backing::{RAM_BYTES_MAX, above_max};

use super::{LogLimiter, LogVerdict, MemoryBackend, OnDeny, Policy};
use crate::devices::{DeviceError, RunningModel};
use crate::hardware::VfioFunctions;
use crate::machine::{Bus, DEVICE_ADDRESS_MAX};
use crate::ports::Action;

const PAGE_MASK: u64 = abi::layout::PAGE_SIZE - 1;

/// A driver's wish to map physical memory ([`abi::doorbell::Call::MapPhysical`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRequest {
    /// Physical address, not necessarily on a page boundary.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether the mapping is to be writable.
    pub is_write: bool,
}

/// What becomes of a [`MemoryRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemoryDecision {
    /// Map these pieces, one after the other. There is at least one.
    Allowed(Vec<MemoryMapping>),
    /// Map nothing: the driver gets NULL, or the guest is stopped if `action` is [`Action::Stop`].
    Denied {
        /// The rule that denies, an index into [`Policy::memory_rules`]; `None`: no rule covers an address.
        rule: Option<usize>,
        /// [`Action::Ignored`] or [`Action::Stop`].
        action: Action,
        /// Why, for people.
        reason: String,
    },
}

/// Memory behind an allowed request: whole pages. All pieces together reach from the page of the request's address to
/// the page of its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryMapping {
    /// Index into [`MemorySpace::backings`]; `None`: a device is there, and each access is to leave the guest
    /// ([`MemorySpace::access`]).
    pub backing: Option<usize>,
    /// Where in the backing, in bytes; a multiple of 4096. Without a backing, the physical address.
    pub offset: u64,
    /// Bytes; a multiple of 4096.
    pub bytes: u64,
    /// Whether it was asked for, and allowed, to be written. When not, the KVM memory slot should be read-only
    /// like the page tables' entries: a driver in ring 0 might get at the latter.
    pub is_writable: bool,
}

/// Why a request is denied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Denial {
    pub(super) rule: Option<usize>,
    pub(super) on_deny: OnDeny,
    pub(super) reason: String,
}

/// Mappings since the start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MemoryStats {
    /// One entry for each rule, in the policy's order.
    pub rules: Vec<MemoryRuleStats>,
    /// Mappings denied since an address is in no rule.
    pub denied: u64,
}

/// One rule's mappings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MemoryRuleStats {
    /// The rule's line in the policy.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// First physical address.
    pub first: u64,
    /// Last physical address.
    pub last: u64,
    /// What stands behind it.
    pub backend: &'static str,
    /// Mappings that include some of it.
    pub mapped: u64,
    /// Mappings that it denied, and writes that got round a read-only one.
    pub denied: u64,
    /// Accesses to a device that left the guest.
    pub accesses: u64,
}

/// Time since some fixed moment, for the log's rate limit.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// The physical ranges of a guest's policy, live.
pub struct MemorySpace {
    policy: Policy,
    backings: Vec<MemoryBacking>,
    /// Devices behind rules.
    devices: Vec<DeviceRange>,
    stats: MemoryStats,
    limiter: LogLimiter,
    clock: Clock,
    /// The guest's own memory, first and last address.
    guest_memory: (u64, u64),
}

impl fmt::Debug for MemorySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySpace")
            .field("backings", &self.backings)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl MemorySpace {
    /// Checks the rules against a guest of `ram_bytes` and allocates what they need.
    ///
    /// # Errors
    /// [`MemoryStartError`].
    pub fn new(policy: &Policy, ram_bytes: u64) -> Result<Self, MemoryStartError> {
        let bus = Bus::default();
        Self::with_machine(policy, ram_bytes, &VfioFunctions::default(), &bus)
    }

    /// As [`Self::new`], with BARs of functions that are open by VFIO, and the guest's lines and memory for devices.
    ///
    /// # Errors
    /// [`MemoryStartError`].
    pub fn with_machine(
        policy: &Policy,
        ram_bytes: u64,
        functions: &VfioFunctions,
        bus: &Bus,
    ) -> Result<Self, MemoryStartError> {
        let start = Instant::now();
        let clock = Box::new(move || start.elapsed());
        let mut space = Self::with_clock(policy, ram_bytes, functions, clock)?;
        space.devices.append(&mut open_models(policy, bus)?);
        Ok(space)
    }

    pub(super) fn with_clock(
        policy: &Policy,
        ram_bytes: u64,
        functions: &VfioFunctions,
        clock: Clock,
    ) -> Result<Self, MemoryStartError> {
        policy.check_guest_memory(ram_bytes)?;
        let rules = policy.memory_rules();
        let behind = allocate(policy, functions)?;
        Ok(Self {
            backings: behind.backings,
            devices: behind.devices,
            stats: MemoryStats {
                rules: rules
                    .iter()
                    .map(|rule| MemoryRuleStats {
                        line: rule.line,
                        name: rule.name.clone(),
                        first: rule.first,
                        last: rule.last,
                        backend: rule.backend.name(),
                        mapped: 0,
                        denied: 0,
                        accesses: 0,
                    })
                    .collect(),
                denied: 0,
            },
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock,
            guest_memory: (
                abi::layout::RAM_BASE,
                abi::layout::RAM_BASE.saturating_add(ram_bytes.saturating_sub(1)),
            ),
            policy: policy.clone(),
        })
    }

    /// The memory behind rules, by ascending physical address.
    #[must_use]
    pub fn backings(&self) -> &[MemoryBacking] {
        &self.backings
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> &MemoryStats {
        &self.stats
    }

    /// Decides a mapping; counts it, and logs it when it is denied.
    pub fn map(&mut self, request: &MemoryRequest) -> MemoryDecision {
        let denial = match Self::decide(&self.policy, request) {
            Ok(rules) => match self.mappings(request) {
                Some(mappings) => {
                    for index in &rules {
                        self.stats.rules[*index].mapped += 1;
                    }
                    return MemoryDecision::Allowed(mappings);
                }
                None => Denial {
                    rule: rules.first().copied(),
                    on_deny: OnDeny::Ignore,
                    reason: "its pages have no backing".to_owned(),
                },
            },
            Err(denial) => match self.ones(request) {
                Some(nothing) => {
                    tracing::info!(
                        "physical memory at {:#x} ({} bytes) reads as ones: {}",
                        request.address,
                        request.bytes,
                        denial.reason
                    );
                    return MemoryDecision::Allowed(vec![nothing]);
                }
                None => denial,
            },
        };
        match denial.rule {
            Some(index) => self.stats.rules[index].denied += 1,
            None => self.stats.denied += 1,
        }
        let now = (self.clock)();
        if let LogVerdict::Log { suppressed } = self.limiter.ask(now) {
            if suppressed > 0 {
                tracing::warn!("… and {suppressed} more denied mappings suppressed");
            }
            tracing::warn!(
                "denied ({}): mapping {} byte(s) of physical memory at {:#x}: {}",
                denial.on_deny.name(),
                request.bytes,
                request.address,
                denial.reason
            );
        }
        MemoryDecision::Denied {
            rule: denial.rule,
            action: match denial.on_deny {
                OnDeny::Stop => Action::Stop,
                OnDeny::Ignore | OnDeny::Fault => Action::Ignored,
            },
            reason: denial.reason,
        }
    }

    /// While a policy is learned: memory that nobody has and no rule is about, for a driver that goes on with it.
    fn ones(&self, request: &MemoryRequest) -> Option<MemoryMapping> {
        let (first, last) = pages(request).filter(|_| self.policy.is_learning())?;
        let is_apart = |(other_first, other_last)| last < other_first || other_last < first;
        let mut rules = self.policy.memory_rules().iter();
        let is_free =
            is_apart(self.guest_memory) && rules.all(|rule| is_apart((rule.first, rule.last)));
        (is_free && last <= DEVICE_ADDRESS_MAX).then(|| MemoryMapping {
            backing: None,
            offset: first,
            bytes: last - first + 1,
            is_writable: request.is_write,
        })
    }

    /// A decision as recordings show it.
    #[must_use]
    pub fn record(
        &self,
        request: &MemoryRequest,
        decision: &MemoryDecision,
    ) -> crate::observe::ports::Decision {
        let (allowed, rule) = match decision {
            MemoryDecision::Allowed(_) => {
                let rules = Self::decide(&self.policy, request).unwrap_or_default();
                // Without a rule there is nothing, whatever a policy that is learned says.
                (!rules.is_empty(), rules.first().copied())
            }
            MemoryDecision::Denied { rule, .. } => (false, *rule),
        };
        let rule = rule.and_then(|index| self.policy.memory_rules().get(index));
        crate::observe::ports::Decision {
            allowed,
            backend: rule.map_or("deny", |rule| rule.backend.name()),
            rule_line: rule.and_then(|rule| u32::try_from(rule.line).ok()),
        }
    }

    /// The rules that allow a mapping, by ascending address, or why it is denied. Nothing is counted.
    pub(super) fn decide(policy: &Policy, request: &MemoryRequest) -> Result<Vec<usize>, Denial> {
        let by_default = |reason: String| Denial {
            rule: None,
            on_deny: policy.defaults().memory_on_deny,
            reason,
        };
        let Some((first, last)) = pages(request) else {
            return Err(by_default(
                "it is empty or runs past the end of the address space".to_owned(),
            ));
        };
        let mut rules = Vec::new();
        let mut at = first;
        loop {
            let Some(index) = policy.memory_rule_at(at) else {
                return Err(by_default(format!("no rule covers address {at:#x}")));
            };
            let rule = &policy.memory_rules()[index];
            let deny = |reason: String| Denial {
                rule: Some(index),
                on_deny: rule.on_deny,
                reason,
            };
            match rule.access {
                None => {
                    return Err(deny(format!(
                        "the rule of line {} denies address {at:#x}",
                        rule.line
                    )));
                }
                Some(access) if request.is_write && !access.allows_write() => {
                    return Err(deny(format!(
                        "the rule of line {} allows address {at:#x} to be read only",
                        rule.line
                    )));
                }
                Some(_) => {}
            }
            rules.push(index);
            if rule.last >= last {
                return Ok(rules);
            }
            at = rule.last + 1;
        }
    }

    /// Where the memory of an allowed request is; `None` if some of it has none.
    fn mappings(&self, request: &MemoryRequest) -> Option<Vec<MemoryMapping>> {
        let (mut at, last) = pages(request)?;
        let mut pieces = Vec::new();
        loop {
            let (backing, offset, bytes) =
                self.device_piece(at).or_else(|| self.memory_piece(at))?;
            let bytes = bytes.min(last - at + 1);
            pieces.push(MemoryMapping {
                backing,
                offset,
                bytes,
                is_writable: request.is_write,
            });
            at += bytes;
            if at > last {
                return Some(pieces);
            }
        }
    }

    fn memory_piece(&self, at: u64) -> Option<(Option<usize>, u64, u64)> {
        let (index, backing) = self.backings.iter().enumerate().find(|(_, backing)| {
            backing.physical <= at && at - backing.physical < backing.bytes()
        })?;
        let offset = at - backing.physical;
        Some((Some(index), offset, backing.bytes() - offset))
    }

    fn device_at(&self, address: u64) -> Option<usize> {
        self.devices
            .iter()
            .position(|device| device.first <= address && address <= device.last)
    }

    fn device_piece(&self, at: u64) -> Option<(Option<usize>, u64, u64)> {
        if let Some(index) = self.device_at(at) {
            return Some((None, at, self.devices[index].last - at + 1));
        }
        let rule = &self.policy.memory_rules()[self.policy.memory_rule_at(at)?];
        matches!(rule.backend, MemoryBackend::External(_)).then(|| (None, at, rule.last - at + 1))
    }

    /// An access of 1 to 8 bytes, in one page, that has left the guest: what was read, and the rule. `None`: no device is
    /// there.
    pub fn access(
        &mut self,
        address: u64,
        bytes: u8,
        write: Option<u64>,
    ) -> Option<(u64, crate::observe::ports::Decision)> {
        let place = self.device_at(address)?;
        let DeviceRange {
            rule: index,
            first,
            device,
            ..
        } = &mut self.devices[place];
        let index = *index;
        let rule = &self.policy.memory_rules()[index];
        let mut decision = crate::observe::ports::Decision {
            allowed: true,
            backend: rule.backend.name(),
            rule_line: u32::try_from(rule.line).ok(),
        };
        // The processor does not let it through, unless a driver in ring 0 has changed its page tables.
        if !rule
            .access
            .is_some_and(|access| access.allows(write.is_some()))
        {
            self.stats.rules[index].denied += 1;
            decision.allowed = false;
            return Some((u64::MAX, decision));
        }
        self.stats.rules[index].accesses += 1;
        // Neither a model nor a BAR behind a rule has more than 1 GiB.
        let offset = u32::try_from(address - *first).ok()?;
        let value = match write {
            Some(value) => {
                device.store(offset, bytes, value);
                0
            }
            None => device.load(offset, bytes),
        };
        Some((value, decision))
    }

    /// Whether a rule covers an address.
    #[must_use]
    pub fn has_rule_at(&self, address: u64) -> bool {
        self.policy.memory_rule_at(address).is_some()
    }

    /// The device models behind rules.
    #[must_use]
    pub fn models(&self) -> Vec<RunningModel> {
        let is_model = |device: &&DeviceRange| {
            let rule = &self.policy.memory_rules()[device.rule];
            matches!(rule.backend, MemoryBackend::External(_))
        };
        let devices = self.devices.iter().filter(is_model);
        devices
            .map(|device| RunningModel {
                name: self.policy.memory_rules()[device.rule].name.clone(),
                place: format!("{:#x}", device.first),
                description: device.device.describe(),
                inputs: device.device.inputs(),
            })
            .collect()
    }

    /// What has gone wrong with devices, as [`crate::ports::PortSpace::flush`].
    pub fn flush(&mut self) -> Vec<DeviceError> {
        let devices = self.devices.iter_mut();
        devices
            .filter_map(|device| device.device.flush().err())
            .collect()
    }
}

/// First and last byte of the pages that a request touches.
fn pages(request: &MemoryRequest) -> Option<(u64, u64)> {
    let last = request.address.checked_add(request.bytes.checked_sub(1)?)?;
    Some((request.address & !PAGE_MASK, last | PAGE_MASK))
}

#[cfg(test)]
mod tests;
