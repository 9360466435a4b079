//! RTL_AVL_TABLE: a table of the driver's elements in a balanced tree.
//!
//! The tree is as Knuth has it (The Art of Computer Programming, volume 3, 6.2.3): the depths of a node's two subtrees
//! differ by at most 1.

use super::generic_table::{Found, allocate, free, search};
use super::links::{Node, Side};
use crate::api::nt_api;
use crate::nt::{NtStatus, RTL_AVL_TABLE, RTL_BALANCED_LINKS};
use crate::raw::{Ptr, low32, to_word};
use crate::shared;
use crate::value::{Size, ULong};
use abi::trace::Entry;

/// Bytes before the element.
const HEADER: u64 = size_of::<RTL_BALANCED_LINKS>() as u64;

type Table = Ptr<RTL_AVL_TABLE>;
type Links = Ptr<RTL_BALANCED_LINKS>;

fn element(node: Node) -> Ptr<u8> {
    node.cast().add_bytes(HEADER)
}

/// The table's `BalancedRoot`, which is its first field.
fn top(table: Table) -> Node {
    table.cast()
}

fn root(table: Table) -> Node {
    top(table).child(Side::Right)
}

fn balance(node: Node) -> i8 {
    node.cast::<RTL_BALANCED_LINKS>().read().Balance
}

fn set_balance(node: Node, balance: i8) {
    node.cast::<RTL_BALANCED_LINKS>()
        .with(|links| links.Balance = balance);
}

fn sign(side: Side) -> i8 {
    match side {
        Side::Left => -1,
        Side::Right => 1,
    }
}

/// Repairs a node whose subtree on `heavy` is 2 levels deeper than the other one. Returns the subtree's new root, and
/// whether the subtree has one level less than before.
fn rotate(node: Node, heavy: Side) -> (Node, bool) {
    let (sign, child) = (sign(heavy), node.child(heavy));
    if balance(child) == -sign {
        let inner = child.child(heavy.other());
        inner.promote();
        inner.promote();
        let was = balance(inner);
        set_balance(node, if was == sign { -sign } else { 0 });
        set_balance(child, if was == -sign { sign } else { 0 });
        set_balance(inner, 0);
        return (inner, true);
    }
    child.promote();
    let shrank = balance(child) == sign;
    set_balance(node, if shrank { 0 } else { sign });
    set_balance(child, if shrank { 0 } else { -sign });
    (child, shrank)
}

/// Links a new node below `parent` and balances the tree.
fn link(table: Table, node: Node, parent: Node, side: Side) {
    parent.adopt(side, node);
    let mut child = node;
    while child.parent() != top(table) {
        let (parent, side) = (child.parent(), child.side());
        let new = balance(parent) + sign(side);
        if new.abs() == 2 {
            rotate(parent, side);
            return;
        }
        set_balance(parent, new);
        if new == 0 {
            return;
        }
        child = parent;
    }
    table.with(|table| table.DepthOfTree += 1);
}

/// Takes a node out and balances the tree.
fn unlink(table: Table, node: Node) {
    if !node.child(Side::Left).is_null() && !node.child(Side::Right).is_null() {
        let previous = node.neighbour_below(Side::Left);
        let (here, there) = (balance(node), balance(previous));
        node.exchange(previous);
        set_balance(previous, here);
        set_balance(node, there);
    }
    let mut side = node.side();
    let (mut parent, _) = node.unlink();
    while parent != top(table) {
        let mut subtree = parent;
        let new = balance(parent) - sign(side);
        if new.abs() == 2 {
            let shrank;
            (subtree, shrank) = rotate(parent, side.other());
            if !shrank {
                return;
            }
        } else {
            set_balance(parent, new);
            if new != 0 {
                return;
            }
        }
        side = subtree.side();
        parent = subtree.parent();
    }
    table.with(|table| table.DepthOfTree -= 1);
}

fn find(table: Table, buffer: Ptr<u8>) -> (Found, Node) {
    search(
        table.addr(),
        table.read().CompareRoutine,
        root(table),
        HEADER,
        buffer,
    )
}

/// The node behind a node; null behind the last.
fn next(node: Node) -> Node {
    node.neighbour(Side::Right)
}

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
        return element(place);
    }
    let node: Node = allocate(
        table.addr(),
        table.read().AllocateRoutine,
        u64::from(bytes) + HEADER,
    )
    .cast();
    if node.is_null() {
        report(0);
        return Ptr::null();
    }
    node.cast().write(RTL_BALANCED_LINKS::default());
    if found == Found::EmptyTree {
        link(table, node, top(table), Side::Right);
    } else {
        link(table, node, place, found.side());
    }
    table.with(|table| {
        table.NumberGenericTableElements += 1;
        table.WhichOrderedElement = 0;
        table.OrderedPointer = Ptr::null();
    });
    element(node).copy_from(buffer, u64::from(bytes));
    report(1);
    element(node)
}

/// Deletes a node. An enumeration that stands on it goes on behind it.
fn delete(table: Table, node: Node) {
    if table.read().RestartKey.cast() == node {
        let previous = node.neighbour(Side::Left);
        let key = if previous == top(table) {
            Ptr::null()
        } else {
            previous.cast()
        };
        table.with(|table| table.RestartKey = key);
    }
    unlink(table, node);
    table.with(|table| {
        table.NumberGenericTableElements -= 1;
        table.DeleteCount = table.DeleteCount.wrapping_add(1);
        table.WhichOrderedElement = 0;
        table.OrderedPointer = Ptr::null();
    });
    free(table.addr(), table.read().FreeRoutine, node.addr());
}

nt_api! { module = rtl_avl_table;
    /// Makes an empty table.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInitializeGenericTableAvl(
        table: Ptr<RTL_AVL_TABLE>,
        compare_routine: Ptr<u8>,
        allocate_routine: Ptr<u8>,
        free_routine: Ptr<u8>,
        table_context: Size,
    ) {
        table.write(RTL_AVL_TABLE {
            BalancedRoot: RTL_BALANCED_LINKS { Parent: table.cast(), ..RTL_BALANCED_LINKS::default() },
            OrderedPointer: Ptr::null(),
            WhichOrderedElement: 0,
            NumberGenericTableElements: 0,
            DepthOfTree: 0,
            RestartKey: Ptr::null(),
            DeleteCount: 0,
            CompareRoutine: compare_routine.word(),
            AllocateRoutine: allocate_routine.word(),
            FreeRoutine: free_routine.word(),
            TableContext: to_word(table_context.0),
        });
    }

    /// Copies an element into the table, or finds the one that compares equal. Returns the element in the table; NULL if
    /// the allocation routine returned NULL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInsertElementGenericTableAvl(
        table: Ptr<RTL_AVL_TABLE>, buffer: Ptr<u8>, buffer_size: ULong, new_element: Ptr<u8>,
    ) -> Ptr<u8> {
        insert(table, buffer, buffer_size, new_element, find(table, buffer))
    }

    /// As RtlInsertElementGenericTableAvl, where RtlLookupElementGenericTableFullAvl ended.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlInsertElementGenericTableFullAvl(
        table: Ptr<RTL_AVL_TABLE>,
        buffer: Ptr<u8>,
        buffer_size: ULong,
        new_element: Ptr<u8>,
        node_or_parent: Ptr<RTL_BALANCED_LINKS>,
        search_result: ULong,
    ) -> Ptr<u8> {
        insert(table, buffer, buffer_size, new_element, (Found::of(search_result), node_or_parent.cast()))
    }

    /// Deletes the element that compares equal; FALSE if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlDeleteElementGenericTableAvl(table: Ptr<RTL_AVL_TABLE>, buffer: Ptr<u8>) -> bool {
        let (Found::Node, node) = find(table, buffer) else {
            return false;
        };
        delete(table, node);
        true
    }

    /// Deletes the element of a node that RtlLookupElementGenericTableFullAvl found.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlDeleteElementGenericTableAvlEx(table: Ptr<RTL_AVL_TABLE>, node_or_parent: Ptr<RTL_BALANCED_LINKS>) {
        delete(table, node_or_parent.cast());
    }

    /// The element that compares equal; NULL if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlLookupElementGenericTableAvl(table: Ptr<RTL_AVL_TABLE>, buffer: Ptr<u8>) -> Ptr<u8> {
        match find(table, buffer) {
            (Found::Node, node) => element(node),
            _ => Ptr::null(),
        }
    }

    /// As RtlLookupElementGenericTableAvl; also says where the search ended.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlLookupElementGenericTableFullAvl(
        table: Ptr<RTL_AVL_TABLE>,
        buffer: Ptr<u8>,
        node_or_parent: Ptr<Ptr<RTL_BALANCED_LINKS>>,
        search_result: Ptr<u32>,
    ) -> Ptr<u8> {
        let (found, node) = find(table, buffer);
        node_or_parent.write(node.cast());
        search_result.write(found as u32);
        if found == Found::Node { element(node) } else { Ptr::null() }
    }

    /// The first, in order, of the elements that compare equal; its key for the enumeration is stored.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlLookupFirstMatchingElementGenericTableAvl(
        table: Ptr<RTL_AVL_TABLE>, buffer: Ptr<u8>, restart_key: Ptr<Ptr<RTL_BALANCED_LINKS>>,
    ) -> Ptr<u8> {
        let (Found::Node, mut node) = find(table, buffer) else {
            restart_key.write(Ptr::null());
            return Ptr::null();
        };
        let routine = table.read().CompareRoutine;
        loop {
            let previous = node.neighbour(Side::Left);
            let is_first = previous.is_null()
                || previous == top(table)
                || super::generic_table::compare(table.addr(), routine, buffer, element(previous)) != 0;
            if is_first {
                break;
            }
            node = previous;
        }
        restart_key.write(node.cast());
        element(node)
    }

    /// The first element in order (with `restart`), else the one behind the element found last; NULL behind the last.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlEnumerateGenericTableAvl(table: Ptr<RTL_AVL_TABLE>, restart: bool) -> Ptr<u8> {
        let mut key = if restart { Links::null() } else { table.read().RestartKey };
        let found = enumerate(table, &mut key);
        table.with(|table| table.RestartKey = key);
        found
    }

    /// The element behind the one that the key stands for (NULL: the first), in order.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlEnumerateGenericTableWithoutSplayingAvl(
        table: Ptr<RTL_AVL_TABLE>, restart_key: Ptr<Ptr<RTL_BALANCED_LINKS>>,
    ) -> Ptr<u8> {
        let mut key = restart_key.read();
        let found = enumerate(table, &mut key);
        restart_key.write(key);
        found
    }

    /// The first element from a place on that a routine of the driver accepts. The place is what the restart key stands
    /// for, or, if that is NULL or something was deleted since, where `buffer` is or would be; with `next_flag`, an
    /// element there itself is passed over. The routine says STATUS_SUCCESS, STATUS_NO_MATCH or STATUS_NO_MORE_MATCHES.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlEnumerateGenericTableLikeADirectory(
        table: Ptr<RTL_AVL_TABLE>,
        match_function: Ptr<u8>,
        match_data: Ptr<u8>,
        next_flag: ULong,
        restart_key: Ptr<Ptr<RTL_BALANCED_LINKS>>,
        delete_count: Ptr<u32>,
        buffer: Ptr<u8>,
    ) -> Ptr<u8> {
        let deletions = table.read().DeleteCount;
        let key = if delete_count.read() == deletions { restart_key.read() } else { Ptr::null() };
        let mut node = match key.non_null() {
            Some(key) if next_flag != 0 => next(key.cast()),
            Some(key) => key.cast(),
            None => match find(table, buffer) {
                (Found::EmptyTree, _) => Node::null(),
                (Found::Node, node) if next_flag == 0 => node,
                (Found::InsertAsLeft, node) => node,
                (_, node) => next(node),
            },
        };
        while !node.is_null() && !match_function.is_null() {
            let arguments = [table.addr(), element(node).addr(), match_data.addr()];
            let status = NtStatus(low32(shared::call_driver(Entry::Other, match_function.addr(), &arguments)));
            match status {
                NtStatus::SUCCESS => break,
                NtStatus::NO_MORE_MATCHES => node = Node::null(),
                _ => node = next(node),
            }
        }
        restart_key.write(node.cast());
        delete_count.write(table.read().DeleteCount);
        if node.is_null() { Ptr::null() } else { element(node) }
    }

    /// The element of a number, from 0, in order; NULL if there is none.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlGetElementGenericTableAvl(table: Ptr<RTL_AVL_TABLE>, number: ULong) -> Ptr<u8> {
        let fields = table.read();
        if number >= fields.NumberGenericTableElements {
            return Ptr::null();
        }
        let wanted = number + 1;
        let (mut at, mut node) = match fields.WhichOrderedElement {
            last if last != 0 && last <= wanted => (last, fields.OrderedPointer.cast()),
            _ => (1, root(table).end(Side::Left)),
        };
        while at < wanted {
            node = next(node);
            at += 1;
        }
        table.with(|fields| {
            fields.WhichOrderedElement = wanted;
            fields.OrderedPointer = node.cast();
        });
        element(node)
    }

    /// Number of elements.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlNumberGenericTableElementsAvl(table: Ptr<RTL_AVL_TABLE>) -> ULong {
        table.read().NumberGenericTableElements
    }

    /// Whether there are no elements.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlIsGenericTableEmptyAvl(table: Ptr<RTL_AVL_TABLE>) -> bool {
        table.read().NumberGenericTableElements == 0
    }
}

/// The element behind a key, which moves there; behind the last, the key stays.
fn enumerate(table: Table, key: &mut Links) -> Ptr<u8> {
    let root = root(table);
    if root.is_null() {
        return Ptr::null();
    }
    let node = match key.non_null() {
        None => root.end(Side::Left),
        Some(key) => next(key.cast()),
    };
    if node.is_null() {
        return Ptr::null();
    }
    *key = node.cast();
    element(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_tables::{self, Key, key};
    use crate::test_platform::machine;
    use proptest::prelude::*;

    /// Depth of a subtree, after checking its balance and parents.
    fn depth(node: Node) -> u32 {
        if node.is_null() {
            return 0;
        }
        let [left, right] = [Side::Left, Side::Right].map(|side| {
            let child = node.child(side);
            assert!(child.is_null() || child.parent() == node);
            depth(child)
        });
        assert_eq!(i64::from(balance(node)), i64::from(right) - i64::from(left));
        left.max(right) + 1
    }

    fn with_table(run: impl FnOnce(Table)) {
        let _machine = machine();
        let mut storage = core::mem::MaybeUninit::<RTL_AVL_TABLE>::uninit();
        let table = Ptr::of(&mut storage).cast();
        let [compare, allocate, free] = test_tables::routines();
        RtlInitializeGenericTableAvl(table, compare, allocate, free, Size(0));
        run(table);
    }

    fn keys(table: Table) -> Vec<Key> {
        let (mut restart, mut all) = (Ptr::null(), Vec::new());
        while let Some(place) =
            RtlEnumerateGenericTableWithoutSplayingAvl(table, Ptr::of(&mut restart)).non_null()
        {
            all.push(place.cast().read());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_tree_stays_sorted_and_balanced(steps in proptest::collection::vec(0..64_u64, 1..200)) {
            with_table(|table| {
                let mut model = std::collections::BTreeSet::new();
                for step in steps {
                    if model.insert(step) {
                        RtlInsertElementGenericTableAvl(table, key(&mut step.clone()), 8, Ptr::null());
                    } else {
                        model.remove(&step);
                        assert!(RtlDeleteElementGenericTableAvl(table, key(&mut step.clone())));
                    }
                    assert_eq!(depth(root(table)), table.read().DepthOfTree);
                }
                assert_eq!(keys(table), model.iter().copied().collect::<Vec<_>>());
                for (number, expected) in (0..).zip(&model) {
                    assert_eq!(RtlGetElementGenericTableAvl(table, number).cast::<Key>().read(), *expected);
                }
            });
        }
    }

    #[test]
    fn an_enumeration_survives_deletion() {
        with_table(|table| {
            for number in [1, 2, 3, 4] {
                RtlInsertElementGenericTableAvl(table, key(&mut number.clone()), 8, Ptr::null());
            }
            let value = |place: Ptr<u8>| place.cast::<Key>().read();
            assert_eq!(value(RtlEnumerateGenericTableAvl(table, true)), 1);
            assert_eq!(value(RtlEnumerateGenericTableAvl(table, false)), 2);
            assert!(RtlDeleteElementGenericTableAvl(table, key(&mut 2)));
            assert_eq!(value(RtlEnumerateGenericTableAvl(table, false)), 3);
            assert_eq!(value(RtlEnumerateGenericTableAvl(table, true)), 1);
            assert!(RtlDeleteElementGenericTableAvl(table, key(&mut 1)));
            assert_eq!(value(RtlEnumerateGenericTableAvl(table, false)), 3);
        });
    }

    #[test]
    fn a_directory_goes_on_where_it_was() {
        with_table(|table| {
            for number in [10, 20, 30] {
                RtlInsertElementGenericTableAvl(table, key(&mut number.clone()), 8, Ptr::null());
            }
            let (mut restart, mut deletions) = (Ptr::null(), 0);
            let mut list = |flag, mut from: Key| {
                let place = RtlEnumerateGenericTableLikeADirectory(
                    table,
                    Ptr::null(),
                    Ptr::null(),
                    flag,
                    Ptr::of(&mut restart),
                    Ptr::of(&mut deletions),
                    key(&mut from),
                );
                if place.is_null() {
                    0
                } else {
                    place.cast::<Key>().read()
                }
            };
            assert_eq!(list(1, 15), 20, "the first behind a key that is not there");
            assert_eq!(list(1, 0), 30, "behind the restart key");
            assert_eq!(list(1, 0), 0);
            assert_eq!(list(0, 20), 20);
            assert!(RtlDeleteElementGenericTableAvl(table, key(&mut 20)));
            assert_eq!(list(1, 20), 30, "the key is found again after a deletion");
        });
    }
}
