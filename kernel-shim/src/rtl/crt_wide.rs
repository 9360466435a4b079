//! The C library's functions for NUL-terminated UTF-16 strings.

use crate::api::nt_api;
use crate::raw::Ptr;
use crate::rtl::unicode::wide_length;
use crate::value::{Long, Size, UShort, WideStringPtr};

fn at(string: Ptr<u16>, index: u64) -> Ptr<u16> {
    string.add_bytes(2 * index)
}

/// Compares at most `limit` units, up to and including the NUL; -1, 0 or 1.
fn compare(first: Ptr<u16>, second: Ptr<u16>, limit: u64, ignore_case: bool) -> i32 {
    let fold = |unit: u16| match unit {
        0x41..=0x5A if ignore_case => unit + 0x20,
        _ => unit,
    };
    for index in 0..limit {
        let (a, b) = (
            fold(at(first, index).read()),
            fold(at(second, index).read()),
        );
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        if a == 0 {
            break;
        }
    }
    0
}

/// Copies at most `limit` units of a string; returns how many, without the NUL, and whether the NUL came.
fn copy(destination: Ptr<u16>, source: Ptr<u16>, limit: u64) -> (u64, bool) {
    for index in 0..limit {
        let unit = at(source, index).read();
        at(destination, index).write(unit);
        if unit == 0 {
            return (index, true);
        }
    }
    (limit, false)
}

nt_api! { module = rtl_crt_wide;
    /// Number of units before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcslen(string: WideStringPtr) -> Size {
        Size(wide_length(string.0))
    }

    /// Compares two strings: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscmp(first: WideStringPtr, second: WideStringPtr) -> Long {
        compare(first.0, second.0, u64::MAX, false)
    }

    /// Compares at most `count` units of two strings: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncmp(first: Ptr<u16>, second: Ptr<u16>, count: Size) -> Long {
        compare(first, second, count.0, false)
    }

    /// Compares two strings without regard to the case of ASCII letters: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsicmp(first: WideStringPtr, second: WideStringPtr) -> Long {
        compare(first.0, second.0, u64::MAX, true)
    }

    /// Compares at most `count` units without regard to the case of ASCII letters: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsnicmp(first: Ptr<u16>, second: Ptr<u16>, count: Size) -> Long {
        compare(first, second, count.0, true)
    }

    /// Copies a string with its NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscpy(destination: Ptr<u16>, source: WideStringPtr) -> Ptr<u16> {
        copy(destination, source.0, u64::MAX);
        destination
    }

    /// Copies exactly `count` units: the string, then NULs; no NUL if the string is that long.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncpy(destination: Ptr<u16>, source: Ptr<u16>, count: Size) -> Ptr<u16> {
        let (copied, _) = copy(destination, source, count.0);
        let rest = at(destination, copied).cast::<u8>();
        rest.fill(0, 2 * (count.0 - copied));
        destination
    }

    /// Appends a string.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscat(destination: Ptr<u16>, source: WideStringPtr) -> Ptr<u16> {
        copy(at(destination, wide_length(destination)), source.0, u64::MAX);
        destination
    }

    /// Appends at most `count` units of a string, and a NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncat(destination: Ptr<u16>, source: Ptr<u16>, count: Size) -> Ptr<u16> {
        let end = at(destination, wide_length(destination));
        if let (copied, false) = copy(end, source, count.0) {
            at(end, copied).write(0);
        }
        destination
    }

    /// The first occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcschr(string: WideStringPtr, character: UShort) -> Ptr<u16> {
        let wanted = character;
        (0..=wide_length(string.0))
            .map(|index| at(string.0, index))
            .find(|place| place.read() == wanted)
            .unwrap_or_default()
    }

    /// The last occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsrchr(string: WideStringPtr, character: UShort) -> Ptr<u16> {
        let wanted = character;
        (0..=wide_length(string.0))
            .rev()
            .map(|index| at(string.0, index))
            .find(|place| place.read() == wanted)
            .unwrap_or_default()
    }

    /// The first occurrence of a string in another; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsstr(string: WideStringPtr, wanted: WideStringPtr) -> Ptr<u16> {
        let length = wide_length(wanted.0);
        (0..=wide_length(string.0))
            .map(|index| at(string.0, index))
            .find(|&place| compare(place, wanted.0, length, false) == 0)
            .unwrap_or_default()
    }

    /// The lower-case form of a character, as in RtlDowncaseUnicodeChar.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn towlower(character: UShort) -> UShort {
        crate::rtl::codepage::downcase(character)
    }

    /// The upper-case form of a character, as in RtlUpcaseUnicodeChar.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn towupper(character: UShort) -> UShort {
        crate::rtl::codepage::upcase(character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at as start, wide_z};

    #[test]
    fn comparison_knows_order_limit_and_case() {
        let (mut a, mut b, mut c) = (wide_z("Port1"), wide_z("pORT1"), wide_z("Port"));
        let (a, b, c) = (start(&mut a), start(&mut b), start(&mut c));
        assert_eq!(wcscmp(WideStringPtr(a), WideStringPtr(b)), -1);
        assert_eq!(wcscmp(WideStringPtr(a), WideStringPtr(c)), 1);
        assert_eq!(wcsncmp(a, c, Size(4)), 0);
        assert_eq!(wcsncmp(a, c, Size(5)), 1);
        assert_eq!(_wcsicmp(WideStringPtr(a), WideStringPtr(b)), 0);
        assert_eq!(_wcsnicmp(a, c, Size(9)), 1);
        assert_eq!(_wcsnicmp(b, c, Size(4)), 0);
        assert_eq!(wcslen(WideStringPtr(a)), Size(5));
    }

    #[test]
    fn copying_pads_and_appending_terminates() {
        let mut buffer = [7; 8];
        let (mut long, mut short) = (wide_z("abcdef"), wide_z("xy"));
        wcsncpy(start(&mut buffer), start(&mut long), Size(3));
        assert_eq!(buffer[3], 7);
        wcsncpy(start(&mut buffer), start(&mut short), Size(4));
        assert_eq!(buffer[2..5], [0, 0, 7]);
        wcsncat(start(&mut buffer), start(&mut long), Size(2));
        assert_eq!(
            buffer[..6],
            wide_z("xyab")[..]
                .iter()
                .copied()
                .chain([7])
                .collect::<Vec<_>>()
        );
        wcscat(start(&mut buffer), WideStringPtr(start(&mut short)));
        assert_eq!(buffer[..7], wide_z("xyabxy"));
        let destination = start(&mut buffer);
        assert_eq!(
            wcscpy(destination, WideStringPtr(start(&mut short))),
            destination
        );
        assert_eq!(buffer[..3], wide_z("xy"));
    }

    #[test]
    fn searching_finds_first_last_and_text() {
        let (mut text, mut part, mut none, mut empty) = (
            wide_z("LPT1:LPT2"),
            wide_z("LPT2"),
            wide_z("COM"),
            wide_z(""),
        );
        let string = start(&mut text);
        let wanted = u16::from(b'L');
        assert_eq!(wcschr(WideStringPtr(string), wanted), string);
        assert_eq!(wcsrchr(WideStringPtr(string), wanted), at(string, 5));
        assert_eq!(wcschr(WideStringPtr(string), 0), at(string, 9));
        assert!(wcschr(WideStringPtr(string), u16::from(b'Z')).is_null());
        assert_eq!(
            wcsstr(WideStringPtr(string), WideStringPtr(start(&mut part))),
            at(string, 5)
        );
        assert!(wcsstr(WideStringPtr(string), WideStringPtr(start(&mut none))).is_null());
        assert_eq!(
            wcsstr(WideStringPtr(string), WideStringPtr(start(&mut empty))),
            string
        );
    }
}
