//! Which code can be reached from where: a call graph by decoding.
//!
//! Both ways of every branch are taken to be possible, so more is called reachable than ever runs. What a driver
//! computes (a pointer taken from a structure that the kernel filled) is not followed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use iced_x86::{Code as Opcode, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::code::{Code, fixed_address, has_memory};
use crate::loader::ExportTarget;

/// Most instructions that are looked at.
const INSTRUCTIONS_MAX: usize = 1_000_000;
/// Most entries of a jump table.
const TABLE_MAX: u64 = 1024;
/// Bytes of text by which a text is known.
const TEXT: u64 = 6;
/// Most entries of all jump tables; real drivers have some hundreds.
const ENTRIES_MAX: usize = 1 << 18;
/// How many addresses are tried as that of a jump table.
const RECENT: usize = 4;
/// How often the clock is read, in instructions.
const CLOCK_INTERVAL: usize = 4096;

/// From where something is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Called, directly or not, by DriverEntry.
    DriverEntry,
    /// From a function whose address the reached code stores: dispatch routines, callbacks.
    Callbacks,
    /// From other functions of the image.
    Other,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Instructions, and from where they are reached.
    pub(super) instructions: BTreeMap<u64, Reach>,
    /// Imports by number, in the order of their discovery.
    pub(super) imports: Vec<(usize, Reach)>,
    /// Addresses in the image that the code names.
    pub(super) references: BTreeSet<u64>,
    /// MajorFunction assignments: number to routine.
    pub(super) major_functions: BTreeMap<u8, BTreeSet<u64>>,
    /// Assignments to DriverUnload.
    pub(super) driver_unload: Option<u64>,
    /// Assignments to AddDevice.
    pub(super) add_device: Option<u64>,
    /// Functions whose address is stored or passed.
    pub(super) callbacks: BTreeSet<u64>,
    /// `in` and `out` whose port is known.
    pub(super) ports: BTreeMap<u64, u16>,
    /// The limits were reached: there may be more.
    pub(super) is_incomplete: bool,
    seen_imports: BTreeSet<usize>,
    /// Entries of jump tables that were followed.
    entries: usize,
    /// The last addresses that `lea` named.
    recent: VecDeque<u64>,
}

/// What a register is known to hold, along straight code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Number(u64),
    DriverExtension,
}

type Registers = HashMap<Register, Known>;

/// Offsets of DRIVER_OBJECT and DRIVER_EXTENSION.
struct Offsets {
    extension: u64,
    unload: u64,
    major: u64,
    add_device: u64,
}

const fn offsets(is_wide: bool) -> Offsets {
    if is_wide {
        Offsets {
            extension: 0x30,
            unload: 0x68,
            major: 0x70,
            add_device: 8,
        }
    } else {
        Offsets {
            extension: 0x18,
            unload: 0x34,
            major: 0x38,
            add_device: 4,
        }
    }
}

/// IRP_MJ_MAXIMUM_FUNCTION + 1.
const MAJOR_FUNCTIONS: u64 = 28;

impl Walk {
    /// Walks the image; stops at `deadline`.
    pub(super) fn new(code: &mut Code<'_>, deadline: Instant) -> Self {
        let mut walk = Self::default();
        let entry = code.base + u64::from(code.image.entry_rva);
        walk.reach(code, vec![entry], Reach::DriverEntry, deadline);
        walk.callbacks.extend(data_pointers(code));
        // Once each: where no code is, none is visited.
        let mut tried = BTreeSet::new();
        loop {
            let new: Vec<u64> = walk.callbacks.difference(&tried).copied().collect();
            if new.is_empty() || walk.is_incomplete {
                break;
            }
            tried.extend(&new);
            walk.reach(code, new, Reach::Callbacks, deadline);
        }
        let other = walk.unvisited(functions(code));
        walk.reach(code, other, Reach::Other, deadline);
        walk
    }

    fn unvisited(&self, addresses: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let is_new = |address: &u64| !self.instructions.contains_key(address);
        addresses.into_iter().filter(is_new).collect()
    }

    fn reach(&mut self, code: &mut Code<'_>, roots: Vec<u64>, from: Reach, deadline: Instant) {
        let mut pending = roots;
        while let Some(start) = pending.pop() {
            let mut registers = Registers::new();
            let mut next = Some(start);
            while let Some(address) = next {
                if self.instructions.contains_key(&address) {
                    break;
                }
                let Some(instruction) = code.decode(address) else {
                    break;
                };
                let count = self.instructions.len();
                let is_late = count.is_multiple_of(CLOCK_INTERVAL) && Instant::now() > deadline;
                if count >= INSTRUCTIONS_MAX || is_late {
                    self.is_incomplete = true;
                    return;
                }
                self.instructions.insert(address, from);
                self.operands(code, &instruction, from);
                self.stores(code, &instruction, &mut registers);
                let before = pending.len();
                if self.entries < ENTRIES_MAX {
                    jump_table(code, &instruction, &self.recent, &mut pending);
                } else {
                    self.is_incomplete = true;
                }
                self.entries += pending.len() - before;
                next = flow(code, &instruction, &mut pending);
            }
        }
    }

    /// Imports, addresses and ports that an instruction names.
    fn operands(&mut self, code: &Code<'_>, instruction: &Instruction, from: Reach) {
        if has_memory(instruction)
            && let Some(address) = fixed_address(instruction)
        {
            if let Some(import) = code.import_at(address) {
                if self.seen_imports.insert(import) {
                    self.imports.push((import, from));
                }
            } else {
                self.names(code, address, instruction.mnemonic() == Mnemonic::Lea);
            }
        }
        let is_branch = matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        if is_branch {
            return;
        }
        for operand in 0..instruction.op_count() {
            let is_address = match instruction.op_kind(operand) {
                OpKind::Immediate32 => !code.is_wide(),
                OpKind::Immediate64 | OpKind::Immediate32to64 => code.is_wide(),
                _ => false,
            };
            if is_address {
                self.names(code, instruction.immediate(operand), true);
            }
        }
    }

    fn names(&mut self, code: &Code<'_>, address: u64, is_value: bool) {
        if !code.contains(address) {
            return;
        }
        self.references.insert(address);
        if is_value {
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(address);
        }
        let is_header = address < code.base + u64::from(code.image.size_of_headers);
        if is_value && !is_header && is_function(code, address) {
            self.callbacks.insert(address);
        }
    }

    /// Follows numbers through registers, to see what is stored into a DRIVER_OBJECT and which ports are named.
    fn stores(&mut self, code: &Code<'_>, instruction: &Instruction, registers: &mut Registers) {
        let known = |registers: &Registers, operand: u32| match instruction.op_kind(operand) {
            OpKind::Register => registers
                .get(&instruction.op_register(operand).full_register())
                .copied(),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate32to64
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64 => Some(Known::Number(instruction.immediate(operand))),
            _ => None,
        };
        match instruction.mnemonic() {
            Mnemonic::In | Mnemonic::Out => {
                let operand = u32::from(instruction.mnemonic() == Mnemonic::In);
                if let Some(Known::Number(port)) = known(registers, operand)
                    && let Ok(port) = u16::try_from(port & 0xFFFF)
                {
                    self.ports.insert(instruction.ip(), port);
                }
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory => {
                if let Some(Known::Number(value)) = known(registers, 1)
                    && code.is_code(value)
                {
                    self.assignment(code, instruction, value, registers);
                }
                return;
            }
            _ => {}
        }
        if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
            if instruction.flow_control() == FlowControl::Call
                || instruction.flow_control() == FlowControl::IndirectCall
            {
                registers.retain(|register, _| is_preserved(*register));
            }
            return;
        }
        let target = instruction.op0_register().full_register();
        let value = match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => {
                let offset = offsets(code.is_wide()).extension;
                let is_extension = instruction.memory_displacement64() == offset
                    && instruction.memory_base() != Register::None
                    && !is_frame(instruction.memory_base());
                is_extension.then_some(Known::DriverExtension)
            }
            Mnemonic::Mov => known(registers, 1),
            Mnemonic::Lea => fixed_address(instruction).map(Known::Number),
            Mnemonic::Xor if instruction.op1_kind() == OpKind::Register => {
                let is_zero = instruction.op0_register() == instruction.op1_register();
                is_zero.then_some(Known::Number(0))
            }
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push | Mnemonic::Out => return,
            _ => None,
        };
        match value {
            Some(value) => registers.insert(target, value),
            None => registers.remove(&target),
        };
    }

    /// A function's address is stored at an offset of something.
    fn assignment(
        &mut self,
        code: &Code<'_>,
        instruction: &Instruction,
        value: u64,
        registers: &Registers,
    ) {
        let base = instruction.memory_base();
        if base == Register::None || is_frame(base) || instruction.memory_index() != Register::None
        {
            return;
        }
        let offset = instruction.memory_displacement64();
        let known = offsets(code.is_wide());
        let word = code.word() as u64;
        if registers.get(&base.full_register()) == Some(&Known::DriverExtension) {
            if offset == known.add_device {
                self.add_device = Some(value);
            }
        } else if offset == known.unload {
            self.driver_unload = Some(value);
        } else if let Some(into) = offset.checked_sub(known.major)
            && into.is_multiple_of(word)
            && into / word < MAJOR_FUNCTIONS
            && let Ok(number) = u8::try_from(into / word)
        {
            self.major_functions
                .entry(number)
                .or_default()
                .insert(value);
        }
    }
}

/// Where the code goes on after an instruction; branch targets go to `pending`.
fn flow(code: &Code<'_>, instruction: &Instruction, pending: &mut Vec<u64>) -> Option<u64> {
    let next = instruction.next_ip();
    match instruction.flow_control() {
        FlowControl::ConditionalBranch | FlowControl::Call | FlowControl::XbeginXabortXend => {
            let target = instruction.near_branch_target();
            if code.is_code(target) {
                pending.push(target);
            }
            Some(next)
        }
        FlowControl::UnconditionalBranch => {
            let target = instruction.near_branch_target();
            code.is_code(target).then_some(target)
        }
        FlowControl::IndirectBranch | FlowControl::Return => None,
        // int 29h does not come back.
        FlowControl::Interrupt if instruction.code() == Opcode::Int_imm8 => {
            (instruction.immediate8() != 0x29).then_some(next)
        }
        FlowControl::Exception => None,
        _ => Some(next),
    }
}

/// Targets of a switch: addresses (i386), or distances from the image's base or from the table (amd64).
fn jump_table(
    code: &Code<'_>,
    instruction: &Instruction,
    recent: &VecDeque<u64>,
    pending: &mut Vec<u64>,
) {
    if !has_memory(instruction) || instruction.memory_index() == Register::None {
        return;
    }
    let displacement = instruction.memory_displacement64();
    let is_jump = instruction.flow_control() == FlowControl::IndirectBranch;
    if is_jump && u64::from(instruction.memory_index_scale()) == code.word() as u64 {
        let word = code.word() as u64;
        entries(code, displacement, word, pending, |entry| entry);
        return;
    }
    let is_load = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Movsxd);
    if !code.is_wide() || !is_load || instruction.memory_index_scale() != 4 {
        return;
    }
    if displacement != 0 {
        // MSVC: a table of RVAs, named by its own RVA.
        let table = code.base.wrapping_add(displacement);
        entries(code, table, 4, pending, |entry| {
            code.base.wrapping_add(entry)
        });
        return;
    }
    // GCC and Clang: distances from the table, whose address a register got shortly before.
    for &table in recent {
        entries(code, table, 4, pending, |entry| {
            let distance = u32::try_from(entry).unwrap_or(0).cast_signed();
            table.wrapping_add_signed(i64::from(distance))
        });
    }
}

fn entries(
    code: &Code<'_>,
    table: u64,
    bytes: u64,
    pending: &mut Vec<u64>,
    target: impl Fn(u64) -> u64,
) {
    for index in 0..TABLE_MAX {
        let size = usize::try_from(bytes).unwrap_or(4);
        let entry = code.number(table.wrapping_add(index * bytes), size);
        match entry.map(&target) {
            Some(address) if code.is_code(address) => pending.push(address),
            _ => return,
        }
    }
}

/// Whether an address that code names may be a function's: it is in a code section and not that of a text there.
fn is_function(code: &Code<'_>, address: u64) -> bool {
    let is_printable = |byte: u64| (0x20..0x7F).contains(&byte);
    let byte = |offset: u64| code.number(address + offset, 1).unwrap_or(0);
    let is_narrow = (0..TEXT).all(|index| is_printable(byte(index)));
    let is_wide =
        (0..TEXT / 2).all(|index| is_printable(byte(2 * index)) && byte(2 * index + 1) == 0);
    // A prologue that pushes many registers reads as text; the function table knows it.
    let is_text = (is_narrow || is_wide) && !code.is_listed(address);
    code.is_code(address) && !is_text
}

/// Functions whose addresses are in data: tables of routines.
fn data_pointers(code: &Code<'_>) -> Vec<u64> {
    let places = code.image.relocations.iter();
    places
        .map(|relocation| code.base + u64::from(relocation.rva))
        .filter(|&place| !code.is_code(place))
        .filter_map(|place| code.pointer(place))
        .filter(|&target| is_function(code, target))
        .collect()
}

/// Functions that the image itself names: exports and the function table.
fn functions(code: &Code<'_>) -> Vec<u64> {
    let mut all = Vec::new();
    for export in &code.image.exports {
        if let ExportTarget::Rva(rva) = export.target {
            all.push(code.base + u64::from(rva));
        }
    }
    if let Some(table) = &code.image.function_table {
        for at in table.clone().step_by(12) {
            if let Some(start) = code.number(code.base + u64::from(at), 4) {
                all.push(code.base + start);
            }
        }
    }
    all.retain(|&address| code.is_code(address));
    all
}

/// Registers that a call preserves in both conventions.
fn is_preserved(register: Register) -> bool {
    matches!(
        register.full_register(),
        Register::RBX
            | Register::RBP
            | Register::RSI
            | Register::RDI
            | Register::R12
            | Register::R13
            | Register::R14
            | Register::R15
            | Register::EBX
            | Register::EBP
            | Register::ESI
            | Register::EDI
    )
}

fn is_frame(register: Register) -> bool {
    matches!(
        register,
        Register::RSP | Register::RBP | Register::ESP | Register::EBP
    )
}
