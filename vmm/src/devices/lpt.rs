//! Parallel ports: the standard parallel port (SPP) of IEEE 1284-1994, annex on compatibility mode, as Microsoft's and
//! IBM's PC documentation lay out its registers; EPP 1.9; and the registers of Microsoft's "Extended Capabilities Port
//! Protocol and ISA Interface Standard" (ECP), in [`super::ecp`].
//!
//! | offset | register | bits |
//! |---|---|---|
//! | 0 | data | what the port drives; what the peer drives (else ones) while the direction bit makes it an input |
//! | 1 | status, read only | 7 not busy, 6 nAck, 5 paper out, 4 selected, 3 no error; 0 EPP time-out |
//! | 2 | control | 0 strobe, 1 auto feed, 2 nInit, 3 select in, 4 interrupt enable, 5 direction (1: input); 6-7 read as ones |
//! | 3 | EPP address | a cycle with nAddrStrobe for each access |
//! | 4-7 | EPP data | a cycle with nDataStrobe for each access |
//!
//! The connector's nStrobe line is the inverse of control bit 0, and a printer takes the data lines when nStrobe
//! goes low: a byte is emitted when bit 0 goes from 0 to 1, and not again before it was 0. An `lpt` is a recorder on the
//! wire: it does not look at whether the printer is initialised (nInit) or selected, and is always ready. A `printer`
//! does look, is busy from the strobe's rise to its fall, and then pulses nAck, which the next read of status shows.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ecp::{Ecp, EcpPort};
use super::output::{OutputError, Sink};
use super::{DeviceError, Input, InputError, Inputs, PortDevice, inputs};
use crate::machine::InterruptLine;
use crate::policy::{EppPeer, LptSpec};
use crate::ports::Width;

const CONTROL_STROBE: u8 = 1 << 0;
const CONTROL_NOT_INIT: u8 = 1 << 2;
const CONTROL_SELECT_IN: u8 = 1 << 3;
const CONTROL_INTERRUPT: u8 = 1 << 4;
const CONTROL_DIRECTION: u8 = 1 << 5;
const CONTROL_WRITABLE: u8 = 0x3F;
/// nInit high, selected: how a PC's BIOS leaves the port.
const CONTROL_RESET: u8 = 0x0C;
const STATUS_NOT_BUSY: u8 = 1 << 7;
const STATUS_NOT_ACK: u8 = 1 << 6;
const STATUS_PAPER_OUT: u8 = 1 << 5;
const STATUS_SELECTED: u8 = 1 << 4;
const STATUS_NO_ERROR: u8 = 1 << 3;
const STATUS_TIME_OUT: u8 = 1 << 0;

/// A parallel port's registers in their usual range.
#[derive(Debug)]
pub struct Lpt {
    port: Arc<Mutex<Port>>,
}

/// What both ranges of registers share.
#[derive(Debug)]
pub(super) struct Port {
    data: u8,
    control: u8,
    status: u8,
    epp: Option<EppPeer>,
    epp_address: u8,
    /// An EPP cycle that nobody answered, until the driver clears it.
    has_timed_out: bool,
    is_printer: bool,
    /// A printer's nAck pulse, until somebody looks.
    is_acknowledging: bool,
    input: Vec<u8>,
    input_at: usize,
    pub(super) line: Option<InterruptLine>,
    sink: Sink,
    pub(super) ecp: Option<Ecp>,
}

pub(super) fn locked(port: &Mutex<Port>) -> MutexGuard<'_, Port> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lpt {
    /// Opens the output, which creates the file or empties it. `line` is that of the spec's `irq`.
    ///
    /// # Errors
    /// [`OutputError`] when the output cannot be opened.
    pub fn open(spec: &LptSpec, line: Option<InterruptLine>) -> Result<Self, OutputError> {
        Ok(Self::with_sink(spec, line, Sink::open(&spec.output)?))
    }

    /// A port whose bytes go to `output` instead of the spec's.
    #[must_use]
    pub fn with_output(
        output: Box<dyn Write + Send>,
        output_name: String,
        spec: &LptSpec,
        line: Option<InterruptLine>,
    ) -> Self {
        Self::with_sink(spec, line, Sink::new(output, output_name))
    }

    fn with_sink(spec: &LptSpec, line: Option<InterruptLine>, sink: Sink) -> Self {
        let ecp = spec.is_ecp.then(|| Ecp::new(spec.irq));
        Self {
            port: Arc::new(Mutex::new(Port {
                data: 0,
                control: CONTROL_RESET,
                status: spec.status,
                epp: spec.epp,
                epp_address: 0,
                has_timed_out: false,
                is_printer: spec.is_printer,
                is_acknowledging: false,
                input: spec.input.clone(),
                input_at: 0,
                line,
                sink,
                ecp,
            })),
        }
    }

    /// Bytes that drivers have sent out, lost ones included.
    #[must_use]
    pub fn emitted(&self) -> u64 {
        locked(&self.port).sink.emitted()
    }
}

impl Port {
    pub(super) fn is_input(&self) -> bool {
        self.control & CONTROL_DIRECTION != 0
    }

    /// The next byte that the peer sends; the last one stays, and without a peer the lines are pulled up.
    fn drive(&mut self) -> u8 {
        let byte = self.input.get(self.input_at).map_or(0xFF, |byte| *byte);
        if self.input_at + 1 < self.input.len() {
            self.input_at += 1;
        }
        byte
    }

    /// The next byte of a reverse transfer; `None` when the peer has sent all.
    pub(super) fn receive(&mut self) -> Option<u8> {
        let byte = self.input.get(self.input_at).copied()?;
        self.input_at += 1;
        Some(byte)
    }

    /// A byte that the hardware itself has handed to the peer.
    pub(super) fn send(&mut self, byte: u8) {
        self.sink.push(byte);
    }

    /// Makes the port an output, as the modes do that have no direction.
    pub(super) fn turn_forward(&mut self) {
        self.control &= !CONTROL_DIRECTION;
    }

    fn read_status(&mut self) -> u8 {
        let mut status = self.status;
        if self.sink.has_failed() {
            // A printer that cannot print: a driver that looks stops here instead of losing bytes.
            status |= STATUS_PAPER_OUT;
            status &= !(STATUS_NOT_BUSY | STATUS_SELECTED | STATUS_NO_ERROR);
        }
        if self.is_printer {
            let is_held = self.control & CONTROL_STROBE != 0 && self.is_listening();
            if is_held || self.control & CONTROL_NOT_INIT == 0 {
                status &= !STATUS_NOT_BUSY;
            }
            if std::mem::take(&mut self.is_acknowledging) {
                status &= !STATUS_NOT_ACK;
            }
        }
        if self.has_timed_out {
            status |= STATUS_TIME_OUT;
        } else if self.epp.is_some() {
            status &= !STATUS_TIME_OUT;
        }
        status
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        match (offset, self.epp) {
            (0, _) if self.is_input() => self.drive(),
            (0, _) => self.data,
            (1, _) => self.read_status(),
            (2, _) => self.control | !CONTROL_WRITABLE,
            (3, Some(EppPeer::Present)) => self.epp_address,
            (4..=7, Some(EppPeer::Present)) => self.drive(),
            (3..=7, Some(EppPeer::Absent)) => {
                self.has_timed_out = true;
                0xFF
            }
            _ => 0xFF,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        match (offset, self.epp) {
            (0, _) if self.ecp.as_ref().is_some_and(Ecp::takes_addresses) => {
                // The ECP address FIFO: a channel or a run length, which is no data.
            }
            (0, _) => self.data = value,
            // Chips differ in how the time-out is cleared: by a one, which is what drivers write, or by a read.
            (1, Some(_)) if value & STATUS_TIME_OUT != 0 => self.has_timed_out = false,
            (2, _) => self.write_control(value),
            (3, Some(EppPeer::Present)) => self.epp_address = value,
            (4..=7, Some(EppPeer::Present)) => self.sink.push(value),
            (3..=7, Some(EppPeer::Absent)) => self.has_timed_out = true,
            // Status is an input.
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8) {
        let before = self.control;
        self.control = value & CONTROL_WRITABLE;
        if self.ecp.as_ref().is_some_and(Ecp::is_forward_only) {
            self.turn_forward();
        }
        let rises = !before & value & CONTROL_STROBE != 0;
        let falls = before & !value & CONTROL_STROBE != 0;
        if !self.is_printer {
            if rises {
                self.take_data();
                self.acknowledge();
            }
            return;
        }
        if self.control & CONTROL_NOT_INIT == 0 {
            self.is_acknowledging = false;
        } else if self.is_listening() {
            if rises {
                self.take_data();
            } else if falls {
                self.is_acknowledging = true;
                self.acknowledge();
            }
        }
    }

    /// Whether a printer takes data.
    fn is_listening(&self) -> bool {
        let needed = CONTROL_NOT_INIT | CONTROL_SELECT_IN;
        self.control & needed == needed && !self.sink.has_failed()
    }

    fn take_data(&mut self) {
        // While the port is turned round nothing drives the lines, and pull-ups make them ones.
        let byte = if self.is_input() { 0xFF } else { self.data };
        self.sink.push(byte);
    }

    /// The end of nAck's pulse, which interrupts if the driver wants it.
    fn acknowledge(&self) {
        if self.control & CONTROL_INTERRUPT != 0
            && let Some(line) = &self.line
        {
            line.pulse();
        }
    }

    fn describe(&self) -> String {
        let model = if self.is_printer { "printer" } else { "lpt" };
        format!("{model} to {}", self.sink.name())
    }
}

impl PortDevice for Lpt {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut port = locked(&self.port);
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = port.read_register(offset + byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        let mut port = locked(&self.port);
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            port.write_register(offset + byte, source);
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        locked(&self.port).describe()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::new(StatusLines(Arc::clone(&self.port))))
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        let mut port = locked(&self.port);
        let description = port.describe();
        port.sink.flush(|| description)
    }

    fn second(&self) -> Option<Box<dyn PortDevice>> {
        let has_ecp = locked(&self.port).ecp.is_some();
        has_ecp.then(|| Box::new(EcpPort::new(Arc::clone(&self.port))) as Box<dyn PortDevice>)
    }
}

/// The lines that a printer drives.
#[derive(Debug)]
struct StatusLines(Arc<Mutex<Port>>);

/// Name, bit of the status register, whether the bit is 0 while the line is active.
const LINES: [(&str, u8, bool); 5] = [
    ("busy", STATUS_NOT_BUSY, true),
    ("ack", STATUS_NOT_ACK, true),
    ("paper-out", STATUS_PAPER_OUT, false),
    ("select", STATUS_SELECTED, false),
    ("error", STATUS_NO_ERROR, true),
];

impl Inputs for StatusLines {
    fn list(&self) -> Vec<Input> {
        let status = locked(&self.0).status;
        let lines = LINES.map(|(name, bit, is_inverse)| {
            let is_active = (status & bit != 0) != is_inverse;
            Input::new(name, u8::from(is_active), inputs::LINE)
        });
        let register = Input::new("status", format_args!("{status:#04x}"), inputs::BYTE);
        lines.into_iter().chain([register]).collect()
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        let mut port = locked(&self.0);
        let before = port.status;
        if key == "status" {
            port.status = inputs::byte(value)?;
        } else {
            let found = LINES.into_iter().find(|(name, ..)| *name == key);
            let (_, bit, is_inverse) = found.ok_or(InputError::Unknown)?;
            if inputs::line(value)? == is_inverse {
                port.status &= !bit;
            } else {
                port.status |= bit;
            }
        }
        if !before & port.status & STATUS_NOT_ACK != 0 {
            port.acknowledge();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
