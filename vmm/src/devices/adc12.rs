//! A 12-bit data acquisition card for the ISA bus, in the style of common lab boards: 16 analog inputs, two analog
//! outputs, 8 digital lines each way.
//!
//! | offset | read | write |
//! |---|---|---|
//! | 0 | result, low 8 bits | channel (bits 0-3) |
//! | 1 | result, high 4 bits (0-3); its channel (4-7) | starts a conversion, whatever the value |
//! | 2 | status: 7 busy, 6 done since the last read of offset 1, 0 interrupt enabled | control: 0 enables the interrupt |
//! | 3 | digital inputs | digital outputs |
//! | 4, 5 | what DAC 0 puts out: low 8, high 4 bits | DAC 0: low 8 bits are kept; high 4 bits, and the output changes |
//! | 6, 7 | the same of DAC 1 | the same |
//!
//! Channels 14 and 15 are wired to DAC 0 and 1, the others to the signal. While busy the result is the one before, and a
//! start is not heard. The interrupt is a pulse at the end of a conversion, from a thread of its own.

use std::fmt;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::output::OutputError;
use super::{Input, InputError, Inputs, PortDevice, inputs};
use crate::machine::InterruptLine;
use crate::policy::{AdcSpec, Shape, Wave};
use crate::ports::Width;

const FULL_SCALE: f64 = 4095.0;
const CHANNELS: u8 = 16;
/// Highest number of a table's values.
const VALUES_MAX: usize = 1 << 20;
/// Largest file of a table, in bytes.
const TABLE_MAX: u64 = 64 << 20;

/// Time since the start.
type Clock = Box<dyn Fn() -> Duration + Send>;

#[derive(Debug)]
enum Signal {
    Formula {
        shape: Shape,
        amplitude: f64,
        offset: f64,
        hertz: f64,
    },
    /// Rows of a table, a column for each channel, and each channel's next row.
    Table {
        rows: Vec<Vec<u16>>,
        next: [usize; CHANNELS as usize],
    },
}

/// What is wired to the card.
#[derive(Debug)]
struct Analog {
    signal: Signal,
    /// How the signal is written in a policy.
    wave: String,
    /// Channels that have a value of their own, in codes.
    fixed: [Option<u16>; WIRED as usize],
    digital_in: u8,
}

/// Channels that a signal can be wired to; the others have the DACs.
const WIRED: u8 = 14;
const CODE: &str = "a number from 0 to 4095, or \"wave\" for the signal";
const WAVE: &str = "sine, square, triangle or ramp, then such as amplitude=1000 frequency=50 offset=2048; or csv:PATH";

impl Analog {
    fn sample(&mut self, channel: u8, now: Duration) -> u16 {
        match self.fixed.get(usize::from(channel)) {
            Some(Some(code)) => *code,
            _ => self.signal.sample(channel, now),
        }
    }
}

impl Inputs for Mutex<Analog> {
    fn list(&self) -> Vec<Input> {
        let analog = locked(self);
        let channels = (0..WIRED).zip(analog.fixed).map(|(channel, fixed)| {
            let value = fixed.map_or_else(|| "wave".to_owned(), |code| code.to_string());
            Input::new(&format!("channel{channel}"), value, CODE)
        });
        let rest = [
            Input::new("wave", &analog.wave, WAVE),
            Input::new(
                "digital-inputs",
                format_args!("{:#04x}", analog.digital_in),
                inputs::BYTE,
            ),
        ];
        channels.chain(rest).collect()
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        if key == "wave" {
            let wave = crate::policy::parse_wave(value).ok_or(InputError::Value(WAVE))?;
            // A file is read before anybody has to wait.
            let signal = Signal::new(&wave)
                .map_err(|_| InputError::Value("a csv: file that can be read and has numbers"))?;
            let mut analog = locked(self);
            analog.signal = signal;
            value.clone_into(&mut analog.wave);
            return Ok(());
        }
        if key == "digital-inputs" {
            locked(self).digital_in = inputs::byte(value)?;
            return Ok(());
        }
        let channel = key
            .strip_prefix("channel")
            .and_then(|channel| channel.parse::<usize>().ok());
        let mut analog = locked(self);
        let fixed = channel.and_then(|channel| analog.fixed.get_mut(channel));
        let fixed = fixed.ok_or(InputError::Unknown)?;
        *fixed = match value {
            "wave" => None,
            code => {
                let code = inputs::number(code, 4095, CODE)?;
                Some(u16::try_from(code).unwrap_or(4095))
            }
        };
        Ok(())
    }
}

fn locked(analog: &Mutex<Analog>) -> MutexGuard<'_, Analog> {
    analog.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The card.
pub struct Adc12 {
    analog: Arc<Mutex<Analog>>,
    clock: Clock,
    conversion: Duration,
    channel: u8,
    is_interrupting: bool,
    /// When the conversion under way ends, its value and channel.
    under_way: Option<(Duration, u16, u8)>,
    result: (u16, u8),
    is_done: bool,
    digital_out: u8,
    dac_low: [u8; 2],
    dacs: [u16; 2],
    /// Ends of conversions, to the thread that interrupts.
    ends: Option<Sender<Instant>>,
}

impl fmt::Debug for Adc12 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adc12")
            .field("channel", &self.channel)
            .field("under_way", &self.under_way)
            .field("result", &self.result)
            .field("digital_out", &self.digital_out)
            .finish_non_exhaustive()
    }
}

impl Adc12 {
    /// Reads the signal's table, if it is one, and starts the interrupt's thread, if there is a line.
    ///
    /// # Errors
    /// [`OutputError`] when the table cannot be read, or the thread cannot be started.
    pub fn open(spec: &AdcSpec, line: Option<InterruptLine>) -> Result<Self, OutputError> {
        let start = Instant::now();
        let mut card = Self::with_clock(spec, Box::new(move || start.elapsed()))?;
        let Some(line) = line else { return Ok(card) };
        let (ends, inbox) = channel::<Instant>();
        std::thread::Builder::new()
            .name("adc12".to_owned())
            .spawn(move || {
                while let Ok(end) = inbox.recv() {
                    crate::machine::processor_share::pay();
                    std::thread::sleep(end.saturating_duration_since(Instant::now()));
                    line.pulse();
                }
            })
            .map_err(|source| OutputError {
                path: "adc12".to_owned(),
                source,
            })?;
        card.ends = Some(ends);
        Ok(card)
    }

    fn with_clock(spec: &AdcSpec, clock: Clock) -> Result<Self, OutputError> {
        let analog = Analog {
            signal: Signal::new(&spec.wave)?,
            wave: spec.wave.to_string(),
            fixed: [None; WIRED as usize],
            digital_in: spec.digital_in,
        };
        Ok(Self {
            analog: Arc::new(Mutex::new(analog)),
            clock,
            conversion: Duration::from_micros(spec.conversion_micros.into()),
            channel: 0,
            is_interrupting: false,
            under_way: None,
            result: (0, 0),
            is_done: false,
            digital_out: 0,
            dac_low: [0; 2],
            dacs: [0; 2],
            ends: None,
        })
    }

    /// The conversion under way ends if it is time.
    fn settle(&mut self) {
        if let Some((end, value, channel)) = self.under_way
            && (self.clock)() >= end
        {
            self.result = (value, channel);
            self.is_done = true;
            self.under_way = None;
        }
    }

    fn start(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        let now = (self.clock)();
        let value = match self.channel {
            14 => self.dacs[0],
            15 => self.dacs[1],
            channel => locked(&self.analog).sample(channel, now),
        };
        self.is_done = false;
        self.under_way = Some((now + self.conversion, value, self.channel));
        if let (true, Some(ends)) = (self.is_interrupting, &self.ends) {
            // The thread lives as long as the sender.
            let _ = ends.send(Instant::now() + self.conversion).is_ok();
        }
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        self.settle();
        let (value, channel) = self.result;
        let [low, high] = value.to_le_bytes();
        match offset {
            0 => low,
            1 => {
                self.is_done = false;
                high | channel << 4
            }
            2 => {
                u8::from(self.under_way.is_some()) << 7
                    | u8::from(self.is_done) << 6
                    | u8::from(self.is_interrupting)
            }
            3 => locked(&self.analog).digital_in,
            4 | 6 => self.dacs[usize::from(offset - 4) / 2].to_le_bytes()[0],
            5 | 7 => self.dacs[usize::from(offset - 4) / 2].to_le_bytes()[1],
            _ => 0xFF,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        self.settle();
        match offset {
            0 => self.channel = value & (CHANNELS - 1),
            1 => self.start(),
            2 => self.is_interrupting = value & 1 != 0,
            3 => self.digital_out = value,
            4 | 6 => self.dac_low[usize::from(offset - 4) / 2] = value,
            5 | 7 => {
                let dac = usize::from(offset - 4) / 2;
                self.dacs[dac] = u16::from_le_bytes([self.dac_low[dac], value & 0xF]);
            }
            _ => {}
        }
    }
}

impl Signal {
    fn new(wave: &Wave) -> Result<Self, OutputError> {
        Ok(match wave {
            Wave::Formula {
                shape,
                amplitude,
                offset,
                millihertz,
            } => Self::Formula {
                shape: *shape,
                amplitude: f64::from(*amplitude),
                offset: f64::from(*offset),
                hertz: f64::from(*millihertz) / 1000.0,
            },
            Wave::Csv(path) => {
                let failed = |source| OutputError {
                    path: path.display().to_string(),
                    source,
                };
                let bytes = crate::input_file::read(path, TABLE_MAX).map_err(failed)?;
                let text = String::from_utf8(bytes)
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
                Self::Table {
                    rows: table(&text).map_err(failed)?,
                    next: [0; CHANNELS as usize],
                }
            }
        })
    }

    fn sample(&mut self, channel: u8, now: Duration) -> u16 {
        match self {
            Self::Formula {
                shape,
                amplitude,
                offset,
                hertz,
            } => {
                let phase = (now.as_secs_f64() * *hertz).fract();
                to_code(*offset + *amplitude * shape_at(*shape, phase))
            }
            Self::Table { rows, next } => {
                let Some(next) = next.get_mut(usize::from(channel)) else {
                    return 0;
                };
                let row = rows.get(*next).or_else(|| rows.first());
                *next = (*next + 1) % rows.len().max(1);
                // A channel without a column has the last one.
                let value =
                    row.and_then(|row| row.get(usize::from(channel)).or_else(|| row.last()));
                value.copied().unwrap_or(0)
            }
        }
    }
}

/// -1 to 1; `phase` is 0 to 1.
fn shape_at(shape: Shape, phase: f64) -> f64 {
    match shape {
        Shape::Sine => (phase * std::f64::consts::TAU).sin(),
        Shape::Square if phase < 0.5 => 1.0,
        Shape::Square => -1.0,
        Shape::Triangle if phase < 0.25 => 4.0 * phase,
        Shape::Triangle if phase < 0.75 => 2.0 - 4.0 * phase,
        Shape::Triangle => 4.0 * phase - 4.0,
        Shape::Ramp => 2.0 * phase - 1.0,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to 0 to 4095"
)]
fn to_code(value: f64) -> u16 {
    value.round().clamp(0.0, FULL_SCALE) as u16
}

/// Numbers separated by commas, a row a line; lines that begin with `#` are for readers.
fn table(text: &str) -> io::Result<Vec<Vec<u16>>> {
    let invalid = |line: usize, what: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: {what}"))
    };
    let mut rows = Vec::new();
    let mut count = 0;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut row = Vec::new();
        for cell in line.split(',') {
            let value: f64 = cell
                .trim()
                .parse()
                .map_err(|_| invalid(number, "a value is no number"))?;
            if !value.is_finite() {
                return Err(invalid(number, "a value is no number"));
            }
            row.push(to_code(value));
        }
        count += row.len();
        if count > VALUES_MAX {
            return Err(invalid(number, "more than 1048576 values"));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(invalid(1, "there are no values"));
    }
    Ok(rows)
}

impl PortDevice for Adc12 {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = self.read_register(offset + byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            self.write_register(offset + byte, source);
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "adc12".to_owned()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::clone(&self.analog) as Arc<dyn Inputs>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::InterruptLines;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn spec(wave: Wave) -> AdcSpec {
        AdcSpec {
            irq: None,
            wave,
            conversion_micros: 10,
            digital_in: 0x3C,
        }
    }

    fn formula(shape: Shape) -> Wave {
        Wave::Formula {
            shape,
            amplitude: 1000,
            offset: 2048,
            millihertz: 1000,
        }
    }

    fn card(wave: Wave) -> (Adc12, Arc<AtomicU64>) {
        let micros = Arc::new(AtomicU64::new(0));
        let time = Arc::clone(&micros);
        let clock = move || Duration::from_micros(time.load(Ordering::Relaxed));
        (
            Adc12::with_clock(&spec(wave), Box::new(clock)).unwrap(),
            micros,
        )
    }

    fn convert(card: &mut Adc12, time: &AtomicU64, channel: u32) -> u32 {
        card.write(0, Width::Byte, channel);
        card.write(1, Width::Byte, 0);
        time.fetch_add(10, Ordering::Relaxed);
        card.read(0, Width::Word)
    }

    #[test]
    fn conversion_takes_its_time_and_says_when_it_is_done() {
        let (mut card, time) = card(formula(Shape::Square));
        assert_eq!(card.read(2, Width::Byte), 0);
        card.write(0, Width::Byte, 0xF3);
        card.write(1, Width::Byte, 0);
        assert_eq!(card.read(2, Width::Byte), 0x80);
        assert_eq!(card.read(0, Width::Word), 0, "the result before");
        time.store(9, Ordering::Relaxed);
        card.write(0, Width::Byte, 5);
        card.write(1, Width::Byte, 0);
        time.store(10, Ordering::Relaxed);
        assert_eq!(card.read(2, Width::Byte), 0x40);
        assert_eq!(card.read(0, Width::Word), 0x3000 | 3048);
        assert_eq!(card.read(2, Width::Byte), 0);
    }

    #[test]
    fn waveforms_at_their_quarters() {
        for (shape, expected) in [
            (Shape::Sine, [2048, 3048, 2048, 1048]),
            (Shape::Square, [3048, 3048, 1048, 1048]),
            (Shape::Triangle, [2048, 3048, 2048, 1048]),
            (Shape::Ramp, [1048, 1548, 2048, 2548]),
        ] {
            let (mut card, time) = card(formula(shape));
            let found = [0, 250_000, 500_000, 750_000].map(|micros| {
                time.store(micros, Ordering::Relaxed);
                convert(&mut card, &time, 0)
            });
            assert_eq!(found, expected, "{shape:?}");
        }
    }

    #[test]
    fn dacs_are_wired_to_the_last_channels() {
        let (mut card, time) = card(formula(Shape::Sine));
        card.write(4, Width::Byte, 0xBC);
        assert_eq!(card.read(4, Width::Word), 0, "not before the high byte");
        card.write(5, Width::Byte, 0xFA);
        card.write(6, Width::Word, 0x0123);
        assert_eq!(card.read(4, Width::Dword), 0x0123_0ABC);
        assert_eq!(convert(&mut card, &time, 14), 0xEABC);
        assert_eq!(convert(&mut card, &time, 15), 0xF123);
        card.write(3, Width::Byte, 0x81);
        assert_eq!(card.read(3, Width::Byte), 0x3C);
    }

    #[test]
    fn table_has_a_column_a_channel_and_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wave.csv");
        std::fs::write(&path, "# volts\n1, 10\n2,9999\n\n-3,0.6\n").unwrap();
        let (mut card, time) = card(Wave::Csv(path.clone()));
        let found = [0, 1, 1, 0, 0, 0, 2].map(|channel| convert(&mut card, &time, channel) & 0xFFF);
        assert_eq!(found, [1, 10, 4095, 2, 0, 1, 10]);
        for (text, message) in [("", "no values"), ("1\nx", "line 2"), ("inf", "line 1")] {
            std::fs::write(&path, text).unwrap();
            let error = Adc12::open(&spec(Wave::Csv(path.clone())), None).unwrap_err();
            assert!(
                error.source.to_string().contains(message),
                "{}",
                error.source
            );
        }
    }

    #[test]
    fn signals_are_changed_from_outside() {
        let (mut card, time) = card(formula(Shape::Sine));
        let inputs = card.inputs().unwrap();
        inputs.set("channel3", "0x123").unwrap();
        inputs.set("digital-inputs", "0xaa").unwrap();
        assert_eq!(convert(&mut card, &time, 3), 0x3123);
        assert_eq!(convert(&mut card, &time, 4) & 0xFFF, 2048);
        assert_eq!(card.read(3, Width::Byte), 0xAA);
        inputs
            .set("wave", "square amplitude=1 offset=100 frequency=1")
            .unwrap();
        time.store(0, Ordering::Relaxed);
        assert_eq!(convert(&mut card, &time, 4) & 0xFFF, 101);
        inputs.set("channel3", "wave").unwrap();
        assert_eq!(convert(&mut card, &time, 3) & 0xFFF, 101);
        let list = inputs.list();
        assert_eq!(list.len(), 16);
        assert_eq!(list[14].value, "square amplitude=1 offset=100 frequency=1");
        for (key, value) in [
            ("channel14", "1"),
            ("channelx", "1"),
            ("wav", "sine"),
            ("channel0", "4096"),
            ("wave", "sinus"),
            ("wave", "csv:/nonexistent"),
        ] {
            assert!(inputs.set(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn end_of_conversion_interrupts_if_enabled() {
        let lines = InterruptLines::default();
        let mut card = Adc12::open(&spec(formula(Shape::Ramp)), lines.line(5)).unwrap();
        card.write(2, Width::Byte, 1);
        card.write(1, Width::Byte, 0);
        let start = Instant::now();
        while !lines.is_wanted() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(card.read(2, Width::Byte), 0x41);
    }
}
