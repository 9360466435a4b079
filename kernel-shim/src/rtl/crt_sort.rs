//! The C library's rest: sorting, searching, random numbers.

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::nt::bugcheck::{KMODE_EXCEPTION_NOT_HANDLED, bugcheck_with_text};
use crate::raw::{Global, Ptr, low16, low32};
use crate::shared;
use crate::value::{Long, NoReturn, Size, ULong};
use abi::trace::Entry;

/// Calls the driver's comparison.
fn order(compare: Ptr<u8>, first: Ptr<u8>, second: Ptr<u8>) -> i32 {
    let result = shared::call_driver(Entry::Other, compare.addr(), &[first.addr(), second.addr()]);
    low32(result).cast_signed()
}

fn swap(first: Ptr<u8>, second: Ptr<u8>, width: u64) {
    for offset in 0..width {
        let (a, b) = (first.add_bytes(offset), second.add_bytes(offset));
        let byte = a.read();
        a.write(b.read());
        b.write(byte);
    }
}

/// rand's state; 1 until srand.
static SEED: Global<u32> = Global::new("rand's state", 1);

nt_api! { module = rtl_crt_sort;
    /// Sorts an array by a comparison of the driver's. Equal elements may change places.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn qsort(base: Ptr<u8>, number: Size, width: Size, compare: Ptr<u8>) {
        let (count, width) = (number.0, width.0);
        let at = |index: u64| base.add_bytes(index * width);
        let sift = |mut root: u64, end: u64| {
            loop {
                let mut child = 2 * root + 1;
                if child >= end {
                    return;
                }
                if child + 1 < end && order(compare, at(child), at(child + 1)) < 0 {
                    child += 1;
                }
                if order(compare, at(root), at(child)) >= 0 {
                    return;
                }
                swap(at(root), at(child), width);
                root = child;
            }
        };
        // Heapsort: in place, and never slow.
        for root in (0..count / 2).rev() {
            sift(root, count);
        }
        for end in (1..count).rev() {
            swap(at(0), at(end), width);
            sift(0, end);
        }
    }

    /// Finds an element in a sorted array; NULL if there is none. The key is the comparison's first argument.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn bsearch(key: Ptr<u8>, base: Ptr<u8>, number: Size, width: Size, compare: Ptr<u8>) -> Ptr<u8> {
        let (mut low, mut high) = (0, number.0);
        while low < high {
            let middle = low + (high - low) / 2;
            let place = base.add_bytes(middle * width.0);
            match order(compare, key, place) {
                0 => return place,
                ..0 => high = middle,
                _ => low = middle + 1,
            }
        }
        Ptr::null()
    }

    /// A pseudo-random number from 0 to 32767: Microsoft's linear congruential generator.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn rand() -> Long {
        SEED.with(|seed| {
            *seed = seed.wrapping_mul(214_013).wrapping_add(2_531_011);
            i32::from(low16(u64::from(*seed >> 16)) & 0x7FFF)
        })
    }

    /// Starts rand's sequence.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn srand(seed: ULong) {
        SEED.with(|state| *state = seed);
    }

    /// What the entry of a pure virtual function in C++ points to: the call is a bugcheck.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _purecall() -> NoReturn {
        bugcheck_with_text(
            KMODE_EXCEPTION_NOT_HANDLED,
            [u64::from(NtStatus::NOT_IMPLEMENTED.0), shared::caller(), 0, 0],
            format_args!("the driver called a pure virtual function"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use crate::test_platform::{crash_of, machine};

    extern "win64-unwind" fn compare(first: u64, second: u64) -> u64 {
        let [first, second] = [first, second].map(|place| Ptr::<u16>::new(place).read());
        u64::from((i32::from(first) - i32::from(second)).cast_unsigned())
    }

    #[test]
    fn arrays_are_sorted_and_searched() {
        let _machine = machine();
        let routine = Ptr::new((compare as *const ()).expose_provenance() as u64);
        for count in 0..12_u16 {
            let mut numbers: Vec<u16> = (0..count)
                .map(|index| index.wrapping_mul(40503) % 7)
                .collect();
            numbers.push(999);
            let mut expected = numbers.clone();
            expected[..usize::from(count)].sort_unstable();
            qsort(
                at(&mut numbers).cast(),
                Size(u64::from(count)),
                Size(2),
                routine,
            );
            assert_eq!(numbers, expected);
        }
        let mut sorted = [1_u16, 4, 9, 16];
        let base = at(&mut sorted).cast::<u8>();
        for (mut key, place) in [
            (1, Some(0)),
            (16, Some(6)),
            (9, Some(4)),
            (0, None),
            (10, None),
            (17, None),
        ] {
            let found = bsearch(Ptr::of(&mut key).cast(), base, Size(4), Size(2), routine);
            assert_eq!(
                found,
                place.map_or(Ptr::null(), |offset| base.add_bytes(offset))
            );
        }
    }

    #[test]
    fn random_numbers_are_microsofts() {
        srand(1);
        assert_eq!([rand(), rand(), rand(), rand()], [41, 18467, 6334, 26500]);
    }

    #[test]
    fn a_pure_call_stops_the_guest() {
        let _machine = machine();
        let record = crash_of(|| {
            _purecall();
        });
        assert_eq!(record.code, KMODE_EXCEPTION_NOT_HANDLED);
    }
}
