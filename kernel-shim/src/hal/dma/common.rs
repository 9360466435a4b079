//! Common buffers: memory that driver and device share.

use super::{number, owner, violation, with};
use crate::ex::pool;
use crate::mm;
use crate::nt::DMA_ADAPTER;
use crate::raw::Ptr;

const TAG: u32 = u32::from_le_bytes(*b"HalC");

/// A common buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Common {
    address: u64,
    physical: u64,
    bytes: u64,
}

/// Allocates zeroed contiguous pages that the device can address; null when there are none.
pub(super) fn allocate(adapter: Ptr<DMA_ADAPTER>, bytes: u64, physical: Ptr<u64>) -> Ptr<u8> {
    let limit = with(adapter, |adapter| adapter.limit);
    if bytes == 0 {
        return Ptr::null();
    }
    let wanted = pool::Wanted {
        bytes,
        tag: TAG,
        owner: owner(),
        is_paged: false,
        is_page_aligned: true,
    };
    let memory = pool::allocate_contiguous(&wanted, 0, limit, 0);
    let Some(found) = memory
        .non_null()
        .and_then(|memory| mm::physical_address(memory.addr()))
    else {
        return Ptr::null();
    };
    memory.fill(0, bytes);
    physical.write(found);
    with(adapter, |adapter| {
        adapter.common.push(Common {
            address: memory.addr(),
            physical: found,
            bytes,
        });
    });
    memory
}

/// Frees one, which must be named as it was allocated.
pub(super) fn free(adapter: Ptr<DMA_ADAPTER>, bytes: u64, physical: u64, memory: Ptr<u8>) {
    let named = Common {
        address: memory.addr(),
        physical,
        bytes,
    };
    let is_known = with(adapter, |adapter| {
        let place = adapter.common.iter().position(|common| *common == named);
        place
            .map(|place| adapter.common.swap_remove(place))
            .is_some()
    });
    if !is_known {
        violation(
            number::COMMON_BUFFER_FREED_TWICE,
            [memory.addr(), physical, bytes],
            format_args!(
                "{memory:?} was freed, which is no common buffer of that length at {physical:#x}"
            ),
        );
    }
    pool::free(memory, TAG);
}
