//! A parallel port with a listener that takes every byte: the standard parallel port (SPP) of IEEE 1284-1994,
//! annex on compatibility mode, as Microsoft's and IBM's PC documentation lay out its registers.
//!
//! | offset | register | bits |
//! |---|---|---|
//! | 0 | data | what the port drives; all ones while the direction bit makes it an input |
//! | 1 | status, read only | 7 not busy, 6 nAck, 5 paper out, 4 selected, 3 no error |
//! | 2 | control | 0 strobe, 1 auto feed, 2 nInit, 3 select in, 4 interrupt enable, 5 direction (1: input); 6-7 read as ones |
//! | 3.. | EPP registers | not there: read as all ones, writes are dropped |
//!
//! The connector's nStrobe line is the inverse of control bit 0, and a printer takes the data lines when nStrobe
//! goes low: a byte is emitted when bit 0 goes from 0 to 1, and not again before it was 0. Whether the printer is
//! initialised (nInit) or selected is not looked at: this is a recorder on the wire. Interrupts are not modelled.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{DeviceError, PortDevice};
use crate::policy::LptOutput;
use crate::ports::Width;

const CONTROL_STROBE: u8 = 1 << 0;
const CONTROL_DIRECTION: u8 = 1 << 5;
const CONTROL_WRITABLE: u8 = 0x3F;
/// nInit high, selected: how a PC's BIOS leaves the port.
const CONTROL_RESET: u8 = 0x0C;
const STATUS_NOT_BUSY: u8 = 1 << 7;
const STATUS_PAPER_OUT: u8 = 1 << 5;
const STATUS_SELECTED: u8 = 1 << 4;
const STATUS_NO_ERROR: u8 = 1 << 3;

/// Bytes collected before they are written out without waiting for a flush.
const BUFFER_BYTES: usize = 4096;
/// How long an output may take no byte at all (a full non-blocking pipe) before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// An output that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot create its output {path}")]
pub struct OutputError {
    /// The file.
    pub path: String,
    /// Why.
    pub source: io::Error,
}

/// The parallel port.
pub struct Lpt {
    data: u8,
    control: u8,
    status: u8,
    output: Box<dyn Write + Send>,
    output_name: String,
    buffer: Vec<u8>,
    emitted: u64,
    failure: Option<Failure>,
}

/// Why the output takes no more bytes.
#[derive(Debug)]
struct Failure {
    reason: String,
    lost_bytes: u64,
}

impl fmt::Debug for Lpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lpt")
            .field("output", &self.output_name)
            .field("data", &self.data)
            .field("control", &self.control)
            .field("emitted", &self.emitted)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Lpt {
    /// Opens the output, which creates the file or empties it.
    ///
    /// # Errors
    /// [`OutputError`] when the file cannot be created.
    pub fn open(output: &LptOutput, status: u8) -> Result<Self, OutputError> {
        match output {
            LptOutput::Stdout => Ok(Self::with_output(
                Box::new(io::stdout()),
                "standard output".to_owned(),
                status,
            )),
            LptOutput::File(path) => {
                let file = create(path).map_err(|source| OutputError {
                    path: path.display().to_string(),
                    source,
                })?;
                Ok(Self::with_output(
                    Box::new(file),
                    path.display().to_string(),
                    status,
                ))
            }
        }
    }

    /// A port whose bytes go to `output`.
    #[must_use]
    pub fn with_output(output: Box<dyn Write + Send>, output_name: String, status: u8) -> Self {
        Self {
            data: 0,
            control: CONTROL_RESET,
            status,
            output,
            output_name,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            emitted: 0,
            failure: None,
        }
    }

    /// Bytes that drivers have strobed out, lost ones included.
    #[must_use]
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    fn read_register(&self, offset: u16) -> u8 {
        match offset {
            0 if self.control & CONTROL_DIRECTION != 0 => 0xFF,
            0 => self.data,
            1 if self.failure.is_some() => {
                // A printer that cannot print: a driver that looks stops here instead of losing bytes.
                (self.status | STATUS_PAPER_OUT)
                    & !(STATUS_NOT_BUSY | STATUS_SELECTED | STATUS_NO_ERROR)
            }
            1 => self.status,
            2 => self.control | !CONTROL_WRITABLE,
            _ => 0xFF,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        match offset {
            0 => self.data = value,
            2 => {
                let rises = !self.control & value & CONTROL_STROBE != 0;
                self.control = value & CONTROL_WRITABLE;
                if rises {
                    self.emit();
                }
            }
            // Status is an input; the EPP registers are not there.
            _ => {}
        }
    }

    fn emit(&mut self) {
        self.emitted += 1;
        if let Some(failure) = &mut self.failure {
            failure.lost_bytes += 1;
            return;
        }
        // While the port is turned round nothing drives the lines, and pull-ups make them ones.
        let byte = self.read_register(0);
        self.buffer.push(byte);
        if self.buffer.len() >= BUFFER_BYTES {
            self.drain();
        }
    }

    /// Writes the buffer out; what cannot be written becomes the failure.
    fn drain(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let mut written = 0;
        let result = write_all_patiently(&mut *self.output, &self.buffer, &mut written);
        if let Err(error) = result {
            let failure = Failure {
                reason: error.to_string(),
                lost_bytes: count(self.buffer.len() - written),
            };
            tracing::error!(
                output = %self.output_name,
                "backend \"lpt\" cannot write: {error}; the port now reports paper out and error"
            );
            self.failure = Some(failure);
        }
        self.buffer.clear();
    }
}

impl PortDevice for Lpt {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = self.read_register(offset + byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        // An 8-bit device on the bus: a wide access is cut into bytes, lowest port first.
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            self.write_register(offset + byte, source);
        }
    }

    fn describe(&self) -> String {
        format!("lpt to {}", self.output_name)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.drain();
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(DeviceError {
                device: self.describe(),
                message: format!(
                    "{}; {} of {} bytes are lost: make room or keep the reader open, then run again",
                    failure.reason, failure.lost_bytes, self.emitted
                ),
            }),
        }
    }
}

impl Drop for Lpt {
    fn drop(&mut self) {
        self.drain();
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Creates or empties the file at `path`. Never waits: opening a FIFO would do so until somebody reads it, deaf to
/// signals.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    options.custom_flags(libc::O_NONBLOCK);
    options.open(path).map_err(|error| {
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
mod tests;
