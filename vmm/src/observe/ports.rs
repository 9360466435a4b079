//! Port accesses as the trace and the crash reports show them.

use super::clock::Timestamp;
use super::hex::Hex;
use serde::Serialize;
use std::fmt;

/// Read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// `in`
    Read,
    /// `out`
    Write,
}

/// What the policy said about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether a back end got the access.
    pub allowed: bool,
    /// The back end's or the denial's name: `passthrough`, `lpt`, `ram`, `deny`.
    pub backend: &'static str,
    /// Line of the policy file that the rule begins at; `None` when no rule matches (default deny).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_line: Option<u32>,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.allowed { self.backend } else { "denied" };
        match self.rule_line {
            Some(line) => write!(f, "{what}, rule line {line}"),
            None => write!(f, "{what}, no rule"),
        }
    }
}

/// One port access. `Copy` and without allocations: one is made for each port exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// Time-stamp counter of the guest.
    pub tsc: u64,
    /// Address of the instruction.
    pub rip: u64,
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// Read or write.
    pub direction: Direction,
    /// What was read or written.
    pub value: u32,
    /// What the policy said.
    pub decision: Decision,
}

impl fmt::Display for PortRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, arrow) = match self.direction {
            Direction::Read => ("read", "->"),
            Direction::Write => ("write", "<-"),
        };
        write!(
            f,
            "port {verb} u{} {:#x} {arrow} {:#0digits$x} ({})",
            u32::from(self.width) * 8,
            self.port,
            self.value,
            self.decision,
            digits = usize::from(self.width) * 2 + 2,
        )
    }
}

/// A [`PortRecord`] as a JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct PortJson {
    /// Always `port`.
    pub event: &'static str,
    /// Microseconds since boot.
    pub t_us: u64,
    /// Address of the instruction.
    pub rip: Hex,
    /// First port.
    pub port: Hex,
    /// Bytes.
    pub width: u8,
    /// Read or write.
    pub direction: Direction,
    /// Value read or written.
    pub value: Hex,
    /// What the policy said.
    pub decision: Decision,
}

impl PortRecord {
    /// The record as a JSON object.
    #[must_use]
    pub fn json(&self, time: Timestamp) -> PortJson {
        PortJson {
            event: "port",
            t_us: time.0,
            rip: Hex(self.rip),
            port: Hex(u64::from(self.port)),
            width: self.width,
            direction: self.direction,
            value: Hex(u64::from(self.value)),
            decision: self.decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: PortRecord = PortRecord {
        tsc: 0,
        rip: 0x8200_1000,
        port: 0x378,
        width: 1,
        direction: Direction::Write,
        value: 0x41,
        decision: Decision {
            allowed: true,
            backend: "lpt",
            rule_line: Some(3),
        },
    };

    #[test]
    fn allowed_write_names_back_end_and_rule() {
        assert_eq!(
            WRITE.to_string(),
            "port write u8 0x378 <- 0x41 (lpt, rule line 3)"
        );
    }

    #[test]
    fn denied_read_without_rule_says_so() {
        let read = PortRecord {
            port: 0x70,
            width: 4,
            direction: Direction::Read,
            value: 0xFFFF_FFFF,
            decision: Decision {
                allowed: false,
                backend: "deny",
                rule_line: None,
            },
            ..WRITE
        };
        assert_eq!(
            read.to_string(),
            "port read u32 0x70 -> 0xffffffff (denied, no rule)"
        );
    }

    #[test]
    fn json_is_one_object() {
        assert_eq!(
            serde_json::to_string(&WRITE.json(Timestamp(12))).unwrap(),
            r#"{"event":"port","t_us":12,"rip":"0x82001000","port":"0x378","width":1,"direction":"write","value":"0x41","decision":{"allowed":true,"backend":"lpt","rule_line":3}}"#
        );
    }
}
