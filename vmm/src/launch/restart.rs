//! When a driver that has ended is started again, and after how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::session::exit_code::ExitCode;

/// The first wait; each is twice the one before.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// A driver that ran for so long is stable: the next wait is the first one again, and restarts are counted anew.
const STABLE: Duration = Duration::from_secs(60);

/// Which ends are followed by another start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    OnCrash,
    Always,
}

/// A restart policy: `never`, `on-crash[:MAX]`, `always[:MAX]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    when: When,
    max: Option<u32>,
}

/// How the process of a driver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Code(ExitCode),
    /// By a signal: killed, out of memory, or aborted.
    Signal(i32),
}

impl End {
    /// From a process's status.
    #[must_use]
    pub fn of(status: std::process::ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(ExitCode::from_number(u64::try_from(code).unwrap_or(1))),
            None => {
                let signal = std::os::unix::process::ExitStatusExt::signal(&status);
                Self::Signal(signal.unwrap_or_default())
            }
        }
    }

    /// The exit code of whoever has waited for it.
    #[must_use]
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Code(code) => code,
            Self::Signal(_) => ExitCode::CommandFailed,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(ExitCode::DriverCrashed) => f.write_str("the driver crashed"),
            Self::Code(ExitCode::TimedOut) => f.write_str("the driver hung"),
            Self::Code(code) => write!(f, "it ended with exit code {}", code.number()),
            Self::Signal(signal) => write!(f, "its process was ended by signal {signal}"),
        }
    }
}

impl RestartPolicy {
    /// No restarts.
    pub const NEVER: Self = Self {
        when: When::Never,
        max: None,
    };

    /// Whether an end of that kind is followed by another start.
    #[must_use]
    pub fn wants(self, end: End) -> bool {
        match (self.when, end) {
            (When::Never, _)
            // These would come again.
            | (_, End::Code(ExitCode::Usage | ExitCode::ImageRejected | ExitCode::KvmUnavailable)) => false,
            (When::OnCrash, End::Code(code)) => {
                matches!(code, ExitCode::DriverCrashed | ExitCode::TimedOut)
            }
            (When::OnCrash | When::Always, _) => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || {
            "one of never, on-crash, on-crash:MAX, always, always:MAX, MAX from 1 to 1000000"
                .to_owned()
        };
        let (when, max) = match text.split_once(':') {
            Some((when, max)) => {
                let max = max.parse().ok().filter(|max| (1..=1_000_000).contains(max));
                (when, Some(max.ok_or_else(expected)?))
            }
            None => (text, None),
        };
        let when = match when {
            "never" if max.is_none() => When::Never,
            "on-crash" => When::OnCrash,
            "always" => When::Always,
            _ => return Err(expected()),
        };
        Ok(Self { when, max })
    }
}

/// How long to wait before the next start.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    max: Option<u32>,
    next: Duration,
    restarts: u32,
}

impl BackOff {
    /// Nothing has ended yet.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self {
            max: policy.max,
            next: FIRST,
            restarts: 0,
        }
    }

    /// A driver that ran for `ran` is to be started again: after how long; `None` if it was often enough.
    pub fn next(&mut self, ran: Duration) -> Option<Duration> {
        if ran >= STABLE {
            *self = Self {
                next: FIRST,
                restarts: 0,
                ..*self
            };
        }
        if self.max.is_some_and(|max| self.restarts >= max) {
            return None;
        }
        self.restarts = self.restarts.saturating_add(1);
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> RestartPolicy {
        text.parse().unwrap()
    }

    #[test]
    fn policies_are_parsed() {
        assert_eq!(policy("never"), RestartPolicy::NEVER);
        assert_eq!(policy("on-crash:3").max, Some(3));
        assert_eq!(policy("always").max, None);
        for bad in [
            "",
            "Never",
            "never:3",
            "always:",
            "always:0",
            "always:-1",
            "on-crash:x",
            "on-crash:3:4",
        ] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn crashes_are_crashes_hangs_and_killed_processes() {
        let crash = End::Code(ExitCode::DriverCrashed);
        let hang = End::Code(ExitCode::TimedOut);
        for end in [crash, hang, End::Signal(9)] {
            assert!(policy("on-crash").wants(end) && policy("always").wants(end));
            assert!(!policy("never").wants(end));
        }
        for end in [ExitCode::Success, ExitCode::CommandFailed].map(End::Code) {
            assert!(!policy("on-crash").wants(end) && policy("always").wants(end));
        }
        let rejected = [
            ExitCode::Usage,
            ExitCode::ImageRejected,
            ExitCode::KvmUnavailable,
        ];
        for end in rejected.map(End::Code) {
            assert!(!policy("on-crash").wants(end) && !policy("always").wants(end));
        }
    }

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_after_a_stable_time() {
        let mut back_off = BackOff::new(policy("always"));
        let waits: Vec<u128> = (0..11)
            .filter_map(|_| back_off.next(Duration::from_secs(1)))
            .map(|wait| wait.as_millis())
            .collect();
        let expected = [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000,
        ];
        assert_eq!(waits, expected);
        assert_eq!(back_off.next(STABLE), Some(FIRST));
        assert_eq!(back_off.next(Duration::ZERO), Some(FIRST * 2));
    }

    #[test]
    fn restarts_in_a_row_are_limited() {
        let mut back_off = BackOff::new(policy("on-crash:2"));
        assert!(back_off.next(Duration::ZERO).is_some());
        assert!(back_off.next(Duration::ZERO).is_some());
        assert_eq!(back_off.next(Duration::ZERO), None);
        assert_eq!(back_off.next(STABLE), Some(FIRST));
    }
}
