//! A CMOS clock behind an index and a data port: Motorola's MC146818 with 128 bytes, and the century at 0x32 as PCs
//! have it. The time is the host's plus an offset, which a driver moves when it sets the clock. The flags of register C
//! are kept, and with an interrupt line those that register B enables make it active until C is read. The day of the week
//! follows from the date.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::output::OutputError;
use super::ticker::Ticker;
use super::{DeviceError, PortDevice};
use crate::machine::InterruptLine;
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
const SECOND: i64 = 1_000_000;
/// How long before the second's end an update is announced, and how long it takes at most, in microseconds.
const UPDATE: i64 = 244 + 1984;

/// Microseconds since 1970, UTC.
type Clock = Box<dyn Fn() -> i64 + Send>;

/// A date and time of day of the Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days from 1970-01-01 to a date. Months and days may be out of their range.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at their end.
    let year = year + (month - 3).div_euclid(12);
    let month = (month - 3).rem_euclid(12);
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

impl Date {
    fn seconds(self) -> i64 {
        let days = days(self.year, self.month, self.day);
        ((days * 24 + self.hour) * 60 + self.minute) * 60 + self.second
    }

    fn from_seconds(seconds: i64) -> Self {
        let day_number = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        // The mean year is 365.2425 days, so this is at most one too far.
        let mut year = 1970 + (day_number * 10_000).div_euclid(3_652_425);
        while days(year, 1, 1) > day_number {
            year -= 1;
        }
        while days(year + 1, 1, 1) <= day_number {
            year += 1;
        }
        let mut month = 1;
        while month < 12 && days(year, month + 1, 1) <= day_number {
            month += 1;
        }
        Self {
            year,
            month,
            day: day_number - days(year, month, 1) + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// 1 is Sunday.
    fn weekday(self) -> i64 {
        (days(self.year, self.month, self.day) + 4).rem_euclid(7) + 1
    }
}

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    chip: Arc<Mutex<Chip>>,
    line: Option<InterruptLine>,
    ticker: Option<Ticker>,
}

fn locked(chip: &Mutex<Chip>) -> MutexGuard<'_, Chip> {
    chip.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rtc {
    /// Reads the memory's file, if there is one; it need not exist yet. `line` is that of the spec's `irq`.
    ///
    /// # Errors
    /// [`OutputError`] when it cannot be read, or no thread can be started.
    pub fn open(spec: &RtcSpec, line: Option<InterruptLine>) -> Result<Self, OutputError> {
        let chip = Arc::new(Mutex::new(Chip::open(spec)?));
        let ticker = line.clone().map(|line| {
            let chip = Arc::clone(&chip);
            Ticker::start("rtc", move || {
                let chip = locked(&chip);
                let due = chip.due();
                if due == Some(Duration::ZERO) {
                    line.assert();
                    // Until register C is read nothing changes.
                    return None;
                }
                due
            })
        });
        let ticker = ticker.transpose().map_err(|source| OutputError {
            path: "rtc".to_owned(),
            source,
        })?;
        Ok(Self { chip, line, ticker })
    }

    /// Does something with the chip that the interrupt may depend on.
    fn with_chip<T>(&self, run: impl FnOnce(&mut Chip) -> T) -> T {
        let mut chip = locked(&self.chip);
        let result = run(&mut chip);
        if let (Some(line), Some(ticker)) = (&self.line, &self.ticker) {
            if chip.due() != Some(Duration::ZERO) {
                line.deassert();
            }
            ticker.nudge();
        }
        result
    }
}

impl PortDevice for Rtc {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        self.with_chip(|chip| chip.read(offset, width))
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        self.with_chip(|chip| chip.write(offset, width, value));
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "rtc".to_owned()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        locked(&self.chip).flush()
    }
}

/// Its registers.
struct Chip {
    bytes: [u8; BYTES],
    index: usize,
    clock: Clock,
    /// Its time minus the host's, in microseconds.
    offset: i64,
    /// The time while SET is on.
    frozen: Option<Date>,
    /// When register C was last read.
    looked_at: i64,
    nvram: Option<PathBuf>,
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

fn host_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

impl Chip {
    fn open(spec: &RtcSpec) -> Result<Self, OutputError> {
        let mut rtc = Self::with_clock(spec.offset, Box::new(host_clock));
        if let Some(path) = &spec.nvram {
            match std::fs::read(path) {
                Ok(found) => {
                    for (byte, found) in rtc.bytes[MEMORY..].iter_mut().zip(found) {
                        *byte = found;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(OutputError {
                        path: path.display().to_string(),
                        source,
                    });
                }
            }
            rtc.nvram = Some(path.clone());
        }
        Ok(rtc)
    }

    fn with_clock(offset_seconds: i64, clock: Clock) -> Self {
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
    fn now(&self) -> i64 {
        (self.clock)().saturating_add(self.offset)
    }

    fn date(&self) -> Date {
        self.frozen
            .unwrap_or_else(|| Date::from_seconds(self.now().div_euclid(SECOND)))
    }

    fn has(&self, bit: u8) -> bool {
        self.bytes[B] & bit != 0
    }

    fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        if self.has(B_BINARY) {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, byte: u8) -> i64 {
        i64::from(if self.has(B_BINARY) {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xF)
        })
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.has(B_24) {
            return self.encode(hour);
        }
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(half) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, byte: u8) -> i64 {
        if self.has(B_24) {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM == 0 { 0 } else { 12 }
    }

    fn read_data(&mut self) -> u8 {
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

    fn write_data(&mut self, value: u8) {
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
    fn set(&mut self, date: Date) {
        let now = self.now();
        let moved = date.seconds() - now.div_euclid(SECOND);
        self.offset = self.offset.saturating_add(moved.saturating_mul(SECOND));
        self.looked_at = self.now();
    }

    /// How many periods of the periodic interrupt have begun until some time; `None` while it is off.
    fn periods(&self, time: i64) -> Option<i128> {
        let shift = self.period_shift()?;
        Some((i128::from(time) * 32_768).div_euclid(i128::from(SECOND)) >> shift)
    }

    /// A period is 2^this / 32768 seconds.
    fn period_shift(&self) -> Option<u8> {
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
    fn due(&self) -> Option<Duration> {
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
    fn take_flags(&mut self) -> u8 {
        let now = self.now();
        let flags = self.flags(now);
        self.looked_at = now;
        flags
    }

    fn flags(&self, now: i64) -> u8 {
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

    fn is_alarm(&self, seconds: i64) -> bool {
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
    fn read(&mut self, offset: u16, _: Width) -> u32 {
        if offset == 0 {
            // The index port cannot be read.
            return 0xFF;
        }
        self.read_data().into()
    }

    fn write(&mut self, offset: u16, _: Width, value: u32) {
        let value = value.to_le_bytes()[0];
        if offset == 0 {
            // Bit 7 masks the NMI.
            self.index = usize::from(value & 0x7F);
        } else {
            self.write_data(value);
        }
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        if let (true, Some(path)) = (std::mem::take(&mut self.is_dirty), &self.nvram)
            && let Err(error) = std::fs::write(path, &self.bytes[MEMORY..])
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    fn rtc(date: Date) -> (Chip, Arc<AtomicI64>) {
        let time = Arc::new(AtomicI64::new(date.seconds() * SECOND));
        let clock = Arc::clone(&time);
        let rtc = Chip::with_clock(0, Box::new(move || clock.load(Ordering::Relaxed)));
        (rtc, time)
    }

    fn read(rtc: &mut Chip, index: u32) -> u32 {
        rtc.write(0, Width::Byte, index | 0x80);
        rtc.read(1, Width::Byte)
    }

    fn write(rtc: &mut Chip, index: u32, value: u32) {
        rtc.write(0, Width::Byte, index);
        rtc.write(1, Width::Byte, value);
    }

    const DATE: Date = Date {
        year: 1999,
        month: 12,
        day: 31,
        hour: 23,
        minute: 59,
        second: 58,
    };

    proptest! {
        #[test]
        fn dates_agree_with_counting_days(day_number in 0_i64..80_000, time in 0_i64..86_400) {
            let (mut year, mut month, mut rest) = (1970, 1, day_number);
            loop {
                let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                let length = match month {
                    2 => 28 + i64::from(is_leap),
                    4 | 6 | 9 | 11 => 30,
                    _ => 31,
                };
                if rest < length {
                    break;
                }
                rest -= length;
                month += 1;
                if month == 13 {
                    (year, month) = (year + 1, 1);
                }
            }
            let seconds = day_number * 86_400 + time;
            let date = Date::from_seconds(seconds);
            prop_assert_eq!((date.year, date.month, date.day), (year, month, rest + 1));
            prop_assert_eq!(date.seconds(), seconds);
            prop_assert_eq!(date.weekday(), (day_number + 4) % 7 + 1, "1970 began on a Thursday");
        }
    }

    #[test]
    fn time_in_every_format_and_over_the_century() {
        let (mut rtc, time) = rtc(DATE);
        let all = |rtc: &mut Chip| [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| read(rtc, index));
        assert_eq!(all(&mut rtc), [0x58, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19]);
        write(&mut rtc, 11, 0x06);
        assert_eq!(all(&mut rtc), [58, 59, 23, 6, 31, 12, 99, 19]);
        write(&mut rtc, 11, 0x00);
        assert_eq!(read(&mut rtc, 4), 0x91, "11 p.m.");
        time.fetch_add(2 * SECOND, Ordering::Relaxed);
        assert_eq!(all(&mut rtc), [0, 0, 0x12, 7, 1, 1, 0, 0x20]);
    }

    #[test]
    fn clock_that_is_set_goes_on_from_there() {
        let (mut rtc, time) = rtc(DATE);
        write(&mut rtc, 11, 0x82);
        time.fetch_add(5 * SECOND, Ordering::Relaxed);
        assert_eq!(read(&mut rtc, 0), 0x58, "SET stops it");
        for (index, value) in [
            (0, 0x30),
            (2, 0x15),
            (4, 0x08),
            (7, 0x29),
            (8, 0x02),
            (9, 0x24),
            (0x32, 0x20),
        ] {
            write(&mut rtc, index, value);
        }
        write(&mut rtc, 11, 0x02);
        time.fetch_add(86_400 * SECOND, Ordering::Relaxed);
        assert_eq!(
            [0, 2, 4, 6, 7, 8].map(|index| read(&mut rtc, index)),
            [0x30, 0x15, 0x08, 6, 1, 3]
        );
    }

    #[test]
    fn flags_tell_what_has_happened_since_they_were_read() {
        let (mut rtc, time) = rtc(DATE);
        write(&mut rtc, 10, 0x20);
        for (index, value) in [(1, 0x59), (3, 0xFF), (5, 0xC0), (11, 0x22)] {
            write(&mut rtc, index, value);
        }
        assert_eq!(read(&mut rtc, 12), 0);
        time.fetch_add(SECOND, Ordering::Relaxed);
        assert_eq!(read(&mut rtc, 12), 0xB0, "alarm and update");
        assert_eq!(read(&mut rtc, 12), 0);
        time.fetch_add(SECOND, Ordering::Relaxed);
        assert_eq!(read(&mut rtc, 12), 0x10);
        write(&mut rtc, 10, 0x26);
        time.fetch_add(977, Ordering::Relaxed);
        assert_eq!(read(&mut rtc, 12), 0x40, "1024 Hz");
        assert_eq!(read(&mut rtc, 10), 0x26);
        time.fetch_add(SECOND - 977 - UPDATE, Ordering::Relaxed);
        assert_eq!(read(&mut rtc, 10), 0xA6, "an update is near");
        assert_eq!(read(&mut rtc, 13), 0x80);
    }

    #[test]
    fn memory_is_kept_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let spec = RtcSpec {
            offset: 0,
            nvram: Some(folder.path().join("cmos")),
            irq: None,
        };
        let mut first = Chip::open(&spec).unwrap();
        write(&mut first, 0x7F, 0xAB);
        first.flush().unwrap();
        assert_eq!(read(&mut Chip::open(&spec).unwrap(), 0x7F), 0xAB);
        let lost = RtcSpec {
            nvram: Some(folder.path().to_owned()),
            ..spec
        };
        assert!(Chip::open(&lost).is_err());
    }

    #[test]
    fn interrupts_fall_due_as_register_b_enables_them() {
        let (mut rtc, time) = rtc(DATE);
        write(&mut rtc, 10, 0x26);
        read(&mut rtc, 12);
        assert_eq!(rtc.due(), None);
        // Periodic: 1024 Hz, in whole microseconds.
        write(&mut rtc, 11, 0x42);
        assert_eq!(rtc.due(), Some(Duration::from_micros(977)));
        time.fetch_add(976, Ordering::Relaxed);
        assert_eq!(rtc.due(), Some(Duration::from_micros(1)));
        time.fetch_add(1, Ordering::Relaxed);
        assert_eq!(rtc.due(), Some(Duration::ZERO));
        assert_eq!(read(&mut rtc, 12), 0xC0);
        assert_eq!(
            rtc.due(),
            Some(Duration::from_micros(977)),
            "1954 from the start"
        );
        // Update: with the second.
        write(&mut rtc, 11, 0x12);
        assert_eq!(rtc.due(), Some(Duration::from_micros(1_000_000 - 977)));
        // An alarm is looked for every second.
        write(&mut rtc, 11, 0x22);
        for (index, value) in [(1, 0x00), (3, 0xFF), (5, 0xFF)] {
            write(&mut rtc, index, value);
        }
        time.fetch_add(SECOND, Ordering::Relaxed);
        assert_eq!(rtc.due(), Some(Duration::from_micros(1_000_000 - 977)));
        time.fetch_add(SECOND, Ordering::Relaxed);
        assert_eq!(rtc.due(), Some(Duration::ZERO));
    }

    #[test]
    fn line_is_active_from_an_interrupt_until_register_c_is_read() {
        let spec = RtcSpec {
            offset: 0,
            nvram: None,
            irq: Some(8),
        };
        let lines = crate::machine::InterruptLines::default();
        let mut rtc = Rtc::open(&spec, lines.line(8)).unwrap();
        let set = |rtc: &mut Rtc, index, value| {
            rtc.write(0, Width::Byte, index);
            rtc.write(1, Width::Byte, value);
        };
        set(&mut rtc, 10, 0x2F);
        assert!(!lines.is_wanted());
        set(&mut rtc, 11, 0x42);
        let start = std::time::Instant::now();
        while !lines.is_wanted() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        rtc.write(0, Width::Byte, 12);
        assert_eq!(rtc.read(1, Width::Byte) & 0xC0, 0xC0);
    }
}
