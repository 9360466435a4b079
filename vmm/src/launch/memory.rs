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

/// What the process takes besides the guest's memory, at least, in bytes: its threads' stacks, the driver's image, the
/// guest's tables.
const OWN_MIN: u64 = 5 << 20;
/// What the start takes that lasts, at least, in bytes: the stack of the guest's thread. There is room for the rest in what
/// is left for clients.
const START_MIN: u64 = 2 << 20;
/// Least that is left for clients, in bytes.
const LEFT_MIN: u64 = 8 << 20;

/// Why a limit cannot be set.
#[derive(Debug, Display, Error)]
pub enum MemoryLimitError {
    /// --max-memory {max} is too little: with its guest the driver's process takes {taken}M before any client connects; give it {needed}M or more
    TooLittle {
        /// The limit, as its user would write it.
        max: String,
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

fn too_little(max: u64, taken: u64) -> MemoryLimitError {
    let whole = |bytes: u64| bytes.div_ceil(1 << 20);
    let units = [(20, "M"), (10, "K")];
    let shown = units
        .into_iter()
        .find(|(shift, _)| max.trailing_zeros() >= *shift)
        .map_or_else(
            || format!("{max} bytes"),
            |(shift, unit)| format!("{}{unit}", max >> shift),
        );
    MemoryLimitError::TooLittle {
        max: shown,
        taken: whole(taken),
        needed: whole(taken.saturating_add(LEFT_MIN)),
    }
}

/// Whether `max` bytes can be enough for a process with a guest of `guest` bytes, by what every such process takes.
///
/// # Errors
/// [`MemoryLimitError::TooLittle`].
pub(crate) fn check(max: u64, guest: u64) -> Result<(), MemoryLimitError> {
    enough(max, guest.saturating_add(OWN_MIN))
}

fn enough(max: u64, taken: u64) -> Result<(), MemoryLimitError> {
    match max.checked_sub(taken) {
        Some(left) if left >= LEFT_MIN => Ok(()),
        _ => Err(too_little(max, taken)),
    }
}

/// Limits this process to `max` bytes from the start; its guest of `guest` bytes is not there yet. What is too little is
/// refused here, because a process that meets the limit while it starts has no way to say so.
///
/// # Errors
/// See [`MemoryLimitError`].
pub(crate) fn begin(max: u64, guest: u64) -> Result<(), MemoryLimitError> {
    enough(
        max,
        taken()?.saturating_add(guest).saturating_add(START_MIN),
    )?;
    Ok(limit_private(max)?)
}

/// The guest is there: what is left is divided between private memory and what clients share.
///
/// # Errors
/// See [`MemoryLimitError`].
pub(crate) fn divide(max: u64) -> Result<MemoryBudget, MemoryLimitError> {
    let taken = taken()?;
    enough(max, taken)?;
    let left = max - taken;
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
    fn what_is_too_little_is_said_in_one_way() {
        let message = |max, guest| check(max, guest).unwrap_err().to_string();
        for (max, shown) in [
            (1 << 20, "1M"),
            (512 << 10, "512K"),
            (1, "1 bytes"),
            (0, "0M"),
        ] {
            assert_eq!(
                message(max, 16 << 20),
                format!(
                    "--max-memory {shown} is too little: with its guest the driver's process takes 21M before any client \
                     connects; give it 29M or more"
                )
            );
        }
        assert!(message(28 << 20, 16 << 20).ends_with("give it 29M or more"));
        assert!(check(29 << 20, 16 << 20).is_ok());
        assert!(message(u64::MAX, u64::MAX).contains("too little"));
    }

    #[test]
    fn own_memory_is_known() {
        assert!(taken().unwrap() > 1 << 20);
    }
}
