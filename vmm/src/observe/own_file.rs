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
    if !file.metadata()?.is_file() {
        return Ok(file);
    }
    match lock(&file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "it is being written by another device, or by a run that goes on (see `ringfence ps`): give each a file of \
                 its own",
            ));
        }
        // A file system without locks.
        Err(error) => tracing::debug!("{}: not locked: {error}", path.display()),
    }
    file.set_len(0)?;
    Ok(file)
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
