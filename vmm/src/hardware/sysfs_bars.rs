//! Where the machine's PCI functions have their base address registers, as sysfs tells.

use std::fs;
use std::path::{Path, PathBuf};

/// Flags in sysfs's `resource` (Linux, include/linux/ioport.h).
const IORESOURCE_IO: u64 = 0x100;
const IORESOURCE_MEM: u64 = 0x200;
const IORESOURCE_PREFETCH: u64 = 0x2000;
/// Base address registers of a type 0 header; the lines after them are others' (expansion ROM, bridges).
const BARS: usize = 6;

/// A base address register that has been given a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostBar {
    pub(crate) number: usize,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) is_port: bool,
    pub(crate) is_prefetchable: bool,
}

/// Those of the function that has this folder in sysfs.
pub(crate) fn bars_of(function: &Path) -> Vec<HostBar> {
    let text = fs::read_to_string(function.join("resource")).unwrap_or_default();
    let lines = text.lines().take(BARS).enumerate();
    lines
        .filter_map(|(number, line)| {
            let mut numbers = line.split_whitespace().map(|word| {
                let digits = word.strip_prefix("0x")?;
                u64::from_str_radix(digits, 16).ok()
            });
            let mut next = || numbers.next().flatten();
            let (first, last, flags) = (next()?, next()?, next()?);
            let is_port = flags & IORESOURCE_IO != 0;
            let is_there = last != 0 && (is_port || flags & IORESOURCE_MEM != 0);
            is_there.then_some(HostBar {
                number,
                first,
                last,
                is_port,
                is_prefetchable: flags & IORESOURCE_PREFETCH != 0,
            })
        })
        .collect()
}

/// The function's folder and the BAR of memory that has all addresses from `first` to `last`; `devices` is
/// /sys/bus/pci/devices.
pub(crate) fn memory_bar_at(devices: &Path, first: u64, last: u64) -> Option<(PathBuf, HostBar)> {
    let mut folders: Vec<PathBuf> = fs::read_dir(devices)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    folders.sort();
    folders.into_iter().find_map(|folder| {
        let bars = bars_of(&folder);
        let bar = bars.into_iter().find(|bar| {
            // Mapping is by whole pages: a small BAR is covered by its page.
            !bar.is_port && bar.first <= first && last <= (bar.last | (abi::layout::PAGE_SIZE - 1))
        })?;
        Some((folder, bar))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_with_a_place_are_found() {
        let devices = tempfile::tempdir().unwrap();
        let function = devices.path().join("0000:00:10.0");
        fs::create_dir(&function).unwrap();
        let resource = "0x00000000feb00000 0x00000000febfffff 0x0000000000040200\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x000000000000c000 0x000000000000c01f 0x0000000000040101\n\
             0x0000000380000000 0x00000003800000ff 0x000000000014220c\n\
             garbage\n0x1 0x2\n\
             0x00000000000c0000 0x00000000000dffff 0x0000000000000200\n";
        fs::write(function.join("resource"), resource).unwrap();
        let bars = bars_of(&function);
        let kinds: Vec<_> = bars
            .iter()
            .map(|bar| (bar.number, bar.is_port, bar.is_prefetchable))
            .collect();
        assert_eq!(
            kinds,
            [(0, false, false), (2, true, false), (3, false, true)]
        );

        let at =
            |first, last| memory_bar_at(devices.path(), first, last).map(|(_, bar)| bar.number);
        assert_eq!(at(0xFEB0_1000, 0xFEB0_1FFF), Some(0));
        assert_eq!(at(0xFEBF_F000, 0xFEC0_0FFF), None);
        assert_eq!(at(0x3_8000_0000, 0x3_8000_0FFF), Some(3));
        assert_eq!(at(0xC000, 0xC01F), None, "ports are no memory");
        assert_eq!(bars_of(devices.path()), []);
    }
}
