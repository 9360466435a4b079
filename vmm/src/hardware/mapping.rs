//! Real memory, mapped into this process: /dev/mem, or a PCI function's BAR, by its resource file or, if VFIO has the
//! function, by VFIO.
//!
//! The cache type that a mapping has is the kernel's business, which is asked by how the file is opened: /dev/mem with
//! O_SYNC is uncached, without it as the memory type range registers have it; `resourceN` is uncached, `resourceN_wc`
//! write-combining; VFIO has uncached mappings only. The guest's page tables and KVM have their word too: for memory that is no RAM, KVM on Intel makes
//! every access uncached unless the guest's PAT says write-combining; on AMD the guest's PAT alone decides.

#![expect(
    unsafe_code,
    reason = "mmap(2) and munmap(2) of device memory; this module is their only user"
)]

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use super::region::{self, BarPiece, Region};
use super::vfio::{Bar, VfioFunctions};
use crate::policy::{CacheMode, MemorySource};

/// What to do about it.
fn open_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            " (`ringfence doctor` says what this machine has; `ringfence doctor --pci` where a function's BARs are)"
        }
        _ => " (root or CAP_SYS_RAWIO is needed, and a kernel that is not locked down)",
    }
}

const DEV_MEM: &str = "/dev/mem";
const PAGE_SIZE: u64 = abi::layout::PAGE_SIZE;
const WRITE_COMBINING: &str = "_wc";

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

/// Pages of the machine's memory, mapped as long as this lives.
#[derive(Debug)]
pub(crate) struct HostMapping {
    address: usize,
    bytes: usize,
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
    HostMapping::open(wish).map(|mapping| vec![(wish.bytes, HostPages::Mapped(mapping))])
}

/// Pages of a BAR, as offsets in it, and their mapping; without one they are to be trapped.
type VfioPiece = (Range<u64>, Option<HostMapping>);

/// The pieces of a BAR that VFIO has, as offsets in it, mapped where they can be and none of their pages is to be trapped.
/// Mappings keep the function open.
fn by_vfio(
    wish: &Wish<'_>,
    path: &Path,
    bar: &Bar,
    is_trapped: impl Fn(&Range<u64>) -> bool,
) -> Result<Vec<VfioPiece>, MappingError> {
    if wish.cache != CacheMode::Uncached {
        return Err(MappingError::Cache {
            path: path.to_owned(),
            cache: wish.cache.name(),
            instead: "VFIO maps BARs \"uncached\" only",
        });
    }
    check_end(path, wish, bar.bytes)?;
    let range = wish.first..wish.first + wish.bytes;
    let pieces = region::pieces(range, |page| !bar.is_mappable || is_trapped(page));
    let open = |BarPiece { pages, is_trapped }| {
        if is_trapped {
            return Ok((pages, None));
        }
        let first = bar.offset + pages.start;
        let bytes = pages.end - pages.start;
        HostMapping::map(bar.descriptor, first, bytes, wish.is_writable)
            .map(|mapping| (pages, Some(mapping)))
            .map_err(|source| MappingError::Map {
                path: path.to_owned(),
                source,
            })
    };
    pieces.into_iter().map(open).collect()
}

/// A BAR that is there and decodes memory.
fn memory_bar(path: &Path, bar: Option<Bar>) -> Result<Bar, MappingError> {
    let no_memory = |what| MappingError::NoMemory {
        path: path.to_owned(),
        what,
    };
    let bar = bar
        .filter(|bar| bar.bytes != 0)
        .ok_or_else(|| no_memory("no BAR of the function's"))?;
    if bar.is_ports {
        return Err(no_memory("a BAR of ports"));
    }
    Ok(bar)
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

impl HostMapping {
    /// Maps it. A BAR of one of `functions` is not mapped this way: VFIO keeps the resource files from being mapped.
    fn open(wish: &Wish<'_>) -> Result<Self, MappingError> {
        let (path, flags) = match wish.source {
            MemorySource::DevMem => (PathBuf::from(DEV_MEM), dev_mem_flags(wish.cache)?),
            MemorySource::PciResource(path) => {
                check_cache(path, wish.cache)?;
                check_bar(path, wish)?;
                (path.clone(), 0)
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(wish.is_writable)
            .custom_flags(flags)
            .open(&path)
            .map_err(|source| MappingError::Open {
                path: path.clone(),
                source,
            })?;
        Self::map(file.as_raw_fd(), wish.first, wish.bytes, wish.is_writable)
            .map_err(|source| MappingError::Map { path, source })
    }

    /// `descriptor` is open, and its memory has `bytes` from `first` on.
    fn map(descriptor: RawFd, first: u64, bytes: u64, is_writable: bool) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let offset = i64::try_from(first).map_err(io::Error::other)?;
        let protection = if is_writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: the kernel chooses an address where nothing is; it fails for a descriptor that is not open.
        // Nothing here makes a reference to
        // this memory: only the guest accesses it.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                descriptor,
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: address.expose_provenance(),
            bytes,
        })
    }

    /// Host-virtual address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: this is what `map` mapped, and whoever was told the address has promised not to outlive it.
        // It fails for no such range.
        let _ = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.bytes) };
    }
}

fn dev_mem_flags(cache: CacheMode) -> Result<i32, MappingError> {
    match cache {
        CacheMode::Uncached => Ok(libc::O_SYNC),
        CacheMode::WriteBack => Ok(0),
        CacheMode::WriteCombining => Err(MappingError::Cache {
            path: PathBuf::from(DEV_MEM),
            cache: cache.name(),
            instead: "\"uncached\" or \"write-back\" (as the processor's memory type registers have it); a PCI \
                      function's resourceN_wc can be write-combining",
        }),
    }
}

/// A resource file has one cache type, which its name says.
fn check_cache(path: &Path, cache: CacheMode) -> Result<(), MappingError> {
    let is_combining = path.to_string_lossy().ends_with(WRITE_COMBINING);
    let instead = match cache {
        CacheMode::Uncached if is_combining => {
            "it is \"write-combining\"; the file without _wc is \"uncached\""
        }
        CacheMode::WriteCombining if !is_combining => {
            "the file with _wc is, which prefetchable BARs have beside it"
        }
        CacheMode::WriteBack => {
            "the kernel maps no BAR so: \"uncached\", or \"write-combining\" with _wc"
        }
        CacheMode::Uncached | CacheMode::WriteCombining => return Ok(()),
    };
    Err(MappingError::Cache {
        path: path.to_owned(),
        cache: cache.name(),
        instead,
    })
}

/// The range lies in the BAR, and its pages are the BAR's alone.
fn check_bar(path: &Path, wish: &Wish<'_>) -> Result<(), MappingError> {
    let opening = |source| MappingError::Open {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(opening)?.len();
    check_end(path, wish, bytes)?;
    let start = bar_address(path).map_err(opening)?;
    let is_alone = start.is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE);
    if !is_alone && !wish.is_danger_accepted {
        return Err(MappingError::SharedPage {
            path: path.to_owned(),
            start,
            bytes,
        });
    }
    Ok(())
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

/// The number in a resource file's name.
fn bar_number(path: &Path) -> io::Result<u32> {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .trim_start_matches("resource")
        .trim_end_matches(WRITE_COMBINING)
        .parse()
        .map_err(io::Error::other)
}

/// Where a BAR begins: the file `resource` beside has a line "START END FLAGS" for each.
fn bar_address(path: &Path) -> io::Result<u64> {
    let number = bar_number(path)?;
    let text = std::fs::read_to_string(path.with_file_name("resource"))?;
    text.lines()
        .nth(usize::try_from(number).map_err(io::Error::other)?)
        .and_then(|line| line.split_whitespace().next()?.strip_prefix("0x"))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| io::Error::other("the file `resource` beside it has no line for it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as a BAR of three pages, with what stands in `resource`.
    fn bar(start: &str, bytes: usize) -> (tempfile::TempDir, MemorySource) {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("{start} 0x0 0x0\n");
        std::fs::write(
            folder.path().join("resource"),
            format!("0x0 0x0 0x0\n{line}"),
        )
        .unwrap();
        let path = folder.path().join("resource1");
        let contents: Vec<u8> = (0..bytes)
            .map(|at| (at / 4096 + 1).to_le_bytes()[0])
            .collect();
        std::fs::write(&path, contents).unwrap();
        (folder, MemorySource::PciResource(path))
    }

    fn wish(source: &MemorySource) -> Wish<'_> {
        Wish {
            source,
            first: 0x1000,
            bytes: 0x2000,
            cache: CacheMode::Uncached,
            is_writable: true,
            is_danger_accepted: false,
        }
    }

    fn open(wish: &Wish<'_>) -> Result<HostMapping, MappingError> {
        HostMapping::open(wish)
    }

    #[test]
    fn a_bar_is_mapped_from_its_offset_and_shared() {
        let (folder, source) = bar("0xfe000000", 0x3000);
        let mapping = open(&wish(&source)).unwrap();
        assert_eq!(mapping.bytes(), 0x2000);
        let first: *mut u8 = ptr::with_exposed_provenance_mut(mapping.address);
        // SAFETY: the mapping's first byte, which nobody else accesses.
        assert_eq!(unsafe { first.read_volatile() }, 2);
        // SAFETY: as above.
        unsafe { first.write_volatile(0x55) };
        let contents = std::fs::read(folder.path().join("resource1")).unwrap();
        assert_eq!(contents[0x1000], 0x55);
    }

    #[test]
    fn a_range_past_the_bar_and_a_shared_page_are_refused() {
        let (_folder, source) = bar("0xfe000000", 0x3000);
        let past = Wish {
            bytes: 0x3000,
            ..wish(&source)
        };
        let error = open(&past).unwrap_err();
        assert!(matches!(
            error,
            MappingError::PastEnd {
                has: 0x3000,
                end: 0x4000,
                ..
            }
        ));
        for (start, bytes) in [("0xfe000100", 0x3000), ("0xfe000000", 0x2100)] {
            let (_folder, source) = bar(start, bytes);
            let error = open(&wish(&source)).unwrap_err();
            assert!(matches!(error, MappingError::SharedPage { .. }), "{error}");
            let accepted = Wish {
                is_danger_accepted: true,
                ..wish(&source)
            };
            open(&accepted).unwrap();
        }
    }

    #[test]
    fn a_cache_type_that_the_source_does_not_have_is_refused() {
        let (_folder, source) = bar("0xfe000000", 0x3000);
        for (source, cache) in [
            (&source, CacheMode::WriteBack),
            (&source, CacheMode::WriteCombining),
            (&MemorySource::DevMem, CacheMode::WriteCombining),
        ] {
            let wish = Wish {
                cache,
                ..wish(source)
            };
            let error = open(&wish).unwrap_err();
            assert!(matches!(error, MappingError::Cache { .. }), "{error}");
        }
    }

    /// A file as VFIO's descriptor, in which a BAR begins at the second page.
    #[test]
    fn a_bar_of_vfio_is_mapped_within_its_bounds() {
        let (folder, source) = bar("0xfe000000", 0x4000);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(folder.path().join("resource1"))
            .unwrap();
        let bar = Bar {
            descriptor: file.as_raw_fd(),
            offset: 0x1000,
            bytes: 0x3000,
            is_mappable: true,
            is_ports: false,
        };
        let path = Path::new("resource1");
        let open =
            |wish: &Wish<'_>, bar: Bar| by_vfio(wish, path, &bar, |page| page.start == 0x2000);
        let mut pieces = open(&wish(&source), bar).unwrap();
        assert_eq!(pieces.len(), 2);
        assert!(pieces[1].0 == (0x2000..0x3000) && pieces[1].1.is_none());
        let (pages, mapping) = pieces.remove(0);
        assert_eq!(pages, 0x1000..0x2000);
        let address = mapping.as_ref().unwrap().address();
        let first: *const u8 = ptr::with_exposed_provenance(address.try_into().unwrap());
        // SAFETY: the mapping's first byte, which nobody else accesses.
        assert_eq!(unsafe { first.read_volatile() }, 3);

        let shorter = Bar {
            bytes: 0x2000,
            ..bar
        };
        let error = open(&wish(&source), shorter).unwrap_err();
        assert!(matches!(error, MappingError::PastEnd { .. }), "{error}");
        let shared = Bar {
            is_mappable: false,
            ..bar
        };
        let pieces = open(&wish(&source), shared).unwrap();
        assert!(matches!(&pieces[..], [(pages, None)] if *pages == (0x1000..0x3000)));
        let combining = Wish {
            cache: CacheMode::WriteCombining,
            ..wish(&source)
        };
        let error = open(&combining, bar).unwrap_err();
        assert!(matches!(error, MappingError::Cache { .. }), "{error}");

        let ports = Bar {
            is_ports: true,
            ..bar
        };
        let empty = Bar { bytes: 0, ..bar };
        for bar in [None, Some(empty), Some(ports)] {
            let error = memory_bar(path, bar).unwrap_err();
            assert!(matches!(error, MappingError::NoMemory { .. }), "{error}");
        }
        assert_eq!(memory_bar(path, Some(bar)).unwrap(), bar);
    }
}
