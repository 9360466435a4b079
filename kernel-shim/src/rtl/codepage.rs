//! Characters: the ANSI code page (Windows-1252, that of Western Windows), the OEM code page (437, that of the United
//! States), and upper and lower case.

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

/// What bytes 0x80 to 0xFF of the OEM code page stand for.
const OEM: [u16; 128] = [
    0x00C7, 0x00FC, 0x00E9, 0x00E2, 0x00E4, 0x00E0, 0x00E5, 0x00E7, 0x00EA, 0x00EB, 0x00E8, 0x00EF,
    0x00EE, 0x00EC, 0x00C4, 0x00C5, 0x00C9, 0x00E6, 0x00C6, 0x00F4, 0x00F6, 0x00F2, 0x00FB, 0x00F9,
    0x00FF, 0x00D6, 0x00DC, 0x00A2, 0x00A3, 0x00A5, 0x20A7, 0x0192, 0x00E1, 0x00ED, 0x00F3, 0x00FA,
    0x00F1, 0x00D1, 0x00AA, 0x00BA, 0x00BF, 0x2310, 0x00AC, 0x00BD, 0x00BC, 0x00A1, 0x00AB, 0x00BB,
    0x2591, 0x2592, 0x2593, 0x2502, 0x2524, 0x2561, 0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557,
    0x255D, 0x255C, 0x255B, 0x2510, 0x2514, 0x2534, 0x252C, 0x251C, 0x2500, 0x253C, 0x255E, 0x255F,
    0x255A, 0x2554, 0x2569, 0x2566, 0x2560, 0x2550, 0x256C, 0x2567, 0x2568, 0x2564, 0x2565, 0x2559,
    0x2558, 0x2552, 0x2553, 0x256B, 0x256A, 0x2518, 0x250C, 0x2588, 0x2584, 0x258C, 0x2590, 0x2580,
    0x03B1, 0x00DF, 0x0393, 0x03C0, 0x03A3, 0x03C3, 0x00B5, 0x03C4, 0x03A6, 0x0398, 0x03A9, 0x03B4,
    0x221E, 0x03C6, 0x03B5, 0x2229, 0x2261, 0x00B1, 0x2265, 0x2264, 0x2320, 0x2321, 0x00F7, 0x2248,
    0x00B0, 0x2219, 0x00B7, 0x221A, 0x207F, 0x00B2, 0x25A0, 0x00A0,
];

/// The UTF-16 unit that a byte of the OEM code page stands for.
#[must_use]
pub fn oem_to_unicode(byte: u8) -> u16 {
    match byte.checked_sub(0x80) {
        None => u16::from(byte),
        Some(index) => OEM[usize::from(index)],
    }
}

/// The byte of the OEM code page for a UTF-16 unit; `None` for one it lacks.
#[must_use]
pub fn to_oem_exact(unit: u16) -> Option<u8> {
    (0..=u8::MAX).find(|&byte| oem_to_unicode(byte) == unit)
}

/// The byte of the OEM code page for a UTF-16 unit; `?` for one it lacks.
#[must_use]
pub fn to_oem(unit: u16) -> u8 {
    to_oem_exact(unit).unwrap_or(b'?')
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
            assert_eq!(to_oem(oem_to_unicode(byte)), byte);
        }
        assert_eq!(to_unicode(0x80), 0x20AC);
        assert_eq!(to_ansi(0x20AC), 0x80);
        assert_eq!(to_ansi(0x0416), b'?');
        assert_eq!((to_oem(0x00E4), to_oem(0x2248)), (0x84, 0xF7));
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
