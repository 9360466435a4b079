//! The DOS header, the file header and the optional header.

use abi::DriverAbi;

use crate::field::{Field, File};
use crate::{ImageError, MAX_IMAGE_BYTES, PAGE_BYTES};

/// Index of a data directory (IMAGE_DIRECTORY_ENTRY_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DirectoryIndex {
    Export = 0,
    Import = 1,
    Exception = 3,
    BaseRelocation = 5,
    Tls = 9,
    LoadConfig = 10,
    DelayImport = 13,
    ComDescriptor = 14,
}

/// A data directory that is present.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory {
    pub(crate) rva: Field<u32>,
    pub(crate) size: Field<u32>,
}

/// The validated headers.
#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) abi: DriverAbi,
    pub(crate) characteristics: u16,
    pub(crate) time_stamp: u32,
    /// Major and minor OperatingSystemVersion.
    pub(crate) system_version: (u16, u16),
    /// Major and minor SubsystemVersion.
    pub(crate) subsystem_version: (u16, u16),
    pub(crate) entry: Field<u32>,
    pub(crate) image_base: u64,
    pub(crate) section_alignment: u32,
    pub(crate) file_alignment: u32,
    pub(crate) size_of_image: u32,
    pub(crate) size_of_headers: Field<u32>,
    pub(crate) checksum: Field<u32>,
    pub(crate) section_count: u16,
    /// File offset of the section table.
    pub(crate) section_table: u32,
    directories: [Option<Directory>; 16],
}

/// IMAGE_FILE_RELOCS_STRIPPED
pub(crate) const RELOCATIONS_STRIPPED: u16 = 0x0001;
const EXECUTABLE_IMAGE: u16 = 0x0002;
/// IMAGE_FILE_DLL
pub(crate) const DLL: u16 = 0x2000;

const SUBSYSTEM_NATIVE: u16 = 1;
/// Bytes of one entry of the section table (IMAGE_SECTION_HEADER).
pub(crate) const SECTION_HEADER_BYTES: u32 = 40;
/// "Note that the Windows loader limits the number of sections to 96" (PE Format, COFF File Header).
const MAX_SECTIONS: u16 = 96;

/// Names of the two fields of each data directory, in order.
const DIRECTORY_NAMES: [(&str, &str); 16] = [
    (
        "VirtualAddress of the export directory",
        "Size of the export directory",
    ),
    (
        "VirtualAddress of the import directory",
        "Size of the import directory",
    ),
    (
        "VirtualAddress of the resource directory",
        "Size of the resource directory",
    ),
    (
        "VirtualAddress of the exception directory",
        "Size of the exception directory",
    ),
    (
        "VirtualAddress of the certificate table",
        "Size of the certificate table",
    ),
    (
        "VirtualAddress of the base relocation directory",
        "Size of the base relocation directory",
    ),
    (
        "VirtualAddress of the debug directory",
        "Size of the debug directory",
    ),
    (
        "VirtualAddress of the architecture directory",
        "Size of the architecture directory",
    ),
    (
        "VirtualAddress of the global pointer directory",
        "Size of the global pointer directory",
    ),
    (
        "VirtualAddress of the TLS directory",
        "Size of the TLS directory",
    ),
    (
        "VirtualAddress of the load config directory",
        "Size of the load config directory",
    ),
    (
        "VirtualAddress of the bound import directory",
        "Size of the bound import directory",
    ),
    (
        "VirtualAddress of the import address table",
        "Size of the import address table",
    ),
    (
        "VirtualAddress of the delay import directory",
        "Size of the delay import directory",
    ),
    (
        "VirtualAddress of the COM descriptor (CLR header)",
        "Size of the COM descriptor (CLR header)",
    ),
    (
        "VirtualAddress of the reserved directory",
        "Size of the reserved directory",
    ),
];

impl Headers {
    pub(crate) fn parse(file: &File<'_>) -> Result<Self, ImageError> {
        let file_header = find_file_header(file)?;
        let at = |offset: u32| file_header.saturating_add(offset);
        let abi = machine(&file.u16(at(0), "Machine")?)?;
        let section_count = file.u16(at(2), "NumberOfSections")?;
        if section_count.value == 0 || section_count.value > MAX_SECTIONS {
            return Err(section_count.reject(format!("expected 1 to {MAX_SECTIONS} sections")));
        }
        let time_stamp = file.u32(at(4), "TimeDateStamp")?.value;
        let optional_bytes = file.u16(at(16), "SizeOfOptionalHeader")?;
        let characteristics = file.u16(at(18), "Characteristics")?;
        if characteristics.value & EXECUTABLE_IMAGE == 0 {
            return Err(characteristics.reject(
                "without IMAGE_FILE_EXECUTABLE_IMAGE (0x2): an object file, or one that did not link",
            ));
        }
        let optional = OptionalHeader {
            file,
            start: at(20),
            abi,
        };
        let directories = optional.directories(&optional_bytes)?;
        optional.check_subsystem(characteristics.value)?;
        let section_table = optional.at(u32::from(optional_bytes.value));
        let table_bytes = u32::from(section_count.value).saturating_mul(SECTION_HEADER_BYTES);
        file.slice("section table", section_table, table_bytes)?;

        let (section_alignment, file_alignment) = optional.alignments()?;
        let size_of_image = optional.size_of_image()?;
        let size_of_headers = optional.size_of_headers(
            section_table.saturating_add(table_bytes),
            size_of_image.value,
        )?;
        let headers = Self {
            abi,
            characteristics: characteristics.value,
            time_stamp,
            system_version: optional.version(40, "OperatingSystemVersion")?,
            subsystem_version: optional.version(48, "SubsystemVersion")?,
            entry: file.u32(optional.at(16), "AddressOfEntryPoint")?,
            image_base: optional.image_base(size_of_image.value)?,
            section_alignment,
            file_alignment,
            size_of_image: size_of_image.value,
            size_of_headers,
            checksum: file.u32(optional.at(64), "CheckSum")?,
            section_count: section_count.value,
            section_table,
            directories,
        };
        headers.reject_user_mode_directories()?;
        Ok(headers)
    }

    pub(crate) fn directory(&self, index: DirectoryIndex) -> Option<Directory> {
        self.directories.get(index as usize).copied().flatten()
    }

    fn reject_user_mode_directories(&self) -> Result<(), ImageError> {
        let reasons = [
            (
                DirectoryIndex::Tls,
                "but there is no thread-local storage in kernel mode",
            ),
            (
                DirectoryIndex::DelayImport,
                "but delay-loaded imports are not supported in drivers",
            ),
            (
                DirectoryIndex::ComDescriptor,
                "so this is a managed (.NET) image, not a driver",
            ),
        ];
        for (index, reason) in reasons {
            if let Some(directory) = self.directory(index) {
                return Err(directory.rva.reject(reason));
            }
        }
        Ok(())
    }
}

/// The file offset of IMAGE_FILE_HEADER, behind the signatures.
fn find_file_header(file: &File<'_>) -> Result<u32, ImageError> {
    let magic = file.u16(0, "e_magic")?;
    if magic.value != u16::from_le_bytes(*b"MZ") {
        return Err(magic.reject("expected \"MZ\" (0x5a4d): not a PE image"));
    }
    let new_header = file.u32(0x3C, "e_lfanew")?;
    if new_header.value < 0x40 || !new_header.value.is_multiple_of(4) {
        return Err(
            new_header.reject("expected a multiple of 4 behind the 0x40 bytes of the DOS header")
        );
    }
    if new_header.value >= file.length() {
        return Err(new_header.reject(format!("beyond the file's {} bytes", file.length())));
    }
    let signature = file.u16(new_header.value, "Signature")?;
    let problem = match &signature.value.to_le_bytes() {
        b"PE" => None,
        b"LE" | b"LX" => Some("a VxD or OS/2 (LE, LX) image, not a PE image"),
        b"NE" => Some("a 16-bit (NE) image, not a PE image"),
        _ => Some("expected \"PE\\0\\0\" (0x4550): a DOS program or a damaged file"),
    };
    if let Some(problem) = problem {
        return Err(signature.reject(problem));
    }
    let signature = file.u32(new_header.value, "Signature")?;
    if signature.value != u32::from_le_bytes(*b"PE\0\0") {
        return Err(signature.reject("expected \"PE\\0\\0\" (0x4550)"));
    }
    Ok(new_header.value.saturating_add(4))
}

fn machine(machine: &Field<u16>) -> Result<DriverAbi, ImageError> {
    let name = match machine.value {
        0x014C => return Ok(DriverAbi::I386),
        0x8664 => return Ok(DriverAbi::Amd64),
        0x0166 | 0x0168 | 0x0169 => "MIPS",
        0x0184 | 0x0284 => "Alpha",
        0x01C0 | 0x01C2 | 0x01C4 => "ARM",
        0x01F0 | 0x01F1 => "PowerPC",
        0x0200 => "Itanium",
        0x0EBC => "EFI byte code",
        0xAA64 | 0xA641 | 0xA64E => "ARM64",
        _ => "an unknown machine",
    };
    Err(machine.reject(format!("{name}: expected i386 (0x14c) or amd64 (0x8664)")))
}

struct OptionalHeader<'a, 'b> {
    file: &'a File<'b>,
    start: u32,
    abi: DriverAbi,
}

impl OptionalHeader<'_, '_> {
    fn at(&self, offset: u32) -> u32 {
        self.start.saturating_add(offset)
    }

    /// Offset of NumberOfRvaAndSizes, the last field before the data directories.
    fn directory_count_offset(&self) -> u32 {
        match self.abi {
            DriverAbi::I386 => 92,
            DriverAbi::Amd64 => 108,
        }
    }

    fn directories(
        &self,
        optional_bytes: &Field<u16>,
    ) -> Result<[Option<Directory>; 16], ImageError> {
        let magic = self.file.u16(self.start, "Magic")?;
        let (expected, kind) = match self.abi {
            DriverAbi::I386 => (0x10B, "PE32 (0x10b), as the machine is i386"),
            DriverAbi::Amd64 => (0x20B, "PE32+ (0x20b), as the machine is amd64"),
        };
        if magic.value != expected {
            return Err(magic.reject(format!("expected {kind}")));
        }
        let count_offset = self.directory_count_offset();
        let fixed_bytes = count_offset.saturating_add(4);
        if u32::from(optional_bytes.value) < fixed_bytes {
            return Err(optional_bytes.reject(format!("expected at least {fixed_bytes:#x} bytes")));
        }
        let count = self
            .file
            .u32(self.at(count_offset), "NumberOfRvaAndSizes")?;
        let needed =
            u64::from(fixed_bytes).saturating_add(u64::from(count.value).saturating_mul(8));
        if count.value > 16 || needed > u64::from(optional_bytes.value) {
            return Err(count.reject(format!(
                "expected at most 16 data directories that fit SizeOfOptionalHeader ({:#x})",
                optional_bytes.value
            )));
        }
        let mut directories = [None; 16];
        let present = directories.iter_mut().zip(DIRECTORY_NAMES);
        for ((slot, (rva_name, size_name)), index) in present.zip(0..count.value) {
            let offset = self.at(fixed_bytes.saturating_add(index.saturating_mul(8)));
            let rva = self.file.u32(offset, rva_name)?;
            let size = self.file.u32(offset.saturating_add(4), size_name)?;
            if rva.value != 0 {
                *slot = Some(Directory { rva, size });
            }
        }
        Ok(directories)
    }

    /// A major and a minor version, 2 bytes each.
    fn version(&self, offset: u32, name: &'static str) -> Result<(u16, u16), ImageError> {
        let major = self.file.u16(self.at(offset), name)?.value;
        let minor = self
            .file
            .u16(self.at(offset.saturating_add(2)), name)?
            .value;
        Ok((major, minor))
    }

    fn check_subsystem(&self, characteristics: u16) -> Result<(), ImageError> {
        let subsystem = self.file.u16(self.at(68), "Subsystem")?;
        if subsystem.value == SUBSYSTEM_NATIVE {
            return Ok(());
        }
        let name = match subsystem.value {
            2 => "Windows GUI",
            3 => "Windows console",
            5 => "OS/2",
            7 => "POSIX",
            9 => "Windows CE",
            10..=13 => "EFI",
            16 => "boot application",
            _ => "unknown",
        };
        let kind = if characteristics & DLL != 0 {
            "a DLL"
        } else {
            "a program"
        };
        Err(subsystem.reject(format!(
            "{kind} for subsystem {name}: expected a driver, which has subsystem native (1)"
        )))
    }

    fn alignments(&self) -> Result<(u32, u32), ImageError> {
        let section = self.file.u32(self.at(32), "SectionAlignment")?;
        let file = self.file.u32(self.at(36), "FileAlignment")?;
        if !section.value.is_power_of_two() || section.value > MAX_IMAGE_BYTES {
            return Err(section.reject("expected a power of two up to 64 MiB"));
        }
        // PE Format demands 512 to 64 K, and equality below the page size: old DDKs linked with /ALIGN:0x20 or 0x80.
        if !file.value.is_power_of_two() || file.value < 16 || file.value > 0x1_0000 {
            return Err(file.reject("expected a power of two from 16 to 65536"));
        }
        let is_single_mapping = section.value < PAGE_BYTES;
        if is_single_mapping && file.value != section.value {
            return Err(file.reject(format!(
                "expected SectionAlignment ({:#x}), as that is below the page size",
                section.value
            )));
        }
        if file.value > section.value {
            return Err(file.reject(format!("above SectionAlignment ({:#x})", section.value)));
        }
        Ok((section.value, file.value))
    }

    fn size_of_image(&self) -> Result<Field<u32>, ImageError> {
        let size = self.file.u32(self.at(56), "SizeOfImage")?;
        if size.value == 0 || size.value > MAX_IMAGE_BYTES {
            return Err(size.reject("expected 1 byte to 64 MiB"));
        }
        Ok(size)
    }

    fn size_of_headers(
        &self,
        table_end: u32,
        size_of_image: u32,
    ) -> Result<Field<u32>, ImageError> {
        let size = self.file.u32(self.at(60), "SizeOfHeaders")?;
        if size.value > self.file.length() {
            return Err(size.reject(format!("beyond the file's {} bytes", self.file.length())));
        }
        if size.value > size_of_image {
            return Err(size.reject(format!("beyond SizeOfImage ({size_of_image:#x})")));
        }
        if size.value < table_end {
            return Err(size.reject(format!(
                "before the end of the section table at {table_end:#x}"
            )));
        }
        Ok(size)
    }

    fn image_base(&self, size_of_image: u32) -> Result<u64, ImageError> {
        let base = match self.abi {
            DriverAbi::I386 => self.file.word(self.abi, self.at(28), "ImageBase")?,
            DriverAbi::Amd64 => self.file.word(self.abi, self.at(24), "ImageBase")?,
        };
        if !base.value.is_multiple_of(0x1_0000) {
            return Err(base.reject("expected a multiple of 0x10000"));
        }
        let limit = match self.abi {
            DriverAbi::I386 => 1 << 32,
            DriverAbi::Amd64 => u64::MAX,
        };
        match base.value.checked_add(u64::from(size_of_image)) {
            Some(end) if end <= limit => Ok(base.value),
            _ => Err(base.reject(format!(
                "so SizeOfImage ({size_of_image:#x}) ends beyond the address space"
            ))),
        }
    }
}
