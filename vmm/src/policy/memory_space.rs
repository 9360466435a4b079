//! Physical ranges that a driver may map, and the memory behind them.
//!
//! Everything is in whole pages. A rule's range is (the policy says so or is refused), and a driver's request is
//! rounded outwards to pages, as MmMapIoSpace maps whole pages: all of them must be covered.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use vm_memory::{MmapRegion, VolatileMemory};

use super::values::read_limited;
use super::{LogLimiter, LogVerdict, MemoryBackend, MemoryRule, OnDeny, Policy, PolicyError};
use crate::ports::Action;

const PAGE_MASK: u64 = abi::layout::PAGE_SIZE - 1;
/// Most memory that `ram` rules may have together, in bytes: what the guest's I/O window can map.
const RAM_BYTES_MAX: u64 = abi::layout::IO_WINDOW_SIZE;

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
    /// Map this.
    Allowed(MemoryMapping),
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

/// The memory behind an allowed request: whole pages, from the page of the request's address to the page of its
/// last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryMapping {
    /// Index into [`MemorySpace::backings`].
    pub backing: usize,
    /// Where in the backing, in bytes; a multiple of 4096.
    pub offset: u64,
    /// Host-virtual address of the first byte, page-aligned; valid as long as the [`MemorySpace`] lives.
    pub host_address: u64,
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

/// A memory rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryStartError {
    /// The policy does not fit the guest.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// All `ram` rules together are too large.
    #[error(
        "{file}:{line}: with this rule, \"ram\" memory has {bytes} bytes: at most {RAM_BYTES_MAX} can be mapped"
    )]
    TooLarge {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Bytes up to and with this rule.
        bytes: u64,
    },
    /// The machine's memory cannot be passed through.
    #[error(
        "{file}:{line}: backend \"passthrough\" cannot start: this version passes no physical memory through; \
         \"ram\" is memory of the run's own"
    )]
    Passthrough {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
    },
    /// The initial contents cannot be read.
    #[error(
        "{file}:{line}: cannot read `file` = {path:?} (at most {bytes} bytes, the rule's range)"
    )]
    Contents {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// The file.
        path: std::path::PathBuf,
        /// The range's size.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The host has no memory.
    #[error("{file}:{line}: no host memory for {bytes} bytes: {reason}")]
    NoMemory {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Bytes.
        bytes: u64,
        /// Why.
        reason: String,
    },
}

/// Host memory behind `ram` rules without a gap between them; the machine makes KVM memory slots of it.
#[derive(Debug)]
pub struct MemoryBacking {
    /// The physical address that drivers know its first byte by; a multiple of 4096.
    pub physical: u64,
    region: MmapRegion,
}

impl MemoryBacking {
    /// Host-virtual address of the first byte, page-aligned; valid as long as the [`MemorySpace`] lives.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr().addr() as u64
    }

    /// Bytes; a multiple of 4096.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// The memory itself.
    #[must_use]
    pub fn region(&self) -> &MmapRegion {
        &self.region
    }
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
    /// Mappings that it denied.
    pub denied: u64,
}

/// Time since some fixed moment, for the log's rate limit.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// The physical ranges of a guest's policy, live.
pub struct MemorySpace {
    policy: Policy,
    backings: Vec<MemoryBacking>,
    stats: MemoryStats,
    limiter: LogLimiter,
    clock: Clock,
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
        let start = Instant::now();
        Self::with_clock(policy, ram_bytes, Box::new(move || start.elapsed()))
    }

    pub(super) fn with_clock(
        policy: &Policy,
        ram_bytes: u64,
        clock: Clock,
    ) -> Result<Self, MemoryStartError> {
        policy.check_guest_memory(ram_bytes)?;
        let real = policy
            .memory_rules()
            .iter()
            .find(|rule| matches!(rule.backend, MemoryBackend::Passthrough { .. }));
        if let Some(rule) = real {
            return Err(MemoryStartError::Passthrough {
                file: policy.file().to_owned(),
                line: rule.line,
            });
        }
        let rules = policy.memory_rules();
        Ok(Self {
            backings: allocate(policy)?,
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
                    })
                    .collect(),
                denied: 0,
            },
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock,
            policy: policy.clone(),
        })
    }

    /// The memory behind `ram` rules, by ascending physical address.
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
            Ok(rules) => match self.mapping(request) {
                Some(mapping) => {
                    for index in &rules {
                        self.stats.rules[*index].mapped += 1;
                    }
                    return MemoryDecision::Allowed(mapping);
                }
                None => Denial {
                    rule: rules.first().copied(),
                    on_deny: OnDeny::Ignore,
                    reason: "its pages have no backing".to_owned(),
                },
            },
            Err(denial) => denial,
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
                (true, rules.first().copied())
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

    /// Where the memory of an allowed request is. The rules are adjacent, so one backing has all of it.
    fn mapping(&self, request: &MemoryRequest) -> Option<MemoryMapping> {
        let (first, last) = pages(request)?;
        let (index, backing) = self.backings.iter().enumerate().find(|(_, backing)| {
            backing.physical <= first && last - backing.physical < backing.bytes()
        })?;
        let offset = first - backing.physical;
        Some(MemoryMapping {
            backing: index,
            offset,
            host_address: backing.host_address() + offset,
            bytes: last - first + 1,
            is_writable: request.is_write,
        })
    }
}

/// First and last byte of the pages that a request touches.
fn pages(request: &MemoryRequest) -> Option<(u64, u64)> {
    let last = request.address.checked_add(request.bytes.checked_sub(1)?)?;
    Some((request.address & !PAGE_MASK, last | PAGE_MASK))
}

/// Allocates the memory of `ram` rules, one backing for each run of adjacent ones, and fills it.
fn allocate(policy: &Policy) -> Result<Vec<MemoryBacking>, MemoryStartError> {
    let mut rules: Vec<&MemoryRule> = policy
        .memory_rules()
        .iter()
        .filter(|rule| matches!(rule.backend, MemoryBackend::Ram { .. }))
        .collect();
    rules.sort_by_key(|rule| rule.first);
    let mut total = 0_u64;
    for rule in &rules {
        total = total.saturating_add(rule.bytes());
        if total > RAM_BYTES_MAX {
            return Err(MemoryStartError::TooLarge {
                file: policy.file().to_owned(),
                line: rule.line,
                bytes: total,
            });
        }
    }
    rules
        .chunk_by(|rule, next| rule.last + 1 == next.first)
        .map(|run| allocate_run(policy, run))
        .collect()
}

fn allocate_run(policy: &Policy, run: &[&MemoryRule]) -> Result<MemoryBacking, MemoryStartError> {
    let [first, ..] = run else {
        unreachable!("a run of rules has a first one");
    };
    let bytes = run.iter().map(|rule| rule.bytes()).sum::<u64>();
    let no_memory = |reason: String| MemoryStartError::NoMemory {
        file: policy.file().to_owned(),
        line: first.line,
        bytes,
        reason,
    };
    let size = usize::try_from(bytes).map_err(|error| no_memory(error.to_string()))?;
    let region: MmapRegion = MmapRegion::new(size).map_err(|error| no_memory(error.to_string()))?;
    for rule in run {
        let MemoryBackend::Ram { file: Some(path) } = &rule.backend else {
            continue;
        };
        let failed = |source: io::Error| MemoryStartError::Contents {
            file: policy.file().to_owned(),
            line: rule.line,
            path: path.clone(),
            bytes: rule.bytes(),
            source,
        };
        let contents = read_limited(path, rule.bytes()).map_err(failed)?;
        let target = usize::try_from(rule.first - first.first)
            .map_err(io::Error::other)
            .and_then(|offset| {
                region
                    .get_slice(offset, contents.len())
                    .map_err(io::Error::other)
            })
            .map_err(failed)?;
        target.copy_from(&contents);
    }
    Ok(MemoryBacking {
        physical: first.first,
        region,
    })
}

#[cfg(test)]
mod tests;
