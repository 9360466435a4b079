//! One command at a time changes a prefix.
//!
//! The lock is one of the operating system's on `C:\windows` itself, which each prefix has: nothing is left behind, and it
//! goes with the process that holds it, however that ends.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Failure;
use super::prefix::Prefix;

/// How long another command may take. Each starts Wine several times, and several may be waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// When it is said that there is a wait.
const SILENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// The prefix is this command's alone while it lives. Wine's programs do not inherit it.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Option<File>,
}

impl Lock {
    /// Waits until no other command changes the prefix.
    pub(super) fn of(prefix: &Prefix) -> Result<Self, Failure> {
        take(&prefix.windows(), prefix.path(), PATIENCE)
    }
}

fn take(folder: &Path, prefix: &Path, patience: Duration) -> Result<Lock, Failure> {
    // It is closed on exec, as every file that the standard library opens.
    let file = File::open(folder).map_err(|error| Failure::file(folder, &error))?;
    let began = Instant::now();
    let mut is_said = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _held: Some(file) }),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            // A file system that has no locks for directories: as without it.
            Err(error) => {
                tracing::debug!("{}: no lock: {error}", folder.display());
                return Ok(Lock { _held: None });
            }
        }
        let waited = began.elapsed();
        if waited >= patience {
            return Err(Failure::failed(format!(
                "{}: {} is changing it for {} s already; wait until that has ended, or end it, and try again",
                prefix.display(),
                holder(&file),
                patience.as_secs()
            )));
        }
        if waited >= SILENCE && !is_said {
            is_said = true;
            tracing::info!("waiting for {}, which changes the prefix", holder(&file));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Who has the lock, as far as the kernel tells.
fn holder(file: &File) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = file.metadata().map_or(0, |metadata| metadata.ino());
    holder_in(&locks, inode).map_or_else(
        || "another `ringfence wine`".to_owned(),
        |process| format!("another `ringfence wine` (process {process})"),
    )
}

/// The process in a line `1: FLOCK ADVISORY WRITE PROCESS DEVICE:INODE 0 EOF`. File systems of several devices show another
/// number there than files have, so the inode alone decides.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_exclusive = ["FLOCK", "ADVISORY", "WRITE"]
            .iter()
            .all(|wanted| words.next() == Some(wanted));
        let process = words.next()?.parse().ok().filter(|process| *process != 0);
        let found = words.next()?.rsplit(':').next()?.parse() == Ok(inode);
        process.filter(|_| is_exclusive && found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let first = take(path, path, Duration::ZERO).unwrap();
        let refused = take(path, path, Duration::ZERO).unwrap_err();
        let own = format!("(process {})", std::process::id());
        assert!(refused.message.contains(&own), "{}", refused.message);
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| take(path, path, Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            second.join().unwrap()
        });
        assert!(waiting.is_ok_and(|lock| lock._held.is_some()));
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    }

    #[test]
    fn holders_are_found_among_the_kernels_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 08:01:42 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 8 08:01:42 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 08:01:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 10 08:01:43 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 11 08:01:42 0 EOF\n\
                     5: damaged\n";
        assert_eq!(holder_in(locks, 42), Some(11));
        assert_eq!(holder_in(locks, 44), None);
    }
}
