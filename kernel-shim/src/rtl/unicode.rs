//! UNICODE_STRING: initialize, copy, append, compare, case.

use crate::api::nt_api;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low16, unicode_string};
use crate::rtl::codepage::{downcase, upcase};
use crate::value::{Long, UShort, UnicodeStringPtr, WideStringPtr};

/// Most bytes of text that a UNICODE_STRING made from a NUL-terminated string has: room for the NUL stays.
const MOST_BYTES: u64 = 0xFFFC;

/// Number of units before the NUL.
pub(crate) fn wide_length(string: Ptr<u16>) -> u64 {
    let mut units = 0;
    while string.add_bytes(2 * units).read() != 0 {
        units += 1;
    }
    units
}

/// Copies `bytes` behind the text of `destination`, whose room was checked, and closes it with NUL if that fits.
fn append(destination: Ptr<UNICODE_STRING>, source: Ptr<u16>, bytes: u16) -> NtStatus {
    let mut string = destination.read();
    let total = u32::from(string.Length) + u32::from(bytes);
    if total > u32::from(string.MaximumLength) {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    let end = string.Buffer.add_bytes(u64::from(string.Length));
    end.cast::<u8>().copy_from(source.cast(), u64::from(bytes));
    string.Length = low16(u64::from(total));
    if total + 2 <= u32::from(string.MaximumLength) {
        end.add_bytes(u64::from(bytes)).write(0);
    }
    destination.write(string);
    NtStatus::SUCCESS
}

/// Compares unit by unit, then by length, as [`RtlCompareUnicodeString`] does.
pub(crate) fn compare(first: &[u16], second: &[u16], case_insensitive: bool) -> i32 {
    let fold = |&unit: &u16| if case_insensitive { upcase(unit) } else { unit };
    let units = first.iter().map(fold).zip(second.iter().map(fold));
    for (a, b) in units {
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    let bytes = |text: &[u16]| i32::from(low16(2 * text.len() as u64));
    bytes(first) - bytes(second)
}

/// Whether two texts are the same.
#[must_use]
pub fn equal(first: &[u16], second: &[u16], case_insensitive: bool) -> bool {
    first.len() == second.len() && compare(first, second, case_insensitive) == 0
}

nt_api! { module = rtl_unicode;
    /// Makes a UNICODE_STRING of a NUL-terminated string, whose buffer it shares.
    /// NULL gives an empty string; text beyond 0xFFFC bytes is left out.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitUnicodeString(destination: Ptr<UNICODE_STRING>, source: WideStringPtr) {
        let source = source.0;
        let mut string = UNICODE_STRING { Buffer: source, ..UNICODE_STRING::default() };
        if !source.is_null() {
            let bytes = (2 * wide_length(source)).min(MOST_BYTES);
            string.Length = low16(bytes);
            string.MaximumLength = low16(bytes + 2);
        }
        destination.write(string);
    }

    /// As RtlInitUnicodeString, but STATUS_NAME_TOO_LONG for a string beyond 0xFFFC bytes.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitUnicodeStringEx(destination: Ptr<UNICODE_STRING>, source: WideStringPtr) -> NtStatus {
        if !source.0.is_null() && 2 * wide_length(source.0) > MOST_BYTES {
            return NtStatus::NAME_TOO_LONG;
        }
        RtlInitUnicodeString(destination, source);
        NtStatus::SUCCESS
    }

    /// Copies as much of a string as the destination has room for, and a NUL if that fits too.
    /// A NULL source empties the destination.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCopyUnicodeString(destination: Ptr<UNICODE_STRING>, source: UnicodeStringPtr) {
        let mut string = destination.read();
        string.Length = 0;
        if let Some(source) = source.0.non_null() {
            let source = source.read();
            string.Length = source.Length.min(string.MaximumLength);
            let bytes = u64::from(string.Length);
            string.Buffer.cast::<u8>().copy_from(source.Buffer.cast(), bytes);
            if bytes + 2 <= u64::from(string.MaximumLength) {
                string.Buffer.add_bytes(bytes).write(0);
            }
        }
        destination.write(string);
    }

    /// Appends a NUL-terminated string; STATUS_BUFFER_TOO_SMALL, and no change, if it does not fit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAppendUnicodeToString(destination: Ptr<UNICODE_STRING>, source: WideStringPtr) -> NtStatus {
        let Some(source) = source.0.non_null() else {
            return NtStatus::SUCCESS;
        };
        match u16::try_from(2 * wide_length(source)) {
            Ok(bytes) => append(destination, source, bytes),
            Err(_) => NtStatus::BUFFER_TOO_SMALL,
        }
    }

    /// Appends a string; STATUS_BUFFER_TOO_SMALL, and no change, if it does not fit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAppendUnicodeStringToString(destination: Ptr<UNICODE_STRING>, source: UnicodeStringPtr) -> NtStatus {
        let source = source.0.read();
        append(destination, source.Buffer, source.Length)
    }

    /// Compares two strings: the difference of the first units that differ, else of the lengths in bytes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCompareUnicodeString(first: UnicodeStringPtr, second: UnicodeStringPtr, case_insensitive: bool) -> Long {
        compare(&unicode_string(first.0), &unicode_string(second.0), case_insensitive)
    }

    /// Whether two strings are equal.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlEqualUnicodeString(first: UnicodeStringPtr, second: UnicodeStringPtr, case_insensitive: bool) -> bool {
        equal(&unicode_string(first.0), &unicode_string(second.0), case_insensitive)
    }

    /// Whether the second string begins with the first.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlPrefixUnicodeString(prefix: UnicodeStringPtr, string: UnicodeStringPtr, case_insensitive: bool) -> bool {
        let prefix = unicode_string(prefix.0);
        unicode_string(string.0)
            .get(..prefix.len())
            .is_some_and(|start| equal(&prefix, start, case_insensitive))
    }

    /// The upper-case form of a character.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeChar(character: UShort) -> UShort {
        upcase(character)
    }

    /// The lower-case form of a character.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDowncaseUnicodeChar(character: UShort) -> UShort {
        downcase(character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, wide, wide_z};
    use crate::value::UnicodeStringPtr as U;

    #[test]
    fn init_counts_and_shares() {
        let mut text = wide_z("\\Device\\x");
        let mut string = UNICODE_STRING::default();
        RtlInitUnicodeString(Ptr::of(&mut string), WideStringPtr(at(&mut text)));
        assert_eq!((string.Length, string.MaximumLength), (18, 20));
        assert_eq!(string.Buffer, at(&mut text));
        RtlInitUnicodeString(Ptr::of(&mut string), WideStringPtr(Ptr::null()));
        assert_eq!((string.Length, string.MaximumLength), (0, 0));
        assert!(string.Buffer.is_null());
    }

    #[test]
    fn init_stops_at_what_the_length_can_say() {
        let mut text = vec![u16::from(b'x'); 40_000];
        text.push(0);
        let mut string = UNICODE_STRING::default();
        let source = WideStringPtr(at(&mut text));
        RtlInitUnicodeString(Ptr::of(&mut string), source);
        assert_eq!((string.Length, string.MaximumLength), (0xFFFC, 0xFFFE));
        let status = RtlInitUnicodeStringEx(Ptr::of(&mut string), source);
        assert_eq!(status, NtStatus::NAME_TOO_LONG);
    }

    #[test]
    fn copy_cuts_off_and_terminates_when_there_is_room() {
        let mut source = wide("abcd", 4);
        let mut exact = wide("", 4);
        RtlCopyUnicodeString(exact.ptr(), U(source.ptr()));
        assert_eq!(exact.text(), "abcd");
        let mut roomy = wide("", 6);
        RtlCopyUnicodeString(roomy.ptr(), U(source.ptr()));
        assert_eq!(roomy.text(), "abcd");
        assert_eq!(roomy.buffer[4..], [0, 0xCCCC]);
        let mut small = wide("", 2);
        RtlCopyUnicodeString(small.ptr(), U(source.ptr()));
        assert_eq!(small.text(), "ab");
        RtlCopyUnicodeString(small.ptr(), U(Ptr::null()));
        assert_eq!(small.text(), "");
    }

    #[test]
    fn append_fits_or_changes_nothing() {
        let mut string = wide("ab", 5);
        let mut tail = wide("cd", 2);
        let append = RtlAppendUnicodeStringToString(string.ptr(), U(tail.ptr()));
        assert_eq!(
            (append, string.text().as_str()),
            (NtStatus::SUCCESS, "abcd")
        );
        assert_eq!(string.buffer[4], 0);
        let append = RtlAppendUnicodeStringToString(string.ptr(), U(tail.ptr()));
        assert_eq!(
            (append, string.text().as_str()),
            (NtStatus::BUFFER_TOO_SMALL, "abcd")
        );
        let mut last = wide_z("e");
        let append = RtlAppendUnicodeToString(string.ptr(), WideStringPtr(at(&mut last)));
        assert_eq!(
            (append, string.text().as_str()),
            (NtStatus::SUCCESS, "abcde")
        );
        let append = RtlAppendUnicodeToString(string.ptr(), WideStringPtr(Ptr::null()));
        assert_eq!(append, NtStatus::SUCCESS);
    }

    #[test]
    fn comparison_orders_by_unit_then_length() {
        let (mut a, mut b, mut longer) = (wide("Port", 4), wide("pORT", 4), wide("port1", 5));
        assert!(RtlCompareUnicodeString(U(a.ptr()), U(b.ptr()), false) < 0);
        assert_eq!(RtlCompareUnicodeString(U(a.ptr()), U(b.ptr()), true), 0);
        assert_eq!(
            RtlCompareUnicodeString(U(a.ptr()), U(longer.ptr()), true),
            -2
        );
        assert!(RtlEqualUnicodeString(U(a.ptr()), U(b.ptr()), true));
        assert!(!RtlEqualUnicodeString(U(a.ptr()), U(b.ptr()), false));
        assert!(RtlPrefixUnicodeString(U(a.ptr()), U(longer.ptr()), true));
        assert!(!RtlPrefixUnicodeString(U(longer.ptr()), U(a.ptr()), true));
    }
}
