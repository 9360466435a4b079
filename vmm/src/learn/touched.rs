//! What a recording touched, counted and put into ranges.

use std::collections::BTreeMap;

use super::registers::Registers;
use crate::observe::ports::Direction;
use crate::recording::{Access, Recording, Space};

/// Most users that a rule's comment names.
const USERS_MAX: usize = 16;
/// Mapping is by whole pages.
const PAGE: u64 = 4096;

/// How a place was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Use {
    pub(super) is_read: bool,
    pub(super) is_written: bool,
    /// Bit n: by accesses of 2^n bytes. Nothing for memory.
    widths: u8,
}

impl Use {
    /// Bytes of the accesses, ascending.
    pub(super) fn widths(self) -> impl Iterator<Item = u8> {
        (0..3)
            .filter(move |bit| self.widths >> bit & 1 != 0)
            .map(|bit| 1 << bit)
    }

    pub(super) fn join(&mut self, other: Self) {
        self.is_read |= other.is_read;
        self.is_written |= other.is_written;
        self.widths |= other.widths;
    }

    pub(super) fn add(&mut self, access: &Access) {
        match access.direction {
            Direction::Read => self.is_read = true,
            // A mapping for writing can be read too.
            Direction::Write => {
                self.is_written = true;
                self.is_read |= access.space == Space::Memory;
            }
        }
        if access.space == Space::Port {
            self.widths |= 1 << access.bytes.trailing_zeros().min(2);
        }
    }
}

/// Places next to each other that were used alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) uses: Use,
    pub(super) users: Vec<String>,
}

/// Who did what, and how often.
pub(super) type Counts = BTreeMap<(String, Space, bool, u64, u64), u64>;

/// What a recording touched.
#[derive(Debug)]
pub(super) struct Touched<'a> {
    recording: &'a Recording,
    /// By no rule: what a new rule has to cover.
    new: Vec<&'a Access>,
    /// Users by the line of the rule that allowed them.
    pub(super) by_rule: BTreeMap<u32, Vec<String>>,
    /// Users by the line of the rule that denied them.
    pub(super) denied_by_rule: BTreeMap<u32, Vec<String>>,
    /// Registers behind ports that select them: not among `new`.
    pub(super) registers: Registers,
}

impl<'a> Touched<'a> {
    pub(super) fn of(recording: &'a Recording) -> Self {
        let registers = Registers::of(recording);
        let mut new = Vec::new();
        let mut allowed: BTreeMap<u32, Counts> = BTreeMap::new();
        let mut denied: BTreeMap<u32, Counts> = BTreeMap::new();
        for access in &recording.accesses {
            let by_rule = match (access.rule_line, access.is_allowed) {
                (0, _) => {
                    if !registers.has(access) {
                        new.push(access);
                    }
                    continue;
                }
                (_, true) => &mut allowed,
                (_, false) => &mut denied,
            };
            count(
                by_rule.entry(access.rule_line).or_default(),
                recording,
                access,
            );
        }
        let described = |by_rule: BTreeMap<u32, Counts>| {
            by_rule
                .into_iter()
                .map(|(line, counts)| (line, describe(&counts)))
                .collect()
        };
        Self {
            recording,
            new,
            by_rule: described(allowed),
            denied_by_rule: described(denied),
            registers,
        }
    }

    /// Ranges of ports, ascending.
    pub(super) fn ports(&self) -> Vec<Range> {
        self.ranges(Space::Port, 1)
    }

    /// Ranges of physical memory, whole pages, ascending.
    pub(super) fn memory(&self) -> Vec<Range> {
        self.ranges(Space::Memory, PAGE)
    }

    /// Ranges of MSRs, ascending.
    pub(super) fn msrs(&self) -> Vec<Range> {
        self.ranges(Space::Msr, 1)
    }

    fn ranges(&self, space: Space, grain: u64) -> Vec<Range> {
        let accesses: Vec<&Access> = self
            .new
            .iter()
            .copied()
            .filter(|access| access.space == space)
            .collect();
        let mut ranges: Vec<Range> = Vec::new();
        for (first, end, uses) in pieces(&accesses, grain) {
            let (first, last) = (first * grain, end * grain - 1);
            match ranges.last_mut() {
                Some(range) if range.last + 1 == first && range.uses == uses => range.last = last,
                _ => ranges.push(Range {
                    first,
                    last,
                    uses,
                    users: Vec::new(),
                }),
            }
        }
        let mut counts = vec![Counts::new(); ranges.len()];
        for access in &accesses {
            let from = ranges.partition_point(|range| range.last < access.address);
            for (range, counts) in ranges.iter().zip(&mut counts).skip(from) {
                if !access.touches(range.first, range.last) {
                    break;
                }
                count(counts, self.recording, access);
            }
        }
        for (range, counts) in ranges.iter_mut().zip(&counts) {
            range.users = describe(counts);
        }
        ranges
    }
}

/// How each piece between the ends of all accesses was used: first grain, end, use; ascending, unused ones left out.
/// Not grain by grain: a mapping of gigabytes has a million pages.
fn pieces(accesses: &[&Access], grain: u64) -> Vec<(u64, u64, Use)> {
    // What was done from this grain on: (first, end, kind of use), each once however often it happened.
    let mut spans: BTreeMap<(u64, u64), Use> = BTreeMap::new();
    for access in accesses {
        spans.entry(grains(access, grain)).or_default().add(access);
    }
    let mut cuts: Vec<u64> = spans
        .keys()
        .flat_map(|&(first, end)| [first, end])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<(u64, u64, Use)> = cuts
        .windows(2)
        .filter_map(|pair| Some((*pair.first()?, *pair.last()?, Use::default())))
        .collect();
    for ((first, end), uses) in spans {
        let from = pieces.partition_point(|piece| piece.0 < first);
        for piece in pieces
            .iter_mut()
            .skip(from)
            .take_while(|piece| piece.0 < end)
        {
            piece.2.join(uses);
        }
    }
    pieces.retain(|piece| piece.2 != Use::default());
    pieces
}

/// First and end, in grains.
fn grains(access: &Access, grain: u64) -> (u64, u64) {
    let last = access.address + (access.extent() - 1);
    (access.address / grain, last / grain + 1)
}

fn count(counts: &mut Counts, recording: &Recording, access: &Access) {
    count_at(counts, recording, access, access.address);
}

/// Counts an access as one at this place.
pub(super) fn count_at(counts: &mut Counts, recording: &Recording, access: &Access, at: u64) {
    let key = (
        recording.place(access.rip),
        access.space,
        access.direction == Direction::Write,
        at,
        access.bytes,
    );
    *counts.entry(key).or_default() += 1;
}

fn describe(counts: &Counts) -> Vec<String> {
    describe_at(counts, "")
}

/// A line for each user, the busiest first; `at` says what their places are.
pub(super) fn describe_at(counts: &Counts, at: &str) -> Vec<String> {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
    let mut lines: Vec<String> = sorted
        .iter()
        .take(USERS_MAX)
        .map(|((place, space, is_write, address, bytes), count)| {
            let plural = if **count == 1 { "" } else { "s" };
            let what = match (space, is_write) {
                (Space::Port, false) => "read",
                (Space::Port, true) => "write",
                (Space::Memory, _) => "mapping",
                (Space::DeviceMemory, false) => "load",
                (Space::DeviceMemory, true) => "store",
                (Space::Msr, false) => "rdmsr",
                (Space::Msr, true) => "wrmsr",
            };
            let bytes_text = if *bytes == 1 { "byte" } else { "bytes" };
            format!("{place}: {count} {what}{plural} of {bytes} {bytes_text} at {at}{address:#x}")
        })
        .collect();
    if let Some(more) = sorted
        .len()
        .checked_sub(USERS_MAX)
        .filter(|more| *more != 0)
    {
        lines.push(format!("and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::export::tests_support::recording;

    fn port(address: u64, bytes: u64, direction: Direction) -> Access {
        Access {
            address,
            bytes,
            direction,
            rule_line: 0,
            is_allowed: false,
            ..recording().accesses[0].clone()
        }
    }

    fn ports(accesses: Vec<Access>) -> Vec<(u64, u64, Use)> {
        let mut recording = recording();
        recording.accesses = accesses;
        Touched::of(&recording)
            .ports()
            .into_iter()
            .map(|range| (range.first, range.last, range.uses))
            .collect()
    }

    #[test]
    fn neighbours_used_alike_are_one_range() {
        let ranges = ports(vec![
            port(0x10, 1, Direction::Write),
            port(0x11, 1, Direction::Write),
            port(0x12, 1, Direction::Read),
            port(0x14, 1, Direction::Read),
        ]);
        let spans: Vec<_> = ranges.iter().map(|range| (range.0, range.1)).collect();
        assert_eq!(spans, [(0x10, 0x11), (0x12, 0x12), (0x14, 0x14)]);
        assert!(ranges[0].2.is_written && !ranges[0].2.is_read);
    }

    #[test]
    fn each_port_of_a_wide_access_has_its_width() {
        let ranges = ports(vec![
            port(0x10, 4, Direction::Read),
            port(0x11, 1, Direction::Read),
        ]);
        let widths: Vec<(u64, Vec<u8>)> = ranges
            .iter()
            .map(|range| (range.0, range.2.widths().collect()))
            .collect();
        assert_eq!(
            widths,
            [(0x10, vec![4]), (0x11, vec![1, 4]), (0x12, vec![4])]
        );
    }

    #[test]
    fn the_last_port_does_not_overflow() {
        let ranges = ports(vec![port(0xFFFF, 1, Direction::Read)]);
        assert_eq!((ranges[0].0, ranges[0].1), (0xFFFF, 0xFFFF));
    }
}
