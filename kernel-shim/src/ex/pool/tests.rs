use super::*;
use crate::nt::bugcheck as code;
use crate::test_platform::{POOL_BYTES, crash_of, machine, verifying_machine};
use abi::crash::CrashRecord;
use proptest::prelude::*;

const TAG: u32 = u32::from_le_bytes(*b"Test");
/// An owner that is not the shim: what a driver's blocks have.
const OWNER: u64 = 0x1000;

fn text(record: &CrashRecord) -> String {
    String::from_utf8_lossy(&record.text[..record.text_bytes as usize]).into_owned()
}

/// Size, so that half of the pool is used and the special pool has no room left.
fn fill_half() {
    let half = allocate(POOL_BYTES * 3 / 4 + 4096, TAG, SHIM);
    assert!(!half.is_null());
}

#[test]
fn special_blocks_end_with_their_page_and_know_their_memory() {
    let machine = verifying_machine();
    let window = machine.kernel_base() + layout::SPECIAL_POOL;
    let block = allocate(100, TAG, OWNER);
    assert!(contains(block.addr()) && block.addr() >= window);
    assert_eq!(block.addr() % PAGE, PAGE - 112);
    assert_eq!(allocate(100, TAG, OWNER).addr() - block.addr(), 2 * PAGE);
    let physical = mm::physical_address(block.addr()).unwrap();
    assert_eq!(physical % PAGE, block.addr() % PAGE);
    assert_eq!(block_at(block.addr()).unwrap().bytes, 100);
    assert_eq!(block_over(block.addr() + 99).unwrap().tag, TAG);
    assert!(block_over(block.addr() + 100).is_none());
    assert_eq!(blocks_of(OWNER).len(), 2);
    free(block, TAG);
    assert_eq!(mm::physical_address(block.addr()), None);
    let fault = special_fault(block.addr()).unwrap();
    assert!(fault.is_freed && fault.block.bytes == 100);
    assert!(special_fault(window + layout::SPECIAL_POOL_SIZE).is_none());
}

#[test]
fn special_damage_is_found_at_free() {
    let check = |bytes: u64, at: i64, reason: u64, word: &str| {
        let _machine = verifying_machine();
        let block = allocate(bytes, TAG, OWNER);
        block.offset(at).write(1);
        let record = crash_of(|| free(block, TAG));
        assert_eq!(record.code, code::SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION);
        assert_eq!(record.parameters[0], block.addr());
        assert_eq!(record.parameters[1], block.offset(at).addr());
        assert_eq!(record.parameters[3], reason);
        let text = text(&record);
        assert!(text.contains(word) && text.contains("tag 'Test'"), "{text}");
    };
    check(100, 100, 0x24, "overrun");
    check(100, 111, 0x24, "overrun");
    check(100, -1, 0x23, "underrun");
    check(16, -4000, 0x23, "underrun");
}

#[test]
fn special_blocks_are_freed_once_with_their_tag() {
    let _machine = verifying_machine();
    let block = allocate(8, TAG, OWNER);
    let record = crash_of(|| free(block, TAG + 1));
    assert_eq!(
        (record.code, record.parameters[0]),
        (code::BAD_POOL_CALLER, 0xA)
    );
    let record = crash_of(|| free(block.add_bytes(4), TAG));
    assert_eq!((record.code, record.parameters[3]), (0xC1, 0x21));
    free(block, 0);
    let record = crash_of(|| free(block, TAG));
    assert_eq!((record.code, record.parameters[3]), (0xC1, 0x20));
    assert!(text(&record).contains("freed again"), "{}", text(&record));
}

#[test]
fn without_room_freed_memory_is_watched() {
    let _machine = verifying_machine();
    fill_half();
    let block = allocate(40, TAG, OWNER);
    assert!(special_fault(block.addr()).is_none());
    free(block, TAG);
    assert_eq!(block.read(), FREED_BYTE);
    assert_ne!(allocate(40, TAG, OWNER), block, "it is kept back");
    block.add_bytes(39).write(0);
    let record = crash_of(check_all);
    assert_eq!(
        (record.code, record.parameters[1]),
        (0xC1, block.addr() + 39)
    );
    assert!(
        text(&record).contains("written to after that"),
        "{}",
        text(&record)
    );
}

#[test]
fn a_damaged_header_is_noticed() {
    let _machine = machine();
    let block = allocate(40, TAG, SHIM);
    block.offset(-1).write(0x33);
    let record = crash_of(|| free(block, TAG));
    assert_eq!(
        (record.code, record.parameters[0]),
        (code::BAD_POOL_HEADER, 0x20)
    );
}

#[test]
fn wild_addresses_have_their_reasons() {
    let machine = machine();
    let block = allocate(100, TAG, SHIM);
    let run = allocate(3 * PAGE, TAG, SHIM);
    let reason = |address: u64| {
        let record = crash_of(|| free(Ptr::new(address), TAG));
        assert_eq!(record.code, code::BAD_POOL_CALLER);
        record.parameters[0]
    };
    assert_eq!(reason(block.addr() + 16), 0x99);
    assert_eq!(reason(run.addr() + PAGE), 0x99);
    assert_eq!(reason(machine.kernel_base() + layout::DRIVERS), 0x43);
    assert_eq!(reason(0x1234), 0x40);
    free(run, TAG);
    assert_eq!(reason(run.addr()), 7);
    free(block, TAG);
    assert_eq!(reason(block.addr()), 7);
}

#[test]
fn guard_bytes_behind_a_run_are_checked() {
    let _machine = machine();
    let run = allocate(PAGE + 1, TAG, SHIM);
    assert_eq!(run.addr() % PAGE, 0);
    run.add_bytes(PAGE + 1).write(0);
    let record = crash_of(|| free(run, TAG));
    assert_eq!(record.code, code::BAD_POOL_HEADER);
}

#[test]
fn all_memory_comes_back() {
    let _machine = machine();
    let before = free_bytes();
    for bytes in [0, 1, 15, 16, 200, 4000, 4072, 4073, 4095, 4096, 10_000] {
        let blocks: Vec<_> = (0..5).map(|_| allocate(bytes, TAG, SHIM)).collect();
        for block in &blocks {
            assert!(!block.is_null(), "{bytes}");
            assert_eq!(block.addr() % 16, 0);
            assert!(
                bytes >= PAGE || block.addr() % PAGE + bytes <= PAGE,
                "{bytes}"
            );
            assert!(bytes < PAGE || block.addr() % PAGE == 0);
            block.fill(0x55, bytes);
        }
        blocks.iter().for_each(|block| free(*block, TAG));
    }
    let classes_in_use = 6;
    assert!(before - free_bytes() <= classes_in_use * PAGE);
}

proptest! {
    #[test]
    fn blocks_never_overlap(operations in prop::collection::vec((0_u64..6000, 0_usize..8), 1..60), verify: bool) {
        let _machine = if verify { verifying_machine() } else { machine() };
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for (bytes, victim) in operations {
            if victim < blocks.len() {
                let (address, _) = blocks.swap_remove(victim);
                free(Ptr::new(address), TAG);
            }
            let owner = if bytes % 2 == 0 { OWNER } else { SHIM };
            let block = allocate(bytes, TAG, owner);
            if !block.is_null() {
                prop_assert!(blocks.iter().all(|&(other, size)| block.addr() + bytes <= other || other + size <= block.addr()));
                block.fill(0xAA, bytes);
                blocks.push((block.addr(), bytes));
            }
        }
        for (address, _) in blocks {
            free(Ptr::new(address), TAG);
        }
        check_all();
    }
}

/// Not a measurement, a bound: the allocator's own work must not depend on how many blocks there are.
#[test]
fn many_blocks_cost_no_more_than_few() {
    let _machine = machine();
    let mut blocks = Vec::new();
    while let Some(block) = allocate(64, TAG, SHIM).non_null() {
        blocks.push(block);
    }
    assert!(blocks.len() as u64 > POOL_BYTES / 128, "{}", blocks.len());
    let start = std::time::Instant::now();
    let rounds = 20_000;
    for round in 0..rounds {
        let index = round * 7 % blocks.len();
        free(blocks[index], TAG);
        blocks[index] = allocate(64, TAG, SHIM);
    }
    let each = start.elapsed() / u32::try_from(rounds).unwrap();
    assert!(
        each.as_micros() < 20,
        "{each:?} for a free and an allocation"
    );
}
