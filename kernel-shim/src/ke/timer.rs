//! Timers: a queue ordered by due time; the VMM is told when its earliest moves to an earlier time.

use alloc::collections::BTreeSet;

use crate::api::nt_api;
use crate::ke::{dispatcher as dispatcher_object, dpc, time};
use crate::nt::{KDPC, KTIMER, LIST_ENTRY, dispatcher};
use crate::raw::{Global, Ptr, low32, to_word};
use crate::shared;
use crate::value::{Boolean, LargeInteger, Long, ULong};
use abi::doorbell::Call;

#[derive(Debug)]
struct Timers {
    /// Due interrupt time and address of each KTIMER that is set; no two are due at the same time.
    set: BTreeSet<(u64, u64)>,
    /// What the VMM believes to be the earliest.
    armed: u64,
    /// The last due time that was taken already, and the one that it became.
    shifted: (u64, u64),
}

const NO_TIMERS: Timers = Timers {
    set: BTreeSet::new(),
    armed: u64::MAX,
    shifted: (0, 0),
};

static TIMERS: Global<Timers> = Global::new("timers", NO_TIMERS);

impl Timers {
    /// The first free time from `due` on: timers that are due together expire in the order in which they were set.
    fn free_time(&mut self, due: u64) -> u64 {
        let mut at = due;
        if self.shifted.0 == due {
            at = self.shifted.1;
        }
        while self.set.range((at, 0)..=(at, u64::MAX)).next().is_some() {
            at += 1;
        }
        if at != due {
            self.shifted = (due, at);
        }
        at
    }
}

pub(crate) fn initialize() {
    TIMERS.with(|timers| *timers = NO_TIMERS);
}

/// Interrupt time at which the next timer expires; `u64::MAX`: none is set.
#[must_use]
pub fn next_due() -> u64 {
    TIMERS.with(|timers| timers.set.first().map_or(u64::MAX, |&(due, _)| due))
}

/// The interrupt time that a driver's due time means: negative is relative, others are system time; 100 ns.
#[must_use]
pub fn due_time(due: i64) -> u64 {
    if due < 0 {
        time::interrupt_time().saturating_add(due.unsigned_abs())
    } else {
        due.unsigned_abs().saturating_sub(shared::system_time())
    }
}

/// Sets a timer to an interrupt time.
pub(crate) fn insert(timer: Ptr<KTIMER>, due: u64) {
    let (due, arm) = TIMERS.with(|timers| {
        let due = timers.free_time(due);
        timers.set.insert((due, timer.addr()));
        let is_earlier = due < timers.armed;
        if is_earlier {
            timers.armed = due;
        }
        (due, is_earlier)
    });
    timer.with(|timer| {
        timer.Header.Inserted = 1;
        timer.DueTime = due;
    });
    if arm {
        shared::platform().doorbell(Call::ArmTimer, [due, 0, 0, 0, 0, 0]);
    }
}

/// Takes a timer out of the queue. False: it was not set.
pub fn cancel(timer: Ptr<KTIMER>) -> bool {
    let due = timer.with(|timer| {
        timer.Header.Inserted = 0;
        timer.DueTime
    });
    TIMERS.with(|timers| timers.set.remove(&(due, timer.addr())))
}

/// Sets a timer. `period` in milliseconds; 0: once. True: it was set already.
pub fn set(timer: Ptr<KTIMER>, due: i64, period: i32, dpc: Ptr<KDPC>) -> bool {
    let was_set = cancel(timer);
    timer.with(|timer| {
        timer.Header.SignalState = 0;
        timer.Header.Absolute = u8::from(due >= 0);
        timer.Dpc = dpc;
        timer.Period = period;
    });
    let now = time::interrupt_time();
    let until = due_time(due);
    insert(timer, until);
    if until <= now {
        expire();
    }
    was_set
}

/// Expires what is due: signals the timers and queues their DPCs.
pub(crate) fn expire() {
    let now = time::interrupt_time();
    TIMERS.with(|timers| {
        if timers.armed <= now {
            timers.armed = u64::MAX;
        }
    });
    loop {
        let due = TIMERS.with(|timers| {
            let &(due, address) = timers.set.first()?;
            (due <= now).then(|| {
                timers.set.pop_first();
                (due, address)
            })
        });
        let Some((due, address)) = due else { break };
        let timer = Ptr::<KTIMER>::new(address);
        let (dpc, period) = timer.with(|timer| {
            timer.Header.Inserted = 0;
            timer.Header.SignalState = 1;
            (timer.Dpc, timer.Period)
        });
        if period > 0 {
            let step = u64::from(period.unsigned_abs()) * 10_000;
            let late = now.saturating_sub(due) / step;
            insert(timer, due + (late + 1) * step);
        }
        dispatcher_object::wake(timer.cast(), 0);
        if !dpc.is_null() {
            let system = shared::system_time() + now;
            dpc::queue(
                dpc,
                to_word(u64::from(low32(system))),
                to_word(system >> 32),
            );
        }
    }
    let next = next_due();
    let arm = TIMERS.with(|timers| {
        let is_earlier = next < timers.armed;
        if is_earlier {
            timers.armed = next;
        }
        is_earlier
    });
    if arm {
        shared::platform().doorbell(Call::ArmTimer, [next, 0, 0, 0, 0, 0]);
    }
}

/// Forgets the timers in a range of memory that is going away (a driver's image).
pub(crate) fn forget_range(start: u64, bytes: u64) {
    TIMERS.with(|timers| {
        timers
            .set
            .retain(|(_, address)| address.wrapping_sub(start) >= bytes);
    });
}

pub(crate) fn initialize_timer(timer: Ptr<KTIMER>, is_synchronization: bool) {
    let kind = if is_synchronization {
        dispatcher::SYNCHRONIZATION_TIMER
    } else {
        dispatcher::NOTIFICATION_TIMER
    };
    timer.write(KTIMER {
        Header: dispatcher_object::header(timer.cast(), kind, size_of::<KTIMER>(), 0),
        DueTime: 0,
        TimerListEntry: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
        Dpc: Ptr::null(),
        #[cfg(not(nt_i386))]
        Processor: 0,
        Period: 0,
    });
}

nt_api! { module = ke_timer;
    /// Makes a notification timer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInitializeTimer(timer: Ptr<KTIMER>) {
        initialize_timer(timer, false);
    }

    /// Makes a timer; type 1 is a synchronization timer.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInitializeTimerEx(timer: Ptr<KTIMER>, timer_type: ULong) {
        initialize_timer(timer, timer_type == 1);
    }

    /// Sets a timer: due time in 100 ns, negative for relative. TRUE if it was set already.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetTimer(timer: Ptr<KTIMER>, due: LargeInteger, dpc: Ptr<KDPC>) -> Boolean {
        set(timer, due, 0, dpc)
    }

    /// Sets a timer that repeats every `period` milliseconds (0: once).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetTimerEx(timer: Ptr<KTIMER>, due: LargeInteger, period: Long, dpc: Ptr<KDPC>) -> Boolean {
        set(timer, due, period, dpc)
    }

    /// As KeSetTimerEx; expiry may be late by `tolerable_delay` milliseconds, which is never made use of.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSetCoalescableTimer(
        timer: Ptr<KTIMER>,
        due: LargeInteger,
        period: ULong,
        tolerable_delay: ULong,
        dpc: Ptr<KDPC>,
    ) -> Boolean {
        set(timer, due, period.cast_signed(), dpc)
    }

    /// Cancels a timer; FALSE if it was not set.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeCancelTimer(timer: Ptr<KTIMER>) -> Boolean {
        cancel(timer)
    }

    /// Whether a timer has expired.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReadStateTimer(timer: Ptr<KTIMER>) -> Boolean {
        timer.with(|timer| timer.Header.SignalState) != 0
    }
}
