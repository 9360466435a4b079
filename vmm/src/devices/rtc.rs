//! A CMOS clock behind an index and a data port: Motorola's MC146818 with 128 bytes, and the century at 0x32 as PCs
//! have it. The time is the host's plus an offset, which a driver moves when it sets the clock. The flags of register C
//! are kept, and with an interrupt line those that register B enables make it active until C is read. The day of the week
//! follows from the date.

mod chip;
mod date;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::chip::{Chip, SECOND};
use super::output::OutputError;
use super::ticker::Ticker;
use super::{DeviceError, Input, InputError, Inputs, PortDevice};
use crate::machine::InterruptLine;
use crate::policy::RtcSpec;
use crate::ports::Width;

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    shared: Arc<Shared>,
}

/// What the device and whoever sets its time share.
#[derive(Debug)]
struct Shared {
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
        Self::start(Chip::open(spec)?, line).map_err(|source| OutputError {
            path: "rtc".to_owned(),
            source,
        })
    }

    fn start(chip: Chip, line: Option<InterruptLine>) -> io::Result<Self> {
        let chip = Arc::new(Mutex::new(chip));
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
        let ticker = ticker.transpose()?;
        let shared = Shared { chip, line, ticker };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl Shared {
    /// Does something with the chip that the interrupt may depend on.
    fn with_chip<T>(&self, run: impl FnOnce(&mut Chip) -> T) -> T {
        let mut chip = locked(&self.chip);
        let looked_at = chip.looked_at;
        let result = run(&mut chip);
        if let (Some(line), Some(ticker)) = (&self.line, &self.ticker) {
            // Flags that were taken end their interrupt. One that has come since, however soon, is an edge of its own.
            if chip.looked_at != looked_at || chip.due() != Some(Duration::ZERO) {
                line.deassert();
            }
            ticker.nudge();
        }
        result
    }
}

impl PortDevice for Rtc {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        self.shared.with_chip(|chip| chip.read(offset, width))
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        self.shared
            .with_chip(|chip| chip.write(offset, width, value));
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "rtc".to_owned()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Inputs>)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        locked(&self.shared.chip).flush()
    }
}

const OFFSET: &str = "whole seconds from the machine's UTC, such as -3600";

impl Inputs for Shared {
    fn list(&self) -> Vec<Input> {
        let seconds = locked(&self.chip).offset.div_euclid(SECOND);
        vec![Input::new("offset", seconds, OFFSET)]
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        if key != "offset" {
            return Err(InputError::Unknown);
        }
        let seconds = value
            .parse()
            .ok()
            .filter(|seconds: &i64| seconds.unsigned_abs() < 10_000_000_000);
        let offset = seconds.ok_or(InputError::Value(OFFSET))? * SECOND;
        self.with_chip(|chip| chip.offset = offset);
        Ok(())
    }
}
