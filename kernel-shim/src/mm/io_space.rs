//! Physical ranges mapped into the I/O window: what MmMapIoSpace and views of \Device\PhysicalMemory share.
//!
//! The VMM decides by policy which ranges there are and puts the pages in; the guest takes them out again. The table
//! here knows what is mapped where. Views in processes and MDLs mapped for user mode lie in user space
//! ([`super::address_space`]), all others in the I/O window, as do pages of RAM that have a second address in system space
//! ([`super::window`]).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::nt::NtStatus;
use crate::raw::{Global, low32};
use crate::shared;
use abi::doorbell::Call;
use abi::layout::entries::TABLE_BYTES;
use abi::layout::{IO_WINDOW, IO_WINDOW_SIZE, PAGE_SIZE};

/// Physical addresses end here (52 bits, the most that x86-64 has).
const PHYSICAL_END: u64 = 1 << 52;

/// Who asked for a mapping, and so who may take it away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// MmMapIoSpace.
    IoSpace,
    /// In user space: its range in [`super::address_space`] goes with it.
    User,
    /// Pages of RAM, or address space that was set aside for them.
    Memory,
}

/// A mapped physical range: whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Guest-virtual address of the first page.
    pub address: u64,
    /// Physical address of the first page, as the driver knows it.
    pub physical: u64,
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
    /// Who asked.
    pub kind: Kind,
    /// Return address of the call that mapped it.
    pub caller: u64,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.address + self.bytes
    }
}

static MAPPINGS: Global<BTreeMap<u64, Mapping>> =
    Global::new("I/O space mappings", BTreeMap::new());

/// Forgets everything.
pub(crate) fn initialize() {
    MAPPINGS.with(BTreeMap::clear);
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Physical address; any alignment.
    pub physical: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether stores are allowed.
    pub is_writable: bool,
    /// MEMORY_CACHING_TYPE.
    pub caching: u32,
    /// Who asks.
    pub kind: Kind,
}

/// The pages that a range touches: address of the first, and bytes; `None` for an empty or impossible range.
fn pages(physical: u64, bytes: u64) -> Option<(u64, u64)> {
    let end = physical
        .checked_add(bytes)?
        .checked_next_multiple_of(PAGE_SIZE)?;
    let first = physical - physical % PAGE_SIZE;
    (bytes != 0 && end <= PHYSICAL_END).then(|| (first, end - first))
}

/// The first free place for `bytes` in a window, with an absent page behind every mapping: running over the end of
/// one faults instead of reaching the next.
fn place(mappings: &BTreeMap<u64, Mapping>, window: u64, bytes: u64) -> Option<u64> {
    let end = window + IO_WINDOW_SIZE;
    let mut candidate = window;
    for mapping in mappings.range(window..end).map(|(_, mapping)| mapping) {
        if candidate.checked_add(bytes)?.checked_add(PAGE_SIZE)? <= mapping.address {
            break;
        }
        candidate = mapping.end() + PAGE_SIZE;
    }
    (candidate.checked_add(bytes)?.checked_add(PAGE_SIZE)? <= end).then_some(candidate)
}

/// Maps a physical range; the result is the address of its first byte (not: page).
///
/// # Errors
/// INVALID_PARAMETER: an empty range, or one beyond 52 bits. INSUFFICIENT_RESOURCES: the I/O window is full. What the
/// VMM says otherwise: ACCESS_DENIED for a range that the policy does not have.
pub fn map(wanted: &Wanted) -> Result<u64, NtStatus> {
    let (_, bytes) = pages(wanted.physical, wanted.bytes).ok_or(NtStatus::INVALID_PARAMETER)?;
    let window = shared::kernel_base() + IO_WINDOW;
    let address = MAPPINGS
        .with(|mappings| place(mappings, window, bytes))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    map_at(wanted, address)
}

/// As [`map`], at the page `address`.
///
/// # Errors
/// As there.
pub(super) fn map_at(wanted: &Wanted, address: u64) -> Result<u64, NtStatus> {
    let (physical, bytes) =
        pages(wanted.physical, wanted.bytes).ok_or(NtStatus::INVALID_PARAMETER)?;
    let is_writable = u64::from(wanted.is_writable);
    let arguments = [
        physical,
        bytes,
        address,
        is_writable,
        u64::from(wanted.caching),
        0,
    ];
    let [status, ..] = shared::platform().doorbell(Call::MapPhysical, arguments);
    let status = NtStatus(low32(status));
    if !status.is_success() {
        return Err(status);
    }
    let mapping = Mapping {
        address,
        physical,
        bytes,
        kind: wanted.kind,
        caller: shared::caller(),
    };
    MAPPINGS.with(|mappings| mappings.insert(address, mapping));
    Ok(address + wanted.physical % PAGE_SIZE)
}

/// Takes address space in the I/O window for pages of RAM: `None` when there is none left.
pub(super) fn reserve(bytes: u64) -> Option<u64> {
    let window = shared::kernel_base() + IO_WINDOW;
    let address = MAPPINGS.with(|mappings| {
        let address = place(mappings, window, bytes)?;
        let mapping = Mapping {
            address,
            physical: 0,
            bytes,
            kind: Kind::Memory,
            caller: shared::caller(),
        };
        mappings.insert(address, mapping);
        Some(address)
    })?;
    if super::window::prepare(address, bytes).is_err() {
        MAPPINGS.with(|mappings| mappings.remove(&address));
        return None;
    }
    Some(address)
}

/// Gives such address space back; what is mapped there goes.
pub(super) fn give_back(address: u64) {
    if let Some(mapping) = MAPPINGS.with(|mappings| mappings.remove(&address)) {
        super::window::unmap(address, mapping.bytes / PAGE_SIZE);
    }
}

/// The mapping that an address lies in.
#[must_use]
pub fn mapping_at(address: u64) -> Option<Mapping> {
    MAPPINGS.with(|mappings| {
        let (_, mapping) = mappings.range(..=address).next_back()?;
        (address < mapping.end()).then_some(*mapping)
    })
}

/// Takes a mapping's pages out and forgets it.
pub(crate) fn unmap(mapping: &Mapping) {
    let Mapping { address, bytes, .. } = *mapping;
    MAPPINGS.with(|mappings| mappings.remove(&address));
    let platform = shared::platform();
    // A table is one run of entries, and neighbouring tables of the I/O window are; those of user space need not be.
    let mut done = 0;
    while done < bytes {
        let at = address + done;
        let part = (TABLE_BYTES - (at - shared_base(at)) % TABLE_BYTES).min(bytes - done);
        if let Some(entry) = super::window::entry_of(at) {
            platform.unmap_pages(entry, at, part / PAGE_SIZE);
        }
        done += part;
    }
    platform.doorbell(Call::UnmapPhysical, [address, bytes, 0, 0, 0, 0]);
}

/// What tables are counted from.
fn shared_base(address: u64) -> u64 {
    let base = shared::kernel_base();
    if address >= base { base } else { 0 }
}

/// The physical address, as the driver that mapped it knows it, behind an address in the I/O window.
#[must_use]
pub fn physical_address_of(address: u64) -> Option<u64> {
    mapping_at(address)
        .filter(|mapping| mapping.kind != Kind::Memory)
        .map(|mapping| mapping.physical + (address - mapping.address))
}

/// Every mapping, for the report of what a driver left behind.
#[must_use]
pub fn mappings() -> Vec<Mapping> {
    MAPPINGS.with(|mappings| mappings.values().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u64 = 0xF000_0000;

    fn taken(ranges: &[(u64, u64)]) -> BTreeMap<u64, Mapping> {
        let mapping = |&(address, bytes)| {
            let mapping = Mapping {
                address,
                physical: 0,
                bytes,
                kind: Kind::User,
                caller: 0,
            };
            (address, mapping)
        };
        ranges.iter().map(mapping).collect()
    }

    #[test]
    fn ranges_grow_to_whole_pages() {
        assert_eq!(pages(0xA_0010, 1), Some((0xA_0000, 0x1000)));
        assert_eq!(pages(0xA_0FFF, 2), Some((0xA_0000, 0x2000)));
        assert_eq!(pages(0, 0), None);
        assert_eq!(pages(u64::MAX, 2), None);
        assert_eq!(pages(u64::MAX - 1, 1), None);
        assert_eq!(
            pages(PHYSICAL_END - 1, 1),
            Some((PHYSICAL_END - PAGE_SIZE, PAGE_SIZE))
        );
        assert_eq!(pages(PHYSICAL_END, 1), None);
    }

    #[test]
    fn gaps_are_used_and_the_window_ends() {
        assert_eq!(place(&taken(&[]), WINDOW, PAGE_SIZE), Some(WINDOW));
        let two = taken(&[(WINDOW, 0x1000), (WINDOW + 0x5000, 0x1000)]);
        assert_eq!(place(&two, WINDOW, 0x2000), Some(WINDOW + 0x2000));
        assert_eq!(place(&two, WINDOW, 0x3000), Some(WINDOW + 0x7000));
        assert_eq!(place(&two, WINDOW, IO_WINDOW_SIZE), None);
        assert_eq!(place(&two, WINDOW, u64::MAX - 1), None);
    }

    proptest! {
        #[test]
        fn mappings_never_touch(sizes in prop::collection::vec(1_u64..40, 1..40), free in 0_usize..40) {
            let mut mappings = BTreeMap::new();
            for (number, size) in sizes.iter().enumerate() {
                if number == free {
                    let first = mappings.keys().next().copied();
                    first.and_then(|first| mappings.remove(&first));
                }
                if let Some(address) = place(&mappings, WINDOW, size * PAGE_SIZE) {
                    mappings.extend(taken(&[(address, size * PAGE_SIZE)]));
                }
            }
            let all: Vec<_> = mappings.values().collect();
            for pair in all.windows(2) {
                prop_assert!(pair[0].end() + PAGE_SIZE <= pair[1].address);
            }
            prop_assert!(all.iter().all(|mapping| mapping.end() < WINDOW + IO_WINDOW_SIZE));
        }
    }
}
