//! Learns a policy: the narrowest that covers what a recording's driver touched.
//!
//! What a rule of the run's own policy allowed keeps that rule, as its owner wrote it. What no rule named becomes new
//! rules with [`Options::backend`], one for each range whose ports were used alike. What a rule denied stays denied: its
//! owner has said so. Each rule says who touched it and how often.
//!
//! What was reached through ports that select (PCI configuration space, CMOS memory) becomes rules for the registers
//! ([`registers`]), memory one for the BAR of this machine that has it, if one does.

mod base;
mod registers;
mod touched;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::hardware::{PCI_DEVICES, memory_bar_at};
use crate::policy::{PciAddress, Policy};
use crate::recording::Recording;
use registers::RegisterUse;
use touched::{Range, Touched, Use};

/// What asked for functions that are not there: with a rule for PCI functions there is a bus.
const EMPTY_BUS: &str = "[[pci]]\ndevice = \"ffff:ffff\"\nbackend = \"deny\"\n";
/// Lines of a comment about functions that are not there.
const ABSENT_MAX: usize = 16;

/// How to learn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The back end of new rules, as policies spell it: `passthrough` or `ram`.
    pub backend: String,
    /// What the policy says of its origin, such as the driver's name.
    pub title: String,
    /// Where sysfs lists this machine's PCI functions.
    pub pci_devices: PathBuf,
}

/// A learned policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The file's text.
    pub text: String,
    /// How many rules it has.
    pub rules: usize,
    /// Rules that would be refused as they are, and are there as comments with the reason.
    pub refused: usize,
    /// Kinds of accesses that a rule of the run's policy denied: they stay denied.
    pub denied: usize,
}

/// Makes a policy of a recording that was made under `base`.
#[must_use]
pub fn learn(recording: &Recording, base: &Policy, options: &Options) -> Learned {
    let touched = Touched::of(recording);
    let mut learned = Learned {
        text: String::new(),
        rules: 0,
        refused: 0,
        denied: 0,
    };
    learned.head(recording, options);
    for (line, users) in &touched.by_rule {
        learned.keep(base, *line, users);
    }
    for range in touched.ports() {
        let widths: Vec<String> = range.uses.widths().map(|width| width.to_string()).collect();
        let rule = format!(
            "[[port]]\nrange = \"{}\"\naccess = \"{}\"\nwidths = [{}]\nbackend = \"{}\"\n",
            span(range.first, range.last),
            range.uses.access(),
            widths.join(", "),
            options.backend,
        );
        learned.add(&rule, &range.users);
    }
    if let Some(cmos) = &touched.registers.cmos {
        let head = format!(
            "[[index-pair]]\nindex = 0x70\ndata = 0x71\nbackend = \"{}\"\n\
             # Bit 7 masks NMIs: the driver's is ignored.\nindex-mask = 0x7f\n",
            options.backend
        );
        learned.add_registers(&head, "index-pair", cmos);
    }
    for range in touched.memory() {
        let rule = format!(
            "[[memory]]\nrange = \"{}\"\naccess = \"{}\"\nbackend = \"{}\"\n{}",
            span(range.first, range.last),
            // Memory cannot be allowed to be written alone.
            if range.uses.is_written { "rw" } else { "r" },
            options.backend,
            source(&range, options),
        );
        learned.add(&rule, &range.users);
    }
    learned.functions(base, &touched, options);
    for range in touched.msrs() {
        // Registers for tests are a fixed number here: MSRs have no register file.
        let backend = match options.backend.as_str() {
            "ram" => "backend = \"value\"\nvalue = 0".to_owned(),
            other => format!("backend = \"{other}\""),
        };
        let rule = format!(
            "[[msr]]\nrange = \"{}\"\naccess = \"{}\"\n{backend}\n",
            span(range.first, range.last),
            range.uses.access(),
        );
        learned.add(&rule, &range.users);
    }
    for (line, users) in &touched.denied_by_rule {
        learned.denied += 1;
        let _ = writeln!(
            learned.text,
            "\n# Line {line} of {} denied this, and nothing here allows it:",
            base.file()
        );
        learned.users(users);
    }
    learned
}

impl Learned {
    fn head(&mut self, recording: &Recording, options: &Options) {
        let count = recording.accesses.len();
        let _ = writeln!(
            self.text,
            "# Learned from {}: {count} accesses. It covers what that run touched and nothing else: another run, a\n\
             # longer one, another device may touch more. Read it before you use it.",
            one_line(&options.title)
        );
        if recording.dropped != 0 {
            let _ = writeln!(
                self.text,
                "# INCOMPLETE: the recording had lost {} earlier accesses.",
                recording.dropped
            );
        }
    }

    /// Rules for the PCI functions of this machine that no rule named; the others are not there.
    fn functions(&mut self, base: &Policy, touched: &Touched<'_>, options: &Options) {
        let mut absent = Vec::new();
        let has_kept = |line: &u32| {
            let rules = base.pci_rules().iter();
            rules
                .clone()
                .any(|rule| u32::try_from(rule.place.line) == Ok(*line))
        };
        let mut has_rule = touched.by_rule.keys().any(has_kept);
        for (address, registers) in &touched.registers.pci {
            if !is_present(*address, options) {
                absent.push((address, registers));
                continue;
            }
            let head = format!("[[pci]]\nbdf = \"{address}\"\nbackend = \"passthrough\"\n");
            self.add_registers(&head, "pci", registers);
            has_rule = true;
        }
        if absent.is_empty() && (has_rule || !touched.registers.has_pci) {
            return;
        }
        let mut lines = vec!["PCI functions that are not there, and read as ones:".to_owned()];
        for (address, registers) in absent.iter().take(ABSENT_MAX) {
            let users = registers.users().into_iter();
            lines.extend(users.map(|user| format!("{address}, {user}")));
        }
        if let Some(more) = absent
            .len()
            .checked_sub(ABSENT_MAX)
            .filter(|more| *more != 0)
        {
            lines.push(format!("and {more} functions more"));
        }
        if has_rule {
            self.text.push('\n');
            self.users(&lines);
        } else {
            lines.push("With this rule there is a bus, and none of them is on it:".to_owned());
            self.add(EMPTY_BUS, &lines);
        }
    }

    /// A rule of registers. Where it is refused because of writes, these are left out, with the reason.
    fn add_registers(&mut self, head: &str, table: &str, registers: &RegisterUse) {
        let ranges = registers.ranges();
        let text = |writes: bool| {
            let mut rule = head.to_owned();
            for (first, last, uses) in &ranges {
                let access = match (writes || !uses.is_written, uses.is_read) {
                    (true, _) => uses.access(),
                    (false, true) => "r",
                    (false, false) => continue,
                };
                let _ = write!(
                    rule,
                    "\n[[{table}.register]]\nrange = \"{}\"\naccess = \"{access}\"\n",
                    span(*first, *last)
                );
            }
            rule
        };
        let mut users = registers.users();
        let mut rule = text(true);
        if let Err(error) = Policy::from_str("learned", &rule)
            && Policy::from_str("learned", &text(false)).is_ok()
        {
            users.push("NOT ALLOWED as they stand, and left out, are the writes:".to_owned());
            users.extend(crate::error_chain(&error).lines().map(str::to_owned));
            self.refused += 1;
            rule = text(false);
        }
        self.add(&rule, &users);
    }

    /// A rule that allowed accesses, as its owner wrote it.
    fn keep(&mut self, base: &Policy, line: u32, users: &[String]) {
        let option = base::line(base.text(), line).and_then(|line| line.strip_prefix("--device "));
        let rule = match option {
            Some(option) => Policy::device_rule(option),
            None => base::rule_text(base.text(), line),
        };
        match rule {
            Some(rule) => self.add(&rule, users),
            None => {
                self.refused += 1;
                let _ = writeln!(
                    self.text,
                    "\n# The rule at line {line} of {} is not where it was.",
                    base.file()
                );
                self.users(users);
            }
        }
    }

    /// A rule, as a comment if it is refused.
    fn add(&mut self, rule: &str, users: &[String]) {
        self.text.push('\n');
        self.users(users);
        match Policy::from_str("learned", rule) {
            Ok(_) => {
                self.rules += 1;
                self.text.push_str(rule);
            }
            Err(error) => {
                self.refused += 1;
                let reason = crate::error_chain(&error);
                self.text.push_str("# NOT ALLOWED as it stands:\n");
                for line in reason.lines().chain(rule.lines()) {
                    let _ = writeln!(self.text, "# {}", one_line(line));
                }
            }
        }
    }

    fn users(&mut self, users: &[String]) {
        for user in users {
            let _ = writeln!(self.text, "# {}", one_line(user));
        }
    }
}

/// The keys that say where the machine's memory comes from.
fn source(range: &Range, options: &Options) -> String {
    if options.backend != "passthrough" {
        return String::new();
    }
    match memory_bar_at(&options.pci_devices, range.first, range.last) {
        None => "source = \"dev-mem\"\n".to_owned(),
        Some((folder, bar)) => {
            let function = folder.file_name().unwrap_or_default();
            let file = Path::new(PCI_DEVICES)
                .join(function)
                .join(format!("resource{}", bar.number));
            let remap = match range.first - bar.first {
                0 => String::new(),
                offset => format!("remap = {offset:#x}\n"),
            };
            format!("source = {file:?}\n{remap}")
        }
    }
}

/// Whether a passed-through rule would find the function.
fn is_present(address: PciAddress, options: &Options) -> bool {
    options.backend == "passthrough" && options.pci_devices.join(address.to_string()).exists()
}

fn span(first: u64, last: u64) -> String {
    if first == last {
        format!("{first:#x}")
    } else {
        format!("{first:#x}-{last:#x}")
    }
}

/// Names come from images: nothing in them may end a comment's line.
fn one_line(text: &str) -> String {
    crate::observe::escape::escape(text)
}

impl Use {
    fn access(self) -> &'static str {
        match (self.is_read, self.is_written) {
            (true, false) => "r",
            (false, true) => "w",
            _ => "rw",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::export::tests_support::{denied_ports, recording};
    use crate::recording::{Access, Space};

    fn options(backend: &str) -> Options {
        Options {
            backend: backend.into(),
            title: "echo.sys".into(),
            pci_devices: "/nonexistent".into(),
        }
    }

    /// A machine with one function, whose BAR 1 is at 0xfeb00000.
    fn machine() -> tempfile::TempDir {
        let devices = tempfile::tempdir().unwrap();
        let function = devices.path().join("0000:00:03.0");
        std::fs::create_dir(&function).unwrap();
        let resource = "0x0 0x0 0x0\n0xfeb00000 0xfebfffff 0x40200\n";
        std::fs::write(function.join("resource"), resource).unwrap();
        devices
    }

    #[test]
    fn registers_become_rules_of_their_own() {
        let machine = machine();
        let options = Options {
            pci_devices: machine.path().into(),
            ..options("passthrough")
        };
        let recording = denied_ports(&[
            (0xCF8, 4, Some(0x8000_1800)),
            (0xCFC, 4, None),
            (0xCF8, 4, Some(0x8000_1804)),
            (0xCFC, 2, None),
            (0xCFC, 2, Some(7)),
            (0xCF8, 4, Some(0x8000_2000)),
            (0xCFC, 4, None),
            (0x70, 1, Some(4)),
            (0x71, 1, None),
        ]);
        let learned = learn(&recording, &Policy::deny_all(), &options);
        // The command register cannot be written without an IOMMU.
        assert_eq!((learned.rules, learned.refused), (2, 1), "{}", learned.text);
        let policy = Policy::from_str("learned.toml", &learned.text).unwrap();
        assert!(policy.port_rules().is_empty(), "{}", learned.text);
        let [pci] = policy.pci_rules() else {
            panic!("{}", learned.text);
        };
        assert_eq!(pci.target.address, PciAddress::parse("0000:00:03.0"));
        assert_eq!((pci.registers[0].first, pci.registers[0].last), (0, 3));
        let command = pci.register(4).unwrap().access.unwrap();
        assert!(command.allows(false) && !command.allows(true));
        let [pair] = policy.index_pairs() else {
            panic!("{}", learned.text);
        };
        assert!(pair.register(4).is_some() && pair.register(5).is_none());
        assert!(
            learned
                .text
                .contains("0000:00:04.0, echo.sys+0x1000: 1 read of 4 bytes at register 0x0"),
            "{}",
            learned.text
        );
    }

    #[test]
    fn a_scan_that_finds_nothing_learns_an_empty_bus() {
        let recording = denied_ports(&[(0xCF8, 4, Some(0x8000_1800)), (0xCFC, 4, None)]);
        let learned = learn(&recording, &Policy::deny_all(), &options("ram"));
        assert_eq!((learned.rules, learned.refused), (1, 0), "{}", learned.text);
        let policy = Policy::from_str("learned.toml", &learned.text).unwrap();
        let mut ports = crate::ports::PortSpace::new(&policy).unwrap();
        for (port, write) in [(0xCF8, Some(0x8000_1800)), (0xCFC, None)] {
            ports.access(crate::ports::PortRequest {
                port,
                width: crate::ports::Width::Dword,
                write,
            });
        }
        assert_eq!(ports.stats().denied_total(), 0);
    }

    #[test]
    fn memory_of_the_machine_has_its_source() {
        let machine = machine();
        let options = Options {
            pci_devices: machine.path().into(),
            ..options("passthrough")
        };
        let mut recording = denied_ports(&[]);
        let mapping = |address| Access {
            space: Space::Memory,
            address,
            bytes: 0x1000,
            rule_line: 0,
            is_allowed: false,
            ..self::recording().accesses[0].clone()
        };
        recording.accesses = vec![mapping(0xFEB0_2000), mapping(0xD_0000)];
        let learned = learn(&recording, &Policy::deny_all(), &options);
        assert_eq!((learned.rules, learned.refused), (2, 0), "{}", learned.text);
        let text = &learned.text;
        assert!(
            text.contains("0000:00:03.0/resource1\"\nremap = 0x2000\n")
                && text.contains("source = \"dev-mem\"\n"),
            "{text}"
        );
    }

    #[test]
    fn models_of_the_command_line_become_rules() {
        let mut recording = denied_ports(&[(0x378, 1, Some(1))]);
        for access in &mut recording.accesses {
            (access.rule_line, access.is_allowed) = (1, true);
        }
        let arguments = ["lpt:base=0x378,irq=7,out=bytes.bin".to_owned()];
        let base = Policy::deny_all().with_devices(&arguments).unwrap();
        let learned = learn(&recording, &base, &options("ram"));
        assert_eq!((learned.rules, learned.refused), (1, 0), "{}", learned.text);
        let expected = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\nirq = 7\noutput = \"bytes.bin\"\n";
        assert!(learned.text.contains(expected), "{}", learned.text);
    }

    fn base() -> Policy {
        // The recording's rule is at line 3.
        let text = "# a parallel port\n\n[[port]] # mine\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"-\"\n";
        Policy::from_str("base.toml", text).unwrap()
    }

    #[test]
    fn what_a_rule_allowed_keeps_it_and_the_rest_is_new() {
        let learned = learn(&recording(), &base(), &options("ram"));
        assert_eq!((learned.rules, learned.refused, learned.denied), (3, 0, 0));
        let text = &learned.text;
        assert!(
            text.contains("[[port]] # mine\nrange = \"0x378-0x37a\""),
            "{text}"
        );
        assert!(
            text.contains("# program: 1 read of 2 bytes at 0x70\n[[port]]\nrange = \"0x70-0x71\"\naccess = \"r\"\nwidths = [2]\nbackend = \"ram\"\n"),
            "{text}"
        );
        assert!(
            text.contains("[[memory]]\nrange = \"0xa0000-0xa0fff\"\naccess = \"rw\"\n"),
            "{text}"
        );
        assert!(
            text.contains("# echo.sys+0x1000: 2 writes of 1 byte at 0x37a\n"),
            "{text}"
        );
        let policy = Policy::from_str("learned.toml", text).unwrap();
        assert_eq!(policy.port_rules().len(), 2);
    }

    #[test]
    fn a_dangerous_rule_is_a_comment_with_the_reason() {
        let learned = learn(&recording(), &base(), &options("no-such-backend"));
        assert_eq!((learned.rules, learned.refused), (1, 2));
        assert!(
            learned.text.contains("# NOT ALLOWED as it stands:\n# "),
            "{}",
            learned.text
        );
        Policy::from_str("learned.toml", &learned.text).unwrap();
    }
}
