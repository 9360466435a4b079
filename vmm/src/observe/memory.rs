//! Accesses to a device's memory that left the guest, as the trace and the crash reports show them.

use std::fmt;

use serde::Serialize;

use super::clock::Timestamp;
use super::hex::Hex;
use super::ports::{Decision, Direction};

/// One load or store. `Copy` and without allocations: one is made for each exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Time-stamp counter of the guest.
    pub tsc: u64,
    /// Address of the instruction.
    pub rip: u64,
    /// Physical address.
    pub address: u64,
    /// Bytes: 1 to 8.
    pub bytes: u8,
    /// Read or write.
    pub direction: Direction,
    /// What was read or written.
    pub value: u64,
    /// Whose memory it is.
    pub decision: Decision,
}

impl fmt::Display for MemoryRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, arrow) = match self.direction {
            Direction::Read => ("read", "->"),
            Direction::Write => ("write", "<-"),
        };
        write!(
            f,
            "memory {verb} u{} {:#x} {arrow} {:#0digits$x} ({})",
            u32::from(self.bytes) * 8,
            self.address,
            self.value,
            self.decision,
            digits = usize::from(self.bytes) * 2 + 2,
        )
    }
}

/// A [`MemoryRecord`] as a JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryJson {
    /// Always `memory`.
    pub event: &'static str,
    /// Microseconds since boot.
    pub t_us: u64,
    /// Address of the instruction.
    pub rip: Hex,
    /// Physical address.
    pub address: Hex,
    /// Bytes.
    pub width: u8,
    /// Read or write.
    pub direction: Direction,
    /// Value read or written.
    pub value: Hex,
    /// Whose memory it is.
    pub decision: Decision,
}

impl MemoryRecord {
    /// The record as a JSON object.
    #[must_use]
    pub fn json(&self, time: Timestamp) -> MemoryJson {
        MemoryJson {
            event: "memory",
            t_us: time.0,
            rip: Hex(self.rip),
            address: Hex(self.address),
            width: self.bytes,
            direction: self.direction,
            value: Hex(self.value),
            decision: self.decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_and_an_object_for_programs() {
        let write = MemoryRecord {
            tsc: 0,
            rip: 0x8200_1000,
            address: 0xFEB0_0004,
            bytes: 2,
            direction: Direction::Write,
            value: 0x41,
            decision: Decision {
                allowed: true,
                backend: "pci",
                rule_line: Some(3),
            },
        };
        assert_eq!(
            write.to_string(),
            "memory write u16 0xfeb00004 <- 0x0041 (pci, rule line 3)"
        );
        assert_eq!(
            serde_json::to_string(&write.json(Timestamp(12))).unwrap(),
            r#"{"event":"memory","t_us":12,"rip":"0x82001000","address":"0xfeb00004","width":2,"direction":"write","value":"0x41","decision":{"allowed":true,"backend":"pci","rule_line":3}}"#
        );
    }
}
