//! The version resource (VS_VERSION_INFO) of the kernel's images.

use abi::windows::Release;

/// Bytes of a resource directory with one entry.
const DIRECTORY: u32 = 16 + 8;
/// Offset of the resource data entry: behind the directories for type, name and language.
const DATA_ENTRY: u32 = 3 * DIRECTORY;
const DATA: u32 = DATA_ENTRY + 16;
const RT_VERSION: u32 = 16;
/// U.S. English.
const LANGUAGE: u32 = 0x0409;
/// An entry's offset leads to another directory.
const IS_DIRECTORY: u32 = 0x8000_0000;

/// The `.rsrc` section of an image, which lies at `rva`.
pub(super) fn section(file_name: &str, release: Release, rva: u32) -> Vec<u8> {
    let version = version_info(file_name, release);
    let mut bytes = Vec::new();
    let entries = [
        (RT_VERSION, DIRECTORY | IS_DIRECTORY),
        (1, (2 * DIRECTORY) | IS_DIRECTORY),
        (LANGUAGE, DATA_ENTRY),
    ];
    for (id, leads_to) in entries {
        // Characteristics, TimeDateStamp, versions, no named entries, one with a number.
        for value in [0, 0, 0, 1 << 16, id, leads_to] {
            bytes.extend_from_slice(&u32::to_le_bytes(value));
        }
    }
    let length = u32::try_from(version.len()).unwrap_or(0);
    for value in [rva.saturating_add(DATA), length, 0, 0] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&version);
    bytes
}

/// A block of version information: length, length of the value, whether it is text, key, value, children.
fn block(
    key: &str,
    value_units: usize,
    is_text: bool,
    value: &[u8],
    children: &[Vec<u8>],
) -> Vec<u8> {
    let mut bytes = vec![0; 2];
    let value_units = u16::try_from(value_units).unwrap_or(0);
    bytes.extend_from_slice(&value_units.to_le_bytes());
    bytes.extend_from_slice(&u16::from(is_text).to_le_bytes());
    bytes.extend_from_slice(&wide(key));
    align(&mut bytes);
    bytes.extend_from_slice(value);
    for child in children {
        align(&mut bytes);
        bytes.extend_from_slice(child);
    }
    let length = u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    for (byte, value) in bytes.iter_mut().zip(length) {
        *byte = value;
    }
    bytes
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// UTF-16 with its NUL.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn string(key: &str, value: &str) -> Vec<u8> {
    block(
        key,
        value.encode_utf16().count() + 1,
        true,
        &wide(value),
        &[],
    )
}

fn version_info(file_name: &str, release: Release) -> Vec<u8> {
    let Release {
        major,
        minor,
        build,
        service_pack,
        ..
    } = release;
    let high = u32::from(major) << 16 | u32::from(minor);
    let low = u32::from(build) << 16 | u32::from(service_pack);
    // VS_FIXEDFILEINFO: signature, its version, file and product version, flags, Windows NT, driver, no date.
    let fixed: Vec<u8> = [
        0xFEEF_04BD,
        0x0001_0000,
        high,
        low,
        high,
        low,
        0x3F,
        0,
        0x0004_0004,
        3,
        7,
        0,
        0,
    ]
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect();
    let version = format!("{major}.{minor}.{build}.{service_pack}");
    let table = block(
        "040904B0",
        0,
        true,
        &[],
        &[
            string("CompanyName", "Ringfence"),
            string("FileDescription", "Stand-in for the NT kernel"),
            string("FileVersion", &version),
            string("InternalName", file_name),
            string("OriginalFilename", file_name),
            string("ProductName", "Ringfence"),
            string("ProductVersion", &version),
        ],
    );
    let strings = block("StringFileInfo", 0, true, &[], &[table]);
    let translation = block("Translation", 4, false, &[0x09, 0x04, 0xB0, 0x04], &[]);
    let variables = block("VarFileInfo", 0, true, &[], &[translation]);
    block(
        "VS_VERSION_INFO",
        fixed.len(),
        false,
        &fixed,
        &[strings, variables],
    )
}
