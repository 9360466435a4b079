//! Copying to and from cached pages, and MDLs over them.

use super::{PAGE, Page, page, parts, resident, set_dirty, with};
use crate::ex::pool;
use crate::io::mdl;
use crate::nt::{MDL, NtStatus};
use crate::raw::{Ptr, from_word, low32};

/// Whether a copy would not have to wait for the file system.
pub(super) fn is_resident(key: u64, offset: u64, bytes: u64) -> bool {
    parts(offset, bytes).all(|(index, ..)| resident(key, index).is_some())
}

/// Whether a write would not have to wait.
pub(super) fn is_writable_now(key: u64, offset: u64, bytes: u64) -> bool {
    let valid = with(key, |cache| cache.sizes.ValidDataLength).unwrap_or(0);
    parts(offset, bytes).all(|(index, _, length)| {
        length == PAGE || index * PAGE >= valid || resident(key, index).is_some()
    })
}

pub(super) fn read(key: u64, offset: u64, bytes: u64, buffer: Ptr<u8>) -> Result<(), NtStatus> {
    let mut done = 0;
    for (index, inside, length) in parts(offset, bytes) {
        let source = page(key, index, false)?.add_bytes(inside);
        buffer.add_bytes(done).copy_from(source, length);
        done += length;
    }
    Ok(())
}

/// Writes from a buffer, or zeros.
pub(super) fn write(
    key: u64,
    offset: u64,
    bytes: u64,
    buffer: Option<Ptr<u8>>,
) -> Result<(), NtStatus> {
    let mut done = 0;
    for (index, inside, length) in parts(offset, bytes) {
        let target = page(key, index, length == PAGE)?.add_bytes(inside);
        match buffer {
            Some(buffer) => target.copy_from(buffer.add_bytes(done), length),
            None => target.fill(0, length),
        }
        set_dirty(key, index);
        done += length;
    }
    Ok(())
}

/// Changes the page at an address; its number.
fn change_page(key: u64, address: u64, change: impl FnOnce(&mut Page)) -> Option<u64> {
    with(key, |cache| {
        let mut pages = cache.pages.iter_mut();
        let (&index, page) = pages.find(|(_, page)| page.address.addr() == address)?;
        change(page);
        Some(index)
    })
    .flatten()
}

/// A chain of MDLs over a range, one for each page.
pub(super) fn map(key: u64, offset: u64, bytes: u64, is_write: bool) -> Result<Ptr<MDL>, NtStatus> {
    let mut first = Ptr::<MDL>::null();
    let mut last = first;
    for (index, inside, length) in parts(offset, bytes) {
        let made = page(key, index, is_write && length == PAGE).and_then(|address| {
            let list = mdl::allocate(address.addr() + inside, low32(length), pool::SHIM);
            if list.is_null() || !mdl::lock(list) {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            change_page(key, address.addr(), |page| page.pins += 1);
            Ok(list)
        });
        match made {
            Err(status) => {
                unmap(key, first, false);
                return Err(status);
            }
            Ok(list) if first.is_null() => first = list,
            Ok(list) => last.with(|last| last.Next = list),
        }
        last = if last.is_null() {
            first
        } else {
            last.read().Next
        };
    }
    Ok(first)
}

/// Frees such a chain; what was written is dirty.
pub(super) fn unmap(key: u64, chain: Ptr<MDL>, is_written: bool) {
    let mut next = chain;
    while !next.is_null() {
        let list = next;
        let MDL { Next, StartVa, .. } = list.read();
        let index = change_page(key, from_word(StartVa), |page| {
            page.pins = page.pins.saturating_sub(1);
        });
        if let Some(index) = index.filter(|_| is_written) {
            set_dirty(key, index);
        }
        mdl::free(list);
        next = Next;
    }
}
