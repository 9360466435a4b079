//! ZwQueryDirectoryFile.

use alloc::string::String;
use alloc::vec::Vec;

use super::info::bytes_at;
use super::{Bounce, Opened, call, change};
use crate::nt::NtStatus;
use crate::ob::names::fold;
use crate::raw::{Ptr, low32};
use abi::file::{DirectoryEntry, FileCall};

/// Bytes of an entry of each class before its name.
fn fixed(class: u32) -> Option<usize> {
    Some(match class {
        1 => 64,
        2 => 68,
        3 => 94,
        12 => 12,
        37 => 104,
        38 => 80,
        _ => return None,
    })
}

/// Whether a name is one of a pattern's with * and ?, whatever the case.
fn matches(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        (Some(('?', rest)), Some((_, behind))) => matches(rest, behind),
        (Some((wanted, rest)), Some((found, behind))) => wanted == found && matches(rest, behind),
        _ => false,
    }
}

fn is_match(pattern: &str, name: &str) -> bool {
    let folded = |text: &str| -> Vec<char> { fold(text).chars().collect() };
    pattern.is_empty() || pattern == "*" || matches(&folded(pattern), &folded(name))
}

/// An entry as its class lays it out, without NextEntryOffset.
fn encode(class: u32, entry: &DirectoryEntry, name: &[u8]) -> Vec<u8> {
    let metadata = &entry.metadata;
    let length = low32(name.len() as u64);
    let mut bytes = alloc::vec![0; 8];
    if class == 12 {
        bytes.extend(length.to_le_bytes());
    } else {
        for value in [
            metadata.created,
            metadata.accessed,
            metadata.written,
            metadata.changed,
            metadata.bytes,
            metadata.allocated,
        ] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(metadata.attributes.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        if class != 1 {
            bytes.extend([0; 4]);
        }
        if class == 3 || class == 37 {
            bytes.extend([0; 26]);
        }
        if class == 37 || class == 38 {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(metadata.index.to_le_bytes());
        }
    }
    bytes.extend(name);
    bytes
}

/// The next entry from the VMM, and its name.
fn next_entry(
    opened: &Opened,
    index: u64,
    restart: bool,
    bounce: &Bounce,
) -> Result<(DirectoryEntry, Vec<u8>, u64), NtStatus> {
    let [count, bytes, _] = call(
        FileCall::List,
        opened.id,
        bounce.at,
        bounce.bytes,
        index,
        u64::from(restart),
    )?;
    let head = size_of::<DirectoryEntry>() as u64;
    if count == 0 || bytes < head {
        // All that were left have vanished meanwhile.
        return Err(NtStatus::NO_MORE_FILES);
    }
    let entry = bounce.at.cast::<DirectoryEntry>().read();
    let room = bounce.bytes - head;
    let name = bytes_at(
        bounce.at.add_bytes(head),
        u64::from(entry.name_bytes).min(room),
    );
    Ok((entry, name, u64::from(entry.index) + 1))
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// FILE_INFORMATION_CLASS.
    pub class: u32,
    /// One entry only.
    pub is_single: bool,
    /// Pattern of a first call.
    pub pattern: String,
    /// From the beginning.
    pub restart: bool,
}

/// Fills a buffer with entries: status and bytes written.
#[must_use]
pub fn query(
    file: u64,
    opened: &Opened,
    wish: &Wish,
    buffer: Ptr<u8>,
    length: u32,
) -> (NtStatus, u64) {
    match fill(file, opened, wish, buffer, length as usize) {
        Ok(done) => done,
        Err(status) => (status, 0),
    }
}

fn fill(
    file: u64,
    opened: &Opened,
    wish: &Wish,
    buffer: Ptr<u8>,
    length: usize,
) -> Result<(NtStatus, u64), NtStatus> {
    if !opened.is_directory {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let fixed = fixed(wish.class).ok_or(NtStatus::INVALID_INFO_CLASS)?;
    if length < fixed {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let is_first = opened.pattern.is_none();
    let pattern = opened
        .pattern
        .clone()
        .unwrap_or_else(|| wish.pattern.clone());
    let mut restart = wish.restart || is_first;
    let mut index = if restart { 0 } else { opened.next };
    // One entry a call: its name has at most 255 characters.
    let bounce = Bounce::new(size_of::<DirectoryEntry>() as u64 + 512)?;
    let mut output: Vec<u8> = Vec::new();
    let mut last = 0;
    let mut status = NtStatus::SUCCESS;
    loop {
        let (entry, name, behind) = match next_entry(opened, index, restart, &bounce) {
            Ok(next) => next,
            Err(NtStatus::NO_MORE_FILES) => break,
            Err(status) => return Err(status),
        };
        restart = false;
        if !is_match(&pattern, &crate::cm::hive::text(&name)) {
            index = behind;
            continue;
        }
        let mut bytes = encode(wish.class, &entry, &name);
        let at = output.len().next_multiple_of(8);
        if at + bytes.len() > length {
            if !output.is_empty() {
                break;
            }
            bytes.truncate(length);
            status = NtStatus::BUFFER_OVERFLOW;
        }
        if !output.is_empty() {
            output.resize(at, 0);
            let distance = low32((at - last) as u64);
            output[last..last + 4].copy_from_slice(&distance.to_le_bytes());
        }
        last = at;
        output.extend(bytes);
        index = behind;
        if wish.is_single || status != NtStatus::SUCCESS {
            break;
        }
    }
    change(file, |opened| {
        opened.next = index;
        opened.pattern = Some(pattern);
    });
    if output.is_empty() {
        return Err(if is_first {
            NtStatus::NO_SUCH_FILE
        } else {
            NtStatus::NO_MORE_FILES
        });
    }
    buffer.write_bytes(&output);
    Ok((status, output.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_file_systems_do() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*.TXT", "b.txt", true),
            ("*.txt", "b.txtx", false),
            ("?.c", "a.c", true),
            ("?.c", "ab.c", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "acb", false),
            ("", "x", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn entries_are_as_long_as_their_class_says() {
        for class in [1, 2, 3, 12, 37, 38] {
            assert_eq!(
                Some(encode(class, &DirectoryEntry::default(), &[]).len()),
                fixed(class),
                "{class}"
            );
        }
    }
}
