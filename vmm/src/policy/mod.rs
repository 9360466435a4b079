//! The owner's policy: which ports, physical ranges, PCI functions and MSRs a driver may touch.
//!
//! A [`Policy`] is read from TOML ([`Policy::from_path`], [`Policy::from_str`]) and does not change afterwards.
//! [`crate::ports::PortSpace`] carries out its port rules, [`MemorySpace`] its memory rules; what is not named
//! is denied. [`Policy::explain_port`] and [`Policy::explain_memory`] tell a person what it would do and why.
//! The reference for owners is docs/policy.md.

pub mod clients;
mod danger;
pub mod device;
mod diagnostic;
mod explain;
mod explain_effects;
mod explain_registers;
mod fields;
mod file_names;
pub(crate) mod gate;
mod host;
mod limiter;
mod memory_space;
mod numbers;
mod overlap;
mod parse;
mod rules;
mod schema;
pub(crate) mod segments;
mod values;

use std::path::Path;

pub use diagnostic::{Diagnostic, PolicyError, RelatedLine};
pub use explain_registers::action_name;
pub use host::HostFacts;
pub use limiter::{LogLimiter, LogVerdict};
pub use memory_space::{
    MemoryBacking, MemoryDecision, MemoryMapping, MemoryRequest, MemoryRuleStats, MemorySpace,
    MemoryStartError, MemoryStats,
};
pub(crate) use parse::model::parse_wave;
pub use rules::*;
pub use schema::json_schema;
pub(crate) use values::{parse_number, parse_range};

use numbers::Numbers;
use segments::Segments;

/// Largest policy file, in bytes. A larger file is not a policy.
pub const FILE_MAX: u64 = 4 << 20;
/// Most rules of one kind.
pub const RULES_MAX: usize = 16384;
/// Highest physical address: they have at most 52 bits (AMD64 Architecture Programmer's Manual vol. 2, 1.1.2).
pub const ADDRESS_MAX: u64 = (1 << 52) - 1;
/// Highest `rate` and `burst`.
pub const RATE_MAX: u64 = 1_000_000;
/// Denied accesses logged a second, unless the policy says otherwise.
pub const LOG_RATE_DEFAULT: u32 = 10;
/// Highest `max-log-rate`, in lines a second.
pub const LOG_RATE_MAX: u32 = 1000;
/// What a denied read returns unless the policy says otherwise: all ones, as an empty bus does.
pub const DENIED_READ_DEFAULT: u32 = u32::MAX;
/// A parallel port's status lines with a printer that is ready: not busy (7), ACK high (6), selected (4),
/// no error (3).
pub const LPT_STATUS_DEFAULT: u8 = 0xD8;

/// A checked policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    file: String,
    text: String,
    port_rules: Vec<PortRule>,
    index_pairs: Vec<IndexPair>,
    memory_rules: Vec<MemoryRule>,
    memory_segments: Segments,
    pci_rules: Vec<PciRule>,
    msr_rules: Vec<MsrRule>,
    interrupt_rules: Vec<InterruptRule>,
    msr_numbers: Numbers,
    defaults: Defaults,
    device: device::Device,
    clients: clients::Clients,
    warnings: Vec<Diagnostic>,
    is_learning: bool,
}

impl Policy {
    /// The policy of a run without `--policy`: everything is denied, counted and logged.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {
            file: "(no policy)".to_owned(),
            text: String::new(),
            port_rules: Vec::new(),
            index_pairs: Vec::new(),
            memory_rules: Vec::new(),
            memory_segments: Segments::default(),
            pci_rules: Vec::new(),
            msr_rules: Vec::new(),
            interrupt_rules: Vec::new(),
            msr_numbers: Numbers::default(),
            defaults: Defaults::default(),
            device: device::Device::default(),
            clients: clients::Clients::default(),
            warnings: Vec::new(),
            is_learning: false,
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
        let bytes = crate::input_file::read(path, FILE_MAX).map_err(unreadable)?;
        let file = path.display().to_string();
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let source = diagnostic::Source::new(&file, &text);
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

    /// Adds the rules of `--device` arguments ([`device_help`]). In diagnostics and logs their lines follow the
    /// policy's last.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with everything that is wrong, overlaps with the policy's rules included.
    pub fn with_devices(self, arguments: &[String]) -> Result<Self, PolicyError> {
        parse::device_option::add_devices(self, arguments)
    }

    /// A `--device` argument as the rule of a policy that it stands for; `None`: it is none.
    pub(crate) fn device_rule(argument: &str) -> Option<String> {
        parse::device_option::rule_text(argument)
    }

    /// A `--device` argument that means the same in any folder as it does in `folder`; `None`: it is none, or it names a
    /// file whose path cannot be written in one. Programs that it names are left as they are.
    pub(crate) fn device_anywhere(argument: &str, folder: &Path) -> Option<String> {
        parse::device_file::anywhere(argument, folder)
    }

    /// The policy of a run that only finds out what its driver touches: what no rule names is not there, but does not stop
    /// the driver either. Physical memory reads as ones, and MSRs as zeros instead of faulting.
    #[must_use]
    pub(crate) fn for_learning(mut self) -> Self {
        self.is_learning = true;
        if self.defaults.msr_on_deny == OnDeny::Fault {
            self.defaults.msr_on_deny = OnDeny::Ignore;
        }
        self
    }

    /// Whether it is [`Self::for_learning`].
    pub(crate) const fn is_learning(&self) -> bool {
        self.is_learning
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

    /// Checks what no guest can have: memory rules that cover the RAM of one of the default size, and more memory behind
    /// `ram` and `passthrough` rules than can be mapped.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with each such rule.
    pub fn check_any_guest(&self) -> Result<(), PolicyError> {
        let mut found = overlap::with_guest_memory(self, abi::layout::RAM_DEFAULT);
        found.extend(overlap::above_memory_max(self));
        if found.is_empty() {
            Ok(())
        } else {
            Err(PolicyError::Invalid(found))
        }
    }

    /// As [`Policy::check_host`] with this machine's facts, which are only read if a rule depends on them.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with each rule that may not be.
    pub fn check_this_host(&self) -> Result<(), PolicyError> {
        if danger::needs_facts(self) {
            self.check_host(&HostFacts::read())
        } else {
            Ok(())
        }
    }

    /// Checks what depends on the machine: no pass-through rule may reach its RAM, its console or its power
    /// management, unless the rule says `i-know-what-this-does`.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with each rule that does.
    pub fn check_host(&self, facts: &HostFacts) -> Result<(), PolicyError> {
        let found = danger::on_this_machine(self, &overlap::source_of(self), facts);
        if found.is_empty() {
            Ok(())
        } else {
            Err(PolicyError::Invalid(found))
        }
    }

    /// What is allowed but probably not meant, in order of place.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The file's name as diagnostics give it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
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

    /// The index/data pairs, in the file's order.
    #[must_use]
    pub fn index_pairs(&self) -> &[IndexPair] {
        &self.index_pairs
    }

    /// The rules for PCI functions, in the file's order.
    #[must_use]
    pub fn pci_rules(&self) -> &[PciRule] {
        &self.pci_rules
    }

    /// The rules for MSRs, in the file's order.
    #[must_use]
    pub fn msr_rules(&self) -> &[MsrRule] {
        &self.msr_rules
    }

    /// The rules for interrupts, in the file's order.
    #[must_use]
    pub fn interrupt_rules(&self) -> &[InterruptRule] {
        &self.interrupt_rules
    }

    /// Who may connect to the driver's socket.
    #[must_use]
    pub fn clients(&self) -> &clients::Clients {
        &self.clients
    }

    /// The memory rule that covers an address, as its place among [`Policy::memory_rules`].
    #[must_use]
    pub fn memory_rule_at(&self, address: u64) -> Option<usize> {
        self.memory_segments.find(address)
    }

    /// The rule for an MSR, as its place among [`Policy::msr_rules`].
    #[must_use]
    pub fn msr_rule_at(&self, number: u32) -> Option<usize> {
        self.msr_numbers.find(number)
    }

    /// What happens to accesses that no rule names.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }
}

/// What a `--device` argument may be: the models and their keys.
#[must_use]
pub fn device_help() -> String {
    parse::device_option::help()
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod diagnostic_tests;
#[cfg(test)]
mod function_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;
