//! Prefix tables: names, of which the one with the most components that a path begins with is wanted.
//!
//! The structures' tree fields are NT's own business; here a table is a list through `NextPrefixTree`.

use alloc::vec::Vec;

use super::ansi::ansi_string;
use crate::api::nt_api;
use crate::nt::{
    PREFIX_TABLE, PREFIX_TABLE_ENTRY, RTL_SPLAY_LINKS, STRING, UNICODE_PREFIX_TABLE,
    UNICODE_PREFIX_TABLE_ENTRY,
};
use crate::raw::{Ptr, low16, unicode_string};
use crate::rtl::codepage::upcase;
use crate::value::{AnsiStringPtr, ULong, UnicodeStringPtr};

/// PFX_NTC_TABLE, PFX_NTC_ROOT, and their UNICODE_ counterparts.
const TABLE: i16 = 0x200;
const ENTRY: i16 = 0x201;
const UNICODE_TABLE: i16 = 0x800;
const UNICODE_ENTRY: i16 = 0x801;

const SEPARATOR: u16 = b'\\' as u16;

/// An entry of either kind.
trait Entry: Copy {
    fn next(&self) -> Ptr<Self>;
    fn set_next(&mut self, next: Ptr<Self>);
    fn name(&self) -> Vec<u16>;
}

impl Entry for PREFIX_TABLE_ENTRY {
    fn next(&self) -> Ptr<Self> {
        self.NextPrefixTree
    }
    fn set_next(&mut self, next: Ptr<Self>) {
        self.NextPrefixTree = next;
    }
    fn name(&self) -> Vec<u16> {
        narrow(self.Prefix)
    }
}

impl Entry for UNICODE_PREFIX_TABLE_ENTRY {
    fn next(&self) -> Ptr<Self> {
        self.NextPrefixTree
    }
    fn set_next(&mut self, next: Ptr<Self>) {
        self.NextPrefixTree = next;
    }
    fn name(&self) -> Vec<u16> {
        unicode_string(self.Prefix)
    }
}

fn narrow(string: Ptr<STRING>) -> Vec<u16> {
    ansi_string(string).into_iter().map(u16::from).collect()
}

fn entries<E: Entry>(first: Ptr<E>) -> impl Iterator<Item = Ptr<E>> {
    core::iter::successors(first.non_null(), |entry| entry.read().next().non_null())
}

/// Number of components of a name.
fn components(name: &[u16]) -> i16 {
    let inner = name.strip_prefix(&[SEPARATOR]).unwrap_or(name);
    let separators = inner.iter().filter(|&&unit| unit == SEPARATOR).count();
    low16(separators as u64 + 1).cast_signed()
}

/// Whether a path begins with a name and goes on with another component, if at all. Units from `fold_from` on are the
/// same in either case.
fn is_prefix(name: &[u16], path: &[u16], fold_from: usize) -> bool {
    let Some(start) = path.get(..name.len()) else {
        return false;
    };
    let is_same = (0..)
        .zip(name.iter().zip(start))
        .all(|(index, (&a, &b))| a == b || (index >= fold_from && upcase(a) == upcase(b)));
    let is_whole = path.len() == name.len()
        || name.last() == Some(&SEPARATOR)
        || path[name.len()] == SEPARATOR;
    is_same && is_whole && !name.is_empty()
}

/// The entry with the longest name that is a prefix; an exact one before one that differs in case.
fn find<E: Entry>(first: Ptr<E>, path: &[u16], fold_from: usize) -> Ptr<E> {
    let mut best: Option<(Ptr<E>, (usize, bool))> = None;
    for entry in entries(first) {
        let name = entry.read().name();
        if is_prefix(&name, path, fold_from) {
            let rank = (name.len(), path.starts_with(&name));
            if best.is_none_or(|(_, other)| other < rank) {
                best = Some((entry, rank));
            }
        }
    }
    best.map_or(Ptr::null(), |(entry, _)| entry)
}

/// Takes an entry out of the list; returns the new first one.
fn remove<E: Entry>(first: Ptr<E>, wanted: Ptr<E>) -> Ptr<E> {
    let next = wanted.read().next();
    if first == wanted {
        return next;
    }
    if let Some(before) = entries(first).find(|entry| entry.read().next() == wanted) {
        before.with(|entry| entry.set_next(next));
    }
    first
}

nt_api! { module = rtl_prefix;
    /// Makes an empty table of names in Unicode.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlInitializeUnicodePrefix(table: Ptr<UNICODE_PREFIX_TABLE>) {
        table.write(UNICODE_PREFIX_TABLE {
            NodeTypeCode: UNICODE_TABLE,
            NameLength: 0,
            NextPrefixTree: Ptr::null(),
            LastNextEntry: Ptr::null(),
        });
    }

    /// Adds a name; FALSE if it is there already, in the same case. Entry and name stay the caller's memory.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlInsertUnicodePrefix(
        table: Ptr<UNICODE_PREFIX_TABLE>, prefix: UnicodeStringPtr, entry: Ptr<UNICODE_PREFIX_TABLE_ENTRY>,
    ) -> bool {
        let (name, first) = (unicode_string(prefix.0), table.read().NextPrefixTree);
        if entries(first).any(|other| other.read().name() == name) {
            return false;
        }
        entry.write(UNICODE_PREFIX_TABLE_ENTRY {
            NodeTypeCode: UNICODE_ENTRY,
            NameLength: components(&name),
            NextPrefixTree: first,
            CaseMatch: entry,
            Links: RTL_SPLAY_LINKS::default(),
            Prefix: prefix.0,
        });
        table.with(|table| {
            table.NextPrefixTree = entry;
            table.LastNextEntry = Ptr::null();
        });
        true
    }

    /// Takes an entry out of its table.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRemoveUnicodePrefix(table: Ptr<UNICODE_PREFIX_TABLE>, entry: Ptr<UNICODE_PREFIX_TABLE_ENTRY>) {
        let first = remove(table.read().NextPrefixTree, entry);
        table.with(|table| {
            table.NextPrefixTree = first;
            table.LastNextEntry = Ptr::null();
        });
    }

    /// The entry with the longest name that a path begins with, by whole components; NULL if there is none. Units from an
    /// index on are compared whatever their case.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlFindUnicodePrefix(
        table: Ptr<UNICODE_PREFIX_TABLE>, full_name: UnicodeStringPtr, case_insensitive_index: ULong,
    ) -> Ptr<UNICODE_PREFIX_TABLE_ENTRY> {
        find(table.read().NextPrefixTree, &unicode_string(full_name.0), case_insensitive_index as usize)
    }

    /// The first entry (with `restart`), else the one behind the entry returned last; NULL behind the last.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlNextUnicodePrefix(table: Ptr<UNICODE_PREFIX_TABLE>, restart: bool) -> Ptr<UNICODE_PREFIX_TABLE_ENTRY> {
        let fields = table.read();
        let next = match fields.LastNextEntry.non_null() {
            Some(last) if !restart => last.read().NextPrefixTree,
            _ => fields.NextPrefixTree,
        };
        if !next.is_null() {
            table.with(|table| table.LastNextEntry = next);
        }
        next
    }

    /// Makes an empty table of names in bytes.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PfxInitialize(table: Ptr<PREFIX_TABLE>) {
        table.write(PREFIX_TABLE { NodeTypeCode: TABLE, NameLength: 0, NextPrefixTree: Ptr::null() });
    }

    /// Adds a name; FALSE if it is there already. Entry and name stay the caller's memory.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PfxInsertPrefix(table: Ptr<PREFIX_TABLE>, prefix: AnsiStringPtr, entry: Ptr<PREFIX_TABLE_ENTRY>) -> bool {
        let (name, first) = (narrow(prefix.0), table.read().NextPrefixTree);
        if entries(first).any(|other| other.read().name() == name) {
            return false;
        }
        entry.write(PREFIX_TABLE_ENTRY {
            NodeTypeCode: ENTRY,
            NameLength: components(&name),
            NextPrefixTree: first,
            Links: RTL_SPLAY_LINKS::default(),
            Prefix: prefix.0,
        });
        table.with(|table| table.NextPrefixTree = entry);
        true
    }

    /// Takes an entry out of its table.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PfxRemovePrefix(table: Ptr<PREFIX_TABLE>, entry: Ptr<PREFIX_TABLE_ENTRY>) {
        let first = remove(table.read().NextPrefixTree, entry);
        table.with(|table| table.NextPrefixTree = first);
    }

    /// The entry with the longest name that a path begins with, by whole components; NULL if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PfxFindPrefix(table: Ptr<PREFIX_TABLE>, full_name: AnsiStringPtr) -> Ptr<PREFIX_TABLE_ENTRY> {
        find(table.read().NextPrefixTree, &narrow(full_name.0), usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    #[test]
    fn prefixes_end_with_components() {
        let is = |name: &str, path: &str, from| is_prefix(&units(name), &units(path), from);
        assert!(is("\\a\\b", "\\a\\b", 99) && is("\\a\\b", "\\a\\b\\c", 99));
        assert!(!is("\\a\\b", "\\a\\bc", 99) && !is("\\a\\b", "\\a", 99));
        assert!(is("\\", "\\anything", 99) && !is("\\", "x", 99));
        assert!(
            !is("\\A", "\\a", 99)
                && is("\\A", "\\a", 0)
                && is("\\A", "\\a", 1)
                && !is("\\A", "\\a", 2)
        );
        assert_eq!(
            ["\\", "\\a", "\\a\\b", "a\\b\\c"].map(|name| components(&units(name))),
            [1, 1, 2, 3]
        );
    }

    #[test]
    fn the_longest_prefix_is_found() {
        use crate::rtl::test_strings::wide;
        use crate::value::UnicodeStringPtr as U;
        let mut storage = core::mem::MaybeUninit::<UNICODE_PREFIX_TABLE>::uninit();
        let table: Ptr<UNICODE_PREFIX_TABLE> = Ptr::of(&mut storage).cast();
        let mut space = core::mem::MaybeUninit::<[UNICODE_PREFIX_TABLE_ENTRY; 3]>::uninit();
        let entry = |index| {
            Ptr::of(&mut space)
                .cast::<UNICODE_PREFIX_TABLE_ENTRY>()
                .offset(index)
        };
        let entries = [0, 1, 2].map({
            let mut entry = entry;
            move |index| entry(index)
        });
        let mut names = ["\\", "\\Dev", "\\Dev\\Sub"].map(|name| wide(name, 16));
        RtlInitializeUnicodePrefix(table);
        for (name, entry) in names.iter_mut().zip(entries) {
            assert!(RtlInsertUnicodePrefix(table, U(name.ptr()), entry));
            assert!(!RtlInsertUnicodePrefix(table, U(name.ptr()), entry));
        }
        let find = |path: &str, index| RtlFindUnicodePrefix(table, U(wide(path, 32).ptr()), index);
        assert_eq!(find("\\Dev\\Sub\\x", 99), entries[2]);
        assert_eq!(find("\\Dev\\Subx", 99), entries[1]);
        assert_eq!(find("\\dev\\x", 99), entries[0]);
        assert_eq!(find("\\dev\\x", 0), entries[1]);
        RtlRemoveUnicodePrefix(table, entries[1]);
        assert_eq!(find("\\Dev\\x", 99), entries[0]);
        assert_eq!(RtlNextUnicodePrefix(table, true), entries[2]);
        assert_eq!(RtlNextUnicodePrefix(table, false), entries[0]);
        assert!(RtlNextUnicodePrefix(table, false).is_null());
    }
}
