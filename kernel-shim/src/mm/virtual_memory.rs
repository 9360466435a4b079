//! Memory that drivers allocate in a process's user space: pages of the pool, put into [`super::address_space`].

use super::address_space::{self, Kind, Page, Place, Range, is_protection};
use super::section::check_handle;
use super::section_view as view;
use super::secure;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::ob::ObjectType;
use crate::ps;
use crate::raw::{Ptr, Word, from_word, low32, to_usize, to_word};
use crate::value::{Handle, Size, ULong};
use abi::layout::{ALLOCATION_GRANULARITY, HIGHEST_USER_ADDRESS, PAGE_SIZE};

const COMMIT: u32 = 0x1000;
const RESERVE: u32 = 0x2000;
const DECOMMIT: u32 = 0x4000;
const RELEASE: u32 = 0x8000;
const FREE: u32 = 0x1_0000;
const PRIVATE: u32 = 0x2_0000;
const MAPPED: u32 = 0x4_0000;
const RESET: u32 = 0x8_0000;
const TOP_DOWN: u32 = 0x10_0000;
const PAGE_NOACCESS: u32 = 1;
/// The most that ZeroBits may be.
const ZERO_BITS: u64 = if cfg!(nt_i386) { 21 } else { 53 };
/// MemoryBasicInformation.
const BASIC: u32 = 0;

/// MEMORY_BASIC_INFORMATION.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct MEMORY_BASIC_INFORMATION {
    base_address: Word,
    allocation_base: Word,
    allocation_protect: u32,
    #[cfg(not(nt_i386))]
    partition: u32,
    region_size: Word,
    state: u32,
    protect: u32,
    kind: u32,
    #[cfg(not(nt_i386))]
    padding: u32,
}
const _: () =
    assert!(size_of::<MEMORY_BASIC_INFORMATION>() == if cfg!(nt_i386) { 0x1C } else { 0x30 });

fn process_of(handle: u64) -> Result<u32, NtStatus> {
    let (body, _) = check_handle(handle, ObjectType::Process)?;
    ps::id_of(Ptr::new(body)).ok_or(NtStatus::PROCESS_IS_TERMINATING)
}

/// Whole pages that a range touches: address and bytes.
fn whole_pages(base: u64, bytes: u64) -> Option<(u64, u64)> {
    let start = base / PAGE_SIZE * PAGE_SIZE;
    let end = base
        .checked_add(bytes)?
        .checked_next_multiple_of(PAGE_SIZE)?;
    Some((start, end - start))
}

/// The number of the page of a range at `base`, and of those in `bytes`.
fn pages_of(base: u64, start: u64, bytes: u64) -> (u32, u32) {
    (low32((start - base) / PAGE_SIZE), low32(bytes / PAGE_SIZE))
}

/// A new page of private memory.
fn new_page(_: u32) -> Option<Page> {
    Some(Page {
        protection: PAGE_NOACCESS,
        frame: address_space::take_frame()?,
        is_own: true,
    })
}

/// What ZwAllocateVirtualMemory is asked for.
#[derive(Clone, Copy)]
struct Wish {
    process: u64,
    base: u64,
    zero_bits: u64,
    bytes: u64,
    kind: u32,
    protection: u32,
}

/// ZwAllocateVirtualMemory: where, and how many bytes.
fn allocate(wish: &Wish) -> Result<(u64, u64), NtStatus> {
    let Wish {
        base,
        bytes,
        kind,
        protection,
        ..
    } = *wish;
    if kind & !(COMMIT | RESERVE | RESET | TOP_DOWN) != 0 || kind & (COMMIT | RESERVE | RESET) == 0
    {
        return Err(NtStatus::INVALID_PARAMETER_5);
    }
    if !is_protection(protection, true) {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    }
    if base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_2);
    }
    if bytes == 0 || base + bytes.min(HIGHEST_USER_ADDRESS + 1) > HIGHEST_USER_ADDRESS + 1 {
        return Err(NtStatus::INVALID_PARAMETER_4);
    }
    let process = process_of(wish.process)?;
    if base != 0 && kind & RESERVE == 0 {
        return commit(process, base, bytes, kind, protection);
    }
    if !is_protection(protection, false) {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    }
    let (_, rounded) =
        whole_pages(base % ALLOCATION_GRANULARITY, bytes).ok_or(NtStatus::INVALID_PARAMETER_4)?;
    let place = Place {
        is_top_down: kind & TOP_DOWN != 0,
        ..Place::at(base / ALLOCATION_GRANULARITY * ALLOCATION_GRANULARITY)
    };
    let range = Range::new(process, Kind::Private, rounded, protection);
    let start = if base != 0 && base < ALLOCATION_GRANULARITY {
        Err(NtStatus::CONFLICTING_ADDRESSES)
    } else {
        address_space::insert(place.with_zero_bits(wish.zero_bits), range)
    }?;
    if kind & COMMIT != 0 {
        let (first, count) = pages_of(start, start, rounded);
        address_space::commit(start, first, count, protection, new_page)
            .inspect_err(|_| address_space::remove(start))?;
    }
    Ok((start, rounded))
}

/// Commits pages of what is reserved, or of a view of a section that is.
fn commit(
    process: u32,
    base: u64,
    bytes: u64,
    kind: u32,
    protection: u32,
) -> Result<(u64, u64), NtStatus> {
    let (start, rounded) = whole_pages(base, bytes).ok_or(NtStatus::INVALID_PARAMETER_4)?;
    let (reserved, what, size) = address_space::with(process, start, |base, range| {
        (base, range.kind, range.bytes)
    })
    .ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
    if start + rounded > reserved + size {
        return Err(NtStatus::CONFLICTING_ADDRESSES);
    }
    if kind & COMMIT == 0 {
        // MEM_RESET: the contents no longer matter, so they may stay.
        return Ok((start, rounded));
    }
    match what {
        Kind::View => view::commit(process, start, rounded)?,
        Kind::Private if !is_protection(protection, false) => {
            return Err(NtStatus::INVALID_PAGE_PROTECTION);
        }
        Kind::Private => {
            let (first, count) = pages_of(reserved, start, rounded);
            address_space::commit(reserved, first, count, protection, new_page)?;
        }
        Kind::Mdl | Kind::Physical => return Err(NtStatus::CONFLICTING_ADDRESSES),
    }
    Ok((start, rounded))
}

/// ZwFreeVirtualMemory: what was freed.
fn free(process: u64, base: u64, bytes: u64, kind: u32) -> Result<(u64, u64), NtStatus> {
    if kind != DECOMMIT && kind != RELEASE {
        return Err(NtStatus::INVALID_PARAMETER_4);
    }
    if base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_2);
    }
    let process = process_of(process)?;
    let (reserved, what, all_bytes) =
        address_space::with(process, base, |base, range| (base, range.kind, range.bytes))
            .ok_or(NtStatus::MEMORY_NOT_ALLOCATED)?;
    if what != Kind::Private {
        return Err(NtStatus::UNABLE_TO_DELETE_SECTION);
    }
    if bytes == 0 && base / PAGE_SIZE * PAGE_SIZE != reserved {
        return Err(NtStatus::FREE_VM_NOT_AT_BASE);
    }
    let (start, rounded) = if bytes == 0 {
        (reserved, all_bytes)
    } else {
        whole_pages(base, bytes).ok_or(NtStatus::UNABLE_TO_FREE_VM)?
    };
    if start + rounded > reserved + all_bytes {
        return Err(NtStatus::UNABLE_TO_FREE_VM);
    }
    secure::check(process, start, rounded, PAGE_NOACCESS)?;
    let (first, count) = pages_of(reserved, start, rounded);
    if kind == RELEASE {
        address_space::cut(reserved, first, count);
    } else {
        address_space::decommit(reserved, first, count);
    }
    Ok((start, rounded))
}

/// ZwQueryVirtualMemory: the run of pages of one kind from an address.
#[cfg_attr(
    nt_i386,
    expect(clippy::needless_update, reason = "amd64 has padding fields")
)]
fn query(process: u64, address: u64) -> Result<MEMORY_BASIC_INFORMATION, NtStatus> {
    if address > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let process = process_of(process)?;
    let page = address / PAGE_SIZE * PAGE_SIZE;
    let found = address_space::with(process, page, |base, range| {
        let (first, _) = pages_of(base, page, 0);
        let protect = range.pages.get(&first).map(|page| page.protection);
        let behind = low32(range.bytes / PAGE_SIZE);
        let alike = match protect {
            None => range
                .pages
                .range(first..)
                .next()
                .map_or(behind, |(&next, _)| next),
            Some(same) => (first..behind)
                .find(|index| range.pages.get(index).map(|page| page.protection) != Some(same))
                .unwrap_or(behind),
        };
        // Physical memory has no pages that are known here: all of it is as it was mapped.
        let (protect, alike) = match range.kind {
            Kind::Physical => (Some(range.protection), behind),
            _ => (protect, alike),
        };
        MEMORY_BASIC_INFORMATION {
            base_address: to_word(page),
            allocation_base: to_word(base),
            allocation_protect: range.protection,
            region_size: to_word(u64::from(alike - first) * PAGE_SIZE),
            state: if protect.is_some() { COMMIT } else { RESERVE },
            protect: protect.unwrap_or(0),
            kind: match range.kind {
                Kind::View | Kind::Physical => MAPPED,
                Kind::Private | Kind::Mdl => PRIVATE,
            },
            ..MEMORY_BASIC_INFORMATION::default()
        }
    });
    Ok(found.unwrap_or_else(|| {
        let next = address_space::next(process, page).unwrap_or(HIGHEST_USER_ADDRESS + 1);
        MEMORY_BASIC_INFORMATION {
            base_address: to_word(page),
            region_size: to_word(next - page),
            state: FREE,
            protect: PAGE_NOACCESS,
            ..MEMORY_BASIC_INFORMATION::default()
        }
    }))
}

fn write_back(
    result: Result<(u64, u64), NtStatus>,
    base_address: Ptr<Word>,
    region_size: Ptr<Word>,
) -> NtStatus {
    match result {
        Ok((base, bytes)) => {
            base_address.write(to_word(base));
            region_size.write(to_word(bytes));
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

/// ZwProtectVirtualMemory: the pages, and the protection that the first had.
fn protect(
    process: u64,
    base: u64,
    bytes: u64,
    protection: u32,
) -> Result<((u64, u64), u32), NtStatus> {
    if !is_protection(protection, true) {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    }
    if base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_2);
    }
    let (start, rounded) = whole_pages(base, bytes)
        .filter(|_| bytes != 0)
        .ok_or(NtStatus::INVALID_PARAMETER_3)?;
    let process = process_of(process)?;
    let (reserved, what, size, made) = address_space::with(process, start, |base, range| {
        (base, range.kind, range.bytes, range.protection)
    })
    .ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
    if start + rounded > reserved + size {
        return Err(NtStatus::CONFLICTING_ADDRESSES);
    }
    match what {
        Kind::Private | Kind::Mdl if !is_protection(protection, false) => {
            return Err(NtStatus::INVALID_PAGE_PROTECTION);
        }
        Kind::View | Kind::Physical if !view::is_compatible(made, protection) => {
            return Err(NtStatus::SECTION_PROTECTION);
        }
        _ => {}
    }
    secure::check(process, start, rounded, protection)?;
    if what == Kind::Physical {
        let old = view::protect_physical(process, reserved, start, rounded, protection)?;
        return Ok(((start, rounded), old));
    }
    let (first, count) = pages_of(reserved, start, rounded);
    let old = address_space::with(process, start, |_, range| {
        let all = range.pages.range(first..first + count).count();
        let old = range.pages.get(&first).map(|page| page.protection);
        old.filter(|_| all == to_usize(u64::from(count)))
    });
    let old = old.flatten().ok_or(NtStatus::NOT_COMMITTED)?;
    address_space::change(reserved, first, count, |_, page| {
        // What was copied already is not copied again.
        page.protection = match (what, page.is_own) {
            (Kind::View, true) => view::without_copy(protection),
            _ => protection,
        };
    });
    Ok(((start, rounded), old))
}

macro_rules! memory_functions {
    ($module:ident; allocate $($allocate:ident)*; free $($free:ident)*; query $($query:ident)*; $($rest:tt)*) => {
        nt_api! { module = $module;
            $(
                /// Reserves or commits memory in a process's user space; address and size are rounded and written back.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $allocate(
                    process_handle: Handle, base_address: Ptr<Word>, zero_bits: Size, region_size: Ptr<Word>,
                    allocation_type: ULong, protect: ULong,
                ) -> NtStatus {
                    if zero_bits.0 > ZERO_BITS {
                        return NtStatus::INVALID_PARAMETER_3;
                    }
                    let (base, bytes) = (from_word(base_address.read()), from_word(region_size.read()));
                    let wish = Wish {
                        process: process_handle.0, base, zero_bits: zero_bits.0, bytes, kind: allocation_type,
                        protection: protect,
                    };
                    write_back(allocate(&wish), base_address, region_size)
                }
            )*
            $(
                /// Decommits or releases such memory; what was freed is written back.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $free(
                    process_handle: Handle, base_address: Ptr<Word>, region_size: Ptr<Word>, free_type: ULong,
                ) -> NtStatus {
                    let (base, bytes) = (from_word(base_address.read()), from_word(region_size.read()));
                    write_back(free(process_handle.0, base, bytes, free_type), base_address, region_size)
                }
            )*
            $(
                /// Tells about a range of a process's user space: MemoryBasicInformation.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("MemoryBasicInformation is the one class; request buffers show as free")
                fn $query(
                    process_handle: Handle, base_address: Ptr<u8>, information_class: ULong, information: Ptr<u8>,
                    length: Size, return_length: Ptr<Word>,
                ) -> NtStatus {
                    let needed = size_of::<MEMORY_BASIC_INFORMATION>() as u64;
                    if information_class != BASIC {
                        return NtStatus::INVALID_INFO_CLASS;
                    }
                    if length.0 < needed {
                        return NtStatus::INFO_LENGTH_MISMATCH;
                    }
                    match query(process_handle.0, base_address.addr()) {
                        Ok(found) => {
                            information.cast().write(found);
                            if let Some(return_length) = return_length.non_null() {
                                return_length.write(to_word(needed));
                            }
                            NtStatus::SUCCESS
                        }
                        Err(status) => status,
                    }
                }
            )*
            $($rest)*
        }
    };
}

memory_functions! { mm_virtual_memory;
    allocate ZwAllocateVirtualMemory NtAllocateVirtualMemory;
    free ZwFreeVirtualMemory NtFreeVirtualMemory;
    query ZwQueryVirtualMemory NtQueryVirtualMemory;
    /// Changes the protection of committed pages; what the first had before is written back. NOT_COMMITTED: there are
    /// others. CONFLICTING_ADDRESSES: the range is in no allocation.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwProtectVirtualMemory(
        process_handle: Handle, base_address: Ptr<Word>, region_size: Ptr<Word>, new_protect: ULong,
        old_protect: Ptr<u32>,
    ) -> NtStatus {
        let (base, bytes) = (from_word(base_address.read()), from_word(region_size.read()));
        let protected = protect(process_handle.0, base, bytes, new_protect);
        if let Ok((_, old)) = protected {
            old_protect.write(old);
        }
        write_back(protected.map(|(range, _)| range), base_address, region_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm;
    use crate::test_platform::machine;

    const CURRENT: u64 = u64::MAX;
    const READ_ONLY: u32 = 2;
    const READ_WRITE: u32 = 4;

    fn get(base: u64, bytes: u64, kind: u32, protection: u32) -> Result<(u64, u64), NtStatus> {
        allocate(&Wish {
            process: CURRENT,
            base,
            zero_bits: 0,
            bytes,
            kind,
            protection,
        })
    }

    /// The memory behind a user address.
    fn memory(address: u64) -> Ptr<u8> {
        let physical = mm::physical_address(address).unwrap();
        Ptr::new(mm::virtual_for_physical(physical).unwrap())
    }

    #[test]
    fn memory_is_reserved_committed_and_released() {
        let _machine = machine();
        let (base, bytes) = get(0, 0x2001, RESERVE, READ_WRITE).unwrap();
        assert_eq!((base % ALLOCATION_GRANULARITY, bytes), (0, 0x3000));
        assert_eq!(query(CURRENT, base).unwrap().state, RESERVE);
        assert_eq!(mm::physical_address(base + 0x1000), None);
        assert_eq!(
            get(base + 0x1234, 1, COMMIT, READ_WRITE),
            Ok((base + 0x1000, 0x1000))
        );
        memory(base + 0x1000).fill(9, 16);
        assert_eq!(mm::physical_address(base + 0x2000), None);
        let found = query(CURRENT, base + 0x1800).unwrap();
        assert_eq!((found.state, found.protect), (COMMIT, READ_WRITE));
        assert_eq!(from_word(found.region_size), 0x1000);
        assert_eq!(
            get(base + 0x2000, 0x2000, COMMIT, READ_WRITE),
            Err(NtStatus::CONFLICTING_ADDRESSES)
        );
        assert_eq!(
            get(base, 1, RESERVE, READ_WRITE),
            Err(NtStatus::CONFLICTING_ADDRESSES)
        );
        assert_eq!(
            free(CURRENT, base + 0x1000, 0, RELEASE),
            Err(NtStatus::FREE_VM_NOT_AT_BASE)
        );
        assert_eq!(
            free(CURRENT, base, 0x4000, RELEASE),
            Err(NtStatus::UNABLE_TO_FREE_VM)
        );
        assert_eq!(
            free(CURRENT, base + 0x1000, 0x1000, RELEASE),
            Ok((base + 0x1000, 0x1000))
        );
        assert_eq!(mm::physical_address(base + 0x1000), None);
        assert_eq!(query(CURRENT, base + 0x1000).unwrap().state, FREE);
        assert_eq!(query(CURRENT, base + 0x2000).unwrap().state, RESERVE);
        assert_eq!(free(CURRENT, base, 0, RELEASE), Ok((base, 0x1000)));
        assert_eq!(
            free(CURRENT, base, 0, RELEASE),
            Err(NtStatus::MEMORY_NOT_ALLOCATED)
        );
        address_space::forget_process(ps::SYSTEM_ID);
        assert_eq!(
            free(CURRENT, base + 0x2000, 0, RELEASE),
            Err(NtStatus::MEMORY_NOT_ALLOCATED)
        );
    }

    #[test]
    fn the_caller_chooses_the_address_and_large_reservations_cost_nothing() {
        let _machine = machine();
        let chosen = 0x5000_0000;
        assert_eq!(
            get(chosen + 5, 0x1000, RESERVE | COMMIT, READ_WRITE),
            Ok((chosen, 0x2000))
        );
        let (base, bytes) = get(0, 0x2000_0000, RESERVE | TOP_DOWN, READ_WRITE).unwrap();
        assert_eq!((base, bytes), (0x5FFF_0000, 0x2000_0000));
        assert_eq!(
            get(mm::layout::USER, 1, RESERVE, READ_WRITE),
            Err(NtStatus::CONFLICTING_ADDRESSES)
        );
        assert_eq!(
            get(0x1000, 1, RESERVE, READ_WRITE),
            Err(NtStatus::CONFLICTING_ADDRESSES)
        );
    }

    #[test]
    fn protections_decide_what_is_there() {
        let _machine = machine();
        let (base, _) = get(0, 0x2000, COMMIT | RESERVE, READ_WRITE).unwrap();
        assert!(mm::is_writable(base));
        let changed = protect(CURRENT, base, 0x1000, READ_ONLY).unwrap();
        assert_eq!(changed, ((base, 0x1000), READ_WRITE));
        assert!(!mm::is_writable(base) && mm::is_writable(base + 0x1000));
        assert!(mm::physical_address(base).is_some());
        protect(CURRENT, base, 0x2000, PAGE_NOACCESS).unwrap();
        assert_eq!(mm::physical_address(base), None);
        protect(CURRENT, base, 0x2000, READ_WRITE | 0x100).unwrap();
        assert!(address_space::is_guarded(base));
        address_space::take_guard(base);
        assert!(mm::is_writable(base) && !address_space::is_guarded(base));
        assert_eq!(mm::physical_address(base + 0x1000), None);
        assert_eq!(
            protect(CURRENT, base, 1, 8),
            Err(NtStatus::INVALID_PAGE_PROTECTION)
        );
        assert_eq!(free(CURRENT, base, 0, RELEASE), Ok((base, 0x2000)));
    }

    #[test]
    fn bad_arguments_have_their_statuses() {
        let _machine = machine();
        let status = |base, bytes, kind, protection| get(base, bytes, kind, protection).err();
        assert_eq!(
            status(0, 1, 0, READ_WRITE),
            Some(NtStatus::INVALID_PARAMETER_5)
        );
        assert_eq!(
            status(0, 1, 1, READ_WRITE),
            Some(NtStatus::INVALID_PARAMETER_5)
        );
        assert_eq!(
            status(0, 1, COMMIT, 0),
            Some(NtStatus::INVALID_PAGE_PROTECTION)
        );
        assert_eq!(
            status(0, 0, COMMIT, READ_WRITE),
            Some(NtStatus::INVALID_PARAMETER_4)
        );
        assert_eq!(
            status(u64::MAX, 1, COMMIT, READ_WRITE),
            Some(NtStatus::INVALID_PARAMETER_2)
        );
        assert_eq!(
            status(0, u64::MAX, COMMIT, READ_WRITE),
            Some(NtStatus::INVALID_PARAMETER_4)
        );
        assert_eq!(
            status(0, 0x100_0000, COMMIT, READ_WRITE),
            Some(NtStatus::NO_MEMORY)
        );
        assert_eq!(
            free(CURRENT, 0x1000, 0, RELEASE),
            Err(NtStatus::MEMORY_NOT_ALLOCATED)
        );
        assert_eq!(
            free(CURRENT, 0x1000, 0, RELEASE | DECOMMIT),
            Err(NtStatus::INVALID_PARAMETER_4)
        );
        let wish = Wish {
            process: 0x44,
            base: 0,
            zero_bits: 0,
            bytes: 1,
            kind: COMMIT,
            protection: READ_WRITE,
        };
        assert_eq!(allocate(&wish), Err(NtStatus::INVALID_HANDLE));
    }
}
