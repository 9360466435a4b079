//! The C library's functions for NUL-terminated byte strings.

use super::crt_text::{
    append, append_secure, at, change, compare, copy, copy_padded, copy_secure, find, find_text,
    length, lower, reverse, set_secure, span, token, upper,
};
use crate::api::nt_api;
use crate::raw::{Ptr, low8};
use crate::value::{Long, NarrowStringPtr, Size};

nt_api! { module = rtl_crt_narrow;
    /// Number of bytes before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strlen(string: NarrowStringPtr) -> Size {
        Size(length(string.0, u64::MAX))
    }

    /// Number of bytes before the NUL, at most `count`.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strnlen(string: Ptr<u8>, count: Size) -> Size {
        Size(length(string, count.0))
    }

    /// Compares two strings: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcmp(first: NarrowStringPtr, second: NarrowStringPtr) -> Long {
        compare(first.0, second.0, u64::MAX, false)
    }

    /// Compares at most `count` bytes of two strings: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncmp(first: Ptr<u8>, second: Ptr<u8>, count: Size) -> Long {
        compare(first, second, count.0, false)
    }

    /// Compares two strings without regard to the case of ASCII letters: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _stricmp(first: NarrowStringPtr, second: NarrowStringPtr) -> Long {
        compare(first.0, second.0, u64::MAX, true)
    }

    /// Compares at most `count` bytes without regard to the case of ASCII letters: -1, 0 or 1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strnicmp(first: Ptr<u8>, second: Ptr<u8>, count: Size) -> Long {
        compare(first, second, count.0, true)
    }

    /// Copies a string with its NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcpy(destination: Ptr<u8>, source: NarrowStringPtr) -> Ptr<u8> {
        copy(destination, source.0, u64::MAX);
        destination
    }

    /// Copies exactly `count` bytes: the string, then NULs; no NUL if the string is that long.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncpy(destination: Ptr<u8>, source: Ptr<u8>, count: Size) -> Ptr<u8> {
        copy_padded(destination, source, count.0)
    }

    /// Appends a string.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcat(destination: Ptr<u8>, source: NarrowStringPtr) -> Ptr<u8> {
        append(destination, source.0, u64::MAX)
    }

    /// Appends at most `count` bytes of a string, and a NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncat(destination: Ptr<u8>, source: Ptr<u8>, count: Size) -> Ptr<u8> {
        append(destination, source, count.0)
    }

    /// The first occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strchr(string: NarrowStringPtr, character: Long) -> Ptr<u8> {
        find(string.0, low8(u64::from(character.cast_unsigned())), false)
    }

    /// The last occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strrchr(string: NarrowStringPtr, character: Long) -> Ptr<u8> {
        find(string.0, low8(u64::from(character.cast_unsigned())), true)
    }

    /// The first occurrence of a string in another; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strstr(string: NarrowStringPtr, wanted: NarrowStringPtr) -> Ptr<u8> {
        find_text(string.0, wanted.0)
    }

    /// Number of bytes at the start that are in a set.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strspn(string: NarrowStringPtr, set: NarrowStringPtr) -> Size {
        Size(span(string.0, set.0, true))
    }

    /// Number of bytes at the start that are not in a set.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcspn(string: NarrowStringPtr, set: NarrowStringPtr) -> Size {
        Size(span(string.0, set.0, false))
    }

    /// The first character that is in a set; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strpbrk(string: NarrowStringPtr, set: NarrowStringPtr) -> Ptr<u8> {
        let place = at(string.0, span(string.0, set.0, false));
        if place.read() == 0 { Ptr::null() } else { place }
    }

    /// The next token, which is closed with NUL; NULL if there is none. NULL for a NULL set or context.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strtok_s(string: Ptr<u8>, set: Ptr<u8>, context: Ptr<Ptr<u8>>) -> Ptr<u8> {
        token(string, set, context)
    }

    /// Turns ASCII capitals into small letters, in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strlwr(string: Ptr<u8>) -> Ptr<u8> {
        change(string, u64::MAX, lower)
    }

    /// Turns ASCII small letters into capitals, in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strupr(string: Ptr<u8>) -> Ptr<u8> {
        change(string, u64::MAX, upper)
    }

    /// Reverses a string in place.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strrev(string: Ptr<u8>) -> Ptr<u8> {
        reverse(string)
    }

    /// Sets every byte before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strset(string: Ptr<u8>, character: Long) -> Ptr<u8> {
        let value = low8(u64::from(character.cast_unsigned()));
        change(string, u64::MAX, |_| value)
    }

    /// Sets at most `count` bytes before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strnset(string: Ptr<u8>, character: Long, count: Size) -> Ptr<u8> {
        let value = low8(u64::from(character.cast_unsigned()));
        change(string, count.0, |_| value)
    }

    /// Copies a string into a buffer of a size. 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcpy_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>) -> Long {
        copy_secure(destination, size.0, source, None)
    }

    /// Copies at most `count` bytes and a NUL;
    /// with _TRUNCATE as much as fits (STRUNCATE). 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncpy_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>, count: Size) -> Long {
        copy_secure(destination, size.0, source, Some(count.0))
    }

    /// Appends a string in a buffer of a size. 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcat_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>) -> Long {
        append_secure(destination, size.0, source, None)
    }

    /// Appends at most `count` bytes and a NUL;
    /// with _TRUNCATE as much as fits (STRUNCATE). 0, EINVAL or ERANGE; an error empties the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncat_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>, count: Size) -> Long {
        append_secure(destination, size.0, source, Some(count.0))
    }

    /// Sets every byte before the NUL. EINVAL without a NUL in the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strset_s(string: Ptr<u8>, size: Size, character: Long) -> Long {
        set_secure(string, size.0, low8(u64::from(character.cast_unsigned())), None)
    }

    /// Sets at most `count` bytes before the NUL. EINVAL without a NUL in the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _strnset_s(string: Ptr<u8>, size: Size, character: Long, count: Size) -> Long {
        set_secure(string, size.0, low8(u64::from(character.cast_unsigned())), Some(count.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at as start, narrow_z};

    #[test]
    fn comparison_knows_order_limit_and_case() {
        let (mut a, mut b, mut c) = (narrow_z("Port1"), narrow_z("pORT1"), narrow_z("Port"));
        let (a, b, c) = (start(&mut a), start(&mut b), start(&mut c));
        assert_eq!(strcmp(NarrowStringPtr(a), NarrowStringPtr(b)), -1);
        assert_eq!(strcmp(NarrowStringPtr(a), NarrowStringPtr(c)), 1);
        assert_eq!(strncmp(a, c, Size(4)), 0);
        assert_eq!(strncmp(a, c, Size(5)), 1);
        assert_eq!(_stricmp(NarrowStringPtr(a), NarrowStringPtr(b)), 0);
        assert_eq!(_strnicmp(a, c, Size(9)), 1);
        assert_eq!(_strnicmp(b, c, Size(4)), 0);
        assert_eq!(strlen(NarrowStringPtr(a)), Size(5));
    }

    #[test]
    fn copying_pads_and_appending_terminates() {
        let mut buffer = [7; 8];
        let (mut long, mut short) = (narrow_z("abcdef"), narrow_z("xy"));
        strncpy(start(&mut buffer), start(&mut long), Size(3));
        assert_eq!(buffer[3], 7);
        strncpy(start(&mut buffer), start(&mut short), Size(4));
        assert_eq!(buffer[2..5], [0, 0, 7]);
        strncat(start(&mut buffer), start(&mut long), Size(2));
        assert_eq!(
            buffer[..6],
            narrow_z("xyab")[..]
                .iter()
                .copied()
                .chain([7])
                .collect::<Vec<_>>()
        );
        strcat(start(&mut buffer), NarrowStringPtr(start(&mut short)));
        assert_eq!(buffer[..7], narrow_z("xyabxy"));
        let destination = start(&mut buffer);
        assert_eq!(
            strcpy(destination, NarrowStringPtr(start(&mut short))),
            destination
        );
        assert_eq!(buffer[..3], narrow_z("xy"));
    }

    #[test]
    fn searching_finds_first_last_and_text() {
        let (mut text, mut part, mut none, mut empty) = (
            narrow_z("LPT1:LPT2"),
            narrow_z("LPT2"),
            narrow_z("COM"),
            narrow_z(""),
        );
        let string = start(&mut text);
        let wanted = i32::from(b'L');
        assert_eq!(strchr(NarrowStringPtr(string), wanted), string);
        assert_eq!(strrchr(NarrowStringPtr(string), wanted), at(string, 5));
        assert_eq!(strchr(NarrowStringPtr(string), 0), at(string, 9));
        assert!(strchr(NarrowStringPtr(string), i32::from(b'Z')).is_null());
        assert_eq!(
            strstr(NarrowStringPtr(string), NarrowStringPtr(start(&mut part))),
            at(string, 5)
        );
        assert!(strstr(NarrowStringPtr(string), NarrowStringPtr(start(&mut none))).is_null());
        assert_eq!(
            strstr(NarrowStringPtr(string), NarrowStringPtr(start(&mut empty))),
            string
        );
    }
}
