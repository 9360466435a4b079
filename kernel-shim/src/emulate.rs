//! Instructions that cannot run as they are and are made up for in ring3 mode, where driver code is at CPL 3:
//! privileged instructions, and loads from KUSER_SHARED_DATA at its fixed amd64 address, which cannot be mapped.
//!
//! What is emulated is what drivers are seen to execute; everything else stays the driver's exception. A
//! complete decoder (iced-x86, which the VMM uses) builds its tables on the heap at first use, more than the
//! guest's heap has; the handful of forms here needs none.

mod decode;
mod load;

use abi::Privilege;
use abi::doorbell::Call;

use crate::ke;
use crate::platform::Trap;
use crate::raw::{Ptr, low8, to_usize};
use crate::shared;

use decode::{Instruction, Map};

const GENERAL_PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;
/// Longest instruction, in bytes.
const INSTRUCTION_BYTES: usize = 15;
/// Indices of registers in a trap.
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
/// PE | MP | ET | NE | WP | AM | PG: what NT runs with.
const CR0: u64 = 0x8005_0033;
/// PAE | OSFXSR | OSXMMEXCPT.
const CR4: u64 = 0x620;

/// Emulates the instruction at fault and moves past it. False: it is not one to emulate; the trap is the driver's.
pub(crate) fn try_emulate(trap: &mut Trap) -> bool {
    if shared::privilege() != Privilege::Ring3 as u32 {
        return false;
    }
    match trap.vector {
        GENERAL_PROTECTION => {
            let Some(instruction) = fetch(trap) else {
                return false;
            };
            privileged(trap, &instruction)
        }
        PAGE_FAULT if load::is_shared_data(trap) => {
            let Some(instruction) = fetch(trap) else {
                return false;
            };
            load::emulate(trap, &instruction)
        }
        _ => false,
    }
}

fn fetch(trap: &Trap) -> Option<Instruction> {
    // The page after the instruction's may be absent: what was fetched is valid, the rest is not needed.
    let address = trap.registers.rip;
    let available = abi::layout::PAGE_SIZE - address % abi::layout::PAGE_SIZE;
    let mut bytes = [0; INSTRUCTION_BYTES];
    let count = if crate::mm::region_of(address + available).is_some() {
        INSTRUCTION_BYTES
    } else {
        to_usize(available).min(INSTRUCTION_BYTES)
    };
    Ptr::<u8>::new(address).read_bytes(bytes.get_mut(..count)?);
    decode::decode(bytes.get(..count)?, !trap.is_32_bit)
}

/// Instructions that fault at CPL 3 alone (Intel SDM volume 3A, 5.9; CLI and STI: IOPL).
fn privileged(trap: &mut Trap, instruction: &Instruction) -> bool {
    match (instruction.map, instruction.opcode) {
        (Map::One, 0xFA) => shared::set_interrupts_masked(1),
        (Map::One, 0xFB) => shared::set_interrupts_masked(0),
        // HLT waits for an interrupt; returning early is allowed, as if one had come.
        (Map::One, 0xF4) => {}
        // CLTS, INVD, WBINVD: there is no lazy FPU state and no cache of the host's to flush.
        (Map::Two, 0x06 | 0x08 | 0x09) => {}
        // INVLPG: the driver owns no page tables.
        (Map::Two, 0x01) if instruction.is_memory && instruction.reg & 7 == 7 => {}
        (Map::Two, 0x20) => {
            let value = match instruction.reg {
                0 => CR0,
                2 => trap.registers.cr2,
                3 => abi::layout::RAM_BASE,
                4 => CR4,
                8 => u64::from(shared::irql()),
                _ => return false,
            };
            set_register(trap, instruction.rm, value);
        }
        (Map::Two, 0x22) => {
            let value = register(trap, instruction.rm);
            match instruction.reg {
                8 => set_irql(low8(value)),
                0 | 3 | 4 => crate::finding(
                    &[u64::from(instruction.reg), value],
                    "the driver wrote a control register, which has no effect",
                ),
                _ => return false,
            }
        }
        (Map::Two, 0x30) => {
            let value = low32(trap, RAX) | low32(trap, RDX) << 32;
            if msr(trap, Some(value)).is_none() {
                return false;
            }
        }
        (Map::Two, 0x32) => {
            let Some(value) = msr(trap, None) else {
                return false;
            };
            // The upper halves are cleared in 64-bit code; in 32-bit code nobody sees them.
            trap.registers.general[RAX] = value & 0xFFFF_FFFF;
            trap.registers.general[RDX] = value >> 32;
        }
        // Debug registers read as unused and ignore writes.
        (Map::Two, 0x21) => set_register(trap, instruction.rm, 0),
        (Map::Two, 0x23) => {}
        _ => return false,
    }
    trap.registers.rip += u64::from(instruction.length);
    true
}

/// Has the machine's owner's rules decide about an MSR; `None`: the instruction faults.
fn msr(trap: &Trap, write: Option<u64>) -> Option<u64> {
    let [failed, value, ..] = shared::platform().doorbell(
        Call::Msr,
        [
            low32(trap, RCX),
            u64::from(write.is_some()),
            write.unwrap_or(0),
            trap.registers.rip,
            0,
            0,
        ],
    );
    (failed == 0).then_some(value)
}

fn low32(trap: &Trap, index: usize) -> u64 {
    trap.registers.general[index] & 0xFFFF_FFFF
}

/// CR8 is the IRQL on amd64 (WDK, "Managing hardware priorities").
fn set_irql(irql: u8) {
    if irql >= shared::irql() {
        let _old = ke::irql::raise(irql);
    } else {
        ke::irql::lower(irql);
    }
}

fn register(trap: &Trap, number: u8) -> u64 {
    trap.registers
        .general
        .get(usize::from(number))
        .copied()
        .unwrap_or(0)
}

fn set_register(trap: &mut Trap, number: u8, value: u64) {
    let is_32_bit = trap.is_32_bit;
    if let Some(register) = trap.registers.general.get_mut(usize::from(number)) {
        *register = if is_32_bit {
            value & 0xFFFF_FFFF
        } else {
            value
        };
    }
}
