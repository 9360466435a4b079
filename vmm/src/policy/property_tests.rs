//! Decisions about memory, PCI functions and MSRs are those of a naive reference, for random rules and accesses.
//!
//! The reference knows nothing of [`Policy`]: it is computed from the generated rules as docs/policy.md words them, one
//! byte, page or register after the other. Ports have the same in `ports/space/rule_tests.rs`.

mod limits;
mod memory;
mod msrs;
mod pci;

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::ports::{Action, DenialReason, Width};

const DENIALS: [(&str, Action); 3] = [
    ("ignore", Action::Ignored),
    ("fault", Action::Fault),
    ("stop", Action::Stop),
];
/// The last one is `deny`, which has no access.
const ACCESSES: [&str; 4] = ["r", "w", "rw", ""];

fn allows(access: &str, is_write: bool) -> bool {
    access.contains(if is_write { 'w' } else { 'r' })
}

fn parsed(text: &str) -> Policy {
    Policy::from_str("random.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn mask_of(count: u16) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(count))
}

/// A number as a policy writes one of any size.
fn number(value: u64) -> String {
    if i64::try_from(value).is_ok() {
        value.to_string()
    } else {
        format!("\"{value:#x}\"")
    }
}

fn byte_of(value: u64, byte: u16) -> u8 {
    value.to_le_bytes()[usize::from(byte)]
}
