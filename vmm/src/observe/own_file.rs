//! Files that one run writes: whoever emptied another one's would lose what it has written.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How long a run that ends may still have a file.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);

/// Creates or empties the file at `path`, opened with `flags` too. A regular file is the caller's as long as it is open.
pub(crate) fn create(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let file = options.custom_flags(flags).open(path)?;
    if own(&file)? {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Opens the regular file at `path` to read and write what it has, creates it where there is none. It is the caller's as
/// long as it is open.
pub(crate) fn keep(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    // A FIFO or a device would be waited for.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if own(&file)? {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }
}

/// Takes a file, which is given back when it is closed; `false` if it is no regular one, which nobody can take.
fn own(file: &File) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    match lock(file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "it is being written by another device, or by a run that goes on (see `ringfence ps`): give each a file of \
                 its own",
            ));
        }
        // A file system without locks.
        Err(error) => tracing::debug!("an output is not locked: {error}"),
    }
    Ok(true)
}

/// Whether somebody who writes has a file that was opened to be read.
pub(crate) fn is_owned(file: &File) -> bool {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // Whoever is to have it need not wait for its reader.
            let _ = rustix::fs::flock(file, FlockOperation::Unlock).is_ok();
            false
        }
        Err(error) => error == Errno::WOULDBLOCK,
    }
}

fn lock(file: &File) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_given_up_soon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        let first = create(&path, 0).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(LOOK);
            drop(first);
        });
        create(&path, 0).unwrap();
        end.join().unwrap();
        let _held = create(&path, 0).unwrap();
        let error = create(&path, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
