//! The C library's functions for NUL-terminated byte strings.

use crate::api::nt_api;
use crate::raw::{Ptr, low8};
use crate::rtl::ansi::narrow_length;
use crate::value::{Long, NarrowStringPtr, Size};

fn at(string: Ptr<u8>, index: u64) -> Ptr<u8> {
    string.add_bytes(index)
}

/// Compares at most `limit` bytes, up to and including the NUL; -1, 0 or 1.
fn compare(first: Ptr<u8>, second: Ptr<u8>, limit: u64, ignore_case: bool) -> i32 {
    let fold = |byte: u8| match byte {
        0x41..=0x5A if ignore_case => byte + 0x20,
        _ => byte,
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

/// Copies at most `limit` bytes of a string; returns how many, without the NUL, and whether the NUL came.
fn copy(destination: Ptr<u8>, source: Ptr<u8>, limit: u64) -> (u64, bool) {
    for index in 0..limit {
        let byte = at(source, index).read();
        at(destination, index).write(byte);
        if byte == 0 {
            return (index, true);
        }
    }
    (limit, false)
}

nt_api! { module = rtl_crt_narrow;
    /// Number of bytes before the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strlen(string: NarrowStringPtr) -> Size {
        Size(narrow_length(string.0))
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
        let (copied, _) = copy(destination, source, count.0);
        let rest = at(destination, copied).cast::<u8>();
        rest.fill(0, count.0 - copied);
        destination
    }

    /// Appends a string.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strcat(destination: Ptr<u8>, source: NarrowStringPtr) -> Ptr<u8> {
        copy(at(destination, narrow_length(destination)), source.0, u64::MAX);
        destination
    }

    /// Appends at most `count` bytes of a string, and a NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strncat(destination: Ptr<u8>, source: Ptr<u8>, count: Size) -> Ptr<u8> {
        let end = at(destination, narrow_length(destination));
        if let (copied, false) = copy(end, source, count.0) {
            at(end, copied).write(0);
        }
        destination
    }

    /// The first occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strchr(string: NarrowStringPtr, character: Long) -> Ptr<u8> {
        let wanted = low8(u64::from(character.cast_unsigned()));
        (0..=narrow_length(string.0))
            .map(|index| at(string.0, index))
            .find(|place| place.read() == wanted)
            .unwrap_or_default()
    }

    /// The last occurrence of a character (the NUL counts); NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strrchr(string: NarrowStringPtr, character: Long) -> Ptr<u8> {
        let wanted = low8(u64::from(character.cast_unsigned()));
        (0..=narrow_length(string.0))
            .rev()
            .map(|index| at(string.0, index))
            .find(|place| place.read() == wanted)
            .unwrap_or_default()
    }

    /// The first occurrence of a string in another; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn strstr(string: NarrowStringPtr, wanted: NarrowStringPtr) -> Ptr<u8> {
        let length = narrow_length(wanted.0);
        (0..=narrow_length(string.0))
            .map(|index| at(string.0, index))
            .find(|&place| compare(place, wanted.0, length, false) == 0)
            .unwrap_or_default()
    }

    /// The lower-case form of an ASCII letter; anything else stays.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn tolower(character: Long) -> Long {
        if (0x41..=0x5A).contains(&character) { character + 0x20 } else { character }
    }

    /// The upper-case form of an ASCII letter; anything else stays.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn toupper(character: Long) -> Long {
        if (0x61..=0x7A).contains(&character) { character - 0x20 } else { character }
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
