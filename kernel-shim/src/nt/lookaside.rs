//! GENERAL_LOOKASIDE: the head of NPAGED_LOOKASIDE_LIST, PAGED_LOOKASIDE_LIST and LOOKASIDE_LIST_EX.

use super::LIST_ENTRY;
use crate::raw::Word;
use core::mem::offset_of;

/// GENERAL_LOOKASIDE without the padding to a cache line, and on i386 without the obsolete lock behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GENERAL_LOOKASIDE {
    /// SLIST_HEADER.
    pub ListHead: [Word; 2],
    /// Entries that the list may hold now.
    pub Depth: u16,
    /// The most that `Depth` may become.
    pub MaximumDepth: u16,
    /// Calls of the allocating function.
    pub TotalAllocates: u32,
    /// Those that found the list empty.
    pub AllocateMisses: u32,
    /// Calls of the freeing function.
    pub TotalFrees: u32,
    /// Those that found the list full.
    pub FreeMisses: u32,
    /// POOL_TYPE.
    pub Type: u32,
    /// Pool tag.
    pub Tag: u32,
    /// Bytes of an entry.
    pub Size: u32,
    /// Allocating routine: (type, bytes, tag), and the list for a LOOKASIDE_LIST_EX.
    pub Allocate: Word,
    /// Freeing routine: (entry), and the list for a LOOKASIDE_LIST_EX.
    pub Free: Word,
    /// Links of all lists.
    pub ListEntry: LIST_ENTRY,
    /// For tuning the depth.
    pub LastTotalAllocates: u32,
    /// For tuning the depth.
    pub LastAllocateMisses: u32,
    /// Reserved.
    pub Future: [u32; 2],
}

const fn per_abi(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = {
    assert!(offset_of!(GENERAL_LOOKASIDE, Depth) == per_abi(0x08, 0x10));
    assert!(offset_of!(GENERAL_LOOKASIDE, Type) == per_abi(0x1C, 0x24));
    assert!(offset_of!(GENERAL_LOOKASIDE, Allocate) == per_abi(0x28, 0x30));
    assert!(offset_of!(GENERAL_LOOKASIDE, ListEntry) == per_abi(0x30, 0x40));
    assert!(offset_of!(GENERAL_LOOKASIDE, Future) == per_abi(0x40, 0x58));
    assert!(size_of::<GENERAL_LOOKASIDE>() == per_abi(0x48, 0x60));
};
