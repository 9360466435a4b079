//! A 16550A UART, after National Semiconductor's PC16550D data sheet: registers, 16-byte FIFOs, loop back, modem
//! status and interrupt priorities. The rust-vmm serial device has no FIFO control, trigger levels, overruns or modem
//! interrupts, and its interrupt is an edge, so this is a model of its own.
//!
//! | offset | DLAB | read | write |
//! |---|---|---|---|
//! | 0 | 0 | receiver buffer | transmitter holding register |
//! | 1 | 0 | interrupt enable | the same: 0 data, 1 transmitter, 2 line status, 3 modem status |
//! | 0, 1 | 1 | divisor | the same |
//! | 2 | | interrupt identification | FIFO control: 0 enable, 1 clear receiver, 2 clear transmitter, 6-7 trigger level |
//! | 3 | | line control | the same; 7 DLAB |
//! | 4 | | modem control | the same: 0 DTR, 1 RTS, 2 OUT1, 3 OUT2, 4 loop |
//! | 5 | | line status | dropped |
//! | 6 | | modem status | dropped |
//! | 7 | | scratch | the same |
//!
//! A byte is sent the moment that it is written, so the transmitter is always empty; the line's speed is not modelled.
//! As on a PC, the interrupt reaches its line while OUT2 is set; it is a level.

use std::collections::VecDeque;

use crate::machine::InterruptLine;

/// Bytes of the receiver's FIFO.
const FIFO_BYTES: usize = 16;

const IER_DATA: u8 = 1 << 0;
const IER_TRANSMITTER: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_TRANSMITTER: u8 = 0x02;
const IIR_DATA: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIME_OUT: u8 = 0x0C;
const IIR_FIFOS: u8 = 0xC0;
const LCR_DLAB: u8 = 1 << 7;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER: u8 = 0x60;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// The chip.
#[derive(Debug)]
pub(super) struct Chip {
    line: Option<InterruptLine>,
    is_asserted: bool,
    received: VecDeque<u8>,
    /// What has come from outside and waits for room in the FIFO: a peer with flow control.
    waiting: VecDeque<u8>,
    is_overrun: bool,
    is_transmitter_pending: bool,
    interrupt_enable: u8,
    has_fifos: bool,
    trigger: usize,
    line_control: u8,
    modem_control: u8,
    /// Bits 4-7 as of the last change; their changes are in `modem_changes`, bits 0-3.
    modem_lines: u8,
    modem_changes: u8,
    scratch: u8,
    divisor: [u8; 2],
    is_peer_there: bool,
    /// Modem lines that somebody holds, whatever the peer does, and what they are.
    held: u8,
    held_lines: u8,
}

/// The lines of the modem status register by name.
pub(super) const MODEM_LINES: [(&str, u8); 4] = [
    ("cts", MSR_CTS),
    ("dsr", MSR_DSR),
    ("ri", MSR_RI),
    ("dcd", MSR_DCD),
];

impl Chip {
    pub(super) fn new(line: Option<InterruptLine>, is_peer_there: bool) -> Self {
        let mut chip = Self {
            line,
            is_asserted: false,
            received: VecDeque::new(),
            waiting: VecDeque::new(),
            is_overrun: false,
            is_transmitter_pending: false,
            interrupt_enable: 0,
            has_fifos: false,
            trigger: 1,
            line_control: 0,
            modem_control: 0,
            modem_lines: 0,
            modem_changes: 0,
            scratch: 0,
            divisor: [0x0C, 0],
            is_peer_there,
            held: 0,
            held_lines: 0,
        };
        chip.modem_lines = chip.modem_inputs();
        chip
    }

    /// Bytes from the peer. They wait outside until there is room: a peer looks at RTS.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        self.fill();
        self.update();
    }

    /// How many bytes wait for the driver.
    pub(super) fn backlog(&self) -> usize {
        self.waiting.len() + self.received.len()
    }

    /// The peer has come or gone: carrier, data set ready, clear to send.
    pub(super) fn set_peer(&mut self, is_there: bool) {
        self.is_peer_there = is_there;
        self.update();
    }

    /// Holds a modem line on or off; `None`: it is the peer's again.
    pub(super) fn hold(&mut self, line: u8, is_on: Option<bool>) {
        self.held &= !line;
        self.held_lines &= !line;
        if let Some(is_on) = is_on {
            self.held |= line;
            self.held_lines |= if is_on { line } else { 0 };
        }
        self.update();
    }

    /// Whether a modem line is held, and how.
    pub(super) fn held(&self, line: u8) -> Option<bool> {
        (self.held & line != 0).then_some(self.held_lines & line != 0)
    }

    /// Reads a register.
    pub(super) fn read(&mut self, offset: u16) -> u8 {
        let has_dlab = self.line_control & LCR_DLAB != 0;
        let value = match offset {
            0 if has_dlab => self.divisor[0],
            1 if has_dlab => self.divisor[1],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => self.identify(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => self.take_line_status(),
            6 => self.modem_lines | std::mem::take(&mut self.modem_changes),
            7 => self.scratch,
            _ => 0xFF,
        };
        self.fill();
        self.update();
        value
    }

    /// Writes a register; `Some` is a byte that leaves the chip.
    pub(super) fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let has_dlab = self.line_control & LCR_DLAB != 0;
        let mut sent = None;
        match offset {
            0 if has_dlab => self.divisor[0] = value,
            1 if has_dlab => self.divisor[1] = value,
            0 => {
                // Writing clears the interrupt, and as the byte leaves at once it is due again.
                self.is_transmitter_pending = true;
                if self.modem_control & MCR_LOOP != 0 {
                    self.arrive(value);
                } else {
                    sent = Some(value);
                }
            }
            1 => {
                let enabled = !self.interrupt_enable & value;
                self.interrupt_enable = value & 0x0F;
                self.is_transmitter_pending |= enabled & IER_TRANSMITTER != 0;
            }
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => self.modem_control = value & 0x1F,
            7 => self.scratch = value,
            _ => {}
        }
        self.fill();
        self.update();
        sent
    }

    fn write_fifo_control(&mut self, value: u8) {
        let has_fifos = value & 1 != 0;
        // The other bits count only while bit 0 is set; changing it clears both FIFOs.
        if has_fifos != self.has_fifos || (has_fifos && value & 2 != 0) {
            self.received.clear();
        }
        self.has_fifos = has_fifos;
        self.trigger = match (has_fifos, value >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        };
    }

    fn capacity(&self) -> usize {
        if self.has_fifos { FIFO_BYTES } else { 1 }
    }

    /// A byte on the receiver's line, whether there is room or not.
    fn arrive(&mut self, byte: u8) {
        if self.received.len() < self.capacity() {
            self.received.push_back(byte);
            return;
        }
        self.is_overrun = true;
        if !self.has_fifos {
            // Without FIFOs the new one destroys the old one.
            self.received.clear();
            self.received.push_back(byte);
        }
    }

    /// Takes what waits as long as there is room. In loop mode the receiver's line is cut off.
    fn fill(&mut self) {
        while self.modem_control & MCR_LOOP == 0 && self.received.len() < self.capacity() {
            let Some(byte) = self.waiting.pop_front() else {
                return;
            };
            self.received.push_back(byte);
        }
    }

    fn take_line_status(&mut self) -> u8 {
        let mut status = LSR_TRANSMITTER;
        if !self.received.is_empty() {
            status |= LSR_DATA;
        }
        if std::mem::take(&mut self.is_overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    fn modem_inputs(&self) -> u8 {
        if self.modem_control & MCR_LOOP == 0 {
            let peer = if self.is_peer_there {
                MSR_CTS | MSR_DSR | MSR_DCD
            } else {
                0
            };
            return peer & !self.held | self.held_lines;
        }
        // RTS is CTS, DTR is DSR, OUT1 is RI, OUT2 is DCD.
        let mut lines = 0;
        for (control, line) in [(1, MSR_DSR), (2, MSR_CTS), (4, MSR_RI), (8, MSR_DCD)] {
            if self.modem_control & control != 0 {
                lines |= line;
            }
        }
        lines
    }

    /// The interrupt of highest priority; bits 0-3.
    fn pending(&self) -> u8 {
        let is_enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if is_enabled(IER_LINE) && self.is_overrun {
            IIR_LINE
        } else if is_enabled(IER_DATA) && self.received.len() >= self.trigger {
            IIR_DATA
        } else if is_enabled(IER_DATA) && !self.received.is_empty() {
            // Bytes below the trigger level: the line is silent, as far as this model has time.
            IIR_TIME_OUT
        } else if is_enabled(IER_TRANSMITTER) && self.is_transmitter_pending {
            IIR_TRANSMITTER
        } else if is_enabled(IER_MODEM) && self.modem_changes != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        if pending == IIR_TRANSMITTER {
            self.is_transmitter_pending = false;
        }
        pending | if self.has_fifos { IIR_FIFOS } else { 0 }
    }

    /// Modem lines, and the interrupt's level.
    fn update(&mut self) {
        let lines = self.modem_inputs();
        let changed = lines ^ self.modem_lines;
        // RI's change counts at its end alone.
        let is_ring_over = changed & MSR_RI != 0 && lines & MSR_RI == 0;
        for (line, delta) in [(MSR_CTS, 1), (MSR_DSR, 2), (MSR_DCD, 8)] {
            if changed & line != 0 {
                self.modem_changes |= delta;
            }
        }
        if is_ring_over {
            self.modem_changes |= 4;
        }
        self.modem_lines = lines;
        // In loop mode OUT2's pin is inactive.
        let reaches = self.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        let is_asserted = reaches && self.pending() != IIR_NONE;
        if let Some(line) = &self.line
            && is_asserted != self.is_asserted
        {
            if is_asserted {
                line.assert();
            } else {
                line.deassert();
            }
        }
        self.is_asserted = is_asserted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::InterruptLines;

    fn chip() -> (Chip, InterruptLines) {
        let lines = InterruptLines::default();
        (Chip::new(lines.line(4), true), lines)
    }

    #[test]
    fn registers_after_reset_and_divisor_latch() {
        let (mut chip, _) = chip();
        assert_eq!((chip.read(1), chip.read(2), chip.read(5)), (0, 1, 0x60));
        assert_eq!(chip.read(6), 0xB0);
        chip.write(7, 0x5A);
        assert_eq!(chip.read(7), 0x5A);
        chip.write(3, 0x83);
        chip.write(0, 0x01);
        chip.write(1, 0x02);
        assert_eq!((chip.read(0), chip.read(1)), (1, 2));
        chip.write(3, 0x03);
        assert_eq!(
            chip.read(1),
            0,
            "the divisor is not the interrupt enable register"
        );
        assert_eq!(chip.write(0, b'x'), Some(b'x'));
    }

    #[test]
    fn interrupts_have_their_priorities_and_are_acknowledged_one_by_one() {
        let (mut chip, lines) = chip();
        chip.write(2, 0x01);
        chip.write(1, 0x0F);
        assert!(!lines.is_wanted(), "OUT2 gates the line");
        chip.write(4, 0x08);
        assert!(lines.is_wanted());
        chip.set_peer(false);
        chip.receive(b"ab");
        assert_eq!(chip.read(2), 0xC4);
        assert_eq!((chip.read(0), chip.read(0)), (b'a', b'b'));
        assert_eq!(chip.read(2), 0xC2, "transmitter");
        assert_eq!(chip.read(2), 0xC0, "modem status");
        assert_eq!(chip.read(6), 0x0B);
        assert_eq!(chip.read(2), 0xC1);
        assert!(!chip.is_asserted);
        chip.write(0, 1);
        assert!(chip.is_asserted, "empty again");
    }

    #[test]
    fn loop_back_returns_data_and_modem_lines_and_overruns() {
        let (mut chip, _) = chip();
        chip.write(4, 0x10);
        assert_eq!(chip.read(6) & 0xF0, 0);
        for (control, status) in [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80)] {
            chip.write(4, control);
            assert_eq!(chip.read(6) & 0xF0, status, "{control:#x}");
        }
        assert_eq!(chip.write(0, 0xA5), None);
        assert_eq!(
            (chip.read(5), chip.read(0), chip.read(5)),
            (0x61, 0xA5, 0x60)
        );
        chip.write(1, 0x04);
        chip.write(0, 1);
        chip.write(0, 2);
        assert_eq!(chip.read(2), 0x06, "line status");
        assert_eq!(chip.read(5), 0x63);
        assert_eq!(
            (chip.read(0), chip.read(5)),
            (2, 0x60),
            "the old byte is lost"
        );
        chip.write(2, 1);
        for byte in 0..20 {
            assert_eq!(chip.write(0, byte), None);
        }
        assert_eq!(chip.read(5), 0x63);
        for byte in 0..16 {
            assert_eq!(chip.read(0), byte);
        }
        assert_eq!(chip.read(5), 0x60, "the new bytes are lost");
    }

    #[test]
    fn trigger_level_tells_data_from_time_out_and_bytes_wait_for_room() {
        let (mut chip, _) = chip();
        chip.write(2, 0x81);
        chip.write(1, 0x01);
        chip.receive(&[7; 7]);
        assert_eq!(chip.read(2), 0xCC, "below the level of 8");
        chip.receive(&(0..30).collect::<Vec<u8>>());
        assert_eq!(chip.read(2), 0xC4);
        assert_eq!(chip.backlog(), 37);
        for _ in 0..7 {
            chip.read(0);
        }
        let rest: Vec<u8> = (0..30).map(|_| chip.read(0)).collect();
        assert_eq!(rest, (0..30).collect::<Vec<u8>>(), "nothing is lost");
        chip.receive(&[1; 3]);
        chip.write(2, 0x03);
        assert_eq!(chip.read(5), 0x60, "cleared");
    }
}
