//! Which rule covers an MSR, found in a fixed number of steps however many rules there are.

use super::segments::Segments;

/// Bits of a number that the first step looks at.
const TOP_BITS: u32 = 16;
/// Bits that each further step looks at. A node is a cache line: rules that lie far apart cost little memory.
const NODE_BITS: u32 = 4;
const NODE_ENTRIES: usize = 1 << NODE_BITS;

/// What a table has for a part of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry(u32);

impl Entry {
    const IS_NODE: u32 = 1 << 31;

    fn rule(rule: usize) -> Self {
        // 0 is no rule. There are never as many rules as would reach the flag.
        Self(u32::try_from(rule + 1).unwrap_or(0) & !Self::IS_NODE)
    }

    fn node(node: usize) -> Self {
        Self(u32::try_from(node).unwrap_or(0) | Self::IS_NODE)
    }

    /// The node that tells the numbers apart.
    fn as_node(self) -> Option<usize> {
        (self.0 & Self::IS_NODE != 0).then_some((self.0 & !Self::IS_NODE) as usize)
    }

    /// The rule of all of them.
    fn as_rule(self) -> Option<usize> {
        (self.0 as usize).checked_sub(1)
    }
}

/// The rule of every number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Numbers {
    /// By the upper bits; empty without rules.
    top: Vec<Entry>,
    nodes: Vec<[Entry; NODE_ENTRIES]>,
}

impl Numbers {
    /// From the ranges of rules in the order of their numbers. Where ranges overlap, the lowest number counts.
    pub(super) fn new(ranges: impl Iterator<Item = (u32, u32)>) -> Self {
        let segments = Segments::new(ranges.map(|(first, last)| (first.into(), last.into())));
        let mut numbers = Self::default();
        for (first, last, rule) in segments.iter() {
            if numbers.top.is_empty() {
                numbers.top = vec![Entry::default(); 1 << TOP_BITS];
            }
            let shift = u32::BITS - TOP_BITS;
            for index in first >> shift..=last >> shift {
                let place = usize::try_from(index).unwrap_or(usize::MAX);
                let entry = numbers.top.get(place).copied().unwrap_or_default();
                let filled = numbers.fill(entry, index << shift, shift, (first, last), rule);
                if let Some(entry) = numbers.top.get_mut(place) {
                    *entry = filled;
                }
            }
        }
        numbers
    }

    /// `entry`, which is for the `1 << bits` numbers from `start` on, with the rule for those of them in `range`.
    fn fill(
        &mut self,
        entry: Entry,
        start: u64,
        bits: u32,
        range: (u64, u64),
        rule: usize,
    ) -> Entry {
        let (first, last) = range;
        if first <= start && last >= start + (1 << bits) - 1 {
            return Entry::rule(rule);
        }
        let node = entry.as_node().unwrap_or_else(|| {
            self.nodes.push([entry; NODE_ENTRIES]);
            self.nodes.len() - 1
        });
        let shift = bits - NODE_BITS;
        for index in 0..NODE_ENTRIES {
            let from = start + ((index as u64) << shift);
            if first < from + (1 << shift) && last >= from {
                let filled = self.fill(self.nodes[node][index], from, shift, range, rule);
                self.nodes[node][index] = filled;
            }
        }
        Entry::node(node)
    }

    /// The rule that covers a number.
    #[inline]
    pub(super) fn find(&self, number: u32) -> Option<usize> {
        let mut shift = u32::BITS - TOP_BITS;
        let mut entry = *self.top.get((number >> shift) as usize)?;
        while let Some(node) = entry.as_node() {
            shift = shift.saturating_sub(NODE_BITS);
            let index = (number >> shift) as usize % NODE_ENTRIES;
            entry = self.nodes.get(node)?[index];
        }
        entry.as_rule()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_the_number_space_are_covered() {
        let numbers = Numbers::new([(0, 0), (5, u32::MAX)].into_iter());
        assert_eq!(numbers.find(0), Some(0));
        assert_eq!(numbers.find(1), None);
        assert_eq!(numbers.find(5), Some(1));
        assert_eq!(numbers.find(u32::MAX), Some(1));
        assert_eq!(Numbers::default().find(0), None);
    }

    proptest! {
        #[test]
        fn the_lowest_rule_counts_as_in_a_plain_search(
            ranges in proptest::collection::vec(
                (any::<u32>(), 0..32_u32, any::<bool>()),
                0..24,
            ),
            probes in proptest::collection::vec(any::<u32>(), 32),
        ) {
            // Of every size, near zero and anywhere.
            let ranges: Vec<(u32, u32)> = ranges
                .into_iter()
                .map(|(place, bits, is_near)| {
                    let first = if is_near { place % 300 } else { place };
                    (first, first.saturating_add((1_u32 << bits) - 1))
                })
                .collect();
            let numbers = Numbers::new(ranges.iter().copied());
            let ends = ranges.iter().flat_map(|range| {
                [range.0.wrapping_sub(1), range.0, range.1, range.1.wrapping_add(1)]
            });
            for number in (0..320).chain(ends).chain(probes) {
                let plain = ranges
                    .iter()
                    .position(|range| (range.0..=range.1).contains(&number));
                prop_assert_eq!(numbers.find(number), plain, "{:#x}", number);
            }
        }
    }
}
