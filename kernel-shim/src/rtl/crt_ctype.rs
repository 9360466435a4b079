//! The C library's classes of characters, as in the "C" locale, and its conversions between bytes and UTF-16.

use crate::api::nt_api;
use crate::raw::{Ptr, low8, low16};
use crate::rtl::codepage::{downcase, to_ansi_exact, to_unicode, upcase};
use crate::value::{Long, Size, UShort};

const UPPER: u16 = 0x01;
const LOWER: u16 = 0x02;
const DIGIT: u16 = 0x04;
const SPACE: u16 = 0x08;
const PUNCT: u16 = 0x10;
const CONTROL: u16 = 0x20;
const BLANK: u16 = 0x40;
const HEX: u16 = 0x80;
const ALPHA: u16 = 0x100 | UPPER | LOWER;

/// The class of an ASCII character, by bits as ctype.h has them; 0 for any other.
fn class(character: u32) -> u16 {
    let Ok(byte) = u8::try_from(character) else {
        return 0;
    };
    let hex = if byte.is_ascii_hexdigit() { HEX } else { 0 };
    hex | match byte {
        b'\t' => CONTROL | SPACE | BLANK,
        b'\n'..=b'\r' => CONTROL | SPACE,
        0..=0x1F | 0x7F => CONTROL,
        b' ' => SPACE | BLANK,
        b'0'..=b'9' => DIGIT,
        b'A'..=b'Z' => UPPER,
        b'a'..=b'z' => LOWER,
        0x21..=0x7E => PUNCT,
        0x80.. => 0,
    }
}

fn is(character: i32, mask: u16) -> i32 {
    i32::from(class(character.cast_unsigned()) & mask)
}

fn is_wide(character: u16, mask: u16) -> i32 {
    i32::from(class(u32::from(character)) & mask)
}

/// mbstowcs: converts until the NUL or `count` units; without a destination only counts.
fn widen(destination: Ptr<u16>, source: Ptr<u8>, count: u64) -> u64 {
    let limit = if destination.is_null() {
        u64::MAX
    } else {
        count
    };
    for index in 0..limit {
        let byte = source.add_bytes(index).read();
        if !destination.is_null() {
            destination.add_bytes(2 * index).write(to_unicode(byte));
        }
        if byte == 0 {
            return index;
        }
    }
    count
}

/// wcstombs: as [`widen`]; `u64::MAX` at a unit that no byte stands for.
fn narrow(destination: Ptr<u8>, source: Ptr<u16>, count: u64) -> u64 {
    let limit = if destination.is_null() {
        u64::MAX
    } else {
        count
    };
    for index in 0..limit {
        let unit = source.add_bytes(2 * index).read();
        let Some(byte) = to_ansi_exact(unit) else {
            return u64::MAX;
        };
        if !destination.is_null() {
            destination.add_bytes(index).write(byte);
        }
        if unit == 0 {
            return index;
        }
    }
    count
}

nt_api! { module = rtl_crt_ctype;
    /// Whether a character is an ASCII letter.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isalpha(character: Long) -> Long { is(character, ALPHA) }

    /// Whether a character is an ASCII capital.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isupper(character: Long) -> Long { is(character, UPPER) }

    /// Whether a character is an ASCII small letter.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn islower(character: Long) -> Long { is(character, LOWER) }

    /// Whether a character is a decimal digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isdigit(character: Long) -> Long { is(character, DIGIT) }

    /// Whether a character is a hexadecimal digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isxdigit(character: Long) -> Long { is(character, HEX) }

    /// Whether a character is white space: blank, 9 to 13.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isspace(character: Long) -> Long { is(character, SPACE) }

    /// Whether a character is printable ASCII, but neither a blank nor a letter nor a digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn ispunct(character: Long) -> Long { is(character, PUNCT) }

    /// Whether a character is an ASCII letter or digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isalnum(character: Long) -> Long { is(character, ALPHA | DIGIT) }

    /// Whether a character is printable ASCII, blanks too.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isprint(character: Long) -> Long {
        if character == 9 { 0 } else { is(character, BLANK | PUNCT | ALPHA | DIGIT) }
    }

    /// Whether a character is printable ASCII, but no blank.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn isgraph(character: Long) -> Long { is(character, PUNCT | ALPHA | DIGIT) }

    /// Whether a character is a control character.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iscntrl(character: Long) -> Long { is(character, CONTROL) }

    /// Whether a character is of the classes of a mask (ctype.h's bits).
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswctype(character: UShort, mask: UShort) -> Long { is_wide(character, mask) }

    /// Whether a character is an ASCII letter.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswalpha(character: UShort) -> Long { is_wide(character, ALPHA) }

    /// Whether a character is a decimal digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswdigit(character: UShort) -> Long { is_wide(character, DIGIT) }

    /// Whether a character is a hexadecimal digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswxdigit(character: UShort) -> Long { is_wide(character, HEX) }

    /// Whether a character is an ASCII small letter.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswlower(character: UShort) -> Long { is_wide(character, LOWER) }

    /// Whether a character is an ASCII capital.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswupper(character: UShort) -> Long { is_wide(character, UPPER) }

    /// Whether a character is white space: blank, 9 to 13.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswspace(character: UShort) -> Long { is_wide(character, SPACE) }

    /// Whether a character is an ASCII letter or digit.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn iswalnum(character: UShort) -> Long { is_wide(character, ALPHA | DIGIT) }

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

    /// The lower-case form of a character, as in RtlDowncaseUnicodeChar.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn towlower(character: UShort) -> UShort {
        downcase(character)
    }

    /// The upper-case form of a character, as in RtlUpcaseUnicodeChar.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn towupper(character: UShort) -> UShort {
        upcase(character)
    }

    /// Converts a string from the ANSI code page, at most `count` units; returns how many, without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn mbstowcs(destination: Ptr<u16>, source: Ptr<u8>, count: Size) -> Size {
        Size(widen(destination, source, count.0))
    }

    /// Converts a string to the ANSI code page, at most `count` bytes; returns how many, without the NUL, or -1 at a
    /// character that the code page lacks.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wcstombs(destination: Ptr<u8>, source: Ptr<u16>, count: Size) -> Size {
        Size(narrow(destination, source, count.0))
    }

    /// Converts a character from the ANSI code page: 1, 0 for NUL (or NULL), -1 if `count` is 0.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn mbtowc(destination: Ptr<u16>, source: Ptr<u8>, count: Size) -> Long {
        if source.is_null() {
            return 0;
        }
        if count.0 == 0 {
            return -1;
        }
        let byte = source.read();
        if !destination.is_null() {
            destination.write(to_unicode(byte));
        }
        i32::from(byte != 0)
    }

    /// Converts a character to the ANSI code page: 1, or -1 for one that it lacks; 0 for a NULL destination.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn wctomb(destination: Ptr<u8>, character: UShort) -> Long {
        if destination.is_null() {
            return 0;
        }
        match to_ansi_exact(low16(u64::from(character))) {
            Some(byte) => {
                destination.write(low8(u64::from(byte)));
                1
            }
            None => -1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, narrow_z, wide_z};

    #[test]
    fn classes_are_those_of_ascii() {
        for number in 0..300_i32 {
            let character = u8::try_from(number).map_or('\u{80}', char::from);
            let is_ascii = number < 128;
            let expect = |class: fn(i32) -> i32, expected: bool| {
                assert_eq!(class(number) != 0, is_ascii && expected, "{number}");
            };
            expect(isalpha, character.is_ascii_alphabetic());
            expect(isdigit, character.is_ascii_digit());
            expect(isxdigit, character.is_ascii_hexdigit());
            expect(isalnum, character.is_ascii_alphanumeric());
            expect(ispunct, character.is_ascii_punctuation());
            expect(isgraph, character.is_ascii_graphic());
            expect(isprint, character.is_ascii_graphic() || character == ' ');
            expect(iscntrl, character.is_ascii_control());
            expect(isspace, character.is_ascii_whitespace() || number == 11);
        }
        assert_eq!(iswctype(u16::from(b'F'), 0x80), 0x80);
        assert_eq!(iswdigit(0x0135), 0);
    }

    #[test]
    fn strings_are_converted_up_to_the_limit() {
        let (mut bytes, mut units) = (narrow_z("a\u{0}"), [7_u16; 4]);
        bytes[1] = 0x80;
        bytes.push(0);
        assert_eq!(mbstowcs(at(&mut units), at(&mut bytes), Size(4)), Size(2));
        assert_eq!(units, [97, 0x20AC, 0, 7]);
        assert_eq!(mbstowcs(Ptr::null(), at(&mut bytes), Size(0)), Size(2));
        let (mut wide, mut back) = (wide_z("€b"), [7_u8; 4]);
        assert_eq!(wcstombs(at(&mut back), at(&mut wide), Size(1)), Size(1));
        assert_eq!(back, [0x80, 7, 7, 7]);
        let mut cyrillic = wide_z("ж");
        assert_eq!(
            wcstombs(at(&mut back), at(&mut cyrillic), Size(4)),
            Size(u64::MAX)
        );
        assert_eq!(wctomb(at(&mut back), 0x416), -1);
        assert_eq!(mbtowc(at(&mut units), at(&mut bytes), Size(0)), -1);
    }
}
