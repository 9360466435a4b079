//! Loads from KUSER_SHARED_DATA at its fixed amd64 address in ring3 mode.
//!
//! The upper half of the address space cannot be reached at CPL 3 on a paravirtual KVM; the same data lies
//! at `kernel_base + layout::KUSER`.

use abi::layout::{KUSER, KUSER_AMD64, PAGE_SIZE};

use super::decode::{Instruction, Map};
use super::{register, set_register};
use crate::platform::Trap;
use crate::raw::{low8, volatile_read};
use crate::shared;

/// Bits of a page fault's error code: write, instruction fetch.
const PF_WRITE_OR_FETCH: u32 = 2 | 16;
const CARRY: u64 = 1;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
const ARITHMETIC_FLAGS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
/// RSP's number: with a REX prefix byte registers 4 to 7 are SPL to DIL, without it AH to BH.
const FIRST_HIGH_BYTE: u8 = 4;

/// Whether a page fault is a load from the fixed address.
pub(super) fn is_shared_data(trap: &Trap) -> bool {
    !cfg!(nt_i386)
        && trap.error_code & PF_WRITE_OR_FETCH == 0
        && (KUSER_AMD64..KUSER_AMD64 + PAGE_SIZE).contains(&trap.registers.cr2)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Move,
    Add,
    Or,
    And,
    Subtract,
    Xor,
    Compare,
    Test,
}

/// Carries out the load; false for a form that is not known.
pub(super) fn emulate(trap: &mut Trap, instruction: &Instruction) -> bool {
    if !instruction.is_memory {
        return false;
    }
    let wide = instruction.operand_bytes;
    let Some((operation, memory_bytes)) = operation(instruction, wide) else {
        return false;
    };
    let Some(memory) = read(trap.registers.cr2, memory_bytes) else {
        return false;
    };
    match (instruction.map, instruction.opcode) {
        (Map::Two, 0xB6 | 0xB7) => put(trap, instruction, instruction.reg, wide, memory),
        (Map::Two, 0xBE | 0xBF) | (Map::One, 0x63) => {
            let value = sign_extend(memory, memory_bytes);
            put(trap, instruction, instruction.reg, wide, value);
        }
        (Map::One, 0xA0 | 0xA1) => put(trap, instruction, 0, memory_bytes, memory),
        _ => {
            let from_immediate = matches!(instruction.opcode, 0x80 | 0x81 | 0x83 | 0xF6 | 0xF7);
            let other = if from_immediate {
                instruction.immediate.cast_unsigned()
            } else {
                get(trap, instruction, instruction.reg, memory_bytes)
            };
            // CMP with memory first (38, 39, immediates) subtracts the other from memory.
            let is_memory_first = from_immediate || matches!(instruction.opcode, 0x38 | 0x39);
            let (left, right) = if is_memory_first {
                (memory, other)
            } else {
                (other, memory)
            };
            let result = compute(trap, operation, left, right, memory_bytes);
            if let Some(result) = result {
                put(trap, instruction, instruction.reg, memory_bytes, result);
            }
        }
    }
    trap.registers.rip += u64::from(instruction.length);
    true
}

/// What the instruction does, and how many bytes it loads.
fn operation(instruction: &Instruction, wide: u8) -> Option<(Operation, u8)> {
    Some(match (instruction.map, instruction.opcode) {
        (Map::Two, 0xB6 | 0xBE) => (Operation::Move, 1),
        (Map::Two, 0xB7 | 0xBF) => (Operation::Move, 2),
        (Map::One, 0x63) => (Operation::Move, 4),
        (Map::One, 0x8A | 0xA0) => (Operation::Move, 1),
        (Map::One, 0x8B | 0xA1) => (Operation::Move, wide),
        (Map::One, 0x84) => (Operation::Test, 1),
        (Map::One, 0x85) => (Operation::Test, wide),
        (Map::One, 0xF6) if instruction.reg & 7 <= 1 => (Operation::Test, 1),
        (Map::One, 0xF7) if instruction.reg & 7 <= 1 => (Operation::Test, wide),
        (Map::One, 0x80) if instruction.reg & 7 == 7 => (Operation::Compare, 1),
        (Map::One, 0x81 | 0x83) if instruction.reg & 7 == 7 => (Operation::Compare, wide),
        (
            Map::One,
            opcode @ (0x02
            | 0x03
            | 0x0A
            | 0x0B
            | 0x22
            | 0x23
            | 0x2A
            | 0x2B
            | 0x32
            | 0x33
            | 0x38..=0x3B),
        ) => {
            let operation = match opcode & 0x38 {
                0x00 => Operation::Add,
                0x08 => Operation::Or,
                0x20 => Operation::And,
                0x28 => Operation::Subtract,
                0x30 => Operation::Xor,
                _ => Operation::Compare,
            };
            (operation, if opcode & 1 == 0 { 1 } else { wide })
        }
        _ => return None,
    })
}

fn read(address: u64, bytes: u8) -> Option<u64> {
    let offset = address.checked_sub(KUSER_AMD64)?;
    if offset + u64::from(bytes) > PAGE_SIZE {
        return None;
    }
    let alias = shared::kernel_base() + KUSER + offset;
    let mut value = 0;
    for index in 0..u64::from(bytes) {
        value |= u64::from(volatile_read::<u8>(alias + index)) << (8 * index);
    }
    Some(value)
}

const fn mask(bytes: u8) -> u64 {
    match bytes {
        1 => 0xFF,
        2 => 0xFFFF,
        4 => 0xFFFF_FFFF,
        _ => u64::MAX,
    }
}

fn sign_extend(value: u64, bytes: u8) -> u64 {
    let shift = 64 - 8 * u32::from(bytes);
    ((value << shift).cast_signed() >> shift).cast_unsigned()
}

fn is_high_byte(instruction: &Instruction, number: u8, bytes: u8) -> bool {
    bytes == 1 && !instruction.has_rex && (FIRST_HIGH_BYTE..8).contains(&number)
}

fn get(trap: &Trap, instruction: &Instruction, number: u8, bytes: u8) -> u64 {
    if is_high_byte(instruction, number, bytes) {
        return register(trap, number - FIRST_HIGH_BYTE) >> 8 & 0xFF;
    }
    register(trap, number) & mask(bytes)
}

fn put(trap: &mut Trap, instruction: &Instruction, number: u8, bytes: u8, value: u64) {
    if is_high_byte(instruction, number, bytes) {
        let number = number - FIRST_HIGH_BYTE;
        let whole = register(trap, number) & !0xFF00 | (value & 0xFF) << 8;
        set_register(trap, number, whole);
        return;
    }
    let whole = match bytes {
        // A 32-bit result clears the upper half.
        4 => value & mask(4),
        8 => value,
        _ => register(trap, number) & !mask(bytes) | value & mask(bytes),
    };
    set_register(trap, number, whole);
}

/// Sets the flags; the result, for an operation that stores one.
fn compute(trap: &mut Trap, operation: Operation, left: u64, right: u64, bytes: u8) -> Option<u64> {
    let mask = mask(bytes);
    let sign = 1_u64 << (8 * u32::from(bytes) - 1);
    let (left, right) = (left & mask, right & mask);
    let (result, carry, overflow) = match operation {
        Operation::Move => return Some(right),
        Operation::Add => {
            let result = left.wrapping_add(right) & mask;
            (
                result,
                result < left,
                !(left ^ right) & (left ^ result) & sign != 0,
            )
        }
        Operation::Subtract | Operation::Compare => {
            let result = left.wrapping_sub(right) & mask;
            (
                result,
                left < right,
                (left ^ right) & (left ^ result) & sign != 0,
            )
        }
        Operation::Or => (left | right, false, false),
        Operation::And | Operation::Test => (left & right, false, false),
        Operation::Xor => (left ^ right, false, false),
    };
    let mut flags = trap.registers.rflags & !ARITHMETIC_FLAGS;
    for (is_set, flag) in [
        (carry, CARRY),
        (low8(result).count_ones().is_multiple_of(2), PARITY),
        ((left ^ right ^ result) & 0x10 != 0, ADJUST),
        (result == 0, ZERO),
        (result & sign != 0, SIGN),
        (overflow, OVERFLOW),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    trap.registers.rflags = flags;
    (!matches!(operation, Operation::Compare | Operation::Test)).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::crash::Registers;

    fn trap() -> Trap {
        Trap {
            vector: 14,
            error_code: 4,
            registers: Registers::default(),
            is_32_bit: false,
        }
    }

    #[test]
    fn compare_sets_flags_and_keeps_the_register() {
        let mut trap = trap();
        assert_eq!(compute(&mut trap, Operation::Compare, 5, 7, 4), None);
        assert_ne!(trap.registers.rflags & CARRY, 0);
        assert_ne!(trap.registers.rflags & SIGN, 0);
        assert_eq!(trap.registers.rflags & ZERO, 0);
        assert_eq!(compute(&mut trap, Operation::Compare, 7, 7, 4), None);
        assert_eq!(trap.registers.rflags & (ZERO | CARRY), ZERO);
    }

    #[test]
    fn signed_overflow_is_seen() {
        let mut trap = trap();
        assert_eq!(compute(&mut trap, Operation::Add, 0x7F, 1, 1), Some(0x80));
        assert_ne!(trap.registers.rflags & OVERFLOW, 0);
        assert_eq!(
            compute(&mut trap, Operation::Subtract, 0x80, 1, 1),
            Some(0x7F)
        );
        assert_ne!(trap.registers.rflags & OVERFLOW, 0);
    }

    #[test]
    fn narrow_results_keep_or_clear_the_rest_of_the_register() {
        let instruction = super::super::decode::decode(&[0x8A, 0x20], true).unwrap();
        let mut trap = trap();
        trap.registers.general[0] = u64::MAX;
        // mov ah, [rax]
        put(&mut trap, &instruction, instruction.reg, 1, 0x12);
        assert_eq!(trap.registers.general[0], 0xFFFF_FFFF_FFFF_12FF);
        put(&mut trap, &instruction, 0, 4, 0x8000_0000);
        assert_eq!(trap.registers.general[0], 0x8000_0000);
    }
}
