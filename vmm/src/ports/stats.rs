//! What the `stats` command tells of ports.

use serde::Serialize;

/// Denied ranges that a report lists; the rest is summed up.
const DENIED_RANGES_MAX: usize = 64;

/// Port accesses since the start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PortStats {
    /// One entry for each rule, in the policy's order.
    pub rules: Vec<PortRuleStats>,
    /// One entry for each index/data pair, in the policy's order. Writes to an index port are not counted: they are kept.
    pub pairs: Vec<PairStats>,
    /// Ports that no rule names and that were tried: adjacent ones as one range, most accesses first.
    pub denied: Vec<DeniedPorts>,
    /// Accesses in denied ranges beyond those listed.
    pub denied_elsewhere: u64,
    /// Accesses that ran past port 0xFFFF.
    pub past_last_port: u64,
}

impl PortStats {
    /// Accesses that the policy denied, whoever decided.
    #[must_use]
    pub fn denied_total(&self) -> u64 {
        let by_rules = self
            .rules
            .iter()
            .map(|rule| rule.denied_reads.saturating_add(rule.denied_writes));
        let by_pairs = self
            .pairs
            .iter()
            .map(|pair| pair.denied_reads.saturating_add(pair.denied_writes));
        let by_default = self.denied.iter().map(DeniedPorts::accesses);
        by_rules
            .chain(by_pairs)
            .chain(by_default)
            .chain([self.denied_elsewhere, self.past_last_port])
            .fold(0, u64::saturating_add)
    }
}

/// One rule's accesses. A wide access over several rules counts for each of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PortRuleStats {
    /// The rule's line in the policy.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// What stands behind it.
    pub backend: String,
    /// Reads that reached the back end.
    pub reads: u64,
    /// Writes that reached the back end.
    pub writes: u64,
    /// Reads that this rule denied.
    pub denied_reads: u64,
    /// Writes that this rule denied.
    pub denied_writes: u64,
}

/// An index/data pair's accesses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PairStats {
    /// The rule's line in the policy.
    pub line: usize,
    /// The owner's name for it.
    pub name: Option<String>,
    /// The port that selects.
    pub index: u16,
    /// The port of the selected register.
    pub data: u16,
    /// What stands behind it.
    pub backend: &'static str,
    /// Reads of registers.
    pub reads: u64,
    /// Writes to registers.
    pub writes: u64,
    /// Reads of registers that it denied.
    pub denied_reads: u64,
    /// Writes to registers that it denied.
    pub denied_writes: u64,
}

/// Denied accesses to adjacent ports that no rule names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct DeniedPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl DeniedPorts {
    fn accesses(&self) -> u64 {
        self.reads.saturating_add(self.writes)
    }
}

/// Counts for each port that no rule names.
#[derive(Debug)]
pub(super) struct DeniedCounts {
    // Two tables of 512 KiB, allocated zeroed: only the pages of ports that were tried become resident.
    reads: Vec<u64>,
    writes: Vec<u64>,
}

impl DeniedCounts {
    pub(super) fn new() -> Self {
        Self {
            reads: vec![0; 0x1_0000],
            writes: vec![0; 0x1_0000],
        }
    }

    pub(super) fn count(&mut self, port: u16, is_write: bool) {
        let table = if is_write {
            &mut self.writes
        } else {
            &mut self.reads
        };
        let count = &mut table[usize::from(port)];
        *count = count.saturating_add(1);
    }

    /// The ranges to list, and how many accesses the others had.
    pub(super) fn ranges(&self) -> (Vec<DeniedPorts>, u64) {
        let mut ranges: Vec<DeniedPorts> = Vec::new();
        for port in 0..=0xFFFF_u16 {
            let reads = self.reads[usize::from(port)];
            let writes = self.writes[usize::from(port)];
            if reads == 0 && writes == 0 {
                continue;
            }
            match ranges.last_mut() {
                Some(range) if u32::from(range.last) + 1 == u32::from(port) => {
                    range.last = port;
                    range.reads = range.reads.saturating_add(reads);
                    range.writes = range.writes.saturating_add(writes);
                }
                _ => ranges.push(DeniedPorts {
                    first: port,
                    last: port,
                    reads,
                    writes,
                }),
            }
        }
        ranges.sort_by_key(|range| (std::cmp::Reverse(range.accesses()), range.first));
        let left_out = ranges
            .iter()
            .skip(DENIED_RANGES_MAX)
            .fold(0_u64, |sum, range| sum.saturating_add(range.accesses()));
        ranges.truncate(DENIED_RANGES_MAX);
        (ranges, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_ports_are_one_range_and_the_busiest_comes_first() {
        let mut counts = DeniedCounts::new();
        counts.count(0x60, false);
        for port in [0x378, 0x379, 0x37A, 0xFFFF] {
            counts.count(port, true);
        }
        let (ranges, left_out) = counts.ranges();
        assert_eq!(
            ranges,
            [
                DeniedPorts {
                    first: 0x378,
                    last: 0x37A,
                    reads: 0,
                    writes: 3
                },
                DeniedPorts {
                    first: 0x60,
                    last: 0x60,
                    reads: 1,
                    writes: 0
                },
                DeniedPorts {
                    first: 0xFFFF,
                    last: 0xFFFF,
                    reads: 0,
                    writes: 1
                },
            ]
        );
        assert_eq!(left_out, 0);
    }

    #[test]
    fn report_of_a_scan_over_all_even_ports_stays_short() {
        let mut counts = DeniedCounts::new();
        for port in (0..=0xFFFE).step_by(2) {
            counts.count(port, false);
        }
        let (ranges, left_out) = counts.ranges();
        assert_eq!(ranges.len(), DENIED_RANGES_MAX);
        assert_eq!(left_out, 0x8000 - 64);
    }
}
