//! I/O control codes: which codes a driver's dispatch routines tell apart.
//!
//! Each dispatch routine is run with codes that no driver has. If no step of that depended on the code, no other code
//! leads elsewhere. Otherwise the constants in the instructions that were run give neighbourhoods to look at: each code
//! in them is run as well, which may lead to further instructions with constants. A code is handled if it leads elsewhere
//! than those that no driver has. So comparisons, subtraction chains, bit tests and jump tables are all one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use iced_x86::{Mnemonic, OpKind};
use serde::Serialize;

use super::code::{Code, has_memory};
use super::emulate::Machine;
use super::walk::Walk;

const IRP_MJ_DEVICE_CONTROL: u8 = 14;
const IRP_MJ_INTERNAL_DEVICE_CONTROL: u8 = 15;
/// How far around a constant codes are looked for.
const BEFORE: u32 = 0x40;
const BEHIND: u32 = 0x100;
/// Most codes that are tried on one routine, and most instructions that are run for all codes and routines.
const CANDIDATES_MAX: usize = 60_000;
const INSTRUCTIONS_MAX: u64 = 60_000_000;
/// More codes than this that all lead to one place are a range that is refused or passed on.
const TOGETHER_MAX: usize = 16;
/// Most routines that are tried.
const ROUTINES_MAX: usize = 64;
/// Codes that no driver has: their device type is 0 or 0xFFFF.
const NOBODYS: [u32; 4] = [0, 3, 0x0000_8000, 0xFFFF_FFFF];

/// An I/O control code, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ControlCode {
    /// The code.
    pub code: u32,
    /// Device type: bits 16 to 31.
    pub device_type: u16,
    /// Function: bits 2 to 13.
    pub function: u16,
    /// `buffered`, `in_direct`, `out_direct` or `neither`: bits 0 and 1.
    pub method: &'static str,
    /// `any`, `read`, `write` or `read_write`: bits 14 and 15.
    pub access: &'static str,
}

impl ControlCode {
    /// Takes a code apart.
    #[must_use]
    pub fn new(code: u32) -> Self {
        let bits = |shift: u32, mask: u32| u16::try_from(code >> shift & mask).unwrap_or(0);
        Self {
            code,
            device_type: bits(16, 0xFFFF),
            function: bits(2, 0xFFF),
            method: match code & 3 {
                0 => "buffered",
                1 => "in_direct",
                2 => "out_direct",
                _ => "neither",
            },
            access: match code >> 14 & 3 {
                0 => "any",
                1 => "read",
                2 => "write",
                _ => "read_write",
            },
        }
    }
}

/// What a search has found.
#[derive(Debug)]
pub(super) struct Search {
    /// The codes that the driver tells apart.
    pub(super) codes: Vec<ControlCode>,
    /// Whether no limit cut the search short.
    pub(super) is_complete: bool,
    /// How many instructions were run.
    #[cfg_attr(not(test), expect(dead_code, reason = "what tests measure"))]
    pub(super) instructions: u64,
}

/// Looks for the codes that the driver tells apart.
pub(super) fn find(code: &mut Code<'_>, walk: &Walk, deadline: Instant) -> Search {
    let is_framework = imports(code, "WdfVersionBind");
    let mut found = BTreeSet::new();
    let mut is_complete = true;
    let mut machine = Machine::new(code, INSTRUCTIONS_MAX, deadline);
    for routine in routines(walk) {
        for is_argument in [false, true] {
            if is_argument && !is_framework {
                continue;
            }
            let (codes, is_end) = handled(&mut machine, routine, is_argument);
            found.extend(codes);
            is_complete &= is_end;
        }
    }
    Search {
        codes: found.into_iter().map(ControlCode::new).collect(),
        is_complete,
        instructions: INSTRUCTIONS_MAX - machine.budget,
    }
}

fn imports(code: &Code<'_>, name: &str) -> bool {
    code.image
        .imports
        .iter()
        .any(|import| import.name() == Some(name))
}

/// Where device controls arrive; every callback if no assignment was seen.
fn routines(walk: &Walk) -> Vec<u64> {
    let assigned = [IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL]
        .into_iter()
        .filter_map(|number| walk.major_functions.get(&number))
        .flatten()
        .copied();
    let known: BTreeSet<u64> = assigned.collect();
    let all = if known.is_empty() {
        &walk.callbacks
    } else {
        &known
    };
    all.iter().copied().take(ROUTINES_MAX).collect()
}

/// The codes that a routine tells apart, and whether no limit was in the way.
fn handled(machine: &mut Machine<'_, '_>, routine: u64, is_argument: bool) -> (Vec<u32>, bool) {
    machine.begin_routine();
    let mut default = BTreeSet::new();
    for nobodys in NOBODYS {
        default.extend(machine.leaves(routine, nobodys, is_argument));
    }
    let mut by_leaf: BTreeMap<Vec<u64>, Vec<u32>> = BTreeMap::new();
    let mut constants = BTreeSet::new();
    let mut tried = BTreeSet::new();
    let mut is_complete = !machine.is_over;
    while machine.has_asked && is_complete {
        let mut candidates = BTreeSet::new();
        for address in machine.take_new() {
            for constant in numbers(machine.code, address) {
                if constants.insert(constant) {
                    let first = constant.saturating_sub(BEFORE);
                    let around = first..=constant.saturating_add(BEHIND);
                    candidates.extend(around.filter(|&candidate| is_plausible(candidate)));
                }
            }
        }
        candidates.retain(|&candidate| tried.insert(candidate));
        if candidates.is_empty() {
            break;
        }
        for candidate in candidates {
            let leaves = machine.leaves(routine, candidate, is_argument);
            if machine.is_over || tried.len() > CANDIDATES_MAX {
                is_complete = false;
                break;
            }
            let new: Vec<u64> = leaves.difference(&default).copied().collect();
            if !new.is_empty() {
                by_leaf.entry(new).or_default().push(candidate);
            }
        }
    }
    let codes = by_leaf
        .into_values()
        .filter(|codes| codes.len() <= TOGETHER_MAX)
        .flatten()
        .collect();
    (codes, is_complete)
}

/// A code with a device type that is not the head of an NTSTATUS.
fn is_plausible(code: u32) -> bool {
    let device_type = code >> 16;
    device_type != 0 && device_type != 0xFFFF && device_type != 0xC000
}

/// Numbers that an instruction compares with, subtracts or adds, and that may be codes.
fn numbers(code: &mut Code<'_>, address: u64) -> Vec<u32> {
    let Some(instruction) = code.decode(address) else {
        return Vec::new();
    };
    let number = match instruction.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Sub | Mnemonic::Add | Mnemonic::Mov | Mnemonic::Xor => {
            let operand = instruction.op_count() - 1;
            let is_number = matches!(
                instruction.op_kind(operand),
                OpKind::Immediate32 | OpKind::Immediate32to64
            );
            is_number.then(|| instruction.immediate(operand))
        }
        Mnemonic::Lea if has_memory(&instruction) && !instruction.is_ip_rel_memory_operand() => {
            Some(instruction.memory_displacement64())
        }
        _ => None,
    };
    let number = number.map(|number| u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0));
    number
        .filter(|&number| !code.contains(u64::from(number)))
        .into_iter()
        .flat_map(|number| [number, number.wrapping_neg()])
        .filter(|&number| is_plausible(number))
        .collect()
}
