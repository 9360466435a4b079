//! MDLs for parts of what another MDL describes.

use crate::api::nt_api;
use crate::mm;
use crate::nt::{MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL};
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::value::ULong;
use abi::layout::PAGE_SIZE;

/// MDL_PARTIAL.
const MDL_PARTIAL: i16 = 0x0010;
/// MDL_PARTIAL_HAS_BEEN_MAPPED.
const MDL_PARTIAL_HAS_BEEN_MAPPED: i16 = 0x0020;

nt_api! { module = io_partial_mdl;
    /// Makes an MDL describe a part of another's buffer: from an address in it, for a length or (0) to its end. More
    /// than the target has room for is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoBuildPartialMdl(source_mdl: Ptr<MDL>, target_mdl: Ptr<MDL>, virtual_address: Ptr<u8>, length: ULong) {
        let source = source_mdl.read();
        let target = target_mdl.read();
        let source_start = from_word(source.StartVa) + u64::from(source.ByteOffset);
        let offset = virtual_address.addr().wrapping_sub(source_start);
        let bytes = if length == 0 {
            u64::from(source.ByteCount).wrapping_sub(offset)
        } else {
            u64::from(length)
        };
        let address = virtual_address.addr();
        let pages = mm::pages_spanned(address, bytes);
        let word = size_of::<Word>() as u64;
        let room = (u64::from(target.Size.cast_unsigned()) - size_of::<MDL>() as u64) / word;
        let is_inside = offset.saturating_add(bytes) <= u64::from(source.ByteCount);
        if pages > room || !is_inside {
            crate::nt::bugcheck::bugcheck_with_text(
                crate::nt::bugcheck::TARGET_MDL_TOO_SMALL,
                [source_mdl.addr(), target_mdl.addr(), address, bytes],
                format_args!("IoBuildPartialMdl: {bytes} bytes at {address:#x} do not fit the MDLs"),
            );
        }
        let first = (u64::from(source.ByteOffset) + offset) / PAGE_SIZE;
        let (from, to) = (source_mdl.offset(1).cast::<u8>(), target_mdl.offset(1).cast::<u8>());
        to.copy_from(from.add_bytes(first * word), pages * word);
        let is_mapped = source.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0;
        target_mdl.with(|mdl| {
            mdl.Process = source.Process;
            mdl.StartVa = to_word(address & !(PAGE_SIZE - 1));
            mdl.ByteOffset = low32(address % PAGE_SIZE);
            mdl.ByteCount = low32(bytes);
            mdl.MdlFlags &= !(MDL_PARTIAL_HAS_BEEN_MAPPED | MDL_MAPPED_TO_SYSTEM_VA);
            mdl.MdlFlags |= MDL_PARTIAL
                | (source.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL);
            if is_mapped {
                mdl.MappedSystemVa = to_word(from_word(source.MappedSystemVa).wrapping_add(offset));
                mdl.MdlFlags |= source.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA;
            }
        });
    }
}
