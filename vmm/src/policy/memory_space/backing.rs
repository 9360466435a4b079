//! What memory rules need at start: host memory, the machine's, devices.

use std::io;

use vm_memory::{MmapRegion, VolatileMemory};

use crate::devices::MemoryDevice;
use crate::devices::external::ModelRange;
use crate::hardware::{HostMapping, HostPages, MappingError, VfioFunctions, Wish, open_host_pages};
use crate::machine::{Bus, DEVICE_ADDRESS_MAX};
use crate::policy::{AccessMode, MemoryBackend, MemoryRule, Policy, PolicyError};
use crate::ports::{ModelPlace, open_external};

/// Most memory that `ram` and `passthrough` rules may have together, in bytes: what the guest's I/O window can map.
pub(in crate::policy) const RAM_BYTES_MAX: u64 = abi::layout::IO_WINDOW_SIZE;

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

/// A device behind a rule's range, or behind some pages of it; every access leaves the guest.
#[derive(Debug)]
pub(super) struct DeviceRange {
    /// The rule's place in the policy.
    pub(super) rule: usize,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) device: Box<dyn MemoryDevice>,
}

/// The device models of rules that have one.
pub(super) fn open_models(
    policy: &Policy,
    bus: &Bus,
) -> Result<Vec<DeviceRange>, MemoryStartError> {
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
            let line = |irq: Option<u32>| irq.and_then(|irq| bus.lines.line(irq));
            let device = open_external(spec, &place, line, &bus.memory)
                .map_err(|error| MemoryStartError::Device(Box::new(error)))?;
            Ok(DeviceRange {
                rule: index,
                first: rule.first,
                last: rule.last,
                device: Box::new(device),
            })
        })
        .collect()
}

/// What is behind memory rules but for device models.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// By ascending physical address.
    pub(super) backings: Vec<MemoryBacking>,
    /// Parts of real BARs that are not mapped.
    pub(super) devices: Vec<DeviceRange>,
}

/// Rules with memory that is mapped, by ascending address, each with its place in the policy.
fn mapped_rules(policy: &Policy) -> Vec<(usize, &MemoryRule)> {
    let mut rules: Vec<(usize, &MemoryRule)> = policy
        .memory_rules()
        .iter()
        .enumerate()
        .filter(|(_, rule)| {
            !matches!(
                rule.backend,
                MemoryBackend::Deny | MemoryBackend::External(_)
            )
        })
        .collect();
    rules.sort_by_key(|(_, rule)| rule.first);
    rules
}

/// The line of the first rule with which there is more memory than can be mapped, and how many bytes it is then.
pub(in crate::policy) fn above_max(policy: &Policy) -> Option<(usize, u64)> {
    let mut total = 0_u64;
    mapped_rules(policy).into_iter().find_map(|(_, rule)| {
        total = total.saturating_add(rule.bytes());
        (total > RAM_BYTES_MAX).then_some((rule.line, total))
    })
}

/// The memory of all rules: of adjacent `ram` rules together, filled; of each `passthrough` rule by itself.
pub(super) fn allocate(
    policy: &Policy,
    functions: &VfioFunctions,
) -> Result<Behind, MemoryStartError> {
    if let Some((line, bytes)) = above_max(policy) {
        return Err(MemoryStartError::TooLarge {
            file: policy.file().to_owned(),
            line,
            bytes,
        });
    }
    let rules = mapped_rules(policy);
    let mut behind = Behind::default();
    let runs = rules.chunk_by(|(_, rule), (_, next)| {
        let is_ram = |rule: &MemoryRule| matches!(rule.backend, MemoryBackend::Ram { .. });
        is_ram(rule) && is_ram(next) && rule.last + 1 == next.first
    });
    for run in runs {
        match run {
            [(index, rule)] if matches!(rule.backend, MemoryBackend::Passthrough { .. }) => {
                open_host(policy, (*index, rule), functions, &mut behind)?;
            }
            _ => {
                let run: Vec<&MemoryRule> = run.iter().map(|(_, rule)| *rule).collect();
                behind.backings.push(allocate_run(policy, &run)?);
            }
        }
    }
    Ok(behind)
}

fn open_host(
    policy: &Policy,
    (index, rule): (usize, &MemoryRule),
    functions: &VfioFunctions,
    behind: &mut Behind,
) -> Result<(), MemoryStartError> {
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
    let failed = |source| MemoryStartError::Passthrough {
        file: policy.file().to_owned(),
        line: rule.line,
        source,
    };
    let mut at = rule.first;
    for (bytes, pages) in open_host_pages(&wish, functions).map_err(failed)? {
        let last = at + (bytes - 1);
        match pages {
            HostPages::Mapped(mapping) => behind.backings.push(MemoryBacking {
                physical: at,
                is_writable,
                memory: Memory::Host(mapping),
            }),
            // An access tells its address only up to there.
            HostPages::Trapped(_) if last > DEVICE_ADDRESS_MAX => {
                return Err(failed(MappingError::TooHigh { address: at }));
            }
            HostPages::Trapped(region) => behind.devices.push(DeviceRange {
                rule: index,
                first: at,
                last,
                device: Box::new(region),
            }),
        }
        at += bytes;
    }
    Ok(())
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
        let contents = crate::input_file::read(path, rule.bytes()).map_err(failed)?;
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
