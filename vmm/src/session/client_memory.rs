//! The clients' part of guest memory: buffers for requests.

use std::collections::BTreeMap;

use abi::layout::{PAGE_SIZE, USER};

/// Larger buffers are page-aligned, as a process's own allocations of that size would be.
const ALIGNMENT: u64 = PAGE_SIZE;
/// The smallest buffer. Buffers of up to half a page share pages, with others of the same process and size alone: a driver
/// that writes behind a buffer reaches nothing of another client.
const CHUNK_MIN: u64 = 64;

/// A page that is divided into chunks.
#[derive(Debug)]
struct Slab {
    address: u64,
    /// A bit for each chunk that is in use.
    used: u64,
}

/// First-fit allocator over client memory. Its bookkeeping is on the host, out of the guest's reach.
#[derive(Debug)]
pub(super) struct ClientMemory {
    /// Free extents: first address to length in bytes.
    free: BTreeMap<u64, u64>,
    /// By process and bytes of a chunk.
    slabs: BTreeMap<(u32, u64), Vec<Slab>>,
}

impl ClientMemory {
    /// All of it free.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            free: BTreeMap::from([(USER, bytes)]),
            slabs: BTreeMap::new(),
        }
    }

    /// Takes `bytes` for a process; `None` when no extent is large enough.
    pub(super) fn allocate(&mut self, process: u32, bytes: u64) -> Option<u64> {
        let Some(chunk) = Self::chunk(bytes) else {
            return self.take_pages(bytes);
        };
        let count = PAGE_SIZE / chunk;
        let slabs = self.slabs.entry((process, chunk)).or_default();
        let free = |slab: &Slab| u64::from((!slab.used).trailing_zeros());
        // Most often there is room in the last one.
        let found = slabs.iter_mut().rev().find(|slab| free(slab) < count);
        if let Some(slab) = found {
            let index = free(slab);
            slab.used |= 1 << index;
            return Some(slab.address + index * chunk);
        }
        let address = self.take_pages(PAGE_SIZE)?;
        let slabs = self.slabs.entry((process, chunk)).or_default();
        slabs.push(Slab { address, used: 1 });
        Some(address)
    }

    /// Gives back what [`Self::allocate`] returned for `bytes`.
    pub(super) fn release(&mut self, process: u32, address: u64, bytes: u64) {
        let Some(chunk) = Self::chunk(bytes) else {
            self.release_pages(address, bytes);
            return;
        };
        let page = address / PAGE_SIZE * PAGE_SIZE;
        let Some(slabs) = self.slabs.get_mut(&(process, chunk)) else {
            return;
        };
        let Some(position) = slabs.iter().position(|slab| slab.address == page) else {
            return;
        };
        let Some(slab) = slabs.get_mut(position) else {
            return;
        };
        slab.used &= !(1 << ((address - page) / chunk));
        if slab.used == 0 {
            slabs.swap_remove(position);
            if slabs.is_empty() {
                self.slabs.remove(&(process, chunk));
            }
            self.release_pages(page, PAGE_SIZE);
        }
    }

    /// Bytes of the chunk that holds so many; `None`: they get pages of their own.
    fn chunk(bytes: u64) -> Option<u64> {
        let chunk = bytes.max(CHUNK_MIN).checked_next_power_of_two()?;
        (chunk <= PAGE_SIZE / 2).then_some(chunk)
    }

    fn take_pages(&mut self, bytes: u64) -> Option<u64> {
        let rounded = Self::rounded(bytes)?;
        let (&address, &length) = self.free.iter().find(|&(_, &length)| length >= rounded)?;
        self.free.remove(&address);
        if length > rounded {
            self.free.insert(address + rounded, length - rounded);
        }
        Some(address)
    }

    fn release_pages(&mut self, address: u64, bytes: u64) {
        let Some(mut length) = Self::rounded(bytes) else {
            return;
        };
        let mut start = address;
        if let Some(following) = self.free.remove(&(address + length)) {
            length += following;
        }
        if let Some((&before, &before_length)) = self.free.range(..address).next_back()
            && before + before_length == address
        {
            self.free.remove(&before);
            start = before;
            length += before_length;
        }
        self.free.insert(start, length);
    }

    fn rounded(bytes: u64) -> Option<u64> {
        bytes.max(1).checked_next_multiple_of(ALIGNMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let mut memory = ClientMemory::new(4 * PAGE_SIZE);
        let first = memory.allocate(8, 1).unwrap();
        let second = memory.allocate(8, PAGE_SIZE + 1).unwrap();
        assert_eq!((first, second), (USER, USER + PAGE_SIZE));
        assert_eq!(memory.allocate(8, 2 * PAGE_SIZE), None);
        memory.release(8, first, 1);
        memory.release(8, second, PAGE_SIZE + 1);
        assert_eq!(memory.allocate(8, 4 * PAGE_SIZE), Some(USER));
    }

    #[test]
    fn small_buffers_of_a_process_share_pages_and_of_two_do_not() {
        let mut memory = ClientMemory::new(3 * PAGE_SIZE);
        let mut all: Vec<u64> = (0..64).map(|_| memory.allocate(8, 64).unwrap()).collect();
        let other = memory.allocate(16, 64).unwrap();
        assert_eq!(other, USER + PAGE_SIZE);
        let larger = memory.allocate(8, 2048).unwrap();
        assert_eq!(larger, USER + 2 * PAGE_SIZE);
        assert_eq!(memory.allocate(8, 64), None);
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] + 64 == pair[1]));
        memory.release(8, all[7], 64);
        assert_eq!(memory.allocate(8, 1), Some(all[7]));
        for address in all {
            memory.release(8, address, 64);
        }
        memory.release(16, other, 64);
        memory.release(8, larger, 2048);
        assert_eq!(memory.allocate(8, 3 * PAGE_SIZE), Some(USER));
    }

    #[test]
    fn absurd_length_is_refused() {
        assert_eq!(ClientMemory::new(PAGE_SIZE).allocate(8, u64::MAX), None);
    }
}
