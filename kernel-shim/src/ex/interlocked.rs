//! Interlocked arithmetic: functions on i386, instructions on amd64.
//!
//! Nothing runs beside shim code on the one processor, and so a plain read, change and write is atomic. The functions
//! that take a spin lock take it for that moment: one that is held already would spin for ever.

use crate::api::nt_api;
use crate::ke::spin_lock;
use crate::raw::{Ptr, Word};
use crate::value::{LargeInteger, Long, ULong};

/// Changes a value; returns the old one.
fn change<T: Copy>(target: Ptr<T>, change: impl FnOnce(T) -> T) -> T {
    let old = target.read();
    target.write(change(old));
    old
}

/// Stops the guest when the lock that an interlocked operation needs is held.
pub(super) fn check_lock(lock: Ptr<Word>) {
    if lock.read() != 0 {
        spin_lock::already_owned(lock.addr());
    }
}

/// INTERLOCKED_RESULT on i386: the sign and zero flags where LAHF puts them.
fn flags(value: i32) -> u32 {
    match value {
        0 => 0x4000,
        value if value < 0 => 0x8000,
        _ => 0,
    }
}

fn compare_exchange_64(target: Ptr<u64>, exchange: Ptr<u64>, comparand: Ptr<u64>) -> u64 {
    let (exchange, comparand) = (exchange.read(), comparand.read());
    change(target, |old| if old == comparand { exchange } else { old })
}

nt_api! { module = ex_interlocked;
    /// Adds 1; returns the new value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedIncrement(addend: Ptr<i32>) -> Long {
        change(addend, |value| value.wrapping_add(1)).wrapping_add(1)
    }

    /// Subtracts 1; returns the new value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedDecrement(addend: Ptr<i32>) -> Long {
        change(addend, |value| value.wrapping_sub(1)).wrapping_sub(1)
    }

    /// Stores a value; returns the old one.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedExchange(target: Ptr<i32>, value: Long) -> Long {
        change(target, |_| value)
    }

    /// Adds a number; returns the old value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedExchangeAdd(addend: Ptr<i32>, value: Long) -> Long {
        change(addend, |old| old.wrapping_add(value))
    }

    /// Stores `exchange` where `comparand` is; returns the old value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedCompareExchange(target: Ptr<i32>, exchange: Long, comparand: Long) -> Long {
        change(target, |old| if old == comparand { exchange } else { old })
    }

    /// Stores the 64-bit number at `exchange` where the one at `comparand` is; returns the old value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExInterlockedCompareExchange64(
        target: Ptr<u64>, exchange: Ptr<u64>, comparand: Ptr<u64>, lock: Ptr<Word>,
    ) -> LargeInteger {
        compare_exchange_64(target, exchange, comparand).cast_signed()
    }

    /// Stores the 64-bit number at `exchange` where the one at `comparand` is; returns the old value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedCompareExchange64(target: Ptr<u64>, exchange: Ptr<u64>, comparand: Ptr<u64>) -> LargeInteger {
        compare_exchange_64(target, exchange, comparand).cast_signed()
    }

    /// Adds a number to a counter that may be read in two halves.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExInterlockedAddLargeStatistic(addend: Ptr<u64>, increment: ULong) {
        change(addend, |value| value.wrapping_add(increment.into()));
    }

    /// Adds a number under a spin lock; returns the old value.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedAddLargeInteger(addend: Ptr<i64>, increment: LargeInteger, lock: Ptr<Word>) -> LargeInteger {
        check_lock(lock);
        change(addend, |value| value.wrapping_add(increment))
    }

    /// Adds a number under a spin lock; returns the old value.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedExchangeAddLargeInteger(addend: Ptr<i64>, increment: LargeInteger, lock: Ptr<Word>) -> LargeInteger {
        check_lock(lock);
        change(addend, |value| value.wrapping_add(increment))
    }

    /// Adds a number under a spin lock; returns the old value.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedAddUlong(addend: Ptr<u32>, increment: ULong, lock: Ptr<Word>) -> ULong {
        check_lock(lock);
        change(addend, |value| value.wrapping_add(increment))
    }

    /// Adds a number under a spin lock; returns the old value.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedAddUlong(addend: Ptr<u32>, increment: ULong, lock: Ptr<Word>) -> ULong {
        check_lock(lock);
        change(addend, |value| value.wrapping_add(increment))
    }

    /// Adds 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedIncrementLong(addend: Ptr<i32>, lock: Ptr<Word>) -> ULong {
        flags(InterlockedIncrement(addend))
    }

    /// Subtracts 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedDecrementLong(addend: Ptr<i32>, lock: Ptr<Word>) -> ULong {
        flags(InterlockedDecrement(addend))
    }

    /// Stores a value; returns the old one.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedExchangeUlong(target: Ptr<u32>, value: ULong, lock: Ptr<Word>) -> ULong {
        change(target, |_| value)
    }

    /// Adds 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn Exi386InterlockedIncrementLong(addend: Ptr<i32>) -> ULong {
        flags(InterlockedIncrement(addend))
    }

    /// Subtracts 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn Exi386InterlockedDecrementLong(addend: Ptr<i32>) -> ULong {
        flags(InterlockedDecrement(addend))
    }

    /// Stores a value; returns the old one.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn Exi386InterlockedExchangeUlong(target: Ptr<u32>, value: ULong) -> ULong {
        change(target, |_| value)
    }

    /// Adds 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn Exfi386InterlockedIncrementLong(addend: Ptr<i32>) -> ULong {
        flags(InterlockedIncrement(addend))
    }

    /// Subtracts 1; returns whether the new value is negative, zero or positive.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn Exfi386InterlockedDecrementLong(addend: Ptr<i32>) -> ULong {
        flags(InterlockedDecrement(addend))
    }

    /// Stores a value; returns the old one.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn Exfi386InterlockedExchangeUlong(target: Ptr<u32>, value: ULong) -> ULong {
        change(target, |_| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nt::bugcheck::SPIN_LOCK_ALREADY_OWNED;
    use crate::test_platform::{crash_of, machine};

    #[test]
    fn values_wrap_and_old_ones_are_returned() {
        let mut value = i32::MAX;
        let at = Ptr::of(&mut value);
        assert_eq!(InterlockedIncrement(at), i32::MIN);
        assert_eq!(InterlockedDecrement(at), i32::MAX);
        assert_eq!(InterlockedExchangeAdd(at, 2), i32::MAX);
        assert_eq!(InterlockedExchange(at, 5), i32::MIN + 1);
        assert_eq!(InterlockedCompareExchange(at, 7, 6), 5);
        assert_eq!(InterlockedCompareExchange(at, 7, 5), 5);
        assert_eq!(at.read(), 7);
    }

    #[test]
    fn results_of_the_old_functions_are_flags() {
        let mut value = -2;
        let at = Ptr::of(&mut value);
        assert_eq!(Exfi386InterlockedIncrementLong(at), 0x8000);
        assert_eq!(Exfi386InterlockedIncrementLong(at), 0x4000);
        assert_eq!(Exfi386InterlockedIncrementLong(at), 0);
        assert_eq!(Exi386InterlockedDecrementLong(at), 0x4000);
    }

    #[test]
    fn sixty_four_bits_are_compared_and_a_held_lock_is_a_bugcheck() {
        let _machine = machine();
        let (mut target, mut exchange, mut comparand, mut lock) = (1_u64 << 40, 9, 1 << 40, 0);
        let lock = Ptr::of(&mut lock);
        let [target, exchange, comparand] =
            [&mut target, &mut exchange, &mut comparand].map(Ptr::of);
        assert_eq!(
            ExfInterlockedCompareExchange64(target, exchange, comparand),
            1 << 40
        );
        assert_eq!(target.read(), 9);
        assert_eq!(ExInterlockedAddLargeInteger(target.cast(), -10, lock), 9);
        assert_eq!(target.read(), u64::MAX);
        lock.write(1);
        let crash = crash_of(|| {
            ExInterlockedAddLargeInteger(target.cast(), 1, lock);
        });
        assert_eq!(crash.code, SPIN_LOCK_ALREADY_OWNED);
    }
}
