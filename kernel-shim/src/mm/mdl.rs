//! What Mm does with memory descriptor lists.
//!
//! Nothing is ever paged out. Client memory is mapped twice, at its user address and at a kernel alias, so mapping a
//! client's buffer into system space is finding the alias; pages of anything else get a second address
//! ([`super::mdl_mapping`]).

use super::{io_space, locked, mdl_mapping, pages_spanned};
use crate::api::nt_api;
use crate::client::memory;
use crate::io::driver::owner_of;
use crate::io::mdl;
use crate::mm;
use crate::nt::bugcheck::{
    DRIVER_VERIFIER_DETECTED_VIOLATION, NO_MORE_SYSTEM_PTES, PFN_LIST_CORRUPT, SYSTEM_PTE_MISUSE,
    bugcheck_with_text,
};
use crate::nt::{
    MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_PARTIAL, MDL_SOURCE_IS_NONPAGED_POOL,
    MDL_WRITE_OPERATION, NtStatus,
};
use crate::raw::{Ptr, Word, from_word, low16, low32, to_word};
use crate::rtl::raise_status;
use crate::shared;
use crate::value::{ProcessorMode, Size, ULong};
use abi::layout::{self, PAGE_SIZE};

/// MmMaximumCacheType.
pub(super) const CACHING_TYPES: u32 = 6;
/// IoModifyAccess: the last LOCK_OPERATION.
const MODIFY: u32 = 2;
/// The buffer's own address (MmGetMdlVirtualAddress).
fn buffer_of(mdl: &MDL) -> u64 {
    from_word(mdl.StartVa) + u64::from(mdl.ByteOffset)
}

/// The page frame number of an MDL's page.
pub(super) fn frame(mdl: Ptr<MDL>, page: u64) -> Ptr<Word> {
    mdl.offset(1)
        .cast::<Word>()
        .add_bytes(page * size_of::<Word>() as u64)
}

/// The kernel address of an MDL's buffer; null if it has none.
#[must_use]
pub fn map(mdl: Ptr<MDL>) -> Ptr<u8> {
    let header = mdl.read();
    if header.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        return Ptr::new(from_word(header.MappedSystemVa));
    }
    let buffer = buffer_of(&header);
    let is_locked = header.MdlFlags & MDL_PAGES_LOCKED != 0;
    let has_pages = MDL_PAGES_LOCKED | MDL_PARTIAL;
    let alias = if header.MdlFlags & has_pages != 0 && memory::is_user(buffer) {
        // Whoever's thread runs: the pages say whose memory it is.
        let first = from_word(frame(mdl, 0).read()) * PAGE_SIZE;
        memory::virtual_for(first).map(|page| page + u64::from(header.ByteOffset))
    } else {
        mm::user_alias(buffer, u64::from(header.ByteCount))
    };
    let is_device = io_space::physical_address_of(buffer).is_some();
    let address = if header.StartVa != 0 && alias.is_some() {
        alias
    } else if buffer >= shared::kernel_base() && (!is_locked || is_device) {
        Some(buffer)
    } else {
        mdl_mapping::map_in_system(mdl)
    };
    let Some(address) = address else {
        return Ptr::null();
    };
    mdl.with(|mdl| {
        mdl.MappedSystemVa = to_word(address);
        mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    });
    Ptr::new(address)
}

/// How an MDL is to be mapped.
#[derive(Clone, Copy)]
struct Wish {
    mode: ProcessorMode,
    /// For user mode; 0: anywhere.
    requested: u64,
    /// Kernel mode: whether it is a bugcheck when there is no room.
    is_required: bool,
    is_read_only: bool,
}

/// Maps an MDL whose pages are locked, for kernel or user mode.
fn map_locked(mdl: Ptr<MDL>, wish: &Wish) -> Ptr<u8> {
    let header = mdl.read();
    let mappable = MDL_PAGES_LOCKED | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL;
    if header.MdlFlags & mappable == 0 && shared::verify() != 0 {
        bugcheck_with_text(
            DRIVER_VERIFIER_DETECTED_VIOLATION,
            [
                0xB9,
                mdl.addr(),
                u64::from(low16(u64::from(header.MdlFlags.cast_unsigned()))),
                0,
            ],
            format_args!("an MDL was mapped whose pages are not locked"),
        );
    }
    if wish.mode.0 != 0 {
        return match mdl_mapping::map_in_user(mdl, wish.requested, wish.is_read_only) {
            Ok(address) => Ptr::new(address),
            Err(status) => raise_status(status),
        };
    }
    let address = map(mdl);
    if address.is_null() && wish.is_required {
        bugcheck_with_text(
            NO_MORE_SYSTEM_PTES,
            [
                0,
                pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount)),
                0,
                0,
            ],
            format_args!("there is no address space in the I/O window left to map an MDL"),
        );
    }
    if wish.is_read_only && !address.is_null() {
        const READ_ONLY: u32 = 2;
        // Memory whose own address was returned stays as it is.
        let _ = mdl_mapping::protect(mdl, READ_ONLY);
    }
    address
}

/// Checks a buffer and locks its pages; the error is what MmProbeAndLockPages raises.
pub(crate) fn probe_and_lock(
    mdl: Ptr<MDL>,
    mode: ProcessorMode,
    operation: u32,
) -> Result<(), NtStatus> {
    let header = mdl.read();
    let (start, bytes) = (buffer_of(&header), u64::from(header.ByteCount));
    let end = start.checked_add(bytes).ok_or(NtStatus::ACCESS_VIOLATION)?;
    if bytes == 0 || operation > MODIFY {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    if mode.0 != 0 && end > layout::USER_PROBE_ADDRESS {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    let first = from_word(header.StartVa);
    let pages = pages_spanned(u64::from(header.ByteOffset), bytes);
    if operation != 0 && !(0..pages).all(|page| mm::is_writable(first + page * PAGE_SIZE)) {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    if !mdl::lock(mdl) {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    if operation != 0 {
        mdl.with(|mdl| mdl.MdlFlags |= MDL_WRITE_OPERATION);
    }
    if first < shared::kernel_base() {
        mdl.with(|mdl| mdl.Process = crate::ps::current_process().word());
    }
    Ok(())
}

/// [`probe_and_lock`] for a driver, whose duty it then is to unlock the pages.
fn lock_for_driver(mdl: Ptr<MDL>, mode: ProcessorMode, operation: u32) {
    if let Err(status) = probe_and_lock(mdl, mode, operation) {
        raise_status(status);
    }
    let header = mdl.read();
    if from_word(header.StartVa) < shared::kernel_base() {
        let pages = pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount));
        locked::note(mdl, crate::ps::current_process_id(), pages);
    }
}

fn unlock(mdl: Ptr<MDL>) {
    let flags = mdl.read().MdlFlags;
    let shown = u64::from(flags.cast_unsigned());
    if flags & MDL_SOURCE_IS_NONPAGED_POOL != 0 && shared::verify() != 0 {
        bugcheck_with_text(
            DRIVER_VERIFIER_DETECTED_VIOLATION,
            [0x7D, mdl.addr(), shown, 0],
            format_args!("the pages of an MDL for non-paged pool were unlocked"),
        );
    }
    if flags & MDL_PAGES_LOCKED == 0 {
        let (code, first) = if shared::verify() != 0 {
            (DRIVER_VERIFIER_DETECTED_VIOLATION, 0x7C)
        } else {
            (PFN_LIST_CORRUPT, 7)
        };
        bugcheck_with_text(
            code,
            [first, mdl.addr(), shown, 0],
            format_args!("pages were unlocked that are not locked"),
        );
    }
    locked::forget(mdl);
    mdl_mapping::release(mdl);
    mdl.with(|mdl| {
        mdl.MdlFlags &= !(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA | MDL_WRITE_OPERATION);
    });
}

nt_api! { module = mm_mdl;
    /// Bytes of an MDL for a buffer.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmSizeOfMdl(base: Ptr<u8>, length: Size) -> Size {
        Size(mdl::size(base.addr(), length.0))
    }

    /// Initializes an MDL for a buffer; allocates it from non-paged pool if there is none. Null when the pool is exhausted.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmCreateMdl(memory_descriptor_list: Ptr<MDL>, base: Ptr<u8>, length: Size) -> Ptr<MDL> {
        if memory_descriptor_list.is_null() {
            return mdl::allocate(base.addr(), low32(length.0), owner_of(shared::caller()));
        }
        memory_descriptor_list.write(MDL {
            Next: Ptr::null(),
            Size: low16(mdl::size(base.addr(), length.0)).cast_signed(),
            MdlFlags: 0,
            Process: 0,
            MappedSystemVa: 0,
            StartVa: to_word(base.addr() & !(PAGE_SIZE - 1)),
            ByteCount: low32(length.0),
            ByteOffset: low32(base.addr() % PAGE_SIZE),
        });
        memory_descriptor_list
    }

    /// Fills in the pages of an MDL for non-paged pool.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmBuildMdlForNonPagedPool(mdl: Ptr<MDL>) {
        mdl::lock(mdl);
        mdl.with(|mdl| {
            mdl.MappedSystemVa = to_word(buffer_of(mdl));
            mdl.MdlFlags = (mdl.MdlFlags & !MDL_PAGES_LOCKED) | MDL_SOURCE_IS_NONPAGED_POOL;
        });
    }

    /// Checks the buffer of an MDL and fills in its pages; raises STATUS_ACCESS_VIOLATION for one that is not valid, not
    /// the client's (user mode) or read-only (to be written).
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmProbeAndLockPages(mdl: Ptr<MDL>, mode: ProcessorMode, operation: ULong) {
        lock_for_driver(mdl, mode, operation);
    }

    /// As MmProbeAndLockPages, for another process's address space: there is one for all.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmProbeAndLockProcessPages(mdl: Ptr<MDL>, process: Ptr<u8>, mode: ProcessorMode, operation: ULong) {
        lock_for_driver(mdl, mode, operation);
    }

    /// Lets the pages of an MDL go; a bugcheck if they are not locked.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnlockPages(mdl: Ptr<MDL>) {
        unlock(mdl);
    }

    /// Maps an MDL in system space (null, or a bugcheck if so wanted, when there is no room), or for user mode in the
    /// current process, at a requested address if there is one; raises the status when that cannot be done.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmMapLockedPagesSpecifyCache(
        mdl: Ptr<MDL>, mode: ProcessorMode, cache_type: ULong, requested_address: Ptr<u8>, bugcheck_on_failure: ULong,
        priority: ULong,
    ) -> Ptr<u8> {
        /// MdlMappingNoWrite.
        const NO_WRITE: u32 = 0x8000_0000;
        if cache_type >= CACHING_TYPES {
            return Ptr::null();
        }
        let wish = Wish {
            mode,
            requested: requested_address.addr(),
            is_required: bugcheck_on_failure != 0,
            is_read_only: priority & NO_WRITE != 0,
        };
        map_locked(mdl, &wish)
    }

    /// As MmMapLockedPagesSpecifyCache: cached, anywhere, a bugcheck if it cannot be done in system space.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmMapLockedPages(mdl: Ptr<MDL>, mode: ProcessorMode) -> Ptr<u8> {
        map_locked(mdl, &Wish { mode, requested: 0, is_required: true, is_read_only: false })
    }

    /// Undoes MmMapLockedPages; a bugcheck if that address is not what was mapped.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnmapLockedPages(base: Ptr<u8>, mdl: Ptr<MDL>) {
        let header = mdl.read();
        let is_user = base.addr() < shared::kernel_base();
        if is_user && mdl_mapping::unmap_from_user(mdl, base.addr()) {
            return;
        }
        let is_mapped = header.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0;
        if is_user || !is_mapped || from_word(header.MappedSystemVa) != base.addr() {
            bugcheck_with_text(
                SYSTEM_PTE_MISUSE,
                [if is_mapped { 0x400 } else { 6 }, mdl.addr(), base.addr(), 0],
                format_args!("{base:?} was unmapped, where this MDL is not mapped"),
            );
        }
        mdl_mapping::release(mdl);
        mdl.with(|mdl| mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA);
    }

    /// Changes the protection of a mapped MDL. NOT_MAPPED_VIEW: it is not mapped. INVALID_PAGE_PROTECTION: it is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmProtectMdlSystemAddress(mdl: Ptr<MDL>, new_protect: ULong) -> NtStatus {
        if mdl.read().MdlFlags & MDL_MAPPED_TO_SYSTEM_VA == 0 {
            return NtStatus::NOT_MAPPED_VIEW;
        }
        mdl_mapping::protect(mdl, new_protect)
    }

    /// Drops whole pages and bytes from the front of an MDL. INVALID_PARAMETER_2: it is shorter.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmAdvanceMdl(mdl: Ptr<MDL>, number_of_bytes: ULong) -> NtStatus {
        let header = mdl.read();
        if number_of_bytes > header.ByteCount {
            return NtStatus::INVALID_PARAMETER_2;
        }
        let offset = u64::from(header.ByteOffset) + u64::from(number_of_bytes);
        let dropped = offset / PAGE_SIZE;
        let pages = pages_spanned(u64::from(header.ByteOffset), u64::from(header.ByteCount));
        for page in dropped..pages {
            frame(mdl, page - dropped).write(frame(mdl, page).read());
        }
        mdl.with(|mdl| {
            mdl.ByteCount -= number_of_bytes;
            mdl.ByteOffset = low32(offset % PAGE_SIZE);
            mdl.StartVa = to_word(from_word(mdl.StartVa) + dropped * PAGE_SIZE);
            if mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
                mdl.MappedSystemVa = to_word(from_word(mdl.MappedSystemVa) + u64::from(number_of_bytes));
            }
        });
        NtStatus::SUCCESS
    }

    /// Says that pages will be used soon: all memory is resident.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn MmPrefetchPages(number_of_lists: ULong, read_lists: Ptr<Word>) -> NtStatus {
        NtStatus::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, crash_of, machine};

    fn new_mdl(address: u64, bytes: u64) -> Ptr<MDL> {
        Ptr::new(api("MmCreateMdl", &[0, address, bytes]))
    }

    #[test]
    fn user_buffers_are_probed() {
        let _machine = machine();
        let mdl = new_mdl(layout::USER + 0x800, 0x1000);
        assert_eq!(probe_and_lock(mdl, ProcessorMode(1), 1), Ok(()));
        assert_eq!(
            map(mdl).addr(),
            shared::kernel_base() + layout::USER_ALIAS + 0x800
        );
        unlock(mdl);
        let record = crash_of(|| unlock(mdl));
        assert_eq!(record.code, PFN_LIST_CORRUPT);
        let kernel = new_mdl(shared::kernel_base() + layout::POOL, 16);
        assert_eq!(
            probe_and_lock(kernel, ProcessorMode(1), 0),
            Err(NtStatus::ACCESS_VIOLATION)
        );
        assert_eq!(probe_and_lock(kernel, ProcessorMode(0), 0), Ok(()));
        let beyond = new_mdl(layout::USER + crate::test_platform::USER_BYTES - 8, 16);
        assert_eq!(
            probe_and_lock(beyond, ProcessorMode(0), 0),
            Err(NtStatus::ACCESS_VIOLATION)
        );
    }

    #[test]
    fn advancing_drops_pages_in_front() {
        let _machine = machine();
        let mdl = new_mdl(layout::USER + 0x800, 0x2000);
        assert_eq!(probe_and_lock(mdl, ProcessorMode(1), 0), Ok(()));
        let second = frame(mdl, 1).read();
        assert_eq!(MmAdvanceMdl(mdl, 0x900), NtStatus::SUCCESS);
        let header = mdl.read();
        assert_eq!((header.ByteOffset, header.ByteCount), (0x100, 0x1700));
        assert_eq!(from_word(header.StartVa), layout::USER + 0x1000);
        assert_eq!(frame(mdl, 0).read(), second);
        assert_eq!(MmAdvanceMdl(mdl, 0x1701), NtStatus::INVALID_PARAMETER_2);
    }
}
