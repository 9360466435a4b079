//! Hardware resources of a device, and CM_RESOURCE_LISTs made of them.

use alloc::vec::Vec;

use crate::ex::pool;
use crate::nt::{NtStatus, PNP_BUS};
use crate::raw::{Global, Ptr, low16, low32};

/// One resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Ports: first, count.
    Port(u16, u32),
    /// Memory: first physical address, bytes.
    Memory(u64, u32),
    /// Interrupt: level, vector, latched, affinity.
    Interrupt(u32, u32, bool, u64),
}

static ASSIGNED: Global<Vec<Resource>> = Global::new("assigned resources", Vec::new());

/// Most resources of a device.
pub const RESOURCES_MAX: usize = 64;

pub(super) fn initialize() {
    ASSIGNED.with(Vec::clear);
}

/// Adds to what the next PnP driver's device gets: kind (1 port, 2 interrupt, 3 memory as CmResourceTypeXxx), first or
/// level, count or vector, latched, affinity.
///
/// # Errors
/// INVALID_PARAMETER: no such kind, an empty or overlong range. INSUFFICIENT_RESOURCES: too many.
pub(crate) fn assign(words: [u64; 5]) -> Result<u64, NtStatus> {
    let [kind, first, count, latched, affinity] = words;
    let narrow = |word: u64| u32::try_from(word).map_err(|_| NtStatus::INVALID_PARAMETER);
    let is_range =
        |limit: u64| count > 0 && first.checked_add(count).is_some_and(|end| end <= limit);
    let resource = match kind {
        1 if is_range(0x1_0000) => Resource::Port(low16(first), narrow(count)?),
        2 => Resource::Interrupt(narrow(first)?, narrow(count)?, latched != 0, affinity),
        3 if is_range(1 << 52) => Resource::Memory(first, narrow(count)?),
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    ASSIGNED.with(|assigned| {
        if assigned.len() >= RESOURCES_MAX {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        assigned.push(resource);
        Ok(assigned.len() as u64)
    })
}

/// What the next PnP driver's device gets.
pub(crate) fn assigned() -> Vec<Resource> {
    ASSIGNED.with(|assigned| assigned.clone())
}

/// Bytes of a CM_PARTIAL_RESOURCE_DESCRIPTOR.
const DESCRIPTOR_BYTES: usize = if cfg!(nt_i386) { 16 } else { 20 };
/// Bytes of a CM_RESOURCE_LIST before its descriptors.
#[cfg(test)]
const HEADER_BYTES: usize = 20;

/// A CM_RESOURCE_LIST's bytes. The translated one names IRQLs and system vectors, which here are the bus's own.
#[must_use]
pub(crate) fn encode(resources: &[Resource]) -> Vec<u8> {
    let mut list = Vec::new();
    let words: [u32; 3] = [1, PNP_BUS, 0];
    list.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    list.extend(1_u16.to_le_bytes());
    list.extend(1_u16.to_le_bytes());
    list.extend(low32(resources.len() as u64).to_le_bytes());
    for resource in resources {
        let end = list.len() + DESCRIPTOR_BYTES;
        // Type, ShareDisposition, Flags.
        let (head, body): ([u8; 4], Vec<u8>) = match *resource {
            Resource::Port(first, count) => {
                // CmResourceShareDeviceExclusive, CM_RESOURCE_PORT_IO.
                let start = u64::from(first).to_le_bytes();
                ([1, 1, 1, 0], [&start[..], &count.to_le_bytes()].concat())
            }
            Resource::Memory(first, bytes) => (
                [3, 1, 0, 0],
                [&first.to_le_bytes()[..], &bytes.to_le_bytes()].concat(),
            ),
            Resource::Interrupt(level, vector, is_latched, affinity) => (
                [2, 1, u8::from(is_latched), 0],
                [
                    &level.to_le_bytes()[..],
                    &vector.to_le_bytes(),
                    &affinity.to_le_bytes()[..size_of::<crate::raw::Word>()],
                ]
                .concat(),
            ),
        };
        list.extend(head);
        list.extend(body);
        list.resize(end, 0);
    }
    list
}

/// The raw and the translated list in pool memory; 0 for a device without resources.
pub(super) fn lists(resources: &[Resource]) -> Result<(u64, u64), NtStatus> {
    if resources.is_empty() {
        return Ok((0, 0));
    }
    let bytes = encode(resources);
    let copy = || pool::allocate_copy(&bytes, *b"PpRl").ok_or(NtStatus::INSUFFICIENT_RESOURCES);
    Ok((copy()?.addr(), copy()?.addr()))
}

/// Frees a block of pool memory that came with an IRP; 0 is none.
pub(crate) fn free(address: u64) {
    if let Some(block) = Ptr::<u8>::new(address).non_null() {
        pool::free(block, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    #[test]
    fn lists_have_the_layout_of_the_abi() {
        let list = encode(&[
            Resource::Port(0x378, 8),
            Resource::Interrupt(7, 0x37, true, 1),
        ]);
        assert_eq!(list.len(), HEADER_BYTES + 2 * DESCRIPTOR_BYTES);
        assert_eq!(list[..4], [1, 0, 0, 0]);
        assert_eq!(list[16..24], [2, 0, 0, 0, 1, 1, 1, 0]);
        assert_eq!(list[24..26], [0x78, 3]);
        assert_eq!(list[32], 8);
        let second = &list[HEADER_BYTES + DESCRIPTOR_BYTES..];
        assert_eq!(second[..5], [2, 1, 1, 0, 7]);
        assert_eq!(second[8], 0x37);
        assert_eq!(second[12], 1);
    }

    #[test]
    fn bad_resources_are_refused() {
        let _machine = machine();
        assert_eq!(assign([1, 0x378, 8, 0, 0]), Ok(1));
        assert_eq!(assign([3, 0xFEC0_0000, 0x1000, 0, 0]), Ok(2));
        for bad in [
            [0, 0, 1, 0, 0],
            [1, 0xFFFF, 2, 0, 0],
            [1, 0, 0, 0, 0],
            [1, u64::MAX, 1, 0, 0],
            [2, 1 << 32, 0, 0, 0],
            [3, 1 << 52, 1, 0, 0],
            [3, 0, 1 << 33, 0, 0],
        ] {
            assert_eq!(assign(bad), Err(NtStatus::INVALID_PARAMETER), "{bad:x?}");
        }
        for _ in 2..RESOURCES_MAX {
            assign([1, 0, 1, 0, 0]).unwrap();
        }
        assert_eq!(
            assign([1, 0, 1, 0, 0]),
            Err(NtStatus::INSUFFICIENT_RESOURCES)
        );
    }
}
