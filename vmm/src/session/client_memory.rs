//! The clients' part of guest memory: buffers for requests.

use std::collections::BTreeMap;

use abi::layout::{PAGE_SIZE, USER};

/// Buffers are page-aligned, as a process's own allocations of that size would be.
const ALIGNMENT: u64 = PAGE_SIZE;

/// First-fit allocator over client memory. Its bookkeeping is on the host, out of the guest's reach.
#[derive(Debug)]
pub(super) struct ClientMemory {
    /// Free extents: first address to length in bytes.
    free: BTreeMap<u64, u64>,
}

impl ClientMemory {
    /// All of it free.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            free: BTreeMap::from([(USER, bytes)]),
        }
    }

    /// Takes `bytes` (at least one page); `None` when no extent is large enough.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let rounded = Self::rounded(bytes)?;
        let (&address, &length) = self.free.iter().find(|&(_, &length)| length >= rounded)?;
        self.free.remove(&address);
        if length > rounded {
            self.free.insert(address + rounded, length - rounded);
        }
        Some(address)
    }

    /// Gives back what [`Self::allocate`] returned for `bytes`.
    pub(super) fn release(&mut self, address: u64, bytes: u64) {
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
        let first = memory.allocate(1).unwrap();
        let second = memory.allocate(PAGE_SIZE + 1).unwrap();
        assert_eq!((first, second), (USER, USER + PAGE_SIZE));
        assert_eq!(memory.allocate(2 * PAGE_SIZE), None);
        memory.release(first, 1);
        memory.release(second, PAGE_SIZE + 1);
        assert_eq!(memory.allocate(4 * PAGE_SIZE), Some(USER));
    }

    #[test]
    fn absurd_length_is_refused() {
        assert_eq!(ClientMemory::new(PAGE_SIZE).allocate(u64::MAX), None);
    }
}
