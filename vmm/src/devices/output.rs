//! Where a device's bytes go: buffered, patient, and with a memory for what went wrong.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::DeviceError;
use crate::observe::own_file;
use crate::policy::DeviceOutput;

/// Bytes collected before they are written out without waiting for a flush.
pub(super) const BUFFER_BYTES: usize = 4096;
/// How long an output may take no byte at all (a full non-blocking pipe) before it counts as failed, and how long a
/// command may go on after its input has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// An output that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {path}")]
pub struct OutputError {
    /// The file.
    pub path: String,
    /// Why.
    pub source: io::Error,
}

/// Why an output takes no more bytes.
#[derive(Debug)]
struct Failure {
    reason: String,
    lost_bytes: u64,
}

/// A buffered output.
pub(super) struct Sink {
    output: Box<dyn Write + Send>,
    name: String,
    buffer: Vec<u8>,
    emitted: u64,
    failure: Option<Failure>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("output", &self.name)
            .field("emitted", &self.emitted)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Opens an output; that creates or empties a file, makes a pseudo terminal, starts a command.
    pub(super) fn open(output: &DeviceOutput) -> Result<Self, OutputError> {
        let failed = |path: String| move |source| OutputError { path, source };
        Ok(match output {
            DeviceOutput::Stdout => Self::new(Box::new(io::stdout()), "standard output".to_owned()),
            DeviceOutput::File(path) => {
                let name = path.display().to_string();
                let file = create(path).map_err(failed(name.clone()))?;
                Self::new(Box::new(file), name)
            }
            DeviceOutput::Pty => {
                let pty = Pty::open().map_err(failed("pty".to_owned()))?;
                tracing::info!("a device's pseudo terminal is {}", pty.path.display());
                let name = pty.path.display().to_string();
                Self::new(Box::new(pty), name)
            }
            DeviceOutput::Command(words) => {
                let name = words.join(" ");
                let pipe = CommandPipe::start(words).map_err(failed(name.clone()))?;
                Self::new(Box::new(pipe), name)
            }
        })
    }

    pub(super) fn new(output: Box<dyn Write + Send>, name: String) -> Self {
        Self {
            output,
            name,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            emitted: 0,
            failure: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that were given to it, lost ones included.
    pub(super) fn emitted(&self) -> u64 {
        self.emitted
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.emitted += 1;
        if let Some(failure) = &mut self.failure {
            failure.lost_bytes += 1;
            return;
        }
        self.buffer.push(byte);
        if self.buffer.len() >= BUFFER_BYTES {
            self.drain();
        }
    }

    /// Writes the buffer out; what cannot be written becomes the failure.
    pub(super) fn drain(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let mut written = 0;
        let result = write_all_patiently(&mut *self.output, &self.buffer, &mut written);
        if let Err(error) = result {
            let lost_bytes = u64::try_from(self.buffer.len() - written).unwrap_or(u64::MAX);
            tracing::error!(output = %self.name, "a device cannot write: {error}");
            self.failure = Some(Failure {
                reason: error.to_string(),
                lost_bytes,
            });
        }
        self.buffer.clear();
    }

    /// Drains, and tells what has gone wrong since the start.
    pub(super) fn flush(&mut self, device: impl FnOnce() -> String) -> Result<(), DeviceError> {
        self.drain();
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(DeviceError {
                device: device(),
                message: format!(
                    "{}; {} of {} bytes are lost: make room or keep the reader open, then run again",
                    failure.reason, failure.lost_bytes, self.emitted
                ),
            }),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.drain();
    }
}

/// Creates or empties the file at `path`. Never waits: opening a FIFO would do so until somebody reads it, deaf to
/// signals.
fn create(path: &Path) -> io::Result<File> {
    own_file::create(path, libc::O_NONBLOCK).map_err(|error| {
        if error.raw_os_error() == Some(libc::ENXIO) {
            io::Error::new(
                error.kind(),
                "nobody reads this FIFO (or the device is not there): start its reader first",
            )
        } else {
            error
        }
    })
}

/// The device's side of a pseudo terminal in raw mode. It keeps the other side open as well, so that programs may come
/// and go.
#[derive(Debug)]
pub(super) struct Pty {
    pub(super) master: File,
    pub(super) path: PathBuf,
    _terminal: OwnedFd,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(&path, flags, Mode::empty())?;
        let mut attributes = tcgetattr(&terminal)?;
        attributes.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &attributes)?;
        rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK)?;
        Ok(Self {
            master: File::from(master),
            path,
            _terminal: terminal,
        })
    }
}

impl Write for Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.master.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A command that reads the bytes.
#[derive(Debug)]
struct CommandPipe {
    name: String,
    input: Option<ChildStdin>,
    child: Child,
}

impl CommandPipe {
    fn start(words: &[String]) -> io::Result<Self> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        if let Some(input) = &input {
            rustix::fs::fcntl_setfl(input, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            name: program.clone(),
            input,
            child,
        })
    }
}

impl Write for CommandPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.write(bytes),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for CommandPipe {
    fn drop(&mut self) {
        // The end of its input is what ends it.
        self.input = None;
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(None) => {
                    tracing::warn!("{} goes on after the end of its input", self.name);
                    return;
                }
                Ok(Some(status)) if status.success() => return,
                Ok(Some(status)) => {
                    tracing::error!("{} ended with {status}", self.name);
                    return;
                }
                Err(error) => {
                    tracing::error!("cannot wait for {}: {error}", self.name);
                    return;
                }
            }
        }
    }
}

/// Writes all of `bytes`, then flushes. An output that is merely slow gets [`PATIENCE`] for each piece, whether
/// signals interrupt the write or the descriptor is non-blocking. `written` counts what was taken.
fn write_all_patiently(
    output: &mut dyn Write,
    bytes: &[u8],
    written: &mut usize,
) -> io::Result<()> {
    let mut progress_at = Instant::now();
    loop {
        let rest = &bytes[*written..];
        let result = if rest.is_empty() {
            output.flush().map(|()| 0)
        } else {
            output.write(rest)
        };
        match result {
            Ok(_) if rest.is_empty() => return Ok(()),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(taken) => {
                *written += taken.min(rest.len());
                progress_at = Instant::now();
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                if progress_at.elapsed() > PATIENCE {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the output took no bytes for {} s", PATIENCE.as_secs()),
                    ));
                }
                if error.kind() == io::ErrorKind::WouldBlock {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn command_gets_the_bytes_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy");
        let script = format!("cat > {}; echo done >> {0}", path.display());
        let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let mut sink = Sink::open(&DeviceOutput::Command(words)).unwrap();
        for byte in *b"bytes\n" {
            sink.push(byte);
        }
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes\ndone\n");

        let missing = vec!["/nonexistent/program".to_owned()];
        let error = Sink::open(&DeviceOutput::Command(missing)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/program"));
    }

    #[test]
    fn a_file_is_one_devices_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let output = DeviceOutput::File(folder.path().join("printed"));
        let mut first = Sink::open(&output).unwrap();
        first.push(b'a');
        first.drain();
        let error = crate::error_chain(&Sink::open(&output).unwrap_err());
        assert!(error.contains("ringfence ps"), "{error}");
        assert_eq!(std::fs::read(folder.path().join("printed")).unwrap(), b"a");
        drop(first);
        drop(Sink::open(&output).unwrap());
        assert_eq!(std::fs::read(folder.path().join("printed")).unwrap(), b"");
        // What is no regular file is not locked.
        let null = DeviceOutput::File("/dev/null".into());
        let _both = [Sink::open(&null).unwrap(), Sink::open(&null).unwrap()];
    }

    #[test]
    fn pseudo_terminal_passes_all_bytes_as_they_are() {
        let mut sink = Sink::open(&DeviceOutput::Pty).unwrap();
        let mut reader = File::options().read(true).open(sink.name()).unwrap();
        for byte in [0x00, 0x0A, 0x0D, 0x03, 0x04, 0xFF] {
            sink.push(byte);
        }
        sink.flush(String::new).unwrap();
        let mut bytes = [0; 6];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [0x00, 0x0A, 0x0D, 0x03, 0x04, 0xFF]);
    }
}
