//! What a policy would do with an access and why, in words. `ringfence policy check` prints it.
//!
//! The decision is found here by the plainest way there is, a search of the rules for every byte; a property
//! test holds [`crate::ports::PortSpace`]'s table against it.

use std::fmt::Write;

use super::{MemoryRequest, MemorySpace, OnDeny, Policy, PortRule};
use crate::ports::{Action, Decision, Origin, Width};

impl Policy {
    /// What happens to a port access.
    #[must_use]
    pub fn decide_port(&self, port: u16, width: Width, is_write: bool) -> Decision {
        let last = u32::from(port) + u32::from(width.bytes()) - 1;
        let mut first_rule = None;
        for byte_port in u32::from(port)..=last {
            let Ok(byte_port) = u16::try_from(byte_port) else {
                return Decision::denied(Origin::PastLastPort, self.defaults().on_deny);
            };
            let Some((index, rule)) = self.rule_of_port(byte_port) else {
                return Decision::denied(Origin::Default, self.defaults().on_deny);
            };
            let origin = Origin::Rule {
                index,
                line: rule.line,
            };
            if !rule.allows(is_write) {
                return Decision::denied(origin, rule.on_deny);
            }
            first_rule.get_or_insert(origin);
        }
        Decision {
            origin: first_rule.unwrap_or(Origin::Default),
            action: Action::Allowed,
        }
    }

    /// The first rule that covers a port.
    fn rule_of_port(&self, port: u16) -> Option<(usize, &PortRule)> {
        self.port_rules()
            .iter()
            .enumerate()
            .find(|(_, rule)| (rule.first..=rule.last).contains(&port))
    }

    /// Says what happens to a port access, by which rule, and what the other bytes of a wide access meet.
    #[must_use]
    pub fn explain_port(&self, port: u16, width: Width, is_write: bool) -> String {
        let decision = self.decide_port(port, width, is_write);
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
                Ok(at) => self.rule_of_port(at).map_or_else(
                    || "no rule covers it: denied by default".to_owned(),
                    |(_, rule)| self.describe_port_rule(rule, is_write),
                ),
            };
            let _ = writeln!(text, "  port {at:#x}: {reason}");
        }
        let denied_read = match decision.origin {
            Origin::Rule { index, .. } => self.port_rules()[index].denied_read,
            Origin::Default | Origin::PastLastPort => self.defaults().denied_read,
        } & width.mask();
        let consequence = match (decision.action, is_write) {
            (Action::Allowed, _) => return text,
            (Action::Ignored, true) => "the write is dropped".to_owned(),
            (Action::Ignored, false) => format!("the read returns {denied_read:#x}"),
            (Action::Fault, _) => "the guest gets a general-protection fault (#GP)".to_owned(),
            (Action::Stop, _) => "the guest is stopped".to_owned(),
        };
        let _ = writeln!(text, "  so {consequence}; it is counted and logged");
        text
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
