//! The guest's port space: each access is decided by the policy and carried out by its back end.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::{HostPorts, HostPortsError, Passthrough};
use super::stats::{DeniedCounts, PortRuleStats, PortStats};
use super::{Action, Decision, Origin, PortOutcome, PortRequest, Width};
use crate::devices::{DeviceError, Lpt, OutputError, PortDevice, Ram};
use crate::policy::{Defaults, LogLimiter, LogVerdict, OnDeny, Policy, PortBackend, PortRule};

/// A port rule's back end that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An `lpt` output.
    #[error("{file}:{line}: backend \"lpt\" cannot start")]
    Output {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Why.
        source: OutputError,
    },
    /// The machine's ports.
    #[error("{file}:{line}: backend \"passthrough\" cannot start")]
    HostPorts {
        /// The policy.
        file: String,
        /// The first `passthrough` rule's line.
        line: usize,
        /// Why.
        source: HostPortsError,
    },
}

/// A rule with its live back end and counts.
#[derive(Debug)]
struct Slot {
    rule: PortRule,
    device: Option<Box<dyn PortDevice>>,
    reads: u64,
    writes: u64,
    denied_reads: u64,
    denied_writes: u64,
}

impl Slot {
    /// Carries out an access that lies in the rule and is allowed.
    #[inline]
    fn perform(&mut self, port: u16, width: Width, write: Option<u32>) -> u32 {
        let offset = port - self.rule.first;
        let Some(device) = &mut self.device else {
            return u32::MAX;
        };
        match write {
            Some(value) => {
                self.writes += 1;
                device.write(offset, width, value & width.mask());
                0
            }
            None => {
                self.reads += 1;
                device.read(offset, width) & width.mask()
            }
        }
    }
}

/// Time since some fixed moment, for the log's rate limit.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// All ports of a guest.
pub struct PortSpace {
    file: String,
    defaults: Defaults,
    /// For each port the number of its rule plus 1; 0: no rule.
    table: Box<[u16]>,
    slots: Vec<Slot>,
    host: Option<Arc<HostPorts>>,
    denied: DeniedCounts,
    past_last_port: u64,
    limiter: LogLimiter,
    clock: Clock,
}

impl fmt::Debug for PortSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSpace")
            .field("policy", &self.file)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl PortSpace {
    /// Sets up every back end that the policy names: creates output files, opens the machine's ports.
    ///
    /// # Errors
    /// [`StartError`] for the first that cannot be set up.
    pub fn new(policy: &Policy) -> Result<Self, StartError> {
        let start = Instant::now();
        Self::with_clock(policy, Box::new(move || start.elapsed()))
    }

    pub(super) fn with_clock(policy: &Policy, clock: Clock) -> Result<Self, StartError> {
        let host = open_host(policy)?;
        let mut table = vec![0_u16; 0x1_0000].into_boxed_slice();
        let mut slots = Vec::new();
        for (number, rule) in (1..).zip(policy.port_rules()) {
            for port in rule.first..=rule.last {
                let entry = &mut table[usize::from(port)];
                // Rules overlap only when they mean the same; the first then counts.
                if *entry == 0 {
                    *entry = number;
                }
            }
            slots.push(Slot {
                rule: rule.clone(),
                device: open_device(policy, rule, host.as_ref())?,
                reads: 0,
                writes: 0,
                denied_reads: 0,
                denied_writes: 0,
            });
        }
        Ok(Self {
            file: policy.file().to_owned(),
            defaults: *policy.defaults(),
            table,
            slots,
            host,
            denied: DeniedCounts::new(),
            past_last_port: 0,
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock,
        })
    }

    /// Makes sure that the calling thread can use the machine's ports (ioperm(2) is a thread's permission). An
    /// access does so by itself, so this is for a thread that will soon be forbidden the system call.
    ///
    /// # Errors
    /// The system call's.
    pub fn attach_thread(&self) -> io::Result<()> {
        self.host
            .as_ref()
            .map_or(Ok(()), |host| host.attach_thread())
    }

    /// Decides an access and, when it is allowed, carries it out.
    ///
    /// A wide access over several rules is allowed when each of its bytes is; each back end then gets its part,
    /// lowest port first. A denied access reaches no back end at all.
    #[inline]
    pub fn access(&mut self, request: PortRequest) -> PortOutcome {
        let last = u32::from(request.port) + u32::from(request.width.bytes()) - 1;
        // The usual case: one rule has all of it.
        let number = usize::from(self.table[usize::from(request.port)]);
        if let Some(index) = number.checked_sub(1) {
            let slot = &mut self.slots[index];
            if last <= u32::from(slot.rule.last) && slot.rule.allows(request.write.is_some()) {
                let value = slot.perform(request.port, request.width, request.write);
                return PortOutcome {
                    value,
                    decision: Decision {
                        origin: Origin::Rule {
                            index,
                            line: slot.rule.line,
                        },
                        action: Action::Allowed,
                    },
                };
            }
        }
        match self.find_denial(&request) {
            Some((port, origin)) => self.deny(&request, port, origin),
            None => self.access_in_parts(&request),
        }
    }

    /// The first byte that is denied: its port and who denies it.
    fn find_denial(&self, request: &PortRequest) -> Option<(u16, Origin)> {
        for byte in 0..request.width.bytes() {
            let Some(port) = request.port.checked_add(byte) else {
                return Some((u16::MAX, Origin::PastLastPort));
            };
            let number = usize::from(self.table[usize::from(port)]);
            let Some(index) = number.checked_sub(1) else {
                return Some((port, Origin::Default));
            };
            let rule = &self.slots[index].rule;
            if !rule.allows(request.write.is_some()) {
                let line = rule.line;
                return Some((port, Origin::Rule { index, line }));
            }
        }
        None
    }

    /// Carries out an allowed access that several rules share.
    fn access_in_parts(&mut self, request: &PortRequest) -> PortOutcome {
        let bytes = request.width.bytes();
        let rule_at = |table: &[u16], byte: u16| {
            usize::from(table[usize::from(request.port) + usize::from(byte)]) - 1
        };
        let first_index = rule_at(&self.table, 0);
        let mut value = 0;
        let mut byte = 0;
        while byte < bytes {
            let index = rule_at(&self.table, byte);
            let same = (byte..bytes)
                .take_while(|later| rule_at(&self.table, *later) == index)
                .count();
            let port = request.port + byte;
            // Three bytes are no access: an odd port goes first, so that the pair is aligned.
            let width = match same {
                0 | 1 => Width::Byte,
                2 => Width::Word,
                3 if port % 2 == 1 => Width::Byte,
                3 => Width::Word,
                _ => Width::Dword,
            };
            let shift = u32::from(byte) * 8;
            let write = request.write.map(|value| value >> shift);
            value |= self.slots[index].perform(port, width, write) << shift;
            byte += width.bytes();
        }
        PortOutcome {
            value,
            decision: Decision {
                origin: Origin::Rule {
                    index: first_index,
                    line: self.slots[first_index].rule.line,
                },
                action: Action::Allowed,
            },
        }
    }

    #[cold]
    fn deny(&mut self, request: &PortRequest, port: u16, origin: Origin) -> PortOutcome {
        let is_write = request.write.is_some();
        let (on_deny, denied_read) = match origin {
            Origin::Rule { index, .. } => {
                let slot = &mut self.slots[index];
                if is_write {
                    slot.denied_writes += 1;
                } else {
                    slot.denied_reads += 1;
                }
                (slot.rule.on_deny, slot.rule.denied_read)
            }
            Origin::Default => {
                self.denied.count(port, is_write);
                (self.defaults.on_deny, self.defaults.denied_read)
            }
            Origin::PastLastPort => {
                self.past_last_port += 1;
                (self.defaults.on_deny, self.defaults.denied_read)
            }
        };
        self.log_denial(request, port, origin, on_deny);
        PortOutcome {
            value: if is_write {
                0
            } else {
                denied_read & request.width.mask()
            },
            decision: Decision::denied(origin, on_deny),
        }
    }

    fn log_denial(&mut self, request: &PortRequest, port: u16, origin: Origin, on_deny: OnDeny) {
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
        let who = match origin {
            Origin::Rule { index, line } => {
                let rule = &self.slots[index].rule;
                let access = rule.access.map_or(String::new(), |access| {
                    format!(", access \"{}\"", access.name())
                });
                let name = rule
                    .name
                    .as_ref()
                    .map_or(String::new(), |name| format!(" \"{name}\""));
                let backend = rule.backend.name();
                format!(
                    "rule{name} at {}:{line} (backend \"{backend}\"{access}) denies port {port:#x}",
                    self.file
                )
            }
            Origin::Default => format!("no rule names port {port:#x}"),
            Origin::PastLastPort => "it runs past port 0xffff".to_owned(),
        };
        tracing::warn!(
            "denied ({}): {what}, {} byte(s), port {:#x}: {who}",
            on_deny.name(),
            request.width.bytes(),
            request.port
        );
    }

    /// A decision in the form that traces and crash reports keep.
    #[must_use]
    pub fn record(&self, decision: Decision) -> crate::observe::ports::Decision {
        let rule = match decision.origin {
            Origin::Rule { index, .. } => self.slots.get(index).map(|slot| &slot.rule),
            Origin::Default | Origin::PastLastPort => None,
        };
        crate::observe::ports::Decision {
            allowed: decision.is_allowed(),
            backend: rule.map_or("deny", |rule| rule.backend.name()),
            rule_line: rule.and_then(|rule| u32::try_from(rule.line).ok()),
        }
    }

    /// Hands over what back ends have buffered. To be called whenever the guest goes idle.
    /// Returns what has gone wrong since the start, one entry for each back end that failed.
    pub fn flush(&mut self) -> Vec<DeviceError> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.device.as_mut())
            .filter_map(|device| device.flush().err())
            .collect()
    }

    /// The last words: flushes, and says how many denials were not logged.
    pub fn finish(&mut self) -> Vec<DeviceError> {
        let suppressed = self.limiter.take_suppressed();
        if suppressed > 0 {
            tracing::warn!("… and {suppressed} more denied port accesses suppressed");
        }
        self.flush()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let (denied, denied_elsewhere) = self.denied.ranges();
        PortStats {
            rules: self
                .slots
                .iter()
                .map(|slot| PortRuleStats {
                    line: slot.rule.line,
                    name: slot.rule.name.clone(),
                    first: slot.rule.first,
                    last: slot.rule.last,
                    backend: slot.device.as_ref().map_or_else(
                        || slot.rule.backend.name().to_owned(),
                        |device| device.describe(),
                    ),
                    reads: slot.reads,
                    writes: slot.writes,
                    denied_reads: slot.denied_reads,
                    denied_writes: slot.denied_writes,
                })
                .collect(),
            denied,
            denied_elsewhere,
            past_last_port: self.past_last_port,
        }
    }
}

fn open_host(policy: &Policy) -> Result<Option<Arc<HostPorts>>, StartError> {
    let rules: Vec<&PortRule> = policy
        .port_rules()
        .iter()
        .filter(|rule| rule.backend == PortBackend::Passthrough)
        .collect();
    let Some(first) = rules.first() else {
        return Ok(None);
    };
    let ranges: Vec<(u16, u16)> = rules.iter().map(|rule| (rule.first, rule.last)).collect();
    HostPorts::open(&ranges)
        .map(|host| Some(Arc::new(host)))
        .map_err(|source| StartError::HostPorts {
            file: policy.file().to_owned(),
            line: first.line,
            source,
        })
}

fn open_device(
    policy: &Policy,
    rule: &PortRule,
    host: Option<&Arc<HostPorts>>,
) -> Result<Option<Box<dyn PortDevice>>, StartError> {
    Ok(match (&rule.backend, host) {
        (PortBackend::Deny, _) | (PortBackend::Passthrough, None) => None,
        (PortBackend::Passthrough, Some(host)) => Some(Box::new(Passthrough::new(
            Arc::clone(host),
            rule.first,
            rule.last,
        ))),
        (PortBackend::Lpt { output, status }, _) => {
            let lpt = Lpt::open(output, *status).map_err(|source| StartError::Output {
                file: policy.file().to_owned(),
                line: rule.line,
                source,
            })?;
            Some(Box::new(lpt))
        }
        (PortBackend::Ram { initial, fill }, _) => {
            let ports = usize::from(rule.last - rule.first) + 1;
            Some(Box::new(Ram::new(ports, initial, *fill)))
        }
    })
}

#[cfg(test)]
mod tests;
