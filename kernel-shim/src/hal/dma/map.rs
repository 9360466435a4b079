//! From an MDL's pages to addresses that a device can use.

use alloc::vec::Vec;

use super::{Adapter, Copied, Grant, Mapping, Pages, buffer_of, number, violation};
use crate::mm::{self, pages_spanned};
use crate::nt::MDL;
use crate::raw::{Ptr, Word, from_word, low32};
use abi::layout::PAGE_SIZE;

/// Bytes at consecutive physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) physical: u64,
    pub(super) bytes: u64,
}

/// The physical pieces of a chain of MDLs' buffers, `bytes` from `buffer` on, which lies in the first one. Neighbours
/// that are contiguous are one piece. `None`: the buffers end before.
pub(super) fn pieces(mdl: Ptr<MDL>, buffer: u64, bytes: u64) -> Option<Vec<Piece>> {
    let mut all: Vec<Piece> = Vec::new();
    let (mut mdl, mut rest) = (mdl, bytes);
    let mut offset = buffer.checked_sub(buffer_of(&mdl.read()))?;
    while rest > 0 {
        let header = mdl.non_null()?.read();
        let count = u64::from(header.ByteCount);
        if offset > count {
            return None;
        }
        while rest > 0 && offset < count {
            let at = u64::from(header.ByteOffset) + offset;
            let frame = mdl
                .offset(1)
                .cast::<Word>()
                .add_bytes(at / PAGE_SIZE * size_of::<Word>() as u64);
            let physical = from_word(frame.read()) * PAGE_SIZE + at % PAGE_SIZE;
            let taken = (PAGE_SIZE - at % PAGE_SIZE).min(count - offset).min(rest);
            match all.last_mut() {
                Some(last) if last.physical + last.bytes == physical => last.bytes += taken,
                _ => all.push(Piece {
                    physical,
                    bytes: taken,
                }),
            }
            offset += taken;
            rest -= taken;
        }
        (mdl, offset) = (header.Next, 0);
    }
    Some(all)
}

/// Copies between memory and the pages of map registers, at most `most` bytes.
pub(super) fn copy(copies: &[Copied], to_registers: bool, most: u64) {
    let mut rest = most;
    for part in copies {
        let bytes = part.bytes.min(rest);
        rest -= bytes;
        let mut done = 0;
        while done < bytes {
            let physical = part.physical + done;
            // Neighbouring pages may be mapped apart.
            let now = (PAGE_SIZE - physical % PAGE_SIZE).min(bytes - done);
            let Some(memory) = mm::virtual_for_physical(physical) else {
                violation(
                    number::BAD_BUFFER,
                    [physical, now, 0],
                    format_args!("{physical:#x} is not the guest's memory: it cannot be copied"),
                );
            };
            let (memory, register) = (Ptr::<u8>::new(memory), Ptr::new(part.at + done));
            if to_registers {
                register.copy_from(memory, now);
            } else {
                memory.copy_from(register, now);
            }
            done += now;
        }
    }
}

/// Registers that this many bytes from a physical address on take: they keep their offset in the page.
fn registers_for(physical: u64, bytes: u64) -> u64 {
    pages_spanned(physical % PAGE_SIZE, bytes)
}

impl Adapter {
    /// How many of a piece's first bytes the device can address.
    fn reach(&self, piece: &Piece) -> u64 {
        if piece.physical > self.limit {
            return 0;
        }
        (self.limit - piece.physical)
            .saturating_add(1)
            .min(piece.bytes)
    }

    /// Whether the device can use the pieces as they are.
    fn is_direct(&self, pieces: &[Piece]) -> bool {
        let is_reached = pieces.iter().all(|piece| self.reach(piece) == piece.bytes);
        is_reached && (self.is_scatter || pieces.len() <= 1)
    }

    /// Map registers for a transfer as a whole, and whether there have to be pages behind them.
    pub(super) fn wanted(&self, pieces: &[Piece]) -> (u32, bool) {
        let first = pieces.first().map_or(0, |piece| piece.physical);
        let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        let is_direct = self.is_direct(pieces);
        let count = if is_direct || !self.is_scatter {
            registers_for(first, total)
        } else {
            let far = pieces.iter().map(|piece| {
                let near = self.reach(piece);
                match piece.bytes - near {
                    0 => 0,
                    rest => registers_for(piece.physical + near, rest),
                }
            });
            far.sum()
        };
        (low32(count), !is_direct)
    }

    /// Maps the first of some pieces, or all if the device does not scatter: an address for the device, and what has to
    /// be copied. `None`: the map registers are used up.
    pub(super) fn place(
        &self,
        grant: &mut Grant,
        pieces: &[Piece],
    ) -> Option<(Piece, Vec<Copied>)> {
        let first = *pieces.first()?;
        let near = self.reach(&first);
        if self.is_scatter && near > 0 {
            return Some((
                Piece {
                    bytes: near,
                    ..first
                },
                Vec::new(),
            ));
        }
        if self.is_direct(pieces) {
            return Some((first, Vec::new()));
        }
        let pages = self.pages.as_ref()?;
        if self.is_scatter {
            through(pages, grant, &[first])
        } else {
            through(pages, grant, pieces)
        }
    }
}

/// Puts pieces into the next map registers, one behind the other, as far as these suffice.
fn through(pages: &Pages, grant: &mut Grant, pieces: &[Piece]) -> Option<(Piece, Vec<Copied>)> {
    let start = pieces.first()?.physical % PAGE_SIZE;
    let free = u64::from(grant.count.checked_sub(grant.next)?);
    let room = (free * PAGE_SIZE)
        .checked_sub(start)
        .filter(|&room| room > 0)?;
    let offset = u64::from(grant.first? + grant.next) * PAGE_SIZE + start;
    let mut copies = Vec::new();
    let mut done = 0;
    for piece in pieces {
        let bytes = piece.bytes.min(room - done);
        if bytes > 0 {
            copies.push(Copied {
                physical: piece.physical,
                at: pages.address + offset + done,
                bytes,
            });
        }
        done += bytes;
    }
    grant.next += low32(pages_spanned(start, done));
    let placed = Piece {
        physical: pages.physical + offset,
        bytes: done,
    };
    Some((placed, copies))
}

impl Grant {
    /// Takes out what is mapped of a buffer's range. Once nothing is mapped, all registers are free again.
    pub(super) fn unmap(&mut self, mdl: Ptr<MDL>, buffer: u64, bytes: u64) -> Vec<Mapping> {
        let end = buffer.saturating_add(bytes);
        let is_inside = |mapping: &mut Mapping| {
            mapping.mdl == mdl && mapping.buffer >= buffer && mapping.buffer < end
        };
        let taken = self.mappings.extract_if(.., is_inside).collect();
        if self.mappings.is_empty() {
            self.next = 0;
        }
        taken
    }
}
