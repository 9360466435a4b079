//! Bytes and numbers as hexadecimal text.

use serde::Serializer;
use std::fmt::{self, Write as _};

/// Bytes as hexadecimal digits without separators.
#[must_use]
pub fn bytes(data: &[u8]) -> String {
    join(data, "")
}

/// Bytes as hexadecimal digits with spaces between them.
#[must_use]
pub fn spaced(data: &[u8]) -> String {
    join(data, " ")
}

fn join(data: &[u8], separator: &str) -> String {
    let mut text = String::with_capacity(data.len() * (2 + separator.len()));
    for (index, byte) in data.iter().enumerate() {
        if index != 0 {
            text.push_str(separator);
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A classic dump: offset, 16 bytes, their ASCII; one line for every 16 bytes, without a final line end.
#[must_use]
pub fn dump(data: &[u8], indent: &str) -> String {
    data.chunks(16)
        .enumerate()
        .map(|(line, chunk)| {
            let ascii: String = chunk
                .iter()
                .map(|&byte| match byte {
                    0x20..=0x7E => char::from(byte),
                    _ => '.',
                })
                .collect();
            format!("{indent}{:04x}  {:<47}  {ascii}", line * 16, spaced(chunk))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// A 64-bit number that is shown, and serialized, as `0x...`.
///
/// JSON numbers are doubles in many readers, which cannot hold an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_shows_offset_bytes_and_ascii() {
        let data: Vec<u8> = (0x3C..0x4E).collect();
        assert_eq!(
            dump(&data, "  "),
            "  0000  3c 3d 3e 3f 40 41 42 43 44 45 46 47 48 49 4a 4b  <=>?@ABCDEFGHIJK\n\
             \x20 0010  4c 4d                                            LM"
        );
    }

    #[test]
    fn numbers_serialize_as_text() {
        assert_eq!(
            serde_json::to_string(&Hex(u64::MAX)).unwrap(),
            "\"0xffffffffffffffff\""
        );
    }
}
