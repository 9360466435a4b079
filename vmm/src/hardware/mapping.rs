//! Real memory, mapped into this process: /dev/mem, or a PCI function's BAR, by its resource file or, if VFIO has the
//! function, by VFIO.
//!
//! The cache type that a mapping has is the kernel's business, which is asked by how the file is opened: /dev/mem with
//! O_SYNC is uncached, without it as the memory type range registers have it; `resourceN` is uncached, `resourceN_wc`
//! write-combining; VFIO has uncached mappings only. The guest's page tables and KVM have their word too: for memory
//! that is no RAM, KVM on Intel makes every access uncached unless the guest's PAT says write-combining; on AMD the
//! guest's PAT alone decides.

mod files;
mod host_mapping;
#[cfg(test)]
mod tests;
mod vfio_bar;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::bar_number;
pub(crate) use self::host_mapping::HostMapping;
use self::vfio_bar::{VfioPiece, by_vfio, memory_bar};
use super::region::Region;
use super::vfio::VfioFunctions;
use crate::policy::{CacheMode, MemorySource};

const PAGE_SIZE: u64 = abi::layout::PAGE_SIZE;

/// What to do about it.
fn open_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            " (`ringfence doctor` says what this machine has; `ringfence doctor --pci` where a function's BARs are)"
        }
        _ => " (root or CAP_SYS_RAWIO is needed, and a kernel that is not locked down)",
    }
}

/// Memory of the machine that cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The file cannot be opened.
    #[error("cannot open {path}{}", open_hint(.source))]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no BAR of memory.
    #[error(
        "{path} cannot be mapped: is it a BAR of ports? or does a driver of the machine hold it?"
    )]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no memory.
    #[error("{path} is {what}: there is no memory behind it")]
    NoMemory {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The rule is larger than the BAR.
    #[error("{path} has {has:#x} bytes: the rule's range ends at {end:#x} of it")]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        has: u64,
        /// The range's end in it.
        end: u64,
    },
    /// Accesses that leave the guest have no such addresses.
    #[error(
        "the pages at {address:#x} are not mapped into the guest: VFIO makes each access, and the range must end below \
         0x300000000 (12 GiB) for that; the range may be anywhere, wherever the machine has the BAR"
    )]
    TooHigh {
        /// Where the driver would find them.
        address: u64,
    },
    /// The BAR shares a page.
    #[error(
        "{path} begins at {start:#x} and has {bytes:#x} bytes: its page may have other devices' registers as well; \
         `i-know-what-this-does = true` maps it all the same"
    )]
    SharedPage {
        /// The file.
        path: PathBuf,
        /// Physical address of the BAR.
        start: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// The source has no such cache type.
    #[error("{path} cannot be mapped {cache}: {instead}")]
    Cache {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        cache: &'static str,
        /// What there is.
        instead: &'static str,
    },
}

/// Pages of the machine's memory, as the guest gets at them.
#[derive(Debug)]
pub(crate) enum HostPages {
    /// Mapped: an access does not leave the guest.
    Mapped(HostMapping),
    /// Each access leaves the guest.
    Trapped(Region),
}

/// Opens what is wished for: the pieces from its beginning on, with their bytes, whole pages. A BAR of one of `functions`
/// is VFIO's.
pub(crate) fn open_host_pages(
    wish: &Wish<'_>,
    functions: &VfioFunctions,
) -> Result<Vec<(u64, HostPages)>, MappingError> {
    if let MemorySource::PciResource(path) = wish.source
        && let Some(function) = functions.of_resource(path)
    {
        let number = bar_number(path).unwrap_or(u32::MAX);
        let bar = memory_bar(path, function.bar(number))?;
        let pieces = by_vfio(wish, path, &bar, |page| {
            function
                .msix()
                .is_some_and(|table| table.is_in(number, page))
        })?;
        let open = |(pages, mapping): VfioPiece| {
            let how = mapping.map_or_else(
                || {
                    let function = Arc::clone(function);
                    HostPages::Trapped(Region::new(function, number, bar, pages.start))
                },
                HostPages::Mapped,
            );
            (pages.end - pages.start, how)
        };
        return Ok(pieces.into_iter().map(open).collect());
    }
    files::open(wish).map(|mapping| vec![(wish.bytes, HostPages::Mapped(mapping))])
}

/// What to map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) source: &'a MemorySource,
    /// Where in the source; whole pages.
    pub(crate) first: u64,
    /// Whole pages.
    pub(crate) bytes: u64,
    pub(crate) cache: CacheMode,
    pub(crate) is_writable: bool,
    /// Whether a page may be mapped that has others' registers as well.
    pub(crate) is_danger_accepted: bool,
}

/// The range lies in a BAR of so many bytes.
fn check_end(path: &Path, wish: &Wish<'_>, bytes: u64) -> Result<(), MappingError> {
    let end = wish.first.saturating_add(wish.bytes);
    if bytes == 0 || end > bytes.next_multiple_of(PAGE_SIZE) {
        return Err(MappingError::PastEnd {
            path: path.to_owned(),
            has: bytes,
            end,
        });
    }
    Ok(())
}
