//! Which rule covers a number, found by halving.

use std::collections::BTreeSet;

/// Disjoint ranges with the rule of each, in ascending order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Segments(Vec<Segment>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    first: u64,
    last: u64,
    rule: usize,
}

impl Segments {
    /// From the ranges of rules in the order of their numbers. Where ranges overlap, the lowest number counts.
    pub(crate) fn new(ranges: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut edges: Vec<(u64, bool, usize)> = Vec::new();
        let mut unended = BTreeSet::new();
        for (rule, (first, last)) in ranges.enumerate() {
            edges.push((first, true, rule));
            match last.checked_add(1) {
                Some(end) => edges.push((end, false, rule)),
                None => {
                    unended.insert(rule);
                }
            }
        }
        edges.sort_unstable();
        let mut active: BTreeSet<usize> = BTreeSet::new();
        let mut segments: Vec<Segment> = Vec::new();
        let mut at = 0;
        let mut close = |active: &BTreeSet<usize>, first: u64, last: u64| {
            let Some(rule) = active.first() else { return };
            match segments.last_mut() {
                Some(segment) if segment.rule == *rule && segment.last + 1 == first => {
                    segment.last = last;
                }
                _ => segments.push(Segment {
                    first,
                    last,
                    rule: *rule,
                }),
            }
        };
        for (edge, is_start, rule) in edges {
            if edge > at {
                close(&active, at, edge - 1);
                at = edge;
            }
            if is_start {
                active.insert(rule);
            } else {
                active.remove(&rule);
            }
        }
        close(&active, at, u64::MAX);
        Self(segments)
    }

    /// First and last number of each range, and its rule; ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, usize)> + '_ {
        self.0
            .iter()
            .map(|segment| (segment.first, segment.last, segment.rule))
    }

    /// The rule that covers a number.
    pub(crate) fn find(&self, number: u64) -> Option<usize> {
        let after = self.0.partition_point(|segment| segment.first <= number);
        let segment = self.0.get(after.checked_sub(1)?)?;
        (number <= segment.last).then_some(segment.rule)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_the_number_space_are_covered() {
        let segments = Segments::new([(0, 0), (5, u64::MAX)].into_iter());
        assert_eq!(segments.find(0), Some(0));
        assert_eq!(segments.find(1), None);
        assert_eq!(segments.find(u64::MAX), Some(1));
        assert_eq!(Segments::default().find(0), None);
    }

    proptest! {
        #[test]
        fn lowest_rule_counts_as_in_a_plain_search(
            ranges in proptest::collection::vec((0..40_u64, 0..12_u64), 0..12),
        ) {
            let ranges: Vec<(u64, u64)> =
                ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
            let segments = Segments::new(ranges.iter().copied());
            for number in 0..60 {
                let plain = ranges
                    .iter()
                    .position(|range| (range.0..=range.1).contains(&number));
                prop_assert_eq!(segments.find(number), plain, "{}", number);
            }
        }
    }
}
