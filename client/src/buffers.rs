//! The data area: buffers for requests, first fit.

use std::collections::BTreeMap;

/// Buffers begin at cache lines: two requests share none.
pub(crate) const ALIGNMENT: u64 = 64;

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

    /// Takes `bytes`, at a multiple of `alignment`; `None` if there is no piece that large.
    pub(crate) fn allocate(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        let rounded = bytes.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let fits = |(&start, &length): (&u64, &u64)| {
            let offset = start.checked_next_multiple_of(alignment)?;
            let skipped = offset - start;
            (length.checked_sub(skipped)? >= rounded).then_some((start, length, offset))
        };
        let (start, length, offset) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        let (end, behind) = (start + length, offset + rounded);
        if offset > start {
            self.free.insert(start, offset - start);
        }
        if end > behind {
            self.free.insert(behind, end - behind);
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
        let first = buffers.allocate(1, 64).unwrap();
        let second = buffers.allocate(65, 64).unwrap();
        assert_eq!((first, second), (4096, 4160));
        assert_eq!(buffers.allocate(128, 64), None);
        buffers.release(first, 1);
        buffers.release(second, 65);
        assert_eq!(buffers.allocate(256, 64), Some(4096));
        assert_eq!(buffers.allocate(u64::MAX, 64), None);
    }

    #[test]
    fn aligned_buffer_leaves_what_is_before_it() {
        let mut buffers = Buffers::new(64, 2 * 4096);
        assert_eq!(buffers.allocate(4096, 4096), Some(4096));
        assert_eq!(buffers.allocate(128, 4096), None);
        assert_eq!(buffers.allocate(4032, 64), Some(64));
        assert_eq!(buffers.allocate(64, 64), Some(8192));
        assert_eq!(buffers.allocate(64, 64), None);
    }
}
