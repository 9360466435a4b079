//! The export directory: for drivers that import from other drivers, and for naming addresses in reports.

use crate::ImageError;
use crate::field::Field;
use crate::headers::Directory;
use crate::layout::Layout;

/// More exports than ntoskrnl.exe has.
const MAX_EXPORTS: u32 = 8192;
/// Bytes of an IMAGE_EXPORT_DIRECTORY.
const DIRECTORY_BYTES: u32 = 40;

/// What an export leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportTarget {
    /// Code or data of the image, by RVA.
    Rva(u32),
    /// An export of another DLL, as `DLL.NAME` or `DLL.#ORDINAL`.
    Forwarder(String),
}

/// One export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// Name, if it has one: printable ASCII.
    pub name: Option<String>,
    /// Ordinal, the base included.
    pub ordinal: u32,
    /// Target.
    pub target: ExportTarget,
}

/// Reads the export directory; an ordinal with several names appears once for each.
pub(crate) fn parse(layout: &Layout<'_>, directory: Directory) -> Result<Vec<Export>, ImageError> {
    let offset = layout.locate(&directory.rva, directory.rva.value, DIRECTORY_BYTES)?;
    let at = |field: u32| offset.saturating_add(field);
    let base = layout.file.u32(at(16), "export ordinal base")?.value;
    let functions = table(layout, at(20), at(28), 4, &FUNCTIONS)?;
    let name_pointers = table(layout, at(24), at(32), 4, &NAMES)?;
    let name_ordinals = table(layout, at(24), at(36), 2, &ORDINALS)?;

    let mut names: Vec<(u16, String)> = Vec::new();
    for index in 0..name_pointers.count {
        let pointer = layout.file.u32(
            name_pointers.at(index, 4),
            "entry of the export name pointer table",
        )?;
        let ordinal = layout.file.u16(
            name_ordinals.at(index, 2),
            "entry of the export ordinal table",
        )?;
        let name = layout.ascii(&pointer, pointer.value, "export name")?;
        if u32::from(ordinal.value) >= functions.count {
            return Err(ordinal.reject(format!(
                "so export {name} is none of the {} in the address table",
                functions.count
            )));
        }
        names.push((ordinal.value, name));
    }
    names.sort_unstable();

    let mut exports = Vec::new();
    for index in 0..functions.count {
        let rva = layout
            .file
            .u32(functions.at(index, 4), "entry of the export address table")?;
        if rva.value == 0 {
            continue; // a gap in the ordinals
        }
        let target = target(layout, &rva, &directory)?;
        let ordinal = base.saturating_add(index);
        let first = names.partition_point(|(at, _)| u32::from(*at) < index);
        let named = names.iter().skip(first);
        let named = named.take_while(|(at, _)| u32::from(*at) == index);
        let before = exports.len();
        exports.extend(named.map(|(_, name)| Export {
            name: Some(name.clone()),
            ordinal,
            target: target.clone(),
        }));
        if exports.len() == before {
            exports.push(Export {
                name: None,
                ordinal,
                target,
            });
        }
    }
    Ok(exports)
}

fn target(
    layout: &Layout<'_>,
    rva: &Field<u32>,
    directory: &Directory,
) -> Result<ExportTarget, ImageError> {
    let into_directory = rva.value.checked_sub(directory.rva.value);
    if into_directory.is_some_and(|into| into < directory.size.value) {
        let forwarder = layout.ascii(rva, rva.value, "forwarder")?;
        return Ok(ExportTarget::Forwarder(forwarder));
    }
    if layout.section_at(rva.value, 1).is_none() {
        return Err(rva.reject("expected an RVA inside a section"));
    }
    Ok(ExportTarget::Rva(rva.value))
}

/// Names of the count and address fields of a table.
struct TableNames {
    count: &'static str,
    rva: &'static str,
}

const FUNCTIONS: TableNames = TableNames {
    count: "NumberOfFunctions",
    rva: "AddressOfFunctions",
};
const NAMES: TableNames = TableNames {
    count: "NumberOfNames",
    rva: "AddressOfNames",
};
const ORDINALS: TableNames = TableNames {
    count: "NumberOfNames",
    rva: "AddressOfNameOrdinals",
};

/// A table of the export directory, in the file.
struct Table {
    offset: u32,
    count: u32,
}

impl Table {
    fn at(&self, index: u32, entry_bytes: u32) -> u32 {
        self.offset
            .saturating_add(index.saturating_mul(entry_bytes))
    }
}

fn table(
    layout: &Layout<'_>,
    count_offset: u32,
    rva_offset: u32,
    entry_bytes: u32,
    names: &TableNames,
) -> Result<Table, ImageError> {
    let count = layout.file.u32(count_offset, names.count)?;
    let rva = layout.file.u32(rva_offset, names.rva)?;
    if count.value > MAX_EXPORTS {
        return Err(count.reject(format!("expected at most {MAX_EXPORTS} exports")));
    }
    if count.value == 0 {
        return Ok(Table {
            offset: 0,
            count: 0,
        });
    }
    let bytes = count.value.saturating_mul(entry_bytes);
    Ok(Table {
        offset: layout.locate(&rva, rva.value, bytes)?,
        count: count.value,
    })
}
