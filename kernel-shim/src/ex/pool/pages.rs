//! The pool's pages: which runs of them are free.
//!
//! Runs are kept twice, by place and by size, so that taking, giving back and joining neighbours are all O(log n).

use alloc::collections::{BTreeMap, BTreeSet};

/// What a caller wants of a run beside its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// First page number (physical) that may be used.
    pub(super) lowest: u64,
    /// Last page number (physical) that may be used.
    pub(super) highest: u64,
    /// The run may not cross a multiple of this many pages; 0: it may.
    pub(super) boundary: u64,
}

/// The free runs of a range of pages, counted from 0.
#[derive(Debug, Default)]
pub(super) struct Pages {
    by_place: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    free: u32,
}

impl Pages {
    pub(super) const fn empty() -> Self {
        Self {
            by_place: BTreeMap::new(),
            by_size: BTreeSet::new(),
            free: 0,
        }
    }

    /// All of `count` pages free.
    pub(super) fn new(count: u32) -> Self {
        let mut pages = Self::empty();
        pages.add(0, count);
        pages.free = count;
        pages
    }

    /// Number of free pages.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    fn add(&mut self, first: u32, count: u32) {
        if count > 0 {
            self.by_place.insert(first, count);
            self.by_size.insert((count, first));
        }
    }

    fn drop_run(&mut self, first: u32, count: u32) {
        self.by_place.remove(&first);
        self.by_size.remove(&(count, first));
    }

    /// Takes `count` pages at `first` out of the free run `run`.
    fn cut(&mut self, run: (u32, u32), first: u32, count: u32) {
        let (run_first, run_count) = run;
        self.drop_run(run_first, run_count);
        self.add(run_first, first - run_first);
        let end = first + count;
        self.add(end, run_first + run_count - end);
        self.free -= count;
    }

    /// Takes `count` pages from the smallest run that has them.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let &(run_count, first) = self.by_size.range((count, 0)..).next()?;
        self.cut((first, run_count), first, count);
        Some(first)
    }

    /// Takes `count` pages within limits; `base` is the physical page number of page 0. The highest fitting run is
    /// taken, so that low memory is left to those who need it.
    pub(super) fn take_within(&mut self, count: u32, base: u64, limits: Limits) -> Option<u32> {
        let found = self.by_place.iter().rev().find_map(|(&first, &run)| {
            let low = (base + u64::from(first)).max(limits.lowest);
            let end =
                (base + u64::from(first) + u64::from(run)).min(limits.highest.saturating_add(1));
            let mut candidate = end.checked_sub(u64::from(count))?;
            if limits.boundary != 0 {
                if u64::from(count) > limits.boundary {
                    return None;
                }
                let last = candidate + u64::from(count) - 1;
                if candidate / limits.boundary != last / limits.boundary {
                    candidate = last / limits.boundary * limits.boundary - u64::from(count);
                }
            }
            let page = u32::try_from(candidate.checked_sub(base)?).ok()?;
            (candidate >= low).then_some((first, run, page))
        });
        let (first, run, page) = found?;
        self.cut((first, run), page, count);
        Some(page)
    }

    /// Gives pages back.
    pub(super) fn give(&mut self, first: u32, count: u32) {
        let (mut start, mut total) = (first, count);
        if let Some((&before, &run)) = self.by_place.range(..first).next_back()
            && before + run == first
        {
            self.drop_run(before, run);
            start = before;
            total += run;
        }
        if let Some(&run) = self.by_place.get(&(first + count)) {
            self.drop_run(first + count, run);
            total += run;
        }
        self.add(start, total);
        self.free += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_split_and_joined() {
        let mut pages = Pages::new(10);
        assert_eq!(pages.take(3), Some(0));
        assert_eq!(pages.take(3), Some(3));
        assert_eq!(pages.take(5), None);
        pages.give(0, 3);
        assert_eq!(pages.take(2), Some(0), "the smallest run that fits");
        pages.give(0, 2);
        pages.give(3, 3);
        assert_eq!((pages.free(), pages.take(10)), (10, Some(0)));
    }

    #[test]
    fn limits_are_kept() {
        let mut pages = Pages::new(64);
        let within = |lowest, highest, boundary| Limits {
            lowest,
            highest,
            boundary,
        };
        assert_eq!(pages.take_within(4, 0x1000, within(0, 0xFFF, 0)), None);
        assert_eq!(pages.take_within(4, 0x1000, within(0, 0x1007, 0)), Some(4));
        assert_eq!(
            pages.take_within(4, 0x1000, within(0x103C, u64::MAX >> 12, 0)),
            Some(60)
        );
        // 59 is the last free page: 3 pages from 57 would cross the multiple of 4 at 60 no more, 4 from 56 fit.
        assert_eq!(
            pages.take_within(3, 0x1000, within(0, u64::MAX >> 12, 4)),
            Some(57)
        );
        assert_eq!(
            pages.take_within(3, 0x1000, within(0, u64::MAX >> 12, 4)),
            Some(53)
        );
        assert_eq!(
            pages.take_within(5, 0x1000, within(0, u64::MAX >> 12, 4)),
            None
        );
    }
}
