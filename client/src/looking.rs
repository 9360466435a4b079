//! Looking for what the VMM gives back, before sleeping: the rule of all sides (`channel::polling`) with what a program's
//! threads may do besides, which share processors with others.

use std::time::{Duration, Instant};

use channel::polling::{LONGEST, Look, Polling, Step};

/// What comes within this time of falling asleep would have come within [`LONGEST`] without the wake-ups of both sides.
const SOON: Duration = Duration::from_micros(300);

/// Who has the processor for so long after it was yielded computes, and is no client of the driver that looks or sleeps
/// most of the time. Yielding to such a program costs more than sleeping: at most one part in so many of the time.
const LOSS: Duration = Duration::from_millis(4);
const LOSS_SHARE: u32 = 128;

/// Whether and how long to look.
#[derive(Debug)]
pub(crate) struct Looking {
    polling: Polling,
    /// When looking may yield the processor again.
    yield_from: Option<Instant>,
}

/// One look under way.
#[derive(Debug)]
pub(crate) struct Under {
    look: Look,
    began: Instant,
    last: Duration,
    may_yield: bool,
}

/// What comes after a look at the queue that has found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Another one.
    Again,
    /// Sleep.
    Over,
    /// Sleep: somebody else has had the processor for so long.
    Lost(Duration),
}

impl Looking {
    /// On one processor looking only keeps the driver from running.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let longest = if processors > 1 {
            LONGEST
        } else {
            Duration::ZERO
        };
        Self {
            polling: Polling::new(longest, SOON),
            yield_from: None,
        }
    }

    /// Begins to look, if that is worth it now.
    pub(crate) fn begin(&self) -> Option<Under> {
        let (began, window) = (Instant::now(), self.polling.window());
        (!window.is_zero()).then(|| Under {
            look: Look::new(window),
            began,
            last: Duration::ZERO,
            may_yield: self.yield_from.is_none_or(|from| began >= from),
        })
    }

    /// A look has found something.
    pub(crate) fn found(&mut self) {
        self.polling.found();
    }

    /// A look was given up, because others had the processor for so long.
    pub(crate) fn lost(&mut self, time: Duration) {
        self.polling.in_vain();
        let now = Instant::now();
        if time >= LOSS && self.yield_from.is_none_or(|from| now >= from) {
            self.yield_from = Some(now + time * LOSS_SHARE);
        }
    }

    /// The thread has slept for so long.
    pub(crate) fn slept(&mut self, slept: Duration) {
        self.polling.slept(slept);
    }
}

impl Under {
    /// There was nothing: waits a moment.
    pub(crate) fn go_on(&mut self) -> Next {
        let now = self.began.elapsed();
        let took = now - std::mem::replace(&mut self.last, now);
        match self.look.step(now) {
            Step::Yield if self.may_yield => std::thread::yield_now(),
            Step::Spin | Step::Yield => (0..4).for_each(|_| std::hint::spin_loop()),
            Step::Over => return Next::Over,
            Step::Lost => return Next::Lost(took),
        }
        Next::Again
    }
}
