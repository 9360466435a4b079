//! From a line to a [`Command`].

use super::super::device::{PnpStep, PowerState};
use super::super::driver::PortWidth;
use super::data;
use super::{Action, Command, CommandError, LINE_MAX, TRANSFER_MAX};
use crate::observe::escape::escape;

/// Longest device path, in bytes.
const PATH_MAX: usize = 1024;

/// Walks a line. `at` is a byte offset on a character boundary.
pub(super) struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

/// A word with where it begins.
#[derive(Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

pub(super) fn command(line: &str) -> Result<Command, CommandError> {
    if line.len() > LINE_MAX {
        return Err(CommandError {
            column: 1,
            found: format!("a command of {} bytes", line.len()),
            expected: format!("at most {LINE_MAX}"),
        });
    }
    let mut cursor = Cursor { line, at: 0 };
    cursor.skip_space();
    let is_failure_expected = cursor.rest().starts_with('!');
    if is_failure_expected {
        cursor.at += 1;
    }
    let name = cursor.word(
        "a command: open, close, ioctl, read, write, in[bwd], out[bwd], pnp, power, device, stats, unload or help",
    )?;
    let action = action(&mut cursor, name)?;
    if let Some(extra) = cursor.next_word() {
        return Err(cursor.error(extra.at, &quoted(extra.text), "the end of the command"));
    }
    Ok(Command {
        is_failure_expected,
        action,
    })
}

fn action(cursor: &mut Cursor<'_>, name: Word<'_>) -> Result<Action, CommandError> {
    Ok(match name.text {
        "open" => Action::Open(path(cursor)?),
        "close" => Action::Close,
        "ioctl" => ioctl(cursor)?,
        "read" => {
            let bytes = cursor.transfer_bytes("the number of bytes to read")?;
            let offset = cursor.offset()?;
            Action::Read { bytes, offset }
        }
        "write" => {
            let word =
                cursor.data_word("DATA to write, such as de00beef, u16:0x378 or \"text\"")?;
            let data = data::parse(cursor, word)?;
            let offset = cursor.offset()?;
            Action::Write { data, offset }
        }
        "inb" | "inw" | "ind" => Action::PortIn {
            port: cursor.port()?,
            width: width(name.text),
        },
        "outb" | "outw" | "outd" => {
            let port = cursor.port()?;
            let width = width(name.text);
            let max = u64::from(width.max());
            let value = cursor.number(&format!("a value from 0 to {max:#x}"), max)?;
            Action::PortOut {
                port,
                width,
                value: u32::try_from(value).unwrap_or(u32::MAX),
            }
        }
        "pnp" => pnp(cursor)?,
        "power" => power(cursor)?,
        "device" => model(cursor)?,
        "stats" => Action::Stats,
        "unload" => Action::Unload,
        "help" => Action::Help,
        other => {
            return Err(cursor.error(
                name.at,
                &quoted(other),
                "a command: open, close, ioctl, read, write, inb, inw, ind, outb, outw, outd, pnp, power, device, stats, unload or help",
            ));
        }
    })
}

fn pnp(cursor: &mut Cursor<'_>) -> Result<Action, CommandError> {
    let expected = "list, or a step: start, stop, query-stop, cancel-stop, query-remove, cancel-remove, remove, surprise-remove";
    let word = cursor.word(expected)?;
    if word.text == "list" {
        return Ok(Action::Devices);
    }
    let step = PnpStep::ALL
        .into_iter()
        .find(|step| step.name() == word.text)
        .ok_or_else(|| cursor.error(word.at, &quoted(word.text), expected))?;
    let device = device(cursor)?;
    Ok(Action::Pnp { step, device })
}

fn power(cursor: &mut Cursor<'_>) -> Result<Action, CommandError> {
    let expected = "a power state, D0 to D3 or S0 to S5";
    let word = cursor.word(expected)?;
    let state = PowerState::from_name(word.text)
        .ok_or_else(|| cursor.error(word.at, &quoted(word.text), expected))?;
    let device = device(cursor)?;
    Ok(Action::Power { state, device })
}

/// A device's name, if there is one.
fn device(cursor: &mut Cursor<'_>) -> Result<Option<String>, CommandError> {
    if cursor.is_at_end() {
        return Ok(None);
    }
    path_like(
        cursor,
        r"a device's instance path, such as ROOT\NAME\0000, or its driver's name",
    )
    .map(Some)
}

/// Most settings of one command.
const SETTINGS_MAX: usize = 64;

fn model(cursor: &mut Cursor<'_>) -> Result<Action, CommandError> {
    let expected = "a device model's name, or its first port or address, such as 0x378";
    if cursor.is_at_end() {
        return Ok(Action::Model {
            name: None,
            settings: Vec::new(),
        });
    }
    let name = path_like(cursor, expected)?;
    let mut settings = Vec::new();
    while let Some(word) = cursor.next_data_word()? {
        let expected = "KEY=VALUE, such as busy=1; a VALUE with spaces in quotes";
        let parts = word.text.split_once('=');
        let Some((key, value)) = parts.filter(|(key, _)| !key.is_empty()) else {
            return Err(cursor.error(word.at, &quoted(word.text), expected));
        };
        // Backslashes are no escapes, as in paths.
        let value = match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').unwrap_or(rest),
            None => value,
        };
        if settings.len() >= SETTINGS_MAX || word.text.chars().any(char::is_control) {
            return Err(cursor.error(word.at, &quoted(word.text), expected));
        }
        settings.push((key.to_owned(), value.to_owned()));
    }
    Ok(Action::Model {
        name: Some(name),
        settings,
    })
}

fn width(name: &str) -> PortWidth {
    match name.as_bytes().last() {
        Some(b'b') => PortWidth::Byte,
        Some(b'w') => PortWidth::Word,
        _ => PortWidth::Dword,
    }
}

fn path(cursor: &mut Cursor<'_>) -> Result<String, CommandError> {
    path_like(
        cursor,
        r"a device path such as \\.\giveio or \Device\giveio",
    )
}

fn path_like(cursor: &mut Cursor<'_>, expected: &str) -> Result<String, CommandError> {
    cursor.skip_space();
    let start = cursor.at;
    // A path in quotes may hold spaces. Backslashes are never escapes in a path.
    let path = if let Some(rest) = cursor.rest().strip_prefix('"') {
        let Some(end) = rest.find('"') else {
            return Err(cursor.error(start, "a quote that is not closed", "a closing quote"));
        };
        cursor.at += end + 2;
        rest.get(..end).unwrap_or_default()
    } else {
        cursor.word(expected)?.text
    };
    let found = if path.is_empty() {
        "an empty path".to_owned()
    } else if path.len() > PATH_MAX {
        format!("a path of {} bytes", path.len())
    } else if path.contains('\0') || path.chars().any(char::is_control) {
        "a path with control characters".to_owned()
    } else {
        return Ok(path.to_owned());
    };
    Err(cursor.error(start, &found, expected))
}

fn ioctl(cursor: &mut Cursor<'_>) -> Result<Action, CommandError> {
    let code = cursor.number("a control code such as 0x9c402004", u64::from(u32::MAX))?;
    let input = match cursor.next_data_word()? {
        None => Vec::new(),
        Some(word) if word.text == "-" => Vec::new(),
        Some(word) => data::parse(cursor, word)?,
    };
    let output_bytes = if cursor.is_at_end() {
        0
    } else {
        cursor.transfer_bytes("the number of output bytes")?
    };
    Ok(Action::Ioctl {
        code: u32::try_from(code).unwrap_or(u32::MAX),
        input,
        output_bytes,
    })
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }

    fn next_word(&mut self) -> Option<Word<'a>> {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = Word {
            text: rest.get(..end)?,
            at: self.at,
        };
        self.at += end;
        (end != 0).then_some(word)
    }

    /// A word in which quoted strings may hold spaces.
    fn next_data_word(&mut self) -> Result<Option<Word<'a>>, CommandError> {
        self.skip_space();
        let rest = self.rest();
        let mut quote = None;
        let mut is_escaped = false;
        let mut end = rest.len();
        for (index, character) in rest.char_indices() {
            if quote.is_some() {
                match character {
                    _ if is_escaped => is_escaped = false,
                    '\\' => is_escaped = true,
                    '"' => quote = None,
                    _ => {}
                }
            } else if character == '"' {
                quote = Some(index);
            } else if character.is_whitespace() {
                end = index;
                break;
            }
        }
        if let Some(start) = quote {
            return Err(self.error(
                self.at + start,
                "a quote that is not closed",
                "a closing quote",
            ));
        }
        let word = Word {
            text: rest.get(..end).unwrap_or_default(),
            at: self.at,
        };
        self.at += end;
        Ok((end != 0).then_some(word))
    }

    fn word(&mut self, expected: &str) -> Result<Word<'a>, CommandError> {
        match self.next_word() {
            Some(word) => Ok(word),
            None => Err(self.error(self.line.len(), "nothing", expected)),
        }
    }

    fn data_word(&mut self, expected: &str) -> Result<Word<'a>, CommandError> {
        match self.next_data_word()? {
            Some(word) => Ok(word),
            None => Err(self.error(self.line.len(), "nothing", expected)),
        }
    }

    fn number(&mut self, expected: &str, max: u64) -> Result<u64, CommandError> {
        let word = self.word(expected)?;
        match parse_number(word.text) {
            Some(value) if value <= max => Ok(value),
            Some(_) => Err(self.error(
                word.at,
                &format!("{} is too large", quoted(word.text)),
                expected,
            )),
            None => Err(self.error(word.at, &quoted(word.text), expected)),
        }
    }

    fn transfer_bytes(&mut self, what: &str) -> Result<u32, CommandError> {
        let expected = format!("{what}, at most {TRANSFER_MAX}");
        let bytes = self.number(&expected, u64::from(TRANSFER_MAX))?;
        Ok(u32::try_from(bytes).unwrap_or(TRANSFER_MAX))
    }

    fn port(&mut self) -> Result<u16, CommandError> {
        let port = self.number("a port from 0 to 0xffff", 0xFFFF)?;
        Ok(u16::try_from(port).unwrap_or(u16::MAX))
    }

    fn offset(&mut self) -> Result<Option<u64>, CommandError> {
        let Some(word) = self.next_word() else {
            return Ok(None);
        };
        if word.text != "at" {
            return Err(self.error(
                word.at,
                &quoted(word.text),
                "`at OFFSET` or the end of the command",
            ));
        }
        self.number("a byte offset", i64::MAX.unsigned_abs())
            .map(Some)
    }

    /// An error at byte `at` of the line.
    pub(super) fn error(&self, at: usize, found: &str, expected: &str) -> CommandError {
        let before = self.line.get(..at).unwrap_or(self.line);
        CommandError {
            column: before.chars().count() + 1,
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
    }
}

/// A number, decimal or hexadecimal with 0x.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix also takes a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A piece of the line for an error message: short, and safe to show.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("`{}`", escape(&short))
}
