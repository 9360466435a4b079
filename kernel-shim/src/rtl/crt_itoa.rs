//! The C library's conversions of numbers to text: plain, with a buffer size, narrow and wide.

use super::crt_text::{EINVAL, ERANGE, Unit, at, refuse};
use super::number::digits;
use crate::api::nt_api;
use crate::raw::{Ptr, low32};
use crate::value::{LargeInteger, Long, Size, ULong, ULongLong};

/// A number in a base; only decimal numbers are signed. `bits` is the width of the type.
fn write<T: Unit>(
    buffer: Ptr<T>,
    size: u64,
    value: i64,
    bits: u32,
    is_signed: bool,
    base: u32,
) -> i32 {
    if buffer.is_null() || size == 0 {
        return EINVAL;
    }
    if !(2..=36).contains(&base) {
        return refuse(buffer, EINVAL);
    }
    let is_negative = is_signed && base == 10 && value < 0;
    let magnitude = match (is_negative, bits) {
        (true, _) => value.unsigned_abs(),
        (false, 32) => u64::from(low32(value.cast_unsigned())),
        (false, _) => value.cast_unsigned(),
    };
    let mut text = digits(magnitude, u64::from(base), false);
    if is_negative {
        text.insert(0, b'-');
    }
    text.push(0);
    if text.len() as u64 > size {
        return refuse(buffer, ERANGE);
    }
    for (index, byte) in (0..).zip(text) {
        at(buffer, index).write(T::ascii(byte));
    }
    0
}

fn write_plain<T: Unit>(
    buffer: Ptr<T>,
    value: i64,
    bits: u32,
    is_signed: bool,
    base: u32,
) -> Ptr<T> {
    write(buffer, u64::MAX, value, bits, is_signed, base);
    buffer
}

nt_api! { module = rtl_crt_itoa;
    /// Writes an int; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _itoa(value: Long, buffer: Ptr<u8>, base: ULong) -> Ptr<u8> { write_plain(buffer, value.into(), 32, true, base) }

    /// Writes an int; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _itow(value: Long, buffer: Ptr<u16>, base: ULong) -> Ptr<u16> { write_plain(buffer, value.into(), 32, true, base) }

    /// Writes a long; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ltoa(value: Long, buffer: Ptr<u8>, base: ULong) -> Ptr<u8> { write_plain(buffer, value.into(), 32, true, base) }

    /// Writes a long; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ltow(value: Long, buffer: Ptr<u16>, base: ULong) -> Ptr<u16> { write_plain(buffer, value.into(), 32, true, base) }

    /// Writes an unsigned long.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ultoa(value: ULong, buffer: Ptr<u8>, base: ULong) -> Ptr<u8> { write_plain(buffer, value.into(), 32, false, base) }

    /// Writes an unsigned long.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ultow(value: ULong, buffer: Ptr<u16>, base: ULong) -> Ptr<u16> { write_plain(buffer, value.into(), 32, false, base) }

    /// Writes a 64-bit number; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _i64toa(value: LargeInteger, buffer: Ptr<u8>, base: ULong) -> Ptr<u8> { write_plain(buffer, value, 64, true, base) }

    /// Writes a 64-bit number; base 10 with a sign.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _i64tow(value: LargeInteger, buffer: Ptr<u16>, base: ULong) -> Ptr<u16> { write_plain(buffer, value, 64, true, base) }

    /// Writes an unsigned 64-bit number.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ui64toa(value: ULongLong, buffer: Ptr<u8>, base: ULong) -> Ptr<u8> { write_plain(buffer, value.cast_signed(), 64, false, base) }

    /// Writes an unsigned 64-bit number.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ui64tow(value: ULongLong, buffer: Ptr<u16>, base: ULong) -> Ptr<u16> { write_plain(buffer, value.cast_signed(), 64, false, base) }

    /// As _itoa: 0, EINVAL (NULL, no room at all, a base not in 2 to 36), ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _itoa_s(value: Long, buffer: Ptr<u8>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, true, base) }

    /// As _itow, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _itow_s(value: Long, buffer: Ptr<u16>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, true, base) }

    /// As _ltoa, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ltoa_s(value: Long, buffer: Ptr<u8>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, true, base) }

    /// As _ltow, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ltow_s(value: Long, buffer: Ptr<u16>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, true, base) }

    /// As _ultoa, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ultoa_s(value: ULong, buffer: Ptr<u8>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, false, base) }

    /// As _ultow, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ultow_s(value: ULong, buffer: Ptr<u16>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.into(), 32, false, base) }

    /// As _i64toa, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _i64toa_s(value: LargeInteger, buffer: Ptr<u8>, size: Size, base: ULong) -> Long { write(buffer, size.0, value, 64, true, base) }

    /// As _i64tow, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _i64tow_s(value: LargeInteger, buffer: Ptr<u16>, size: Size, base: ULong) -> Long { write(buffer, size.0, value, 64, true, base) }

    /// As _ui64toa, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ui64toa_s(value: ULongLong, buffer: Ptr<u8>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.cast_signed(), 64, false, base) }

    /// As _ui64tow, with the errors of _itoa_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _ui64tow_s(value: ULongLong, buffer: Ptr<u16>, size: Size, base: ULong) -> Long { write(buffer, size.0, value.cast_signed(), 64, false, base) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at as start;

    #[test]
    fn numbers_are_written_if_they_fit() {
        let mut buffer = [b'~'; 70];
        let place = start(&mut buffer);
        let text = || crate::raw::narrow_string(place, 70);
        assert_eq!(
            (_itoa_s(-15, place, Size(4), 10), text()),
            (0, "-15".into())
        );
        assert_eq!(
            (_itoa_s(-15, place, Size(3), 10), text()),
            (ERANGE, String::new())
        );
        assert_eq!(
            (_itoa_s(-1, place, Size(9), 16), text()),
            (0, "ffffffff".into())
        );
        assert_eq!(_itoa_s(1, place, Size(9), 37), EINVAL);
        assert_eq!(_itoa_s(1, Ptr::null(), Size(9), 10), EINVAL);
        _i64toa(-1, place, 2);
        assert_eq!(text(), "1".repeat(64));
        _i64toa(i64::MIN, place, 10);
        assert_eq!(text(), "-9223372036854775808");
        _ultoa(u32::MAX, place, 36);
        assert_eq!(text(), "1z141z3");
    }
}
