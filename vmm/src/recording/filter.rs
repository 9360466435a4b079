//! Which accesses of a recording are wanted.

use super::{Access, Recording, Space};
use crate::observe::ports::Direction;

/// Ports, physical addresses or MSRs, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// a range or a time that is not well formed: {0}
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, displaydoc::Display)]
pub struct FilterError(String);

impl std::str::FromStr for PortRange {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (first, last) = crate::policy::parse_range(text, u64::MAX).map_err(FilterError)?;
        Ok(Self { first, last })
    }
}

/// Picks accesses; what is not set picks all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Only port accesses that touch one of these.
    pub ports: Vec<PortRange>,
    /// Only mappings, and accesses to devices' memory, that touch one of these.
    pub memory: Vec<PortRange>,
    /// Only accesses to these MSRs. Of ports, memory and MSRs what is given counts together.
    pub msrs: Vec<PortRange>,
    /// Only reads, or only writes.
    pub direction: Option<Direction>,
    /// Only allowed, or only denied ones.
    pub is_allowed: Option<bool>,
    /// Only from this image on behalf of which they were made, case-insensitive.
    pub module: Option<String>,
    /// Not before so many nanoseconds since boot.
    pub from_ns: Option<u64>,
    /// Not after.
    pub until_ns: Option<u64>,
}

impl Filter {
    /// Whether an access is wanted.
    #[must_use]
    pub fn takes(&self, recording: &Recording, access: &Access) -> bool {
        let is_in = |ranges: &[PortRange]| {
            ranges
                .iter()
                .any(|range| access.touches(range.first, range.last))
        };
        let is_place = match access.space {
            _ if self.ports.is_empty() && self.memory.is_empty() && self.msrs.is_empty() => true,
            Space::Port => is_in(&self.ports),
            Space::Memory | Space::DeviceMemory => is_in(&self.memory),
            Space::Msr => is_in(&self.msrs),
        };
        is_place
            && self
                .direction
                .is_none_or(|wanted| wanted == access.direction)
            && self
                .is_allowed
                .is_none_or(|wanted| wanted == access.is_allowed)
            && self.from_ns.is_none_or(|from| access.time_ns >= from)
            && self.until_ns.is_none_or(|until| access.time_ns <= until)
            && self.module.as_deref().is_none_or(|wanted| {
                recording
                    .module(access.rip)
                    .is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted))
            })
    }
}

/// Reads a time since boot as nanoseconds: `1.5` or `1.5s`, `20ms`, `7us`, `300ns`.
///
/// # Errors
/// When it is none, or more than a century.
pub fn parse_time(text: &str) -> Result<u64, FilterError> {
    let (digits, scale) = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("", 1e9)]
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .unwrap_or((text, 1e9));
    let bad = || {
        FilterError(format!(
            "`{text}` is no time; write 1.5, 1.5s, 20ms, 7us or 300ns"
        ))
    };
    let number: f64 = digits.trim().parse().map_err(|_| bad())?;
    let nanoseconds = number * scale;
    if !(0.0..3.2e18).contains(&nanoseconds) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above: not negative, far below 2^63"
    )]
    Ok(nanoseconds.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        super::super::export::tests_support::recording()
    }

    fn taken(filter: &Filter) -> usize {
        let recording = recording();
        recording
            .accesses
            .iter()
            .filter(|access| filter.takes(&recording, access))
            .count()
    }

    #[test]
    fn each_criterion_narrows() {
        let all = taken(&Filter::default());
        assert_eq!(all, 6);
        let range = |text: &str| vec![text.parse::<PortRange>().unwrap()];
        let cases = [
            (
                Filter {
                    ports: range("0x378-0x37a"),
                    ..Filter::default()
                },
                4,
            ),
            (
                Filter {
                    memory: range("0xa0000"),
                    ..Filter::default()
                },
                1,
            ),
            (
                Filter {
                    direction: Some(Direction::Read),
                    ..Filter::default()
                },
                2,
            ),
            (
                Filter {
                    is_allowed: Some(false),
                    ..Filter::default()
                },
                2,
            ),
            (
                Filter {
                    module: Some("ECHO.SYS".into()),
                    ..Filter::default()
                },
                5,
            ),
            (
                Filter {
                    from_ns: Some(2000),
                    until_ns: Some(3000),
                    ..Filter::default()
                },
                2,
            ),
        ];
        for (filter, count) in cases {
            assert_eq!(taken(&filter), count, "{filter:?}");
        }
    }

    #[test]
    fn msrs_and_device_memory_are_picked_by_their_numbers() {
        let of = |space, address, bytes| Access {
            time_ns: 0,
            space,
            direction: Direction::Read,
            bytes,
            address,
            value: 0,
            rip: 0,
            is_allowed: true,
            backend: 0,
            rule_line: 1,
        };
        let accesses = [
            of(Space::Port, 0x1B, 1),
            of(Space::Msr, 0x1B, 8),
            of(Space::Msr, 0x1C, 8),
            of(Space::Memory, 0x1B, 0x1000),
            of(Space::DeviceMemory, 0x1B, 4),
        ];
        let recording = recording();
        let taken = |filter: &Filter| -> Vec<Space> {
            let taken = accesses
                .iter()
                .filter(|access| filter.takes(&recording, access));
            taken.map(|access| access.space).collect()
        };
        let range = |text: &str| vec![text.parse::<PortRange>().unwrap()];
        let msrs = |text| Filter {
            msrs: range(text),
            ..Filter::default()
        };
        assert_eq!(taken(&msrs("0x1b")), [Space::Msr]);
        assert_eq!(taken(&msrs("0x10-0x1f")), [Space::Msr, Space::Msr]);
        let memory = Filter {
            memory: range("0x1e"),
            ..Filter::default()
        };
        assert_eq!(taken(&memory), [Space::Memory, Space::DeviceMemory]);
        let both = Filter {
            ports: range("0x1b"),
            ..msrs("0x1c")
        };
        assert_eq!(taken(&both), [Space::Port, Space::Msr]);
    }

    #[test]
    fn a_wide_access_touches_the_ports_it_covers() {
        let filter = Filter {
            ports: vec!["0x71".parse().unwrap()],
            ..Filter::default()
        };
        assert_eq!(taken(&filter), 1, "the word at 0x70");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_time("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_time("20ms"), Ok(20_000_000));
        assert_eq!(parse_time("7us"), Ok(7000));
        assert_eq!(parse_time("300ns"), Ok(300));
        for bad in ["", "s", "-1", "1h", "nan", "inf", "1e30"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
