//! Which bits of which ports are drawn as a wave.

use std::collections::BTreeSet;

use super::super::{Access, Space};
use crate::observe::ports::Direction;

/// Most ports that are drawn without being asked for.
const TOUCHED_MAX: usize = 64;
/// Longest name, in bytes.
const NAME_MAX: usize = 64;

/// Bits of a port's byte, as they were last written or read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signal {
    /// The port.
    pub port: u16,
    /// Its highest bit that is drawn, 0 to 7.
    pub high: u8,
    /// Its lowest.
    pub low: u8,
    /// What only counts: reads, writes, or both.
    pub direction: Option<Direction>,
    /// What it is called.
    pub name: String,
}

/// `{text}` is no signal: {reason}; write PORT, PORT.BIT or PORT.HIGH:LOW, with r: or w: before it for reads or writes
/// alone and =NAME behind it: 0x378, w:0x37a.0=strobe, 0x379.7:4=lines
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, displaydoc::Display)]
pub struct SignalError {
    text: String,
    reason: &'static str,
}

impl std::str::FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let error = |reason| SignalError {
            text: crate::observe::escape::escape(text),
            reason,
        };
        let (place, name) = match text.split_once('=') {
            Some((place, name)) => (place, Some(name)),
            None => (text, None),
        };
        let (direction, place) = match place.split_once(':') {
            Some(("r", place)) => (Some(Direction::Read), place),
            Some(("w", place)) => (Some(Direction::Write), place),
            _ => (None, place),
        };
        let (port, bits) = match place.split_once('.') {
            Some((port, bits)) => (port, Some(bits)),
            None => (place, None),
        };
        let port = crate::policy::parse_number(port)
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| error("the port is no number up to 0xffff"))?;
        let bit = |text: &str| {
            text.parse::<u8>()
                .ok()
                .filter(|bit| *bit < 8)
                .ok_or_else(|| error("a bit is 0 to 7"))
        };
        let (high, low) = match bits {
            None => (7, 0),
            Some(bits) => match bits.split_once(':') {
                None => (bit(bits)?, bit(bits)?),
                Some((high, low)) => (bit(high)?, bit(low)?),
            },
        };
        if high < low {
            return Err(error("the higher bit comes first"));
        }
        let is_word = |name: &str| {
            !name.is_empty()
                && name.len() <= NAME_MAX
                && name
                    .chars()
                    .all(|character| character.is_ascii_graphic() && character != '$')
        };
        let name = match name {
            Some(name) if is_word(name) => name.to_owned(),
            Some(_) => {
                return Err(error(
                    "a name is 1 to 64 printable characters, no blanks and no $",
                ));
            }
            None => match (direction, bits) {
                (None, None) => format!("port_{port:#x}"),
                (None, Some(bits)) => format!("port_{port:#x}.{bits}"),
                (Some(Direction::Read), _) => format!("in_{place}"),
                (Some(Direction::Write), _) => format!("out_{place}"),
            },
        };
        Ok(Self {
            port,
            high,
            low,
            direction,
            name,
        })
    }
}

impl Signal {
    /// How many bits it has.
    #[must_use]
    pub fn width(&self) -> u8 {
        self.high - self.low + 1
    }

    /// Its bits after an access; `None` if the access says nothing of them. A denied write reached nothing.
    #[must_use]
    pub fn value(&self, access: &Access) -> Option<u8> {
        if self
            .direction
            .is_some_and(|direction| direction != access.direction)
            || (access.direction == Direction::Write && !access.is_allowed)
        {
            return None;
        }
        let byte = access.byte_at(self.port)?;
        Some((byte >> self.low) & (0xFF >> (8 - self.width())))
    }
}

/// Signals of the ports that were touched, up to 64 of them.
#[must_use]
pub fn touched_ports(accesses: &[&Access]) -> Vec<Signal> {
    let ports: BTreeSet<u16> = accesses
        .iter()
        .filter(|access| access.space == Space::Port)
        .flat_map(|access| access.address..=access.address.saturating_add(access.bytes - 1))
        .filter_map(|port| u16::try_from(port).ok())
        .collect();
    ports
        .into_iter()
        .take(TOUCHED_MAX)
        .map(|port| Signal {
            port,
            high: 7,
            low: 0,
            direction: None,
            name: format!("port_{port:#x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(text: &str) -> Result<Signal, SignalError> {
        text.parse()
    }

    #[test]
    fn signals_are_bits_of_ports() {
        let strobe = signal("w:0x37a.0=strobe").unwrap();
        assert_eq!(
            (strobe.port, strobe.high, strobe.low, strobe.width()),
            (0x37A, 0, 0, 1)
        );
        assert_eq!(strobe.direction, Some(Direction::Write));
        assert_eq!(strobe.name, "strobe");
        assert_eq!(signal("888").unwrap().name, "port_0x378");
        assert_eq!(signal("0x379.7:4").unwrap().width(), 4);
        assert_eq!(signal("r:0x379.7").unwrap().name, "in_0x379.7");
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, reason) in [
            ("0x10000", "0xffff"),
            ("0x378.8", "0 to 7"),
            ("0x378.0:3", "comes first"),
            ("0x378=a b", "no blanks"),
            ("", "no number"),
        ] {
            let error = signal(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn values_come_from_the_byte_and_not_from_denied_writes() {
        let recording = super::super::tests_support::recording();
        let values = |text: &str| -> Vec<u8> {
            let signal = signal(text).unwrap();
            recording
                .accesses
                .iter()
                .filter_map(|access| signal.value(access))
                .collect()
        };
        assert_eq!(values("0x37a.0"), [1, 0]);
        assert_eq!(values("0x379.7:6"), [3]);
        assert_eq!(values("0x71"), [0xFF], "the upper byte of the word");
        assert_eq!(values("w:0x379"), Vec::<u8>::new());
        let mut denied = recording.accesses[0].clone();
        denied.is_allowed = false;
        assert_eq!(signal("0x378").unwrap().value(&denied), None);
    }

    #[test]
    fn touched_ports_are_each_there_once() {
        let recording = super::super::tests_support::recording();
        let accesses: Vec<&Access> = recording.accesses.iter().collect();
        let ports: Vec<u16> = touched_ports(&accesses)
            .iter()
            .map(|signal| signal.port)
            .collect();
        assert_eq!(ports, [0x70, 0x71, 0x378, 0x379, 0x37A]);
    }
}
