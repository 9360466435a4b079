//! Splay trees: RTL_SPLAY_LINKS, which drivers put into structures of their own.

use super::links::{Node, Side};
use crate::api::nt_api;
use crate::nt::RTL_SPLAY_LINKS;
use crate::raw::Ptr;

/// Takes a node out of its tree without splaying. Returns the parent of the place that is empty now, and a child that
/// became the root; null for those there are not.
fn take_out(links: Node) -> (Node, Node) {
    if !links.child(Side::Left).is_null() && !links.child(Side::Right).is_null() {
        links.exchange(links.neighbour_below(Side::Left));
    }
    links.unlink()
}

nt_api! { module = rtl_splay;
    /// Makes a node the root of its tree by rotations that also shorten the way to its neighbours; returns it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSplay(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        while !links.is_root() {
            let parent = links.parent();
            if !parent.is_root() {
                if parent.side() == links.side() {
                    parent.promote();
                } else {
                    links.promote();
                }
            }
            links.promote();
        }
        links
    }

    /// Takes a node out of its tree and splays its parent. Returns the new root; NULL if the tree is empty.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlDelete(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        let (parent, new_root) = take_out(links);
        if parent.is_null() { new_root } else { RtlSplay(parent) }
    }

    /// Takes a node out of its tree, which stays as it is otherwise; updates the driver's pointer to the root.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlDeleteNoSplay(links: Ptr<RTL_SPLAY_LINKS>, root: Ptr<Ptr<RTL_SPLAY_LINKS>>) {
        let (parent, new_root) = take_out(links);
        let mut top = if parent.is_null() { new_root } else { parent };
        while !top.is_null() && !top.is_root() {
            top = top.parent();
        }
        root.write(top);
    }

    /// The next node in order within the node's own subtree; NULL if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSubtreeSuccessor(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        links.neighbour_below(Side::Right)
    }

    /// The node before it in order within its own subtree; NULL if there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSubtreePredecessor(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        links.neighbour_below(Side::Left)
    }

    /// The next node of the tree in order; NULL behind the last.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlRealSuccessor(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        links.neighbour(Side::Right)
    }

    /// The node before it in order; NULL before the first.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlRealPredecessor(links: Ptr<RTL_SPLAY_LINKS>) -> Ptr<RTL_SPLAY_LINKS> {
        links.neighbour(Side::Left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use proptest::prelude::*;

    /// Inserts node `index` of `nodes`, whose keys are their addresses.
    fn insert(root: Node, node: Node) {
        node.write(RTL_SPLAY_LINKS {
            Parent: node,
            ..RTL_SPLAY_LINKS::default()
        });
        let mut parent = root;
        while !parent.is_null() {
            let side = if node < parent {
                Side::Left
            } else {
                Side::Right
            };
            match parent.child(side).non_null() {
                Some(next) => parent = next,
                None => return parent.adopt(side, node),
            }
        }
    }

    fn in_order(root: Node) -> Vec<Node> {
        let mut list = Vec::new();
        let mut next = if root.is_null() {
            root
        } else {
            root.end(Side::Left)
        };
        while !next.is_null() {
            list.push(next);
            next = RtlRealSuccessor(next);
        }
        let mut back: Vec<Node> = Vec::new();
        let mut next = if root.is_null() {
            root
        } else {
            root.end(Side::Right)
        };
        while !next.is_null() {
            back.push(next);
            next = RtlRealPredecessor(next);
        }
        back.reverse();
        assert_eq!(list, back);
        list
    }

    proptest! {
        #[test]
        fn order_survives_splaying_and_deletion(steps in proptest::collection::vec((0..24_usize, 0..3_u8), 1..80)) {
            let mut nodes = vec![RTL_SPLAY_LINKS::default(); 24];
            let first = at(&mut nodes);
            let node = |index: usize| first.offset(index.cast_signed() as i64);
            let mut present = std::collections::BTreeSet::new();
            let mut root = Node::null();
            for (index, action) in steps {
                if present.insert(index) {
                    insert(root, node(index));
                    root = RtlSplay(node(index));
                    prop_assert!(root == node(index) && root.is_root());
                } else if action == 0 {
                    root = RtlSplay(node(index));
                } else {
                    present.remove(&index);
                    if action == 1 {
                        root = RtlDelete(node(index));
                    } else {
                        RtlDeleteNoSplay(node(index), Ptr::of(&mut root));
                    }
                }
                let expected: Vec<Node> = present.iter().map(|&index| node(index)).collect();
                prop_assert_eq!(in_order(root), expected);
            }
        }
    }
}
