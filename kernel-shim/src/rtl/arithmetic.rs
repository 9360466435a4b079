//! What i386 compilers call for 64-bit arithmetic, and byte swaps.

use crate::api::nt_api;
use crate::nt::bugcheck::{UNEXPECTED_KERNEL_MODE_TRAP, bugcheck_with_text};
use crate::value::{LargeInteger, ULong, ULongLong, UShort};

/// Stops the driver as its own division would: #DE, vector 0.
fn check_divisor(divisor: u64) {
    if divisor == 0 {
        bugcheck_with_text(
            UNEXPECTED_KERNEL_MODE_TRAP,
            [0; 4],
            format_args!("the driver divided a 64-bit number by zero"),
        );
    }
}

nt_api! { module = rtl_arithmetic;
    /// 64-bit multiplication.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn _allmul(multiplicand: LargeInteger, multiplier: LargeInteger) -> LargeInteger {
        multiplicand.wrapping_mul(multiplier)
    }

    /// Signed 64-bit division.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn _alldiv(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger {
        check_divisor(divisor.cast_unsigned());
        dividend.wrapping_div(divisor)
    }

    /// Unsigned 64-bit division.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn _aulldiv(dividend: ULongLong, divisor: ULongLong) -> ULongLong {
        check_divisor(divisor);
        dividend / divisor
    }

    /// Signed 64-bit remainder.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn _allrem(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger {
        check_divisor(divisor.cast_unsigned());
        dividend.wrapping_rem(divisor)
    }

    /// Unsigned 64-bit remainder.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) implemented
    fn _aullrem(dividend: ULongLong, divisor: ULongLong) -> ULongLong {
        check_divisor(divisor);
        dividend % divisor
    }

    /// Shifts EDX:EAX left by CL. A call cannot see EAX here.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) missing
    fn _allshl() -> ULongLong {}

    /// Shifts EDX:EAX right by CL, keeping the sign. A call cannot see EAX here.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) missing
    fn _allshr() -> ULongLong {}

    /// Shifts EDX:EAX right by CL. A call cannot see EAX here.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) missing
    fn _aullshr() -> ULongLong {}

    /// Signed division with remainder in EBX:ECX. A call cannot set those here.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) missing
    fn _alldvrm(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger {}

    /// Unsigned division with remainder in EBX:ECX. A call cannot set those here.
    ntoskrnl i386 stdcall irql(ANY_LEVEL) missing
    fn _aulldvrm(dividend: ULongLong, divisor: ULongLong) -> ULongLong {}

    /// Reverses the bytes of a USHORT.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUshortByteSwap(source: UShort) -> UShort {
        source.swap_bytes()
    }

    /// Reverses the bytes of a ULONG.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUlongByteSwap(source: ULong) -> ULong {
        source.swap_bytes()
    }

    /// Reverses the bytes of a ULONGLONG.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUlonglongByteSwap(source: ULongLong) -> ULongLong {
        source.swap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_those_of_c() {
        assert_eq!(_allmul(-3, 1 << 40), -3 << 40);
        assert_eq!(_alldiv(-7, 2), -3);
        assert_eq!(_allrem(-7, 2), -1);
        assert_eq!(_alldiv(i64::MIN, -1), i64::MIN);
        assert_eq!(_aulldiv(u64::MAX, 10), u64::MAX / 10);
        assert_eq!(_aullrem(u64::MAX, 10), 5);
        assert_eq!(RtlUshortByteSwap(0x1234), 0x3412);
        assert_eq!(RtlUlongByteSwap(0x1234_5678), 0x7856_3412);
        assert_eq!(RtlUlonglongByteSwap(1), 1 << 56);
    }
}
