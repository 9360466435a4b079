//! Just enough of the instruction format (Intel SDM volume 2A, chapter 2): prefixes, REX, one- and two-byte opcodes,
//! ModRM with SIB and displacement, immediates of the forms in [`super`].

/// Opcode map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Map {
    /// One-byte opcodes.
    One,
    /// Two-byte opcodes (after 0F).
    Two,
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instruction {
    pub(super) map: Map,
    pub(super) opcode: u8,
    /// Bytes in all.
    pub(super) length: u8,
    /// ModRM.reg with REX.R.
    pub(super) reg: u8,
    /// ModRM.rm with REX.B, where it is a register.
    pub(super) rm: u8,
    /// Whether ModRM.rm is memory.
    pub(super) is_memory: bool,
    /// Operand size in bytes, for opcodes that have one by prefix: 2, 4 or 8.
    pub(super) operand_bytes: u8,
    /// Whether any REX prefix is there (it changes byte registers 4 to 7).
    pub(super) has_rex: bool,
    /// Sign-extended immediate, 0 if none.
    pub(super) immediate: i64,
}

struct Bytes<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Bytes<'_> {
    fn take(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.next).copied()?;
        self.next += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.next).copied()
    }

    fn signed(&mut self, count: u8) -> Option<i64> {
        let mut value = 0_u64;
        for index in 0..count {
            value |= u64::from(self.take()?) << (8 * index);
        }
        let shift = 64 - 8 * u32::from(count);
        Some(if count == 0 {
            0
        } else {
            (value << shift).cast_signed() >> shift
        })
    }
}

/// Decodes one instruction; `None` when it is longer than `bytes` or of a form that is not known here.
pub(super) fn decode(bytes: &[u8], is_64_bit: bool) -> Option<Instruction> {
    let mut bytes = Bytes { bytes, next: 0 };
    let mut has_operand_prefix = false;
    while let Some(prefix @ (0x66 | 0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65)) = bytes.peek() {
        has_operand_prefix |= prefix == 0x66;
        bytes.next += 1;
    }
    let mut rex = 0;
    if is_64_bit && matches!(bytes.peek(), Some(0x40..=0x4F)) {
        rex = bytes.take()?;
    }
    let mut map = Map::One;
    let mut opcode = bytes.take()?;
    if opcode == 0x0F {
        map = Map::Two;
        opcode = bytes.take()?;
    }
    let operand_bytes = match (rex & 8 != 0, has_operand_prefix) {
        (true, _) => 8,
        (false, true) => 2,
        (false, false) => 4,
    };
    let mut instruction = Instruction {
        map,
        opcode,
        length: 0,
        reg: 0,
        rm: 0,
        is_memory: false,
        operand_bytes,
        has_rex: rex != 0,
        immediate: 0,
    };
    match (map, opcode) {
        (Map::One, 0xFA | 0xFB | 0xF4) | (Map::Two, 0x06 | 0x08 | 0x09 | 0x30 | 0x32) => {}
        // MOV with a 64-bit (32-bit) address in the instruction.
        (Map::One, 0xA0 | 0xA1) => {
            bytes.signed(if is_64_bit { 8 } else { 4 })?;
            instruction.is_memory = true;
        }
        (
            Map::One,
            0x02
            | 0x03
            | 0x0A
            | 0x0B
            | 0x22
            | 0x23
            | 0x2A
            | 0x2B
            | 0x32
            | 0x33
            | 0x38..=0x3B
            | 0x63
            | 0x80
            | 0x81
            | 0x83
            | 0x84
            | 0x85
            | 0x8A
            | 0x8B
            | 0xF6
            | 0xF7,
        )
        | (Map::Two, 0x01 | 0x20..=0x23 | 0xB6 | 0xB7 | 0xBE | 0xBF) => {
            mod_rm(&mut bytes, &mut instruction, rex, is_64_bit)?;
        }
        _ => return None,
    }
    let immediate_bytes = match (map, opcode, instruction.reg & 7) {
        (Map::One, 0x80 | 0x83, _) | (Map::One, 0xF6, 0 | 1) => 1,
        (Map::One, 0x81, _) | (Map::One, 0xF7, 0 | 1) => operand_bytes.min(4),
        _ => 0,
    };
    instruction.immediate = bytes.signed(immediate_bytes)?;
    instruction.length = u8::try_from(bytes.next).ok()?;
    Some(instruction)
}

fn mod_rm(
    bytes: &mut Bytes<'_>,
    instruction: &mut Instruction,
    rex: u8,
    is_64_bit: bool,
) -> Option<()> {
    let byte = bytes.take()?;
    let mode = byte >> 6;
    let rm = byte & 7;
    instruction.reg = (byte >> 3 & 7) | (rex & 4) << 1;
    instruction.rm = rm | (rex & 1) << 3;
    // MOV to and from control and debug registers ignores the mode: the operand is always a register.
    let is_control = instruction.map == Map::Two && matches!(instruction.opcode, 0x20..=0x23);
    instruction.is_memory = mode != 3 && !is_control;
    if !instruction.is_memory {
        return Some(());
    }
    let mut displacement = match mode {
        1 => 1,
        2 => 4,
        _ => 0,
    };
    if rm == 4 {
        let sib = bytes.take()?;
        if mode == 0 && sib & 7 == 5 {
            displacement = 4;
        }
    } else if mode == 0 && rm == 5 {
        // RIP-relative in 64-bit code, an absolute address in 32-bit code: 4 bytes either way.
        let _ = is_64_bit;
        displacement = 4;
    }
    bytes.signed(displacement)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(bytes: &[u8]) -> Option<u8> {
        decode(bytes, true).map(|instruction| instruction.length)
    }

    #[test]
    fn lengths_of_known_forms() {
        // mov rax, [0xFFFFF78000000320]
        assert_eq!(
            length(&[0x48, 0xA1, 0x20, 3, 0, 0, 0x80, 0xF7, 0xFF, 0xFF]),
            Some(10)
        );
        // mov rax, [rax]; mov eax, [rcx+0x14]; movzx eax, byte ptr [rdx+rcx*2+0x100]
        assert_eq!(length(&[0x48, 0x8B, 0x00]), Some(3));
        assert_eq!(length(&[0x8B, 0x41, 0x14]), Some(3));
        assert_eq!(length(&[0x0F, 0xB6, 0x84, 0x4A, 0, 1, 0, 0]), Some(8));
        // cmp dword ptr [rax], imm32; cmp byte ptr [rax], imm8; test dword ptr [rax], imm32
        assert_eq!(length(&[0x81, 0x38, 1, 2, 3, 4]), Some(6));
        assert_eq!(length(&[0x80, 0x38, 1]), Some(3));
        assert_eq!(length(&[0xF7, 0x00, 1, 2, 3, 4]), Some(6));
        // cli; mov cr8, rcx; mov rax, cr8
        assert_eq!(length(&[0xFA]), Some(1));
        // wrmsr; rdmsr; with a REX prefix that changes nothing
        assert_eq!(length(&[0x0F, 0x30]), Some(2));
        assert_eq!(length(&[0x0F, 0x32]), Some(2));
        assert_eq!(length(&[0x48, 0x0F, 0x32]), Some(3));
        assert_eq!(length(&[0x44, 0x0F, 0x22, 0xC1]), Some(4));
        assert_eq!(decode(&[0x44, 0x0F, 0x20, 0xC0], true).unwrap().reg, 8);
    }

    #[test]
    fn truncated_and_unknown_forms_are_refused() {
        assert_eq!(length(&[0x48, 0xA1, 0x20]), None);
        assert_eq!(length(&[]), None);
        assert_eq!(length(&[0x0F, 0x05]), None);
        assert_eq!(length(&[0xC5, 0xF8, 0x10, 0x00]), None);
    }

    #[test]
    fn rex_bytes_are_instructions_in_32_bit_code() {
        assert_eq!(decode(&[0x48, 0x8B, 0x00], false), None);
    }
}
