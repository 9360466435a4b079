//! Where log lines go: to stderr, and to a run's log in the run directory.
//!
//! A driver can make a run log for ever (so many lines a second, [`crate::observe::log`]), and the run directory is often
//! memory. So the log has a largest size: then it is copied to `log.1` and begins anew. It is cut rather than renamed,
//! because stderr of a detached run is the same file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::OFlags;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::entry;
use crate::observe::escape::escape;

/// Largest log, in bytes; there are two of them.
pub(super) const LOG_MAX: u64 = 2 << 20;

/// The environment variable that says whose lines these are: wine/driver/spawn.c sets it.
const NAME_VARIABLE: &str = "RINGFENCE_LOG_NAME";

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

/// Writes lines to standard error, each with the time and a name in front if several processes share it.
pub fn to_standard_error(lines: &[u8]) -> io::Result<()> {
    static NAME: LazyLock<Option<String>> = LazyLock::new(|| {
        std::env::var(NAME_VARIABLE)
            .ok()
            .filter(|name| !name.is_empty())
    });
    match NAME.as_deref() {
        None => io::stderr().write_all(lines),
        Some(name) => io::stderr().write_all(&with_name(lines, name)),
    }
}

fn with_name(lines: &[u8], name: &str) -> Vec<u8> {
    let mut time = String::new();
    // A time that cannot be had is left out.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time)).is_ok();
    let mut bytes = Vec::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        bytes.extend_from_slice(format!("{time} {}: ", escape(name)).as_bytes());
        bytes.extend_from_slice(line);
    }
    bytes
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
            to_standard_error(line)?;
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
    fn lines_of_several_have_their_names() {
        let bytes = with_name(b" WARN one\n  two\n", "echo");
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.starts_with("20")), "{text}");
        assert!(lines[0].ends_with("Z echo:  WARN one"), "{text}");
        assert!(lines[1].ends_with("Z echo:   two"), "{text}");
        assert_eq!((lines.len(), text.ends_with('\n')), (2, true));
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
