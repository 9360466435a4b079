//! Unwinding amd64 frames by an image's exception directory (.pdata and .xdata).
//!
//! The format is that of the x64 exception handling page of the MSVC documentation ("struct RUNTIME_FUNCTION",
//! "struct UNWIND_INFO", "Unwind procedure"). The tables and the stack are guest memory: every count is bounded,
//! every read may fail, and a frame that makes no sense ends the unwinding.

use super::symbols::Module;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Reads guest-virtual memory of a stopped guest.
pub trait MemoryReader {
    /// Fills `buffer` from `address`; returns how many bytes are there (fewer where memory ends or is absent).
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize;
}

/// Reads `N` bytes, or nothing.
pub(super) fn read_array<const N: usize>(
    memory: &dyn MemoryReader,
    address: u64,
) -> Option<[u8; N]> {
    let mut buffer = [0; N];
    (memory.read(address, &mut buffer) == N).then_some(buffer)
}

fn read_u64(memory: &dyn MemoryReader, address: u64) -> Option<u64> {
    read_array(memory, address).map(u64::from_le_bytes)
}

/// Index of RSP in the processor's register encoding.
pub(super) const RSP: usize = 4;
/// Index of RBP.
pub(super) const RBP: usize = 5;
/// Entries of an exception directory that are searched at most.
const FUNCTIONS_MAX: u64 = 1 << 20;
/// Chained unwind information that is followed at most.
const CHAIN_MAX: usize = 16;

/// Registers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Instruction pointer.
    pub rip: u64,
    /// General registers in the processor's encoding order.
    pub general: [u64; 16],
}

impl Context {
    /// Takes a return address off the stack.
    fn pop_return(&mut self, memory: &dyn MemoryReader) -> Option<()> {
        self.rip = read_u64(memory, self.general[RSP])?;
        self.general[RSP] = self.general[RSP].wrapping_add(8);
        Some(())
    }

    fn pop(&mut self, memory: &dyn MemoryReader, register: usize) -> Option<()> {
        let value = read_u64(memory, self.general[RSP])?;
        *self.general.get_mut(register)? = value;
        self.general[RSP] = self.general[RSP].wrapping_add(8);
        Some(())
    }
}

/// One RUNTIME_FUNCTION: offsets from the image's base.
#[derive(Clone, Copy, Debug)]
struct Function {
    begin: u32,
    end: u32,
    unwind: u32,
}

fn parse_function(bytes: [u8; 12]) -> Function {
    let word = |index: usize| {
        bytes
            .get(index * 4..index * 4 + 4)
            .and_then(|part| part.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    Function {
        begin: word(0),
        end: word(1),
        unwind: word(2),
    }
}

/// Unwinds one frame of `module`'s code; `is_interrupted` when `context` is where the processor stopped, not a
/// return address. `None` when the tables do not allow it.
#[must_use]
pub fn step(
    module: &Module,
    memory: &dyn MemoryReader,
    context: &Context,
    is_interrupted: bool,
) -> Option<Context> {
    let (directory, bytes) = module.exception_directory?;
    let offset = u32::try_from(context.rip.checked_sub(module.base)?).ok()?;
    // A call that never returns may be the last instruction of its function: look up the call, not what follows.
    let lookup = if is_interrupted {
        offset
    } else {
        offset.checked_sub(1)?
    };
    let mut result = *context;
    let Some(function) = find(memory, directory, bytes, lookup) else {
        // A leaf function: it neither moved RSP nor saved registers.
        result.pop_return(memory)?;
        return Some(result);
    };
    if is_interrupted && let Some(after) = epilogue(memory, context) {
        return Some(after);
    }
    let into = u64::from(offset.saturating_sub(function.begin));
    undo_prologue(module, memory, function, into, &mut result)?;
    Some(result)
}

fn find(memory: &dyn MemoryReader, directory: u64, bytes: u64, offset: u32) -> Option<Function> {
    let (mut low, mut high) = (0, (bytes / 12).min(FUNCTIONS_MAX));
    while low < high {
        let middle = low + (high - low) / 2;
        let function = parse_function(read_array(memory, directory.wrapping_add(middle * 12))?);
        if offset < function.begin {
            high = middle;
        } else if offset >= function.end {
            low = middle + 1;
        } else {
            return Some(function);
        }
    }
    None
}

fn undo_prologue(
    module: &Module,
    memory: &dyn MemoryReader,
    function: Function,
    into: u64,
    context: &mut Context,
) -> Option<()> {
    let mut unwind = function.unwind;
    for depth in 0..CHAIN_MAX {
        let info = module.base.wrapping_add(u64::from(unwind));
        let [head, prologue, count, frame] = read_array::<4>(memory, info)?;
        let (version, flags) = (head & 7, head >> 3);
        if !(1..=2).contains(&version) {
            return None;
        }
        let mut codes = vec![0_u8; usize::from(count) * 2];
        if memory.read(info.wrapping_add(4), &mut codes) != codes.len() {
            return None;
        }
        let codes: Vec<[u8; 2]> = codes
            .chunks_exact(2)
            .map(|code| [code[0], code[1]])
            .collect();
        // Only the innermost part can have been interrupted in its prologue.
        let executed = if depth == 0 { into } else { u64::MAX };
        let done = undo_codes(
            memory,
            &codes,
            executed,
            u64::from(prologue),
            frame,
            context,
        )?;
        if done {
            return Some(());
        }
        if flags & 4 == 0 {
            return context.pop_return(memory);
        }
        let chained = info.wrapping_add(4 + u64::from(count.next_multiple_of(2)) * 2);
        unwind = parse_function(read_array(memory, chained)?).unwind;
    }
    None
}

/// Undoes the unwind codes; `Some(true)` when they restored RIP too (a machine frame).
fn undo_codes(
    memory: &dyn MemoryReader,
    codes: &[[u8; 2]],
    executed: u64,
    prologue: u64,
    frame: u8,
    context: &mut Context,
) -> Option<bool> {
    let frame_register = usize::from(frame & 0xF);
    let frame_offset = u64::from(frame >> 4) * 16;
    let frame_is_set = frame_register != 0
        && (executed >= prologue
            || codes
                .iter()
                .any(|code| code[1] & 0xF == 3 && u64::from(code[0]) <= executed));
    let base = if frame_is_set {
        context
            .general
            .get(frame_register)?
            .wrapping_sub(frame_offset)
    } else {
        context.general[RSP]
    };
    let word = |index: usize| {
        codes
            .get(index)
            .map(|code| u64::from(u16::from_le_bytes(*code)))
    };
    let mut index = 0;
    while let Some(&[offset, code]) = codes.get(index) {
        let (operation, info) = (code & 0xF, usize::from(code >> 4));
        let slots = match (operation, info) {
            (1, 0) | (4 | 8 | 6, _) => 2,
            (1, _) | (5 | 9, _) => 3,
            _ => 1,
        };
        let was_executed = u64::from(offset) <= executed;
        if was_executed {
            let rsp = &mut context.general[RSP];
            match operation {
                0 => context.pop(memory, info)?,
                1 if info == 0 => *rsp = rsp.wrapping_add(word(index + 1)? * 8),
                1 => *rsp = rsp.wrapping_add(word(index + 1)? | word(index + 2)? << 16),
                2 => *rsp = rsp.wrapping_add(info as u64 * 8 + 8),
                3 => *rsp = base,
                4 | 5 => {
                    let distance = if operation == 4 {
                        word(index + 1)? * 8
                    } else {
                        word(index + 1)? | word(index + 2)? << 16
                    };
                    let value = read_u64(memory, base.wrapping_add(distance))?;
                    *context.general.get_mut(info)? = value;
                }
                // XMM registers and epilogue descriptions do not move the frame.
                6 | 8 | 9 => {}
                10 => {
                    let at = rsp.wrapping_add(if info == 1 { 8 } else { 0 });
                    context.rip = read_u64(memory, at)?;
                    context.general[RSP] = read_u64(memory, at.wrapping_add(24))?;
                    return Some(true);
                }
                _ => return None,
            }
        }
        index += slots;
    }
    Some(false)
}

/// If the code at `context` is the rest of an epilogue, executes it: `add rsp, n` or `lea rsp, [frame+n]`, pops, `ret`.
fn epilogue(memory: &dyn MemoryReader, context: &Context) -> Option<Context> {
    let mut code = [0; 48];
    let length = memory.read(context.rip, &mut code);
    let mut decoder = Decoder::with_ip(64, code.get(..length)?, context.rip, DecoderOptions::NONE);
    let mut result = *context;
    let mut instruction = Instruction::default();
    let mut is_first = true;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        match instruction.mnemonic() {
            Mnemonic::Add
                if is_first
                    && instruction.op0_register() == Register::RSP
                    && instruction.op1_kind() != OpKind::Register
                    && instruction.op1_kind() != OpKind::Memory =>
            {
                let bytes = instruction.immediate(1);
                result.general[RSP] = result.general[RSP].wrapping_add(bytes);
            }
            Mnemonic::Lea
                if is_first
                    && instruction.op0_register() == Register::RSP
                    && instruction.memory_index() == Register::None
                    && gpr64(instruction.memory_base()).is_some() =>
            {
                let base = gpr64(instruction.memory_base())?;
                let displacement = instruction.memory_displacement64();
                result.general[RSP] = context.general.get(base)?.wrapping_add(displacement);
            }
            Mnemonic::Pop if gpr64(instruction.op0_register()).is_some() => {
                result.pop(memory, gpr64(instruction.op0_register())?)?;
            }
            Mnemonic::Ret => {
                result.pop_return(memory)?;
                return Some(result);
            }
            _ => return None,
        }
        is_first = false;
    }
    None
}

/// Number of a 64-bit general register in the processor's encoding, which is iced's order too.
fn gpr64(register: Register) -> Option<usize> {
    let number = (register as usize).checked_sub(Register::RAX as usize)?;
    (number < 16).then_some(number)
}

/// Whether the instruction before `address` is a CALL that would return there.
#[must_use]
pub fn follows_call(memory: &dyn MemoryReader, address: u64, bits: u32) -> bool {
    let mut code = [0; 7];
    let start = address.wrapping_sub(7);
    if memory.read(start, &mut code) != code.len() {
        return false;
    }
    // CALL is 2 bytes (register) to 7 (memory with SIB, displacement and prefix).
    (2..=7_usize).any(|length| {
        let Some(bytes) = code.get(7 - length..) else {
            return false;
        };
        let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        instruction.mnemonic() == Mnemonic::Call && instruction.len() == length
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Memory made of pieces.
    #[derive(Default)]
    pub(crate) struct Pieces(pub(crate) Vec<(u64, Vec<u8>)>);

    impl Pieces {
        pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
            self.0.push((address, bytes.to_vec()));
        }

        pub(crate) fn words(&mut self, address: u64, words: &[u64]) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.put(address, &bytes);
        }
    }

    impl MemoryReader for Pieces {
        fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
            for (index, byte) in buffer.iter_mut().enumerate() {
                let at = address.wrapping_add(index as u64);
                // Later pieces lie over earlier ones.
                let found = self.0.iter().rev().find_map(|(start, bytes)| {
                    bytes.get(usize::try_from(at.checked_sub(*start)?).ok()?)
                });
                match found {
                    Some(&value) => *byte = value,
                    None => return index,
                }
            }
            buffer.len()
        }
    }

    pub(crate) const BASE: u64 = 0xFFFF_F800_0200_0000;
    const STACK: u64 = 0xFFFF_F800_0801_0000;

    fn function_table(memory: &mut Pieces, functions: &[[u32; 3]]) -> Module {
        let bytes: Vec<u8> = functions
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        memory.put(BASE + 0x4000, &bytes);
        Module::driver("d.sys", BASE, 0x6000).with_exception_directory(0x4000, bytes.len() as u64)
    }

    fn context(offset: u64) -> Context {
        let mut general = [0; 16];
        general[RSP] = STACK;
        Context {
            rip: BASE + offset,
            general,
        }
    }

    /// push rbx (offset 2); sub rsp, 0x20 (offset 6); body.
    fn simple() -> (Pieces, Module) {
        let mut memory = Pieces::default();
        memory.put(BASE + 0x1000, &[0x90; 0x100]);
        let module = function_table(
            &mut memory,
            &[[0x500, 0x600, 0x5000], [0x1000, 0x1100, 0x5000]],
        );
        memory.put(BASE + 0x5000, &[1, 6, 2, 0, 6, 0x32, 2, 0x30]);
        (memory, module)
    }

    #[test]
    fn body_undoes_the_whole_prologue() {
        let (mut memory, module) = simple();
        memory.words(STACK, &[0, 0, 0, 0, 0xBB, BASE + 0x777]);
        let caller = step(&module, &memory, &context(0x1050), true).unwrap();
        assert_eq!(caller.rip, BASE + 0x777);
        assert_eq!(caller.general[3], 0xBB, "rbx");
        assert_eq!(caller.general[RSP], STACK + 0x30);
    }

    #[test]
    fn interrupted_prologue_undoes_its_part() {
        let (mut memory, module) = simple();
        memory.words(STACK, &[0xBB, BASE + 0x777]);
        let caller = step(&module, &memory, &context(0x1002), true).unwrap();
        assert_eq!((caller.rip, caller.general[3]), (BASE + 0x777, 0xBB));
        memory.words(STACK, &[BASE + 0x778]);
        let caller = step(&module, &memory, &context(0x1000), true).unwrap();
        assert_eq!((caller.rip, caller.general[3]), (BASE + 0x778, 0));
    }

    #[test]
    fn interrupted_epilogue_is_executed() {
        let (mut memory, module) = simple();
        // pop rbx; ret
        memory.put(BASE + 0x1080, &[0x5B, 0xC3]);
        memory.words(STACK, &[0xBB, BASE + 0x777]);
        let caller = step(&module, &memory, &context(0x1080), true).unwrap();
        assert_eq!((caller.rip, caller.general[3]), (BASE + 0x777, 0xBB));
    }

    #[test]
    fn leaf_function_has_its_return_address_on_top() {
        let (mut memory, module) = simple();
        memory.words(STACK, &[BASE + 0x777]);
        let caller = step(&module, &memory, &context(0x2000), true).unwrap();
        assert_eq!((caller.rip, caller.general[RSP]), (BASE + 0x777, STACK + 8));
    }

    #[test]
    fn frame_register_finds_the_frame_after_alloca() {
        let mut memory = Pieces::default();
        memory.put(BASE + 0x1000, &[0x90; 0x100]);
        let module = function_table(&mut memory, &[[0x1000, 0x1100, 0x5000]]);
        // push rbp (1); sub rsp, 0x40 (5); lea rbp, [rsp+0x20] (10); rsi saved at frame+0x50 (15).
        memory.put(
            BASE + 0x5000,
            &[1, 15, 5, 0x25, 15, 0x64, 10, 0, 10, 0x03, 5, 0x72, 1, 0x50],
        );
        let frame = STACK + 0x1000;
        memory.words(frame, &[0, 0, 0, 0, 0, 0, 0, 0, 0xB9, BASE + 0x777, 0x51]);
        let mut here = context(0x1050);
        here.general[RBP] = frame + 0x20;
        let caller = step(&module, &memory, &here, true).unwrap();
        assert_eq!(caller.rip, BASE + 0x777);
        assert_eq!((caller.general[RBP], caller.general[6]), (0xB9, 0x51));
    }

    #[test]
    fn hostile_tables_end_the_unwinding() {
        let (mut memory, module) = simple();
        // Chained to itself for ever.
        let mut chained = vec![(4 << 3) | 1, 0, 0, 0];
        for word in [0x1000_u32, 0x1100, 0x5000] {
            chained.extend(word.to_le_bytes());
        }
        memory.put(BASE + 0x5000, &chained);
        assert_eq!(step(&module, &memory, &context(0x1050), true), None);
        memory.put(BASE + 0x5000, &[7, 0, 255, 0]);
        assert_eq!(step(&module, &memory, &context(0x1050), true), None);
        let beyond =
            Module::driver("d.sys", BASE, 0x6000).with_exception_directory(0x4000, u64::MAX);
        assert_eq!(step(&beyond, &memory, &context(0x3000), true), None);
    }

    #[test]
    fn calls_are_told_from_data() {
        let mut memory = Pieces::default();
        memory.put(0x1000, &[0x90, 0x90, 0xE8, 1, 2, 3, 4, 0x90]);
        memory.put(0x2000, &[0x90, 0xFF, 0x15, 1, 2, 3, 4]);
        memory.put(0x3000, &[0x90, 0x90, 0x90, 0x90, 0x90, 0xFF, 0xD0]);
        memory.put(0x4000, &[0x90; 16]);
        assert!(follows_call(&memory, 0x1007, 64));
        assert!(!follows_call(&memory, 0x1008, 64));
        assert!(follows_call(&memory, 0x2007, 32));
        assert!(follows_call(&memory, 0x3007, 64));
        assert!(!follows_call(&memory, 0x4008, 64));
        assert!(!follows_call(&memory, 0, 64));
    }
}
