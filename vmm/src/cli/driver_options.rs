//! What a driver finds around it, and how much it may take: options that `run` has, and `wine install` keeps for a service.

use std::path::{Path, PathBuf};

use abi::windows::Windows;

use super::named_files::NamedFiles;
use super::option_values::{parse_memory, parse_size, parse_windows};
use crate::error_chain;
use crate::files::{Files, FilesOption};
use crate::launch::memory;
use crate::machine::processor_share::ProcessorShare;
use crate::policy::Policy;
use crate::session::StartError;

/// What is wrong with a service's device that writes to standard output.
pub(super) const NO_STANDARD_OUTPUT: &str =
    "nobody reads what a service's device writes to standard output; name a file, or a command";

/// What a driver finds besides what its policy allows.
#[derive(Debug, clap::Args)]
pub(super) struct Surroundings {
    /// A device model that the driver finds, such as lpt:base=0x378,irq=7,out=bytes.bin; may be given several times.
    /// `ringfence run --device help` lists the models and their keys
    #[arg(long, value_name = "MODEL:KEY=VALUE,...")]
    pub(super) device: Vec<String>,
    /// Registry contents for the driver, a .toml or .reg file; keys without a hive are below its service key
    #[arg(long, value_name = "FILE")]
    pub(super) registry: Option<PathBuf>,
    /// The directory that the driver's file functions see as C:\; with :ro only to read
    #[arg(long, value_name = "DIR[:ro]")]
    files: Option<String>,
    /// Which Windows the guest is: xp (SP3), 7 (SP1), 10 (22H2) or 11 (23H2); 7 for i386 drivers and 10 for amd64
    /// ones unless set
    #[arg(long, value_name = "VERSION", value_parser = parse_windows)]
    pub(super) windows: Option<Windows>,
    /// Guest memory, such as 16M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_memory)]
    pub(super) memory: u64,
}

/// What a driver's process takes at most.
#[derive(Debug, clap::Args)]
pub(super) struct Limits {
    /// The share of one processor that the guest gets at most; what it is held back does not count for --timeout
    #[arg(long, value_name = "PERCENT")]
    pub(super) cpu: Option<ProcessorShare>,
    /// Memory that the driver's process takes at most, its guest's and what clients share with it included, such as 64M;
    /// clients for which there is no room are refused
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) max_memory: Option<u64>,
}

impl Limits {
    /// # Errors
    /// A guest of so many bytes does not fit.
    pub(super) fn check(&self, memory: u64) -> Result<(), String> {
        let checked = self.max_memory.map(|max| memory::check(max, memory));
        checked
            .transpose()
            .map(|_| ())
            .map_err(|error| error_chain(&error))
    }
}

/// A policy, with the rules of `--device` behind its own.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    /// Lines of the policy's file.
    lines: usize,
}

impl Rules {
    /// The option that a line, and a key there, is of.
    fn option(&self, line: usize, key: &str) -> String {
        if line > self.lines {
            format!("--device ({key})")
        } else {
            format!("the policy (line {line}, `{key}`)")
        }
    }

    /// Adds the files that they name.
    pub(super) fn add_files(&self, files: &mut NamedFiles) {
        for file in self.policy.rule_files() {
            let option = self.option(file.line, file.key);
            if file.is_output {
                files.writes(option, file.path);
            } else {
                files.reads(option, file.path);
            }
        }
    }
}

impl Surroundings {
    /// Whether `--device help` is there: nothing is to be done but to print [`crate::policy::device_help`].
    pub(super) fn asks_for_help(&self) -> bool {
        self.device.iter().any(|device| device == "help")
    }

    /// Reads a policy, and adds the rules of `--device`.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(super) fn rules(&self, policy: Option<&Path>) -> Result<Rules, String> {
        let policy = match policy {
            None => Policy::deny_all(),
            Some(path) => Policy::from_path(path).map_err(|error| error_chain(&error))?,
        };
        let lines = policy.text().lines().count();
        let policy = policy
            .with_devices(&self.device)
            .map_err(|error| error_chain(&error))?;
        Ok(Rules { policy, lines })
    }

    /// Reads the registry's contents; `service`: whose keys those are that name none.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn registry(&self, service: &str) -> Result<Option<Vec<u8>>, String> {
        let path = self.registry.as_deref();
        path.map(|path| crate::registry::read(path, service))
            .transpose()
            .map_err(|error| error_chain(&error))
    }

    /// The directory of `--files`.
    pub(super) fn files(&self) -> Option<FilesOption> {
        self.files.as_deref().map(FilesOption::parse)
    }

    /// Checks everything as a run of `driver` does, for the service of that name, which is not started now.
    ///
    /// # Errors
    /// What is wrong, in the run's words.
    pub(super) fn check(
        &self,
        driver: &Path,
        policy: Option<&Path>,
        service: &str,
    ) -> Result<(), String> {
        let rules = self.rules(policy)?;
        if let Some(line) = rules.policy.standard_output_line() {
            let option = rules.option(line, "output");
            return Err(format!("{option}: {NO_STANDARD_OUTPUT}"));
        }
        let mut files = NamedFiles::default();
        files.reads("DRIVER", driver);
        for (option, path) in [
            ("--policy", policy),
            ("--registry", self.registry.as_deref()),
        ] {
            if let Some(path) = path {
                files.reads(option, path);
            }
        }
        rules.add_files(&mut files);
        files.check()?;
        let checked = rules.policy.check_guest_memory(self.memory);
        checked.map_err(|error| error_chain(&error))?;
        for warning in rules.policy.warnings() {
            tracing::warn!("{warning}");
        }
        self.registry(service)?;
        if let Some(option) = self.files() {
            Files::new(&option).map_err(|source| {
                error_chain(&StartError::Files {
                    path: option.path.display().to_string(),
                    source,
                })
            })?;
        }
        Ok(())
    }
}
