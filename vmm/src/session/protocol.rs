//! What goes over the control socket: one JSON object a line, in both directions.
//!
//! A client sends `{"command": "inb 0x378"}` and gets one reply for each, in order:
//! `{"ok": true, "exit_code": 0, "text": "inb 0x378: 0x41", "command": "in", "value": "0x41", ...}`. `text` is what
//! a person would see; the other fields are the same as with `--json`. Each connection is a process of the
//! guest of its own, with its own handles and I/O permission map; it ends with the connection.

use super::command::LINE_MAX;
use super::interpreter::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, BufRead, Read};

/// Longest line, in bytes: a command of which each byte is escaped, and the object around it.
pub const REQUEST_MAX: usize = LINE_MAX * 6 + 1024;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The command, as in a script.
    pub command: String,
}

/// The reply to a command, as a line without its end.
#[must_use]
pub fn reply(outcome: &Outcome) -> String {
    let mut object = outcome.object();
    object.insert("text".into(), outcome.text.clone().into());
    Value::Object(object).to_string()
}

/// Reads a line of at most `max` bytes. `None` at the end of the stream.
///
/// # Errors
/// The stream's; [`io::ErrorKind::InvalidData`] for a longer line or one that is not UTF-8.
pub fn read_line(reader: &mut impl BufRead, max: usize) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let limit = max as u64 + 1;
    let count = reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if count > max {
        let message = format!("a line of more than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded() {
        let mut text = &b"abc\nde"[..];
        assert_eq!(read_line(&mut text, 3).unwrap().as_deref(), Some("abc"));
        assert_eq!(read_line(&mut text, 3).unwrap().as_deref(), Some("de"));
        assert_eq!(read_line(&mut text, 3).unwrap(), None);
        assert!(read_line(&mut &b"abcd"[..], 3).is_err());
        assert!(read_line(&mut &b"\xff\n"[..], 3).is_err());
    }

    #[test]
    fn requests_have_one_field() {
        assert!(serde_json::from_str::<Request>(r#"{"command": "stats"}"#).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"command": "stats", "x": 1}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"command": 1}"#).is_err());
    }
}
