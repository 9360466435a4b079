//! Numbers as text.

use alloc::vec::Vec;

use super::ansi_unicode::deliver_wide;
use crate::api::nt_api;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low8, unicode_string};
use crate::value::{NarrowStringPtr, ULong, ULongLong, UnicodeStringPtr};

/// The digits of a number, most significant first; at least one. The base is at most 36.
pub(crate) fn digits(mut value: u64, base: u64, is_upper: bool) -> Vec<u8> {
    let table = if is_upper {
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    } else {
        b"0123456789abcdefghijklmnopqrstuvwxyz"
    };
    let mut digits = Vec::new();
    loop {
        digits.push(table[usize::from(low8(value % base))]);
        value /= base;
        if value == 0 {
            break;
        }
    }
    digits.reverse();
    digits
}

/// Reads a number as RtlUnicodeStringToInteger does; `None` for a base that there is not.
fn parse(text: &[u16], base: u32) -> Option<u32> {
    let mut rest = text
        .iter()
        .map(|&unit| char::from_u32(u32::from(unit)).unwrap_or('\u{FFFD}'))
        .peekable();
    while rest.next_if(|&character| character <= ' ').is_some() {}
    let is_negative = rest.next_if(|&character| character == '-').is_some();
    if !is_negative {
        rest.next_if_eq(&'+');
    }
    let radix = match base {
        0 if rest.next_if_eq(&'0').is_some() => match rest.peek() {
            Some('x') => 16,
            Some('o') => 8,
            Some('b') => 2,
            _ => 10,
        },
        0 => 10,
        2 | 8 | 10 | 16 => base,
        _ => return None,
    };
    if base == 0 && radix != 10 {
        rest.next();
    }
    let mut value: u32 = 0;
    while let Some(digit) = rest.next().and_then(|character| character.to_digit(radix)) {
        value = value.wrapping_mul(radix).wrapping_add(digit);
    }
    Some(if is_negative {
        value.wrapping_neg()
    } else {
        value
    })
}

nt_api! { module = rtl_number;
    /// Reads a number: blanks, a sign, with base 0 a prefix 0x, 0o or 0b, then digits up to the first other
    /// character. STATUS_INVALID_PARAMETER for a base other than 0, 2, 8, 10 or 16.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeStringToInteger(string: UnicodeStringPtr, base: ULong, value: Ptr<u32>) -> NtStatus {
        match parse(&unicode_string(string.0), base) {
            Some(number) => {
                value.write(number);
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// Writes an unsigned number in base 2, 8, 10 (or 0) or 16, closed with NUL.
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_INVALID_PARAMETER: another base.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlIntegerToUnicodeString(value: ULong, base: ULong, string: Ptr<UNICODE_STRING>) -> NtStatus {
        write(u64::from(value), base, string)
    }

    /// As RtlIntegerToUnicodeString, with 64 bits.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlInt64ToUnicodeString(value: ULongLong, base: ULong, string: Ptr<UNICODE_STRING>) -> NtStatus {
        write(value, base, string)
    }

    /// Reads a number as RtlUnicodeStringToInteger does, from a NUL-terminated byte string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCharToInteger(string: NarrowStringPtr, base: ULong, value: Ptr<u32>) -> NtStatus {
        let units: Vec<u16> = super::crt_text::text(string.0).into_iter().map(u16::from).collect();
        match parse(&units, base) {
            Some(number) => {
                value.write(number);
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// Writes an unsigned number into a buffer of a length, with a NUL if there is room for it.
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_INVALID_PARAMETER: a base other than 0, 2, 8, 10, 16.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlIntegerToChar(value: ULong, base: ULong, length: ULong, buffer: Ptr<u8>) -> NtStatus {
        let Some(base) = base_of(base) else {
            return NtStatus::INVALID_PARAMETER;
        };
        let mut text = digits(u64::from(value), base, true);
        if text.len() as u64 > u64::from(length) {
            return NtStatus::BUFFER_OVERFLOW;
        }
        if (text.len() as u64) < u64::from(length) {
            text.push(0);
        }
        buffer.write_bytes(&text);
        NtStatus::SUCCESS
    }
}

/// The base that a number stands for: 0 is 10.
fn base_of(base: u32) -> Option<u64> {
    match base {
        0 => Some(10),
        2 | 8 | 10 | 16 => Some(u64::from(base)),
        _ => None,
    }
}

fn write(value: u64, base: u32, string: Ptr<UNICODE_STRING>) -> NtStatus {
    let Some(base) = base_of(base) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let units: Vec<u16> = digits(value, base, true)
        .into_iter()
        .map(u16::from)
        .collect();
    deliver_wide(string, &units, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::wide;

    fn read(text: &str, base: u32) -> (NtStatus, u32) {
        let mut string = wide(text, text.len());
        let mut value = 0xDEAD;
        let status =
            RtlUnicodeStringToInteger(UnicodeStringPtr(string.ptr()), base, Ptr::of(&mut value));
        (status, value)
    }

    #[test]
    fn numbers_are_read_up_to_the_first_other_character() {
        assert_eq!(
            read(" \t-12;", 0),
            (NtStatus::SUCCESS, 12_u32.wrapping_neg())
        );
        assert_eq!(read("+0x378", 0), (NtStatus::SUCCESS, 0x378));
        assert_eq!(read("0b101", 0), (NtStatus::SUCCESS, 5));
        assert_eq!(read("0o17", 0), (NtStatus::SUCCESS, 15));
        assert_eq!(read("017", 0), (NtStatus::SUCCESS, 17));
        assert_eq!(read("fFg", 16), (NtStatus::SUCCESS, 255));
        assert_eq!(read("", 10), (NtStatus::SUCCESS, 0));
        assert_eq!(read("4294967297", 10), (NtStatus::SUCCESS, 1));
        assert_eq!(read("1", 7), (NtStatus::INVALID_PARAMETER, 0xDEAD));
    }

    #[test]
    fn numbers_are_written() {
        let mut string = wide("", 9);
        let mut write = |value, base| {
            let status = RtlIntegerToUnicodeString(value, base, string.ptr());
            (status, string.text())
        };
        assert_eq!(
            write(0xDEAD_BEEF, 16),
            (NtStatus::SUCCESS, "DEADBEEF".into())
        );
        assert_eq!(write(0, 0), (NtStatus::SUCCESS, "0".into()));
        assert_eq!(write(5, 2), (NtStatus::SUCCESS, "101".into()));
        assert_eq!(write(5, 3).0, NtStatus::INVALID_PARAMETER);
        assert_eq!(write(u32::MAX, 10).0, NtStatus::BUFFER_OVERFLOW);
    }
}
