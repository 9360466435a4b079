//! Device models of `[[port]]` rules, as data.

use std::path::PathBuf;

/// Where a model's bytes go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DeviceOutput {
    /// The VMM's standard output (`"-"`).
    Stdout,
    /// A file, created (or emptied) at start.
    File(PathBuf),
    /// A pseudo terminal, made at start; the log has its path (`"pty"`).
    Pty,
    /// A program's standard input (`command`): the program and its arguments.
    Command(Vec<String>),
}

/// What an EPP port has at its connector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EppPeer {
    /// A device that answers each cycle.
    Present,
    /// Nothing: each cycle times out.
    Absent,
}

/// An `lpt` or a `printer`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LptSpec {
    /// Where bytes go.
    pub output: DeviceOutput,
    /// The status register's value while all is well.
    pub status: u8,
    /// The interrupt line of ACK and of the ECP FIFO.
    pub irq: Option<u32>,
    /// What the device at the connector drives on the data lines, byte for byte.
    pub input: Vec<u8>,
    /// Whether there are EPP registers, and who answers.
    pub epp: Option<EppPeer>,
    /// Whether there are ECP registers, at the data register's port + 0x400.
    pub is_ecp: bool,
    /// Whether a printer's handshake has to be kept.
    pub is_printer: bool,
}

impl LptSpec {
    /// A port with SPP registers, no interrupt and no input.
    #[must_use]
    pub fn new(output: DeviceOutput, status: u8) -> Self {
        Self {
            output,
            status,
            irq: None,
            input: Vec::new(),
            epp: None,
            is_ecp: false,
            is_printer: false,
        }
    }
}
