//! Memory that drivers allocate in a process's user space.
//!
//! There is one address space for all processes. What is allocated lies behind the buffers of the clients' requests, so
//! it is mapped at a user address and at a kernel alias from the start: reserving and committing is bookkeeping.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::section::check_handle;
use super::section_view as view;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::ob::ObjectType;
use crate::raw::{Global, Ptr, Word, from_word, to_usize, to_word};
use crate::value::{Handle, Size, ULong};
use crate::{mm, ps, shared};
use abi::layout::{self, ALLOCATION_GRANULARITY, HIGHEST_USER_ADDRESS, PAGE_SIZE};

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
const PAGE_EXECUTE: u32 = 0x10;
const PAGE_GUARD: u32 = 0x100;
/// The most that ZeroBits may be.
const ZERO_BITS: u64 = if cfg!(nt_i386) { 21 } else { 53 };
/// MemoryBasicInformation.
const BASIC: u32 = 0;

/// A reservation.
#[derive(Clone, Debug)]
struct Reservation {
    process: u32,
    /// The protection it was made with.
    protection: u32,
    /// Of each page: its protection, 0 while it is only reserved.
    pages: Vec<u32>,
}

impl Reservation {
    fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }
}

/// By address.
static RESERVATIONS: Global<BTreeMap<u64, Reservation>> =
    Global::new("virtual memory", BTreeMap::new());

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

/// Forgets everything.
pub(crate) fn initialize() {
    RESERVATIONS.with(BTreeMap::clear);
}

/// Frees what was allocated for a process that ends.
pub(crate) fn forget_process(process: u32) {
    RESERVATIONS.with(|all| all.retain(|_, reservation| reservation.process != process));
}

/// The owner of what is no process's: the pages of sections, and of views with a copy of their own.
const SECTIONS: u32 = u32::MAX;

/// Sets zeroed pages aside for a section or a view; `None` when there is no room.
pub(super) fn take(bytes: u64) -> Option<u64> {
    RESERVATIONS.with(|all| {
        let start = place(all, 0, bytes).ok()?;
        let mut reservation = Reservation {
            process: SECTIONS,
            protection: PAGE_NOACCESS,
            pages: alloc::vec![0; to_usize(bytes / PAGE_SIZE)],
        };
        commit(&mut reservation, start, start, bytes, PAGE_NOACCESS);
        all.insert(start, reservation);
        Some(start)
    })
}

/// Gives such pages back.
pub(super) fn give_back(base: u64) {
    RESERVATIONS.with(|all| all.remove(&base));
}

/// Addresses that can be handed out.
fn window() -> core::ops::Range<u64> {
    let user_bytes = shared::user_bytes();
    layout::USER + layout::client_buffer_bytes(user_bytes)..layout::USER + user_bytes
}

fn is_protection(protection: u32) -> bool {
    let plain = protection & !PAGE_GUARD;
    matches!(plain, PAGE_NOACCESS | PAGE_EXECUTE) || super::protection::access_of(plain).is_some()
}

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

/// The first free place, or the place asked for.
fn place(all: &BTreeMap<u64, Reservation>, wanted: u64, bytes: u64) -> Result<u64, NtStatus> {
    let window = window();
    let is_free = |start: u64| {
        start >= window.start
            && start
                .checked_add(bytes)
                .is_some_and(|end| end <= window.end)
            && all.iter().all(|(&other, reservation)| {
                start + bytes <= other || other + reservation.bytes() <= start
            })
    };
    if wanted != 0 {
        let start = wanted / ALLOCATION_GRANULARITY * ALLOCATION_GRANULARITY;
        return if is_free(start) {
            Ok(start)
        } else {
            Err(NtStatus::CONFLICTING_ADDRESSES)
        };
    }
    let mut start = window.start;
    while start < window.end {
        if is_free(start) {
            return Ok(start);
        }
        start += ALLOCATION_GRANULARITY;
    }
    Err(NtStatus::NO_MEMORY)
}

/// Commits pages of a reservation, zeroed where they were not committed before.
fn commit(reservation: &mut Reservation, base: u64, start: u64, bytes: u64, protection: u32) {
    let first = to_usize((start - base) / PAGE_SIZE);
    let count = to_usize(bytes / PAGE_SIZE);
    for (index, page) in reservation
        .pages
        .iter_mut()
        .enumerate()
        .skip(first)
        .take(count)
    {
        let address = base + index as u64 * PAGE_SIZE;
        if let (0, Some(alias)) = (*page, mm::user_alias(address, PAGE_SIZE)) {
            Ptr::<u8>::new(alias).fill(0, PAGE_SIZE);
        }
        *page = protection;
    }
}

/// The reservation of a process that an address lies in.
fn around(
    all: &mut BTreeMap<u64, Reservation>,
    process: u32,
    address: u64,
) -> Option<(u64, &mut Reservation)> {
    let (&base, reservation) = all.range_mut(..=address).next_back()?;
    let is_inside = address - base < reservation.bytes() && reservation.process == process;
    is_inside.then_some((base, reservation))
}

/// ZwAllocateVirtualMemory: where, and how many bytes.
fn allocate(
    process: u64,
    base: u64,
    bytes: u64,
    kind: u32,
    protection: u32,
) -> Result<(u64, u64), NtStatus> {
    if kind & !(COMMIT | RESERVE | RESET | TOP_DOWN) != 0 || kind & (COMMIT | RESERVE | RESET) == 0
    {
        return Err(NtStatus::INVALID_PARAMETER_5);
    }
    if !is_protection(protection) {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    }
    if base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_2);
    }
    if bytes == 0 || base + bytes.min(HIGHEST_USER_ADDRESS + 1) > HIGHEST_USER_ADDRESS + 1 {
        return Err(NtStatus::INVALID_PARAMETER_4);
    }
    let process = process_of(process)?;
    if base != 0
        && kind & COMMIT != 0
        && let Some(found) = view::find(process, base)
    {
        let (start, rounded) = whole_pages(base, bytes).ok_or(NtStatus::INVALID_PARAMETER_4)?;
        view::commit(&found, start, rounded)?;
        return Ok((start, rounded));
    }
    RESERVATIONS.with(|all| {
        if base == 0 || kind & RESERVE != 0 {
            let (_, rounded) = whole_pages(base % ALLOCATION_GRANULARITY, bytes)
                .ok_or(NtStatus::INVALID_PARAMETER_4)?;
            let start = place(all, base, rounded)?;
            let mut reservation = Reservation {
                process,
                protection,
                pages: alloc::vec![0; to_usize(rounded / PAGE_SIZE)],
            };
            if kind & COMMIT != 0 {
                commit(&mut reservation, start, start, rounded, protection);
            }
            all.insert(start, reservation);
            return Ok((start, rounded));
        }
        let (start, rounded) = whole_pages(base, bytes).ok_or(NtStatus::INVALID_PARAMETER_4)?;
        let (reserved, reservation) =
            around(all, process, start).ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
        if start + rounded > reserved + reservation.bytes() {
            return Err(NtStatus::CONFLICTING_ADDRESSES);
        }
        if kind & COMMIT != 0 {
            commit(reservation, reserved, start, rounded, protection);
        }
        Ok((start, rounded))
    })
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
    if view::find(process, base).is_some() {
        return Err(NtStatus::UNABLE_TO_DELETE_SECTION);
    }
    RESERVATIONS.with(|all| {
        let (reserved, reservation) =
            around(all, process, base).ok_or(NtStatus::MEMORY_NOT_ALLOCATED)?;
        let all_bytes = reservation.bytes();
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
        if kind == RELEASE {
            let tail = to_usize((start + rounded - reserved) / PAGE_SIZE);
            let behind = reservation.pages.split_off(tail);
            reservation
                .pages
                .truncate(to_usize((start - reserved) / PAGE_SIZE));
            let rest = Reservation {
                pages: behind,
                ..reservation.clone()
            };
            if reservation.pages.is_empty() {
                all.remove(&reserved);
            }
            if !rest.pages.is_empty() {
                all.insert(start + rounded, rest);
            }
        } else {
            commit(reservation, reserved, start, rounded, 0);
        }
        Ok((start, rounded))
    })
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
    if let Some(found) = view::find(process, page) {
        let (is_committed, bytes) = view::committed(&found, page);
        return Ok(MEMORY_BASIC_INFORMATION {
            base_address: to_word(page),
            allocation_base: to_word(found.base),
            allocation_protect: found.protection,
            region_size: to_word(bytes),
            state: if is_committed { COMMIT } else { RESERVE },
            protect: if is_committed { found.protection } else { 0 },
            kind: MAPPED,
            ..MEMORY_BASIC_INFORMATION::default()
        });
    }
    let view_above = view::next(process, page).unwrap_or(HIGHEST_USER_ADDRESS + 1);
    RESERVATIONS.with(|all| {
        let next = all
            .range(page..)
            .find(|(_, reservation)| reservation.process == process)
            .map_or(HIGHEST_USER_ADDRESS + 1, |(&base, _)| base)
            .min(view_above);
        let Some((base, reservation)) = around(all, process, page) else {
            return Ok(MEMORY_BASIC_INFORMATION {
                base_address: to_word(page),
                region_size: to_word(next - page),
                state: FREE,
                protect: PAGE_NOACCESS,
                ..MEMORY_BASIC_INFORMATION::default()
            });
        };
        let pages = reservation
            .pages
            .get(to_usize((page - base) / PAGE_SIZE)..)
            .unwrap_or_default();
        let protect = pages.first().copied().unwrap_or(0);
        let count = pages.iter().take_while(|&&other| other == protect).count() as u64;
        Ok(MEMORY_BASIC_INFORMATION {
            base_address: to_word(page),
            allocation_base: to_word(base),
            allocation_protect: reservation.protection,
            region_size: to_word(count * PAGE_SIZE),
            state: if protect == 0 { RESERVE } else { COMMIT },
            protect,
            kind: PRIVATE,
            ..MEMORY_BASIC_INFORMATION::default()
        })
    })
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
    if !is_protection(protection) {
        return Err(NtStatus::INVALID_PAGE_PROTECTION);
    }
    if base > HIGHEST_USER_ADDRESS {
        return Err(NtStatus::INVALID_PARAMETER_2);
    }
    let (start, rounded) = whole_pages(base, bytes)
        .filter(|_| bytes != 0)
        .ok_or(NtStatus::INVALID_PARAMETER_3)?;
    let process = process_of(process)?;
    RESERVATIONS.with(|all| {
        let (reserved, reservation) =
            around(all, process, start).ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
        if start + rounded > reserved + reservation.bytes() {
            return Err(NtStatus::CONFLICTING_ADDRESSES);
        }
        let first = to_usize((start - reserved) / PAGE_SIZE);
        let count = to_usize(rounded / PAGE_SIZE);
        let pages = reservation.pages.get_mut(first..first + count);
        let pages = pages.ok_or(NtStatus::CONFLICTING_ADDRESSES)?;
        if pages.contains(&0) {
            return Err(NtStatus::NOT_COMMITTED);
        }
        let old = pages.first().copied().unwrap_or(0);
        pages.fill(protection);
        Ok(((start, rounded), old))
    })
}

macro_rules! memory_functions {
    ($module:ident; allocate $($allocate:ident)*; free $($free:ident)*; query $($query:ident)*; $($rest:tt)*) => {
        nt_api! { module = $module;
            $(
                /// Reserves or commits memory in a process's user space; address and size are rounded and written back.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("memory that is reserved, or protected otherwise, can still be accessed")
                fn $allocate(
                    process_handle: Handle, base_address: Ptr<Word>, zero_bits: Size, region_size: Ptr<Word>,
                    allocation_type: ULong, protect: ULong,
                ) -> NtStatus {
                    if zero_bits.0 > ZERO_BITS {
                        return NtStatus::INVALID_PARAMETER_3;
                    }
                    let (base, bytes) = (from_word(base_address.read()), from_word(region_size.read()));
                    let allocated = allocate(process_handle.0, base, bytes, allocation_type, protect);
                    write_back(allocated, base_address, region_size)
                }
            )*
            $(
                /// Decommits or releases such memory; what was freed is written back.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("memory that was freed can still be accessed")
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
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("protections are not enforced; not for views")
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
    use crate::test_platform::machine;

    const CURRENT: u64 = u64::MAX;
    const READ_WRITE: u32 = 4;

    #[test]
    fn memory_is_reserved_committed_and_released() {
        let machine = machine();
        let (base, bytes) = allocate(CURRENT, 0, 0x2001, RESERVE, READ_WRITE).unwrap();
        assert_eq!((base % ALLOCATION_GRANULARITY, bytes), (0, 0x3000));
        assert!(base >= layout::USER + layout::client_buffer_bytes(shared::user_bytes()));
        assert_eq!(query(CURRENT, base).unwrap().state, RESERVE);
        machine.write_user(base - layout::USER + 0x1000, &[9; 16]);
        assert_eq!(
            allocate(CURRENT, base + 0x1234, 1, COMMIT, READ_WRITE),
            Ok((base + 0x1000, 0x1000))
        );
        assert_eq!(machine.read_user(base - layout::USER + 0x1000, 16), [0; 16]);
        let found = query(CURRENT, base + 0x1800).unwrap();
        assert_eq!((found.state, found.protect), (COMMIT, READ_WRITE));
        assert_eq!(from_word(found.region_size), 0x1000);
        assert_eq!(
            allocate(CURRENT, base + 0x2000, 0x2000, COMMIT, READ_WRITE),
            Err(NtStatus::CONFLICTING_ADDRESSES)
        );
        assert_eq!(
            allocate(CURRENT, base, 1, RESERVE, READ_WRITE),
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
        assert_eq!(query(CURRENT, base + 0x1000).unwrap().state, FREE);
        assert_eq!(query(CURRENT, base + 0x2000).unwrap().state, RESERVE);
        assert_eq!(free(CURRENT, base, 0, RELEASE), Ok((base, 0x1000)));
        assert_eq!(
            free(CURRENT, base, 0, RELEASE),
            Err(NtStatus::MEMORY_NOT_ALLOCATED)
        );
        forget_process(ps::SYSTEM_ID);
        assert_eq!(
            free(CURRENT, base + 0x2000, 0, RELEASE),
            Err(NtStatus::MEMORY_NOT_ALLOCATED)
        );
    }

    #[test]
    fn bad_arguments_have_their_statuses() {
        let _machine = machine();
        let status =
            |base, bytes, kind, protection| allocate(CURRENT, base, bytes, kind, protection).err();
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
            status(0, 0x10_0000, COMMIT, READ_WRITE),
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
        assert_eq!(
            allocate(0x44, 0, 1, COMMIT, READ_WRITE),
            Err(NtStatus::INVALID_HANDLE)
        );
    }
}
