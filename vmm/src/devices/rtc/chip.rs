//! The chip's registers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::date::Date;
use crate::devices::DeviceError;
use crate::devices::output::OutputError;
use crate::observe::own_file;
use crate::policy::RtcSpec;
use crate::ports::Width;

const BYTES: usize = 128;
/// The first byte that is memory.
const MEMORY: usize = 14;
const A: usize = 10;
const B: usize = 11;
const C: usize = 12;
const D: usize = 13;
const CENTURY: usize = 0x32;
const A_UIP: u8 = 1 << 7;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24: u8 = 1 << 1;
const C_PERIODIC: u8 = 1 << 6;
const C_ALARM: u8 = 1 << 5;
const C_UPDATE: u8 = 1 << 4;
const C_INTERRUPT: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
const PM: u8 = 1 << 7;
/// An alarm byte from here on matches always.
const ANY: u8 = 0xC0;
pub(super) const SECOND: i64 = 1_000_000;
/// How long before the second's end an update is announced, and how long it takes at most, in microseconds.
pub(super) const UPDATE: i64 = 244 + 1984;

/// Microseconds since 1970, UTC.
pub(super) type Clock = Box<dyn Fn() -> i64 + Send>;

/// Its registers.
pub(super) struct Chip {
    bytes: [u8; BYTES],
    index: usize,
    clock: Clock,
    /// Its time minus the host's, in microseconds.
    pub(super) offset: i64,
    /// The time while SET is on.
    frozen: Option<Date>,
    /// When register C was last read.
    pub(super) looked_at: i64,
    /// The memory's file, this clock's alone, and its path.
    nvram: Option<(File, PathBuf)>,
    is_dirty: bool,
    failure: Option<String>,
}

impl fmt::Debug for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chip")
            .field("index", &self.index)
            .field("offset", &self.offset)
            .field("nvram", &self.nvram)
            .finish_non_exhaustive()
    }
}

pub(super) fn host_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

impl Chip {
    pub(super) fn open(spec: &RtcSpec) -> Result<Self, OutputError> {
        let mut rtc = Self::with_clock(spec.offset, Box::new(host_clock));
        if let Some(path) = &spec.nvram {
            let file = rtc.load(path).map_err(|source| OutputError {
                path: path.display().to_string(),
                source,
            })?;
            rtc.nvram = Some((file, path.clone()));
        }
        Ok(rtc)
    }

    /// Opens the memory's file, and takes what it has.
    fn load(&mut self, path: &Path) -> io::Result<File> {
        let file = own_file::keep(path)?;
        let mut found = Vec::new();
        (&file).take(BYTES as u64).read_to_end(&mut found)?;
        for (byte, found) in self.bytes[MEMORY..].iter_mut().zip(found) {
            *byte = found;
        }
        Ok(file)
    }

    pub(super) fn with_clock(offset_seconds: i64, clock: Clock) -> Self {
        let mut bytes = [0; BYTES];
        bytes[A] = 0x26;
        bytes[B] = B_24;
        let mut rtc = Self {
            bytes,
            index: D,
            clock,
            offset: offset_seconds.saturating_mul(SECOND),
            frozen: None,
            looked_at: 0,
            nvram: None,
            is_dirty: false,
            failure: None,
        };
        rtc.looked_at = rtc.now();
        rtc
    }

    /// The clock's time in microseconds.
    pub(super) fn now(&self) -> i64 {
        (self.clock)().saturating_add(self.offset)
    }

    pub(super) fn date(&self) -> Date {
        self.frozen
            .unwrap_or_else(|| Date::from_seconds(self.now().div_euclid(SECOND)))
    }

    pub(super) fn has(&self, bit: u8) -> bool {
        self.bytes[B] & bit != 0
    }

    pub(super) fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        if self.has(B_BINARY) {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    pub(super) fn decode(&self, byte: u8) -> i64 {
        i64::from(if self.has(B_BINARY) {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xF)
        })
    }

    pub(super) fn encode_hour(&self, hour: i64) -> u8 {
        if self.has(B_24) {
            return self.encode(hour);
        }
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(half) | if hour >= 12 { PM } else { 0 }
    }

    pub(super) fn decode_hour(&self, byte: u8) -> i64 {
        if self.has(B_24) {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM == 0 { 0 } else { 12 }
    }

    pub(super) fn read_data(&mut self) -> u8 {
        let date = self.date();
        match self.index {
            0 => self.encode(date.second),
            2 => self.encode(date.minute),
            4 => self.encode_hour(date.hour),
            6 => self.encode(date.weekday()),
            7 => self.encode(date.day),
            8 => self.encode(date.month),
            9 => self.encode(date.year),
            CENTURY => self.encode(date.year.div_euclid(100)),
            A => {
                let is_updating =
                    self.frozen.is_none() && self.now().rem_euclid(SECOND) >= SECOND - UPDATE;
                self.bytes[A] & !A_UIP | if is_updating { A_UIP } else { 0 }
            }
            C => self.take_flags(),
            D => D_VALID,
            index => self.bytes[index],
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        let number = self.decode(value);
        let mut date = self.date();
        match self.index {
            0 => date.second = number,
            2 => date.minute = number,
            4 => date.hour = self.decode_hour(value),
            7 => date.day = number,
            8 => date.month = number,
            9 => date.year = date.year.div_euclid(100) * 100 + number,
            CENTURY => date.year = number * 100 + date.year.rem_euclid(100),
            A => {
                self.bytes[A] = value & !A_UIP;
                return;
            }
            B => {
                self.bytes[B] = value;
                match (value & B_SET != 0, self.frozen) {
                    (true, None) => self.frozen = Some(date),
                    (false, Some(date)) => {
                        self.frozen = None;
                        self.set(date);
                    }
                    _ => {}
                }
                return;
            }
            6 | C | D => return,
            index => {
                self.bytes[index] = value;
                self.is_dirty |= index >= MEMORY;
                return;
            }
        }
        if self.frozen.is_some() {
            self.frozen = Some(date);
        } else {
            self.set(date);
        }
    }

    /// Moves the clock; the part of the second goes on.
    pub(super) fn set(&mut self, date: Date) {
        let now = self.now();
        let moved = date.seconds() - now.div_euclid(SECOND);
        self.offset = self.offset.saturating_add(moved.saturating_mul(SECOND));
        self.looked_at = self.now();
    }

    /// How many periods of the periodic interrupt have begun until some time; `None` while it is off.
    pub(super) fn periods(&self, time: i64) -> Option<i128> {
        let shift = self.period_shift()?;
        Some((i128::from(time) * 32_768).div_euclid(i128::from(SECOND)) >> shift)
    }

    /// A period is 2^this / 32768 seconds.
    pub(super) fn period_shift(&self) -> Option<u8> {
        let rate = self.bytes[A] & 0xF;
        // 32768 Hz divided by 2^(rate - 1); 1 and 2 are as 8 and 9.
        match rate {
            0 => None,
            1 | 2 => Some(rate + 6),
            _ => Some(rate - 1),
        }
    }

    /// How long it is until an interrupt that register B enables; zero: there is one, and register C was not read
    /// since. `None`: nothing is enabled.
    pub(super) fn due(&self) -> Option<Duration> {
        let now = self.now();
        if self.flags(now) & C_INTERRUPT != 0 {
            return Some(Duration::ZERO);
        }
        let mut pause: Option<i64> = None;
        if self.has(C_PERIODIC)
            && let (Some(shift), Some(periods)) = (self.period_shift(), self.periods(now))
        {
            // The first microsecond of the next period.
            let next = (((periods + 1) << shift) * i128::from(SECOND) + 32_767).div_euclid(32_768);
            pause = i64::try_from(next - i128::from(now)).ok();
        }
        if self.has(C_ALARM | C_UPDATE) && self.frozen.is_none() {
            let second = SECOND - now.rem_euclid(SECOND);
            pause = Some(pause.map_or(second, |pause| pause.min(second)));
        }
        pause.map(|pause| Duration::from_micros(u64::try_from(pause).unwrap_or(0).max(1)))
    }

    /// Register C: what has happened since it was last read.
    pub(super) fn take_flags(&mut self) -> u8 {
        let now = self.now();
        let flags = self.flags(now);
        self.looked_at = now;
        flags
    }

    pub(super) fn flags(&self, now: i64) -> u8 {
        let before = self.looked_at;
        let mut flags = 0;
        if self.periods(before) != self.periods(now) {
            flags |= C_PERIODIC;
        }
        let (from, to) = (before.div_euclid(SECOND), now.div_euclid(SECOND));
        if from != to && self.frozen.is_none() {
            flags |= C_UPDATE;
            // After a day every alarm has come, if there is such a time.
            if (from + 1..=to)
                .take(86_400)
                .any(|second| self.is_alarm(second))
            {
                flags |= C_ALARM;
            }
        }
        if flags & self.bytes[B] & (C_PERIODIC | C_ALARM | C_UPDATE) != 0 {
            flags |= C_INTERRUPT;
        }
        flags
    }

    pub(super) fn is_alarm(&self, seconds: i64) -> bool {
        let time = seconds.rem_euclid(86_400);
        let fits = |byte: u8, expected: u8| byte >= ANY || byte == expected;
        let hour = self.bytes[5];
        // In 12-hour mode the afternoon's bit is no sign of a wildcard by itself.
        fits(self.bytes[1], self.encode(time % 60))
            && fits(self.bytes[3], self.encode(time / 60 % 60))
            && fits(hour, self.encode_hour(time / 3600))
    }
}

impl Chip {
    pub(super) fn read(&mut self, offset: u16, _: Width) -> u32 {
        if offset == 0 {
            // The index port cannot be read.
            return 0xFF;
        }
        self.read_data().into()
    }

    pub(super) fn write(&mut self, offset: u16, _: Width, value: u32) {
        let value = value.to_le_bytes()[0];
        if offset == 0 {
            // Bit 7 masks the NMI.
            self.index = usize::from(value & 0x7F);
        } else {
            self.write_data(value);
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), DeviceError> {
        let memory = &self.bytes[MEMORY..];
        if let (true, Some((file, path))) = (std::mem::take(&mut self.is_dirty), &self.nvram)
            && let Err(error) = file
                .write_all_at(memory, 0)
                .and_then(|()| file.set_len(memory.len() as u64))
        {
            self.failure = Some(format!(
                "cannot keep its memory in {}: {error}",
                path.display()
            ));
        }
        self.failure.clone().map_or(Ok(()), |message| {
            Err(DeviceError {
                device: "rtc".to_owned(),
                message,
            })
        })
    }
}
