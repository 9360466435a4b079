//! File and volume information classes.

use alloc::vec::Vec;

use super::{Bounce, Opened, call, metadata, path_of};
use crate::nt::{FILE_OBJECT, NtStatus};
use crate::raw::{Ptr, low32, to_usize, unicode_text};
use abi::file::{FileCall, FileMetadata};

/// FILE_ATTRIBUTE_NORMAL.
const NORMAL: u32 = 0x80;

/// Attributes as NT reports them.
fn attributes(metadata: &FileMetadata) -> u32 {
    if metadata.attributes == 0 {
        NORMAL
    } else {
        metadata.attributes
    }
}

fn u64s(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn times(metadata: &FileMetadata) -> [u64; 4] {
    [
        metadata.created,
        metadata.accessed,
        metadata.written,
        metadata.changed,
    ]
}

fn basic(metadata: &FileMetadata) -> Vec<u8> {
    let mut bytes = u64s(&times(metadata));
    bytes.extend(u32s(&[attributes(metadata), 0]));
    bytes
}

fn standard(metadata: &FileMetadata) -> Vec<u8> {
    let mut bytes = u64s(&[metadata.allocated, metadata.bytes]);
    bytes.extend(u32s(&[metadata.links]));
    bytes.extend([metadata.delete_pending, metadata.is_directory].map(|flag| u8::from(flag != 0)));
    bytes.extend([0, 0]);
    bytes
}

/// FILE_NETWORK_OPEN_INFORMATION.
#[must_use]
pub fn network_open(metadata: &FileMetadata) -> Vec<u8> {
    let mut bytes = u64s(&times(metadata));
    bytes.extend(u64s(&[metadata.allocated, metadata.bytes]));
    bytes.extend(u32s(&[attributes(metadata), 0]));
    bytes
}

/// A class's answer, and how many of its bytes must fit.
fn answer(
    file: Ptr<FILE_OBJECT>,
    opened: &Opened,
    access: u32,
    class: u32,
) -> Result<(Vec<u8>, usize), NtStatus> {
    let metadata = || metadata(opened.id);
    let position = file.read().CurrentByteOffset.cast_unsigned();
    let mode = opened.options & 0x3E;
    let name = || {
        let path = path_of(opened.id);
        let mut bytes = u32s(&[low32(path.len() as u64)]);
        bytes.extend(path);
        bytes
    };
    let bytes = match class {
        4 => basic(&metadata()?),
        5 => standard(&metadata()?),
        6 => u64s(&[metadata()?.index]),
        7 => u32s(&[0]),
        8 => u32s(&[access]),
        9 => return Ok((name(), 4)),
        14 => u64s(&[position]),
        16 => u32s(&[mode]),
        17 => u32s(&[0]),
        18 => {
            let metadata = metadata()?;
            let mut bytes = basic(&metadata);
            bytes.extend(standard(&metadata));
            bytes.extend(u64s(&[metadata.index]));
            bytes.extend(u32s(&[0, access]));
            bytes.extend(u64s(&[position]));
            bytes.extend(u32s(&[mode, 0]));
            bytes.extend(name());
            return Ok((bytes, 104));
        }
        // The one stream of a file is its data; a directory has none.
        22 => {
            let metadata = metadata()?;
            if metadata.is_directory != 0 {
                return Ok((Vec::new(), 0));
            }
            let name: Vec<u8> = "::$DATA"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect();
            let mut bytes = u32s(&[0, low32(name.len() as u64)]);
            bytes.extend(u64s(&[metadata.bytes, metadata.allocated]));
            bytes.extend(name);
            return Ok((bytes, 24));
        }
        34 => network_open(&metadata()?),
        35 => u32s(&[attributes(&metadata()?), 0]),
        _ => return Err(NtStatus::INVALID_INFO_CLASS),
    };
    let fixed = bytes.len();
    Ok((bytes, fixed))
}

/// The access that asking for a class takes.
#[must_use]
pub const fn query_access(class: u32) -> u32 {
    const FILE_READ_ATTRIBUTES: u32 = 0x80;
    match class {
        4 | 18 | 34 | 35 => FILE_READ_ATTRIBUTES,
        _ => 0,
    }
}

/// The access that setting a class takes.
#[must_use]
pub const fn set_access(class: u32) -> u32 {
    const FILE_WRITE_DATA: u32 = 2;
    const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
    const DELETE: u32 = 0x1_0000;
    match class {
        4 => FILE_WRITE_ATTRIBUTES,
        10 | 13 => DELETE,
        19 | 20 => FILE_WRITE_DATA,
        _ => 0,
    }
}

/// ZwQueryInformationFile: status and bytes written.
#[must_use]
pub fn query(
    file: Ptr<FILE_OBJECT>,
    opened: &Opened,
    access: u32,
    class: u32,
    buffer: Ptr<u8>,
    length: u32,
) -> (NtStatus, u64) {
    put(answer(file, opened, access, class), buffer, length)
}

fn put(
    answer: Result<(Vec<u8>, usize), NtStatus>,
    buffer: Ptr<u8>,
    length: u32,
) -> (NtStatus, u64) {
    match answer {
        Err(status) => (status, 0),
        Ok((_, fixed)) if (length as usize) < fixed => (NtStatus::INFO_LENGTH_MISMATCH, 0),
        Ok((bytes, _)) => {
            let fitting = bytes.len().min(length as usize);
            buffer.write_bytes(&bytes[..fitting]);
            let status = if fitting < bytes.len() {
                NtStatus::BUFFER_OVERFLOW
            } else {
                NtStatus::SUCCESS
            };
            (status, fitting as u64)
        }
    }
}

/// ZwSetInformationFile.
///
/// # Errors
/// INFO_LENGTH_MISMATCH; INVALID_INFO_CLASS; INVALID_PARAMETER; what the VMM says.
pub fn set(
    file: Ptr<FILE_OBJECT>,
    opened: &Opened,
    class: u32,
    buffer: Ptr<u8>,
    length: u32,
) -> Result<(), NtStatus> {
    let needed = match class {
        4 => 40,
        10 => {
            if cfg!(nt_i386) {
                16
            } else {
                24
            }
        }
        13 => 1,
        14 | 19 | 20 => 8,
        _ => return Err(NtStatus::INVALID_INFO_CLASS),
    };
    if length < needed {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    let number = || buffer.cast::<i64>().read();
    let set = |kind, first| call(kind, opened.id, Ptr::null(), 0, first, 0).map(|_| ());
    match class {
        4 => {
            let times = Bounce::new(24)?;
            times.at.copy_from(buffer, 24);
            call(FileCall::SetBasic, opened.id, times.at, 24, 0, 0).map(|_| ())
        }
        10 => rename(opened, buffer, length),
        13 => {
            let delete = buffer.read() != 0;
            set(FileCall::SetDelete, u64::from(delete))?;
            file.with(|file| file.DeletePending = u8::from(delete));
            Ok(())
        }
        _ if number() < 0 => Err(NtStatus::INVALID_PARAMETER),
        14 => {
            file.with(|file| file.CurrentByteOffset = number());
            Ok(())
        }
        19 if metadata(opened.id)?.bytes <= number().cast_unsigned() => Ok(()),
        _ if opened.is_directory => Err(NtStatus::INVALID_PARAMETER),
        _ => set(FileCall::SetSize, number().cast_unsigned()),
    }
}

/// FILE_RENAME_INFORMATION: a full name on the volume, or one beside the file.
fn rename(opened: &Opened, buffer: Ptr<u8>, length: u32) -> Result<(), NtStatus> {
    let (root_at, length_at) = if cfg!(nt_i386) { (4, 8) } else { (8, 16) };
    let bytes = buffer.add_bytes(length_at).cast::<u32>().read();
    if u64::from(bytes) + length_at + 4 > u64::from(length) || !bytes.is_multiple_of(2) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if buffer.add_bytes(root_at).cast::<crate::raw::Word>().read() != 0 {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    let mut string = crate::nt::UNICODE_STRING {
        Length: crate::raw::low16(u64::from(bytes)),
        MaximumLength: crate::raw::low16(u64::from(bytes)),
        Buffer: buffer.add_bytes(length_at + 4).cast(),
    };
    let name = unicode_text(Ptr::of(&mut string));
    let path = if name.starts_with('\\') {
        let found = crate::ob::names::resolve(&name)?;
        if !super::is_volume(found.body) {
            return Err(NtStatus::NOT_SAME_DEVICE);
        }
        found.rest
    } else {
        let own = crate::cm::hive::text(&path_of(opened.id));
        let directory = own.rsplit_once('\\').map_or("", |(directory, _)| directory);
        alloc::format!("{directory}\\{name}")
    };
    let (bounce, bytes) = Bounce::text(path.strip_prefix('\\').unwrap_or(&path))?;
    let replace = u64::from(buffer.read() != 0);
    call(FileCall::Rename, opened.id, bounce.at, bytes, replace, 0).map(|_| ())
}

/// ZwQueryVolumeInformationFile: status and bytes written.
#[must_use]
pub fn query_volume(class: u32, buffer: Ptr<u8>, length: u32) -> (NtStatus, u64) {
    let units = || -> Result<[u64; 2], NtStatus> {
        let [total, free, _] = call(FileCall::Volume, 0, Ptr::null(), 0, 0, 0)?;
        Ok([total / 4096, free / 4096])
    };
    let name: Vec<u8> = "NTFS".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let whole = |bytes: Vec<u8>| {
        let fixed = bytes.len();
        (bytes, fixed)
    };
    let answer = match class {
        1 => {
            let mut bytes = u64s(&[0]);
            bytes.extend(u32s(&[0x5246_4331, 0]));
            bytes.resize(24, 0);
            Ok(whole(bytes))
        }
        3 => units().map(|[total, free]| {
            let mut bytes = u64s(&[total, free]);
            bytes.extend(u32s(&[8, 512]));
            whole(bytes)
        }),
        4 => Ok(whole(u32s(&[7, 0x20]))),
        5 => {
            let mut bytes = u32s(&[6, 255, low32(name.len() as u64)]);
            bytes.extend(&name);
            Ok((bytes, 12))
        }
        7 => units().map(|[total, free]| {
            let mut bytes = u64s(&[total, free, free]);
            bytes.extend(u32s(&[8, 512]));
            whole(bytes)
        }),
        _ => Err(NtStatus::INVALID_INFO_CLASS),
    };
    put(answer, buffer, length)
}

/// Reads part of a bounce buffer.
#[must_use]
pub fn bytes_at(at: Ptr<u8>, bytes: u64) -> Vec<u8> {
    at.read_slice(to_usize(bytes))
}
