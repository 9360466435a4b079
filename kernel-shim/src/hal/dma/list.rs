//! Scatter/gather lists.

use alloc::vec::Vec;

use super::channel::{self, Request};
use super::map::{Piece, copy, pieces};
use super::{Mapping, TAG, number, owner, violation, with};
use crate::ex::pool;
use crate::io::mdl;
use crate::nt::{
    DEVICE_OBJECT, DMA_ADAPTER, MDL, MDL_PAGES_LOCKED, NtStatus, SCATTER_GATHER_ELEMENT,
    SCATTER_GATHER_LIST,
};
use crate::raw::{Ptr, Word, low32, to_word};
use abi::layout::PAGE_SIZE;

type List = Ptr<SCATTER_GATHER_LIST>;

/// A list that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) mdl: Ptr<MDL>,
    pub(super) buffer: u64,
    pub(super) bytes: u64,
    pub(super) is_write: bool,
    /// Where it goes.
    pub(super) list: List,
    /// Whether that is the driver's memory.
    pub(super) is_drivers: bool,
}

/// A list that was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) list: u64,
    pub(super) is_drivers: bool,
    /// MDL of the map registers, or null.
    pub(super) target: Ptr<MDL>,
}

/// What a list asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Needs {
    /// Bytes of the list.
    pub(super) bytes: u64,
    pub(super) registers: u32,
    is_copied: bool,
}

fn list_bytes(elements: u64) -> u64 {
    size_of::<SCATTER_GATHER_LIST>() as u64 + elements * size_of::<SCATTER_GATHER_ELEMENT>() as u64
}

/// What a list of a buffer, or without an MDL of one at that offset in its page, needs at most.
///
/// # Errors
/// BUFFER_TOO_SMALL: the MDLs' buffers are shorter. INSUFFICIENT_RESOURCES: the adapter has not so many map registers.
pub(super) fn needs(
    adapter: Ptr<DMA_ADAPTER>,
    mdl: Ptr<MDL>,
    buffer: u64,
    bytes: u64,
) -> Result<Needs, NtStatus> {
    let pages = crate::mm::pages_spanned(buffer % PAGE_SIZE, bytes);
    let pieces = match mdl.non_null() {
        Some(mdl) => Some(pieces(mdl, buffer, bytes).ok_or(NtStatus::BUFFER_TOO_SMALL)?),
        None => None,
    };
    // A piece that crosses the device's limit becomes two.
    let elements = pieces
        .as_ref()
        .map_or(pages, |pieces| pages.max(pieces.len() as u64 + 1));
    with(adapter, |adapter| {
        let (registers, is_copied) =
            pieces.map_or_else(|| (low32(pages), false), |pieces| adapter.wanted(&pieces));
        if registers > adapter.registers_max {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        Ok(Needs {
            bytes: list_bytes(elements),
            registers,
            is_copied,
        })
    })
}

/// Asks for a list: `routine` gets it, at once or when there are map registers.
pub(super) fn request(
    adapter: Ptr<DMA_ADAPTER>,
    device: Ptr<DEVICE_OBJECT>,
    routine: [u64; 2],
    wanted: &Wanted,
    room: u64,
) -> NtStatus {
    let needs = match needs(adapter, wanted.mdl, wanted.buffer, wanted.bytes) {
        Ok(needs) => needs,
        Err(status) => return status,
    };
    let mut wanted = *wanted;
    if wanted.is_drivers {
        if room < needs.bytes {
            return NtStatus::BUFFER_TOO_SMALL;
        }
    } else {
        let memory = pool::allocate(needs.bytes, u32::from_le_bytes(TAG), owner());
        if memory.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        wanted.list = memory.cast();
    }
    let [routine, context] = routine;
    let irp = device
        .non_null()
        .map_or(0, |device| device.read().CurrentIrp.addr());
    let request = Request {
        device,
        irp,
        registers: needs.registers,
        is_copied: needs.is_copied,
        routine,
        context,
        list: Some(wanted),
    };
    channel::request(adapter, request)
}

/// Makes a list whose registers are granted; its address.
pub(super) fn make(adapter: Ptr<DMA_ADAPTER>, token: u64, wanted: &Wanted) -> u64 {
    let Wanted {
        mdl,
        buffer,
        bytes,
        list,
        ..
    } = *wanted;
    let Some(mut rest) = pieces(mdl, buffer, bytes) else {
        violation(
            number::BAD_BUFFER,
            [mdl.addr(), buffer, bytes],
            format_args!("{mdl:?} was changed while its scatter/gather list was made"),
        );
    };
    let (elements, copies) = with(adapter, |adapter| {
        let mut grant = adapter.grants.remove(&token).unwrap_or_default();
        let (mut elements, mut copies): (Vec<Piece>, Vec<_>) = (Vec::new(), Vec::new());
        while let Some((placed, mut copied)) = adapter.place(&mut grant, &rest) {
            elements.push(placed);
            copies.append(&mut copied);
            skip(&mut rest, placed.bytes);
        }
        grant.mappings.push(Mapping {
            mdl,
            buffer,
            bytes,
            copies: copies.clone(),
        });
        grant.list = Some(Made {
            list: list.addr(),
            is_drivers: wanted.is_drivers,
            target: Ptr::null(),
        });
        adapter.grants.insert(token, grant);
        (elements, copies)
    });
    if wanted.is_write {
        copy(&copies, true, u64::MAX);
    }
    list.write(SCATTER_GATHER_LIST {
        NumberOfElements: low32(elements.len() as u64),
        Reserved: to_word(token),
    });
    let mut at = list.offset(1).cast::<SCATTER_GATHER_ELEMENT>();
    for element in elements {
        at.write(SCATTER_GATHER_ELEMENT {
            Address: element.physical,
            Length: low32(element.bytes),
            Reserved: 0,
        });
        at = at.offset(1);
    }
    list.addr()
}

/// Drops the first bytes of some pieces.
fn skip(pieces: &mut Vec<Piece>, bytes: u64) {
    let mut rest = bytes;
    pieces.retain_mut(|piece| {
        let dropped = piece.bytes.min(rest);
        rest -= dropped;
        piece.physical += dropped;
        piece.bytes -= dropped;
        piece.bytes > 0
    });
}

/// The key of the grant that a list was made for.
fn token_of(adapter: Ptr<DMA_ADAPTER>, list: List) -> Option<(u64, Made)> {
    with(adapter, |adapter| {
        adapter.grants.iter().find_map(|(&token, grant)| {
            let made = grant.list.filter(|made| made.list == list.addr())?;
            Some((token, made))
        })
    })
}

/// Frees a list and its map registers, after copying what the device has written to where it belongs.
pub(super) fn put(adapter: Ptr<DMA_ADAPTER>, list: List, is_write: bool) {
    let Some((token, made)) = token_of(adapter, list) else {
        violation(
            number::LIST_FREED_TWICE,
            [adapter.addr(), list.addr(), 0],
            format_args!("{list:?} is no scatter/gather list of this adapter"),
        );
    };
    let mappings = with(adapter, |adapter| {
        let grant = adapter.grants.get_mut(&token);
        grant.map_or_else(Vec::new, |grant| core::mem::take(&mut grant.mappings))
    });
    if !is_write {
        for mapping in mappings {
            copy(&mapping.copies, false, u64::MAX);
        }
    }
    if !made.target.is_null() {
        mdl::free(made.target);
    }
    if !made.is_drivers {
        pool::free(list.cast(), u32::from_le_bytes(TAG));
    }
    with(adapter, |adapter| adapter.let_go(token));
    channel::serve(adapter);
}

/// An MDL for the pages that a list's elements lie in: the original one if nothing is copied.
pub(super) fn build_mdl(
    adapter: Ptr<DMA_ADAPTER>,
    list: List,
    original: Ptr<MDL>,
) -> Result<Ptr<MDL>, NtStatus> {
    let (token, made) = token_of(adapter, list).ok_or(NtStatus::INVALID_PARAMETER)?;
    let is_copied = with(adapter, |adapter| {
        let grant = adapter.grants.get(&token);
        grant.is_some_and(|grant| {
            grant
                .mappings
                .iter()
                .any(|mapping| !mapping.copies.is_empty())
        })
    });
    if !is_copied {
        return Ok(original);
    }
    if !made.target.is_null() {
        return Ok(made.target);
    }
    let count = i64::from(list.read().NumberOfElements);
    let elements = list.offset(1).cast::<SCATTER_GATHER_ELEMENT>();
    let elements: Vec<_> = (0..count)
        .map(|index| elements.offset(index).read())
        .collect();
    let start = elements
        .first()
        .map_or(0, |element| element.Address % PAGE_SIZE);
    let total: u64 = elements
        .iter()
        .map(|element| u64::from(element.Length))
        .sum();
    // An MDL's pages have no gaps: elements end and begin with a page.
    let has_gaps = elements
        .iter()
        .zip(elements.iter().skip(1))
        .any(|(one, next)| {
            let end = one.Address + u64::from(one.Length);
            end % PAGE_SIZE != 0 || next.Address % PAGE_SIZE != 0
        });
    if has_gaps {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let target = mdl::allocate(start, low32(total), pool::SHIM)
        .non_null()
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let mut frame = target.offset(1).cast::<Word>();
    for element in &elements {
        let first = element.Address / PAGE_SIZE;
        let last = (element.Address + u64::from(element.Length) - 1) / PAGE_SIZE;
        for page in first..=last {
            frame.write(to_word(page));
            frame = frame.offset(1);
        }
    }
    target.with(|mdl| mdl.MdlFlags |= MDL_PAGES_LOCKED);
    with(adapter, |adapter| {
        if let Some(made) = adapter
            .grants
            .get_mut(&token)
            .and_then(|grant| grant.list.as_mut())
        {
            made.target = target;
        }
    });
    Ok(target)
}
