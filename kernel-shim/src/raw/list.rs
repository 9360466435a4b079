//! NT's doubly linked lists.

use super::Ptr;
use crate::nt::LIST_ENTRY;

/// The address of a list's head.
pub type ListHead = Ptr<LIST_ENTRY>;

impl Ptr<LIST_ENTRY> {
    /// Makes it an empty list (InitializeListHead).
    pub fn list_initialize(self) {
        self.write(LIST_ENTRY {
            Flink: self,
            Blink: self,
        });
    }

    /// Whether the list is empty (IsListEmpty).
    #[must_use]
    pub fn list_is_empty(self) -> bool {
        self.read().Flink == self
    }

    /// Appends `entry` (InsertTailList).
    pub fn list_insert_tail(self, entry: Self) {
        let last = self.read().Blink;
        entry.write(LIST_ENTRY {
            Flink: self,
            Blink: last,
        });
        last.with(|links| links.Flink = entry);
        self.with(|links| links.Blink = entry);
    }

    /// Inserts `entry` as the first (InsertHeadList).
    pub fn list_insert_head(self, entry: Self) {
        let first = self.read().Flink;
        entry.write(LIST_ENTRY {
            Flink: first,
            Blink: self,
        });
        first.with(|links| links.Blink = entry);
        self.with(|links| links.Flink = entry);
    }

    /// Takes this entry out of its list (RemoveEntryList).
    pub fn list_remove(self) {
        let LIST_ENTRY {
            Flink: next,
            Blink: previous,
        } = self.read();
        previous.with(|links| links.Flink = next);
        next.with(|links| links.Blink = previous);
    }

    /// Takes out the first entry; `None` when the list is empty (RemoveHeadList).
    #[must_use]
    pub fn list_pop(self) -> Option<Self> {
        let first = self.read().Flink;
        if first == self {
            return None;
        }
        first.list_remove();
        Some(first)
    }
}
