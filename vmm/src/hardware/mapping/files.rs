//! Memory by its file: /dev/mem, or the resource file of a PCI function's BAR.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::host_mapping::HostMapping;
use super::{MappingError, PAGE_SIZE, Wish, check_end};
use crate::policy::{CacheMode, MemorySource};

const DEV_MEM: &str = "/dev/mem";
const WRITE_COMBINING: &str = "_wc";

/// Maps it. A BAR of a function that VFIO has is not mapped this way: VFIO keeps the resource files from being mapped.
pub(super) fn open(wish: &Wish<'_>) -> Result<HostMapping, MappingError> {
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
    HostMapping::map(file.as_raw_fd(), wish.first, wish.bytes, wish.is_writable)
        .map_err(|source| MappingError::Map { path, source })
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

/// The number in a resource file's name.
pub(super) fn bar_number(path: &Path) -> io::Result<u32> {
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
