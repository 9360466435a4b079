//! A run's own entry in the run directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::lock;
use super::registration::{self, Registration};

/// Reports of crashes that are kept.
const CRASHES_MAX: u32 = 5;

/// A name that this process has. Dropping it gives the name back; a log that says something and crash reports stay.
#[derive(Debug)]
pub struct Entry {
    folder: PathBuf,
    registration: Registration,
    /// Held until the end.
    _lock: File,
}

impl Entry {
    pub(super) fn new(folder: PathBuf, lock: File, registration: Registration) -> io::Result<Self> {
        registration.write(&folder)?;
        Ok(Self {
            folder,
            registration,
            _lock: lock,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    /// What it says of itself.
    #[must_use]
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Changes what it says of itself. A directory that cannot be written any more costs the news, not the run.
    pub fn update(&mut self, change: impl FnOnce(&mut Registration)) {
        change(&mut self.registration);
        if let Err(error) = self.registration.write(&self.folder) {
            tracing::warn!("{} is not up to date: {error}", self.folder.display());
        }
    }

    /// To whoever has started a run that has failed before anything else could be asked of it: where its log is, if it
    /// says something.
    pub(super) fn tell_what_is_left(&self) {
        let log = log(&self.folder);
        if log.metadata().is_ok_and(|metadata| metadata.len() != 0) {
            // Not a line of that very log.
            let _ = writeln!(io::stderr(), "ringfence: its log is {}", log.display());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join(registration::FILE)).is_ok();
        // Under its lock.
        remove_empty(&self.folder);
    }
}

fn is_empty_file(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

/// Removes a run's folder, under its lock, if nothing in it says anything: no line was logged, nothing has crashed.
pub(super) fn remove_empty(folder: &Path) {
    let (lock, log) = (lock::path(folder), log(folder));
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let is_empty = entries.into_iter().all(|entry| {
        entry.is_ok_and(|entry| {
            let path = entry.path();
            path == lock || (path == log && is_empty_file(&log))
        })
    });
    if is_empty {
        // The lock last: when it is gone the folder may be another run's. One that cannot be removed harms nobody.
        let _ = fs::remove_file(log).is_ok();
        let _ = fs::remove_file(lock).is_ok();
        let _ = fs::remove_dir(folder).is_ok();
    }
}

/// Path of the log in a run's folder.
#[must_use]
pub fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// Path of a crash's report; 1 is the newest.
#[must_use]
pub fn crash(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("crash.{number}"))
}

/// Keeps the report of a crash in a run's folder, with those of the last ones before it.
///
/// # Errors
/// The operating system's.
pub fn keep_crash(folder: &Path, report: &str) -> io::Result<()> {
    for number in (1..CRASHES_MAX).rev() {
        match fs::rename(crash(folder, number), crash(folder, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(crash(folder, 1))?;
    file.write_all(report.trim_end().as_bytes())?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_crashes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=8 {
            keep_crash(folder.path(), &format!("crash {number}")).unwrap();
        }
        let kept = |number| fs::read_to_string(crash(folder.path(), number)).ok();
        assert_eq!(kept(1).as_deref(), Some("crash 8\n"));
        assert_eq!(kept(5).as_deref(), Some("crash 4\n"));
        assert_eq!(kept(6), None);
    }
}
