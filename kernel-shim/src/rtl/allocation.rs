//! Memory for the strings that Rtl functions make.

use crate::ex::pool_api::{ExAllocatePoolWithTag, ExFreePool};
use crate::raw::Ptr;
use crate::value::{Size, Tag};

/// PagedPool.
const PAGED_POOL: u32 = 1;
/// The tag of strings, "Strg" as in NT.
const TAG: u32 = u32::from_le_bytes(*b"Strg");

/// New paged pool; null when there is none.
pub(crate) fn allocate(bytes: u64) -> Ptr<u8> {
    ExAllocatePoolWithTag(PAGED_POOL, Size(bytes), Tag(TAG))
}

/// Frees what [`allocate`] returned, or what the driver took from the pool itself.
pub(crate) fn free(buffer: Ptr<u8>) {
    ExFreePool(buffer);
}
