//! MapTransfer and FlushAdapterBuffers.

use alloc::vec::Vec;

use super::map::{copy, pieces};
use super::{Adapter, Grant, Mapping, complain, number, violation, with};
use crate::nt::{DMA_ADAPTER, MDL};
use crate::raw::Ptr;

/// A part of an MDL's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) mdl: Ptr<MDL>,
    pub(super) buffer: u64,
    pub(super) bytes: u64,
}

/// Stops the guest: the part is not inside its MDL.
fn misfit(part: &Part) -> ! {
    let Part { mdl, buffer, bytes } = *part;
    violation(
        number::BAD_BUFFER,
        [mdl.addr(), buffer, bytes],
        format_args!("{bytes} bytes at {buffer:#x} are not inside of the buffer of {mdl:?}"),
    )
}

impl Adapter {
    /// Does something with the registers that a MapRegisterBase names. One that was allocated without any is NULL, and
    /// so is that of whoever has the channel.
    fn with_grant<R>(&mut self, base: u64, work: impl FnOnce(&Self, &mut Grant) -> R) -> Option<R> {
        let token = if base == 0 { self.channel? } else { base };
        let mut grant = core::mem::take(self.grants.get_mut(&token)?);
        let result = work(self, &mut grant);
        self.grants.insert(token, grant);
        Some(result)
    }
}

/// Makes a part of a buffer ready for the device, as much of it as is contiguous for it: address and bytes.
pub(super) fn map(adapter: Ptr<DMA_ADAPTER>, base: u64, part: &Part, is_write: bool) -> (u64, u64) {
    if part.bytes == 0 {
        misfit(part);
    }
    // A transfer ends with its MDL; only scatter/gather lists go on with the next one.
    let header = part.mdl.read();
    let end = super::buffer_of(&header) + u64::from(header.ByteCount);
    let is_inside = part
        .buffer
        .checked_add(part.bytes)
        .is_some_and(|last| last <= end);
    let Some(pieces) = pieces(part.mdl, part.buffer, part.bytes).filter(|_| is_inside) else {
        misfit(part);
    };
    let placed = with(adapter, |adapter| {
        adapter.with_grant(base, |adapter, grant| {
            let (placed, copies) = adapter.place(grant, &pieces)?;
            grant.mappings.push(Mapping {
                mdl: part.mdl,
                buffer: part.buffer,
                bytes: placed.bytes,
                copies: copies.clone(),
            });
            Some((placed, copies))
        })
    });
    let Some(Some((placed, copies))) = placed else {
        violation(
            number::TOO_MANY_REGISTERS,
            [adapter.addr(), base, part.bytes],
            format_args!(
                "{} bytes were to be mapped without map registers for them",
                part.bytes
            ),
        );
    };
    if is_write {
        copy(&copies, true, u64::MAX);
    }
    (placed.physical, placed.bytes)
}

/// Copies what the device has written to where it belongs, and frees the map registers for further transfers.
pub(super) fn flush(adapter: Ptr<DMA_ADAPTER>, base: u64, part: &Part, is_write: bool) {
    let unmapped: Option<Vec<Mapping>> = with(adapter, |adapter| {
        adapter.with_grant(base, |_, grant| {
            grant.unmap(part.mdl, part.buffer, part.bytes)
        })
    });
    let Some(unmapped) = unmapped.filter(|mappings| !mappings.is_empty()) else {
        return complain(
            number::NOT_MAPPED,
            adapter,
            format_args!(
                "a buffer was flushed that is not mapped: {:#x}",
                part.buffer
            ),
        );
    };
    if is_write {
        return;
    }
    for mapping in unmapped {
        // Not more than the transfer was long.
        let most = part.buffer.saturating_add(part.bytes) - mapping.buffer;
        copy(&mapping.copies, false, most.min(mapping.bytes));
    }
}
