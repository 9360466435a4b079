//! Registry contents as text.

use std::fmt::Write;

use super::{
    Change, REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_QWORD, REG_SZ, string_data,
    strings_data,
};
use toml::{Table, Value};

/// The text of REG_SZ data; `None` unless that text gives exactly this data again.
fn plain_text(data: &[u8]) -> Option<String> {
    let (pairs, _) = data.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let text = String::from_utf16(units.strip_suffix(&[0])?).ok()?;
    (string_data(&text) == data && !text.contains('\0')).then_some(text)
}

/// The strings of REG_MULTI_SZ data; `None` unless they give exactly this data again.
fn plain_strings(data: &[u8]) -> Option<Vec<String>> {
    let (pairs, _) = data.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let text = String::from_utf16(units.strip_suffix(&[0])?).ok()?;
    let strings: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    let is_plain = strings.iter().all(|string| !string.is_empty());
    (is_plain && strings_data(strings.iter().map(String::as_str)) == data).then_some(strings)
}

/// `\Registry\Machine\x` is `HKEY_LOCAL_MACHINE\x`.
fn windows_name(name: &str) -> String {
    for (top, hive) in [
        (r"\Registry\Machine", "HKEY_LOCAL_MACHINE"),
        (r"\Registry\User", "HKEY_USERS"),
    ] {
        let rest = name
            .get(..top.len())
            .filter(|prefix| prefix.eq_ignore_ascii_case(top))
            .and_then(|_| name.get(top.len()..));
        if let Some(rest) = rest {
            return format!("{hive}{rest}");
        }
    }
    name.to_owned()
}

fn escaped(text: &str) -> String {
    let mut result = String::from("\"");
    for character in text.chars() {
        match character {
            '\\' => result.push_str(r"\\"),
            '"' => result.push_str("\\\""),
            '\n' => result.push_str(r"\n"),
            '\r' => result.push_str(r"\r"),
            '\0' => result.push_str(r"\0"),
            other => result.push(other),
        }
    }
    result.push('"');
    result
}

fn hex(bytes: &[u8], separator: &str) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(separator)
}

/// A .reg file's text, UTF-8.
pub(super) fn reg(changes: &[Change]) -> String {
    let mut text = String::from("Windows Registry Editor Version 5.00\r\n");
    for change in changes {
        let line = match change {
            Change::Key(name) => format!("\r\n[{}]", windows_name(name)),
            Change::DeleteKey(name) => format!("\r\n[-{}]", windows_name(name)),
            Change::Value(name, value_type, data) => {
                let name = if name.is_empty() {
                    "@".to_owned()
                } else {
                    escaped(name)
                };
                format!("{name}={}", reg_data(*value_type, data))
            }
            Change::DeleteValue(name) => format!("{}=-", escaped(name)),
        };
        // Writing to a String does not fail.
        let _ = write!(text, "{line}\r\n").is_ok();
    }
    text
}

fn reg_data(value_type: u32, data: &[u8]) -> String {
    match (value_type, data) {
        (REG_DWORD, &[a, b, c, d]) => format!("dword:{:08x}", u32::from_le_bytes([a, b, c, d])),
        (REG_SZ, data) => plain_text(data).map_or_else(
            || format!("hex(1):{}", hex(data, ",")),
            |text| escaped(&text),
        ),
        (REG_BINARY, data) => format!("hex:{}", hex(data, ",")),
        (other, data) => format!("hex({other:x}):{}", hex(data, ",")),
    }
}

/// A TOML file's text.
pub(super) fn toml(changes: &[Change]) -> String {
    let mut document = Table::new();
    let mut current = String::new();
    for change in changes {
        match change {
            Change::Key(name) => {
                current = windows_name(name);
                document
                    .entry(current.clone())
                    .or_insert_with(|| Value::Table(Table::new()));
            }
            Change::Value(name, value_type, data) => {
                if let Some(Value::Table(key)) = document.get_mut(&current) {
                    key.insert(name.clone(), toml_value(*value_type, data));
                }
            }
            // A guest hands back what there is.
            Change::DeleteKey(_) | Change::DeleteValue(_) => {}
        }
    }
    document.to_string()
}

fn toml_value(value_type: u32, data: &[u8]) -> Value {
    let table = |entries: Vec<(&str, Value)>| {
        Value::Table(
            entries
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    };
    let binary = || {
        let digits = ("binary", Value::String(hex(data, " ")));
        if value_type == REG_BINARY {
            table(vec![digits])
        } else {
            table(vec![("type", Value::Integer(value_type.into())), digits])
        }
    };
    match (value_type, data) {
        (REG_SZ, data) => plain_text(data).map_or_else(binary, Value::String),
        (REG_EXPAND_SZ, data) => plain_text(data)
            .map_or_else(binary, |text| table(vec![("expand", Value::String(text))])),
        (REG_MULTI_SZ, data) => plain_strings(data).map_or_else(binary, |strings| {
            Value::Array(strings.into_iter().map(Value::String).collect())
        }),
        (REG_DWORD, &[a, b, c, d]) => Value::Integer(u32::from_le_bytes([a, b, c, d]).into()),
        (REG_QWORD, data) => match <[u8; 8]>::try_from(data) {
            Ok(bytes) => table(vec![("qword", Value::Integer(i64::from_le_bytes(bytes)))]),
            Err(_) => binary(),
        },
        _ => binary(),
    }
}
