//! The C library's conversions of text to numbers.

use super::crt_text::{Unit, at};
use crate::api::nt_api;
use crate::raw::{Ptr, low32};
use crate::value::{LargeInteger, Long, NarrowStringPtr, ULong, ULongLong, WideStringPtr};

/// A number as it stands in a text.
struct Parsed {
    is_negative: bool,
    /// `None` if it has more than 64 bits.
    magnitude: Option<u64>,
    /// Characters up to the first that does not belong to it; 0 if there is no number.
    length: u64,
}

/// Reads white space, a sign, a prefix (0x for 16 or 0, 0 for 0) and digits; an unknown base finds no number.
fn parse<T: Unit>(text: Ptr<T>, base: u32) -> Parsed {
    let mut index = 0;
    let peek =
        |index| char::from_u32(u32::from(at(text, index).read().number())).unwrap_or('\u{FFFD}');
    while matches!(peek(index), ' ' | '\t'..='\r') {
        index += 1;
    }
    let is_negative = peek(index) == '-';
    if matches!(peek(index), '-' | '+') {
        index += 1;
    }
    let has_prefix = || {
        peek(index) == '0'
            && matches!(peek(index + 1), 'x' | 'X')
            && peek(index + 2).is_ascii_hexdigit()
    };
    let radix = match base {
        0 | 16 if has_prefix() => {
            index += 2;
            16
        }
        0 if peek(index) == '0' => 8,
        0 => 10,
        _ => base,
    };
    let mut parsed = Parsed {
        is_negative,
        magnitude: Some(0),
        length: 0,
    };
    if !(2..=36).contains(&radix) {
        return parsed;
    }
    while let Some(digit) = peek(index).to_digit(radix) {
        parsed.magnitude = parsed.magnitude.and_then(|value| {
            value
                .checked_mul(u64::from(radix))?
                .checked_add(u64::from(digit))
        });
        index += 1;
        parsed.length = index;
    }
    parsed
}

fn report_end<T: Unit>(text: Ptr<T>, end: Ptr<Ptr<T>>, parsed: &Parsed) {
    if !end.is_null() {
        end.write(at(text, parsed.length));
    }
}

/// strtol and its like: limited to `minimum..=maximum`.
fn signed<T: Unit>(text: Ptr<T>, end: Ptr<Ptr<T>>, base: u32, minimum: i64, maximum: i64) -> i64 {
    let parsed = parse(text, base);
    report_end(text, end, &parsed);
    let limit = if parsed.is_negative {
        minimum.unsigned_abs()
    } else {
        maximum.unsigned_abs()
    };
    let magnitude = parsed.magnitude.map_or(limit, |value| value.min(limit));
    if parsed.is_negative {
        0_i64.wrapping_sub_unsigned(magnitude)
    } else {
        magnitude.cast_signed()
    }
}

/// strtoul and its like: a sign negates within the type's width.
fn unsigned<T: Unit>(text: Ptr<T>, end: Ptr<Ptr<T>>, base: u32, maximum: u64) -> u64 {
    let parsed = parse(text, base);
    report_end(text, end, &parsed);
    match parsed.magnitude.filter(|&value| value <= maximum) {
        None => maximum,
        Some(value) if parsed.is_negative => value.wrapping_neg() & maximum,
        Some(value) => value,
    }
}

/// atoi and its like: what does not fit is cut off to the low bits of a 64-bit number.
fn decimal<T: Unit>(text: Ptr<T>) -> i64 {
    signed(text, Ptr::null(), 10, i64::MIN, i64::MAX)
}

const LONG: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);

fn long(value: i64) -> i32 {
    low32(value.cast_unsigned()).cast_signed()
}

nt_api! { module = rtl_crt_number;
    /// A decimal number: white space, a sign, digits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn atoi(text: NarrowStringPtr) -> Long { long(decimal(text.0)) }

    /// A decimal number: white space, a sign, digits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn atol(text: NarrowStringPtr) -> Long { long(decimal(text.0)) }

    /// A decimal number of 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _atoi64(text: NarrowStringPtr) -> LargeInteger { decimal(text.0) }

    /// A decimal number: white space, a sign, digits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wtoi(text: WideStringPtr) -> Long { long(decimal(text.0)) }

    /// A decimal number: white space, a sign, digits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wtol(text: WideStringPtr) -> Long { long(decimal(text.0)) }

    /// A decimal number of 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wtoi64(text: WideStringPtr) -> LargeInteger { decimal(text.0) }

    /// A number in base 2 to 36, or as its prefix says (0); LONG_MIN or LONG_MAX if it does not fit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strtol(text: NarrowStringPtr, end: Ptr<Ptr<u8>>, base: ULong) -> Long {
        long(signed(text.0, end, base, LONG.0, LONG.1))
    }

    /// A number in base 2 to 36, or as its prefix says (0); ULONG_MAX if it does not fit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strtoul(text: NarrowStringPtr, end: Ptr<Ptr<u8>>, base: ULong) -> ULong {
        low32(unsigned(text.0, end, base, u64::from(u32::MAX)))
    }

    /// As strtol, with 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strtoi64(text: NarrowStringPtr, end: Ptr<Ptr<u8>>, base: ULong) -> LargeInteger {
        signed(text.0, end, base, i64::MIN, i64::MAX)
    }

    /// As strtoul, with 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strtoui64(text: NarrowStringPtr, end: Ptr<Ptr<u8>>, base: ULong) -> ULongLong {
        unsigned(text.0, end, base, u64::MAX)
    }

    /// As strtol.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcstol(text: WideStringPtr, end: Ptr<Ptr<u16>>, base: ULong) -> Long {
        long(signed(text.0, end, base, LONG.0, LONG.1))
    }

    /// As strtoul.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcstoul(text: WideStringPtr, end: Ptr<Ptr<u16>>, base: ULong) -> ULong {
        low32(unsigned(text.0, end, base, u64::from(u32::MAX)))
    }

    /// As strtol, with 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcstoi64(text: WideStringPtr, end: Ptr<Ptr<u16>>, base: ULong) -> LargeInteger {
        signed(text.0, end, base, i64::MIN, i64::MAX)
    }

    /// As strtoul, with 64 bits.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcstoui64(text: WideStringPtr, end: Ptr<Ptr<u16>>, base: ULong) -> ULongLong {
        unsigned(text.0, end, base, u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at as start, narrow_z, wide_z};

    fn read(text: &str, base: u32) -> (i32, u32, u64) {
        let mut bytes = narrow_z(text);
        let place = NarrowStringPtr(start(&mut bytes));
        let mut end = Ptr::null();
        let long = strtol(place, Ptr::of(&mut end), base);
        (
            long,
            strtoul(place, Ptr::null(), base),
            end.addr() - place.0.addr(),
        )
    }

    #[test]
    fn numbers_are_read_as_in_c() {
        assert_eq!(read(" \t-12;", 10), (-12, 12_u32.wrapping_neg(), 5));
        assert_eq!(read("0x1fg", 0), (31, 31, 4));
        assert_eq!(read("0x1f", 16), (31, 31, 4));
        assert_eq!(read("0xg", 16), (0, 0, 1), "the 0 alone is the number");
        assert_eq!(read("017", 0), (15, 15, 3));
        assert_eq!(read("zz", 36), (35 * 37, 35 * 37, 2));
        assert_eq!(read("-", 10), (0, 0, 0));
        assert_eq!(read("12", 1), (0, 0, 0));
        assert_eq!(read("4294967296", 10), (i32::MAX, u32::MAX, 10));
        assert_eq!(
            read("-99999999999999999999999", 10),
            (i32::MIN, u32::MAX, 24)
        );
        let mut wide = wide_z("  42x");
        assert_eq!(_wtoi(WideStringPtr(start(&mut wide))), 42);
        let mut large = narrow_z("-9223372036854775808");
        assert_eq!(_atoi64(NarrowStringPtr(start(&mut large))), i64::MIN);
    }
}
