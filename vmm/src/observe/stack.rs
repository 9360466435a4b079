//! Stack traces of a stopped guest.
//!
//! Three ways, the better ones first: amd64 code by its unwind tables, i386 code by its chain of EBP frames, and a
//! scan of the stack for values that are return addresses (they lie in a module's code, after a CALL). What the
//! scan found, and everything below it, is a guess and marked so: old values on the stack look just the same.

use super::hex::Hex;
use super::symbols::{ModuleKind, Symbols};
use super::unwind::{Context, MemoryReader, RBP, RSP, follows_call, read_array, step};
use abi::DriverAbi;
use abi::crash::Registers;
use serde::Serialize;
use std::fmt;

/// Frames that a trace has at most.
const FRAMES_MAX: usize = 32;
/// Bytes of stack that a scan looks at, in total.
const SCAN_BYTES: u64 = 16 << 10;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Guest-virtual address: the instruction for the first frame, a return address for the others.
    pub address: Hex,
    /// The address by name.
    pub name: String,
    /// Whether it is a guess.
    pub is_guess: bool,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_guess { '?' } else { ' ' };
        write!(f, "{mark} {:#018x}  {}", self.address.0, self.name)
    }
}

/// Walks the stack from `registers`.
#[must_use]
pub fn walk(
    abi: DriverAbi,
    symbols: &Symbols,
    memory: &dyn MemoryReader,
    registers: &Registers,
) -> Vec<Frame> {
    let mut walker = Walker {
        abi,
        symbols,
        memory,
        frames: Vec::new(),
        scan_left: SCAN_BYTES,
    };
    let mut context = Context {
        rip: registers.rip,
        general: registers.general,
    };
    walker.push(context.rip, false);
    let mut is_guess = false;
    while walker.frames.len() < FRAMES_MAX {
        let is_interrupted = walker.frames.len() == 1;
        let next = walker
            .unwound(&context, is_interrupted)
            .filter(|next| next.general[RSP] > context.general[RSP])
            .filter(|next| walker.is_return_address(next.rip));
        let next = match next {
            Some(next) => Some(next),
            None => {
                is_guess = true;
                walker.scanned(&context)
            }
        };
        let Some(next) = next else {
            break;
        };
        walker.push(next.rip, is_guess);
        context = next;
    }
    walker.frames
}

struct Walker<'a> {
    abi: DriverAbi,
    symbols: &'a Symbols,
    memory: &'a dyn MemoryReader,
    frames: Vec<Frame>,
    scan_left: u64,
}

impl Walker<'_> {
    fn push(&mut self, address: u64, is_guess: bool) {
        self.frames.push(Frame {
            address: Hex(address),
            name: self.symbols.describe(address).name,
            is_guess,
        });
    }

    fn unwound(&self, context: &Context, is_interrupted: bool) -> Option<Context> {
        let module = self.symbols.module(context.rip)?;
        match (self.abi, module.kind) {
            (DriverAbi::Amd64, ModuleKind::Driver) => {
                step(module, self.memory, context, is_interrupted)
            }
            (DriverAbi::I386, ModuleKind::Driver) => self.ebp_frame(context),
            _ => None,
        }
    }

    /// `[ebp]` is the caller's EBP, `[ebp+4]` the return address.
    fn ebp_frame(&self, context: &Context) -> Option<Context> {
        let frame = context.general[RBP] & 0xFFFF_FFFF;
        let words: [u8; 8] = read_array(self.memory, frame)?;
        let (saved, returned) = words.split_at(4);
        let mut caller = *context;
        caller.rip = u64::from(u32::from_le_bytes(returned.try_into().ok()?));
        caller.general[RBP] = u64::from(u32::from_le_bytes(saved.try_into().ok()?));
        caller.general[RSP] = frame + 8;
        Some(caller)
    }

    fn scanned(&mut self, context: &Context) -> Option<Context> {
        let step = match self.abi {
            DriverAbi::I386 => 4,
            DriverAbi::Amd64 => 8,
        };
        let mut slot = context.general[RSP] & !(step - 1);
        while self.scan_left >= step {
            self.scan_left -= step;
            let value = match self.abi {
                DriverAbi::I386 => u64::from(u32::from_le_bytes(read_array(self.memory, slot)?)),
                DriverAbi::Amd64 => u64::from_le_bytes(read_array(self.memory, slot)?),
            };
            slot = slot.wrapping_add(step);
            if self.is_return_address(value) {
                let mut caller = *context;
                caller.rip = value;
                caller.general[RSP] = slot;
                return Some(caller);
            }
        }
        None
    }

    fn is_return_address(&self, value: u64) -> bool {
        let Some(module) = self.symbols.module(value) else {
            return false;
        };
        let bits = match (self.abi, module.kind) {
            (DriverAbi::I386, ModuleKind::Driver | ModuleKind::Stubs) => 32,
            _ => 64,
        };
        // The last byte of the CALL, since a return address may be the end of the code.
        module.is_code(value.wrapping_sub(1)) && follows_call(self.memory, value, bits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::symbols::Module;
    use super::super::unwind::tests::{BASE, Pieces};
    use super::*;

    const CALL: [u8; 8] = [0x90, 0x90, 0xE8, 0, 0, 0, 0, 0x90];

    fn shown(frames: &[Frame]) -> Vec<String> {
        frames
            .iter()
            .map(|frame| format!("{}{}", if frame.is_guess { "?" } else { "" }, frame.name))
            .collect()
    }

    #[test]
    fn i386_follows_ebp_then_scans() {
        let mut memory = Pieces::default();
        for offset in [0x1100, 0x1200, 0x1300] {
            memory.put(0x8200_0000 + offset, &CALL);
        }
        let dwords = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        // esp: a local; ebp: frame of the first function; its caller's frame is damaged, a return address follows.
        memory.put(
            0x8801_0000,
            &dwords(&[
                1,
                0x8801_0010,
                0x8200_1107,
                7,
                0xDEAD,
                0x8200_1207,
                0x8200_1205,
                0x8200_1307,
            ]),
        );
        let symbols = Symbols::new(vec![Module::driver("d.sys", 0x8200_0000, 0x3000)]);
        let mut registers = Registers {
            rip: 0x8200_1000,
            ..Registers::default()
        };
        registers.general[RSP] = 0x8801_0000;
        registers.general[RBP] = 0x8801_0004;
        assert_eq!(
            shown(&walk(DriverAbi::I386, &symbols, &memory, &registers)),
            [
                "d.sys+0x1000",
                "d.sys+0x1107",
                "d.sys+0x1207",
                "?d.sys+0x1307"
            ]
        );
    }

    #[test]
    fn call_through_a_null_pointer_still_finds_the_caller() {
        let mut memory = Pieces::default();
        memory.put(BASE + 0x1100, &CALL);
        memory.words(0x9000, &[BASE + 0x1107, BASE + 0x1106, 0]);
        let symbols = Symbols::new(vec![Module::driver("d.sys", BASE, 0x3000)]);
        let mut registers = Registers::default();
        registers.general[RSP] = 0x9000;
        assert_eq!(
            shown(&walk(DriverAbi::Amd64, &symbols, &memory, &registers)),
            ["0x0", "?d.sys+0x1107"]
        );
    }

    #[test]
    fn looping_ebp_chain_ends() {
        let mut memory = Pieces::default();
        memory.put(0x8200_1100, &CALL);
        memory.put(0x8801_0000, &[0; 0x40]);
        let mut frame = 0x8801_0000_u32.to_le_bytes().to_vec();
        frame.extend(0x8200_1107_u32.to_le_bytes());
        memory.put(0x8801_0000, &frame);
        let symbols = Symbols::new(vec![Module::driver("d.sys", 0x8200_0000, 0x3000)]);
        let mut registers = Registers {
            rip: 0x8200_1000,
            ..Registers::default()
        };
        registers.general[RSP] = 0x8801_0000;
        registers.general[RBP] = 0x8801_0000;
        let frames = walk(DriverAbi::I386, &symbols, &memory, &registers);
        assert_eq!(shown(&frames), ["d.sys+0x1000", "d.sys+0x1107"]);
    }

    #[test]
    fn wild_stack_pointer_gives_one_frame() {
        let mut registers = Registers::default();
        registers.general[RSP] = u64::MAX - 3;
        let frames = walk(
            DriverAbi::Amd64,
            &Symbols::default(),
            &Pieces::default(),
            &registers,
        );
        assert_eq!(shown(&frames), ["0x0"]);
    }
}
