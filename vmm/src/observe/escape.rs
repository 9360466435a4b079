//! Text from a guest, made safe to show.
//!
//! A driver can put anything into a log line or an object name: terminal control sequences, bytes that are not
//! UTF-8, right-to-left overrides. None of it may forge what a terminal shows, so only printable characters pass.

use std::fmt::{self, Write as _};

/// Shows text with everything that is not printable written as an escape: `\n`, `\t`, `\r`, `\0`, `\x1b`, `\u{202e}`.
///
/// A backslash stays as it is, since NT's paths are full of them; the output is for reading, not for parsing back.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            write_character(f, character)?;
        }
        Ok(())
    }
}

/// Decodes bytes as UTF-8 and escapes them; bytes that are not UTF-8 become `\xNN`.
#[must_use]
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Escapes text into a new string; see [`Escaped`].
#[must_use]
pub fn escape(text: &str) -> String {
    Escaped(text).to_string()
}

/// Escapes text of several lines: line ends stay.
#[must_use]
pub fn escape_lines(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

fn write_character(out: &mut impl fmt::Write, character: char) -> fmt::Result {
    match character {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\0' => out.write_str("\\0"),
        c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
        c if is_deceptive(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
        c => out.write_char(c),
    }
}

/// Characters that are invisible or change how their neighbours are shown.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character),
            0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF
            | 0xFFF9..=0xFFFB | 0xE000..=0xF8FF | 0xE_0000..=0xE_0FFF | 0xF_0000..=0x10_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_is_unchanged() {
        assert_eq!(escape(r"\Device\Größe 漢字"), r"\Device\Größe 漢字");
    }

    #[test]
    fn terminal_sequences_are_shown_not_sent() {
        assert_eq!(
            escape("a\x1b[2Jb\r\n\t\0\x7f\u{9b}"),
            r"a\x1b[2Jb\r\n\t\0\x7f\u{9b}"
        );
    }

    #[test]
    fn direction_overrides_are_shown_not_sent() {
        assert_eq!(escape("x\u{202e}y\u{feff}"), r"x\u{202e}y\u{feff}");
    }

    #[test]
    fn invalid_utf8_is_shown_as_bytes() {
        assert_eq!(escape_bytes(b"ok\xff\xc3(\xe2\x82"), r"ok\xff\xc3(\xe2\x82");
    }

    #[test]
    fn lines_survive_where_lines_are_wanted() {
        assert_eq!(escape_lines("a\x07\nb"), "a\\x07\nb");
    }
}
