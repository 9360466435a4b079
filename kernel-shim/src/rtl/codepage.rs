//! Characters: the ANSI code page (Windows-1252, that of Western Windows) and upper and lower case.

/// What bytes 0x80 to 0x9F stand for; the five that Windows-1252 leaves open stay what they are, as Windows has it.
const C1: [u16; 32] = [
    0x20AC, 0x0081, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039,
    0x0152, 0x008D, 0x017D, 0x008F, 0x0090, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
    0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x009D, 0x017E, 0x0178,
];

/// The UTF-16 unit that a byte of the ANSI code page stands for.
#[must_use]
pub fn to_unicode(byte: u8) -> u16 {
    match byte {
        0x80..=0x9F => C1[usize::from(byte - 0x80)],
        _ => u16::from(byte),
    }
}

/// The byte of the ANSI code page for a UTF-16 unit; `?` (the code page's default character) for one it lacks.
#[must_use]
pub fn to_ansi(unit: u16) -> u8 {
    to_ansi_exact(unit).unwrap_or(b'?')
}

/// The byte of the ANSI code page for a UTF-16 unit; `None` for one it lacks.
#[must_use]
pub fn to_ansi_exact(unit: u16) -> Option<u8> {
    match u8::try_from(unit) {
        Ok(byte @ (0..=0x7F | 0xA0..)) => Some(byte),
        _ => (0x80..=0x9F).find(|&byte| to_unicode(byte) == unit),
    }
}

fn single(mut characters: impl Iterator<Item = char>) -> Option<u16> {
    let first = characters.next()?;
    if characters.next().is_some() {
        return None;
    }
    u16::try_from(u32::from(first)).ok()
}

fn upper(unit: u16) -> Option<u16> {
    single(char::from_u32(u32::from(unit))?.to_uppercase())
}

fn lower(unit: u16) -> Option<u16> {
    single(char::from_u32(u32::from(unit))?.to_lowercase())
}

/// The upper-case unit. NT's table maps unit to unit: what Unicode turns into several characters (U+00DF), and what
/// is the variant of another letter (U+00B5, U+0131, U+017F), stays.
#[must_use]
pub fn upcase(unit: u16) -> u16 {
    match upper(unit) {
        Some(mapped) if lower(mapped) == Some(unit) => mapped,
        _ => unit,
    }
}

/// The lower-case unit: the inverse of [`upcase`].
#[must_use]
pub fn downcase(unit: u16) -> u16 {
    match lower(unit) {
        Some(mapped) if upper(mapped) == Some(unit) => mapped,
        _ => unit,
    }
}

/// The upper-case byte of the ANSI code page; a letter whose upper case the code page lacks stays.
#[must_use]
pub fn upcase_ansi(byte: u8) -> u8 {
    let mapped = upcase(to_unicode(byte));
    let back = to_ansi(mapped);
    if to_unicode(back) == mapped {
        back
    } else {
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in 0..=u8::MAX {
            assert_eq!(to_ansi(to_unicode(byte)), byte);
        }
        assert_eq!(to_unicode(0x80), 0x20AC);
        assert_eq!(to_ansi(0x20AC), 0x80);
        assert_eq!(to_ansi(0x0416), b'?');
    }

    #[test]
    fn case_maps_unit_to_unit() {
        for (small, capital) in [
            ('a', 'A'),
            ('z', 'Z'),
            ('ä', 'Ä'),
            ('ж', 'Ж'),
            ('ÿ', 'Ÿ'),
            ('ο', 'Ο'),
        ] {
            let (small, capital) = (small as u16, capital as u16);
            assert_eq!(upcase(small), capital);
            assert_eq!(downcase(capital), small);
            assert_eq!(upcase(capital), capital);
            assert_eq!(downcase(small), small);
        }
        for fixed in [0x00DF, 0x00B5, 0x0131, 0x017F, 0xD800, 0x0030] {
            assert_eq!(upcase(fixed), fixed);
        }
    }

    #[test]
    fn ansi_letters_have_ansi_capitals() {
        assert_eq!(upcase_ansi(b'q'), b'Q');
        assert_eq!(upcase_ansi(0xE4), 0xC4);
        assert_eq!(upcase_ansi(0xFF), 0x9F);
        assert_eq!(upcase_ansi(0xDF), 0xDF);
    }
}
