//! Doubly and singly linked lists under a spin lock.

use super::interlocked::check_lock;
use crate::api::nt_api;
use crate::nt::{LIST_ENTRY, SINGLE_LIST_ENTRY};
use crate::raw::{Ptr, Word};

type List = Ptr<LIST_ENTRY>;
type Single = Ptr<SINGLE_LIST_ENTRY>;

/// The entry that was first, null for an empty list.
fn insert(head: List, entry: List, lock: Ptr<Word>, is_head: bool) -> List {
    check_lock(lock);
    let links = head.read();
    let neighbour = if is_head { links.Flink } else { links.Blink };
    if is_head {
        head.list_insert_head(entry);
    } else {
        head.list_insert_tail(entry);
    }
    if neighbour == head {
        Ptr::null()
    } else {
        neighbour
    }
}

fn remove(head: List, lock: Ptr<Word>) -> List {
    check_lock(lock);
    head.list_pop().unwrap_or_default()
}

fn push(head: Single, entry: Single, lock: Ptr<Word>) -> Single {
    check_lock(lock);
    let first = head.read().Next;
    entry.write(SINGLE_LIST_ENTRY { Next: first });
    head.write(SINGLE_LIST_ENTRY { Next: entry });
    first
}

fn pop(head: Single, lock: Ptr<Word>) -> Single {
    check_lock(lock);
    let first = head.read().Next;
    if !first.is_null() {
        head.write(first.read());
    }
    first
}

nt_api! { module = ex_interlocked_list;
    /// Inserts an entry as the first; returns the one that was first, null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedInsertHeadList(head: Ptr<LIST_ENTRY>, entry: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        insert(head, entry, lock, true)
    }

    /// Appends an entry; returns the one that was last, null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedInsertTailList(head: Ptr<LIST_ENTRY>, entry: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        insert(head, entry, lock, false)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedRemoveHeadList(head: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        remove(head, lock)
    }

    /// Inserts an entry as the first; returns the one that was first, null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedPushEntryList(
        head: Ptr<SINGLE_LIST_ENTRY>, entry: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<Word>,
    ) -> Ptr<SINGLE_LIST_ENTRY> {
        push(head, entry, lock)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInterlockedPopEntryList(head: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<SINGLE_LIST_ENTRY> {
        pop(head, lock)
    }

    /// Inserts an entry as the first; returns the one that was first, null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedInsertHeadList(head: Ptr<LIST_ENTRY>, entry: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        insert(head, entry, lock, true)
    }

    /// Appends an entry; returns the one that was last, null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedInsertTailList(head: Ptr<LIST_ENTRY>, entry: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        insert(head, entry, lock, false)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedRemoveHeadList(head: Ptr<LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<LIST_ENTRY> {
        remove(head, lock)
    }

    /// Inserts an entry as the first; returns the one that was first, null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedPushEntryList(
        head: Ptr<SINGLE_LIST_ENTRY>, entry: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<Word>,
    ) -> Ptr<SINGLE_LIST_ENTRY> {
        push(head, entry, lock)
    }

    /// Removes the first entry; null for an empty list.
    ntoskrnl i386 fastcall irql(ANY_LEVEL) implemented
    fn ExfInterlockedPopEntryList(head: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<Word>) -> Ptr<SINGLE_LIST_ENTRY> {
        pop(head, lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_returned_and_order_is_kept() {
        let empty = LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        };
        let mut memory = [empty; 4];
        let mut lock = 0;
        let lock = Ptr::of(&mut lock);
        let [head, first, second, third] = core::array::from_fn(|index| {
            Ptr::of(&mut memory[0]).offset(i64::try_from(index).unwrap())
        });
        head.list_initialize();
        assert!(ExInterlockedRemoveHeadList(head, lock).is_null());
        assert!(ExInterlockedInsertTailList(head, second, lock).is_null());
        assert_eq!(ExInterlockedInsertTailList(head, third, lock), second);
        assert_eq!(ExInterlockedInsertHeadList(head, first, lock), second);
        for entry in [first, second, third] {
            assert_eq!(ExInterlockedRemoveHeadList(head, lock), entry);
        }
        assert!(head.list_is_empty());
    }

    #[test]
    fn single_lists_are_stacks() {
        let mut memory = [SINGLE_LIST_ENTRY { Next: Ptr::null() }; 3];
        let mut lock = 0;
        let lock = Ptr::of(&mut lock);
        let head = Ptr::of(&mut memory[0]);
        let (first, second) = (head.offset(1), head.offset(2));
        assert!(ExInterlockedPopEntryList(head, lock).is_null());
        assert!(ExInterlockedPushEntryList(head, first, lock).is_null());
        assert_eq!(ExInterlockedPushEntryList(head, second, lock), first);
        assert_eq!(ExInterlockedPopEntryList(head, lock), second);
        assert_eq!(ExInterlockedPopEntryList(head, lock), first);
        assert!(ExInterlockedPopEntryList(head, lock).is_null());
    }
}
