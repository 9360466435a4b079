//! One of the timer's counters.

#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) mode: u8,
    /// 1: low byte, 2: high byte, 3: low, then high.
    pub(super) access: u8,
    pub(super) is_bcd: bool,
    pub(super) reload: u32,
    /// When it was loaded; `None` before it is.
    pub(super) start: Option<u64>,
    /// Ticks counted when the gate went low.
    pub(super) held: Option<u64>,
    pub(super) gate: bool,
    pub(super) is_high_next: bool,
    pub(super) written_low: u8,
    pub(super) is_write_high_next: bool,
    pub(super) latched: Option<u16>,
    pub(super) latched_status: Option<u8>,
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
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

    pub(super) fn modulus(&self) -> u32 {
        if self.is_bcd { 10_000 } else { 0x1_0000 }
    }

    pub(super) fn elapsed(&self, now: u64) -> Option<u64> {
        let start = self.start?;
        Some(self.held.unwrap_or_else(|| now.saturating_sub(start)))
    }

    /// The counting element, as a number.
    pub(super) fn count(&self, now: u64) -> u32 {
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
    pub(super) fn output(&self, now: u64) -> bool {
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
    pub(super) fn rises(&self, now: u64) -> (u64, Option<u64>) {
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

    pub(super) fn encoded(&self, now: u64) -> u16 {
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

    pub(super) fn control(&mut self, value: u8) {
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

    pub(super) fn latch(&mut self, now: u64) {
        let value = self.encoded(now);
        self.latched.get_or_insert(value);
    }

    pub(super) fn latch_status(&mut self, now: u64) {
        let null = u8::from(self.start.is_none());
        let status = u8::from(self.output(now)) << 7
            | null << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.is_bcd);
        self.latched_status.get_or_insert(status);
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
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

    pub(super) fn write(&mut self, value: u8, now: u64) {
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

    pub(super) fn load(&mut self, bytes: [u8; 2], now: u64) {
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

    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
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
