//! The C library's functions for NUL-terminated UTF-16 strings.

use super::crt_text::{
    append, append_secure, at, change, compare, copy, copy_padded, copy_secure, find, find_text,
    length, lower, reverse, set_secure, span, token, upper,
};
use crate::api::nt_api;
use crate::raw::Ptr;
use crate::value::{Long, Size, UShort, WideStringPtr};

nt_api! { module = rtl_crt_wide;
    /// Number of units before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcslen(string: WideStringPtr) -> Size {
        Size(length(string.0, u64::MAX))
    }

    /// Number of units before the NUL, at most `count`.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsnlen(string: Ptr<u16>, count: Size) -> Size {
        Size(length(string, count.0))
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
        copy_padded(destination, source, count.0)
    }

    /// Appends a string.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscat(destination: Ptr<u16>, source: WideStringPtr) -> Ptr<u16> {
        append(destination, source.0, u64::MAX)
    }

    /// Appends at most `count` units of a string, and a NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncat(destination: Ptr<u16>, source: Ptr<u16>, count: Size) -> Ptr<u16> {
        append(destination, source, count.0)
    }

    /// The first occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcschr(string: WideStringPtr, character: UShort) -> Ptr<u16> {
        find(string.0, character, false)
    }

    /// The last occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsrchr(string: WideStringPtr, character: UShort) -> Ptr<u16> {
        find(string.0, character, true)
    }

    /// The first occurrence of a string in another; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsstr(string: WideStringPtr, wanted: WideStringPtr) -> Ptr<u16> {
        find_text(string.0, wanted.0)
    }

    /// Number of units at the start that are in a set.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsspn(string: WideStringPtr, set: WideStringPtr) -> Size {
        Size(span(string.0, set.0, true))
    }

    /// Number of units at the start that are not in a set.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscspn(string: WideStringPtr, set: WideStringPtr) -> Size {
        Size(span(string.0, set.0, false))
    }

    /// The first character that is in a set; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcspbrk(string: WideStringPtr, set: WideStringPtr) -> Ptr<u16> {
        let place = at(string.0, span(string.0, set.0, false));
        if place.read() == 0 { Ptr::null() } else { place }
    }

    /// The next token, which is closed with NUL; NULL if there is none. NULL for a NULL set or context.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcstok_s(string: Ptr<u16>, set: Ptr<u16>, context: Ptr<Ptr<u16>>) -> Ptr<u16> {
        token(string, set, context)
    }

    /// Turns ASCII capitals into small letters, in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcslwr(string: Ptr<u16>) -> Ptr<u16> {
        change(string, u64::MAX, lower)
    }

    /// Turns ASCII small letters into capitals, in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsupr(string: Ptr<u16>) -> Ptr<u16> {
        change(string, u64::MAX, upper)
    }

    /// Reverses a string in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsrev(string: Ptr<u16>) -> Ptr<u16> {
        reverse(string)
    }

    /// Sets every unit before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsset(string: Ptr<u16>, character: UShort) -> Ptr<u16> {
        let value = character;
        change(string, u64::MAX, |_| value)
    }

    /// Sets at most `count` units before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsnset(string: Ptr<u16>, character: UShort, count: Size) -> Ptr<u16> {
        let value = character;
        change(string, count.0, |_| value)
    }

    /// Copies a string into a buffer of a size. 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscpy_s(destination: Ptr<u16>, size: Size, source: Ptr<u16>) -> Long {
        copy_secure(destination, size.0, source, None)
    }

    /// Copies at most `count` units and a NUL;
    /// with _TRUNCATE as much as fits (STRUNCATE). 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncpy_s(destination: Ptr<u16>, size: Size, source: Ptr<u16>, count: Size) -> Long {
        copy_secure(destination, size.0, source, Some(count.0))
    }

    /// Appends a string in a buffer of a size. 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcscat_s(destination: Ptr<u16>, size: Size, source: Ptr<u16>) -> Long {
        append_secure(destination, size.0, source, None)
    }

    /// Appends at most `count` units and a NUL;
    /// with _TRUNCATE as much as fits (STRUNCATE). 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcsncat_s(destination: Ptr<u16>, size: Size, source: Ptr<u16>, count: Size) -> Long {
        append_secure(destination, size.0, source, Some(count.0))
    }

    /// Sets every unit before the NUL. EINVAL without a NUL in the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsset_s(string: Ptr<u16>, size: Size, character: UShort) -> Long {
        set_secure(string, size.0, character, None)
    }

    /// Sets at most `count` units before the NUL. EINVAL without a NUL in the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _wcsnset_s(string: Ptr<u16>, size: Size, character: UShort, count: Size) -> Long {
        set_secure(string, size.0, character, Some(count.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at as start, wide_z};

    #[test]
    fn units_are_counted_not_bytes() {
        let (mut text, mut part) = (wide_z("Äbc:d"), wide_z("c:"));
        let string = WideStringPtr(start(&mut text));
        assert_eq!(wcslen(string), Size(5));
        assert_eq!(wcsnlen(string.0, Size(3)), Size(3));
        assert_eq!(wcschr(string, u16::from(b'c')), at(string.0, 2));
        assert_eq!(
            wcsstr(string, WideStringPtr(start(&mut part))),
            at(string.0, 2)
        );
        let mut buffer = [7; 6];
        wcsncpy(start(&mut buffer), start(&mut part), Size(4));
        assert_eq!(buffer, [99, 58, 0, 0, 7, 7]);
        assert_eq!(wcscat_s(start(&mut buffer), Size(6), string.0), 34);
        assert_eq!(buffer[0], 0);
        _wcsupr(string.0);
        assert_eq!(text, wide_z("ÄBC:D"));
    }
}
