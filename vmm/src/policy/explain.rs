//! What a policy would do with an access and why, in words. `ringfence policy check` prints it.
//!
//! The decision is found here by the plainest way there is, a search of the rules for every byte; a property
//! test holds [`crate::ports::PortSpace`]'s table against it.

use std::fmt::Write;

use super::{
    BarKind, IndexPair, MemoryRequest, MemorySpace, OnDeny, PciBar, PciRule, Policy, PortRule,
};
use crate::ports::{Action, Decision, DenialReason, Origin, PortRequest, decide_data};

impl Policy {
    /// What happens to a port access, limits (`rate`, `quota`) and PCI configuration aside. `index` is what the driver
    /// wrote to index ports before.
    #[must_use]
    pub fn decide_port(&self, request: &PortRequest, index: u8) -> Decision {
        let is_write = request.write.is_some();
        let bytes = request.width.bytes();
        let by_default = |origin, reason| Decision::denied(origin, self.defaults().on_deny, reason);
        let mut owners = Vec::new();
        for byte in 0..bytes {
            let Some(port) = request.port.checked_add(byte) else {
                return by_default(Origin::PastLastPort, DenialReason::PastLastPort);
            };
            let rule = self.rule_of_port(port);
            let pair = self.pair_of_port(port);
            match (rule, pair) {
                (Some((index, rule)), _) => {
                    let line = rule.line;
                    let origin = Origin::Rule { index, line };
                    if !rule.allows(is_write) {
                        return Decision::denied(origin, rule.on_deny, DenialReason::Direction);
                    }
                    owners.push(origin);
                }
                (None, Some((index, pair))) => owners.push(Origin::IndexPair {
                    index,
                    line: pair.place.line,
                }),
                (None, None) => match self.bar_at(true, port.into()) {
                    Some((index, ..)) => owners.push(Origin::Pci {
                        index,
                        line: self.pci_rules()[index].place.line,
                    }),
                    None => return by_default(Origin::Default, DenialReason::Unnamed),
                },
            }
        }
        let mut latched = index;
        for byte in 0..bytes {
            let origin = owners[usize::from(byte)];
            let value = request.write.map(|value| value >> (8 * byte));
            let denied = match origin {
                Origin::Rule { index, .. } => {
                    // The part of the value that lies in the rule: from its first byte on to its last.
                    let is_first = byte == 0 || owners[usize::from(byte) - 1] != origin;
                    let length = owners[usize::from(byte)..]
                        .iter()
                        .take_while(|other| **other == origin)
                        .count();
                    let value = value.map(|value| u64::from(value) & ((1 << (8 * length)) - 1));
                    let rule = &self.port_rules()[index];
                    let is_value_denied = is_first
                        && value.is_some_and(|value| {
                            rule.values
                                .as_ref()
                                .is_some_and(|values| !values.contains(value))
                        });
                    if !rule.widths.contains(request.width) {
                        Some((rule.on_deny, DenialReason::Width))
                    } else if is_value_denied {
                        Some((rule.on_deny, DenialReason::Value))
                    } else {
                        None
                    }
                }
                Origin::IndexPair { index, .. } => {
                    let pair = &self.index_pairs()[index];
                    let value = value.map(|value| value.to_le_bytes()[0]);
                    if request.port + byte == pair.index {
                        latched = value.unwrap_or(latched);
                        None
                    } else {
                        decide_data(pair, latched, value)
                            .err()
                            .map(|reason| (pair.on_deny, reason))
                    }
                }
                _ => None,
            };
            if let Some((on_deny, reason)) = denied {
                return Decision::denied(origin, on_deny, reason);
            }
        }
        Decision::allowed(owners.first().copied().unwrap_or(Origin::Default))
    }

    /// The index/data pair that has a port.
    pub(super) fn pair_of_port(&self, port: u16) -> Option<(usize, &IndexPair)> {
        self.index_pairs()
            .iter()
            .enumerate()
            .find(|(_, pair)| pair.index == port || pair.data == port)
    }

    /// The first rule that covers a port.
    pub(super) fn rule_of_port(&self, port: u16) -> Option<(usize, &PortRule)> {
        self.port_rules()
            .iter()
            .enumerate()
            .find(|(_, rule)| (rule.first..=rule.last).contains(&port))
    }

    /// The rule, and the BAR of its function that has a port or an address at the start.
    fn bar_at(&self, is_port: bool, address: u64) -> Option<(usize, &PciRule, &PciBar)> {
        let rules = self.pci_rules().iter().enumerate();
        let bars = rules.flat_map(|(index, rule)| {
            let bars = rule.model().into_iter().flat_map(|model| &model.bars);
            bars.map(move |bar| (index, rule, bar))
        });
        bars.filter(|(_, _, bar)| (bar.kind == BarKind::Port) == is_port)
            .find(|(_, _, bar)| {
                let range = bar.range();
                range.is_some_and(|(first, last)| (first..=last).contains(&address))
            })
    }

    fn describe_bar(&self, rule: &PciRule, bar: &PciBar) -> String {
        format!(
            "BAR {} of PCI function {} at {}:{}, backend \"{}\", while the driver leaves it there",
            bar.index,
            rule.target,
            self.file(),
            bar.place.line,
            bar.backend.name()
        )
    }

    /// Says what happens to a port access, by which rule, and what the other bytes of a wide access meet.
    #[must_use]
    pub fn explain_port(&self, request: &PortRequest, index: u8) -> String {
        let (port, width, is_write) = (request.port, request.width, request.write.is_some());
        let decision = self.decide_port(request, index);
        let direction = if is_write { "write" } else { "read" };
        let mut text = format!(
            "{direction} of {} byte(s) at port {port:#x}: {}\n",
            width.bytes(),
            match decision.action {
                Action::Allowed => "allowed",
                _ => "denied",
            }
        );
        for byte in 0..width.bytes() {
            let at = u32::from(port) + u32::from(byte);
            let reason = match u16::try_from(at) {
                Err(_) => "past the last port, 0xffff".to_owned(),
                Ok(at) => self.describe_port(at, is_write, index),
            };
            let _ = writeln!(text, "  port {at:#x}: {reason}");
        }
        let denied_read = match decision.origin {
            Origin::Rule { index, .. } => self.port_rules()[index].denied_read,
            Origin::IndexPair { index, .. } => self.index_pairs()[index].denied_read,
            _ => self.defaults().denied_read,
        } & width.mask();
        if decision.is_allowed() {
            for effect in self.port_effects(request, index) {
                let _ = writeln!(text, "  {effect}");
            }
        }
        super::explain_registers::consequence(&mut text, &decision, is_write, denied_read.into());
        text
    }

    fn describe_port(&self, port: u16, is_write: bool, index: u8) -> String {
        if let Some((_, rule)) = self.rule_of_port(port) {
            return self.describe_port_rule(rule, is_write);
        }
        if let Some((_, pair)) = self.pair_of_port(port) {
            let place = format!("index pair at {}:{}", self.file(), pair.place.line);
            return if port == pair.index {
                format!("{place}, its index port: kept, and used with the next data access")
            } else {
                let index = index & pair.index_mask;
                pair.register(index).map_or_else(
                    || format!("{place}: no register rule names index {index:#x}"),
                    |register| {
                        format!(
                            "{place}, index {index:#x}: register rule at line {}, access \"{}\"",
                            register.place.line,
                            register.access.map_or("", super::AccessMode::name)
                        )
                    },
                )
            };
        }
        if (0xCF8..=0xCFF).contains(&port) && !self.pci_rules().is_empty() {
            return "PCI configuration: the [[pci]] rules decide (--pci)".to_owned();
        }
        if let Some((_, rule, bar)) = self.bar_at(true, port.into()) {
            return self.describe_bar(rule, bar);
        }
        "no rule covers it: denied by default".to_owned()
    }

    fn describe_port_rule(&self, rule: &PortRule, is_write: bool) -> String {
        let verdict = match (rule.access, rule.allows(is_write)) {
            (_, true) => "allowed".to_owned(),
            (None, false) => "denied".to_owned(),
            (Some(access), false) => format!("denied, as access is \"{}\"", access.name()),
        };
        let name = rule
            .name
            .as_ref()
            .map_or(String::new(), |name| format!(" \"{name}\""));
        format!(
            "rule{name} at {}:{} ({:#x}-{:#x}, backend \"{}\"): {verdict}",
            self.file(),
            rule.line,
            rule.first,
            rule.last,
            rule.backend.name()
        )
    }

    /// Whether a mapping is allowed, the line that says so (`None`: no rule does), and why it is denied.
    #[must_use]
    pub fn decide_memory(&self, request: &MemoryRequest) -> (bool, Option<usize>, Option<String>) {
        let line = |index: &usize| self.memory_rules()[*index].line;
        match MemorySpace::decide(self, request) {
            Ok(rules) => (true, rules.first().map(line), None),
            Err(denial) => (false, denial.rule.as_ref().map(line), Some(denial.reason)),
        }
    }

    /// Says what happens when a driver maps `bytes` bytes of physical memory at `address`.
    #[must_use]
    pub fn explain_memory(&self, address: u64, bytes: u64, is_write: bool) -> String {
        let request = MemoryRequest {
            address,
            bytes,
            is_write,
        };
        let direction = if is_write { "read-write" } else { "read-only" };
        let mut text = format!("{direction} mapping of {bytes} byte(s) at {address:#x}: ");
        // A mapping of whole pages; here only what lies in one BAR's.
        let page = |address: u64| address / abi::layout::PAGE_SIZE;
        let last = address.saturating_add(bytes.saturating_sub(1));
        if let Some((_, rule, bar)) = self.bar_at(false, address)
            && bar.range().is_some_and(|(_, end)| page(last) <= page(end))
        {
            let _ = writeln!(text, "allowed\n  {}", self.describe_bar(rule, bar));
            return text;
        }
        match MemorySpace::decide(self, &request) {
            Ok(rules) => {
                text.push_str("allowed\n");
                for index in rules {
                    let rule = &self.memory_rules()[index];
                    let _ = writeln!(
                        text,
                        "  {:#x}-{:#x}: rule at {}:{}, backend \"{}\"",
                        rule.first,
                        rule.last,
                        self.file(),
                        rule.line,
                        rule.backend.name()
                    );
                }
            }
            Err(denial) => {
                let _ = writeln!(text, "denied\n  {}", denial.reason);
                if let Some(index) = denial.rule {
                    let _ = writeln!(
                        text,
                        "  rule at {}:{}",
                        self.file(),
                        self.memory_rules()[index].line
                    );
                }
                let consequence = match denial.on_deny {
                    OnDeny::Stop => "the guest is stopped",
                    OnDeny::Ignore | OnDeny::Fault => "the driver gets NULL",
                };
                let _ = writeln!(text, "  so {consequence}; it is counted and logged");
            }
        }
        text
    }
}
