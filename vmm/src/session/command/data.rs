//! DATA: bytes written as hexadecimal digits, integers, text or zeros, joined by commas.

use super::parse::{Cursor, Word, parse_number, quoted};
use super::{CommandError, TRANSFER_MAX};

const EXPECTED: &str =
    "DATA: hexadecimal bytes (de00beef), u16:0x378, \"text\", utf16:\"text\" or zero:16";

/// Parses a word of DATA.
pub(super) fn parse(cursor: &Cursor<'_>, word: Word<'_>) -> Result<Vec<u8>, CommandError> {
    let mut data = Vec::new();
    for item in items(word) {
        append(cursor, item, &mut data)?;
        if data.len() > TRANSFER_MAX as usize {
            let found = format!("more than {TRANSFER_MAX} bytes");
            return Err(cursor.error(item.at, &found, "less data"));
        }
    }
    Ok(data)
}

/// Splits at commas that are not inside quotes.
fn items(word: Word<'_>) -> Vec<Word<'_>> {
    let mut items = Vec::new();
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    let mut push = |start: usize, end: usize| {
        items.push(Word {
            text: word.text.get(start..end).unwrap_or_default(),
            at: word.at + start,
        });
    };
    for (index, character) in word.text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                push(start, index);
                start = index + 1;
            }
            _ => {}
        }
    }
    push(start, word.text.len());
    items
}

fn append(cursor: &Cursor<'_>, item: Word<'_>, data: &mut Vec<u8>) -> Result<(), CommandError> {
    let text = item.text;
    if text.starts_with('"') {
        data.extend(string(cursor, item)?);
        return Ok(());
    }
    let Some((kind, value)) = text.split_once(':') else {
        return hexadecimal(cursor, item, data);
    };
    let value = Word {
        text: value,
        at: item.at + kind.len() + 1,
    };
    match kind {
        "u8" | "u16" | "u32" | "u64" => unsigned(cursor, kind, value, data),
        "i8" | "i16" | "i32" | "i64" => signed(cursor, kind, value, data),
        "utf16" => {
            let bytes = string(cursor, value)?;
            let Ok(text) = std::str::from_utf8(&bytes) else {
                return Err(cursor.error(
                    value.at,
                    "text that is not UTF-8",
                    "text without \\x80 to \\xff",
                ));
            };
            data.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
            Ok(())
        }
        "zero" => match parse_number(value.text) {
            Some(count) if count <= u64::from(TRANSFER_MAX) => {
                let count = usize::try_from(count).unwrap_or_default();
                data.resize(data.len() + count, 0);
                Ok(())
            }
            _ => {
                let expected = format!("a number of bytes, at most {TRANSFER_MAX}");
                Err(cursor.error(value.at, &quoted(value.text), &expected))
            }
        },
        _ => Err(cursor.error(item.at, &quoted(text), EXPECTED)),
    }
}

fn bits_of(kind: &str) -> u32 {
    kind.get(1..)
        .and_then(|bits| bits.parse().ok())
        .unwrap_or(64)
}

fn unsigned(
    cursor: &Cursor<'_>,
    kind: &str,
    value: Word<'_>,
    data: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let bits = bits_of(kind);
    let max = u64::MAX >> (64 - bits);
    match parse_number(value.text) {
        Some(number) if number <= max => {
            data.extend(number.to_le_bytes().iter().take(bits as usize / 8));
            Ok(())
        }
        _ => {
            let expected = format!("a number from 0 to {max:#x}");
            Err(cursor.error(value.at, &quoted(value.text), &expected))
        }
    }
}

fn signed(
    cursor: &Cursor<'_>,
    kind: &str,
    value: Word<'_>,
    data: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let bits = bits_of(kind);
    let max = i64::MAX >> (64 - bits);
    let number = match value.text.strip_prefix('-') {
        Some(digits) => parse_number(digits).and_then(|number| 0_i64.checked_sub_unsigned(number)),
        None => parse_number(value.text).and_then(|number| i64::try_from(number).ok()),
    };
    match number {
        Some(number) if (-max - 1..=max).contains(&number) => {
            data.extend(number.to_le_bytes().iter().take(bits as usize / 8));
            Ok(())
        }
        _ => {
            let expected = format!("a number from {} to {max}", -max - 1);
            Err(cursor.error(value.at, &quoted(value.text), &expected))
        }
    }
}

fn hexadecimal(
    cursor: &Cursor<'_>,
    item: Word<'_>,
    data: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let text = item.text;
    if text.starts_with("0x") {
        let found = format!("{}, a number without a width", quoted(text));
        return Err(cursor.error(
            item.at,
            &found,
            "u8:, u16:, u32: or u64: before it, or bytes without 0x",
        ));
    }
    if let Some(index) = text.find(|character: char| !character.is_ascii_hexdigit()) {
        let rest = text.get(index..).unwrap_or_default();
        return Err(cursor.error(item.at + index, &quoted(rest), EXPECTED));
    }
    if text.is_empty() {
        return Err(cursor.error(item.at, "nothing", EXPECTED));
    }
    if !text.len().is_multiple_of(2) {
        let found = format!("{} hexadecimal digits", text.len());
        return Err(cursor.error(item.at, &found, "two digits for each byte"));
    }
    // All ASCII digits, checked above.
    data.extend((0..text.len()).step_by(2).filter_map(|index| {
        let digits = text.get(index..index + 2)?;
        u8::from_str_radix(digits, 16).ok()
    }));
    Ok(())
}

fn string(cursor: &Cursor<'_>, item: Word<'_>) -> Result<Vec<u8>, CommandError> {
    let inner = item
        .text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(inner) = inner else {
        return Err(cursor.error(
            item.at,
            &quoted(item.text),
            "text in quotes, then a comma or a space",
        ));
    };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut characters = inner.char_indices();
    while let Some((index, character)) = characters.next() {
        let at = item.at + 1 + index;
        if character == '"' {
            return Err(cursor.error(at, "text after a quote", "a comma or a space"));
        }
        if character != '\\' {
            bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let escaped = characters.next().map(|(_, escaped)| escaped);
        let byte = match escaped {
            Some('n') => Some(b'\n'),
            Some('r') => Some(b'\r'),
            Some('t') => Some(b'\t'),
            Some('0') => Some(0),
            Some('\\') => Some(b'\\'),
            Some('"') => Some(b'"'),
            Some('x') => {
                let high = characters.next().and_then(|(_, digit)| digit.to_digit(16));
                let low = characters.next().and_then(|(_, digit)| digit.to_digit(16));
                high.zip(low)
                    .and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
            }
            _ => None,
        };
        match byte {
            Some(byte) => bytes.push(byte),
            None => {
                return Err(cursor.error(
                    at,
                    "an unknown escape",
                    r#"\n, \r, \t, \0, \\, \" or \xNN"#,
                ));
            }
        }
    }
    Ok(bytes)
}
