//! Memory for the strings that Rtl functions make: none until there is a pool.

use crate::raw::Ptr;

/// New paged pool; null when there is none.
pub(crate) fn allocate(_bytes: u64) -> Ptr<u8> {
    Ptr::null()
}

/// Frees what [`allocate`] returned.
pub(crate) fn free(_buffer: Ptr<u8>) {}
