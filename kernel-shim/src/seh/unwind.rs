//! Unwinding one frame of amd64 code by its image's exception directory ("x64 exception handling" in Microsoft's
//! documentation: RUNTIME_FUNCTION, UNWIND_INFO).
//!
//! What is read here is the driver's: each loop has a bound, and a bad address faults as any bad access does.

use crate::nt::{CONTEXT, RUNTIME_FUNCTION};
use crate::raw::Ptr;

/// Has an exception handler, a termination handler; continues in another function's info.
pub(super) const UNW_FLAG_EHANDLER: u8 = 1;
pub(super) const UNW_FLAG_UHANDLER: u8 = 2;
const UNW_FLAG_CHAININFO: u8 = 4;

const PUSH_NONVOL: u8 = 0;
const ALLOC_LARGE: u8 = 1;
const ALLOC_SMALL: u8 = 2;
const SET_FPREG: u8 = 3;
const SAVE_NONVOL: u8 = 4;
const SAVE_NONVOL_FAR: u8 = 5;
const EPILOG: u8 = 6;
const SPARE: u8 = 7;
const SAVE_XMM128: u8 = 8;
const SAVE_XMM128_FAR: u8 = 9;
const PUSH_MACHFRAME: u8 = 10;

const RSP: usize = 4;
/// Most infos in a chain.
const CHAIN_LIMIT: u32 = 32;
/// Most instructions that an epilogue has: eight pops and two more.
const EPILOGUE_LIMIT: u32 = 16;
/// Where XMM registers are in an FXSAVE image.
const XMM: usize = 160;

const EXCEPTION_DIRECTORY: u64 = 3;

/// An UNWIND_INFO, with the address of its codes.
#[derive(Clone, Copy, Debug)]
struct Info {
    flags: u8,
    prologue_bytes: u8,
    count: u8,
    frame_register: usize,
    frame_offset: u64,
    codes: u64,
}

impl Info {
    fn at(address: u64) -> Self {
        let [first, prologue_bytes, count, frame] = Ptr::<[u8; 4]>::new(address).read();
        Self {
            flags: first >> 3,
            prologue_bytes,
            count,
            frame_register: usize::from(frame & 15),
            frame_offset: u64::from(frame >> 4) * 16,
            codes: address + 4,
        }
    }

    /// Code slot `index`: offset in the prologue, operation, its info.
    fn code(self, index: u8) -> (u8, u8, u8) {
        let [offset, operation] = Ptr::<[u8; 2]>::new(self.codes + 2 * u64::from(index)).read();
        (offset, operation & 15, operation >> 4)
    }

    fn word(self, index: u8) -> u64 {
        u64::from(Ptr::<u16>::new(self.codes + 2 * u64::from(index)).read())
    }

    fn double_word(self, index: u8) -> u64 {
        u64::from(Ptr::<u32>::new(self.codes + 2 * u64::from(index)).read())
    }

    /// Behind the codes: the chained function or the handler.
    fn tail(self) -> u64 {
        self.codes + 2 * u64::from(self.count.next_multiple_of(2))
    }
}

/// Slots that a code takes.
fn slots(operation: u8, info: u8) -> u8 {
    match operation {
        SAVE_NONVOL | EPILOG | SAVE_XMM128 => 2,
        SAVE_NONVOL_FAR | SPARE | SAVE_XMM128_FAR => 3,
        ALLOC_LARGE => 2 + u8::from(info != 0),
        _ => 1,
    }
}

/// What [`virtual_unwind`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unwound {
    /// The function's frame, by which it is known to handlers.
    pub(crate) establisher: u64,
    /// The language handler of the kind that was asked for, and where its data are.
    pub(crate) handler: Option<(u64, u64)>,
}

/// The function table's entry for an address in an image: where it lies, and itself.
#[must_use]
pub(crate) fn lookup(image: u64, pc: u64) -> Option<(u64, RUNTIME_FUNCTION)> {
    let header = u64::from(Ptr::<u32>::new(image + 0x3C).read());
    let optional = image + header + 24;
    let directory_count = Ptr::<u32>::new(optional + 108).read();
    if u64::from(directory_count) <= EXCEPTION_DIRECTORY {
        return None;
    }
    let directory = optional + 112 + 8 * EXCEPTION_DIRECTORY;
    let [rva, bytes] = Ptr::<[u32; 2]>::new(directory).read();
    let table = image + u64::from(rva);
    let count = u64::from(bytes) / size_of::<RUNTIME_FUNCTION>() as u64;
    let offset = pc - image;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        let at = table + middle * size_of::<RUNTIME_FUNCTION>() as u64;
        let function = Ptr::<RUNTIME_FUNCTION>::new(at).read();
        if offset < u64::from(function.BeginAddress) {
            high = middle;
        } else if offset >= u64::from(function.EndAddress) {
            low = middle + 1;
        } else {
            return Some(indirect(image, at, function));
        }
    }
    None
}

/// An entry whose unwind data's lowest bit is set stands for another one.
fn indirect(image: u64, at: u64, function: RUNTIME_FUNCTION) -> (u64, RUNTIME_FUNCTION) {
    if function.UnwindData & 1 == 0 {
        return (at, function);
    }
    let at = image + u64::from(function.UnwindData & !1);
    (at, Ptr::<RUNTIME_FUNCTION>::new(at).read())
}

fn pop(context: &mut CONTEXT) -> u64 {
    let value = Ptr::<u64>::new(context.General[RSP]).read();
    context.General[RSP] = context.General[RSP].wrapping_add(8);
    value
}

/// Unwinds a function that has no entry: it has changed nothing but pushed a return address.
pub(crate) fn leave_leaf(context: &mut CONTEXT) {
    context.Rip = pop(context);
}

/// Takes a frame off: changes `context` to what the caller will have. `function` is [`lookup`]'s for `pc`.
pub(crate) fn virtual_unwind(
    handler_type: u8,
    image: u64,
    pc: u64,
    function: RUNTIME_FUNCTION,
    context: &mut CONTEXT,
) -> Unwound {
    let mut info = Info::at(image + u64::from(function.UnwindData));
    let offset = (pc - image) - u64::from(function.BeginAddress);
    let is_in_prologue = offset < u64::from(info.prologue_bytes);
    let establisher = establisher(info, offset, is_in_prologue, context);
    if !is_in_prologue && unwind_epilogue(image, pc, function, info, context) {
        return Unwound {
            establisher,
            handler: None,
        };
    }
    let mut done = offset;
    let mut has_machine_frame = false;
    for _ in 0..CHAIN_LIMIT {
        has_machine_frame |= apply_codes(info, done, establisher, context);
        if info.flags & UNW_FLAG_CHAININFO == 0 {
            break;
        }
        let parent = Ptr::<RUNTIME_FUNCTION>::new(info.tail()).read();
        info = Info::at(image + u64::from(parent.UnwindData & !1));
        done = u64::MAX;
    }
    if !has_machine_frame {
        context.Rip = pop(context);
    }
    let has_handler = info.flags & UNW_FLAG_CHAININFO == 0 && info.flags & handler_type != 0;
    let handler = (has_handler && !is_in_prologue).then(|| {
        let tail = info.tail();
        (image + u64::from(Ptr::<u32>::new(tail).read()), tail + 4)
    });
    Unwound {
        establisher,
        handler,
    }
}

fn establisher(info: Info, offset: u64, is_in_prologue: bool, context: &CONTEXT) -> u64 {
    if info.frame_register == 0 {
        return context.General[RSP];
    }
    let by_register = context.General[info.frame_register].wrapping_sub(info.frame_offset);
    if !is_in_prologue || info.flags & UNW_FLAG_CHAININFO != 0 {
        return by_register;
    }
    let mut index = 0;
    while index < info.count {
        let (at, operation, operand) = info.code(index);
        if operation == SET_FPREG {
            return if offset >= u64::from(at) {
                by_register
            } else {
                context.General[RSP]
            };
        }
        index = index.saturating_add(slots(operation, operand));
    }
    context.General[RSP]
}

/// Undoes the prologue's operations up to `done`. True: there was a machine frame, so RIP and RSP are known.
fn apply_codes(info: Info, done: u64, establisher: u64, context: &mut CONTEXT) -> bool {
    let mut has_machine_frame = false;
    let mut index = 0;
    while index < info.count {
        let (at, operation, operand) = info.code(index);
        let register = usize::from(operand);
        let width = slots(operation, operand);
        if u64::from(at) <= done {
            match operation {
                PUSH_NONVOL => context.General[register] = pop(context),
                ALLOC_LARGE => {
                    let bytes = if operand == 0 {
                        info.word(index + 1) * 8
                    } else {
                        info.double_word(index + 1)
                    };
                    context.General[RSP] = context.General[RSP].wrapping_add(bytes);
                }
                ALLOC_SMALL => {
                    let bytes = u64::from(operand) * 8 + 8;
                    context.General[RSP] = context.General[RSP].wrapping_add(bytes);
                }
                SET_FPREG => {
                    context.General[RSP] =
                        context.General[info.frame_register].wrapping_sub(info.frame_offset);
                }
                SAVE_NONVOL => {
                    let from = establisher.wrapping_add(info.word(index + 1) * 8);
                    context.General[register] = Ptr::new(from).read();
                }
                SAVE_NONVOL_FAR => {
                    let from = establisher.wrapping_add(info.double_word(index + 1));
                    context.General[register] = Ptr::new(from).read();
                }
                SAVE_XMM128 => {
                    let from = establisher.wrapping_add(info.word(index + 1) * 16);
                    set_xmm(context, register, Ptr::new(from).read());
                }
                SAVE_XMM128_FAR => {
                    let from = establisher.wrapping_add(info.double_word(index + 1));
                    set_xmm(context, register, Ptr::new(from).read());
                }
                PUSH_MACHFRAME => {
                    let frame = context.General[RSP] + 8 * u64::from(operand == 1);
                    context.Rip = Ptr::new(frame).read();
                    context.General[RSP] = Ptr::new(frame + 24).read();
                    has_machine_frame = true;
                }
                _ => {}
            }
        }
        index = index.saturating_add(width);
    }
    has_machine_frame
}

/// Sets an XMM register of a context.
pub(crate) fn set_xmm(context: &mut CONTEXT, register: usize, value: u128) {
    let at = XMM + 16 * register;
    context.FltSave.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
}

/// If `pc` is in an epilogue (only pops, and what releases the frame before them, then a return or a jump out), does
/// what is left of it.
fn unwind_epilogue(
    image: u64,
    pc: u64,
    function: RUNTIME_FUNCTION,
    info: Info,
    context: &mut CONTEXT,
) -> bool {
    let end = image + u64::from(function.EndAddress);
    let byte = |at: u64| {
        if at < end {
            Ptr::<u8>::new(at).read()
        } else {
            0xCC
        }
    };
    let mut at = pc;
    let mut after = *context;
    // add rsp, imm or lea rsp, [frame register + disp] can only be the first.
    let release = [byte(at), byte(at + 1), byte(at + 2), byte(at + 3)];
    match release {
        [0x48, 0x83, 0xC4, bytes] => {
            after.General[RSP] =
                after.General[RSP].wrapping_add_signed(i64::from(bytes.cast_signed()));
            at += 4;
        }
        [0x48, 0x81, 0xC4, _] => {
            let bytes = Ptr::<i32>::new(at + 3).read();
            after.General[RSP] = after.General[RSP].wrapping_add_signed(i64::from(bytes));
            at += 7;
        }
        [0x48 | 0x49, 0x8D, mod_rm, disp] if info.frame_register != 0 && mod_rm & 0x38 == 0x20 => {
            let base = usize::from(mod_rm & 7) + 8 * usize::from(release[0] & 1);
            if base != info.frame_register {
                return false;
            }
            let displacement = match mod_rm >> 6 {
                1 => {
                    at += 4;
                    i64::from(disp.cast_signed())
                }
                2 => {
                    let displacement = i64::from(Ptr::<i32>::new(at + 3).read());
                    at += 7;
                    displacement
                }
                _ => return false,
            };
            after.General[RSP] = after.General[base].wrapping_add_signed(displacement);
        }
        _ => {}
    }
    for _ in 0..EPILOGUE_LIMIT {
        match (byte(at), byte(at + 1)) {
            (opcode @ 0x58..=0x5F, _) => {
                after.General[usize::from(opcode - 0x58)] = pop(&mut after);
                at += 1;
            }
            (0x41, opcode @ 0x58..=0x5F) => {
                after.General[usize::from(opcode - 0x50)] = pop(&mut after);
                at += 2;
            }
            (0xC3 | 0xC2, _) | (0xF3, 0xC3) => break,
            (0xEB, displacement) => {
                let target = (at + 2).wrapping_add_signed(i64::from(displacement.cast_signed()));
                if is_inside(image, function, target) {
                    return false;
                }
                break;
            }
            (0xE9, _) => {
                let displacement = i64::from(Ptr::<i32>::new(at + 1).read());
                if is_inside(image, function, (at + 5).wrapping_add_signed(displacement)) {
                    return false;
                }
                break;
            }
            // jmp qword ptr [rip + disp], with or without REX.W
            (0xFF, 0x25) => break,
            (0x48, 0xFF) if byte(at + 2) == 0x25 => break,
            _ => return false,
        }
    }
    after.Rip = pop(&mut after);
    *context = after;
    true
}

fn is_inside(image: u64, function: RUNTIME_FUNCTION, address: u64) -> bool {
    let begin = image + u64::from(function.BeginAddress);
    let end = image + u64::from(function.EndAddress);
    (begin..end).contains(&address)
}
