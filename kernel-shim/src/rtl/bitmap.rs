//! RTL_BITMAP: bits 0 to SizeOfBitMap - 1 of an array of ULONGs.
//!
//! As in NT, a range that leaves the bitmap is the driver's mistake: setting and clearing touch the bits in it all
//! the same (the buffer may be larger), asking for them says FALSE.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::{RTL_BITMAP, RTL_BITMAP_RUN};
use crate::raw::{Ptr, low8, low32};
use crate::value::{UChar, ULong, ULongLong};

/// What searches return when there is no such run.
const NONE: u32 = u32::MAX;

fn word(map: &RTL_BITMAP, index: u32) -> Ptr<u32> {
    map.Buffer.add_bytes(u64::from(index / 32) * 4)
}

fn bit(map: &RTL_BITMAP, index: u32) -> bool {
    word(map, index).read() & (1 << (index % 32)) != 0
}

/// Sets or clears `count` bits from `start`.
fn change(map: Ptr<RTL_BITMAP>, start: u32, count: u32, value: bool) {
    let map = map.read();
    let end = u64::from(start) + u64::from(count);
    let mut next = u64::from(start);
    while next < end {
        let index = low32(next);
        let bits = (32 - next % 32).min(end - next);
        let mask = low32(((1_u64 << bits) - 1) << (next % 32));
        let place = word(&map, index);
        let old = place.read();
        place.write(if value { old | mask } else { old & !mask });
        next += bits;
    }
}

/// Number of bits from `start` on, below `end`, that are `value`.
fn run_length(map: &RTL_BITMAP, start: u32, end: u32, value: bool) -> u32 {
    let mut next = start;
    while next < end {
        let bits = word(map, next).read() ^ if value { 0 } else { u32::MAX };
        let same = (!(bits >> (next % 32)))
            .trailing_zeros()
            .min(32 - next % 32);
        next = next.saturating_add(same);
        if !next.is_multiple_of(32) || same == 0 {
            break;
        }
    }
    next.min(end) - start
}

/// The runs of bits that are `value`, in order, from bit `from` on.
fn runs(map: &RTL_BITMAP, from: u32, value: bool) -> impl Iterator<Item = RTL_BITMAP_RUN> {
    let (map, size) = (*map, map.SizeOfBitMap);
    let mut next = from;
    core::iter::from_fn(move || {
        if next >= size {
            return None;
        }
        next += run_length(&map, next, size, !value);
        if next >= size {
            return None;
        }
        let run = RTL_BITMAP_RUN {
            StartingIndex: next,
            NumberOfBits: run_length(&map, next, size, value),
        };
        next += run.NumberOfBits;
        Some(run)
    })
}

/// The first run of `count` bits that are `value`, from the hint on, else from the start.
fn find(map: Ptr<RTL_BITMAP>, count: u32, hint: u32, value: bool) -> u32 {
    let map = map.read();
    let hint = if hint >= map.SizeOfBitMap { 0 } else { hint };
    if count == 0 {
        // As in NT: nothing is found at the byte that the hint is in.
        return hint & !7;
    }
    let fits = |from| {
        runs(&map, from, value)
            .find(|run| run.NumberOfBits >= count)
            .map(|run| run.StartingIndex)
    };
    fits(hint).or_else(|| fits(0)).unwrap_or(NONE)
}

fn find_and_change(map: Ptr<RTL_BITMAP>, count: u32, hint: u32, value: bool) -> u32 {
    let found = find(map, count, hint, value);
    if found != NONE {
        change(map, found, count, !value);
    }
    found
}

fn are(map: Ptr<RTL_BITMAP>, start: u32, count: u32, value: bool) -> bool {
    let map = map.read();
    let end = u64::from(start) + u64::from(count);
    if count == 0 || end > u64::from(map.SizeOfBitMap) {
        return false;
    }
    run_length(&map, start, low32(end), value) == count
}

/// The longest run of a bitmap; the first of several.
fn longest(map: &RTL_BITMAP, value: bool) -> RTL_BITMAP_RUN {
    let mut best = RTL_BITMAP_RUN::default();
    for run in runs(map, 0, value) {
        if run.NumberOfBits > best.NumberOfBits {
            best = run;
        }
    }
    best
}

fn next_run(map: Ptr<RTL_BITMAP>, from: u32, starting_index: Ptr<u32>, value: bool) -> u32 {
    let map = map.read();
    let run = runs(&map, from, value).next().unwrap_or(RTL_BITMAP_RUN {
        StartingIndex: from,
        NumberOfBits: 0,
    });
    starting_index.write(run.StartingIndex);
    run.NumberOfBits
}

fn set_bits_below(map: &RTL_BITMAP, from: u32, count: u64) -> u32 {
    let end = (u64::from(from) + count).min(u64::from(map.SizeOfBitMap));
    let mut sum = 0;
    for run in runs(map, from, true) {
        let run_end = (u64::from(run.StartingIndex) + u64::from(run.NumberOfBits)).min(end);
        sum += low32(run_end.saturating_sub(u64::from(run.StartingIndex)));
    }
    sum
}

fn fill(map: Ptr<RTL_BITMAP>, value: u8) {
    let map = map.read();
    map.Buffer
        .cast::<u8>()
        .fill(value, u64::from(map.SizeOfBitMap.div_ceil(32)) * 4);
}

nt_api! { module = rtl_bitmap;
    /// Makes a bitmap of a number of bits in a buffer, whose bits stay.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlInitializeBitMap(bit_map_header: Ptr<RTL_BITMAP>, bit_map_buffer: Ptr<u32>, size_of_bit_map: ULong) {
        bit_map_header.write(RTL_BITMAP { SizeOfBitMap: size_of_bit_map, Buffer: bit_map_buffer });
    }

    /// Clears a bit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlClearBit(bit_map_header: Ptr<RTL_BITMAP>, bit_number: ULong) {
        change(bit_map_header, bit_number, 1, false);
    }

    /// Sets a bit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSetBit(bit_map_header: Ptr<RTL_BITMAP>, bit_number: ULong) {
        change(bit_map_header, bit_number, 1, true);
    }

    /// Whether a bit is set.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTestBit(bit_map_header: Ptr<RTL_BITMAP>, bit_number: ULong) -> bool {
        bit(&bit_map_header.read(), bit_number)
    }

    /// Clears all bits: whole ULONGs, as NT does.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlClearAllBits(bit_map_header: Ptr<RTL_BITMAP>) {
        fill(bit_map_header, 0);
    }

    /// Sets all bits: whole ULONGs, as NT does.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSetAllBits(bit_map_header: Ptr<RTL_BITMAP>) {
        fill(bit_map_header, 0xFF);
    }

    /// Clears a range of bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlClearBits(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, number_to_clear: ULong) {
        change(bit_map_header, starting_index, number_to_clear, false);
    }

    /// Sets a range of bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSetBits(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, number_to_set: ULong) {
        change(bit_map_header, starting_index, number_to_set, true);
    }

    /// The first bit of a run of at least that many clear bits, from the hint on, else from the start; 0xFFFFFFFF if
    /// there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindClearBits(bit_map_header: Ptr<RTL_BITMAP>, number_to_find: ULong, hint_index: ULong) -> ULong {
        find(bit_map_header, number_to_find, hint_index, false)
    }

    /// As RtlFindClearBits, for set bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindSetBits(bit_map_header: Ptr<RTL_BITMAP>, number_to_find: ULong, hint_index: ULong) -> ULong {
        find(bit_map_header, number_to_find, hint_index, true)
    }

    /// As RtlFindClearBits, and sets the bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindClearBitsAndSet(bit_map_header: Ptr<RTL_BITMAP>, number_to_find: ULong, hint_index: ULong) -> ULong {
        find_and_change(bit_map_header, number_to_find, hint_index, false)
    }

    /// As RtlFindSetBits, and clears the bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindSetBitsAndClear(bit_map_header: Ptr<RTL_BITMAP>, number_to_find: ULong, hint_index: ULong) -> ULong {
        find_and_change(bit_map_header, number_to_find, hint_index, true)
    }

    /// Whether all bits of a range are clear; FALSE for an empty range, and for one that leaves the bitmap.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAreBitsClear(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, length: ULong) -> bool {
        are(bit_map_header, starting_index, length, false)
    }

    /// Whether all bits of a range are set; FALSE for an empty range, and for one that leaves the bitmap.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAreBitsSet(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, length: ULong) -> bool {
        are(bit_map_header, starting_index, length, true)
    }

    /// Number of clear bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlNumberOfClearBits(bit_map_header: Ptr<RTL_BITMAP>) -> ULong {
        let map = bit_map_header.read();
        map.SizeOfBitMap - set_bits_below(&map, 0, u64::from(map.SizeOfBitMap))
    }

    /// Number of set bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlNumberOfSetBits(bit_map_header: Ptr<RTL_BITMAP>) -> ULong {
        let map = bit_map_header.read();
        set_bits_below(&map, 0, u64::from(map.SizeOfBitMap))
    }

    /// Number of clear bits in a range, as far as it lies in the bitmap.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlNumberOfClearBitsInRange(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, length: ULong) -> ULong {
        let map = bit_map_header.read();
        let there = map.SizeOfBitMap.saturating_sub(starting_index).min(length);
        there - set_bits_below(&map, starting_index, u64::from(there))
    }

    /// Number of set bits in a range, as far as it lies in the bitmap.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlNumberOfSetBitsInRange(bit_map_header: Ptr<RTL_BITMAP>, starting_index: ULong, length: ULong) -> ULong {
        set_bits_below(&bit_map_header.read(), starting_index, u64::from(length))
    }

    /// Number of set bits of a ULONG_PTR.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlNumberOfSetBitsUlongPtr(target: crate::value::Size) -> ULong {
        target.0.count_ones()
    }

    /// Length and, in `starting_index`, first bit of the longest run of clear bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindLongestRunClear(bit_map_header: Ptr<RTL_BITMAP>, starting_index: Ptr<u32>) -> ULong {
        let run = longest(&bit_map_header.read(), false);
        starting_index.write(run.StartingIndex);
        run.NumberOfBits
    }

    /// Length and, in `starting_index`, first bit of the longest run of set bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindLongestRunSet(bit_map_header: Ptr<RTL_BITMAP>, starting_index: Ptr<u32>) -> ULong {
        let run = longest(&bit_map_header.read(), true);
        starting_index.write(run.StartingIndex);
        run.NumberOfBits
    }

    /// Length and first bit of the first run of clear bits.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindFirstRunClear(bit_map_header: Ptr<RTL_BITMAP>, starting_index: Ptr<u32>) -> ULong {
        next_run(bit_map_header, 0, starting_index, false)
    }

    /// Length and first bit of the first run of clear bits from a bit on; 0 and that bit if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindNextForwardRunClear(
        bit_map_header: Ptr<RTL_BITMAP>, from_index: ULong, starting_run_index: Ptr<u32>,
    ) -> ULong {
        next_run(bit_map_header, from_index, starting_run_index, false)
    }

    /// Length and first bit of the first run of set bits from a bit on; 0 and that bit if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindNextForwardRunSet(
        bit_map_header: Ptr<RTL_BITMAP>, from_index: ULong, starting_run_index: Ptr<u32>,
    ) -> ULong {
        next_run(bit_map_header, from_index, starting_run_index, true)
    }

    /// Length and first bit of the run of clear bits that ends at a bit, or before it; 0 and that bit if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindLastBackwardRunClear(
        bit_map_header: Ptr<RTL_BITMAP>, from_index: ULong, starting_run_index: Ptr<u32>,
    ) -> ULong {
        let map = bit_map_header.read();
        let part = RTL_BITMAP { SizeOfBitMap: map.SizeOfBitMap.min(from_index.saturating_add(1)), ..map };
        let run = runs(&part, 0, false).last();
        starting_run_index.write(run.map_or(from_index, |run| run.StartingIndex));
        run.map_or(0, |run| run.NumberOfBits)
    }

    /// Writes down runs of clear bits: the first ones, or the longest, longest first. Returns how many.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindClearRuns(
        bit_map_header: Ptr<RTL_BITMAP>,
        run_array: Ptr<RTL_BITMAP_RUN>,
        size_of_run_array: ULong,
        locate_longest_runs: bool,
    ) -> ULong {
        let limit = size_of_run_array as usize;
        let map = bit_map_header.read();
        let mut found: Vec<RTL_BITMAP_RUN> = Vec::new();
        for run in runs(&map, 0, false) {
            if locate_longest_runs {
                // The array may be short, the bitmap long: only as many as are wanted are kept.
                let at = found.partition_point(|other| other.NumberOfBits >= run.NumberOfBits);
                found.insert(at, run);
                found.truncate(limit);
            } else if found.len() < limit {
                found.push(run);
            } else {
                break;
            }
        }
        for (index, run) in (0..).zip(&found) {
            run_array.offset(index).write(*run);
        }
        low32(found.len() as u64)
    }

    /// The number of the highest bit that is set in a ULONGLONG; -1 if none is.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindMostSignificantBit(set: ULongLong) -> UChar {
        set.checked_ilog2().map_or(0xFF, |bit| low8(u64::from(bit)))
    }

    /// The number of the lowest bit that is set in a ULONGLONG; -1 if none is.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFindLeastSignificantBit(set: ULongLong) -> UChar {
        if set == 0 { 0xFF } else { low8(u64::from(set.trailing_zeros())) }
    }

    /// Copies bits between two bitmaps of the same buffer layout: `length` bits from bit 0 of one to a bit of the other.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCopyBitMap(source: Ptr<RTL_BITMAP>, destination: Ptr<RTL_BITMAP>, target_bit: ULong) {
        let (from, to) = (source.read(), destination.read());
        let count = from.SizeOfBitMap.min(to.SizeOfBitMap.saturating_sub(target_bit));
        for index in 0..count {
            change(destination, target_bit + index, 1, bit(&from, index));
        }
    }

    /// Copies the bits of one bitmap from a bit on to the start of another.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlExtractBitMap(source: Ptr<RTL_BITMAP>, destination: Ptr<RTL_BITMAP>, target_bit: ULong, number_of_bits: ULong) {
        let (from, to) = (source.read(), destination.read());
        let count = from.SizeOfBitMap.saturating_sub(target_bit).min(to.SizeOfBitMap).min(number_of_bits);
        for index in 0..count {
            change(destination, index, 1, bit(&from, target_bit + index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use proptest::prelude::*;

    struct Map {
        header: Box<RTL_BITMAP>,
        words: Vec<u32>,
    }

    fn map(words: &[u32], size: u32) -> Map {
        let mut words = words.to_vec();
        words.push(0xDEAD_BEEF);
        let header = Box::new(RTL_BITMAP {
            SizeOfBitMap: size,
            Buffer: at(&mut words),
        });
        Map { header, words }
    }

    impl Map {
        fn ptr(&mut self) -> Ptr<RTL_BITMAP> {
            Ptr::of(&mut *self.header)
        }
    }

    #[test]
    fn ranges_cross_words_and_stop_where_they_end() {
        let mut map = map(&[0, 0, 0], 96);
        RtlSetBits(map.ptr(), 30, 36);
        assert_eq!(map.words[..3], [0xC000_0000, 0xFFFF_FFFF, 0x3]);
        assert!(RtlAreBitsSet(map.ptr(), 30, 36));
        assert!(!RtlAreBitsSet(map.ptr(), 30, 37));
        assert!(!RtlAreBitsSet(map.ptr(), 30, 0));
        assert!(RtlAreBitsClear(map.ptr(), 66, 30));
        assert!(!RtlAreBitsClear(map.ptr(), 66, 31), "it leaves the bitmap");
        RtlClearBits(map.ptr(), 31, 33);
        assert_eq!(map.words[..3], [0x4000_0000, 0, 0x3]);
        RtlSetBits(map.ptr(), 5, 0);
        assert_eq!(map.words[0], 0x4000_0000);
        assert_eq!(map.words[3], 0xDEAD_BEEF);
        RtlSetAllBits(map.ptr());
        assert_eq!(RtlNumberOfSetBits(map.ptr()), 96);
    }

    #[test]
    fn searches_wrap_to_the_start() {
        let mut map = map(&[0xFFFF_FF0F, 0xFFFF_FFFF], 60);
        assert_eq!(RtlFindClearBits(map.ptr(), 4, 20), 4);
        assert_eq!(RtlFindClearBits(map.ptr(), 5, 0), NONE);
        assert_eq!(RtlFindSetBits(map.ptr(), 4, 2), 8);
        assert_eq!(RtlFindSetBits(map.ptr(), 52, 0), 8);
        assert_eq!(RtlFindSetBits(map.ptr(), 53, 0), NONE);
        assert_eq!(RtlFindClearBitsAndSet(map.ptr(), 2, 0), 4);
        assert_eq!(RtlFindSetBitsAndClear(map.ptr(), 60, 0), NONE);
        assert_eq!(map.words[0], 0xFFFF_FF3F);
        assert_eq!(RtlNumberOfClearBits(map.ptr()), 2);
    }

    #[test]
    fn runs_are_listed_in_order_or_by_length() {
        let mut map = map(&[0b0001_1000_1110_0001], 16);
        let mut found = [RTL_BITMAP_RUN::default(); 3];
        let list = at(&mut found);
        let run = |start, count| RTL_BITMAP_RUN {
            StartingIndex: start,
            NumberOfBits: count,
        };
        assert_eq!(RtlFindClearRuns(map.ptr(), list, 2, false), 2);
        assert_eq!(found, [run(1, 4), run(8, 3), run(0, 0)]);
        assert_eq!(RtlFindClearRuns(map.ptr(), at(&mut found), 3, true), 3);
        assert_eq!(found, [run(1, 4), run(8, 3), run(13, 3)]);
        let mut start = 0;
        assert_eq!(RtlFindLongestRunClear(map.ptr(), Ptr::of(&mut start)), 4);
        assert_eq!(start, 1);
        assert_eq!(
            RtlFindNextForwardRunClear(map.ptr(), 9, Ptr::of(&mut start)),
            2
        );
        assert_eq!(start, 9);
        assert_eq!(
            RtlFindLastBackwardRunClear(map.ptr(), 9, Ptr::of(&mut start)),
            2
        );
        assert_eq!(start, 8);
        assert_eq!(
            RtlFindLastBackwardRunClear(map.ptr(), 7, Ptr::of(&mut start)),
            4
        );
        assert_eq!(start, 1);
    }

    #[test]
    fn bits_of_numbers() {
        assert_eq!(RtlFindMostSignificantBit(1 << 63), 63);
        assert_eq!(RtlFindMostSignificantBit(0), 0xFF);
        assert_eq!(RtlFindLeastSignificantBit(0x50), 4);
        assert_eq!(RtlFindLeastSignificantBit(0), 0xFF);
    }

    proptest! {
        #[test]
        fn counts_and_runs_agree_with_a_list_of_bools(words in proptest::collection::vec(any::<u32>(), 1..4), cut in 0..32_u32,
            from in 0..140_u32, count in 1..8_u32) {
            let size = low32(words.len() as u64) * 32 - cut;
            let bits: Vec<bool> = (0..size).map(|index| words[index as usize / 32] >> (index % 32) & 1 == 1).collect();
            let mut map = map(&words, size);
            prop_assert_eq!(RtlNumberOfSetBits(map.ptr()) as usize, bits.iter().filter(|&&bit| bit).count());
            let clear = |start: usize| bits.len() >= start + count as usize
                && bits[start..start + count as usize].iter().all(|&bit| !bit);
            let hint = if from >= size { 0 } else { from as usize };
            let expected = (hint..bits.len()).find(|&start| clear(start)).or_else(|| (0..bits.len()).find(|&start| clear(start)));
            prop_assert_eq!(RtlFindClearBits(map.ptr(), count, from), expected.map_or(NONE, |start| low32(start as u64)));
            prop_assert_eq!(RtlAreBitsClear(map.ptr(), from, count), clear(from as usize));
        }
    }
}
