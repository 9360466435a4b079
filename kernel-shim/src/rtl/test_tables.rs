//! A driver's routines for the unit tests of tables: elements are u64 keys.

use crate::ex::pool_api::{ExAllocatePoolWithTag, ExFreePool};
use crate::raw::Ptr;
use crate::value::{Size, Tag};

pub(crate) type Key = u64;

/// A key as the table takes it.
pub(crate) fn key(key: &mut Key) -> Ptr<u8> {
    Ptr::of(key).cast()
}

extern "win64-unwind" fn compare(_: u64, first: u64, second: u64) -> u64 {
    let (first, second) = (
        Ptr::<Key>::new(first).read(),
        Ptr::<Key>::new(second).read(),
    );
    match first.cmp(&second) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Greater => 1,
        std::cmp::Ordering::Equal => 2,
    }
}

extern "win64-unwind" fn allocate(_: u64, bytes: u64) -> u64 {
    ExAllocatePoolWithTag(0, Size(bytes), Tag(0x1234)).addr()
}

extern "win64-unwind" fn free(_: u64, element: u64) {
    ExFreePool(Ptr::new(element));
}

/// Compare, allocate, free.
pub(crate) fn routines() -> [Ptr<u8>; 3] {
    let address = |function: *const ()| Ptr::new(function.expose_provenance() as u64);
    [
        address(compare as *const ()),
        address(allocate as *const ()),
        address(free as *const ()),
    ]
}
