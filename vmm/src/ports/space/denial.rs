//! Denied accesses: counted, logged, answered.

use super::PortSpace;
use crate::policy::{LogVerdict, OnDeny};
use crate::ports::{Decision, DenialReason, Origin, PortOutcome, PortRequest};

/// A denied access.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denial {
    /// The first port that is denied.
    port: u16,
    origin: Origin,
    reason: DenialReason,
    on_deny: OnDeny,
    denied_read: u32,
}

impl PortSpace {
    /// A denial with what its rule says about denials.
    pub(super) fn denial(&self, port: u16, origin: Origin, reason: DenialReason) -> Denial {
        let (on_deny, denied_read) = match origin {
            Origin::Rule { index, .. } => {
                let rule = &self.slots[index].rule;
                (rule.on_deny, rule.denied_read)
            }
            Origin::IndexPair { index, .. } => {
                let rule = &self.pairs[index].rule;
                (rule.on_deny, rule.denied_read)
            }
            Origin::Pci { index, .. } => self
                .mechanism
                .as_ref()
                .map_or((OnDeny::Ignore, u32::MAX), |mechanism| {
                    mechanism.space.denial_of(index)
                }),
            _ => (self.defaults.on_deny, self.defaults.denied_read),
        };
        Denial {
            port,
            origin,
            reason,
            on_deny,
            denied_read,
        }
    }

    #[cold]
    pub(super) fn deny(&mut self, request: &PortRequest, denial: &Denial) -> PortOutcome {
        let is_write = request.write.is_some();
        match denial.origin {
            Origin::Rule { index, .. } => {
                let slot = &mut self.slots[index];
                if is_write {
                    slot.denied_writes += 1;
                } else {
                    slot.denied_reads += 1;
                }
            }
            Origin::IndexPair { index, .. } => {
                let pair = &mut self.pairs[index];
                if is_write {
                    pair.denied_writes += 1;
                } else {
                    pair.denied_reads += 1;
                }
            }
            Origin::Pci { index, .. } => {
                if let Some(mechanism) = &mut self.mechanism {
                    mechanism.space.count_denied(index, is_write);
                }
            }
            Origin::PastLastPort => self.past_last_port += 1,
            _ => self.denied.count(denial.port, is_write),
        }
        self.log_denial(request, denial);
        PortOutcome {
            value: if is_write {
                0
            } else {
                denial.denied_read & request.width.mask()
            },
            decision: Decision::denied(denial.origin, denial.on_deny, denial.reason),
        }
    }

    fn log_denial(&mut self, request: &PortRequest, denial: &Denial) {
        let now = (self.clock)();
        let LogVerdict::Log { suppressed } = self.limiter.ask(now) else {
            return;
        };
        if suppressed > 0 {
            tracing::warn!("… and {suppressed} more denied port accesses suppressed");
        }
        let what = match request.write {
            Some(value) => format!("write of {:#x}", value & request.width.mask()),
            None => "read".to_owned(),
        };
        let who = self.who_denies(denial);
        tracing::warn!(
            "denied ({}): {what}, {} byte(s), port {:#x}: {who}",
            denial.on_deny.name(),
            request.width.bytes(),
            request.port
        );
    }

    fn who_denies(&self, denial: &Denial) -> String {
        let port = denial.port;
        let quoted = |name: &Option<String>| {
            name.as_ref()
                .map_or(String::new(), |name| format!(" \"{name}\""))
        };
        match denial.origin {
            Origin::Rule { index, line } => {
                let rule = &self.slots[index].rule;
                let access = rule.access.map_or(String::new(), |access| {
                    format!(", access \"{}\"", access.name())
                });
                let name = quoted(&rule.name);
                let backend = rule.backend.name();
                let reason = match denial.reason {
                    // The rule's `access` says it.
                    DenialReason::Direction => String::new(),
                    reason => format!(": {}", reason.text()),
                };
                format!(
                    "rule{name} at {}:{line} (backend \"{backend}\"{access}) denies port {port:#x}{reason}",
                    self.file
                )
            }
            Origin::IndexPair { index, line } => {
                let pair = &self.pairs[index];
                format!(
                    "index pair{} at {}:{line} denies index {:#x}: {}",
                    quoted(&pair.rule.name),
                    self.file,
                    pair.written() & pair.rule.index_mask,
                    denial.reason.text()
                )
            }
            Origin::Pci { line, .. } => {
                let place = self
                    .mechanism
                    .as_ref()
                    .map_or(String::new(), |mechanism| mechanism.selected());
                format!(
                    "rule for {place} at {}:{line} denies it: {}",
                    self.file,
                    denial.reason.text()
                )
            }
            Origin::PastLastPort => "it runs past port 0xffff".to_owned(),
            _ => format!("no rule names port {port:#x}"),
        }
    }
}
