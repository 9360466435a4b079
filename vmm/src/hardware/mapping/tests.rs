#![expect(unsafe_code, reason = "tests look at what is mapped")]

use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;

use super::files::open;
use super::vfio_bar::{by_vfio, memory_bar};
use super::*;
use crate::hardware::vfio::Bar;

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

#[test]
fn a_bar_is_mapped_from_its_offset_and_shared() {
    let (folder, source) = bar("0xfe000000", 0x3000);
    let mapping = open(&wish(&source)).unwrap();
    assert_eq!(mapping.bytes(), 0x2000);
    let first: *mut u8 = ptr::with_exposed_provenance_mut(mapping.address().try_into().unwrap());
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
    let open = |wish: &Wish<'_>, bar: Bar| by_vfio(wish, path, &bar, |page| page.start == 0x2000);
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
