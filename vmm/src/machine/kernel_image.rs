//! The images of ntoskrnl.exe and hal.dll that a driver finds in its guest.
//!
//! They are what the export table says, in Microsoft's PE format: drivers that look for an export by walking the
//! kernel's export directory, or that check its headers, find what imports are bound to. In memory they are laid out
//! as sections at their RVAs. `.data` is the shim's variables a second time, so it has no bytes in the file that the
//! raw pointers and the checksum describe.

use abi::DriverAbi;
use abi::layout::{KERNEL_TEXT_RVA, PAGE_SIZE};
use abi::windows::Release;

use super::convert::to_usize;
use super::version_resource;

/// Offset of the PE signature.
const SIGNATURE: u32 = 0x80;
const OPTIONAL_HEADER: u32 = SIGNATURE + 24;
/// Offset of CheckSum in the optional header, for both machines.
const CHECKSUM: u32 = OPTIONAL_HEADER + 64;
const PAGE: u32 = 4096;
/// Seconds since 1970 that the headers name as the time of the build.
const TIME_STAMP: u32 = 0x4A5B_C600;
/// Bytes of an IMAGE_EXPORT_DIRECTORY.
const EXPORT_DIRECTORY: u32 = 40;

const TEXT_FLAGS: u32 = 0x6800_0020;
const DATA_FLAGS: u32 = 0xC800_0080;
const CONST_FLAGS: u32 = 0x4800_0040;

/// What an image is made of.
pub(super) struct Parts<'a> {
    /// `ntoskrnl.exe` or `hal.dll`.
    pub(super) name: &'a str,
    /// For which drivers.
    pub(super) abi: DriverAbi,
    /// Its guest-virtual address.
    pub(super) base: u64,
    /// Windows' version.
    pub(super) release: Release,
    /// `.text`.
    pub(super) text: &'a [u8],
    /// Bytes of `.data`, a multiple of the page size.
    pub(super) data_bytes: u64,
    /// Names and RVAs, in any order.
    pub(super) exports: Vec<(&'a str, u32)>,
}

/// A finished image. All RVAs and sizes are multiples of the page size.
#[derive(Debug)]
pub(super) struct KernelImage {
    /// The headers' page.
    pub(super) headers: Vec<u8>,
    /// RVA of `.data`.
    pub(super) data_rva: u32,
    /// RVA of `.rdata`, which `.rsrc` follows.
    pub(super) constants_rva: u32,
    /// `.rdata` and `.rsrc`.
    pub(super) constants: Vec<u8>,
}

/// RVA of `.data` behind a `.text` of that many bytes.
pub(super) fn data_rva(text_bytes: usize) -> u32 {
    let end = KERNEL_TEXT_RVA + text_bytes as u64;
    u32::try_from(end.next_multiple_of(PAGE_SIZE)).unwrap_or(u32::MAX)
}

/// A section header's fields.
struct Section {
    name: &'static [u8],
    rva: u32,
    bytes: u32,
    /// Offset in the file and bytes there; both 0 for `.data`.
    raw: (u32, u32),
    flags: u32,
}

impl KernelImage {
    /// Lays an image out.
    pub(super) fn new(parts: &Parts<'_>) -> Self {
        let text_bytes = length(parts.text);
        let data_rva = data_rva(parts.text.len());
        let data_bytes = u32::try_from(parts.data_bytes).unwrap_or(u32::MAX);
        let constants_rva = data_rva.saturating_add(data_bytes);
        let mut constants = export_directory(parts, constants_rva);
        let export_bytes = length(&constants);
        pad(&mut constants);
        let resources_rva = constants_rva.saturating_add(length(&constants));
        let resources = version_resource::section(parts.name, parts.release, resources_rva);
        let text_raw = text_bytes.next_multiple_of(PAGE);
        let constants_raw = (PAGE + text_raw, length(&constants));
        let resources_raw = (
            constants_raw.0 + constants_raw.1,
            length(&resources).next_multiple_of(PAGE),
        );
        let sections = [
            Section {
                name: b".text",
                rva: PAGE,
                bytes: text_bytes,
                raw: (PAGE, text_raw),
                flags: TEXT_FLAGS,
            },
            Section {
                name: b".data",
                rva: data_rva,
                bytes: data_bytes,
                raw: (0, 0),
                flags: DATA_FLAGS,
            },
            Section {
                name: b".rdata",
                rva: constants_rva,
                bytes: export_bytes,
                raw: constants_raw,
                flags: CONST_FLAGS,
            },
            Section {
                name: b".rsrc",
                rva: resources_rva,
                bytes: length(&resources),
                raw: resources_raw,
                flags: CONST_FLAGS,
            },
        ];
        let directories = [
            (constants_rva, export_bytes),
            (0, 0),
            (resources_rva, length(&resources)),
        ];
        constants.extend_from_slice(&resources);
        pad(&mut constants);
        let size = constants_rva.saturating_add(length(&constants));
        let mut headers = headers(parts, &sections, &directories, size);
        let sum = checksum(&[&headers, parts.text, &constants], text_raw);
        put(&mut headers, CHECKSUM, &sum.to_le_bytes());
        Self {
            headers,
            data_rva,
            constants_rva,
            constants,
        }
    }
}

/// A length that is known to be far below 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(to_usize(PAGE_SIZE)), 0);
}

fn put(bytes: &mut [u8], offset: u32, value: &[u8]) {
    let start = offset as usize;
    if let Some(place) = bytes.get_mut(start..start + value.len()) {
        place.copy_from_slice(value);
    }
}

/// ImageHlp's checksum of the file: headers, padded `.text`, the rest; the checksum field is still zero.
fn checksum(parts: &[&[u8]; 3], text_raw: u32) -> u32 {
    let mut sum: u64 = 0;
    let mut file_bytes: u64 = 0;
    for (index, part) in parts.iter().enumerate() {
        // Far from overflowing, and several at a time if nothing checks for it.
        let (pairs, rest) = part.as_chunks();
        sum = pairs.iter().fold(sum, |sum, pair| {
            sum.wrapping_add(u64::from(u16::from_le_bytes(*pair)))
        });
        sum += rest.first().map_or(0, |byte| u64::from(*byte));
        file_bytes += if index == 1 {
            u64::from(text_raw)
        } else {
            part.len() as u64
        };
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u32::try_from(sum + file_bytes).unwrap_or(u32::MAX)
}

/// Builds the optional header field by field: its two forms differ in a few widths.
struct Fields {
    bytes: Vec<u8>,
    is_wide: bool,
}

impl Fields {
    fn u16s(&mut self, values: &[u16]) {
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn u32s(&mut self, values: &[u32]) {
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn word(&mut self, value: u64) {
        let bytes = value.to_le_bytes();
        let count = if self.is_wide { 8 } else { 4 };
        self.bytes.extend(bytes.iter().take(count));
    }
}

fn headers(
    parts: &Parts<'_>,
    sections: &[Section; 4],
    directories: &[(u32, u32)],
    size: u32,
) -> Vec<u8> {
    let is_wide = parts.abi == DriverAbi::Amd64;
    let (machine, magic, header_bytes) = if is_wide {
        (0x8664, 0x20B, 0xF0)
    } else {
        (0x014C, 0x10B, 0xE0)
    };
    let is_dll = parts.name.ends_with(".dll");
    // EXECUTABLE_IMAGE, LARGE_ADDRESS_AWARE; 32BIT_MACHINE; DLL.
    let characteristics = 0x22 | if is_wide { 0 } else { 0x100 } | if is_dll { 0x2000 } else { 0 };
    let mut fields = Fields {
        bytes: Vec::new(),
        is_wide,
    };
    fields.bytes.extend_from_slice(b"PE\0\0");
    fields.u16s(&[machine, 4]);
    fields.u32s(&[TIME_STAMP, 0, 0]);
    fields.u16s(&[header_bytes, characteristics]);
    let Release { major, minor, .. } = parts.release;
    let [text, data, constants, resources] = sections;
    fields.u16s(&[magic, 9]); // linker 9.0
    fields.u32s(&[
        text.raw.1,
        constants.raw.1 + resources.raw.1,
        data.bytes,
        text.rva, // AddressOfEntryPoint: the machine is past its boot, nobody calls it
        text.rva,
    ]);
    if !is_wide {
        fields.u32s(&[data.rva]);
    }
    fields.word(parts.base);
    fields.u32s(&[PAGE, PAGE]); // alignments
    fields.u16s(&[major, minor, major, minor, major, minor]); // system, image, subsystem
    fields.u32s(&[0, size, PAGE, 0]);
    fields.u16s(&[1, 0]); // subsystem native
    for bytes in [0x4_0000, 0x1000, 0x10_0000, 0x1000] {
        fields.word(bytes);
    }
    fields.u32s(&[0, 16]);
    for index in 0..16 {
        let (rva, bytes) = directories.get(index).copied().unwrap_or((0, 0));
        fields.u32s(&[rva, bytes]);
    }
    for section in sections {
        let mut name = section.name.to_vec();
        name.resize(8, 0);
        fields.bytes.extend_from_slice(&name);
        let (raw_pointer, raw_bytes) = section.raw;
        fields.u32s(&[
            section.bytes,
            section.rva,
            raw_bytes,
            raw_pointer,
            0,
            0,
            0,
            section.flags,
        ]);
    }
    let mut headers = vec![0; to_usize(PAGE_SIZE)];
    put(&mut headers, 0, b"MZ");
    put(&mut headers, 0x3C, &SIGNATURE.to_le_bytes());
    put(&mut headers, SIGNATURE, &fields.bytes);
    headers
}

/// `.rdata`: directory, addresses, names' addresses, ordinals, names; sorted by name as the format demands.
fn export_directory(parts: &Parts<'_>, rva: u32) -> Vec<u8> {
    let mut exports = parts.exports.clone();
    exports.sort_unstable_by_key(|export| export.0.as_bytes());
    let count = u32::try_from(exports.len()).unwrap_or(0);
    let functions = rva + EXPORT_DIRECTORY;
    let names = functions + 4 * count;
    let ordinals = names + 4 * count;
    let mut next = ordinals + 2 * count;
    let mut strings = Vec::new();
    let mut string = |text: &str| {
        let at = next;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        next += u32::try_from(text.len() + 1).unwrap_or(0);
        at
    };
    let dll = string(parts.name);
    let name_rvas: Vec<u32> = exports.iter().map(|export| string(export.0)).collect();
    let mut fields = Fields {
        bytes: Vec::new(),
        is_wide: false,
    };
    fields.u32s(&[
        0, TIME_STAMP, 0, dll, 1, count, count, functions, names, ordinals,
    ]);
    let addresses: Vec<u32> = exports.iter().map(|export| export.1).collect();
    fields.u32s(&addresses);
    fields.u32s(&name_rvas);
    let numbers: Vec<u16> = (0..).take(exports.len()).collect();
    fields.u16s(&numbers);
    fields.bytes.extend_from_slice(&strings);
    fields.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::windows::Windows;

    /// The file that the headers describe.
    fn file(parts: &Parts<'_>) -> Vec<u8> {
        let image = KernelImage::new(parts);
        let mut file = image.headers;
        file.extend_from_slice(parts.text);
        pad(&mut file);
        file.extend_from_slice(&image.constants);
        file
    }

    fn parts(abi: DriverAbi) -> Parts<'static> {
        Parts {
            name: "hal.dll",
            abi,
            base: 0x8180_0000,
            release: Windows::Seven.release(abi),
            text: &[0xCC; 0x1234],
            data_bytes: 0x3000,
            exports: vec![("KeZ", 0x1010), ("HalA", 0x1000), ("KdVariable", 0x4008)],
        }
    }

    #[test]
    fn another_loader_reads_the_image() {
        for abi in [DriverAbi::I386, DriverAbi::Amd64] {
            let bytes = file(&parts(abi));
            let image = loader::Image::parse(&bytes).unwrap();
            assert_eq!(image.abi, abi);
            assert_eq!(image.preferred_base, 0x8180_0000);
            assert!(image.checksum.is_correct(), "{:?}", image.checksum);
            assert!(image.is_export_driver);
            let names: Vec<_> = image
                .exports
                .iter()
                .filter_map(|export| export.name.as_deref())
                .collect();
            assert_eq!(names, ["HalA", "KdVariable", "KeZ"]);
            assert_eq!(
                image.exports[1].target,
                loader::ExportTarget::Rva(0x4008),
                "the address follows its name"
            );
            let sections: Vec<_> = image
                .sections
                .iter()
                .map(|section| (section.name.as_str(), section.rva))
                .collect();
            assert_eq!(
                sections,
                [
                    (".text", 0x1000),
                    (".data", 0x3000),
                    (".rdata", 0x6000),
                    (".rsrc", 0x7000)
                ]
            );
        }
    }

    #[test]
    fn goblin_finds_the_version() {
        let bytes = file(&parts(DriverAbi::Amd64));
        let pe = goblin::pe::PE::parse(&bytes).unwrap();
        let optional = pe.header.optional_header.unwrap();
        let fields = optional.windows_fields;
        assert_eq!(
            (
                fields.major_operating_system_version,
                fields.minor_operating_system_version
            ),
            (6, 1)
        );
        assert_eq!(fields.subsystem, 1);
        let text: Vec<u8> = "6.1.7601.1"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(bytes.windows(text.len()).any(|window| window == text));
        assert!(
            bytes
                .windows(4)
                .any(|window| window == 0xFEEF_04BD_u32.to_le_bytes())
        );
    }
}
