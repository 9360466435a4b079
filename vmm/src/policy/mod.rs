//! The owner's policy: which ports and physical ranges a driver may touch.
//!
//! A [`Policy`] is read from TOML ([`Policy::from_path`], [`Policy::from_str`]) and does not change afterwards.
//! [`crate::ports::PortSpace`] carries out its port rules, [`MemorySpace`] its memory rules; what is not named
//! is denied. [`Policy::explain_port`] and [`Policy::explain_memory`] tell a person what it would do and why.
//! The reference for owners is docs/policy.md.

pub mod device;
mod diagnostic;
mod explain;
mod fields;
mod limiter;
mod memory_space;
mod overlap;
mod parse;
mod values;

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, PolicyError};
pub use limiter::{LogLimiter, LogVerdict};
pub use memory_space::{
    MemoryBacking, MemoryDecision, MemoryMapping, MemoryRequest, MemoryRuleStats, MemorySpace,
    MemoryStartError, MemoryStats,
};

/// Largest policy file, in bytes. A larger file is not a policy.
pub const FILE_MAX: u64 = 1 << 20;
/// Most rules of one kind.
pub const RULES_MAX: usize = 4096;
/// Denied accesses logged a second, unless the policy says otherwise.
pub const LOG_RATE_DEFAULT: u32 = 10;
/// Highest `max-log-rate`, in lines a second.
pub const LOG_RATE_MAX: u32 = 1000;
/// What a denied read returns unless the policy says otherwise: all ones, as an empty bus does.
pub const DENIED_READ_DEFAULT: u32 = u32::MAX;
/// A parallel port's status lines with a printer that is ready: not busy (7), ACK high (6), selected (4),
/// no error (3).
pub const LPT_STATUS_DEFAULT: u8 = 0xD8;

/// Which directions a rule allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// `"r"`: reads only.
    Read,
    /// `"w"`: writes only.
    Write,
    /// `"rw"`: both.
    ReadWrite,
}

impl AccessMode {
    /// Whether reads are allowed.
    #[must_use]
    pub const fn allows_read(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether writes are allowed.
    #[must_use]
    pub const fn allows_write(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// Whether the direction is allowed.
    #[must_use]
    pub const fn allows(self, is_write: bool) -> bool {
        if is_write {
            self.allows_write()
        } else {
            self.allows_read()
        }
    }

    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Write => "w",
            Self::ReadWrite => "rw",
        }
    }
}

/// What a denied access does besides being counted and logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDeny {
    /// A write is dropped, a read returns the denied-read value.
    Ignore,
    /// A general-protection fault in the guest.
    Fault,
    /// The guest is stopped.
    Stop,
}

impl OnDeny {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Fault => "fault",
            Self::Stop => "stop",
        }
    }
}

/// Where the bytes of an `lpt` go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LptOutput {
    /// The VMM's standard output (`"-"`).
    Stdout,
    /// A file, created (or emptied) at start.
    File(PathBuf),
}

/// What stands behind a port range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortBackend {
    /// Nothing: every access is denied.
    Deny,
    /// The machine's real ports.
    Passthrough,
    /// The parallel port model.
    Lpt {
        /// Where strobed bytes go.
        output: LptOutput,
        /// The status register's value while all is well.
        status: u8,
    },
    /// The register file for tests.
    Ram {
        /// Initial bytes from the range's first port on.
        initial: Vec<u8>,
        /// Initial value of the ports that `initial` does not reach.
        fill: u8,
    },
}

impl PortBackend {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Passthrough => "passthrough",
            Self::Lpt { .. } => "lpt",
            Self::Ram { .. } => "ram",
        }
    }
}

/// A `[[port]]` rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRule {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Allowed directions; `None` for `deny`.
    pub access: Option<AccessMode>,
    /// What stands behind it.
    pub backend: PortBackend,
    /// What a denied access does.
    pub on_deny: OnDeny,
    /// What a denied read returns; its low bytes for a narrow one.
    pub denied_read: u32,
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it stands in the policy: line, from 1.
    pub line: usize,
    /// Where it stands in the policy: column, from 1.
    pub column: usize,
}

impl PortRule {
    /// Ports in the range, 1 to 65536.
    #[must_use]
    pub fn port_count(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether the rule lets an access of this direction through.
    #[must_use]
    pub fn allows(&self, is_write: bool) -> bool {
        self.access.is_some_and(|access| access.allows(is_write))
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
}

impl MemoryBackend {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Ram { .. } => "ram",
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
    /// What a denied mapping does.
    pub on_deny: OnDeny,
    /// The owner's name for it.
    pub name: Option<String>,
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
}

/// The `[default]` table: what happens to accesses that no rule names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// What a denied access does.
    pub on_deny: OnDeny,
    /// What a denied read returns.
    pub denied_read: u32,
    /// Denied accesses logged in any one second, at most.
    pub max_log_rate: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            on_deny: OnDeny::Ignore,
            denied_read: DENIED_READ_DEFAULT,
            max_log_rate: LOG_RATE_DEFAULT,
        }
    }
}

/// A checked policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    file: String,
    text: String,
    port_rules: Vec<PortRule>,
    memory_rules: Vec<MemoryRule>,
    defaults: Defaults,
    device: device::Device,
}

impl Policy {
    /// The policy of a run without `--policy`: everything is denied, counted and logged.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {
            file: "(no policy)".to_owned(),
            text: String::new(),
            port_rules: Vec::new(),
            memory_rules: Vec::new(),
            defaults: Defaults::default(),
            device: device::Device::default(),
        }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`]: the file cannot be read, is larger than [`FILE_MAX`], is not UTF-8, or its text is wrong.
    pub fn from_path(path: &Path) -> Result<Self, PolicyError> {
        let unreadable = |source| PolicyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let bytes = values::read_limited(path, FILE_MAX).map_err(unreadable)?;
        let file = path.display().to_string();
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let source = diagnostic::Source {
                file: &file,
                text: &text,
            };
            PolicyError::Invalid(vec![source.diagnostic(
                &(valid..valid + 1),
                "this byte is not UTF-8".to_owned(),
                "TOML, which is UTF-8 text".to_owned(),
            )])
        })?;
        Self::from_str(&file, &text)
    }

    /// Reads a policy from text; `name` is what its diagnostics call the file.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with everything that is wrong.
    pub fn from_str(name: &str, text: &str) -> Result<Self, PolicyError> {
        parse::parse(name, text)
    }

    /// Checks what depends on the guest: no memory rule may cover guest RAM, `ram_bytes` from
    /// [`abi::layout::RAM_BASE`], since a driver's physical address there means its own memory.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with each rule that does.
    pub fn check_guest_memory(&self, ram_bytes: u64) -> Result<(), PolicyError> {
        let found = overlap::with_guest_memory(self, ram_bytes);
        if found.is_empty() {
            Ok(())
        } else {
            Err(PolicyError::Invalid(found))
        }
    }

    /// The file's name as diagnostics give it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The port rules, in the file's order.
    #[must_use]
    pub fn port_rules(&self) -> &[PortRule] {
        &self.port_rules
    }

    /// The memory rules, in the file's order.
    #[must_use]
    pub fn memory_rules(&self) -> &[MemoryRule] {
        &self.memory_rules
    }

    /// What happens to accesses that no rule names.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }
}

#[cfg(test)]
mod tests;
