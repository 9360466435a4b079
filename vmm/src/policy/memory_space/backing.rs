//! What memory rules need at start: host memory, the machine's, devices.

use std::io;

use vm_memory::{MmapRegion, VolatileMemory};

use crate::devices::External;
use crate::devices::external::ModelRange;
use crate::hardware::{HostMapping, MappingError, VfioFunctions, Wish};
use crate::machine::InterruptLines;
use crate::policy::values::read_limited;
use crate::policy::{AccessMode, MemoryBackend, MemoryRule, Policy, PolicyError};
use crate::ports::{ModelPlace, open_external};

/// Most memory that `ram` and `passthrough` rules may have together, in bytes: what the guest's I/O window can map.
const RAM_BYTES_MAX: u64 = abi::layout::IO_WINDOW_SIZE;

/// A memory rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryStartError {
    /// The policy does not fit the guest.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// All rules together are too large.
    #[error(
        "{file}:{line}: with this rule, \"ram\" and \"passthrough\" memory has {bytes} bytes: at most {RAM_BYTES_MAX} \
         can be mapped"
    )]
    TooLarge {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Bytes up to and with this rule.
        bytes: u64,
    },
    /// A device behind a range.
    #[error(transparent)]
    Device(Box<crate::ports::StartError>),
    /// The machine's memory cannot be passed through.
    #[error("{file}:{line}: backend \"passthrough\" cannot start")]
    Passthrough {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Why.
        source: MappingError,
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

/// Host memory behind `ram` rules without a gap between them, or behind a `passthrough` rule; the machine makes KVM
/// memory slots of it.
#[derive(Debug)]
pub struct MemoryBacking {
    /// The physical address that drivers know its first byte by; a multiple of 4096.
    pub physical: u64,
    /// Whether any rule allows stores to it.
    pub is_writable: bool,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Ram(MmapRegion),
    Host(HostMapping),
}

impl MemoryBacking {
    /// Host-virtual address of the first byte, page-aligned; valid as long as the [`MemorySpace`](super::MemorySpace) lives.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        match &self.memory {
            Memory::Ram(region) => region.as_ptr().addr() as u64,
            Memory::Host(mapping) => mapping.address(),
        }
    }

    /// Bytes; a multiple of 4096.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.memory {
            Memory::Ram(region) => region.size() as u64,
            Memory::Host(mapping) => mapping.bytes(),
        }
    }

    /// The memory itself; `None` for the machine's, which only the guest accesses.
    #[must_use]
    pub fn region(&self) -> Option<&MmapRegion> {
        match &self.memory {
            Memory::Ram(region) => Some(region),
            Memory::Host(_) => None,
        }
    }
}

/// The devices of rules that have one.
pub(super) fn open_devices(
    policy: &Policy,
    lines: &InterruptLines,
) -> Result<Vec<(usize, External)>, MemoryStartError> {
    let rules = policy.memory_rules().iter().enumerate();
    rules
        .filter_map(|(index, rule)| match &rule.backend {
            MemoryBackend::External(spec) => Some((index, rule, spec)),
            _ => None,
        })
        .map(|(index, rule, spec)| {
            let place = ModelPlace {
                file: policy.file(),
                line: rule.line,
                range: ModelRange {
                    first: rule.first,
                    bytes: rule.bytes(),
                    is_memory: true,
                },
            };
            let line = |irq: Option<u32>| irq.and_then(|irq| lines.line(irq));
            let device = open_external(spec, &place, line)
                .map_err(|error| MemoryStartError::Device(Box::new(error)))?;
            Ok((index, device))
        })
        .collect()
}

/// The memory of all rules: of adjacent `ram` rules together, filled; of each `passthrough` rule by itself.
pub(super) fn allocate(
    policy: &Policy,
    functions: &VfioFunctions,
) -> Result<Vec<MemoryBacking>, MemoryStartError> {
    let mut rules: Vec<&MemoryRule> = policy
        .memory_rules()
        .iter()
        .filter(|rule| {
            !matches!(
                rule.backend,
                MemoryBackend::Deny | MemoryBackend::External(_)
            )
        })
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
        .chunk_by(|rule, next| {
            let is_ram = |rule: &MemoryRule| matches!(rule.backend, MemoryBackend::Ram { .. });
            is_ram(rule) && is_ram(next) && rule.last + 1 == next.first
        })
        .map(|run| match run {
            [rule] if matches!(rule.backend, MemoryBackend::Passthrough { .. }) => {
                map_host(policy, rule, functions)
            }
            _ => allocate_run(policy, run),
        })
        .collect()
}

fn map_host(
    policy: &Policy,
    rule: &MemoryRule,
    functions: &VfioFunctions,
) -> Result<MemoryBacking, MemoryStartError> {
    let MemoryBackend::Passthrough {
        source,
        source_first,
        cache,
    } = &rule.backend
    else {
        unreachable!("the caller has looked");
    };
    let is_writable = rule.access.is_some_and(AccessMode::allows_write);
    let wish = Wish {
        source,
        first: *source_first,
        bytes: rule.bytes(),
        cache: *cache,
        is_writable,
        is_danger_accepted: rule.is_danger_accepted,
    };
    let mapping =
        HostMapping::open(&wish, functions).map_err(|source| MemoryStartError::Passthrough {
            file: policy.file().to_owned(),
            line: rule.line,
            source,
        })?;
    Ok(MemoryBacking {
        physical: rule.first,
        is_writable,
        memory: Memory::Host(mapping),
    })
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
        is_writable: run
            .iter()
            .filter_map(|rule| rule.access)
            .any(AccessMode::allows_write),
        memory: Memory::Ram(region),
    })
}
