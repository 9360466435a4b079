//! A small machine that runs a dispatch routine for one I/O control code, to see where that code leads.
//!
//! Everything but the code and constants is unknown. A branch on something unknown is taken both ways; a branch that
//! depends on the code is taken one way, and the place it leads to is where that code is handled, unless a later such
//! branch leads on. Calls of the image's own functions are followed a little, so that a code passed on is seen.

use std::collections::{BTreeSet, HashMap, HashSet};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::code::{Code, fixed_address};

/// How deep calls are followed.
const DEPTH_MAX: usize = 3;
/// Where the emulated stack is.
const STACK: u64 = 0x0010_0000_0000;
const STACK_I386: u64 = 0x7000_0000;
/// Room above the first stack pointer that belongs to the stack as well.
const STACK_ROOM: u64 = 0x1000;
/// Most forks of one run.
const PATHS_MAX: usize = 4096;

/// A number that is known, and whether it comes from the I/O control code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    number: u64,
    is_code: bool,
}

/// Carry, zero, sign, overflow, and whether they come from the code.
#[derive(Clone, Copy, Debug)]
struct Flags {
    carry: bool,
    zero: bool,
    sign: bool,
    overflow: bool,
    is_code: bool,
}

#[derive(Clone, Debug)]
struct State {
    next: u64,
    registers: HashMap<Register, Value>,
    /// Stack contents: bytes and value, by address.
    stack: HashMap<u64, (usize, Value)>,
    flags: Option<Flags>,
    /// Where the last branch that depended on the code led.
    leaf: Option<u64>,
    returns: Vec<u64>,
}

/// Runs one routine for many codes.
pub(super) struct Machine<'a, 'b> {
    code: &'a mut Code<'b>,
    information: InstructionInfoFactory,
    /// Instructions that may still be run.
    pub(super) budget: u64,
    control_code: u64,
}

fn mask(bytes: usize) -> u64 {
    match bytes {
        1 => 0xFF,
        2 => 0xFFFF,
        4 => 0xFFFF_FFFF,
        _ => u64::MAX,
    }
}

fn sign_bit(bytes: usize) -> u64 {
    1 << (8 * bytes.clamp(1, 8) - 1)
}

impl<'a, 'b> Machine<'a, 'b> {
    pub(super) fn new(code: &'a mut Code<'b>, budget: u64) -> Self {
        Self {
            code,
            information: InstructionInfoFactory::new(),
            budget,
            control_code: 0,
        }
    }

    /// The places to which `control_code` leads from `routine`. With `is_argument`, the code is the routine's fifth
    /// argument (EvtIoDeviceControl) and not in an I/O stack location.
    pub(super) fn leaves(
        &mut self,
        routine: u64,
        control_code: u32,
        is_argument: bool,
    ) -> BTreeSet<u64> {
        self.control_code = u64::from(control_code);
        let is_wide = self.code.is_wide();
        let stack = if is_wide { STACK } else { STACK_I386 };
        let mut state = State {
            next: routine,
            registers: HashMap::from([(
                Register::RSP,
                Value {
                    number: stack,
                    is_code: false,
                },
            )]),
            stack: HashMap::new(),
            flags: None,
            leaf: None,
            returns: Vec::new(),
        };
        if is_argument {
            let value = Value {
                number: u64::from(control_code),
                is_code: true,
            };
            let place = stack + if is_wide { 0x28 } else { 0x14 };
            state.stack.insert(place, (4, value));
        }
        let mut leaves = BTreeSet::new();
        let mut visited = HashSet::new();
        let mut paths = vec![state];
        while let Some(path) = paths.pop() {
            let leaf = self.run(path, &mut visited, &mut paths);
            leaves.extend(leaf);
        }
        leaves
    }

    /// Runs a path to its end; the leaf that it reached.
    fn run(
        &mut self,
        mut state: State,
        visited: &mut HashSet<(u64, usize)>,
        paths: &mut Vec<State>,
    ) -> Option<u64> {
        loop {
            let is_new = visited.insert((state.next, state.returns.len()));
            if !is_new || self.budget == 0 {
                return state.leaf;
            }
            self.budget -= 1;
            let Some(instruction) = self.code.decode(state.next) else {
                return state.leaf;
            };
            state.next = instruction.next_ip();
            match instruction.flow_control() {
                FlowControl::Next => self.execute(&instruction, &mut state),
                FlowControl::UnconditionalBranch => state.next = instruction.near_branch_target(),
                FlowControl::ConditionalBranch => {
                    let target = instruction.near_branch_target();
                    match condition(&instruction, state.flags) {
                        Some(is_taken) => {
                            if is_taken {
                                state.next = target;
                            }
                            if state.flags.is_some_and(|flags| flags.is_code) {
                                state.leaf = Some(self.settled(state.next));
                            }
                        }
                        None if paths.len() < PATHS_MAX => {
                            paths.push(State {
                                next: target,
                                ..state.clone()
                            });
                        }
                        None => {}
                    }
                }
                FlowControl::IndirectBranch => {
                    let value = self.operand(&instruction, 0, &state);
                    match value.filter(|value| self.code.is_code(value.number)) {
                        Some(value) => {
                            state.next = value.number;
                            if value.is_code {
                                state.leaf = Some(self.settled(value.number));
                            }
                        }
                        None => return state.leaf,
                    }
                }
                FlowControl::Call if state.returns.len() < DEPTH_MAX => {
                    let target = instruction.near_branch_target();
                    if self.code.is_code(target) && self.is_own_function(target) {
                        let back = state.next;
                        self.push(&mut state, None);
                        state.returns.push(back);
                        state.next = target;
                    } else {
                        self.after_call(&mut state);
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    self.after_call(&mut state);
                    self.pop_arguments(&instruction, &mut state);
                }
                FlowControl::Return => {
                    let Some(back) = state.returns.pop() else {
                        return state.leaf;
                    };
                    let extra = if instruction.op_count() == 1 {
                        instruction.immediate(0)
                    } else {
                        0
                    };
                    self.adjust_stack(&mut state, self.code.word() as u64 + extra);
                    state.next = back;
                }
                _ => return state.leaf,
            }
        }
    }

    /// Follows plain jumps, so that two ways to one place are one.
    fn settled(&mut self, mut address: u64) -> u64 {
        for _ in 0..4 {
            match self.code.decode(address) {
                Some(jump) if jump.flow_control() == FlowControl::UnconditionalBranch => {
                    address = jump.near_branch_target();
                }
                _ => break,
            }
        }
        address
    }

    /// Whether a call's target is more than a jump to an import.
    fn is_own_function(&mut self, target: u64) -> bool {
        self.code
            .decode(target)
            .is_some_and(|first| first.flow_control() != FlowControl::IndirectBranch)
    }

    fn push(&self, state: &mut State, value: Option<Value>) {
        let word = self.code.word();
        self.adjust_stack(state, (word as u64).wrapping_neg());
        let place = state.registers.get(&Register::RSP).copied();
        if let Some(place) = place {
            match value {
                Some(value) => state.stack.insert(place.number, (word, value)),
                None => state.stack.remove(&place.number),
            };
        }
    }

    fn adjust_stack(&self, state: &mut State, by: u64) {
        let all = mask(self.code.word());
        if let Some(pointer) = state.registers.get_mut(&Register::RSP) {
            pointer.number = pointer.number.wrapping_add(by) & all;
        }
    }

    /// An imported i386 function pops its arguments as its declaration says.
    fn pop_arguments(&self, instruction: &Instruction, state: &mut State) {
        if self.code.is_wide() || instruction.op0_kind() != OpKind::Memory {
            return;
        }
        let import = fixed_address(instruction).and_then(|slot| self.code.import_at(slot));
        let name = import
            .and_then(|number| self.code.image.imports.get(number))
            .and_then(|import| import.name());
        let export = name
            .and_then(kernel_shim::table::find)
            .and_then(|index| kernel_shim::table::EXPORTS.get(index as usize));
        if let Some(export) = export {
            let bytes = u64::from(kernel_shim::table::i386_pop(export));
            self.adjust_stack(state, bytes);
        }
    }

    fn after_call(&self, state: &mut State) {
        let is_wide = self.code.is_wide();
        state.flags = None;
        state.registers.retain(|register, _| match register {
            Register::RAX | Register::RCX | Register::RDX => false,
            Register::R8 | Register::R9 | Register::R10 | Register::R11 => !is_wide,
            _ => true,
        });
    }

    fn register(&self, register: Register, state: &State) -> Option<Value> {
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

    fn set_register(register: Register, value: Option<Value>, state: &mut State) {
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
    fn address(&self, instruction: &Instruction, state: &State) -> Option<Value> {
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

    fn operand(&self, instruction: &Instruction, operand: u32, state: &State) -> Option<Value> {
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

    fn width(instruction: &Instruction) -> usize {
        match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            OpKind::Memory => instruction.memory_size().size(),
            _ => 4,
        }
    }

    fn store(&self, instruction: &Instruction, value: Option<Value>, state: &mut State) {
        match instruction.op0_kind() {
            OpKind::Register => Self::set_register(instruction.op0_register(), value, state),
            OpKind::Memory => {
                let place = self.address(instruction, state);
                if let Some(place) = place.filter(|place| self.is_stack(place.number)) {
                    match value {
                        Some(value) => {
                            let bytes = instruction.memory_size().size();
                            state.stack.insert(place.number, (bytes, value))
                        }
                        None => state.stack.remove(&place.number),
                    };
                }
            }
            _ => {}
        }
    }

    fn execute(&mut self, instruction: &Instruction, state: &mut State) {
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
fn condition(instruction: &Instruction, flags: Option<Flags>) -> Option<bool> {
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
