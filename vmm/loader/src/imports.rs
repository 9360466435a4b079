//! The import directory.

use abi::DriverAbi;

use crate::ImageError;
use crate::field::Field;
use crate::headers::Directory;
use crate::layout::Layout;

/// More imports than ntoskrnl.exe and hal.dll have exports.
const MAX_IMPORTS: usize = 8192;
const MAX_DLLS: u32 = 256;
/// Bytes of an IMAGE_IMPORT_DESCRIPTOR.
const DESCRIPTOR_BYTES: u32 = 20;

/// How an import names what it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImportName {
    /// By name; the hint is an index into the DLL's name table that a loader may try first.
    Name {
        /// The name: printable ASCII.
        name: String,
        /// Where the linker's import library had it.
        hint: u16,
    },
    /// By ordinal. The ordinals of ntoskrnl.exe and hal.dll differ from one Windows version to the next, so that
    /// a resolver can only answer if it has a table for the version that the driver was linked for.
    Ordinal(u16),
}

/// One imported function or variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    /// The DLL, spelt as in the image. Compare without regard to ASCII case.
    pub dll: String,
    /// What is imported.
    pub name: ImportName,
    /// RVA of the slot in the import address table that receives the address: pointer-sized, in a section.
    pub iat_rva: u32,
}

impl Import {
    /// The name, unless imported by ordinal.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.name {
            ImportName::Name { name, .. } => Some(name),
            ImportName::Ordinal(_) => None,
        }
    }

    /// The ordinal, unless imported by name.
    #[must_use]
    pub const fn ordinal(&self) -> Option<u16> {
        match self.name {
            ImportName::Name { .. } => None,
            ImportName::Ordinal(ordinal) => Some(ordinal),
        }
    }
}

impl core::fmt::Display for Import {
    /// `DLL!NAME` or `DLL!#ORDINAL`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.name {
            ImportName::Name { name, .. } => write!(f, "{}!{name}", self.dll),
            ImportName::Ordinal(ordinal) => write!(f, "{}!#{ordinal}", self.dll),
        }
    }
}

/// Reads all import descriptors and their thunks.
pub(crate) fn parse(
    layout: &Layout<'_>,
    abi: DriverAbi,
    directory: Directory,
) -> Result<Vec<Import>, ImageError> {
    let mut imports = Vec::new();
    for index in 0.. {
        // The directory's size is no limit (old linkers wrote other things there): a zero descriptor ends it.
        let rva = directory
            .rva
            .value
            .saturating_add(DESCRIPTOR_BYTES.saturating_mul(index));
        let offset = layout.locate(&directory.rva, rva, DESCRIPTOR_BYTES)?;
        let at = |field: u32| offset.saturating_add(field);
        let lookup = layout.file.u32(at(0), "OriginalFirstThunk")?;
        let time_stamp = layout.file.u32(at(4), "TimeDateStamp")?;
        let name = layout.file.u32(at(12), "Name")?;
        let addresses = layout.file.u32(at(16), "FirstThunk")?;
        if name.value == 0 && addresses.value == 0 {
            return Ok(imports);
        }
        if index == MAX_DLLS {
            return Err(name.reject(format!("expected at most {MAX_DLLS} import descriptors")));
        }
        if addresses.value == 0 {
            return Err(addresses.reject("expected the RVA of an import address table"));
        }
        let dll = layout.ascii(&name, name.value, "DLL name")?;
        let lookup = match (lookup.value, time_stamp.value) {
            (0, 0) => addresses,
            (0, _) => {
                return Err(time_stamp.reject(format!(
                    "so the imports from {dll} are bound, but OriginalFirstThunk is 0: their names are lost"
                )));
            }
            _ => lookup,
        };
        Thunks {
            layout,
            abi,
            dll: &dll,
            lookup,
            addresses,
        }
        .parse(&mut imports)?;
    }
    Ok(imports)
}

/// The parallel lookup and address tables of one DLL.
struct Thunks<'a> {
    layout: &'a Layout<'a>,
    abi: DriverAbi,
    dll: &'a str,
    lookup: Field<u32>,
    addresses: Field<u32>,
}

impl Thunks<'_> {
    fn parse(&self, imports: &mut Vec<Import>) -> Result<(), ImageError> {
        let (word, ordinal_flag) = match self.abi {
            DriverAbi::I386 => (4_u32, 1_u64 << 31),
            DriverAbi::Amd64 => (8, 1 << 63),
        };
        for index in 0_u32.. {
            let skip = index.saturating_mul(word);
            let lookup_rva = self.lookup.value.saturating_add(skip);
            let offset = self.layout.locate(&self.lookup, lookup_rva, word)?;
            let thunk = self
                .layout
                .file
                .word(self.abi, offset, "import lookup entry")?;
            if thunk.value == 0 {
                return Ok(());
            }
            if imports.len() == MAX_IMPORTS {
                return Err(thunk.reject(format!("expected at most {MAX_IMPORTS} imports")));
            }
            let iat_rva = self.addresses.value.saturating_add(skip);
            if self.layout.section_at(iat_rva, word).is_none() {
                return Err(self.addresses.reject(format!(
                    "so the address of import {index} from {} belongs at RVA {iat_rva:#x}, outside every section",
                    self.dll
                )));
            }
            let name = if thunk.value & ordinal_flag == 0 {
                self.by_name(&thunk)?
            } else {
                by_ordinal(&thunk, thunk.value & !ordinal_flag)?
            };
            imports.push(Import {
                dll: self.dll.to_owned(),
                name,
                iat_rva,
            });
        }
        Ok(())
    }

    fn by_name(&self, thunk: &Field<u64>) -> Result<ImportName, ImageError> {
        let Some(rva) = u32::try_from(thunk.value).ok().filter(|&rva| rva < 1 << 31) else {
            return Err(thunk.reject("neither an ordinal nor the RVA of a name"));
        };
        let hint_offset = self.layout.locate(thunk, rva, 2)?;
        let hint = self.layout.file.u16(hint_offset, "Hint")?.value;
        let name = self
            .layout
            .ascii(thunk, rva.saturating_add(2), "import name")?;
        Ok(ImportName::Name { name, hint })
    }
}

fn by_ordinal(thunk: &Field<u64>, ordinal: u64) -> Result<ImportName, ImageError> {
    u16::try_from(ordinal)
        .map(ImportName::Ordinal)
        .map_err(|_| thunk.reject("expected an ordinal of at most 0xffff"))
}
