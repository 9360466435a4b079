//! Return addresses: who called the driver's function.
//!
//! On i386 they are found through the chain of frame pointers (EBP). On amd64 functions have none, and without the
//! images' unwind data only the caller itself is known.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::mm;
use crate::raw::{Ptr, Word, from_word, low16, low32, to_word};
use crate::shared;
use crate::value::{ULong, UShort};

/// Most frames of a walk: a chain that goes in circles ends.
const MOST: usize = 64;

/// Return addresses from the caller of the export on: into its function, into the function that called that, ...
fn callers() -> Vec<u64> {
    let mut found = alloc::vec![shared::caller()];
    if cfg!(nt_i386) {
        let registers = shared::caller_registers();
        let (mut lowest, mut frame) = (registers.general[4], registers.general[5]);
        let word = size_of::<Word>() as u64;
        let is_there = |address| mm::region_of(address).is_some();
        while found.len() < MOST
            && frame >= lowest
            && is_there(frame)
            && is_there(frame + 2 * word - 1)
        {
            let frame_pointer = Ptr::<Word>::new(frame);
            let address = from_word(frame_pointer.offset(1).read());
            if !is_there(address) {
                break;
            }
            found.push(address);
            lowest = frame + 1;
            frame = from_word(frame_pointer.read());
        }
    }
    found
}

/// Stores return addresses; returns how many.
fn store(place: Ptr<Word>, callers: &[u64]) -> u64 {
    for (index, &address) in (0..).zip(callers) {
        place.offset(index).write(to_word(address));
    }
    callers.len() as u64
}

nt_api! { module = rtl_backtrace;
    /// Stores return addresses, from the caller on, and a hash (their sum); returns how many.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("amd64: only the caller itself")
    fn RtlCaptureStackBackTrace(
        frames_to_skip: ULong, frames_to_capture: ULong, back_trace: Ptr<Word>, back_trace_hash: Ptr<u32>,
    ) -> UShort {
        let mut callers: Vec<u64> = callers().into_iter().skip(frames_to_skip as usize).collect();
        callers.truncate(frames_to_capture as usize);
        if !back_trace_hash.is_null() {
            back_trace_hash.write(low32(callers.iter().fold(0, |sum: u64, address| sum.wrapping_add(*address))));
        }
        low16(store(back_trace, &callers))
    }

    /// Stores return addresses, from the caller on; returns how many.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("amd64: only the caller itself")
    fn RtlWalkFrameChain(callers_out: Ptr<Word>, count: ULong, flags: ULong) -> ULong {
        let mut found = callers();
        found.truncate(count as usize);
        low32(store(callers_out, &found))
    }

    /// The return address of the function that calls this, and that of its caller; 0 where there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("amd64: always 0")
    fn RtlGetCallersAddress(callers_address: Ptr<Word>, callers_caller: Ptr<Word>) {
        let found = callers();
        let at = |index: usize| to_word(found.get(index).copied().unwrap_or(0));
        callers_address.write(at(1));
        callers_caller.write(at(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, machine};

    #[test]
    fn the_caller_is_known() {
        let _machine = machine();
        let (mut found, mut hash) = ([7_u64; 2], 0_u32);
        let (place, hash_place) = (Ptr::of(&mut found[0]).addr(), Ptr::of(&mut hash).addr());
        assert_eq!(
            api("RtlCaptureStackBackTrace", &[0, 2, place, hash_place]),
            1
        );
        assert_ne!(found[0], 0);
        assert_eq!((found[1], hash), (7, low32(found[0])));
        assert_eq!(api("RtlCaptureStackBackTrace", &[1, 2, place, 0]), 0);
        assert_eq!(api("RtlWalkFrameChain", &[place, 0, 0]), 0);
    }
}
