//! Accesses to model-specific registers as the trace and the crash reports show them.

use std::fmt;

use serde::Serialize;

use super::clock::Timestamp;
use super::hex::Hex;
use super::ports::{Decision, Direction};

/// One `rdmsr` or `wrmsr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRecord {
    /// Time-stamp counter of the guest.
    pub tsc: u64,
    /// Address of the instruction.
    pub rip: u64,
    /// The MSR.
    pub number: u32,
    /// Read or write.
    pub direction: Direction,
    /// What was read or written.
    pub value: u64,
    /// What the policy said.
    pub decision: Decision,
}

impl fmt::Display for MsrRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, arrow) = match self.direction {
            Direction::Read => ("rdmsr", "->"),
            Direction::Write => ("wrmsr", "<-"),
        };
        write!(
            f,
            "{verb} {:#x} {arrow} {:#x} ({})",
            self.number, self.value, self.decision
        )
    }
}

/// A [`MsrRecord`] as a JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct MsrJson {
    /// Always `msr`.
    pub event: &'static str,
    /// Microseconds since boot.
    pub t_us: u64,
    /// Address of the instruction.
    pub rip: Hex,
    /// The MSR.
    pub number: Hex,
    /// Read or write.
    pub direction: Direction,
    /// Value read or written.
    pub value: Hex,
    /// What the policy said.
    pub decision: Decision,
}

impl MsrRecord {
    /// The record as a JSON object.
    #[must_use]
    pub fn json(&self, time: Timestamp) -> MsrJson {
        MsrJson {
            event: "msr",
            t_us: time.0,
            rip: Hex(self.rip),
            number: Hex(u64::from(self.number)),
            direction: self.direction,
            value: Hex(self.value),
            decision: self.decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: MsrRecord = MsrRecord {
        tsc: 0,
        rip: 0x8200_1000,
        number: 0xC001_0015,
        direction: Direction::Read,
        value: 0xFFFF_0000_0000_0001,
        decision: Decision {
            allowed: true,
            backend: "passthrough",
            rule_line: Some(3),
        },
    };

    #[test]
    fn a_line_for_people_and_an_object_for_programs() {
        assert_eq!(
            READ.to_string(),
            "rdmsr 0xc0010015 -> 0xffff000000000001 (passthrough, rule line 3)"
        );
        assert_eq!(
            serde_json::to_string(&READ.json(Timestamp(12))).unwrap(),
            r#"{"event":"msr","t_us":12,"rip":"0x82001000","number":"0xc0010015","direction":"read","value":"0xffff000000000001","decision":{"allowed":true,"backend":"passthrough","rule_line":3}}"#
        );
    }
}
