//! A BAR by VFIO, if that has its function.

use std::ops::Range;
use std::path::Path;

use super::host_mapping::HostMapping;
use super::{MappingError, Wish, check_end};
use crate::hardware::region::{self, BarPiece};
use crate::hardware::vfio::Bar;
use crate::policy::CacheMode;

/// Pages of a BAR, as offsets in it, and their mapping; without one they are to be trapped.
pub(super) type VfioPiece = (Range<u64>, Option<HostMapping>);

/// The pieces of a BAR that VFIO has, as offsets in it, mapped where they can be and none of their pages is to be trapped.
/// Mappings keep the function open.
pub(super) fn by_vfio(
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
pub(super) fn memory_bar(path: &Path, bar: Option<Bar>) -> Result<Bar, MappingError> {
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
