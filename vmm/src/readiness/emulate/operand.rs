//! Operands: registers, the emulated stack, constants, and the I/O control code itself.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{Machine, STACK, STACK_I386, STACK_ROOM, State, Value, mask};
use crate::readiness::code::{fixed_address, has_memory};

impl Machine<'_, '_> {
    pub(super) fn register(&self, register: Register, state: &State) -> Option<Value> {
        let value = state.registers.get(&register.full_register())?;
        let is_high = matches!(
            register,
            Register::AH | Register::BH | Register::CH | Register::DH
        );
        let number = if is_high {
            value.number >> 8
        } else {
            value.number
        };
        Some(Value {
            number: number & mask(register.size()),
            is_code: value.is_code,
        })
    }

    pub(super) fn set_register(register: Register, value: Option<Value>, state: &mut State) {
        let full = register.full_register();
        let merged = match (register.size(), value) {
            (4 | 8, value) => value,
            (bytes, Some(value)) => state.registers.get(&full).map(|old| {
                let (keep, number) = if matches!(
                    register,
                    Register::AH | Register::BH | Register::CH | Register::DH
                ) {
                    (!0xFF00, value.number << 8)
                } else {
                    (!mask(bytes), value.number)
                };
                Value {
                    number: old.number & keep | number,
                    is_code: value.is_code || old.is_code,
                }
            }),
            (_, None) => None,
        };
        match merged {
            Some(value) => state.registers.insert(full, value),
            None => state.registers.remove(&full),
        };
    }

    /// The address of a memory operand; `None` when part of it is unknown.
    pub(super) fn address(&self, instruction: &Instruction, state: &State) -> Option<Value> {
        if let Some(address) = fixed_address(instruction) {
            return Some(Value {
                number: address,
                is_code: false,
            });
        }
        let mut sum = Value {
            number: instruction.memory_displacement64(),
            is_code: false,
        };
        for (register, scale) in [
            (instruction.memory_base(), 1),
            (
                instruction.memory_index(),
                u64::from(instruction.memory_index_scale()),
            ),
        ] {
            if register != Register::None {
                let part = self.register(register, state)?;
                sum.number = sum.number.wrapping_add(part.number.wrapping_mul(scale));
                sum.is_code |= part.is_code;
            }
        }
        sum.number &= mask(self.code.word());
        Some(sum)
    }

    /// Whether what is known behind the instruction depends on the code: a place that it addresses, or a count by which it
    /// shifts.
    pub(super) fn is_looked_up(&self, instruction: &Instruction, state: &State) -> bool {
        let is_code = |value: Option<Value>| value.is_some_and(|value| value.is_code);
        let is_addressed = instruction.mnemonic() != Mnemonic::Lea
            && has_memory(instruction)
            && is_code(self.address(instruction, state));
        let is_shift = matches!(instruction.mnemonic(), Mnemonic::Ror | Mnemonic::Rol);
        is_addressed || is_shift && is_code(self.operand(instruction, 1, state))
    }

    fn is_stack(&self, address: u64) -> bool {
        let top = if self.code.is_wide() {
            STACK
        } else {
            STACK_I386
        };
        address.wrapping_sub(top - 0x10_0000) < 0x10_0000 + STACK_ROOM
    }

    fn load(&self, instruction: &Instruction, bytes: usize, state: &State) -> Option<Value> {
        let Some(place) = self.address(instruction, state) else {
            // IO_STACK_LOCATION.Parameters.DeviceIoControl.IoControlCode, of whatever structure.
            let offset = if self.code.is_wide() { 0x18 } else { 0x0C };
            let is_code = bytes == 4
                && instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == offset;
            return is_code.then_some(Value {
                number: self.control_code,
                is_code: true,
            });
        };
        if self.is_stack(place.number) {
            let (stored, value) = state.stack.get(&place.number)?;
            return (bytes <= *stored).then(|| Value {
                number: value.number & mask(bytes),
                is_code: value.is_code,
            });
        }
        // Constants: a table of a switch is in code or read-only data.
        if place.is_code {
            let number = self.code.number(place.number, bytes)?;
            return Some(Value {
                number,
                is_code: true,
            });
        }
        None
    }

    pub(super) fn operand(
        &self,
        instruction: &Instruction,
        operand: u32,
        state: &State,
    ) -> Option<Value> {
        match instruction.op_kind(operand) {
            OpKind::Register => self.register(instruction.op_register(operand), state),
            OpKind::Memory => self.load(instruction, instruction.memory_size().size(), state),
            _ => {
                let number = instruction.try_immediate(operand).ok()?;
                Some(Value {
                    number,
                    is_code: false,
                })
            }
        }
    }

    pub(super) fn width(instruction: &Instruction) -> usize {
        match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            OpKind::Memory => instruction.memory_size().size(),
            _ => 4,
        }
    }

    pub(super) fn store(&self, instruction: &Instruction, value: Option<Value>, state: &mut State) {
        match instruction.op0_kind() {
            OpKind::Register => Self::set_register(instruction.op0_register(), value, state),
            OpKind::Memory => {
                let place = self.address(instruction, state);
                if let Some(place) = place.filter(|place| self.is_stack(place.number)) {
                    state.store(place.number, instruction.memory_size().size(), value);
                }
            }
            _ => {}
        }
    }
}
