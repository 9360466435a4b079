//! The base relocation directory.

use abi::DriverAbi;

use crate::field::Field;
use crate::headers::Directory;
use crate::layout::Layout;
use crate::{ImageError, PAGE_BYTES};

/// Four times what the largest drivers have; bounds the memory that a damaged table costs.
const MAX_RELOCATIONS: usize = 1 << 20;
/// Bytes of an IMAGE_BASE_RELOCATION block's header.
const BLOCK_HEADER_BYTES: u32 = 8;

/// How a place is relocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelocationKind {
    /// IMAGE_REL_BASED_HIGHLOW: the difference is added to 4 bytes (i386).
    HighLow,
    /// IMAGE_REL_BASED_DIR64: the difference is added to 8 bytes (amd64).
    Dir64,
}

impl RelocationKind {
    /// Bytes that the relocation changes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::HighLow => 4,
            Self::Dir64 => 8,
        }
    }
}

/// One place that holds an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// The place: all its bytes are in one section.
    pub rva: u32,
    /// Its kind.
    pub kind: RelocationKind,
}

/// Reads all blocks. IMAGE_REL_BASED_ABSOLUTE entries are padding and left out.
pub(crate) fn parse(
    layout: &Layout<'_>,
    abi: DriverAbi,
    directory: Directory,
) -> Result<Vec<Relocation>, ImageError> {
    let Directory { rva, size } = directory;
    if size.value == 0 {
        return Ok(Vec::new()); // an image without a single absolute address
    }
    let start = layout.locate(&size, rva.value, size.value)?;
    let end = start.saturating_add(size.value);
    let mut relocations = Vec::new();
    let mut offset = start;
    let mut previous_page = 0;
    while offset < end {
        let left = end.saturating_sub(offset);
        if left < BLOCK_HEADER_BYTES {
            return Err(size.reject(format!(
                "which leaves {left} bytes at {offset:#x} for the last block, but its header takes 8"
            )));
        }
        let page = layout
            .file
            .u32(offset, "relocation block's VirtualAddress")?;
        let block_bytes = layout
            .file
            .u32(offset.saturating_add(4), "relocation block's SizeOfBlock")?;
        if page.value == 0 && block_bytes.value == 0 {
            break; // padding that some linkers count as part of the directory
        }
        check_block(&page, &block_bytes, left, previous_page)?;
        previous_page = page.value;
        let block_end = offset.saturating_add(block_bytes.value);
        offset = offset.saturating_add(BLOCK_HEADER_BYTES);
        while offset < block_end {
            let entry = layout.file.u16(offset, "relocation entry")?;
            offset = offset.saturating_add(2);
            let Some(kind) = kind(abi, &entry)? else {
                continue;
            };
            let target = page.value.saturating_add(u32::from(entry.value & 0xFFF));
            if layout.section_at(target, kind.bytes()).is_none() {
                return Err(entry.reject(format!(
                    "which relocates {} bytes at RVA {target:#x}, outside every section",
                    kind.bytes()
                )));
            }
            if relocations.len() == MAX_RELOCATIONS {
                return Err(entry.reject(format!("expected at most {MAX_RELOCATIONS} relocations")));
            }
            relocations.push(Relocation { rva: target, kind });
        }
    }
    Ok(relocations)
}

fn check_block(
    page: &Field<u32>,
    block_bytes: &Field<u32>,
    left: u32,
    previous_page: u32,
) -> Result<(), ImageError> {
    if !page.value.is_multiple_of(PAGE_BYTES) {
        return Err(page.reject("expected a multiple of the page size"));
    }
    if page.value < previous_page {
        return Err(page.reject(format!(
            "expected blocks in ascending order, but the one before it is for {previous_page:#x}"
        )));
    }
    if block_bytes.value < BLOCK_HEADER_BYTES || !block_bytes.value.is_multiple_of(2) {
        return Err(block_bytes.reject("expected an even number of bytes, its header's 8 included"));
    }
    if block_bytes.value > left {
        return Err(block_bytes.reject(format!(
            "beyond the {left} bytes that are left of the base relocation directory"
        )));
    }
    Ok(())
}

/// What an entry asks for; `None` for padding.
fn kind(abi: DriverAbi, entry: &Field<u16>) -> Result<Option<RelocationKind>, ImageError> {
    match (entry.value >> 12, abi) {
        (0, _) => Ok(None),
        (3, DriverAbi::I386) => Ok(Some(RelocationKind::HighLow)),
        (10, DriverAbi::Amd64) => Ok(Some(RelocationKind::Dir64)),
        (number, DriverAbi::I386) => Err(entry.reject(format!(
            "of type {number}: expected ABSOLUTE (0) or HIGHLOW (3) in an i386 image"
        ))),
        (number, DriverAbi::Amd64) => Err(entry.reject(format!(
            "of type {number}: expected ABSOLUTE (0) or DIR64 (10) in an amd64 image"
        ))),
    }
}
