//! What the key and value information classes answer.

use alloc::vec::Vec;

use super::hive::{Hive, Key, KeyId, Value};
use crate::nt::NtStatus;
use crate::raw::{Ptr, low32};

/// An answer, of which the first bytes must fit in any case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Bytes without which nothing is written.
    fixed: usize,
    bytes: Vec<u8>,
}

impl Answer {
    /// Writes it to a buffer as the registry does: all of it; or with BUFFER_OVERFLOW what fits; or, with
    /// BUFFER_TOO_SMALL, nothing.
    #[must_use]
    pub fn write(&self, buffer: Ptr<u8>, length: u32, result_length: Ptr<u32>) -> NtStatus {
        result_length.write(low32(self.bytes.len() as u64));
        let available = length as usize;
        if available < self.fixed {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        let fitting = available.min(self.bytes.len());
        buffer.write_bytes(&self.bytes[..fitting]);
        if fitting < self.bytes.len() {
            NtStatus::BUFFER_OVERFLOW
        } else {
            NtStatus::SUCCESS
        }
    }
}

fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn length(bytes: &[u8]) -> u32 {
    low32(bytes.len() as u64)
}

/// Greatest of some byte counts.
fn greatest(lengths: impl Iterator<Item = usize>) -> u32 {
    low32(lengths.max().unwrap_or(0) as u64)
}

/// KEY_INFORMATION_CLASS of a key.
///
/// # Errors
/// KEY_DELETED; INVALID_PARAMETER: there is no such class.
pub fn key(hive: &Hive, id: KeyId, class: u32) -> Result<Answer, NtStatus> {
    let key = hive.key(id)?;
    let name = units(&key.name);
    let class_units: Vec<u8> = key
        .class
        .iter()
        .flat_map(|unit| unit.to_le_bytes())
        .collect();
    let mut bytes = key.written.to_le_bytes().to_vec();
    let fixed = match class {
        0 => {
            words(&mut bytes, &[0, length(&name)]);
            bytes.extend(name);
            16
        }
        1 => {
            let class_offset = (24 + name.len()).next_multiple_of(4);
            let offset = if class_units.is_empty() {
                u32::MAX
            } else {
                low32(class_offset as u64)
            };
            words(
                &mut bytes,
                &[0, offset, length(&class_units), length(&name)],
            );
            bytes.extend(name);
            if !class_units.is_empty() {
                bytes.resize(class_offset, 0);
                bytes.extend(class_units);
            }
            24
        }
        2 | 4 => {
            let Totals {
                subkeys,
                name_max,
                class_max,
                values,
                value_name_max,
                data_max,
            } = totals(hive, key);
            if class == 2 {
                let offset = if class_units.is_empty() { u32::MAX } else { 44 };
                words(
                    &mut bytes,
                    &[
                        0,
                        offset,
                        length(&class_units),
                        subkeys,
                        name_max,
                        class_max,
                        values,
                        value_name_max,
                        data_max,
                    ],
                );
                bytes.extend(class_units);
                44
            } else {
                words(
                    &mut bytes,
                    &[
                        0,
                        subkeys,
                        name_max,
                        values,
                        value_name_max,
                        data_max,
                        length(&name),
                    ],
                );
                bytes.extend(name);
                36
            }
        }
        3 => {
            let path = units(&hive.path(id));
            bytes.clear();
            words(&mut bytes, &[length(&path)]);
            bytes.extend(path);
            4
        }
        // Neither virtualized nor tagged.
        6 | 7 => {
            bytes.clear();
            words(&mut bytes, &[0]);
            4
        }
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    Ok(Answer { fixed, bytes })
}

struct Totals {
    subkeys: u32,
    name_max: u32,
    class_max: u32,
    values: u32,
    value_name_max: u32,
    data_max: u32,
}

fn totals(hive: &Hive, key: &Key) -> Totals {
    let children = || key.children.values().filter_map(|&id| hive.key(id).ok());
    let bytes_of = |text: &str| 2 * text.encode_utf16().count();
    Totals {
        subkeys: low32(key.children.len() as u64),
        name_max: greatest(children().map(|child| bytes_of(&child.name))),
        class_max: greatest(children().map(|child| 2 * child.class.len())),
        values: low32(key.values.len() as u64),
        value_name_max: greatest(key.values.iter().map(|value| bytes_of(&value.name))),
        data_max: greatest(key.values.iter().map(|value| value.data.len())),
    }
}

/// KEY_VALUE_INFORMATION_CLASS of a value.
///
/// # Errors
/// INVALID_PARAMETER: there is no such class.
pub fn value(value: &Value, class: u32) -> Result<Answer, NtStatus> {
    let name = units(&value.name);
    let data = &value.data;
    let mut bytes = Vec::new();
    let fixed = match class {
        0 => {
            words(&mut bytes, &[0, value.value_type, length(&name)]);
            bytes.extend(name);
            12
        }
        1 | 3 => {
            let alignment = if class == 1 { 4 } else { 8 };
            let offset = (20 + name.len()).next_multiple_of(alignment);
            words(
                &mut bytes,
                &[
                    0,
                    value.value_type,
                    low32(offset as u64),
                    length(data),
                    length(&name),
                ],
            );
            bytes.extend(name);
            if !data.is_empty() {
                bytes.resize(offset, 0);
            }
            bytes.extend(data);
            20
        }
        2 => {
            words(&mut bytes, &[0, value.value_type, length(data)]);
            bytes.extend(data);
            12
        }
        4 => {
            words(&mut bytes, &[value.value_type, length(data)]);
            bytes.extend(data);
            8
        }
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    Ok(Answer { fixed, bytes })
}
