//! What a pass-through must not reach unless the rule says that its owner knows what this does.

use super::diagnostic::{Diagnostic, Source};
use super::host::HostFacts;
use super::overlap::at_place;
use super::{
    IndexPairBackend, MemoryBackend, MemorySource, MsrBackendKind, PciBackendKind, Place, Policy,
    PortBackend,
};

/// A dangerous range.
struct Danger {
    first: u64,
    last: u64,
    /// Whether reads do no harm.
    is_write_only: bool,
    /// What it is and what an access does.
    why: &'static str,
}

const fn danger(first: u64, last: u64, why: &'static str) -> Danger {
    Danger {
        first,
        last,
        is_write_only: false,
        why,
    }
}

const PORTS: &[Danger] = &[
    danger(
        0x00,
        0x0F,
        "the first DMA controller: it writes to any of the lowest 16 MiB of memory",
    ),
    danger(
        0x20,
        0x21,
        "the first interrupt controller: the machine's kernel loses its interrupts",
    ),
    danger(
        0x40,
        0x43,
        "the interval timer: the machine's clock and scheduler may depend on it",
    ),
    danger(
        0x60,
        0x60,
        "the keyboard controller: its output port has the processor's reset line and gate A20",
    ),
    Danger {
        is_write_only: true,
        ..danger(
            0x61,
            0x61,
            "system control port B: it masks memory parity and I/O channel check NMIs",
        )
    },
    danger(
        0x64,
        0x64,
        "the keyboard controller: command 0xfe resets the machine",
    ),
    Danger {
        is_write_only: true,
        ..danger(
            0x70,
            0x71,
            "CMOS memory: the firmware's settings and the clock, and bit 7 of port 0x70 masks NMIs \
            ([[index-pair]] gives single registers)",
        )
    },
    danger(
        0x81,
        0x8F,
        "the DMA controllers' page registers: they say which memory DMA writes to",
    ),
    danger(
        0x92,
        0x92,
        "system control port A: bit 0 resets the machine",
    ),
    danger(
        0xA0,
        0xA1,
        "the second interrupt controller: the machine's kernel loses its interrupts",
    ),
    danger(
        0xB2,
        0xB3,
        "the firmware's command port: a write runs code in system management mode",
    ),
    danger(
        0xC0,
        0xDF,
        "the second DMA controller: it writes to any of the lowest 16 MiB of memory",
    ),
    danger(
        0x3B0,
        0x3DF,
        "the display adapter (VGA), which may be the machine's console",
    ),
    danger(
        0x4D0,
        0x4D1,
        "the interrupt controllers' edge/level registers: the machine's kernel loses interrupts",
    ),
    danger(
        0xCF8,
        0xCFF,
        "PCI configuration of all devices, in pairs of accesses that race with the machine's kernel, \
        and the reset register 0xcf9 ([[pci]] gives single functions)",
    ),
];

const MEMORY: &[Danger] = &[
    danger(0, 0x9_FFFF, "conventional memory: the machine's RAM"),
    danger(
        0xA_0000,
        0xB_FFFF,
        "the display adapter's memory (VGA), which may be the machine's console",
    ),
    danger(
        0xFEC0_0000,
        0xFECF_FFFF,
        "the I/O interrupt controllers: the machine's kernel loses its interrupts",
    ),
    danger(
        0xFED0_0000,
        0xFED0_3FFF,
        "the high-precision event timer: the machine's clock may depend on it",
    ),
    danger(
        0xFEE0_0000,
        0xFEEF_FFFF,
        "the processors' interrupt controllers: a write may interrupt any of them",
    ),
];

/// PCI header registers whose writes move the device about or let it loose on memory.
const PCI_REGISTERS: &[Danger] = &[
    danger(
        0x04,
        0x05,
        "the command register: it turns on bus mastering, by which the device reaches all memory",
    ),
    danger(
        0x10,
        0x27,
        "the base address registers: a moved device may lie over another or over RAM",
    ),
    danger(
        0x30,
        0x33,
        "the expansion ROM's base address: a moved ROM may lie over another device or RAM",
    ),
];

/// MSRs that hold the machine's kernel's own addresses and mode: reads tell a driver where that kernel is.
const MSRS: &[Danger] = &[
    danger(
        0x174,
        0x176,
        "the machine's kernel's entry for system calls: the driver learns where that kernel is",
    ),
    danger(
        0xC000_0080,
        0xC000_0084,
        "the machine's EFER and system call entries, not the guest's: the driver learns where that kernel is",
    ),
    danger(
        0xC000_0100,
        0xC000_0102,
        "the FS and GS bases of the machine's kernel, not the guest's: the driver learns where that kernel is",
    ),
];

const ACCEPT: &str =
    "`i-know-what-this-does = true` in this rule, if it is meant; or a narrower rule";

/// Where pass-through rules meet `dangers`.
struct Findings<'s, 'a> {
    source: &'s Source<'a>,
    diagnostics: &'s mut Vec<Diagnostic>,
}

impl Findings<'_, '_> {
    fn push(&mut self, place: Place, what: &str, first: u64, last: u64, why: &str) {
        let range = if first == last {
            format!("{first:#x} is")
        } else {
            format!("{first:#x}-{last:#x} are")
        };
        self.diagnostics.push(at_place(
            self.source,
            place,
            format!("{what} {range} too dangerous to pass through unsaid: {why}"),
            ACCEPT.to_owned(),
        ));
    }

    fn search(
        &mut self,
        dangers: &[Danger],
        place: Place,
        what: &str,
        range: (u64, u64),
        is_writing: bool,
    ) {
        for danger in dangers {
            if danger.first <= range.1
                && danger.last >= range.0
                && (is_writing || !danger.is_write_only)
            {
                let (first, last) = (danger.first.max(range.0), danger.last.min(range.1));
                self.push(place, what, first, last, danger.why);
            }
        }
    }
}

/// Reports each pass-through rule that reaches what is dangerous on any machine.
pub(super) fn refuse(policy: &Policy, source: &Source<'_>, diagnostics: &mut Vec<Diagnostic>) {
    let mut findings = Findings {
        source,
        diagnostics,
    };
    for (place, range, is_writing) in host_ports(policy) {
        findings.search(PORTS, place, "the machine's port(s)", range, is_writing);
    }
    for pair in &policy.index_pairs {
        let writable = pair
            .registers
            .iter()
            .find(|register| register.access.is_some_and(|access| access.allows_write()));
        let IndexPairBackend::Passthrough { index, data } = pair.backend else {
            continue;
        };
        if pair.is_danger_accepted {
            continue;
        }
        // The index register of CMOS memory is written with indices that the policy names and bits that it fixes.
        let is_cmos = (index, data) == (0x70, 0x71);
        match writable {
            Some(register) if is_cmos => findings.push(
                register.place,
                "CMOS register(s)",
                register.first.into(),
                register.last.into(),
                "a write changes the firmware's settings or the machine's clock",
            ),
            _ if is_cmos => {}
            _ => {
                for port in [index, data] {
                    let range = (port.into(), port.into());
                    findings.search(PORTS, pair.place, "the machine's port(s)", range, true);
                }
            }
        }
    }
    for (place, range) in host_memory(policy) {
        findings.search(MEMORY, place, "physical address(es)", range, true);
    }
    refuse_pci_and_msrs(policy, &mut findings);
}

fn refuse_pci_and_msrs(policy: &Policy, findings: &mut Findings<'_, '_>) {
    for rule in &policy.pci_rules {
        // VFIO keeps these registers to itself: the driver sees copies, and its DMA is confined.
        let is_harmless = rule.is_danger_accepted || rule.asks_for_dma;
        if rule.backend != PciBackendKind::Passthrough || is_harmless {
            continue;
        }
        for danger in PCI_REGISTERS {
            let (Ok(first), Ok(last)) = (u16::try_from(danger.first), u16::try_from(danger.last))
            else {
                continue;
            };
            let writable = (first..=last).find(|offset| {
                rule.access_at(*offset)
                    .is_some_and(|access| access.allows_write())
            });
            if let Some(offset) = writable {
                let place = rule
                    .register(offset)
                    .map_or(rule.place, |register| register.place);
                findings.push(place, "register(s)", danger.first, danger.last, danger.why);
            }
        }
    }
    for rule in &policy.msr_rules {
        if rule.backend == MsrBackendKind::Passthrough
            && rule.allows(true)
            && !rule.is_danger_accepted
        {
            findings.push(
                rule.place,
                "MSR(s)",
                rule.first.into(),
                rule.last.into(),
                "a write changes how the machine's own processor works, below its kernel",
            );
        }
        if rule.backend == MsrBackendKind::Passthrough && !rule.is_danger_accepted {
            let range = (rule.first.into(), rule.last.into());
            findings.search(MSRS, rule.place, "MSR(s)", range, rule.allows(true));
        }
    }
}

/// The machine's ports that `passthrough` rules reach and whose danger is not accepted; and whether by writes.
fn host_ports(policy: &Policy) -> impl Iterator<Item = (Place, (u64, u64), bool)> + '_ {
    policy
        .port_rules
        .iter()
        .filter(|rule| rule.backend == PortBackend::Passthrough && !rule.is_danger_accepted)
        .map(|rule| {
            (
                rule.place(),
                (rule.host_first.into(), rule.host_last().into()),
                rule.allows(true),
            )
        })
}

/// The machine's physical addresses that `passthrough` rules reach and whose danger is not accepted.
fn host_memory(policy: &Policy) -> impl Iterator<Item = (Place, (u64, u64))> + '_ {
    policy.memory_rules.iter().filter_map(|rule| {
        let MemoryBackend::Passthrough {
            source: MemorySource::DevMem,
            source_first,
            ..
        } = &rule.backend
        else {
            return None;
        };
        (!rule.is_danger_accepted).then(|| {
            (
                rule.place(),
                (*source_first, source_first + (rule.last - rule.first)),
            )
        })
    })
}

/// Whether anything of a policy depends on what [`HostFacts`] say.
pub(super) fn needs_facts(policy: &Policy) -> bool {
    host_ports(policy).next().is_some() || host_memory(policy).next().is_some()
}

/// Each pass-through rule that reaches what is dangerous on this machine.
pub(super) fn on_this_machine(
    policy: &Policy,
    source: &Source<'_>,
    facts: &HostFacts,
) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut findings = Findings {
        source,
        diagnostics: &mut diagnostics,
    };
    for (place, range, _) in host_ports(policy) {
        for (first, last, why) in &facts.ports {
            if u64::from(*first) <= range.1 && u64::from(*last) >= range.0 {
                let (first, last) = (
                    u64::from(*first).max(range.0),
                    u64::from(*last).min(range.1),
                );
                findings.push(place, "the machine's port(s)", first, last, why);
            }
        }
    }
    for (place, range) in host_memory(policy) {
        for (first, last) in &facts.system_ram {
            if *first <= range.1 && *last >= range.0 {
                let (first, last) = ((*first).max(range.0), (*last).min(range.1));
                findings.push(
                    place,
                    "physical address(es)",
                    first,
                    last,
                    "the machine's own RAM, its kernel and programs",
                );
            }
        }
    }
    diagnostics
}
