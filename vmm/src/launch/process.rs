//! Processes named so that a number that is used again is not taken for them, and what /proc says of them.

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its number, and when it started, which another process of that number did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks after boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads.
    pub processor: Duration,
    /// Bytes of its memory that are in RAM, shared or not.
    pub resident: u64,
    /// The same, with shared pages divided among those who share them; 0 where /proc does not say.
    pub proportional: u64,
}

/// /proc/PID/stat, as far as it is looked at.
struct Stat {
    state: char,
    ticks: u64,
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| Error::new(ErrorKind::InvalidData, "not a process's stat"))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may have anything in it.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The first one after the name is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            ticks: number(14)?.checked_add(number(15)?)?,
            threads: number(20)?,
            start_time: number(22)?,
        })
    }

    /// The first thread may end before the others; until they have too, the process holds what it held.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

impl ProcessId {
    /// This process.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// The process that has this number now.
    ///
    /// # Errors
    /// There is none, or /proc cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let start_time = Stat::of(pid)?.start_time;
        Ok(Self { pid, start_time })
    }

    /// Whether it is there and has not ended: one that its parent has not waited for yet has.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !stat.has_ended())
    }

    /// Its user, if it is there.
    #[must_use]
    pub fn user(self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // Real, effective, saved, file system.
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// A descriptor for it that no other process can be behind; `None` if it has ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at afterwards: if it is this process now, then it was when the descriptor was made.
        Ok(self.is_alive().then_some(descriptor))
    }

    /// What it has used so far; `None` if it has ended.
    #[must_use]
    pub fn usage(self) -> Option<Usage> {
        let stat = Stat::of(self.pid).ok()?;
        if stat.start_time != self.start_time {
            return None;
        }
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        let second = rustix::param::clock_ticks_per_second().max(1);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(0);
        // For the owner and root only.
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid));
        let proportional = rollup.ok().and_then(|text| kibibytes(&text, "Pss:"));
        Some(Usage {
            processor: Duration::from_millis(stat.ticks.saturating_mul(1000) / second),
            resident: pages.saturating_mul(page),
            proportional: proportional.unwrap_or(0),
        })
    }
}

/// A line's number of KiB, in bytes.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.split_whitespace().next()?.parse().ok()?;
    count.checked_mul(1024)
}

/// Sends a signal to the process behind a descriptor; one that has ended is no error.
///
/// # Errors
/// The operating system's.
pub fn send(process: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn stat_is_read_behind_whatever_the_name_is() {
        let text = "7 (a) R 9 (b) S 1 7 7 0 -1 4194560 9 0 0 0 12 30 0 0 20 0 1 0 777 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.ticks, stat.start_time), ('S', 42, 777));
        assert!(!stat.has_ended());
        let ended = |line: &str| Stat::parse(line).unwrap().has_ended();
        assert!(ended(&text.replace(") S 1", ") Z 1")));
        // Its first thread alone.
        let others = text
            .replace(") S 1", ") Z 1")
            .replace("20 0 1 0 777", "20 0 3 0 777");
        assert!(!ended(&others));
        assert!(Stat::parse("7 (x) S 1 2").is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn used_number_is_another_process() {
        let own = ProcessId::own().unwrap();
        let other = ProcessId {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(own.is_alive() && own.open().unwrap().is_some());
        assert!(!other.is_alive() && other.open().unwrap().is_none());
        assert!(other.usage().is_none());
        assert!(own.usage().unwrap().resident > 0);
        assert_eq!(own.user(), Some(rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn process_that_nobody_waited_for_has_ended() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let descriptor = process.open().unwrap().unwrap();
        send(&descriptor, Signal::KILL).unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}", child.id())).unwrap());
        child.wait().unwrap();
        send(&descriptor, Signal::KILL).unwrap();
    }
}
