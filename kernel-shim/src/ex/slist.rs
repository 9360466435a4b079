//! Sequenced singly linked lists (SLIST_HEADER).
//!
//! i386: 8 bytes, the first entry's address, 16 bits of depth, 16 bits of sequence. amd64: 16 bytes, 16 bits of depth
//! and 48 of sequence, then the first entry's address with bit 0 set (HeaderType); header and entries lie on 16-byte
//! boundaries, and what does not is STATUS_DATATYPE_MISALIGNMENT. One processor and no preemption in shim code make the
//! operations atomic.

use crate::api::nt_api;
use crate::nt::{NtStatus, SINGLE_LIST_ENTRY};
#[cfg(not(nt_i386))]
use crate::raw::low16;
use crate::raw::{Ptr, Word};
use crate::rtl::raise_status;
use crate::value::UShort;

/// SLIST_HEADER.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SLIST_HEADER {
    #[cfg(not(nt_i386))]
    depth_and_sequence: u64,
    #[cfg(not(nt_i386))]
    first: u64,
    #[cfg(nt_i386)]
    first: u32,
    #[cfg(nt_i386)]
    depth: u16,
    #[cfg(nt_i386)]
    sequence: u16,
}

const _: () = assert!(size_of::<SLIST_HEADER>() == if cfg!(nt_i386) { 8 } else { 16 });

/// What addresses are multiples of.
const ALIGNMENT: u64 = if cfg!(nt_i386) { 1 } else { 16 };
/// Bits of the first entry's word that are not its address.
const MARKS: Word = if cfg!(nt_i386) { 0 } else { 15 };
/// HeaderType: the header is a 16-byte one.
const HEADER_TYPE: Word = if cfg!(nt_i386) { 0 } else { 1 };

type Entry = Ptr<SINGLE_LIST_ENTRY>;

impl SLIST_HEADER {
    /// Number of entries, modulo 65536.
    #[must_use]
    pub fn depth(&self) -> u16 {
        #[cfg(not(nt_i386))]
        return low16(self.depth_and_sequence);
        #[cfg(nt_i386)]
        return self.depth;
    }

    /// The first entry; null for an empty list.
    #[must_use]
    pub fn first(&self) -> Entry {
        Ptr::new(crate::raw::from_word(self.first & !MARKS))
    }

    /// Sets depth and first entry. The sequence number goes up.
    fn set(&mut self, depth: u16, first: Entry) {
        self.first = first.word() | HEADER_TYPE;
        #[cfg(not(nt_i386))]
        {
            let sequence = (self.depth_and_sequence >> 16).wrapping_add(1);
            self.depth_and_sequence = sequence << 16 | u64::from(depth);
        }
        #[cfg(nt_i386)]
        {
            self.depth = depth;
            self.sequence = self.sequence.wrapping_add(1);
        }
    }
}

/// Raises STATUS_DATATYPE_MISALIGNMENT, as NT does, for what does not lie on the list's boundary.
fn check_alignment(address: u64) {
    if !address.is_multiple_of(ALIGNMENT) {
        raise_status(NtStatus::DATATYPE_MISALIGNMENT);
    }
}

/// Makes a list empty.
pub fn initialize(list: Ptr<SLIST_HEADER>) {
    check_alignment(list.addr());
    list.write(SLIST_HEADER::default());
}

/// Inserts an entry as the first; returns the one that was first.
pub fn push(list: Ptr<SLIST_HEADER>, entry: Entry) -> Entry {
    check_alignment(entry.addr());
    let first = list.read().first();
    entry.write(SINGLE_LIST_ENTRY { Next: first });
    list.with(|list| list.set(list.depth().wrapping_add(1), entry));
    first
}

/// Removes the first entry; null for an empty list.
pub fn pop(list: Ptr<SLIST_HEADER>) -> Entry {
    let first = list.read().first();
    if !first.is_null() {
        let next = first.read().Next;
        list.with(|list| list.set(list.depth().wrapping_sub(1), next));
    }
    first
}

/// Removes all entries; returns the chain of them.
pub fn flush(list: Ptr<SLIST_HEADER>) -> Entry {
    let first = list.read().first();
    if !first.is_null() {
        list.with(|list| list.set(0, Ptr::null()));
    }
    first
}

nt_api! { module = ex_slist;
    /// Makes a list empty.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInitializeSListHead(list: Ptr<SLIST_HEADER>) {
        initialize(list);
    }

    /// Makes a list empty.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn InitializeSListHead(list: Ptr<SLIST_HEADER>) {
        initialize(list);
    }

    /// Makes a list empty.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlInitializeSListHead(list: Ptr<SLIST_HEADER>) {
        initialize(list);
    }

    /// Inserts an entry as the first; returns the one that was first. The lock is not used.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExInterlockedPushEntrySList(
        list: Ptr<SLIST_HEADER>, entry: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<Word>,
    ) -> Ptr<SINGLE_LIST_ENTRY> {
        push(list, entry)
    }

    /// Removes the first entry; null for an empty list. The lock is not used.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExInterlockedPopEntrySList(list: Ptr<SLIST_HEADER>, lock: Ptr<Word>) -> Ptr<SINGLE_LIST_ENTRY> {
        pop(list)
    }

    /// Removes all entries; returns the first, which links to the others.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExInterlockedFlushSList(list: Ptr<SLIST_HEADER>) -> Ptr<SINGLE_LIST_ENTRY> {
        flush(list)
    }

    /// Inserts an entry as the first; returns the one that was first.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedPushEntrySList(list: Ptr<SLIST_HEADER>, entry: Ptr<SINGLE_LIST_ENTRY>) -> Ptr<SINGLE_LIST_ENTRY> {
        push(list, entry)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn InterlockedPopEntrySList(list: Ptr<SLIST_HEADER>) -> Ptr<SINGLE_LIST_ENTRY> {
        pop(list)
    }

    /// Inserts an entry as the first; returns the one that was first.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn ExpInterlockedPushEntrySList(list: Ptr<SLIST_HEADER>, entry: Ptr<SINGLE_LIST_ENTRY>) -> Ptr<SINGLE_LIST_ENTRY> {
        push(list, entry)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn ExpInterlockedPopEntrySList(list: Ptr<SLIST_HEADER>) -> Ptr<SINGLE_LIST_ENTRY> {
        pop(list)
    }

    /// Removes all entries; returns the first, which links to the others.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn ExpInterlockedFlushSList(list: Ptr<SLIST_HEADER>) -> Ptr<SINGLE_LIST_ENTRY> {
        flush(list)
    }

    /// The first entry, which stays in the list; null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFirstEntrySList(list: Ptr<SLIST_HEADER>) -> Ptr<SINGLE_LIST_ENTRY> {
        list.read().first()
    }

    /// Number of entries, modulo 65536.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExQueryDepthSList(list: Ptr<SLIST_HEADER>) -> UShort {
        list.read().depth()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{crash_of, machine};

    #[repr(align(16))]
    struct Aligned([u64; 8]);

    #[test]
    fn a_list_is_a_stack_with_a_depth() {
        let _machine = machine();
        let mut memory = Aligned([u64::MAX; 8]);
        let list = Ptr::of(&mut memory.0[0]).cast::<SLIST_HEADER>();
        let (first, second) = (list.add_bytes(16).cast(), list.add_bytes(32).cast());
        initialize(list);
        assert!(pop(list).is_null() && list.read().first().is_null());
        assert!(push(list, first).is_null());
        assert_eq!(push(list, second), first);
        assert_eq!(
            (ExQueryDepthSList(list), RtlFirstEntrySList(list)),
            (2, second)
        );
        assert_eq!(pop(list), second);
        assert!(push(list, second) == first && flush(list) == second);
        assert_eq!(
            (second.read().Next, first.read().Next),
            (first, Ptr::null())
        );
        assert_eq!(ExQueryDepthSList(list), 0);
        assert!(flush(list).is_null());
        let crash = crash_of(|| {
            push(list, first.add_bytes(8));
        });
        assert_eq!(crash.parameters[0], 0x8000_0002);
    }
}
