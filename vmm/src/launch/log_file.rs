//! Where log lines go: to stderr, and to a run's log in the run directory.
//!
//! A driver can make a run log for ever (so many lines a second, [`crate::observe::log`]), and the run directory is often
//! memory. So the log has a largest size: then it is copied to `log.1` and begins anew. It is cut rather than renamed,
//! because stderr of a detached run is the same file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::entry;

/// Largest log, in bytes; there are two of them.
pub(super) const LOG_MAX: u64 = 2 << 20;

static LOG: Mutex<Option<LogFile>> = Mutex::new(None);

struct LogFile {
    file: File,
    path: PathBuf,
    max: u64,
    /// Standard error is the file too.
    is_alone: bool,
}

impl LogFile {
    fn open(folder: &Path, max: u64) -> io::Result<Self> {
        let path = entry::log(folder);
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("the log is no file"));
        }
        let is_alone = is_standard_error(&file)?;
        Ok(Self {
            file,
            path,
            max,
            is_alone,
        })
    }

    /// Appends a line with the time in front, and without what is for terminals.
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let mut text = String::new();
        // A time that cannot be had is left out.
        let _ = SystemTime.format_time(&mut Writer::new(&mut text)).is_ok();
        let mut bytes = text.into_bytes();
        bytes.push(b' ');
        bytes.extend(anstream::adapter::strip_bytes(line).into_vec());
        self.file.write_all(&bytes)?;
        if self.file.metadata()?.len() > self.max {
            std::fs::copy(&self.path, self.path.with_extension("1"))?;
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

/// Whether a file is what standard error is: so it is for a process that a detached one has started.
fn is_standard_error(file: &File) -> io::Result<bool> {
    let ours = rustix::fs::fstat(file)?;
    // A closed standard error is no file.
    let theirs = rustix::fs::fstat(rustix::stdio::stderr());
    Ok(theirs.is_ok_and(|theirs| (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)))
}

/// Has log lines written to the log in a run's folder too.
///
/// # Errors
/// It cannot be opened.
pub(super) fn begin(folder: &Path) -> io::Result<()> {
    let log = LogFile::open(folder, LOG_MAX)?;
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    Ok(())
}

/// Makes the log this process's standard output and error.
///
/// # Errors
/// The operating system's.
pub(super) fn redirect() -> io::Result<()> {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = log.as_mut() {
        io::stdout().flush()?;
        rustix::stdio::dup2_stdout(&log.file)?;
        rustix::stdio::dup2_stderr(&log.file)?;
        log.is_alone = true;
    }
    Ok(())
}

/// What log lines are written to.
#[derive(Debug, Default)]
pub struct LogWriter(());

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = Ok(());
        let mut is_alone = false;
        if let Some(log) = log.as_mut() {
            is_alone = log.is_alone;
            written = log.line(line);
        }
        // A full run directory must not silence a terminal.
        if !is_alone {
            io::stderr().write_all(line)?;
        }
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_times_and_no_colours() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(folder.path(), LOG_MAX).unwrap();
        log.line(b"\x1b[32m INFO\x1b[0m one\n").unwrap();
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(
            text.starts_with("20") && text.ends_with("Z  INFO one\n"),
            "{text}"
        );
    }

    #[test]
    fn log_has_a_largest_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(folder.path(), 1000).unwrap();
        for number in 0..500 {
            log.line(format!("line {number}\n").as_bytes()).unwrap();
        }
        let length = |name: &str| folder.path().join(name).metadata().unwrap().len();
        assert!(length("log") <= 1000 && length("log.1") <= 1100);
        let before = std::fs::read_to_string(folder.path().join("log.1")).unwrap();
        let after = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(format!("{before}{after}").ends_with("line 499\n"));
    }

    #[test]
    fn link_in_the_logs_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "data").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join("log")).unwrap();
        assert!(LogFile::open(folder.path(), LOG_MAX).is_err());
    }
}
