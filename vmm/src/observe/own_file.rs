//! Files that one run writes: whoever emptied another one's would lose what it has written.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Creates or empties the file at `path`, opened with `flags` too. A regular file is the caller's as long as it is open.
pub(crate) fn create(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let file = options.custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(file);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
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
