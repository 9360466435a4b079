//! What a policy has to be held against on the machine that it is used on.

use std::fs;
use std::path::Path;

/// What this machine uses itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFacts {
    /// Physical ranges of RAM, first and last address. Empty when they could not be read: /proc/iomem shows them to
    /// root alone.
    pub system_ram: Vec<(u64, u64)>,
    /// Ports that the machine's kernel depends on: first and last port, and why.
    pub ports: Vec<(u16, u16, String)>,
}

impl HostFacts {
    /// Reads them from /proc and /sys. What cannot be read is left out.
    #[must_use]
    pub fn read() -> Self {
        Self::from_folders(Path::new("/proc"), Path::new("/sys"))
    }

    fn from_folders(proc: &Path, sys: &Path) -> Self {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut ports: Vec<(u16, u16, String)> = resources(&text(&proc.join("ioports")))
            .filter(|(_, _, name)| name.starts_with("ACPI "))
            .filter_map(|(first, last, name)| {
                Some((
                    u16::try_from(first).ok()?,
                    u16::try_from(last).ok()?,
                    format!("{name}: power management of the machine, down to switching it off"),
                ))
            })
            .collect();
        let consoles = text(&sys.join("class/tty/console/active"));
        for tty in consoles
            .split_whitespace()
            .filter(|tty| tty.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            let port = text(&sys.join("class/tty").join(tty).join("port"));
            let digits = port.trim().trim_start_matches("0x");
            // 0: a UART in memory, or a console that is no UART.
            if let Ok(first @ 1..) = u16::from_str_radix(digits, 16) {
                ports.push((
                    first,
                    first.saturating_add(7),
                    format!("{tty}, the machine's console"),
                ));
            }
        }
        let system_ram = resources(&text(&proc.join("iomem")))
            .filter(|(first, last, name)| name == "System RAM" && first < last)
            .map(|(first, last, _)| (first, last))
            .collect();
        Self { system_ram, ports }
    }
}

/// The lines of /proc/ioports and /proc/iomem: first, last, name. To others than root all numbers are 0.
fn resources(text: &str) -> impl Iterator<Item = (u64, u64, String)> + '_ {
    text.lines().filter_map(|line| {
        let (range, name) = line.split_once(" : ")?;
        let (first, last) = range.trim().split_once('-')?;
        let (first, last) = (
            u64::from_str_radix(first, 16).ok()?,
            u64::from_str_radix(last, 16).ok()?,
        );
        (last != 0).then(|| (first, last, name.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_power_management_and_consoles_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (proc, sys) = (folder.path().join("proc"), folder.path().join("sys"));
        let tty = sys.join("class/tty");
        for path in [
            &proc,
            &tty.join("console"),
            &tty.join("ttyS0"),
            &tty.join("tty0"),
        ] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(
            proc.join("iomem"),
            "00001000-0009fbff : System RAM\n000a0000-000bffff : PCI Bus 0000:00\n  00100000-07fdffff : System RAM\n",
        )
        .unwrap();
        fs::write(
            proc.join("ioports"),
            "0378-037a : parport0\n0600-063f : 0000:00:01.3\n  0600-0603 : ACPI PM1a_EVT_BLK\n",
        )
        .unwrap();
        fs::write(tty.join("console/active"), "tty0 ttyS0\n").unwrap();
        fs::write(tty.join("ttyS0/port"), "0x3F8\n").unwrap();
        let facts = HostFacts::from_folders(&proc, &sys);
        assert_eq!(
            facts.system_ram,
            [(0x1000, 0x9_FBFF), (0x10_0000, 0x7FD_FFFF)]
        );
        let ports: Vec<(u16, u16)> = facts
            .ports
            .iter()
            .map(|(first, last, _)| (*first, *last))
            .collect();
        assert_eq!(ports, [(0x600, 0x603), (0x3F8, 0x3FF)]);
        assert!(facts.ports[1].2.contains("ttyS0"));
    }

    #[test]
    fn numbers_hidden_from_others_than_root_are_no_facts() {
        let text = "00000000-00000000 : System RAM\n0000-0000 : ACPI PM1a_EVT_BLK\nnonsense\n";
        assert_eq!(resources(text).count(), 0);
        assert_eq!(
            HostFacts::from_folders(Path::new("/nonexistent"), Path::new("/nonexistent")),
            HostFacts::default()
        );
    }
}
