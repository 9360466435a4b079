//! Timers: a queue ordered by due time; the VMM is told when its earliest moves to an earlier time.

use alloc::collections::BTreeMap;

use crate::api::nt_api;
use crate::ke::{dpc, time};
use crate::nt::{DISPATCHER_HEADER, KDPC, KTIMER, LIST_ENTRY, dispatcher};
use crate::raw::{Global, Ptr, Word, low8, low32, to_word};
use crate::shared;
use crate::value::{Boolean, LargeInteger, Long, ULong};
use abi::doorbell::Call;

#[derive(Debug)]
struct Timers {
    /// (Due interrupt time, sequence number) to the KTIMER's address.
    by_time: BTreeMap<(u64, u64), u64>,
    by_address: BTreeMap<u64, (u64, u64)>,
    sequence: u64,
    /// What the VMM believes to be the earliest.
    armed: u64,
}

static TIMERS: Global<Timers> = Global::new(
    "timers",
    Timers {
        by_time: BTreeMap::new(),
        by_address: BTreeMap::new(),
        sequence: 0,
        armed: u64::MAX,
    },
);

pub(crate) fn initialize() {
    TIMERS.with(|timers| {
        *timers = Timers {
            by_time: BTreeMap::new(),
            by_address: BTreeMap::new(),
            sequence: 0,
            armed: u64::MAX,
        };
    });
}

/// Interrupt time at which the next timer expires; `u64::MAX`: none is set.
#[must_use]
pub fn next_due() -> u64 {
    TIMERS.with(|timers| {
        timers
            .by_time
            .first_key_value()
            .map_or(u64::MAX, |(&(due, _), _)| due)
    })
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

fn insert(timer: Ptr<KTIMER>, due: u64) {
    timer.with(|timer| {
        timer.Header.Inserted = 1;
        timer.DueTime = due;
    });
    let arm = TIMERS.with(|timers| {
        timers.sequence += 1;
        let key = (due, timers.sequence);
        timers.by_time.insert(key, timer.addr());
        timers.by_address.insert(timer.addr(), key);
        let is_earlier = due < timers.armed;
        if is_earlier {
            timers.armed = due;
        }
        is_earlier
    });
    if arm {
        shared::platform().doorbell(Call::ArmTimer, [due, 0, 0, 0, 0, 0]);
    }
}

/// Takes a timer out of the queue. False: it was not set.
pub fn cancel(timer: Ptr<KTIMER>) -> bool {
    let was_set = TIMERS.with(|timers| match timers.by_address.remove(&timer.addr()) {
        Some(key) => timers.by_time.remove(&key).is_some(),
        None => false,
    });
    timer.with(|timer| timer.Header.Inserted = 0);
    was_set
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
    insert(timer, due_time(due));
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
            let (&key, &address) = timers.by_time.first_key_value()?;
            if key.0 > now {
                return None;
            }
            timers.by_time.remove(&key);
            timers.by_address.remove(&address);
            Some((key.0, address))
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
            .by_time
            .retain(|_, address| address.wrapping_sub(start) >= bytes);
        timers
            .by_address
            .retain(|address, _| address.wrapping_sub(start) >= bytes);
    });
}

fn initialize_timer(timer: Ptr<KTIMER>, is_synchronization: bool) {
    let kind = if is_synchronization {
        dispatcher::SYNCHRONIZATION_TIMER
    } else {
        dispatcher::NOTIFICATION_TIMER
    };
    let list = timer
        .cast::<Word>()
        .add_bytes(core::mem::offset_of!(DISPATCHER_HEADER, WaitListHead) as u64)
        .cast();
    timer.write(KTIMER {
        Header: DISPATCHER_HEADER {
            Type: kind,
            Absolute: 0,
            Size: low8(size_of::<KTIMER>() as u64 / 4),
            Inserted: 0,
            SignalState: 0,
            WaitListHead: LIST_ENTRY {
                Flink: list,
                Blink: list,
            },
        },
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

    /// Cancels a timer; FALSE if it was not set.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeCancelTimer(timer: Ptr<KTIMER>) -> Boolean {
        cancel(timer)
    }

    /// Whether a timer has expired.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeReadStateTimer(timer: Ptr<KTIMER>) -> Boolean {
        timer.read().Header.SignalState != 0
    }
}
