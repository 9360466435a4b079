//! GDT, IDT and TSS as bytes (Intel SDM vol. 3A ch. 3.4.5, 6.14, 8.7; AMD APM vol. 2 ch. 4.7-4.8, 12.2).

use abi::header::{VECTOR_COUNT, VECTOR_STRIDE};
use abi::layout::{self, PAGE_SIZE, selector, tss};

use super::convert::{to_u16, to_usize};

/// Gate stack (IST) of exceptions.
const IST_EXCEPTION: u8 = 1;
/// Gate stack of the tick.
const IST_TICK: u8 = 2;
/// Gate stack of double faults, NMIs and machine checks, which may hit while IST 1 is in use.
const IST_ABORT: u8 = 3;
const VECTOR_NMI: u64 = 2;
const VECTOR_DOUBLE_FAULT: u64 = 8;
const VECTOR_MACHINE_CHECK: u64 = 18;

/// Access byte and flags nibble of a segment descriptor: present, not system.
const fn segment(base: u32, limit_pages: bool, access: u8, flags: u8) -> u64 {
    let limit: u64 = if limit_pages { 0xF_FFFF } else { 0xFFF };
    let base = base as u64;
    (limit & 0xFFFF)
        | (base & 0xFF_FFFF) << 16
        | (access as u64) << 40
        | (limit >> 16) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

const CODE_CPL0: u8 = 0x9B;
const CODE_CPL3: u8 = 0xFB;
const DATA_CPL0: u8 = 0x93;
const DATA_CPL3: u8 = 0xF3;
const LONG: u8 = 0xA;
const FLAT32: u8 = 0xC;
const BYTES32: u8 = 0x4;

/// The GDT for a kernel space at `kernel_base`.
pub(super) fn gdt(kernel_base: u64) -> [u8; selector::GDT_SIZE as usize] {
    let mut entries = [0_u64; selector::GDT_SIZE as usize / 8];
    let mut set = |selector: u16, descriptor: u64| {
        if let Some(entry) = entries.get_mut(usize::from(selector / 8)) {
            *entry = descriptor;
        }
    };
    // The KPCR's descriptors have a 32-bit base: meaningful for i386 guests, whose kernel space is below 4 GiB.
    let pcr = u32::try_from(kernel_base + layout::PCR).unwrap_or(0);
    set(selector::KERNEL_CODE64, segment(0, true, CODE_CPL0, LONG));
    set(selector::KERNEL_DATA, segment(0, true, DATA_CPL0, FLAT32));
    set(selector::USER_CODE32, segment(0, true, CODE_CPL3, FLAT32));
    set(selector::USER_DATA, segment(0, true, DATA_CPL3, FLAT32));
    set(selector::USER_CODE64, segment(0, true, CODE_CPL3, LONG));
    set(selector::KERNEL_CODE32, segment(0, true, CODE_CPL0, FLAT32));
    set(
        selector::KERNEL_PCR,
        segment(pcr, false, DATA_CPL0, BYTES32),
    );
    set(selector::USER_PCR, segment(pcr, false, DATA_CPL3, BYTES32));
    let base = kernel_base + layout::TSS;
    let limit = tss::SIZE - 1;
    // 64-bit TSS, available: `ltr` marks it busy.
    set(
        selector::TSS,
        (limit & 0xFFFF)
            | (base & 0xFF_FFFF) << 16
            | 0x89 << 40
            | (limit >> 16 & 0xF) << 48
            | (base >> 24 & 0xFF) << 56,
    );
    set(selector::TSS + 8, base >> 32);
    let mut bytes = [0; selector::GDT_SIZE as usize];
    for (chunk, entry) in bytes.chunks_exact_mut(8).zip(entries) {
        chunk.copy_from_slice(&entry.to_le_bytes());
    }
    bytes
}

/// The IDT: an interrupt gate at CPL 0 for every vector that has gate code. DPL 3 for the software
/// breakpoints that driver code at CPL 3 executes (int3, into).
pub(super) fn idt(vectors: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(to_usize(VECTOR_COUNT) * 16);
    for vector in 0..VECTOR_COUNT {
        let address = vectors + vector * VECTOR_STRIDE;
        let ist = match vector {
            VECTOR_NMI | VECTOR_DOUBLE_FAULT | VECTOR_MACHINE_CHECK => IST_ABORT,
            _ if vector == u64::from(abi::header::INTERRUPT_VECTOR) => IST_TICK,
            _ => IST_EXCEPTION,
        };
        let privilege: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = (address & 0xFFFF)
            | u64::from(selector::KERNEL_CODE64) << 16
            | u64::from(ist) << 32
            | (0x8E | privilege << 5) << 40
            | (address >> 16 & 0xFFFF) << 48;
        bytes.extend_from_slice(&low.to_le_bytes());
        bytes.extend_from_slice(&(address >> 32).to_le_bytes());
    }
    bytes
}

/// The TSS without its bitmaps' contents: stacks and I/O map base. `allows_all_ports`: CPL 3 code has every port
/// outside the ring-3 stub (ring3 mode, where the driver runs at CPL 3).
pub(super) fn tss_image(kernel_base: u64, allows_all_ports: bool) -> Vec<u8> {
    let mut bytes = vec![0_u8; to_usize(tss::SIZE)];
    let mut put = |offset: u64, value: &[u8]| {
        let start = to_usize(offset);
        if let Some(field) = bytes.get_mut(start..start + value.len()) {
            field.copy_from_slice(value);
        }
    };
    let stack_top =
        |number: u64| (kernel_base + layout::IST_STACKS + number * PAGE_SIZE).to_le_bytes();
    put(tss::RSP0, &stack_top(u64::from(IST_EXCEPTION)));
    for ist in [IST_EXCEPTION, IST_TICK, IST_ABORT] {
        put(
            tss::IST + 8 * (u64::from(ist) - 1),
            &stack_top(u64::from(ist)),
        );
    }
    let map_base = if allows_all_ports {
        const { to_u16(tss::KERNEL_IOPM) }
    } else {
        tss::NO_IOPM
    };
    put(tss::IOMAP_BASE_FIELD, &map_base.to_le_bytes());
    put(tss::PROCESS_IOPM, &[0xFF; to_usize(tss::IOPM_BYTES) + 8]);
    put(tss::KERNEL_IOPM + tss::IOPM_BYTES, &[0xFF; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tss_descriptor_carries_base_and_limit() {
        let bytes = gdt(0xFFFF_F800_0000_0000);
        let low = u64::from_le_bytes(bytes[0x40..0x48].try_into().unwrap());
        let high = u64::from_le_bytes(bytes[0x48..0x50].try_into().unwrap());
        let base = (low >> 16 & 0xFF_FFFF) | (low >> 56) << 24 | high << 32;
        assert_eq!(base, 0xFFFF_F800_0000_0000 + layout::TSS);
        assert_eq!((low & 0xFFFF) | (low >> 48 & 0xF) << 16, tss::SIZE - 1);
        assert_eq!(low >> 40 & 0xFF, 0x89);
    }

    #[test]
    fn gates_point_at_their_code() {
        let bytes = idt(0x8010_2000);
        let gate = &bytes[14 * 16..15 * 16];
        let low = u64::from_le_bytes(gate[..8].try_into().unwrap());
        assert_eq!((low & 0xFFFF) | (low >> 48) << 16, 0x8010_2000 + 14 * 16);
        assert_eq!(low >> 32 & 7, 1);
        assert_eq!(bytes.len(), 33 * 16);
    }

    #[test]
    fn bitmaps_are_closed_by_ones() {
        let bytes = tss_image(0x8000_0000, true);
        assert_eq!(bytes[to_usize(tss::KERNEL_IOPM + 8192)], 0xFF);
        assert_eq!(bytes[to_usize(tss::KERNEL_IOPM)], 0);
        assert_eq!(bytes[to_usize(tss::PROCESS_IOPM)], 0xFF);
    }
}
