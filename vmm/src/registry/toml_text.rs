//! Registry contents in TOML: tables by key, values by name.
//!
//! ```toml
//! ["Parameters"]                       # below the driver's service key
//! Depth = 16                           # REG_DWORD
//! Name = "text"                        # REG_SZ
//! Names = ["one", "two"]               # REG_MULTI_SZ
//! "" = "the default value"
//! Path = { expand = "%SystemRoot%\\x" }
//! Large = { qword = 0x100000000 }
//! Blob = { binary = "00 ff 10" }
//! Old = { delete = true }
//! Odd = { type = 8, binary = "00 01" }
//! ["HKEY_LOCAL_MACHINE\\Software\\x"]
//! ```

use super::{
    Change, Message, REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_QWORD, REG_SZ,
    key_name, string_data, strings_data,
};
use toml::{Table, Value};

/// Reads a TOML file's text.
pub(super) fn parse(text: &str, service: &str) -> Result<Vec<Change>, Message> {
    let document: Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.to_string().trim_end().to_owned())?;
    let mut changes = Vec::new();
    for (key, values) in &document {
        let Value::Table(values) = values else {
            return Err(format!(
                "`{key}` is outside of a key: write [\"KEY\"] before it"
            ));
        };
        if values.get("delete-key") == Some(&Value::Boolean(true)) {
            changes.push(Change::DeleteKey(key_name(key, service)?));
            continue;
        }
        changes.push(Change::Key(key_name(key, service)?));
        for (name, value) in values {
            let change =
                parse_value(name, value).map_err(|message| format!("[{key}] {name}: {message}"))?;
            changes.push(change);
        }
    }
    Ok(changes)
}

fn parse_value(name: &str, value: &Value) -> Result<Change, Message> {
    let (value_type, data) = match value {
        Value::String(text) => (REG_SZ, string_data(text)),
        Value::Boolean(is_set) => (REG_DWORD, u32::from(*is_set).to_le_bytes().to_vec()),
        Value::Integer(number) => (REG_DWORD, dword(*number)?),
        Value::Array(_) => (REG_MULTI_SZ, strings(value)?),
        Value::Table(table) => return typed(name, table),
        Value::Float(_) | Value::Datetime(_) => {
            return Err(
                "a value is a string, an integer, a list of strings, or a table".to_owned(),
            );
        }
    };
    Ok(Change::Value(name.to_owned(), value_type, data))
}

fn dword(number: i64) -> Result<Vec<u8>, Message> {
    u32::try_from(number)
        .map(|number| number.to_le_bytes().to_vec())
        .map_err(|_| {
            format!("{number} is no DWORD (0 to 0xFFFFFFFF); write {{ qword = {number} }}")
        })
}

fn strings(value: &Value) -> Result<Vec<u8>, Message> {
    let strings: Option<Vec<&str>> = value
        .as_array()
        .and_then(|values| values.iter().map(Value::as_str).collect());
    let strings = strings.ok_or("a list has strings only")?;
    if strings.iter().any(|string| string.is_empty()) {
        return Err("a list's strings are not empty: an empty one would end it".to_owned());
    }
    Ok(strings_data(strings.into_iter()))
}

fn bytes(text: &str) -> Result<Vec<u8>, Message> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace() && *byte != b',')
        .collect();
    let (pairs, odd) = digits.as_chunks::<2>();
    let value: Option<Vec<u8>> = pairs
        .iter()
        .map(|pair| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let [high, low] = pair.map(digit);
            u8::try_from(high? * 16 + low?).ok()
        })
        .collect();
    value
        .filter(|_| odd.is_empty())
        .ok_or_else(|| "binary data is written as hexadecimal digits, two a byte".to_owned())
}

/// A table says the type.
fn typed(name: &str, table: &Table) -> Result<Change, Message> {
    const FORMS: &str = "a table is { expand = \"...\" }, { multi = [...] }, { dword = N }, { qword = N }, \
                         { binary = \"00 ff\" } (with type = N for another type), or { delete = true }";
    if table.get("delete") == Some(&Value::Boolean(true)) && table.len() == 1 {
        return Ok(Change::DeleteValue(name.to_owned()));
    }
    let explicit = match table.get("type") {
        None => None,
        Some(value) => Some(
            value
                .as_integer()
                .and_then(|number| u32::try_from(number).ok())
                .ok_or("a type is a number from 0")?,
        ),
    };
    let mut rest = table.iter().filter(|(key, _)| *key != "type");
    let (Some((form, value)), None) = (rest.next(), rest.next()) else {
        return Err(FORMS.to_owned());
    };
    let (value_type, data) = match (form.as_str(), value) {
        ("string", Value::String(text)) => (REG_SZ, string_data(text)),
        ("expand", Value::String(text)) => (REG_EXPAND_SZ, string_data(text)),
        ("multi", Value::Array(_)) => (REG_MULTI_SZ, strings(value)?),
        ("dword", Value::Integer(number)) => (REG_DWORD, dword(*number)?),
        ("qword", Value::Integer(number)) => (REG_QWORD, number.to_le_bytes().to_vec()),
        ("binary", Value::String(text)) => (REG_BINARY, bytes(text)?),
        _ => return Err(FORMS.to_owned()),
    };
    Ok(Change::Value(
        name.to_owned(),
        explicit.unwrap_or(value_type),
        data,
    ))
}
