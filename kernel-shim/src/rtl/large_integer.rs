//! RtlLargeInteger and its family: 64-bit arithmetic for the i386 drivers of compilers that had none.

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, low32};
use crate::rtl::raise_status;
use crate::value::{LargeInteger, Long, UChar, ULong, ULongLong};

/// Raises STATUS_INTEGER_DIVIDE_BY_ZERO for a divisor of 0, as the processor's exception would.
fn check_divisor(divisor: u64) {
    if divisor == 0 {
        raise_status(NtStatus::INTEGER_DIVIDE_BY_ZERO);
    }
}

fn store<T: Copy>(place: Ptr<T>, value: T) {
    if !place.is_null() {
        place.write(value);
    }
}

nt_api! { module = rtl_large_integer;
    /// Sum.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerAdd(addend_1: LargeInteger, addend_2: LargeInteger) -> LargeInteger {
        addend_1.wrapping_add(addend_2)
    }

    /// Difference.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerSubtract(minuend: LargeInteger, subtrahend: LargeInteger) -> LargeInteger {
        minuend.wrapping_sub(subtrahend)
    }

    /// Negative.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerNegate(number: LargeInteger) -> LargeInteger {
        number.wrapping_neg()
    }

    /// Shifts left, by the count modulo 64.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerShiftLeft(number: LargeInteger, count: UChar) -> LargeInteger {
        number.wrapping_shl(u32::from(count))
    }

    /// Shifts right without the sign, by the count modulo 64.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerShiftRight(number: ULongLong, count: UChar) -> ULongLong {
        number.wrapping_shr(u32::from(count))
    }

    /// Shifts right with the sign, by the count modulo 64.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerArithmeticShift(number: LargeInteger, count: UChar) -> LargeInteger {
        number.wrapping_shr(u32::from(count))
    }

    /// Unsigned quotient and (if it is wanted) remainder.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlLargeIntegerDivide(dividend: ULongLong, divisor: ULongLong, remainder: Ptr<u64>) -> ULongLong {
        check_divisor(divisor);
        store(remainder, dividend % divisor);
        dividend / divisor
    }

    /// Unsigned quotient by a ULONG, and (if it is wanted) remainder.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlExtendedLargeIntegerDivide(dividend: ULongLong, divisor: ULong, remainder: Ptr<u32>) -> ULongLong {
        check_divisor(u64::from(divisor));
        store(remainder, low32(dividend % u64::from(divisor)));
        dividend / u64::from(divisor)
    }

    /// Quotient of 32 bits, and (if it is wanted) remainder.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlEnlargedUnsignedDivide(dividend: ULongLong, divisor: ULong, remainder: Ptr<u32>) -> ULong {
        check_divisor(u64::from(divisor));
        store(remainder, low32(dividend % u64::from(divisor)));
        low32(dividend / u64::from(divisor))
    }

    /// Division by multiplication: the upper 64 bits of the product with a magic number, shifted right; with the sign.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlExtendedMagicDivide(dividend: LargeInteger, magic_divisor: ULongLong, shift_count: UChar) -> LargeInteger {
        let product = u128::from(dividend.unsigned_abs()) * u128::from(magic_divisor);
        let [low, high] = [product, product >> 64].map(|half| half & u128::from(u64::MAX));
        let _ = low;
        let quotient = u64::try_from(high).unwrap_or(u64::MAX).wrapping_shr(u32::from(shift_count)).cast_signed();
        if dividend < 0 { quotient.wrapping_neg() } else { quotient }
    }

    /// Product with a LONG.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlExtendedIntegerMultiply(multiplicand: LargeInteger, multiplier: Long) -> LargeInteger {
        multiplicand.wrapping_mul(i64::from(multiplier))
    }

    /// Signed product of two LONGs.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlEnlargedIntegerMultiply(multiplicand: Long, multiplier: Long) -> LargeInteger {
        i64::from(multiplicand) * i64::from(multiplier)
    }

    /// Unsigned product of two ULONGs.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlEnlargedUnsignedMultiply(multiplicand: ULong, multiplier: ULong) -> ULongLong {
        u64::from(multiplicand) * u64::from(multiplier)
    }

    /// Widens with the sign.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlConvertLongToLargeInteger(number: Long) -> LargeInteger {
        i64::from(number)
    }

    /// Widens without a sign.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn RtlConvertUlongToLargeInteger(number: ULong) -> LargeInteger {
        i64::from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_divide() {
        // 2^64 / 10000 as the header's Magic10000 and its shift.
        let (magic, shift) = (0xD1B7_1758_E219_652C, 13);
        for number in [0, 9_999, 10_000, 123_456_789_012, -20_001] {
            assert_eq!(
                RtlExtendedMagicDivide(number, magic, shift),
                number / 10_000
            );
        }
    }

    #[test]
    fn remainders_are_optional() {
        let mut remainder = 0;
        assert_eq!(
            RtlEnlargedUnsignedDivide(1_000_007, 10, Ptr::of(&mut remainder)),
            100_000
        );
        assert_eq!(remainder, 7);
        assert_eq!(
            RtlLargeIntegerDivide(u64::MAX, 2, Ptr::null()),
            u64::MAX / 2
        );
        assert_eq!(RtlLargeIntegerArithmeticShift(-8, 65), -4);
    }
}
