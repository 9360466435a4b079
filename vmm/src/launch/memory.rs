//! `--max-memory`: the most memory that a driver's process takes.
//!
//! Private memory (guest memory is part of it) is limited by RLIMIT_DATA, and what clients share with the process is
//! counted. So that neither limit is met by surprise, each client is asked for its share first, and refused when there is no
//! room: whoever is connected already is not disturbed. The kernel's limit stands behind that; a process that meets it
//! ends (by SIGABRT), and `--restart` starts it again.

use std::io::{self, Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use displaydoc::Display;
use rustix::process::{Resource, Rlimit, setrlimit};
use thiserror::Error;

use super::process::kibibytes;

/// Least that is left for clients, in bytes.
const LEFT_MIN: u64 = 8 << 20;

/// Why a limit cannot be set.
#[derive(Debug, Display, Error)]
pub enum MemoryLimitError {
    /// --max-memory {max}M is too little: with its guest the driver's process takes {taken}M before any client connects; give it {needed}M or more
    TooLittle {
        /// The limit, in MiB.
        max: u64,
        /// What the process has, in MiB.
        taken: u64,
        /// What it needs, in MiB.
        needed: u64,
    },
    /// the memory limit cannot be set
    System(#[from] Error),
}

/// What clients may take, of one kind of memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<AtomicU64>,
}

/// A part of a budget. Dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    left: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    fn new(bytes: u64) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(bytes)),
        }
    }

    /// Takes `bytes`; `None` if there are not so many.
    #[must_use]
    pub fn take(&self, bytes: u64) -> Option<Share> {
        let take = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .ok()?;
        Some(Share {
            left: Arc::clone(&self.left),
            bytes,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// What clients may take.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    /// Of the process's own memory.
    pub private: Budget,
    /// Of memory that they share with it.
    pub shared: Budget,
}

/// Bytes of private writable memory that this process has, by the count of RLIMIT_DATA.
fn taken() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    kibibytes(&status, "VmData:")
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "no VmData in /proc/self/status"))
}

fn limit_private(bytes: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    Ok(setrlimit(Resource::Data, limit)?)
}

/// Limits this process to `max` bytes from the start.
///
/// # Errors
/// A lower limit is in force already.
pub(crate) fn begin(max: u64) -> io::Result<()> {
    limit_private(max)
}

/// The guest is there: what is left is divided between private memory and what clients share.
///
/// # Errors
/// See [`MemoryLimitError`].
pub(crate) fn divide(max: u64) -> Result<MemoryBudget, MemoryLimitError> {
    let taken = taken()?;
    let left = max.checked_sub(taken).filter(|left| *left >= LEFT_MIN);
    let Some(left) = left else {
        let whole = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(MemoryLimitError::TooLittle {
            max: max >> 20,
            taken: whole(taken),
            needed: whole(taken.saturating_add(LEFT_MIN)),
        });
    };
    let shared = left / 2;
    limit_private(max - shared)?;
    Ok(MemoryBudget {
        // A quarter of it is for what no client is asked for.
        private: Budget::new((left - shared) / 4 * 3),
        shared: Budget::new(shared),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_what_is_left_of_it() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.clone().take(41).is_none());
        let second = budget.take(40).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(u64::MAX).is_none());
        assert!(budget.take(60).is_some());
        drop(second);
        assert!(budget.take(100).is_some());
    }

    #[test]
    fn own_memory_is_known() {
        assert!(taken().unwrap() > 1 << 20);
    }
}
