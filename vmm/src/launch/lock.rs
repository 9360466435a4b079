//! The lock on a run's folder: a name is the run's that holds it.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// How often a folder is made that somebody else is removing.
const TRIES: u32 = 16;

/// Path of the file that is locked in a run's folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("lock")
}

/// Locks a run's folder, which is made if it is not there; `None`: another process has it.
pub(super) fn make(folder: &Path) -> io::Result<Option<File>> {
    let mut tries = 0..TRIES;
    loop {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match lock(folder) {
            // A run that ends has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound && tries.next().is_some() => {}
            locked => return locked,
        }
    }
}

/// Locks a run's folder; `None`: another process has.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = path(folder);
    loop {
        let file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Whoever had it may have removed it meanwhile: then the next one locks another file.
            Ok(()) if is_at(&file, &path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an open file is still the one of that path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match path.symlink_metadata() {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
