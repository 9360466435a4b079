//! Binary trees with parent links: what splay and AVL trees have in common.
//!
//! RTL_BALANCED_LINKS starts as RTL_SPLAY_LINKS does, and an AVL table's `BalancedRoot` is to its tree what a splay
//! tree's root is: its own parent, with the tree as its right child. So one set of functions serves both.

use crate::nt::RTL_SPLAY_LINKS;
use crate::raw::Ptr;

/// A node, or null.
pub(crate) type Node = Ptr<RTL_SPLAY_LINKS>;

/// A side of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl Ptr<RTL_SPLAY_LINKS> {
    pub(crate) fn parent(self) -> Node {
        self.read().Parent
    }

    /// Whether it is the root of a splay tree (or an AVL table's `BalancedRoot`).
    pub(crate) fn is_root(self) -> bool {
        self.parent() == self
    }

    pub(crate) fn child(self, side: Side) -> Node {
        match side {
            Side::Left => self.read().LeftChild,
            Side::Right => self.read().RightChild,
        }
    }

    /// The side of its parent that it is on.
    pub(crate) fn side(self) -> Side {
        if self.parent().child(Side::Left) == self {
            Side::Left
        } else {
            Side::Right
        }
    }

    /// Makes `child` (which may be null) the child on a side.
    pub(crate) fn adopt(self, side: Side, child: Node) {
        self.with(|links| match side {
            Side::Left => links.LeftChild = child,
            Side::Right => links.RightChild = child,
        });
        if !child.is_null() {
            child.with(|links| links.Parent = self);
        }
    }

    /// Puts `other` where this node is below its parent, or makes it the root.
    fn replace(self, other: Node) {
        if self.is_root() {
            other.with(|links| links.Parent = other);
        } else {
            self.parent().adopt(self.side(), other);
        }
    }

    /// Rotates it with its parent, which becomes its child.
    pub(crate) fn promote(self) {
        let (parent, side) = (self.parent(), self.side());
        let inner = self.child(side.other());
        parent.replace(self);
        parent.adopt(side, inner);
        self.adopt(side.other(), parent);
    }

    /// The last node of the chain of children on a side: the subtree's first or last node.
    pub(crate) fn end(self, side: Side) -> Node {
        let mut node = self;
        while let Some(next) = node.child(side).non_null() {
            node = next;
        }
        node
    }

    /// The nearest node on a side, in order, within its own subtree; null if there is none.
    pub(crate) fn neighbour_below(self, side: Side) -> Node {
        self.child(side)
            .non_null()
            .map_or(Node::null(), |child| child.end(side.other()))
    }

    /// The nearest node on a side, in order; null if there is none. (Below a `BalancedRoot`, that is what comes before
    /// the first node.)
    pub(crate) fn neighbour(self, side: Side) -> Node {
        let below = self.neighbour_below(side);
        if !below.is_null() {
            return below;
        }
        let mut node = self;
        while !node.is_root() && node.side() == side {
            node = node.parent();
        }
        if node.is_root() {
            Node::null()
        } else {
            node.parent()
        }
    }

    /// Exchanges the places of a node with two children and of the node before it, which has no right child.
    pub(crate) fn exchange(self, previous: Node) {
        let (here, there) = (self.read(), previous.read());
        let is_child = there.Parent == self;
        self.replace(previous);
        previous.adopt(Side::Right, here.RightChild);
        if is_child {
            previous.adopt(Side::Left, self);
        } else {
            previous.adopt(Side::Left, here.LeftChild);
            there.Parent.adopt(Side::Right, self);
        }
        self.adopt(Side::Left, there.LeftChild);
        self.adopt(Side::Right, Node::null());
    }

    /// Takes a node with at most one child out; the child takes its place. Returns the parent, and the child; null for
    /// those there are not.
    pub(crate) fn unlink(self) -> (Node, Node) {
        let left = self.child(Side::Left);
        let child = if left.is_null() {
            self.child(Side::Right)
        } else {
            left
        };
        if self.is_root() {
            if !child.is_null() {
                child.with(|links| links.Parent = child);
            }
            return (Node::null(), child);
        }
        let parent = self.parent();
        parent.adopt(self.side(), child);
        (parent, child)
    }
}
