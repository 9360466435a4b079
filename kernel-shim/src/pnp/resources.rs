//! Hardware resources of a device, and CM_RESOURCE_LISTs made of them.

use alloc::vec::Vec;

use crate::ex::pool;
use crate::io::interrupt;
use crate::nt::{NtStatus, PNP_BUS};
use crate::raw::{Global, Ptr, low8, low16, low32};

/// CmResourceTypePort.
const PORT: u8 = 1;
/// CmResourceTypeInterrupt.
const INTERRUPT: u8 = 2;
/// CmResourceTypeMemory.
const MEMORY: u8 = 3;
/// CmResourceTypeDma.
const DMA: u8 = 4;
/// Channels of the two DMA controllers of a PC.
const DMA_CHANNELS: u64 = 8;
/// CmResourceShareShared, the highest CM_SHARE_DISPOSITION.
const SHARE_MAX: u64 = 3;

/// One resource, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resource {
    /// CmResourceTypeXxx.
    kind: u8,
    /// First port, first physical address, interrupt line, or DMA channel.
    first: u64,
    /// Ports, bytes, or DMA port.
    count: u32,
    /// CM_RESOURCE_ flags.
    flags: u16,
    /// CM_SHARE_DISPOSITION.
    share: u8,
    /// Processors of an interrupt.
    affinity: u64,
}

impl Resource {
    /// From the arguments of [`abi::channel::Operation::AddResource`].
    ///
    /// # Errors
    /// INVALID_PARAMETER: no such kind, line, channel, flags or disposition; an empty or overlong range.
    fn from_words(words: [u64; 6]) -> Result<Self, NtStatus> {
        let [kind, first, count, flags, affinity, share] = words;
        let is_range =
            |limit: u64| count > 0 && first.checked_add(count).is_some_and(|end| end <= limit);
        let kind = low8(kind.min(0xFF));
        let is_valid = match kind {
            PORT => is_range(0x1_0000),
            INTERRUPT => interrupt::vector_of(low32(first.min(0xFFFF_FFFF))).is_some(),
            MEMORY => is_range(1 << 52),
            DMA => first < DMA_CHANNELS,
            _ => false,
        };
        if !is_valid || flags > 0xFFFF || share > SHARE_MAX {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        Ok(Self {
            kind,
            first,
            count: u32::try_from(count).map_err(|_| NtStatus::INVALID_PARAMETER)?,
            flags: low16(flags),
            share: low8(share),
            affinity,
        })
    }

    /// An interrupt line.
    #[cfg(test)]
    pub(crate) fn of_line(line: u32, is_latched: bool) -> Self {
        let words = [INTERRUPT.into(), line.into(), 0, is_latched.into(), 1, 1];
        Self::from_words(words).unwrap()
    }

    /// Line of an interrupt, and whether it is latched.
    #[must_use]
    pub fn interrupt(&self) -> Option<(u32, bool)> {
        (self.kind == INTERRUPT).then(|| (low32(self.first), self.flags & 1 != 0))
    }

    /// As the arguments of [`abi::channel::Operation::AddResource`].
    pub(super) fn words(&self) -> [u64; 6] {
        let Self {
            kind,
            first,
            count,
            flags,
            share,
            affinity,
        } = *self;
        [
            kind.into(),
            first,
            count.into(),
            flags.into(),
            affinity,
            share.into(),
        ]
    }
}

static ASSIGNED: Global<Vec<Resource>> = Global::new("assigned resources", Vec::new());

/// Most resources of a device.
pub const RESOURCES_MAX: usize = 64;

pub(super) fn initialize() {
    ASSIGNED.with(Vec::clear);
}

/// Adds to what the next PnP driver's device gets; the arguments of [`abi::channel::Operation::AddResource`].
///
/// # Errors
/// INVALID_PARAMETER: it is no resource. INSUFFICIENT_RESOURCES: too many.
pub(crate) fn assign(words: [u64; 6]) -> Result<u64, NtStatus> {
    let resource = Resource::from_words(words)?;
    ASSIGNED.with(|assigned| {
        if assigned.len() >= RESOURCES_MAX {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        assigned.push(resource);
        Ok(assigned.len() as u64)
    })
}

/// What the next PnP driver's device gets; forgotten then.
pub(super) fn take_assigned() -> Vec<Resource> {
    ASSIGNED.with(core::mem::take)
}

/// Bytes of a CM_PARTIAL_RESOURCE_DESCRIPTOR.
const DESCRIPTOR_BYTES: usize = if cfg!(nt_i386) { 16 } else { 20 };
/// Bytes of a CM_RESOURCE_LIST before its descriptors.
#[cfg(test)]
const HEADER_BYTES: usize = 20;

/// A CM_RESOURCE_LIST's bytes. Raw: an interrupt has its line as level and vector. Translated: it has its IRQL and its
/// system vector, as HalGetInterruptVector gives them; ports and addresses are the bus's own.
#[must_use]
pub(crate) fn encode(resources: &[Resource], is_translated: bool) -> Vec<u8> {
    let mut list = Vec::new();
    let words: [u32; 3] = [1, PNP_BUS, 0];
    list.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    list.extend(1_u16.to_le_bytes());
    list.extend(1_u16.to_le_bytes());
    list.extend(low32(resources.len() as u64).to_le_bytes());
    for resource in resources {
        let end = list.len() + DESCRIPTOR_BYTES;
        list.extend([resource.kind, resource.share]);
        list.extend(resource.flags.to_le_bytes());
        let line = low32(resource.first);
        match resource.kind {
            INTERRUPT => {
                let (level, vector) = match interrupt::vector_of(line) {
                    Some((vector, level)) if is_translated => (u32::from(level), vector),
                    _ => (line, line),
                };
                list.extend(level.to_le_bytes());
                list.extend(vector.to_le_bytes());
                let affinity = resource.affinity.to_le_bytes();
                list.extend_from_slice(&affinity[..size_of::<crate::raw::Word>()]);
            }
            DMA => {
                list.extend(line.to_le_bytes());
                list.extend(resource.count.to_le_bytes());
            }
            _ => {
                list.extend(resource.first.to_le_bytes());
                list.extend(resource.count.to_le_bytes());
            }
        }
        list.resize(end, 0);
    }
    list
}

/// The raw and the translated list in pool memory; 0 for a device without resources.
pub(super) fn lists(resources: &[Resource]) -> Result<(u64, u64), NtStatus> {
    if resources.is_empty() {
        return Ok((0, 0));
    }
    let copy = |is_translated| {
        pool::allocate_copy(&encode(resources, is_translated), *b"PpRl")
            .ok_or(NtStatus::INSUFFICIENT_RESOURCES)
    };
    let raw = copy(false)?;
    match copy(true) {
        Ok(translated) => Ok((raw.addr(), translated.addr())),
        Err(status) => {
            pool::free(raw, 0);
            Err(status)
        }
    }
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
    use abi::interrupt::LINES;

    fn resource(words: [u64; 6]) -> Resource {
        Resource::from_words(words).unwrap()
    }

    #[test]
    fn lists_have_the_layout_of_the_abi() {
        let resources = [
            resource([1, 0x378, 8, 0x11, 0, 1]),
            resource([2, 7, 0, 1, 1, 3]),
            resource([4, 3, 0, 0, 0, 1]),
        ];
        let list = encode(&resources, false);
        assert_eq!(list.len(), HEADER_BYTES + 3 * DESCRIPTOR_BYTES);
        assert_eq!(list[..4], [1, 0, 0, 0]);
        assert_eq!(list[16..24], [3, 0, 0, 0, 1, 1, 0x11, 0]);
        assert_eq!(list[24..26], [0x78, 3]);
        assert_eq!(list[32], 8);
        let second = &list[HEADER_BYTES + DESCRIPTOR_BYTES..];
        assert_eq!(second[..5], [2, 3, 1, 0, 7]);
        assert_eq!(second[8], 7);
        assert_eq!(second[12], 1);
        let third = &list[HEADER_BYTES + 2 * DESCRIPTOR_BYTES..];
        assert_eq!(third[..5], [4, 1, 0, 0, 3]);
        let translated = encode(&resources, true);
        let second = &translated[HEADER_BYTES + DESCRIPTOR_BYTES..];
        let (vector, level) = interrupt::vector_of(7).unwrap();
        assert_eq!((second[4], second[8]), (level, low8(vector.into())));
        assert_eq!(
            translated[..HEADER_BYTES + DESCRIPTOR_BYTES],
            list[..HEADER_BYTES + DESCRIPTOR_BYTES]
        );
    }

    #[test]
    fn bad_resources_are_refused() {
        let _machine = machine();
        assert_eq!(assign([1, 0x378, 8, 0, 0, 1]), Ok(1));
        assert_eq!(assign([3, 0xFEC0_0000, 0x1000, 0, 0, 1]), Ok(2));
        for bad in [
            [0, 0, 1, 0, 0, 0],
            [257, 0, 1, 0, 0, 0],
            [1, 0xFFFF, 2, 0, 0, 0],
            [1, 0, 0, 0, 0, 0],
            [1, u64::MAX, 1, 0, 0, 0],
            [1, 0, 1, 0x1_0000, 0, 0],
            [1, 0, 1, 0, 0, 4],
            [2, LINES.into(), 0, 0, 0, 0],
            [2, 1 << 32, 0, 0, 0, 0],
            [3, 1 << 52, 1, 0, 0, 0],
            [3, 0, 1 << 33, 0, 0, 0],
            [4, 8, 0, 0, 0, 0],
        ] {
            assert_eq!(assign(bad), Err(NtStatus::INVALID_PARAMETER), "{bad:x?}");
        }
        for _ in 2..RESOURCES_MAX {
            assign([1, 0, 1, 0, 0, 0]).unwrap();
        }
        assert_eq!(
            assign([1, 0, 1, 0, 0, 0]),
            Err(NtStatus::INSUFFICIENT_RESOURCES)
        );
        assert_eq!(take_assigned().len(), RESOURCES_MAX);
        assert_eq!(take_assigned(), []);
    }
}
