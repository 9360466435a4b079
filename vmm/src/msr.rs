//! Model-specific registers under the policy's `[[msr]]` rules.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::machine::MsrAnswer;
use crate::policy::gate::Gate;
use crate::policy::{LogLimiter, LogVerdict, MsrBackendKind, MsrRule, Policy};
use crate::ports::{Action, Decision, DenialReason, Origin};

/// The machine's MSRs.
///
/// The policy has decided when a method is called; masks are applied by the caller.
pub trait MsrBackend: Send + fmt::Debug {
    /// Makes sure that MSRs can be read, and written if `is_writing`; called once, before privileges are dropped.
    ///
    /// # Errors
    /// They cannot be.
    fn attach(&mut self, is_writing: bool) -> io::Result<()>;

    /// Reads an MSR of the processor that the guest runs on.
    ///
    /// # Errors
    /// The processor has no such MSR, or it cannot be read.
    fn read(&mut self, number: u32) -> io::Result<u64>;

    /// Writes an MSR of the processor that the guest runs on.
    ///
    /// # Errors
    /// The processor has no such MSR, or refuses the value.
    fn write(&mut self, number: u32, value: u64) -> io::Result<()>;
}

/// An `[[msr]]` rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MsrStartError {
    /// This version or this run has no way to the machine's MSRs.
    #[error(
        "{file}:{line}: backend \"passthrough\" cannot start: nothing here reaches the machine's MSRs"
    )]
    NoBackend {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
    },
    /// The machine's MSRs cannot be used.
    #[error("{file}:{line}: backend \"passthrough\" cannot start")]
    Backend {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Why.
        source: io::Error,
    },
}

/// What an access came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrOutcome {
    /// What a read returns; for a write 0.
    pub value: u64,
    /// Who decided, and what. [`Action::Fault`] also for an MSR that is passed through and that the processor
    /// does not have.
    pub decision: Decision,
}

impl From<MsrOutcome> for MsrAnswer {
    fn from(outcome: MsrOutcome) -> Self {
        match outcome.decision.action {
            Action::Allowed | Action::Ignored => Self::Value(outcome.value),
            Action::Fault => Self::Fault,
            Action::Stop => Self::Stop,
        }
    }
}

/// One rule's accesses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MsrRuleStats {
    /// The rule's line in the policy.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// First MSR.
    pub first: u32,
    /// Last MSR.
    pub last: u32,
    /// What stands behind it.
    pub backend: &'static str,
    /// Reads that were allowed.
    pub reads: u64,
    /// Writes that were allowed.
    pub writes: u64,
    /// Accesses that were denied.
    pub denied: u64,
}

/// Time since some fixed moment.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// All MSRs that the policy knows of.
pub struct MsrSpace {
    policy: Policy,
    gates: Vec<Gate>,
    host: Option<Box<dyn MsrBackend>>,
    stats: Vec<MsrRuleStats>,
    unnamed: u64,
    limiter: LogLimiter,
    clock: Clock,
}

impl fmt::Debug for MsrSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsrSpace")
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl MsrSpace {
    /// Sets up what the rules need. `host` is the way to the machine's MSRs, if there is one.
    ///
    /// # Errors
    /// [`MsrStartError`] for the first rule that cannot be set up.
    pub fn new(
        policy: &Policy,
        mut host: Option<Box<dyn MsrBackend>>,
    ) -> Result<Self, MsrStartError> {
        let file = policy.file().to_owned();
        let real = |rule: &&MsrRule| rule.backend == MsrBackendKind::Passthrough;
        if let Some(rule) = policy.msr_rules().iter().find(real) {
            let line = rule.place.line;
            let is_writing = policy
                .msr_rules()
                .iter()
                .any(|rule| real(&rule) && rule.allows(true));
            let Some(host) = &mut host else {
                return Err(MsrStartError::NoBackend { file, line });
            };
            host.attach(is_writing)
                .map_err(|source| MsrStartError::Backend { file, line, source })?;
        }
        let start = Instant::now();
        Ok(Self {
            gates: policy
                .msr_rules()
                .iter()
                .map(|rule| Gate::new(rule.limits))
                .collect(),
            stats: policy
                .msr_rules()
                .iter()
                .map(|rule| MsrRuleStats {
                    line: rule.place.line,
                    name: rule.name.clone(),
                    first: rule.first,
                    last: rule.last,
                    backend: rule.backend.name(),
                    ..MsrRuleStats::default()
                })
                .collect(),
            host,
            unnamed: 0,
            limiter: LogLimiter::new(policy.defaults().max_log_rate),
            clock: Box::new(move || start.elapsed()),
            policy: policy.clone(),
        })
    }

    /// Counts since the start, in the policy's order.
    #[must_use]
    pub fn stats(&self) -> &[MsrRuleStats] {
        &self.stats
    }

    /// Accesses to MSRs that no rule names.
    #[must_use]
    pub const fn unnamed_accesses(&self) -> u64 {
        self.unnamed
    }

    /// A decision in the form that traces and crash reports keep.
    #[must_use]
    pub fn record(&self, decision: Decision) -> crate::observe::ports::Decision {
        let rule = match decision.origin {
            Origin::Msr { index, .. } => self.policy.msr_rules().get(index),
            _ => None,
        };
        crate::observe::ports::Decision {
            allowed: decision.is_allowed(),
            backend: rule.map_or("deny", |rule| rule.backend.name()),
            rule_line: rule.and_then(|rule| u32::try_from(rule.place.line).ok()),
        }
    }

    /// Decides an access and, when it is allowed, carries it out.
    pub fn access(&mut self, number: u32, write: Option<u64>) -> MsrOutcome {
        let decision = self.policy.decide_msr(number, write);
        let Origin::Msr { index, .. } = decision.origin else {
            self.unnamed += 1;
            return self.deny(number, write, decision);
        };
        if !decision.is_allowed() {
            return self.deny(number, write, decision);
        }
        if !self.gates[index].is_open() {
            let now = (self.clock)();
            match self.gates[index].check(now) {
                Ok(wait) => {
                    if !wait.is_zero() {
                        std::thread::sleep(wait);
                    }
                    self.gates[index].take(now + wait);
                }
                Err(reason) => {
                    let on_deny = self.policy.msr_rules()[index].on_deny;
                    let denied = Decision::denied(decision.origin, on_deny, reason);
                    return self.deny(number, write, denied);
                }
            }
        }
        let result = match write {
            Some(value) => self.write(index, number, value).map(|()| 0),
            None => self.read(index, number),
        };
        match result {
            Ok(value) => {
                match write {
                    Some(_) => self.stats[index].writes += 1,
                    None => self.stats[index].reads += 1,
                }
                MsrOutcome { value, decision }
            }
            Err(error) => {
                tracing::warn!("MSR {number:#x}: {error}");
                MsrOutcome {
                    value: 0,
                    decision: Decision {
                        action: Action::Fault,
                        ..decision
                    },
                }
            }
        }
    }

    fn read(&mut self, index: usize, number: u32) -> io::Result<u64> {
        let rule = &self.policy.msr_rules()[index];
        let value = self.device_value(rule.backend, number)?;
        Ok(self.policy.msr_rules()[index].masks.seen(value))
    }

    fn write(&mut self, index: usize, number: u32, value: u64) -> io::Result<()> {
        let (backend, masks) = {
            let rule = &self.policy.msr_rules()[index];
            (rule.backend, rule.masks)
        };
        if backend != MsrBackendKind::Passthrough {
            return Ok(());
        }
        let kept = if masks.keeps_bits() {
            self.device_value(backend, number)?
        } else {
            0
        };
        match &mut self.host {
            Some(host) => host.write(number, masks.written(value, kept)),
            None => Ok(()),
        }
    }

    fn device_value(&mut self, backend: MsrBackendKind, number: u32) -> io::Result<u64> {
        match (backend, &mut self.host) {
            (MsrBackendKind::Value(value), _) => Ok(value),
            (MsrBackendKind::Passthrough, Some(host)) => host.read(number),
            (MsrBackendKind::Passthrough | MsrBackendKind::Deny, _) => Ok(0),
        }
    }

    #[cold]
    fn deny(&mut self, number: u32, write: Option<u64>, decision: Decision) -> MsrOutcome {
        let mut denied_read = 0;
        if let Origin::Msr { index, .. } = decision.origin {
            self.stats[index].denied += 1;
            denied_read = self.policy.msr_rules()[index].denied_read;
        }
        if let LogVerdict::Log { suppressed } = self.limiter.ask((self.clock)()) {
            if suppressed > 0 {
                tracing::warn!("… and {suppressed} more denied MSR accesses suppressed");
            }
            let who = match decision.origin {
                Origin::Msr { line, .. } => format!("rule at {}:{line}: ", self.policy.file()),
                _ => String::new(),
            };
            tracing::warn!(
                "denied: {} of MSR {number:#x}: {who}{}",
                if write.is_some() { "write" } else { "read" },
                decision.reason.map_or("", DenialReason::text)
            );
        }
        MsrOutcome {
            value: if write.is_some() { 0 } else { denied_read },
            decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two registers, of which the second refuses writes.
    #[derive(Debug)]
    struct Host(std::sync::Arc<std::sync::Mutex<u64>>);

    impl MsrBackend for Host {
        fn attach(&mut self, _: bool) -> io::Result<()> {
            Ok(())
        }
        fn read(&mut self, number: u32) -> io::Result<u64> {
            match number {
                0x10 => Ok(*self.0.lock().unwrap()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
        fn write(&mut self, _: u32, value: u64) -> io::Result<()> {
            *self.0.lock().unwrap() = value;
            Ok(())
        }
    }

    fn policy(text: &str) -> Policy {
        match Policy::from_str("m.toml", text) {
            Ok(policy) => policy,
            Err(error) => panic!("{error}"),
        }
    }

    const RULES: &str = r#"
[[msr]]
register = 0x1b
access = "rw"
backend = "value"
value = "0xffffffffffffffff"
read-mask = 0xff
read-fixed = 0x100

[[msr]]
range = "0x10-0x11"
access = "rw"
backend = "passthrough"
write-mask = 0xf0
values = ["0-0xfff"]
quota = 3
on-deny = "ignore"
denied-read = 7
i-know-what-this-does = true
"#;

    #[test]
    fn fixed_value_is_read_through_its_masks_and_keeps() {
        let value = std::sync::Arc::default();
        let mut space = MsrSpace::new(&policy(RULES), Some(Box::new(Host(value)))).unwrap();
        assert_eq!(space.access(0x1B, None).value, 0x1FF);
        assert!(space.access(0x1B, Some(0)).decision.is_allowed());
        assert_eq!(space.access(0x1B, None).value, 0x1FF);
        let unnamed = space.access(0x1C, None).decision;
        assert_eq!(
            (unnamed.origin, unnamed.action),
            (Origin::Default, Action::Fault)
        );
        assert_eq!(space.unnamed_accesses(), 1);
    }

    #[test]
    fn writes_keep_masked_bits_and_are_counted() {
        let value = std::sync::Arc::new(std::sync::Mutex::new(0x1234));
        let host = Host(std::sync::Arc::clone(&value));
        let mut space = MsrSpace::new(&policy(RULES), Some(Box::new(host))).unwrap();
        assert!(space.access(0x10, Some(0xABC)).decision.is_allowed());
        assert_eq!(*value.lock().unwrap(), 0x12B4);
        let denied = space.access(0x10, Some(0x1000)).decision;
        assert_eq!(denied.reason, Some(DenialReason::Value));
        // The processor has no such MSR.
        assert_eq!(space.access(0x11, None).decision.action, Action::Fault);
        assert_eq!(space.access(0x10, None).value, 0x12B4);
        let over = space.access(0x10, None);
        assert_eq!(over.decision.reason, Some(DenialReason::Quota));
        assert_eq!((over.value, over.decision.action), (7, Action::Ignored));
        assert_eq!(space.stats()[1].denied, 2);
    }

    #[test]
    fn pass_through_without_a_way_is_refused_at_start() {
        let error = MsrSpace::new(&policy(RULES), None).unwrap_err();
        assert!(error.to_string().starts_with("m.toml:10: "), "{error}");
    }
}
