//! The data area: buffers for requests, first fit.

use std::collections::BTreeMap;

/// Buffers begin at cache lines: two requests share none.
const ALIGNMENT: u64 = 64;

/// What of the data area is free.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// First offset to length in bytes.
    free: BTreeMap<u64, u64>,
}

impl Buffers {
    pub(crate) fn new(offset: u64, bytes: u64) -> Self {
        Self {
            free: BTreeMap::from([(offset, bytes)]),
        }
    }

    /// Takes `bytes`; `None` if there is no piece that large.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let rounded = bytes.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let (&offset, &length) = self.free.iter().find(|&(_, &length)| length >= rounded)?;
        self.free.remove(&offset);
        if length > rounded {
            self.free.insert(offset + rounded, length - rounded);
        }
        Some(offset)
    }

    /// Gives back what [`Self::allocate`] returned for `bytes`.
    pub(crate) fn release(&mut self, offset: u64, bytes: u64) {
        let Some(mut length) = bytes.max(1).checked_next_multiple_of(ALIGNMENT) else {
            return;
        };
        let mut start = offset;
        if let Some(following) = self.free.remove(&(offset + length)) {
            length += following;
        }
        if let Some((&before, &before_length)) = self.free.range(..offset).next_back()
            && before + before_length == offset
        {
            self.free.remove(&before);
            start = before;
            length += before_length;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let mut buffers = Buffers::new(4096, 256);
        let first = buffers.allocate(1).unwrap();
        let second = buffers.allocate(65).unwrap();
        assert_eq!((first, second), (4096, 4160));
        assert_eq!(buffers.allocate(128), None);
        buffers.release(first, 1);
        buffers.release(second, 65);
        assert_eq!(buffers.allocate(256), Some(4096));
        assert_eq!(buffers.allocate(u64::MAX), None);
    }
}
