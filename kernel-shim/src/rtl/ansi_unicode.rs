//! Strings that are converted or made in new memory: ANSI to Unicode and back, upper case, free.

use alloc::vec::Vec;

use super::allocation::{allocate, free};
use crate::api::nt_api;
use crate::nt::{NtStatus, STRING, UNICODE_STRING};
use crate::raw::{Ptr, low16, unicode_string};
use crate::rtl::ansi::ansi_string;
use crate::rtl::codepage::{downcase, to_ansi, to_unicode, upcase};
use crate::rtl::unicode::wide_length;
use crate::value::{AnsiStringPtr, ULong, UShort, UnicodeStringPtr, WideStringPtr};

/// Bytes of a UTF-16 text.
pub(crate) fn wide_bytes(units: &[u16]) -> Vec<u8> {
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

/// Puts a text closed by NUL where a UNICODE_STRING wants it: into new memory, or its own buffer.
pub(crate) fn deliver_wide(
    destination: Ptr<UNICODE_STRING>,
    units: &[u16],
    is_new: bool,
) -> NtStatus {
    let Ok(with_nul) = u16::try_from(2 * units.len() + 2) else {
        return NtStatus::INVALID_PARAMETER_2;
    };
    let mut string = destination.read();
    string.Length = with_nul - 2;
    if is_new {
        string.MaximumLength = with_nul;
        string.Buffer = allocate(u64::from(with_nul)).cast();
        if string.Buffer.is_null() {
            return NtStatus::NO_MEMORY;
        }
    } else if string.Length >= string.MaximumLength {
        destination.write(string);
        return NtStatus::BUFFER_OVERFLOW;
    }
    let mut bytes = wide_bytes(units);
    bytes.extend([0, 0]);
    string.Buffer.cast::<u8>().write_bytes(&bytes);
    destination.write(string);
    NtStatus::SUCCESS
}

/// Puts a text closed by NUL where a STRING wants it: into new memory, or its own buffer; too long a text is cut off
/// there.
pub(crate) fn deliver_narrow(
    destination: Ptr<STRING>,
    mut bytes: Vec<u8>,
    is_new: bool,
) -> NtStatus {
    let mut status = NtStatus::SUCCESS;
    let mut string = destination.read();
    if is_new {
        let Ok(with_nul) = u16::try_from(bytes.len() + 1) else {
            return NtStatus::INVALID_PARAMETER_2;
        };
        string.MaximumLength = with_nul;
        string.Buffer = allocate(u64::from(with_nul));
        if string.Buffer.is_null() {
            return NtStatus::NO_MEMORY;
        }
    } else if bytes.len() >= usize::from(string.MaximumLength) {
        status = NtStatus::BUFFER_OVERFLOW;
        let Some(room) = string.MaximumLength.checked_sub(1) else {
            return status;
        };
        bytes.truncate(usize::from(room));
    }
    string.Length = low16(bytes.len() as u64);
    bytes.push(0);
    string.Buffer.write_bytes(&bytes);
    destination.write(string);
    status
}

/// Puts a text without a NUL where a UNICODE_STRING wants it: into new memory, or its own buffer.
pub(crate) fn deliver_counted(
    destination: Ptr<UNICODE_STRING>,
    units: &[u16],
    is_new: bool,
) -> NtStatus {
    let Ok(bytes) = u16::try_from(2 * units.len()) else {
        return NtStatus::INVALID_PARAMETER_2;
    };
    let mut string = destination.read();
    if is_new {
        string.MaximumLength = bytes;
        string.Buffer = allocate(u64::from(bytes)).cast();
        if string.Buffer.is_null() {
            return NtStatus::NO_MEMORY;
        }
    } else if bytes > string.MaximumLength {
        return NtStatus::BUFFER_OVERFLOW;
    }
    string.Buffer.cast::<u8>().write_bytes(&wide_bytes(units));
    string.Length = bytes;
    destination.write(string);
    NtStatus::SUCCESS
}

nt_api! { module = rtl_ansi_unicode;
    /// Converts to Unicode and closes the text with NUL, on request in new memory (RtlFreeUnicodeString frees it).
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_NO_MEMORY; STATUS_INVALID_PARAMETER_2: more than 65535 bytes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlAnsiStringToUnicodeString(
        destination: Ptr<UNICODE_STRING>, source: AnsiStringPtr, allocate_destination: bool,
    ) -> NtStatus {
        let units: Vec<u16> = ansi_string(source.0).into_iter().map(to_unicode).collect();
        deliver_wide(destination, &units, allocate_destination)
    }

    /// Converts to the ANSI code page and closes the text with NUL, on request in new memory (RtlFreeAnsiString frees
    /// it). Too little room: the text is cut off and the status is STATUS_BUFFER_OVERFLOW.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeStringToAnsiString(
        destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool,
    ) -> NtStatus {
        let bytes = unicode_string(source.0).into_iter().map(to_ansi).collect();
        deliver_narrow(destination, bytes, allocate_destination)
    }

    /// Copies a string in upper case, on request to new memory (RtlFreeUnicodeString frees it).
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_NO_MEMORY.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeString(
        destination: Ptr<UNICODE_STRING>, source: UnicodeStringPtr, allocate_destination: bool,
    ) -> NtStatus {
        let units: Vec<u16> = unicode_string(source.0).into_iter().map(upcase).collect();
        deliver_counted(destination, &units, allocate_destination)
    }

    /// Copies a string in lower case, on request to new memory (RtlFreeUnicodeString frees it).
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_NO_MEMORY.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDowncaseUnicodeString(
        destination: Ptr<UNICODE_STRING>, source: UnicodeStringPtr, allocate_destination: bool,
    ) -> NtStatus {
        let units: Vec<u16> = unicode_string(source.0).into_iter().map(downcase).collect();
        deliver_counted(destination, &units, allocate_destination)
    }

    /// Converts to the ANSI code page in upper case; see RtlUnicodeStringToAnsiString.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeStringToAnsiString(
        destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool,
    ) -> NtStatus {
        let bytes = unicode_string(source.0).into_iter().map(|unit| to_ansi(upcase(unit))).collect();
        deliver_narrow(destination, bytes, allocate_destination)
    }

    /// The Unicode character that a byte of the ANSI code page stands for; the pointer moves behind it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlAnsiCharToUnicodeChar(source: Ptr<Ptr<u8>>) -> UShort {
        let place = source.read();
        source.write(place.add_bytes(1));
        to_unicode(place.read())
    }

    /// Copies a NUL-terminated string to new memory (RtlFreeUnicodeString frees it); FALSE if there is none.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCreateUnicodeString(destination: Ptr<UNICODE_STRING>, source: WideStringPtr) -> bool {
        let units = source.0.read_slice(crate::raw::to_usize(wide_length(source.0)));
        deliver_wide(destination, &units, true).is_success()
    }

    /// Frees the buffer of a string that an Rtl function allocated, and empties the string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlFreeUnicodeString(string: Ptr<UNICODE_STRING>) {
        let buffer = string.read().Buffer;
        if !buffer.is_null() {
            free(buffer.cast());
            string.write(UNICODE_STRING::default());
        }
    }

    /// Frees the buffer of a string that an Rtl function allocated, and empties the string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlFreeAnsiString(string: Ptr<STRING>) {
        let buffer = string.read().Buffer;
        if !buffer.is_null() {
            free(buffer);
            string.write(STRING::default());
        }
    }

    /// Bytes that RtlUnicodeStringToAnsiString needs for a string and its NUL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlxUnicodeStringToAnsiSize(source: UnicodeStringPtr) -> ULong {
        u32::from(source.0.read().Length / 2) + 1
    }

    /// Bytes that RtlAnsiStringToUnicodeString needs for a string and its NUL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlxAnsiStringToUnicodeSize(source: AnsiStringPtr) -> ULong {
        2 * (u32::from(source.0.read().Length) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{narrow, wide};
    use crate::test_platform::machine;
    use crate::value::{AnsiStringPtr as A, UnicodeStringPtr as U};

    #[test]
    fn ansi_becomes_unicode_if_it_fits() {
        let mut source = narrow(b"\x80uro", 4);
        let mut roomy = wide("", 5);
        let status = RtlAnsiStringToUnicodeString(roomy.ptr(), A(source.ptr()), false);
        assert_eq!((status, roomy.text().as_str()), (NtStatus::SUCCESS, "€uro"));
        assert_eq!(roomy.buffer[4], 0);
        let mut small = wide("", 4);
        let status = RtlAnsiStringToUnicodeString(small.ptr(), A(source.ptr()), false);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(small.buffer, [0xCCCC; 4]);
        assert_eq!(RtlxAnsiStringToUnicodeSize(A(source.ptr())), 10);
    }

    #[test]
    fn unicode_becomes_ansi_and_is_cut_off() {
        let mut source = wide("a€ж", 3);
        let mut roomy = narrow(b"", 4);
        let status = RtlUnicodeStringToAnsiString(roomy.ptr(), U(source.ptr()), false);
        assert_eq!(
            (status, roomy.bytes()),
            (NtStatus::SUCCESS, b"a\x80?".to_vec())
        );
        let mut small = narrow(b"", 3);
        let status = RtlUnicodeStringToAnsiString(small.ptr(), U(source.ptr()), false);
        assert_eq!(
            (status, small.bytes()),
            (NtStatus::BUFFER_OVERFLOW, b"a\x80".to_vec())
        );
        assert_eq!(small.buffer[2], 0);
        let mut none = narrow(b"", 0);
        let status = RtlUnicodeStringToAnsiString(none.ptr(), U(source.ptr()), false);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
        assert_eq!(RtlxUnicodeStringToAnsiSize(U(source.ptr())), 4);
    }

    #[test]
    fn upper_case_needs_no_room_for_nul() {
        let mut source = wide("lpt1", 4);
        let mut exact = wide("", 4);
        let status = RtlUpcaseUnicodeString(exact.ptr(), U(source.ptr()), false);
        assert_eq!((status, exact.text().as_str()), (NtStatus::SUCCESS, "LPT1"));
        let mut small = wide("", 3);
        let status = RtlUpcaseUnicodeString(small.ptr(), U(source.ptr()), false);
        assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
    }

    #[test]
    fn new_memory_comes_from_the_pool_and_goes_back() {
        let _machine = machine();
        let mut source = narrow(b"abc", 3);
        let mut string = wide("", 0);
        let status = RtlAnsiStringToUnicodeString(string.ptr(), A(source.ptr()), true);
        assert_eq!((status, string.text().as_str()), (NtStatus::SUCCESS, "abc"));
        let made = string.ptr().read();
        assert_eq!((made.Length, made.MaximumLength), (6, 8));
        assert!(crate::ex::pool::contains(made.Buffer.addr()));
        let mut upper = wide("", 0);
        assert!(RtlUpcaseUnicodeString(upper.ptr(), U(string.ptr()), true).is_success());
        assert_eq!(upper.text(), "ABC");
        let mut back = narrow(b"", 0);
        assert!(RtlUnicodeStringToAnsiString(back.ptr(), U(upper.ptr()), true).is_success());
        assert_eq!(back.bytes(), b"ABC");
        RtlFreeUnicodeString(string.ptr());
        RtlFreeUnicodeString(upper.ptr());
        RtlFreeAnsiString(back.ptr());
        assert!(string.ptr().read().Buffer.is_null());
        assert!(crate::ex::pool::block_at(made.Buffer.addr()).is_none());
    }
}
