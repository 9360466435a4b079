//! UTF-8.

use alloc::string::String;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, low32};
use crate::value::ULong;

/// Writes pieces, each whole or not at all, into `room` bytes; without a destination only counts.
fn deliver<'p>(
    destination: Ptr<u8>,
    room: u32,
    written: Ptr<u32>,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> NtStatus {
    let mut bytes = 0;
    let mut status = NtStatus::SUCCESS;
    for piece in pieces {
        let end = bytes + piece.len() as u64;
        if !destination.is_null() {
            if end > u64::from(room) {
                status = NtStatus::BUFFER_TOO_SMALL;
                break;
            }
            destination.add_bytes(bytes).write_bytes(piece);
        }
        bytes = end;
    }
    if !written.is_null() {
        written.write(low32(bytes));
    }
    status
}

nt_api! { module = rtl_utf8;
    /// Converts UTF-16 to UTF-8 as much as there is room for (STATUS_BUFFER_TOO_SMALL), or, without a destination, counts
    /// the bytes. What is not Unicode becomes U+FFFD: STATUS_SOME_NOT_MAPPED.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUnicodeToUTF8N(
        destination: Ptr<u8>, room: ULong, written: Ptr<u32>, source: Ptr<u16>, bytes: ULong,
    ) -> NtStatus {
        if source.is_null() {
            return NtStatus::INVALID_PARAMETER_4;
        }
        if destination.is_null() && written.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        if !bytes.is_multiple_of(2) {
            return NtStatus::INVALID_PARAMETER_5;
        }
        let units = source.read_slice(bytes as usize / 2);
        let is_unicode = String::from_utf16(&units).is_ok();
        let text = String::from_utf16_lossy(&units);
        let pieces = text.char_indices().map(|(at, character)| &text.as_bytes()[at..at + character.len_utf8()]);
        match deliver(destination, room, written, pieces) {
            NtStatus::SUCCESS if !is_unicode => NtStatus::SOME_NOT_MAPPED,
            status => status,
        }
    }

    /// Converts UTF-8 to UTF-16 as much as there is room for (bytes; STATUS_BUFFER_TOO_SMALL), or, without a destination,
    /// counts the bytes. What is not UTF-8 becomes U+FFFD: STATUS_SOME_NOT_MAPPED.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlUTF8ToUnicodeN(
        destination: Ptr<u16>, room: ULong, written: Ptr<u32>, source: Ptr<u8>, bytes: ULong,
    ) -> NtStatus {
        if source.is_null() {
            return NtStatus::INVALID_PARAMETER_4;
        }
        if destination.is_null() && written.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        let text = source.read_slice(bytes as usize);
        let is_utf8 = core::str::from_utf8(&text).is_ok();
        let units: Vec<[u8; 2]> = String::from_utf8_lossy(&text).encode_utf16().map(u16::to_le_bytes).collect();
        match deliver(destination.cast(), room, written, units.iter().map(<[u8; 2]>::as_slice)) {
            NtStatus::SUCCESS if !is_utf8 => NtStatus::SOME_NOT_MAPPED,
            status => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;

    #[test]
    fn characters_are_written_whole() {
        let mut units: Vec<u16> = "a€😀".encode_utf16().collect();
        let (mut bytes, mut written) = ([b'~'; 9], 0);
        let mut run = |room, count| {
            let status = RtlUnicodeToUTF8N(
                at(&mut bytes),
                room,
                Ptr::of(&mut written),
                at(&mut units),
                count,
            );
            (status, written)
        };
        assert_eq!(run(9, 8), (NtStatus::SUCCESS, 8));
        assert_eq!(run(7, 8), (NtStatus::BUFFER_TOO_SMALL, 4));
        assert_eq!(run(9, 6), (NtStatus::SOME_NOT_MAPPED, 7), "half of a pair");
        assert_eq!(run(9, 7).0, NtStatus::INVALID_PARAMETER_5);
        assert_eq!(&bytes[..7], "a€\u{FFFD}".as_bytes());
        let status = RtlUnicodeToUTF8N(Ptr::null(), 0, Ptr::of(&mut written), at(&mut units), 8);
        assert_eq!((status, written), (NtStatus::SUCCESS, 8));
    }

    #[test]
    fn bytes_become_units() {
        let mut text = Vec::from("a€😀");
        let (mut units, mut written) = ([7_u16; 5], 0);
        let status = RtlUTF8ToUnicodeN(at(&mut units), 10, Ptr::of(&mut written), at(&mut text), 8);
        assert_eq!((status, written), (NtStatus::SUCCESS, 8));
        assert_eq!(units, [97, 0x20AC, 0xD83D, 0xDE00, 7]);
        let mut bad = *b"a\xFFb";
        let status = RtlUTF8ToUnicodeN(at(&mut units), 10, Ptr::of(&mut written), at(&mut bad), 3);
        assert_eq!((status, written), (NtStatus::SOME_NOT_MAPPED, 6));
        assert_eq!(units[..3], [97, 0xFFFD, 98]);
        let status = RtlUTF8ToUnicodeN(Ptr::null(), 0, Ptr::null(), at(&mut bad), 3);
        assert_eq!(status, NtStatus::INVALID_PARAMETER);
    }
}
