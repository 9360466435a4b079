//! Address space that drivers set aside for mappings, so that mapping cannot fail later.

use super::mdl::CACHING_TYPES;
use super::{io_space, mdl_mapping, pages_spanned, window};
use crate::api::nt_api;
use crate::nt::bugcheck::{SYSTEM_PTE_MISUSE, bugcheck_with_text};
use crate::nt::{MDL, MDL_MAPPED_TO_SYSTEM_VA};
use crate::raw::{Global, Ptr, to_word};
use crate::value::{Size, Tag, ULong};
use abi::layout::PAGE_SIZE;
use alloc::collections::BTreeMap;

/// Address space that a driver has set aside for mappings: address to (bytes, tag, whether an MDL is mapped).
static RESERVED: Global<BTreeMap<u64, (u64, u32, bool)>> =
    Global::new("mapping addresses", BTreeMap::new());

/// Stops a driver that uses a mapping address that is not its own: SYSTEM_PTE_MISUSE's first parameter is `violation`.
fn reserved_misuse(violation: u64, address: u64, tag: u32) -> ! {
    bugcheck_with_text(
        SYSTEM_PTE_MISUSE,
        [violation, address, u64::from(tag), 0],
        format_args!("{address:#x} is no mapping address with that tag in that state"),
    )
}

nt_api! { module = mm_reserved_mapping;
    /// Sets address space aside for mappings; null for no bytes.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmAllocateMappingAddress(number_of_bytes: Size, pool_tag: Tag) -> Ptr<u8> {
        if pool_tag.0 == 0 {
            reserved_misuse(0x100, 0, 0);
        }
        let bytes = number_of_bytes.0.checked_next_multiple_of(PAGE_SIZE).filter(|&bytes| bytes != 0);
        let reserved = bytes.and_then(|bytes| Some((io_space::reserve(bytes)?, bytes)));
        let Some((address, bytes)) = reserved else {
            return Ptr::null();
        };
        RESERVED.with(|reserved| reserved.insert(address, (bytes, pool_tag.0, false)));
        Ptr::new(address)
    }

    /// Gives such address space back; another tag, or a mapping that is left, is a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmFreeMappingAddress(base_address: Ptr<u8>, pool_tag: Tag) {
        let at = base_address.addr();
        match RESERVED.with(|reserved| reserved.get(&at).copied()) {
            Some((_, tag, false)) if tag == pool_tag.0 => {
                RESERVED.with(|reserved| reserved.remove(&at));
                io_space::give_back(at);
            }
            Some((_, tag, false)) => reserved_misuse(0x101, at, tag),
            Some((_, tag, true)) => reserved_misuse(0x103, at, tag),
            None => reserved_misuse(0x102, at, pool_tag.0),
        }
    }

    /// Maps an MDL with a mapping address; null if it is larger, or already mapped there. A wrong tag is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmMapLockedPagesWithReservedMapping(
        mapping_address: Ptr<u8>, pool_tag: Tag, mdl: Ptr<MDL>, cache_type: ULong,
    ) -> Ptr<u8> {
        let at = mapping_address.addr();
        let header = mdl.read();
        let Some((bytes, tag, is_used)) = RESERVED.with(|reserved| reserved.get(&at).copied()) else {
            reserved_misuse(0x104, at, pool_tag.0);
        };
        if tag != pool_tag.0 {
            reserved_misuse(0x104, at, tag);
        }
        let needed = pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount)) * PAGE_SIZE;
        if is_used || needed > bytes || cache_type >= CACHING_TYPES {
            return Ptr::null();
        }
        if !mdl_mapping::map_frames(mdl, at) {
            return Ptr::null();
        }
        RESERVED.with(|reserved| reserved.insert(at, (bytes, tag, true)));
        let mapped = at + u64::from(header.ByteOffset);
        mdl.with(|mdl| {
            mdl.MappedSystemVa = to_word(mapped);
            mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
        });
        Ptr::new(mapped)
    }

    /// Undoes MmMapLockedPagesWithReservedMapping; a wrong address or tag is a bugcheck.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnmapReservedMapping(base_address: Ptr<u8>, pool_tag: Tag, mdl: Ptr<MDL>) {
        let at = base_address.addr();
        match RESERVED.with(|reserved| reserved.get(&at).copied()) {
            Some((bytes, tag, true)) if tag == pool_tag.0 => {
                RESERVED.with(|reserved| reserved.insert(at, (bytes, tag, false)));
                window::unmap(at, bytes / PAGE_SIZE);
                mdl.with(|mdl| mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA);
            }
            Some((_, tag, _)) => reserved_misuse(0x108, at, tag),
            None => reserved_misuse(0x108, at, pool_tag.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::mdl::probe_and_lock;
    use crate::test_platform::{api, crash_of, verifying_machine};
    use crate::value::ProcessorMode;
    use abi::layout;

    #[test]
    fn reserved_mappings_know_their_tag() {
        let _machine = verifying_machine();
        let address = MmAllocateMappingAddress(Size(0x1000), Tag(7));
        let mdl = Ptr::new(api("MmCreateMdl", &[0, layout::USER, 0x1000]));
        assert_eq!(probe_and_lock(mdl, ProcessorMode(1), 0), Ok(()));
        assert!(!MmMapLockedPagesWithReservedMapping(address, Tag(7), mdl, 1).is_null());
        assert!(MmMapLockedPagesWithReservedMapping(address, Tag(7), mdl, 1).is_null());
        let record = crash_of(|| MmFreeMappingAddress(address, Tag(7)));
        assert_eq!(
            (record.code, record.parameters[0]),
            (SYSTEM_PTE_MISUSE, 0x103)
        );
        MmUnmapReservedMapping(address, Tag(7), mdl);
        let record = crash_of(|| MmFreeMappingAddress(address, Tag(8)));
        assert_eq!(record.parameters[0], 0x101);
        MmFreeMappingAddress(address, Tag(7));
    }
}
