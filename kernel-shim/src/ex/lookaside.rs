//! Lookaside lists. Allocating and freeing are inline code in the driver (on i386 of old kits: exports) over the
//! list's SLIST and the two routines in its structure, so the structure must be right.

#[cfg(test)]
use super::pool;
use super::pool_api;
use crate::api::nt_api;
use crate::io::driver::owner_of;
use crate::mm;
use crate::nt::lookaside::GENERAL_LOOKASIDE;
use crate::nt::{LIST_ENTRY, NtStatus};
use crate::raw::{Global, Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::table;
use crate::value::{Size, Tag, ULong, UShort};
use abi::DriverAbi;
use abi::trace::Entry;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// ExMinimumLookasideDepth.
const MINIMUM_DEPTH: u16 = 4;
/// The depth that a list may grow to.
const MAXIMUM_DEPTH: u16 = 256;
/// Bits of a POOL_TYPE that a LOOKASIDE_LIST_EX may have: pools, CacheAligned, session, NX, the raising and failing flags.
const POOL_TYPES: u32 = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200;
/// POOL_RAISE_IF_ALLOCATION_FAILURE.
const RAISE: u32 = 0x10;
/// POOL_QUOTA_FAIL_INSTEAD_OF_RAISE.
const QUOTA_FAIL: u32 = 0x8;
/// EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL.
const RAISE_ON_FAIL: u32 = 1;
/// EX_LOOKASIDE_LIST_EX_FLAGS_FAIL_NO_RAISE.
const FAIL_NO_RAISE: u32 = 2;

/// The lists that there are: address to the owning driver's DRIVER_OBJECT.
static LISTS: Global<BTreeMap<u64, u64>> = Global::new("lookaside lists", BTreeMap::new());

type List = Ptr<GENERAL_LOOKASIDE>;

/// The address of an export, for a driver to call.
fn routine(name: &str) -> Word {
    let abi = if cfg!(nt_i386) {
        DriverAbi::I386
    } else {
        DriverAbi::Amd64
    };
    let address = table::find(name).and_then(|number| mm::export_address(number, abi));
    to_word(address.unwrap_or(0))
}

struct Routines {
    allocate: Word,
    free: Word,
}

fn initialize(list: List, routines: &Routines, kind: u32, size: u64, tag: u32) {
    list.write(GENERAL_LOOKASIDE {
        ListHead: [0; 2],
        Depth: MINIMUM_DEPTH,
        MaximumDepth: MAXIMUM_DEPTH,
        TotalAllocates: 0,
        AllocateMisses: 0,
        TotalFrees: 0,
        FreeMisses: 0,
        Type: kind,
        Tag: tag,
        Size: low32(size),
        Allocate: routines.allocate,
        Free: routines.free,
        ListEntry: LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
        LastTotalAllocates: 0,
        LastAllocateMisses: 0,
        Future: [0; 2],
    });
    let owner = owner_of(shared::caller());
    LISTS.with(|lists| lists.insert(list.addr(), owner));
}

/// The routine given, or the default.
fn or_default(routine_given: Ptr<u8>, default: &str) -> Word {
    if routine_given.is_null() {
        routine(default)
    } else {
        routine_given.word()
    }
}

/// Takes the first entry off a list's SLIST.
fn pop(list: List) -> Option<Ptr<Word>> {
    let head = list.cast::<Word>();
    let first = from_word(list.read().ListHead[0]);
    if cfg!(nt_i386) {
        // Next in the first word, depth in the low half of the second.
        let entry = Ptr::<Word>::new(first).non_null()?;
        head.write(entry.read());
        head.offset(1)
            .with(|depth| *depth = *depth & !0xFFFF | (depth.wrapping_sub(1) & 0xFFFF));
        return Some(entry);
    }
    // Depth in the low 16 bits of the first word, the next entry in all but the low 4 of the second.
    let second = from_word(list.read().ListHead[1]);
    let entry = Ptr::<Word>::new(second & !0xF).non_null()?;
    head.offset(1)
        .write(to_word((from_word(entry.read()) & !0xF) | (second & 0xF)));
    head.write(to_word(
        (first & !0xFFFF) | (first.wrapping_sub(1) & 0xFFFF),
    ));
    Some(entry)
}

/// Pushes an entry onto a list's SLIST.
fn push(list: List, entry: Ptr<Word>) {
    let head = list.cast::<Word>();
    let [first, second] = list.read().ListHead.map(from_word);
    if cfg!(nt_i386) {
        entry.write(to_word(first));
        head.write(entry.word());
        head.offset(1).write(to_word(
            (second & !0xFFFF) | (second.wrapping_add(1) & 0xFFFF),
        ));
        return;
    }
    entry.write(to_word(second & !0xF));
    head.offset(1).write(to_word(entry.addr() | (second & 0xF)));
    head.write(to_word(
        (first & !0xFFFF) | (first.wrapping_add(1) & 0xFFFF),
    ));
}

/// Entries on the list now.
fn depth(list: List) -> u16 {
    let word = list.read().ListHead[usize::from(cfg!(nt_i386))];
    crate::raw::low16(from_word(word))
}

/// Frees every entry with the list's own routine. `extended`: that routine takes the list as well.
fn flush(list: List, extended: bool) {
    while let Some(entry) = pop(list) {
        let free = from_word(list.read().Free);
        let is_default = free == from_word(routine("ExFreePool"))
            || free == from_word(routine("ExpFreeLookaside"));
        if is_default {
            pool_api::free(entry.cast(), 0);
        } else if extended {
            shared::call_driver(Entry::Other, free, &[entry.addr(), list.addr()]);
        } else {
            shared::call_driver(Entry::Other, free, &[entry.addr()]);
        }
    }
}

fn delete(list: List, extended: bool) {
    flush(list, extended);
    LISTS.with(|lists| lists.remove(&list.addr()));
}

/// Forgets the lists of a driver; their addresses, for the report of what it left behind.
pub(crate) fn forget_of(owner: u64) -> Vec<u64> {
    LISTS.with(|lists| {
        let left = lists
            .iter()
            .filter(|list| *list.1 == owner)
            .map(|list| *list.0)
            .collect();
        lists.retain(|_, list_owner| *list_owner != owner);
        left
    })
}

/// Takes an entry from a list, or allocates one.
fn take(list: List) -> Ptr<u8> {
    list.with(|list| list.TotalAllocates = list.TotalAllocates.wrapping_add(1));
    if let Some(entry) = pop(list) {
        return entry.cast();
    }
    list.with(|list| list.AllocateMisses = list.AllocateMisses.wrapping_add(1));
    let GENERAL_LOOKASIDE {
        Type: kind,
        Tag: tag,
        Size: size,
        Allocate: allocate,
        ..
    } = list.read();
    let arguments = [u64::from(kind), u64::from(size), u64::from(tag)];
    if allocate == routine("ExAllocatePoolWithTag") {
        return pool_api::allocate(kind, u64::from(size), tag);
    }
    Ptr::new(shared::call_driver(
        Entry::Other,
        from_word(allocate),
        &arguments,
    ))
}

/// Puts an entry back onto a list, or frees it.
fn put(list: List, entry: Ptr<u8>) {
    list.with(|list| list.TotalFrees = list.TotalFrees.wrapping_add(1));
    if depth(list) < list.read().Depth {
        push(list, entry.cast());
        return;
    }
    list.with(|list| list.FreeMisses = list.FreeMisses.wrapping_add(1));
    let free = list.read().Free;
    if free == routine("ExFreePool") {
        pool_api::free(entry, 0);
    } else {
        shared::call_driver(Entry::Other, from_word(free), &[entry.addr()]);
    }
}

nt_api! { module = ex_lookaside;
    /// Initializes a lookaside list of non-paged pool; entries are allocated with ExAllocatePoolWithTag and freed with
    /// ExFreePool unless other routines are given.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExInitializeNPagedLookasideList(
        lookaside: Ptr<GENERAL_LOOKASIDE>, allocate: Ptr<u8>, free: Ptr<u8>, flags: ULong, size: Size, tag: Tag,
        depth: UShort,
    ) {
        let routines = Routines {
            allocate: or_default(allocate, "ExAllocatePoolWithTag"),
            free: or_default(free, "ExFreePool"),
        };
        initialize(lookaside, &routines, flags, size.0, tag.0);
    }

    /// As ExInitializeNPagedLookasideList, of paged pool.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExInitializePagedLookasideList(
        lookaside: Ptr<GENERAL_LOOKASIDE>, allocate: Ptr<u8>, free: Ptr<u8>, flags: ULong, size: Size, tag: Tag,
        depth: UShort,
    ) {
        let routines = Routines {
            allocate: or_default(allocate, "ExAllocatePoolWithTag"),
            free: or_default(free, "ExFreePool"),
        };
        initialize(lookaside, &routines, flags | 1, size.0, tag.0);
    }

    /// Frees the entries of a lookaside list and ends it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExDeleteNPagedLookasideList(lookaside: Ptr<GENERAL_LOOKASIDE>) {
        delete(lookaside, false);
    }

    /// Frees the entries of a lookaside list and ends it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExDeletePagedLookasideList(lookaside: Ptr<GENERAL_LOOKASIDE>) {
        delete(lookaside, false);
    }

    /// Takes an entry from a lookaside list (inline in newer kits).
    ntoskrnl i386 stdcall irql(APC_LEVEL) implemented
    fn ExAllocateFromPagedLookasideList(lookaside: Ptr<GENERAL_LOOKASIDE>) -> Ptr<u8> {
        take(lookaside)
    }

    /// Puts an entry back onto a lookaside list (inline in newer kits).
    ntoskrnl i386 stdcall irql(APC_LEVEL) implemented
    fn ExFreeToPagedLookasideList(lookaside: Ptr<GENERAL_LOOKASIDE>, entry: Ptr<u8>) {
        put(lookaside, entry);
    }

    /// Initializes a LOOKASIDE_LIST_EX, whose routines also get the list. INVALID_PARAMETER_4: no such pool type.
    /// INVALID_PARAMETER_5: flags that are not valid.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExInitializeLookasideListEx(
        lookaside: Ptr<GENERAL_LOOKASIDE>, allocate: Ptr<u8>, free: Ptr<u8>, pool_type: ULong, flags: ULong, size: Size,
        tag: Tag, depth: UShort,
    ) -> NtStatus {
        if pool_type & !POOL_TYPES != 0 {
            return NtStatus::INVALID_PARAMETER_4;
        }
        if flags > FAIL_NO_RAISE {
            return NtStatus::INVALID_PARAMETER_5;
        }
        let mut kind = pool_type;
        if flags == RAISE_ON_FAIL {
            kind |= RAISE;
        }
        if flags == FAIL_NO_RAISE {
            kind |= QUOTA_FAIL;
        }
        let routines = Routines {
            allocate: or_default(allocate, "ExpAllocateLookaside"),
            free: or_default(free, "ExpFreeLookaside"),
        };
        initialize(lookaside, &routines, kind, size.0, tag.0);
        NtStatus::SUCCESS
    }

    /// Frees the entries of a LOOKASIDE_LIST_EX and ends it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExDeleteLookasideListEx(lookaside: Ptr<GENERAL_LOOKASIDE>) {
        delete(lookaside, true);
    }

    /// Frees the entries of a LOOKASIDE_LIST_EX.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExFlushLookasideListEx(lookaside: Ptr<GENERAL_LOOKASIDE>) {
        flush(lookaside, true);
    }

    /// How a LOOKASIDE_LIST_EX without a routine of its own allocates. Not an export of NT's: the list holds its address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExpAllocateLookaside(pool_type: ULong, number_of_bytes: Size, tag: Tag, lookaside: Ptr<u8>) -> Ptr<u8> {
        pool_api::allocate(pool_type, number_of_bytes.0, tag.0)
    }

    /// How a LOOKASIDE_LIST_EX without a routine of its own frees. Not an export of NT's: the list holds its address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExpFreeLookaside(buffer: Ptr<u8>, lookaside: Ptr<u8>) {
        pool_api::free(buffer, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, machine};

    fn list() -> List {
        Ptr::new(api("ExAllocatePoolWithTag", &[0, 0x80, 1]))
    }

    #[test]
    fn entries_go_round_up_to_the_depth() {
        let _machine = machine();
        let list = list();
        ExInitializeNPagedLookasideList(list, Ptr::null(), Ptr::null(), 0, Size(48), Tag(9), 0);
        let fields = list.read();
        assert_eq!(
            (fields.Size, fields.Tag, fields.Type, fields.Depth),
            (48, 9, 0, 4)
        );
        let entries: Vec<_> = (0..6).map(|_| take(list)).collect();
        assert_eq!(pool::block_at(entries[0].addr()).unwrap().bytes, 48);
        entries.iter().for_each(|&entry| put(list, entry));
        assert_eq!(depth(list), 4);
        let fields = list.read();
        assert_eq!((fields.TotalAllocates, fields.AllocateMisses), (6, 6));
        assert_eq!((fields.TotalFrees, fields.FreeMisses), (6, 2));
        assert_eq!(take(list), entries[3], "last in, first out");
        put(list, entries[3]);
        ExDeleteNPagedLookasideList(list);
        assert_eq!(depth(list), 0);
        assert!(
            entries
                .iter()
                .all(|entry| pool::block_at(entry.addr()).is_none())
        );
    }

    #[test]
    fn extended_lists_check_type_and_flags() {
        let _machine = machine();
        let list = list();
        let initialize = |kind, flags| {
            ExInitializeLookasideListEx(
                list,
                Ptr::null(),
                Ptr::null(),
                kind,
                flags,
                Size(32),
                Tag(1),
                0,
            )
        };
        assert_eq!(initialize(0x40, 0), NtStatus::INVALID_PARAMETER_4);
        assert_eq!(initialize(0, 3), NtStatus::INVALID_PARAMETER_5);
        assert_eq!(initialize(0x200, 1), NtStatus::SUCCESS);
        assert_eq!(list.read().Type, 0x210);
        assert_eq!(list.read().Allocate, routine("ExpAllocateLookaside"));
        assert_eq!(forget_of(pool::SHIM), [list.addr()]);
    }
}
