//! A validated image.

use core::ops::Range;

use abi::DriverAbi;

use crate::field::File;
use crate::headers::{DLL, DirectoryIndex, Headers, RELOCATIONS_STRIPPED};
use crate::layout::{self, Layout};
use crate::{
    Checksum, Export, ImageError, Import, PAGE_BYTES, Relocation, Section, SectionFlags,
    SecurityCookie, cookie, exports, function_table, imports, relocations, sections,
};

/// The bytes of a file, which a debug print leaves out.
#[derive(Clone)]
pub(crate) struct FileBytes(pub(crate) Box<[u8]>);

impl core::fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A driver's image, validated. Owns a copy of the file.
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) file: FileBytes,
    /// The driver ABI: the Machine field.
    pub abi: DriverAbi,
    /// ImageBase: where the linker meant it to be.
    pub preferred_base: u64,
    /// SizeOfImage, in bytes; [`Image::page_count`] pages hold it.
    pub size_of_image: u32,
    /// SizeOfHeaders, in bytes.
    pub size_of_headers: u32,
    /// RVA of DriverEntry (or what the linker put before it), in an executable section.
    pub entry_rva: u32,
    /// SectionAlignment, in bytes.
    pub section_alignment: u32,
    /// FileAlignment, in bytes.
    pub file_alignment: u32,
    /// TimeDateStamp: seconds since 1970, or a hash where the linker was asked for reproducible output.
    pub time_stamp: u32,
    /// MajorOperatingSystemVersion and MinorOperatingSystemVersion.
    pub system_version: (u16, u16),
    /// MajorSubsystemVersion and MinorSubsystemVersion: the oldest Windows that the linker promised.
    pub subsystem_version: (u16, u16),
    /// CheckSum.
    pub checksum: Checksum,
    /// Whether IMAGE_FILE_DLL is set: an export driver, which other drivers import from.
    pub is_export_driver: bool,
    /// Whether the image cannot be moved.
    pub relocations_stripped: bool,
    /// Sections by ascending address.
    pub sections: Vec<Section>,
    /// Relocations in the order of the file.
    pub relocations: Vec<Relocation>,
    /// Imports in the order of the file.
    pub imports: Vec<Import>,
    /// Exports by ascending ordinal.
    pub exports: Vec<Export>,
    /// Where the security cookie is, if the loader is to seed one.
    pub security_cookie: Option<SecurityCookie>,
    /// RVAs of the RUNTIME_FUNCTION table, 12 bytes an entry, sorted (amd64).
    pub function_table: Option<Range<u32>>,
}

impl Image {
    /// Parses and validates a driver's file.
    ///
    /// # Errors
    /// [`ImageError`] for anything but a native PE32 i386 or PE32+ amd64 image in which everything that is used
    /// here is as Microsoft's "PE Format" says.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let file = File::new(bytes)?;
        let headers = Headers::parse(&file)?;
        let sections = sections::parse(&file, &headers)?;
        check_entry(&headers, &sections)?;
        let layout = Layout {
            file,
            sections: &sections,
        };
        let abi = headers.abi;
        let relocations = headers
            .directory(DirectoryIndex::BaseRelocation)
            .map(|directory| relocations::parse(&layout, abi, directory))
            .transpose()?;
        let imports = headers
            .directory(DirectoryIndex::Import)
            .map(|directory| imports::parse(&layout, abi, directory))
            .transpose()?;
        let exports = headers
            .directory(DirectoryIndex::Export)
            .map(|directory| exports::parse(&layout, directory))
            .transpose()?;
        let function_table = headers
            .directory(DirectoryIndex::Exception)
            .filter(|_| abi == DriverAbi::Amd64)
            .map(|directory| function_table::parse(&layout, directory))
            .transpose()?;
        let load_config = headers.directory(DirectoryIndex::LoadConfig);
        let security_cookie = cookie::find(&layout, abi, headers.image_base, load_config)?;
        Ok(Self {
            file: FileBytes(bytes.into()),
            abi,
            preferred_base: headers.image_base,
            size_of_image: headers.size_of_image,
            size_of_headers: headers.size_of_headers.value,
            entry_rva: headers.entry.value,
            section_alignment: headers.section_alignment,
            file_alignment: headers.file_alignment,
            time_stamp: headers.time_stamp,
            system_version: headers.system_version,
            subsystem_version: headers.subsystem_version,
            checksum: Checksum::compute(bytes, headers.checksum.offset, headers.checksum.value),
            is_export_driver: headers.characteristics & DLL != 0,
            relocations_stripped: headers.characteristics & RELOCATIONS_STRIPPED != 0,
            relocations: relocations.unwrap_or_default(),
            imports: imports.unwrap_or_default(),
            exports: exports.unwrap_or_default(),
            security_cookie,
            function_table,
            sections,
        })
    }

    /// Whether sections are closer together than pages (SectionAlignment below 4096; old linkers made drivers
    /// with 0x20 and 0x80). The file's offsets are then the image's RVAs, and code and data share pages.
    #[must_use]
    pub const fn is_single_mapping(&self) -> bool {
        self.section_alignment < PAGE_BYTES
    }

    /// Pages that the mapped image takes.
    #[must_use]
    pub const fn page_count(&self) -> usize {
        self.size_of_image.div_ceil(PAGE_BYTES) as usize
    }

    /// The section that holds `rva`.
    #[must_use]
    pub fn section_at(&self, rva: u32) -> Option<&Section> {
        layout::section_at(&self.sections, rva, 1)
    }
}

fn check_entry(headers: &Headers, sections: &[Section]) -> Result<(), ImageError> {
    let entry = headers.entry;
    if entry.value == 0 {
        return Err(entry.reject("expected the RVA of DriverEntry"));
    }
    match layout::section_at(sections, entry.value, 1) {
        None => Err(entry.reject("outside every section")),
        Some(section) if !section.flags.contains(SectionFlags::EXECUTE) => Err(entry.reject(
            format!("in section {}, which is not executable", section.name),
        )),
        Some(_) => Ok(()),
    }
}
