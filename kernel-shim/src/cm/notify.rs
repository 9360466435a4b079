//! ZwNotifyChangeKey: events that a change of a key sets.

use alloc::vec::Vec;

use super::hive::KeyId;
use super::with;
use crate::ke::event;
use crate::nt::{IO_STATUS_BLOCK, KEVENT, NtStatus};
use crate::ob;
use crate::raw::{Global, Ptr, Word};

/// REG_NOTIFY_CHANGE_NAME: a subkey came or went.
pub const NAME: u32 = 1;
/// REG_NOTIFY_CHANGE_LAST_SET: a value changed.
pub const LAST_SET: u32 = 4;
/// REG_LEGAL_CHANGE_FILTER.
pub const LEGAL: u32 = 0x1000_000F;
/// STATUS_NOTIFY_CLEANUP.
const NOTIFY_CLEANUP: u32 = 0x0000_010B;

/// Somebody waits for a change.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// The key object it was asked through.
    pub object: u64,
    /// The key.
    pub key: KeyId,
    /// What kinds of change.
    pub filter: u32,
    /// Whether changes below the key count.
    pub is_tree: bool,
    /// The event, with a reference; null: none.
    pub event: Ptr<KEVENT>,
    /// Where the status goes.
    pub block: Ptr<IO_STATUS_BLOCK>,
}

static WATCHES: Global<Vec<Watch>> = Global::new("registry watches", Vec::new());

pub(super) fn initialize() {
    WATCHES.with(Vec::clear);
}

/// Remembers a watch; it is over with the first change.
pub fn add(watch: Watch) {
    WATCHES.with(|watches| watches.push(watch));
}

fn finish(watch: &Watch, status: u32) {
    watch.block.write(IO_STATUS_BLOCK {
        Status: Word::from(status),
        Information: 0,
    });
    if !watch.event.is_null() {
        event::set_state(watch.event, 1);
        ob::dereference(watch.event.addr());
    }
}

fn take(mut is_over: impl FnMut(&Watch) -> bool) -> Vec<Watch> {
    WATCHES.with(|watches| {
        let mut over = Vec::new();
        watches.retain(|watch| {
            let ends = is_over(watch);
            if ends {
                over.push(*watch);
            }
            !ends
        });
        over
    })
}

/// A key changed.
pub fn changed(key: KeyId, kind: u32) {
    let over = with(|hive| {
        take(|watch| {
            watch.filter & kind != 0
                && (watch.key == key || watch.is_tree && hive.is_below(key, watch.key))
        })
    });
    for watch in over {
        finish(&watch, NtStatus::NOTIFY_ENUM_DIR.0);
    }
}

/// A key was made: its parent changed.
pub fn changed_parent_of(key: KeyId, kind: u32) {
    if let Ok(parent) = with(|hive| hive.key(key).map(|key| key.parent)) {
        changed(parent, kind);
    }
}

/// A key object is gone, and with it who waited through it.
pub fn forget(object: u64) {
    for watch in take(|watch| watch.object == object) {
        finish(&watch, NOTIFY_CLEANUP);
    }
}
