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
use super::{LogLimiter, LogVerdict, MemoryBackend, OnDeny, Policy, PolicyError};
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
    /// Map these pieces, one after the other without a gap. The first begins at the page of the request's
    /// address, the last ends at the end of its last byte's page. Not empty.
    Allowed(Vec<MemoryPiece>),
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

/// A part of a mapping that one backing provides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPiece {
    /// Index into [`MemorySpace::backings`].
    pub backing: usize,
    /// Where in the backing, in bytes; a multiple of 4096.
    pub offset: u64,
    /// Bytes; a multiple of 4096.
    pub bytes: u64,
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
    #[error("{0}")]
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
    /// The initial contents cannot be read.
    #[error(
        "{file}:{line}: cannot read `file` = {path:?} (at most {bytes} bytes, the rule's range): {source}"
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

/// Host memory behind a `ram` rule; the machine makes a KVM memory slot of it.
#[derive(Debug)]
pub struct MemoryBacking {
    /// The rule, an index into [`Policy::memory_rules`].
    pub rule: usize,
    /// The physical address that drivers know it by.
    pub physical: u64,
    /// Where in the guest-physical I/O window it goes, in bytes from [`abi::layout::IO_WINDOW_GPA`]. Backings of
    /// adjacent rules are adjacent there too; others have a page between them.
    pub window_offset: u64,
    /// Whether any mapping may write. When not, the memory slot is to be read-only as well: a driver that runs
    /// in ring 0 could change page tables, but not the slot.
    pub is_writable: bool,
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
            Ok(rules) => {
                for index in &rules {
                    self.stats.rules[*index].mapped += 1;
                }
                return MemoryDecision::Allowed(self.pieces(request, &rules));
            }
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

    /// The rules that allow a mapping, by ascending address, or why it is denied. Nothing is counted.
    pub(super) fn decide(policy: &Policy, request: &MemoryRequest) -> Result<Vec<usize>, Denial> {
        let by_default = |reason: String| Denial {
            rule: None,
            on_deny: policy.defaults().on_deny,
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
            let found = policy
                .memory_rules()
                .iter()
                .enumerate()
                .find(|(_, rule)| (rule.first..=rule.last).contains(&at));
            let Some((index, rule)) = found else {
                return Err(by_default(format!("no rule covers address {at:#x}")));
            };
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

    fn pieces(&self, request: &MemoryRequest, rules: &[usize]) -> Vec<MemoryPiece> {
        let Some((first, last)) = pages(request) else {
            return Vec::new();
        };
        rules
            .iter()
            .filter_map(|rule| {
                let (index, backing) = self
                    .backings
                    .iter()
                    .enumerate()
                    .find(|(_, backing)| backing.rule == *rule)?;
                let start = first.max(backing.physical);
                let end = last.min(backing.physical + (backing.bytes() - 1));
                Some(MemoryPiece {
                    backing: index,
                    offset: start - backing.physical,
                    bytes: end - start + 1,
                })
            })
            .collect()
    }
}

/// First and last byte of the pages that a request touches.
fn pages(request: &MemoryRequest) -> Option<(u64, u64)> {
    let last = request.address.checked_add(request.bytes.checked_sub(1)?)?;
    Some((request.address & !PAGE_MASK, last | PAGE_MASK))
}

fn allocate(policy: &Policy) -> Result<Vec<MemoryBacking>, MemoryStartError> {
    let mut sorted: Vec<(usize, &super::MemoryRule)> =
        policy.memory_rules().iter().enumerate().collect();
    sorted.sort_by_key(|(_, rule)| rule.first);
    let mut backings: Vec<MemoryBacking> = Vec::new();
    let mut total = 0_u64;
    for (index, rule) in sorted {
        let MemoryBackend::Ram { file: contents } = &rule.backend else {
            continue;
        };
        let (file, line, bytes) = (policy.file().to_owned(), rule.line, rule.bytes());
        total = total.saturating_add(bytes);
        if total > RAM_BYTES_MAX {
            return Err(MemoryStartError::TooLarge {
                file,
                line,
                bytes: total,
            });
        }
        let no_memory = |reason: String| MemoryStartError::NoMemory {
            file: file.clone(),
            line,
            bytes,
            reason,
        };
        let size = usize::try_from(bytes).map_err(|error| no_memory(error.to_string()))?;
        let region = MmapRegion::new(size).map_err(|error| no_memory(error.to_string()))?;
        if let Some(path) = contents {
            let initial =
                read_limited(path, bytes).map_err(|source| MemoryStartError::Contents {
                    file: file.clone(),
                    line,
                    path: path.clone(),
                    bytes,
                    source,
                })?;
            region.as_volatile_slice().copy_from(&initial);
        }
        let window_offset = backings.last().map_or(0, |previous| {
            let end = previous.window_offset + previous.bytes();
            if previous.physical + previous.bytes() == rule.first {
                end
            } else {
                end + abi::layout::PAGE_SIZE
            }
        });
        backings.push(MemoryBacking {
            rule: index,
            physical: rule.first,
            window_offset,
            is_writable: rule.access.is_some_and(super::AccessMode::allows_write),
            region,
        });
    }
    Ok(backings)
}

#[cfg(test)]
mod tests;
