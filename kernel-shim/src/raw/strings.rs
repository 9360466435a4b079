//! Strings in driver memory.

use alloc::string::String;
use alloc::vec::Vec;

use super::Ptr;
use crate::nt::UNICODE_STRING;

/// The text of a UNICODE_STRING, as UTF-16 units; empty for a null pointer.
#[must_use]
pub fn unicode_string(string: Ptr<UNICODE_STRING>) -> Vec<u16> {
    if string.is_null() {
        return Vec::new();
    }
    let UNICODE_STRING {
        Length: bytes,
        Buffer: buffer,
        ..
    } = string.read();
    if buffer.is_null() {
        return Vec::new();
    }
    buffer.read_slice(usize::from(bytes / 2))
}

/// The text of a UNICODE_STRING; what is not Unicode becomes U+FFFD.
#[must_use]
pub fn unicode_text(string: Ptr<UNICODE_STRING>) -> String {
    String::from_utf16_lossy(&unicode_string(string))
}

/// A NUL-terminated byte string without its NUL, at most `limit` bytes of it; empty for NULL.
#[must_use]
pub fn narrow_string_bytes(string: Ptr<u8>, limit: usize) -> Vec<u8> {
    if string.is_null() {
        return Vec::new();
    }
    (0..limit as u64)
        .map(|index| string.add_bytes(index).read())
        .take_while(|&byte| byte != 0)
        .collect()
}

/// A NUL-terminated byte string, at most `limit` bytes of it; a byte that is not ASCII becomes the character of
/// that number (Latin-1).
#[must_use]
pub fn narrow_string(string: Ptr<u8>, limit: usize) -> String {
    narrow_string_bytes(string, limit)
        .into_iter()
        .map(char::from)
        .collect()
}

/// A NUL-terminated UTF-16 string without its NUL, at most `limit` units of it; empty for NULL.
#[must_use]
pub fn wide_string(string: Ptr<u16>, limit: usize) -> Vec<u16> {
    if string.is_null() {
        return Vec::new();
    }
    (0..limit as u64)
        .map(|index| string.add_bytes(2 * index).read())
        .take_while(|&unit| unit != 0)
        .collect()
}
