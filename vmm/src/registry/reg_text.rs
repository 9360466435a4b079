//! The text format of Windows' own registry editor (.reg).

use super::{Change, Message, REG_BINARY, REG_DWORD, REG_SZ, key_name, string_data};

/// First lines that there are.
const SIGNATURES: [&str; 2] = ["Windows Registry Editor Version 5.00", "REGEDIT4"];

/// Reads a .reg file's text. An error is a line, from 1, and what is wrong with it.
pub(super) fn parse(text: &str, service: &str) -> Result<Vec<Change>, (usize, Message)> {
    let lines = logical_lines(text);
    let mut lines = lines.iter().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with(';')
    });
    match lines.next() {
        Some((_, first)) if SIGNATURES.contains(&first.trim()) => {}
        first => {
            let number = first.map_or(1, |(number, _)| *number);
            return Err((
                number,
                format!("a .reg file begins with the line `{}`", SIGNATURES[0]),
            ));
        }
    }
    let mut changes = Vec::new();
    let mut is_in_key = false;
    for (number, line) in lines {
        let change = parse_line(line.trim(), service, is_in_key);
        let change = change.map_err(|message| (*number, message))?;
        match &change {
            Change::Key(_) => is_in_key = true,
            Change::DeleteKey(_) => is_in_key = false,
            _ => {}
        }
        changes.push(change);
    }
    Ok(changes)
}

/// Lines with those that a backslash continues in one; each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end();
        let continues = line.ends_with('\\') && !line.trim_start().starts_with(['[', ';']);
        let content = if continues {
            line.trim_end_matches('\\')
        } else {
            line
        };
        match lines.last_mut() {
            Some((_, before)) if is_continued => before.push_str(content.trim_start()),
            _ => lines.push((number, content.to_owned())),
        }
        is_continued = continues;
    }
    lines
}

fn parse_line(line: &str, service: &str, is_in_key: bool) -> Result<Change, Message> {
    if let Some(rest) = line.strip_prefix('[') {
        let inner = rest.strip_suffix(']').ok_or("a key's line ends with `]`")?;
        return match inner.strip_prefix('-') {
            Some(name) => key_name(name, service).map(Change::DeleteKey),
            None => key_name(inner, service).map(Change::Key),
        };
    }
    if !is_in_key {
        return Err("there is no key before this value: write a line [KEY] first".to_owned());
    }
    let (name, rest) = match line.strip_prefix('@') {
        Some(rest) => (String::new(), rest),
        None => quoted(line)?,
    };
    let data = rest
        .trim_start()
        .strip_prefix('=')
        .ok_or("a value is written \"NAME\"=DATA, or @=DATA for the default value")?
        .trim();
    if data == "-" {
        return Ok(Change::DeleteValue(name));
    }
    let (value_type, data) = parse_data(data)?;
    Ok(Change::Value(name, value_type, data))
}

/// A string in quotation marks, with \\ and \" for backslash and quotation mark; and what follows it.
fn quoted(text: &str) -> Result<(String, &str), Message> {
    let inner = text
        .strip_prefix('"')
        .ok_or("a value's name or a string is in quotation marks")?;
    let mut result = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((result, inner.get(at + 1..).unwrap_or(""))),
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '"'))) => result.push(escaped),
                Some((_, 'n')) => result.push('\n'),
                Some((_, 'r')) => result.push('\r'),
                Some((_, '0')) => result.push('\0'),
                _ => return Err("behind a backslash there is \\, \", n, r or 0".to_owned()),
            },
            other => result.push(other),
        }
    }
    Err("the closing quotation mark is missing".to_owned())
}

fn parse_data(data: &str) -> Result<(u32, Vec<u8>), Message> {
    if data.starts_with('"') {
        let (text, rest) = quoted(data)?;
        let rest = rest.trim();
        if !rest.is_empty() && !rest.starts_with(';') {
            return Err(format!("`{rest}` follows the string"));
        }
        return Ok((REG_SZ, string_data(&text)));
    }
    // A comment may follow numbers.
    let data = data.split(';').next().unwrap_or("").trim();
    let (kind, digits) = data
        .split_once(':')
        .ok_or("data is \"text\", dword:HEX, hex:BYTES, hex(TYPE):BYTES or -")?;
    let kind = kind.trim().to_ascii_lowercase();
    if kind == "dword" {
        let digits = digits.trim();
        let is_hex = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        return u32::from_str_radix(digits, 16)
            .ok()
            .filter(|_| is_hex)
            .map(|value| (REG_DWORD, value.to_le_bytes().to_vec()))
            .ok_or_else(|| format!("dword:{digits} is no hexadecimal number of up to 8 digits"));
    }
    let value_type = if kind == "hex" {
        REG_BINARY
    } else {
        kind.strip_prefix("hex(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|digits| u32::from_str_radix(digits.trim().trim_start_matches("0x"), 16).ok())
            .ok_or_else(|| format!("`{kind}` is no kind of data: write dword, hex or hex(TYPE)"))?
    };
    let bytes: Result<Vec<u8>, Message> = digits
        .split(',')
        .map(str::trim)
        .filter(|byte| !byte.is_empty())
        .map(|byte| {
            let is_hex = byte.chars().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(byte, 16)
                .ok()
                .filter(|_| is_hex)
                .ok_or_else(|| format!("`{byte}` is no hexadecimal byte"))
        })
        .collect();
    Ok((value_type, bytes?))
}
