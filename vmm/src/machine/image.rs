//! The guest image: a static ELF64 that images/ embeds. It is ours, but checked like any image, since
//! a prebuilt one can be given at build time.

use abi::DriverAbi;
use abi::header::{ImageHeader, MAGIC};
use abi::layout::{PAGE_SIZE, SHIM_BASE, SHIM_MAX};
use displaydoc::Display;
use goblin::elf::program_header::{PF_W, PF_X, PT_LOAD};
use thiserror::Error;
use zerocopy::FromBytes;

/// Why a guest image cannot be used.
#[derive(Debug, Display, Error)]
pub enum ImageError {
    /// the guest image is not an ELF file
    Elf(#[source] goblin::error::Error),
    /// guest image: segment {0} is outside the file or the shim's address range
    Segment(usize),
    /// guest image: segment {0} is both writable and executable
    WritableCode(usize),
    /// guest image: no header at its start
    NoHeader,
    /// guest image of version {found}, this VMM needs {needed}: build both from the same sources
    Version {
        /// In the image.
        found: u32,
        /// [`abi::VERSION`].
        needed: u32,
    },
    /// guest image and VMM have different export tables: build both from the same sources
    Table,
    /// guest image is for another driver ABI
    Abi,
}

/// One loadable segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Guest-virtual address, page-aligned.
    pub address: u64,
    /// Bytes from the file.
    pub data: &'a [u8],
    /// Bytes in memory, a multiple of the page size.
    pub memory_bytes: u64,
    /// Stores are allowed.
    pub write: bool,
    /// Instructions can be fetched.
    pub execute: bool,
}

/// A checked guest image.
#[derive(Debug)]
pub struct GuestImage<'a> {
    /// Its segments in order of address.
    pub segments: Vec<Segment<'a>>,
    /// Its header.
    pub header: ImageHeader,
}

impl<'a> GuestImage<'a> {
    /// Checks an image for drivers of `abi`.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn parse(bytes: &'a [u8], abi: DriverAbi) -> Result<Self, ImageError> {
        let header = goblin::elf::Elf::parse_header(bytes).map_err(ImageError::Elf)?;
        let context = goblin::container::Ctx::new(
            goblin::container::Container::Big,
            goblin::container::Endian::Little,
        );
        let program_headers = goblin::elf::ProgramHeader::parse(
            bytes,
            usize::try_from(header.e_phoff).unwrap_or(usize::MAX),
            usize::from(header.e_phnum),
            context,
        )
        .map_err(ImageError::Elf)?;
        let mut segments = Vec::new();
        for (index, program) in program_headers.iter().enumerate() {
            if program.p_type != PT_LOAD {
                continue;
            }
            let data = program
                .p_offset
                .checked_add(program.p_filesz)
                .and_then(|end| {
                    bytes.get(usize::try_from(program.p_offset).ok()?..usize::try_from(end).ok()?)
                })
                .ok_or(ImageError::Segment(index))?;
            let memory_bytes = program.p_memsz.div_ceil(PAGE_SIZE) * PAGE_SIZE;
            let is_in_range = program.p_vaddr >= SHIM_BASE
                && program.p_vaddr % PAGE_SIZE == 0
                && program.p_memsz >= program.p_filesz
                && memory_bytes <= SHIM_MAX
                && program.p_vaddr - SHIM_BASE <= SHIM_MAX - memory_bytes;
            if !is_in_range {
                return Err(ImageError::Segment(index));
            }
            let write = program.p_flags & PF_W != 0;
            let execute = program.p_flags & PF_X != 0;
            if write && execute {
                return Err(ImageError::WritableCode(index));
            }
            segments.push(Segment {
                address: program.p_vaddr,
                data,
                memory_bytes,
                write,
                execute,
            });
        }
        let header = segments
            .iter()
            .find(|segment| segment.address == SHIM_BASE)
            .and_then(|segment| ImageHeader::read_from_prefix(segment.data).ok())
            .map(|(header, _)| header)
            .filter(|header| header.magic == MAGIC)
            .ok_or(ImageError::NoHeader)?;
        if header.version != abi::VERSION {
            return Err(ImageError::Version {
                found: header.version,
                needed: abi::VERSION,
            });
        }
        if header.abi != abi as u32 {
            return Err(ImageError::Abi);
        }
        if header.table_fingerprint != kernel_shim::table::FINGERPRINT
            || header.export_count != kernel_shim::table::COUNT as u64
        {
            return Err(ImageError::Table);
        }
        Ok(Self { segments, header })
    }

    /// The image's initialised bytes at a guest-virtual address, if they are all there.
    #[must_use]
    pub fn bytes_at(&self, address: u64, bytes: usize) -> Option<&'a [u8]> {
        self.segments.iter().find_map(|segment| {
            let start = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            segment.data.get(start..start.checked_add(bytes)?)
        })
    }

    /// The entry-point table: one address for each export.
    #[must_use]
    pub fn export_addresses(&self) -> Option<Vec<u64>> {
        let count = usize::try_from(self.header.export_count).ok()?;
        let bytes = self.bytes_at(self.header.exports, count.checked_mul(8)?)?;
        Some(
            bytes
                .chunks_exact(8)
                .filter_map(|chunk| u64::read_from_bytes(chunk).ok())
                .collect(),
        )
    }
}
