//! Device models of `[[port]]` rules, as data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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

/// What is at the other end of a UART's line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UartLink {
    /// Something that only takes bytes.
    Output(DeviceOutput),
    /// The VMM's standard input and output (`"stdio"`).
    Stdio,
    /// A pseudo terminal (`"pty"`).
    Pty,
    /// One client at a time, on 127.0.0.1 (`"tcp:PORT"`; 0: a free one, which the log tells).
    Tcp(u16),
}

/// A `uart16550`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UartSpec {
    /// The line.
    pub link: UartLink,
    /// What has been received at start.
    pub input: Vec<u8>,
    /// The interrupt line.
    pub irq: Option<u32>,
}

/// A CMOS clock, `rtc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RtcSpec {
    /// Its time minus the machine's UTC, in seconds.
    pub offset: i64,
    /// Where bytes 14 to 127 are kept.
    pub nvram: Option<PathBuf>,
    /// The interrupt line of the periodic, alarm and update interrupts.
    pub irq: Option<u32>,
}

/// A waveform's shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// From the middle up.
    Sine,
    /// High for the first half.
    Square,
    /// From the middle up.
    Triangle,
    /// From the bottom up, then down at once.
    Ramp,
}

/// What an analog input sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wave {
    /// `offset` + `amplitude` times the shape, in codes of the converter, cut at 0 and 4095.
    Formula {
        /// Its shape.
        shape: Shape,
        /// From the middle to the top.
        amplitude: u16,
        /// The middle.
        offset: u16,
        /// Frequency in thousandths of a hertz.
        millihertz: u32,
    },
    /// A table: a row for each conversion of a channel, a column for each channel.
    Csv(PathBuf),
}

impl fmt::Display for Wave {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Formula {
                shape,
                amplitude,
                offset,
                millihertz,
            } => {
                let shape = match shape {
                    Shape::Sine => "sine",
                    Shape::Square => "square",
                    Shape::Triangle => "triangle",
                    Shape::Ramp => "ramp",
                };
                write!(
                    formatter,
                    "{shape} amplitude={amplitude} offset={offset} frequency={}.{:03}",
                    millihertz / 1000,
                    millihertz % 1000
                )
            }
            Self::Csv(path) => write!(formatter, "csv:{}", path.display()),
        }
    }
}

/// An `adc12`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdcSpec {
    /// The interrupt line of the end of a conversion.
    pub irq: Option<u32>,
    /// The signal at channels 0 to 13.
    pub wave: Wave,
    /// How long a conversion takes.
    pub conversion_micros: u32,
    /// The digital inputs.
    pub digital_in: u8,
}

/// An `external` model: a process of its own. It has a socket, a command, or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalSpec {
    /// Where it listens. Without: the command's standard input is the connection.
    pub socket: Option<PathBuf>,
    /// The program that is started, and its arguments.
    pub command: Option<Vec<String>>,
    /// How long it may take for an answer.
    pub answer_limit: Duration,
    /// The interrupt line.
    pub irq: Option<u32>,
    /// Whether it may be a bus master.
    pub has_dma: bool,
}

impl fmt::Display for ExternalSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "external model ")?;
        match (&self.socket, &self.command) {
            (Some(socket), _) => write!(formatter, "at {}", socket.display()),
            (None, Some(words)) => write!(formatter, "{}", words.join(" ")),
            (None, None) => Ok(()),
        }
    }
}

/// A model with registers of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceSpec {
    /// A serial port.
    Uart(UartSpec),
    /// A CMOS clock.
    Rtc(RtcSpec),
    /// A data acquisition card.
    Adc(AdcSpec),
    /// A process of its own.
    External(ExternalSpec),
    /// An interval timer.
    Pit {
        /// The port of the speaker's gate.
        speaker: Option<u16>,
        /// The interrupt line of counter 0.
        irq: Option<u32>,
    },
    /// A game port.
    Gameport {
        /// Positions of the four potentiometers, 0 to 255.
        axes: [u8; 4],
        /// Buttons that are pressed, bits 0-3.
        buttons: u8,
    },
    /// An 8255 with what is at its three ports.
    Pio {
        /// Ports A, B and C, as far as they are inputs.
        inputs: [u8; 3],
        /// Whether port A's lines are wired to port B's.
        is_looped: bool,
    },
    /// No model: a parallel port of the machine's, through the kernel's driver.
    Ppdev {
        /// /dev/parportN.
        device: PathBuf,
        /// Whether no other program may share it.
        is_exclusive: bool,
    },
}

impl DeviceSpec {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Uart(_) => "uart16550",
            Self::Rtc(_) => "rtc",
            Self::Adc(_) => "adc12",
            Self::External(_) => "external",
            Self::Pit { .. } => "pit",
            Self::Gameport { .. } => "gameport",
            Self::Pio { .. } => "pio8255",
            Self::Ppdev { .. } => "ppdev",
        }
    }
}
