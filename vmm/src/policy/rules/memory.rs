//! `[[memory]]`

use std::path::PathBuf;

use super::{AccessMode, ExternalSpec, OnDeny, Place};

/// Where real memory comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemorySource {
    /// `"dev-mem"`: the machine's physical memory, /dev/mem.
    DevMem,
    /// A PCI function's BAR: its resource file in sysfs.
    PciResource(PathBuf),
}

/// How the processor caches real memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheMode {
    /// Every access reaches the device, in order.
    Uncached,
    /// Writes may be collected; for frame buffers.
    WriteCombining,
    /// As RAM.
    WriteBack,
}

impl CacheMode {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncached => "uncached",
            Self::WriteCombining => "write-combining",
            Self::WriteBack => "write-back",
        }
    }
}

/// What stands behind a memory range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemoryBackend {
    /// Nothing: it cannot be mapped.
    Deny,
    /// Memory of the VMM's, zeroed or read from a file at start.
    Ram {
        /// Initial contents.
        file: Option<PathBuf>,
    },
    /// A process of its own: each access leaves the guest.
    External(Box<ExternalSpec>),
    /// The machine's memory.
    Passthrough {
        /// Where it comes from.
        source: MemorySource,
        /// Where the range begins in the source: a physical address, or an offset in a BAR; whole pages.
        source_first: u64,
        /// How it is cached.
        cache: CacheMode,
    },
}

impl MemoryBackend {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Ram { .. } => "ram",
            Self::External(_) => "external",
            Self::Passthrough { .. } => "passthrough",
        }
    }
}

/// A `[[memory]]` rule. Ranges are whole pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryRule {
    /// First physical address; a multiple of 4096.
    pub first: u64,
    /// Last physical address; one less than a multiple of 4096.
    pub last: u64,
    /// Allowed directions; `None` for `deny`. Write-only memory does not exist.
    pub access: Option<AccessMode>,
    /// What stands behind it.
    pub backend: MemoryBackend,
    /// `i-know-what-this-does`.
    pub is_danger_accepted: bool,
    /// What a denied mapping does.
    pub on_deny: OnDeny,
    /// The owner's name for it.
    pub name: Option<String>,
    /// For readers.
    pub comment: Option<String>,
    /// Where it stands in the policy: line, from 1.
    pub line: usize,
    /// Where it stands in the policy: column, from 1.
    pub column: usize,
}

impl MemoryRule {
    /// Bytes in the range.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Where it stands in the policy.
    #[must_use]
    pub const fn place(&self) -> Place {
        Place {
            line: self.line,
            column: self.column,
        }
    }
}
