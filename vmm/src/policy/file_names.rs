//! Files that a policy's rules name.

use std::path::Path;

use super::{
    DeviceOutput, DeviceSpec, MemoryBackend, PciRule, Policy, PortBackend, UartLink, Wave,
};

/// A file that a rule names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RuleFile<'a> {
    /// The rule's line.
    pub(crate) line: usize,
    /// The key that names it.
    pub(crate) key: &'static str,
    /// The file.
    pub(crate) path: &'a Path,
    /// Whether it is written.
    pub(crate) is_output: bool,
}

impl Policy {
    /// What stands behind ports, and behind BARs of modelled functions; the line of each rule.
    fn backends(&self) -> impl Iterator<Item = (usize, &PortBackend)> {
        let rules = self
            .port_rules
            .iter()
            .map(|rule| (rule.line, &rule.backend));
        let bars = self
            .pci_rules
            .iter()
            .filter_map(PciRule::model)
            .flat_map(|model| &model.bars)
            .map(|bar| (bar.place.line, &bar.backend));
        rules.chain(bars)
    }

    /// The line of a rule whose device writes to standard output.
    pub(crate) fn standard_output_line(&self) -> Option<usize> {
        self.backends()
            .find(|(_, backend)| uses_standard_output(backend))
            .map(|(line, _)| line)
    }

    /// The files that rules read or write, but for those of the machine's own devices.
    pub(crate) fn rule_files(&self) -> Vec<RuleFile<'_>> {
        let of_memory = self
            .memory_rules
            .iter()
            .filter_map(|rule| match &rule.backend {
                MemoryBackend::Ram { file: Some(path) } => Some(RuleFile {
                    line: rule.line,
                    key: "file",
                    path,
                    is_output: false,
                }),
                _ => None,
            });
        self.backends()
            .filter_map(|(line, backend)| of_model(line, backend))
            .chain(of_memory)
            .collect()
    }
}

fn of_model(line: usize, backend: &PortBackend) -> Option<RuleFile<'_>> {
    let (key, path, is_output) = match backend {
        PortBackend::Device(spec) => match &**spec {
            DeviceSpec::Rtc(spec) => ("nvram", &**spec.nvram.as_ref()?, true),
            DeviceSpec::Adc(spec) => match &spec.wave {
                Wave::Csv(path) => ("wave", &**path, false),
                Wave::Formula { .. } => return None,
            },
            _ => ("output", output(backend)?, true),
        },
        _ => ("output", output(backend)?, true),
    };
    Some(RuleFile {
        line,
        key,
        path,
        is_output,
    })
}

fn uses_standard_output(backend: &PortBackend) -> bool {
    if let PortBackend::Device(spec) = backend
        && let DeviceSpec::Uart(spec) = &**spec
        && spec.link == UartLink::Stdio
    {
        return true;
    }
    backend.exclusive_output() == Some(&DeviceOutput::Stdout)
}

fn output(backend: &PortBackend) -> Option<&Path> {
    match backend.exclusive_output()? {
        DeviceOutput::File(path) => Some(path),
        DeviceOutput::Stdout | DeviceOutput::Pty | DeviceOutput::Command(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_write_to_standard_output_are_found() {
        let line = |device: &str| {
            let policy = Policy::deny_all().with_devices(&[device.to_owned()]);
            policy.unwrap().standard_output_line()
        };
        assert!(line("lpt:base=0x378,out=-").is_some());
        assert!(line("uart16550:base=0x3f8,out=-").is_some());
        assert!(line("uart16550:base=0x3f8,out=stdio").is_some());
        assert_eq!(line("lpt:base=0x378,out=bytes"), None);
        assert_eq!(line("uart16550:base=0x3f8,out=pty"), None);
        assert_eq!(line("rtc:nvram=cmos"), None);
    }

    #[test]
    fn files_of_rules_are_found() {
        let text = r#"
[[port]]
range = "0x378-0x37a"
access = "rw"
backend = "lpt"
output = "bytes"

[[memory]]
range = "0xd0000-0xd0fff"
access = "rw"
backend = "ram"
file = "rom"
"#;
        let policy = Policy::from_str("p.toml", text).unwrap();
        let devices = ["rtc:nvram=cmos", "lpt:base=0x278,out=-"].map(str::to_owned);
        let policy = policy.with_devices(&devices).unwrap();
        let found: Vec<(usize, &str, &Path, bool)> = policy
            .rule_files()
            .iter()
            .map(|file| (file.line, file.key, file.path, file.is_output))
            .collect();
        assert_eq!(
            found,
            [
                (2, "output", Path::new("bytes"), true),
                (13, "nvram", Path::new("cmos"), true),
                (8, "file", Path::new("rom"), false),
            ]
        );
    }
}
