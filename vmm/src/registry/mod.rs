//! The registry that a driver finds: read from a file of the user's, in two formats, and written back.

mod reg_text;
mod toml_text;
mod write;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use abi::registry::{HEADER_BYTES, MAX_BYTES, Malformed, Record, RecordKind, Records, header};
use displaydoc::Display;
use thiserror::Error;

/// Largest file, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Why registry contents cannot be used.
#[derive(Debug, Display, Error)]
pub enum RegistryError {
    /// cannot read the registry file {path}
    Read {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// the registry file {path} has more than 4 MiB
    TooLarge {
        /// Its path.
        path: String,
    },
    /// {path}: a registry file is named .reg or .toml
    Extension {
        /// Its path.
        path: String,
    },
    /// {path}: the text is neither UTF-8 nor UTF-16LE with a byte order mark
    Encoding {
        /// Its path.
        path: String,
    },
    /// {path}:{line}: {message}
    Line {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong, and what to write.
        message: String,
    },
    /// {path}: {message}
    Toml {
        /// The file.
        path: String,
        /// What is wrong, and what to write.
        message: String,
    },
    /// the registry contents take {bytes} bytes in the guest, which has room for 262144
    Contents {
        /// How many.
        bytes: usize,
    },
    /// the guest's registry is damaged
    Damaged,
    /// cannot write the registry file {path}
    Write {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl From<Malformed> for RegistryError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

/// One change of the registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A key, by its full name; the values that follow are its.
    Key(String),
    /// A key to delete with everything below it.
    DeleteKey(String),
    /// A value: name (empty: the default value), REG_ type, data.
    Value(String, u32, Vec<u8>),
    /// A value to delete.
    DeleteValue(String),
}

/// What is wrong with a name or a value.
type Message = String;

const REG_SZ: u32 = 1;
const REG_EXPAND_SZ: u32 = 2;
const REG_BINARY: u32 = 3;
const REG_DWORD: u32 = 4;
const REG_MULTI_SZ: u32 = 7;
const REG_QWORD: u32 = 11;

/// REG_SZ data.
fn string_data(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// REG_MULTI_SZ data.
fn strings_data<'a>(strings: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut data: Vec<u8> = strings.flat_map(string_data).collect();
    data.extend([0, 0]);
    data
}

/// The kernel's name of a key: `HKEY_LOCAL_MACHINE\x` is `\Registry\Machine\x`; a name that begins with neither a
/// hive nor `\Registry` is relative to the driver's service key.
fn key_name(name: &str, service: &str) -> Result<String, Message> {
    let name = name.trim_end_matches('\\');
    let (first, rest) = name.split_once('\\').unwrap_or((name, ""));
    let below = |top: &str| {
        if rest.is_empty() {
            top.to_owned()
        } else {
            format!("{top}\\{rest}")
        }
    };
    let full = match first.to_ascii_uppercase().as_str() {
        "HKEY_LOCAL_MACHINE" | "HKLM" => below(r"\Registry\Machine"),
        "HKEY_USERS" | "HKU" => below(r"\Registry\User"),
        "HKEY_CURRENT_USER" | "HKCU" => below(r"\Registry\User\.Default"),
        "HKEY_CLASSES_ROOT" | "HKCR" => below(r"\Registry\Machine\Software\Classes"),
        "" if name
            .get(..10)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(r"\Registry\")) =>
        {
            name.to_owned()
        }
        "" if !name.is_empty() => {
            return Err(format!(
                r"the key {name} is not in the registry: begin with HKEY_LOCAL_MACHINE, \Registry\Machine, or a key below the driver's own"
            ));
        }
        other if other.starts_with("HKEY_") => {
            return Err(format!(
                "there is no {first} here: write HKEY_LOCAL_MACHINE, HKEY_USERS, HKEY_CURRENT_USER or HKEY_CLASSES_ROOT"
            ));
        }
        _ => {
            let services = r"\Registry\Machine\System\CurrentControlSet\Services";
            let own = format!(r"{services}\{service}");
            if name.is_empty() {
                own
            } else {
                format!(r"{own}\{name}")
            }
        }
    };
    let is_bad = |part: &str| part.is_empty() || part.chars().count() > 255;
    if full.split('\\').skip(1).any(is_bad) {
        return Err(format!(
            "the key {name} has a part that is empty or has more than 255 characters"
        ));
    }
    Ok(full)
}

fn shown(path: &Path) -> String {
    crate::observe::escape::escape(&path.display().to_string())
}

/// The text of a file: UTF-8, or UTF-16LE with a byte order mark.
fn decode(bytes: &[u8]) -> Option<String> {
    match bytes {
        [0xFF, 0xFE, rest @ ..] => {
            let (pairs, odd) = rest.as_chunks::<2>();
            if !odd.is_empty() {
                return None;
            }
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
            String::from_utf16(&units).ok()
        }
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Reg,
    Toml,
}

fn format_of(path: &Path) -> Result<Format, RegistryError> {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("reg") => Ok(Format::Reg),
        Some("toml") => Ok(Format::Toml),
        _ => Err(RegistryError::Extension { path: shown(path) }),
    }
}

/// Reads a registry file for a driver whose service has that name; encoded for the guest ([`abi::registry`]).
///
/// # Errors
/// See [`RegistryError`].
pub fn read(path: &Path, service: &str) -> Result<Vec<u8>, RegistryError> {
    let format = format_of(path)?;
    let name = shown(path);
    let error = |source| RegistryError::Read {
        path: name.clone(),
        source,
    };
    let mut bytes = Vec::new();
    crate::input_file::open(path)
        .map_err(error)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(error)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(RegistryError::TooLarge { path: name });
    }
    let text = decode(&bytes).ok_or_else(|| RegistryError::Encoding { path: name.clone() })?;
    let changes = match format {
        Format::Reg => {
            reg_text::parse(&text, service).map_err(|(line, message)| RegistryError::Line {
                path: name,
                line,
                message,
            })
        }
        Format::Toml => toml_text::parse(&text, service).map_err(|message| RegistryError::Toml {
            path: name,
            message,
        }),
    }?;
    encode(&changes)
}

/// Changes as the guest takes them.
fn encode(changes: &[Change]) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    for change in changes {
        let (kind, name, value_type, data): (_, _, _, &[u8]) = match change {
            Change::Key(name) => (RecordKind::Key, name, 0, &[]),
            Change::DeleteKey(name) => (RecordKind::DeleteKey, name, 0, &[]),
            Change::Value(name, value_type, data) => (RecordKind::Value, name, *value_type, data),
            Change::DeleteValue(name) => (RecordKind::DeleteValue, name, 0, &[]),
        };
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        Record {
            kind,
            name: &name,
            value_type,
            data,
        }
        .encode(&mut body);
    }
    let bytes = HEADER_BYTES + body.len();
    let length = u32::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MAX_BYTES)
        .ok_or(RegistryError::Contents { bytes })?;
    let mut encoded = header(length).to_vec();
    encoded.extend(body);
    Ok(encoded)
}

/// Contents that a guest handed back. The guest may say anything: it is checked here.
fn decode_contents(bytes: &[u8]) -> Result<Vec<Change>, RegistryError> {
    Records::new(bytes)?
        .map(|record| {
            let record = record?;
            let (pairs, _) = record.name.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
            let name = String::from_utf16_lossy(&units);
            match record.kind {
                // Keys are written by their Windows names, which a file has one line for.
                RecordKind::Key if !name.contains(['\r', '\n', '\0']) => Ok(Change::Key(name)),
                RecordKind::Value => {
                    Ok(Change::Value(name, record.value_type, record.data.to_vec()))
                }
                _ => Err(RegistryError::Damaged),
            }
        })
        .collect()
}

/// Writes what a guest handed back to a file, in the format that its name says: as a whole, or not at all.
///
/// # Errors
/// See [`RegistryError`].
pub fn save(path: &Path, contents: &[u8]) -> Result<(), RegistryError> {
    let changes = decode_contents(contents)?;
    let text = match format_of(path)? {
        Format::Reg => write::reg(&changes),
        Format::Toml => write::toml(&changes),
    };
    let error = |source| RegistryError::Write {
        path: shown(path),
        source,
    };
    let temporary = temporary(path);
    let written = File::create_new(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of it helps nobody; that it could not be made says the error.
        let _ = std::fs::remove_file(&temporary).is_ok();
    }
    written.map_err(error)
}

/// What a file is called until it is whole.
fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    PathBuf::from(temporary)
}

/// Whether [`save`] can write that file: by its name, and by what its folder allows.
///
/// # Errors
/// [`RegistryError::Extension`], [`RegistryError::Write`].
pub fn check_output(path: &Path) -> Result<(), RegistryError> {
    format_of(path)?;
    let error = |source| RegistryError::Write {
        path: shown(path),
        source,
    };
    if path.is_dir() {
        return Err(error(ErrorKind::IsADirectory.into()));
    }
    let temporary = temporary(path);
    File::create_new(&temporary)
        .and_then(|_| std::fs::remove_file(&temporary))
        .map_err(error)
}

#[cfg(test)]
mod tests;
