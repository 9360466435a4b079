//! Counters of a run, as the `stats` command shows them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::msr::MsrSpace;
use crate::policy::MemorySpace;
use crate::ports::{DeniedPorts, PortSpace};

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Time since the guest's boot, in microseconds.
    pub uptime_us: u64,
    /// Exits from the guest to the VMM.
    pub exits: u64,
    /// Requests sent to the driver.
    pub requests: u64,
    /// Client processes that exist.
    pub processes: u64,
    /// Port reads that reached a rule's back end.
    pub port_reads: u64,
    /// Port writes that reached a rule's back end.
    pub port_writes: u64,
    /// Port accesses that the policy denied.
    pub port_denied: u64,
    /// Physical ranges mapped.
    pub memory_mapped: u64,
    /// Physical ranges that the policy denied.
    pub memory_denied: u64,
    /// Accesses to device models in memory, and behind BARs of modelled PCI functions, that left the guest.
    pub device_accesses: u64,
    /// Reads of PCI configuration space that reached a function.
    pub pci_reads: u64,
    /// Writes to PCI configuration space that reached a function.
    pub pci_writes: u64,
    /// Accesses to PCI configuration space that the policy denied.
    pub pci_denied: u64,
    /// `rdmsr` that were carried out.
    pub msr_reads: u64,
    /// `wrmsr` that were carried out.
    pub msr_writes: u64,
    /// Accesses to MSRs that the policy denied.
    pub msr_denied: u64,
    /// The policy's rules, those of a table together, in the policy's order.
    pub rules: Vec<RuleStats>,
    /// Ports that no rule names and that were tried, most accesses first; not more than some.
    pub denied_ports: Vec<DeniedPorts>,
}

/// A rule's counters. A PCI rule has one entry for each function that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStats {
    /// Its table in the policy, such as `port`.
    pub table: &'static str,
    /// Its line.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// What it is about: ports, addresses, a function, MSRs.
    pub place: String,
    /// What stands behind it.
    pub backend: String,
    /// Whatever was counted, by what it is.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// What the policy's rules have counted.
    pub(super) fn of_rules(ports: &PortSpace, memory: &MemorySpace, msrs: &MsrSpace) -> Self {
        let port = ports.stats();
        let port_denied = port.denied_total();
        let mut rules: Vec<RuleStats> = Vec::new();
        for rule in port.rules {
            rules.push(RuleStats {
                table: "port",
                line: rule.line,
                name: rule.name,
                place: span(rule.first.into(), rule.last.into()),
                backend: rule.backend,
                counts: [
                    ("reads", rule.reads),
                    ("writes", rule.writes),
                    ("denied reads", rule.denied_reads),
                    ("denied writes", rule.denied_writes),
                ]
                .into(),
            });
        }
        for pair in port.pairs {
            rules.push(RuleStats {
                table: "index-pair",
                line: pair.line,
                name: pair.name,
                place: format!("{:#x} and {:#x}", pair.index, pair.data),
                backend: pair.backend.to_owned(),
                counts: [
                    ("reads", pair.reads),
                    ("writes", pair.writes),
                    ("denied reads", pair.denied_reads),
                    ("denied writes", pair.denied_writes),
                ]
                .into(),
            });
        }
        let memory = memory.stats();
        for rule in &memory.rules {
            rules.push(RuleStats {
                table: "memory",
                line: rule.line,
                name: rule.name.clone(),
                place: span(rule.first, rule.last),
                backend: rule.backend.to_owned(),
                counts: [
                    ("mappings", rule.mapped),
                    ("denied", rule.denied),
                    ("accesses", rule.accesses),
                ]
                .into(),
            });
        }
        for function in ports
            .pci()
            .into_iter()
            .flat_map(crate::pci::PciSpace::stats)
        {
            rules.push(RuleStats {
                table: "pci",
                line: function.line,
                name: function.name.clone(),
                place: function.address.clone(),
                backend: function.backend.to_owned(),
                counts: [
                    ("reads", function.reads),
                    ("writes", function.writes),
                    ("denied reads", function.denied_reads),
                    ("denied writes", function.denied_writes),
                    ("BAR accesses", function.bar_accesses),
                ]
                .into(),
            });
        }
        for rule in msrs.stats() {
            rules.push(RuleStats {
                table: "msr",
                line: rule.line,
                name: rule.name.clone(),
                place: span(rule.first.into(), rule.last.into()),
                backend: rule.backend.to_owned(),
                counts: [
                    ("reads", rule.reads),
                    ("writes", rule.writes),
                    ("denied", rule.denied),
                ]
                .into(),
            });
        }
        let sum = |tables: &[&str], counts: &[&str]| {
            let rules = rules.iter().filter(|rule| tables.contains(&rule.table));
            let counts =
                rules.flat_map(|rule| counts.iter().filter_map(|name| rule.counts.get(name)));
            counts.fold(0, |sum: u64, count| sum.saturating_add(*count))
        };
        let ports = ["port", "index-pair"];
        let denied = ["denied", "denied reads", "denied writes"];
        Self {
            port_reads: sum(&ports, &["reads"]),
            port_writes: sum(&ports, &["writes"]),
            port_denied,
            memory_mapped: sum(&["memory"], &["mappings"]),
            memory_denied: memory.denied + sum(&["memory"], &denied),
            device_accesses: sum(&["memory", "pci"], &["accesses", "BAR accesses"]),
            pci_reads: sum(&["pci"], &["reads"]),
            pci_writes: sum(&["pci"], &["writes"]),
            pci_denied: sum(&["pci"], &denied),
            msr_reads: sum(&["msr"], &["reads"]),
            msr_writes: sum(&["msr"], &["writes"]),
            msr_denied: msrs.unnamed_accesses() + sum(&["msr"], &denied),
            denied_ports: port.denied,
            rules,
            ..Self::default()
        }
    }

    /// The counters by name, as people see them.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 16] {
        [
            ("uptime (us)", self.uptime_us),
            ("exits", self.exits),
            ("requests", self.requests),
            ("processes", self.processes),
            ("port reads", self.port_reads),
            ("port writes", self.port_writes),
            ("port accesses denied", self.port_denied),
            ("memory ranges mapped", self.memory_mapped),
            ("memory ranges denied", self.memory_denied),
            ("device accesses", self.device_accesses),
            ("PCI reads", self.pci_reads),
            ("PCI writes", self.pci_writes),
            ("PCI accesses denied", self.pci_denied),
            ("MSR reads", self.msr_reads),
            ("MSR writes", self.msr_writes),
            ("MSR accesses denied", self.msr_denied),
        ]
    }

    /// A line for each rule that has counted anything, and for what no rule names.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let rules = self.rules.iter().filter_map(RuleStats::line);
        let denied = self.denied_ports.iter().map(|ports| {
            format!(
                "no rule, port {}: denied reads {}, denied writes {}",
                span(ports.first.into(), ports.last.into()),
                ports.reads,
                ports.writes
            )
        });
        rules.chain(denied).collect()
    }
}

impl RuleStats {
    fn line(&self) -> Option<String> {
        let counts: Vec<String> = self
            .counts
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let name = self
            .name
            .as_ref()
            .map_or(String::new(), |name| format!(" \"{name}\""));
        (!counts.is_empty()).then(|| {
            format!(
                "line {}, {}{name} {}, {}: {}",
                self.line,
                self.table,
                self.place,
                self.backend,
                counts.join(", ")
            )
        })
    }
}

fn span(first: u64, last: u64) -> String {
    if first == last {
        format!("{first:#x}")
    } else {
        format!("{first:#x}-{last:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{MemoryRequest, Policy};
    use crate::ports::{PortRequest, Width};

    const POLICY: &str = r#"
[[port]]
name = "registers"
range = "0x300-0x303"
access = "r"
backend = "ram"

[[index-pair]]
index = 0x70
data = 0x71
backend = "ram"
[[index-pair.register]]
range = 0
access = "r"

[[memory]]
range = "0xd0000-0xd0fff"
access = "rw"
backend = "ram"

[[pci]]
device = "1234:11e8"
bdf = "0000:00:04.0"
backend = "model"
[[pci.register]]
range = "0x00-0x03"
access = "r"
[[pci.bar]]
index = 0
type = "port"
size = 16
base = 0xe000
backend = "ram"
"#;

    #[test]
    fn every_kind_of_access_is_counted_and_shown_by_its_rule() {
        let policy = Policy::from_str("p.toml", POLICY).unwrap();
        let mut ports = PortSpace::new(&policy).unwrap();
        let mut memory = MemorySpace::new(&policy, 16 << 20).unwrap();
        let msrs = MsrSpace::new(&policy, None).unwrap();
        let mut access = |port, width, write| {
            ports.access(PortRequest { port, width, write });
        };
        access(0x300, Width::Byte, None);
        access(0x300, Width::Byte, Some(1));
        for index in [0, 1] {
            access(0x70, Width::Byte, Some(index));
            access(0x71, Width::Byte, None);
        }
        access(0x60, Width::Byte, None);
        for register in [0, 8] {
            access(0xCF8, Width::Dword, Some(0x8000_2000 | register));
            access(0xCFC, Width::Dword, None);
        }
        access(0xE000, Width::Byte, Some(1));
        for address in [0xD_0000, 0xE_0000] {
            memory.map(&MemoryRequest {
                address,
                bytes: 4,
                is_write: true,
            });
        }

        let stats = Stats::of_rules(&ports, &memory, &msrs);

        assert_eq!((stats.port_reads, stats.port_writes), (2, 0));
        // Of the rule, of the pair, of none.
        assert_eq!(stats.port_denied, 3);
        assert_eq!((stats.memory_mapped, stats.memory_denied), (1, 1));
        assert_eq!((stats.pci_reads, stats.pci_denied), (1, 1));
        assert_eq!(stats.device_accesses, 1);
        assert_eq!(
            stats.lines(),
            [
                "line 2, port \"registers\" 0x300-0x303, ram (4 registers): denied writes 1, reads 1",
                "line 8, index-pair 0x70 and 0x71, ram: denied reads 1, reads 1",
                "line 16, memory 0xd0000-0xd0fff, ram: mappings 1",
                "line 21, pci 0000:00:04.0, model: BAR accesses 1, denied reads 1, reads 1",
                "no rule, port 0x60: denied reads 1, denied writes 0",
            ]
        );
    }
}
