//! What a policy would do with accesses to PCI configuration space and MSRs, and why, in words.

use std::fmt::Write;

use super::explain_effects::{bit_effects, limit_effects, pci_effects};
use super::{OnDeny, PciBackendKind, PciTarget, Policy};
use crate::pci::{CONFIG_BYTES, EXTENDED_CONFIG_BYTES, PciRequest};
use crate::ports::{Action, Decision, DenialReason, Origin};

impl Policy {
    /// What happens to an access to the configuration space of `target`, limits aside. A rule that names a device is
    /// about `target` when that has the same ids; one that names a place, when it has the same place.
    #[must_use]
    pub fn decide_pci(&self, target: &PciTarget, request: &PciRequest) -> Decision {
        let found = self.pci_rules().iter().enumerate().find(|(_, rule)| {
            match (rule.target.address, rule.target.id) {
                (Some(address), _) if target.address.is_some() => target.address == Some(address),
                (_, id) => id.is_some() && id == target.id,
            }
        });
        let Some((index, rule)) = found else {
            return Decision {
                origin: Origin::AbsentFunction,
                action: Action::Ignored,
                reason: Some(DenialReason::Unnamed),
            };
        };
        let origin = Origin::Pci {
            index,
            line: rule.place.line,
        };
        let deny = |reason| Decision::denied(origin, rule.on_deny, reason);
        let is_write = request.write.is_some();
        let end = u32::from(request.register) + u32::from(request.width.bytes());
        let last = match rule.backend {
            PciBackendKind::Model(_) => CONFIG_BYTES,
            _ => EXTENDED_CONFIG_BYTES,
        };
        if end > u32::from(last) {
            return deny(DenialReason::PastEnd);
        }
        if !rule.widths.contains(request.width) {
            return deny(DenialReason::Width);
        }
        if rule.backend == PciBackendKind::Deny {
            return deny(DenialReason::Direction);
        }
        for offset in request.register..request.register + request.width.bytes() {
            let access = rule
                .registers
                .iter()
                .find(|register| (register.first..=register.last).contains(&offset))
                .map_or(rule.access, |register| register.access);
            match access {
                None => return deny(DenialReason::Register),
                Some(access) if !access.allows(is_write) => return deny(DenialReason::Direction),
                Some(_) => {}
            }
        }
        Decision::allowed(origin)
    }

    /// Says what happens to an access to configuration space, and by which rule.
    #[must_use]
    pub fn explain_pci(&self, target: &PciTarget, request: &PciRequest) -> String {
        let decision = self.decide_pci(target, request);
        let is_write = request.write.is_some();
        let mut text = format!(
            "{} of {} byte(s) at register {:#x} of PCI function {target}: {}\n",
            if is_write { "write" } else { "read" },
            request.width.bytes(),
            request.register,
            verdict(&decision)
        );
        let Origin::Pci { index, line } = decision.origin else {
            text.push_str("  no rule names the function: it is not there, and reads all ones\n");
            return text;
        };
        let rule = &self.pci_rules()[index];
        let name = rule
            .name
            .as_ref()
            .map_or(String::new(), |name| format!(" \"{name}\""));
        let _ = writeln!(
            text,
            "  rule{name} at {}:{line} ({}, backend \"{}\")",
            self.file(),
            rule.target,
            rule.backend.name()
        );
        let end = request.register.saturating_add(request.width.bytes());
        let mut told = 0;
        for offset in request.register..end {
            if let Some(register) = rule.register(offset)
                && told != register.place.line
            {
                told = register.place.line;
                let access = register.access.map_or("none", super::AccessMode::name);
                let _ = writeln!(
                    text,
                    "  register {:#x}-{:#x}: rule at line {told}, access \"{access}\"",
                    register.first, register.last
                );
            }
        }
        if decision.is_allowed() {
            for effect in pci_effects(rule, request) {
                let _ = writeln!(text, "  {effect}");
            }
        }
        consequence(&mut text, &decision, is_write, rule.denied_read.into());
        text
    }

    /// What happens to an access to an MSR, limits aside.
    #[must_use]
    pub fn decide_msr(&self, number: u32, write: Option<u64>) -> Decision {
        let Some(index) = self.msr_rule_at(number) else {
            return Decision::denied(
                Origin::Default,
                self.defaults().msr_on_deny,
                DenialReason::Unnamed,
            );
        };
        let rule = &self.msr_rules()[index];
        let origin = Origin::Msr {
            index,
            line: rule.place.line,
        };
        if !rule.allows(write.is_some()) {
            return Decision::denied(origin, rule.on_deny, DenialReason::Direction);
        }
        match (&rule.values, write) {
            (Some(values), Some(value)) if !values.contains(value) => {
                Decision::denied(origin, rule.on_deny, DenialReason::Value)
            }
            _ => Decision::allowed(origin),
        }
    }

    /// Says what happens to an access to an MSR, and by which rule.
    #[must_use]
    pub fn explain_msr(&self, number: u32, write: Option<u64>) -> String {
        let decision = self.decide_msr(number, write);
        let mut text = format!(
            "{} of MSR {number:#x}: {}\n",
            if write.is_some() { "write" } else { "read" },
            verdict(&decision)
        );
        let mut denied_read = 0;
        if let Origin::Msr { index, line } = decision.origin {
            let rule = &self.msr_rules()[index];
            denied_read = rule.denied_read;
            let name = rule
                .name
                .as_ref()
                .map_or(String::new(), |name| format!(" \"{name}\""));
            let access = rule.access.map_or(String::new(), |access| {
                format!(", access \"{}\"", access.name())
            });
            let _ = writeln!(
                text,
                "  rule{name} at {}:{line} ({:#x}-{:#x}, backend \"{}\"{access})",
                self.file(),
                rule.first,
                rule.last,
                rule.backend.name()
            );
            if decision.is_allowed() {
                let mut effects = Vec::new();
                bit_effects(&mut effects, &rule.masks, write, u64::MAX);
                limit_effects(&mut effects, rule.limits);
                for effect in effects {
                    let _ = writeln!(text, "  {effect}");
                }
            }
        }
        consequence(&mut text, &decision, write.is_some(), denied_read);
        text
    }
}

fn verdict(decision: &Decision) -> &'static str {
    if decision.is_allowed() {
        "allowed"
    } else {
        "denied"
    }
}

/// The last lines of an explanation: why it is denied, and what then happens.
pub(super) fn consequence(
    text: &mut String,
    decision: &Decision,
    is_write: bool,
    denied_read: u64,
) {
    if let Some(reason) = decision.reason {
        let _ = writeln!(text, "  {}", reason.text());
    }
    let what = match (decision.action, is_write) {
        (Action::Allowed, _) => return,
        (Action::Ignored, true) => "the write is dropped".to_owned(),
        (Action::Ignored, false) => format!("the read returns {denied_read:#x}"),
        (Action::Fault, _) => "the guest gets a general-protection fault (#GP)".to_owned(),
        (Action::Stop, _) => "the guest is stopped".to_owned(),
    };
    let _ = writeln!(text, "  so {what}; it is counted and logged");
}

/// The action's name, as `on-deny` has it.
#[must_use]
pub fn action_name(action: Action) -> &'static str {
    match action {
        Action::Allowed => "allow",
        Action::Ignored => OnDeny::Ignore.name(),
        Action::Fault => OnDeny::Fault.name(),
        Action::Stop => OnDeny::Stop.name(),
    }
}
