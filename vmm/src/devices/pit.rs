//! An 8254 interval timer at 1.193182 MHz, after Intel's data sheet, with the speaker's gate at port 0x61. Counts come
//! from the host's clock. Counter 0's output interrupts when it rises, if there is a line. Modes 0, 2, 3 and 4; 1 and 5 count
//! when the gate rises.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::PortDevice;
use super::ticker::Ticker;
use crate::machine::InterruptLine;
use crate::ports::Width;

const HERTZ: u128 = 1_193_182;
/// Ticks between two toggles of port 0x61's refresh bit: 15 us.
const REFRESH_TICKS: u64 = 18;

/// Ticks since some moment.
type Ticks = Box<dyn Fn() -> u64 + Send>;

#[derive(Clone, Debug)]
struct Counter {
    mode: u8,
    /// 1: low byte, 2: high byte, 3: low, then high.
    access: u8,
    is_bcd: bool,
    reload: u32,
    /// When it was loaded; `None` before it is.
    start: Option<u64>,
    /// Ticks counted when the gate went low.
    held: Option<u64>,
    gate: bool,
    is_high_next: bool,
    written_low: u8,
    is_write_high_next: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            access: 3,
            is_bcd: false,
            reload: 0x1_0000,
            start: None,
            held: None,
            gate,
            is_high_next: false,
            written_low: 0,
            is_write_high_next: false,
            latched: None,
            latched_status: None,
        }
    }

    fn modulus(&self) -> u32 {
        if self.is_bcd { 10_000 } else { 0x1_0000 }
    }

    fn elapsed(&self, now: u64) -> Option<u64> {
        let start = self.start?;
        Some(self.held.unwrap_or_else(|| now.saturating_sub(start)))
    }

    /// The counting element, as a number.
    fn count(&self, now: u64) -> u32 {
        let Some(elapsed) = self.elapsed(now) else {
            return self.reload % self.modulus();
        };
        let reload = u64::from(self.reload);
        let modulus = u64::from(self.modulus());
        let count = match self.mode {
            2 => reload - elapsed % reload,
            3 => {
                let at = elapsed % reload;
                let high = reload.div_ceil(2);
                (reload & !1) - 2 * (if at < high { at } else { at - high })
            }
            _ => modulus + reload - elapsed % modulus,
        };
        u32::try_from(count % modulus).unwrap_or(0)
    }

    /// The output pin.
    fn output(&self, now: u64) -> bool {
        let reload = u64::from(self.reload);
        match (self.elapsed(now), self.mode) {
            (Some(elapsed), 0 | 1) => elapsed >= reload,
            (None, mode) => mode != 0,
            (Some(elapsed), 2) => !self.gate || elapsed % reload != reload - 1,
            (Some(elapsed), 3) => !self.gate || elapsed % reload < reload.div_ceil(2),
            (Some(elapsed), _) => elapsed != reload,
        }
    }

    /// How often the output has risen since the counter was loaded, and how many ticks it is to the next time.
    fn rises(&self, now: u64) -> (u64, Option<u64>) {
        let Some(elapsed) = self.elapsed(now) else {
            return (0, None);
        };
        let reload = u64::from(self.reload);
        let (rises, next) = match self.mode {
            2 | 3 => (elapsed / reload, Some(reload - elapsed % reload)),
            mode => {
                // The strobe of modes 4 and 5 is low for one tick.
                let at = reload + u64::from(mode > 1);
                (u64::from(elapsed >= at), at.checked_sub(elapsed))
            }
        };
        (
            rises,
            next.filter(|ticks| *ticks > 0 && self.held.is_none()),
        )
    }

    fn encoded(&self, now: u64) -> u16 {
        let count = self.count(now);
        let encoded = if self.is_bcd {
            (0..4).fold(0, |sum, digit| {
                sum | (count / 10_u32.pow(digit) % 10) << (4 * digit)
            })
        } else {
            count
        };
        u16::try_from(encoded).unwrap_or(0)
    }

    fn control(&mut self, value: u8) {
        *self = Self {
            // Modes 6 and 7 are 2 and 3.
            mode: match (value >> 1) & 7 {
                mode @ 0..=5 => mode,
                mode => mode - 4,
            },
            access: (value >> 4) & 3,
            is_bcd: value & 1 != 0,
            ..Self::new(self.gate)
        };
    }

    fn latch(&mut self, now: u64) {
        let value = self.encoded(now);
        self.latched.get_or_insert(value);
    }

    fn latch_status(&mut self, now: u64) {
        let null = u8::from(self.start.is_none());
        let status = u8::from(self.output(now)) << 7
            | null << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.is_bcd);
        self.latched_status.get_or_insert(status);
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let live = self.encoded(now);
        let [low, high] = self.latched.unwrap_or(live).to_le_bytes();
        match self.access {
            1 => {
                self.latched = None;
                low
            }
            2 => {
                self.latched = None;
                high
            }
            _ => {
                self.is_high_next = !self.is_high_next;
                if self.is_high_next {
                    low
                } else {
                    self.latched = None;
                    high
                }
            }
        }
    }

    fn write(&mut self, value: u8, now: u64) {
        match self.access {
            1 => self.load([value, 0], now),
            2 => self.load([0, value], now),
            _ if self.is_write_high_next => {
                self.is_write_high_next = false;
                self.load([self.written_low, value], now);
            }
            _ => {
                self.written_low = value;
                self.is_write_high_next = true;
                if self.mode == 0 {
                    // The first byte stops the count.
                    self.start = None;
                }
            }
        }
    }

    fn load(&mut self, bytes: [u8; 2], now: u64) {
        let raw = u32::from(u16::from_le_bytes(bytes));
        let count = if self.is_bcd {
            (0..4).fold(0, |sum, digit| {
                sum + ((raw >> (4 * digit)) & 0xF) * 10_u32.pow(digit)
            }) % 10_000
        } else {
            raw
        };
        self.reload = if count == 0 { self.modulus() } else { count };
        match self.mode {
            // Not before the gate rises.
            1 | 5 => {}
            _ => {
                self.start = Some(now);
                self.held = (!self.gate).then_some(0);
            }
        }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        match (self.mode, gate) {
            (0 | 4, false) | (2 | 3, false) => self.held = self.elapsed(now),
            (0 | 4, true) => {
                if let Some(held) = self.held.take() {
                    self.start = Some(now.saturating_sub(held));
                }
            }
            (1 | 5, true) => self.start = Some(now),
            (_, true) => {
                self.held = None;
                self.start = self.start.map(|_| now);
            }
            (_, false) => {}
        }
        self.gate = gate;
    }
}

struct Chip {
    counters: [Counter; 3],
    speaker: u8,
    ticks: Ticks,
}

impl fmt::Debug for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chip")
            .field("counters", &self.counters)
            .field("speaker", &self.speaker)
            .finish_non_exhaustive()
    }
}

impl Chip {
    fn control(&mut self, value: u8) {
        let now = (self.ticks)();
        let select = usize::from(value >> 6);
        if let Some(counter) = self.counters.get_mut(select) {
            if value & 0x30 == 0 {
                counter.latch(now);
            } else {
                counter.control(value);
            }
            return;
        }
        // Read back.
        for (counter, bit) in self.counters.iter_mut().zip([2, 4, 8]) {
            if value & bit == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                counter.latch(now);
            }
            if value & 0x10 == 0 {
                counter.latch_status(now);
            }
        }
    }
}

/// The timer's four ports.
#[derive(Debug)]
pub struct Pit {
    chip: Arc<Mutex<Chip>>,
    ticker: Option<Ticker>,
}

/// What the thread of counter 0's interrupt has seen of it.
#[derive(Debug, Default)]
struct Seen {
    start: Option<u64>,
    rises: u64,
}

impl Seen {
    /// Whether the output has risen since the last call, and the time until it does.
    fn look(&mut self, counter: &Counter, now: u64) -> (bool, Option<Duration>) {
        if self.start != counter.start {
            self.start = counter.start;
            self.rises = 0;
        }
        let (rises, next) = counter.rises(now);
        let has_risen = rises > self.rises;
        self.rises = rises;
        let pause = next.map(|ticks| {
            let nanoseconds = (u128::from(ticks) * 1_000_000_000).div_ceil(HERTZ);
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        });
        (has_risen, pause)
    }
}

/// Port 0x61 of a PC.
#[derive(Debug)]
struct Speaker {
    chip: Arc<Mutex<Chip>>,
}

fn locked(chip: &Mutex<Chip>) -> MutexGuard<'_, Chip> {
    chip.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Pit {
    fn default() -> Self {
        let start = Instant::now();
        Self::with_ticks(Box::new(move || {
            let ticks = start.elapsed().as_nanos() * HERTZ / 1_000_000_000;
            u64::try_from(ticks).unwrap_or(u64::MAX)
        }))
    }
}

impl Pit {
    /// A timer whose counter 0 interrupts.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(line: Option<InterruptLine>) -> io::Result<Self> {
        let mut pit = Self::default();
        pit.ticker = line
            .map(|line| {
                let chip = Arc::clone(&pit.chip);
                let mut seen = Seen::default();
                Ticker::start("pit", move || {
                    let chip = locked(&chip);
                    let (has_risen, pause) = seen.look(&chip.counters[0], (chip.ticks)());
                    if has_risen {
                        line.pulse();
                    }
                    pause
                })
            })
            .transpose()?;
        Ok(pit)
    }

    fn with_ticks(ticks: Ticks) -> Self {
        Self {
            ticker: None,
            chip: Arc::new(Mutex::new(Chip {
                counters: [true, true, false].map(Counter::new),
                speaker: 0,
                ticks,
            })),
        }
    }
}

impl PortDevice for Pit {
    fn read(&mut self, offset: u16, _: Width) -> u32 {
        let mut chip = locked(&self.chip);
        let now = (chip.ticks)();
        // The control word cannot be read.
        chip.counters
            .get_mut(usize::from(offset))
            .map_or(0xFF, |counter| counter.read(now))
            .into()
    }

    fn write(&mut self, offset: u16, _: Width, value: u32) {
        let value = value.to_le_bytes()[0];
        let mut chip = locked(&self.chip);
        let now = (chip.ticks)();
        match chip.counters.get_mut(usize::from(offset)) {
            Some(counter) => counter.write(value, now),
            None => chip.control(value),
        }
        drop(chip);
        if let Some(ticker) = &self.ticker {
            ticker.nudge();
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "pit".to_owned()
    }

    fn second(&self) -> Option<Box<dyn PortDevice>> {
        Some(Box::new(Speaker {
            chip: Arc::clone(&self.chip),
        }))
    }
}

impl PortDevice for Speaker {
    fn read(&mut self, _: u16, _: Width) -> u32 {
        let chip = locked(&self.chip);
        let now = (chip.ticks)();
        let refresh = u8::from(!(now / REFRESH_TICKS).is_multiple_of(2)) << 4;
        let output = u8::from(chip.counters[2].output(now)) << 5;
        (chip.speaker | refresh | output).into()
    }

    fn write(&mut self, _: u16, _: Width, value: u32) {
        let mut chip = locked(&self.chip);
        let now = (chip.ticks)();
        chip.speaker = value.to_le_bytes()[0] & 0x0F;
        chip.counters[2].set_gate(value & 1 != 0, now);
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "the timer's speaker gate".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn pit() -> (Pit, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(0));
        let ticks = Arc::clone(&time);
        let pit = Pit::with_ticks(Box::new(move || ticks.load(Ordering::Relaxed)));
        (pit, time)
    }

    fn write(pit: &mut dyn PortDevice, offset: u16, value: u32) {
        pit.write(offset, Width::Byte, value);
    }

    fn read(pit: &mut dyn PortDevice, offset: u16) -> u32 {
        pit.read(offset, Width::Byte)
    }

    /// The data sheet's counter, tick by tick: count and output.
    fn naive(mode: u8, reload: u32, ticks: u32) -> (u32, bool) {
        let (mut count, mut output) = match mode {
            0 => (reload, false),
            3 => (reload & !1, true),
            _ => (reload, true),
        };
        let mut is_odd_pause = false;
        for _ in 0..ticks {
            match mode {
                0 | 4 => {
                    count = (count + 0xFFFF) % 0x1_0000;
                    output = if mode == 0 {
                        output || count == 0
                    } else {
                        count != 0
                    };
                }
                2 => {
                    count = if count == 1 { reload } else { count - 1 };
                    output = count != 1;
                }
                _ if count == 2 && output && !reload.is_multiple_of(2) && !is_odd_pause => {
                    // The high half of an odd count is a tick longer; the count shows 0 there.
                    is_odd_pause = true;
                    count = 0;
                }
                _ if count == 2 || is_odd_pause => {
                    is_odd_pause = false;
                    count = reload & !1;
                    output = !output;
                }
                _ => count -= 2,
            }
        }
        (count, output)
    }

    proptest! {
        #[test]
        fn counters_agree_with_counting(
            mode in prop_oneof![Just(0_u8), Just(2), Just(3), Just(4)],
            reload in 2_u32..3000,
            ticks in 0_u32..10_000,
        ) {
            let (mut pit, time) = pit();
            write(&mut pit, 3, u32::from(0x30 | mode << 1));
            write(&mut pit, 0, reload & 0xFF);
            write(&mut pit, 0, reload >> 8);
            time.store(u64::from(ticks), Ordering::Relaxed);
            write(&mut pit, 3, 0xC2);
            let status = read(&mut pit, 0);
            let count = read(&mut pit, 0) | read(&mut pit, 0) << 8;
            let (expected, output) = naive(mode, reload, ticks);
            prop_assert_eq!(count, expected);
            prop_assert_eq!(status, u32::from(output) << 7 | u32::from(0x30 | mode << 1));
        }
    }

    #[test]
    fn latch_keeps_the_count_until_it_is_read() {
        let (mut pit, time) = pit();
        write(&mut pit, 3, 0x34);
        write(&mut pit, 0, 0);
        write(&mut pit, 0, 0);
        time.store(0x1234, Ordering::Relaxed);
        write(&mut pit, 3, 0x00);
        time.store(0x2000, Ordering::Relaxed);
        write(&mut pit, 3, 0x00);
        assert_eq!((read(&mut pit, 0), read(&mut pit, 0)), (0xCC, 0xED));
        assert_eq!((read(&mut pit, 0), read(&mut pit, 0)), (0x00, 0xE0));
        assert_eq!(read(&mut pit, 3), 0xFF);
    }

    #[test]
    fn binary_coded_decimal_and_single_bytes() {
        let (mut pit, time) = pit();
        write(&mut pit, 3, 0x15);
        write(&mut pit, 0, 0x25);
        time.store(6, Ordering::Relaxed);
        assert_eq!(read(&mut pit, 0), 0x19);
        write(&mut pit, 3, 0xE2);
        assert_eq!(read(&mut pit, 0), 0x95);
    }

    #[test]
    fn gate_of_port_61_holds_counter_2() {
        let (mut pit, time) = pit();
        let mut speaker = pit.second().unwrap();
        write(&mut pit, 3, 0xB0);
        write(&mut pit, 2, 100);
        write(&mut pit, 2, 0);
        time.store(500, Ordering::Relaxed);
        assert_eq!(read(&mut *speaker, 0) & 0x2F, 0);
        write(&mut *speaker, 0, 0xF1);
        time.store(599, Ordering::Relaxed);
        assert_eq!(read(&mut *speaker, 0) & 0x2F, 0x01);
        write(&mut *speaker, 0, 0);
        time.store(5000, Ordering::Relaxed);
        assert_eq!(read(&mut *speaker, 0) & 0x20, 0);
        write(&mut *speaker, 0, 1);
        time.store(5001, Ordering::Relaxed);
        assert_eq!(read(&mut *speaker, 0) & 0x20, 0x20);
    }

    #[test]
    fn counter_0_rises_as_its_output_does() {
        for mode in [0, 2, 3, 4] {
            let (mut pit, time) = pit();
            write(&mut pit, 3, 0x30 | mode << 1);
            let mut seen = Seen::default();
            write(&mut pit, 0, 5);
            write(&mut pit, 0, 0);
            let mut before = locked(&pit.chip).counters[0].output(0);
            let mut pause = None;
            for now in 0..30 {
                time.store(now, Ordering::Relaxed);
                let chip = locked(&pit.chip);
                let output = chip.counters[0].output(now);
                let (has_risen, next) = seen.look(&chip.counters[0], now);
                assert_eq!(has_risen, output && !before, "mode {mode}, tick {now}");
                before = output;
                pause = next;
            }
            assert_eq!(pause.is_some(), mode == 2 || mode == 3);
        }
    }

    #[test]
    fn line_interrupts_again_and_again() {
        let lines = crate::machine::InterruptLines::default();
        let mut pit = Pit::open(lines.line(0)).unwrap();
        // 1 kHz.
        for (offset, value) in [(3, 0x34), (0, 0xA9), (0, 0x04)] {
            write(&mut pit, offset, value);
        }
        let start = Instant::now();
        while !lines.is_wanted() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
