//! What a rule may ask of an access beside its place and direction.

use crate::ports::Width;

/// A set of access widths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Widths(u8);

impl Widths {
    /// 1, 2 and 4 bytes.
    pub const ALL: Self = Self(0b111);
    /// None; for building.
    pub const NONE: Self = Self(0);

    const fn bit(width: Width) -> u8 {
        match width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
        }
    }

    /// The set with `width` in it.
    #[must_use]
    pub const fn with(self, width: Width) -> Self {
        Self(self.0 | Self::bit(width))
    }

    /// Whether the width is in the set.
    #[must_use]
    pub const fn contains(self, width: Width) -> bool {
        self.0 & Self::bit(width) != 0
    }
}

/// One byte for each port of a range: those given, then `fill`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// From the range's first port on.
    pub given: Vec<u8>,
    /// The ports that `given` does not reach.
    pub fill: u8,
}

impl Bytes {
    /// The same byte for every port.
    #[must_use]
    pub const fn all(fill: u8) -> Self {
        Self {
            given: Vec::new(),
            fill,
        }
    }

    /// The byte of the port at an offset from the range's first.
    #[must_use]
    pub fn at(&self, offset: u16) -> u8 {
        self.given
            .get(usize::from(offset))
            .copied()
            .unwrap_or(self.fill)
    }
}

/// Bits of each port that pass, and what stands for the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ByteMask {
    /// Ones pass.
    pub mask: Bytes,
    /// The bits that do not pass. `None`: those of the last byte that the rule passed on to this port, at first 0.
    pub fixed: Option<Bytes>,
}

impl ByteMask {
    /// What becomes of `value` at a port, if the last byte passed on there was `last`.
    #[must_use]
    pub fn apply(&self, offset: u16, value: u8, last: u8) -> u8 {
        let mask = self.mask.at(offset);
        let others = self.fixed.as_ref().map_or(last, |fixed| fixed.at(offset));
        (value & mask) | (others & !mask)
    }
}

/// Masks of a register that is one number: of PCI configuration space, behind an index, or an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitMasks {
    /// Bits of a write that pass.
    pub write: u64,
    /// What stands for the others. `None`: they keep their value.
    pub write_fixed: Option<u64>,
    /// Bits of a read that pass.
    pub read: u64,
    /// What stands for the others.
    pub read_fixed: u64,
}

impl BitMasks {
    /// Everything passes.
    pub const PASS: Self = Self {
        write: u64::MAX,
        write_fixed: None,
        read: u64::MAX,
        read_fixed: 0,
    };

    /// What is written for `value` where the register has `kept`.
    #[must_use]
    pub const fn written(&self, value: u64, kept: u64) -> u64 {
        let others = match self.write_fixed {
            Some(fixed) => fixed,
            None => kept,
        };
        (value & self.write) | (others & !self.write)
    }

    /// What the driver reads where the register has `value`.
    #[must_use]
    pub const fn seen(&self, value: u64) -> u64 {
        (value & self.read) | (self.read_fixed & !self.read)
    }

    /// Whether a write needs to know what the register has: some bits are kept.
    #[must_use]
    pub const fn keeps_bits(&self) -> bool {
        self.write != u64::MAX && self.write_fixed.is_none()
    }

    /// The masks of byte `byte` of the register alone.
    #[must_use]
    pub fn byte(&self, byte: u16) -> Self {
        let part = |value: u64| {
            if byte < 8 {
                (value >> (8 * byte)) & 0xFF
            } else {
                0
            }
        };
        // Beyond the masks' 8 bytes everything passes.
        let mask = |value: u64| {
            if byte < 8 {
                part(value) | !0xFF
            } else {
                u64::MAX
            }
        };
        Self {
            write: mask(self.write),
            write_fixed: self.write_fixed.map(part),
            read: mask(self.read),
            read_fixed: part(self.read_fixed),
        }
    }
}

/// Values that may be written: ranges, both ends included, ascending and apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValueSet(Vec<(u64, u64)>);

impl ValueSet {
    /// From ranges in any order, which may overlap.
    #[must_use]
    pub fn new(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Whether the value is in the set.
    #[must_use]
    pub fn contains(&self, value: u64) -> bool {
        let after = self.0.partition_point(|range| range.0 <= value);
        after
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|range| value <= range.1)
    }
}

/// What happens to an access above the rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRate {
    /// The guest waits until it is due.
    Delay,
    /// It is denied.
    Deny,
}

impl OnRate {
    /// The policy's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Deny => "deny",
        }
    }
}

/// How often a rule may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Accesses a second, at least 1.
    pub per_second: u32,
    /// Accesses that may come at once after a pause, at least 1.
    pub burst: u32,
    /// What happens to those above.
    pub on_rate: OnRate,
}

/// How often and how many times a rule may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// How often.
    pub rate: Option<Rate>,
    /// Accesses until the end of the run; the others are denied.
    pub quota: Option<u64>,
}

impl Limits {
    /// Whether there is any.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.rate.is_none() && self.quota.is_none()
    }
}
