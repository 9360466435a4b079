//! A driver's image as code: bytes at addresses, decoded where they may be executed.

use std::collections::HashMap;
use std::ops::Range;

use abi::DriverAbi;
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

use crate::loader::{Image, MapError, SectionFlags, SecurityCookie};

/// Longest instruction, in bytes.
const INSTRUCTION_MAX: usize = 15;
/// Bytes of a RUNTIME_FUNCTION.
const FUNCTION_BYTES: u32 = 12;

/// An image laid out at its preferred base. Addresses are virtual unless they are called RVAs.
#[derive(Debug)]
pub(super) struct Code<'a> {
    pub(super) image: &'a Image,
    pub(super) base: u64,
    memory: Vec<u8>,
    executable: Vec<Range<u64>>,
    /// Number of the import whose address is stored at this address.
    slots: HashMap<u64, usize>,
    decoded: HashMap<u64, Option<Instruction>>,
}

impl<'a> Code<'a> {
    /// Lays the image out.
    pub(super) fn new(image: &'a Image) -> Result<Self, MapError> {
        let cookie = SecurityCookie::value_from(image.abi, 0x1234_5678_9ABC);
        let mapped = image.map(image.preferred_base, |_| 0, cookie)?;
        let base = mapped.base;
        // By the sections' own flags: where they share pages, all of those can be executed.
        let executable = image
            .sections
            .iter()
            .filter(|section| section.flags.contains(SectionFlags::EXECUTE))
            .map(|section| base + u64::from(section.rva)..base + u64::from(section.end()))
            .collect();
        let slots = image
            .imports
            .iter()
            .enumerate()
            .map(|(number, import)| (base + u64::from(import.iat_rva), number))
            .collect();
        Ok(Self {
            image,
            base,
            memory: mapped.memory,
            executable,
            slots,
            decoded: HashMap::new(),
        })
    }

    /// Bytes of a pointer.
    pub(super) fn word(&self) -> usize {
        self.image.abi.pointer_bytes()
    }

    /// Whether the driver is 64-bit code.
    pub(super) fn is_wide(&self) -> bool {
        self.image.abi == DriverAbi::Amd64
    }

    /// The memory of the image.
    pub(super) fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Whether the address is in the image.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.offset(address).is_some()
    }

    fn offset(&self, address: u64) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.base)?).ok()?;
        (offset < self.memory.len()).then_some(offset)
    }

    /// Whether instructions may be fetched from the address.
    pub(super) fn is_code(&self, address: u64) -> bool {
        let behind = self
            .executable
            .partition_point(|range| range.end <= address);
        self.executable
            .get(behind)
            .is_some_and(|range| range.contains(&address))
    }

    /// Whether the function table of an amd64 image has a function that starts there.
    pub(super) fn is_listed(&self, address: u64) -> bool {
        let Some(table) = &self.image.function_table else {
            return false;
        };
        let begin = |index: u32| {
            let at = u64::from(table.start) + u64::from(index * FUNCTION_BYTES);
            self.number(self.base + at, 4)
                .map_or(0, |start| self.base + start)
        };
        let count = table.end.saturating_sub(table.start) / FUNCTION_BYTES;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if begin(middle) < address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low < count && begin(low) == address
    }

    /// The import whose address is stored at this address.
    pub(super) fn import_at(&self, slot: u64) -> Option<usize> {
        self.slots.get(&slot).copied()
    }

    /// The little-endian number of at most 8 bytes at an address.
    pub(super) fn number(&self, address: u64, bytes: usize) -> Option<u64> {
        let start = self.offset(address)?;
        let slice = self.memory.get(start..start.checked_add(bytes)?)?;
        let mut all = [0; 8];
        all.get_mut(..bytes)?.copy_from_slice(slice);
        Some(u64::from_le_bytes(all))
    }

    /// The pointer at an address.
    pub(super) fn pointer(&self, address: u64) -> Option<u64> {
        self.number(address, self.word())
    }

    /// The instruction at an address; `None` for what is no code.
    pub(super) fn decode(&mut self, address: u64) -> Option<Instruction> {
        if let Some(known) = self.decoded.get(&address) {
            return *known;
        }
        let decoded = self.decode_new(address);
        self.decoded.insert(address, decoded);
        decoded
    }

    fn decode_new(&self, address: u64) -> Option<Instruction> {
        if !self.is_code(address) {
            return None;
        }
        let start = self.offset(address)?;
        let end = start.saturating_add(INSTRUCTION_MAX).min(self.memory.len());
        let bitness = if self.is_wide() { 64 } else { 32 };
        let bytes = self.memory.get(start..end)?;
        let instruction = Decoder::with_ip(bitness, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}

/// The address of a memory operand that has no variable part.
pub(super) fn fixed_address(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    let is_fixed = instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
    is_fixed.then(|| instruction.memory_displacement64())
}

/// Whether one of the operands is memory.
pub(super) fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|number| instruction.op_kind(number) == OpKind::Memory)
}
