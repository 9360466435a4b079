//! Laying an image out for an address.

use abi::DriverAbi;

use crate::{Image, Import, MapError, PAGE_BYTES, PageProtection, cookie};

/// An image as the guest sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// The address that it is relocated to.
    pub base: u64,
    /// Address of the entry point.
    pub entry: u64,
    /// The bytes, a multiple of the page size.
    pub memory: Vec<u8>,
    /// One for each page of `memory`.
    pub protection: Vec<PageProtection>,
}

impl Image {
    /// Lays the image out for guest-virtual address `base`: copies headers and sections, applies relocations,
    /// stores what `resolve` returns for each import, and seeds the security cookie with `cookie` (see
    /// [`crate::SecurityCookie::value_from`]).
    ///
    /// `resolve` answers for every import, those that nothing implements too: with the address of a stub that
    /// reports the call. Ordinal imports need a table of the Windows version that the driver was linked for.
    ///
    /// # Errors
    /// [`MapError`]: `base` is not page-aligned, too high for the ABI, or differs from ImageBase in an image
    /// without relocations; `cookie` or a resolved address does not fit.
    pub fn map(
        &self,
        base: u64,
        mut resolve: impl FnMut(&Import) -> u64,
        cookie: u64,
    ) -> Result<Mapped, MapError> {
        self.check_address(base)?;
        if !cookie::is_valid(self.abi, cookie) {
            return Err(MapError::Cookie {
                cookie,
                abi: self.abi.name(),
            });
        }
        let page = PAGE_BYTES as usize;
        let mut memory = vec![0; self.page_count().saturating_mul(page)];
        copy(
            &mut memory,
            0,
            self.file.0.get(..self.size_of_headers as usize),
        );
        for section in &self.sections {
            let range = section.file_range.start as usize..section.file_range.end as usize;
            copy(&mut memory, section.rva, self.file.0.get(range));
        }
        self.relocate(&mut memory, base.wrapping_sub(self.preferred_base));
        for import in &self.imports {
            let address = resolve(import);
            if self.abi == DriverAbi::I386 && address > u64::from(u32::MAX) {
                return Err(MapError::ImportAddress {
                    import: import.to_string(),
                    address,
                });
            }
            self.store_word(&mut memory, import.iat_rva, address);
        }
        if let Some(place) = self.security_cookie {
            self.store_word(&mut memory, place.rva, cookie);
        }
        Ok(Mapped {
            base,
            entry: base.saturating_add(u64::from(self.entry_rva)),
            memory,
            protection: self.protection(),
        })
    }

    fn check_address(&self, base: u64) -> Result<(), MapError> {
        if !base.is_multiple_of(u64::from(PAGE_BYTES)) {
            return Err(MapError::Unaligned { base });
        }
        let bytes = self.size_of_image.next_multiple_of(PAGE_BYTES);
        let limit = match self.abi {
            DriverAbi::I386 => u64::from(u32::MAX),
            DriverAbi::Amd64 => u64::MAX,
        };
        // The last page of the address space stays free: an address behind the image is still an address.
        if base
            .checked_add(u64::from(bytes))
            .is_none_or(|end| end > limit)
        {
            return Err(MapError::AddressSpace {
                base,
                bytes,
                abi: self.abi.name(),
            });
        }
        if self.relocations_stripped && base != self.preferred_base {
            return Err(MapError::RelocationsStripped {
                base,
                preferred: self.preferred_base,
            });
        }
        Ok(())
    }

    fn relocate(&self, memory: &mut [u8], difference: u64) {
        if difference == 0 {
            return;
        }
        for relocation in &self.relocations {
            let start = relocation.rva as usize;
            let width = relocation.kind.bytes() as usize;
            let place = memory.get(start..start.saturating_add(width));
            let mut word = [0; 8];
            copy(&mut word, 0, place);
            let sum = u64::from_le_bytes(word)
                .wrapping_add(difference)
                .to_le_bytes();
            copy(memory, relocation.rva, sum.get(..width));
        }
    }

    /// Stores a pointer of the driver ABI.
    fn store_word(&self, memory: &mut [u8], rva: u32, value: u64) {
        let bytes = value.to_le_bytes();
        copy(memory, rva, bytes.get(..self.abi.pointer_bytes()));
    }
}

/// Copies `bytes` to `rva`, where parsing has checked that they fit.
fn copy(memory: &mut [u8], rva: u32, bytes: Option<&[u8]>) {
    let bytes = bytes.unwrap_or_default();
    let start = rva as usize;
    let room = memory.get_mut(start..start.saturating_add(bytes.len()));
    debug_assert!(
        room.is_some(),
        "{} bytes at {rva:#x} are inside the image",
        bytes.len()
    );
    if let Some(room) = room {
        room.copy_from_slice(bytes);
    }
}
