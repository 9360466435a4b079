//! Structures of the run-time library.

use super::{LIST_ENTRY, UNICODE_STRING};
use crate::raw::{Ptr, Word};

/// RTL_BITMAP.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RTL_BITMAP {
    /// Number of bits.
    pub SizeOfBitMap: u32,
    /// The bits, in ULONGs.
    pub Buffer: Ptr<u32>,
}

/// RTL_BITMAP_RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RTL_BITMAP_RUN {
    /// First bit.
    pub StartingIndex: u32,
    /// Number of bits.
    pub NumberOfBits: u32,
}

/// RTL_SPLAY_LINKS: a node of a splay tree. The root is its own parent.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RTL_SPLAY_LINKS {
    /// Parent; the node itself at the root.
    pub Parent: Ptr<RTL_SPLAY_LINKS>,
    /// Left child, or null.
    pub LeftChild: Ptr<RTL_SPLAY_LINKS>,
    /// Right child, or null.
    pub RightChild: Ptr<RTL_SPLAY_LINKS>,
}

/// RTL_GENERIC_TABLE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_GENERIC_TABLE {
    /// Root of the tree, or null.
    pub TableRoot: Ptr<RTL_SPLAY_LINKS>,
    /// Head of the list of elements in the order of their insertion.
    pub InsertOrderList: LIST_ENTRY,
    /// The element that RtlGetElementGenericTable found last.
    pub OrderedPointer: Ptr<LIST_ENTRY>,
    /// Its number, from 1; 0 for none.
    pub WhichOrderedElement: u32,
    /// Number of elements.
    pub NumberGenericTableElements: u32,
    /// Compares two elements.
    pub CompareRoutine: Word,
    /// Allocates an element.
    pub AllocateRoutine: Word,
    /// Frees an element.
    pub FreeRoutine: Word,
    /// The driver's.
    pub TableContext: Word,
}

/// RTL_BALANCED_LINKS: a node of an AVL tree.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RTL_BALANCED_LINKS {
    /// Parent; the table's `BalancedRoot` for the tree's root.
    pub Parent: Ptr<RTL_BALANCED_LINKS>,
    /// Left child, or null.
    pub LeftChild: Ptr<RTL_BALANCED_LINKS>,
    /// Right child, or null.
    pub RightChild: Ptr<RTL_BALANCED_LINKS>,
    /// Depth of the right subtree minus depth of the left one: -1, 0 or 1.
    pub Balance: i8,
    /// Not used.
    pub Reserved: [u8; 3],
}

/// RTL_AVL_TABLE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_AVL_TABLE {
    /// Parent of the tree's root, which is its right child; its own parent is itself.
    pub BalancedRoot: RTL_BALANCED_LINKS,
    /// The element that RtlGetElementGenericTableAvl found last.
    pub OrderedPointer: Ptr<RTL_BALANCED_LINKS>,
    /// Its number, from 1; 0 for none.
    pub WhichOrderedElement: u32,
    /// Number of elements.
    pub NumberGenericTableElements: u32,
    /// Number of levels.
    pub DepthOfTree: u32,
    /// The element that RtlEnumerateGenericTableAvl found last.
    pub RestartKey: Ptr<RTL_BALANCED_LINKS>,
    /// Number of deletions.
    pub DeleteCount: u32,
    /// Compares two elements.
    pub CompareRoutine: Word,
    /// Allocates an element.
    pub AllocateRoutine: Word,
    /// Frees an element.
    pub FreeRoutine: Word,
    /// The driver's.
    pub TableContext: Word,
}

/// PREFIX_TABLE_ENTRY.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PREFIX_TABLE_ENTRY {
    /// NTC_ node type.
    pub NodeTypeCode: i16,
    /// Number of components of the name.
    pub NameLength: i16,
    /// The next table of names, by number of components.
    pub NextPrefixTree: Ptr<PREFIX_TABLE_ENTRY>,
    /// The tree.
    pub Links: RTL_SPLAY_LINKS,
    /// The name (a STRING).
    pub Prefix: Ptr<super::STRING>,
}

/// PREFIX_TABLE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PREFIX_TABLE {
    /// NTC_ node type.
    pub NodeTypeCode: i16,
    /// Not used.
    pub NameLength: i16,
    /// The first tree.
    pub NextPrefixTree: Ptr<PREFIX_TABLE_ENTRY>,
}

/// UNICODE_PREFIX_TABLE_ENTRY.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UNICODE_PREFIX_TABLE_ENTRY {
    /// NTC_ node type.
    pub NodeTypeCode: i16,
    /// Number of components of the name.
    pub NameLength: i16,
    /// The next tree.
    pub NextPrefixTree: Ptr<UNICODE_PREFIX_TABLE_ENTRY>,
    /// The next entry whose name differs in case only.
    pub CaseMatch: Ptr<UNICODE_PREFIX_TABLE_ENTRY>,
    /// The tree.
    pub Links: RTL_SPLAY_LINKS,
    /// The name.
    pub Prefix: Ptr<UNICODE_STRING>,
}

/// UNICODE_PREFIX_TABLE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UNICODE_PREFIX_TABLE {
    /// NTC_ node type.
    pub NodeTypeCode: i16,
    /// Not used.
    pub NameLength: i16,
    /// The first tree.
    pub NextPrefixTree: Ptr<UNICODE_PREFIX_TABLE_ENTRY>,
    /// Where RtlNextUnicodePrefix goes on.
    pub LastNextEntry: Ptr<UNICODE_PREFIX_TABLE_ENTRY>,
}

/// GUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GUID {
    /// The first group.
    pub Data1: u32,
    /// The second.
    pub Data2: u16,
    /// The third.
    pub Data3: u16,
    /// The last two, byte by byte.
    pub Data4: [u8; 8],
}

const fn bytes(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = assert!(size_of::<RTL_BITMAP>() == bytes(8, 16));
const _: () = assert!(size_of::<RTL_SPLAY_LINKS>() == bytes(12, 24));
const _: () = assert!(size_of::<RTL_GENERIC_TABLE>() == bytes(40, 72));
const _: () = assert!(size_of::<RTL_BALANCED_LINKS>() == bytes(16, 32));
const _: () = assert!(size_of::<RTL_AVL_TABLE>() == bytes(56, 104));
const _: () = assert!(core::mem::offset_of!(RTL_AVL_TABLE, RestartKey) == bytes(32, 56));
const _: () = assert!(size_of::<PREFIX_TABLE_ENTRY>() == bytes(24, 48));
const _: () = assert!(size_of::<PREFIX_TABLE>() == bytes(8, 16));
const _: () = assert!(size_of::<UNICODE_PREFIX_TABLE_ENTRY>() == bytes(28, 56));
const _: () = assert!(size_of::<UNICODE_PREFIX_TABLE>() == bytes(12, 24));
const _: () = assert!(size_of::<GUID>() == 16);
