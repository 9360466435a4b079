//! UNICODE_STRING: hashes, copies, searches, GUIDs.

use alloc::format;
use alloc::vec::Vec;

use super::allocation::allocate;
use super::ansi_unicode::deliver_wide;
use crate::api::nt_api;
use crate::nt::{GUID, NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low16, low32, unicode_string, unicode_text};
use crate::rtl::codepage::upcase;
use crate::rtl::unicode::compare;
use crate::value::{Long, Size, ULong, UShort, UnicodeStringPtr};

/// HASH_STRING_ALGORITHM_DEFAULT and HASH_STRING_ALGORITHM_X65599, which it stands for.
const HASH_ALGORITHMS: [u32; 2] = [0, 1];

/// RTL_DUPLICATE_UNICODE_STRING_NULL_TERMINATE.
const NULL_TERMINATE: u32 = 1;
/// RTL_DUPLICATE_UNICODE_STRING_ALLOCATE_NULL_STRING.
const ALLOCATE_NULL_STRING: u32 = 2;

/// RTL_FIND_CHAR_IN_UNICODE_STRING_START_AT_END.
const START_AT_END: u32 = 1;
/// RTL_FIND_CHAR_IN_UNICODE_STRING_COMPLEMENT_CHAR_SET.
const COMPLEMENT: u32 = 2;
/// RTL_FIND_CHAR_IN_UNICODE_STRING_CASE_INSENSITIVE.
const CASE_INSENSITIVE: u32 = 4;

/// What is wrong with a UNICODE_STRING's lengths, if anything.
fn validate(string: Ptr<UNICODE_STRING>) -> NtStatus {
    let Some(string) = string.non_null() else {
        return NtStatus::SUCCESS;
    };
    let UNICODE_STRING {
        Length: length,
        MaximumLength: most,
        Buffer: buffer,
    } = string.read();
    let is_bad = length % 2 != 0
        || most % 2 != 0
        || length > most
        || (buffer.is_null() && (length | most) != 0);
    if is_bad {
        NtStatus::INVALID_PARAMETER
    } else {
        NtStatus::SUCCESS
    }
}

/// Reads a GUID as `{00000000-0000-0000-0000-000000000000}`.
fn parse_guid(text: &str) -> Option<GUID> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let groups: Vec<&str> = inner.split('-').collect();
    let [first, second, third, fourth, fifth] = groups.as_slice() else {
        return None;
    };
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_number {
            u64::from_str_radix(text, 16).ok()
        } else {
            None
        }
    };
    let last = number(fourth, 4)? << 48 | number(fifth, 12)?;
    Some(GUID {
        Data1: low32(number(first, 8)?),
        Data2: low16(number(second, 4)?),
        Data3: low16(number(third, 4)?),
        Data4: last.to_be_bytes(),
    })
}

nt_api! { module = rtl_unicode_more;
    /// Compares two counted texts (in units): the difference of the first units that differ, else of the lengths.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCompareUnicodeStrings(
        first: Ptr<u16>, first_length: Size, second: Ptr<u16>, second_length: Size, case_insensitive: bool,
    ) -> Long {
        let [first, second] = [(first, first_length), (second, second_length)]
            .map(|(text, length)| text.read_slice(crate::raw::to_usize(length.0)));
        compare(&first, &second, case_insensitive)
    }

    /// A string's hash: each unit (in upper case, if case does not matter) is added to 65599 times the hash so far.
    /// STATUS_INVALID_PARAMETER: NULL, or an algorithm other than 0 and 1.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlHashUnicodeString(
        string: UnicodeStringPtr, case_insensitive: bool, hash_algorithm: ULong, hash_value: Ptr<u32>,
    ) -> NtStatus {
        if string.0.is_null() || hash_value.is_null() || !HASH_ALGORITHMS.contains(&hash_algorithm) {
            return NtStatus::INVALID_PARAMETER;
        }
        let hash = unicode_string(string.0).into_iter().fold(0_u32, |hash, unit| {
            let unit = if case_insensitive { upcase(unit) } else { unit };
            hash.wrapping_mul(65599).wrapping_add(u32::from(unit))
        });
        hash_value.write(hash);
        NtStatus::SUCCESS
    }

    /// Copies a string to new memory (RtlFreeUnicodeString frees it), on request (1) with a NUL, and (2, with 1) even if it
    /// is empty. STATUS_INVALID_PARAMETER: other flags, or a string whose lengths are wrong; STATUS_NO_MEMORY;
    /// STATUS_NAME_TOO_LONG: no room for the NUL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDuplicateUnicodeString(
        flags: ULong, string_in: UnicodeStringPtr, string_out: Ptr<UNICODE_STRING>,
    ) -> NtStatus {
        let is_bad = flags & !(NULL_TERMINATE | ALLOCATE_NULL_STRING) != 0
            || flags == ALLOCATE_NULL_STRING
            || string_out.is_null()
            || !validate(string_in.0).is_success();
        if is_bad {
            return NtStatus::INVALID_PARAMETER;
        }
        let text = unicode_string(string_in.0);
        if text.is_empty() && flags & ALLOCATE_NULL_STRING == 0 {
            string_out.write(UNICODE_STRING::default());
            return NtStatus::SUCCESS;
        }
        let length = 2 * text.len();
        let Ok(bytes) = u16::try_from(length + if flags & NULL_TERMINATE != 0 { 2 } else { 0 }) else {
            return NtStatus::NAME_TOO_LONG;
        };
        let buffer = allocate(u64::from(bytes)).cast::<u16>();
        if buffer.is_null() {
            return NtStatus::NO_MEMORY;
        }
        for (index, unit) in (0..i64::from(bytes / 2)).zip(text.into_iter().chain([0])) {
            buffer.offset(index).write(unit);
        }
        string_out.write(UNICODE_STRING { Length: low16(length as u64), MaximumLength: bytes, Buffer: buffer });
        NtStatus::SUCCESS
    }

    /// Whether a string's lengths are even and fit its buffer; NULL is a valid string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlValidateUnicodeString(flags: ULong, string: Ptr<UNICODE_STRING>) -> NtStatus {
        if flags != 0 { NtStatus::INVALID_PARAMETER } else { validate(string) }
    }

    /// Finds a character that is in a set (flag 2: that is not; flag 4: whatever its case). The position is in bytes: behind
    /// the character, or, searching from the end (flag 1), that of the character. STATUS_NOT_FOUND.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlFindCharInUnicodeString(
        flags: ULong, string: UnicodeStringPtr, set: UnicodeStringPtr, position: Ptr<u16>,
    ) -> NtStatus {
        if flags & !(START_AT_END | COMPLEMENT | CASE_INSENSITIVE) != 0 || position.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        let fold = |unit| if flags & CASE_INSENSITIVE != 0 { upcase(unit) } else { unit };
        let set: Vec<u16> = unicode_string(set.0).into_iter().map(fold).collect();
        let is_wanted = |&unit: &u16| set.contains(&fold(unit)) == (flags & COMPLEMENT == 0);
        let text = unicode_string(string.0);
        let found = if flags & START_AT_END != 0 {
            text.iter().rposition(is_wanted)
        } else {
            text.iter().position(is_wanted).map(|index| index + 1)
        };
        position.write(found.map_or(0, |index| low16(2 * index as u64)));
        if found.is_some() { NtStatus::SUCCESS } else { NtStatus::NOT_FOUND }
    }

    /// Overwrites a string's buffer with zeros and empties the string.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlEraseUnicodeString(string: Ptr<UNICODE_STRING>) {
        let fields = string.read();
        if !fields.Buffer.is_null() && fields.MaximumLength != 0 {
            fields.Buffer.cast::<u8>().fill(0, u64::from(fields.MaximumLength));
            string.write(UNICODE_STRING { Length: 0, ..fields });
        }
    }

    /// Writes a GUID as `{01234567-89AB-CDEF-0123-456789ABCDEF}` to new memory (RtlFreeUnicodeString frees it).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlStringFromGUID(guid: Ptr<GUID>, string: Ptr<UNICODE_STRING>) -> NtStatus {
        let guid = guid.read();
        let last = u64::from_be_bytes(guid.Data4);
        let text = format!(
            "{{{:08X}-{:04X}-{:04X}-{:04X}-{:012X}}}",
            guid.Data1,
            guid.Data2,
            guid.Data3,
            last >> 48,
            last & 0xFFFF_FFFF_FFFF,
        );
        deliver_wide(string, &text.encode_utf16().collect::<Vec<_>>(), true)
    }

    /// Reads a GUID with its braces; STATUS_INVALID_PARAMETER for anything else.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlGUIDFromString(string: UnicodeStringPtr, guid: Ptr<GUID>) -> NtStatus {
        match parse_guid(&unicode_text(string.0)) {
            Some(parsed) => {
                guid.write(parsed);
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// Whether a character has a capital in the OEM code page, which replaces it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlIsValidOemCharacter(character: Ptr<u16>) -> bool {
        let byte = super::codepage::to_oem_exact(upcase(character.read()));
        if let Some(byte) = byte {
            character.write(UShort::from(super::codepage::oem_to_unicode(byte)));
        }
        byte.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::ansi_unicode::RtlFreeUnicodeString;
    use crate::rtl::test_strings::{Wide, wide};
    use crate::test_platform::machine;
    use crate::value::UnicodeStringPtr as U;

    fn text(text: &str) -> Wide {
        wide(text, text.len())
    }

    #[test]
    fn hashes_are_those_of_x65599() {
        let mut hash = 0;
        let mut of = |string: &str, fold, algorithm| {
            let status =
                RtlHashUnicodeString(U(text(string).ptr()), fold, algorithm, Ptr::of(&mut hash));
            (status, hash)
        };
        // Python: functools.reduce(lambda h, c: (h * 65599 + ord(c)) & 0xFFFFFFFF, "T", 0) and so on.
        assert_eq!(of("T", false, 0), (NtStatus::SUCCESS, 0x54));
        assert_eq!(of("Test", false, 1), (NtStatus::SUCCESS, 0x766b_b952));
        assert_eq!(of("TeSt", false, 1), (NtStatus::SUCCESS, 0x764b_b172));
        assert_eq!(
            of("test", true, 0),
            (NtStatus::SUCCESS, of("TEST", false, 1).1)
        );
        assert_eq!(of("x", false, 2).0, NtStatus::INVALID_PARAMETER);
    }

    #[test]
    fn copies_are_made_as_the_flags_say() {
        let _machine = machine();
        let mut copy = UNICODE_STRING::default();
        let mut make = |flags, string: &mut Wide| {
            let status = RtlDuplicateUnicodeString(flags, U(string.ptr()), Ptr::of(&mut copy));
            let lengths = (copy.Length, copy.MaximumLength, copy.Buffer.is_null());
            if status.is_success() {
                RtlFreeUnicodeString(Ptr::of(&mut copy));
            }
            (status, lengths)
        };
        assert_eq!(make(0, &mut text("ab")), (NtStatus::SUCCESS, (4, 4, false)));
        assert_eq!(make(1, &mut text("ab")), (NtStatus::SUCCESS, (4, 6, false)));
        assert_eq!(make(1, &mut wide("", 2)), (NtStatus::SUCCESS, (0, 0, true)));
        assert_eq!(
            make(3, &mut wide("", 2)),
            (NtStatus::SUCCESS, (0, 2, false))
        );
        assert_eq!(make(2, &mut text("ab")).0, NtStatus::INVALID_PARAMETER);
        assert_eq!(make(4, &mut text("ab")).0, NtStatus::INVALID_PARAMETER);
    }

    #[test]
    fn characters_are_found_from_either_end() {
        let mut position = 0;
        let mut find = |flags| {
            let (mut string, mut set) = (text("a\\b\\c"), text("\\B"));
            let status = RtlFindCharInUnicodeString(
                flags,
                U(string.ptr()),
                U(set.ptr()),
                Ptr::of(&mut position),
            );
            (status, position)
        };
        assert_eq!(find(0), (NtStatus::SUCCESS, 4));
        assert_eq!(find(1), (NtStatus::SUCCESS, 6));
        assert_eq!(find(2), (NtStatus::SUCCESS, 2));
        assert_eq!(find(7), (NtStatus::SUCCESS, 8));
        assert_eq!(find(8).0, NtStatus::INVALID_PARAMETER);
    }

    #[test]
    fn guids_survive_the_round_trip() {
        let _machine = machine();
        let mut string = text("{6B29fc40-CA47-1067-B31D-00DD010662DA}");
        let mut guid = GUID::default();
        assert_eq!(
            RtlGUIDFromString(U(string.ptr()), Ptr::of(&mut guid)),
            NtStatus::SUCCESS
        );
        assert_eq!(
            (guid.Data1, guid.Data2, guid.Data4[0], guid.Data4[7]),
            (0x6B29_FC40, 0xCA47, 0xB3, 0xDA)
        );
        let mut written = UNICODE_STRING::default();
        assert_eq!(
            RtlStringFromGUID(Ptr::of(&mut guid), Ptr::of(&mut written)),
            NtStatus::SUCCESS
        );
        assert_eq!(
            unicode_text(Ptr::of(&mut written)),
            "{6B29FC40-CA47-1067-B31D-00DD010662DA}"
        );
        assert_eq!((written.Length, written.MaximumLength), (76, 78));
        for bad in [
            "6B29FC40-CA47-1067-B31D-00DD010662DA",
            "{6B29FC40-CA47-1067-B31D-00DD010662D}",
            "{}",
            "{+B29FC40-CA47-1067-B31D-00DD010662DA}",
        ] {
            assert_eq!(
                RtlGUIDFromString(U(text(bad).ptr()), Ptr::of(&mut guid)),
                NtStatus::INVALID_PARAMETER
            );
        }
    }
}
