//! What instructions do, as far as it matters here, and whether branches are taken.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::{Flags, Machine, State, Value, mask, sign_bit};

impl Machine<'_, '_> {
    pub(super) fn execute(&mut self, instruction: &Instruction, state: &mut State) {
        let bytes = Self::width(instruction);
        match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.operand(instruction, 1, state);
                self.store(instruction, value, state);
            }
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let from = match instruction.op1_kind() {
                    OpKind::Register => instruction.op1_register().size(),
                    _ => instruction.memory_size().size(),
                };
                let value = self.operand(instruction, 1, state).map(|value| {
                    let sign = sign_bit(from);
                    let number = (value.number ^ sign).wrapping_sub(sign) & mask(bytes);
                    Value { number, ..value }
                });
                self.store(instruction, value, state);
            }
            Mnemonic::Lea => {
                let value = self.address(instruction, state).map(|value| Value {
                    number: value.number & mask(bytes),
                    ..value
                });
                self.store(instruction, value, state);
            }
            Mnemonic::Push => {
                let value = self.operand(instruction, 0, state);
                self.push(state, value);
            }
            Mnemonic::Pop => {
                let place = state.registers.get(&Register::RSP).copied();
                let value = place.and_then(|place| state.stack.get(&place.number).copied());
                let word = self.code.word() as u64;
                self.adjust_stack(state, word);
                self.store(instruction, value.map(|(_, value)| value), state);
            }
            Mnemonic::Leave => {
                let frame = state.registers.get(&Register::RBP).copied();
                if let Some(frame) = frame {
                    state.registers.insert(Register::RSP, frame);
                }
                let place = state.registers.get(&Register::RSP).copied();
                let value = place.and_then(|place| state.stack.get(&place.number).copied());
                Self::set_register(Register::RBP, value.map(|(_, value)| value), state);
                let word = self.code.word() as u64;
                self.adjust_stack(state, word);
            }
            mnemonic => {
                let has_operands = instruction.op_count() != 0;
                if !has_operands || !self.compute(instruction, mnemonic, bytes, state) {
                    self.forget(instruction, state);
                }
            }
        }
    }

    /// Arithmetic; `false` for an instruction that is not known here.
    fn compute(
        &self,
        instruction: &Instruction,
        mnemonic: Mnemonic,
        bytes: usize,
        state: &mut State,
    ) -> bool {
        let left = self.operand(instruction, 0, state);
        let right = match mnemonic {
            Mnemonic::Inc | Mnemonic::Dec => Some(Value {
                number: 1,
                is_code: false,
            }),
            Mnemonic::Neg | Mnemonic::Not => left,
            _ if instruction.op_count() == 2 => self.operand(instruction, 1, state),
            _ => return false,
        };
        let is_same = instruction.op_count() == 2
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
        if is_same && matches!(mnemonic, Mnemonic::Xor | Mnemonic::Sub) {
            let zero = Value {
                number: 0,
                is_code: false,
            };
            self.store(instruction, Some(zero), state);
            state.flags = None;
            return true;
        }
        let all = mask(bytes);
        let result = left.zip(right).and_then(|(left, right)| {
            let is_code = left.is_code || right.is_code;
            let (a, b) = (left.number & all, right.number & all);
            let count = u32::try_from(right.number & if bytes == 8 { 63 } else { 31 }).ok()?;
            let bits = u32::try_from(8 * bytes).ok()?;
            let (number, carry, overflow) = match mnemonic {
                Mnemonic::Add | Mnemonic::Inc => {
                    let sum = a.wrapping_add(b) & all;
                    (sum, sum < a, !(a ^ b) & (a ^ sum) & sign_bit(bytes) != 0)
                }
                Mnemonic::Sub | Mnemonic::Cmp | Mnemonic::Dec => {
                    let difference = a.wrapping_sub(b) & all;
                    let overflow = (a ^ b) & (a ^ difference) & sign_bit(bytes) != 0;
                    (difference, a < b, overflow)
                }
                Mnemonic::And | Mnemonic::Test => (a & b, false, false),
                Mnemonic::Or => (a | b, false, false),
                Mnemonic::Xor => (a ^ b, false, false),
                Mnemonic::Neg => (a.wrapping_neg() & all, a != 0, false),
                Mnemonic::Not => (!a & all, false, false),
                Mnemonic::Shl => (a.wrapping_shl(count) & all, false, false),
                Mnemonic::Shr => (a >> count, false, false),
                Mnemonic::Ror if count < bits => (rotate(a, count, bits) & all, false, false),
                Mnemonic::Rol if count < bits => {
                    (rotate(a, (bits - count) % bits, bits) & all, false, false)
                }
                Mnemonic::Bt => (a, a >> (b & u64::from(bits - 1)) & 1 != 0, false),
                _ => return None,
            };
            let flags = Flags {
                carry,
                zero: number == 0,
                sign: number & sign_bit(bytes) != 0,
                overflow,
                is_code,
            };
            Some((Value { number, is_code }, flags))
        });
        let is_known = matches!(
            mnemonic,
            Mnemonic::Add
                | Mnemonic::Inc
                | Mnemonic::Sub
                | Mnemonic::Cmp
                | Mnemonic::Dec
                | Mnemonic::And
                | Mnemonic::Test
                | Mnemonic::Or
                | Mnemonic::Xor
                | Mnemonic::Neg
                | Mnemonic::Not
                | Mnemonic::Shl
                | Mnemonic::Shr
                | Mnemonic::Ror
                | Mnemonic::Rol
                | Mnemonic::Bt
        );
        if !is_known {
            return false;
        }
        if mnemonic != Mnemonic::Not {
            state.flags = result.map(|(_, flags)| flags);
        }
        if !matches!(mnemonic, Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt) {
            self.store(instruction, result.map(|(value, _)| value), state);
        }
        true
    }

    /// An instruction that is not known here: what it writes is unknown.
    fn forget(&mut self, instruction: &Instruction, state: &mut State) {
        if instruction.rflags_modified() != 0 {
            state.flags = None;
        }
        let information = self.information.info(instruction);
        for used in information.used_registers() {
            let is_written = matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
            let register = used.register().full_register();
            if is_written && register != Register::RSP {
                state.registers.remove(&register);
            }
        }
    }
}

fn rotate(value: u64, right: u32, bits: u32) -> u64 {
    if right == 0 {
        return value;
    }
    value >> right | value << (bits - right)
}

/// Whether a conditional branch is taken; `None` when the flags are unknown.
pub(super) fn condition(instruction: &Instruction, flags: Option<Flags>) -> Option<bool> {
    use iced_x86::ConditionCode as On;
    let Flags {
        carry,
        zero,
        sign,
        overflow,
        ..
    } = flags?;
    Some(match instruction.condition_code() {
        On::e => zero,
        On::ne => !zero,
        On::b => carry,
        On::ae => !carry,
        On::be => carry || zero,
        On::a => !carry && !zero,
        On::l => sign != overflow,
        On::ge => sign == overflow,
        On::le => zero || sign != overflow,
        On::g => !zero && sign == overflow,
        On::s => sign,
        On::ns => !sign,
        On::o => overflow,
        On::no => !overflow,
        _ => return None,
    })
}
