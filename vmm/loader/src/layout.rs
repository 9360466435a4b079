//! From relative virtual addresses to the file.

use crate::field::{Field, File};
use crate::{ImageError, Section};

/// Longest accepted name of a DLL, import or export, in bytes. Microsoft's compilers stop at 4096 for
/// decorated names; ntoskrnl.exe's longest is below 64.
const MAX_NAME_BYTES: u32 = 512;

/// Where everything is. Tables that this crate reads must come from a section's bytes in the file: nothing useful is
/// in zeros, and no linker puts such tables into the headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) file: File<'a>,
    pub(crate) sections: &'a [Section],
}

impl<'a> Layout<'a> {
    /// The section that holds all `bytes` bytes at `rva`.
    pub(crate) fn section_at(&self, rva: u32, bytes: u32) -> Option<&'a Section> {
        section_at(self.sections, rva, bytes)
    }

    /// The file offset behind `rva` and how many bytes follow there without a break.
    fn file_range(&self, rva: u32) -> Option<(u32, u32)> {
        let section = self.section_at(rva, 0)?;
        let into = rva.saturating_sub(section.rva);
        let left = section.file_bytes().checked_sub(into)?;
        Some((section.file_range.start.saturating_add(into), left))
    }

    /// The file offset of `bytes` bytes at `rva`, to which `pointer` led (its own value may be another).
    pub(crate) fn locate<T: Copy + Into<u64>>(
        &self,
        pointer: &Field<T>,
        rva: u32,
        bytes: u32,
    ) -> Result<u32, ImageError> {
        match self.file_range(rva) {
            Some((offset, left)) if left >= bytes => Ok(offset),
            _ => Err(pointer.reject(format!(
                "which leads to {bytes} bytes at RVA {rva:#x}, outside the file data of every section"
            ))),
        }
    }

    /// The NUL-terminated ASCII string at `rva`.
    pub(crate) fn ascii<T: Copy + Into<u64>>(
        &self,
        pointer: &Field<T>,
        rva: u32,
        what: &str,
    ) -> Result<String, ImageError> {
        let Some((offset, left)) = self.file_range(rva).filter(|&(_, left)| left != 0) else {
            return Err(pointer.reject(format!(
                "so the {what} is at RVA {rva:#x}, outside the file data of every section"
            )));
        };
        let bytes = self.file.slice("name", offset, left.min(MAX_NAME_BYTES))?;
        let Some(length) = bytes.iter().position(|&byte| byte == 0) else {
            return Err(pointer.reject(format!(
                "but the {what} at file offset {offset:#x} is not terminated within {} bytes",
                bytes.len()
            )));
        };
        let name = bytes.get(..length).unwrap_or_default();
        if name.is_empty() {
            return Err(pointer.reject(format!(
                "but the {what} at file offset {offset:#x} is empty"
            )));
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            return Err(pointer.reject(format!(
                "but the {what} at file offset {offset:#x} is not printable ASCII: \"{}\"",
                name.escape_ascii()
            )));
        }
        Ok(name.iter().map(|&byte| char::from(byte)).collect())
    }
}

/// The section that holds all `bytes` bytes at `rva`. Sections are sorted by address.
pub(crate) fn section_at(sections: &[Section], rva: u32, bytes: u32) -> Option<&Section> {
    let behind = sections.partition_point(|section| section.rva <= rva);
    let section = sections.get(behind.checked_sub(1)?)?;
    section.contains(rva, bytes).then_some(section)
}
