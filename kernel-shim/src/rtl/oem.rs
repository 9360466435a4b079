//! Conversions between Unicode and the OEM code page, and of buffers without a string structure.

use alloc::vec::Vec;

use super::allocation::{allocate, free};
use super::ansi_unicode::{deliver_counted, deliver_narrow, deliver_wide};
use crate::api::{nt_api, nt_data};
use crate::nt::{NtStatus, STRING, UNICODE_STRING};
use crate::raw::{DataCell, Ptr, Word, low16, low32, to_usize, unicode_string};
use crate::rtl::ansi::ansi_string;
use crate::rtl::codepage::{oem_to_unicode, to_ansi, to_oem, to_oem_exact, to_unicode, upcase};
use crate::value::{AnsiStringPtr, ULong, UnicodeStringPtr};

/// The upper-case byte of the OEM code page: what the code page makes of a character is what is raised.
fn upcase_oem(unit: u16) -> u8 {
    to_oem(upcase(oem_to_unicode(to_oem(unit))))
}

fn of_oem(source: AnsiStringPtr) -> Vec<u16> {
    ansi_string(source.0)
        .into_iter()
        .map(oem_to_unicode)
        .collect()
}

/// Puts a text without a NUL where a STRING wants it.
fn counted(
    destination: Ptr<STRING>,
    units: &[u16],
    is_new: bool,
    convert: fn(u16) -> u8,
) -> NtStatus {
    let mut string = destination.read();
    let bytes: Vec<u8> = units.iter().copied().map(convert).collect();
    if bytes.is_empty() {
        destination.write(STRING {
            Length: 0,
            ..if is_new { STRING::default() } else { string }
        });
        return NtStatus::SUCCESS;
    }
    if !is_new && bytes.len() > usize::from(string.MaximumLength) {
        return NtStatus::BUFFER_OVERFLOW;
    }
    if units.iter().any(|&unit| to_oem_exact(unit).is_none()) {
        return NtStatus::UNMAPPABLE_CHARACTER;
    }
    if is_new {
        string.MaximumLength = low16(bytes.len() as u64);
        string.Buffer = allocate(bytes.len() as u64);
        if string.Buffer.is_null() {
            return NtStatus::NO_MEMORY;
        }
    }
    string.Length = low16(bytes.len() as u64);
    string.Buffer.write_bytes(&bytes);
    destination.write(string);
    NtStatus::SUCCESS
}

fn report(written: Ptr<u32>, bytes: u64) {
    if !written.is_null() {
        written.write(low32(bytes));
    }
}

/// Converts bytes to UTF-16: `room` bytes at most.
fn widen(
    destination: Ptr<u16>,
    room: u32,
    written: Ptr<u32>,
    source: Ptr<u8>,
    bytes: u32,
    convert: fn(u8) -> u16,
) -> NtStatus {
    let count = u64::from(bytes.min(room / 2));
    // The buffers may be the same one: all is read before anything is written.
    let units = source.read_slice(to_usize(count)).into_iter().map(convert);
    for (index, unit) in (0..).zip(units.collect::<Vec<_>>()) {
        destination.offset(index).write(unit);
    }
    report(written, 2 * count);
    if count < u64::from(bytes) {
        NtStatus::BUFFER_OVERFLOW
    } else {
        NtStatus::SUCCESS
    }
}

/// Converts UTF-16 to bytes: `room` bytes at most.
fn narrow(
    destination: Ptr<u8>,
    room: u32,
    written: Ptr<u32>,
    source: Ptr<u16>,
    bytes: u32,
    convert: fn(u16) -> u8,
) -> NtStatus {
    let count = (bytes / 2).min(room);
    let units = source.read_slice(to_usize(u64::from(count)));
    let text: Vec<u8> = units.into_iter().map(convert).collect();
    destination.write_bytes(&text);
    report(written, u64::from(count));
    if count < bytes / 2 {
        NtStatus::BUFFER_OVERFLOW
    } else {
        NtStatus::SUCCESS
    }
}

nt_api! { module = rtl_oem;
    /// Converts from the OEM code page; see RtlAnsiStringToUnicodeString.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlOemStringToUnicodeString(destination: Ptr<UNICODE_STRING>, source: AnsiStringPtr, allocate_destination: bool) -> NtStatus {
        deliver_wide(destination, &of_oem(source), allocate_destination)
    }

    /// Converts from the OEM code page, without a NUL. STATUS_BUFFER_OVERFLOW: no room; STATUS_NO_MEMORY.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlOemStringToCountedUnicodeString(destination: Ptr<UNICODE_STRING>, source: AnsiStringPtr, allocate_destination: bool) -> NtStatus {
        deliver_counted(destination, &of_oem(source), allocate_destination)
    }

    /// Converts to the OEM code page; see RtlUnicodeStringToAnsiString.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeStringToOemString(destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool) -> NtStatus {
        deliver_narrow(destination, unicode_string(source.0).into_iter().map(to_oem).collect(), allocate_destination)
    }

    /// Converts to the OEM code page in upper case; see RtlUnicodeStringToAnsiString.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeStringToOemString(destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool) -> NtStatus {
        deliver_narrow(destination, unicode_string(source.0).into_iter().map(upcase_oem).collect(), allocate_destination)
    }

    /// Converts to the OEM code page, without a NUL. STATUS_UNMAPPABLE_CHARACTER for a character that it lacks;
    /// STATUS_BUFFER_OVERFLOW: no room; STATUS_NO_MEMORY.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeStringToCountedOemString(destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool) -> NtStatus {
        counted(destination, &unicode_string(source.0), allocate_destination, to_oem)
    }

    /// As RtlUnicodeStringToCountedOemString, in upper case.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeStringToCountedOemString(destination: Ptr<STRING>, source: UnicodeStringPtr, allocate_destination: bool) -> NtStatus {
        counted(destination, &unicode_string(source.0), allocate_destination, upcase_oem)
    }

    /// Converts from the ANSI code page as much as there is room for (bytes).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlMultiByteToUnicodeN(destination: Ptr<u16>, room: ULong, written: Ptr<u32>, source: Ptr<u8>, bytes: ULong) -> NtStatus {
        widen(destination, room, written, source, bytes, to_unicode);
        NtStatus::SUCCESS
    }

    /// Converts from the OEM code page; STATUS_BUFFER_OVERFLOW if there is not room for all.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlOemToUnicodeN(destination: Ptr<u16>, room: ULong, written: Ptr<u32>, source: Ptr<u8>, bytes: ULong) -> NtStatus {
        widen(destination, room, written, source, bytes, oem_to_unicode)
    }

    /// Converts to the ANSI code page as much as there is room for (bytes).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeToMultiByteN(destination: Ptr<u8>, room: ULong, written: Ptr<u32>, source: Ptr<u16>, bytes: ULong) -> NtStatus {
        narrow(destination, room, written, source, bytes, to_ansi);
        NtStatus::SUCCESS
    }

    /// As RtlUnicodeToMultiByteN, in upper case.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeToMultiByteN(destination: Ptr<u8>, room: ULong, written: Ptr<u32>, source: Ptr<u16>, bytes: ULong) -> NtStatus {
        narrow(destination, room, written, source, bytes, |unit| to_ansi(upcase(unit)));
        NtStatus::SUCCESS
    }

    /// Converts to the OEM code page; STATUS_BUFFER_OVERFLOW if there is not room for all.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeToOemN(destination: Ptr<u8>, room: ULong, written: Ptr<u32>, source: Ptr<u16>, bytes: ULong) -> NtStatus {
        narrow(destination, room, written, source, bytes, to_oem)
    }

    /// As RtlUnicodeToOemN, in upper case.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUpcaseUnicodeToOemN(destination: Ptr<u8>, room: ULong, written: Ptr<u32>, source: Ptr<u16>, bytes: ULong) -> NtStatus {
        narrow(destination, room, written, source, bytes, upcase_oem)
    }

    /// Bytes that RtlMultiByteToUnicodeN writes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlMultiByteToUnicodeSize(size: Ptr<u32>, source: Ptr<u8>, bytes: ULong) -> NtStatus {
        size.write(2 * bytes);
        NtStatus::SUCCESS
    }

    /// Bytes that RtlUnicodeToMultiByteN writes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeToMultiByteSize(size: Ptr<u32>, source: Ptr<u16>, bytes: ULong) -> NtStatus {
        size.write(bytes / 2);
        NtStatus::SUCCESS
    }

    /// Bytes that RtlUnicodeStringToOemString needs for a string and its NUL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlxUnicodeStringToOemSize(source: UnicodeStringPtr) -> ULong {
        u32::from(source.0.read().Length / 2) + 1
    }

    /// Bytes that RtlOemStringToUnicodeString needs for a string and its NUL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlxOemStringToUnicodeSize(source: AnsiStringPtr) -> ULong {
        2 * (u32::from(source.0.read().Length) + 1)
    }

    /// Frees the buffer of a string that an Rtl function allocated, and empties the string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlFreeOemString(string: Ptr<STRING>) {
        let buffer = string.read().Buffer;
        if !buffer.is_null() {
            free(buffer);
            string.write(STRING::default());
        }
    }
}

/// The lead bytes of a code page, by byte: none, since every character is one byte.
static LEAD_BYTES: DataCell<[u16; 256]> = DataCell::new([0; 256]);

nt_data! { module = rtl_nls;
    /// Whether the ANSI code page has characters of two bytes.
    ntoskrnl both data(1, 1) implemented
    NlsMbCodePageTag: bool = false;

    /// Whether the OEM code page has characters of two bytes.
    ntoskrnl both data(1, 1) implemented
    NlsMbOemCodePageTag: bool = false;

    /// The ANSI code page's number.
    ntoskrnl both data(2, 2) implemented
    NlsAnsiCodePage: u16 = 1252;

    /// The OEM code page's number.
    ntoskrnl both data(2, 2) implemented
    NlsOemCodePage: u16 = 437;

    /// The table of the ANSI code page's lead bytes, 256 USHORTs. Set at boot.
    ntoskrnl both data(4, 8) implemented
    NlsLeadByteInfo: Word = 0;

    /// The table of the OEM code page's lead bytes, 256 USHORTs. Set at boot.
    ntoskrnl both data(4, 8) implemented
    NlsOemLeadByteInfo: Word = 0;
}

/// Sets the variables that hold addresses.
pub(crate) fn initialize() {
    NlsLeadByteInfo.ptr().write(LEAD_BYTES.ptr().word());
    NlsOemLeadByteInfo.ptr().write(LEAD_BYTES.ptr().word());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, narrow as counted_narrow, wide};
    use crate::test_platform::machine;
    use crate::value::{AnsiStringPtr as A, UnicodeStringPtr as U};

    #[test]
    fn oem_strings_go_both_ways() {
        let (mut oem, mut unicode) = (counted_narrow(b"\x84b\xE0", 3), wide("", 4));
        assert_eq!(
            RtlOemStringToUnicodeString(unicode.ptr(), A(oem.ptr()), false),
            NtStatus::SUCCESS
        );
        assert_eq!(unicode.text(), "äbα");
        let mut back = counted_narrow(b"", 3);
        assert_eq!(
            RtlUpcaseUnicodeStringToCountedOemString(back.ptr(), U(unicode.ptr()), false),
            NtStatus::SUCCESS
        );
        assert_eq!(
            back.bytes(),
            b"\x8EB?",
            "the code page has no capital alpha"
        );
        assert_eq!(
            RtlUnicodeStringToOemString(back.ptr(), U(unicode.ptr()), false),
            NtStatus::BUFFER_OVERFLOW
        );
        assert_eq!(back.bytes(), b"\x84b");
        let mut cyrillic = wide("ж", 1);
        assert_eq!(
            RtlUnicodeStringToCountedOemString(back.ptr(), U(cyrillic.ptr()), false),
            NtStatus::UNMAPPABLE_CHARACTER
        );
    }

    #[test]
    fn new_strings_are_freed() {
        let _machine = machine();
        let mut source = wide("oem", 3);
        let mut made = STRING::default();
        assert_eq!(
            RtlUnicodeStringToOemString(Ptr::of(&mut made), U(source.ptr()), true),
            NtStatus::SUCCESS
        );
        assert_eq!((made.Length, made.MaximumLength), (3, 4));
        RtlFreeOemString(Ptr::of(&mut made));
        assert!(made.Buffer.is_null());
    }

    #[test]
    fn buffers_are_converted_as_far_as_there_is_room() {
        let (mut bytes, mut units, mut written) = (*b"\x80bc", [7_u16; 3], 0);
        let status =
            RtlMultiByteToUnicodeN(at(&mut units), 5, Ptr::of(&mut written), at(&mut bytes), 3);
        assert_eq!(
            (status, written, units),
            (NtStatus::SUCCESS, 4, [0x20AC, 98, 7])
        );
        let status = RtlOemToUnicodeN(at(&mut units), 4, Ptr::null(), at(&mut bytes), 3);
        assert_eq!((status, units), (NtStatus::BUFFER_OVERFLOW, [0xC7, 98, 7]));
        let status =
            RtlUpcaseUnicodeToOemN(at(&mut bytes), 9, Ptr::of(&mut written), at(&mut units), 4);
        assert_eq!((status, written, bytes), (NtStatus::SUCCESS, 2, *b"\x80Bc"));
    }
}
