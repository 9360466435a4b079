//! Time: all of it comes from the time-stamp counter and what the VMM said at boot.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::api::nt_api;
use crate::nt::KSYSTEM_TIME;
use crate::raw::{Ptr, low32};
use crate::shared;
use crate::value::{LargeInteger, ULong, ULongLong};
use abi::layout;

/// 100 ns units between two ticks, as on a PC: 15.625 ms.
pub const TICK: u64 = 156_250;

/// Offsets in KUSER_SHARED_DATA, public since Windows XP (WDK: ntddk.h, KUSER_SHARED_DATA).
mod user_shared {
    pub(super) const TICK_COUNT_LOW: u64 = 0x000;
    pub(super) const TICK_COUNT_MULTIPLIER: u64 = 0x004;
    pub(super) const INTERRUPT_TIME: u64 = 0x008;
    pub(super) const SYSTEM_TIME: u64 = 0x014;
    pub(super) const TICK_COUNT: u64 = 0x320;
    pub(super) const COOKIE: u64 = 0x330;
}

/// What was last written to the page: time never runs backwards.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Time since boot, in 100 ns.
#[must_use]
pub fn interrupt_time() -> u64 {
    let elapsed = shared::platform()
        .time_stamp()
        .saturating_sub(shared::boot_tsc());
    let khz = shared::tsc_khz().max(1);
    // In two steps, so that 64 bits are enough for centuries.
    (elapsed / khz) * 10_000 + (elapsed % khz) * 10_000 / khz
}

/// A time in 100 ns, in ticks of the time-stamp counter.
pub(crate) fn ticks_of(time: u64) -> u64 {
    time.saturating_mul(shared::tsc_khz()) / 10_000
}

/// System time: 100 ns since 1601-01-01 UTC.
#[must_use]
pub fn system_time() -> u64 {
    shared::system_time() + interrupt_time()
}

/// Time that the processor had nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// Time since boot that the processor had nothing to do, in 100 ns.
#[must_use]
pub fn idle_time() -> u64 {
    IDLE.load(Ordering::Relaxed)
}

/// The processor had nothing to do for so long.
pub(crate) fn add_idle(time: u64) {
    IDLE.fetch_add(time, Ordering::Relaxed);
}

/// Ticks since boot.
#[must_use]
pub fn tick_count() -> u64 {
    interrupt_time() / TICK
}

fn page() -> u64 {
    shared::kernel_base() + layout::KUSER
}

/// Writes a time in the order that lets a reader notice a half-written one: High2, Low, High1.
fn write_time(at: Ptr<KSYSTEM_TIME>, time: u64) {
    let high = low32(time >> 32).cast_signed();
    at.with(|value| {
        value.High2Time = high;
        value.LowPart = low32(time);
        value.High1Time = high;
    });
}

/// Fills the parts of KUSER_SHARED_DATA that concern time; the rest is [`crate::view::user_shared`]'s.
pub(crate) fn initialize() {
    LAST.store(0, Ordering::Relaxed);
    IDLE.store(0, Ordering::Relaxed);
    let word = |offset: u64, value: u32| Ptr::<u32>::new(page() + offset).write(value);
    word(user_shared::TICK_COUNT_MULTIPLIER, 0x0FA0_0000);
    word(
        user_shared::COOKIE,
        low32(shared::platform().time_stamp()) | 1,
    );
    update();
}

/// Brings KUSER_SHARED_DATA and KeTickCount up to date.
pub fn update() {
    let now = interrupt_time();
    if now < LAST.swap(now, Ordering::Relaxed) {
        return;
    }
    let ticks = now / TICK;
    write_time(Ptr::new(page() + user_shared::INTERRUPT_TIME), now);
    write_time(
        Ptr::new(page() + user_shared::SYSTEM_TIME),
        shared::system_time() + now,
    );
    write_time(Ptr::new(page() + user_shared::TICK_COUNT), ticks);
    Ptr::<u32>::new(page() + user_shared::TICK_COUNT_LOW).write(low32(ticks));
    write_time(super::data::KeTickCount.ptr(), ticks);
}

nt_api! { module = ke_time;
    /// System time: 100 ns since 1601-01-01 UTC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQuerySystemTime(current_time: Ptr<u64>) {
        update();
        current_time.write(system_time());
    }

    /// Ticks since boot.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryTickCount(tick_count: Ptr<u64>) {
        update();
        tick_count.write(self::tick_count());
    }

    /// 100 ns units between two ticks.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryTimeIncrement() -> ULong {
        low32(TICK)
    }

    /// 100 ns since boot.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryInterruptTime() -> ULongLong {
        interrupt_time()
    }

    /// The performance counter (the time-stamp counter) and its frequency in Hz.
    either both stdcall irql(ANY_LEVEL) implemented
    fn KeQueryPerformanceCounter(frequency: Ptr<u64>) -> LargeInteger {
        if !frequency.is_null() {
            frequency.write(shared::tsc_khz() * 1000);
        }
        shared::platform().time_stamp().cast_signed()
    }

    /// Spins for a number of microseconds.
    either both stdcall irql(ANY_LEVEL) implemented
    fn KeStallExecutionProcessor(microseconds: ULong) {
        let start = shared::platform().time_stamp();
        let ticks = u64::from(microseconds) * shared::tsc_khz() / 1000;
        while shared::platform().time_stamp().wrapping_sub(start) < ticks {
            core::hint::spin_loop();
        }
    }
}
