//! The section table.

use core::ops::Range;

use crate::field::{Field, File};
use crate::headers::{Headers, SECTION_HEADER_BYTES};
use crate::{ImageError, PAGE_BYTES};

bitflags::bitflags! {
    /// Characteristics of a section (IMAGE_SCN_*); bits without a name here are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SectionFlags: u32 {
        /// IMAGE_SCN_CNT_CODE
        const CODE = 0x0000_0020;
        /// IMAGE_SCN_CNT_INITIALIZED_DATA
        const INITIALIZED_DATA = 0x0000_0040;
        /// IMAGE_SCN_CNT_UNINITIALIZED_DATA
        const UNINITIALIZED_DATA = 0x0000_0080;
        /// IMAGE_SCN_MEM_DISCARDABLE: not needed once DriverEntry has returned.
        const DISCARDABLE = 0x0200_0000;
        /// IMAGE_SCN_MEM_NOT_CACHED
        const NOT_CACHED = 0x0400_0000;
        /// IMAGE_SCN_MEM_NOT_PAGED
        const NOT_PAGED = 0x0800_0000;
        /// IMAGE_SCN_MEM_SHARED
        const SHARED = 0x1000_0000;
        /// IMAGE_SCN_MEM_EXECUTE
        const EXECUTE = 0x2000_0000;
        /// IMAGE_SCN_MEM_READ
        const READ = 0x4000_0000;
        /// IMAGE_SCN_MEM_WRITE
        const WRITE = 0x8000_0000;
        const _ = !0;
    }
}

/// A section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Name: at most 8 bytes; bytes that are not printable ASCII appear as `\xNN`.
    pub name: String,
    /// Address relative to the image's base.
    pub rva: u32,
    /// Bytes in memory: VirtualSize, or SizeOfRawData where old linkers left VirtualSize 0.
    pub virtual_bytes: u32,
    /// The file offsets that are copied to `rva`; what is left of the section is zeros. Longer than
    /// `virtual_bytes` where the file pads the section: Windows maps whole pages of the file.
    pub file_range: Range<u32>,
    /// Characteristics.
    pub flags: SectionFlags,
}

impl Section {
    /// First RVA behind the section's bytes.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.rva
            .saturating_add(self.virtual_bytes.max(self.file_bytes()))
    }

    /// Whether `bytes` bytes at `rva` are inside the section.
    #[must_use]
    pub fn contains(&self, rva: u32, bytes: u32) -> bool {
        rva >= self.rva && u64::from(rva).saturating_add(u64::from(bytes)) <= u64::from(self.end())
    }

    /// Whether Windows frees the section once DriverEntry has returned (INIT, .reloc).
    #[must_use]
    pub fn is_discardable(&self) -> bool {
        self.flags.contains(SectionFlags::DISCARDABLE) || self.name == "INIT"
    }

    /// Bytes that come from the file.
    pub(crate) fn file_bytes(&self) -> u32 {
        self.file_range.end.saturating_sub(self.file_range.start)
    }
}

/// Reads and checks the section table: each section inside file and image, none overlapping another in either.
pub(crate) fn parse(file: &File<'_>, headers: &Headers) -> Result<Vec<Section>, ImageError> {
    let mut sections: Vec<Section> = Vec::with_capacity(usize::from(headers.section_count));
    for index in 0..u32::from(headers.section_count) {
        let offset = headers
            .section_table
            .saturating_add(index.saturating_mul(SECTION_HEADER_BYTES));
        let section = Reader {
            file,
            headers,
            offset,
        }
        .parse(&sections)?;
        sections.push(section);
    }
    Ok(sections)
}

struct Reader<'a, 'b> {
    file: &'a File<'b>,
    headers: &'a Headers,
    offset: u32,
}

impl Reader<'_, '_> {
    fn at(&self, offset: u32) -> u32 {
        self.offset.saturating_add(offset)
    }

    fn parse(&self, before: &[Section]) -> Result<Section, ImageError> {
        let name = self.file.slice("section name", self.offset, 8)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = name.escape_ascii().to_string();
        let virtual_size = self.file.u32(self.at(8), "VirtualSize")?;
        let rva = self.file.u32(self.at(12), "VirtualAddress")?;
        let raw_size = self.file.u32(self.at(16), "SizeOfRawData")?;
        let raw = self.file.u32(self.at(20), "PointerToRawData")?;
        let flags = self.file.u32(self.at(36), "Characteristics")?.value;

        let extent = if virtual_size.value == 0 {
            raw_size
        } else {
            virtual_size
        };
        self.check_memory(&name, &rva, &extent, before)?;
        self.check_file(&name, &rva, &raw, &raw_size, before)?;

        // Windows maps the file by pages, so the padding behind VirtualSize is visible up to the next section.
        let room = u64::from(extent.value)
            .next_multiple_of(u64::from(self.headers.section_alignment))
            .min(u64::from(
                self.headers.size_of_image.saturating_sub(rva.value),
            ));
        let copied = raw_size.value.min(u32::try_from(room).unwrap_or(u32::MAX));
        let file_range = if raw_size.value == 0 {
            0..0
        } else {
            raw.value..raw.value.saturating_add(copied)
        };
        Ok(Section {
            name,
            rva: rva.value,
            virtual_bytes: extent.value,
            file_range,
            flags: SectionFlags::from_bits_retain(flags),
        })
    }

    fn check_memory(
        &self,
        name: &str,
        rva: &Field<u32>,
        extent: &Field<u32>,
        before: &[Section],
    ) -> Result<(), ImageError> {
        let alignment = self.headers.section_alignment;
        if !rva.value.is_multiple_of(alignment) {
            return Err(rva.reject(format!(
                "section {name}: expected a multiple of SectionAlignment ({alignment:#x})"
            )));
        }
        let headers_end = self.headers.size_of_headers.value;
        if rva.value < headers_end {
            return Err(rva.reject(format!(
                "section {name} overlaps the headers, which end at {headers_end:#x}"
            )));
        }
        if let Some(previous) = before.last()
            && rva.value < previous.rva.saturating_add(previous.virtual_bytes)
        {
            return Err(rva.reject(format!(
                "section {name} overlaps or precedes section {} at {:#x}-{:#x}",
                previous.name,
                previous.rva,
                previous.rva.saturating_add(previous.virtual_bytes)
            )));
        }
        if extent.value == 0 {
            return Err(extent.reject(format!("section {name} is empty in the file and in memory")));
        }
        let size_of_image = self.headers.size_of_image;
        if rva.value >= size_of_image {
            return Err(rva.reject(format!(
                "section {name} begins beyond SizeOfImage ({size_of_image:#x})"
            )));
        }
        if extent.value > size_of_image.saturating_sub(rva.value) {
            return Err(extent.reject(format!(
                "section {name} at {:#x} ends beyond SizeOfImage ({size_of_image:#x})",
                rva.value
            )));
        }
        Ok(())
    }

    fn check_file(
        &self,
        name: &str,
        rva: &Field<u32>,
        raw: &Field<u32>,
        raw_size: &Field<u32>,
        before: &[Section],
    ) -> Result<(), ImageError> {
        if raw_size.value == 0 {
            return Ok(());
        }
        let length = self.file.length();
        if raw.value >= length {
            return Err(raw.reject(format!(
                "section {name} begins beyond the file's {length} bytes"
            )));
        }
        if raw_size.value > length.saturating_sub(raw.value) {
            return Err(raw_size.reject(format!(
                "section {name} at file offset {:#x} ends beyond the file's {length} bytes",
                raw.value
            )));
        }
        let alignment = self.headers.file_alignment;
        if !raw.value.is_multiple_of(alignment) {
            return Err(raw.reject(format!(
                "section {name}: expected a multiple of FileAlignment ({alignment:#x})"
            )));
        }
        // Windows maps such a file as one piece, so that everything is where it is in the file.
        if self.headers.section_alignment < PAGE_BYTES && raw.value != rva.value {
            return Err(raw.reject(format!(
                "section {name}: expected its VirtualAddress ({:#x}), as SectionAlignment is below the page size",
                rva.value
            )));
        }
        let end = raw.value.saturating_add(raw_size.value);
        if raw.value < self.headers.size_of_headers.value {
            return Err(raw.reject(format!("section {name} overlaps the headers in the file")));
        }
        let overlapped = before.iter().find(|other| {
            other.file_bytes() != 0
                && raw.value < other.file_range.end
                && other.file_range.start < end
        });
        if let Some(other) = overlapped {
            return Err(raw.reject(format!(
                "section {name} overlaps section {} in the file, {:#x}-{:#x}",
                other.name, other.file_range.start, other.file_range.end
            )));
        }
        Ok(())
    }
}
