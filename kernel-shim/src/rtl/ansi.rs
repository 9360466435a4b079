//! STRING (ANSI_STRING): initialize, copy, append, compare, case.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::{NtStatus, STRING};
use crate::raw::{Ptr, low16};
use crate::rtl::codepage::upcase_ansi;
use crate::value::{AnsiStringPtr, Long, NarrowStringPtr, UChar};

/// Most bytes of text that a STRING made from a NUL-terminated string has: room for the NUL stays.
const MOST_BYTES: u64 = 0xFFFE;

/// Number of bytes before the NUL.
pub(crate) fn narrow_length(string: Ptr<u8>) -> u64 {
    let mut bytes = 0;
    while string.add_bytes(bytes).read() != 0 {
        bytes += 1;
    }
    bytes
}

/// The text of a STRING.
pub(crate) fn ansi_string(string: Ptr<STRING>) -> Vec<u8> {
    let STRING {
        Length: bytes,
        Buffer: buffer,
        ..
    } = string.read();
    buffer.read_slice(usize::from(bytes))
}

fn compare(first: &[u8], second: &[u8], case_insensitive: bool) -> i32 {
    let fold = |&byte: &u8| {
        if case_insensitive {
            upcase_ansi(byte)
        } else {
            byte
        }
    };
    for (a, b) in first.iter().map(fold).zip(second.iter().map(fold)) {
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    let bytes = |text: &[u8]| i32::from(low16(text.len() as u64));
    bytes(first) - bytes(second)
}

nt_api! { module = rtl_ansi;
    /// Makes a STRING of a NUL-terminated string, whose buffer it shares. NULL gives an empty string.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitAnsiString(destination: Ptr<STRING>, source: NarrowStringPtr) {
        let source = source.0;
        let mut string = STRING { Buffer: source, ..STRING::default() };
        if !source.is_null() {
            let bytes = narrow_length(source).min(MOST_BYTES);
            string.Length = low16(bytes);
            string.MaximumLength = low16(bytes + 1);
        }
        destination.write(string);
    }

    /// Makes a STRING of a NUL-terminated string, whose buffer it shares. NULL gives an empty string.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitString(destination: Ptr<STRING>, source: NarrowStringPtr) {
        RtlInitAnsiString(destination, source);
    }

    /// Copies as much of a string as the destination has room for. A NULL source empties the destination.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCopyString(destination: Ptr<STRING>, source: AnsiStringPtr) {
        let mut string = destination.read();
        string.Length = 0;
        if let Some(source) = source.0.non_null() {
            let source = source.read();
            string.Length = source.Length.min(string.MaximumLength);
            string.Buffer.copy_from(source.Buffer, u64::from(string.Length));
        }
        destination.write(string);
    }

    /// Appends a string; STATUS_BUFFER_TOO_SMALL, and no change, if it does not fit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAppendStringToString(destination: Ptr<STRING>, source: AnsiStringPtr) -> NtStatus {
        let mut string = destination.read();
        let source = source.0.read();
        let total = u32::from(string.Length) + u32::from(source.Length);
        if total > u32::from(string.MaximumLength) {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        string.Buffer.add_bytes(u64::from(string.Length)).copy_from(source.Buffer, u64::from(source.Length));
        string.Length = low16(u64::from(total));
        destination.write(string);
        NtStatus::SUCCESS
    }

    /// Compares two strings: the difference of the first bytes that differ, else of the lengths.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCompareString(first: AnsiStringPtr, second: AnsiStringPtr, case_insensitive: bool) -> Long {
        compare(&ansi_string(first.0), &ansi_string(second.0), case_insensitive)
    }

    /// Whether two strings are equal.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlEqualString(first: AnsiStringPtr, second: AnsiStringPtr, case_insensitive: bool) -> bool {
        compare(&ansi_string(first.0), &ansi_string(second.0), case_insensitive) == 0
    }

    /// Whether the second string begins with the first.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlPrefixString(prefix: AnsiStringPtr, string: AnsiStringPtr, case_insensitive: bool) -> bool {
        let prefix = ansi_string(prefix.0);
        ansi_string(string.0)
            .get(..prefix.len())
            .is_some_and(|start| compare(&prefix, start, case_insensitive) == 0)
    }

    /// The upper-case form of a character of the ANSI code page.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpperChar(character: UChar) -> UChar {
        upcase_ansi(character)
    }

    /// Copies a string in upper case, as much of it as the destination has room for.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpperString(destination: Ptr<STRING>, source: AnsiStringPtr) {
        let mut string = destination.read();
        let mut text = ansi_string(source.0);
        text.truncate(usize::from(string.MaximumLength));
        text.iter_mut().for_each(|byte| *byte = upcase_ansi(*byte));
        string.Buffer.write_bytes(&text);
        string.Length = low16(text.len() as u64);
        destination.write(string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, narrow, narrow_z};
    use crate::value::AnsiStringPtr as A;

    #[test]
    fn init_counts_and_shares() {
        let mut text = narrow_z("COM1");
        let mut string = STRING::default();
        RtlInitString(Ptr::of(&mut string), NarrowStringPtr(at(&mut text)));
        assert_eq!(
            (string.Length, string.MaximumLength, string.Buffer),
            (4, 5, at(&mut text))
        );
        RtlInitAnsiString(Ptr::of(&mut string), NarrowStringPtr(Ptr::null()));
        assert_eq!((string.Length, string.MaximumLength), (0, 0));
    }

    #[test]
    fn copy_append_and_case() {
        let mut source = narrow(b"lpt", 3);
        let mut string = narrow(b"", 5);
        RtlCopyString(string.ptr(), A(source.ptr()));
        assert_eq!(string.bytes(), b"lpt");
        assert_eq!(
            RtlAppendStringToString(string.ptr(), A(source.ptr())),
            NtStatus::BUFFER_TOO_SMALL
        );
        let mut digit = narrow(b"1\xE4", 2);
        assert_eq!(
            RtlAppendStringToString(string.ptr(), A(digit.ptr())),
            NtStatus::SUCCESS
        );
        assert!(RtlPrefixString(A(source.ptr()), A(string.ptr()), false));
        assert!(!RtlPrefixString(A(string.ptr()), A(source.ptr()), false));
        let mut upper = narrow(b"", 8);
        RtlUpperString(upper.ptr(), A(string.ptr()));
        assert_eq!(upper.bytes(), b"LPT1\xC4");
        assert!(RtlEqualString(A(upper.ptr()), A(string.ptr()), true));
        assert!(!RtlEqualString(A(upper.ptr()), A(string.ptr()), false));
        assert!(RtlCompareString(A(upper.ptr()), A(string.ptr()), false) < 0);
        assert_eq!(
            RtlCompareString(A(source.ptr()), A(string.ptr()), false),
            -2
        );
    }
}
