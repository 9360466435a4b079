//! PE images in memory: their headers, directories and exports.

use alloc::vec::Vec;

use super::modules;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, from_word, narrow_string_bytes, to_word};
use crate::value::{Boolean, NarrowStringPtr, ULong, ULongLong, UShort};

/// Index of the export directory.
const EXPORT_DIRECTORY: u16 = 0;
/// Index of the exception directory.
pub const EXCEPTION_DIRECTORY: u16 = 3;
/// The PE header is nearer than this (RTL_IMAGE_MAX_DOS_HEADER).
const MAX_DOS_HEADER: u32 = 256 << 20;
const SECTION_HEADER: u64 = 40;
/// Longest export name that is compared.
const NAME_LIMIT: usize = 512;
/// RTL_IMAGE_NT_HEADER_EX_FLAG_NO_RANGE_CHECK.
const NO_RANGE_CHECK: u32 = 1;
/// Bytes of IMAGE_NT_HEADERS.
const NT_HEADERS: u64 = if cfg!(nt_i386) { 0xF8 } else { 0x108 };

/// What is used of an image's headers.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// Address of IMAGE_NT_HEADERS.
    pub address: u64,
    /// AddressOfEntryPoint.
    pub entry: u32,
    /// SizeOfImage.
    pub image_bytes: u32,
    /// SizeOfHeaders.
    pub header_bytes: u32,
    /// CheckSum.
    pub checksum: u32,
    /// TimeDateStamp.
    pub time_stamp: u32,
    /// Number of section headers.
    sections: u16,
    /// Address of the first section header.
    section_table: u64,
    /// Address of the first data directory.
    directories: u64,
    /// How many there are.
    directory_count: u32,
}

fn word16(address: u64) -> u16 {
    Ptr::new(address).read()
}

fn word32(address: u64) -> u32 {
    Ptr::new(address).read()
}

/// Address of IMAGE_NT_HEADERS of the image at `base`; `None` if there is no image.
fn nt_headers(base: u64) -> Option<u64> {
    if base == 0
        || base == from_word(to_word(u64::MAX))
        || word16(base) != u16::from_le_bytes(*b"MZ")
    {
        return None;
    }
    let offset = word32(base + 0x3C);
    if offset >= MAX_DOS_HEADER {
        return None;
    }
    let address = base + u64::from(offset);
    (word32(address) == u32::from_le_bytes(*b"PE\0\0")).then_some(address)
}

impl Headers {
    /// The headers of the image at `base`; `None` if there is none.
    #[must_use]
    pub fn at(base: u64) -> Option<Self> {
        let address = nt_headers(base)?;
        let optional = address + 24;
        let count_at = match word16(optional) {
            0x10B => optional + 92,
            0x20B => optional + 108,
            _ => return None,
        };
        Some(Self {
            address,
            entry: word32(optional + 16),
            image_bytes: word32(optional + 56),
            header_bytes: word32(optional + 60),
            checksum: word32(optional + 64),
            time_stamp: word32(address + 8),
            sections: word16(address + 6),
            section_table: optional + u64::from(word16(address + 20)),
            directories: count_at + 4,
            directory_count: word32(count_at),
        })
    }

    /// RVA and bytes of a data directory; `None` if the image has none of that number.
    #[must_use]
    pub fn directory(&self, index: u16) -> Option<(u32, u32)> {
        if u32::from(index) >= self.directory_count {
            return None;
        }
        let at = self.directories + 8 * u64::from(index);
        let rva = word32(at);
        (rva != 0).then(|| (rva, word32(at + 4)))
    }

    /// Addresses and bytes of the sections that the image at `base` may write.
    #[must_use]
    pub fn writable(&self, base: u64) -> Vec<(u64, u64)> {
        /// IMAGE_SCN_MEM_WRITE.
        const WRITE: u32 = 0x8000_0000;
        (0..u64::from(self.sections))
            .map(|index| self.section_table + index * SECTION_HEADER)
            .filter(|header| word32(header + 36) & WRITE != 0)
            .map(|header| {
                // A linker that leaves VirtualSize out means the size in the file.
                let bytes = match word32(header + 8) {
                    0 => word32(header + 16),
                    bytes => bytes,
                };
                (base + u64::from(word32(header + 12)), u64::from(bytes))
            })
            .collect()
    }

    /// Offset in the file of what is at `rva` in memory.
    fn file_offset(&self, rva: u32) -> Option<u32> {
        (0..u64::from(self.sections)).find_map(|index| {
            let header = self.section_table + index * SECTION_HEADER;
            let into = rva.checked_sub(word32(header + 12))?;
            (into < word32(header + 16)).then(|| word32(header + 20) + into)
        })
    }
}

/// The address of a function or variable that the image at `base` exports under that name; forwarders lead out of the
/// image and are not followed.
#[must_use]
pub fn find_export(base: u64, name: &[u8]) -> Option<u64> {
    let headers = Headers::at(base)?;
    let (rva, bytes) = headers.directory(EXPORT_DIRECTORY)?;
    let directory = base + u64::from(rva);
    let table = |offset: u64| base + u64::from(word32(directory + offset));
    let (functions, names, ordinals) = (table(28), table(32), table(36));
    let (mut low, mut high) = (0, word32(directory + 24));
    while low < high {
        let middle = low + (high - low) / 2;
        let candidate: Vec<u8> = narrow_string_bytes(
            Ptr::new(base + u64::from(word32(names + 4 * u64::from(middle)))),
            NAME_LIMIT,
        );
        match candidate.as_slice().cmp(name) {
            core::cmp::Ordering::Less => low = middle + 1,
            core::cmp::Ordering::Greater => high = middle,
            core::cmp::Ordering::Equal => {
                let ordinal = u32::from(word16(ordinals + 2 * u64::from(middle)));
                if ordinal >= word32(directory + 20) {
                    return None;
                }
                let target = word32(functions + 4 * u64::from(ordinal));
                let is_forwarder = target.wrapping_sub(rva) < bytes;
                return (!is_forwarder).then(|| base + u64::from(target));
            }
        }
    }
    None
}

nt_api! { module = view_image;
    /// The IMAGE_NT_HEADERS of an image; NULL if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlImageNtHeader(base: Ptr<u8>) -> Ptr<u8> {
        nt_headers(base.addr()).map_or_else(Ptr::null, Ptr::new)
    }

    /// As RtlImageNtHeader, for an image of `size` bytes of which nothing behind is looked at.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlImageNtHeaderEx(flags: ULong, base: Ptr<u8>, size: ULongLong, out_headers: Ptr<Ptr<u8>>) -> NtStatus {
        if out_headers.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        out_headers.write(Ptr::null());
        let is_address = !base.is_null() && base.addr() != from_word(to_word(u64::MAX));
        if flags & !NO_RANGE_CHECK != 0 || !is_address {
            return NtStatus::INVALID_PARAMETER;
        }
        let is_checked = flags & NO_RANGE_CHECK == 0;
        if is_checked && size < 0x40 {
            return NtStatus::INVALID_IMAGE_FORMAT;
        }
        if word16(base.addr()) == u16::from_le_bytes(*b"MZ") && is_checked {
            let offset = u64::from(word32(base.addr() + 0x3C));
            if offset >= size || size - offset < NT_HEADERS {
                return NtStatus::INVALID_IMAGE_FORMAT;
            }
        }
        match nt_headers(base.addr()) {
            Some(address) => {
                out_headers.write(Ptr::new(address));
                NtStatus::SUCCESS
            }
            None => NtStatus::INVALID_IMAGE_FORMAT,
        }
    }

    /// The address and size of a data directory of an image, which is laid out as in memory or as in its file (bit 0 of
    /// the base says so too); NULL if it has none of that number.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlImageDirectoryEntryToData(
        base: Ptr<u8>,
        mapped_as_image: Boolean,
        directory_entry: UShort,
        size: Ptr<u32>,
    ) -> Ptr<u8> {
        let is_file = base.addr() & 1 != 0 || !mapped_as_image;
        let base = if base.addr() & 1 == 0 { base.addr() } else { base.addr() & !3 };
        let Some(headers) = Headers::at(base) else {
            return Ptr::null();
        };
        let Some((rva, bytes)) = headers.directory(directory_entry) else {
            return Ptr::null();
        };
        let offset = if is_file && rva >= headers.header_bytes { headers.file_offset(rva) } else { Some(rva) };
        match offset {
            Some(offset) => {
                size.write(bytes);
                Ptr::new(base + u64::from(offset))
            }
            None => Ptr::null(),
        }
    }

    /// The first address of the loaded module that an address lies in; NULL (also stored) if it lies in none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlPcToFileHeader(pc_value: Ptr<u8>, base_of_image: Ptr<Ptr<u8>>) -> Ptr<u8> {
        let base = modules::containing(pc_value.addr())
            .map_or_else(Ptr::null, |entry| Ptr::new(from_word(entry.DllBase)));
        base_of_image.write(base);
        base
    }

    /// The address that an image exports under a name; NULL if it does not.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindExportedRoutineByName(image_base: Ptr<u8>, routine_name: NarrowStringPtr) -> Ptr<u8> {
        let name = narrow_string_bytes(routine_name.0, NAME_LIMIT);
        find_export(image_base.addr(), &name).map_or_else(Ptr::null, Ptr::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::low32;
    use crate::test_platform::{api, machine};

    /// A PE32+ image with an export directory of two names, `Alpha` and `Beta` (a forwarder).
    fn image() -> Vec<u64> {
        let mut bytes = vec![0_u8; 0x800];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3C, &0x80_u32.to_le_bytes());
        put(0x80, b"PE\0\0");
        put(0x86, &1_u16.to_le_bytes()); // one section
        put(0x94, &0xF0_u16.to_le_bytes());
        let optional = 0x98;
        put(optional, &0x20B_u16.to_le_bytes());
        put(optional + 16, &0x123_u32.to_le_bytes());
        put(optional + 56, &0x2000_u32.to_le_bytes());
        put(optional + 60, &0x200_u32.to_le_bytes());
        put(optional + 108, &2_u32.to_le_bytes());
        put(optional + 112, &0x400_u32.to_le_bytes());
        put(optional + 116, &0x100_u32.to_le_bytes());
        let section = optional + 0xF0;
        put(section + 12, &0x400_u32.to_le_bytes());
        put(section + 16, &0x200_u32.to_le_bytes());
        put(section + 20, &0x600_u32.to_le_bytes());
        for (field, value) in [(20, 2), (24, 2), (28, 0x440), (32, 0x450), (36, 0x460)] {
            put(0x400 + field, &u32::to_le_bytes(value));
        }
        put(0x440, &0x700_u32.to_le_bytes());
        put(0x444, &0x4C0_u32.to_le_bytes());
        put(0x450, &0x480_u32.to_le_bytes());
        put(0x454, &0x490_u32.to_le_bytes());
        put(0x462, &1_u16.to_le_bytes());
        put(0x480, b"Alpha\0");
        put(0x490, b"Beta\0");
        bytes
            .chunks(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn headers_are_found_or_not() {
        let _machine = machine();
        let mut image = image();
        let base = Ptr::of(&mut image[0]).addr();
        assert_eq!(api("RtlImageNtHeader", &[base]), base + 0x80);
        assert_eq!(api("RtlImageNtHeader", &[0]), 0);
        assert_eq!(api("RtlImageNtHeader", &[u64::MAX]), 0);
        assert_eq!(api("RtlImageNtHeader", &[base + 8]), 0);
        let headers = Headers::at(base).unwrap();
        assert_eq!((headers.entry, headers.image_bytes), (0x123, 0x2000));
        let mut out = 0_u64;
        let out_at = Ptr::of(&mut out).addr();
        let ask = |flags, size| low32(api("RtlImageNtHeaderEx", &[flags, base, size, out_at]));
        assert_eq!(ask(0, 0x800), 0);
        assert_eq!(ask(0, 0x100), NtStatus::INVALID_IMAGE_FORMAT.0);
        assert_eq!(ask(1, 0), 0);
        assert_eq!(ask(2, 0x800), NtStatus::INVALID_PARAMETER.0);
        assert_eq!(out, 0);
    }

    #[test]
    fn directories_are_found_in_memory_and_in_files() {
        let _machine = machine();
        let mut image = image();
        let base = Ptr::of(&mut image[0]).addr();
        let mut size = 0_u32;
        let size_at = Ptr::of(&mut size).addr();
        let ask = |base, mapped, index| {
            api(
                "RtlImageDirectoryEntryToData",
                &[base, mapped, index, size_at],
            )
        };
        assert_eq!(ask(base, 1, 0), base + 0x400);
        assert_eq!(ask(base, 0, 0), base + 0x600);
        assert_eq!(ask(base + 1, 1, 0), base + 0x600);
        assert_eq!(ask(base, 1, 1), 0, "empty");
        assert_eq!(ask(base, 1, 2), 0, "beyond the count");
        assert_eq!(size, 0x100);
    }

    #[test]
    fn exports_are_found_by_name() {
        let _machine = machine();
        let mut image = image();
        let base = Ptr::of(&mut image[0]).addr();
        assert_eq!(find_export(base, b"Alpha"), Some(base + 0x700));
        assert_eq!(find_export(base, b"Beta"), None, "a forwarder");
        for absent in [&b"Alph"[..], b"Alphb", b"Gamma", b""] {
            assert_eq!(find_export(base, absent), None);
        }
    }
}
