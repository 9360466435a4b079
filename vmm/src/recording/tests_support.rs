//! Accesses for tests.

use crate::observe::ports::{Decision, Direction, PortRecord};

/// A byte access at `echo.sys+0x1000` that an `lpt` rule at line 3 allows.
pub(crate) fn port(tsc: u64, direction: Direction, port: u16, value: u32) -> PortRecord {
    PortRecord {
        tsc,
        rip: 0x8200_1000,
        port,
        width: 1,
        direction,
        value,
        decision: Decision {
            allowed: true,
            backend: "lpt",
            rule_line: Some(3),
        },
    }
}
