//! An 8254 interval timer at 1.193182 MHz, after Intel's data sheet, with the speaker's gate at port 0x61. Counts come
//! from the host's clock. Counter 0's output interrupts when it rises, if there is a line. Modes 0, 2, 3 and 4; 1 and 5 count
//! when the gate rises.

mod counter;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::counter::Counter;
use super::PortDevice;
use super::ticker::Ticker;
use crate::machine::InterruptLine;
use crate::ports::Width;

const HERTZ: u128 = 1_193_182;
/// Ticks between two toggles of port 0x61's refresh bit: 15 us.
const REFRESH_TICKS: u64 = 18;

/// Ticks since some moment.
type Ticks = Box<dyn Fn() -> u64 + Send>;

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
