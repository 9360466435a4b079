//! A small machine that runs a dispatch routine for one I/O control code, to see where that code leads.
//!
//! Everything but the code and constants is unknown. A branch on something unknown is taken both ways; a branch that
//! depends on the code is taken one way, and the place it leads to is where that code is handled, unless a later such
//! branch leads on. Calls of the image's own functions are followed a little, so that a code passed on is seen.

mod execute;
mod operand;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};

use super::code::{Code, fixed_address};
use execute::condition;

/// How deep calls are followed.
const DEPTH_MAX: usize = 3;
/// Where the emulated stack is.
const STACK: u64 = 0x0010_0000_0000;
const STACK_I386: u64 = 0x7000_0000;
/// Room above the first stack pointer that belongs to the stack as well.
const STACK_ROOM: u64 = 0x1000;
/// Most values on the stack that a path remembers: each fork copies them.
const STACK_VALUES_MAX: usize = 256;
/// Most forks that wait.
const PATHS_MAX: usize = 1024;
/// How often the clock is read, in instructions.
const CLOCK_INTERVAL: u64 = 64;

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

impl State {
    /// Remembers what is on the stack at an address; `None`: something unknown.
    fn store(&mut self, address: u64, bytes: usize, value: Option<Value>) {
        let Some(value) = value else {
            self.stack.remove(&address);
            return;
        };
        if self.stack.len() >= STACK_VALUES_MAX {
            // No dispatch routine has so much in its frame: this is a loop, or hostile.
            self.stack.clear();
        }
        self.stack.insert(address, (bytes, value));
    }
}

/// Runs one routine for many codes.
pub(super) struct Machine<'a, 'b> {
    pub(super) code: &'a mut Code<'b>,
    information: InstructionInfoFactory,
    /// Instructions that may still be run.
    pub(super) budget: u64,
    deadline: Instant,
    /// Whether the budget or the time was used up.
    pub(super) is_over: bool,
    /// Whether a step of the current routine's runs depended on the code: if not, every code leads to the same places.
    pub(super) has_asked: bool,
    /// Instructions that the current routine's runs have come by, and those of them that nobody has taken.
    seen: HashSet<u64>,
    new: Vec<u64>,
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
    pub(super) fn new(code: &'a mut Code<'b>, budget: u64, deadline: Instant) -> Self {
        Self {
            code,
            information: InstructionInfoFactory::new(),
            budget,
            deadline,
            is_over: false,
            has_asked: false,
            seen: HashSet::new(),
            new: Vec::new(),
            control_code: 0,
        }
    }

    /// The runs to come are another routine's.
    pub(super) fn begin_routine(&mut self) {
        self.has_asked = false;
        self.seen.clear();
        self.new.clear();
    }

    /// Instructions that this routine's runs have come by since the last call of this.
    pub(super) fn take_new(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.new)
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
        while !self.is_over
            && let Some(path) = paths.pop()
        {
            let leaf = self.run(path, &mut visited, &mut paths);
            leaves.extend(leaf);
        }
        leaves
    }

    /// Runs a path to its end; the leaf that it reached.
    fn run(
        &mut self,
        mut state: State,
        visited: &mut HashSet<(u64, usize, Option<u64>)>,
        paths: &mut Vec<State>,
    ) -> Option<u64> {
        loop {
            // A function may be called from several places, and goes on behind each of them.
            let caller = state.returns.last().copied();
            let is_new = visited.insert((state.next, state.returns.len(), caller));
            if !is_new || !self.may_go_on() {
                return state.leaf;
            }
            if self.seen.insert(state.next) {
                self.new.push(state.next);
            }
            let Some(instruction) = self.code.decode(state.next) else {
                return state.leaf;
            };
            state.next = instruction.next_ip();
            match instruction.flow_control() {
                FlowControl::Next => {
                    self.has_asked |= self.is_looked_up(&instruction, &state);
                    self.execute(&instruction, &mut state);
                }
                FlowControl::UnconditionalBranch => state.next = instruction.near_branch_target(),
                FlowControl::ConditionalBranch => {
                    let target = instruction.near_branch_target();
                    match condition(&instruction, state.flags) {
                        Some(is_taken) => {
                            if is_taken {
                                state.next = target;
                            }
                            if state.flags.is_some_and(|flags| flags.is_code) {
                                self.has_asked = true;
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
                    self.has_asked |= value.is_some_and(|value| value.is_code);
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

    /// Counts an instruction; false when there is no budget or time for it.
    fn may_go_on(&mut self) -> bool {
        let is_late = self.budget.is_multiple_of(CLOCK_INTERVAL) && Instant::now() > self.deadline;
        self.is_over |= is_late || self.budget == 0;
        if !self.is_over {
            self.budget -= 1;
        }
        !self.is_over
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
            state.store(place.number, word, value);
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
}
