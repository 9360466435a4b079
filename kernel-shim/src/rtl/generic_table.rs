//! RTL_GENERIC_TABLE: a table of the driver's elements in a splay tree, and in the order of their insertion.

use super::links::{Node, Side};
use super::splay::{RtlDelete, RtlSplay};
use crate::api::nt_api;
use crate::nt::{LIST_ENTRY, RTL_GENERIC_TABLE, RTL_SPLAY_LINKS};
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{Size, ULong};
use abi::trace::Entry;
use core::mem::offset_of;

/// Where a search ended; TABLE_SEARCH_RESULT by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    EmptyTree = 0,
    Node = 1,
    InsertAsLeft = 2,
    InsertAsRight = 3,
}

impl Found {
    pub(crate) fn of(number: u32) -> Self {
        match number {
            0 => Self::EmptyTree,
            1 => Self::Node,
            2 => Self::InsertAsLeft,
            _ => Self::InsertAsRight,
        }
    }

    /// The side of the parent that a new node goes to.
    pub(crate) fn side(self) -> Side {
        if self == Self::InsertAsLeft {
            Side::Left
        } else {
            Side::Right
        }
    }
}

/// GenericLessThan, GenericGreaterThan; anything else is equal.
const LESS: u32 = 0;
const GREATER: u32 = 1;

/// Calls a table's compare routine: -1, 0 or 1.
pub(crate) fn compare(table: u64, routine: Word, first: Ptr<u8>, second: Ptr<u8>) -> i32 {
    let arguments = [table, first.addr(), second.addr()];
    match low32(shared::call_driver(
        Entry::Other,
        from_word(routine),
        &arguments,
    )) {
        LESS => -1,
        GREATER => 1,
        _ => 0,
    }
}

/// Calls a table's allocation routine.
pub(crate) fn allocate(table: u64, routine: Word, bytes: u64) -> Ptr<u8> {
    let arguments = [table, u64::from(low32(bytes))];
    Ptr::new(shared::call_driver(
        Entry::Other,
        from_word(routine),
        &arguments,
    ))
}

/// Calls a table's routine that frees an element.
pub(crate) fn free(table: u64, routine: Word, element: u64) {
    shared::call_driver(Entry::Other, from_word(routine), &[table, element]);
}

/// Searches below `root` for an element; `header` bytes lie before each element.
pub(crate) fn search(
    table: u64,
    routine: Word,
    root: Node,
    header: u64,
    element: Ptr<u8>,
) -> (Found, Node) {
    let mut node = root;
    if node.is_null() {
        return (Found::EmptyTree, node);
    }
    loop {
        let side = match compare(table, routine, element, node.cast().add_bytes(header)) {
            ..0 => Side::Left,
            0 => return (Found::Node, node),
            _ => Side::Right,
        };
        let Some(child) = node.child(side).non_null() else {
            let found = match side {
                Side::Left => Found::InsertAsLeft,
                Side::Right => Found::InsertAsRight,
            };
            return (found, node);
        };
        node = child;
    }
}

/// TABLE_ENTRY_HEADER's bytes before the element: tree links, list entry; the element is aligned to 8.
const HEADER: u64 =
    (size_of::<RTL_SPLAY_LINKS>() + size_of::<LIST_ENTRY>()).next_multiple_of(8) as u64;

type Table = Ptr<RTL_GENERIC_TABLE>;

fn element(node: Node) -> Ptr<u8> {
    node.cast().add_bytes(HEADER)
}

fn list_entry(node: Node) -> Ptr<LIST_ENTRY> {
    node.cast().add_bytes(size_of::<RTL_SPLAY_LINKS>() as u64)
}

fn insert_list(table: Table) -> Ptr<LIST_ENTRY> {
    table
        .cast()
        .add_bytes(offset_of!(RTL_GENERIC_TABLE, InsertOrderList) as u64)
}

fn find(table: Table, buffer: Ptr<u8>) -> (Found, Node) {
    let fields = table.read();
    search(
        table.addr(),
        fields.CompareRoutine,
        fields.TableRoot,
        HEADER,
        buffer,
    )
}

/// Splays a node; returns its element.
fn to_top(table: Table, node: Node) -> Ptr<u8> {
    let root = RtlSplay(node);
    table.with(|table| table.TableRoot = root);
    element(node)
}

/// Inserts where a search ended, or finds.
fn insert(
    table: Table,
    buffer: Ptr<u8>,
    bytes: u32,
    is_new: Ptr<u8>,
    (found, place): (Found, Node),
) -> Ptr<u8> {
    let report = |value| {
        if !is_new.is_null() {
            is_new.write(value);
        }
    };
    if found == Found::Node {
        report(0);
        return to_top(table, place);
    }
    let routine = table.read().AllocateRoutine;
    let node: Node = allocate(table.addr(), routine, u64::from(bytes) + HEADER).cast();
    if node.is_null() {
        report(0);
        return Ptr::null();
    }
    node.write(RTL_SPLAY_LINKS {
        Parent: node,
        ..RTL_SPLAY_LINKS::default()
    });
    insert_list(table).list_insert_tail(list_entry(node));
    table.with(|table| table.NumberGenericTableElements += 1);
    if found != Found::EmptyTree {
        place.adopt(found.side(), node);
    }
    element(node).copy_from(buffer, u64::from(bytes));
    report(1);
    to_top(table, node)
}

nt_api! { module = rtl_generic_table;
    /// Makes an empty table.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitializeGenericTable(
        table: Ptr<RTL_GENERIC_TABLE>,
        compare_routine: Ptr<u8>,
        allocate_routine: Ptr<u8>,
        free_routine: Ptr<u8>,
        table_context: Size,
    ) {
        let list = insert_list(table);
        table.write(RTL_GENERIC_TABLE {
            TableRoot: Ptr::null(),
            InsertOrderList: LIST_ENTRY { Flink: list, Blink: list },
            OrderedPointer: list,
            WhichOrderedElement: 0,
            NumberGenericTableElements: 0,
            CompareRoutine: compare_routine.word(),
            AllocateRoutine: allocate_routine.word(),
            FreeRoutine: free_routine.word(),
            TableContext: to_word(table_context.0),
        });
    }

    /// Copies an element into the table, or finds the one that compares equal. Returns the element in the table; NULL if
    /// the allocation routine returned NULL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInsertElementGenericTable(
        table: Ptr<RTL_GENERIC_TABLE>, buffer: Ptr<u8>, buffer_size: ULong, new_element: Ptr<u8>,
    ) -> Ptr<u8> {
        insert(table, buffer, buffer_size, new_element, find(table, buffer))
    }

    /// As RtlInsertElementGenericTable, where RtlLookupElementGenericTableFull ended.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInsertElementGenericTableFull(
        table: Ptr<RTL_GENERIC_TABLE>,
        buffer: Ptr<u8>,
        buffer_size: ULong,
        new_element: Ptr<u8>,
        node_or_parent: Ptr<RTL_SPLAY_LINKS>,
        search_result: ULong,
    ) -> Ptr<u8> {
        insert(table, buffer, buffer_size, new_element, (Found::of(search_result), node_or_parent))
    }

    /// Deletes the element that compares equal; FALSE if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlDeleteElementGenericTable(table: Ptr<RTL_GENERIC_TABLE>, buffer: Ptr<u8>) -> bool {
        let (Found::Node, node) = find(table, buffer) else {
            return false;
        };
        let root = RtlDelete(node);
        list_entry(node).list_remove();
        table.with(|fields| {
            fields.TableRoot = root;
            fields.NumberGenericTableElements -= 1;
            fields.WhichOrderedElement = 0;
            fields.OrderedPointer = insert_list(table);
        });
        free(table.addr(), table.read().FreeRoutine, node.addr());
        true
    }

    /// The element that compares equal, which is splayed; NULL if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlLookupElementGenericTable(table: Ptr<RTL_GENERIC_TABLE>, buffer: Ptr<u8>) -> Ptr<u8> {
        match find(table, buffer) {
            (Found::Node, node) => to_top(table, node),
            _ => Ptr::null(),
        }
    }

    /// As RtlLookupElementGenericTable; also says where the search ended.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlLookupElementGenericTableFull(
        table: Ptr<RTL_GENERIC_TABLE>,
        buffer: Ptr<u8>,
        node_or_parent: Ptr<Ptr<RTL_SPLAY_LINKS>>,
        search_result: Ptr<u32>,
    ) -> Ptr<u8> {
        let (found, node) = find(table, buffer);
        node_or_parent.write(node);
        search_result.write(found as u32);
        if found == Found::Node { to_top(table, node) } else { Ptr::null() }
    }

    /// The first element in order (with `restart`), else the one behind the element found last, which is at the tree's
    /// root; NULL behind the last.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlEnumerateGenericTable(table: Ptr<RTL_GENERIC_TABLE>, restart: bool) -> Ptr<u8> {
        let root = table.read().TableRoot;
        if root.is_null() {
            return Ptr::null();
        }
        let node = if restart { root.end(Side::Left) } else { root.neighbour(Side::Right) };
        if node.is_null() { Ptr::null() } else { to_top(table, node) }
    }

    /// The element behind the one that the key stands for (NULL: the first), in order; the tree stays as it is.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlEnumerateGenericTableWithoutSplaying(
        table: Ptr<RTL_GENERIC_TABLE>, restart_key: Ptr<Ptr<RTL_SPLAY_LINKS>>,
    ) -> Ptr<u8> {
        let root = table.read().TableRoot;
        if root.is_null() {
            return Ptr::null();
        }
        let node = match restart_key.read().non_null() {
            None => root.end(Side::Left),
            Some(node) => node.neighbour(Side::Right),
        };
        if node.is_null() {
            return Ptr::null();
        }
        restart_key.write(node);
        element(node)
    }

    /// The element of a number, from 0, in the order of insertion; NULL if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlGetElementGenericTable(table: Ptr<RTL_GENERIC_TABLE>, number: ULong) -> Ptr<u8> {
        let fields = table.read();
        if number >= fields.NumberGenericTableElements {
            return Ptr::null();
        }
        let wanted = number + 1;
        let (mut at, mut entry) = match fields.WhichOrderedElement {
            last if last <= wanted => (last, fields.OrderedPointer),
            _ => (0, insert_list(table)),
        };
        while at < wanted {
            entry = entry.read().Flink;
            at += 1;
        }
        table.with(|fields| {
            fields.WhichOrderedElement = wanted;
            fields.OrderedPointer = entry;
        });
        element(entry.cast().sub_bytes(size_of::<RTL_SPLAY_LINKS>() as u64))
    }

    /// Number of elements.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlNumberGenericTableElements(table: Ptr<RTL_GENERIC_TABLE>) -> ULong {
        table.read().NumberGenericTableElements
    }

    /// Whether there are no elements.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlIsGenericTableEmpty(table: Ptr<RTL_GENERIC_TABLE>) -> bool {
        table.read().TableRoot.is_null()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_tables::{self, Key, key};
    use crate::test_platform::machine;

    #[test]
    fn elements_are_found_in_both_orders() {
        let _machine = machine();
        let mut storage = core::mem::MaybeUninit::<RTL_GENERIC_TABLE>::uninit();
        let table = Ptr::of(&mut storage).cast();
        let [compare, allocate, free] = test_tables::routines();
        RtlInitializeGenericTable(table, compare, allocate, free, Size(0x77));
        assert!(RtlIsGenericTableEmpty(table));
        let mut is_new = 9_u8;
        for number in [5, 3, 9, 1] {
            let place = RtlInsertElementGenericTable(
                table,
                key(&mut number.clone()),
                8,
                Ptr::of(&mut is_new),
            );
            assert_eq!((is_new, place.cast::<Key>().read()), (1, number));
        }
        RtlInsertElementGenericTable(table, key(&mut 3), 8, Ptr::of(&mut is_new));
        assert_eq!((is_new, RtlNumberGenericTableElements(table)), (0, 4));
        let inserted = |table| -> Vec<Key> {
            (0..)
                .map(|number| RtlGetElementGenericTable(table, number))
                .take_while(|place| !place.is_null())
                .map(|place| place.cast().read())
                .collect()
        };
        assert_eq!(inserted(table), [5, 3, 9, 1]);
        assert_eq!(RtlGetElementGenericTable(table, 1).cast::<Key>().read(), 3);
        let mut sorted = Vec::new();
        let mut place = RtlEnumerateGenericTable(table, true);
        while !place.is_null() {
            sorted.push(place.cast::<Key>().read());
            place = RtlEnumerateGenericTable(table, false);
        }
        assert_eq!(sorted, [1, 3, 5, 9]);
        assert!(RtlDeleteElementGenericTable(table, key(&mut 9)));
        assert!(!RtlDeleteElementGenericTable(table, key(&mut 9)));
        assert_eq!(inserted(table), [5, 3, 1]);
        let (mut node, mut found) = (Node::null(), 9);
        let full = RtlLookupElementGenericTableFull(
            table,
            key(&mut 4),
            Ptr::of(&mut node),
            Ptr::of(&mut found),
        );
        assert!(full.is_null() && found >= 2);
        RtlInsertElementGenericTableFull(table, key(&mut 4), 8, Ptr::null(), node, found);
        assert_eq!(
            RtlLookupElementGenericTable(table, key(&mut 4))
                .cast::<Key>()
                .read(),
            4
        );
        let (mut restart, mut sorted) = (Node::null(), Vec::new());
        while let Some(place) =
            RtlEnumerateGenericTableWithoutSplaying(table, Ptr::of(&mut restart)).non_null()
        {
            sorted.push(place.cast::<Key>().read());
        }
        assert_eq!(sorted, [1, 3, 4, 5]);
    }
}
